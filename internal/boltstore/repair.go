package boltstore

import (
	"time"

	"stsrelay/relay"

	bolt "go.etcd.io/bbolt"
)

// stepped is called when the wall clock was set. Set forward, entries are due
// earlier than planned, which is harmless. Set back, they would wait longer:
// their due times are moved, in the background and in bounded commits.
func (s *Store) stepped(by time.Duration) {
	s.o.Log.Warn().Dur("by", by).Msg("the wall clock was set, or the machine slept")
	if by > 0 {
		return
	}
	select {
	case s.setBack <- struct{}{}:
	default: // one is to come
	}
}

func (s *Store) repairLoop() {
	for {
		select {
		case <-s.stop:
			return
		case <-s.setBack:
		}
		if n, err := s.repairDue(); err != nil {
			s.o.Log.Error().Err(err).Msg("moving due times after a step of the clock")
		} else if n > 0 {
			s.o.Log.Info().Int("entries", n).Msg("due times moved after a step of the clock")
		}
		if err := s.repairReports(); err != nil {
			s.o.Log.Error().Err(err).Msg("moving due times of reports after a step of the clock")
		}
	}
}

// repairDue gives every entry that is due later than planned from now its
// planned delay, and returns how many there were.
func (s *Store) repairDue() (n int, err error) {
	at := []byte{}
	for at != nil {
		var late []relay.ID
		if late, at, err = s.tooLate(at); err != nil {
			return n, err
		}
		if len(late) == 0 {
			continue
		}
		o, err := s.enqueue(0, func(b *batch) error { return b.pullForward(late) })
		if err == nil {
			err = <-o.done
		}
		if err != nil {
			return n, err
		}
		n += len(late)
	}
	return n, nil
}

// tooLate looks at a bounded part of the due index.
func (s *Store) tooLate(at []byte) (late []relay.ID, next []byte, err error) {
	now := s.clock.now()
	err = s.view(func(tx *bolt.Tx) error {
		c := tx.Bucket(bDue).Cursor()
		k, v := c.Seek(at)
		for i := 0; k != nil && i < maxScanPerView; i++ {
			_, due, id, err := splitDueKey(k)
			if err != nil {
				return err
			}
			if due-now > number(v) {
				late = append(late, id)
			}
			k, v = c.Next()
		}
		next = append(next, k...)
		return nil
	})
	return late, next, err
}

func (b *batch) pullForward(ids []relay.ID) error {
	for _, id := range ids {
		v := b.entry.Get([]byte(id))
		if v == nil {
			continue
		}
		r, err := decodeRecord(v)
		if err != nil {
			return err
		}
		if r.has(flagHeld) || r.due-b.now <= r.planned {
			continue
		}
		old := r
		r.due = b.now + r.planned
		b.replace(id, &old, &r)
	}
	return nil
}
