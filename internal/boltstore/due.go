package boltstore

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"stsrelay/relay"

	bolt "go.etcd.io/bbolt"
)

// maxDuePerView bounds one read transaction of Due; commits wait for it, since
// it holds leases.mu.
const maxDuePerView = 200

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
