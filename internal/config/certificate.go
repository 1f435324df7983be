package config

import (
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
)

// A CertificateError says which of a listener's files cannot be used.
type CertificateError struct {
	Key string // cert_file, key_file
	Err error
}

func (e *CertificateError) Error() string { return e.Key + ": " + e.Err.Error() }
func (e *CertificateError) Unwrap() error { return e.Err }

// LoadCertificate reads a listener's certificate, with what leads to its root
// behind it, and its key, and checks that they belong together and are strong
// enough (RFC 9325, Section 4.5). The error is a *CertificateError. A
// certificate whose time is over is loaded: see LifeWarning.
func LoadCertificate(certFile, keyFile string) (tls.Certificate, error) {
	certPEM, err := os.ReadFile(certFile)
	if err == nil {
		err = checkChain(certPEM)
	}
	if err != nil {
		return tls.Certificate{}, &CertificateError{"cert_file", err}
	}
	keyPEM, err := os.ReadFile(keyFile)
	if err != nil {
		return tls.Certificate{}, &CertificateError{"key_file", err}
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return tls.Certificate{}, &CertificateError{"key_file", err}
	}
	return pair, nil
}

// checkChain refuses what is no chain of certificates, and weak ones.
func checkChain(text []byte) error {
	n := 0
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		n++
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return fmt.Errorf("certificate %d: %w", n, err)
		}
		if err := checkStrength(c); err != nil {
			return fmt.Errorf("certificate %d, of %q: %w", n, c.Subject, err)
		}
	}
	if n == 0 {
		return errors.New("it holds no PEM certificate")
	}
	return nil
}

// weakSignatures can be forged.
var weakSignatures = []x509.SignatureAlgorithm{x509.MD2WithRSA, x509.MD5WithRSA, x509.SHA1WithRSA, x509.DSAWithSHA1, x509.ECDSAWithSHA1}

// checkStrength is for every certificate of a chain (ledger TLSV-9325-4.5-01).
// Every curve that x509 reads has 224 bits or more.
func checkStrength(c *x509.Certificate) error {
	if key, ok := c.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() < 2048 {
		return fmt.Errorf("its RSA key has %d bits, and must have 2048 at least (RFC 9325, Section 4.5)", key.N.BitLen())
	}
	if slices.Contains(weakSignatures, c.SignatureAlgorithm) {
		return fmt.Errorf("it is signed with %s, which must not be used any more (RFC 9325, Section 4.5)", c.SignatureAlgorithm)
	}
	return nil
}

// lifeLeft is when an end that is near is worth a warning.
const lifeLeft = 7 * 24 * time.Hour

// LifeWarning says that clients which verify a listener's certificate do not
// hand mail in any more, or soon will not; "" if they do.
func LifeWarning(c *x509.Certificate, now time.Time) string {
	day := func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }
	switch {
	case now.After(c.NotAfter):
		return "its certificate expired at " + day(c.NotAfter)
	case now.Before(c.NotBefore):
		return "its certificate is not valid before " + day(c.NotBefore)
	case c.NotAfter.Sub(now) < lifeLeft:
		return "its certificate expires at " + day(c.NotAfter)
	}
	return ""
}

// certificate checks the TLS keys of a listener.
func (v *validator) certificate(at string, l *Listener) {
	if !v.oneOf(at+".tls", l.TLS, "off", "starttls", "implicit") || l.TLS == "off" {
		return
	}
	const text = "missing; tls = %q needs a certificate and its key (PEM)"
	if l.CertFile == "" {
		v.problem(at+".cert_file", text, l.TLS)
	}
	if l.KeyFile == "" {
		v.problem(at+".key_file", text, l.TLS)
	}
	if l.CertFile == "" || l.KeyFile == "" {
		return
	}
	var bad *CertificateError
	if _, err := LoadCertificate(l.CertFile, l.KeyFile); errors.As(err, &bad) {
		v.problem(at+"."+bad.Key, "%v", bad.Err)
	}
}

// tlsWarnings says what will surprise about a listener's TLS.
func (l Listener) tlsWarnings() (w []string) {
	if l.TLS == "off" {
		if l.CertFile != "" || l.KeyFile != "" {
			w = append(w, fmt.Sprintf("listener %s has a certificate, and tls = \"off\": it is not used", l.Name))
		}
		return w
	}
	pair, err := LoadCertificate(l.CertFile, l.KeyFile)
	if err != nil { // it was good at the start
		return append(w, fmt.Sprintf("listener %s goes on with the certificate it has: %v", l.Name, err))
	}
	if s := LifeWarning(pair.Leaf, time.Now()); s != "" {
		w = append(w, fmt.Sprintf("listener %s: %s; clients that verify it hand no mail in without a valid one", l.Name, s))
	}
	return w
}
