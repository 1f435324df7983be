package lab

import (
	"crypto/x509"
	"fmt"

	"github.com/miekg/dns"
)

// TLSA is a TLSA record in zone text for the certificate that the host shows
// now (RFC 6698): usage 3 for the certificate itself, 2 for the authority it
// is from; selector 0 for the whole certificate, 1 for its key; matching type
// 0, 1 or 2. It is not put into DNS; usage 2 fits certificates of the root
// only, which does not come with them.
func (h *MXHost) TLSA(usage, selector, matching uint8) string {
	c := h.config()
	cert := certOf{c.Name, c.Cert, c.CertNames, c.Certificate}.certificate(h.w.CA)
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		panic("lab: TLSA: " + err.Error())
	}
	if usage == 0 || usage == 2 {
		leaf = h.w.CA.root.cert
	}
	data, err := dns.CertificateToDANE(selector, matching, leaf)
	if err != nil {
		panic("lab: TLSA: " + err.Error())
	}
	port := c.Port
	if port == 0 {
		port = 25
	}
	return fmt.Sprintf("_%d._tcp.%s 300 IN TLSA %d %d %d %s", port, canonical(c.Name), usage, selector, matching, data)
}
