package relay

import (
	"bytes"
	"context"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"stsrelay/delivery"
	"stsrelay/internal/addr"
)

// wantsFailure and wantsDelay say whether a recipient's NOTIFY allows a DSN
// (RFC 3461, Sections 5.2.5 and 5.2.6): without NOTIFY it does (ledger
// DSN-4.1-02). Of a success the sender hears only on request (Section 5.2.2).
func wantsFailure(r Recipient) bool { return r.Notify == "" || notifyHas(r, "FAILURE") }
func wantsDelay(r Recipient) bool   { return r.Notify == "" || notifyHas(r, "DELAY") }
func wantsSuccess(r Recipient) bool { return notifyHas(r, "SUCCESS") }

func notifyHas(r Recipient, what string) bool {
	for word := range strings.SplitSeq(r.Notify, ",") {
		if strings.EqualFold(strings.TrimSpace(word), what) {
			return true
		}
	}
	return false
}

// notices remembers, for a day, whom we told of what, so that nobody is
// flooded. It forgets with the process.
type notices struct {
	mu   sync.Mutex
	told map[string]time.Time
}

const maxTold = 100_000

// first reports whether nobody was told under this key within the last day, and
// notes that somebody is now. When it knows too many it says no.
func (n *notices) first(key string, now time.Time) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if at, ok := n.told[key]; ok && now.Sub(at) < 24*time.Hour {
		return false
	}
	if len(n.told) >= maxTold {
		for k, at := range n.told {
			if now.Sub(at) >= 24*time.Hour {
				delete(n.told, k)
			}
		}
	}
	if len(n.told) >= maxTold {
		return false
	}
	if n.told == nil {
		n.told = make(map[string]time.Time)
	}
	n.told[key] = now
	return true
}

// warner returns what decides for the recipients of one entry whether the
// sender hears of the delay now: once for each recipient, and for refusals by a
// policy at most once a day for each sender and destination.
func (e *Engine) warner(now time.Time) func(*item, fate) bool {
	asked, allowed := false, false
	return func(it *item, f fate) bool {
		if f.Warned || it.From.IsNull() || it.Options.Report || it.Options.Notice ||
			!wantsDelay(f.Recipient) || !e.plan.late(it.age(now)) {
			return false
		}
		if !byRule(f.err.Reason) {
			return true
		}
		if !asked {
			asked, allowed = true, e.limits.first("late\x00"+it.From.String()+"\x00"+string(it.Destination), now)
		}
		return allowed
	}
}

// failureNotices returns the DSN for recipients that were given up: one for all
// of them (RFC 5321, Section 4.4; ledger SMTP-4.4-06), none for those whose
// sender wants none. For a null sender there is none ever (RFC 5321, Section
// 6.1): the postmaster may hear of it.
func (e *Engine) failureNotices(ctx context.Context, it *item, failed []fate, now time.Time) []Composed {
	if len(failed) == 0 || it.Options.Report {
		return nil
	}
	if it.From.IsNull() {
		return e.tellPostmaster(ctx, it, failed, now)
	}
	return e.notify(ctx, it, dsnFailed, it.From, filter(failed, wantsFailure), now)
}

// delayNotices returns the DSN for recipients that wait for long.
func (e *Engine) delayNotices(ctx context.Context, it *item, late []fate, now time.Time) []Composed {
	return e.notify(ctx, it, dsnDelayed, it.From, late, now)
}

// successNotices returns the DSN for recipients that were handed to a server
// which does not offer DSN, for those whose sender asked to hear of success
// (RFC 3461, Section 5.2.2; ledger DSN-5.2.2-02).
func (e *Engine) successNotices(ctx context.Context, it *item, taken []fate, now time.Time) []Composed {
	if it.From.IsNull() || it.Options.Report {
		return nil
	}
	return e.notify(ctx, it, dsnRelayed, it.From, filter(taken, wantsSuccess), now)
}

func filter(fates []fate, keep func(Recipient) bool) (out []fate) {
	for _, f := range fates {
		if keep(f.Recipient) {
			out = append(out, f)
		}
	}
	return out
}

// tellPostmaster says that mail with a null sender, a bounce most likely, was
// given up: at most once a day for a destination. A domain that takes no mail
// wants no bounces (RFC 7505, Section 4.1; ledger NMX-4-01).
func (e *Engine) tellPostmaster(ctx context.Context, it *item, failed []fate, now time.Time) []Composed {
	dropped := e.o.Log.Warn().Str("queue_id", string(it.ID)).Str("to", failed[0].Address.String()).Str("reason", string(failed[0].err.Reason))
	reason := failed[0].err.Reason
	if e.postmaster.IsNull() || it.To[0].Address.String() == e.postmaster.String() || reason == delivery.NullMX ||
		!e.limits.first("postmaster\x00"+string(it.Destination), now) {
		dropped.Msg("a message without a sender could not be delivered and is dropped")
		return nil
	}
	dropped.Msg("a message without a sender could not be delivered and is dropped: the postmaster is told")
	return e.notify(ctx, it, dsnPostmaster, e.postmaster, failed, now)
}

// maxAbout bounds the recipients of one DSN, and with them its size.
const maxAbout = 200

// notify composes a DSN, several if there are very many recipients. If one
// cannot be made the message is not held up: the log tells.
func (e *Engine) notify(ctx context.Context, it *item, kind dsnKind, to addr.Address, about []fate, now time.Time) (all []Composed) {
	if len(about) == 0 {
		return nil
	}
	d := dsn{
		Kind: kind, Now: now, Hostname: e.o.Hostname, Postmaster: e.postmaster, To: to, Entry: it.Entry,
		Age: it.age(now), Until: now.Add(e.plan.lifetime(it.Options.Expire) - it.age(now)), Via: e.o.BounceVia,
	}
	d.Header, d.Content = e.original(ctx, it, kind)
	for some := range slices.Chunk(about, maxAbout) {
		d.ID, d.About = NewID(), some
		c, err := d.compose()
		if err != nil {
			e.o.Log.Error().Err(err).Str("queue_id", string(it.ID)).Msg("cannot write a notice to the sender")
			continue
		}
		e.o.Log.Info().Str("queue_id", string(it.ID)).Str("notice", string(c.Message.ID)).Str("to", to.String()).
			Msgf("%s: sender notification: %s", it.ID, c.Message.ID)
		all = append(all, c)
	}
	return all
}

// Bounds of what is returned with a DSN, in octets.
const (
	maxReturned = 64 << 10
	maxHeader   = 64 << 10
)

// original reads what is to be returned of a message: its header, and its whole
// content when the sender asked for it and it may be returned (RFC 3461,
// Section 6.2; RFC 8689, Section 5). What cannot be read is left out.
func (e *Engine) original(ctx context.Context, it *item, kind dsnKind) (header, content []byte) {
	body, err := e.o.Store.Body(ctx, it.Message)
	if err != nil {
		return nil, nil
	}
	defer body.Close()
	all, err := io.ReadAll(io.LimitReader(body, maxHeader+1))
	if err != nil {
		return nil, nil
	}
	o := it.Options
	if kind == dsnFailed && strings.EqualFold(o.Return, "FULL") && !asksTLS(o) && len(all) <= maxReturned && is7bit(all) {
		content = all
	}
	return headerOf(all), content
}

// headerOf cuts the header off the beginning of a message, without the empty
// line, and at the end of a line if it is cut short.
func headerOf(b []byte) []byte {
	if bytes.HasPrefix(b, []byte("\r\n")) {
		return nil
	}
	if i := bytes.Index(b, []byte("\r\n\r\n")); i >= 0 {
		return b[:i+2]
	}
	return b[:bytes.LastIndexByte(b, '\n')+1]
}

// is7bit reports whether content may be sent to any server as it is: no octets
// above 0x7F, no NUL, no line over 998 octets (RFC 2045, Section 2.7).
func is7bit(b []byte) bool {
	line := 0
	for i, c := range b {
		switch {
		case c == 0, c > 0x7f:
			return false
		case c == '\r' && (i+1 == len(b) || b[i+1] != '\n'), c == '\n' && (i == 0 || b[i-1] != '\r'):
			return false
		case c == '\n':
			line = 0
		default:
			if line++; line > 999 { // CR counted
				return false
			}
		}
	}
	return true
}
