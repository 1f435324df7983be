package app

import (
	"context"
	"fmt"
	"slices"
	"time"

	"stsrelay/internal/admin"
	"stsrelay/stscache"
)

// status gathers what the rooms say of themselves.
func (h *house) status(ctx context.Context) admin.Status {
	s := admin.Status{
		Schema: "stsrelay.status/v1", Version: h.o.Version, Hostname: h.cfg.Hostname.String(), Started: h.started.UTC(),
		Config: h.o.ConfigPath, DataDir: h.cfg.DataDir, Enforcement: h.cfg.Delivery.Enforcement, Healthy: true,
		Policies: map[string]int{}, Warnings: h.cfg.Warnings(),
	}
	for _, mode := range []stscache.Mode{stscache.Enforce, stscache.Testing, stscache.None} {
		s.Policies[string(mode)] = 0
	}
	for mode, n := range h.policies.Modes() {
		s.Policies[string(mode)] = n
	}
	var warning string
	if s.DNSSEC, warning = h.dane.status(); warning != "" {
		s.Warnings = append(s.Warnings, warning)
	}
	for _, o := range h.cfg.Overrides {
		if !o.Ended(time.Now()) {
			s.Overrides++
		}
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
