package network

import (
	"errors"
	"fmt"
	"net/netip"
)

// A Guard refuses addresses that DNS has no business leading us to. The zero
// value allows public unicast addresses only.
type Guard struct {
	Allow []netip.Prefix // [network] allow_private
}

// A ForbiddenError says that DNS pointed somewhere the Guard does not let us go.
type ForbiddenError struct {
	Addr netip.Addr
	Why  string // what kind of address it is, with its article: "a loopback address"
}

func (e *ForbiddenError) Error() string {
	return fmt.Sprintf("DNS leads to %s, which is %s; if that is meant, add its network to [network] allow_private", e.Addr, e.Why)
}

// Check returns a *ForbiddenError for an address that may not be contacted. An
// IPv6 address that stands for an IPv4 address (mapped, or by NAT64) is judged
// as that address, both here and against Allow.
func (g Guard) Check(ip netip.Addr) error {
	ip = ip.WithZone("").Unmap()
	for _, p := range g.Allow {
		if Contains(p, ip) {
			return nil
		}
	}
	if nat64.Contains(ip) {
		return g.checkNAT64(ip)
	}
	if why := special(ip); why != "" {
		return &ForbiddenError{Addr: ip, Why: why}
	}
	return nil
}

// checkNAT64 judges the last four octets (RFC 6052, Section 2.2).
func (g Guard) checkNAT64(ip netip.Addr) error {
	b := ip.As16()
	v4 := netip.AddrFrom4([4]byte(b[12:]))
	var f *ForbiddenError
	if errors.As(g.Check(v4), &f) {
		return &ForbiddenError{Addr: ip, Why: fmt.Sprintf("the NAT64 form of %s, %s", v4, f.Why)}
	}
	return nil
}

// Contains is p.Contains, except that a mapped prefix, which netip matches
// with nothing unmapped, means the IPv4 one: ::ffff:10.0.0.0/104 is 10.0.0.0/8.
func Contains(p netip.Prefix, ip netip.Addr) bool {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Contains(ip)
}

// special says what kind of address ip is when it is no public unicast address,
// "" when it is.
func special(ip netip.Addr) string {
	if !ip.IsValid() {
		return "not an address"
	}
	for _, n := range specials {
		if n.prefix.Contains(ip) {
			return n.why
		}
	}
	if ip.Is6() && !global.Contains(ip) {
		return "not in the space of public addresses (2000::/3)"
	}
	return ""
}
