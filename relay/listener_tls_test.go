package relay_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"stsrelay/internal/lab"
	"stsrelay/relay"
)

// certificate makes one for relay.example.com, and the roots to verify it with.
func certificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	ca, err := lab.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	return *ca.Certificate(lab.Good, "relay.example.com"), ca.Roots()
}

// A tlsDesk is a desk with TLS of either kind.
type tlsDesk struct {
	*desk
	implicit bool
	client   *tls.Config
}

func newTLSDesk(t *testing.T, implicit bool, change func(*relay.ListenerOptions)) *tlsDesk {
	t.Helper()
	cert, pool := certificate(t)
	d := newDesk(t, func(o *relay.ListenerOptions) {
		o.TLS, o.Implicit = &tls.Config{Certificates: []tls.Certificate{cert}}, implicit
		if change != nil {
			change(o)
		}
	})
	return &tlsDesk{d, implicit, &tls.Config{RootCAs: pool, ServerName: "relay.example.com"}}
}

// secure connects and does the handshake; no EHLO is said inside.
func (d *tlsDesk) secure() *caller {
	d.t.Helper()
	c := d.dial()
	if !d.implicit {
		c.want("220 relay.example.com")
		c.say("EHLO plain.example\r\n", "250")
		c.say("STARTTLS\r\n", "220 2.0.0")
	}
	c = newCaller(d.t, tls.Client(c.Conn, d.client))
	if err := c.Conn.(*tls.Conn).Handshake(); err != nil {
		d.t.Fatal(err)
	}
	if d.implicit {
		c.want("220 relay.example.com")
	}
	return c
}

func (d *tlsDesk) secureHello() *caller {
	d.t.Helper()
	c := d.secure()
	c.say("EHLO client.example\r\n", "250")
	return c
}

func bothKinds(t *testing.T, name string, change func(*relay.ListenerOptions), talk func(t *testing.T, d *tlsDesk)) {
	for kind, implicit := range map[string]bool{"STARTTLS": false, "implicit TLS": true} {
		t.Run(kind+": "+name, func(t *testing.T) { talk(t, newTLSDesk(t, implicit, change)) })
	}
}

func TestListenerTLS(t *testing.T) {
	bothKinds(t, "S17 STLS-4.2-03 mail is taken, Received tells of TLS, and STARTTLS is not offered inside", nil, func(t *testing.T, d *tlsDesk) {
		c := d.secure()
		c.send("EHLO client.example\r\n")
		offers := strings.Split(c.reply(), "\n")
		if want := []string{"250-8BITMIME", "250-DSN", "250-ENHANCEDSTATUSCODES", "250-PIPELINING", "250-REQUIRETLS", "250-SMTPUTF8", "250 SIZE 52428800"}; !slices.Equal(sorted(offers[1:]), sorted(want)) {
			t.Errorf("EHLO offers %q", offers)
		}
		c.say("STARTTLS\r\n", "502 5.5.1")
		if got := c.mail("Subject: x\r\n\r\nHello"); !strings.HasPrefix(got, "250 2.0.0 queued as") {
			t.Fatal(got)
		}
		body := d.body(d.queue()[0].Message)
		cipher := tls.CipherSuiteName(c.Conn.(*tls.Conn).ConnectionState().CipherSuite)
		want := "Received: from client.example ([127.0.0.1])\r\n\t(using TLS 1.3 with cipher " + cipher + ")\r\n\tby relay.example.com (stsrelay) with ESMTPS id "
		if !strings.HasPrefix(body, want) {
			t.Errorf("%q", body)
		}
		if got := d.content(); got != "Subject: x\r\n\r\nHello\r\n" {
			t.Errorf("%q is queued", got)
		}
		c.say("QUIT\r\n", "221")
		c.gone()
	})
	for _, tt := range []struct{ name, send, want string }{
		{"S4 SMUG-07 BDAT", "BDAT 5 LAST\r\nhello", "502 5.5.1"},
		{"SMUG-05 a command that ends in LF", "NOOP\nNOOP\r\n", "500 5.5.2"},
		{"S12 a long command line", "NOOP " + strings.Repeat("x", 2042) + "\r\n", "500 5.5.2 a command line has more"},
		{"SMUG-06 content that does not wait for 354", envelope + "Subject: x\r\n\r\n.\r\n", "421 4.5.0"},
	} {
		bothKinds(t, tt.name+" is refused as without TLS", nil, func(t *testing.T, d *tlsDesk) {
			c := d.secureHello()
			c.send(tt.send)
			if tt.want == "421 4.5.0" {
				c.want("250", "250")
			}
			c.want(tt.want)
			c.gone()
		})
	}
	bothKinds(t, "S10 SMUG-02 bare line ends in content", nil, func(t *testing.T, d *tlsDesk) {
		if got := d.secureHello().mail("Subject: x\r\n\r\nbare\n.\nHello"); !strings.HasPrefix(got, "550 5.5.2") || len(d.queue()) != 0 {
			t.Errorf("%q", got)
		}
	})
	bothKinds(t, "nobody relays who is not listed", func(o *relay.ListenerOptions) { o.AllowFrom = nil }, func(t *testing.T, d *tlsDesk) {
		d.secureHello().say("MAIL FROM:<a@client.example>\r\n", "550 5.7.1")
	})
	bothKinds(t, "S14 idle clients hear 421, and a transaction under way may end", func(o *relay.ListenerOptions) { o.Grace = time.Hour }, func(t *testing.T, d *tlsDesk) {
		c := d.secureHello()
		c.say(envelope, "250", "250", "354")
		c.send("Subject: x\r\n")
		idle := d.secureHello()
		d.stop()
		idle.want("421 4.3.2")
		idle.gone()
		c.say("\r\nHello\r\n.\r\n", "250 2.0.0 queued as", "421 4.3.2")
		if got := d.content(); got != "Subject: x\r\n\r\nHello\r\n" {
			t.Errorf("%q is queued", got)
		}
	})
	bothKinds(t, "S16 a handshake that fails is answered nothing in the clear", nil, func(t *testing.T, d *tlsDesk) {
		c := d.dial()
		if !d.implicit {
			c.want("220")
			c.say("EHLO plain.example\r\n", "250")
			c.say("STARTTLS\r\n", "220")
		}
		c.send("EHLO this is no handshake\r\n")
		rest, _ := io.ReadAll(c.r) // an alert of TLS at most, and then perhaps a reset
		if len(rest) > 0 && rest[0] != 21 {
			t.Errorf("%q", rest)
		}
		d.secureHello().say("NOOP\r\n", "250")
		if log := d.log.text(); !contains(log, "TLS handshake failed", `"client":"[127.0.0.1]"`) {
			t.Errorf("log: %s", log)
		}
	})
}

func TestListenerSTARTTLS(t *testing.T) {
	t.Run("STLS-L-02 it is offered, and mail without it is taken too", func(t *testing.T) {
		c := newTLSDesk(t, false, nil).call()
		c.send("EHLO client.example\r\n")
		if got := c.reply(); strings.Count(got, "\n250-STARTTLS\n") != 1 || strings.Contains(got, "CHUNKING") {
			t.Errorf("%q", got)
		}
		if got := c.mail("Subject: x\r\n\r\nHello"); !strings.HasPrefix(got, "250") {
			t.Error(got)
		}
	})
	t.Run("it is not there where it is not offered", func(t *testing.T) {
		newDesk(t, nil).hello().say("STARTTLS\r\nNOOP\r\n", "502 5.5.1", "250")
	})
	// CVE-2011-0411: what was sent in the clear must not be served inside TLS.
	for name, behind := range map[string]string{
		"a command": "RSET\r\n", "a part of one": "R", "an envelope": "EHLO evil.example\r\nMAIL FROM:<evil@client.example>\r\n",
	} {
		t.Run("STLS-4.2-03 SMUG-06 "+name+" behind it in the clear is not served", func(t *testing.T) {
			d := newTLSDesk(t, false, nil)
			c := d.hello()
			c.say("NOOP\r\nSTARTTLS\r\n"+behind, "250", "421 4.5.0")
			c.gone()
		})
	}
	t.Run("in pieces", func(t *testing.T) {
		d := newTLSDesk(t, false, nil)
		c := d.hello()
		c.send("start")
		c.send("TLS")
		c.say("\r\n", "220 2.0.0")
		c = newCaller(t, tls.Client(c.Conn, d.client))
		c.say("EHLO client.example\r\n", "250")
	})
	t.Run("STLS-4.2-03 what was said before is forgotten", func(t *testing.T) {
		c := newTLSDesk(t, false, nil).secure()
		c.say("MAIL FROM:<a@client.example>\r\n", "503 5.5.1 say EHLO first")
		c.say("MAIL FROM:<a@client.example>\r\nEHLO\r\n", "503 5.5.1 say EHLO first", "501")
		c.say("MAIL FROM:<a@client.example>\r\nHELP EHLO x\r\n", "503 5.5.1 say EHLO first", "502")
		c.say("MAIL FROM:<a@client.example>\r\n", "503 5.5.1 say EHLO first")
		c.say("MAIL FROM:<a@client.example>\r\nEHLO client.example\r\n", "503 5.5.1 say EHLO first", "250")
		c.say("EHLO client.example\r\nMAIL FROM:<a@client.example>\r\n", "250", "250")
	})
	t.Run("STLS-L-01 S16 it has no parameters, nor another name", func(t *testing.T) {
		newTLSDesk(t, false, nil).hello().say("STARTTLS now\r\nSTARTTLSxyz\r\nSTARTTLS\r\n", "501 5.5.4", "502 5.5.1", "220 2.0.0")
	})
	t.Run("in a transaction it is refused, and the transaction goes on", func(t *testing.T) {
		d := newTLSDesk(t, false, nil)
		c := d.hello()
		c.say("MAIL FROM:<a@client.example>\r\nSTARTTLS\r\n", "250", "502 5.5.1")
		c.say("RCPT TO:<b@example.net>\r\nDATA\r\n", "250", "354")
		c.say("Subject: x\r\n\r\n.\r\n", "250")
		if got := d.body(d.queue()[0].Message); !strings.Contains(got, " with ESMTP id ") {
			t.Errorf("%q", got)
		}
	})
}

// A client that stalls its handshake is left, and holds up no end.
func TestListenerTLSTime(t *testing.T) {
	for kind, implicit := range map[string]bool{"STARTTLS": false, "implicit TLS": true} {
		for what, end := range map[string]bool{"a stalled handshake ends after two minutes": false, "a stalled handshake ends with the relay": true} {
			t.Run(kind+": "+what, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					cert, _ := certificate(t)
					ln := newPipes()
					d := deskOn(t, ln, func(o *relay.ListenerOptions) {
						o.TLS, o.Implicit = &tls.Config{Certificates: []tls.Certificate{cert}}, implicit
					})
					client, server := net.Pipe()
					ln.conns <- &tcpLike{Conn: server}
					c := newCaller(t, client)
					if !implicit {
						c.want("220")
						c.say("EHLO client.example\r\n", "250")
						c.say("STARTTLS\r\n", "220")
					}
					synctest.Wait()
					began, want := time.Now(), 2*time.Minute
					if err := client.SetDeadline(time.Time{}); err != nil {
						t.Fatal(err)
					}
					if end {
						d.stop()
						want = 0
					}
					c.gone()
					if took := time.Since(began); took != want {
						t.Errorf("after %s", took)
					}
					if err := d.end(); err != nil {
						t.Error(err)
					}
				})
			})
		}
	}
}
