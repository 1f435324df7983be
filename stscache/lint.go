package stscache

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"stsrelay/internal/addr"
)

// Severity is how bad a Problem is.
type Severity string

const (
	SeverityError   Severity = "error"   // senders do not obey the policy, or refuse mail by it
	SeverityWarning Severity = "warning" // it works, and will hurt
	SeverityInfo    Severity = "info"
)

// A Problem is something in a policy that its owner should know. Its ID is
// stable: scripts may go by it.
type Problem struct {
	ID       string
	Severity Severity
	Text     string
	Hint     string // what to do, "" if Text says it
	RFC      string // "RFC 8461, Section 3.2"
	Line     int    // from 1; 0: the file as a whole
	Column   int    // from 1, in octets; 0: the line as a whole
	Width    int    // octets
}

func invalid(id, format string, args ...any) *Problem {
	return &Problem{ID: id, Severity: SeverityError, Text: fmt.Sprintf(format, args...), RFC: "RFC 8461, Section 3.2"}
}

func warning(id, format string, args ...any) *Problem {
	p := invalid(id, format, args...)
	p.Severity = SeverityWarning
	return p
}

func notice(id, format string, args ...any) *Problem {
	p := invalid(id, format, args...)
	p.Severity = SeverityInfo
	return p
}

// at says where in its line a problem is, counted from 0.
func (p *Problem) at(column, width int) *Problem {
	if p != nil {
		p.Column, p.Width = column+1, width
	}
	return p
}

// What is usual for max_age: what mail providers tell domain owners.
const (
	dayAge      = 24 * time.Hour
	weekAge     = 7 * 24 * time.Hour
	maxTestAge  = 14 * 24 * time.Hour
	maxNoneAge  = 24 * time.Hour
	secondsText = "604800 is a week, and usual"
)

// LintPolicy says everything that is wrong with a policy file, all at once and
// in the order of its lines. The policy is nil when ParsePolicy would refuse it:
// exactly then there is a problem of SeverityError.
func LintPolicy(body []byte) (*Policy, []Problem) {
	if len(body) > MaxPolicySize {
		return nil, []Problem{{ID: "too-large", Severity: SeverityError, RFC: "RFC 8461, Section 3.3",
			Text: fmt.Sprintf("the file has %d octets, and senders read %d at most", len(body), MaxPolicySize)}}
	}
	l := linter{policyParser: newPolicyParser(), first: map[string]int{}, tried: map[string]bool{}}
	for i, line := range splitLines(body) {
		l.number = i + 1
		l.lint(line)
	}
	l.number = 0
	l.whole()
	slices.SortStableFunc(l.found, func(a, b Problem) int {
		if a.Line == 0 || b.Line == 0 { // those of the whole file come last
			return b.Line - a.Line
		}
		return a.Line - b.Line
	})
	if slices.ContainsFunc(l.found, isError) {
		return nil, l.found
	}
	return &l.policy, l.found
}

// A linter goes on where the parser stops.
type linter struct {
	*policyParser
	number int
	found  []Problem
	first  map[string]int  // line on which a key, or an mx line, stands first
	tried  map[string]bool // keys that an invalid line has
	spare  string          // an unknown key may be meant to be this one
}

func (l *linter) add(p *Problem) {
	p.Line = l.number
	l.found = append(l.found, *p)
}

func (l *linter) lint(line string) {
	key, value, at, _ := cutLine(line)
	again := l.seen[key]
	if bad := l.line(line); bad != nil {
		l.tried[strings.TrimSpace(strings.TrimPrefix(key, "\ufeff"))] = true
		bad.Hint = hint(line, key, value)
		l.add(bad)
		return
	}
	switch key {
	case "":
		return
	case "mx":
		l.mx(value, at)
	case "version", "mode", "max_age":
		l.known(key, value, at, again)
	default:
		l.unknown(key)
	}
	if _, ok := l.first[key]; !ok {
		l.first[key] = l.number
	}
}

// hint guesses what was meant by an invalid line.
func hint(line, key, value string) string {
	bom := strings.HasPrefix(line, "\ufeff")
	switch trimmed := strings.TrimSpace(strings.TrimPrefix(line, "\ufeff")); {
	case bom:
		return "the file begins with a byte order mark: save it as UTF-8 without one"
	case trimmed != line && strings.HasPrefix(line, " "):
		return "take the blanks at its beginning away"
	case strings.HasPrefix(line, "#"), strings.HasPrefix(line, "//"):
		return "a policy file has no comments"
	case strings.HasPrefix(line, "<"):
		return "this is HTML and no policy file: does the web server answer with a page of its own?"
	case key == "mx" && strings.ContainsAny(value, ", "):
		return "write one mx line for each host"
	case key == "mx" && strings.HasSuffix(value, "."):
		return "leave the dot at the end away"
	case key == "mx" && strings.Contains(strings.TrimPrefix(value, "*."), "*"):
		return "* stands for the whole left-most label, once"
	case key == "mx" && isAddress(value):
		return "name the host, not its address"
	case key == "mx" && strings.ContainsRune(value, ':'):
		return "name the host without a port"
	case key == "mode" && slices.Contains([]Mode{Enforce, Testing, None}, Mode(strings.ToLower(value))):
		return "write it in small letters: " + strings.ToLower(value)
	case key == "mode" && nearest(value, "enforce", "testing", "none") != "":
		return "did you mean " + nearest(value, "enforce", "testing", "none") + "?"
	case key == "version" && strings.EqualFold(value, "STSv1"):
		return "write it as STSv1"
	case key == "max_age":
		return "give it in seconds, without a unit: " + secondsText
	}
	return ""
}

func isAddress(s string) bool {
	_, err := netip.ParseAddr(strings.Trim(s, "[]"))
	return err == nil
}

func (l *linter) known(key, value string, at int, again bool) {
	switch {
	case again:
		l.add(warning("key-twice", "%s stands on line %d already: senders read that one only", key, l.first[key]).at(0, len(key)))
	case key == "version" && len(l.lines) > 1:
		l.add(warning("version-not-first", "version is not on the first line, where guides and some senders want it").at(0, len(key)))
	case key == "max_age":
		l.maxAge(value, at)
	}
}

func (l *linter) maxAge(value string, at int) {
	switch age := l.policy.MaxAge; {
	case age == MaxAge && value != fmt.Sprint(int(MaxAge/time.Second)):
		l.add(warning("max-age-large", "max_age is more than a year: senders take it for %d", int(MaxAge/time.Second)).at(at, len(value)))
	case age < dayAge:
		p := warning("max-age-short", "max_age %s is less than a day: an attacker need only wait that long", value)
		p.Hint = secondsText + "; guides ask for 86400 at least"
		l.add(p.at(at, len(value)))
	}
}

func (l *linter) mx(value string, at int) {
	name := "mx " + strings.ToLower(value)
	if line, ok := l.first[name]; ok {
		l.add(notice("mx-twice", "this host stands on line %d already", line).at(at, len(value)))
		return
	}
	l.first[name] = l.number
	if value != strings.ToLower(value) {
		l.add(notice("mx-case", "host names are compared without regard to case: small letters are usual").at(at, len(value)))
	}
	if rest, ok := strings.CutPrefix(value, "*."); ok && !strings.Contains(rest, ".") {
		l.add(warning("mx-wide", "%s names every domain under %s, not only yours", value, rest).at(at, len(value)))
	}
}

func (l *linter) unknown(key string) {
	meant := nearest(key, "version", "mode", "mx", "max_age")
	if meant == "" {
		l.add(notice("key-unknown", "%s is no key of RFC 8461: senders pass over it", key).at(0, len(key)))
		return
	}
	p := warning("key-unknown", "%s is no key of RFC 8461: senders pass over it", key).at(0, len(key))
	p.Hint = "did you mean " + meant + "?"
	l.add(p)
	l.spare = meant
}

// whole judges the file as a whole. What a line was meant to say, and is
// invalid, is not told as missing too.
func (l *linter) whole() {
	for _, bad := range l.missing() {
		key := strings.ReplaceAll(strings.TrimPrefix(bad.ID, "no-"), "-", "_")
		if l.tried[key] {
			continue
		}
		if l.spare == key {
			bad.Hint = "one line has a key that may be meant to be " + key
		}
		l.add(bad)
	}
	if slices.ContainsFunc(l.found, isError) {
		return
	}
	switch p := l.policy; p.Mode {
	case None:
		if len(p.MX) > 0 {
			l.add(notice("none-with-mx", "mode none needs no mx lines: guides say to take them away"))
		}
		if p.MaxAge > maxNoneAge {
			l.add(notice("none-max-age", "mode none with a max_age of more than a day is remembered for as long: 86400 is usual"))
		}
	case Testing:
		if p.MaxAge > maxTestAge {
			l.add(notice("testing-max-age", "for testing a max_age of one to two weeks (604800 to 1209600) is usual"))
		}
	case Enforce:
		if p.MaxAge >= dayAge && p.MaxAge < weekAge {
			l.add(notice("enforce-max-age", "for enforce a max_age of some weeks is usual: the longer, the better it protects"))
		}
	}
}

func isError(p Problem) bool { return p.Severity == SeverityError }

// LintHosts compares a policy with the MX hosts of its domain: each must be
// named, or senders that enforce do not deliver to it (RFC 8461, Section 4.1).
func LintHosts(p *Policy, mx []addr.Host) (found []Problem) {
	if p.Mode == None {
		return nil
	}
	used := map[Pattern]bool{}
	for _, h := range mx {
		pattern, ok := p.MatchPattern(h)
		used[pattern] = true
		if ok {
			continue
		}
		bad := Problem{ID: "mx-not-listed", Severity: SeverityError, RFC: "RFC 8461, Section 4.1",
			Text: fmt.Sprintf("the MX host %s is named by no mx line", h), Hint: "add  mx: " + h.String() + "  and change the id in the TXT record"}
		for _, q := range p.MX {
			if suffix, ok := strings.CutPrefix(string(q), "*"); ok && strings.HasSuffix(h.String(), suffix) {
				bad.Text += fmt.Sprintf("; %s stands for one label only", q)
				break
			}
		}
		found = append(found, bad)
	}
	for _, q := range p.MX {
		if !used[q] && len(mx) > 0 {
			found = append(found, Problem{ID: "mx-unused", Severity: SeverityInfo, RFC: "RFC 8461, Section 4.1",
				Text: fmt.Sprintf("mx %s names no MX host of today", q), Hint: "take it out if it is not for one to come"})
		}
	}
	return found
}

// nearest is the word that a misspelling is one or two letters away from, ""
// if there is none.
func nearest(s string, words ...string) string {
	s = strings.ToLower(s)
	best, at := "", 3
	for _, w := range words {
		if d := distance(s, w); d < at && d < len(w) {
			best, at = w, d
		}
	}
	return best
}

// distance counts the letters to insert, drop or change (Levenshtein).
func distance(a, b string) int {
	if len(a) > 32 {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(diagonal+cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
