package relay

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// A settler writes down what became of claimed entries. What is finished while
// one Settle runs goes into the next: a lone message is not delayed, a crowd
// shares the commit. What a remote server knows must be recorded, so it goes on
// until the store has taken it or the lease is lost.
type settler struct {
	e     *Engine
	wake  chan struct{}
	stop  chan struct{} // closed by abandon
	sick  atomic.Bool   // the last write failed
	count atomic.Int64  // not written yet

	mu      sync.Mutex
	pending []settlement
	closed  bool
}

// A settlement is a Result and what follows when it is written.
type settlement struct {
	Result
	item   *item
	rescue *Result // what is written when the Result cannot be
}

// Bounds of one Settle, and of what waits for it.
const (
	maxSettle       = 500
	maxSettleOctets = 8 << 20 // of DSNs
	maxUnwritten    = 4 * maxSettle
)

func newSettler(e *Engine) *settler {
	return &settler{e: e, wake: make(chan struct{}, 1), stop: make(chan struct{})}
}

// failing reports whether the store did not take the last write.
func (s *settler) failing() bool { return s.sick.Load() }

func (s *settler) unwritten() int { return int(s.count.Load()) }

// waitForRoom waits while more is finished than the store takes.
func (s *settler) waitForRoom(ctx context.Context) {
	for s.unwritten() > maxUnwritten && ctx.Err() == nil && !s.failing() {
		pause := time.NewTimer(10 * time.Millisecond)
		select {
		case <-pause.C:
		case <-ctx.Done():
		}
		pause.Stop()
	}
}

func (s *settler) put(x settlement) {
	s.count.Add(1)
	s.mu.Lock()
	s.pending = append(s.pending, x)
	s.mu.Unlock()
	s.signal()
}

// close makes run end when everything is written.
func (s *settler) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.signal()
}

// abandon makes run end though the store does not take what is left.
func (s *settler) abandon() { close(s.stop) }

func (s *settler) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *settler) run(ctx context.Context) {
	ctx = context.WithoutCancel(ctx)
	for {
		batch, closed := s.take()
		if len(batch) == 0 {
			if closed {
				return
			}
			<-s.wake
			continue
		}
		if !s.write(ctx, batch) {
			return
		}
	}
}

// take returns what waits, at most what one Settle may have.
func (s *settler) take() (batch []settlement, closed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, octets := 0, 0
	for n < len(s.pending) && n < maxSettle && octets < maxSettleOctets {
		for _, c := range s.pending[n].Notices {
			octets += len(c.Body)
		}
		n++
	}
	batch = s.pending[:n:n]
	s.pending = s.pending[n:]
	if len(s.pending) == 0 {
		s.pending = nil
	}
	return batch, s.closed
}

// The pauses between attempts to write while the store cannot.
const (
	minSettlePause = 100 * time.Millisecond
	maxSettlePause = 5 * time.Second
)

// write settles a batch, for as long as it takes; false: it was told to stop.
func (s *settler) write(ctx context.Context, batch []settlement) bool {
	results := make([]Result, len(batch))
	for i, x := range batch {
		results[i] = x.Result
	}
	unsure := false
	for pause := minSettlePause; ; pause = min(2*pause, maxSettlePause) {
		lost, err := s.e.o.Store.Settle(ctx, results)
		if err == nil {
			s.sick.Store(false)
			s.written(batch, lost, unsure)
			return true
		}
		unknown := errors.Is(err, ErrUnknownOutcome)
		if !unknown && !errors.Is(err, ErrUnavailable) {
			return s.writeEach(ctx, batch, err)
		}
		unsure = unsure || unknown
		if !s.sick.Swap(true) {
			s.e.o.Log.Error().Err(err).Int("messages", len(batch)).Msg("cannot write down what became of messages: no more are tried until it is done")
		}
		wait := time.NewTimer(pause)
		select {
		case <-wait.C:
		case <-s.stop:
			wait.Stop()
			return false
		}
	}
}

// writeEach finds the Result that spoils a batch. Alone, it is replaced by one
// that keeps the message for later.
func (s *settler) writeEach(ctx context.Context, batch []settlement, err error) bool {
	if len(batch) == 1 {
		x := batch[0]
		s.e.o.Log.Error().Err(err).Str("queue_id", string(x.ID)).Msg("cannot write down what became of a message")
		if x.rescue == nil { // its lease will end
			s.count.Add(-1)
			return true
		}
		x.Result, x.rescue = *x.rescue, nil
		batch[0] = x
		return s.write(ctx, batch)
	}
	for i := range batch {
		if !s.write(ctx, batch[i:i+1:i+1]) {
			return false
		}
	}
	return true
}

// written draws the consequences. When a write before had an unknown outcome,
// a lost lease says that it had been done.
func (s *settler) written(batch []settlement, lost []ID, unsure bool) {
	s.count.Add(-int64(len(batch)))
	gone := make(map[ID]bool, len(lost))
	for _, id := range lost {
		gone[id] = true
	}
	now := time.Now()
	for _, x := range batch {
		if gone[x.ID] && !unsure {
			s.e.o.Log.Warn().Str("queue_id", string(x.ID)).Msg("somebody else has this message now: deleted, or tried a second time because the lease ran out")
			continue
		}
		for _, n := range x.Notices {
			for _, entry := range n.Message.Entries {
				s.e.Wake(entry.Destination)
			}
		}
		if len(x.Left) > 0 {
			s.e.remind(x.item.Destination, now.Add(x.Delay))
			continue
		}
		s.e.o.Log.Info().Str("queue_id", string(x.ID)).Msg(string(x.ID) + ": removed")
	}
}
