package relay

import (
	"net"
	"net/netip"
	"testing"
)

// Who may relay from where, complete: nobody who is not listed.
func TestMayRelay(t *testing.T) {
	lists := map[string][]netip.Prefix{
		"nothing":     nil,
		"loopback":    {netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")},
		"a network":   {netip.MustParsePrefix("192.0.2.0/24")},
		"a host":      {netip.MustParsePrefix("192.0.2.7/32")},
		"IPv6":        {netip.MustParsePrefix("2001:db8::/32")},
		"mapped IPv4": {netip.MustParsePrefix("::ffff:192.0.2.0/120")},
	}
	clients := map[string]net.Addr{
		"127.0.0.1":          tcp("127.0.0.1"),
		"::1":                tcp("::1"),
		"192.0.2.7":          tcp("192.0.2.7"),
		"192.0.2.8":          tcp("192.0.2.8"),
		"::ffff:192.0.2.7":   tcp("::ffff:192.0.2.7"),
		"198.51.100.1":       tcp("198.51.100.1"),
		"2001:db8::1":        tcp("2001:db8::1"),
		"fe80::1 with zone":  &net.TCPAddr{IP: net.ParseIP("fe80::1"), Zone: "eth0"},
		"local":              &net.UnixAddr{Name: "@", Net: "unix"},
		"nobody knows":       nil,
		"an address of UDP":  &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)},
		"a TCP address of 0": &net.TCPAddr{},
	}
	may := map[[2]string]bool{
		{"loopback", "127.0.0.1"}: true, {"loopback", "::1"}: true,
		{"a network", "192.0.2.7"}: true, {"a network", "192.0.2.8"}: true, {"a network", "::ffff:192.0.2.7"}: true,
		{"a host", "192.0.2.7"}: true, {"a host", "::ffff:192.0.2.7"}: true,
		{"IPv6", "2001:db8::1"}:             true,
		{"mapped IPv4", "192.0.2.7"}:        true,
		{"mapped IPv4", "192.0.2.8"}:        true,
		{"mapped IPv4", "::ffff:192.0.2.7"}: true,
	}
	for list, from := range lists {
		for name, client := range clients {
			want := may[[2]string{list, name}] || name == "local"
			if got := mayRelay(from, client); got != want {
				t.Errorf("allow_from %s, client %s: %v", list, name, got)
			}
		}
	}
}

func tcp(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 4711} }
