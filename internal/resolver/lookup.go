package resolver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// A question is what is asked: a name in lower case with a trailing dot, and a
// type. The class is always IN.
type question struct {
	name  string
	qtype uint16
}

func (q question) String() string { return bare(q.name) + " " + dns.TypeToString[q.qtype] }

// A key is a question, and whether our own cache may answer it. Fresh lookups
// share a flight with each other only.
type key struct {
	question
	fresh bool
}

func ask(name string, qtype uint16) key {
	if name == "" {
		return key{question: question{qtype: qtype}}
	}
	return key{question: question{name: lower(dns.Fqdn(name)), qtype: qtype}}
}

// lookup answers k from the cache, from a lookup that is under way, or by one
// of its own. read turns a record of the asked type into a T and says false
// when it cannot be one; the lookup then fails.
func lookup[T any](ctx context.Context, c *Client, k key, read func(dns.RR) (T, bool)) (Answer[T], error) {
	if k.name == "" {
		return Answer[T]{}, c.failed(k.question, errors.New("no name to ask for"))
	}
	if len(k.name) > 254 && !strings.Contains(k.name, `\`) {
		// 255 octets on the wire are the limit (RFC 1035, Section 2.3.4).
		return Answer[T]{Canonical: bare(k.name)}, noSuch(k.question, "too long to exist")
	}
	e, ok := c.cache.get(k, time.Now())
	if !ok {
		var err error
		e, err = c.flights.do(ctx, k, c.options.Budget, func(ctx context.Context) entry {
			e := find(ctx, c, k.question, read)
			c.cache.put(k.question, e, time.Now())
			return e
		})
		if err != nil {
			return Answer[T]{}, c.failed(k.question, err)
		}
	}
	a := e.answer.(Answer[T])
	a.Records = slices.Clone(a.Records)
	return a, e.err
}

// find makes the cache entry for a question by asking.
func find[T any](ctx context.Context, c *Client, q question, read func(dns.RR) (T, bool)) entry {
	ch, err := c.resolve(ctx, q)
	a := Answer[T]{Canonical: bare(ch.name), Links: ch.links, Secure: ch.secure, EDE: ch.ede, Expires: ch.expires}
	for _, rr := range ch.records {
		v, ok := read(rr)
		if !ok {
			err = c.failed(q, errMalformed)
		}
		a.Records = append(a.Records, v)
	}
	if err != nil && !errors.Is(err, ErrNXDomain) {
		a.Records, a.Secure = nil, false
		if !errors.Is(ctx.Err(), context.Canceled) { // else nobody waits, and nothing was found out
			a.Expires = time.Now().Add(c.options.FailureTTL)
		}
		return entry{answer: a, err: err, expires: a.Expires, cost: entryCost, failure: true}
	}
	return entry{answer: a, err: err, expires: a.Expires, cost: entryCost + ch.size}
}

// resolve asks for q, and on along CNAMEs that the server did not follow
// itself (ledger DANE-2.1.3-01). An error anywhere fails the whole.
func (c *Client) resolve(ctx context.Context, q question) (chain, error) {
	ch := newChain(q)
	select {
	case c.permits <- struct{}{}:
		defer func() { <-c.permits }()
	case <-ctx.Done():
		return ch, c.failed(q, fmt.Errorf("too many lookups are waiting for DNS: %w", context.Cause(ctx)))
	}
	for {
		m, secure, err := c.exchange(ctx, question{ch.name, q.qtype})
		if err != nil {
			return ch, err
		}
		more, err := ch.add(m, secure, time.Now())
		switch {
		case errors.Is(err, ErrNXDomain):
			return ch, err
		case err != nil:
			return ch, c.failed(q, err)
		case !more:
			return ch, nil
		}
	}
}

func (c *Client) failed(q question, err error) error {
	return &Failed{Name: bare(q.name), Type: dns.TypeToString[q.qtype], Err: err}
}

func noSuch(q question, why string) error {
	return fmt.Errorf("looking up %s: %w (%s)", q, ErrNXDomain, why)
}

// bare is a name without its trailing dot; the root stays ".".
func bare(name string) string {
	if name == "." {
		return name
	}
	return strings.TrimSuffix(name, ".")
}

// lower folds ASCII letters only, as DNS does (RFC 4343).
func lower(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}
