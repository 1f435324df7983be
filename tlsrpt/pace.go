package tlsrpt

import (
	"sync"
	"time"
)

// A pace keeps a distance between the POSTs to one host: many domains have
// their reports collected by the same few (ledger RPT-7-01).
type pace struct {
	gap time.Duration

	mu    sync.Mutex
	next  map[string]time.Time // by host: the first turn that nobody has
	turns map[string]time.Time // by report and destination: those that were given out
}

const maxPaced = 10_000

// reserve says how long who waits for a turn with host; 0: it is now. A turn is
// kept for who until it comes back.
func (p *pace) reserve(host, who string, now time.Time) time.Duration {
	if p.gap <= 0 {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.next == nil || len(p.next) >= maxPaced || len(p.turns) >= maxPaced {
		p.next, p.turns = make(map[string]time.Time), make(map[string]time.Time)
	}
	turn, has := p.turns[who]
	if !has {
		if turn = p.next[host]; turn.Before(now) {
			turn = now
		}
		p.next[host] = turn.Add(p.gap)
	}
	if wait := turn.Sub(now); wait > 0 {
		p.turns[who] = turn
		return wait
	}
	delete(p.turns, who)
	return 0
}
