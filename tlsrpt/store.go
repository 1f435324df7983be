package tlsrpt

import (
	"context"
	"iter"
	"time"

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

// Store keeps tallies, and the reports that are made of them. Writes are durable
// when they return nil. Methods may be called concurrently. Callers pass
// durations: the store's clock decides. Sessions that an attempt caused are
// added by the queue's Settle, in its transaction.
type Store interface {
	Counts
	Outbox
}

// Counts are the sessions of which no report is made yet.
type Counts interface {
	// Add counts sessions outside a settle, as in pass-through.
	Add(ctx context.Context, s []Session) error
	// Tallies yields every tally of the given day in order of domain, or of all
	// days in order of day and domain when day is "".
	Tallies(ctx context.Context, day Day) iter.Seq2[Tally, error]
	// Counted yields day and domain of every tally before the given day, in that
	// order, without reading what was counted. Number is 0.
	Counted(ctx context.Context, before Day) iter.Seq2[Ref, error]
}

// Outbox is reports on their way. Each is claimed under a lease, as queue
// entries are: a report that was claimed and not finished is due again when the
// lease ends, or the store's process does.
type Outbox interface {
	// OpenReports makes reports, due at once, of what is tallied; the tally is
	// moved into the report in the same transaction, so that no session is in
	// two reports or in none. Where nothing is tallied no report is made. It
	// returns those that were.
	OpenReports(ctx context.Context, o []Opening) ([]Job, error)
	// ClaimReports leases up to n reports that are due, earliest first, and says
	// how long until another one is: Never if none waits.
	ClaimReports(ctx context.Context, n int) (claimed []Job, next time.Duration, err error)
	// FinishReport writes what became of a claimed report and ends the claim.
	// Its mail enters the queue in the same transaction; what becomes of the
	// mail there is written into the report by the queue's own transactions. A
	// claim that has ended is ErrLost, and nothing is written.
	FinishReport(ctx context.Context, o Outcome) error
	// HurryReports makes what is Pending of these reports due at once.
	HurryReports(ctx context.Context, r []Ref) error
	// Reports yields the reports of a day in order of domain and number, of all
	// days in order of day when day is "".
	Reports(ctx context.Context, day Day) iter.Seq2[Job, error]
	// Report returns one report and what it tells. ErrNoReport.
	Report(ctx context.Context, r Ref) (Job, Tally, error)
	// PruneReports forgets the reports of days before ended that are not Open,
	// and everything of days before all, tallies included. It returns how many
	// domains' days were forgotten that way.
	PruneReports(ctx context.Context, ended, all Day) (int, error)
}
