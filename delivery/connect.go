package delivery

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"stsrelay/tlsrpt"
)

// maxAddresses is how many addresses of one host are tried in one attempt
// (ledger SMTP-5.1-09).
const maxAddresses = 5

// replan makes the lane's course anew. A policy that could not be fetched is
// counted with the task that asked for it (ledger RPT-4.3-15).
func (l *lane) replan(ctx context.Context, t *task) *Error {
	d := l.destination
	p, err := l.Plan(ctx, Query{NextHop: d.NextHop, Route: d.Route, Floor: d.Floor, Override: d.Override, Final: t.Final})
	if p.FetchResult != nil && !t.Quiet && !p.Domain.IsZero() {
		t.reports = append(t.reports, tlsrpt.Session{Start: time.Now(), Domain: p.Domain, Policies: []tlsrpt.PolicyResult{*p.FetchResult}})
	}
	if err != nil {
		if e := (*Error)(nil); errors.As(err, &e) {
			return e
		}
		return ioError(ctx, StagePlan, err)
	}
	l.course = &course{Plan: p, made: time.Now(), final: t.Final, sites: map[siteKey]*site{}}
	return nil
}

// site decides about host i for one Demand, once.
func (c *course) site(i int, d Demand) *site {
	k := siteKey{i, d}
	s := c.sites[k]
	if s == nil {
		h := c.Hosts[i]
		s = &site{index: i, decision: h.Decide(d), policy: c.policyFor(h.Facts), addrErr: h.AddrErr}
		if _, ok := c.NextHop.Domain(); !ok {
			s.route = c.NextHop
		}
		for _, ip := range h.Addrs {
			s.addrs = append(s.addrs, netip.AddrPortFrom(ip, c.NextHop.Port()))
		}
		c.sites[k] = s
	}
	return s
}

// connect returns a connection to s that may carry t, or nil when there is
// none, which it has noted for who.
func (l *lane) connect(ctx context.Context, t *task, s *site, who []int) *conn {
	switch mx := s.decision.Facts.MX; {
	case s.decision.Skip != nil:
		if !s.skipped {
			s.skipped = !t.Quiet
			l.book(t, s, nil, s.decision.SkipResults())
		}
		t.note(who, Outcome{Err: s.decision.Skip, MX: mx, Policy: s.policy})
		return nil
	case len(s.addrs) == 0:
		if s.addrErr != nil {
			t.note(who, Outcome{Err: s.addrErr, MX: mx, Policy: s.policy})
		}
		return nil
	}
	c, err := l.permit(ctx, t, s)
	switch {
	case err != nil:
		t.note(who, Outcome{Err: ioError(ctx, StagePlan, err), Policy: s.policy})
		return nil
	case c != nil:
		l.book(t, s, c, s.decision.Judge(c.evidence).Results)
		return c
	}
	fail := func(a netip.AddrPort, e *Error) {
		t.note(who, Outcome{Err: e, MX: e.MX, Addr: a, Policy: s.policy})
	}
	addrs := l.reach.order(l.destination.NextHop, s.addrs)
	w := walk{Client: l.Client, host: s.key().host, left: addrs[:min(len(addrs), maxAddresses)],
		failed: func(a netip.AddrPort, err error) { fail(a, s.unconnected(ctx, a, err)) }}
	for to := w.next(ctx); to != nil; to = w.next(ctx) {
		c, err, last := l.open(ctx, t, s, to)
		if c != nil {
			return c
		}
		fail(to.addr, err)
		if last {
			break
		}
	}
	l.pool.release(w.host)
	return nil
}

// permit returns a kept connection that may carry t, or nil: leave to open one.
func (l *lane) permit(ctx context.Context, t *task, s *site) (*conn, error) {
	w := want{key: s.key(), use: func(c *conn) bool {
		return !t.fresh && (!s.only4 || !is6(c.addr)) && s.decision.Judge(c.evidence).Proceed
	}}
	for {
		c, err := l.pool.acquire(ctx, w)
		if c == nil || err != nil {
			return nil, err
		}
		if c.silent() {
			c.attach(ctx)
			return c, nil
		}
		c.close()
		l.pool.release(w.key.host)
	}
}

// open makes of a line a connection that Judge allows for s. Its error
// says whether it is the last word on this host: what TLS showed at one address
// holds for all, and the next host is asked (ledger SMTP-5.1-14).
func (l *lane) open(ctx context.Context, t *task, s *site, to *line) (c *conn, err *Error, last bool) {
	c, err = l.greet(ctx, s, to, false)
	if c == nil {
		return nil, err, false
	}
	v := s.decision.Judge(c.evidence)
	l.book(t, s, c, v.Results)
	switch {
	case err != nil:
		c.quit()
		return nil, err, false
	case v.Proceed && !c.broken:
		return c, nil, false
	case v.Redial || v.Proceed: // ledger STLS-4-04
		c.close()
		if c, err = l.visit(ctx, s, to.addr, true); err == nil {
			return c, nil, false
		}
		if c != nil {
			c.quit()
		}
		return nil, err, false
	}
	c.quit()
	e := *v.Err
	e.MX, e.Addr = c.host, to.addr.String()
	return nil, &e, true
}

// book adds the session that c means for the destination's Policy Domain, once
// for each connection (ledger RPT-4.2-03). A nil c is a host that was skipped.
// A redial in the clear is no session of its own: the one before it has told.
func (l *lane) book(t *task, s *site, c *conn, results []tlsrpt.PolicyResult) {
	domain := s.decision.Facts.Domain
	if c != nil {
		c.quiet = t.Quiet
	}
	if t.Quiet || len(results) == 0 || domain.IsZero() {
		return
	}
	session := tlsrpt.Session{Start: time.Now(), Domain: domain, Policies: results, MX: s.decision.Facts.MX.String()}
	if c != nil {
		if c.inClear || slices.Contains(c.booked, domain) {
			return
		}
		c.booked = append(c.booked, domain)
		session.HELO, session.Receiver, session.Sender = c.name, c.addr.Addr(), c.local
		if len(c.booked) == 1 {
			session.Start = c.start
		}
	}
	t.reports = append(t.reports, session)
}
