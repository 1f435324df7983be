package stscache_test

import (
	"bytes"
	"context"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/internal/boltstore"
	"stsrelay/internal/lab"
	"stsrelay/internal/network"
	"stsrelay/internal/resolver"
	"stsrelay/stscache"

	"github.com/rs/zerolog"
)

// patience ends a wait that would hang; it is no measure of speed.
const patience = 30 * time.Second

var example = addr.MustDomain("example.test")

// A world is a Cache over a real store, real DNS and real policy hosts.
type world struct {
	*stscache.Cache
	t     testing.TB
	net   *lab.World
	dir   string
	bolt  *boltstore.Store
	store *moodyStore
	log   *lines
	o     stscache.Options
	stop  func()
}

func newWorld(t testing.TB, change func(*stscache.Options)) *world {
	t.Helper()
	net, err := lab.Start(lab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(net.Close)
	net.DNS.NegativeTTL(0, 0)
	w := &world{t: t, net: net, dir: t.TempDir(), log: &lines{}, stop: func() {}}
	w.o = stscache.Options{Dialer: net.Dialer(), Roots: net.Roots(), Log: zerolog.New(w.log), FetchLimit: patience,
		Guard: network.Guard{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}}
	if change != nil {
		change(&w.o)
	}
	w.open()
	t.Cleanup(func() {
		w.stop()
		if err := w.bolt.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// open makes a Cache, a store and a resolver, as a start of the program does.
func (w *world) open() {
	w.t.Helper()
	var err error
	if w.bolt, err = boltstore.Open(w.dir, boltstore.Options{NoSync: true, FreeSpace: -1, Log: zerolog.Nop()}); err != nil {
		w.t.Fatal(err)
	}
	w.store = &moodyStore{Store: w.bolt}
	w.o.Store = w.store
	if w.o.Resolver, err = resolver.New(resolver.Options{Servers: []netip.AddrPort{netip.MustParseAddrPort(w.net.DNSServers()[0])},
		Timeout: 2 * time.Second, Budget: 4 * time.Second, FailureTTL: time.Nanosecond}); err != nil {
		w.t.Fatal(err)
	}
	w.Cache = stscache.New(w.o)
}

// reopen is a restart.
func (w *world) reopen() {
	w.t.Helper()
	w.stop()
	if err := w.bolt.Close(); err != nil {
		w.t.Fatal(err)
	}
	w.open()
}

// run has the Cache refresh and watch until the test ends, or w.stop.
func (w *world) run() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	c := w.Cache
	go func() { ended <- c.Run(ctx) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				w.t.Error(err)
			}
		case <-time.After(patience):
			w.t.Error("Run does not end")
		}
	})
}

// policy adds a policy host for example.test with an enforce policy that names
// mx.example.test, and id 1.
func (w *world) policy(change func(*lab.Policy)) *lab.PolicyHost {
	p := lab.Policy{Domain: "example.test", ID: "1", MX: []string{"mx.example.test"}, TTL: lab.NoTTL}
	if change != nil {
		change(&p)
	}
	return w.net.AddPolicy(p)
}

// keep puts a policy into the store as if it had been fetched at a time.
func (w *world) keep(mode string, age time.Duration, change func(*stscache.Entry)) {
	w.t.Helper()
	now := time.Now()
	e := stscache.Entry{Domain: example, Body: []byte(lab.PolicyText(mode, 0, "mx.example.test")), ID: "1", Fetched: now.Add(-age), Used: now}
	if change != nil {
		change(&e)
	}
	if err := w.bolt.PutPolicy(w.t.Context(), e); err != nil {
		w.t.Fatal(err)
	}
}

// look is what Lookup says: "enforce", "testing", "none" or "no policy", with
// the id, and what is wrong.
func (w *world) look() (mode, id string, err error) {
	w.t.Helper()
	return describe(w.Lookup(w.t.Context(), example))
}

func describe(s stscache.Status) (mode, id string, err error) {
	if s.Policy == nil {
		return "no policy", s.ID, s.Err
	}
	return string(s.Policy.Mode), s.ID, s.Err
}

// within bounds a wait.
func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// A moodyStore fails when the test wants it.
type moodyStore struct {
	stscache.Store
	mu           sync.Mutex
	noRead       error
	noWrite      error
	reads, saves int
}

func (m *moodyStore) set(noRead, noWrite error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.noRead, m.noWrite = noRead, noWrite
}

func (m *moodyStore) Policy(ctx context.Context, d addr.Domain) (stscache.Entry, error) {
	m.mu.Lock()
	err := m.noRead
	m.reads++
	m.mu.Unlock()
	if err != nil {
		return stscache.Entry{}, err
	}
	return m.Store.Policy(ctx, d)
}

func (m *moodyStore) PutPolicy(ctx context.Context, e stscache.Entry) error {
	m.mu.Lock()
	err := m.noWrite
	m.saves++
	m.mu.Unlock()
	if err != nil {
		return err
	}
	return m.Store.PutPolicy(ctx, e)
}

// lines is a log.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// having counts the lines with all of these texts.
func (l *lines) having(texts ...string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
line:
	for s := range strings.Lines(l.b.String()) {
		for _, text := range texts {
			if !strings.Contains(s, text) {
				continue line
			}
		}
		n++
	}
	return n
}
