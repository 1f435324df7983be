package stscache

import (
	"context"
	"errors"
	"hash/fnv"
	"sync"
	"time"

	"stsrelay/internal/addr"
)

// load returns what is kept of a domain, from memory or from the store.
func (c *Cache) load(ctx context.Context, domain addr.Domain) (*kept, error) {
	if k, ok := c.memory.Get(domain); ok {
		return k, nil
	}
	defer c.lock(domain).Unlock() // what a writer is about to put into memory is newer
	if k, ok := c.memory.Get(domain); ok {
		return k, nil
	}
	e, err := c.entry(ctx, domain)
	if err != nil {
		return nil, err
	}
	k := keep(e)
	c.memory.Add(domain, k)
	return k, nil
}

func (c *Cache) lock(domain addr.Domain) *sync.Mutex {
	m := &c.writes[int(spread(domain))%len(c.writes)]
	m.Lock()
	return m
}

// spread is a number that each domain has for itself.
func spread(domain addr.Domain) uint32 {
	h := fnv.New32a()
	h.Write([]byte(domain.String()))
	return h.Sum32()
}

// entry returns what is to be found in the store. The caller holds the domain's
// lock.
func (c *Cache) entry(ctx context.Context, domain addr.Domain) (Entry, error) {
	c.mu.Lock()
	e, ok := c.unsaved[domain]
	c.mu.Unlock()
	if ok {
		return e, nil
	}
	e, err := c.o.Store.Policy(ctx, domain)
	if errors.Is(err, ErrNotFound) {
		return Entry{Domain: domain}, nil
	}
	return e, err
}

// update changes what is kept of a domain, durably. While the store cannot take
// it, it rules from memory and is written later.
func (c *Cache) update(ctx context.Context, domain addr.Domain, change func(*Entry)) (before, after *kept) {
	defer c.lock(domain).Unlock()
	e, err := c.entry(ctx, domain)
	if err != nil {
		c.o.Log.Error().Err(err).Str("domain", domain.String()).Msg("what is known of a domain's MTA-STS policy cannot be read")
		e = Entry{Domain: domain}
	}
	before = keep(e)
	change(&e)
	after = keep(e)
	if err == nil || e.Body != nil { // else what cannot be read would be overwritten with less
		err = c.o.Store.PutPolicy(ctx, e)
	}
	now := time.Now()
	c.mu.Lock()
	delete(c.unsaved, domain)
	if err != nil {
		c.unsaved[domain] = e
	}
	c.count(before.mode(now), -1)
	c.count(after.mode(now), 1)
	c.mu.Unlock()
	c.memory.Add(domain, after)
	if err != nil {
		c.o.Log.Error().Err(err).Str("domain", domain.String()).
			Msg("an MTA-STS policy cannot be stored; it rules from memory, and is written when the store can again")
	}
	return before, after
}

// remove forgets what is kept of a domain.
func (c *Cache) remove(ctx context.Context, domain addr.Domain) error {
	defer c.lock(domain).Unlock()
	e, err := c.entry(ctx, domain)
	if err == nil {
		err = c.o.Store.DeletePolicy(ctx, domain)
	}
	if err != nil {
		return err
	}
	c.mu.Lock()
	delete(c.unsaved, domain)
	c.count(keep(e).mode(time.Now()), -1)
	c.mu.Unlock()
	c.memory.Remove(domain)
	return nil
}

// forget removes what has no meaning any more.
func (c *Cache) forget(ctx context.Context, domain addr.Domain) {
	if err := c.remove(ctx, domain); err != nil {
		c.o.Log.Warn().Err(err).Str("domain", domain.String()).Msg("an expired policy cannot be removed from the store")
	}
}

// use notes that a policy is used, to a day's accuracy.
func (c *Cache) use(ctx context.Context, domain addr.Domain, k *kept, now time.Time) {
	if k.policy == nil || now.Sub(k.used) < usedAccuracy {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.noting[domain] {
		return
	}
	c.noting[domain] = true
	c.background(func() {
		c.update(context.WithoutCancel(ctx), domain, func(e *Entry) { e.Used = now.Round(0) })
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.noting, domain)
	})
}

// saveUnsaved writes what the store could not take before.
func (c *Cache) saveUnsaved(ctx context.Context) {
	c.mu.Lock()
	var list []addr.Domain
	for d := range c.unsaved {
		list = append(list, d)
	}
	c.mu.Unlock()
	for _, d := range list {
		c.update(ctx, d, func(*Entry) {})
	}
}

// count counts policies in force. The caller holds mu.
func (c *Cache) count(m Mode, by int) {
	if m != "" {
		c.modes[m] = max(0, c.modes[m]+by)
	}
}
