package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"stsrelay/internal/config"
	"stsrelay/relay"

	"github.com/spf13/cobra"
)

func newQueue(g *globals) *cobra.Command {
	return group("queue", "Look at queued mail and act on it",
		newQueueList(g),
		newQueueShow(g),
		newQueueVerb(g, relay.VerbRetry, "Make messages due at once; destinations that back off are tried again"),
		newQueueVerb(g, relay.VerbHold, "Keep messages from being tried until they are released"),
		newQueueVerb(g, relay.VerbRelease, "Undo hold; the messages are due at once"),
		newQueueVerb(g, relay.VerbDelete, "Delete messages without telling the sender"),
		newQueueVerb(g, relay.VerbBounce, "Return messages to their senders now"),
	)
}

// filterFlags are shared by all queue commands.
type filterFlags struct {
	ids                                         []string
	to, from, older, state, reason, destination string
	all                                         bool
}

func (f *filterFlags) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringSliceVar(&f.ids, "id", nil, "queue `ID`s")
	fl.StringVar(&f.to, "to", "", "recipient: user@domain or @domain")
	fl.StringVar(&f.from, "from", "", "sender: user@domain, @domain, or <> for bounces")
	fl.StringVar(&f.older, "older", "", "older than, like 1h or 2d")
	fl.StringVar(&f.state, "state", "", "active, deferred or hold")
	fl.StringVar(&f.reason, "reason-code", "", "reason of the last attempt, like mx-not-listed")
	fl.StringVar(&f.destination, "destination", "", "next hop, as queue show tells it")
	fl.BoolVar(&f.all, "all", false, "every message")
}

// filter checks the flags; queue IDs may also stand as arguments.
func (f *filterFlags) filter(args []string) (r relay.Filter, err error) {
	for _, id := range slices.Concat(f.ids, args) {
		r.IDs = append(r.IDs, relay.ID(id))
	}
	r.To, r.From, r.Reason, r.Destination = f.to, f.from, f.reason, relay.Destination(f.destination)
	if f.older != "" {
		var d config.Duration
		if err := d.UnmarshalText([]byte(f.older)); err != nil {
			return r, usagef("--older: %w", err)
		}
		r.Older = d.Duration
	}
	switch s := relay.State(f.state); s {
	case "", relay.StateActive, relay.StateDeferred, relay.StateHeld:
		r.State = s
	default:
		return r, usagef("--state: %q is not one of active, deferred, hold", f.state)
	}
	if f.all && !f.empty(args) {
		return r, usagef("--all means every message; leave it out, or the other filters")
	}
	return r, nil
}

func (f *filterFlags) empty(args []string) bool {
	return len(f.ids)+len(args) == 0 && f.to+f.from+f.older+f.state+f.reason+f.destination == ""
}

// did is what an action has done, in a word.
var did = map[relay.Verb]string{relay.VerbRetry: "due now", relay.VerbHold: "held", relay.VerbRelease: "released",
	relay.VerbDelete: "deleted", relay.VerbBounce: "to be returned to the sender"}

func newQueueVerb(g *globals, verb relay.Verb, short string) *cobra.Command {
	var f filterFlags
	a := relay.Action{Verb: verb}
	cmd := &cobra.Command{
		Use: string(verb) + " [ID...]", Short: short, Args: cobra.ArbitraryArgs, ValidArgsFunction: completeIDs(g),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.empty(args) && !f.all {
				return usagef("say which messages: queue ids, --to, --from, --older, --state, --reason-code, --destination, or --all")
			}
			filter, err := f.filter(args)
			if err != nil {
				return err
			}
			return editQueue(cmd, g, filter, a)
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&a.Reason, "reason", "", "why, for the log and for queue list")
	cmd.Flags().BoolVar(&a.DryRun, "dry-run", false, "count only")
	return cmd
}

func editQueue(cmd *cobra.Command, g *globals, f relay.Filter, a relay.Action) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	done, err := c.Edit(cmd.Context(), f, a)
	if err != nil {
		return err
	}
	if g.json {
		err = json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{"schema": "stsrelay.queue-edit/v1", "action": a.Verb, "count": done.Count, "dry_run": a.DryRun})
	} else {
		would := ""
		if a.DryRun {
			would = "would be "
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s %s%s\n", plural(done.Count, "message"), would, did[a.Verb])
	}
	if err == nil && done.Count == 0 && len(f.IDs) > 0 {
		return exitError{exitBad, errors.New("no queued message matches; see what is there with: stsrelay queue list")}
	}
	return err
}
