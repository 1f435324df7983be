package addr

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unicode/utf8"
)

// An Address is an envelope mailbox (RFC 5321, Section 4.1.2). It keeps the
// spelling it came with, so that it can be sent on byte for byte (ledger
// SMTP-4.1.2-03). The zero value is the null reverse-path.
type Address struct {
	local   string // as written, quotes included where they were needed
	domain  Domain
	literal netip.Addr
	text    string // original spelling of the whole
}

// ErrSyntax is wrapped by every ParseAddress error.
var ErrSyntax = errors.New("address syntax")

// ParseAddress reads local-part "@" domain without angle brackets or source
// route. The empty string is the null reverse-path.
func ParseAddress(s string) (Address, error) {
	if s == "" {
		return Address{}, nil
	}
	bad := func(why string) (Address, error) {
		return Address{}, fmt.Errorf("%w: %q: %s", ErrSyntax, s, why)
	}
	at := strings.LastIndexByte(s, '@')
	if at < 0 {
		return bad("no @")
	}
	local, dom := s[:at], s[at+1:]
	if err := checkLocal(local); err != nil {
		return bad(err.Error())
	}
	a := Address{local: local, text: s}
	if strings.HasPrefix(dom, "[") && strings.HasSuffix(dom, "]") {
		ip, err := ParseLiteral(dom[1 : len(dom)-1])
		if err != nil {
			return bad(err.Error())
		}
		a.literal = ip
		return a, nil
	}
	d, err := ParseDomain(dom)
	if err != nil {
		return bad(err.Error())
	}
	a.domain = d
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
func (a Address) NeedsUTF8() bool {
	for i := 0; i < len(a.local); i++ {
		if a.local[i] >= utf8.RuneSelf {
			return true
		}
	}
	return false
}

// MarshalText implements encoding.TextMarshaler.
func (a Address) MarshalText() ([]byte, error) { return []byte(a.text), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (a *Address) UnmarshalText(b []byte) (err error) {
	*a, err = ParseAddress(string(b))
	return err
}

// Quote returns local as it must be written on the wire: unchanged when it is
// a dot-string, else as a quoted-string with the least quoting (RFC 5321,
// Section 4.1.2).
func Quote(local string) string {
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

func checkLocal(s string) error {
	if len(s) == 0 {
		return errors.New("empty local part")
	}
	if len(s) > 64 {
		return errors.New("local part longer than 64 octets")
	}
	if !utf8.ValidString(s) {
		return errors.New("local part is not UTF-8")
	}
	if isDotString(s) {
		return nil
	}
	if len(s) < 2 || s[0] != '"' || s[len(s)-1] != '"' {
		return errors.New("local part needs quotes")
	}
	for q := s[1 : len(s)-1]; len(q) > 0; q = q[1:] {
		switch c := q[0]; {
		case c == '\\' && len(q) > 1 && q[1] >= ' ' && q[1] < 0x7f:
			q = q[1:]
		case c == '\\' || c == '"' || c < ' ' || c == 0x7f:
			return fmt.Errorf("character %q in quoted local part", c)
		}
	}
	return nil
}

func isDotString(s string) bool {
	for atom := range strings.SplitSeq(s, ".") {
		if atom == "" {
			return false
		}
		for _, r := range atom {
			if r < utf8.RuneSelf && !isAtext(byte(r)) {
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
