package stscache_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"strings"
	"testing"
	"time"

	"stsrelay/internal/lab"
	"stsrelay/stscache"
)

// A certificate that says where its revocation could be looked up leads to no
// traffic there.
func TestSTS_3_3_04_NoRevocationTraffic(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"mta-sts.example.test"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		OCSPServer: []string{"http://ocsp.example.test/"}, CRLDistributionPoints: []string{"http://crl.example.test/"}}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	if cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, func(o *stscache.Options) {
		o.Roots = x509.NewCertPool()
		o.Roots.AddCert(cert)
	})
	p := w.policy(func(p *lab.Policy) { p.Certificate = &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key} })
	w.want("enforce", "1", nil)
	if d := w.net.Dialer(); d.Total() != 1 || d.Dials(p.Addr()+":443") != 1 {
		t.Errorf("dialled: %v", d.All())
	}
	for _, q := range w.net.DNS.Log() {
		if !strings.Contains(q.Name, "mta-sts.example.test") {
			t.Errorf("%s was asked for", q.Name)
		}
	}
}
