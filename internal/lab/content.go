package lab

import (
	"bufio"
	"bytes"
	"errors"
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
	code, err := c.reply(e, usual)
	if err != nil || code != "354" {
		c.noData = true
		return c.unless421(code, err)
	}
	m := Received{Conn: c.n, Helo: c.helo, Auth: c.user, Mail: c.mail, Rcpts: c.rcpts, TLS: c.tls}
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
	c.reset()
	return c.say(event{stage: EndOfData, tls: c.tls != nil, said: c.keep(m)}, "250 2.0.0 taken")
}

// keep records a message. What it returns records the reply to it: before the
// client can have it, so that who has seen the reply finds the message.
func (c *conversation) keep(m Received) (said func(code string)) {
	at := -1
	c.h.note(func(s *seen) {
		if !c.conf.Forget {
			at = len(s.messages)
			s.messages = append(s.messages, m)
		}
	})
	return func(code string) {
		m.Reply = code
		c.h.note(func(s *seen) {
			if m.Accepted() {
				s.count++
			}
			if at >= 0 {
				s.messages[at] = m
			}
		})
	}
}

// content reads up to the final dot. It obeys a rule for Content.
func (c *conversation) content(m *Received) error {
	rule := c.h.matching(event{stage: Content, tls: c.tls != nil})
	var wire, plain bytes.Buffer
	size, high := 0, false
	for {
		raw, err := c.rawLine()
		size += len(raw)
		if rule != nil && size >= rule.Bytes {
			if err := c.interfere(rule); err != nil {
				return err
			}
			rule = nil
		}
		if err != nil {
			return err
		}
		c.checkContent(raw)
		high = high || eight(raw)
		if !c.conf.Forget {
			wire.Write(raw)
		}
		if string(raw) == ".\r\n" {
			break
		}
		if !c.conf.Forget {
			plain.Write(bytes.TrimPrefix(raw, []byte(".")))
		}
	}
	if !c.conf.Forget {
		m.Content, m.Wire = plain.Bytes(), wire.Bytes()
	}
	if high {
		c.checkEight()
	}
	return nil
}

// rawLine reads a line of any length. It is good until the next read.
func (c *conversation) rawLine() ([]byte, error) {
	raw, err := c.in.ReadSlice('\n')
	if !errors.Is(err, bufio.ErrBufferFull) {
		return raw, err
	}
	raw = bytes.Clone(raw)
	more, err := c.in.ReadBytes('\n')
	return append(raw, more...), err
}
