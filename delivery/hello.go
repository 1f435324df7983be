package delivery

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"time"

	"stsrelay/tlsrpt"
)

// A salutation is what hello needs to know of us and of the Decision.
type salutation struct {
	hostname string // "" for the literal of the local address
	decision Decision
	roots    *x509.CertPool
}

// hello goes from the greeting to the point where mail could be offered and
// leaves what it saw in c.evidence. Its error means that the host cannot be
// talked to; a broken TLS is evidence, not an error, and Judge speaks of it.
// With c.inClear TLS is left out.
func (c *conn) hello(ctx context.Context, s salutation) *Error {
	r, err := c.read(c.t.Greeting) // silent until it comes (ledger SMTP-4.3.1-01)
	switch {
	case err != nil:
		return c.failed(StageGreeting, err)
	case r.code == 521: // never takes mail (RFC 7504, Section 3; ledger SMTP-5.1-16)
		return c.refused(StageGreeting, r)
	case !r.ok():
		return c.turnedAway(StageGreeting, r)
	}
	c.name = tlsrpt.Clean(greeted(r.text))
	if e := c.ehlo(s, s.decision.Need&TLS == 0); e != nil {
		return e
	}
	switch {
	case c.inClear:
		c.evidence = Evidence{Offered: c.ext.startTLS, TLSErr: errInClear}
		return nil
	case !c.ext.startTLS:
		c.evidence = Evidence{TLSErr: errNotOffered}
		return nil
	}
	c.evidence.Offered = true
	return c.startTLS(ctx, s)
}

// ehlo says EHLO; its answer replaces all that an earlier one brought (ledger
// STLS-4.2-01). A server that does not know the command hears HELO where that
// is allowed: not where TLS is needed, since HELO can never lead there, nor
// after replies that close the door (ledger SMTP-3.2-01, -02).
func (c *conn) ehlo(s salutation, mayHELO bool) *Error {
	name := ehloArgument(s.hostname, c.local)
	r, err := c.ask(c.t.Hello, "EHLO ", name)
	if err != nil {
		return c.failed(StageHello, err)
	}
	switch r.code {
	case 500, 501, 502, 504, 550:
		if !mayHELO {
			return nil // as a server that offers nothing: Judge says what is missing
		}
		if r, err = c.ask(c.t.Hello, "HELO ", name); err != nil {
			return c.failed(StageHello, err)
		}
		r.text = ""
	}
	if !r.ok() {
		return c.turnedAway(StageHello, r)
	}
	c.ext = parseEHLO(r.text)
	c.rcptMax = c.ext.rcptMax
	return nil
}

// startTLS sends STARTTLS, handshakes, and says EHLO again. After a refusal
// the connection is as it was, in the clear; after anything else that goes
// wrong it is broken (ledger STLS-4-02, -04).
func (c *conn) startTLS(ctx context.Context, s salutation) *Error {
	r, err := c.ask(c.t.TLS, "STARTTLS") // the last of its group (ledger STLS-4-05)
	switch {
	case err != nil && ctx.Err() != nil:
		return c.failed(StageTLS, err)
	case err != nil:
		c.evidence.TLSErr = err
		return nil
	case r.code == 421:
		c.broken = true
		return c.refused(StageTLS, r)
	case r.code != 220:
		c.evidence.TLSErr = &startTLSRefused{Code: r.code, Text: tlsrpt.Clean(r.text)}
		return nil
	case c.r.Buffered() > 0: // an attempt to inject replies (ledger STLS-6-01)
		c.broken = true
		c.evidence.TLSErr = errInjection
		return nil
	}
	state, err := c.handshake(ctx, s)
	if err != nil {
		c.broken = true
		if ctx.Err() != nil {
			return c.failed(StageTLS, err)
		}
		c.evidence.TLSErr = err
		return nil
	}
	c.evidence.State = &state
	return c.ehloAgain(ctx, s)
}

// handshake puts TLS on the connection, verified or not: Judge alone decides
// what it is worth.
func (c *conn) handshake(ctx context.Context, s salutation) (tls.ConnectionState, error) {
	ctx, cancel := context.WithTimeout(ctx, c.t.TLS)
	defer cancel()
	c.raw.SetDeadline(time.Time{})
	config := tlsConfig(s.decision, s.roots, &c.evidence)
	config.DynamicRecordSizingDisabled = true // content comes in blocks, nobody renders its first octets
	nc := tls.Client(c.raw, config)
	if err := nc.HandshakeContext(ctx); err != nil {
		return tls.ConnectionState{}, err
	}
	c.secure(nc)
	return nc.ConnectionState(), nil
}

// ehloAgain reads the first octets that the server sends over TLS. In TLS 1.3
// its refusal of the handshake arrives only here: an alert undoes the success.
func (c *conn) ehloAgain(ctx context.Context, s salutation) *Error {
	e := c.ehlo(s, true)
	if e != nil && ctx.Err() == nil && isAlert(e.Err) {
		c.evidence = Evidence{Offered: true, TLSErr: e.Err}
		return nil
	}
	c.evidence.RequireTLS = c.ext.requireTLS
	return e // a second offer of STARTTLS is left alone (ledger STLS-4.2-02)
}

// errInjection says that plaintext followed the reply to STARTTLS.
var errInjection = errors.New("the server sent text after its reply to STARTTLS, as an attacker would")

// isAlert reports whether err is a TLS alert from the server or TLS records
// that are none.
func isAlert(err error) bool {
	var op *net.OpError
	var alert tls.AlertError
	var record tls.RecordHeaderError
	return errors.As(err, &op) && op.Op == "remote error" || errors.As(err, &alert) || errors.As(err, &record)
}
