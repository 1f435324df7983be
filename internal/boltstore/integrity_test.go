package boltstore

import (
	"slices"
	"testing"

	"stsrelay/relay"

	bolt "go.etcd.io/bbolt"
)

// verifyIntegrity compares everything that is kept twice: records with
// indexes, messages with entries and bodies, counters with what they count,
// memory with the file. It runs at the end of every test of the suite.
func verifyIntegrity(t testing.TB, s *Store) {
	t.Helper()
	var want counters
	err := s.view(func(tx *bolt.Tx) error {
		due, fresh, messages := tx.Bucket(bDue), tx.Bucket(bFresh), tx.Bucket(bMessage)
		indexed := 0
		left := make(map[string]uint32)
		err := tx.Bucket(bEntry).ForEach(func(k, v []byte) error {
			r, err := decodeRecord(v)
			if err != nil {
				return err
			}
			want.entries++
			left[r.message]++
			inDue, inFresh := due.Get(dueKey(&r, relay.ID(k))) != nil, fresh.Get(k) != nil
			if inDue == (r.has(flagHeld) || r.has(flagFresh)) || inFresh != r.has(flagFresh) {
				t.Errorf("entry %s with flags %b: in the due index %v, fresh %v", k, r.flags, inDue, inFresh)
			}
			if r.has(flagHeld) {
				want.held++
			} else {
				indexed++
			}
			inMemory := slices.ContainsFunc(s.leases.fresh.of(r.dest), func(i freshItem) bool { return i.id() == relay.ID(k) })
			if inMemory != inFresh {
				t.Errorf("entry %s: fresh in memory %v, in the file %v", k, inMemory, inFresh)
			}
			return nil
		})
		if err != nil {
			return err
		}
		if n := keys(due) + keys(fresh); n != indexed {
			t.Errorf("%d keys in the indexes for %d entries", n, indexed)
		}
		if n := keys(fresh); n != s.leases.fresh.live {
			t.Errorf("%d fresh entries in the file, %d in memory", n, s.leases.fresh.live)
		}
		if n := keys(tx.Bucket(bBody)) + keys(tx.Bucket(bSpool)); n != keys(messages) {
			t.Errorf("%d bodies for %d messages", n, keys(messages))
		}
		for id := range s.leases.held {
			if tx.Bucket(bEntry).Get([]byte(id)) == nil {
				t.Errorf("a lease of %s, which is gone", id)
			}
		}
		return messages.ForEach(func(k, v []byte) error {
			m, err := decodeShared(v)
			if err != nil {
				return err
			}
			want.messages++
			want.octets += m.size
			if m.left != left[string(k)] || m.left == 0 {
				t.Errorf("message %s says %d entries are left, there are %d", k, m.left, left[string(k)])
			}
			if (m.spool == "") == (tx.Bucket(bBody).Get(k) == nil) {
				t.Errorf("message %s: spool file %q, body in the file %v", k, m.spool, m.spool != "")
			}
			return nil
		})
	})
	if err != nil {
		t.Error(err)
	}
	if got := *s.counts.Load(); got != want {
		t.Errorf("counters %+v, there is %+v", got, want)
	}
	verifyReports(t, s)
	if m := s.memory.Load(); m != 0 {
		t.Errorf("%d octets of bodies are still reserved", m)
	}
}

func keys(b *bolt.Bucket) (n int) {
	c := b.Cursor()
	for k, _ := c.First(); k != nil; k, _ = c.Next() {
		n++
	}
	return n
}
