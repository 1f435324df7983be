package delivery

import (
	"bytes"
	"context"
	"io"
	"strings"
	"sync"
	"testing"

	"stsrelay/stscache"
)

// endless hands out one job n times.
type endless struct {
	b    *testing.B
	mu   sync.Mutex
	j    Job
	left int
}

func (s *endless) Next(context.Context) (Job, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left--
	return s.j, s.left >= 0
}

func (s *endless) Done(j Job, a Attempt) {
	if err := a.Outcomes[0].Err; err != nil {
		s.b.Error(err)
	}
}

// BenchmarkDeliverTLS delivers 10 KB messages to a domain that enforces, over
// one kept connection of TLS 1.3. The server's part of the work is included.
func BenchmarkDeliverTLS(b *testing.B) {
	w := newWorld(b)
	w.policy("a.example", stscache.Enforce, "mx.a.example")
	m := w.good("mx.a.example")
	m.forget = true
	w.host("a.example", 10, m, "127.1.0.1")
	c := w.running()
	text := []byte("Subject: benchmark\r\n\r\n" + strings.Repeat(strings.Repeat("x", 70)+"\r\n", 142))
	j := job("1", "", "u@a.example")
	j.Size = int64(len(text))
	j.Open = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(text)), nil }
	for name, batch := range map[string]int{"one message per Deliver": 1, "a hundred messages per Deliver": 100} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(j.Size)
			b.ReportAllocs()
			s := &endless{b: b, j: j}
			for left := b.N; left > 0; left -= batch {
				s.left = min(batch, left)
				if err := c.Deliver(b.Context(), to("a.example"), s); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
