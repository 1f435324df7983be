package tlsrpt

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"stsrelay/internal/addr"
)

// An Identity is who reports. The domain of Contact is the submitter: it is
// that of From, of the DKIM signatures and of the file name too (ledger
// RPT-3-27, RPT-5.3-05).
type Identity struct {
	Organization string
	Contact      addr.Address
	From         addr.Address
	SendingIP    netip.Addr // reported instead of our own addresses, if set: the one outside of a NAT (ledger RPT-4.4-16)
}

// Submitter is the domain in whose name reports are sent.
func (i Identity) Submitter() addr.Domain {
	d, _ := i.Contact.Domain()
	return d
}

// A Report is what one domain is told about one day, in the form of RFC 8460,
// Section 4.4. Subject, file name and header fields of a report are all made
// from it, so that they cannot differ (RFC 8460, Section 5.6; ledger
// RPT-5.6-01).
type Report struct {
	Organization string         `json:"organization-name"`
	Range        DateRange      `json:"date-range"`
	Contact      string         `json:"contact-info"`
	ID           string         `json:"report-id"` // without angle brackets (ledger RPT-5.3-08)
	Policies     []ReportPolicy `json:"policies"`

	Domain    addr.Domain `json:"-"` // whom it tells
	Submitter addr.Domain `json:"-"` // that of Contact
}

// A DateRange is a UTC day, to its last second (ledger RPT-4.4-02).
type DateRange struct {
	Start time.Time `json:"start-datetime"`
	End   time.Time `json:"end-datetime"`
}

// A ReportPolicy is one policy and how sessions did under it.
type ReportPolicy struct {
	Policy  ReportedPolicy `json:"policy"`
	Summary Summary        `json:"summary"`
	Details []ReportDetail `json:"failure-details"`
}

// A ReportedPolicy is a Policy; its arrays may be empty and are never null
// (ledger RPT-4.4-08). mx-host is an array (ledger ERR-8460-6241).
type ReportedPolicy struct {
	Type    PolicyType `json:"policy-type"`
	Strings []string   `json:"policy-string"`
	Domain  string     `json:"policy-domain"`
	MXHosts []string   `json:"mx-host"`
}

// A Summary counts sessions.
type Summary struct {
	Successes int64 `json:"total-successful-session-count"`
	Failures  int64 `json:"total-failure-session-count"`
}

// A ReportDetail is a Detail; what is not known is left out (ledger
// RPT-4.4-16).
type ReportDetail struct {
	Result   Result `json:"result-type"`
	Sender   string `json:"sending-mta-ip,omitempty"`
	MX       string `json:"receiving-mx-hostname,omitempty"`
	HELO     string `json:"receiving-mx-helo,omitempty"`
	Receiver string `json:"receiving-ip,omitempty"`
	Sessions int64  `json:"failed-session-count"`
	Reason   string `json:"failure-reason-code,omitempty"`
}

// Build makes the report about a tally. Equal input makes an equal report.
func Build(t Tally, who Identity, id string) (Report, error) {
	start, err := t.Day.Start()
	if err != nil {
		return Report{}, fmt.Errorf("report about %s: %w", t.Domain, err)
	}
	r := Report{
		Organization: text(who.Organization), Contact: who.Contact.String(), ID: id,
		Range:  DateRange{start, start.Add(24*time.Hour - time.Second)},
		Domain: t.Domain, Submitter: who.Submitter(), Policies: []ReportPolicy{},
	}
	for _, p := range t.Policies {
		r.Policies = append(r.Policies, reportPolicy(p, who.SendingIP))
	}
	slices.SortStableFunc(r.Policies, func(a, b ReportPolicy) int {
		return cmp.Or(cmp.Compare(rank(a.Policy.Type), rank(b.Policy.Type)), cmp.Compare(a.Policy.Domain, b.Policy.Domain),
			cmp.Compare(b.Summary.total(), a.Summary.total()), slices.Compare(a.Policy.Strings, b.Policy.Strings))
	})
	return r, nil
}

func rank(t PolicyType) int { return slices.Index([]PolicyType{STS, TLSA, NoPolicyFound}, t) }

func (s Summary) total() int64 { return s.Successes + s.Failures }

func reportPolicy(p PolicyTally, sender netip.Addr) ReportPolicy {
	if p.Policy.Type == NoPolicyFound { // there is nothing to show (ledger RPT-4.4-08)
		p.Policy.Strings, p.Policy.MXHosts = nil, nil
	}
	out := ReportPolicy{
		Policy:  ReportedPolicy{Type: p.Policy.Type, Strings: texts(p.Policy.Strings), Domain: text(p.Policy.Domain), MXHosts: texts(p.Policy.MXHosts)},
		Summary: Summary{number(p.Successes), number(p.Failures)},
		Details: []ReportDetail{},
	}
	if sender.IsValid() {
		p = p.sentFrom(ipText(sender))
	}
	for _, d := range p.Details {
		out.Details = append(out.Details, ReportDetail{Result: d.Result, Sender: d.Sender, MX: d.MX, HELO: d.HELO,
			Receiver: d.Receiver, Sessions: number(d.Sessions), Reason: d.Reason})
	}
	out.sort()
	return out
}

// sentFrom is p with another sending address. Details that become equal by it
// are one.
func (p PolicyTally) sentFrom(ip string) (out PolicyTally) {
	for _, d := range p.Details {
		if d.Sender != "" {
			d.Sender = ip
		}
		out.Merge(PolicyTally{Details: []Detail{d}})
	}
	return out
}

// sort puts the failures first that happened most often.
func (p ReportPolicy) sort() {
	slices.SortStableFunc(p.Details, func(a, b ReportDetail) int {
		return cmp.Or(cmp.Compare(b.Sessions, a.Sessions), cmp.Compare(a.Result, b.Result), cmp.Compare(a.MX, b.MX),
			cmp.Compare(a.Receiver, b.Receiver), cmp.Compare(a.Sender, b.Sender), cmp.Compare(a.HELO, b.HELO), cmp.Compare(a.Reason, b.Reason))
	})
}

// number keeps counts in what I-JSON can carry (RFC 7493, Section 2.2; ledger
// RPT-4-01).
func number(n int64) int64 { return max(0, min(n, 1<<53-1)) }

// text makes a string what I-JSON can carry: Unicode without surrogates and
// noncharacters (RFC 7493, Section 2.1; ledger RPT-4-01).
func text(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 0xFDD0 && r <= 0xFDEF || r&0xFFFE == 0xFFFE {
			return '\uFFFD'
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
}

func texts(list []string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = text(s)
	}
	return out
}

// JSON is the report as it is sent.
func (r Report) JSON() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(r); err != nil {
		return nil, fmt.Errorf("report about %s: %w", r.Domain, err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// MaxPayload bounds a report, compressed. Receivers stop at ten megabytes of
// mail or earlier (RFC 8460, Section 5.2), and our own queue at one.
const MaxPayload = 512 << 10

// Payload is the report compressed (ledger RPT-5.2-01). When it is too large,
// the rarer failures of each policy are folded into one element for each
// Result, without text and addresses: the sums stay right (ledger RPT-4-05).
func (r Report) Payload() ([]byte, error) { return r.within(MaxPayload) }

func (r Report) within(limit int) ([]byte, error) {
	for _, keep := range []int{MaxDetails + len(Results()), 200, 50, 10, 0} {
		j, err := r.fold(keep).JSON()
		if err != nil {
			return nil, err
		}
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, err = z.Write(j)
		if err = errors.Join(err, z.Close()); err != nil {
			return nil, fmt.Errorf("compressing the report about %s: %w", r.Domain, err)
		}
		if b.Len() <= limit {
			return b.Bytes(), nil
		}
	}
	return nil, fmt.Errorf("report about %s: larger than %d KiB, its failures folded", r.Domain, limit>>10)
}

// fold keeps the first details of each policy apart.
func (r Report) fold(keep int) Report {
	r.Policies = slices.Clone(r.Policies)
	for i, p := range r.Policies {
		if len(p.Details) <= keep {
			continue
		}
		details := slices.Clone(p.Details[:keep])
		for _, d := range p.Details[keep:] {
			at := slices.IndexFunc(details[keep:], func(have ReportDetail) bool { return have.Result == d.Result })
			if at < 0 {
				details = append(details, ReportDetail{Result: d.Result, Sessions: d.Sessions})
				continue
			}
			details[keep+at].Sessions = number(details[keep+at].Sessions + d.Sessions)
		}
		r.Policies[i].Details = details
	}
	return r
}

// FileName is the name of the payload (RFC 8460, Section 5.1; ledger
// RPT-5.1-01, -02, -03). Both domains are A-labels, as every Domain is.
func (r Report) FileName() string {
	return fmt.Sprintf("%s!%s!%d!%d!%s.json.gz", r.Submitter, r.Domain, r.Range.Start.Unix(), r.Range.End.Unix(), r.unique())
}

// unique is the last part of the ID before the "@" (see NewID), letters and
// digits.
func (r Report) unique() string {
	left, _, _ := strings.Cut(r.ID, "@")
	return left[strings.LastIndexByte(left, '.')+1:]
}

// Sums are the sessions of all policies. A session that was held against two
// policies counts twice.
func (r Report) Sums() (s Summary) {
	for _, p := range r.Policies {
		s.Successes += p.Summary.Successes
		s.Failures += p.Summary.Failures
	}
	return s
}

// NewID names a report: unique is letters and digits that no other report has,
// of ours or of another relay of the same organization. It is kept with the
// report, so that whatever is sent again carries the ID that it had, and the
// receiver can tell (RFC 8460, Section 5.3; ledger RPT-4.4-04).
func NewID(day Day, domain, submitter addr.Domain, unique string) string {
	return fmt.Sprintf("%s.%s.%s@%s", day, domain, unique, submitter)
}
