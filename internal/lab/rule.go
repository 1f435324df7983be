package lab

import (
	"slices"
	"strings"
	"time"
)

// The stages of a conversation that a Rule can speak of, besides the verbs of
// commands ("EHLO", "STARTTLS", "MAIL", "RCPT", "DATA", "RSET", "QUIT", ...).
const (
	Connect   = "CONNECT"   // before the greeting, which Reply replaces
	TLSStart  = "HANDSHAKE" // after the reply to STARTTLS, before the handshake
	Content   = "CONTENT"   // after Bytes octets of content
	EndOfData = "."         // after the final dot
	Any       = "*"         // every verb, CONNECT and the final dot
)

// An Action is what a host does after the reply of a Rule.
type Action int

const (
	Continue Action = iota // goes on; without Reply and Raw it replies as usual
	Hangup                 // closes the connection
	Reset                  // closes it with a TCP reset
	Stall                  // says and reads nothing more, until the client closes the connection or the world ends
	Endless                // sends Raw, or lines of a reply that never ends, for as long as the client reads
)

// A Rule says what an MX host does at one point instead of the usual. The
// first rule of MX.Rules that fits and is not used up has its way.
//
//	{On: "RCPT", Reply: "450 4.2.0 greylisted", Times: 1}           // the first time only
//	{On: "RCPT", Arg: "<bob@", Reply: "550 5.1.1 who is bob?"}      // one recipient
//	{On: lab.EndOfData, Then: lab.Hangup}                           // lost after the final dot
//	{On: "STARTTLS", Raw: "220 go\r\n250 injected\r\n"}             // CVE-2011-0411 the other way round
type Rule struct {
	On    string // stage or verb, in any case
	Arg   string // what the command line must contain, in any case; "" is anything
	Phase Phase  // only before, or only over TLS
	Skip  int    // let that many fitting events pass, counted over all connections of the host
	Times int    // then rule that many; 0: all
	Bytes int    // for Content

	Call  func()          // is called first; it may block
	Delay time.Duration   // then this long nothing happens
	Until <-chan struct{} // and nothing until this is closed

	Reply string // "550 5.1.1 no such user"; lines apart by \n are numbered as a multi-line reply
	Raw   string // these bytes instead, as they are
	Then  Action
}

// A Phase is a part of a conversation.
type Phase int

const (
	Always Phase = iota
	Plain        // before TLS
	Secure       // over TLS
)

// An event is a point in a conversation that rules are asked about.
type event struct {
	stage string // verb or stage, upper case
	line  string // the command, "" at other stages
	tls   bool
	said  func(code string) // is told the code of the reply before it leaves
}

func (r *Rule) matches(e event) bool {
	switch {
	case r.Phase == Plain && e.tls, r.Phase == Secure && !e.tls:
		return false
	case r.On == Any:
		return e.stage != Content && e.stage != TLSStart && contains(e.line, r.Arg)
	}
	return strings.EqualFold(r.On, e.stage) && contains(e.line, r.Arg)
}

func (r *Rule) check() {
	if r.On == "" {
		panic("lab: a Rule needs On: a verb or a stage")
	}
	if r.Reply != "" && r.Raw != "" {
		panic("lab: a Rule for " + r.On + " has both Reply and Raw")
	}
}

func contains(line, part string) bool {
	return strings.Contains(strings.ToUpper(line), strings.ToUpper(part))
}

// silent reports whether the host says nothing before what it does.
func (r *Rule) silent() bool { return r.Reply == "" && r.Raw == "" && r.Then != Continue }

// text is what is sent, "" for the usual reply.
func (r *Rule) text() string {
	if r.Raw != "" {
		return r.Raw
	}
	if r.Reply == "" {
		return ""
	}
	return multiline(r.Reply)
}

// multiline writes a reply of one or many lines with its CRLFs. The code of
// the first line is put before the others that lack it.
func multiline(reply string) string {
	lines := strings.Split(reply, "\n")
	code := codeOf(reply)
	var b strings.Builder
	for i, l := range lines {
		if len(lines) == 1 || code == "" {
			b.WriteString(l + "\r\n")
			continue
		}
		l = strings.TrimLeft(strings.TrimPrefix(l, code), " -")
		sep := "-"
		if i == len(lines)-1 {
			sep = " "
		}
		b.WriteString(code + sep + l + "\r\n")
	}
	return b.String()
}

// codeOf is the reply code that a text begins with, "" without one.
func codeOf(s string) string {
	if len(s) < 3 || slices.ContainsFunc([]byte(s[:3]), func(c byte) bool { return c < '0' || c > '9' }) {
		return ""
	}
	return s[:3]
}
