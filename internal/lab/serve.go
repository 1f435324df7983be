package lab

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"
)

// A port is a listener with the connections it accepted: what policy hosts and
// MX hosts have in common.
type port struct {
	w      *World
	at     string     // where it listens
	addr   netip.Addr // what DNS says
	handle func(c *net.TCPConn, n int)

	mu    sync.Mutex // guards what follows
	ln    net.Listener
	open  map[net.Conn]bool // nil once closed
	down  bool
	count int
	peak  int
	sig   signal
}

// newPort opens a listener at a new address.
func newPort(w *World, number int, v6 bool) *port {
	ln, addr, err := w.listen(number, v6)
	if err != nil {
		panic(err.Error())
	}
	return &port{w: w, at: ln.Addr().String(), ln: ln, addr: addr, open: map[net.Conn]bool{}}
}

// serve has connections handled by handle, each in a goroutine, and closes
// them after it.
func (p *port) serve(handle func(c *net.TCPConn, n int)) {
	p.handle = handle
	p.w.onClose(p.close)
	p.accept(p.ln)
}

// accept takes the connections of a listener until it is closed.
func (p *port) accept(ln net.Listener) {
	p.w.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil { // no file descriptors left: there will be some again
				if !sleep(10*time.Millisecond, p.w.done) {
					return
				}
				continue
			}
			n, ok := p.enter(c)
			if !ok {
				c.Close()
				continue
			}
			p.w.wg.Go(func() {
				defer p.leave(c)
				p.handle(c.(*net.TCPConn), n)
			})
		}
	})
}

// enter counts a connection and gives it its number, from 1.
func (p *port) enter(c net.Conn) (n int, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open == nil || p.down {
		return 0, false
	}
	p.open[c] = true
	p.count++
	p.peak = max(p.peak, len(p.open))
	p.sig.raise()
	return p.count, true
}

func (p *port) leave(c net.Conn) {
	c.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, c)
	p.sig.raise()
}

// close ends the listener and all connections.
func (p *port) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ln.Close()
	for c := range p.open {
		c.Close()
	}
	p.open = nil
}

// setDown has new connections refused, or no longer. In the default mode the
// listener stays, for its port could be gone when it is wanted back.
func (p *port) setDown(down bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.down == down || p.open == nil {
		return
	}
	p.down = down
	switch {
	case !p.w.opts.RealPorts:
		fault := NoFault
		if down {
			fault = Refuse
		}
		p.w.dialer.Fail(p.addr.String(), fault)
		p.w.dialer.Fail(sixth(p.addr).String(), fault)
	case down:
		p.ln.Close()
	default:
		ln, err := net.Listen("tcp", p.at)
		if err != nil {
			panic("lab: listening again: " + err.Error())
		}
		p.ln = ln
		p.accept(ln)
	}
}

// drop ends the connections that are open now.
func (p *port) drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.open {
		c.Close()
	}
}

func (p *port) numbers() (all, now, peak int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count, len(p.open), p.peak
}

// A TLSState is what was agreed on a connection, as the server saw it.
type TLSState struct {
	Version uint16 // tls.VersionTLS13
	Cipher  string
	SNI     string // "" if the client sent none
	ALPN    string
	Resumed bool
}

func stateOf(s tls.ConnectionState) *TLSState {
	return &TLSState{
		Version: s.Version,
		Cipher:  tls.CipherSuiteName(s.CipherSuite),
		SNI:     s.ServerName,
		ALPN:    s.NegotiatedProtocol,
		Resumed: s.DidResume,
	}
}

// A Handshake is what became of one attempt to set up TLS.
type Handshake struct {
	Conn  int    // number of the connection, from 1
	SNI   string // "" if the client sent none
	State *TLSState
	Err   error // why it failed; State is nil then. A client that refuses the certificate shows as its alert
}

// waitFor waits until ok does.
func (p *port) waitFor(ctx context.Context, ok func() bool) error {
	return p.sig.wait(ctx, p.w.done, ok)
}
