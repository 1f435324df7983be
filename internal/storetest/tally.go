package storetest

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/relay"
	"stsrelay/tlsrpt"
)

const day = tlsrpt.Day("2026-11-01")

// session is one connection on day, held against an STS policy.
func session(domain string, failures ...tlsrpt.Result) tlsrpt.Session {
	p := tlsrpt.PolicyResult{Policy: tlsrpt.Policy{Type: tlsrpt.STS, Domain: domain, Strings: []string{"version: STSv1"}, MXHosts: []string{"mx." + domain}}}
	for _, r := range failures {
		p.Failures = append(p.Failures, tlsrpt.Failure{Result: r})
	}
	return tlsrpt.Session{
		Start: time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC), Domain: addr.MustDomain(domain), Policies: []tlsrpt.PolicyResult{p},
		MX: "mx." + domain, HELO: "mx", Receiver: netip.MustParseAddr("192.0.2.1"), Sender: netip.MustParseAddr("2001:db8::1"),
	}
}

func (h *Harness) add(t *testing.T, s ...tlsrpt.Session) {
	t.Helper()
	if err := h.Add(t.Context(), s); err != nil {
		t.Fatalf("Add: %v", err)
	}
}

// wantSums expects one policy of domain with these counts.
func wantSums(t *testing.T, h *Harness, domain string, successes, failures int64) {
	t.Helper()
	for _, tally := range h.tallies(t, day) {
		if tally.Domain.String() == domain {
			if len(tally.Policies) != 1 || tally.Policies[0].Successes != successes || tally.Policies[0].Failures != failures {
				t.Errorf("%s has %+v, want one policy with %d successes and %d failures", domain, tally.Policies, successes, failures)
			}
			return
		}
	}
	t.Errorf("nothing was counted for %s", domain)
}

// TestTallies is the contract of tlsrpt.Store.
func TestTallies(t *testing.T, open Open) {
	for _, c := range tallyCases {
		t.Run(c.name, func(t *testing.T) { c.test(t, open(t)) })
	}
}

var tallyCases = []queueCase{
	{"RPT-4.2-01 five good sessions are five successes and no failure", func(t *testing.T, h *Harness) {
		for range 5 {
			h.add(t, session("a.example"))
		}
		wantSums(t, h, "a.example", 5, 0)
	}},
	{"RPT-4.2-02 a session failing in two ways is one failure with two details", func(t *testing.T, h *Harness) {
		h.add(t, session("a.example", tlsrpt.CertificateExpired, tlsrpt.CertificateHostMismatch))
		wantSums(t, h, "a.example", 0, 1)
		details := h.tallies(t, day)[0].Policies[0].Details
		if len(details) != 2 || details[0].Sessions != 1 || details[1].Sessions != 1 {
			t.Errorf("details %+v", details)
		}
	}},
	{"equal failures share a detail, which keeps all that was known", func(t *testing.T, h *Harness) {
		s := session("a.example", tlsrpt.CertificateExpired)
		s.Policies[0].Failures[0].Reason = "x509: expired"
		h.add(t, s, s)
		h.add(t, s)
		want := tlsrpt.Detail{Failure: s.Policies[0].Failures[0], MX: "mx.a.example", HELO: "mx", Receiver: "192.0.2.1", Sender: "2001:db8::1", Sessions: 3}
		if got := h.tallies(t, day)[0].Policies[0].Details; len(got) != 1 || got[0] != want {
			t.Errorf("details %+v, want %+v", got, want)
		}
	}},
	{"RPT-4.4-18 a policy that changed during the day is counted apart", func(t *testing.T, h *Harness) {
		s := session("a.example")
		h.add(t, s)
		s.Policies[0].Policy.Strings = []string{"version: STSv1", "mode: testing"}
		h.add(t, s, s)
		got := h.tallies(t, day)[0].Policies
		if len(got) != 2 || got[0].Successes+got[1].Successes != 3 || reflect.DeepEqual(got[0].Policy, got[1].Policy) {
			t.Errorf("policies %+v", got)
		}
		again := h.tallies(t, day)[0].Policies
		if !reflect.DeepEqual(got, again) {
			t.Error("the order of policies is not stable")
		}
	}},
	{"RPT-4.2-03 a session under two policies counts once for each", func(t *testing.T, h *Harness) {
		s := session("a.example", tlsrpt.CertificateNotTrusted)
		s.Policies = append(s.Policies, tlsrpt.PolicyResult{Policy: tlsrpt.Policy{Type: tlsrpt.TLSA, Domain: "mx.a.example"}})
		h.add(t, s)
		for _, p := range h.tallies(t, day)[0].Policies {
			if p.Successes+p.Failures != 1 || (p.Policy.Type == tlsrpt.TLSA) != (p.Successes == 1) {
				t.Errorf("%+v", p)
			}
		}
	}},
	{"a session is booked on the UTC day it started", func(t *testing.T, h *Harness) {
		zone := time.FixedZone("", 2*3600)
		s := session("a.example")
		s.Start = time.Date(2026, 11, 2, 1, 59, 59, 0, zone)
		h.add(t, s)
		s.Start = time.Date(2026, 11, 2, 2, 0, 0, 0, zone)
		h.add(t, s, s)
		wantSums(t, h, "a.example", 1, 0)
		if got := h.tallies(t, "2026-11-02"); len(got) != 1 || got[0].Policies[0].Successes != 2 {
			t.Errorf("next day: %+v", got)
		}
	}},
	{"Tallies are in order of domain, and of day and domain without a day", func(t *testing.T, h *Harness) {
		for _, d := range []string{"b.example", "a.example", "a.example.net", "a.b"} {
			s := session(d)
			h.add(t, s)
			s.Start = s.Start.AddDate(0, 0, -1)
			h.add(t, s)
		}
		var got []string
		for _, tally := range h.tallies(t, "") {
			got = append(got, string(tally.Day)+" "+tally.Domain.String())
		}
		want := []string{"2026-10-31 a.b", "2026-10-31 a.example", "2026-10-31 a.example.net", "2026-10-31 b.example",
			"2026-11-01 a.b", "2026-11-01 a.example", "2026-11-01 a.example.net", "2026-11-01 b.example"}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %v", got)
		}
		if got := h.tallies(t, day); len(got) != 4 || got[0].Day != day {
			t.Errorf("of one day: %+v", got)
		}
		if got := h.tallies(t, "2026-11"); len(got) != 0 {
			t.Errorf("of half a day's name: %+v", got)
		}
	}},
	{"the store may be written while Tallies is read", func(t *testing.T, h *Harness) {
		h.add(t, session("a.example"), session("b.example"))
		n := 0
		for tally, err := range h.Tallies(t.Context(), day) {
			if err != nil {
				t.Fatal(err)
			}
			n++
			h.add(t, session(tally.Domain.String()))
		}
		if n != 2 {
			t.Errorf("%d tallies", n)
		}
	}},
	{"details beyond the bound are folded, without text and addresses, and the sum stays right", func(t *testing.T, h *Harness) {
		const n = tlsrpt.MaxDetails + 20
		var all []tlsrpt.Session
		for i := range n {
			s := session("a.example", tlsrpt.Results()[i%2])
			s.Policies[0].Failures[0].Reason = fmt.Sprint("reason ", i)
			all = append(all, s)
		}
		h.add(t, all...)
		h.add(t, all[0]) // a kind that is known keeps its own detail
		wantSums(t, h, "a.example", 0, n+1)
		sum, folded := int64(0), 0
		details := h.tallies(t, day)[0].Policies[0].Details
		for _, d := range details {
			sum += d.Sessions
			if d == (tlsrpt.Detail{Failure: tlsrpt.Failure{Result: d.Result}, Sessions: 10}) {
				folded++
			}
		}
		if sum != n+1 || folded != 2 || len(details) != tlsrpt.MaxDetails+2 {
			t.Errorf("%d details, %d of them folded, %d sessions; want %d, 2, %d", len(details), folded, sum, tlsrpt.MaxDetails+2, n+1)
		}
	}},
	{"Add that fails adds nothing", func(t *testing.T, h *Harness) {
		h.add(t, session("a.example"))
		h.Fail(NotWritten)
		if err := h.Add(t.Context(), []tlsrpt.Session{session("a.example")}); !errors.Is(err, relay.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
		h.Fail(NoFault)
		if err := h.Add(canceled(t), []tlsrpt.Session{session("a.example")}); !errors.Is(err, relay.ErrUnavailable) {
			t.Errorf("with a context that has ended: %v", err)
		}
		wantSums(t, h, "a.example", 1, 0)
	}},
	{"a session without a Policy Domain, as to an address literal, is nobody's and no error", func(t *testing.T, h *Harness) {
		h.add(t, session("a.example"), tlsrpt.Session{Policies: session("a.example").Policies})
		if got := h.tallies(t, ""); len(got) != 1 || got[0].Policies[0].Successes != 1 {
			t.Errorf("got %+v", got)
		}
	}},
	{"policies beyond the bound are folded, and the sum stays right", func(t *testing.T, h *Harness) {
		const n = tlsrpt.MaxPolicies + 20
		for range 2 {
			var all []tlsrpt.Session
			for i := range n {
				s := session("a.example", tlsrpt.CertificateExpired)
				s.Policies[0].Policy.Strings = []string{fmt.Sprint("policy ", i)}
				all = append(all, s)
			}
			h.add(t, all...)
		}
		got, sum := h.tallies(t, day)[0].Policies, int64(0)
		for _, p := range got {
			sum += p.Failures
			if want := int64(2 * (n - tlsrpt.MaxPolicies)); p.Policy.Strings == nil && p.Failures != want {
				t.Errorf("%d sessions are folded, want %d", p.Failures, want)
			}
		}
		if len(got) != tlsrpt.MaxPolicies+1 || sum != 2*n {
			t.Errorf("%d policies with %d failures, want %d with %d", len(got), sum, tlsrpt.MaxPolicies+1, 2*n)
		}
	}},
	{"counters survive a restart", func(t *testing.T, h *Harness) {
		h.add(t, session("a.example", tlsrpt.TLSAInvalid), session("a.example"))
		want := h.tallies(t, "")
		h.Reopen(t)
		if got := h.tallies(t, ""); !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}},
	{"concurrent Adds lose nothing", func(t *testing.T, h *Harness) {
		inParallel(10, func(int) {
			for range 10 {
				if err := h.Add(t.Context(), []tlsrpt.Session{session("a.example"), session("a.example", tlsrpt.DANERequired)}); err != nil {
					t.Error(err)
				}
			}
		})
		wantSums(t, h, "a.example", 100, 100)
	}},
}
