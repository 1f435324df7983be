package delivery

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"errors"
	"slices"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/internal/resolver"
)

// The fields of a TLSA record that we understand (RFC 6698, Section 7). The
// usages with PKIX are for others than SMTP: records that have them are
// unusable (RFC 7672, Section 3.1.3; ledger DANE-3.1-01).
const (
	daneTA = 2 // a trust anchor
	daneEE = 3 // the host's own certificate

	selectCert = 0 // the whole certificate
	selectKey  = 1 // its SubjectPublicKeyInfo

	matchFull   = 0
	matchSHA256 = 1
	matchSHA512 = 2
)

// usableTLSA reports whether a record can be matched against a certificate.
// What is malformed or unknown is as good as absent, except that TLS stays
// mandatory (RFC 6698, Section 4.1; ledger TLSA-4.1-02, DANE-2.2-02).
func usableTLSA(r resolver.TLSA) bool {
	if r.Usage != daneTA && r.Usage != daneEE || r.Selector > selectKey {
		return false
	}
	switch r.Matching {
	case matchSHA256:
		return len(r.Data) == sha256.Size
	case matchSHA512:
		return len(r.Data) == sha512.Size
	case matchFull:
		return usableFull(r)
	}
	return false
}

// usableFull is usableTLSA for data in full. A trust anchor is worked with, so
// it must be one.
func usableFull(r resolver.TLSA) bool {
	var err error
	switch {
	case r.Usage == daneEE:
		return len(r.Data) > 0
	case r.Selector == selectCert:
		_, err = x509.ParseCertificate(r.Data)
	default:
		_, err = x509.ParsePKIXPublicKey(r.Data)
	}
	return err == nil
}

// strongestTLSA keeps of the usable records those that count: of each usage and
// selector the ones in full and the ones with the strongest digest, so that a
// digest that is broken one day does not help an attacker while a better one is
// published beside it (RFC 7671, Section 9; ledger DANE71-9-01).
func strongestTLSA(records []resolver.TLSA) []resolver.TLSA {
	type kind struct{ usage, selector uint8 }
	best := make(map[kind]uint8, len(records))
	var usable []resolver.TLSA
	for _, r := range records {
		if usableTLSA(r) {
			usable = append(usable, r)
			k := kind{r.Usage, r.Selector}
			best[k] = max(best[k], r.Matching) // SHA2-512 is stronger than SHA2-256, and numbered higher
		}
	}
	return slices.DeleteFunc(usable, func(r resolver.TLSA) bool {
		return r.Matching != matchFull && r.Matching != best[kind{r.Usage, r.Selector}]
	})
}

// tlsaFacts is what DNS says of the TLSA records of one host.
type tlsaFacts struct {
	state   TLSAState
	base    addr.Host
	records []resolver.TLSA
	err     error     // with TLSAFailed
	expires time.Time // of the records
}

// errNotValidated is why a host that is known for its TLSA records waits.
var errNotValidated = errors.New("the DNS resolver of this relay does not validate DNSSEC now, and did when it last saw TLSA records of the host")

// tlsa finds the TLSA base domain of a host and its records (RFC 7672, Section
// 2.2.2 and 2.2.3). The addresses were looked up before: where they are not
// secure no TLSA query is made, since name servers that do not know the type
// answer it with errors (ledger DANE-2.2.2-01, -02).
func (c *Client) tlsa(ctx context.Context, host addr.Host, port uint16, a resolver.Addresses) tlsaFacts {
	if host.IsZero() { // ledger DANE-2.2-06
		return tlsaFacts{}
	}
	if !c.validating() {
		if m := c.options.Seen; m != nil && m.HadTLSA(host, time.Now()) {
			return tlsaFacts{state: TLSAFailed, err: errNotValidated}
		}
		return tlsaFacts{}
	}
	bases, err := c.baseDomains(ctx, host, a)
	if err != nil {
		return tlsaFacts{state: TLSAFailed, err: err}
	}
	denied := len(bases) > 0
	for _, base := range bases {
		answer, err := c.options.Resolver.TLSA(ctx, port, base)
		switch {
		case errors.Is(err, resolver.ErrNXDomain): // an answer like any other (ledger DANE-2.1.1-04)
		case err != nil:
			return tlsaFacts{state: TLSAFailed, err: err}
		case answer.Secure && len(answer.Records) > 0:
			c.remember(host, true)
			return foundTLSA(base, answer)
		}
		denied = denied && answer.Secure
	}
	if denied {
		c.remember(host, false)
		return tlsaFacts{}
	}
	return c.unproven(ctx, host)
}

// unproven is what insecure answers say of a host. One that had records before
// may have lost them by a resolver that stopped validating a moment ago, which
// is looked into at once.
func (c *Client) unproven(ctx context.Context, host addr.Host) tlsaFacts {
	again := c.options.Revalidate
	if m := c.options.Seen; m == nil || again == nil || !m.HadTLSA(host, time.Now()) || again(ctx) {
		return tlsaFacts{}
	}
	return tlsaFacts{state: TLSAFailed, err: errNotValidated}
}

// baseDomains lists the names at which TLSA records of the host are looked for,
// in order: the end of its CNAMEs if all of them are secure, then the host
// itself. Of an alias whose end is not secure, the first link may still be
// (ledger DANE-2.1.3-03, DANE-2.2.2-04 to -06).
func (c *Client) baseDomains(ctx context.Context, host addr.Host, a resolver.Addresses) (list []addr.Host, err error) {
	switch {
	case a.Secure:
		if end, err := addr.ParseHost(a.Canonical); err == nil && end != host {
			list = append(list, end)
		}
		return append(list, host), nil
	case len(a.Links) == 0:
		return nil, nil
	}
	first, err := c.options.Resolver.CNAME(ctx, host.String())
	switch {
	case errors.Is(err, resolver.ErrNXDomain):
		return nil, nil
	case err != nil:
		return nil, err
	case first.Secure:
		list = append(list, host)
	}
	return list, nil
}

// foundTLSA takes a secure RRset, in one order whatever that of the answer, so
// that equal sets are seen to be equal.
func foundTLSA(base addr.Host, a resolver.Answer[resolver.TLSA]) tlsaFacts {
	f := tlsaFacts{state: TLSAUnusable, base: base, expires: a.Expires}
	f.records = slices.SortedFunc(slices.Values(a.Records), func(a, b resolver.TLSA) int {
		return cmp.Or(cmp.Compare(a.Usage, b.Usage), cmp.Compare(a.Selector, b.Selector),
			cmp.Compare(a.Matching, b.Matching), slices.Compare(a.Data, b.Data))
	})
	if slices.ContainsFunc(f.records, usableTLSA) {
		f.state = TLSAUsable
	}
	return f
}

// validating reports whether answers can be secure at all.
func (c *Client) validating() bool {
	return c.options.Validating == nil || c.options.Validating()
}

// remember keeps which hosts have TLSA records, for times without validation.
func (c *Client) remember(host addr.Host, has bool) {
	switch m := c.options.Seen; {
	case m == nil:
	case has:
		m.SawTLSA(host, time.Now())
	default:
		m.ForgetTLSA(host)
	}
}

// references are the names of which a certificate under a DANE-TA record must
// have one: the TLSA base domain, and where nobody can have forged the way there
// the next-hop domain too, as it is and with its CNAMEs followed (RFC 7672,
// Section 3.2.2; ledger DANE-3.2.2-01 to -04).
func references(base addr.Host, h candidate, p Plan) []addr.Host {
	list := []addr.Host{base}
	var more []addr.Host
	switch {
	case h.direct:
		more = []addr.Host{h.host}
	case h.secure:
		more = []addr.Host{p.Domain.Host(), p.canonical}
	}
	for _, n := range more {
		if !n.IsZero() && !slices.Contains(list, n) {
			list = append(list, n)
		}
	}
	return list
}
