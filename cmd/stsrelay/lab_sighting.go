package main

import (
	"bytes"
	"fmt"
	"strings"

	"stsrelay/internal/admin"
	"stsrelay/internal/lab"
)

// A sighting is all that is seen of one attempt to deliver a message.
type sighting struct {
	letter  letter
	id      string // in the queue
	attempt int    // 1 is the first
	arrived int    // how many messages had arrived before
	told    int    // how often hosts had been told of the domain before

	line      logLine           // what the relay's log says of it
	entry     *admin.QueueEntry // what its queue says, nil if it is not there
	arrivals  []lab.Arrival     // what MX hosts took since
	tellings  int               // RCPT commands since
	notice    *notice           // the bounce, nil if none came
	noticeErr error             // why it cannot be read
}

// outcome is what became of the message, in the words of a Scenario.
func (s *sighting) outcome() lab.Expect {
	switch {
	case s.line.Status != "sent":
		return lab.Expect{Outcome: s.line.Status, Reason: s.line.Reason}
	case len(s.arrivals) == 0:
		return lab.Expect{Outcome: lab.Delivered, TLS: s.line.trust()}
	}
	return lab.Expect{Outcome: lab.Delivered, TLS: s.line.trust(), Via: s.arrivals[0].Host}
}

func (s *sighting) reply() string {
	if s.entry != nil {
		return s.entry.Text
	}
	_, text, _ := strings.Cut(s.line.Message, "status="+s.line.Status+" (")
	return strings.TrimSuffix(text, ")")
}

// rule is the RFC that the relay names, as queue show tells it.
func (s *sighting) rule() string {
	if s.entry == nil || len(s.entry.History) == 0 {
		return ""
	}
	return s.entry.History[len(s.entry.History)-1].RFC
}

// against says in which ways what was seen differs from what must be. What the
// relay says of itself is not enough: hosts, queue and mailboxes must agree.
func (s *sighting) against(want lab.Expect) (problems []string) {
	got := s.outcome()
	add := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	if want.Via == "" {
		got.Via = ""
	}
	if got != want {
		add("expected %s, happened: %s", describe(want), describe(got))
	}
	for _, a := range s.arrivals {
		if onward := strings.Contains(a.Mail, " REQUIRETLS"); onward != s.letter.requireTLS {
			add("the message was sent with REQUIRETLS: %v, and reached %s with it: %v", s.letter.requireTLS, a.Host, onward)
		}
		if err := intact(s.letter.content, a.Content); err != nil {
			add("at %s: %v", a.Host, err)
		}
	}
	problems = append(problems, s.hosts("the relay says", got)...)
	return append(problems, s.paper(got)...)
}

// hosts says in which ways what MX hosts saw differs from what somebody says
// became of the message, or says must become of it.
func (s *sighting) hosts(says string, e lab.Expect) (problems []string) {
	add := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	if n := len(s.arrivals); (e.Outcome == lab.Delivered) != (n == 1) {
		add("%s %s, and MX hosts took the message %d times", says, e.Outcome, n)
	}
	for i, a := range s.arrivals {
		if (a.TLS == nil) != (e.TLS == lab.Plaintext) {
			add("%s %s, and %s says %s", says, e.TLS, a.Host, wire(a.TLS))
		}
		if i == 0 && e.Via != "" && a.Host != e.Via {
			add("%s by %s, and %s took it", says, e.Via, a.Host)
		}
	}
	if e.Outcome != lab.Delivered && e.Reason != "remote-reply" && e.Reason != "connection-lost" && s.tellings > 0 {
		add("refused for %s, and yet %d times a host was told of the recipient", e.Reason, s.tellings)
	}
	return problems
}

// paper checks what the queue and the sender are told.
func (s *sighting) paper(got lab.Expect) (problems []string) {
	add := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	switch got.Outcome {
	case lab.Deferred:
		if s.entry.Reason != got.Reason || s.entry.Text == "" || s.entry.Attempts != s.attempt {
			add("the log says %s, and the queue says %s (%q) after %d attempts", got.Reason, s.entry.Reason, s.entry.Text, s.entry.Attempts)
		}
		if s.notice != nil {
			add("it is still queued, and a bounce came")
		}
	case lab.Bounced:
		switch n := s.notice; {
		case s.noticeErr != nil:
			add("%v", s.noticeErr)
		case n.recipient != s.letter.to || n.action != "failed" || !strings.HasPrefix(n.status, "5."):
			add("the bounce is about %s: %s %s", n.recipient, n.action, n.status)
		case n.requireTLS != s.letter.requireTLS: // RFC 8689, Section 5
			add("the message was sent with REQUIRETLS: %v, and the bounce: %v", s.letter.requireTLS, n.requireTLS)
		}
	case lab.Delivered:
		if s.notice != nil {
			add("it was delivered, and a bounce came")
		}
	}
	return problems
}

// intact reports whether content is what was sent below our Received field
// (RFC 5321, Section 4.4).
func intact(sent, got []byte) error {
	head, ok := bytes.CutSuffix(got, sent)
	if !ok {
		return fmt.Errorf("the content is not what was sent (%d octets, sent %d): %.200q", len(got), len(sent), got)
	}
	for i, line := range strings.Split(strings.TrimSuffix(string(head), "\r\n"), "\r\n") {
		folded := strings.HasPrefix(line, " ") || strings.HasPrefix(line, "\t")
		if i == 0 && !strings.HasPrefix(line, "Received: ") || i > 0 && !folded {
			return fmt.Errorf("above the content is more than a Received field: %.300q", head)
		}
	}
	return nil
}

func wire(s *lab.TLSState) string {
	if s == nil {
		return "in the clear"
	}
	return "over TLS"
}

// describe is an Expect in words: "deferred (mx-not-listed), then delivered".
func describe(e lab.Expect) string {
	s := e.Outcome
	switch {
	case e.Reason != "":
		s += " (" + e.Reason + ")"
	case e.TLS != "":
		s += ", " + e.TLS
	}
	if e.Via != "" {
		s += ", by " + e.Via
	}
	if e.Next != "" {
		s += ", then " + e.Next
	}
	return s
}
