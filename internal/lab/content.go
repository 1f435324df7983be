package lab

import (
	"bytes"
	"time"
)

// data reads a message's content.
func (c *conversation) data(e event) error {
	usual := "354 go ahead"
	switch {
	case c.mail == "":
		usual = "503 5.5.1 who is it from?"
	case len(c.rcpts) == 0:
		usual = "554 5.5.1 no valid recipients"
	}
	c.checkData()
	code, err := c.reply(e, usual)
	if err != nil || code != "354" {
		return c.unless421(code, err)
	}
	m := Received{Conn: c.n, Helo: c.helo, Mail: c.mail, Rcpts: c.rcpts, TLS: c.tls}
	if p := path(c.mail); p != nil {
		m.From = *p
	}
	for _, r := range c.rcpts {
		m.To = append(m.To, *path(r))
	}
	if err := c.content(&m); err != nil {
		return err
	}
	m.At = time.Now()
	c.messages++
	code, err = c.reply(event{stage: EndOfData, tls: c.tls != nil}, "250 2.0.0 taken")
	m.Reply = code
	c.reset()
	c.keep(m)
	return c.unless421(code, err)
}

// keep records a message.
func (c *conversation) keep(m Received) {
	c.h.note(func(s *seen) {
		if m.Accepted() {
			s.count++
		}
		if !c.conf.Forget {
			s.messages = append(s.messages, m)
		}
	})
}

// content reads up to the final dot. It obeys a rule for Content.
func (c *conversation) content(m *Received) error {
	rule := c.h.matching(event{stage: Content, tls: c.tls != nil})
	var wire, plain bytes.Buffer
	for {
		raw, err := c.in.ReadBytes('\n')
		wire.Write(raw)
		if rule != nil && wire.Len() >= rule.Bytes {
			if _, err := c.carryOut(rule, ""); err != nil {
				return err
			}
			rule = nil
		}
		if err != nil {
			return err
		}
		c.checkContent(raw)
		if string(raw) == ".\r\n" {
			break
		}
		plain.Write(bytes.TrimPrefix(raw, []byte(".")))
	}
	if !c.conf.Forget {
		m.Content, m.Wire = plain.Bytes(), wire.Bytes()
	}
	c.checkEight(plain.Bytes())
	return nil
}
