package stscache

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"stsrelay/internal/addr"

	"github.com/rs/zerolog"
)

// A faultyStore fails when the test wants it, and lets the test act between the
// reading of all entries and the use of one.
type faultyStore struct {
	*pretence
	between func()

	faults          sync.Mutex
	noRead, noWrite error
	writes          int // tried since the faults were set
}

func (f *faultyStore) set(noRead, noWrite error) {
	f.faults.Lock()
	defer f.faults.Unlock()
	f.noRead, f.noWrite, f.writes = noRead, noWrite, 0
}

func (f *faultyStore) tried() int {
	f.faults.Lock()
	defer f.faults.Unlock()
	return f.writes
}

func (f *faultyStore) Policy(ctx context.Context, d addr.Domain) (Entry, error) {
	f.faults.Lock()
	fault := f.noRead
	f.faults.Unlock()
	if fault != nil {
		return Entry{}, fault
	}
	return f.pretence.Policy(ctx, d)
}

func (f *faultyStore) PutPolicy(ctx context.Context, e Entry) error {
	f.faults.Lock()
	f.writes++
	fault := f.noWrite
	f.faults.Unlock()
	if fault != nil {
		return fault
	}
	return f.pretence.PutPolicy(ctx, e)
}

func (f *faultyStore) Policies(ctx context.Context) iter.Seq2[Entry, error] {
	all := f.pretence.Policies(ctx)
	return func(yield func(Entry, error) bool) {
		for e, err := range all {
			if f.between != nil {
				f.between()
			}
			if !yield(e, err) {
				return
			}
		}
	}
}

var errDisk = errors.New("disk on fire")

// faulty is a Cache whose store has an enforce policy of ten days for domain.
func faulty(t *testing.T) (*Cache, *faultyStore) {
	t.Helper()
	f := &faultyStore{pretence: &pretence{ttl: time.Minute, records: []string{"v=STSv1; id=1"}, entries: map[addr.Domain]Entry{}}}
	f.entries[domain] = enforced(domain, 0)
	return New(Options{Store: f, Resolver: f, Dialer: f, Log: zerolog.Nop()}), f
}

// enforced is an enforce policy of ten days, fetched some time ago.
func enforced(d addr.Domain, ago time.Duration) Entry {
	at := time.Now().Add(-ago).Round(0)
	return Entry{Domain: d, ID: "1", Fetched: at, Used: at, Body: []byte("version: STSv1\nmode: enforce\nmx: mx.example.com\nmax_age: 864000\n")}
}

// A fetch fails while the store cannot be read: what ruled goes on ruling, in
// memory and in the store.
func TestAnUnreadableStoreTakesNoPolicyAway(t *testing.T) {
	for _, remembered := range []bool{true, false} {
		t.Run(fmt.Sprintf("in memory: %v", remembered), func(t *testing.T) {
			c, f := faulty(t)
			if s := c.Lookup(t.Context(), domain); s.Policy == nil {
				t.Fatalf("%+v", s)
			}
			if !remembered {
				c.memory.Purge()
			}
			f.set(errDisk, nil)
			s := c.fetchShared(t.Context(), errand{domain: domain, id: "2"}) // there is no network
			if remembered && (s.Policy == nil || !errors.Is(s.Err, ErrFetch)) {
				t.Errorf("while it cannot be read: %+v", s)
			}
			if !remembered && (s.Policy != nil || !errors.Is(s.Err, ErrLookup) || !errors.Is(s.Err, errDisk)) {
				t.Errorf("while it cannot be read: %+v", s)
			}
			f.set(nil, nil)
			c.scan(t.Context())
			c.memory.Purge()
			if s := c.Lookup(t.Context(), domain); s.Policy == nil || s.Policy.Mode != Enforce {
				t.Errorf("when it can again: %+v", s)
			}
		})
	}
}

// An entry that cannot be read can be purged all the same.
func TestPurgeOfWhatCannotBeRead(t *testing.T) {
	c, f := faulty(t)
	f.set(errDisk, nil)
	if err := c.Purge(t.Context(), domain); err != nil {
		t.Fatal(err)
	}
	f.set(nil, nil)
	if len(f.entries) != 0 {
		t.Errorf("left: %v", f.entries)
	}
}

// What a scan read may be older than what a lookup has fetched since.
func TestAScanDropsNothingThatCameAfterItRead(t *testing.T) {
	c, f := faulty(t)
	f.entries[domain] = enforced(domain, 11*24*time.Hour) // over
	f.between = func() {
		c.update(t.Context(), domain, true, func(e *Entry) { *e = enforced(domain, 0) })
	}
	c.scan(t.Context())
	if e, ok := f.entries[domain]; !ok || !keep(e).live(time.Now()) {
		t.Errorf("the new policy is gone: %+v", e)
	}
	if s := c.Lookup(t.Context(), domain); s.Policy == nil {
		t.Errorf("%+v", s)
	}
}

// Nor does a lookup that found no record forget what another has fetched since.
func TestALookupForgetsNothingThatCameAfterItLooked(t *testing.T) {
	c, f := faulty(t)
	f.entries[domain] = enforced(domain, 11*24*time.Hour)
	f.records = nil
	k, err := c.load(t.Context(), domain)
	if err != nil {
		t.Fatal(err)
	}
	c.update(t.Context(), domain, true, func(e *Entry) { *e = enforced(domain, 0) })
	c.forget(t.Context(), domain, func(now *kept) bool { return next(now, "", ErrNoRecord, time.Now()).forget })
	if !next(k, "", ErrNoRecord, time.Now()).forget {
		t.Error("the old one was no ground to forget")
	}
	if s := c.Lookup(t.Context(), domain); s.Policy == nil || !errors.Is(s.Err, ErrNoRecord) {
		t.Errorf("%+v", s)
	}
}

// That we end, or have too much to do, is not the domain's fault: mail waits,
// and no failure is remembered of it.
func TestOurOwnFaultIsDoubt(t *testing.T) {
	want := func(t *testing.T, c *Cache, f *faultyStore, s Status) {
		t.Helper()
		if s.Policy != nil || !errors.Is(s.Err, ErrLookup) || errors.Is(s.Err, ErrFetch) || s.Since.IsZero() {
			t.Errorf("%+v", s)
		}
		if e := f.entries[domain]; e.Failures != 0 {
			t.Errorf("a failure is remembered: %+v", e)
		}
	}
	t.Run("too many fetches at once", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, f := faulty(t)
			delete(f.entries, domain)
			for range cap(c.slots) {
				c.slots <- struct{}{}
			}
			first := c.Lookup(t.Context(), domain)
			want(t, c, f, first)
			if second := c.Lookup(t.Context(), domain); !second.Since.Equal(first.Since) {
				t.Errorf("since %s, then %s", first.Since, second.Since)
			}
			f.entries[domain] = enforced(domain, 0)
			c.memory.Purge()
			f.records = []string{"v=STSv1; id=2"}
			if s := c.Lookup(t.Context(), domain); s.Policy == nil || !errors.Is(s.Err, ErrLookup) {
				t.Errorf("a live policy: %+v", s)
			}
		})
	})
	t.Run("Run ends", func(t *testing.T) {
		c, f := faulty(t)
		delete(f.entries, domain)
		ctx, stop := context.WithCancel(t.Context())
		stop()
		if err := c.Run(ctx); err != nil {
			t.Fatal(err)
		}
		want(t, c, f, c.Lookup(t.Context(), domain))
	})
	t.Run("Run ends while a fetch waits for its turn", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, f := faulty(t)
			delete(f.entries, domain)
			for range cap(c.slots) {
				c.slots <- struct{}{}
			}
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- c.Run(ctx) }()
			got := make(chan Status, 1)
			began := time.Now()
			go func() { got <- c.Lookup(context.WithoutCancel(ctx), domain) }()
			synctest.Wait()
			stop()
			want(t, c, f, <-got)
			if err := <-ended; err != nil {
				t.Error(err)
			}
			if waited := time.Since(began); waited != 0 {
				t.Errorf("it waited for %s", waited)
			}
		})
	})
}

// A caller that goes away is told what rules.
func TestACallerThatGoesAwayKeepsTheLivePolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, f := faulty(t)
		f.records = []string{"v=STSv1; id=2"}
		for range cap(c.slots) {
			c.slots <- struct{}{} // the fetch waits
		}
		ctx, leave := context.WithTimeout(t.Context(), time.Second)
		defer leave()
		if s := c.Lookup(ctx, domain); s.Policy == nil || !errors.Is(s.Err, ErrLookup) || !errors.Is(s.Err, context.DeadlineExceeded) {
			t.Errorf("%+v", s)
		}
		<-c.slots // the fetch goes on, and ends
		synctest.Wait()
	})
}

// What the store cannot take is tried again before the next scan, is bounded,
// and a lasting fault is not asked for each domain.
func TestWhatCannotBeWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, f := faulty(t)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- c.Run(ctx) }()
		synctest.Wait()
		f.set(nil, errDisk)
		for i := range 100 {
			c.update(t.Context(), addr.MustDomain(fmt.Sprintf("d%d.example", i)), true, func(e *Entry) { *e = enforced(e.Domain, 0) })
		}
		f.set(nil, errDisk)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if n := f.tried(); n < 5 || n > 20 {
			t.Errorf("%d writes were tried in ten minutes", n)
		}
		f.set(nil, nil)
		time.Sleep(2 * saveAgain)
		synctest.Wait()
		if len(f.entries) != 101 || len(c.unsaved) != 0 {
			t.Errorf("%d entries are stored, %d are not", len(f.entries), len(c.unsaved))
		}
		f.set(nil, errDisk)
		for i := range maxUnsaved + 100 {
			c.update(t.Context(), addr.MustDomain(fmt.Sprintf("e%d.example", i)), true, func(e *Entry) { *e = enforced(e.Domain, 0) })
		}
		if len(c.unsaved) != maxUnsaved {
			t.Errorf("%d wait to be stored", len(c.unsaved))
		}
		f.set(nil, nil)
		stop() // the end is the last chance
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if len(f.entries) != 101+maxUnsaved {
			t.Errorf("%d entries are stored at the end", len(f.entries))
		}
	})
}

// A policy fetched at a lookup is used by it; one that is renewed is not.
func TestAFetchCountsAsUse(t *testing.T) {
	c, f := faulty(t)
	long := 40 * 24 * time.Hour
	for renew, want := range map[bool]time.Duration{false: 0, true: long} {
		f.entries[domain] = enforced(domain, long)
		c.memory.Purge()
		p, lines, err := ParsePolicy(f.entries[domain].Body)
		if err != nil {
			t.Fatal(err)
		}
		c.fetched(t.Context(), errand{domain: domain, id: "1", renew: renew}, file{f.entries[domain].Body, lines, p})
		if ago := time.Since(f.entries[domain].Used).Round(time.Hour); ago != want {
			t.Errorf("renewed: %v; used %s ago", renew, ago)
		}
	}
}

// What is told of a failure is bounded in the store.
func TestAFailuresTextIsBounded(t *testing.T) {
	c, f := faulty(t)
	c.failed(t.Context(), errand{domain: domain, id: "2"}, fmt.Errorf("%w: %s", ErrWebPKI, strings.Repeat("\u00e9", 10_000)))
	k := keep(f.entries[domain])
	if n := len(k.failure); n > maxFailure || n < maxFailure-4 || !errors.Is(k.failureError(), ErrWebPKI) {
		t.Errorf("%d octets: %.100s", n, k.failure)
	}
}

// Policies that would take much memory are read from the store each time.
func TestSTS_10_3_02_MemoryIsBounded(t *testing.T) {
	c, f := faulty(t)
	for name, filler := range map[string]string{"long": "x: " + strings.Repeat("x", 9000) + "\n", "many": strings.Repeat("a:b\n", 1000)} {
		d := addr.MustDomain(name + ".example")
		e := enforced(d, 0)
		e.Body = append(slices.Clone(e.Body), filler...)
		f.entries[d] = e
		if s := c.Lookup(t.Context(), d); s.Policy == nil || s.Err != nil {
			t.Errorf("%s: %+v", name, s)
		}
		c.update(t.Context(), d, false, func(*Entry) {})
		if c.memory.Contains(d) {
			t.Errorf("%s: %d octets are kept in memory", name, keep(e).cost())
		}
	}
	c.Lookup(t.Context(), domain)
	if !c.memory.Contains(domain) {
		t.Error("a small one is not kept in memory")
	}
}

// A domain whose policy lives no longer than the attempt that fetched it does
// not have mail tried again and again.
func TestAPolicyWithoutALifeIsNoNews(t *testing.T) {
	var mu sync.Mutex
	told := 0
	c, _ := faulty(t)
	c.o.Changed = func(addr.Domain) {
		mu.Lock()
		defer mu.Unlock()
		told++
	}
	fetched := func(host string, maxAge int) {
		body := fmt.Appendf(nil, "version: STSv1\nmode: enforce\nmx: %s\nmax_age: %d\n", host, maxAge)
		p, lines, err := ParsePolicy(body)
		if err != nil {
			t.Fatal(err)
		}
		c.fetched(t.Context(), errand{domain: domain, id: "1"}, file{body, lines, p})
	}
	fetched("mx.example.com", 0)
	c.Watch(domain, true)
	for range 5 {
		fetched("mx.example.com", 0)
	}
	if told != 0 {
		t.Errorf("told %d times of the same", told)
	}
	fetched("other.example.com", 0)
	fetched("other.example.com", 0)
	if told != 1 {
		t.Errorf("told %d times of another host", told)
	}
	fetched("third.example.com", 100)
	c.look(t.Context(), domain) // sees what the fetch has told of
	if told != 2 {
		t.Errorf("told %d times of a third", told-1)
	}
}

// What is due when a scan reads it may have been fetched by a lookup since.
func TestAScanRenewsNothingThatIsFresh(t *testing.T) {
	c, f := faulty(t)
	c.renew(t.Context(), domain)
	if e := f.entries[domain]; e.Failures != 0 || f.asked != 0 {
		t.Errorf("it was fetched: %+v", e)
	}
	f.entries[domain] = enforced(domain, 25*time.Hour)
	c.memory.Purge()
	c.renew(t.Context(), domain)
	if e := f.entries[domain]; e.Failures != 1 {
		t.Errorf("what is due was not fetched: %+v", e)
	}
}
