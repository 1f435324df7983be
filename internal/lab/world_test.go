package lab_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"stsrelay/internal/lab"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds what would hang if the lab were broken.
const patience = 20 * time.Second

func start(t *testing.T) (*lab.World, context.Context) {
	t.Helper()
	w, err := lab.Start(lab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return w, ctx
}

// ask asks the lab's DNS server, as a resolver would.
func ask(t *testing.T, w *lab.World, network, name, typ string) *dns.Msg {
	t.Helper()
	c := &dns.Client{Net: network, Timeout: patience}
	m := new(dns.Msg).SetQuestion(name, dns.StringToType[typ])
	m.SetEdns0(1232, true)
	got, _, err := c.Exchange(m, w.DNSServers()[0])
	if err != nil {
		t.Fatalf("asking for %s %s over %s: %v", name, typ, network, err)
	}
	return got
}

// lookup finds the one address of a host in DNS.
func lookup(t *testing.T, w *lab.World, host string) string {
	t.Helper()
	for _, rr := range ask(t, w, "udp", dns.Fqdn(host), "A").Answer {
		if a, ok := rr.(*dns.A); ok {
			return a.A.String()
		}
	}
	t.Fatalf("%s has no address", host)
	return ""
}

// A raw is an SMTP client that says what it is told.
type raw struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

func dial(t *testing.T, w *lab.World, host string) *raw {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := w.Dialer().DialContext(ctx, "tcp", net.JoinHostPort(lookup(t, w, host), "25"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	return &raw{t, conn, bufio.NewReader(conn)}
}

func (r *raw) write(s string) {
	r.t.Helper()
	if _, err := io.WriteString(r.conn, s); err != nil {
		r.t.Fatalf("writing %.300q: %v", s, err)
	}
}

// read reads one reply of any number of lines, joined by \n.
func (r *raw) read() string {
	r.t.Helper()
	var lines []string
	for {
		l, err := r.in.ReadString('\n')
		if err != nil {
			r.t.Fatalf("reading a reply after %q: %v", lines, err)
		}
		l = strings.TrimRight(l, "\r\n")
		lines = append(lines, l)
		if len(l) < 4 || l[3] != '-' {
			return strings.Join(lines, "\n")
		}
	}
}

// cmd says a line and returns the reply.
func (r *raw) cmd(line string) string {
	r.t.Helper()
	r.write(line + "\r\n")
	return r.read()
}

// want says a line and fails if the reply does not begin with code.
func (r *raw) want(code, line string) {
	r.t.Helper()
	if got := r.cmd(line); !strings.HasPrefix(got, code) {
		r.t.Fatalf("%s was answered by %q, not %s", line, got, code)
	}
}

// through is a connection that is read through a buffer.
type through struct {
	net.Conn
	in *bufio.Reader
}

func (t *through) Read(p []byte) (int, error) { return t.in.Read(p) }

// secure sets up TLS after STARTTLS was answered by 220.
func (r *raw) secure(conf *tls.Config) error {
	if r.in == nil {
		r.in = bufio.NewReader(r.conn)
	}
	conn := tls.Client(&through{r.conn, r.in}, conf)
	if err := conn.Handshake(); err != nil {
		return err
	}
	r.conn, r.in = conn, bufio.NewReader(conn)
	return nil
}

func TestOneMessageFromDNSToFinalDot(t *testing.T) {
	w, ctx := start(t)
	mx := w.AddMX(lab.MX{Name: "mx.example.test", Domains: []string{"example.test"}})
	got := ask(t, w, "udp", "example.test.", "MX").Answer
	if len(got) != 1 || got[0].(*dns.MX).Mx != "mx.example.test." {
		t.Fatalf("MX records are %v", got)
	}
	c := dial(t, w, "mx.example.test")
	if g := c.read(); !strings.HasPrefix(g, "220 mx.example.test ") {
		t.Fatalf("greeting is %q", g)
	}
	if ehlo := c.cmd("EHLO relay.test"); !strings.Contains(ehlo, "STARTTLS") || !strings.Contains(ehlo, "PIPELINING") {
		t.Fatalf("EHLO offers %q", ehlo)
	}
	c.want("220", "STARTTLS")
	if err := c.secure(&tls.Config{RootCAs: w.Roots(), ServerName: "mx.example.test"}); err != nil {
		t.Fatal(err)
	}
	if ehlo := c.cmd("EHLO relay.test"); strings.Contains(ehlo, "STARTTLS") {
		t.Fatalf("EHLO over TLS offers %q", ehlo)
	}
	c.want("250", "MAIL FROM:<a@b.test> SIZE=30")
	c.want("250", "RCPT TO:<c@example.test>")
	c.want("354", "DATA")
	c.want("250", "Subject: x\r\n\r\n..dot\r\nlast\r\n.")
	c.want("221", "QUIT")
	if err := mx.WaitMessages(ctx, 1); err != nil {
		t.Fatal(err)
	}
	m := mx.Messages()[0]
	if string(m.Content) != "Subject: x\r\n\r\n.dot\r\nlast\r\n" || string(m.Wire) != "Subject: x\r\n\r\n..dot\r\nlast\r\n.\r\n" {
		t.Errorf("content %q, wire %q", m.Content, m.Wire)
	}
	if m.From != "a@b.test" || len(m.To) != 1 || m.To[0] != "c@example.test" || m.Mail != "MAIL FROM:<a@b.test> SIZE=30" {
		t.Errorf("envelope %q %q %q", m.Mail, m.From, m.To)
	}
	if m.TLS == nil || m.TLS.Version != tls.VersionTLS13 || m.TLS.SNI != "mx.example.test" || m.TLS.Resumed {
		t.Errorf("TLS state %+v", m.TLS)
	}
	if v := mx.Violations(); v != nil {
		t.Errorf("violations %v", v)
	}
}

// fetch gets the policy of domain as a sender would.
func fetch(t *testing.T, w *lab.World, domain string) (*http.Response, string, error) {
	t.Helper()
	addr := net.JoinHostPort(lookup(t, w, "mta-sts."+domain), "443")
	tr := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: w.Roots()},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return w.Dialer().DialContext(ctx, network, addr)
		},
	}
	defer tr.CloseIdleConnections()
	c := &http.Client{
		Transport:     tr,
		Timeout:       patience,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := c.Get("https://mta-sts." + domain + "/.well-known/mta-sts.txt")
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp, string(body), err
}

func TestAPolicyFromTXTToFile(t *testing.T) {
	w, ctx := start(t)
	p := w.AddPolicy(lab.Policy{Domain: "example.test", ID: "7", MX: []string{"mx.example.test"}})
	txt := ask(t, w, "udp", "_mta-sts.example.test.", "TXT").Answer
	if len(txt) != 1 || txt[0].(*dns.TXT).Txt[0] != "v=STSv1; id=7;" {
		t.Fatalf("TXT records are %v", txt)
	}
	resp, body, err := fetch(t, w, "example.test")
	if err != nil {
		t.Fatal(err)
	}
	if body != "version: STSv1\nmode: enforce\nmx: mx.example.test\nmax_age: 604800\n" {
		t.Errorf("the file is %q", body)
	}
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/plain" {
		t.Errorf("answer %d %v", resp.StatusCode, resp.Header)
	}
	if err := p.WaitHits(ctx, 1); err != nil {
		t.Fatal(err)
	}
	r := p.Requests()[0]
	if r.Path != lab.PolicyPath || r.Host != "mta-sts.example.test" || r.TLS.SNI != "mta-sts.example.test" || p.Connections() != 1 {
		t.Errorf("the request was %+v", r)
	}
}
