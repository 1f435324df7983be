package tlsrpt

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"

	"stsrelay/internal/addr"

	"github.com/emersion/go-msgauth/dkim"
)

// A SigningKey signs reports (RFC 6376; RFC 8463).
type SigningKey struct {
	Domain   addr.Domain
	Selector string
	signer   crypto.Signer
}

// The sizes of RSA keys (RFC 8301, Section 3.2; ledger DKIM-3.3-02).
const (
	minRSA  = 1024
	goodRSA = 2048
)

// ParseSigningKey reads a private key in PEM: PKCS#1 or PKCS#8, RSA or Ed25519.
func ParseSigningKey(domain addr.Domain, selector string, text []byte) (SigningKey, error) {
	fail := func(err error) (SigningKey, error) {
		return SigningKey{}, fmt.Errorf("DKIM key %s of %s: %w", selector, domain, err)
	}
	if _, err := addr.ParseHost(selector + "._domainkey." + domain.String()); err != nil {
		return fail(fmt.Errorf("the selector is no name: %w", err))
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return fail(errors.New("no PEM"))
	}
	signer, err := parsePrivate(block)
	if err != nil {
		return fail(err)
	}
	if k, ok := signer.(*rsa.PrivateKey); ok && k.N.BitLen() < minRSA {
		return fail(fmt.Errorf("an RSA key of %d bits: verifiers ignore those below %d (RFC 8301, Section 3.2)", k.N.BitLen(), minRSA))
	}
	return SigningKey{domain, selector, signer}, nil
}

func parsePrivate(block *pem.Block) (crypto.Signer, error) {
	switch block.Type {
	case "RSA PRIVATE KEY":
		return x509.ParsePKCS1PrivateKey(block.Bytes)
	case "PRIVATE KEY":
		k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return nil, err
		}
		switch k := k.(type) {
		case *rsa.PrivateKey:
			return k, nil
		case ed25519.PrivateKey:
			return k, nil
		}
		return nil, fmt.Errorf("a key of type %T: DKIM knows RSA and Ed25519", k)
	}
	return nil, fmt.Errorf("PEM block %q: want PRIVATE KEY or RSA PRIVATE KEY", block.Type)
}

func (k SigningKey) rsa() bool { return k.bits() > 0 }

// Name is where the public key is published.
func (k SigningKey) Name() string { return k.Selector + "._domainkey." + k.Domain.String() }

// signed are the fields that a signature covers. Each is named once more than
// there are, so that none can be added (RFC 6376, Section 8.15; ledger
// DKIM-5.4-02, RPT-5.3-06); Reply-To, Cc and Sender there are none.
var signed = []string{"From", "From", "To", "To", "Date", "Date", "Subject", "Subject", "Message-ID", "Message-ID",
	fieldDomain, fieldDomain, fieldSubmitter, fieldSubmitter, fieldRequired, fieldRequired, "Auto-Submitted", "Auto-Submitted",
	"MIME-Version", "MIME-Version", "Content-Type", "Content-Type", "Content-Transfer-Encoding", "Reply-To", "Cc", "Sender"}

// Sign puts one signature for each key above a message with CRLF lines: RSA
// first, because some verifiers know nothing else (ledger DKIM-3.3-03,
// DKIM-3.3-04). None has l= (RFC 8460, Section 3; ledger RPT-3-24).
func Sign(message []byte, keys []SigningKey) ([]byte, error) {
	keys = slices.Clone(keys)
	slices.SortStableFunc(keys, func(a, b SigningKey) int { return btoi(b.rsa()) - btoi(a.rsa()) })
	var out bytes.Buffer
	for _, k := range keys {
		s, err := k.signature(message)
		if err != nil {
			return nil, fmt.Errorf("signing with DKIM key %s: %w", k.Name(), err)
		}
		out.WriteString(s)
	}
	out.Write(message)
	return out.Bytes(), nil
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (k SigningKey) signature(message []byte) (string, error) {
	s, err := dkim.NewSigner(&dkim.SignOptions{
		Domain: k.Domain.String(), Selector: k.Selector, Signer: k.signer, Hash: crypto.SHA256,
		HeaderCanonicalization: dkim.CanonicalizationRelaxed, BodyCanonicalization: dkim.CanonicalizationRelaxed,
		HeaderKeys: signed,
	})
	if err != nil {
		return "", err
	}
	_, err = s.Write(message)
	if err = errors.Join(err, s.Close()); err != nil {
		return "", err
	}
	return s.Signature(), nil
}

// bits is the size of an RSA key, 0 for others.
func (k SigningKey) bits() int {
	if r, ok := k.signer.(*rsa.PrivateKey); ok {
		return r.N.BitLen()
	}
	return 0
}
