package addr

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"
)

// An Address is an envelope mailbox (RFC 5321, Section 4.1.2; RFC 6531, Section
// 3.3). It keeps the spelling it came with, so that it can be sent on byte for
// byte (ledger SMTP-4.1.2-03). It is valid UTF-8 without control characters,
// and outside its quotes without blanks, "<" or ">". The zero value is the null
// reverse-path.
type Address struct {
	local   string // as written, quotes included where they were needed
	domain  Domain
	literal netip.Addr
	text    string // original spelling of the whole
}

// ErrSyntax is wrapped by every ParseAddress and ParsePath error.
var ErrSyntax = errors.New("address syntax")

// maxLocal bounds the local part, in octets. RFC 5321, Section 4.5.3.1.1, wants
// at least 64 and would like no limit; mailing lists and SRS make longer ones,
// and whether it is too long is for its own domain to say.
const maxLocal = 255

// ParseAddress reads local-part "@" domain or address literal, without angle
// brackets or source route. The empty string is the null reverse-path.
func ParseAddress(s string) (Address, error) {
	if s == "" {
		return Address{}, nil
	}
	a, err := parseMailbox(s)
	if err != nil {
		return Address{}, fmt.Errorf("%w: %q: %w", ErrSyntax, s, err)
	}
	return a, nil
}

// ParsePath reads a Path of MAIL or RCPT, with its angle brackets or without:
// "<>", "<u@c>", "<@a,@b:u@c>". A source route is checked and dropped (RFC
// 5321, Section 4.1.1.3; ledger SMTP-3.6.1-01).
func ParsePath(s string) (Address, error) {
	inner := s
	if strings.HasPrefix(s, "<") {
		var ok bool
		if inner, ok = strings.CutSuffix(s[1:], ">"); !ok {
			return Address{}, fmt.Errorf("%w: %q: missing >", ErrSyntax, s)
		}
	}
	if !strings.HasPrefix(inner, "@") {
		return ParseAddress(inner)
	}
	route, mailbox, ok := strings.Cut(inner, ":")
	if !ok || mailbox == "" {
		return Address{}, fmt.Errorf("%w: %q: a source route without a mailbox", ErrSyntax, s)
	}
	for hop := range strings.SplitSeq(route, ",") {
		name, ok := strings.CutPrefix(hop, "@")
		if !ok {
			return Address{}, fmt.Errorf("%w: %q: source route without @", ErrSyntax, s)
		}
		if _, err := ParseDomain(name); err != nil {
			return Address{}, fmt.Errorf("%w: %q: source route: %w", ErrSyntax, s, err)
		}
	}
	return ParseAddress(mailbox)
}

func parseMailbox(s string) (Address, error) {
	at := strings.LastIndexByte(s, '@')
	if at < 0 {
		return Address{}, errors.New("no @")
	}
	a := Address{local: s[:at], text: s}
	if err := checkLocal(a.local); err != nil {
		return Address{}, err
	}
	var err error
	dom := s[at+1:]
	switch {
	case strings.HasPrefix(dom, "[") && strings.HasSuffix(dom, "]"):
		a.literal, err = ParseLiteral(dom[1 : len(dom)-1])
	case strings.HasSuffix(dom, "."):
		// Fine in DNS, but no mailbox has one and it would be sent on as it is.
		err = errors.New("the domain ends in a dot")
	default:
		a.domain, err = ParseDomain(dom)
	}
	if err != nil {
		return Address{}, err
	}
	return a, nil
}

// MustAddress is ParseAddress for constants and tests; it panics on error.
func MustAddress(s string) Address {
	a, err := ParseAddress(s)
	if err != nil {
		panic(err)
	}
	return a
}

// IsNull reports whether a is the null reverse-path.
func (a Address) IsNull() bool { return a.text == "" }

// String returns the original spelling, "" for the null reverse-path.
func (a Address) String() string { return a.text }

// Path returns the address in angle brackets: "<>" for the null reverse-path.
func (a Address) Path() string { return "<" + a.text + ">" }

// Local returns the local part as written, quoted where it needs to be.
func (a Address) Local() string { return a.local }

// Domain returns the domain part; ok is false for an address literal or the
// null reverse-path.
func (a Address) Domain() (d Domain, ok bool) { return a.domain, !a.domain.IsZero() }

// NextHop returns where mail to a goes when no route says otherwise.
func (a Address) NextHop() NextHop {
	if a.literal.IsValid() {
		return LiteralHop(a.literal, 0)
	}
	return DomainHop(a.domain)
}

// NeedsUTF8 reports whether the address can only be sent with SMTPUTF8
// (RFC 6531): its local part is not ASCII. A U-label domain alone does not.
func (a Address) NeedsUTF8() bool { return !isASCII(a.local) }

// ASCII returns the address as a server without SMTPUTF8 may be told it: the
// original spelling, except that a domain with U-labels is given in A-labels
// (ledger UTF8-3.2-03). Ok is false when there is no such form.
func (a Address) ASCII() (s string, ok bool) {
	switch {
	case a.NeedsUTF8():
		return "", false
	case isASCII(a.text):
		return a.text, true
	}
	return a.local + "@" + a.domain.name, true
}

// Wire returns the address as commands and headers name it: in ASCII where there
// is such a form, for only an address without one goes with SMTPUTF8 (ledger
// UTF8-3.2-03).
func (a Address) Wire() string {
	if s, ok := a.ASCII(); ok {
		return s
	}
	return a.text
}

// MarshalText implements encoding.TextMarshaler.
func (a Address) MarshalText() ([]byte, error) { return []byte(a.text), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (a *Address) UnmarshalText(b []byte) (err error) {
	*a, err = ParseAddress(string(b))
	return err
}

// Quote returns local, the bare name of a mailbox, as it must be written on the
// wire: unchanged when it is a dot-string, else as a quoted-string with the
// least quoting (RFC 5321, Section 4.1.2). It returns "" for what cannot be
// written: control characters and invalid UTF-8.
func Quote(local string) string {
	if !utf8.ValidString(local) || strings.ContainsFunc(local, unicode.IsControl) {
		return ""
	}
	if isDotString(local) {
		return local
	}
	var b strings.Builder
	b.WriteByte('"')
	for i := 0; i < len(local); i++ {
		if local[i] == '"' || local[i] == '\\' {
			b.WriteByte('\\')
		}
		b.WriteByte(local[i])
	}
	b.WriteByte('"')
	return b.String()
}

// checkLocal says why s, quotes included, is no local part.
func checkLocal(s string) error {
	switch {
	case s == "":
		return errors.New("empty local part")
	case len(s) > maxLocal:
		return fmt.Errorf("local part longer than %d octets", maxLocal)
	case !utf8.ValidString(s):
		return errors.New("local part is not UTF-8")
	case strings.ContainsFunc(s, unicode.IsControl):
		// Also those beyond ASCII: on a terminal U+009B begins an escape sequence.
		return errors.New("control character in local part")
	case isDotString(s):
		return nil
	case len(s) < 2 || s[0] != '"' || s[len(s)-1] != '"':
		return errors.New("local part needs quotes")
	}
	for q := s[1 : len(s)-1]; len(q) > 0; q = q[1:] {
		switch c := q[0]; {
		case c == '\\' && len(q) > 1 && q[1] < utf8.RuneSelf:
			q = q[1:]
		case c == '\\' || c == '"':
			return fmt.Errorf("%q in quoted local part", c)
		}
	}
	return nil
}

// isDotString reports whether valid UTF-8 without control characters is atoms
// with single dots between them.
func isDotString(s string) bool {
	for atom := range strings.SplitSeq(s, ".") {
		if atom == "" {
			return false
		}
		for i := 0; i < len(atom); i++ {
			if c := atom[i]; c < utf8.RuneSelf && !isAtext(c) {
				return false
			}
		}
	}
	return true
}

func isAtext(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
		strings.IndexByte("!#$%&'*+-/=?^_`{|}~", c) >= 0
}
