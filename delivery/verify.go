package delivery

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/tlsrpt"
)

// Why a connection stayed in the clear, as Evidence.TLSErr has it.
var (
	errNotOffered = errors.New("the server does not offer STARTTLS")
	// errInClear is the Evidence of a redial: TLS was left out on purpose, after
	// it broke on the connection before, which has told TLS-RPT about it.
	errInClear = errors.New("TLS was left out after it failed")
)

// A startTLSRefused is a reply to STARTTLS other than 220: the connection is
// as it was, in the clear.
type startTLSRefused struct {
	Code int
	Text string // cleaned
}

func (e *startTLSRefused) Error() string {
	return fmt.Sprintf("the server offers STARTTLS and refuses it: %d %s", e.Code, e.Text)
}

// A certError is one thing that is wrong with a certificate, classified where
// it is known.
type certError struct {
	result tlsrpt.Result // "": our own fault, not to be reported
	reason Reason
	code   string // failure-reason-code
	text   string // for people
	err    error
}

func (e *certError) Error() string { return e.text }

func (e *certError) Unwrap() error { return e.err }

// verifyPKIX checks the chain that the server presented against roots (nil:
// the system's) and its leaf against the name of the MX host (RFC 8461,
// Section 4.2). Intermediates come from the server. The name must be a dNSName
// of the subject alternative names, a wildcard standing for the whole left-most
// label and never for more; the common name never counts (RFC 6125, Section
// 6.4). Everything that is wrong is in the error, so that each is reported.
func verifyPKIX(cs tls.ConnectionState, roots *x509.CertPool, name addr.Host, now time.Time) error {
	if len(cs.PeerCertificates) == 0 {
		return &certError{result: tlsrpt.CertificateNotTrusted, reason: CertNotTrusted, code: "no-certificate", text: "the server presented no certificate"}
	}
	return errors.Join(verifyChain(cs.PeerCertificates, roots, now), verifyName(cs.PeerCertificates[0], name))
}

// verifyChain is the part of verifyPKIX that does not depend on the name. An
// expired leaf ends the search for a chain, so it is looked for once more as of
// the leaf's last moment: a certificate can be expired and of an unknown
// authority too. What else is wrong then may come of looking back in time.
func verifyChain(chain []*x509.Certificate, roots *x509.CertPool, now time.Time) error {
	leaf := chain[0]
	o := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool(), CurrentTime: now}
	for _, c := range chain[1:] {
		o.Intermediates.AddCert(c)
	}
	if !now.After(leaf.NotAfter) {
		if _, err := leaf.Verify(o); err != nil {
			return chainError(leaf, err, now)
		}
		return nil
	}
	expired := &certError{result: tlsrpt.CertificateExpired, reason: CertExpired, code: "expired",
		text: "its certificate expired on " + day(leaf.NotAfter)}
	o.CurrentTime = leaf.NotAfter
	var unknown x509.UnknownAuthorityError
	if _, err := leaf.Verify(o); errors.As(err, &unknown) {
		return errors.Join(expired, chainError(leaf, err, now))
	}
	return expired
}

// chainError says why no chain leads from leaf to a root.
func chainError(leaf *x509.Certificate, err error, now time.Time) error {
	e := &certError{result: tlsrpt.CertificateNotTrusted, reason: CertNotTrusted, err: err}
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	var noRoots x509.SystemRootsError
	switch {
	case errors.As(err, &noRoots):
		return &certError{reason: LocalError, text: "this relay could not load its trusted certificates", err: err}
	case now.Before(leaf.NotBefore): // ledger RPT-4.3-03
		e.code, e.text = "not-yet-valid", "its certificate is not valid before "+day(leaf.NotBefore)
	case selfSigned(leaf):
		e.code, e.text = "self-signed", "its certificate is self-signed"
	case errors.As(err, &unknown):
		e.code, e.text = "unknown-authority", "its certificate is of an unknown authority, or an intermediate certificate is missing"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		e.code, e.text = "issuer-expired", "the certificate of its issuer is not valid now"
	default:
		e.code = strings.TrimPrefix(tlsrpt.Clean(err.Error()), "x509: ")
		e.text = "its certificate is not trusted: " + e.code
	}
	return e
}

// selfSigned reports whether c is its own issuer: the signature shows it, for
// a name can be anybody's.
func selfSigned(c *x509.Certificate) bool {
	return c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil
}

// verifyName compares the dNSNames of leaf with the name of the host.
func verifyName(leaf *x509.Certificate, name addr.Host) error {
	e := &certError{result: tlsrpt.CertificateHostMismatch, reason: CertHostMismatch}
	if name.IsZero() {
		e.code, e.text = "no-name", "an address literal has no name that a certificate could be for"
		return e
	}
	if e.err = leaf.VerifyHostname(name.String()); e.err == nil {
		return nil
	}
	names := "no name"
	if len(leaf.DNSNames) > 0 {
		names = tlsrpt.Clean(strings.Join(leaf.DNSNames, " "))
	}
	e.code = tlsrpt.Clean("certificate-names: " + names)
	e.text = "its certificate is for " + names + ", not for " + name.String()
	return e
}

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

// classify says what a failure of TLS or of a certificate is called in reports
// (RFC 8460, Section 4.3) and among our reasons, and adds the
// failure-reason-code, cleaned. An empty Result is our own fault, which accuses
// nobody. Of several things that are wrong with a certificate it says the first.
func classify(err error) (tlsrpt.Result, Reason, string) {
	var cert *certError
	var refused *startTLSRefused
	switch {
	case errors.As(err, &cert):
		return cert.result, cert.reason, cert.code
	case errors.Is(err, errNotOffered), errors.Is(err, errInClear):
		return tlsrpt.StartTLSNotSupported, StartTLSMissing, ""
	case errors.As(err, &refused):
		return tlsrpt.StartTLSNotSupported, StartTLSMissing, fmt.Sprint(refused.Code)
	case strings.HasPrefix(err.Error(), "tls: failed to parse certificate"): // untyped
		return tlsrpt.CertificateNotTrusted, CertNotTrusted, "malformed-certificate"
	}
	return tlsrpt.ValidationFailure, TLSFailed, handshakeCode(err)
}

// handshakeCode is a short text for what ended a handshake.
func handshakeCode(err error) string {
	var op *net.OpError
	var record tls.RecordHeaderError
	var timeout net.Error
	switch {
	case errors.As(err, &op) && op.Op == "remote error": // an alert from the server
		return tlsrpt.Clean("remote-alert: " + strings.TrimPrefix(op.Err.Error(), "tls: "))
	case errors.As(err, &op) && op.Op == "local error": // an alert of ours
		return tlsrpt.Clean("local-alert: " + strings.TrimPrefix(op.Err.Error(), "tls: "))
	case errors.As(err, &record):
		return "not-tls"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "connection-closed"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	}
	return tlsrpt.Clean(strings.TrimPrefix(err.Error(), "tls: "))
}

// certErrors are the single things that are wrong in the error of verifyPKIX or
// of another check.
func certErrors(err error) []error {
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var all []error
	for _, e := range joined.Unwrap() {
		all = append(all, certErrors(e)...)
	}
	return all
}
