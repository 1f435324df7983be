package boltstore

import (
	"context"
	"fmt"
	"time"

	"stsrelay/relay"
)

// Settle writes results in one commit. With relay.ErrUnavailable the leases
// still stand and Settle may be called again.
func (s *Store) Settle(ctx context.Context, results []relay.Result) (lost []relay.ID, err error) {
	notices, err := s.packNotices(ctx, results)
	defer func() {
		for _, n := range notices {
			for _, p := range n {
				p.body.Discard()
			}
		}
	}()
	if err != nil {
		return nil, fmt.Errorf("settling: %w", err)
	}
	size := 0
	for _, n := range notices {
		for _, p := range n {
			size += len(p.body.buf)
		}
	}
	err = s.do(ctx, size, func(b *batch) error {
		lost = nil
		for i, r := range results {
			ok, err := b.settle(r, notices[i])
			if err != nil {
				return fmt.Errorf("settling entry %s: %w", r.ID, err)
			}
			if !ok {
				lost = append(lost, r.ID)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return lost, nil
}

func (s *Store) packNotices(ctx context.Context, results []relay.Result) ([][]*parcel, error) {
	out := make([][]*parcel, len(results))
	for i, r := range results {
		for _, n := range r.Notices {
			if err := ctx.Err(); err != nil {
				return out, unavailable(err)
			}
			w := &body{s: s}
			if _, err := w.Write(n.Body); err != nil {
				return out, err
			}
			p, err := pack(n.Message, w)
			if err != nil {
				w.Discard()
				return out, err
			}
			out[i] = append(out[i], p)
		}
	}
	return out, nil
}

// settle applies one result; false: the lease is lost.
func (b *batch) settle(res relay.Result, notices []*parcel) (bool, error) {
	l, ok := b.fence(res)
	v := b.entry.Get([]byte(res.ID))
	if !ok || v == nil {
		return false, nil
	}
	r, err := decodeRecord(v)
	if err == nil {
		err = b.mailSettled(r.message, res)
	}
	if err == nil && len(res.Left) == 0 {
		err = b.drop(res.ID, &r)
	} else if err == nil {
		err = b.keep(&r, res, l)
	}
	for _, p := range notices {
		if err == nil {
			err = b.accept(p)
		}
	}
	for _, session := range res.Sessions {
		if err == nil {
			err = b.tallySession(session)
		}
	}
	return err == nil, err
}

// fence checks the lease and marks it, so that it can be neither claimed nor
// settled a second time while the commit is under way.
func (b *batch) fence(res relay.Result) (l lease, ok bool) {
	s := b.s
	s.leases.mu.Lock()
	defer s.leases.mu.Unlock()
	held := s.leases.held[res.ID]
	if held == nil || held.token != res.Lease || held.settling {
		return l, false
	}
	held.settling = true
	b.undo = append(b.undo, func() {
		s.leases.mu.Lock()
		defer s.leases.mu.Unlock()
		held.settling = false
	})
	b.after = append(b.after, func() { s.leases.drop(res.ID) })
	return *held, true
}

// maxDelay keeps sums of times from overflowing.
const maxDelay = 10 * 365 * 24 * time.Hour

// keep writes an entry that has recipients left.
func (b *batch) keep(r *record, res relay.Result, l lease) error {
	old := *r
	d, err := r.decodeDetails()
	if err != nil {
		return err
	}
	d.To = res.Left
	if res.Note != nil {
		d.addNote(*res.Note)
	}
	if res.Tried {
		r.attempts++
	}
	r.planned = int64(min(max(0, res.Delay), maxDelay))
	if r.has(flagBounce) && !l.bounce {
		r.planned = 0 // ended by an operator while it was being tried
	}
	r.due = b.now + r.planned
	if err := r.setDetails(d); err != nil {
		return err
	}
	b.replace(res.ID, &old, r)
	return nil
}

// replace writes a changed record and moves it within the indexes. Changed, it
// is not fresh any more.
func (b *batch) replace(id relay.ID, old, r *record) {
	r.flags &^= flagFresh
	b.unindex(old, id)
	b.index(r, id)
	b.counts.held += int64(r.flags&flagHeld) - int64(old.flags&flagHeld)
	b.put(b.entry, []byte(id), r.encode())
}
