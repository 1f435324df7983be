package delivery

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"stsrelay/internal/addr"
	"stsrelay/stscache"
	"stsrelay/tlsrpt"

	"github.com/google/go-cmp/cmp"
)

// What a report says of the policies of the decision tests.
var (
	stsReported = tlsrpt.Policy{Type: tlsrpt.STS, Domain: "example.com", MXHosts: []string{"*.example.com", "backup.example.net"}}
	tlsaReport  = tlsrpt.Policy{Type: tlsrpt.TLSA, Domain: "mail.provider.example", Strings: []string{"3 1 1 ABCD"}, MXHosts: []string{"mx1.example.com"}}
	noPolicy    = tlsrpt.Policy{Type: tlsrpt.NoPolicyFound, Domain: "example.com"}
)

func sts(mode stscache.Mode, failures ...tlsrpt.Failure) tlsrpt.PolicyResult {
	p := stsReported
	p.Strings = policyOf(mode).Lines
	return tlsrpt.PolicyResult{Policy: p, Failures: failures}
}

func under(p tlsrpt.Policy, failures ...tlsrpt.Failure) tlsrpt.PolicyResult {
	return tlsrpt.PolicyResult{Policy: p, Failures: failures}
}

func failed(r tlsrpt.Result, reason string) tlsrpt.Failure {
	return tlsrpt.Failure{Result: r, Reason: reason}
}

func TestJudgeResults(t *testing.T) {
	notOffered := failed(tlsrpt.StartTLSNotSupported, "")
	expired := failed(tlsrpt.CertificateExpired, "expired")
	mismatch := failed(tlsrpt.ValidationFailure, "mtasts-policy-mx-mismatch")
	cut := failed(tlsrpt.ValidationFailure, "connection-closed")
	all := func(r ...tlsrpt.PolicyResult) []tlsrpt.PolicyResult { return r }
	tests := []struct {
		name  string
		facts Facts
		see   func(*Evidence)
		want  []tlsrpt.PolicyResult
	}{
		{"RPT-4.2-05 no policy, verified TLS: a success", facts(), nil, all(under(noPolicy))},
		{"RPT-4.2-05 no policy, unverifiable certificate: a success", facts(), expiredCert, all(under(noPolicy))},
		{"RPT-4.2-05 no policy, clear text: a failure", facts(), noSTARTTLS, all(under(noPolicy, notOffered))},
		{"RPT-4.2-05 no policy, STARTTLS refused: a failure with the code", facts(), refused454, all(under(noPolicy, failed(tlsrpt.StartTLSNotSupported, "454")))},
		{"no policy, a broken handshake: a failure that says so", facts(), handshakeCut, all(under(noPolicy, cut))},
		{"the redial in the clear is told by the connection before it", facts(), inTheClear, nil},
		{"RPT-4.4-19 STS-5-03 mode none counts as no policy", facts(noneMode), nil, all(under(noPolicy))},
		{"RPT-4.4-19 STS-6-03 mode none, clear text: no failure of sts", facts(noneMode), noSTARTTLS, all(under(noPolicy, notOffered))},
		{"a domain that is not known to have a policy counts as having none", facts(lookupFailed), nil, all(under(noPolicy))},
		{"an address literal has nobody to tell", facts(literal), nil, nil},

		{"enforce, all well", facts(enforce), nil, all(sts(stscache.Enforce))},
		{"RPT-4.3-01 STS-6-03 enforce, no STARTTLS", facts(enforce), noSTARTTLS, all(sts(stscache.Enforce, notOffered))},
		{"RPT-4.3-01 enforce, STARTTLS refused", facts(enforce), refused454, all(sts(stscache.Enforce, failed(tlsrpt.StartTLSNotSupported, "454")))},
		{"RPT-4.3-03 STS-6-03 enforce, expired certificate", facts(enforce), expiredCert, all(sts(stscache.Enforce, expired))},
		{"RPT-4.3-14 enforce, the handshake is cut off", facts(enforce), handshakeCut, all(sts(stscache.Enforce, cut))},
		{"two things wrong with a certificate are two details of one session", facts(enforce), func(e *Evidence) {
			e.PKIXErr = errors.Join(badCert, &certError{result: tlsrpt.CertificateHostMismatch, code: "certificate-names: a.example"})
		}, all(sts(stscache.Enforce, expired, failed(tlsrpt.CertificateHostMismatch, "certificate-names: a.example")))},
		{"our own fault accuses nobody, and is no success either", facts(enforce), ownRootsGone, nil},
		{"what was never verified accuses nobody, and is no success either", facts(enforce), neverVerified, nil},

		{"STS-6-03 testing counts like enforce: certificate", facts(testingMode), expiredCert, all(sts(stscache.Testing, expired))},
		{"STS-6-03 testing counts like enforce: STARTTLS", facts(testingMode), noSTARTTLS, all(sts(stscache.Testing, notOffered))},
		{"X-08 testing counts like enforce: a broken handshake", facts(testingMode), handshakeCut, all(sts(stscache.Testing, cut))},
		{"RPT-4.3-13 testing, MX not named: a failure, though mail goes", facts(testingMode, unlisted), nil, all(sts(stscache.Testing, mismatch))},
		{"RPT-4.3-13 testing, MX not named and a bad certificate", facts(testingMode, unlisted), expiredCert, all(sts(stscache.Testing, mismatch, expired))},
		{"testing, MX not named and no STARTTLS", facts(testingMode, unlisted), noSTARTTLS, all(sts(stscache.Testing, mismatch, notOffered))},

		{"DANE, all well: no word of no-policy-found", facts(usable), nil, all(under(tlsaReport))},
		{"DANE, no record matches", facts(usable), otherCert, all(under(tlsaReport, failed(tlsrpt.ValidationFailure, "dane-no-match")))},
		{"DANE does not care who signed the certificate", facts(usable), expiredCert, all(under(tlsaReport))},
		{"DANE, no STARTTLS", facts(usable), noSTARTTLS, all(under(tlsaReport, notOffered))},
		{"RPT-4.3-06 unusable TLSA is reported although mail goes", facts(unusable), nil, all(under(tlsaReport, failed(tlsrpt.TLSAInvalid, "all-records-unusable")))},
		{"unusable TLSA, no STARTTLS", facts(unusable), noSTARTTLS, all(under(tlsaReport, failed(tlsrpt.TLSAInvalid, "all-records-unusable"), notOffered))},
		{"RPT-4.4-19 STS and DANE side by side", facts(enforce, usable), expiredCert, all(sts(stscache.Enforce, expired), under(tlsaReport))},
		{"RPT-4.4-19 mode none and DANE: DANE alone", facts(noneMode, usable), nil, all(under(tlsaReport))},

		{"RPT-4.3-13 a kept connection to a host that is not named: as without connection", facts(enforce, unlisted), expiredCert, all(sts(stscache.Enforce, mismatch))},
		{"an override lowers nothing of what is reported", facts(enforce, overrideSTS), expiredCert, all(sts(stscache.Enforce, expired))},
		{"audit lowers nothing of what is reported", facts(enforce, audit, usable), func(e *Evidence) { expiredCert(e); otherCert(e) },
			all(sts(stscache.Enforce, expired), under(tlsaReport, failed(tlsrpt.ValidationFailure, "dane-no-match")))},
		{"RPT-4.3-13 audit, MX not named", facts(enforce, audit, unlisted), nil, all(sts(stscache.Enforce, mismatch))},
		{"the lack of REQUIRETLS is nobody's failure", facts(enforce, require), noRequireTLS, all(sts(stscache.Enforce))},
		{"a floor is nobody's policy", facts(floorVerify), expiredCert, all(under(noPolicy))},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := overTLS(tt.facts)
			if tt.see != nil {
				tt.see(&e)
			}
			got := Decide(tt.facts).Judge(e).Results
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
			for _, r := range got {
				for _, f := range r.Failures {
					if !f.Result.Known() {
						t.Errorf("RPT-4.3-12: %q is not registered", f.Result)
					}
				}
			}
		})
	}
}

func TestSkipResults(t *testing.T) {
	nobody := tlsrpt.Policy{Type: tlsrpt.TLSA, Domain: "mx1.example.com", MXHosts: []string{"mx1.example.com"}}
	tests := []struct {
		name  string
		facts Facts
		want  []tlsrpt.PolicyResult
	}{
		{"RPT-4.3-13 enforce, MX not named", facts(enforce, unlisted), []tlsrpt.PolicyResult{sts(stscache.Enforce, failed(tlsrpt.ValidationFailure, "mtasts-policy-mx-mismatch"))}},
		{"RPT-4.3-07 bogus TLSA", facts(tlsaBogus), []tlsrpt.PolicyResult{under(nobody, failed(tlsrpt.DNSSECInvalid, ""))}},
		{"RPT-4.3-08 mandatory DANE, no TLSA", facts(floorDANE), []tlsrpt.PolicyResult{under(nobody, failed(tlsrpt.DANERequired, ""))}},
		{"RPT-4.3-14 a TLSA lookup that failed for the moment", facts(tlsaFailed), nil},
		{"RPT-4.3-14 discovery that failed for the moment", facts(inGraceNow), nil},
		{"impossible REQUIRETLS", facts(require), nil},
		{"a host that is contacted", facts(enforce), nil},
		{"a literal has nobody to tell", facts(literal, floorDANE), nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := Decide(tt.facts)
			if diff := cmp.Diff(tt.want, d.SkipResults()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestPolicyFetchResult(t *testing.T) {
	wrapped := func(sentinel error) error { return fmt.Errorf("%w: it\r\nis so", sentinel) }
	with := func(st stscache.Status, err error) stscache.Status {
		st.Err = err
		return st
	}
	tests := []struct {
		name   string
		status stscache.Status
		want   tlsrpt.Result // "" for nothing
	}{
		{"all well", policyOf(stscache.Enforce), ""},
		{"no record, nothing cached", with(stscache.Status{}, stscache.ErrNoRecord), ""},
		{"many records, nothing cached", with(stscache.Status{}, stscache.ErrManyRecords), ""},
		{"record syntax, nothing cached", with(stscache.Status{}, stscache.ErrRecordSyntax), ""},
		{"lookup failed, nothing cached", with(stscache.Status{}, wrapped(stscache.ErrLookup)), ""},
		{"STS-6-01 RPT-4.3-09 RPT-4.3-15 fetch failed, nothing cached", with(stscache.Status{}, wrapped(stscache.ErrFetch)), tlsrpt.STSPolicyFetchError},
		{"RPT-4.3-09 policy too large, nothing cached", with(stscache.Status{}, wrapped(stscache.ErrTooLarge)), tlsrpt.STSPolicyFetchError},
		{"RPT-4.3-10 invalid policy, nothing cached", with(stscache.Status{}, wrapped(stscache.ErrPolicySyntax)), tlsrpt.STSPolicyInvalid},
		{"RPT-4.3-11 policy host not authenticated, nothing cached", with(stscache.Status{}, wrapped(stscache.ErrWebPKI)), tlsrpt.STSWebPKIInvalid},
		{"RPT-4.3-11 not authenticated is more than not fetched", with(stscache.Status{}, fmt.Errorf("%w: %w", stscache.ErrFetch, stscache.ErrWebPKI)), tlsrpt.STSWebPKIInvalid},
		{"STS-6-02 no record any more, testing cached", with(policyOf(stscache.Testing), stscache.ErrNoRecord), tlsrpt.STSPolicyFetchError},
		{"STS-6-02 lookup failed, enforce cached", with(policyOf(stscache.Enforce), stscache.ErrLookup), tlsrpt.STSPolicyFetchError},
		{"STS-6-02 no record any more, none cached", with(policyOf(stscache.None), stscache.ErrNoRecord), ""},
		{"STS-6-02 fetch failed, enforce cached", with(policyOf(stscache.Enforce), stscache.ErrFetch), tlsrpt.STSPolicyFetchError},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := policyFetchResult(exampleDomain, tt.status)
			if (got == nil) != (tt.want == "") {
				t.Fatalf("got %+v", got)
			}
			if got == nil {
				return
			}
			if len(got.Failures) != 1 || got.Failures[0].Result != tt.want {
				t.Errorf("failures %+v", got.Failures)
			}
			if why := got.Failures[0].Reason; why == "" || strings.ContainsAny(why, "\r\n") {
				t.Errorf("reason %q", why)
			}
			if got.Policy.Type != tlsrpt.STS || got.Policy.Domain != "example.com" || !cmp.Equal(got.Policy.Strings, tt.status.Lines) {
				t.Errorf("policy %+v", got.Policy)
			}
		})
	}
	t.Run("an address literal has nobody to tell", func(t *testing.T) {
		if got := policyFetchResult(addr.Domain{}, with(stscache.Status{}, stscache.ErrFetch)); got != nil {
			t.Errorf("%+v", got)
		}
	})
}

// timeout is what a connection past its deadline returns.
type timeout struct{ error }

func (timeout) Timeout() bool   { return true }
func (timeout) Temporary() bool { return true }

func TestClassify(t *testing.T) {
	alert := func(op, text string) error { return &net.OpError{Op: op, Err: errors.New("tls: " + text)} }
	tests := []struct {
		name   string
		err    error
		result tlsrpt.Result
		reason Reason
		code   string
	}{
		{"RPT-4.3-01 STARTTLS not offered", errNotOffered, tlsrpt.StartTLSNotSupported, StartTLSMissing, ""},
		{"a redial in the clear", errInClear, tlsrpt.StartTLSNotSupported, StartTLSMissing, ""},
		{"RPT-4.3-01 STARTTLS refused: the code is the reason", &startTLSRefused{454, "TLS not available"}, tlsrpt.StartTLSNotSupported, StartTLSMissing, "454"},
		{"RPT-4.3-01 text of the refusal is not reported", fmt.Errorf("x: %w", &startTLSRefused{550, "joe@example.com"}), tlsrpt.StartTLSNotSupported, StartTLSMissing, "550"},
		{"RPT-4.3-05 an alert from the server", alert("remote error", "handshake failure"), tlsrpt.ValidationFailure, TLSFailed, "remote-alert: handshake failure"},
		{"RPT-4.3-05 an alert of ours", alert("local error", "protocol version not supported"), tlsrpt.ValidationFailure, TLSFailed, "local-alert: protocol version not supported"},
		{"RPT-4.3-05 no TLS at all", tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"}, tlsrpt.ValidationFailure, TLSFailed, "not-tls"},
		{"RPT-4.3-14 the connection is closed", fmt.Errorf("x: %w", io.EOF), tlsrpt.ValidationFailure, TLSFailed, "connection-closed"},
		{"RPT-4.3-14 the connection is closed midway", io.ErrUnexpectedEOF, tlsrpt.ValidationFailure, TLSFailed, "connection-closed"},
		{"RPT-4.3-14 the connection is reset", &net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)}, tlsrpt.ValidationFailure, TLSFailed, "connection-closed"},
		{"RPT-4.3-14 the connection is gone when we write", &net.OpError{Op: "write", Err: os.NewSyscallError("write", syscall.EPIPE)}, tlsrpt.ValidationFailure, TLSFailed, "connection-closed"},
		{"RPT-4.3-14 the server is silent", &net.OpError{Op: "read", Err: timeout{errors.New("i/o timeout")}}, tlsrpt.ValidationFailure, TLSFailed, "timeout"},
		{"RPT-4.3-05 anything else in its own words", errors.New("tls: server selected unsupported protocol version 301"), tlsrpt.ValidationFailure, TLSFailed, "server selected unsupported protocol version 301"},
		{"RPT-7-02 its own words are bounded and cleaned", errors.New("a\nb" + strings.Repeat("x", 500)), tlsrpt.ValidationFailure, TLSFailed, "a b" + strings.Repeat("x", tlsrpt.MaxReason-3)},
		{"RPT-4.3-04 a certificate that cannot be parsed", errors.New("tls: failed to parse certificate from server: x509: malformed"), tlsrpt.CertificateNotTrusted, CertNotTrusted, "malformed-certificate"},
		{"the first of several things", errors.Join(badCert, badMatch), tlsrpt.CertificateExpired, CertExpired, "expired"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			result, reason, code := classify(tt.err)
			if result != tt.result || reason != tt.reason || code != tt.code {
				t.Errorf("got %q %q %q, want %q %q %q", result, reason, code, tt.result, tt.reason, tt.code)
			}
		})
	}
}
