package relay

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"stsrelay/delivery"
	"stsrelay/internal/addr"
)

// counts are of recipients, since the start.
type counts struct{ sent, deferred, bounced, mayDup atomic.Uint64 }

// via marks the destination of our own DSNs when there is a fixed way for them.
// A recipient's address never has it, so that the operator's leave to use that
// address is nobody else's.
const via = "via:"

// destination returns where mail of d goes. What cannot be read goes nowhere.
func (e *Engine) destination(d Destination) delivery.Destination {
	text, fixed := strings.CutPrefix(string(d), via)
	if fixed && !e.o.BounceVia.IsZero() {
		return delivery.Destination{NextHop: e.o.BounceVia, Route: true}
	}
	hop, err := addr.ParseNextHop(text)
	if err != nil {
		e.o.Log.Error().Err(err).Msg("the queue has a destination that cannot be read")
	}
	to := delivery.Destination{NextHop: hop, Route: fixed}
	if domain, ok := hop.PolicyDomain(); ok && e.o.Override != nil {
		to.Override = e.o.Override(domain, time.Now())
	}
	return to
}

// A fate is what became of one recipient.
type fate struct {
	Recipient
	outcome delivery.Outcome
	err     *delivery.Error // what it ends with; nil: delivered
	status  fateStatus
	expired bool // given up after temporary failures
}

type fateStatus string

const (
	sent     fateStatus = "sent"
	deferred fateStatus = "deferred"
	bounced  fateStatus = "bounced"
)

// conclude settles an attempt: recipients that were delivered or given up are
// removed, the others wait until the given time, or for their own when it is
// zero (RFC 5321, Section 4.2.5; ledger SMTP-4.2.5-01).
func (e *Engine) conclude(ctx context.Context, o outcome, until time.Time) {
	now := time.Now()
	fates := make([]fate, len(o.To))
	for i, r := range o.To {
		fates[i] = e.decide(o.item, r, o.at(i))
	}
	e.logFates(o.item, fates, now)
	e.outage.heard(e.o.Log, o.item, o.all, now)
	r := Result{ID: o.ID, Lease: o.Lease, Tried: true, Note: noteOf(fates, now)}
	if !o.Options.Report && !e.o.NoTallies {
		r.Sessions = e.outage.sessions(o.sessions)
	}
	life := e.plan.lifetime(o.Options.Expire)
	r.Delay = e.plan.delay(o.Attempts+1, rand.Float64())
	if !until.IsZero() {
		r.Delay = max(0, until.Sub(now))
	}
	if !o.final { // else it is held over its time
		r.Delay = e.plan.within(r.Delay, o.age(now), life)
	}
	rescue := r
	warn := e.warner(now)
	var failed, late, taken []fate
	for _, f := range fates {
		if f.status == sent {
			if !f.outcome.DSN { // else the next hop tells the sender
				taken = append(taken, f)
			}
			continue
		}
		f.Last = note(f, now)
		rescue.Left = append(rescue.Left, f.Recipient)
		if f.status == bounced {
			failed = append(failed, f)
			continue
		}
		if warn(o.item, f) {
			late = append(late, f)
			f.Warned = true
		}
		r.Left = append(r.Left, f.Recipient)
	}
	r.Notices = slices.Concat(e.failureNotices(ctx, o.item, failed, now), e.delayNotices(ctx, o.item, late, now), e.successNotices(ctx, o.item, taken, now))
	x := settlement{Result: r, item: o.item}
	if len(r.Notices) > 0 {
		x.rescue = &rescue
	}
	e.settler.put(x)
}

// at is what became of recipient i. A Deliverer that did not say counts as our
// own fault.
func (o outcome) at(i int) delivery.Outcome {
	if i < len(o.all) {
		return o.all[i]
	}
	return delivery.Outcome{Err: delivery.NewError(delivery.StagePlan, delivery.LocalError, addr.Host{}, "the attempt had no outcome")}
}

// decide says what one recipient's outcome means (ledger SMTP-6.2-01: none ends
// otherwise). A temporary failure of the last attempt is final, with the code
// it then has (ledger STS-5-05, DSNF-2.3.4-02), unless it is our own outage.
func (e *Engine) decide(it *item, r Recipient, o delivery.Outcome) fate {
	f := fate{Recipient: r, outcome: o, err: o.Err}
	switch {
	case o.Err == nil:
		f.status = sent
		e.counts.sent.Add(1)
	case o.Err.Permanent, it.final && !e.heldOver(it, o.Err.Reason):
		f.status, f.expired = bounced, !o.Err.Permanent
		if f.expired {
			f.err = o.Err.AtExpiry()
		}
		e.counts.bounced.Add(1)
	default:
		f.status = deferred
		e.counts.deferred.Add(1)
	}
	if o.MayDup {
		e.counts.mayDup.Add(1)
	}
	return f
}

// heldOver reports whether a message is kept beyond its lifetime, since what
// fails may be our own fault: for as long again at most.
func (e *Engine) heldOver(it *item, r delivery.Reason) bool {
	return it.age(time.Now()) < 2*e.plan.lifetime(it.Options.Expire) && e.outage.holds(r)
}

// share settles an entry with the outcome that its destination had for others,
// without an attempt of its own (ledger SMTP-4.5.4.1-04).
func (e *Engine) share(ctx context.Context, it *item, f *failure) {
	o := outcome{item: it}
	for range it.To {
		o.all = append(o.all, f.outcome)
	}
	e.conclude(ctx, o, f.until)
}

// park makes an entry wait for the canary. It counts as no attempt.
func (e *Engine) park(it *item, f *failure) {
	now := time.Now()
	life := e.plan.lifetime(it.Options.Expire)
	r := Result{ID: it.ID, Lease: it.Lease, Delay: e.plan.within(f.until.Sub(now), it.age(now), life)}
	fates := make([]fate, len(it.To))
	for i, to := range it.To {
		fates[i] = fate{Recipient: to, outcome: f.outcome, err: f.err, status: deferred}
		if to.Last == nil {
			to.Last = note(fates[i], f.at)
		}
		r.Left = append(r.Left, to)
	}
	if it.Attempts == 0 {
		e.logParked(it, fates, f, now)
	}
	e.settler.put(settlement{Result: r, item: it})
}

// bounce settles an entry that an operator ended.
func (e *Engine) bounce(ctx context.Context, it *item) {
	text := "returned by the operator"
	if n := len(it.History); n > 0 && it.History[n-1].Reason == delivery.OperatorBounce && it.History[n-1].Text != "" {
		text = it.History[n-1].Text
	}
	err := delivery.NewError(delivery.StagePlan, delivery.OperatorBounce, addr.Host{}, cleanLine(text))
	e.share(ctx, it, &failure{err: err, outcome: delivery.Outcome{Err: err}})
}

// note keeps a recipient's outcome for people; nil if it was delivered.
func note(f fate, now time.Time) *Note {
	if f.err == nil {
		return nil
	}
	n := &Note{At: now, Reason: f.err.Reason, Permanent: f.err.Permanent, Code: f.err.Code, Enhanced: f.err.Enhanced,
		Remote: f.err.Remote, Text: f.err.Text, RFC: f.err.RFC, Policy: f.outcome.Policy}
	if !f.err.MX.IsZero() || f.err.Addr != "" {
		n.MX = relayName(f.outcome, f.err)
	}
	return n
}

// noteOf is the entry's: of the first recipient that was not delivered.
func noteOf(fates []fate, now time.Time) *Note {
	for _, f := range fates {
		if f.err != nil {
			return note(f, now)
		}
	}
	return nil
}

// relayName is a server as logs and notes show it, like Postfix:
// "mx1.example.com[192.0.2.1]:25", "none" if there was none.
func relayName(o delivery.Outcome, err *delivery.Error) string {
	host, at := o.MX.String(), ""
	if o.Addr.IsValid() {
		at = fmt.Sprintf("[%s]:%d", o.Addr.Addr(), o.Addr.Port())
	}
	if err != nil && host == "" {
		host = err.MX.String()
	}
	if host+at == "" {
		return "none"
	}
	return host + at
}
