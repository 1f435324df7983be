package resolver

import (
	"encoding/hex"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"stsrelay/internal/addr"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

const soa = "test. 900 IN SOA ns.test. hostmaster.test. 1 7200 900 1209600 300"

func TestMX(t *testing.T) {
	tests := map[string]struct {
		zone []string
		want []MX
	}{
		"records come with preference and host": {
			[]string{"example.test. 300 IN MX 20 B.Example.TEST.", "example.test. 300 IN MX 10 a.example.test."},
			[]MX{{20, addr.MustHost("b.example.test"), "B.Example.TEST"}, {10, addr.MustHost("a.example.test"), "a.example.test"}},
		},
		"the null MX has a name and no host": {
			[]string{"example.test. 300 IN MX 0 ."},
			[]MX{{0, addr.Host{}, "."}},
		},
		"an underscore is tolerated": {
			[]string{"example.test. 300 IN MX 10 a_b.example.test."},
			[]MX{{10, addr.MustHost("a_b.example.test"), "a_b.example.test"}},
		},
		"names that no host can have are kept as printable text": {
			[]string{
				`example.test. 300 IN MX 1 a\.b.example.test.`, `example.test. 300 IN MX 2 a\013\010b.test.`,
				`example.test. 300 IN MX 3 192.0.2.1.`, `example.test. 300 IN MX 4 *.example.test.`,
				`example.test. 300 IN MX 5 b\195\188cher.test.`, `example.test. 300 IN MX 6 a\000.test.`, `example.test. 300 IN MX 7 a\032b.test.`,
			},
			[]MX{
				{1, addr.Host{}, `a\.b.example.test`}, {2, addr.Host{}, `a\013\010b.test`},
				{3, addr.Host{}, "192.0.2.1"}, {4, addr.Host{}, "*.example.test"},
				{5, addr.Host{}, `b\195\188cher.test`}, {6, addr.Host{}, `a\000.test`}, {7, addr.Host{}, `a\ b.test`},
			},
		},
		"no record is NODATA": {[]string{"example.test. 300 IN A 192.0.2.1", soa}, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := startServer(t, tt.zone...)
			a, err := newClient(t, Options{}, s).MX(t.Context(), example)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(a.Records, tt.want) {
				t.Errorf("got  %v\nwant %v", a.Records, tt.want)
			}
			if a.Canonical != "example.test" || a.Links != nil {
				t.Errorf("canonical %q, links %v", a.Canonical, a.Links)
			}
		})
	}
	t.Run("records of other names, types and classes are not part of the answer", func(t *testing.T) {
		s := startServer(t)
		s.handle(func(_ string, q *dns.Msg) [][]byte {
			m := new(dns.Msg)
			m.SetReply(q)
			for _, line := range []string{
				"other.test. 300 IN MX 1 wrong.test.", "sub.example.test. 300 IN MX 1 wrong.test.", "example.test. 300 CH MX 1 wrong.test.",
				"example.test. 300 IN A 192.0.2.1", "example.test. 300 IN MX 10 right.test.", "x.test. 300 IN CNAME example.test.",
			} {
				rr, _ := dns.NewRR(line)
				m.Answer = append(m.Answer, rr)
			}
			rr, _ := dns.NewRR("example.test. 300 IN MX 1 extra.test.")
			m.Extra = append(m.Extra, rr)
			return [][]byte{packed(m)}
		})
		a, err := newClient(t, Options{}, s).MX(t.Context(), example)
		if err != nil || len(a.Records) != 1 || a.Records[0].Name != "right.test" {
			t.Errorf("got %v, %v", a.Records, err)
		}
	})
	t.Run("the zero domain is not asked for", func(t *testing.T) {
		s := startServer(t)
		_, err := newClient(t, Options{}, s).MX(t.Context(), addr.Domain{})
		wantFailed(t, err)
		if s.total() != 0 {
			t.Error("a query was sent")
		}
	})
}

func TestDenial(t *testing.T) {
	t.Run("DANE-2.1.1-04 NXDOMAIN is an answer that can be secure", func(t *testing.T) {
		s := startServer(t, soa)
		s.sign("example.test.")
		a, err := newClient(t, Options{}, s).MX(t.Context(), example)
		if !errors.Is(err, ErrNXDomain) || !a.Secure {
			t.Fatalf("secure %v, %v", a.Secure, err)
		}
		if want := "looking up example.test MX: no such domain (NXDOMAIN)"; err.Error() != want {
			t.Errorf("error is %q, want %q", err, want)
		}
	})
	t.Run("DANE-2.1.1-04 NODATA is an answer without records, secure or not", func(t *testing.T) {
		for _, secure := range []bool{true, false} {
			s := startServer(t, soa, "_25._tcp.mx.test. 300 IN TXT x")
			if secure {
				s.sign("_25._tcp.mx.test.")
			}
			a, err := newClient(t, Options{}, s).TLSA(t.Context(), 25, addr.MustHost("mx.test"))
			if err != nil || a.Records != nil || a.Secure != secure {
				t.Fatalf("%v, secure %v, %v", a.Records, a.Secure, err)
			}
		}
	})
	t.Run("a name too long for DNS does not exist", func(t *testing.T) {
		s := startServer(t)
		long := strings.Repeat(strings.Repeat("a", 49)+".", 5) + "abc" // 253 octets
		_, err := newClient(t, Options{}, s).TXT(t.Context(), "_mta-sts."+long)
		if !errors.Is(err, ErrNXDomain) || s.total() != 0 {
			t.Fatalf("%v after %d queries", err, s.total())
		}
	})
}

func TestTXT(t *testing.T) {
	tests := map[string]struct {
		rdata string
		want  string
	}{
		"STS-3.1-11 character-strings are joined with nothing between": {`"v=STSv1; i" "d=abc"`, "v=STSv1; id=abc"},
		"quotes and backslashes are not escaped":                       {`"a\"b\\c"`, `a"b\c`},
		"bytes beyond ASCII come as they are":                          {`"b\195\188cher \000\009\255\127"`, "b\xc3\xbccher \x00\x09\xff\x7f"},
		"digits after an escaped byte are text":                        {`"\0651\\065"`, `A1\065`},
		"an empty string is empty":                                     {`""`, ""},
		"a semicolon is a semicolon":                                   {`"v=STSv1; id=1;"`, "v=STSv1; id=1;"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := startServer(t, "_mta-sts.example.test. 300 IN TXT "+tt.rdata)
			a, err := newClient(t, Options{}, s).TXT(t.Context(), "_mta-sts.example.test")
			if err != nil || !slices.Equal(a.Records, []string{tt.want}) {
				t.Fatalf("got %q, %v, want %q", a.Records, err, tt.want)
			}
		})
	}
	t.Run("records stay apart", func(t *testing.T) {
		s := startServer(t, `t.test. 300 IN TXT "a" "b"`, `t.test. 300 IN TXT "c"`)
		a, err := newClient(t, Options{}, s).TXT(t.Context(), "t.test")
		if err != nil || !slices.Equal(a.Records, []string{"ab", "c"}) {
			t.Fatalf("got %q, %v", a.Records, err)
		}
	})
	t.Run("STS-3.1-12 a CNAME chain at _mta-sts is followed", func(t *testing.T) {
		s := startServer(t, "_mta-sts.user.test. 300 IN CNAME _mta-sts.provider.test.",
			"_mta-sts.provider.test. 300 IN CNAME x.provider.test.", `x.provider.test. 300 IN TXT "v=STSv1; id=1;"`)
		for _, expand := range []bool{true, false} {
			if !expand {
				s.handle(oneLink(s))
			}
			a, err := newClient(t, Options{}, s).TXT(t.Context(), "_mta-sts.user.test")
			if err != nil || !slices.Equal(a.Records, []string{"v=STSv1; id=1;"}) {
				t.Fatalf("got %q, %v", a.Records, err)
			}
		}
	})
	t.Run("STS-3.1-15 SMTP-2.3.5-01 a search list is not used", func(t *testing.T) {
		s := startServer(t, soa, `_mta-sts.example.test.corp.test. 300 IN TXT "v=STSv1; id=1;"`)
		conf := filepath.Join(t.TempDir(), "resolv.conf")
		write(t, conf, "nameserver 192.0.2.53\nsearch corp.test\noptions ndots:5\n")
		d := mapDialer{to: map[string]netip.AddrPort{abroad.String(): s.addr}}
		c := newClient(t, Options{ResolvConf: conf, Dialer: d})
		if _, err := c.TXT(t.Context(), "_mta-sts.example.test"); !errors.Is(err, ErrNXDomain) {
			t.Fatal(err)
		}
		if s.total() != 1 || s.asked("_mta-sts.example.test", dns.TypeTXT) != 1 {
			t.Errorf("%d queries", s.total())
		}
	})
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestTLSA(t *testing.T) {
	digest := strings.Repeat("ab", 32)
	s := startServer(t, "_2525._tcp.mx.test. 300 IN TLSA 3 1 1 "+digest)
	a, err := newClient(t, Options{}, s).TLSA(t.Context(), 2525, addr.MustHost("mx.test"))
	data, _ := hex.DecodeString(digest)
	want := []TLSA{{Usage: 3, Selector: 1, Matching: 1, Data: data}}
	if err != nil || !cmp.Equal(a.Records, want) {
		t.Fatalf("got %v, %v", a.Records, err)
	}
}

func TestAddresses(t *testing.T) {
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	const a4, a6 = "mx.test. 100 IN A 192.0.2.1", "mx.test. 300 IN AAAA 2001:db8::1"
	host := addr.MustHost("mx.test")
	fail := func(s *fakeServer, qtype uint16, with func(string, *dns.Msg) [][]byte) {
		s.handle(func(n string, q *dns.Msg) [][]byte {
			if q.Question[0].Qtype == qtype {
				return with(n, q)
			}
			return [][]byte{packed(s.fromZone(q))}
		})
	}
	servfail, nxdomain := code(dns.RcodeServerFailure, 0, ""), code(dns.RcodeNameError, 0, "")

	t.Run("both families are asked, IPv6 first in the answer, the shorter TTL counts", func(t *testing.T) {
		s := startServer(t, a4, a6)
		s.sign("mx.test.")
		a, err := newClient(t, Options{}, s).Addresses(t.Context(), host)
		if err != nil || !slices.Equal(a.Records, []netip.Addr{v6, v4}) || a.Failed != nil || !a.Secure {
			t.Fatalf("%+v, %v", a, err)
		}
		if left := time.Until(a.Expires); left > 100*time.Second || left < 50*time.Second {
			t.Errorf("expires in %v", left)
		}
	})
	t.Run("a family that is switched off is not asked for", func(t *testing.T) {
		s := startServer(t, a4, a6)
		a, err := newClient(t, Options{NoIPv6: true}, s).Addresses(t.Context(), host)
		if err != nil || !slices.Equal(a.Records, []netip.Addr{v4}) || s.asked("mx.test", dns.TypeAAAA) != 0 {
			t.Fatalf("%+v, %v", a, err)
		}
		a, err = newClient(t, Options{NoIPv4: true}, s).Addresses(t.Context(), host)
		if err != nil || !slices.Equal(a.Records, []netip.Addr{v6}) || s.asked("mx.test", dns.TypeA) != 1 {
			t.Fatalf("%+v, %v", a, err)
		}
	})
	t.Run("an address of one family is enough, and the other's failure is told", func(t *testing.T) {
		for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
			s := startServer(t, a4, a6)
			s.sign("mx.test.")
			fail(s, qtype, servfail)
			a, err := newClient(t, Options{}, s).Addresses(t.Context(), host)
			if err != nil || len(a.Records) != 1 || a.Failed == nil || !a.Secure {
				t.Errorf("%s fails: %+v, %v", dns.TypeToString[qtype], a, err)
			}
		}
	})
	t.Run("no address and one failed family is a failure", func(t *testing.T) {
		s := startServer(t, soa)
		fail(s, dns.TypeA, servfail)
		a, err := newClient(t, Options{}, s).Addresses(t.Context(), host)
		wantFailed(t, err)
		wantFailed(t, a.Failed)
	})
	t.Run("NXDOMAIN of both is NXDOMAIN", func(t *testing.T) {
		_, err := newClient(t, Options{}, startServer(t, soa)).Addresses(t.Context(), host)
		if !errors.Is(err, ErrNXDomain) {
			t.Fatal(err)
		}
	})
	t.Run("NXDOMAIN of one beside NODATA of the other is NODATA", func(t *testing.T) {
		s := startServer(t, "mx.test. 300 IN TXT x", soa)
		fail(s, dns.TypeAAAA, nxdomain)
		a, err := newClient(t, Options{}, s).Addresses(t.Context(), host)
		if err != nil || a.Records != nil {
			t.Fatalf("%+v, %v", a, err)
		}
	})
	t.Run("an insecure denial of one family takes nothing from secure addresses of the other", func(t *testing.T) {
		s := startServer(t, a4, soa)
		s.sign("mx.test.")
		fail(s, dns.TypeAAAA, code(dns.RcodeSuccess, 0, ""))
		a, err := newClient(t, Options{}, s).Addresses(t.Context(), host)
		if err != nil || !a.Secure {
			t.Fatalf("%+v, %v", a, err)
		}
	})
	t.Run("insecure addresses of one family make the answer insecure", func(t *testing.T) {
		s := startServer(t, a4, a6)
		fail(s, dns.TypeAAAA, func(_ string, q *dns.Msg) [][]byte {
			m := s.fromZone(q)
			m.AuthenticatedData = true
			return [][]byte{packed(m)}
		})
		a, err := newClient(t, Options{}, s).Addresses(t.Context(), host)
		if err != nil || a.Secure || len(a.Records) != 2 {
			t.Fatalf("%+v, %v", a, err)
		}
	})
}

func BenchmarkCached(b *testing.B) {
	c, err := New(Options{Servers: []netip.AddrPort{abroad}})
	if err != nil {
		b.Fatal(err)
	}
	records := []MX{{10, addr.MustHost("mx1.test"), "mx1.test"}, {20, addr.MustHost("mx2.test"), "mx2.test"}}
	c.cache.put(ask("example.test", dns.TypeMX).question, entry{
		answer: Answer[MX]{Records: records}, expires: time.Now().Add(time.Hour), cost: entryCost,
	}, time.Now())
	b.ReportAllocs()
	for b.Loop() {
		if a, err := c.MX(b.Context(), example); err != nil || len(a.Records) != 2 {
			b.Fatal(err)
		}
	}
}
