package delivery

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"stsrelay/internal/addr"
	"stsrelay/internal/resolver"
)

// mxRecords reads "10 mx1.example.com", one record each.
func mxRecords(lines ...string) []resolver.MX {
	var out []resolver.MX
	for _, line := range lines {
		var r resolver.MX
		if _, err := fmt.Sscan(line, &r.Preference, &r.Name); err != nil {
			panic(err)
		}
		if h, err := addr.ParseHost(r.Name); err == nil && r.Name != "." {
			r.Host = h
		}
		out = append(out, r)
	}
	return out
}

func unshuffled(int, func(i, j int)) {}

func targetText(list []target) string {
	var out []string
	for _, t := range list {
		out = append(out, fmt.Sprint(t.preference, " ", t.host))
	}
	return strings.Join(out, ", ")
}

func TestTargets(t *testing.T) {
	tests := []struct {
		name    string
		records []resolver.MX
		want    string
		odd     string
		fail    Reason
	}{
		{"SMTP-5.1-04 no records: the domain itself, of preference 0", nil, "0 example.com", "", ""},
		{"SMTP-5.1-07 lowest preference first", mxRecords("20 b.example", "10 a.example", "30 c.example"), "10 a.example, 20 b.example, 30 c.example", "", ""},
		{"SMTP-5.1-05 with records the domain itself is no host", mxRecords("10 a.example"), "10 a.example", "", ""},
		{"SMTP-5.1-05 unless a record names it", mxRecords("10 example.com"), "10 example.com", "", ""},
		{"a host named twice counts where it is preferred most", mxRecords("20 a.example", "10 b.example", "5 a.example"), "5 a.example, 10 b.example", "", ""},
		{"NMX-3-01 a null MX", mxRecords("0 ."), "", "", NullMX},
		{"NMX-3-02 a null MX with another preference", mxRecords("10 ."), "", "", NullMX},
		{"NMX-3-01 a null MX twice", mxRecords("0 .", "10 ."), "", "", NullMX},
		{"NMX-3-02 a null MX beside others is ignored", mxRecords("0 .", "10 m.example"), "10 m.example", "", ""},
		{"SMTP-5.1-17 underscores are tolerated", mxRecords("10 mx_1.example"), "10 mx_1.example", "", ""},
		{"SMTP-5.1-17 names are A-labels in lower case, without trailing dot", mxRecords("10 MX.XN--BCHER-KVA.example."), "10 mx.xn--bcher-kva.example", "", ""},
		{"SMTP-5.1-17 odd names are left out", mxRecords("5 a(b).example", "10 m.example"), "10 m.example", "a(b).example", ""},
		{"DANE-2.2-06 an address is no name of a host", mxRecords("5 192.0.2.1", "10 m.example"), "10 m.example", "192.0.2.1", ""},
		{"SMTP-5.1-05 nothing but odd names is an error", mxRecords("5 192.0.2.1"), "", "192.0.2.1", NoAddress},
		{"odd names and a null MX are no null MX", mxRecords("0 .", "5 192.0.2.1"), "", "192.0.2.1", NoAddress},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, odd, fail := targets(exampleDomain, tt.records, unshuffled)
			if targetText(got) != tt.want || strings.Join(odd, " ") != tt.odd {
				t.Errorf("got %q, odd %q; want %q, %q", targetText(got), odd, tt.want, tt.odd)
			}
			if (fail == nil) != (tt.fail == "") || fail != nil && fail.Reason != tt.fail {
				t.Errorf("fails with %v, want %q", fail, tt.fail)
			}
			for _, h := range got {
				if h.direct != (len(tt.records) == 0) {
					t.Errorf("%s: direct is %v", h.host, h.direct)
				}
			}
		})
	}
	t.Run("a thousand records cost no more than a limit", func(t *testing.T) {
		var many []string
		for i := range 1000 {
			many = append(many, fmt.Sprintf("%d mx%d.example", 1000-i, i))
		}
		got, _, _ := targets(exampleDomain, mxRecords(many...), unshuffled)
		if len(got) != hostLimit || got[0].preference != 1 {
			t.Errorf("%d, first %v", len(got), got[0])
		}
	})
}

func TestTargetsInAnyOrder(t *testing.T) {
	t.Run("SMTP-5.1-07 equal preferences come in even shares, and never out of order", func(t *testing.T) {
		random := rand.New(rand.NewPCG(1, 2))
		first := map[string]int{}
		for range 1000 {
			got, _, _ := targets(exampleDomain, mxRecords("10 a.example", "5 best.example", "10 b.example", "20 last.example"), random.Shuffle)
			first[got[1].host.String()]++
			if got[0].host.String() != "best.example" || got[3].host.String() != "last.example" {
				t.Fatal(targetText(got))
			}
		}
		for _, h := range []string{"a.example", "b.example"} {
			if n := first[h]; n < 400 || n > 600 {
				t.Errorf("%s came first %d times of 1000", h, n)
			}
		}
	})
	t.Run("SMTP-5.1-07 whatever the records, each host comes once, in order of preference", func(t *testing.T) {
		random := rand.New(rand.NewPCG(3, 4))
		for range 2000 {
			best := map[string]int{}
			var lines []string
			for range 1 + random.IntN(12) {
				name, preference := fmt.Sprintf("mx%d.example", random.IntN(6)), random.IntN(4)
				lines = append(lines, fmt.Sprint(preference, " ", name))
				if old, ok := best[name]; !ok || preference < old {
					best[name] = preference
				}
			}
			got, _, _ := targets(exampleDomain, mxRecords(lines...), random.Shuffle)
			if len(got) != len(best) {
				t.Fatalf("%q gave %s", lines, targetText(got))
			}
			for i, h := range got {
				if int(h.preference) != best[h.host.String()] || i > 0 && h.preference < got[i-1].preference {
					t.Fatalf("%q gave %s", lines, targetText(got))
				}
			}
		}
	})
}

func ips(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func TestFamilies(t *testing.T) {
	both := families{v6: true, v4: true}
	six := []string{"2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8::4", "2001:db8::5", "2001:db8::6"}
	four := []string{"192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.5", "192.0.2.6"}
	tests := []struct {
		name string
		f    families
		in   []netip.Addr
		want []netip.Addr
	}{
		{"SMTP-5.1-10 both families, IPv6 first", both, ips(four[0], six[0]), ips(six[0], four[0])},
		{"SMTP-5.1-10 IPv4 first, if so set", families{v6: true, v4: true, prefer4: true}, ips(six[0], four[0]), ips(four[0], six[0])},
		{"SMTP-5.1-08 the resolver's order stays", both, ips(four[2], four[0], six[1], four[1], six[0]), ips(six[1], six[0], four[2], four[0], four[1])},
		{"SMTP-5.1-10 SMTP-5.2-01 a family that is switched off is left out: IPv6", families{v4: true}, ips(six[0], four[0]), ips(four[0])},
		{"SMTP-5.1-10 SMTP-5.2-01 a family that is switched off is left out: IPv4", families{v6: true}, ips(six[0], four[0]), ips(six[0])},
		{"a mapped address is IPv4, and tried once", both, ips("::ffff:192.0.2.1", four[0]), ips(four[0])},
		{"an address twice is tried once", both, ips(six[0], six[0]), ips(six[0])},
		{"SMTP-5.1-09 many of one family are cut", both, ips(six...), ips(six[:5]...)},
		{"SMTP-5.1-09 many of the other family are cut", both, ips(four...), ips(four[:5]...)},
		{"SMTP-5.1-09 SMTP-5.1-10 many of both: neither crowds out the other", both, ips(append(slices.Clone(six), four...)...), ips(append(slices.Clone(six[:3]), four[:2]...)...)},
		{"SMTP-5.1-09 many of one and one of the other", both, ips(append(slices.Clone(six), four[0])...), ips(append(slices.Clone(six[:4]), four[0])...)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.f.order(tt.in); !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestCutOwn(t *testing.T) {
	me := netip.MustParseAddr("203.0.113.1")
	own := func(ip netip.Addr) bool { return ip == me }
	host := func(preference uint16, name string, addrs ...string) found {
		f := found{target: target{host: addr.MustHost(name), preference: preference}}
		f.addrs.Records = ips(addrs...)
		return f
	}
	tests := []struct {
		name string
		in   []found
		want string
	}{
		{"nobody is us", []found{host(5, "a.example", "192.0.2.1"), host(10, "b.example")}, "5 a.example, 10 b.example"},
		{"SMTP-5.1-12 we and whoever comes after us are dropped", []found{host(5, "a.example", "192.0.2.1"), host(10, "me.example", "203.0.113.1"), host(20, "b.example", "192.0.2.2")}, "5 a.example"},
		{"SMTP-5.1-12 whoever is of our preference is dropped, before us or after", []found{host(5, "a.example"), host(10, "x.example"), host(10, "me.example", "192.0.2.9", "203.0.113.1"), host(10, "y.example")}, "5 a.example"},
		{"SMTP-5.1-12 we are the best", []found{host(5, "me.example", "203.0.113.1"), host(10, "b.example", "192.0.2.2")}, ""},
		{"SMTP-5.1-12 of two that are us the better one counts", []found{host(1, "a.example"), host(5, "me.example", "203.0.113.1"), host(10, "me2.example", "203.0.113.1")}, "1 a.example"},
		{"we are found at preference 0, and further down", []found{host(0, "me.example", "203.0.113.1"), host(5, "b.example"), host(10, "me2.example", "203.0.113.1")}, ""},
		{"we are found at preference 0", []found{host(0, "me.example", "203.0.113.1")}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got []target
			for _, h := range cutOwn(tt.in, own) {
				got = append(got, h.target)
			}
			if targetText(got) != tt.want {
				t.Errorf("got %q, want %q", targetText(got), tt.want)
			}
		})
	}
}

func TestOwn(t *testing.T) {
	c := &Client{options: Options{Own: []netip.AddrPort{
		netip.MustParseAddrPort("203.0.113.1:25"), netip.MustParseAddrPort("203.0.113.2:2525"), netip.MustParseAddrPort("[2001:db8::1]:25"),
	}}}
	tests := map[string]struct {
		ip   string
		want bool
	}{
		"SMTP-5.1-13 our address and our port 25":             {"203.0.113.1", true},
		"SMTP-5.1-13 our address, where we listen elsewhere":  {"203.0.113.2", false},
		"SMTP-5.1-13 another address":                         {"203.0.113.3", false},
		"SMTP-5.1-13 our IPv6 address":                        {"2001:db8::1", true},
		"SMTP-5.1-13 our address written as a mapped address": {"::ffff:203.0.113.1", true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := c.own(netip.MustParseAddr(tt.ip)); got != tt.want {
				t.Error(got)
			}
		})
	}
}
