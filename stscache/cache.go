package stscache

import (
	"context"
	"crypto/x509"
	"errors"
	"sync"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/internal/network"
	"stsrelay/internal/resolver"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/rs/zerolog"
)

// Resolver is what the cache asks of DNS. *resolver.Client is one.
type Resolver interface {
	TXT(ctx context.Context, name string) (resolver.Answer[string], error)
	FreshTXT(ctx context.Context, name string) (resolver.Answer[string], error) // past the resolver's own cache
	Addresses(ctx context.Context, host addr.Host) (resolver.Addresses, error)
}

// Options is what a Cache is made of. Store, Resolver and Dialer are required.
type Options struct {
	Store      Store
	Resolver   Resolver
	Dialer     network.Dialer
	Guard      network.Guard
	Roots      *x509.CertPool    // nil: the system's
	FetchLimit time.Duration     // one fetch in all; 0: a minute (ledger STS-3.3-10)
	Changed    func(addr.Domain) // the policy of a watched domain is another one now, or was purged; must not block; nil: nobody
	Log        zerolog.Logger
}

// The bounds of what a Cache holds in memory and does at once.
const (
	inMemory      = 20_000  // decoded policies; the others are read from the store
	inMemoryCost  = 8 << 10 // of one, in octets; larger ones are read each time
	discoveries   = 100_000 // domains whose record cannot be looked up
	fetchesAtOnce = 64
	maxUnsaved    = 10_000 // entries that the store could not take
)

// A Cache knows policies. Its methods may be called concurrently; callers that
// ask for one domain share one fetch (ledger STS-3.3-09).
type Cache struct {
	o           Options
	fetcher     *fetcher
	memory      *lru.Cache[addr.Domain, *kept]
	discoveries *lru.Cache[addr.Domain, discovery]
	slots       chan struct{} // of fetches
	limit       int           // of entries in the store

	mu      sync.Mutex
	flights map[addr.Domain]*flight
	ended   chan struct{}
	closed  bool // Run has ended: nothing is started in the background any more
	running sync.WaitGroup
	watched map[addr.Domain]*watch
	looks   chan struct{} // a domain is watched that was not
	modes   map[Mode]int
	noting  map[addr.Domain]bool  // whose use is being written
	unsaved map[addr.Domain]Entry // what the store could not take
	faults  chan struct{}         // something was put there
	writes  [64]sync.Mutex        // by spread: one domain's entry has one writer at a time
}

// New returns a Cache that refreshes nothing before Run.
func New(o Options) *Cache {
	if o.FetchLimit <= 0 {
		o.FetchLimit = time.Minute
	}
	if o.Changed == nil {
		o.Changed = func(addr.Domain) {}
	}
	c := &Cache{o: o, limit: maxEntries, slots: make(chan struct{}, fetchesAtOnce), flights: map[addr.Domain]*flight{}, watched: map[addr.Domain]*watch{},
		looks: make(chan struct{}, 1), ended: make(chan struct{}), modes: map[Mode]int{}, unsaved: map[addr.Domain]Entry{}, noting: map[addr.Domain]bool{},
		faults: make(chan struct{}, 1)}
	c.fetcher = newFetcher(&c.o)
	c.memory, _ = lru.New[addr.Domain, *kept](inMemory)             // fails for sizes below 1 only
	c.discoveries, _ = lru.New[addr.Domain, discovery](discoveries) // likewise
	return c
}

// Lookup says which policy binds mail to domain now. At first contact it waits
// for the policy (ledger STS-5.1-04).
func (c *Cache) Lookup(ctx context.Context, domain addr.Domain) Status {
	return c.status(ctx, domain, c.o.Resolver.TXT)
}

// Refresh looks for a newer policy past our own caches (RFC 8461, Section 5.1,
// step 3; ledger STS-5-04).
func (c *Cache) Refresh(ctx context.Context, domain addr.Domain) Status {
	return c.status(ctx, domain, c.o.Resolver.FreshTXT)
}

func (c *Cache) status(ctx context.Context, domain addr.Domain, lookup lookupTXT) Status {
	id, err := discover(ctx, domain, lookup)
	now := time.Now()
	s := c.weigh(ctx, domain, finding{id, err, now})
	switch {
	case ctx.Err() != nil: // a caller that goes away says nothing of the domain
	case errors.Is(s.Err, errUnreadable): // a policy may be in force: no grace ends that
	default:
		s.Since = c.failing(domain, s.Err, now)
	}
	return s
}

// weigh takes the step that what is kept and what was found lead to.
func (c *Cache) weigh(ctx context.Context, domain addr.Domain, f finding) Status {
	k, fault := c.load(ctx, domain)
	if fault != nil {
		return Status{Err: unreadable(fault)}
	}
	st := next(k, f.id, f.err, f.at)
	switch {
	case st.fetch:
		return c.fetchShared(ctx, errand{domain: domain, id: f.id})
	case st.forget:
		c.forget(ctx, domain, func(current *kept) bool {
			k, st = current, next(current, f.id, f.err, f.at)
			return st.forget
		})
		if st.forget {
			return Status{Err: st.err}
		}
	}
	c.use(ctx, domain, k, f.at)
	return k.status(st.err, f.at)
}
