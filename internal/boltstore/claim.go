package boltstore

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"stsrelay/relay"

	bolt "go.etcd.io/bbolt"
)

// maxClaimPerCall bounds one Claim, whatever is asked for.
const maxClaimPerCall = 1000

// Claim leases due entries of dest. It fails with relay.ErrUnavailable while
// the store cannot write: no delivery whose success could not be recorded.
func (s *Store) Claim(ctx context.Context, dest relay.Destination, most int) ([]relay.Entry, error) {
	if err := s.writable(ctx); err != nil {
		return nil, err
	}
	now := s.clock.now()
	claimed, err := s.lease(dest, max(0, min(most, maxClaimPerCall)), now)
	if err == nil {
		err = s.readClaimed(claimed)
	}
	if err != nil {
		return nil, fmt.Errorf("claiming entries of %s: %w", dest, err)
	}
	return s.decodeClaimed(claimed, now)
}

// A claimed entry has a lease, and a copy of its record.
type claimed struct {
	id    relay.ID
	lease *lease
	value []byte // nil: deleted since
}

// readClaimed copies the records, without leases.mu: a cold disk may be slow.
func (s *Store) readClaimed(claimed []claimed) error {
	return s.view(func(tx *bolt.Tx) error {
		entries := tx.Bucket(bEntry)
		for i := range claimed {
			claimed[i].value = bytes.Clone(entries.Get([]byte(claimed[i].id)))
		}
		return nil
	})
}

func (s *Store) lease(dest relay.Destination, most int, now int64) (out []claimed, err error) {
	s.leases.mu.Lock()
	defer s.leases.mu.Unlock()
	elapsed := s.clock.elapsed()
	err = s.view(func(tx *bolt.Tx) error {
		stored, err := s.dueStored(tx, string(dest), most, now)
		if err != nil {
			return err
		}
		all := append(stored, s.dueFresh(tx, string(dest), most)...)
		slices.SortStableFunc(all, func(a, b candidate) int { return cmp.Compare(a.due, b.due) })
		for _, f := range all[:min(most, len(all))] {
			s.leases.token++
			l := &lease{token: s.leases.token, ends: elapsed + s.o.Lease}
			s.leases.held[f.id] = l
			out = append(out, claimed{id: f.id, lease: l})
		}
		return nil
	})
	return out, err
}

// A candidate is an entry that may be claimed.
type candidate struct {
	due int64
	id  relay.ID
}

// dueStored finds up to n due entries of dest in the due index.
func (s *Store) dueStored(tx *bolt.Tx, dest string, n int, now int64) (out []candidate, err error) {
	elapsed, prefix, c := s.clock.elapsed(), destPrefix(dest), tx.Bucket(bDue).Cursor()
	for k, v := c.Seek(prefix); bytes.HasPrefix(k, prefix) && len(out) < n; k, v = c.Next() {
		_, due, id, err := splitDueKey(k)
		if err != nil {
			return nil, err
		}
		if dueIn(due, number(v), now) > 0 {
			break
		}
		if !s.leases.held[id].live(elapsed) {
			out = append(out, candidate{due: due, id: id})
		}
	}
	return out, nil
}

// dueFresh finds up to n fresh entries of dest. Memory may be a commit behind
// the file: an entry that is gone, held or deferred there is passed over.
func (s *Store) dueFresh(tx *bolt.Tx, dest string, n int) (out []candidate) {
	elapsed, records := s.clock.elapsed(), tx.Bucket(bFresh)
	for _, f := range s.leases.fresh.of(dest) {
		if len(out) == n {
			break
		}
		if f.hole() {
			continue
		}
		if id := f.id(); !s.leases.held[id].live(elapsed) && records.Get([]byte(id)) != nil {
			out = append(out, candidate{due: f.due, id: id})
		}
	}
	return out
}

// decodeClaimed returns what can be read. A damaged record stays leased, so
// that it is not met again at once, and is spoken of; alone it is an error.
func (s *Store) decodeClaimed(claimed []claimed, now int64) (out []relay.Entry, err error) {
	for _, c := range claimed {
		if c.value == nil {
			continue // its lease goes with the delete's commit
		}
		e, derr := decodeEntry(c.id, c.value, now)
		if derr != nil {
			err = errors.Join(err, derr)
			s.o.Log.Error().Err(derr).Str("id", string(c.id)).Msg("a damaged entry is left alone")
			continue
		}
		e.Lease = c.lease.token
		if e.Bounce {
			s.leases.mu.Lock()
			c.lease.bounce = true
			s.leases.mu.Unlock()
		}
		out = append(out, e)
	}
	if len(out) > 0 {
		return out, nil
	}
	return nil, err
}

func decodeEntry(id relay.ID, v []byte, now int64) (relay.Entry, error) {
	r, err := decodeRecord(v)
	if err != nil {
		return relay.Entry{}, fmt.Errorf("entry %s: %w", id, err)
	}
	e, err := r.entry(id, now)
	if err != nil {
		return relay.Entry{}, fmt.Errorf("entry %s: %w", id, err)
	}
	return e, nil
}

// Unclaim gives leases back; those lost meanwhile are left alone.
func (s *Store) Unclaim(_ context.Context, entries []relay.Entry) error {
	s.leases.mu.Lock()
	defer s.leases.mu.Unlock()
	for _, e := range entries {
		if l := s.leases.held[e.ID]; l != nil && l.token == e.Lease && !l.settling {
			delete(s.leases.held, e.ID)
		}
	}
	return nil
}
