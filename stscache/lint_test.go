package stscache

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"stsrelay/internal/addr"
)

const soundPolicy = "version: STSv1\nmode: enforce\nmx: mail.example.com\nmax_age: 604800\n"

// problemText is "3:1 error line-syntax".
func problemText(list []Problem) string {
	var s []string
	for _, p := range list {
		s = append(s, fmt.Sprintf("%d:%d %s %s", p.Line, p.Column, p.Severity, p.ID))
	}
	return strings.Join(s, ", ")
}

func TestLintPolicy(t *testing.T) {
	change := func(old, new string) string {
		if !strings.Contains(soundPolicy, old) {
			t.Fatal(old)
		}
		return strings.ReplaceAll(soundPolicy, old, new)
	}
	tests := []struct{ name, body, want, hint string }{
		{"a sound policy", soundPolicy, "", ""},
		{"CRLF and no end of the last line", strings.TrimSuffix(strings.ReplaceAll(soundPolicy, "\n", "\r\n"), "\r\n"), "", ""},
		{"a misspelt mx", change("mx:", "nmx:"), "3:1 warning key-unknown, 0:0 error no-mx", "did you mean mx?"},
		{"an extension", soundPolicy + "contact: you\n", "5:1 info key-unknown", ""},
		{"no colon", change("mode: enforce", "mode enforce"), "2:1 error line-syntax, 0:0 error no-mode", ""},
		{"every line is told", "version: STSv2\nmode: strict\nmx: 192.0.2.1\nmax_age: 7d\n",
			"1:10 error version-unknown, 2:7 error mode-unknown, 3:5 error mx-syntax, 4:10 error max-age-syntax", ""},
		{"a capital letter in the mode", change("enforce", "Enforce"), "2:7 error mode-unknown", "write it in small letters: enforce"},
		{"a misspelt mode", change("enforce", "enforced"), "2:7 error mode-unknown", "did you mean enforce?"},
		{"a unit", change("604800", "7d"), "4:10 error max-age-syntax", "give it in seconds, without a unit: 604800 is a week, and usual"},
		{"a short max_age", change("604800", "3600"), "4:10 warning max-age-short", "604800 is a week, and usual; guides ask for 86400 at least"},
		{"the shortest that is not", change("604800", "86400"), "0:0 info enforce-max-age", ""},
		{"a long max_age", change("604800", "31557601"), "4:10 warning max-age-large", ""},
		{"the longest", change("604800", "31557600"), "", ""},
		{"testing for long", strings.ReplaceAll(change("enforce", "testing"), "604800", "1209601"), "0:0 info testing-max-age", ""},
		{"testing as the guide has it", strings.ReplaceAll(change("enforce", "testing"), "604800", "1209600"), "", ""},
		{"none as the guide has it", "version: STSv1\nmode: none\nmax_age: 86400\n", "", ""},
		{"none as the policy was", strings.ReplaceAll(soundPolicy, "enforce", "none"), "0:0 info none-with-mx, 0:0 info none-max-age", ""},
		{"a key twice", soundPolicy + "mode: testing\n", "5:1 warning key-twice", ""},
		{"a key twice, the second invalid", soundPolicy + "mode: no\n", "5:1 warning key-twice", ""},
		{"version not first", "mode: enforce\nversion: STSv1\nmx: mail.example.com\nmax_age: 604800\n", "2:1 warning version-not-first", ""},
		{"several hosts in one line", change("mail.example.com", "a.example.com, b.example.com"), "3:5 error mx-syntax", "write one mx line for each host"},
		{"a dot at the end", change("mail.example.com", "mail.example.com."), "3:5 error mx-syntax", "leave the dot at the end away"},
		{"a wildcard in the middle", change("mail.example.com", "mail.*.com"), "3:5 error mx-syntax", "* stands for the whole left-most label, once"},
		{"an address", change("mail.example.com", "192.0.2.1"), "3:5 error mx-syntax", "name the host, not its address"},
		{"an address with a tag", change("mail.example.com", "[2001:db8::1]"), "3:5 error mx-syntax", "name the host, not its address"},
		{"a label of digits at the end", change("mail.example.com", "mail.1"), "3:5 error mx-syntax", ""},
		{"a port", change("mail.example.com", "mail.example.com:25"), "3:5 error mx-syntax", "name the host without a port"},
		{"capital letters in mx", change("mail.example.com", "Mail.example.com"), "3:5 info mx-case", ""},
		{"a host twice", change("max_age", "mx: mail.example.com\nmax_age"), "4:5 info mx-twice", ""},
		{"a wildcard for a whole top-level domain", change("mail.example.com", "*.com"), "3:5 warning mx-wide", ""},
		{"a byte order mark", "\ufeff" + soundPolicy, "1:1 error line-syntax", "the file begins with a byte order mark: save it as UTF-8 without one"},
		{"a page", "<html>\n", "1:1 error line-syntax, 0:0 error no-version, 0:0 error no-mode, 0:0 error no-max-age, 0:0 error no-mx", "this is HTML and no policy file: does the web server answer with a page of its own?"},
		{"a comment", "# ours\n" + soundPolicy, "1:1 error line-syntax, 2:1 warning version-not-first", "a policy file has no comments"},
		{"an empty value", change("mail.example.com", ""), "3:5 error value-syntax", ""},
		{"an empty file", "", "0:0 error no-version, 0:0 error no-mode, 0:0 error no-max-age, 0:0 error no-mx", ""},
		{"too large", strings.Repeat("x", MaxPolicySize+1), "0:0 error too-large", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, found := LintPolicy([]byte(tt.body))
			if got := problemText(found); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
			if len(found) > 0 && found[0].Hint != tt.hint {
				t.Errorf("hint %q, want %q", found[0].Hint, tt.hint)
			}
			agrees(t, []byte(tt.body), p, found)
		})
	}
}

// agrees checks that lint and the sender's parser are of one opinion.
func agrees(t *testing.T, body []byte, p *Policy, found []Problem) {
	t.Helper()
	parsed, _, err := ParsePolicy(body)
	bad := slices.ContainsFunc(found, func(p Problem) bool { return p.Severity == SeverityError })
	if bad != (err != nil) || (p == nil) != bad {
		t.Errorf("lint finds errors: %v; senders: %v", found, err)
	}
	if p != nil && (p.Mode != parsed.Mode || p.MaxAge != parsed.MaxAge || !slices.Equal(p.MX, parsed.MX)) {
		t.Errorf("lint reads %+v, senders %+v", p, parsed)
	}
	lines := splitLines(body)
	for _, q := range found {
		if q.Line < 0 || q.Line > len(lines) || q.Line > 0 && (q.Column < 0 || q.Width < 0 || q.Column+q.Width-1 > len(lines[q.Line-1])) || q.Text == "" || q.ID == "" {
			t.Errorf("no such place: %+v", q)
		}
	}
}

func FuzzLintPolicy(f *testing.F) {
	f.Add([]byte(soundPolicy))
	f.Add([]byte("mode: None\nversion:STSv1 \nmx : a\nmx:\n\nmax_age: 99999999999\nmax_age:1\nmx: *.a, b"))
	f.Fuzz(func(t *testing.T, body []byte) {
		p, found := LintPolicy(body)
		agrees(t, body, p, found)
	})
}

func TestLintHosts(t *testing.T) {
	tests := []struct{ name, mode, patterns, hosts, want string }{
		{"each host is named", "enforce", "mx1.example.com *.backup.example.net", "mx1.example.com a.backup.example.net", ""},
		{"one is not", "enforce", "mx1.example.com", "mx1.example.com mx2.example.com", "mx-not-listed mx2.example.com"},
		{"one is two labels below a wildcard", "enforce", "*.example.com", "a.b.example.com", "mx-not-listed a.b.example.com; *.example.com stands for one label only, mx-unused"},
		{"a pattern for nobody", "testing", "mx1.example.com old.example.com", "mx1.example.com", "mx-unused"},
		{"mode none names nobody", "none", "", "mx1.example.com", ""},
		{"no MX host is known", "enforce", "mx1.example.com", "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := &Policy{Mode: Mode(tt.mode)}
			for _, m := range strings.Fields(tt.patterns) {
				p.MX = append(p.MX, Pattern(m))
			}
			var hosts []addr.Host
			for _, h := range strings.Fields(tt.hosts) {
				hosts = append(hosts, addr.MustHost(h))
			}
			var got []string
			for _, q := range LintHosts(p, hosts) {
				s := q.ID
				if q.ID == "mx-not-listed" {
					s += strings.Replace(strings.TrimPrefix(q.Text, "the MX host"), " is named by no mx line", "", 1)
				}
				got = append(got, s)
			}
			if strings.Join(got, ", ") != tt.want {
				t.Errorf("got  %s\nwant %s", strings.Join(got, ", "), tt.want)
			}
		})
	}
}
