package delivery

import (
	"bufio"
	"bytes"
)

// A bodyWriter writes content as DATA wants it (RFC 5321, Sections 2.3.8,
// 4.1.1.4 and 4.5.2): a dot that opens a line is doubled, and whatever the
// stored octets are, the wire never has a bare CR, a bare LF or a lone dot
// that is not the end (ledger SMUG-04). A bare LF becomes CRLF. A bare CR
// becomes a space, as Postfix has it (cleanup_replace_stray_cr_lf): made a line
// end it could open a header field that nobody signed or checked. Content that
// obeys the RFC goes out octet for octet.
type bodyWriter struct {
	w      *bufio.Writer // keeps its first error, so only Write and end look
	midway bool          // the last octet written is not the end of a line
	cr     bool          // a CR was read and is not written yet
}

// Write implements io.Writer over content in any portions.
func (b *bodyWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			b.part(p)
			break
		}
		b.part(p[:i])
		b.newline()
		p = p[i+1:]
	}
	_, err := b.w.Write(nil) // the error of any write above
	return n, err
}

// part writes a portion of one line, without its LF.
func (b *bodyWriter) part(p []byte) {
	if len(p) == 0 {
		return
	}
	b.bareCR()
	if last := len(p) - 1; p[last] == '\r' {
		p, b.cr = p[:last], true
	}
	for {
		i := bytes.IndexByte(p, '\r')
		if i < 0 {
			b.text(p)
			return
		}
		b.text(p[:i])
		b.text([]byte{' '})
		p = p[i+1:]
	}
}

// bareCR settles a CR that turned out to be followed by no LF.
func (b *bodyWriter) bareCR() {
	if b.cr {
		b.cr = false
		b.text([]byte{' '})
	}
}

func (b *bodyWriter) newline() {
	b.cr, b.midway = false, false
	b.w.WriteString("\r\n")
}

// text writes octets that hold neither CR nor LF.
func (b *bodyWriter) text(p []byte) {
	if len(p) == 0 {
		return
	}
	if !b.midway && p[0] == '.' {
		b.w.WriteByte('.')
	}
	b.midway = true
	b.w.Write(p)
}

// end writes what ends the content: CRLF if the last line lacks it, and the
// dot; never an empty line of our own (ledger SMTP-4.1.1.4-01).
func (b *bodyWriter) end() error {
	b.bareCR()
	if b.midway {
		b.newline()
	}
	_, err := b.w.WriteString(".\r\n")
	return err
}
