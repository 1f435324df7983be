package delivery

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/internal/resolver"
	"stsrelay/stscache"
	"stsrelay/tlsrpt"
)

func planTo(t *testing.T, c *Client, hop string, change ...func(*Query)) (Plan, *Error) {
	t.Helper()
	next, err := addr.ParseNextHop(hop)
	if err != nil {
		t.Fatal(err)
	}
	q := Query{NextHop: next}
	for _, c := range change {
		c(&q)
	}
	p, err := c.Plan(t.Context(), q)
	if err == nil {
		return p, nil
	}
	var e *Error
	if !errors.As(err, &e) || e.Stage != StagePlan {
		t.Fatalf("%v is no *Error of StagePlan", err)
	}
	return p, e
}

// planText is hosts and addresses: "mx1.example.com 192.0.2.1 192.0.2.2; ...".
func planText(p Plan) string {
	var hosts []string
	for _, h := range p.Hosts {
		s := h.Facts.MX.String()
		for _, a := range h.Addrs {
			s += " " + a.String()
		}
		if h.AddrErr != nil {
			s += " " + string(h.AddrErr.Reason)
		}
		hosts = append(hosts, strings.TrimSpace(s))
	}
	return strings.Join(hosts, "; ")
}

func byRoute(q *Query) { q.Route = true }
func lastTry(q *Query) { q.Final = true }
func only4(o *Options) { o.IPv6 = false }
func listen(s string) func(*Options) {
	return func(o *Options) { o.Own = append(o.Own, netip.MustParseAddrPort(s)) }
}

func TestPlanHosts(t *testing.T) {
	nx := fmt.Errorf("x: %w", resolver.ErrNXDomain)
	servfail := &resolver.Failed{Name: "x", Type: "y", Err: errors.New("SERVFAIL")}
	bogus := &resolver.Bogus{Name: "x", Type: "y", EDE: "signature expired"}
	tests := []struct {
		name    string
		world   planWorld
		options func(*Options)
		hop     string
		query   func(*Query)
		want    string
		fail    Reason
	}{
		{name: "SMTP-5.1-04 no MX records: the domain itself", hop: "example.com",
			world: planWorld{ips: map[string][]netip.Addr{"example.com": ips("192.0.2.1")}}, want: "example.com 192.0.2.1"},
		{name: "SMTP-5.1-08 all addresses of all hosts, in order", hop: "example.com",
			world: planWorld{mx: map[string][]resolver.MX{"example.com": mxRecords("20 b.example", "10 a.example")},
				ips: map[string][]netip.Addr{"a.example": ips("2001:db8::1", "192.0.2.2", "192.0.2.1"), "b.example": ips("192.0.2.3")}},
			want: "a.example 2001:db8::1 192.0.2.2 192.0.2.1; b.example 192.0.2.3"},
		{name: "SMTP-5.1-02 a domain that does not exist", hop: "example.com", world: planWorld{mxErr: map[string]error{"example.com": nx}}, fail: NoSuchDomain},
		{name: "SMTP-5.1-03 a lookup that fails", hop: "example.com", world: planWorld{mxErr: map[string]error{"example.com": servfail}}, fail: DNSFailed},
		{name: "DANE-2.1.2-01 bogus MX records", hop: "example.com", world: planWorld{mxErr: map[string]error{"example.com": bogus}}, fail: DNSBogus},
		{name: "NMX-3-01 a null MX: its address is not even looked for", hop: "example.com",
			world: planWorld{mx: map[string][]resolver.MX{"example.com": mxRecords("0 .")}, ips: map[string][]netip.Addr{"example.com": ips("192.0.2.1")}}, fail: NullMX},
		{name: "NMX-3-02 a null MX beside another", hop: "example.com",
			world: planWorld{mx: map[string][]resolver.MX{"example.com": mxRecords("0 .", "10 m.example")}, ips: map[string][]netip.Addr{"m.example": ips("192.0.2.1")}}, want: "m.example 192.0.2.1"},
		{name: "SMTP-5.1-05 no MX host has an address, the domain has", hop: "example.com",
			world: planWorld{mx: map[string][]resolver.MX{"example.com": mxRecords("10 a.example")}, ips: map[string][]netip.Addr{"example.com": ips("192.0.2.1")}},
			want:  "a.example no-address", fail: NoAddress},
		{name: "SMTP-5.1-11 every answer is definitive", hop: "example.com",
			world: planWorld{mx: map[string][]resolver.MX{"example.com": mxRecords("10 a.example", "20 b.example")}, ipErr: map[string]error{"a.example": nx}},
			want:  "a.example no-address; b.example no-address", fail: NoAddress},
		{name: "SMTP-5.1-11 one answer is doubtful: the first", hop: "example.com",
			world: planWorld{mx: map[string][]resolver.MX{"example.com": mxRecords("10 a.example", "20 b.example")}, ipErr: map[string]error{"a.example": servfail}},
			want:  "a.example dns-failed; b.example no-address", fail: DNSFailed},
		{name: "SMTP-5.1-11 one answer is doubtful: the last", hop: "example.com",
			world: planWorld{mx: map[string][]resolver.MX{"example.com": mxRecords("10 a.example", "20 b.example")}, ipErr: map[string]error{"b.example": bogus}},
			want:  "a.example no-address; b.example dnssec-bogus", fail: DNSBogus},
		{name: "DANE-2.1.2-02 a host without address does not harm the others", hop: "example.com",
			world: planWorld{mx: map[string][]resolver.MX{"example.com": mxRecords("10 a.example", "20 b.example")}, ipErr: map[string]error{"a.example": servfail},
				ips: map[string][]netip.Addr{"b.example": ips("192.0.2.1")}}, want: "a.example dns-failed; b.example 192.0.2.1"},
		{name: "the guard: DNS leads to a private network", hop: "example.com",
			world: planWorld{mx: map[string][]resolver.MX{"example.com": mxRecords("10 a.example")}, ips: map[string][]netip.Addr{"a.example": ips("10.0.0.1")}},
			want:  "a.example forbidden-address", fail: ForbiddenAddress},
		{name: "the guard: only the public addresses are used", hop: "example.com",
			world: planWorld{mx: map[string][]resolver.MX{"example.com": mxRecords("10 a.example")}, ips: map[string][]netip.Addr{"a.example": ips("127.0.0.1", "192.0.2.1", "::1")}},
			want:  "a.example 192.0.2.1"},
		{name: "the guard: a domain that the operator routes to may be private", hop: "example.com", query: byRoute,
			world: planWorld{ips: map[string][]netip.Addr{"example.com": ips("10.0.0.1")}}, want: "example.com 10.0.0.1"},
		{name: "SMTP-5.1-10 a host of a family that is switched off may come back", hop: "example.com", options: only4,
			world: planWorld{ips: map[string][]netip.Addr{"example.com": ips("2001:db8::1")}}, want: "example.com connect-failed", fail: ConnectFailed},
		{name: "SMTP-5.1-12 we are the best host", hop: "example.com", options: listen("192.0.2.1:25"),
			world: planWorld{ips: map[string][]netip.Addr{"example.com": ips("192.0.2.1")}}, fail: MailLoop},
		{name: "SMTP-5.1-12 we are a host of a family that is switched off", hop: "example.com", options: func(o *Options) { only4(o); listen("[2001:db8::1]:25")(o) },
			world: planWorld{ips: map[string][]netip.Addr{"example.com": ips("2001:db8::1", "192.0.2.1")}}, fail: MailLoop},
		{name: "SMTP-5.1-12 we are a host where the guard would not let us go", hop: "example.com", options: listen("127.0.0.1:25"),
			world: planWorld{ips: map[string][]netip.Addr{"example.com": ips("127.0.0.1")}}, fail: MailLoop},
		{name: "STS-8.4-01 SMTP-5.1-12 the list is cut before the policy is asked: better unlisted self, worse listed host", hop: "example.com", options: listen("192.0.2.9:25"),
			world: planWorld{mx: map[string][]resolver.MX{"example.com": mxRecords("10 self.elsewhere.example", "20 mx1.example.com")}, policy: map[string]stscache.Status{"example.com": policyOf(stscache.Enforce)},
				ips: map[string][]netip.Addr{"self.elsewhere.example": ips("192.0.2.9"), "mx1.example.com": ips("192.0.2.1")}}, fail: MailLoop},
		{name: "STS-3.4-04 a fixed host: no MX lookup", hop: "[gw.example]:587",
			world: planWorld{mxErr: map[string]error{"gw.example": servfail}, ips: map[string][]netip.Addr{"gw.example": ips("10.0.0.1")}}, want: "gw.example 10.0.0.1"},
		{name: "SMTP-5.1-13 a fixed host is not asked whether it is us", hop: "[gw.example]", options: listen("192.0.2.1:25"),
			world: planWorld{ips: map[string][]netip.Addr{"gw.example": ips("192.0.2.1")}}, want: "gw.example 192.0.2.1"},
		{name: "a fixed host that does not exist", hop: "[gw.example]", world: planWorld{ipErr: map[string]error{"gw.example": nx}}, want: "gw.example no-address", fail: NoAddress},
		{name: "an address literal", hop: "[192.0.2.1]", want: "192.0.2.1"},
		{name: "the guard: a recipient's address literal leads nowhere private", hop: "[127.0.0.1]", want: "forbidden-address", fail: ForbiddenAddress},
		{name: "the guard: the operator's address literal may", hop: "[127.0.0.1]:2525", query: byRoute, want: "127.0.0.1"},
	}
	for i := range tests {
		tt := &tests[i]
		t.Run(tt.name, func(t *testing.T) {
			query, options := func(*Query) {}, func(*Options) {}
			if tt.query != nil {
				query = tt.query
			}
			if tt.options != nil {
				options = tt.options
			}
			p, fail := planTo(t, tt.world.client(options), tt.hop, query)
			if planText(p) != tt.want {
				t.Errorf("got %q, want %q", planText(p), tt.want)
			}
			if (fail == nil) != (tt.fail == "") || fail != nil && fail.Reason != tt.fail {
				t.Fatalf("fails with %v, want %q", fail, tt.fail)
			}
			if fail != nil && fail.Permanent != tt.fail.Info().Permanent {
				t.Errorf("permanent is %v", fail.Permanent)
			}
		})
	}
}

func TestPlanPolicy(t *testing.T) {
	world := func() *planWorld {
		return &planWorld{
			mx:     map[string][]resolver.MX{"example.com": mxRecords("10 mx1.example.com"), "alias.example": mxRecords("10 mx1.example.com")},
			ips:    map[string][]netip.Addr{"mx1.example.com": ips("192.0.2.1"), "gw.example": ips("192.0.2.2"), "mail.example.com": ips("192.0.2.3"), "my_gw.example": ips("192.0.2.4")},
			policy: map[string]stscache.Status{"example.com": policyOf(stscache.Enforce)},
		}
	}
	tests := []struct {
		name  string
		hop   string
		query func(*Query)
		want  string // the policy that is asked for
	}{
		{"STS-1.1-01 STS-3.4-01 the domain that mail goes to is the Policy Domain", "example.com", nil, "policy example.com"},
		{"STS-3.4-01 a route to a domain asks for that domain's policy", "example.com", byRoute, "policy example.com"},
		{"STS-3.4-03 a subdomain never asks for its parent's", "mail.example.com", nil, "policy mail.example.com"},
		{"STS-1.1-01 STS-3.4-04 a fixed host is its own Policy Domain", "[gw.example]:587", nil, "policy gw.example"},
		{"STS-3.4-02 an address literal asks for none", "[192.0.2.1]", nil, ""},
		{"a host that is no domain asks for none", "[my_gw.example]", nil, ""},
		{"the last attempt looks for a newer policy", "example.com", lastTry, "newer policy example.com"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w, query := world(), func(*Query) {}
			if tt.query != nil {
				query = tt.query
			}
			p, fail := planTo(t, w.client(), tt.hop, query)
			if fail != nil {
				t.Fatal(fail)
			}
			got := strings.Join(slices.DeleteFunc(w.asked, func(q string) bool { return !strings.Contains(q, "policy") }), ", ")
			if got != tt.want {
				t.Errorf("asked for %q, want %q", got, tt.want)
			}
			if _, name, _ := strings.Cut(tt.want, "policy "); p.Domain.String() != name {
				t.Errorf("Policy Domain is %q", p.Domain)
			}
		})
	}
	t.Run("each host is decided about, for each demand anew", func(t *testing.T) {
		p, _ := planTo(t, world().client(), "example.com")
		if d := p.Hosts[0].Decide(Default); d.Need != verified || d.Facts.MX != listedMX || d.Facts.Domain != exampleDomain {
			t.Errorf("%+v", d)
		}
		if d := p.Hosts[0].Decide(Require); d.Need != verified|RequireTLS {
			t.Errorf("%+v", d)
		}
		if d := p.Hosts[0].Decide(Ignore); d.Need != 0 {
			t.Errorf("%+v", d)
		}
	})
	t.Run("STS-4.1-01 the name in the MX record is matched even where the policy names what it is an alias of", func(t *testing.T) {
		w := world()
		w.mx["example.com"] = mxRecords("10 mx.elsewhere.example")
		w.ips["mx.elsewhere.example"] = ips("192.0.2.1")
		p, _ := planTo(t, w.client(), "example.com")
		if d := p.Hosts[0].Decide(Default); skipReason(d) != MXNotListed {
			t.Errorf("%+v", d)
		}
	})
	t.Run("floor, override, rules and DNSSEC reach the facts", func(t *testing.T) {
		w := world()
		w.secure = true
		p, _ := planTo(t, w.client(func(o *Options) { o.Rules.Audit = true }), "example.com", func(q *Query) { q.Floor, q.Override.DANE = TLS, true })
		f := p.Hosts[0].Facts
		if f.Floor != TLS || !f.Override.DANE || !f.Rules.Audit || !f.MXSecure || f.Direct || p.Hosts[0].Preference != 10 {
			t.Errorf("%+v", p.Hosts[0])
		}
	})
	for _, hop := range []string{"mail.example.com", "[gw.example]", "[192.0.2.1]"} {
		t.Run("no MX record leads to "+hop, func(t *testing.T) {
			if p, _ := planTo(t, world().client(), hop); !p.Hosts[0].Facts.Direct {
				t.Errorf("%+v", p.Hosts[0].Facts)
			}
		})
	}
	t.Run("hosts and policy are looked up at once", func(t *testing.T) {
		w := world()
		var both sync.WaitGroup
		both.Add(2)
		w.enter = func(question string) {
			if question == "MX example.com" || question == "policy example.com" {
				both.Done()
				both.Wait() // each waits for the other: in sequence they would for ever
			}
		}
		if _, fail := planTo(t, w.client(), "example.com"); fail != nil {
			t.Error(fail)
		}
	})
	t.Run("SMTP-5.1-17 odd names are told, cleaned", func(t *testing.T) {
		w := world()
		w.mx["example.com"] = append(mxRecords("10 mx1.example.com"), resolver.MX{Preference: 5, Name: "a\x1b\nb"})
		p, _ := planTo(t, w.client(), "example.com")
		if planText(p) != "mx1.example.com 192.0.2.1" || !slices.Equal(p.Odd, []string{"a b"}) {
			t.Errorf("%q, odd %q", planText(p), p.Odd)
		}
	})
	t.Run("no next hop is our own fault", func(t *testing.T) {
		w := world()
		_, err := w.client().Plan(t.Context(), Query{})
		if e := (*Error)(nil); !errors.As(err, &e) || e.Reason != LocalError {
			t.Error(err)
		}
	})
}

func TestPlanSaysWhichHostHasNoAddress(t *testing.T) {
	tests := map[string]struct {
		mx   []resolver.MX
		want string
	}{
		"one host":  {mxRecords("10 a.example"), "a.example has no address"},
		"two hosts": {mxRecords("10 a.example", "20 b.example"), "none of the MX hosts of example.com has an address"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := &planWorld{mx: map[string][]resolver.MX{"example.com": tt.mx}}
			if _, fail := planTo(t, w.client(), "example.com"); fail == nil || fail.Text != tt.want {
				t.Errorf("got %v, want %q", fail, tt.want)
			}
		})
	}
}

func TestPlanFetchResult(t *testing.T) {
	w := &planWorld{ips: map[string][]netip.Addr{"example.com": ips("192.0.2.1")}, policy: map[string]stscache.Status{"example.com": {Err: stscache.ErrFetch}}}
	t.Run("RPT-4.3-15 a failed fetch is told once, with the Plan", func(t *testing.T) {
		p, _ := planTo(t, w.client(), "example.com")
		if p.FetchResult == nil || p.FetchResult.Failures[0].Result != tlsrpt.STSPolicyFetchError {
			t.Errorf("%+v", p.FetchResult)
		}
	})
	t.Run("a failed fetch is told though no host can be found now", func(t *testing.T) {
		w := &planWorld{mxErr: map[string]error{"example.com": &resolver.Failed{}}, policy: w.policy}
		p, fail := planTo(t, w.client(), "example.com")
		if p.FetchResult == nil || fail == nil {
			t.Errorf("%+v, %v", p.FetchResult, fail)
		}
	})
	t.Run("a fetch that we broke off accuses nobody", func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		stop()
		p, _ := w.client().Plan(ctx, Query{NextHop: addr.DomainHop(exampleDomain)})
		if p.FetchResult != nil {
			t.Errorf("%+v", p.FetchResult)
		}
	})
	t.Run("NMX-3-01 where no mail can go nobody waits for a policy", func(t *testing.T) {
		w := &planWorld{mx: map[string][]resolver.MX{"example.com": mxRecords("0 .")}}
		c := w.client(func(o *Options) { o.Policies = endlessPolicies{} })
		p, fail := planTo(t, c, "example.com")
		if fail == nil || fail.Reason != NullMX || p.FetchResult != nil {
			t.Errorf("%v, %+v", fail, p.FetchResult)
		}
	})
}

// endlessPolicies answer when nobody waits any more.
type endlessPolicies struct{}

func (endlessPolicies) Lookup(ctx context.Context, _ addr.Domain) stscache.Status {
	<-ctx.Done()
	return stscache.Status{Err: stscache.ErrFetch}
}

func (p endlessPolicies) Refresh(ctx context.Context, d addr.Domain) stscache.Status {
	return p.Lookup(ctx, d)
}

func TestInGrace(t *testing.T) {
	down := fmt.Errorf("%w: SERVFAIL", stscache.ErrLookup)
	policy := policyOf(stscache.Testing).Policy
	tests := []struct {
		name   string
		status stscache.Status
		grace  time.Duration
		want   bool
	}{
		{"STS-3.1-16 discovery failed just now", stscache.Status{Err: down, Since: noon}, 10 * time.Minute, true},
		{"STS-3.1-16 discovery failed almost as long ago as the grace", stscache.Status{Err: down, Since: noon.Add(-10*time.Minute + 1)}, 10 * time.Minute, true},
		{"STS-3.1-16 discovery failed as long ago as the grace", stscache.Status{Err: down, Since: noon.Add(-10 * time.Minute)}, 10 * time.Minute, false},
		{"STS-3.1-16 no grace at all", stscache.Status{Err: down, Since: noon}, 0, false},
		{"a fault of our own, which has no beginning", stscache.Status{Err: down}, 10 * time.Minute, true},
		{"a fault of our own, and no grace", stscache.Status{Err: down}, 0, true},
		{"STS-3.1-16 a policy is in force", stscache.Status{Err: down, Since: noon, Policy: policy}, 10 * time.Minute, false},
		{"another failure is no doubt about the record", stscache.Status{Err: stscache.ErrFetch, Since: noon}, 10 * time.Minute, false},
		{"no failure", stscache.Status{Since: noon}, 10 * time.Minute, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := inGrace(tt.status, tt.grace, noon); got != tt.want {
				t.Error(got)
			}
		})
	}
	t.Run("STS-3.1-16 the Plan knows it", func(t *testing.T) {
		w := &planWorld{ips: map[string][]netip.Addr{"example.com": ips("192.0.2.1")}, policy: map[string]stscache.Status{"example.com": {Err: down, Since: time.Now()}}}
		p, _ := planTo(t, w.client(), "example.com")
		if d := p.Hosts[0].Decide(Default); skipReason(d) != DiscoveryFailed {
			t.Errorf("%+v", d)
		}
		p, _ = planTo(t, w.client(func(o *Options) { o.DiscoveryFailureGrace = 0 }), "example.com")
		if d := p.Hosts[0].Decide(Default); d.Skip != nil {
			t.Errorf("%+v", d)
		}
	})
}

func TestPolicyText(t *testing.T) {
	tests := []struct {
		name  string
		facts Facts
		want  string
	}{
		{"STS-5.1-06 enforce", facts(enforce), "sts:enforce id=20261101"},
		{"STS-5.1-06 testing", facts(testingMode), "sts:testing id=20261101"},
		{"a cached policy without record", facts(enforce, func(f *Facts) { f.STS.ID = "" }), "sts:enforce"},
		{"mode none", facts(noneMode), "none"},
		{"no policy", facts(), "none"},
		{"discovery failed", facts(lookupFailed), "sts:unknown"},
		{"discovery failed, a policy of mode none is in force", facts(noneMode, lookupFailed), "none"},
		{"an override", facts(enforce, overrideSTS), "sts:enforce id=20261101 overridden"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := Plan{Status: tt.facts.STS, query: Query{Override: tt.facts.Override}}
			if got := p.PolicyText(); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestPlanOverride(t *testing.T) {
	w := &planWorld{mx: map[string][]resolver.MX{"a.example": mxRecords("10 mx.a.example")}}
	for name, tt := range map[string]struct {
		until time.Time
		holds bool
	}{"without an end": {time.Time{}, true}, "before its end": {time.Now().Add(time.Hour), true}, "after its end": {time.Now().Add(-time.Second), false}} {
		t.Run(name, func(t *testing.T) {
			o := Override{STS: true, DANE: true, Reason: "x", Until: tt.until}
			p, _ := planTo(t, w.client(), "a.example", func(q *Query) { q.Override = o })
			if got := p.Hosts[0].Facts.Override; (got == o) != tt.holds || (got == Override{}) == tt.holds {
				t.Errorf("the host is planned with %+v", got)
			}
		})
	}
}
