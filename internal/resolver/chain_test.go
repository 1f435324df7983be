package resolver

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"stsrelay/internal/addr"

	"github.com/miekg/dns"
)

func TestCNAME(t *testing.T) {
	t.Run("SMTP-5.1-01 a CNAME at the domain is followed to the MX records", func(t *testing.T) {
		s := startServer(t, "example.test. 300 IN CNAME b.test.", "b.test. 200 IN MX 10 m.test.")
		a, err := newClient(t, Options{}, s).MX(t.Context(), example)
		if err != nil || len(a.Records) != 1 || a.Records[0].Name != "m.test" {
			t.Fatalf("got %v, %v", a.Records, err)
		}
		want := []Link{{From: "example.test", To: "b.test"}}
		if a.Canonical != "b.test" || !slices.Equal(a.Links, want) {
			t.Errorf("canonical %q, links %v", a.Canonical, a.Links)
		}
	})
	t.Run("DANE-2.1.3-01 links that the resolver did not expand are followed", func(t *testing.T) {
		s := startServer(t, "a.test. 300 IN CNAME b.test.", "b.test. 300 IN CNAME c.test.", "c.test. 300 IN A 192.0.2.1", soa)
		s.handle(oneLink(s))
		a, err := newClient(t, Options{NoIPv6: true}, s).Addresses(t.Context(), addr.MustHost("a.test"))
		if err != nil || len(a.Records) != 1 || a.Canonical != "c.test" || len(a.Links) != 2 {
			t.Fatalf("%+v, %v", a, err)
		}
	})
	t.Run("DANE-2.1.3-01 a loop is an error, not the absence of records", func(t *testing.T) {
		for _, zone := range [][]string{
			{"_25._tcp.mx.test. 300 IN CNAME _25._tcp.mx.test."},
			{"_25._tcp.mx.test. 300 IN CNAME b.test.", "b.test. 300 IN CNAME _25._tcp.mx.test."},
			{"_25._tcp.mx.test. 300 IN CNAME b.test.", "b.test. 300 IN CNAME c.test.", "c.test. 300 IN CNAME B.test."},
		} {
			for _, expand := range []bool{true, false} {
				s := startServer(t, zone...)
				if !expand {
					s.handle(oneLink(s))
				}
				_, err := newClient(t, Options{}, s).TLSA(t.Context(), 25, addr.MustHost("mx.test"))
				wantFailed(t, err)
				if !strings.Contains(err.Error(), "loop") {
					t.Errorf("error is %v", err)
				}
			}
		}
	})
	t.Run("DANE-2.1.3-01 an error at a later link fails the whole lookup", func(t *testing.T) {
		s := startServer(t, "_25._tcp.mx.test. 300 IN CNAME b.test.")
		s.handle(func(n string, q *dns.Msg) [][]byte {
			if q.Question[0].Name == "b.test." {
				return code(dns.RcodeServerFailure, 0, "")(n, q)
			}
			return oneLink(s)(n, q)
		})
		_, err := newClient(t, Options{}, s).TLSA(t.Context(), 25, addr.MustHost("mx.test"))
		wantFailed(t, err)
	})
	t.Run("DANE-2.1.3-01 a chain has a limit", func(t *testing.T) {
		for links, ok := range map[int]bool{16: true, 17: false} {
			var zone []string
			for i := range links {
				zone = append(zone, fmt.Sprintf("n%d.test. 300 IN CNAME n%d.test.", i, i+1))
			}
			zone = append(zone, fmt.Sprintf("n%d.test. 300 IN A 192.0.2.1", links))
			s := startServer(t, zone...)
			s.handle(oneLink(s))
			_, err := newClient(t, Options{NoIPv6: true}, s).Addresses(t.Context(), addr.MustHost("n0.test"))
			if (err == nil) != ok {
				t.Errorf("%d links: %v", links, err)
			}
		}
	})
	t.Run("two CNAMEs at one name are an error", func(t *testing.T) {
		s := startServer(t, "a.test. 300 IN CNAME b.test.", "a.test. 300 IN CNAME c.test.", "c.test. 300 IN A 192.0.2.1")
		_, err := newClient(t, Options{NoIPv6: true}, s).Addresses(t.Context(), addr.MustHost("a.test"))
		wantFailed(t, err)
	})
	t.Run("a CNAME to nowhere is NXDOMAIN", func(t *testing.T) {
		s := startServer(t, "example.test. 300 IN CNAME gone.test.", soa)
		a, err := newClient(t, Options{}, s).MX(t.Context(), example)
		if !errors.Is(err, ErrNXDomain) || a.Canonical != "gone.test" {
			t.Fatalf("%+v, %v", a, err)
		}
	})
	t.Run("NXDOMAIN beside a CNAME needs no SOA to be believed", func(t *testing.T) {
		s := startServer(t, "example.test. 300 IN CNAME gone.test.")
		_, err := newClient(t, Options{}, s).MX(t.Context(), example)
		if !errors.Is(err, ErrNXDomain) || s.total() != 1 {
			t.Fatalf("%v, %d queries", err, s.total())
		}
	})
	t.Run("a CNAME to a name without such records is NODATA and asked once", func(t *testing.T) {
		s := startServer(t, "example.test. 300 IN CNAME b.test.", "b.test. 300 IN A 192.0.2.1", soa)
		a, err := newClient(t, Options{}, s).MX(t.Context(), example)
		if err != nil || a.Records != nil || s.total() != 1 {
			t.Fatalf("%+v, %v, %d queries", a, err, s.total())
		}
	})
	t.Run("CNAME asks for the alias itself", func(t *testing.T) {
		s := startServer(t, "a.test. 300 IN CNAME B.test.", "b.test. 300 IN CNAME c.test.")
		s.sign("a.test.")
		s.handle(oneLink(s))
		a, err := newClient(t, Options{}, s).CNAME(t.Context(), "a.test")
		if err != nil || !slices.Equal(a.Records, []string{"b.test"}) || !a.Secure || a.Links != nil {
			t.Fatalf("%+v, %v", a, err)
		}
	})
}

// oneLink answers like a resolver that never follows a CNAME.
func oneLink(s *fakeServer) func(string, *dns.Msg) [][]byte {
	return func(_ string, q *dns.Msg) [][]byte {
		m := s.fromZone(q)
		var first []dns.RR
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, rr := range m.Answer {
			if strings.EqualFold(rr.Header().Name, q.Question[0].Name) {
				first = append(first, rr)
			}
		}
		m.Answer = first
		m.AuthenticatedData = s.secure[lower(q.Question[0].Name)]
		if len(first) > 0 {
			m.Rcode, m.Ns = dns.RcodeSuccess, nil
		}
		return [][]byte{packed(m)}
	}
}

func TestInsecureLink(t *testing.T) {
	zone := []string{"a.test. 300 IN CNAME b.test.", "b.test. 300 IN CNAME c.test.", "c.test. 300 IN A 192.0.2.1"}
	tests := map[string]struct {
		secure []string
		links  []bool
		want   bool
	}{
		"all links secure":                             {[]string{"a.test.", "b.test.", "c.test."}, []bool{true, true}, true},
		"an insecure first link spoils the rest":       {[]string{"b.test.", "c.test."}, []bool{false, false}, false},
		"an insecure second link spoils what follows":  {[]string{"a.test.", "c.test."}, []bool{true, false}, false},
		"insecure addresses behind secure links":       {[]string{"a.test.", "b.test."}, []bool{true, true}, false},
		"a secure end does not heal an insecure chain": {[]string{"c.test."}, []bool{false, false}, false},
	}
	for name, tt := range tests {
		t.Run("DANE-2.1.3-02 "+name, func(t *testing.T) {
			s := startServer(t, zone...)
			s.sign(tt.secure...)
			s.handle(oneLink(s))
			a, err := newClient(t, Options{NoIPv6: true}, s).Addresses(t.Context(), addr.MustHost("a.test"))
			if err != nil || a.Secure != tt.want || len(a.Links) != 2 {
				t.Fatalf("%+v, %v", a, err)
			}
			for i, want := range tt.links {
				if a.Links[i].Secure != want {
					t.Errorf("link %d secure: %v, want %v", i, a.Links[i].Secure, want)
				}
			}
		})
	}
}
