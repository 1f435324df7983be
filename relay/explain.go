package relay

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"stsrelay/delivery"
	"stsrelay/internal/addr"
)

// subject names the recipient, or how many there are.
func (d dsn) subject() string {
	who := d.About[0].Address.String()
	if n := len(d.About); n > 1 {
		who = fmt.Sprintf("%d recipients", n)
	}
	switch d.Kind {
	case dsnDelayed:
		return "Delayed, still trying: your message to " + who
	case dsnPostmaster:
		return "Given up: a bounce to " + who
	case dsnRelayed:
		return "Handed on: your message to " + who
	}
	return "Not delivered: your message to " + who
}

// explain is the part for people: what happened to whom, which rule said so,
// who can mend it, and what happens next.
func (d dsn) explain() string {
	t := &prose{}
	t.para("This is the mail system at " + d.Hostname + ".")
	switch d.Kind {
	case dsnFailed:
		t.para("Your message could not be delivered to " + d.who() + ":")
	case dsnDelayed:
		t.para("Your message has not been delivered yet. You need not send it again: we keep trying. It waits for " + d.who() + ":")
	case dsnRelayed:
		t.para("You asked to be told when your message is delivered. It was handed to the next mail server for " + d.who() + ":")
	case dsnPostmaster:
		t.para("A message without a sender, most likely a bounce, could not be delivered and is dropped, for nobody can be told but you. " +
			"You hear of this at most once a day for each destination. It was for " + d.who() + ":")
	}
	for _, g := range d.groups() {
		for _, f := range g {
			t.line("    " + f.Address.String())
		}
		t.gap()
		d.reason(t, g[0])
	}
	t.item("What happens next", d.next())
	t.last("Message", fmt.Sprintf("queue id %s, accepted %s", d.Entry.ID, mailDate(d.Entry.Arrived)))
	return t.String()
}

func (d dsn) who() string {
	if len(d.About) == 1 {
		return "this recipient"
	}
	return fmt.Sprintf("these %d recipients", len(d.About))
}

// groups puts recipients together that have the same reason.
func (d dsn) groups() (out [][]fate) {
	for _, f := range d.About {
		i := slices.IndexFunc(out, func(g []fate) bool {
			a, b := g[0].err, f.err
			if a == nil || b == nil {
				return a == b && g[0].outcome.MX == f.outcome.MX && g[0].outcome.Reply == f.outcome.Reply
			}
			return a == b || a.Reason == b.Reason && a.MX == b.MX && a.Code == b.Code && a.Text == b.Text && a.Permanent == b.Permanent && g[0].expired == f.expired
		})
		if i < 0 {
			out = append(out, []fate{f})
			continue
		}
		out[i] = append(out[i], f)
	}
	return out
}

// reason tells why, in the order in which a reader asks.
func (d dsn) reason(t *prose, f fate) {
	if f.err == nil {
		answered(t, f.outcome.MX, "took the message and answered", f)
		return
	}
	err, info := f.err, f.err.Reason.Info()
	if err.Remote {
		answered(t, err.MX, "answered", f)
	} else {
		t.item("Reason", info.Meaning)
		if relay := relayName(f.outcome, err); relay != "none" {
			t.item("Mail server", relay)
		}
		if text := cleanLine(err.Text); text != "" && text != info.Meaning {
			t.item("Details", text)
		}
	}
	if rule := ruleText(f); rule != "" {
		t.item("Rule", rule)
	}
	if domain, ok := f.Address.Domain(); ok && info.Owner != "" {
		t.item("What the owner of "+domain.String()+" can do", info.Owner)
	}
}

// answered gives a server's own words.
func answered(t *prose, mx addr.Host, did string, f fate) {
	server := "The server"
	if !mx.IsZero() {
		server = "The mail server " + mx.String()
	}
	t.wrap(server+" "+did+":", "")
	t.wrap("    "+f.reply(), "    ")
	t.gap()
}

// ruleText names the RFC and the policy behind a finding of ours.
func ruleText(f fate) string {
	if f.err.Remote || f.err.RFC == "" {
		return ""
	}
	if p := f.outcome.Policy; p != "" && p != "none" && byRule(f.err.Reason) {
		return f.err.RFC + ", with the policy " + p
	}
	return f.err.RFC
}

// next says what happens next.
func (d dsn) next() string {
	switch d.Kind {
	case dsnRelayed:
		return "the message is on its way. That server does not confirm delivery, so no further confirmation will follow. " +
			"If the message cannot be delivered after all, you should hear of it from there"
	case dsnDelayed:
		return "we try again and again until " + mailDate(d.Until) + ". If the message cannot be delivered by then, you get another notice"
	}
	expired, operator := false, false
	for _, f := range d.About {
		expired = expired || f.expired
		operator = operator || f.err.Reason == delivery.OperatorBounce
	}
	switch {
	case operator:
		return "the message is not tried again, for the operator of this relay has ended its delivery"
	case expired:
		again := ""
		if d.Kind == dsnFailed {
			again = ". Send the message again when the reason is mended"
		}
		return fmt.Sprintf("the message is given up, having been tried %s in %s%s", howOften(d.Entry.Attempts+1), howLong(d.Age), again)
	case d.Kind == dsnPostmaster:
		return "the message is not tried again"
	}
	return "the failure is permanent, and the message is not tried again. Send it again when the reason is mended"
}

func howOften(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

// howLong is a duration as people say it: "5 days", "3 hours", "12 minutes".
func howLong(d time.Duration) string {
	for _, u := range []struct {
		d    time.Duration
		name string
	}{{24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}} {
		if n := int(d / u.d); n == 1 {
			return "1 " + u.name
		} else if n > 1 {
			return fmt.Sprintf("%d %ss", n, u.name)
		}
	}
	return "less than a minute"
}

// prose is text for people in lines of at most 74 characters, with CRLF.
type prose struct{ strings.Builder }

const proseWidth = 74

func (p *prose) line(s string) { p.WriteString(s + "\r\n") }
func (p *prose) gap()          { p.line("") }

func (p *prose) para(s string) {
	p.wrap(s, "")
	p.gap()
}

// item writes "Name: text." with what follows indented.
func (p *prose) item(name, text string) {
	if !strings.HasSuffix(text, ".") {
		text += "."
	}
	p.last(name, text)
	p.gap()
}

func (p *prose) last(name, text string) { p.wrap(name+": "+text, "    ") }

// wrap indents all lines but the first, and that too if s begins with a blank.
func (p *prose) wrap(s, indent string) {
	line := ""
	for _, word := range strings.Fields(s) {
		switch {
		case line == "" && s[0] == ' ':
			line = indent + word
		case line == "":
			line = word
		case len(line)+1+len(word) > proseWidth:
			p.line(line)
			line = indent + word
		default:
			line += " " + word
		}
	}
	p.line(line)
}
