package boltstore

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestBubble: other rooms test their loops in bubbles of synthetic time over
// a real store. Time only moves there while the store has nothing to do, so
// this also shows that an idle store sleeps.
func TestBubble(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s, err := Open(dir, Options{NoSync: true, Lease: time.Hour, FreeSpace: -1})
		if err != nil {
			t.Fatal(err)
		}
		mustAccept(t, s, "1", "example.com")
		mustDefer(t, s, mustClaim(t, s, "example.com", 1)[0], 24*time.Hour)
		time.Sleep(24*time.Hour - time.Nanosecond)
		mustClaim(t, s, "example.com", 0)
		time.Sleep(time.Nanosecond)
		if e := mustClaim(t, s, "example.com", 1)[0]; e.Age != 24*time.Hour || e.Due != 0 {
			t.Errorf("age %v, due %v", e.Age, e.Due)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}
