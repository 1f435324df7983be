package stscache

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"stsrelay/internal/addr"
)

// keep decodes an entry. A stored policy was parsed before it was stored; one
// that this version cannot read counts as never fetched.
func keep(e Entry) *kept {
	k := &kept{id: e.ID, fetched: e.Fetched, used: e.Used, failedID: e.FailedID, failedAt: e.FailedAt,
		failures: e.Failures, failure: e.Failure}
	if e.Body != nil {
		if p, lines, err := ParsePolicy(e.Body); err == nil {
			k.policy, k.lines = p, lines
		}
	}
	return k
}

// failureError is the last failure as an error of Status. Stores keep its text
// only, and that begins with the error's own.
func (k *kept) failureError() error {
	if k.failureKind != nil {
		return k.failureKind
	}
	for _, kind := range []error{ErrWebPKI, ErrTooLarge, ErrPolicySyntax, ErrFetch} {
		if rest, ok := strings.CutPrefix(k.failure, kind.Error()); ok {
			return fmt.Errorf("%w%s", kind, rest)
		}
	}
	return fmt.Errorf("%w: %s", ErrFetch, k.failure)
}

// status is what is known now, with why nothing newer could be had.
func (k *kept) status(err error, now time.Time) Status {
	s := Status{Err: err}
	if k.live(now) {
		s.Policy, s.ID, s.Lines, s.Fetched, s.Expires = k.policy, k.id, k.lines, k.fetched, k.expires()
	}
	return s
}

// mode is that of the policy in force, "" without one.
func (k *kept) mode(now time.Time) Mode {
	if !k.live(now) {
		return ""
	}
	return k.policy.Mode
}

// same reports whether two say the same of hosts.
func same(a, b Status) bool {
	switch {
	case a.Policy == nil || b.Policy == nil:
		return a.Policy == b.Policy
	case a.Policy.Mode != b.Policy.Mode || len(a.Policy.MX) != len(b.Policy.MX):
		return false
	}
	for i, q := range a.Policy.MX {
		if q != b.Policy.MX[i] {
			return false
		}
	}
	return true
}

// A discovery remembers since when a domain's record cannot be looked up
// (ledger STS-3.1-16).
type discovery struct{ first, last time.Time }

// forgetFailure is how long after a failed lookup another one is a new failure
// and not the same.
const forgetFailure = time.Hour

// failing notes a failed lookup and returns when the failures began.
func (c *Cache) failing(domain addr.Domain, err error, now time.Time) time.Time {
	if !errors.Is(err, ErrLookup) {
		c.discoveries.Remove(domain)
		return time.Time{}
	}
	d, ok := c.discoveries.Get(domain)
	if !ok || now.Sub(d.last) > forgetFailure || now.Before(d.first) {
		d.first = now
	}
	d.last = now
	c.discoveries.Add(domain, d)
	return d.first
}
