package relay_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/mail"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"stsrelay/internal/boltstore"
	"stsrelay/relay"

	"github.com/rs/zerolog"
)

// Whatever a client says, in pieces of whatever size: nothing panics; and a
// reader of its own, which pairs commands with replies and knows one end of
// content, finds for each message that was stored one that the client sent, with
// its sender, its recipients and its content, in this order and no other.
func FuzzListener(f *testing.F) {
	const envelope = "EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n"
	for _, s := range []string{
		envelope + "Subject: x\r\n\r\nHello\r\n.\r\nQUIT\r\n",
		envelope + "Hello\n.\r\nMAIL FROM:<e@b.example>\r\nRCPT TO:<f@d.example>\r\nDATA\r\nx\r\n.\r\n",
		envelope + "one\r\n.\r\nMAIL FROM:<e@b.example>\r\nRCPT TO:<f@d.example>\r\nDATA\r\n..two\r\n.\r\nNOOP\r\n",
		envelope + "one\r\n.\r\nMAIL FROM:<e@b.example>\r\nRCPT TO:<f@d.example>\r\nBDAT 5 LAST\r\nh\nllo",
		envelope + ".\rx\r\r\n.\r\n.\r\n",
		"EHLO x\r\nMAIL FROM:<a@b.example>\r\nBDAT 5 LAST\r\nhello",
		"HELO x\r\nMAIL FROM:<>\r\nRCPT TO:<\"x> y\"@d.example>\r\nRSET\r\nNOOP\r\n",
		"HELO x\r\nMAIL FROM:<>\r\nRCPT TO:<\"x\\\" y\"@d.example>\r\nRCPT TO:<c@[192.0.2.1]>\r\nDATA\r\n.\r\n",
		"EHLO x\r\nMAIL FROM:<a@b.example>\r\nMAIL FROM:<b@b.example>\r\nRCPT TO:<@x:c@d.example>\r\nDATA\r\n.\r\n",
		"EHLO x\r\nMAIL FROM:<ü@b.example> SMTPUTF8 RET=HDRS ENVID=a+2Bb BODY=8BITMIME SIZE=9\r\nRCPT TO:<c@ü.example> NOTIFY=DELAY ORCPT=utf-8;ü\\x{20}@d.example\r\nRCPT TO:<\"x> NOTIFY=NEVER\"@d.example> notify=Success\r\nDATA\r\nTLS-Required: No\r\n\r\n.\r\n",
		"EHLO x\r\nMAIL FROM:<a@b.example>RET=FULL\r\nMAIL FROM:a@b.example ret=full ENVID=1 RET=FULL\r\nMAIL FROM:a@b.example ret=full\r\nRCPT TO:<Postmaster> ORCPT=x400;a+3D\r\nRCPT TO:<c@d.example>\r\nDATA\r\n.\r\n",
		"STARTTLS\r\nAUTH PLAIN\r\nVRFY x\r\n\x00\r\n",
	} {
		for _, size := range []uint16{0, 1, 7} {
			f.Add([]byte(s), size, false)
			f.Add([]byte(s), size, true)
		}
	}
	bolt, err := boltstore.Open(f.TempDir(), boltstore.Options{NoSync: true, FreeSpace: -1, Log: zerolog.Nop()})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { bolt.Close() })
	f.Fuzz(func(t *testing.T, sent []byte, size uint16, normalize bool) {
		if len(sent) > 64<<10 {
			return
		}
		store := &watchedStore{Store: bolt}
		replies := converse(t, store, &script{pieces: inScriptPieces(sent, int(size)), closed: make(chan struct{})}, normalize)
		w := &witness{t: t, sent: sent, replies: replies, stored: store.taken, normalize: normalize}
		w.walk()
		if !t.Failed() && !w.unsure && len(w.stored) > 0 {
			t.Errorf("a message that nobody sent is stored: %+v", w.stored[0])
		}
		if t.Failed() {
			t.Logf("the client said %q", sent)
			t.Logf("the replies are %q", replies)
		}
	})
}

// converse has a Listener talk to one scripted client, and returns its replies.
func converse(t *testing.T, store relay.Store, c *script, normalize bool) []string {
	t.Helper()
	ln := newPipes()
	l := relay.NewListener(relay.ListenerOptions{Name: "fuzz", Hostname: "relay.example.com", Normalize: normalize, Store: store,
		AllowFrom: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Log: zerolog.Nop()})
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- l.Serve(ctx, ln) }()
	ln.conns <- c
	<-c.closed
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if strings.Contains(c.out.String(), "Internal server error") {
		t.Fatalf("a panic: %q", c.out.String())
	}
	var replies []string
	reply := ""
	for line := range strings.SplitAfterSeq(c.out.String(), "\r\n") {
		if reply += line; len(line) > 3 && line[3] == ' ' {
			replies = append(replies, reply)
			reply = ""
		}
	}
	return replies
}

// A script is a client's connection. What it sends does not depend on replies,
// except that it waits for the one to DATA: a piece ends there.
type script struct {
	net.Conn
	pieces [][]byte
	out    bytes.Buffer
	gone   bool
	closed chan struct{}
}

func inScriptPieces(sent []byte, size int) (pieces [][]byte) {
	for line := range bytes.SplitAfterSeq(sent, []byte("\n")) {
		atData := bytes.EqualFold(bytes.TrimSpace(line), []byte("DATA"))
		if n := len(pieces); n > 0 && size == 0 && !bytes.EqualFold(bytes.TrimSpace(pieces[n-1]), []byte("DATA")) && !atData && len(pieces[n-1])+len(line) < 8<<10 {
			pieces[n-1] = append(bytes.Clone(pieces[n-1]), line...)
			continue
		}
		for size > 0 && len(line) > size {
			pieces, line = append(pieces, line[:size]), line[size:]
		}
		if len(line) > 0 {
			pieces = append(pieces, line)
		}
	}
	return pieces
}

func (s *script) Read(p []byte) (int, error) {
	if s.gone {
		return 0, net.ErrClosed
	}
	if len(s.pieces) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.pieces[0])
	if s.pieces[0] = s.pieces[0][n:]; len(s.pieces[0]) == 0 {
		s.pieces = s.pieces[1:]
	}
	return n, nil
}

func (s *script) Write(p []byte) (int, error) {
	if s.gone {
		return 0, net.ErrClosed
	}
	return s.out.Write(p)
}

func (s *script) Close() error {
	if !s.gone {
		s.gone = true
		close(s.closed)
	}
	return nil
}

func (s *script) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 4711} }
func (s *script) SetDeadline(time.Time) error      { return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }

// A witness reads a conversation in the simplest way there is.
type witness struct {
	t         *testing.T
	sent      []byte
	replies   []string
	stored    []taken
	normalize bool
	unsure    bool // from here on go-smtp may read another way (S10: two CRs before a LF)

	mail string
	to   []string
}

func (w *witness) walk() {
	if len(w.replies) == 0 || !strings.HasPrefix(w.replies[0], "220 ") {
		w.t.Fatalf("no greeting: %q", w.replies)
	}
	w.replies = w.replies[1:]
	for {
		end := bytes.IndexByte(w.sent, '\n')
		if end < 0 || len(w.replies) == 0 {
			return
		}
		line := string(w.sent[:end+1])
		w.sent = w.sent[end+1:]
		reply := w.replies[0]
		w.replies = w.replies[1:]
		if strings.HasPrefix(reply, "421") || strings.HasPrefix(reply, "221") || strings.HasPrefix(reply, "500 5.5.2 a command line has") || strings.HasPrefix(reply, "502 5.5.1 BDAT") {
			if len(w.replies) > 0 {
				w.t.Errorf("it goes on after %q", reply)
			}
			return
		}
		verb := strings.ToUpper(line[:min(4, len(line))])
		switch ok := reply[0] == '2'; {
		case strings.HasPrefix(reply, "354"):
			if verb != "DATA" || w.mail == "" || len(w.to) == 0 {
				w.t.Errorf("354 to %q", line)
			}
			if !w.content() {
				return
			}
		case ok && verb == "MAIL":
			if w.mail != "" {
				w.t.Errorf("a second MAIL is taken: %q", line)
			}
			w.mail, w.to = line, nil
		case ok && verb == "RCPT":
			w.to = append(w.to, line)
		case ok && (verb == "RSET" || verb == "EHLO" || verb == "HELO"):
			w.mail, w.to = "", nil
		}
	}
}

// content takes content and the reply to it, and reports whether the end of it
// is there and known.
func (w *witness) content() bool {
	n := bytes.Index(append([]byte("\r\n"), w.sent...), []byte("\r\n.\r\n"))
	if n < 0 {
		return false
	}
	content := w.sent[:n] // with the CRLF before the dot
	if bytes.Contains(w.sent[:n+1], []byte("\r\r")) {
		w.unsure = true
		return false
	}
	w.sent = w.sent[n+3:]
	if len(w.replies) == 0 {
		w.t.Errorf("no reply to content")
		return false
	}
	reply := w.replies[0]
	w.replies = w.replies[1:]
	if id, ok := strings.CutPrefix(reply, "250 2.0.0 queued as "); ok {
		w.compare(strings.TrimSpace(id), string(content))
	}
	w.mail, w.to = "", nil
	return !strings.HasPrefix(reply, "421")
}

func (w *witness) compare(id, content string) {
	if len(w.stored) == 0 {
		w.t.Errorf("%s is not stored", id)
		return
	}
	m := w.stored[0]
	w.stored = w.stored[1:]
	received := ourField.FindString(m.body)
	whole := strings.ReplaceAll(content, "\r\n", "")
	if bare := strings.ContainsAny(whole, "\r\n"); bare && !w.normalize {
		w.t.Errorf("bare line ends are stored: %q", content)
	} else if want := unstuffed(content); !bare && m.body[len(received):] != want {
		w.t.Errorf("%q is stored for %q", m.body, want)
	}
	if strings.ContainsAny(strings.ReplaceAll(m.body, "\r\n", ""), "\r\n") {
		w.t.Errorf("bare line ends in what is stored: %q", m.body)
	}
	if _, err := mail.ReadMessage(strings.NewReader(received + "\r\n")); err != nil || received == "" {
		w.t.Errorf("our field %q: %v", received, err)
	}
	if o := m.Options; !strings.Contains(w.mail, o.Envelope) || !strings.Contains(strings.ToUpper(w.mail), o.Return) || o.UTF8 && !strings.Contains(strings.ToUpper(w.mail), " SMTPUTF8") {
		w.t.Errorf("%+v is stored for %q", o, w.mail)
	}
	if string(m.ID) != id || m.From.IsNull() != strings.Contains(w.mail, "<>") || !named(w.mail, m.From.String()) {
		w.t.Errorf("%s from %s is stored, not %s by %q", m.ID, m.From, id, w.mail)
	}
	for _, e := range m.Entries {
		for _, r := range e.To {
			found := false
			for _, line := range w.to {
				found = found || named(line, r.Address.String()) && asked(line, r)
			}
			if !found {
				w.t.Errorf("nobody named %+v in %q", r, w.to)
			}
		}
	}
}

// ourField ends where its date ends: content may begin with a blank, which
// nobody may take for a part of it here.
var ourField = regexp.MustCompile(`^Received: from [^\n]+\r\n(?:\t[^\n]+\r\n)?\tby relay\.example\.com [^\n]+(?:\r\n\tfor [^\n]+)?; \w{3}, \d{1,2} \w{3} \d{4} [\d:]{8} [+-]\d{4}\r\n`)

// unstuffed takes the first dot off each line that begins with one (RFC 5321,
// Section 4.5.2).
func unstuffed(content string) string {
	var b strings.Builder
	for line := range strings.SplitAfterSeq(content, "\r\n") {
		b.WriteString(strings.TrimPrefix(line, "."))
	}
	return b.String()
}

// named reports whether a command names an address, in whatever quotes and with
// its domain in whatever case.
func named(line, address string) bool {
	if address == "postmaster@relay.example.com" && strings.Contains(strings.ToLower(line), "<postmaster>") {
		return true
	}
	bare := strings.NewReplacer(`"`, "", `\`, "")
	i := strings.LastIndexByte(address, '@')
	line = bare.Replace(line)
	return strings.Contains(strings.ToLower(line), strings.ToLower(address[i+1:])) && strings.Contains(line, bare.Replace(address[:max(0, i)]))
}

// asked reports whether a command has the parameters of a recipient. Of NOTIFY
// what is said twice is stored once.
func asked(line string, r relay.Recipient) bool {
	first, _, _ := strings.Cut(r.Notify, ",")
	return strings.Contains(line, r.Original) && strings.Contains(strings.ToUpper(line), first)
}

// A watchedStore keeps the messages that were accepted, and their content.
type watchedStore struct {
	relay.Store
	taken []taken
}

type taken struct {
	relay.Message
	body string
}

func (w *watchedStore) Accept(ctx context.Context, m relay.Message, b relay.BodyWriter) error {
	if err := w.Store.Accept(ctx, m, b); err != nil {
		return err
	}
	r, err := w.Body(ctx, m.ID)
	if err != nil {
		return err
	}
	defer r.Close()
	body, err := io.ReadAll(r)
	w.taken = append(w.taken, taken{m, string(body)})
	return errors.Join(err, w.Forget(ctx, m.ID))
}
