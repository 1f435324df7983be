package tlsrpt_test

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"stsrelay/delivery"
	"stsrelay/internal/addr"
	"stsrelay/internal/boltstore"
	"stsrelay/internal/lab"
	"stsrelay/internal/network"
	"stsrelay/internal/resolver"
	"stsrelay/relay"
	"stsrelay/stscache"
	"stsrelay/tlsrpt"

	"github.com/rs/zerolog"
)

// A town is a whole relay on the lab's internet, but for the policy cache,
// which the test fills: real DNS, SMTP, TLS and HTTPS, in our own time.
type town struct {
	*lab.World
	t      *testing.T
	store  *boltstore.Store
	engine *relay.Engine
	sender *tlsrpt.Sender

	mu       sync.Mutex
	policies map[string]stscache.Status
}

func (w *town) Lookup(_ context.Context, d addr.Domain) stscache.Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.policies[d.String()]
}

func (w *town) Refresh(ctx context.Context, d addr.Domain) stscache.Status { return w.Lookup(ctx, d) }

func newTown(t *testing.T, change func(*tlsrpt.Options)) *town {
	t.Helper()
	world, err := lab.Start(lab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	w := &town{World: world, t: t, policies: map[string]stscache.Status{}}
	if w.store, err = boltstore.Open(t.TempDir(), boltstore.Options{NoSync: true, FreeSpace: -1, Log: zerolog.Nop()}); err != nil {
		t.Fatal(err)
	}
	var servers []netip.AddrPort
	for _, s := range world.DNSServers() {
		servers = append(servers, netip.MustParseAddrPort(s))
	}
	dns, err := resolver.New(resolver.Options{Servers: servers})
	if err != nil {
		t.Fatal(err)
	}
	guard := network.Guard{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	client, err := delivery.New(delivery.Options{Hostname: sender, Resolver: dns, Policies: w, Dialer: world.Dialer(),
		Guard: guard, Roots: world.Roots(), IPv4: true, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	w.engine = relay.NewEngine(relay.EngineOptions{Store: w.store, Deliverer: client, Hostname: sender, Postmaster: "postmaster@" + sender, Log: zerolog.Nop()})
	key, public := testKey(t)
	world.DNS.SetTXT(keyName, "v=DKIM1; k=ed25519; s=tlsrpt:email; p="+public)
	o := tlsrpt.Options{Store: w.store, Resolver: dns, Dialer: world.Dialer(), Guard: guard, Roots: world.Roots(), Keys: []tlsrpt.SigningKey{key},
		Identity: tlsrpt.Identity{Organization: "Example Inc", Contact: addr.MustAddress("tls@" + sender)},
		Queued:   func(a addr.Address) { w.engine.Wake(relay.Destination(a.NextHop().String())) }, HostGap: -1, Log: zerolog.Nop()}
	if change != nil {
		change(&o)
	}
	if w.sender, err = tlsrpt.NewSender(o); err != nil {
		t.Fatal(err)
	}
	w.run(client.Run, w.engine.Run, w.sender.Run)
	return w
}

// run runs loops until the test ends; then everything is closed.
func (w *town) run(loops ...func(context.Context) error) {
	ctx, stop := context.WithCancel(w.t.Context())
	var all sync.WaitGroup
	for _, f := range loops {
		all.Go(func() {
			if err := f(ctx); err != nil {
				w.t.Error(err)
			}
		})
	}
	w.t.Cleanup(func() {
		stop()
		all.Wait()
		if err := w.store.Close(); err != nil {
			w.t.Error(err)
		}
		w.Close()
	})
}

// policy puts a policy in force that names mx.<domain>, or what is given.
func (w *town) policy(domain string, mode stscache.Mode, mx ...string) {
	if len(mx) == 0 {
		mx = []string{"mx." + domain}
	}
	p := &stscache.Policy{Mode: mode, MaxAge: time.Hour}
	lines := []string{"version: STSv1", "mode: " + string(mode)}
	for _, m := range mx {
		p.MX, lines = append(p.MX, stscache.Pattern(m)), append(lines, "mx: "+m)
	}
	w.set(domain, stscache.Status{Policy: p, ID: "1", Lines: append(lines, "max_age: 3600"), Fetched: time.Now(), Expires: time.Now().Add(time.Hour)})
}

func (w *town) set(domain string, s stscache.Status) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.policies[domain] = s
}

// mail sends a message to someone at domain and waits until it was tried. It
// returns whether it was delivered.
func (w *town) mail(domain string) bool {
	w.t.Helper()
	id := relay.NewID()
	b, err := w.store.NewBody(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	_, err = io.WriteString(b, "Subject: hi\r\n\r\nhi\r\n")
	to := addr.MustAddress("secret-user@" + domain)
	dest := relay.Destination(to.NextHop().String())
	if err == nil {
		err = w.store.Accept(w.t.Context(), relay.Message{ID: id, From: addr.MustAddress("someone@" + sender), Size: b.Size(),
			Entries: []relay.NewEntry{{ID: id, Destination: dest, To: []relay.Recipient{{Address: to, Notify: "NEVER"}}}}}, b)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.engine.Wake(dest)
	delivered := false
	w.until("mail to "+domain+" is tried", func() bool {
		list, _, err := w.store.List(w.t.Context(), relay.Filter{IDs: []relay.ID{id}}, "", 1)
		if err != nil {
			w.t.Fatal(err)
		}
		delivered = len(list) == 0
		return delivered || list[0].Attempts > 0
	})
	return delivered
}

// until asks again and again, for half a minute.
func (w *town) until(what string, ok func() bool) {
	w.t.Helper()
	ctx, stop := context.WithTimeout(w.t.Context(), 30*time.Second)
	defer stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			w.t.Fatalf("waited in vain until %s", what)
		}
	}
}

// sendNow sends what is tallied, and returns the reports by domain.
func (w *town) sendNow() map[string]tlsrpt.Job {
	w.t.Helper()
	ctx, stop := context.WithTimeout(w.t.Context(), 30*time.Second)
	defer stop()
	jobs, err := w.sender.SendNow(ctx, tlsrpt.Request{})
	if err != nil {
		w.t.Fatal(err)
	}
	out := map[string]tlsrpt.Job{}
	for _, j := range jobs {
		out[j.Domain.String()] = j
	}
	return out
}

func (w *town) tallied() (out []string) {
	w.t.Helper()
	for tally, err := range w.store.Tallies(w.t.Context(), "") {
		if err != nil {
			w.t.Fatal(err)
		}
		for _, p := range tally.Policies {
			out = append(out, fmt.Sprintf("%s %d+%d", tally.Domain, p.Successes, p.Failures))
		}
	}
	return out
}

// summary is a report in one line: "good+bad result*n ...".
func (r report) summary() string {
	var parts []string
	for _, p := range r.Policies {
		s := fmt.Sprintf("%s %d+%d", p.Policy.Type, p.Summary.Good, p.Summary.Bad)
		for _, d := range p.Details {
			s += fmt.Sprintf(" %s*%d", d.Type, d.Count)
		}
		parts = append(parts, s)
	}
	return strings.Join(parts, "; ")
}
