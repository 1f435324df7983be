package tlsrpt

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"stsrelay/internal/addr"
	"stsrelay/internal/resolver"

	"github.com/emersion/go-msgauth/dkim"
)

var football = addr.MustDomain("football.example.com")

func pkcs8(t testing.TB, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// edKey is the Ed25519 key of RFC 8463, Appendix A.1.
func edKey(t testing.TB, domain addr.Domain) SigningKey {
	t.Helper()
	seed, err := base64.StdEncoding.DecodeString("nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=")
	if err != nil {
		t.Fatal(err)
	}
	return parseKey(t, domain, "brisbane", pkcs8(t, ed25519.NewKeyFromSeed(seed)))
}

// rsaKey is the RSA key of RFC 8463, Appendix A.1.
func rsaKey(t testing.TB, domain addr.Domain) SigningKey {
	t.Helper()
	text, err := os.ReadFile("testdata/rfc8463-rsa.pem")
	if err != nil {
		t.Fatal(err)
	}
	return parseKey(t, domain, "test", text)
}

func parseKey(t testing.TB, domain addr.Domain, selector string, text []byte) SigningKey {
	t.Helper()
	k, err := ParseSigningKey(domain, selector, text)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// published is the p= of a key.
func published(t testing.TB, k SigningKey) string {
	t.Helper()
	if p, ok := k.signer.Public().(ed25519.PublicKey); ok {
		return base64.StdEncoding.EncodeToString(p)
	}
	der, err := x509.MarshalPKIXPublicKey(k.signer.Public())
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(der)
}

func crlf(s string) []byte { return []byte(strings.ReplaceAll(s, "\n", "\r\n")) }

const small = "From: a@football.example.com\nTo: b@shopping.example.net\nSubject:  two   blanks\nMessage-ID: <1@football.example.com>\nDate: Fri, 11 Jul 2003 21:00:37 -0700\nReceived: from x\nComments: c\n\n.x\nbody \t end  \n\n\n"

func TestSign(t *testing.T) {
	ed, rs := edKey(t, football), rsaKey(t, football)
	keys := map[string]string{ed.Name(): published(t, ed), rs.Name(): published(t, rs)}
	t.Run("DKIM-3.3-03 the verifier of these tests agrees with the vector of RFC 8463, Appendix A", func(t *testing.T) {
		vector, err := os.ReadFile("testdata/rfc8463.eml")
		if err != nil {
			t.Fatal(err)
		}
		tags, err := verifyDKIM(crlf(string(vector)), keys)
		if err != nil || len(tags) != 2 {
			t.Errorf("%d signatures, %v", len(tags), err)
		}
		if _, err := verifyDKIM(crlf(strings.Replace(string(vector), "hungry", "angry", 1)), keys); err == nil {
			t.Error("a changed body verifies")
		}
	})
	signed, err := Sign(crlf(small), []SigningKey{ed, rs})
	if err != nil {
		t.Fatal(err)
	}
	tags, err := verifyDKIM(signed, keys)
	t.Run("DKIM-3.7-01 DKIM-3.4-01 DKIM-3.7-02 both signatures verify with a verifier that is not ours", func(t *testing.T) {
		if err != nil || len(tags) != 2 {
			t.Fatalf("%d signatures, %v", len(tags), err)
		}
	})
	t.Run("DKIM-3.3-01 DKIM-3.3-04 rsa-sha256 first, then ed25519-sha256, of one domain", func(t *testing.T) {
		if tags[0]["a"] != "rsa-sha256" || tags[1]["a"] != "ed25519-sha256" || tags[0]["d"] != tags[1]["d"] || tags[0]["s"] == tags[1]["s"] {
			t.Errorf("got %v", tags)
		}
	})
	t.Run("DKIM-3.4-02 DKIM-3.5-01 DKIM-3.5-02 RPT-3-24 the tags", func(t *testing.T) {
		for _, s := range tags {
			if s["v"] != "1" || s["c"] != "relaxed/relaxed" || s["d"] != "football.example.com" || s["t"] == "" {
				t.Errorf("got %v", s)
			}
			for _, never := range []string{"l", "z", "x", "i"} {
				if _, ok := s[never]; ok {
					t.Errorf("%s= is there", never)
				}
			}
		}
	})
	t.Run("DKIM-5.4-01 From is signed; Return-Path, Received, Comments, Keywords are not", func(t *testing.T) {
		h := strings.Split(strings.ToLower(tags[0]["h"]), ":")
		for _, no := range []string{"return-path", "received", "comments", "keywords"} {
			if slices.Contains(h, no) {
				t.Errorf("%s is signed", no)
			}
		}
		if !slices.Contains(h, "from") {
			t.Error("From is not signed")
		}
	})
	t.Run("DKIM-5.4-02 a second field of a kind breaks the signature", func(t *testing.T) {
		for _, add := range []string{"From: evil@x.example", "To: evil@x.example", "Subject: evil", "Date: Sat, 12 Jul 2003 21:00:37 -0700", "Message-ID: <2@x>",
			"TLS-Report-Domain: evil.example", "TLS-Report-Submitter: evil.example", "TLS-Required: No", "Content-Type: text/html", "MIME-Version: 1.0", "Reply-To: evil@x.example", "Cc: evil@x.example"} {
			if _, err := verifyDKIM(append(crlf(add+"\n"), signed...), keys); err == nil {
				t.Errorf("%s can be added", add)
			}
		}
		if _, err := verifyDKIM(append(crlf("Received: from y\n"), signed...), keys); err != nil {
			t.Errorf("a Received field cannot be added: %v", err)
		}
	})
	t.Run("DKIM-5.6-01 the signatures stand above what was there", func(t *testing.T) {
		again, err := Sign(signed, []SigningKey{rs})
		if err != nil || !bytes.HasSuffix(again, signed) || !bytes.HasPrefix(again, []byte("DKIM-Signature:")) {
			t.Errorf("%v, %q", err, again)
		}
	})
	t.Run("DKIM-3.4-01 what is signed is not changed", func(t *testing.T) {
		if !bytes.HasSuffix(signed, crlf(small)) {
			t.Error("it is changed")
		}
		if h := sha256.Sum256(relaxBody(nil)); base64.StdEncoding.EncodeToString(h[:]) != "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=" {
			t.Error("the empty body relaxed has another hash")
		}
		empty, err := Sign(crlf("From: a@football.example.com\n\n"), []SigningKey{rs})
		if tags, verr := verifyDKIM(empty, keys); err != nil || verr != nil || tags[0]["bh"] != "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=" {
			t.Errorf("of an empty body: %v, %v, %v", tags, err, verr)
		}
	})
	t.Run("RPT-3-26 with two selectors one signature serves ordinary mail, the other TLS reports", func(t *testing.T) {
		records := map[string]string{
			rs.Name(): "v=DKIM1; s=email; p=" + keys[rs.Name()],
			ed.Name(): "v=DKIM1; k=ed25519; s=tlsrpt; p=" + keys[ed.Name()],
		}
		lookup := func(name string) ([]string, error) { return []string{records[name]}, nil }
		found, err := dkim.VerifyWithOptions(bytes.NewReader(signed), &dkim.VerifyOptions{LookupTXT: lookup})
		if err != nil || len(found) != 2 || found[0].Err != nil || found[1].Err == nil || !strings.Contains(found[1].Err.Error(), "service") {
			t.Errorf("a verifier of ordinary mail says %v, %+v, %+v", err, found[0], found[1])
		}
		for i, want := range []string{"does not name tlsrpt", "verifiers of ordinary mail"} {
			k := []SigningKey{rs, ed}[i]
			if w, err := k.check([]string{records[k.Name()]}); err != nil || !strings.Contains(strings.Join(w, " "), want) {
				t.Errorf("%s: %v, %v", k.Name(), w, err)
			}
		}
	})
	for _, line := range strings.Split(string(signed), "\r\n") {
		if len(line) > 998 {
			t.Errorf("a line of %d octets", len(line))
		}
	}
}

func TestParseSigningKey(t *testing.T) {
	weak, err := os.ReadFile("testdata/rsa-512.pem")
	if err != nil {
		t.Fatal(err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rs := rsaKey(t, football)
	for _, c := range []struct{ name, selector, text, why string }{
		{"RSA in PKCS#8", "s1", string(pkcs8(t, rs.signer)), ""},
		{"RSA in PKCS#1", "s1", string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(rs.signer.(*rsa.PrivateKey))})), ""},
		{"Ed25519", "s1", string(pkcs8(t, edKey(t, football).signer)), ""},
		{"an elliptic curve that DKIM does not know", "s1", string(pkcs8(t, ec)), "RSA and Ed25519"},
		{"DKIM-3.3-02 RSA below 1024 bits", "s1", string(weak), ""},
		{"no PEM", "s1", "hello", "no PEM"},
		{"a certificate", "s1", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "want PRIVATE KEY"},
		{"a damaged key", "s1", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "asn1"},
		{"a selector that is no name", "s 1", string(pkcs8(t, rs.signer)), "selector"},
	} {
		t.Run(c.name, func(t *testing.T) {
			k, err := ParseSigningKey(football, c.selector, []byte(c.text))
			if strings.Contains(c.name, "below 1024") { // refused by us or by the library below us
				if err == nil || !strings.Contains(err.Error(), "football.example.com") {
					t.Errorf("error %v", err)
				}
				return
			}
			if c.why == "" && (err != nil || k.Name() != c.selector+"._domainkey.football.example.com") || c.why != "" && (err == nil || !strings.Contains(err.Error(), c.why)) {
				t.Errorf("%s, %v", k.Name(), err)
			}
		})
	}
}

type txtTable map[string][]string

func (t txtTable) TXT(_ context.Context, name string) (resolver.Answer[string], error) {
	txt, ok := t[name]
	if !ok {
		return resolver.Answer[string]{}, &resolver.Failed{Name: name, Type: "TXT", Err: errors.New("SERVFAIL")}
	}
	return resolver.Answer[string]{Records: txt}, nil
}
func (t txtTable) FreshTXT(ctx context.Context, name string) (resolver.Answer[string], error) {
	return t.TXT(ctx, name)
}
func (t txtTable) Addresses(context.Context, addr.Host) (resolver.Addresses, error) {
	return resolver.Addresses{}, errors.New("not here")
}

func TestKeyCheck(t *testing.T) {
	ed, rs := edKey(t, football), rsaKey(t, football)
	big := func() SigningKey {
		k, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		return SigningKey{Domain: football, Selector: "big", signer: crypto.Signer(k)}
	}()
	edp, rsp, bigp := published(t, ed), published(t, rs), published(t, big)
	for _, c := range []struct {
		name string
		key  SigningKey
		txt  string
		warn string // "": none
		bad  string // "": none
	}{
		{"both services", ed, "v=DKIM1; k=ed25519; s=tlsrpt:email; p=" + edp, "", ""},
		{"RPT-3-25 no service named", ed, "v=DKIM1; k=ed25519; p=" + edp, "does not name tlsrpt", ""},
		{"RPT-3-25 s=email", big, "v=DKIM1; k=rsa; s=email; p=" + bigp, "does not name tlsrpt", ""},
		{"s=tlsrpt alone", big, "v=DKIM1; k=rsa; s = tlsrpt; p=" + bigp, "verifiers of ordinary mail", ""},
		{"s=* and tlsrpt", big, "s=*:tlsrpt; p=" + bigp, "", ""},
		{"DKIM-3.6-02 a service that is not ours", big, "v=DKIM1; s=other; p=" + bigp, "", "neither tlsrpt nor email"},
		{"DKIM-3.6-02 t=y", big, "v=DKIM1; s=tlsrpt:email; t=s:y; p=" + bigp, "t=y", ""},
		{"DKIM-3.6-02 v first", big, "s=tlsrpt:email; v=DKIM1; p=" + bigp, "", "first place"},
		{"DKIM-3.6-02 another version", big, "v=DKIM2; s=tlsrpt:email; p=" + bigp, "", "not DKIM1"},
		{"DKIM-3.6-02 sha1 only", big, "v=DKIM1; h=sha1; s=tlsrpt:email; p=" + bigp, "", "sha256"},
		{"DKIM-3.6-01 a revoked key", big, "v=DKIM1; s=tlsrpt:email; p=", "", "revoked"},
		{"a key that is not ours", big, "v=DKIM1; s=tlsrpt:email; p=" + rsp, "", "does not verify"},
		{"a key of another kind", ed, "v=DKIM1; s=tlsrpt:email; k=rsa; p=" + rsp, "", "k=ed25519"},
		{"no base64", big, "v=DKIM1; s=tlsrpt:email; p=!!!", "", "does not verify"},
		{"DKIM-3.2-01 a tag twice", big, "v=DKIM1; s=email; s=tlsrpt; p=" + bigp, "", "no tag of its own"},
		{"DKIM-3.2-01 names are case-sensitive", big, "v=DKIM1; s=tlsrpt:email; P=" + bigp, "", "revoked"},
		{"DKIM-3.2-01 unknown tags are ignored", big, "v=DKIM1; s=tlsrpt:email; n=note; foo=bar; p=" + bigp + ";", "", ""},
		{"DKIM-3.3-02 RSA with 1024 bits", rs, "v=DKIM1; s=tlsrpt:email; p=" + rsp, "1024 bits", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			warnings, err := c.key.Check(t.Context(), txtTable{c.key.Name(): {c.txt}})
			got := strings.Join(warnings, "\n")
			if (c.warn == "") != (got == "") || !strings.Contains(got, c.warn) {
				t.Errorf("warnings %q, want %q", got, c.warn)
			}
			if (c.bad == "") != (err == nil) || err != nil && (!errors.Is(err, ErrKey) || !strings.Contains(err.Error(), c.bad)) {
				t.Errorf("error %v, want %q", err, c.bad)
			}
		})
	}
	if _, err := ed.Check(t.Context(), txtTable{}); err == nil || errors.Is(err, ErrKey) {
		t.Errorf("a lookup that failed says %v", err)
	}
	if _, err := ed.Check(t.Context(), txtTable{ed.Name(): nil}); !errors.Is(err, ErrKey) {
		t.Errorf("no record says %v", err)
	}
}

// FuzzKeyCheck: whatever is published, the check ends with a word about it.
func FuzzKeyCheck(f *testing.F) {
	k := edKey(f, football)
	p := published(f, k)
	f.Add("v=DKIM1; k=ed25519; s=tlsrpt:email; p=" + p)
	f.Add("v=DKIM1;;p=;p=")
	f.Add("k=ed25519; p=" + p + "; s = * : email; t=y")
	f.Fuzz(func(t *testing.T, txt string) {
		_, err := k.check([]string{txt})
		if err != nil && !errors.Is(err, ErrKey) {
			t.Errorf("error of no kind: %v", err)
		}
		if err == nil && !strings.Contains(strings.NewReplacer(" ", "", "\t", "", "\r", "", "\n", "").Replace(txt), strings.TrimRight(p, "=")) {
			t.Errorf("%q passes without our key", txt)
		}
	})
}
