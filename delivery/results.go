package delivery

import (
	"errors"

	"stsrelay/internal/addr"
	"stsrelay/stscache"
	"stsrelay/tlsrpt"
)

// results tells each policy that applied how the session went (RFC 8460,
// Sections 4.2 and 4.3): what was wanted counts, whether or not it was needed,
// so that testing mode, overrides and messages that ask for less report alike.
// Without sts and tlsa the session counts under no-policy-found (ledger
// RPT-4.4-19). A redial is no session of its own, and what is our own fault is
// told to nobody.
func (d Decision) results(e Evidence) []tlsrpt.PolicyResult {
	f := d.Facts
	if f.Domain.IsZero() || errors.Is(e.TLSErr, errInClear) {
		return nil
	}
	var out []tlsrpt.PolicyResult
	sts, tlsa := f.stsApplies(), f.TLSA == TLSAUsable || f.TLSA == TLSAUnusable
	if sts {
		out = appendResult(out, f.stsPolicy(), d.stsFindings(e))
	}
	if tlsa {
		out = appendResult(out, f.tlsaPolicy(), d.tlsaFindings(e))
	}
	if !sts && !tlsa {
		out = appendResult(out, tlsrpt.Policy{Type: tlsrpt.NoPolicyFound, Domain: f.Domain.String()}, e.tlsFindings())
	}
	return out
}

// appendResult adds the result of one policy, unless we ourselves are at fault.
func appendResult(out []tlsrpt.PolicyResult, p tlsrpt.Policy, findings []error) []tlsrpt.PolicyResult {
	r := tlsrpt.PolicyResult{Policy: p}
	for _, err := range findings {
		result, _, code := classify(err)
		if result == "" {
			return out
		}
		r.Failures = append(r.Failures, tlsrpt.Failure{Result: result, Reason: code})
	}
	return append(out, r)
}

// stsFindings is everything in which the session fell short of the policy. A
// host that is not listed has no type of its own in the RFC (ledger
// RPT-4.3-13).
func (d Decision) stsFindings(e Evidence) []error {
	var out []error
	if d.Pattern == "" {
		out = append(out, errMXNotListed)
	}
	if !e.encrypted() {
		return append(out, e.tlsFindings()...)
	}
	return append(out, certErrors(d.pkixErr(e))...)
}

// tlsaFindings is the same for DANE. Records none of which can be used are a
// failure even though mail goes, encrypted (ledger RPT-4.3-06).
func (d Decision) tlsaFindings(e Evidence) []error {
	var out []error
	if d.Facts.TLSA == TLSAUnusable {
		out = append(out, errTLSAInvalid)
	}
	if !e.encrypted() {
		return append(out, e.tlsFindings()...)
	}
	if d.Facts.TLSA == TLSAUsable {
		out = append(out, certErrors(d.daneErr(e))...)
	}
	return out
}

// tlsFindings is why there is no TLS, nothing if there is. Without a policy any
// TLS is a success, whatever the certificate (ledger RPT-4.2-05).
func (e Evidence) tlsFindings() []error {
	if e.encrypted() {
		return nil
	}
	return []error{e.tlsErr()}
}

// Findings that no connection is needed for.
var (
	errMXNotListed  = &certError{result: tlsrpt.ValidationFailure, reason: MXNotListed, code: "mtasts-policy-mx-mismatch", text: "the policy does not name the host"}
	errTLSAInvalid  = &certError{result: tlsrpt.TLSAInvalid, reason: DANEMismatch, code: "all-records-unusable", text: "none of the TLSA records can be used"}
	errDNSSECBogus  = &certError{result: tlsrpt.DNSSECInvalid, reason: DNSBogus, code: "", text: "DNSSEC validation failed"}
	errDANERequired = &certError{result: tlsrpt.DANERequired, reason: DANERequired, code: "", text: "DANE is required here"}
)

// SkipResults are the Results of a host that d skips: a session without
// connection (ledger RPT-4.3-13). Only what the domain can mend is told.
func (d Decision) SkipResults() []tlsrpt.PolicyResult {
	f := d.Facts
	if d.Skip == nil || f.Domain.IsZero() {
		return nil
	}
	switch d.Skip.Reason {
	case MXNotListed:
		return appendResult(nil, f.stsPolicy(), []error{errMXNotListed})
	case DNSBogus: // ledger RPT-4.3-07
		return appendResult(nil, f.tlsaPolicy(), []error{errDNSSECBogus})
	case DANERequired: // ledger RPT-4.3-08
		return appendResult(nil, f.tlsaPolicy(), []error{errDANERequired})
	}
	return nil
}

// stsApplies reports whether there is a policy to hold the session against. One
// of mode none counts as none (ledger RPT-4.4-19).
func (f Facts) stsApplies() bool {
	return f.STS.Policy != nil && f.STS.Policy.Mode != stscache.None
}

func (f Facts) stsPolicy() tlsrpt.Policy { return reportedPolicy(f.Domain, f.STS) }

// tlsaPolicy has the TLSA base domain as its policy domain (ledger RPT-1.1-01),
// or the host while there is none.
func (f Facts) tlsaPolicy() tlsrpt.Policy {
	p := tlsrpt.Policy{Type: tlsrpt.TLSA, Domain: f.TLSABase.String(), MXHosts: []string{f.MX.String()}}
	if f.TLSABase.IsZero() {
		p.Domain = f.MX.String()
	}
	for _, r := range f.Records {
		p.Strings = append(p.Strings, r.String())
	}
	return p
}

// reportedPolicy is the sts policy as a report shows it; of a domain whose
// policy never could be had it has the name only.
func reportedPolicy(domain addr.Domain, st stscache.Status) tlsrpt.Policy {
	p := tlsrpt.Policy{Type: tlsrpt.STS, Domain: domain.String(), Strings: st.Lines}
	if st.Policy != nil {
		for _, m := range st.Policy.MX {
			p.MXHosts = append(p.MXHosts, string(m))
		}
	}
	return p
}

// policyFetchResult is what a failed fetch tells the domain's report: one
// failure for each attempt that wanted the policy (ledger RPT-4.3-15), nil when
// nothing failed. A failure that follows upon a valid TXT record counts always;
// any other only while a policy is in force, unless its mode is none (RFC 8461,
// Section 6).
func policyFetchResult(domain addr.Domain, st stscache.Status) *tlsrpt.PolicyResult {
	if st.Err == nil || domain.IsZero() {
		return nil
	}
	var result tlsrpt.Result
	switch err := st.Err; {
	case errors.Is(err, stscache.ErrWebPKI):
		result = tlsrpt.STSWebPKIInvalid
	case errors.Is(err, stscache.ErrPolicySyntax):
		result = tlsrpt.STSPolicyInvalid
	case errors.Is(err, stscache.ErrFetch), errors.Is(err, stscache.ErrTooLarge):
		result = tlsrpt.STSPolicyFetchError
	case st.Policy != nil && st.Policy.Mode != stscache.None: // the record is missing, or cannot be looked up
		result = tlsrpt.STSPolicyFetchError
	default:
		return nil
	}
	return &tlsrpt.PolicyResult{Policy: reportedPolicy(domain, st),
		Failures: []tlsrpt.Failure{{Result: result, Reason: tlsrpt.Clean(st.Err.Error())}}}
}
