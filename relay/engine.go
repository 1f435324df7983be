// Package relay is responsible for a message from our 250 until it is delivered
// or returned to its sender (RFC 5321, Sections 4.5.4.1 and 6.1; DSNs by RFC
// 3464). What was accepted is never lost and never discarded without a word:
// everything that happens to it is written to a Store before it counts.
package relay

import (
	"context"
	"fmt"
	"sync"
	"time"

	"stsrelay/delivery"
	"stsrelay/internal/addr"

	"github.com/rs/zerolog"
)

// A Deliverer makes attempts. *delivery.Client is one; its Deliver says what is
// expected.
type Deliverer interface {
	Deliver(ctx context.Context, d delivery.Destination, s delivery.Source) error
}

// EngineOptions is what an Engine is made of. Store, Deliverer and Hostname are
// required; every other zero field means its default.
type EngineOptions struct {
	Store       Store
	Deliverer   Deliverer
	Hostname    string          // Reporting-MTA of DSNs
	Postmaster  string          // who hears of bounces that cannot be delivered; "": the log
	Retry       []time.Duration // from the end of an attempt to the next, the last repeats; default 5m, 15m, 30m, 1h, 2h, 4h
	WarnAfter   time.Duration   // default 4h
	ExpireAfter time.Duration   // default 5d
	Lanes       int             // Deliver calls at once for one destination; default 10
	MaxActive   int             // destinations at once; default 500
	// Waiting hears when mail begins and ends to wait for a domain's MTA-STS
	// policy to change. It must not block. When the policy has changed, call
	// Retry.
	Waiting func(addr.Domain, bool)
	// Override is the operator's word about a domain at a moment (ledger X-12);
	// nil: none. It is asked for each Deliver call.
	Override  func(addr.Domain, time.Time) delivery.Override
	BounceVia addr.NextHop // where DSNs go; zero: by MX
	NoTallies bool         // [tlsrpt] enabled = false: no session is counted
	Log       zerolog.Logger
	Grace     time.Duration // how long attempts may go on when Run ends; default 30s
}

func (o EngineOptions) withDefaults() EngineOptions {
	if o.Lanes <= 0 {
		o.Lanes = 10
	}
	if o.MaxActive <= 0 {
		o.MaxActive = 500
	}
	if o.Waiting == nil {
		o.Waiting = func(addr.Domain, bool) {}
	}
	if o.Grace <= 0 {
		o.Grace = 30 * time.Second
	}
	return o
}

// An Engine tries what is queued until it is delivered, returned or given up
// (RFC 5321, Sections 4.5.4.1 and 6.1). What it remembers of destinations is
// only in memory: after a restart each is as if it had never failed, but for
// the attempts that its messages have behind them. Its methods may be called
// concurrently.
type Engine struct {
	o          EngineOptions
	plan       schedule
	postmaster addr.Address // null: none
	settler    *settler
	limits     notices
	outage     outage
	counts     counts

	kick  chan struct{} // the agenda has changed
	leave chan struct{} // closed when Run is to end

	mu      sync.Mutex
	hosts   map[Destination]*host
	agenda  agenda
	waiting [2]fifo // whose time has come; [1]: of those that failed before
	running [2]int
	visits  sync.WaitGroup
}

// NewEngine returns an Engine that does nothing before Run.
func NewEngine(o EngineOptions) *Engine {
	e := &Engine{
		o:     o.withDefaults(),
		plan:  schedule{Retry: o.Retry, Warn: o.WarnAfter, Expire: o.ExpireAfter}.defaults(),
		kick:  make(chan struct{}, 1),
		leave: make(chan struct{}),
		hosts: make(map[Destination]*host),
	}
	e.settler = newSettler(e)
	a, err := addr.ParseAddress(o.Postmaster)
	if err != nil {
		e.o.Log.Error().Err(err).Msg("the postmaster's address is not one: nobody will hear of undeliverable bounces")
	}
	e.postmaster = a
	return e
}

// Run tries mail until ctx ends. Then it claims no more, gives running attempts
// the grace time, and writes down what became of them. The error says that
// outcomes could not be written; their messages will be tried again.
func (e *Engine) Run(ctx context.Context) error {
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	settled := make(chan struct{})
	go func() {
		defer close(settled)
		e.settler.run(work)
	}()
	var loops sync.WaitGroup
	loops.Go(func() { e.scan(ctx) })
	loops.Go(func() { e.dispatch(ctx, work) })
	<-ctx.Done()
	close(e.leave)
	loops.Wait()
	return e.end(stop, settled)
}

// end waits for what runs: deliveries for the grace time, and behind it for
// their outcomes as long again.
func (e *Engine) end(stop context.CancelFunc, settled <-chan struct{}) error {
	grace := time.AfterFunc(e.o.Grace, stop)
	e.visits.Wait()
	grace.Stop()
	e.settler.close()
	limit := time.NewTimer(e.o.Grace)
	defer limit.Stop()
	select {
	case <-settled:
	case <-limit.C:
		e.settler.abandon()
		<-settled
	}
	if n := e.settler.unwritten(); n > 0 {
		return fmt.Errorf("the outcomes of %d messages could not be written down: they will be tried again", n)
	}
	return nil
}

func (e *Engine) leaving() bool {
	select {
	case <-e.leave:
		return true
	default:
		return false
	}
}

// Wake says that destinations have new mail. It is cheap.
func (e *Engine) Wake(dests ...Destination) {
	now := time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, d := range dests {
		e.wake(e.host(d), now)
	}
}

// Retry forgets the back-off of destinations: an operator wants it, or a policy
// has changed. One message is tried, the others follow its success.
func (e *Engine) Retry(dests ...Destination) {
	now := time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, d := range dests {
		h := e.host(d)
		h.forced = true
		e.wake(h, now)
	}
}

// wake makes h visited at once. The caller holds mu.
func (e *Engine) wake(h *host, now time.Time) {
	switch h.state {
	case active:
		h.woken = true
		h.line.nudge()
	case idle:
		if f := h.failure; f != nil && !h.forced && now.Add(gather).Before(f.until) {
			now = now.Add(gather)
		}
		if h.next.IsZero() || now.Before(h.next) {
			e.at(h, now)
		}
	}
}

// gather is how long new mail for a destination in back-off waits for more,
// before it is told why it waits.
const gather = time.Second

// remind makes a destination visited at a time, if it is not before. A retry
// has been written.
func (e *Engine) remind(d Destination, at time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	h := e.host(d)
	if h.state == active {
		if h.later.IsZero() || at.Before(h.later) {
			h.later = at
		}
		return
	}
	if h.state == idle && (h.next.IsZero() || at.Before(h.next)) {
		e.at(h, at)
	}
}

// host returns the host of d, which it makes if there is none. The caller holds
// mu.
func (e *Engine) host(d Destination) *host {
	h := e.hosts[d]
	if h == nil {
		h = &host{dest: d, place: -1}
		e.hosts[d] = h
	}
	return h
}

// at sets when an idle host is visited. The caller holds mu.
func (e *Engine) at(h *host, t time.Time) {
	h.next = t
	e.agenda.set(h)
	if h.place == 0 {
		e.stir()
	}
}

// stir makes dispatch look again.
func (e *Engine) stir() {
	select {
	case e.kick <- struct{}{}:
	default:
	}
}
