package relay

import (
	"context"
	"time"
)

// How lanes are added while mail waits for one. A destination that has not been
// heard of gets a second only when the first has been busy for long: a thousand
// messages to a dead host are to cost one connection (ledger
// SMTP-4.5.4.1-04).
const (
	laneDepth  = 10 // messages that wait
	laneWait   = 100 * time.Millisecond
	laneFast   = 20 // messages that a lane moves within laneWait when another would not help
	unheardFor = 10 * time.Second
)

// run delivers with as many lanes as pay, until the last has ended. It reports
// whether any of them did anything.
func (l *line) run(ctx context.Context) bool {
	ended := make(chan *lane)
	worked := false
	var started time.Time
	start := func() {
		n := &lane{line: l, ctx: ctx}
		l.running.Add(1)
		started = time.Now()
		go func() {
			n.err = l.e.o.Deliverer.Deliver(ctx, l.to, n)
			ended <- n
		}()
	}
	start()
	tick := time.NewTimer(laneWait)
	defer tick.Stop()
	drawn, armed := 0, true
	ask := func() { // not anew: a stream of new mail would put it off for ever
		if !armed {
			tick.Reset(laneWait)
			armed = true
		}
	}
	for l.running.Load() > 0 {
		select {
		case n := <-ended:
			l.running.Add(-1)
			worked = worked || n.drew
			l.ended(ctx, n)
			ask()
		case <-l.more:
			ask()
		case <-tick.C:
			more, again := l.wants(ctx, started, drawn)
			drawn = l.handedOut()
			if more {
				start()
			}
			if armed = again; again {
				tick.Reset(laneWait)
			}
		}
	}
	return worked
}

func (l *line) handedOut() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.drawn
}

// wants reports whether one more lane pays, and whether to ask again.
func (l *line) wants(ctx context.Context, started time.Time, drawn int) (more, again bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if int(l.running.Load()) >= l.most || l.release {
		return false, false
	}
	l.fill(ctx)
	waiting := 0
	for _, it := range l.queue {
		if !l.canaryOut || !l.failure.covers(it.Options) {
			waiting++
		}
	}
	again = waiting > 0
	if !l.proven && time.Since(started) < unheardFor {
		return false, again
	}
	moved := l.drawn - drawn
	return waiting > 0 && moved == 0 || waiting >= laneDepth && moved < laneFast*int(l.running.Load()), again
}
