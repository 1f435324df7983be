package delivery

import (
	"context"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/internal/resolver"
)

// A scriptedDialer is a server that says what it was going to say, whatever it
// hears, and hangs up.
type scriptedDialer struct{ script []byte }

func (d scriptedDialer) DialContext(context.Context, string, string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	heard := make(chan bool)
	go func() {
		io.Copy(io.Discard, theirs)
		close(heard)
	}()
	go func() {
		theirs.Write(d.script)
		theirs.SetReadDeadline(time.Now().Add(2 * time.Millisecond)) // what is said meanwhile is lost
		<-heard
		theirs.Close()
	}()
	return ours, nil
}

// FuzzConversation has servers say anything at all to three messages. Whatever
// it is, each has its outcomes once, classes agree, and no connection is left.
func FuzzConversation(f *testing.F) {
	for _, s := range []string{
		"",
		"220 mx\r\n250-mx\r\n250 PIPELINING\r\n250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n250 queued\r\n250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n250 queued\r\n",
		"220 mx\r\n250-mx\r\n250-SIZE 9\r\n250-LIMITS RCPTMAX=1 MAILMAX=1\r\n250 STARTTLS\r\n454 no\r\n250 ok\r\n250 ok\r\n354 go\r\n250 ok\r\n",
		"220 mx\r\n500 what\r\n250 mx\r\n250 ok\r\n550 5.1.1 no\r\n452 too many\r\n354 go\r\n554 no\r\n250 ok\r\n",
		"220 mx\r\n250 mx\r\n550 no\r\n421 bye\r\n",
		"220 mx\r\n250-mx\r\n250 PIPELINING\r\n250 ok\r\n550 5.7.1 no\r\n550 5.7.1 no\r\n354 go\r\n250 hm\r\n250 ok\r\n250 ok\r\n452 full\r\n354 go\r\n",
		"220 mx\r\n250-mx\r\n250 STARTTLS\r\n220 go\r\n\x16\x03\x01",
		"421 no\r\n", "554 no\r\n", "521 never\r\n", "220-\r\n", "999 x\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		w := newBareWorld(t)
		w.mx["a.example"] = []resolver.MX{{Preference: 1, Host: addr.MustHost("mx1.a.example"), Name: "mx1.a.example"}, {Preference: 2, Host: addr.MustHost("mx2.a.example"), Name: "mx2.a.example"}}
		w.ips["mx1.a.example"] = addrs("fd00::1", "127.1.0.1")
		w.ips["mx2.a.example"] = []netip.Addr{netip.MustParseAddr("127.1.0.2")}
		w.options.Dialer = scriptedDialer{script}
		d := 20 * time.Millisecond
		w.options.Timeouts = Timeouts{d, d, d, d, d, d, d, d, d, d, d}
		c := w.running()
		s := source(t, job("1", content, rcpts(2)...), job("2", content, rcpts(2)...), job("3", content, rcpts(1)...))
		c.Deliver(context.Background(), to("a.example"), s)
		s.check()
		for id, a := range s.out {
			for i, o := range a.Outcomes {
				if e := o.Err; e != nil && (e.Code < 400 || e.Code > 599 || e.Code/100 != e.Enhanced[0] || e.Permanent != (e.Code >= 500) || e.Text == "" && !e.Remote) {
					t.Errorf("%s, recipient %d: %+v", id, i, e)
				}
			}
		}
	})
}
