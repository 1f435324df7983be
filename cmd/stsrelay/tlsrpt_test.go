package main

import (
	"bytes"
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"stsrelay/internal/admin"
	"stsrelay/internal/lab"
)

// ask runs a command of ours with the lab's configuration.
func (b *labBench) ask(t *testing.T, want int, args ...string) (stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code := run(context.Background(), append(args, "--config", filepath.Join(b.dir, "config.toml")), &out, &errs)
	if code != want {
		t.Fatalf("%q ended with %d, not %d:\n%s%s", args, code, want, &out, &errs)
	}
	return out.String(), errs.String()
}

// benchOf starts a lab with some domains, and sends a message to each.
func benchOf(t *testing.T, domains ...string) (*labBench, []*trial) {
	t.Helper()
	list, err := chosen(lab.Domains(), domains)
	if err != nil {
		t.Fatal(err)
	}
	var s labSetup
	for _, tr := range list {
		s.scenarios = append(s.scenarios, tr.Scenario)
	}
	b, err := startLab(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.end(false); err != nil {
			t.Error(err)
		}
	})
	b.tryAll(t.Context(), list, func() {})
	for _, tr := range list {
		if len(tr.problems) > 0 {
			t.Fatalf("%s: %q", tr.Domain, tr.problems)
		}
	}
	return b, list
}

func TestTLSRPTCommands(t *testing.T) {
	b, _ := benchOf(t, "wildcard.test", "expired.test")
	today := time.Now().UTC().Format(time.DateOnly)

	out, _ := b.ask(t, 0, "tlsrpt", "list")
	for _, want := range []string{today + "  expired.test      0       1  tallied  next in ", today + "  wildcard.test     1       0  tallied  next in ", "2 reports."} {
		if !strings.Contains(out, want) {
			t.Errorf("list lacks %q:\n%s", want, out)
		}
	}
	if out, _ := b.ask(t, 0, "tlsrpt", "list", "--day", "2001-01-01"); out != "nothing is counted, and no report is on its way\n" {
		t.Errorf("another day: %q", out)
	}

	out, about := b.ask(t, 0, "tlsrpt", "show", "expired.test")
	var report struct {
		Policies []struct {
			Details []struct {
				Result string `json:"result-type"`
			} `json:"failure-details"`
		}
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil || report.Policies[0].Details[0].Result != "certificate-expired" {
		t.Errorf("show: %v:\n%s", err, out)
	}
	if !strings.HasPrefix(about, today+" expired.test: tallied   sender.test!expired.test!") {
		t.Errorf("show says %q", about)
	}
	if _, e := b.ask(t, 1, "tlsrpt", "show", "other.test"); !strings.Contains(e, "nothing was counted of other.test") {
		t.Errorf("another domain: %q", e)
	}

	for _, bad := range [][]string{{"send"}, {"list", "--day", "yesterday"}, {"send", "--now", "--to", "ftp://x"}} {
		if _, e := b.ask(t, map[bool]int{true: exitUsage, false: exitBad}[len(bad) == 1], append([]string{"tlsrpt"}, bad...)...); e == "" {
			t.Errorf("%q: not a word", bad)
		}
	}

	// a copy goes elsewhere, and leaves everything as it is
	b.ask(t, 0, "tlsrpt", "send", "--now", "--to", "mailto:me@"+labReports, "expired.test")
	out, _ = b.ask(t, 0, "tlsrpt", "list")
	if !strings.Contains(out, "sent (copy)") || strings.Count(out, "tallied") != 2 {
		t.Errorf("behind a copy:\n%s", out)
	}

	out, _ = b.ask(t, 0, "tlsrpt", "send", "--now")
	if strings.Count(out, "  sent") < 2 || !strings.Contains(out, "mailto:tls@reports.test: sent") {
		t.Errorf("send:\n%s", out)
	}
	out, _ = b.ask(t, 0, "tlsrpt", "list", "--json")
	states := map[string]string{}
	dec := json.NewDecoder(strings.NewReader(out))
	for dec.More() {
		var e admin.ReportEntry
		if err := dec.Decode(&e); err != nil {
			t.Fatal(err)
		}
		if !e.Copy {
			states[e.Domain] = e.State
		}
	}
	if states["expired.test"] != "sent" || states["wildcard.test"] != "sent" {
		t.Errorf("list --json: %v", states)
	}
	came, err := b.reports()
	if err != nil || len(came) != 3 {
		t.Errorf("%d reports came, %v", len(came), err)
	}
	if out, _ = b.ask(t, 0, "tlsrpt", "send", "--now"); !strings.Contains(out, "nothing is counted") {
		t.Errorf("a second time:\n%s", out)
	}
	if out, _ := b.ask(t, 0, "status"); !strings.Contains(out, "TLS reports  3 sent") {
		t.Errorf("status:\n%s", out)
	}
}

func TestTLSRPTSendFails(t *testing.T) {
	b, _ := benchOf(t, "ok.test")
	b.collector.Change(func(c *lab.Collector) { c.Status = 500 })
	out, _ := b.ask(t, exitBad, "tlsrpt", "send", "--now")
	if !strings.Contains(out, "https://collector.test/v1: pending") || !strings.Contains(out, "500") || !strings.Contains(out, "next in") {
		t.Errorf("send:\n%s", out)
	}
	b.collector.Change(func(c *lab.Collector) { c.Status = 200 })
	if out, _ := b.ask(t, 0, "tlsrpt", "send", "--now"); !strings.Contains(out, "https://collector.test/v1: sent") {
		t.Errorf("send:\n%s", out)
	}
	if n := len(b.collector.Requests()); n != 2 {
		t.Errorf("%d requests", n)
	}
}
