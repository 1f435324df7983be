package lab

import (
	"strconv"
	"strings"
)

func (c *conversation) from(e event, line string) error {
	usual := "250 2.1.0 ok"
	switch limit, has := c.offers("SIZE"); {
	case c.helo == "":
		usual = "503 5.5.1 say hello first"
	case c.conf.RefuseInClear && c.tls == nil:
		usual = "530 5.7.0 Must issue a STARTTLS command first"
	case c.mail != "":
		usual = "503 5.5.1 one sender at a time"
	case path(line) == nil:
		usual = "501 5.5.4 syntax: MAIL FROM:<address>"
	case c.conf.MaxMessages > 0 && c.messages >= c.conf.MaxMessages:
		usual = "421 4.7.0 " + c.conf.Name + " that was enough"
	case has && tooBig(line, limit):
		usual = "552 5.3.4 message too big"
	}
	c.sender = line
	c.checkPath("MAIL", line)
	code, err := c.reply(e, usual)
	if strings.HasPrefix(code, "2") {
		c.mail, c.refused = line, false
	} else {
		c.refused = true
	}
	return c.unless421(code, err)
}

func tooBig(line, limit string) bool {
	most, err := strconv.ParseInt(limit, 10, 64)
	if err != nil || most == 0 {
		return false
	}
	size, err := strconv.ParseInt(params(line)["SIZE"], 10, 64)
	return err == nil && size > most
}

func (c *conversation) to(e event, line string) error {
	usual := "250 2.1.5 ok"
	switch {
	case c.mail == "":
		usual = "503 5.5.1 who is it from?"
	case path(line) == nil:
		usual = "501 5.5.4 syntax: RCPT TO:<address>"
	case c.conf.MaxRecipients > 0 && len(c.rcpts) >= c.conf.MaxRecipients:
		usual = "452 4.5.3 too many recipients"
	}
	c.checkPath("RCPT", line)
	code, err := c.reply(e, usual)
	if strings.HasPrefix(code, "2") && c.mail != "" {
		c.rcpts = append(c.rcpts, line)
	} else {
		c.refused = true
	}
	return c.unless421(code, err)
}
