package resolver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/internal/network"

	"github.com/miekg/dns"
)

// Options are what a Client is made of. The zero value asks the servers of
// /etc/resolv.conf for both address families.
type Options struct {
	Servers    []netip.AddrPort  // in order of preference, but trusted ones first; empty: resolv.conf, read again when it changes
	ResolvConf string            // "": /etc/resolv.conf
	TrustAD    bool              // believe the AD bit of every server; else only of loopback ones (ledger DANE-2.1.1-02)
	Dialer     network.Dialer    // nil: the network
	NoIPv4     bool              // Addresses does not ask for A
	NoIPv6     bool              // Addresses does not ask for AAAA
	Timeout    time.Duration     // one try at one server; 0: 2.5s
	Budget     time.Duration     // one lookup in all; 0: 15s
	FailureTTL time.Duration     // how long a failed lookup is not repeated; 0: 2s
	CacheBytes int               // about what the cache may hold; 0: 64 MiB
	MaxLookups int               // lookups that may be under way at once, others wait; 0: 256
	Observe    func(Observation) // told of every try, from many goroutines; nil: nobody
}

// An Observation is one try at one server.
type Observation struct {
	Server netip.AddrPort
	Type   string        // "MX", "TXT", ...
	Result string        // the RCODE's name ("NOERROR", "NXDOMAIN", ...), "timeout" or "error"
	Took   time.Duration // until the reply, or until we gave up
}

// A Client is a caching stub resolver. Its methods may be called at the same
// time; callers that ask the same thing share one lookup, and a caller that
// goes away does not disturb the others.
type Client struct {
	options Options
	servers *servers
	cache   *cache
	flights flights
	permits chan struct{}
}

// New returns a Client. It fails when resolv.conf is needed and unreadable.
func New(o Options) (*Client, error) {
	if o.Dialer == nil {
		o.Dialer = &net.Dialer{}
	}
	o.Timeout = orDefault(o.Timeout, 2500*time.Millisecond)
	o.Budget = orDefault(o.Budget, 15*time.Second)
	o.FailureTTL = orDefault(o.FailureTTL, 2*time.Second)
	o.CacheBytes = orDefault(o.CacheBytes, 64<<20)
	o.MaxLookups = orDefault(o.MaxLookups, 256)
	if o.ResolvConf == "" {
		o.ResolvConf = "/etc/resolv.conf"
	}
	s, err := newServers(o, time.Now())
	if err != nil {
		return nil, err
	}
	return &Client{
		options: o,
		servers: s,
		cache:   newCache(o.CacheBytes),
		permits: make(chan struct{}, o.MaxLookups),
	}, nil
}

func orDefault[N time.Duration | int](n, def N) N {
	if n == 0 {
		return def
	}
	return n
}

// MX looks up the MX records of a domain, following CNAMEs (RFC 5321, Section
// 5.1; ledger SMTP-5.1-01). The null MX (RFC 7505) is a record with Name ".".
// Errors wrap ErrNXDomain, or are a *Bogus or a *Failed.
func (c *Client) MX(ctx context.Context, domain addr.Domain) (Answer[MX], error) {
	return lookup(ctx, c, ask(domain.String(), dns.TypeMX), readMX)
}

// TXT looks up the TXT records of an absolute name; no search list is ever
// used (ledger STS-3.1-15). Each record is one string of bytes: its
// character-strings joined with nothing between (ledger STS-3.1-11).
// Errors are those of MX.
func (c *Client) TXT(ctx context.Context, name string) (Answer[string], error) {
	return lookup(ctx, c, ask(name, dns.TypeTXT), readTXT)
}

// FreshTXT is TXT past our own cache, though not past the resolver's, and
// stores what it finds (ledger STS-5-04).
func (c *Client) FreshTXT(ctx context.Context, name string) (Answer[string], error) {
	k := ask(name, dns.TypeTXT)
	k.fresh = true
	return lookup(ctx, c, k, readTXT)
}

// TLSA looks up the TLSA records at _port._tcp.host (RFC 6698, Section 3).
// Errors are those of MX.
func (c *Client) TLSA(ctx context.Context, port uint16, host addr.Host) (Answer[TLSA], error) {
	if host.IsZero() {
		return lookup(ctx, c, ask("", dns.TypeTLSA), readTLSA)
	}
	name := "_" + strconv.Itoa(int(port)) + "._tcp." + host.String()
	return lookup(ctx, c, ask(name, dns.TypeTLSA), readTLSA)
}

// CNAME asks for the CNAME at name itself and does not follow it. It tells
// whether the first link of an insecure chain is secure (RFC 7672, Section
// 2.1.3; ledger DANE-2.1.3-03). Errors are those of MX.
func (c *Client) CNAME(ctx context.Context, name string) (Answer[string], error) {
	return lookup(ctx, c, ask(name, dns.TypeCNAME), readCNAME)
}

// Addresses looks up A and AAAA at once, whichever the Options allow. The
// error wraps ErrNXDomain when every family says so; see Addresses for the rest.
func (c *Client) Addresses(ctx context.Context, host addr.Host) (Addresses, error) {
	var v6, v4 family
	var both sync.WaitGroup
	if !c.options.NoIPv6 {
		both.Go(func() { v6 = c.family(ctx, ask(host.String(), dns.TypeAAAA)) })
	}
	if !c.options.NoIPv4 {
		v4 = c.family(ctx, ask(host.String(), dns.TypeA))
	}
	both.Wait()
	return join(v6, v4)
}

// Forget empties the cache: what was answered before is asked anew.
func (c *Client) Forget() { c.cache.clear() }

// A family is what one of the two address questions gave.
type family struct {
	asked  bool
	answer Answer[netip.Addr]
	err    error
}

func (c *Client) family(ctx context.Context, k key) family {
	a, err := lookup(ctx, c, k, readAddr)
	return family{asked: true, answer: a, err: err}
}

// join makes one answer of two. Denials give way to records, and NXDOMAIN for
// one family beside NODATA for the other (seen from broken load balancers) is
// NODATA.
func join(families ...family) (Addresses, error) {
	var out Addresses
	var denied error
	var found, asked, nx int
	for _, f := range families {
		if !f.asked {
			continue
		}
		asked++
		switch {
		case errors.Is(f.err, ErrNXDomain):
			nx++
			denied = f.err
		case f.err != nil:
			out.Failed = f.err
		}
		if n := len(f.answer.Records); n > 0 || found == 0 && f.answer.Canonical != "" {
			out.merge(f.answer, found == 0 && n > 0)
			found += n
		}
	}
	switch {
	case found > 0:
		return out, nil
	case out.Failed != nil:
		return out, out.Failed
	case asked > 0 && nx == asked:
		return out, denied
	}
	return out, nil
}

// merge adds b to a; first forgets what denials said before it.
func (a *Addresses) merge(b Answer[netip.Addr], first bool) {
	if first || a.Canonical == "" {
		a.Answer = b
		return
	}
	a.Records = append(a.Records, b.Records...)
	a.Secure = a.Secure && b.Secure
	if b.Expires.Before(a.Expires) {
		a.Expires = b.Expires
	}
	if a.EDE == "" {
		a.EDE = b.EDE
	}
}

// ErrNoAnswer is wrapped by the error of a SelfTest that learned nothing: no
// server gave an answer. A resolver that is away is not one that does not
// validate.
var ErrNoAnswer = errors.New("no DNS server answered")

// SelfTest asks every server for the NS records of the root, which are signed.
// It returns nil when at least one answered and all that answered said AD and
// are trusted to say it; else the error says which does not validate, and DANE
// must be off (ledger DANE-2.1.1-01), or is ErrNoAnswer. A SERVFAIL is no
// answer: a validating resolver without a way out says it too.
func (c *Client) SelfTest(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.options.Budget)
	defer cancel()
	var answered int
	var silent serversError
	for _, s := range c.servers.list(time.Now()) {
		m, err := c.try(ctx, s, question{name: ".", qtype: dns.TypeNS})
		if err == nil {
			err = usable(m)
		}
		switch {
		case err != nil:
			silent = append(silent, fmt.Errorf("%s: %w", s.address, err))
		case !s.trusted:
			return fmt.Errorf("%s is not on this machine: its word on DNSSEC counts only with [dns] trust_ad", s.address)
		case m.Rcode != dns.RcodeSuccess || !m.AuthenticatedData:
			return fmt.Errorf("%s does not validate DNSSEC: asked for the root's NS records it answered %s without AD", s.address, rcodeName(m))
		default:
			answered++
		}
	}
	if answered == 0 {
		return fmt.Errorf("%w: %w", ErrNoAnswer, silent)
	}
	return nil
}
