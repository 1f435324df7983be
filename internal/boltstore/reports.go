package boltstore

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"strconv"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/tlsrpt"

	bolt "go.etcd.io/bbolt"
)

// reportVersion is the first octet of every report record; JSON of a report
// follows.
const reportVersion = 1

// A report is a tlsrpt.Job with times as nanoseconds since 1970.
type report struct {
	ID                  string
	Copy                bool `json:",omitempty"`
	Successes, Failures int64
	State               tlsrpt.State
	Why                 string `json:",omitempty"`
	Looks               int    `json:",omitempty"`
	First               int64  `json:",omitempty"` // lookup that failed
	when
	Parts []part `json:",omitempty"`
}

// A part is a tlsrpt.Part.
type part struct {
	RUA   string
	State tlsrpt.State
	Why   string `json:",omitempty"`
	Tries int    `json:",omitempty"`
	First int64  `json:",omitempty"`
	when
	Mail string `json:",omitempty"`
}

// when is a time that something is due, and the delay that led to it.
type when struct {
	At      int64         `json:",omitempty"`
	Planned time.Duration `json:",omitempty"`
}

func in(d time.Duration, now int64) when {
	d = min(max(0, d), maxDelay)
	return when{now + int64(d), d}
}

func (w when) in(now int64) time.Duration { return time.Duration(dueIn(w.At, int64(w.Planned), now)) }

// due is when a report is to be tried next; false: it does not wait for that.
func (r *report) due() (first when, ok bool) {
	if r.State != tlsrpt.Pending {
		return when{}, false
	}
	if len(r.Parts) == 0 {
		return r.when, true
	}
	for _, p := range r.Parts {
		if p.State == tlsrpt.Pending && (!ok || p.At < first.At) {
			first, ok = p.when, true
		}
	}
	return first, ok
}

// judge gives the report the state that its parts make.
func (r *report) judge() {
	var parts []tlsrpt.Part
	for _, p := range r.Parts {
		parts = append(parts, tlsrpt.Part{State: p.State})
	}
	r.State = tlsrpt.StateOf(parts)
}

func (r *report) job(ref tlsrpt.Ref, now int64) tlsrpt.Job {
	j := tlsrpt.Job{Ref: ref, ID: r.ID, Copy: r.Copy, Sums: tlsrpt.Summary{Successes: r.Successes, Failures: r.Failures},
		State: r.State, Why: r.Why, Looks: r.Looks, Age: since(r.First, now)}
	if w, ok := r.due(); ok {
		j.Due = w.in(now)
	}
	for _, p := range r.Parts {
		out := tlsrpt.Part{RUA: p.RUA, State: p.State, Why: p.Why, Tries: p.Tries, Age: since(p.First, now), Mail: p.Mail}
		if p.State == tlsrpt.Pending {
			out.Due = p.in(now)
		}
		j.Parts = append(j.Parts, out)
	}
	return j
}

func since(at, now int64) time.Duration {
	if at == 0 {
		return 0
	}
	return time.Duration(max(0, now-at))
}

func reportKey(r tlsrpt.Ref) []byte {
	return strconv.AppendInt(tallyPrefix(r.Day, r.Domain), int64(r.Number)+reportNumbers, 10)
}

// reportNumbers makes numbers sort as they count: 1000001, 1000002, ...
const reportNumbers = 1_000_000

func parseReportKey(k []byte) (tlsrpt.Ref, error) {
	parts := bytes.SplitN(k, []byte{0}, 3)
	if len(parts) != 3 {
		return tlsrpt.Ref{}, fmt.Errorf("report key %q", k)
	}
	domain, err := addr.ParseDomain(string(parts[1]))
	if err != nil {
		return tlsrpt.Ref{}, fmt.Errorf("report key %q: %w", k, err)
	}
	n, err := strconv.Atoi(string(parts[2]))
	if err != nil {
		return tlsrpt.Ref{}, fmt.Errorf("report key %q: %w", k, err)
	}
	return tlsrpt.Ref{Day: tlsrpt.Day(parts[0]), Domain: domain, Number: n - reportNumbers}, nil
}

func decodeReport(v []byte) (*report, error) {
	if len(v) == 0 || v[0] != reportVersion {
		return nil, fmt.Errorf("report record of unknown version (%d octets)", len(v))
	}
	r := &report{}
	return r, json.Unmarshal(v[1:], r)
}

// readReport reads the record of a key; nil: there is none.
func (b *batch) readReport(key []byte) (*report, error) {
	v := b.report.Get(key)
	if v == nil {
		return nil, nil
	}
	r, err := decodeReport(v)
	if err != nil {
		return nil, fmt.Errorf("report %q: %w", key, err)
	}
	return r, nil
}

// writeReport writes a record and moves it within the index; old is what was
// there, nil if nothing was.
func (b *batch) writeReport(key []byte, old, r *report) error {
	b.unindexReport(key, old)
	if w, ok := r.due(); ok {
		b.put(b.reportDue, reportDueKey(w.At, key), octets(int64(w.Planned)))
	}
	j, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("report %q: %w", key, err)
	}
	b.put(b.report, key, append([]byte{reportVersion}, j...))
	return nil
}

func (b *batch) unindexReport(key []byte, old *report) {
	if old == nil {
		return
	}
	if w, ok := old.due(); ok {
		b.delete(b.reportDue, reportDueKey(w.At, key))
	}
}

func reportDueKey(at int64, key []byte) []byte { return append(octets(at), key...) }

// changeReport reads a report, has f change it, and writes it.
func (b *batch) changeReport(key []byte, f func(r *report)) error {
	old, err := b.readReport(key)
	if err != nil || old == nil {
		return err
	}
	r := *old
	r.Parts = append([]part(nil), old.Parts...)
	f(&r)
	return b.writeReport(key, old, &r)
}

func readJob(reports *bolt.Bucket, key []byte, now int64) (tlsrpt.Job, error) {
	return decodeJob(key, reports.Get(key), now)
}

func decodeJob(key, v []byte, now int64) (tlsrpt.Job, error) {
	ref, err := parseReportKey(key)
	if err != nil {
		return tlsrpt.Job{}, err
	}
	r, err := decodeReport(v)
	if err != nil {
		return tlsrpt.Job{}, fmt.Errorf("report %q: %w", key, err)
	}
	return r.job(ref, now), nil
}

// Reports yields in order of key.
func (s *Store) Reports(ctx context.Context, day tlsrpt.Day) iter.Seq2[tlsrpt.Job, error] {
	return func(yield func(tlsrpt.Job, error) bool) {
		within := []byte(day)
		if day != "" {
			within = append(within, 0)
		}
		for at := within; at != nil; {
			var some []tlsrpt.Job
			err := ctx.Err()
			if err == nil {
				some, at, err = s.reportsFrom(at, within)
			}
			for _, j := range some {
				if !yield(j, nil) {
					return
				}
			}
			if err != nil {
				yield(tlsrpt.Job{}, fmt.Errorf("reading reports: %w", err))
				return
			}
		}
	}
}

// maxReportsPerView bounds what one read transaction copies.
const maxReportsPerView = 100

func (s *Store) reportsFrom(at, within []byte) (out []tlsrpt.Job, next []byte, err error) {
	now := s.clock.now()
	err = s.view(func(tx *bolt.Tx) error {
		c := tx.Bucket(bReport).Cursor()
		k, v := c.Seek(at)
		for ; k != nil && bytes.HasPrefix(k, within); k, v = c.Next() {
			if len(out) == maxReportsPerView {
				next = bytes.Clone(k)
				return nil
			}
			j, err := decodeJob(k, v, now)
			if err != nil {
				return err
			}
			out = append(out, j)
		}
		return nil
	})
	return out, next, err
}

// Report reads a report and its counts.
func (s *Store) Report(ctx context.Context, ref tlsrpt.Ref) (j tlsrpt.Job, t tlsrpt.Tally, err error) {
	if err := ctx.Err(); err != nil {
		return j, t, unavailable(err)
	}
	now, key := s.clock.now(), reportKey(ref)
	err = s.view(func(tx *bolt.Tx) error {
		v := tx.Bucket(bReport).Get(key)
		if v == nil {
			return fmt.Errorf("%w: %s of %s", tlsrpt.ErrNoReport, ref.Domain, ref.Day)
		}
		r, err := decodeReport(v)
		if err != nil {
			return fmt.Errorf("report %q: %w", key, err)
		}
		j, t = r.job(ref, now), tlsrpt.Tally{Day: ref.Day, Domain: ref.Domain}
		prefix := append(bytes.Clone(key), 0)
		c := tx.Bucket(bReportCount).Cursor()
		for k, v := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, v = c.Next() {
			if err := readInto(&t, len(k)-len(prefix), v); err != nil {
				return fmt.Errorf("report %q: %w", key, err)
			}
		}
		return nil
	})
	return j, t, err
}
