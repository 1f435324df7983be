package storetest

import (
	"slices"
	"strings"
	"testing"
	"time"

	"stsrelay/relay"
)

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
		h.accept(t, message("a", "e.example"), "x")
		h.settle(t, later(h.claim(t, "e.example", "aa")[0], time.Hour))
		h.accept(t, message("b", "e.example"), "x") // new, behind a deferred one
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
		if want := []relay.Destination{"[192.0.2.1]:25", "a", "a.example", "a.example.net", "b.example", "c.example", "d.example", "e.example"}; !slices.Equal(names, want) {
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
