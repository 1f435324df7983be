package relay

import (
	"strings"
	"testing"
)

func TestLineEnds(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"nothing", "", ""},
		{"sound lines", "a\r\n\r\nb\r\n", "a\r\n\r\nb\r\n"},
		{"no end of the last line", "a\r\nb", "a\r\nb"},
		{"SMUG-03 a bare LF", "a\nb\r\n", "a\r\nb\r\n"},
		{"SMUG-03 a bare LF at the start", "\na\r\n", "\r\na\r\n"},
		{"SMUG-03 a bare CR", "a\rb\r\n", "a\r\nb\r\n"},
		{"SMUG-03 a bare CR at the end", "a\r\nb\r", "a\r\nb\r\n"},
		{"SMUG-03 two CRs and a LF", "a\r\r\nb", "a\r\n\r\nb"},
		{"SMUG-03 a LF after a CRLF", "a\r\n\nb", "a\r\n\r\nb"},
		{"SMUG-03 LF dot LF", "a\n.\nb\r\n", "a\r\n.\r\nb\r\n"},
		{"SMUG-03 CR dot CR", "a\r.\rb\r\n", "a\r\n.\r\nb\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for size := 1; size <= len(tt.in)+1; size++ {
				if got := inPieces(tt.in, size); got != tt.want {
					t.Errorf("in pieces of %d: %q, not %q", size, got, tt.want)
				}
			}
		})
	}
}

func inPieces(in string, size int) string {
	var l lineEnds
	var b strings.Builder
	for {
		n := min(size, len(in))
		last := n == len(in)
		b.Write(l.mend([]byte(in[:n]), last))
		if in = in[n:]; last {
			return b.String()
		}
	}
}
