package stscache_test

import (
	"crypto/tls"
	"errors"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"stsrelay/internal/lab"
	"stsrelay/internal/network"
	"stsrelay/stscache"
)

// At first contact a policy that cannot be had does not rule (RFC 8461, Section
// 3.3), and what was wrong is said.
func TestFetch(t *testing.T) {
	filled := func(size int) string {
		good := lab.PolicyText("enforce", 0, "mx.example.test") + "x: "
		return good + strings.Repeat("x", size-len(good))
	}
	for _, tt := range []struct {
		name   string
		policy func(*lab.Policy)
		want   error // nil: it is had
	}{
		{"a policy host in order", nil, nil},
		{"STS-3.2-02 text/html", func(p *lab.Policy) { p.ContentType = "text/html" }, stscache.ErrFetch},
		{"STS-3.2-02 parameters", func(p *lab.Policy) { p.ContentType = "text/plain; charset=utf-8; x=y" }, nil},
		{"STS-3.2-02 a media type has no case", func(p *lab.Policy) { p.ContentType = "Text/Plain" }, nil},
		{"STS-3.2-03 no media type", func(p *lab.Policy) { p.ContentType = lab.NoContentType }, stscache.ErrFetch},
		{"STS-3.2-03 another charset", func(p *lab.Policy) { p.ContentType = "text/plain; charset=iso-8859-1" }, nil},
		{"STS-3.2-02 parameters that are not written well", func(p *lab.Policy) { p.ContentType = "text/plain; charset" }, nil},

		{"STS-3.3-01 self-signed", func(p *lab.Policy) { p.Cert = lab.SelfSigned }, stscache.ErrWebPKI},
		{"STS-3.3-01 expired", func(p *lab.Policy) { p.Cert = lab.Expired }, stscache.ErrWebPKI},
		{"STS-3.3-01 of an unknown authority", func(p *lab.Policy) { p.Cert = lab.UntrustedCA }, stscache.ErrWebPKI},
		{"STS-3.3-01 for the domain only", func(p *lab.Policy) { p.CertNames = []string{"example.test"} }, stscache.ErrWebPKI},
		{"STS-3.3-02 the name is the common name only", func(p *lab.Policy) { p.Cert = lab.CNOnly }, stscache.ErrWebPKI},
		{"STS-3.3-03 a wildcard for one label", func(p *lab.Policy) { p.CertNames = []string{"*.example.test"} }, nil},
		{"STS-3.3-03 a wildcard within a label", func(p *lab.Policy) { p.CertNames = []string{"mta-*.example.test"} }, stscache.ErrWebPKI},
		{"STS-3.3-03 a wildcard for two labels", func(p *lab.Policy) { p.CertNames = []string{"*.test"} }, stscache.ErrWebPKI},

		{"STS-3.3-05 201", func(p *lab.Policy) { p.Status = 201 }, stscache.ErrFetch},
		{"STS-3.3-05 204", func(p *lab.Policy) { p.Status = 204 }, stscache.ErrFetch},
		{"STS-3.3-05 206", func(p *lab.Policy) { p.Status = 206 }, stscache.ErrFetch},
		{"STS-3.3-05 304", func(p *lab.Policy) { p.Status = 304 }, stscache.ErrFetch},
		{"STS-3.3-05 404", func(p *lab.Policy) { p.Status = 404 }, stscache.ErrFetch},
		{"STS-3.3-05 500", func(p *lab.Policy) { p.Status = 500 }, stscache.ErrFetch},

		{"STS-3.3-10 65,536 octets", func(p *lab.Policy) { p.Body = filled(65536) }, nil},
		{"STS-3.3-10 65,537 octets", func(p *lab.Policy) { p.Body = filled(65537) }, stscache.ErrTooLarge},
		{"STS-3.3-19 compressed, unasked", func(p *lab.Policy) { p.Gzip = true }, stscache.ErrFetch},
		{"the connection is cut", func(p *lab.Policy) { p.CutAfter = 20 }, stscache.ErrFetch},
		{"the handshake is broken off", func(p *lab.Policy) { p.AbortTLS = true }, stscache.ErrFetch},
		{"TLS 1.1 at most", func(p *lab.Policy) { p.MinTLS, p.MaxTLS = tls.VersionTLS10, tls.VersionTLS11 }, stscache.ErrFetch},
		{"TLS 1.2 at most", func(p *lab.Policy) { p.MaxTLS = tls.VersionTLS12 }, nil},
		{"it speaks no HTTP", func(p *lab.Policy) { p.Raw = "220 mx ESMTP\r\n" }, stscache.ErrFetch},
		{"no address", func(p *lab.Policy) { p.NoAddress = true }, stscache.ErrFetch},
		{"STS-3.2-20 no policy", func(p *lab.Policy) { p.Body = "<html>" }, stscache.ErrPolicySyntax},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, nil)
			w.policy(tt.policy)
			mode, id, err := w.look()
			switch {
			case tt.want == nil && (mode != "enforce" || id != "1" || err != nil),
				tt.want != nil && (mode != "no policy" || !errors.Is(err, tt.want)):
				t.Errorf("%s, id %s, %v", mode, id, err)
			}
			// the same from what is remembered
			if again, _, err2 := w.look(); again != mode || tt.want != nil && !errors.Is(err2, tt.want) {
				t.Errorf("at the second look: %s, %v", again, err2)
			}
		})
	}
	for _, status := range []int{301, 302, 307, 308} {
		t.Run("STS-3.3-06 a redirect is never followed", func(t *testing.T) {
			w := newWorld(t, nil)
			other := w.net.AddPolicy(lab.Policy{Domain: "other.test", ID: "1", MX: []string{"mx.example.test"}})
			p := w.policy(func(p *lab.Policy) {
				p.Status, p.Redirect = status, "https://mta-sts.other.test"+lab.PolicyPath
			})
			if mode, _, err := w.look(); mode != "no policy" || !errors.Is(err, stscache.ErrFetch) {
				t.Errorf("%d: %s, %v", status, mode, err)
			}
			if p.Hits() != 1 || other.Hits() != 0 {
				t.Errorf("%d: %d and %d requests", status, p.Hits(), other.Hits())
			}
			p.Change(func(p *lab.Policy) { p.ID, p.Redirect = "2", "https://mta-sts.example.test"+lab.PolicyPath })
			if mode, _, _ := w.look(); mode != "no policy" || p.Hits() != 2 {
				t.Errorf("%d to the same host: %s, %d requests", status, mode, p.Hits())
			}
		})
	}
}

func TestRequest(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	t.Setenv("https_proxy", "http://127.0.0.1:1")
	w := newWorld(t, nil)
	p := w.policy(func(p *lab.Policy) {
		p.Header = http.Header{"Set-Cookie": {"a=b"}, "Etag": {`"x"`}, "Cache-Control": {"max-age=60"}, "Expires": {"0"}}
	})
	s := w.Lookup(t.Context(), example)
	if s.Policy == nil {
		t.Fatal(s.Err)
	}
	p.Change(func(p *lab.Policy) { p.ID = "2" })
	if _, id, err := w.look(); id != "2" || err != nil {
		t.Fatalf("id %s, %v", id, err)
	}
	t.Run("STS-3.2-01 STS-1.1-02 STS-7.1-01 it is a GET of the well-known path at the policy host", func(t *testing.T) {
		for i, r := range p.Requests() {
			if r.Method != "GET" || r.Path != lab.PolicyPath || r.Host != "mta-sts.example.test" {
				t.Errorf("request %d: %s %s, host %s", i, r.Method, r.Path, r.Host)
			}
		}
		for _, h := range p.Handshakes() {
			if h.SNI != "mta-sts.example.test" {
				t.Errorf("SNI %q", h.SNI)
			}
		}
	})
	t.Run("STS-3.3-07 nothing of HTTP's caching is asked for or heeded", func(t *testing.T) {
		if got := s.Expires.Sub(s.Fetched); got != 7*24*time.Hour {
			t.Errorf("it is kept for %s", got)
		}
		for _, name := range []string{"If-None-Match", "If-Modified-Since"} {
			if v := p.Requests()[1].Header.Get(name); v != "" {
				t.Errorf("%s: %s", name, v)
			}
		}
	})
	t.Run("STS-3.3-19 no cookies, no credentials, no compression, no proxy, no client certificate", func(t *testing.T) {
		if len(p.Requests()) != 2 {
			t.Fatalf("%d requests came", len(p.Requests()))
		}
		for _, name := range []string{"Cookie", "Authorization", "Accept-Encoding", "Proxy-Authorization"} {
			if v := p.Requests()[1].Header.Get(name); v != "" {
				t.Errorf("%s: %s", name, v)
			}
		}
	})
}

func TestSTS_3_3_10_SlowHosts(t *testing.T) {
	for name, change := range map[string]func(*lab.Policy){
		"one that trickles":              func(p *lab.Policy) { p.Trickle = 20 * time.Millisecond },
		"one that never answers":         func(p *lab.Policy) { p.Hang = true },
		"one that hangs within the file": func(p *lab.Policy) { p.HangAfter = 10 },
		"one that never shakes hands":    func(p *lab.Policy) { p.HangTLS = true },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(o *stscache.Options) { o.FetchLimit = 100 * time.Millisecond })
			w.policy(change)
			mode, _, err := w.look()
			if mode != "no policy" || !errors.Is(err, stscache.ErrFetch) || !strings.Contains(err.Error(), "no whole answer within 100ms") {
				t.Errorf("%s, %v", mode, err)
			}
		})
	}
}

func TestSTS_3_3_20_Guard(t *testing.T) {
	w := newWorld(t, func(o *stscache.Options) { o.Guard = network.Guard{} })
	p := w.policy(nil)
	mode, _, err := w.look()
	var forbidden *network.ForbiddenError
	if mode != "no policy" || !errors.As(err, &forbidden) || !errors.Is(err, stscache.ErrFetch) {
		t.Errorf("%s, %v", mode, err)
	}
	if p.Connections() != 0 {
		t.Errorf("%d connections", p.Connections())
	}
	for _, ip := range []string{"10.0.0.1", "169.254.1.1", "192.168.1.1", "fe80::1", "::1"} {
		typ := "A"
		if strings.Contains(ip, ":") {
			typ = "AAAA"
		}
		w.net.DNS.Remove("mta-sts.example.test", "A")
		w.net.DNS.Remove("mta-sts.example.test", "AAAA")
		w.net.DNS.Set("mta-sts.example.test. 0 IN " + typ + " " + ip)
		p.Change(func(p *lab.Policy) { p.ID += "x" })
		before := w.net.Dialer().Total()
		if mode, _, err := w.look(); mode != "no policy" || !errors.As(err, &forbidden) || forbidden.Addr != netip.MustParseAddr(ip) {
			t.Errorf("%s: %s, %v", ip, mode, err)
		}
		if w.net.Dialer().Total() != before {
			t.Errorf("%s was dialled", ip)
		}
	}
}

func TestSTS_8_2_01_DelegatedHosting(t *testing.T) {
	w := newWorld(t, nil)
	provider := w.net.AddPolicy(lab.Policy{Domain: "provider.test", ID: "1", MX: []string{"mx.example.test"}})
	w.net.DNS.SetTXT("_mta-sts.example.test", "v=STSv1; id=1")
	w.net.DNS.Set("mta-sts.example.test. 0 IN CNAME mta-sts.provider.test.")
	if mode, _, err := w.look(); mode != "no policy" || !errors.Is(err, stscache.ErrWebPKI) {
		t.Errorf("with the provider's certificate: %s, %v", mode, err)
	}
	w.net.DNS.SetTXT("_mta-sts.example.test", "v=STSv1; id=2")
	provider.Change(func(p *lab.Policy) { p.CertNames = []string{"mta-sts.provider.test", "mta-sts.example.test"} })
	w.reopen() // a new resolver: the old one keeps the TXT record
	if mode, _, err := w.look(); mode != "enforce" {
		t.Errorf("with one for the user's domain: %s, %v", mode, err)
	}
}
