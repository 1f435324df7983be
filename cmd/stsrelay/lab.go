package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"stsrelay/internal/lab"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
)

func newLab(g *globals) *cobra.Command {
	return group("lab", "A fake internet on this computer, and what this relay does on it", newLabRun(g), newLabServe(g), newLabDomains(g))
}

// labFlags are those of `lab run`.
type labFlags struct {
	only, show               []string
	keep, verbose, realPorts bool
}

func newLabRun(g *globals) *cobra.Command {
	var f labFlags
	cmd := &cobra.Command{
		Use: "run", Short: "Send a message to each domain of the lab, good ones and broken ones", Args: cobra.NoArgs,
		Long: `Send a message to each domain of a fake internet, through a real relay, and show
what was expected and what happened.

Everything is on loopback addresses of this computer: DNS, policy hosts with
HTTPS, mail servers, an authority for their certificates, and the relay with its
queue in a temporary directory. No rights, configuration or network are needed.

What happened is not what the relay says alone: mail servers must have the
message, octet for octet, or its queue, or the sender a bounce; and where a
policy refuses, no server may have been told of the recipient.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f.only = append(f.only, f.show...)
			list, err := chosen(lab.Domains(), f.only)
			if err != nil {
				return err
			}
			return runLab(cmd, g, f, list)
		},
	}
	fl := cmd.Flags()
	fl.StringArrayVar(&f.only, "only", nil, "this `DOMAIN` only, or those that begin so; repeatable")
	fl.StringArrayVar(&f.show, "show", nil, "this `DOMAIN` only, with the conversations, the log and the bounce; repeatable")
	fl.BoolVar(&f.keep, "keep", false, "keep the relay's directory, and say where it is")
	fl.BoolVarP(&f.verbose, "verbose", "v", false, "the relay's log on stderr")
	fl.BoolVar(&f.realPorts, "real-ports", false, "use ports 25, 53 and 443 of loopback addresses: needs rights")
	return cmd
}

func newLabDomains(g *globals) *cobra.Command {
	var only []string
	cmd := &cobra.Command{
		Use: "domains", Short: "List the domains of the lab and what must become of mail to them", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := chosen(lab.Domains(), only)
			if err != nil {
				return err
			}
			p := g.printer(cmd.OutOrStdout())
			if g.json {
				return p.labJSON(list, false)
			}
			p.labTable(list, false)
			_, err = fmt.Fprintf(p.w, "\n%s.   Send a message to each: stsrelay lab run\n", plural(len(list), "domain"))
			return err
		},
	}
	cmd.Flags().StringArrayVar(&only, "only", nil, "this `DOMAIN` only, or those that begin so; repeatable")
	return cmd
}

// themes are the headings of the list, each with the first domain below it.
var themes = []struct{ first, heading string }{
	{"ok.test", "Nothing stops the mail"},
	{"wrong-name.test", "Certificates"},
	{"no-starttls.test", "STARTTLS and TLS"},
	{"unlisted-mx.test", "Policies"},
	{"stale.test", "Cached policies"},
	{"implicit.test", "MX records and DNS"},
	{"dane.test", "DANE"},
	{"requiretls.test", "REQUIRETLS"},
	{"greylist.test", "What mail servers say"},
}

// chosen makes trials of the scenarios that are asked for: all of them, those
// of exactly such a domain, or else those that begin so.
func chosen(list []lab.Scenario, only []string) (out []*trial, err error) {
	want := make([]bool, len(list))
	for _, name := range only {
		name, found := strings.ToLower(name), false
		exact := slices.ContainsFunc(list, func(s lab.Scenario) bool { return s.Domain == name })
		for i, s := range list {
			if s.Domain == name || !exact && strings.HasPrefix(s.Domain, name) {
				want[i], found = true, true
			}
		}
		if !found {
			return nil, usagef("no domain of the lab begins with %q; see: stsrelay lab domains", name)
		}
	}
	theme := ""
	for i, s := range list {
		for _, t := range themes {
			if t.first == s.Domain {
				theme = t.heading
			}
		}
		if want[i] || len(only) == 0 {
			out = append(out, &trial{Scenario: s, theme: theme})
		}
	}
	return out, nil
}

func runLab(cmd *cobra.Command, g *globals, f labFlags, list []*trial) error {
	p, stderr := g.printer(cmd.OutOrStdout()), cmd.ErrOrStderr()
	setup := labSetup{realPorts: f.realPorts}
	for _, t := range list {
		setup.scenarios = append(setup.scenarios, t.Scenario)
	}
	bar := noBar
	switch {
	case f.verbose:
		setup.verbose = zerolog.ConsoleWriter{Out: stderr, TimeFormat: time.TimeOnly, NoColor: !g.printer(stderr).color}
	case isTerminal(stderr) && g.printer(stderr).color: // the bar moves the cursor
		bar = startBar(stderr, len(list))
	}
	began := time.Now()
	b, err := startLab(cmd.Context(), setup)
	if err != nil {
		bar.end()
		return err
	}
	b.tryAll(cmd.Context(), list, bar.step)
	reports, err := b.report(cmd.Context(), list)
	bar.end()
	faults := b.faults(list)
	if err != nil {
		faults = append(faults, err.Error())
	}
	if f.keep {
		if err := b.saveReports(list); err != nil {
			faults = append(faults, err.Error())
		}
	}
	logs := b.logs(list)
	if err := b.end(f.keep); err != nil {
		faults = append(faults, err.Error())
	}
	if f.keep {
		fmt.Fprintf(stderr, "stsrelay: configuration, queue, log and TLS reports of the relay are in %s\n", b.dir)
	}
	if err := cmd.Context().Err(); err != nil {
		return err
	}
	return p.labReport(labResult{list, faults, logs, reports, time.Since(began), len(f.show) > 0, b.world}, g.json, stderr)
}

// A labResult is a finished run.
type labResult struct {
	trials  []*trial
	faults  []string             // of the whole, not of one domain
	logs    map[*trial][]logLine // what the relay logged of each
	reports int                  // TLS reports that came
	took    time.Duration
	show    bool // tell all of each
	world   *lab.World
}

func (p printer) labReport(r labResult, asJSON bool, stderr io.Writer) error {
	failed := len(r.faults)
	for _, t := range r.trials {
		if len(t.problems) > 0 {
			failed++
		}
	}
	var err error
	if asJSON {
		err = p.labJSON(r.trials, true)
		for _, f := range r.faults {
			fmt.Fprintf(stderr, "stsrelay: %s\n", f)
		}
	} else {
		err = p.labText(r, failed)
	}
	if err == nil && failed > 0 {
		err = exitError{code: exitBad}
	}
	return err
}
