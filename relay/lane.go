package relay

import (
	"context"
	"io"
	"sync/atomic"
	"time"

	"stsrelay/delivery"
)

// A lane is one Deliver call.
type lane struct {
	*line
	ctx     context.Context
	alone   bool  // it carries the canary only, and keeps what became of it
	canary  *item // the one it has
	drew    bool
	reached atomic.Bool
	kept    []outcome // not settled before it is known what failed
	err     error     // of Deliver
}

// An outcome is what became of an item.
type outcome struct {
	*item
	all []delivery.Outcome
}

var _ delivery.Source = (*lane)(nil)

// Next hands out the next message.
func (n *lane) Next(ctx context.Context) (delivery.Job, bool) {
	l := n.line
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(n.kept) > 0 || n.alone && n.drew || !l.open(ctx) {
		return delivery.Job{}, false // what is kept is to be judged first
	}
	if len(l.queue) == 0 {
		l.fill(ctx)
	}
	it := l.pick(n)
	if it == nil {
		return delivery.Job{}, false
	}
	n.drew = true
	l.drawn++
	return l.job(ctx, it), true
}

func (l *line) job(ctx context.Context, it *item) delivery.Job {
	it.handed = time.Now()
	it.final = final(it.age(it.handed), l.e.plan.lifetime(it.Options.Expire))
	covered := l.failure.covers(it.Options)
	it.proof = it.final || covered && byRule(l.failure.err.Reason)
	j := delivery.Job{
		ID: string(it.ID), From: it.From, Demand: it.Options.Demand, Final: it.proof, Size: it.Size,
		Body8: it.Options.EightBit, UTF8: it.Options.UTF8 && (it.Options.Head8 || !it.Options.Single), Head8: it.Options.Head8, Quiet: it.Options.Report,
		EnvID: it.Options.Envelope, Ret: it.Options.Return, Tag: it,
	}
	for _, r := range it.To {
		j.To = append(j.To, delivery.Recipient{Address: r.Address, Notify: r.Notify, Original: r.Original})
	}
	j.Open = func() (io.ReadCloser, error) { return l.e.o.Store.Body(ctx, it.Message) }
	return j
}

// Done hears what became of a message. What may be the destination's failure is
// kept until Deliver has said so.
func (n *lane) Done(j delivery.Job, a delivery.Attempt) {
	it := j.Tag.(*item)
	it.sessions = append(it.sessions, a.Sessions...)
	o := outcome{it, a.Outcomes}
	switch {
	case n.ctx.Err() != nil && o.interrupted():
		n.e.unclaim(n.ctx, it)
		return
	case n.alone || o.fault() != nil:
		n.keep(o)
		return
	case o.reached():
		n.reached.Store(true)
		n.works(weigh(it.Options.Demand))
	}
	n.over(it)
	n.e.conclude(n.ctx, o, time.Time{})
}

// keep puts an outcome aside until Deliver has returned.
func (n *lane) keep(o outcome) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.kept = append(n.kept, o)
}

// over lets another canary out, if it was this one.
func (n *lane) over(it *item) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.canary == it {
		n.canary, n.line.canaryOut = nil, false
	}
}

// interrupted reports whether nothing but our own stop prevented delivery.
func (o outcome) interrupted() bool {
	for _, r := range o.all {
		if r.Err == nil || r.Err.Reason != delivery.LocalError || r.MayDup {
			return false
		}
	}
	return true
}

// reached reports whether a server spoke to the message.
func (o outcome) reached() bool {
	for _, r := range o.all {
		if r.Err == nil || r.Err.Remote && r.Err.Stage >= delivery.StageMail && r.Err.Code != 421 {
			return true
		}
	}
	return false
}

// fault returns what makes the destination unusable, if nothing else happened
// to any recipient.
func (o outcome) fault() *delivery.Error {
	for _, r := range o.all {
		if r.Err == nil || r.MayDup || r.Err.Reason == delivery.LocalError || !r.Err.Destination() {
			return nil
		}
	}
	if len(o.all) == 0 {
		return nil
	}
	return o.all[0].Err
}
