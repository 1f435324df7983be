package lab

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// A Received is one message as it came over the wire.
type Received struct {
	Conn    int       // number of the connection, from 1
	Helo    string    // what the client called itself
	Auth    string    // who it logged in as, "" if nobody
	Mail    string    // the MAIL command, verbatim: "MAIL FROM:<a@b> SIZE=7"
	Rcpts   []string  // the RCPT commands that were taken, verbatim
	From    string    // the address in Mail, without brackets
	To      []string  // the addresses in Rcpts
	Content []byte    // after removal of the stuffed dots
	Wire    []byte    // the bytes after DATA, the final dot included
	TLS     *TLSState // nil: in the clear
	Reply   string    // what the host answered to the final dot, "" if nothing
	At      time.Time
}

// Accepted reports whether the host took the message with a 2xx reply.
func (r Received) Accepted() bool { return strings.HasPrefix(r.Reply, "2") }

// A Line is one line of a conversation.
type Line struct {
	Conn   int    // number of the connection, from 1
	TLS    bool   // over TLS
	Server bool   // the host said it
	Text   string // without its line end; content is not here
}

// String is "1 C EHLO relay.test", "1 S 250 ok", with "tls" over TLS.
func (l Line) String() string {
	who := "C"
	if l.Server {
		who = "S"
	}
	if l.TLS {
		who += " tls"
	}
	return fmt.Sprintf("%d %s %s", l.Conn, who, l.Text)
}

// A Violation is something a client may not do.
type Violation struct {
	Conn int
	What string // in words
	Line string // the command or content line in question
}

func (v Violation) String() string {
	return fmt.Sprintf("connection %d: %s: %q", v.Conn, v.What, v.Line)
}

// seen is all that an MX host saw.
type seen struct {
	count      int
	messages   []Received
	lines      []Line
	violations []Violation
	handshakes []Handshake
	flights    map[int]int
}

// Count counts the messages that the host took with a 2xx reply.
func (h *MXHost) Count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.seen.count
}

// Messages returns the messages that the host took with a 2xx reply.
func (h *MXHost) Messages() []Received {
	return slices.DeleteFunc(h.Received(), func(r Received) bool { return !r.Accepted() })
}

// Received returns every message whose final dot came, also those that were
// refused or that got no reply.
func (h *MXHost) Received() []Received {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.seen.messages)
}

// Transcript returns all that was said, of all connections in the order in
// which it was said. What the host sent is split at line feeds.
func (h *MXHost) Transcript() []Line {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.seen.lines)
}

// Commands returns what clients said, verbatim.
func (h *MXHost) Commands() (list []string) {
	for _, l := range h.Transcript() {
		if !l.Server {
			list = append(list, l.Text)
		}
	}
	return list
}

// Violations returns what clients did that they may not do: see the constants
// in violation.go. A test of a client that behaves ends by asking for none.
func (h *MXHost) Violations() []Violation {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.seen.violations)
}

// Handshakes returns the attempts to set up TLS.
func (h *MXHost) Handshakes() []Handshake {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.seen.handshakes)
}

// Flights counts how often the host sent replies off on a connection, the
// greeting included, which it does when nothing more has come: the round trips
// of the conversation, those of the TLS handshake not included.
func (h *MXHost) Flights(conn int) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.seen.flights[conn]
}

// note changes what was seen, and wakes those who wait.
func (h *MXHost) note(f func(s *seen)) {
	h.mu.Lock()
	f(&h.seen)
	h.mu.Unlock()
	h.port.sig.raise()
}
