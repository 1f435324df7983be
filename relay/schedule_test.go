package relay

import (
	"testing"
	"time"
)

func TestSchedule(t *testing.T) {
	const day = 24 * time.Hour
	std := schedule{}.defaults()
	short := schedule{Retry: []time.Duration{time.Minute}, Expire: time.Hour}.defaults()
	for _, tt := range []struct {
		name    string
		plan    schedule
		attempt int
		age     time.Duration
		own     time.Duration
		chance  float64
		want    time.Duration
	}{
		{"SMTP-4.5.4.1-08 the first retry comes soon, for greylisting", std, 1, 0, 0, 0, 5 * time.Minute},
		{"SMTP-4.5.4.1-02 the second attempt of the first hour", std, 2, 5 * time.Minute, 0, 0, 15 * time.Minute},
		{"the third retry after half an hour", std, 3, 20 * time.Minute, 0, 0, 30 * time.Minute},
		{"then an hour", std, 4, 50 * time.Minute, 0, 0, time.Hour},
		{"SMTP-4.5.4.1-02 then two hours", std, 5, 2 * time.Hour, 0, 0, 2 * time.Hour},
		{"SMTP-4.5.4.1-02 then every four hours", std, 6, 4 * time.Hour, 0, 0, 4 * time.Hour},
		{"the last interval repeats", std, 40, 4 * day, 0, 0, 4 * time.Hour},
		{"SMTP-4.5.4.1-03 the intervals are a setting", short, 7, 0, 0, 0, time.Minute},
		{"jitter lengthens by a tenth at most", std, 1, 0, 0, 1, 5*time.Minute + 30*time.Second},
		{"jitter never shortens", std, 1, 0, 0, 0.5, 5*time.Minute + 15*time.Second},
		{"the last attempt is at the end of the lifetime", std, 30, 5*day - time.Hour, 0, 1, time.Hour},
		{"a message's own lifetime counts", std, 6, 23 * time.Hour, day, 0, time.Hour},
		{"the last attempt is not sooner than the first retry", std, 30, 5*day - time.Second, 0, 0, 5 * time.Minute},
		{"an attempt that outlasts the lifetime has another one behind it", std, 30, 6 * day, 0, 0, 5 * time.Minute},
		{"no attempt yet counts as the first", std, 0, 0, 0, 0, 5 * time.Minute},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.plan.within(tt.plan.delay(tt.attempt, tt.chance), tt.age, tt.plan.lifetime(tt.own)); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
	t.Run("SMTP-4.5.4.1-02 mail is kept for five days", func(t *testing.T) {
		if life := std.lifetime(0); life != 5*day || final(life-1, life) || !final(life, life) {
			t.Errorf("lifetime %v", life)
		}
	})
	t.Run("SMTP-4.5.4.1-03 the lifetime and the warning are settings", func(t *testing.T) {
		s := schedule{Expire: day, Warn: time.Hour}.defaults()
		if s.lifetime(0) != day || s.late(59*time.Minute) || !s.late(time.Hour) || std.late(4*time.Hour-1) {
			t.Error("not heeded")
		}
	})
	t.Run("every schedule ends: the ages of all attempts ascend to the lifetime", func(t *testing.T) {
		age, n := time.Duration(0), 1
		for ; !final(age, std.Expire); n++ {
			age += std.within(std.delay(n, float64(n%3)/2), age, std.Expire)
		}
		if age < 5*day || age > 5*day+5*time.Minute || n < 25 || n > 45 {
			t.Errorf("%d attempts, the last at %v", n, age)
		}
	})
}

func TestWeights(t *testing.T) {
	f := func(w weight) *failure { return &failure{weight: w} }
	for _, tt := range []struct {
		name                 string
		failure              *failure
		report, usual, heavy bool
	}{
		{"what works covers nothing", nil, false, false, false},
		{"a dead host is dead for all", f(light), true, true, true},
		{"a policy is no reason for those that ask for none", f(usual), false, true, true},
		{"a missing REQUIRETLS concerns who asks for it", f(heavy), false, false, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := [3]bool{tt.failure.covers(Options{Demand: 2}), tt.failure.covers(Options{}), tt.failure.covers(Options{Demand: 1})}
			if want := [3]bool{tt.report, tt.usual, tt.heavy}; got != want {
				t.Errorf("covers reports, usual, REQUIRETLS: %v, want %v", got, want)
			}
		})
	}
}

func TestJustBefore(t *testing.T) {
	for _, d := range []Destination{"a.example", "[192.0.2.1]", "[IPv6:2001:db8::1]:2525", "via:[127.0.0.1]", "xn--bcher-kva.example"} {
		if p := justBefore(d); p >= d || p <= d[:len(d)-1] {
			t.Errorf("%q before %q", p, d)
		}
	}
	if justBefore("") != "" {
		t.Error("before nothing is something")
	}
}
