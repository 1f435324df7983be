package relay

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"stsrelay/delivery"
)

// logFates writes one line for each recipient of an attempt. The fields are
// fixed; the message is the line that Postfix would write.
func (e *Engine) logFates(it *item, fates []fate, now time.Time) {
	for _, f := range fates {
		ev := e.o.Log.Info()
		if !ev.Enabled() {
			return
		}
		o := f.outcome
		delay, delays := it.delays(o, now)
		relay, dsn, reply := relayName(o, f.err), f.dsn(), f.reply()
		ev.Str("queue_id", string(it.ID)).Str("from", it.From.String()).Str("to", f.Address.String()).
			Str("relay", relay).Float64("delay", delay).Str("delays", delays).Str("dsn", dsn).
			Str("status", string(f.status)).Str("reply", reply).Str("tls", o.TLS).Str("policy", o.Policy).
			Int("attempt", it.Attempts+1)
		if it.Options.Upstream != "" {
			ev.Str("upstream_id", it.Options.Upstream)
		}
		if f.err != nil {
			ev.Str("reason", string(f.err.Reason))
		}
		if f.expired {
			ev.Bool("expired", true)
		}
		ev.Msgf("%s: to=%s, relay=%s, delay=%s, delays=%s, dsn=%s, status=%s (%s)",
			it.ID, f.Address.Path(), relay, seconds(time.Duration(delay*float64(time.Second))), delays, dsn, f.status, reply)
		if o.MayDup {
			e.o.Log.Warn().Str("queue_id", string(it.ID)).Str("to", f.Address.String()).Str("relay", relay).
				Msg("possible duplicate: the connection was lost after the whole message had been sent")
		}
	}
}

// logParked says why new mail is not tried.
func (e *Engine) logParked(it *item, fates []fate, f *failure, now time.Time) {
	for _, r := range fates {
		e.o.Log.Info().Str("queue_id", string(it.ID)).Str("from", it.From.String()).Str("to", r.Address.String()).
			Str("relay", "none").Str("dsn", r.dsn()).Str("status", string(deferred)).Str("reason", string(f.err.Reason)).
			Int("attempt", 0).Msgf("%s: to=%s, relay=none, dsn=%s, status=deferred (delivery suspended for %s: %s)",
			it.ID, r.Address.Path(), r.dsn(), f.until.Sub(now).Round(time.Second), r.reply())
	}
}

// delays are Postfix's delay and delays=a/b/c/d, in seconds: in the queue,
// waiting here, setting up the connection, transmitting.
func (it *item) delays(o delivery.Outcome, now time.Time) (delay float64, delays string) {
	began := it.handed
	if began.IsZero() {
		began = now
	}
	wait := max(0, began.Sub(it.claimed))
	delays = seconds(it.Age) + "/" + seconds(wait) + "/" + seconds(o.Delay.Setup) + "/" + seconds(o.Delay.Transmit)
	return it.age(now).Round(time.Millisecond).Seconds(), delays
}

// seconds writes d with as many digits as mean something: "0", "0.013", "1.2",
// "47", "3470".
func seconds(d time.Duration) string {
	s := max(0, d.Seconds())
	switch {
	case s < 0.0005:
		return "0"
	case s >= 9.95:
		return strconv.FormatFloat(s, 'f', 0, 64)
	}
	return strconv.FormatFloat(s, 'g', 2, 64)
}

// dsn is the enhanced status code of the outcome.
func (f fate) dsn() string {
	if f.err != nil {
		return statusText(f.err.Enhanced)
	}
	if fields := strings.Fields(f.outcome.Reply); len(fields) > 1 && isStatus(fields[1]) && fields[1][0] == '2' {
		return fields[1]
	}
	return "2.0.0"
}

// reply is what is said of the outcome: the server's words, or our own.
func (f fate) reply() string {
	switch {
	case f.err == nil:
		return f.outcome.Reply
	case f.err.Remote:
		return strings.TrimSpace(strconv.Itoa(f.err.Code) + " " + cleanLine(f.err.Text))
	}
	return cleanLine(f.err.Text)
}

func statusText(e [3]int) string { return fmt.Sprintf("%d.%d.%d", e[0], e[1], e[2]) }

// isStatus reports whether s is an enhanced status code (RFC 3463, Section 2).
func isStatus(s string) bool {
	class, rest, ok := strings.Cut(s, ".")
	subject, detail, ok2 := strings.Cut(rest, ".")
	return ok && ok2 && (class == "2" || class == "4" || class == "5") && isStatusNumber(subject) && isStatusNumber(detail)
}

func isStatusNumber(s string) bool {
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return false
		}
	}
	return len(s) >= 1 && len(s) <= 3 && (s == "0" || s[0] != '0')
}
