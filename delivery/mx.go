package delivery

import (
	"cmp"
	"errors"
	"net/netip"
	"slices"

	"stsrelay/internal/addr"
	"stsrelay/internal/resolver"
	"stsrelay/tlsrpt"
)

// What one destination may cost us, whatever its DNS says (RFC 5321, Section
// 5.1, allows a limit and wants two addresses at least; ledger SMTP-5.1-09).
const (
	hostLimit    = 20
	addressLimit = 5 // per host; where both families have many, the share of IPv6 is familyShare
	familyShare  = 3
)

// A target is a host that mail may go to.
type target struct {
	host       addr.Host
	preference uint16
	direct     bool // the domain itself, for want of MX records
}

// targets makes the list of hosts from the MX records of domain: by preference,
// lowest first, and equal ones in an order that shuffle makes (RFC 5321, Section
// 5.1). A domain without records is its own host, of preference 0; one with
// records never is (ledger SMTP-5.1-04, -05). A host that is named twice counts
// where it is preferred most. odd are the names that no host can have.
func targets(domain addr.Domain, records []resolver.MX, shuffle func(int, func(i, j int))) (hosts []target, odd []string, err *Error) {
	if len(records) == 0 {
		return []target{{host: domain.Host(), direct: true}}, nil, nil
	}
	null := false
	for _, r := range records {
		switch {
		case r.Name == ".":
			null = true
		case r.Host.IsZero():
			odd = append(odd, r.Name)
		default:
			hosts = append(hosts, target{host: r.Host, preference: r.Preference})
		}
	}
	switch {
	case len(hosts) == 0 && len(odd) > 0:
		return nil, odd, NewError(StagePlan, NoAddress, addr.Host{}, "the MX records of "+domain.String()+" name nothing that can be a host")
	case len(hosts) == 0 && null:
		// Among others the "." is a mistake and ignored, alone it is meant,
		// whatever its preference (ledger NMX-3-01, NMX-3-02).
		return nil, nil, NewError(StagePlan, NullMX, addr.Host{}, domain.String()+" says by a null MX record that it takes no mail")
	}
	shuffle(len(hosts), func(i, j int) { hosts[i], hosts[j] = hosts[j], hosts[i] })
	slices.SortStableFunc(hosts, func(a, b target) int { return cmp.Compare(a.preference, b.preference) })
	hosts = unique(hosts)
	return hosts[:min(len(hosts), hostLimit)], odd, nil
}

// unique keeps the first target of each name.
func unique(hosts []target) []target {
	seen := make(map[addr.Host]bool, len(hosts))
	return slices.DeleteFunc(hosts, func(t target) bool {
		again := seen[t.host]
		seen[t.host] = true
		return again
	})
}

// families are the address families in use, and which comes first.
type families struct{ v6, v4, prefer4 bool }

// order keeps the resolver's order within a family (ledger SMTP-5.1-08), puts
// the preferred family first and drops one that is not in use (RFC 3974,
// Section 3). Of more than addressLimit each family keeps its share, so that
// neither crowds out the other.
func (f families) order(addrs []netip.Addr) []netip.Addr {
	var v6, v4 []netip.Addr
	for _, a := range addrs {
		a = a.Unmap()
		switch {
		case a.Is4() && f.v4 && !slices.Contains(v4, a):
			v4 = append(v4, a)
		case a.Is6() && f.v6 && !slices.Contains(v6, a):
			v6 = append(v6, a)
		}
	}
	keep6 := min(len(v6), max(familyShare, addressLimit-len(v4)))
	keep4 := min(len(v4), addressLimit-keep6)
	v6, v4 = v6[:keep6], v4[:keep4]
	if f.prefer4 {
		return append(v4, v6...)
	}
	return append(v6, v4...)
}

// A found host is a target and what DNS says of its addresses, before anything
// is left out.
type found struct {
	target
	addrs resolver.Addresses
	err   error
}

// cutOwn drops every host at and beyond the preference at which one of them is
// ourselves: it would only send the mail back (RFC 5321, Section 5.1; ledger
// SMTP-5.1-12). own tells by address, since names are shared (SMTP-5.1-13). It
// sees all hosts and all addresses, those included that a policy or a setting
// would keep us from (RFC 8461, Section 8.4).
func cutOwn(hosts []found, own func(netip.Addr) bool) []found {
	cut := -1
	for _, h := range hosts {
		if slices.ContainsFunc(h.addrs.Records, own) && (cut < 0 || int(h.preference) < cut) {
			cut = int(h.preference)
		}
	}
	if cut < 0 {
		return hosts
	}
	return slices.DeleteFunc(slices.Clone(hosts), func(h found) bool { return int(h.preference) >= cut })
}

// own reports whether ip and the SMTP port lead to one of our listeners.
func (c *Client) own(ip netip.Addr) bool {
	return slices.ContainsFunc(c.options.Own, func(l netip.AddrPort) bool {
		return l.Port() == portSMTP && l.Addr().Unmap().WithZone("") == ip.Unmap().WithZone("")
	})
}

const portSMTP = 25

// usable makes of an address lookup the list to try, or says why there is
// none. Only a definitive denial makes NoAddress, which is permanent (ledger
// SMTP-5.1-11). Without guarded the addresses are the operator's own word.
func (c *Client) usable(h found, guarded bool) ([]netip.Addr, *Error) {
	name := h.host.String()
	switch {
	case errors.Is(h.err, resolver.ErrNXDomain), h.err == nil && len(h.addrs.Records) == 0:
		return nil, NewError(StagePlan, NoAddress, h.host, name+" has no address").because(h.err)
	case h.err != nil:
		return nil, lookupError(h.host, "the addresses of "+name, h.err)
	}
	addrs, forbidden := h.addrs.Records, error(nil)
	if guarded {
		addrs, forbidden = c.allowed(addrs)
	}
	if len(addrs) == 0 {
		return nil, NewError(StagePlan, ForbiddenAddress, h.host, forbidden.Error()).because(forbidden)
	}
	addrs = families{c.options.IPv6, c.options.IPv4, c.options.Prefer4}.order(addrs)
	if len(addrs) == 0 {
		return nil, NewError(StagePlan, ConnectFailed, h.host, name+" has only addresses of a family that is switched off here")
	}
	return addrs, nil
}

// allowed keeps the addresses that DNS may lead us to, and says of another why
// not.
func (c *Client) allowed(addrs []netip.Addr) (out []netip.Addr, forbidden error) {
	for _, a := range addrs {
		if err := c.options.Guard.Check(a); err != nil {
			forbidden = err
			continue
		}
		out = append(out, a)
	}
	return out, forbidden
}

// lookupError is a lookup that gave no answer. It is temporary, and so is a
// bogus answer: the zone may be repaired (ledger SMTP-5.1-03).
func lookupError(host addr.Host, what string, err error) *Error {
	reason := DNSFailed
	if isBogus(err) {
		reason = DNSBogus
	}
	return NewError(StagePlan, reason, host, "looking up "+what+": "+tlsrpt.Clean(err.Error())).because(err)
}

// isBogus reports whether DNSSEC validation failed.
func isBogus(err error) bool {
	var bogus *resolver.Bogus
	return errors.As(err, &bogus)
}
