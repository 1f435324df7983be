package delivery

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
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

// verifyPKIX checks the chain that the server presented against roots (nil:
// the system's) and its leaf against the name of the MX host (RFC 8461,
// Section 4.2). Intermediates come from the server. Everything that is wrong is
// in the error, so that each is reported.
func verifyPKIX(cs tls.ConnectionState, roots *x509.CertPool, name addr.Host, now time.Time) error {
	return errors.New("not yet written")
}

// classify says what a failure of TLS or of a certificate is called in reports
// and among our reasons, and adds the failure-reason-code, cleaned.
func classify(err error) (tlsrpt.Result, Reason, string) {
	return tlsrpt.ValidationFailure, TLSFailed, tlsrpt.Clean(err.Error())
}
