package tlsrpt

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestClean(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"plain text stays as it is", "554 5.7.1 no thanks", "554 5.7.1 no thanks"},
		{"RPT-7-02 line ends become one space", "one\r\ntwo\r\n\r\nthree\r\n", "one two three"},
		{"RPT-7-02 controls go", "a\x00b\x1b[31mc\x7fd\u0085e", "a b [31mc d e"},
		{"RPT-7-02 ten kilobytes are cut to 200 octets", strings.Repeat("x", 10<<10), strings.Repeat("x", MaxReason)},
		{"a cut never splits a character", strings.Repeat("x", MaxReason-1) + "é", strings.Repeat("x", MaxReason-1)},
		{"a cut leaves no trailing space", strings.Repeat("x", MaxReason-1) + " y", strings.Repeat("x", MaxReason-1)},
		{"octets that are not UTF-8 are replaced", "caf\xe9 ok", "caf? ok"},
		{"text that turns the direction of writing is disarmed", "abc\u202edef", "abcdef"},
		{"nothing visible is nothing", " \t\r\n\u200b", ""},
		{"other alphabets are kept", "приёмник занят", "приёмник занят"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Clean(c.in); got != c.want {
				t.Errorf("Clean(%q) = %q, want %q", c.in, got, c.want)
			}
		})
	}
}

func FuzzClean(f *testing.F) {
	f.Add("554 5.7.1 no thanks\r\n")
	f.Add("\xff\xfe\u202e" + strings.Repeat("é ", 200))
	f.Fuzz(func(t *testing.T, s string) {
		got := Clean(s)
		if len(got) > MaxReason || !utf8.ValidString(got) || strings.ContainsFunc(got, unicode.IsControl) {
			t.Errorf("Clean(%q) = %q", s, got)
		}
		if again := Clean(got); again != got {
			t.Errorf("Clean is not idempotent: %q, then %q", got, again)
		}
	})
}
