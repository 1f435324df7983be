package resolver

import (
	"context"
	"sync"
	"time"
)

// flights makes callers that ask the same thing at the same time share one
// lookup. The zero value is ready.
type flights struct {
	mu sync.Mutex // guards m and the waiters of its flights
	m  map[key]*flight
}

type flight struct {
	done    chan struct{}
	entry   entry // set before done is closed
	waiters int
	cancel  context.CancelFunc
}

// do joins the flight for k or starts it with fn. The flight has a context of
// its own, bounded by budget: a caller that goes away takes nobody with it, and
// only when the last one has gone the flight is stopped. The error is the
// caller's own context's.
func (f *flights) do(ctx context.Context, k key, budget time.Duration, fn func(context.Context) entry) (entry, error) {
	f.mu.Lock()
	fl := f.m[k]
	if fl == nil {
		fl = f.start(ctx, k, budget, fn)
	}
	fl.waiters++
	f.mu.Unlock()

	select {
	case <-fl.done:
		return fl.entry, nil
	case <-ctx.Done():
		f.leave(k, fl)
		return entry{}, context.Cause(ctx)
	}
}

// start begins a flight. Caller holds mu.
func (f *flights) start(ctx context.Context, k key, budget time.Duration, fn func(context.Context) entry) *flight {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), budget)
	fl := &flight{done: make(chan struct{}), cancel: cancel}
	if f.m == nil {
		f.m = map[key]*flight{}
	}
	f.m[k] = fl
	go func() {
		defer cancel()
		fl.entry = fn(ctx)
		f.forget(k, fl)
		close(fl.done)
	}()
	return fl
}

func (f *flights) leave(k key, fl *flight) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl.waiters--; fl.waiters > 0 {
		return
	}
	fl.cancel()
	if f.m[k] == fl {
		delete(f.m, k) // whoever comes now must not get the cancelled one
	}
}

func (f *flights) forget(k key, fl *flight) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.m[k] == fl {
		delete(f.m, k)
	}
}
