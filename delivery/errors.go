package delivery

import (
	"fmt"

	"stsrelay/internal/addr"
)

// A Reason is a rule that spoke: why a host is skipped, a connection refused
// or a recipient not delivered. The set is closed; its string is the log
// field, the metric label and the word in `queue list`.
type Reason string

// The reasons. Those marked with a policy end, at expiry, in their 5.x twin.
const (
	MXNotListed         Reason = "mx-not-listed"             // policy: 4.4.8, RFC 8461, Section 4.1
	StartTLSMissing     Reason = "starttls-missing"          // policy: 4.7.4
	TLSFailed           Reason = "tls-failed"                // policy: 4.7.5; handshake or STARTTLS reply
	CertHostMismatch    Reason = "certificate-host-mismatch" // policy: 4.7.5
	CertExpired         Reason = "certificate-expired"       // policy: 4.7.5
	CertNotTrusted      Reason = "certificate-not-trusted"   // policy: 4.7.5
	DANEMismatch        Reason = "dane-mismatch"             // policy: 4.7.5
	TLSALookupFailed    Reason = "tlsa-lookup-failed"        // 4.4.3
	DiscoveryFailed     Reason = "sts-discovery-failed"      // 4.4.3, while in grace
	RequireTLSMissing   Reason = "requiretls-unsupported"    // 5.7.30
	RequireTLSUnknown   Reason = "requiretls-unknown"        // 4.7.10: cannot tell yet
	DNSFailed           Reason = "dns-failed"                // 4.4.3
	DNSBogus            Reason = "dnssec-bogus"              // 4.4.3
	NoSuchDomain        Reason = "no-such-domain"            // 5.1.2
	NullMX              Reason = "null-mx"                   // 5.1.10
	NoAddress           Reason = "no-address"                // 5.4.4, or 4.4.4 when an answer was doubtful
	MailLoop            Reason = "mail-loop"                 // 5.4.6
	ForbiddenAddress    Reason = "forbidden-address"         // 4.4.4: DNS points where the guard does not let us go
	ConnectFailed       Reason = "connect-failed"            // 4.4.1
	ConnectionLost      Reason = "connection-lost"           // 4.4.2
	TimedOut            Reason = "timeout"                   // 4.4.2
	ProtocolError       Reason = "protocol-error"            // 4.5.0
	RemoteReply         Reason = "remote-reply"              // the remote's own code
	MessageTooBig       Reason = "message-too-big"           // 5.3.4
	EightBitUnsupported Reason = "8bitmime-unsupported"      // 5.6.3
	UTF8Unsupported     Reason = "smtputf8-unsupported"      // 5.6.7
	LocalError          Reason = "local-error"               // 4.3.0: our own fault
	Expired             Reason = "expired"                   // 4.4.7: no attempt ever gave a code
	OperatorBounce      Reason = "operator-bounce"           // 5.7.0
)

// A Stage is how far an attempt got.
type Stage uint8

const (
	StagePlan     Stage = iota // DNS, policy, decision: no connection
	StageConnect               // TCP
	StageGreeting              // 220
	StageHello                 // EHLO or HELO
	StageTLS                   // STARTTLS reply, handshake
	StagePolicy                // handshake done, Judge said no
	StageMail                  // MAIL
	StageRcpt                  // RCPT
	StageData                  // DATA, before 354
	StageContent               // content and the reply to the final dot
)

// An Error is why a recipient was not delivered, classified once, here, by
// value. Nobody later reads a text to guess.
type Error struct {
	Stage     Stage
	MX        addr.Host // zero when no host was involved
	Addr      string    // "192.0.2.1:25", "" if none was contacted
	Reason    Reason
	Permanent bool
	Code      int    // SMTP reply code: the remote's, or our own for Reason
	Enhanced  [3]int // enhanced status code (RFC 3463); class agrees with Code and Permanent
	Remote    bool   // Code and Text are the remote's reply verbatim (RFC 3464, Section 2.3.5)
	Text      string // cleaned, for log and DSN
	RFC       string // "RFC 8461, Section 4.1"; "" for remote replies
	Err       error  // cause, may be nil
}

func (e *Error) Error() string {
	s := e.Text
	if !e.MX.IsZero() {
		s = e.MX.String() + ": " + s
	}
	return fmt.Sprintf("%s: %s", e.Reason, s)
}

func (e *Error) Unwrap() error { return e.Err }

// Destination reports whether the failure is the destination's rather than one
// message's: other messages to it would fail in the same way now.
func (e *Error) Destination() bool { return e.Stage < StageMail || e.Code == 421 }

// Info is what one Reason means.
type Info struct {
	Permanent bool
	Code      int    // SMTP reply code; 0 for RemoteReply, which has the remote's
	Enhanced  [3]int // class agrees with Code and Permanent
	Expired   [3]int // the 5.x twin in which a refusal by policy ends at expiry; zero for all others
	RFC       string // "RFC 8461, Section 4.1"
	Meaning   string // for people, a clause without full stop
	Owner     string // what the owner of the recipient domain can do, "" if nothing
}

// Info returns the row of the table for r. Unknown reasons are LocalError's.
func (r Reason) Info() Info { return Info{} }

// Reasons lists every Reason, in the order of the constants.
func Reasons() []Reason { return nil }

// NewError is an Error of our own finding, with class, codes and RFC from the
// table. Text must be clean: one line, no control characters.
func NewError(stage Stage, r Reason, mx addr.Host, text string) *Error {
	return &Error{Stage: stage, Reason: r, MX: mx, Text: text}
}

// replyError is an Error that the remote's reply makes. Its class is that of
// code, whatever enhanced says.
func replyError(stage Stage, mx addr.Host, ad string, code int, enhanced [3]int, text string) *Error {
	return &Error{Stage: stage, MX: mx, Addr: ad, Code: code, Enhanced: enhanced, Text: text, Remote: true, Reason: RemoteReply}
}

// AtExpiry is the permanent Error in which e ends when the queue gives up:
// refusals by policy in their 5.x twin, everything else with its last real
// code; 4.4.7 when there never was one. A nil e is allowed.
func (e *Error) AtExpiry() *Error { return e }
