package lab_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"stsrelay/internal/lab"
)

const host = "mx.example.test"

// greeted starts an MX host and a client that has read its greeting.
func greeted(t *testing.T, m lab.MX) (*lab.MXHost, *raw) {
	t.Helper()
	w, _ := start(t)
	m.Name = host
	mx := w.AddMX(m)
	c := dial(t, w, host)
	c.read()
	return mx, c
}

// hello goes on to EHLO, TLS and EHLO again.
func hello(t *testing.T, m lab.MX) (*lab.MXHost, *raw) {
	t.Helper()
	w, _ := start(t)
	m.Name = host
	mx := w.AddMX(m)
	c := dial(t, w, host)
	c.read()
	c.want("250", "EHLO relay.test")
	c.want("220", "STARTTLS")
	if err := c.secure(&tls.Config{RootCAs: w.Roots(), ServerName: host}); err != nil {
		t.Fatal(err)
	}
	c.want("250", "EHLO relay.test")
	return mx, c
}

// end reads what is left and returns how the connection ended.
func (r *raw) end() (string, error) {
	b, err := io.ReadAll(r.in)
	return string(b), err
}

func TestMXRulesForReplies(t *testing.T) {
	for _, row := range []struct {
		why   string
		mx    lab.MX
		say   []string
		wants []string
	}{
		{"EHLO is refused and HELO taken", lab.MX{NoESMTP: true},
			[]string{"EHLO a", "HELO a", "MAIL FROM:<a@b>"}, []string{"502", "250 " + host, "250"}},
		{"extensions are given letter by letter", lab.MX{Extensions: []string{"size 10", "LIMITS RCPTMAX=2"}, StartTLSWord: "StartTls"},
			[]string{"EHLO a"}, []string{"250-" + host + "\n250-size 10\n250-LIMITS RCPTMAX=2\n250 StartTls"}},
		{"no extensions at all", lab.MX{Extensions: []string{}, NoStartTLS: true},
			[]string{"EHLO a"}, []string{"250 " + host}},
		{"STARTTLS is not offered, and refused", lab.MX{NoStartTLS: true},
			[]string{"EHLO a", "STARTTLS"}, []string{"250", "502"}},
		{"STARTTLS is refused for now", lab.MX{Rules: []lab.Rule{{On: "STARTTLS", Reply: "454 4.7.0 not now"}}},
			[]string{"EHLO a", "STARTTLS", "NOOP"}, []string{"250", "454 4.7.0 not now", "250"}},
		{"greylisting by time", lab.MX{Rules: []lab.Rule{{On: "rcpt", Reply: "450 4.2.0 greylisted", Times: 1}}},
			[]string{"EHLO a", "MAIL FROM:<a@b>", "RCPT TO:<c@d>", "RCPT TO:<c@d>"}, []string{"250", "250", "450", "250"}},
		{"one recipient of many", lab.MX{Rules: []lab.Rule{{On: "RCPT", Arg: "<BOB@", Reply: "550 5.1.1 who?"}}},
			[]string{"EHLO a", "MAIL FROM:<a@b>", "RCPT TO:<alice@d>", "RCPT TO:<bob@d>"}, []string{"250", "250", "250", "550"}},
		{"the third one on", lab.MX{Rules: []lab.Rule{{On: "NOOP", Skip: 2, Reply: "451 x"}}},
			[]string{"NOOP", "NOOP", "NOOP", "NOOP"}, []string{"250", "250", "451", "451"}},
		{"one rule after the other", lab.MX{Rules: []lab.Rule{{On: "NOOP", Reply: "450 a", Times: 1}, {On: "*", Arg: "noop", Reply: "550 b", Times: 1}}},
			[]string{"NOOP", "NOOP", "NOOP"}, []string{"450", "550", "250"}},
		{"a reply of many lines", lab.MX{Rules: []lab.Rule{{On: "NOOP", Reply: "550 one\ntwo\n550 three"}}},
			[]string{"NOOP"}, []string{"550-one\n550-two\n550 three"}},
		{"the code alone", lab.MX{Rules: []lab.Rule{{On: "NOOP", Raw: "250\r\n"}}},
			[]string{"NOOP"}, []string{"250"}},
		{"another code in the second line", lab.MX{Rules: []lab.Rule{{On: "NOOP", Raw: "250-a\r\n550 b\r\n"}}},
			[]string{"NOOP"}, []string{"250-a\n550 b"}},
		{"a huge line", lab.MX{Rules: []lab.Rule{{On: "NOOP", Raw: "250 " + strings.Repeat("x", 1<<20) + "\r\n"}}},
			[]string{"NOOP"}, []string{"250 " + strings.Repeat("x", 1<<20)}},
		{"a size limit", lab.MX{Extensions: []string{"SIZE 1000"}},
			[]string{"EHLO a", "MAIL FROM:<a@b> SIZE=1001", "MAIL FROM:<a@b> SIZE=1000"}, []string{"250", "552", "250"}},
		{"a limit of recipients", lab.MX{MaxRecipients: 1},
			[]string{"EHLO a", "MAIL FROM:<a@b>", "RCPT TO:<a@d>", "RCPT TO:<b@d>"}, []string{"250", "250", "250", "452"}},
		{"commands out of order", lab.MX{},
			[]string{"MAIL FROM:<a@b>", "HELO a", "RCPT TO:<a@b>", "DATA", "MAIL FROM:a", "MAIL FROM:<>", "MAIL FROM:<>", "DATA", "WHAT"},
			[]string{"503", "250", "503", "503", "501", "250", "503", "554", "502"}},
		{"DATA is refused", lab.MX{Rules: []lab.Rule{{On: "DATA", Reply: "451 4.3.0 later"}}},
			[]string{"HELO a", "MAIL FROM:<>", "RCPT TO:<a@b>", "DATA", "NOOP"}, []string{"250", "250", "250", "451", "250"}},
		{"the content is refused", lab.MX{Rules: []lab.Rule{{On: lab.EndOfData, Reply: "554 5.7.1 spam"}}},
			[]string{"HELO a", "MAIL FROM:<>", "RCPT TO:<a@b>", "DATA", "x\r\n.", "NOOP"}, []string{"250", "250", "250", "354", "554", "250"}},
		{"mail in the clear is refused", lab.MX{RefuseInClear: true},
			[]string{"EHLO a", "MAIL FROM:<a@b>", "STARTTLS"}, []string{"250", "530", "220"}},
		{"AUTH PLAIN", lab.MX{Users: map[string]string{"u": "p"}},
			[]string{"EHLO a", "AUTH PLAIN AHUAeA==", "AUTH PLAIN AHUAcA=="}, []string{"250", "535", "235"}},
		{"AUTH PLAIN in two steps", lab.MX{Users: map[string]string{"u": "p"}},
			[]string{"EHLO a", "AUTH PLAIN", "AHUAcA=="}, []string{"250", "334", "235"}},
		{"AUTH LOGIN", lab.MX{Users: map[string]string{"u": "p"}},
			[]string{"EHLO a", "AUTH LOGIN", "dQ==", "cA=="}, []string{"250", "334 VXNlcm5hbWU6", "334 UGFzc3dvcmQ6", "235"}},
	} {
		t.Run(row.why, func(t *testing.T) {
			_, c := greeted(t, row.mx)
			for i, line := range row.say {
				if got := c.cmd(line); !strings.HasPrefix(got, row.wants[i]) {
					t.Fatalf("%s was answered by %.300q, not %.300q", line, got, row.wants[i])
				}
			}
		})
	}
}

func TestMXOffersOtherThingsOverTLS(t *testing.T) {
	w, _ := start(t)
	w.AddMX(lab.MX{Name: host, TLSExtensions: []string{"X"}, RequireTLS: true, RefuseInClear: true, Rules: []lab.Rule{{On: "NOOP", Phase: lab.Secure, Reply: "450 tls"}, {On: "NOOP", Phase: lab.Plain, Reply: "450 plain"}}})
	c := dial(t, w, host)
	c.read()
	if got := c.cmd("EHLO a"); strings.Contains(got, "REQUIRETLS") {
		t.Errorf("in the clear EHLO offers %q", got)
	}
	c.want("450 plain", "NOOP")
	c.want("220", "STARTTLS")
	if err := c.secure(&tls.Config{RootCAs: w.Roots(), ServerName: host}); err != nil {
		t.Fatal(err)
	}
	if got := c.cmd("EHLO a"); got != "250-"+host+"\n250-X\n250 REQUIRETLS" {
		t.Errorf("over TLS EHLO offers %q", got)
	}
	c.want("450 tls", "NOOP")
	c.want("250", "MAIL FROM:<a@b> REQUIRETLS")
	c.want("502", "STARTTLS")
}

// steps is a message from MAIL to the final dot, a step at each stage.
var steps = []struct{ stage, say string }{
	{"EHLO", "EHLO a"}, {"MAIL", "MAIL FROM:<>"}, {"RCPT", "RCPT TO:<a@b>"}, {"DATA", "DATA"}, {lab.EndOfData, "x\r\n."}, {"QUIT", "QUIT"},
}

func TestMXEndsConversationsAtEveryStage(t *testing.T) {
	for _, step := range append(steps, struct{ stage, say string }{lab.Connect, ""}) {
		for _, how := range []struct {
			why  string
			rule lab.Rule
			rest string
			err  error
		}{
			{"hung up without a word", lab.Rule{Then: lab.Hangup}, "", nil},
			{"hung up after 421", lab.Rule{Reply: "421 4.3.2 bye"}, "421 4.3.2 bye\r\n", nil},
			{"hung up after 250", lab.Rule{Reply: "250 ok", Then: lab.Hangup}, "250 ok\r\n", nil},
			{"reset", lab.Rule{Then: lab.Reset}, "", syscall.ECONNRESET},
		} {
			t.Run(how.why+" at "+step.stage, func(t *testing.T) {
				w, ctx := start(t)
				how.rule.On = step.stage
				gate := make(chan struct{})
				if step.stage == lab.Connect { // a reset could be as fast as the dial
					how.rule.Until = gate
				}
				mx := w.AddMX(lab.MX{Name: host, Rules: []lab.Rule{how.rule}})
				c := dial(t, w, host)
				close(gate)
				if step.stage != lab.Connect {
					c.read()
					for _, s := range steps {
						c.write(s.say + "\r\n")
						if s.stage == step.stage {
							break
						}
						c.read()
					}
				}
				if rest, err := c.end(); rest != how.rest || !errors.Is(err, how.err) {
					t.Errorf("the end was %q and %v", rest, err)
				}
				c.conn.Close()
				if err := mx.WaitIdle(ctx); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

func TestMXStallsUntilTheClientGoes(t *testing.T) {
	for _, step := range steps {
		t.Run(step.stage, func(t *testing.T) {
			w, ctx := start(t)
			reached := make(chan struct{})
			mx := w.AddMX(lab.MX{Name: host, Rules: []lab.Rule{{On: step.stage, Then: lab.Stall, Call: func() { close(reached) }}}})
			c := dial(t, w, host)
			c.read()
			for _, s := range steps {
				c.write(s.say + "\r\n")
				if s.stage == step.stage {
					break
				}
				c.read()
			}
			<-reached
			c.conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			if b, err := c.in.ReadByte(); err == nil {
				t.Errorf("it said %q", b)
			}
			c.conn.Close()
			if err := mx.WaitIdle(ctx); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestMXTakesNoMoreOfTheContent(t *testing.T) {
	mx, c := greeted(t, lab.MX{Rules: []lab.Rule{{On: lab.Content, Bytes: 2000, Then: lab.Reset}}})
	for _, s := range steps[:4] {
		c.cmd(s.say)
	}
	c.write(strings.Repeat("0123456789\r\n", 1000))
	if _, err := c.end(); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the end was %v", err)
	}
	if mx.Received() != nil {
		t.Errorf("half a message was received: %v", mx.Received())
	}
}

func TestMXGoesOnForEver(t *testing.T) {
	_, c := greeted(t, lab.MX{Rules: []lab.Rule{{On: "EHLO", Then: lab.Endless}}})
	c.write("EHLO a\r\n")
	for range 10000 {
		if l, err := c.in.ReadString('\n'); err != nil || !strings.HasPrefix(l, "250-") {
			t.Fatalf("it ended: %q %v", l, err)
		}
	}
}

func TestMXCountsConnections(t *testing.T) {
	w, ctx := start(t)
	mx := w.AddMX(lab.MX{Name: host, MaxConnections: 2, MaxMessages: 1})
	a, b := dial(t, w, host), dial(t, w, host)
	a.read()
	b.read()
	if got := dial(t, w, host).read(); !strings.HasPrefix(got, "421") {
		t.Errorf("the third connection is greeted by %q", got)
	}
	b.want("221", "QUIT")
	b.conn.Close()
	if err := mx.WaitConnections(ctx, 3); err != nil {
		t.Error(err)
	}
	if mx.Connections() != 3 || mx.Peak() != 3 {
		t.Errorf("%d connections, at most %d at a time", mx.Connections(), mx.Peak())
	}
	for _, s := range steps[:5] {
		a.cmd(s.say)
	}
	a.want("421", "MAIL FROM:<>")
	if rest, err := a.end(); rest != "" || err != nil {
		t.Errorf("after 421 came %q and %v", rest, err)
	}
}

func TestMXDropsConnections(t *testing.T) {
	mx, c := greeted(t, lab.MX{})
	mx.Drop()
	if rest, err := c.end(); rest != "" || err != nil {
		t.Errorf("the end was %q and %v", rest, err)
	}
}

func TestMXIsDownAndUp(t *testing.T) {
	w, ctx := start(t)
	mx := w.AddMX(lab.MX{Name: host})
	mx.Down()
	if _, err := w.Dialer().DialContext(ctx, "tcp", mx.Addr()+":25"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("while down, dialing says %v", err)
	}
	mx.Up()
	dial(t, w, host).read()
}

func TestMXRecordsMessages(t *testing.T) {
	mx, c := hello(t, lab.MX{Rules: []lab.Rule{
		{On: "RCPT", Arg: "<no@", Reply: "550 5.1.1 no"},
		{On: lab.EndOfData, Skip: 1, Times: 1, Reply: "554 5.7.1 no"},
		{On: lab.EndOfData, Skip: 1, Then: lab.Hangup},
	}})
	for _, content := range []string{"..\r\nbin\x00\r\n", "second\r\n", "third\r\n"} {
		c.want("250", "MAIL FROM:<\"a>b\"@c.test> BODY=8BITMIME")
		c.want("250", "RCPT TO:<yes@d.test> NOTIFY=NEVER")
		c.want("550", "RCPT TO:<no@d.test>")
		c.want("354", "DATA")
		c.write(content + ".\r\n")
		if content != "third\r\n" {
			c.read()
		}
	}
	if rest, err := c.end(); rest != "" || err != nil {
		t.Errorf("the end was %q and %v", rest, err)
	}
	all := mx.Received()
	if len(all) != 3 || all[1].Reply != "554" || all[2].Reply != "" || len(mx.Messages()) != 1 || mx.Count() != 1 {
		t.Fatalf("received %+v", all)
	}
	m := all[0]
	if !m.Accepted() || m.Reply != "250" || string(m.Content) != ".\r\nbin\x00\r\n" || !bytes.HasPrefix(m.Wire, []byte("..\r\n")) {
		t.Errorf("the first is %+v", m)
	}
	if m.From != `"a>b"@c.test` || !slices.Equal(m.To, []string{"yes@d.test"}) || m.Rcpts[0] != "RCPT TO:<yes@d.test> NOTIFY=NEVER" || m.Helo != "relay.test" || m.Conn != 1 {
		t.Errorf("its envelope is %+v", m)
	}
	if v := mx.Violations(); v != nil {
		t.Errorf("violations %v", v)
	}
}

func TestMXWritesDownWhatIsSaid(t *testing.T) {
	mx, c := hello(t, lab.MX{Extensions: []string{"PIPELINING"}})
	c.write("MAIL FROM:<>\r\nRCPT TO:<a@b>\r\n")
	c.read()
	c.read()
	c.want("221", "QUIT")
	var got []string
	for _, l := range mx.Transcript() {
		got = append(got, l.String())
	}
	want := []string{
		"1 S 220 mx.example.test ESMTP lab", "1 C EHLO relay.test", "1 S 250-mx.example.test", "1 S 250-PIPELINING", "1 S 250 STARTTLS",
		"1 C STARTTLS", "1 S 220 2.0.0 go ahead", "1 C tls EHLO relay.test", "1 S tls 250-mx.example.test", "1 S tls 250 PIPELINING",
		"1 C tls MAIL FROM:<>", "1 S tls 250 2.1.0 ok", "1 C tls RCPT TO:<a@b>", "1 S tls 250 2.1.5 ok", "1 C tls QUIT", "1 S tls 221 2.0.0 bye",
	}
	if !slices.Equal(got, want) {
		t.Errorf("the transcript is\n%s", strings.Join(got, "\n"))
	}
	if want := []string{"EHLO relay.test", "STARTTLS", "EHLO relay.test", "MAIL FROM:<>", "RCPT TO:<a@b>", "QUIT"}; !slices.Equal(mx.Commands(), want) {
		t.Errorf("the commands are %q", mx.Commands())
	}
	if n := mx.Flights(1); n != 6 {
		t.Errorf("%d flights", n)
	}
	if b, err := c.end(); b != "" || err != nil {
		t.Errorf("after QUIT came %q and %v", b, err)
	}
}

func TestMXHangsUpSoThatItsReplyArrives(t *testing.T) {
	_, c := greeted(t, lab.MX{Rules: []lab.Rule{{On: "NOOP", Reply: "421 4.3.2 bye"}}})
	c.write("NOOP\r\n" + strings.Repeat("NOOP x\r\n", 1000000))
	if rest, err := c.end(); rest != "421 4.3.2 bye\r\n" || err != nil {
		t.Errorf("the end was %q and %v", rest, err)
	}
}

// A tap keeps what is read from a connection.
type tap struct {
	net.Conn
	read []byte
}

func (t *tap) Read(p []byte) (int, error) {
	n, err := t.Conn.Read(p)
	t.read = append(t.read, p[:n]...)
	return n, err
}

func TestMXEndsTLSInOrderAfterQUITOnly(t *testing.T) {
	const alert = 21
	for say, want := range map[string]bool{"QUIT": true, "NOOP": false} {
		w, _, c := starttls(t, lab.MX{Rules: []lab.Rule{{On: "NOOP", Reply: "250 ok", Then: lab.Hangup}}})
		tapped := &tap{Conn: c.conn}
		c.conn, c.in = tapped, bufio.NewReader(tapped)
		if err := c.secure(&tls.Config{RootCAs: w.Roots(), ServerName: host, MaxVersion: tls.VersionTLS12}); err != nil {
			t.Fatal(err)
		}
		c.cmd(say)
		if _, err := c.end(); err != nil {
			t.Fatal(err)
		}
		var last byte
		for b := tapped.read; len(b) > 5; b = b[5+int(binary.BigEndian.Uint16(b[3:])):] {
			last = b[0]
		}
		if (last == alert) != want {
			t.Errorf("after %s the last record is of type %d", say, last)
		}
	}
}

func TestMXChangesWhileItRuns(t *testing.T) {
	mx, c := greeted(t, lab.MX{})
	c.want("250", "NOOP")
	mx.Change(func(m *lab.MX) { m.Rules = []lab.Rule{{On: "NOOP", Reply: "450 x"}} })
	c.want("450", "NOOP")
}

func TestMXReadsSlowlyAndStillTakesAll(t *testing.T) {
	mx, c := greeted(t, lab.MX{SlowRead: time.Millisecond, SmallBuffers: true})
	for _, s := range steps[:4] {
		c.cmd(s.say)
	}
	text := strings.Repeat("0123456789\r\n", 2000)
	c.want("250", text+".")
	if got := mx.Messages()[0].Content; string(got) != text {
		t.Errorf("%d bytes came", len(got))
	}
}

func TestMXTakesLinesOfAnyLength(t *testing.T) {
	mx, c := greeted(t, lab.MX{})
	for _, s := range steps[:4] {
		c.cmd(s.say)
	}
	text := "." + strings.Repeat("x", 200000) + "\r\nshort\r\n"
	c.want("250", "."+text+".")
	if m := mx.Messages()[0]; string(m.Content) != text || string(m.Wire) != "."+text+".\r\n" {
		t.Errorf("%d bytes came, %d over the wire", len(m.Content), len(m.Wire))
	}
	expect(t, mx)
}

func TestMXForgetsButCounts(t *testing.T) {
	mx, c := greeted(t, lab.MX{Forget: true})
	for _, s := range steps {
		c.cmd(s.say)
	}
	if mx.Count() != 1 || mx.Received() != nil || mx.Transcript() != nil {
		t.Errorf("%d messages, kept %v %v", mx.Count(), mx.Received(), mx.Transcript())
	}
}

func TestWorldEndsWithClientsThatHang(t *testing.T) {
	w, err := lab.Start(lab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	mx := w.AddMX(lab.MX{Name: host, Rules: []lab.Rule{{On: "NOOP", Then: lab.Stall}, {On: "RSET", Until: make(chan struct{})}}})
	w.AddPolicy(lab.Policy{Domain: "example.test", HangTLS: true})
	for _, say := range []string{"NOOP", "RSET", ""} {
		c := dial(t, w, host)
		c.read()
		c.write(say + "\r\n")
		if say != "" {
			if err := mx.WaitCommand(t.Context(), say, 1); err != nil {
				t.Error(err)
			}
		}
	}
	conn, err := w.Dialer().DialContext(t.Context(), "tcp", net.JoinHostPort(lookup(t, w, "mta-sts.example.test"), "443"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	w.Close()
	w.Close()
	if err := mx.WaitMessages(t.Context(), 1); err == nil {
		t.Error("waiting in a world that has ended succeeds")
	}
}
