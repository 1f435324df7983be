package stscache

import (
	"context"
	"errors"
	"iter"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/internal/resolver"

	"github.com/rs/zerolog"
)

// A pretence is DNS and a store in the time of a bubble, where no socket is.
type pretence struct {
	mu      sync.Mutex
	ttl     time.Duration
	records []string
	fault   error // of DNS
	asked   int
	entries map[addr.Domain]Entry
}

func (p *pretence) TXT(context.Context, string) (resolver.Answer[string], error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked++
	if p.fault != nil {
		return resolver.Answer[string]{Expires: time.Now()}, p.fault
	}
	return resolver.Answer[string]{Records: p.records, Expires: time.Now().Add(p.ttl)}, nil
}

func (p *pretence) FreshTXT(ctx context.Context, name string) (resolver.Answer[string], error) {
	return p.TXT(ctx, name)
}

func (p *pretence) Addresses(context.Context, addr.Host) (resolver.Addresses, error) {
	return resolver.Addresses{}, errors.New("there is no network")
}

func (p *pretence) DialContext(context.Context, string, string) (net.Conn, error) {
	return nil, errors.New("there is no network")
}

func (p *pretence) Policy(_ context.Context, d addr.Domain) (Entry, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e, ok := p.entries[d]; ok {
		return e, nil
	}
	return Entry{}, ErrNotFound
}

func (p *pretence) PutPolicy(_ context.Context, e Entry) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.entries[e.Domain] = e
	return nil
}

func (p *pretence) DeletePolicy(_ context.Context, d addr.Domain) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.entries, d)
	return nil
}

func (p *pretence) Policies(context.Context) iter.Seq2[Entry, error] {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []Entry
	for _, e := range p.entries {
		list = append(list, e)
	}
	return func(yield func(Entry, error) bool) {
		for _, e := range list {
			if !yield(e, nil) {
				return
			}
		}
	}
}

func (p *pretence) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer func() { p.asked = 0 }()
	return p.asked
}

var domain = addr.MustDomain("example.com")

// inTime runs a Cache in a bubble, over a policy of mode enforce for an hour.
func inTime(t *testing.T, name string, f func(t *testing.T, c *Cache, p *pretence, told func() int)) {
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := &pretence{ttl: 5 * time.Minute, records: []string{"v=STSv1; id=1"}, entries: map[addr.Domain]Entry{}}
			p.entries[domain] = Entry{Domain: domain, Body: []byte("version: STSv1\nmode: enforce\nmx: mx.example.com\nmax_age: 7200\n"), ID: "1", Fetched: time.Now(), Used: time.Now()}
			var mu sync.Mutex
			n := 0
			c := New(Options{Store: p, Resolver: p, Dialer: p, Log: zerolog.Nop(), Changed: func(addr.Domain) {
				mu.Lock()
				defer mu.Unlock()
				n++
			}})
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- c.Run(ctx) }()
			f(t, c, p, func() int {
				mu.Lock()
				defer mu.Unlock()
				return n
			})
			stop()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	})
}

func TestWatchTime(t *testing.T) {
	inTime(t, "a watched domain is looked at at the pace of its record's TTL", func(t *testing.T, c *Cache, p *pretence, told func() int) {
		c.Watch(domain, true)
		time.Sleep(watchMin + time.Second)
		synctest.Wait()
		if n := p.count(); n != 1 {
			t.Errorf("%d looks in the first half minute", n)
		}
		time.Sleep(20 * time.Minute)
		synctest.Wait()
		if n := p.count(); n != 4 {
			t.Errorf("%d looks in 20 minutes", n)
		}
		c.Watch(domain, false)
		time.Sleep(15 * time.Minute)
		synctest.Wait()
		if n := p.count(); n != 0 {
			t.Errorf("%d looks when nobody watches", n)
		}
	})
	inTime(t, "a TTL of nothing does not make a storm", func(t *testing.T, c *Cache, p *pretence, told func() int) {
		p.ttl = 0
		c.Watch(domain, true)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if n := p.count(); n > 20 || n < 10 {
			t.Errorf("%d looks in ten minutes", n)
		}
	})
	inTime(t, "that a policy ends is a change", func(t *testing.T, c *Cache, p *pretence, told func() int) {
		c.Watch(domain, true)
		time.Sleep(time.Hour)
		synctest.Wait()
		if told() != 0 {
			t.Fatalf("told %d times of nothing", told())
		}
		p.mu.Lock()
		p.records = nil
		p.mu.Unlock()
		time.Sleep(90 * time.Minute)
		synctest.Wait()
		if told() != 1 {
			t.Errorf("told %d times", told())
		}
	})
	inTime(t, "the end of doubt is a change, also when there is no policy", func(t *testing.T, c *Cache, p *pretence, told func() int) {
		other := addr.MustDomain("other.example")
		p.fault = errors.New("SERVFAIL")
		if s := c.Lookup(t.Context(), other); !errors.Is(s.Err, ErrLookup) {
			t.Errorf("%+v", s)
		}
		c.Watch(other, true)
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if told() != 0 {
			t.Errorf("told %d times while nothing can be looked up", told())
		}
		p.mu.Lock()
		p.fault, p.records = nil, nil
		p.mu.Unlock()
		time.Sleep(time.Minute)
		synctest.Wait()
		if told() != 1 {
			t.Errorf("told %d times", told())
		}
	})
	inTime(t, "the end of doubt within the first half minute too", func(t *testing.T, c *Cache, p *pretence, told func() int) {
		other := addr.MustDomain("other.example")
		p.fault = errors.New("SERVFAIL")
		c.Lookup(t.Context(), other)
		c.Watch(other, true)
		p.mu.Lock()
		p.fault, p.records = nil, nil
		p.mu.Unlock()
		time.Sleep(time.Minute)
		synctest.Wait()
		if told() != 1 {
			t.Errorf("told %d times", told())
		}
	})
	inTime(t, "that DNS fails is no change of a live policy", func(t *testing.T, c *Cache, p *pretence, told func() int) {
		p.fault = errors.New("SERVFAIL")
		c.Lookup(t.Context(), domain)
		c.Watch(domain, true)
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if told() != 0 {
			t.Errorf("told %d times", told())
		}
	})
	inTime(t, "a domain that was never looked at ends the same way", func(t *testing.T, c *Cache, p *pretence, told func() int) {
		c.Watch(domain, true)
		c.Watch(domain, false)
		c.Watch(domain, false)
	})
}

// More entries than there is room for (ledger STS-10.3-02).
func TestSTS_10_3_02_Bounds(t *testing.T) {
	var log logLines
	p := &pretence{entries: map[addr.Domain]Entry{}}
	c := New(Options{Store: p, Resolver: p, Dialer: p, Log: zerolog.New(&log)})
	c.limit = 100
	now := time.Now()
	put := func(name, mode string, used time.Duration) {
		e := Entry{Domain: addr.MustDomain(name), ID: "1", Fetched: now, Used: now.Add(-used)}
		if mode == "" {
			e.Failures, e.FailedAt, e.Failure = 1, now, ErrFetch.Error()
		} else {
			e.Body = []byte("version: STSv1\nmode: " + mode + "\nmx: mx.example.com\nmax_age: 864000\n")
		}
		p.entries[e.Domain] = e
	}
	for i := range 80 {
		put("enforce"+string(rune('a'+i%26))+string(rune('a'+i/26))+".example", "enforce", time.Hour)
	}
	for i := range 10_000 {
		put("junk"+string(rune('a'+i%26))+string(rune('a'+i/26%26))+string(rune('a'+i/676))+".example", "", 0)
	}
	kinds := func() (enforce, others int) {
		for _, e := range p.entries {
			if keep(e).mode(now) == Enforce {
				enforce++
			} else {
				others++
			}
		}
		return enforce, others
	}
	c.scan(t.Context())
	if enforce, others := kinds(); enforce != 80 || others != 20 {
		t.Errorf("%d enforce, %d others are left", enforce, others)
	}
	if n := log.count("more policies are in force"); n != 0 {
		t.Errorf("an alert about throw-away domains")
	}
	put("old.example", "enforce", 48*time.Hour)
	for i := range 40 {
		put("more"+string(rune('a'+i%26))+string(rune('a'+i/26))+".example", "enforce", 0)
	}
	c.scan(t.Context())
	if enforce, others := kinds(); enforce != 100 || others != 0 {
		t.Errorf("%d enforce, %d others are left", enforce, others)
	}
	if _, ok := p.entries[addr.MustDomain("old.example")]; ok {
		t.Error("what was used longest ago is left")
	}
	if n := log.count("more policies are in force"); n != 1 {
		t.Errorf("%d alerts", n)
	}
	for i := range 2 * inMemory {
		_, _ = c.load(t.Context(), addr.MustDomain("d"+string(rune('a'+i%26))+string(rune('a'+i/26%26))+string(rune('a'+i/676%26))+string(rune('a'+i/17576))+".example"))
	}
	if n := c.memory.Len(); n > inMemory {
		t.Errorf("%d entries in memory", n)
	}
}

type logLines struct{ list []string }

func (l *logLines) Write(p []byte) (int, error) {
	l.list = append(l.list, string(p))
	return len(p), nil
}

func (l *logLines) count(text string) (n int) {
	for _, s := range l.list {
		if strings.Contains(s, text) {
			n++
		}
	}
	return n
}
