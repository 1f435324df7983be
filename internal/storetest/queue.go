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
		h.wantLost(t, done(e))
		if _, err := h.Body(t.Context(), "1"); !errors.Is(err, relay.ErrNotFound) {
			t.Errorf("body of a forgotten message: %v", err)
		}
	}},
}

var dueCases = []queueCase{
	{"Due lists destinations by name, each with its earliest entry", func(t *testing.T, h *Harness) {
		for i, d := range []relay.Destination{"c.example", "a.example", "b.example", "a.example.net", "[192.0.2.1]:25", "a"} {
			h.accept(t, message(relay.ID(rune('1'+i)), d), "x")
		}
		h.settle(t, later(h.claim(t, "b.example", "3a")[0], time.Hour))
		h.accept(t, message("8", "d.example"), "x")
		h.settle(t, later(h.claim(t, "d.example", "8a")[0], 2*time.Hour))
		h.accept(t, message("9", "d.example"), "x")
		h.settle(t, later(h.claim(t, "d.example", "9a")[0], time.Hour))
		got, err := h.Due(t.Context(), "", 100)
		if err != nil {
			t.Fatal(err)
		}
		var names []relay.Destination
		for _, d := range got {
			names = append(names, d.Destination)
			if d.Destination == "b.example" || d.Destination == "d.example" {
				if d.In > time.Hour || d.In < 59*time.Minute {
					t.Errorf("%s is due in %v, want an hour", d.Destination, d.In)
				}
			} else if d.In > 0 {
				t.Errorf("%s is due in %v, want now", d.Destination, d.In)
			}
		}
		if want := []relay.Destination{"[192.0.2.1]:25", "a", "a.example", "a.example.net", "b.example", "c.example", "d.example"}; !slices.Equal(names, want) {
			t.Errorf("got %v, want %v", names, want)
		}
	}},
	{"Due pages through destinations after the given one", func(t *testing.T, h *Harness) {
		for _, d := range []relay.Destination{"a", "a.b", "aa", "b", "c"} {
			h.accept(t, message("1"+relay.ID(d), d, d), "x")
		}
		var got []relay.Destination
		var after relay.Destination
		for range 10 {
			part, err := h.Due(t.Context(), after, 2)
			if err != nil {
				t.Fatal(err)
			}
			if len(part) == 0 {
				break
			}
			for _, d := range part {
				got, after = append(got, d.Destination), d.Destination
			}
		}
		if want := []relay.Destination{"a", "a.b", "aa", "b", "c"}; !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		if part, err := h.Due(t.Context(), "a.a", 1); err != nil || len(part) != 1 || part[0].Destination != "a.b" {
			t.Errorf("after a name that is none: %v, %v", part, err)
		}
	}},
	{"Due leaves out destinations whose entries are all leased or held", func(t *testing.T, h *Harness) {
		h.accept(t, message("1", "leased.example", "held.example", "both.example", "free.example"), "x")
		h.accept(t, message("2", "free.example"), "x")
		h.claim(t, "leased.example", "1a")
		h.edit(t, relay.Filter{Destination: "held.example"}, relay.VerbHold, 1)
		h.edit(t, relay.Filter{IDs: []relay.ID{"1d"}}, relay.VerbHold, 1)
		if got := h.due(t); len(got) != 2 || got["free.example"] > 0 || got["both.example"] > 0 {
			t.Errorf("got %v", got)
		}
		h.claim(t, "both.example", "1c")
		h.claim(t, "free.example", "2a")
		if got := h.due(t); len(got) != 0 {
			t.Errorf("got %v", got)
		}
	}},
}

var claimCases = []queueCase{
	{"Claim takes due entries, earliest first, up to max", func(t *testing.T, h *Harness) {
		for _, id := range []relay.ID{"1", "2", "3", "4"} {
			h.accept(t, message(id, "a.example"), "x")
		}
		e := h.claim(t, "a.example", "1a", "2a", "3a", "4a")
		h.settle(t, later(e[0], 3*time.Minute), later(e[1], time.Minute), later(e[2], 2*time.Minute), later(e[3], time.Hour))
		h.claim(t, "a.example")
		h.Advance(3 * time.Minute)
		first, err := h.Claim(t.Context(), "a.example", 2)
		if err != nil {
			t.Fatal(err)
		}
		equalIDs(t, "Claim of 2", first, []relay.ID{"2a", "3a"})
		h.claim(t, "a.example", "1a")
		h.claim(t, "a.example")
	}},
	{"Claim takes new and deferred entries together, earliest first, whatever their IDs", func(t *testing.T, h *Harness) {
		long := relay.ID(strings.Repeat("0", 200))
		h.accept(t, message("9", "a.example"), "x")
		h.settle(t, later(h.claim(t, "a.example", "9a")[0], 2*time.Minute))
		h.Advance(time.Minute)
		h.accept(t, message("8", "a.example"), "x")
		h.Advance(time.Minute * 3 / 2)
		h.accept(t, message(long, "a.example"), "x")
		h.Advance(time.Minute)
		h.accept(t, message("7", "a.example"), "x")
		h.claim(t, "a.example", "8a", "9a", long+"a", "7a")
		h.Reopen(t)
		h.claim(t, "a.example", "8a", "9a", long+"a", "7a")
	}},
	{"Claim of another destination takes nothing", func(t *testing.T, h *Harness) {
		h.accept(t, message("1", "a.example.net"), "x")
		h.claim(t, "a.example")
		h.claim(t, "")
		h.claim(t, "example.net")
	}},
	{"Claim passes over leased and held entries", func(t *testing.T, h *Harness) {
		for _, id := range []relay.ID{"1", "2", "3"} {
			h.accept(t, message(id, "a.example"), "x")
		}
		if _, err := h.Claim(t.Context(), "a.example", 1); err != nil {
			t.Fatal(err)
		}
		h.edit(t, relay.Filter{IDs: []relay.ID{"2"}}, relay.VerbHold, 1)
		h.claim(t, "a.example", "3a")
	}},
	{"Claim gives tokens that increase, and ages by the store's clock", func(t *testing.T, h *Harness) {
		h.accept(t, message("1", "a.example"), "x")
		h.Advance(time.Hour)
		e := h.claim(t, "a.example", "1a")[0]
		if e.Lease == 0 || e.Age < time.Hour || e.Age > time.Hour+time.Minute || e.Due > -59*time.Minute {
			t.Errorf("lease %d, age %v, due %v", e.Lease, e.Age, e.Due)
		}
		if err := h.Unclaim(t.Context(), []relay.Entry{e}); err != nil {
			t.Fatal(err)
		}
		if again := h.claim(t, "a.example", "1a")[0]; again.Lease <= e.Lease {
			t.Errorf("token %d after %d", again.Lease, e.Lease)
		}
	}},
	{"Unclaim gives entries back, due as they were, and its token is lost", func(t *testing.T, h *Harness) {
		h.accept(t, message("1", "a.example"), "x")
		e := h.claim(t, "a.example", "1a")
		if err := h.Unclaim(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		h.wantLost(t, done(e[0]))
		again := h.claim(t, "a.example", "1a")
		if err := h.Unclaim(t.Context(), e); err != nil { // an old token ends nobody else's lease
			t.Fatal(err)
		}
		h.claim(t, "a.example")
		if again[0].Attempts != 0 {
			t.Errorf("%d attempts", again[0].Attempts)
		}
	}},
	{"a lease that expired may be claimed again, and the old token is lost", func(t *testing.T, h *Harness) {
		h.accept(t, message("1", "a.example"), "x")
		old := h.claim(t, "a.example", "1a")[0]
		h.Advance(h.Lease - time.Second)
		h.claim(t, "a.example")
		h.Advance(2 * time.Second)
		if got := h.due(t); len(got) != 1 {
			t.Errorf("due after expiry: %v", got)
		}
		fresh := h.claim(t, "a.example", "1a")[0]
		h.wantLost(t, done(old))
		h.settle(t, done(fresh))
	}},
	{"concurrent claims never share an entry", func(t *testing.T, h *Harness) {
		const n = 60
		for i := range n {
			h.accept(t, message(relay.ID("m")+relay.ID(rune('0'+i)), "a.example"), "x")
		}
		got := make(chan relay.ID, 2*n)
		inParallel(8, func(int) {
			for {
				e, err := h.Claim(t.Context(), "a.example", 3)
				if err != nil {
					t.Error(err)
				}
				if len(e) == 0 {
					return
				}
				for _, e := range e {
					got <- e.ID
				}
			}
		})
		close(got)
		seen := make(map[relay.ID]bool)
		for id := range got {
			if seen[id] {
				t.Errorf("%s was claimed twice", id)
			}
			seen[id] = true
		}
		if len(seen) != n {
			t.Errorf("%d entries claimed, want %d", len(seen), n)
		}
	}},
}
