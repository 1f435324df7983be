package lab

import (
	"crypto/tls"
	"slices"
	"strings"
)

func (c *conversation) hello(e event, name string) error {
	ehlo := e.stage == "EHLO"
	usual := "250 " + c.conf.Name
	if ehlo && c.conf.NoESMTP {
		usual = "502 5.5.1 command not known"
	} else if ehlo {
		usual = strings.Join(append([]string{usual}, c.keywords()...), "\n")
	}
	code, err := c.reply(e, usual)
	if code == "250" {
		c.reset()
		c.helo, c.esmtp = name, ehlo
	}
	return c.unless421(code, err)
}

// keywords lists what EHLO offers now.
func (c *conversation) keywords() []string {
	list := c.conf.Extensions
	if list == nil {
		list = DefaultExtensions()
	}
	if c.tls != nil && c.conf.TLSExtensions != nil {
		list = c.conf.TLSExtensions
	}
	if c.conf.Users != nil {
		list = append(slices.Clone(list), "AUTH PLAIN LOGIN")
	}
	if c.tls != nil {
		if c.conf.RequireTLS {
			list = append(slices.Clone(list), "REQUIRETLS")
		}
		return list
	}
	if c.conf.NoStartTLS || c.conf.ImplicitTLS {
		return list
	}
	return append(slices.Clone(list), first(c.conf.StartTLSWord, "STARTTLS"))
}

// offers reports whether the EHLO in force offers a keyword, and its
// parameter.
func (c *conversation) offers(word string) (param string, ok bool) {
	if !c.esmtp {
		return "", false
	}
	for _, k := range c.keywords() {
		name, p, _ := strings.Cut(k, " ")
		if strings.EqualFold(name, word) {
			return p, true
		}
	}
	return "", false
}

func (c *conversation) startTLS(e event) error {
	usual := "220 2.0.0 go ahead"
	if c.tls != nil || c.conf.NoStartTLS {
		usual = "502 5.5.1 command not known"
	}
	code, err := c.reply(e, usual)
	if err != nil || code != "220" {
		return c.unless421(code, err)
	}
	if err := c.flush(); err != nil {
		return err
	}
	if err := c.handshake(); err != nil {
		return err
	}
	c.helo, c.esmtp, c.user = "", false, ""
	c.reset()
	return nil
}

// handshake puts TLS over the connection.
func (c *conversation) handshake() error {
	if err := c.interfere(c.h.matching(event{stage: TLSStart})); err != nil {
		return err
	}
	if err := c.flush(); err != nil {
		return err
	}
	below := newRecords(c.tcp, c.in)
	conn := tls.Server(below, c.h.tlsConfig(c.conf))
	hs := Handshake{Conn: c.n}
	if hs.Err = conn.Handshake(); hs.Err == nil {
		hs.State = stateOf(conn.ConnectionState())
	}
	hs.SNI = conn.ConnectionState().ServerName
	c.h.note(func(s *seen) { s.handshakes = append(s.handshakes, hs) })
	if hs.Err != nil {
		return hs.Err
	}
	c.tls, c.below = hs.State, below
	c.over(conn)
	return nil
}
