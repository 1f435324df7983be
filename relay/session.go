package relay

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"stsrelay/delivery"
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

	from   addr.Address
	params mailParams
	mail   bool // MAIL was taken
	to     []Recipient
	seen   map[mailbox]bool // of to

	stray    int  // messages with a bare CR or LF so far
	dnsFails bool // a question about an address had no answer in time
}

// Reset ends a transaction.
func (s *session) Reset() {
	s.mail, s.from, s.params, s.to, s.seen = false, addr.Address{}, mailParams{}, nil, nil
	s.shim.setBusy(false)
}

// Logout ends the session.
func (s *session) Logout() error {
	s.Reset()
	return nil
}

// Mail begins a transaction. Its parameters are the shim's (S18).
func (s *session) Mail(from string, _ *smtp.MailOptions) error {
	switch {
	case s.mail: // go-smtp would keep the recipients of the first one (S8)
		return s.refused(503, smtp.EnhancedCode{5, 5, 1}, "a transaction is under way: say RSET first")
	case !s.shim.greeted: // what was said before TLS does not count (RFC 3207, Section 4.2)
		return s.refused(503, smtp.EnhancedCode{5, 5, 1}, "say EHLO first: TLS has begun since the last one")
	}
	if client := s.shim.RemoteAddr(); !mayRelay(s.l.o.AllowFrom, client) {
		return s.refused(550, smtp.EnhancedCode{5, 7, 1}, "client %s may not relay here: allow_from of listener %q does not list it", clientText(client), s.l.o.Name)
	}
	p, err := parseMailParams(s.shim.args)
	switch {
	case err != nil:
		return s.badParams("MAIL", err)
	case p.requireTLS && s.l.o.TLS == nil:
		return s.badParams("MAIL", unknownParam("REQUIRETLS"))
	case p.requireTLS && !s.shim.isSecure(): // RFC 8689, Section 2
		return s.refused(530, smtp.EnhancedCode{5, 7, 10}, "REQUIRETLS is for TLS only: say STARTTLS first")
	case p.size > s.l.o.MaxMessageSize:
		return s.refused(552, smtp.EnhancedCode{5, 3, 4}, "the message is larger than the %d octets that are taken here", s.l.o.MaxMessageSize)
	}
	var a addr.Address
	if from != "" {
		a, err = readAddress(from, p.utf8)
		switch {
		case errors.Is(err, errNotASCII): // RFC 6531, Section 3.5
			return s.refused(550, smtp.EnhancedCode{5, 6, 7}, "the sender's address is not ASCII, and MAIL has no SMTPUTF8")
		case err != nil:
			return s.refused(501, smtp.EnhancedCode{5, 1, 7}, "the sender's address is not one: %s", cleanLine(err.Error()))
		case s.isNullMX(a): // RFC 7505, Section 4.1
			return s.refused(550, smtp.EnhancedCode{5, 7, 27}, "the sender's domain says by a null MX record that it takes no mail: nothing could be returned to it")
		}
	}
	s.from, s.params, s.mail, s.seen = a, p, true, map[mailbox]bool{}
	s.shim.setBusy(true)
	return nil
}

// Rcpt adds a recipient. Of one that is named twice the first counts, with its
// parameters.
func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	p, err := parseRcptParams(s.shim.args, s.params.utf8)
	if err != nil {
		return s.badParams("RCPT", err)
	}
	a, err := readAddress(to, s.params.utf8)
	switch {
	case errors.Is(err, errNotASCII): // RFC 6531, Section 3.5
		return s.refused(553, smtp.EnhancedCode{5, 6, 7}, "the recipient's address is not ASCII, and MAIL had no SMTPUTF8")
	case err != nil:
		return s.refused(501, smtp.EnhancedCode{5, 1, 3}, "the recipient's address is not one: %s", cleanLine(err.Error()))
	case len(s.to) >= maxRecipients:
		return s.refused(452, smtp.EnhancedCode{4, 5, 3}, "more than %d recipients: send the message again to the others", maxRecipients)
	case s.seen[mailbox{a.Local(), a.NextHop()}]:
		return nil
	case s.isNullMX(a): // RFC 7505, Section 4.1
		return s.refused(556, smtp.EnhancedCode{5, 1, 10}, "the recipient's domain says by a null MX record that it takes no mail")
	}
	s.seen[mailbox{a.Local(), a.NextHop()}] = true
	s.to = append(s.to, Recipient{Address: a, Notify: p.notify, Original: p.original})
	return nil
}

// badParams refuses parameters: those that are not offered (RFC 5321, Section
// 4.1.1.11), and those that are wrong.
func (s *session) badParams(verb string, err error) error {
	var unknown unknownParam
	if errors.As(err, &unknown) {
		return s.refused(555, smtp.EnhancedCode{5, 5, 4}, "a parameter of %s: %s", verb, unknown.Error())
	}
	return s.refused(501, smtp.EnhancedCode{5, 5, 4}, "a parameter of %s: %s", verb, err.Error())
}

// A mailbox is an address however its domain was written.
type mailbox struct {
	local string
	at    addr.NextHop
}

var errNotASCII = errors.New("not ASCII")

// readAddress reads an address as go-smtp gives it: with its local part
// unquoted (RFC 5321, Section 4.1.2; S6). Wide says that MAIL had SMTPUTF8.
func readAddress(s string, wide bool) (addr.Address, error) {
	if !wide && !onlyASCII(s) {
		return addr.Address{}, errNotASCII
	}
	if !utf8.ValidString(s) {
		return addr.Address{}, errors.New("it is not UTF-8")
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
	field := s.trace(in.id).field()
	in.high = !onlyASCII(field)
	if _, err := io.WriteString(in.to, field); err != nil {
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
	if s.l.o.StrictHeaders && in.head.high && !s.params.utf8 {
		return s.refused(554, smtp.EnhancedCode{5, 6, 9}, "the header is not ASCII, and MAIL had no SMTPUTF8")
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
	o := Options{Body: s.params.body, EightBit: in.high, UTF8: s.params.utf8, Head8: in.head.isUTF8(), Single: !in.head.parts, Demand: s.demand(in),
		Envelope: s.params.envelope, Return: s.params.ret, Listener: s.l.o.Name, Upstream: in.head.upstream,
		Client: heloText(s.conn.Hostname()) + " " + clientText(s.shim.RemoteAddr())}
	m := Message{ID: in.id, From: s.from, Options: o, Size: size}
	index := map[Destination]int{}
	for _, r := range s.to {
		d := Destination(r.Address.NextHop().String())
		i, ok := index[d]
		if !ok {
			i = len(m.Entries)
			index[d] = i
			m.Entries = append(m.Entries, NewEntry{Destination: d})
		}
		m.Entries[i].To = append(m.Entries[i].To, r)
	}
	for i := range m.Entries {
		m.Entries[i].ID = EntryID(m.ID, i, len(m.Entries))
	}
	return m
}

// demand is what the message asks of TLS. Its header is not heard if MAIL has
// spoken (RFC 8689, Section 4.1).
func (s *session) demand(in *intake) delivery.Demand {
	switch {
	case s.params.requireTLS && s.from.IsNull(): // a bounce (RFC 8689, Section 5)
		return delivery.Prefer
	case s.params.requireTLS:
		return delivery.Require
	case in.head.tls.isNo() && !s.l.o.IgnoreTLSRequired:
		return delivery.Ignore
	}
	return delivery.Default
}

func (s *session) trace(id ID) trace {
	t := trace{helo: s.conn.Hostname(), client: clientIP(s.shim.RemoteAddr()), hostname: s.l.o.Hostname, esmtp: s.shim.esmtp,
		utf8: s.params.utf8, wide: s.isWide(), id: id, at: time.Now()}
	if tc, ok := s.shim.Conn.(*tls.Conn); ok {
		state := tc.ConnectionState()
		t.tls = tls.VersionName(state.Version) + " with cipher " + tls.CipherSuiteName(state.CipherSuite)
	}
	if len(s.to) == 1 {
		t.to = s.to[0].Address
	}
	if s.l.o.HideClient { // RFC 5321, Section 7.2
		t.helo, t.client = "", netip.Addr{}
	}
	return t
}

// isWide reports whether all copies of the message will go with SMTPUTF8 or not
// at all, for they have an address that needs it.
func (s *session) isWide() bool {
	return s.from.NeedsUTF8() || !slices.ContainsFunc(s.to, func(r Recipient) bool { return !r.Address.NeedsUTF8() })
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
