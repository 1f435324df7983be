package stscache

import (
	"context"
	"errors"
	"fmt"
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
	c.remember(domain, k)
	return k, nil
}

var errUnreadable = errors.New("reading the policy cache")

// unreadable is a fault of the store as an error of Status: not to know what is
// kept is no leave to deliver in the clear.
func unreadable(fault error) error {
	return fmt.Errorf("%w: %w: %w", ErrLookup, errUnreadable, fault)
}

// remember puts into memory what is small enough (ledger STS-10.3-02).
func (c *Cache) remember(domain addr.Domain, k *kept) {
	if k.cost() > inMemoryCost {
		c.memory.Remove(domain)
		return
	}
	c.memory.Add(domain, k)
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
// it, it rules from memory and is written later. An error says that what is kept
// cannot be read, and stays as it is: only a change that is blind, one that
// replaces the whole, is made all the same.
func (c *Cache) update(ctx context.Context, domain addr.Domain, blind bool, change func(*Entry)) (before, after *kept, err error) {
	defer c.lock(domain).Unlock()
	e, err := c.entry(ctx, domain)
	if err != nil {
		c.o.Log.Error().Err(err).Str("domain", domain.String()).Msg("what is known of a domain's MTA-STS policy cannot be read")
		k, ok := c.memory.Peek(domain)
		switch {
		case ok:
			e = k.entry(domain)
		case blind:
			e = Entry{Domain: domain}
		default:
			return nil, nil, err
		}
	}
	before = keep(e)
	change(&e)
	after = keep(e)
	err = nil
	if e.Body != nil || e.Failures > 0 { // else there is nothing to keep
		err = c.o.Store.PutPolicy(ctx, e)
	}
	c.mu.Lock()
	c.setAside(e, err)
	now := time.Now()
	c.count(before.mode(now), -1)
	c.count(after.mode(now), 1)
	c.mu.Unlock()
	c.remember(domain, after)
	if err != nil {
		c.o.Log.Error().Err(err).Str("domain", domain.String()).
			Msg("an MTA-STS policy cannot be stored; it rules from memory, and is written when the store can again")
	}
	return before, after, nil
}

// setAside notes how writing an entry went. The caller holds mu.
func (c *Cache) setAside(e Entry, fault error) {
	delete(c.unsaved, e.Domain)
	if fault == nil || len(c.unsaved) >= maxUnsaved {
		return
	}
	c.unsaved[e.Domain] = e
	select {
	case c.faults <- struct{}{}:
	default:
	}
}

// forget removes what is kept of a domain, if that has no meaning any more: it
// may have become another since the caller looked.
func (c *Cache) forget(ctx context.Context, domain addr.Domain, meaningless func(*kept) bool) {
	defer c.lock(domain).Unlock()
	e, err := c.entry(ctx, domain)
	k := keep(e)
	if err == nil && !meaningless(k) {
		return
	}
	if err == nil {
		err = c.remove(ctx, domain, k)
	}
	if err != nil {
		c.o.Log.Warn().Err(err).Str("domain", domain.String()).Msg("an expired policy cannot be removed from the store")
	}
}

// remove removes what is kept of a domain, which is k. The caller holds the
// domain's lock.
func (c *Cache) remove(ctx context.Context, domain addr.Domain, k *kept) error {
	if err := c.o.Store.DeletePolicy(ctx, domain); err != nil {
		return err
	}
	c.mu.Lock()
	delete(c.unsaved, domain)
	c.count(k.mode(time.Now()), -1)
	c.mu.Unlock()
	c.memory.Remove(domain)
	return nil
}

// use notes that a policy is used, to a day's accuracy.
func (c *Cache) use(ctx context.Context, domain addr.Domain, k *kept, now time.Time) {
	if k.policy == nil || since(k.used, now) < usedAccuracy {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.noting[domain] {
		return
	}
	c.noting[domain] = true
	c.background(func() {
		_, _, _ = c.update(context.WithoutCancel(ctx), domain, false, func(e *Entry) { // a fault is logged there
			if e.Body != nil { // else it was purged
				e.Used = now.Round(0)
			}
		})
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.noting, domain)
	})
}

// saveUnsaved writes what the store could not take before, until it fails again.
func (c *Cache) saveUnsaved(ctx context.Context) {
	c.mu.Lock()
	var list []addr.Domain
	for d := range c.unsaved {
		list = append(list, d)
	}
	c.mu.Unlock()
	for _, d := range list {
		_, _, _ = c.update(ctx, d, false, func(*Entry) {}) // it is in memory, so it can be read
		c.mu.Lock()
		_, again := c.unsaved[d]
		c.mu.Unlock()
		if again {
			return
		}
	}
}

// count counts policies in force. The caller holds mu.
func (c *Cache) count(m Mode, by int) {
	if m != "" {
		c.modes[m] = max(0, c.modes[m]+by)
	}
}
