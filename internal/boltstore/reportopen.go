package boltstore

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"slices"

	"stsrelay/tlsrpt"

	bolt "go.etcd.io/bbolt"
)

// Counted yields what countedFrom finds. After an error it ends.
func (s *Store) Counted(ctx context.Context, before tlsrpt.Day) iter.Seq2[tlsrpt.Ref, error] {
	return func(yield func(tlsrpt.Ref, error) bool) {
		for at := []byte{}; at != nil; {
			var some []tlsrpt.Ref
			err := ctx.Err()
			if err == nil {
				some, at, err = s.countedFrom(at, before)
			}
			for _, r := range some {
				if !yield(r, nil) {
					return
				}
			}
			if err != nil {
				yield(tlsrpt.Ref{}, fmt.Errorf("reading tallies: %w", err))
				return
			}
		}
	}
}

// countedFrom walks from domain to domain.
func (s *Store) countedFrom(at []byte, before tlsrpt.Day) (out []tlsrpt.Ref, next []byte, err error) {
	err = s.view(func(tx *bolt.Tx) error {
		c := tx.Bucket(bTally).Cursor()
		for k, _ := c.Seek(at); k != nil; {
			t, prefix, err := newTally(k)
			if err != nil {
				return err
			}
			if t.Day >= before {
				return nil
			}
			if len(out) == maxReportsPerView {
				next = bytes.Clone(k)
				return nil
			}
			out = append(out, tlsrpt.Ref{Day: t.Day, Domain: t.Domain})
			prefix[len(prefix)-1] = 1 // behind all of the domain's
			k, _ = c.Seek(prefix)
		}
		return nil
	})
	return out, next, err
}

// OpenReports moves tallies into reports, in bounded commits.
func (s *Store) OpenReports(ctx context.Context, openings []tlsrpt.Opening) (out []tlsrpt.Job, err error) {
	for some := range slices.Chunk(openings, maxReportsPerView) {
		var made []tlsrpt.Job
		err := s.do(ctx, 0, func(b *batch) error {
			made = made[:0]
			for _, o := range some {
				j, ok, err := b.openReport(o)
				if err != nil {
					return fmt.Errorf("report on %s about %s: %w", o.Domain, o.Day, err)
				}
				if ok {
					made = append(made, j)
				}
			}
			return nil
		})
		if err != nil {
			return out, err
		}
		out = append(out, made...)
	}
	return out, nil
}

func (b *batch) openReport(o tlsrpt.Opening) (tlsrpt.Job, bool, error) {
	counted := tallyPrefix(o.Day, o.Domain)
	if k, _ := b.tally.Cursor().Seek(counted); !bytes.HasPrefix(k, counted) {
		return tlsrpt.Job{}, false, nil
	}
	ref := tlsrpt.Ref{Day: o.Day, Domain: o.Domain, Number: 1}
	c := b.report.Cursor()
	for k, _ := c.Seek(counted); bytes.HasPrefix(k, counted); k, _ = c.Next() {
		last, err := parseReportKey(k)
		if err != nil {
			return tlsrpt.Job{}, false, err
		}
		ref.Number = last.Number + 1
	}
	key := reportKey(ref)
	r := &report{ID: o.ID, Copy: o.Copy, State: tlsrpt.Pending, when: in(0, b.now)}
	for _, p := range o.Parts {
		r.Parts = append(r.Parts, part{RUA: p.RUA, State: p.State, Why: p.Why, when: in(p.Due, b.now)})
	}
	r.State = tlsrpt.StateOf(o.Parts)
	if err := b.moveCounts(counted, append(bytes.Clone(key), 0), r); err != nil {
		return tlsrpt.Job{}, false, err
	}
	return r.job(ref, b.now), true, b.writeReport(key, nil, r)
}

// moveCounts moves a tally to a report, or copies it, and sums it up.
func (b *batch) moveCounts(from, to []byte, r *report) error {
	type record struct{ k, v []byte }
	var all []record // the cursor is not to be disturbed
	c := b.tally.Cursor()
	for k, v := c.Seek(from); bytes.HasPrefix(k, from); k, v = c.Next() {
		all = append(all, record{bytes.Clone(k), bytes.Clone(v)})
	}
	for _, x := range all {
		rest := x.k[len(from):]
		if len(rest) == len(tlsrpt.Key{}) {
			n, _, err := readTally(x.v, policyNumbers)
			if err != nil {
				return err
			}
			r.Successes += n[0]
			r.Failures += n[1]
		}
		b.put(b.reportCount, append(bytes.Clone(to), rest...), x.v)
		if !r.Copy {
			b.delete(b.tally, x.k)
		}
	}
	return nil
}
