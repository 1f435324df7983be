package relay

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
	"unicode"

	"stsrelay/internal/addr"

	"github.com/emersion/go-smtp"
)

// maxRecipients bounds one transaction (RFC 5321, Section 4.5.3.1.8 asks for
// 100 at least).
const maxRecipients = 1000

// A session is one client's. It is the only place that makes an SMTPError.
type session struct {
	l    *Listener
	conn *smtp.Conn
	shim *shim
	ctx  context.Context

	from addr.Address
	opts smtp.MailOptions
	mail bool // MAIL was taken
	to   []addr.Address
	seen map[mailbox]bool // of to

	stray   int  // messages with a bare CR or LF so far
	closing bool // 421 was said
}

// Reset ends a transaction.
func (s *session) Reset() {
	s.mail, s.from, s.opts, s.to, s.seen = false, addr.Address{}, smtp.MailOptions{}, nil, nil
	s.shim.setBusy(false)
}

// Logout ends the session.
func (s *session) Logout() error {
	s.Reset()
	return nil
}

// Mail begins a transaction.
func (s *session) Mail(from string, o *smtp.MailOptions) error {
	switch {
	case s.closing: // go-smtp still has what was pipelined
		return refusal(421, smtp.EnhancedCode{4, 7, 0}, "this connection is closing")
	case s.mail: // go-smtp would keep the recipients of the first one (S8)
		return s.refused(503, smtp.EnhancedCode{5, 5, 1}, "a transaction is under way: say RSET first")
	case !s.shim.greeted: // what was said before TLS does not count (RFC 3207, Section 4.2)
		return s.refused(503, smtp.EnhancedCode{5, 5, 1}, "say EHLO first: TLS has begun since the last one")
	case o.Auth != nil: // RFC 5321, Section 4.1.1.11
		return s.refused(555, smtp.EnhancedCode{5, 5, 4}, "AUTH is not offered")
	}
	if client := s.shim.RemoteAddr(); !mayRelay(s.l.o.AllowFrom, client) {
		return s.refused(550, smtp.EnhancedCode{5, 7, 1}, "client %s may not relay here: allow_from of listener %q does not list it", clientText(client), s.l.o.Name)
	}
	if o.Size > s.l.o.MaxMessageSize {
		return s.refused(552, smtp.EnhancedCode{5, 3, 4}, "the message is larger than the %d octets that are taken here", s.l.o.MaxMessageSize)
	}
	var a addr.Address
	if from != "" {
		var err error
		if a, err = readAddress(from); err != nil {
			return s.badAddress(smtp.EnhancedCode{5, 1, 7}, "sender", err)
		}
	}
	s.from, s.opts, s.mail, s.seen = a, *o, true, map[mailbox]bool{}
	s.shim.setBusy(true)
	return nil
}

// Rcpt adds a recipient.
func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	a, err := readAddress(to)
	switch {
	case err != nil:
		return s.badAddress(smtp.EnhancedCode{5, 1, 3}, "recipient", err)
	case len(s.to) >= maxRecipients:
		return s.refused(452, smtp.EnhancedCode{4, 5, 3}, "more than %d recipients: send the message again to the others", maxRecipients)
	case !s.seen[mailbox{a.Local(), a.NextHop()}]:
		s.seen[mailbox{a.Local(), a.NextHop()}] = true
		s.to = append(s.to, a)
	}
	return nil
}

// A mailbox is an address however its domain was written.
type mailbox struct {
	local string
	at    addr.NextHop
}

func (s *session) badAddress(enhanced smtp.EnhancedCode, who string, err error) error {
	if errors.Is(err, errNotASCII) {
		return s.refused(553, smtp.EnhancedCode{5, 6, 7}, "the %s's address is not ASCII, and SMTPUTF8 is not offered", who)
	}
	return s.refused(553, enhanced, "the %s's address is not one: %s", who, cleanLine(err.Error()))
}

var errNotASCII = errors.New("not ASCII")

// readAddress reads an address as go-smtp gives it: with its local part
// unquoted (RFC 5321, Section 4.1.2; S6).
func readAddress(s string) (addr.Address, error) {
	if strings.IndexFunc(s, func(r rune) bool { return r > 0x7f }) >= 0 {
		return addr.Address{}, errNotASCII
	}
	if strings.ContainsFunc(s, unicode.IsControl) { // S7
		return addr.Address{}, fmt.Errorf("%q has control characters", s)
	}
	i := strings.LastIndexByte(s, '@')
	if i < 0 {
		return addr.Address{}, fmt.Errorf("%q has no domain", s)
	}
	return addr.ParseAddress(addr.Quote(s[:i]) + s[i:])
}

// Data takes the content. Only when the store has it is the client told 250.
func (s *session) Data(r io.Reader) (err error) {
	s.shim.beginContent()
	if len(s.to) == 0 { // it had recipients before TLS
		return s.refused(503, smtp.EnhancedCode{5, 5, 1}, "no recipients")
	}
	id := NewID()
	body, err := s.l.o.Store.NewBody(s.ctx)
	if err != nil {
		return s.storeFault(id, err)
	}
	defer body.Discard()
	in := &intake{s: s, id: id, to: body}
	if err := in.copy(r); err != nil {
		return err
	}
	return s.accept(in, body)
}

// An intake is content on its way to the store.
type intake struct {
	s    *session
	id   ID
	to   BodyWriter
	head headerScan
	eol  lineEnds
	n    int64
	high bool // octets above 0x7F
}

func (in *intake) copy(r io.Reader) error {
	s := in.s
	if _, err := io.WriteString(in.to, s.trace(in.id).field()); err != nil {
		return s.storeFault(in.id, err)
	}
	w := bufio.NewWriterSize(in.to, 32<<10)
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		in.n += int64(n)
		if in.n > s.l.o.MaxMessageSize {
			return s.refused(552, smtp.EnhancedCode{5, 3, 4}, "the message is larger than the %d octets that are taken here", s.l.o.MaxMessageSize)
		}
		p := buf[:n]
		if s.l.o.Normalize {
			p = in.eol.mend(p, err == io.EOF)
		}
		in.note(p)
		if _, werr := w.Write(p); werr != nil {
			return s.storeFault(in.id, werr)
		}
		switch {
		case errors.Is(err, io.EOF) && s.shim.content.bare && !s.l.o.Normalize:
			return s.strayLineEnd()
		case errors.Is(err, io.EOF) && s.shim.content.long:
			return s.refused(554, smtp.EnhancedCode{5, 6, 0}, "a line of the content has more than %d octets", maxBodyLine)
		case errors.Is(err, io.EOF):
			in.head.end()
			if err := w.Flush(); err != nil {
				return s.storeFault(in.id, err)
			}
			return nil
		case err != nil: // what follows cannot be told from commands
			_ = s.shim.fail(net.ErrClosed)
			return s.refused(451, smtp.EnhancedCode{4, 4, 2}, "the content broke off")
		}
	}
}

// strayLineEnd refuses content that two servers could read as two different
// messages, and at the second time the client with it (RFC 5321, Section 2.3.8;
// ledger SMUG-02).
func (s *session) strayLineEnd() error {
	const text = "the content has a CR or LF that is not part of a CRLF (RFC 5321, Section 2.3.8); line_endings = \"normalize\" of the listener mends it"
	if s.stray++; s.stray == 1 {
		return s.refused(550, smtp.EnhancedCode{5, 5, 2}, text)
	}
	s.closing = true
	s.shim.drop()
	return s.refused(421, smtp.EnhancedCode{4, 7, 0}, "once more "+text)
}

func (in *intake) note(p []byte) {
	in.head.write(p)
	for i := 0; i < len(p) && !in.high; i++ {
		in.high = p[i] > 0x7f
	}
}

// accept gives body and entries to the store.
func (s *session) accept(in *intake, body BodyWriter) error {
	if in.head.hops >= maxHops {
		return s.refused(554, smtp.EnhancedCode{5, 4, 6}, "the message has passed %d hosts: it is in a loop", in.head.hops)
	}
	m := s.message(in, body.Size())
	err := s.l.o.Store.Accept(s.ctx, m, body)
	if errors.Is(err, ErrUnknownOutcome) {
		s.l.forget(s.ctx, m.ID)
	}
	if err != nil {
		return s.storeFault(in.id, err)
	}
	s.l.accepted.Add(1)
	s.logAccepted(m, in)
	if s.l.o.Wake != nil {
		dests := make([]Destination, len(m.Entries))
		for i, e := range m.Entries {
			dests[i] = e.Destination
		}
		s.l.o.Wake(dests...)
	}
	return refusal(250, smtp.EnhancedCode{2, 0, 0}, "queued as %s", m.ID)
}

// message splits the recipients by destination.
func (s *session) message(in *intake, size int64) Message {
	o := Options{Body: Body(s.opts.Body), EightBit: in.high, Listener: s.l.o.Name, Upstream: in.head.upstream,
		Client: heloText(s.conn.Hostname()) + " " + clientText(s.shim.RemoteAddr())}
	m := Message{ID: in.id, From: s.from, Options: o, Size: size}
	index := map[Destination]int{}
	for _, a := range s.to {
		d := Destination(a.NextHop().String())
		i, ok := index[d]
		if !ok {
			i = len(m.Entries)
			index[d] = i
			m.Entries = append(m.Entries, NewEntry{Destination: d})
		}
		m.Entries[i].To = append(m.Entries[i].To, Recipient{Address: a})
	}
	for i := range m.Entries {
		m.Entries[i].ID = EntryID(m.ID, i, len(m.Entries))
	}
	return m
}

func (s *session) trace(id ID) trace {
	t := trace{helo: s.conn.Hostname(), client: clientIP(s.shim.RemoteAddr()), hostname: s.l.o.Hostname, esmtp: s.shim.esmtp, id: id, at: time.Now()}
	if tc, ok := s.shim.Conn.(*tls.Conn); ok {
		state := tc.ConnectionState()
		t.tls = tls.VersionName(state.Version) + " with cipher " + tls.CipherSuiteName(state.CipherSuite)
	}
	if len(s.to) == 1 {
		t.to = s.to[0].String()
	}
	return t
}

// storeFault says what the client must know: try again.
func (s *session) storeFault(id ID, err error) error {
	s.l.o.Log.Error().Err(err).Str("queue_id", string(id)).Str("listener", s.l.o.Name).Msg("a message could not be stored; the client was told to try again")
	s.l.refused.Add(1)
	if noRoom(err) {
		return refusal(452, smtp.EnhancedCode{4, 3, 1}, "there is no room to store the message; try again later")
	}
	return refusal(451, smtp.EnhancedCode{4, 3, 0}, "the message could not be stored; try again later")
}

// refused logs a refusal and returns it.
func (s *session) refused(code int, enhanced smtp.EnhancedCode, format string, args ...any) error {
	e := refusal(code, enhanced, format, args...)
	s.l.refused.Add(1)
	s.l.o.Log.Info().Str("listener", s.l.o.Name).Str("client", clientText(s.shim.RemoteAddr())).Str("helo", heloText(s.conn.Hostname())).
		Str("from", s.from.String()).Int("code", code).Str("reason", e.Message).Msg("a client was refused: " + e.Message)
	return e
}

func (s *session) logAccepted(m Message, in *intake) {
	s.l.o.Log.Info().Str("queue_id", string(m.ID)).Str("from", m.From.String()).Int("nrcpt", len(s.to)).Int64("size", m.Size).
		Str("client", m.Options.Client).Str("listener", s.l.o.Name).Str("message_id", in.head.messageID).
		Str("upstream_id", m.Options.Upstream).
		Msgf("%s: from=%s, size=%d, nrcpt=%d (queue active)", m.ID, m.From.Path(), m.Size, len(s.to))
}

// A contentScan follows content to its end by the rules of go-smtp's reader,
// state by state: were it to see another end, it would take commands for
// content, or content for commands (RFC 5321, Section 4.1.1.4; ledger SMUG-01).
type contentScan struct {
	open  bool // the end is still to come
	state scanState
	cr    bool // the last octet was a CR
	line  int  // octets of the line so far
	bare  bool // there was a CR or LF that was not part of a CRLF
	long  bool // there was a line of more than maxBodyLine octets
}

type scanState uint8

const (
	lineStart scanState = iota // where content begins
	lineDot                    // after a dot at the start of a line
	lineDotCR                  // after that and a CR
	lineCR                     // after a CR that may end the line
	lineRest
)

// scan returns how many octets of p are content.
func (s *contentScan) scan(p []byte) (n int) {
	for n < len(p) && s.open {
		if s.state == lineRest && p[n] != '\r' { // most octets: up to the next that matters
			end := bytes.IndexByte(p[n:], '\r')
			if end < 0 {
				end = len(p) - n
			}
			s.skip(p[n : n+end])
			n += end
			continue
		}
		s.step(p[n])
		n++
	}
	return n
}

// skip takes octets of which none is a CR.
func (s *contentScan) skip(p []byte) {
	for len(p) > 0 {
		end := bytes.IndexByte(p, '\n')
		if end < 0 {
			s.bare = s.bare || s.cr
			s.cr = false
			s.count(len(p))
			return
		}
		s.bare = s.bare || end > 0 || !s.cr
		s.cr = false
		s.count(end)
		s.line, p = 0, p[end+1:]
	}
}

func (s *contentScan) step(b byte) {
	s.bare = s.bare || (b == '\n') != s.cr
	s.cr = b == '\r'
	if b == '\n' {
		s.line = 0
	} else {
		s.count(1)
	}
	switch {
	case s.state == lineStart && b == '.':
		s.state = lineDot
	case s.state == lineDot && b == '\r':
		s.state = lineDotCR
	case s.state == lineDotCR && b == '\n':
		s.open = false
	case s.state == lineCR && b == '\n':
		s.state = lineStart
	case (s.state == lineStart || s.state == lineRest) && b == '\r':
		s.state = lineCR
	default:
		s.state = lineRest
	}
}

func (s *contentScan) count(n int) {
	s.line += n
	s.long = s.long || s.line > maxBodyLine
}
