package main

import (
	"crypto/tls"
	"fmt"
	"strings"
	"time"

	"stsrelay/delivery"
	"stsrelay/internal/app"
	"stsrelay/internal/check"
	"stsrelay/stscache"
	"stsrelay/tlsrpt"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// checkHeadline says the verdict in one line.
func checkHeadline(r check.Report) string {
	good := 0
	for _, h := range r.Hosts {
		if h.Verdict == check.Deliver {
			good++
		}
	}
	switch r.Verdict {
	case check.Deliver:
		if !protected(r) {
			return "every sender delivers, and nothing obliges it to use TLS"
		}
		if good == 1 {
			return "an enforcing sender delivers"
		}
		return fmt.Sprintf("an enforcing sender delivers through all %d MX hosts", good)
	case check.Partial:
		return fmt.Sprintf("an enforcing sender delivers through %d of %d MX hosts", good, len(r.Hosts))
	case check.Refuse:
		return "an enforcing sender does not deliver"
	case check.NoMail:
		return "nobody can deliver: " + r.PlanErr.Text
	}
	switch {
	case r.Blocked():
		return "no mail server could be reached from here; DNS and policy are complete"
	case r.PlanErr != nil:
		return "cannot tell: " + r.PlanErr.Reason.Info().Meaning
	case len(r.Unknown) > 0:
		return "cannot tell: " + r.Unknown[0]
	}
	return "cannot tell: no mail server could be asked"
}

// protected reports whether a policy or DANE asks for anything.
func protected(r check.Report) bool {
	for _, h := range r.Hosts {
		if h.Decision.Need != 0 {
			return true
		}
	}
	return false
}

func checkCounts(r check.Report) string {
	errs, warnings := r.Count(stscache.SeverityError), r.Count(stscache.SeverityWarning)
	if errs+warnings == 0 {
		return "no errors"
	}
	return plural(errs, "error") + ", " + plural(warnings, "warning")
}

// printCheckLine is one domain of many.
func printCheckLine(p printer, r check.Report) error {
	_, err := fmt.Fprintf(p.w, "%s %-8s %-32s %s   %s\n", p.mark(r.Count(stscache.SeverityError) == 0 && r.Verdict != check.Unknown), r.Verdict, r.Domain, checkHeadline(r), checkCounts(r))
	return err
}

// printCheck is one domain in full.
func printCheck(p printer, r check.Report, o app.CheckOptions) error {
	fmt.Fprintf(p.w, "%s: %s   (%s)\n\n", r.Domain, printable(checkHeadline(r)), checkCounts(r))
	p.checkRecords(r, o)
	p.checkHosts(r)
	for _, f := range r.Findings {
		p.checkFinding(f)
	}
	for _, u := range r.Unknown {
		fmt.Fprintf(p.w, " unknown  %s\n", printable(u))
	}
	if len(r.Findings)+len(r.Unknown) > 0 {
		fmt.Fprintln(p.w)
	}
	return p.checkFuture(r)
}

func (p printer) checkRecords(r check.Report, o app.CheckOptions) {
	line := func(name, text string) { fmt.Fprintf(p.w, " %-8s %s\n", name, printable(text)) }
	line("Record", recordText(r.Record))
	switch st := r.Status; {
	case o.Policy != nil:
		line("Policy", "not published, from the file: "+policySummary(st))
	case st.Policy != nil && o.Mode != "":
		line("Policy", "published, taken to be in another mode: "+policySummary(st))
	case st.Policy != nil:
		line("Policy", "https://mta-sts."+r.Domain.String()+"/.well-known/mta-sts.txt: "+policySummary(st))
	default:
		line("Policy", "none in force")
	}
	if r.Status.Policy != nil {
		for _, m := range r.Status.Policy.MX {
			line("", "mx: "+string(m))
		}
	}
	line("DANE", daneText(r))
	switch {
	case len(r.RUAs) > 0:
		line("TLS-RPT", "reports go to "+strings.Join(r.RUAs, ", "))
	default:
		line("TLS-RPT", recordText(r.TLSRPT))
	}
	fmt.Fprintln(p.w)
}

func recordText(t check.TXT) string {
	switch {
	case t.Err != nil:
		return t.Name + ": " + tlsrpt.Clean(t.Err.Error())
	case len(t.Records) == 0:
		return "none at " + t.Name
	}
	return t.Name + `  "` + strings.Join(t.Records, `"  "`) + `"`
}

func policySummary(st stscache.Status) string {
	return fmt.Sprintf("mode %s, max_age %s", st.Policy.Mode, days(st.Policy.MaxAge))
}

// days writes a max_age: "7 days", "3600 seconds".
func days(d time.Duration) string {
	if n := int(d / (24 * time.Hour)); n > 0 && d%(24*time.Hour) == 0 {
		return plural(n, "day")
	}
	return plural(int(d/time.Second), "second")
}

func daneText(r check.Report) string {
	count := map[delivery.TLSAState]int{}
	for _, h := range r.Hosts {
		count[h.Facts.TLSA]++
	}
	switch {
	case !r.Validating:
		return "not looked at: the resolver here does not validate DNSSEC"
	case count[delivery.TLSAAbsent] == len(r.Hosts):
		return "not used: no MX host has TLSA records that are signed"
	}
	var parts []string
	for _, s := range []delivery.TLSAState{delivery.TLSAUsable, delivery.TLSAUnusable, delivery.TLSAFailed, delivery.TLSAAbsent} {
		if count[s] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", count[s], s))
		}
	}
	return "TLSA records of the MX hosts: " + strings.Join(parts, ", ")
}

func (p printer) checkHosts(r check.Report) {
	if len(r.Hosts) == 0 {
		return
	}
	t := p.table(" MX", "ADDRESS", "POLICY", "TLS", "CERTIFICATE", "RESULT")
	for _, h := range r.Hosts {
		name := fmt.Sprintf(" %d %s", h.Preference, h.Facts.MX)
		if len(h.Addresses) == 0 {
			t.AppendRow(table.Row{name, addressList(h), policyWord(r, h), "", "", p.result(h.Verdict)})
		}
		for _, a := range h.Addresses {
			t.AppendRow(table.Row{name, a.Addr.Addr(), policyWord(r, h), tlsWord(a), certificateWord(r, a), p.result(addressVerdict(h, a))})
			name = ""
		}
	}
	t.Render()
	fmt.Fprintln(p.w)
}

func addressList(h check.Host) string {
	if h.AddrErr != nil {
		return "none"
	}
	var s []string
	for _, a := range h.Addrs {
		s = append(s, a.String())
	}
	return strings.Join(s, " ")
}

func policyWord(r check.Report, h check.Host) string {
	switch p := r.Status.Policy; {
	case p == nil || p.Mode == stscache.None:
		return "-"
	case p.Match(h.Facts.MX):
		return "named"
	}
	return "NOT NAMED"
}

func tlsWord(a check.Address) string {
	switch s := a.Evidence.State; {
	case a.Err != nil:
		return ""
	case s != nil && a.Evidence.TLSErr == nil:
		return tls.VersionName(s.Version)
	}
	return "none"
}

func certificateWord(r check.Report, a check.Address) string {
	if a.Leaf == nil {
		return ""
	}
	left := int(a.Leaf.NotAfter.Sub(r.At) / (24 * time.Hour))
	ends := "ends in " + plural(left, "day")
	if left < 0 {
		ends = "ended " + plural(-left, "day") + " ago"
	}
	if a.Evidence.PKIXErr == nil {
		return "ok, " + ends
	}
	return "not valid, " + ends
}

// addressVerdict is what comes of one address.
func addressVerdict(h check.Host, a check.Address) check.Verdict {
	switch {
	case h.Decision.Skip != nil:
		return check.Refuse
	case a.Err != nil:
		return check.Unknown
	case a.Verdict.Err != nil:
		return check.Refuse
	}
	return check.Deliver
}

func (p printer) result(v check.Verdict) string {
	switch v {
	case check.Deliver:
		return p.paint(text.FgGreen, string(v))
	case check.Refuse:
		return p.paint(text.FgRed, string(v))
	case check.Unknown:
		return "no answer"
	}
	return string(v)
}

func (p printer) checkFinding(f check.Finding) {
	colors := map[stscache.Severity]text.Color{stscache.SeverityError: text.FgRed, stscache.SeverityWarning: text.FgYellow, stscache.SeverityInfo: text.FgCyan}
	word := map[stscache.Severity]string{stscache.SeverityError: "error", stscache.SeverityWarning: "warn", stscache.SeverityInfo: "info"}[f.Severity]
	fmt.Fprintf(p.w, " %s  %s   %s\n", p.paint(colors[f.Severity], fmt.Sprintf("%-5s", word)), f.ID, f.Subject)
	note := func(s string) {
		if s != "" {
			fmt.Fprintf(p.w, "        %s\n", printable(s))
		}
	}
	rule := ""
	if f.RFC != "" {
		rule = "   (" + f.RFC + ")"
	}
	note(f.Text + rule)
	if f.Result != "" {
		note("Senders report it as: " + string(f.Result))
	}
	if f.Fix != "" {
		note("Fix: " + f.Fix)
	}
}

// checkFuture says what it means, today and when things change.
func (p printer) checkFuture(r check.Report) error {
	var say []string
	policy := r.Status.Policy
	enforce := policy != nil && policy.Mode == stscache.Enforce
	switch {
	case r.Verdict == check.Partial:
		say = append(say, "Today mail is delivered through the MX hosts that are good. If those are down, mail from enforcing senders waits, and is returned after their queue time, usually 1 to 5 days.")
	case r.Verdict == check.Refuse:
		say = append(say, "Mail from enforcing senders waits, and is returned after their queue time, usually 1 to 5 days.")
	case policy != nil && policy.Mode == stscache.Testing && anyLater(r):
		say = append(say, "Today mail is delivered. Under enforce some of it would not be: see the warnings.")
	}
	if enforce && policy.MaxAge > 0 {
		say = append(say, fmt.Sprintf("Senders keep this policy for up to %s: a mistake that is published is remembered for as long.", days(policy.MaxAge)))
	}
	if r.Blocked() {
		say = append(say, "Many networks block port 25: run the check where mail is sent from, or look at DNS and policy alone with --no-smtp.")
	}
	for _, s := range say {
		fmt.Fprintf(p.w, " %s\n", s)
	}
	return nil
}

func anyLater(r check.Report) bool {
	for _, h := range r.Hosts {
		if h.Later != nil {
			return true
		}
	}
	return false
}
