package stscache

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
)

// A file without a length ends with the connection. TLS says whether that was
// the server's end, but crypto/tls takes a cut between two records for one too:
// whoever is on the way could shorten a policy, and the life of the one that is
// kept with it. So such a file counts only if TLS ended first (RFC 9112, Section
// 9.8).

// A rawConn notes that the other side ended the connection below TLS.
type rawConn struct {
	net.Conn
	eof atomic.Bool
}

// Read is not called any more once TLS has ended.
func (c *rawConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if errors.Is(err, io.EOF) {
		c.eof.Store(true)
	}
	return n, err
}

// below is the connection that a request was made over, below TLS.
type below struct{ conn atomic.Pointer[rawConn] }

func (b *below) ended() bool {
	c := b.conn.Load()
	return c == nil || c.eof.Load()
}

func traceBelow(ctx context.Context) (context.Context, *below) {
	b := &below{}
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) {
		if t, ok := i.Conn.(*tls.Conn); ok {
			c, _ := t.NetConn().(*rawConn)
			b.conn.Store(c)
		}
	}}), b
}

// maybeCut reports whether nothing in an answer says where its body ends.
func maybeCut(res *http.Response) bool {
	return res.ContentLength < 0 && len(res.TransferEncoding) == 0
}
