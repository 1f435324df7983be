package delivery

import (
	"bufio"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"stsrelay/tlsrpt"
)

// What a reply may cost us, whatever the server sends (ledger SMTP-4.2-04).
const (
	maxReplyLine  = 4096 // octets with CRLF; the size of the read buffer
	maxReplyLines = 128
	maxReplyText  = 1000 // octets kept for logs and DSNs
)

// A malformedReply is a reply that is none (RFC 5321, Section 4.2): the
// session cannot be understood any more and ends (ledger SMTP-4.2-02, -03).
type malformedReply string

func (e malformedReply) Error() string { return "malformed reply: " + string(e) }

// A reply is one SMTP reply (RFC 5321, Section 4.2).
type reply struct {
	code int    // 200 to 599
	text string // the lines without code, as received, joined by LF
}

// readReply reads one reply. Its errors are a malformedReply or those of r.
// The lines of r must be bounded by its buffer: of maxReplyLine octets.
func readReply(r *bufio.Reader) (reply, error) {
	code, text, more, err := readReplyLine(r)
	if err != nil {
		return reply{}, err
	}
	if !more {
		return reply{code, text}, nil
	}
	lines := []string{text}
	for more {
		if len(lines) == maxReplyLines {
			return reply{}, malformedReply(fmt.Sprintf("more than %d lines", maxReplyLines))
		}
		var next int
		if next, text, more, err = readReplyLine(r); err != nil {
			return reply{}, err
		}
		if next != code {
			return reply{}, malformedReply(fmt.Sprintf("code %d in a reply that began with %d", next, code))
		}
		lines = append(lines, text)
	}
	return reply{code, strings.Join(lines, "\n")}, nil
}

// readReplyLine reads "250-text" or "250 text"; the space and the text may be
// absent in the last line (ledger SMTP-4.2-03). A line that ends in a bare LF
// is understood: nothing depends on it here.
func readReplyLine(r *bufio.Reader) (code int, text string, more bool, err error) {
	line, err := r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return 0, "", false, malformedReply(fmt.Sprintf("a line longer than %d octets", r.Size()))
	}
	if err != nil {
		return 0, "", false, err
	}
	line = line[:len(line)-1]
	if n := len(line); n > 0 && line[n-1] == '\r' {
		line = line[:n-1]
	}
	if len(line) < 3 || !isDigit(line[0]) || !isDigit(line[1]) || !isDigit(line[2]) {
		return 0, "", false, malformedReply(strconv.Quote(tlsrpt.Clean(string(line))))
	}
	code = int(line[0]-'0')*100 + int(line[1]-'0')*10 + int(line[2]-'0')
	if code < 200 || code > 599 { // ledger SMTP-4.2-02
		return 0, "", false, malformedReply(fmt.Sprintf("code %03d", code))
	}
	switch {
	case len(line) == 3:
		return code, "", false, nil
	case line[3] == '-' || line[3] == ' ':
		return code, string(line[4:]), line[3] == '-', nil
	}
	return 0, "", false, malformedReply(strconv.Quote(tlsrpt.Clean(string(line))))
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// class is the first digit, by which unknown codes are understood (RFC 5321,
// Section 4.2; ledger SMTP-4.2-01).
func (r reply) class() int { return r.code / 100 }

func (r reply) ok() bool { return r.class() == 2 }

// enhanced is the enhanced status code that opens the text, when its class
// agrees with that of the reply, else class.0.0 (RFC 2034, Section 4; ledger
// ESC-2034-4-01).
func (r reply) enhanced() [3]int {
	if e, _, ok := cutEnhanced(r.text); ok && e[0] == r.class() {
		return e
	}
	return [3]int{r.class(), 0, 0}
}

// cutEnhanced takes an enhanced status code off the front of s: class 2, 4 or
// 5, then two numbers of 1 to 3 digits without leading zeros (RFC 3463,
// Section 2; ledger ESC-3463-2-01).
func cutEnhanced(s string) (e [3]int, rest string, ok bool) {
	if i := strings.IndexAny(s, " \n"); i >= 0 {
		s, rest = s[:i], s[i+1:]
	}
	if len(s) < 5 || len(s) > len("5.999.999") {
		return e, "", false
	}
	for i := range e {
		part, after, dot := strings.Cut(s, ".")
		if dot != (i < 2) || len(part) == 0 || len(part) > 3 || part[0] == '0' && len(part) > 1 {
			return e, "", false
		}
		for _, c := range []byte(part) {
			if !isDigit(c) {
				return e, "", false
			}
			e[i] = e[i]*10 + int(c-'0')
		}
		s = after
	}
	return e, rest, e[0] == 2 || e[0] == 4 || e[0] == 5
}

// String is the reply fit for logs, DSNs and reports: one clean line (ledger
// SMUG-09), without the enhanced code that some servers repeat in every line.
func (r reply) String() string {
	code := strconv.Itoa(r.code)
	if r.text == "" {
		return code
	}
	first, others, _ := strings.Cut(r.text, "\n")
	out := code + " " + tlsrpt.Clean(first)
	again := ""
	if _, _, ok := cutEnhanced(first); ok {
		again, _, _ = strings.Cut(first, " ")
	}
	for others != "" {
		var line string
		line, others, _ = strings.Cut(others, "\n")
		line = tlsrpt.Clean(strings.TrimPrefix(line, again))
		if len(out)+1+len(line) > maxReplyText {
			break
		}
		if line != "" {
			out += " " + line
		}
	}
	return out
}
