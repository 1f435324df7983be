package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"stsrelay/internal/lab"
	"stsrelay/stscache"
	"stsrelay/tlsrpt"
)

// toolIn runs a command that needs DNS in a fake internet.
func toolIn(t *testing.T, w *lab.World, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	o := checkOptions(w)
	var out, errs strings.Builder
	code = runWith(t.Context(), &globals{dialer: o.Dialer, roots: o.Roots, private: o.Private}, append(args, "--resolver", o.DNS[0].String()), &out, &errs)
	return code, out.String(), errs.String()
}

// txtOf is the text of the TXT record at a name in zone lines.
func txtOf(t *testing.T, zone, name string) string {
	t.Helper()
	for line := range strings.Lines(zone) {
		if strings.HasPrefix(line, name+". ") {
			_, text, _ := strings.Cut(line, `"`)
			return strings.TrimSuffix(strings.TrimSpace(text), `"`)
		}
	}
	t.Fatalf("no record at %s in\n%s", name, zone)
	return ""
}

func TestPolicyNew(t *testing.T) {
	w := startCheckLab(t, lab.Domains())
	t.Run("what it writes is what senders read", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "out")
		code, out, errs := toolIn(t, w, "policy", "new", "second-mx.test", "-o", dir, "--web", "nginx")
		if code != 0 || !strings.Contains(out, "server_name mta-sts.second-mx.test;") || !strings.Contains(out, "stsrelay policy new second-mx.test --mode enforce") {
			t.Fatalf("exit %d: %s%s", code, out, errs)
		}
		file, err := os.ReadFile(filepath.Join(dir, "mta-sts.txt"))
		if err != nil {
			t.Fatal(err)
		}
		p, found := stscache.LintPolicy(file)
		if len(found) > 0 || p.Mode != stscache.Testing || p.MaxAge != 7*24*time.Hour || !slices.Equal(p.MX, []stscache.Pattern{"mx1.second-mx.test", "mx2.second-mx.test"}) {
			t.Errorf("%+v, %v", p, found)
		}
		zone, err := os.ReadFile(filepath.Join(dir, "records.zone"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stscache.ParseRecord([]string{txtOf(t, string(zone), "_mta-sts.second-mx.test")}); err != nil {
			t.Error(err)
		}
		if r, err := tlsrpt.ParseRecord([]string{txtOf(t, string(zone), "_smtp._tls.second-mx.test")}); err != nil || r.RUAs[0].String() != "mailto:tls-reports@second-mx.test" {
			t.Errorf("%v, %v", r, err)
		}
	})
	t.Run("enforce, for a domain that is its own mail host", func(t *testing.T) {
		code, out, _ := toolIn(t, w, "policy", "new", "implicit.test", "--mode", "enforce", "--max-age", "30d", "--json")
		var got struct{ Policy, URL string }
		if err := json.Unmarshal([]byte(out), &got); err != nil || code != 0 {
			t.Fatalf("exit %d, %v: %s", code, err, out)
		}
		p, _ := stscache.LintPolicy([]byte(got.Policy))
		if p.Mode != stscache.Enforce || p.MaxAge != 30*24*time.Hour || !slices.Equal(p.MX, []stscache.Pattern{"implicit.test"}) || got.URL != "https://mta-sts.implicit.test/.well-known/mta-sts.txt" {
			t.Errorf("%+v at %s", p, got.URL)
		}
	})
	for name, tt := range map[string]struct {
		args []string
		code int
		says string
	}{
		"mx lines that are given":       {[]string{"ok.test", "--mx", "*.example.net", "--web", "caddy"}, 0, "mx: *.example.net"},
		"apache":                        {[]string{"ok.test", "--web", "apache"}, 0, "ServerName mta-sts.ok.test"},
		"mode none names nobody":        {[]string{"ok.test", "--mode", "none"}, 0, "mode: none\n     max_age: 86400\n"},
		"a pattern that is none":        {[]string{"ok.test", "--mx", "a b"}, 2, "not a host name"},
		"a domain without mail":         {[]string{"null-mx.test"}, 1, "takes no mail"},
		"a domain that does not exist":  {[]string{"nosuch.test"}, 1, "does not exist"},
		"DNS that fails":                {[]string{"dns-fails.test"}, 3, "could not be had"},
		"an unknown mode":               {[]string{"ok.test", "--mode", "strict"}, 2, "strict"},
		"an unknown server":             {[]string{"ok.test", "--web", "iis"}, 2, "iis"},
		"a max_age of more than a year": {[]string{"ok.test", "--max-age", "400d"}, 2, "at most a year"},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, errs := toolIn(t, w, append([]string{"policy", "new"}, tt.args...)...)
			if code != tt.code || !strings.Contains(out+errs, tt.says) {
				t.Errorf("exit %d, want %d and %q: %s%s", code, tt.code, tt.says, out, errs)
			}
		})
	}
}

func TestPolicyShow(t *testing.T) {
	w := startCheckLab(t, lab.Domains())
	for domain, tt := range map[string]struct {
		code int
		says string
	}{
		"ok.test":          {0, "Policy  https://mta-sts.ok.test/.well-known/mta-sts.txt\n          version: STSv1\n          mode: enforce\n"},
		"no-policy.test":   {0, "Policy  none: senders use TLS if it is offered\n"},
		"policy-404.test":  {1, "Fault   MTA-STS policy fetch failed: the policy host answered 404 and not 200\n"},
		"two-records.test": {1, "Fault   more than one MTA-STS record\n"},
		"txt-fails.test":   {3, "Policy  unknown: whether there is one could not be looked up"},
	} {
		code, out, errs := toolIn(t, w, "policy", "show", domain)
		if code != tt.code || !strings.Contains(out, tt.says) {
			t.Errorf("%s: exit %d, want %d and %q: %s%s", domain, code, tt.code, tt.says, out, errs)
		}
	}
	if _, out, _ := toolIn(t, w, "policy", "show", "ok.test", "--json"); !strings.Contains(out, `"schema":"stsrelay.policy-show/v1"`) || !strings.Contains(out, `"mode":"enforce"`) {
		t.Error(out)
	}
}

func TestPolicyRetire(t *testing.T) {
	w := startCheckLab(t, lab.Domains())
	held := func(d time.Duration) string { return "until " + day(time.Now().Add(d)) + "." }
	for name, tt := range map[string]struct {
		args []string
		code int
		says []string
	}{
		"both options, dated by the max_age of today": {[]string{"ok.test"}, 0, []string{"for up to 7 days: " + held(7*24*time.Hour), "mode: none\n     max_age: 86400\n", "Option 2"}},
		"and by a longer one of the past":             {[]string{"ok.test", "--max-age", "90d"}, 0, []string{"for up to 90 days: " + held(90*24*time.Hour)}},
		"DNS that fails":                              {[]string{"txt-fails.test"}, 3, []string{"could not be looked up"}},
		"no policy":                                   {[]string{"no-policy.test"}, 1, []string{"has no policy that senders could hold now"}},
		"for programs":                                {[]string{"ok.test", "--json"}, 0, []string{`"schema":"stsrelay.policy-retire/v1"`, `mode: none\r\nmax_age: 86400`}},
		"no duration":                                 {[]string{"ok.test", "--max-age", "long"}, 2, []string{"long"}},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, errs := toolIn(t, w, append([]string{"policy", "retire"}, tt.args...)...)
			if code != tt.code {
				t.Errorf("exit %d, want %d: %s%s", code, tt.code, out, errs)
			}
			for _, s := range tt.says {
				if !strings.Contains(out+errs, s) {
					t.Errorf("there is no %q in\n%s%s", s, out, errs)
				}
			}
			if _, file, ok := strings.Cut(out, "mta-sts.txt\n"); ok && code == 0 {
				file, _, _ = strings.Cut(file, "  2. ")
				if _, found := stscache.LintPolicy([]byte(strings.ReplaceAll(strings.TrimSpace(file), "\n     ", "\n"))); len(found) > 0 {
					t.Errorf("the file for mode none: %v", found)
				}
			}
		})
	}
}

func TestPolicyLintOfADomain(t *testing.T) {
	w := startCheckLab(t, lab.Domains())
	for domain, tt := range map[string]struct {
		code int
		says string
	}{
		"ok.test":   {0, "ok.test: ok\n"},
		"deep.test": {1, "deep.test: error: the MX host a.b.deep.test is named by no mx line"},
		"https://mta-sts.ok.test/.well-known/mta-sts.txt": {0, "mta-sts.txt: ok\n"},
		"policy-garbage.test":                             {1, "policy-garbage.test:1:1: error: it is not of the form key: value   [line-syntax]"},
		"policy-404.test":                                 {1, "https://mta-sts.policy-404.test/.well-known/mta-sts.txt: MTA-STS policy fetch failed: the policy host answered 404 and not 200"},
		"nowhere.txt":                                     {1, "no such file"},
	} {
		code, out, errs := toolIn(t, w, "policy", "lint", domain)
		if code != tt.code || !strings.Contains(out+errs, tt.says) {
			t.Errorf("%s: exit %d, want %d and %q: %s%s", domain, code, tt.code, tt.says, out, errs)
		}
	}
}
