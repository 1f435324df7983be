package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/mail"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"stsrelay/internal/admin"
	"stsrelay/internal/lab"
)

// labReports is the domain that TLS reports are sent to, by mail; those about
// ok.test go to a collector by HTTPS.
const (
	labReports   = "reports.test"
	labCollector = "collector.test"
	byHTTPS      = "ok.test"
)

// A told is what a domain was told of TLS to it, read by other code than that
// which wrote it (RFC 8460, Section 4.4).
type told struct {
	Organization string `json:"organization-name"`
	ID           string `json:"report-id"`
	Policies     []struct {
		Policy struct {
			Type   string `json:"policy-type"`
			Domain string `json:"policy-domain"`
		} `json:"policy"`
		Summary struct {
			Good   int64 `json:"total-successful-session-count"`
			Failed int64 `json:"total-failure-session-count"`
		} `json:"summary"`
		Details []struct {
			Result   string `json:"result-type"`
			Sessions int64  `json:"failed-session-count"`
		} `json:"failure-details"`
	} `json:"policies"`

	domain string
	file   string // its name
	gzip   []byte
	mail   []byte // the message it came in, nil for HTTPS
}

// publishReports has every scenario's domain ask for reports.
func publishReports(w *lab.World, list []lab.Scenario) *lab.CollectorHost {
	w.AddMX(lab.MX{Name: "mx." + labReports, Domains: []string{labReports}})
	c := w.AddCollector(lab.Collector{Host: labCollector, Domains: []string{byHTTPS}})
	for _, s := range list {
		if s.Domain != byHTTPS && s.Expect.Reason != "no-such-domain" { // a name below it would make it exist
			w.DNS.SetTXT("_smtp._tls."+s.Domain, "v=TLSRPTv1; rua=mailto:tls@"+labReports)
		}
	}
	return c
}

// report has the relay send its reports and checks each against what happened.
// It returns how many came.
func (b *labBench) report(ctx context.Context, list []*trial) (n int, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("not finished within %s", patience))
	defer cancel()
	sent, err := collect(b.client.SendReports(ctx, admin.ReportRequest{}))
	if err != nil {
		return 0, fmt.Errorf("tlsrpt send: %w", err)
	}
	sent = slices.DeleteFunc(sent, func(s admin.ReportEntry) bool {
		return s.State == "unwanted" || s.State == "pending" && len(s.Parts) == 0 // nobody asks, or DNS fails there
	})
	came, late := b.awaitReports(ctx, len(sent))
	by := map[string]*told{}
	for _, r := range came {
		by[r.domain] = r
	}
	for _, s := range sent {
		if by[s.Domain] == nil {
			return len(came), fmt.Errorf("the report about %s, which the relay says is %s, did not come: %w", s.Domain, s.State, late)
		}
	}
	if late != nil {
		return len(came), late
	}
	for _, t := range list {
		if r := by[t.Domain]; r != nil {
			t.report = r
			t.problems = append(t.problems, t.reportProblems(r)...)
		} else if t.tells() {
			t.problems = append(t.problems, "there is no TLS report about it")
		}
	}
	return len(came), nil
}

// awaitReports waits until n reports have come.
func (b *labBench) awaitReports(ctx context.Context, n int) ([]*told, error) {
	tick := time.NewTicker(glance)
	defer tick.Stop()
	for {
		came, err := b.reports()
		if err != nil || len(came) >= n {
			return came, err
		}
		select {
		case <-ctx.Done():
			return came, fmt.Errorf("%w: %d of %d TLS reports have come", context.Cause(ctx), len(came), n)
		case <-tick.C:
		}
	}
}

// reports reads what has come so far.
func (b *labBench) reports() (list []*told, err error) {
	for _, a := range b.world.Arrivals(labReports) {
		r, err := readReportMail(a.Content)
		if err != nil {
			return nil, fmt.Errorf("reading a TLS report: %w", err)
		}
		list = append(list, r)
	}
	for _, q := range b.collector.Requests() {
		r := &told{domain: byHTTPS, file: byHTTPS + ".json.gz", gzip: q.Body}
		if err := r.unpack(); err != nil {
			return nil, fmt.Errorf("reading a TLS report that came by HTTPS: %w", err)
		}
		list = append(list, r)
	}
	return list, nil
}

// readReportMail takes a report out of its message (RFC 8460, Section 5.3).
func readReportMail(content []byte) (*told, error) {
	m, err := mail.ReadMessage(bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	kind, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/report" || params["report-type"] != "tlsrpt" {
		return nil, fmt.Errorf("it is no TLS report but %q", m.Header.Get("Content-Type"))
	}
	if m.Header.Get("DKIM-Signature") == "" || m.Header.Get("TLS-Required") != "No" {
		return nil, errors.New("it is not signed, or does not say TLS-Required: No")
	}
	parts := multipart.NewReader(m.Body, params["boundary"])
	for {
		part, err := parts.NextRawPart()
		if err != nil {
			return nil, fmt.Errorf("looking for the report: %w", err)
		}
		if kind, params, _ := mime.ParseMediaType(part.Header.Get("Content-Type")); kind == "application/tlsrpt+gzip" {
			r := &told{domain: m.Header.Get("TLS-Report-Domain"), file: params["name"], mail: content}
			if r.file == "" {
				r.file = part.FileName()
			}
			if r.gzip, err = io.ReadAll(io.LimitReader(base64.NewDecoder(base64.StdEncoding, part), maxNotice)); err != nil {
				return nil, err
			}
			return r, r.unpack()
		}
	}
}

func (r *told) unpack() error {
	z, err := gzip.NewReader(bytes.NewReader(r.gzip))
	if err != nil {
		return err
	}
	return json.NewDecoder(io.LimitReader(z, maxNotice)).Decode(r)
}

// resultOf is how a report calls what stops a message.
var resultOf = map[string]string{
	"certificate-host-mismatch": "certificate-host-mismatch",
	"certificate-expired":       "certificate-expired",
	"certificate-not-trusted":   "certificate-not-trusted",
	"mx-not-listed":             "validation-failure",
	"starttls-missing":          "starttls-not-supported",
	"tls-failed":                "validation-failure",
	"dane-mismatch":             "validation-failure",
}

// result is how a report must call what went wrong, "" if that is left open: in
// what only the message asks for, the domain does not fail.
func (t *trial) result() string {
	if t.Result != "" || t.Mail.RequireTLS {
		return t.Result
	}
	return resultOf[t.Expect.Reason]
}

// tells reports whether there must be a report of what is expected.
func (t *trial) tells() bool {
	return t.result() != "" || t.TLSA || t.Expect.TLS == lab.Verified
}

// reportProblems says in which ways a report tells something else than what
// happened.
func (t *trial) reportProblems(r *told) (problems []string) {
	var good, failed, details int64
	results, types := map[string]int64{}, map[string]bool{}
	for _, p := range r.Policies {
		types[p.Policy.Type] = true
		good, failed = good+p.Summary.Good, failed+p.Summary.Failed
		for _, d := range p.Details {
			results[d.Result] += d.Sessions
			details += d.Sessions
		}
	}
	if failed > details {
		problems = append(problems, fmt.Sprintf("its TLS report has %d failed sessions and tells why of %d", failed, details))
	}
	if want := t.result(); want != "" && results[want] == 0 {
		problems = append(problems, fmt.Sprintf("its TLS report has no session with %s, but %v", want, results))
	}
	if t.Expect.TLS == lab.Verified && good == 0 {
		problems = append(problems, "its TLS report has no successful session")
	}
	if types["tlsa"] != t.TLSA {
		problems = append(problems, fmt.Sprintf("TLSA records apply: %v, and in its TLS report: %v", t.TLSA, types["tlsa"]))
	}
	return problems
}

// saveReports keeps the reports as they came, and the messages they came in.
func (b *labBench) saveReports(list []*trial) error {
	dir := filepath.Join(b.dir, "reports")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, t := range list {
		if t.report == nil {
			continue
		}
		name := filepath.Join(dir, filepath.Base(t.report.file))
		if err := os.WriteFile(name, t.report.gzip, 0o600); err != nil {
			return err
		}
		if t.report.mail == nil {
			continue
		}
		if err := os.WriteFile(strings.TrimSuffix(name, ".json.gz")+".eml", t.report.mail, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// lines is a report in a few lines for people.
func (r *told) lines() (lines []string) {
	for _, p := range r.Policies {
		lines = append(lines, fmt.Sprintf("%s policy of %s: %d sessions ok, %d failed", p.Policy.Type, p.Policy.Domain, p.Summary.Good, p.Summary.Failed))
		for _, d := range p.Details {
			lines = append(lines, fmt.Sprintf("  %d %s", d.Sessions, d.Result))
		}
	}
	return lines
}
