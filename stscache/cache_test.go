package stscache_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/internal/lab"
	"stsrelay/stscache"
)

// want checks what Lookup says.
func (w *world) want(mode, id string, is error) {
	w.t.Helper()
	if m, i, err := w.look(); m != mode || i != id || !errors.Is(err, is) || (is == nil) != (err == nil) {
		w.t.Errorf("%s, id %s, %v; not %s, %s, %v", m, i, err, mode, id, is)
	}
}

func TestSTS_3_1_01_AnUnchangedIDNeedsNoHTTPS(t *testing.T) {
	w := newWorld(t, nil)
	w.keep("enforce", time.Hour, nil)
	p := w.policy(nil)
	w.want("enforce", "1", nil)
	if p.Connections() != 0 || w.net.DNS.Queries("_mta-sts.example.test", "TXT") != 1 {
		t.Errorf("%d connections, %d queries", p.Connections(), w.net.DNS.Queries("_mta-sts.example.test", "TXT"))
	}
}

func TestDiscovery(t *testing.T) {
	t.Run("STS-1.1-02 the policy host is mta-sts in front of the domain", func(t *testing.T) {
		w := newWorld(t, nil)
		p := w.net.AddPolicy(lab.Policy{Domain: "a.b.example", ID: "1", MX: []string{"mx.example.test"}})
		if s := w.Lookup(t.Context(), addr.MustDomain("a.b.example")); s.Policy == nil || p.Requests()[0].Host != "mta-sts.a.b.example" {
			t.Errorf("%+v", s)
		}
	})
	t.Run("STS-1.1-03 an alias is not followed to choose the domain", func(t *testing.T) {
		w := newWorld(t, nil)
		w.net.AddPolicy(lab.Policy{Domain: "real.test", ID: "1", MX: []string{"mx.example.test"}})
		w.net.DNS.Set("alias.test. 300 IN CNAME real.test.")
		if s := w.Lookup(t.Context(), addr.MustDomain("alias.test")); !errors.Is(s.Err, stscache.ErrNoRecord) {
			t.Errorf("%+v", s)
		}
		if w.net.DNS.Queries("_mta-sts.alias.test", "TXT") != 1 || w.net.DNS.Queries("_mta-sts.real.test", "TXT") != 0 {
			t.Error("the other name was asked for")
		}
	})
	t.Run("STS-3.1-12 an alias of the record is followed, and the policy is the domain's own", func(t *testing.T) {
		w := newWorld(t, nil)
		p := w.policy(func(p *lab.Policy) { p.ID = "" })
		w.net.DNS.SetTXT("_mta-sts.provider.test", "v=STSv1; id=p1")
		w.net.DNS.Set("_mta-sts.middle.test. 0 IN CNAME _mta-sts.provider.test.\n_mta-sts.example.test. 0 IN CNAME _mta-sts.middle.test.")
		w.want("enforce", "p1", nil)
		if p.Hits() != 1 {
			t.Errorf("%d requests", p.Hits())
		}
	})
	t.Run("STS-3.1-15 only the absolute name is asked for, and no grammar is bent", func(t *testing.T) {
		w := newWorld(t, nil)
		w.net.DNS.SetTXT("_mta-sts.example.test", "v=STSv1; id=a ")
		w.want("no policy", "", stscache.ErrRecordSyntax)
		for _, q := range w.net.DNS.Log() {
			if q.Name != "_mta-sts.example.test." && q.Name != "_mta-sts.example.test" {
				t.Errorf("%s was asked for", q.Name)
			}
		}
	})
	t.Run("STS-8.1-01 a record is kept for its TTL, and asked for anew after it", func(t *testing.T) {
		w := newWorld(t, nil)
		w.policy(func(p *lab.Policy) { p.TTL = 300 })
		w.want("enforce", "1", nil)
		w.net.DNS.SetTXT("_mta-sts.example.test", "v=STSv1; id=2")
		w.want("enforce", "1", nil)
		if n := w.net.DNS.Queries("_mta-sts.example.test", "TXT"); n != 1 {
			t.Errorf("%d queries", n)
		}
		if _, id, err := describe(w.Refresh(t.Context(), example)); id != "2" || err != nil {
			t.Errorf("past the cache: id %s, %v", id, err)
		}
	})
}

// What discovery says takes no live policy away (RFC 8461, Sections 3.1, 3.3).
func TestALivePolicyStays(t *testing.T) {
	gone := func(p *lab.PolicyHost) {
		p.Withdraw()
		p.Down()
	}
	for _, tt := range []struct {
		name   string
		change func(w *world, p *lab.PolicyHost)
		is     error
	}{
		{"STS-3.1-10 the record vanishes", func(w *world, p *lab.PolicyHost) { p.Withdraw() }, stscache.ErrNoRecord},
		{"there are two records", func(w *world, p *lab.PolicyHost) {
			w.net.DNS.SetTXT("_mta-sts.example.test", "v=STSv1; id=1", "v=STSv1; id=2")
		}, stscache.ErrManyRecords},
		{"the record is malformed", func(w *world, p *lab.PolicyHost) { w.net.DNS.SetTXT("_mta-sts.example.test", "v=STSv1; id=a_b") }, stscache.ErrRecordSyntax},
		{"DNS fails", func(w *world, p *lab.PolicyHost) { w.net.DNS.Fail("_mta-sts.example.test", "TXT", "SERVFAIL") }, stscache.ErrLookup},
		{"STS-3.3-12 the record vanishes, and the policy with it", func(w *world, p *lab.PolicyHost) { gone(p) }, stscache.ErrNoRecord},
		{"STS-3.3-12 a new id, and the host answers 404", func(w *world, p *lab.PolicyHost) {
			p.Change(func(p *lab.Policy) { p.ID, p.Status = "2", 404 })
		}, stscache.ErrFetch},
		{"STS-3.2-20 a new id, and the file is no policy", func(w *world, p *lab.PolicyHost) {
			p.Change(func(p *lab.Policy) { p.ID, p.Body = "2", "garbage" })
		}, stscache.ErrPolicySyntax},
		{"a new id, and the certificate is bad", func(w *world, p *lab.PolicyHost) {
			p.Change(func(p *lab.Policy) { p.ID, p.Cert = "2", lab.Expired })
		}, stscache.ErrWebPKI},
		{"a new id, and the file is too large", func(w *world, p *lab.PolicyHost) {
			p.Change(func(p *lab.Policy) { p.ID, p.Size = "2", 70000 })
		}, stscache.ErrTooLarge},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, nil)
			p := w.policy(func(p *lab.Policy) { p.MaxAge = 10 * 24 * time.Hour })
			w.want("enforce", "1", nil)
			body := w.entry().Body
			tt.change(w, p)
			w.want("enforce", "1", tt.is)
			w.want("enforce", "1", tt.is)
			if string(w.entry().Body) != string(body) {
				t.Errorf("the store has %q", w.entry().Body)
			}
			w.reopen() // STS-3.3-21: and it survives the end of the process
			w.want("enforce", "1", tt.is)
		})
	}
}

func (w *world) entry() stscache.Entry {
	w.t.Helper()
	e, err := w.bolt.Policy(w.t.Context(), example)
	if err != nil {
		w.t.Fatal(err)
	}
	return e
}

func TestSTS_3_3_21_WhatIsReliedOnIsStored(t *testing.T) {
	w := newWorld(t, nil)
	p := w.policy(nil)
	w.want("enforce", "1", nil)
	w.net.DNS.Down()
	p.Down()
	w.reopen()
	w.want("enforce", "1", stscache.ErrLookup)
	if p.Hits() != 1 {
		t.Errorf("%d requests", p.Hits())
	}
}

func TestSTS_3_3_11_WithoutAPolicyMailGoesOn(t *testing.T) {
	w := newWorld(t, nil)
	p := w.policy(nil)
	p.Down()
	s := w.Lookup(t.Context(), example)
	if s.Policy != nil || !errors.Is(s.Err, stscache.ErrFetch) || errors.Is(s.Err, stscache.ErrLookup) {
		t.Errorf("%+v", s) // ErrLookup would have mail wait
	}
}

func TestLifetime(t *testing.T) {
	const day = 24 * time.Hour
	t.Run("STS-5.1-01 STS-3.3-15 it counts from the fetch, and an unchanged id does not extend it", func(t *testing.T) {
		w := newWorld(t, nil)
		p := w.policy(nil)
		p.Down()
		w.keep("enforce", 7*day-time.Minute, nil)
		for range 3 {
			w.want("enforce", "1", nil)
		}
		w.reopen()
		w.keep("enforce", 7*day+time.Second, nil)
		w.want("no policy", "", stscache.ErrFetch)
	})
	t.Run("STS-3.2-10 max_age 0 governs who fetched it, and is fetched for each", func(t *testing.T) {
		w := newWorld(t, nil)
		p := w.policy(func(p *lab.Policy) { p.Body = "version: STSv1\nmode: enforce\nmx: mx.example.test\nmax_age: 0\n" })
		w.want("enforce", "1", nil)
		w.want("enforce", "1", nil)
		if p.Hits() != 2 {
			t.Errorf("%d requests", p.Hits())
		}
		p.Down()
		w.want("no policy", "", stscache.ErrFetch)
	})
	t.Run("STS-3.3-17 a new policy replaces the old one whole, also when it is weaker", func(t *testing.T) {
		w := newWorld(t, nil)
		w.keep("enforce", time.Hour, nil)
		w.policy(func(p *lab.Policy) { p.ID, p.Mode, p.MaxAge, p.MX = "2", "testing", day, []string{"new.example.test"} })
		s := w.Lookup(t.Context(), example)
		if m, id, err := describe(s); m != "testing" || id != "2" || err != nil || s.Expires.Sub(s.Fetched) != day || s.Policy.MX[0] != "new.example.test" || len(s.Policy.MX) != 1 {
			t.Errorf("%+v, %+v", s, s.Policy)
		}
		if e := w.entry(); e.ID != "2" || time.Since(e.Fetched) > time.Hour/2 {
			t.Errorf("stored: %+v", e)
		}
	})
	t.Run("STS-8.3-01 mode none replaces enforce at once, and is kept itself", func(t *testing.T) {
		w := newWorld(t, nil)
		w.keep("enforce", time.Hour, nil)
		p := w.policy(func(p *lab.Policy) { p.ID, p.Mode = "2", "none" })
		w.want("none", "2", nil)
		p.Down()
		w.want("none", "2", nil)
		w.reopen()
		w.want("none", "2", nil)
	})
	t.Run("STS-8.3-02 mode none without a record is dropped, without a word", func(t *testing.T) {
		w := newWorld(t, nil)
		w.keep("none", time.Hour, nil)
		w.want("no policy", "", stscache.ErrNoRecord)
		if _, err := w.bolt.Policy(t.Context(), example); !errors.Is(err, stscache.ErrNotFound) {
			t.Errorf("stored: %v", err)
		}
		if n := w.log.having(`"level":"warn"`) + w.log.having(`"level":"error"`); n != 0 {
			t.Errorf("%d warnings", n)
		}
	})
	t.Run("STS-3.3-18 the id that is kept was read before the file", func(t *testing.T) {
		w := newWorld(t, nil)
		answer := make(chan struct{})
		p := w.policy(func(p *lab.Policy) { p.Until = answer })
		first := make(chan stscache.Status, 1)
		go func() { first <- w.Lookup(context.Background(), example) }()
		if err := p.WaitHits(within(t), 1); err != nil {
			t.Fatal(err)
		}
		w.net.DNS.SetTXT("_mta-sts.example.test", "v=STSv1; id=2")
		close(answer)
		if s := <-first; s.ID != "1" {
			t.Errorf("id %s is kept", s.ID)
		}
		w.want("enforce", "2", nil)
		if p.Hits() != 2 {
			t.Errorf("%d requests", p.Hits())
		}
	})
}

func TestSTS_3_3_08_AFailedFetchIsNotRepeatedForFiveMinutes(t *testing.T) {
	w := newWorld(t, nil)
	p := w.policy(func(p *lab.Policy) { p.Status = 404 })
	for range 3 {
		w.want("no policy", "", stscache.ErrFetch)
	}
	if p.Hits() != 1 {
		t.Errorf("%d requests at once", p.Hits())
	}
	w.reopen()
	w.want("no policy", "", stscache.ErrFetch)
	if p.Hits() != 1 {
		t.Errorf("%d requests after a restart", p.Hits())
	}
	p.Change(func(p *lab.Policy) { p.ID = "2" })
	w.want("no policy", "", stscache.ErrFetch)
	if p.Hits() != 2 {
		t.Errorf("%d requests with another id", p.Hits())
	}
	e := w.entry()
	e.FailedAt = time.Now().Add(-5 * time.Minute)
	if err := w.bolt.PutPolicy(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	w.reopen()
	p.Change(func(p *lab.Policy) { p.Status = 200 })
	w.want("enforce", "2", nil)
	if e := w.entry(); e.Failures != 0 || e.FailedID != "" {
		t.Errorf("the failure is remembered: %+v", e)
	}
}

func TestSTS_3_3_09_ACrowdSharesOneFetch(t *testing.T) {
	w := newWorld(t, nil)
	answer := make(chan struct{})
	p := w.policy(func(p *lab.Policy) { p.Until, p.TTL = answer, 300 })
	const crowd = 1000
	got := make(chan stscache.Status, crowd)
	impatient, leave := context.WithCancel(context.Background())
	gone := make(chan stscache.Status, 1)
	go func() { gone <- w.Lookup(impatient, example) }()
	if err := p.WaitHits(within(t), 1); err != nil {
		t.Fatal(err)
	}
	for range crowd {
		go func() { got <- w.Lookup(context.Background(), example) }()
	}
	leave() // the one whose fetch it was
	if s := <-gone; s.Policy != nil || !errors.Is(s.Err, stscache.ErrLookup) {
		t.Errorf("who went away got %+v", s)
	}
	close(answer)
	for range crowd {
		if s := <-got; s.Policy == nil || s.Err != nil {
			t.Fatalf("%+v", s)
		}
	}
	if p.Hits() != 1 || w.net.DNS.Queries("_mta-sts.example.test", "TXT") != 1 {
		t.Errorf("%d requests, %d queries", p.Hits(), w.net.DNS.Queries("_mta-sts.example.test", "TXT"))
	}
}

func TestSTS_5_1_04_FirstContactWaitsForThePolicy(t *testing.T) {
	w := newWorld(t, nil)
	answer := make(chan struct{})
	p := w.policy(func(p *lab.Policy) { p.Until = answer })
	got := make(chan stscache.Status, 1)
	go func() { got <- w.Lookup(context.Background(), example) }()
	if err := p.WaitHits(within(t), 1); err != nil {
		t.Fatal(err)
	}
	select {
	case s := <-got:
		t.Fatalf("it did not wait: %+v", s)
	default:
	}
	close(answer)
	if s := <-got; s.Policy == nil {
		t.Errorf("%+v", s)
	}
}

func TestAFailingLookupHasABeginning(t *testing.T) {
	w := newWorld(t, nil)
	w.net.DNS.Fail("_mta-sts.example.test", "TXT", "SERVFAIL")
	before := time.Now()
	first := w.Lookup(t.Context(), example)
	second := w.Lookup(t.Context(), example)
	if first.Since.Before(before) || !second.Since.Equal(first.Since) || !errors.Is(second.Err, stscache.ErrLookup) {
		t.Errorf("since %s, then %s: %v", first.Since, second.Since, second.Err)
	}
	w.net.DNS.Fail("_mta-sts.example.test", "TXT", "")
	w.policy(nil)
	w.want("enforce", "1", nil)
	if err := w.Purge(t.Context(), example); err != nil {
		t.Fatal(err)
	}
	w.net.DNS.Fail("_mta-sts.example.test", "TXT", "SERVFAIL")
	if s := w.Lookup(t.Context(), example); !s.Since.After(first.Since) {
		t.Errorf("after a success the failure began at %s", s.Since)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	other := addr.MustDomain("other.test")
	w.Lookup(gone, other)
	w.net.DNS.Fail("_mta-sts.other.test", "TXT", "SERVFAIL")
	now := time.Now()
	if s := w.Lookup(t.Context(), other); s.Since.Before(now) {
		t.Error("a caller that went away began a failure")
	}
}

func TestAStoreThatFails(t *testing.T) {
	fault := errors.New("disk on fire")
	t.Run("what cannot be read is doubt, and not: no policy", func(t *testing.T) {
		w := newWorld(t, nil)
		w.keep("enforce", time.Hour, nil)
		w.store.set(fault, nil)
		s := w.Lookup(t.Context(), example)
		if s.Policy != nil || !errors.Is(s.Err, stscache.ErrLookup) || !errors.Is(s.Err, fault) || !s.Since.IsZero() {
			t.Errorf("%+v", s) // with a beginning, a grace would end, and mail go in the clear
		}
		w.store.set(nil, nil)
		w.want("enforce", "1", stscache.ErrNoRecord)
	})
	t.Run("what cannot be written rules from memory, and is written later", func(t *testing.T) {
		w := newWorld(t, nil)
		p := w.policy(nil)
		w.store.set(nil, fault)
		w.want("enforce", "1", nil)
		p.Down()
		w.want("enforce", "1", nil)
		if w.log.having(`"level":"error"`, "rules from memory") != 1 {
			t.Error("nobody is told")
		}
		w.store.set(nil, nil)
		w.run() // its first scan writes
		if w.until(func() bool { _, err := w.bolt.Policy(t.Context(), example); return err == nil }); string(w.entry().Body) == "" {
			t.Error("it was not written")
		}
		w.reopen()
		w.want("enforce", "1", nil)
	})
}

// until looks until something has happened.
func (w *world) until(happened func() bool) {
	w.t.Helper()
	ctx := within(w.t)
	for !happened() {
		select {
		case <-ctx.Done():
			w.t.Fatal("it does not happen")
		case <-time.After(2 * time.Millisecond): // another look
		}
	}
}

func TestSTS_10_3_01_PurgeAndRefresh(t *testing.T) {
	var mu sync.Mutex
	var told []addr.Domain
	w := newWorld(t, func(o *stscache.Options) {
		o.Changed = func(d addr.Domain) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, d)
		}
	})
	w.keep("enforce", time.Hour, func(e *stscache.Entry) {
		e.Body = []byte(lab.PolicyText("enforce", 365*24*time.Hour, "mx.attacker.test"))
	})
	w.want("enforce", "1", stscache.ErrNoRecord)
	w.Watch(example, true)
	if err := w.Purge(t.Context(), example); err != nil {
		t.Fatal(err)
	}
	w.want("no policy", "", stscache.ErrNoRecord)
	if len(told) != 1 || told[0] != example {
		t.Errorf("told of %v", told)
	}
	if n := w.Modes()[stscache.Enforce]; n != 0 {
		t.Errorf("%d enforce policies are counted", n)
	}
	w.policy(nil)
	if _, id, err := describe(w.Refresh(t.Context(), example)); id != "1" || err != nil {
		t.Errorf("id %s, %v", id, err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(told) != 2 || w.Modes()[stscache.Enforce] != 1 {
		t.Errorf("told of %v, modes %v", told, w.Modes())
	}
}
