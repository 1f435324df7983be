package stscache

import (
	"context"
	"fmt"
	"time"

	"stsrelay/internal/addr"
)

// A flight is a fetch that several callers wait for.
type flight struct {
	done   chan struct{}
	status Status
}

// fetchShared fetches the policy, or waits for the fetch that is under way. The
// fetch outlives a caller that goes away: others wait for it too. Without force
// a fetch that has ended in the meantime is as good.
func (c *Cache) fetchShared(ctx context.Context, domain addr.Domain, id string, force bool) Status {
	c.mu.Lock()
	f := c.flights[domain]
	if f == nil {
		f = &flight{done: make(chan struct{})}
		c.flights[domain] = f
		c.background(func() {
			defer close(f.done)
			ctx, cancel := c.detached(ctx)
			defer cancel()
			f.status = c.fetchOnce(ctx, domain, id, force)
			c.mu.Lock()
			defer c.mu.Unlock()
			delete(c.flights, domain)
		})
	}
	c.mu.Unlock()
	select {
	case <-f.done:
		return f.status
	case <-ctx.Done():
		return Status{Err: fmt.Errorf("%w: %w", ErrLookup, context.Cause(ctx))}
	}
}

func (c *Cache) fetchOnce(ctx context.Context, domain addr.Domain, id string, force bool) Status {
	if k, err := c.load(ctx, domain); err == nil && !force {
		now := time.Now()
		if st := next(k, id, nil, now); !st.fetch {
			return k.status(st.err, now)
		}
	}
	return c.fetch(ctx, domain, id)
}

// detached is ctx without the caller's end, but with that of Run.
func (c *Cache) detached(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		select {
		case <-c.ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// background runs f in a goroutine that the end of Run waits for. The caller
// holds mu.
func (c *Cache) background(f func()) {
	if c.closed {
		go f() // bounded by FetchLimit; nobody waits for it but its callers
		return
	}
	c.running.Go(f)
}

// fetch asks the policy host, with the id that the record had before (ledger
// STS-3.3-18), and keeps what came of it.
func (c *Cache) fetch(ctx context.Context, domain addr.Domain, id string) Status {
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-time.After(c.o.FetchLimit): // as if the host had not answered
		err := fmt.Errorf("%w: too many policies are being fetched", ErrFetch)
		return c.failed(ctx, domain, id, err)
	}
	body, err := c.fetcher.fetch(ctx, domain)
	if err != nil {
		return c.failed(ctx, domain, id, err)
	}
	p, lines, err := ParsePolicy(body)
	if err != nil {
		return c.failed(ctx, domain, id, err)
	}
	return c.fetched(ctx, domain, id, body, p, lines)
}

// fetched keeps a policy, durably before it is relied on; whole, also when it is
// weaker than what ruled before (ledger STS-3.3-17, STS-3.3-21).
func (c *Cache) fetched(ctx context.Context, domain addr.Domain, id string, body []byte, p *Policy, lines []string) Status {
	now := time.Now().Round(0) // by the wall clock, as it is stored
	before, k := c.update(ctx, domain, func(e *Entry) {
		used := e.Used
		if e.Body == nil {
			used = now
		}
		*e = Entry{Domain: domain, Body: body, ID: id, Fetched: now, Used: used}
	})
	s := k.status(nil, now)
	if p.MaxAge == 0 { // it governs those who fetched it (ledger STS-3.2-10)
		s.Policy, s.ID, s.Lines, s.Fetched, s.Expires = p, id, lines, now, now
	}
	c.o.Log.Info().Str("domain", domain.String()).Str("mode", string(p.Mode)).Str("id", id).
		Float64("max_age", p.MaxAge.Seconds()).Msg("MTA-STS policy fetched")
	if !same(before.status(nil, now), s) {
		c.changed(domain)
	}
	return s
}

// failed remembers a failed fetch. A live policy goes on ruling (RFC 8461,
// Section 3.3; ledger STS-3.3-12, STS-3.2-20).
func (c *Cache) failed(ctx context.Context, domain addr.Domain, id string, cause error) Status {
	now := time.Now().Round(0)
	_, k := c.update(ctx, domain, func(e *Entry) {
		e.FailedID, e.FailedAt, e.Failure = id, now, cause.Error()
		e.Failures++
	})
	c.alert(domain, k, now)
	return k.status(cause, now)
}

// alert tells the operator of a policy that cannot be renewed: the louder, the
// nearer its end (ledger STS-3.3-16).
func (c *Cache) alert(domain addr.Domain, k *kept, now time.Time) {
	ev := c.o.Log.Info()
	if k.live(now) && k.policy.Mode != None {
		ev = c.o.Log.Warn()
		if k.expires().Sub(now) < k.policy.MaxAge/2 {
			ev = c.o.Log.Error()
		}
		ev = ev.Str("mode", string(k.policy.Mode)).Time("expires", k.expires())
	}
	ev.Str("domain", domain.String()).Int("failures", k.failures).Str("why", k.failure).Msg("MTA-STS policy not fetched")
}
