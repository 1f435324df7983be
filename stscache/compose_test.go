package stscache

import (
	"slices"
	"testing"
	"time"
)

func TestCompose(t *testing.T) {
	for _, p := range []Policy{
		{Mode: Enforce, MaxAge: 14 * 24 * time.Hour, MX: []Pattern{"mx1.example.com", "*.example.net"}},
		{Mode: Testing, MaxAge: MaxAge, MX: []Pattern{"mx.example.com"}},
		{Mode: None, MaxAge: 24 * time.Hour},
	} {
		got, found := LintPolicy(Compose(p))
		if got == nil || got.Mode != p.Mode || got.MaxAge != p.MaxAge || !slices.Equal(got.MX, p.MX) {
			t.Errorf("%+v is read as %+v", p, got)
		}
		if len(found) > 0 && p.MaxAge != MaxAge { // a year is long for testing, and said to be
			t.Errorf("%+v: %v", p, found)
		}
	}
	now := time.Now()
	if id, err := ParseRecord([]string{ComposeRecord(NewID(now))}); err != nil || id != NewID(now) {
		t.Errorf("%q, %v", id, err)
	}
	if NewID(now) == NewID(now.Add(time.Second)) {
		t.Error("two ids are the same")
	}
}
