package lab

// policyDomains have policies that name the wrong host, or policies that
// something is wrong with. The MX hosts of the latter have no STARTTLS: what
// is delivered shows that the policy does not rule.
func policyDomains() []Scenario {
	const failed = "a policy that cannot be had does not rule (RFC 8461, Section 3.3)"
	return []Scenario{
		{
			Domain: "unlisted-mx.test", Title: "the policy does not name the MX host",
			Setup: func(w *World) {
				unprotected("unlisted-mx.test", nil)(w)
				w.AddPolicy(Policy{Domain: "unlisted-mx.test", ID: "1", MX: []string{"other.unlisted-mx.test"}})
			},
			Expect: deferred("mx-not-listed"), Why: "enforce allows the named hosts only (RFC 8461, Section 4.1)",
		},
		{
			Domain: "deep.test", Title: "the policy names *.deep.test, the MX host is a.b.deep.test",
			Setup: func(w *World) {
				w.AddMX(MX{Name: "a.b.deep.test", Domains: []string{"deep.test"}})
				w.AddPolicy(Policy{Domain: "deep.test", ID: "1", MX: []string{"*.deep.test"}})
			},
			Expect: deferred("mx-not-listed"), Why: "* stands for exactly one label (RFC 8461, Section 4.1)",
		},
		{
			Domain: "policy-404.test", Title: "the policy host answers 404",
			Setup:  published("policy-404.test", func(p *Policy) { p.Status = 404 }),
			Expect: delivered(Plaintext), Why: failed,
		},
		{
			Domain: "policy-redirect.test", Title: "the policy host redirects to where a policy is",
			Setup: published("policy-redirect.test", func(p *Policy) {
				p.Redirect = "https://mta-sts.ok.test" + PolicyPath
			}),
			Expect: delivered(Plaintext), Why: "redirects are not followed (RFC 8461, Section 3.3)",
		},
		{
			Domain: "policy-cert.test", Title: "the certificate of the policy host is for the domain only",
			Setup:  published("policy-cert.test", func(p *Policy) { p.CertNames = []string{"policy-cert.test"} }),
			Expect: delivered(Plaintext), Why: "it must be for mta-sts.policy-cert.test (RFC 8461, Section 3.3)",
		},
		{
			Domain: "policy-html.test", Title: "the policy is served as text/html",
			Setup:  published("policy-html.test", func(p *Policy) { p.ContentType = "text/html" }),
			Expect: delivered(Plaintext), Why: "the media type must be text/plain (RFC 8461, Section 3.2)",
		},
		{
			Domain: "policy-large.test", Title: "the policy file has a megabyte",
			Setup:  published("policy-large.test", func(p *Policy) { p.Size = 1 << 20 }),
			Expect: delivered(Plaintext), Why: "64 kilobytes are enough (RFC 8461, Section 3.3)",
		},
		{
			Domain: "policy-hangs.test", Title: "the policy host takes the question and never answers",
			Setup: published("policy-hangs.test", func(p *Policy) {
				p.Hang, p.HangFor = true, hangTime
			}),
			Expect: delivered(Plaintext), Why: failed,
		},
		{
			Domain: "policy-garbage.test", Title: "the policy file is no policy",
			Setup:  published("policy-garbage.test", func(p *Policy) { p.Body = "<html>It works!</html>\n" }),
			Expect: delivered(Plaintext), Why: failed,
		},
		{
			Domain: "policy-down.test", Title: "the policy host cannot be reached",
			Setup: func(w *World) {
				published("policy-down.test", func(*Policy) {})(w)
				w.Policy("policy-down.test").Down()
			},
			Expect: delivered(Plaintext), Why: failed,
		},
		{
			Domain: "two-records.test", Title: "two MTA-STS records",
			Setup: published("two-records.test", func(p *Policy) {
				p.TXT = []string{"v=STSv1; id=1;", "v=STSv1; id=2;"}
			}),
			Expect: delivered(Plaintext), Why: "anything but one record is none (RFC 8461, Section 3.1)",
		},
		{
			Domain: "bad-record.test", Title: "an MTA-STS record without id",
			Setup:  published("bad-record.test", func(p *Policy) { p.TXT = []string{"v=STSv1;"} }),
			Expect: delivered(Plaintext), Why: "a record that is not valid is none (RFC 8461, Section 3.1)",
		},
		{
			Domain: "other-txt.test", Title: "other TXT records beside the one that counts",
			Setup: func(w *World) {
				unprotected("other-txt.test", func(m *MX) { m.NoStartTLS = true })(w)
				w.AddPolicy(Policy{
					Domain: "other-txt.test",
					TXT:    []string{"google-site-verification=x", "v=STSv1; id=1;", "v=STSv2; id=1;"},
					MX:     []string{"mx.other-txt.test"},
				})
			},
			Expect: deferred("starttls-missing"), Why: "other records are passed over (RFC 8461, Section 3.1)",
		},
	}
}

// cachedDomains are in order for a first message, and change before the one
// that counts.
func cachedDomains() []Scenario {
	return []Scenario{
		{
			Domain: "stale.test", Title: "record and policy host vanish, and the certificate is replaced by a self-signed one",
			Setup: fleeting("stale.test"),
			Break: func(w *World) {
				vanish(w, "stale.test")
				mx := w.MX("mx.stale.test")
				mx.Change(func(m *MX) { m.Cert = SelfSigned })
				mx.Drop()
			},
			Expect: deferred("certificate-not-trusted"), Why: "a cached policy rules until it expires (RFC 8461, Section 3.3)",
		},
		{
			Domain: "stale-ok.test", Title: "record and policy host vanish, and the MX host is still in order",
			Setup:  fleeting("stale-ok.test"),
			Break:  func(w *World) { vanish(w, "stale-ok.test") },
			Expect: delivered(Verified), Why: "a cached policy rules until it expires (RFC 8461, Section 3.3)",
		},
		{
			Domain: "hijacked.test", Title: "the MX record suddenly leads to someone else's host",
			Setup: fleeting("hijacked.test"),
			Break: func(w *World) {
				w.AddMX(MX{Name: "mx.attacker.test"})
				w.DNS.Set("hijacked.test. 0 IN MX 10 mx.attacker.test.")
			},
			Expect: deferred("mx-not-listed"), Why: "DNS alone does not name a host (RFC 8461, Section 4.1)",
		},
		{
			Domain: "moved.test", Title: "the domain moves to another MX host and changes its policy",
			Setup: fleeting("moved.test"),
			Break: func(w *World) {
				w.AddMX(MX{Name: "new.moved.test"})
				w.DNS.Set("moved.test. 0 IN MX 10 new.moved.test.")
				w.Policy("moved.test").Change(func(p *Policy) { p.ID, p.MX = "2", []string{"new.moved.test"} })
			},
			Expect: via(Verified, "new.moved.test"), Why: "a new id leads to the new policy (RFC 8461, Section 3.1)",
		},
	}
}

// fleeting is an enforced domain whose records no resolver keeps.
func fleeting(domain string) func(w *World) {
	return func(w *World) {
		w.AddMX(MX{Name: mxOf(domain), Domains: []string{domain}, TTL: NoTTL, NoTickets: true})
		w.AddPolicy(Policy{Domain: domain, ID: "1", MX: []string{mxOf(domain)}, TTL: NoTTL})
	}
}

// vanish takes away what leads to a policy, and the policy.
func vanish(w *World, domain string) {
	p := w.Policy(domain)
	p.Withdraw()
	p.Down()
}
