package stscache

import (
	"strings"
	"time"

	"stsrelay/internal/addr"
)

// Mode is the mode of a policy (RFC 8461, Section 5).
type Mode string

const (
	Enforce Mode = "enforce"
	Testing Mode = "testing"
	None    Mode = "none"
)

// MaxAge is the largest max_age; larger values are cut to it (ledger STS-3.2-09).
const MaxAge = 31557600 * time.Second

// A Policy is a parsed policy file (RFC 8461, Section 3.2).
type Policy struct {
	Mode   Mode
	MaxAge time.Duration // 0 to MaxAge
	MX     []Pattern     // in the order of the file; empty only in mode none
}

// A Pattern is one mx value: a host name, or "*." and a domain, lower case
// (RFC 8461, Section 4.1).
type Pattern string

// Match reports whether the policy names the MX host.
func (p *Policy) Match(mx addr.Host) bool {
	_, ok := p.MatchPattern(mx)
	return ok
}

// MatchPattern returns the first pattern that names the MX host.
func (p *Policy) MatchPattern(mx addr.Host) (Pattern, bool) {
	for _, q := range p.MX {
		if q.Match(mx) {
			return q, true
		}
	}
	return "", false
}

// Match compares label by label; "*" stands for exactly one whole left-most
// label (ledger STS-4.1-02, STS-4.1-03).
func (q Pattern) Match(mx addr.Host) bool {
	name := mx.String()
	if suffix, ok := strings.CutPrefix(string(q), "*."); ok {
		_, rest, found := strings.Cut(name, ".")
		return found && rest == suffix
	}
	return name == string(q)
}
