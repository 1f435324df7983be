package relay_test

import (
	"fmt"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"stsrelay/relay"
)

// coded is a reply with an enhanced code on each line, of its own class.
var coded = regexp.MustCompile(`^(?:2\d\d[ -]2\.|4\d\d[ -]4\.|5\d\d[ -]5\.)\d{1,3}\.\d{1,3} \S`)

// Every reply that a client can draw has an enhanced code, but for those to
// which RFC 2034, Section 4, wants none.
func TestListenerEnhancedCodes(t *testing.T) {
	everything := []string{
		"NOOP", "noop x", "VRFY x", "HELP", "EXPN x", "SEND x", "TURN", "MAIL", "MAIL x", "RCPT TO:<b@example.net>", "DATA", "RSET", "AUTH PLAIN", "AUTH",
		"STARTTLS", "STARTTLS x", "LHLO x", "", "X", "XXXX",
	}
	inTransaction := []string{
		"RCPT", "RCPT x", "RCPT TO:<b@example.net> FOO", "RCPT TO:<b@example.net> NOTIFY", "RCPT TO:<@>", "RCPT TO:<b@-.example>", "MAIL FROM:<a@client.example>",
		"DATA", "DATA x", "RCPT TO:<b@example.net>", "STARTTLS", "VRFY x",
	}
	t.Run("ESC-2034-3-01 on every line of a reply, but to EHLO and HELO, and of 3xx", func(t *testing.T) {
		d := newTLSDesk(t, false, nil)
		for _, greet := range []string{"EHLO", "HELO"} {
			for _, line := range everything {
				c := d.dial()
				c.want("220 relay.example.com ESMTP") // the greeting has none
				c.plain(greet + " client.example\r\n")
				if line == "STARTTLS" {
					c.coded("STARTTLS\r\n")
					continue
				}
				c.coded(line + "\r\n")
				c.coded("QUIT\r\n")
			}
			for _, line := range inTransaction {
				c := d.call()
				c.plain(greet + " client.example\r\n")
				c.coded("MAIL FROM:<a@client.example>\r\n")
				c.coded(line + "\r\n")
				c.coded("RCPT TO:<b@example.net>\r\n")
				c.plain("DATA\r\n")
				c.coded("Subject: x\r\n\r\n.\r\n")
				c.coded("QUIT\r\n")
			}
		}
		c := d.call()
		c.coded("EHLO\r\n")
		for range 4 {
			c.coded("FOO\r\n")
		}
		c.coded("") // too many errors
		c.gone()
	})
	t.Run("ESC-2034-3-01 where the shim speaks", func(t *testing.T) {
		for _, line := range []string{"BDAT 5\r\n", "NOOP\n", "NOOP " + strings.Repeat("x", 3000) + "\r\n"} {
			c := newDesk(t, nil).hello()
			c.coded(line)
			c.gone()
		}
		d := newDesk(t, func(o *relay.ListenerOptions) { o.MaxConnections = 1 })
		d.hello()
		c := d.dial()
		c.coded("")
		c.gone()
	})
}

// coded sends octets and wants a reply with enhanced codes.
func (c *caller) coded(s string) {
	c.t.Helper()
	c.send(s)
	for line := range strings.SplitSeq(c.reply(), "\n") {
		if !coded.MatchString(line) {
			c.t.Errorf("%.40q is answered %q", s, line)
		}
	}
}

var enhanced = regexp.MustCompile(`^\d{3}[ -]\d\.\d+\.\d+`)

// plain sends octets and wants a reply of success without an enhanced code.
func (c *caller) plain(s string) {
	c.t.Helper()
	c.send(s)
	for line := range strings.SplitSeq(c.reply(), "\n") {
		if enhanced.MatchString(line) || line[0] != '2' && line[0] != '3' {
			c.t.Errorf("%.40q is answered %q", s, line)
		}
	}
}

// The pairs of codes, each where it belongs. AUTH, which would need two more, is
// not offered.
func TestListenerCodePairs(t *testing.T) {
	const mail, rcpt = "MAIL FROM:<a@client.example>\r\n", "RCPT TO:<b@example.net>\r\n"
	hops := strings.Repeat("Received: x\r\n", 100)
	for _, tt := range []struct{ name, before, send, want string }{
		{"a parameter", "", "MAIL FROM:<a@client.example> RET=x\r\n", "501 5.5.4"},
		{"a recipient's address", mail, "RCPT TO:<b@example..net>\r\n", "501 5.1.3"},
		{"a recipient's path", mail, "RCPT TO:<b>\r\n", "501 5.1.3"},
		{"a sender's address", "", "MAIL FROM:<a@client..example>\r\n", "501 5.1.7"},
		{"a sender's path", "", "MAIL FROM:<a\r\n", "501 5.1.7"},
		{"a sequence", "", rcpt, "503 5.5.1"},
		{"another sequence", mail, mail, "503 5.5.1"},
		{"a size", "", "MAIL FROM:<a@client.example> SIZE=99999999\r\n", "552 5.3.4"},
		{"a loop", mail + rcpt + "DATA\r\n", hops + "\r\n.\r\n", "554 5.4.6"},
		{"a parameter that nobody knows", "", "MAIL FROM:<a@client.example> X=1\r\n", "555 5.5.4"},
	} {
		t.Run("ESC-5248-01 "+tt.name, func(t *testing.T) {
			c := newDesk(t, nil).hello()
			for line := range strings.SplitAfterSeq(tt.before, "\r\n") {
				if line != "" {
					c.send(line)
					c.reply()
				}
			}
			c.say(tt.send, tt.want)
		})
	}
	t.Run("ESC-5248-01 TLS first", func(t *testing.T) {
		newTLSDesk(t, false, nil).hello().say("MAIL FROM:<a@client.example> REQUIRETLS\r\n", "530 5.7.10")
	})
	t.Run("ESC-5248-01 no relaying", func(t *testing.T) {
		newDesk(t, func(o *relay.ListenerOptions) { o.AllowFrom = nil }).hello().say(mail, "550 5.7.1")
	})
	t.Run("ESC-5248-01 too many recipients", func(t *testing.T) {
		c := newDesk(t, nil).hello()
		c.say(mail, "250")
		for i := range 1000 {
			c.say(fmt.Sprintf("RCPT TO:<u%d@example.net>\r\n", i), "250")
		}
		c.say(rcpt, "452 4.5.3")
	})
	for want, err := range map[string]error{"452 4.3.1": syscall.ENOSPC, "451 4.3.0": relay.ErrUnavailable} {
		t.Run("ESC-5248-01 a store that says "+err.Error(), func(t *testing.T) {
			f := &failingStore{err: err}
			d := newDesk(t, func(o *relay.ListenerOptions) { f.Store, o.Store = o.Store, f })
			if got := d.hello().mail("x"); !strings.HasPrefix(got, want) {
				t.Errorf("%q", got)
			}
		})
	}
	t.Run("ESC-5248-01 null MX", func(t *testing.T) {
		c := nullMXDesk(t, nil).hello()
		c.say("MAIL FROM:<a@null.example>\r\n"+mail+"RCPT TO:<b@null.example>\r\n", "550 5.7.27", "250", "556 5.1.10")
	})
	t.Run("ESC-5248-01 the end", func(t *testing.T) {
		d := newDesk(t, func(o *relay.ListenerOptions) { o.Grace = time.Millisecond })
		c := d.hello()
		if err := d.end(); err != nil {
			t.Error(err)
		}
		c.want("421 4.3.2")
	})
}
