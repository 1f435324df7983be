package delivery

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/tlsrpt"
)

// An issuer signs certificates for tests.
type issuer struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// noon is when the certificates of these tests are looked at.
var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// issue makes a certificate for names, valid on the day of noon, signed by i; a
// zero issuer's certificates are self-signed.
func (i issuer) issue(change func(*x509.Certificate), names ...string) issuer {
	i.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		i.t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		i.t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: serial, NotBefore: noon.Add(-12 * time.Hour), NotAfter: noon.Add(12 * time.Hour), DNSNames: names,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, Subject: pkix.Name{CommonName: "no name"}}
	if change != nil {
		change(c)
	}
	parent, signer := c, key
	if i.cert != nil {
		parent, signer = i.cert, i.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		i.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		i.t.Fatal(err)
	}
	return issuer{i.t, cert, key}
}

// authority makes a certificate that may sign others.
func (i issuer) authority(name string, change func(*x509.Certificate)) issuer {
	i.t.Helper()
	return i.issue(func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage, c.ExtKeyUsage = true, true, x509.KeyUsageCertSign, nil
		c.Subject.CommonName = name
		c.NotBefore, c.NotAfter = noon.AddDate(-5, 0, 0), noon.AddDate(5, 0, 0)
		if change != nil {
			change(c)
		}
	})
}

func expiredYesterday(c *x509.Certificate) {
	c.NotBefore, c.NotAfter = noon.AddDate(0, 0, -90), noon.AddDate(0, 0, -1)
}

func TestVerifyPKIX(t *testing.T) {
	nobody := issuer{t: t}
	root := nobody.authority("root", nil)
	other := nobody.authority("other root", nil)
	middle := root.authority("intermediate", nil)
	expiredMiddle := root.authority("expired intermediate", expiredYesterday)
	renewed := root.authority("renewed intermediate", func(c *x509.Certificate) { c.NotBefore = noon.Add(-time.Hour) })
	constrained := root.authority("constrained", func(c *x509.Certificate) {
		c.PermittedDNSDomains, c.PermittedDNSDomainsCritical = []string{"elsewhere.example"}, true
	})
	roots := x509.NewCertPool()
	roots.AddCert(root.cert)
	mx := "mx.example.com"
	type finding struct {
		result tlsrpt.Result
		reason Reason
		code   string
	}
	expired := finding{tlsrpt.CertificateExpired, CertExpired, "expired"}
	unknown := finding{tlsrpt.CertificateNotTrusted, CertNotTrusted, "unknown-authority"}
	selfSigned := finding{tlsrpt.CertificateNotTrusted, CertNotTrusted, "self-signed"}
	named := func(names string) finding {
		return finding{tlsrpt.CertificateHostMismatch, CertHostMismatch, "certificate-names: " + names}
	}
	tests := []struct {
		name  string
		mx    string
		chain []issuer
		want  []finding
	}{
		{"STS-4.2-01 a certificate from a trusted root", mx, []issuer{root.issue(nil, mx)}, nil},
		{"STS-4.2-01 a chain over an intermediate that the server sends", mx, []issuer{middle.issue(nil, mx), middle}, nil},
		{"a chain in the wrong order, with something else in between", mx, []issuer{middle.issue(nil, mx), other, middle}, nil},
		{"STS-4.2-01 RPT-4.3-04 a missing intermediate", mx, []issuer{middle.issue(nil, mx)}, []finding{unknown}},
		{"STS-4.2-01 RPT-4.3-04 an unknown authority", mx, []issuer{other.issue(nil, mx)}, []finding{unknown}},
		{"a root that the server sends is not trusted for that", mx, []issuer{other.issue(nil, mx), other}, []finding{unknown}},
		{"STS-4.2-01 RPT-4.3-04 a self-signed certificate", mx, []issuer{nobody.issue(nil, mx)}, []finding{selfSigned}},
		{"a self-signed authority as certificate", mx, []issuer{nobody.authority("x", func(c *x509.Certificate) { c.DNSNames = []string{mx} })}, []finding{selfSigned}},
		{"STS-4.2-01 RPT-4.3-03 an expired certificate", mx, []issuer{root.issue(expiredYesterday, mx)}, []finding{expired}},
		{"an expired certificate of an unknown authority is both", mx, []issuer{other.issue(expiredYesterday, mx)}, []finding{expired, unknown}},
		{"an expired self-signed certificate for another name is all of it", mx, []issuer{nobody.issue(expiredYesterday, "a.example")}, []finding{expired, selfSigned, named("a.example")}},
		{"an expired certificate whose authority has been renewed since is expired and nothing else", mx, []issuer{renewed.issue(expiredYesterday, mx), renewed}, []finding{expired}},
		{"STS-4.2-01 RPT-4.3-03 a certificate not valid yet is not trusted", mx, []issuer{root.issue(func(c *x509.Certificate) { c.NotBefore, c.NotAfter = noon.Add(time.Hour), noon.Add(2*time.Hour) }, mx)},
			[]finding{{tlsrpt.CertificateNotTrusted, CertNotTrusted, "not-yet-valid"}}},
		{"STS-4.2-01 an expired intermediate is not trusted", mx, []issuer{expiredMiddle.issue(nil, mx), expiredMiddle},
			[]finding{{tlsrpt.CertificateNotTrusted, CertNotTrusted, "issuer-expired"}}},
		{"RPT-4.3-04 name constraints of the authority", mx, []issuer{constrained.issue(nil, mx), constrained},
			[]finding{{tlsrpt.CertificateNotTrusted, CertNotTrusted, "a root or intermediate certificate is not authorized to sign for this name: DNS name \"mx.example.com\" is not permitted by any constraint"}}},
		{"a certificate for clients only", mx, []issuer{root.issue(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }, mx)},
			[]finding{{tlsrpt.CertificateNotTrusted, CertNotTrusted, "certificate specifies an incompatible key usage"}}},
		{"no certificate", mx, nil, []finding{{tlsrpt.CertificateNotTrusted, CertNotTrusted, "no-certificate"}}},

		{"STS-4.2-02 RPT-4.3-02 another name", mx, []issuer{root.issue(nil, "www.example.com")}, []finding{named("www.example.com")}},
		{"STS-4.2-02 one name of many", mx, []issuer{root.issue(nil, "www.example.com", mx)}, nil},
		{"STS-4.2-02 the common name never counts", mx, []issuer{root.issue(func(c *x509.Certificate) { c.Subject.CommonName = mx })}, []finding{named("no name")}},
		{"STS-4.2-02 the common name does not count beside other names", mx, []issuer{root.issue(func(c *x509.Certificate) { c.Subject.CommonName = mx }, "a.example")}, []finding{named("a.example")}},
		{"STS-4.2-03 the recipient domain is not the name of the host", mx, []issuer{root.issue(nil, "example.com")}, []finding{named("example.com")}},
		{"STS-4.2-04 TLSV-6125-01 a wildcard stands for one label", mx, []issuer{root.issue(nil, "*.example.com")}, nil},
		{"STS-4.2-04 TLSV-6125-01 a wildcard does not stand for two labels", "a.mx.example.com", []issuer{root.issue(nil, "*.example.com")}, []finding{named("*.example.com")}},
		{"STS-4.2-04 TLSV-6125-01 a wildcard does not stand for no label", "example.com", []issuer{root.issue(nil, "*.example.com")}, []finding{named("*.example.com")}},
		{"TLSV-6125-01 a wildcard that is part of a label is none", mx, []issuer{root.issue(nil, "m*.example.com")}, []finding{named("m*.example.com")}},
		{"TLSV-6125-01 a wildcard further right is none", mx, []issuer{root.issue(nil, "mx.*.com")}, []finding{named("mx.*.com")}},
		{"TLSV-6125-01 names compare without regard to case", mx, []issuer{root.issue(nil, "MX.Example.COM")}, nil},
		{"TLSV-6125-01 A-labels compare as they are", "xn--bcher-kva.example", []issuer{root.issue(nil, "xn--bcher-kva.example")}, nil},
		{"an underscore in the name of the host is tolerated", "mx_1.example.com", []issuer{root.issue(nil, "mx_1.example.com")}, nil},
		{"a trailing dot in the certificate makes no name", mx, []issuer{root.issue(nil, "mx.example.com.")}, []finding{named("mx.example.com.")}},
		{"an address literal has no name to verify", "", []issuer{root.issue(nil, mx)}, []finding{{tlsrpt.CertificateHostMismatch, CertHostMismatch, "no-name"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var cs tls.ConnectionState
			for _, i := range tt.chain {
				cs.PeerCertificates = append(cs.PeerCertificates, i.cert)
			}
			var name addr.Host
			if tt.mx != "" {
				name = addr.MustHost(tt.mx)
			}
			err := verifyPKIX(cs, roots, name, noon)
			var got []finding
			for _, e := range certErrors(err) {
				result, reason, code := classify(e)
				got = append(got, finding{result, reason, code})
			}
			if len(got) != len(tt.want) {
				t.Fatalf("got %q, want %q", got, tt.want)
			}
			for i := range got {
				if got[i] != tt.want[i] {
					t.Errorf("got %q, want %q", got[i], tt.want[i])
				}
			}
		})
	}
	for name, tt := range map[string]struct {
		leaf issuer
		want string
	}{
		"expired":           {root.issue(expiredYesterday, mx), "its certificate expired on 2026-11-23"},
		"another name":      {root.issue(nil, "a.example", "b.example"), "its certificate is for a.example b.example, not for mx.example.com"},
		"no name":           {root.issue(nil), "its certificate is for no name, not for mx.example.com"},
		"self-signed":       {nobody.issue(nil, mx), "its certificate is self-signed"},
		"unknown authority": {other.issue(nil, mx), "its certificate is of an unknown authority, or an intermediate certificate is missing"},
		"not yet valid":     {root.issue(func(c *x509.Certificate) { c.NotBefore = noon.Add(time.Hour) }, mx), "its certificate is not valid before 2026-11-24"},
		"not for servers":   {root.issue(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }, mx), "its certificate is not trusted: certificate specifies an incompatible key usage"},
	} {
		t.Run("people read: "+name, func(t *testing.T) {
			err := verifyPKIX(tls.ConnectionState{PeerCertificates: []*x509.Certificate{tt.leaf.cert}}, roots, addr.MustHost(mx), noon)
			if err == nil || err.Error() != tt.want {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
	t.Run("STS-4.2-01 a certificate counts to its last second", func(t *testing.T) {
		leaf := root.issue(nil, mx)
		cs := tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf.cert}}
		if err := verifyPKIX(cs, roots, addr.MustHost(mx), leaf.cert.NotAfter); err != nil {
			t.Error(err)
		}
		if err := verifyPKIX(cs, roots, addr.MustHost(mx), leaf.cert.NotAfter.Add(time.Second)); err == nil {
			t.Error("accepted a second too late")
		}
	})
	t.Run("RPT-7-02 many long names of a peer stay bounded", func(t *testing.T) {
		var names []string
		for range 100 {
			names = append(names, "a-rather-long-name.with-many-labels.example")
		}
		err := verifyPKIX(tls.ConnectionState{PeerCertificates: []*x509.Certificate{root.issue(nil, names...).cert}}, roots, addr.MustHost(mx), noon)
		if _, _, code := classify(err); len(code) > tlsrpt.MaxReason {
			t.Errorf("%d octets", len(code))
		}
	})
	t.Run("without roots of our own the fault is ours", func(t *testing.T) {
		leaf := root.issue(nil, mx).cert
		result, reason, _ := classify(chainError(leaf, x509.SystemRootsError{}, noon))
		if result != "" || reason != LocalError {
			t.Errorf("%q %q", result, reason)
		}
	})
}
