package boltstore

import (
	"testing"
	"time"

	"stsrelay/internal/addr"

	bolt "go.etcd.io/bbolt"
)

// TestDamagedTLSAHost: one record that cannot be read does not hide the others.
func TestDamagedTLSAHost(t *testing.T) {
	s := openTest(t, t.TempDir(), testOptions, &world{})
	a, b := addr.MustHost("a.example"), addr.MustHost("b.example")
	if err := s.KeepTLSAHosts(t.Context(), map[addr.Host]time.Time{a: time.Unix(1, 0), b: time.Unix(2, 0)}); err != nil {
		t.Fatal(err)
	}
	if err := s.db.Update(func(tx *bolt.Tx) error { return tx.Bucket(bTLSA).Put([]byte("a.example"), []byte("?")) }); err != nil {
		t.Fatal(err)
	}
	got, err := s.TLSAHosts(t.Context())
	if err != nil || len(got) != 1 || !got[b].Equal(time.Unix(2, 0)) {
		t.Errorf("%v, %v", got, err)
	}
}
