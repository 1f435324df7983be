package lab

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"sync"
	"time"
)

// A CertKind says what is right or wrong about a certificate.
type CertKind string

const (
	Good                CertKind = ""                     // for the name, from the root
	WithIntermediate    CertKind = "with-intermediate"    // as Good, but an intermediate issued it, which is sent along
	MissingIntermediate CertKind = "missing-intermediate" // the same, but the intermediate is not sent
	Wildcard            CertKind = "wildcard"             // for *.parent of the name
	Expired             CertKind = "expired"              // yesterday
	NotYetValid         CertKind = "not-yet-valid"        // valid from tomorrow
	SelfSigned          CertKind = "self-signed"          // for the name, by itself
	WrongName           CertKind = "wrong-name"           // for another name
	UntrustedCA         CertKind = "untrusted-ca"         // for the name, from a root that Roots does not have
	OwnCA               CertKind = "own-ca"               // as UntrustedCA, but that root is sent along, as DANE-TA(2) wants it
	CNOnly              CertKind = "cn-only"              // the name is the subject's common name only: no name at all today
	ClientOnly          CertKind = "client-only"          // for the name, but not for servers (extended key usage)
)

const (
	caLife   = 20 * 365 * 24 * time.Hour
	certLife = 365 * 24 * time.Hour
)

// A CA issues certificates. Keys are ECDSA P-256; validity follows time.Now,
// so that a CA made in a testing/synctest bubble fits the time there.
type CA struct {
	root, stranger, middle *issuer

	mu    sync.Mutex // guards what follows
	cache map[string]*tls.Certificate
	next  int64
}

// An issuer is a CA certificate with its key.
type issuer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewCA makes a CA with a root, an intermediate, and a second root nobody
// trusts.
func NewCA() (*CA, error) {
	a := &CA{cache: map[string]*tls.Certificate{}}
	var err error
	if a.root, err = a.authority("Lab Root", nil); err != nil {
		return nil, err
	}
	if a.middle, err = a.authority("Lab Intermediate", a.root); err != nil {
		return nil, err
	}
	if a.stranger, err = a.authority("Unknown Root", nil); err != nil {
		return nil, err
	}
	return a, nil
}

// Roots is a new pool with the root.
func (a *CA) Roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.root.cert)
	return pool
}

// RootsPEM is the root in PEM.
func (a *CA) RootsPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.root.cert.Raw})
}

// Certificate returns a certificate of a kind for names. The same question
// gets the same certificate, until Renew.
func (a *CA) Certificate(kind CertKind, names ...string) *tls.Certificate {
	id := string(kind) + " " + strings.Join(names, " ")
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.cache[id]; c != nil {
		return c
	}
	c := a.issue(kind, Cert{Names: names})
	a.cache[id] = c
	return c
}

// Renew forgets the certificates issued so far: the next ones have new keys.
func (a *CA) Renew() {
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.cache)
}

// A Cert is what to ask of CA.Issue.
type Cert struct {
	Names     []string  // DNS names, as they shall stand in the certificate
	Subject   string    // common name; the first of Names if empty
	NotBefore time.Time // an hour ago if zero
	NotAfter  time.Time // in a year if zero
}

// Issue makes a certificate of a kind with the names and times of c.
func (a *CA) Issue(kind CertKind, c Cert) *tls.Certificate {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.issue(kind, c)
}

func (a *CA) issue(kind CertKind, c Cert) *tls.Certificate {
	now := time.Now()
	c.Names = slices.Clone(c.Names)
	if c.NotBefore.IsZero() {
		c.NotBefore = now.Add(-time.Hour)
	}
	if c.NotAfter.IsZero() {
		c.NotAfter = now.Add(certLife)
	}
	by, chain := a.root, []*issuer(nil)
	usage := x509.ExtKeyUsageServerAuth
	switch kind {
	case Good:
	case WithIntermediate:
		by, chain = a.middle, []*issuer{a.middle}
	case MissingIntermediate:
		by = a.middle
	case Wildcard:
		for i, n := range c.Names {
			if _, parent, ok := strings.Cut(n, "."); ok {
				c.Names[i] = "*." + parent
			}
		}
	case Expired:
		c.NotBefore, c.NotAfter = now.Add(-30*24*time.Hour), now.Add(-24*time.Hour)
	case NotYetValid:
		c.NotBefore, c.NotAfter = now.Add(24*time.Hour), now.Add(certLife)
	case SelfSigned:
		by = nil
	case WrongName:
		c.Names = []string{"wrong-name.invalid"}
	case UntrustedCA:
		by = a.stranger
	case OwnCA:
		by, chain = a.stranger, []*issuer{a.stranger}
	case CNOnly:
		c.Subject, c.Names = first(c.Subject, c.Names...), nil
	case ClientOnly:
		usage = x509.ExtKeyUsageClientAuth
	default:
		panic("lab: no such kind of certificate: " + string(kind))
	}
	t := &x509.Certificate{
		Subject:     pkix.Name{CommonName: first(c.Subject, c.Names...)},
		DNSNames:    c.Names,
		NotBefore:   c.NotBefore,
		NotAfter:    c.NotAfter,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{usage},
	}
	leaf, err := a.sign(t, by)
	if err != nil {
		panic("lab: " + err.Error())
	}
	out := &tls.Certificate{Certificate: [][]byte{leaf.cert.Raw}, PrivateKey: leaf.key, Leaf: leaf.cert}
	for _, i := range chain {
		out.Certificate = append(out.Certificate, i.cert.Raw)
	}
	return out
}

// issuerOf is the authority that a certificate is from, the root if none of
// ours issued it.
func (a *CA) issuerOf(leaf *x509.Certificate) *x509.Certificate {
	for _, i := range []*issuer{a.middle, a.stranger} {
		if leaf.CheckSignatureFrom(i.cert) == nil {
			return i.cert
		}
	}
	return a.root.cert
}

// authority makes a CA certificate; without an issuer it signs itself.
func (a *CA) authority(name string, by *issuer) (*issuer, error) {
	now := time.Now()
	return a.sign(&x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             now.Add(-40 * 24 * time.Hour), // before any expired certificate began
		NotAfter:              now.Add(caLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}, by)
}

// sign makes a key and a certificate for it; without an issuer it signs
// itself.
func (a *CA) sign(t *x509.Certificate, by *issuer) (*issuer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a key for %s: %w", t.Subject.CommonName, err)
	}
	a.next++
	t.SerialNumber = big.NewInt(time.Now().UnixNano() + a.next)
	parent, signer := t, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, &key.PublicKey, signer)
	if err != nil {
		return nil, fmt.Errorf("signing a certificate for %s: %w", t.Subject.CommonName, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("reading the certificate for %s: %w", t.Subject.CommonName, err)
	}
	return &issuer{cert, key}, nil
}

// first returns the first text that is not empty.
func first(s string, more ...string) string {
	for _, m := range more {
		if s != "" {
			break
		}
		s = m
	}
	return s
}
