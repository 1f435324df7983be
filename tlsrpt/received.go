package tlsrpt

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Received is a report that somebody sent us, and what had to be tolerated to
// read it. Others send what the RFC does not allow; a report is worth more than
// its form.
type Received struct {
	Report
	Source string   // where it was found, for people
	Notes  []string // what was tolerated
}

// ErrNotReport is wrapped by the errors of ParseReceived.
var ErrNotReport = errors.New("no TLS report")

// ParseReceived reads the JSON of a report (RFC 8460, Section 4.4). It tolerates
// what is known from senders: fields that are null, missing or of another type,
// result types that nobody knows, dates in other forms, and a byte order mark.
// Text is cleaned: it is foreign.
func ParseReceived(b []byte) (Received, error) {
	var w wireReport
	b = bytes.TrimPrefix(b, []byte("\ufeff"))
	if err := json.Unmarshal(b, &w); err != nil {
		return Received{}, fmt.Errorf("%w: %w", ErrNotReport, err)
	}
	if w.Policies == nil && w.Range == nil && w.ID.text == "" {
		return Received{}, fmt.Errorf("%w: it has neither policies nor a date range nor an id", ErrNotReport)
	}
	n := notes{}
	r := Received{Report: Report{Organization: n.string("organization-name", w.Organization), Contact: n.string("contact-info", w.Contact), ID: n.string("report-id", w.ID)}}
	if w.Range == nil {
		n.add("date-range is missing")
	} else {
		r.Range = DateRange{n.time("start-datetime", w.Range.Start), n.time("end-datetime", w.Range.End)}
	}
	for _, p := range w.Policies {
		r.Policies = append(r.Policies, n.policy(p))
	}
	r.Notes = n
	return r, nil
}

// The report as it comes.
type wireReport struct {
	Organization loose        `json:"organization-name"`
	Range        *wireRange   `json:"date-range"`
	Contact      loose        `json:"contact-info"`
	ID           loose        `json:"report-id"`
	Policies     []wirePolicy `json:"policies"`
}

type wireRange struct {
	Start loose `json:"start-datetime"`
	End   loose `json:"end-datetime"`
}

type wirePolicy struct {
	Policy struct {
		Type    loose     `json:"policy-type"`
		Strings looseList `json:"policy-string"`
		Domain  loose     `json:"policy-domain"`
		MXHosts looseList `json:"mx-host"`
	} `json:"policy"`
	Summary struct {
		Successes loose `json:"total-successful-session-count"`
		Failures  loose `json:"total-failure-session-count"`
	} `json:"summary"`
	Details []wireDetail `json:"failure-details"`
}

type wireDetail struct {
	Result   loose `json:"result-type"`
	Sender   loose `json:"sending-mta-ip"`
	MX       loose `json:"receiving-mx-hostname"`
	HELO     loose `json:"receiving-mx-helo"`
	Receiver loose `json:"receiving-ip"`
	Sessions loose `json:"failed-session-count"`
	Reason   loose `json:"failure-reason-code"`
}

// A loose value is a string, a number or null.
type loose struct {
	text   string
	number bool // it was one
	odd    bool // it was neither
}

func (l *loose) UnmarshalJSON(b []byte) error {
	switch {
	case bytes.Equal(b, []byte("null")):
	case b[0] == '"':
		return json.Unmarshal(b, &l.text)
	case b[0] == '-' || b[0] >= '0' && b[0] <= '9':
		l.text, l.number = string(b), true
	default:
		l.odd = true
	}
	return nil
}

// A looseList is a list of strings, or one string.
type looseList struct {
	list []string
	bare bool // it was no list
}

func (l *looseList) UnmarshalJSON(b []byte) error {
	var items []loose
	if b[0] != '[' {
		var one loose
		if err := json.Unmarshal(b, &one); err != nil {
			return err
		}
		if l.bare = true; one.text != "" {
			l.list = strings.Split(strings.ReplaceAll(one.text, "\r\n", "\n"), "\n")
		}
		return nil
	}
	if err := json.Unmarshal(b, &items); err != nil {
		return err
	}
	for _, i := range items {
		l.list = append(l.list, i.text)
	}
	return nil
}

// Notes say what was tolerated, each thing once.
type notes []string

func (n *notes) add(format string, args ...any) {
	if s := fmt.Sprintf(format, args...); !slices.Contains(*n, s) {
		*n = append(*n, s)
	}
}

func (n *notes) string(field string, l loose) string {
	if l.odd || l.number {
		n.add("%s is no string", field)
	} else if l.text == "" {
		n.add("%s is missing", field)
	}
	return Clean(l.text)
}

func (n *notes) list(field string, l looseList) (out []string) {
	if l.bare && len(l.list) > 0 {
		n.add("%s is no list", field)
	}
	for _, s := range l.list {
		out = append(out, Clean(s))
	}
	return out
}

// count reads a number of sessions; what is none counts as zero.
func (n *notes) count(field string, l loose) int64 {
	v, err := strconv.ParseFloat(l.text, 64)
	switch {
	case l.text == "":
		n.add("%s is missing", field)
	case err != nil || v < 0 || v > 1<<53:
		n.add("%s is %.20q and no number of sessions", field, l.text)
		return 0
	case !l.number:
		n.add("%s is a string", field)
	}
	return int64(v)
}

// timeForms are those that are met.
var timeForms = []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02 15:04:05", time.DateOnly}

func (n *notes) time(field string, l loose) time.Time {
	for i, form := range timeForms {
		if t, err := time.Parse(form, strings.TrimSpace(l.text)); err == nil {
			if i > 0 {
				n.add("%s is not of the form of RFC 3339", field)
			}
			return t.UTC()
		}
	}
	n.add("%s is %.30q and no time", field, l.text)
	return time.Time{}
}

func (n *notes) policy(w wirePolicy) ReportPolicy {
	p := ReportPolicy{
		Policy: ReportedPolicy{Type: PolicyType(n.string("policy-type", w.Policy.Type)), Domain: n.string("policy-domain", w.Policy.Domain),
			Strings: n.list("policy-string", w.Policy.Strings), MXHosts: n.list("mx-host", w.Policy.MXHosts)},
		Summary: Summary{n.count("total-successful-session-count", w.Summary.Successes), n.count("total-failure-session-count", w.Summary.Failures)},
	}
	for _, d := range w.Details {
		x := ReportDetail{Result: Result(n.string("result-type", d.Result)), Sender: Clean(d.Sender.text), MX: Clean(d.MX.text), HELO: Clean(d.HELO.text),
			Receiver: Clean(d.Receiver.text), Sessions: n.count("failed-session-count", d.Sessions), Reason: Clean(d.Reason.text)}
		if x.Sender == "" && x.MX != "" { // a policy that cannot be had is no session
			n.add("sending-mta-ip is missing")
		}
		if x.Result != "" && !slices.Contains(Results(), x.Result) {
			n.add("the result type %s is not one of RFC 8460", x.Result)
		}
		p.Details = append(p.Details, x)
	}
	return p
}
