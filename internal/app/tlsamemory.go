package app

import (
	"context"
	"slices"
	"sync"
	"time"

	"stsrelay/delivery"
	"stsrelay/internal/addr"
	"stsrelay/internal/boltstore"

	"github.com/rs/zerolog"
)

// A tlsaMemory remembers which hosts had secure TLSA records, so that mail to
// them waits when the resolver stops validating, even across a restart (ledger
// DANE-2.1.1-01). It answers from memory; its goroutine writes what is new, and
// what is known at most once a day for each host.
type tlsaMemory struct {
	store   *boltstore.Store
	log     zerolog.Logger
	most    int
	changed chan struct{} // there is something to be written

	mu      sync.Mutex // guards what follows
	hosts   map[addr.Host]tlsaHost
	unsaved map[addr.Host]bool // those without an entry in hosts are to be forgotten
}

type tlsaHost struct {
	seen    time.Time
	written time.Time // zero: never
}

var _ delivery.TLSAMemory = (*tlsaMemory)(nil)

const (
	tlsaKept    = 30 * 24 * time.Hour
	tlsaRewrite = 24 * time.Hour
	tlsaMost    = 100_000 // hosts; some 20 MB
	tlsaBatch   = 1000    // hosts written at once
	tlsaSweep   = 10 * time.Minute
)

// newTLSAMemory returns a memory of what the store knows.
func newTLSAMemory(ctx context.Context, store *boltstore.Store, most int, log zerolog.Logger) (*tlsaMemory, error) {
	m := &tlsaMemory{store: store, log: log, most: most, changed: make(chan struct{}, 1),
		hosts: map[addr.Host]tlsaHost{}, unsaved: map[addr.Host]bool{}}
	kept, err := store.TLSAHosts(ctx)
	if err != nil {
		return nil, err
	}
	for host, seen := range kept {
		m.hosts[host] = tlsaHost{seen: seen, written: seen}
	}
	m.sweep(time.Now())
	return m, nil
}

// SawTLSA notes that a host has secure TLSA records.
func (m *tlsaMemory) SawTLSA(host addr.Host, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	h := m.hosts[host]
	h.seen = now
	if h.written.IsZero() || now.Sub(h.written).Abs() >= tlsaRewrite {
		h.written = now
		m.touch(host)
	}
	m.hosts[host] = h
	if len(m.hosts) > m.most {
		m.makeRoom(now)
	}
}

// HadTLSA reports whether a host had secure TLSA records within the last 30
// days.
func (m *tlsaMemory) HadTLSA(host addr.Host, now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	h, ok := m.hosts[host]
	return ok && now.Sub(h.seen) < tlsaKept
}

// ForgetTLSA notes that a host has none any more.
func (m *tlsaMemory) ForgetTLSA(host addr.Host) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.forget(host)
}

// count is how many hosts are remembered.
func (m *tlsaMemory) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.hosts)
}

// forget drops a host. The caller holds mu, as for what follows.
func (m *tlsaMemory) forget(host addr.Host) {
	if _, ok := m.hosts[host]; ok {
		delete(m.hosts, host)
		m.touch(host)
	}
}

func (m *tlsaMemory) touch(host addr.Host) {
	m.unsaved[host] = true
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

// makeRoom forgets a tenth of the hosts: those that no mail went to for longest.
func (m *tlsaMemory) makeRoom(now time.Time) {
	list := make([]addr.Host, 0, len(m.hosts))
	for host := range m.hosts {
		list = append(list, host)
	}
	slices.SortFunc(list, func(a, b addr.Host) int { return m.hosts[a].seen.Compare(m.hosts[b].seen) })
	drop := m.most/10 + 1
	m.log.Warn().Int("hosts", drop).Time("seen_before", m.hosts[list[drop]].seen).
		Msg("too many hosts with TLSA records: those seen longest ago are forgotten")
	for _, host := range list[:drop] {
		m.forget(host)
	}
}

// sweep forgets hosts whose time is over. A time to come is the work of a clock
// that was wrong: it counts as now.
func (m *tlsaMemory) sweep(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for host, h := range m.hosts {
		switch age := now.Sub(h.seen); {
		case age >= tlsaKept:
			m.forget(host)
		case age < 0:
			m.hosts[host] = tlsaHost{seen: now, written: now}
			m.touch(host)
		}
	}
	if len(m.hosts) > m.most {
		m.makeRoom(now)
	}
}

// run writes what changes until ctx ends, and then what is left.
func (m *tlsaMemory) run(ctx context.Context) error {
	tick := time.NewTicker(tlsaSweep)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			m.save(context.WithoutCancel(ctx))
			return nil
		case <-m.changed:
		case <-tick.C: // also another try after a failure
			m.sweep(time.Now())
		}
		m.save(ctx)
	}
}

// save writes what is new, until nothing is left or a write fails.
func (m *tlsaMemory) save(ctx context.Context) {
	for {
		part := m.take()
		if len(part) == 0 {
			return
		}
		if err := m.store.KeepTLSAHosts(ctx, part); err != nil {
			m.log.Warn().Err(err).Msg("hosts with TLSA records are not written yet")
			m.mu.Lock()
			for host := range part {
				m.unsaved[host] = true
			}
			m.mu.Unlock()
			return
		}
	}
}

// take returns hosts to be written, with the zero time for those to be
// forgotten.
func (m *tlsaMemory) take() map[addr.Host]time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	part := make(map[addr.Host]time.Time)
	for host := range m.unsaved {
		if len(part) == tlsaBatch {
			break
		}
		part[host] = m.hosts[host].seen
		delete(m.unsaved, host)
	}
	return part
}
