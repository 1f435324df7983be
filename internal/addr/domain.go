// Package addr holds names in the one form we compare them in: lower-case
// A-labels without a trailing dot (RFC 5890), and envelope mailboxes as RFC
// 5321, Section 4.1.2, and RFC 6531, Section 3.3, write them. Values can only
// be had by parsing, so a value that exists is well formed, prints to what
// parses to it again, and brings no control character into a log line or an
// SMTP command; raw strings never travel past the border.
package addr

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// A Domain is a DNS domain name that mail is addressed to: letters, digits and
// hyphens, 1 to 253 octets, lower-case A-labels, no trailing dot. The zero
// value is no domain. Domains compare with ==.
type Domain struct{ name string }

// ParseDomain reads a domain name in A-label or U-label form. One trailing dot
// is dropped. Address literals, names that end in a number, underscores and
// control characters are errors. ParseDomain(d.String()) is d.
func ParseDomain(s string) (Domain, error) {
	name, err := canonical(s, false)
	if err != nil {
		return Domain{}, fmt.Errorf("domain %q: %w", s, err)
	}
	return Domain{name}, nil
}

// MustDomain is ParseDomain for constants and tests; it panics on error.
func MustDomain(s string) Domain {
	d, err := ParseDomain(s)
	if err != nil {
		panic(err)
	}
	return d
}

// String returns the A-label form, "" for the zero value.
func (d Domain) String() string { return d.name }

// IsZero reports whether d is no domain.
func (d Domain) IsZero() bool { return d.name == "" }

// Unicode returns the U-label form for people, or the A-labels where that would
// not lead back to d; never use it for lookups.
func (d Domain) Unicode() string {
	u, err := idna.Display.ToUnicode(d.name)
	if err != nil {
		return d.name
	}
	if back, err := ParseDomain(u); err != nil || back != d {
		return d.name
	}
	return u
}

// Host returns the host of the same name: a domain without MX records is its
// own mail host (RFC 5321, Section 5.1).
func (d Domain) Host() Host { return Host(d) }

// MarshalText implements encoding.TextMarshaler.
func (d Domain) MarshalText() ([]byte, error) { return []byte(d.name), nil }

// UnmarshalText implements encoding.TextUnmarshaler; empty text is the zero value.
func (d *Domain) UnmarshalText(b []byte) (err error) {
	if len(b) == 0 {
		*d = Domain{}
		return nil
	}
	*d, err = ParseDomain(string(b))
	return err
}

// maxInput bounds what is given to the IDNA tables; no 253 octets of A-labels
// come of more.
const maxInput = 1024

var (
	errEmpty   = errors.New("empty name")
	errTooLong = errors.New("longer than 253 octets")
	errNumeric = errors.New("ends in a number; an IP address is written in brackets")
)

// canonical brings a name into the form we compare, or says why it cannot.
// A-labels are taken as they are: names that IDNA2008 would not register, such
// as those with emoji, exist and get mail.
func canonical(s string, underscore bool) (string, error) {
	if len(s) > maxInput {
		return "", errTooLong
	}
	name, err := toASCII(s)
	if err != nil {
		return "", err
	}
	name = strings.TrimSuffix(name, ".")
	if name == "" {
		return "", errEmpty
	}
	if len(name) > 253 { // 255 on the wire (RFC 1035, Section 2.3.4)
		return "", errTooLong
	}
	var last string
	for label := range strings.SplitSeq(name, ".") {
		if err := checkLabel(label, underscore); err != nil {
			return "", err
		}
		last = label
	}
	if strings.Trim(last, "0123456789") == "" {
		// No such top-level domain can be (RFC 3696, Section 2); what looks like
		// an IP address must never be taken for a name.
		return "", errNumeric
	}
	return name, nil
}

// toASCII maps U-labels to lower-case A-labels (RFC 5891, with the mapping of
// UTS #46) and ASCII to lower case.
func toASCII(s string) (string, error) {
	if isASCII(s) {
		return strings.ToLower(s), nil
	}
	if !utf8.ValidString(s) {
		return "", errors.New("not UTF-8") // the library would make a name of it
	}
	a, err := idna.Lookup.ToASCII(s)
	if err != nil {
		return "", fmt.Errorf("not a valid internationalised name: %w", err)
	}
	return a, nil
}

func isASCII(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

func checkLabel(label string, underscore bool) error {
	if label == "" {
		return errors.New("empty label")
	}
	if len(label) > 63 {
		return errors.New("label longer than 63 octets")
	}
	if label[0] == '-' || label[len(label)-1] == '-' {
		return fmt.Errorf("label %q begins or ends with a hyphen", label)
	}
	for i := 0; i < len(label); i++ {
		c := label[i]
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || underscore && c == '_' {
			continue
		}
		return fmt.Errorf("character %q is not allowed", c)
	}
	return nil
}
