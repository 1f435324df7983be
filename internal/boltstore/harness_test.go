package boltstore

import (
	"errors"
	"sync"
	"testing"
	"time"

	"stsrelay/internal/storetest"

	"github.com/rs/zerolog"
	bolt "go.etcd.io/bbolt"
)

// A world is what the hooks of a test's store obey.
type world struct {
	mu    sync.Mutex
	shift time.Duration // of both clocks
	step  time.Duration // of the wall clock alone
	fault storetest.Fault
	tried int // commits
	free  int64
}

func (w *world) hooks() hooks {
	start := time.Now()
	return hooks{
		clock: func() (time.Time, time.Duration) {
			w.mu.Lock()
			defer w.mu.Unlock()
			now := time.Now()
			return now.Add(w.shift + w.step), now.Sub(start) + w.shift
		},
		commit: w.commit,
		free: func(string) (int64, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.free, nil
		},
	}
}

var errInjected = errors.New("injected")

func (w *world) commit(tx *bolt.Tx) error {
	w.mu.Lock()
	fault := w.fault
	w.tried++
	w.mu.Unlock()
	switch fault {
	case storetest.NotWritten:
		return errors.Join(tx.Rollback(), errInjected)
	case storetest.Written:
		return errors.Join(tx.Commit(), errInjected)
	}
	return tx.Commit()
}

func (w *world) set(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

var testOptions = Options{NoSync: true, Lease: time.Hour, SpoolAbove: 16 << 10, FreeSpace: 1 << 20, Log: zerolog.Nop()}

// openTest opens the store in dir and closes it with the test.
func openTest(t testing.TB, dir string, o Options, w *world) *Store {
	t.Helper()
	if w.free == 0 {
		w.free = 1 << 40
	}
	s, err := open(dir, o, w.hooks())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() }) // a test may have closed it
	return s
}

func openHarness(t *testing.T) *storetest.Harness { return harness(t, testOptions) }

func harness(t *testing.T, o Options) *storetest.Harness {
	dir, w := t.TempDir(), &world{}
	var s *Store
	start := func() *Store {
		this := openTest(t, dir, o, w)
		s = this
		t.Cleanup(func() { // before it is closed
			if s == this {
				verifyIntegrity(t, s)
			}
		})
		return s
	}
	h := &storetest.Harness{Store: start(), Lease: o.Lease, Large: int(o.SpoolAbove)}
	h.Advance = func(d time.Duration) { w.set(func() { w.shift += d }) }
	h.Fail = func(f storetest.Fault) { w.set(func() { w.fault = f }) }
	h.Reopen = func(t *testing.T) {
		t.Helper()
		verifyIntegrity(t, s)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		h.Store = start()
	}
	return h
}

func TestQueue(t *testing.T)     { storetest.TestQueue(t, openHarness) }
func TestPolicies(t *testing.T)  { storetest.TestPolicies(t, openHarness) }
func TestTallies(t *testing.T)   { storetest.TestTallies(t, openHarness) }
func TestTLSAHosts(t *testing.T) { storetest.TestTLSAHosts(t, openHarness) }
