package config

import (
	"fmt"
	"strings"
	"time"

	"stsrelay/internal/addr"
)

// Override is one [[override]]: what a domain publishes is not enforced for a
// limited time (ledger X-12).
type Override struct {
	Domain addr.Domain `toml:"domain"`
	STS    bool        `toml:"sts"`
	DANE   bool        `toml:"dane"`
	Until  Until       `toml:"until"`
	Reason string      `toml:"reason"`
}

// defaultOverride lifts nothing.
func defaultOverride() Override { return Override{STS: true, DANE: true} }

// Lifts names what is not enforced.
func (o Override) Lifts() string {
	var list []string
	if !o.STS {
		list = append(list, "MTA-STS")
	}
	if !o.DANE {
		list = append(list, "DANE")
	}
	return strings.Join(list, " and ")
}

// Ended reports whether the override's time is over.
func (o Override) Ended(now time.Time) bool { return !now.Before(o.Until.Time) }

func (o Override) warning(now time.Time) string {
	if o.Ended(now) {
		return fmt.Sprintf("the [[override]] of %s ended at %s and is ignored: remove it", o.Domain, o.Until)
	}
	return fmt.Sprintf("%s of %s is not enforced until %s, by [[override]]: %s", o.Lifts(), o.Domain, o.Until, o.Reason)
}

// An Until is when something ends: a time, or a day (UTC) of which it is the
// end.
type Until struct{ time.Time }

// UnmarshalText implements encoding.TextUnmarshaler.
func (u *Until) UnmarshalText(b []byte) error {
	if day, err := time.Parse(time.DateOnly, string(b)); err == nil {
		u.Time = day.AddDate(0, 0, 1)
		return nil
	}
	t, err := time.Parse(time.RFC3339, string(b))
	if err != nil {
		return fmt.Errorf("%q is not a day like 2026-12-31 or a time like 2026-12-31T12:00:00Z", b)
	}
	u.Time = t.UTC()
	return nil
}

// String writes a form that UnmarshalText reads.
func (u Until) String() string { return u.UTC().Format(time.RFC3339) }

// MarshalText implements encoding.TextMarshaler.
func (u Until) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

func (v *validator) overrides() {
	seen := map[addr.Domain]int{}
	for i := range v.c.Overrides {
		o, at := &v.c.Overrides[i], fmt.Sprintf("override[%d]", i)
		v.fill(at, o, defaultOverride())
		if o.Domain.IsZero() {
			v.problem(at+".domain", "missing")
		} else if j, ok := seen[o.Domain]; ok {
			v.problem(at+".domain", "override[%d] is about %s too", j, o.Domain)
		}
		seen[o.Domain] = i
		if o.Lifts() == "" {
			v.problem(at, "it lifts nothing: set sts = false, dane = false or both")
		}
		if o.Until.IsZero() {
			v.problem(at+".until", "missing; say when it ends, like \"2026-12-31\"")
		}
		if strings.TrimSpace(o.Reason) == "" {
			v.problem(at+".reason", "missing; say why, for those who come after you")
		}
	}
}
