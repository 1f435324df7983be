package resolver

import (
	"encoding/hex"
	"net/netip"
	"strings"

	"stsrelay/internal/addr"

	"github.com/miekg/dns"
)

// The readers below say false of a record whose data is too short for its type:
// the library takes an RR that ends early for one with empty fields.

// readMX keeps odd names as text: a target that no host can have is the
// caller's to skip and to tell of (ledger SMTP-5.1-17).
func readMX(rr dns.RR) (MX, bool) {
	r, ok := rr.(*dns.MX)
	if !ok || r.Hdr.Rdlength < 3 {
		return MX{}, false
	}
	mx := MX{Preference: r.Preference, Name: bare(r.Mx)}
	if h, err := addr.ParseHost(r.Mx); err == nil {
		mx.Host = h
	}
	return mx, true
}

func readTXT(rr dns.RR) (string, bool) {
	r, ok := rr.(*dns.TXT)
	if !ok {
		return "", false
	}
	var b strings.Builder
	for _, s := range r.Txt {
		unescape(&b, s)
	}
	return b.String(), true
}

func readTLSA(rr dns.RR) (TLSA, bool) {
	r, ok := rr.(*dns.TLSA)
	if !ok || r.Hdr.Rdlength < 3 {
		return TLSA{}, false
	}
	data, err := hex.DecodeString(r.Certificate)
	if err != nil {
		return TLSA{}, false
	}
	return TLSA{Usage: r.Usage, Selector: r.Selector, Matching: r.MatchingType, Data: data}, true
}

func readCNAME(rr dns.RR) (string, bool) {
	r, ok := rr.(*dns.CNAME)
	if !ok || r.Hdr.Rdlength < 1 {
		return "", false
	}
	return bare(lower(r.Target)), true
}

func readAddr(rr dns.RR) (netip.Addr, bool) {
	switch r := rr.(type) {
	case *dns.A:
		ip, ok := netip.AddrFromSlice(r.A.To4())
		return ip, ok
	case *dns.AAAA:
		return netip.AddrFromSlice(r.AAAA.To16())
	}
	return netip.Addr{}, false
}

// unescape turns the library's zone file spelling of a character-string
// (\" and \\ and \DDD) back into the bytes that DNS carried.
func unescape(b *strings.Builder, s string) {
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		if i+3 < len(s) && digit(s[i+1]) && digit(s[i+2]) && digit(s[i+3]) {
			b.WriteByte((s[i+1]-'0')*100 + (s[i+2]-'0')*10 + s[i+3] - '0')
			i += 3
			continue
		}
		i++
		b.WriteByte(s[i])
	}
}

func digit(c byte) bool { return c >= '0' && c <= '9' }
