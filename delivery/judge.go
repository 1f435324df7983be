package delivery

import (
	"crypto/tls"

	"stsrelay/internal/addr"
	"stsrelay/internal/resolver"
	"stsrelay/stscache"
	"stsrelay/tlsrpt"
)

// Evidence is what one connection showed. It is kept with the connection, so
// that Judge can be asked again (ledger X-11).
type Evidence struct {
	Offered    bool                 // EHLO offered STARTTLS
	RequireTLS bool                 // EHLO over TLS offered REQUIRETLS
	TLSErr     error                // STARTTLS reply or handshake; nil with State set
	PKIXErr    error                // always computed when TLS is up, whether or not it is needed
	PKIXFor    addr.Host            // the name that PKIXErr speaks of; zero: nothing was verified
	DANEErr    error                // computed when the Decision has TLSA records
	DANEFor    []resolver.TLSA      // the records that DANEErr speaks of; empty: nothing was verified
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

// Judge compares what a connection showed with what is needed of it. Pure.
func (d Decision) Judge(e Evidence) Verdict {
	return Verdict{}
}

// SkipResults are the Results of a host that d skips: a session without
// connection (ledger RPT-4.3-13).
func (d Decision) SkipResults() []tlsrpt.PolicyResult { return nil }

// policyFetchResult is what a failed fetch tells the domain's report: one
// failure per delivery attempt that wanted the policy (ledger RPT-4.3-15), nil
// when nothing failed.
func policyFetchResult(domain addr.Domain, st stscache.Status) *tlsrpt.PolicyResult { return nil }
