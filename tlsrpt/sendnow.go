package tlsrpt

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"stsrelay/internal/addr"
)

// A Request is what an operator wants sent at once.
type Request struct {
	Day    Day         // "": all
	Domain addr.Domain // zero: all
	To     []RUA       // a copy goes there, for a test: sessions stay tallied, and the domain gets its report all the same
}

// lookEvery is how often SendNow asks the store what has become of its reports.
const lookEvery = 100 * time.Millisecond

// SendNow makes reports of what is tallied up to this moment, today included,
// and tries them and those that wait, without spreading. It returns when each
// destination was tried once, or ctx ends: what it returns says how far they
// are. Run does the work, and goes on with what has failed. Sessions that come
// later make another report.
func (s *Sender) SendNow(ctx context.Context, q Request) ([]Job, error) {
	if why := s.Idle(); why != "" {
		return nil, errors.New("TLS reports are not sent: " + why)
	}
	before, err := s.begin(ctx, q)
	if err != nil {
		return nil, fmt.Errorf("making reports: %w", err)
	}
	s.wake()
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	jobs := slices.Clone(before)
	for waiting := indexes(jobs); ; {
		if waiting, err = s.progress(ctx, before, jobs, waiting); err != nil || len(waiting) == 0 {
			return jobs, err
		}
		select {
		case <-ctx.Done():
			return jobs, ctx.Err()
		case <-t.C:
		}
	}
}

func indexes(jobs []Job) (out []int) {
	for i := range jobs {
		out = append(out, i)
	}
	return out
}

// begin opens reports, hurries those that wait, and returns them all as they
// are before the attempt.
func (s *Sender) begin(ctx context.Context, q Request) ([]Job, error) {
	wanted := func(r Ref) bool {
		return (q.Day == "" || r.Day == q.Day) && (q.Domain.IsZero() || r.Domain == q.Domain)
	}
	var openings []Opening
	for r, err := range s.o.Store.Counted(ctx, DayOf(time.Now()).Add(2)) {
		if err != nil {
			return nil, err
		}
		if wanted(r) {
			openings = append(openings, Opening{Day: r.Day, Domain: r.Domain, ID: s.newID(r.Day, r.Domain), Copy: len(q.To) > 0, Parts: s.parts(Record{RUAs: q.To})})
		}
	}
	jobs, err := s.o.Store.OpenReports(ctx, openings)
	if err != nil || len(q.To) > 0 {
		return jobs, err
	}
	var waiting []Ref
	opened := len(jobs)
	for j, err := range s.o.Store.Reports(ctx, q.Day) {
		if err != nil {
			return nil, err
		}
		if wanted(j.Ref) && j.State == Pending && !slices.ContainsFunc(jobs[:opened], func(o Job) bool { return o.Ref == j.Ref }) {
			jobs, waiting = append(jobs, j), append(waiting, j.Ref)
		}
	}
	return jobs, s.o.Store.HurryReports(ctx, waiting)
}

// progress reads the reports again that were not tried yet, and returns those
// that still were not.
func (s *Sender) progress(ctx context.Context, before, now []Job, waiting []int) (still []int, err error) {
	for _, i := range waiting {
		j, _, err := s.o.Store.Report(ctx, before[i].Ref)
		if errors.Is(err, ErrNoReport) {
			continue // forgotten since
		}
		if err != nil {
			return nil, err
		}
		if now[i] = j; !tried(before[i], j) {
			still = append(still, i)
		}
	}
	return still, nil
}

// tried reports whether a report was tried at each of its destinations since.
func tried(before, now Job) bool {
	if len(now.Parts) == 0 {
		return now.State != Pending || now.Looks > before.Looks
	}
	for _, p := range now.Parts {
		tries := 0
		for _, b := range before.Parts {
			if b.RUA == p.RUA {
				tries = b.Tries
			}
		}
		if p.State.Open() && p.Tries <= tries {
			return false
		}
	}
	return true
}
