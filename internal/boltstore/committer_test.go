package boltstore

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"

	"stsrelay/internal/addr"
	"stsrelay/relay"
	"stsrelay/stscache"

	bolt "go.etcd.io/bbolt"
)

// A gate holds commits until it is opened and counts them.
type gate struct {
	entered chan struct{} // one for each commit that begins
	open    chan struct{} // closed: commits go on
	mu      sync.Mutex
	commits int
}

func newGate() *gate { return &gate{entered: make(chan struct{}, 1000), open: make(chan struct{})} }

func (g *gate) commit(tx *bolt.Tx) error {
	g.mu.Lock()
	g.commits++
	g.mu.Unlock()
	g.entered <- struct{}{}
	<-g.open
	return tx.Commit()
}

func openGated(t *testing.T) (*Store, *gate) {
	t.Helper()
	g, w := newGate(), &world{free: 1 << 40}
	h := w.hooks()
	h.commit = g.commit
	s, err := open(t.TempDir(), testOptions, h)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s, g
}

func TestCommitter(t *testing.T) {
	t.Run("writes that wait share a commit, accepts, settles and the rest together", func(t *testing.T) {
		s, g := openGated(t)
		first := make(chan error, 1)
		go func() { first <- acceptOne(s, newMessage("0", "example.com"), "x") }()
		<-g.entered // its commit is under way; whoever comes now waits
		const n = 50
		errs := make(chan error, 2*n)
		for i := range n {
			go func() { errs <- acceptOne(s, newMessage(relay.ID(fmt.Sprint("m", i)), "example.com"), "x") }()
			go func() {
				errs <- s.PutPolicy(context.WithoutCancel(t.Context()), stscache.Entry{Domain: addr.MustDomain(fmt.Sprintf("d%d.example", i))})
			}()
		}
		waitWaiting(s, 2*n)
		close(g.open)
		for range 2 * n {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		if err := <-first; err != nil {
			t.Error(err)
		}
		if g.commits != 2 {
			t.Errorf("%d commits, want 2", g.commits)
		}
	})
	t.Run("a write whose context ends before its commit is withdrawn", func(t *testing.T) {
		s, g := openGated(t)
		first, second := make(chan error, 1), make(chan error, 1)
		go func() { first <- acceptOne(s, newMessage("1", "example.com"), "x") }()
		<-g.entered
		ctx, cancel := context.WithCancel(t.Context())
		go func() { second <- s.Forget(ctx, "1") }()
		waitWaiting(s, 1)
		cancel()
		if err := <-second; !errors.Is(err, relay.ErrUnavailable) || !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		close(g.open)
		if err := <-first; err != nil {
			t.Error(err)
		}
		mustAccept(t, s, "2", "example.com")
		if n := countKeys(t, s, bEntry); n != 2 {
			t.Errorf("%d entries: the withdrawn write was applied", n)
		}
	})
	t.Run("a write whose context ends during its commit waits for the outcome", func(t *testing.T) {
		s, g := openGated(t)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.PutPolicy(ctx, stscache.Entry{Domain: addr.MustDomain("a.example")}) }()
		<-g.entered
		cancel()
		close(g.open)
		if err := <-done; err != nil {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a lease that ends while its settle is being committed is not claimed again", func(t *testing.T) {
		w, g := &world{free: 1 << 40}, newGate()
		s := openTest(t, t.TempDir(), testOptions, w)
		mustAccept(t, s, "1", "example.com")
		e := mustClaim(t, s, "example.com", 1)[0]
		s.hooks.commit = g.commit
		settled := make(chan []relay.ID, 1)
		go func() {
			lost, err := s.Settle(context.WithoutCancel(t.Context()), []relay.Result{{ID: e.ID, Lease: e.Lease, Left: e.To}})
			if err != nil {
				t.Error(err)
			}
			settled <- lost
		}()
		<-g.entered
		w.set(func() { w.shift += 2 * testOptions.Lease })
		mustClaim(t, s, "example.com", 0)
		close(g.open)
		if lost := <-settled; len(lost) > 0 {
			t.Errorf("lost %v", lost)
		}
		mustClaim(t, s, "example.com", 1)
	})
	t.Run("a write that fails half-way does not spoil those it shares a commit with", func(t *testing.T) {
		s, g := openGated(t)
		first := make(chan error, 1)
		go func() { first <- acceptOne(s, newMessage("0", "example.com"), "x") }()
		<-g.entered
		good, bad := make(chan error, 2), make(chan error, 1)
		ctx := context.WithoutCancel(t.Context())
		boom := errors.New("boom")
		go func() { good <- acceptOne(s, newMessage("1", "example.com"), "x") }()
		waitWaiting(s, 1)
		go func() {
			bad <- s.do(ctx, 0, func(b *batch) error {
				b.delete(b.entry, []byte("1-1"))
				return boom
			})
		}()
		waitWaiting(s, 2)
		go func() { good <- acceptOne(s, newMessage("2", "example.com"), "x") }()
		waitWaiting(s, 3)
		close(g.open)
		if err := <-bad; !errors.Is(err, boom) {
			t.Errorf("the bad one got %v", err)
		}
		if err := errors.Join(<-good, <-good, <-first); err != nil {
			t.Errorf("a good one got %v", err)
		}
		mustClaim(t, s, "example.com", 3)
		verifyIntegrity(t, s)
	})
	t.Run("calls after Close fail, and say why", func(t *testing.T) {
		s := openTest(t, t.TempDir(), testOptions, &world{})
		mustAccept(t, s, "1", "example.com")
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		_, err := s.Claim(t.Context(), "example.com", 1)
		_, lerr := s.Stats(t.Context())
		for name, err := range map[string]error{"Accept": acceptOne(s, newMessage("2", "example.com"), "x"), "Claim": err, "Stats": lerr} {
			if !errors.Is(err, relay.ErrUnavailable) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if s.Close() == nil {
			t.Error("a second Close says nothing")
		}
	})
}

// waitWaiting waits until n ops wait for the committer.
func waitWaiting(s *Store, n int) {
	for {
		s.ops.mu.Lock()
		have := len(s.ops.ops)
		s.ops.mu.Unlock()
		if have >= n {
			return
		}
		runtime.Gosched()
	}
}

// A commit can be read a moment before memory follows it.
func TestMemoryBehindFile(t *testing.T) {
	s := openTest(t, t.TempDir(), testOptions, &world{})
	mustAccept(t, s, "1", "example.com")
	s.leases.mu.Lock()
	forgotten := make(chan error, 1)
	go func() { forgotten <- s.Forget(context.WithoutCancel(t.Context()), "1") }()
	for countKeys(t, s, bEntry) > 0 { // until the commit is there
		runtime.Gosched()
	}
	if got := s.leases.fresh.of("example.com"); len(got) != 1 {
		t.Errorf("memory is not behind: %v", got)
	}
	err := s.view(func(tx *bolt.Tx) error {
		if got := s.dueFresh(tx, "example.com", 10); len(got) != 0 {
			t.Errorf("an entry that is gone would be claimed: %v", got)
		}
		return nil
	})
	s.leases.mu.Unlock()
	if err := errors.Join(err, <-forgotten); err != nil {
		t.Error(err)
	}
}
