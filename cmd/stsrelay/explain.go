package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/internal/admin"
	"stsrelay/internal/app"
	"stsrelay/internal/check"
	"stsrelay/internal/config"
	"stsrelay/relay"

	"github.com/spf13/cobra"
)

func newExplain(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "explain ID|DOMAIN", Short: "Say why a message waits, or what mail to a domain meets, and look anew now",
		Long: `Say why a message waits, or what mail to a domain meets: what the daemon has seen, and what its mail servers show at
this moment. The daemon's configuration says which resolver is asked.`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: completeIDs(g),
		RunE: func(cmd *cobra.Command, args []string) error { return explain(cmd, g, args[0]) },
	}
}

func explain(cmd *cobra.Command, g *globals, what string) error {
	cfg, _, err := g.load()
	if err != nil {
		return err
	}
	f := relay.Filter{To: "@" + what}
	if !strings.Contains(what, ".") {
		f = relay.Filter{IDs: []relay.ID{relay.ID(what)}}
	}
	waiting, err := waitingFor(cmd, cfg, f)
	switch {
	case errors.Is(err, admin.ErrNoDaemon) && f.To != "": // what a domain shows needs no daemon
	case err != nil:
		return err
	case len(waiting) == 0 && f.To == "":
		return exitError{exitBad, fmt.Errorf("no message %s is queued: it was delivered, returned or deleted; the log knows it by this id", what)}
	}
	p := g.printer(cmd.OutOrStdout())
	domain := what
	if f.To == "" {
		domain = waiting[0].Destination
		for i, e := range waiting {
			showEntry(p, e, time.Now(), i > 0)
		}
	} else {
		fmt.Fprintf(p.w, "%s\n", waitingText(what, waiting, err))
	}
	hop, err := addr.ParseNextHop(domain)
	d, ok := hop.Domain()
	if err != nil || !ok {
		return nil // a fixed host is not to be looked up
	}
	return lookAnew(cmd, g, cfg, p, d)
}

func waitingFor(cmd *cobra.Command, cfg config.Config, f relay.Filter) (list []admin.QueueEntry, err error) {
	c := admin.NewClient(cfg.Admin.Socket)
	defer c.Close()
	for e, err := range c.Queue(cmd.Context(), f, 0) {
		if err != nil {
			return nil, err
		}
		list = append(list, e)
	}
	return list, nil
}

func waitingText(domain string, waiting []admin.QueueEntry, err error) string {
	switch n := len(waiting); {
	case err != nil:
		return "No daemon answers, so what waits for " + domain + " is not known."
	case n == 0:
		return "No mail to " + domain + " waits."
	default:
		return fmt.Sprintf("%s to %s in the queue: stsrelay queue list --to @%s\nThe first waits because: %s", plural(n, "message"), domain, domain, printable(because(waiting[0])))
	}
}

// lookAnew checks the domain as the daemon would see it.
func lookAnew(cmd *cobra.Command, g *globals, cfg config.Config, p printer, domain addr.Domain) error {
	o := app.CheckOptions{Hostname: cfg.Hostname.String(), DNS: cfg.DNS.Servers, Dialer: g.dialer, Roots: g.roots, Private: append(cfg.Network.AllowPrivate, g.private...)}
	if cfg.Delivery.RootsFile != "" {
		roots, err := config.LoadRoots(cfg.Delivery.RootsFile)
		if err != nil {
			return err
		}
		o.Roots = roots
	}
	c, end, err := app.NewChecker(cmd.Context(), o)
	if err != nil {
		return err
	}
	fmt.Fprintln(p.w, "\nWhat a sender meets there now:")
	out := checkOutput{job: checkJob{format: "text"}, g: g, w: p.w, single: true, as: o}
	err = checkAll(cmd.Context(), c, []addr.Domain{domain}, func(r check.Report) error { return out.show(r) })
	return errors.Join(err, end())
}
