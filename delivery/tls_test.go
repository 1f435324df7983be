package delivery

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"stsrelay/tlsrpt"
)

// A tlsPeer is a server on loopback that only handshakes, as config says.
type tlsPeer struct {
	ln     net.Listener
	states chan tls.ConnectionState // of the handshakes that succeeded
}

func newTLSPeer(t *testing.T, serve func(net.Conn)) tlsPeer {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			serve(c)
			c.Close()
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	return tlsPeer{ln: ln}
}

func handshakingPeer(t *testing.T, config *tls.Config) tlsPeer {
	states := make(chan tls.ConnectionState, 10)
	p := newTLSPeer(t, func(c net.Conn) {
		s := tls.Server(c, config)
		if s.Handshake() == nil {
			states <- s.ConnectionState()
			s.Write([]byte("x")) // carries the session tickets with it
			io.Copy(io.Discard, s)
		}
	})
	p.states = states
	return p
}

// handshake dials p and handshakes under d.
func (p tlsPeer) handshake(t *testing.T, d Decision, roots *x509.CertPool) (Evidence, error) {
	t.Helper()
	var e Evidence
	raw, err := net.Dial("tcp", p.ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	raw.SetDeadline(time.Now().Add(10 * time.Second))
	c := tls.Client(raw, tlsConfig(d, roots, &e))
	if err := c.Handshake(); err != nil {
		return e, err
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		return e, err
	}
	state := c.ConnectionState()
	e.State = &state
	return e, nil
}

func today(c *x509.Certificate) {
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
}

func TestTLSConfig(t *testing.T) {
	root := issuer{t: t}.authority("root", func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	})
	roots := x509.NewCertPool()
	roots.AddCert(root.cert)
	server := func(i issuer) *tls.Config {
		return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{i.cert.Raw}, PrivateKey: i.key}}}
	}
	good, bad := root.issue(today, "mx1.example.com"), root.issue(today, "mx.other.example")
	demanding := Decide(facts(enforce))

	t.Run("a good certificate is proven in the evidence, and Judge goes by it", func(t *testing.T) {
		e, err := handshakingPeer(t, server(good)).handshake(t, demanding, roots)
		if err != nil || e.PKIXErr != nil || e.PKIXFor != listedMX {
			t.Fatalf("%v, %+v", err, e)
		}
		if v := demanding.Judge(e); !v.Proceed {
			t.Errorf("%+v", v)
		}
	})
	t.Run("a bad certificate ends no handshake: it stands in the evidence, and Judge refuses", func(t *testing.T) {
		e, err := handshakingPeer(t, server(bad)).handshake(t, demanding, roots)
		if err != nil {
			t.Fatal(err)
		}
		if v := demanding.Judge(e); v.Proceed || v.Redial || v.Err.Reason != CertHostMismatch {
			t.Errorf("%+v", v)
		}
	})
	t.Run("TLSV-GO-01 nothing is resumed: each handshake is verified anew", func(t *testing.T) {
		p := handshakingPeer(t, server(bad))
		for range 3 {
			e, err := p.handshake(t, Decide(facts()), roots)
			if err != nil || e.State.DidResume || e.PKIXErr == nil {
				t.Errorf("%v, %+v", err, e)
			}
		}
	})
	t.Run("TLSV-9325-3.1-01 STS-7.2-01 TLS 1.3 is preferred, 1.2 is spoken", func(t *testing.T) {
		e, err := handshakingPeer(t, server(good)).handshake(t, demanding, roots)
		if err != nil || e.State.Version != tls.VersionTLS13 {
			t.Errorf("%v, %+v", err, e.State)
		}
		old := server(good)
		old.MaxVersion = tls.VersionTLS12
		if e, err = handshakingPeer(t, old).handshake(t, demanding, roots); err != nil || e.State.Version != tls.VersionTLS12 {
			t.Errorf("%v, %+v", err, e.State)
		}
		young := server(good)
		young.MinVersion = tls.VersionTLS13
		if e, err = handshakingPeer(t, young).handshake(t, demanding, roots); err != nil || e.State.Version != tls.VersionTLS13 {
			t.Errorf("%v, %+v", err, e.State)
		}
	})
	t.Run("STS-7.1-02 a server that ignores the SNI is judged by the certificate that it shows", func(t *testing.T) {
		for shown, want := range map[*issuer]string{&good: goes, &bad: string(CertHostMismatch)} {
			e, err := handshakingPeer(t, server(*shown)).handshake(t, demanding, roots)
			if err != nil {
				t.Fatal(err)
			}
			if got := verdictText(demanding.Judge(e)); got != want {
				t.Errorf("a certificate for %v: %s", shown.cert.DNSNames, got)
			}
		}
	})
	t.Run("ERR-8461-AB the certificate is compared with the MX name, not with the policy's pattern", func(t *testing.T) {
		d := Decide(facts(enforce))
		if d.Pattern != "*.example.com" {
			t.Fatalf("the policy names the host by %q", d.Pattern)
		}
		e, err := handshakingPeer(t, server(root.issue(today, "other.example.com"))).handshake(t, d, roots)
		if err != nil {
			t.Fatal(err)
		}
		if got := verdictText(d.Judge(e)); got != string(CertHostMismatch) {
			t.Errorf("a certificate for another name that fits the pattern: %s", got)
		}
	})
	for name, version := range map[string]uint16{"1.0": tls.VersionTLS10, "1.1": tls.VersionTLS11} {
		t.Run("TLSV-8996-01 STS-7.2-02 TLS "+name+" is not spoken, with a policy or without", func(t *testing.T) {
			old := server(good)
			old.MinVersion, old.MaxVersion = tls.VersionTLS10, version
			for _, d := range []Decision{demanding, Decide(facts())} {
				_, err := handshakingPeer(t, old).handshake(t, d, roots)
				if err == nil {
					t.Fatal("it is")
				}
				if result, reason, code := classify(err); result != tlsrpt.ValidationFailure || reason != TLSFailed || !strings.Contains(code, "protocol version") {
					t.Errorf("%q %q %q", result, reason, code)
				}
			}
		})
	}
	for name, suite := range map[string]uint16{"static RSA": tls.TLS_RSA_WITH_AES_128_GCM_SHA256, "3DES": tls.TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA, "RC4": tls.TLS_ECDHE_RSA_WITH_RC4_128_SHA} {
		t.Run("TLSV-9325-4.1-01 STS-7.2-02 RPT-4.3-05 no "+name, func(t *testing.T) {
			p := handshakingPeer(t, &tls.Config{Certificates: []tls.Certificate{rsaCertificate(t)}, MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{suite}})
			_, err := p.handshake(t, Decide(facts()), roots)
			if err == nil {
				t.Fatal("accepted")
			}
			if result, reason, code := classify(err); result != tlsrpt.ValidationFailure || reason != TLSFailed || code != "remote-alert: handshake failure" {
				t.Errorf("%q %q %q", result, reason, code)
			}
		})
	}
	t.Run("an RSA host of the last decade, with CBC and nothing better, is talked to", func(t *testing.T) {
		p := handshakingPeer(t, &tls.Config{Certificates: []tls.Certificate{rsaCertificate(t)}, MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA}})
		if _, err := p.handshake(t, Decide(facts()), roots); err != nil {
			t.Error(err)
		}
	})
	t.Run("TLSV-9325-4.2-01 ephemeral keys with AES-GCM, and no suite that Go calls insecure", func(t *testing.T) {
		c := tlsConfig(demanding, roots, &Evidence{})
		for _, want := range []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384} {
			if !slices.Contains(c.CipherSuites, want) {
				t.Errorf("%s is missing", tls.CipherSuiteName(want))
			}
		}
		for _, bad := range tls.InsecureCipherSuites() {
			if slices.Contains(c.CipherSuites, bad.ID) {
				t.Errorf("%s is in", bad.Name)
			}
		}
		for _, id := range c.CipherSuites {
			if !strings.HasPrefix(tls.CipherSuiteName(id), "TLS_ECDHE_") {
				t.Errorf("%s is in", tls.CipherSuiteName(id))
			}
		}
	})
	t.Run("TLSV-9325-3.3-01 no renegotiation is accepted", func(t *testing.T) {
		if c := tlsConfig(demanding, roots, &Evidence{}); c.Renegotiation != tls.RenegotiateNever {
			t.Error(c.Renegotiation)
		}
	})
	sni := func(t *testing.T, f Facts) string {
		p := handshakingPeer(t, server(good))
		if _, err := p.handshake(t, Decide(f), roots); err != nil {
			t.Fatal(err)
		}
		return (<-p.states).ServerName
	}
	t.Run("TLSV-9325-3.7-01 TLSV-6066-01 STS-7.1-01 the SNI is the MX name without trailing dot", func(t *testing.T) {
		if got := sni(t, facts(enforce)); got != "mx1.example.com" {
			t.Errorf("%q", got)
		}
	})
	t.Run("DANE-8.1-01 X-05 the SNI is the TLSA base domain", func(t *testing.T) {
		if got := sni(t, facts(enforce, usable)); got != "mail.provider.example" {
			t.Errorf("%q", got)
		}
	})
	t.Run("TLSV-6066-01 an address literal has no SNI", func(t *testing.T) {
		if got := sni(t, facts(literal)); got != "" {
			t.Errorf("%q", got)
		}
	})
}

// rsaCertificate is one that the suites with RSA in their name can use.
func rsaCertificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"mx1.example.com"}}
	today(c)
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// What real failures of handshakes are called.
func TestHandshakeFailures(t *testing.T) {
	tests := []struct {
		name  string
		serve func(net.Conn)
		code  string
	}{
		{"RPT-4.3-14 the server closes the connection", func(c net.Conn) { c.Read(make([]byte, 1)) }, "connection-closed"},
		{"RPT-4.3-05 the server goes on in plain text", func(c net.Conn) {
			c.Write([]byte("554 5.7.0 whatever you say\r\n"))
			io.Copy(io.Discard, c)
		}, "not-tls"},
		{"RPT-4.3-05 the server sends an alert", func(c net.Conn) {
			c.Read(make([]byte, 1024))
			c.Write([]byte{21, 3, 3, 0, 2, 2, 80})
			io.Copy(io.Discard, c)
		}, "remote-alert: internal error"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e, err := newTLSPeer(t, tt.serve).handshake(t, Decide(facts(enforce)), nil)
			if err == nil {
				t.Fatal("no failure")
			}
			result, reason, code := classify(err)
			if result != tlsrpt.ValidationFailure || reason != TLSFailed || code != tt.code {
				t.Errorf("%v is %q %q %q", err, result, reason, code)
			}
			e.TLSErr = err
			if v := Decide(facts(enforce)).Judge(e); v.Proceed || v.Redial {
				t.Errorf("%+v", v)
			}
			if v := Decide(facts()).Judge(e); !v.Redial {
				t.Errorf("%+v", v)
			}
		})
	}
	t.Run("RPT-4.3-14 the server is silent", func(t *testing.T) {
		p := newTLSPeer(t, func(c net.Conn) { io.Copy(io.Discard, c) })
		raw, err := net.Dial("tcp", p.ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		raw.SetDeadline(time.Now().Add(50 * time.Millisecond))
		err = tls.Client(raw, tlsConfig(Decide(facts()), nil, &Evidence{})).Handshake()
		if _, _, code := classify(err); code != "timeout" {
			t.Errorf("%v is %q", err, code)
		}
	})
}
