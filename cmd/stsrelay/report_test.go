package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const googleLike = `{"organization-name":"Google Inc.","date-range":{"start-datetime":"2026-11-20T00:00:00Z","end-datetime":"2026-11-20T23:59:59Z"},"contact-info":"smtp-tls-reporting@google.com","report-id":"2026-11-20T00:00:00Z_example.com","policies":[{"policy":{"policy-type":"sts","policy-string":["version: STSv1","mode: enforce","mx: mx1.example.com"],"policy-domain":"example.com","mx-host":["mx1.example.com"]},"summary":{"total-successful-session-count":1204,"total-failure-session-count":10},"failure-details":[{"result-type":"validation-failure","sending-mta-ip":"209.85.128.1","receiving-ip":"198.51.100.7","receiving-mx-hostname":"mx.eu.backup.example.net","failed-session-count":10}]}]}`

const microsoftLike = `{"organization-name":"Microsoft Corporation","date-range":{"start-datetime":"2026-11-21T00:00:00Z","end-datetime":"2026-11-21T23:59:59Z"},"contact-info":null,"report-id":"133775+example.com+","policies":[{"policy":{"policy-type":"sts","policy-domain":"example.com"},"summary":{"total-successful-session-count":0,"total-failure-session-count":3},"failure-details":[{"result-type":"sts-policy-fetch-error","failed-session-count":3}]}]}`

func TestReportShow(t *testing.T) {
	t.Setenv("LANG", "C.UTF-8")
	t.Setenv("LC_ALL", "")
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("maildir/cur/1:2,S", googleLike)
	write("maildir/new/2", microsoftLike)
	write("maildir/new/3", googleLike) // the same, once more
	all := filepath.Join(dir, "maildir")
	good := write("good.json", strings.Replace(strings.Replace(googleLike, `"total-failure-session-count":10`, `"total-failure-session-count":0`, 1), `"failed-session-count":10`, `"failed-session-count":0`, 1))
	none := write("none.txt", "hello\n")

	t.Run("a maildir", func(t *testing.T) {
		want, err := os.ReadFile("testdata/report_show.txt")
		if err != nil {
			t.Fatal(err)
		}
		code, out, errs := runIn(t, "report", "show", all)
		if code != 0 || out != string(want) || errs != "" {
			t.Errorf("exit %d, %s\n%s\nwant\n%s", code, errs, out, want)
		}
	})
	for name, tt := range map[string]struct {
		args []string
		code int
		says string
	}{
		"in CI, bad":         {[]string{all, "--fail-on-failure"}, 1, "validation-failure"},
		"in CI, good":        {[]string{good, "--fail-on-failure"}, 0, "1204 sessions, 0 failed"},
		"what was tolerated": {[]string{all, "-v"}, 0, "contact-info is missing (Microsoft Corporation)"},
		"for programs":       {[]string{all, "--json"}, 0, `{"schema":"stsrelay.report/v1","source":"` + filepath.Join(all, "cur/1:2,S") + `","report":{"organization-name":"Google Inc."`},
		"of one domain":      {[]string{all, "--domain", "EXAMPLE.com"}, 0, "2 reports"},
		"of none":            {[]string{all, "--domain", "other.example"}, 3, "no TLS report was found"},
		"no report":          {[]string{none}, 3, "none.txt: no TLS report: nothing in it looks like one"},
		"a report and none":  {[]string{none, good}, 0, "nothing in it looks like one"},
		"no file":            {[]string{filepath.Join(dir, "nowhere")}, 1, "no such file"},
		"nothing asked":      {nil, 2, "requires at least 1 arg"},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, errs := runIn(t, append([]string{"report", "show"}, tt.args...)...)
			if code != tt.code || !strings.Contains(out+errs, tt.says) {
				t.Errorf("exit %d, want %d and %q: %s%s", code, tt.code, tt.says, out, errs)
			}
		})
	}
	t.Run("a page that needs nothing else", func(t *testing.T) {
		evil := write("evil.json", strings.Replace(googleLike, "Google Inc.", `<script>alert(1)</script>`, 1))
		page := filepath.Join(dir, "out.html")
		if code, _, errs := runIn(t, "report", "show", "--html", page, all, evil); code != 0 {
			t.Fatal(errs)
		}
		b, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		html := string(b)
		for _, s := range []string{"<title>TLS reports, 2026-11-20 to 2026-11-21</title>", "<title>2026-11-20: 2428 sessions, 20 failed</title>", "mx.eu.backup.example.net", "Next: stsrelay check example.com", "&lt;script&gt;"} {
			if !strings.Contains(html, s) {
				t.Errorf("the page has no %q", s)
			}
		}
		for _, s := range []string{"<script", "http://", "https://", "src=", "@import", "ZgotmplZ"} {
			if strings.Contains(html, s) {
				t.Errorf("the page has %q", s)
			}
		}
	})
}
