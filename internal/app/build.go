package app

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"stsrelay/delivery"
	"stsrelay/internal/addr"
	"stsrelay/internal/admin"
	"stsrelay/internal/boltstore"
	"stsrelay/internal/config"
	"stsrelay/internal/network"
	"stsrelay/internal/resolver"
	"stsrelay/relay"
	"stsrelay/stscache"
	"stsrelay/tlsrpt"
)

// A house is the rooms of one relay.
type house struct {
	cfg     config.Config
	o       Options
	started time.Time

	store    *boltstore.Store
	dns      *resolver.Client
	policies *stscache.Cache
	client   *delivery.Client
	engine   *relay.Engine
	reports  *tlsrpt.Sender // nil: off
	doors    []*door
	admin    *admin.Server
	dane     *validation
	tlsa     *tlsaMemory
}

// A door is a listener and the socket it takes connections from.
type door struct {
	name     string
	address  net.Addr
	listener *relay.Listener
	socket   net.Listener
}

// String is the door as people see it; without a name of its own it has that of
// its address.
func (d *door) String() string {
	if d.name == d.address.String() {
		return d.name
	}
	return d.name + " " + d.address.String()
}

// build makes every room and binds every address, so that what cannot be had is
// an error before any mail is taken.
func build(ctx context.Context, cfg config.Config, o Options) (h *house, err error) {
	h = &house{cfg: cfg, o: o.defaults(), started: time.Now()}
	var closers []io.Closer
	defer func() {
		if err == nil {
			return
		}
		for _, c := range closers {
			err = errors.Join(err, c.Close())
		}
	}()
	if err := Check(cfg); err != nil {
		return nil, err
	}
	if h.store, err = boltstore.Open(cfg.DataDir, boltstore.Options{Log: h.o.Log}); err != nil {
		return nil, err
	}
	closers = append(closers, h.store)
	for _, l := range cfg.Listeners {
		d, err := bind(ctx, l)
		if err != nil {
			return nil, fmt.Errorf("listener %s: %w", l.Name, err)
		}
		closers = append(closers, d.socket)
		h.doors = append(h.doors, d)
	}
	if err := h.buildRooms(ctx); err != nil {
		return nil, err
	}
	for i, l := range cfg.Listeners {
		if h.doors[i].listener, err = h.buildListener(l); err != nil {
			return nil, err
		}
	}
	ao := admin.Options{Socket: cfg.Admin.Socket, HTTP: cfg.Admin.HTTP, Queue: h.store, Retry: h.engine.Retry,
		Entries: h.store, Policies: h.policies, Status: h.status, Log: h.o.Log}
	if h.reports != nil {
		ao.Reports = h.reports
	}
	h.admin, err = admin.Listen(ao)
	return h, err
}

func (o Options) defaults() Options {
	if o.Dialer == nil {
		o.Dialer = &net.Dialer{}
	}
	if o.Grace <= 0 {
		o.Grace = 30 * time.Second
	}
	return o
}

// buildRooms makes what stands between the store and the listeners.
func (h *house) buildRooms(ctx context.Context) (err error) {
	cfg, o := h.cfg, h.o
	roots := o.Roots
	if roots == nil && cfg.Delivery.RootsFile != "" {
		if roots, err = config.LoadRoots(cfg.Delivery.RootsFile); err != nil {
			return fmt.Errorf("[delivery] roots_file: %w", err)
		}
	}
	if h.dns, err = resolver.New(resolver.Options{Servers: cfg.DNS.Servers, TrustAD: cfg.DNS.TrustAD,
		NoIPv4: !cfg.Delivery.Uses("ipv4"), NoIPv6: !cfg.Delivery.Uses("ipv6")}); err != nil {
		return err
	}
	if err := h.buildDANE(ctx); err != nil {
		return err
	}
	guard := network.Guard{Allow: cfg.Network.AllowPrivate}
	h.policies = stscache.New(stscache.Options{Store: h.store, Resolver: h.dns, Dialer: o.Dialer, Guard: guard, Roots: roots,
		FetchLimit: o.FetchLimit, Changed: func(d addr.Domain) { h.engine.Retry(destinationOf(d)) }, Log: o.Log})
	if h.client, err = h.buildClient(guard, roots); err != nil {
		return err
	}
	h.engine = relay.NewEngine(relay.EngineOptions{
		Store: h.store, Deliverer: h.client, Hostname: cfg.Hostname.String(), Postmaster: cfg.Postmaster.String(),
		Retry: durations(cfg.Queue.Retry), WarnAfter: cfg.Queue.WarnAfter.Duration, ExpireAfter: cfg.Queue.ExpireAfter.Duration,
		Lanes: cfg.Delivery.MaxConnectionsPerHost, Waiting: h.policies.Watch, Override: newOverrides(cfg, o.Log).at, BounceVia: cfg.Queue.BounceVia.Hop,
		NoTallies: !cfg.TLSRPT.Enabled, Log: o.Log, Grace: o.Grace,
	})
	return h.buildReports(guard, roots)
}

func (h *house) buildClient(guard network.Guard, roots *x509.CertPool) (*delivery.Client, error) {
	cfg, timeouts := h.cfg, h.o.Timeouts
	if timeouts.Connect <= 0 {
		timeouts.Connect = cfg.Delivery.ConnectTimeout.Duration
	}
	var own []netip.AddrPort
	for _, d := range h.doors {
		if a, ok := d.address.(*net.TCPAddr); ok {
			own = append(own, a.AddrPort())
		}
	}
	return delivery.New(delivery.Options{
		Hostname: cfg.Hostname.String(), Resolver: h.dns, Policies: h.policies, Dialer: h.o.Dialer, Guard: guard, Roots: roots,
		Validating: h.dane.validating, Revalidate: h.dane.again, Seen: h.tlsa,
		IPv6: cfg.Delivery.Uses("ipv6"), IPv4: cfg.Delivery.Uses("ipv4"), Prefer4: cfg.Delivery.IPFamilies[0] == "ipv4",
		Bind: cfg.Delivery.Bind, Own: own,
		Rules:                 delivery.Rules{DANESupersedes: cfg.STS.DANESupersedes, Audit: cfg.Delivery.Enforcement == "audit"},
		DiscoveryFailureGrace: cfg.STS.DiscoveryFailureGrace.Duration,
		MaxConnections:        cfg.Delivery.MaxConnections, MaxConnectionsPerHost: cfg.Delivery.MaxConnectionsPerHost,
		Timeouts: timeouts, Log: h.o.Log,
	})
}

func (h *house) buildListener(l config.Listener) (*relay.Listener, error) {
	o := relay.ListenerOptions{
		Name: l.Name, Hostname: h.cfg.Hostname.String(), AllowFrom: l.AllowFrom, MaxMessageSize: int64(l.MaxMessageSize),
		Normalize: l.LineEndings == "normalize", Postmaster: h.cfg.Postmaster, Store: h.store, Wake: h.engine.Wake, Grace: h.o.Grace, Log: h.o.Log,
		StrictHeaders: l.StrictHeaders, HideClient: l.HideClient, Implicit: l.TLS == "implicit", IgnoreTLSRequired: !l.TLSRequired,
	}
	if l.CheckRcptDNS {
		o.NullMX = h.isNullMX
	}
	if l.TLS != "off" {
		c, err := newCertificate(l, h.o.Log)
		if err != nil {
			return nil, fmt.Errorf("listener %s: %w", l.Name, err)
		}
		o.TLS = c.config()
	}
	return relay.NewListener(o), nil
}

// isNullMX reports whether a domain takes no mail (RFC 7505, Section 3): its MX
// records name no host, and nothing that was meant for one.
func (h *house) isNullMX(ctx context.Context, d addr.Domain) (bool, error) {
	a, err := h.dns.MX(ctx, d)
	return len(a.Records) > 0 && !slices.ContainsFunc(a.Records, func(r resolver.MX) bool { return r.Name != "." }), err
}

func bind(ctx context.Context, l config.Listener) (*door, error) {
	var ln net.Listener
	var err error
	if path, ok := strings.CutPrefix(l.Address, "unix:"); ok {
		ln, err = network.ListenUnix(path, 0o666) // who may come in is for the directory to say
	} else {
		var lc net.ListenConfig
		ln, err = lc.Listen(ctx, "tcp", l.Address)
	}
	if err != nil {
		return nil, err
	}
	return &door{name: l.Name, address: ln.Addr(), socket: ln}, nil
}

// destinationOf is where mail to addresses of a domain waits.
func destinationOf(d addr.Domain) relay.Destination {
	return relay.Destination(addr.DomainHop(d).String())
}

func durations(list []config.Duration) (out []time.Duration) {
	for _, d := range list {
		out = append(out, d.Duration)
	}
	return out
}
