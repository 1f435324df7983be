package lab_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"stsrelay/internal/lab"
)

func TestPolicyHostAnswersAsItIsTold(t *testing.T) {
	const body = "version: STSv1\nmode: none\nmax_age: 86400\n"
	for _, row := range []struct {
		why  string
		p    lab.Policy
		fits func(r *http.Response, body string, err error) bool
	}{
		{"the file as it is given", lab.Policy{Body: body}, func(r *http.Response, b string, err error) bool {
			return r.StatusCode == 200 && b == body
		}},
		{"the file made of its parts", lab.Policy{Mode: "testing", MX: []string{"*.a.test", "b.test"}, MaxAge: time.Hour}, func(r *http.Response, b string, err error) bool {
			return b == "version: STSv1\nmode: testing\nmx: *.a.test\nmx: b.test\nmax_age: 3600\n"
		}},
		{"another status", lab.Policy{Status: 404, Body: body}, func(r *http.Response, b string, err error) bool { return r.StatusCode == 404 && b == body }},
		{"another type", lab.Policy{ContentType: "text/html; charset=utf-8"}, func(r *http.Response, b string, err error) bool {
			return r.Header.Get("Content-Type") == "text/html; charset=utf-8"
		}},
		{"no type", lab.Policy{ContentType: lab.NoContentType}, func(r *http.Response, b string, err error) bool { return r.Header["Content-Type"] == nil }},
		{"more header fields", lab.Policy{Header: http.Header{"Cache-Control": {"max-age=9"}}}, func(r *http.Response, b string, err error) bool {
			return r.Header.Get("Cache-Control") == "max-age=9"
		}},
		{"a redirect", lab.Policy{Redirect: "https://else.test/x"}, func(r *http.Response, b string, err error) bool {
			return r.StatusCode == 302 && r.Header.Get("Location") == "https://else.test/x"
		}},
		{"another redirect", lab.Policy{Redirect: "/x", Status: 308}, func(r *http.Response, b string, err error) bool { return r.StatusCode == 308 }},
		{"a large file", lab.Policy{Size: 100001}, func(r *http.Response, b string, err error) bool {
			return len(b) == 100001 && strings.HasPrefix(b, "version: STSv1\n") && strings.Contains(b, "xxx: x\nx-")
		}},
		{"byte by byte", lab.Policy{Body: body, Trickle: time.Microsecond}, func(r *http.Response, b string, err error) bool { return b == body }},
		{"a delay", lab.Policy{Body: body, Delay: time.Millisecond}, func(r *http.Response, b string, err error) bool { return b == body }},
		{"cut in the middle", lab.Policy{Body: body, CutAfter: 10}, func(r *http.Response, b string, err error) bool {
			return errors.Is(err, io.ErrUnexpectedEOF) && b == body[:10]
		}},
		{"no HTTP", lab.Policy{Raw: "SSH-2.0-lab\r\n"}, func(r *http.Response, b string, err error) bool {
			return r == nil && strings.Contains(err.Error(), "malformed")
		}},
		{"expired", lab.Policy{Cert: lab.Expired}, func(r *http.Response, b string, err error) bool {
			return errors.As(err, new(x509.CertificateInvalidError))
		}},
		{"for another name", lab.Policy{CertNames: []string{"example.test"}}, func(r *http.Response, b string, err error) bool {
			return errors.As(err, new(x509.HostnameError))
		}},
		{"TLS 1.1 only", lab.Policy{MaxTLS: tls.VersionTLS11}, func(r *http.Response, b string, err error) bool {
			return r == nil && strings.Contains(err.Error(), "protocol version")
		}},
		{"TLS broken off", lab.Policy{AbortTLS: true}, func(r *http.Response, b string, err error) bool { return r == nil && errors.Is(err, io.EOF) }},
	} {
		t.Run(row.why, func(t *testing.T) {
			w, _ := start(t)
			row.p.Domain = "example.test"
			w.AddPolicy(row.p)
			r, body, err := fetch(t, w, "example.test")
			if r == nil && err == nil || !row.fits(r, body, err) {
				t.Errorf("the answer is %v, %.200q, %v", r, body, err)
			}
		})
	}
}

func TestPolicyHostCompresses(t *testing.T) {
	w, _ := start(t)
	w.AddPolicy(lab.Policy{Domain: "example.test", Gzip: true})
	r, body, err := fetch(t, w, "example.test") // the client has asked for gzip and undoes it
	if err != nil || !r.Uncompressed || !strings.HasPrefix(body, "version: STSv1") {
		t.Errorf("the answer is %v, %q, %v", r, body, err)
	}
}

func TestPolicyHostHangs(t *testing.T) {
	for why, p := range map[string]lab.Policy{
		"before TLS":           {HangTLS: true},
		"before the header":    {Hang: true},
		"in the body":          {HangAfter: 5},
		"until it may go on":   {Until: make(chan struct{})},
		"for a day":            {Delay: 24 * time.Hour},
		"a day for every byte": {Trickle: 24 * time.Hour},
	} {
		t.Run(why, func(t *testing.T) {
			w, ctx := start(t)
			p.Domain = "example.test"
			h := w.AddPolicy(p)
			conn, err := w.Dialer().DialContext(ctx, "tcp", net.JoinHostPort(h.Addr(), "443"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(100 * time.Millisecond))
			c := tls.Client(conn, &tls.Config{RootCAs: w.Roots(), ServerName: h.Host()})
			io.WriteString(c, "GET "+lab.PolicyPath+" HTTP/1.1\r\nHost: "+h.Host()+"\r\n\r\n")
			if b, err := io.ReadAll(c); err == nil || bytes.Contains(b, []byte("max_age")) {
				t.Errorf("it said %q, %v", b, err)
			}
		})
	}
}

func TestPolicyHostsShareAServer(t *testing.T) {
	w, _ := start(t)
	a := w.AddPolicy(lab.Policy{Domain: "a.test", Body: "a"})
	b := w.AddPolicy(lab.Policy{Domain: "b.test", Body: "b", With: a})
	if a.Addr() != b.Addr() {
		t.Errorf("the addresses are %s and %s", a.Addr(), b.Addr())
	}
	for _, d := range []string{"a", "b"} {
		if _, body, err := fetch(t, w, d+".test"); err != nil || body != d {
			t.Errorf("%s serves %q, %v", d, body, err)
		}
	}
	if a.Hits() != 1 || b.Hits() != 1 || a.Connections() != 2 || b.Handshakes()[0].SNI != "mta-sts.b.test" {
		t.Errorf("hits %d %d, connections %d, handshakes %v", a.Hits(), b.Hits(), a.Connections(), b.Handshakes())
	}
}

// txt is the TXT records of name.
func txt(t *testing.T, w *lab.World, name string) (list []string) {
	t.Helper()
	for _, rr := range ask(t, w, "udp", name, "TXT").Answer {
		list = append(list, strings.Join(rr.(*dns.TXT).Txt, ""))
	}
	return list
}

func TestPolicyHostChanges(t *testing.T) {
	w, ctx := start(t)
	h := w.AddPolicy(lab.Policy{Domain: "example.test", ID: "1", Body: "one"})
	h.Change(func(p *lab.Policy) { p.Body, p.ID = "two", "2" })
	if _, body, _ := fetch(t, w, "example.test"); body != "two" {
		t.Errorf("it serves %q", body)
	}
	if got := txt(t, w, "_mta-sts.example.test."); !slices.Equal(got, []string{"v=STSv1; id=2;"}) {
		t.Errorf("the records are %q", got)
	}
	h.Change(func(p *lab.Policy) { p.TXT = []string{"v=STSv1; id=a;", "v=STSv1; id=b;"} })
	if got := txt(t, w, "_mta-sts.example.test."); len(got) != 2 {
		t.Errorf("the records are %q", got)
	}
	h.Change(func(p *lab.Policy) { p.Cert = lab.SelfSigned })
	if _, _, err := fetch(t, w, "example.test"); !errors.As(err, new(x509.UnknownAuthorityError)) {
		t.Errorf("with another certificate fetching says %v", err)
	}
	if err := h.WaitHandshakes(ctx, 2); err != nil {
		t.Error(err)
	}
	if hs := h.Handshakes(); len(hs) != 2 || hs[1].Err == nil {
		t.Errorf("the handshakes are %+v", hs)
	}
	h.Down()
	if _, err := w.Dialer().DialContext(ctx, "tcp", h.Addr()+":443"); err == nil {
		t.Error("it is down and answers")
	}
	h.Up()
	h.Withdraw()
	if m := ask(t, w, "udp", "_mta-sts.example.test.", "TXT"); m.Rcode != dns.RcodeNameError {
		t.Errorf("withdrawn, DNS says %v", m)
	}
}

func TestPolicyHostHasNothingElse(t *testing.T) {
	w, ctx := start(t)
	h := w.AddPolicy(lab.Policy{Domain: "example.test"})
	conn, err := w.Dialer().DialContext(ctx, "tcp", net.JoinHostPort(h.Addr(), "443"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := tls.Client(conn, &tls.Config{RootCAs: w.Roots(), ServerName: h.Host()})
	io.WriteString(c, "GET /.well-known/ HTTP/1.1\r\nHost: other\r\nUser-Agent: me\r\nConnection: close\r\n\r\n")
	if b, _ := io.ReadAll(c); !bytes.HasPrefix(b, []byte("HTTP/1.1 404 Not Found\r\n")) {
		t.Errorf("it says %q", b)
	}
	if r := h.Requests()[0]; r.Host != "other" || r.Header.Get("User-Agent") != "me" || r.Method != "GET" {
		t.Errorf("the request was %+v", r)
	}
}

func TestCollectorTakesReports(t *testing.T) {
	w, ctx := start(t)
	h := w.AddCollector(lab.Collector{Host: "reports.test", Domains: []string{"example.test"}, Status: 503, Header: http.Header{"Retry-After": {"60"}}})
	if got := txt(t, w, "_smtp._tls.example.test."); !slices.Equal(got, []string{"v=TLSRPTv1; rua=https://reports.test/v1"}) {
		t.Errorf("the records are %q", got)
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: w.Roots()}, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return w.Dialer().DialContext(ctx, network, net.JoinHostPort(lookup(t, w, "reports.test"), "443"))
	}}
	defer tr.CloseIdleConnections()
	for _, want := range []int{503, 201} {
		resp, err := (&http.Client{Transport: tr}).Post(h.URL(), "application/tlsrpt+gzip", strings.NewReader("report"))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("it answers %d", resp.StatusCode)
		}
		h.Change(func(c *lab.Collector) { c.Status = 0 })
	}
	if err := h.WaitRequests(ctx, 2); err != nil {
		t.Fatal(err)
	}
	if r := h.Requests()[0]; string(r.Body) != "report" || r.Header.Get("Content-Type") != "application/tlsrpt+gzip" || r.Method != "POST" || r.Path != "/v1" {
		t.Errorf("the request was %+v", r)
	}
}
