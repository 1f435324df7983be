package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"stsrelay/internal/lab"
)

const goodZone = `domain = "example.com"

[[mx]]
name = "mx1.example.com"
certificate = "good"

[[mx]]
name = "mx2.example.com"
preference = 20
certificate = "self-signed"
starttls = false

[policy]
mode = "enforce"
mx = ["mx1.example.com"]
max_age = 86400
`

func zoneIn(t *testing.T, text string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "zone.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestWhatIsDueToAZone: what an enforcing sender must do with mail to a domain
// of one's own is what this relay does.
func TestWhatIsDueToAZone(t *testing.T) {
	shortTemp(t)
	for _, row := range []struct{ name, old, text, due string }{
		{"in order", "", "", "delivered, verified, by mx1.example.com"},
		{"a bad certificate", `"good"`, `"expired"`, "deferred"},
		{"the policy only tests", "mode = \"enforce\"\nmx = [\"mx1.example.com\"]", "mode = \"testing\"\nmx = [\"mx2.example.com\"]", "delivered, trusted, by mx1.example.com"},
		{"a host without STARTTLS", `"good"`, "\"good\"\nstarttls = false", "deferred"},
		{"a TLSA record that matches", `"good"`, "\"self-signed\"\ntlsa = \"match\"", "deferred"},
		{"a TLSA record alone", goodZone[strings.Index(goodZone, "certificate"):], "certificate = \"self-signed\"\ntlsa = \"match\"\n", "delivered, verified, by mx1.example.com"},
		{"a TLSA record that does not match", goodZone[strings.Index(goodZone, "certificate"):], "tlsa = \"mismatch\"\n", "deferred (dane-mismatch)"},
	} {
		t.Run(row.name, func(t *testing.T) {
			s, err := readZone(zoneIn(t, strings.Replace(goodZone, row.old, row.text, 1)), lab.Domains())
			if err != nil {
				t.Fatal(err)
			}
			due, err := dueTo(t.Context(), s)
			if err != nil || !strings.HasPrefix(describe(due), row.due) {
				t.Errorf("it is %s (%v), not %s", describe(due), err, row.due)
			}
		})
	}
}

func TestZoneFilesAreReadStrictly(t *testing.T) {
	for _, row := range []struct{ name, old, text, want string }{
		{"an unknown key", "starttls = false", "start_tls = false", "zone.toml:11: unknown key mx.start_tls"},
		{"an unknown certificate", `"self-signed"`, `"selfsigned"`, `zone.toml:10: certificate: "selfsigned" is none of: good, `},
		{"an unknown mode", `"enforce"`, `"strict"`, `zone.toml:14: mode: "strict" is none of: enforce, testing, none`},
		{"a wrong type", "preference = 20", `preference = "20"`, "zone.toml:9: "},
		{"no TOML", "[policy]", "[policy", "zone.toml:13: "},
		{"no domain", `domain = "example.com"`, "", "zone.toml:1: domain is missing"},
		{"no domain name", `domain = "example.com"`, `domain = "Example..com"`, `zone.toml:1: domain: "Example..com" is no domain name`},
		{"a domain of the lab", `domain = "example.com"`, `domain = "ok.test"`, "zone.toml:1: domain: the lab has ok.test already"},
		{"a host outside", "mx2.example.com", "mx2.example.org", `zone.toml:8: mx: "mx2.example.org" is no name in example.com`},
		{"a host twice", "mx2.example.com", "mx1.example.com", "mx: mx1.example.com is there twice"},
		{"no host", goodZone[strings.Index(goodZone, "[[mx]]"):], "", "zone.toml:1: there is no [[mx]]"},
		{"a policy that lasts too long", "86400", "99999999", "zone.toml:16: policy: max_age is 99999999"},
	} {
		t.Run(row.name, func(t *testing.T) {
			path := zoneIn(t, strings.Replace(goodZone, row.old, row.text, 1))
			code, _, errs := runIn(t, "lab", "serve", "--zone", path, "--for", "10ms", "--dns", "127.0.0.1:0", "--ca", filepath.Join(t.TempDir(), "ca.pem"))
			if code != exitConfig || !strings.Contains(errs, row.want) {
				t.Errorf("it ends with %d: %s", code, errs)
			}
		})
	}
}

func TestLabServeWithAZone(t *testing.T) {
	s := startServe(t, serveFlags{zone: zoneIn(t, strings.Replace(goodZone, `"good"`, `"wrong-name"`, 1)), domains: []string{"example.com"}})
	if err := newServedSender(s, false).deliver("example.com"); err != nil {
		t.Fatal(err)
	}
	code, found := s.end()
	if d := found["example.com"]; code != exitBad || !strings.HasPrefix(d.Verdict, "NOT: delivered over TLS although: ") {
		t.Errorf("it ends with %d: %+v", code, d)
	}
}
