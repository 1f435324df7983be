package storetest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/relay"
	"stsrelay/stscache"
	"stsrelay/tlsrpt"
)

var faultCases = []queueCase{
	{"Accept that was not written is ErrUnavailable, leaves nothing, and works again later", func(t *testing.T, h *Harness) {
		for _, body := range []string{"small", strings.Repeat("L", 2*h.Large)} {
			h.Fail(NotWritten)
			if err := h.tryAccept(t, message("1", "a.example"), body); !errors.Is(err, relay.ErrUnavailable) {
				t.Errorf("got %v", err)
			}
			h.heal()
			h.list(t, relay.Filter{})
			h.accept(t, message("1", "a.example"), body)
			if h.body(t, "1") != body {
				t.Error("another body")
			}
			h.edit(t, relay.Filter{}, relay.VerbDelete, 1)
		}
	}},
	{"Accept that was written all the same is ErrUnknownOutcome, and can be forgotten", func(t *testing.T, h *Harness) {
		body := strings.Repeat("L", 2*h.Large)
		h.Fail(Written)
		err := h.tryAccept(t, message("1", "a.example"), body)
		if !errors.Is(err, relay.ErrUnknownOutcome) || errors.Is(err, relay.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
		h.heal()
		if h.body(t, "1") != body {
			t.Error("another body")
		}
		if err := h.Forget(t.Context(), "1"); err != nil {
			t.Fatal(err)
		}
		h.list(t, relay.Filter{})
	}},
	{"Settle that was not written applies nothing, and the lease stands", func(t *testing.T, h *Harness) {
		h.accept(t, message("1", "a.example"), "x")
		r := done(h.claim(t, "a.example", "1a")[0])
		r.Notices = []relay.Composed{notice("2", "dsn"), notice("3", strings.Repeat("d", 2*h.Large))}
		r.Sessions = []tlsrpt.Session{session("a.example")}
		h.Fail(NotWritten)
		if _, err := h.Settle(t.Context(), []relay.Result{r}); !errors.Is(err, relay.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
		h.heal()
		h.list(t, relay.Filter{}, "1a")
		h.claim(t, "a.example")
		h.settle(t, r)
		h.list(t, relay.Filter{}, "2a", "3a")
		wantSums(t, h, "a.example", 1, 0)
	}},
	{"Settle that was written all the same is not applied a second time", func(t *testing.T, h *Harness) {
		h.accept(t, message("1", "a.example"), "x")
		r := later(h.claim(t, "a.example", "1a")[0], 0)
		r.Notices = []relay.Composed{notice("2", "dsn")}
		r.Sessions = []tlsrpt.Session{session("a.example")}
		h.Fail(Written)
		if _, err := h.Settle(t.Context(), []relay.Result{r}); !errors.Is(err, relay.ErrUnknownOutcome) {
			t.Errorf("got %v", err)
		}
		h.heal()
		h.wantLost(t, r)
		if e := h.claim(t, "a.example", "1a")[0]; e.Attempts != 1 {
			t.Errorf("%d attempts", e.Attempts)
		}
		h.list(t, relay.Filter{}, "1a", "2a")
		wantSums(t, h, "a.example", 1, 0)
	}},
	{"nothing is claimed while the store cannot write", func(t *testing.T, h *Harness) {
		h.accept(t, message("1", "a.example"), "x")
		h.Fail(NotWritten)
		_ = h.tryAccept(t, message("2", "a.example"), "x")
		if e, err := h.Claim(t.Context(), "a.example", 1); !errors.Is(err, relay.ErrUnavailable) {
			t.Errorf("claimed %v, %v", e, err)
		}
		h.Advance(time.Minute)
		if e, err := h.Claim(t.Context(), "a.example", 1); !errors.Is(err, relay.ErrUnavailable) {
			t.Errorf("claimed a minute later %v, %v", e, err)
		}
		h.heal()
		h.claim(t, "a.example", "1a")
	}},
	{"every other write that fails says so and leaves things as they were", func(t *testing.T, h *Harness) {
		filled(t, h)
		domain := addr.MustDomain("p.example")
		if err := h.PutPolicy(t.Context(), stscache.Entry{Domain: domain, ID: "old"}); err != nil {
			t.Fatal(err)
		}
		h.Fail(NotWritten)
		_, err := h.Edit(t.Context(), relay.Filter{}, relay.Action{Verb: relay.VerbDelete})
		for name, err := range map[string]error{
			"Edit": err, "Forget": h.Forget(t.Context(), "1"), "DeletePolicy": h.DeletePolicy(t.Context(), domain),
			"PutPolicy": h.PutPolicy(t.Context(), stscache.Entry{Domain: domain, ID: "new"}),
		} {
			if !errors.Is(err, relay.ErrUnavailable) {
				t.Errorf("%s: %v", name, err)
			}
		}
		h.heal()
		h.list(t, relay.Filter{}, "1a", "1b", "2a", "3a", "4a")
		if e, err := h.Policy(t.Context(), domain); err != nil || e.ID != "old" {
			t.Errorf("policy %+v, %v", e, err)
		}
	}},
	{"SMTP-6.1-01 whatever fails, an accepted message is queued or settled", func(t *testing.T, h *Harness) {
		const seed = 7
		rnd := rand.New(rand.NewPCG(seed, seed))
		m := &model{h: h, queued: map[relay.ID]bool{}, unknown: map[relay.ID]bool{}}
		for i := range 300 {
			h.Fail([]Fault{NoFault, NoFault, NotWritten, Written}[rnd.IntN(4)])
			switch rnd.IntN(3) {
			case 0:
				m.accept(t, relay.ID(fmt.Sprintf("m%04d", i)))
			case 1:
				m.deliver(t, rnd.IntN(3) == 0)
			case 2:
				if rnd.IntN(10) == 0 {
					h.Fail(NoFault)
					h.Reopen(t)
				}
			}
		}
		h.Fail(NoFault)
		m.verify(t)
	}},
}

// A model is what a relay knows that answered 250 only when Accept returned nil.
type model struct {
	h       *Harness
	queued  map[relay.ID]bool // accepted, not settled
	unknown map[relay.ID]bool // either
}

func (m *model) accept(t *testing.T, id relay.ID) {
	switch err := m.h.tryAccept(t, message(id, "a.example"), "body of "+string(id)); {
	case err == nil:
		m.queued[id] = true
	case errors.Is(err, relay.ErrUnknownOutcome):
		m.unknown[id] = true
	case !errors.Is(err, relay.ErrUnavailable):
		t.Errorf("Accept(%s): %v", id, err)
	}
}

func (m *model) deliver(t *testing.T, deferred bool) {
	m.h.Advance(2 * time.Second) // so that the store tries again, if it cannot write
	entries, err := m.h.Claim(t.Context(), "a.example", 2)
	if err != nil {
		return
	}
	for _, e := range entries {
		if !m.queued[e.Message] && !m.unknown[e.Message] {
			t.Errorf("%s was claimed, but it was settled or never accepted", e.ID)
		}
		r := done(e)
		if deferred {
			r = later(e, 0)
		}
		lost, err := m.h.Settle(t.Context(), []relay.Result{r})
		switch {
		case len(lost) > 0:
			t.Errorf("%s is lost", e.ID)
		case err == nil && !deferred:
			delete(m.queued, e.Message)
			delete(m.unknown, e.Message)
		case errors.Is(err, relay.ErrUnknownOutcome):
			delete(m.queued, e.Message)
			m.unknown[e.Message] = true
		case errors.Is(err, relay.ErrUnavailable):
			if err := m.h.Unclaim(t.Context(), []relay.Entry{e}); err != nil {
				t.Error(err)
			}
		}
	}
}

func (m *model) verify(t *testing.T) {
	entries, _, err := m.h.List(t.Context(), relay.Filter{}, "", 10000)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !m.queued[e.Message] && !m.unknown[e.Message] {
			t.Errorf("%s is queued, but it was settled or never accepted", e.ID)
		}
		if got := m.h.body(t, e.Message); got != "body of "+string(e.Message) {
			t.Errorf("%s has body %q", e.ID, got)
		}
		delete(m.queued, e.Message)
	}
	for id := range m.queued {
		t.Errorf("%s was accepted and is lost", id)
	}
}

var restartCases = []queueCase{
	{"a restart resumes everything as it was", func(t *testing.T, h *Harness) {
		filled(t, h)
		large := strings.Repeat("large\n", h.Large)
		h.accept(t, message("5", "e.example"), large)
		h.edit(t, relay.Filter{IDs: []relay.ID{"4"}}, relay.VerbBounce, 1)
		before := h.list(t, relay.Filter{}, "1a", "1b", "2a", "3a", "4a", "5a")
		h.Reopen(t)
		for i, e := range h.list(t, relay.Filter{}, "1a", "1b", "2a", "3a", "4a", "5a") {
			b := before[i]
			b.Lease, b.Age, b.Due, e.Age, e.Due = 0, 0, 0, 0, 0
			if fmt.Sprint(e) != fmt.Sprint(b) {
				t.Errorf("%s is %+v, was %+v", e.ID, e, b)
			}
		}
		if h.body(t, "1") != "x" || h.body(t, "5") != large {
			t.Error("another body")
		}
		if in := h.due(t)["a.example"]; in < 30*time.Minute || in > time.Hour {
			t.Errorf("1a is due in %v", in)
		}
	}},
	{"a restart voids leases: entries are due as they were, and old tokens are lost", func(t *testing.T, h *Harness) {
		h.accept(t, message("1", "a.example"), "x")
		old := h.claim(t, "a.example", "1a")[0]
		h.Reopen(t)
		fresh := h.claim(t, "a.example", "1a")[0]
		if fresh.Lease <= old.Lease {
			t.Errorf("token %d after %d", fresh.Lease, old.Lease)
		}
		h.wantLost(t, done(old))
		h.settle(t, done(fresh))
	}},
}
