package check

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"stsrelay/delivery"
	"stsrelay/internal/addr"
	"stsrelay/stscache"
	"stsrelay/tlsrpt"
)

// soon is how many days before its end a certificate is worth a warning.
const soon = 14 * 24 * time.Hour

func (r *Report) evaluate(noSMTP bool) {
	if r.PlanErr != nil && r.PlanErr.Permanent && len(r.Hosts) == 0 { // there is no mail to protect
		r.Verdict = NoMail
		r.planFailed()
		return
	}
	r.policy()
	for i := range r.Hosts {
		r.host(&r.Hosts[i], noSMTP)
	}
	r.reports()
	r.dane()
	r.Verdict = r.verdict()
	if r.PlanErr != nil {
		r.planFailed()
	}
	rank := map[stscache.Severity]int{stscache.SeverityError: 0, stscache.SeverityWarning: 1, stscache.SeverityInfo: 2}
	slices.SortStableFunc(r.Findings, func(a, b Finding) int { return cmp.Compare(rank[a.Severity], rank[b.Severity]) })
}

// add keeps a finding once: hosts have many addresses.
func (r *Report) add(f Finding) {
	if !slices.Contains(r.Findings, f) {
		r.Findings = append(r.Findings, f)
	}
}

// policy says what is wrong with the discovery of the policy, and with the
// policy itself.
func (r *Report) policy() {
	st, domain := r.Status, r.Domain.String()
	f := Finding{Severity: stscache.SeverityError, Subject: domain, RFC: "RFC 8461, Section 3.1"}
	switch err := st.Err; {
	case err == nil:
	case errors.Is(err, stscache.ErrNoRecord) && st.Policy == nil:
		r.add(Finding{ID: "sts-none", Severity: stscache.SeverityInfo, Subject: domain, RFC: f.RFC,
			Text: domain + " does not use MTA-STS: senders that do not know DANE use TLS if it is offered, and an attacker on the way can take it away",
			Fix:  "stsrelay policy lint checks a policy before you publish it; begin with mode testing"})
	case errors.Is(err, stscache.ErrLookup) && len(r.Hosts) > 0 && st.Policy == nil: // each host is skipped for it
	case errors.Is(err, stscache.ErrLookup):
		r.Unknown = append(r.Unknown, "whether there is a newer policy: "+tlsrpt.Clean(err.Error()))
	case errors.Is(err, stscache.ErrManyRecords):
		f.ID, f.Text, f.Fix = "sts-many-records", "there are several MTA-STS records, which count as none", "keep one TXT record at "+r.Record.Name
		r.add(f)
	case errors.Is(err, stscache.ErrRecordSyntax), errors.Is(err, stscache.ErrNoRecord):
		f.ID, f.Text, f.Fix = "sts-record-invalid", tlsrpt.Clean(err.Error()), `publish at `+r.Record.Name+` the TXT record "v=STSv1; id=`+r.At.UTC().Format("20060102T150405")+`"`
		r.add(f)
	default:
		r.add(fetchFinding(f, err))
	}
	r.lint()
}

// fetchFinding says why there is a record and no policy.
func fetchFinding(f Finding, err error) Finding {
	f.RFC, f.Text = "RFC 8461, Section 3.3", tlsrpt.Clean(err.Error())
	host := "mta-sts." + f.Subject
	switch {
	case errors.Is(err, stscache.ErrWebPKI):
		f.ID, f.Result, f.Fix = "sts-webpki-invalid", tlsrpt.STSWebPKIInvalid, "give the web server at "+host+" a valid certificate for exactly that name"
	case errors.Is(err, stscache.ErrPolicySyntax):
		f.ID, f.Result, f.Fix = "sts-policy-invalid", tlsrpt.STSPolicyInvalid, "stsrelay policy lint says what is wrong with the file"
	default:
		f.ID, f.Result, f.Fix = "sts-policy-fetch-error", tlsrpt.STSPolicyFetchError, "serve https://"+host+"/.well-known/mta-sts.txt with status 200 and type text/plain, without a redirect"
	}
	return f
}

// lint adds what the policy says of itself, and patterns for nobody. Hosts that
// it does not name are for Decide to tell.
func (r *Report) lint() {
	p := r.Status.Policy
	if p == nil {
		return
	}
	var found []stscache.Problem
	if len(r.Status.Lines) > 0 {
		_, found = stscache.LintPolicy([]byte(strings.Join(r.Status.Lines, "\n")))
	}
	for _, q := range append(found, stscache.LintHosts(p, hostNames(r.Hosts))...) {
		if q.Severity != stscache.SeverityError {
			r.add(Finding{ID: q.ID, Severity: q.Severity, Subject: r.Domain.String(), Text: q.Text, Fix: q.Hint, RFC: q.RFC})
		}
	}
	if p.Mode == stscache.Testing {
		r.add(Finding{ID: "sts-testing", Severity: stscache.SeverityInfo, Subject: r.Domain.String(), RFC: "RFC 8461, Section 5",
			Text: "the policy is in testing mode: senders report what is wrong, and deliver all the same",
			Fix:  "switch to enforce when reports show no failure for two weeks"})
	}
}

// host judges one MX host.
func (r *Report) host(h *Host, noSMTP bool) {
	testing := h.Facts.STS.Policy != nil && h.Facts.STS.Policy.Mode == stscache.Testing
	later := h.Decision
	if testing {
		later = enforced(h.PlannedHost)
	}
	h.Verdict = Unknown
	if skip := h.Decision.Skip; skip != nil {
		h.Verdict = Refuse
		r.refusal(*h, skip, h.Decision.SkipResults(), stscache.SeverityError)
	} else if testing && later.Skip != nil {
		h.Later = later.Skip
		r.refusal(*h, later.Skip, later.SkipResults(), stscache.SeverityWarning)
	}
	if h.AddrErr != nil {
		r.unreachable(*h, h.AddrErr, stscache.SeverityError)
	}
	for i := range h.Addresses {
		r.address(h, &h.Addresses[i], later, testing)
	}
	if noSMTP && h.Verdict == Unknown && h.AddrErr == nil {
		r.Unknown = append(r.Unknown, "what "+h.Facts.MX.String()+" shows: it was not contacted")
	}
}

// address judges one address of a host. A host is good if one of them is.
func (r *Report) address(h *Host, a *Address, later delivery.Decision, testing bool) {
	if a.Err != nil {
		r.unreachable(*h, a.Err, stscache.SeverityWarning)
		return
	}
	if s := a.Evidence.State; s != nil && len(s.PeerCertificates) > 0 {
		a.Leaf = s.PeerCertificates[0]
		r.expiry(*h, a)
	}
	a.Later = later.Judge(a.Evidence)
	v := a.Verdict
	switch {
	case h.Decision.Skip != nil:
		return
	case v.Err != nil:
		if h.Verdict == Unknown {
			h.Verdict = Refuse
		}
		r.refusal(*h, v.Err, v.Results, stscache.SeverityError)
	default:
		h.Verdict = Deliver
		if testing && a.Later.Err != nil && later.Skip == nil {
			h.Later = a.Later.Err
			r.refusal(*h, a.Later.Err, v.Results, stscache.SeverityWarning)
		}
	}
}

// refusal turns what a sender finds into what the owner should know.
func (r *Report) refusal(h Host, e *delivery.Error, results []tlsrpt.PolicyResult, s stscache.Severity) {
	f := Finding{ID: string(e.Reason), Severity: s, Subject: cmp.Or(h.Facts.MX.String(), r.Domain.String()), Text: e.Text,
		Fix: e.Reason.Info().Owner, RFC: e.RFC}
	if s == stscache.SeverityWarning {
		f.Text = "under enforce: " + f.Text
	}
	if e.Reason == delivery.MXNotListed {
		f.Fix = "add  mx: " + f.Subject + "  to the policy file and change the id in the TXT record"
	}
	for _, p := range results {
		for _, failure := range p.Failures {
			f.Result = cmp.Or(f.Result, failure.Result)
		}
	}
	r.add(f)
}

func (r *Report) unreachable(h Host, e *delivery.Error, s stscache.Severity) {
	r.add(Finding{ID: string(e.Reason), Severity: s, Subject: h.Facts.MX.String(), Text: strings.TrimSpace(e.Addr + " " + e.Text), Fix: e.Reason.Info().Owner, RFC: e.RFC})
}

func (r *Report) expiry(h Host, a *Address) {
	left := a.Leaf.NotAfter.Sub(r.At)
	if left > 0 && left < soon && h.Decision.Want != 0 {
		r.add(Finding{ID: "certificate-expires-soon", Severity: stscache.SeverityWarning, Subject: h.Facts.MX.String(),
			Text: fmt.Sprintf("its certificate expires on %s", a.Leaf.NotAfter.UTC().Format(time.DateOnly)), Fix: "renew it"})
	}
}

// reports looks at the TLS-RPT record.
func (r *Report) reports() {
	if r.TLSRPT.Err != nil {
		r.Unknown = append(r.Unknown, "whether reports are asked for: "+tlsrpt.Clean(r.TLSRPT.Err.Error()))
		return
	}
	record, err := tlsrpt.ParseRecord(r.TLSRPT.Records)
	for _, rua := range record.RUAs {
		r.RUAs = append(r.RUAs, rua.String())
	}
	f := Finding{Severity: stscache.SeverityWarning, Subject: r.Domain.String(), RFC: "RFC 8460, Section 3",
		Fix: `publish at ` + r.TLSRPT.Name + ` the TXT record "v=TLSRPTv1; rua=mailto:tls-reports@` + r.Domain.String() + `"`}
	switch {
	case errors.Is(err, tlsrpt.ErrNoRecord):
		f.ID, f.Text = "tlsrpt-none", "no TLS reports are asked for: you will not hear of failures"
		if r.Status.Policy == nil {
			f.Severity = stscache.SeverityInfo
		}
	case err != nil:
		f.ID, f.Text = "tlsrpt-invalid", tlsrpt.Clean(err.Error())
	default:
		return
	}
	r.add(f)
}

// dane tells of TLSA records that cannot protect what they should.
func (r *Report) dane() {
	for _, h := range r.Hosts {
		switch f := h.Facts; {
		case f.TLSA == delivery.TLSAUnusable:
			r.add(Finding{ID: "tlsa-unusable", Severity: stscache.SeverityWarning, Subject: f.MX.String(), RFC: "RFC 7672, Section 3.1", Result: tlsrpt.TLSAInvalid,
				Text: "none of its TLSA records can be used: senders want TLS with any certificate", Fix: "publish records 3 1 1 or 2 1 1"})
		case f.TLSA == delivery.TLSAUsable && !f.MXSecure && !f.Direct:
			r.add(Finding{ID: "mx-insecure", Severity: stscache.SeverityWarning, Subject: f.MX.String(), RFC: "RFC 7672, Section 2.2.1",
				Text: "it has TLSA records, and the MX records of " + r.Domain.String() + " are not signed: they can be forged", Fix: "sign " + r.Domain.String() + " with DNSSEC"})
		}
	}
}

// planFailed tells why no host could be asked.
func (r *Report) planFailed() {
	e := r.PlanErr
	if !e.Permanent {
		r.Unknown = append(r.Unknown, e.Text)
		return
	}
	if e.MX.IsZero() { // else its host has told
		r.add(Finding{ID: string(e.Reason), Severity: stscache.SeverityInfo, Subject: r.Domain.String(), Text: e.Text, Fix: e.Reason.Info().Owner, RFC: e.RFC})
	}
}

func (r *Report) verdict() Verdict {
	count := map[Verdict]int{}
	for _, h := range r.Hosts {
		count[h.Verdict]++
	}
	switch {
	case r.PlanErr != nil && r.PlanErr.Permanent && count[Refuse] == 0:
		return NoMail
	case len(r.Hosts) == 0:
		return Unknown
	case count[Deliver] == len(r.Hosts):
		return Deliver
	case count[Deliver] > 0:
		return Partial
	case count[Refuse] > 0 && count[Unknown] == 0:
		return Refuse
	}
	return Unknown
}

// Blocked reports whether no connection to any mail server could be made from
// here: that says nothing of the domain.
func (r Report) Blocked() bool {
	tried := 0
	for _, h := range r.Hosts {
		for _, a := range h.Addresses {
			if tried++; a.Err == nil || a.Err.Stage != delivery.StageConnect {
				return false
			}
		}
	}
	return tried > 0
}

// Count is how many findings have the severity.
func (r Report) Count(s stscache.Severity) (n int) {
	for _, f := range r.Findings {
		if f.Severity == s {
			n++
		}
	}
	return n
}

func hostNames(hosts []Host) (list []addr.Host) {
	for _, h := range hosts {
		if !h.Facts.MX.IsZero() {
			list = append(list, h.Facts.MX)
		}
	}
	return list
}
