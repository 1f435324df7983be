package relay_test

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"stsrelay/delivery"
	"stsrelay/internal/addr"
	"stsrelay/internal/lab"
	"stsrelay/internal/network"
	"stsrelay/internal/resolver"
	"stsrelay/relay"
	"stsrelay/stscache"

	"github.com/rs/zerolog"
)

// policyTable is a policy cache that the test fills.
type policyTable struct {
	mu        sync.Mutex
	now       map[string]stscache.Status // what is in force
	newer     map[string]stscache.Status // what a look past the cache finds
	refreshed map[string]int
}

func (p *policyTable) Lookup(_ context.Context, d addr.Domain) stscache.Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now[d.String()]
}

func (p *policyTable) Refresh(_ context.Context, d addr.Domain) stscache.Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refreshed[d.String()]++
	if s, ok := p.newer[d.String()]; ok {
		p.now[d.String()] = s
	}
	return p.now[d.String()]
}

func (p *policyTable) set(domain string, s stscache.Status) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now[domain] = s
}

func (p *policyTable) looks(domain string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.refreshed[domain]
}

func enforce(id string, mx ...string) stscache.Status {
	p := &stscache.Policy{Mode: stscache.Enforce, MaxAge: time.Hour}
	for _, m := range mx {
		p.MX = append(p.MX, stscache.Pattern(m))
	}
	return stscache.Status{Policy: p, ID: id, Fetched: time.Now(), Expires: time.Now().Add(time.Hour)}
}

// onLab is a world whose engine delivers to the lab, in our own time.
func onLab(t *testing.T, net *lab.World, change func(*relay.EngineOptions)) (*world, *policyTable) {
	t.Helper()
	var servers []netip.AddrPort
	for _, s := range net.DNSServers() {
		servers = append(servers, netip.MustParseAddrPort(s))
	}
	dns, err := resolver.New(resolver.Options{Servers: servers})
	if err != nil {
		t.Fatal(err)
	}
	policies := &policyTable{now: map[string]stscache.Status{}, newer: map[string]stscache.Status{}, refreshed: map[string]int{}}
	client, err := delivery.New(delivery.Options{Hostname: "relay.example.com", Resolver: dns, Policies: policies, Dialer: net.Dialer(),
		Guard: network.Guard{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}, Roots: net.Roots(), IPv4: true, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, func(o *relay.EngineOptions) {
		o.Deliverer = client
		if change != nil {
			change(o)
		}
	})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := client.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		w.close()
		stop()
		<-ended
		net.Close()
	})
	return w, policies
}

func startLab(t *testing.T) *lab.World {
	t.Helper()
	net, err := lab.Start(lab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return net
}

func TestEngineOnLab(t *testing.T) {
	const limit = 30 * time.Second
	t.Run("SMTP-4.2.5-01 SMTP-3.6.3-01 a message arrives as it is, and a refused one comes back", func(t *testing.T) {
		net := startLab(t)
		good := net.AddMX(lab.MX{Name: "mx.good.test", Domains: []string{"good.test"}})
		bad := net.AddMX(lab.MX{Name: "mx.bad.test", Domains: []string{"bad.test"}, Rules: []lab.Rule{{On: lab.EndOfData, Reply: "554 5.7.1 not this"}}})
		home := net.AddMX(lab.MX{Name: "mx.home.test", Domains: []string{"home.test"}})
		w, _ := onLab(t, net, nil)
		w.start()
		ctx, stop := context.WithTimeout(t.Context(), limit)
		defer stop()
		body := "Subject: hi\r\n\r\n.dot\r\nbye\r\n"
		w.send(letter{from: "a@home.test", to: "b@good.test", body: body})
		w.send(letter{from: "a@home.test", to: "b@bad.test", body: body})
		for _, err := range []error{good.WaitMessages(ctx, 1), home.WaitMessages(ctx, 1)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		if m := good.Messages()[0]; string(m.Content) != body || m.From != "a@home.test" || m.To[0] != "b@good.test" || m.TLS == nil {
			t.Errorf("%+v", m)
		}
		if m := home.Messages()[0]; m.From != "" || m.To[0] != "a@home.test" || !bytes.Contains(m.Content, []byte("Diagnostic-Code: smtp; 554 5.7.1 not this\r\n")) ||
			!bytes.Contains(m.Content, []byte("Remote-MTA: dns; mx.bad.test\r\n")) {
			t.Errorf("%s", m.Content)
		}
		w.wait(func() bool { return len(w.entries()) == 0 })
		for _, mx := range []*lab.MXHost{good, bad, home} {
			if v := mx.Violations(); len(v) != 0 {
				t.Errorf("%s: %v", mx.Name(), v)
			}
		}
	})
	t.Run("SMTP-4.5.4.1-04 many messages to a host that is down cost one connection", func(t *testing.T) {
		net := startLab(t)
		mx := net.AddMX(lab.MX{Name: "mx.down.test", Domains: []string{"down.test"}})
		mx.Down()
		w, _ := onLab(t, net, nil)
		for i := range 200 {
			o := relay.Options{}
			if i%4 == 0 {
				o.Demand = delivery.Ignore
			}
			w.send(letter{from: "a@home.test", to: "b@down.test", options: o})
		}
		w.start()
		w.wait(func() bool { return w.engine.Snapshot().Deferred == 200 })
		if n := net.Dialer().Dials(mx.Addr()); n != 1 {
			t.Errorf("%d connections", n)
		}
	})
	t.Run("STS-5-05 mail waits for a policy, and follows it when it has changed", func(t *testing.T) {
		net := startLab(t)
		mx := net.AddMX(lab.MX{Name: "mx.strict.test", Domains: []string{"strict.test"}, Cert: lab.WrongName})
		w, policies := onLab(t, net, nil)
		policies.set("strict.test", enforce("1", "mx.strict.test"))
		for range 30 {
			w.send(letter{from: "a@home.test", to: "b@strict.test"})
		}
		w.start()
		w.wait(func() bool { // until each has its outcome in the store
			return !slices.ContainsFunc(w.entries(), func(e relay.Entry) bool { return e.To[0].Last == nil })
		})
		if n := mx.Connections(); n != 1 || len(mx.Messages()) != 0 || strings.Contains(strings.Join(mx.Commands(), "\n"), "MAIL") {
			t.Errorf("%d connections, %d messages", n, len(mx.Messages()))
		}
		for _, e := range w.entries() {
			if e.To[0].Last == nil || e.To[0].Last.Reason != delivery.CertHostMismatch {
				t.Fatalf("%+v", e.To[0].Last)
			}
		}
		policies.set("strict.test", stscache.Status{})
		w.engine.Retry("strict.test")
		ctx, stop := context.WithTimeout(t.Context(), limit)
		defer stop()
		if err := mx.WaitMessages(ctx, 30); err != nil {
			t.Fatal(err)
		}
		w.wait(func() bool { return len(w.entries()) == 0 })
		if got := w.heard(); len(got) != 2 || got[0] != "strict.test true" || got[1] != "strict.test false" {
			t.Errorf("heard %v", got)
		}
	})
	t.Run("STS-5-04 before the DSN a newer policy is looked for, and followed", func(t *testing.T) {
		net := startLab(t)
		for i, domain := range []string{"moved.test", "stays.test"} {
			net.AddMX(lab.MX{Name: fmt.Sprintf("mx%d.new.test", i), Domains: []string{domain}})
		}
		home := net.AddMX(lab.MX{Name: "mx.home.test", Domains: []string{"home.test"}})
		w, policies := onLab(t, net, nil)
		for _, domain := range []string{"moved.test", "stays.test"} {
			policies.set(domain, enforce("1", "old.new.test"))
		}
		policies.newer["moved.test"] = enforce("2", "mx0.new.test")
		for _, domain := range []string{"moved.test", "stays.test"} {
			w.send(letter{from: "a@home.test", to: "b@" + domain, options: relay.Options{Expire: 1}})
		}
		w.start()
		ctx, stop := context.WithTimeout(t.Context(), limit)
		defer stop()
		if err := home.WaitMessages(ctx, 1); err != nil {
			t.Fatal(err)
		}
		w.wait(func() bool { return len(w.entries()) == 0 })
		if policies.looks("moved.test") == 0 || policies.looks("stays.test") == 0 {
			t.Error("nobody looked")
		}
		if all := home.Messages(); len(all) != 1 || !contains(string(all[0].Content), "rfc822; b@stays.test", "Status: 5.4.8", "Diagnostic-Code: X-Stsrelay; mx-not-listed:") {
			t.Errorf("%d DSNs: %s", len(all), all[0].Content)
		}
	})
	t.Run("REQUIRETLS messages that cannot connect cost one connection", func(t *testing.T) {
		net := startLab(t)
		mx := net.AddMX(lab.MX{Name: "mx.down.test", Domains: []string{"down.test"}})
		mx.Down()
		w, policies := onLab(t, net, nil)
		policies.set("down.test", enforce("1", "mx.down.test"))
		for range 50 {
			w.send(letter{from: "a@home.test", to: "b@down.test", options: relay.Options{Demand: delivery.Require}})
		}
		w.start()
		w.wait(func() bool { return w.engine.Snapshot().Deferred == 50 })
		if n := net.Dialer().Dials(mx.Addr()); n != 1 {
			t.Errorf("%d connections", n)
		}
	})
}
