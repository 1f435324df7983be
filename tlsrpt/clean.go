package tlsrpt

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Clean makes text taken from a peer fit to be kept, logged and reported: one
// line of valid UTF-8, at most MaxReason octets (ledger RPT-7-02). White space
// and control characters become single spaces, invisible formatting characters
// (among them those that turn the direction of writing) vanish, and octets that
// are not UTF-8 become "?". Clean(Clean(s)) is Clean(s).
func Clean(s string) string {
	var b strings.Builder
	space := false // one is owed before the next visible character
	for _, r := range s {
		switch {
		case unicode.IsSpace(r) || unicode.IsControl(r):
			space = b.Len() > 0
			continue
		case unicode.Is(unicode.Cf, r):
			continue
		case r == utf8.RuneError:
			r = '?'
		}
		need := utf8.RuneLen(r)
		if space {
			need++
		}
		if b.Len()+need > MaxReason {
			return b.String()
		}
		if space {
			b.WriteByte(' ')
			space = false
		}
		b.WriteRune(r)
	}
	return b.String()
}
