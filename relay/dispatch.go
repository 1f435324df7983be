package relay

import (
	"context"
	"fmt"
	"time"
)

// dispatch visits hosts when their time has come. Those that failed before get
// at most half of the places, so that a crowd of dead hosts does not keep good
// ones waiting.
func (e *Engine) dispatch(ctx, work context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		if wait, any := e.start(work); any {
			timer.Reset(wait)
		}
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-e.kick:
		}
	}
}

// start starts what can be started and returns how long the next host takes.
func (e *Engine) start(work context.Context) (wait time.Duration, any bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for now := time.Now(); ; {
		h, w := e.agenda.due(now)
		if h == nil {
			wait, any = w, len(e.agenda) > 0
			break
		}
		h.next, h.state = time.Time{}, queued
		e.waiting[h.class()].push(h)
	}
	for class, most := range [2]int{e.o.MaxActive, max(1, e.o.MaxActive/2)} {
		for e.waiting[class].len() > 0 && e.running[class] < most && e.running[0]+e.running[1] < e.o.MaxActive {
			h := e.waiting[class].pop()
			h.state, h.line = active, newLine(e, h)
			e.running[class]++
			e.visits.Go(func() { e.visit(work, h.line, class) })
		}
	}
	return wait, any
}

func (h *host) class() int {
	if h.failure != nil {
		return 1
	}
	return 0
}

// crowded reports whether destinations wait for a place.
func (e *Engine) crowded() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.waiting[0].len()+e.waiting[1].len() > 0
}

// How often the store is asked for destinations that nobody told of: those
// whose lease another process let go, and what a step of the clock made due.
const rescan = 15 * time.Minute

// scan tells the agenda of all destinations that the store has mail for.
func (e *Engine) scan(ctx context.Context) {
	again := time.NewTimer(0)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-again.C:
		}
		wait := rescan
		if err := e.scanAll(ctx); err != nil && ctx.Err() == nil {
			e.o.Log.Error().Err(err).Msg("cannot read the queue: trying again")
			wait = 5 * time.Second
		}
		again.Reset(wait)
	}
}

// scanPage is how many destinations are read at once.
const scanPage = 1000

func (e *Engine) scanAll(ctx context.Context) error {
	after := Destination("")
	for {
		page, err := e.o.Store.Due(ctx, after, scanPage)
		if err != nil {
			return err
		}
		now := time.Now()
		for _, d := range page {
			e.remind(d.Destination, now.Add(max(0, d.In)))
		}
		if len(page) < scanPage {
			return nil
		}
		after = page[len(page)-1].Destination
	}
}

// finish ends the visit of a host and decides when the next one is.
func (e *Engine) finish(ctx context.Context, l *line, class int) {
	next, err := e.nextDue(ctx, l)
	if err != nil && !e.leaving() {
		e.o.Log.Error().Err(err).Str("destination", string(l.host.dest)).Msg("cannot read the queue: trying again")
	}
	now := time.Now()
	e.mu.Lock()
	h := l.host
	h.state, h.line = idle, nil
	e.running[class]--
	if h.woken || h.forced {
		next = now
	}
	if !h.later.IsZero() && (next.IsZero() || h.later.Before(next)) {
		next = h.later
	}
	h.woken, h.later = false, time.Time{}
	f := h.failure
	gone := next.IsZero() && (f == nil || f.over(now))
	if next.IsZero() && !gone {
		next = f.until
	}
	if gone {
		delete(e.hosts, h.dest)
	} else {
		e.at(h, next)
	}
	e.mu.Unlock()
	if gone {
		e.unwatch(f)
	}
	e.stir()
}

// hostPause is how long a destination rests that could not be visited: the store
// has a fault, or keeps what it says is due.
const hostPause = 5 * time.Second

// nextDue asks the store when the next entry of a visited destination is due,
// zero if there is none.
func (e *Engine) nextDue(ctx context.Context, l *line) (time.Time, error) {
	now := time.Now()
	if l.faulty {
		return now.Add(hostPause), nil
	}
	dest := l.host.dest
	list, err := e.o.Store.Due(ctx, justBefore(dest), 1)
	if err != nil {
		return now.Add(hostPause), fmt.Errorf("asking what is due for %s: %w", dest, err)
	}
	if len(list) == 0 || list[0].Destination != dest {
		return time.Time{}, nil
	}
	in := list[0].In
	if in <= 0 && l.claimed == 0 {
		in = hostPause // it says so, and gives nothing
	}
	return now.Add(max(0, in)), nil
}

// justBefore is a string below dest and above every other name of a
// destination that is below it.
func justBefore(dest Destination) Destination {
	last := len(dest) - 1
	if last < 0 || dest[last] == 0 {
		return ""
	}
	return dest[:last] + Destination([]byte{dest[last] - 1, '~', '~', '~'})
}

// watch and unwatch tell who follows policies that mail waits for one.
func (e *Engine) watch(f *failure) {
	if f != nil && !f.watch.IsZero() {
		e.o.Waiting(f.watch, true)
	}
}

func (e *Engine) unwatch(f *failure) {
	if f != nil && !f.watch.IsZero() {
		e.o.Waiting(f.watch, false)
	}
}
