package app

import (
	"context"
	"fmt"
	"maps"
	"testing"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/internal/boltstore"

	"github.com/rs/zerolog"
)

// A memoryFixture is a memory over a real file.
type memoryFixture struct {
	*tlsaMemory
	t   *testing.T
	dir string
}

func newMemory(t *testing.T, most int) *memoryFixture {
	f := &memoryFixture{t: t, dir: t.TempDir()}
	f.open(most)
	return f
}

func (f *memoryFixture) open(most int) {
	f.t.Helper()
	store, err := boltstore.Open(f.dir, boltstore.Options{NoSync: true})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = store.Close() }) // a test may have closed it
	if f.tlsaMemory, err = newTLSAMemory(f.t.Context(), store, most, zerolog.Nop()); err != nil {
		f.t.Fatal(err)
	}
}

// reopen ends and starts the memory and its store, as a restart does.
func (f *memoryFixture) reopen() {
	f.t.Helper()
	ctx, cancel := context.WithCancel(f.t.Context())
	cancel()
	if err := f.run(ctx); err != nil { // writes what is left
		f.t.Fatal(err)
	}
	if err := f.store.Close(); err != nil {
		f.t.Fatal(err)
	}
	f.open(f.most)
}

func (f *memoryFixture) wantStored(want map[addr.Host]time.Time) {
	f.t.Helper()
	f.save(f.t.Context())
	got, err := f.store.TLSAHosts(f.t.Context())
	if err != nil || !maps.EqualFunc(got, want, time.Time.Equal) {
		f.t.Errorf("stored are %v (%v), want %v", got, err, want)
	}
}

func TestTLSAMemory(t *testing.T) {
	host, other := addr.MustHost("mx.example.test"), addr.MustHost("mx.other.test")
	start := time.Now()

	t.Run("a host is known for 30 days, and longer each time it is seen", func(t *testing.T) {
		m := newMemory(t, 10)
		m.SawTLSA(host, start)
		if !m.HadTLSA(host, start.Add(tlsaKept-time.Second)) || m.HadTLSA(host, start.Add(tlsaKept)) || m.HadTLSA(other, start) {
			t.Error("wrong about what it had")
		}
		m.SawTLSA(host, start.Add(20*24*time.Hour))
		if !m.HadTLSA(host, start.Add(tlsaKept)) {
			t.Error("it was not seen anew")
		}
	})
	t.Run("a restart forgets nothing", func(t *testing.T) {
		m := newMemory(t, 10)
		m.SawTLSA(host, start)
		m.SawTLSA(other, start)
		m.ForgetTLSA(other)
		m.reopen()
		if !m.HadTLSA(host, start) || m.HadTLSA(other, start) || m.count() != 1 {
			t.Errorf("after a restart: %v", m.hosts)
		}
		m.ForgetTLSA(host)
		m.reopen()
		if m.count() != 0 {
			t.Errorf("what was forgotten came back: %v", m.hosts)
		}
	})
	t.Run("a host is written once a day", func(t *testing.T) {
		m := newMemory(t, 10)
		m.SawTLSA(host, start)
		m.wantStored(map[addr.Host]time.Time{host: start})
		m.SawTLSA(host, start.Add(tlsaRewrite-1))
		m.wantStored(map[addr.Host]time.Time{host: start})
		m.SawTLSA(host, start.Add(tlsaRewrite))
		m.wantStored(map[addr.Host]time.Time{host: start.Add(tlsaRewrite)})
	})
	t.Run("what is over is swept, from the file too", func(t *testing.T) {
		m := newMemory(t, 10)
		m.SawTLSA(host, start)
		m.SawTLSA(other, start.Add(time.Hour))
		m.sweep(start.Add(tlsaKept))
		m.wantStored(map[addr.Host]time.Time{other: start.Add(time.Hour)})
	})
	t.Run("what a wrong clock wrote is not kept for years", func(t *testing.T) {
		m := newMemory(t, 10)
		m.SawTLSA(host, start.Add(10*365*24*time.Hour))
		m.sweep(start)
		m.wantStored(map[addr.Host]time.Time{host: start})
	})
	t.Run("those seen longest ago make room", func(t *testing.T) {
		m := newMemory(t, 20)
		name := func(i int) addr.Host { return addr.MustHost(fmt.Sprintf("mx%d.example.test", i)) }
		for i := range 20 {
			m.SawTLSA(name(i), start.Add(time.Duration(i)*time.Second))
		}
		m.SawTLSA(name(0), start.Add(time.Minute))
		m.SawTLSA(host, start.Add(time.Minute))
		if m.count() != 18 || !m.HadTLSA(host, start) || !m.HadTLSA(name(0), start) || m.HadTLSA(name(1), start) || m.HadTLSA(name(3), start) || !m.HadTLSA(name(4), start) {
			t.Errorf("%d are left: %v", m.count(), m.hosts)
		}
		m.reopen()
		if m.count() != 18 {
			t.Errorf("%d are left in the file", m.count())
		}
	})
	t.Run("what cannot be written is written later", func(t *testing.T) {
		m := newMemory(t, 10)
		if err := m.store.Close(); err != nil {
			t.Fatal(err)
		}
		m.SawTLSA(host, start)
		m.save(t.Context())
		store, err := boltstore.Open(m.dir, boltstore.Options{NoSync: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { store.Close() })
		m.store = store
		m.wantStored(map[addr.Host]time.Time{host: start})
	})
	t.Run("many are written, while it runs", func(t *testing.T) {
		m := newMemory(t, 10_000)
		for i := range 3*tlsaBatch + 1 {
			m.SawTLSA(addr.MustHost(fmt.Sprintf("mx%d.example.test", i)), start)
		}
		m.reopen()
		if m.count() != 3*tlsaBatch+1 {
			t.Errorf("%d were written", m.count())
		}
	})
}
