package stscache_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/internal/boltstore"
	"stsrelay/internal/network"
	"stsrelay/internal/resolver"
	"stsrelay/stscache"

	"github.com/rs/zerolog"
)

// A bubble is DNS and a policy host for example.test in the time of a bubble:
// a real store, real TLS and HTTP, over pipes. Its fields are changed through set.
type bubble struct {
	*stscache.Cache
	t   *testing.T
	log *lines
	tls *tls.Config

	mu     sync.Mutex
	id     string        // of the record; "": none
	dnsErr error         // instead of an answer
	file   string        // the policy
	status int           // of HTTP
	pace   time.Duration // between two octets of the file
	cut    int           // so many octets of the file, and then the connection is cut
	down   bool
	hits   int
}

// inBubble runs a test in a bubble, which begins in the year 2000. The policy is
// in mode enforce and lives for days.
func inBubble(t *testing.T, name string, days int, f func(t *testing.T, b *bubble)) {
	t.Run(name, func(t *testing.T) {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			b := &bubble{t: t, log: &lines{}, id: "1", status: 200}
			b.file = fmt.Sprintf("version: STSv1\nmode: enforce\nmx: mx.example.test\nmax_age: %d\n", days*24*3600)
			store, err := boltstore.Open(dir, boltstore.Options{NoSync: true, FreeSpace: -1, Log: zerolog.Nop()})
			if err != nil {
				t.Fatal(err)
			}
			b.Cache = stscache.New(stscache.Options{Store: store, Resolver: b, Dialer: b, Guard: network.Guard{Allow: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}, Roots: b.certify(), Log: zerolog.New(b.log)})
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- b.Run(ctx) }()
			defer func() {
				cancel()
				if err := errors.Join(<-ended, store.Close()); err != nil {
					t.Error(err)
				}
			}()
			f(t, b)
		})
	})
}

// certify makes the policy host's certificate and returns the roots for it.
func (b *bubble) certify() *x509.CertPool {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.t.Fatal(err)
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(10 * 365 * day),
		DNSNames: []string{"mta-sts.example.test"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, &key.PublicKey, key)
	if err != nil {
		b.t.Fatal(err)
	}
	if cert, err = x509.ParseCertificate(der); err != nil {
		b.t.Fatal(err)
	}
	b.tls = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	return roots
}

func (b *bubble) set(change func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change()
}

// fetches is how often the file was asked for since the last call.
func (b *bubble) fetches() (n int) {
	synctest.Wait()
	b.set(func() { n, b.hits = b.hits, 0 })
	return n
}

func (b *bubble) TXT(context.Context, string) (a resolver.Answer[string], err error) {
	b.set(func() {
		a.Expires = time.Now()
		if err = b.dnsErr; err == nil && b.id != "" {
			a.Records = []string{"v=STSv1; id=" + b.id}
		}
	})
	return a, err
}

func (b *bubble) FreshTXT(ctx context.Context, name string) (resolver.Answer[string], error) {
	return b.TXT(ctx, name)
}

func (b *bubble) Addresses(context.Context, addr.Host) (resolver.Addresses, error) {
	return resolver.Addresses{Answer: resolver.Answer[netip.Addr]{Records: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}}, nil
}

func (b *bubble) DialContext(_ context.Context, _, address string) (net.Conn, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.hits++; b.down || address != "192.0.2.1:443" {
		return nil, fmt.Errorf("%s: connection refused", address)
	}
	ours, theirs := net.Pipe()
	go b.serve(theirs)
	return ours, nil
}

// serve answers one request.
func (b *bubble) serve(c net.Conn) {
	defer c.Close()
	s := tls.Server(c, b.tls)
	in := bufio.NewReader(s)
	req, err := http.ReadRequest(in)
	if err != nil || req.URL.Path != "/.well-known/mta-sts.txt" {
		return
	}
	gone := make(chan struct{})
	go func() { // a pipe holds nothing: whoever writes waits for a reader
		defer close(gone)
		_, _ = io.Copy(io.Discard, in)
	}()
	var head, file string
	var pace time.Duration
	var cut int
	b.set(func() {
		head, file, pace = fmt.Sprintf("HTTP/1.1 %d x\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n", b.status), b.file, b.pace
		cut = b.cut
	})
	_, _ = io.WriteString(s, head)
	for pace > 0 && file != "" {
		select {
		case <-gone:
			return
		case <-time.After(pace):
		}
		_, _ = io.WriteString(s, file[:1])
		file = file[1:]
	}
	if cut > 0 {
		_, _ = io.WriteString(s, file[:cut]) // in a record of its own
		return
	}
	_, _ = io.WriteString(s, file)
	_ = s.Close()
}

// want checks what Lookup says.
func (b *bubble) want(mode string, is error) stscache.Status {
	b.t.Helper()
	s := b.Lookup(b.t.Context(), example)
	if m, _, err := describe(s); m != mode || !errors.Is(err, is) || (is == nil) != (err == nil) {
		b.t.Errorf("after %s: %s, %v; not %s, %v", time.Since(bubbleBegins), m, err, mode, is)
	}
	return s
}

var bubbleBegins = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

func TestHours(t *testing.T) {
	inBubble(t, "STS-3.3-10 a fetch takes a minute at most", 10, func(t *testing.T, b *bubble) {
		b.file += strings.Repeat("x", 10_000)
		b.pace = time.Second
		b.want("no policy", stscache.ErrFetch)
		if took := time.Since(bubbleBegins); took != time.Minute {
			t.Errorf("it took %s", took)
		}
	})
	inBubble(t, "STS-3.3-08 a failed fetch is repeated after five minutes, or for another id", 10, func(t *testing.T, b *bubble) {
		b.status = 404
		b.want("no policy", stscache.ErrFetch)
		for _, wait := range []time.Duration{0, time.Minute, 4*time.Minute - time.Second} {
			time.Sleep(wait)
			b.want("no policy", stscache.ErrFetch)
		}
		if n := b.fetches(); n != 1 {
			t.Errorf("%d fetches within five minutes", n)
		}
		time.Sleep(time.Second)
		b.want("no policy", stscache.ErrFetch)
		b.set(func() { b.id = "2" })
		b.want("no policy", stscache.ErrFetch)
		if n := b.fetches(); n != 2 {
			t.Errorf("%d fetches after five minutes and with another id", n)
		}
		b.set(func() { b.status = 200 })
		time.Sleep(5 * time.Minute)
		b.want("enforce", nil)
	})
	inBubble(t, "STS-3.3-13 a policy for 30 days is fetched anew within the second day", 30, func(t *testing.T, b *bubble) {
		b.want("enforce", nil)
		time.Sleep(20 * time.Hour)
		if n := b.fetches(); n != 1 {
			t.Errorf("%d fetches at first", n)
		}
		time.Sleep(5 * time.Hour)
		if n := b.fetches(); n != 1 {
			t.Errorf("%d fetches after a day", n)
		}
	})
	inBubble(t, "STS-3.3-14 a policy without a record lives on while it is served and used", 30, func(t *testing.T, b *bubble) {
		first := b.want("enforce", nil)
		b.set(func() { b.id = "" })
		time.Sleep(25 * time.Hour)
		if s := b.want("enforce", stscache.ErrNoRecord); s.Expires.Sub(first.Expires) < 20*time.Hour || s.Expires.Sub(s.Fetched) != 30*day {
			t.Errorf("it ends at %s, and at first %s", s.Expires, first.Expires)
		}
		b.fetches()
		time.Sleep(29 * day)
		if n := b.fetches(); n < 28 || n > 33 {
			t.Errorf("%d fetches in 29 days", n)
		}
		time.Sleep(2 * day)
		b.fetches()
		time.Sleep(20 * day)
		if n := b.fetches(); n != 0 {
			t.Errorf("%d fetches of what is not used", n)
		}
	})
	inBubble(t, "STS-3.3-15 an unchanged record does not make it live longer", 10, func(t *testing.T, b *bubble) {
		b.want("enforce", nil)
		b.set(func() { b.down = true })
		for range 9 {
			time.Sleep(day)
			b.want("enforce", nil)
		}
		time.Sleep(day - time.Second)
		b.want("enforce", nil)
		time.Sleep(2 * time.Second)
		b.want("no policy", stscache.ErrFetch)
	})
	inBubble(t, "STS-3.3-16 failed refreshes are told, and told louder well before the end", 10, func(t *testing.T, b *bubble) {
		b.want("enforce", nil)
		b.set(func() { b.down = true })
		told := func(level string) int {
			return b.log.having("MTA-STS policy not fetched", "example.test", `"level":"`+level+`"`)
		}
		time.Sleep(2 * day)
		if warn, loud := told("warn"), told("error"); warn == 0 || loud != 0 {
			t.Errorf("%d warnings, %d errors in two days", warn, loud)
		}
		time.Sleep(5 * day)
		if told("error") == 0 {
			t.Error("no error three days before the end")
		}
	})
	inBubble(t, "STS-3.3-16 but not those of mode none", 10, func(t *testing.T, b *bubble) {
		b.file = strings.Replace(b.file, "enforce", "none", 1)
		b.want("none", nil)
		b.set(func() { b.down = true })
		time.Sleep(9 * day)
		if b.fetches() < 2 || b.log.having(`"level":"warn"`)+b.log.having(`"level":"error"`) != 0 {
			t.Errorf("log: %s", b.log.b.String())
		}
	})
	inBubble(t, "a failing lookup has one beginning, and a new one after a success", 10, func(t *testing.T, b *bubble) {
		b.dnsErr = errors.New("SERVFAIL")
		for range 20 {
			if s := b.want("no policy", stscache.ErrLookup); !s.Since.Equal(bubbleBegins) {
				t.Errorf("since %s", s.Since)
			}
			time.Sleep(time.Minute)
		}
		b.set(func() { b.dnsErr = nil })
		b.want("enforce", nil)
		b.set(func() { b.dnsErr = errors.New("SERVFAIL") })
		again := time.Now()
		if s := b.want("enforce", stscache.ErrLookup); !s.Since.Equal(again) {
			t.Errorf("since %s, not %s", s.Since, again)
		}
	})
	inBubble(t, "a file without a length that is cut takes nothing from the policy that is kept", 30, func(t *testing.T, b *bubble) {
		first := b.want("enforce", nil)
		b.set(func() { b.id, b.cut = "2", len(b.file)-len("000\n") }) // max_age is cut
		if s := b.want("enforce", stscache.ErrFetch); !s.Expires.Equal(first.Expires) {
			t.Errorf("it ends at %s, and not %s", s.Expires, first.Expires)
		}
		b.set(func() { b.id, b.cut = "3", 0 })
		b.want("enforce", nil)
	})
}
