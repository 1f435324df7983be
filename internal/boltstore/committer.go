package boltstore

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"stsrelay/relay"

	bolt "go.etcd.io/bbolt"
)

func (s *Store) commitLoop() {
	for {
		ops := s.ops.take()
		if ops == nil {
			return
		}
		for len(ops) > 0 {
			ops = s.commit(ops)
		}
	}
}

// A batch is one transaction on its way to the disk.
type batch struct {
	s   *Store
	tx  *bolt.Tx
	now int64 // wall time of every write in it

	meta, entry, due, fresh, message, body, spool, policy, tally, tlsa *bolt.Bucket
	report, reportCount, reportDue, reportMail                         *bolt.Bucket
	mailed                                                             bool // there is something in reportMail

	counts counters
	writes int
	err    error    // bbolt refused a write: the transaction is void
	after  []func() // once it is committed
	undo   []func() // when it is not
}

func (s *Store) newBatch(tx *bolt.Tx) *batch {
	b := &batch{
		s: s, tx: tx, now: s.clock.now(), counts: *s.counts.Load(),
		meta: tx.Bucket(bMeta), entry: tx.Bucket(bEntry), due: tx.Bucket(bDue), fresh: tx.Bucket(bFresh), message: tx.Bucket(bMessage),
		body: tx.Bucket(bBody), spool: tx.Bucket(bSpool), policy: tx.Bucket(bPolicy), tally: tx.Bucket(bTally), tlsa: tx.Bucket(bTLSA),
		report: tx.Bucket(bReport), reportCount: tx.Bucket(bReportCount), reportDue: tx.Bucket(bReportDue), reportMail: tx.Bucket(bReportMail),
	}
	for _, ascending := range []*bolt.Bucket{b.entry, b.fresh, b.message, b.body} {
		ascending.FillPercent = 0.9
	}
	first, _ := b.reportMail.Cursor().First()
	b.mailed = first != nil
	return b
}

func (b *batch) put(bucket *bolt.Bucket, key, value []byte) {
	b.writes++
	if err := bucket.Put(key, value); err != nil && b.err == nil {
		b.err = fmt.Errorf("writing key %q: %w", key, err)
	}
}

func (b *batch) delete(bucket *bolt.Bucket, key []byte) {
	b.writes++
	if err := bucket.Delete(key); err != nil && b.err == nil {
		b.err = fmt.Errorf("deleting key %q: %w", key, err)
	}
}

// commit applies ops in one transaction and answers them. It returns those to
// be run again, because one of the others made the transaction void.
func (s *Store) commit(ops []*op) (again []*op) {
	tx, err := s.db.Begin(true)
	if err != nil {
		s.fail(err)
		answer(ops, nil, unavailable(err))
		return nil
	}
	b := s.newBatch(tx)
	results := make([]error, len(ops))
	for i, o := range ops {
		mark := b.mark()
		results[i] = o.apply(b)
		if b.err == nil && (results[i] == nil || b.mark() == mark) {
			continue
		}
		_ = tx.Rollback() // it failed half-way: again, without it
		b.finish(false)
		if b.err != nil {
			results[i] = unavailable(b.err)
		}
		o.done <- results[i]
		return append(ops[:i:i], ops[i+1:]...)
	}
	answer(ops, results, b.write())
	return nil
}

// mark changes with everything that an op does to the batch.
func (b *batch) mark() [3]int { return [3]int{b.writes, len(b.after), len(b.undo)} }

// write commits the transaction, and settles what memory knows of it.
func (b *batch) write() error {
	if b.writes == 0 {
		_ = b.tx.Rollback()
		b.finish(true)
		return nil
	}
	b.put(b.meta, kTime, octets(b.now))
	b.put(b.meta, kCounts, b.counts.bytes())
	id := b.tx.ID()
	err := b.err
	if err == nil {
		err = b.s.hooks.commit(b.tx)
	}
	if err == nil {
		b.finish(true)
		if b.s.failed.Swap(nil) != nil {
			b.s.o.Log.Info().Msg("the store can write again")
		}
		return nil
	}
	_ = b.tx.Rollback() // a no-op where bbolt has rolled back itself
	written := b.s.visible(id)
	b.finish(written)
	b.s.fail(err)
	if written {
		return fmt.Errorf("%w: %w", relay.ErrUnknownOutcome, err)
	}
	return unavailable(err)
}

// visible reports whether a transaction whose commit failed can be read all
// the same: its last page was written, but perhaps not to the disk. Readers
// then see it, a crash may still undo it.
func (s *Store) visible(id int) bool {
	tx, err := s.db.Begin(false)
	if err != nil {
		return true // cannot tell: the careful answer
	}
	defer func() { _ = tx.Rollback() }()
	return tx.ID() >= id
}

func (b *batch) finish(committed bool) {
	run := b.undo
	if committed {
		run = b.after
		b.s.counts.Store(&b.counts)
	}
	for _, f := range run {
		f()
	}
}

// A failure is a commit that failed.
type failure struct {
	err error
	at  time.Duration // on the monotonic clock
}

// fail remembers that the store cannot write, and says so.
func (s *Store) fail(err error) {
	if s.failed.Swap(&failure{err, s.clock.elapsed()}) == nil {
		s.o.Log.Error().Err(err).Msg("the store cannot write")
	}
}

func answer(ops []*op, results []error, err error) {
	for i, o := range ops {
		if results != nil && results[i] != nil {
			o.done <- results[i]
			continue
		}
		o.done <- err
	}
}

// retryAfter is how soon after a failed commit writable tries another. With a
// large queue a failed commit costs a second, because bbolt rebuilds its free
// list.
const retryAfter = time.Second

// writable makes sure that an outcome could be written down: after a failed
// commit it tries another one.
func (s *Store) writable(ctx context.Context) error {
	f := s.failed.Load()
	if f == nil {
		return nil
	}
	if s.clock.elapsed() < f.at+retryAfter {
		return unavailable(f.err)
	}
	return s.do(ctx, 0, func(b *batch) error {
		b.writes++
		return nil
	})
}

// counters are kept with every commit, so that neither opening nor Stats has
// to count.
type counters struct {
	entries, held, messages, octets int64
}

func (c counters) bytes() []byte {
	out := []byte{1}
	for _, n := range []int64{c.entries, c.held, c.messages, c.octets} {
		out = binary.BigEndian.AppendUint64(out, uint64(n))
	}
	return out
}

func readCounters(v []byte) (c counters, err error) {
	if v == nil {
		return c, nil
	}
	if len(v) != 33 || v[0] != 1 {
		return c, fmt.Errorf("counters have an unknown form; %s", wayOut)
	}
	for i, p := range []*int64{&c.entries, &c.held, &c.messages, &c.octets} {
		*p = number(v[1+8*i : 9+8*i])
	}
	return c, nil
}
