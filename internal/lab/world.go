// Package lab is a fake internet that can misbehave: a DNS server, a private
// certificate authority, MTA-STS policy hosts, MX hosts and report collectors,
// all on loopback sockets of this process. `stsrelay lab` runs on it, and so
// do the tests of every room. It imports none of our rooms and shares no code
// with them: what it shows about them, they cannot have told it.
//
// Hosts have addresses in 127.0.0.0/8, one each, and DNS hands them out.
// Nothing listens there: World.Dialer leads them to free ports of 127.0.0.1,
// so that no rights are needed. With Options.RealPorts the servers bind those
// very addresses, on ports 25, 443 and 53, for programs that dial by
// themselves.
//
//	w, err := lab.Start(lab.Options{})
//	if err != nil {
//		t.Fatal(err)
//	}
//	defer w.Close()
//	mx := w.AddMX(lab.MX{Name: "mx.example.test", Domains: []string{"example.test"}})
//	p := w.AddPolicy(lab.Policy{Domain: "example.test", ID: "1", Mode: "enforce", MX: []string{"mx.example.test"}})
//
//	// hand w.Dialer(), w.Roots() and w.DNSServers() to what is tested, send a
//	// message to someone@example.test, then:
//
//	if err := mx.WaitMessages(ctx, 1); err != nil {
//		t.Fatal(err)
//	}
//	got := mx.Messages()[0] // got.From, got.To, got.Content, got.TLS, ...
//
// All can be changed while it runs: MXHost.Change, PolicyHost.Change, the
// methods of DNS and of Dialer. Every method of every type may be called from
// many goroutines at once. What a test got wrong (zone text that does not
// parse, an unknown record type) panics with a sentence that says so, and so
// does a port that cannot be had.
package lab

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"sync"
)

// Options say how a World is built. The zero value needs no rights.
type Options struct {
	// RealPorts binds every server to the address that DNS gives for it, on
	// port 25, 443 or 53. It needs root, or
	// net.ipv4.ip_unprivileged_port_start=25, and a system where all of
	// 127.0.0.0/8 is local. IPv6 addresses cannot be had.
	RealPorts bool

	// DNSAddr is where the DNS server listens, UDP and TCP: "127.0.0.1:5353".
	// Empty is a free port of 127.0.0.1, with RealPorts port 53 of an address
	// of its own.
	DNSAddr string
}

// A World is a fake internet. Start makes one.
type World struct {
	DNS *DNS // what names lead to
	CA  *CA  // who vouches for servers

	opts   Options
	dialer *Dialer
	done   chan struct{} // closed by Close: everything that waits gives up
	wg     sync.WaitGroup

	mu      sync.Mutex // guards what follows
	last    uint32     // the last address given out, as an offset into 127.0.0.0/8
	closers []func()   // what Close ends, last first
	closed  bool

	hosts    []*MXHost
	policies []*PolicyHost
}

// Start starts a World with a DNS server and a certificate authority, and no
// host yet. The caller calls Close.
func Start(o Options) (*World, error) {
	ca, err := NewCA()
	if err != nil {
		return nil, err
	}
	w := &World{CA: ca, opts: o, done: make(chan struct{}), last: 10 << 16}
	if o.RealPorts { // several worlds may run at once, and they share the addresses
		w.last = uint32(16+rand.IntN(200))<<16 | uint32(rand.IntN(200))<<8
	}
	w.dialer = newDialer(w.done, o.RealPorts)
	if w.DNS, err = startDNS(w); err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

// Close ends every server and connection and waits until they have ended. It
// may be called more than once.
func (w *World) Close() {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return
	}
	w.closed = true
	list := w.closers
	close(w.done)
	w.mu.Unlock()
	for i := len(list) - 1; i >= 0; i-- {
		list[i]()
	}
	w.wg.Wait()
}

// Roots is what a client of this World trusts, and nothing else.
func (w *World) Roots() *x509.CertPool { return w.CA.Roots() }

// RootsPEM is Roots as a PEM bundle, for a roots_file.
func (w *World) RootsPEM() []byte { return w.CA.RootsPEM() }

// DNSServers lists the DNS servers as "ip:port". They speak UDP and TCP.
func (w *World) DNSServers() []string { return []string{w.DNS.Addr()} }

// Dialer opens connections to the hosts of this World.
func (w *World) Dialer() *Dialer { return w.dialer }

// NewAddr gives out an IPv4 address that no host has. Nothing answers there:
// connections are refused until Dialer.Map says otherwise.
func (w *World) NewAddr() netip.Addr {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last++
	if w.last&0xff == 0 || w.last&0xff == 0xff { // they look like networks and broadcasts
		w.last += 2
	}
	return netip.AddrFrom4([4]byte{127, byte(w.last >> 16), byte(w.last >> 8), byte(w.last)})
}

// sixth is the IPv6 address that goes with an IPv4 address: unique local, so
// that it can be allowed with fd00::/8.
func sixth(v4 netip.Addr) netip.Addr {
	b := v4.As4()
	return netip.AddrFrom16([16]byte{0: 0xfd, 7: 1, 12: b[0], 13: b[1], 14: b[2], 15: b[3]})
}

// listen opens a port for a host at a new address and leads the address to it.
func (w *World) listen(port int, v6 bool) (ln net.Listener, v4 netip.Addr, err error) {
	for range 100 {
		v4 = w.NewAddr()
		if !w.opts.RealPorts {
			ln, err = net.Listen("tcp", "127.0.0.1:0")
			break
		}
		if ln, err = net.Listen("tcp", netip.AddrPortFrom(v4, uint16(port)).String()); err == nil || !inUse(err) {
			break
		}
	}
	if err != nil {
		return nil, v4, fmt.Errorf("lab: listening for a host: %w", err)
	}
	if !w.opts.RealPorts {
		p := strconv.Itoa(port)
		w.dialer.Map(net.JoinHostPort(v4.String(), p), ln.Addr().String())
		if v6 {
			w.dialer.Map(net.JoinHostPort(sixth(v4).String(), p), ln.Addr().String())
		}
	}
	return ln, v4, nil
}

// onClose has Close call f.
func (w *World) onClose(f func()) {
	w.mu.Lock()
	if !w.closed {
		w.closers = append(w.closers, f)
		w.mu.Unlock()
		return
	}
	w.mu.Unlock()
	f()
}

var errClosed = errors.New("lab: the world is closed")

// A signal wakes those who wait for something to become true. Its zero value
// is ready. The state itself is guarded by the owner's mutex.
type signal struct {
	mu sync.Mutex
	ch chan struct{}
}

// raise says that something has changed.
func (s *signal) raise() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ch != nil {
		close(s.ch)
		s.ch = nil
	}
}

// wait returns when ok does, and says of what it had hoped for when ctx or the
// world ends first.
func (s *signal) wait(ctx context.Context, done <-chan struct{}, ok func() bool) error {
	for {
		s.mu.Lock()
		if s.ch == nil {
			s.ch = make(chan struct{})
		}
		ch := s.ch
		s.mu.Unlock()
		if ok() {
			return nil
		}
		select {
		case <-ch:
		case <-ctx.Done():
			return ctx.Err()
		case <-done:
			return errClosed
		}
	}
}
