package relay

import (
	"container/heap"
	"time"

	"stsrelay/delivery"
	"stsrelay/internal/addr"
)

// A host is what is remembered of a destination that has mail waiting, or that
// failed a short while ago (RFC 5321, Section 4.5.4.1; ledger
// SMTP-4.5.4.1-04). Engine.mu guards it.
type host struct {
	dest    Destination
	next    time.Time // when it is to be visited; zero: when something wakes it
	later   time.Time // of an active one: the earliest retry that was written meanwhile
	place   int       // in the heap, -1 if it is not there
	state   hostState
	woken   bool // there may be new mail since an active one was visited
	forced  bool // Retry: the back-off is to be forgotten
	failure *failure
	line    *line // of an active one
}

type hostState uint8

const (
	idle   hostState = iota // waits for its time
	queued                  // waits for its turn
	active                  // is being visited
)

// A failure is why a destination cannot be used. It is not changed once made.
type failure struct {
	err     *delivery.Error
	outcome delivery.Outcome // as every message that shares it has
	weight  weight           // which messages it concerns
	count   int              // failed attempts in a row, for the schedule
	at      time.Time
	until   time.Time
	proof   bool        // a newer policy was looked for before (ledger STS-5-04)
	watch   addr.Domain // whose policy may mend it, zero if none
}

// proofLife is for how long a failure speaks for messages that are to be given
// up: they need not all be tried.
const proofLife = 5 * time.Minute

// permanent reports whether the failure lets nothing wait.
func (f *failure) permanent() bool { return f.err.Permanent }

// over reports whether it is time for a canary.
func (f *failure) over(now time.Time) bool { return !now.Before(f.until) }

// covers reports whether a message would fail in the same way.
func (f *failure) covers(o Options) bool { return f != nil && weigh(o.Demand) >= f.weight }

// A weight is how much of a destination a message asks. What fails for one
// message fails for those that ask as much or more, and a success speaks for
// those that ask as much or less.
type weight uint8

const (
	light weight = iota // no MTA-STS, no DANE: TLS reports, "TLS-Required: No"
	usual
	heavy // REQUIRETLS
)

func weigh(d delivery.Demand) weight {
	switch d {
	case delivery.Ignore:
		return light
	case delivery.Require:
		return heavy
	}
	return usual
}

// weighFailure says which messages a destination's failure concerns, when one
// with this Demand met it: a rule that binds only some says nothing of others.
func weighFailure(r delivery.Reason, d delivery.Demand) weight {
	if w := weigh(d); w != usual || byRule(r) {
		return w
	}
	return light
}

// byRule reports whether a reason is a rule of MTA-STS or DANE.
func byRule(r delivery.Reason) bool {
	switch r {
	case delivery.TLSALookupFailed, delivery.NotValidating, delivery.DiscoveryFailed, delivery.DNSBogus:
		return true
	}
	return r.Info().Expired != [3]int{}
}

// watchable reports whether a new MTA-STS policy could end a failure.
func watchable(r delivery.Reason) bool {
	switch r {
	case delivery.MXNotListed, delivery.StartTLSMissing, delivery.TLSFailed, delivery.CertHostMismatch,
		delivery.CertExpired, delivery.CertNotTrusted, delivery.DiscoveryFailed:
		return true
	}
	return false
}

// agenda is a heap of hosts in order of next.
type agenda []*host

func (a agenda) Len() int           { return len(a) }
func (a agenda) Less(i, j int) bool { return a[i].next.Before(a[j].next) }
func (a agenda) Swap(i, j int) {
	a[i], a[j] = a[j], a[i]
	a[i].place, a[j].place = i, j
}

// Push and Pop are for package heap.
func (a *agenda) Push(x any) {
	h := x.(*host)
	h.place = len(*a)
	*a = append(*a, h)
}

func (a *agenda) Pop() any {
	last := len(*a) - 1
	h := (*a)[last]
	(*a)[last] = nil
	*a = (*a)[:last]
	h.place = -1
	return h
}

// set moves h to its place for next; without a time it is taken out.
func (a *agenda) set(h *host) {
	switch {
	case h.next.IsZero() && h.place >= 0:
		heap.Remove(a, h.place)
	case h.next.IsZero():
	case h.place >= 0:
		heap.Fix(a, h.place)
	default:
		heap.Push(a, h)
	}
}

// due takes the first host whose time has come, or returns how long the next
// one takes; zero and nil: there is none.
func (a *agenda) due(now time.Time) (h *host, wait time.Duration) {
	if len(*a) == 0 {
		return nil, 0
	}
	if wait = (*a)[0].next.Sub(now); wait > 0 {
		return nil, wait
	}
	return heap.Pop(a).(*host), 0
}

// A fifo is the hosts that wait for their turn.
type fifo struct {
	items []*host
	head  int
}

func (f *fifo) len() int { return len(f.items) - f.head }

func (f *fifo) push(h *host) { f.items = append(f.items, h) }

func (f *fifo) pop() *host {
	h := f.items[f.head]
	f.items[f.head] = nil
	f.head++
	if f.head*2 > len(f.items) {
		rest := copy(f.items, f.items[f.head:])
		clear(f.items[rest:])
		f.items, f.head = f.items[:rest], 0
	}
	return h
}
