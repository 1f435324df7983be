package stscache

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"stsrelay/internal/addr"
)

var noon = time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)

// cached is a policy of ten days with id "a", fetched at noon.
func cached(mode Mode) *kept {
	return &kept{policy: &Policy{Mode: mode, MaxAge: 10 * 24 * time.Hour, MX: []Pattern{"mx.example.com"}}, id: "a", fetched: noon, used: noon}
}

// failedFor has the last fetch failed at noon, for an id.
func failedFor(k *kept, id string) *kept {
	k.failedID, k.failedAt, k.failures, k.failure = id, noon, 1, ErrFetch.Error()+": 404"
	return k
}

func TestNext(t *testing.T) {
	lookup := fmt.Errorf("%w: timeout", ErrLookup)
	const day = 24 * time.Hour
	use, fetch := step{}, step{fetch: true}
	for _, tt := range []struct {
		name string
		k    *kept
		id   string
		err  error
		at   time.Duration // after noon
		want step
	}{
		{"first contact: fetch", &kept{}, "a", nil, 0, fetch},
		{"no record, nothing cached", &kept{}, "", ErrNoRecord, 0, step{err: ErrNoRecord}},
		{"STS-5.1-01 STS-3.1-01 the id is the same, max_age not over: use", cached(Enforce), "a", nil, 10 * day, use},
		{"STS-5.1-01 STS-3.3-15 a second later: fetch, whatever the record said in between", cached(Enforce), "a", nil, 10*day + time.Second, fetch},
		{"STS-3.1-14 another id: fetch", cached(Enforce), "b", nil, time.Hour, fetch},
		{"STS-3.1-14 an id that is less is another id", func() *kept { k := cached(Enforce); k.id = "20300101"; return k }(), "20200101", nil, time.Hour, fetch},
		{"STS-3.1-14 ids have a case", cached(Enforce), "A", nil, time.Hour, fetch},
		{"STS-3.1-10 the record is gone: the policy stays", cached(Enforce), "", ErrNoRecord, time.Hour, step{err: ErrNoRecord}},
		{"STS-3.1-10 there are two: it stays", cached(Enforce), "", ErrManyRecords, time.Hour, step{err: ErrManyRecords}},
		{"STS-3.1-10 it is malformed: it stays", cached(Testing), "", ErrRecordSyntax, time.Hour, step{err: ErrRecordSyntax}},
		{"the record cannot be looked up: it stays", cached(Enforce), "", lookup, time.Hour, step{err: lookup}},
		{"it cannot be looked up, the policy is over: it is no ground to forget", cached(Enforce), "", lookup, 11 * day, step{err: lookup}},
		{"the record is gone, the policy is over: forget", cached(Enforce), "", ErrNoRecord, 11 * day, step{err: ErrNoRecord, forget: true}},
		{"mode none, the record is gone: forget", cached(None), "", ErrNoRecord, time.Hour, step{err: ErrNoRecord, forget: true}},
		{"max_age 0: fetch for each attempt", func() *kept { k := cached(Enforce); k.policy.MaxAge = 0; return k }(), "a", nil, 0, fetch},
		{"STS-3.3-08 a fetch failed a minute ago: wait", failedFor(&kept{}, "a"), "a", nil, time.Minute, step{err: ErrFetch}},
		{"STS-3.3-08 five minutes ago: fetch", failedFor(&kept{}, "a"), "a", nil, 5 * time.Minute, fetch},
		{"STS-3.3-08 for another id: fetch at once", failedFor(&kept{}, "a"), "b", nil, time.Second, fetch},
		{"STS-3.3-08 for the new id of a cached policy: wait", failedFor(cached(Enforce), "b"), "b", nil, time.Minute, step{err: ErrFetch}},
		{"a fetch of the same id failed: the policy is current all the same", failedFor(cached(Enforce), "a"), "a", nil, time.Minute, use},
		{"the clock was set back: fetch", failedFor(&kept{}, "a"), "a", nil, -time.Hour, fetch},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := next(tt.k, tt.id, tt.err, noon.Add(tt.at))
			if got.fetch != tt.want.fetch || got.forget != tt.want.forget || !errors.Is(got.err, tt.want.err) || (got.err == nil) != (tt.want.err == nil) {
				t.Errorf("%+v, not %+v", got, tt.want)
			}
		})
	}
}

func TestKeptFailures(t *testing.T) {
	for _, kind := range []error{ErrFetch, ErrWebPKI, ErrTooLarge, ErrPolicySyntax} {
		k := keep(Entry{Failure: fmt.Errorf("%w: details", kind).Error(), Failures: 1})
		if err := k.failureError(); !errors.Is(err, kind) || err.Error() != kind.Error()+": details" {
			t.Errorf("a stored %q is %v", kind, err)
		}
	}
	if err := keep(Entry{Failure: "of another version", Failures: 1}).failureError(); !errors.Is(err, ErrFetch) {
		t.Errorf("%v", err)
	}
}

func TestChores(t *testing.T) {
	const day = 24 * time.Hour
	domain := addr.MustDomain("example.com")
	short := func(age time.Duration) *kept { k := cached(Enforce); k.policy.MaxAge = age; return k }
	failed := func(at time.Duration) *kept {
		k := failedFor(cached(Enforce), "a")
		k.failedAt = noon.Add(at)
		return k
	}
	for _, tt := range []struct {
		name string
		k    *kept
		at   time.Duration
		want chore
	}{
		{"fresh", cached(Enforce), time.Hour, leave},
		{"a day old", cached(Enforce), day, refresh},
		{"mode none too", cached(None), day, refresh},
		{"half of a short life", short(2 * time.Hour), time.Hour, refresh},
		{"not used for a month", short(100 * day), 31 * day, leave},
		{"over", short(time.Hour), 2 * time.Hour, drop},
		{"a refresh has just failed", failed(day), day + time.Minute, leave},
		{"a refresh failed an hour ago", failed(day), day + time.Hour, refresh},
		{"a failure without a policy", failedFor(&kept{}, "a"), time.Hour, leave},
		{"an old one", failedFor(&kept{}, "a"), 25 * time.Hour, drop},
		{"the clock was set back behind the fetch", cached(Enforce), -time.Hour, refresh},
		{"the clock was set back behind a failure", failed(20 * day), 2 * day, refresh},
		{"the clock was set back behind a failure without a policy", failedFor(&kept{}, "a"), -time.Hour, drop},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := plan(tt.k, domain, noon.Add(tt.at)); got != tt.want {
				t.Errorf("%v, not %v", got, tt.want)
			}
		})
	}
	t.Run("refreshing is spread", func(t *testing.T) {
		due := 0
		for i := range 1000 {
			if plan(cached(Enforce), addr.MustDomain(fmt.Sprintf("d%d.example", i)), noon.Add(day-72*time.Minute)) == refresh {
				due++
			}
		}
		if due < 300 || due > 700 {
			t.Errorf("%d of 1000 are due at the half of the spread", due)
		}
	})
}
