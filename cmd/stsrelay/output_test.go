package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"stsrelay/internal/admin"
	"stsrelay/internal/config"

	"github.com/google/go-cmp/cmp"
)

func TestDurationsAndSizesForPeople(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 999 * time.Millisecond: "0s", time.Second: "1s", 59 * time.Second: "59s", 90 * time.Second: "1m",
		time.Hour: "1h0m", 3*time.Hour + 12*time.Minute: "3h12m", 24 * time.Hour: "1d0h", 26 * time.Hour: "1d2h",
	} {
		if got := age(d); got != want {
			t.Errorf("%s is %q, not %q", d, got, want)
		}
	}
	for n, want := range map[int64]string{
		0: "0B", 1023: "1023B", 1024: "1K", 1535: "1K", 1537: "2K", 14 << 10: "14K", 1<<20 - 1: "1.0M", 1 << 20: "1.0M", 3<<20 + 200<<10: "3.2M",
		1<<30 - 1: "1.0G", 3 << 29: "1.5G",
	} {
		if got := size(n); got != want {
			t.Errorf("%d octets are %q, not %q", n, got, want)
		}
	}
	for n, want := range map[int]string{0: "0 policies", 1: "1 policy", 2: "2 policies"} {
		if got := plural(n, "policy"); got != want {
			t.Errorf("%d is %q, not %q", n, got, want)
		}
	}
}

// TestForeignTextDoesNotSteerTheTerminal: what servers reply is shown, and they
// may be anybody.
func TestForeignTextDoesNotSteerTheTerminal(t *testing.T) {
	p := printer{}
	for s, want := range map[string]string{
		"550 no\r\nsuch user": "550 no such user",
		"\x1b]0;x\a\x1b[2J":   "?]0;x??[2J",
		"grüße":               "grüße",
		"\u202egnp.exe":       "?gnp.exe",
		"0123456789abcdefgh":  "0123456789abcde…",
	} {
		if got := p.cut(s, 16); got != want {
			t.Errorf("%q is shown as %q, not %q", s, got, want)
		}
	}
	if got := (printer{ascii: true}).cut("0123456789abc", 10); got != "0123456..." {
		t.Errorf("in ASCII it is %q", got)
	}
}

func TestColourIsForTerminalsAndThoseWhoAsk(t *testing.T) {
	for _, row := range []struct {
		flag, noColor string
		want          bool
	}{{"auto", "", false}, {"never", "", false}, {"always", "", true}, {"always", "1", true}} {
		t.Setenv("NO_COLOR", row.noColor)
		g := globals{color: row.flag}
		if p := g.printer(&strings.Builder{}); p.color != row.want || strings.Contains(p.mark(true), "\x1b[32m") != row.want {
			t.Errorf("--color %s with NO_COLOR=%q: %q", row.flag, row.noColor, p.mark(true))
		}
	}
}

func TestMarksAreASCIIWhereTheLocaleIs(t *testing.T) {
	for _, row := range []struct {
		all, ctype, lang string
		ascii            bool
	}{
		{"", "", "", false}, {"", "", "de_DE.UTF-8", false}, {"", "", "C.utf8", false}, {"", "", "C", true},
		{"C", "", "de_DE.UTF-8", true}, {"", "POSIX", "de_DE.UTF-8", true}, {"en_US.UTF-8", "C", "C", false},
	} {
		t.Setenv("LC_ALL", row.all)
		t.Setenv("LC_CTYPE", row.ctype)
		t.Setenv("LANG", row.lang)
		p := (&globals{color: "never"}).printer(&strings.Builder{})
		if got, want := p.mark(true)+p.mark(false), map[bool]string{true: "ok  FAIL", false: "✓✗"}[row.ascii]; got != want {
			t.Errorf("%+v: the marks are %q", row, got)
		}
	}
}

func TestExitCodes(t *testing.T) {
	alive := t.Context()
	ended := func(cause error) context.Context {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(cause)
		return ctx
	}
	plain := errors.New("it broke")
	for _, row := range []struct {
		name    string
		ctx     context.Context
		err     error
		started bool
		code    int
		text    string
	}{
		{"cobra refuses", alive, plain, false, 2, "stsrelay: it broke\n"},
		{"we refuse", alive, usagef("no %s", "way"), true, 2, "stsrelay: no way\n"},
		{"it went wrong", alive, plain, true, 1, "stsrelay: it broke\n"},
		{"what was asked for is not there", alive, fmt.Errorf("%w: x", admin.ErrNotFound), true, 1, "stsrelay: not found: x\n"},
		{"no daemon", alive, fmt.Errorf("%w at x", admin.ErrNoDaemon), true, 3, "stsrelay: no daemon answers at x\n"},
		{"bad, and told already", alive, exitError{code: 1}, true, 1, ""},
		{"Ctrl-C", ended(interrupted{syscall.SIGINT}), context.Canceled, true, 130, "stsrelay: interrupt\n"},
		{"SIGTERM", ended(interrupted{syscall.SIGTERM}), plain, true, 143, "stsrelay: terminated\n"},
		{"cancelled by a caller", ended(nil), context.Canceled, true, 130, "stsrelay: interrupt\n"},
		{"a verdict stands, signal or not", ended(interrupted{syscall.SIGINT}), exitError{code: 1}, true, 1, ""},
		{"problems of a file are lines of their own", alive, exitError{78, &config.Problems{File: "c.toml", List: []config.Problem{{Line: 3, Column: 1, Key: "a", Text: "b"}}}}, true, 78,
			"c.toml:3:1: a: b\nstsrelay: 1 problem in the configuration\n"},
	} {
		t.Run(row.name, func(t *testing.T) {
			code, err := exitOf(row.ctx, row.err, row.started)
			var b strings.Builder
			tell(&b, err)
			if code != row.code || b.String() != row.text {
				t.Errorf("it ends with %d and %q, not %d and %q", code, b.String(), row.code, row.text)
			}
		})
	}
}

// TestConfigShowIsAFile: what is shown says the same when it is read again.
func TestConfigShowIsAFile(t *testing.T) {
	for _, text := range []string{
		`hostname = "relay.example.com"`,
		`hostname = "relay.example.com"
postmaster = "postmaster@example.com"
[[listener]]
name = "a \"quoted\" <name>"
max_message_size = "100KiB"
allow_from = []
[[listener]]
name = "b"
address = "unix:/run/b.sock"
[network]
allow_private = ["127.0.0.0/8", "fd00::/8"]
[dns]
servers = ["127.0.0.1:53", "[::1]:53"]
[queue]
bounce_via = "smtp://127.0.0.1:25"
[delivery]
bind = ["192.0.2.1"]
ip_families = ["ipv4"]
`,
	} {
		c, err := config.Parse("c.toml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		shown := tomlOf(settings(c))
		again, err := config.Parse("shown.toml", []byte(shown))
		if err != nil {
			t.Fatalf("%v in\n%s", err, shown)
		}
		if diff := cmp.Diff(tomlOf(settings(again)), shown); diff != "" || fmt.Sprintf("%+v", c) != fmt.Sprintf("%+v", again) {
			t.Errorf("it is another one:\n%+v\n%+v", c, again)
		}
	}
}
