// Package stscache knows which MTA-STS policy binds mail to a domain, now
// (RFC 8461). It discovers, fetches, parses, keeps and refreshes policies; it
// never decides what a policy means for a delivery.
package stscache

import (
	"context"
	"errors"
	"iter"
	"time"

	"stsrelay/internal/addr"
)

// A Status says which policy binds mail to a domain at this moment. It always
// answers: doubt is carried inside it, so no caller can drop an error and call
// the result "no policy".
type Status struct {
	Policy  *Policy   // nil: none in force. Mode none is a policy
	ID      string    // from the TXT record, "" without one
	Lines   []string  // the policy as served, line by line, for TLS-RPT
	Fetched time.Time // when Policy was fetched
	Expires time.Time // Fetched + max_age
	Err     error     // why nothing newer could be had: one of the errors below; may be set together with Policy
	Since   time.Time // first failure of discovery, when Err is ErrLookup; zero: unknown, or what is kept cannot be read
}

// The errors a Status can carry. ErrFetch, ErrWebPKI, ErrTooLarge and
// ErrPolicySyntax mean that a valid record exists but no policy could be had
// from it (RFC 8461, Section 3.3; result types of RFC 8460, Section 4.3.2.2).
var (
	ErrNoRecord     = errors.New("no MTA-STS record")                       // the domain does not use MTA-STS
	ErrManyRecords  = errors.New("more than one MTA-STS record")            // counts as none (Section 3.1)
	ErrRecordSyntax = errors.New("invalid MTA-STS record")                  // counts as none (Section 3.1)
	ErrLookup       = errors.New("MTA-STS record lookup failed")            // temporary: cannot tell
	ErrFetch        = errors.New("MTA-STS policy fetch failed")             // sts-policy-fetch-error
	ErrWebPKI       = errors.New("MTA-STS policy host not authenticated")   // sts-webpki-invalid
	ErrTooLarge     = errors.New("MTA-STS policy larger than 64 kilobytes") // sts-policy-fetch-error
	ErrPolicySyntax = errors.New("invalid MTA-STS policy")                  // sts-policy-invalid
)

// An Entry is what is kept of one domain, across restarts. Its stored form
// starts with a version byte.
type Entry struct {
	Domain  addr.Domain
	Body    []byte    // the policy file as served; nil while only failures are remembered
	ID      string    // the id read before the fetch (ledger STS-3.3-18)
	Fetched time.Time // last successful fetch; expiry is Fetched + max_age
	Used    time.Time // last Lookup, to a day's accuracy: unused policies are not refreshed (STS-3.3-14)

	FailedID string    // id of the last fetch that failed; back-off is per id (STS-3.3-08)
	FailedAt time.Time // when it failed, zero if the last fetch succeeded
	Failures int       // consecutive failed fetches
	Failure  string    // text of the last failure, for people
}

// Store keeps entries. Every write is durable when the method returns nil.
// Methods may be called concurrently.
type Store interface {
	// Policy returns ErrNotFound when nothing is kept of domain.
	Policy(ctx context.Context, domain addr.Domain) (Entry, error)
	PutPolicy(ctx context.Context, e Entry) error
	// DeletePolicy of an unknown domain is no error.
	DeletePolicy(ctx context.Context, domain addr.Domain) error
	// Policies yields every entry in order of domain name. It holds no
	// transaction open between two entries.
	Policies(ctx context.Context) iter.Seq2[Entry, error]
}

// ErrNotFound is what Store.Policy returns for a domain nothing is kept of.
var ErrNotFound = errors.New("no such policy entry")
