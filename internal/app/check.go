package app

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"stsrelay/delivery"
	"stsrelay/internal/addr"
	"stsrelay/internal/boltstore"
	"stsrelay/internal/check"
	"stsrelay/internal/network"
	"stsrelay/internal/resolver"
	"stsrelay/stscache"

	"github.com/rs/zerolog"
)

// CheckOptions is how domains are to be checked.
type CheckOptions struct {
	Hostname string           // EHLO name; "": the literal of the local address
	DNS      []netip.AddrPort // empty: resolv.conf
	Policy   *stscache.Policy // a trial in place of the published one
	For      addr.Domain      // that Policy is for; zero: every domain
	Mode     stscache.Mode    // a trial of another mode; "": as published
	Servers  []check.Server   // mail servers that are not in DNS
	NoSMTP   bool             // contact no mail server
	Dialer   network.Dialer   // nil: the network
	Roots    *x509.CertPool   // nil: the system's
	Private  []netip.Prefix   // networks that DNS may lead into
	Trace    delivery.Tracer  // hears every connection; nil: nobody
}

// checkTimeouts are shorter than a sender's: somebody waits.
var checkTimeouts = delivery.Timeouts{Connect: 10 * time.Second, Greeting: 20 * time.Second, Hello: 20 * time.Second, TLS: 20 * time.Second, Quit: 2 * time.Second}

// NewChecker builds the rooms that deliver, without those that keep mail. What
// it learns is forgotten by close.
func NewChecker(ctx context.Context, o CheckOptions) (c *check.Checker, close func() error, err error) {
	t, err := newTrial(ctx, o)
	if err != nil {
		return nil, nil, err
	}
	return &check.Checker{Sender: t.client, Resolver: t.dns, NoSMTP: o.NoSMTP, Validating: t.validating}, t.close, nil
}

// NewTrySender is NewChecker for who means to send.
func NewTrySender(ctx context.Context, o CheckOptions) (c *delivery.Client, close func() error, err error) {
	t, err := newTrial(ctx, o)
	if err != nil {
		return nil, nil, err
	}
	return t.client, t.close, nil
}

// FetchPolicy gets the policy file of a domain as it is served.
func FetchPolicy(ctx context.Context, o CheckOptions, domain addr.Domain) ([]byte, error) {
	t, err := newTrial(ctx, o)
	if err != nil {
		return nil, err
	}
	body, err := t.policies.Fetch(ctx, domain)
	return body, errors.Join(err, t.close())
}

// A trial is the rooms that deliver, over a cache of policies that lives no
// longer than itself.
type trial struct {
	dir        string
	store      *boltstore.Store
	dns        *resolver.Client
	validating bool
	policies   *stscache.Cache
	client     *delivery.Client
}

func (t *trial) close() error { return errors.Join(t.store.Close(), os.RemoveAll(t.dir)) }

func newTrial(ctx context.Context, o CheckOptions) (t *trial, err error) {
	t = &trial{}
	if t.dir, err = os.MkdirTemp("", "stsrelay-trial-"); err != nil {
		return nil, err
	}
	if t.store, err = boltstore.Open(t.dir, boltstore.Options{NoSync: true, Log: zerolog.Nop()}); err != nil {
		return nil, errors.Join(err, os.RemoveAll(t.dir))
	}
	if err := t.build(ctx, o); err != nil {
		return nil, errors.Join(err, t.close())
	}
	return t, nil
}

func (t *trial) build(ctx context.Context, o CheckOptions) (err error) {
	if t.dns, err = resolver.New(resolver.Options{Servers: o.DNS}); err != nil {
		return err
	}
	if o.Dialer == nil {
		o.Dialer = &net.Dialer{}
	}
	t.validating = t.dns.SelfTest(ctx) == nil
	guard := network.Guard{Allow: slices.Clone(o.Private)}
	var names delivery.Resolver = t.dns
	if len(o.Servers) > 0 {
		names = check.Bench{Resolver: t.dns, Servers: o.Servers}
		o.Dialer = portDialer{o.Dialer, o.Servers}
		for _, s := range o.Servers { // named by who asks, wherever they are
			guard.Allow = append(guard.Allow, netip.PrefixFrom(s.Addr.Addr(), s.Addr.Addr().BitLen()))
		}
	}
	t.policies = stscache.New(stscache.Options{Store: t.store, Resolver: t.dns, Dialer: o.Dialer, Guard: guard, Roots: o.Roots, FetchLimit: 20 * time.Second, Log: zerolog.Nop()})
	t.client, err = delivery.New(delivery.Options{Hostname: o.Hostname, Resolver: names, Dialer: o.Dialer, Guard: guard, Roots: o.Roots,
		Policies:   check.Trial{Policies: t.policies, Policy: o.Policy, Domain: o.For, Mode: o.Mode},
		Validating: func() bool { return t.validating }, DiscoveryFailureGrace: 10 * time.Minute, Timeouts: checkTimeouts, Trace: o.Trace, Log: zerolog.Nop()})
	return err
}

// A portDialer reaches servers that were named with a port of their own.
type portDialer struct {
	network.Dialer
	servers []check.Server
}

func (p portDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if at, err := netip.ParseAddrPort(address); err == nil && at.Port() == 25 {
		for _, s := range p.servers {
			if s.Addr.Addr() == at.Addr() && s.Addr.Port() != 25 {
				return (&net.Dialer{}).DialContext(ctx, network, s.Addr.String())
			}
		}
	}
	return p.Dialer.DialContext(ctx, network, address)
}
