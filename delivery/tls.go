package delivery

import (
	"crypto/tls"
	"crypto/x509"
)

// tlsConfig returns the configuration of one handshake under d. It accepts any
// certificate and leaves in e what the certificate is worth: PKIXErr, PKIXFor,
// DANEErr and DANEFor. Judge alone decides what follows from that. The caller
// sets e.State once the handshake is done. A nil roots means the system's.
func tlsConfig(d Decision, roots *x509.CertPool, e *Evidence) *tls.Config {
	return &tls.Config{}
}
