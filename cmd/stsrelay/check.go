package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/internal/app"
	"stsrelay/internal/check"
	"stsrelay/stscache"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// A checkJob is what `check` was asked to do.
type checkJob struct {
	policy, as, resolver, list, format string
	servers                            []string
	noSMTP, strict                     bool
	watch                              time.Duration // look again after it; 0: once
	exitOnChange                       bool
}

func newCheck(g *globals) *cobra.Command {
	var j checkJob
	cmd := &cobra.Command{
		Use: "check DOMAIN...", Short: "Say what an enforcing sender would do with mail to a domain",
		Long: `Say what an enforcing sender would do with mail to a domain, by the code that sends. It looks at the
records, the policy and every mail server as a sender does, and never says MAIL. No daemon, no configuration.

Exit codes: 0 good; 1 an error was found, even where another mail server still works (with --strict: or a
warning); 3 could not tell, such as when port 25 is blocked here.`,
		Example: `  stsrelay check example.com
  stsrelay check example.com --policy mta-sts.txt --as enforce    # before it is published
  stsrelay check example.com --mx mx2.example.com=192.0.2.7       # a server that is not in DNS yet
  stsrelay check -f domains.txt --json`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error { return j.run(cmd, g, args) },
	}
	f := cmd.Flags()
	j.trialFlags(f)
	f.BoolVar(&j.noSMTP, "no-smtp", false, "contact no mail server")
	f.StringVarP(&j.list, "file", "f", "", "read domains from `LIST`, one in a line; - is standard input")
	f.StringVar(&j.format, "format", "text", "text, or nagios: one line and the exit code of a plugin")
	f.DurationVar(&j.watch, "watch", 0, "look again every `DURATION` and tell what has changed")
	f.BoolVar(&j.exitOnChange, "exit-on-change", false, "with --watch: end at the first change, with the exit code of what is then")
	f.BoolVar(&j.strict, "strict", false, "let warnings count as errors")
	return cmd
}

// trialFlags are those that say what is looked at: what is published, or what
// could be.
func (j *checkJob) trialFlags(f *pflag.FlagSet) {
	f.StringVar(&j.policy, "policy", "", "try the policy in `FILE` in place of the published one")
	f.StringVar(&j.as, "as", "", "take the policy to be in this `MODE`: enforce, testing, none")
	f.StringArrayVar(&j.servers, "mx", nil, "a mail server that is not in DNS yet, or elsewhere: `HOST=IP[:PORT]`; may be repeated")
	f.StringVar(&j.resolver, "resolver", "", "DNS server `IP[:PORT]` (default: /etc/resolv.conf)")
}

// checksAtOnce bounds how many domains are looked at at the same time.
const checksAtOnce = 32

func (j checkJob) run(cmd *cobra.Command, g *globals, args []string) error {
	domains, err := j.domains(cmd.InOrStdin(), args)
	if err != nil {
		return err
	}
	o, err := j.options(g, domains)
	if err != nil {
		return err
	}
	out, err := j.look(cmd.Context(), g, domains, o, cmd.OutOrStdout())
	if err != nil || j.watch == 0 {
		return errors.Join(err, out.end())
	}
	return j.watchOver(cmd.Context(), out, func() (*checkOutput, error) { return j.look(cmd.Context(), g, domains, o, io.Discard) })
}

// look checks every domain once, with no memory of an earlier look.
func (j checkJob) look(ctx context.Context, g *globals, domains []addr.Domain, o app.CheckOptions, w io.Writer) (*checkOutput, error) {
	out := &checkOutput{job: j, g: g, w: w, single: len(domains) == 1, as: o}
	checker, end, err := app.NewChecker(ctx, o)
	if err != nil {
		return out, err
	}
	return out, errors.Join(checkAll(ctx, checker, domains, out.show), end())
}

// watchOver looks again and again, and tells what is not as it was.
func (j checkJob) watchOver(ctx context.Context, last *checkOutput, look func() (*checkOutput, error)) error {
	tick := time.NewTicker(j.watch)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		now, err := look()
		if err != nil {
			return err
		}
		changed := false
		for i, s := range now.seen {
			if s != last.seen[i] {
				changed = true
				fmt.Fprintf(last.w, "%s  %s, was %s\n", time.Now().UTC().Format(time.RFC3339), s, last.seen[i].state)
			}
		}
		if changed && j.exitOnChange {
			return now.end()
		}
		last.seen = now.seen
	}
}

// checkAll checks domains and shows them in their order.
func checkAll(ctx context.Context, c *check.Checker, domains []addr.Domain, show func(check.Report) error) (err error) {
	slots := make(chan struct{}, checksAtOnce)
	reports := make([]chan check.Report, len(domains))
	var running sync.WaitGroup
	defer running.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for i := range reports {
		reports[i] = make(chan check.Report, 1)
	}
	running.Go(func() {
		for i, d := range domains {
			slots <- struct{}{}
			running.Go(func() {
				defer func() { <-slots }()
				reports[i] <- c.Check(ctx, d)
			})
		}
	})
	for _, r := range reports {
		report := <-r
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := show(report); err != nil {
			return err
		}
	}
	return nil
}

// maxList bounds a list of domains, in octets.
const maxList = 16 << 20

func (j checkJob) domains(stdin io.Reader, args []string) (list []addr.Domain, err error) {
	if j.list != "" {
		text, err := readInput(stdin, j.list, maxList)
		if err != nil {
			return nil, err
		}
		n := 0
		for line := range strings.Lines(string(text)) {
			n++
			line, _, _ = strings.Cut(line, "#")
			if line = strings.TrimSpace(line); line == "" {
				continue
			}
			d, err := addr.ParseDomain(line)
			if err != nil {
				return nil, usagef("%s:%d: %w", j.list, n, err)
			}
			list = append(list, d)
		}
	}
	for _, a := range args {
		if _, domain, ok := strings.Cut(a, "@"); ok { // an address will do
			a = domain
		}
		d, err := addr.ParseDomain(a)
		if err != nil {
			return nil, usagef("%w", err)
		}
		list = append(list, d)
	}
	if len(list) == 0 {
		return nil, usagef("name a domain, or a list of them with -f")
	}
	return list, nil
}

func (j checkJob) options(g *globals, domains []addr.Domain) (o app.CheckOptions, err error) {
	o = app.CheckOptions{NoSMTP: j.noSMTP, Mode: stscache.Mode(j.as), Dialer: g.dialer, Roots: g.roots, Private: g.private}
	switch {
	case j.format != "text" && j.format != "nagios":
		return o, usagef("--format: %q is not one of text, nagios", j.format)
	case j.as != "" && o.Mode != stscache.Enforce && o.Mode != stscache.Testing && o.Mode != stscache.None:
		return o, usagef("--as: %q is not one of enforce, testing, none", j.as)
	case j.watch < 0 || j.exitOnChange && j.watch == 0:
		return o, usagef("--exit-on-change needs --watch, and that a duration")
	case (j.policy != "" || len(j.servers) > 0) && len(domains) > 1:
		return o, usagef("--policy and --mx are for one domain")
	}
	if j.policy != "" {
		body, err := readInput(nil, j.policy, stscache.MaxPolicySize)
		if err != nil {
			return o, err
		}
		if o.Policy, _, err = stscache.ParsePolicy(body); err != nil {
			return o, fmt.Errorf("%s: %w; stsrelay policy lint %s says more", j.policy, err, j.policy)
		}
		o.For = domains[0]
	}
	if o.DNS, err = parseResolver(j.resolver); err != nil {
		return o, err
	}
	for _, s := range j.servers {
		server, err := parseServer(s)
		if err != nil {
			return o, err
		}
		o.Servers = append(o.Servers, server)
	}
	return o, nil
}

// parseServer reads HOST=IP[:PORT].
func parseServer(s string) (server check.Server, err error) {
	name, at, ok := strings.Cut(s, "=")
	if !ok {
		return server, usagef("--mx: %q is not of the form HOST=IP[:PORT]", s)
	}
	if server.Host, err = addr.ParseHost(name); err != nil {
		return server, usagef("--mx: %w", err)
	}
	if server.Addr, err = netip.ParseAddrPort(at); err == nil {
		return server, nil
	}
	ip, err := netip.ParseAddr(strings.Trim(at, "[]"))
	if err != nil {
		return server, usagef("--mx: %q is no IP address, with or without a port", at)
	}
	server.Addr = netip.AddrPortFrom(ip, 25)
	return server, nil
}

// A checkOutput shows reports and remembers how the command is to end.
type checkOutput struct {
	job    checkJob
	g      *globals
	w      io.Writer
	single bool
	as     app.CheckOptions

	verdicts map[check.Verdict]int
	seen     []sight // of each domain, in their order
	worst    int     // 0 good, 1 warnings, 2 errors
	unknown  bool
}

// A sight is what --watch compares.
type sight struct{ domain, state string }

func (s sight) String() string { return s.domain + ": " + s.state }

func sightOf(r check.Report) sight {
	state := string(r.Verdict)
	for _, f := range r.Findings {
		if f.Severity != stscache.SeverityInfo {
			state += " " + f.ID + "@" + f.Subject
		}
	}
	return sight{r.Domain.String(), state}
}

func (o *checkOutput) show(r check.Report) error {
	o.seen = append(o.seen, sightOf(r))
	if o.verdicts == nil {
		o.verdicts = map[check.Verdict]int{}
	}
	o.verdicts[r.Verdict]++
	switch {
	case r.Count(stscache.SeverityError) > 0 && !r.Blocked():
		o.worst = 2
	case r.Count(stscache.SeverityWarning) > 0:
		o.worst = max(o.worst, 1)
	}
	o.unknown = o.unknown || r.Verdict == check.Unknown && !o.job.noSMTP
	switch p := o.g.printer(o.w); {
	case o.g.json:
		return json.NewEncoder(o.w).Encode(checkDocument(r))
	case o.job.format == "nagios":
		return nagios(o.w, r)
	case o.single:
		return printCheck(p, r, o.as)
	default:
		return printCheckLine(p, r)
	}
}

func (o *checkOutput) end() error {
	if !o.single && !o.g.json && o.job.format == "text" {
		var parts []string
		for _, v := range []check.Verdict{check.Deliver, check.Partial, check.Refuse, check.NoMail, check.Unknown} {
			if n := o.verdicts[v]; n > 0 {
				parts = append(parts, strconv.Itoa(n)+" "+string(v))
			}
		}
		fmt.Fprintf(o.w, "\n%s\n", strings.Join(parts, ", "))
	}
	if o.job.format == "nagios" {
		return exitError{nagiosCode(o), nil}.orNil()
	}
	switch {
	case o.worst == 2, o.job.strict && o.worst == 1:
		return exitError{exitBad, nil}
	case o.unknown:
		return exitError{exitUnknown, nil}
	}
	return nil
}

// The exit codes of monitoring plugins: 0 ok, 1 warning, 2 critical, 3 unknown.
func nagiosCode(o *checkOutput) int {
	if o.unknown && o.worst < 2 {
		return 3
	}
	return o.worst
}

func nagios(w io.Writer, r check.Report) error {
	word := "OK"
	switch {
	case r.Count(stscache.SeverityError) > 0 && !r.Blocked():
		word = "CRITICAL"
	case r.Verdict == check.Unknown:
		word = "UNKNOWN"
	case r.Count(stscache.SeverityWarning) > 0:
		word = "WARNING"
	}
	_, err := fmt.Fprintf(w, "MTA-STS %s - %s: %s\n", word, r.Domain, checkHeadline(r))
	return err
}
