package boltstore

import (
	"strings"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/relay"
)

// A matcher is a relay.Filter made ready for many records.
type matcher struct {
	f        relay.Filter
	to, from pattern
}

func newMatcher(f relay.Filter) *matcher {
	return &matcher{f: f, to: newPattern(f.To), from: newPattern(f.From)}
}

// match reports whether a record is selected. It decodes the details only when
// the filter asks for them.
func (m *matcher) match(r *record, active bool, now int64) (bool, error) {
	f := &m.f
	if f.Destination != "" && string(f.Destination) != r.dest ||
		f.Older > 0 && time.Duration(now-r.arrived) < f.Older ||
		f.State != "" && f.State != state(r, active) {
		return false, nil
	}
	if f.To == "" && f.From == "" && f.Reason == "" {
		return true, nil
	}
	d, err := r.decodeDetails()
	if err != nil {
		return false, err
	}
	return (f.From == "" || m.from.match(d.From)) &&
		(f.To == "" || m.anyRecipient(d)) &&
		(f.Reason == "" || hasReason(d, f.Reason)), nil
}

func (m *matcher) anyRecipient(d *details) bool {
	for _, r := range d.To {
		if m.to.match(r.Address) {
			return true
		}
	}
	return false
}

func state(r *record, active bool) relay.State {
	switch {
	case active:
		return relay.StateActive
	case r.has(flagHeld):
		return relay.StateHeld
	}
	return relay.StateDeferred
}

// hasReason looks at the last attempt: its note, and what it said of each
// recipient.
func hasReason(d *details, reason string) bool {
	if n := len(d.History); n > 0 && string(d.History[n-1].Reason) == reason {
		return true
	}
	for _, r := range d.To {
		if r.Last != nil && string(r.Last.Reason) == reason {
			return true
		}
	}
	return false
}

// A pattern is "user@domain", "@domain" or "<>". People who search do not care
// for case, in the local part neither.
type pattern struct {
	null   bool
	local  string // "" with "@domain": any
	domain string // canonical where it can be
	any    bool   // any local part
}

func newPattern(s string) pattern {
	if s == "<>" {
		return pattern{null: true}
	}
	s = strings.TrimSuffix(strings.TrimPrefix(s, "<"), ">")
	at := strings.LastIndexByte(s, '@')
	if at < 0 {
		return pattern{local: s}
	}
	return pattern{local: s[:at], domain: canonical(s[at+1:]), any: at == 0}
}

func (p pattern) match(a addr.Address) bool {
	if p.null || a.IsNull() {
		return p.null && a.IsNull()
	}
	s := a.String()
	domain := s[strings.LastIndexByte(s, '@')+1:]
	return (p.any || strings.EqualFold(p.local, a.Local())) && canonical(domain) == p.domain
}

func canonical(domain string) string {
	if d, err := addr.ParseDomain(domain); err == nil {
		return d.String()
	}
	return strings.ToLower(domain)
}
