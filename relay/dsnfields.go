package relay

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"stsrelay/delivery"
	"stsrelay/internal/addr"
)

// status is the machine-readable part (RFC 3464, Section 2.1): the fields of
// the message, and behind an empty line those of each recipient. It is ASCII but for addresses.
func (d dsn) status() []byte {
	var b bytes.Buffer
	if d.Entry.Options.Envelope != "" { // RFC 3461, Section 6.3 (a)
		dsnField(&b, "Original-Envelope-Id", fromXtext(d.Entry.Options.Envelope))
	}
	dsnField(&b, "Reporting-MTA", "dns; "+d.Hostname)
	dsnField(&b, "Arrival-Date", mailDate(d.Entry.Arrived))
	dsnField(&b, "X-Stsrelay-Queue-Id", string(d.Entry.ID))
	for _, f := range d.About {
		b.WriteString("\r\n")
		d.recipient(&b, f)
	}
	return b.Bytes()
}

// recipient writes the fields of one recipient (RFC 3464, Section 2.3). A
// Remote-MTA says that the diagnostic is its own words (Section 2.3.6), so there
// is none with what we found ourselves.
func (d dsn) recipient(b *bytes.Buffer, f fate) {
	if f.Original != "" { // RFC 3461, Section 6.3 (d)
		kind, name, _ := strings.Cut(f.Original, ";")
		if strings.EqualFold(kind, "utf-8") {
			globalField(b, "Original-Recipient", "utf-8; "+fromUnitext(name))
		} else {
			dsnField(b, "Original-Recipient", kind+"; "+fromXtext(name))
		}
	}
	if name := f.Address.String(); onlyASCII(name) {
		dsnField(b, "Final-Recipient", "rfc822; "+name)
	} else { // RFC 6533, Section 4.1
		globalField(b, "Final-Recipient", "utf-8; "+name)
	}
	dsnField(b, "Action", d.Kind.action())
	dsnField(b, "Status", f.dsn())
	switch {
	case f.err == nil:
		remoteMTA(b, f.outcome.MX)
		dsnField(b, "Diagnostic-Code", "smtp; "+f.outcome.Reply)
	case f.err.Remote:
		remoteMTA(b, f.err.MX)
		diagnostic(b, f.err.Code, f.err.Text)
	default:
		dsnField(b, "Diagnostic-Code", "X-Stsrelay; "+string(f.err.Reason)+": "+f.err.Text)
	}
	if f.err == nil || f.err.Reason != delivery.OperatorBounce {
		dsnField(b, "Last-Attempt-Date", mailDate(d.Now))
	}
	if d.Kind == dsnDelayed {
		dsnField(b, "Will-Retry-Until", mailDate(d.Until))
	}
	if f.outcome.Policy != "" {
		dsnField(b, "X-Stsrelay-TLS-Policy", f.outcome.Policy)
	}
}

func remoteMTA(b *bytes.Buffer, mx addr.Host) {
	if !mx.IsZero() { // the operator's server at a bare address has no name
		dsnField(b, "Remote-MTA", "dns; "+mx.String())
	}
}

// diagnostic writes a reply as the server gave it; of one with several lines
// each further one is folded (RFC 3461, Section 9.2; ledger DSN-9.2-01).
func diagnostic(b *bytes.Buffer, reply int, text string) {
	lines := strings.Split(text, "\n")
	value := "smtp; "
	for i, line := range lines {
		sep := "-"
		if i == len(lines)-1 {
			sep = " "
		}
		if i > 0 {
			value += "\n "
		}
		value += strings.TrimSpace(strconv.Itoa(reply) + sep + asciiLine(line))
	}
	dsnFold(b, "Diagnostic-Code: "+value)
}

// dsnField writes one field, clean and folded (RFC 3464, Section 2.1.1).
func dsnField(b *bytes.Buffer, name, value string) { dsnFold(b, name+": "+asciiLine(value)) }

// globalField is dsnField for an address beyond ASCII.
func globalField(b *bytes.Buffer, name, value string) { dsnFold(b, name+": "+cleanLine(value)) }

// isGlobal reports whether a recipient, or how its sender knows it, is beyond
// ASCII: the report is then of the kind that may say so (RFC 6533, Section 4.1;
// ledger DSN8-4.1-01).
func (d dsn) isGlobal() bool {
	return slices.ContainsFunc(d.About, func(f fate) bool {
		kind, _, _ := strings.Cut(f.Original, ";")
		return !onlyASCII(f.Address.String()) || strings.EqualFold(kind, "utf-8")
	})
}

// Where lines are folded, and where those are cut that have no blank.
const (
	foldAt = 78
	cutAt  = 900
)

// dsnFold writes a field whose "\n " stay where they are.
func dsnFold(b *bytes.Buffer, s string) {
	for i, line := range strings.Split(s, "\n") {
		if i > 0 && strings.TrimSpace(line) == "" {
			continue
		}
		for len(line) > foldAt {
			at := strings.LastIndexByte(line[:foldAt+1], ' ')
			if at <= 1 || strings.TrimSpace(line[:at]) == "" || strings.HasSuffix(line[:at], ":") {
				if at = strings.IndexByte(line[foldAt:], ' ') + foldAt; at < foldAt || at > cutAt {
					at = min(cutAt, len(line))
				}
			}
			if strings.TrimSpace(line[at:]) == "" {
				line = line[:at]
				break
			}
			b.WriteString(line[:at] + "\r\n")
			line = " " + strings.TrimPrefix(line[at:], " ")
		}
		b.WriteString(line + "\r\n")
	}
}

// cleanLine makes one line of s: control characters and blanks become single
// spaces, and characters that cannot be seen vanish.
func cleanLine(s string) string {
	var b strings.Builder
	space := false
	for _, r := range s {
		switch {
		case unicode.IsSpace(r), unicode.IsControl(r):
			space = b.Len() > 0
			continue
		case unicode.Is(unicode.Cf, r):
			continue
		case r == utf8.RuneError:
			r = '?'
		}
		if space {
			b.WriteByte(' ')
			space = false
		}
		b.WriteRune(r)
	}
	return b.String()
}

// asciiLine is cleanLine for 7-bit fields.
func asciiLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r > unicode.MaxASCII {
			return '?'
		}
		return r
	}, cleanLine(s))
}

func onlyASCII(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r > unicode.MaxASCII }) < 0
}

// fromXtext decodes xtext (RFC 3461, Section 4). What is no xtext is left as it
// is.
func fromXtext(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '+' && i+2 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(n))
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// fromUnitext is the native form of an address of type utf-8 (RFC 6533, Section
// 3): what stands as \x{HEX} is itself.
func fromUnitext(s string) string {
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(s, `\x{`)
		b.WriteString(before)
		if !found {
			return b.String()
		}
		hex, after, closed := strings.Cut(rest, "}")
		n, err := strconv.ParseUint(hex, 16, 32)
		if !closed || err != nil || !utf8.ValidRune(rune(n)) {
			b.WriteString(`\x{`)
			s = rest
			continue
		}
		b.WriteRune(rune(n))
		s = after
	}
}
