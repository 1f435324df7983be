package stscache

import (
	"context"
	"errors"
	"fmt"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/internal/resolver"
)

type answerTXT = resolver.Answer[string]

type lookupTXT func(ctx context.Context, name string) (answerTXT, error)

// A finding is what discovery found: an id, or an error of Status.
type finding struct {
	id  string
	err error
	at  time.Time
}

// discover looks up the record of a domain. The name is absolute, and an alias
// of the record is followed, one of the domain never (ledger STS-3.1-12,
// STS-3.1-15, STS-1.1-03).
func discover(ctx context.Context, domain addr.Domain, lookup lookupTXT) (id string, err error) {
	answer, err := lookup(ctx, "_mta-sts."+domain.String())
	switch {
	case errors.Is(err, resolver.ErrNXDomain):
		return "", ErrNoRecord
	case err != nil:
		return "", fmt.Errorf("%w: %w", ErrLookup, err)
	}
	return ParseRecord(answer.Records)
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
