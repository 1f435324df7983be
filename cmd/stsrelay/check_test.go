package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"stsrelay/internal/addr"
	"stsrelay/internal/app"
	"stsrelay/internal/check"
	"stsrelay/internal/lab"
)

// startCheckLab starts a fake internet with the scenarios.
func startCheckLab(t *testing.T, list []lab.Scenario) *lab.World {
	t.Helper()
	w, err := lab.Start(lab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	w.DNS.SetAD(".", true)
	w.SetUp(list)
	return w
}

func checkOptions(w *lab.World) app.CheckOptions {
	return app.CheckOptions{Hostname: "check.test", DNS: []netip.AddrPort{netip.MustParseAddrPort(w.DNSServers()[0])}, Dialer: w.Dialer(), Roots: w.Roots(),
		Private: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}}
}

// What a host says to MAIL, RCPT and the content is not for a check to know.
var afterHello = []string{"remote-reply", "connection-lost", "timeout", "message-too-big", "8bitmime-unsupported", "smtputf8-unsupported", "mail-loop"}

// The checker and the sender think with one head: on every domain of the lab
// that needs no history the verdict is what becomes of a message that asks for
// nothing of its own.
func TestCheckAgreesWithTheSender(t *testing.T) {
	var list []lab.Scenario
	for _, s := range lab.Domains() {
		if s.Break == nil && s.Mail == (lab.Mail{}) && !slices.Contains(afterHello, s.Expect.Reason) {
			list = append(list, s)
		}
	}
	w := startCheckLab(t, list)
	c, end, err := app.NewChecker(t.Context(), checkOptions(w))
	if err != nil {
		t.Fatal(err)
	}
	defer end()
	var domains []addr.Domain
	for _, s := range list {
		domains = append(domains, addr.MustDomain(s.Domain))
	}
	i := 0
	err = checkAll(t.Context(), c, domains, func(r check.Report) error {
		s := list[i]
		i++
		good := r.Verdict == check.Deliver || r.Verdict == check.Partial
		if r.Domain.String() != s.Domain || good != (s.Expect.Outcome == lab.Delivered) {
			t.Errorf("%s: %s (%s), and the sender has it %s %s: %v %v", s.Domain, r.Verdict, checkHeadline(r), s.Expect.Outcome, s.Expect.Reason, r.Findings, r.Unknown)
		}
		if s.Expect.Outcome != lab.Delivered && !strings.Contains(findingIDs(r), s.Expect.Reason) && len(r.Unknown) == 0 {
			t.Errorf("%s: finds %s and not %s", s.Domain, findingIDs(r), s.Expect.Reason)
		}
		return nil
	})
	if err != nil || i < 60 {
		t.Errorf("%d domains: %v", i, err)
	}
}

func findingIDs(r check.Report) string {
	var s []string
	for _, f := range r.Findings {
		s = append(s, f.ID)
	}
	return strings.Join(s, " ")
}

// checkIn runs `check` in a fake internet.
func checkIn(t *testing.T, w *lab.World, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	o := checkOptions(w)
	var out, errs strings.Builder
	code = runWith(t.Context(), &globals{dialer: o.Dialer, roots: o.Roots, private: o.Private}, append([]string{"check", "--resolver", o.DNS[0].String()}, args...), &out, &errs)
	return code, out.String(), errs.String()
}

// checkText is an output without what differs from run to run.
func checkText(s string) string {
	return regexp.MustCompile(`127\.10\.[0-9.]+ *`).ReplaceAllString(s, "IP  ")
}

func TestCheckCommand(t *testing.T) {
	w := startCheckLab(t, lab.Domains())
	file := func(name, text string) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	policyOf := func(mode string, mx ...string) string {
		return file("mta-sts.txt", "version: STSv1\nmode: "+mode+"\nmx: "+strings.Join(mx, "\nmx: ")+"\nmax_age: 604800\n")
	}
	other := w.AddMX(lab.MX{Name: "mx3.ok.test"})
	list := file("list", "# ours\nok.test\n\nexpired.test # this one too\n")

	t.Run("one domain in full", func(t *testing.T) {
		code, out, errs := checkIn(t, w, "second-mx.test")
		want, err := os.ReadFile("testdata/check_second_mx.txt")
		if err != nil {
			t.Fatal(err)
		}
		if got := checkText(out); code != 1 || errs != "" || got != string(want) {
			t.Errorf("exit %d, %s\n%s\nwant\n%s", code, errs, got, want)
		}
	})
	tests := []struct {
		name string
		args []string
		code int
		want []string // in the output
		not  string
	}{
		{"in order", []string{"ok.test"}, 0, []string{"ok.test: an enforcing sender delivers ", "mode enforce, max_age 7 days"}, "error "},
		{"an address will do", []string{"you@ok.test"}, 0, []string{"ok.test: an enforcing sender delivers"}, "error "},
		{"no policy", []string{"no-policy.test"}, 0, []string{"every sender delivers, and nothing obliges it to use TLS", "sts-none"}, "error "},
		{"testing mode: what would be", []string{"testing-bad-cert.test"}, 0, []string{"every sender delivers, and nothing obliges it to use TLS", "under enforce: the mta-sts policy", "Under enforce some of it would not be"}, "error "},
		{"as if in enforce", []string{"testing-bad-cert.test", "--as", "enforce"}, 1, []string{"does not deliver", "taken to be in another mode: mode enforce", "error  certificate-not-trusted"}, "under enforce:"},
		{"a policy before it is published", []string{"ok.test", "--policy", policyOf("enforce", "other.ok.test")}, 1, []string{"not published, from the file: mode enforce", "error  mx-not-listed", "add  mx: mx.ok.test "}, ""},
		{"a better policy than the published one", []string{"unlisted-mx.test", "--policy", policyOf("enforce", "*.unlisted-mx.test")}, 0, []string{"an enforcing sender delivers"}, "error "},
		{"a testing policy as enforce", []string{"ok.test", "--policy", policyOf("testing", "other.ok.test"), "--as", "enforce"}, 1, []string{"mx-not-listed"}, ""},
		{"a mail server that is not in DNS", []string{"ok.test", "--mx", "mx9.ok.test=" + other.Addr()}, 1, []string{"delivers through 1 of 2 MX hosts", "mx9.ok.test", "NOT NAMED"}, ""},
		{"strict", []string{"ok.test", "--strict"}, 1, []string{"0 errors, 1 warning"}, ""},
		{"a policy that cannot be had", []string{"policy-404.test"}, 1, []string{"error  sts-policy-fetch-error", "Senders report it as: sts-policy-fetch-error"}, ""},
		{"DANE", []string{"dane.test"}, 0, []string{"an enforcing sender delivers", "TLSA records of the MX hosts: 1 usable"}, "error "},
		{"DANE that fails", []string{"dane-mismatch.test"}, 1, []string{"error  dane-mismatch", "Senders report it as: validation-failure"}, ""},
		{"no mail server answers from here", []string{"mx-down.test"}, 3, []string{"no mail server could be reached from here", "block port 25"}, ""},
		{"a domain without mail", []string{"null-mx.test"}, 0, []string{"nobody can deliver: null-mx.test says by a null MX record"}, "unknown"},
		{"many domains", []string{"-f", list, "second-mx.test"}, 1, []string{"deliver  ok.test ", "refuse   expired.test ", "partial  second-mx.test ", "1 deliver, 1 partial, 1 refuse"}, ""},
		{"for programs", []string{"second-mx.test", "--json"}, 1, []string{`"schema":"stsrelay.check/v1","domain":"second-mx.test"`, `"verdict":"partial","would_deliver":true`, `{"id":"mx-not-listed","severity":"error","subject":"mx1.second-mx.test","rfc":"RFC 8461, Section 4.1","result":"validation-failure"`}, ""},
		{"for monitoring: critical", []string{"expired.test", "--format", "nagios"}, 2, []string{"MTA-STS CRITICAL - expired.test: an enforcing sender does not deliver\n"}, ""},
		{"for monitoring: warning", []string{"ok.test", "--format", "nagios"}, 1, []string{"MTA-STS WARNING - ok.test: "}, ""},
		{"for monitoring: unknown", []string{"mx-down.test", "--format", "nagios"}, 3, []string{"MTA-STS UNKNOWN - mx-down.test: "}, ""},
		{"an unknown mode", []string{"ok.test", "--as", "strict"}, 2, nil, ""},
		{"a policy for many", []string{"ok.test", "expired.test", "--policy", policyOf("enforce", "a.test")}, 2, nil, ""},
		{"no domain", nil, 2, nil, ""},
		{"no domain name", []string{"not a domain"}, 2, nil, ""},
		{"no address", []string{"ok.test", "--mx", "mx9.ok.test=there"}, 2, nil, ""},
		{"no list", []string{"-f", "nowhere"}, 1, nil, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			code, out, errs := checkIn(t, w, tt.args...)
			if code != tt.code || (errs != "") != (tt.want == nil) {
				t.Errorf("exit %d, want %d: %s", code, tt.code, errs)
			}
			for _, s := range tt.want {
				if !strings.Contains(out, s) {
					t.Errorf("there is no %q in\n%s", s, out)
				}
			}
			if tt.not != "" && strings.Contains(out, tt.not) {
				t.Errorf("there is %q in\n%s", tt.not, out)
			}
		})
	}
	t.Run("--watch tells of a change and ends by it", func(t *testing.T) {
		mx := w.AddMX(lab.MX{Name: "mx.watched.test", Domains: []string{"watched.test"}})
		w.AddPolicy(lab.Policy{Domain: "watched.test", ID: "1", MX: []string{"mx.watched.test"}})
		ctx, cancel := context.WithTimeout(t.Context(), scriptPatience)
		defer cancel()
		go func() {
			if mx.WaitConnections(ctx, 2) == nil { // the second look has begun
				mx.Change(func(m *lab.MX) { m.Cert = lab.Expired })
			}
		}()
		code, out, errs := checkIn(t, w, "watched.test", "--watch", "20ms", "--exit-on-change")
		want := "watched.test: refuse certificate-expired@mx.watched.test"
		if code != 1 || !strings.Contains(out, want) || !strings.Contains(out, ", was deliver") {
			t.Errorf("exit %d, no %q in\n%s%s", code, want, out, errs)
		}
	})
	t.Run("--no-smtp contacts no mail server", func(t *testing.T) {
		mx := w.AddMX(lab.MX{Name: "mx.quiet.test", Domains: []string{"quiet.test"}})
		code, out, _ := checkIn(t, w, "quiet.test", "--no-smtp")
		if code != 0 || !strings.Contains(out, "it was not contacted") || mx.Connections() != 0 {
			t.Errorf("exit %d after %d sessions\n%s", code, mx.Connections(), out)
		}
	})
}

// A thousand domains at once take a bounded number of connections: those of as
// many checks as run at the same time.
func TestCheckOfAThousandDomains(t *testing.T) {
	w := startCheckLab(t, nil)
	const domains, hosts = 1000, 50
	var mx []*lab.MXHost
	var list []addr.Domain
	for h := range hosts {
		var names []string
		for i := range domains / hosts {
			names = append(names, fmt.Sprintf("d%d-%d.test", h, i))
			list = append(list, addr.MustDomain(names[i]))
		}
		mx = append(mx, w.AddMX(lab.MX{Name: fmt.Sprintf("mx%d.test", h), Domains: names}))
	}
	c, end, err := app.NewChecker(t.Context(), checkOptions(w))
	if err != nil {
		t.Fatal(err)
	}
	defer end()
	good := 0
	if err := checkAll(t.Context(), c, list, func(r check.Report) error {
		if r.Domain != list[good] || r.Verdict != check.Deliver {
			t.Errorf("%s: %s, %v", r.Domain, r.Verdict, r.Unknown)
		}
		good++
		return nil
	}); err != nil || good != domains {
		t.Fatalf("%d domains, %v", good, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), scriptPatience)
	defer cancel()
	peak := 0
	for _, h := range mx {
		peak = max(peak, h.Peak())
		if err := h.WaitIdle(ctx); err != nil { // whose side of it ends a moment later
			t.Errorf("%s has %d connections left: %v", h.Name(), h.Open(), err)
		}
	}
	if peak > checksAtOnce {
		t.Errorf("one host had %d connections at once", peak)
	}
}
