package storetest

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"stsrelay/delivery"
	"stsrelay/internal/addr"
	"stsrelay/relay"
	"stsrelay/tlsrpt"
)

var settleCases = []queueCase{
	{"Settle with no one left removes the entry, and the body with the last one", func(t *testing.T, h *Harness) {
		h.accept(t, message("1", "a.example", "b.example"), "content")
		h.settle(t, done(h.claim(t, "a.example", "1a")[0]))
		h.list(t, relay.Filter{}, "1b")
		if got := h.body(t, "1"); got != "content" {
			t.Errorf("body %q while an entry is left", got)
		}
		h.settle(t, done(h.claim(t, "b.example", "1b")[0]))
		h.list(t, relay.Filter{})
		if _, err := h.Body(t.Context(), "1"); !errors.Is(err, relay.ErrNotFound) {
			t.Errorf("body of a settled message: %v", err)
		}
		if got := h.due(t); len(got) != 0 {
			t.Errorf("due: %v", got)
		}
	}},
	{"Settle keeps the recipients that are left, and what became of them", func(t *testing.T, h *Harness) {
		h.accept(t, message("1", "a.example"), "x")
		e := h.claim(t, "a.example", "1a")[0]
		left := e.To[1:]
		left[0].Warned = true
		left[0].Last = &relay.Note{At: time.Unix(5, 0).UTC(), Reason: delivery.TimedOut, Code: 451, Enhanced: [3]int{4, 4, 2}, Text: "slow"}
		h.settle(t, relay.Result{ID: e.ID, Lease: e.Lease, Left: left, Delay: time.Minute, Tried: true})
		got := h.list(t, relay.Filter{}, "1a")[0]
		if !reflect.DeepEqual(got.To, left) {
			t.Errorf("left %+v, want %+v", got.To, left)
		}
		if got.Attempts != 1 || got.From != e.From || !reflect.DeepEqual(got.Options, e.Options) || !got.Arrived.Equal(e.Arrived) {
			t.Errorf("entry changed: %+v, was %+v", got, e)
		}
	}},
	{"an entry waits for its delay, by the store's clock", func(t *testing.T, h *Harness) {
		h.accept(t, message("1", "a.example"), "x")
		h.Advance(time.Hour)
		h.settle(t, later(h.claim(t, "a.example", "1a")[0], 10*time.Minute))
		if in := h.due(t)["a.example"]; in > 10*time.Minute || in < 9*time.Minute {
			t.Errorf("due in %v", in)
		}
		h.Advance(9 * time.Minute)
		h.claim(t, "a.example")
		h.Advance(2 * time.Minute)
		h.claim(t, "a.example", "1a")
	}},
	{"only a result that was tried counts as an attempt", func(t *testing.T, h *Harness) {
		h.accept(t, message("1", "a.example"), "x")
		r := later(h.claim(t, "a.example", "1a")[0], 0)
		r.Tried = false
		h.settle(t, r)
		e := h.claim(t, "a.example", "1a")[0]
		if e.Attempts != 0 {
			t.Errorf("%d attempts, want 0", e.Attempts)
		}
		h.settle(t, later(e, 0))
		if e = h.claim(t, "a.example", "1a")[0]; e.Attempts != 1 {
			t.Errorf("%d attempts, want 1", e.Attempts)
		}
	}},
	{"the history keeps the newest notes, newest last", func(t *testing.T, h *Harness) {
		h.accept(t, message("1", "a.example"), "x")
		const n = relay.MaxHistory + 5
		for i := range n {
			r := later(h.claim(t, "a.example", "1a")[0], 0)
			r.Note = &relay.Note{Text: fmt.Sprint(i)}
			h.settle(t, r)
		}
		got := h.list(t, relay.Filter{}, "1a")[0].History
		if len(got) != relay.MaxHistory || got[0].Text != fmt.Sprint(n-relay.MaxHistory) || got[len(got)-1].Text != fmt.Sprint(n-1) {
			t.Errorf("%d notes, from %q to %q", len(got), got[0].Text, got[len(got)-1].Text)
		}
	}},
	{"Settle queues notices, due at once, and counts sessions", func(t *testing.T, h *Harness) {
		h.accept(t, message("1", "a.example"), "x")
		r := done(h.claim(t, "a.example", "1a")[0])
		large := strings.Repeat("n", 2*h.Large)
		r.Notices = []relay.Composed{notice("2", "small"), notice("3", large)}
		r.Sessions = []tlsrpt.Session{session("a.example"), session("a.example", tlsrpt.CertificateExpired)}
		h.settle(t, r)
		e := h.claim(t, "sender.example", "2a", "3a")
		if !e[0].From.IsNull() || !e[0].Options.Notice {
			t.Errorf("the notice became %+v", e[0])
		}
		if h.body(t, "2") != "small" || h.body(t, "3") != large {
			t.Error("a notice has another body")
		}
		wantSums(t, h, "a.example", 1, 1)
	}},
	{"Settle of a lost lease applies none of its result, and all of the others", func(t *testing.T, h *Harness) {
		h.accept(t, message("1", "a.example"), "x")
		h.accept(t, message("2", "a.example"), "y")
		e := h.claim(t, "a.example", "1a", "2a")
		bad := later(e[0], time.Hour)
		bad.Lease++
		bad.Notices = []relay.Composed{notice("8", "never")}
		bad.Sessions = []tlsrpt.Session{session("a.example")}
		good := done(e[1])
		good.Notices = []relay.Composed{notice("9", "queued")}
		lost, err := h.Settle(t.Context(), []relay.Result{bad, good, {ID: "unknown", Lease: 1}})
		if err != nil || !reflect.DeepEqual(lost, []relay.ID{"1a", "unknown"}) {
			t.Errorf("lost %v, %v", lost, err)
		}
		h.list(t, relay.Filter{}, "1a", "9a")
		if got := h.tallies(t, ""); len(got) != 0 {
			t.Errorf("sessions of a lost result were counted: %+v", got)
		}
		h.settle(t, done(e[0])) // its own lease still stands
	}},
	{"an entry can be settled once for each lease", func(t *testing.T, h *Harness) {
		h.accept(t, message("1", "a.example"), "x")
		e := h.claim(t, "a.example", "1a")[0]
		r := later(e, 0)
		r.Sessions = []tlsrpt.Session{session("a.example")}
		lost, err := h.Settle(t.Context(), []relay.Result{r, r})
		if err != nil || len(lost) != 1 {
			t.Errorf("lost %v, %v", lost, err)
		}
		h.wantLost(t, r)
		if got := h.list(t, relay.Filter{}, "1a")[0]; got.Attempts != 1 {
			t.Errorf("%d attempts", got.Attempts)
		}
		wantSums(t, h, "a.example", 1, 0)
	}},
	{"Settle that cannot be applied as a whole is not applied in part", func(t *testing.T, h *Harness) {
		h.accept(t, message("1", "a.example"), "x")
		h.accept(t, message("2", "a.example"), "y")
		h.accept(t, message("5", "b.example"), "z")
		e := h.claim(t, "a.example", "1a", "2a")
		for name, n := range map[string]relay.Composed{"ID is taken": notice("5", "x"), "no entries": {Message: relay.Message{ID: "7"}}} {
			second := done(e[1])
			second.Notices = []relay.Composed{notice("6", "x"), n}
			if _, err := h.Settle(t.Context(), []relay.Result{done(e[0]), second}); err == nil {
				t.Errorf("%s: no error", name)
			}
			h.list(t, relay.Filter{}, "1a", "2a", "5a")
		}
		h.accept(t, message("3", "b.example"), "others are not spoiled")
		h.settle(t, done(e[0]), done(e[1]))
	}},
	{"Settle with a context that has ended writes nothing, and the lease stands", func(t *testing.T, h *Harness) {
		h.accept(t, message("1", "a.example"), "x")
		e := h.claim(t, "a.example", "1a")[0]
		if _, err := h.Settle(canceled(t), []relay.Result{done(e)}); !errors.Is(err, relay.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
		h.settle(t, done(e))
	}},
	{"Settle of nothing is nothing", func(t *testing.T, h *Harness) { h.settle(t) }},
	{"a hold set while an entry is tried takes effect once it is settled", func(t *testing.T, h *Harness) {
		h.accept(t, message("1", "a.example"), "x")
		e := h.claim(t, "a.example", "1a")[0]
		h.edit(t, relay.Filter{}, relay.VerbHold, 1)
		h.list(t, relay.Filter{State: relay.StateActive}, "1a")
		h.settle(t, later(e, 0))
		h.list(t, relay.Filter{State: relay.StateHeld}, "1a")
		h.claim(t, "a.example")
		h.edit(t, relay.Filter{}, relay.VerbRelease, 1)
		h.claim(t, "a.example", "1a")
	}},
	{"a bounce asked for while an entry is tried makes it due once it is settled", func(t *testing.T, h *Harness) {
		h.accept(t, message("1", "a.example"), "x")
		e := h.claim(t, "a.example", "1a")[0]
		h.edit(t, relay.Filter{}, relay.VerbBounce, 1)
		h.settle(t, later(e, time.Hour))
		e = h.claim(t, "a.example", "1a")[0]
		if !e.Bounce {
			t.Error("Bounce is not set")
		}
		h.settle(t, later(e, time.Hour)) // who has seen it may wait
		h.claim(t, "a.example")
	}},
	{"deleting an entry that is tried makes its lease lost", func(t *testing.T, h *Harness) {
		h.accept(t, message("1", "a.example"), "x")
		e := h.claim(t, "a.example", "1a")[0]
		h.edit(t, relay.Filter{}, relay.VerbDelete, 1)
		h.wantLost(t, later(e, 0))
		h.list(t, relay.Filter{})
	}},
}

// notice is a DSN to the sender.
func notice(id relay.ID, body string) relay.Composed {
	m := message(id, "sender.example")
	m.From = addr.Address{}
	m.Options = relay.Options{Notice: true}
	m.Size = int64(len(body))
	return relay.Composed{Message: m, Body: []byte(body)}
}
