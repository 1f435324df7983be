package tlsrpt

import (
	"bytes"
	"fmt"
	"mime"
	"strings"
	"time"

	"stsrelay/internal/addr"

	"github.com/emersion/go-message"
)

// The registered names (RFC 8460, Section 6; ledger RPT-6-01).
const (
	reportType = "tlsrpt"
	typeJSON   = "application/tlsrpt+json"
	typeGzip   = "application/tlsrpt+gzip"

	fieldDomain    = "TLS-Report-Domain"
	fieldSubmitter = "TLS-Report-Submitter"
	fieldRequired  = "TLS-Required" // RFC 8689, Section 5: "No" lets later hops deliver in spite of TLS failures (ledger RPT-3-21)
)

// A Letter is a report to one mailbox (RFC 8460, Section 5.3). It is pure: what
// goes in decides what comes out.
type Letter struct {
	Report Report
	From   addr.Address
	To     addr.Address // one: no destination hears of another (ledger RPT-5.3-10)
	Date   time.Time
}

// Write returns the message with CRLF lines, 7-bit but for a local part that is
// not ASCII, and not signed yet.
func (l Letter) Write() ([]byte, error) {
	payload, err := l.Report.Payload()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = l.write(&b, payload)
	if err != nil {
		return nil, fmt.Errorf("writing the report about %s: %w", l.Report.Domain, err)
	}
	return b.Bytes(), nil
}

func (l Letter) write(b *bytes.Buffer, payload []byte) error {
	w, err := message.CreateWriter(b, l.header())
	if err != nil {
		return err
	}
	if err := addPart(w, textHeader(l.Report.Text()), []byte(l.Report.Text())); err != nil {
		return err
	}
	if err := addPart(w, l.payloadHeader(), payload); err != nil {
		return err
	}
	return w.Close()
}

// header writes the fields itself, since names and quotes are to be exactly
// those of the RFC. The subject is folded where RFC 8460 has FWS.
func (l Letter) header() (h message.Header) {
	r := l.Report
	fields := []string{
		"From: " + r.displayName() + l.From.Path(),
		"To: " + l.To.Path(),
		"Date: " + l.Date.UTC().Format("Mon, 02 Jan 2006 15:04:05 -0700"),
		"Subject: Report Domain: " + r.Domain.String() + "\r\n Submitter: " + r.Submitter.String() + "\r\n Report-ID: <" + r.ID + ">",
		"Message-ID: " + l.messageID(),
		fieldDomain + ": " + r.Domain.String(),
		fieldSubmitter + ": " + r.Submitter.String(),
		fieldRequired + ": No",
		"Auto-Submitted: auto-generated", // RFC 3834, Section 5 (ledger RPT-5.3-09)
		"MIME-Version: 1.0",
		"Content-Type: multipart/report; report-type=\"" + reportType + "\";\r\n boundary=\"tlsrpt-" + r.unique() + "\"",
	}
	for i := len(fields) - 1; i >= 0; i-- { // each goes on top of the one before
		h.AddRaw([]byte(fields[i] + "\r\n"))
	}
	return h
}

// displayName is the organization, as a quoted phrase or one encoded in base64:
// the other encoding would let quotes through.
func (r Report) displayName() string {
	name := Clean(r.Organization)
	switch {
	case name == "":
		return ""
	case isASCII(name):
		return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(name) + "\"\r\n "
	}
	return strings.ReplaceAll(mime.BEncoding.Encode("utf-8", name), "?= =?", "?=\r\n =?") + "\r\n "
}

// messageID is the same whenever the same report goes to the same mailbox: a
// message that was sent twice can be told.
func (l Letter) messageID() string {
	k := keyOf(l.To.String())
	left, _, _ := strings.Cut(l.Report.ID, "@")
	return fmt.Sprintf("<%s.%x@%s>", left, k[:4], l.Report.Submitter)
}

func isASCII(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r > '~' }) < 0
}

func textHeader(text string) (h message.Header) {
	charset := "us-ascii"
	if !isASCII(text) {
		charset = "utf-8"
		h.Set("Content-Transfer-Encoding", "quoted-printable")
	}
	h.SetContentType("text/plain", map[string]string{"charset": charset})
	return h
}

// payloadHeader names the file in one piece, as receivers want it (ledger
// RPT-5.3-03).
func (l Letter) payloadHeader() (h message.Header) {
	h.AddRaw([]byte("Content-Disposition: attachment;\r\n filename=\"" + l.Report.FileName() + "\"\r\n"))
	h.Set("Content-Transfer-Encoding", "base64")
	h.Set("Content-Type", typeGzip)
	return h
}

func addPart(w *message.Writer, h message.Header, content []byte) error {
	p, err := w.CreatePart(h)
	if err != nil {
		return err
	}
	if _, err := p.Write(content); err != nil {
		return err
	}
	return p.Close()
}
