package relay

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"stsrelay/delivery"
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

	mu        sync.Mutex
	queue     []*item // claimed, not handed out
	claimed   int     // in all
	drawn     int     // handed out in all
	dry       bool    // the store had nothing more that is due
	faulty    bool    // the store had an error
	failure   *failure
	canaryOut bool // one is under way: what the failure covers waits for it
	release   bool // behind a success of the canary everything is due
	proven    bool // the destination took a message, or said why not
	most      int  // lanes
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
		asked := time.Now() // before, so that nothing seems younger than it is
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
		for i := range entries {
			l.admit(ctx, &item{Entry: entries[i], claimed: asked})
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
		if !l.canaryOut && (best < 0 || weigh(it.Options.Demand) < weigh(l.queue[best].Options.Demand)) {
			best = i
		}
	}
	if best < 0 {
		return nil
	}
	it := l.queue[best]
	l.queue = slices.Delete(l.queue, best, best+1)
	if l.failure.covers(it.Options) {
		l.canaryOut, n.canary = true, it
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
