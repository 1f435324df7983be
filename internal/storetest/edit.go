package storetest

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"stsrelay/delivery"
	"stsrelay/internal/addr"
	"stsrelay/relay"
)

// filled makes a queue with one entry in each state:
// 1a deferred after a time-out, from alice, two hours old; 1b the same message,
// never tried; 2a held; 3a active; 4a from the null reverse-path.
func filled(t *testing.T, h *Harness) {
	t.Helper()
	m := message("1", "a.example", "b.example")
	m.From = addr.MustAddress("Alice@Example.ORG")
	h.accept(t, m, "x")
	r := later(h.claim(t, "a.example", "1a")[0], 3*time.Hour)
	r.Note = &relay.Note{Reason: delivery.TimedOut}
	h.settle(t, r)
	h.Advance(2 * time.Hour)
	h.accept(t, message("2", "a.example"), "x")
	h.edit(t, relay.Filter{IDs: []relay.ID{"2"}}, relay.VerbHold, 1)
	h.accept(t, message("3", "c.example"), "x")
	h.claim(t, "c.example", "3a")
	m = message("4", "d.example")
	m.From = addr.Address{}
	m.Entries[0].To = []relay.Recipient{rcpt("bob@xn--bcher-kva.example"), rcpt("bob@[192.0.2.1]")}
	h.accept(t, m, "x")
}

// filters are shared by List and Edit.
var filters = []struct {
	name string
	f    relay.Filter
	want []relay.ID
}{
	{"an empty filter selects everything", relay.Filter{}, []relay.ID{"1a", "1b", "2a", "3a", "4a"}},
	{"an entry by ID", relay.Filter{IDs: []relay.ID{"1b"}}, []relay.ID{"1b"}},
	{"a message by ID selects all its entries, each once", relay.Filter{IDs: []relay.ID{"1", "4", "1a", "unknown"}}, []relay.ID{"1a", "1b", "4a"}},
	{"an unknown ID selects nothing", relay.Filter{IDs: []relay.ID{"unknown"}}, nil},
	{"a recipient", relay.Filter{To: "one@a.example"}, []relay.ID{"1a", "2a"}},
	{"a recipient in another case", relay.Filter{To: "ONE@A.Example"}, []relay.ID{"1a", "2a"}},
	{"part of a local part is not enough", relay.Filter{To: "ne@a.example"}, nil},
	{"a recipient domain", relay.Filter{To: "@a.example"}, []relay.ID{"1a", "2a"}},
	{"a recipient domain as people write it", relay.Filter{To: "@BÜCHER.example"}, []relay.ID{"4a"}},
	{"part of a domain is not enough", relay.Filter{To: "@example"}, nil},
	{"an address literal", relay.Filter{To: "@[192.0.2.1]"}, []relay.ID{"4a"}},
	{"a sender", relay.Filter{From: "alice@example.org"}, []relay.ID{"1a", "1b"}},
	{"a sender domain", relay.Filter{From: "@example.org"}, []relay.ID{"1a", "1b", "2a", "3a"}},
	{"the null reverse-path", relay.Filter{From: "<>"}, []relay.ID{"4a"}},
	{"a destination", relay.Filter{Destination: "a.example"}, []relay.ID{"1a", "2a"}},
	{"older than an hour", relay.Filter{Older: time.Hour}, []relay.ID{"1a", "1b"}},
	{"active", relay.Filter{State: relay.StateActive}, []relay.ID{"3a"}},
	{"deferred, tried or not", relay.Filter{State: relay.StateDeferred}, []relay.ID{"1a", "1b", "4a"}},
	{"held", relay.Filter{State: relay.StateHeld}, []relay.ID{"2a"}},
	{"the reason of the last attempt", relay.Filter{Reason: "timeout"}, []relay.ID{"1a"}},
	{"a reason that nothing has", relay.Filter{Reason: "null-mx"}, nil},
	{"all of several conditions", relay.Filter{Destination: "a.example", Older: time.Hour, To: "@a.example", From: "@example.org", State: relay.StateDeferred}, []relay.ID{"1a"}},
	{"several conditions that nothing meets together", relay.Filter{Destination: "b.example", Reason: "timeout"}, nil},
}

var editCases = []queueCase{
	{"Edit and List select the same entries by every filter", func(t *testing.T, h *Harness) {
		filled(t, h)
		for _, c := range filters {
			t.Run(c.name, func(t *testing.T) {
				h.list(t, c.f, c.want...)
				got, err := h.Edit(t.Context(), c.f, relay.Action{Verb: relay.VerbDelete, DryRun: true})
				if err != nil || got.Count != len(c.want) {
					t.Errorf("Edit counts %d, want %d; %v", got.Count, len(c.want), err)
				}
			})
		}
	}},
	{"Edit says how many matched and which destinations they have", func(t *testing.T, h *Harness) {
		filled(t, h)
		for _, dry := range []bool{true, false} {
			got, err := h.Edit(t.Context(), relay.Filter{To: "@a.example"}, relay.Action{Verb: relay.VerbDelete, DryRun: dry})
			if err != nil || got.Count != 2 || !slices.Equal(got.Destinations, []relay.Destination{"a.example"}) {
				t.Errorf("dry run %v: %+v, %v", dry, got, err)
			}
		}
		h.list(t, relay.Filter{}, "1b", "3a", "4a")
	}},
	{"a dry run changes nothing", func(t *testing.T, h *Harness) {
		filled(t, h)
		before := h.list(t, relay.Filter{}, "1a", "1b", "2a", "3a", "4a")
		for _, v := range []relay.Verb{relay.VerbRetry, relay.VerbHold, relay.VerbRelease, relay.VerbDelete, relay.VerbBounce} {
			got, err := h.Edit(t.Context(), relay.Filter{}, relay.Action{Verb: v, DryRun: true})
			if err != nil || got.Count != 5 {
				t.Errorf("%s: %+v, %v", v, got, err)
			}
		}
		for i, e := range h.list(t, relay.Filter{}, "1a", "1b", "2a", "3a", "4a") {
			if e.Held != before[i].Held || e.Bounce != before[i].Bounce || e.Lease != before[i].Lease {
				t.Errorf("%s changed: %+v", e.ID, e)
			}
		}
		if in := h.due(t)["a.example"]; in < 30*time.Minute {
			t.Errorf("1a is due in %v", in)
		}
	}},
	{"an unknown verb is an error", func(t *testing.T, h *Harness) {
		if _, err := h.Edit(t.Context(), relay.Filter{}, relay.Action{Verb: "explode"}); err == nil {
			t.Error("no error")
		}
	}},
	{"retry makes an entry due at once", func(t *testing.T, h *Harness) {
		filled(t, h)
		h.edit(t, relay.Filter{IDs: []relay.ID{"1a"}}, relay.VerbRetry, 1)
		if e := h.claim(t, "a.example", "1a")[0]; e.Attempts != 1 || len(e.History) != 1 {
			t.Errorf("the entry forgot its past: %+v", e)
		}
	}},
	{"retry does not release what is held", func(t *testing.T, h *Harness) {
		filled(t, h)
		h.edit(t, relay.Filter{IDs: []relay.ID{"2a"}}, relay.VerbRetry, 1)
		h.list(t, relay.Filter{State: relay.StateHeld}, "2a")
		h.claim(t, "a.example")
	}},
	{"hold keeps an entry until it is released, and says why", func(t *testing.T, h *Harness) {
		filled(t, h)
		e := h.list(t, relay.Filter{IDs: []relay.ID{"2a"}}, "2a")[0]
		if e.Held != (relay.Hold{Held: true, Reason: "because"}) {
			t.Errorf("held %+v", e.Held)
		}
		h.Advance(1000 * time.Hour)
		h.claim(t, "a.example", "1a")
		h.edit(t, relay.Filter{IDs: []relay.ID{"2a"}}, relay.VerbRelease, 1)
		if e := h.claim(t, "a.example", "2a")[0]; e.Held != (relay.Hold{}) {
			t.Errorf("held %+v after release", e.Held)
		}
	}},
	{"hold of what is held changes the reason", func(t *testing.T, h *Harness) {
		filled(t, h)
		f := relay.Filter{IDs: []relay.ID{"2a"}}
		if _, err := h.Edit(t.Context(), f, relay.Action{Verb: relay.VerbHold, Reason: "other"}); err != nil {
			t.Fatal(err)
		}
		if e := h.list(t, f, "2a")[0]; e.Held.Reason != "other" {
			t.Errorf("held %+v", e.Held)
		}
		h.edit(t, f, relay.VerbRelease, 1)
		h.claim(t, "a.example", "2a")
	}},
	{"release makes due at once what was deferred when it was held", func(t *testing.T, h *Harness) {
		filled(t, h)
		f := relay.Filter{IDs: []relay.ID{"1a"}}
		h.edit(t, f, relay.VerbHold, 1)
		h.edit(t, f, relay.VerbRelease, 1)
		h.claim(t, "a.example", "1a")
	}},
	{"release of what is not held leaves its due time alone", func(t *testing.T, h *Harness) {
		filled(t, h)
		h.edit(t, relay.Filter{IDs: []relay.ID{"1a"}}, relay.VerbRelease, 1)
		h.claim(t, "a.example")
	}},
	{"delete removes without a notice, in every state", func(t *testing.T, h *Harness) {
		filled(t, h)
		h.edit(t, relay.Filter{}, relay.VerbDelete, 5)
		h.list(t, relay.Filter{})
		if _, err := h.Body(t.Context(), "1"); !errors.Is(err, relay.ErrNotFound) {
			t.Errorf("body: %v", err)
		}
		if got := h.due(t); len(got) != 0 {
			t.Errorf("due: %v", got)
		}
	}},
	{"bounce marks an entry and makes it due, held or not", func(t *testing.T, h *Harness) {
		filled(t, h)
		h.edit(t, relay.Filter{Destination: "a.example"}, relay.VerbBounce, 2)
		for _, e := range h.claim(t, "a.example", "1a", "2a") {
			if !e.Bounce || e.Held.Held {
				t.Errorf("%s: bounce %v, held %v", e.ID, e.Bounce, e.Held)
			}
			if last := e.History[len(e.History)-1]; last.Reason != delivery.OperatorBounce || last.Text != "because" {
				t.Errorf("%s does not say why: %+v", e.ID, last)
			}
		}
	}},
	{"Edit reaches every entry of a long queue", func(t *testing.T, h *Harness) {
		const n = 2500
		inParallel(25, func(i int) {
			for j := range n / 25 {
				if err := h.tryAccept(t, message(relay.ID(fmt.Sprintf("%03d-%03d", i, j)), "a.example"), "x"); err != nil {
					t.Error(err)
				}
			}
		})
		h.edit(t, relay.Filter{}, relay.VerbHold, n)
		if got := h.due(t); len(got) != 0 {
			t.Errorf("due: %v", got)
		}
		h.edit(t, relay.Filter{State: relay.StateHeld}, relay.VerbDelete, n)
		h.list(t, relay.Filter{})
	}},
}
