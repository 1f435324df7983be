package stscache

import (
	"context"
	"hash/fnv"
	"time"

	"stsrelay/internal/addr"
)

const (
	scanEvery    = time.Hour
	refreshAfter = 24 * time.Hour      // ledger STS-3.3-13
	unusedAfter  = 30 * 24 * time.Hour // not refreshed any more (ledger STS-3.3-14)
	usedAccuracy = 24 * time.Hour
	keepFailures = 24 * time.Hour // of domains without a policy
	refreshers   = 8              // fetches of the scan at once
)

// Run refreshes policies ahead of their expiry and watches domains until ctx
// ends, and then waits for the fetches under way.
func (c *Cache) Run(ctx context.Context) error {
	c.mu.Lock()
	c.running.Go(func() { c.watchLoop(ctx) })
	c.mu.Unlock()
	tick := time.NewTicker(scanEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		c.scan(ctx)
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	c.mu.Lock()
	c.closed = true
	close(c.ended)
	c.mu.Unlock()
	c.running.Wait()
	return nil
}

// scan goes through all that is kept: it refreshes what is used and due, drops
// what has no meaning any more, and counts.
func (c *Cache) scan(ctx context.Context) {
	c.saveUnsaved(ctx)
	slots := make(chan struct{}, refreshers)
	modes := map[Mode]int{}
	now := time.Now()
	for e, err := range c.o.Store.Policies(ctx) {
		if err != nil {
			if ctx.Err() == nil {
				c.o.Log.Error().Err(err).Msg("the policies in the store cannot be read; they are not refreshed for now")
			}
			return
		}
		k := keep(e)
		if m := k.mode(now); m != "" {
			modes[m]++
		}
		switch plan(k, e.Domain, now) {
		case drop:
			c.forget(ctx, e.Domain)
		case refresh:
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			c.mu.Lock()
			c.background(func() {
				defer func() { <-slots }()
				c.renew(ctx, e.Domain)
			})
			c.mu.Unlock()
		}
	}
	c.mu.Lock()
	c.modes = modes
	c.mu.Unlock()
}

// A chore is what a scan does with an entry.
type chore int

const (
	leave chore = iota
	refresh
	drop
)

// plan says what a scan does with what is kept of a domain. Refreshing is
// spread, so that policies that were fetched together are not for ever.
func plan(k *kept, domain addr.Domain, now time.Time) chore {
	switch {
	case k.policy == nil:
		if now.Sub(k.failedAt) > keepFailures {
			return drop
		}
		return leave
	case !k.live(now):
		return drop
	case now.Sub(k.used) > unusedAfter:
		return leave
	}
	age := min(refreshAfter, k.policy.MaxAge/2)
	age -= age / 10 * time.Duration(spread(domain)) / 100
	since := k.fetched
	if k.failures > 0 && k.failedAt.After(since) {
		if now.Sub(k.failedAt) < scanEvery/2 {
			return leave
		}
	}
	if now.Sub(since) >= age {
		return refresh
	}
	return leave
}

// spread is a number from 0 to 99 that each domain has for itself.
func spread(domain addr.Domain) uint32 {
	h := fnv.New32a()
	h.Write([]byte(domain.String()))
	return h.Sum32() % 100
}

// renew fetches the policy whatever the record says (ledger STS-3.3-14).
func (c *Cache) renew(ctx context.Context, domain addr.Domain) {
	k, err := c.load(ctx, domain)
	if err != nil {
		return // told by the next lookup
	}
	id, err := discover(ctx, domain, c.o.Resolver.TXT)
	if err != nil {
		id = k.id
	}
	c.fetchShared(ctx, domain, id)
}

// saveUnsaved writes what the store could not take before.
func (c *Cache) saveUnsaved(ctx context.Context) {
	c.mu.Lock()
	list := make(map[addr.Domain]*kept, len(c.unsaved))
	for d, k := range c.unsaved {
		list[d] = k
	}
	c.mu.Unlock()
	for d, k := range list {
		e := Entry{Domain: d, Body: k.unsaved, ID: k.id, Fetched: k.fetched, Used: k.used,
			FailedID: k.failedID, FailedAt: k.failedAt, Failures: k.failures, Failure: k.failure}
		if c.o.Store.PutPolicy(ctx, e) != nil {
			return // it was told when it began
		}
		c.mu.Lock()
		if c.unsaved[d] == k {
			delete(c.unsaved, d)
		}
		c.mu.Unlock()
	}
}

// use notes that a policy is used, to a day's accuracy.
func (c *Cache) use(ctx context.Context, domain addr.Domain, k *kept, now time.Time) {
	if k.policy == nil || now.Sub(k.used) < usedAccuracy {
		return
	}
	n := *k
	n.used = now
	c.memory.Add(domain, &n)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.background(func() {
		ctx := context.WithoutCancel(ctx)
		e, err := c.o.Store.Policy(ctx, domain)
		if err == nil {
			e.Used = now
			err = c.o.Store.PutPolicy(ctx, e)
		}
		if err != nil {
			c.o.Log.Warn().Err(err).Str("domain", domain.String()).Msg("the last use of a policy cannot be stored")
		}
	})
}

// forget drops what is kept of a domain.
func (c *Cache) forget(ctx context.Context, domain addr.Domain) {
	if err := c.delete(ctx, domain); err != nil {
		c.o.Log.Warn().Err(err).Str("domain", domain.String()).Msg("an expired policy cannot be removed from the store")
	}
}

func (c *Cache) delete(ctx context.Context, domain addr.Domain) error {
	if k, ok := c.memory.Peek(domain); ok {
		c.mu.Lock()
		c.count(k.mode(time.Now()), -1)
		c.mu.Unlock()
	}
	c.mu.Lock()
	delete(c.unsaved, domain)
	c.mu.Unlock()
	err := c.o.Store.DeletePolicy(ctx, domain)
	c.memory.Remove(domain)
	return err
}

// Purge forgets what is kept of domain; the next Lookup discovers it anew
// (ledger STS-10.3-01).
func (c *Cache) Purge(ctx context.Context, domain addr.Domain) error {
	c.discoveries.Remove(domain)
	if err := c.delete(ctx, domain); err != nil {
		return err
	}
	c.changed(domain)
	return nil
}

// Modes counts the policies in force by mode. It is exact once an hour.
func (c *Cache) Modes() map[Mode]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make(map[Mode]int, len(c.modes))
	for m, n := range c.modes {
		out[m] = n
	}
	return out
}
