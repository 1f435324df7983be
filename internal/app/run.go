package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
)

// run opens the doors and waits for the end. The rooms end in the order in
// which mail passes them: no new mail, then no new attempts, and what the
// attempts need at last.
func (h *house) run(ctx context.Context) error {
	for _, w := range h.cfg.Warnings() {
		h.o.Log.Warn().Msg(w)
	}
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	base := context.WithoutCancel(ctx)
	cellar, engine, doors := newFloor(base, fail), newFloor(base, fail), newFloor(base, fail)
	cellar.start("policy cache", h.policies.Run)
	cellar.start("delivery", h.client.Run)
	cellar.start("admin", h.admin.Serve)
	cellar.start("DNS self-test", h.dane.run)
	cellar.start("memory of TLSA records", h.tlsa.run)
	engine.start("queue", h.runQueue)
	if h.reports != nil { // makes mail, so it ends with those who bring some
		doors.start("TLS reports", h.reports.Run)
	}
	for _, d := range h.doors {
		doors.start("listener "+d.name, func(ctx context.Context) error { return d.listener.Serve(ctx, d.socket) })
	}
	h.announce()
	<-ctx.Done()
	h.o.Log.Info().Msg("stopping: running deliveries may finish, everything else stays queued")
	if h.o.Stopping != nil {
		h.o.Stopping()
	}
	return errors.Join(doors.end(), engine.end(), cellar.end())
}

// announce tells those who wait that mail is accepted.
func (h *house) announce() {
	info := Info{Listeners: map[string]net.Addr{}, HTTP: h.admin.HTTPAddr(), Socket: h.cfg.Admin.Socket,
		Store: h.store, Engine: h.engine, Policies: h.policies}
	for _, d := range h.doors {
		info.Listeners[d.name] = d.address
		h.o.Log.Info().Str("listener", d.name).Stringer("address", d.address).Msg("accepting mail")
	}
	if h.o.Ready != nil {
		h.o.Ready(info)
	}
}

// A floor is a set of rooms that end together.
type floor struct {
	ctx  context.Context
	stop context.CancelFunc
	fail context.CancelCauseFunc

	wg   sync.WaitGroup
	mu   sync.Mutex
	errs []error
}

// newFloor returns a floor whose rooms live until its end. The first room that
// ends by itself has fail called, which ends the whole house.
func newFloor(ctx context.Context, fail context.CancelCauseFunc) *floor {
	f := &floor{fail: fail}
	f.ctx, f.stop = context.WithCancel(ctx)
	return f
}

func (f *floor) start(name string, run func(context.Context) error) {
	f.wg.Go(func() {
		err := run(f.ctx)
		if err == nil && f.ctx.Err() == nil {
			err = errors.New("ended without being told to")
		}
		if err == nil {
			return
		}
		err = fmt.Errorf("%s: %w", name, err)
		f.mu.Lock()
		f.errs = append(f.errs, err)
		f.mu.Unlock()
		f.fail(err)
	})
}

// end tells every room to end and waits.
func (f *floor) end() error {
	f.stop()
	f.wg.Wait()
	return errors.Join(f.errs...)
}
