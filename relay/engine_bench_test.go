package relay_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"stsrelay/delivery"
	"stsrelay/internal/addr"
	"stsrelay/internal/boltstore"
	"stsrelay/relay"

	"github.com/rs/zerolog"
)

// BenchmarkEngine claims, "delivers" and settles messages to 20 destinations.
// Run with: go test -run '^$' -bench Engine ./relay
func BenchmarkEngine(b *testing.B) {
	const messages = 10_000
	for range b.N {
		b.StopTimer()
		s, err := boltstore.Open(b.TempDir(), boltstore.Options{NoSync: true, FreeSpace: -1, Log: zerolog.Nop()})
		if err != nil {
			b.Fatal(err)
		}
		fill(b, s, messages)
		sink := &sink{want: messages, done: make(chan struct{})}
		e := relay.NewEngine(relay.EngineOptions{Store: s, Deliverer: sink, Hostname: "relay.example.com", Log: zerolog.Nop()})
		ctx, stop := context.WithCancel(b.Context())
		ended := make(chan error, 1)
		b.StartTimer()
		go func() { ended <- e.Run(ctx) }()
		<-sink.done
		stop()
		if err := <-ended; err != nil { // everything is written down
			b.Fatal(err)
		}
		b.StopTimer()
		if st, err := s.Stats(b.Context()); err != nil || st.Deferred+st.Active != 0 {
			b.Fatalf("%+v, %v", st, err)
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)*messages/b.Elapsed().Seconds(), "msg/s")
}

func fill(b *testing.B, s relay.Store, n int) {
	from, body := addr.MustAddress("a@sender.example"), make([]byte, 1024)
	for i := range n {
		w, err := s.NewBody(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		if _, err := w.Write(body); err != nil {
			b.Fatal(err)
		}
		id := relay.ID(fmt.Sprintf("%018d", i))
		d := fmt.Sprintf("d%d.example", i%20)
		m := relay.Message{ID: id, From: from, Size: w.Size(), Entries: []relay.NewEntry{{ID: id, Destination: relay.Destination(d),
			To: []relay.Recipient{{Address: addr.MustAddress("b@" + d)}}}}}
		if err := s.Accept(b.Context(), m, w); err != nil {
			b.Fatal(err)
		}
	}
}

// A sink takes everything at once.
type sink struct {
	got  atomic.Int64
	want int64
	done chan struct{}
}

func (k *sink) Deliver(ctx context.Context, _ delivery.Destination, s delivery.Source) error {
	ok := []delivery.Outcome{{MX: mx, Reply: "250 2.0.0 ok", TLS: "Verified TLSv1.3", Policy: "sts:enforce id=1"}}
	for {
		j, more := s.Next(ctx)
		if !more {
			return ctx.Err()
		}
		s.Done(j, delivery.Attempt{Outcomes: ok})
		if k.got.Add(1) == k.want {
			close(k.done)
		}
	}
}
