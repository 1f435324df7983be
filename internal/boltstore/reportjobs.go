package boltstore

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"slices"
	"sync"
	"time"

	"stsrelay/delivery"
	"stsrelay/relay"
	"stsrelay/tlsrpt"

	bolt "go.etcd.io/bbolt"
)

// reportLeases are the claims of reports, in memory as those of entries are. mu
// is taken before a read transaction begins, and by the committer after its
// commit.
type reportLeases struct {
	mu    sync.Mutex
	token uint64
	held  map[string]*lease // by report key
}

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

// ClaimReports leases what is due. It fails while the store cannot write: no
// report is sent whose sending could not be recorded.
func (s *Store) ClaimReports(ctx context.Context, n int) (out []tlsrpt.Job, next time.Duration, err error) {
	if err := s.writable(ctx); err != nil {
		return nil, 0, err
	}
	now, elapsed := s.clock.now(), s.clock.elapsed()
	l := &s.reportLeases
	l.mu.Lock()
	defer l.mu.Unlock()
	next = tlsrpt.Never
	err = s.view(func(tx *bolt.Tx) error {
		reports, c := tx.Bucket(bReport), tx.Bucket(bReportDue).Cursor()
		for k, v := c.First(); len(k) > 8; k, v = c.Next() {
			key := k[8:]
			if l.held[string(key)].live(elapsed) {
				continue
			}
			if wait := time.Duration(dueIn(number(k[:8]), number(v), now)); wait > 0 || len(out) == n {
				next = max(0, wait)
				return nil
			}
			ref, err := parseReportKey(key)
			if err != nil {
				return err
			}
			r, err := decodeReport(reports.Get(key))
			if err != nil {
				return fmt.Errorf("report %q: %w", key, err)
			}
			l.token++
			l.held[string(key)] = &lease{token: l.token, ends: elapsed + s.o.Lease}
			j := r.job(ref, now)
			j.Lease = l.token
			out = append(out, j)
		}
		return nil
	})
	if err != nil {
		return nil, 0, fmt.Errorf("claiming reports: %w", err)
	}
	return out, next, nil
}

// FinishReport writes an outcome, with its mail.
func (s *Store) FinishReport(ctx context.Context, o tlsrpt.Outcome) error {
	mail, size, err := s.packMail(ctx, o.Mail)
	defer func() {
		for _, p := range mail {
			p.body.Discard()
		}
	}()
	if err == nil {
		err = s.do(ctx, size, func(b *batch) error { return b.finishReport(o, mail) })
	}
	if err != nil {
		return fmt.Errorf("report on %s about %s: %w", o.Domain, o.Day, err)
	}
	return nil
}

func (s *Store) packMail(ctx context.Context, mail []tlsrpt.Mail) (out []*parcel, size int, err error) {
	for _, m := range mail {
		if err := ctx.Err(); err != nil {
			return out, 0, unavailable(err)
		}
		c := relay.Compose(relay.Letter{ID: relay.NewID(), From: m.From, To: m.To, Content: m.Content,
			Options: relay.Options{Report: true, Demand: delivery.Ignore, Expire: m.Expire}})
		w := &body{s: s}
		_, err := w.Write(c.Body)
		var p *parcel
		if err == nil {
			p, err = pack(c.Message, w)
		}
		if err != nil {
			w.Discard()
			return out, 0, err
		}
		out = append(out, p)
		size += len(w.buf)
	}
	return out, size, nil
}

func (b *batch) finishReport(o tlsrpt.Outcome, mail []*parcel) error {
	key := reportKey(o.Ref)
	old, err := b.readReport(key)
	if err != nil {
		return err
	}
	if !b.fenceReport(key, o.Lease) || old == nil {
		return tlsrpt.ErrLost
	}
	r := *old
	r.Parts = slices.Clone(old.Parts)
	for _, p := range o.Parts {
		r.settle(p, b.now)
	}
	for i, m := range o.Mail {
		if err := b.accept(mail[i]); err != nil {
			return err
		}
		if m.RUA != "" {
			r.queued(m.RUA, string(mail[i].m.ID))
			b.put(b.reportMail, []byte(mail[i].m.ID), append(append(bytes.Clone(key), 0), m.RUA...))
			b.mailed = true
		}
	}
	r.Why = o.Why
	if len(r.Parts) == 0 && o.State == "" { // its record could not be looked up
		r.Looks++
		if r.First == 0 {
			r.First = b.now
		}
		r.when = in(o.Delay, b.now)
	}
	if r.judge(); o.State != "" {
		r.State = o.State
	}
	if r.State == tlsrpt.Unwanted {
		b.forgetCounts(key)
	}
	return b.writeReport(key, old, &r)
}

// fenceReport checks a claim and ends it with the commit.
func (b *batch) fenceReport(key []byte, token uint64) bool {
	l := &b.s.reportLeases
	l.mu.Lock()
	defer l.mu.Unlock()
	held := l.held[string(key)]
	if held == nil || held.token != token || held.settling {
		return false
	}
	held.settling = true
	b.undo = append(b.undo, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		held.settling = false
	})
	b.after = append(b.after, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.held, string(key))
	})
	return true
}

// settle takes over a part that was tried, or is new. One whose mail is in the
// queue, or that has ended, is not the claimant's.
func (r *report) settle(p tlsrpt.Part, now int64) {
	n := part{RUA: p.RUA, State: p.State, Why: p.Why, Tries: p.Tries, when: in(p.Due, now)}
	if n.Tries > 0 {
		n.First = now
	}
	i := slices.IndexFunc(r.Parts, func(have part) bool { return have.RUA == p.RUA })
	switch {
	case i < 0:
		r.Parts = append(r.Parts, n)
	case r.Parts[i].State == tlsrpt.Pending:
		if r.Parts[i].First != 0 {
			n.First = r.Parts[i].First
		}
		r.Parts[i] = n
	}
}

func (r *report) queued(rua, mail string) {
	for i := range r.Parts {
		if r.Parts[i].RUA == rua {
			r.Parts[i].State, r.Parts[i].Mail = tlsrpt.Queued, mail
		}
	}
}

// HurryReports makes reports due now.
func (s *Store) HurryReports(ctx context.Context, refs []tlsrpt.Ref) error {
	return s.do(ctx, 0, func(b *batch) error {
		for _, ref := range refs {
			err := b.changeReport(reportKey(ref), func(r *report) {
				r.when = in(0, b.now)
				for i := range r.Parts {
					r.Parts[i].when = in(0, b.now)
				}
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}
