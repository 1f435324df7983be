package lab

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

func FuzzPath(f *testing.F) {
	for _, s := range []string{"MAIL FROM:<>", "RCPT TO:<a@b> NOTIFY=NEVER", `MAIL FROM:<"a>\"b"@c> SIZE=1 X`, "RCPT TO:a", "MAIL FROM:<a", "MAIL"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		p := path(line)
		if p == nil {
			if params(line) != nil {
				t.Errorf("%q has parameters and no path", line)
			}
			return
		}
		if !strings.Contains(line, "<"+*p+">") {
			t.Errorf("%q has not the path %q", line, *p)
		}
		for name, value := range params(line) {
			if name != strings.ToUpper(name) || strings.ContainsAny(name+value, " \t\r\n") {
				t.Errorf("%q has the parameter %q=%q", line, name, value)
			}
		}
	})
}

// FuzzMX has an MX host hear anything at all. It must come to an end, and take
// no message that it does not show.
func FuzzMX(f *testing.F) {
	w, err := Start(Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(w.Close)
	mx := w.AddMX(MX{Name: "mx.example.test", Users: map[string]string{"u": "p"}})
	for _, s := range []string{
		"EHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\nx\r\n..\r\n.\r\nQUIT\r\n",
		"HELO a\nMAIL FROM:<a@b> SIZE=x\r\nDATA\r\n.\r\n",
		"EHLO a\r\nSTARTTLS\r\n\x16\x03\x01\x00\x05hello",
		"EHLO a\r\nAUTH LOGIN\r\n\r\n\r\nAUTH PLAIN x\r\nAUTH\r\n",
		"\r\n\n\r \x00",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, said []byte) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		conn, err := w.Dialer().DialContext(ctx, "tcp", net.JoinHostPort(mx.Addr(), "25"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		conn.Write(said) // the host may hang up first
		conn.(*led).CloseWrite()
		got, err := io.ReadAll(conn)
		if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
			t.Fatalf("after %q nothing ends", got)
		}
		conn.Close()
		if err := mx.WaitIdle(ctx); err != nil {
			t.Fatal(err)
		}
		if strings.Count(string(got), "\r\n250 2.0.0 taken") > mx.Count() {
			t.Errorf("%q took more than it shows", got)
		}
	})
}
