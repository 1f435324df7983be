package relay

import "strings"

// A tlsRequired is what a header says of TLS (RFC 8689, Section 3; ledger
// RTLS-3-01).
type tlsRequired struct {
	fields int
	no     bool // the last one says "No"
}

// note takes the value of one TLS-Required field.
func (t *tlsRequired) note(value string) {
	t.fields++
	t.no = strings.EqualFold(strings.Trim(value, " \t"), "No")
}

// isNo reports whether TLS is not required. Two fields contradict each other,
// whatever they say, and a value that nobody knows says nothing.
func (t *tlsRequired) isNo() bool { return t.fields == 1 && t.no }
