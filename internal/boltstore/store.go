// Package boltstore keeps the queue, the MTA-STS policies, the TLS-RPT tallies
// and reports, and the hosts that had TLSA records in one bbolt file, with a
// directory of files beside it for bodies that are too large for it. It
// implements relay.Store, stscache.Store and tlsrpt.Store.
//
// It guarantees that what a method has returned nil for survives the crash of
// the process and of the machine (RFC 5321, Sections 4.1.1.4 and 6.1; ledger
// SMTP-4.1.1.4-03, SMTP-6.1-01). All writes go through one committer, which
// takes whatever waits the moment the commit before has ended: a lone message
// is not delayed and a crowd shares the fsync. No read transaction outlives a
// call or a bounded batch of records. Leases live in memory: a restart voids
// them, and the entries are due as they were.
package boltstore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"stsrelay/relay"
	"stsrelay/stscache"

	"github.com/rs/zerolog"
	bolt "go.etcd.io/bbolt"
)

// Options are the settings of a Store. Zero fields mean their default.
type Options struct {
	NoSync       bool          // never fsync: tests only
	Lease        time.Duration // how long a claim holds; default 6h. It ends earlier with the process
	SpoolAbove   int64         // octets; larger bodies go to files; default 256 KiB
	MemoryBudget int64         // octets of all bodies being received; beyond it they go to files; default 64 MiB
	FreeSpace    int64         // octets; with less free, Accept refuses and Settle still works; default 128 MiB, negative: no limit
	Log          zerolog.Logger
}

func (o Options) withDefaults() Options {
	if o.Lease <= 0 {
		o.Lease = 6 * time.Hour
	}
	if o.SpoolAbove <= 0 {
		o.SpoolAbove = 256 << 10
	}
	if o.MemoryBudget <= 0 {
		o.MemoryBudget = 64 << 20
	}
	if o.FreeSpace == 0 {
		o.FreeSpace = 128 << 20
	}
	return o
}

// A Store is an open database. Its methods may be called concurrently.
type Store struct {
	o     Options
	dir   string
	db    *bolt.DB
	clock *clock
	hooks hooks

	ops          queue
	leases       leases
	reportLeases reportLeases
	failed       atomic.Pointer[failure] // why the last commit failed; nil once one has succeeded
	counts       atomic.Pointer[counters]
	memory       atomic.Int64 // octets reserved by bodies in memory

	setBack chan struct{} // the wall clock was set back
	trash   chan string   // spool files to remove
	running sync.WaitGroup
	closed  sync.Once
	stop    chan struct{}
}

var (
	_ relay.Store    = (*Store)(nil)
	_ stscache.Store = (*Store)(nil)
)

// hooks are what tests replace; zero fields mean the real thing.
type hooks struct {
	clock  func() (wall time.Time, mono time.Duration)
	commit func(*bolt.Tx) error
	free   func(dir string) (int64, error)
}

func (h hooks) withDefaults() hooks {
	if h.clock == nil {
		start := time.Now()
		h.clock = func() (time.Time, time.Duration) {
			now := time.Now()
			return now, now.Sub(start)
		}
	}
	if h.commit == nil {
		h.commit = (*bolt.Tx).Commit
	}
	if h.free == nil {
		h.free = freeSpace
	}
	return h
}

// Open opens the store in dir, or makes one if there is none. The directory
// belongs to one process at a time. A file that is damaged, foreign, or written
// by a newer version is refused, never emptied.
func Open(dir string, o Options) (*Store, error) { return open(dir, o, hooks{}) }

func open(dir string, o Options, h hooks) (*Store, error) {
	s := &Store{
		o: o.withDefaults(), hooks: h.withDefaults(), dir: dir,
		trash: make(chan string, 1024), setBack: make(chan struct{}, 1), stop: make(chan struct{}),
	}
	s.clock = newClock(s.hooks.clock, s.stepped)
	s.ops.wake = make(chan struct{}, 1)
	s.leases.held = make(map[relay.ID]*lease)
	s.leases.fresh.dests = make(map[string]*freshList)
	s.reportLeases.held = make(map[string]*lease)
	if err := s.makeDirs(); err != nil {
		return nil, fmt.Errorf("making the data directory: %w", err)
	}
	back, err := s.openFile()
	if err != nil {
		return nil, err
	}
	if err := errors.Join(s.loadFresh(), s.sweepSpool()); err != nil {
		return nil, errors.Join(err, s.db.Close())
	}
	s.running.Go(s.commitLoop)
	s.running.Go(s.emptyTrash)
	s.running.Go(s.repairLoop)
	if back {
		s.o.Log.Warn().Msg("the wall clock is behind the last write: due times are moved")
		s.setBack <- struct{}{}
	}
	return s, nil
}

// makeDirs makes the directories. One that is new is synced into its parent;
// what it holds is synced when the file is opened.
func (s *Store) makeDirs() error {
	_, err := os.Stat(s.dir)
	if merr := os.MkdirAll(s.spoolDir(), 0o700); merr != nil || s.o.NoSync || err == nil {
		return merr
	}
	return syncDir(filepath.Dir(s.dir))
}

func (s *Store) path() string     { return filepath.Join(s.dir, "stsrelay.db") }
func (s *Store) spoolDir() string { return filepath.Join(s.dir, "spool") }

// Close writes what waits and closes the file. Calls that come later fail with
// relay.ErrUnavailable.
func (s *Store) Close() error {
	err := errors.New("store is closed already")
	s.closed.Do(func() {
		s.ops.close()
		close(s.stop)
		s.running.Wait()
		err = errors.Join(s.closeFile())
	})
	return err
}

// Health says why mail cannot be accepted now, nil if it can: the last write
// failed, or the disk is nearly full.
func (s *Store) Health() error {
	if f := s.failed.Load(); f != nil {
		return unavailable(f.err)
	}
	return s.roomLeft()
}

// roomLeft keeps room for settling what was accepted (design: free-space
// watermark).
func (s *Store) roomLeft() error {
	if s.o.FreeSpace < 0 {
		return nil
	}
	free, err := s.hooks.free(s.dir)
	if err != nil {
		return unavailable(fmt.Errorf("free space of %s: %w", s.dir, err))
	}
	if free < s.o.FreeSpace {
		return unavailable(fmt.Errorf("%w: only %d MiB free in %s, accepting needs %d", relay.ErrNoRoom, free>>20, s.dir, s.o.FreeSpace>>20))
	}
	return nil
}

// view runs fn in a read transaction. fn must be brief and copy what it keeps.
func (s *Store) view(fn func(*bolt.Tx) error) error {
	tx, err := s.db.Begin(false)
	if err != nil {
		return unavailable(err)
	}
	defer func() { _ = tx.Rollback() }() // ends a read transaction; it cannot fail here
	return fn(tx)
}

func unavailable(err error) error { return fmt.Errorf("%w: %w", relay.ErrUnavailable, err) }
