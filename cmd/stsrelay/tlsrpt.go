package main

import (
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"time"

	"stsrelay/internal/admin"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"
)

func newTLSRPT(g *globals) *cobra.Command {
	return group("tlsrpt", "Look at the TLS reports that we send, and send them now",
		newTLSRPTList(g), newTLSRPTShow(g), newTLSRPTSend(g))
}

func newTLSRPTList(g *globals) *cobra.Command {
	var day string
	cmd := &cobra.Command{
		Use: "list", Short: "List days, domains, sessions and where each report is", Args: cobra.NoArgs,
		RunE: g.withClient(func(cmd *cobra.Command, c *admin.Client, _ []string) error {
			p, seq := g.printer(cmd.OutOrStdout()), c.Reports(cmd.Context(), day)
			if g.json {
				return encodeLines(p.w, seq)
			}
			list, err := collect(seq)
			if err != nil {
				return err
			}
			return listReports(p, list, time.Now())
		}),
	}
	addDay(cmd, &day)
	return cmd
}

func newTLSRPTShow(g *globals) *cobra.Command {
	var day string
	cmd := &cobra.Command{
		Use: "show DOMAIN", Short: "Show the report about a domain as it is or would be sent", Args: cobra.ExactArgs(1),
		Long: `Show the report about a domain's day (the last one there is, or --day) as it is or
would be sent: the JSON of RFC 8460, Section 4.4. With --json each is one line,
with its state and destinations around it.`,
		RunE: g.withClient(func(cmd *cobra.Command, c *admin.Client, args []string) error {
			out, seq := cmd.OutOrStdout(), c.Report(cmd.Context(), args[0], day)
			if g.json {
				return encodeLines(out, seq)
			}
			for r, err := range seq {
				if err != nil {
					return err
				}
				if err := showReport(out, cmd.ErrOrStderr(), r); err != nil {
					return err
				}
			}
			return nil
		}),
	}
	addDay(cmd, &day)
	return cmd
}

func newTLSRPTSend(g *globals) *cobra.Command {
	var now bool
	var r admin.ReportRequest
	cmd := &cobra.Command{
		Use: "send --now [DOMAIN]", Short: "Send what is counted up to now, and wait for the outcome", Args: cobra.MaximumNArgs(1),
		Long: `Send what is counted up to this moment, today included, at once, and wait until
each destination was tried. What fails is tried again for a day, as always.
Sessions of the day that come later make a report of their own.

With --to a copy goes to these addresses instead, for a test: the sessions stay
counted, and each domain gets its report all the same.

The exit code is 0 when every report was accepted, or its domain wants none, and
1 when one was not.`,
		RunE: g.withClient(func(cmd *cobra.Command, c *admin.Client, args []string) error {
			if !now {
				return usagef("reports are sent by themselves after each day (UTC); to send them now, say --now")
			}
			if len(args) > 0 {
				r.Domain = args[0]
			}
			p := g.printer(cmd.OutOrStdout())
			list, err := collect(c.SendReports(cmd.Context(), r))
			switch {
			case err != nil:
				return err
			case g.json:
				err = encodeLines(p.w, each(list))
			default:
				err = listReports(p, list, time.Now())
			}
			if err == nil && !accepted(list) {
				err = exitError{code: exitBad}
			}
			return err
		}),
	}
	cmd.Flags().BoolVar(&now, "now", false, "do it")
	cmd.Flags().StringArrayVar(&r.To, "to", nil, "send a copy to this `RUA` instead: mailto:you@example.com or https://…; repeatable")
	addDay(cmd, &r.Day)
	return cmd
}

func addDay(cmd *cobra.Command, day *string) {
	cmd.Flags().StringVar(day, "day", "", "the day (UTC), as `YYYY-MM-DD`")
}

// accepted reports whether nothing is left to be done or to be worried about.
func accepted(list []admin.ReportEntry) bool {
	for _, r := range list {
		switch r.State {
		case "sent", "unwanted", "suppressed":
		default:
			return false
		}
	}
	return true
}

func encodeLines[T any](w io.Writer, seq iter.Seq2[T, error]) error {
	enc := json.NewEncoder(w)
	for v, err := range seq {
		if err == nil {
			err = enc.Encode(v)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func collect[T any](seq iter.Seq2[T, error]) (list []T, err error) {
	for v, err := range seq {
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, nil
}

func each[T any](list []T) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for _, v := range list {
			if !yield(v, nil) {
				return
			}
		}
	}
}

func listReports(p printer, list []admin.ReportEntry, now time.Time) error {
	if len(list) == 0 {
		_, err := fmt.Fprintln(p.w, "nothing is counted, and no report is on its way")
		return err
	}
	t := p.table("DAY", "DOMAIN", "GOOD", "FAILED", "STATE", "WHERE AND WHY")
	for _, r := range list {
		state := r.State
		if r.Copy {
			state += " (copy)"
		}
		where := r.Why
		if len(r.Parts) == 0 && !r.Next.IsZero() {
			where = joined(where, nextText(r.Next, now))
		}
		t.AppendRow(table.Row{r.Day, r.Domain, r.Successes, r.Failures, state, p.cut(where, 70)})
		for _, part := range r.Parts {
			text := part.RUA + ": " + part.State
			if part.Why != "" {
				text += ", " + part.Why
			}
			if !part.Next.IsZero() {
				text = joined(text, nextText(part.Next, now))
			}
			t.AppendRow(table.Row{"", "", "", "", "", p.cut(text, 100)})
		}
	}
	t.Render()
	_, err := fmt.Fprintf(p.w, "\n%s.   One as it is sent: stsrelay tlsrpt show DOMAIN\n", plural(len(list), "report"))
	return err
}

func joined(a, b string) string {
	if a == "" {
		return b
	}
	return a + "; " + b
}

func nextText(at, now time.Time) string {
	if !at.After(now) {
		return "due now"
	}
	return "next in " + age(at.Sub(now))
}

// showReport writes the report to out, and what is around it to about.
func showReport(out, about io.Writer, r admin.ReportShown) error {
	fmt.Fprintf(about, "%s %s: %s   %s\n", r.Day, r.Domain, r.State, r.FileName)
	for _, part := range r.Parts {
		fmt.Fprintf(about, "  %s: %s %s\n", printable(part.RUA), part.State, printable(part.Why))
	}
	text, err := json.MarshalIndent(r.Report, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s\n", text)
	return err
}
