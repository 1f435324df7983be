package boltstore

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"stsrelay/delivery"
	"stsrelay/relay"
)

// maxEditPerCommit bounds one transaction of an Edit.
const maxEditPerCommit = 500

// Edit works in bounded commits: other writes go in between, and an error
// leaves what was done until then, which the returned Edited counts.
func (s *Store) Edit(ctx context.Context, f relay.Filter, a relay.Action) (relay.Edited, error) {
	if !slices.Contains([]relay.Verb{relay.VerbRetry, relay.VerbHold, relay.VerbRelease, relay.VerbDelete, relay.VerbBounce}, a.Verb) {
		return relay.Edited{}, fmt.Errorf("editing the queue: unknown verb %q", a.Verb)
	}
	scan := s.newScan(f, "")
	dests := make(map[relay.Destination]bool)
	count := 0
	for !scan.done {
		n, err := s.editSome(ctx, scan, a, dests)
		count += n
		if err != nil {
			return edited(count, dests), fmt.Errorf("editing the queue, after %d entries: %w", count, err)
		}
	}
	return edited(count, dests), nil
}

func edited(count int, dests map[relay.Destination]bool) relay.Edited {
	return relay.Edited{Count: count, Destinations: slices.Sorted(maps.Keys(dests))}
}

// editSome finds the next matches and edits them in one commit.
func (s *Store) editSome(ctx context.Context, scan *scan, a relay.Action, dests map[relay.Destination]bool) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, unavailable(err)
	}
	var ids []relay.ID
	matched := make(map[relay.Destination]bool)
	err := scan.step(maxEditPerCommit, func(id relay.ID, r *record, _ *lease) error {
		ids = append(ids, id)
		matched[relay.Destination(r.dest)] = true
		return nil
	})
	if err != nil {
		return 0, err
	}
	count := len(ids)
	if !a.DryRun && count > 0 {
		err = s.do(ctx, 0, func(b *batch) error {
			clear(matched)
			count, err = b.editAll(scan.m, ids, a, matched)
			return err
		})
	}
	if err != nil {
		return 0, err
	}
	maps.Copy(dests, matched)
	return count, nil
}

// editAll looks again: what matched a moment ago may have gone.
func (b *batch) editAll(m *matcher, ids []relay.ID, a relay.Action, dests map[relay.Destination]bool) (count int, err error) {
	elapsed := b.s.clock.elapsed()
	for _, id := range ids {
		v := b.entry.Get([]byte(id))
		if v == nil {
			continue
		}
		r, err := decodeRecord(v)
		ok := false
		if err == nil {
			ok, err = m.match(&r, b.s.leases.active(id, elapsed), b.now)
		}
		if err == nil && ok {
			err = b.edit(id, &r, a)
		}
		if err != nil {
			return 0, fmt.Errorf("entry %s: %w", id, err)
		}
		if ok {
			count++
			dests[relay.Destination(r.dest)] = true
		}
	}
	return count, nil
}

// edit applies an action. An entry that is being tried is changed too: what it
// is to become counts once its attempt is settled.
func (b *batch) edit(id relay.ID, r *record, a relay.Action) error {
	if a.Verb == relay.VerbDelete {
		b.after = append(b.after, func() { b.s.leases.drop(id) })
		return b.drop(id, r)
	}
	old := *r
	switch a.Verb {
	case relay.VerbRetry:
		if r.has(flagHeld) || r.in(b.now) <= 0 {
			return nil // it must be released first, or is due anyway
		}
	case relay.VerbRelease:
		if !r.has(flagHeld) {
			return nil
		}
	}
	d, err := r.decodeDetails()
	if err != nil {
		return err
	}
	switch a.Verb {
	case relay.VerbHold:
		r.flags |= flagHeld
		d.Hold = a.Reason
	case relay.VerbRelease:
		r.flags &^= flagHeld
		d.Hold = ""
		r.due, r.planned = b.now, 0
	case relay.VerbBounce:
		r.flags = r.flags&^flagHeld | flagBounce
		d.Hold = ""
		r.due, r.planned = b.now, 0
		d.addNote(relay.Note{At: time.Unix(0, b.now).UTC(), Reason: delivery.OperatorBounce, Permanent: true, Text: a.Reason})
	case relay.VerbRetry:
		r.due, r.planned = b.now, 0
	}
	if err := r.setDetails(d); err != nil {
		return err
	}
	b.replace(id, &old, r)
	return nil
}

// addNote keeps the newest relay.MaxHistory notes.
func (d *details) addNote(n relay.Note) {
	d.History = append(d.History, n)
	d.History = d.History[max(0, len(d.History)-relay.MaxHistory):]
}
