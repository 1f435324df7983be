package relay_test

import (
	"context"
	"net"
	"net/netip"
	"net/textproto"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"stsrelay/internal/boltstore"
	"stsrelay/relay"

	"github.com/rs/zerolog"
)

// BenchmarkAccept takes messages of 10 KB from 50 connections; each is durable
// before its 250.
func BenchmarkAccept(b *testing.B) { benchmarkAccept(b, 50) }

// BenchmarkAcceptOne is one client that waits for each reply.
func BenchmarkAcceptOne(b *testing.B) { benchmarkAccept(b, 1) }

func benchmarkAccept(b *testing.B, clients int) {
	bolt, err := boltstore.Open(b.TempDir(), boltstore.Options{Log: zerolog.Nop()})
	if err != nil {
		b.Fatal(err)
	}
	defer bolt.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	l := relay.NewListener(relay.ListenerOptions{Name: "bench", Hostname: "relay.example.com", Store: bolt,
		AllowFrom: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Log: zerolog.Nop()})
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- l.Serve(ctx, ln) }()
	content := []byte("Subject: bench\r\n\r\n" + strings.Repeat("The quick brown fox jumps over the lazy dog.\r\n", 223) + ".\r\n")
	b.SetBytes(int64(len(content)))
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	for range clients {
		wg.Go(func() {
			c, err := textproto.Dial("tcp", ln.Addr().String())
			if err == nil {
				_, _, err = c.ReadResponse(220)
			}
			if err == nil {
				err = exchange(c, []byte("EHLO client.example\r\n"), 250)
			}
			for err == nil && next.Add(1) <= int64(b.N) {
				if err = exchange(c, []byte("MAIL FROM:<a@client.example>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n"), 250, 250, 354); err == nil {
					err = exchange(c, content, 250)
				}
			}
			if err != nil {
				b.Error(err)
				return
			}
			c.Close()
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "accepted/s")
	b.StopTimer()
	stop()
	if err := <-ended; err != nil {
		b.Error(err)
	}
}

func exchange(c *textproto.Conn, send []byte, codes ...int) error {
	if _, err := c.W.Write(send); err != nil {
		return err
	}
	if err := c.W.Flush(); err != nil {
		return err
	}
	for _, code := range codes {
		if _, _, err := c.ReadResponse(code); err != nil {
			return err
		}
	}
	return nil
}
