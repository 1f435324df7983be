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
)

// A watch is a domain that mail waits for.
type watch struct {
	next time.Time
	seen *Status // nil: nothing yet
}

// Watch says that mail begins (or ends) to wait for domain's policy to change.
// It does not block.
func (c *Cache) Watch(domain addr.Domain, on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !on {
		delete(c.watched, domain)
		return
	}
	if c.watched[domain] == nil {
		c.watched[domain] = &watch{next: time.Now().Add(watchMin)}
		select {
		case c.looks <- struct{}{}:
		default:
		}
	}
}

// changed tells those who watch a domain.
func (c *Cache) changed(domain addr.Domain) {
	c.mu.Lock()
	on := c.watched[domain] != nil
	c.mu.Unlock()
	if on {
		c.o.Changed(domain)
	}
}

func (c *Cache) watchLoop(ctx context.Context) {
	slots := make(chan struct{}, watchers)
	for {
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
		timer := time.NewTimer(next)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-c.looks:
		case <-timer.C:
		}
		timer.Stop()
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

// look sees whether a domain's policy is another one. A new id leads to a fetch,
// which tells of it; what ends without one is told here.
func (c *Cache) look(ctx context.Context, domain addr.Domain) {
	pace := watchMax
	s := c.status(ctx, domain, func(ctx context.Context, name string) (answer answerTXT, err error) {
		answer, err = c.o.Resolver.TXT(ctx, name)
		pace = time.Until(answer.Expires)
		return answer, err
	})
	c.mu.Lock()
	w := c.watched[domain]
	if w == nil {
		c.mu.Unlock()
		return
	}
	w.next = time.Now().Add(min(max(pace, watchMin), watchMax))
	news := w.seen != nil && !same(*w.seen, s)
	w.seen = &s
	c.mu.Unlock()
	select {
	case c.looks <- struct{}{}:
	default:
	}
	if news {
		c.o.Changed(domain)
	}
}
