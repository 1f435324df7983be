package boltstore

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"stsrelay/relay"

	bolt "go.etcd.io/bbolt"
)

// maxScanPerView bounds how many records one read transaction looks at.
const maxScanPerView = 2000

// List walks the entries by ID. The cursor is the last ID looked at, so that
// entries that come and go meanwhile disturb nothing.
func (s *Store) List(ctx context.Context, f relay.Filter, after relay.Cursor, n int) (out []relay.Entry, next relay.Cursor, err error) {
	scan := s.newScan(f, relay.ID(after))
	for !scan.done && len(out) < n {
		if err := ctx.Err(); err != nil {
			return nil, "", unavailable(err)
		}
		err := scan.step(n-len(out), func(id relay.ID, r *record, l *lease) error {
			e, err := r.entry(id, scan.now)
			if err != nil {
				return err
			}
			if l != nil {
				e.Lease = l.token
			}
			out = append(out, e)
			return nil
		})
		if err != nil {
			return nil, "", fmt.Errorf("listing the queue: %w", err)
		}
	}
	if scan.done {
		return out, "", nil
	}
	return out, relay.Cursor(scan.last), nil
}

// A scan looks at all entries that a filter may select, in order of ID, in
// bounded steps.
type scan struct {
	s    *Store
	m    *matcher
	now  int64
	last relay.ID   // looked at
	ids  []relay.ID // the entries to look at, when the filter names some
	some bool       // ids counts, even if empty
	done bool
}

func (s *Store) newScan(f relay.Filter, after relay.ID) *scan {
	return &scan{s: s, m: newMatcher(f), now: s.clock.now(), last: after}
}

// step calls found for up to n matches; l is the live lease or nil. The record
// points into the transaction: found must decode or copy.
func (c *scan) step(n int, found func(id relay.ID, r *record, l *lease) error) error {
	elapsed := c.s.clock.elapsed()
	return c.s.view(func(tx *bolt.Tx) error {
		if err := c.name(tx); err != nil {
			return err
		}
		next := c.cursor(tx)
		for range maxScanPerView {
			id, v := next()
			if id == "" {
				c.done = true
				return nil
			}
			c.last = id
			if v == nil {
				continue
			}
			l := c.s.leases.get(id, elapsed)
			r, err := decodeRecord(v)
			ok := false
			if err == nil {
				ok, err = c.m.match(&r, l != nil, c.now)
			}
			if err == nil && ok {
				err = found(id, &r, l)
			}
			if err != nil {
				return fmt.Errorf("entry %s: %w", id, err)
			}
			if ok {
				if n--; n == 0 {
					return nil
				}
			}
		}
		return nil
	})
}

// name turns the IDs of a filter into IDs of entries, once, in order.
func (c *scan) name(tx *bolt.Tx) error {
	if len(c.m.f.IDs) == 0 || c.some {
		return nil
	}
	c.some = true
	for _, id := range c.m.f.IDs {
		if v := tx.Bucket(bMessage).Get([]byte(id)); v != nil {
			m, err := decodeShared(v)
			if err != nil {
				return fmt.Errorf("message %s: %w", id, err)
			}
			c.ids = append(c.ids, m.entries...)
		}
		c.ids = append(c.ids, id)
	}
	slices.Sort(c.ids)
	c.ids = slices.Compact(c.ids)
	return nil
}

// cursor returns what follows c.last, in order; an empty ID is the end. The
// value is nil for an ID that is no entry.
func (c *scan) cursor(tx *bolt.Tx) func() (relay.ID, []byte) {
	entries := tx.Bucket(bEntry)
	if c.some {
		i, found := slices.BinarySearch(c.ids, c.last)
		if found {
			i++
		}
		return func() (relay.ID, []byte) {
			if i == len(c.ids) {
				return "", nil
			}
			i++
			return c.ids[i-1], entries.Get([]byte(c.ids[i-1]))
		}
	}
	cursor := entries.Cursor()
	started := false
	return func() (relay.ID, []byte) {
		var k, v []byte
		if started {
			k, v = cursor.Next()
		} else if k, v = cursor.Seek([]byte(c.last)); bytes.Equal(k, []byte(c.last)) && k != nil {
			k, v = cursor.Next()
		}
		started = true
		return relay.ID(k), v
	}
}

// Stats counts from what every commit keeps: it costs the same for one entry
// and for a million.
func (s *Store) Stats(ctx context.Context) (relay.Stats, error) {
	if err := ctx.Err(); err != nil {
		return relay.Stats{}, unavailable(err)
	}
	counts := *s.counts.Load()
	out := relay.Stats{Bytes: counts.octets}
	now, elapsed := s.clock.now(), s.clock.elapsed()
	held := int64(0) // and active: counted as active
	active := s.leases.all(elapsed)
	err := s.view(func(tx *bolt.Tx) error {
		entries := tx.Bucket(bEntry)
		for _, id := range active {
			if v := entries.Get([]byte(id)); len(v) >= recordHeader {
				out.Active++
				held += int64(v[1] & flagHeld)
			}
		}
		id, v := entries.Cursor().First()
		if v == nil {
			return nil
		}
		r, err := decodeRecord(v)
		if err != nil {
			return fmt.Errorf("entry %s: %w", id, err)
		}
		out.Oldest = time.Duration(max(0, now-r.arrived))
		return nil
	})
	if err != nil {
		return relay.Stats{}, fmt.Errorf("counting the queue: %w", err)
	}
	out.Held = int(max(0, counts.held-held))
	out.Deferred = max(0, int(counts.entries)-out.Active-out.Held)
	return out, nil
}
