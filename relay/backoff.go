package relay

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"stsrelay/delivery"
	"stsrelay/internal/addr"
	"stsrelay/tlsrpt"
)

// ended draws the consequences of a Deliver call that is over.
func (l *line) ended(ctx context.Context, n *lane) {
	err := n.verdict(ctx)
	l.mu.Lock()
	if n.canary != nil {
		l.canaryOut = false
	}
	arrived := n.alone && l.release
	if n.alone {
		l.release = false
	}
	if err == nil {
		l.mu.Unlock()
		l.conclude(ctx, n, arrived)
		return
	}
	defer l.mu.Unlock()
	if left := int(l.running.Load()); left > 0 && l.proven && n.canary == nil {
		// Other connections work, or will tell: the server may not like so many.
		l.most = left
		for _, o := range n.kept {
			l.queue = append(l.queue, o.item)
		}
		return
	}
	f := l.fail(err, n)
	for _, o := range n.kept {
		l.e.conclude(ctx, o, f.until)
	}
	waiting := l.queue
	l.queue = nil
	for _, it := range waiting {
		l.admit(ctx, it)
	}
}

// verdict returns why the destination cannot be used, nil if it can: Deliver
// says so for all messages, or those that ask more than others, of which it does
// not speak, met such a failure.
func (n *lane) verdict(ctx context.Context) *delivery.Error {
	var e *delivery.Error
	switch {
	case ctx.Err() != nil:
		return nil
	case errors.As(n.err, &e):
		return e
	case n.err != nil:
		return delivery.NewError(delivery.StagePlan, delivery.LocalError, addr.Host{}, tlsrpt.Clean(n.err.Error()))
	}
	for _, o := range n.kept {
		if o.item == n.canary || !n.reached.Load() || weigh(o.Options.Demand) == heavy {
			return o.fault()
		}
	}
	return nil
}

// conclude settles what a lane kept though the destination works. When the
// canary of a Retry arrived, everything is made due before its own outcome says
// otherwise.
func (l *line) conclude(ctx context.Context, n *lane, arrived bool) {
	for _, o := range n.kept {
		if arrived && o.reached() {
			l.works(weigh(o.Options.Demand))
			l.mu.Lock()
			l.makeDue(ctx, false)
			l.dry = false
			l.mu.Unlock()
		}
		l.e.conclude(ctx, o, time.Time{})
	}
}

// fail remembers that the destination cannot be used. The caller holds mu.
func (l *line) fail(err *delivery.Error, n *lane) *failure {
	now, old := time.Now(), l.failure
	f := &failure{err: err, outcome: delivery.Outcome{Err: err, MX: err.MX}, at: now, count: 1}
	demand := delivery.Default
	if o := n.cause(err); o != nil {
		demand, f.proof, f.outcome = o.Options.Demand, o.proof, o.all[0]
		f.outcome.Err, f.outcome.Delay = err, delivery.Delays{}
		if !l.proven && old == nil {
			f.count += o.failedBefore()
		}
	}
	f.weight = weighFailure(err.Reason, demand)
	goesOn := old != nil && !old.permanent() && weigh(demand) >= old.weight
	if goesOn && demand == delivery.Require { // it says nothing of the others
		f.weight = old.weight
	}
	switch {
	case err.Permanent:
		f.count, f.until = 0, now
	case goesOn && !old.over(now): // a message's last attempt, before the canary's time
		f.count, f.until = old.count, old.until
	default:
		if goesOn {
			f.count = old.count + 1
		}
		f.until = now.Add(l.e.plan.delay(f.count, rand.Float64()))
	}
	if watchable(err.Reason) {
		f.watch, _ = l.to.NextHop.PolicyDomain()
	}
	l.setFailure(f)
	l.proven = false
	ev := l.e.o.Log.Warn().Str("destination", string(l.host.dest)).Str("reason", string(err.Reason)).Str("error", err.Error())
	if f.permanent() {
		ev.Msg("destination takes no mail")
		return f
	}
	ev.Int("failures", f.count).Stringer("again_in", time.Until(f.until).Round(time.Second)).Msg("destination fails and backs off")
	return f
}

// cause is the message that met the error, else the one that asks least of
// those that met another; nil: none had an attempt.
func (n *lane) cause(err *delivery.Error) (least *outcome) {
	for i := range n.kept {
		o := &n.kept[i]
		if o.fault() == err {
			return o
		}
		if len(o.all) > 0 && (least == nil || weigh(o.Options.Demand) < weigh(least.Options.Demand)) {
			least = o
		}
	}
	return least
}

// failedBefore is how many attempts of the message failed by the destination's
// fault before we were started.
func (it *item) failedBefore() int {
	if last := it.To[0].Last; last != nil && !last.Remote && last.Reason != delivery.LocalError {
		return it.Attempts
	}
	return 0
}

// works notes that the destination works for messages of this weight.
func (l *line) works(w weight) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.proven = true
	if f := l.failure; f != nil && f.weight <= w {
		l.setFailure(nil)
		l.e.o.Log.Info().Str("destination", string(l.host.dest)).Int("failures", f.count).Msg("destination works again")
	}
}

// setFailure changes what is remembered of the destination. The caller holds mu.
func (l *line) setFailure(f *failure) {
	old := l.failure
	l.failure = f
	l.e.mu.Lock()
	l.host.failure = f
	l.e.mu.Unlock()
	if f == nil || old == nil || old.watch != f.watch {
		l.e.unwatch(old)
		l.e.watch(f)
	}
}
