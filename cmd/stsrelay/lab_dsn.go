package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/mail"
	"net/textproto"
	"strings"
)

// A notice is a DSN, read by other code than that which wrote it (RFC 3464).
type notice struct {
	subject   string
	text      string // for people
	recipient string
	action    string
	status    string

	requireTLS bool // it came with REQUIRETLS
}

// maxNotice bounds what is read of a part, in octets.
const maxNotice = 1 << 20

func readNotice(content []byte) (n notice, err error) {
	m, err := mail.ReadMessage(bytes.NewReader(content))
	if err != nil {
		return n, fmt.Errorf("reading the bounce: %w", err)
	}
	kind, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/report" || params["report-type"] != "delivery-status" {
		return n, fmt.Errorf("the bounce is no delivery status notification but %q", m.Header.Get("Content-Type"))
	}
	n.subject = m.Header.Get("Subject")
	parts := multipart.NewReader(m.Body, params["boundary"])
	for {
		part, err := parts.NextRawPart()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return n, fmt.Errorf("reading the bounce: %w", err)
		}
		if err := n.part(part); err != nil {
			return n, fmt.Errorf("reading the bounce: %w", err)
		}
	}
	if n.text == "" || n.recipient == "" {
		return n, errors.New("the bounce lacks its text or its delivery-status part")
	}
	return n, nil
}

func (n *notice) part(part *multipart.Part) error {
	kind, _, err := mime.ParseMediaType(part.Header.Get("Content-Type"))
	if err != nil {
		return err
	}
	body := io.LimitReader(part, maxNotice)
	if strings.EqualFold(part.Header.Get("Content-Transfer-Encoding"), "quoted-printable") {
		body = quotedprintable.NewReader(body)
	}
	switch {
	case kind == "text/plain" && n.text == "":
		text, err := io.ReadAll(body)
		n.text = strings.ReplaceAll(string(text), "\r\n", "\n")
		return err
	case kind == "message/delivery-status":
		return n.fields(body)
	}
	return nil
}

// fields reads the groups of fields of message/delivery-status: one about the
// message, one for each recipient.
func (n *notice) fields(r io.Reader) error {
	in := textproto.NewReader(bufio.NewReader(r))
	if _, err := in.ReadMIMEHeader(); err != nil {
		return err
	}
	h, err := in.ReadMIMEHeader()
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	_, address, _ := strings.Cut(h.Get("Final-Recipient"), ";")
	n.recipient, n.action, n.status = strings.TrimSpace(address), h.Get("Action"), h.Get("Status")
	return nil
}
