package main

import (
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"

	"stsrelay/internal/admin"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"
)

func newCache(g *globals) *cobra.Command {
	return group("cache", "Look at cached MTA-STS policies and act on them",
		&cobra.Command{
			Use: "list", Short: "List cached policies", Args: cobra.NoArgs,
			RunE: g.withClient(func(cmd *cobra.Command, c *admin.Client, _ []string) error {
				p, seq := g.printer(cmd.OutOrStdout()), c.Policies(cmd.Context())
				if g.json {
					return encodeLines(p.w, seq)
				}
				return listPolicies(p, seq, time.Now())
			}),
		},
		g.policyCommand("show DOMAIN", "Show a domain's cached policy as it was served", func(cmd *cobra.Command, c *admin.Client, domain string) error {
			e, err := c.Policy(cmd.Context(), domain)
			if err != nil {
				return err
			}
			return g.printPolicy(cmd.OutOrStdout(), e)
		}),
		g.policyCommand("refresh DOMAIN", "Look for a newer policy now", func(cmd *cobra.Command, c *admin.Client, domain string) error {
			e, err := c.RefreshPolicy(cmd.Context(), domain)
			if err != nil {
				return err
			}
			return g.printPolicy(cmd.OutOrStdout(), e)
		}),
		g.policyCommand("purge DOMAIN", "Forget a policy; the next attempt discovers it anew", func(cmd *cobra.Command, c *admin.Client, domain string) error {
			if err := c.PurgePolicy(cmd.Context(), domain); err != nil {
				return err
			}
			if g.json {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]string{"schema": "stsrelay.cache-purge/v1", "domain": domain})
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s: policy forgotten\n", domain)
			return err
		}),
	)
}

// withClient is for what a command does with a daemon.
func (g *globals) withClient(do func(*cobra.Command, *admin.Client, []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		c, err := g.client()
		if err != nil {
			return err
		}
		return do(cmd, c, args)
	}
}

// policyCommand is a command about one domain of the cache.
func (g *globals) policyCommand(use, short string, do func(cmd *cobra.Command, c *admin.Client, domain string) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: cobra.ExactArgs(1), ValidArgsFunction: g.completeDomains,
		RunE: g.withClient(func(cmd *cobra.Command, c *admin.Client, args []string) error { return do(cmd, c, args[0]) }),
	}
}

// completeDomains offers cached domains to the shell.
func (g *globals) completeDomains(cmd *cobra.Command, args []string, prefix string) (list []cobra.Completion, _ cobra.ShellCompDirective) {
	c, err := g.client()
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	for e, err := range c.Policies(cmd.Context()) {
		if err != nil || len(list) == 100 {
			break
		}
		if strings.HasPrefix(e.Domain, prefix) {
			list = append(list, cobra.CompletionWithDesc(e.Domain, e.Mode))
		}
	}
	return list, cobra.ShellCompDirectiveNoFileComp
}

func listPolicies(p printer, seq iter.Seq2[admin.PolicyEntry, error], now time.Time) error {
	header := []string{"DOMAIN", "MODE", "ID", "FETCHED", "EXPIRES", "MX", "LAST FAILURE"}
	t, n := p.table(header...), 0
	for e, err := range seq {
		if err != nil {
			return err
		}
		row := table.Row{e.Domain, "-", p.cut(e.ID, 32), "-", "-", p.cut(strings.Join(e.MX, " "), 50), p.cut(e.Failure, 60)}
		if e.Mode != "" {
			row[1], row[3], row[4] = e.Mode, age(now.Sub(e.Fetched))+" ago", expires(e, now)
		}
		t.AppendRow(row)
		if n++; n%pageRows == 0 {
			t.Render()
			t = p.table(header...)
		}
	}
	if n == 0 {
		_, err := fmt.Fprintln(p.w, "no policy is cached")
		return err
	}
	if t.Length() > 0 {
		t.Render()
	}
	_, err := fmt.Fprintf(p.w, "\n%s.   One as it was served: stsrelay cache show DOMAIN\n", plural(n, "domain"))
	return err
}

func expires(e admin.PolicyEntry, now time.Time) string {
	if e.Expires.Before(now) {
		return "expired"
	}
	return "in " + age(e.Expires.Sub(now))
}

func (g *globals) printPolicy(w io.Writer, e admin.PolicyEntry) error {
	if g.json {
		return json.NewEncoder(w).Encode(e)
	}
	showPolicy(w, e, time.Now())
	return nil
}

func showPolicy(w io.Writer, e admin.PolicyEntry, now time.Time) {
	if e.Mode != "" {
		fmt.Fprintf(w, "%s  mode %s  id %s\nfetched %s (%s ago), expires %s (%s)\n", e.Domain, e.Mode, printable(e.ID),
			e.Fetched.Format(time.RFC3339), age(now.Sub(e.Fetched)), e.Expires.Format(time.RFC3339), expires(e, now))
		for _, l := range e.Lines {
			fmt.Fprintf(w, "  %s\n", printable(l))
		}
	} else {
		fmt.Fprintf(w, "%s  no policy has been fetched yet\n", e.Domain)
	}
	if e.Failures > 0 {
		fmt.Fprintf(w, "last fetch failed %s (%s in a row): %s\n", e.FailedAt.Format(time.RFC3339), plural(e.Failures, "failure"), printable(e.Failure))
	}
}
