package relay

import (
	"time"

	"stsrelay/delivery"
)

// A Snapshot is how an Engine is at a moment.
type Snapshot struct {
	Sent, Deferred, Bounced uint64 // recipients, since the start
	MayDup                  uint64 // recipients that may get a second copy
	Active, Queued          int    // destinations being tried, and waiting for their turn
	Destinations            []DestinationState
	Outage                  string // a fault of our own that holds expiry back, "" if there is none
	Unwritten               int    // outcomes the store has not taken yet
}

// DestinationState is one destination that is being tried or backs off.
type DestinationState struct {
	Destination Destination
	Active      int       // Deliver calls
	Failures    int       // in a row; 0: it works
	Next        time.Time // of the canary; zero if it works
	Reason      delivery.Reason
	Text        string
}

// Snapshot tells of all destinations that are active or back off, in no order.
func (e *Engine) Snapshot() Snapshot {
	s := Snapshot{Sent: e.counts.sent.Load(), Deferred: e.counts.deferred.Load(), Bounced: e.counts.bounced.Load(),
		MayDup: e.counts.mayDup.Load(), Outage: e.outage.text(time.Now()), Unwritten: e.settler.unwritten()}
	e.mu.Lock()
	defer e.mu.Unlock()
	s.Active, s.Queued = e.running[0]+e.running[1], e.waiting[0].len()+e.waiting[1].len()
	for _, h := range e.hosts {
		if h.line == nil && h.failure == nil {
			continue
		}
		d := DestinationState{Destination: h.dest}
		if h.line != nil {
			d.Active = int(h.line.running.Load())
		}
		if f := h.failure; f != nil {
			d.Failures, d.Next, d.Reason, d.Text = f.count, f.until, f.err.Reason, f.err.Error()
		}
		s.Destinations = append(s.Destinations, d)
	}
	return s
}
