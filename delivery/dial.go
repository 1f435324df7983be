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

// attemptDelay is how long an address has for itself before one of the other
// family is tried beside it (RFC 8305, Section 5, where it is shorter: mail can
// wait, and should not open connections only to close them).
const attemptDelay = 2 * time.Second

// A line is a TCP connection to one address, or why there is none.
type line struct {
	addr  netip.AddrPort
	start time.Time // of the dial
	raw   net.Conn
	err   error
}

// A walk goes over the addresses of one host. Its owner has leave to open one
// connection there.
type walk struct {
	*Client
	host   string // as the pool counts it
	left   []netip.AddrPort
	failed func(netip.AddrPort, error)

	done   chan line
	flying []netip.AddrPort // dials under way: two at most
}

// next connects to the first of the addresses left that can be had (ledger
// SMTP-5.1-09); nil means there is none. When one keeps silent, the next of the
// other family is tried beside it. Whichever connects first is taken, and the
// loser goes to the end of the list: it did not refuse. The second dial counts
// in the pool like any other, and is left out while that is full.
func (w *walk) next(ctx context.Context) *line {
	racing, stop := context.WithCancel(ctx)
	defer stop()
	w.done = make(chan line)
	timer := time.NewTimer(attemptDelay)
	defer timer.Stop()
	for {
		if len(w.flying) == 0 {
			if len(w.left) == 0 || ctx.Err() != nil {
				return nil
			}
			w.fly(racing, 0)
		}
		timer.Reset(attemptDelay)
		select {
		case l := <-w.done:
			w.land(l)
			if l.err == nil {
				w.reach.connected(l.addr)
				stop()
				w.callOff()
				return &l
			}
			if ctx.Err() == nil {
				w.reach.unconnected(w.host, l.addr, l.err)
			}
			w.failed(l.addr, l.err)
			if len(w.flying) > 0 {
				w.pool.release(w.host)
			}
		case <-timer.C:
			if i := w.rival(); i >= 0 && w.pool.spare(w.host) {
				w.fly(racing, i)
			}
		}
	}
}

// fly starts the dial of one of the addresses left.
func (w *walk) fly(ctx context.Context, i int) {
	l := line{addr: w.left[i], start: time.Now()}
	w.left = slices.Delete(w.left, i, i+1)
	w.flying = append(w.flying, l.addr)
	go func() {
		l.raw, l.err = w.dial(ctx, l.addr)
		w.done <- l
	}()
}

func (w *walk) land(l line) {
	w.flying = slices.DeleteFunc(w.flying, func(a netip.AddrPort) bool { return a == l.addr })
}

// rival is the index of an address of the other family than the only one being
// dialed, or -1.
func (w *walk) rival() int {
	if len(w.flying) != 1 {
		return -1
	}
	return slices.IndexFunc(w.left, func(a netip.AddrPort) bool { return family(a) != family(w.flying[0]) })
}

// callOff waits for the end of a dial that was stopped. It has failed if it had
// more time than the delay.
func (w *walk) callOff() {
	for len(w.flying) > 0 {
		l := <-w.done
		w.land(l)
		if l.err == nil {
			l.raw.Close()
		} else if time.Since(l.start) >= attemptDelay {
			w.reach.unconnected(w.host, l.addr, l.err)
		}
		w.left = append(w.left, l.addr)
		w.pool.release(w.host)
	}
}

// visit dials one address and says hello.
func (c *Client) visit(ctx context.Context, s *site, a netip.AddrPort, inClear bool) (*conn, *Error) {
	l := line{addr: a, start: time.Now()}
	if l.raw, l.err = c.dial(ctx, a); l.err != nil {
		return nil, s.unconnected(ctx, a, l.err)
	}
	return c.greet(ctx, s, &l, inClear)
}

// greet says hello. With an error the connection is nil, unless TLS was up by
// then: what it showed is still worth telling.
func (c *Client) greet(ctx context.Context, s *site, l *line, inClear bool) (*conn, *Error) {
	k := &conn{
		key: s.key(), host: s.decision.Facts.MX, addr: l.addr, start: l.start, raw: l.raw,
		t: &c.options.Timeouts, lender: &c.buffers, inClear: inClear, trace: c.options.Trace,
	}
	k.nc = k.traced(l.raw)
	k.r = bufio.NewReaderSize(k.nc, maxReplyLine)
	if local, ok := l.raw.LocalAddr().(*net.TCPAddr); ok {
		k.local = local.AddrPort().Addr().Unmap()
	}
	k.attach(ctx)
	e := k.hello(ctx, salutation{hostname: c.options.Hostname, decision: s.decision, roots: c.options.Roots})
	k.setup = since(l.start)
	if e != nil && k.evidence.State == nil {
		k.quit()
		return nil, e
	}
	return k, e
}

// dial opens a connection from the first source address of a's family: always
// the same, as a server that greylists wants it.
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
