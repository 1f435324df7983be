package main

import (
	"context"
	"io"
	"net/textproto"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unicode/utf8"

	"stsrelay/internal/lab"

	"github.com/spf13/cobra"
)

func TestLabRun(t *testing.T) {
	shortTemp(t)
	code, out, errs := runIn(t, "lab", "run")
	if code != 0 || errs != "" {
		t.Fatalf("lab run ends with %d:\n%s%s", code, errs, out)
	}
	last := lastLine(out)
	if want := regexp.MustCompile(`^✓ \d+ passed, 0 failed in \d+\.\d s$`); !want.MatchString(last) || !strings.Contains(last, " "+strconv.Itoa(len(lab.Domains()))+" passed") {
		t.Errorf("the last line is %q", last)
	}
	for _, s := range lab.Domains() {
		if !regexp.MustCompile(`(?m)^✓  ` + regexp.QuoteMeta(s.Domain) + ` .*` + s.Expect.Outcome + `.*as expected$`).MatchString(out) {
			t.Errorf("%s has no line, or another one", s.Domain)
		}
	}
	for _, th := range themes {
		if !strings.Contains(out, "\n   "+th.heading+"\n") {
			t.Errorf("there is no heading %q", th.heading)
		}
	}
	for line := range strings.Lines(out) {
		if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > plainWidth {
			t.Errorf("a line has %d columns: %s", n, line)
		}
	}
	if left, err := os.ReadDir(os.TempDir()); err != nil || len(left) > 0 {
		t.Errorf("%v is left behind (%v)", left, err)
	}
}

// shortTemp has temporary directories made in one of its own, whose name is
// short: that of a Unix socket must be.
func shortTemp(t *testing.T) (dir string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "t")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	t.Setenv("TMPDIR", dir)
	return dir
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return lines[len(lines)-1]
}

func TestLabRunFailsWhereARelayDoesNotDoWhatItMust(t *testing.T) {
	shortTemp(t)
	scenario := func(domain string, change func(*lab.Expect)) lab.Scenario {
		list := lab.Domains()
		s := list[slices.IndexFunc(list, func(s lab.Scenario) bool { return s.Domain == domain })]
		change(&s.Expect)
		return s
	}
	list, err := chosen([]lab.Scenario{
		scenario("ok.test", func(*lab.Expect) {}),
		scenario("no-policy.test", func(e *lab.Expect) { *e = lab.Expect{Outcome: lab.Deferred, Reason: "mx-not-listed"} }),
		scenario("wrong-name.test", func(e *lab.Expect) { *e = lab.Expect{Outcome: lab.Delivered, TLS: lab.Verified} }),
		scenario("null-mx.test", func(e *lab.Expect) { e.Reason = "no-address" }),
		scenario("greylist.test", func(e *lab.Expect) { e.Next = lab.Bounced }),
		scenario("dane-mismatch.test", func(e *lab.Expect) { *e = lab.Expect{Outcome: lab.Delivered, TLS: lab.Verified} }),
		scenario("tlsa-bogus.test", func(e *lab.Expect) { e.Reason = "tlsa-lookup-failed" }),
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	out, err := labInProcess(t, t.Context(), labFlags{}, list)
	if code, _ := exitOf(t.Context(), err, true); code != 1 {
		t.Errorf("it ends with %v", err)
	}
	if !regexp.MustCompile(`^✗ 1 passed, 6 failed in `).MatchString(lastLine(out)) {
		t.Errorf("the last line is %q", lastLine(out))
	}
	for _, text := range []string{
		"expected deferred (mx-not-listed), happened: delivered, trusted",
		"expected delivered, verified, happened: deferred (certificate-host-mismatch)",
		"expected bounced (no-address), happened: bounced (null-mx)",
		"expected delivered, verified, happened: deferred (dane-mismatch)",
		"expected deferred (tlsa-lookup-failed), happened: deferred (dnssec-bogus)",
		"at the next attempt: expected bounced, happened: delivered, verified",
		"status=sent (250", "status=deferred (", "status=bounced (", // the log of each
	} {
		if !strings.Contains(out, text) {
			t.Errorf("it does not say %q:\n%s", text, out)
		}
	}
}

// TestLabRunWithREQUIRETLS: what became of each message is what hosts saw of it,
// so that a scenario that passed proves what it is about.
func TestLabRunWithREQUIRETLS(t *testing.T) {
	shortTemp(t)
	code, out, errs := runIn(t, "lab", "run", "--json", "--only", "requiretls", "--only", "tls-required-no")
	if code != 0 {
		t.Errorf("it ends with %d:\n%s", code, errs)
	}
	lines := map[string]labLine{}
	for _, l := range decodeLines[labLine](t, out) {
		lines[l.Domain] = l
	}
	for _, row := range []struct {
		name    string
		domains []string
	}{
		{"RTLS-2-02 the option is not sent where a condition is missing", []string{"requiretls-clear.test", "requiretls-no-name.test", "requiretls-bad-cert.test", "requiretls-missing.test", "requiretls.test"}},
		{"RTLS-4.2.1-01 each MX host is tried in turn", []string{"requiretls-2.test"}},
		{"RTLS-4.2.1-02 where no host qualifies the message is returned", []string{"requiretls-missing.test", "requiretls-no-name.test", "requiretls-clear.test"}},
		{"RTLS-4.2.2-01 a host that refuses mail in the clear has it returned", []string{"tls-required-no-530.test", "tls-required-no.test"}},
		{"RTLS-5-01 the bounce asks for REQUIRETLS as the message did", []string{"requiretls-missing.test", "tls-required-no-530.test"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			for _, domain := range row.domains {
				if l := lines[domain]; l.Passed == nil || !*l.Passed || l.Happened.Outcome != l.Expected.Outcome {
					t.Errorf("%s: %+v, %q", domain, l.Happened, l.Problems)
				}
			}
		})
	}
}

// labInProcess runs trials that no flag can choose.
func labInProcess(t *testing.T, ctx context.Context, f labFlags, list []*trial) (string, error) {
	t.Helper()
	var out strings.Builder
	cmd := &cobra.Command{}
	cmd.SetContext(ctx)
	cmd.SetOut(&out)
	cmd.SetErr(io.Discard)
	err := runLab(cmd, &globals{color: "never"}, f, list)
	return out.String(), err
}

func TestLabRunOnly(t *testing.T) {
	shortTemp(t)
	code, out, errs := runIn(t, "lab", "run", "--only", "null-mx.test", "--only", "tls-abort", "--keep", "-v", "--json")
	if code != 0 {
		t.Fatalf("it ends with %d:\n%s%s", code, errs, out)
	}
	lines := decodeLines[labLine](t, out)
	got := map[string]string{}
	for _, l := range lines {
		if l.Schema != "stsrelay.lab/v1" || !*l.Passed || len(l.QueueIDs) != 1 || l.Problems == nil || l.Expected.Outcome != l.Happened.Outcome || l.Expected.Reason != l.Happened.Reason {
			t.Errorf("%+v", l)
		}
		got[l.Domain] = l.Happened.Outcome
	}
	if len(got) != 3 || got["null-mx.test"] != lab.Bounced || got["tls-abort.test"] != lab.Deferred || got["tls-abort-no-policy.test"] != lab.Delivered {
		t.Errorf("the outcomes are %v", got)
	}
	for _, l := range lines {
		if bounced := l.Domain == "null-mx.test"; strings.Contains(l.Bounce, "Your message could not be delivered") != bounced {
			t.Errorf("%s: the bounce is %q", l.Domain, l.Bounce)
		}
	}
	if !strings.Contains(errs, "accepting mail") || !strings.Contains(errs, "status=bounced") {
		t.Errorf("-v shows %s", errs)
	}
	_, kept, _ := strings.Cut(lastLine(errs), "relay are in ")
	for _, name := range []string{"config.toml", "relay.log", "roots.pem", "data/stsrelay.db"} {
		if st, err := os.Stat(filepath.Join(kept, name)); err != nil || st.Size() == 0 {
			t.Errorf("--keep in %q: %v", kept, err)
		}
	}
}

func TestLabRunShow(t *testing.T) {
	shortTemp(t)
	code, out, errs := runIn(t, "lab", "run", "--show", "no-such-user.test")
	if code != 0 || errs != "" {
		t.Fatalf("it ends with %d:\n%s%s", code, errs, out)
	}
	for _, text := range []string{
		"what was said", "mx.no-such-user.test 1  server 220", "relay  EHLO relay.sender.test", "relay  (TLS) RCPT TO:<someone@no-such-user.test>", "server (TLS) 550 5.1.1 no such user",
		"what the relay logged", "status=bounced (550 5.1.1 no such user)",
		"what the sender got: Not delivered: your message to someone@no-such-user.test",
		"✓ 1 passed, 0 failed in ",
	} {
		if !strings.Contains(out, text) {
			t.Errorf("it does not show %q:\n%s", text, out)
		}
	}
}

// TestLabRunThatCannotStart says why, and leaves nothing behind.
func TestLabRunThatCannotStart(t *testing.T) {
	long := filepath.Join(shortTemp(t), strings.Repeat("x", 100))
	if err := os.Mkdir(long, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", long)
	code, out, errs := runIn(t, "lab", "run", "--only", "ok.test")
	if code != 1 || out != "" || !strings.Contains(errs, "admin.socket: the path of a Unix socket is at most") {
		t.Errorf("it ends with %d: %s%s", code, out, errs)
	}
	if left, err := os.ReadDir(long); err != nil || len(left) > 0 {
		t.Errorf("%v is left behind (%v)", left, err)
	}
	t.Setenv("TMPDIR", filepath.Join(long, "none"))
	if code, _, errs := runIn(t, "lab", "run"); code != 1 || !strings.Contains(errs, "no such file or directory") {
		t.Errorf("without a directory it ends with %d: %s", code, errs)
	}
}

// TestLabRunIsInterrupted ends a run in its middle: by the signal, not by a
// verdict, and nothing is left behind.
func TestLabRunIsInterrupted(t *testing.T) {
	shortTemp(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	s := lab.Scenario{
		Domain: "a.test", Title: "the user has had enough", Setup: func(w *lab.World) {
			w.AddMX(lab.MX{Name: "mx.a.test", Domains: []string{"a.test"}, Rules: []lab.Rule{{On: lab.Connect, Call: func() { cancel(interrupted{syscall.SIGTERM}) }, Then: lab.Stall}}})
		},
		Expect: lab.Expect{Outcome: lab.Delivered, TLS: lab.Trusted}, Why: "it is a test",
	}
	list, err := chosen([]lab.Scenario{s}, nil)
	if err != nil {
		t.Fatal(err)
	}
	out, err := labInProcess(t, ctx, labFlags{}, list)
	if code, why := exitOf(ctx, err, true); code != 143 || why.Error() != "terminated" || out != "" {
		t.Errorf("it ends with %d (%v) and says %q", code, why, out)
	}
	if left, err := os.ReadDir(os.TempDir()); err != nil || len(left) > 0 {
		t.Errorf("%v is left behind (%v)", left, err)
	}
}

func TestLabRunOnRealPorts(t *testing.T) {
	shortTemp(t)
	code, out, errs := runIn(t, "lab", "run", "--real-ports", "--only", "ok.test", "--only", "hijacked.test")
	if err := mayBind(); err != nil { // as an ordinary user: the command says what is missing
		if code != 1 || !strings.Contains(errs, err.Error()) {
			t.Errorf("it ends with %d: %s", code, errs)
		}
		return
	}
	if code != 0 || !strings.Contains(lastLine(out), "2 passed, 0 failed") {
		t.Errorf("it ends with %d:\n%s%s", code, errs, out)
	}
}

func TestLabDomains(t *testing.T) {
	code, out, errs := runIn(t, "lab", "domains")
	if code != 0 || errs != "" || !strings.HasPrefix(lastLine(out), strconv.Itoa(len(lab.Domains()))+" domains.") {
		t.Errorf("it ends with %d, %s: %s", code, errs, lastLine(out))
	}
	code, out, _ = runIn(t, "lab", "domains", "--json", "--only", "stale")
	lines := decodeLines[labLine](t, out)
	if code != 0 || len(lines) != 2 || lines[0].Domain != "stale.test" || lines[0].Theme != "Cached policies" || lines[0].Expected.Outcome != lab.Deferred || lines[0].Happened != nil {
		t.Errorf("%d: %s", code, out)
	}
}

// TestThemes: a theme is known by its first domain, so that each must be there,
// in this order.
func TestThemes(t *testing.T) {
	list, err := chosen(lab.Domains(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var got, want []string
	for _, tr := range list {
		if !slices.Contains(got, tr.theme) {
			got = append(got, tr.theme)
		}
	}
	for _, th := range themes {
		want = append(want, th.heading)
	}
	if !slices.Equal(got, want) {
		t.Errorf("the themes are %q, not %q", got, want)
	}
}

// say has a conversation with a host of the world, one line after the other.
func say(t *testing.T, w *lab.World, host *lab.MXHost, lines ...string) {
	t.Helper()
	conn, err := w.Dialer().DialContext(t.Context(), "tcp", host.Addr()+":25")
	if err != nil {
		t.Fatal(err)
	}
	c := textproto.NewConn(conn)
	defer c.Close()
	for _, line := range append([]string{""}, lines...) {
		if line != "" {
			if err := c.PrintfLine("%s", line); err != nil {
				t.Fatal(err)
			}
		}
		if _, _, err := c.ReadResponse(0); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLabRunFailsForWhatNoMessageShows: hosts complain of a client that breaks
// the rules, and the postmaster hears of bounces that are lost.
func TestLabRunFailsForWhatNoMessageShows(t *testing.T) {
	shortTemp(t)
	list, err := chosen([]lab.Scenario{{
		Domain: "a.test", Title: "the world has seen something", Why: "it is a test", Expect: lab.Expect{Outcome: lab.Delivered, TLS: lab.Trusted},
		Setup: func(w *lab.World) {
			say(t, w, w.AddMX(lab.MX{Name: "mx.a.test", Domains: []string{"a.test"}}), "BOGUS one")
			say(t, w, w.AddMX(lab.MX{Name: "mx.elsewhere.test"}), "BOGUS two")
			say(t, w, w.MX("mx."+labSender), "EHLO x.test", "MAIL FROM:<>", "RCPT TO:<postmaster@"+labSender+">", "DATA", "Subject: x\r\n\r\nlost\r\n.")
		},
	}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	out, err := labInProcess(t, t.Context(), labFlags{}, list)
	if code, _ := exitOf(t.Context(), err, true); code != 1 || !strings.HasPrefix(lastLine(out), "✗ 0 passed, 3 failed in ") {
		t.Errorf("it ends with %v, %q", err, lastLine(out))
	}
	for _, text := range []string{
		"\n✗  a.test ", "  problem    mx.a.test complains: connection 1: no such command: \"BOGUS one\"",
		"\n✗ mx.elsewhere.test complains: connection 1: no such command: \"BOGUS two\"\n",
		"\n✗ the postmaster was told of a bounce that could not be delivered\n",
	} {
		if !strings.Contains(out, text) {
			t.Errorf("it does not say %q:\n%s", text, out)
		}
	}
}

func TestLabOnANarrowTerminal(t *testing.T) {
	list, err := chosen(lab.Domains(), []string{"stale.test", "ok.test"})
	if err != nil {
		t.Fatal(err)
	}
	list[1].problems = []string{"it is a test"}
	var b strings.Builder
	printer{w: &b, width: 60}.labTable(list, true)
	want := `
Nothing stops the mail
✓ ok.test
     an enforce policy, and everything is in order
     policy, MX name and certificate agree (RFC 8461 §4)
     delivered, verified: as expected

Cached policies
✗ stale.test
     record and policy host vanish, and the certificate is
     replaced by a self-signed one
     a cached policy rules until it expires (RFC 8461 §3.3)
     deferred (certificate-not-trusted): not so
`
	if got := regexp.MustCompile(` +\n`).ReplaceAllString(b.String(), "\n"); got != want {
		t.Errorf("it shows\n%s", got)
	}
}
