package tlsrpt

import (
	"errors"
	"slices"
	"time"

	"stsrelay/internal/addr"
)

// A Ref names one report: usually the only one of its day and domain. Sessions
// that are counted after it was made get another, with the next number (ledger
// RPT-4.1-03).
type Ref struct {
	Day    Day
	Domain addr.Domain
	Number int // from 1
}

// A State is where a report, or its way to one destination, is. The words are
// also those of logs, lists and metrics.
type State string

const (
	Tallied    State = "tallied"    // sessions are counted, and there is no report yet: in lists only
	Pending    State = "pending"    // to be tried, or tried again
	Queued     State = "queued"     // its mail is in our queue
	Sent       State = "sent"       // a destination took it
	Failed     State = "failed"     // refused for good
	GivenUp    State = "given-up"   // tried for 24 hours (ledger RPT-5.5-01)
	Suppressed State = "suppressed" // the operator does not want it sent
	Unwanted   State = "unwanted"   // the domain asks for no reports (ledger RPT-8-02)
)

// Open reports whether something may still happen by itself.
func (s State) Open() bool { return s == Pending || s == Queued }

// A Job is a report on its way, as a store keeps it.
type Job struct {
	Ref
	ID    string  // report-id: never changes (ledger RPT-4.4-04)
	Copy  bool    // for a test: the sessions in it stay tallied
	Sums  Summary // of what it tells
	State State
	Why   string        // of the state, "" if it needs no words
	Looks int           // lookups of the domain's record that failed
	Age   time.Duration // since the first of them, by the store's clock
	Parts []Part        // in order of the record; none until it was looked up
	Due   time.Duration // until it is tried, while it is Pending
	Lease uint64        // fencing token of the current claim, 0 if not claimed
}

// A Part is the way of a report to one destination. Parts know nothing of each
// other: one may be sent while another is tried again.
type Part struct {
	RUA   string
	State State
	Why   string        // what was last said of it
	Tries int           // attempts so far
	Age   time.Duration // since the first of them, by the store's clock
	Due   time.Duration // until the next one, while it is Pending
	Mail  string        // queue ID, if it goes by mail
}

// StateOf is the state of a report with these parts, Pending if it has none yet.
// It is sent when one destination took it, whatever became of the others (RFC
// 8460, Section 3; ledger RPT-3-12).
func StateOf(parts []Part) State {
	if len(parts) == 0 {
		return Pending
	}
	for _, s := range []State{Pending, Queued, Sent, GivenUp, Failed} {
		if slices.ContainsFunc(parts, func(p Part) bool { return p.State == s }) {
			return s
		}
	}
	return Suppressed
}

// An Opening makes a report of what is tallied.
type Opening struct {
	Day    Day
	Domain addr.Domain
	ID     string
	Copy   bool
	Parts  []Part // where it goes, if that is known; else the domain's record says it
}

// An Outcome is what became of a claimed report.
type Outcome struct {
	Ref
	Lease uint64
	Parts []Part        // new ones, and those that were tried; Due is a delay
	Mail  []Mail        // enters the queue in the same transaction
	State State         // Unwanted, GivenUp, Failed or Suppressed: it ends, whatever its parts; else ""
	Why   string        // of State, or of the delay
	Delay time.Duration // until the record is looked up again, while there are no parts
}

// A Mail is a report for the queue. It causes no sessions and no bounces, and
// is delivered in spite of MTA-STS and DANE (RFC 8460, Section 3; ledger
// RPT-3-20, RPT-3-22).
type Mail struct {
	RUA     string       // its Part, which then is Queued; "": a copy that nobody waits for
	From    addr.Address // not null: bounces come back and are nobody's (ledger RPT-5.3-09)
	To      addr.Address
	Content []byte
	Expire  time.Duration // how long it may wait
}

// ErrLost says that a report's claim has ended: somebody else has it, or it is
// gone.
var ErrLost = errors.New("the claim of a report is lost")

// ErrNoReport says that a store has no such report.
var ErrNoReport = errors.New("no such report")

// Never is when nothing is due.
const Never = time.Duration(1<<63 - 1)
