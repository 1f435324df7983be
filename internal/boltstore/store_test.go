package boltstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/internal/storetest"
	"stsrelay/relay"
	"stsrelay/stscache"
)

func mustAccept(t testing.TB, s *Store, id relay.ID, dest relay.Destination) {
	t.Helper()
	if err := acceptOne(s, newMessage(id, dest), "body of "+string(id)); err != nil {
		t.Fatal(err)
	}
}

func mustClaim(t *testing.T, s *Store, dest relay.Destination, want int) []relay.Entry {
	t.Helper()
	e, err := s.Claim(t.Context(), dest, 1000)
	if err != nil || len(e) != want {
		t.Fatalf("claimed %d, %v; want %d", len(e), err, want)
	}
	return e
}

func mustDefer(t *testing.T, s *Store, e relay.Entry, d time.Duration) {
	t.Helper()
	lost, err := s.Settle(t.Context(), []relay.Result{{ID: e.ID, Lease: e.Lease, Left: e.To, Delay: d}})
	if err != nil || len(lost) > 0 {
		t.Fatal(lost, err)
	}
}

func TestMemory(t *testing.T) {
	spooled := func(t *testing.T, s *Store) int {
		t.Helper()
		files, err := os.ReadDir(s.spoolDir())
		if err != nil {
			t.Fatal(err)
		}
		return len(files)
	}
	t.Run("bodies beyond the budget of all go to files, and the budget comes back", func(t *testing.T) {
		o := testOptions
		o.MemoryBudget = 20 << 10
		s := openTest(t, t.TempDir(), o, &world{})
		var bodies []relay.BodyWriter
		for range 10 {
			b, err := s.NewBody(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for range 8 {
				if _, err := b.Write(make([]byte, 1<<10)); err != nil {
					t.Fatal(err)
				}
			}
			bodies = append(bodies, b)
			if m := s.memory.Load(); m > o.MemoryBudget {
				t.Errorf("%d octets in memory, the budget is %d", m, o.MemoryBudget)
			}
		}
		if n := spooled(t, s); n < 8 {
			t.Errorf("%d bodies of 10 went to files", n)
		}
		for i, b := range bodies {
			if i%2 == 0 {
				b.Discard()
			} else if err := s.Accept(t.Context(), newMessage(relay.ID(fmt.Sprint(i)), "example.com"), b); err != nil {
				t.Error(err)
			}
		}
		if m := s.memory.Load(); m != 0 {
			t.Errorf("%d octets are still reserved", m)
		}
	})
	t.Run("small bodies make no files", func(t *testing.T) {
		s := openTest(t, t.TempDir(), testOptions, &world{})
		mustAccept(t, s, "1", "example.com")
		if n := spooled(t, s); n != 0 {
			t.Errorf("%d files", n)
		}
	})
	t.Run("a settled message's file goes, one that was refused too", func(t *testing.T) {
		dir, w := t.TempDir(), &world{}
		s := openTest(t, dir, testOptions, w)
		large := strings.Repeat("x", 40<<10)
		if err := acceptOne(s, newMessage("1", "example.com"), large); err != nil {
			t.Fatal(err)
		}
		if acceptOne(s, newMessage("1", "example.com"), large) == nil {
			t.Fatal("accepted twice")
		}
		w.set(func() { w.fault = storetest.NotWritten })
		if acceptOne(s, newMessage("2", "example.com"), large) == nil {
			t.Fatal("accepted without a commit")
		}
		w.set(func() { w.fault, w.shift = storetest.NoFault, time.Minute })
		e := mustClaim(t, s, "example.com", 1)[0]
		if _, err := s.Settle(t.Context(), []relay.Result{{ID: e.ID, Lease: e.Lease}}); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil { // waits for the removal
			t.Fatal(err)
		}
		if n := spooled(t, s); n != 0 {
			t.Errorf("%d files left", n)
		}
	})
}

func TestFreeSpace(t *testing.T) {
	w := &world{}
	s := openTest(t, t.TempDir(), testOptions, w)
	mustAccept(t, s, "1", "example.com")
	w.set(func() { w.free = testOptions.FreeSpace - 1 })
	if err := acceptOne(s, newMessage("2", "example.com"), "x"); !errors.Is(err, relay.ErrUnavailable) {
		t.Errorf("accepting below the watermark: %v", err)
	}
	if err := s.Health(); !errors.Is(err, relay.ErrUnavailable) || !strings.Contains(err.Error(), "free") {
		t.Errorf("health: %v", err)
	}
	mustDefer(t, s, mustClaim(t, s, "example.com", 1)[0], time.Minute) // settling still works
	w.set(func() { w.free = testOptions.FreeSpace })
	mustAccept(t, s, "2", "example.com")
	if err := s.Health(); err != nil {
		t.Errorf("health: %v", err)
	}
}

func TestHealth(t *testing.T) {
	w := &world{}
	s := openTest(t, t.TempDir(), testOptions, w)
	w.set(func() { w.fault = storetest.NotWritten })
	_ = acceptOne(s, newMessage("1", "example.com"), "x") // fails; Health tells
	if err := s.Health(); !errors.Is(err, errInjected) {
		t.Errorf("after a failed commit: %v", err)
	}
	before := w.tried
	for range 10 {
		if _, err := s.Claim(t.Context(), "example.com", 1); !errors.Is(err, relay.ErrUnavailable) {
			t.Errorf("claiming while nothing can be written: %v", err)
		}
		w.set(func() { w.shift += 210 * time.Millisecond })
	}
	if n := w.tried - before; n < 1 || n > 2 {
		t.Errorf("%d commits tried in two seconds", n)
	}
	w.set(func() { w.fault = storetest.NoFault })
	mustAccept(t, s, "1", "example.com")
	if err := s.Health(); err != nil {
		t.Errorf("after a good one: %v", err)
	}
}

func TestClockSteps(t *testing.T) {
	in := func(t *testing.T, s *Store) time.Duration {
		t.Helper()
		d, err := s.Due(t.Context(), "", 1)
		if err != nil || len(d) != 1 {
			t.Fatal(d, err)
		}
		return d[0].In
	}
	deferred := func(t *testing.T) (*Store, *world, string) {
		dir, w := t.TempDir(), &world{}
		s := openTest(t, dir, testOptions, w)
		mustAccept(t, s, "1", "example.com")
		mustDefer(t, s, mustClaim(t, s, "example.com", 1)[0], time.Hour)
		return s, w, dir
	}
	t.Run("no delay exceeds its planned length after the clock was set back", func(t *testing.T) {
		s, w, _ := deferred(t)
		w.set(func() { w.step = -24 * time.Hour })
		if d := in(t, s); d > time.Hour {
			t.Errorf("due in %v", d)
		}
		waitRepaired(t, s)
		w.set(func() { w.shift += time.Hour + time.Second })
		mustClaim(t, s, "example.com", 1)
	})
	t.Run("no delay exceeds its planned length when the clock was set back while the store was closed", func(t *testing.T) {
		s, w, dir := deferred(t)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		w.set(func() { w.step = -24 * time.Hour })
		s = openTest(t, dir, testOptions, w)
		waitRepaired(t, s)
		w.set(func() { w.shift += time.Hour + time.Second })
		mustClaim(t, s, "example.com", 1)
	})
	t.Run("what is due now is still due now after the clock was set back", func(t *testing.T) {
		w := &world{}
		s := openTest(t, t.TempDir(), testOptions, w)
		mustAccept(t, s, "2", "example.com")
		mustDefer(t, s, mustClaim(t, s, "example.com", 1)[0], time.Hour)
		if _, err := s.Edit(t.Context(), relay.Filter{}, relay.Action{Verb: relay.VerbRetry}); err != nil {
			t.Fatal(err)
		}
		mustAccept(t, s, "1", "example.com")
		w.set(func() { w.step = -24 * time.Hour })
		mustClaim(t, s, "example.com", 2)
	})
	t.Run("leases do not end with a step of the wall clock", func(t *testing.T) {
		w := &world{}
		s := openTest(t, t.TempDir(), testOptions, w)
		mustAccept(t, s, "1", "example.com")
		mustClaim(t, s, "example.com", 1)
		w.set(func() { w.step = 1000 * time.Hour })
		mustClaim(t, s, "example.com", 0)
	})
	t.Run("an age is never negative", func(t *testing.T) {
		s, w, _ := deferred(t)
		w.set(func() { w.step = -24 * time.Hour })
		e, _, err := s.List(t.Context(), relay.Filter{}, "", 1)
		if err != nil || len(e) != 1 || e[0].Age < 0 || e[0].Due > time.Hour {
			t.Errorf("%+v, %v", e, err)
		}
	})
}

// waitRepaired waits until no entry is due later than planned.
func waitRepaired(t *testing.T, s *Store) {
	t.Helper()
	for t.Context().Err() == nil {
		late, _, err := s.tooLate([]byte{})
		if err != nil {
			t.Fatal(err)
		}
		if len(late) == 0 {
			return
		}
		runtime.Gosched()
	}
}

func TestDamagedRecords(t *testing.T) {
	// spoil gives entry 1-1 a version that this program does not know.
	spoil := func(t *testing.T) *Store {
		s := openTest(t, t.TempDir(), testOptions, &world{})
		for _, id := range []relay.ID{"1", "2"} {
			mustAccept(t, s, id, "example.com")
		}
		err := s.do(t.Context(), 0, func(b *batch) error {
			v := append([]byte{}, b.entry.Get([]byte("1-1"))...)
			v[0] = 9
			b.put(b.entry, []byte("1-1"), v)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	t.Run("a record of an unknown version is named, never silently empty", func(t *testing.T) {
		s := spoil(t)
		_, _, err := s.List(t.Context(), relay.Filter{}, "", 10)
		if err == nil || !strings.Contains(err.Error(), "1-1") || !strings.Contains(err.Error(), "version 9") {
			t.Errorf("List: %v", err)
		}
		if _, err := s.Edit(t.Context(), relay.Filter{}, relay.Action{Verb: relay.VerbDelete}); err == nil {
			t.Error("Edit did not mind")
		}
	})
	t.Run("it does not keep its neighbours from being delivered", func(t *testing.T) {
		s := spoil(t)
		if e := mustClaim(t, s, "example.com", 1); e[0].ID != "2-1" {
			t.Errorf("claimed %s", e[0].ID)
		}
		if d, err := s.Due(t.Context(), "", 10); err != nil || len(d) != 0 {
			t.Errorf("it is due again at once: %v, %v", d, err)
		}
	})
	t.Run("records that are cut off are errors", func(t *testing.T) {
		r := record{message: "m", dest: "d", details: []byte("{}")}
		full := r.encode()
		for n := range recordHeader + 2 {
			if _, err := decodeRecord(full[:n]); err == nil {
				t.Errorf("%d octets of an entry were read", n)
			}
		}
		p := encodePolicy(stscache.Entry{ID: "id", Body: []byte("b")})
		for n := range len(p) {
			if _, err := decodePolicy(addr.MustDomain("a.example"), p[:n]); err == nil {
				t.Errorf("%d octets of a policy were read", n)
			}
		}
		binary.BigEndian.PutUint32(p[policyHeader:], 1<<31)
		if _, err := decodePolicy(addr.MustDomain("a.example"), p); err == nil {
			t.Error("a length beyond the record was read")
		}
	})
}

func FuzzRecords(f *testing.F) {
	r := record{message: "m", dest: "d", details: []byte(`{"From":"a@b.example"}`)}
	f.Add(r.encode())
	f.Add((&shared{left: 1, entries: []relay.ID{"a", "b"}, spool: "s"}).encode())
	f.Add(encodePolicy(stscache.Entry{ID: "id", Body: []byte("b")}))
	f.Fuzz(func(t *testing.T, v []byte) {
		if r, err := decodeRecord(v); err == nil {
			if got := r.encode(); string(got) != string(v) {
				t.Errorf("entry %x came back as %x", v, got)
			}
			_, _ = r.entry("id", 0) // must not panic
		}
		if m, err := decodeShared(v); err == nil && len(m.spool) > 0 {
			if got := m.encode(); string(got) != string(v) {
				t.Errorf("message %x came back as %x", v, got)
			}
		}
		_, _ = decodePolicy(addr.MustDomain("a.example"), v) // must not panic
		_, _, _ = readTally(v, policyNumbers)
		_, _ = readCounters(v)
		_, _, _, _ = splitDueKey(v)
	})
}

// TestFull lets bbolt itself fail, where it wants to grow its file.
func TestFull(t *testing.T) {
	s := openTest(t, t.TempDir(), testOptions, &world{})
	body := strings.Repeat("x", 10<<10)
	info, err := os.Stat(s.path())
	if err != nil {
		t.Fatal(err)
	}
	s.db.MaxSize = int(info.Size()) + 1<<20
	var acked []relay.ID
	for len(acked) < 10_000 {
		id := relay.ID(fmt.Sprintf("%05d", len(acked)))
		if err = acceptOne(s, newMessage(id, "example.com"), body); err != nil {
			break
		}
		acked = append(acked, id)
	}
	if !errors.Is(err, relay.ErrUnavailable) || len(acked) == 0 {
		t.Fatalf("after %d messages: %v", len(acked), err)
	}
	if s.Health() == nil {
		t.Error("a full store is healthy")
	}
	s.db.MaxSize = 0
	mustAccept(t, s, "later", "example.net")
	if got := mustClaim(t, s, "example.com", min(len(acked), maxClaimPerCall)); got[0].Message != acked[0] {
		t.Errorf("first is %s", got[0].Message)
	}
	if n := countKeys(t, s, bMessage); n != len(acked)+1 {
		t.Errorf("%d messages, want %d", n, len(acked)+1)
	}
	verifyIntegrity(t, s)
}
