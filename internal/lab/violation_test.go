package lab_test

import (
	"crypto/tls"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"stsrelay/internal/lab"
)

// transaction is a message up to DATA.
const transaction = "MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\n"

func TestMXNoticesViolations(t *testing.T) {
	pipelining := lab.MX{}
	none := lab.MX{Extensions: []string{}}
	for _, row := range []struct {
		why  string
		mx   lab.MX
		say  []string // each is written at once, then a reply is read for each of its commands
		want []string
	}{
		{"nothing is wrong", pipelining, []string{"EHLO a\r\n", "MAIL FROM:<a@b> SIZE=3 BODY=8BITMIME\r\nRCPT TO:<c@d> ORCPT=rfc822;c@d\r\nDATA\r\n", "..\r\n\xc3\xa4\r\n.\r\nRSET\r\n", "QUIT\r\n"}, nil},
		{"one after the other without PIPELINING", none, []string{"EHLO a\r\n", "MAIL FROM:<>\r\n", "RCPT TO:<a@b>\r\n", "DATA\r\n", "x\r\n.\r\n", "QUIT\r\n"}, nil},
		{"a refused MAIL and those sent with it", lab.MX{Rules: []lab.Rule{{On: "MAIL", Reply: "451 x"}}}, []string{"EHLO a\r\n", transaction, "QUIT\r\n"}, nil},
		{"refused recipients and the DATA sent with them", lab.MX{Rules: []lab.Rule{{On: "RCPT", Reply: "451 x"}}}, []string{"EHLO a\r\n", transaction, "RSET\r\n"}, nil},
		{"UTF-8 as it should be", pipelining, []string{"EHLO a\r\n", "MAIL FROM:<\xc3\xa4@b> SMTPUTF8\r\n", "RCPT TO:<\xc3\xa4@b>\r\n"}, nil},
		{"no waiting although it must", none, []string{"EHLO a\r\n", "MAIL FROM:<>\r\nRCPT TO:<a@b>\r\n"}, []string{lab.NoPipelining}},
		{"no waiting after HELO", pipelining, []string{"HELO a\r\n", "MAIL FROM:<>\r\nRCPT TO:<a@b>\r\n"}, []string{lab.NoPipelining}},
		{"something after EHLO", pipelining, []string{"EHLO a\r\nMAIL FROM:<>\r\n"}, []string{lab.NotLast}},
		{"something after QUIT", pipelining, []string{"EHLO a\r\n", "QUIT\r\nNOOP\r\n"}, []string{lab.NotLast}},
		{"content before 354", pipelining, []string{"EHLO a\r\n", "MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\nx\r\n.\r\n"}, []string{lab.EarlyContent}},
		{"content after DATA was refused", lab.MX{Rules: []lab.Rule{{On: "DATA", Reply: "451 x"}}}, []string{"EHLO a\r\n", transaction, "Subject: x\r\n"}, []string{lab.LateContent}},
		{"a bare LF in a command", pipelining, []string{"EHLO a\n"}, []string{lab.BareLineEnd}},
		{"a bare CR in a command", pipelining, []string{"NOOP a\rb\r\n"}, []string{lab.BareLineEnd}},
		{"a bare LF in content", pipelining, []string{"EHLO a\r\n", transaction, "x\ny\r\n.\r\n"}, []string{lab.BareLineEnd}},
		{"a bare CR in content", pipelining, []string{"EHLO a\r\n", transaction, "x\ry\r\n.\r\n"}, []string{lab.BareLineEnd}},
		{"a dot after a bare LF is no end", pipelining, []string{"EHLO a\r\n", transaction, "x\n.\n.\r\n"}, []string{lab.BareLineEnd, lab.BareLineEnd}},
		{"a dot that is not doubled", pipelining, []string{"EHLO a\r\n", transaction, ".x\r\n.\r\n"}, []string{lab.Unstuffed}},
		{"8-bit content undeclared", pipelining, []string{"EHLO a\r\n", transaction, "\xe4\r\n.\r\n"}, []string{lab.EightBit}},
		{"UTF-8 in the envelope undeclared", pipelining, []string{"EHLO a\r\n", "MAIL FROM:<\xc3\xa4@b>\r\n"}, []string{lab.NotOffered}},
		{"parameters nobody offered", none, []string{"EHLO a\r\n", "MAIL FROM:<> SIZE=1\r\n", "RCPT TO:<a@b> NOTIFY=NEVER\r\n"}, []string{lab.NotOffered, lab.NotOffered}},
		{"parameters after HELO", pipelining, []string{"HELO a\r\n", "MAIL FROM:<> SIZE=1\r\n"}, []string{lab.NotOffered}},
		{"a parameter nobody knows", pipelining, []string{"EHLO a\r\n", "MAIL FROM:<> FOO\r\n"}, []string{lab.NotOffered}},
		{"REQUIRETLS in the clear", lab.MX{Extensions: []string{"REQUIRETLS"}}, []string{"EHLO a\r\n", "MAIL FROM:<> REQUIRETLS\r\n"}, []string{lab.NotOffered}},
		{"STARTTLS nobody offered", lab.MX{NoStartTLS: true}, []string{"EHLO a\r\n", "STARTTLS\r\n"}, []string{lab.NotOffered}},
		{"MAIL before EHLO", pipelining, []string{"MAIL FROM:<>\r\n"}, []string{lab.NoHello}},
		{"two MAILs", pipelining, []string{"EHLO a\r\n", "MAIL FROM:<>\r\n", "MAIL FROM:<>\r\n"}, []string{lab.WrongOrder}},
		{"RCPT without MAIL", pipelining, []string{"EHLO a\r\n", "RCPT TO:<a@b>\r\n"}, []string{lab.WrongOrder}},
		{"DATA without RCPT", pipelining, []string{"EHLO a\r\n", "MAIL FROM:<>\r\n", "DATA\r\n"}, []string{lab.WrongOrder}},
		{"a space where none may be", pipelining, []string{"EHLO a\r\n", "MAIL FROM: <>\r\n"}, []string{lab.Syntax}},
		{"EHLO without a name", pipelining, []string{"EHLO\r\n"}, []string{lab.Syntax}},
		{"a command nobody knows", pipelining, []string{"EHLO a\r\n", "XYZZY\r\n"}, []string{lab.Unknown}},
		{"a command line that is too long", pipelining, []string{"NOOP " + strings.Repeat("x", 510) + "\r\n"}, []string{lab.LongCommand}},
	} {
		t.Run(row.why, func(t *testing.T) {
			mx, c := greeted(t, row.mx)
			for _, s := range row.say {
				c.write(s)
				switch {
				case strings.HasSuffix(s, ".\r\n") && !strings.HasPrefix(s, "MAIL"):
					c.read()
				case strings.Contains(s, "QUIT"):
					c.read()
				case strings.HasPrefix(s, "..\r\n"):
					c.read()
					c.read()
				default:
					for range strings.Count(s, "\n") {
						if r := c.read(); strings.HasPrefix(r, "354") && strings.HasSuffix(s, "\r\n.\r\n") {
							c.read()
							break
						}
					}
				}
			}
			expect(t, mx, row.want...)
		})
	}
}

// expect compares the violations, without what follows a colon.
func expect(t *testing.T, mx *lab.MXHost, want ...string) {
	t.Helper()
	var got []string
	for _, v := range mx.Violations() {
		what, _, _ := strings.Cut(v.What, ":")
		got = append(got, what)
	}
	if !slices.Equal(got, want) {
		t.Errorf("the violations are %v", mx.Violations())
	}
}

func TestMXNoticesThatAClientSpeaksFirst(t *testing.T) {
	w, _ := start(t)
	gate := make(chan struct{})
	mx := w.AddMX(lab.MX{Name: host, Rules: []lab.Rule{{On: lab.Connect, Until: gate}}})
	c := dial(t, w, host)
	c.write("EHLO a\r\n")
	close(gate)
	c.read()
	c.read()
	expect(t, mx, lab.EarlyTalk)
}

func TestMXNoticesWhatComesBetweenSTARTTLSAndTLS(t *testing.T) {
	mx, c := greeted(t, lab.MX{})
	c.want("250", "EHLO a")
	c.write("STARTTLS\r\nEHLO a\r\n")
	c.read()
	expect(t, mx, lab.AfterStartTLS)
}

// A cork holds back what is written to a connection until it is pulled, so
// that many TLS records arrive at once.
type cork struct {
	net.Conn
	in   bool
	held []byte
}

func (c *cork) Write(p []byte) (int, error) {
	if c.in {
		c.held = append(c.held, p...)
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func (c *cork) pull() error {
	c.in = false
	c.Conn.SetDeadline(time.Now().Add(patience)) // closing TLS has set one that has passed
	_, err := c.Conn.Write(c.held)
	c.held = nil
	return err
}

// corked is a client over TLS of a version, whose records can be held back.
func corked(t *testing.T, m lab.MX, version uint16) (*lab.MXHost, *raw, *cork) {
	t.Helper()
	w, mx, c := starttls(t, m)
	k := &cork{Conn: c.conn}
	c.conn = k
	if err := c.secure(&tls.Config{RootCAs: w.Roots(), ServerName: host, MaxVersion: version}); err != nil {
		t.Fatal(err)
	}
	c.want("250", "EHLO a")
	return mx, c, k
}

var versions = map[string]uint16{"TLS 1.2": tls.VersionTLS12, "TLS 1.3": tls.VersionTLS13}

func TestMXNoticesViolationsOverTLS(t *testing.T) {
	for name, version := range versions {
		t.Run(name, func(t *testing.T) {
			mx, c, k := corked(t, lab.MX{TLSExtensions: []string{}}, version)
			k.in = true
			c.write("MAIL FROM:<>\r\n")
			c.write("RCPT TO:<a@b>\r\n")
			if err := k.pull(); err != nil {
				t.Fatal(err)
			}
			c.read()
			c.read()
			c.write("NOOP\r\nRSET\r\n") // in one record
			c.read()
			c.read()
			expect(t, mx, lab.NoPipelining, lab.NotLast)
		})
	}
}

func TestMXTakesTheEndOfTLSForNoCommand(t *testing.T) {
	for name, version := range versions {
		t.Run(name, func(t *testing.T) {
			mx, c, k := corked(t, lab.MX{}, version)
			k.in = true
			c.write("QUIT\r\n")
			if err := c.conn.(*tls.Conn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if err := k.pull(); err != nil {
				t.Fatal(err)
			}
			c.read()
			expect(t, mx)
		})
	}
}

func TestMXWantsEHLOAgainOverTLS(t *testing.T) {
	w, mx, c := starttls(t, lab.MX{})
	if err := c.secure(&tls.Config{RootCAs: w.Roots(), ServerName: host}); err != nil {
		t.Fatal(err)
	}
	c.want("503", "MAIL FROM:<>")
	expect(t, mx, lab.NoHello)
}
