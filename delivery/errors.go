package delivery

import (
	"fmt"
	"strings"

	"stsrelay/internal/addr"
)

// A Reason is a rule that spoke: why a host is skipped, a connection refused
// or a recipient not delivered. The set is closed; its string is the log
// field, the metric label and the word in `queue list`.
type Reason string

// The reasons. What each means, and its codes, is in the table of reasons.go.
const (
	MXNotListed         Reason = "mx-not-listed"
	StartTLSMissing     Reason = "starttls-missing" // not offered, or refused
	TLSFailed           Reason = "tls-failed"       // the handshake
	CertHostMismatch    Reason = "certificate-host-mismatch"
	CertExpired         Reason = "certificate-expired"
	CertNotTrusted      Reason = "certificate-not-trusted"
	DANEMismatch        Reason = "dane-mismatch"
	DANERequired        Reason = "dane-required" // the operator's floor, and there is nothing to match
	TLSALookupFailed    Reason = "tlsa-lookup-failed"
	NotValidating       Reason = "dnssec-not-validating" // our resolver, and the host is known for its TLSA records
	DiscoveryFailed     Reason = "sts-discovery-failed"  // while in grace
	RequireTLSMissing   Reason = "requiretls-unsupported"
	RequireTLSNoTLS     Reason = "requiretls-without-tls"
	RequireTLSUnknown   Reason = "requiretls-unknown" // cannot tell yet
	DNSFailed           Reason = "dns-failed"
	DNSBogus            Reason = "dnssec-bogus"
	NoSuchDomain        Reason = "no-such-domain"
	NullMX              Reason = "null-mx"
	NoAddress           Reason = "no-address" // every answer was definitive
	MailLoop            Reason = "mail-loop"
	ForbiddenAddress    Reason = "forbidden-address" // DNS points where the guard does not let us go
	ConnectFailed       Reason = "connect-failed"
	ConnectionLost      Reason = "connection-lost"
	TimedOut            Reason = "timeout"
	ProtocolError       Reason = "protocol-error"
	RemoteReply         Reason = "remote-reply" // the remote's own code
	MessageTooBig       Reason = "message-too-big"
	EightBitUnsupported Reason = "8bitmime-unsupported"
	UTF8Unsupported     Reason = "smtputf8-unsupported"
	LocalError          Reason = "local-error" // our own fault
	Expired             Reason = "expired"     // no attempt ever gave a code
	OperatorBounce      Reason = "operator-bounce"
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

// String is the word in logs: "plan", "connect", ...
func (s Stage) String() string {
	return word(s, "plan", "connect", "greeting", "hello", "tls", "policy", "mail", "rcpt", "data", "content")
}

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
	if !e.MX.IsZero() && !strings.Contains(s, e.MX.String()) {
		s = e.MX.String() + ": " + s
	}
	return fmt.Sprintf("%s: %s", e.Reason, s)
}

func (e *Error) Unwrap() error { return e.Err }

// Destination reports whether the failure is the destination's rather than one
// message's: other messages to it would fail in the same way now. What only a
// message with REQUIRETLS misses says nothing about others.
func (e *Error) Destination() bool {
	switch e.Reason {
	case RequireTLSMissing, RequireTLSNoTLS, RequireTLSUnknown:
		return false
	}
	return e.Stage < StageMail || e.Code == 421
}

// NewError is an Error of our own finding, with class, codes and RFC from the
// table. Text must be clean: one line, no control characters.
func NewError(stage Stage, r Reason, mx addr.Host, text string) *Error {
	i := r.Info()
	return &Error{Stage: stage, MX: mx, Reason: r, Permanent: i.Permanent,
		Code: i.Code, Enhanced: i.Enhanced, Text: text, RFC: i.RFC}
}

// because adds the cause.
func (e *Error) because(err error) *Error {
	e.Err = err
	return e
}

// replyError is the Error that a reply of the remote makes. The reply code
// decides between temporary and permanent (RFC 5321, Section 4.2.1); an
// enhanced code that contradicts it counts as none (RFC 2034, Section 4). A
// code that is no refusal came where it means nothing: a protocol error.
func replyError(stage Stage, mx addr.Host, ad string, code int, enhanced [3]int, text string) *Error {
	class := code / 100
	if class != 4 && class != 5 {
		e := NewError(stage, ProtocolError, mx, fmt.Sprintf("the server answered %d where that means nothing: %s", code, text))
		e.Addr = ad
		return e
	}
	if enhanced[0] != class {
		enhanced = [3]int{class, 0, 0}
	}
	return &Error{Stage: stage, MX: mx, Addr: ad, Reason: RemoteReply, Permanent: class == 5,
		Code: code, Enhanced: enhanced, Remote: true, Text: text}
}

// AtExpiry is what e becomes when the queue gives up: a refusal by policy ends
// in its 5.x twin, for the policy was looked at once more before; everything
// else keeps its last real code. Without any (e is nil) it is 4.4.7, delivery
// time expired.
func (e *Error) AtExpiry() *Error {
	if e == nil {
		return NewError(StagePlan, Expired, addr.Host{}, "the message was in the queue for too long")
	}
	twin := e.Reason.Info().Expired
	if e.Permanent || twin == [3]int{} {
		return e
	}
	final := *e
	final.Permanent, final.Code, final.Enhanced = true, 550, twin
	return &final
}
