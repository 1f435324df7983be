package config

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A pairOf is what makes a certificate and its key.
type pairOf struct {
	key       crypto.Signer
	signature x509.SignatureAlgorithm
	until     time.Time // zero: in a year
}

func rsaKey(t *testing.T, bits int) crypto.Signer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func ecKey(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// write makes a self-signed certificate and returns its files.
func (p pairOf) write(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	if p.until.IsZero() {
		p.until = time.Now().Add(365 * 24 * time.Hour)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "relay.example.com"}, DNSNames: []string{"relay.example.com"},
		NotBefore: p.until.Add(-400 * 24 * time.Hour), NotAfter: p.until, SignatureAlgorithm: p.signature}
	der, err := x509.CreateCertificate(rand.Reader, c, c, p.key.Public(), p.key)
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(p.key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	writePEM(t, certFile, "CERTIFICATE", der)
	writePEM(t, keyFile, "PRIVATE KEY", key)
	return certFile, keyFile
}

func writePEM(t *testing.T, file, kind string, data []byte) {
	t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: data}), 0o600); err != nil {
		t.Fatal(err)
	}
}

func withTLS(cert, key string) string {
	return fmt.Sprintf("hostname = \"relay.example.com\"\npostmaster = \"p@example.com\"\n[[listener]]\ntls = \"starttls\"\ncert_file = %q\nkey_file = %q\n[tlsrpt]\nenabled = false\n", cert, key)
}

func TestListenerCertificates(t *testing.T) {
	good, goodKey := pairOf{key: ecKey(t)}.write(t)
	_, otherKey := pairOf{key: ecKey(t)}.write(t)
	weak, weakKey := pairOf{key: rsaKey(t, 1024)}.write(t)
	sha1, sha1Key := pairOf{key: rsaKey(t, 2048), signature: x509.SHA1WithRSA}.write(t)
	strong, strongKey := pairOf{key: rsaKey(t, 2048)}.write(t)
	chain := filepath.Join(t.TempDir(), "chain.pem")
	var both []byte
	for _, file := range []string{good, weak} {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		both = append(both, data...)
	}
	if err := os.WriteFile(chain, both, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		cert, key string
		line      int // of the problem, 0: none
		want      string
	}{
		"an ECDSA pair":                                {good, goodKey, 0, ""},
		"TLSV-9325-4.5-01 RSA with 2048 bits":          {strong, strongKey, 0, ""},
		"TLSV-9325-4.5-01 RSA with 1024 bits":          {weak, weakKey, 5, "1024 bits"},
		"TLSV-9325-4.5-01 a signature with SHA-1":      {sha1, sha1Key, 5, "SHA1-RSA"},
		"TLSV-9325-4.5-01 a weak one behind the first": {chain, goodKey, 5, "certificate 2"},
		"the key of another certificate":               {good, otherKey, 6, "private key does not match"},
		"no key":                                       {good, good, 6, "key"},
		"no certificate":                               {goodKey, goodKey, 5, "no PEM certificate"},
		"a key that is not there":                      {good, "/nonexistent/key.pem", 6, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("x", []byte(withTLS(tt.cert, tt.key)))
			if tt.line == 0 {
				if err != nil {
					t.Error(err)
				}
				return
			}
			var p *Problems
			if !errors.As(err, &p) || len(p.List) != 1 || p.List[0].Line != tt.line || !strings.Contains(p.List[0].Text, tt.want) {
				t.Errorf("%v; want line %d and %q", err, tt.line, tt.want)
			}
		})
	}
}

func TestListenerTLSWarnings(t *testing.T) {
	now := time.Now()
	for until, want := range map[time.Time]string{
		now.Add(-time.Hour):           "expired at",
		now.Add(500 * 24 * time.Hour): "not valid before",
		now.Add(lifeLeft - time.Hour): "expires at",
		now.Add(lifeLeft + time.Hour): "",
	} {
		c, err := Parse("x", []byte(withTLS(pairOf{key: ecKey(t), until: until}.write(t))))
		if err != nil {
			t.Fatal(err)
		}
		w := strings.Join(c.Warnings(), "\n")
		if (w == "") != (want == "") || !strings.Contains(w, want) {
			t.Errorf("valid until %s: warnings %q, want %q", until, w, want)
		}
	}
	cert, key := pairOf{key: ecKey(t)}.write(t)
	c, err := Parse("x", []byte(withTLS(cert, key)))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(cert); err != nil {
		t.Fatal(err)
	}
	if w := strings.Join(c.Warnings(), "\n"); !strings.Contains(w, "goes on with the certificate it has: cert_file: open") {
		t.Errorf("a certificate that went away: %q", w)
	}
	c.Listeners[0].TLS = "off"
	if w := strings.Join(c.Warnings(), "\n"); !strings.Contains(w, "it is not used") {
		t.Errorf("a certificate without tls: %q", w)
	}
}
