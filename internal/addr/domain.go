// Package addr holds names in the one form we compare them in: lower-case
// A-labels without a trailing dot. Values can only be had by parsing, so a
// value that exists is well formed; raw strings never travel past the border.
package addr

import (
	"fmt"
	"strings"

	"golang.org/x/net/idna"
)

// A Domain is a DNS domain name that mail is addressed to: letters, digits and
// hyphens, 1 to 253 octets, lower-case A-labels, no trailing dot. The zero
// value is no domain. Domains compare with ==.
type Domain struct{ name string }

// ParseDomain reads a domain name in A-label or U-label form. One trailing dot
// is dropped. Address literals, underscores and control characters are errors.
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

// Unicode returns the U-label form for people; never use it for lookups.
func (d Domain) Unicode() string {
	u, err := idna.Display.ToUnicode(d.name)
	if err != nil {
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

// canonical brings a name into the form we compare, or says why it cannot.
func canonical(s string, underscore bool) (string, error) {
	s = strings.TrimSuffix(s, ".")
	if s == "" {
		return "", fmt.Errorf("empty name")
	}
	ascii := strings.ToLower(s)
	for i := 0; i < len(s); i++ {
		if s[i] >= 0x80 {
			a, err := idna.Lookup.ToASCII(s)
			if err != nil {
				return "", fmt.Errorf("not a valid internationalised name: %w", err)
			}
			ascii = a
			break
		}
	}
	if len(ascii) > 253 {
		return "", fmt.Errorf("longer than 253 octets")
	}
	for label := range strings.SplitSeq(ascii, ".") {
		if err := checkLabel(label, underscore); err != nil {
			return "", err
		}
	}
	return ascii, nil
}

func checkLabel(label string, underscore bool) error {
	if label == "" {
		return fmt.Errorf("empty label")
	}
	if len(label) > 63 {
		return fmt.Errorf("label longer than 63 octets")
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
