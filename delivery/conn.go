package delivery

import (
	"bufio"
	"context"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"stsrelay/internal/addr"
)

const (
	writeBuffer = 64 << 10
	// tcpWindow is the group that may be written without reading in between:
	// "at least 4K octets" fit a TCP window (RFC 2920, Section 3.1; ledger
	// PIPE-3.1-05).
	tcpWindow = 4 << 10
)

// A conn is one SMTP connection and what is known of it. It belongs to one
// lane, or to the pool, never to both; only the writer of a long group runs
// beside its owner.
type conn struct {
	key   poolKey
	host  addr.Host      // zero for an address literal
	addr  netip.AddrPort // as planned, not as the Dialer maps it
	local netip.Addr     // sending-mta-ip
	start time.Time      // of the dial
	setup time.Duration  // dial to the end of hello

	raw      net.Conn // TCP
	nc       net.Conn // raw, or TLS over it
	r        *bufio.Reader
	*buffers // nil while the connection is kept
	t        *Timeouts
	ctx      context.Context // of the lane that owns it
	end      func() bool     // stops watching ctx

	name     string // by which the server greeted us, cleaned: receiving-mx-helo
	ext      extensions
	evidence Evidence
	inClear  bool          // a redial: TLS was left out on purpose
	booked   []addr.Domain // Policy Domains that have their session for this connection (ledger RPT-4.2-03)

	judged *site // for which Judge allowed this connection last
	quiet  bool  // it was asked for a task that causes no session
	detour bool  // the owner is here for one task only

	messages int  // transactions begun
	rcptMax  int  // recipients per transaction, as the server showed or said; 0 for no limit
	reset    bool // a transaction is open at the server: RSET comes before the next
	broken   bool // unusable: no command will be understood, not even QUIT

	trace   Tracer     // nil: nobody listens
	writing chan error // not nil: a long group is being written
	keptAt  time.Time  // when the pool got it
	lender  *sync.Pool // of *buffers
}

// Buffers are what a connection needs only while it is at work.
type buffers struct {
	w    *bufio.Writer
	copy []byte
}

func newBuffers() any {
	return &buffers{w: bufio.NewWriterSize(nil, writeBuffer), copy: make([]byte, 32<<10)}
}

// attach makes ctx bound everything that happens on c.
func (c *conn) attach(ctx context.Context) {
	c.ctx = ctx
	raw := c.raw
	c.end = context.AfterFunc(ctx, func() { raw.Close() })
	if c.buffers == nil {
		c.buffers = c.lender.Get().(*buffers)
		c.w.Reset(blockWriter{c})
	}
}

// detach undoes attach. False means that ctx ended: the connection is closed.
func (c *conn) detach() bool {
	alive := c.end == nil || c.end()
	c.end, c.ctx, c.judged = nil, nil, nil
	if c.buffers != nil {
		c.w.Reset(nil)
		c.lender.Put(c.buffers)
		c.buffers = nil
	}
	return alive
}

// A blockWriter gives each block its own time (RFC 5321, Section 4.5.3.2.5),
// the last of which is that of the reply.
type blockWriter struct{ c *conn }

func (b blockWriter) Write(p []byte) (int, error) {
	b.c.nc.SetWriteDeadline(time.Now().Add(b.c.t.Block))
	return b.c.nc.Write(p)
}

// secure puts TLS in place of the plain connection. What was buffered before
// belongs to an attacker (ledger STLS-6-01) and is gone with the old reader.
func (c *conn) secure(nc net.Conn) {
	c.nc = c.traced(nc)
	c.r.Reset(c.nc)
	c.w.Reset(blockWriter{c})
}

// command writes one line and flushes it, with all that was written before.
func (c *conn) command(words ...string) error {
	for _, s := range words {
		c.w.WriteString(s)
	}
	c.w.WriteString("\r\n")
	return c.flush()
}

func (c *conn) flush() error {
	err := c.w.Flush()
	if err != nil {
		c.broken = true
	}
	return err
}

// read returns the next reply, that must come within d.
func (c *conn) read(d time.Duration) (reply, error) {
	c.nc.SetReadDeadline(time.Now().Add(d))
	r, err := readReply(c.r)
	if err != nil {
		c.broken = true
	}
	return r, err
}

// ask is command and read.
func (c *conn) ask(d time.Duration, words ...string) (reply, error) {
	if err := c.command(words...); err != nil {
		return c.last(err)
	}
	return c.read(d)
}

// last looks for what the server had to say when a write failed: many say 421
// or 552 and close. Without such a reply it returns the error of the write.
func (c *conn) last(err error) (reply, error) {
	if c.ctx.Err() != nil {
		return reply{}, err
	}
	if r, rerr := c.read(min(c.t.Quit, time.Second)); rerr == nil {
		return r, nil
	}
	return reply{}, err
}

// post writes a group of commands. One that a TCP window may not hold is
// written while its replies are read, or both sides could wait for each other
// for ever (ledger PIPE-3.1-05); wait tells how that ended.
func (c *conn) post(group string) error {
	if len(group) <= tcpWindow {
		c.w.WriteString(group)
		return c.flush()
	}
	done := make(chan error, 1)
	c.writing = done
	go func() { done <- c.writeLong(group) }()
	return nil
}

// writeLong gives each portion its own time, not the whole group.
func (c *conn) writeLong(group string) error {
	err := c.w.Flush()
	for len(group) > 0 && err == nil {
		n := min(len(group), tcpWindow)
		c.w.WriteString(group[:n])
		group, err = group[n:], c.w.Flush()
	}
	return err
}

// wait returns when the group given to post is written.
func (c *conn) wait() error {
	if c.writing == nil {
		return nil
	}
	err := <-c.writing
	c.writing = nil
	if err != nil {
		c.broken = true
	}
	return err
}

// close ends the connection without a word, and the writer of a long group
// with it.
func (c *conn) close() {
	c.raw.Close()
	c.wait()
	c.detach()
}

// quit says QUIT and waits a moment for the answer, whatever it is (RFC 5321,
// Section 4.1.1.10; ledger SMTP-4.1.1.10-01, -02). Nobody learns how it went.
func (c *conn) quit() {
	if !c.broken && c.writing == nil {
		c.nc.SetDeadline(time.Now().Add(c.t.Quit))
		if _, err := c.nc.Write([]byte("QUIT\r\n")); err == nil {
			readReply(c.r)
			c.nc.Close() // over TLS with close_notify
		}
	}
	c.close()
}

// limit is how many transactions c may carry (RFC 9422: MAILMAX).
func (c *conn) limit() int {
	if n := c.ext.mailMax; n > 0 {
		return min(n, maxMessages)
	}
	return maxMessages
}

// ehloArgument is our name, or without one the literal of the local address
// (RFC 5321, Section 4.1.4; ledger SMTP-4.1.1.1-01).
func ehloArgument(hostname string, local netip.Addr) string {
	if hostname != "" {
		return hostname
	}
	local = local.Unmap().WithZone("")
	switch {
	case !local.IsValid():
		return "[127.0.0.1]"
	case local.Is4():
		return "[" + local.String() + "]"
	}
	return "[IPv6:" + local.String() + "]"
}

// greeted is the name in the first line of a greeting.
func greeted(text string) string {
	text, _, _ = strings.Cut(text, "\n")
	name, _, _ := strings.Cut(strings.TrimSpace(text), " ")
	return name
}
