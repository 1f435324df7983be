package boltstore

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"stsrelay/relay"

	bolt "go.etcd.io/bbolt"
)

// leases are the claims of this process. Lock order: mu is taken before a read
// transaction begins and held until the claim is noted; the committer takes it
// after its commit. So a claim sees either the state before a commit and the
// leases before it, or a newer state and at worst leases about to end.
type leases struct {
	mu    sync.Mutex
	token uint64 // the last one given out
	held  map[relay.ID]*lease
	fresh fresh
}

type lease struct {
	token    uint64
	ends     time.Duration // on the monotonic clock
	bounce   bool          // the claimant has seen Entry.Bounce
	settling bool          // a Settle is being committed: must not be claimed meanwhile
}

func (l *lease) live(now time.Duration) bool { return l != nil && (l.settling || now < l.ends) }

// drop ends a lease; its token is lost.
func (l *leases) drop(id relay.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.held, id)
}

// active says whether an entry is being tried.
func (l *leases) active(id relay.ID, now time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held[id].live(now)
}

// Bounds of one read transaction.
const (
	maxDuePerView   = 200 // under leases.mu: commits wait for it
	maxClaimPerCall = 1000
)

// Due walks from destination to destination through both indexes.
func (s *Store) Due(ctx context.Context, after relay.Destination, n int) (out []relay.DueDestination, err error) {
	last, more := string(after), true
	for more && len(out) < n {
		if err := ctx.Err(); err != nil {
			return nil, unavailable(err)
		}
		var part []relay.DueDestination
		if part, last, more, err = s.dueAfter(last, min(n-len(out), maxDuePerView)); err != nil {
			return nil, fmt.Errorf("listing due destinations: %w", err)
		}
		out = append(out, part...)
	}
	return out, nil
}

// dueAfter looks at up to n destinations behind the given one, and returns the
// last it looked at.
func (s *Store) dueAfter(after string, n int) (out []relay.DueDestination, last string, more bool, err error) {
	now, elapsed := s.clock.now(), s.clock.elapsed()
	s.leases.mu.Lock()
	defer s.leases.mu.Unlock()
	last, more = after, true
	err = s.view(func(tx *bolt.Tx) error {
		c := tx.Bucket(bDue).Cursor()
		for i := 0; more && i < n; i++ {
			stored, _, _ := bytes.Cut(firstKey(c, afterDest(last)), []byte{0})
			dest, ok := s.leases.fresh.after(last)
			if len(stored) > 0 && (!ok || string(stored) < dest) {
				dest, ok = string(stored), true
			}
			if !ok {
				more = false
				return nil
			}
			last = dest
			in, any, err := s.earliest(c, dest, now, elapsed)
			if err != nil {
				return err
			}
			if any {
				out = append(out, relay.DueDestination{Destination: relay.Destination(dest), In: time.Duration(in)})
			}
		}
		return nil
	})
	return out, last, more, err
}

func firstKey(c *bolt.Cursor, at []byte) []byte {
	k, _ := c.Seek(at)
	return k
}

// earliest is how long until dest's first entry that nobody leased is due.
func (s *Store) earliest(c *bolt.Cursor, dest string, now int64, elapsed time.Duration) (in int64, any bool, err error) {
	prefix := destPrefix(dest)
	for k, v := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, v = c.Next() {
		_, due, id, err := splitDueKey(k)
		if err != nil {
			return 0, false, err
		}
		if !s.leases.held[id].live(elapsed) {
			in, any = dueIn(due, number(v), now), true
			break
		}
	}
	for _, f := range s.leases.fresh.of(dest) {
		if !f.hole() && !s.leases.held[f.id()].live(elapsed) {
			if wait := dueIn(f.due, 0, now); !any || wait < in {
				in, any = wait, true
			}
			break
		}
	}
	return in, any, nil
}

// Claim leases due entries of dest. It fails with relay.ErrUnavailable while
// the store cannot write: no delivery whose success could not be recorded.
func (s *Store) Claim(ctx context.Context, dest relay.Destination, most int) ([]relay.Entry, error) {
	if err := s.writable(ctx); err != nil {
		return nil, err
	}
	now := s.clock.now()
	claimed, err := s.lease(dest, min(most, maxClaimPerCall), now)
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
