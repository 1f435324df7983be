package tlsrpt

import (
	"fmt"
	"strings"
)

// meanings say for people what a Result is (RFC 8460, Section 4.3).
var meanings = map[Result]string{
	StartTLSNotSupported:    "the server did not offer STARTTLS, or refused it",
	CertificateHostMismatch: "the certificate is not for the name of the server",
	CertificateExpired:      "the certificate has expired",
	CertificateNotTrusted:   "the certificate is not vouched for by an authority we trust",
	ValidationFailure:       "TLS failed, or the server is not one that the policy names",
	TLSAInvalid:             "none of the TLSA records can be used",
	DNSSECInvalid:           "DNSSEC validation of the records failed",
	DANERequired:            "DANE is required here, and there are no valid TLSA records",
	STSPolicyFetchError:     "the MTA-STS policy file could not be fetched",
	STSPolicyInvalid:        "the MTA-STS policy file is not valid",
	STSWebPKIInvalid:        "the certificate of the MTA-STS policy server is not valid",
}

// Meaning says for people what r is, "" if it is none of RFC 8460.
func (r Result) Meaning() string { return meanings[r] }

// maxTold bounds the failures that the text names for each policy; the
// attachment has all of them.
const maxTold = 10

// Text is the report for people, with CRLF lines.
func (r Report) Text() string {
	var b strings.Builder
	line := func(format string, a ...any) { fmt.Fprintf(&b, format+"\r\n", a...) }
	sum := r.Sums()
	line("This is a report about TLS on mail to %s.", r.Domain)
	line("")
	line("Day (UTC):      %s", DayOf(r.Range.Start))
	line("Sent by:        %s (%s)", Clean(r.Organization), r.Submitter)
	line("Questions to:   %s", r.Contact)
	line("Report-ID:      %s", r.ID)
	line("Sessions:       %d with good TLS, %d without", sum.Successes, sum.Failures)
	for _, p := range r.Policies {
		line("")
		line("%s: %d good, %d failed", p.Policy.name(), p.Summary.Successes, p.Summary.Failures)
		for i, d := range p.Details {
			if i == maxTold {
				line("  and %d more kinds of failure", len(p.Details)-i)
				break
			}
			line("  %6d  %s", d.Sessions, d.what())
			line("          %s", meanings[d.Result])
		}
	}
	line("")
	line("The attachment tells the same to machines (RFC 8460). You get this because")
	line("of the TXT record at _smtp._tls.%s.", r.Domain)
	return b.String()
}

func (p ReportedPolicy) name() string {
	switch p.Type {
	case STS:
		return "MTA-STS policy of " + Clean(p.Domain)
	case TLSA:
		return "TLSA records (DANE) of " + Clean(p.Domain)
	}
	return "No policy found"
}

// what is a failure in one line: "certificate-expired at mx.example.com
// [192.0.2.1]: the reason".
func (d ReportDetail) what() string {
	s := string(d.Result)
	if d.MX != "" {
		s += " at " + Clean(d.MX)
	}
	if d.Receiver != "" {
		s += " [" + d.Receiver + "]"
	}
	if d.Reason != "" {
		s += ": " + Clean(d.Reason)
	}
	return s
}
