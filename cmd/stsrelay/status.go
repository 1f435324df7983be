package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"stsrelay/internal/admin"

	"github.com/spf13/cobra"
)

// The daemon answers these questions from memory; one that needs longer has a
// problem.
const statusTimeout = 10 * time.Second

// watchEvery is how often `status --watch` looks.
const watchEvery = 2 * time.Second

func newStatus(g *globals) *cobra.Command {
	watch := false
	cmd := &cobra.Command{
		Use: "status", Short: "Show how the daemon is; exit 1 when it takes no mail", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := g.client()
			if err != nil {
				return err
			}
			if watch {
				return watchStatus(cmd, g, c)
			}
			s, err := askStatus(cmd.Context(), c)
			if err != nil {
				return err
			}
			if err := g.printStatus(cmd.OutOrStdout(), s); err != nil {
				return err
			}
			if !s.Healthy {
				return exitError{code: exitBad}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&watch, "watch", false, "look again every two seconds, until interrupted")
	return cmd
}

func newHealthcheck(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "healthcheck", Short: "Exit 0 when the daemon can accept and store mail, else 1", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := g.client()
			if err != nil {
				return err
			}
			s, err := askStatus(cmd.Context(), c)
			if err != nil {
				return exitError{exitBad, err} // a daemon that is not there is not healthy: what Docker wants to hear
			}
			if !s.Healthy {
				return exitError{exitBad, errors.New(strings.Join(s.Warnings, "; "))}
			}
			return nil
		},
	}
}

func askStatus(ctx context.Context, c *admin.Client) (admin.Status, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, statusTimeout, fmt.Errorf("the daemon did not answer within %s", statusTimeout))
	defer cancel()
	return c.Status(ctx)
}

func (g *globals) printStatus(w io.Writer, s admin.Status) error {
	if g.json {
		return json.NewEncoder(w).Encode(s)
	}
	showStatus(g.printer(w), s, time.Now())
	return nil
}

// watchStatus looks again and again. A daemon that is away for a while, as at a
// restart, does not end it.
func watchStatus(cmd *cobra.Command, g *globals, c *admin.Client) error {
	out := cmd.OutOrStdout()
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		s, err := askStatus(cmd.Context(), c)
		if cmd.Context().Err() != nil {
			return cmd.Context().Err()
		}
		if isTerminal(out) && !g.json {
			fmt.Fprint(out, "\x1b[H\x1b[2J") // home, and clear the screen
		}
		if err != nil {
			tell(cmd.ErrOrStderr(), err)
		} else if err := g.printStatus(out, s); err != nil {
			return err
		}
		select {
		case <-cmd.Context().Done():
			return cmd.Context().Err()
		case <-tick.C:
		}
	}
}

// mostDestinations bounds what `status` tells of destinations.
const mostDestinations = 10

func showStatus(p printer, s admin.Status, now time.Time) {
	line := func(name, format string, args ...any) {
		fmt.Fprintf(p.w, " %-12s %s\n", name, printable(fmt.Sprintf(format, args...)))
	}
	fmt.Fprintf(p.w, "stsrelay %s   %s   running %s   config %s\n", s.Version, s.Hostname, age(now.Sub(s.Started)), s.Config)
	state := "accepting mail"
	if !s.Healthy {
		state = "not accepting mail"
	}
	fmt.Fprintf(p.w, " %-12s %s %s\n", "Health", p.mark(s.Healthy), state)
	queue := fmt.Sprintf("%d active, %d deferred, %d held", s.Queue.Active, s.Queue.Deferred, s.Queue.Held)
	if s.Queue.Active+s.Queue.Deferred+s.Queue.Held > 0 {
		queue += fmt.Sprintf("   %s, oldest %s", size(s.Queue.Bytes), age(time.Duration(s.Queue.OldestSeconds*float64(time.Second))))
	}
	line("Queue", "%s", queue)
	line("Since start", "%d accepted   %d sent   %d deferred   %d bounced   %d refused", s.Counters["accepted"], s.Counters["sent"], s.Counters["deferred"], s.Counters["bounced"], s.Counters["refused"])
	if s.Enforcement != "on" {
		line("Enforcement", "%s: nothing is refused", s.Enforcement)
	}
	policies := 0
	for _, n := range s.Policies {
		policies += n
	}
	line("Policies", "%d cached (%d enforce, %d testing, %d none)", policies, s.Policies["enforce"], s.Policies["testing"], s.Policies["none"])
	line("TLS reports", "%s", reportsText(s.Reports, now))
	line("DNSSEC", "%s", dnssecText(s.DNSSEC, now))
	line("Listeners", "%s", strings.Join(s.Listeners, "   "))
	for i, d := range s.Destinations {
		name := ""
		if i == 0 {
			name = "Waiting for"
		}
		if i == mostDestinations {
			line("", "and %s more: stsrelay queue list --by domain", plural(len(s.Destinations)-i, "destination"))
			break
		}
		when := "due now"
		if d.Next.After(now) {
			when = "next try in " + age(d.Next.Sub(now))
		}
		line(name, "%s: %s, %s (%s)", d.Name, d.Reason, when, p.cut(d.Text, 70))
	}
	for i, w := range s.Warnings {
		line(map[bool]string{true: "Warnings"}[i == 0], "%s", w)
	}
}

// reportsText is how sending TLS reports goes.
func reportsText(r admin.ReportStatus, now time.Time) string {
	if r.Idle != "" {
		return "not sent: " + r.Idle
	}
	var parts []string
	for _, state := range slices.Sorted(maps.Keys(r.States)) {
		parts = append(parts, fmt.Sprintf("%d %s", r.States[state], state))
	}
	if len(parts) == 0 {
		parts = append(parts, "none about yesterday and today yet")
	}
	if !r.LastRun.IsZero() {
		parts = append(parts, "last tried "+age(now.Sub(r.LastRun))+" ago")
	}
	return strings.Join(parts, ", ")
}

// dnssecText is whether DNS answers are validated, and what follows for DANE.
func dnssecText(d admin.DNSSECStatus, now time.Time) string {
	var s string
	switch {
	case d.Tested.IsZero():
		return "self-test under way"
	case d.Since.IsZero():
		s = "unknown"
	case d.Validating:
		s = "validated for " + age(now.Sub(d.Since))
	default:
		s = "not validated for " + age(now.Sub(d.Since))
	}
	switch {
	case !d.DANE:
		s += ", DANE off"
	case !d.Validating:
		s += ", DANE on by trust_ad"
	}
	s += fmt.Sprintf(", %s known", plural(d.TLSAHosts, "TLSA host"))
	if d.Error != "" {
		s += " (" + d.Error + ")"
	}
	return s
}
