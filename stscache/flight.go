package stscache

import (
	"context"
	"errors"
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
// fetch outlives a caller that goes away: others wait for it too.
func (c *Cache) fetchShared(ctx context.Context, domain addr.Domain, id string) Status {
	c.mu.Lock()
	f := c.flights[domain]
	if f == nil {
		f = &flight{done: make(chan struct{})}
		c.flights[domain] = f
		c.background(func() {
			defer close(f.done)
			ctx, cancel := c.detached(ctx)
			defer cancel()
			f.status = c.fetch(ctx, domain, id)
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
	now := time.Now()
	k := &kept{policy: p, lines: lines, id: id, fetched: now, used: now}
	before := c.replace(ctx, domain, k, body)
	after := k.status(nil, now)
	if p.MaxAge == 0 { // it governs those who fetched it (ledger STS-3.2-10)
		after.Policy, after.ID, after.Lines, after.Fetched, after.Expires = p, id, lines, now, now
	}
	c.o.Log.Info().Str("domain", domain.String()).Str("mode", string(p.Mode)).Str("id", id).
		Float64("max_age", p.MaxAge.Seconds()).Msg("MTA-STS policy fetched")
	if !same(before, after) {
		c.changed(domain)
	}
	return after
}

// replace keeps a fetched policy, durably before it is relied on, and returns
// what ruled before it (ledger STS-3.3-17, STS-3.3-21).
func (c *Cache) replace(ctx context.Context, domain addr.Domain, k *kept, body []byte) (before Status) {
	old, err := c.load(ctx, domain)
	if err != nil {
		old = &kept{}
	}
	if old.policy != nil && !old.used.IsZero() {
		k.used = old.used
	}
	e := Entry{Domain: domain, Body: body, ID: k.id, Fetched: k.fetched, Used: k.used}
	c.save(ctx, domain, old, k, e)
	return old.status(nil, k.fetched)
}

// save writes an entry. While the store cannot take it, it rules from memory and
// is written later.
func (c *Cache) save(ctx context.Context, domain addr.Domain, old, k *kept, e Entry) {
	err := c.o.Store.PutPolicy(ctx, e)
	c.mu.Lock()
	if err != nil {
		k.unsaved = e.Body
		c.unsaved[domain] = k
	} else {
		delete(c.unsaved, domain)
	}
	now := time.Now()
	c.count(old.mode(now), -1)
	c.count(k.mode(now), 1)
	c.mu.Unlock()
	c.memory.Add(domain, k)
	if err != nil {
		c.o.Log.Error().Err(err).Str("domain", domain.String()).
			Msg("an MTA-STS policy cannot be stored; it rules from memory, and is written when the store can again")
	}
}

func (c *Cache) count(m Mode, by int) {
	if m != "" {
		c.modes[m] = max(0, c.modes[m]+by)
	}
}

// failed remembers a failed fetch. A live policy goes on ruling (RFC 8461,
// Section 3.3; ledger STS-3.3-12, STS-3.2-20).
func (c *Cache) failed(ctx context.Context, domain addr.Domain, id string, cause error) Status {
	now := time.Now()
	old, err := c.load(ctx, domain)
	if err != nil {
		return Status{Err: cause}
	}
	k := *old
	k.failedID, k.failedAt, k.failureKind, k.failure = id, now, cause, cause.Error()
	k.failures++
	e, err := c.o.Store.Policy(ctx, domain)
	if errors.Is(err, ErrNotFound) {
		e, err = Entry{Domain: domain, Body: old.unsaved, ID: old.id, Fetched: old.fetched, Used: old.used}, nil
	}
	if err == nil {
		e.FailedID, e.FailedAt, e.Failures, e.Failure = k.failedID, k.failedAt, k.failures, k.failure
		c.save(ctx, domain, old, &k, e)
	}
	c.alert(domain, &k, now)
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
