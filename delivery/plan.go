package delivery

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/internal/resolver"
	"stsrelay/stscache"
	"stsrelay/tlsrpt"
)

// A Query asks for a Plan.
type Query struct {
	NextHop  addr.NextHop
	Route    bool        // NextHop is the operator's own word and not a recipient's: addresses are not guarded
	Floor    Requirement // the operator's minimum
	Override Override
	Final    bool // look for a newer policy past our caches first (ledger STS-5-04)
}

// A Plan is all that is known about a destination before any host of it is
// contacted. It serves every message of one Deliver call, whatever each
// demands.
type Plan struct {
	NextHop     addr.NextHop
	Domain      addr.Domain // the Policy Domain; zero for an address literal
	Status      stscache.Status
	Hosts       []PlannedHost        // in the order in which they are to be tried
	Odd         []string             // MX names that no host can have, cleaned; they are left out (ledger SMTP-5.1-17)
	FetchResult *tlsrpt.PolicyResult // a failed policy fetch to be counted once per attempt, nil if there was none (ledger RPT-4.3-15)

	query     Query
	canonical addr.Host // where the CNAMEs of the domain end, whose MX records these are
	expires   time.Time // when TLSA records must be looked up again; zero: there are none
}

// A PlannedHost is one MX host of a Plan.
type PlannedHost struct {
	Preference uint16 // of the MX record
	Facts      Facts  // Demand is left out: see Decide
	Addrs      []netip.Addr
	AddrErr    *Error // why there is no address to try; nil when Addrs has one
}

// Decide says what is required of the host for a message with this Demand. It
// is cheap, so one Plan serves messages of every kind.
func (h PlannedHost) Decide(demand Demand) Decision {
	h.Facts.Demand = demand
	return Decide(h.Facts)
}

// Plan looks up the hosts and the policy of a destination, both at once. Its
// error is an *Error of StagePlan and holds for every message; the Plan then
// still carries the policy, FetchResult, and the hosts if there are some. A host
// that the policy refuses is in the Plan like any other.
func (c *Client) Plan(ctx context.Context, q Query) (Plan, error) {
	if end := q.Override.Until; !end.IsZero() && !time.Now().Before(end) {
		q.Override = Override{}
	}
	p := Plan{NextHop: q.NextHop, query: q}
	p.Domain, _ = q.NextHop.PolicyDomain() // RFC 8461, Section 3.4
	inquiry, stop := context.WithCancel(ctx)
	defer stop()
	var policy sync.WaitGroup
	policy.Go(func() { p.Status = c.policy(inquiry, p.Domain, q.Final) })
	hosts, fail := c.hosts(ctx, &p)
	if fail != nil && fail.Permanent {
		stop() // no policy matters where no mail can go
	}
	tlsa := c.tlsaOf(ctx, &p, hosts)
	policy.Wait()
	if inquiry.Err() == nil { // a fetch that we broke off is not the domain's fault
		p.FetchResult = policyFetchResult(p.Domain, p.Status)
	}
	p.Hosts = c.facts(p, hosts, tlsa)
	if fail == nil {
		fail = unreachable(p)
	}
	if fail != nil {
		return p, fail
	}
	return p, nil
}

// policy asks for the policy in force. Before a message is given up, and before
// every refusal that may be final, it is looked at past our own caches (RFC
// 8461, Section 5.1; ledger STS-5-04).
func (c *Client) policy(ctx context.Context, domain addr.Domain, final bool) stscache.Status {
	switch {
	case domain.IsZero(): // an address literal has none (ledger STS-3.4-02)
		return stscache.Status{}
	case final:
		return c.options.Policies.Refresh(ctx, domain)
	}
	return c.options.Policies.Lookup(ctx, domain)
}

// A candidate is a host on its way into the Plan.
type candidate struct {
	target
	secure  bool // its MX record was
	answer  resolver.Addresses
	addrs   []netip.Addr // of answer, those to try
	addrErr *Error
}

// hosts finds the hosts of the next hop and their addresses.
func (c *Client) hosts(ctx context.Context, p *Plan) ([]candidate, *Error) {
	if ip, ok := p.query.NextHop.Literal(); ok {
		h := found{target: target{direct: true}, addrs: resolver.Addresses{Answer: resolver.Answer[netip.Addr]{Records: []netip.Addr{ip}}}}
		return []candidate{c.candidate(h, false, !p.query.Route)}, nil
	}
	if host, ok := p.query.NextHop.Host(); ok { // only the operator can name one
		all := c.addresses(ctx, []target{{host: host, direct: true}})
		return []candidate{c.candidate(all[0], false, false)}, nil
	}
	return c.mailHosts(ctx, p)
}

// mailHosts finds the hosts of a domain (RFC 5321, Section 5.1).
func (c *Client) mailHosts(ctx context.Context, p *Plan) ([]candidate, *Error) {
	domain, ok := p.query.NextHop.Domain()
	if !ok {
		return nil, NewError(StagePlan, LocalError, addr.Host{}, "there is no next hop")
	}
	answer, err := c.options.Resolver.MX(ctx, domain)
	switch {
	case errors.Is(err, resolver.ErrNXDomain): // ledger SMTP-5.1-02
		return nil, NewError(StagePlan, NoSuchDomain, addr.Host{}, domain.String()+" does not exist").because(err)
	case err != nil:
		return nil, lookupError(addr.Host{}, "the MX records of "+domain.String(), err)
	}
	list, odd, fail := targets(domain, answer.Records, rand.Shuffle)
	for _, name := range odd {
		p.Odd = append(p.Odd, tlsrpt.Clean(name))
	}
	if fail != nil {
		return nil, fail
	}
	p.canonical, _ = addr.ParseHost(answer.Canonical)
	all := c.addresses(ctx, c.reach.favour(p.NextHop, list))
	kept := cutOwn(all, c.own)
	if len(kept) == 0 {
		return nil, NewError(StagePlan, MailLoop, addr.Host{}, "the best MX host of "+domain.String()+" is this relay itself")
	}
	out := make([]candidate, len(kept))
	for i, h := range kept {
		out[i] = c.candidate(h, answer.Secure, !p.query.Route)
	}
	return out, nil
}

// addresses looks up the addresses of every target, all at once: there are at
// most hostLimit, and the search for ourselves needs each.
func (c *Client) addresses(ctx context.Context, list []target) []found {
	out := make([]found, len(list))
	var lookups sync.WaitGroup
	for i, t := range list {
		lookups.Go(func() {
			a, err := c.options.Resolver.Addresses(ctx, t.host)
			out[i] = found{target: t, addrs: a, err: err}
		})
	}
	lookups.Wait()
	return out
}

func (c *Client) candidate(h found, secure, guarded bool) candidate {
	addrs, fail := c.usable(h, guarded)
	return candidate{target: h.target, secure: secure && c.validating(), answer: h.addrs, addrs: addrs, addrErr: fail}
}

// tlsaOf looks up the TLSA records of every host that has an address to try, all
// at once.
func (c *Client) tlsaOf(ctx context.Context, p *Plan, list []candidate) []tlsaFacts {
	out := make([]tlsaFacts, len(list))
	var lookups sync.WaitGroup
	for i, h := range list {
		if h.addrErr == nil {
			lookups.Go(func() { out[i] = c.tlsa(ctx, h.host, p.NextHop.Port(), h.answer) })
		}
	}
	lookups.Wait()
	for _, f := range out {
		if !f.expires.IsZero() && (p.expires.IsZero() || f.expires.Before(p.expires)) {
			p.expires = f.expires
		}
	}
	return out
}

// facts puts together what is known of each host.
func (c *Client) facts(p Plan, list []candidate, tlsa []tlsaFacts) []PlannedHost {
	grace := inGrace(p.Status, c.options.DiscoveryFailureGrace, time.Now())
	out := make([]PlannedHost, len(list))
	for i, h := range list {
		t := tlsa[i]
		f := Facts{
			Domain: p.Domain, MX: h.host, Direct: h.direct, MXSecure: h.secure, STS: p.Status, InGrace: grace,
			TLSA: t.state, TLSABase: t.base, Records: t.records, TLSAErr: t.err, Bogus: isBogus(t.err),
			Floor: p.query.Floor, Override: p.query.Override, Rules: c.options.Rules,
		}
		if !t.base.IsZero() {
			f.Names = references(t.base, h, p)
		}
		out[i] = PlannedHost{Preference: h.preference, Addrs: h.addrs, AddrErr: h.addrErr, Facts: f}
	}
	return out
}

// inGrace reports whether discovery failed, with nothing in force, and did so
// for the first time less than grace ago: then mail waits (ledger STS-3.1-16).
// A failure without a beginning is a fault of our own, such as a store that
// cannot be read: no grace ends that.
func inGrace(st stscache.Status, grace time.Duration, now time.Time) bool {
	if st.Policy != nil || !errors.Is(st.Err, stscache.ErrLookup) {
		return false
	}
	return st.Since.IsZero() || now.Sub(st.Since) < grace
}

// unreachable says why no host of the Plan has an address to try, nil if one
// has. It is permanent only if every answer was definitive (ledger
// SMTP-5.1-11).
func unreachable(p Plan) *Error {
	var last *Error
	for _, h := range p.Hosts {
		switch {
		case h.AddrErr == nil:
			return nil
		case last == nil, last.Permanent && !h.AddrErr.Permanent:
			last = h.AddrErr
		}
	}
	if last == nil || !last.Permanent || len(p.Hosts) == 1 {
		return last
	}
	return NewError(StagePlan, NoAddress, addr.Host{}, "none of the MX hosts of "+p.Domain.String()+" has an address")
}

// PolicyText is the policy as Outcome.Policy shows it: "sts:enforce id=...",
// "sts:testing id=...", "sts:unknown" when discovery failed, or "none".
func (p Plan) PolicyText() string {
	switch st := p.Status; {
	case st.Policy != nil && st.Policy.Mode != stscache.None:
		s := "sts:" + policyText(st, " ")
		if p.query.Override.STS {
			s += " overridden"
		}
		return s
	case st.Policy == nil && errors.Is(st.Err, stscache.ErrLookup):
		return "sts:unknown"
	}
	return "none"
}

// policyFor is PolicyText and what DANE says of one host: "dane", "dane:unusable"
// or "dane:unknown", and "mx=insecure" where the MX records are not signed: what
// is verified then is the host, and not that the domain wants it (RFC 7672,
// Section 2.2.1; ledger DANE-2.2.1-06).
func (p Plan) policyFor(f Facts) string {
	var dane string
	switch f.TLSA {
	case TLSAAbsent:
		return p.PolicyText()
	case TLSAUsable:
		dane = "dane"
	case TLSAUnusable:
		dane = "dane:unusable"
	default:
		dane = "dane:unknown"
	}
	if f.Override.DANE {
		dane += " overridden"
	}
	if !f.MXSecure && !f.Direct {
		dane += " mx=insecure"
	}
	if s := p.PolicyText(); s != "none" {
		return s + " " + dane
	}
	return dane
}
