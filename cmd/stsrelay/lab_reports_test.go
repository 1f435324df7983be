package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
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
	for _, domain := range []string{"wildcard.test", "expired.test", "unlisted-mx.test", "no-starttls.test", "policy-404.test", "second-cert.test", "no-policy.test"} {
		args = append(args, "--only", domain)
	}
	if code := run(context.Background(), args, &stdout, &stderr); code != 0 {
		t.Fatalf("%d: %s%s", code, &stdout, &stderr)
	}
	dir := regexp.MustCompile(`are in (\S+)`).FindStringSubmatch(stderr.String())[1]
	defer os.RemoveAll(dir)
	mails, err := filepath.Glob(filepath.Join(dir, "reports", "*.eml"))
	if err != nil || len(mails) != 7 {
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
		"expired.test sts 0 1 certificate-expired",
		"no-policy.test no-policy-found 1 0",
		"no-starttls.test sts 0 1 starttls-not-supported",
		"policy-404.test no-policy-found 0 1 starttls-not-supported",
		"policy-404.test sts 0 1 sts-policy-fetch-error",
		"second-cert.test sts 1 1 certificate-expired",
		"unlisted-mx.test sts 0 1 validation-failure",
		"wildcard.test sts 1 0",
	}
	if !slices.Equal(got, want) {
		t.Errorf("they read\n%s", strings.Join(got, "\n"))
	}
}
