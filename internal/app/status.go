package app

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"stsrelay/internal/admin"
	"stsrelay/stscache"
)

// status gathers what the rooms say of themselves.
func (h *house) status(ctx context.Context) admin.Status {
	s := admin.Status{
		Schema: "stsrelay.status/v1", Version: h.o.Version, Hostname: h.cfg.Hostname.String(), Started: h.started.UTC(),
		Config: h.o.ConfigPath, DataDir: h.cfg.DataDir, Enforcement: h.cfg.Delivery.Enforcement, Healthy: true,
		DNS: h.selfTest.text(), Policies: map[string]int{}, Warnings: h.cfg.Warnings(),
	}
	for _, mode := range []stscache.Mode{stscache.Enforce, stscache.Testing, stscache.None} {
		s.Policies[string(mode)] = 0
	}
	for mode, n := range h.policies.Modes() {
		s.Policies[string(mode)] = n
	}
	h.engineStatus(&s)
	h.reportStatus(ctx, &s)
	for _, d := range h.doors {
		s.Listeners = append(s.Listeners, d.String())
		l := d.listener.Snapshot()
		s.Counters["accepted"] += l.Accepted
		s.Counters["refused"] += l.Refused
	}
	if q, err := h.store.Stats(ctx); err != nil {
		s.Warnings = append(s.Warnings, fmt.Sprintf("the queue cannot be counted: %v", err))
	} else {
		s.Queue = admin.QueueStatus{Active: q.Active, Deferred: q.Deferred, Held: q.Held, Bytes: q.Bytes, OldestSeconds: q.Oldest.Seconds()}
	}
	if err := h.store.Health(); err != nil {
		s.Healthy = false
		s.Warnings = append(s.Warnings, fmt.Sprintf("no mail is accepted: %v", err))
	}
	return s
}

func (h *house) engineStatus(s *admin.Status) {
	e := h.engine.Snapshot()
	s.Counters = map[string]uint64{"sent": e.Sent, "deferred": e.Deferred, "bounced": e.Bounced, "possible_duplicates": e.MayDup}
	for _, d := range e.Destinations {
		if d.Failures > 0 {
			s.Destinations = append(s.Destinations, admin.Destination{Name: string(d.Destination), Failures: d.Failures,
				Next: d.Next.UTC(), Reason: string(d.Reason), Text: d.Text})
		}
	}
	slices.SortFunc(s.Destinations, func(a, b admin.Destination) int { return b.Failures - a.Failures })
	if e.Outage != "" {
		s.Warnings = append(s.Warnings, "a fault here holds bounces back "+e.Outage)
	}
	if e.Unwritten > 0 {
		s.Warnings = append(s.Warnings, fmt.Sprintf("%d outcomes wait to be written to the store", e.Unwritten))
	}
}

// A selfTest remembers whether DNS validates (ledger DANE-2.1.1-01).
type selfTest struct {
	mu  sync.Mutex
	at  time.Time // zero: not yet
	err error
}

// selfTestEvery is short enough that an operator who mends the resolver sees it.
const selfTestEvery = 5 * time.Minute

// testDNS tests the resolver at once and then from time to time.
func (h *house) testDNS(ctx context.Context) error {
	tick := time.NewTicker(selfTestEvery)
	defer tick.Stop()
	for {
		err := h.dns.SelfTest(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if h.selfTest.note(err, time.Now()) {
			h.o.Log.Info().Bool("validating", err == nil).AnErr("why", err).Msg("DNSSEC self-test")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// note keeps an outcome and reports whether it is news.
func (t *selfTest) note(err error, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	news := t.at.IsZero() || (t.err == nil) != (err == nil)
	t.at, t.err = now, err
	return news
}

func (t *selfTest) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.at.IsZero():
		return "DNSSEC self-test under way"
	case t.err != nil:
		return fmt.Sprintf("not validating, DANE off: %v", t.err)
	}
	return "validating (self-test ok " + t.at.UTC().Format("15:04") + " UTC)"
}
