package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/textproto"
	"strings"

	"stsrelay/internal/lab"
)

// A letter is what the lab's client hands to the relay.
type letter struct {
	from, to string
	content  []byte // CRLF lines

	requireTLS bool
	tls        *tls.Config // of the client, for REQUIRETLS
}

// as has the letter sent as a scenario wants it.
func (l letter) as(m lab.Mail, conf *tls.Config) letter {
	l.requireTLS, l.tls = m.RequireTLS, conf
	if m.TLSRequiredNo {
		l.content = append([]byte("TLS-Required: No\r\n"), l.content...)
	}
	return l
}

// letterTo writes a letter whose content is easily damaged on its way: dots at
// the beginning of lines, blanks at their end, empty lines, octets above 127
// and the longest line there may be (RFC 5321, Section 4.5.3.1.6).
func letterTo(domain string, n int) letter {
	l := letter{from: domain + "@" + labSender, to: "someone@" + domain}
	l.content = []byte(strings.Join([]string{
		"From: The lab <" + l.from + ">",
		"To: <" + l.to + ">",
		fmt.Sprintf("Subject: message %d to %s", n, domain),
		fmt.Sprintf("Message-ID: <%d.%s@%s>", n, domain, labSender),
		"Date: Sat, 28 Nov 2026 09:00:00 +0000",
		"MIME-Version: 1.0",
		"Content-Type: text/plain; charset=utf-8",
		"Content-Transfer-Encoding: 8bit",
		"",
		"This must arrive as it is.",
		".", "..", ".hidden", "blanks at the end  ", "\ttabs\t", "grüße", "",
		strings.Repeat("x", 998),
		"", "", "",
	}, "\r\n"))
	return l
}

// submit hands a letter over by SMTP, and returns the queue id that the relay
// answers with.
func submit(ctx context.Context, address string, l letter) (id string, err error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return "", err
	}
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	c := textproto.NewConn(conn)
	defer c.Close()
	if _, _, err := c.ReadResponse(220); err != nil {
		return "", fmt.Errorf("greeting: %w", err)
	}
	params := " BODY=8BITMIME"
	if l.requireTLS {
		params += " REQUIRETLS"
		if c, err = startTLS(c, conn, l.tls); err != nil {
			return "", err
		}
	}
	for _, step := range []struct {
		line string
		code int
	}{
		{"EHLO client." + labSender, 250},
		{"MAIL FROM:<" + l.from + ">" + params, 250},
		{"RCPT TO:<" + l.to + ">", 250},
		{"DATA", 354},
	} {
		if _, err := ask(c, step.line, step.code); err != nil {
			return "", err
		}
	}
	w := c.DotWriter()
	if _, err := w.Write(l.content); err != nil {
		return "", err
	}
	if err := w.Close(); err != nil {
		return "", err
	}
	_, reply, err := c.ReadResponse(250)
	if err != nil {
		return "", fmt.Errorf("final dot: %w", err)
	}
	_, id, ok := strings.Cut(reply, "queued as ")
	if !ok {
		return "", fmt.Errorf("the reply names no queue id: %s", reply)
	}
	_, _ = ask(c, "QUIT", 221) // the message is theirs already
	return strings.TrimSpace(id), nil
}

// startTLS goes on over TLS, as REQUIRETLS needs it (RFC 8689, Section 2).
func startTLS(c *textproto.Conn, conn net.Conn, conf *tls.Config) (*textproto.Conn, error) {
	if _, err := ask(c, "EHLO client."+labSender, 250); err != nil {
		return c, err
	}
	if _, err := ask(c, "STARTTLS", 220); err != nil {
		return c, err
	}
	return textproto.NewConn(tls.Client(conn, conf)), nil
}

func ask(c *textproto.Conn, line string, code int) (string, error) {
	if err := c.PrintfLine("%s", line); err != nil {
		return "", fmt.Errorf("%s: %w", line, err)
	}
	_, reply, err := c.ReadResponse(code)
	if err != nil {
		return "", fmt.Errorf("%s: %w", line, err)
	}
	return reply, nil
}
