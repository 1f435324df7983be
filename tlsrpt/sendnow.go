package tlsrpt

import (
	"context"
	"errors"
	"fmt"
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
	for {
		jobs, done, err := s.progress(ctx, before)
		if err != nil || done {
			return jobs, err
		}
		select {
		case <-ctx.Done():
			return jobs, ctx.Err()
		case <-t.C:
		}
	}
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
		if wanted(j.Ref) && j.State == Pending && !contains(jobs[:opened], j.Ref) {
			jobs, waiting = append(jobs, j), append(waiting, j.Ref)
		}
	}
	return jobs, s.o.Store.HurryReports(ctx, waiting)
}

func contains(jobs []Job, r Ref) bool {
	for _, j := range jobs {
		if j.Ref == r {
			return true
		}
	}
	return false
}

// progress reads the reports again, and says whether each was tried.
func (s *Sender) progress(ctx context.Context, before []Job) (now []Job, done bool, err error) {
	done = true
	for _, b := range before {
		j, _, err := s.o.Store.Report(ctx, b.Ref)
		if errors.Is(err, ErrNoReport) {
			continue // forgotten since
		}
		if err != nil {
			return now, false, err
		}
		now = append(now, j)
		done = done && tried(b, j)
	}
	return now, done, nil
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
