package resolver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/miekg/dns"
)

// udpSize is the reply size we offer to take by UDP: what fits any path
// unfragmented (DNS flag day 2020; RFC 9715, Section 3.1).
const udpSize = 1232

var (
	errSilent    = errors.New("no answer in time")
	errMalformed = errors.New("malformed reply")
)

// ask sends q to one server over one new connection (so every query has a port
// and an id of its own) and waits for the reply that belongs to it.
func (c *Client) ask(ctx context.Context, network string, s server, q question) (*dns.Msg, error) {
	try, cancel := context.WithTimeout(ctx, c.options.Timeout)
	defer cancel()
	m, err := c.converse(try, network, s, q)
	switch {
	case err == nil:
		return m, nil
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%w by %s: %w", errSilent, network, context.Cause(ctx))
	case try.Err() != nil:
		return nil, fmt.Errorf("%w by %s (%s)%s", errSilent, network, c.options.Timeout, ignored(err))
	}
	return nil, err
}

func (c *Client) converse(ctx context.Context, network string, s server, q question) (*dns.Msg, error) {
	conn, err := c.options.Dialer.DialContext(ctx, network, s.address.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	// Nothing else ends a read when ctx does, by deadline or by cancel.
	defer context.AfterFunc(ctx, func() { conn.Close() })()

	id := dns.Id()
	query, err := pack(q, id)
	if err != nil {
		return nil, err
	}
	if network == "tcp" {
		query = append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...)
	}
	if _, err := conn.Write(query); err != nil {
		return nil, err
	}
	return await(conn, network, q, id)
}

// pack makes the query: EDNS0 with our size, and both DO and AD, for some
// resolvers report AD only when they see DO (RFC 6840, Section 5.7).
func pack(q question, id uint16) ([]byte, error) {
	m := new(dns.Msg)
	m.SetQuestion(q.name, q.qtype)
	m.Id = id
	m.AuthenticatedData = true
	m.SetEdns0(udpSize, true)
	b, err := m.Pack()
	if err != nil {
		return nil, fmt.Errorf("making the query: %w", err)
	}
	return b, nil
}

// A strayError is the end of a wait in which replies came that were not ours.
type strayError struct {
	why   error
	cause error
}

func (e *strayError) Error() string { return e.cause.Error() + ignored(e) }
func (e *strayError) Unwrap() error { return e.cause }

func ignored(err error) string {
	if stray, ok := errors.AsType[*strayError](err); ok {
		return "; ignored a reply: " + stray.why.Error()
	}
	return ""
}

// await reads until the reply to q arrives. Anything else is a leftover or a
// forgery; giving up on it would let a forger stop the lookup.
func await(conn net.Conn, network string, q question, id uint16) (*dns.Msg, error) {
	buf := make([]byte, 4096)
	var stray error
	for {
		b, err := readMessage(conn, network, buf)
		if err != nil {
			if stray != nil {
				err = &strayError{why: stray, cause: err}
			}
			return nil, err
		}
		m, err := parseReply(b, q, id)
		if err == nil || errors.Is(err, errMalformed) {
			return m, err
		}
		stray = err
	}
}

func readMessage(conn net.Conn, network string, buf []byte) ([]byte, error) {
	if network == "udp" {
		n, err := conn.Read(buf)
		return buf[:n], err
	}
	if _, err := io.ReadFull(conn, buf[:2]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint16(buf))
	_, err := io.ReadFull(conn, b)
	return b, err
}

// parseReply reads a message and makes sure that it answers q: the library
// compares no more than the id. The error is errMalformed when the message is
// the reply to q and yet cannot be read.
func parseReply(b []byte, q question, id uint16) (*dns.Msg, error) {
	m := new(dns.Msg)
	broken := m.Unpack(b)
	switch {
	case len(b) < 12:
		return nil, errors.New("shorter than a DNS header")
	case m.Id != id:
		return nil, errors.New("wrong id")
	case !m.Response:
		return nil, errors.New("a query, not a response")
	case m.Opcode != dns.OpcodeQuery:
		return nil, errors.New("wrong opcode")
	case len(m.Question) != 1:
		return nil, fmt.Errorf("%d questions", len(m.Question))
	}
	got := m.Question[0]
	if lower(got.Name) != q.name || got.Qtype != q.qtype || got.Qclass != dns.ClassINET {
		return nil, fmt.Errorf("answers another question: %s", printable(got.Name, 80))
	}
	if broken != nil && !m.Truncated { // what was cut short may end anywhere
		return nil, fmt.Errorf("%w: %w", errMalformed, broken)
	}
	return m, nil
}
