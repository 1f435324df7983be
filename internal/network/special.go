package network

import "net/netip"

var (
	global = netip.MustParsePrefix("2000::/3")     // all that is given out as global unicast (RFC 4291, Section 2.4)
	nat64  = netip.MustParsePrefix("64:ff9b::/96") // RFC 6052: stands for an IPv4 address
)

type network struct {
	prefix netip.Prefix
	why    string
}

// specials are the networks of IANA's special-purpose address registries (RFC
// 6890) where no mail host, policy host or report endpoint of the public
// Internet can be; of networks that overlap, the smaller first. Registered but
// not here are those that are routed like any other and hold public servers:
// 192.31.196.0/24, 192.175.48.0/24, 2620:4f:8000::/48 (AS112) and
// 192.52.193.0/24 (AMT).
var specials = []network{
	{netip.MustParsePrefix("0.0.0.0/32"), "the unspecified address"},
	{netip.MustParsePrefix("0.0.0.0/8"), "in the network of this host (0.0.0.0/8)"},
	{netip.MustParsePrefix("10.0.0.0/8"), "in a private network (10.0.0.0/8)"},
	{netip.MustParsePrefix("100.64.0.0/10"), "in a provider's shared network (100.64.0.0/10)"},
	{netip.MustParsePrefix("127.0.0.0/8"), "a loopback address"},
	{netip.MustParsePrefix("169.254.0.0/16"), "a link-local address"},
	{netip.MustParsePrefix("172.16.0.0/12"), "in a private network (172.16.0.0/12)"},
	{netip.MustParsePrefix("192.0.0.0/24"), "in a network for protocols (192.0.0.0/24)"},
	{netip.MustParsePrefix("192.0.2.0/24"), "in a network for documentation (192.0.2.0/24)"},
	{netip.MustParsePrefix("192.88.99.0/24"), "the address of a 6to4 relay (192.88.99.0/24)"},
	{netip.MustParsePrefix("192.168.0.0/16"), "in a private network (192.168.0.0/16)"},
	{netip.MustParsePrefix("198.18.0.0/15"), "in a network for benchmarks (198.18.0.0/15)"},
	{netip.MustParsePrefix("198.51.100.0/24"), "in a network for documentation (198.51.100.0/24)"},
	{netip.MustParsePrefix("203.0.113.0/24"), "in a network for documentation (203.0.113.0/24)"},
	{netip.MustParsePrefix("224.0.0.0/4"), "a multicast address"},
	{netip.MustParsePrefix("255.255.255.255/32"), "the broadcast address"},
	{netip.MustParsePrefix("240.0.0.0/4"), "in a reserved network (240.0.0.0/4)"},

	{netip.MustParsePrefix("::/128"), "the unspecified address"},
	{netip.MustParsePrefix("::1/128"), "a loopback address"},
	{netip.MustParsePrefix("::/96"), "an address of the retired IPv4-compatible form (::/96)"},
	{netip.MustParsePrefix("64:ff9b:1::/48"), "in a network for local NAT64 (64:ff9b:1::/48)"},
	{netip.MustParsePrefix("100::/64"), "in the network where packets are dropped (100::/64)"},
	{netip.MustParsePrefix("2001::/32"), "a Teredo address (2001::/32)"},
	{netip.MustParsePrefix("2001:2::/48"), "in a network for benchmarks (2001:2::/48)"},
	{netip.MustParsePrefix("2001::/23"), "in a network for protocols (2001::/23)"},
	{netip.MustParsePrefix("2001:db8::/32"), "in a network for documentation (2001:db8::/32)"},
	{netip.MustParsePrefix("2002::/16"), "a 6to4 address (2002::/16)"},
	{netip.MustParsePrefix("3fff::/20"), "in a network for documentation (3fff::/20)"},
	{netip.MustParsePrefix("5f00::/16"), "a segment routing identifier (5f00::/16)"},
	{netip.MustParsePrefix("fc00::/7"), "in a private network (fc00::/7)"},
	{netip.MustParsePrefix("fe80::/10"), "a link-local address"},
	{netip.MustParsePrefix("fec0::/10"), "in a retired site-local network (fec0::/10)"},
	{netip.MustParsePrefix("ff00::/8"), "a multicast address"},
}
