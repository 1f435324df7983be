package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/internal/app"
	"stsrelay/internal/check"
	"stsrelay/stscache"

	"github.com/spf13/cobra"
)

func newPolicyShow(g *globals) *cobra.Command {
	var server string
	cmd := &cobra.Command{
		Use: "show DOMAIN", Short: "Show the policy of a domain as a sender gets it now", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := lookPolicyUp(cmd, g, server, args[0])
			if err != nil {
				return err
			}
			if g.json {
				d := checkDocument(r)
				err = json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{"schema": "stsrelay.policy-show/v1", "domain": d.Domain, "sts": d.STS, "lines": r.Status.Lines})
			} else {
				err = g.printer(cmd.OutOrStdout()).policyShow(r)
			}
			if err != nil {
				return err
			}
			return policyExit(r)
		},
	}
	cmd.Flags().StringVar(&server, "resolver", "", "DNS server `IP[:PORT]` (default: /etc/resolv.conf)")
	return cmd
}

// lookPolicyUp discovers the policy of a domain anew.
func lookPolicyUp(cmd *cobra.Command, g *globals, server, name string) (r check.Report, err error) {
	domain, err := addr.ParseDomain(name)
	if err != nil {
		return r, usagef("%w", err)
	}
	o, err := checkJob{format: "text", noSMTP: true, resolver: server}.options(g, []addr.Domain{domain})
	if err != nil {
		return r, err
	}
	c, end, err := app.NewChecker(cmd.Context(), o)
	if err != nil {
		return r, err
	}
	r = c.Check(cmd.Context(), domain)
	return r, errors.Join(cmd.Context().Err(), end())
}

// policyExit is 1 where there is a record and no policy, 3 where neither could
// be looked up.
func policyExit(r check.Report) error {
	switch err := r.Status.Err; {
	case err == nil, errors.Is(err, stscache.ErrNoRecord):
		return nil
	case errors.Is(err, stscache.ErrLookup):
		return exitError{exitUnknown, nil}
	}
	return exitError{exitBad, nil}
}

func (p printer) policyShow(r check.Report) error {
	fmt.Fprintf(p.w, "Record  %s\n", printable(recordText(r.Record)))
	st := r.Status
	if st.Err != nil && !errors.Is(st.Err, stscache.ErrNoRecord) {
		fmt.Fprintf(p.w, "Fault   %s\n", printable(st.Err.Error()))
	}
	if st.Policy == nil && errors.Is(st.Err, stscache.ErrLookup) {
		_, err := fmt.Fprintln(p.w, "Policy  unknown: whether there is one could not be looked up")
		return err
	}
	if st.Policy == nil {
		_, err := fmt.Fprintln(p.w, "Policy  none: senders use TLS if it is offered")
		return err
	}
	fmt.Fprintf(p.w, "Policy  %s\n", stscache.PolicyURL(r.Domain))
	for _, line := range st.Lines {
		fmt.Fprintf(p.w, "          %s\n", printable(line))
	}
	_, err := fmt.Fprintf(p.w, "        in force until %s for a sender that fetched it now\n", st.Expires.UTC().Format("2006-01-02 15:04 MST"))
	return err
}

func newPolicyRetire(g *globals) *cobra.Command {
	var server, longest string
	cmd := &cobra.Command{
		Use: "retire DOMAIN", Short: "Say how to turn MTA-STS off safely, step by step, with dates",
		Long: `Say how to turn MTA-STS off safely, step by step, with dates. Senders keep a policy for its max_age: taking it
away without a word stops mail from those whose copy says enforce, when MX hosts change meanwhile.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := lookPolicyUp(cmd, g, server, args[0])
			if err != nil {
				return err
			}
			age, err := retireAge(r, longest)
			if err != nil {
				return err
			}
			return printRetire(cmd, g, r, age)
		},
	}
	cmd.Flags().StringVar(&server, "resolver", "", "DNS server `IP[:PORT]` (default: /etc/resolv.conf)")
	cmd.Flags().StringVar(&longest, "max-age", "", "the longest max_age that was ever published, such as 90d (default: that of today)")
	return cmd
}

// retireAge is how long a sender may hold a policy.
func retireAge(r check.Report, longest string) (age time.Duration, err error) {
	if r.Status.Policy != nil {
		age = r.Status.Policy.MaxAge
	}
	if longest != "" {
		given, err := newJob{mode: "none", maxAge: longest}.age()
		if err != nil {
			return 0, err
		}
		age = max(age, given)
	}
	if err := r.Status.Err; age == 0 && errors.Is(err, stscache.ErrLookup) {
		return 0, exitError{exitUnknown, fmt.Errorf("whether %s has a policy could not be looked up: %w", r.Domain, err)}
	}
	if age == 0 {
		return 0, fmt.Errorf("%s has no policy that senders could hold now; if it had one before, say how long with --max-age", r.Domain)
	}
	return age, nil
}

func printRetire(cmd *cobra.Command, g *globals, r check.Report, age time.Duration) error {
	none := stscache.Policy{Mode: stscache.None, MaxAge: defaultAges[stscache.None]}
	id, domain := stscache.NewID(r.At), r.Domain.String()
	end := r.At.Add(age)
	if g.json {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{"schema": "stsrelay.policy-retire/v1", "domain": domain, "policy": string(stscache.Compose(none)),
			"record": stscache.ComposeRecord(id), "held_until": end.UTC().Truncate(time.Second)})
	}
	w := cmd.OutOrStdout()
	fmt.Fprintf(w, "Senders may hold a policy of %s for up to %s: until %s.\n\n", domain, days(age), day(end))
	fmt.Fprintln(w, "Option 1: off within a day")
	fmt.Fprintf(w, "  1. Today, publish this over the old file at %s\n", stscache.PolicyURL(r.Domain))
	indent(w, string(stscache.Compose(none)))
	fmt.Fprintf(w, "  2. Then change the TXT record at _mta-sts.%s to\n", domain)
	indent(w, `"`+stscache.ComposeRecord(id)+`"`)
	fmt.Fprintln(w, "     Senders see the new id when they next send you mail, fetch the file, and drop what they held.")
	fmt.Fprintf(w, "  3. Leave file, record and the certificate of mta-sts.%s as they are until %s.\n     Those who did not send meanwhile hold the old policy until then, and keep to it.\n", domain, day(end))
	fmt.Fprintf(w, "  4. After %s, take away the record first, then the file and mta-sts.%s.\n\n", day(end), domain)
	fmt.Fprintln(w, "Option 2: slow, with one change only")
	fmt.Fprintf(w, "  1. Today, delete the TXT record at _mta-sts.%s, and leave the file.\n", domain)
	fmt.Fprintf(w, "  2. Until %s senders still keep to the policy that they hold: change no MX host that it does not name.\n", day(end))
	fmt.Fprintf(w, "  3. After %s, take away the file and mta-sts.%s.\n\n", day(end), domain)
	_, err := fmt.Fprintln(w, "If an earlier policy had a longer max_age, say so with --max-age. The record at _smtp._tls may stay: reports are useful without MTA-STS.")
	return err
}

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }
