package delivery

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/internal/resolver"
	"stsrelay/tlsrpt"
)

// verifyDANE checks the certificate that the server presented against the TLSA
// records (RFC 7672, Section 3; RFC 7671). name is the one of names under which
// the host was authenticated; it is zero where a record speaks of the host's own
// certificate, for then neither names nor dates nor anybody's signature count
// (Section 3.1.1; ledger DANE-3.1.1-01 to -03). One record that matches is
// enough; of several that lead nowhere the error is that of the one that came
// furthest.
func verifyDANE(cs tls.ConnectionState, records []resolver.TLSA, names []addr.Host, now time.Time) (name addr.Host, err error) {
	chain := cs.PeerCertificates
	if len(chain) == 0 {
		return name, &certError{result: tlsrpt.ValidationFailure, reason: DANEMismatch, code: "no-certificate", text: "the server presented no certificate"}
	}
	records = strongestTLSA(records)
	for _, r := range records {
		if r.Usage == daneEE && matches(r, chain[0]) {
			return name, nil
		}
	}
	anchors := trustAnchors(records, chain)
	if len(anchors) == 0 {
		return name, &certError{result: tlsrpt.ValidationFailure, reason: DANEMismatch, code: "dane-no-match", text: "none of the TLSA records matches its certificate"}
	}
	if err := verifyAnchored(chain, anchors, now); err != nil {
		return name, err
	}
	for _, n := range names {
		if presents(chain[0], n) {
			return n, nil
		}
	}
	return name, anchoredNameError(chain[0], names)
}

// matches reports whether r is about c.
func matches(r resolver.TLSA, c *x509.Certificate) bool {
	data := c.Raw
	if r.Selector == selectKey {
		data = c.RawSubjectPublicKeyInfo
	}
	switch r.Matching {
	case matchSHA256:
		sum := sha256.Sum256(data)
		return bytes.Equal(sum[:], r.Data)
	case matchSHA512:
		sum := sha512.Sum512(data)
		return bytes.Equal(sum[:], r.Data)
	}
	return r.Matching == matchFull && bytes.Equal(data, r.Data)
}

// trustAnchors lists the certificates that DANE-TA records vouch for: those of
// the chain that match, the ones that DNS has in full, though the server did not
// send them, and those that a bare key of DNS has signed (RFC 7671, Section 5.2;
// ledger DANE71-5.2-01, -03, -04). The authorities of this machine count for
// nothing here (ledger DANE-3.1.2-03).
func trustAnchors(records []resolver.TLSA, chain []*x509.Certificate) (list []*x509.Certificate) {
	for _, r := range records {
		if r.Usage != daneTA {
			continue
		}
		for _, c := range chain {
			if matches(r, c) {
				list = append(list, c)
			}
		}
		if r.Matching != matchFull {
			continue
		}
		if r.Selector == selectCert {
			if c, err := x509.ParseCertificate(r.Data); err == nil {
				list = append(list, c)
			}
			continue
		}
		if key, err := x509.ParsePKIXPublicKey(r.Data); err == nil {
			list = append(list, signedBy(key, chain)...)
		}
	}
	return list
}

// signedBy lists the certificates of the chain that key has signed, each of
// which may then stand for the trust anchor: the host's own, or an authority.
func signedBy(key crypto.PublicKey, chain []*x509.Certificate) (list []*x509.Certificate) {
	issuer := &x509.Certificate{PublicKey: key}
	for i, c := range chain {
		if i > 0 && !(c.BasicConstraintsValid && c.IsCA) {
			continue
		}
		if issuer.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil {
			list = append(list, c)
		}
	}
	return list
}

// verifyAnchored checks the chain with the anchors as its only roots: dates and
// the constraints of the anchors apply, since each is a certificate (RFC 7672,
// Section 3.1.2; ledger DANE-3.1.2-01, -02).
func verifyAnchored(chain, anchors []*x509.Certificate, now time.Time) error {
	leaf := chain[0]
	o := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: now}
	for _, c := range anchors {
		o.Roots.AddCert(c)
	}
	for _, c := range chain[1:] {
		o.Intermediates.AddCert(c)
	}
	_, err := leaf.Verify(o)
	var unknown x509.UnknownAuthorityError
	switch {
	case err == nil:
		return nil
	case now.After(leaf.NotAfter):
		return &certError{result: tlsrpt.CertificateExpired, reason: DANEMismatch, code: "expired", err: err,
			text: "its certificate expired on " + day(leaf.NotAfter)}
	case errors.As(err, &unknown):
		return &certError{result: tlsrpt.CertificateNotTrusted, reason: DANEMismatch, code: "dane-no-chain", err: err,
			text: "no chain leads from its certificate to the authority that its TLSA records name"}
	}
	e := &certError{}
	if !errors.As(chainError(leaf, err, now), &e) {
		return err
	}
	e.reason = DANEMismatch
	return e
}

// presents reports whether the certificate is for the name. Where it has no
// dNSName at all, its common name counts: RFC 7672 has kept what RFC 9525 has
// since abolished (Section 3.2.3; ledger DANE-3.2.3-01, -02).
func presents(leaf *x509.Certificate, name addr.Host) bool {
	if name.IsZero() {
		return false
	}
	if len(leaf.DNSNames) == 0 && leaf.Subject.CommonName != "" {
		leaf = &x509.Certificate{DNSNames: []string{leaf.Subject.CommonName}}
	}
	return leaf.VerifyHostname(name.String()) == nil
}

// anchoredNameError says for whom the certificate is, and for whom it should be.
func anchoredNameError(leaf *x509.Certificate, names []addr.Host) error {
	if len(names) == 0 {
		return errUnverified
	}
	e := verifyName(leaf, names[0]).(*certError)
	e.reason = DANEMismatch
	return e
}
