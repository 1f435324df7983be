package delivery

import (
	"crypto/tls"
	"crypto/x509"
	"time"
)

// cipherSuites are those of TLS 1.2 that we offer: ephemeral keys only (RFC
// 9325, Section 4.1), AEAD before the two with CBC. Those two stay because mail
// hosts exist that have an RSA certificate and nothing better, and the
// alternative would be clear text or, under a policy, no mail. TLS 1.3 has only
// good ones.
var cipherSuites = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
	tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
	tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA,
	tls.TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA,
}

// tlsConfig returns the configuration of one handshake under d. It accepts any
// certificate and leaves in e what the certificate is worth, by the authorities
// and by the TLSA records if some are usable: to report honestly, handshakes must be finished that will be
// refused, and Judge alone refuses (house rule; RFC 8460, Section 4.3). The
// caller sets e.State once the handshake is done. A nil roots means the
// system's.
//
// A config serves one handshake and has no session cache: no resumption
// carries the verdict of one policy into another (ledger TLSV-GO-01), and
// nothing is sent early. The SNI is a host name without trailing dot, and
// absent for address literals (RFC 6066, Section 3). TLS 1.2 is the least in
// any case (RFC 8996).
func tlsConfig(d Decision, roots *x509.CertPool, e *Evidence) *tls.Config {
	return &tls.Config{
		ServerName:         d.SNI,
		MinVersion:         tls.VersionTLS12,
		CipherSuites:       cipherSuites,
		Renegotiation:      tls.RenegotiateNever,
		ClientSessionCache: nil,
		InsecureSkipVerify: true, // VerifyConnection verifies
		VerifyConnection: func(cs tls.ConnectionState) error {
			e.PKIXFor = d.Facts.MX
			e.PKIXErr = verifyPKIX(cs, roots, d.Facts.MX, time.Now())
			if f := d.Facts; f.TLSA == TLSAUsable {
				e.DANEFor = f.Records
				e.DANEName, e.DANEErr = verifyDANE(cs, f.Records, f.Names, time.Now())
			}
			return nil
		},
	}
}
