package delivery

import (
	"net"
	"net/netip"
)

// A Tracer hears what is said on a connection, in the clear even where TLS is
// around it: what we sent, or what came. It must not keep p.
type Tracer func(to netip.AddrPort, sent bool, p []byte)

// traced lets the Tracer, if there is one, hear nc.
func (k *conn) traced(nc net.Conn) net.Conn {
	if k.trace == nil {
		return nc
	}
	return tracedConn{nc, func(sent bool, p []byte) { k.trace(k.addr, sent, p) }}
}

type tracedConn struct {
	net.Conn
	hear func(sent bool, p []byte)
}

func (t tracedConn) Read(p []byte) (int, error) {
	n, err := t.Conn.Read(p)
	if n > 0 {
		t.hear(false, p[:n])
	}
	return n, err
}

func (t tracedConn) Write(p []byte) (int, error) {
	n, err := t.Conn.Write(p)
	t.hear(true, p[:n])
	return n, err
}
