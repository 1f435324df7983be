package resolver

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// A pipeServer is a server without sockets, for use in a bubble: it answers a
// query with one MX record of TTL 60 once release is closed.
type pipeServer struct {
	queries atomic.Int32
	release chan struct{}
}

func (s *pipeServer) DialContext(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	go func() {
		defer server.Close()
		buf := make([]byte, 4096)
		n, err := server.Read(buf)
		if err != nil {
			return
		}
		s.queries.Add(1)
		<-s.release
		q := new(dns.Msg)
		if err := q.Unpack(buf[:n]); err != nil {
			panic(err)
		}
		m := new(dns.Msg)
		m.SetReply(q)
		rr, _ := dns.NewRR("example.test. 60 IN MX 10 mx.test.")
		m.Answer = append(m.Answer, rr)
		server.Write(packed(m))
	}()
	return client, nil
}

// inBubble runs f with a client of a pipeServer in a bubble, where time stands
// still until all wait.
func inBubble(t *testing.T, o Options, f func(t *testing.T, c *Client, s *pipeServer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &pipeServer{release: make(chan struct{})}
		o.Dialer = s
		c := newClient(t, o, &fakeServer{addr: abroad})
		f(t, c, s)
	})
}

func TestSharing(t *testing.T) {
	t.Run("callers that ask the same share one query", func(t *testing.T) {
		inBubble(t, Options{}, func(t *testing.T, c *Client, s *pipeServer) {
			results := make(chan error, 20)
			for range 20 {
				go func() {
					a, err := c.MX(t.Context(), example)
					if err == nil && len(a.Records) != 1 {
						err = errors.New("no record")
					}
					results <- err
				}()
			}
			synctest.Wait()
			close(s.release)
			for range 20 {
				if err := <-results; err != nil {
					t.Error(err)
				}
			}
			if n := s.queries.Load(); n != 1 {
				t.Errorf("%d queries", n)
			}
		})
	})
	t.Run("a caller that goes away takes nobody with it", func(t *testing.T) {
		inBubble(t, Options{}, func(t *testing.T, c *Client, s *pipeServer) {
			first, cancel := context.WithCancel(t.Context())
			gone, stays := make(chan error, 1), make(chan error, 1)
			go func() { _, err := c.MX(first, example); gone <- err }()
			synctest.Wait()
			go func() { _, err := c.MX(t.Context(), example); stays <- err }()
			synctest.Wait()
			cancel()
			if err := <-gone; !errors.Is(err, context.Canceled) {
				t.Errorf("the one that left got %v", err)
			}
			close(s.release)
			if err := <-stays; err != nil {
				t.Errorf("the one that stayed got %v", err)
			}
		})
	})
	for name, settle := range map[string]bool{"at once": false, "a little later": true} {
		t.Run("after the last caller has gone nothing is kept, and a new one starts afresh, "+name, func(t *testing.T) {
			inBubble(t, Options{FailureTTL: time.Hour}, func(t *testing.T, c *Client, s *pipeServer) {
				ctx, cancel := context.WithCancel(t.Context())
				gone := make(chan error, 1)
				go func() { _, err := c.MX(ctx, example); gone <- err }()
				synctest.Wait()
				cancel()
				<-gone
				if settle {
					synctest.Wait()
				}
				close(s.release)
				if _, err := c.MX(t.Context(), example); err != nil {
					t.Fatal(err)
				}
			})
		})
	}
	t.Run("callers that go away do not make a server look dead", func(t *testing.T) {
		inBubble(t, Options{}, func(t *testing.T, c *Client, s *pipeServer) {
			for range downAfter {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				_, err := c.MX(ctx, example)
				wantFailed(t, err)
				cancel()
				synctest.Wait()
			}
			if c.servers.list(time.Now())[0].down {
				t.Error("it does")
			}
			close(s.release)
		})
	})
	t.Run("a fresh lookup does not join an older one", func(t *testing.T) {
		inBubble(t, Options{}, func(t *testing.T, c *Client, s *pipeServer) {
			done := make(chan error, 2)
			go func() { _, err := c.TXT(t.Context(), "example.test"); done <- err }()
			synctest.Wait()
			go func() { _, err := c.FreshTXT(t.Context(), "example.test"); done <- err }()
			synctest.Wait()
			if n := s.queries.Load(); n != 2 {
				t.Errorf("%d queries", n)
			}
			close(s.release)
			<-done
			<-done
		})
	})
	t.Run("a caller may do with its records what it likes", func(t *testing.T) {
		inBubble(t, Options{}, func(t *testing.T, c *Client, s *pipeServer) {
			close(s.release)
			a, _ := c.MX(t.Context(), example)
			a.Records[0].Preference = 99
			if b, _ := c.MX(t.Context(), example); b.Records[0].Preference != 10 {
				t.Error("another caller's change is seen")
			}
		})
	})
	t.Run("lookups beyond the limit wait, and fail with the budget", func(t *testing.T) {
		inBubble(t, Options{MaxLookups: 1}, func(t *testing.T, c *Client, s *pipeServer) {
			c.permits <- struct{}{}
			_, err := c.MX(t.Context(), example)
			wantFailed(t, err)
			if !strings.Contains(err.Error(), "too many lookups") || s.queries.Load() != 0 {
				t.Errorf("%v after %d queries", err, s.queries.Load())
			}
		})
	})
}

func TestTimes(t *testing.T) {
	took := func(t *testing.T, c *Client) time.Duration {
		start := time.Now()
		_, err := c.MX(t.Context(), example)
		wantFailed(t, err)
		return time.Since(start)
	}
	t.Run("a silent server costs three tries of 2.5 seconds", func(t *testing.T) {
		inBubble(t, Options{}, func(t *testing.T, c *Client, s *pipeServer) {
			if d := took(t, c); d != 7500*time.Millisecond {
				t.Errorf("took %v", d)
			}
			close(s.release)
		})
	})
	t.Run("no lookup takes more than 15 seconds, whatever the number of servers", func(t *testing.T) {
		inBubble(t, Options{}, func(t *testing.T, c *Client, s *pipeServer) {
			for range 8 {
				c.servers.addresses = append(c.servers.addresses, abroad)
			}
			if d := took(t, c); d != 15*time.Second {
				t.Errorf("took %v", d)
			}
			close(s.release)
		})
	})
	t.Run("a failure is repeated to others for two seconds", func(t *testing.T) {
		inBubble(t, Options{}, func(t *testing.T, c *Client, s *pipeServer) {
			took(t, c)
			if d := took(t, c); d != 0 {
				t.Errorf("asked again at once")
			}
			time.Sleep(2 * time.Second)
			close(s.release)
			if _, err := c.MX(t.Context(), example); err != nil {
				t.Errorf("still failing: %v", err)
			}
		})
	})
	t.Run("STS-8.1-01 after the TTL it is asked again", func(t *testing.T) {
		inBubble(t, Options{}, func(t *testing.T, c *Client, s *pipeServer) {
			close(s.release)
			for i, wait := range []time.Duration{0, 60*time.Second - 1, 1} {
				time.Sleep(wait)
				if _, err := c.MX(t.Context(), example); err != nil {
					t.Fatal(err)
				}
				if n, want := s.queries.Load(), int32(1+i/2); n != want {
					t.Errorf("step %d: %d queries, want %d", i, n, want)
				}
			}
		})
	})
}
