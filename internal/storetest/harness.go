// Package storetest is the one contract suite of every store engine: each
// sentence of the comments on relay.Store, stscache.Store, tlsrpt.Store and
// TLSAHosts is a test here. An engine passes it by giving an Open function.
package storetest

import (
	"context"
	"io"
	"sync"
	"testing"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/relay"
	"stsrelay/stscache"
	"stsrelay/tlsrpt"
)

// A Store is all that an engine implements.
type Store interface {
	relay.Store
	stscache.Store
	tlsrpt.Store
	TLSAHosts
}

// TLSAHosts keeps which hosts had secure TLSA records, so that a restart does
// not make them look as if they never had any (ledger DANE-2.1.1-01). Keeping
// hosts replaces what is kept of them, all or nothing; the zero time forgets a
// host.
type TLSAHosts interface {
	TLSAHosts(ctx context.Context) (map[addr.Host]time.Time, error)
	KeepTLSAHosts(ctx context.Context, hosts map[addr.Host]time.Time) error
}

// A Fault is how every write of a store fails while it is set (house.md,
// Section 8).
type Fault int

const (
	NoFault    Fault = iota
	NotWritten       // nothing is written, an error is returned
	Written          // it is written, an error is returned all the same
)

// A Harness is one store under test, and what moves its world.
type Harness struct {
	Store
	Lease   time.Duration         // how long its claims hold
	Large   int                   // octets of a body that is kept apart from small ones
	Advance func(d time.Duration) // moves the store's clock
	Reopen  func(t *testing.T)    // ends the store's process and starts it again
	Fail    func(f Fault)         // from the next write on
}

// Open makes an empty store. It is closed at the end of the test.
type Open func(t *testing.T) *Harness

// message makes a message with one entry for each destination. The IDs are
// id, and id with a letter for each entry.
func message(id relay.ID, dests ...relay.Destination) relay.Message {
	m := relay.Message{ID: id, From: addr.MustAddress("sender@example.org"),
		Options: relay.Options{Body: relay.Body8BitMIME, EightBit: true, Envelope: "env+2D1", Listener: "postfix"}}
	for i, d := range dests {
		domain := string(d)
		if _, err := addr.ParseDomain(domain); err != nil {
			domain = "recipient.example"
		}
		m.Entries = append(m.Entries, relay.NewEntry{ID: id + relay.ID('a'+rune(i)), Destination: d,
			To: []relay.Recipient{rcpt("one@" + domain), rcpt("two@" + domain)}})
	}
	return m
}

func rcpt(s string) relay.Recipient { return relay.Recipient{Address: addr.MustAddress(s)} }

// accept queues m with body and fails the test if that fails.
func (h *Harness) accept(t *testing.T, m relay.Message, body string) {
	t.Helper()
	if err := h.tryAccept(t, m, body); err != nil {
		t.Fatalf("Accept: %v", err)
	}
}

func (h *Harness) tryAccept(t *testing.T, m relay.Message, body string) error {
	t.Helper()
	w, err := h.NewBody(t.Context())
	if err != nil {
		return err
	}
	if _, err := io.WriteString(w, body); err != nil {
		w.Discard()
		return err
	}
	m.Size = w.Size()
	return h.Accept(t.Context(), m, w)
}

// heal ends a fault. An engine may wait before it tries to write again.
func (h *Harness) heal() {
	h.Fail(NoFault)
	h.Advance(time.Minute)
}

// claim expects exactly the entries with these IDs, in this order.
func (h *Harness) claim(t *testing.T, dest relay.Destination, want ...relay.ID) []relay.Entry {
	t.Helper()
	got, err := h.Claim(t.Context(), dest, 100)
	if err != nil {
		t.Fatalf("Claim(%s): %v", dest, err)
	}
	equalIDs(t, "Claim("+string(dest)+")", got, want)
	return got
}

func (h *Harness) settle(t *testing.T, r ...relay.Result) {
	t.Helper()
	lost, err := h.Settle(t.Context(), r)
	if err != nil || len(lost) > 0 {
		t.Fatalf("Settle: lost %v, %v", lost, err)
	}
}

// wantLost settles e and expects its lease to be lost.
func (h *Harness) wantLost(t *testing.T, r relay.Result) {
	t.Helper()
	lost, err := h.Settle(t.Context(), []relay.Result{r})
	if err != nil || len(lost) != 1 || lost[0] != r.ID {
		t.Errorf("Settle of a lost lease: lost %v, %v; want %s lost", lost, err, r.ID)
	}
}

// list expects exactly the entries with these IDs.
func (h *Harness) list(t *testing.T, f relay.Filter, want ...relay.ID) []relay.Entry {
	t.Helper()
	got, next, err := h.List(t.Context(), f, "", 1000)
	if err != nil || next != "" {
		t.Fatalf("List(%+v): cursor %q, %v", f, next, err)
	}
	equalIDs(t, "List", got, want)
	return got
}

func (h *Harness) body(t *testing.T, id relay.ID) string {
	t.Helper()
	r, err := h.Body(t.Context(), id)
	if err != nil {
		t.Fatalf("Body(%s): %v", id, err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("Body(%s): %v", id, err)
	}
	return string(b)
}

func (h *Harness) edit(t *testing.T, f relay.Filter, verb relay.Verb, want int) relay.Edited {
	t.Helper()
	got, err := h.Edit(t.Context(), f, relay.Action{Verb: verb, Reason: "because"})
	if err != nil || got.Count != want {
		t.Fatalf("Edit(%+v, %s): %+v, %v; want %d", f, verb, got, err, want)
	}
	return got
}

func (h *Harness) due(t *testing.T) map[relay.Destination]time.Duration {
	t.Helper()
	got, err := h.Due(t.Context(), "", 1000)
	if err != nil {
		t.Fatalf("Due: %v", err)
	}
	out := make(map[relay.Destination]time.Duration)
	for _, d := range got {
		out[d.Destination] = d.In
	}
	return out
}

func (h *Harness) tallies(t *testing.T, day tlsrpt.Day) []tlsrpt.Tally {
	t.Helper()
	var out []tlsrpt.Tally
	for tally, err := range h.Tallies(t.Context(), day) {
		if err != nil {
			t.Fatalf("Tallies: %v", err)
		}
		out = append(out, tally)
	}
	return out
}

func equalIDs(t *testing.T, what string, got []relay.Entry, want []relay.ID) {
	t.Helper()
	same := len(got) == len(want)
	for i := 0; same && i < len(got); i++ {
		same = got[i].ID == want[i]
	}
	if !same {
		var ids []relay.ID
		for _, e := range got {
			ids = append(ids, e.ID)
		}
		t.Fatalf("%s: entries %v, want %v", what, ids, want)
	}
}

// done is the Result of an entry whose recipients were all delivered.
func done(e relay.Entry) relay.Result { return relay.Result{ID: e.ID, Lease: e.Lease, Tried: true} }

// later is the Result of an entry that waits for d.
func later(e relay.Entry, d time.Duration) relay.Result {
	return relay.Result{ID: e.ID, Lease: e.Lease, Left: e.To, Delay: d, Tried: true}
}

func canceled(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

// inParallel runs f n times at once and waits.
func inParallel(n int, f func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
}

func readFull(r io.Reader, p []byte) (int, error) { return io.ReadFull(r, p) }
