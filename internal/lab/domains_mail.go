package lab

// dnsDomains are special in their MX records.
func dnsDomains() []Scenario {
	return []Scenario{
		{
			Domain: "implicit.test", Title: "no MX record: the domain is its own MX host",
			Setup: func(w *World) {
				w.AddMX(MX{Name: "implicit.test"})
				w.AddPolicy(Policy{Domain: "implicit.test", ID: "1", MX: []string{"implicit.test"}})
			},
			Expect: delivered(Verified), Why: "the address record counts as MX (RFC 5321, Section 5.1)",
		},
		{
			Domain: "alias.test", Title: "the MX name is an alias, the certificate is for the alias",
			Setup:  aliased("alias.test", "mx.alias.test"),
			Expect: delivered(Verified), Why: "what counts is the name in the MX record (RFC 8461, Section 4.2)",
		},
		{
			Domain: "alias-target.test", Title: "the MX name is an alias, the certificate is for what it leads to",
			Setup:  aliased("alias-target.test", "real.alias-target.test"),
			Expect: deferred("certificate-host-mismatch"), Why: "what counts is the name in the MX record (RFC 8461, Section 4.2)",
		},
		{
			Domain: "null-mx.test", Title: "a null MX record",
			Setup:  func(w *World) { w.DNS.Add("null-mx.test. 300 IN MX 0 .") },
			Expect: bounced("null-mx"), Why: "the domain takes no mail (RFC 7505, Section 3)",
		},
		{
			Domain: "no-such-domain.test", Title: "the domain does not exist",
			Setup:  func(*World) {},
			Expect: bounced("no-such-domain"), Why: "NXDOMAIN is final (RFC 5321, Section 5.1)",
		},
		{
			Domain: "no-address.test", Title: "the MX host has no address",
			Setup:  func(w *World) { w.DNS.Add("no-address.test. 300 IN MX 10 mx.no-address.test.") },
			Expect: bounced("no-address"), Why: "it leads nowhere (RFC 5321, Section 5.1)",
		},
		{
			Domain: "private.test", Title: "the MX host has the address 10.0.0.1",
			Setup: func(w *World) {
				w.DNS.Add("private.test. 300 IN MX 10 mx.private.test.\nmx.private.test. 300 IN A 10.0.0.1")
			},
			Expect: deferred("forbidden-address"), Why: "DNS must not lead into the relay's own network (CWE-918)",
		},
		{
			Domain: "dns-fails.test", Title: "DNS answers SERVFAIL",
			Setup:  func(w *World) { w.DNS.Fail("dns-fails.test", "", "SERVFAIL") },
			Expect: deferred("dns-failed"), Why: "not to know is not to know that there is nothing (RFC 5321, Section 5.1)",
		},
		{
			Domain: "txt-fails.test", Title: "the MTA-STS record cannot be looked up",
			Setup: func(w *World) {
				unprotected("txt-fails.test", nil)(w)
				w.DNS.Fail("_mta-sts.txt-fails.test", "TXT", "SERVFAIL")
			},
			Expect: deferred("sts-discovery-failed"), Why: "whether there is a policy cannot be told, and mail can wait (RFC 8461, Section 10.2)",
		},
	}
}

// aliased is an enforced domain whose MX name is an alias of real.domain, and
// whose certificate is for one of the two.
func aliased(domain, certificate string) func(w *World) {
	return func(w *World) {
		w.AddMX(MX{Name: "real." + domain, CertNames: []string{certificate}})
		w.DNS.Add(domain + ". 300 IN MX 10 mx." + domain + ".\nmx." + domain + ". 300 IN CNAME real." + domain + ".")
		w.AddPolicy(Policy{Domain: domain, ID: "1", MX: []string{mxOf(domain)}})
	}
}

// replyDomains have MX hosts in order but for what they say, or do not say.
func replyDomains() []Scenario {
	rules := func(list ...Rule) func(m *MX) { return func(m *MX) { m.Rules = list } }
	later := deferred("remote-reply")
	later.Next = Delivered
	lost := deferred("connection-lost")
	lost.Next = Delivered
	return []Scenario{
		{
			Domain: "greylist.test", Title: "the first attempt is answered by 450",
			Setup:  enforced("greylist.test", rules(Rule{On: "RCPT", Reply: "450 4.2.0 greylisted, come back", Times: 1})),
			Expect: later, Why: "a 4yz reply is for now (RFC 5321, Section 4.2.1)",
		},
		{
			Domain: "no-such-user.test", Title: "the recipient is refused with 550",
			Setup:  enforced("no-such-user.test", rules(Rule{On: "RCPT", Reply: "550 5.1.1 no such user"})),
			Expect: bounced("remote-reply"), Why: "a 5yz reply is final (RFC 5321, Section 4.2.1)",
		},
		{
			Domain: "spam.test", Title: "the content is refused with 554",
			Setup:  enforced("spam.test", rules(Rule{On: EndOfData, Reply: "554 5.7.1 looks like spam"})),
			Expect: bounced("remote-reply"), Why: "a 5yz reply is final (RFC 5321, Section 4.2.1)",
		},
		{
			Domain: "busy.test", Title: "the host greets with 421 once",
			Setup:  enforced("busy.test", rules(Rule{On: Connect, Reply: "421 4.3.2 busy", Times: 1})),
			Expect: later, Why: "a 4yz reply is for now (RFC 5321, Section 3.1)",
		},
		{
			Domain: "lost.test", Title: "the connection is lost after the final dot once",
			Setup:  enforced("lost.test", rules(Rule{On: EndOfData, Then: Reset, Times: 1})),
			Expect: lost, Why: "without the reply the message is still ours (RFC 5321, Section 4.5.3.2.6)",
		},
		{
			Domain: "mx-down.test", Title: "the MX host cannot be reached",
			Setup: func(w *World) {
				enforced("mx-down.test", nil)(w)
				w.MX("mx.mx-down.test").Down()
			},
			Expect: deferred("connect-failed"), Why: "it may come back (RFC 5321, Section 4.5.4.1)",
		},
	}
}
