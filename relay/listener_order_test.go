package relay_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/internal/boltstore"
	"stsrelay/internal/storetest"
	"stsrelay/relay"

	"github.com/rs/zerolog"
)

const envelope = "MAIL FROM:<a@client.example>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n"

// What is sent in one piece is still content, and then commands: each is held to
// its own rules.
func TestListenerPipelining(t *testing.T) {
	for _, tt := range []struct{ name, behind, want string }{
		{"S4 SMUG-07 BDAT behind content", "BDAT 10 LAST\r\nbare\nlf\r\n", "502 5.5.1"},
		{"SMUG-05 a LF that ends a command behind content", "NOOP\nNOOP\r\n", "500 5.5.2"},
		{"SMUG-05 a NUL in a command behind content", "NOOP \x00\r\n", "500 5.5.2"},
		{"S12 a long command line behind content", "NOOP " + strings.Repeat("x", 2042) + "\r\n", "500 5.5.2 a command line has more"},
		{"SMUG-06 content that does not wait for 354, behind content", "DATA\r\nSubject: y\r\n\r\n.\r\n", "421 4.5.0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDesk(t, nil)
			c := d.hello()
			c.say(envelope, "250", "250", "354")
			c.send("Subject: x\r\n\r\nHello\r\n.\r\nMAIL FROM:<evil@client.example>\r\nRCPT TO:<victim@example.net>\r\n" + tt.behind)
			c.want("250 2.0.0 queued as", "250", "250", tt.want)
			c.gone()
			if got := d.content(); got != "Subject: x\r\n\r\nHello\r\n" {
				t.Errorf("%q is queued", got)
			}
		})
	}
	t.Run("PIPE-3.2-01 replies come in order, and none is dropped after an error", func(t *testing.T) {
		d := newDesk(t, nil)
		c := d.hello()
		c.send("RSET\r\nMAIL FROM:<nobody>\r\nFOO\r\n" + envelope)
		c.want("250", "501", "5", "250", "250", "354")
		c.send("Subject: 1\r\n\r\n.\r\n" + envelope)
		c.want("250 2.0.0 queued as", "250", "250", "354")
		c.send("Subject: 2\r\n\r\n.\r\nNOOP\r\nQUIT\r\n")
		c.want("250 2.0.0 queued as", "250", "221")
		c.gone()
		if n := len(d.queue()); n != 2 {
			t.Errorf("%d entries", n)
		}
	})
	t.Run("PIPE-3.2-02 no 354 without a recipient, and no empty message", func(t *testing.T) {
		d := newDesk(t, nil)
		c := d.hello()
		c.send("MAIL FROM:<a@client.example>\r\nRCPT TO:<a..@>\r\nRCPT TO:<b@x\x01.example>\r\nDATA\r\n")
		c.want("250", "5", "501 5.1.3", "554 5.5.1")
		c.say("RSET\r\n", "250")
		if n := len(d.queue()); n != 0 {
			t.Errorf("%d entries", n)
		}
	})
	for what, between := range map[string]int{"that was read": 0, "that was not": 2000} {
		t.Run("SMUG-02 no mail that was pipelined behind the second offence is taken, "+what, func(t *testing.T) {
			d := newDesk(t, nil)
			c := d.hello()
			c.say(envelope, "250", "250", "354")
			c.say("bare\n\r\n.\r\n", "550 5.5.2")
			c.say(envelope, "250", "250", "354")
			c.send("bare\n\r\n.\r\n" + strings.Repeat("NOOP\r\n", between) + envelope)
			c.want("421 4.7.0")
			rest, _ := io.ReadAll(c.r) // what is not read ends in a reset
			if len(rest) > 0 || len(d.queue()) > 0 {
				t.Errorf("it goes on with %.100q", rest)
			}
		})
	}
}

func TestSMUG_06_InputAheadOfItsTime(t *testing.T) {
	t.Run("before the greeting", func(t *testing.T) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		nc, err := net.Dial("tcp", ln.Addr().String()) // it waits in the backlog
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		c := newCaller(t, nc)
		c.send("EHLO client.example\r\n")
		d := deskOn(t, ln, nil)
		c.want("421 4.5.0")
		d.hello().say("NOOP\r\n", "250")
		if log := d.log.text(); !contains(log, "input came ahead of its time", `"client":"[127.0.0.1]"`) {
			t.Errorf("log: %s", log)
		}
	})
	t.Run("between DATA and 354", func(t *testing.T) {
		d := newDesk(t, nil)
		c := d.hello()
		c.send(envelope + "Subject: x\r\n\r\nHello\r\n.\r\n")
		c.want("250", "250", "421 4.5.0")
		c.gone()
		if n := len(d.queue()); n != 0 {
			t.Errorf("%d entries", n)
		}
	})
}

func TestListenerParameters(t *testing.T) {
	for _, tt := range []struct{ name, send, want string }{
		{"S11 SIZE-L-01 a declared size of more than 32 bits", "SIZE=4294967296", "552 5.3.4"},
		{"S11 SIZE-L-01 a declared size of more than 64 bits", "SIZE=99999999999999999999", "552 5.3.4"},
		{"SMTP-4.1.1.11-01 AUTH, which is not offered", "AUTH=<>", "555 5.5.4"},
		{"SMTP-4.1.1.11-01 MT-PRIORITY, which is not offered", "MT-PRIORITY=3", "555 5.5.4"},
		{"SMTP-4.1.1.11-01 CHUNK-3-01 BODY=BINARYMIME, which is not offered", "BODY=BINARYMIME", "555 5.5.4"},
		{"SMTP-4.1.1.11-01 RTLS-7-01 REQUIRETLS, where there is no TLS", "REQUIRETLS", "555 5.5.4"},
		{"8BIT-2-01 a BODY that nobody knows", "BODY=9BIT", "501 5.5.4"},
		{"8BIT-2-01 BODY without a value", "BODY", "501 5.5.4"},
		{"8BIT-2-01 BODY twice", "BODY=7BIT BODY=7BIT", "501 5.5.4"},
		{"8BIT-2-01 BODY twice, in another case", "BODY=8BITMIME body=7bit", "501 5.5.4"},
		{"SIZE-L-01 SIZE is no number", "SIZE=ten", "501 5.5.4"},
		{"SIZE-L-01 SIZE has a sign", "SIZE=-1", "501 5.5.4"},
		{"S18 SIZE twice", "SIZE=99999999 SIZE=1", "501 5.5.4"},
		{"S18 a value with =", "SIZE=1=1", "501 5.5.4"},
		{"S18 no keyword", "=1", "501 5.5.4"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newDesk(t, nil).hello()
			c.say("MAIL FROM:<a@d.example> "+tt.send+"\r\n", tt.want)
			c.say("MAIL FROM:<a@d.example>\r\n", "250")
		})
	}
	for _, send := range []string{"RRVS=2014-04-03T23:01:00Z", "BY=120;R", "FOO", "SIZE=100"} {
		t.Run("SMTP-4.1.1.11-01 "+send, func(t *testing.T) {
			c := newDesk(t, nil).hello()
			c.say("MAIL FROM:<a@d.example>\r\n", "250")
			c.say("RCPT TO:<b@example.net> "+send+"\r\n", "555 5.5.4")
			c.say("RCPT TO:<b@example.net>\r\n", "250")
		})
	}
	t.Run("SMTP-4.1.4-01 nothing before EHLO, and the state stays", func(t *testing.T) {
		c := newDesk(t, nil).call()
		c.say("MAIL FROM:<a@d.example>\r\n", "503 5.5.1")
		c.say("RCPT TO:<b@example.net>\r\n", "503 5.5.1")
		c.say("EHLO client.example\r\n", "250")
		c.say("RCPT TO:<b@example.net>\r\n", "503 5.5.1")
		c.say("MAIL FROM:<a@d.example>\r\n", "250")
		c.say("MAIL FROM:<a@d.example>\r\n", "503 5.5.1")
		c.say("RCPT TO:<b@example.net>\r\n", "250")
	})
	t.Run("S7 no control character is said back, in whichever EHLO", func(t *testing.T) {
		c := newDesk(t, nil).hello()
		c.send("EHLO a\x1b[31mb\r\n")
		if got := c.reply(); !strings.HasPrefix(got, "250-Hello a?[31mb\n") {
			t.Errorf("%q", got)
		}
		c.send("EHLO b\xc3\xbccher.example\r\n") // nor what is not ASCII (RFC 6531, Section 3.7.4.2)
		if got := c.reply(); !strings.HasPrefix(got, "250-Hello b??cher.example\n") {
			t.Errorf("%q", got)
		}
		c.send("MAIL FROM:<\"a\tb\"@d.example>\r\n")
		if got := c.reply(); !strings.HasPrefix(got, "501 5.1.7") || !strings.Contains(got, "control characters") {
			t.Errorf("%q", got)
		}
	})
	t.Run("a reply line keeps to 512 octets, whatever it repeats", func(t *testing.T) {
		c := newDesk(t, nil).hello()
		c.send("MAIL FROM:<" + strings.Repeat("x", 1900) + "@d.example>\r\n")
		if got := c.reply(); !strings.HasPrefix(got, "501 5.1.7") || len(got) > 510 {
			t.Errorf("%d octets: %.60q", len(got), got)
		}
	})
	t.Run("SMTP-4.5.3.1-01 everything of the least size that every server must take", func(t *testing.T) {
		d := newDesk(t, nil)
		c := d.hello()
		local, domain := strings.Repeat("l", 64), strings.Repeat("d.", 94)+"d" // together a path of 256 octets
		c.say("MAIL FROM:<"+local+"@"+domain+">\r\n", "250")
		longest := strings.Repeat(strings.Repeat("d", 60)+".", 4) + "example" // of 255 octets on the wire of DNS with what is counted there
		c.say("RCPT TO:<u@"+longest+".d>\r\n", "250")
		for i := range 99 {
			c.say(fmt.Sprintf("RCPT TO:<u%d@example.net>\r\n", i), "250")
		}
		c.say("NOOP "+strings.Repeat("x", 505)+"\r\n", "250") // 512 octets
		c.say("DATA\r\n", "354")
		content := strings.Repeat("."+strings.Repeat("x", 997)+"\r\n", 66)
		c.say(strings.ReplaceAll(content, ".x", "..x")+".\r\n", "250")
		if len(content) < 64<<10 || afterReceived(t, d.body(d.queue()[0].Message)) != content {
			t.Errorf("%d octets are not queued as they were sent", len(content))
		}
	})
	t.Run("a recipient that is named twice is one, whatever the case of its domain; that of its local part counts", func(t *testing.T) {
		d := newDesk(t, nil)
		c := d.hello()
		c.say("MAIL FROM:<a@client.example>\r\nRCPT TO:<User@Example.NET>\r\nRCPT TO:<User@example.net>\r\nRCPT TO:<user@example.net>\r\nDATA\r\n", "250", "250", "250", "250", "354")
		c.say(".\r\n", "250")
		if to := recipients(d.queue()); !slices.Equal(to, []string{"example.net: User@Example.NET user@example.net"}) {
			t.Errorf("%q", to)
		}
	})
	t.Run("SMTP-2.4-01 verbs and keywords in small letters, and a local part as it is", func(t *testing.T) {
		d := newDesk(t, nil)
		c := d.call()
		c.say("ehlo client.example\r\nmail from:<User@Client.example> body=8bitmime size=10\r\nrcpt to:<B@example.net>\r\ndata\r\n", "250", "250", "250", "354")
		c.say(".\r\n", "250")
		e := d.queue()[0]
		if e.From.String() != "User@Client.example" || e.To[0].Address.String() != "B@example.net" || e.Options.Body != relay.Body8BitMIME {
			t.Errorf("%s %s", e.From, e.To[0].Address)
		}
	})
	t.Run("SMTP-2.3.5-01 a partial name stays one", func(t *testing.T) {
		d := newDesk(t, nil)
		if e := d.with(d.hello(), "<a@client>", "<u@sales>"); e.From.String() != "a@client" || e.To[0].Address.String() != "u@sales" || e.Destination != "sales" {
			t.Errorf("%+v", e)
		}
	})
	for _, postmaster := range []string{"", "ops@example.org"} {
		t.Run("SMTP-4.5.1-02 S9 a postmaster without a domain is ours: "+postmaster, func(t *testing.T) {
			want := "postmaster@relay.example.com"
			d := newDesk(t, func(o *relay.ListenerOptions) {
				if postmaster != "" {
					o.Postmaster, want = addr.MustAddress(postmaster), postmaster
				}
			})
			e := d.with(d.hello(), "<>", "<Postmaster> NOTIFY=NEVER", "<pOSTMASTER>")
			if len(e.To) != 1 || e.To[0].Address.String() != want || e.To[0].Notify != "NEVER" {
				t.Errorf("%+v", e.To)
			}
		})
	}
	t.Run("SMTP-4.5.1-02 a postmaster with a domain is its own", func(t *testing.T) {
		d := newDesk(t, func(o *relay.ListenerOptions) { o.Postmaster = addr.MustAddress("ops@example.org") })
		if e := d.with(d.hello(), "<>", "<POSTMASTER@example.net>"); e.To[0].Address.String() != "POSTMASTER@example.net" {
			t.Errorf("%+v", e.To)
		}
	})
	t.Run("SMTP-3.6.1-01 a source route is dropped", func(t *testing.T) {
		d := newDesk(t, nil)
		c := d.hello()
		c.say("MAIL FROM:<@x.example:a@client.example>\r\nRCPT TO:<@a.example,@b.example:u@c.example>\r\nDATA\r\n", "250", "250", "354")
		c.say(".\r\n", "250")
		if e := d.queue()[0]; e.From.String() != "a@client.example" || e.To[0].Address.String() != "u@c.example" || e.Destination != "c.example" {
			t.Errorf("%+v", e)
		}
	})
	t.Run("SMTP-4.4-05 SMTP-6.4-01 Return-Path stays, and nothing is added that is missing", func(t *testing.T) {
		d := newDesk(t, nil)
		if got := d.hello().mail("Return-Path: <x@y.example>\r\nSubject: no Date, no Message-ID\r\n\r\nx"); !strings.HasPrefix(got, "250") {
			t.Fatal(got)
		}
		if got := d.content(); got != "Return-Path: <x@y.example>\r\nSubject: no Date, no Message-ID\r\n\r\nx\r\n" {
			t.Errorf("%q", got)
		}
	})
}

func TestListenerPhases(t *testing.T) {
	inDeskBubble(t, "S2 a command must be whole within the idle time, though octets keep coming", nil, func(t *testing.T, d *desk, c *caller) {
		began := time.Now() // of the bubble
		for range 3 {
			c.send("N")
			time.Sleep(90 * time.Second)
		}
		c.want("421 4.4.2")
		c.gone()
		if took := time.Since(began); took != 5*time.Minute {
			t.Errorf("after %s", took)
		}
	})
	inDeskBubble(t, "S2 an envelope that never ends is ended after an hour", nil, func(t *testing.T, d *desk, c *caller) {
		c.say("MAIL FROM:<a@client.example>\r\n", "250")
		began := time.Now()
		for i := range 14 {
			time.Sleep(4 * time.Minute)
			c.say(fmt.Sprintf("RCPT TO:<u%d@example.net>\r\n", i), "250")
		}
		c.want("421 4.4.2")
		c.gone()
		if took := time.Since(began); took != time.Hour {
			t.Errorf("after %s", took)
		}
	})
	inDeskBubble(t, "S14 a silent client is left at its own time, though the relay ends later", func(o *relay.ListenerOptions) { o.Grace = time.Hour }, func(t *testing.T, d *desk, c *caller) {
		c.say("MAIL FROM:<a@client.example>\r\n", "250")
		d.stop()
		began := time.Now()
		c.want("421 4.4.2")
		c.gone()
		if took := time.Since(began); took != 5*time.Minute {
			t.Errorf("after %s", took)
		}
	})
}

func TestListenerEndsThoughAClientDoesNotListen(t *testing.T) {
	inDeskBubble(t, "S14 a client that takes no replies is cut off after the grace time", func(o *relay.ListenerOptions) { o.Grace = 2 * time.Second }, func(t *testing.T, d *desk, c *caller) {
		c.send("NOOP\r\n")
		synctest.Wait() // the reply is being written
		began := time.Now()
		if err := d.end(); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("after %s", took)
		}
	})
}

// A stuckStore accepts nothing until its context ends.
type stuckStore struct {
	relay.Store
	begun chan struct{}
}

func (s *stuckStore) Accept(ctx context.Context, _ relay.Message, b relay.BodyWriter) error {
	defer b.Discard()
	close(s.begun)
	<-ctx.Done()
	return fmt.Errorf("%w: %w", relay.ErrUnavailable, ctx.Err())
}

func TestS14_ServeEndsAfterItsSessions(t *testing.T) {
	s := &stuckStore{begun: make(chan struct{})}
	d := newDesk(t, func(o *relay.ListenerOptions) { s.Store, o.Store, o.Grace = o.Store, s, time.Millisecond })
	c := d.hello()
	c.say(envelope, "250", "250", "354")
	c.send("Subject: x\r\n\r\n.\r\n")
	<-s.begun
	if err := d.end(); err != nil {
		t.Error(err)
	}
	if n := d.l.Snapshot().Connections; n != 0 {
		t.Errorf("%d connections are left", n)
	}
}

// A store that has no room says so, to the client too.
func TestListenerFullStore(t *testing.T) {
	full, err := boltstore.Open(t.TempDir(), boltstore.Options{NoSync: true, FreeSpace: 1 << 60, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	d := newDesk(t, func(o *relay.ListenerOptions) { o.Store = full })
	t.Cleanup(func() { full.Close() }) // before the desk ends, which has no mail under way
	c := d.hello()
	for range 2 {
		if got := c.mail("Subject: x\r\n\r\nHello"); !strings.HasPrefix(got, "452 4.3.1") {
			t.Errorf("%q", got)
		}
	}
	if s := d.l.Snapshot(); s.Accepted != 0 || s.Refused != 2 {
		t.Errorf("%+v", s)
	}
}

// What cannot be taken back before the end is told of.
func TestListenerTellsWhatMayArriveTwice(t *testing.T) {
	f := &failingStore{}
	d := newDesk(t, func(o *relay.ListenerOptions) { f.Store, o.Store = o.Store, f })
	c := d.hello()
	f.set(storetest.Written)
	f.keep(1 << 30)
	if got := c.mail("Subject: x\r\n\r\nHello"); !strings.HasPrefix(got, "451 4.3.0") {
		t.Errorf("%q", got)
	}
	const told = "may be in the queue too"
	if log := d.log.text(); contains(log, told) {
		t.Errorf("it is not tried again: %s", log)
	}
	for range 1000 { // of which one too many is remembered
		if got := c.mail("x"); !strings.HasPrefix(got, "451 4.3.0") {
			t.Fatalf("%q", got)
		}
	}
	if n := strings.Count(d.log.text(), told); n != 1 {
		t.Errorf("%d messages were given up", n)
	}
	if err := d.end(); err != nil {
		t.Error(err)
	}
	if log := d.log.text(); strings.Count(log, told) != 1001 || !contains(log, errDisk.Error()) {
		t.Errorf("%d messages were told of", strings.Count(log, told))
	}
}
