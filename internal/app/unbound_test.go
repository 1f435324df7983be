package app

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"stsrelay/delivery"
	"stsrelay/internal/addr"
	"stsrelay/internal/network"
	"stsrelay/internal/resolver"
	"stsrelay/internal/unboundtest"
	"stsrelay/stscache"
)

var digest = strings.Repeat("ab", 32)

// mailZones are domains whose MX hosts have TLSA records in every state. The
// records that cannot be had are in zones of their own, below the hosts.
func mailZones() []unboundtest.Zone {
	hosts := `
usable    A 192.0.2.1
_25._tcp.usable    TLSA 3 1 1 ` + digest + `
unusable  A 192.0.2.2
_25._tcp.unusable  TLSA 0 0 1 ` + digest + `
absent    A 192.0.2.3
failing   A 192.0.2.4
bogus     A 192.0.2.5
expired   A 192.0.2.6
alias     CNAME usable
_25._tcp.alias     TLSA 3 1 1 ` + digest + `
early     CNAME absent
_25._tcp.early     TLSA 3 1 1 ` + digest + `
long      CNAME early
skipped   CNAME spoiled
_25._tcp.skipped   TLSA 3 1 1 ` + digest + `
outside   CNAME mx.insecure.test.
_25._tcp.outside   TLSA 3 1 1 ` + digest + `
other     CNAME mx.insecure.test.
linked    A 192.0.2.7
_25._tcp.linked    CNAME _25._tcp.usable
spoiled   A 192.0.2.8
_25._tcp.spoiled   CNAME _25._tcp.mx.insecure.test.
`
	record := "@ TLSA 3 1 1 " + digest + "\n"
	return []unboundtest.Zone{
		{Name: "secure.test.", Text: hosts + `
@ MX 10 usable
@ MX 20 unusable
@ MX 30 absent
@ MX 40 failing
@ MX 50 bogus
@ MX 60 expired
@ MX 70 mx.insecure.test.
@ MX 80 alias
@ MX 90 outside
@ MX 100 other
@ MX 110 linked
@ MX 120 spoiled
@ MX 130 early
@ MX 140 long
@ MX 150 skipped
@ MX 160 alias.insecure.test.
`},
		{Name: "insecure.test.", State: unboundtest.Insecure, Text: `
@ MX 10 usable.secure.test.
mx        A 192.0.2.9
_25._tcp.mx        TLSA 3 1 1 ` + digest + `
alias     CNAME usable.secure.test.
`},
		{Name: "_25._tcp.failing.secure.test.", State: unboundtest.Failing, Text: record},
		{Name: "_25._tcp.bogus.secure.test.", State: unboundtest.Altered, Text: record},
		{Name: "_25._tcp.expired.secure.test.", State: unboundtest.Expired, Text: record},
		{Name: "bogus.test.", State: unboundtest.Altered, Text: "@ MX 10 mx\nmx A 192.0.2.10"},
	}
}

// noPolicies is a world without MTA-STS: DANE is what is looked at here.
type noPolicies struct{}

func (noPolicies) Lookup(context.Context, addr.Domain) stscache.Status {
	return stscache.Status{Err: stscache.ErrNoRecord}
}

func (n noPolicies) Refresh(ctx context.Context, d addr.Domain) stscache.Status {
	return n.Lookup(ctx, d)
}

// planner plans over a real unbound in front of mailZones.
func planner(t *testing.T) *delivery.Client {
	t.Helper()
	at := unboundtest.Serve(t, mailZones()...).Unbound(t, unboundtest.Validating)
	dns, err := resolver.New(resolver.Options{Servers: []netip.AddrPort{at}})
	if err != nil {
		t.Fatal(err)
	}
	c, err := delivery.New(delivery.Options{
		Hostname: "relay.test", Resolver: dns, Policies: noPolicies{}, Dialer: &net.Dialer{},
		Guard: network.Guard{Allow: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestUnboundPlan holds what is planned for each host of a domain against the
// signed zones that a real resolver validated.
func TestUnboundPlan(t *testing.T) {
	c := planner(t)
	plan, err := c.Plan(t.Context(), delivery.Query{NextHop: addr.DomainHop(addr.MustDomain("secure.test"))})
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, host string
		state      delivery.TLSAState
		base       string
		bogus      bool
		need       delivery.Requirement
	}{
		{name: "usable records make TLS and a match a must", host: "usable", state: delivery.TLSAUsable, base: "usable", need: delivery.TLS | delivery.DANE},
		{name: "unusable records make TLS a must", host: "unusable", state: delivery.TLSAUnusable, base: "unusable", need: delivery.TLS},
		{name: "DANE-2.1.1-04 proven absence is no error", host: "absent"},
		{name: "DANE-2.1.1-04 DANE-2.1.2-03 records whose server fails", host: "failing", state: delivery.TLSAFailed},
		{name: "DANE-2.1.2-03 records with bogus signatures", host: "bogus", state: delivery.TLSAFailed, bogus: true},
		{name: "DANE-2.1.2-03 records with expired signatures", host: "expired", state: delivery.TLSAFailed, bogus: true},
		{name: "records in an unsigned zone do not count", host: "mx.insecure.test"},
		{name: "DANE-2.2.2-06 the end of a secure alias comes first", host: "alias", state: delivery.TLSAUsable, base: "usable", need: delivery.TLS | delivery.DANE},
		{name: "DANE-2.2.2-06 the alias itself comes second", host: "early", state: delivery.TLSAUsable, base: "early", need: delivery.TLS | delivery.DANE},
		{name: "DANE-2.2.2-06 the names between never come", host: "long"},
		{name: "DANE-2.2.2-05 an insecure alias has no DANE", host: "alias.insecure.test"},
		{name: "DANE-2.1.3-03 DANE-2.2.2-05 an insecure host under a secure alias has the alias's records", host: "outside", state: delivery.TLSAUsable, base: "outside", need: delivery.TLS | delivery.DANE},
		{name: "a secure alias of an insecure host, without records", host: "other"},
		{name: "DANE-2.2.3-02 a CNAME at the TLSA name does not change the base domain", host: "linked", state: delivery.TLSAUsable, base: "linked", need: delivery.TLS | delivery.DANE},
		{name: "DANE-2.2.3-02 a CNAME at the TLSA name into an unsigned zone is no DANE", host: "spoiled"},
		{name: "DANE-2.2.3-02 the next candidate comes after a CNAME into an unsigned zone", host: "skipped", state: delivery.TLSAUsable, base: "skipped", need: delivery.TLS | delivery.DANE},
	}
	if len(plan.Hosts) != len(tests) {
		t.Fatalf("%d hosts, want %d", len(plan.Hosts), len(tests))
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			i := slices.IndexFunc(plan.Hosts, func(h delivery.PlannedHost) bool { return h.Facts.MX == inSecure(tt.host) })
			if i < 0 {
				t.Fatal("the host is not in the plan")
			}
			f := plan.Hosts[i].Facts
			if f.TLSA != tt.state || f.TLSABase != inSecure(tt.base) || f.Bogus != tt.bogus || !f.MXSecure {
				t.Errorf("%s at %q, bogus %v, MX secure %v, %v", f.TLSA, f.TLSABase, f.Bogus, f.MXSecure, f.TLSAErr)
			}
			d := plan.Hosts[i].Decide(delivery.Default)
			if refused := d.Skip != nil; refused != (tt.state == delivery.TLSAFailed) || !refused && d.Need != tt.need {
				t.Errorf("needs %q, skipped: %v", d.Need, d.Skip)
			}
			if d.Skip != nil && d.Skip.Permanent {
				t.Error("a lookup error is for good")
			}
		})
	}
}

// inSecure is a name in secure.test, unless it is a whole name or none.
func inSecure(name string) addr.Host {
	switch {
	case name == "":
		return addr.Host{}
	case strings.Contains(name, "."):
		return addr.MustHost(name)
	}
	return addr.MustHost(name + ".secure.test")
}

func TestUnboundPlanOfDomains(t *testing.T) {
	c := planner(t)
	t.Run("a signed host of an unsigned domain has DANE, and the domain is not vouched for", func(t *testing.T) {
		plan, err := c.Plan(t.Context(), delivery.Query{NextHop: addr.DomainHop(addr.MustDomain("insecure.test"))})
		if err != nil || len(plan.Hosts) != 1 {
			t.Fatalf("%+v, %v", plan, err)
		}
		if f := plan.Hosts[0].Facts; f.TLSA != delivery.TLSAUsable || f.MXSecure {
			t.Errorf("%s, MX secure %v", f.TLSA, f.MXSecure)
		}
	})
	t.Run("DANE-2.1.2-01 bogus MX records delay the mail, and no host is known", func(t *testing.T) {
		plan, err := c.Plan(t.Context(), delivery.Query{NextHop: addr.DomainHop(addr.MustDomain("bogus.test"))})
		fail, ok := errors.AsType[*delivery.Error](err)
		if !ok || fail.Permanent || len(plan.Hosts) != 0 {
			t.Fatalf("%+v, %v", plan.Hosts, err)
		}
		if _, ok := errors.AsType[*resolver.Bogus](err); !ok {
			t.Errorf("%v does not say that the answer was bogus", err)
		}
	})
}
