package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"strings"

	"stsrelay/internal/addr"
	"stsrelay/internal/app"
	"stsrelay/internal/resolver"
	"stsrelay/stscache"

	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"
)

func newPolicy(g *globals) *cobra.Command {
	return group("policy", "Look at MTA-STS policies before and after they are published", newPolicyLint(g), newPolicyNew(g), newPolicyShow(g), newPolicyRetire(g))
}

// maxLint is how large a file may be that is looked at: larger than a policy, so
// that it is said to be too large in the words of lint.
const maxLint = 1 << 20

// A lintJob is what `policy lint` was asked to do.
type lintJob struct {
	domain   string
	resolver string
	format   string
	strict   bool
}

func newPolicyLint(g *globals) *cobra.Command {
	var j lintJob
	cmd := &cobra.Command{
		Use: "lint FILE|DOMAIN", Short: "Say everything that is wrong with a policy file, before it is published",
		Long: `Say everything that is wrong with a policy file, before it is published. FILE may be - for
standard input. Of a DOMAIN the policy that it serves is looked at. With --domain the MX records of the domain are looked up, for each must be named.

Exit codes: 0 no error (with --strict: and no warning); 1 senders would not obey the policy, or would
refuse mail by it; 3 the MX records could not be looked up.`,
		Example: "  stsrelay policy lint mta-sts.txt --domain example.com\n  stsrelay policy lint --format github mta-sts.txt     # annotations in CI",
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return j.run(cmd, g, args[0]) },
	}
	f := cmd.Flags()
	f.StringVar(&j.domain, "domain", "", "compare with the MX records of `DOMAIN`")
	f.StringVar(&j.resolver, "resolver", "", "DNS server `IP[:PORT]` (default: /etc/resolv.conf)")
	f.StringVar(&j.format, "format", "text", "text, or github for annotations")
	f.BoolVar(&j.strict, "strict", false, "let warnings count as errors")
	return cmd
}

func (j *lintJob) run(cmd *cobra.Command, g *globals, path string) error {
	if j.format != "text" && j.format != "github" {
		return usagef("--format: %q is not one of text, github", j.format)
	}
	body, err := j.read(cmd, g, path)
	if err != nil {
		return err
	}
	policy, found := stscache.LintPolicy(body)
	var unknown error // why the MX records could not be compared
	if j.domain != "" && policy != nil {
		domain, err := addr.ParseDomain(j.domain)
		if err != nil {
			return usagef("--domain: %w", err)
		}
		var hosts []addr.Host
		if hosts, unknown = mxHosts(cmd.Context(), j.resolver, domain); unknown == nil {
			found = append(found, stscache.LintHosts(policy, hosts)...)
		}
	}
	report := lintReport{path: path, lines: strings.Split(string(body), "\n"), found: found}
	switch {
	case g.json:
		err = report.json(cmd.OutOrStdout(), *j, unknown)
	case j.format == "github":
		err = report.github(cmd.OutOrStdout())
	default:
		err = report.text(g.printer(cmd.OutOrStdout()))
	}
	switch errs, warnings := report.count(stscache.SeverityError), report.count(stscache.SeverityWarning); {
	case err != nil:
		return err
	case errs > 0 || j.strict && warnings > 0:
		return exitError{exitBad, nil}
	case unknown != nil:
		return exitError{exitUnknown, unknown}
	}
	return nil
}

// read gets a policy from a file, or as a domain serves it: then its MX records
// are compared too.
func (j *lintJob) read(cmd *cobra.Command, g *globals, path string) ([]byte, error) {
	body, err := readInput(cmd.InOrStdin(), path, maxLint)
	name := strings.TrimSuffix(strings.TrimPrefix(path, "https://mta-sts."), "/.well-known/mta-sts.txt")
	domain, fault := addr.ParseDomain(name)
	if !errors.Is(err, fs.ErrNotExist) || fault != nil || !strings.Contains(name, ".") || strings.HasSuffix(name, ".txt") {
		return body, err
	}
	o, err := checkJob{format: "text", resolver: j.resolver}.options(g, []addr.Domain{domain})
	if err != nil {
		return nil, err
	}
	if j.domain == "" {
		j.domain = domain.String()
	}
	if body, err = app.FetchPolicy(cmd.Context(), o, domain); err != nil {
		return nil, fmt.Errorf("%s: %w", stscache.PolicyURL(domain), err)
	}
	return body, nil
}

// readInput reads a file, or standard input for -, that may have so many octets.
func readInput(stdin io.Reader, path string, most int64) ([]byte, error) {
	in := stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, most+1))
	if int64(len(b)) > most {
		return nil, fmt.Errorf("%s has more than %d octets", path, most)
	}
	return b, err
}

// newToolResolver is the resolver of commands that need no configuration.
func newToolResolver(server string) (*resolver.Client, error) {
	servers, err := parseResolver(server)
	if err != nil {
		return nil, err
	}
	return resolver.New(resolver.Options{Servers: servers})
}

// parseResolver reads IP[:PORT]; none is resolv.conf.
func parseResolver(s string) ([]netip.AddrPort, error) {
	if s == "" {
		return nil, nil
	}
	if at, err := netip.ParseAddrPort(s); err == nil {
		return []netip.AddrPort{at}, nil
	}
	ip, err := netip.ParseAddr(s)
	if err != nil {
		return nil, usagef("--resolver: %q is no IP address, with or without a port", s)
	}
	return []netip.AddrPort{netip.AddrPortFrom(ip, 53)}, nil
}

// A lintReport shows problems as compilers do.
type lintReport struct {
	path  string
	lines []string
	found []stscache.Problem
}

func (r lintReport) count(s stscache.Severity) (n int) {
	for _, p := range r.found {
		if p.Severity == s {
			n++
		}
	}
	return n
}

func (r lintReport) name() string {
	if r.path == "-" {
		return "stdin"
	}
	return r.path
}

func (r lintReport) text(p printer) error {
	colors := map[stscache.Severity]text.Color{stscache.SeverityError: text.FgRed, stscache.SeverityWarning: text.FgYellow, stscache.SeverityInfo: text.FgCyan}
	for _, q := range r.found {
		place := r.name()
		if q.Line > 0 {
			place = fmt.Sprintf("%s:%d:%d", place, q.Line, max(1, q.Column))
		}
		fmt.Fprintf(p.w, "%s: %s: %s   [%s]\n", place, p.paint(colors[q.Severity], string(q.Severity)), printable(q.Text), q.ID)
		r.source(p, q)
		if q.Hint != "" {
			fmt.Fprintf(p.w, "      %s\n", q.Hint)
		}
	}
	_, err := fmt.Fprintln(p.w, r.summary())
	return err
}

// maxSource is how much of a line is shown.
const maxSource = 200

// source shows the line with what is meant underlined.
func (r lintReport) source(p printer, q stscache.Problem) {
	if q.Line == 0 {
		return
	}
	line := strings.TrimSuffix(r.lines[q.Line-1], "\r")
	line = line[:min(len(line), maxSource)]
	fmt.Fprintf(p.w, "%5d | %s\n", q.Line, printable(line))
	if q.Column == 0 || q.Width == 0 || q.Column > len(line) {
		return
	}
	before, under := line[:q.Column-1], line[q.Column-1:min(len(line), q.Column-1+q.Width)]
	fmt.Fprintf(p.w, "      | %s%s\n", strings.Repeat(" ", text.StringWidth(printable(before))), strings.Repeat("^", max(1, text.StringWidth(printable(under)))))
}

func (r lintReport) summary() string {
	errs, warnings := r.count(stscache.SeverityError), r.count(stscache.SeverityWarning)
	if errs+warnings == 0 {
		return r.name() + ": ok"
	}
	return plural(errs, "error") + ", " + plural(warnings, "warning")
}

// github writes workflow commands, which that service shows beside the line.
func (r lintReport) github(w io.Writer) error {
	escape := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A")
	inside := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C")
	for _, q := range r.found {
		level := string(q.Severity)
		if q.Severity == stscache.SeverityInfo {
			level = "notice"
		}
		message := q.Text
		if q.Hint != "" {
			message += ". " + q.Hint
		}
		fmt.Fprintf(w, "::%s file=%s,line=%d,col=%d,title=%s::%s\n", level, inside.Replace(r.path), max(1, q.Line), max(1, q.Column), q.ID, escape.Replace(message))
	}
	_, err := fmt.Fprintln(w, r.summary())
	return err
}

// A lintJSON is `policy lint --json`.
type lintJSON struct {
	Schema        string        `json:"schema"`
	File          string        `json:"file"`
	Domain        string        `json:"domain,omitempty"`
	OK            bool          `json:"ok"`
	Findings      []lintFinding `json:"findings"`
	Indeterminate string        `json:"indeterminate,omitempty"` // why the MX records could not be compared
}

type lintFinding struct {
	ID       string `json:"id"`
	Severity string `json:"severity"`
	Line     int    `json:"line,omitempty"`
	Column   int    `json:"column,omitempty"`
	Message  string `json:"message"`
	Fix      string `json:"fix,omitempty"`
	RFC      string `json:"rfc,omitempty"`
}

func (r lintReport) json(w io.Writer, j lintJob, unknown error) error {
	out := lintJSON{Schema: "stsrelay.policy-lint/v1", File: r.path, Domain: j.domain, OK: r.count(stscache.SeverityError) == 0, Findings: []lintFinding{}}
	if unknown != nil {
		out.Indeterminate = unknown.Error()
	}
	for _, q := range r.found {
		out.Findings = append(out.Findings, lintFinding{q.ID, string(q.Severity), q.Line, q.Column, q.Text, q.Hint, q.RFC})
	}
	return json.NewEncoder(w).Encode(out)
}
