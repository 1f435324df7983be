package lab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
)

// A Fault is how connecting to an address fails.
type Fault int

const (
	NoFault     Fault = iota
	Refuse            // "connection refused", at once
	Unreachable       // "no route to host", at once
	Timeout           // "i/o timeout", at once: nobody has time to wait for it
	Hang              // nothing, until the context ends
)

// A Dialer opens connections as a *net.Dialer would on the fake internet: it
// leads the addresses that DNS gives out to the ports where the servers
// really are. An address where nothing is refuses. Only 127.0.0.1 and ::1 are
// dialed as they are, since they are no address of a host: nothing ever leaves
// this computer. With Options.RealPorts every address of 127.0.0.0/8 is.
type Dialer struct {
	done <-chan struct{}
	real bool

	mu     sync.Mutex // guards what follows
	routes map[netip.AddrPort]string
	faults map[string]Fault
	dials  map[string]int
	total  int
	sig    signal
}

func newDialer(done <-chan struct{}, realPorts bool) *Dialer {
	return &Dialer{
		done:   done,
		real:   realPorts,
		routes: map[netip.AddrPort]string{},
		faults: map[string]Fault{},
		dials:  map[string]int{},
	}
}

// DialContext connects to address, an IP address and port. The remote address
// of the connection is address, not where it was led. Connections are
// *net.TCPConn but for that.
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, fmt.Errorf("lab: dialing %s: not an address and port: names are for DNS", address)
	}
	ap = netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	fault, to := d.count(ap)
	fail := func(err error) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: net.TCPAddrFromAddrPort(ap), Err: err}
	}
	switch fault {
	case Refuse:
		return fail(os.NewSyscallError("connect", syscall.ECONNREFUSED))
	case Unreachable:
		return fail(os.NewSyscallError("connect", syscall.EHOSTUNREACH))
	case Timeout:
		return fail(os.ErrDeadlineExceeded)
	case Hang:
		select {
		case <-ctx.Done():
			return fail(ctx.Err())
		case <-d.done:
			return fail(errClosed)
		}
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, network, to)
	if err != nil {
		return nil, err
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		return &led{TCPConn: tcp, remote: net.TCPAddrFromAddrPort(ap)}, nil
	}
	return conn, nil // UDP: to the DNS server, which is where it says it is
}

// count notes a dial to ap, and says what shall become of it.
func (d *Dialer) count(ap netip.AddrPort) (Fault, string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	defer d.sig.raise()
	d.total++
	d.dials[ap.String()]++
	d.dials[ap.Addr().String()]++
	for _, key := range []string{ap.String(), ap.Addr().String()} {
		if f := d.faults[key]; f != NoFault {
			return f, ""
		}
	}
	if to, ok := d.routes[ap]; ok {
		return NoFault, to
	}
	here := ap.Addr() == netip.AddrFrom4([4]byte{127, 0, 0, 1}) || ap.Addr() == netip.IPv6Loopback()
	if here || d.real && ap.Addr().IsLoopback() {
		return NoFault, ap.String()
	}
	return Refuse, ""
}

// Map leads address ("127.10.0.7:25") to another ("127.0.0.1:40123"). An
// empty one takes the mapping away.
func (d *Dialer) Map(address, to string) {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		panic("lab: Dialer.Map: " + err.Error())
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if to == "" {
		delete(d.routes, ap)
		return
	}
	d.routes[ap] = to
}

// Fail has connecting to address fail from now on: an "ip:port", or an "ip"
// for all its ports. NoFault ends it. Connections that exist are left alone.
func (d *Dialer) Fail(address string, f Fault) {
	address = key(address)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.faults[address] = f
}

// Dials counts the attempts to connect to address, an "ip:port" or an "ip",
// failed ones too.
func (d *Dialer) Dials(address string) int {
	address = key(address)
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dials[address]
}

// Total counts all attempts to connect.
func (d *Dialer) Total() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.total
}

// All returns the attempts by "ip:port" and by "ip".
func (d *Dialer) All() map[string]int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.dials)
}

// WaitDials waits until address has been dialed n times since the start.
func (d *Dialer) WaitDials(ctx context.Context, address string, n int) error {
	if err := d.sig.wait(ctx, d.done, func() bool { return d.Dials(address) >= n }); err != nil {
		return fmt.Errorf("lab: %s was dialed %d times, not %d: %w", address, d.Dials(address), n, err)
	}
	return nil
}

// key is the one form of an "ip:port" or "ip".
func key(address string) string {
	if ap, err := netip.ParseAddrPort(address); err == nil {
		return ap.String()
	}
	ip, err := netip.ParseAddr(address)
	if err != nil {
		panic("lab: " + address + " is neither an address nor an address and port")
	}
	return ip.String()
}

// led is a connection that was led elsewhere, and does not show it.
type led struct {
	*net.TCPConn
	remote net.Addr
}

func (c *led) RemoteAddr() net.Addr { return c.remote }

func inUse(err error) bool { return errors.Is(err, syscall.EADDRINUSE) }
