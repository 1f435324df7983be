package delivery

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// A fakeMX is an SMTP server that does what a test tells it, and watches what
// the client does. It has its own state machine: it must be able to misbehave.
type fakeMX struct {
	name   string
	cert   *tls.Certificate // nil: STARTTLS is answered by a handshake failure
	config func(*tls.Config)
	plain  []string // EHLO keywords before TLS
	secure []string // and after

	// answer overrides a reply; "" leaves the default, closeIt hangs up, behind a reply if it stands behind one. Verbs
	// are upper-cased; the end of data is asked about as ".", the greeting as
	// "CONNECT". It may block; it is called by one goroutine per connection.
	answer func(c *fakeConn, line string) string

	forget bool // keep no transcript: for benchmarks
	tight  bool // small socket buffers at both ends

	ln   net.Listener
	wg   sync.WaitGroup
	mu   sync.Mutex
	open map[net.Conn]bool
	seen fakeSeen
}

const closeIt = "CLOSE"

// fakeSeen is what a fakeMX saw.
type fakeSeen struct {
	conns      int
	lines      []string // "1 EHLO x", "1T MAIL FROM:<>": connection, T over TLS
	flights    []int    // per connection: times the server had to wait for the client
	messages   []fakeMessage
	violations []string
}

type fakeMessage struct {
	conn int
	tls  bool
	from string   // the whole MAIL line after MAIL FROM:
	to   []string // accepted
	data string   // unstuffed
}

// A fakeConn is one connection to a fakeMX.
type fakeConn struct {
	*fakeMX
	n     int
	nc    net.Conn
	r     *bufio.Reader
	tls   bool
	hello bool
	from  string
	open  bool // a transaction is
	to    []string
	count int // of transactions
}

func (m *fakeMX) start(t testing.TB) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m.ln, m.open = ln, map[net.Conn]bool{}
	m.wg.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			if m.tight {
				tighten(nc)
			}
			m.mu.Lock()
			m.open[nc] = true
			m.seen.conns++
			m.seen.flights = append(m.seen.flights, 0)
			c := &fakeConn{fakeMX: m, n: m.seen.conns, nc: nc, r: bufio.NewReaderSize(nc, 64<<10)}
			m.mu.Unlock()
			m.wg.Go(func() {
				c.serve()
				c.nc.Close()
				nc.Close()
				m.mu.Lock()
				delete(m.open, nc)
				m.mu.Unlock()
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		m.mu.Lock()
		for nc := range m.open {
			nc.Close()
		}
		m.mu.Unlock()
		m.wg.Wait()
		for _, v := range m.seen.violations {
			t.Errorf("%s: the client violated the protocol: %s", m.name, v)
		}
	})
}

// react sets answer while the server runs.
func (m *fakeMX) react(answer func(*fakeConn, string) string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.answer = answer
}

// look returns what was seen so far.
func (m *fakeMX) look() fakeSeen {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.seen
	s.lines, s.messages, s.flights = slices.Clone(s.lines), slices.Clone(s.messages), slices.Clone(s.flights)
	return s
}

// verbs is the transcript without arguments: "1 EHLO", "1 STARTTLS", "1T EHLO".
func (s fakeSeen) verbs() []string {
	var out []string
	for _, l := range s.lines {
		who, line, _ := strings.Cut(l, " ")
		verb, _, _ := strings.Cut(line, " ")
		out = append(out, who+" "+verb)
	}
	return out
}

func (c *fakeConn) violate(format string, a ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen.violations = append(c.seen.violations, fmt.Sprintf("connection %d: ", c.n)+fmt.Sprintf(format, a...))
}

func (c *fakeConn) offers(keyword string) bool {
	list := c.plain
	if c.tls {
		list = c.secure
	}
	return slices.ContainsFunc(list, func(s string) bool { return strings.EqualFold(strings.Fields(s)[0], keyword) })
}

// choose returns the test's reply to line, or the default.
func (c *fakeConn) choose(line, def string) string {
	c.mu.Lock()
	answer := c.answer
	c.mu.Unlock()
	if answer != nil {
		if own := answer(c, line); own != "" {
			return own
		}
	}
	return def
}

// say writes the reply to line. False ends the connection.
func (c *fakeConn) say(line, def string) (reply string, ok bool) {
	r := c.choose(line, def)
	return r, c.write(r)
}

func (c *fakeConn) write(r string) bool {
	r, hangUp := strings.CutSuffix(r, closeIt)
	if r == "" {
		return false
	}
	_, err := io.WriteString(c.nc, r+"\r\n")
	return err == nil && !hangUp
}

// line reads one line, strictly.
func (c *fakeConn) line() (string, bool) {
	if c.r.Buffered() == 0 {
		c.mu.Lock()
		c.seen.flights[c.n-1]++
		c.mu.Unlock()
	}
	s, err := c.r.ReadString('\n')
	if err != nil {
		return "", false
	}
	if !strings.HasSuffix(s, "\r\n") || strings.Contains(s[:len(s)-2], "\r") {
		c.violate("bare CR or LF in %q", s)
	}
	return strings.TrimRight(s, "\r\n"), true
}

func (c *fakeConn) serve() {
	if _, ok := c.say("CONNECT", "220 "+c.name+" ESMTP"); !ok {
		return
	}
	for {
		line, ok := c.line()
		if !ok {
			return
		}
		verb, arg, _ := strings.Cut(line, " ")
		verb = strings.ToUpper(verb)
		who := fmt.Sprint(c.n)
		if c.tls {
			who += "T"
		}
		c.mu.Lock()
		if !c.forget {
			c.seen.lines = append(c.seen.lines, who+" "+line)
		}
		c.mu.Unlock()
		if c.r.Buffered() > 0 && (!c.offers("PIPELINING") || !slices.Contains([]string{"MAIL", "RCPT", "RSET"}, verb)) {
			c.violate("text right behind %s", verb)
		}
		if !c.command(verb, arg, line) {
			return
		}
	}
}

func (c *fakeConn) command(verb, arg, line string) bool {
	if c.hello == (verb == "EHLO" || verb == "HELO") && verb != "QUIT" && verb != "EHLO" {
		c.violate("%s out of place", verb)
	}
	switch verb {
	case "EHLO", "HELO":
		list := c.plain
		if c.tls {
			list = c.secure
		}
		def := "250 " + c.name
		if verb == "EHLO" && len(list) > 0 {
			def = "250-" + c.name + "\r\n250-" + strings.Join(list[:len(list)-1], "\r\n250-") + "\r\n250 " + list[len(list)-1]
			def = strings.ReplaceAll(def, "\r\n250-\r\n", "\r\n")
		}
		r, ok := c.say(line, def)
		c.hello = c.hello || strings.HasPrefix(r, "250")
		return ok
	case "STARTTLS":
		return c.startTLS(line)
	case "MAIL":
		return c.mail(arg, line)
	case "RCPT":
		c.params(arg, map[string]string{"NOTIFY": "DSN", "ORCPT": "DSN"})
		def := "250 2.1.5 ok"
		if !c.open {
			def = "503 5.5.1 MAIL first"
		}
		r, ok := c.say(line, def)
		if strings.HasPrefix(r, "2") {
			c.to = append(c.to, strings.TrimPrefix(arg, "TO:"))
		}
		return ok
	case "DATA":
		def := "354 go on"
		if len(c.to) == 0 {
			def = "554 5.5.1 no valid recipients"
		}
		r, ok := c.say(line, def)
		if ok && strings.HasPrefix(r, "354") {
			return c.data()
		}
		return ok
	case "RSET":
		_, ok := c.say(line, "250 2.0.0 ok")
		c.open, c.to = false, nil
		return ok
	case "QUIT":
		c.say(line, "221 2.0.0 bye")
		return false
	}
	_, ok := c.say(line, "500 5.5.2 what?")
	return ok
}

func (c *fakeConn) mail(arg, line string) bool {
	if c.open {
		c.violate("nested MAIL")
	}
	c.params(arg, map[string]string{"SIZE": "SIZE", "BODY": "8BITMIME", "SMTPUTF8": "SMTPUTF8", "REQUIRETLS": "REQUIRETLS", "RET": "DSN", "ENVID": "DSN"})
	r, ok := c.say(line, "250 2.1.0 ok")
	if strings.HasPrefix(r, "2") {
		c.open, c.from, c.to = true, strings.TrimPrefix(arg, "FROM:"), nil
		c.count++
	}
	return ok
}

// params holds each parameter of MAIL or RCPT to the keyword that it needs.
func (c *fakeConn) params(arg string, needs map[string]string) {
	for _, p := range strings.Fields(arg[strings.LastIndexByte(arg, '>')+1:]) {
		name, _, _ := strings.Cut(p, "=")
		if need := needs[name]; need == "" || !c.offers(need) {
			c.violate("parameter %s was not offered", p)
		}
	}
}

func (c *fakeConn) startTLS(line string) bool {
	if c.tls || !c.offers("STARTTLS") {
		c.violate("STARTTLS was not offered")
	}
	r, ok := c.say(line, "220 2.0.0 go")
	if !ok || !strings.HasPrefix(r, "220") {
		return ok
	}
	config := &tls.Config{}
	if c.cert != nil {
		config.Certificates = []tls.Certificate{*c.cert}
	}
	if c.config != nil {
		c.config(config)
	}
	nc := tls.Server(c.nc, config)
	if err := nc.Handshake(); err != nil {
		return false
	}
	c.nc, c.tls, c.hello = nc, true, false
	c.r.Reset(nc)
	return true
}

func (c *fakeConn) data() bool {
	var raw bytes.Buffer
	for {
		line, ok := c.line()
		if !ok {
			return false
		}
		if line == "." {
			break
		}
		raw.WriteString(strings.TrimPrefix(line, ".") + "\r\n")
	}
	if c.r.Buffered() > 0 && !c.offers("PIPELINING") {
		c.violate("text right behind the content")
	}
	if slices.ContainsFunc(raw.Bytes(), func(b byte) bool { return b > 0x7f }) && !strings.Contains(c.from, "BODY=8BITMIME") {
		c.violate("8-bit content without BODY=8BITMIME")
	}
	m := fakeMessage{c.n, c.tls, c.from, c.to, raw.String()}
	c.open, c.to = false, nil
	r := c.choose(".", "250 2.0.0 queued")
	c.mu.Lock()
	if !c.forget {
		c.seen.lines = append(c.seen.lines, fmt.Sprintf("%d .", c.n))
	}
	if !c.forget && len(m.to) > 0 && (strings.HasPrefix(r, "2") || r == closeIt) {
		c.seen.messages = append(c.seen.messages, m)
	}
	c.mu.Unlock()
	return c.write(r)
}

// A fakeCA signs the certificates of fakeMXs.
type fakeCA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newCA(t testing.TB) *fakeCA {
	t.Helper()
	ca := &fakeCA{pool: x509.NewCertPool()}
	c := ca.make(t, &x509.Certificate{Subject: pkix.Name{CommonName: "fake root"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	var err error
	if ca.cert, err = x509.ParseCertificate(c.Certificate[0]); err != nil {
		t.Fatal(err)
	}
	ca.key = c.PrivateKey.(*ecdsa.PrivateKey)
	ca.pool.AddCert(ca.cert)
	return ca
}

// issue returns a certificate for names that is valid now.
func (ca *fakeCA) issue(t testing.TB, names ...string) *tls.Certificate {
	t.Helper()
	return ca.make(t, &x509.Certificate{DNSNames: names, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
}

func (ca *fakeCA) make(t testing.TB, c *x509.Certificate) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c.SerialNumber = big.NewInt(time.Now().UnixNano())
	if c.NotAfter.IsZero() {
		c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	parent, signer := c, key
	if ca.cert != nil {
		parent, signer = ca.cert, ca.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// fakeDialer leads planned addresses to fakeMXs.
type fakeDialer struct {
	mu    sync.Mutex
	to    map[string]*fakeMX
	dials map[string]int
}

func (d *fakeDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	d.mu.Lock()
	d.dials[address]++
	m := d.to[address]
	d.mu.Unlock()
	if m == nil {
		return nil, fmt.Errorf("dial tcp %s: connection refused", address)
	}
	nc, err := (&net.Dialer{}).DialContext(ctx, network, m.ln.Addr().String())
	if err == nil && m.tight {
		tighten(nc)
	}
	return nc, err
}

// tighten leaves a connection hardly any buffers, as a slow network would.
func tighten(nc net.Conn) {
	nc.(*net.TCPConn).SetReadBuffer(4096)
	nc.(*net.TCPConn).SetWriteBuffer(4096)
}

func (d *fakeDialer) count(address string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dials[address]
}
