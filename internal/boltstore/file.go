package boltstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// The buckets. Keys and values:
//
//	meta     see below
//	entry    entry ID                              -> record (record.go)
//	due      destination NUL due ID                -> planned delay; entries neither held nor fresh
//	fresh    entry ID                              -> due, destination; entries never deferred (fresh.go)
//	message  message ID                            -> what entries share (record.go)
//	body     message ID                            -> content, when it is not spooled
//	spool    file name                             -> message ID
//	policy   domain                                -> policies.go
//	tally    day NUL domain NUL policy key [detail key] -> tallies.go
//	report       day NUL domain NUL number         -> report (reports.go)
//	reportcount  report key NUL policy key [detail key] -> what it tells, as in tally
//	reportdue    due, report key                   -> planned delay; reports that wait to be tried
//	reportmail   message ID                        -> report key NUL destination; its mail in the queue
//	tlsa     host                                  -> version octet, when it last had secure TLSA records
var (
	bMeta    = []byte("meta")
	bEntry   = []byte("entry")
	bDue     = []byte("due")
	bFresh   = []byte("fresh")
	bMessage = []byte("message")
	bBody    = []byte("body")
	bSpool   = []byte("spool")
	bPolicy  = []byte("policy")
	bTally   = []byte("tally")
	bTLSA    = []byte("tlsa")

	bReport      = []byte("report")
	bReportCount = []byte("reportcount")
	bReportDue   = []byte("reportdue")
	bReportMail  = []byte("reportmail")

	buckets = [][]byte{bMeta, bEntry, bDue, bFresh, bMessage, bBody, bSpool, bPolicy, bTally, bReport, bReportCount, bReportDue, bReportMail, bTLSA}
	added   = [][]byte{bReport, bReportCount, bReportDue, bReportMail, bTLSA} // a file of an earlier version may lack them
)

// The keys of meta.
var (
	kFormat = []byte("format") // the file's format, see format
	kState  = []byte("state")  // "open" while a process has it open, "closed" after an orderly end
	kEpoch  = []byte("epoch")  // how often the file was opened: the upper half of fencing tokens
	kTime   = []byte("time")   // wall time of the last commit
	kCounts = []byte("counts") // counters
)

// format is the version of the layout above. Records have versions of their
// own besides.
const format = "stsrelay store 1"

const lockWait = time.Second

// wayOut ends every refusal of a damaged file.
const wayOut = "nothing was changed; keep a copy, restore a backup, or move the file away to start with an empty queue (see docs/store.md)"

// openFile checks the file, opens it and marks it open. back reports that the
// wall clock is behind the last commit.
func (s *Store) openFile() (back bool, err error) {
	if err := s.inspect(); err != nil {
		return false, err
	}
	s.db, err = bolt.Open(s.path(), 0o600, &bolt.Options{
		Timeout: lockWait, NoSync: s.o.NoSync, NoGrowSync: s.o.NoSync,
		NoFreelistSync: true, FreelistType: bolt.FreelistMapType, NoStatistics: true,
		InitialMmapSize: mmapSize,
	})
	if err != nil {
		return false, s.explain(err)
	}
	back, err = s.begin()
	if err == nil && !s.o.NoSync {
		err = syncDir(s.dir)
	}
	if err != nil {
		return false, errors.Join(err, s.db.Close())
	}
	return back, nil
}

// mmapSize is address space, not memory: while the file fits in it, a commit
// never waits for readers. 64 GiB; 1 GiB where addresses have 32 bits.
const mmapSize = 1 << (30 + 6*(^uint(0)>>63))

// inspect opens an existing file for reading only and refuses what must not be
// written to. After a crash it walks the whole file, because bbolt, rebuilding
// its free list, would answer a damaged page with a panic that nobody can catch.
func (s *Store) inspect() (err error) {
	info, err := os.Stat(s.path())
	if errors.Is(err, os.ErrNotExist) || err == nil && info.Size() == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("opening the store: %w", err)
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // a truncated file faults where it is mapped
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("store %s is damaged (%v); %s", s.path(), p, wayOut)
		}
	}()
	db, err := bolt.Open(s.path(), 0o600, &bolt.Options{Timeout: lockWait, ReadOnly: true})
	if err != nil {
		return s.explain(err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return db.View(func(tx *bolt.Tx) error {
		if have := info.Size(); have < tx.Size() {
			return fmt.Errorf("store %s is cut off: %d octets of %d; %s", s.path(), have, tx.Size(), wayOut)
		}
		return s.examine(tx)
	})
}

func (s *Store) examine(tx *bolt.Tx) error {
	first, _ := tx.Cursor().First()
	meta := tx.Bucket(bMeta)
	if first == nil { // made, and then the process died before its first commit
		return nil
	}
	if meta == nil || meta.Get(kFormat) == nil {
		return fmt.Errorf("%s is a bbolt database, but not of stsrelay; %s", s.path(), wayOut)
	}
	if got := string(meta.Get(kFormat)); got != format {
		return fmt.Errorf("store %s has format %q, this version reads %q: run the version that wrote it; %s", s.path(), got, format, wayOut)
	}
	if string(meta.Get(kState)) == "closed" {
		return nil
	}
	for _, name := range buckets {
		b := tx.Bucket(name)
		if b == nil && slices.ContainsFunc(added, func(x []byte) bool { return string(x) == string(name) }) {
			continue
		}
		if b == nil {
			return fmt.Errorf("store %s has no bucket %q; %s", s.path(), name, wayOut)
		}
		c := b.Cursor()
		for k, _ := c.First(); k != nil; k, _ = c.Next() {
		}
	}
	return nil
}

// explain turns bbolt's words into ours.
func (s *Store) explain(err error) error {
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return fmt.Errorf("store %s is in use by another process: is stsrelay running already?", s.path())
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrChecksum), errors.Is(err, berrors.ErrVersionMismatch):
		return fmt.Errorf("store %s is damaged or not a store (%w); %s", s.path(), err, wayOut)
	}
	return fmt.Errorf("opening store %s: %w", s.path(), err)
}

// begin makes the buckets, counts the opening and reads the counters.
func (s *Store) begin() (back bool, err error) {
	err = s.db.Update(func(tx *bolt.Tx) error {
		for _, name := range buckets {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		meta := tx.Bucket(bMeta)
		epoch := number(meta.Get(kEpoch)) + 1
		s.leases.token = uint64(epoch) << 32
		back = number(meta.Get(kTime)) > s.clock.now()+int64(stepNoticed)
		counts, err := readCounters(meta.Get(kCounts))
		if err != nil {
			return err
		}
		s.counts.Store(&counts)
		return errors.Join(meta.Put(kFormat, []byte(format)), meta.Put(kState, []byte("open")), meta.Put(kEpoch, octets(epoch)))
	})
	if err != nil {
		return false, fmt.Errorf("opening store %s: %w", s.path(), err)
	}
	return back, nil
}

// closeFile marks an orderly end and writes the free list, so that the next
// opening need not walk the file.
func (s *Store) closeFile() error {
	s.db.NoFreelistSync = false
	err := s.db.Update(func(tx *bolt.Tx) error { return tx.Bucket(bMeta).Put(kState, []byte("closed")) })
	if err != nil {
		err = fmt.Errorf("closing store %s: %w", s.path(), err)
	}
	return errors.Join(err, s.db.Close())
}

// number and octets are how whole numbers are stored.
func number(b []byte) int64 {
	if len(b) != 8 {
		return 0
	}
	return int64(binary.BigEndian.Uint64(b))
}

func octets(n int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(n)) }

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
