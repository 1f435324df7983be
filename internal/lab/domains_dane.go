package lab

import (
	"crypto/tls"
	"crypto/x509"
	"time"
)

// A recordFor makes a TLSA record for a host, in zone text.
type recordFor func(h *MXHost) string

// own is a record for the certificate that the host shows.
func own(usage, selector, matching uint8) recordFor {
	return func(h *MXHost) string { return h.TLSA(usage, selector, matching) }
}

// foreign is a record for a certificate that the host does not show.
func foreign(usage, selector, matching uint8) recordFor {
	return func(h *MXHost) string { return h.TLSAFor(stray(h), usage, selector, matching) }
}

// stray is a certificate for the name of the host that the host has not.
func stray(h *MXHost) *x509.Certificate {
	return h.w.CA.Issue(Good, Cert{Names: []string{h.Name()}}).Leaf
}

// signed is a domain in a signed zone with one MX host, no policy, and these
// TLSA records.
func signed(domain string, change func(m *MX), records ...recordFor) func(w *World) {
	return func(w *World) {
		w.DNS.Sign(domain)
		unprotected(domain, change)(w)
		publish(w.MX(mxOf(domain)), records...)
	}
}

func publish(h *MXHost, records ...recordFor) {
	for _, r := range records {
		h.w.DNS.Add(r(h))
	}
}

// shows has a host show a certificate of a kind, for its name if no other is
// given.
func shows(k CertKind, names ...string) func(m *MX) {
	return func(m *MX) { m.Cert, m.CertNames = k, names }
}

// shown is shows for a certificate made to order.
func shown(w *World, c Cert) func(m *MX) {
	return func(m *MX) { m.Certificate = w.CA.Issue(OwnCA, c) }
}

func inClear(m *MX) { m.NoStartTLS = true }

// daneDomains have TLSA records.
func daneDomains() (list []Scenario) {
	for _, part := range [][]Scenario{daneMatches(), daneAnchors(), daneRefusals(), daneLookups(), daneAliases(), daneAndPolicy()} {
		list = append(list, part...)
	}
	return list
}

// daneMatches have hosts that are authenticated by a record for their own
// certificate, or hosts that need not be.
func daneMatches() []Scenario {
	return []Scenario{
		{
			Domain: "dane.test", Title: "a TLSA record 3 1 1 for the certificate",
			Setup: signed("dane.test", nil, own(3, 1, 1)), TLSA: true,
			Expect: delivered(Verified), Why: "the record vouches for the key (RFC 7672, Section 3.1.1)",
		},
		{
			Domain: "dane-self-signed.test", Title: "a record 3 1 1 for a self-signed certificate",
			Setup: signed("dane-self-signed.test", shows(SelfSigned), own(3, 1, 1)), TLSA: true,
			Expect: delivered(Verified), Why: "no other authority is needed (RFC 7672, Section 3.1.1)",
		},
		{
			Domain: "dane-expired.test", Title: "a record 3 1 1 for a certificate that has expired",
			Setup: signed("dane-expired.test", shows(Expired), own(3, 1, 1)), TLSA: true,
			Expect: delivered(Verified), Why: "the dates in it do not count (RFC 7672, Section 3.1.1)",
		},
		{
			Domain: "dane-other-name.test", Title: "a record 3 0 2 for a certificate for another name",
			Setup: signed("dane-other-name.test", shows(WrongName), own(3, 0, 2)), TLSA: true,
			Expect: delivered(Verified), Why: "the names in it do not count (RFC 7672, Section 3.1.1)",
		},
		{
			Domain: "dane-rollover.test", Title: "records for the old certificate, which is shown, and for the new one",
			Setup: signed("dane-rollover.test", nil, own(3, 1, 1), foreign(3, 1, 1)), TLSA: true,
			Expect: delivered(Verified), Why: "one record that matches is enough (RFC 7671, Section 8.1)",
		},
		{
			Domain: "dane-implicit.test", Title: "no MX record, and a TLSA record for the domain itself",
			Setup: func(w *World) {
				w.DNS.Sign("dane-implicit.test")
				publish(w.AddMX(MX{Name: "dane-implicit.test", Cert: SelfSigned}), own(3, 1, 1))
			}, TLSA: true,
			Expect: delivered(Verified), Why: "the domain is its own MX host (RFC 7672, Section 2.2.2)",
		},
		{
			Domain: "dane-unusable.test", Title: "a record 1 1 1 only, and a self-signed certificate",
			Setup: signed("dane-unusable.test", shows(SelfSigned), own(1, 1, 1)), TLSA: true,
			Result: "tlsa-invalid",
			Expect: delivered(Untrusted), Why: "usage 1 is not for SMTP: TLS with anybody (RFC 7672, Section 3.1.3)",
		},
	}
}

// daneAnchors have records for an authority.
func daneAnchors() []Scenario {
	return []Scenario{
		{
			Domain: "dane-ta.test", Title: "a record 2 0 1 for an authority of their own, which is sent along",
			Setup: signed("dane-ta.test", shows(OwnCA), own(2, 0, 1)), TLSA: true,
			Expect: delivered(Verified), Why: "the record names who vouches (RFC 7672, Section 3.1.2)",
		},
		{
			Domain: "dane-ta-domain.test", Title: "a record 2 1 1, and a certificate for the domain, not for the MX host",
			Setup: signed("dane-ta-domain.test", shows(OwnCA, "dane-ta-domain.test"), own(2, 1, 1)), TLSA: true,
			Expect: delivered(Verified), Why: "signed MX records make it a good name (RFC 7672, Section 3.2.2)",
		},
		{
			Domain: "dane-ta-cn.test", Title: "a record 2 1 1, and the name is the certificate's common name only",
			Setup: func(w *World) {
				signed("dane-ta-cn.test", shown(w, Cert{Subject: mxOf("dane-ta-cn.test")}), own(2, 1, 1))(w)
			}, TLSA: true,
			Expect: delivered(Verified), Why: "without other names it counts here (RFC 7672, Section 3.2.3)",
		},
		{
			Domain: "dane-ta-wrong-name.test", Title: "a record 2 0 1, and a certificate for another name",
			Setup: signed("dane-ta-wrong-name.test", shows(OwnCA, "wrong-name.invalid"), own(2, 0, 1)), TLSA: true,
			Result: "certificate-host-mismatch",
			Expect: deferred("dane-mismatch"), Why: "an authority vouches for names (RFC 7672, Section 3.1.2)",
		},
		{
			Domain: "dane-ta-expired.test", Title: "a record 2 0 1, and a certificate that has expired",
			Setup: func(w *World) {
				now := time.Now()
				old := Cert{Names: []string{mxOf("dane-ta-expired.test")}, NotBefore: now.AddDate(0, 0, -30), NotAfter: now.AddDate(0, 0, -1)}
				signed("dane-ta-expired.test", shown(w, old), own(2, 0, 1))(w)
			}, TLSA: true,
			Result: "certificate-expired",
			Expect: deferred("dane-mismatch"), Why: "an authority vouches for a time (RFC 7672, Section 3.1.2)",
		},
		{
			Domain: "dane-ta-not-sent.test", Title: "a record 2 0 1 for an authority that is not sent along",
			Setup: signed("dane-ta-not-sent.test", nil, own(2, 0, 1)), TLSA: true,
			Expect: deferred("dane-mismatch"), Why: "a digest needs what it is of (RFC 7671, Section 5.2.2)",
		},
	}
}

// daneRefusals have hosts that must not get the message.
func daneRefusals() []Scenario {
	const mandatory = "with TLSA records TLS is mandatory (RFC 7672, Section 2.2)"
	return []Scenario{
		{
			Domain: "dane-mismatch.test", Title: "a TLSA record for another certificate; the one shown is valid",
			Setup: signed("dane-mismatch.test", nil, foreign(3, 1, 1)), TLSA: true,
			Expect: deferred("dane-mismatch"), Why: "public authorities do not count here (RFC 7672, Section 3.2)",
		},
		{
			Domain: "dane-next-mx.test", Title: "the first of two MX hosts does not match its TLSA record",
			Setup: func(w *World) {
				w.DNS.Sign("dane-next-mx.test")
				publish(w.AddMX(MX{Name: "mx1.dane-next-mx.test", Domains: []string{"dane-next-mx.test"}}), foreign(3, 1, 1))
				publish(w.AddMX(MX{Name: "mx2.dane-next-mx.test", Domains: []string{"dane-next-mx.test"}, Preference: 20}), own(3, 1, 1))
			}, TLSA: true,
			Expect: via(Verified, "mx2.dane-next-mx.test"), Why: "a host that fails is passed over for the next (RFC 7672, Section 2.2)",
		},
		{
			Domain: "dane-agility.test", Title: "a record 3 1 1 that matches, and a record 3 1 2 that does not",
			Setup: signed("dane-agility.test", nil, own(3, 1, 1), foreign(3, 1, 2)), TLSA: true,
			Expect: deferred("dane-mismatch"), Why: "the strongest digest alone counts (RFC 7671, Section 9)",
		},
		{
			Domain: "dane-no-starttls.test", Title: "a TLSA record, and no STARTTLS",
			Setup: signed("dane-no-starttls.test", inClear, own(3, 1, 1)), TLSA: true,
			Expect: deferred("starttls-missing"), Why: mandatory,
		},
		{
			Domain: "dane-unusable-clear.test", Title: "a record 1 1 1 only, and no STARTTLS",
			Setup: signed("dane-unusable-clear.test", inClear, own(1, 1, 1)), TLSA: true,
			Expect: deferred("starttls-missing"), Why: "even records that cannot be used ask for TLS (RFC 7672, Section 2.2)",
		},
		{
			Domain: "dane-tls-abort.test", Title: "a TLSA record, and the handshake is broken off",
			Setup: signed("dane-tls-abort.test", func(m *MX) { m.Rules = []Rule{{On: TLSStart, Then: Hangup}} }, own(3, 1, 1)), TLSA: true,
			Expect: deferred("tls-failed"), Why: mandatory,
		},
	}
}

// daneLookups have TLSA records that cannot be looked up, or not trusted.
func daneLookups() []Scenario {
	return []Scenario{
		{
			Domain: "tlsa-fails.test", Title: "TLSA questions are answered by SERVFAIL",
			Setup: func(w *World) {
				signed("tlsa-fails.test", nil, own(3, 1, 1))(w)
				w.DNS.Fail(tlsaAt(mxOf("tlsa-fails.test")), "TLSA", "SERVFAIL")
			},
			Expect: deferred("tlsa-lookup-failed"), Why: "what may be there must not be passed over (RFC 7672, Section 2.1.2)",
		},
		{
			Domain: "tlsa-refused.test", Title: "TLSA questions about the first of two MX hosts are refused",
			Setup: func(w *World) {
				w.DNS.Sign("tlsa-refused.test")
				w.AddMX(MX{Name: "mx1.tlsa-refused.test", Domains: []string{"tlsa-refused.test"}})
				w.DNS.Fail(tlsaAt("mx1.tlsa-refused.test"), "TLSA", "REFUSED")
				publish(w.AddMX(MX{Name: "mx2.tlsa-refused.test", Domains: []string{"tlsa-refused.test"}, Preference: 20}), own(3, 1, 1))
			}, TLSA: true,
			Expect: via(Verified, "mx2.tlsa-refused.test"), Why: "such a host counts as unreachable (RFC 7672, Section 2.1.2)",
		},
		{
			Domain: "tlsa-bogus.test", Title: "the signatures of the TLSA records are wrong",
			Setup: func(w *World) {
				signed("tlsa-bogus.test", nil, own(3, 1, 1))(w)
				w.DNS.Bogus(tlsaAt(mxOf("tlsa-bogus.test")), "TLSA")
			}, TLSA: true,
			Result: "dnssec-invalid",
			Expect: deferred("dnssec-bogus"), Why: "bogus is an error, not an absence (RFC 7672, Section 2.1.1)",
		},
		{
			Domain: "mx-bogus.test", Title: "the signatures of the MX records are wrong",
			Setup: func(w *World) {
				signed("mx-bogus.test", nil, own(3, 1, 1))(w)
				w.DNS.Bogus("mx-bogus.test", "MX")
			},
			Expect: deferred("dnssec-bogus"), Why: "where mail goes cannot be told (RFC 7672, Section 2.1.2)",
		},
		{
			Domain: "tlsa-unsigned.test", Title: "a TLSA record for another certificate in a zone without signatures, and no STARTTLS",
			Setup: func(w *World) {
				unprotected("tlsa-unsigned.test", inClear)(w)
				publish(w.MX(mxOf("tlsa-unsigned.test")), foreign(3, 1, 1))
			},
			Expect: delivered(Plaintext), Why: "without DNSSEC it says nothing (RFC 7672, Section 2.2)",
		},
		{
			Domain: "tlsa-fails-unsigned.test", Title: "TLSA questions fail, and the address is not signed",
			Setup: func(w *World) {
				unprotected("tlsa-fails-unsigned.test", nil)(w)
				w.DNS.Fail(tlsaAt(mxOf("tlsa-fails-unsigned.test")), "TLSA", "SERVFAIL")
			},
			Expect: delivered(Trusted), Why: "nobody asks such a server for TLSA records (RFC 7672, Section 2.2.2)",
		},
		{
			Domain: "tlsa-absent.test", Title: "a signed zone without TLSA records, and no STARTTLS",
			Setup:  signed("tlsa-absent.test", inClear),
			Expect: delivered(Plaintext), Why: "a proven absence is an answer (RFC 7672, Section 2.2)",
		},
	}
}

// tlsaAt is where the TLSA records of an MX host are.
func tlsaAt(host string) string { return "_25._tcp." + host }

// daneAliases are led to their hosts by CNAME records, or by MX records that
// are not signed.
func daneAliases() []Scenario {
	return []Scenario{
		{
			Domain: "dane-hosted.test", Title: "MX records without signatures lead to a host that has a TLSA record",
			Setup: hosted("dane-hosted.test", "mx.dane-host.test", SelfSigned, own(3, 1, 1)), TLSA: true,
			Expect: delivered(Trusted), Why: "DANE may be used, the name is not certain (RFC 7672, Section 2.2.1)",
		},
		{
			Domain: "dane-hosted-mismatch.test", Title: "MX records without signatures lead to a host whose TLSA record is for another certificate",
			Setup: hosted("dane-hosted-mismatch.test", "mx.dane-host-mismatch.test", Good, foreign(3, 1, 1)), TLSA: true,
			Expect: deferred("dane-mismatch"), Why: "DANE is used for signed hosts all the same (RFC 7672, Section 2.2.1)",
		},
		{
			Domain: "dane-alias.test", Title: "the MX name is an alias; the TLSA record is where it leads to",
			Setup: func(w *World) {
				h := daneAlias(w, "dane-alias.test", realOf("dane-alias.test"))
				publish(h, own(3, 1, 1))
				w.DNS.Add(TLSA(tlsaAt(mxOf("dane-alias.test")), stray(h), 3, 1, 1))
			}, TLSA: true,
			Expect: delivered(Verified), Why: "the last name counts, in SNI too (RFC 7672, Section 8.1)",
		},
		{
			Domain: "dane-alias-first.test", Title: "the MX name is an alias; the TLSA record is at the alias",
			Setup: func(w *World) {
				h := daneAlias(w, "dane-alias-first.test", mxOf("dane-alias-first.test"))
				w.DNS.Add(TLSA(tlsaAt(mxOf("dane-alias-first.test")), h.leaf(), 3, 1, 1))
			}, TLSA: true,
			Expect: delivered(Verified), Why: "the first name is asked second (RFC 7672, Section 2.2.2)",
		},
		{
			Domain: "dane-alias-leaves.test", Title: "the MX name is an alias that leads out of the signed zone",
			Setup: func(w *World) {
				h := daneAlias(w, "dane-alias-leaves.test", mxOf("dane-alias-leaves.test"))
				w.DNS.Unsign(h.Name())
				publish(h, foreign(3, 1, 1))
				w.DNS.Add(TLSA(tlsaAt(mxOf("dane-alias-leaves.test")), h.leaf(), 3, 1, 1))
			}, TLSA: true,
			Expect: delivered(Verified), Why: "the alias itself is signed (RFC 7672, Section 2.2.2)",
		},
		{
			Domain: "dane-alias-enters.test", Title: "the MX name is an unsigned alias that leads into a signed zone",
			Setup: func(w *World) {
				h := daneAlias(w, "dane-alias-enters.test", mxOf("dane-alias-enters.test"))
				w.DNS.SetAD(mxOf("dane-alias-enters.test"), false)
				publish(h, foreign(3, 1, 1))
			},
			Expect: delivered(Untrusted), Why: "what follows an unsigned link is unsigned (RFC 7672, Section 2.1.3)",
		},
		{
			Domain: "dane-tlsa-alias.test", Title: "the TLSA record is behind a CNAME",
			Setup: func(w *World) {
				signed("dane-tlsa-alias.test", shows(SelfSigned))(w)
				w.DNS.Add(tlsaAt(mxOf("dane-tlsa-alias.test")) + ". 300 IN CNAME tlsa.dane-tlsa-alias.test.")
				w.DNS.Add(TLSA("tlsa.dane-tlsa-alias.test", w.MX(mxOf("dane-tlsa-alias.test")).leaf(), 3, 1, 1))
			}, TLSA: true,
			Expect: delivered(Verified), Why: "signed aliases are followed (RFC 7672, Section 2.2.3)",
		},
	}
}

// hosted is a domain in an unsigned zone whose MX host is in a signed one.
func hosted(domain, host string, kind CertKind, r recordFor) func(w *World) {
	return func(w *World) {
		w.DNS.Sign(host)
		publish(w.AddMX(MX{Name: host, Domains: []string{domain}, Cert: kind}), r)
	}
}

func realOf(domain string) string { return "real." + domain }

// daneAlias is a domain in a signed zone whose MX name is an alias of the host
// that it returns. Only who asks for the host by the name in sni is shown the
// certificate that TLSA records are for.
func daneAlias(w *World, domain, sni string) *MXHost {
	w.DNS.Sign(domain)
	w.DNS.Add(domain + ". 300 IN MX 10 " + mxOf(domain) + ".\n" + mxOf(domain) + ". 300 IN CNAME " + realOf(domain) + ".")
	return w.AddMX(MX{Name: realOf(domain), TLSConfig: func(c *tls.Config) {
		c.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if hello.ServerName == sni {
				return nil, nil // the usual one
			}
			return w.CA.Certificate(SelfSigned, "unknown."+domain), nil
		}
	}})
}

// daneAndPolicy have an enforce policy too.
func daneAndPolicy() []Scenario {
	both := func(domain string, kind CertKind, r recordFor) func(w *World) {
		return func(w *World) {
			w.DNS.Sign(domain)
			enforced(domain, shows(kind))(w)
			publish(w.MX(mxOf(domain)), r)
		}
	}
	return []Scenario{
		{
			Domain: "dane-sts.test", Title: "a TLSA record and an enforce policy, and everything is in order",
			Setup: both("dane-sts.test", Good, own(3, 1, 1)), TLSA: true,
			Expect: delivered(Verified), Why: "both are met (RFC 8461, Section 2)",
		},
		{
			Domain: "dane-sts-bad-cert.test", Title: "an enforce policy, and a self-signed certificate that matches the TLSA record",
			Setup: both("dane-sts-bad-cert.test", SelfSigned, own(3, 1, 1)), TLSA: true,
			Expect: deferred("certificate-not-trusted"), Why: "DANE does not lift the policy (RFC 8461, Section 2)",
		},
		{
			Domain: "dane-sts-mismatch.test", Title: "an enforce policy that is met, and a TLSA record for another certificate",
			Setup: both("dane-sts-mismatch.test", Good, foreign(3, 1, 1)), TLSA: true,
			Expect: deferred("dane-mismatch"), Why: "a policy does not lift DANE (RFC 8461, Section 2)",
		},
	}
}
