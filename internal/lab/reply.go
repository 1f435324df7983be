package lab

import (
	"io"
	"strings"
)

// say replies and has nothing else to do.
func (c *conversation) say(e event, usual string) error { return c.unless421(c.reply(e, usual)) }

// unless421 ends the conversation after a 421 reply (RFC 5321, Section 3.8).
func (c *conversation) unless421(code string, err error) error {
	if err == nil && code == "421" {
		return errGone
	}
	return err
}

func (c *conversation) reset() { c.mail, c.rcpts, c.refused = "", nil, false }

// reply sends the usual reply to an event, or what a rule says, and returns
// the code of what was sent.
func (c *conversation) reply(e event, usual string) (code string, err error) {
	r := c.h.matching(e)
	if r == nil {
		r = &Rule{}
	}
	if err := c.prepare(r); err != nil {
		return "", err
	}
	if e.stage == Connect && c.pending() {
		c.violation(EarlyTalk, "")
	}
	text := r.text()
	if text == "" && !r.silent() {
		text = multiline(usual)
	}
	if err := c.send(text); err != nil {
		return "", err
	}
	code = codeOf(text)
	if e.said != nil {
		e.said(code)
	}
	return code, c.act(r)
}

// interfere does what a rule says at a point where nothing is said otherwise.
func (c *conversation) interfere(r *Rule) error {
	if r == nil {
		return nil
	}
	if err := c.prepare(r); err != nil {
		return err
	}
	if err := c.send(r.text()); err != nil {
		return err
	}
	return c.act(r)
}

// prepare is what comes before a rule's reply.
func (c *conversation) prepare(r *Rule) error {
	if r.Delay > 0 || r.Until != nil || r.Call != nil {
		c.flush()
	}
	if r.Call != nil {
		r.Call()
	}
	if !sleep(r.Delay, c.h.w.done) {
		return errGone
	}
	if r.Until != nil {
		select {
		case <-r.Until:
		case <-c.h.w.done:
			return errGone
		}
	}
	return nil
}

// act is what comes after a rule's reply.
func (c *conversation) act(r *Rule) error {
	if r.Then == Continue {
		return nil
	}
	if err := c.flush(); err != nil {
		return err
	}
	switch r.Then {
	case Reset:
		c.tcp.SetLinger(0)
		return errReset
	case Stall:
		c.stall()
		return errReset
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
