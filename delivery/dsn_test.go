package delivery

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"stsrelay/internal/addr"
)

// dsnJob has every DSN parameter, each as no other software would spell it.
func dsnJob() Job {
	j := job("1", content, "u@a.example", "v@a.example", "w@a.example")
	j.EnvID, j.Ret = "QQ314159+2Bx", "HDRS"
	j.To[0].Notify, j.To[0].Original = "SUCCESS,DELAY", "rFC822;Dana+2BX+3D1@Ivory.EDU"
	j.To[1].Notify = "NEVER"
	return j
}

// said returns the lines of a transcript that begin with a verb, without
// the number of the connection.
func (s fakeSeen) said(verb string) []string {
	var out []string
	for _, l := range s.lines {
		if _, line, _ := strings.Cut(l, " "); strings.HasPrefix(line, verb) {
			out = append(out, line)
		}
	}
	return out
}

func TestDSNParameters(t *testing.T) {
	size := fmt.Sprintf(" SIZE=%d", len(content))
	for mode, keywords := range map[string][]string{"pipelined": {"PIPELINING", "SIZE"}, "lock-step": {"SIZE"}} {
		t.Run("DSN-5.2.1-01 DSN-5.2.1-02 a server that offers DSN is told what was given, and no more, "+mode, func(t *testing.T) {
			m := plainMX("mx.a.example", with(keywords, "DSN")...)
			w := one(t, m)
			out, err := w.deliver(w.client(), "a.example", dsnJob(), job("2", content, "x@a.example"))
			got := m.look()
			wantMail := []string{"MAIL FROM:<sender@sender.example>" + size + " RET=HDRS ENVID=QQ314159+2Bx", "MAIL FROM:<sender@sender.example>" + size}
			wantRcpt := []string{"RCPT TO:<u@a.example> NOTIFY=SUCCESS,DELAY ORCPT=rFC822;Dana+2BX+3D1@Ivory.EDU", "RCPT TO:<v@a.example> NOTIFY=NEVER", "RCPT TO:<w@a.example>", "RCPT TO:<x@a.example>"}
			if mail, rcpt := got.said("MAIL"), got.said("RCPT"); !slices.Equal(mail, wantMail) || !slices.Equal(rcpt, wantRcpt) || err != nil {
				t.Errorf("%v, %q, %q", err, mail, rcpt)
			}
			for _, o := range slices.Concat(out["1"].Outcomes, out["2"].Outcomes) {
				if o.Err != nil || !o.DSN {
					t.Errorf("%+v", o)
				}
			}
		})
		t.Run("DSN-5.2.2-01 SMTP-4.1.1.1-03 a server without DSN is told nothing of it, "+mode, func(t *testing.T) {
			m := plainMX("mx.a.example", keywords...)
			w := one(t, m)
			out, err := w.deliver(w.client(), "a.example", dsnJob())
			got := m.look()
			if mail, rcpt := got.said("MAIL"), got.said("RCPT"); err != nil || !slices.Equal(mail, []string{"MAIL FROM:<sender@sender.example>" + size}) ||
				!slices.Equal(rcpt, []string{"RCPT TO:<u@a.example>", "RCPT TO:<v@a.example>", "RCPT TO:<w@a.example>"}) {
				t.Errorf("DSN-5.2.2-05 %v, %q, %q", err, mail, rcpt)
			}
			for _, o := range out["1"].Outcomes {
				if o.Err != nil || o.DSN {
					t.Errorf("%+v", o)
				}
			}
		})
	}
	t.Run("SMTP-4.1.1.1-03 only what the latest EHLO offers is used", func(t *testing.T) {
		w := newWorld(t)
		m := w.good("mx.a.example")
		m.plain, m.secure = []string{"STARTTLS", "PIPELINING", "SIZE", "8BITMIME", "SMTPUTF8", "DSN"}, []string{"HELP"}
		w.host("a.example", 10, m, "127.1.0.1")
		out, _ := w.deliver(w.client(), "a.example", dsnJob())
		if got := m.look(); verdict(out["1"].Outcomes[0]) != "ok" || !slices.Equal(got.said("MAIL"), []string{"MAIL FROM:<sender@sender.example>"}) ||
			!slices.Equal(got.said("RCPT"), []string{"RCPT TO:<u@a.example>", "RCPT TO:<v@a.example>", "RCPT TO:<w@a.example>"}) {
			t.Errorf("%q, transcript %q", verdicts(out["1"]), got.lines)
		}
	})
	t.Run("SMTP-4.1.1.1-03 after HELO no parameter is used", func(t *testing.T) {
		m := plainMX("mx.a.example").says("EHLO", "502 5.5.1 what?", "HELO", "250-mx\r\n250-SIZE\r\n250 DSN")
		w := one(t, m)
		w.deliver(w.client(), "a.example", dsnJob())
		if got := m.look().said("MAIL"); !slices.Equal(got, []string{"MAIL FROM:<sender@sender.example>"}) {
			t.Errorf("%q", got)
		}
	})
	t.Run("who is refused by a server with DSN stays our business", func(t *testing.T) {
		w := one(t, plainMX("mx.a.example", "DSN", "PIPELINING").says("RCPT TO:<v@", "550 5.1.1 no"))
		out, _ := w.deliver(w.client(), "a.example", dsnJob())
		if o := out["1"].Outcomes; !o[0].DSN || o[1].DSN || o[1].Err == nil {
			t.Errorf("%+v", o)
		}
	})
}

func TestOriginalRecipient(t *testing.T) {
	for name, tt := range map[string]struct{ in, ascii, native string }{
		"DSN-5.2.1-01 xtext of another type is nobody's to read": {`rfc822;A+2Bb\x{E9}@X.example`, `rfc822;A+2Bb\x{E9}@X.example`, `rfc822;A+2Bb\x{E9}@X.example`},
		"DSN-5.2.1-01 no type":                          {"x", "x", "x"},
		"DSN8-3-02 DSN8-3-03 native":                    {"utf-8;José@ö.example", `utf-8;Jos\x{E9}@\x{F6}.example`, "utf-8;José@ö.example"},
		"DSN8-3-02 DSN8-3-03 embedded":                  {`UTF-8;Jos\x{E9}@\x{F6}.example`, `UTF-8;Jos\x{E9}@\x{F6}.example`, "UTF-8;José@ö.example"},
		"DSN8-3-02 DSN8-3-03 beyond the BMP":            {`utf-8;😀\x{1F600}@x`, `utf-8;\x{1F600}\x{1F600}@x`, `utf-8;😀😀@x`},
		"DSN8-3-02 ASCII that must be embedded stays":   {`utf-8;\x{5C}a\x{2B}b\x{3D}\x{20}\x{07}é@x`, `utf-8;\x{5C}a\x{2B}b\x{3D}\x{20}\x{07}\x{E9}@x`, `utf-8;\x{5C}a\x{2B}b\x{3D}\x{20}\x{07}é@x`},
		"DSN8-3-02 ASCII that is not embedded and must": {"utf-8;a\\+=b \x07\x7f@x", `utf-8;a\x{5C}\x{2B}\x{3D}b\x{20}\x{07}\x{7F}@x`, `utf-8;a\x{5C}\x{2B}\x{3D}b\x{20}\x{07}\x{7F}@x`},
		"DSN8-3-02 no code point":                       {`utf-8;\x{D800}\x{110000}\x{g}@x`, `utf-8;\x{5C}x{D800}\x{5C}x{110000}\x{5C}x{g}@x`, `utf-8;\x{5C}x{D800}\x{5C}x{110000}\x{5C}x{g}@x`},
	} {
		t.Run(name, func(t *testing.T) {
			if a, n := orcpt(tt.in, false), orcpt(tt.in, true); a != tt.ascii || n != tt.native {
				t.Errorf("got %s and %s", a, n)
			}
		})
	}
	mail := func(t *testing.T, keywords ...string) (from, to string) {
		m := plainMX("mx.a.example", keywords...)
		w := one(t, m)
		j := job("1", "Subject: é\r\n\r\n", "u@a.example")
		j.UTF8, j.Body8 = slices.Contains(keywords, "SMTPUTF8"), slices.Contains(keywords, "8BITMIME")
		j.To[0].Original = `utf-8;é\x{E9}@x`
		if !j.Body8 {
			j.Open = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(content)), nil }
		}
		out, _ := w.deliver(w.client(), "a.example", j)
		if verdict(out["1"].Outcomes[0]) != "ok" {
			t.Fatal(verdicts(out["1"]))
		}
		return m.look().said("MAIL")[0], m.look().said("RCPT")[0]
	}
	t.Run("DSN8-3-02 a server without SMTPUTF8 hears ASCII", func(t *testing.T) {
		if from, to := mail(t, "DSN"); from != "MAIL FROM:<sender@sender.example>" || to != `RCPT TO:<u@a.example> ORCPT=utf-8;\x{E9}\x{E9}@x` {
			t.Errorf("%q %q", from, to)
		}
	})
	t.Run("DSN8-3-03 in a transaction with SMTPUTF8 it is native", func(t *testing.T) {
		if from, to := mail(t, "DSN", "8BITMIME", "SMTPUTF8"); from != "MAIL FROM:<sender@sender.example> BODY=8BITMIME SMTPUTF8" || to != `RCPT TO:<u@a.example> ORCPT=utf-8;éé@x` {
			t.Errorf("%q %q", from, to)
		}
	})
	t.Run("UTF8-3.1-02 an ORCPT that has an ASCII form asks for no SMTPUTF8", func(t *testing.T) {
		m := plainMX("mx.a.example", "DSN", "8BITMIME", "SMTPUTF8")
		w := one(t, m)
		j := job("1", content, "u@a.example")
		j.UTF8, j.To[0].Original = true, "utf-8;é@x"
		w.deliver(w.client(), "a.example", j)
		if got := m.look().lines; !slices.Contains(got, "1 MAIL FROM:<sender@sender.example>") || !slices.Contains(got, `1 RCPT TO:<u@a.example> ORCPT=utf-8;\x{E9}@x`) {
			t.Errorf("%q", got)
		}
	})
	t.Run("each recipient has its own, in whatever transaction", func(t *testing.T) {
		m := plainMX("mx.a.example", "DSN", "PIPELINING", "LIMITS RCPTMAX=1")
		w := one(t, m)
		j := dsnJob()
		j.To[2] = Recipient{Address: addr.MustAddress("w@a.example"), Original: "rfc822;Z@z"}
		w.deliver(w.client(), "a.example", j)
		want := []string{"RCPT TO:<u@a.example> NOTIFY=SUCCESS,DELAY ORCPT=rFC822;Dana+2BX+3D1@Ivory.EDU", "RCPT TO:<v@a.example> NOTIFY=NEVER", "RCPT TO:<w@a.example> ORCPT=rfc822;Z@z"}
		if got := m.look().said("RCPT"); !slices.Equal(got, want) {
			t.Errorf("%q", got)
		}
	})
}

// FuzzORCPT: whatever was accepted, the ASCII form is ASCII without what
// would end the parameter, and both forms name the same.
func FuzzORCPT(f *testing.F) {
	for _, s := range []string{`utf-8;é@x`, `utf-8;\x{E9}`, `utf-8;\x{5C}x{E9}`, `utf-8;+\=`, `rfc822;x+2B`, `utf-8;\x{10FFFF}\x{0}\x{}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if kind, _, ok := strings.Cut(s, ";"); !ok || !strings.EqualFold(kind, "utf-8") {
			if orcpt(s, false) != s || orcpt(s, true) != s {
				t.Errorf("%q was changed", s)
			}
			return
		}
		ascii, native := orcpt(s, false), orcpt(s, true)
		if i := strings.IndexFunc(ascii, func(r rune) bool { return r <= ' ' || r > '~' || r == '+' || r == '=' }); i >= 0 {
			t.Errorf("%q is not fit for ORCPT", ascii)
		}
		if orcpt(ascii, true) != native || orcpt(native, false) != ascii {
			t.Errorf("%q and %q differ", ascii, native)
		}
	})
}
