package delivery

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"stsrelay/internal/addr"
)

// one is a world with a single MX for a.example, in the clear.
func one(t *testing.T, m *fakeMX) *world {
	w := newWorld(t)
	w.host("a.example", 10, m, "127.1.0.1")
	return w
}

func rcpts(n int) []string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprintf("u%d@a.example", i))
	}
	return out
}

var lockstep = []string{"SIZE 10000000", "8BITMIME"}

func TestTransaction(t *testing.T) {
	// Each row is run with and without PIPELINING: the fake server complains
	// about text that comes ahead of its time.
	for name, tt := range map[string]struct {
		says []string
		to   int
		want []string // outcomes
		got  int      // messages
	}{
		"SMTP-4.5.4.1-06 several recipients share one transaction": {nil, 3, []string{"ok", "ok", "ok"}, 1},
		"PIPE-3.1-03 MAIL refused is one failure from MAIL":        {[]string{"MAIL", "550 5.7.1 no", "RCPT", "503 5.5.1 x", "DATA", "503 5.5.1 x"}, 2, []string{"5.7.1 remote-reply", "5.7.1 remote-reply"}, 0},
		"MAIL put off":                                                    {[]string{"MAIL", "451 4.3.0 no"}, 1, []string{"4.3.0 remote-reply"}, 0},
		"SIZE-6.2-01 452 to MAIL is temporary":                            {[]string{"MAIL", "452 4.3.1 full"}, 1, []string{"4.3.1 remote-reply"}, 0},
		"SIZE-6.2-01 552 to MAIL is permanent":                            {[]string{"MAIL", "552 5.3.4 big"}, 1, []string{"5.3.4 remote-reply"}, 0},
		"SMTP-4.2.1-01 each recipient has its own reply":                  {[]string{"RCPT TO:<u1", "550 5.1.1 no", "RCPT TO:<u2", "450 4.2.1 later"}, 4, []string{"ok", "5.1.1 remote-reply", "4.2.1 remote-reply", "ok"}, 1},
		"251 and 252 are acceptance":                                      {[]string{"RCPT TO:<u1", "251 will forward", "RCPT TO:<u0", "252 perhaps"}, 2, []string{"ok", "ok"}, 1},
		"SMTP-4.2-01 299 is acceptance, 477 temporary, 599 permanent":     {[]string{"RCPT TO:<u0", "299 x", "RCPT TO:<u1", "477 x", "RCPT TO:<u2", "599 x"}, 3, []string{"ok", "4.0.0 remote-reply", "5.0.0 remote-reply"}, 1},
		"NMX-7504-01 556 is permanent":                                    {[]string{"RCPT", "556 5.1.10 null MX"}, 1, []string{"5.1.10 remote-reply"}, 0},
		"SMTP-3.3-03 nothing is sent when all are refused":                {[]string{"RCPT", "550 5.1.1 no"}, 2, []string{"5.1.1 remote-reply", "5.1.1 remote-reply"}, 0},
		"PIPE-3.1-04 a lone dot when all are refused and DATA is welcome": {[]string{"RCPT", "550 5.1.1 no", "DATA", "354 come on", ".", "554 5.5.1 nobody"}, 2, []string{"5.1.1 remote-reply", "5.1.1 remote-reply"}, 0},
		"SMTP-3.3-01 DATA refused for good":                               {[]string{"DATA", "554 5.7.1 no", "RCPT TO:<u1", "550 5.1.1 no"}, 2, []string{"5.7.1 remote-reply", "5.1.1 remote-reply"}, 0},
		"DATA put off":                                                    {[]string{"DATA", "451 4.3.0 no"}, 1, []string{"4.3.0 remote-reply"}, 0},
		"SMTP-3.3-01 250 to DATA is no leave to send":                     {[]string{"DATA", "250 fine"}, 1, []string{"4.5.0 protocol-error"}, 0},
		"SMTP-4.2.5-02 the last reply is for those accepted":              {[]string{"RCPT TO:<u1", "550 5.1.1 no", ".", "451 4.3.0 no"}, 2, []string{"4.3.0 remote-reply", "5.1.1 remote-reply"}, 0},
		"SMTP-4.2.5-01 554 to the content":                                {[]string{".", "554 5.6.0 spam"}, 1, []string{"5.6.0 remote-reply"}, 0},
		"354 to the final dot":                                            {[]string{".", "354 more"}, 1, []string{"4.5.0 protocol-error"}, 0},
		"SMTP-3.8-01 the connection ends after MAIL":                      {[]string{"MAIL", closeIt}, 2, []string{"4.4.2 connection-lost", "4.4.2 connection-lost"}, 0},
		"SMTP-3.8-01 the connection ends after RCPT":                      {[]string{"RCPT TO:<u1", closeIt}, 3, []string{"4.4.2 connection-lost", "4.4.2 connection-lost", "4.4.2 connection-lost"}, 0},
		"a refusal is kept when the connection ends":                      {[]string{"RCPT TO:<u0", "550 5.1.1 no", "RCPT TO:<u1", closeIt}, 3, []string{"5.1.1 remote-reply", "4.4.2 connection-lost", "4.4.2 connection-lost"}, 0},
		"SMTP-3.8-01 the connection ends after DATA":                      {[]string{"DATA", closeIt}, 1, []string{"4.4.2 connection-lost"}, 0},
		"SMTP-4.2-03 codes that differ in one reply":                      {[]string{"RCPT", "250-a\r\n550 b"}, 1, []string{"4.5.0 protocol-error"}, 0},
		"SMTP-4.2-04 an endless line":                                     {[]string{"RCPT", "250 " + strings.Repeat("x", 1<<20)}, 1, []string{"4.5.0 protocol-error"}, 0},
		"ESC-2034-4-01 a code that disagrees":                             {[]string{"RCPT", "550 4.1.1 no"}, 1, []string{"5.0.0 remote-reply"}, 0},
		"SMTP-4.5.3.1-04 552 for want of room":                            {[]string{"RCPT TO:<u0", "550 5.1.1 no", "RCPT TO:<u2", "552 5.2.2 mailbox full"}, 3, []string{"5.1.1 remote-reply", "ok", "5.2.2 remote-reply"}, 1},
		"SIZE-6.4-01 552 to the first RCPT is about the size":             {[]string{"RCPT TO:<u0", "552 too big"}, 2, []string{"5.0.0 remote-reply", "ok"}, 1},
		"452 about one mailbox is no limit":                               {[]string{"RCPT TO:<u1", "452 4.2.2 mailbox full"}, 3, []string{"ok", "4.2.2 remote-reply", "ok"}, 1},
	} {
		for mode, keywords := range map[string][]string{"PIPE-3.1-01 SMTP-4.3.1-02 lock-step": lockstep, "pipelined": full} {
			t.Run(name+", "+mode, func(t *testing.T) {
				w := one(t, plainMX("mx.a.example", keywords...).says(tt.says...))
				m := w.dialer.to["127.1.0.1:25"]
				out, _ := w.deliver(w.client(), "a.example", job("1", content, rcpts(tt.to)...))
				if got := verdicts(out["1"]); !slices.Equal(got, tt.want) || len(m.look().messages) != tt.got {
					t.Errorf("got %q, %d messages, transcript %q", got, len(m.look().messages), m.look().lines)
				}
				for _, o := range out["1"].Outcomes {
					if e := o.Err; e != nil && (e.Code/100 != e.Enhanced[0] || e.Permanent != (e.Code >= 500) || e.MX.String() != "mx.a.example" || e.Addr != "127.1.0.1:25") {
						t.Errorf("%+v", e)
					}
					if e := o.Err; e != nil && e.Remote && o.Reply != fmt.Sprint(e.Code, " ", e.Text) {
						t.Errorf("reply %q, error %+v", o.Reply, e)
					}
				}
			})
			t.Run("another message follows after "+name+", "+mode, func(t *testing.T) {
				m := plainMX("mx.a.example", keywords...).says(tt.says...)
				trouble := m.answer
				m.answer = func(c *fakeConn, line string) string {
					if c.count > 1 || strings.Contains(line, "second@") || strings.Contains(strings.Join(m.look().lines, " "), "second@") {
						return ""
					}
					return trouble(c, line)
				}
				w := one(t, m)
				second := job("2", content, "v@a.example")
				second.From = addr.MustAddress("second@sender.example")
				out, _ := w.deliver(w.client(), "a.example", job("1", content, rcpts(tt.to)...), second)
				if got := verdicts(out["2"]); !slices.Equal(got, []string{"ok"}) || len(m.look().messages) != tt.got+1 {
					t.Errorf("got %q, %d messages, transcript %q", got, len(m.look().messages), m.look().lines)
				}
			})
		}
	}
}

func TestPipelining(t *testing.T) {
	t.Run("PIPE-3.1-02 PIPE-3.1-06 one round trip per message", func(t *testing.T) {
		w := newWorld(t)
		m := w.host("a.example", 10, w.good("mx.a.example"), "127.1.0.1")
		var jobs []Job
		for i := range 20 {
			jobs = append(jobs, job(fmt.Sprint(i), content, rcpts(3)...))
		}
		out, err := w.deliver(w.client(), "a.example", jobs...)
		got := m.look()
		// EHLO, STARTTLS, EHLO, the first envelope, twenty contents, QUIT.
		if err != nil || len(out) != 20 || len(got.messages) != 20 || got.conns != 1 || got.flights[0] > 25 {
			t.Errorf("%v, %d messages in %v flights", err, len(got.messages), got.flights)
		}
		if slices.Contains(got.verbs(), "1T RSET") {
			t.Error("RSET between messages")
		}
	})
	for mode, keywords := range map[string][]string{"with": full, "without": lockstep} {
		t.Run("PIPE-3.1-05 two thousand recipients and long replies do not block "+mode+" PIPELINING", func(t *testing.T) {
			m := plainMX("mx.a.example", keywords...).says("RCPT", "250 2.1.5 "+strings.Repeat("x", 400))
			m.tight = true
			w := one(t, m)
			out, err := w.deliver(w.client(), "a.example", job("1", content, rcpts(2000)...), job("2", content, rcpts(2000)...))
			if err != nil || len(m.look().messages) != 2 || len(m.look().messages[1].to) != 2000 {
				t.Errorf("%v, %d messages, %v", err, len(m.look().messages), verdict(out["1"].Outcomes[0]))
			}
		})
	}
	t.Run("a connection that ends while a long envelope is written", func(t *testing.T) {
		w := one(t, plainMX("mx.a.example", full...).says("RCPT TO:<u100@", closeIt))
		out, _ := w.deliver(w.client(), "a.example", job("1", content, rcpts(20000)...))
		for i, o := range out["1"].Outcomes {
			if o.Err == nil || o.Err.Permanent {
				t.Fatalf("%d: %v", i, o)
			}
		}
	})
	t.Run("MAIL refused and RCPT accepted: nothing is sent, not even an end", func(t *testing.T) {
		w := one(t, plainMX("mx.a.example", full...).says("MAIL", "550 5.7.1 no", "RCPT", "250 ok", "DATA", "354 go"))
		m := w.dialer.to["127.1.0.1:25"]
		out, _ := w.deliver(w.client(), "a.example", job("1", content, "u@a.example"))
		if got := verdicts(out["1"]); !slices.Equal(got, []string{"5.7.1 remote-reply"}) || slices.Contains(m.look().lines, "1 .") {
			t.Errorf("%q, transcript %q", got, m.look().lines)
		}
	})
}

func TestManyRecipients(t *testing.T) {
	// limited accepts n recipients per transaction.
	limited := func(n int, refusal string) func(*fakeConn, string) string {
		return func(c *fakeConn, line string) string {
			if strings.HasPrefix(line, "RCPT") && len(c.to) >= n {
				return refusal
			}
			return ""
		}
	}
	for mode, keywords := range map[string][]string{"pipelined": full, "lock-step": lockstep} {
		for _, refusal := range []string{"452 4.5.3 too many recipients", "452 too many", "552 too many", "552 5.5.3 too many"} {
			t.Run(fmt.Sprintf("SMTP-4.5.3.1-04 SMTP-4.5.3.1-05 250 recipients at 100 a time, %s, %s", refusal, mode), func(t *testing.T) {
				m := plainMX("mx.a.example", keywords...)
				m.answer = limited(100, refusal)
				w := one(t, m)
				out, err := w.deliver(w.client(), "a.example", job("1", content, rcpts(250)...), job("2", content, rcpts(250)...))
				got := m.look()
				if err != nil || len(got.messages) != 6 || got.conns != 1 {
					t.Errorf("%v, %d messages over %d connections", err, len(got.messages), got.conns)
				}
				for i, o := range slices.Concat(out["1"].Outcomes, out["2"].Outcomes) {
					if o.Err != nil {
						t.Fatalf("%d: %v", i, o.Err)
					}
				}
				n := 0
				for _, l := range got.lines {
					if strings.HasPrefix(l, "1 RCPT") {
						n++
					}
				}
				if n != 250+150+250 { // the first transaction learns the limit, the second keeps to it
					t.Errorf("%d RCPTs", n)
				}
			})
		}
		t.Run("LIM-9422-01 RCPTMAX=20 makes chunks of 20, "+mode, func(t *testing.T) {
			m := plainMX("mx.a.example", with(keywords, "LIMITS RCPTMAX=20")...)
			m.answer = limited(20, "451 4.3.0 told you")
			w := one(t, m)
			out, _ := w.deliver(w.client(), "a.example", job("1", content, rcpts(50)...))
			got := m.look()
			if len(got.messages) != 3 || len(got.messages[2].to) != 10 || slices.ContainsFunc(out["1"].Outcomes, func(o Outcome) bool { return o.Err != nil }) {
				t.Errorf("%d messages, %q", len(got.messages), verdicts(out["1"]))
			}
		})
		t.Run("LIM-9422-01 MAILMAX=2 makes connections of 2, "+mode, func(t *testing.T) {
			m := plainMX("mx.a.example", with(keywords, "LIMITS MAILMAX=2")...)
			w := one(t, m)
			out, err := w.deliver(w.running(), "a.example", job("1", content, "u@a.example"), job("2", content, "u@a.example"), job("3", content, "u@a.example"))
			got := m.look()
			if err != nil || len(out) != 3 || len(got.messages) != 3 || got.messages[1].conn != 1 || got.messages[2].conn != 2 {
				t.Errorf("%v, %+v", err, got.messages)
			}
		})
	}
	t.Run("a connection that ends between two transactions of one message", func(t *testing.T) {
		for _, keywords := range [][]string{full, lockstep} {
			m := plainMX("mx.a.example", with(keywords, "LIMITS RCPTMAX=1")...)
			m.answer = func(_ *fakeConn, line string) string {
				if line == "." {
					return closeIt
				}
				return ""
			}
			w := one(t, m)
			m2 := w.host("a.example", 20, plainMX("mx2.a.example", full...), "127.1.0.2")
			out, err := w.deliver(w.client(), "a.example", job("1", content, rcpts(3)...))
			if got := verdicts(out["1"]); !slices.Equal(got, []string{"4.4.2 connection-lost", "ok", "ok"}) || err != nil || m.look().conns != 1 || len(m2.look().messages) != 1 {
				t.Errorf("%q, %v, %d connections", got, err, m.look().conns)
			}
			if o := out["1"].Outcomes; !o[0].MayDup || o[1].MayDup {
				t.Errorf("%+v", o)
			}
		}
	})
	t.Run("a server that takes one at a time", func(t *testing.T) {
		m := plainMX("mx.a.example", with(full, "LIMITS MAILMAX=3")...)
		m.answer = limited(1, "452 4.5.3 too many")
		w := one(t, m)
		out, err := w.deliver(w.client(), "a.example", job("1", content, rcpts(7)...))
		if got := m.look(); err != nil || len(got.messages) != 7 || got.conns != 3 {
			t.Errorf("%v, %q, %d messages, %d connections", err, verdicts(out["1"]), len(got.messages), got.conns)
		}
	})
}
