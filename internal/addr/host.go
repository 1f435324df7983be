package addr

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// A Host is a name that an MX or SRV record may hold: a Domain in which
// underscores are tolerated (ledger SMTP-4.1.2-02). Hosts compare with ==.
type Host struct{ name string }

// ParseHost reads a host name; see ParseDomain for what is dropped and refused.
func ParseHost(s string) (Host, error) {
	name, err := canonical(s, true)
	if err != nil {
		return Host{}, fmt.Errorf("host %q: %w", s, err)
	}
	return Host{name}, nil
}

// MustHost is ParseHost for constants and tests; it panics on error.
func MustHost(s string) Host {
	h, err := ParseHost(s)
	if err != nil {
		panic(err)
	}
	return h
}

// String returns the A-label form, "" for the zero value.
func (h Host) String() string { return h.name }

// IsZero reports whether h is no host.
func (h Host) IsZero() bool { return h.name == "" }

// MarshalText implements encoding.TextMarshaler.
func (h Host) MarshalText() ([]byte, error) { return []byte(h.name), nil }

// UnmarshalText implements encoding.TextUnmarshaler; empty text is the zero value.
func (h *Host) UnmarshalText(b []byte) (err error) {
	if len(b) == 0 {
		*h = Host{}
		return nil
	}
	*h, err = ParseHost(string(b))
	return err
}

// A NextHop is what mail is routed to. Exactly one of three kinds:
//
//	example.com             a Domain: its MX records are looked up
//	[mx.example.com]:587    a Host and port: used as it is, no MX lookup
//	[192.0.2.1], [IPv6:2001:db8::1]:2525   an address literal and port
//
// NextHops compare with ==; String and ParseNextHop round-trip.
type NextHop struct {
	domain Domain
	host   Host
	ip     netip.Addr
	port   uint16 // 0 with a Domain
}

// DomainHop, HostHop and LiteralHop make the three kinds. Port 0 means 25.
func DomainHop(d Domain) NextHop { return NextHop{domain: d} }

// HostHop is a fixed host, without MX lookup.
func HostHop(h Host, port uint16) NextHop {
	if port == 0 {
		port = 25
	}
	return NextHop{host: h, port: port}
}

// LiteralHop is an address literal (RFC 5321, Section 4.1.3). A zone is
// dropped, for it means nothing beyond this machine.
func LiteralHop(ip netip.Addr, port uint16) NextHop {
	if port == 0 {
		port = 25
	}
	return NextHop{ip: ip.Unmap().WithZone(""), port: port}
}

// Domain returns the domain whose MX records are to be looked up, if it is one.
func (n NextHop) Domain() (Domain, bool) { return n.domain, !n.domain.IsZero() }

// Host returns the fixed host, if it is one.
func (n NextHop) Host() (Host, bool) { return n.host, !n.host.IsZero() }

// Literal returns the address, if it is an address literal.
func (n NextHop) Literal() (netip.Addr, bool) { return n.ip, n.ip.IsValid() }

// Port is the TCP port: 25 for a Domain.
func (n NextHop) Port() uint16 {
	if n.port == 0 {
		return 25
	}
	return n.port
}

// PolicyDomain is the domain whose MTA-STS policy binds mail sent this way:
// the domain, or the fixed host's name (RFC 8461, Section 3.4; ledger
// STS-3.4-01, STS-3.4-04). An address literal has none (STS-3.4-02).
func (n NextHop) PolicyDomain() (Domain, bool) {
	if d, ok := n.Domain(); ok {
		return d, true
	}
	if h, ok := n.Host(); ok {
		d, err := ParseDomain(h.name)
		return d, err == nil
	}
	return Domain{}, false
}

// IsZero reports whether n is no next hop.
func (n NextHop) IsZero() bool { return n == NextHop{} }

// String returns the form that ParseNextHop reads; a port of 25 is left out.
func (n NextHop) String() string {
	var s string
	switch {
	case !n.domain.IsZero():
		return n.domain.name
	case !n.host.IsZero():
		s = "[" + n.host.name + "]"
	case n.ip.Is4():
		s = "[" + n.ip.String() + "]"
	case n.ip.IsValid():
		s = "[IPv6:" + n.ip.String() + "]"
	default:
		return ""
	}
	if n.port != 25 {
		s += ":" + strconv.Itoa(int(n.port))
	}
	return s
}

// ParseNextHop reads one of the three forms. The tag of an IPv6 address may be
// left out.
func ParseNextHop(s string) (NextHop, error) {
	if !strings.HasPrefix(s, "[") {
		d, err := ParseDomain(s)
		return DomainHop(d), err
	}
	inner, rest, ok := strings.Cut(s[1:], "]")
	if !ok {
		return NextHop{}, fmt.Errorf("next hop %q: missing ]", s)
	}
	var port uint16
	if rest != "" {
		p, err := strconv.ParseUint(strings.TrimPrefix(rest, ":"), 10, 16)
		if err != nil || rest[0] != ':' || p == 0 {
			return NextHop{}, fmt.Errorf("next hop %q: %q is not a port", s, rest)
		}
		port = uint16(p)
	}
	if ip, err := ParseLiteral(inner); err == nil {
		return LiteralHop(ip, port), nil
	}
	if ip, err := ParseLiteral("IPv6:" + inner); err == nil {
		return LiteralHop(ip, port), nil
	}
	h, err := ParseHost(inner)
	if err != nil {
		return NextHop{}, fmt.Errorf("next hop %q: %w", s, err)
	}
	return HostHop(h, port), nil
}

// ParseLiteral reads what stands between the brackets of an address literal:
// "192.0.2.1" or "IPv6:2001:db8::1". Zones are refused.
func ParseLiteral(s string) (netip.Addr, error) {
	v6 := len(s) > 5 && strings.EqualFold(s[:5], "IPv6:")
	if v6 {
		s = s[5:]
	}
	ip, err := netip.ParseAddr(s)
	if err != nil || ip.Zone() != "" || ip.Is4() == v6 {
		return netip.Addr{}, fmt.Errorf("%q is not an address literal", s)
	}
	return ip, nil
}
