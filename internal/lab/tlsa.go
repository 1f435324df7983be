package lab

import (
	"crypto/x509"
	"fmt"

	"github.com/miekg/dns"
)

// TLSA is a TLSA record in zone text for the certificate that the host shows
// now (RFC 6698): usage 1 or 3 for the certificate itself, 0 or 2 for the
// authority it is from; selector 0 for the whole certificate, 1 for its key;
// matching type 0, 1 or 2. It is not put into DNS. Of the authorities only the
// intermediate and that of OwnCA come with a certificate, which a record of
// usage 2 needs (RFC 7671, Section 5.2).
func (h *MXHost) TLSA(usage, selector, matching uint8) string {
	return h.TLSAFor(h.leaf(), usage, selector, matching)
}

// TLSAFor is TLSA for another certificate than that which the host shows.
func (h *MXHost) TLSAFor(leaf *x509.Certificate, usage, selector, matching uint8) string {
	c := h.config()
	port := c.Port
	if port == 0 {
		port = 25
	}
	if usage == 0 || usage == 2 {
		leaf = h.w.CA.issuerOf(leaf)
	}
	return TLSA(fmt.Sprintf("_%d._tcp.%s", port, c.Name), leaf, usage, selector, matching)
}

func (h *MXHost) leaf() *x509.Certificate {
	c := h.config()
	cert := certOf{c.Name, c.Cert, c.CertNames, c.Certificate}.certificate(h.w.CA)
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		panic("lab: TLSA: " + err.Error())
	}
	return leaf
}

// TLSA is a TLSA record in zone text for a certificate.
func TLSA(owner string, c *x509.Certificate, usage, selector, matching uint8) string {
	data, err := dns.CertificateToDANE(selector, matching, c)
	if err != nil {
		panic("lab: TLSA: " + err.Error())
	}
	return fmt.Sprintf("%s 300 IN TLSA %d %d %d %s", canonical(owner), usage, selector, matching, data)
}
