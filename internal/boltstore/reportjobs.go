package boltstore

import (
	"bytes"
	"context"
	"fmt"
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
			l.token++
			l.held[string(key)] = &lease{token: l.token, ends: elapsed + s.o.Lease}
			j, err := readJob(reports, key, now)
			if err != nil { // it stays leased, so that it is not met again at once
				s.o.Log.Error().Err(err).Msg("a damaged report is left alone")
				continue
			}
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
