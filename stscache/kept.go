package stscache

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"stsrelay/internal/addr"
)

// What is kept of a domain, decoded. The zero value is nothing. It is never
// written to once it is made.
type kept struct {
	policy *Policy // nil: none was ever fetched
	lines  []string

	id            string
	fetched, used time.Time
	failedID      string
	failedAt      time.Time
	failures      int
	failure       string // for people
	size          int    // of the policy file
}

// keep decodes an entry. A stored policy was parsed before it was stored; one
// that this version cannot read counts as never fetched.
func keep(e Entry) *kept {
	k := &kept{id: e.ID, fetched: e.Fetched, used: e.Used, failedID: e.FailedID, failedAt: e.FailedAt,
		failures: e.Failures, failure: e.Failure, size: len(e.Body)}
	if e.Body != nil {
		if p, lines, err := ParsePolicy(e.Body); err == nil {
			k.policy, k.lines = p, lines
		}
	}
	return k
}

// entry is what keep decoded. Of the policy file the ends of lines are lost, and
// empty lines.
func (k *kept) entry(domain addr.Domain) Entry {
	e := Entry{Domain: domain, ID: k.id, Fetched: k.fetched, Used: k.used, FailedID: k.failedID, FailedAt: k.failedAt,
		Failures: k.failures, Failure: k.failure}
	if k.policy != nil {
		e.Body = []byte(strings.Join(k.lines, "\r\n") + "\r\n")
	}
	return e
}

// cost is about what k takes in memory, in octets: the file, and the headers of
// its lines and patterns.
func (k *kept) cost() int {
	n := k.size + 16*len(k.lines)
	if k.policy != nil {
		n += 16 * len(k.policy.MX)
	}
	return n
}

func (k *kept) expires() time.Time { return k.fetched.Add(k.policy.MaxAge) }

// live reports whether the policy rules at a time: its lifetime counts from the
// last fetch alone (ledger STS-3.3-15, STS-5.1-01).
func (k *kept) live(now time.Time) bool {
	return k.policy != nil && !now.After(k.expires()) && k.policy.MaxAge > 0
}

// failureError is the last failure as an error of Status. Stores keep its text
// only, and that begins with the error's own.
func (k *kept) failureError() error {
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

// same reports whether two say the same of hosts. Not to know is not the same
// as to know that there is no policy.
func same(a, b Status) bool {
	switch {
	case a.Policy == nil && b.Policy == nil:
		return errors.Is(a.Err, ErrLookup) == errors.Is(b.Err, ErrLookup)
	case a.Policy == nil || b.Policy == nil:
		return false
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

// since is how long ago something was. What lies ahead was so at an unknown
// time, before the clock was set back: as good as long ago.
func since(t, now time.Time) time.Duration {
	if now.Before(t) {
		return math.MaxInt64
	}
	return now.Sub(t)
}

// maxFailure bounds the text of a failure that is kept, in octets.
const maxFailure = 500

// clip cuts a text to at most n octets, and no character in two.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "")
}
