package lab

// A Mail says how the message of a Scenario is sent.
type Mail struct {
	RequireTLS    bool // with the MAIL parameter REQUIRETLS (RFC 8689, Section 2)
	TLSRequiredNo bool // with the header field "TLS-Required: No" (RFC 8689, Section 3)
}

// requireTLSDomains get messages that ask for more TLS than the domain does, or
// for less.
func requireTLSDomains() []Scenario {
	offers := func(m *MX) { m.RequireTLS = true }
	demanding, heedless := Mail{RequireTLS: true}, Mail{TLSRequiredNo: true}
	return []Scenario{
		{
			Domain: "requiretls.test", Title: "REQUIRETLS, and an enforce policy; the MX host offers it too",
			Mail: demanding, Setup: enforced("requiretls.test", offers),
			Expect: delivered(Verified), Why: "name, certificate and offer are right (RFC 8689, Section 4.2.1)",
		},
		{
			Domain: "requiretls-dane.test", Title: "REQUIRETLS, and a TLSA record for a self-signed certificate",
			Mail: demanding, Setup: signed("requiretls-dane.test", func(m *MX) { m.Cert, m.RequireTLS = SelfSigned, true }, own(3, 1, 1)), TLSA: true,
			Expect: delivered(Verified), Why: "DANE vouches for name and host (RFC 8689, Section 4.2.1)",
		},
		{
			Domain: "requiretls-signed.test", Title: "REQUIRETLS, and signed MX records without policy or TLSA record",
			Mail: demanding, Setup: signed("requiretls-signed.test", offers),
			Expect: delivered(Verified), Why: "DNSSEC vouches for the name (RFC 8689, Section 4.2.1)",
		},
		{
			Domain: "requiretls-2.test", Title: "REQUIRETLS, and the second of two MX hosts offers it",
			Mail: demanding, Setup: func(w *World) {
				w.AddMX(MX{Name: "mx1.requiretls-2.test", Domains: []string{"requiretls-2.test"}})
				w.AddMX(MX{Name: "mx2.requiretls-2.test", Domains: []string{"requiretls-2.test"}, Preference: 20, RequireTLS: true})
				w.AddPolicy(Policy{Domain: "requiretls-2.test", ID: "1", MX: []string{"*.requiretls-2.test"}})
			},
			Expect: via(Verified, "mx2.requiretls-2.test"), Why: "each MX host is tried in turn (RFC 8689, Section 4.2.1)",
		},
		{
			Domain: "requiretls-missing.test", Title: "REQUIRETLS, and the MX host does not offer it",
			Mail: demanding, Setup: enforced("requiretls-missing.test", nil),
			Expect: bounced("requiretls-unsupported"), Why: "the next server must promise it too (RFC 8689, Section 4.2.1)",
		},
		{
			Domain: "requiretls-bad-cert.test", Title: "REQUIRETLS, signed MX records, and a self-signed certificate",
			Mail: demanding, Setup: signed("requiretls-bad-cert.test", func(m *MX) { m.Cert, m.RequireTLS = SelfSigned, true }),
			Expect: deferred("certificate-not-trusted"), Why: "the certificate must be valid (RFC 8689, Section 4.2.1)",
		},
		{
			Domain: "requiretls-no-name.test", Title: "REQUIRETLS, and neither a policy nor DNSSEC; the MX host offers it",
			Mail: demanding, Setup: unprotected("requiretls-no-name.test", offers),
			Expect: bounced("requiretls-unsupported"), Why: "nobody vouches for the MX name (RFC 8689, Section 4.2.1)",
		},
		{
			Domain: "requiretls-clear.test", Title: "REQUIRETLS, and signed MX records lead to a host without STARTTLS",
			Mail: demanding, Setup: signed("requiretls-clear.test", inClear),
			Expect: bounced("requiretls-without-tls"), Why: "it is never sent in the clear (RFC 8689, Section 4.2.1)",
		},
		{
			Domain: "tls-required-no.test", Title: "TLS-Required: No, and an enforce policy that a self-signed certificate breaks",
			Mail: heedless, Setup: enforced("tls-required-no.test", shows(SelfSigned)), Result: "certificate-not-trusted",
			Expect: delivered(Untrusted), Why: "the sender wants it to arrive (RFC 8689, Section 4.2.2)",
		},
		{
			Domain: "tls-required-no-530.test", Title: "TLS-Required: No, and a host that has no STARTTLS and answers 530 without TLS",
			Mail: heedless, Setup: enforced("tls-required-no-530.test", func(m *MX) { m.NoStartTLS, m.RefuseInClear = true, true }),
			Result: "starttls-not-supported",
			Expect: bounced("remote-reply"), Why: "who demands TLS of all is obeyed (RFC 8689, Section 4.2.2)",
		},
	}
}
