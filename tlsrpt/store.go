package tlsrpt

import (
	"context"
	"iter"

	"stsrelay/internal/addr"
)

// A Tally is everything counted for one domain on one day.
type Tally struct {
	Day      Day
	Domain   addr.Domain
	Policies []PolicyTally // in a stable order
}

// A PolicyTally counts the sessions held against one policy (RFC 8460,
// Section 4.4; each distinct policy of the day has its own, ledger RPT-4.4-18).
type PolicyTally struct {
	Policy    Policy
	Successes int64
	Failures  int64 // sessions, not details (ledger RPT-4.2-02)
	Details   []Detail
}

// A Detail counts one kind of failure (ledger RPT-4.4-05).
type Detail struct {
	Failure
	MX       string
	HELO     string
	Receiver string // IP text, "" if unknown
	Sender   string
	Sessions int64
}

// Store keeps tallies. Writes are durable when they return nil. Sessions that
// an attempt caused are added by the queue's Settle, in its transaction.
type Store interface {
	// Add counts sessions outside a settle, as in pass-through.
	Add(ctx context.Context, s []Session) error
	// Tallies yields every tally of the given day in order of domain, or of all
	// days in order of day and domain when day is "".
	Tallies(ctx context.Context, day Day) iter.Seq2[Tally, error]
}
