// Package delivery makes attempts to hand messages to the MX hosts of one
// destination. It decides what each host must show, converses with it, and
// says of every recipient what became of it. It never sleeps until later,
// never retries tomorrow and never writes to disk.
package delivery

import (
	"errors"
	"slices"
	"strings"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/internal/resolver"
	"stsrelay/stscache"
	"stsrelay/tlsrpt"
)

// A Requirement is a set of things a connection must achieve before mail is
// handed over. The zero value is opportunistic TLS (RFC 7435).
type Requirement uint8

const (
	TLS        Requirement = 1 << iota // STARTTLS succeeded
	PKIX                               // certificate valid for the MX name (RFC 8461, Section 4.2)
	DANE                               // certificate matches a usable TLSA record (RFC 7672)
	RequireTLS                         // the MX offers REQUIRETLS (RFC 8689)
)

// String names the bits: "TLS PKIX", "" for none.
func (r Requirement) String() string {
	var s []string
	for i, name := range []string{"TLS", "PKIX", "DANE", "REQUIRETLS"} {
		if r&(1<<i) != 0 {
			s = append(s, name)
		}
	}
	return strings.Join(s, " ")
}

// A Demand is what the message itself asks of TLS.
type Demand uint8

const (
	Default Demand = iota
	Require        // MAIL parameter REQUIRETLS (RFC 8689, Section 2)
	Ignore         // "TLS-Required: No", and TLS reports (RFC 8689, Section 3; RFC 8460, Section 3)
	Prefer         // REQUIRETLS of a bounce: as Require where a host can promise it, else as Default (RFC 8689, Section 5; ledger RTLS-5-03)
)

// String is the word in logs.
func (d Demand) String() string {
	return word(d, "default", "require", "ignore", "prefer")
}

// TLSAState is what DNS says of an MX host's TLSA records (RFC 7672, Section 2.2).
type TLSAState uint8

const (
	TLSAAbsent   TLSAState = iota // proven absent, or insecure: DANE does not apply
	TLSAUsable                    // secure, at least one usable record
	TLSAUnusable                  // secure, none usable: TLS without authentication
	TLSAFailed                    // lookup error: the host must not be used
)

// String is the word in logs.
func (s TLSAState) String() string {
	return word(s, "absent", "usable", "unusable", "failed")
}

// word is the name of one of a closed set of numbers.
func word[T ~uint8](n T, words ...string) string {
	if int(n) >= len(words) {
		return "unknown"
	}
	return words[n]
}

// Facts is all that is known about one MX host before it is contacted.
type Facts struct {
	Domain   addr.Domain     // the Policy Domain; zero for an address literal
	MX       addr.Host       // as named by the MX record, never a CNAME's target; zero for an address literal
	Direct   bool            // no MX record led here: the operator's fixed host, or the domain itself; nobody can have forged the name
	MXSecure bool            // the MX RRset was DNSSEC-secure (RFC 8689, RFC 7672)
	STS      stscache.Status // doubt included: a failed lookup is not "no policy"
	InGrace  bool            // discovery failed so recently that mail should wait (ledger STS-3.1-16)
	TLSA     TLSAState
	TLSABase addr.Host       // TLSA base domain, with TLSAUsable and TLSAUnusable
	Names    []addr.Host     // reference identifiers for DANE-TA records, TLSABase first (RFC 7672, Section 3.2.2)
	Records  []resolver.TLSA // the secure TLSA RRset, sorted, usable or not
	Bogus    bool            // TLSAFailed because DNSSEC validation failed
	TLSAErr  error           // why, with TLSAFailed; may be nil
	Demand   Demand          // what the message asks
	Floor    Requirement     // the operator's minimum for this destination; no message lifts it
	Override Override
	Rules    Rules
}

// An Override is the operator's word that a source of demand is lowered for a
// domain: its bits leave Need, never Want (ledger X-12).
type Override struct {
	STS, DANE bool
	Reason    string
	Until     time.Time // zero: no end; a Plan made later is without it
}

// Rules are settings that change rules.
type Rules struct {
	DANESupersedes bool // [sts] dane_supersedes: usable TLSA lifts STS enforce (ledger X-04)
	Audit          bool // [delivery] enforcement = "audit": what domains publish is wanted, never needed
}

// A Rule is a source of demand that spoke in a Decision, or one that lowered
// another. The set is closed; the string is what logs and `check` show.
type Rule string

// The rules, in the order in which they speak.
const (
	STSUnknown     Rule = "sts-unknown"       // discovery failed: whether there is a policy cannot be told
	STSEnforce     Rule = "sts-enforce"       // RFC 8461, Section 5
	STSTesting     Rule = "sts-testing"       // evaluates and reports, demands nothing
	STSNone        Rule = "sts-none"          // as though there were no policy
	STSUnlisted    Rule = "sts-mx-not-listed" // the policy does not name the host
	DANEUsable     Rule = "dane"              // RFC 7672, Section 2.2
	DANEUnusable   Rule = "dane-unusable"     // TLS, unauthenticated
	DANEFailed     Rule = "dane-unknown"      // lookup error
	MessageRequire Rule = "requiretls"        // RFC 8689, Section 2
	OperatorFloor  Rule = "floor"             // [[route]] tls
	MessageIgnore  Rule = "tls-required-no"   // lowers: RFC 8689, Section 3
	OverrideSTS    Rule = "override-sts"      // lowers
	OverrideDANE   Rule = "override-dane"     // lowers
	AuditOnly      Rule = "audit"             // lowers
	DANESupersedes Rule = "dane-supersedes"   // lowers STS, where DANE is demanded
)

// A Decision says what is required of one MX host, and why.
type Decision struct {
	Facts   Facts
	SNI     string           // the TLSA base domain where DANE applies, else the MX name; "" for an address literal
	Skip    *Error           // not nil: do not contact this host at all
	Need    Requirement      // missing any of these stops delivery through this host
	Want    Requirement      // missing any of these is reported; Need is always a subset
	Pattern stscache.Pattern // the mx pattern that named the host, "" if none did
	Reasons []Rule           // every rule that spoke, in the order it spoke

	claims []claim // who added what to Need
}

// A claim is what one rule needs.
type claim struct {
	by   Rule
	need Requirement
}

// Decide says what is required of a host. It is pure: no clock, no network, no
// log. Each source of demand adds its bits and knows nothing of the others; the
// first to say that the host must not be contacted is heard.
func Decide(f Facts) Decision {
	d := Decision{Facts: f, SNI: f.sni()}
	d.sts()
	d.dane()
	d.requireTLS()
	d.floor()
	return d
}

// sni is the MX name (RFC 8461, Section 7.1), or the TLSA base domain where
// there are TLSA records (RFC 7672, Section 8.1; ledger X-05).
func (f Facts) sni() string {
	if f.TLSA == TLSAUsable || f.TLSA == TLSAUnusable {
		return f.TLSABase.String()
	}
	return f.MX.String()
}

// sts hears the policy of the domain (RFC 8461, Section 5). Testing mode adds
// to Want only: that is the whole difference between watching and enforcing.
// Names are matched as the MX record has them (Section 4.1).
func (d *Decision) sts() {
	f := d.Facts
	p := f.STS.Policy
	if f.Domain.IsZero() { // address literals have none (Section 3.4; ledger STS-3.4-02)
		return
	}
	if p == nil {
		d.noPolicy()
		return
	}
	if p.Mode == stscache.None {
		d.say(STSNone)
		return
	}
	d.Want |= TLS | PKIX
	var listed bool
	d.Pattern, listed = p.MatchPattern(f.MX)
	if p.Mode == stscache.Testing {
		d.say(STSTesting)
	} else {
		d.say(STSEnforce)
	}
	if !listed {
		d.say(STSUnlisted)
	}
	if p.Mode == stscache.Testing || d.superseded() || d.lowered(f.Override.STS, OverrideSTS) {
		return
	}
	d.need(STSEnforce, TLS|PKIX)
	if !listed {
		d.skip(MXNotListed, "the "+f.policyName()+" does not name "+f.MX.String())
	}
}

// noPolicy hears that there is no policy in force. That one could be there is a
// reason to wait, for a while: afterwards mail goes as without policy, or
// whoever can block DNS could block mail (ledger STS-3.1-16).
func (d *Decision) noPolicy() {
	f := d.Facts
	if !errors.Is(f.STS.Err, stscache.ErrLookup) {
		return
	}
	d.say(STSUnknown)
	if f.InGrace && !d.lowered(f.Override.STS, OverrideSTS) {
		d.skip(DiscoveryFailed, "whether "+f.Domain.String()+" has an mta-sts policy could not be looked up")
	}
}

// superseded reports whether the operator lets DANE stand for STS here: only
// where DANE is really demanded (ledger X-04).
func (d *Decision) superseded() bool {
	f := d.Facts
	if !f.Rules.DANESupersedes || f.TLSA != TLSAUsable || f.Override.DANE {
		return false
	}
	d.say(DANESupersedes)
	return true
}

// dane hears the TLSA records of the host (RFC 7672, Section 2.2). What could
// not be looked up may be there: such a host is as good as unreachable
// (Section 2.1.2).
func (d *Decision) dane() {
	f := d.Facts
	switch f.TLSA {
	case TLSAAbsent:
		return
	case TLSAUsable:
		d.say(DANEUsable)
		d.Want |= TLS | DANE
	case TLSAUnusable:
		d.say(DANEUnusable)
		d.Want |= TLS
	default:
		d.say(DANEFailed)
	}
	if d.lowered(f.Override.DANE, OverrideDANE) {
		return
	}
	switch {
	case f.TLSA == TLSAUsable:
		d.need(DANEUsable, TLS|DANE)
	case f.TLSA == TLSAUnusable:
		d.need(DANEUnusable, TLS)
	case errors.Is(f.TLSAErr, errNotValidated):
		d.skip(NotValidating, f.TLSAErr.Error()+": "+f.MX.String())
	case f.Bogus:
		d.skip(DNSBogus, "DNSSEC validation of the TLSA records of "+f.MX.String()+" failed"+f.tlsaCause())
	default:
		d.skip(TLSALookupFailed, "the TLSA records of "+f.MX.String()+" could not be looked up"+f.tlsaCause())
	}
}

// tlsaCause is what DNS said of a failed lookup, for people.
func (f Facts) tlsaCause() string {
	if f.TLSAErr == nil {
		return ""
	}
	return ": " + tlsrpt.Clean(f.TLSAErr.Error())
}

// requireTLS hears the sender (RFC 8689, Section 4.2.1): the name of the host
// must be authentic, by DNSSEC or by an enforced policy (testing does not count,
// ledger RTLS-2-03), its certificate valid for that name, and REQUIRETLS
// offered. Nothing lowers it: the sender was promised as much.
func (d *Decision) requireTLS() {
	f := d.Facts
	if f.Demand != Require {
		return
	}
	d.say(MessageRequire)
	enforce := f.enforced()
	switch {
	case f.MX.IsZero():
		d.skip(RequireTLSMissing, "REQUIRETLS needs a host name, and an address literal has none")
	case f.Direct, f.MXSecure, enforce && d.Pattern != "":
		d.need(MessageRequire, TLS|RequireTLS|f.authentication())
	case enforce:
		d.skip(MXNotListed, "the "+f.policyName()+" does not name "+f.MX.String()+", which REQUIRETLS demands")
	case f.stsInDoubt():
		d.skip(RequireTLSUnknown, "REQUIRETLS needs an authentic name for "+f.MX.String()+", and whether "+f.Domain.String()+" has an mta-sts policy is not known now")
	default:
		d.skip(RequireTLSMissing, "REQUIRETLS needs an authentic name for "+f.MX.String()+": "+f.Domain.String()+" has neither an enforced mta-sts policy nor DNSSEC-signed MX records")
	}
}

// enforced reports whether a policy in enforce mode is in force. A mode that is
// neither of the two weaker ones is taken for the strong one.
func (f Facts) enforced() bool {
	p := f.STS.Policy
	return p != nil && p.Mode != stscache.None && p.Mode != stscache.Testing
}

// authentication is what shows that the host with an authentic name is the one
// talked to: DANE where it applies, else the certificate authorities.
func (f Facts) authentication() Requirement {
	if f.TLSA == TLSAUsable && !f.Override.DANE {
		return DANE
	}
	return PKIX
}

// stsInDoubt reports whether a policy that enforces could exist in spite of
// what is known.
func (f Facts) stsInDoubt() bool {
	switch err := f.STS.Err; {
	case err == nil:
		return false
	case errors.Is(err, stscache.ErrNoRecord), errors.Is(err, stscache.ErrManyRecords), errors.Is(err, stscache.ErrRecordSyntax):
		return false
	}
	return true
}

// floor hears the operator. No message lifts it and neither does audit mode: it
// is the operator's word about this one destination (ledger X-07). Mandatory
// DANE without anything to match, or by MX records that anybody could have
// forged, means to wait (RFC 7672, Sections 2.2.1 and 6).
func (d *Decision) floor() {
	f := d.Facts
	if f.Floor == 0 {
		return
	}
	d.say(OperatorFloor)
	d.need(OperatorFloor, f.Floor|TLS)
	if f.Floor&DANE != 0 && (f.TLSA != TLSAUsable || !f.MXSecure && !f.Direct) {
		d.skip(DANERequired, "this relay demands DANE for "+f.Domain.String()+", and "+f.MX.String()+" has no usable TLSA record that DNSSEC vouches for all the way")
	}
}

// lowered reports whether what a domain publishes is not insisted upon, and
// says by whose word. What is lowered stays in Want.
func (d *Decision) lowered(override bool, by Rule) bool {
	switch {
	case d.Facts.Demand == Ignore:
		d.say(MessageIgnore)
	case override:
		d.say(by)
	case d.Facts.Rules.Audit:
		d.say(AuditOnly)
	default:
		return false
	}
	return true
}

func (d *Decision) need(by Rule, r Requirement) {
	d.claims = append(d.claims, claim{by, r})
	d.Need |= r
	d.Want |= r
}

func (d *Decision) say(r Rule) {
	if !slices.Contains(d.Reasons, r) {
		d.Reasons = append(d.Reasons, r)
	}
}

func (d *Decision) skip(r Reason, text string) {
	if d.Skip == nil {
		d.Skip = NewError(StagePlan, r, d.Facts.MX, text)
	}
}

// policyName is the policy as texts name it (ledger STS-5.1-05).
func (f Facts) policyName() string {
	return "mta-sts policy of " + f.Domain.String() + " (" + policyText(f.STS, ", ") + ")"
}

// policyText is mode and id of the policy in force; without a record there is
// no id.
func policyText(st stscache.Status, sep string) string {
	s := string(st.Policy.Mode)
	if st.ID != "" {
		s += sep + "id=" + st.ID
	}
	return s
}
