package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"golang.org/x/term"
)

// printer writes for people: colours only where they are wanted, and beside
// every colour a word or a symbol.
type printer struct {
	w     io.Writer
	color bool
	ascii bool // no ✓, ✗ and …
	width int  // columns to fill
	limit int  // columns of the terminal, 0 for what is no terminal: nothing is cut there
}

// plainWidth is how wide what is read in a file or a mail may be.
const plainWidth = 118

func (g *globals) printer(w io.Writer) printer {
	p := printer{w: w, width: plainWidth, ascii: !utf8Locale()}
	if columns, _, err := term.GetSize(fdOf(w)); err == nil && columns > 0 {
		p.width, p.limit = columns, columns
	}
	switch g.color {
	case "always":
		p.color = true
	case "auto":
		p.color = isTerminal(w) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && os.Getenv("TERM") != ""
	}
	return p
}

// utf8Locale reports whether what is written may go beyond ASCII. Where nothing
// is said it may: that is a container or a service, and read elsewhere.
func utf8Locale() bool {
	locale := cmp.Or(os.Getenv("LC_ALL"), os.Getenv("LC_CTYPE"), os.Getenv("LANG"))
	return locale == "" || strings.Contains(strings.ToUpper(strings.ReplaceAll(locale, "-", "")), "UTF8")
}

// fdOf is the file descriptor behind w, -1 if there is none.
func fdOf(w io.Writer) int {
	if f, ok := w.(*os.File); ok {
		return int(f.Fd())
	}
	return -1
}

func isTerminal(w io.Writer) bool { return term.IsTerminal(fdOf(w)) }

func (p printer) paint(c text.Color, s string) string {
	if !p.color || s == "" {
		return s
	}
	return text.Escape(s, c.EscapeSeq())
}

func (p printer) mark(good bool) string {
	switch {
	case good && p.ascii:
		return p.paint(text.FgGreen, "ok  ")
	case good:
		return p.paint(text.FgGreen, "✓")
	case p.ascii:
		return p.paint(text.FgRed, "FAIL")
	}
	return p.paint(text.FgRed, "✗")
}

// table starts a table without lines: columns two blanks apart.
func (p printer) table(header ...string) table.Writer {
	t := table.NewWriter()
	t.SetOutputMirror(p.w)
	style := table.StyleDefault
	style.Options = table.Options{}
	style.Box.PaddingLeft, style.Box.PaddingRight = "", "  "
	style.Format.Header = text.FormatDefault
	style.Size.WidthMax, style.Box.UnfinishedRow = p.limit, " ~"
	t.SetStyle(style)
	t.SuppressTrailingSpaces()
	if len(header) > 0 {
		row := make(table.Row, len(header))
		for i, h := range header {
			row[i] = h
		}
		t.AppendHeader(row)
	}
	return t
}

// cut makes s one line of at most n runes that a terminal can show. Foreign
// text, such as what a server replied, must not steer the terminal.
func (p printer) cut(s string, n int) string {
	r := []rune(printable(strings.Join(strings.Fields(s), " ")))
	if len(r) <= n {
		return string(r)
	}
	if p.ascii {
		return string(r[:max(0, n-3)]) + "..."
	}
	return string(r[:max(0, n-1)]) + "…"
}

// printable replaces what is not to be shown.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// age writes a duration in its two largest units: "1d2h", "4m", "12s".
func age(d time.Duration) string {
	switch {
	case d < time.Second:
		return "0s"
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%dh", int(d.Hours())/24, int(d.Hours())%24)
}

// size writes octets for people: "512B", "14K", "3.2M", "1.5G".
func size(n int64) string {
	f := float64(n)
	switch {
	case n < 1<<10:
		return fmt.Sprintf("%dB", n)
	case n < 1<<20-1<<9:
		return fmt.Sprintf("%.0fK", f/(1<<10))
	case n < 1<<30-1<<19:
		return fmt.Sprintf("%.1fM", f/(1<<20))
	}
	return fmt.Sprintf("%.1fG", f/(1<<30))
}

// plural is "1 message", "2 messages".
func plural(n int, noun string) string {
	if n != 1 {
		noun += "s"
		if strings.HasSuffix(noun, "ys") && !strings.HasSuffix(noun, "ays") {
			noun = strings.TrimSuffix(noun, "ys") + "ies"
		}
	}
	return fmt.Sprintf("%d %s", n, noun)
}
