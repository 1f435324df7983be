package delivery

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"stsrelay/internal/network"

	"github.com/rs/zerolog"
)

// Options is what a Client is made of. Resolver, Policies, Dialer and Hostname
// are required.
type Options struct {
	Hostname string // EHLO name (ledger SMTP-4.1.1.1-01)
	Resolver Resolver
	Policies Policies
	Dialer   network.Dialer
	Guard    network.Guard
	Roots    *x509.CertPool // nil: the system's
	IPv6     bool           // [delivery] ip_families
	IPv4     bool
	Prefer4  bool             // IPv4 addresses first
	Bind     []netip.Addr     // source addresses; empty: the kernel's choice
	Own      []netip.AddrPort // our listeners, for loop detection (ledger SMTP-5.1-13)

	Validating func() bool                // whether DNS answers are validated now; nil: always. Without it there is no DANE
	Revalidate func(context.Context) bool // Validating, looked at anew; nil: Validating will do
	Seen       TLSAMemory                 // nil: nothing is remembered

	Rules                 Rules
	DiscoveryFailureGrace time.Duration
	MaxConnections        int // in all; 0 means 200
	MaxConnectionsPerHost int // per MX host; 0 means 10
	Timeouts              Timeouts
	Trace                 Tracer // hears every connection; nil: nobody
	Log                   zerolog.Logger
}

// Timeouts are those of RFC 5321, Section 4.5.3.2 (ledger SMTP-4.5.3.2-01 to
// -04). A zero field means its default.
type Timeouts struct {
	Connect  time.Duration // 30s
	Greeting time.Duration // 5m
	Hello    time.Duration // 5m
	TLS      time.Duration // 2m: STARTTLS reply and handshake
	Mail     time.Duration // 5m
	Rcpt     time.Duration // 5m
	Data     time.Duration // 2m: DATA to 354
	Block    time.Duration // 3m: each block of content
	Final    time.Duration // 10m: reply to the final dot
	Quit     time.Duration // 10s
	Idle     time.Duration // 10s: how long a kept connection waits for the next message
}

// A Client makes attempts. Its methods are safe for concurrent use; Run owns
// the connections kept between them.
type Client struct {
	options Options
	pool    *pool
	reach   *reach
	buffers sync.Pool // of *buffers
}

// New returns a Client, with every zero field of o at its default. It fails
// when something required is missing.
func New(o Options) (*Client, error) {
	o = o.defaults()
	if err := o.validate(); err != nil {
		return nil, err
	}
	c := &Client{options: o, pool: newPool(o.MaxConnections, o.MaxConnectionsPerHost, o.Timeouts.Idle), reach: newReach()}
	c.buffers.New = newBuffers
	return c, nil
}

// Run keeps connections from one Deliver to the next, and ends those that wait
// for too long. It returns nil when ctx ends and each kept connection has had
// its QUIT. Without it, every Deliver ends its own connections.
func (c *Client) Run(ctx context.Context) error {
	c.pool.run(ctx)
	return nil
}

// defaults fills in what was left zero. No family at all means both.
func (o Options) defaults() Options {
	if !o.IPv4 && !o.IPv6 {
		o.IPv4, o.IPv6 = true, true
	}
	if o.MaxConnections <= 0 {
		o.MaxConnections = 200
	}
	if o.MaxConnectionsPerHost <= 0 {
		o.MaxConnectionsPerHost = 10
	}
	o.Timeouts = o.Timeouts.defaults()
	return o
}

func (o Options) validate() error {
	var errs []error
	if o.Resolver == nil {
		errs = append(errs, errors.New("delivery needs a Resolver"))
	}
	if o.Policies == nil {
		errs = append(errs, errors.New("delivery needs Policies"))
	}
	if o.Dialer == nil {
		errs = append(errs, errors.New("delivery needs a Dialer"))
	}
	if _, plain := o.Dialer.(*net.Dialer); len(o.Bind) > 0 && !plain {
		if _, ok := o.Dialer.(binder); !ok {
			errs = append(errs, errors.New("delivery cannot bind to a source address: the Dialer knows none"))
		}
	}
	return errors.Join(errs...)
}

func (t Timeouts) defaults() Timeouts {
	set := func(d *time.Duration, def time.Duration) {
		if *d <= 0 {
			*d = def
		}
	}
	set(&t.Connect, 30*time.Second)
	set(&t.Greeting, 5*time.Minute)
	set(&t.Hello, 5*time.Minute)
	set(&t.TLS, 2*time.Minute)
	set(&t.Mail, 5*time.Minute)
	set(&t.Rcpt, 5*time.Minute)
	set(&t.Data, 2*time.Minute)
	set(&t.Block, 3*time.Minute)
	set(&t.Final, 10*time.Minute)
	set(&t.Quit, 10*time.Second)
	set(&t.Idle, 10*time.Second)
	return t
}
