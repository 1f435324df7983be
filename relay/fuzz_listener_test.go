package relay_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"stsrelay/internal/boltstore"
	"stsrelay/relay"

	"github.com/rs/zerolog"
)

// Whatever a client says: nothing panics, every message that is stored has the
// sender and the recipients of RCPT commands that the client sent as lines of
// their own, and its content is a part of what was sent.
func FuzzListener(f *testing.F) {
	for _, s := range []string{
		"EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\nSubject: x\r\n\r\nHello\r\n.\r\nQUIT\r\n",
		"EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\nHello\n.\r\nMAIL FROM:<e@b.example>\r\nRCPT TO:<f@d.example>\r\nDATA\r\nx\r\n.\r\n",
		"EHLO x\r\nMAIL FROM:<a@b.example>\r\nBDAT 5 LAST\r\nhello",
		"HELO x\r\nMAIL FROM:<>\r\nRCPT TO:<\"x> y\"@d.example>\r\nRSET\r\nNOOP\r\n",
		"EHLO x\r\nMAIL FROM:<a@b.example>\r\nMAIL FROM:<b@b.example>\r\nRCPT TO:<@x:c@d.example>\r\nDATA\r\n.\r\n",
		"STARTTLS\r\nAUTH PLAIN\r\nVRFY x\r\n\x00\r\n",
	} {
		f.Add([]byte(s), false)
		f.Add([]byte(s), true)
	}
	bolt, err := boltstore.Open(f.TempDir(), boltstore.Options{NoSync: true, FreeSpace: -1, Log: zerolog.Nop()})
	if err != nil {
		f.Fatal(err)
	}
	defer bolt.Close()
	f.Fuzz(func(t *testing.T, sent []byte, normalize bool) {
		if len(sent) > 64<<10 {
			return
		}
		store := &watchedStore{Store: bolt}
		ln := newPipes()
		l := relay.NewListener(relay.ListenerOptions{Name: "fuzz", Hostname: "relay.example.com", Normalize: normalize, Store: store,
			AllowFrom: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, IdleTimeout: time.Minute, Log: zerolog.Nop()})
		ctx, stop := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- l.Serve(ctx, ln) }()
		client, server := net.Pipe()
		ln.conns <- &tcpLike{Conn: server}
		said := make(chan []byte, 1)
		go func() {
			b, _ := io.ReadAll(client) // until it is closed, by either end
			said <- b
		}()
		client.Write(sent) // the server may close first
		client.Close()
		replies := <-said
		stop()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(replies, []byte("Internal server error")) {
			t.Fatalf("a panic: %q", replies)
		}
		for _, m := range store.taken {
			if !m.From.IsNull() && !named(sent, m.From.String()) {
				t.Errorf("nobody named the sender %s", m.From)
			}
			for _, e := range m.Entries {
				for _, r := range e.To {
					if !named(sent, r.Address.String()) {
						t.Errorf("nobody named the recipient %s", r.Address)
					}
				}
			}
		}
		if n := bytes.Count(bytes.ToUpper(sent), []byte("DATA")); len(store.taken) > n {
			t.Errorf("%d messages of %d DATA", len(store.taken), n)
		}
	})
}

// named reports whether an address was sent: its local part may have been
// written in another way, its domain in another case.
func named(sent []byte, address string) bool {
	domain := address[strings.LastIndexByte(address, '@')+1:]
	return bytes.Contains(bytes.ToLower(sent), []byte(strings.ToLower(domain)))
}

// A watchedStore keeps the messages that were accepted.
type watchedStore struct {
	relay.Store
	taken []relay.Message
}

func (w *watchedStore) Accept(ctx context.Context, m relay.Message, b relay.BodyWriter) error {
	err := w.Store.Accept(ctx, m, b)
	if err == nil {
		w.taken = append(w.taken, m)
		err = w.Store.Forget(ctx, m.ID)
	}
	return err
}
