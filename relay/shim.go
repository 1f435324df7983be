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
	maxCommand   = 2048        // octets of a command line: RFC 5321, Section 4.5.3.1.4, and room for extensions
	maxBodyLine  = 1 << 20     // octets of a line of content
	writeBuffer  = 16 << 10    // octets of replies that wait for the next read
	writeLimit   = time.Minute // for a client to take what was written
	contentLimit = time.Hour   // for the content of one message
)

// A shim stands between go-smtp and a client's connection. It closes what the
// library leaves open (the numbers are those of the tests): replies go out when
// the input is empty and not line by line (S3; RFC 2920, Section 3.2); the time
// limit is for each read and not for the whole content (S2); a client that was
// silent for too long is never heard again, so that the rest of its content is
// not taken for commands (S1); command lines are bounded and end in CRLF (S12,
// ledger SMUG-05); CHUNKING is not there (S4); idle clients can be sent away
// (S14). All but leave is called by the goroutine of the session.
type shim struct {
	net.Conn
	o shimOptions

	out    []byte // replies that wait
	failed error  // nothing is read any more
	words  string // what is said before that

	line    int     // octets of the line that is being read
	verb    [4]byte // how it begins
	esmtp   bool    // the last greeting was EHLO
	cr      bool    // its last octet is a CR
	content bool    // what is read is content: from DATA until its reply
	bare    bool    // the content had a CR or LF that was not part of a CRLF
	long    bool    // it had a line of more than maxBodyLine octets
	until   time.Time

	mu      sync.Mutex
	busy    bool      // a transaction is under way
	leaving bool      // the relay ends
	last    time.Time // end of the grace time
	onClose func()
}

type shimOptions struct {
	idle    time.Duration     // between two reads
	loose   bool              // command lines may end in LF
	bye     string            // what is said when the relay ends
	replies map[string]string // what go-smtp says: what is said instead
}

// Read writes what waits and then reads. After an error nothing is read again.
func (c *shim) Read(p []byte) (int, error) {
	if c.failed != nil {
		return 0, c.fail(c.failed)
	}
	if err := c.flush(); err != nil {
		return 0, c.fail(err)
	}
	for {
		if !c.mayRead() {
			c.words = c.o.bye
			return 0, c.fail(net.ErrClosed)
		}
		n, err := c.Conn.Read(p)
		switch {
		case n > 0:
			return c.check(p[:n])
		case errors.Is(err, os.ErrDeadlineExceeded):
			switch leaving, last := c.isLeaving(); {
			case leaving && !last:
				continue // it ended since the relay does, and not since the client was silent
			case leaving && !c.content:
				c.words = c.o.bye
				return 0, c.fail(net.ErrClosed)
			}
			c.failed = net.ErrClosed
			return 0, err // go-smtp says 421 to it, the session 451
		}
		return 0, c.fail(err)
	}
}

// mayRead sets the deadline of the next read. While the relay ends it is not to
// be, between two transactions.
func (c *shim) mayRead() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	deadline := time.Now().Add(c.o.idle)
	if c.content && c.until.Before(deadline) {
		deadline = c.until
	}
	if c.leaving {
		if !c.busy {
			return false
		}
		if c.last.Before(deadline) {
			deadline = c.last
		}
	}
	_ = c.Conn.SetReadDeadline(deadline) // a closed connection tells by Read
	return true
}

// isLeaving reports whether the relay ends, and whether the grace time is over.
func (c *shim) isLeaving() (leaving, last bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.leaving, !time.Now().Before(c.last)
}

// leave has the client go: at once if it is between two transactions.
func (c *shim) leave(grace time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leaving, c.last = true, time.Now().Add(grace)
	_ = c.Conn.SetReadDeadline(time.Unix(1, 0)) // wakes the read that is under way
}

// setBusy says whether a transaction is under way.
func (c *shim) setBusy(busy bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy = busy
}

// beginContent says that what is read now is content, until the next reply.
func (c *shim) beginContent() {
	c.content, c.bare, c.long, c.until = true, false, false, time.Now().Add(contentLimit)
}

// check looks at what was read: at line ends in content, at much more in
// commands. What came before a line that is refused is still served.
func (c *shim) check(p []byte) (int, error) {
	if c.content {
		c.checkContent(p)
		return len(p), nil
	}
	for i, b := range p {
		broken := b == '\n' && !c.cr || b != '\n' && c.cr
		c.cr = b == '\r'
		words := c.wrong(b, broken)
		if words == "" {
			c.count(b)
			continue
		}
		c.words, c.failed = words, net.ErrClosed
		served := bytes.LastIndexByte(p[:i], '\n') + 1
		if served == 0 {
			return 0, c.fail(net.ErrClosed)
		}
		return served, nil
	}
	return len(p), nil
}

// checkContent notes a CR or LF that is not part of a CRLF, and lines that are
// too long.
func (c *shim) checkContent(p []byte) {
	for len(p) > 0 {
		end := bytes.IndexByte(p, '\n')
		line := p
		if end >= 0 {
			line = p[:end]
		}
		if n := len(line); n > 0 {
			c.bare = c.bare || c.cr || bytes.IndexByte(line[:n-1], '\r') >= 0
			c.cr = line[n-1] == '\r'
		}
		c.line += len(line)
		c.long = c.long || c.line > maxBodyLine
		if end < 0 {
			return
		}
		c.bare = c.bare || !c.cr
		c.cr, c.line, p = false, 0, p[end+1:]
	}
}

// count counts an octet of a command line.
func (c *shim) count(b byte) {
	if c.line < len(c.verb) {
		c.verb[c.line] = b
	}
	if c.line++; b != '\n' {
		return
	}
	if c.line > len(c.verb) {
		switch verb := c.verb[:]; {
		case bytes.EqualFold(verb, []byte("EHLO")):
			c.esmtp = true
		case bytes.EqualFold(verb, []byte("HELO")):
			c.esmtp = false
		}
	}
	c.line = 0
}

// wrong says what the client hears of the next octet of a command line, "" if it
// may stand there.
func (c *shim) wrong(b byte, broken bool) (words string) {
	switch {
	case b == 0, broken && !c.o.loose: // ledger SMUG-05
		return "500 5.5.2 a command line has a NUL, or a CR or LF that is not part of a CRLF\r\n"
	case c.line >= maxCommand:
		return "500 5.5.2 a command line has more than 2048 octets\r\n"
	case c.line == len(c.verb) && bytes.EqualFold(c.verb[:], []byte("BDAT")): // what follows would be taken for commands
		return "502 5.5.1 BDAT is not there: CHUNKING was not offered\r\n"
	}
	return ""
}

// fail ends the reading for good.
func (c *shim) fail(err error) error {
	c.out = append(c.out, c.words...)
	c.failed, c.words = err, ""
	_ = c.flush() // the connection ends anyway
	return err
}

// Write keeps replies until the next read.
func (c *shim) Write(p []byte) (int, error) {
	c.content = false
	if instead, ok := c.o.replies[string(p)]; ok {
		c.out = append(c.out, instead...)
	} else {
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
	_ = c.Conn.SetWriteDeadline(time.Now().Add(writeLimit)) // a closed connection tells by Write
	_, err := c.Conn.Write(c.out)
	c.out = c.out[:0]
	return err
}

// Close writes what waits, and closes.
func (c *shim) Close() error {
	err := errors.Join(c.flush(), c.Conn.Close())
	c.mu.Lock()
	onClose := c.onClose
	c.onClose = nil
	c.mu.Unlock()
	if onClose != nil {
		onClose()
	}
	return err
}

// SetReadDeadline does nothing: go-smtp means it for the whole content.
func (c *shim) SetReadDeadline(time.Time) error { return nil }

// SetDeadline does nothing, likewise.
func (c *shim) SetDeadline(time.Time) error { return nil }

// SetWriteDeadline does nothing, likewise.
func (c *shim) SetWriteDeadline(time.Time) error { return nil }
