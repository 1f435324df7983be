package lab_test

import (
	"crypto/x509"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// dane is what the TLSA records of a host demand.
type dane struct {
	base   string      // the TLSA base domain, "" if DANE does not apply
	usable []*dns.TLSA // of these one must match; none: TLS with anybody
	names  []string    // what a certificate under a trust anchor may be for
}

// bogus reports whether the server says that signatures are wrong.
func bogus(m *dns.Msg) bool {
	if m.Rcode != dns.RcodeServerFailure || m.IsEdns0() == nil {
		return false
	}
	return slices.ContainsFunc(m.IsEdns0().Option, func(o dns.EDNS0) bool {
		e, ok := o.(*dns.EDNS0_EDE)
		return ok && e.InfoCode == dns.ExtendedErrorCodeDNSBogus
	})
}

// lookup finds the TLSA records of a host whose addresses are a.
func (s *sender) lookup(a *dns.Msg, domain string, want demand) (d dane, fail string) {
	for _, base := range s.candidates(a, want.host) {
		m := ask(s.t, s.w, "udp", "_25._tcp."+base+".", "TLSA")
		switch {
		case bogus(m):
			return d, "dnssec-bogus"
		case m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError:
			return d, "tlsa-lookup-failed"
		case !m.AuthenticatedData:
			continue
		}
		for _, rr := range m.Answer {
			if r, ok := rr.(*dns.TLSA); ok {
				d.base = base
				if r.Usage == 2 || r.Usage == 3 {
					d.usable = append(d.usable, r)
				}
			}
		}
		if d.base != "" {
			d.names = []string{base}
			if want.signed {
				d.names = append(d.names, domain)
			}
			return d, ""
		}
	}
	return d, ""
}

// candidates lists the names that may be the TLSA base domain.
func (s *sender) candidates(a *dns.Msg, host string) []string {
	end := host
	for _, rr := range a.Answer {
		if c, ok := rr.(*dns.CNAME); ok {
			end = strings.TrimSuffix(c.Target, ".")
		}
	}
	switch {
	case a.AuthenticatedData && end != host:
		return []string{end, host}
	case a.AuthenticatedData, end != host && ask(s.t, s.w, "udp", host+".", "CNAME").AuthenticatedData:
		return []string{host}
	}
	return nil
}

// matches reports whether a chain is what the records say.
func (d dane) matches(certs []*x509.Certificate) bool {
	return slices.ContainsFunc(d.usable, func(r *dns.TLSA) bool {
		stronger := func(o *dns.TLSA) bool {
			return o.Usage == r.Usage && o.Selector == r.Selector && o.MatchingType > r.MatchingType
		}
		switch {
		case r.MatchingType > 0 && slices.ContainsFunc(d.usable, stronger):
			return false
		case r.Usage == 3:
			return r.Verify(certs[0]) == nil
		}
		return slices.ContainsFunc(certs[1:], func(ta *x509.Certificate) bool { return r.Verify(ta) == nil && d.vouches(ta, certs) })
	})
}

// vouches reports whether the chain leads to the trust anchor, and is for one
// of the names.
func (d dane) vouches(ta *x509.Certificate, certs []*x509.Certificate) bool {
	o := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool()}
	o.Roots.AddCert(ta)
	for _, c := range certs[1:] {
		o.Intermediates.AddCert(c)
	}
	if _, err := certs[0].Verify(o); err != nil {
		return false
	}
	return slices.ContainsFunc(d.names, func(name string) bool {
		return certs[0].VerifyHostname(name) == nil || certs[0].DNSNames == nil && certs[0].Subject.CommonName == name
	})
}
