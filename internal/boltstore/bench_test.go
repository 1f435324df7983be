package boltstore

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/relay"
	"stsrelay/stscache"

	"github.com/rs/zerolog"
)

// Run with: go test -run '^$' -bench . ./internal/boltstore

var (
	benchOptions = Options{Log: zerolog.Nop()} // synced, as in production
	body10K      = strings.Repeat(strings.Repeat("x", 62)+"\r\n", 160)
)

func openBench(b *testing.B, o Options) *Store {
	b.Helper()
	s, err := Open(b.TempDir(), o)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = s.Close() })
	return s
}

// crowd runs f b.N times from 50 hands.
func crowd(b *testing.B, f func(i int64) error) {
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	for range 50 {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
				if err := f(i); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
}

func benchID(i int64) relay.ID { return relay.ID(fmt.Sprintf("%012d", i)) }

func BenchmarkAccept(b *testing.B) {
	s := openBench(b, benchOptions)
	crowd(b, func(i int64) error { return acceptOne(s, newMessage(benchID(i), "example.com"), body10K) })
}

func BenchmarkAcceptSettle(b *testing.B) {
	s := openBench(b, benchOptions)
	crowd(b, func(i int64) error {
		dest := relay.Destination(fmt.Sprintf("d%d.example", i%20))
		if err := acceptOne(s, newMessage(benchID(i), dest), body10K); err != nil {
			return err
		}
		return settleSome(s, dest)
	})
}

func settleSome(s *Store, dest relay.Destination) error {
	ctx, cancel := newContext()
	defer cancel()
	entries, err := s.Claim(ctx, dest, 1)
	if err != nil || len(entries) == 0 {
		return err
	}
	_, err = s.Settle(ctx, []relay.Result{{ID: entries[0].ID, Lease: entries[0].Lease}})
	return err
}

func BenchmarkLoneAccept(b *testing.B) {
	s := openBench(b, benchOptions)
	for i := 0; b.Loop(); i++ {
		if err := acceptOne(s, newMessage(benchID(int64(i)), "example.com"), body10K); err != nil {
			b.Fatal(err)
		}
	}
}

// fill queues n small messages for 1000 destinations.
func fill(b *testing.B, s *Store, n int64, body string) {
	b.Helper()
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			for i := next.Add(1); i <= n; i = next.Add(1) {
				if err := acceptOne(s, newMessage(benchID(i), relay.Destination(fmt.Sprintf("d%d.example", i%1000))), body); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkClaim(b *testing.B) {
	o := benchOptions
	o.NoSync = true
	s := openBench(b, o)
	fill(b, s, 100_000, "x")
	b.ResetTimer()
	for i := 0; b.Loop(); i++ {
		e, err := s.Claim(b.Context(), relay.Destination(fmt.Sprintf("d%d.example", i%1000)), 20)
		if err != nil || len(e) != 20 {
			b.Fatal(len(e), err)
		}
		if err := s.Unclaim(b.Context(), e); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDue(b *testing.B) {
	o := benchOptions
	o.NoSync = true
	s := openBench(b, o)
	fill(b, s, 100_000, "x")
	b.ResetTimer()
	for b.Loop() {
		d, err := s.Due(b.Context(), "", 1000)
		if err != nil || len(d) != 1000 {
			b.Fatal(len(d), err)
		}
	}
}

func BenchmarkPolicy(b *testing.B) {
	o := benchOptions
	o.NoSync = true
	s := openBench(b, o)
	e := stscache.Entry{Body: []byte(strings.Repeat("mx: mx.example.com\r\n", 10)), ID: "20261101", Fetched: time.Now()}
	var domains []addr.Domain
	for i := range 10_000 {
		domains = append(domains, addr.MustDomain(fmt.Sprintf("d%d.example", i)))
	}
	crowdOver(b, domains, func(d addr.Domain) error {
		e := e
		e.Domain = d
		ctx, cancel := newContext()
		defer cancel()
		return s.PutPolicy(ctx, e)
	})
	b.ResetTimer()
	for i := 0; b.Loop(); i++ {
		if _, err := s.Policy(b.Context(), domains[i%len(domains)]); err != nil {
			b.Fatal(err)
		}
	}
}

func crowdOver(b *testing.B, domains []addr.Domain, f func(addr.Domain) error) {
	b.Helper()
	var wg sync.WaitGroup
	for hand := range 50 {
		wg.Go(func() {
			for i := hand; i < len(domains); i += 50 {
				if err := f(domains[i]); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
}
