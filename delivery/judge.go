package delivery

import (
	"crypto/tls"

	"stsrelay/tlsrpt"
)

// Evidence is what one connection showed. It is kept with the connection, so
// that Judge can be asked again (ledger X-11).
type Evidence struct {
	Offered    bool                 // EHLO offered STARTTLS
	RequireTLS bool                 // EHLO over TLS offered REQUIRETLS
	TLSErr     error                // STARTTLS reply or handshake; nil with State set
	PKIXErr    error                // always computed when TLS is up, whether or not it is needed
	DANEErr    error                // computed when the Decision has TLSA records
	State      *tls.ConnectionState // nil: no TLS
}

// A Verdict is what Judge makes of a Decision and the Evidence.
type Verdict struct {
	Proceed bool
	Redial  bool                  // TLS broke, nothing needs it: one more connection, in the clear
	Missing Requirement           // Need that was not met
	Err     *Error                // why not, when neither Proceed nor Redial
	Results []tlsrpt.PolicyResult // one per policy that applied (sts, tlsa): RFC 8460 reports them side by side
}
