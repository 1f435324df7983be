package delivery

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"stsrelay/tlsrpt"
)

// failed is the Error of a connection that broke at s.
func (c *conn) failed(s Stage, err error) *Error {
	e := ioError(c.ctx, s, err)
	e.MX, e.Addr = c.host, c.addr.String()
	return e
}

// ioError classifies what ended a connection. What our own stop ended is no
// fault of the host.
func ioError(ctx context.Context, s Stage, err error) *Error {
	reason, what := ConnectionLost, "lost the connection"
	var malformed malformedReply
	switch {
	case ctx.Err() != nil:
		reason, what = LocalError, "delivery was stopped"
	case errors.As(err, &malformed):
		reason, what = ProtocolError, "the server broke the protocol"
	case s == StageConnect:
		reason, what = ConnectFailed, "cannot connect"
	case isTimeout(err):
		reason, what = TimedOut, "the server took too long"
	}
	e := &Error{}
	*e = *NewError(s, reason, e.MX, fmt.Sprintf("%s %s: %s", what, doing(s), tlsrpt.Clean(err.Error())))
	e.Err = err
	return e
}

// doing says what we were at when a Stage ended.
func doing(s Stage) string {
	switch s {
	case StageConnect:
		return "at the port"
	case StageGreeting:
		return "before its greeting"
	case StageHello:
		return "after EHLO"
	case StageTLS:
		return "during STARTTLS"
	case StageMail:
		return "after MAIL"
	case StageRcpt:
		return "after RCPT"
	case StageData:
		return "after DATA"
	}
	return "while taking the message"
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &n) && n.Timeout()
}

// refused is the Error of a reply that says no.
func (c *conn) refused(s Stage, r reply) *Error {
	if r.class() != 4 && r.class() != 5 {
		return c.failed(s, malformedReply(r.String()+" in this place"))
	}
	return replyError(s, c.host, c.addr.String(), r.code, r.enhanced(), strings.TrimSpace(r.String()[3:]))
}

// turnedAway is the Error of a reply that refuses the connection rather than
// the message. A 5yz is temporary there: policy blocks often are (ledger
// SMTP-5.1-16), and no other host has been asked.
func (c *conn) turnedAway(s Stage, r reply) *Error {
	e := c.refused(s, r)
	if e.Permanent {
		soft := replyError(s, c.host, c.addr.String(), 451, [3]int{4, e.Enhanced[1], e.Enhanced[2]}, "the server refuses the connection: "+r.String())
		soft.Remote = false
		return soft
	}
	return e
}

// ownFault is the Error of something that went wrong with us.
func (c *conn) ownFault(s Stage, err error) *Error {
	e := NewError(s, LocalError, c.host, "cannot read the message from our own store: "+tlsrpt.Clean(err.Error()))
	e.Addr, e.Err = c.addr.String(), err
	return e
}

// unfit is the Error of a message that this server cannot take. Another may.
func (c *conn) unfit(r Reason, text string) *Error {
	e := NewError(StageMail, r, c.host, text)
	e.Addr = c.addr.String()
	return e
}
