package delivery

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// mailDSN adds the parameters of MAIL that the message came with, as they came
// (RFC 3461, Section 5.2.1; ledger DSN-5.2.1-01). They are for a server that
// offers DSN (Section 5.2.2; ledger DSN-5.2.2-01).
func (x *transaction) mailDSN(b *strings.Builder) {
	if x.Ret != "" {
		b.WriteString(" RET=")
		b.WriteString(x.Ret)
	}
	if x.EnvID != "" {
		b.WriteString(" ENVID=")
		b.WriteString(x.EnvID)
	}
}

// rcptDSN is mailDSN for one recipient. An ORCPT that was not given is not made
// up (ledger DSN-5.2.1-02).
func (x *transaction) rcptDSN(b *strings.Builder, r Recipient) {
	if r.Notify != "" {
		b.WriteString(" NOTIFY=")
		b.WriteString(r.Notify)
	}
	if r.Original != "" {
		b.WriteString(" ORCPT=")
		b.WriteString(orcpt(r.Original, x.utf8))
	}
}

// orcpt is an original recipient as this transaction may name it. Type utf-8
// alone has more than one form (RFC 6533, Section 3): with SMTPUTF8 characters
// beyond ASCII stand for themselves (ledger DSN8-3-03), without it they are
// \x{HEX} (ledger DSN8-3-02). Every other type goes octet for octet.
func orcpt(original string, native bool) string {
	kind, name, ok := strings.Cut(original, ";")
	if !ok || !strings.EqualFold(kind, "utf-8") {
		return original
	}
	var b strings.Builder
	b.WriteString(kind)
	b.WriteByte(';')
	for name != "" {
		r, n, embedded := nextUnicode(name)
		switch {
		case embedded && r <= unicode.MaxASCII: // CTL, SP, "\", "+" and "=" have no other form
			b.WriteString(name[:n])
		case r > unicode.MaxASCII && native:
			b.WriteRune(r)
		case r > unicode.MaxASCII, r <= ' ', r == 0x7f, r == '\\', r == '+', r == '=':
			fmt.Fprintf(&b, `\x{%02X}`, r)
		default:
			b.WriteRune(r)
		}
		name = name[n:]
	}
	return b.String()
}

// nextUnicode reads the character that opens s, and how many octets it takes,
// be it itself or an EmbeddedUnicodeChar (RFC 6533, Section 3): \x{E9}.
func nextUnicode(s string) (r rune, n int, embedded bool) {
	if hex, ok := strings.CutPrefix(s, `\x{`); ok {
		hex, _, ok = strings.Cut(hex, "}")
		code, err := strconv.ParseUint(hex, 16, 32)
		if ok && err == nil && len(hex) >= 2 && len(hex) <= 6 && utf8.ValidRune(rune(code)) {
			return rune(code), len(`\x{}`) + len(hex), true
		}
	}
	r, n = utf8.DecodeRuneInString(s)
	return r, n, false
}
