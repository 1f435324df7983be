package delivery

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestTimeouts(t *testing.T) {
	short := 30 * time.Millisecond
	for at, set := range map[string]func(*Timeouts){
		"EHLO": func(o *Timeouts) { o.Hello = short },
		"MAIL": func(o *Timeouts) { o.Mail = short },
		"RCPT": func(o *Timeouts) { o.Rcpt = short },
		"DATA": func(o *Timeouts) { o.Data = short },
		".":    func(o *Timeouts) { o.Final = short },
	} {
		t.Run("SMTP-4.5.3.2-01 each phase has its own time: "+at, func(t *testing.T) {
			release := make(chan bool)
			defer close(release)
			m := plainMX("mx.a.example", full...)
			m.answer = func(c *fakeConn, line string) string {
				if strings.HasPrefix(line, at) {
					<-release
				}
				return ""
			}
			w := one(t, m)
			set(&w.options.Timeouts)
			out, _ := w.deliver(w.client(), "a.example", job("1", content, "u@a.example"))
			if o := out["1"].Outcomes[0]; verdict(o) != "4.4.2 timeout" || o.MayDup != (at == ".") {
				t.Errorf("%+v", o)
			}
		})
	}
	t.Run("SMTP-4.5.3.2-01 TLS has its own time", func(t *testing.T) {
		release := make(chan bool)
		w := newWorld(t)
		w.options.Timeouts.TLS = short
		m := w.good("mx.a.example")
		m.answer = func(c *fakeConn, line string) string {
			if line == "STARTTLS" && c.n == 1 {
				c.write("220 go")
				<-release
				return closeIt
			}
			return ""
		}
		w.host("a.example", 10, m, "127.1.0.1")
		out, _ := w.deliver(w.client(), "a.example", job("1", content, "u@a.example"))
		close(release)
		if o := out["1"].Outcomes[0]; o.Err != nil || o.TLS != "" {
			t.Errorf("%+v", o)
		}
	})
	t.Run("SMTP-4.5.3.2-01 each block of content has its own time", func(t *testing.T) {
		release := make(chan bool)
		defer close(release)
		m := plainMX("mx.a.example", "PIPELINING")
		m.answer = func(c *fakeConn, line string) string {
			if line == "DATA" {
				c.write("354 go")
				<-release
				return closeIt
			}
			return ""
		}
		w := one(t, m)
		w.options.Timeouts.Block = short
		text := strings.Repeat("x\r\n", 10<<20)
		out, _ := w.deliver(w.client(), "a.example", job("1", text, "u@a.example"))
		if o := out["1"].Outcomes[0]; verdict(o) != "4.4.2 timeout" || o.MayDup {
			t.Errorf("%+v", o)
		}
	})
	t.Run("SMTP-4.5.3.2-02 SMTP-4.5.3.2-04 the defaults are those of the RFC or longer", func(t *testing.T) {
		want := Timeouts{Connect: 30 * time.Second, Greeting: 5 * time.Minute, Hello: 5 * time.Minute, TLS: 2 * time.Minute, Mail: 5 * time.Minute,
			Rcpt: 5 * time.Minute, Data: 2 * time.Minute, Block: 3 * time.Minute, Final: 10 * time.Minute, Quit: 10 * time.Second, Idle: 10 * time.Second}
		if got := newWorld(t).client().options.Timeouts; got != want {
			t.Errorf("%+v", got)
		}
	})
	for _, at := range []string{"CONNECT", "EHLO", "MAIL", "RCPT", "DATA", "."} {
		t.Run("the end of ctx ends an attempt at "+at+", and every job is given back", func(t *testing.T) {
			ctx, cancel := context.WithCancel(context.Background())
			release := make(chan bool)
			defer close(release)
			m := plainMX("mx.a.example", full...)
			m.answer = func(c *fakeConn, line string) string {
				if strings.HasPrefix(line, at) {
					cancel()
					<-release
				}
				return ""
			}
			w := one(t, m)
			s := source(t, job("1", content, "u@a.example"), job("2", content, "u@a.example"), job("3", content, "u@a.example"))
			err := w.client().Deliver(ctx, to("a.example"), s)
			s.check()
			if o := s.out["1"].Outcomes[0]; !errors.Is(err, context.Canceled) || verdict(o) != "4.3.0 local-error" || o.MayDup != (at == ".") || len(s.out) > 2 {
				t.Errorf("%v, %+v, %d done", err, o, len(s.out))
			}
		})
	}
}
