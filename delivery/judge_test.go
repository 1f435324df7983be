package delivery

import (
	"crypto/tls"
	"errors"
	"io"
	"testing"

	"stsrelay/internal/addr"
	"stsrelay/internal/resolver"
)

// Changes to the evidence of overTLS.
func noSTARTTLS(e *Evidence)    { *e = Evidence{TLSErr: errNotOffered} }
func refused454(e *Evidence)    { *e = Evidence{Offered: true, TLSErr: &startTLSRefused{454, "not now"}} }
func handshakeCut(e *Evidence)  { *e = Evidence{Offered: true, TLSErr: io.EOF} }
func inTheClear(e *Evidence)    { *e = Evidence{TLSErr: errInClear} }
func expiredCert(e *Evidence)   { e.PKIXErr = badCert }
func otherCert(e *Evidence)     { e.DANEErr = badMatch }
func noRequireTLS(e *Evidence)  { e.RequireTLS = false }
func otherName(e *Evidence)     { e.PKIXFor = unlistedMX }
func neverVerified(e *Evidence) { e.PKIXFor = addr.Host{} }
func neverMatched(e *Evidence)  { e.DANEFor = nil }
func alertAtTheEnd(e *Evidence) { e.TLSErr = errReset }
func ownRootsGone(e *Evidence)  { e.PKIXErr = &certError{reason: LocalError, text: "no roots"} }
func formerRecords(e *Evidence) {
	e.DANEFor = []resolver.TLSA{{Usage: 3, Selector: 1, Matching: 1, Data: []byte{1}}}
}
func formerUsage(e *Evidence) {
	e.DANEFor = []resolver.TLSA{{Usage: 2, Selector: 1, Matching: 1, Data: someTLSA[0].Data}}
}
func formerSelector(e *Evidence) {
	e.DANEFor = []resolver.TLSA{{Usage: 3, Selector: 0, Matching: 1, Data: someTLSA[0].Data}}
}
func formerMatching(e *Evidence) {
	e.DANEFor = []resolver.TLSA{{Usage: 3, Selector: 1, Matching: 2, Data: someTLSA[0].Data}}
}

const (
	goes   = "goes on"
	redial = "dials again"
)

func TestJudge(t *testing.T) {
	tests := []struct {
		name    string
		facts   Facts
		see     func(*Evidence)
		want    string // goes, redial, or the Reason of the refusal
		missing Requirement
		stage   Stage
	}{
		{"without demand mail goes over verified TLS", facts(), nil, goes, 0, 0},
		{"without demand mail goes over any TLS", facts(), expiredCert, goes, 0, 0},
		{"without demand mail goes in the clear when STARTTLS is not offered", facts(), noSTARTTLS, goes, 0, 0},
		{"without demand mail goes in the clear on the same connection when STARTTLS is refused", facts(), refused454, goes, 0, 0},
		{"X-08 without demand a broken handshake leads to one more connection in the clear", facts(), handshakeCut, redial, 0, 0},
		{"X-08 testing: a broken handshake leads to one more connection in the clear", facts(testingMode), handshakeCut, redial, 0, 0},
		{"X-08 on the connection in the clear mail goes", facts(testingMode), inTheClear, goes, 0, 0},
		{"TLS that ends before it is used is broken", facts(), alertAtTheEnd, redial, 0, 0},
		{"STS-5-02 testing: mail goes with a bad certificate", facts(testingMode), expiredCert, goes, 0, 0},
		{"STS-5-02 testing: mail goes to a host that is not named", facts(testingMode, unlisted), nil, goes, 0, 0},
		{"STS-5-02 testing: mail goes without STARTTLS", facts(testingMode), noSTARTTLS, goes, 0, 0},
		{"STS-5-03 mode none: mail goes in the clear", facts(noneMode), noSTARTTLS, goes, 0, 0},

		{"enforce: mail goes over verified TLS", facts(enforce), nil, goes, 0, 0},
		{"STS-4-01 STS-5-01 enforce: no STARTTLS, no mail", facts(enforce), noSTARTTLS, string(StartTLSMissing), verified, StageTLS},
		{"STS-5-01 enforce: STARTTLS refused by 454, no mail on that connection", facts(enforce), refused454, string(StartTLSMissing), verified, StageTLS},
		{"STS-5-01 enforce: a broken handshake is never followed by clear text", facts(enforce), handshakeCut, string(TLSFailed), verified, StageTLS},
		{"STS-5-01 enforce: a connection left in the clear carries no mail", facts(enforce), inTheClear, string(StartTLSMissing), verified, StageTLS},
		{"STS-4-01 enforce: a bad certificate, no mail", facts(enforce), expiredCert, string(CertExpired), PKIX, StagePolicy},
		{"enforce: what is wrong with a certificate is wrong whatever name it was checked for", facts(enforce), func(e *Evidence) { expiredCert(e); otherName(e) }, string(CertExpired), PKIX, StagePolicy},
		{"STS-4.2-03 enforce: a certificate checked for another name counts as not checked", facts(enforce), otherName, string(LocalError), PKIX, StagePolicy},
		{"STS-4.2-05 enforce: a kept connection that was never verified, no mail", facts(enforce), neverVerified, string(LocalError), PKIX, StagePolicy},
		{"enforce: without trusted roots of our own, no mail, and the fault is ours", facts(enforce), ownRootsGone, string(LocalError), PKIX, StagePolicy},
		{"STS-5-01 enforce: TLS that ends before it is used carries no mail", facts(enforce), alertAtTheEnd, string(TLSFailed), verified, StageTLS},
		{"enforce, not named: a kept connection does not help", facts(enforce, unlisted), nil, string(MXNotListed), 0, StagePlan},
		{"enforce, not named: what a probe finds missing is told all the same", facts(enforce, unlisted), expiredCert, string(MXNotListed), PKIX, StagePlan},

		{"DANE: mail goes when a record matches", facts(usable), nil, goes, 0, 0},
		{"DANE: a certificate that no authority vouches for is good", facts(usable), expiredCert, goes, 0, 0},
		{"DANE: a valid certificate that no record matches, no mail", facts(usable), otherCert, string(DANEMismatch), DANE, StagePolicy},
		{"DANE: no STARTTLS, no mail", facts(usable), noSTARTTLS, string(StartTLSMissing), TLS | DANE, StageTLS},
		{"X-11 DANE: a kept connection that was not compared with records, no mail", facts(usable), neverMatched, string(LocalError), DANE, StagePolicy},
		{"X-11 DANE: a kept connection that matched other records, no mail", facts(usable), formerRecords, string(LocalError), DANE, StagePolicy},
		{"X-11 DANE: a record of another usage is another record", facts(usable), formerUsage, string(LocalError), DANE, StagePolicy},
		{"X-11 DANE: a record of another selector is another record", facts(usable), formerSelector, string(LocalError), DANE, StagePolicy},
		{"X-11 DANE: a record of another matching type is another record", facts(usable), formerMatching, string(LocalError), DANE, StagePolicy},
		{"X-11 DANE: a kept connection that matched under a name that is none of the host's, no mail", facts(usable), func(e *Evidence) { e.DANEName = unlistedMX }, string(LocalError), DANE, StagePolicy},
		{"DANE: a match under one of the host's names is a match", facts(usable, func(f *Facts) { f.Names = []addr.Host{baseHost} }), func(e *Evidence) { e.DANEName = baseHost }, goes, 0, 0},
		{"DANE-2.2-02 unusable TLSA: any TLS will do", facts(unusable), expiredCert, goes, 0, 0},
		{"DANE-2.2-02 unusable TLSA: no STARTTLS, no mail", facts(unusable), noSTARTTLS, string(StartTLSMissing), TLS, StageTLS},
		{"STS-2-01 X-02 DANE and enforce: a valid certificate does not rescue a mismatch", facts(usable, enforce), otherCert, string(DANEMismatch), DANE, StagePolicy},
		{"X-03 DANE and enforce: a match does not rescue a bad certificate", facts(usable, enforce), expiredCert, string(CertExpired), PKIX, StagePolicy},
		{"X-04 dane_supersedes: a match is enough", facts(supersedes, usable, enforce), expiredCert, goes, 0, 0},
		{"X-04 dane_supersedes: a mismatch is a mismatch", facts(supersedes, usable, enforce), otherCert, string(DANEMismatch), DANE, StagePolicy},
		{"DANE and testing: a bad certificate is only reported", facts(usable, testingMode), expiredCert, goes, 0, 0},

		{"REQUIRETLS and enforce: mail goes", facts(require, enforce), nil, goes, 0, 0},
		{"RTLS-4.2.1-01 RTLS-4.2.1-02 REQUIRETLS not offered: no mail", facts(require, enforce), noRequireTLS, string(RequireTLSMissing), RequireTLS, StagePolicy},
		{"RTLS-4.2.1-04 REQUIRETLS not offered and a bad certificate: the one that may mend speaks", facts(require, enforce), func(e *Evidence) { expiredCert(e); noRequireTLS(e) }, string(CertExpired), PKIX | RequireTLS, StagePolicy},
		{"RTLS-4.2.1-03 REQUIRETLS, secure MX, no STARTTLS: final", facts(require, secureMX), noSTARTTLS, string(RequireTLSNoTLS), verified | RequireTLS, StageTLS},
		{"RTLS-4.2.1-04 REQUIRETLS, secure MX, STARTTLS refused: may mend", facts(require, secureMX), refused454, string(StartTLSMissing), verified | RequireTLS, StageTLS},
		{"RTLS-4.2.1-04 REQUIRETLS, secure MX, a broken handshake: may mend", facts(require, secureMX), handshakeCut, string(TLSFailed), verified | RequireTLS, StageTLS},
		{"STS-5-05 REQUIRETLS and enforce, no STARTTLS: may mend", facts(require, enforce), noSTARTTLS, string(StartTLSMissing), verified | RequireTLS, StageTLS},
		{"REQUIRETLS, secure MX, a floor: no STARTTLS may mend", facts(require, secureMX, floorEncrypt), noSTARTTLS, string(StartTLSMissing), verified | RequireTLS, StageTLS},
		{"REQUIRETLS, secure MX with DANE: a bad certificate that matches will do", facts(require, secureMX, usable), expiredCert, goes, 0, 0},

		{"X-09 TLS-Required: No, enforce: mail goes with a bad certificate", facts(ignore, enforce), expiredCert, goes, 0, 0},
		{"X-09 TLS-Required: No, enforce: mail goes without STARTTLS", facts(ignore, enforce), noSTARTTLS, goes, 0, 0},
		{"X-09 TLS-Required: No, enforce: a broken handshake leads to clear text", facts(ignore, enforce), handshakeCut, redial, 0, 0},
		{"X-07 TLS-Required: No, a floor: no STARTTLS, no mail", facts(ignore, floorEncrypt), noSTARTTLS, string(StartTLSMissing), TLS, StageTLS},

		{"a floor of encrypt: any TLS will do", facts(floorEncrypt), expiredCert, goes, 0, 0},
		{"a floor of verify: a bad certificate, no mail", facts(floorVerify), expiredCert, string(CertExpired), PKIX, StagePolicy},
		{"a floor of dane without records: no certificate matches nothing", facts(floorDANE, secureMX), nil, string(DANERequired), DANE, StagePlan},
		{"a floor of verify, an address literal: there is no name to verify", facts(literal, floorVerify), nil, string(LocalError), PKIX, StagePolicy},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := overTLS(tt.facts)
			if tt.see != nil {
				tt.see(&e)
			}
			v := Decide(tt.facts).Judge(e)
			got, stage := verdictText(v), Stage(0)
			if v.Err != nil {
				stage = v.Err.Stage
			}
			if got != tt.want || v.Missing != tt.missing || stage != tt.stage {
				t.Errorf("%s, missing %q, stage %s; should be %s, %q, %s", got, v.Missing, stage, tt.want, tt.missing, tt.stage)
			}
		})
	}
}

func verdictText(v Verdict) string {
	switch {
	case v.Proceed:
		return goes
	case v.Redial:
		return redial
	case v.Err == nil:
		return "says nothing"
	}
	return string(v.Err.Reason)
}

// What a refusal says is read by senders in bounces and by whoever reads logs.
func TestJudgeText(t *testing.T) {
	two := errors.Join(badCert, &certError{reason: CertHostMismatch, text: "its certificate is for a.example, not for mx1.example.com"})
	tests := []struct {
		name  string
		facts Facts
		see   func(*Evidence)
		want  string
	}{
		{"STS-5.1-05 the policy, what it requires, the host and what is wrong", facts(enforce), expiredCert,
			"the mta-sts policy of example.com (enforce, id=20261101) requires mx1.example.com to show a valid certificate for its name: its certificate expired on 2026-01-01"},
		{"everything that is wrong is said", facts(enforce), func(e *Evidence) { e.PKIXErr = two },
			"the mta-sts policy of example.com (enforce, id=20261101) requires mx1.example.com to show a valid certificate for its name: its certificate expired on 2026-01-01; its certificate is for a.example, not for mx1.example.com"},
		{"a cached policy without record has no id", facts(enforce, func(f *Facts) { f.STS.ID = "" }), noSTARTTLS,
			"the mta-sts policy of example.com (enforce) requires mx1.example.com to speak TLS: the server does not offer STARTTLS"},
		{"the reply to STARTTLS is quoted", facts(enforce), refused454,
			"the mta-sts policy of example.com (enforce, id=20261101) requires mx1.example.com to speak TLS: the server offers STARTTLS and refuses it: 454 not now"},
		{"DANE names the records", facts(usable), otherCert,
			"DANE (the TLSA records of mail.provider.example) requires mx1.example.com to show a certificate that matches its TLSA records: no TLSA record matches"},
		{"DANE without usable records", facts(unusable), noSTARTTLS,
			"DANE (the TLSA records of mail.provider.example) requires mx1.example.com to speak TLS: the server does not offer STARTTLS"},
		{"the operator", facts(floorEncrypt), noSTARTTLS,
			"this relay's configuration requires mx1.example.com to speak TLS: the server does not offer STARTTLS"},
		{"whoever needs what is missing, and not whoever needs something", facts(unusable, floorVerify), expiredCert,
			"this relay's configuration requires mx1.example.com to show a valid certificate for its name: its certificate expired on 2026-01-01"},
		{"the operator, for an address literal", facts(literal, floorEncrypt), noSTARTTLS,
			"this relay's configuration requires the server to speak TLS: the server does not offer STARTTLS"},
		{"the sender", facts(require, secureMX), noSTARTTLS,
			"the message's REQUIRETLS requires mx1.example.com to speak TLS: the server does not offer STARTTLS"},
		{"the sender, of a server without the extension", facts(require, secureMX), noRequireTLS,
			"the message asks for REQUIRETLS and mx1.example.com does not offer it"},
		{"what a peer wrote is cleaned", facts(enforce), func(e *Evidence) { e.PKIXErr = errors.New("a\r\nb\x1b") },
			"the mta-sts policy of example.com (enforce, id=20261101) requires mx1.example.com to show a valid certificate for its name: a b"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := overTLS(tt.facts)
			tt.see(&e)
			got := Decide(tt.facts).Judge(e).Err
			if got == nil || got.Text != tt.want {
				t.Errorf("got  %v\nwant %s", got, tt.want)
			}
		})
	}
	t.Run("the cause can be found in the error", func(t *testing.T) {
		err := Decide(facts(enforce)).Judge(overTLS(facts(enforce), expiredCert)).Err
		if !errors.Is(err, badCert) {
			t.Errorf("%v does not wrap %v", err, badCert)
		}
	})
}

func TestJudgeAgain(t *testing.T) {
	t.Run("X-11 a stronger connection serves a weaker need", func(t *testing.T) {
		e := overTLS(facts(enforce))
		if v := Decide(facts()).Judge(e); !v.Proceed {
			t.Errorf("%+v", v)
		}
	})
	t.Run("STS-4.2-05 X-11 a connection opened opportunistically, with a bad certificate, does not serve an enforcing domain", func(t *testing.T) {
		e := overTLS(facts(), expiredCert)
		if v := Decide(facts()).Judge(e); !v.Proceed {
			t.Fatalf("opened in vain: %+v", v)
		}
		if v := Decide(facts(enforce)).Judge(e); v.Proceed || v.Redial {
			t.Errorf("%+v", v)
		}
	})
	t.Run("a verdict without evidence lets mail go only where nothing is needed", func(t *testing.T) {
		if v := Decide(facts()).Judge(Evidence{}); !v.Proceed {
			t.Errorf("%+v", v)
		}
		if v := Decide(facts(floorEncrypt)).Judge(Evidence{}); v.Proceed || v.Err.Reason != StartTLSMissing {
			t.Errorf("%+v", v)
		}
	})
	t.Run("an empty state without verification is not verified TLS", func(t *testing.T) {
		e := Evidence{State: &tls.ConnectionState{}}
		if v := Decide(facts(enforce)).Judge(e); v.Proceed || v.Missing != PKIX {
			t.Errorf("%+v", v)
		}
	})
}

func BenchmarkJudge(b *testing.B) {
	f := facts(enforce, usable)
	d, e := Decide(f), overTLS(f)
	b.ReportAllocs()
	for b.Loop() {
		d.Judge(e)
	}
}
