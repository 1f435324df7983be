package delivery

import (
	"context"
	"crypto/tls"
	"net/netip"

	"stsrelay/internal/addr"
)

// A site is one MX host as one Demand sees it: where it is and what it must
// show.
type site struct {
	index    int // in the Plan
	route    addr.NextHop
	addrs    []netip.AddrPort
	decision Decision
	addrErr  *Error // why there are no addrs
	policy   string // Outcome.Policy
	only4    bool   // a second visit, over IPv4
	skipped  bool   // and its session booked
}

// key is how kept connections to this host are found.
func (s *site) key() poolKey {
	k := poolKey{route: s.route, host: s.decision.Facts.MX.String(), sni: s.decision.SNI}
	if len(s.addrs) > 0 {
		k.port = s.addrs[0].Port()
		if k.host == "" {
			k.host = s.addrs[0].Addr().String()
		}
	}
	return k
}

// unconnected is the Error of an address that could not be connected to.
func (s *site) unconnected(ctx context.Context, a netip.AddrPort, err error) *Error {
	e := ioError(ctx, StageConnect, err)
	e.MX, e.Addr = s.decision.Facts.MX, a.String()
	return e
}

// v4Next reports whether e, from c, is a rejection that the host may not
// repeat over IPv4: on IPv6 many rules ask more, such as a PTR record (ledger
// SMTP-5.1-14).
func (s *site) v4Next(e *Error, c *conn) bool {
	if s.only4 || !e.Permanent || !e.Remote || e.Enhanced[1] != 7 && e.Enhanced[1] != 4 || !is6(c.addr) {
		return false
	}
	for _, a := range s.addrs {
		if !is6(a) {
			return true
		}
	}
	return false
}

func is6(a netip.AddrPort) bool { return !a.Addr().Unmap().Is4() }

// over4 is the same host without its IPv6 addresses.
func (s *site) over4() *site {
	v4 := *s
	v4.only4, v4.addrs = true, nil
	for _, a := range s.addrs {
		if !is6(a) {
			v4.addrs = append(v4.addrs, a)
		}
	}
	return &v4
}

// tls says how far the connection is to be trusted, in Postfix's words:
// Verified when the certificate is valid, or matches the TLSA records, for a name
// that a policy or DNSSEC vouches for; Trusted when the name came from plain DNS
// (RFC 9325, Section 7.1; RFC 7672, Section 2.2.1); Untrusted otherwise.
func (s *site) tls(c *conn) string {
	e := &c.evidence
	if e.State == nil {
		return ""
	}
	word := "Untrusted "
	d := s.decision
	dane := d.Want&DANE != 0 && d.daneErr(*e) == nil
	switch f := d.Facts; {
	case dane && (f.MXSecure || f.Direct || d.Pattern != ""),
		d.Want&PKIX != 0 && e.PKIXErr == nil && (d.Pattern != "" || f.MXSecure):
		word = "Verified "
	case dane, e.PKIXErr == nil:
		word = "Trusted "
	}
	switch e.State.Version {
	case tls.VersionTLS13:
		return word + "TLSv1.3"
	case tls.VersionTLS12:
		return word + "TLSv1.2"
	}
	return word + tls.VersionName(e.State.Version)
}
