package relay_test

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"stsrelay/relay"
)

var errDisk = errors.New("the disk is on fire")

// A faultyStore is a store whose writes fail while the test says so.
type faultyStore struct {
	relay.Store
	mu       sync.Mutex
	notDone  bool // Settle fails and writes nothing; Claim still works
	doneOnce bool // Settle writes and fails all the same, once
	spoiled  relay.ID
	settles  []int // sizes of the batches that were written
	claims   int   // while notDone
}

func (f *faultyStore) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *faultyStore) Claim(ctx context.Context, d relay.Destination, n int) ([]relay.Entry, error) {
	f.set(func() {
		if f.notDone {
			f.claims++
		}
	})
	return f.Store.Claim(ctx, d, n)
}

func (f *faultyStore) Settle(ctx context.Context, r []relay.Result) ([]relay.ID, error) {
	f.mu.Lock()
	notDone, doneOnce, spoiled := f.notDone, f.doneOnce, f.spoiled
	f.doneOnce = false
	f.mu.Unlock()
	if notDone {
		return nil, fmt.Errorf("%w: %w", relay.ErrUnavailable, errDisk)
	}
	for _, x := range r {
		if spoiled != "" && x.ID == spoiled && len(x.Notices) > 0 {
			return nil, errDisk
		}
	}
	lost, err := f.Store.Settle(ctx, r)
	if err == nil {
		f.set(func() { f.settles = append(f.settles, len(r)) })
	}
	if doneOnce {
		return nil, fmt.Errorf("%w: %w", relay.ErrUnknownOutcome, errDisk)
	}
	return lost, err
}

// commits is how many Settles were written.
func (f *faultyStore) commits() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.settles)
}
