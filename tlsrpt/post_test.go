package tlsrpt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"stsrelay/internal/lab"
	"stsrelay/internal/network"
	"stsrelay/internal/resolver"
)

func startLab(t *testing.T) *lab.World {
	t.Helper()
	w, err := lab.Start(lab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

func labPoster(t *testing.T, w *lab.World) poster {
	t.Helper()
	var servers []netip.AddrPort
	for _, s := range w.DNSServers() {
		servers = append(servers, netip.MustParseAddrPort(s))
	}
	r, err := resolver.New(resolver.Options{Servers: servers})
	if err != nil {
		t.Fatal(err)
	}
	return poster{Resolver: r, Dialer: w.Dialer(), Guard: network.Guard{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}, Roots: w.Roots(), Limit: 10 * time.Second}
}

func parseURL(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := ParseRUA(s)
	if err != nil {
		t.Fatal(err)
	}
	return u.URL()
}

var gzipped = []byte{0x1f, 0x8b, 8, 0}

func TestPost(t *testing.T) {
	w := startLab(t)
	c := w.AddCollector(lab.Collector{Host: "reports.example.test"})
	p := labPoster(t, w)
	post := func(t *testing.T, uri string) answer { return p.post(t.Context(), parseURL(t, uri), gzipped) }
	t.Run("RPT-5.4-01 RPT-5.4-02 RPT-5.4-03 RPT-6-01 the request: POST to the URI as given, gzip as the payload", func(t *testing.T) {
		if a := post(t, "https://reports.example.test/v1/a%2Cb?c=%3B&d"); a.Status != 201 || a.Err != nil || a.Cert != nil {
			t.Fatalf("answer %+v", a)
		}
		r := c.Requests()[0]
		if r.Method != "POST" || r.Path != "/v1/a%2Cb?c=%3B&d" || r.Host != "reports.example.test" || !bytes.Equal(r.Body, gzipped) {
			t.Errorf("request %+v", r)
		}
		if r.Header.Get("Content-Type") != "application/tlsrpt+gzip" || r.Header.Get("Content-Length") != "4" || r.Header.Get("Content-Encoding") != "" || r.Header.Get("Transfer-Encoding") != "" {
			t.Errorf("header %v", r.Header)
		}
	})
	t.Run("RPT-5.4-06 redirects are not followed", func(t *testing.T) {
		other := w.AddCollector(lab.Collector{Host: "other.example.test"})
		defer c.Change(func(c *lab.Collector) { c.Status, c.Header = 0, nil })
		for _, status := range []int{301, 302, 307, 308} {
			for _, to := range []string{other.URL(), "http://other.example.test/"} {
				c.Change(func(c *lab.Collector) { c.Status, c.Header = status, http.Header{"Location": {to}} })
				if a := post(t, c.URL()); a.Status != status || a.verdict(Part{}, 0).State == Sent {
					t.Errorf("answer %+v", a)
				}
			}
		}
		if len(other.Requests()) != 0 {
			t.Error("one was followed")
		}
	})
	t.Run("RPT-5.5-02 Retry-After is read of 429 and 503", func(t *testing.T) {
		defer c.Change(func(c *lab.Collector) { c.Status, c.Header = 0, nil })
		for status, want := range map[int]time.Duration{429: time.Hour, 503: time.Hour, 500: 0} {
			c.Change(func(c *lab.Collector) { c.Status, c.Header = status, http.Header{"Retry-After": {"3600"}} })
			if a := post(t, c.URL()); a.Status != status || a.RetryAfter != want {
				t.Errorf("answer %+v", a)
			}
		}
	})
	t.Run("RPT-5.4-05 a bad certificate is told and not minded, unless we are strict", func(t *testing.T) {
		for _, kind := range []lab.CertKind{lab.SelfSigned, lab.Expired, lab.WrongName} {
			c.Change(func(c *lab.Collector) { c.Cert = kind })
			n := len(c.Requests())
			if a := post(t, c.URL()); a.Status != 201 || a.Cert == nil || !strings.Contains(a.verdict(Part{}, 0).Why, "certificate") {
				t.Errorf("%v: answer %+v", kind, a)
			}
			strict := p
			strict.Strict = true
			if a := strict.post(t.Context(), parseURL(t, c.URL()), gzipped); a.Err == nil || a.verdict(Part{}, 0).State != Pending || len(c.Requests()) != n+1 {
				t.Errorf("%v, strict: answer %+v", kind, a)
			}
		}
		c.Change(func(c *lab.Collector) { c.Cert = lab.Good })
		strict := p
		strict.Strict = true
		if a := strict.post(t.Context(), parseURL(t, c.URL()), gzipped); a.Status != 201 {
			t.Errorf("strict, with a good one: %+v", a)
		}
	})
	t.Run("RPT-5.4-06 private addresses are refused before they are dialed", func(t *testing.T) {
		w.DNS.Add("private.example.test. 300 IN A 10.0.0.1")
		for _, uri := range []string{"https://private.example.test/", "https://10.0.0.1/", "https://[::1]/", "https://169.254.169.254/latest"} {
			before := w.Dialer().Dials("10.0.0.1") + w.Dialer().Dials("::1") + w.Dialer().Dials("169.254.169.254")
			a := post(t, uri)
			var f *network.ForbiddenError
			if !errors.As(a.Err, &f) || w.Dialer().Dials("10.0.0.1")+w.Dialer().Dials("::1")+w.Dialer().Dials("169.254.169.254") != before {
				t.Errorf("%s: %v", uri, a.Err)
			}
		}
	})
	t.Run("RPT-5.4-06 an attempt has an end, and so has an answer", func(t *testing.T) {
		until := make(chan struct{})
		defer close(until)
		c.Change(func(c *lab.Collector) { c.Until = until })
		short := p
		short.Limit = 50 * time.Millisecond
		if a := short.post(t.Context(), parseURL(t, c.URL()), gzipped); !errors.Is(a.Err, context.DeadlineExceeded) {
			t.Errorf("answer %+v", a)
		}
		c.Change(func(c *lab.Collector) { c.Until, c.Body = nil, strings.Repeat("x", 1<<20) })
		if a := post(t, c.URL()); a.Status != 201 {
			t.Errorf("a long body: %+v", a)
		}
		c.Change(func(c *lab.Collector) { c.Body, c.Header = "", http.Header{"X": {strings.Repeat("x", 1<<20)}} })
		if a := post(t, c.URL()); a.Err == nil {
			t.Errorf("an endless header: %+v", a)
		}
		c.Change(func(c *lab.Collector) { c.Header = nil })
	})
	t.Run("a host without an address, and one that does not answer", func(t *testing.T) {
		w.DNS.Add("none.example.test. 300 IN TXT x\nsilent.example.test. 300 IN A " + w.NewAddr().String())
		for _, uri := range []string{"https://none.example.test/", "https://silent.example.test/", "https://nx.example.test/"} {
			if a := post(t, uri); a.Err == nil || a.verdict(Part{}, 0).State != Pending || !strings.Contains(a.Err.Error(), ".example.test") && !strings.Contains(a.Err.Error(), "refused") {
				t.Errorf("%s: %+v", uri, a)
			}
		}
	})
	t.Run("the second address is tried when the first does not answer", func(t *testing.T) {
		w.DNS.Add("two.example.test. 300 IN A 10.0.0.1\ntwo.example.test. 300 IN A " + w.NewAddr().String() + "\ntwo.example.test. 300 IN A " + c.Addr())
		if a := post(t, "https://two.example.test/"); a.Status != 201 || a.Cert == nil {
			t.Errorf("answer %+v", a)
		}
	})
}

func TestVerdict(t *testing.T) {
	for _, c := range []struct {
		name  string
		a     answer
		state State
		due   time.Duration
	}{
		{"RPT-5.4-04 200", answer{Status: 200}, Sent, 0},
		{"RPT-5.4-04 201", answer{Status: 201}, Sent, 0},
		{"RPT-5.4-04 202", answer{Status: 202}, Sent, 0},
		{"RPT-5.4-04 204", answer{Status: 204}, Sent, 0},
		{"RPT-5.4-04 a redirect", answer{Status: 302}, Pending, 15 * time.Minute},
		{"RPT-5.4-04 500", answer{Status: 500}, Pending, 15 * time.Minute},
		{"RPT-5.4-04 an error without a status", answer{Err: errors.New("x")}, Pending, 15 * time.Minute},
		{"RPT-5.5-02 400 is final", answer{Status: 400}, Failed, 0},
		{"RPT-5.5-02 404 is final", answer{Status: 404}, Failed, 0},
		{"RPT-5.5-02 410 is final", answer{Status: 410}, Failed, 0},
		{"RPT-5.5-02 408 is not", answer{Status: 408}, Pending, 15 * time.Minute},
		{"RPT-5.5-02 429 is not", answer{Status: 429, RetryAfter: 2 * time.Hour}, Pending, 2 * time.Hour},
		{"RPT-5.5-02 503 asks for a day", answer{Status: 503, RetryAfter: 24 * time.Hour}, GivenUp, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := c.a.verdict(Part{RUA: "x", State: Pending}, 0)
			if got.State != c.state || got.Due != c.due || got.Tries != 1 || (got.Why == "") != (c.state == Sent) {
				t.Errorf("got %+v", got)
			}
		})
	}
	if got := (answer{Status: 500}).verdict(Part{State: Pending, Tries: 7, Age: window - lastCall}, 0); got.State != GivenUp || !strings.Contains(got.Why, "500") {
		t.Errorf("after the window: %+v", got)
	}
}

func TestRetryAfter(t *testing.T) {
	now := at("2026-11-02T00:00:00Z")
	for in, want := range map[string]time.Duration{"120": 2 * time.Minute, "0": 0, "-5": 0, "": 0, "soon": 0, "99999999999999999999": 0,
		now.Add(time.Hour).Format(http.TimeFormat): time.Hour, now.Add(-time.Hour).Format(http.TimeFormat): 0} {
		if got := retryAfter(in, now); got != want {
			t.Errorf("%q: %v, want %v", in, got, want)
		}
	}
}

func TestPace(t *testing.T) {
	p, now := pace{gap: time.Second}, at("2026-11-02T00:00:00Z")
	t.Run("RPT-7-01 who wants the same host gets turns, a second apart, and keeps them", func(t *testing.T) {
		for i := range 5 {
			if got := p.reserve("h", fmt.Sprint(i), now); got != time.Duration(i)*time.Second {
				t.Errorf("%d waits %v", i, got)
			}
		}
		for i := 4; i > 0; i-- {
			if got := p.reserve("h", fmt.Sprint(i), now.Add(time.Duration(i)*time.Second)); got != 0 {
				t.Errorf("%d came back for its turn and waits %v", i, got)
			}
		}
		if got := p.reserve("other", "x", now); got != 0 {
			t.Errorf("another host waits %v", got)
		}
		if got := p.reserve("h", "y", now.Add(time.Hour)); got != 0 {
			t.Errorf("an hour later it waits %v", got)
		}
	})
	for i := range 3 * maxPaced {
		p.reserve(fmt.Sprint(i), fmt.Sprint(i), now)
	}
	if len(p.next) > maxPaced || len(p.turns) > maxPaced {
		t.Errorf("%d hosts and %d turns are remembered", len(p.next), len(p.turns))
	}
}
