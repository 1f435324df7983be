package stscache

import (
	"context"
	"crypto/x509"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/internal/network"
	"stsrelay/internal/resolver"

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

// A Cache knows policies.
type Cache struct{}

// New returns a Cache that refreshes nothing before Run.
func New(o Options) *Cache { panic("stub") }

// Run refreshes policies ahead of their expiry and watches domains until ctx ends.
func (c *Cache) Run(ctx context.Context) error { panic("stub") }

// Lookup says which policy binds mail to domain now.
func (c *Cache) Lookup(ctx context.Context, domain addr.Domain) Status { panic("stub") }

// Refresh looks for a newer policy past our own caches (RFC 8461, Section 5.1, step 3; ledger STS-5-04).
func (c *Cache) Refresh(ctx context.Context, domain addr.Domain) Status { panic("stub") }

// Purge forgets what is kept of domain.
func (c *Cache) Purge(ctx context.Context, domain addr.Domain) error { panic("stub") }

// Watch says that mail begins (or ends) to wait for domain's policy to change. It does not block.
func (c *Cache) Watch(domain addr.Domain, on bool) { panic("stub") }

// Modes counts the cached unexpired policies by mode.
func (c *Cache) Modes() map[Mode]int { panic("stub") }

// ParsePolicy parses a policy file (RFC 8461, Section 3.2) and returns its lines as served.
func ParsePolicy(body []byte) (*Policy, []string, error) { panic("stub") }
