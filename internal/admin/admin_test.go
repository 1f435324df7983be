package admin_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/internal/admin"
	"stsrelay/internal/boltstore"
	"stsrelay/relay"
	"stsrelay/stscache"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"
)

// TestMain finds goroutines that are left behind. The one that net/http has
// linger behind a request that was too large ends by itself.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

// A cache stands for *stscache.Cache: what it does is said by the test.
type cache struct {
	store *boltstore.Store

	mu        sync.Mutex
	refreshed []string
	status    stscache.Status
}

func (c *cache) Refresh(_ context.Context, d addr.Domain) stscache.Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refreshed = append(c.refreshed, d.String())
	return c.status
}

func (c *cache) Purge(ctx context.Context, d addr.Domain) error { return c.store.DeletePolicy(ctx, d) }

// A desk is a server on a real store and a real socket.
type desk struct {
	t      *testing.T
	store  *boltstore.Store
	cache  *cache
	client *admin.Client
	socket string
	page   string // "http://127.0.0.1:port"

	mu      sync.Mutex
	retried []relay.Destination
	status  admin.Status
	log     strings.Builder
}

func (d *desk) retry(list ...relay.Destination) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.retried = append(d.retried, list...)
}

func (d *desk) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.log.Write(p)
}

func (d *desk) logged(text string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return strings.Contains(d.log.String(), text)
}

// takeRetried returns the destinations that were retried since the last call.
func (d *desk) takeRetried() (list []relay.Destination) {
	d.mu.Lock()
	defer d.mu.Unlock()
	list, d.retried = d.retried, nil
	return list
}

func open(t *testing.T, change func(*admin.Options)) *desk {
	t.Helper()
	dir := t.TempDir()
	store, err := boltstore.Open(filepath.Join(dir, "data"), boltstore.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	d := &desk{t: t, store: store, cache: &cache{store: store}, socket: filepath.Join(dir, "run", "admin.sock"), status: admin.Status{Schema: "stsrelay.status/v1", Healthy: true}}
	o := admin.Options{Socket: d.socket, HTTP: "127.0.0.1:0", Queue: store, Retry: d.retry, Entries: store, Policies: d.cache, Log: zerolog.New(d),
		Status: func(context.Context) admin.Status {
			d.mu.Lock()
			defer d.mu.Unlock()
			return d.status
		}}
	if change != nil {
		change(&o)
	}
	s, err := admin.Listen(o)
	if err != nil {
		t.Fatal(err)
	}
	d.page, d.client = "http://"+s.HTTPAddr().String(), admin.NewClient(d.socket)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx) }()
	t.Cleanup(func() {
		d.client.Close()
		http.DefaultClient.CloseIdleConnections()
		stop()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// accept puts a message into the store.
func (d *desk) accept(id relay.ID, from string, body string, to ...string) {
	d.t.Helper()
	b, err := d.store.NewBody(d.t.Context())
	if err != nil {
		d.t.Fatal(err)
	}
	if _, err := b.Write([]byte(body)); err != nil {
		d.t.Fatal(err)
	}
	m := relay.Message{ID: id, From: addr.MustAddress(from), Size: int64(len(body)), Options: relay.Options{Listener: "in", Upstream: "4711"}}
	for i, r := range to {
		domain, _ := addr.MustAddress(r).Domain()
		m.Entries = append(m.Entries, relay.NewEntry{ID: relay.EntryID(id, i, len(to)), Destination: relay.Destination(domain.String()),
			To: []relay.Recipient{{Address: addr.MustAddress(r)}}})
	}
	if err := d.store.Accept(d.t.Context(), m, b); err != nil {
		d.t.Fatal(err)
	}
}

// fail settles a first attempt that failed.
func (d *desk) fail(dest relay.Destination, note relay.Note) {
	d.t.Helper()
	list, err := d.store.Claim(d.t.Context(), dest, 10)
	if err != nil || len(list) == 0 {
		d.t.Fatalf("claiming %s: %v, %v", dest, list, err)
	}
	for _, e := range list {
		e.To[0].Last = &note
		if _, err := d.store.Settle(d.t.Context(), []relay.Result{{ID: e.ID, Lease: e.Lease, Left: e.To, Delay: time.Hour, Tried: true, Note: &note}}); err != nil {
			d.t.Fatal(err)
		}
	}
}

func (d *desk) queue(f relay.Filter, limit int) (ids []string) {
	d.t.Helper()
	for e, err := range d.client.Queue(d.t.Context(), f, limit) {
		if err != nil {
			d.t.Fatal(err)
		}
		ids = append(ids, e.QueueID)
	}
	return ids
}

// raw sends a request to the socket.
func (d *desk) raw(method, path, body string) (int, string) {
	d.t.Helper()
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", d.socket)
	}}
	defer tr.CloseIdleConnections()
	return request(d.t, &http.Client{Transport: tr}, method, "http://stsrelay"+path, "", body)
}

func request(t *testing.T, c *http.Client, method, url, host, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(text)
}
