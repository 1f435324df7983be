package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"stsrelay/internal/lab"

	"github.com/jedib0t/go-pretty/v6/progress"
	"github.com/jedib0t/go-pretty/v6/text"
	"golang.org/x/sync/errgroup"
)

// atOnce is how many trials run at a time: enough that those which wait do not
// hold the others up.
const atOnce = 12

// tryAll runs the trials and calls step after each.
func (b *labBench) tryAll(ctx context.Context, list []*trial, step func()) {
	var g errgroup.Group
	g.SetLimit(atOnce)
	for _, t := range list {
		g.Go(func() error {
			defer step()
			b.try(ctx, t)
			return nil
		})
	}
	_ = g.Wait() // trials keep what is wrong to themselves
}

// faults are what mail servers complain of and what no single message shows.
// What can be laid to a domain goes to its trial.
func (b *labBench) faults(list []*trial) (faults []string) {
	for _, h := range b.world.MXHosts() {
		for _, v := range h.Violations() {
			text := fmt.Sprintf("%s complains: %v", h.Name(), v)
			i := slices.IndexFunc(list, func(t *trial) bool { return h.Name() == t.Domain || strings.HasSuffix(h.Name(), "."+t.Domain) })
			if i < 0 {
				faults = append(faults, text)
				continue
			}
			list[i].problems = append(list[i].problems, text)
		}
	}
	if b.noticeTo("postmaster@"+labSender) != nil {
		faults = append(faults, "the postmaster was told of a bounce that could not be delivered")
	}
	i := slices.IndexFunc(list, func(t *trial) bool { return t.Domain == "ok.test" })
	if i >= 0 && b.world.Policy("ok.test").Hits() > 1 {
		list[i].problems = append(list[i].problems, fmt.Sprintf("its policy was fetched %d times: a redirect to it was followed", b.world.Policy("ok.test").Hits()))
	}
	return faults
}

// logs picks what the relay logged of each trial.
func (b *labBench) logs(list []*trial) map[*trial][]logLine {
	logs := map[*trial][]logLine{}
	for _, t := range list {
		logs[t] = b.log.about(t.Domain, t.ids...)
	}
	return logs
}

// A bar shows how far a run is.
type bar struct{ step, end func() }

var noBar = bar{step: func() {}, end: func() {}}

// barDelay is how long people wait without wondering.
const barDelay = time.Second

// startBar shows a bar on a terminal once a run has taken longer than people
// like to wait without a sign of life.
func startBar(w io.Writer, total int) bar {
	pw := progress.NewWriter()
	pw.SetOutputWriter(w)
	pw.SetAutoStop(true) // Render ends with the tracker, even when it begins behind its end
	pw.SetUpdateFrequency(50 * time.Millisecond)
	pw.SetTrackerLength(30)
	pw.Style().Visibility.Time = false
	tracker := &progress.Tracker{Message: "lab run", Total: int64(total)}
	pw.AppendTracker(tracker)
	ended := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		wait := time.NewTimer(barDelay)
		defer wait.Stop()
		select {
		case <-ended:
		case <-wait.C:
			pw.Render()
			fmt.Fprint(w, text.CursorUp.Sprint(), text.EraseLine.Sprint()) // the table takes its place
		}
	})
	return bar{step: func() { tracker.Increment(1) }, end: func() {
		tracker.MarkAsDone()
		close(ended)
		wg.Wait()
	}}
}

// transcript returns the conversations with the mail servers of a domain.
func transcript(w *lab.World, t *trial) (lines []string) {
	for _, h := range w.MXHosts() {
		told := slices.ContainsFunc(w.Arrivals(t.Domain), func(a lab.Arrival) bool { return a.Host == h.Name() })
		if !told && h.Name() != t.Domain && !strings.HasSuffix(h.Name(), "."+t.Domain) {
			continue
		}
		for _, l := range h.Transcript() {
			who := "relay  "
			if l.Server {
				who = "server "
			}
			if l.TLS {
				who += "(TLS) "
			}
			lines = append(lines, fmt.Sprintf("%s %d  %s%s", h.Name(), l.Conn, who, l.Text))
		}
	}
	return lines
}
