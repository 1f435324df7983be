package lab

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"time"
)

// A conversation is one connection to an MX host. It is used by one goroutine.
type conversation struct {
	h    *MXHost
	conf *MX
	n    int // number of the connection, from 1
	tcp  *net.TCPConn
	conn net.Conn // tcp, or TLS over it
	in   *bufio.Reader
	out  *bufio.Writer

	tls   *TLSState // nil before TLS
	below *records  // what TLS reads from, nil before TLS

	helo     string
	esmtp    bool   // EHLO, not HELO
	sender   string // the last MAIL command
	mail     string // the one that was taken
	rcpts    []string
	refused  bool // something of this transaction was refused
	messages int
	noData   bool   // the last command was DATA, and it was refused
	user     string // who logged in
}

// What ends a conversation besides errors of the connection.
var (
	errGone  = errors.New("the host hangs up")
	errQuit  = errors.New("the client has said QUIT")
	errReset = errors.New("the host resets the connection")
)

// partTime is how long a client that was hung up on may go on talking.
const partTime = time.Second

// serve talks to one client.
func (h *MXHost) serve(tcp *net.TCPConn, n int) {
	c := &conversation{h: h, conf: h.config(), n: n, tcp: tcp}
	if c.conf.SmallBuffers {
		tcp.SetReadBuffer(1)
		tcp.SetWriteBuffer(1)
	}
	c.over(tcp)
	c.part(c.talk())
}

// part ends a connection in order: what was said arrives even if the client
// has said more than was read, which would make a reset of a plain close.
func (c *conversation) part(why error) {
	if !errors.Is(why, errGone) && !errors.Is(why, errQuit) {
		return // the client has gone, or it was reset
	}
	c.flush()
	if t, ok := c.conn.(*tls.Conn); ok && errors.Is(why, errQuit) {
		t.CloseWrite()
	}
	c.tcp.CloseWrite()
	c.tcp.SetReadDeadline(time.Now().Add(partTime))
	io.Copy(io.Discard, c.tcp)
}

// over has the conversation go on over conn.
func (c *conversation) over(conn net.Conn) {
	c.conn = conn
	c.in = bufio.NewReaderSize(&counted{c}, 64<<10)
	c.out = bufio.NewWriterSize(conn, 4<<10)
}

// counted reads from a conversation's client. Replies leave when there is
// nothing more to read (RFC 2920, Section 3.2), and that makes a flight.
type counted struct{ c *conversation }

func (r *counted) Read(p []byte) (int, error) {
	c := r.c
	if c.out.Buffered() > 0 && (c.conf.Forget || !c.pending()) {
		if err := c.flush(); err != nil {
			return 0, err
		}
	}
	if d := c.conf.SlowRead; d > 0 {
		if !sleep(d, c.h.w.done) {
			return 0, errGone
		}
		p = p[:min(len(p), 512)]
	}
	return c.conn.Read(p)
}

// flush sends the replies off.
func (c *conversation) flush() error {
	if c.out.Buffered() > 0 && !c.conf.Forget {
		c.h.note(func(s *seen) {
			if s.flights == nil {
				s.flights = map[int]int{}
			}
			s.flights[c.n]++
		})
	}
	return c.out.Flush()
}

// talk greets and obeys until one side has had enough.
func (c *conversation) talk() error {
	if c.conf.ImplicitTLS {
		if err := c.handshake(); err != nil {
			return err
		}
	}
	if err := c.greet(); err != nil {
		return err
	}
	for {
		line, err := c.line()
		if err != nil {
			return err
		}
		if err := c.obey(line); err != nil {
			return err
		}
	}
}

func (c *conversation) greet() error {
	usual := "220 " + c.conf.Name + " ESMTP lab"
	if limit := c.conf.MaxConnections; limit > 0 && c.h.Open() > limit {
		usual = "421 4.7.0 " + c.conf.Name + " too many connections"
	}
	return c.say(event{stage: Connect, tls: c.tls != nil}, usual)
}

// line reads one command.
func (c *conversation) line() (string, error) {
	raw, err := c.in.ReadString('\n')
	if err != nil {
		return "", err
	}
	line := strings.TrimSuffix(strings.TrimSuffix(raw, "\n"), "\r")
	c.log(false, line)
	c.checkLine(raw)
	return line, nil
}

// obey does what a command asks, unless a rule says otherwise.
func (c *conversation) obey(line string) error {
	verb, arg, _ := strings.Cut(line, " ")
	verb = strings.ToUpper(verb)
	e := event{stage: verb, line: line, tls: c.tls != nil}
	c.checkFlight(verb, line)
	c.checkOrder(verb, line)
	switch verb {
	case "EHLO", "HELO":
		return c.hello(e, arg)
	case "STARTTLS":
		return c.startTLS(e)
	case "MAIL":
		return c.from(e, line)
	case "RCPT":
		return c.to(e, line)
	case "DATA":
		return c.data(e)
	case "AUTH":
		return c.auth(e, arg)
	case "RSET":
		c.reset()
		return c.say(e, "250 2.0.0 ok")
	case "NOOP":
		return c.say(e, "250 2.0.0 ok")
	case "QUIT":
		if err := c.say(e, "221 2.0.0 bye"); err != nil {
			return err
		}
		return errQuit
	}
	return c.say(e, "502 5.5.1 command not known")
}
