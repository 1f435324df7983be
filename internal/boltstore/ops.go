package boltstore

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
)

// An op is one write that waits for the committer.
type op struct {
	// apply writes. Its error is its own: the transaction goes on without it.
	// It may run several times. It should look before it writes, because an
	// error after a write makes the others run again.
	apply func(b *batch) error
	size  int // octets of bodies, to bound a commit
	state atomic.Int32
	done  chan error // capacity 1
}

// The states of an op.
const (
	waiting int32 = iota
	taken
	withdrawn
)

// Bounds of one commit.
const (
	maxBatchOps    = 4096
	maxBatchOctets = 32 << 20
)

// queue is the ops that wait, in order of arrival.
type queue struct {
	wake chan struct{}

	mu     sync.Mutex
	ops    []*op
	closed bool
}

var errClosed = errors.New("store is closed")

// do hands apply to the committer and waits for the commit. When ctx ends
// before the committer took it, it is withdrawn; after that the result counts.
func (s *Store) do(ctx context.Context, size int, apply func(*batch) error) error {
	if err := ctx.Err(); err != nil {
		return unavailable(err)
	}
	o, err := s.enqueue(size, apply)
	if err != nil {
		return err
	}
	select {
	case err := <-o.done:
		return err
	case <-ctx.Done():
		if o.state.CompareAndSwap(waiting, withdrawn) {
			return unavailable(ctx.Err())
		}
		return <-o.done
	}
}

func (s *Store) enqueue(size int, apply func(*batch) error) (*op, error) {
	o := &op{apply: apply, size: size, done: make(chan error, 1)}
	if !s.ops.put(o) {
		return nil, unavailable(errClosed)
	}
	return o, nil
}

func (q *queue) put(o *op) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	q.ops = append(q.ops, o)
	q.signal()
	return true
}

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.signal()
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take waits for ops and returns them, at most a commit's worth; nil after
// close, when none is left.
func (q *queue) take() []*op {
	for {
		ops, more := q.next()
		if len(ops) > 0 || !more {
			return ops
		}
		<-q.wake
	}
}

// next takes ops that were not withdrawn. more is false when there will be none.
func (q *queue) next() (ops []*op, more bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n, size := 0, 0
	for _, o := range q.ops {
		if len(ops) == maxBatchOps || n > 0 && size+o.size > maxBatchOctets {
			break
		}
		n++
		if o.state.CompareAndSwap(waiting, taken) {
			ops = append(ops, o)
			size += o.size
		}
	}
	rest := copy(q.ops, q.ops[n:])
	clear(q.ops[rest:])
	q.ops = q.ops[:rest]
	if rest > 0 {
		q.signal()
	}
	return ops, rest > 0 || !q.closed
}
