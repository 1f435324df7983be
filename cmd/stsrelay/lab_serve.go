package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"stsrelay/internal/lab"

	"github.com/spf13/cobra"
)

// serveFlags are those of `lab serve`.
type serveFlags struct {
	dns, ca, report, zone string
	domains               []string
	realPorts             bool
	duration              time.Duration
}

func newLabServe(g *globals) *cobra.Command {
	var f serveFlags
	cmd := &cobra.Command{
		Use: "serve", Short: "Leave the lab up for another sender, and say what it did", Args: cobra.NoArgs,
		Long: `Leave the domains of the lab up, good ones and broken ones, so that any other mail
server or CI job on this computer can be tested against them: does it enforce
MTA-STS and DANE?

Have the sender under test use the DNS server and the authority that are printed,
send a message to each domain, and end this with Ctrl-C. It ends with 0 if all
domains that were tried were treated as an enforcing sender must, with 1 if one
was not, and with 3 if none was tried.

DNS can say where a server is, not on which port. Without --real-ports the sender
must be one that can be told the port of each host.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.realPorts && !cmd.Flags().Changed("dns") {
				f.dns = "127.0.0.1:53"
			}
			return serveLab(cmd.Context(), g.printer(cmd.OutOrStdout()), f)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.dns, "dns", "127.0.0.1:5353", "`ADDR` where the DNS server listens; with --real-ports it is 127.0.0.1:53 if not given")
	fl.StringVar(&f.ca, "ca", "lab-ca.pem", "write the certificate of the lab's authority to this `FILE`")
	fl.StringVar(&f.report, "report", "", "write what was seen to this `FILE`, as JSON")
	fl.StringVar(&f.zone, "zone", "", "a `FILE` that describes one more domain (TOML)")
	fl.StringSliceVar(&f.domains, "domains", nil, "these `DOMAINS` only, or those that begin so")
	fl.BoolVar(&f.realPorts, "real-ports", false, "use ports 25 and 443 of the addresses in DNS: needs rights")
	fl.DurationVar(&f.duration, "for", 0, "end by itself after this `DURATION`")
	return cmd
}

// unfit says why a sender that is not ours cannot be judged by a scenario, ""
// if it can.
func unfit(s lab.Scenario) string {
	switch {
	case s.Break != nil:
		return "needs a first message and a change after it"
	case s.Mail != lab.Mail{}:
		return "needs a message that asks for more or less TLS"
	case s.Expect.Reason == "forbidden-address":
		return "its MX host is not of the lab"
	case s.Expect.Reason == "sts-discovery-failed":
		return "the RFC leaves open what to do"
	}
	return ""
}

// servable picks the scenarios that are asked for and can be served. Those
// that cannot are an error only if nothing else was asked for.
func servable(list []*trial) (fit, left []*trial, err error) {
	for _, t := range list {
		if unfit(t.Scenario) == "" {
			fit = append(fit, t)
		} else {
			left = append(left, t)
		}
	}
	if len(fit) == 0 {
		return nil, nil, usagef("%s cannot be served: %s; see: stsrelay lab run --only %[1]s", left[0].Domain, unfit(left[0].Scenario))
	}
	return fit, left, nil
}

// serveLab serves until ctx or the time is over, and reports then.
func serveLab(ctx context.Context, p printer, f serveFlags) error {
	known := lab.Domains()
	if f.zone != "" {
		own, err := readZone(f.zone, known)
		if err != nil {
			return err
		}
		if own.Expect, err = dueTo(ctx, own); err != nil {
			return err
		}
		known = append(known, own)
	}
	all, err := chosen(known, f.domains)
	if err != nil {
		return err
	}
	list, left, err := servable(all)
	if err != nil {
		return err
	}
	w, err := startServing(f, list)
	if err != nil {
		return err
	}
	defer w.Close()
	if err := os.WriteFile(f.ca, w.RootsPEM(), 0o644); err != nil {
		return fmt.Errorf("--ca: %w", err)
	}
	if f.duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, f.duration)
		defer cancel()
	}
	if err := p.serving(w, f, list, left); err != nil {
		return err
	}
	began := time.Now()
	watch(ctx, w, list, p)
	return p.served(f, servedReport{
		Schema: "stsrelay.lab-serve/v1", Began: began, Ended: time.Now(),
		Domains: judgeAll(w, list), LeftOut: leftOut(left),
	})
}

// startServing starts a world with the scenarios and no relay.
func startServing(f serveFlags, list []*trial) (*lab.World, error) {
	if f.realPorts {
		if err := mayBind(); err != nil {
			return nil, err
		}
	}
	w, err := lab.Start(lab.Options{RealPorts: f.realPorts, DNSAddr: f.dns})
	if err != nil {
		return nil, err
	}
	err = spoken(func() {
		w.DNS.SetAD(".", true)                                                 // a resolver that validates says so of the root
		w.AddMX(lab.MX{Name: "mx." + labSender, Domains: []string{labSender}}) // bounces go there
		for _, t := range list {
			t.Setup(w)
		}
	})
	if err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

// dueTo finds out what must become of mail to a domain of one's own: this
// relay sends a message there, in a lab of its own.
func dueTo(ctx context.Context, s lab.Scenario) (due lab.Expect, err error) {
	b, err := startLab(ctx, labSetup{scenarios: []lab.Scenario{s}})
	if err != nil {
		return due, err
	}
	t := &trial{Scenario: s}
	b.try(ctx, t)
	if err := errors.Join(b.end(false), ctx.Err()); err != nil {
		return due, err
	}
	if t.got.Outcome == "" {
		return due, fmt.Errorf("what must become of mail to %s cannot be told: %s", s.Domain, strings.Join(t.problems, "; "))
	}
	return t.got, nil
}

// serving says how to point a sender at the lab, and what it must do.
func (p printer) serving(w *lab.World, f serveFlags, list, left []*trial) error {
	p.labTable(list, false)
	fmt.Fprintf(p.w, "\nLet the sender under test\n  ask this DNS server    %s (it answers as a resolver does that validates: it sets AD)\n", w.DNS.Addr())
	fmt.Fprintf(p.w, "  trust this authority   %s, and no other\n", f.ca)
	fmt.Fprintf(p.w, "  send a message to      someone@%s, and to the other domains above, from a sender such as test@%s\n", list[0].Domain, labSender)
	if !f.realPorts {
		fmt.Fprint(p.w, "\nThe servers are NOT on ports 25 and 443 of the addresses in DNS, but where this says.\nA sender that cannot be told so needs --real-ports.\n")
		listening(p.w, w)
	}
	var reasons []string
	names := map[string][]string{}
	for _, t := range left {
		why := unfit(t.Scenario)
		if names[why] == nil {
			reasons = append(reasons, why)
		}
		names[why] = append(names[why], t.Domain)
	}
	for _, why := range reasons {
		fmt.Fprintf(p.w, "\nLeft out (%s): %s\n", why, strings.Join(names[why], ", "))
	}
	_, err := fmt.Fprintf(p.w, "\nServing %s; Ctrl-C ends it and reports.\n\n", plural(len(list), "domain"))
	return err
}

// listening lists where the servers are.
func listening(out io.Writer, w *lab.World) {
	for _, h := range w.MXHosts() {
		fmt.Fprintf(out, "  %-40s %-18s -> %s\n", h.Name(), h.Addr()+":25", h.Listen())
	}
	for _, h := range w.Policies() {
		fmt.Fprintf(out, "  %-40s %-18s -> %s\n", h.Host(), h.Addr()+":443", h.Listen())
	}
	fmt.Fprintln(out)
}

func leftOut(list []*trial) map[string]string {
	why := map[string]string{}
	for _, t := range list {
		why[t.Domain] = unfit(t.Scenario)
	}
	return why
}

// ownerOf finds the domain that a name is of: the longest that it is in.
func ownerOf(list []*trial, name string) (owner *trial) {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	for _, t := range list {
		in := name == t.Domain || strings.HasSuffix(name, "."+t.Domain)
		if in && (owner == nil || len(t.Domain) > len(owner.Domain)) {
			owner = t
		}
	}
	return owner
}
