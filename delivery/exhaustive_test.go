package delivery

import (
	"crypto/tls"
	"errors"
	"fmt"
	"iter"
	"testing"

	"stsrelay/stscache"
	"stsrelay/tlsrpt"
)

// everyFacts yields every combination of facts that Decide tells apart. The
// records of a policy and of DANE are the same throughout.
func everyFacts() iter.Seq[Facts] {
	type change = func(*Facts)
	nothing := func(*Facts) {}
	dimensions := [][]change{
		{nothing, noneMode, testingMode, enforce},
		{nothing, unlisted},
		{nothing, inGraceNow, lookupFailed, fetchFailed},
		{nothing, usable, unusable, tlsaFailed, tlsaBogus},
		{nothing, secureMX, func(f *Facts) { f.Direct = true }},
		{nothing, require, ignore},
		{nothing, floorEncrypt, floorVerify, floorDANE},
		{nothing, overrideSTS}, {nothing, overrideDANE}, {nothing, audit}, {nothing, supersedes},
	}
	return func(yield func(Facts) bool) {
		var walk func(f Facts, rest [][]change) bool
		walk = func(f Facts, rest [][]change) bool {
			if len(rest) == 0 {
				return yield(f)
			}
			for _, c := range rest[0] {
				g := f
				c(&g)
				if !walk(g, rest[1:]) {
					return false
				}
			}
			return true
		}
		walk(facts(), dimensions)
	}
}

var (
	badCert  = &certError{result: tlsrpt.CertificateExpired, reason: CertExpired, code: "expired", text: "its certificate expired on 2026-01-01"}
	badMatch = &certError{result: tlsrpt.ValidationFailure, reason: DANEMismatch, code: "dane-no-match", text: "no TLSA record matches"}
	errReset = errors.New("tls: something broke")
	someTLS  = &tls.ConnectionState{Version: tls.VersionTLS13, HandshakeComplete: true}
)

// overTLS is the evidence of a connection to the host of f on which all went
// well, with the changes made.
func overTLS(f Facts, change ...func(*Evidence)) Evidence {
	e := Evidence{Offered: true, State: someTLS, PKIXFor: f.MX, DANEFor: f.Records, RequireTLS: true}
	for _, c := range change {
		c(&e)
	}
	return e
}

// everyEvidence yields every outcome of a connection that Judge tells apart.
func everyEvidence(f Facts) []Evidence {
	out := []Evidence{
		{TLSErr: errNotOffered},
		{TLSErr: errInClear},
		{Offered: true, TLSErr: &startTLSRefused{Code: 454, Text: "later"}},
		{Offered: true, TLSErr: errReset},
	}
	for i := range 8 {
		out = append(out, overTLS(f, func(e *Evidence) {
			if i&1 != 0 {
				e.PKIXErr = badCert
			}
			if i&2 != 0 {
				e.DANEErr = badMatch
			}
			e.RequireTLS = i&4 == 0
		}))
	}
	return append(out,
		overTLS(f, func(e *Evidence) { e.PKIXFor = baseHost }),  // verified for another host
		overTLS(f, func(e *Evidence) { e.DANEFor = nil }),       // not verified by the records
		overTLS(f, func(e *Evidence) { e.DANEName = baseHost })) // by a name that is not among those of the domain
}

// allows says whether mail may go, in the words of the ledger and not in those
// of Decide and Judge: what binds, and whether the connection has it.
func allows(f Facts, e Evidence) bool {
	var (
		lifted  = f.Demand == Ignore || f.Rules.Audit
		enforce = f.STS.Policy != nil && f.STS.Policy.Mode == stscache.Enforce
		listed  = f.MX == listedMX
		usable  = f.TLSA == TLSAUsable
		daneOn  = !lifted && !f.Override.DANE
		stsOn   = !lifted && !f.Override.STS && !(f.Rules.DANESupersedes && daneOn && usable)
		genuine = f.MXSecure || f.Direct
		secret  = e.State != nil
		valid   = secret && e.PKIXErr == nil && e.PKIXFor == f.MX
		matched = secret && e.DANEErr == nil && usable && len(e.DANEFor) > 0 && e.DANEName.IsZero()
	)
	switch {
	case stsOn && enforce && !(listed && valid):
		return false
	case f.InGrace && f.STS.Policy == nil && !lifted && !f.Override.STS:
		return false
	case daneOn && f.TLSA == TLSAFailed:
		return false
	case daneOn && usable && !matched:
		return false
	case daneOn && f.TLSA == TLSAUnusable && !secret:
		return false
	case f.Floor != 0 && !secret:
		return false
	case f.Floor&PKIX != 0 && !valid:
		return false
	case f.Floor&DANE != 0 && !(matched && genuine):
		return false
	case f.Demand == Require && !(secret && e.RequireTLS):
		return false
	case f.Demand == Require && !(genuine || enforce && listed):
		return false
	case f.Demand == Require && usable && !f.Override.DANE: // RFC 7672: WebPKI is no substitute
		return matched
	case f.Demand == Require:
		return valid
	}
	return true
}

func TestNoDowngrade(t *testing.T) {
	t.Run("X-07 X-02 X-03 X-06 X-08 no combination of facts and evidence lets mail through that something stops, or stops what nothing does", func(t *testing.T) {
		n, passed := 0, 0
		for f := range everyFacts() {
			d := Decide(f)
			for _, e := range everyEvidence(f) {
				v := d.Judge(e)
				n++
				goes := v.Proceed || v.Redial
				if goes {
					passed++
				}
				if want := allows(f, e); goes != want {
					t.Fatalf("%s\ngoes: %v, should: %v\nneed %q, skip %v, missing %q", describe(f, e), goes, want, d.Need, d.Skip, v.Missing)
				}
				if fault := incoherent(d, e, v); fault != "" {
					t.Fatalf("%s\n%s: %+v", describe(f, e), fault, v)
				}
			}
		}
		t.Logf("%d combinations, %d go", n, passed)
	})
	t.Run("RTLS-5-03 what would like REQUIRETLS demands what others do", func(t *testing.T) {
		for f := range everyFacts() {
			if f.Demand != Default {
				continue
			}
			plain := Decide(f)
			f.Demand = Prefer
			if d := Decide(f); d.Need != plain.Need || d.Want != plain.Want || (d.Skip == nil) != (plain.Skip == nil) {
				t.Fatalf("%s\nneeds %q and not %q, skip %v", describe(f, Evidence{}), d.Need, plain.Need, d.Skip)
			}
		}
	})
	t.Run("whoever lowers something, what is wanted stays the same", func(t *testing.T) {
		for f := range everyFacts() {
			d := Decide(f)
			if d.Need&^d.Want != 0 {
				t.Fatalf("%s\nneeds %q and wants %q", describe(f, Evidence{}), d.Need, d.Want)
			}
			if f.Demand == Require { // adds what stays when the policy does not
				continue
			}
			f.Override, f.Rules, f.Demand = Override{}, Rules{}, Default
			if plain := Decide(f); plain.Want != d.Want {
				t.Fatalf("%s\nwants %q, and %q when lowered", describe(f, Evidence{}), plain.Want, d.Want)
			}
		}
	})
}

// incoherent says how the parts of a verdict contradict each other, "" if they
// do not.
func incoherent(d Decision, e Evidence, v Verdict) string {
	f := d.Facts
	broken := e.State == nil && e.TLSErr == error(errReset)
	binding := f.enforced() && d.Need&PKIX != 0 && f.Demand != Require
	switch {
	case v.Proceed && v.Redial:
		return "both goes on and dials again"
	case v.Proceed && broken:
		return "goes on over a broken connection"
	case v.Redial && !broken:
		return "dials again without a reason"
	case (v.Err == nil) != (v.Proceed || v.Redial):
		return "an error and a go"
	case (v.Proceed || v.Redial) && v.Missing != 0:
		return "goes in spite of what is missing"
	case v.Err != nil && d.Skip == nil && v.Missing == 0:
		return "refuses though nothing is missing"
	case v.Err != nil && v.Err.Permanent && (f.Demand != Require || binding):
		return "a policy makes a permanent failure" // ledger STS-5-05
	case v.Err != nil && (v.Err.Code/100 == 5) != v.Err.Permanent:
		return "the code contradicts the class"
	case v.Err != nil && v.Err.MX != f.MX:
		return "the error does not name the host"
	}
	return ""
}

func describe(f Facts, e Evidence) string {
	mode := "no policy"
	if f.STS.Policy != nil {
		mode = string(f.STS.Policy.Mode)
	}
	return fmt.Sprintf("%s for %s, err %v, grace %v, TLSA %s, secure %v, direct %v, demand %s, floor %q, override %+v, rules %+v\n"+
		"TLS %v (%v), PKIX %v, DANE %v, REQUIRETLS %v", mode, f.MX, f.STS.Err, f.InGrace, f.TLSA, f.MXSecure, f.Direct, f.Demand, f.Floor, f.Override, f.Rules,
		e.State != nil, e.TLSErr, e.PKIXErr, e.DANEErr, e.RequireTLS)
}
