package app

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"net/netip"
	"os"
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
}

// checkTimeouts are shorter than a sender's: somebody waits.
var checkTimeouts = delivery.Timeouts{Connect: 10 * time.Second, Greeting: 20 * time.Second, Hello: 20 * time.Second, TLS: 20 * time.Second, Quit: 2 * time.Second}

// NewChecker builds the rooms that deliver, without those that keep mail. What
// it learns is forgotten by close.
func NewChecker(ctx context.Context, o CheckOptions) (c *check.Checker, close func() error, err error) {
	dir, err := os.MkdirTemp("", "stsrelay-check-")
	if err != nil {
		return nil, nil, err
	}
	store, err := boltstore.Open(dir, boltstore.Options{NoSync: true, Log: zerolog.Nop()})
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	close = func() error { return errors.Join(store.Close(), os.RemoveAll(dir)) }
	dns, err := resolver.New(resolver.Options{Servers: o.DNS})
	if err != nil {
		return nil, nil, errors.Join(err, close())
	}
	if o.Dialer == nil {
		o.Dialer = &net.Dialer{}
	}
	validating := dns.SelfTest(ctx) == nil
	guard := network.Guard{Allow: o.Private}
	var names delivery.Resolver = dns
	if len(o.Servers) > 0 {
		names = check.Bench{Resolver: dns, Servers: o.Servers}
		o.Dialer = portDialer{o.Dialer, o.Servers}
		for _, s := range o.Servers { // named by who asks, wherever they are
			guard.Allow = append(guard.Allow, netip.PrefixFrom(s.Addr.Addr(), s.Addr.Addr().BitLen()))
		}
	}
	policies := stscache.New(stscache.Options{Store: store, Resolver: dns, Dialer: o.Dialer, Guard: guard, Roots: o.Roots, FetchLimit: 20 * time.Second, Log: zerolog.Nop()})
	client, err := delivery.New(delivery.Options{Hostname: o.Hostname, Resolver: names, Dialer: o.Dialer, Guard: guard, Roots: o.Roots,
		Policies:   check.Trial{Policies: policies, Policy: o.Policy, Domain: o.For, Mode: o.Mode},
		Validating: func() bool { return validating }, DiscoveryFailureGrace: 10 * time.Minute, Timeouts: checkTimeouts, Log: zerolog.Nop()})
	if err != nil {
		return nil, nil, errors.Join(err, close())
	}
	return &check.Checker{Sender: client, Resolver: dns, NoSMTP: o.NoSMTP, Validating: validating}, close, nil
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
