package relay_test

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"stsrelay/internal/storetest"
	"stsrelay/relay"
)

func TestListenerTakesMail(t *testing.T) {
	d := newDesk(t, nil)
	c := d.call()
	c.send("EHLO client.example\r\n")
	ehlo := strings.Split(c.reply(), "\n")
	slices.Sort(ehlo[1:])
	if want := []string{"250-8BITMIME", "250-DSN", "250-ENHANCEDSTATUSCODES", "250-PIPELINING", "250-SMTPUTF8", "250 SIZE 52428800"}; !slices.Equal(sorted(ehlo[1:]), sorted(want)) {
		t.Errorf("EHLO offers %q", ehlo[1:])
	}
	content := "Received: from old.example by mta.example (Postfix) with ESMTP id 4F2B1C0A; Fri, 27 Nov 2026 10:00:00 +0000\r\nSubject: x\r\nMessage-ID: <1@client.example>\r\n\r\nHello\r\n"
	c.say("MAIL FROM:<a@client.example> BODY=8BITMIME SIZE=200\r\n", "250")
	c.say("RCPT TO:<b@example.net>\r\n", "250")
	c.say("RCPT TO:<c@example.net>\r\n", "250")
	c.say("RCPT TO:<d@example.org>\r\n", "250")
	c.say("RCPT TO:<b@example.net>\r\n", "250")
	c.say("DATA\r\n", "354")
	c.send(content + ".\r\n")
	reply := c.reply()
	id, ok := strings.CutPrefix(reply, "250 2.0.0 queued as ")
	if !ok {
		t.Fatalf("the reply is %q", reply)
	}
	list := d.queue()
	if len(list) != 2 {
		t.Fatalf("%d entries", len(list))
	}
	for _, e := range list {
		if string(e.Message) != id || e.From.String() != "a@client.example" || e.Options.Body != relay.Body8BitMIME || e.Options.EightBit ||
			e.Options.Listener != "test" || e.Options.Upstream != "4F2B1C0A" || e.Options.Client != "client.example [127.0.0.1]" {
			t.Errorf("%+v", e)
		}
	}
	if to := recipients(list); !slices.Equal(to, []string{"example.net: b@example.net c@example.net", "example.org: d@example.org"}) {
		t.Errorf("recipients %q", to)
	}
	if got := afterReceived(t, d.body(relay.ID(id))); got != content {
		t.Errorf("the content is %q", got)
	}
	d.mu.Lock()
	slices.Sort(d.woken)
	if !slices.Equal(d.woken, []relay.Destination{"example.net", "example.org"}) {
		t.Errorf("woken: %q", d.woken)
	}
	d.mu.Unlock()
	c.say("QUIT\r\n", "221")
	c.gone()
	if log := d.log.text(); !contains(log, `"queue_id":"`+id+`"`, `"nrcpt":3`, `"upstream_id":"4F2B1C0A"`, `"message_id":"<1@client.example>"`) {
		t.Errorf("log: %s", log)
	}
}

func recipients(list []relay.Entry) (out []string) {
	for _, e := range list {
		s := string(e.Destination) + ":"
		for _, r := range e.To {
			s += " " + r.Address.String()
		}
		out = append(out, s)
	}
	return sorted(out)
}

func sorted(s []string) []string {
	s = slices.Clone(s)
	slices.Sort(s)
	return s
}

func TestListenerRelaysForNobodyElse(t *testing.T) {
	for name, allow := range map[string][]netip.Prefix{
		"SMTP-3.6.2-01 an empty list":   nil,
		"SMTP-3.6.2-01 another network": {netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("::1/128")},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t, func(o *relay.ListenerOptions) { o.AllowFrom = allow })
			c := d.hello()
			c.say("MAIL FROM:<a@client.example>\r\n", "550 5.7.1 client [127.0.0.1] may not relay here")
			c.say("RCPT TO:<b@example.net>\r\n", "503 5.5.1")
			c.say("DATA\r\n", "554 5.5.1")
			if len(d.queue()) != 0 {
				t.Error("something was stored")
			}
		})
	}
	t.Run("a Unix socket is for whom the file system lets in", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "s")
		ln, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		d := deskOn(t, ln, func(o *relay.ListenerOptions) { o.AllowFrom = nil })
		nc, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		c := newCaller(t, nc)
		c.want("220")
		c.say("EHLO x\r\n", "250")
		if got := c.mail("Subject: x\r\n\r\nHello"); !strings.HasPrefix(got, "250") {
			t.Errorf("%q", got)
		}
		if got := d.queue()[0].Options.Client; got != "x a local program" {
			t.Errorf("the client is %q", got)
		}
	})
}

// Fifty clients at once, each with several messages on one connection.
func TestListenerServesManyAtOnce(t *testing.T) {
	d := newDesk(t, nil)
	const clients, each = 50, 4
	var wg sync.WaitGroup
	for i := range clients {
		c := d.hello()
		wg.Go(func() {
			for j := range each {
				c.send(fmt.Sprintf("MAIL FROM:<a@client.example>\r\nRCPT TO:<u%d-%d@example.net>\r\nDATA\r\n", i, j))
				c.want("250", "250", "354")
				c.send(fmt.Sprintf("Subject: %d-%d\r\n\r\nHello\r\n.\r\n", i, j))
				c.want("250 2.0.0 queued as")
			}
		})
	}
	wg.Wait()
	seen := map[string]bool{}
	for _, e := range d.queue() {
		local := strings.TrimSuffix(e.To[0].Address.String(), "@example.net")
		if got := afterReceived(t, d.body(e.Message)); got != "Subject: "+local[1:]+"\r\n\r\nHello\r\n" {
			t.Errorf("%s got %q", local, got)
		}
		seen[local] = true
	}
	if len(seen) != clients*each {
		t.Errorf("%d messages are queued", len(seen))
	}
	if s := d.l.Snapshot(); s.Accepted != clients*each || s.Connections != clients {
		t.Errorf("%+v", s)
	}
}

// faults are the two kinds of failed write (ledger SMTP-6.1-01).
func TestListenerTellsOfAStoreThatFails(t *testing.T) {
	for _, tt := range []struct {
		name  string
		fault storetest.Fault
		reply string
	}{
		{"nothing was written", storetest.NotWritten, "451 4.3.0"},
		{"it was written all the same: it is taken back", storetest.Written, "451 4.3.0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := &failingStore{}
			d := newDesk(t, func(o *relay.ListenerOptions) { f.Store, o.Store = o.Store, f })
			c := d.hello()
			f.set(tt.fault)
			if got := c.mail("Subject: x\r\n\r\nHello"); !strings.HasPrefix(got, tt.reply) {
				t.Errorf("%q", got)
			}
			if n := len(d.queue()); n != 0 {
				t.Errorf("%d entries are queued", n)
			}
			f.set(storetest.NoFault)
			if got := c.mail("Subject: x\r\n\r\nHello"); !strings.HasPrefix(got, "250") || len(d.queue()) != 1 {
				t.Errorf("afterwards: %q, %d entries", got, len(d.queue()))
			}
		})
	}
	t.Run("no room", func(t *testing.T) {
		f := &failingStore{}
		d := newDesk(t, func(o *relay.ListenerOptions) { f.Store, o.Store = o.Store, f })
		f.err = fmt.Errorf("%w: %w: 3 MiB free", relay.ErrUnavailable, relay.ErrNoRoom)
		if got := d.hello().mail("Subject: x\r\n\r\nHello"); !strings.HasPrefix(got, "452 4.3.1") {
			t.Errorf("%q", got)
		}
	})
	t.Run("what cannot be taken back now is taken back later", func(t *testing.T) {
		f := &failingStore{}
		d := newDesk(t, func(o *relay.ListenerOptions) { f.Store, o.Store = o.Store, f })
		c := d.hello()
		f.set(storetest.Written)
		f.keep(2)
		if got := c.mail("Subject: x\r\n\r\nHello"); !strings.HasPrefix(got, "451") {
			t.Errorf("%q", got)
		}
		select {
		case <-f.forgotten():
		case <-time.After(long):
			t.Fatal("it is still queued")
		}
		if n := len(d.queue()); n != 0 {
			t.Errorf("%d entries are queued", n)
		}
	})
}

func TestSMTP_6_3_01_ALoopEnds(t *testing.T) {
	d := newDesk(t, nil)
	c := d.hello()
	hop := "Received: from a.example by b.example;\r\n\tFri, 27 Nov 2026 10:00:00 +0000\r\n"
	if got := c.mail(strings.Repeat(hop, 99) + "Subject: x\r\n\r\nReceived: in the body"); !strings.HasPrefix(got, "250") {
		t.Errorf("99 hops: %q", got)
	}
	for _, n := range []int{100, 101} {
		if got := c.mail(strings.Repeat(hop, n) + "Subject: x\r\n\r\n"); !strings.HasPrefix(got, "554 5.4.6") {
			t.Errorf("%d hops: %q", n, got)
		}
	}
}
