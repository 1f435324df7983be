package relay

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/emersion/go-smtp"
	"github.com/rs/zerolog"
)

// A scan in pieces of any size sees the end where it is, and the same line ends.
func TestContentScan(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		n        int // octets of content, its end included; -1: no end
		bare     bool
	}{
		{"an empty content", ".\r\nNOOP\r\n", 3, false},
		{"SMUG-01 CRLF dot CRLF", "a\r\n.\r\nNOOP\r\n", 6, false},
		{"a stuffed dot", "..\r\n.a\r\n.\r\n", 11, false},
		{"a dot in a line", "a.\r\n.\r\n", 7, false},
		{"SMUG-01 LF dot LF", "a\n.\nb", -1, true},
		{"SMUG-01 LF dot CRLF", "a\n.\r\nb", -1, true},
		{"SMUG-01 CRLF dot LF", "a\r\n.\nb", -1, true},
		{"SMUG-01 CR dot CR", "a\r.\rb", -1, true},
		{"SMUG-01 CRLF dot CR", "a\r\n.\rb", -1, true},
		{"SMUG-01 CR dot CRLF", "a\r.\r\nb", -1, true},
		{"SMUG-01 CRLF NUL dot CRLF", "a\r\n\x00.\r\nb", -1, false},
		{"CRLF dot CR CRLF is no end", "a\r\n.\r\r\nb", -1, true},
		{"two CRs before a LF end no line", "a\r\r\n.\r\nb", -1, true},
		{"three CRs before a LF do, for go-smtp", "a\r\r\r\n.\r\nb", 8, true},
		{"a CR that is the last octet so far is not bare yet", "a\r", -1, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for size := 1; size <= len(tt.in); size++ {
				s, n := scanInPieces(tt.in, size)
				if want := tt.n; s.open != (want < 0) || want >= 0 && n != want || s.bare != tt.bare {
					t.Errorf("in pieces of %d: %d octets, open %v, bare %v", size, n, s.open, s.bare)
				}
			}
		})
	}
}

func scanInPieces(in string, size int) (s contentScan, n int) {
	s.open = true
	for rest := in; rest != "" && s.open; {
		piece := rest[:min(size, len(rest))]
		took := s.scan([]byte(piece))
		n += took
		rest = rest[len(piece):]
	}
	return s, n
}

// The scan and go-smtp must agree on where content ends, whatever it is: what
// the one takes for content and the other for commands is smuggled mail.
func TestContentScanAgreesWithTheLibrary(t *testing.T) {
	const alphabet = "\r\n\r\n..a\x00"
	r := rand.New(rand.NewPCG(1, 2))
	ended := 0
	for range 20000 {
		in := make([]byte, 1+r.IntN(14))
		for i := range in {
			in[i] = alphabet[r.IntN(len(alphabet))]
		}
		s, n := scanInPieces(string(in), 1+r.IntN(5))
		if s.open {
			n = -1
		} else {
			ended++
		}
		if want := libraryEnd(t, in); n != want {
			t.Fatalf("%q ends at %d, for go-smtp at %d", in, n, want)
		}
	}
	if ended < 100 {
		t.Errorf("only %d contents had an end", ended)
	}
}

// libraryEnd is where go-smtp's server sees the end of content: -1 nowhere. What
// it reads after it are commands.
func libraryEnd(t *testing.T, content []byte) int {
	t.Helper()
	in := &meter{r: io.MultiReader(strings.NewReader("EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n"), bytes.NewReader(content))}
	end := -1
	srv := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) {
		return listening(func(r io.Reader) error {
			before := in.n
			_, err := io.Copy(io.Discard, r)
			if err == nil {
				end = in.n - before
			}
			return err
		}), nil
	}))
	srv.MaxLineLength = 0
	srv.ErrorLog = errorLog{zerolog.Nop(), ""}
	ln := &oneConn{conn: in, done: make(chan struct{})}
	in.closed = func() { ln.once.Do(func() { close(ln.done) }) }
	if err := srv.Serve(ln); !errors.Is(err, net.ErrClosed) {
		t.Fatal(err)
	}
	return end
}

type listening func(io.Reader) error

func (f listening) Mail(string, *smtp.MailOptions) error { return nil }
func (f listening) Rcpt(string, *smtp.RcptOptions) error { return nil }
func (f listening) Data(r io.Reader) error               { return f(r) }
func (f listening) Reset()                               {}
func (f listening) Logout() error                        { return nil }

// A meter is a connection that gives one octet at a time, and counts them, so
// that go-smtp has read no further than it has looked.
type meter struct {
	net.Conn
	r      io.Reader
	n      int
	closed func()
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.r.Read(p[:1])
	m.n += n
	return n, err
}

func (m *meter) Write(p []byte) (int, error) { return len(p), nil }
func (m *meter) RemoteAddr() net.Addr        { return tcp("127.0.0.1") }
func (m *meter) Close() error                { m.closed(); return nil }

type oneConn struct {
	conn net.Conn
	once sync.Once
	done chan struct{}
}

func (o *oneConn) Accept() (net.Conn, error) {
	if c := o.conn; c != nil {
		o.conn = nil
		return c, nil
	}
	<-o.done
	return nil, net.ErrClosed
}

func (o *oneConn) Close() error   { return nil }
func (o *oneConn) Addr() net.Addr { return tcp("127.0.0.1") }

// Whatever pieces commands come in, go-smtp is given whole lines, one at a time.
func TestShimGivesWholeLines(t *testing.T) {
	client, server := net.Pipe()
	c := &shim{Conn: server, raw: server, o: shimOptions{idle: time.Minute, refused: func(*shim, string) {}}}
	go func() {
		for _, piece := range []string{"NO", "OP\r", "\nMAIL FROM:<a@b.example>\r\nRC", "PT\r\n"} {
			if _, err := io.WriteString(client, piece); err != nil {
				t.Error(err)
			}
		}
		client.Close()
	}()
	var got []string
	for p := make([]byte, 4096); ; {
		n, err := c.Read(p)
		if err != nil {
			break
		}
		got = append(got, string(p[:n]))
	}
	if want := "NOOP\r\n|MAIL FROM:<a@b.example>\r\n|RCPT\r\n"; strings.Join(got, "|") != want {
		t.Errorf("%q", got)
	}
}

// A client that takes no replies is left: replies that were lost would have it
// count wrongly (RFC 2920, Section 3.1).
func TestShimLeavesAClientThatLostReplies(t *testing.T) {
	c := &shim{Conn: deaf{}, raw: deaf{}, o: shimOptions{idle: time.Minute, refused: func(*shim, string) {}}, begun: true}
	if _, err := c.Read(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	for range writeBuffer/16 + 1 {
		_, _ = io.WriteString(c, "250 2.0.0 fine\r\n") // go-smtp does not look either
	}
	c.out = nil
	if _, err := c.Read(make([]byte, 10)); !errors.Is(err, errDeaf) {
		t.Errorf("it is read on: %v", err)
	}
}

var errDeaf = errors.New("nobody listens")

// deaf speaks and does not listen.
type deaf struct{ net.Conn }

func (deaf) Read(p []byte) (int, error)       { return copy(p, "NOOP\r\n"), nil }
func (deaf) Write([]byte) (int, error)        { return 0, errDeaf }
func (deaf) SetReadDeadline(time.Time) error  { return nil }
func (deaf) SetWriteDeadline(time.Time) error { return nil }

// A handshake that would begin when the relay ends does not begin.
func TestShimBeginsNoHandshakeAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		defer client.Close()
		told := ""
		c := &shim{Conn: server, raw: server, o: shimOptions{tls: &tls.Config{}, refused: func(_ *shim, why string) { told = why }}}
		c.leave(time.Hour)
		began := time.Now()
		if err := c.handshake(); !errors.Is(err, net.ErrClosed) || told == "" {
			t.Errorf("%v, told %q", err, told)
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("after %s", took)
		}
	})
}
