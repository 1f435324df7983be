package relay

import (
	"bytes"
	"crypto/tls"
)

// command looks at a whole command line, and says what the client hears of it
// if it is refused. More says that the client has sent more behind it.
func (c *shim) command(line []byte, more bool) (words string) {
	text, crlf := bytes.CutSuffix(line, []byte("\r\n"))
	broken := !crlf || bytes.IndexByte(text, '\r') >= 0
	if bytes.IndexByte(line, 0) >= 0 || broken && !c.o.loose { // ledger SMUG-05
		return "500 5.5.2 a command line has a NUL, or a CR or LF that is not part of a CRLF\r\n"
	}
	text = bytes.TrimRight(line, "\r\n") // as go-smtp does
	if len(text) < 4 {
		return ""
	}
	verb, argument := string(bytes.ToUpper(text[:4])), bytes.TrimSpace(text[4:])
	switch {
	case verb == "BDAT": // what follows would be taken for commands
		return "502 5.5.1 BDAT is not there: CHUNKING was not offered\r\n"
	case verb == "DATA" && len(argument) == 0 && more: // ledger SMUG-06
		return early
	case c.offersTLS() && bytes.EqualFold(bytes.TrimSpace(text), []byte("STARTTLS")):
		if more { // RFC 3207, Section 4: it is the last of its group
			return early
		}
		c.upgrade = true
	}
	return ""
}

// next takes the next command line, for go-smtp or to answer it here.
func (c *shim) next() {
	end := bytes.IndexByte(c.in[:c.ready], '\n') + 1
	line := c.in[:end]
	c.in, c.ready = c.in[end:], c.ready-end
	c.line, c.args = line, ""
	text := bytes.TrimRight(line, "\r\n")
	if verb, argument, _ := bytes.Cut(text, []byte(" ")); len(bytes.TrimSpace(argument)) > 0 {
		switch verb := string(bytes.ToUpper(verb)); {
		case verb == "EHLO", verb == "HELO":
			c.greeted, c.esmtp = true, verb == "EHLO"
		case verb == "STARTTLS" && c.o.tls != nil:
			c.line = nil
			_, _ = c.Write([]byte("501 5.5.4 STARTTLS has no parameters (RFC 3207, Section 4)\r\n")) // the next read tells
		}
	}
	command, path, args, ok := cutPath(text)
	if !ok {
		return
	}
	if command == "RCPT TO:" && bytes.EqualFold(path, []byte("<postmaster>")) { // RFC 5321, Section 4.5.1; S9
		path = []byte(c.o.postmaster)
	}
	c.args = string(args)
	c.line = append(append([]byte(command), path...), "\r\n"...)
}

// cutPath cuts a MAIL or RCPT command into its two words, its path and its
// parameters. It need not see the end of every path where go-smtp sees it: what
// go-smtp finds behind the end of a path is a parameter that it does not know,
// or one that nobody asks it for.
func cutPath(text []byte) (command string, path, args []byte, ok bool) {
	if len(text) < 6 || text[4] != ' ' {
		return "", nil, nil, false
	}
	command = "MAIL FROM:"
	if bytes.EqualFold(text[:4], []byte("RCPT")) {
		command = "RCPT TO:"
	} else if !bytes.EqualFold(text[:4], []byte("MAIL")) {
		return "", nil, nil, false
	}
	rest, word := bytes.TrimSpace(text[5:]), command[5:]
	if len(rest) < len(word) || !bytes.EqualFold(rest[:len(word)], []byte(word)) {
		return "", nil, nil, false
	}
	rest = bytes.TrimSpace(rest[len(word):])
	end := pathEnd(rest)
	return command, rest[:end], rest[end:], true
}

// pathEnd finds the end of the path that s begins with: the first ">" outside
// quotes, or the first blank if the path has no angle brackets.
func pathEnd(s []byte) int {
	angle, quoted := bytes.HasPrefix(s, []byte("<")), false
	for i := 0; i < len(s); i++ {
		switch {
		case quoted && s[i] == '\\':
			i++
		case s[i] == '"':
			quoted = !quoted
		case quoted:
		case angle && s[i] == '>':
			return i + 1
		case !angle && isBlank(rune(s[i])):
			return i
		}
	}
	return len(s)
}

func isBlank(r rune) bool { return r == ' ' || r == '\t' }

// keywords are the extensions that go-smtp does not offer for itself: its
// servers would read the parameters that belong to them (S18). REQUIRETLS is
// there inside TLS only (RFC 8689, Section 2).
func (c *shim) keywords() string {
	lines := "250-SMTPUTF8\r\n250-DSN\r\n"
	switch {
	case c.offersTLS():
		lines += "250-STARTTLS\r\n"
	case c.isSecure():
		lines += "250-REQUIRETLS\r\n"
	}
	return lines
}

// isSecure reports whether there is TLS.
func (c *shim) isSecure() bool {
	_, ok := c.Conn.(*tls.Conn)
	return ok
}
