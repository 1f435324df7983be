package lab

import "time"

// A Scenario is a recipient domain that is special in one way, and what a
// sender that enforces MTA-STS and DANE must do with a message to it. All of Domains
// fit into one World.
//
// For a scenario with a Break, a first message is sent and must be delivered;
// then Break changes the world, and the message after it is the one that is
// judged.
type Scenario struct {
	Domain string // the message goes to someone there
	Title  string // what is special, in plain words
	Mail   Mail   // how it is sent
	Setup  func(w *World)
	Break  func(w *World) // nil for most
	Expect Expect
	TLSA   bool   // whether TLSA records apply: TLS reports then have a policy of that type
	Result string // what TLS reports call the failure, where Expect leaves it open (RFC 8460, Section 4.3)
	Why    string // the rule, and where it is written
}

// An Expect is what must become of the message at its first attempt.
type Expect struct {
	Outcome string // Delivered, Deferred or Bounced
	TLS     string // of the connection it went over, "" if it was not delivered
	Via     string // name of the MX host it went to, "" if there is only one
	Reason  string // the word for why it was not delivered, "" if it was
	Next    string // what must become of it at the next attempt, if that differs from Outcome
}

// The outcomes.
const (
	Delivered = "delivered"
	Deferred  = "deferred"
	Bounced   = "bounced"
)

// How far a connection is to be trusted.
const (
	Verified  = "verified"  // the certificate is valid, by authorities or TLSA records, for a name that a policy or DNSSEC vouches for
	Trusted   = "trusted"   // the certificate is valid, but the name came from plain DNS
	Untrusted = "untrusted" // encrypted, with whom nobody knows
	Plaintext = "plaintext"
)

// Domains lists the scenarios. Each takes a second or two at most.
func Domains() []Scenario {
	var list []Scenario
	for _, part := range [][]Scenario{soundDomains(), certificateDomains(), tlsDomains(), policyDomains(), cachedDomains(), dnsDomains(), daneDomains(), requireTLSDomains(), replyDomains()} {
		list = append(list, part...)
	}
	return list
}

// SetUp puts the scenarios into a World.
func (w *World) SetUp(list []Scenario) {
	for _, s := range list {
		s.Setup(w)
	}
}

// mxOf is the name of the only MX host of a domain.
func mxOf(domain string) string { return "mx." + domain }

// enforced is a domain with an enforce policy that names its one MX host.
func enforced(domain string, change func(m *MX)) func(w *World) {
	return func(w *World) {
		unprotected(domain, change)(w)
		w.AddPolicy(Policy{Domain: domain, ID: "1", MX: []string{mxOf(domain)}})
	}
}

// unprotected is a domain with one MX host and no policy.
func unprotected(domain string, change func(m *MX)) func(w *World) {
	return func(w *World) {
		m := MX{Name: mxOf(domain), Domains: []string{domain}}
		if change != nil {
			change(&m)
		}
		w.AddMX(m)
	}
}

// published is a domain with one MX host without STARTTLS and a policy that
// something is wrong with: a sender that obeyed it would not deliver.
func published(domain string, change func(p *Policy)) func(w *World) {
	return func(w *World) {
		unprotected(domain, func(m *MX) { m.NoStartTLS = true })(w)
		p := Policy{Domain: domain, ID: "1", MX: []string{mxOf(domain)}}
		change(&p)
		w.AddPolicy(p)
	}
}

func delivered(tls string) Expect { return Expect{Outcome: Delivered, TLS: tls} }

func via(tls, mx string) Expect { return Expect{Outcome: Delivered, TLS: tls, Via: mx} }

func deferred(reason string) Expect { return Expect{Outcome: Deferred, Reason: reason} }

func bounced(reason string) Expect { return Expect{Outcome: Bounced, Reason: reason} }

// soundDomains are in order.
func soundDomains() []Scenario {
	return []Scenario{
		{
			Domain: "ok.test", Title: "an enforce policy, and everything is in order",
			Setup: enforced("ok.test", nil), Expect: delivered(Verified),
			Why: "policy, MX name and certificate agree (RFC 8461, Section 4)",
		},
		{
			Domain: "wildcard.test", Title: "the policy names *.wildcard.test",
			Setup: func(w *World) {
				unprotected("wildcard.test", nil)(w)
				w.AddPolicy(Policy{Domain: "wildcard.test", ID: "1", MX: []string{"*.wildcard.test"}})
			},
			Expect: delivered(Verified), Why: "* stands for one label (RFC 8461, Section 4.1)",
		},
		{
			Domain: "wildcard-cert.test", Title: "the certificate is for *.wildcard-cert.test",
			Setup: enforced("wildcard-cert.test", func(m *MX) { m.Cert = Wildcard }), Expect: delivered(Verified),
			Why: "a certificate may have a wildcard as its left-most label (RFC 8461, Section 4.2)",
		},
		{
			Domain: "second-mx.test", Title: "the policy names the second of two MX hosts only",
			Setup: func(w *World) {
				w.AddMX(MX{Name: "mx1.second-mx.test", Domains: []string{"second-mx.test"}})
				w.AddMX(MX{Name: "mx2.second-mx.test", Domains: []string{"second-mx.test"}, Preference: 20})
				w.AddPolicy(Policy{Domain: "second-mx.test", ID: "1", MX: []string{"mx2.second-mx.test"}})
			},
			Expect: via(Verified, "mx2.second-mx.test"), Why: "a host that fails is passed over for the next (RFC 8461, Section 5.1)",
		},
		{
			Domain: "second-cert.test", Title: "the first of two MX hosts has an expired certificate",
			Setup: func(w *World) {
				w.AddMX(MX{Name: "mx1.second-cert.test", Domains: []string{"second-cert.test"}, Cert: Expired})
				w.AddMX(MX{Name: "mx2.second-cert.test", Domains: []string{"second-cert.test"}, Preference: 20})
				w.AddPolicy(Policy{Domain: "second-cert.test", ID: "1", MX: []string{"*.second-cert.test"}})
			},
			Expect: via(Verified, "mx2.second-cert.test"), Why: "a host that fails is passed over for the next (RFC 8461, Section 5.1)",
		},
		{
			Domain: "testing-bad-cert.test", Title: "a testing policy, and a self-signed certificate",
			Setup: func(w *World) {
				unprotected("testing-bad-cert.test", func(m *MX) { m.Cert = SelfSigned })(w)
				w.AddPolicy(Policy{Domain: "testing-bad-cert.test", ID: "1", Mode: "testing", MX: []string{"mx.testing-bad-cert.test"}})
			},
			Expect: delivered(Untrusted), Why: "testing reports and does not stop mail (RFC 8461, Section 5)",
		},
		{
			Domain: "testing-unlisted.test", Title: "a testing policy that does not name the MX host",
			Setup: func(w *World) {
				unprotected("testing-unlisted.test", nil)(w)
				w.AddPolicy(Policy{Domain: "testing-unlisted.test", ID: "1", Mode: "testing", MX: []string{"other.testing-unlisted.test"}})
			},
			Expect: delivered(Trusted), Why: "testing reports and does not stop mail (RFC 8461, Section 5)",
		},
		{
			Domain: "mode-none.test", Title: "a policy of mode none, and no STARTTLS",
			Setup: published("mode-none.test", func(p *Policy) { p.Mode = "none" }), Expect: delivered(Plaintext),
			Why: "none is as if there were no policy (RFC 8461, Section 5)",
		},
		{
			Domain: "no-policy.test", Title: "no policy, and good TLS",
			Setup: unprotected("no-policy.test", nil), Expect: delivered(Trusted),
			Why: "TLS is used where it can be had (RFC 7435)",
		},
		{
			Domain: "no-policy-self-signed.test", Title: "no policy, and a self-signed certificate",
			Setup:  unprotected("no-policy-self-signed.test", func(m *MX) { m.Cert = SelfSigned }),
			Expect: delivered(Untrusted), Why: "TLS with anybody is better than none (RFC 7435, Section 1.2)",
		},
		{
			Domain: "no-policy-plaintext.test", Title: "no policy, and no STARTTLS",
			Setup:  unprotected("no-policy-plaintext.test", func(m *MX) { m.NoStartTLS = true }),
			Expect: delivered(Plaintext), Why: "nobody asks for TLS (RFC 3207)",
		},
		{
			Domain: "sub.parent.test", Title: "the parent domain has a policy, this one has none",
			Setup: func(w *World) {
				enforced("parent.test", nil)(w)
				unprotected("sub.parent.test", func(m *MX) { m.NoStartTLS = true })(w)
			},
			Expect: delivered(Plaintext), Why: "a policy is not for subdomains (RFC 8461, Section 3.4)",
		},
	}
}

// hangTime is how long a host of a scenario hangs.
const hangTime = time.Second
