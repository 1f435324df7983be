package lab

import (
	"bytes"
	"strings"
)

func (c *conversation) checkLine(raw string) {
	if !strings.HasSuffix(raw, "\r\n") || strings.Contains(strings.TrimSuffix(raw, "\r\n"), "\r") {
		c.violation("bare CR or LF in a command", raw)
	}
}
func (c *conversation) checkOrder(verb, line string) {}
func (c *conversation) checkMail(line string)        {}
func (c *conversation) checkRcpt(line string)        {}
func (c *conversation) checkData()                   {}
func (c *conversation) checkContent(raw []byte) {
	if !bytes.HasSuffix(raw, []byte("\r\n")) {
		c.violation("bare CR or LF in content", string(raw))
	}
}
func (c *conversation) checkEight(content []byte) {}
