package tlsrpt

import (
	"cmp"
	"context"
	"crypto/rand"
	"slices"
	"time"

	"stsrelay/internal/addr"
)

// An agenda knows when which tally becomes a report. Only Run uses it.
type agenda struct {
	store  Counts
	salt   string
	spread time.Duration

	list []appointment // by time, the last one first
	scan time.Time     // when the tallies are to be looked at again
}

type appointment struct {
	at  time.Time
	ref Ref
}

// expire makes the next take look at the tallies.
func (a *agenda) expire() { a.scan = time.Time{} }

// take returns what is to be opened now, and how long until there is more.
func (a *agenda) take(ctx context.Context, now time.Time) (out []Opening, next time.Duration, err error) {
	if !now.Before(a.scan) {
		if err := a.look(ctx, now); err != nil {
			return nil, 0, err
		}
	}
	for n := len(a.list); n > 0 && !a.list[n-1].at.After(now); n-- {
		r := a.list[n-1].ref
		out = append(out, Opening{Day: r.Day, Domain: r.Domain})
		a.list = a.list[:n-1]
	}
	next = a.scan.Sub(now)
	if n := len(a.list); n > 0 {
		next = min(next, a.list[n-1].at.Sub(now))
	}
	return out, next, nil
}

// look makes the list anew.
func (a *agenda) look(ctx context.Context, now time.Time) error {
	a.list = a.list[:0]
	for r, err := range a.store.Counted(ctx, DayOf(now)) {
		if err != nil {
			return err
		}
		a.list = append(a.list, appointment{opensAt(r, a.salt, a.spread, now), r})
	}
	slices.SortFunc(a.list, func(x, y appointment) int {
		return cmp.Or(y.at.Compare(x.at), cmp.Compare(y.ref.Day, x.ref.Day), cmp.Compare(y.ref.Domain.String(), x.ref.Domain.String()))
	})
	a.scan = now.Add(rescan)
	return nil
}

// newID makes an ID that no other report has.
func (s *Sender) newID(day Day, domain addr.Domain) string {
	return NewID(day, domain, s.o.Submitter(), rand.Text()[:16])
}
