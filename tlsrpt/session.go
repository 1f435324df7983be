// Package tlsrpt is what we tell a domain about TLS to it (RFC 8460): the facts
// of every session, tallied per UTC day, and the report that is made of them
// when the day has ended, and sent. A session that was tallied is in exactly one
// report; a report is sent to each of its destinations until that has taken or
// refused it, for 24 hours, under one ID, and nothing is thrown away before.
package tlsrpt

import (
	"net/netip"
	"time"

	"stsrelay/internal/addr"
)

// A PolicyType is the policy that a session was held against (RFC 8460,
// Section 4.4, ledger RPT-4.4-05).
type PolicyType string

const (
	NoPolicyFound PolicyType = "no-policy-found"
	STS           PolicyType = "sts"
	TLSA          PolicyType = "tlsa"
)

// A Result is why a session failed: one of the eleven values that RFC 8460,
// Section 4.3 registers, and never another (ledger RPT-4.3-12). The strings
// are also the words in logs, metrics and DSNs.
type Result string

const (
	StartTLSNotSupported    Result = "starttls-not-supported"
	CertificateHostMismatch Result = "certificate-host-mismatch"
	CertificateExpired      Result = "certificate-expired"
	CertificateNotTrusted   Result = "certificate-not-trusted"
	ValidationFailure       Result = "validation-failure"
	TLSAInvalid             Result = "tlsa-invalid"
	DNSSECInvalid           Result = "dnssec-invalid"
	DANERequired            Result = "dane-required"
	STSPolicyFetchError     Result = "sts-policy-fetch-error"
	STSPolicyInvalid        Result = "sts-policy-invalid"
	STSWebPKIInvalid        Result = "sts-webpki-invalid"
)

// Results lists every Result, in the order of the RFC.
func Results() []Result {
	return []Result{StartTLSNotSupported, CertificateHostMismatch, CertificateExpired,
		CertificateNotTrusted, ValidationFailure, TLSAInvalid, DNSSECInvalid, DANERequired,
		STSPolicyFetchError, STSPolicyInvalid, STSWebPKIInvalid}
}

// A Failure is one way in which a session failed its policy.
type Failure struct {
	Result Result
	Reason string // failure-reason-code: cleaned, at most MaxReason octets, no local parts (ledger RPT-7-02, RPT-8-01)
}

// MaxReason bounds text taken from peers, in octets (ledger RPT-7-02).
const MaxReason = 200

// A Policy is the policy as the report shows it.
type Policy struct {
	Type    PolicyType
	Domain  string   // policy-domain, A-labels: the recipient domain, or for tlsa the TLSA base domain (ledger RPT-1.1-01)
	Strings []string // policy-string: lines as served, or one TLSA record each; never nil in JSON
	MXHosts []string // mx-host: for sts the patterns, for tlsa the MX host name
}

// A PolicyResult says how one session did under one policy. No failures means
// success.
type PolicyResult struct {
	Policy   Policy
	Failures []Failure
}

// A Session is what one connection to one MX host, made for one Policy Domain,
// tells that domain (RFC 8460, Section 4.3; ledger RPT-4.2-03). A skipped MX
// and a failed policy fetch are sessions without addresses (RPT-4.3-13, -15).
type Session struct {
	Start    time.Time   // its UTC day is the day it is booked on (RPT-4.1-03)
	Domain   addr.Domain // whose _smtp._tls record says where the report goes
	Policies []PolicyResult
	MX       string     // receiving-mx-hostname, "" if unknown
	HELO     string     // receiving-mx-helo, cleaned, "" if unknown
	Receiver netip.Addr // receiving-ip, zero if no connection was made
	Sender   netip.Addr // sending-mta-ip, zero if no connection was made
}
