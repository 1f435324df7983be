package resolver

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/miekg/dns"
)

var noon = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// read feeds one reply to a chain and returns how long the result lives.
func read(t *testing.T, q question, spoil func(*dns.Msg), lines ...string) (chain, time.Duration, error) {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion(q.name, q.qtype)
	for _, line := range lines {
		rr, err := dns.NewRR(line)
		if err != nil {
			t.Fatal(err)
		}
		if rr.Header().Rrtype == dns.TypeSOA {
			m.Ns = append(m.Ns, rr)
		} else {
			m.Answer = append(m.Answer, rr)
		}
	}
	if spoil != nil {
		spoil(m)
	}
	b := packed(m)
	if err := m.Unpack(b); err != nil { // as the client sees it
		t.Fatal(err)
	}
	ch := newChain(q)
	_, err := ch.add(m, true, noon)
	return ch, ch.expires.Sub(noon), err
}

func TestLifetime(t *testing.T) {
	nx := func(m *dns.Msg) { m.Rcode = dns.RcodeNameError }
	tests := map[string]struct {
		spoil func(*dns.Msg)
		lines []string
		want  time.Duration
	}{
		"an answer lives for its TTL": {nil, []string{"a.test. 300 IN TXT x"}, 300 * time.Second},
		"there is no minimum":         {nil, []string{"a.test. 1 IN TXT x"}, time.Second},
		"TTL 0 is not kept":           {nil, []string{"a.test. 0 IN TXT x"}, 0},
		"the shortest TTL of the set": {nil, []string{"a.test. 300 IN TXT x", "a.test. 60 IN TXT y"}, 60 * time.Second},
		"the shortest TTL of the chain": {
			nil, []string{"a.test. 50 IN CNAME b.test.", "b.test. 300 IN TXT x"}, 50 * time.Second,
		},
		"a TTL of another name does not count": {nil, []string{"a.test. 300 IN TXT x", "z.test. 1 IN TXT y"}, 300 * time.Second},
		"a TTL beyond a week is a week":        {nil, []string{"a.test. 2147483647 IN TXT x"}, 7 * 24 * time.Hour},
		"a TTL with the high bit is zero":      {nil, []string{"a.test. 4294967295 IN TXT x"}, 0},
		"NODATA lives for the SOA's MINIMUM": {
			nil, []string{"test. 900 IN SOA ns.test. h.test. 1 2 3 4 300"}, 300 * time.Second,
		},
		"NODATA lives for the SOA's TTL where that is smaller": {
			nil, []string{"test. 100 IN SOA ns.test. h.test. 1 2 3 4 300"}, 100 * time.Second,
		},
		"NXDOMAIN lives like NODATA":                     {nx, []string{"test. 900 IN SOA ns.test. h.test. 1 2 3 4 300"}, 300 * time.Second},
		"a denial lives for three hours at most":         {nx, []string{"test. 86400 IN SOA ns.test. h.test. 1 2 3 4 86400"}, 3 * time.Hour},
		"a denial without SOA is not kept":               {nx, nil, 0},
		"a denial with the SOA of elsewhere is not kept": {nx, []string{"other. 900 IN SOA ns.test. h.test. 1 2 3 4 300"}, 0},
		"NODATA without SOA is not kept":                 {nil, nil, 0},
		"a denial behind a CNAME lives no longer than the CNAME": {
			nx, []string{"a.test. 20 IN CNAME b.test.", "test. 900 IN SOA ns.test. h.test. 1 2 3 4 300"}, 20 * time.Second,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, got, err := read(t, question{"a.test.", dns.TypeTXT}, tt.spoil, tt.lines...)
			if err != nil && !errors.Is(err, ErrNXDomain) {
				t.Fatal(err)
			}
			if got != tt.want {
				t.Errorf("lives for %v, want %v", got, tt.want)
			}
		})
	}
}

func TestCache(t *testing.T) {
	k := ask("a.test", dns.TypeTXT)
	make := func(s string, life time.Duration) entry {
		return entry{answer: s, expires: noon.Add(life), cost: 100}
	}
	holds := func(t *testing.T, c *cache, k key, now time.Time, want any) {
		t.Helper()
		if e, ok := c.get(k, now); ok != (want != nil) || ok && e.answer != want {
			t.Errorf("holds %v (%v), want %v", e.answer, ok, want)
		}
	}
	t.Run("STS-8.1-01 an answer is kept until its TTL ends and not a moment longer", func(t *testing.T) {
		c := newCache(1000)
		c.put(k.question, make("x", 300*time.Second), noon)
		holds(t, c, k, noon.Add(300*time.Second-1), "x")
		holds(t, c, k, noon.Add(300*time.Second), nil)
		if c.used != 0 {
			t.Errorf("what is over still takes %d", c.used)
		}
	})
	t.Run("names differ in more than case, and types are apart", func(t *testing.T) {
		c := newCache(1000)
		c.put(k.question, make("x", time.Hour), noon)
		holds(t, c, ask("A.TEST.", dns.TypeTXT), noon, "x")
		holds(t, c, ask("a.test", dns.TypeMX), noon, nil)
		holds(t, c, ask("b.test", dns.TypeTXT), noon, nil)
	})
	t.Run("a fresh lookup passes it by", func(t *testing.T) {
		c := newCache(1000)
		c.put(k.question, make("x", time.Hour), noon)
		holds(t, c, key{k.question, true}, noon, nil)
	})
	t.Run("a failure does not take the place of an answer that is still true", func(t *testing.T) {
		c := newCache(1000)
		c.put(k.question, make("x", time.Minute), noon)
		failure := make("failure", time.Hour)
		failure.failure = true
		c.put(k.question, failure, noon)
		holds(t, c, k, noon, "x")
		c.put(k.question, failure, noon.Add(time.Minute))
		holds(t, c, k, noon.Add(time.Minute), "failure")
		c.put(k.question, make("y", time.Hour), noon.Add(time.Minute))
		holds(t, c, k, noon.Add(time.Minute), "y")
	})
	t.Run("what is over before it begins is not kept", func(t *testing.T) {
		c := newCache(1000)
		c.put(k.question, make("x", 0), noon)
		if c.lru.Len() != 0 {
			t.Error("kept")
		}
	})
	t.Run("the least recently used goes first when room is short", func(t *testing.T) {
		c := newCache(1000)
		for i := range 10 {
			c.put(ask(fmt.Sprint(i), 1).question, make(fmt.Sprint(i), time.Hour), noon)
		}
		holds(t, c, ask("0", 1), noon, "0")
		c.put(ask("10", 1).question, make("10", time.Hour), noon)
		holds(t, c, ask("0", 1), noon, "0")
		holds(t, c, ask("1", 1), noon, nil)
		if c.used != 1000 || c.lru.Len() != 10 {
			t.Errorf("%d entries take %d", c.lru.Len(), c.used)
		}
	})
	t.Run("one huge answer does not throw out all others", func(t *testing.T) {
		c := newCache(1000)
		c.put(k.question, make("x", time.Hour), noon)
		huge := make("huge", time.Hour)
		huge.cost = 1001
		c.put(ask("b.test", 1).question, huge, noon)
		holds(t, c, k, noon, "x")
	})
	t.Run("replacing an entry gives its room back", func(t *testing.T) {
		c := newCache(1000)
		for range 50 {
			c.put(k.question, make("x", time.Hour), noon)
		}
		if c.used != 100 {
			t.Errorf("one entry takes %d", c.used)
		}
	})
}

func TestCachedLookups(t *testing.T) {
	t.Run("STS-8.1-01 within the TTL there is no second query", func(t *testing.T) {
		s := startServer(t, "_mta-sts.example.test. 300 IN TXT x")
		c := newClient(t, Options{}, s)
		for range 200 {
			if _, err := c.TXT(t.Context(), "_mta-sts.Example.test"); err != nil {
				t.Fatal(err)
			}
		}
		if n := s.total(); n != 1 {
			t.Errorf("%d queries", n)
		}
	})
	t.Run("the answer says until when it stands", func(t *testing.T) {
		s := startServer(t, "a.test. 300 IN TXT x")
		before := time.Now()
		a, err := newClient(t, Options{}, s).TXT(t.Context(), "a.test")
		if err != nil || a.Expires.Before(before.Add(300*time.Second)) || a.Expires.After(time.Now().Add(300*time.Second)) {
			t.Errorf("expires %v after %v, %v", a.Expires.Sub(before), before, err)
		}
	})
	t.Run("denials are kept", func(t *testing.T) {
		s := startServer(t, soa, "b.test. 300 IN A 192.0.2.1")
		c := newClient(t, Options{}, s)
		for range 3 {
			if a, err := c.TXT(t.Context(), "a.test"); !errors.Is(err, ErrNXDomain) || a.Expires.IsZero() {
				t.Fatal(err)
			}
			if _, err := c.TXT(t.Context(), "b.test"); err != nil {
				t.Fatal(err)
			}
		}
		if n := s.total(); n != 2 {
			t.Errorf("%d queries", n)
		}
	})
	t.Run("a failure is not asked for again at once, and soon again", func(t *testing.T) {
		s := startServer(t, "a.test. 300 IN TXT x")
		s.handle(code(dns.RcodeServerFailure, 0, ""))
		c := newClient(t, Options{FailureTTL: time.Hour}, s)
		for range 3 {
			a, err := c.TXT(t.Context(), "a.test")
			wantFailed(t, err)
			if a.Expires.IsZero() {
				t.Error("does not say when it is asked anew")
			}
		}
		if n := s.total(); n != 1 {
			t.Errorf("%d queries", n)
		}
		s.handle(nil)
		if _, err := c.FreshTXT(t.Context(), "a.test"); err != nil {
			t.Error(err)
		}
		if _, err := c.TXT(t.Context(), "a.test"); err != nil {
			t.Errorf("the failure outlived a fresh answer: %v", err)
		}
	})
	t.Run("FreshTXT asks anew and stores what it finds", func(t *testing.T) {
		s := startServer(t, "a.test. 300 IN TXT old")
		c := newClient(t, Options{}, s)
		if _, err := c.TXT(t.Context(), "a.test"); err != nil {
			t.Fatal(err)
		}
		s.clear()
		s.add(t, "a.test. 300 IN TXT new")
		if a, err := c.FreshTXT(t.Context(), "a.test"); err != nil || a.Records[0] != "new" {
			t.Fatalf("%v, %v", a.Records, err)
		}
		if a, _ := c.TXT(t.Context(), "a.test"); a.Records[0] != "new" || s.total() != 2 {
			t.Errorf("%v after %d queries", a.Records, s.total())
		}
	})
	t.Run("a fresh lookup that fails leaves the answer that stands", func(t *testing.T) {
		s := startServer(t, "a.test. 300 IN TXT old")
		c := newClient(t, Options{}, s)
		if _, err := c.TXT(t.Context(), "a.test"); err != nil {
			t.Fatal(err)
		}
		s.handle(code(dns.RcodeServerFailure, 0, ""))
		_, err := c.FreshTXT(t.Context(), "a.test")
		wantFailed(t, err)
		if _, err := c.TXT(t.Context(), "a.test"); err != nil {
			t.Error(err)
		}
	})
}
