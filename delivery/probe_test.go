package delivery

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/stscache"
)

func TestProbe(t *testing.T) {
	w := newWorld(t)
	w.policy("a.example", stscache.Enforce, "mx1.a.example", "mx3.a.example")
	good := w.good("mx1.a.example")
	good.secure = with(full, "REQUIRETLS")
	w.host("a.example", 10, good, "127.1.0.1")
	unlisted := w.host("a.example", 20, w.good("mx2.a.example"), "127.1.0.2")
	w.dead("a.example", 30, "mx3.a.example", "127.1.0.3")
	w.ips["mx3.a.example"] = addrs("127.1.0.3", "127.1.0.4")
	c := w.client()
	p, err := c.Plan(t.Context(), Query{NextHop: addr.DomainHop(addr.MustDomain("a.example"))})
	if err != nil {
		t.Fatal(err)
	}
	all := c.Probe(t.Context(), p, Default)
	if len(all) != 4 {
		t.Fatalf("%d findings", len(all))
	}
	if f := all[0]; f.Err != nil || !f.Verdict.Proceed || f.Name != "mx1.a.example" || f.Evidence.State == nil || f.Took <= 0 ||
		f.Offers != (Offers{Pipelining: true, EightBit: true, UTF8: true, RequireTLS: true, Size: 10000000}) || f.Addr.String() != "127.1.0.1:25" {
		t.Errorf("%+v", f)
	}
	if f := all[1]; f.Err != nil || f.Decision.Skip == nil || f.Evidence.State == nil || f.Evidence.PKIXErr != nil || f.Host != 1 {
		t.Errorf("a host that the policy does not name is looked at all the same: %+v", f)
	}
	for _, f := range all[2:] {
		if f.Err == nil || f.Err.Reason != ConnectFailed || f.Host != 2 || f.Evidence.State != nil {
			t.Errorf("%+v", f)
		}
	}
	for _, m := range []*fakeMX{good, unlisted} {
		if got := m.look().verbs(); !slices.Equal(got, []string{"1 EHLO", "1 STARTTLS", "1T EHLO", "1T QUIT"}) {
			t.Errorf("transcript %q", got)
		}
	}
	if c.pool.total != 0 {
		t.Errorf("%d connections are left", c.pool.total)
	}
}

func TestProbeBroken(t *testing.T) {
	for name := range brokenMXs(newWorld(t)) {
		t.Run("the probe and the sender agree when "+name, func(t *testing.T) {
			w := newWorld(t)
			broken := brokenMXs(w)[name]
			w.policy("a.example", stscache.Enforce, "*.a.example")
			m := w.host("a.example", 10, broken.mx, "127.1.0.1")
			c := w.client()
			p, err := c.Plan(t.Context(), Query{NextHop: addr.DomainHop(addr.MustDomain("a.example"))})
			if err != nil {
				t.Fatal(err)
			}
			all := c.Probe(t.Context(), p, Default)
			if len(all) != 1 || all[0].Err != nil || all[0].Verdict.Proceed || verdict(Outcome{Err: all[0].Verdict.Err}) != broken.want {
				t.Errorf("%+v", all)
			}
			if s := strings.Join(m.look().verbs(), ","); strings.Contains(s, "MAIL") || m.look().conns != 1 {
				t.Errorf("transcript %s", s)
			}
		})
	}
	t.Run("the end of ctx ends a probe", func(t *testing.T) {
		w := newWorld(t)
		ctx, cancel := context.WithCancel(t.Context())
		release := make(chan bool)
		defer close(release)
		m := plainMX("mx.a.example")
		m.answer = func(*fakeConn, string) string { cancel(); <-release; return closeIt }
		w.host("a.example", 10, m, "127.1.0.1")
		c := w.client()
		p, _ := c.Plan(t.Context(), Query{NextHop: addr.DomainHop(addr.MustDomain("a.example"))})
		if all := c.Probe(ctx, p, Default); len(all) != 1 || all[0].Err == nil || all[0].Err.Reason != LocalError {
			t.Errorf("%+v", all)
		}
	})
}

func TestCourse(t *testing.T) {
	t.Run("X-11 a lane that never runs dry makes its plan anew", func(t *testing.T) {
		w := newWorld(t)
		w.policy("a.example", stscache.Enforce, "mx.a.example")
		m := w.host("a.example", 10, w.good("mx.a.example"), "127.1.0.1")
		s := source(t, job("1", content, "u@a.example"), job("2", content, "u@a.example"), job("3", content, "u@a.example"))
		l := &lane{Client: w.running(), destination: to("a.example"), source: s}
		s.onDone = func(id string) {
			if id == "1" { // the second is on its way by now
				l.course.made = l.course.made.Add(-2 * planLife)
				w.policy("a.example", stscache.Enforce, "mx.elsewhere.example")
			}
		}
		if err := l.run(context.Background()); err != nil {
			t.Error(err)
		}
		if verdict(s.out["2"].Outcomes[0]) != "ok" || verdict(s.out["3"].Outcomes[0]) != "4.4.8 mx-not-listed" || len(m.look().messages) != 2 {
			t.Errorf("%q, %q", verdicts(s.out["2"]), verdicts(s.out["3"]))
		}
		if time.Since(l.course.made) > planLife {
			t.Error("the plan is old")
		}
	})
}
