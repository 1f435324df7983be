package storetest

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"stsrelay/relay"
	"stsrelay/tlsrpt"
)

var concurrencyCases = []queueCase{
	{"under many hands each message is settled exactly once", func(t *testing.T, h *Harness) {
		const accepters, each = 8, 40
		w := &workers{h: h, settled: make(map[relay.ID]int), stop: make(chan struct{})}
		var others sync.WaitGroup
		for i := range 6 {
			others.Go(func() { w.deliver(t, i) })
		}
		others.Go(func() { w.meddle(t) })
		others.Go(func() { w.look(t) })
		inParallel(accepters, func(i int) {
			for j := range each {
				id := relay.ID(fmt.Sprintf("%02d-%03d", i, j))
				size := 100
				if j%10 == 0 {
					size = 2 * h.Large
				}
				if err := h.tryAccept(t, message(id, dest(i), dest(j)+".x"), bodyOf(id, size)); err != nil {
					t.Error(err)
				}
			}
		})
		w.waitFor(t, accepters*each*2)
		close(w.stop)
		others.Wait()
		for id, n := range w.settled {
			if n != 1 {
				t.Errorf("%s was settled %d times", id, n)
			}
		}
		h.list(t, relay.Filter{})
		wantSums(t, h, "a.example", accepters*each*2, 0)
	}},
}

func dest(i int) relay.Destination { return relay.Destination(fmt.Sprintf("d%d.example", i%5)) }

func bodyOf(id relay.ID, size int) string {
	return strings.Repeat(string(id)+"\n", size/(len(id)+1))
}

type workers struct {
	h    *Harness
	stop chan struct{}

	mu      sync.Mutex
	settled map[relay.ID]int
}

func (w *workers) stopped() bool {
	select {
	case <-w.stop:
		return true
	default:
		return false
	}
}

// waitFor ends when so many entries are settled; go test's own time limit
// bounds it.
func (w *workers) waitFor(t *testing.T, n int) {
	for {
		w.mu.Lock()
		have := len(w.settled)
		w.mu.Unlock()
		if have >= n || t.Failed() {
			return
		}
		w.round(t, 0, done)
	}
}

func (w *workers) deliver(t *testing.T, i int) {
	for !w.stopped() {
		w.round(t, i, func(e relay.Entry) relay.Result {
			if e.Attempts == 0 && i%2 == 0 {
				return later(e, 0)
			}
			return done(e)
		})
	}
}

// round claims what is due everywhere, checks it and settles it.
func (w *workers) round(t *testing.T, i int, outcome func(relay.Entry) relay.Result) {
	dests, err := w.h.Due(t.Context(), "", 100)
	if err != nil {
		t.Error(err)
	}
	for _, d := range dests {
		entries, err := w.h.Claim(t.Context(), d.Destination, 4)
		if err != nil {
			t.Error(err)
		}
		if i == 1 && len(entries) > 1 {
			if err := w.h.Unclaim(t.Context(), entries[:1]); err != nil {
				t.Error(err)
			}
			entries = entries[1:]
		}
		w.settle(t, entries, outcome)
	}
}

func (w *workers) settle(t *testing.T, entries []relay.Entry, outcome func(relay.Entry) relay.Result) {
	var results []relay.Result
	for _, e := range entries {
		if got := w.h.body(t, e.Message); got != bodyOf(e.Message, len(got)) || int64(len(got)) != e.Size {
			t.Errorf("%s has a body of %d octets that is not its own", e.ID, len(got))
		}
		r := outcome(e)
		if len(r.Left) == 0 {
			r.Sessions = []tlsrpt.Session{session("a.example")}
		}
		results = append(results, r)
	}
	lost, err := w.h.Settle(t.Context(), results)
	if err != nil || len(lost) > 0 {
		t.Errorf("Settle: lost %v, %v", lost, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range results {
		if len(r.Left) == 0 {
			w.settled[r.ID]++
		}
	}
}

// meddle holds and releases.
func (w *workers) meddle(t *testing.T) {
	for !w.stopped() {
		for _, v := range []relay.Verb{relay.VerbHold, relay.VerbRelease, relay.VerbRetry} {
			f := relay.Filter{To: "@d1.example"}
			if v == relay.VerbRelease {
				f = relay.Filter{}
			}
			if _, err := w.h.Edit(t.Context(), f, relay.Action{Verb: v}); err != nil {
				t.Error(err)
			}
		}
	}
}

// look reads what others change.
func (w *workers) look(t *testing.T) {
	for !w.stopped() {
		if _, _, err := w.h.List(t.Context(), relay.Filter{Older: time.Nanosecond}, "", 50); err != nil {
			t.Error(err)
		}
		s, err := w.h.Stats(t.Context())
		if err != nil || s.Active < 0 || s.Deferred < 0 || s.Held < 0 || s.Bytes < 0 {
			t.Errorf("Stats: %+v, %v", s, err)
		}
	}
}
