package delivery

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

func parseReply(s string) (reply, error) {
	return readReply(bufio.NewReaderSize(strings.NewReader(s), maxReplyLine))
}

func TestReadReply(t *testing.T) {
	tests := map[string]struct {
		in   string
		code int
		text string
	}{
		"one line": {"250 ok\r\n", 250, "ok"},
		"SMTP-4.2-03 the space and the text may be absent": {"250\r\n", 250, ""},
		"an empty text":                        {"354 \r\n", 354, ""},
		"several lines":                        {"250-a\r\n250-b\r\n250 c\r\n", 250, "a\nb\nc"},
		"the last line without text":           {"250-a\r\n250\r\n", 250, "a\n"},
		"a line that ends in a bare LF":        {"220 hi\n", 220, "hi"},
		"SMTP-4.2-01 an unknown code":          {"299 what\r\n", 299, "what"},
		"SMTP-4.2-01 an unknown negative code": {"599 what\r\n", 599, "what"},
		"the longest line":                     {"250 " + strings.Repeat("x", maxReplyLine-6) + "\r\n", 250, strings.Repeat("x", maxReplyLine-6)},
		"SMTP-4.2-04 128 lines":                {strings.Repeat("250-x\r\n", 127) + "250 x\r\n", 250, strings.Repeat("x\n", 127) + "x"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r, err := parseReply(tt.in)
			if err != nil || r.code != tt.code || r.text != tt.text {
				t.Errorf("got %d %.60q, %v", r.code, r.text, err)
			}
		})
	}
	for name, in := range map[string]string{
		"SMTP-4.2-03 codes that differ":                  "250-a\r\n550 b\r\n",
		"SMTP-4.2-02 a code of class 1":                  "199 x\r\n",
		"SMTP-4.2-02 a code of class 6":                  "600 x\r\n",
		"SMTP-4.2-02 a code of class 0":                  "000 x\r\n",
		"no code":                                        "hello\r\n",
		"an empty line":                                  "\r\n",
		"two digits":                                     "25\r\n",
		"four digits":                                    "2500 x\r\n",
		"an odd separator":                               "250_x\r\n",
		"SMTP-4.2-04 a line longer than the limit":       "250 " + strings.Repeat("x", maxReplyLine-5) + "\r\n",
		"SMTP-4.2-04 a line without end":                 strings.Repeat("2", 1<<20),
		"SMTP-4.2-04 more lines than the limit":          strings.Repeat("250-x\r\n", 128) + "250 x\r\n",
		"SMTP-4.2-04 lines without end":                  strings.Repeat("250-x\r\n", 1<<16),
		"SMTP-4.2-04 a long line after a good first one": "250-a\r\n250 " + strings.Repeat("x", maxReplyLine) + "\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			var malformed malformedReply
			if r, err := parseReply(in); !errors.As(err, &malformed) {
				t.Errorf("got %v, %v", r.code, err)
			}
		})
	}
	for name, in := range map[string]string{"nothing": "", "half a line": "250 o", "half a reply": "250-ok\r\n"} {
		t.Run("the connection ends after "+name, func(t *testing.T) {
			if _, err := parseReply(in); !errors.Is(err, io.EOF) {
				t.Errorf("error is %v", err)
			}
		})
	}
	t.Run("the next reply is left alone", func(t *testing.T) {
		r := bufio.NewReaderSize(strings.NewReader("250-a\r\n250 b\r\n354 go\r\n"), maxReplyLine)
		readReply(r)
		if next, err := readReply(r); err != nil || next.code != 354 {
			t.Errorf("got %v, %v", next, err)
		}
	})
}

func TestEnhanced(t *testing.T) {
	for name, tt := range map[string]struct {
		code int
		text string
		want [3]int
	}{
		"ESC-2034-4-01 class agrees with the reply":         {550, "5.1.1 no such user", [3]int{5, 1, 1}},
		"ESC-2034-4-01 class disagrees":                     {550, "4.1.1 no such user", [3]int{5, 0, 0}},
		"ESC-2034-4-01 no code in the text":                 {450, "try later", [3]int{4, 0, 0}},
		"ESC-3463-2-01 three digits in the detail":          {550, "5.7.509 Access denied", [3]int{5, 7, 509}},
		"ESC-3463-2-01 four digits are none":                {550, "5.7.5090 Access denied", [3]int{5, 0, 0}},
		"ESC-3463-2-01 leading zeros are none":              {550, "5.07.1 x", [3]int{5, 0, 0}},
		"ESC-3463-2-01 zero is a number":                    {250, "2.0.0 ok", [3]int{2, 0, 0}},
		"the code alone":                                    {250, "2.1.5", [3]int{2, 1, 5}},
		"the code alone in the first line":                  {550, "5.1.1\nno such user", [3]int{5, 1, 1}},
		"ESC-3463-2-01 two numbers are none":                {550, "5.1 x", [3]int{5, 0, 0}},
		"ESC-3463-2-01 four numbers are none":               {550, "5.1.1.1 x", [3]int{5, 0, 0}},
		"a host's name is none":                             {550, "5.example.com says no", [3]int{5, 0, 0}},
		"text glued to it is none":                          {550, "5.1.1, no such user", [3]int{5, 0, 0}},
		"an empty number is none":                           {550, "5..1 x", [3]int{5, 0, 0}},
		"nothing at all":                                    {421, "", [3]int{4, 0, 0}},
		"ESC-3463-2-01 class 3 is none, whatever the reply": {354, "3.0.0 go", [3]int{3, 0, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := (reply{tt.code, tt.text}).enhanced(); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestReplyString(t *testing.T) {
	for name, tt := range map[string]struct {
		r    reply
		want string
	}{
		"one line":                              {reply{250, "2.0.0 ok"}, "250 2.0.0 ok"},
		"no text":                               {reply{250, ""}, "250"},
		"lines become one":                      {reply{550, "5.1.1 no such user\n5.1.1 see http://x.example\n\n5.1.1"}, "550 5.1.1 no such user see http://x.example"},
		"SMUG-09 control characters go":         {reply{550, "a\x1b[31m\rb\x00c"}, "550 a [31m b c"},
		"SMUG-09 octets that are no text":       {reply{550, "caf\xe9"}, "550 caf?"},
		"UTF8-3.7.4-01 UTF-8 is kept":           {reply{551, "Grüße"}, "551 Grüße"},
		"a repeated code elsewhere is kept":     {reply{550, "5.1.1 a\nb 5.1.1"}, "550 5.1.1 a b 5.1.1"},
		"a server without enhanced status code": {reply{550, "no\nno"}, "550 no no"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := tt.r.String(); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	t.Run("SMUG-09 the length is bounded", func(t *testing.T) {
		if s := (reply{550, strings.Repeat(strings.Repeat("y", 90)+"\n", 128)}).String(); len(s) > maxReplyText || len(s) < 900 {
			t.Errorf("%d octets", len(s))
		}
	})
}

// countingReader tells how much was asked of it.
type countingReader struct {
	r io.Reader
	n int
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += n
	return n, err
}

func FuzzReadReply(f *testing.F) {
	for _, s := range []string{"250 ok\r\n", "250-a\r\n250 b\r\n", "250\r\n", "2x0 a\r\n", "250-a\n251 b\n", "550 5.1.1 no\r\n", "\r\n", "999 \r\n", "250-\r\n250\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		src := &countingReader{r: bytes.NewReader(in)}
		br := bufio.NewReaderSize(src, maxReplyLine)
		r, err := readReply(br)
		if read := src.n - br.Buffered(); read > maxReplyLine*(maxReplyLines+1) {
			t.Fatalf("took %d octets", read)
		}
		if err != nil {
			return
		}
		if r.code < 200 || r.code > 599 {
			t.Errorf("code %d", r.code)
		}
		if strings.Count(r.text, "\n") >= maxReplyLines || len(r.text) > maxReplyLine*maxReplyLines {
			t.Errorf("a text of %d octets", len(r.text))
		}
		e := r.enhanced()
		if e[0] != r.class() || e[1] > 999 || e[2] > 999 {
			t.Errorf("enhanced %v of code %d", e, r.code)
		}
		s := r.String()
		if len(s) > maxReplyText || strings.ContainsAny(s, "\r\n\x00\x1b") {
			t.Errorf("unclean: %q", s)
		}
	})
}

func BenchmarkReply(b *testing.B) {
	one := []byte("250 2.0.0 Ok: queued as 4XyZ0123456789\r\n")
	src := bytes.NewReader(nil)
	br := bufio.NewReaderSize(src, maxReplyLine)
	b.ReportAllocs()
	for b.Loop() {
		src.Reset(one)
		br.Reset(src)
		r, err := readReply(br)
		if err != nil || !r.ok() {
			b.Fatal(r, err)
		}
		_ = r.String()
	}
}
