package delivery

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"stsrelay/internal/addr"
	"stsrelay/internal/resolver"
	"stsrelay/stscache"
)

// A decisionRow is one row of the decision table: what is known, and what must
// come of it. The name is the sentence that docs/architecture.md shows.
type decisionRow struct {
	name    string
	ids     string // ledger rows that it proves
	facts   Facts
	skip    Reason
	need    Requirement
	want    Requirement
	reasons []Rule
}

var (
	exampleDomain = addr.MustDomain("example.com")
	listedMX      = addr.MustHost("mx1.example.com")
	unlistedMX    = addr.MustHost("mx.elsewhere.example")
	baseHost      = addr.MustHost("mail.provider.example")
	someTLSA      = []resolver.TLSA{{Usage: 3, Selector: 1, Matching: 1, Data: []byte{0xab, 0xcd}}}
)

const verified = TLS | PKIX

// facts are those of a listed MX host of example.com without any demand, with
// the changes made.
func facts(change ...func(*Facts)) Facts {
	f := Facts{Domain: exampleDomain, MX: listedMX, STS: stscache.Status{Err: stscache.ErrNoRecord}}
	for _, c := range change {
		c(&f)
	}
	return f
}

func policyOf(mode stscache.Mode) stscache.Status {
	p := &stscache.Policy{Mode: mode, MX: []stscache.Pattern{"*.example.com", "backup.example.net"}}
	lines := []string{"version: STSv1", "mode: " + string(mode), "mx: *.example.com", "mx: backup.example.net", "max_age: 86400"}
	return stscache.Status{Policy: p, ID: "20261101", Lines: lines}
}

func enforce(f *Facts)     { f.STS = policyOf(stscache.Enforce) }
func testingMode(f *Facts) { f.STS = policyOf(stscache.Testing) }
func noneMode(f *Facts)    { f.STS = policyOf(stscache.None) }
func unlisted(f *Facts)    { f.MX = unlistedMX }
func secureMX(f *Facts)    { f.MXSecure = true }
func direct(f *Facts)      { f.MX, f.Direct = f.Domain.Host(), true }
func inGraceNow(f *Facts) {
	f.STS.Err, f.InGrace = fmt.Errorf("%w: SERVFAIL", stscache.ErrLookup), true
}
func lookupFailed(f *Facts) {
	f.STS.Err = fmt.Errorf("%w: SERVFAIL", stscache.ErrLookup)
}
func fetchFailed(f *Facts)  { f.STS.Err = fmt.Errorf("%w: 404", stscache.ErrFetch) }
func usable(f *Facts)       { f.TLSA, f.TLSABase, f.Records = TLSAUsable, baseHost, someTLSA }
func unusable(f *Facts)     { f.TLSA, f.TLSABase, f.Records = TLSAUnusable, baseHost, someTLSA }
func tlsaFailed(f *Facts)   { f.TLSA = TLSAFailed }
func tlsaBogus(f *Facts)    { f.TLSA, f.Bogus = TLSAFailed, true }
func require(f *Facts)      { f.Demand = Require }
func ignore(f *Facts)       { f.Demand = Ignore }
func overrideSTS(f *Facts)  { f.Override.STS = true }
func overrideDANE(f *Facts) { f.Override.DANE = true }
func audit(f *Facts)        { f.Rules.Audit = true }
func supersedes(f *Facts)   { f.Rules.DANESupersedes = true }
func floorEncrypt(f *Facts) { f.Floor = TLS }
func floorVerify(f *Facts)  { f.Floor = TLS | PKIX }
func floorDANE(f *Facts)    { f.Floor = DANE }
func literal(f *Facts)      { f.Domain, f.MX, f.Direct = addr.Domain{}, addr.Host{}, true }

// decisionTable is the whole of what Decide knows: house.md's table and the
// rules of design.md, row by row.
var decisionTable = []decisionRow{
	// MTA-STS.
	{"no policy: opportunistic TLS", "", facts(), "", 0, 0, nil},
	{"mode none is as no policy", "STS-5-03", facts(noneMode), "", 0, 0, []Rule{STSNone}},
	{"mode none, MX not named", "STS-5-03", facts(noneMode, unlisted), "", 0, 0, []Rule{STSNone}},
	{"discovery failed, in grace: wait", "STS-3.1-16", facts(inGraceNow), DiscoveryFailed, 0, 0, []Rule{STSUnknown}},
	{"discovery failed, grace over: as no policy", "STS-3.1-16", facts(lookupFailed), "", 0, 0, []Rule{STSUnknown}},
	{"discovery fails, an enforced policy is cached: it applies", "STS-3.1-16", facts(enforce, inGraceNow), "", verified, verified, []Rule{STSEnforce}},
	{"discovery fails, a cached policy of mode none: it applies", "STS-3.1-16", facts(noneMode, inGraceNow), "", 0, 0, []Rule{STSNone}},
	{"policy fetch failed, nothing cached: as no policy", "", facts(fetchFailed), "", 0, 0, nil},
	{"policy fetch failed, an enforced policy is cached: it applies", "", facts(enforce, fetchFailed), "", verified, verified, []Rule{STSEnforce}},
	{"testing, MX named: watch", "STS-5-02", facts(testingMode), "", 0, verified, []Rule{STSTesting}},
	{"testing, MX not named: watch", "STS-5-02", facts(testingMode, unlisted), "", 0, verified, []Rule{STSTesting, STSUnlisted}},
	{"enforce, MX named: verified TLS", "STS-4-01", facts(enforce), "", verified, verified, []Rule{STSEnforce}},
	{"enforce, MX not named: not contacted", "STS-4-01 STS-5-01", facts(enforce, unlisted), MXNotListed, verified, verified, []Rule{STSEnforce, STSUnlisted}},
	{"enforce, the domain is its own MX host and not named", "STS-4.1-05", facts(enforce, direct), MXNotListed, verified, verified, []Rule{STSEnforce, STSUnlisted}},
	{"enforce, the domain is its own MX host and named", "STS-4.1-05", facts(enforce, func(f *Facts) { f.Domain = addr.MustDomain("sub.example.com") }, direct), "", verified, verified, []Rule{STSEnforce}},
	{"enforce, a fixed host that is its own policy domain and named", "STS-3.4-04", facts(enforce, func(f *Facts) {
		f.Domain, f.MX, f.Direct = addr.MustDomain("backup.example.net"), addr.MustHost("backup.example.net"), true
	}), "", verified, verified, []Rule{STSEnforce}},
	{"an address literal has no policy, whatever anybody says", "STS-3.4-02", facts(enforce, inGraceNow, literal), "", 0, 0, nil},

	// DANE.
	{"usable TLSA: DANE", "DANE-2.2-01", facts(usable), "", TLS | DANE, TLS | DANE, []Rule{DANEUsable}},
	{"only unusable TLSA: TLS, unauthenticated", "DANE-2.2-02 DANE-2.2.3-04", facts(unusable), "", TLS, TLS, []Rule{DANEUnusable}},
	{"TLSA lookup failed: not contacted", "DANE-2.2-04", facts(tlsaFailed), TLSALookupFailed, 0, 0, []Rule{DANEFailed}},
	{"TLSA bogus: not contacted", "DANE-2.2-04", facts(tlsaBogus), DNSBogus, 0, 0, []Rule{DANEFailed}},
	{"usable TLSA and enforce, MX named: both must hold", "STS-2-01 X-02 X-03 X-04", facts(usable, enforce), "", TLS | PKIX | DANE, TLS | PKIX | DANE, []Rule{STSEnforce, DANEUsable}},
	{"usable TLSA and enforce, MX not named: not contacted", "X-03", facts(usable, enforce, unlisted), MXNotListed, TLS | PKIX | DANE, TLS | PKIX | DANE, []Rule{STSEnforce, STSUnlisted, DANEUsable}},
	{"usable TLSA and testing", "", facts(usable, testingMode), "", TLS | DANE, TLS | PKIX | DANE, []Rule{STSTesting, DANEUsable}},
	{"unusable TLSA and enforce, MX named", "", facts(unusable, enforce), "", verified, verified, []Rule{STSEnforce, DANEUnusable}},
	{"unusable TLSA and testing", "", facts(unusable, testingMode), "", TLS, verified, []Rule{STSTesting, DANEUnusable}},
	{"TLSA lookup failed and enforce, MX named: not contacted", "X-02", facts(tlsaFailed, enforce), TLSALookupFailed, verified, verified, []Rule{STSEnforce, DANEFailed}},
	{"usable TLSA, discovery failed, in grace: wait", "", facts(usable, inGraceNow), DiscoveryFailed, TLS | DANE, TLS | DANE, []Rule{STSUnknown, DANEUsable}},
	{"dane_supersedes, usable TLSA and enforce, MX named: DANE stands for both", "X-04", facts(supersedes, usable, enforce), "", TLS | DANE, TLS | PKIX | DANE, []Rule{STSEnforce, DANESupersedes, DANEUsable}},
	{"dane_supersedes, usable TLSA and enforce, MX not named", "X-04", facts(supersedes, usable, enforce, unlisted), "", TLS | DANE, TLS | PKIX | DANE, []Rule{STSEnforce, STSUnlisted, DANESupersedes, DANEUsable}},
	{"dane_supersedes, only unusable TLSA: STS holds", "X-04", facts(supersedes, unusable, enforce), "", verified, verified, []Rule{STSEnforce, DANEUnusable}},
	{"dane_supersedes, no TLSA: STS holds", "X-04", facts(supersedes, enforce), "", verified, verified, []Rule{STSEnforce}},
	{"dane_supersedes, usable TLSA that an override lowers: STS holds", "X-04", facts(supersedes, usable, enforce, overrideDANE), "", verified, TLS | PKIX | DANE, []Rule{STSEnforce, DANEUsable, OverrideDANE}},

	// REQUIRETLS.
	{"REQUIRETLS, name authentic by enforce", "RTLS-4.2.1-01", facts(require, enforce), "", verified | RequireTLS, verified | RequireTLS, []Rule{STSEnforce, MessageRequire}},
	{"REQUIRETLS, secure MX with usable TLSA", "RTLS-4.2.1-01", facts(require, secureMX, usable), "", TLS | DANE | RequireTLS, TLS | DANE | RequireTLS, []Rule{DANEUsable, MessageRequire}},
	{"REQUIRETLS, secure MX with usable TLSA, and enforce", "RTLS-4.2.1-01", facts(require, secureMX, usable, enforce), "", TLS | PKIX | DANE | RequireTLS, TLS | PKIX | DANE | RequireTLS, []Rule{STSEnforce, DANEUsable, MessageRequire}},
	{"REQUIRETLS, secure MX, no TLSA, no enforce", "RTLS-4.2.1-01", facts(require, secureMX), "", verified | RequireTLS, verified | RequireTLS, []Rule{MessageRequire}},
	{"REQUIRETLS, secure MX, only unusable TLSA", "RTLS-2-03", facts(require, secureMX, unusable), "", verified | RequireTLS, verified | RequireTLS, []Rule{DANEUnusable, MessageRequire}},
	{"REQUIRETLS, secure MX, testing", "RTLS-2-03", facts(require, secureMX, testingMode), "", verified | RequireTLS, verified | RequireTLS, []Rule{STSTesting, MessageRequire}},
	{"REQUIRETLS, secure MX, enforce, MX not named: not contacted", "", facts(require, secureMX, enforce, unlisted), MXNotListed, verified | RequireTLS, verified | RequireTLS, []Rule{STSEnforce, STSUnlisted, MessageRequire}},
	{"REQUIRETLS, insecure MX, no policy: impossible", "RTLS-4.2.1-02", facts(require), RequireTLSMissing, 0, 0, []Rule{MessageRequire}},
	{"REQUIRETLS, insecure MX, usable TLSA, no policy: impossible", "RTLS-4.2.1-02", facts(require, usable), RequireTLSMissing, TLS | DANE, TLS | DANE, []Rule{DANEUsable, MessageRequire}},
	{"REQUIRETLS, insecure MX, testing names the MX: impossible", "RTLS-2-03", facts(require, testingMode), RequireTLSMissing, 0, verified, []Rule{STSTesting, MessageRequire}},
	{"REQUIRETLS, insecure MX, mode none: impossible", "", facts(require, noneMode), RequireTLSMissing, 0, 0, []Rule{STSNone, MessageRequire}},
	{"REQUIRETLS, insecure MX, two records count as no policy: impossible", "", facts(require, func(f *Facts) { f.STS.Err = stscache.ErrManyRecords }), RequireTLSMissing, 0, 0, []Rule{MessageRequire}},
	{"REQUIRETLS, insecure MX, a malformed record counts as no policy: impossible", "", facts(require, func(f *Facts) { f.STS.Err = stscache.ErrRecordSyntax }), RequireTLSMissing, 0, 0, []Rule{MessageRequire}},
	{"REQUIRETLS, insecure MX, enforce, MX not named: not contacted", "", facts(require, enforce, unlisted), MXNotListed, verified, verified, []Rule{STSEnforce, STSUnlisted, MessageRequire}},
	{"REQUIRETLS, insecure MX, discovery failed, in grace: wait", "RTLS-4.2.1-04", facts(require, inGraceNow), DiscoveryFailed, 0, 0, []Rule{STSUnknown, MessageRequire}},
	{"REQUIRETLS, insecure MX, discovery failed, grace over: wait", "RTLS-4.2.1-04", facts(require, lookupFailed), RequireTLSUnknown, 0, 0, []Rule{STSUnknown, MessageRequire}},
	{"REQUIRETLS, insecure MX, policy fetch failed: wait", "RTLS-4.2.1-04", facts(require, fetchFailed), RequireTLSUnknown, 0, 0, []Rule{MessageRequire}},
	{"REQUIRETLS, insecure MX, testing, the newer policy cannot be had: wait", "RTLS-4.2.1-04", facts(require, testingMode, fetchFailed), RequireTLSUnknown, 0, verified, []Rule{STSTesting, MessageRequire}},
	{"REQUIRETLS, TLSA lookup failed: wait", "RTLS-4.2.1-04", facts(require, secureMX, tlsaFailed), TLSALookupFailed, verified | RequireTLS, verified | RequireTLS, []Rule{DANEFailed, MessageRequire}},
	{"REQUIRETLS, the domain is its own MX host: its name needs no proof", "RTLS-4.2.1-01", facts(require, direct), "", verified | RequireTLS, verified | RequireTLS, []Rule{MessageRequire}},
	{"REQUIRETLS, an address literal: impossible", "", facts(require, literal), RequireTLSMissing, 0, 0, []Rule{MessageRequire}},

	// What the message lowers.
	{"TLS-Required: No, enforce: opportunistic, reported", "X-06", facts(ignore, enforce), "", 0, verified, []Rule{STSEnforce, MessageIgnore}},
	{"TLS-Required: No, enforce, MX not named", "X-06", facts(ignore, enforce, unlisted), "", 0, verified, []Rule{STSEnforce, STSUnlisted, MessageIgnore}},
	{"TLS-Required: No, usable TLSA", "X-06", facts(ignore, usable), "", 0, TLS | DANE, []Rule{DANEUsable, MessageIgnore}},
	{"TLS-Required: No, only unusable TLSA", "", facts(ignore, unusable), "", 0, TLS, []Rule{DANEUnusable, MessageIgnore}},
	{"TLS-Required: No, TLSA lookup failed", "X-09", facts(ignore, tlsaFailed), "", 0, 0, []Rule{DANEFailed, MessageIgnore}},
	{"TLS-Required: No, discovery failed, in grace", "X-09", facts(ignore, inGraceNow), "", 0, 0, []Rule{STSUnknown, MessageIgnore}},
	{"TLS-Required: No, enforce and usable TLSA", "X-06 X-09", facts(ignore, enforce, usable), "", 0, TLS | PKIX | DANE, []Rule{STSEnforce, MessageIgnore, DANEUsable}},
	{"TLS-Required: No, operator floor encrypt, enforce", "X-07", facts(ignore, enforce, floorEncrypt), "", TLS, verified, []Rule{STSEnforce, MessageIgnore, OperatorFloor}},
	{"TLS-Required: No, operator floor dane, no TLSA: wait", "X-07", facts(ignore, secureMX, floorDANE), DANERequired, TLS | DANE, TLS | DANE, []Rule{OperatorFloor}},

	// What the operator asks.
	{"operator floor encrypt, no policy", "TLSV-9325-3.2-01", facts(floorEncrypt), "", TLS, TLS, []Rule{OperatorFloor}},
	{"operator floor verify, no policy", "", facts(floorVerify), "", verified, verified, []Rule{OperatorFloor}},
	{"operator floor encrypt, testing", "", facts(floorEncrypt, testingMode), "", TLS, verified, []Rule{STSTesting, OperatorFloor}},
	{"operator floor dane, secure MX with usable TLSA", "DANE-2.2-05", facts(floorDANE, secureMX, usable), "", TLS | DANE, TLS | DANE, []Rule{DANEUsable, OperatorFloor}},
	{"operator floor dane, a fixed host with usable TLSA", "", facts(floorDANE, direct, usable), "", TLS | DANE, TLS | DANE, []Rule{DANEUsable, OperatorFloor}},
	{"operator floor dane, insecure MX with usable TLSA: wait", "DANE-2.2.1-04", facts(floorDANE, usable), DANERequired, TLS | DANE, TLS | DANE, []Rule{DANEUsable, OperatorFloor}},
	{"operator floor dane, only unusable TLSA: wait", "DANE-6-01", facts(floorDANE, secureMX, unusable), DANERequired, TLS | DANE, TLS | DANE, []Rule{DANEUnusable, OperatorFloor}},
	{"operator floor dane, no TLSA: wait", "DANE-6-01", facts(floorDANE, secureMX), DANERequired, TLS | DANE, TLS | DANE, []Rule{OperatorFloor}},
	{"operator floor dane, TLSA lookup failed: wait", "", facts(floorDANE, secureMX, tlsaFailed), TLSALookupFailed, TLS | DANE, TLS | DANE, []Rule{DANEFailed, OperatorFloor}},

	// What the operator lowers.
	{"override of STS, enforce: opportunistic, reported", "", facts(overrideSTS, enforce), "", 0, verified, []Rule{STSEnforce, OverrideSTS}},
	{"override of STS, enforce, MX not named", "", facts(overrideSTS, enforce, unlisted), "", 0, verified, []Rule{STSEnforce, STSUnlisted, OverrideSTS}},
	{"override of STS, discovery failed, in grace", "", facts(overrideSTS, inGraceNow), "", 0, 0, []Rule{STSUnknown, OverrideSTS}},
	{"override of STS leaves DANE alone", "", facts(overrideSTS, enforce, usable), "", TLS | DANE, TLS | PKIX | DANE, []Rule{STSEnforce, OverrideSTS, DANEUsable}},
	{"override of DANE, usable TLSA", "", facts(overrideDANE, usable), "", 0, TLS | DANE, []Rule{DANEUsable, OverrideDANE}},
	{"override of DANE, TLSA lookup failed", "", facts(overrideDANE, tlsaFailed), "", 0, 0, []Rule{DANEFailed, OverrideDANE}},
	{"override of DANE leaves STS alone", "", facts(overrideDANE, enforce, usable), "", verified, TLS | PKIX | DANE, []Rule{STSEnforce, DANEUsable, OverrideDANE}},
	{"override of STS, operator floor encrypt", "", facts(overrideSTS, enforce, floorEncrypt), "", TLS, verified, []Rule{STSEnforce, OverrideSTS, OperatorFloor}},
	{"override of STS, REQUIRETLS: the sender's demand stays", "", facts(overrideSTS, enforce, require), "", verified | RequireTLS, verified | RequireTLS, []Rule{STSEnforce, OverrideSTS, MessageRequire}},
	{"override of STS, REQUIRETLS, MX not named: not contacted", "", facts(overrideSTS, enforce, unlisted, require), MXNotListed, 0, verified, []Rule{STSEnforce, STSUnlisted, OverrideSTS, MessageRequire}},
	{"override of DANE, REQUIRETLS, secure MX with usable TLSA: the certificate counts", "", facts(overrideDANE, require, secureMX, usable), "", verified | RequireTLS, TLS | PKIX | DANE | RequireTLS, []Rule{DANEUsable, OverrideDANE, MessageRequire}},

	// Audit mode.
	{"audit, enforce: all wanted, nothing needed", "", facts(audit, enforce), "", 0, verified, []Rule{STSEnforce, AuditOnly}},
	{"audit, enforce, MX not named: contacted", "", facts(audit, enforce, unlisted), "", 0, verified, []Rule{STSEnforce, STSUnlisted, AuditOnly}},
	{"audit, discovery failed, in grace: contacted", "", facts(audit, inGraceNow), "", 0, 0, []Rule{STSUnknown, AuditOnly}},
	{"audit, usable TLSA and enforce", "", facts(audit, enforce, usable), "", 0, TLS | PKIX | DANE, []Rule{STSEnforce, AuditOnly, DANEUsable}},
	{"audit, only unusable TLSA", "", facts(audit, unusable), "", 0, TLS, []Rule{DANEUnusable, AuditOnly}},
	{"audit, TLSA lookup failed: contacted", "", facts(audit, tlsaFailed), "", 0, 0, []Rule{DANEFailed, AuditOnly}},
	{"audit, operator floor verify: the floor stays", "X-07", facts(audit, enforce, floorVerify), "", verified, verified, []Rule{STSEnforce, AuditOnly, OperatorFloor}},
	{"audit, REQUIRETLS: the sender's demand stays", "RTLS-4.2.1-02", facts(audit, enforce, require), "", verified | RequireTLS, verified | RequireTLS, []Rule{STSEnforce, AuditOnly, MessageRequire}},
	{"audit, REQUIRETLS, insecure MX, no policy: impossible", "RTLS-4.2.1-02", facts(audit, require), RequireTLSMissing, 0, 0, []Rule{MessageRequire}},
}

func TestDecide(t *testing.T) {
	seen := map[string]bool{}
	for _, row := range decisionTable {
		if seen[row.name] {
			t.Errorf("two rows are called %q", row.name)
		}
		seen[row.name] = true
		t.Run(strings.TrimSpace(row.ids+" "+row.name), func(t *testing.T) {
			d := Decide(row.facts)
			if d.Need != row.need || d.Want != row.want {
				t.Errorf("needs %q and wants %q; should need %q and want %q", d.Need, d.Want, row.need, row.want)
			}
			if skipReason(d) != row.skip {
				t.Errorf("skips for %q, should for %q", skipReason(d), row.skip)
			}
			if !slices.Equal(d.Reasons, row.reasons) {
				t.Errorf("heard %q, should %q", d.Reasons, row.reasons)
			}
		})
	}
}

func skipReason(d Decision) Reason {
	if d.Skip == nil {
		return ""
	}
	return d.Skip.Reason
}

func TestDecideSkip(t *testing.T) {
	tests := []struct {
		name  string
		facts Facts
		want  Error
	}{
		{"STS-5.1-05 STS-5-05 STS-8.4-02 a host that is not listed is a temporary failure: the text names domain, policy and host", facts(enforce, unlisted), Error{Reason: MXNotListed, Code: 451, Enhanced: [3]int{4, 4, 8},
			Text: "the mta-sts policy of example.com (enforce, id=20261101) does not name mx.elsewhere.example", RFC: "RFC 8461, Section 4.1"}},
		{"STS-3.1-16 discovery in grace is temporary", facts(inGraceNow), Error{Reason: DiscoveryFailed, Code: 451, Enhanced: [3]int{4, 4, 3},
			Text: "whether example.com has an mta-sts policy could not be looked up", RFC: "RFC 8461, Section 3.1"}},
		{"RTLS-4.2.1-03 impossible REQUIRETLS is permanent", facts(require), Error{Reason: RequireTLSMissing, Permanent: true, Code: 550, Enhanced: [3]int{5, 7, 30},
			Text: "REQUIRETLS needs an authentic name for mx1.example.com: example.com has neither an enforced mta-sts policy nor DNSSEC-signed MX records", RFC: "RFC 8689, Section 4.2.1"}},
		{"RTLS-4.2.1-04 REQUIRETLS in doubt is temporary", facts(require, fetchFailed), Error{Reason: RequireTLSUnknown, Code: 451, Enhanced: [3]int{4, 7, 10},
			Text: "REQUIRETLS needs an authentic name for mx1.example.com, and whether example.com has an mta-sts policy is not known now", RFC: "RFC 8689, Section 4.2.1"}},
		{"DANE-2.2-04 a TLSA lookup error is temporary", facts(tlsaFailed), Error{Reason: TLSALookupFailed, Code: 451, Enhanced: [3]int{4, 4, 3},
			Text: "the TLSA records of mx1.example.com could not be looked up", RFC: "RFC 7672, Section 2.1.2"}},
		{"DANE-2.2-04 a bogus TLSA is temporary", facts(tlsaBogus), Error{Reason: DNSBogus, Code: 451, Enhanced: [3]int{4, 4, 3},
			Text: "DNSSEC validation of the TLSA records of mx1.example.com failed", RFC: "RFC 7672, Section 2.1.2"}},
		{"DANE-6-01 mandatory DANE without records is temporary", facts(floorDANE), Error{Reason: DANERequired, Code: 451, Enhanced: [3]int{4, 7, 5},
			Text: "this relay demands DANE for example.com, and mx1.example.com has no usable TLSA record that DNSSEC vouches for all the way", RFC: "RFC 7672, Section 6"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want := tt.want
			want.MX = tt.facts.MX
			got := Decide(tt.facts).Skip
			if got == nil || *got != want {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
			if got.Stage != StagePlan {
				t.Errorf("stage %s", got.Stage)
			}
		})
	}
}

func TestDecideWithoutValidation(t *testing.T) {
	unknown := facts(tlsaFailed, func(f *Facts) { f.TLSAErr = errNotValidated })
	t.Run("DANE-2.1.1-01 a resolver that does not validate is named as the cause", func(t *testing.T) {
		if d := Decide(unknown); d.Skip == nil || d.Skip.Reason != NotValidating || d.Skip.Permanent || !strings.Contains(d.Skip.Text, "does not validate") {
			t.Errorf("%v", d.Skip)
		}
	})
	t.Run("and an override lifts it as it lifts all of DANE", func(t *testing.T) {
		f := unknown
		f.Override.DANE = true
		if d := Decide(f); d.Skip != nil {
			t.Errorf("%v", d.Skip)
		}
	})
}

func TestDecidePattern(t *testing.T) {
	tests := []struct {
		name  string
		facts Facts
		want  stscache.Pattern
	}{
		{"STS-5.1-06 the matched pattern is kept with the decision", facts(enforce), "*.example.com"},
		{"the pattern is kept in testing mode too", facts(testingMode), "*.example.com"},
		{"no pattern names the host", facts(enforce, unlisted), ""},
		{"mode none matches nothing", facts(noneMode), ""},
		{"STS-4.1-01 the name in the MX record is matched and not the name it is an alias of", facts(enforce, usable), "*.example.com"},
		{"STS-4.1-01 an alias of a listed name is not listed", facts(enforce, usable, unlisted, func(f *Facts) { f.TLSABase = listedMX }), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := Decide(tt.facts).Pattern; got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestDecideSNI(t *testing.T) {
	tests := []struct {
		name  string
		facts Facts
		want  string
	}{
		{"STS-7.1-01 without DANE it is the MX name", facts(enforce), "mx1.example.com"},
		{"DANE-8.1-01 with usable TLSA it is the base domain", facts(usable), "mail.provider.example"},
		{"DANE-8.1-01 with unusable TLSA it is the base domain", facts(unusable), "mail.provider.example"},
		{"X-05 the base domain wins where both policies apply", facts(usable, enforce), "mail.provider.example"},
		{"lowered DANE does not change it", facts(usable, overrideDANE), "mail.provider.example"},
		{"after a failed TLSA lookup it is the MX name", facts(tlsaFailed, ignore), "mx1.example.com"},
		{"TLSV-6066-01 an address literal has none", facts(literal), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := Decide(tt.facts).SNI; got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestWords(t *testing.T) {
	tests := map[fmt.Stringer]string{
		Requirement(0): "", TLS: "TLS", TLS | PKIX: "TLS PKIX", DANE | RequireTLS: "DANE REQUIRETLS", TLS | PKIX | DANE | RequireTLS: "TLS PKIX DANE REQUIRETLS",
		Default: "default", Require: "require", Ignore: "ignore", Prefer: "prefer", Demand(4): "unknown",
		TLSAAbsent: "absent", TLSAUsable: "usable", TLSAUnusable: "unusable", TLSAFailed: "failed", TLSAState(4): "unknown",
	}
	for v, want := range tests {
		if v.String() != want {
			t.Errorf("%T is %q, want %q", v, v, want)
		}
	}
}

func BenchmarkDecide(b *testing.B) {
	f := facts(enforce, usable, require, secureMX)
	b.ReportAllocs()
	for b.Loop() {
		Decide(f)
	}
}

var update = flag.Bool("update", false, "rewrite the golden files")

// decisionMarkdown is the decision table as docs/architecture.md shows it.
func decisionMarkdown() string {
	var b strings.Builder
	b.WriteString("| facts | contact | Need | Want |\n|---|---|---|---|\n")
	for _, row := range decisionTable {
		contact := ""
		if row.skip != "" {
			contact = fmt.Sprintf("no: `%s` %s", row.skip, enhancedText(row.skip.Info().Enhanced))
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", row.name, contact, row.need, row.want)
	}
	return b.String()
}

func enhancedText(e [3]int) string { return fmt.Sprintf("%d.%d.%d", e[0], e[1], e[2]) }

// Where the table is kept, and shown between two markers.
const (
	tableFile = "testdata/decision-table.md"
	tableDoc  = "../docs/architecture.md"
	tableTop  = "<!-- decision table: begin -->\n"
	tableEnd  = "<!-- decision table: end -->"
)

func TestDecisionTableInDocs(t *testing.T) {
	table := decisionMarkdown()
	doc := readFile(t, tableDoc)
	before, rest, found := strings.Cut(doc, tableTop)
	_, after, ended := strings.Cut(rest, tableEnd)
	if !found || !ended {
		t.Fatalf("%s lacks the markers of the decision table", tableDoc)
	}
	want := before + tableTop + table + tableEnd + after
	if *update {
		writeFile(t, tableFile, table)
		writeFile(t, tableDoc, want)
		return
	}
	if readFile(t, tableFile) != table || doc != want {
		t.Errorf("%s and %s do not show the decision table as it is; run go test ./delivery -run %s -update", tableFile, tableDoc, t.Name())
	}
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func writeFile(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
