package delivery

import (
	"context"
	"io"
	"net/netip"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/internal/resolver"
	"stsrelay/stscache"
	"stsrelay/tlsrpt"
)

// A Source hands over one destination's messages one after the other, so that
// the content of one and the envelope of the next can share a flight. It is
// safe for concurrent use: several connections may draw from one Source.
type Source interface {
	// Next returns the next message to try. It never waits for one to arrive:
	// false means there is none now. Every Job returned is given back by Done
	// exactly once.
	Next(ctx context.Context) (Job, bool)
	Done(j Job, a Attempt)
}

// A Job is one message for one destination.
type Job struct {
	ID     string // queue id, for logs
	From   addr.Address
	To     []Recipient // 1 or more
	Demand Demand
	Final  bool                          // the last attempt: look for a newer policy first (ledger STS-5-04)
	Size   int64                         // octets with CRLF, without dot-stuffing (ledger SIZE-5-01)
	Body8  bool                          // content has octets above 0x7F (ledger 8BIT-3-05)
	UTF8   bool                          // accepted with SMTPUTF8, and its headers, or those of its parts, may need it
	Head8  bool                          // the header has UTF-8 beyond ASCII (ledger UTF8-6532-01)
	Quiet  bool                          // causes no TLS-RPT session: a report (ledger X-09)
	EnvID  string                        // ENVID as given, xtext; "" if absent (RFC 3461, Section 4.4)
	Ret    string                        // RET: "FULL", "HDRS" or ""
	Open   func() (io.ReadCloser, error) // exact content; called again for the next MX

	Tag any // the Source's own
}

// A Recipient is one forward-path of a Job.
type Recipient struct {
	Address  addr.Address
	Notify   string // NOTIFY as given: "NEVER" or a list; "" if absent (RFC 3461, Section 4.1)
	Original string // ORCPT as given, "type;xtext" (Section 4.2)
}

// An Attempt is what became of one Job: one Outcome per recipient, in the
// order of Job.To, always; and the sessions it caused.
type Attempt struct {
	Outcomes []Outcome
	Sessions []tlsrpt.Session
}

// An Outcome is what became of one recipient.
type Outcome struct {
	Err    *Error // nil: the MX took it
	MX     addr.Host
	Addr   netip.AddrPort // zero if no connection was made
	Reply  string         // last reply of the MX, cleaned: "250 2.0.0 ok"
	TLS    string         // "Verified TLSv1.3", "Trusted ...", "Untrusted ...", "" in the clear
	Policy string         // "sts:enforce id=20261101", "sts:testing id=...", "none", ...
	Reused bool           // a kept connection
	DSN    bool           // the MX offers DSN and was told NOTIFY: telling the sender is its business now (RFC 3461, Section 5.2.1)
	Delay  Delays
	MayDup bool // the connection was lost after the final dot (ledger SMTP-4.5.3.2-05)
}

// Delays are the c and d of Postfix's delays=a/b/c/d: connection set-up
// (DNS, TCP, EHLO, TLS) and transmission.
type Delays struct{ Setup, Transmit time.Duration }

// A Destination is where one Deliver call goes.
type Destination struct {
	NextHop  addr.NextHop
	Route    bool        // NextHop is the operator's own word: see Query
	Floor    Requirement // operator's minimum
	Override Override
}

// Resolver is what delivery asks of DNS. *resolver.Client is one.
type Resolver interface {
	MX(ctx context.Context, domain addr.Domain) (resolver.Answer[resolver.MX], error)
	Addresses(ctx context.Context, host addr.Host) (resolver.Addresses, error)
	TLSA(ctx context.Context, port uint16, base addr.Host) (resolver.Answer[resolver.TLSA], error)
	CNAME(ctx context.Context, name string) (resolver.Answer[string], error)
}

// A TLSAMemory remembers hosts that have secure TLSA records, for the time when
// the resolver does not validate any more: mail to them then waits (ledger
// DANE-2.1.1-01). It is asked for every plan and must be quick.
type TLSAMemory interface {
	SawTLSA(host addr.Host, now time.Time)
	HadTLSA(host addr.Host, now time.Time) bool // within the last 30 days
	ForgetTLSA(host addr.Host)                  // a validated answer says that it has none
}

// Policies says which MTA-STS policy binds mail to a domain. *stscache.Cache
// is one.
type Policies interface {
	Lookup(ctx context.Context, domain addr.Domain) stscache.Status
	// Refresh looks for a newer policy past our own caches (RFC 8461, Section
	// 5.1, step 3; ledger STS-5-04).
	Refresh(ctx context.Context, domain addr.Domain) stscache.Status
}
