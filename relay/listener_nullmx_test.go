package relay_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/relay"
)

// nullMXDesk is a desk where null.example takes no mail and doubt.example is
// asked about in vain. It notes who is asked about.
func nullMXDesk(t *testing.T, asked *[]string) *desk {
	return newDesk(t, func(o *relay.ListenerOptions) {
		o.NullMX = func(_ context.Context, d addr.Domain) (bool, error) {
			if asked != nil {
				*asked = append(*asked, d.String())
			}
			if d.String() == "doubt.example" {
				return true, errors.New("no answer")
			}
			return d.String() == "null.example", nil
		}
	})
}

func TestListenerNullMX(t *testing.T) {
	t.Run("NMX-4.1-01 a recipient's domain", func(t *testing.T) {
		d := nullMXDesk(t, nil)
		c := d.hello()
		c.say("MAIL FROM:<a@client.example>\r\n", "250")
		c.say("RCPT TO:<b@null.example>\r\n", "556 5.1.10")
		c.say("RCPT TO:<b@example.net>\r\n", "250")
		c.say("DATA\r\n", "354")
		c.say(".\r\n", "250")
		if to := recipients(d.queue()); !slices.Equal(to, []string{"example.net: b@example.net"}) {
			t.Errorf("%q", to)
		}
	})
	t.Run("NMX-4.1-02 a sender's domain", func(t *testing.T) {
		c := nullMXDesk(t, nil).hello()
		c.say("MAIL FROM:<a@null.example>\r\n", "550 5.7.27")
		c.say("MAIL FROM:<>\r\n", "250")
	})
	t.Run("in doubt it is taken", func(t *testing.T) {
		c := nullMXDesk(t, nil).hello()
		c.say("MAIL FROM:<a@doubt.example>\r\nRCPT TO:<b@doubt.example>\r\n", "250", "250")
	})
	t.Run("nobody is asked about literals, the null sender, and what was asked about", func(t *testing.T) {
		var asked []string
		d := nullMXDesk(t, &asked)
		c := d.hello()
		c.say("MAIL FROM:<>\r\nRCPT TO:<b@example.net>\r\nRCPT TO:<b@example.net>\r\nRCPT TO:<c@[192.0.2.1]>\r\n", "250", "250", "250", "250")
		if !slices.Equal(asked, []string{"example.net"}) {
			t.Errorf("%q", asked)
		}
	})
	t.Run("nobody who may not relay learns of anything", func(t *testing.T) {
		var asked []string
		c := newDesk(t, func(o *relay.ListenerOptions) {
			o.AllowFrom = nil
			o.NullMX = func(_ context.Context, d addr.Domain) (bool, error) {
				asked = append(asked, d.String())
				return true, nil
			}
		}).hello()
		c.say("MAIL FROM:<a@null.example>\r\n", "550 5.7.1 ")
		if asked != nil {
			t.Errorf("%q", asked)
		}
	})
	inDeskBubble(t, "a question without an answer holds a client up once", func(o *relay.ListenerOptions) {
		o.NullMX = func(ctx context.Context, _ addr.Domain) (bool, error) { <-ctx.Done(); return false, ctx.Err() }
	}, func(t *testing.T, d *desk, c *caller) {
		began := time.Now()
		c.say("MAIL FROM:<a@client.example>\r\n", "250")
		for range 20 {
			c.say("RCPT TO:<b@example.net>\r\n", "250")
		}
		if took := time.Since(began); took.Seconds() != 10 {
			t.Errorf("it took %s", took)
		}
	})
}

func TestListenerHidesItsClient(t *testing.T) {
	const upstream = "Received: from inner.example ([10.0.0.1])\r\n\tby client.example id 1; Fri, 27 Nov 2026 10:00:00 +0000\r\n"
	t.Run("SMTP-4.4-07 in its own Received only", func(t *testing.T) {
		d := newDesk(t, func(o *relay.ListenerOptions) { o.HideClient = true })
		if got := d.hello().mail(upstream + "Subject: x\r\n\r\nHello"); !strings.HasPrefix(got, "250") {
			t.Fatal(got)
		}
		body := d.body(d.queue()[0].Message)
		if own, rest, _ := strings.Cut(body, upstream); !strings.HasPrefix(own, "Received: from unknown\r\n\tby relay.example.com ") ||
			contains(own, "client.example") || contains(own, "127.0.0.1") || rest != "Subject: x\r\n\r\nHello\r\n" {
			t.Errorf("%q", body)
		}
	})
	t.Run("SMTP-4.4-07 and not unasked", func(t *testing.T) {
		d := newDesk(t, nil)
		if got := d.hello().mail("Subject: x\r\n\r\nHello"); !strings.HasPrefix(got, "250") {
			t.Fatal(got)
		}
		if body := d.body(d.queue()[0].Message); !strings.HasPrefix(body, "Received: from client.example ([127.0.0.1])\r\n") {
			t.Errorf("%q", body)
		}
	})
}
