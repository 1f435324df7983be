package stscache

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
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
	discoveries   = 100_000 // domains whose record cannot be looked up
	fetchesAtOnce = 64
)

// A Cache knows policies. Its methods may be called concurrently; callers that
// ask for one domain share one fetch (ledger STS-3.3-09).
type Cache struct {
	o           Options
	fetcher     *fetcher
	memory      *lru.Cache[addr.Domain, *kept] // values are never written to
	discoveries *lru.Cache[addr.Domain, discovery]
	slots       chan struct{} // of fetches

	mu      sync.Mutex
	flights map[addr.Domain]*flight
	ended   chan struct{}
	closed  bool // Run has ended: nothing is started in the background any more
	running sync.WaitGroup
	watched map[addr.Domain]*watch
	looks   chan struct{} // a domain is watched that was not
	modes   map[Mode]int
	unsaved map[addr.Domain]*kept
}

// New returns a Cache that refreshes nothing before Run.
func New(o Options) *Cache {
	if o.FetchLimit <= 0 {
		o.FetchLimit = time.Minute
	}
	if o.Changed == nil {
		o.Changed = func(addr.Domain) {}
	}
	c := &Cache{o: o, slots: make(chan struct{}, fetchesAtOnce), flights: map[addr.Domain]*flight{}, watched: map[addr.Domain]*watch{},
		looks: make(chan struct{}, 1), ended: make(chan struct{}), modes: map[Mode]int{}, unsaved: map[addr.Domain]*kept{}}
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

type answerTXT = resolver.Answer[string]

type lookupTXT func(ctx context.Context, name string) (answerTXT, error)

func (c *Cache) status(ctx context.Context, domain addr.Domain, lookup lookupTXT) Status {
	k, err := c.load(ctx, domain)
	if err != nil { // not to know what is kept is no leave to deliver in the clear
		err = fmt.Errorf("%w: reading the policy cache: %w", ErrLookup, err)
		return Status{Err: err, Since: c.failing(domain, err, time.Now())}
	}
	id, err := discover(ctx, domain, lookup)
	now := time.Now()
	since := c.failing(domain, err, now)
	st := next(k, id, err, now)
	switch {
	case st.fetch:
		return c.fetchShared(ctx, domain, id)
	case st.forget:
		c.forget(ctx, domain)
		k = &kept{}
	}
	c.use(ctx, domain, k, now)
	s := k.status(st.err, now)
	s.Since = since
	return s
}

// discover looks up the record of a domain. The name is absolute, and an alias
// of the record is followed, one of the domain never (ledger STS-3.1-12,
// STS-3.1-15, STS-1.1-03).
func discover(ctx context.Context, domain addr.Domain, lookup lookupTXT) (id string, err error) {
	answer, err := lookup(ctx, "_mta-sts."+domain.String())
	switch {
	case errors.Is(err, resolver.ErrNXDomain):
		return "", ErrNoRecord
	case err != nil:
		return "", fmt.Errorf("%w: %w", ErrLookup, err)
	}
	return ParseRecord(answer.Records)
}

// load returns what is kept of a domain, from memory or from the store.
func (c *Cache) load(ctx context.Context, domain addr.Domain) (*kept, error) {
	if k, ok := c.memory.Get(domain); ok {
		return k, nil
	}
	c.mu.Lock()
	k := c.unsaved[domain]
	c.mu.Unlock()
	if k == nil {
		e, err := c.o.Store.Policy(ctx, domain)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return nil, err
		}
		k = keep(e)
	}
	c.memory.Add(domain, k)
	return k, nil
}
