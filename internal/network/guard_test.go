package network

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

func TestGuard(t *testing.T) {
	forbidden := map[string]string{
		"0.0.0.0": "unspecified", "0.1.2.3": "this host", "10.0.0.0": "private", "10.255.255.255": "private",
		"100.64.0.0": "shared", "100.127.255.255": "shared", "127.0.0.1": "loopback", "127.255.255.254": "loopback",
		"169.254.169.254": "link-local", "172.16.0.1": "private", "172.31.255.255": "private", "192.0.0.8": "protocols",
		"192.0.2.1": "documentation", "192.88.99.1": "6to4", "192.168.1.1": "private", "198.18.0.1": "benchmarks",
		"198.19.255.255": "benchmarks", "198.51.100.7": "documentation", "203.0.113.9": "documentation",
		"224.0.0.1": "multicast", "239.255.255.255": "multicast", "240.0.0.1": "reserved", "255.255.255.255": "broadcast",

		"::": "unspecified", "::1": "loopback", "::7f00:1": "IPv4-compatible", "::8.8.8.8": "IPv4-compatible",
		"64:ff9b:1::1": "local NAT64", "100::1": "dropped", "2001::1": "Teredo", "2001:0:4136:e378:8000:63bf:3fff:fdd2": "Teredo",
		"2001:2::1": "benchmarks", "2001:10::1": "protocols", "2001:1ff:ffff::1": "protocols", "2001:db8::1": "documentation",
		"2002:7f00:1::1": "6to4", "2002:808:808::1": "6to4", "3fff:fff::1": "documentation", "5f00::1": "segment routing",
		"fc00::1": "private", "fd12:3456::1": "private", "fe80::1": "link-local", "fe80::1%eth0": "link-local",
		"febf::1": "link-local", "fec0::1": "site-local", "ff02::1": "multicast", "4000::1": "public addresses", "::2:0:0": "public addresses",

		"::ffff:127.0.0.1": "loopback", "::ffff:10.1.1.1": "private", "::ffff:0.0.0.0": "unspecified",
		"64:ff9b::127.0.0.1": "the NAT64 form of 127.0.0.1, a loopback", "64:ff9b::10.0.0.1": "private",
		"64:ff9b::a9fe:a9fe": "the NAT64 form of 169.254.169.254, a link-local", "64:ff9b::": "unspecified",
	}
	for s, why := range forbidden {
		t.Run("refused: "+s, func(t *testing.T) {
			ip := netip.MustParseAddr(s)
			err := Guard{}.Check(ip)
			var f *ForbiddenError
			if !errors.As(err, &f) {
				t.Fatalf("error is %v", err)
			}
			if !strings.Contains(f.Why, why) || !strings.Contains(err.Error(), "allow_private") {
				t.Errorf("says %q, want something with %q", err, why)
			}
		})
	}
	for _, s := range []string{
		"1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.0", "172.15.255.255",
		"172.32.0.0", "192.0.1.0", "192.0.3.0", "192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0", "223.255.255.255",
		"2001:200::1", "2001:4860:4860::8888", "2003::1", "2606:4700::1111", "2a00:1450::1", "2620:4f:8000::1", "3ffe::1",
		"::ffff:8.8.8.8", "64:ff9b::8.8.8.8",
	} {
		t.Run("a public address is allowed: "+s, func(t *testing.T) {
			if err := (Guard{}).Check(netip.MustParseAddr(s)); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("no address is refused", func(t *testing.T) {
		if (Guard{}).Check(netip.Addr{}) == nil {
			t.Error("allowed")
		}
	})
	t.Run("the error is a sentence", func(t *testing.T) {
		err := Guard{}.Check(netip.MustParseAddr("10.1.2.3"))
		want := "DNS leads to 10.1.2.3, which is in a private network (10.0.0.0/8); if that is meant, add its network to [network] allow_private"
		if err.Error() != want {
			t.Errorf("got  %s\nwant %s", err, want)
		}
	})
}

func TestGuardAllow(t *testing.T) {
	tests := map[string]struct {
		allow, ip string
		want      bool
	}{
		"a listed network is allowed":                      {"127.0.0.0/8", "127.9.9.9", true},
		"a network beside it is not":                       {"10.1.0.0/16", "10.2.0.1", false},
		"a mapped address is judged as IPv4":               {"127.0.0.0/8", "::ffff:127.0.0.1", true},
		"a NAT64 address is judged as IPv4":                {"10.0.0.0/8", "64:ff9b::10.0.0.1", true},
		"a mapped network means the IPv4 network":          {"::ffff:10.0.0.0/104", "10.0.0.1", true},
		"an IPv6 network can be listed":                    {"fd00::/8", "fd00::1", true},
		"a zone does not hide an address from its network": {"fe80::/10", "fe80::1%eth0", true},
		"all of IPv4 leaves IPv6 alone":                    {"0.0.0.0/0", "::1", false},
		"all of IPv6 leaves IPv4 alone":                    {"::/0", "127.0.0.1", false},
		"all of IPv6 leaves mapped IPv4 alone":             {"::/0", "::ffff:127.0.0.1", false},
		"the NAT64 network itself can be listed":           {"64:ff9b::/96", "64:ff9b::10.0.0.1", true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			g := Guard{Allow: []netip.Prefix{netip.MustParsePrefix(tt.allow)}}
			if err := g.Check(netip.MustParseAddr(tt.ip)); (err == nil) != tt.want {
				t.Errorf("error is %v", err)
			}
		})
	}
}
