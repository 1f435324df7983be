// Package check answers what an enforcing sender would do with mail to a
// domain, and what its owner can do about it. It decides nothing: it asks
// delivery for the plan, and Decide and Judge for every verdict.
package check

import (
	"context"
	"crypto/x509"
	"errors"
	"net/netip"
	"sync"
	"time"

	"stsrelay/delivery"
	"stsrelay/internal/addr"
	"stsrelay/internal/resolver"
	"stsrelay/stscache"
	"stsrelay/tlsrpt"
)

// A Sender is what is asked of delivery. *delivery.Client is one.
type Sender interface {
	Plan(ctx context.Context, q delivery.Query) (delivery.Plan, error)
	Probe(ctx context.Context, p delivery.Plan, d delivery.Demand) []delivery.Finding
}

// Resolver looks up what is shown and not decided by.
type Resolver interface {
	TXT(ctx context.Context, name string) (resolver.Answer[string], error)
}

// A Checker checks domains. Its methods may be called concurrently.
type Checker struct {
	Sender   Sender
	Resolver Resolver
	NoSMTP   bool // no mail server is contacted

	Validating bool // DNS answers are validated: without that there is no DANE
}

// A Report is what was found out about one domain.
type Report struct {
	Domain   addr.Domain
	At       time.Time
	Record   TXT // at _mta-sts
	TLSRPT   TXT // at _smtp._tls
	RUAs     []string
	Status   stscache.Status
	PlanErr  *delivery.Error // why no host could be planned for
	Hosts    []Host
	Verdict  Verdict
	Findings []Finding
	Unknown  []string // what could not be found out, and why

	Validating bool // see Checker
}

// A TXT is a lookup as its owner sees it.
type TXT struct {
	Name    string
	Records []string
	Err     error
}

// A Host is one MX host.
type Host struct {
	delivery.PlannedHost
	Decision  delivery.Decision
	Addresses []Address
	Verdict   Verdict
	Later     *delivery.Error // in testing mode: why it would be refused under enforce
}

// An Address is what one address of a host showed.
type Address struct {
	delivery.Finding
	Leaf  *x509.Certificate // nil: none was shown
	Later delivery.Verdict  // by a policy in testing mode, were it enforce
}

// A Verdict is what an enforcing sender does.
type Verdict string

const (
	Deliver Verdict = "deliver" // of a domain: through every host
	Partial Verdict = "partial" // of a domain: through some host
	Refuse  Verdict = "refuse"
	NoMail  Verdict = "no-mail" // the domain takes none, or is none
	Unknown Verdict = "unknown" // could not be found out
)

// A Finding is something the owner should know. Its ID is stable.
type Finding struct {
	ID       string
	Severity stscache.Severity
	Subject  string // domain or host
	Text     string
	Fix      string
	RFC      string
	Result   tlsrpt.Result // what senders report it as, "" if they do not
}

// Check looks at one domain as a sender does, without ever saying MAIL.
func (c *Checker) Check(ctx context.Context, domain addr.Domain) Report {
	r := Report{Domain: domain, At: time.Now(), Validating: c.Validating}
	r.Record.Name, r.TLSRPT.Name = "_mta-sts."+domain.String(), "_smtp._tls."+domain.String()
	var lookups sync.WaitGroup
	for _, t := range []*TXT{&r.Record, &r.TLSRPT} {
		lookups.Go(func() {
			answer, err := c.Resolver.TXT(ctx, t.Name)
			if t.Records = answer.Records; !errors.Is(err, resolver.ErrNXDomain) {
				t.Err = err
			}
		})
	}
	plan, err := c.Sender.Plan(ctx, delivery.Query{NextHop: addr.DomainHop(domain)})
	if err != nil {
		errors.As(err, &r.PlanErr)
	}
	r.Status = plan.Status
	for _, h := range plan.Hosts {
		r.Hosts = append(r.Hosts, Host{PlannedHost: h, Decision: h.Decide(delivery.Default)})
	}
	if !c.NoSMTP && ctx.Err() == nil {
		for _, f := range c.Sender.Probe(ctx, plan, delivery.Default) {
			r.Hosts[f.Host].Addresses = append(r.Hosts[f.Host].Addresses, Address{Finding: f})
		}
	}
	lookups.Wait()
	r.evaluate(c.NoSMTP)
	return r
}

// enforced is a host as it would be under a policy that is now in testing mode.
func enforced(h delivery.PlannedHost) delivery.Decision {
	p := *h.Facts.STS.Policy
	p.Mode = stscache.Enforce
	h.Facts.STS.Policy = &p
	return h.Decide(delivery.Default)
}

// A Trial is a policy that is not published yet, or another mode of the one
// that is: what if it were in force?
type Trial struct {
	delivery.Policies
	Policy *stscache.Policy // nil: the published one
	Mode   stscache.Mode    // "": its own
	Domain addr.Domain      // that Policy is for; zero: every domain
}

// Lookup implements delivery.Policies.
func (t Trial) Lookup(ctx context.Context, domain addr.Domain) stscache.Status {
	var st stscache.Status
	if t.Policy != nil && (t.Domain.IsZero() || t.Domain == domain) {
		st.Policy, st.Fetched = t.Policy, time.Now()
		st.Expires = st.Fetched.Add(t.Policy.MaxAge)
	} else {
		st = t.Policies.Lookup(ctx, domain)
	}
	if t.Mode != "" && st.Policy != nil {
		p := *st.Policy
		p.Mode, st.Policy = t.Mode, &p
	}
	return st
}

// A Bench adds mail servers that are not in DNS yet.
type Bench struct {
	delivery.Resolver
	Servers []Server
}

// A Server is a mail server to be tried as an MX host.
type Server struct {
	Host addr.Host
	Addr netip.AddrPort
}

// MX implements delivery.Resolver: servers that no record names come last.
func (b Bench) MX(ctx context.Context, domain addr.Domain) (resolver.Answer[resolver.MX], error) {
	a, err := b.Resolver.MX(ctx, domain)
	if err != nil && !errors.Is(err, resolver.ErrNXDomain) {
		return a, err
	}
	var last uint16
	named := map[addr.Host]bool{}
	for _, r := range a.Records {
		last, named[r.Host] = max(last, r.Preference), true
	}
	for _, s := range b.Servers {
		if !named[s.Host] {
			named[s.Host] = true
			a.Records = append(a.Records, resolver.MX{Preference: last, Host: s.Host, Name: s.Host.String()})
		}
	}
	return a, nil
}

// Addresses implements delivery.Resolver.
func (b Bench) Addresses(ctx context.Context, host addr.Host) (resolver.Addresses, error) {
	var a resolver.Addresses
	for _, s := range b.Servers {
		if s.Host == host {
			a.Records = append(a.Records, s.Addr.Addr())
		}
	}
	if len(a.Records) > 0 {
		a.Canonical = host.String()
		return a, nil
	}
	return b.Resolver.Addresses(ctx, host)
}
