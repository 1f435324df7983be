package delivery

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A transaction is one MAIL, its RCPTs and DATA (RFC 5321, Section 3.3). Where
// PIPELINING is offered the whole envelope is one group (RFC 2920, Section
// 3.1; ledger PIPE-3.1-06), which travels right behind the content of the
// transaction before: one round trip per message.
type transaction struct {
	*task
	site   *site
	who    []int // recipients, in the order of their RCPTs
	rest   []int // further recipients of this visit, beyond what the server takes at once
	body   io.ReadCloser
	began  time.Time
	setup  time.Duration
	reused bool // the connection has carried another before
	rset   bool // RSET opens the group
	utf8   bool // MAIL says SMTPUTF8

	accepted []int
	ended    bool // the final dot is on its way
}

// errStale says that a connection that had been used before ended before it
// answered MAIL: nothing is known against the host, and another connection is
// opened.
var errStale = errors.New("the kept connection had ended")

// mailLine is MAIL with what this server understands and this message needs
// (ledger SMTP-4.1.1.3-03, 8BIT-3-01, SIZE-6-01, UTF8-3.1-02, RTLS-2-02). A
// header in UTF-8 that came without SMTPUTF8 goes with it where it can, and else
// as it came (UTF8-6532-01).
func (x *transaction) mailLine(b *strings.Builder, c *conn) {
	b.WriteString("MAIL FROM:<")
	b.WriteString(x.From.Wire())
	b.WriteByte('>')
	if c.ext.size {
		b.WriteString(" SIZE=")
		b.WriteString(strconv.FormatInt(x.Size, 10))
	}
	if x.Body8 {
		b.WriteString(" BODY=8BITMIME")
	}
	if x.utf8 {
		b.WriteString(" SMTPUTF8")
	}
	if x.promises(c) {
		b.WriteString(" REQUIRETLS")
	}
	if c.ext.dsn {
		x.mailDSN(b)
	}
}

// promises reports whether MAIL says REQUIRETLS: only to a host that Judge finds
// good for it (RFC 8689, Section 2; ledger RTLS-2-02).
func (x *transaction) promises(c *conn) bool {
	if !c.evidence.RequireTLS || x.Demand != Require && x.Demand != Prefer {
		return false
	}
	return x.course.site(x.site.index, Require).decision.Judge(c.evidence).Proceed
}

// rcptLine is RCPT for recipient i.
func (x *transaction) rcptLine(b *strings.Builder, c *conn, i int) {
	b.WriteString("RCPT TO:<")
	b.WriteString(x.To[i].Address.Wire())
	b.WriteByte('>')
	if c.ext.dsn {
		x.rcptDSN(b, x.To[i])
	}
}

// group is the envelope as one group of commands.
func (x *transaction) group(c *conn) string {
	var b strings.Builder
	b.Grow(128 + 64*len(x.who))
	if x.rset {
		b.WriteString("RSET\r\n")
	}
	x.mailLine(&b, c)
	b.WriteString("\r\n")
	for _, i := range x.who {
		x.rcptLine(&b, c, i)
		b.WriteString("\r\n")
	}
	b.WriteString("DATA\r\n")
	return b.String()
}

// send starts the transaction: it writes the envelope, or without PIPELINING
// nothing (ledger PIPE-3.1-01, SMTP-4.3.1-02).
func (x *transaction) send(c *conn) error {
	x.began, x.reused, x.rset, x.utf8 = time.Now(), c.messages > 0, c.reset, x.needsUTF8() || x.Head8 && c.ext.utf8
	c.messages++
	if !c.ext.pipelining {
		return nil
	}
	return c.post(x.group(c))
}

// step returns the reply to the next command of the envelope, which without
// PIPELINING it sends first.
func (x *transaction) step(c *conn, d time.Duration, line string) (reply, error) {
	if !c.ext.pipelining {
		return c.ask(d, line)
	}
	return c.read(d)
}

// envelope hears what the server says of the envelope and settles those it
// refuses. True means that it waits for the content. An error is an *Error
// that ended the connection, or errStale.
func (x *transaction) envelope(c *conn) (ready bool, err error) {
	if x.rset {
		if r, err := x.step(c, c.t.Mail, "RSET"); err != nil || !r.ok() {
			return false, x.lost(c, StageMail, r, err)
		}
		c.reset = false
	}
	var line strings.Builder
	if !c.ext.pipelining {
		x.mailLine(&line, c)
	}
	mail, err := x.step(c, c.t.Mail, line.String())
	if err != nil || mail.code == 421 {
		return false, x.lost(c, StageMail, mail, err)
	}
	x.spoken = true
	x.fresh = false
	if c.reset = mail.ok(); !c.reset {
		x.refuse(c, x.who, StageMail, mail)
		if !c.ext.pipelining {
			return false, nil
		}
	}
	taken, err := x.recipients(c, mail.ok())
	if err != nil || taken == 0 && !c.ext.pipelining {
		return false, err
	}
	return x.data(c, taken)
}

// recipients hears the replies to RCPT and returns how many were positive.
func (x *transaction) recipients(c *conn, mailed bool) (taken int, err error) {
	var full []int // for want of room in this transaction, none for their own sake
	for k, i := range x.who {
		var line strings.Builder
		if !c.ext.pipelining {
			x.rcptLine(&line, c, i)
		}
		r, err := x.step(c, c.t.Rcpt, line.String())
		if err != nil || mailed && r.code == 421 {
			x.who = slices.Concat(x.accepted, full, x.who[k:])
			return taken, x.lost(c, StageRcpt, r, err)
		}
		switch {
		case r.ok():
			taken++
			if mailed {
				x.accepted = append(x.accepted, i)
			}
		case !mailed:
		case len(x.accepted) > 0 && tooMany(r):
			full = append(full, i)
		default:
			x.refuse(c, []int{i}, StageRcpt, r)
		}
	}
	if len(full) > 0 {
		x.rest = append(full, x.rest...)
		c.rcptMax = max(1, len(x.who)-len(full))
	}
	return taken, nil
}

// tooMany reports whether a reply to RCPT, after another was accepted, speaks
// of the number of recipients: 452, and 552 as RFC 821 had it (RFC 5321,
// Section 4.5.3.1.10; ledger SMTP-4.5.3.1-04, SIZE-6.4-01), unless its
// enhanced code says otherwise.
func tooMany(r reply) bool {
	e := r.enhanced()
	return (r.code == 452 || r.code == 552) && (e[1] == 0 || e[1] == 5 && e[2] == 3)
}

// data hears the reply to DATA. The content is sent after 354 only (ledger
// SMTP-3.3-01). When 354 comes although nobody was accepted the message is
// empty, and what the server says of it does not matter (ledger PIPE-3.1-04).
func (x *transaction) data(c *conn, taken int) (ready bool, err error) {
	r, err := x.step(c, c.t.Data, "DATA")
	if werr := c.wait(); err == nil {
		err = werr
	}
	switch {
	case err != nil || r.code == 421:
		x.who = x.accepted
		return false, x.lost(c, StageData, r, err)
	case r.code == 354 && len(x.accepted) > 0:
		return true, nil
	case r.code == 354 && taken > 0: // MAIL refused, RCPT accepted: an empty message would be delivered
		c.broken = true
	case r.code == 354:
		if _, err := c.ask(c.t.Final, "."); err == nil {
			c.reset = false
		}
	case r.class() == 4 || r.class() == 5:
		x.refuse(c, x.accepted, StageData, r)
	case len(x.accepted) > 0:
		x.who = x.accepted
		return false, x.lost(c, StageData, r, malformedReply(fmt.Sprintf("%d to DATA", r.code)))
	}
	return false, nil
}

// content writes the message and the end of data, and next's envelope behind
// it in the same flight (ledger PIPE-3.1-02).
func (x *transaction) content(c *conn, next *transaction) error {
	b := &bodyWriter{w: c.w}
	_, err := io.CopyBuffer(b, localReader{x.body}, c.copy)
	x.close()
	if err == nil {
		x.ended = true
		c.reset = false // the end of data ends the transaction, however it is answered (RFC 5321, Section 4.1.1.4)
		err = b.end()
	}
	var local *localFailure
	switch {
	case errors.As(err, &local): // the message must not end here: only closing prevents it
		c.broken = true
		return c.ownFault(StageContent, local.err)
	case err == nil && next != nil && c.ext.pipelining:
		err = next.send(c)
	case err == nil:
		err = c.flush()
	}
	if err != nil {
		c.broken = true
	}
	return err
}

// final hears the reply to the final dot, which speaks for every accepted
// recipient (ledger SMTP-4.2.5-01, -02). werr is what content returned.
func (x *transaction) final(c *conn, werr error) error {
	var r reply
	var err error
	if e := (*Error)(nil); errors.As(werr, &e) {
		x.who = x.accepted
		return x.fail(c, e)
	} else if werr != nil {
		r, err = c.last(werr)
	} else {
		r, err = c.read(c.t.Final)
	}
	x.who = x.accepted
	switch {
	case err != nil, r.class() == 3:
		if err == nil {
			err = malformedReply(fmt.Sprintf("%d to the final dot", r.code))
		}
		return x.lost(c, StageContent, r, err)
	case werr != nil && r.ok():
		return x.lost(c, StageContent, r, werr)
	case r.code == 421:
		return x.lost(c, StageContent, r, nil)
	}
	if !r.ok() {
		x.refuse(c, x.accepted, StageContent, r)
		return nil
	}
	for _, i := range x.accepted {
		o := x.outcome(c, nil)
		o.Reply, o.DSN = r.String(), c.ext.dsn
		x.taken(i, o)
	}
	return nil
}

// refuse settles recipients by what the server said.
func (x *transaction) refuse(c *conn, who []int, s Stage, r reply) {
	o := x.outcome(c, c.refused(s, r))
	o.Reply = r.String()
	for _, i := range who {
		if x.site.v4Next(o.Err, c) {
			x.again = append(x.again, i)
			x.out[i] = o
			continue
		}
		x.task.refused(i, o)
	}
}

// lost ends the connection: by an error, by 421, or by a reply that makes no
// sense there. It counts like a 451 for those who have no reply of their own
// (ledger SMTP-3.8-01, SMTP-4.3.2-01), except on a connection used before that
// did not answer MAIL.
func (x *transaction) lost(c *conn, s Stage, r reply, err error) error {
	c.broken = true
	c.raw.Close()
	if s == StageMail && x.reused && c.ctx.Err() == nil && !isTimeout(err) && !x.fresh {
		return errStale
	}
	if err != nil {
		return x.fail(c, c.failed(s, err))
	}
	if r.code == 421 || r.class() == 4 || r.class() == 5 {
		o := x.outcome(c, c.refused(s, r))
		o.Reply = r.String()
		return x.settle(o)
	}
	return x.fail(c, c.failed(s, malformedReply(r.String())))
}

func (x *transaction) fail(c *conn, e *Error) error {
	o := x.outcome(c, e)
	o.MayDup = x.ended
	return x.settle(o)
}

// settle gives everyone without a reply of their own the outcome o.
func (x *transaction) settle(o Outcome) error {
	x.spoken = true
	for _, i := range x.who {
		x.task.refused(i, o)
	}
	x.note(x.rest, o)
	return o.Err
}

func (x *transaction) outcome(c *conn, e *Error) Outcome {
	return Outcome{
		Err: e, MX: c.host, Addr: c.addr, TLS: x.site.tls(c), Policy: x.site.policy, Reused: x.reused,
		Delay: Delays{Setup: x.setup, Transmit: since(x.began)},
	}
}

// willBeDone reports whether nothing is left of the task once the final dot is
// answered well.
func (x *transaction) willBeDone() bool {
	if x.ended {
		return x.done()
	}
	for _, i := range x.left() {
		if !slices.Contains(x.accepted, i) {
			return false
		}
	}
	return true
}

// close lets go of the content.
func (x *transaction) close() {
	if x.body != nil {
		x.body.Close()
		x.body = nil
	}
}

// suits reports whether the server can take the message, as far as its EHLO
// tells, for at least one recipient; those it cannot take are noted and left
// out. Another host may do better (ledger SIZE-4-01, 8BIT-3-02, UTF8-3.2-02).
func (x *transaction) suits(c *conn) bool {
	var e *Error
	switch {
	case c.ext.sizeLimit > 0 && x.Size > c.ext.sizeLimit:
		e = c.unfit(MessageTooBig, fmt.Sprintf("the message has %d octets, the server takes %d", x.Size, c.ext.sizeLimit))
	case x.Body8 && !c.ext.eightBit:
		e = c.unfit(EightBitUnsupported, "the message has 8-bit content, the server does not offer 8BITMIME")
	case !c.ext.utf8 && x.messageNeedsUTF8():
		e = c.unfit(UTF8Unsupported, "the message needs SMTPUTF8, the server does not offer it")
	}
	if e != nil {
		x.unfit(c, x.who, e)
		return false
	}
	if !c.ext.utf8 {
		var plain, other []int
		for _, i := range x.who {
			if x.To[i].Address.NeedsUTF8() {
				other = append(other, i)
			} else {
				plain = append(plain, i)
			}
		}
		if len(other) > 0 {
			x.unfit(c, other, c.unfit(UTF8Unsupported, "the address needs SMTPUTF8, the server does not offer it"))
			x.who = plain
		}
	}
	return len(x.who) > 0
}

func (x *transaction) unfit(c *conn, who []int, e *Error) {
	o := x.outcome(c, e)
	o.Delay.Transmit = 0
	x.note(who, o)
	x.spoken = true // the host is well, for others
}

// messageNeedsUTF8 reports whether the sender or, as far as can be known here,
// the header needs SMTPUTF8: a message without any octet above 0x7F does not.
func (x *transaction) messageNeedsUTF8() bool {
	return x.From.NeedsUTF8() || x.UTF8 && x.Body8
}

func (x *transaction) needsUTF8() bool {
	return x.messageNeedsUTF8() || slices.ContainsFunc(x.who, func(i int) bool { return x.To[i].Address.NeedsUTF8() })
}

// A localFailure marks an error of our own store among those of the wire.
type localFailure struct{ err error }

func (e *localFailure) Error() string { return e.err.Error() }

type localReader struct{ r io.Reader }

func (l localReader) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if err != nil && err != io.EOF {
		err = &localFailure{err}
	}
	return n, err
}
