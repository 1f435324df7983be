package delivery

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"stsrelay/internal/addr"
	"stsrelay/stscache"
)

func addrs(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func TestNextHost(t *testing.T) {
	// Each row: what the first of two hosts says to u0 and u1, and which of
	// them the second host, that takes everything, gets to see.
	for name, tt := range map[string]struct {
		says []string
		want []string // outcomes
		seen []string // at the second host
	}{
		"SMTP-5.1-15 450 to one recipient moves only that one":      {[]string{"RCPT TO:<u1", "450 4.2.1 later"}, []string{"ok", "ok"}, []string{"<u1@a.example>"}},
		"SMTP-5.1-15 451 to MAIL moves all":                         {[]string{"MAIL", "451 4.3.0 later"}, []string{"ok", "ok"}, []string{"<u0@a.example>", "<u1@a.example>"}},
		"SMTP-5.1-15 451 to DATA moves all":                         {[]string{"DATA", "451 4.3.0 later"}, []string{"ok", "ok"}, []string{"<u0@a.example>", "<u1@a.example>"}},
		"SMTP-5.1-15 451 to the content moves all":                  {[]string{".", "451 4.3.0 later"}, []string{"ok", "ok"}, []string{"<u0@a.example>", "<u1@a.example>"}},
		"SMTP-5.1-15 4.7.1 moves nobody":                            {[]string{"RCPT", "450 4.7.1 greylisted"}, []string{"4.7.1 remote-reply", "4.7.1 remote-reply"}, nil},
		"SMTP-5.1-15 421 within a transaction moves nobody":         {[]string{"RCPT TO:<u1", "421 4.3.2 bye"}, []string{"4.3.2 remote-reply", "4.3.2 remote-reply"}, nil},
		"SMTP-5.1-15 421 to MAIL moves nobody":                      {[]string{"MAIL", "421 4.3.2 bye"}, []string{"4.3.2 remote-reply", "4.3.2 remote-reply"}, nil},
		"SMTP-5.1-15 421 to the content moves nobody":               {[]string{".", "421 4.3.2 bye"}, []string{"4.3.2 remote-reply", "4.3.2 remote-reply"}, nil},
		"SMTP-5.1-14 550 to a recipient is final":                   {[]string{"RCPT TO:<u1", "550 5.1.1 no"}, []string{"ok", "5.1.1 remote-reply"}, nil},
		"SMTP-5.1-14 550 to MAIL is final":                          {[]string{"MAIL", "550 5.1.0 no"}, []string{"5.1.0 remote-reply", "5.1.0 remote-reply"}, nil},
		"SMTP-5.1-14 554 to DATA is final":                          {[]string{"DATA", "554 5.7.1 no"}, []string{"5.7.1 remote-reply", "5.7.1 remote-reply"}, nil},
		"SMTP-5.1-14 554 to the content is final":                   {[]string{".", "554 5.6.0 no"}, []string{"5.6.0 remote-reply", "5.6.0 remote-reply"}, nil},
		"SMTP-5.1-14 a lost connection moves those without a reply": {[]string{"RCPT TO:<u0", "550 5.1.1 no", "RCPT TO:<u1", closeIt}, []string{"5.1.1 remote-reply", "ok"}, []string{"<u1@a.example>"}},
		"SMTP-5.1-14 a connection lost after EHLO":                  {[]string{"EHLO", closeIt}, []string{"ok", "ok"}, []string{"<u0@a.example>", "<u1@a.example>"}},
		"SMTP-5.1-14 EHLO and HELO refused":                         {[]string{"EHLO", "502 no", "HELO", "550 no"}, []string{"ok", "ok"}, []string{"<u0@a.example>", "<u1@a.example>"}},
	} {
		for mode, keywords := range map[string][]string{"pipelined": full, "lock-step": lockstep} {
			t.Run(name+", "+mode, func(t *testing.T) {
				w := one(t, plainMX("mx1.a.example", keywords...).says(tt.says...))
				m := w.host("a.example", 20, plainMX("mx2.a.example", keywords...), "127.1.0.2")
				out, _ := w.deliver(w.client(), "a.example", job("1", content, rcpts(2)...))
				if got := verdicts(out["1"]); !slices.Equal(got, tt.want) {
					t.Errorf("got %q", got)
				}
				var seen []string
				for _, l := range m.look().messages {
					seen = append(seen, l.to...)
				}
				if !slices.Equal(seen, tt.seen) {
					t.Errorf("the second host got %q", seen)
				}
			})
		}
	}
	t.Run("SMTP-5.1-15 no third host after two that put a recipient off", func(t *testing.T) {
		w := newWorld(t)
		for i := range 4 {
			w.host("a.example", uint16(i), plainMX(fmt.Sprintf("mx%d.a.example", i), full...).says("RCPT", fmt.Sprintf("450 4.2.%d later", i)), fmt.Sprintf("127.1.0.%d", i+1))
		}
		out, err := w.deliver(w.running(), "a.example", job("1", content, "u@a.example"), job("2", content, "u@a.example"))
		if got := verdict(out["1"].Outcomes[0]); got != "4.2.1 remote-reply" || w.dialer.count("127.1.0.3:25") != 0 || err != nil || len(out) != 2 {
			t.Errorf("got %s, third host dialled %d times, %v, %d done", got, w.dialer.count("127.1.0.3:25"), err, len(out))
		}
	})
	t.Run("SMTP-5.1-16 521 from every host is permanent, from some it is not", func(t *testing.T) {
		for second, want := range map[string]string{"521 5.3.2 never": "5.3.2 remote-reply", "554 5.3.2 no": "4.3.2 remote-reply"} {
			w := newWorld(t)
			w.host("a.example", 10, plainMX("mx1.a.example").says("CONNECT", "521 5.3.2 never"), "127.1.0.1")
			w.host("a.example", 20, plainMX("mx2.a.example").says("CONNECT", second), "127.1.0.2")
			out, err := w.deliver(w.client(), "a.example", job("1", content, "u@a.example"))
			if got := verdict(out["1"].Outcomes[0]); got != want || err == nil {
				t.Errorf("%s: got %s, %v", second, got, err)
			}
		}
	})
	t.Run("SMTP-5.1-09 all addresses of a host are tried before the next", func(t *testing.T) {
		w := newWorld(t)
		m := w.host("a.example", 10, plainMX("mx1.a.example", full...), "127.1.0.3")
		w.host("a.example", 20, plainMX("mx2.a.example", full...), "127.1.0.4")
		w.ips["mx1.a.example"] = append(addrs("127.1.0.1", "127.1.0.2"), w.ips["mx1.a.example"]...)
		out, _ := w.deliver(w.client(), "a.example", job("1", content, "u@a.example"))
		if o := out["1"].Outcomes[0]; o.Err != nil || o.Addr.String() != "127.1.0.3:25" || len(m.look().messages) != 1 {
			t.Errorf("%+v", o)
		}
		if w.dialer.count("127.1.0.1:25") != 1 || w.dialer.count("127.1.0.2:25") != 1 {
			t.Errorf("SMTP-5.1-08 dials %v", w.dialer.dials)
		}
	})
	t.Run("what a host said of a recipient outlives the next host's silence", func(t *testing.T) {
		w := one(t, plainMX("mx1.a.example", full...).says("RCPT", "452 4.2.2 full"))
		w.dead("a.example", 20, "mx2.a.example", "127.1.0.2")
		out, err := w.deliver(w.client(), "a.example", job("1", content, "u@a.example"), job("2", content, "u@a.example"))
		if got := verdict(out["1"].Outcomes[0]); got != "4.2.2 remote-reply" || err != nil || len(out) != 2 {
			t.Errorf("got %s, %v", got, err)
		}
	})
	t.Run("the destination is given up after one job when no host can be reached", func(t *testing.T) {
		w := newWorld(t)
		w.dead("a.example", 10, "mx1.a.example", "127.1.0.1")
		w.dead("a.example", 20, "mx2.a.example", "127.1.0.2")
		out, err := w.deliver(w.client(), "a.example", job("1", content, "u@a.example", "v@a.example"), job("2", content, "u@a.example"))
		var e *Error
		if !errors.As(err, &e) || !e.Destination() || e.MX.String() != "mx1.a.example" || len(out) != 1 || verdict(out["1"].Outcomes[1]) != "4.4.1 connect-failed" {
			t.Errorf("%v, %d jobs done: %q", err, len(out), verdicts(out["1"]))
		}
	})
	t.Run("SMTP-5.1-02 a domain that does not exist is one error for all", func(t *testing.T) {
		w := newWorld(t)
		out, err := w.deliver(w.client(), "none.example", job("1", content, "u@none.example", "v@none.example"), job("2", content, "u@none.example"))
		if got := verdicts(out["1"]); err == nil || !slices.Equal(got, []string{"5.1.2 no-such-domain", "5.1.2 no-such-domain"}) || len(out) != 1 {
			t.Errorf("%v, %q", err, got)
		}
	})
	t.Run("an empty source is no error and asks nobody", func(t *testing.T) {
		w := newWorld(t)
		if _, err := w.deliver(w.client(), "none.example"); err != nil {
			t.Error(err)
		}
	})
}

func TestDualStack(t *testing.T) {
	// dual is a host with both families, IPv6 first, whose reply to RCPT over
	// IPv6 is given.
	dual := func(t *testing.T, six, four string) (*world, *fakeMX, *fakeMX) {
		w := newWorld(t)
		m6 := plainMX("mx.a.example", full...).says("RCPT TO:<u0", six)
		m6.start(t)
		m4 := plainMX("mx.a.example", full...).says("RCPT TO:<u0", four)
		w.host("a.example", 10, m4, "127.1.0.1")
		w.ips["mx.a.example"] = append(addrs("fd00::1"), w.ips["mx.a.example"]...)
		w.dialer.to["[fd00::1]:25"] = m6
		return w, m6, m4
	}
	for name, tt := range map[string]struct {
		six, four string
		want      []string
	}{
		"SMTP-5.1-14 5.7.25 over IPv6 is asked again over IPv4":       {"550 5.7.25 no PTR", "", []string{"ok", "ok"}},
		"SMTP-5.1-14 5.4.0 over IPv6 is asked again over IPv4":        {"550 5.4.0 no", "", []string{"ok", "ok"}},
		"SMTP-5.1-14 5.7.1 over both counts":                          {"550 5.7.25 no PTR", "550 5.7.1 no", []string{"5.7.1 remote-reply", "ok"}},
		"SMTP-5.1-14 what IPv4 puts off is put off":                   {"550 5.7.25 no PTR", "450 4.2.0 later", []string{"4.2.0 remote-reply", "ok"}},
		"SMTP-5.1-14 5.1.1 over IPv6 is final":                        {"550 5.1.1 no", "", []string{"5.1.1 remote-reply", "ok"}},
		"SMTP-5.1-14 a lost connection over IPv4 leaves no permanent": {"550 5.7.25 no PTR", closeIt, []string{"4.4.2 connection-lost", "ok"}},
	} {
		t.Run(name, func(t *testing.T) {
			w, m6, m4 := dual(t, tt.six, tt.four)
			out, err := w.deliver(w.client(), "a.example", job("1", content, rcpts(2)...), job("2", content, rcpts(2)...), job("3", content, "u7@a.example"))
			for _, id := range []string{"1", "2"} {
				if got := verdicts(out[id]); !slices.Equal(got, tt.want) || err != nil {
					t.Errorf("%s: %q, %v", id, got, err)
				}
			}
			if strings.HasPrefix(tt.six, "550 5.1.1") && m4.look().conns != 0 {
				t.Error("IPv4 was asked")
			}
			count := map[string]int{}
			for _, m := range append(m4.look().messages, m6.look().messages...) {
				for _, to := range m.to {
					count[to]++
				}
			}
			if count["<u1@a.example>"] != 2 || count["<u7@a.example>"] != 1 {
				t.Errorf("the other recipients have it so often: %v", count)
			}
		})
	}
	t.Run("SMTP-5.1-14 the rejection counts when IPv4 cannot be reached", func(t *testing.T) {
		w, _, _ := dual(t, "550 5.7.25 no PTR", "")
		delete(w.dialer.to, "127.1.0.1:25")
		out, _ := w.deliver(w.client(), "a.example", job("1", content, rcpts(2)...))
		if got := verdicts(out["1"]); !slices.Equal(got, []string{"5.7.25 remote-reply", "ok"}) {
			t.Errorf("%q", got)
		}
	})
	t.Run("SMTP-5.1-10 an IPv6 address nobody answers at gives way to IPv4", func(t *testing.T) {
		w, _, m4 := dual(t, "", "")
		delete(w.dialer.to, "[fd00::1]:25")
		out, _ := w.deliver(w.client(), "a.example", job("1", content, rcpts(2)...))
		if verdict(out["1"].Outcomes[0]) != "ok" || len(m4.look().messages) != 1 {
			t.Errorf("%q", verdicts(out["1"]))
		}
	})
}

func TestDemand(t *testing.T) {
	t.Run("RTLS-5-03 a bounce goes with REQUIRETLS where a host is good for it, and without where not", func(t *testing.T) {
		for name, tt := range map[string]struct {
			keywords []string
			policy   bool
			want     bool
		}{
			"offered, and the name is vouched for":  {with(full, "REQUIRETLS"), true, true},
			"not offered":                           {full, true, false},
			"RTLS-2-02 nobody vouches for the name": {with(full, "REQUIRETLS"), false, false},
		} {
			t.Run(name, func(t *testing.T) {
				w := newWorld(t)
				m := w.good("mx.a.example")
				m.secure = tt.keywords
				w.host("a.example", 10, m, "127.1.0.1")
				if tt.policy {
					w.policy("a.example", stscache.Enforce, "mx.a.example")
				}
				j := job("1", content, "u@a.example")
				j.From, j.Demand = addr.Address{}, Prefer
				out, _ := w.deliver(w.client(), "a.example", j)
				got := m.look()
				if verdict(out["1"].Outcomes[0]) != "ok" || !got.messages[0].tls || strings.Contains(got.messages[0].from, "REQUIRETLS") != tt.want {
					t.Errorf("%q, %+v", verdicts(out["1"]), got.messages)
				}
			})
		}
	})
	t.Run("RTLS-2-01 REQUIRETLS goes to MAIL when the host offers it over TLS", func(t *testing.T) {
		w := newWorld(t)
		w.policy("a.example", stscache.Enforce, "mx.a.example")
		m := w.good("mx.a.example")
		m.secure = with(full, "REQUIRETLS")
		w.host("a.example", 10, m, "127.1.0.1")
		r := job("1", content, "u@a.example")
		r.Demand = Require
		out, _ := w.deliver(w.client(), "a.example", r, job("2", content, "u@a.example"))
		got := m.look()
		if verdict(out["1"].Outcomes[0]) != "ok" || !strings.HasSuffix(got.messages[0].from, " REQUIRETLS") || strings.Contains(got.messages[1].from, "REQUIRETLS") {
			t.Errorf("%q, %+v", verdicts(out["1"]), got.messages)
		}
	})
	t.Run("RTLS-4.2.1-03 a message that requires TLS fails alone when no host offers it", func(t *testing.T) {
		w := newWorld(t)
		w.policy("a.example", stscache.Enforce, "mx.a.example")
		m := w.host("a.example", 10, w.good("mx.a.example"), "127.1.0.1")
		r := job("2", content, "u@a.example")
		r.Demand = Require
		out, err := w.deliver(w.running(), "a.example", job("1", content, "u@a.example"), r, job("3", content, "u@a.example"))
		if verdict(out["1"].Outcomes[0]) != "ok" || verdict(out["2"].Outcomes[0]) != "5.7.30 requiretls-unsupported" || verdict(out["3"].Outcomes[0]) != "ok" || err != nil {
			t.Errorf("%q %q %q, %v", verdicts(out["1"]), verdicts(out["2"]), verdicts(out["3"]), err)
		}
		if n := len(m.look().messages); n != 2 {
			t.Errorf("%d messages", n)
		}
	})
	t.Run("RTLS-3-02 TLS-Required: No is delivered where a policy keeps others out", func(t *testing.T) {
		w := newWorld(t)
		w.policy("a.example", stscache.Enforce, "mx.a.example")
		m := w.good("mx.a.example")
		m.cert = newCA(t).issue(t, "mx.a.example")
		w.host("a.example", 10, m, "127.1.0.1")
		no := job("1", content, "u@a.example")
		no.Demand = Ignore
		out, err := w.deliver(w.running(), "a.example", no, job("2", content, "u@a.example"))
		if verdict(out["1"].Outcomes[0]) != "ok" || verdict(out["2"].Outcomes[0]) != "4.7.5 certificate-not-trusted" || err == nil {
			t.Errorf("%q, %q, %v", verdicts(out["1"]), verdicts(out["2"]), err)
		}
		if got := m.look(); len(got.messages) != 1 || !got.messages[0].tls || out["1"].Outcomes[0].TLS != "Untrusted TLSv1.3" {
			t.Errorf("%+v", got.messages)
		}
	})
	t.Run("a report causes no session, and the next message on its connection does", func(t *testing.T) {
		w := newWorld(t)
		w.policy("a.example", stscache.Enforce, "mx.a.example")
		w.host("a.example", 10, w.good("mx.a.example"), "127.1.0.1")
		r := job("1", content, "u@a.example")
		r.Demand, r.Quiet = Ignore, true
		out, _ := w.deliver(w.client(), "a.example", r, job("2", content, "u@a.example"), job("3", content, "u@a.example"))
		if len(out["1"].Sessions) != 0 || len(out["2"].Sessions) != 1 || len(out["3"].Sessions) != 0 {
			t.Errorf("sessions: %d, %d, %d", len(out["1"].Sessions), len(out["2"].Sessions), len(out["3"].Sessions))
		}
	})
	t.Run("STS-5-04 a last attempt looks for a newer policy first", func(t *testing.T) {
		w := newWorld(t)
		w.policy("a.example", stscache.Enforce, "other.example")
		w.host("a.example", 10, w.good("mx.a.example"), "127.1.0.1")
		w.policy("newer.example", stscache.Enforce, "mx.a.example")
		w.options.Policies = renewed{w}
		last := job("1", content, "u@a.example")
		last.Final = true
		out, err := w.deliver(w.client(), "a.example", last)
		if verdict(out["1"].Outcomes[0]) != "ok" || err != nil {
			t.Errorf("%q, %v", verdicts(out["1"]), err)
		}
	})
}

// renewed finds newer.example's policy when it is asked to look.
type renewed struct{ *world }

func (r renewed) Refresh(ctx context.Context, _ addr.Domain) stscache.Status {
	return r.statuses["newer.example"]
}

func TestRoute(t *testing.T) {
	t.Run("a route leads to its host and port, from the source address asked for", func(t *testing.T) {
		w := newWorld(t)
		m := plainMX("smart.example", full...)
		peers := make(chan string, 2)
		m.answer = func(c *fakeConn, line string) string {
			if line == "CONNECT" {
				peers <- c.nc.RemoteAddr().(*net.TCPAddr).IP.String()
			}
			return ""
		}
		m.start(t)
		w.ips["smart.example"] = addrs("127.0.0.1")
		w.options.Dialer = &net.Dialer{}
		w.options.Bind = addrs("fd00::2", "127.0.0.7")
		port := m.ln.Addr().(*net.TCPAddr).AddrPort().Port()
		s := source(t, job("1", content, "u@a.example"))
		c := w.client()
		if err := c.Deliver(t.Context(), Destination{NextHop: addr.HostHop(addr.MustHost("smart.example"), port), Route: true}, s); err != nil {
			t.Error(err)
		}
		s2 := source(t, job("1", content, "u@a.example"))
		if err := c.Deliver(t.Context(), Destination{NextHop: addr.LiteralHop(netip.MustParseAddr("127.0.0.1"), port), Route: true}, s2); err != nil {
			t.Error(err)
		}
		if a, b := <-peers, <-peers; a != "127.0.0.7" || b != "127.0.0.7" || len(m.look().messages) != 2 {
			t.Errorf("from %s and %s, %d messages", a, b, len(m.look().messages))
		}
		if o := s.out["1"].Outcomes[0]; o.Addr != netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port) || o.MX.String() != "smart.example" {
			t.Errorf("%+v", o)
		}
	})
	t.Run("a source address needs a dialer that can choose one", func(t *testing.T) {
		w := newWorld(t)
		w.options.Bind = addrs("127.0.0.7")
		if _, err := New(w.options); err == nil {
			t.Error("no error")
		}
	})
	t.Run("what is required is said all at once", func(t *testing.T) {
		_, err := New(Options{})
		if err == nil || strings.Count(err.Error(), "needs") != 3 {
			t.Error(err)
		}
	})
}
