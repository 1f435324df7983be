package relay

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"stsrelay/delivery"
	"stsrelay/internal/addr"
	"stsrelay/tlsrpt"
)

// A line is one visit of a destination: what was claimed of its mail and is
// handed to lanes. Lock order: line.mu before Engine.mu.
type line struct {
	e       *Engine
	host    *host
	to      delivery.Destination
	began   time.Time
	running atomic.Int32  // lanes
	more    chan struct{} // there may be new mail

	mu      sync.Mutex
	queue   []*item // claimed, not handed out
	claimed int     // in all
	drawn   int     // handed out in all
	dry     bool    // the store had nothing more that is due
	faulty  bool    // the store had an error
	failure *failure
	canary  bool // one is under way: what the failure covers waits for it
	release bool // behind a success of the canary everything is due
	proven  bool // the destination took a message, or said why not
	most    int  // lanes
}

// An item is a claimed entry.
type item struct {
	Entry
	claimed  time.Time
	handed   time.Time        // zero until then
	final    bool             // it is given up when it fails this time
	proof    bool             // a newer policy is looked for
	sessions []tlsrpt.Session // of its attempts in this visit
}

// age is the message's own.
func (it *item) age(now time.Time) time.Duration { return it.Age + now.Sub(it.claimed) }

// claimBatch is how many entries are claimed at once.
const claimBatch = 100

func newLine(e *Engine, h *host) *line {
	return &line{e: e, host: h, more: make(chan struct{}, 1)}
}

// nudge says that there may be new mail.
func (l *line) nudge() {
	select {
	case l.more <- struct{}{}:
	default:
	}
}

// visit tries what is due for a destination until nothing is left.
func (e *Engine) visit(ctx context.Context, l *line, class int) {
	defer e.finish(ctx, l, class)
	l.begin()
	for l.load(ctx) {
		if !l.run(ctx) {
			l.faulty = true // nothing was even tried
			break
		}
	}
	l.giveBack(ctx)
}

func (l *line) begin() {
	l.began, l.most = time.Now(), l.e.o.Lanes
	l.to = l.e.destination(l.host.dest)
	e := l.e
	e.mu.Lock()
	defer e.mu.Unlock()
	l.host.woken = false
	l.failure = l.host.failure
	if l.host.forced {
		l.host.forced = false
		if f := l.failure; f != nil {
			now := *f
			now.until, now.count = l.began, 0
			l.failure, l.host.failure = &now, &now
			l.release = true
		}
	}
}

// load makes sure that there is something to hand out.
func (l *line) load(ctx context.Context) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) == 0 {
		first := l.claimed == 0
		l.fill(ctx)
		if l.claimed > 0 && first {
			l.release = false // an operator has made them due
		}
		if l.release && len(l.queue) == 0 && l.makeDue(ctx, true) {
			l.dry = false
			l.fill(ctx)
		}
	}
	return len(l.queue) > 0 && l.open(ctx)
}

// open reports whether attempts may begin: none whose outcome could not be
// written down.
func (l *line) open(ctx context.Context) bool {
	return ctx.Err() == nil && !l.e.leaving() && !l.e.settler.failing()
}

// quantum is for how long a destination is visited while others wait.
const quantum = 10 * time.Second

// fill claims entries until one is to be tried or no more is due.
func (l *line) fill(ctx context.Context) {
	for len(l.queue) == 0 && l.open(ctx) {
		if l.dry && !l.e.takeWoken(l.host) {
			return
		}
		if l.claimed > 0 && time.Since(l.began) > quantum && l.e.crowded() {
			return
		}
		l.e.settler.waitForRoom(ctx)
		entries, err := l.e.o.Store.Claim(ctx, l.host.dest, claimBatch)
		if err != nil {
			l.faulty = true
			if l.open(ctx) {
				l.e.o.Log.Error().Err(err).Str("destination", string(l.host.dest)).Msg("cannot claim mail: trying again")
			}
			return
		}
		l.claimed += len(entries)
		l.dry = len(entries) < claimBatch
		now := time.Now()
		for i := range entries {
			l.admit(ctx, &item{Entry: entries[i], claimed: now})
		}
	}
}

// takeWoken asks once whether there may be new mail.
func (e *Engine) takeWoken(h *host) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	was := h.woken
	h.woken = false
	return was
}

// admit decides what becomes of a claimed entry while its destination fails: it
// waits until the canary has been tried, or shares the outcome of the one that
// has. What is to be given up is given up only when a newer policy was looked
// for (ledger STS-5-04), in an attempt that it shares, or in its own. The caller
// holds mu.
func (l *line) admit(ctx context.Context, it *item) {
	f, now := l.failure, time.Now()
	if it.Bounce {
		l.e.bounce(ctx, it)
		return
	}
	shared := f.covers(it.Options) && !it.claimed.Add(it.Due).After(f.at)
	last := final(it.age(now), l.e.plan.lifetime(it.Options.Expire))
	switch {
	case !f.covers(it.Options), f.over(now) && !shared:
		l.queue = append(l.queue, it)
	case f.permanent():
		l.e.share(ctx, it, f)
	case last && !(f.proof && now.Sub(f.at) < proofLife):
		l.queue = append(l.queue, it)
	case last, shared:
		it.final = last
		l.e.share(ctx, it, f)
	default:
		l.e.park(it, f)
	}
}

// pick takes the next item for n out of the queue. Of those that would fail
// like the last ones did only one is out at a time, the canary: one that asks
// as little as it can, so that its success speaks for many.
func (l *line) pick(n *lane) *item {
	l.dropStale(n.ctx)
	best := -1
	for i, it := range l.queue {
		if !l.failure.covers(it.Options) {
			best = i
			break
		}
		if !l.canary && (best < 0 || weigh(it.Options.Demand) < weigh(l.queue[best].Options.Demand)) {
			best = i
		}
	}
	if best < 0 {
		return nil
	}
	it := l.queue[best]
	l.queue = slices.Delete(l.queue, best, best+1)
	if l.failure.covers(it.Options) {
		l.canary, n.canary = true, it
		n.alone = l.release
	}
	return it
}

// maxWait is how long a claimed message waits for a lane, far less than leases
// last.
const maxWait = time.Hour

// dropStale gives back what waits for too long; the queue is in order of claim.
func (l *line) dropStale(ctx context.Context) {
	n := 0
	for n < len(l.queue) && time.Since(l.queue[n].claimed) > maxWait {
		n++
	}
	if n > 0 {
		l.e.unclaim(ctx, l.queue[:n]...)
		l.queue = l.queue[n:]
		l.dry = false
	}
}

// A lane is one Deliver call.
type lane struct {
	*line
	ctx     context.Context
	alone   bool  // it carries the canary only, and keeps what became of it
	canary  *item // the one it has
	drew    bool
	reached bool
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
		Body8: it.Options.EightBit, UTF8: it.Options.UTF8, Quiet: it.Options.Report, Tag: it,
	}
	for _, r := range it.To {
		j.To = append(j.To, delivery.Recipient{Address: r.Address})
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
		n.reached = true
		n.recover(weigh(it.Options.Demand))
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
		n.canary, n.line.canary = nil, false
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

// recover notes that the destination works for messages of this weight.
func (l *line) recover(w weight) {
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

// ended draws the consequences of a Deliver call that is over.
func (l *line) ended(ctx context.Context, n *lane) {
	err := n.verdict(ctx)
	l.mu.Lock()
	if n.canary != nil {
		l.canary = false
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
		if o.item == n.canary || !n.reached || weigh(o.Options.Demand) == heavy {
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
			l.recover(weigh(o.Options.Demand))
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
	l.e.o.Log.Warn().Str("destination", string(l.host.dest)).Str("reason", string(err.Reason)).Int("failures", f.count).
		Stringer("again_in", time.Until(f.until).Round(time.Second)).Str("error", err.Error()).Msg("destination fails and backs off")
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

// makeDue makes one entry of the destination due, or all of them.
func (l *line) makeDue(ctx context.Context, one bool) bool {
	f := Filter{Destination: l.host.dest}
	if one {
		list, _, err := l.e.o.Store.List(ctx, Filter{Destination: l.host.dest, State: StateDeferred}, "", 1)
		if err != nil || len(list) == 0 {
			return false
		}
		f = Filter{IDs: []ID{list[0].ID}}
	}
	_, err := l.e.o.Store.Edit(ctx, f, Action{Verb: VerbRetry, Reason: "its destination is tried again"})
	if err != nil {
		l.faulty = true
		l.e.o.Log.Error().Err(err).Str("destination", string(l.host.dest)).Msg("cannot make mail due")
	}
	return err == nil
}

// giveBack ends the claims of what was not tried.
func (l *line) giveBack(ctx context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) > 0 {
		l.e.unclaim(ctx, l.queue...)
		l.queue = nil
	}
}

func (e *Engine) unclaim(ctx context.Context, items ...*item) {
	var entries []Entry
	for _, it := range items {
		entries = append(entries, it.Entry)
	}
	if err := e.o.Store.Unclaim(context.WithoutCancel(ctx), entries); err != nil {
		e.o.Log.Error().Err(err).Int("messages", len(entries)).Msg("cannot give mail back: it waits until the lease ends")
	}
}
