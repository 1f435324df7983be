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
	Waiting   func(addr.Domain, bool)
	BounceVia addr.NextHop // where DSNs go; zero: by MX
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

// How often the store is asked for destinations that nobody told of: those
// whose lease another process let go, and what a step of the clock made due.
const rescan = 15 * time.Minute

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

// dispatch visits hosts when their time has come. Those that failed before get
// at most half of the places, so that a crowd of dead hosts does not keep good
// ones waiting.
func (e *Engine) dispatch(ctx, work context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		if wait, any := e.start(work); any {
			timer.Reset(wait)
		}
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-e.kick:
		}
	}
}

// start starts what can be started and returns how long the next host takes.
func (e *Engine) start(work context.Context) (wait time.Duration, any bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for now := time.Now(); ; {
		h, w := e.agenda.due(now)
		if h == nil {
			wait, any = w, len(e.agenda) > 0
			break
		}
		h.next, h.state = time.Time{}, queued
		e.waiting[h.class()].push(h)
	}
	for class, most := range [2]int{e.o.MaxActive, max(1, e.o.MaxActive/2)} {
		for e.waiting[class].len() > 0 && e.running[class] < most && e.running[0]+e.running[1] < e.o.MaxActive {
			h := e.waiting[class].pop()
			h.state, h.line = active, newLine(e, h)
			e.running[class]++
			e.visits.Go(func() { e.visit(work, h.line, class) })
		}
	}
	return wait, any
}

func (h *host) class() int {
	if h.failure != nil {
		return 1
	}
	return 0
}

// crowded reports whether destinations wait for a place.
func (e *Engine) crowded() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.waiting[0].len()+e.waiting[1].len() > 0
}

// scan tells the agenda of all destinations that the store has mail for.
func (e *Engine) scan(ctx context.Context) {
	again := time.NewTimer(0)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-again.C:
		}
		wait := rescan
		if err := e.scanAll(ctx); err != nil && ctx.Err() == nil {
			e.o.Log.Error().Err(err).Msg("cannot read the queue: trying again")
			wait = 5 * time.Second
		}
		again.Reset(wait)
	}
}

// scanPage is how many destinations are read at once.
const scanPage = 1000

func (e *Engine) scanAll(ctx context.Context) error {
	after := Destination("")
	for {
		page, err := e.o.Store.Due(ctx, after, scanPage)
		if err != nil {
			return err
		}
		now := time.Now()
		for _, d := range page {
			e.remind(d.Destination, now.Add(max(0, d.In)))
		}
		if len(page) < scanPage {
			return nil
		}
		after = page[len(page)-1].Destination
	}
}

// finish ends the visit of a host and decides when the next one is.
func (e *Engine) finish(ctx context.Context, l *line, class int) {
	next, err := e.nextDue(ctx, l)
	if err != nil && !e.leaving() {
		e.o.Log.Error().Err(err).Str("destination", string(l.host.dest)).Msg("cannot read the queue: trying again")
	}
	now := time.Now()
	e.mu.Lock()
	h := l.host
	h.state, h.line = idle, nil
	e.running[class]--
	if h.woken || h.forced {
		next = now
	}
	if !h.later.IsZero() && (next.IsZero() || h.later.Before(next)) {
		next = h.later
	}
	h.woken, h.later = false, time.Time{}
	f := h.failure
	gone := next.IsZero() && (f == nil || f.over(now))
	if next.IsZero() && !gone {
		next = f.until
	}
	if gone {
		delete(e.hosts, h.dest)
	} else {
		e.at(h, next)
	}
	e.mu.Unlock()
	if gone {
		e.unwatch(f)
	}
	e.stir()
}

// hostPause is how long a destination rests that could not be visited: the store
// has a fault, or keeps what it says is due.
const hostPause = 5 * time.Second

// nextDue asks the store when the next entry of a visited destination is due,
// zero if there is none.
func (e *Engine) nextDue(ctx context.Context, l *line) (time.Time, error) {
	now := time.Now()
	if l.faulty {
		return now.Add(hostPause), nil
	}
	dest := l.host.dest
	list, err := e.o.Store.Due(ctx, justBefore(dest), 1)
	if err != nil {
		return now.Add(hostPause), fmt.Errorf("asking what is due for %s: %w", dest, err)
	}
	if len(list) == 0 || list[0].Destination != dest {
		return time.Time{}, nil
	}
	in := list[0].In
	if in <= 0 && l.claimed == 0 {
		in = hostPause // it says so, and gives nothing
	}
	return now.Add(max(0, in)), nil
}

// justBefore is a string below dest and above every other name of a
// destination that is below it.
func justBefore(dest Destination) Destination {
	last := len(dest) - 1
	if last < 0 || dest[last] == 0 {
		return ""
	}
	return dest[:last] + Destination([]byte{dest[last] - 1, '~', '~', '~'})
}

// watch and unwatch tell who follows policies that mail waits for one.
func (e *Engine) watch(f *failure) {
	if f != nil && !f.watch.IsZero() {
		e.o.Waiting(f.watch, true)
	}
}

func (e *Engine) unwatch(f *failure) {
	if f != nil && !f.watch.IsZero() {
		e.o.Waiting(f.watch, false)
	}
}

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
