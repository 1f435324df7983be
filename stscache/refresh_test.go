package stscache_test

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/internal/lab"
	"stsrelay/stscache"
)

const day = 24 * time.Hour

func TestRefresh(t *testing.T) {
	t.Run("STS-3.3-13 a policy is fetched anew a day after it was, long before it ends", func(t *testing.T) {
		w := newWorld(t, nil)
		p := w.policy(func(p *lab.Policy) { p.MaxAge = 30 * day })
		w.keep("enforce", 25*time.Hour, func(e *stscache.Entry) { e.Body = []byte(lab.PolicyText("enforce", 30*day, "mx.example.test")) })
		before := w.entry().Fetched
		w.run()
		w.until(func() bool { return w.entry().Fetched.After(before) })
		if p.Hits() != 1 {
			t.Errorf("%d requests", p.Hits())
		}
	})
	t.Run("STS-3.3-14 whatever the record says, and its life begins anew", func(t *testing.T) {
		w := newWorld(t, nil)
		w.policy(nil)
		w.net.DNS.Remove("_mta-sts.example.test", "TXT")
		w.keep("enforce", 25*time.Hour, nil)
		before := w.Lookup(t.Context(), example)
		w.run()
		w.until(func() bool { return w.entry().Fetched.After(before.Fetched) })
		after := w.Lookup(t.Context(), example)
		if after.Policy == nil || after.Expires.Sub(before.Expires) < 24*time.Hour || after.ID != "1" {
			t.Errorf("%s, then %s", before.Expires, after.Expires)
		}
	})
	t.Run("STS-3.3-14 but only what was used in the last 30 days", func(t *testing.T) {
		w := newWorld(t, nil)
		unused := w.policy(nil)
		w.keep("enforce", 5*day, func(e *stscache.Entry) { e.Used = time.Now().Add(-31 * day) })
		used := w.net.AddPolicy(lab.Policy{Domain: "used.test", ID: "1", MX: []string{"mx.example.test"}})
		w.keep("enforce", 5*day, func(e *stscache.Entry) {
			e.Domain, e.Used = addr.MustDomain("used.test"), time.Now().Add(-29*day)
		})
		w.run()
		if err := used.WaitHits(within(t), 1); err != nil { // it is looked at after example.test
			t.Fatal(err)
		}
		w.stop()
		if unused.Hits() != 0 {
			t.Errorf("%d requests for the unused one", unused.Hits())
		}
	})
	t.Run("a look at a policy counts as its use", func(t *testing.T) {
		w := newWorld(t, nil)
		w.policy(nil)
		long := time.Now().Add(-10 * day)
		w.keep("enforce", time.Hour, func(e *stscache.Entry) { e.Used = long })
		w.want("enforce", "1", nil)
		w.until(func() bool { return w.entry().Used.After(long) })
	})
	t.Run("what is over is dropped", func(t *testing.T) {
		w := newWorld(t, nil)
		w.keep("enforce", 8*day, nil)
		w.run()
		w.until(func() bool {
			_, err := w.bolt.Policy(t.Context(), example)
			return errors.Is(err, stscache.ErrNotFound)
		})
	})
	t.Run("modes are counted", func(t *testing.T) {
		w := newWorld(t, nil)
		for i, mode := range []string{"enforce", "enforce", "testing", "none"} {
			w.keep(mode, time.Hour, func(e *stscache.Entry) { e.Domain = addr.MustDomain(fmt.Sprintf("d%d.test", i)) })
		}
		w.run()
		w.until(func() bool {
			m := w.Modes()
			return m[stscache.Enforce] == 2 && m[stscache.Testing] == 1 && m[stscache.None] == 1
		})
	})
}

func TestSTS_3_3_16_TheOperatorHearsOfFailedRefreshes(t *testing.T) {
	for _, tt := range []struct {
		name, mode string
		age        time.Duration
		level      string
	}{
		{"an enforce policy", "enforce", 25 * time.Hour, "warn"},
		{"a testing policy", "testing", 25 * time.Hour, "warn"},
		{"once more, well before the end", "enforce", 4 * day, "error"},
		{"mode none", "none", 25 * time.Hour, "info"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, nil)
			w.policy(func(p *lab.Policy) { p.Status = 503 })
			w.keep(tt.mode, tt.age, nil)
			w.run()
			w.until(func() bool { return w.log.having("MTA-STS policy not fetched", "example.test", "503") == 1 })
			w.stop()
			if w.log.having("MTA-STS policy not fetched", `"level":"`+tt.level+`"`) != 1 {
				t.Errorf("log: %s", w.log.b.String())
			}
			if tt.level == "info" && w.log.having(`"level":"warn"`)+w.log.having(`"level":"error"`) > 0 {
				t.Errorf("log: %s", w.log.b.String())
			}
		})
	}
}

func TestRunEndsWhileAFetchHangs(t *testing.T) {
	w := newWorld(t, nil)
	p := w.policy(func(p *lab.Policy) { p.Hang = true })
	w.keep("enforce", 25*time.Hour, nil)
	w.run()
	if err := p.WaitHits(within(t), 1); err != nil {
		t.Fatal(err)
	}
	w.stop() // fails the test after patience, and a fetch may take as long
	if w.log.having("not fetched", "30s") > 0 {
		t.Error("Run waited for the end of the fetch")
	}
	if e := w.entry(); e.Failures != 0 || w.log.having("not fetched") > 0 {
		t.Errorf("that we ended it is held against the domain: %+v", e)
	}
}

func TestWatch(t *testing.T) {
	var told atomic.Int32
	tells := func(o *stscache.Options) { o.Changed = func(addr.Domain) { told.Add(1) } }
	t.Run("whoever finds a new policy, those who watch are told", func(t *testing.T) {
		told.Store(0)
		w := newWorld(t, tells)
		p := w.policy(nil)
		w.want("enforce", "1", nil)
		w.Watch(example, true)
		w.want("enforce", "1", nil)
		p.Change(func(p *lab.Policy) { p.ID = "2" }) // the same hosts
		w.want("enforce", "2", nil)
		if told.Load() != 0 {
			t.Error("told of what is the same")
		}
		p.Change(func(p *lab.Policy) { p.ID, p.MX = "3", []string{"new.example.test"} })
		w.want("enforce", "3", nil)
		if told.Load() != 1 {
			t.Errorf("told %d times", told.Load())
		}
		w.Watch(example, false)
		p.Change(func(p *lab.Policy) { p.ID, p.Mode = "4", "none" })
		w.want("none", "4", nil)
		if told.Load() != 1 {
			t.Errorf("told %d times", told.Load())
		}
	})
}
