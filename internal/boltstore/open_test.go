package boltstore

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"stsrelay/relay"

	"github.com/rs/zerolog"
	bolt "go.etcd.io/bbolt"
)

// wantRefusal opens dir and expects an error with all these words, and the
// file as it was.
func wantRefusal(t *testing.T, dir string, words ...string) {
	t.Helper()
	path := filepath.Join(dir, "stsrelay.db")
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(dir, testOptions)
	if err == nil {
		_ = s.Close()
		t.Fatal("it was opened")
	}
	for _, w := range append(words, path) {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not say %q", err, w)
		}
	}
	if after, err := os.ReadFile(path); err != nil || string(after) != string(before) {
		t.Errorf("the file was changed (%v)", err)
	}
}

// crashed fills a store and returns a directory as a killed process leaves it.
func crashed(t *testing.T, n int) string {
	t.Helper()
	dir, left := t.TempDir(), t.TempDir()
	s := openTest(t, dir, testOptions, &world{})
	for i := range n {
		if err := acceptOne(s, newMessage(relay.ID(string(rune('a'+i%26))+string(rune('a'+i/26))), "example.com"), strings.Repeat("x", 5000)); err != nil {
			t.Fatal(err)
		}
	}
	copyFile(t, s.path(), filepath.Join(left, "stsrelay.db"))
	return left
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Run("a file that another process has open", func(t *testing.T) {
		dir := t.TempDir()
		openTest(t, dir, testOptions, &world{})
		wantRefusal(t, dir, "in use by another process")
	})
	t.Run("a file that is no database", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "stsrelay.db"), []byte(strings.Repeat("mail, honestly\n", 5000)), 0o600); err != nil {
			t.Fatal(err)
		}
		wantRefusal(t, dir, "damaged or not a store", "move the file away")
	})
	t.Run("a database of somebody else", func(t *testing.T) {
		dir := t.TempDir()
		edit(t, dir, func(tx *bolt.Tx) error {
			_, err := tx.CreateBucket([]byte("theirs"))
			return err
		})
		wantRefusal(t, dir, "not of stsrelay", "move the file away")
	})
	t.Run("a format that a newer version wrote", func(t *testing.T) {
		dir := crashed(t, 1)
		edit(t, dir, func(tx *bolt.Tx) error { return tx.Bucket(bMeta).Put(kFormat, []byte("stsrelay store 9")) })
		wantRefusal(t, dir, "stsrelay store 9", "run the version that wrote it")
	})
	t.Run("a file that is cut off", func(t *testing.T) {
		dir := crashed(t, 100)
		path := filepath.Join(dir, "stsrelay.db")
		if err := os.Truncate(path, 100<<10); err != nil {
			t.Fatal(err)
		}
		wantRefusal(t, dir, "cut off", "move the file away")
	})
	t.Run("pages that are overwritten", func(t *testing.T) {
		dir := crashed(t, 100)
		path := filepath.Join(dir, "stsrelay.db")
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		junk := []byte(strings.Repeat("\xa5", 4096))
		for at := int64(4 * 4096); at < min(info.Size(), 512<<10); at += 4096 {
			if _, err := f.WriteAt(junk, at); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		wantRefusal(t, dir, "damaged", "move the file away")
	})
	t.Run("a store that lacks a part", func(t *testing.T) {
		dir := crashed(t, 1)
		edit(t, dir, func(tx *bolt.Tx) error { return tx.DeleteBucket(bEntry) })
		wantRefusal(t, dir, `no bucket "entry"`)
	})
}

// edit changes a database file behind the store's back.
func edit(t *testing.T, dir string, fn func(*bolt.Tx) error) {
	t.Helper()
	db, err := bolt.Open(filepath.Join(dir, "stsrelay.db"), 0o600, &bolt.Options{Timeout: time.Second, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(fn); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestOpen(t *testing.T) {
	t.Run("a crash leaves a file that opens", func(t *testing.T) {
		dir := crashed(t, 30)
		s := openTest(t, dir, testOptions, &world{})
		if n := countKeys(t, s, bEntry); n != 30 {
			t.Errorf("%d entries", n)
		}
		verifyIntegrity(t, s)
	})
	t.Run("an empty file, left by a crash while it was made, opens", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "stsrelay.db"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		openTest(t, dir, testOptions, &world{})
	})
	t.Run("a database without buckets, left by a crash while it was made, opens", func(t *testing.T) {
		dir := t.TempDir()
		edit(t, dir, func(*bolt.Tx) error { return nil })
		openTest(t, dir, testOptions, &world{})
	})
	t.Run("spool files that no message owns are swept, and no others", func(t *testing.T) {
		dir := t.TempDir()
		s := openTest(t, dir, testOptions, &world{})
		if err := acceptOne(s, newMessage("1", "example.com"), strings.Repeat("x", 50<<10)); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(s.spoolDir(), "body-orphan"), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = openTest(t, dir, testOptions, &world{})
		verifySpool(t, s)
		if n := countKeys(t, s, bSpool); n != 1 {
			t.Errorf("%d spool files are owned", n)
		}
	})
	t.Run("a message whose spool file is missing is named, and its body is an error", func(t *testing.T) {
		dir := t.TempDir()
		s := openTest(t, dir, testOptions, &world{})
		for _, id := range []relay.ID{"there", "lost"} {
			if err := acceptOne(s, newMessage(id, "example.com"), strings.Repeat("x", 50<<10)); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.view(func(tx *bolt.Tx) error {
			m, err := decodeShared(tx.Bucket(bMessage).Get([]byte("lost")))
			return errors.Join(err, os.Remove(filepath.Join(s.spoolDir(), m.spool)))
		}); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		o := testOptions
		o.Log = zerolog.New(&log)
		s = openTest(t, dir, o, &world{})
		if got := log.String(); !strings.Contains(got, `"id":"lost"`) || strings.Contains(got, "there") {
			t.Errorf("log: %s", got)
		}
		if _, err := s.Body(t.Context(), "lost"); err == nil || errors.Is(err, relay.ErrNotFound) {
			t.Errorf("body: %v", err)
		}
	})
	t.Run("what is written is readable by its owner only", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "made", "here")
		s := openTest(t, dir, testOptions, &world{})
		if err := acceptOne(s, newMessage("1", "example.com"), strings.Repeat("x", 50<<10)); err != nil {
			t.Fatal(err)
		}
		err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
			if err == nil && info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s has mode %v", path, info.Mode())
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
}
