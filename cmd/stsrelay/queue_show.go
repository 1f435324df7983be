package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"stsrelay/internal/admin"
	"stsrelay/relay"

	"github.com/spf13/cobra"
)

func newQueueShow(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "show ID", Short: "Show one queued message, its attempts and why it waits", Args: cobra.ExactArgs(1), ValidArgsFunction: completeIDs(g),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := g.client()
			if err != nil {
				return err
			}
			p := g.printer(cmd.OutOrStdout())
			found := false
			for e, err := range c.Queue(cmd.Context(), relay.Filter{IDs: []relay.ID{relay.ID(args[0])}}, 0) {
				if err != nil {
					return err
				}
				if g.json {
					if err := json.NewEncoder(p.w).Encode(e); err != nil {
						return err
					}
				} else {
					showEntry(p, e, time.Now(), found)
				}
				found = true
			}
			if !found {
				return exitError{exitBad, fmt.Errorf("no message %s is queued: it was delivered, returned or deleted; the log knows it by this id", args[0])}
			}
			return nil
		},
	}
}

// showEntry tells what is known of an entry: what it is, what has been tried,
// and what happens next.
func showEntry(p printer, e admin.QueueEntry, now time.Time, another bool) {
	if another {
		fmt.Fprintln(p.w)
	}
	line := func(name, format string, args ...any) {
		fmt.Fprintf(p.w, " %-10s %s\n", name, printable(fmt.Sprintf(format, args...)))
	}
	arrived := time.Unix(e.ArrivalTime, 0).UTC()
	fmt.Fprintf(p.w, "%s\n", printable(e.QueueID))
	line("Message", "from %s, %s, arrived %s (%s ago)", sender(e.Sender), size(e.MessageSize), arrived.Format(time.DateTime), age(now.Sub(arrived)))
	for i, r := range e.Recipients {
		line(map[bool]string{true: "To"}[i == 0], "%s", r.Address)
	}
	if e.Listener != "" {
		by := "listener " + e.Listener
		if e.Upstream != "" {
			by += ", there queued as " + e.Upstream
		}
		line("Came by", "%s", by)
	}
	line("Next hop", "%s", e.Destination)
	line("Next", "%s", whatNext(e, now))
	line("Because", "%s", because(e))
	for i, h := range e.History {
		line(map[bool]string{true: "Attempts"}[i == 0], "%s  %s  %s", h.At.Format(time.DateTime), h.Reason, saying(h))
		var more []string
		for _, part := range []struct{ name, text string }{{"mx ", h.MX}, {"policy ", h.Policy}, {"", h.RFC}} {
			if part.text != "" {
				more = append(more, part.name+part.text)
			}
		}
		if more != nil {
			line("", "    %s", strings.Join(more, ", "))
		}
	}
}

// saying is the server's reply, or our own words behind the status code.
func saying(h admin.Event) string {
	if h.Reason == remoteReply {
		return fmt.Sprintf("%d %s", h.Code, h.Text)
	}
	return h.Status + " " + h.Text
}

func whatNext(e admin.QueueEntry, now time.Time) string {
	switch {
	case e.QueueName == string(relay.StateActive):
		return "it is being tried now"
	case e.QueueName == string(relay.StateHeld):
		return "nothing until: stsrelay queue release " + e.QueueID
	case e.NextAttempt.Before(now):
		return fmt.Sprintf("attempt %d, due now", e.Attempts+1)
	}
	return fmt.Sprintf("attempt %d in %s; sooner: stsrelay queue retry %s", e.Attempts+1, age(e.NextAttempt.Sub(now)), e.QueueID)
}
