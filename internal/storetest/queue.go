package storetest

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/relay"
)

// TestQueue is the contract of relay.Store.
func TestQueue(t *testing.T, open Open) {
	for _, group := range [][]queueCase{acceptCases, dueCases, claimCases, settleCases, editCases, listCases, faultCases, restartCases, concurrencyCases} {
		for _, c := range group {
			t.Run(c.name, func(t *testing.T) { c.test(t, open(t)) })
		}
	}
}

type queueCase struct {
	name string
	test func(*testing.T, *Harness)
}

var acceptCases = []queueCase{
	{"Accept stores body and entries, due at once", func(t *testing.T, h *Harness) {
		h.accept(t, message("1", "a.example", "b.example"), "hello\r\n")
		if got := h.body(t, "1"); got != "hello\r\n" {
			t.Errorf("body %q", got)
		}
		want := map[relay.Destination]time.Duration{"a.example": 0, "b.example": 0}
		for d, in := range h.due(t) {
			if _, ok := want[d]; !ok || in > 0 {
				t.Errorf("due: %s in %v", d, in)
			}
			delete(want, d)
		}
		if len(want) > 0 {
			t.Errorf("not due: %v", want)
		}
	}},
	{"Accept keeps everything that was given", func(t *testing.T, h *Harness) {
		m := message("1", "a.example")
		m.From = addr.MustAddress(`"odd <x>"@Example.ORG`)
		m.Options = relay.Options{Body: relay.Body7Bit, UTF8: true, Demand: 2, Return: "HDRS", Expire: time.Hour, Report: true, Notice: true,
			Listener: "l", Upstream: "u", Client: "c [192.0.2.1]"}
		m.Entries[0].To = []relay.Recipient{{Address: addr.MustAddress("José@a.example"), Notify: "SUCCESS,DELAY", Original: "rfc822;x+2By", Warned: true,
			Last: &relay.Note{At: time.Unix(1, 2).UTC(), MX: "mx[192.0.2.1]:25", Reason: "timeout", Permanent: true, Code: 450, Enhanced: [3]int{4, 5, 6}, Remote: true, Text: "t", RFC: "r", Policy: "p"}}}
		h.accept(t, m, "12345")
		e := h.list(t, relay.Filter{}, "1a")[0]
		want := relay.Entry{ID: "1a", Message: "1", Destination: "a.example", From: m.From, To: m.Entries[0].To, Options: m.Options, Size: 5}
		e.Arrived, e.Age, e.Due = time.Time{}, 0, 0
		if !reflect.DeepEqual(e, want) {
			t.Errorf("got  %+v\nwant %+v", e, want)
		}
	}},
	{"Accept keeps the null reverse-path", func(t *testing.T, h *Harness) {
		m := message("1", "a.example")
		m.From = addr.Address{}
		h.accept(t, m, "x")
		if e := h.list(t, relay.Filter{}, "1a")[0]; !e.From.IsNull() {
			t.Errorf("from %v", e.From)
		}
	}},
	{"Accept of an ID that is taken stores nothing and disturbs nothing", func(t *testing.T, h *Harness) {
		h.accept(t, message("1", "a.example"), "first")
		if h.tryAccept(t, message("1", "b.example"), "second") == nil {
			t.Error("a second message 1 was accepted")
		}
		m := message("2", "a.example", "b.example")
		m.Entries[1].ID = "1a"
		if h.tryAccept(t, m, "third") == nil {
			t.Error("a second entry 1a was accepted")
		}
		h.list(t, relay.Filter{}, "1a")
		if got := h.body(t, "1"); got != "first" {
			t.Errorf("body %q", got)
		}
		if _, err := h.Body(t.Context(), "2"); !errors.Is(err, relay.ErrNotFound) {
			t.Errorf("Body of a message that was refused: %v", err)
		}
	}},
	{"Accept refuses what cannot be kept", func(t *testing.T, h *Harness) {
		bad := map[string]relay.Message{"no entries": message("1"), "no id": message("", "a.example"), "no destination": message("1", ""),
			"two entries with one id": message("1", "a.example", "b.example"), "no recipients": message("1", "a.example")}
		bad["two entries with one id"].Entries[1].ID = "1a"
		bad["no recipients"].Entries[0].To = nil
		for name, m := range bad {
			if h.tryAccept(t, m, "x") == nil {
				t.Errorf("%s: accepted", name)
			}
		}
		h.list(t, relay.Filter{})
	}},
	{"Accept with a context that has ended writes nothing", func(t *testing.T, h *Harness) {
		w, err := h.NewBody(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Accept(canceled(t), message("1", "a.example"), w); !errors.Is(err, relay.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
		h.list(t, relay.Filter{})
	}},
	{"a body in many pieces comes back exact, small or large", func(t *testing.T, h *Harness) {
		for i, size := range []int{0, 1, h.Large - 1, h.Large, h.Large + 1, 3 * h.Large} {
			id := relay.ID(rune('1' + i))
			want := strings.Repeat("0123456789abcde\n", size/16+1)[:size]
			w, err := h.NewBody(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for chunk := range slices.Chunk([]byte(want), 1000) {
				if n, err := w.Write(chunk); n != len(chunk) || err != nil {
					t.Fatalf("Write: %d, %v", n, err)
				}
			}
			if w.Size() != int64(size) {
				t.Errorf("Size %d, want %d", w.Size(), size)
			}
			if err := h.Accept(t.Context(), message(id, "a.example"), w); err != nil {
				t.Fatal(err)
			}
			if got := h.body(t, id); got != want {
				t.Errorf("%d octets: came back with %d, different", size, len(got))
			}
		}
	}},
	{"Discard is safe before, after and without Accept", func(t *testing.T, h *Harness) {
		for _, size := range []int{1, 2 * h.Large} {
			w, err := h.NewBody(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			_, _ = w.Write(make([]byte, size))
			w.Discard()
			w.Discard()
			if _, err := w.Write([]byte("x")); err == nil {
				t.Error("a discarded body took more")
			}
			if h.Accept(t.Context(), message("1", "a.example"), w) == nil {
				t.Error("a discarded body was accepted")
			}
			h.list(t, relay.Filter{})
		}
		h.accept(t, message("2", "a.example"), "kept")
		w, _ := h.NewBody(t.Context())
		_, _ = w.Write(make([]byte, 2*h.Large))
		if err := h.Accept(t.Context(), message("3", "a.example"), w); err != nil {
			t.Fatal(err)
		}
		w.Discard()
		if got := h.body(t, "3"); len(got) != 2*h.Large {
			t.Errorf("Discard after Accept left %d octets", len(got))
		}
	}},
	{"Accept consumes the body even when it fails", func(t *testing.T, h *Harness) {
		w, _ := h.NewBody(t.Context())
		if h.Accept(t.Context(), message("1"), w) == nil {
			t.Fatal("a message without entries was accepted")
		}
		if h.Accept(t.Context(), message("1", "a.example"), w) == nil {
			t.Error("the body could be used again")
		}
	}},
	{"Body of an unknown message is ErrNotFound", func(t *testing.T, h *Harness) {
		if _, err := h.Body(t.Context(), "nope"); !errors.Is(err, relay.ErrNotFound) {
			t.Errorf("got %v", err)
		}
	}},
	{"an open Body holds no transaction and outlives its message", func(t *testing.T, h *Harness) {
		want := strings.Repeat("x", 2*h.Large)
		for i, body := range []string{"small", want} {
			id := relay.ID(rune('1' + i))
			h.accept(t, message(id, "a.example"), body)
			r, err := h.Body(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			h.settle(t, done(h.claim(t, "a.example", id+"a")[0]))
			for range 50 { // writes go on, and reuse what the message left
				h.accept(t, message("x", "x.example"), strings.Repeat("y", 5000))
				h.edit(t, relay.Filter{}, relay.VerbDelete, 1)
			}
			got := make([]byte, len(body)+1)
			n, _ := readFull(r, got)
			if string(got[:n]) != body {
				t.Errorf("read %d octets, want the %d accepted", n, len(body))
			}
		}
	}},
	{"Forget removes a message with all its entries, and an unknown one is no error", func(t *testing.T, h *Harness) {
		h.accept(t, message("1", "a.example", "b.example"), "x")
		h.accept(t, message("2", "a.example"), "y")
		e := h.claim(t, "b.example", "1b")[0]
		h.edit(t, relay.Filter{IDs: []relay.ID{"1a"}}, relay.VerbHold, 1)
		for _, id := range []relay.ID{"1", "1", "unknown"} {
			if err := h.Forget(t.Context(), id); err != nil {
				t.Errorf("Forget(%s): %v", id, err)
			}
		}
		h.list(t, relay.Filter{}, "2a")
		if _, err := h.Body(t.Context(), "1"); !errors.Is(err, relay.ErrNotFound) {
			t.Errorf("body of a forgotten message: %v", err)
		}
		h.accept(t, message("1", "a.example", "b.example"), "again")
		h.claim(t, "b.example", "1b")
		h.wantLost(t, done(e))
	}},
}
