package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"stsrelay/internal/lab"
)

// What a run of the lab reports is read, and its signatures verified, by Debian's
// Python and dkimpy.
func TestOthersReadOurReports(t *testing.T) {
	if err := exec.Command("/usr/bin/python3", "-c", "import dkim, nacl").Run(); err != nil {
		if os.Getenv("STSRELAY_INTEGRATION") == "" {
			t.Skip("left out: it needs python3-dkim of Debian; `make test` installs it")
		}
		t.Fatal("python3-dkim is not installed")
	}
	var stdout, stderr bytes.Buffer
	args := []string{"lab", "run", "--keep"}
	for _, domain := range []string{"wildcard.test", "expired.test", "unlisted-mx.test", "no-starttls.test", "policy-404.test", "second-cert.test", "no-policy.test", "dane.test", "dane-sts-bad-cert.test", "dane-unusable.test", "tlsa-bogus.test"} {
		args = append(args, "--only", domain)
	}
	if code := run(context.Background(), args, &stdout, &stderr); code != 0 {
		t.Fatalf("%d: %s%s", code, &stdout, &stderr)
	}
	dir := regexp.MustCompile(`are in (\S+)`).FindStringSubmatch(stderr.String())[1]
	defer os.RemoveAll(dir)
	mails, err := filepath.Glob(filepath.Join(dir, "reports", "*.eml"))
	if err != nil || len(mails) != 11 {
		t.Fatalf("%d messages, %v", len(mails), err)
	}
	cmd := exec.Command("/usr/bin/python3", append([]string{"testdata/read_reports.py", filepath.Join(dir, "dkim.txt")}, mails...)...)
	var problems bytes.Buffer
	cmd.Stderr = &problems
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, &problems)
	}
	got := strings.Split(strings.TrimSpace(string(out)), "\n")
	slices.Sort(got)
	want := []string{
		"dane-sts-bad-cert.test sts 0 1 certificate-not-trusted",
		"dane-sts-bad-cert.test tlsa 1 0",
		"dane-unusable.test tlsa 0 1 tlsa-invalid",
		"dane.test tlsa 1 0",
		"expired.test sts 0 1 certificate-expired",
		"no-policy.test no-policy-found 1 0",
		"no-starttls.test sts 0 1 starttls-not-supported",
		"policy-404.test no-policy-found 0 1 starttls-not-supported",
		"policy-404.test sts 0 1 sts-policy-fetch-error",
		"second-cert.test sts 1 1 certificate-expired",
		"tlsa-bogus.test tlsa 0 1 dnssec-invalid",
		"unlisted-mx.test sts 0 1 validation-failure",
		"wildcard.test sts 1 0",
	}
	if !slices.Equal(got, want) {
		t.Errorf("they read\n%s", strings.Join(got, "\n"))
	}
}

// A report is held against what must be in it: the type of policy, the name of
// the failure, sessions that went well.
func TestReportsAreHeldAgainstTheScenario(t *testing.T) {
	report := func(types ...string) *told {
		r := &told{}
		text := `{"policies":[`
		for i, typ := range types {
			typ, result, _ := strings.Cut(typ, " ")
			good, details := 1, `[]`
			if result != "" {
				good, details = 0, `[{"result-type":"`+result+`","failed-session-count":1}]`
			}
			text += strings.Repeat(",", min(i, 1)) + fmt.Sprintf(`{"policy":{"policy-type":%q},"summary":{"total-successful-session-count":%d,"total-failure-session-count":%d},"failure-details":%s}`, typ, good, 1-good, details)
		}
		if err := json.Unmarshal([]byte(text+"]}"), r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	verified, refused := lab.Expect{Outcome: lab.Delivered, TLS: lab.Verified}, lab.Expect{Outcome: lab.Deferred, Reason: "dane-mismatch"}
	for _, row := range []struct {
		why      string
		scenario lab.Scenario
		report   *told
		problem  string // "" if the report is right
	}{
		{"TLSA records were met", lab.Scenario{Expect: verified, TLSA: true}, report("tlsa"), ""},
		{"both were met", lab.Scenario{Expect: verified, TLSA: true}, report("sts", "tlsa"), ""},
		{"the type tlsa is missing", lab.Scenario{Expect: verified, TLSA: true}, report("sts"), "TLSA records apply: true, and in its TLS report: false"},
		{"the type tlsa is there without reason", lab.Scenario{Expect: verified}, report("sts", "tlsa"), "TLSA records apply: false, and in its TLS report: true"},
		{"a mismatch", lab.Scenario{Expect: refused, TLSA: true}, report("tlsa validation-failure"), ""},
		{"a mismatch of a kind", lab.Scenario{Expect: refused, TLSA: true, Result: "certificate-expired"}, report("tlsa certificate-expired"), ""},
		{"a mismatch of another kind", lab.Scenario{Expect: refused, TLSA: true, Result: "certificate-expired"}, report("tlsa validation-failure"), "no session with certificate-expired"},
		{"no session went well", lab.Scenario{Expect: verified, TLSA: true}, report("tlsa validation-failure"), "no successful session"},
	} {
		t.Run(row.why, func(t *testing.T) {
			got := (&trial{Scenario: row.scenario}).reportProblems(row.report)
			if row.problem == "" && got != nil || row.problem != "" && (len(got) != 1 || !strings.Contains(got[0], row.problem)) {
				t.Errorf("the problems are %q", got)
			}
		})
	}
}
