package relay

import (
	"strings"
	"testing"
)

func TestLineEnds(t *testing.T) {
	const refused = "refused"
	for _, tt := range []struct{ name, in, strict, mended string }{
		{"nothing", "", "", ""},
		{"sound lines", "a\r\n\r\nb\r\n", "a\r\n\r\nb\r\n", "a\r\n\r\nb\r\n"},
		{"no end of the last line", "a\r\nb", "a\r\nb", "a\r\nb"},
		{"SMUG-02 a bare LF", "a\nb\r\n", refused, "a\r\nb\r\n"},
		{"SMUG-02 a bare LF at the start", "\na\r\n", refused, "\r\na\r\n"},
		{"SMUG-02 a bare CR", "a\rb\r\n", refused, "a\r\nb\r\n"},
		{"SMUG-02 a bare CR at the end", "a\r\nb\r", refused, "a\r\nb\r\n"},
		{"SMUG-02 two CRs and a LF", "a\r\r\nb", refused, "a\r\n\r\nb"},
		{"SMUG-02 a LF after a CRLF", "a\r\n\nb", refused, "a\r\n\r\nb"},
		{"SMUG-02 LF dot LF", "a\n.\nb\r\n", refused, "a\r\n.\r\nb\r\n"},
		{"SMUG-02 CR dot CR", "a\r.\rb\r\n", refused, "a\r\n.\r\nb\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for size := 1; size <= len(tt.in)+1; size++ {
				if got := inPieces(&lineEnds{}, tt.in, size); got != tt.strict {
					t.Errorf("in pieces of %d: %q, not %q", size, got, tt.strict)
				}
				if got := inPieces(&lineEnds{normalize: true}, tt.in, size); got != tt.mended {
					t.Errorf("mended in pieces of %d: %q, not %q", size, got, tt.mended)
				}
			}
		})
	}
}

func inPieces(l *lineEnds, in string, size int) string {
	var b strings.Builder
	for {
		n := min(size, len(in))
		last := n == len(in)
		out, ok := l.convert([]byte(in[:n]), last)
		if !ok {
			return "refused"
		}
		b.Write(out)
		if in = in[n:]; last {
			return b.String()
		}
	}
}
