package storetest

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"stsrelay/relay"
)

var listCases = []queueCase{
	{"List is in order of ID, with ages and due times by the store's clock", func(t *testing.T, h *Harness) {
		filled(t, h)
		e := h.list(t, relay.Filter{}, "1a", "1b", "2a", "3a", "4a")
		if e[0].Age < 2*time.Hour || e[0].Age > 3*time.Hour || e[0].Due < 30*time.Minute || e[0].Due > time.Hour {
			t.Errorf("1a has age %v, is due in %v", e[0].Age, e[0].Due)
		}
		if e[1].Due > -time.Hour {
			t.Errorf("1b, never tried, is due in %v", e[1].Due)
		}
		if e[0].Lease != 0 || e[3].Lease == 0 {
			t.Errorf("leases %d and %d, want only 3a leased", e[0].Lease, e[3].Lease)
		}
	}},
	{"List pages with a cursor, until the cursor is empty", func(t *testing.T, h *Harness) {
		var want []relay.ID
		for i := range 10 {
			id := relay.ID(fmt.Sprintf("m%d", i))
			h.accept(t, message(id, "a.example", "b.example"), "x")
			want = append(want, id+"a")
		}
		for _, n := range []int{1, 3, 10, 100} {
			if got := pages(t, h, relay.Filter{Destination: "a.example"}, n, nil); !slices.Equal(got, want) {
				t.Errorf("in pages of %d: %v", n, got)
			}
		}
		ids := relay.Filter{IDs: []relay.ID{"m7", "m2", "m5b"}}
		if got := pages(t, h, ids, 2, nil); !slices.Equal(got, []relay.ID{"m2a", "m2b", "m5b", "m7a", "m7b"}) {
			t.Errorf("by ID: %v", got)
		}
	}},
	{"the cursor stands while entries come and go", func(t *testing.T, h *Harness) {
		for i := range 9 {
			h.accept(t, message(relay.ID(fmt.Sprintf("m%d", i)), "a.example"), "x")
		}
		got := pages(t, h, relay.Filter{}, 3, func(page int) {
			if page == 1 { // the entry under the cursor goes, one before and one behind it come
				h.edit(t, relay.Filter{IDs: []relay.ID{"m2", "m4"}}, relay.VerbDelete, 2)
				h.accept(t, message("m1x", "a.example"), "x")
				h.accept(t, message("m5x", "a.example"), "x")
			}
		})
		if want := []relay.ID{"m0a", "m1a", "m2a", "m3a", "m5a", "m5xa", "m6a", "m7a", "m8a"}; !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	}},
	{"Stats counts entries by state, octets and the oldest", func(t *testing.T, h *Harness) {
		stats := func() relay.Stats {
			t.Helper()
			h.Advance(2 * time.Second) // it may be a second old
			s, err := h.Stats(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		if got := stats(); got != (relay.Stats{}) {
			t.Errorf("empty: %+v", got)
		}
		filled(t, h)
		got := stats()
		if got.Active != 1 || got.Deferred != 3 || got.Held != 1 || got.Bytes != 4 || got.Oldest < 2*time.Hour || got.Oldest > 3*time.Hour {
			t.Errorf("got %+v", got)
		}
		h.edit(t, relay.Filter{IDs: []relay.ID{"3a"}}, relay.VerbHold, 1)
		if got := stats(); got.Active != 1 || got.Held != 1 || got.Deferred != 3 {
			t.Errorf("held while it is active: %+v", got)
		}
		h.Reopen(t)
		if got := stats(); got.Active != 0 || got.Held != 2 || got.Deferred != 3 || got.Bytes != 4 {
			t.Errorf("after a restart: %+v", got)
		}
		h.edit(t, relay.Filter{IDs: []relay.ID{"1a", "3", "4"}}, relay.VerbDelete, 3)
		if got := stats(); got.Deferred != 1 || got.Held != 1 || got.Bytes != 2 {
			t.Errorf("after deleting: %+v", got)
		}
		h.edit(t, relay.Filter{}, relay.VerbDelete, 2)
		if got := stats(); got != (relay.Stats{}) {
			t.Errorf("empty again: %+v", got)
		}
	}},
}

// pages lists everything in pages of n, and calls between after each.
func pages(t *testing.T, h *Harness, f relay.Filter, n int, between func(page int)) (ids []relay.ID) {
	t.Helper()
	var after relay.Cursor
	for page := 1; page < 100; page++ {
		part, next, err := h.List(t.Context(), f, after, n)
		if err != nil || len(part) > n {
			t.Fatalf("List: %d entries, %v", len(part), err)
		}
		for _, e := range part {
			ids = append(ids, e.ID)
		}
		if next == "" {
			return ids
		}
		after = next
		if between != nil {
			between(page)
		}
	}
	t.Fatal("the cursor never ends")
	return nil
}
