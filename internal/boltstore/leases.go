package boltstore

import (
	"sync"
	"time"

	"stsrelay/relay"
)

// leases are the claims of this process. Lock order: mu is taken before a read
// transaction begins and held until the claim is noted; the committer takes it
// after its commit. So a claim sees either the state before a commit and the
// leases before it, or a newer state and at worst leases about to end.
type leases struct {
	mu    sync.Mutex
	token uint64 // the last one given out
	held  map[relay.ID]*lease
	fresh fresh
}

type lease struct {
	token    uint64
	ends     time.Duration // on the monotonic clock
	bounce   bool          // the claimant has seen Entry.Bounce
	settling bool          // a Settle is being committed: must not be claimed meanwhile
}

func (l *lease) live(now time.Duration) bool { return l != nil && (l.settling || now < l.ends) }

// drop ends a lease; its token is lost.
func (l *leases) drop(id relay.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.held, id)
}

// active says whether an entry is being tried.
func (l *leases) active(id relay.ID, now time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held[id].live(now)
}

// get returns a copy of an entry's live lease, nil if it has none.
func (l *leases) get(id relay.ID, now time.Duration) *lease {
	l.mu.Lock()
	defer l.mu.Unlock()
	if held := l.held[id]; held.live(now) {
		c := *held
		return &c
	}
	return nil
}

// all is the entries that are being tried.
func (l *leases) all(now time.Duration) (ids []relay.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, held := range l.held {
		if held.live(now) {
			ids = append(ids, id)
		}
	}
	return ids
}
