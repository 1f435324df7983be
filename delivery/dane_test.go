package delivery

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"testing"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/internal/resolver"
	"stsrelay/tlsrpt"
)

// An authority signs certificates, its own with the key of its issuer.
type authority struct {
	*x509.Certificate
	key *ecdsa.PrivateKey
}

var daneNow = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// sign makes the certificate of template; a nil issuer is the certificate itself.
func sign(t *testing.T, issuer *authority, template x509.Certificate) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(1)
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = daneNow.Add(-time.Hour), daneNow.Add(time.Hour)
	}
	parent, signer := &template, key
	if issuer != nil {
		parent, signer = issuer.Certificate, issuer.key
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{c, key}
}

func caNamed(name string) x509.Certificate {
	return x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, MaxPathLen: -1}
}

func hostNamed(names ...string) x509.Certificate {
	return x509.Certificate{Subject: pkix.Name{CommonName: "unimportant"}, DNSNames: names}
}

// record is the TLSA record of c.
func record(usage, selector, matching uint8, c *x509.Certificate) resolver.TLSA {
	data := c.Raw
	if selector == selectKey {
		data = c.RawSubjectPublicKeyInfo
	}
	switch matching {
	case matchSHA256:
		sum := sha256.Sum256(data)
		data = sum[:]
	case matchSHA512:
		sum := sha512.Sum512(data)
		data = sum[:]
	}
	return resolver.TLSA{Usage: usage, Selector: selector, Matching: matching, Data: data}
}

func chainOf(list ...*authority) (chain []*x509.Certificate) {
	for _, a := range list {
		chain = append(chain, a.Certificate)
	}
	return chain
}

// A daneCase is one handshake: what the server presented, what DNS has, and what
// comes of it.
type daneCase struct {
	name    string
	chain   []*x509.Certificate
	records []resolver.TLSA
	names   []string // reference identifiers; nil: mx.example
	want    string   // the name it was authenticated for, "own" for DANE-EE; "": not
	result  tlsrpt.Result
	code    string // prefix of the failure-reason-code
}

func (c daneCase) run(t *testing.T) {
	names := c.names
	if names == nil {
		names = []string{"mx.example"}
	}
	var hosts []addr.Host
	for _, n := range names {
		hosts = append(hosts, addr.MustHost(n))
	}
	name, err := verifyDANE(tls.ConnectionState{PeerCertificates: c.chain}, c.records, hosts, daneNow)
	if c.want != "" {
		if err != nil {
			t.Fatalf("refused: %v", err)
		}
		if got := name.String(); got != c.want && !(c.want == "own" && got == "") {
			t.Errorf("authenticated for %q, want %q", got, c.want)
		}
		return
	}
	if err == nil {
		t.Fatalf("authenticated for %q", name)
	}
	result, reason, code := classify(err)
	if result != c.result || reason != DANEMismatch || !bytes.HasPrefix([]byte(code), []byte(c.code)) {
		t.Errorf("%v is %q %q %q, want %q %q %q", err, result, reason, code, c.result, DANEMismatch, c.code)
	}
}

func TestDANEEE(t *testing.T) {
	root := sign(t, nil, caNamed("root"))
	good := sign(t, root, hostNamed("mx.example"))
	stranger := sign(t, root, hostNamed("other.example"))
	expired := hostNamed("mx.example")
	expired.NotBefore, expired.NotAfter = daneNow.Add(-2*time.Hour), daneNow.Add(-time.Hour)
	old := sign(t, nil, expired)
	future := hostNamed("mx.example")
	future.NotBefore, future.NotAfter = daneNow.Add(time.Hour), daneNow.Add(2*time.Hour)
	early := sign(t, nil, future)
	client := hostNamed("mx.example")
	client.ExtKeyUsage, client.KeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, x509.KeyUsageCRLSign
	forClients := sign(t, nil, client)
	broken := *good.Certificate
	broken.Signature = []byte("no signature of anybody")

	tests := []daneCase{
		{name: "DANE-3.1.1-01 TLSA-2.1-03 the certificate matches", chain: chainOf(good), records: []resolver.TLSA{record(3, 0, 1, good.Certificate)}, want: "own"},
		{name: "TLSA-2.1-03 TLSA-6-01 its key matches", chain: chainOf(good), records: []resolver.TLSA{record(3, 1, 1, good.Certificate)}, want: "own"},
		{name: "DANE71-2-01 TLSA-6-01 SHA-512", chain: chainOf(good), records: []resolver.TLSA{record(3, 1, 2, good.Certificate)}, want: "own"},
		{name: "TLSA-2.1-04 TLSA-6-01 in full", chain: chainOf(good), records: []resolver.TLSA{record(3, 0, 0, good.Certificate)}, want: "own"},
		{name: "TLSA-2.1-04 the key in full", chain: chainOf(good), records: []resolver.TLSA{record(3, 1, 0, good.Certificate)}, want: "own"},
		{name: "DANE-3.1.1-01 DANE71-5.1-01 it is for another name", chain: chainOf(stranger), records: []resolver.TLSA{record(3, 1, 1, stranger.Certificate)}, want: "own"},
		{name: "DANE-3.1.1-02 DANE71-5.1-01 it has expired", chain: chainOf(old), records: []resolver.TLSA{record(3, 1, 1, old.Certificate)}, want: "own"},
		{name: "DANE-3.1.1-03 it is not valid yet", chain: chainOf(early), records: []resolver.TLSA{record(3, 1, 1, early.Certificate)}, want: "own"},
		{name: "DANE-3.1.1-03 it is for clients only, and signed by itself", chain: chainOf(forClients), records: []resolver.TLSA{record(3, 1, 1, forClients.Certificate)}, want: "own"},
		{name: "DANE-3.1.1-03 nobody's signature counts", chain: []*x509.Certificate{&broken}, records: []resolver.TLSA{record(3, 1, 1, good.Certificate)}, want: "own"},
		{name: "TLSA-4.1-03 one of two records is enough", chain: chainOf(good), records: []resolver.TLSA{record(3, 1, 1, old.Certificate), record(3, 1, 1, good.Certificate)}, want: "own"},
		{name: "TLSA-4.1-03 DANE-3.2-01 none matches, though the certificate is good", chain: chainOf(good, root),
			records: []resolver.TLSA{record(3, 1, 1, old.Certificate)}, result: tlsrpt.ValidationFailure, code: "dane-no-match"},
		{name: "DANE-3.1.1-01 only the leaf counts", chain: chainOf(good, root),
			records: []resolver.TLSA{record(3, 1, 1, root.Certificate)}, result: tlsrpt.ValidationFailure, code: "dane-no-match"},
		{name: "DANE-3.1-01 PKIX-EE that would match is not looked at", chain: chainOf(good),
			records: []resolver.TLSA{record(1, 1, 1, good.Certificate), record(3, 1, 1, old.Certificate)}, result: tlsrpt.ValidationFailure, code: "dane-no-match"},
		{name: "DANE71-9-01 DANE-5-01 the weaker digest matches, the stronger does not", chain: chainOf(good),
			records: []resolver.TLSA{record(3, 1, 1, good.Certificate), record(3, 1, 2, old.Certificate)}, result: tlsrpt.ValidationFailure, code: "dane-no-match"},
		{name: "DANE71-9-01 and what is in full helps", chain: chainOf(good),
			records: []resolver.TLSA{record(3, 1, 1, good.Certificate), record(3, 1, 2, old.Certificate), record(3, 1, 0, good.Certificate)}, want: "own"},
		{name: "no certificate", records: []resolver.TLSA{record(3, 1, 1, good.Certificate)}, result: tlsrpt.ValidationFailure, code: "no-certificate"},
	}
	for _, tt := range tests {
		t.Run(tt.name, tt.run)
	}
}

func TestDANETA(t *testing.T) {
	root := sign(t, nil, caNamed("root"))
	middle := sign(t, root, caNamed("middle"))
	leaf := sign(t, middle, hostNamed("mx.example"))
	alone := sign(t, root, hostNamed("mx.example"))
	other := sign(t, nil, caNamed("other"))
	late := hostNamed("mx.example")
	late.NotBefore, late.NotAfter = daneNow.Add(-2*time.Hour), daneNow.Add(-time.Hour)
	expired := sign(t, root, late)
	lateCA := caNamed("late")
	lateCA.NotBefore, lateCA.NotAfter = late.NotBefore, late.NotAfter
	oldRoot := sign(t, nil, lateCA)
	underOld := sign(t, oldRoot, hostNamed("mx.example"))
	short := caNamed("short")
	short.MaxPathLen, short.MaxPathLenZero = 0, true
	shortRoot := sign(t, nil, short)
	shortMiddle := sign(t, shortRoot, caNamed("middle"))
	tooDeep := sign(t, shortMiddle, hostNamed("mx.example"))
	narrow := caNamed("narrow")
	narrow.PermittedDNSDomains, narrow.PermittedDNSDomainsCritical = []string{"elsewhere.example"}, true
	narrowRoot := sign(t, nil, narrow)
	outside := sign(t, narrowRoot, hostNamed("mx.example"))
	noCA := sign(t, root, hostNamed("not-an-authority.example"))
	abused := sign(t, noCA, hostNamed("mx.example"))

	tests := []daneCase{
		{name: "DANE-3.1.2-01 DANE-3.2.2-01 a chain to the authority", chain: chainOf(leaf, middle, root), records: []resolver.TLSA{record(2, 0, 1, root.Certificate)}, want: "mx.example"},
		{name: "DANE71-5.2-04 the authority is an intermediate, and the root was not sent", chain: chainOf(leaf, middle), records: []resolver.TLSA{record(2, 0, 1, middle.Certificate)}, want: "mx.example"},
		{name: "DANE71-5.2-04 it is the leaf itself", chain: chainOf(leaf), records: []resolver.TLSA{record(2, 1, 1, leaf.Certificate)}, want: "mx.example"},
		{name: "TLSA-6-01 by its key", chain: chainOf(leaf, middle, root), records: []resolver.TLSA{record(2, 1, 2, root.Certificate)}, want: "mx.example"},
		{name: "DANE71-5.2-01 the authority is in DNS in full and was not sent", chain: chainOf(alone), records: []resolver.TLSA{record(2, 0, 0, root.Certificate)}, want: "mx.example"},
		{name: "DANE71-5.2-01 and with an intermediate that was", chain: chainOf(leaf, middle), records: []resolver.TLSA{record(2, 0, 0, root.Certificate)}, want: "mx.example"},
		{name: "DANE71-5.2-03 only its key is in DNS: it signed the last of the chain", chain: chainOf(leaf, middle), records: []resolver.TLSA{record(2, 1, 0, root.Certificate)}, want: "mx.example"},
		{name: "DANE71-5.2-03 it signed the leaf", chain: chainOf(alone), records: []resolver.TLSA{record(2, 1, 0, root.Certificate)}, want: "mx.example"},
		{name: "DANE71-5.2-03 the key is another's", chain: chainOf(leaf, middle), records: []resolver.TLSA{record(2, 1, 0, other.Certificate)}, result: tlsrpt.ValidationFailure, code: "dane-no-match"},
		{name: "DANE71-5.2-03 what the key signed is no authority", chain: chainOf(abused, noCA), records: []resolver.TLSA{record(2, 1, 0, root.Certificate)}, result: tlsrpt.ValidationFailure, code: "dane-no-match"},
		{name: "DANE71-5.2-03 dates and names count here too", chain: chainOf(expired), records: []resolver.TLSA{record(2, 1, 0, root.Certificate)}, result: tlsrpt.CertificateExpired, code: "expired"},
		{name: "DANE-3.1.2-01 a certificate that is no authority signs for nobody", chain: chainOf(abused, noCA, root), records: []resolver.TLSA{record(2, 0, 1, root.Certificate)}, result: tlsrpt.CertificateNotTrusted},
		{name: "DANE-3.1.2-01 the leaf has expired", chain: chainOf(expired, root), records: []resolver.TLSA{record(2, 0, 1, root.Certificate)}, result: tlsrpt.CertificateExpired, code: "expired"},
		{name: "DANE-3.1.2-01 the authority has expired", chain: chainOf(underOld, oldRoot), records: []resolver.TLSA{record(2, 0, 1, oldRoot.Certificate)}, result: tlsrpt.CertificateNotTrusted, code: "issuer-expired"},
		{name: "DANE-3.1.2-01 the authority that was sent did not sign the leaf", chain: chainOf(alone, other), records: []resolver.TLSA{record(2, 0, 1, other.Certificate)}, result: tlsrpt.CertificateNotTrusted, code: "dane-no-chain"},
		{name: "DANE-3.1.2-01 DANE-3.1.2-03 another authority that was sent is none", chain: chainOf(alone, other, root), records: []resolver.TLSA{record(2, 0, 1, other.Certificate)}, result: tlsrpt.CertificateNotTrusted, code: "dane-no-chain"},
		{name: "DANE-3.1.2-02 DANE71-5.2-02 path length of the authority", chain: chainOf(tooDeep, shortMiddle, shortRoot), records: []resolver.TLSA{record(2, 0, 1, shortRoot.Certificate)}, result: tlsrpt.CertificateNotTrusted},
		{name: "DANE-3.1.2-02 DANE71-5.2-02 name constraints of the authority", chain: chainOf(outside, narrowRoot), records: []resolver.TLSA{record(2, 0, 1, narrowRoot.Certificate)}, result: tlsrpt.CertificateNotTrusted},
		{name: "DANE-3.1.2-03 an authority that was not sent cannot be known by its digest", chain: chainOf(alone), records: []resolver.TLSA{record(2, 0, 1, root.Certificate)}, result: tlsrpt.ValidationFailure, code: "dane-no-match"},
		{name: "DANE-3.1.2-01 DANE-3.2.2-03 the name is wrong", chain: chainOf(leaf, middle, root), records: []resolver.TLSA{record(2, 0, 1, root.Certificate)},
			names: []string{"mx.other.example"}, result: tlsrpt.CertificateHostMismatch, code: "certificate-names: mx.example"},
		{name: "DANE-3.2.2-02 the second name will do", chain: chainOf(leaf, middle, root), records: []resolver.TLSA{record(2, 0, 1, root.Certificate)}, names: []string{"host.example", "mx.example"}, want: "mx.example"},
		{name: "TLSA-4.1-03 DANE-EE beside it makes names unimportant", chain: chainOf(leaf, middle, root),
			records: []resolver.TLSA{record(2, 0, 1, root.Certificate), record(3, 1, 1, leaf.Certificate)}, names: []string{"mx.other.example"}, want: "own"},
	}
	for _, tt := range tests {
		t.Run(tt.name, tt.run)
	}
}

func TestDANEReferenceIdentifiers(t *testing.T) {
	root := sign(t, nil, caNamed("root"))
	records := []resolver.TLSA{record(2, 0, 1, root.Certificate)}
	common := func(cn string, san ...string) []*x509.Certificate {
		c := hostNamed(san...)
		c.Subject.CommonName = cn
		return chainOf(sign(t, root, c), root)
	}
	mail := hostNamed()
	mail.Subject.CommonName, mail.EmailAddresses = "mx.example", []string{"a@b.example"}
	tests := []daneCase{
		{name: "DANE-3.2.3-01 a dNSName beats the common name", chain: common("mx.example", "other.example"), records: records, result: tlsrpt.CertificateHostMismatch},
		{name: "DANE-3.2.3-01 DANE-3.2.3-02 TLSV-9525-01 without any the common name counts", chain: common("mx.example"), records: records, want: "mx.example"},
		{name: "DANE-3.2.3-01 names of other kinds are no dNSName", chain: chainOf(sign(t, root, mail), root), records: records, want: "mx.example"},
		{name: "DANE-3.2.3-02 a common name that is no host name", chain: common("mx example"), records: records, result: tlsrpt.CertificateHostMismatch},
		{name: "DANE-3.2.3-03 * stands for the first label", chain: common("", "*.example"), records: records, want: "mx.example"},
		{name: "DANE-3.2.3-03 in a common name too", chain: common("*.example"), records: records, want: "mx.example"},
		{name: "DANE-3.2.3-03 TLSV-9525-01 for the whole of it", chain: common("", "m*.example"), records: records, result: tlsrpt.CertificateHostMismatch},
		{name: "DANE-3.2.3-03 for one", chain: common("", "*.example"), names: []string{"a.mx.example"}, records: records, result: tlsrpt.CertificateHostMismatch},
	}
	for _, tt := range tests {
		t.Run(tt.name, tt.run)
	}
}

// A certificate that is good under one domain's names is not under another's
// (ledger X-11).
func TestKeptEvidenceOfDANE(t *testing.T) {
	one := facts(usable, func(f *Facts) { f.Names = []addr.Host{baseHost, addr.MustHost("one.example")} })
	two := facts(usable, func(f *Facts) { f.Names = []addr.Host{baseHost, addr.MustHost("two.example")} })
	e := Evidence{Offered: true, State: &tls.ConnectionState{}, PKIXErr: errors.New("x"), DANEFor: one.Records}
	judge := func(f Facts, name string) bool {
		e.DANEName = addr.Host{}
		if name != "" {
			e.DANEName = addr.MustHost(name)
		}
		return Decide(f).Judge(e).Proceed
	}
	tests := []struct {
		name    string
		f       Facts
		as      string // the name under which the host was authenticated
		proceed bool
	}{
		{"DANE-3.2.2-02 the name of the domain itself", one, "one.example", true},
		{"X-11 the name of another domain", two, "one.example", false},
		{"X-11 DANE-3.2.2-01 the TLSA base domain is for every domain", two, baseHost.String(), true},
		{"X-11 DANE-3.1.1-01 so is the certificate itself", two, "", true},
		{"X-11 the host has other records now", facts(usable, func(f *Facts) { f.Records = []resolver.TLSA{ee} }), "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if judge(tt.f, tt.as) != tt.proceed {
				t.Errorf("proceeds: %v", !tt.proceed)
			}
		})
	}
}
