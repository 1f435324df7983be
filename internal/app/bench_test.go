package app

import (
	"fmt"
	"net/smtp"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"stsrelay/internal/lab"

	"github.com/rs/zerolog"
)

// BenchmarkRelay moves messages of 10 KB through a whole relay: 50 connections
// hand them in, each is durable before its 250, and each is delivered over
// verified TLS 1.3 under an enforce policy to one of 20 domains. Clients and
// sinks run in this process, so the CPU time is theirs too.
func BenchmarkRelay(b *testing.B) {
	const clients, domains = 50, 20
	net := startLab(b)
	var sinks []*lab.MXHost
	for i := range domains {
		mx, _ := enforced(net, fmt.Sprintf("d%d.test", i), func(m *lab.MX) { m.Forget = true })
		sinks = append(sinks, mx)
	}
	f := start(b, net, parse(b, configText(shortDir(b), net, "")), func(o *Options) { o.Log = zerolog.Nop() })
	content := []byte(letter("bench", 10<<10))
	b.SetBytes(int64(len(content)))
	before := cpu()
	var next atomic.Int64
	b.ResetTimer()
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			c, err := smtp.Dial(f.address())
			if err != nil {
				b.Error(err)
				return
			}
			defer c.Close()
			for {
				i := next.Add(1)
				if i > int64(b.N) {
					return
				}
				if err := submit(c, fmt.Sprintf("u@d%d.test", i%domains), content); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	accepted := b.Elapsed()
	for i, mx := range sinks {
		n := b.N / domains
		if i > 0 && i <= b.N%domains {
			n++
		}
		if err := mx.WaitMessages(within(b), n); err != nil {
			b.Fatalf("%v: %d of %d", err, mx.Count(), n)
		}
	}
	b.ReportMetric(float64(b.N)/accepted.Seconds(), "accepted/s")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "delivered/s")
	b.ReportMetric((cpu()-before).Seconds()*1000/float64(b.N), "cpu-s/1000")
}

// BenchmarkRelayIdle is one message at a time through an idle relay, from the
// client's first command to its arrival; policy and connection are warm.
func BenchmarkRelayIdle(b *testing.B) {
	net := startLab(b)
	mx, _ := enforced(net, "example.test", func(m *lab.MX) { m.Forget = true })
	f := start(b, net, parse(b, configText(shortDir(b), net, "")), func(o *Options) { o.Log = zerolog.Nop() })
	c, err := smtp.Dial(f.address())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	content := []byte(letter("bench", 10<<10))
	var accept time.Duration
	for i := range b.N {
		begin := time.Now()
		if err := submit(c, "u@example.test", content); err != nil {
			b.Fatal(err)
		}
		accept += time.Since(begin)
		if err := mx.WaitMessages(within(b), i+1); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(accept.Microseconds())/float64(b.N)/1000, "ms-accept/op")
}

func submit(c *smtp.Client, to string, content []byte) error {
	w, err := begin(c, "a@sender.test", to)
	if err != nil {
		return err
	}
	if _, err := w.Write(content); err != nil {
		return err
	}
	return w.Close()
}

func cpu() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
