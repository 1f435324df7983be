package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"stsrelay/internal/lab"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// labText tells of a run: the table, what failed in detail, and the count.
func (p printer) labText(r labResult, failed int) error {
	if !r.show {
		p.labTable(r.trials, true)
	}
	for _, t := range r.trials {
		if len(t.problems) > 0 || r.show {
			p.detail(r, t)
		}
	}
	for _, f := range r.faults {
		fmt.Fprintf(p.w, "\n%s %s\n", p.mark(false), f)
	}
	if r.reports > 0 && !r.show {
		fmt.Fprintf(p.w, "\n%s, to those who asked for one: each tells what happened to the sessions above\n", plural(r.reports, "TLS report"))
	}
	if failed == 0 && !r.show {
		fmt.Fprintln(p.w, "\nOne in full, with what was said and the bounce: stsrelay lab run --show no-such-user.test")
	}
	passed := len(r.trials) + len(r.faults) - failed
	_, err := fmt.Fprintf(p.w, "\n%s %d passed, %d failed in %.1f s\n", p.mark(failed == 0), passed, failed, r.took.Seconds())
	return err
}

// The widths of what the columns of the table hold.
const (
	domainWidth   = 26
	expectedWidth = 25
	leastTitle    = 40
)

// labTable lists trials below their themes: two lines or more for each, the
// second of which is the rule.
func (p printer) labTable(list []*trial, ran bool) {
	header := table.Row{"", "DOMAIN", "WHAT IS SPECIAL, AND THE RULE", "EXPECTED"}
	title := p.width - utf8.RuneCountInString(printer{ascii: p.ascii}.mark(true)) - domainWidth - expectedWidth - 3*2
	if ran {
		header = append(header, "HAPPENED")
		title -= len(asExpected) + 2
	}
	if title < leastTitle {
		p.labList(list, ran)
		return
	}
	p.limit = 0 // it has been measured
	t := p.table()
	t.AppendHeader(header)
	t.SetColumnConfigs([]table.ColumnConfig{{Number: 2, WidthMin: domainWidth}, {Number: 3, WidthMin: title}, {Number: 4, WidthMin: expectedWidth}})
	theme := ""
	for _, tr := range list {
		if tr.theme != theme {
			theme = tr.theme
			t.AppendRow(table.Row{""})
			t.AppendRow(table.Row{"", p.paint(text.Bold, theme)})
		}
		t.AppendRow(p.labRow(tr, title, ran))
	}
	t.Render()
}

// labList is labTable for narrow terminals: everything below each other.
func (p printer) labList(list []*trial, ran bool) {
	const indent = "     "
	theme := ""
	for _, t := range list {
		if t.theme != theme {
			theme = t.theme
			fmt.Fprintf(p.w, "\n%s\n", p.paint(text.Bold, theme))
		}
		lines := []string{text.WrapSoft(t.Title, p.width-len(indent)), p.paint(text.Faint, p.why(t.Why, p.width-len(indent))), describe(t.Expect)}
		mark := "-"
		if ran {
			mark = p.mark(len(t.problems) == 0)
			lines[2] += ": " + p.happened(t)
		}
		fmt.Fprintf(p.w, "%s %s\n%s%s\n", mark, t.Domain, indent, strings.ReplaceAll(strings.Join(lines, "\n"), "\n", "\n"+indent))
	}
}

const asExpected = "as expected"

func (p printer) happened(t *trial) string {
	if len(t.problems) == 0 {
		return p.paint(text.FgGreen, asExpected)
	}
	return p.paint(text.FgRed, "not so")
}

func (p printer) labRow(t *trial, title int, ran bool) table.Row {
	row := table.Row{"", t.Domain, text.WrapSoft(t.Title, title) + "\n" + p.paint(text.Faint, p.why(t.Why, title)), inLines(t.Expect)}
	if !ran {
		return row
	}
	row[0] = p.mark(len(t.problems) == 0)
	return append(row, p.happened(t))
}

// why wraps a rule; where it is written stays on one line: "(RFC 8461 §4.2)".
func (p printer) why(rule string, width int) string {
	section := " §"
	if p.ascii {
		section = " section "
	}
	rule, source, _ := strings.Cut(strings.ReplaceAll(rule, ", Section ", section), " (")
	const blank = "~"
	wrapped := text.WrapSoft(rule+" ("+strings.ReplaceAll(source, " ", blank), width)
	return strings.ReplaceAll(wrapped, blank, " ")
}

// inLines is describe in two short lines.
func inLines(e lab.Expect) string {
	first := e.Outcome
	if e.TLS != "" {
		first += ", " + e.TLS
	}
	if e.Next != "" {
		first += ", then " + e.Next
	}
	second := e.Reason
	if e.Via != "" {
		second = "by " + e.Via
	}
	return strings.TrimSuffix(first+"\n"+second, "\n")
}

// detail tells all of a trial that is known.
func (p printer) detail(r labResult, t *trial) {
	fmt.Fprintf(p.w, "\n%s %s: %s\n", p.mark(len(t.problems) == 0), p.paint(text.Bold, t.Domain), t.Title)
	line := func(name, s string) {
		if s != "" {
			fmt.Fprintf(p.w, "  %-10s %s\n", name, printable(s))
		}
	}
	line("expected", describe(t.Expect))
	line("happened", describe(t.got))
	line("because", t.reply)
	line("rule", t.Why)
	for _, problem := range t.problems {
		line("problem", problem)
	}
	if r.show {
		p.section("what was said", transcript(r.world, t))
	}
	var lines []string
	for _, l := range r.logs[t] {
		lines = append(lines, l.String())
	}
	p.section("what the relay logged", lines)
	if t.report != nil && r.show {
		p.section("what the domain was told (TLS report)", t.report.lines())
	}
	if t.notice != nil && r.show {
		p.section("what the sender got: "+t.notice.subject, strings.Split(strings.TrimSpace(t.notice.text), "\n"))
	}
}

func (p printer) section(heading string, lines []string) {
	if len(lines) == 0 {
		return
	}
	fmt.Fprintf(p.w, "\n  %s\n", p.paint(text.Underline, heading))
	for _, l := range lines {
		fmt.Fprintf(p.w, "    %s\n", printable(strings.TrimRight(l, "\r\n")))
	}
}

// labLine is one line of `lab run --json` and `lab domains --json`.
type labLine struct {
	Schema   string     `json:"schema"` // "stsrelay.lab/v1"
	Domain   string     `json:"domain"`
	Title    string     `json:"title"`
	Theme    string     `json:"theme"`
	Why      string     `json:"why"`
	Expected labOutcome `json:"expected"`

	// What a run adds.
	Happened *labOutcome `json:"happened,omitempty"`
	Passed   *bool       `json:"passed,omitempty"`
	Problems []string    `json:"problems,omitzero"`
	Reply    string      `json:"reply,omitempty"`  // of the mail server, or why in the relay's words
	Rule     string      `json:"rule,omitempty"`   // that the relay names
	Bounce   string      `json:"bounce,omitempty"` // what people read
	QueueIDs []string    `json:"queue_ids,omitzero"`
	Duration float64     `json:"duration,omitempty"` // seconds
}

type labOutcome struct {
	Outcome string `json:"outcome"`
	TLS     string `json:"tls,omitempty"`
	Via     string `json:"via,omitempty"`
	Reason  string `json:"reason,omitempty"`
	Next    string `json:"next,omitempty"`
}

func (p printer) labJSON(list []*trial, ran bool) error {
	enc := json.NewEncoder(p.w)
	for _, t := range list {
		l := labLine{Schema: "stsrelay.lab/v1", Domain: t.Domain, Title: t.Title, Theme: t.theme, Why: t.Why, Expected: labOutcome(t.Expect)}
		if ran {
			happened, passed := labOutcome(t.got), len(t.problems) == 0
			l.Happened, l.Passed, l.Problems = &happened, &passed, append([]string{}, t.problems...)
			l.Reply, l.Rule, l.QueueIDs, l.Duration = t.reply, t.rule, append([]string{}, t.ids...), t.took.Round(time.Millisecond).Seconds()
			if t.notice != nil {
				l.Bounce = t.notice.text
			}
		}
		if err := enc.Encode(l); err != nil {
			return err
		}
	}
	return nil
}
