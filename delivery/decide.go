// Package delivery makes attempts to hand messages to the MX hosts of one
// destination. It decides what each host must show, converses with it, and
// says of every recipient what became of it. It never sleeps until later,
// never retries tomorrow and never writes to disk.
package delivery

import (
	"strings"

	"stsrelay/internal/addr"
	"stsrelay/internal/resolver"
	"stsrelay/stscache"
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
)

// TLSAState is what DNS says of an MX host's TLSA records (RFC 7672, Section 2.2).
type TLSAState uint8

const (
	TLSAAbsent   TLSAState = iota // proven absent, or insecure: DANE does not apply
	TLSAUsable                    // secure, at least one usable record
	TLSAUnusable                  // secure, none usable: TLS without authentication
	TLSAFailed                    // lookup error: the host must not be used
)

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
	Records  []resolver.TLSA // the secure TLSA RRset, sorted, usable or not
	Bogus    bool            // TLSAFailed because DNSSEC validation failed
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
}

// Rules are settings that change rules.
type Rules struct {
	DANESupersedes bool // [sts] dane_supersedes: usable TLSA lifts STS enforce (ledger X-04)
	Audit          bool // [delivery] enforcement = "audit": what domains publish is wanted, never needed
}

// A Rule is a source of demand that spoke in a Decision, or one that lowered
// another. The set is closed; the string is what logs and `check` show.
type Rule string

// A Decision says what is required of one MX host, and why.
type Decision struct {
	Facts   Facts
	SNI     string           // the TLSA base domain where DANE applies, else the MX name; "" for an address literal
	Skip    *Error           // not nil: do not contact this host at all
	Need    Requirement      // missing any of these stops delivery through this host
	Want    Requirement      // missing any of these is reported; Need is always a subset
	Pattern stscache.Pattern // the mx pattern that named the host, "" if none did
	Reasons []Rule           // every rule that spoke, in the order it spoke
}

// Decide says what is required of a host. It is pure: no clock, no network, no
// log.
func Decide(f Facts) Decision {
	return Decision{Facts: f}
}
