package relay

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// The bounds of a connection.
const (
	maxCommand  = 2048        // octets of a command line: RFC 5321, Section 4.5.3.1.4, and room for extensions
	maxBodyLine = 1 << 20     // octets of a line of content
	readBuffer  = 16 << 10    // octets that are read at once
	writeBuffer = 16 << 10    // octets of replies that wait for the next read
	writeLimit  = time.Minute // for a client to take what was written
	phaseLimit  = time.Hour   // for the envelope of one message, and for its content
)

// A shim stands between go-smtp and a client's connection, above TLS, so that
// its rules hold inside TLS too. It closes what the library leaves open (the
// numbers are those of the tests): go-smtp is given one whole command line at a
// time, bounded and ending in CRLF (S12, ledger SMUG-05), and of MAIL and RCPT
// the path only: their parameters are for the session (S18); replies go out when
// the input is empty and not line by line (S3; RFC 2920, Section 3.2); the time
// limit of content is for each read and not for the whole (S2); a client that
// was silent for too long is never heard again, so that the rest of its content
// is not taken for commands (S1); CHUNKING is not there (S4); idle clients can
// be sent away (S14). All but leave and cut is called by the goroutine of the
// session.
type shim struct {
	net.Conn // of the client, or TLS over it
	raw      net.Conn
	o        shimOptions

	out    []byte // replies that wait
	lost   bool   // some could not be written
	failed error  // nothing is read any more
	words  string // what is said before that

	buf     []byte
	in      []byte // of buf: what was read and not given on
	ready   int    // so many of its octets may be given on
	body    int    // so many of those, the first, are content
	line    []byte // what is left of the command that is being given on
	args    string // its parameters, if it is MAIL or RCPT
	content contentScan
	since   time.Time // when the wait for a command began
	begun   bool      // something was read
	greeted bool      // by EHLO or HELO, since TLS if there is TLS
	esmtp   bool      // by EHLO
	upgrade bool      // STARTTLS was read and waits for its turn

	mu      sync.Mutex
	busy    bool      // a transaction is under way
	until   time.Time // end of its phase
	leaving bool      // the relay ends
	last    time.Time // end of the grace time
	onClose func()
}

type shimOptions struct {
	idle       time.Duration     // between two reads
	loose      bool              // command lines may end in LF
	bye        string            // what is said when the relay ends
	replies    map[string]string // what go-smtp says: what is said instead
	postmaster string            // the path of the mailbox that <postmaster> is
	refused    func(c *shim, why string)
	tls        *tls.Config // nil: no TLS
	secure     bool        // TLS from the first octet
}

// Read gives on what was found sound: content, or one command line, so that
// what the session asks of the shim is about the command that go-smtp has. When
// there is nothing left, what waits is written and more is read. After an error
// nothing is read again.
func (c *shim) Read(p []byte) (int, error) {
	for {
		switch {
		case len(c.line) > 0:
			n := copy(p, c.line)
			c.line = c.line[n:]
			return n, nil
		case c.body > 0:
			n := copy(p, c.in[:c.body])
			c.in, c.ready, c.body = c.in[n:], c.ready-n, c.body-n
			return n, nil
		case c.ready > 0:
			c.next()
		case c.failed != nil:
			return 0, c.fail(c.failed)
		case c.upgrade:
			if err := c.startTLS(); err != nil {
				return 0, err
			}
		default:
			if err := c.fill(); err != nil {
				return 0, err
			}
		}
	}
}

// fill reads more. What is left of the last read is a part of a command line.
func (c *shim) fill() error {
	if err := c.begin(); err != nil {
		return err
	}
	if err := c.flush(); err != nil {
		return c.fail(err)
	}
	if len(c.in) == 0 {
		c.since = time.Now()
	}
	if c.buf == nil {
		c.buf = make([]byte, readBuffer)
	}
	part := copy(c.buf, c.in)
	for {
		limit, ok := c.mayRead()
		if !ok {
			c.words = c.o.bye
			return c.fail(net.ErrClosed)
		}
		n, err := c.Conn.Read(c.buf[part:])
		switch {
		case n > 0:
			c.in = c.buf[:part+n]
			c.sift()
			return nil
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return c.fail(err)
		case time.Now().Before(limit) && !(c.content.open && c.isLast()):
			continue // it ended since the relay does, and not since the client was silent
		}
		c.failed = net.ErrClosed
		return err // go-smtp says 421 to it, the session 451
	}
}

// begin looks, before the greeting is said, for a client that did not wait for
// it: no mail client does that, but what was tricked into sending SMTP does
// (ledger SMUG-06). With TLS from the first octet the client must speak first.
func (c *shim) begin() error {
	if c.begun {
		return nil
	}
	c.begun = true
	if c.o.secure {
		return c.handshake()
	}
	if waiting(c.raw) {
		c.out, c.words = nil, early
		return c.fail(net.ErrClosed)
	}
	return nil
}

const early = "421 4.5.0 input came ahead of its time: wait for the reply before it (RFC 2920, Section 3.1)\r\n"

// waiting reports whether octets of the client wait in the socket.
func waiting(nc net.Conn) bool {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	n := 0
	err = raw.Control(func(fd uintptr) {
		n, _, _ = syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	})
	return err == nil && n > 0
}

// mayRead sets the deadline of the next read, and returns the client's share in
// it. While the relay ends no read is to be between two transactions, nor after
// the grace time, but that of content, which the session must see fail. A
// command must be whole in the time that may pass without one (RFC 5321, Section
// 4.5.3.2.7): octet by octet it could go on for days.
func (c *shim) mayRead() (limit time.Time, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	limit = c.since.Add(c.o.idle)
	if c.content.open {
		limit = time.Now().Add(c.o.idle)
	}
	if c.busy && c.until.Before(limit) {
		limit = c.until
	}
	deadline := limit
	if c.leaving {
		if !c.busy || !c.content.open && !time.Now().Before(c.last) {
			return limit, false
		}
		if c.last.Before(deadline) {
			deadline = c.last
		}
	}
	_ = c.raw.SetReadDeadline(deadline) // a closed connection tells by Read
	return limit, true
}

// isLast reports whether the grace time is over.
func (c *shim) isLast() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.leaving && !time.Now().Before(c.last)
}

// leave has the client go: at once if it is between two transactions.
func (c *shim) leave(grace time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leaving, c.last = true, time.Now().Add(grace)
	_ = c.raw.SetReadDeadline(time.Unix(1, 0)) // wakes the read that is under way
}

// allow gives both ends so much time, unless the relay ends.
func (c *shim) allow(d time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.leaving {
		return net.ErrClosed
	}
	return c.raw.SetDeadline(time.Now().Add(d))
}

// cut ends the connection whatever its session does.
func (c *shim) cut() { _ = c.raw.Close() }

// setBusy says whether a transaction is under way. Its time begins.
func (c *shim) setBusy(busy bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy, c.until = busy, time.Now().Add(phaseLimit)
}

// isBusy reports whether a transaction is under way.
func (c *shim) isBusy() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.busy
}

// beginContent says that what is read now is content, up to its end.
func (c *shim) beginContent() {
	c.content = contentScan{open: true}
	c.setBusy(true)
}

// sift finds how much of what was read may be given on: content, and command
// lines that are whole and sound. What follows a line that is refused is lost.
func (c *shim) sift() {
	for c.ready < len(c.in) {
		rest := c.in[c.ready:]
		if c.content.open {
			n := c.content.scan(rest)
			c.ready, c.body = c.ready+n, c.body+n
			continue
		}
		line := rest
		end := bytes.IndexByte(rest, '\n')
		if end >= 0 {
			line = rest[:end+1]
		}
		if len(line) > maxCommand {
			c.words = "500 5.5.2 a command line has more than 2048 octets\r\n"
		} else if end < 0 {
			return
		} else {
			c.words = c.command(line, len(rest) > len(line))
		}
		if c.words != "" || c.upgrade {
			c.in = c.in[:c.ready]
			if c.words != "" {
				c.failed = net.ErrClosed
			}
			return
		}
		c.ready += len(line)
	}
}

// fail ends the reading for good.
func (c *shim) fail(err error) error {
	if c.words != "" && c.words != c.o.bye {
		c.o.refused(c, c.words)
	}
	c.out = append(c.out, c.words...)
	c.failed, c.words = err, ""
	_ = c.flush() // the connection ends anyway
	return err
}

// drop forgets what was read and not given on, and has nothing more be read.
func (c *shim) drop() {
	c.in, c.ready, c.body, c.line, c.failed = nil, 0, 0, nil, net.ErrClosed
}

// Write keeps replies until the next read. Go-smtp calls it with one line, in
// which it may repeat what the client said. To HELO it says an enhanced code,
// which is not to be there (RFC 2034, Section 4).
func (c *shim) Write(p []byte) (int, error) {
	instead, ok := c.o.replies[string(p)]
	switch {
	case string(p) == "250-CHUNKING\r\n":
		c.out = append(c.out, c.keywords()...)
	case ok:
		c.out = append(c.out, instead...)
	default:
		n := len(c.out)
		if hello, ok := bytes.CutPrefix(p, []byte("250 2.0.0 Hello ")); ok {
			c.out = append(append(c.out, "250 Hello "...), hello...)
		} else {
			c.out = append(c.out, p...)
		}
		clean(bytes.TrimSuffix(c.out[n:], []byte("\r\n")))
	}
	if len(c.out) < writeBuffer {
		return len(p), nil
	}
	if err := c.flush(); err != nil {
		c.failed = err // replies are lost: the client would count wrongly
		return 0, err
	}
	return len(p), nil
}

// clean makes control characters visible (S7), and keeps replies to ASCII (RFC
// 6531, Section 3.7.4.2).
func clean(line []byte) {
	for i, b := range line {
		if b < ' ' || b >= 0x7f {
			line[i] = '?'
		}
	}
}

func (c *shim) flush() error {
	if len(c.out) == 0 {
		return nil
	}
	if c.lost {
		return net.ErrClosed
	}
	_ = c.raw.SetWriteDeadline(time.Now().Add(writeLimit)) // a closed connection tells by Write
	_, err := c.Conn.Write(c.out)
	c.out, c.lost = c.out[:0], err != nil
	return err
}

// Close writes what waits, and closes.
func (c *shim) Close() error {
	err := c.flush()
	c.mu.Lock()
	onClose := c.onClose
	c.onClose = nil
	c.mu.Unlock()
	if onClose != nil { // first, so that a client that sees the end may come again at once
		onClose()
	}
	return errors.Join(err, c.Conn.Close())
}

// SetReadDeadline does nothing: go-smtp means it for the whole content.
func (c *shim) SetReadDeadline(time.Time) error { return nil }

// SetDeadline does nothing, likewise.
func (c *shim) SetDeadline(time.Time) error { return nil }

// SetWriteDeadline does nothing, likewise.
func (c *shim) SetWriteDeadline(time.Time) error { return nil }
