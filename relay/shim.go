package relay

import (
	"bytes"
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// The bounds of a connection.
const (
	maxCommand   = 2048             // octets of a command line: RFC 5321, Section 4.5.3.1.4, and room for extensions
	writeBuffer  = 16 << 10         // octets of replies that wait for the next read
	writeLimit   = time.Minute      // for a client to take what was written
	contentLimit = time.Hour        // for the content of one message
	maxBodyLine  = 1 << 20          // octets: go-smtp's own limit, which counts content too
	past         = time.Duration(1) // since 1970: a deadline that is over
)

// A shim stands between go-smtp and a client's connection, and below TLS. It
// closes what go-smtp leaves open: replies are written when the input is empty
// and not line by line (RFC 2920, Section 3.2); the time limit is for each read
// and not for the whole content; a client that was silent for too long is never
// heard again, so that the rest of its content is not taken for commands;
// commands are bounded, and CHUNKING is not offered.
type shim struct {
	net.Conn
	idle           time.Duration
	bye            string // what is said when the relay ends
	size, trueSize []byte // go-smtp's SIZE line, and what it should say (libraries: S11)

	out []byte // replies that wait; only the goroutine of the session touches it

	line    int  // octets of the line that is being read
	content bool // what is read is content
	until   time.Time
	failed  error // nothing is read any more

	mu      sync.Mutex
	busy    bool      // a transaction is under way
	leaving bool      // the relay ends
	last    time.Time // end of the grace time
	onClose func()
}

var (
	errTimeout = os.ErrDeadlineExceeded // go-smtp says 421 to it
	errGone    = net.ErrClosed          // go-smtp says nothing
)

// Read writes what waits and then reads. After an error nothing is read again.
func (c *shim) Read(p []byte) (int, error) {
	if c.failed != nil {
		return 0, c.failed
	}
	if err := c.flush(); err != nil {
		return 0, c.fail(err)
	}
	for {
		if !c.mayRead() {
			return 0, c.fail(errGone)
		}
		n, err := c.Conn.Read(p)
		if n > 0 {
			return c.measure(p[:n])
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if c.interrupted() {
				continue
			}
			c.failed = errGone // once told, nothing more is heard
			return 0, errTimeout
		}
		return 0, c.fail(err)
	}
}

// mayRead sets the deadline of the next read. While the relay ends, a client
// between two transactions is told so instead.
func (c *shim) mayRead() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	deadline := time.Now().Add(c.idle)
	if c.content && c.until.Before(deadline) {
		deadline = c.until
	}
	if c.leaving {
		if !c.busy {
			c.out = append(c.out, c.bye...)
			return false
		}
		if c.last.Before(deadline) {
			deadline = c.last
		}
	}
	c.Conn.SetReadDeadline(deadline) // a closed connection tells by Read
	return true
}

// interrupted reports whether a read ended since the relay does, and not since
// the client was silent.
func (c *shim) interrupted() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.leaving && time.Now().Before(c.last)
}

// leave has the client go: at once if it is between two transactions.
func (c *shim) leave(grace time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leaving, c.last = true, time.Now().Add(grace)
	c.Conn.SetReadDeadline(time.Unix(0, int64(past)))
}

// setBusy says whether a transaction is under way.
func (c *shim) setBusy(busy bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy = busy
}

// setContent says whether content is read. Only the session calls it.
func (c *shim) setContent(on bool) {
	c.content, c.until = on, time.Now().Add(contentLimit)
}

// measure bounds the length of command lines. What came before a line that is
// too long is still served.
func (c *shim) measure(p []byte) (int, error) {
	if c.content {
		if i := bytes.LastIndexByte(p, '\n'); i >= 0 {
			c.line = len(p) - i - 1
		}
		return len(p), nil
	}
	for i, b := range p {
		if c.line++; b == '\n' {
			c.line = 0
		}
		if c.line > maxCommand {
			served := bytes.LastIndexByte(p[:i], '\n') + 1
			c.out = append(c.out, "500 5.5.2 command line too long\r\n"...)
			if served == 0 {
				return 0, c.fail(errGone)
			}
			c.failed = errGone
			return served, nil
		}
	}
	return len(p), nil
}

// fail ends the reading for good.
func (c *shim) fail(err error) error {
	c.failed = err
	c.flush()
	return err
}

// Write keeps replies until the next read.
func (c *shim) Write(p []byte) (int, error) {
	switch {
	case bytes.Equal(p, []byte("250-CHUNKING\r\n")): // a line and a write for each keyword (libraries: S4)
	case bytes.Equal(p, c.size):
		c.out = append(c.out, c.trueSize...)
	default:
		c.out = append(c.out, p...)
	}
	if len(c.out) >= writeBuffer {
		if err := c.flush(); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

func (c *shim) flush() error {
	if len(c.out) == 0 {
		return nil
	}
	c.Conn.SetWriteDeadline(time.Now().Add(writeLimit))
	_, err := c.Conn.Write(c.out)
	c.out = c.out[:0]
	return err
}

// Close writes what waits, and closes.
func (c *shim) Close() error {
	err := errors.Join(c.flush(), c.Conn.Close())
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.onClose != nil {
		c.onClose()
		c.onClose = nil
	}
	return err
}

// SetReadDeadline does nothing: go-smtp means it for the whole content.
func (c *shim) SetReadDeadline(time.Time) error { return nil }

// SetDeadline does nothing, likewise.
func (c *shim) SetDeadline(time.Time) error { return nil }

// SetWriteDeadline does nothing, likewise.
func (c *shim) SetWriteDeadline(time.Time) error { return nil }
