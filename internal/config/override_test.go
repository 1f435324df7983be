package config

import (
	"strings"
	"testing"
	"time"

	"stsrelay/internal/addr"
)

func TestOverrides(t *testing.T) {
	c, err := Parse("x", []byte(`hostname = "relay.example.com"
[[override]]
domain = "Partner.Example"
sts = false
until = "2026-12-31"
reason = "ticket 4711"
[[override]]
domain = "other.example"
dane = false
until = "2026-12-31T12:00:00+01:00"
reason = "they know"
`))
	if err != nil {
		t.Fatal(err)
	}
	end := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	noon := time.Date(2026, 12, 31, 11, 0, 0, 0, time.UTC)
	want := []Override{
		{addr.MustDomain("partner.example"), false, true, Until{end}, "ticket 4711"},
		{addr.MustDomain("other.example"), true, false, Until{noon}, "they know"},
	}
	for i, w := range want {
		if i >= len(c.Overrides) || c.Overrides[i] != w {
			t.Fatalf("%+v, want %+v", c.Overrides, want)
		}
	}
	o := c.Overrides[0]
	if o.Ended(end.Add(-time.Nanosecond)) || !o.Ended(end) {
		t.Error("it does not end with its last day")
	}
	if w := o.warning(noon); w != "MTA-STS of partner.example is not enforced until 2027-01-01T00:00:00Z, by [[override]]: ticket 4711" {
		t.Error(w)
	}
	if w := o.warning(end); !strings.Contains(w, "is ignored: remove it") {
		t.Error(w)
	}
	var again Until
	if err := again.UnmarshalText([]byte(o.Until.String())); err != nil || again != o.Until {
		t.Errorf("%s is read as %v, %v", o.Until, again, err)
	}
}

func TestOverridesAreWarnedOf(t *testing.T) {
	c, err := Parse("x", []byte("hostname = \"relay.example.com\"\n[[override]]\ndomain = \"a.example\"\ndane = false\nsts = false\nuntil = \"2020-01-01\"\nreason = \"x\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	if w := strings.Join(c.Warnings(), "\n"); !strings.Contains(w, "the [[override]] of a.example ended at 2020-01-02T00:00:00Z") {
		t.Error(w)
	}
}
