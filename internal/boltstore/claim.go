package boltstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
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
	maxDuePerView   = 1000
	maxClaimPerCall = 1000
)

// Due walks from destination to destination in the due index.
func (s *Store) Due(ctx context.Context, after relay.Destination, n int) (out []relay.DueDestination, err error) {
	at := []byte{}
	if after != "" {
		at = afterDest(string(after))
	}
	for at != nil && len(out) < n {
		if err := ctx.Err(); err != nil {
			return nil, unavailable(err)
		}
		var part []relay.DueDestination
		if part, at, err = s.dueFrom(at, min(n-len(out), maxDuePerView)); err != nil {
			return nil, fmt.Errorf("listing due destinations: %w", err)
		}
		out = append(out, part...)
	}
	return out, nil
}

// dueFrom looks at up to n destinations from a key on and returns the key to
// go on from, nil at the end.
func (s *Store) dueFrom(at []byte, n int) (out []relay.DueDestination, next []byte, err error) {
	now, elapsed := s.clock.now(), s.clock.elapsed()
	s.leases.mu.Lock()
	defer s.leases.mu.Unlock()
	err = s.view(func(tx *bolt.Tx) error {
		c := tx.Bucket(bDue).Cursor()
		k, v := c.Seek(at)
		for i := 0; k != nil && i < n; i++ {
			dest, due, id, err := splitDueKey(k)
			if err != nil {
				return err
			}
			if !s.leases.held[id].live(elapsed) {
				out = append(out, relay.DueDestination{Destination: relay.Destination(dest), In: time.Duration(dueIn(due, number(v), now))})
				k, v = c.Seek(afterDest(dest))
				continue
			}
			k, v = c.Next()
		}
		next = bytes.Clone(k)
		return nil
	})
	return out, next, err
}

// Claim leases due entries of dest. It fails with relay.ErrUnavailable while
// the store cannot write: no delivery whose success could not be recorded.
func (s *Store) Claim(ctx context.Context, dest relay.Destination, most int) ([]relay.Entry, error) {
	if err := s.writable(ctx); err != nil {
		return nil, err
	}
	now := s.clock.now()
	claimed, err := s.lease(dest, min(most, maxClaimPerCall), now)
	if err != nil {
		return nil, fmt.Errorf("claiming entries of %s: %w", dest, err)
	}
	return s.decodeClaimed(claimed, now)
}

// A claimed entry is a copy of its record, still to be decoded.
type claimed struct {
	id    relay.ID
	value []byte
	lease *lease
}

func (s *Store) lease(dest relay.Destination, most int, now int64) (out []claimed, err error) {
	s.leases.mu.Lock()
	defer s.leases.mu.Unlock()
	elapsed := s.clock.elapsed()
	prefix := destPrefix(string(dest))
	err = s.view(func(tx *bolt.Tx) error {
		entries, c := tx.Bucket(bEntry), tx.Bucket(bDue).Cursor()
		for k, v := c.Seek(prefix); bytes.HasPrefix(k, prefix) && len(out) < most; k, v = c.Next() {
			_, due, id, err := splitDueKey(k)
			if err != nil {
				return err
			}
			if dueIn(due, number(v), now) > 0 {
				break
			}
			if s.leases.held[id].live(elapsed) {
				continue
			}
			out = append(out, claimed{id: id, value: bytes.Clone(entries.Get([]byte(id)))})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for i := range out {
		s.leases.token++
		out[i].lease = &lease{token: s.leases.token, ends: elapsed + s.o.Lease}
		s.leases.held[out[i].id] = out[i].lease
	}
	return out, nil
}

// decodeClaimed returns what can be read. A damaged record stays leased, so
// that it is not met again at once, and is spoken of; alone it is an error.
func (s *Store) decodeClaimed(claimed []claimed, now int64) (out []relay.Entry, err error) {
	for _, c := range claimed {
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
