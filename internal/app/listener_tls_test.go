package app

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"

	"net/smtp"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"stsrelay/internal/config"
	"stsrelay/internal/lab"

	"github.com/rs/zerolog"
)

// writePair writes a certificate and its key for a listener's configuration.
func writePair(t *testing.T, dir string, c *tls.Certificate) (certFile, keyFile string) {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	var chain []byte
	for _, der := range c.Certificate {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, data := range map[string][]byte{certFile: chain, keyFile: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})} {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

// startTLS starts a relay whose listener has TLS of a kind, and returns what a
// client needs to verify it.
func startTLS(t *testing.T, world *lab.World, kind, more string) (*fixture, *tls.Config) {
	t.Helper()
	dir := shortDir(t)
	cert, key := writePair(t, dir, world.CA.Certificate(lab.WithIntermediate, "relay.sender.test"))
	text := strings.Replace(configText(dir, world, ""), `name = "in"`,
		`name = "in"`+"\ntls = "+strconv.Quote(kind)+"\ncert_file = "+strconv.Quote(cert)+"\nkey_file = "+strconv.Quote(key)+"\n"+more, 1)
	return start(t, world, parse(t, text), nil), &tls.Config{RootCAs: world.Roots(), ServerName: "relay.sender.test"}
}

// over hands a message in with MAIL parameters, over TLS.
func over(t *testing.T, c *smtp.Client, params, to, content string) {
	t.Helper()
	defer c.Close()
	if id, err := c.Text.Cmd("MAIL FROM:<a@sender.test>%s", params); err != nil {
		t.Fatal(err)
	} else {
		c.Text.StartResponse(id)
		_, _, err := c.Text.ReadResponse(250)
		c.Text.EndResponse(id)
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Rcpt(to); err != nil {
		t.Fatal(err)
	}
	w, err := c.Data()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(content)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

// secured connects with TLS of a kind.
func secured(t *testing.T, f *fixture, kind string, client *tls.Config) *smtp.Client {
	t.Helper()
	if kind == "implicit" {
		conn, err := tls.Dial("tcp", f.address(), client)
		if err != nil {
			t.Fatal(err)
		}
		c, err := smtp.NewClient(conn, "relay.sender.test")
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	c, err := smtp.Dial(f.address())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.StartTLS(client); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestListenersWithTLS(t *testing.T) {
	for _, kind := range []string{"starttls", "implicit"} {
		t.Run(kind+": REQUIRETLS goes all the way", func(t *testing.T) {
			world := startLab(t)
			mx, _ := enforced(world, "example.test", func(m *lab.MX) { m.RequireTLS = true })
			f, client := startTLS(t, world, kind, "")
			c := secured(t, f, kind, client)
			if err := c.Hello("client.sender.test"); err != nil && kind == "implicit" {
				t.Fatal(err)
			}
			over(t, c, " REQUIRETLS", "b@example.test", letter("requires", 500))
			if err := mx.WaitMessages(within(t), 1); err != nil {
				t.Fatal(err)
			}
			m := mx.Messages()[0]
			if m.TLS == nil || original(t, m.Content) != letter("requires", 500) {
				t.Errorf("it arrived as %+v", m)
			}
			if mail := strings.Join(mx.Commands(), "\n"); !strings.Contains(mail, "REQUIRETLS") {
				t.Errorf("the MX host was told %q", mail)
			}
		})
	}
	t.Run("STLS-L-02 STARTTLS is offered and not required", func(t *testing.T) {
		world := startLab(t)
		mx, _ := enforced(world, "example.test", nil)
		f, _ := startTLS(t, world, "starttls", "")
		c, err := smtp.Dial(f.address())
		if err != nil {
			t.Fatal(err)
		}
		if ok, _ := c.Extension("STARTTLS"); !ok {
			t.Error("not offered")
		}
		over(t, c, "", "b@example.test", letter("clear", 500))
		if err := mx.WaitMessages(within(t), 1); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("TLS 1.1 is refused", func(t *testing.T) {
		f, client := startTLS(t, startLab(t), "implicit", "")
		client.MinVersion, client.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
		conn, err := tls.Dial("tcp", f.address(), client)
		if err == nil {
			conn.Close()
			t.Fatal("it was taken")
		}
	})
}

// TestTLSRequiredHeader: the field lifts the policy of a domain, unless the
// listener does not heed it.
func TestTLSRequiredHeader(t *testing.T) {
	for name, tt := range map[string]struct {
		more  string
		heeds bool
	}{"as it is": {"", true}, "not heeded": {"tls_required_header = false", false}} {
		t.Run(name, func(t *testing.T) {
			world := startLab(t)
			mx, _ := unfit(world)
			f, client := startTLS(t, world, "starttls", tt.more)
			over(t, secured(t, f, "starttls", client), "", "b@example.test", "TLS-Required: No\r\n"+letter("no", 500))
			if tt.heeds {
				if err := mx.WaitMessages(within(t), 1); err != nil {
					t.Fatal(err)
				}
				return
			}
			f.waitDeferred(1)
			if mx.Count() != 0 {
				t.Error("it was delivered")
			}
		})
	}
}

func TestACertificateIsReadAgain(t *testing.T) {
	ca, err := lab.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	issue := func() *tls.Certificate { return ca.Issue(lab.Good, lab.Cert{Names: []string{"relay.sender.test"}}) }
	first, second := issue(), issue()
	log := &syncBuffer{}
	certFile, keyFile := writePair(t, dir, first)
	now := time.Now()
	c, err := newCertificate(config.Listener{Name: "in", CertFile: certFile, KeyFile: keyFile}, zerolog.New(log))
	if err != nil {
		t.Fatal(err)
	}
	want := func(what string, cert *tls.Certificate, said string, times int) {
		t.Helper()
		now = now.Add(lookEvery + time.Second)
		if got := c.get(now); !got.Leaf.Equal(cert.Leaf) {
			t.Errorf("%s: another certificate is shown", what)
		}
		if n := strings.Count(log.String(), said); n != times {
			t.Errorf("%s: the log has %q %d times, want %d\n%s", what, said, n, times, log)
		}
	}
	want("unchanged", first, "new certificate", 0)
	if err := os.WriteFile(keyFile, []byte("half of it"), 0o600); err != nil {
		t.Fatal(err)
	}
	want("a key that is being written", first, "cannot be used", 1)
	want("and still is", first, "cannot be used", 1)
	if err := os.Remove(certFile); err != nil {
		t.Fatal(err)
	}
	want("a certificate that is away", first, "cannot be used", 2)
	writePair(t, dir, second)
	for _, file := range []string{certFile, keyFile} { // all of this may happen within one tick of the file system's clock
		if err := os.Chtimes(file, now, now.Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	if got := c.get(now.Add(time.Second)); !got.Leaf.Equal(first.Leaf) {
		t.Error("the files are looked at with each handshake")
	}
	want("a new pair", second, "a new certificate is used", 1)
	want("unchanged again", second, "a new certificate is used", 1)
}

func TestACertificateThatCannotBeLoadedIsAnErrorAtStart(t *testing.T) {
	world := startLab(t)
	dir := shortDir(t)
	cert, key := writePair(t, dir, world.CA.Certificate(lab.Good, "relay.sender.test"))
	cfg := parse(t, strings.Replace(configText(dir, world, ""), `name = "in"`,
		`name = "in"`+"\ntls = \"implicit\"\ncert_file = "+strconv.Quote(cert)+"\nkey_file = "+strconv.Quote(key), 1))
	if err := os.Remove(key); err != nil { // after the check
		t.Fatal(err)
	}
	err := Run(t.Context(), cfg, Options{})
	if err == nil || !strings.Contains(err.Error(), "listener in: ") || !strings.Contains(err.Error(), "key.pem") {
		t.Errorf("%v", err)
	}
}
