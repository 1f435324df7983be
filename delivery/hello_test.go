package delivery

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"slices"
	"strings"
	"testing"
	"time"

	"stsrelay/internal/resolver"
	"stsrelay/stscache"
	"stsrelay/tlsrpt"
)

func TestGreeting(t *testing.T) {
	t.Run("SMTP-4.3.1-01 nothing is said before the greeting", func(t *testing.T) {
		w := newWorld(t)
		early := make(chan error, 1)
		m := plainMX("mx.a.example", full...)
		m.answer = func(c *fakeConn, line string) string {
			if line == "CONNECT" {
				c.nc.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
				_, err := c.r.ReadByte()
				c.nc.SetReadDeadline(time.Time{})
				early <- err
			}
			return ""
		}
		w.host("a.example", 10, m, "127.1.0.1")
		out, _ := w.deliver(w.client(), "a.example", job("1", content, "u@a.example"))
		if err := <-early; !isTimeout(err) || verdict(out["1"].Outcomes[0]) != "ok" {
			t.Errorf("the client was not silent: %v; %v", err, verdicts(out["1"]))
		}
	})
	tests := []struct{ name, greeting, want string }{
		{"SMTP-3.1-01 SMTP-5.1-16 554 in the greeting is temporary", "554 5.7.1 go away", "4.7.1 remote-reply"},
		{"SMTP-3.1-01 SMTP-5.1-16 521 in the greeting is permanent", "521 5.3.2 no mail here", "5.3.2 remote-reply"},
		{"SMTP-4.3.2-01 421 in the greeting", "421 4.3.2 not now", "4.3.2 remote-reply"},
		{"SMTP-4.2-04 an endless greeting", "220 " + strings.Repeat("x", 1<<20), "4.5.0 protocol-error"},
		{"SMTP-4.2-02 a greeting of no class", "100 hello", "4.5.0 protocol-error"},
		{"an HTTP server", "HTTP/1.1 400 Bad Request", "4.5.0 protocol-error"},
		{"a positive intermediate greeting", "354 hello", "4.5.0 protocol-error"},
		{"a connection that ends before the greeting", closeIt, "4.4.2 connection-lost"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			m := w.host("a.example", 10, plainMX("mx.a.example").says("CONNECT", tt.greeting), "127.1.0.1")
			out, err := w.deliver(w.client(), "a.example", job("1", content, "u@a.example"), job("2", content, "u@a.example"))
			if got := verdict(out["1"].Outcomes[0]); got != tt.want || err == nil || len(out) != 1 {
				t.Errorf("got %s, %v, %d jobs done", got, err, len(out))
			}
			if e := out["1"].Outcomes[0].Err; e.Code/100 != e.Enhanced[0] || e.Permanent != (e.Code >= 500) || e.Stage != StageGreeting {
				t.Errorf("classes disagree: %+v", e)
			}
			if strings.HasPrefix(tt.greeting, "5") && !slices.Equal(m.look().verbs(), []string{"1 QUIT"}) {
				t.Errorf("transcript %q", m.look().lines)
			}
		})
		t.Run("the next host is asked after "+tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.host("a.example", 10, plainMX("mx1.a.example").says("CONNECT", tt.greeting), "127.1.0.1")
			w.host("a.example", 20, plainMX("mx2.a.example", full...), "127.1.0.2")
			out, err := w.deliver(w.client(), "a.example", job("1", content, "u@a.example"))
			if o := out["1"].Outcomes[0]; o.Err != nil || o.MX.String() != "mx2.a.example" || err != nil {
				t.Errorf("got %+v, %v", o, err)
			}
		})
	}
	t.Run("SMTP-4.5.3.2-01 the greeting has its own time", func(t *testing.T) {
		w := newWorld(t)
		w.options.Timeouts.Greeting = 20 * time.Millisecond
		release := make(chan bool)
		defer close(release)
		m := plainMX("mx.a.example")
		m.answer = func(*fakeConn, string) string { <-release; return closeIt }
		w.host("a.example", 10, m, "127.1.0.1")
		out, _ := w.deliver(w.client(), "a.example", job("1", content, "u@a.example"))
		if got := verdict(out["1"].Outcomes[0]); got != "4.4.2 timeout" {
			t.Error(got)
		}
	})
}

func TestHello(t *testing.T) {
	for _, code := range []string{"500 5.5.2 what", "502 5.5.1 what", "501 what", "504 what", "550 what"} {
		t.Run("SMTP-3.2-01 HELO follows EHLO's "+code, func(t *testing.T) {
			w := newWorld(t)
			m := w.host("a.example", 10, plainMX("mx.a.example").says("EHLO", code, "HELO", "250-mx\r\n250 SIZE 10"), "127.1.0.1")
			out, _ := w.deliver(w.client(), "a.example", job("1", content, "u@a.example"))
			want := []string{"1 EHLO relay.example", "1 HELO relay.example", "1 MAIL FROM:<sender@sender.example>", "1 RCPT TO:<u@a.example>", "1 DATA", "1 .", "1 QUIT"}
			if got := m.look().lines; verdict(out["1"].Outcomes[0]) != "ok" || !slices.Equal(got, want) {
				t.Errorf("%v, transcript %q", verdicts(out["1"]), got)
			}
		})
		t.Run("SMTP-3.2-02 under enforce no HELO follows "+code, func(t *testing.T) {
			w := newWorld(t)
			w.policy("a.example", stscache.Enforce, "mx.a.example")
			m := w.host("a.example", 10, plainMX("mx.a.example").says("EHLO", code), "127.1.0.1")
			out, err := w.deliver(w.client(), "a.example", job("1", content, "u@a.example"))
			if got := verdict(out["1"].Outcomes[0]); got != "4.7.4 starttls-missing" || err == nil {
				t.Error(got, err)
			}
			if got := m.look().verbs(); !slices.Equal(got, []string{"1 EHLO", "1 QUIT"}) {
				t.Errorf("transcript %q", got)
			}
		})
	}
	for _, code := range []string{"421 4.3.2 bye", "554 5.7.1 no", "450 4.7.1 later"} {
		t.Run("SMTP-3.2-02 no HELO after EHLO's "+code, func(t *testing.T) {
			w := newWorld(t)
			m := w.host("a.example", 10, plainMX("mx.a.example").says("EHLO", code), "127.1.0.1")
			out, err := w.deliver(w.client(), "a.example", job("1", content, "u@a.example"))
			e := out["1"].Outcomes[0].Err
			if e == nil || e.Permanent || e.Stage != StageHello || err == nil || slices.Contains(m.look().verbs(), "1 HELO") {
				t.Errorf("%+v, %v, transcript %q", e, err, m.look().lines)
			}
		})
	}
	t.Run("SMTP-4.1.1.1-01 without a name EHLO has the literal of the local socket", func(t *testing.T) {
		w := newWorld(t)
		w.options.Hostname = ""
		m := w.host("a.example", 10, plainMX("mx.a.example"), "127.1.0.1")
		w.deliver(w.client(), "a.example", job("1", content, "u@a.example"))
		if got := m.look().lines; len(got) == 0 || got[0] != "1 EHLO [127.0.0.1]" {
			t.Errorf("transcript %q", got)
		}
	})
}

func TestStartTLS(t *testing.T) {
	t.Run("SMTP-4.1.1.1-02 starttls in lower case is STARTTLS", func(t *testing.T) {
		w := newWorld(t)
		m := w.good("mx.a.example")
		m.plain = []string{"starttls"}
		w.host("a.example", 10, m, "127.1.0.1")
		w.policy("a.example", stscache.Enforce, "mx.a.example")
		out, _ := w.deliver(w.client(), "a.example", job("1", content, "u@a.example"))
		if got := verdict(out["1"].Outcomes[0]); got != "ok" {
			t.Error(got)
		}
	})
	t.Run("SMTP-4.1.1.1-02 a server named STARTTLS does not offer it", func(t *testing.T) {
		w := newWorld(t)
		m := w.host("a.example", 10, plainMX("mx.a.example").says("EHLO", "250-STARTTLS\r\n250 8BITMIME"), "127.1.0.1")
		out, _ := w.deliver(w.client(), "a.example", job("1", content, "u@a.example"))
		if o := out["1"].Outcomes[0]; o.Err != nil || o.TLS != "" {
			t.Errorf("%+v, transcript %q", o, m.look().lines)
		}
	})
	t.Run("STLS-4.2-01 what was offered before TLS is forgotten", func(t *testing.T) {
		w := newWorld(t)
		m := w.good("mx.a.example")
		m.plain, m.secure = []string{"SIZE 5", "PIPELINING", "STARTTLS"}, []string{"8BITMIME"}
		w.host("a.example", 10, m, "127.1.0.1")
		out, _ := w.deliver(w.client(), "a.example", job("1", content, "u@a.example"))
		if got := m.look(); verdict(out["1"].Outcomes[0]) != "ok" || got.lines[3] != "1T MAIL FROM:<sender@sender.example>" {
			t.Errorf("%v, transcript %q", verdicts(out["1"]), got.lines)
		}
	})
	t.Run("STLS-4.2-02 STARTTLS offered over TLS is ignored", func(t *testing.T) {
		w := newWorld(t)
		m := w.good("mx.a.example")
		m.secure = m.plain
		w.host("a.example", 10, m, "127.1.0.1")
		out, _ := w.deliver(w.client(), "a.example", job("1", content, "u@a.example"))
		if got := m.look().verbs(); verdict(out["1"].Outcomes[0]) != "ok" || slices.Contains(got, "1T STARTTLS") {
			t.Errorf("%v, transcript %q", verdicts(out["1"]), got)
		}
	})
	for _, refusal := range []string{"454 4.7.0 not now", "502 5.5.1 what", "501 5.5.4 no", "250 ok"} {
		t.Run("STLS-4-04 mail goes on in the clear after STARTTLS's "+refusal, func(t *testing.T) {
			w := newWorld(t)
			m := w.host("a.example", 10, w.good("mx.a.example").says("STARTTLS", refusal), "127.1.0.1")
			out, _ := w.deliver(w.client(), "a.example", job("1", content, "u@a.example"))
			if o := out["1"].Outcomes[0]; o.Err != nil || o.TLS != "" || m.look().conns != 1 {
				t.Errorf("%+v, transcript %q", o, m.look().lines)
			}
		})
	}
	t.Run("STLS-4-02 STLS-4-04 after a broken handshake mail goes in the clear over a second connection", func(t *testing.T) {
		w := newWorld(t)
		w.policy("a.example", stscache.Testing, "mx.a.example")
		m := w.good("mx.a.example")
		m.cert = nil
		w.host("a.example", 10, m, "127.1.0.1")
		out, _ := w.deliver(w.client(), "a.example", job("1", content, "u@a.example"), job("2", content, "u@a.example"))
		got := m.look()
		want := []string{"1 EHLO", "1 STARTTLS", "2 EHLO", "2 MAIL", "2 RCPT", "2 DATA", "2 .", "2 MAIL", "2 RCPT", "2 DATA", "2 .", "2 QUIT"}
		if verdict(out["1"].Outcomes[0]) != "ok" || verdict(out["2"].Outcomes[0]) != "ok" || !slices.Equal(got.verbs(), want) {
			t.Errorf("%v, transcript %q", verdicts(out["1"]), got.verbs())
		}
		s := out["1"].Sessions
		if len(s) != 1 || len(s[0].Policies) != 1 || len(s[0].Policies[0].Failures) != 1 || s[0].Policies[0].Failures[0].Result != tlsrpt.ValidationFailure || len(out["2"].Sessions) != 0 {
			t.Errorf("RPT-4.2-03 sessions %+v", s)
		}
	})
	for name, demands := range map[string]func(w *world, d *Destination, j *Job){
		"an enforced policy": func(w *world, _ *Destination, _ *Job) { w.policy("a.example", stscache.Enforce, "mx.a.example") },
		"usable TLSA records": func(w *world, _ *Destination, _ *Job) {
			w.signs("a.example", "mx.a.example")
			w.tlsa["mx.a.example"] = []resolver.TLSA{ee}
		},
		"unusable TLSA records": func(w *world, _ *Destination, _ *Job) {
			w.signs("a.example", "mx.a.example")
			w.tlsa["mx.a.example"] = []resolver.TLSA{{Usage: 255}}
		},
		"REQUIRETLS": func(w *world, _ *Destination, j *Job) {
			w.signs("a.example")
			j.Demand = Require
		},
		"the operator's floor": func(_ *world, d *Destination, _ *Job) { d.Floor = TLS },
	} {
		for _, refusal := range []string{"454 4.7.0 not now", "502 5.5.1 what"} {
			t.Run("STLS-4-03 no mail in the clear after "+refusal+" under "+name, func(t *testing.T) {
				w := newWorld(t)
				m := w.host("a.example", 10, w.good("mx.a.example").says("STARTTLS", refusal), "127.1.0.1")
				d, j := to("a.example"), job("1", content, "u@a.example")
				demands(w, &d, &j)
				s := source(t, j)
				w.client().Deliver(t.Context(), d, s) // its error is that of the outcome
				if o := s.out["1"].Outcomes[0]; o.Err == nil || o.Err.Reason != StartTLSMissing || !slices.Equal(m.look().verbs(), []string{"1 EHLO", "1 STARTTLS", "1 QUIT"}) {
					t.Errorf("%s, transcript %q", verdict(o), m.look().lines)
				}
			})
		}
	}
	t.Run("STLS-6-01 text behind the reply to STARTTLS is an attack", func(t *testing.T) {
		w := newWorld(t)
		w.policy("a.example", stscache.Enforce, "mx.a.example")
		m := w.host("a.example", 10, w.good("mx.a.example").says("STARTTLS", "220 go\r\n250 mx.a.example\r\n250 ok"), "127.1.0.1")
		out, _ := w.deliver(w.client(), "a.example", job("1", content, "u@a.example"))
		o := out["1"].Outcomes[0]
		if verdict(o) != "4.7.5 tls-failed" || len(m.look().messages) != 0 || slices.Contains(m.look().verbs(), "1T EHLO") {
			t.Errorf("%s, transcript %q", verdict(o), m.look().lines)
		}
		if f := out["1"].Sessions[0].Policies[0].Failures; len(f) != 1 || f[0].Result != tlsrpt.ValidationFailure {
			t.Errorf("%+v", f)
		}
	})
	t.Run("an alert in place of the first reply over TLS undoes the handshake", func(t *testing.T) {
		w := newWorld(t)
		w.policy("a.example", stscache.Testing, "mx.a.example")
		m := w.good("mx.a.example")
		m.config = func(c *tls.Config) { c.ClientAuth = tls.RequireAnyClientCert } // TLS 1.3 says so after its Finished
		w.host("a.example", 10, m, "127.1.0.1")
		out, _ := w.deliver(w.client(), "a.example", job("1", content, "u@a.example"))
		s := out["1"].Sessions
		if o := out["1"].Outcomes[0]; o.Err != nil || o.TLS != "" || len(s) != 1 || len(s[0].Policies[0].Failures) != 1 {
			t.Errorf("%+v, sessions %+v, transcript %q", o, s, m.look().lines)
		}
	})
	t.Run("STLS-7435-01 without a policy any certificate will do", func(t *testing.T) {
		w := newWorld(t)
		m := w.good("mx.a.example")
		m.cert = newCA(t).issue(t, "other.example")
		w.host("a.example", 10, m, "127.1.0.1")
		m2 := w.host("b.example", 10, w.good("mx.b.example"), "127.1.0.2")
		c := w.client()
		out, _ := w.deliver(c, "a.example", job("1", content, "u@a.example"))
		if o := out["1"].Outcomes[0]; o.Err != nil || o.TLS != "Untrusted TLSv1.3" || !m.look().messages[0].tls {
			t.Errorf("%+v", o)
		}
		out, _ = w.deliver(c, "b.example", job("1", content, "u@b.example"))
		if o := out["1"].Outcomes[0]; o.Err != nil || o.TLS != "Trusted TLSv1.3" || !m2.look().messages[0].tls {
			t.Errorf("TLSV-9325-7.1-01 %+v", o)
		}
	})
	t.Run("SMTP-4.3.2-01 421 to STARTTLS closes this host", func(t *testing.T) {
		w := newWorld(t)
		m := w.host("a.example", 10, w.good("mx1.a.example").says("STARTTLS", "421 4.3.2 bye"), "127.1.0.1")
		w.host("a.example", 20, w.good("mx2.a.example"), "127.1.0.2")
		out, _ := w.deliver(w.client(), "a.example", job("1", content, "u@a.example"))
		if o := out["1"].Outcomes[0]; o.Err != nil || o.MX.String() != "mx2.a.example" || len(m.look().messages) != 0 {
			t.Errorf("%+v", o)
		}
	})
}

// brokenMXs are the ways in which a host fails a policy that enforces.
func brokenMXs(w *world) map[string]struct {
	mx   *fakeMX
	want string
} {
	cert := func(c *tls.Certificate) *fakeMX {
		m := w.good("mx1.a.example")
		m.cert = c
		return m
	}
	expired := w.ca.make(w.t, &x509.Certificate{DNSNames: []string{"mx1.a.example"}, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour)})
	return map[string]struct {
		mx   *fakeMX
		want string
	}{
		"STARTTLS is not offered":             {plainMX("mx1.a.example", full...), "4.7.4 starttls-missing"},
		"STARTTLS is answered 454":            {w.good("mx1.a.example").says("STARTTLS", "454 4.7.0 not now"), "4.7.4 starttls-missing"},
		"STARTTLS is answered 502":            {w.good("mx1.a.example").says("STARTTLS", "502 5.5.1 what"), "4.7.4 starttls-missing"},
		"the connection ends at STARTTLS":     {w.good("mx1.a.example").says("STARTTLS", closeIt), "4.7.5 tls-failed"},
		"the handshake is aborted":            {cert(nil), "4.7.5 tls-failed"},
		"text follows the reply to STARTTLS":  {w.good("mx1.a.example").says("STARTTLS", "220 go\r\n250-mx1.a.example\r\n250 PIPELINING"), "4.7.5 tls-failed"},
		"garbage follows STARTTLS":            {w.good("mx1.a.example").says("STARTTLS", "hello there"), "4.7.5 tls-failed"},
		"the certificate is for another name": {cert(w.ca.issue(w.t, "mx.other.example", "a.example")), "4.7.5 certificate-host-mismatch"},
		"the certificate has expired":         {cert(expired), "4.7.5 certificate-expired"},
		"the certificate is self-signed":      {cert(newCA(w.t).issue(w.t, "mx1.a.example")), "4.7.5 certificate-not-trusted"},
		"the certificate has no SAN":          {cert(w.ca.make(w.t, &x509.Certificate{})), "4.7.5 certificate-host-mismatch"},
	}
}

func TestEnforce(t *testing.T) {
	names := brokenMXs(newWorld(t))
	for name := range names {
		t.Run("STS-5-01 no MAIL when "+name, func(t *testing.T) {
			w := newWorld(t)
			broken := brokenMXs(w)[name]
			w.policy("a.example", stscache.Enforce, "*.a.example")
			m := w.host("a.example", 10, broken.mx, "127.1.0.1")
			out, err := w.deliver(w.running(), "a.example", job("1", content, "u@a.example"), job("2", content, "u@a.example"))
			if got := verdict(out["1"].Outcomes[0]); got != broken.want || err == nil || len(out) != 1 {
				t.Errorf("got %s, %v, %d jobs done", got, err, len(out))
			}
			for _, v := range m.look().verbs() {
				if strings.HasSuffix(v, " MAIL") || strings.HasSuffix(v, " RCPT") || strings.HasSuffix(v, " DATA") {
					t.Errorf("transcript %q", m.look().lines)
					break
				}
			}
			if n := m.look().conns; n != 1 {
				t.Errorf("%d connections: a retry of some kind", n)
			}
			s := out["1"].Sessions
			if len(s) != 1 || len(s[0].Policies) != 1 || len(s[0].Policies[0].Failures) == 0 || s[0].MX != "mx1.a.example" {
				t.Errorf("sessions %+v", s)
			}
		})
		t.Run("STS-5.1-02 the next host has the mail when "+name, func(t *testing.T) {
			w := newWorld(t)
			w.policy("a.example", stscache.Enforce, "*.a.example")
			w.host("a.example", 10, brokenMXs(w)[name].mx, "127.1.0.1")
			w.host("a.example", 20, w.good("mx2.a.example"), "127.1.0.2")
			out, err := w.deliver(w.client(), "a.example", job("1", content, "u@a.example"))
			if o := out["1"].Outcomes[0]; o.Err != nil || o.MX.String() != "mx2.a.example" || o.TLS != "Verified TLSv1.3" || err != nil {
				t.Errorf("%+v, %v", o, err)
			}
			if len(out["1"].Sessions) != 2 {
				t.Errorf("sessions %+v", out["1"].Sessions)
			}
		})
		t.Run("STS-5-02 in testing mail is delivered although "+name, func(t *testing.T) {
			w := newWorld(t)
			w.policy("a.example", stscache.Testing, "*.a.example")
			m := w.host("a.example", 10, brokenMXs(w)[name].mx, "127.1.0.1")
			out, err := w.deliver(w.client(), "a.example", job("1", content, "u@a.example"))
			if o := out["1"].Outcomes[0]; o.Err != nil || err != nil || len(m.look().messages) != 1 {
				t.Errorf("%+v, %v, transcript %q", o, err, m.look().lines)
			}
			if s := out["1"].Sessions; len(s) != 1 || len(s[0].Policies[0].Failures) == 0 {
				t.Errorf("sessions %+v", s)
			}
		})
	}
	t.Run("STLS-4.1-01 QUIT follows a certificate that does not do", func(t *testing.T) {
		w := newWorld(t)
		w.policy("a.example", stscache.Enforce, "*.a.example")
		m := w.host("a.example", 10, brokenMXs(w)["the certificate has expired"].mx, "127.1.0.1")
		w.deliver(w.client(), "a.example", job("1", content, "u@a.example"))
		if got := m.look().verbs(); !slices.Equal(got, []string{"1 EHLO", "1 STARTTLS", "1T EHLO", "1T QUIT"}) {
			t.Errorf("transcript %q", got)
		}
	})
	t.Run("RPT-4.3-13 a host the policy does not name is a session without connection", func(t *testing.T) {
		w := newWorld(t)
		w.policy("a.example", stscache.Enforce, "mx2.a.example")
		m := w.host("a.example", 10, w.good("mx1.a.example"), "127.1.0.1")
		w.host("a.example", 20, w.good("mx2.a.example"), "127.1.0.2")
		out, _ := w.deliver(w.client(), "a.example", job("1", content, "u@a.example"), job("2", content, "u@a.example"))
		s := append(out["1"].Sessions, out["2"].Sessions...)
		if len(s) != 2 || s[0].MX != "mx1.a.example" || s[0].Receiver.IsValid() || s[1].MX != "mx2.a.example" || m.look().conns != 0 {
			t.Errorf("sessions %+v", s)
		}
	})
	t.Run("RPT-4.3-14 a refused connection is no session", func(t *testing.T) {
		w := newWorld(t)
		w.policy("a.example", stscache.Enforce, "mx.a.example")
		w.dead("a.example", 10, "mx.a.example", "127.1.0.9")
		out, err := w.deliver(w.client(), "a.example", job("1", content, "u@a.example"))
		if got := verdict(out["1"].Outcomes[0]); got != "4.4.1 connect-failed" || err == nil || len(out["1"].Sessions) != 0 {
			t.Errorf("%s, %v, sessions %+v", got, err, out["1"].Sessions)
		}
	})
	t.Run("RPT-4.2-03 two hundred messages to a domain that enforces share few connections, each a session", func(t *testing.T) {
		w := newWorld(t)
		w.policy("a.example", stscache.Enforce, "mx.a.example")
		m := w.host("a.example", 10, w.good("mx.a.example"), "127.1.0.1")
		c := w.running()
		s := source(t)
		for i := range 200 {
			s.jobs = append(s.jobs, job(string(rune('A'+i)), content, "u@a.example"))
		}
		lanes := make(chan error)
		for range 3 {
			go func() { lanes <- c.Deliver(context.Background(), to("a.example"), s) }()
		}
		for range 3 {
			if err := <-lanes; err != nil {
				t.Error(err)
			}
		}
		s.check()
		sessions := 0
		for id, a := range s.out {
			if verdict(a.Outcomes[0]) != "ok" {
				t.Errorf("%s: %v", id, verdicts(a))
			}
			sessions += len(a.Sessions)
		}
		if got := m.look(); len(got.messages) != 200 || got.conns > 3 || sessions != got.conns {
			t.Errorf("%d messages, %d connections, %d sessions", len(got.messages), got.conns, sessions)
		}
	})
}
