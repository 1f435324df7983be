package lab

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A conversation is one connection to an MX host. It is used by one goroutine.
type conversation struct {
	h    *MXHost
	conf *MX
	n    int // number of the connection, from 1
	tcp  *net.TCPConn
	conn net.Conn // tcp, or TLS over it
	in   *bufio.Reader
	out  *bufio.Writer
	tls  *TLSState

	helo     string
	esmtp    bool // EHLO, not HELO
	mail     string
	rcpts    []string
	refused  bool // something of this transaction was refused
	messages int
}

// errGone ends a conversation.
var errGone = errors.New("the conversation is over")

// serve talks to one client.
func (h *MXHost) serve(tcp *net.TCPConn, n int) {
	c := &conversation{h: h, conf: h.config(), n: n, tcp: tcp}
	if c.conf.SmallBuffers {
		tcp.SetReadBuffer(1)
		tcp.SetWriteBuffer(1)
	}
	c.over(tcp)
	c.talk()      // how it ended is in the transcript
	c.out.Flush() // the client may have gone
}

// over has the conversation go on over conn.
func (c *conversation) over(conn net.Conn) {
	c.conn = conn
	c.in = bufio.NewReaderSize(&counted{c}, 64<<10)
	c.out = bufio.NewWriterSize(conn, 4<<10)
}

// counted reads from a conversation's client and counts the flights.
type counted struct{ c *conversation }

func (r *counted) Read(p []byte) (int, error) {
	c := r.c
	if err := c.out.Flush(); err != nil {
		return 0, err
	}
	if d := c.conf.SlowRead; d > 0 {
		if !c.pause(d, nil) {
			return 0, errGone
		}
		p = p[:min(len(p), 512)]
	}
	if !c.conf.Forget {
		c.h.note(func(s *seen) {
			if s.flights == nil {
				s.flights = map[int]int{}
			}
			s.flights[c.n]++
		})
	}
	return c.conn.Read(p)
}

// talk greets and obeys until one side has had enough.
func (c *conversation) talk() error {
	if c.conf.ImplicitTLS {
		if err := c.handshake(); err != nil {
			return err
		}
	}
	if err := c.greet(); err != nil {
		return err
	}
	for {
		line, err := c.line()
		if err != nil {
			return err
		}
		if err := c.obey(line); err != nil {
			return err
		}
	}
}

func (c *conversation) greet() error {
	usual := "220 " + c.conf.Name + " ESMTP lab"
	if limit := c.conf.MaxConnections; limit > 0 && c.h.Open() > limit {
		c.send("421 4.7.0 " + c.conf.Name + " too many connections\r\n")
		c.out.Flush()
		return errGone
	}
	code, err := c.reply(event{stage: Connect, tls: c.tls != nil}, usual)
	if err == nil && code == "421" {
		err = c.out.Flush()
		return errors.Join(errGone, err)
	}
	return err
}

// line reads one command.
func (c *conversation) line() (string, error) {
	raw, err := c.in.ReadString('\n')
	if err != nil {
		return "", err
	}
	line := strings.TrimSuffix(strings.TrimSuffix(raw, "\n"), "\r")
	c.log(false, line)
	c.checkLine(raw)
	return line, nil
}

// obey does what a command asks, unless a rule says otherwise.
func (c *conversation) obey(line string) error {
	verb, arg, _ := strings.Cut(line, " ")
	verb = strings.ToUpper(verb)
	e := event{stage: verb, line: line, tls: c.tls != nil}
	c.checkOrder(verb, line)
	switch verb {
	case "EHLO", "HELO":
		return c.hello(e, arg)
	case "STARTTLS":
		return c.startTLS(e)
	case "MAIL":
		return c.from(e, line)
	case "RCPT":
		return c.to(e, line)
	case "DATA":
		return c.data(e)
	case "RSET":
		c.reset()
		return c.say(e, "250 2.0.0 ok")
	case "NOOP":
		return c.say(e, "250 2.0.0 ok")
	case "QUIT":
		if err := c.say(e, "221 2.0.0 bye"); err != nil {
			return err
		}
		return io.EOF
	}
	return c.say(e, "502 5.5.1 command not known")
}

func (c *conversation) hello(e event, name string) error {
	ehlo := e.stage == "EHLO"
	usual := "250 " + c.conf.Name
	if ehlo && c.conf.NoESMTP {
		usual = "502 5.5.1 command not known"
	} else if ehlo {
		usual = strings.Join(append([]string{usual}, c.keywords()...), "\n")
	}
	code, err := c.reply(e, usual)
	if code == "250" {
		c.reset()
		c.helo, c.esmtp = name, ehlo
	}
	return err
}

// keywords lists what EHLO offers now.
func (c *conversation) keywords() []string {
	list := c.conf.Extensions
	if list == nil {
		list = DefaultExtensions()
	}
	if c.tls != nil {
		if c.conf.TLSExtensions != nil {
			list = c.conf.TLSExtensions
		}
		return list
	}
	if c.conf.NoStartTLS || c.conf.ImplicitTLS {
		return list
	}
	return append(slices.Clone(list), first(c.conf.StartTLSWord, "STARTTLS"))
}

// offers reports whether the EHLO in force offers a keyword, and its
// parameter.
func (c *conversation) offers(word string) (param string, ok bool) {
	if !c.esmtp {
		return "", false
	}
	for _, k := range c.keywords() {
		name, p, _ := strings.Cut(k, " ")
		if strings.EqualFold(name, word) {
			return p, true
		}
	}
	return "", false
}

func (c *conversation) startTLS(e event) error {
	usual := "220 2.0.0 go ahead"
	if c.tls != nil || c.conf.NoStartTLS {
		usual = "502 5.5.1 command not known"
	}
	code, err := c.reply(e, usual)
	if err != nil || code != "220" {
		return err
	}
	if err := c.out.Flush(); err != nil {
		return err
	}
	if err := c.handshake(); err != nil {
		return err
	}
	c.helo, c.esmtp = "", false
	c.reset()
	return nil
}

// handshake puts TLS over the connection.
func (c *conversation) handshake() error {
	if r := c.h.matching(event{stage: TLSStart}); r != nil {
		if _, err := c.carryOut(r, ""); err != nil {
			return err
		}
	}
	conn := tls.Server(&rest{Conn: c.tcp, in: c.in}, c.h.tlsConfig(c.conf))
	hs := Handshake{Conn: c.n}
	if hs.Err = conn.Handshake(); hs.Err == nil {
		hs.State = stateOf(conn.ConnectionState())
	}
	hs.SNI = conn.ConnectionState().ServerName
	c.h.note(func(s *seen) { s.handshakes = append(s.handshakes, hs) })
	if hs.Err != nil {
		return hs.Err
	}
	c.tls = hs.State
	c.over(conn)
	return nil
}

// rest reads what a bufio.Reader has left, then on.
type rest struct {
	net.Conn
	in *bufio.Reader
}

func (r *rest) Read(p []byte) (int, error) {
	if r.in.Buffered() > 0 {
		return r.in.Read(p)
	}
	return r.Conn.Read(p)
}

func (c *conversation) from(e event, line string) error {
	usual := "250 2.1.0 ok"
	switch limit, has := c.offers("SIZE"); {
	case c.helo == "":
		usual = "503 5.5.1 say hello first"
	case c.mail != "":
		usual = "503 5.5.1 one sender at a time"
	case path(line) == nil:
		usual = "501 5.5.4 syntax: MAIL FROM:<address>"
	case c.conf.MaxMessages > 0 && c.messages >= c.conf.MaxMessages:
		usual = "421 4.7.0 " + c.conf.Name + " that was enough"
	case has && tooBig(line, limit):
		usual = "552 5.3.4 message too big"
	}
	c.checkMail(line)
	code, err := c.reply(e, usual)
	if strings.HasPrefix(code, "2") {
		c.mail, c.rcpts, c.refused = line, nil, false
	} else {
		c.refused = true
	}
	return c.unless421(code, err)
}

func tooBig(line, limit string) bool {
	most, err := strconv.ParseInt(limit, 10, 64)
	if err != nil || most == 0 {
		return false
	}
	size, err := strconv.ParseInt(params(line)["SIZE"], 10, 64)
	return err == nil && size > most
}

func (c *conversation) to(e event, line string) error {
	usual := "250 2.1.5 ok"
	switch {
	case c.mail == "":
		usual = "503 5.5.1 who is it from?"
	case path(line) == nil:
		usual = "501 5.5.4 syntax: RCPT TO:<address>"
	}
	c.checkRcpt(line)
	code, err := c.reply(e, usual)
	if strings.HasPrefix(code, "2") && c.mail != "" {
		c.rcpts = append(c.rcpts, line)
	} else {
		c.refused = true
	}
	return c.unless421(code, err)
}

// say replies and has nothing else to do.
func (c *conversation) say(e event, usual string) error { return c.unless421(c.reply(e, usual)) }

// unless421 ends the conversation after a 421 reply (RFC 5321, Section 3.8).
func (c *conversation) unless421(code string, err error) error {
	if err == nil && code == "421" {
		c.out.Flush()
		return errGone
	}
	return err
}

func (c *conversation) reset() { c.mail, c.rcpts, c.refused = "", nil, false }

// reply sends the usual reply to an event, or what a rule says, and returns
// the code of what was sent.
func (c *conversation) reply(e event, usual string) (code string, err error) {
	if r := c.h.matching(e); r != nil {
		return c.carryOut(r, usual)
	}
	return codeOf(usual), c.send(multiline(usual))
}

// carryOut does what a rule says.
func (c *conversation) carryOut(r *Rule, usual string) (code string, err error) {
	if r.Call != nil {
		r.Call()
	}
	if !c.pause(r.Delay, r.Until) {
		return "", errGone
	}
	text := r.text()
	if text == "" && !r.silent() && usual != "" {
		text = multiline(usual)
	}
	if err := c.send(text); err != nil {
		return "", err
	}
	return codeOf(text), c.act(r)
}

// act is what comes after a rule's reply.
func (c *conversation) act(r *Rule) error {
	if r.Then == Continue {
		return nil
	}
	if err := c.out.Flush(); err != nil {
		return err
	}
	switch r.Then {
	case Reset:
		c.tcp.SetLinger(0)
	case Stall:
		c.stall()
	case Endless:
		for err := error(nil); err == nil; {
			_, err = io.WriteString(c.conn, first(r.Raw, "250-and one more line\r\n"))
		}
	}
	return errGone
}

// stall reads nothing and waits for the client to go. That it has gone shows
// only when what it sent is read, so what comes is read and thrown away, with
// nothing done about it.
func (c *conversation) stall() { io.Copy(io.Discard, c.tcp) }

// pause waits. It is false when the world ends first.
func (c *conversation) pause(d time.Duration, until <-chan struct{}) bool {
	if d > 0 || until != nil {
		c.out.Flush()
	}
	if d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
		case <-c.h.w.done:
			return false
		}
	}
	if until != nil {
		select {
		case <-until:
		case <-c.h.w.done:
			return false
		}
	}
	return true
}

// send writes text; it leaves when the client has nothing more to say.
func (c *conversation) send(text string) error {
	if text == "" {
		return nil
	}
	for l := range strings.Lines(text) {
		c.log(true, strings.TrimRight(l, "\r\n"))
	}
	_, err := c.out.WriteString(text)
	return err
}

func (c *conversation) log(server bool, text string) {
	if c.conf.Forget {
		return
	}
	l := Line{Conn: c.n, TLS: c.tls != nil, Server: server, Text: text}
	c.h.note(func(s *seen) { s.lines = append(s.lines, l) })
}

func (c *conversation) violation(what, line string) {
	v := Violation{c.n, what, line}
	c.h.note(func(s *seen) { s.violations = append(s.violations, v) })
}

// path is the address of a MAIL or RCPT command, nil if there is none.
func path(line string) *string {
	_, rest, ok := strings.Cut(line, ":")
	if !ok {
		return nil
	}
	rest = strings.TrimLeft(rest, " ")
	if !strings.HasPrefix(rest, "<") {
		return nil
	}
	quoted := false
	for i := 1; i < len(rest); i++ {
		switch b := rest[i]; {
		case quoted && b == '\\':
			i++
		case b == '"':
			quoted = !quoted
		case b == '>' && !quoted:
			p := rest[1:i]
			return &p
		}
	}
	return nil
}

// params are the parameters of a MAIL or RCPT command, names in upper case.
func params(line string) map[string]string {
	p := path(line)
	if p == nil {
		return nil
	}
	_, tail, _ := strings.Cut(line, "<"+*p+">")
	list := map[string]string{}
	for _, f := range strings.Fields(tail) {
		name, value, _ := strings.Cut(f, "=")
		list[strings.ToUpper(name)] = value
	}
	return list
}
