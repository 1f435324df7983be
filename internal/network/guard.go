package network

import (
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
	Why  string // "loopback address", "private network", ...
}

func (e *ForbiddenError) Error() string {
	return fmt.Sprintf("%s is a %s; add its network to [network] allow_private if that is meant", e.Addr, e.Why)
}

// Check returns a *ForbiddenError for an address that may not be contacted.
func (g Guard) Check(ip netip.Addr) error {
	ip = ip.Unmap()
	for _, p := range g.Allow {
		if p.Contains(ip) {
			return nil
		}
	}
	if why := special(ip); why != "" {
		return &ForbiddenError{Addr: ip, Why: why}
	}
	return nil
}

func special(ip netip.Addr) string {
	switch {
	case ip.IsLoopback():
		return "loopback address"
	case ip.IsPrivate():
		return "private network"
	case ip.IsLinkLocalUnicast():
		return "link-local address"
	case ip.IsUnspecified(), ip.IsMulticast():
		return "not a unicast address"
	}
	return ""
}
