package lab

import (
	"bytes"
	"fmt"
	"strings"
)

// What a Violation can be about.
const (
	EarlyTalk     = "spoke before the greeting"
	BareLineEnd   = "a CR or LF that is not part of a CRLF"                             // RFC 5321, Section 2.3.8
	LongCommand   = "a command line that is too long"                                   // RFC 5321, Section 4.5.3.1.4
	NoPipelining  = "did not wait for a reply, and PIPELINING is not offered"           // RFC 5321, Section 4.3.1
	NotLast       = "sent something after a command that must be the last of its group" // RFC 2920, Section 3.1
	AfterStartTLS = "sent something in the clear after STARTTLS"                        // RFC 3207, Section 4
	EarlyContent  = "sent content before 354"                                           // RFC 2920, Section 3.1
	LateContent   = "sent content after DATA was refused"
	Unstuffed     = "a content line begins with a dot that is not doubled" // RFC 5321, Section 4.5.2
	NotOffered    = "used what EHLO does not offer"                        // RFC 5321, Section 2.2.1
	EightBit      = "8-bit content without BODY=8BITMIME"                  // RFC 6152, Section 2
	NoHello       = "no EHLO or HELO, or none since TLS began"             // RFC 3207, Section 4.2
	WrongOrder    = "a command out of order"                               // RFC 5321, Section 4.1.4
	Syntax        = "a command that is written wrongly"
	Unknown       = "no such command"
)

// pending reports whether the client has sent more than what has been read.
func (c *conversation) pending() bool {
	if c.in.Buffered() > 0 {
		return true
	}
	if c.below != nil {
		return c.below.pending()
	}
	return peek(c.tcp, make([]byte, 1)) > 0
}

func (c *conversation) violation(what, line string) {
	v := Violation{c.n, what, line}
	c.h.note(func(s *seen) { s.violations = append(s.violations, v) })
}

// checkLine looks at a command line with its line end.
func (c *conversation) checkLine(raw string) {
	line, ok := strings.CutSuffix(raw, "\r\n")
	if !ok || strings.ContainsAny(line, "\r\n") {
		c.violation(BareLineEnd, raw)
	}
	limit := 512
	if len(params(line)) > 0 { // extensions lengthen it: RFC 3461, Section 5.4 alone by 500
		limit = 2048
	}
	if len(raw) > limit {
		c.violation(LongCommand, line)
	}
}

// checkFlight looks at what came together with a command. The reply to it has
// not left yet, so that a client that waits for replies cannot have sent
// anything.
func (c *conversation) checkFlight(verb, line string) {
	if !c.pending() {
		return
	}
	_, pipelining := c.offers("PIPELINING")
	switch verb {
	case "STARTTLS":
		c.violation(AfterStartTLS, line)
	case "DATA":
		c.violation(EarlyContent, line)
	case "EHLO", "HELO", "AUTH", "QUIT", "NOOP", "VRFY", "EXPN":
		c.violation(NotLast, line)
	default:
		if !pipelining {
			c.violation(NoPipelining, line)
		}
	}
}

var verbs = map[string]bool{
	"EHLO": true, "HELO": true, "STARTTLS": true, "AUTH": true, "MAIL": true, "RCPT": true, "DATA": true, "RSET": true,
	"NOOP": true, "QUIT": true, "VRFY": true, "EXPN": true, "HELP": true,
}

// checkOrder looks at a command in its place.
func (c *conversation) checkOrder(verb, line string) {
	late := c.noData && !verbs[verb]
	c.noData = c.noData && !verbs[verb]
	switch verb {
	case "EHLO", "HELO":
		if len(strings.Fields(line)) != 2 {
			c.violation(Syntax, line)
		}
	case "STARTTLS":
		if c.tls != nil || c.conf.NoStartTLS || !c.esmtp {
			c.violation(NotOffered, line)
		}
	case "MAIL", "RCPT", "DATA":
		c.checkTransaction(verb, line)
	default:
		switch {
		case late:
			c.violation(LateContent, line)
		case !verbs[verb]:
			c.violation(Unknown, line)
		}
	}
}

// checkTransaction looks at the order of MAIL, RCPT and DATA. A client that
// pipelines cannot know of a refusal, so that after one it may go on.
func (c *conversation) checkTransaction(verb, line string) {
	switch {
	case c.helo == "":
		c.violation(NoHello, line)
	case verb == "MAIL" && c.mail != "",
		verb == "RCPT" && c.mail == "" && !c.refused,
		verb == "DATA" && len(c.rcpts) == 0 && !c.refused:
		c.violation(WrongOrder, line)
	}
}

// needs says which keyword a parameter of MAIL or RCPT needs in EHLO.
var needs = map[string]string{
	"MAIL SIZE":        "SIZE",
	"MAIL BODY":        "8BITMIME",
	"MAIL SMTPUTF8":    "SMTPUTF8",
	"MAIL RET":         "DSN",
	"MAIL ENVID":       "DSN",
	"MAIL AUTH":        "AUTH",
	"MAIL REQUIRETLS":  "REQUIRETLS",
	"MAIL BY":          "DELIVERBY",
	"MAIL MT-PRIORITY": "MT-PRIORITY",
	"RCPT NOTIFY":      "DSN",
	"RCPT ORCPT":       "DSN",
	"RCPT RRVS":        "RRVS",
}

// checkPath looks at a MAIL or RCPT command.
func (c *conversation) checkPath(verb, line string) {
	p, prefix := path(line), map[string]string{"MAIL": "MAIL FROM:<", "RCPT": "RCPT TO:<"}[verb]
	if p == nil || !strings.HasPrefix(strings.ToUpper(line), prefix) {
		c.violation(Syntax, line)
		return
	}
	for name, value := range params(line) {
		keyword, known := needs[verb+" "+name]
		if _, offered := c.offers(keyword); !known || !offered {
			c.violation(fmt.Sprintf("%s: %s", NotOffered, name), line)
		}
		if name == "REQUIRETLS" && c.tls == nil || name == "BODY" && strings.EqualFold(value, "BINARYMIME") {
			c.violation(fmt.Sprintf("%s: %s", NotOffered, name), line)
		}
	}
	_, utf8 := params(first(c.sender, line))["SMTPUTF8"]
	if eight([]byte(line)) && !utf8 {
		c.violation(NotOffered+": SMTPUTF8", line)
	}
}

// checkContent looks at one content line with its line end.
func (c *conversation) checkContent(raw []byte) {
	line, ok := bytes.CutSuffix(raw, []byte("\r\n"))
	if !ok || bytes.ContainsAny(line, "\r\n") {
		c.violation(BareLineEnd, string(raw))
	}
	if line = bytes.TrimRight(line, "\r\n"); len(line) > 1 && line[0] == '.' && line[1] != '.' {
		c.violation(Unstuffed, string(raw))
	}
}

// checkEight looks at the declaration of content that is not ASCII.
func (c *conversation) checkEight() {
	if !strings.EqualFold(params(c.mail)["BODY"], "8BITMIME") {
		c.violation(EightBit, c.mail)
	}
}

func eight(b []byte) bool {
	for _, c := range b {
		if c > 127 {
			return true
		}
	}
	return false
}
