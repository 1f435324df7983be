package tlsrpt

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"
)

var sts = Policy{Type: STS, Domain: "example.com", Strings: []string{"version: STSv1", "mode: enforce"}, MXHosts: []string{"*.example.com"}}

func session(policies ...PolicyResult) Session {
	return Session{
		Start: time.Date(2026, 11, 1, 23, 59, 59, 0, time.UTC), Policies: policies,
		MX: "mx.example.com", HELO: "mx.example.com",
		Receiver: netip.MustParseAddr("192.0.2.1"), Sender: netip.MustParseAddr("::ffff:198.51.100.7"),
	}
}

func fail(results ...Result) PolicyResult {
	p := PolicyResult{Policy: sts}
	for _, r := range results {
		p.Failures = append(p.Failures, Failure{Result: r})
	}
	return p
}

func TestCount(t *testing.T) {
	t.Run("RPT-4.2-01 a session without failures is one success", func(t *testing.T) {
		got := session(fail()).Count()
		if len(got) != 1 || got[0].Successes != 1 || got[0].Failures != 0 || len(got[0].Details) != 0 {
			t.Errorf("got %+v", got)
		}
	})
	t.Run("RPT-4.2-02 a session failing in two ways is one failure and two details", func(t *testing.T) {
		got := session(fail(CertificateExpired, CertificateHostMismatch, CertificateExpired)).Count()[0]
		if got.Successes != 0 || got.Failures != 1 || len(got.Details) != 2 {
			t.Errorf("got %+v", got)
		}
		want := Detail{Failure: Failure{Result: CertificateExpired}, MX: "mx.example.com", HELO: "mx.example.com",
			Receiver: "192.0.2.1", Sender: "198.51.100.7", Sessions: 1}
		if got.Details[0] != want {
			t.Errorf("detail %+v, want %+v", got.Details[0], want)
		}
	})
	t.Run("RPT-4.2-03 a session is counted once for each policy it was held against", func(t *testing.T) {
		tlsa := PolicyResult{Policy: Policy{Type: TLSA, Domain: "mx.example.com"}}
		got := session(fail(CertificateExpired), tlsa, fail()).Count()
		if len(got) != 2 || got[0].Failures != 1 || got[0].Successes != 0 || got[1].Successes != 1 {
			t.Errorf("got %+v", got)
		}
	})
	t.Run("a session without a connection has no addresses", func(t *testing.T) {
		d := Session{Policies: []PolicyResult{fail(STSPolicyFetchError)}}.Count()[0].Details[0]
		if d != (Detail{Failure: Failure{Result: STSPolicyFetchError}, Sessions: 1}) {
			t.Errorf("got %+v", d)
		}
	})
	t.Run("RPT-7-02 peers' text is cleaned", func(t *testing.T) {
		s := session(PolicyResult{Policy: sts, Failures: []Failure{{Result: ValidationFailure, Reason: "a\r\nb"}}})
		s.HELO = "evil\x00helo"
		if d := s.Count()[0].Details[0]; d.Reason != "a b" || d.HELO != "evil helo" {
			t.Errorf("got %+v", d)
		}
	})
}

func TestResults(t *testing.T) {
	want := []Result{"starttls-not-supported", "certificate-host-mismatch", "certificate-expired", "certificate-not-trusted",
		"validation-failure", "tlsa-invalid", "dnssec-invalid", "dane-required", "sts-policy-fetch-error", "sts-policy-invalid", "sts-webpki-invalid"}
	t.Run("RPT-4.3-12 the results are the eleven registered values", func(t *testing.T) {
		if !slices.Equal(Results(), want) {
			t.Errorf("got %v", Results())
		}
	})
	t.Run("RPT-4.3-12 a private value is never counted as such", func(t *testing.T) {
		got := session(fail("x-our-own", CertificateExpired)).Count()[0].Details
		if got[0].Result != ValidationFailure || got[1].Result != CertificateExpired {
			t.Errorf("got %+v", got)
		}
	})
}

func TestPolicyTypes(t *testing.T) {
	t.Run("RPT-4.4-05 the policy types are the three of the RFC, and no other is counted", func(t *testing.T) {
		for in, want := range map[PolicyType]PolicyType{"tlsa": TLSA, "sts": STS, "no-policy-found": NoPolicyFound, "": NoPolicyFound, "dane": NoPolicyFound} {
			got := Session{Policies: []PolicyResult{{Policy: Policy{Type: in}}}}.Count()[0].Policy.Type
			if got != want {
				t.Errorf("%q is counted as %q, want %q", in, got, want)
			}
		}
	})
}

func TestMerge(t *testing.T) {
	var sum PolicyTally
	const n = MaxDetails + 50
	for i := range n {
		s := session(PolicyResult{Policy: sts, Failures: []Failure{{Result: Results()[i%2], Reason: fmt.Sprint(i)}}})
		sum.Merge(s.Count()[0])
		sum.Merge(session(fail()).Count()[0])
	}
	var sessions int64
	for _, d := range sum.Details {
		sessions += d.Sessions
	}
	if sum.Successes != n || sum.Failures != n || sessions != n {
		t.Errorf("%d successes, %d failures, %d sessions in details, want %d of each", sum.Successes, sum.Failures, sessions, n)
	}
	if len(sum.Details) != MaxDetails+2 {
		t.Errorf("%d details, want %d and one for each of two results", len(sum.Details), MaxDetails)
	}
	last := sum.Details[len(sum.Details)-1]
	if last != (Detail{Failure: Failure{Result: last.Result}, Sessions: 25}) {
		t.Errorf("the fold-in element is %+v, want 25 sessions without text and addresses", last)
	}
}

func TestKeys(t *testing.T) {
	changed := func(f func(*Policy)) Policy {
		p := sts
		f(&p)
		return p
	}
	for name, p := range map[string]Policy{
		"RPT-4.4-18 another policy text is another policy": changed(func(p *Policy) { p.Strings = []string{"version: STSv1", "mode: testing"} }),
		"RPT-4.4-18 another mx pattern is another policy":  changed(func(p *Policy) { p.MXHosts = []string{"mx.example.com"} }),
		"another domain is another policy":                 changed(func(p *Policy) { p.Domain = "example.net" }),
		"another type is another policy":                   changed(func(p *Policy) { p.Type = TLSA }),
		"text moved between fields is another policy":      changed(func(p *Policy) { p.Strings, p.MXHosts = p.Strings[:1], []string{p.Strings[1], "*.example.com"} }),
	} {
		t.Run(name, func(t *testing.T) {
			if p.Key() == sts.Key() {
				t.Error("same key")
			}
		})
	}
	d := session(fail(CertificateExpired)).Count()[0].Details[0]
	more := d
	more.Sessions = 7
	if d.Key() != more.Key() {
		t.Error("the count is part of a detail's key")
	}
}
