package unboundtest

import (
	"crypto"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

const (
	ttl = 300
	day = 24 * time.Hour
)

// A zone is a Zone, signed if it is to be. Names in it are in lower case.
type zone struct {
	name  string
	state State
	nodes map[string]map[uint16][]dns.RR // records and their signatures
	names []string                       // of nodes, in canonical order
	key   *dns.DNSKEY                    // nil: the zone is not signed
	by    crypto.Signer
}

// sign makes the zones and binds each to the one above it.
func sign(list []Zone) ([]*zone, error) {
	var zones []*zone
	for _, from := range list {
		z, err := newZone(from)
		if err != nil {
			return nil, fmt.Errorf("zone %s: %w", from.Name, err)
		}
		zones = append(zones, z)
	}
	slices.SortStableFunc(zones, func(a, b *zone) int { return dns.CountLabel(b.name) - dns.CountLabel(a.name) })
	for i, z := range zones {
		for _, parent := range zones[i+1:] {
			if dns.IsSubDomain(parent.name, z.name) {
				parent.delegate(z)
				break
			}
		}
	}
	for _, z := range zones {
		if err := z.sign(); err != nil {
			return nil, fmt.Errorf("zone %s: %w", z.name, err)
		}
	}
	return zones, nil
}

func newZone(from Zone) (*zone, error) {
	z := &zone{name: from.Name, state: from.State, nodes: map[string]map[uint16][]dns.RR{}}
	if z.state != Insecure {
		z.key = &dns.DNSKEY{Hdr: z.header(dns.TypeDNSKEY), Flags: dns.ZONE | dns.SEP, Protocol: 3, Algorithm: dns.ECDSAP256SHA256}
		private, err := z.key.Generate(256)
		if err != nil {
			return nil, err
		}
		z.by = private.(crypto.Signer)
		z.add(z.key)
	}
	z.add(&dns.NS{Hdr: z.header(dns.TypeNS), Ns: "ns.invalid."})
	z.add(&dns.SOA{
		Hdr: z.header(dns.TypeSOA), Ns: "ns.invalid.", Mbox: "hostmaster.invalid.",
		Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: ttl,
	})
	p := dns.NewZoneParser(strings.NewReader(from.Text), z.name, "")
	p.SetDefaultTTL(ttl)
	for rr, ok := p.Next(); ok; rr, ok = p.Next() {
		z.add(rr)
	}
	return z, p.Err()
}

func (z *zone) header(rrtype uint16) dns.RR_Header {
	return dns.RR_Header{Name: z.name, Rrtype: rrtype, Class: dns.ClassINET, Ttl: ttl}
}

func (z *zone) add(rr dns.RR) {
	name, rrtype := rr.Header().Name, rr.Header().Rrtype
	if z.nodes[name] == nil {
		z.nodes[name] = map[uint16][]dns.RR{}
	}
	z.nodes[name][rrtype] = append(z.nodes[name][rrtype], rr)
}

// delegate puts below into z, as signed or as not.
func (z *zone) delegate(below *zone) {
	z.add(&dns.NS{Hdr: below.header(dns.TypeNS), Ns: "ns.invalid."})
	if below.key != nil {
		ds := below.key.ToDS(dns.SHA256)
		ds.Hdr = below.header(dns.TypeDS)
		z.add(ds)
	}
}

// sign links the names of the zone by NSEC records and signs each set of
// records that is the zone's own: the NS of a delegation is not (RFC 4035,
// Section 2.2).
func (z *zone) sign() error {
	for name := range z.nodes {
		z.names = append(z.names, name)
	}
	slices.SortFunc(z.names, canonical)
	if z.key == nil {
		return nil
	}
	for i, name := range z.names {
		z.add(z.nsec(name, z.names[(i+1)%len(z.names)]))
	}
	if z.state == Unsigned {
		return nil
	}
	for name, node := range z.nodes {
		for rrtype, set := range node {
			if rrtype == dns.TypeNS && name != z.name {
				continue
			}
			sig, err := z.signature(set)
			if err != nil {
				return err
			}
			node[rrtype] = append(set, sig)
		}
	}
	return nil
}

func (z *zone) nsec(name, next string) *dns.NSEC {
	types := []uint16{dns.TypeRRSIG, dns.TypeNSEC}
	for rrtype := range z.nodes[name] {
		types = append(types, rrtype)
	}
	slices.Sort(types)
	h := z.header(dns.TypeNSEC)
	h.Name = name
	return &dns.NSEC{Hdr: h, NextDomain: next, TypeBitMap: types}
}

func (z *zone) signature(set []dns.RR) (*dns.RRSIG, error) {
	from, to := time.Now().Add(-day), time.Now().Add(30*day)
	switch z.state {
	case Expired:
		from, to = from.Add(-30*day), from.Add(-6*day)
	case Early:
		from = from.Add(8 * day)
	}
	sig := &dns.RRSIG{
		Algorithm: z.key.Algorithm, KeyTag: z.key.KeyTag(), SignerName: z.name,
		Inception: uint32(from.Unix()), Expiration: uint32(to.Unix()),
	}
	if err := sig.Sign(z.by, set); err != nil {
		return nil, err
	}
	if z.state == Altered && set[0].Header().Rrtype != dns.TypeDNSKEY {
		return sig, alter(sig)
	}
	return sig, nil
}

func alter(sig *dns.RRSIG) error {
	b, err := base64.StdEncoding.DecodeString(sig.Signature)
	if err != nil {
		return err
	}
	b[0] ^= 1
	sig.Signature = base64.StdEncoding.EncodeToString(b)
	return nil
}

// covering is the NSEC record of name, or that of the gap that name would be in.
func (z *zone) covering(name string) []dns.RR {
	i, found := slices.BinarySearchFunc(z.names, name, canonical)
	if !found {
		i--
	}
	return z.nodes[z.names[i]][dns.TypeNSEC]
}

// exists reports whether name is a name of the zone or above one.
func (z *zone) exists(name string) bool {
	return slices.ContainsFunc(z.names, func(n string) bool { return dns.IsSubDomain(name, n) })
}

// canonical is the order of names of RFC 4034, Section 6.1.
func canonical(a, b string) int {
	return slices.Compare(reversed(a), reversed(b))
}

func reversed(name string) []string {
	labels := dns.SplitDomainName(name)
	slices.Reverse(labels)
	return labels
}
