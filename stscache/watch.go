package stscache

import (
	"context"
	"time"

	"stsrelay/internal/addr"
)

// The pace at which a watched domain is looked at: that of its record's TTL,
// within bounds.
const (
	watchMin = 30 * time.Second
	watchMax = time.Hour
	watchers = 8 // looks at once

	watchPause = time.Second // at least, between two passes through all that is watched
)

// A watch is a domain that mail waits for.
type watch struct {
	next time.Time
	seen *Status // last; nil: nothing yet
}

// Watch says that mail begins (or ends) to wait for domain's policy to change.
// It does not block.
func (c *Cache) Watch(domain addr.Domain, on bool) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !on {
		delete(c.watched, domain)
		return
	}
	if c.watched[domain] != nil {
		return
	}
	w := &watch{next: now.Add(watchMin)}
	if k, ok := c.memory.Peek(domain); c.discoveries.Contains(domain) && !(ok && k.live(now)) {
		w.seen = &Status{Err: ErrLookup} // it waits for the end of doubt
	}
	c.watched[domain] = w
	c.stir()
}

// stir has the loop look at its list.
func (c *Cache) stir() {
	select {
	case c.looks <- struct{}{}:
	default:
	}
}

// tell tells those who watch a domain that s is news: other than what was seen
// last, or than was while nothing was seen. A nil was is other than everything.
func (c *Cache) tell(domain addr.Domain, was *Status, s Status) {
	c.mu.Lock()
	w := c.watched[domain]
	if w == nil {
		c.mu.Unlock()
		return
	}
	if was != nil && w.seen != nil {
		was = w.seen
	}
	w.seen = &s
	c.mu.Unlock()
	if was == nil || !same(*was, s) {
		c.o.Changed(domain)
	}
}

func (c *Cache) watchLoop(ctx context.Context) {
	slots := make(chan struct{}, watchers)
	for ctx.Err() == nil {
		due, next := c.dueLooks(time.Now())
		for _, d := range due {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			c.mu.Lock()
			c.background(func() {
				defer func() { <-slots }()
				c.look(ctx, d)
			})
			c.mu.Unlock()
		}
		wait(ctx, watchPause, nil)
		wait(ctx, next-watchPause, c.looks)
	}
}

// wait waits for a time, or less when something happens.
func wait(ctx context.Context, d time.Duration, something <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-something:
	case <-timer.C:
	}
}

// dueLooks lists the domains to look at now, and how long there is none other.
func (c *Cache) dueLooks(now time.Time) (due []addr.Domain, next time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	next = watchMax
	for d, w := range c.watched {
		if !w.next.After(now) {
			due = append(due, d)
			w.next = now.Add(watchMax) // until look knows better
			continue
		}
		next = min(next, w.next.Sub(now))
	}
	return due, next
}

// look sees whether a domain's policy is another one.
func (c *Cache) look(ctx context.Context, domain addr.Domain) {
	pace := watchMax
	s := c.status(ctx, domain, func(ctx context.Context, name string) (answer answerTXT, err error) {
		answer, err = c.o.Resolver.TXT(ctx, name)
		pace = time.Until(answer.Expires)
		return answer, err
	})
	if ctx.Err() != nil {
		return
	}
	c.mu.Lock()
	if w := c.watched[domain]; w != nil {
		w.next = time.Now().Add(min(max(pace, watchMin), watchMax))
		c.stir()
	}
	c.mu.Unlock()
	c.tell(domain, &s, s) // at the first look there is nothing to compare with
}
