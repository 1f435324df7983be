package delivery

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"
)

// greet dials and says hello. With an error the connection is nil, unless TLS
// was up by then: what it showed is still worth telling.
func (c *Client) greet(ctx context.Context, s *site, a netip.AddrPort, inClear bool) (*conn, *Error) {
	start := time.Now()
	raw, err := c.dial(ctx, a)
	if err != nil {
		e := ioError(ctx, StageConnect, err)
		e.MX, e.Addr = s.decision.Facts.MX, a.String()
		return nil, e
	}
	k := &conn{
		key: s.key(), host: s.decision.Facts.MX, addr: a, start: start, raw: raw, nc: raw,
		r: bufio.NewReaderSize(raw, maxReplyLine), t: &c.options.Timeouts, lender: &c.buffers, inClear: inClear,
	}
	if local, ok := raw.LocalAddr().(*net.TCPAddr); ok {
		k.local = local.AddrPort().Addr().Unmap()
	}
	k.attach(ctx)
	e := k.hello(ctx, salutation{hostname: c.options.Hostname, decision: s.decision, roots: c.options.Roots})
	k.setup = since(start)
	if e != nil && k.evidence.State == nil {
		k.quit()
		return nil, e
	}
	return k, e
}

// dial opens a connection from the first source address of a's family.
func (c *Client) dial(ctx context.Context, a netip.AddrPort) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, c.options.Timeouts.Connect)
	defer cancel()
	i := slices.IndexFunc(c.options.Bind, func(b netip.Addr) bool { return b.Unmap().Is4() == !is6(a) })
	if i < 0 {
		return c.options.Dialer.DialContext(ctx, "tcp", a.String())
	}
	switch d := c.options.Dialer.(type) {
	case binder:
		return d.DialFrom(ctx, c.options.Bind[i], "tcp", a.String())
	case *net.Dialer:
		from := *d
		from.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(c.options.Bind[i], 0))
		return from.DialContext(ctx, "tcp", a.String())
	}
	return nil, fmt.Errorf("cannot dial from %s: the dialer %T knows no source addresses", c.options.Bind[i], c.options.Dialer)
}

// A binder is a Dialer that can choose its own end's address. *net.Dialer
// needs no such method.
type binder interface {
	DialFrom(ctx context.Context, source netip.Addr, network, address string) (net.Conn, error)
}
