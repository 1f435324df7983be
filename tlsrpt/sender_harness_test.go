package tlsrpt_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/internal/boltstore"
	"stsrelay/internal/resolver"
	"stsrelay/relay"
	"stsrelay/tlsrpt"

	"github.com/rs/zerolog"
)

// A bubble is a Sender over a real store, in a synctest bubble: the endpoints
// and DNS obey the test. It begins on 2000-01-01 at 00:00 UTC.
type bubble struct {
	t      *testing.T
	dir    string
	store  *boltstore.Store
	sender *tlsrpt.Sender
	o      tlsrpt.Options
	log    bytes.Buffer
	logMu  sync.Mutex
	stop   context.CancelFunc
	ended  chan error

	mu      sync.Mutex
	txt     map[string][]string
	txtErr  map[string]error
	asked   []string
	behave  map[string]func(n int) tlsrpt.Answer // by host; nil: 201
	posts   []posted
	queuing []string
}

// A posted is one POST.
type posted struct {
	At     time.Time
	URL    string
	Report report
}

// A report is what a receiver reads of one.
type report struct {
	ID    string `json:"report-id"`
	Range struct {
		Start time.Time `json:"start-datetime"`
		End   time.Time `json:"end-datetime"`
	} `json:"date-range"`
	Policies []struct {
		Policy struct {
			Type   string `json:"policy-type"`
			Domain string `json:"policy-domain"`
		} `json:"policy"`
		Summary struct {
			Good int `json:"total-successful-session-count"`
			Bad  int `json:"total-failure-session-count"`
		} `json:"summary"`
		Details []struct {
			Type  string `json:"result-type"`
			Count int    `json:"failed-session-count"`
		} `json:"failure-details"`
	} `json:"policies"`
}

func (r report) day() string { return r.Range.Start.UTC().Format(time.DateOnly) }

func (r report) domain() string { return r.Policies[0].Policy.Domain }

func unpack(t testing.TB, payload []byte) (r report) {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(payload))
	if err != nil {
		t.Errorf("no gzip: %v", err)
		return r
	}
	j, err := io.ReadAll(z)
	if err == nil {
		err = json.Unmarshal(j, &r)
	}
	if err != nil {
		t.Errorf("no report: %v", err)
	}
	return r
}

const sender = "relay.example"

// testKey is a DKIM key, and its record.
func testKey(t testing.TB) (tlsrpt.SigningKey, string) {
	t.Helper()
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32))
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	k, err := tlsrpt.ParseSigningKey(addr.MustDomain(sender), "s1", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	if err != nil {
		t.Fatal(err)
	}
	return k, base64.StdEncoding.EncodeToString(private.Public().(ed25519.PublicKey))
}

const keyName = "s1._domainkey." + sender

func newBubble(t *testing.T, change func(*tlsrpt.Options)) *bubble {
	b := &bubble{t: t, dir: t.TempDir(), txt: map[string][]string{}, txtErr: map[string]error{}, behave: map[string]func(int) tlsrpt.Answer{}}
	key, public := testKey(t)
	b.txt[keyName] = []string{"v=DKIM1; k=ed25519; s=tlsrpt:email; p=" + public}
	b.o = tlsrpt.Options{Resolver: b, Keys: []tlsrpt.SigningKey{key}, Identity: tlsrpt.Identity{Organization: "Example Inc",
		Contact: addr.MustAddress("tls@" + sender), From: addr.MustAddress("noreply@" + sender)}, Log: zerolog.New(logTo{b}),
		Queued: func(a addr.Address) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.queuing = append(b.queuing, a.String())
		}}
	if change != nil {
		change(&b.o)
	}
	b.open()
	return b
}

type logTo struct{ b *bubble }

func (l logTo) Write(p []byte) (int, error) {
	l.b.logMu.Lock()
	defer l.b.logMu.Unlock()
	return l.b.log.Write(p)
}

func (b *bubble) logged() string {
	b.logMu.Lock()
	defer b.logMu.Unlock()
	return b.log.String()
}

func (b *bubble) open() {
	b.t.Helper()
	s, err := boltstore.Open(b.dir, boltstore.Options{NoSync: true, FreeSpace: -1, Log: zerolog.Nop()})
	if err != nil {
		b.t.Fatal(err)
	}
	b.store = s
}

// start runs a Sender.
func (b *bubble) start() {
	b.t.Helper()
	if b.o.Store == nil {
		b.o.Store = b.store
	}
	s, err := tlsrpt.NewSender(b.o)
	if err != nil {
		b.t.Fatal(err)
	}
	s.PostBy(b.post)
	b.sender = s
	ctx, stop := context.WithCancel(b.t.Context())
	b.stop, b.ended = stop, make(chan error, 1)
	go func() { b.ended <- s.Run(ctx) }()
}

// end stops the Sender and the store.
func (b *bubble) end() {
	b.t.Helper()
	b.stop()
	if err := <-b.ended; err != nil {
		b.t.Error(err)
	}
	if err := b.store.Close(); err != nil {
		b.t.Error(err)
	}
}

// restart is the end of the process and a new one.
func (b *bubble) restart() {
	b.t.Helper()
	b.end()
	b.open()
	b.o.Store = b.store
	b.start()
}

func (b *bubble) TXT(_ context.Context, name string) (resolver.Answer[string], error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked = append(b.asked, name)
	if err := b.txtErr[name]; err != nil {
		return resolver.Answer[string]{}, err
	}
	txt, ok := b.txt[name]
	if !ok {
		return resolver.Answer[string]{}, fmt.Errorf("looking up %s: %w", name, resolver.ErrNXDomain)
	}
	return resolver.Answer[string]{Records: txt}, nil
}

func (b *bubble) FreshTXT(ctx context.Context, name string) (resolver.Answer[string], error) {
	return b.TXT(ctx, name)
}

func (b *bubble) Addresses(context.Context, addr.Host) (resolver.Addresses, error) {
	return resolver.Addresses{}, errors.New("not in a bubble")
}

var servfail = &resolver.Failed{Name: "x", Type: "TXT", Err: errors.New("SERVFAIL")}

// publish sets a domain's TLSRPT record; "": there is none.
func (b *bubble) publish(domain, rua string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if rua == "" {
		delete(b.txt, "_smtp._tls."+domain)
		return
	}
	b.txt["_smtp._tls."+domain] = []string{"v=TLSRPTv1; rua=" + rua}
}

func (b *bubble) fail(name string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.txtErr[name] = err
}

// endpoint sets what a host answers to its n-th POST, from 1.
func (b *bubble) endpoint(host string, f func(n int) tlsrpt.Answer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.behave[host] = f
}

func (b *bubble) post(_ context.Context, u *url.URL, payload []byte) tlsrpt.Answer {
	r := unpack(b.t, payload)
	b.mu.Lock()
	n := 1
	for _, p := range b.posts {
		if p.URL == u.String() {
			n++
		}
	}
	b.posts = append(b.posts, posted{time.Now(), u.String(), r})
	f := b.behave[u.Host]
	b.mu.Unlock()
	if f != nil {
		return f(n)
	}
	return tlsrpt.Answer{Status: 201}
}

// received returns the POSTs to a host, all if it is "".
func (b *bubble) received(host string) (out []posted) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.posts {
		if strings.Contains(p.URL, "//"+host) {
			out = append(out, p)
		}
	}
	return out
}

// count adds sessions that start now: good ones, and ones that failed.
func (b *bubble) count(domain string, good int, failures ...tlsrpt.Result) {
	b.t.Helper()
	var list []tlsrpt.Session
	for range good {
		list = append(list, sessionOf(domain))
	}
	for _, f := range failures {
		list = append(list, sessionOf(domain, f))
	}
	if err := b.store.Add(b.t.Context(), list); err != nil {
		b.t.Fatal(err)
	}
}

func sessionOf(domain string, failures ...tlsrpt.Result) tlsrpt.Session {
	p := tlsrpt.PolicyResult{Policy: tlsrpt.Policy{Type: tlsrpt.STS, Domain: domain, Strings: []string{"version: STSv1"}, MXHosts: []string{"mx." + domain}}}
	for _, f := range failures {
		p.Failures = append(p.Failures, tlsrpt.Failure{Result: f})
	}
	return tlsrpt.Session{Start: time.Now(), Domain: addr.MustDomain(domain), Policies: []tlsrpt.PolicyResult{p}, MX: "mx." + domain}
}

// jobs are the reports of all days.
func (b *bubble) jobs() (out []tlsrpt.Job) {
	b.t.Helper()
	for j, err := range b.store.Reports(b.t.Context(), "") {
		if err != nil {
			b.t.Fatal(err)
		}
		out = append(out, j)
	}
	return out
}

// one is the only report there is.
func (b *bubble) one() tlsrpt.Job {
	b.t.Helper()
	all := b.jobs()
	if len(all) != 1 {
		b.t.Fatalf("%d reports: %+v", len(all), all)
	}
	return all[0]
}

// queue is the mail that waits.
func (b *bubble) queue() []relay.Entry {
	b.t.Helper()
	list, _, err := b.store.List(b.t.Context(), relay.Filter{}, "", 1000)
	if err != nil {
		b.t.Fatal(err)
	}
	return list
}

func (b *bubble) content(e relay.Entry) []byte {
	b.t.Helper()
	r, err := b.store.Body(b.t.Context(), e.Message)
	if err != nil {
		b.t.Fatal(err)
	}
	defer r.Close()
	c, err := io.ReadAll(r)
	if err != nil {
		b.t.Fatal(err)
	}
	return c
}
