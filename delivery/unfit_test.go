package delivery

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"stsrelay/internal/addr"
)

func TestUnfit(t *testing.T) {
	eight := "Subject: gr\u00fcn\r\n\r\n\u00fc\r\n"
	big := strings.Repeat("x", 998) + "\r\n"
	utf8 := job("1", content, "u@a.example")
	utf8.To[0].Address = addr.MustAddress("ü@a.example")
	header := job("1", eight, "u@a.example")
	header.UTF8 = true
	for name, tt := range map[string]struct {
		j       Job
		without []string
		want    string
		mail    string // what a host that can take it hears
	}{
		"SIZE-4-01 5.3.4 a message beyond the announced size":            {job("1", big, "u@a.example"), []string{"SIZE 999", "8BITMIME", "SMTPUTF8"}, "5.3.4 message-too-big", " SIZE=1000"},
		"8BIT-3-01 8BIT-3-02 SMTP-2.4-02 8-bit content without 8BITMIME": {job("1", eight, "u@a.example"), []string{"SIZE 1000"}, "5.6.3 8bitmime-unsupported", " BODY=8BITMIME"},
		"UTF8-3.2-02 UTF8-3.2-04 an address that needs SMTPUTF8":         {utf8, []string{"8BITMIME"}, "5.6.7 smtputf8-unsupported", " SMTPUTF8"},
		"UTF8-3.2-02 a header that was accepted with SMTPUTF8":           {header, []string{"8BITMIME"}, "5.6.7 smtputf8-unsupported", " SMTPUTF8"},
	} {
		t.Run(name, func(t *testing.T) {
			m := plainMX("mx.a.example", tt.without...)
			w := one(t, m)
			out, err := w.deliver(w.client(), "a.example", tt.j, job("2", content, "u@a.example"))
			if got := verdict(out["1"].Outcomes[0]); got != tt.want || !out["1"].Outcomes[0].Err.Permanent || err != nil {
				t.Errorf("got %s, %v", got, err)
			}
			if got := m.look(); len(got.messages) != 1 || verdict(out["2"].Outcomes[0]) != "ok" {
				t.Errorf("the other message: %q, transcript %q", verdicts(out["2"]), got.lines)
			}
		})
		t.Run("another host takes it: "+name, func(t *testing.T) {
			w := one(t, plainMX("mx1.a.example", tt.without...))
			m := w.host("a.example", 20, plainMX("mx2.a.example", full...), "127.1.0.2")
			out, _ := w.deliver(w.client(), "a.example", tt.j)
			if got := m.look(); verdict(out["1"].Outcomes[0]) != "ok" || !strings.Contains(got.messages[0].from, tt.mail) {
				t.Errorf("%q, transcript %q", verdicts(out["1"]), got.lines)
			}
		})
		t.Run("while another host is down it is temporary: "+name, func(t *testing.T) {
			w := one(t, plainMX("mx1.a.example", tt.without...))
			w.dead("a.example", 20, "mx2.a.example", "127.1.0.2")
			out, _ := w.deliver(w.client(), "a.example", tt.j)
			if o := out["1"].Outcomes[0]; o.Err == nil || o.Err.Permanent {
				t.Errorf("%q", verdicts(out["1"]))
			}
		})
	}
	t.Run("8BIT-3-05 8-bit content goes as 8BITMIME, SIZE-5-01 counts no stuffed dots", func(t *testing.T) {
		m := plainMX("mx.a.example", full...)
		w := one(t, m)
		text := ".\r\n\xff\r\n"
		j := job("1", text, "u@a.example")
		j.Body8 = true
		w.deliver(w.client(), "a.example", j)
		if got := m.look(); got.messages[0].data != text || got.messages[0].from != "<sender@sender.example> SIZE=6 BODY=8BITMIME" {
			t.Errorf("%+v", got.messages)
		}
	})
	for _, keywords := range [][]string{full, {"8BITMIME"}} {
		t.Run(fmt.Sprintf("UTF8-6532-01 a header in UTF-8 that came without SMTPUTF8 goes on, %d keywords", len(keywords)), func(t *testing.T) {
			m := plainMX("mx.a.example", keywords...)
			w := one(t, m)
			j := job("1", eight, "u@a.example")
			j.Head8 = true
			w.deliver(w.client(), "a.example", j)
			got := m.look()
			if len(got.messages) != 1 || got.messages[0].data != eight || strings.Contains(got.messages[0].from, " SMTPUTF8") != slices.Contains(keywords, "SMTPUTF8") {
				t.Errorf("%+v", got.messages)
			}
		})
	}
	t.Run("UTF8-3.2-03 an ASCII mailbox in an IDN domain goes as A-label", func(t *testing.T) {
		m := plainMX("mx.a.example")
		w := one(t, m)
		j := job("1", content, "u@bücher.example")
		j.UTF8 = true
		out, _ := w.deliver(w.client(), "a.example", j)
		if got := m.look(); verdict(out["1"].Outcomes[0]) != "ok" || got.messages[0].to[0] != "<u@xn--bcher-kva.example>" || got.messages[0].from != "<sender@sender.example>" {
			t.Errorf("UTF8-3.1-02 %+v", got.messages)
		}
	})
	t.Run("one address that needs SMTPUTF8 keeps nobody else from the mail", func(t *testing.T) {
		m := plainMX("mx.a.example", "8BITMIME")
		w := one(t, m)
		j := job("1", content, "u@a.example", "v@a.example")
		j.To = append(j.To, Recipient{Address: addr.MustAddress("ü@a.example")})
		out, _ := w.deliver(w.client(), "a.example", j)
		if got := verdicts(out["1"]); !slices.Equal(got, []string{"ok", "ok", "5.6.7 smtputf8-unsupported"}) {
			t.Errorf("%q", got)
		}
	})
	t.Run("SMTP-4.5.5-01 the null reverse-path stays null", func(t *testing.T) {
		m := plainMX("mx.a.example")
		w := one(t, m)
		j := job("1", content, "u@a.example")
		j.From = addr.Address{}
		w.deliver(w.client(), "a.example", j)
		if got := m.look(); len(got.messages) != 1 || got.messages[0].from != "<>" {
			t.Errorf("%+v", got.messages)
		}
	})
}
