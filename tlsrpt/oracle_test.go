package tlsrpt_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/tlsrpt"
)

// An oracle counts sessions by itself, by hand.
type oracle map[string]int

func (o oracle) session(s tlsrpt.Session) {
	for _, p := range s.Policies {
		policy := string(s.Day()) + " " + s.Domain.String() + " " + string(p.Policy.Type) + " " + p.Policy.Domain
		if len(p.Failures) == 0 {
			o[policy+" good"]++
			continue
		}
		o[policy+" bad"]++
		for _, f := range p.Failures {
			o[policy+" "+string(f.Result)]++
		}
	}
}

func (o oracle) report(domain string, r report) {
	for _, p := range r.Policies {
		policy := r.day() + " " + domain + " " + p.Policy.Type + " " + p.Policy.Domain
		for what, n := range map[string]int{" good": p.Summary.Good, " bad": p.Summary.Bad} {
			if n > 0 {
				o[policy+what] += n
			}
		}
		for _, d := range p.Details {
			o[policy+" "+d.Type] += d.Count
		}
	}
}

// anySession is one of all kinds: every result, one or two policies, testing
// and enforce being the same here, peers of all kinds.
func anySession(r *rand.Rand, domain string) tlsrpt.Session {
	pick := func(list ...tlsrpt.Result) (out []tlsrpt.Failure) {
		if r.IntN(3) == 0 {
			return nil
		}
		for _, i := range r.Perm(len(list))[:min(len(list), 1+r.IntN(2))] {
			out = append(out, tlsrpt.Failure{Result: list[i], Reason: []string{"", "x509: reason", "tls-remote-alert-40"}[r.IntN(3)]})
		}
		return out
	}
	s := tlsrpt.Session{Start: time.Now(), Domain: addr.MustDomain(domain), MX: fmt.Sprintf("mx%d.%s", r.IntN(3), domain),
		Receiver: netip.AddrFrom4([4]byte{192, 0, 2, byte(r.IntN(3))}), Sender: netip.MustParseAddr("2001:db8::1")}
	all := tlsrpt.Results()
	sts := tlsrpt.PolicyResult{Policy: tlsrpt.Policy{Type: tlsrpt.STS, Domain: domain, Strings: []string{"version: STSv1", "mode: testing"}, MXHosts: []string{"*." + domain}},
		Failures: pick(append(slices.Clone(all[:5]), all[8:]...)...)}
	tlsa := tlsrpt.PolicyResult{Policy: tlsrpt.Policy{Type: tlsrpt.TLSA, Domain: "mx0." + domain, Strings: []string{"3 1 1 AB"}, MXHosts: []string{"mx0." + domain}},
		Failures: pick(all[:8]...)}
	none := tlsrpt.PolicyResult{Policy: tlsrpt.Policy{Type: tlsrpt.NoPolicyFound, Domain: domain}, Failures: pick(tlsrpt.StartTLSNotSupported)}
	switch r.IntN(4) {
	case 0:
		s.Policies = []tlsrpt.PolicyResult{none}
	case 1:
		s.Policies = []tlsrpt.PolicyResult{tlsa}
	case 2:
		s.Policies = []tlsrpt.PolicyResult{sts, tlsa}
	default:
		s.Policies = []tlsrpt.PolicyResult{sts}
	}
	return s
}

func TestEveryResult(t *testing.T) {
	inBubble(t, "RPT-1.1-02 RPT-4-03 RPT-4-04 RPT-4.2-02 days with every result, policies side by side in one report: exact counts", nil, func(t *testing.T, b *bubble) {
		r, want, seen := rand.New(rand.NewPCG(1, 2)), oracle{}, map[string]bool{}
		domains := []string{"a.example", "b.example", "c.example"}
		for _, d := range domains {
			b.publish(d, "https://r.example/"+d)
		}
		b.start()
		for range 2 {
			for range 400 {
				s := anySession(r, domains[r.IntN(3)])
				want.session(s)
				if err := b.store.Add(t.Context(), []tlsrpt.Session{s}); err != nil {
					t.Fatal(err)
				}
				time.Sleep(3 * time.Minute)
			}
		}
		time.Sleep(2 * day)
		synctest.Wait()
		got, reports := oracle{}, map[string]int{}
		for _, p := range b.received("r.example") {
			domain := p.URL[strings.LastIndexByte(p.URL, '/')+1:]
			got.report(domain, p.Report)
			reports[p.Report.day()+" "+domain]++
			for _, policy := range p.Report.Policies {
				for _, d := range policy.Details {
					seen[d.Type] = true
				}
			}
		}
		if !maps.Equal(got, want) {
			for k := range want {
				if got[k] != want[k] {
					t.Errorf("%s: %d, want %d", k, got[k], want[k])
				}
			}
			t.Errorf("%d counts, want %d", len(got), len(want))
		}
		for _, result := range tlsrpt.Results() {
			if !seen[string(result)] {
				t.Errorf("no %s: the test is wrong", result)
			}
		}
		for k, n := range reports {
			if n != 1 {
				t.Errorf("%d reports about %s", n, k)
			}
		}
		b.end()
	})
}
