package app

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"stsrelay/delivery"
	"stsrelay/internal/admin"
	"stsrelay/internal/resolver"
	"stsrelay/relay"

	"github.com/rs/zerolog"
)

// A validation knows whether DNS answers are validated, by testing the resolver
// again and again. DANE needs it (RFC 7672, Section 2.1.1; ledger
// DANE-2.1.1-01).
type validation struct {
	test     func(context.Context) error
	trustAD  bool                      // the AD bit counts whatever the test says
	hosts    func() int                // known to have had TLSA records
	forget   func()                    // drops answers that were not validated
	regained func()                    // called when answers are validated again
	pause    func(error) time.Duration // to the next test, by the outcome of the last
	log      zerolog.Logger
	tested   chan struct{} // closed after the first test

	testing sync.Mutex // held by again: one test serves all who ask

	mu    sync.Mutex // guards what follows
	at    time.Time  // of the last test; zero: none yet
	ok    bool       // by the last test that had an answer
	since time.Time  // when ok became what it is; zero: no test had an answer yet
	err   error      // of the last test
}

// testPause is how long the outcome of a test stands. A test costs one question
// to a resolver nearby, and every minute is one in which the answers of one
// that validates no more are believed; one that did not answer may be back with
// its first answer at any moment.
func (o Options) testPause(err error) time.Duration {
	switch {
	case o.SelfTest > 0:
		return o.SelfTest
	case err == nil:
		return time.Minute
	case errors.Is(err, resolver.ErrNoAnswer):
		return 5 * time.Second
	}
	return 30 * time.Second
}

// run tests until ctx ends.
func (v *validation) run(ctx context.Context) error {
	for {
		err := v.look(ctx)
		if ctx.Err() != nil {
			return nil
		}
		wait := time.NewTimer(v.pause(err))
		select {
		case <-ctx.Done():
			wait.Stop()
			return nil
		case <-wait.C:
		}
	}
}

// look tests once.
func (v *validation) look(ctx context.Context) error {
	err := v.test(ctx)
	if ctx.Err() != nil {
		return err
	}
	if err == nil && !v.passed() {
		v.forget() // before anybody believes what is left of them
	}
	if v.note(err, time.Now()) {
		v.regained()
	}
	return err
}

// note keeps an outcome, tells the log what is new, and reports whether answers
// are validated that were not before. No answer says nothing about validation:
// lookups fail then, and what was known stands.
func (v *validation) note(err error, now time.Time) (regained bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	first, silent := v.at.IsZero(), errors.Is(err, resolver.ErrNoAnswer)
	news := first || silent != errors.Is(v.err, resolver.ErrNoAnswer)
	if ok := err == nil; !silent && (v.since.IsZero() || ok != v.ok) {
		regained = ok
		v.ok, v.since, news = ok, now, true
	}
	v.at, v.err = now, err
	if first {
		close(v.tested)
	}
	if news {
		v.tell()
	}
	return regained
}

// again tests anew, unless a test ended a moment ago, and reports whether answers
// may be believed.
func (v *validation) again(ctx context.Context) bool {
	v.testing.Lock()
	defer v.testing.Unlock()
	v.mu.Lock()
	stale := time.Since(v.at) > testGap
	v.mu.Unlock()
	if stale {
		v.look(ctx) // its outcome is in the state
	}
	return v.validating()
}

// testGap bounds how often mail has the resolver tested.
const testGap = 5 * time.Second

// passed reports whether the last test that had an answer passed.
func (v *validation) passed() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.ok
}

// tell writes the state to the log. The caller holds mu.
func (v *validation) tell() {
	switch {
	case v.err == nil:
		v.log.Info().Msg("DNS answers are validated: DANE is on")
	case errors.Is(v.err, resolver.ErrNoAnswer):
		v.log.Warn().Err(v.err).Bool("dane", v.ok || v.trustAD).Msg("the DNSSEC self-test has no answer")
	case v.trustAD:
		v.log.Warn().Err(v.err).Msg("the DNSSEC self-test fails; DANE stays on, by [dns] trust_ad")
	default:
		v.log.Warn().Msg(v.problem())
	}
}

// validating reports whether DNS answers may be believed to be secure.
func (v *validation) validating() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.trustAD || v.ok
}

// problem says what an operator should know and do, "" while DANE is on. The
// caller holds mu.
func (v *validation) problem() string {
	if v.ok || v.trustAD || v.at.IsZero() {
		return ""
	}
	waits := ""
	if n := v.hosts(); n > 0 {
		waits = fmt.Sprintf(", and mail to hosts known for their TLSA records (%d) waits", n)
	}
	if v.since.IsZero() {
		return fmt.Sprintf("nobody knows yet whether DNS answers are validated, so DANE is off%s: %v", waits, v.err)
	}
	return fmt.Sprintf("DNS answers are not validated, so DANE is off%s: %v; run a validating resolver such as unbound on this machine and name it in [dns] servers", waits, v.err)
}

// status tells of it, and what to warn of.
func (v *validation) status() (s admin.DNSSECStatus, warning string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	s = admin.DNSSECStatus{Validating: v.ok, DANE: v.ok || v.trustAD, Since: v.since, Tested: v.at, TLSAHosts: v.hosts()}
	if v.err != nil {
		s.Error = v.err.Error()
	}
	return s, v.problem()
}

// buildDANE makes what DANE needs beside the resolver.
func (h *house) buildDANE(ctx context.Context) (err error) {
	if h.tlsa, err = newTLSAMemory(ctx, h.store, tlsaMost, h.o.Log); err != nil {
		return err
	}
	h.dane = &validation{test: h.dns.SelfTest, trustAD: h.cfg.DNS.TrustAD, hosts: h.tlsa.count,
		forget: h.dns.Forget, regained: h.daneRegained, pause: h.o.testPause, log: h.o.Log, tested: make(chan struct{})}
	return nil
}

// daneRegained lets the mail go that waited for validation.
func (h *house) daneRegained() {
	var waiting []relay.Destination
	for _, d := range h.engine.Snapshot().Destinations {
		if d.Failures > 0 && d.Reason == delivery.NotValidating {
			waiting = append(waiting, d.Destination)
		}
	}
	h.engine.Retry(waiting...)
}

// runQueue tries mail once the resolver has been tested: before, nobody knows
// whether DANE binds it.
func (h *house) runQueue(ctx context.Context) error {
	select {
	case <-h.dane.tested:
	case <-ctx.Done():
	}
	return h.engine.Run(ctx)
}
