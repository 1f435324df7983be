package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"stsrelay/internal/admin"

	"github.com/jedib0t/go-pretty/v6/table"
)

// ages are the bounds of the columns of `queue list --by domain`, as in
// Postfix's qshape.
var ages = [6]struct {
	below time.Duration
	name  string
}{
	{5 * time.Minute, "5m"}, {20 * time.Minute, "20m"}, {80 * time.Minute, "80m"},
	{5 * time.Hour, "5h"}, {24 * time.Hour, "1d"}, {1<<63 - 1, "1d+"},
}

// A waiting is what waits for one destination.
type waiting struct {
	Destination string    `json:"destination"`
	Messages    int       `json:"messages"`
	Octets      int64     `json:"message_size"`
	Held        int       `json:"hold"`
	Oldest      int64     `json:"oldest_arrival_time"` // Unix seconds, as arrival_time is
	Next        time.Time `json:"next_attempt,omitzero"`
	Reason      string    `json:"reason,omitempty"` // of the latest attempt
	Text        string    `json:"text,omitempty"`

	sum   total
	last  time.Time
	byAge [len(ages)]int
}

func (w *waiting) add(e admin.QueueEntry, now time.Time) {
	w.sum.add(e, now)
	w.Messages, w.Octets, w.Oldest = w.sum.entries, w.sum.octets, now.Add(-w.sum.oldest).Unix()
	column := 0
	for w.sum.age >= ages[column].below {
		column++
	}
	w.byAge[column]++
	if e.QueueName == "hold" {
		w.Held++
	} else if w.Next.IsZero() || e.NextAttempt.Before(w.Next) {
		w.Next = e.NextAttempt
	}
	if n := len(e.History); n > 0 && e.History[n-1].At.After(w.last) {
		w.last, w.Reason, w.Text = e.History[n-1].At, e.Reason, e.Text
	}
}

// listByDomain sums entries up by destination, the longest queue first.
func listByDomain(p printer, asJSON bool, seq entries) error {
	now, by := time.Now(), map[string]*waiting{}
	for e, err := range seq {
		if err != nil {
			return err
		}
		if by[e.Destination] == nil {
			by[e.Destination] = &waiting{Destination: e.Destination}
		}
		by[e.Destination].add(e, now)
	}
	list := slices.SortedFunc(maps.Values(by), func(a, b *waiting) int {
		return cmp.Or(b.Messages-a.Messages, cmp.Compare(a.Destination, b.Destination))
	})
	switch {
	case asJSON:
		enc := json.NewEncoder(p.w)
		for _, w := range list {
			if err := enc.Encode(w); err != nil {
				return err
			}
		}
		return nil
	case len(list) == 0:
		_, err := fmt.Fprintln(p.w, "no matching mail is queued")
		return err
	}
	return p.waiting(list, now)
}

func (p printer) waiting(list []*waiting, now time.Time) error {
	header := []string{"DESTINATION", "ALL"}
	for _, a := range ages {
		header = append(header, a.name)
	}
	t := p.table(append(header, "HELD", "NEXT", "LAST ATTEMPT")...)
	messages := 0
	for _, w := range list {
		row := table.Row{p.cut(w.Destination, 40), w.Messages}
		for _, n := range w.byAge {
			row = append(row, n)
		}
		next := "-"
		switch {
		case w.Next.IsZero():
		case w.Next.Before(now):
			next = "due"
		default:
			next = age(w.Next.Sub(now))
		}
		t.AppendRow(append(row, w.Held, next, p.cut(because(admin.QueueEntry{Reason: w.Reason, Text: w.Text}), 60)))
		messages += w.Messages
	}
	t.Render()
	_, err := fmt.Fprintf(p.w, "\n%s for %s; columns 5m to 1d+ count them by age.\n", plural(messages, "message"), plural(len(list), "destination"))
	return err
}
