package lab_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"stsrelay/internal/lab"
)

func verify(ca *lab.CA, c *tls.Certificate, name string) error {
	pool := x509.NewCertPool()
	for _, der := range c.Certificate[1:] {
		i, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		pool.AddCert(i)
	}
	_, err := c.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: ca.Roots(), Intermediates: pool})
	return err
}

func TestCAIssuesWhatItSays(t *testing.T) {
	ca, err := lab.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	unknown := func(err error) bool { return errors.As(err, new(x509.UnknownAuthorityError)) }
	other := func(err error) bool { return errors.As(err, new(x509.HostnameError)) }
	invalid := func(r x509.InvalidReason) func(error) bool {
		return func(err error) bool {
			var i x509.CertificateInvalidError
			return errors.As(err, &i) && i.Reason == r
		}
	}
	fine := func(err error) bool { return err == nil }
	for kind, fits := range map[lab.CertKind]func(error) bool{
		lab.Good:                fine,
		lab.WithIntermediate:    fine,
		lab.Wildcard:            fine,
		lab.MissingIntermediate: unknown,
		lab.SelfSigned:          unknown,
		lab.UntrustedCA:         unknown,
		lab.OwnCA:               unknown,
		lab.Expired:             invalid(x509.Expired),
		lab.NotYetValid:         invalid(x509.Expired), // Go has one reason for both
		lab.ClientOnly:          invalid(x509.IncompatibleUsage),
		lab.WrongName:           other,
		lab.CNOnly:              other,
	} {
		t.Run(string(kind), func(t *testing.T) {
			c := ca.Certificate(kind, "mx.example.test")
			if err := verify(ca, c, "mx.example.test"); !fits(err) {
				t.Errorf("it verifies with %v", err)
			}
			if ca.Certificate(kind, "mx.example.test") != c {
				t.Error("asked again, it is another one")
			}
		})
	}
	if c := ca.Certificate(lab.NotYetValid, "a.test"); !c.Leaf.NotBefore.After(time.Now()) {
		t.Errorf("not yet valid is valid from %v", c.Leaf.NotBefore)
	}
	if c := ca.Certificate(lab.Expired, "a.test"); !c.Leaf.NotAfter.Before(time.Now()) {
		t.Errorf("expired is valid until %v", c.Leaf.NotAfter)
	}
	if c := ca.Certificate(lab.CNOnly, "a.test"); c.Leaf.DNSNames != nil || c.Leaf.Subject.CommonName != "a.test" {
		t.Errorf("CN only has %v and %v", c.Leaf.Subject, c.Leaf.DNSNames)
	}
	until := time.Now().Add(time.Hour).Truncate(time.Second)
	c := ca.Issue(lab.Good, lab.Cert{Names: []string{"a.test", "b.test"}, NotAfter: until})
	if verify(ca, c, "b.test") != nil || !c.Leaf.NotAfter.Equal(until) {
		t.Errorf("the certificate ordered is %v until %v", c.Leaf.DNSNames, c.Leaf.NotAfter)
	}
	old := ca.Certificate(lab.Good, "a.test")
	ca.Renew()
	if ca.Certificate(lab.Good, "a.test") == old {
		t.Error("Renew renews nothing")
	}
	if pool := x509.NewCertPool(); !pool.AppendCertsFromPEM(ca.RootsPEM()) || !pool.Equal(ca.Roots()) {
		t.Error("the PEM bundle is not the pool")
	}
}

func TestCAFollowsTheTimeOfABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, err := lab.NewCA()
		if err != nil {
			t.Fatal(err)
		}
		if err := verify(ca, ca.Certificate(lab.Good, "a.test"), "a.test"); err != nil {
			t.Error(err)
		}
		if err := verify(ca, ca.Certificate(lab.Expired, "a.test"), "a.test"); err == nil {
			t.Error("expired is valid")
		}
	})
}

// starttls opens a connection up to the reply to STARTTLS.
func starttls(t *testing.T, m lab.MX) (*lab.World, *lab.MXHost, *raw) {
	t.Helper()
	w, _ := start(t)
	m.Name = host
	mx := w.AddMX(m)
	c := dial(t, w, host)
	c.read()
	c.want("250", "EHLO a")
	c.want("220", "STARTTLS")
	return w, mx, c
}

func TestMXSpeaksTheVersionsItIsTold(t *testing.T) {
	for _, row := range []struct {
		why            string
		mx             lab.MX
		low, high, got uint16 // of the client; got is 0 where the handshake fails
	}{
		{"as a rule 1.3", lab.MX{}, tls.VersionTLS10, tls.VersionTLS13, tls.VersionTLS13},
		{"1.2 for clients that want it", lab.MX{}, tls.VersionTLS12, tls.VersionTLS12, tls.VersionTLS12},
		{"no 1.1 as a rule", lab.MX{}, tls.VersionTLS10, tls.VersionTLS11, 0},
		{"1.2 only", lab.MX{MaxTLS: tls.VersionTLS12}, tls.VersionTLS12, tls.VersionTLS13, tls.VersionTLS12},
		{"1.3 only", lab.MX{MinTLS: tls.VersionTLS13}, tls.VersionTLS12, tls.VersionTLS12, 0},
		{"1.1 only", lab.MX{MaxTLS: tls.VersionTLS11}, tls.VersionTLS10, tls.VersionTLS13, tls.VersionTLS11},
		{"1.1 only for a modern client", lab.MX{MaxTLS: tls.VersionTLS11}, tls.VersionTLS12, tls.VersionTLS13, 0},
	} {
		t.Run(row.why, func(t *testing.T) {
			w, mx, c := starttls(t, row.mx)
			err := c.secure(&tls.Config{RootCAs: w.Roots(), ServerName: host, MinVersion: row.low, MaxVersion: row.high})
			if row.got == 0 {
				if err == nil {
					t.Fatal("the handshake succeeds")
				}
				c.conn.Close()
				if err := mx.WaitHandshakes(t.Context(), 1); err != nil {
					t.Fatal(err)
				}
				if h := mx.Handshakes(); len(h) != 1 || h[0].Err == nil || h[0].State != nil {
					t.Errorf("the handshakes are %+v", h)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			c.want("250", "EHLO a")
			if h := mx.Handshakes(); len(h) != 1 || h[0].State == nil || h[0].State.Version != row.got || h[0].SNI != host {
				t.Errorf("the handshakes are %+v", h)
			}
		})
	}
}

func TestMXShowsTheCertificateItIsTold(t *testing.T) {
	w, mx, c := starttls(t, lab.MX{CertNames: []string{"other.test"}})
	if err := c.secure(&tls.Config{RootCAs: w.Roots(), ServerName: host}); !errors.As(err, new(x509.HostnameError)) {
		t.Errorf("the handshake ends with %v", err)
	}
	if err := mx.WaitHandshakes(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if h := mx.Handshakes(); len(h) != 1 || h[0].Err == nil || !strings.Contains(h[0].Err.Error(), "bad certificate") {
		t.Errorf("the host saw %+v", h)
	}
	mx.Change(func(m *lab.MX) { m.CertNames, m.Cert = nil, lab.UntrustedCA })
	c = dial(t, w, host)
	c.read()
	c.want("220", "STARTTLS")
	if err := c.secure(&tls.Config{RootCAs: w.Roots(), ServerName: host}); !errors.As(err, new(x509.UnknownAuthorityError)) {
		t.Errorf("after a change the handshake ends with %v", err)
	}
}

// What a client sees of a host fits the records that are made for it.
func TestTLSARecordsFitTheCertificate(t *testing.T) {
	const leaf, authority = 0, 1
	for _, row := range []struct {
		kind                      lab.CertKind
		usage, selector, matching uint8
		fits                      int // which certificate that the host sends
	}{
		{lab.Good, 3, 1, 1, leaf}, {lab.Good, 3, 0, 2, leaf}, {lab.Good, 3, 0, 0, leaf}, {lab.SelfSigned, 3, 1, 2, leaf}, {lab.Expired, 1, 1, 1, leaf},
		{lab.WithIntermediate, 2, 0, 1, authority}, {lab.WithIntermediate, 3, 1, 0, leaf}, {lab.OwnCA, 2, 1, 1, authority}, {lab.OwnCA, 0, 0, 2, authority},
	} {
		t.Run(fmt.Sprintf("%d %d %d %s", row.usage, row.selector, row.matching, row.kind), func(t *testing.T) {
			w, mx, c := starttls(t, lab.MX{Cert: row.kind})
			if err := c.secure(&tls.Config{InsecureSkipVerify: true}); err != nil {
				t.Fatal(err)
			}
			w.DNS.Set(mx.TLSA(row.usage, row.selector, row.matching))
			rr := ask(t, w, "udp", "_25._tcp."+host+".", "TLSA").Answer[0].(*dns.TLSA)
			for i, cert := range c.conn.(*tls.Conn).ConnectionState().PeerCertificates {
				if got := rr.Verify(cert) == nil; got != (i == row.fits) || rr.Usage != row.usage {
					t.Errorf("%v fits certificate %d: %v", rr, i, got)
				}
			}
		})
	}
}

// The authority of a certificate that is sent without it can be named all the
// same, and so can another certificate.
func TestTLSARecordsForWhatIsNotShown(t *testing.T) {
	w, mx, c := starttls(t, lab.MX{})
	if err := c.secure(&tls.Config{RootCAs: w.Roots(), ServerName: host}); err != nil {
		t.Fatal(err)
	}
	root, other := c.conn.(*tls.Conn).ConnectionState().VerifiedChains[0][1], w.CA.Issue(lab.Good, lab.Cert{Names: []string{host}}).Leaf
	for _, row := range []struct {
		record string
		fits   *x509.Certificate
	}{{mx.TLSA(2, 0, 1), root}, {mx.TLSAFor(other, 3, 1, 1), other}, {mx.TLSAFor(other, 2, 0, 1), root}} {
		w.DNS.Set(row.record)
		if rr := ask(t, w, "udp", "_25._tcp."+host+".", "TLSA").Answer[0].(*dns.TLSA); rr.Verify(row.fits) != nil {
			t.Errorf("%v does not fit", rr)
		}
	}
}

func TestMXResumesSessions(t *testing.T) {
	for _, off := range []bool{false, true} {
		w, _ := start(t)
		mx := w.AddMX(lab.MX{Name: host, NoTickets: off})
		conf := &tls.Config{RootCAs: w.Roots(), ServerName: host, ClientSessionCache: tls.NewLRUClientSessionCache(1)}
		for range 2 {
			c := dial(t, w, host)
			c.read()
			c.want("220", "STARTTLS")
			if err := c.secure(conf); err != nil {
				t.Fatal(err)
			}
			c.want("250", "NOOP") // with the reply comes the ticket
			c.want("221", "QUIT")
		}
		if h := mx.Handshakes(); h[0].State.Resumed || h[1].State.Resumed == off {
			t.Errorf("with tickets off %v: %+v, then %+v", off, h[0].State, h[1].State)
		}
	}
}

func TestMXBreaksTLS(t *testing.T) {
	for _, row := range []struct {
		why  string
		rule lab.Rule
		fits func(error) bool
	}{
		{"with garbage", lab.Rule{Raw: "this is no TLS\r\n"}, func(err error) bool { return errors.As(err, new(tls.RecordHeaderError)) }},
		{"by hanging up", lab.Rule{Then: lab.Hangup}, func(err error) bool { return errors.Is(err, io.EOF) }},
		{"by a reset", lab.Rule{Then: lab.Reset}, func(err error) bool { return strings.Contains(err.Error(), "reset") }},
	} {
		t.Run(row.why, func(t *testing.T) {
			row.rule.On = lab.TLSStart
			w, _, c := starttls(t, lab.MX{Rules: []lab.Rule{row.rule}})
			if err := c.secure(&tls.Config{RootCAs: w.Roots(), ServerName: host}); err == nil || !row.fits(err) {
				t.Errorf("the handshake ends with %v", err)
			}
		})
	}
}

func TestMXInjectsAReplyBeforeTLS(t *testing.T) {
	w, _ := start(t)
	w.AddMX(lab.MX{Name: host, Rules: []lab.Rule{{On: "STARTTLS", Raw: "220 go\r\n250 injected\r\n"}}})
	c := dial(t, w, host)
	c.read()
	c.want("220", "STARTTLS")
	if got, _ := c.in.Peek(c.in.Buffered()); string(got) != "250 injected\r\n" {
		t.Errorf("together with 220 came %q", got)
	}
	c.read()
	if err := c.secure(&tls.Config{RootCAs: w.Roots(), ServerName: host}); err != nil {
		t.Errorf("a client that does not look goes on to %v", err)
	}
	c.want("250", "EHLO a")
}

func TestMXSpeaksTLSFromTheFirstByte(t *testing.T) {
	w, ctx := start(t)
	mx := w.AddMX(lab.MX{Name: host, Port: 465, ImplicitTLS: true})
	conn, err := w.Dialer().DialContext(ctx, "tcp", mx.Addr()+":465")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := &raw{t: t, conn: conn}
	if err := c.secure(&tls.Config{RootCAs: w.Roots(), ServerName: host}); err != nil {
		t.Fatal(err)
	}
	c.read()
	if got := c.cmd("EHLO a"); strings.Contains(got, "STARTTLS") {
		t.Errorf("EHLO offers %q", got)
	}
}
