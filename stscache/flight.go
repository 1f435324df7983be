package stscache

import (
	"context"
	"errors"
	"fmt"
	"time"

	"stsrelay/internal/addr"
)

// An errand is a fetch to be made.
type errand struct {
	domain addr.Domain
	id     string // that the record had before (ledger STS-3.3-18)
	renew  bool   // ahead of expiry, whatever is kept; no use of the policy
}

// A flight is a fetch that several callers wait for.
type flight struct {
	id     string
	done   chan struct{}
	status Status
}

// Why a fetch was not made, or not to its end: no fault of the policy host.
var (
	errCrowded = errors.New("too many policies are being fetched at once")
	errEnding  = errors.New("the policy cache is ending")
)

// fetchShared fetches the policy, or waits for the fetch that is under way. One
// that followed upon another id may bring an older file: then there is a second.
func (c *Cache) fetchShared(ctx context.Context, j errand) Status {
	s, id := c.join(ctx, j)
	if id != j.id && ctx.Err() == nil {
		s, _ = c.join(ctx, j)
	}
	return s
}

// join takes part in a flight, and says for which id it was. The fetch outlives
// a caller that goes away: others wait for it too.
func (c *Cache) join(ctx context.Context, j errand) (Status, string) {
	c.mu.Lock()
	f := c.flights[j.domain]
	if f == nil {
		f = &flight{id: j.id, done: make(chan struct{})}
		c.flights[j.domain] = f
		c.background(func() { c.fly(ctx, f, j) })
	}
	c.mu.Unlock()
	select {
	case <-f.done:
		return f.status, f.id
	case <-ctx.Done():
		return c.doubt(context.WithoutCancel(ctx), j.domain, context.Cause(ctx)), j.id
	}
}

func (c *Cache) fly(ctx context.Context, f *flight, j errand) {
	defer close(f.done)
	ctx, cancel := c.detached(ctx)
	defer cancel()
	f.status = c.fetchOnce(ctx, j)
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.flights, j.domain)
}

// fetchOnce fetches, unless a fetch that has ended in the meantime is as good.
func (c *Cache) fetchOnce(ctx context.Context, j errand) Status {
	if k, err := c.load(ctx, j.domain); err == nil && !j.renew {
		now := time.Now()
		if st := next(k, j.id, nil, now); !st.fetch {
			return k.status(st.err, now)
		}
	}
	return c.fetch(ctx, j)
}

// detached is ctx without the caller's end, but with that of Run.
func (c *Cache) detached(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	select {
	case <-c.ended:
		cancel(errEnding)
	default:
		go func() {
			select {
			case <-c.ended:
				cancel(errEnding)
			case <-ctx.Done():
			}
		}()
	}
	return ctx, func() { cancel(nil) }
}

// background runs f in a goroutine that the end of Run waits for. The caller
// holds mu.
func (c *Cache) background(f func()) {
	if c.closed {
		go f() // ends at once; nobody waits for it but its callers
		return
	}
	c.running.Go(f)
}

// fetch asks the policy host, and keeps what came of it.
func (c *Cache) fetch(ctx context.Context, j errand) Status {
	crowded := time.NewTimer(c.o.FetchLimit)
	defer crowded.Stop()
	keeping := context.WithoutCancel(ctx) // what the policy host said is written down, whoever ends
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-crowded.C:
		return c.doubt(keeping, j.domain, errCrowded)
	case <-ctx.Done():
		return c.doubt(keeping, j.domain, context.Cause(ctx))
	}
	var f file
	body, err := c.fetcher.fetch(ctx, j.domain)
	if err == nil {
		f, err = read(body)
	}
	switch {
	case err == nil:
		return c.fetched(keeping, j, f)
	case ctx.Err() != nil: // we broke it off
		return c.doubt(keeping, j.domain, context.Cause(ctx))
	}
	return c.failed(keeping, j, err)
}

// doubt is the answer when we could not ask: never "no policy", and no failure
// of the domain.
func (c *Cache) doubt(ctx context.Context, domain addr.Domain, why error) Status {
	k, err := c.load(ctx, domain)
	if err != nil {
		k = &kept{}
	}
	return k.status(fmt.Errorf("%w: %w", ErrLookup, why), time.Now())
}

// A file is a policy file, as served and as parsed.
type file struct {
	body   []byte
	lines  []string
	policy *Policy
}

func read(body []byte) (file, error) {
	p, lines, err := ParsePolicy(body)
	return file{body, lines, p}, err
}

// fetched keeps a policy, durably before it is relied on; whole, also when it is
// weaker than what ruled before (ledger STS-3.3-17, STS-3.3-21).
func (c *Cache) fetched(ctx context.Context, j errand, f file) Status {
	now := time.Now().Round(0) // by the wall clock, as it is stored
	before, k, _ := c.update(ctx, j.domain, true, func(e *Entry) {
		used := now
		if j.renew && e.Body != nil {
			used = e.Used
		}
		*e = Entry{Domain: j.domain, Body: f.body, ID: j.id, Fetched: now, Used: used}
	})
	was, s := before.status(nil, now), k.status(nil, now)
	if f.policy.MaxAge == 0 { // it governs those who fetched it (ledger STS-3.2-10)
		s = Status{Policy: f.policy, ID: j.id, Lines: f.lines, Fetched: now, Expires: now}
	}
	if before.policy != nil && before.policy.MaxAge == 0 {
		was.Policy = before.policy
	}
	c.o.Log.Info().Str("domain", j.domain.String()).Str("mode", string(f.policy.Mode)).Str("id", j.id).
		Float64("max_age", f.policy.MaxAge.Seconds()).Msg("MTA-STS policy fetched")
	c.tell(j.domain, &was, s)
	return s
}

// failed remembers a failed fetch. A live policy goes on ruling (RFC 8461,
// Section 3.3; ledger STS-3.3-12, STS-3.2-20).
func (c *Cache) failed(ctx context.Context, j errand, cause error) Status {
	now := time.Now().Round(0)
	_, k, fault := c.update(ctx, j.domain, false, func(e *Entry) {
		e.FailedID, e.FailedAt, e.Failure = j.id, now, clip(cause.Error(), maxFailure)
		e.Failures++
	})
	if fault != nil { // a policy may rule that cannot be read
		return Status{Err: unreadable(fault)}
	}
	c.alert(j.domain, k, now)
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
