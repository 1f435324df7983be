package lab

import "crypto/tls"

// certificateDomains have enforce policies, and MX hosts with certificates
// that must not do.
func certificateDomains() (list []Scenario) {
	for _, row := range []struct {
		name, title  string
		kind         CertKind
		reason, rule string
	}{
		{"wrong-name", "the certificate is for another name", WrongName, "certificate-host-mismatch", "it must be for the MX name"},
		{"expired", "the certificate has expired", Expired, "certificate-expired", "it must not have expired"},
		{"not-yet-valid", "the certificate is valid from tomorrow", NotYetValid, "certificate-not-trusted", "it must be valid now"},
		{"self-signed", "the certificate is self-signed", SelfSigned, "certificate-not-trusted", "it must chain to a trusted root"},
		{"untrusted-ca", "the certificate is of an unknown authority", UntrustedCA, "certificate-not-trusted", "it must chain to a trusted root"},
		{"missing-intermediate", "the intermediate certificate is not sent", MissingIntermediate, "certificate-not-trusted", "it must chain to a trusted root"},
		{"cn-only", "the name is the certificate's common name only", CNOnly, "certificate-host-mismatch", "the name must be an alternative name"},
	} {
		domain := row.name + ".test"
		list = append(list, Scenario{
			Domain: domain,
			Title:  row.title,
			Setup:  enforced(domain, func(m *MX) { m.Cert = row.kind }),
			Expect: deferred(row.reason),
			Why:    row.rule + " (RFC 8461, Section 4.2)",
		})
	}
	return list
}

// tlsDomains have MX hosts whose STARTTLS is missing or broken.
func tlsDomains() []Scenario {
	const enforce = "enforce needs TLS (RFC 8461, Section 5)"
	injection := []Rule{{On: "STARTTLS", Raw: "220 go\r\n250 injected\r\n"}}
	abort := []Rule{{On: TLSStart, Then: Hangup}}
	return []Scenario{
		{
			Domain: "no-starttls.test", Title: "an enforce policy, and no STARTTLS",
			Setup:  enforced("no-starttls.test", func(m *MX) { m.NoStartTLS = true }),
			Expect: deferred("starttls-missing"), Why: enforce,
		},
		{
			Domain: "no-ehlo.test", Title: "an enforce policy, and a host that knows HELO only",
			Setup:  enforced("no-ehlo.test", func(m *MX) { m.NoESMTP = true }),
			Expect: deferred("starttls-missing"), Why: enforce,
		},
		{
			Domain: "starttls-454.test", Title: "STARTTLS is offered and refused with 454",
			Setup:  enforced("starttls-454.test", func(m *MX) { m.Rules = []Rule{{On: "STARTTLS", Reply: "454 4.7.0 not now"}} }),
			Expect: deferred("starttls-missing"), Why: enforce,
		},
		{
			Domain: "lower-case.test", Title: "the keyword is written starttls",
			Setup:  enforced("lower-case.test", func(m *MX) { m.StartTLSWord = "starttls" }),
			Expect: delivered(Verified), Why: "keywords have no case (RFC 5321, Section 4.1.1.1)",
		},
		{
			Domain: "tls12.test", Title: "TLS 1.2 and nothing newer",
			Setup:  enforced("tls12.test", func(m *MX) { m.MaxTLS = tls.VersionTLS12 }),
			Expect: delivered(Verified), Why: "TLS 1.2 is still good (RFC 9325, Section 3.1.1)",
		},
		{
			Domain: "tls11.test", Title: "an enforce policy, and TLS 1.1 at most",
			Setup:  enforced("tls11.test", func(m *MX) { m.MaxTLS = tls.VersionTLS11 }),
			Expect: deferred("tls-failed"), Why: "TLS 1.1 is no longer used (RFC 8996)",
		},
		{
			Domain: "tls-abort.test", Title: "an enforce policy, and the handshake is broken off",
			Setup:  enforced("tls-abort.test", func(m *MX) { m.Rules = abort }),
			Expect: deferred("tls-failed"), Why: "there is no clear-text retry under enforce (RFC 8461, Section 5)",
		},
		{
			Domain: "tls-abort-no-policy.test", Title: "no policy, and the handshake is broken off",
			Setup:  unprotected("tls-abort-no-policy.test", func(m *MX) { m.Rules = abort }),
			Expect: delivered(Plaintext), Why: "a new connection goes on in the clear (RFC 7435, Section 3)",
		},
		{
			Domain: "injection.test", Title: "an enforce policy, and text after the reply to STARTTLS",
			Setup:  enforced("injection.test", func(m *MX) { m.Rules = injection }),
			Expect: deferred("tls-failed"), Why: "it is taken for an attack (RFC 3207, Section 6)",
		},
		{
			Domain: "injection-no-policy.test", Title: "no policy, and text after the reply to STARTTLS",
			Setup:  unprotected("injection-no-policy.test", func(m *MX) { m.Rules = injection }),
			Expect: delivered(Plaintext), Why: "a new connection goes on in the clear (RFC 7435, Section 3)",
		},
	}
}
