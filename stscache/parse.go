package stscache

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"stsrelay/internal/addr"
)

// MaxPolicySize bounds a policy file, in octets (RFC 8461, Section 3.3; ledger
// STS-3.3-10).
const MaxPolicySize = 64 << 10

// maxPatterns bounds the mx lines of one policy (ledger STS-10.3-02).
const maxPatterns = 1000

// ParsePolicy reads a policy file (RFC 8461, Section 3.2) and returns its lines
// as served, without their ends. The error wraps ErrPolicySyntax, or
// ErrTooLarge, and names the line. LintPolicy says more.
func ParsePolicy(body []byte) (*Policy, []string, error) {
	if len(body) > MaxPolicySize {
		return nil, nil, ErrTooLarge
	}
	p := newPolicyParser()
	for i, line := range splitLines(body) {
		if bad := p.line(line); bad != nil {
			return nil, nil, fmt.Errorf("%w: line %d: %s", ErrPolicySyntax, i+1, bad.Text)
		}
	}
	if bad := p.missing(); len(bad) > 0 {
		return nil, nil, fmt.Errorf("%w: %s", ErrPolicySyntax, bad[0].Text)
	}
	return &p.policy, p.lines, nil
}

// splitLines cuts at LF and CRLF; the last end may be missing (ledger
// STS-3.2-04, ERR-8461-6253).
func splitLines(body []byte) []string {
	lines := strings.Split(strings.TrimSuffix(string(body), "\n"), "\n") // they share one copy
	for i, line := range lines {
		lines[i] = strings.TrimSuffix(line, "\r")
	}
	return lines
}

type policyParser struct {
	policy Policy
	lines  []string
	seen   map[string]bool // keys other than mx
}

func newPolicyParser() *policyParser { return &policyParser{seen: map[string]bool{}} }

// cutLine takes a line apart. at is where the value begins, in octets.
func cutLine(line string) (key, value string, at int, ok bool) {
	key, rest, ok := strings.Cut(line, ":")
	value = strings.Trim(rest, " \t")
	return key, value, len(key) + 1 + len(rest) - len(strings.TrimLeft(rest, " \t")), ok
}

// line reads one line and says what makes the policy invalid.
func (p *policyParser) line(line string) (bad *Problem) {
	if line == "" { // tolerated (ledger STS-3.2-18)
		return nil
	}
	p.lines = append(p.lines, line)
	key, value, at, ok := cutLine(line)
	switch {
	case !ok || !isExtensionName(key):
		bad = invalid("line-syntax", "it is not of the form key: value")
		return bad.at(0, len(line))
	case !isPolicyValue(value):
		bad = invalid("value-syntax", "the value of %s is empty or has a character that is not allowed", key)
	case key == "mx":
		bad = p.pattern(value)
	case p.seen[key]: // the first counts, and the others are not read (ledger STS-3.2-16, STS-3.2-17)
		return nil
	default:
		p.seen[key] = true
		bad = p.field(key, value)
	}
	return bad.at(at, len(value))
}

func (p *policyParser) field(key, value string) (bad *Problem) {
	switch key {
	case "version":
		if value != "STSv1" {
			return invalid("version-unknown", "the version is %q and not STSv1", value)
		}
	case "mode":
		switch Mode(value) {
		case Enforce, Testing, None:
			p.policy.Mode = Mode(value)
		default:
			return invalid("mode-unknown", "the mode is %q and not enforce, testing or none", value)
		}
	case "max_age":
		seconds, err := strconv.ParseUint(value, 10, 64)
		if err != nil || len(value) > 10 || value[0] == '+' {
			return invalid("max-age-syntax", "max_age is %q and not a number of 1 to 10 digits", value)
		}
		p.policy.MaxAge = time.Duration(min(seconds, uint64(MaxAge/time.Second))) * time.Second // ledger STS-3.2-09
	}
	return nil
}

// pattern reads the value of an mx line. A bad one makes the policy invalid
// (ledger STS-3.2-12).
func (p *policyParser) pattern(value string) (bad *Problem) {
	name := strings.TrimPrefix(value, "*.")
	d, err := addr.ParseDomain(name)
	if err != nil || !strings.EqualFold(d.String(), name) {
		return invalid("mx-syntax", "mx is %q and not a host name in A-labels, or \"*.\" and a domain", value)
	}
	if last := name[strings.LastIndexByte(name, '.')+1:]; strings.Trim(last, "0123456789") == "" {
		return invalid("mx-address", "mx is %q, which names no host", value) // ledger STS-3.2-14
	}
	if len(p.policy.MX) == maxPatterns {
		return invalid("mx-too-many", "there are more than %d mx lines", maxPatterns)
	}
	p.policy.MX = append(p.policy.MX, Pattern(strings.ToLower(value)))
	return nil
}

// missing says what is (ledger STS-3.2-07, -08, -09, -11).
func (p *policyParser) missing() (list []*Problem) {
	for _, key := range []string{"version", "mode", "max_age"} {
		if !p.seen[key] {
			list = append(list, invalid("no-"+strings.ReplaceAll(key, "_", "-"), "there is no %s", key))
		}
	}
	if p.policy.Mode != None && len(p.policy.MX) == 0 {
		list = append(list, invalid("no-mx", "mode %s needs at least one mx", cmp.Or(p.policy.Mode, "enforce or testing")))
	}
	return list
}

// isPolicyValue is the value of any key: printable ASCII and UTF-8, with blanks
// inside (ledger STS-3.2-15, STS-3.2-19).
func isPolicyValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c == 0x7f {
			return false
		}
	}
	return s != "" && utf8.ValidString(s)
}
