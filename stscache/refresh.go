package stscache

import (
	"context"
	"slices"
	"time"

	"stsrelay/internal/addr"
)

const (
	scanEvery    = time.Hour
	saveAgain    = time.Minute         // after the store could not write
	refreshAfter = 24 * time.Hour      // ledger STS-3.3-13
	unusedAfter  = 30 * 24 * time.Hour // not refreshed any more (ledger STS-3.3-14)
	usedAccuracy = 24 * time.Hour
	keepFailures = 24 * time.Hour // of domains without a policy
	refreshers   = 8              // fetches of the scan at once
	maxEntries   = 1_000_000      // domains that are kept (ledger STS-10.3-02)
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
		c.rest(ctx, tick.C)
	}
	c.mu.Lock()
	c.closed = true
	close(c.ended)
	c.mu.Unlock()
	c.running.Wait()
	c.saveUnsaved(context.WithoutCancel(ctx)) // the last chance
	return nil
}

// rest waits for the next scan. Meanwhile it writes what the store could not
// take.
func (c *Cache) rest(ctx context.Context, end <-chan time.Time) {
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-end:
			return
		case <-c.faults:
			if again == nil {
				again = time.After(saveAgain)
			}
		case <-again:
			again = nil
			c.saveUnsaved(ctx) // what fails anew has us come back
		}
	}
}

// scan goes through all that is kept: it refreshes what is used and due, drops
// what has no meaning any more, and counts.
func (c *Cache) scan(ctx context.Context) {
	c.saveUnsaved(ctx)
	slots := make(chan struct{}, refreshers)
	modes := map[Mode]int{}
	total := 0
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
		total++
		switch plan(k, e.Domain, now) {
		case drop:
			total--
			c.forget(ctx, e.Domain, func(k *kept) bool { return plan(k, e.Domain, time.Now()) == drop })
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
	if total > c.limit {
		c.evict(ctx, total-c.limit)
	}
}

// evict drops n entries: those that cost no protection first, and in each class
// what was used longest ago. That a policy in force goes is never silent (ledger
// STS-10.3-02).
func (c *Cache) evict(ctx context.Context, n int) {
	type entry struct {
		domain addr.Domain
		used   time.Time
	}
	ranks := []Mode{"", None, Testing, Enforce} // "" while only failures are kept
	classes := make([][]entry, len(ranks))
	now := time.Now()
	for e, err := range c.o.Store.Policies(ctx) {
		if err != nil {
			return // the scan tells of it
		}
		class := slices.Index(ranks, keep(e).mode(now))
		classes[class] = append(classes[class], entry{e.Domain, e.Used})
	}
	for class, list := range classes {
		slices.SortFunc(list, func(a, b entry) int { return a.used.Compare(b.used) })
		list = list[:min(n, len(list))]
		for _, e := range list {
			c.forget(ctx, e.domain, func(k *kept) bool { return k.mode(now) == ranks[class] })
		}
		if n -= len(list); class > 1 && len(list) > 0 {
			c.o.Log.Error().Int("policies", len(list)).Int("limit", c.limit).
				Msg("more policies are in force than are kept: those used longest ago were dropped, and are discovered anew when mail goes there")
		}
	}
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
		if since(k.failedAt, now) > keepFailures {
			return drop
		}
		return leave
	case !k.live(now):
		return drop
	case now.Sub(k.used) > unusedAfter:
		return leave
	}
	age := min(refreshAfter, k.policy.MaxAge/2)
	age -= age / 10 * time.Duration(spread(domain)%100) / 100
	if since(k.fetched, now) < age || k.failures > 0 && since(k.failedAt, now) < scanEvery/2 {
		return leave
	}
	return refresh
}

// renew fetches the policy whatever the record says (ledger STS-3.3-14), but for
// one of mode none that has no record any more (ledger STS-8.3-02).
func (c *Cache) renew(ctx context.Context, domain addr.Domain) {
	k, err := c.load(ctx, domain)
	if err != nil || plan(k, domain, time.Now()) != refresh {
		return // the next lookup tells; or a lookup was faster than the scan
	}
	id, err := discover(ctx, domain, c.o.Resolver.TXT)
	if next(k, id, err, time.Now()).forget {
		c.forget(ctx, domain, func(k *kept) bool { return next(k, id, err, time.Now()).forget })
		return
	}
	if err != nil {
		id = k.id
	}
	c.fetchShared(ctx, errand{domain, id, true})
}

// Purge forgets what is kept of domain; the next Lookup discovers it anew
// (ledger STS-10.3-01).
func (c *Cache) Purge(ctx context.Context, domain addr.Domain) error {
	c.discoveries.Remove(domain)
	if err := c.purge(ctx, domain); err != nil {
		return err
	}
	c.tell(domain, nil, Status{})
	return nil
}

func (c *Cache) purge(ctx context.Context, domain addr.Domain) error {
	defer c.lock(domain).Unlock()
	e, err := c.entry(ctx, domain)
	if err != nil { // that it cannot be read is a reason more
		e = Entry{}
	}
	return c.remove(ctx, domain, keep(e))
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
