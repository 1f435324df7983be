package tlsrpt

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"stsrelay/internal/addr"
)

// A Status is how sending goes, for people and metrics.
type Status struct {
	Idle    string    // why nothing is sent, "" if something is
	LastRun time.Time // of the last attempt since the start; zero: none
	Reports map[State]int
	Parts   map[Transport]map[State]int
}

// A Transport is how a report goes to a destination.
type Transport string

const (
	ByMail  Transport = "mail"
	ByHTTPS Transport = "https"
)

func transportOf(rua string) Transport {
	if u, err := ParseRUA(rua); err == nil && u.URL() != nil {
		return ByHTTPS
	}
	return ByMail
}

// Snapshot counts the reports about yesterday and today.
func (s *Sender) Snapshot(ctx context.Context) (Status, error) {
	out := Status{Idle: s.Idle(), Reports: map[State]int{}, Parts: map[Transport]map[State]int{ByMail: {}, ByHTTPS: {}}}
	if at := s.lastRun.Load(); at != 0 {
		out.LastRun = time.Unix(at, 0).UTC()
	}
	today := DayOf(time.Now())
	for _, day := range []Day{today.Add(-1), today} {
		for j, err := range s.o.Store.Reports(ctx, day) {
			if err != nil {
				return out, err
			}
			out.Reports[j.State]++
			for _, p := range j.Parts {
				out.Parts[transportOf(p.RUA)][p.State]++
			}
		}
	}
	return out, nil
}

// List is what there is of a day, or of all days when day is "": reports, and
// behind those of its domain what is tallied and no report yet. Of that, Number
// is 0 and Due is until the report is made.
func (s *Sender) List(ctx context.Context, day Day) (all []Job, err error) {
	for j, err := range s.o.Store.Reports(ctx, day) {
		if err != nil {
			return nil, err
		}
		all = append(all, j)
	}
	now := time.Now()
	for t, err := range s.o.Store.Tallies(ctx, day) {
		if err != nil {
			return nil, err
		}
		j := Job{Ref: Ref{Day: t.Day, Domain: t.Domain}, State: Tallied, Why: s.Idle()}
		for _, p := range t.Policies {
			j.Sums.Successes += p.Successes
			j.Sums.Failures += p.Failures
		}
		j.Due = opensAt(j.Ref, s.agenda.salt, s.o.Spread, now).Sub(now)
		all = append(all, j)
	}
	slices.SortStableFunc(all, func(a, b Job) int {
		return cmp.Or(cmp.Compare(a.Day, b.Day), cmp.Compare(a.Domain.String(), b.Domain.String()), cmp.Compare(uint(a.Number-1), uint(b.Number-1)))
	})
	return all, nil
}

// A Shown is a report as it is or would be sent, and where it is.
type Shown struct {
	Job    Job
	Report Report
}

// draft stands in the ID of what is no report yet.
const draft = "draft"

// Show returns the reports about a domain's day, of the last day there is when
// day is "", and what would be reported of what is only tallied.
func (s *Sender) Show(ctx context.Context, domain addr.Domain, day Day) (out []Shown, err error) {
	all, err := s.List(ctx, day)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(j Job) bool { return j.Domain != domain })
	if len(all) > 0 && day == "" {
		day = all[len(all)-1].Day
	}
	for _, j := range all {
		if j.Day != day {
			continue
		}
		x, err := s.show(ctx, j)
		if errors.Is(err, ErrNoReport) {
			continue // it has become one, or was forgotten, a moment ago
		}
		if err != nil {
			return nil, err
		}
		out = append(out, x)
	}
	return out, nil
}

func (s *Sender) show(ctx context.Context, j Job) (Shown, error) {
	if j.Number > 0 {
		r, err := s.build(ctx, j)
		return Shown{j, r}, err
	}
	for t, err := range s.o.Store.Tallies(ctx, j.Day) {
		if err != nil {
			return Shown{}, err
		}
		if t.Domain == j.Domain {
			j.ID = NewID(j.Day, j.Domain, s.o.Submitter(), draft)
			r, err := Build(t, s.o.Identity, j.ID)
			return Shown{j, r}, err
		}
	}
	return Shown{}, ErrNoReport
}
