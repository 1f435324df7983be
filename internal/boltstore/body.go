package boltstore

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"stsrelay/relay"

	bolt "go.etcd.io/bbolt"
)

// A body is content on its way in: in memory while it is small and the budget
// of all of them allows, else in a spool file.
type body struct {
	s        *Store
	buf      []byte
	reserved int64 // octets of the budget
	file     *os.File
	w        *bufio.Writer
	size     int64
	err      error // sticky
	kept     bool  // the queue owns the file now
}

// NewBody starts a body. It fails with relay.ErrUnavailable when Accept would
// fail anyway, so that no client sends megabytes for nothing.
func (s *Store) NewBody(ctx context.Context) (relay.BodyWriter, error) {
	if err := ctx.Err(); err != nil {
		return nil, unavailable(err)
	}
	if err := s.roomLeft(); err != nil {
		return nil, err
	}
	return &body{s: s}, nil
}

func (b *body) Size() int64 { return b.size }

func (b *body) Write(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if b.file == nil && b.room(len(p)) {
		b.buf = append(b.buf, p...)
		b.size += int64(len(p))
		return len(p), nil
	}
	if b.file == nil {
		b.spill()
	}
	if b.err != nil {
		return 0, b.err
	}
	n, err := b.w.Write(p)
	b.size += int64(n)
	b.fail(err)
	return n, b.err
}

// room makes room for n more octets in memory, if there may be.
func (b *body) room(n int) bool {
	need := len(b.buf) + n
	if int64(need) > b.s.o.SpoolAbove {
		return false
	}
	if need <= cap(b.buf) {
		return true
	}
	grown := max(need, min(2*cap(b.buf), int(b.s.o.SpoolAbove)), 4<<10)
	more := int64(grown) - b.reserved
	if b.s.memory.Add(more) > b.s.o.MemoryBudget {
		b.s.memory.Add(-more)
		return false
	}
	b.reserved += more
	b.buf = append(make([]byte, 0, grown), b.buf...)
	return true
}

// spill moves the body to a file.
func (b *body) spill() {
	f, err := os.CreateTemp(b.s.spoolDir(), "body-*")
	if err != nil {
		b.fail(err)
		return
	}
	b.file, b.w = f, bufio.NewWriterSize(f, 8<<10)
	_, err = b.w.Write(b.buf)
	b.fail(err)
	b.release()
}

func (b *body) release() {
	b.s.memory.Add(-b.reserved)
	b.buf, b.reserved = nil, 0
}

func (b *body) fail(err error) {
	if err != nil && b.err == nil {
		b.err = unavailable(fmt.Errorf("spooling a body: %w", err))
	}
}

// seal makes the body ready for the commit that mentions it: a spool file and
// its name are on the disk first.
func (b *body) seal() error {
	if b.err != nil || b.file == nil {
		return b.err
	}
	b.fail(b.w.Flush())
	if !b.s.o.NoSync {
		b.fail(b.file.Sync())
	}
	b.fail(b.file.Close())
	if !b.s.o.NoSync {
		b.fail(syncDir(b.s.spoolDir()))
	}
	return b.err
}

// spoolName is the file's name, "" for a body in memory.
func (b *body) spoolName() string {
	if b.file == nil {
		return ""
	}
	return filepath.Base(b.file.Name())
}

var errDiscarded = errors.New("body was discarded or accepted already")

// Discard drops the body unless the queue owns it.
func (b *body) Discard() {
	b.release()
	if b.err == nil {
		b.err = errDiscarded
	}
	if b.file == nil {
		return
	}
	_ = b.file.Close() // closed already after seal
	if !b.kept {
		b.s.remove(b.spoolName())
	}
	b.file = nil
}

// Body opens the content of a message: a copy, or the spool file, which can be
// read to its end even if the message is settled meanwhile.
func (s *Store) Body(ctx context.Context, message relay.ID) (io.ReadCloser, error) {
	if err := ctx.Err(); err != nil {
		return nil, unavailable(err)
	}
	var content []byte
	var m shared
	err := s.view(func(tx *bolt.Tx) (err error) {
		v := tx.Bucket(bMessage).Get([]byte(message))
		if v == nil {
			return fmt.Errorf("%w: %s", relay.ErrNotFound, message)
		}
		if m, err = decodeShared(v); err != nil {
			return fmt.Errorf("message %s: %w", message, err)
		}
		content = bytes.Clone(tx.Bucket(bBody).Get([]byte(message)))
		return nil
	})
	if err != nil {
		return nil, err
	}
	if m.spool == "" {
		return io.NopCloser(bytes.NewReader(content)), nil
	}
	f, err := os.Open(filepath.Join(s.spoolDir(), m.spool))
	if err != nil {
		return nil, fmt.Errorf("message %s: %w", message, err)
	}
	return f, nil
}

// sweepSpool removes files that no message owns: their Accept never committed.
// It says which messages have lost their file.
func (s *Store) sweepSpool() error {
	files, err := os.ReadDir(s.spoolDir())
	if err != nil {
		return fmt.Errorf("sweeping the spool: %w", err)
	}
	there := make(map[string]bool, len(files))
	return s.view(func(tx *bolt.Tx) error {
		owned := tx.Bucket(bSpool)
		for _, f := range files {
			there[f.Name()] = true
			if owned.Get([]byte(f.Name())) == nil {
				s.o.Log.Info().Str("file", f.Name()).Msg("removing a spool file that no message owns")
				if err := os.Remove(filepath.Join(s.spoolDir(), f.Name())); err != nil {
					return fmt.Errorf("sweeping the spool: %w", err)
				}
			}
		}
		return owned.ForEach(func(name, message []byte) error {
			if !there[string(name)] {
				s.o.Log.Error().Str("file", string(name)).Str("id", string(message)).Msg("the spool file of a message is missing: its body is lost")
			}
			return nil
		})
	})
}

// remove lets a spool file go, away from the committer's path if there is room
// to wait. What a crash leaves behind, the next sweep finds.
func (s *Store) remove(name string) {
	select {
	case s.trash <- name:
	default:
		s.unlink(name)
	}
}

func (s *Store) emptyTrash() {
	for {
		select {
		case name := <-s.trash:
			s.unlink(name)
		case <-s.stop:
			for {
				select {
				case name := <-s.trash:
					s.unlink(name)
				default:
					return
				}
			}
		}
	}
}

func (s *Store) unlink(name string) {
	if err := os.Remove(filepath.Join(s.spoolDir(), name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		s.o.Log.Warn().Err(err).Msg("removing a spool file")
	}
}
