package delivery

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

func TestContent(t *testing.T) {
	t.Run("what cannot be opened disturbs no other message", func(t *testing.T) {
		m := plainMX("mx.a.example", full...)
		w := one(t, m)
		bad := job("1", content, "u@a.example")
		bad.Open = func() (io.ReadCloser, error) { return nil, errors.New("disk gone") }
		worse := bad
		worse.ID = "3"
		out, err := w.deliver(w.client(), "a.example", bad, job("2", content, "u@a.example"), worse, job("4", content, "u@a.example"))
		for id, want := range map[string]string{"1": "4.3.0 local-error", "2": "ok", "3": "4.3.0 local-error", "4": "ok"} {
			if got := verdict(out[id].Outcomes[0]); got != want {
				t.Errorf("%s: %s", id, got)
			}
		}
		if err != nil || m.look().conns != 1 {
			t.Errorf("%v, %d connections", err, m.look().conns)
		}
	})
	t.Run("what cannot be read to its end does not end on the wire", func(t *testing.T) {
		m := plainMX("mx.a.example", full...)
		w := one(t, m)
		bad := job("1", content, "u@a.example")
		bad.Open = func() (io.ReadCloser, error) {
			return io.NopCloser(io.MultiReader(strings.NewReader(content), iotest.ErrReader(errors.New("disk gone")))), nil
		}
		out, err := w.deliver(w.running(), "a.example", bad, job("2", content, "u@a.example"))
		if got := verdict(out["1"].Outcomes[0]); got != "4.3.0 local-error" || err != nil || slices.Contains(m.look().lines, "1 .") {
			t.Errorf("%s, %v, transcript %q", got, err, m.look().lines)
		}
		if got := verdict(out["2"].Outcomes[0]); got != "ok" || len(m.look().messages) != 1 {
			t.Errorf("the other: %s", got)
		}
	})
	t.Run("a reply in place of the rest of a long content is heard", func(t *testing.T) {
		m := plainMX("mx.a.example", "PIPELINING")
		m.answer = func(c *fakeConn, line string) string {
			if line == "DATA" {
				c.write("354 go")
				io.CopyN(io.Discard, c.r, 100_000)
				c.write("552 5.3.4 too big after all")
				return closeIt
			}
			return ""
		}
		w := one(t, m)
		text := strings.Repeat(strings.Repeat("x", 998)+"\r\n", 20_000)
		out, _ := w.deliver(w.client(), "a.example", job("1", text, "u@a.example"))
		if o := out["1"].Outcomes[0]; o.Err == nil || o.MayDup || verdict(o) != "5.3.4 remote-reply" && verdict(o) != "4.4.2 connection-lost" {
			t.Errorf("%+v", o)
		}
	})
	t.Run("SMTP-2.4-04 megabytes arrive octet for octet", func(t *testing.T) {
		m := plainMX("mx.a.example", full...)
		w := one(t, m)
		text := strings.Repeat(".abc\r\n..\r\n"+strings.Repeat("y", 77)+"\r\n", 30_000)
		out, _ := w.deliver(w.client(), "a.example", job("1", text, "u@a.example"))
		if got := m.look(); verdict(out["1"].Outcomes[0]) != "ok" || got.messages[0].data != text {
			t.Errorf("%q", verdicts(out["1"]))
		}
	})
}

func TestUnknownOutcome(t *testing.T) {
	for _, keywords := range [][]string{full, lockstep} {
		t.Run(fmt.Sprintf("SMTP-4.5.3.2-05 a connection lost after the final dot may have delivered, %q", keywords), func(t *testing.T) {
			m := plainMX("mx1.a.example", keywords...)
			m.answer = func(c *fakeConn, line string) string {
				if line == "." && c.n == 1 {
					return closeIt
				}
				return ""
			}
			w := one(t, m)
			m2 := w.host("a.example", 20, plainMX("mx2.a.example", full...), "127.1.0.2")
			out, err := w.deliver(w.client(), "a.example", job("1", content, "u@a.example"), job("2", content, "u@a.example"))
			if o := out["1"].Outcomes[0]; !o.MayDup || verdict(o) != "4.4.2 connection-lost" || len(m2.look().messages) != 0 {
				t.Errorf("%+v", o)
			}
			if o := out["2"].Outcomes[0]; o.Err != nil || o.MayDup || err != nil {
				t.Errorf("the next message, whose envelope was on the way: %+v, %v", o, err)
			}
		})
	}
	t.Run("SMTP-4.1.1.10-02 what comes of QUIT changes nothing", func(t *testing.T) {
		for _, after := range []string{closeIt, "500 never", "xx"} {
			w := one(t, plainMX("mx.a.example", full...).says("QUIT", after))
			out, err := w.deliver(w.client(), "a.example", job("1", content, "u@a.example"))
			if verdict(out["1"].Outcomes[0]) != "ok" || err != nil {
				t.Error(after, verdicts(out["1"]), err)
			}
		}
	})
}
