package relay_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"stsrelay/internal/boltstore"
	"stsrelay/internal/storetest"
	"stsrelay/relay"

	"github.com/rs/zerolog"
)

// long ends a wait that would hang; it is no measure of speed.
const long = 30 * time.Second

// A desk is a Listener over a real store, and its clients.
type desk struct {
	t     *testing.T
	bolt  *boltstore.Store
	log   *logBuffer
	ln    net.Listener
	l     *relay.Listener
	stop  context.CancelFunc
	ended chan error

	mu    sync.Mutex
	woken []relay.Destination
}

// newDesk starts a Listener on loopback that takes mail from there.
func newDesk(t *testing.T, change func(*relay.ListenerOptions)) *desk {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return deskOn(t, ln, change)
}

func deskOn(t *testing.T, ln net.Listener, change func(*relay.ListenerOptions)) *desk {
	t.Helper()
	bolt, err := boltstore.Open(t.TempDir(), boltstore.Options{NoSync: true, FreeSpace: -1, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	d := &desk{t: t, bolt: bolt, ln: ln, log: &logBuffer{}, ended: make(chan error, 1)}
	o := relay.ListenerOptions{Name: "test", Hostname: "relay.example.com", AllowFrom: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		Store: bolt, Log: zerolog.New(d.log), Wake: func(list ...relay.Destination) {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.woken = append(d.woken, list...)
		}}
	if change != nil {
		change(&o)
	}
	d.l = relay.NewListener(o)
	ctx, stop := context.WithCancel(context.Background())
	d.stop = stop
	go func() { d.ended <- d.l.Serve(ctx, d.ln) }()
	t.Cleanup(func() {
		if err := d.end(); err != nil {
			t.Errorf("Serve ended with %v", err)
		}
		if err := bolt.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// end stops the Listener and returns what Serve did.
func (d *desk) end() error {
	d.stop()
	select {
	case err := <-d.ended:
		d.ended <- nil
		return err
	case <-time.After(long):
		d.t.Fatal("Serve does not end")
		return nil
	}
}

// queue lists what was stored.
func (d *desk) queue() []relay.Entry {
	d.t.Helper()
	list, _, err := d.bolt.List(d.t.Context(), relay.Filter{}, "", 10000)
	if err != nil {
		d.t.Fatal(err)
	}
	return list
}

// content is the body of the only message that was stored, without our
// Received field.
func (d *desk) content() string {
	d.t.Helper()
	list := d.queue()
	if len(list) != 1 {
		d.t.Fatalf("%d entries are queued", len(list))
	}
	return afterReceived(d.t, d.body(list[0].Message))
}

func (d *desk) body(id relay.ID) string {
	d.t.Helper()
	r, err := d.bolt.Body(d.t.Context(), id)
	if err != nil {
		d.t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		d.t.Fatal(err)
	}
	return string(b)
}

// afterReceived cuts the first header field off.
func afterReceived(t *testing.T, body string) string {
	t.Helper()
	if !strings.HasPrefix(body, "Received: from ") {
		t.Fatalf("it does not begin with our Received field: %q", body)
	}
	for {
		i := strings.Index(body, "\r\n")
		if i < 0 {
			t.Fatal("the header never ends")
		}
		if body = body[i+2:]; body == "" || body[0] != '\t' && body[0] != ' ' {
			return body
		}
	}
}

// A caller is a client that says what the test wants, octet for octet.
type caller struct {
	t *testing.T
	net.Conn
	r *bufio.Reader
}

// call connects and reads the greeting.
func (d *desk) call() *caller {
	d.t.Helper()
	c := d.dial()
	c.want("220 relay.example.com")
	return c
}

func (d *desk) dial() *caller {
	d.t.Helper()
	nc, err := net.Dial("tcp", d.ln.Addr().String())
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { nc.Close() })
	return newCaller(d.t, nc)
}

// hello is call and EHLO.
func (d *desk) hello() *caller {
	d.t.Helper()
	c := d.call()
	c.say("EHLO client.example\r\n", "250")
	return c
}

// send writes octets.
func (c *caller) send(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c.Conn, s); err != nil {
		c.t.Fatalf("sending %.60q: %v", s, err)
	}
}

// reply reads one reply, all its lines joined by LF.
func (c *caller) reply() string {
	c.t.Helper()
	var lines []string
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			c.t.Fatalf("after %q: %v", lines, err)
		}
		lines = append(lines, strings.TrimSuffix(line, "\r\n"))
		if len(line) < 4 || line[3] != '-' {
			return strings.Join(lines, "\n")
		}
	}
}

// want reads one reply for each, which it must begin with.
func (c *caller) want(replies ...string) {
	c.t.Helper()
	for _, w := range replies {
		if got := c.reply(); !strings.HasPrefix(got, w) {
			c.t.Errorf("the reply is %q, not %q", got, w)
		}
	}
}

// say sends octets and wants replies.
func (c *caller) say(s string, replies ...string) {
	c.t.Helper()
	c.send(s)
	c.want(replies...)
}

// gone checks that the server has closed the connection, with nothing more to
// say.
func (c *caller) gone() {
	c.t.Helper()
	if rest, err := io.ReadAll(c.r); err != nil || len(rest) > 0 {
		c.t.Errorf("the connection is not closed: %q, %v", rest, err)
	}
}

// mail sends a whole message and returns the reply to it.
func (c *caller) mail(content string) string {
	c.t.Helper()
	c.say("MAIL FROM:<a@client.example>\r\n", "250")
	c.say("RCPT TO:<b@example.net>\r\n", "250")
	c.say("DATA\r\n", "354")
	c.send(content + "\r\n.\r\n")
	return c.reply()
}

func newCaller(t *testing.T, nc net.Conn) *caller {
	t.Helper()
	if err := nc.SetDeadline(time.Now().Add(long)); err != nil {
		t.Fatal(err)
	}
	return &caller{t, nc, bufio.NewReader(nc)}
}

// A failingStore fails as the test wants.
type failingStore struct {
	relay.Store
	err error // of every Accept

	mu     sync.Mutex
	fault  storetest.Fault
	refuse int // Forget fails so many times
	gone   chan struct{}
}

func (f *failingStore) set(x storetest.Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault = x
}

// keep has Forget fail n times.
func (f *failingStore) keep(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refuse, f.gone = n, make(chan struct{})
}

// forgotten is closed when Forget has worked.
func (f *failingStore) forgotten() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.gone
}

func (f *failingStore) Accept(ctx context.Context, m relay.Message, b relay.BodyWriter) error {
	f.mu.Lock()
	fault := f.fault
	f.mu.Unlock()
	switch {
	case f.err != nil:
		b.Discard()
		return f.err
	case fault == storetest.NotWritten:
		b.Discard()
		return fmt.Errorf("%w: %w", relay.ErrUnavailable, errDisk)
	case fault == storetest.Written:
		if err := f.Store.Accept(ctx, m, b); err != nil {
			return err
		}
		return fmt.Errorf("%w: %w", relay.ErrUnknownOutcome, errDisk)
	}
	return f.Store.Accept(ctx, m, b)
}

func (f *failingStore) Forget(ctx context.Context, id relay.ID) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuse > 0 {
		f.refuse--
		return fmt.Errorf("%w: %w", relay.ErrUnavailable, errDisk)
	}
	err := f.Store.Forget(ctx, id)
	if f.gone != nil {
		close(f.gone)
	}
	return err
}
