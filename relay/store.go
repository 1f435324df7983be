package relay

import (
	"context"
	"errors"
	"io"
	"time"

	"stsrelay/delivery"
	"stsrelay/internal/addr"
	"stsrelay/tlsrpt"
)

// An ID names a message or an entry: unique, printable, sorted by time of
// creation. It is the queue id that people see.
type ID string

// A Destination is the key under which entries wait for each other. Opaque to
// stores: today it is the next hop's text; later it may depend on sender or
// listener.
type Destination string

// Body is the value of MAIL's BODY parameter as the client gave it.
type Body string

const (
	Body7Bit     Body = "7BIT"
	Body8BitMIME Body = "8BITMIME"
)

// Options are the properties of a message that all its entries share.
type Options struct {
	Body     Body            `json:",omitempty"` // as declared; EightBit tells the truth
	EightBit bool            `json:",omitempty"` // content has octets above 0x7F
	UTF8     bool            `json:",omitempty"` // accepted with SMTPUTF8
	Head8    bool            `json:",omitempty"` // the header has UTF-8 beyond ASCII
	Single   bool            `json:",omitempty"` // one text: no header but its own, which Head8 is about
	Demand   delivery.Demand `json:",omitempty"`
	Envelope string          `json:",omitempty"` // ENVID
	Return   string          `json:",omitempty"` // RET: FULL, HDRS or ""
	Expire   time.Duration   `json:",omitempty"` // lifetime of its own, 0: [queue] expire_after
	Report   bool            `json:",omitempty"` // TLS report: makes no sessions, no bounces
	Notice   bool            `json:",omitempty"` // a DSN of ours
	Listener string          `json:",omitempty"` // name of the listener, "" for our own messages
	Upstream string          `json:",omitempty"` // queue id in the client's topmost Received, for log correlation
	Client   string          `json:",omitempty"` // "name [ip]" of the client
}

// A Message is what one Accept stores: one body and one entry for each
// destination.
type Message struct {
	ID      ID
	From    addr.Address
	Options Options
	Size    int64 // octets of the body, our Received field included
	Entries []NewEntry
}

// A NewEntry is one destination of a Message. Its ID is assigned by the caller.
type NewEntry struct {
	ID          ID
	Destination Destination
	To          []Recipient
}

// A Recipient is one forward-path that is still pending.
type Recipient struct {
	Address  addr.Address
	Notify   string `json:",omitempty"` // NOTIFY as given: "NEVER" or a list; "" if absent
	Original string `json:",omitempty"` // ORCPT as given, xtext
	Warned   bool   `json:",omitempty"` // a delay warning was sent
	Last     *Note  `json:",omitempty"` // outcome of the last attempt
}

// A Note is one outcome, kept for people and for DSNs.
type Note struct {
	At        time.Time
	MX        string `json:",omitempty"` // "mx1.example.com[192.0.2.1]:25"
	Reason    delivery.Reason
	Permanent bool `json:",omitempty"`
	Code      int  `json:",omitempty"`
	Enhanced  [3]int
	Remote    bool   `json:",omitempty"`
	Text      string `json:",omitempty"`
	RFC       string `json:",omitempty"`
	Policy    string `json:",omitempty"`
}

// Hold is why an entry is not tried. The zero value is not held.
type Hold struct {
	Held   bool   `json:",omitempty"`
	Reason string `json:",omitempty"`
}

// An Entry is one message for the recipients of one destination.
type Entry struct {
	ID, Message ID
	Destination Destination
	From        addr.Address
	To          []Recipient
	Options     Options
	Size        int64
	Held        Hold
	Attempts    int
	History     []Note // newest last, at most MaxHistory
	Lease       uint64 // fencing token of the current claim, 0 if not claimed
	Arrived     time.Time
	Age         time.Duration // as of the claim or listing, by the store's clock
	Due         time.Duration // until the next attempt, negative when overdue
	Bounce      bool          // an operator ended it: bounce instead of trying
}

// MaxHistory bounds Entry.History.
const MaxHistory = 20

// The errors of a Store. ErrUnavailable: nothing was written. ErrUnknownOutcome:
// it may have been. Both are wrapped with their cause.
var (
	ErrUnavailable    = errors.New("queue store unavailable")
	ErrNoRoom         = errors.New("no room left") // beside ErrUnavailable, when that is the cause
	ErrUnknownOutcome = errors.New("queue store write has an unknown outcome")
	ErrNotFound       = errors.New("no such message")
)

// Store keeps queued mail. Every write is durable when the method returns nil.
// Methods may be called concurrently; concurrent writes share a commit.
// Callers pass durations, never absolute times: the store's clock decides.
type Store interface {
	// NewBody starts a body: small ones stay in memory, larger ones are spooled
	// to a file that is fsynced before Accept commits.
	NewBody(ctx context.Context) (BodyWriter, error)
	// Accept stores body and entries, all or nothing, due at once. It consumes b
	// whatever it returns.
	Accept(ctx context.Context, m Message, b BodyWriter) error
	// Forget removes a message whose Accept returned ErrUnknownOutcome. An
	// unknown message is no error.
	Forget(ctx context.Context, message ID) error
	// Due lists up to n destinations after the given one, in order of name, that
	// have an entry neither held nor leased, each with the time until its
	// earliest entry is due.
	Due(ctx context.Context, after Destination, n int) ([]DueDestination, error)
	// Claim leases up to max due entries of dest, earliest first. Leased and
	// held entries are passed over.
	Claim(ctx context.Context, dest Destination, max int) ([]Entry, error)
	// Unclaim gives leases back: the entries are due as they were.
	Unclaim(ctx context.Context, entries []Entry) error
	// Body opens the content of a message. It never holds a transaction open.
	Body(ctx context.Context, message ID) (io.ReadCloser, error)
	// Settle writes what became of claimed entries, with the DSNs, TLS-RPT
	// sessions and further sessions that belong to it, in one transaction. An
	// entry whose lease is not the given one is lost: it is left alone, none of
	// its Result is applied, and its ID is returned.
	Settle(ctx context.Context, r []Result) (lost []ID, err error)
	// Edit applies an operator's action to every matching entry and returns how
	// many matched and which destinations they have. Deleting a leased entry
	// makes its lease lost.
	Edit(ctx context.Context, f Filter, a Action) (Edited, error)
	// List returns up to n matching entries after the cursor in order of ID; an
	// empty returned cursor means the end.
	List(ctx context.Context, f Filter, after Cursor, n int) ([]Entry, Cursor, error)
	// Stats counts what waits, for status and metrics. It may be up to a second old.
	Stats(ctx context.Context) (Stats, error)
}

// A BodyWriter takes the content of one message.
type BodyWriter interface {
	io.Writer
	Size() int64
	// Discard drops the body if it was not accepted. Always safe to call.
	Discard()
}

// A DueDestination is one row of Store.Due.
type DueDestination struct {
	Destination Destination
	In          time.Duration // negative or zero: due now
}

// A Result settles one entry: who is left and after how long, what to tell
// whom, what to count. No one left removes the entry, and the body with the
// message's last entry.
type Result struct {
	ID       ID
	Lease    uint64
	Left     []Recipient
	Delay    time.Duration
	Tried    bool // counts as an attempt
	Note     *Note
	Notices  []Composed // DSNs
	Sessions []tlsrpt.Session
}

// A Composed message is one of our own, ready for the queue.
type Composed struct {
	Message Message
	Body    []byte // CRLF lines, at most 1 MiB
}

// A Filter selects entries; zero fields select everything. It is shared by all
// queue commands.
type Filter struct {
	IDs         []ID          `json:",omitempty"` // of entries or messages
	To, From    string        `json:",omitempty"` // "user@domain", "@domain", or "<>" for From
	Destination Destination   `json:",omitempty"`
	Older       time.Duration `json:",omitempty"` // age at least
	State       State         `json:",omitempty"`
	Reason      string        `json:",omitempty"` // reason of the last attempt
}

// State is where an entry is.
type State string

const (
	StateActive   State = "active"   // being tried now
	StateDeferred State = "deferred" // waits for its next attempt, or for its first
	StateHeld     State = "hold"
)

// Verb is what an operator does to entries.
type Verb string

const (
	VerbRetry   Verb = "retry"   // due at once
	VerbHold    Verb = "hold"    // not tried until released
	VerbRelease Verb = "release" // undo hold; due at once
	VerbDelete  Verb = "delete"  // gone without a notice
	VerbBounce  Verb = "bounce"  // returned to the sender at once
)

// An Action is what an operator does, and why.
type Action struct {
	Verb   Verb
	Reason string
	DryRun bool // count only
}

// Edited says what an Edit did.
type Edited struct {
	Count        int
	Destinations []Destination
}

// A Cursor is a position in List, opaque.
type Cursor string

// Stats counts what waits.
type Stats struct {
	Active, Deferred, Held int
	Bytes                  int64
	Oldest                 time.Duration // age of the oldest entry, 0 if there is none
}
