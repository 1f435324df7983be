package main

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"stsrelay/internal/admin"
	"stsrelay/relay"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"
)

// listFlags are those of `queue list` and mailq.
type listFlags struct {
	filterFlags
	limit int
	by    string
}

func newQueueList(g *globals) *cobra.Command {
	var f listFlags
	cmd := &cobra.Command{
		Use: "list [ID...]", Short: "List queued mail and why it waits", Args: cobra.ArbitraryArgs, ValidArgsFunction: completeIDs(g),
		Long: `List queued mail and why it waits. With --json each message is a line of JSON
with the names of postqueue -j, and some of our own.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			filter, err := f.filter(args)
			if err != nil {
				return err
			}
			if f.by != "" && f.by != "domain" {
				return usagef("--by: %q is not domain", f.by)
			}
			c, err := g.client()
			if err != nil {
				return err
			}
			seq := entries(c.Queue(cmd.Context(), filter, f.limit))
			out := g.printer(cmd.OutOrStdout())
			switch {
			case f.by == "domain":
				return listByDomain(out, g.json, seq)
			case g.json:
				return encodeAll(out.w, seq)
			}
			return listQueue(out, seq)
		},
	}
	f.add(cmd)
	cmd.Flags().IntVar(&f.limit, "limit", 0, "at most `N` messages (0: all)")
	cmd.Flags().StringVar(&f.by, "by", "", "domain: one line for each destination, with counts by age")
	return cmd
}

// newMailq is `queue list` for fingers that know mailq.
func newMailq(g *globals) *cobra.Command {
	cmd := newQueueList(g)
	cmd.Use, cmd.Short = "mailq [ID...]", "List queued mail, as stsrelay queue list does"
	return cmd
}

// entries is what Client.Queue yields.
type entries func(yield func(admin.QueueEntry, error) bool)

// encodeAll writes JSON Lines.
func encodeAll(w io.Writer, seq entries) error {
	enc := json.NewEncoder(w)
	for e, err := range seq {
		if err != nil {
			return err
		}
		if err := enc.Encode(e); err != nil {
			return err
		}
	}
	return nil
}

// pageRows bounds what a table holds in memory: a longer list has its header
// again.
const pageRows = 1000

func listQueue(p printer, seq entries) error {
	header := []string{"ID", "AGE", "SIZE", "FROM", "TO", "TRIES", "NEXT", "WAITING BECAUSE"}
	now, sum := time.Now(), total{}
	t := p.table(header...)
	for e, err := range seq {
		if err != nil {
			return err
		}
		sum.add(e, now)
		t.AppendRow(table.Row{e.QueueID, age(sum.age), size(e.MessageSize), p.cut(sender(e.Sender), 40), p.cut(recipients(e), 40),
			tries(e), next(e, now), p.cut(because(e), 200)})
		if sum.entries%pageRows == 0 {
			t.Render()
			t = p.table(header...)
		}
	}
	if sum.entries == 0 {
		_, err := fmt.Fprintln(p.w, "no matching mail is queued")
		return err
	}
	if t.Length() > 0 {
		t.Render()
	}
	_, err := fmt.Fprintf(p.w, "\n%s, %s, oldest %s.   By destination: stsrelay queue list --by domain   One in full: stsrelay queue show ID\n",
		plural(sum.entries, "message"), size(sum.octets), age(sum.oldest))
	return err
}

// A total sums entries up. Those of one message stand behind each other, and
// their content is counted once.
type total struct {
	entries     int
	octets      int64
	age, oldest time.Duration // of the last one, of the oldest one
	message     string
}

func (s *total) add(e admin.QueueEntry, now time.Time) {
	s.entries++
	if e.MessageID != s.message {
		s.message, s.octets = e.MessageID, s.octets+e.MessageSize
	}
	s.age = now.Sub(time.Unix(e.ArrivalTime, 0))
	s.oldest = max(s.oldest, s.age)
}

func sender(s string) string {
	if s == "" {
		return "<>"
	}
	return s
}

func recipients(e admin.QueueEntry) string {
	if len(e.Recipients) == 0 {
		return "-"
	}
	s := e.Recipients[0].Address
	if n := len(e.Recipients); n > 1 {
		s += fmt.Sprintf(" +%d", n-1)
	}
	return s
}

func tries(e admin.QueueEntry) string {
	if e.Attempts == 0 {
		return "-"
	}
	return fmt.Sprint(e.Attempts)
}

func next(e admin.QueueEntry, now time.Time) string {
	switch {
	case e.QueueName == string(relay.StateActive):
		return "now"
	case e.QueueName == string(relay.StateHeld):
		return "held"
	case e.NextAttempt.Before(now):
		return "due"
	}
	return age(e.NextAttempt.Sub(now))
}

func because(e admin.QueueEntry) string {
	switch {
	case e.HoldReason != "":
		return "held: " + e.HoldReason
	case e.QueueName == string(relay.StateHeld):
		return "held by the operator"
	case e.ForcedExpire:
		return "is being returned to the sender"
	case e.Reason == remoteReply:
		return e.Text
	case e.Reason != "":
		return e.Reason + ": " + e.Text
	case e.Attempts == 0:
		return "not tried yet"
	}
	return ""
}

// remoteReply is the reason whose text is a server's own.
const remoteReply = "remote-reply"

// completeIDs offers the ids of queued mail to the shell.
func completeIDs(g *globals) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, _ string) (list []cobra.Completion, _ cobra.ShellCompDirective) {
		c, err := g.client()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		for e, err := range c.Queue(cmd.Context(), relay.Filter{}, 100) {
			if err != nil {
				break
			}
			list = append(list, cobra.CompletionWithDesc(e.QueueID, printable(recipients(e))))
		}
		return list, cobra.ShellCompDirectiveNoFileComp
	}
}
