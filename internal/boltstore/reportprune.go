package boltstore

import (
	"bytes"
	"context"
	"fmt"

	"stsrelay/tlsrpt"

	bolt "go.etcd.io/bbolt"
)

// PruneReports forgets in bounded commits.
func (s *Store) PruneReports(ctx context.Context, ended, all tlsrpt.Day) (n int, err error) {
	for {
		keys, err := s.prunable(ended, all)
		if err == nil && len(keys) > 0 {
			err = s.do(ctx, 0, func(b *batch) error { return b.forgetReports(keys, all) })
		}
		if n += len(keys); err != nil || len(keys) == 0 {
			break
		}
	}
	for err == nil {
		var some []tlsrpt.Ref
		if some, _, err = s.countedFrom(nil, all); err != nil || len(some) == 0 {
			break
		}
		err = s.do(ctx, 0, func(b *batch) error {
			for _, ref := range some {
				b.deletePrefix(b.tally, tallyPrefix(ref.Day, ref.Domain))
			}
			return nil
		})
		n += len(some)
	}
	if err != nil {
		return n, fmt.Errorf("forgetting old reports: %w", err)
	}
	return n, nil
}

// prunable finds reports to forget. What is leased is left for the next time.
func (s *Store) prunable(ended, all tlsrpt.Day) (out [][]byte, err error) {
	elapsed := s.clock.elapsed()
	s.reportLeases.mu.Lock()
	defer s.reportLeases.mu.Unlock()
	err = s.view(func(tx *bolt.Tx) error {
		c := tx.Bucket(bReport).Cursor()
		for k, v := c.First(); k != nil && len(out) < maxReportsPerView; k, v = c.Next() {
			day, _, _ := bytes.Cut(k, []byte{0})
			if d := tlsrpt.Day(day); d >= ended && d >= all {
				return nil
			}
			r, err := decodeReport(v)
			if err != nil {
				return fmt.Errorf("report %q: %w", k, err)
			}
			if !s.reportLeases.held[string(k)].live(elapsed) && (!r.State.Open() || tlsrpt.Day(day) < all) {
				out = append(out, bytes.Clone(k))
			}
		}
		return nil
	})
	return out, err
}

func (b *batch) forgetReports(keys [][]byte, all tlsrpt.Day) error {
	for _, k := range keys {
		r, err := b.readReport(k)
		if err != nil {
			return err
		}
		day, _, _ := bytes.Cut(k, []byte{0})
		if r == nil || r.State.Open() && tlsrpt.Day(day) >= all {
			continue // it has changed meanwhile
		}
		b.unindexReport(k, r)
		for _, p := range r.Parts {
			if p.Mail != "" && p.State == tlsrpt.Queued {
				b.delete(b.reportMail, []byte(p.Mail))
			}
		}
		b.forgetCounts(k)
		b.delete(b.report, k)
	}
	return nil
}

func (b *batch) forgetCounts(key []byte) {
	b.deletePrefix(b.reportCount, append(bytes.Clone(key), 0))
}

func (b *batch) deletePrefix(bucket *bolt.Bucket, prefix []byte) {
	var keys [][]byte
	c := bucket.Cursor()
	for k, _ := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, _ = c.Next() {
		keys = append(keys, bytes.Clone(k))
	}
	for _, k := range keys {
		b.delete(bucket, k)
	}
}

// repairReports moves reports that a clock set back would make wait longer than
// planned.
func (s *Store) repairReports() error {
	now := s.clock.now()
	var late [][]byte
	err := s.view(func(tx *bolt.Tx) error {
		return tx.Bucket(bReportDue).ForEach(func(k, v []byte) error {
			if number(k[:8])-now > number(v) {
				late = append(late, bytes.Clone(k[8:]))
			}
			return nil
		})
	})
	if err != nil || len(late) == 0 {
		return err
	}
	o, err := s.enqueue(0, func(b *batch) error {
		for _, key := range late {
			err := b.changeReport(key, func(r *report) {
				r.when = r.when.within(b.now)
				for i := range r.Parts {
					r.Parts[i].when = r.Parts[i].when.within(b.now)
				}
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return <-o.done
}

func (w when) within(now int64) when {
	return when{min(w.At, now+int64(w.Planned)), w.Planned}
}
