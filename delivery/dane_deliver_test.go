package delivery

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"testing"

	"stsrelay/internal/addr"
	"stsrelay/internal/resolver"
	"stsrelay/stscache"
	"stsrelay/tlsrpt"
)

// leafOf is the certificate that m shows.
func leafOf(t *testing.T, m *fakeMX) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(m.cert.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// signs makes domain and hosts secure.
func (w *world) signs(names ...string) {
	for _, n := range names {
		w.signed[n] = true
	}
}

func TestDeliverByDANE(t *testing.T) {
	const domain, mx1, mx2 = "a.example", "mx1.a.example", "mx2.a.example"
	wrong := []resolver.TLSA{ee}
	own := func(t *testing.T, m *fakeMX) []resolver.TLSA { return []resolver.TLSA{record(3, 1, 1, leafOf(t, m))} }
	strange := func(w *world, name string) *fakeMX { // self-signed, for nobody
		m := w.good(name)
		m.cert = (&fakeCA{}).make(t, &x509.Certificate{DNSNames: []string{"nobody.example"}})
		return m
	}
	one := func(t *testing.T, w *world) Outcome {
		out, _ := w.deliver(w.client(), domain, job("1", content, "u@"+domain))
		return out["1"].Outcomes[0]
	}
	wants := func(t *testing.T, o Outcome, want, tls, policy string) {
		t.Helper()
		if verdict(o) != want || o.TLS != tls || o.Policy != policy {
			t.Errorf("%s over %q under %q, want %s over %q under %q: %v", verdict(o), o.TLS, o.Policy, want, tls, policy, o.Err)
		}
	}

	t.Run("DANE-2.2-01 DANE71-3-01 DANE71-10.2-01 DANE-8.2-01 DANE71-4.2-01 a certificate of nobody, named by its TLSA record", func(t *testing.T) {
		w := newWorld(t)
		m := strange(w, mx1)
		var sni string
		m.config = func(c *tls.Config) {
			c.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) { sni = h.ServerName; return nil, nil }
		}
		w.host(domain, 10, m, "127.1.0.1")
		w.signs(domain, mx1)
		w.tlsa[mx1] = own(t, m)
		wants(t, one(t, w), "ok", "Verified TLSv1.3", "dane")
		if sni != mx1 {
			t.Errorf("SNI %q", sni)
		}
	})
	t.Run("DANE-2.2.1-05 DANE-2.2.1-06 over insecure MX records it is never told as verified", func(t *testing.T) {
		w := newWorld(t)
		m := w.host(domain, 10, strange(w, mx1), "127.1.0.1")
		w.signs(mx1)
		w.tlsa[mx1] = own(t, m)
		wants(t, one(t, w), "ok", "Trusted TLSv1.3", "dane mx=insecure")
		w.tlsa[mx1] = wrong
		wants(t, one(t, w), "4.7.5 dane-mismatch", "", "dane mx=insecure")
	})
	t.Run("DANE-3.2-01 DANE-9.1-02 a good certificate that no record names: temporary, and no content", func(t *testing.T) {
		w := newWorld(t)
		m := w.host(domain, 10, w.good(mx1), "127.1.0.1")
		w.signs(domain, mx1)
		w.tlsa[mx1] = wrong
		o := one(t, w)
		wants(t, o, "4.7.5 dane-mismatch", "", "dane")
		if o.Err.Permanent || o.Err.AtExpiry().Enhanced != [3]int{5, 7, 5} {
			t.Errorf("%v, at its expiry %v", o.Err, o.Err.AtExpiry())
		}
		if l := m.look().lines; slices.ContainsFunc(l, func(s string) bool { return strings.Contains(s, "MAIL") }) {
			t.Errorf("it heard of the message: %v", l)
		}
	})
	t.Run("DANE-2.2-01 the next host is tried", func(t *testing.T) {
		w := newWorld(t)
		w.host(domain, 10, w.good(mx1), "127.1.0.1")
		m := w.host(domain, 20, w.good(mx2), "127.1.0.2")
		w.signs(domain, mx1, mx2)
		w.tlsa[mx1], w.tlsa[mx2] = wrong, own(t, m)
		if o := one(t, w); o.Err != nil || o.MX.String() != mx2 {
			t.Errorf("%s by %v", verdict(o), o.MX)
		}
	})
	t.Run("DANE-10-01 DANE-2.1.2-03 a host whose records cannot be looked up is never dialed", func(t *testing.T) {
		w := newWorld(t)
		w.host(domain, 10, w.good(mx1), "127.1.0.1")
		w.host(domain, 20, w.good(mx2), "127.1.0.2")
		w.signs(domain, mx1, mx2)
		w.tlsaErr[mx1] = &resolver.Failed{Name: mx1, Type: "TLSA", Err: errors.New("SERVFAIL")}
		if o := one(t, w); o.Err != nil || o.MX.String() != mx2 || w.dialer.count("127.1.0.1:25") != 0 {
			t.Errorf("%s by %v, %d dials", verdict(o), o.MX, w.dialer.count("127.1.0.1:25"))
		}
		w.tlsaErr[mx2] = w.tlsaErr[mx1]
		o := one(t, w)
		wants(t, o, "4.4.3 tlsa-lookup-failed", "", "dane:unknown")
		if !strings.Contains(o.Err.Text, "SERVFAIL") || w.dialer.count("127.1.0.1:25") != 0 {
			t.Errorf("%q", o.Err.Text)
		}
	})
	t.Run("DANE-2.2-02 DANE71-10.3-01 no usable record: any certificate, but never clear text", func(t *testing.T) {
		w := newWorld(t)
		m := w.host(domain, 10, strange(w, mx1), "127.1.0.1")
		w.signs(domain, mx1)
		w.tlsa[mx1] = []resolver.TLSA{{Usage: 255, Selector: 9, Matching: 9, Data: []byte{0}}}
		wants(t, one(t, w), "ok", "Untrusted TLSv1.3", "dane:unusable")
		m.plain = full
		wants(t, one(t, w), "4.7.4 starttls-missing", "", "dane:unusable")
	})
	t.Run("X-03 X-05 DANE-8.1-02 under both policies both must pass, the policy for the MX name", func(t *testing.T) {
		w := newWorld(t)
		m := w.host(domain, 10, strange(w, mx1), "127.1.0.1")
		w.signs(domain, mx1)
		w.tlsa[mx1] = own(t, m)
		w.policy(domain, stscache.Enforce, mx1)
		wants(t, one(t, w), "4.7.5 certificate-not-trusted", "", "sts:enforce id=a1 dane")
		w.options.Rules.DANESupersedes = true
		wants(t, one(t, w), "ok", "Verified TLSv1.3", "sts:enforce id=a1 dane")
	})
	t.Run("DANE-9.1-01 the operator may lift DANE for a domain: it is looked at and told all the same", func(t *testing.T) {
		w := newWorld(t)
		w.host(domain, 10, w.good(mx1), "127.1.0.1")
		w.signs(domain, mx1)
		w.tlsa[mx1] = wrong
		s := source(t, job("1", content, "u@"+domain))
		d := to(domain)
		d.Override = Override{DANE: true, Reason: "they are at it"}
		if err := w.client().Deliver(t.Context(), d, s); err != nil {
			t.Fatal(err)
		}
		a := s.out["1"]
		wants(t, a.Outcomes[0], "ok", "Trusted TLSv1.3", "dane overridden")
		f := a.Sessions[0].Policies[0]
		if f.Policy.Type != tlsrpt.TLSA || len(f.Failures) != 1 || f.Failures[0].Reason != "dane-no-match" {
			t.Errorf("%+v", f)
		}
	})
	t.Run("X-11 X-05 a kept connection serves another domain of the host only by names that both accept", func(t *testing.T) {
		const other = "b.example"
		w := newWorld(t)
		m := w.good(mx1)
		m.cert = w.ca.issue(t, domain) // good for mail to a.example by RFC 7672, Section 3.2.2
		w.host(domain, 10, m, "127.1.0.1")
		w.mx[other] = w.mx[domain]
		w.signs(domain, other, mx1)
		w.tlsa[mx1] = []resolver.TLSA{record(2, 0, 0, w.ca.cert)}
		c := w.running()
		wants(t, func() Outcome {
			out, _ := w.deliver(c, domain, job("1", content, "u@"+domain))
			return out["1"].Outcomes[0]
		}(), "ok", "Verified TLSv1.3", "dane")
		out, _ := w.deliver(c, other, job("2", content, "u@"+other))
		wants(t, out["2"].Outcomes[0], "4.7.5 dane-mismatch", "", "dane")
		out, _ = w.deliver(c, domain, job("3", content, "u@"+domain))
		if o := out["3"].Outcomes[0]; o.Err != nil || !o.Reused {
			t.Errorf("%s, reused %v", verdict(o), o.Reused)
		}
	})
	t.Run("RPT-1.1-01 the session is told under the TLSA base domain", func(t *testing.T) {
		w := newWorld(t)
		m := w.host(domain, 10, w.good(mx1), "127.1.0.1")
		w.signs(domain, mx1)
		w.tlsa[mx1] = own(t, m)
		out, _ := w.deliver(w.client(), domain, job("1", content, "u@"+domain))
		s := out["1"].Sessions
		if len(s) != 1 || len(s[0].Policies) != 1 || s[0].Policies[0].Policy.Type != tlsrpt.TLSA || s[0].Policies[0].Policy.Domain != mx1 ||
			s[0].Domain != addr.MustDomain(domain) || len(s[0].Policies[0].Failures) != 0 {
			t.Errorf("%+v", s)
		}
	})
}
