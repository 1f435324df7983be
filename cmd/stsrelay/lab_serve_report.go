package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"stsrelay/internal/lab"
)

// A servedReport is what `lab serve --report` writes.
type servedReport struct {
	Schema  string            `json:"schema"` // "stsrelay.lab-serve/v1"
	Began   time.Time         `json:"began"`
	Ended   time.Time         `json:"ended"`
	Tried   int               `json:"tried"`
	Right   int               `json:"right"`
	Wrong   int               `json:"wrong"`
	Domains []servedDomain    `json:"domains"`
	LeftOut map[string]string `json:"left_out"` // and why
}

// A servedDomain is what the sender under test did with one domain.
type servedDomain struct {
	Domain   string          `json:"domain"`
	Title    string          `json:"title"`
	Why      string          `json:"why"`
	Expected labOutcome      `json:"expected"`
	Tried    bool            `json:"tried"`
	Right    bool            `json:"right"`
	Verdict  string          `json:"verdict"`
	Problems []string        `json:"problems"`
	Asked    []string        `json:"asked"` // "MX", "MTA-STS TXT", "TLSA"
	Fetches  int             `json:"policy_fetches"`
	Sessions []servedSession `json:"sessions"`
}

// The verdicts that need no more words.
const (
	notTried = "not tried"
	asItMust = "as an enforcing sender must"
)

// judgeAll says of each domain what was done and whether it is right.
func judgeAll(w *lab.World, list []*trial) []servedDomain {
	out := make([]servedDomain, len(list))
	for i, t := range list {
		out[i] = seenOf(w, list, t)
		out[i].judge(w, t)
	}
	return out
}

// seenOf gathers what the servers saw of a domain.
func seenOf(w *lab.World, list []*trial, t *trial) servedDomain {
	d := servedDomain{
		Domain: t.Domain, Title: t.Title, Why: t.Why, Expected: labOutcome(t.Expect),
		Problems: []string{}, Asked: []string{}, Sessions: []servedSession{},
	}
	for _, q := range w.DNS.Log() {
		if word := d.question(list, t, q); word != "" && !slices.Contains(d.Asked, word) {
			d.Asked = append(d.Asked, word)
		}
	}
	for _, h := range w.Policies() {
		if h.Domain() == t.Domain {
			d.Fetches = h.Hits()
		}
	}
	for _, h := range w.MXHosts() {
		for _, s := range sessionsOf(h) {
			if ownerOf(list, h.Name()) == t || slices.Contains(s.Told, t.Domain) {
				d.Sessions = append(d.Sessions, s)
			}
		}
	}
	d.Tried = slices.Contains(d.Asked, "MX") || len(d.Sessions) > 0
	return d
}

// question names a DNS question about the domain that tells something of how
// mail is sent.
func (d *servedDomain) question(list []*trial, t *trial, q lab.Query) string {
	name := strings.TrimSuffix(q.Name, ".")
	switch {
	case name == t.Domain && q.Type == "MX":
		return "MX"
	case name == "_mta-sts."+t.Domain && q.Type == "TXT":
		return "MTA-STS TXT"
	case q.Type == "TLSA" && ownerOf(list, name) == t:
		return "TLSA"
	}
	return ""
}

// judge compares what hosts saw with what must be, as lab run does. A sender
// may send many messages: each is judged.
func (d *servedDomain) judge(w *lab.World, t *trial) {
	if !d.Tried {
		d.Verdict = notTried
		return
	}
	due, arrivals := t.Expect, w.Arrivals(t.Domain)
	if due.Next != "" && len(arrivals) > 0 { // it has been tried again
		due = lab.Expect{Outcome: due.Next}
	}
	saw := []sighting{{tellings: tellingsOf(w, t.Domain)}}
	if len(arrivals) > 0 {
		saw = nil
		for _, a := range arrivals {
			saw = append(saw, sighting{arrivals: []lab.Arrival{a}})
		}
	}
	for _, s := range saw {
		for _, problem := range s.hosts("it must be", due) {
			if !slices.Contains(d.Problems, problem) {
				d.Problems = append(d.Problems, problem)
			}
		}
	}
	d.Right = len(d.Problems) == 0
	switch {
	case d.Right:
		d.Verdict = asItMust
	case len(arrivals) > 0 && due.Outcome != lab.Delivered:
		d.Problems = d.Problems[:1] // the rest follows from it
		d.Verdict = fmt.Sprintf("NOT: delivered %s although: %s", wire(arrivals[0].TLS), t.Title)
	default:
		d.Verdict = "NOT: " + strings.Join(d.Problems, "; ")
	}
}

// did is what the sender did, a line for each session.
func (d *servedDomain) did() (lines []string) {
	first := "asked for nothing"
	if len(d.Asked) > 0 {
		first = "asked for " + strings.Join(d.Asked, ", ")
	}
	if d.Fetches > 0 {
		first += "; fetched the policy"
	}
	if len(d.Sessions) == 0 {
		first += "; connected to no MX host"
	}
	lines = []string{first}
	for _, s := range d.Sessions {
		if line := s.String(); !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	return lines
}

// served tells of all that was tried, writes the file, and says how it went.
func (p printer) served(f serveFlags, r servedReport) error {
	fmt.Fprintln(p.w)
	for _, d := range r.Domains {
		if !d.Tried {
			continue
		}
		r.Tried++
		if d.Right {
			r.Right++
		} else {
			r.Wrong++
		}
		fmt.Fprintf(p.w, "%s %s: %s\n", p.mark(d.Right), d.Domain, printable(d.Verdict))
		for _, line := range d.did() {
			fmt.Fprintf(p.w, "    %s\n", line)
		}
	}
	if f.report != "" {
		data, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(f.report, append(data, '\n'), 0o644); err != nil {
			return fmt.Errorf("--report: %w", err)
		}
	}
	if _, err := fmt.Fprintf(p.w, "\n%s %d of %s tried: %d as an enforcing sender must, %d not\n",
		p.mark(r.Wrong == 0 && r.Tried > 0), r.Tried, plural(len(r.Domains), "domain"), r.Right, r.Wrong); err != nil {
		return err
	}
	switch {
	case r.Wrong > 0:
		return exitError{code: exitBad}
	case r.Tried == 0:
		return exitError{code: exitUnknown}
	}
	return nil
}
