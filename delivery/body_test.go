package delivery

import (
	"bufio"
	"bytes"
	"strings"
	"testing"
)

// wire returns what goes out for content that is read in portions of n octets.
func wire(t testing.TB, content []byte, n int) []byte {
	t.Helper()
	var out bytes.Buffer
	w := bufio.NewWriterSize(&out, 16)
	b := &bodyWriter{w: w}
	for len(content) > 0 {
		k := min(n, len(content))
		if m, err := b.Write(content[:k]); m != k || err != nil {
			t.Fatalf("wrote %d of %d: %v", m, k, err)
		}
		content = content[k:]
	}
	if err := b.end(); err != nil {
		t.Fatal(err)
	}
	w.Flush()
	return out.Bytes()
}

func TestBody(t *testing.T) {
	for name, tt := range map[string]struct{ in, want string }{
		"SMTP-4.1.1.4-01 nothing":                                  {"", ".\r\n"},
		"SMTP-4.1.1.4-01 content that ends in CRLF gets no more":   {"x\r\n", "x\r\n.\r\n"},
		"SMTP-4.1.1.4-01 content that does not gets one":           {"x", "x\r\n.\r\n"},
		"SMTP-4.1.1.4-01 an empty last line stays":                 {"x\r\n\r\n", "x\r\n\r\n.\r\n"},
		"SMTP-4.5.2-01 a lone dot":                                 {".\r\n", "..\r\n.\r\n"},
		"SMTP-4.5.2-01 dots that open lines":                       {".\r\n..\r\n.a\r\n", "..\r\n...\r\n..a\r\n.\r\n"},
		"SMTP-4.5.2-01 dots within lines":                          {"a.b.\r\n", "a.b.\r\n.\r\n"},
		"SMTP-4.5.2-01 a last dot without line end":                {"a\r\n.", "a\r\n..\r\n.\r\n"},
		"SMTP-2.3.8-02 a bare LF becomes CRLF":                     {"a\nb\n", "a\r\nb\r\n.\r\n"},
		"SMUG-04 LF dot LF is a line with a dot":                   {"a\n.\nb", "a\r\n..\r\nb\r\n.\r\n"},
		"SMUG-04 LF dot CRLF":                                      {"a\n.\r\nb", "a\r\n..\r\nb\r\n.\r\n"},
		"SMUG-04 CRLF dot LF":                                      {"a\r\n.\nb", "a\r\n..\r\nb\r\n.\r\n"},
		"SMUG-04 CR dot CR":                                        {"a\r.\rb", "a . b\r\n.\r\n"},
		"SMUG-04 CRLF dot CR":                                      {"a\r\n.\rb", "a\r\n.. b\r\n.\r\n"},
		"SMUG-04 CR dot CRLF":                                      {"a\r.\r\nb", "a .\r\nb\r\n.\r\n"},
		"SMTP-2.3.8-02 a bare CR becomes a space":                  {"a\rb\r\n", "a b\r\n.\r\n"},
		"SMTP-2.3.8-02 CR CR LF":                                   {"a\r\r\n", "a \r\n.\r\n"},
		"SMTP-2.3.8-02 a last CR":                                  {"a\r", "a \r\n.\r\n"},
		"SMTP-2.3.8-02 CR after a line's end":                      {"a\r\n\r", "a\r\n \r\n.\r\n"},
		"SMUG-04 a NUL is no line end":                             {"a\r\n\x00.\r\n", "a\r\n\x00.\r\n.\r\n"},
		"eight bits stay":                                          {"\x80\xff\r\n", "\x80\xff\r\n.\r\n"},
		"8BIT-3-03 a line of 5000 octets above 0x7F, with a dot":   {"." + strings.Repeat("\xfc", 5000) + "\r\n", ".." + strings.Repeat("\xfc", 5000) + "\r\n.\r\n"},
		"SMTP-4.5.3.1-02 a line of 5000 octets":                    {strings.Repeat("x", 5000) + "\r\n", strings.Repeat("x", 5000) + "\r\n.\r\n"},
		"SMTP-2.4-04 malformed MIME is not looked at":              {"Content-Type: ???\r\n\r\n--\r\n", "Content-Type: ???\r\n\r\n--\r\n.\r\n"},
		"SMTP-4.5.2-01 a dot that only CR and LF separate from it": {"\r\n\n.\n", "\r\n\r\n..\r\n.\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			for n := 1; n <= 4; n++ {
				if got := wire(t, []byte(tt.in), n); string(got) != tt.want {
					t.Errorf("read %d at a time: got %q, want %q", n, got, tt.want)
				}
			}
			if got := wire(t, []byte(tt.in), 1<<20); string(got) != tt.want {
				t.Errorf("read at once: got %q, want %q", got, tt.want)
			}
		})
	}
}

// unstuff is a server's view of DATA, strict to the letter: it returns the
// content, or why no strict server and no lax one could agree on it.
func unstuff(b []byte) (content []byte, complaint string) {
	for {
		line, rest, ok := bytes.Cut(b, []byte("\r\n"))
		switch {
		case !ok:
			return nil, "no end"
		case bytes.ContainsAny(line, "\r\n"):
			return nil, "a bare CR or LF"
		case string(line) == "." && len(rest) > 0:
			return nil, "ends too early"
		case string(line) == ".":
			return content, ""
		}
		content = append(append(content, bytes.TrimPrefix(line, []byte("."))...), '\r', '\n')
		b = rest
	}
}

// normal is what content means in lines: the model that the wire is held to.
func normal(b []byte) []byte {
	b = bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n"))
	b = bytes.ReplaceAll(b, []byte("\r"), []byte(" "))
	if len(b) > 0 && !bytes.HasSuffix(b, []byte("\n")) {
		b = append(b, '\n')
	}
	return bytes.ReplaceAll(b, []byte("\n"), []byte("\r\n"))
}

func FuzzBody(f *testing.F) {
	for _, s := range []string{"", ".", "a\r\n.\r\n", "\n.\n", "\r.\r", "a\r", "\r\r\n", "x\r\n..y\r\n"} {
		f.Add([]byte(s), 3)
	}
	f.Fuzz(func(t *testing.T, content []byte, n int) {
		out := wire(t, content, max(n, 1))
		got, complaint := unstuff(out)
		if complaint != "" {
			t.Fatalf("%s in %q", complaint, out)
		}
		if want := normal(content); !bytes.Equal(got, want) {
			t.Errorf("arrives as %q, want %q", got, want)
		}
	})
}

func BenchmarkBody(b *testing.B) {
	content := []byte(strings.Repeat(strings.Repeat("x", 70)+"\r\n", 142))
	w := bufio.NewWriterSize(discard{}, writeBuffer)
	b.SetBytes(int64(len(content)))
	for b.Loop() {
		body := &bodyWriter{w: w}
		body.Write(content)
		body.end()
	}
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
