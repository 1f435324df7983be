package tlsrpt

import (
	"fmt"
	"testing"
	"time"

	"stsrelay/internal/addr"
)

func at(s string) time.Time {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		panic(err)
	}
	return t
}

func refOf(i int) Ref {
	return Ref{Day: "2026-11-01", Domain: addr.MustDomain(fmt.Sprintf("d%d.example", i))}
}

func TestOpensAt(t *testing.T) {
	end := at("2026-11-02T00:00:00Z")
	t.Run("RPT-4.1-02 RPT-4.1-03 each domain has its own second, from 1 to 14400 after midnight", func(t *testing.T) {
		quarters := [4]int{}
		for i := range 2000 {
			d := opensAt(refOf(i), "relay.example", DefaultSpread, end).Sub(end)
			if d < time.Second || d > 14400*time.Second || d%time.Second != 0 {
				t.Fatalf("after %v", d)
			}
			quarters[(d-1)/time.Hour]++
			if again := opensAt(refOf(i), "relay.example", DefaultSpread, end.Add(-time.Hour)); again.Sub(end) != d {
				t.Fatalf("seen earlier: %v, not %v", again.Sub(end), d)
			}
		}
		for i, n := range quarters {
			if n < 400 {
				t.Errorf("%d of 2000 in hour %d", n, i)
			}
		}
	})
	mine := opensAt(refOf(1), "relay.example", DefaultSpread, end)
	for _, c := range []struct {
		name   string
		salt   string
		spread time.Duration
		since  time.Time
		want   time.Time
	}{
		{"seen at the very moment", "relay.example", DefaultSpread, mine, mine},
		{"seen a moment later: the same time in the next span", "relay.example", DefaultSpread, mine.Add(time.Nanosecond), mine.Add(4 * time.Hour)},
		{"seen days later", "relay.example", DefaultSpread, mine.Add(49 * time.Hour), mine.Add(52 * time.Hour)},
		{"without spreading, at the end of the day", "relay.example", 0, end.Add(-time.Hour), end},
		{"without spreading, seen late", "relay.example", 0, end.Add(time.Hour), end.Add(time.Hour)},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := opensAt(refOf(1), c.salt, c.spread, c.since); !got.Equal(c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
	if opensAt(refOf(1), "other.example", DefaultSpread, end).Equal(mine) {
		t.Error("another relay has the same time")
	}
}

func TestRetry(t *testing.T) {
	for _, c := range []struct {
		name       string
		tries      int
		age, asked time.Duration
		want       time.Duration
		ok         bool
	}{
		{"RPT-5.5-01 after the first attempt", 1, 0, 0, 15 * time.Minute, true},
		{"RPT-5.5-01 twice as long after the second", 2, 15 * time.Minute, 0, 30 * time.Minute, true},
		{"RPT-5.5-01 and so on", 6, 8 * time.Hour, 0, 8 * time.Hour, true},
		{"RPT-5.5-01 the last attempt is within the window", 7, 16 * time.Hour, 0, 8*time.Hour - time.Minute, true},
		{"RPT-5.5-01 and behind it there is none", 8, 24*time.Hour - time.Minute, 0, 0, false},
		{"many attempts do not overflow", 1000, 0, 0, 24*time.Hour - time.Minute, true},
		{"RPT-5.5-02 Retry-After is respected", 1, 0, time.Hour, time.Hour, true},
		{"RPT-5.5-02 a short Retry-After does not hurry us", 1, 0, time.Second, 15 * time.Minute, true},
		{"RPT-5.5-02 a Retry-After beyond the window ends it", 1, time.Hour, 23 * time.Hour, 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, ok := retry(c.tries, c.age, c.asked, 0); got != c.want || ok != c.ok {
				t.Errorf("got %v, %v", got, ok)
			}
		})
	}
	if got, _ := retry(1, 0, 0, 1); got != 16*time.Minute+30*time.Second {
		t.Errorf("with all the jitter: %v", got)
	}
	t.Run("RPT-5.5-01 an endpoint that is down for 25 hours is tried less and less often, and not after 24", func(t *testing.T) {
		age, gap, tries := time.Duration(0), time.Duration(0), 1
		for ; tries < 100; tries++ {
			d, ok := retry(tries, age, 0, 0.5)
			if !ok {
				break
			}
			if age += d; age >= window || d < gap && age < window-lastCall {
				t.Errorf("attempt %d at %v, %v after the one before", tries+1, age, d)
			}
			gap = d
		}
		if tries != 8 || age != window-lastCall {
			t.Errorf("%d attempts, the last at %v", tries, age)
		}
	})
}

func TestDomainSet(t *testing.T) {
	s := domainSet{"a.example": true, ".b.example": true}
	for name, want := range map[string]bool{"a.example": true, "x.a.example": false, "b.example": false, "x.b.example": true, "y.x.b.example": true, "xb.example": false, "c.example": false} {
		if got := s.has(addr.MustDomain(name)); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
