package delivery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"stsrelay/stscache"
)

func TestKeptConnections(t *testing.T) {
	t.Run("a connection is kept for the next Deliver and ended with QUIT", func(t *testing.T) {
		w := newWorld(t)
		w.policy("a.example", stscache.Enforce, "mx.a.example")
		m := w.host("a.example", 10, w.good("mx.a.example"), "127.1.0.1")
		t.Run("use", func(t *testing.T) {
			w.t = t
			c := w.running()
			for i, reused := range []bool{false, true, true} {
				out, err := w.deliver(c, "a.example", job(fmt.Sprint(i), content, "u@a.example"))
				o := out[fmt.Sprint(i)].Outcomes[0]
				if err != nil || o.Err != nil || o.Reused != reused || (o.Delay.Setup == 0) != reused {
					t.Errorf("%d: %+v, %v", i, o, err)
				}
				if n := len(out[fmt.Sprint(i)].Sessions); (n == 0) != reused {
					t.Errorf("RPT-4.2-03 %d: %d sessions", i, n)
				}
			}
		})
		if got := m.look(); got.conns != 1 || len(got.messages) != 3 || got.lines[len(got.lines)-1] != "1T QUIT" {
			t.Errorf("SMTP-4.1.1.10-01 %d connections, transcript %q", got.conns, got.lines)
		}
	})
	t.Run("without Run nothing is kept", func(t *testing.T) {
		w := newWorld(t)
		m := w.host("a.example", 10, plainMX("mx.a.example", full...), "127.1.0.1")
		c := w.client()
		w.deliver(c, "a.example", job("1", content, "u@a.example"))
		w.deliver(c, "a.example", job("2", content, "u@a.example"))
		if got := m.look(); got.conns != 2 || c.pool.total != 0 {
			t.Errorf("%d connections, %d open", got.conns, c.pool.total)
		}
	})
	t.Run("an idle connection is ended", func(t *testing.T) {
		w := newWorld(t)
		w.options.Timeouts.Idle = 10 * time.Millisecond
		m := plainMX("mx.a.example", full...)
		quit := make(chan bool)
		m.answer = func(_ *fakeConn, line string) string {
			if line == "QUIT" {
				close(quit)
			}
			return ""
		}
		w.host("a.example", 10, m, "127.1.0.1")
		w.deliver(w.running(), "a.example", job("1", content, "u@a.example"))
		<-quit
	})
	// end makes a kept connection die in some way before its next message.
	for name, end := range map[string]func(*fakeConn, string) string{
		"the server hung up": func(c *fakeConn, line string) string {
			if line == "." && c.n == 1 {
				return "250 2.0.0 queued" + closeIt
			}
			return ""
		},
		"the server said 421 and hung up": func(c *fakeConn, line string) string {
			if line == "." && c.n == 1 {
				return "250 2.0.0 queued\r\n421 4.4.2 bored" + closeIt
			}
			return ""
		},
		"the server hangs up at MAIL": func(c *fakeConn, line string) string {
			if strings.HasPrefix(line, "MAIL") && c.n == 1 && c.count > 0 {
				return closeIt
			}
			return ""
		},
		"the server says 421 to MAIL": func(c *fakeConn, line string) string {
			if strings.HasPrefix(line, "MAIL") && c.n == 1 && c.count > 0 {
				return "421 4.7.0 enough on this connection"
			}
			return ""
		},
	} {
		for mode, keywords := range map[string][]string{"pipelined": full, "lock-step": lockstep} {
			t.Run("a kept connection that died is no failure: "+name+", "+mode, func(t *testing.T) {
				w := newWorld(t)
				m := w.good("mx.a.example")
				m.secure, m.answer = keywords, end
				w.host("a.example", 10, m, "127.1.0.1")
				w.host("a.example", 20, w.good("mx2.a.example"), "127.1.0.2")
				c := w.running()
				for i := range 3 {
					out, err := w.deliver(c, "a.example", job(fmt.Sprint(i), content, "u@a.example"))
					if o := out[fmt.Sprint(i)].Outcomes[0]; o.Err != nil || err != nil || o.MayDup || o.MX.String() != "mx.a.example" {
						t.Errorf("%d: %+v, %v", i, o, err)
					}
				}
				if got := m.look(); got.conns != 2 || len(got.messages) != 3 {
					t.Errorf("%d connections, %d messages", got.conns, len(got.messages))
				}
			})
			t.Run("nor is it within one Deliver: "+name+", "+mode, func(t *testing.T) {
				w := newWorld(t)
				m := w.good("mx.a.example")
				m.secure, m.answer = keywords, end
				w.host("a.example", 10, m, "127.1.0.1")
				var jobs []Job
				for i := range 4 {
					jobs = append(jobs, job(fmt.Sprint(i), content, "u@a.example"))
				}
				out, err := w.deliver(w.running(), "a.example", jobs...)
				for id, a := range out {
					if o := a.Outcomes[0]; o.Err != nil || o.MayDup {
						t.Errorf("%s: %+v", id, o)
					}
				}
				if got := m.look(); err != nil || got.conns != 2 || len(got.messages) != 4 {
					t.Errorf("%v, %d connections, %d messages, transcript %q", err, got.conns, len(got.messages), got.verbs())
				}
			})
		}
	}
	t.Run("after one kept connection that died no second is tried, but a new one", func(t *testing.T) {
		w := newWorld(t)
		m := plainMX("mx.a.example", full...)
		var both sync.WaitGroup
		both.Add(2)
		m.answer = func(c *fakeConn, line string) string {
			switch {
			case line == "CONNECT" && c.n <= 2:
				both.Done()
				both.Wait()
			case strings.HasPrefix(line, "MAIL") && c.n <= 2 && c.count > 0:
				return closeIt
			}
			return ""
		}
		w.host("a.example", 10, m, "127.1.0.1")
		c := w.running()
		var wg sync.WaitGroup
		for i := range 2 {
			wg.Go(func() { w.deliver(c, "a.example", job(fmt.Sprint(i), content, "u@a.example")) })
		}
		wg.Wait()
		out, err := w.deliver(c, "a.example", job("3", content, "u@a.example"))
		if o := out["3"].Outcomes[0]; o.Err != nil || o.Reused || err != nil || m.look().conns != 3 {
			t.Errorf("%+v, %v, %d connections", o, err, m.look().conns)
		}
		verbs := strings.Join(m.look().verbs(), ",")
		if strings.Count(verbs, "1 MAIL")+strings.Count(verbs, "2 MAIL") != 3 {
			t.Errorf("transcript %s", verbs)
		}
	})
	t.Run("a new connection on which MAIL gets no answer is a failure", func(t *testing.T) {
		w := newWorld(t)
		m := w.host("a.example", 10, plainMX("mx.a.example", full...).says("MAIL", closeIt), "127.1.0.1")
		out, _ := w.deliver(w.running(), "a.example", job("1", content, "u@a.example"), job("2", content, "u@a.example"))
		if got := m.look(); got.conns != 2 || verdict(out["1"].Outcomes[0]) != "4.4.2 connection-lost" || verdict(out["2"].Outcomes[0]) != "4.4.2 connection-lost" {
			t.Errorf("%d connections, %q %q", got.conns, verdicts(out["1"]), verdicts(out["2"]))
		}
	})
}

func TestReuse(t *testing.T) {
	// shared is one MX host for two domains, whose certificate is given.
	shared := func(t *testing.T, trusted bool) (*world, *fakeMX) {
		w := newWorld(t)
		m := w.good("mx.provider.example")
		if !trusted {
			m.cert = newCA(t).issue(t, "mx.provider.example")
		}
		w.host("a.example", 10, m, "127.1.0.1")
		w.host("b.example", 10, m, "127.1.0.1")
		w.ips["mx.provider.example"] = addrs("127.1.0.1")
		return w, m
	}
	t.Run("X-11 STS-4.2-05 a connection opened without a policy carries no mail for a domain whose policy it fails", func(t *testing.T) {
		w, m := shared(t, false)
		w.policy("b.example", stscache.Enforce, "mx.provider.example")
		c := w.running()
		a, _ := w.deliver(c, "a.example", job("1", content, "u@a.example"))
		b, err := w.deliver(c, "b.example", job("2", content, "u@b.example"))
		if verdict(a["1"].Outcomes[0]) != "ok" || verdict(b["2"].Outcomes[0]) != "4.7.5 certificate-not-trusted" || err == nil || len(m.look().messages) != 1 {
			t.Errorf("%q, %q, %v", verdicts(a["1"]), verdicts(b["2"]), err)
		}
		if a, _ = w.deliver(c, "a.example", job("3", content, "u@a.example")); !a["3"].Outcomes[0].Reused {
			t.Error("the neighbour lost its connection")
		}
	})
	t.Run("X-11 a connection that meets the policy serves both, and each domain has its session", func(t *testing.T) {
		w, m := shared(t, true)
		w.policy("b.example", stscache.Enforce, "mx.provider.example")
		w.policy("a.example", stscache.Testing, "mx.provider.example")
		c := w.running()
		a, _ := w.deliver(c, "a.example", job("1", content, "u@a.example"))
		b, _ := w.deliver(c, "b.example", job("2", content, "u@b.example"))
		b2, _ := w.deliver(c, "b.example", job("3", content, "u@b.example"))
		if o := b["2"].Outcomes[0]; o.Err != nil || !o.Reused || o.TLS != "Verified TLSv1.3" || m.look().conns != 1 {
			t.Errorf("%+v, %d connections", o, m.look().conns)
		}
		if len(a["1"].Sessions) != 1 || len(b["2"].Sessions) != 1 || b["2"].Sessions[0].Domain.String() != "b.example" || len(b2["3"].Sessions) != 0 {
			t.Errorf("RPT-4.2-03 sessions %+v, %+v, %+v", a["1"].Sessions, b["2"].Sessions, b2["3"].Sessions)
		}
	})
	t.Run("X-11 a new policy that does not name the host ends the use of its connection", func(t *testing.T) {
		w, m := shared(t, true)
		w.policy("a.example", stscache.Enforce, "mx.provider.example")
		c := w.running()
		w.deliver(c, "a.example", job("1", content, "u@a.example"))
		w.policy("a.example", stscache.Enforce, "mx.elsewhere.example")
		out, err := w.deliver(c, "a.example", job("2", content, "u@a.example"))
		if verdict(out["2"].Outcomes[0]) != "4.4.8 mx-not-listed" || err == nil || len(m.look().messages) != 1 {
			t.Errorf("%q, %v", verdicts(out["2"]), err)
		}
	})
}

func TestLimits(t *testing.T) {
	// crowd runs n lanes for each domain and returns the most connections that
	// the servers had open at once.
	crowd := func(t *testing.T, w *world, kept bool, lanes int, domains ...string) int {
		t.Helper()
		w.options.Timeouts.Idle = time.Hour // nothing goes by itself
		c := w.client()
		if kept {
			c = w.running()
		}
		var mu sync.Mutex
		open, most := 0, 0
		for _, m := range w.dialer.to {
			m.react(func(_ *fakeConn, line string) string {
				mu.Lock()
				defer mu.Unlock()
				switch line {
				case "CONNECT":
					open++
					most = max(most, open)
				case "QUIT":
					open--
				}
				return ""
			})
		}
		var wg sync.WaitGroup
		for _, d := range domains {
			s := source(t)
			for i := range 30 {
				s.jobs = append(s.jobs, job(fmt.Sprint(i), content, "u@"+d))
			}
			for range lanes {
				wg.Go(func() {
					if err := c.Deliver(context.Background(), to(d), s); err != nil {
						t.Error(err)
					}
				})
			}
			t.Cleanup(s.check)
		}
		wg.Wait()
		return most
	}
	for _, kept := range []bool{true, false} {
		t.Run(fmt.Sprintf("SMTP-4.5.4.1-07 connections per host, kept %v", kept), func(t *testing.T) {
			w := newWorld(t)
			w.options.MaxConnectionsPerHost = 2
			w.host("a.example", 10, plainMX("mx.a.example", full...), "127.1.0.1")
			w.mx["b.example"] = w.mx["a.example"]
			if n := crowd(t, w, kept, 5, "a.example", "b.example"); n > 2 {
				t.Errorf("%d at once", n)
			}
		})
		t.Run(fmt.Sprintf("SMTP-4.5.4.1-07 connections in all, where kept ones of others give way, kept %v", kept), func(t *testing.T) {
			w := newWorld(t)
			w.options.MaxConnections = 2
			var domains []string
			for i := range 6 {
				d := fmt.Sprintf("d%d.example", i)
				w.host(d, 10, plainMX("mx."+d, full...), fmt.Sprintf("127.1.0.%d", i+1))
				domains = append(domains, d)
			}
			if n := crowd(t, w, kept, 2, domains...); n > 2 {
				t.Errorf("%d at once", n)
			}
		})
	}
	t.Run("waiting for leave to connect ends with ctx", func(t *testing.T) {
		w := newWorld(t)
		w.options.MaxConnections = 1
		m := plainMX("mx.a.example", full...)
		arrived, release := make(chan bool, 2), make(chan bool)
		m.answer = func(_ *fakeConn, line string) string {
			if line == "CONNECT" {
				arrived <- true
				<-release
			}
			return ""
		}
		w.host("a.example", 10, m, "127.1.0.1")
		c := w.client()
		first, second := source(t, job("1", content, "u@a.example")), source(t, job("2", content, "u@a.example"))
		ended := make(chan error)
		go func() { ended <- c.Deliver(context.Background(), to("a.example"), first) }()
		<-arrived
		ctx, cancel := context.WithCancel(context.Background())
		waits := make(chan error)
		go func() { waits <- c.Deliver(ctx, to("a.example"), second) }()
		for waiting := 0; waiting == 0; {
			c.pool.mu.Lock()
			waiting = len(c.pool.waiting)
			c.pool.mu.Unlock()
		}
		cancel()
		if err := <-waits; !errors.Is(err, context.Canceled) || verdict(second.out["2"].Outcomes[0]) != "4.3.0 local-error" {
			t.Errorf("%v, %q", err, verdicts(second.out["2"]))
		}
		close(release)
		if err := <-ended; err != nil || c.pool.total != 0 {
			t.Errorf("%v, %d open", err, c.pool.total)
		}
	})
}

func TestPoolOrder(t *testing.T) {
	t.Run("callers are served in the order in which they came, those who can be", func(t *testing.T) {
		p := newPool(2, 1, time.Minute)
		p.running = true
		key := func(h string) want { return want{key: poolKey{host: h}, use: func(*conn) bool { return false }} }
		ctx := t.Context()
		if c, err := p.acquire(ctx, key("a")); c != nil || err != nil {
			t.Fatal(c, err)
		}
		var order []string
		var mu sync.Mutex
		var wg sync.WaitGroup
		wait := func(h string, n int) {
			wg.Go(func() {
				p.acquire(ctx, key(h))
				mu.Lock()
				order = append(order, fmt.Sprint(h, n))
				mu.Unlock()
				p.release(h)
			})
			for queued := false; !queued; {
				p.mu.Lock()
				queued = len(p.waiting) == n
				p.mu.Unlock()
				mu.Lock()
				queued = queued || len(order) == n
				mu.Unlock()
			}
		}
		wait("a", 1) // a is full
		wait("a", 2)
		if c, err := p.acquire(ctx, key("b")); c != nil || err != nil {
			t.Fatal(c, err)
		}
		p.release("b")
		p.release("a")
		wg.Wait()
		if !slices.Equal(order, []string{"a1", "a2"}) || p.total != 0 || len(p.open) != 0 {
			t.Errorf("order %q, %d open", order, p.total)
		}
	})
}

func TestCrowd(t *testing.T) {
	t.Run("SMTP-4.5.4.1-07 many lanes, few permits, connections that die and idle out: all mail arrives", func(t *testing.T) {
		w := newWorld(t)
		w.options.MaxConnections, w.options.MaxConnectionsPerHost = 5, 2
		w.options.Timeouts.Idle = time.Millisecond
		var domains []string
		var hosts []*fakeMX
		for i := range 8 {
			m := plainMX(fmt.Sprintf("mx%d.example", i), full...)
			m.answer = func(c *fakeConn, line string) string {
				if strings.HasPrefix(line, "MAIL") && c.count > 0 && c.count%7 == 0 && c.n%2 == 0 {
					return closeIt
				}
				return ""
			}
			hosts = append(hosts, m)
			for j := range 2 {
				d := fmt.Sprintf("d%d-%d.example", i, j)
				w.host(d, 10, m, fmt.Sprintf("127.1.0.%d", i+1))
				domains = append(domains, d)
			}
		}
		c := w.running()
		var wg sync.WaitGroup
		const each = 40
		for _, d := range domains {
			s := source(t)
			for i := range each {
				s.jobs = append(s.jobs, job(fmt.Sprint(i), content, "u@"+d))
			}
			for range 3 {
				wg.Go(func() {
					if err := c.Deliver(context.Background(), to(d), s); err != nil {
						t.Errorf("%s: %v", d, err)
					}
				})
			}
			t.Cleanup(func() {
				s.check()
				for id, a := range s.out {
					if a.Outcomes[0].Err != nil {
						t.Errorf("%s of %s: %v", id, d, a.Outcomes[0].Err)
					}
				}
			})
		}
		wg.Wait()
		n := 0
		for _, m := range hosts {
			n += len(m.look().messages)
		}
		if n != each*len(domains) {
			t.Errorf("%d messages arrived", n)
		}
	})
}
