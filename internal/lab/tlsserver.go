package lab

import "crypto/tls"

// certOf says which certificate a server shows.
type certOf struct {
	name  string
	kind  CertKind
	names []string
	own   *tls.Certificate
}

func (c certOf) certificate(ca *CA) *tls.Certificate {
	switch {
	case c.own != nil:
		return c.own
	case c.names != nil:
		return ca.Certificate(c.kind, c.names...)
	}
	return ca.Certificate(c.kind, c.name)
}

// serverTLS is the TLS of a server. Versions that are zero are 1.2 and 1.3.
func serverTLS(ca *CA, c certOf, low, high uint16) *tls.Config {
	if low == 0 {
		low = tls.VersionTLS12
	}
	if high == 0 {
		high = tls.VersionTLS13
	}
	return &tls.Config{
		Certificates: []tls.Certificate{*c.certificate(ca)},
		MinVersion:   min(low, high),
		MaxVersion:   high,
	}
}
