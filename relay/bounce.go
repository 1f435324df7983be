package relay

import (
	"bytes"
	"fmt"
	"io"
	"mime"
	"strings"
	"time"
	"unicode/utf8"

	"stsrelay/delivery"
	"stsrelay/internal/addr"

	"github.com/emersion/go-message"
)

// A dsnKind is what a DSN tells.
type dsnKind uint8

const (
	dsnFailed     dsnKind = iota
	dsnDelayed            // nothing is lost yet
	dsnRelayed            // handed to a server that confirms nothing (RFC 3461, Section 5.2.2)
	dsnPostmaster         // to our postmaster: a bounce was given up
)

// action is the value of the Action field (RFC 3464, Section 2.3.3).
func (k dsnKind) action() string {
	switch k {
	case dsnDelayed:
		return "delayed"
	case dsnRelayed:
		return "relayed"
	}
	return "failed"
}

// A dsn is all that a delivery status notification tells (RFC 3464, in the
// multipart/report of RFC 6522). It is pure: what goes in decides what comes
// out.
type dsn struct {
	Kind       dsnKind
	ID         ID // of the notification
	Now        time.Time
	Hostname   string
	Postmaster addr.Address // null: postmaster at Hostname
	To         addr.Address // the original sender, without source route
	Entry      Entry        // what it is about
	About      []fate       // the recipients it is about, 1 or more
	Age        time.Duration
	Until      time.Time // of a delay: when we give up
	Header     []byte    // of the message, CRLF lines, without the empty line
	Content    []byte    // whole, 7-bit; nil: only Header is returned
	Via        addr.NextHop
}

// compose writes the DSN and makes it ready for the queue. About a message with
// REQUIRETLS it asks for REQUIRETLS itself, and goes without where a host does
// not offer it: it has nothing of the content (RFC 8689, Section 5; ledger
// RTLS-5-01 to -03).
func (d dsn) compose() (Composed, error) {
	var b bytes.Buffer
	if err := d.write(&b); err != nil {
		return Composed{}, fmt.Errorf("writing a DSN about %s: %w", d.Entry.ID, err)
	}
	o := Options{Notice: true}
	if asksTLS(d.Entry.Options) && d.Kind != dsnPostmaster {
		o.Demand = delivery.Prefer
	}
	return Compose(Letter{ID: d.ID, To: d.To, Options: o, Content: b.Bytes(), Via: d.Via}), nil
}

// asksTLS reports whether a message came with REQUIRETLS.
func asksTLS(o Options) bool { return o.Demand == delivery.Require || o.Demand == delivery.Prefer }

func (d dsn) write(b *bytes.Buffer) error {
	w, err := message.CreateWriter(b, d.header())
	if err != nil {
		return err
	}
	parts := []func(*message.Writer) error{
		func(w *message.Writer) error { return addPart(w, "text/plain", "Notification", []byte(d.explain())) },
		func(w *message.Writer) error {
			kind := "message/delivery-status"
			if d.isGlobal() {
				kind = "message/global-delivery-status"
			}
			return addPart(w, kind, "Delivery report", d.status())
		},
		d.addOriginal,
	}
	for _, add := range parts {
		if err := add(w); err != nil {
			return err
		}
	}
	return w.Close()
}

func (d dsn) header() message.Header {
	var h message.Header
	add := func(k, v string) { h.Add(k, v) } // each goes on top of the one before
	h.SetContentType("multipart/report", map[string]string{"report-type": "delivery-status", "boundary": "stsrelay-" + string(d.ID)})
	add("X-Stsrelay-Queue-Id", string(d.Entry.ID))
	add("Auto-Submitted", "auto-replied") // RFC 3834, Section 5.2
	if id := messageID(d.Header); id != "" {
		add("References", id)
		add("In-Reply-To", id)
	}
	add("Message-Id", "<"+string(d.ID)+"@"+d.Hostname+">")
	add("Date", mailDate(d.Now))
	add("Subject", mime.QEncoding.Encode("utf-8", d.subject()))
	add("To", "<"+d.To.Wire()+">")
	add("From", `"Mail delivery at `+d.Hostname+`" <`+d.from()+">")
	return h
}

// from is the mailbox of who is responsible (RFC 3464, Section 2).
func (d dsn) from() string {
	if d.Postmaster.IsNull() || d.Postmaster.NeedsUTF8() {
		return "postmaster@" + d.Hostname
	}
	return d.Postmaster.Wire()
}

// mailDate is an RFC 5322 date-time with a numeric zone.
func mailDate(t time.Time) string { return t.UTC().Format("Mon, 02 Jan 2006 15:04:05 -0700") }

// addPart adds a part of text. What does not go through any server as it is, is
// encoded, whatever its type: the way back may know neither 8BITMIME nor
// SMTPUTF8 (RFC 6533, Section 4.5; ledger DSN8-4.5-01).
func addPart(w *message.Writer, mediaType, description string, text []byte) error {
	var h message.Header
	params := map[string]string{}
	if strings.HasPrefix(mediaType, "text/") && mediaType != "text/rfc822-headers" {
		params["charset"] = "us-ascii"
	}
	if !is7bit(text) {
		if params["charset"] != "" {
			params["charset"] = "utf-8"
		}
		h.Set("Content-Transfer-Encoding", "quoted-printable")
	}
	h.Set("Content-Description", description)
	h.SetContentType(mediaType, params)
	p, err := w.CreatePart(h)
	if err != nil {
		return err
	}
	if _, err := p.Write(text); err != nil {
		return err
	}
	return p.Close()
}

// addOriginal returns the message or its header (RFC 6522, Section 4).
func (d dsn) addOriginal(w *message.Writer) error {
	switch {
	case d.Content != nil:
		return addPart(w, "message/rfc822", "Undelivered message", d.Content)
	case len(d.Header) > 0 && utf8.Valid(d.Header) && !onlyASCII(string(d.Header)): // RFC 6533, Section 4.4
		return addPart(w, "message/global-headers", "Header of the message", d.Header)
	case len(d.Header) > 0:
		return addPart(w, "text/rfc822-headers", "Header of the message", d.Header)
	}
	return nil
}

// messageID finds the Message-ID of a header, "" if there is none that can be
// repeated.
func messageID(header []byte) string {
	m, err := message.Read(io.MultiReader(bytes.NewReader(header), strings.NewReader("\r\n")))
	if m == nil || err != nil && !message.IsUnknownCharset(err) && !message.IsUnknownEncoding(err) {
		return ""
	}
	id := strings.TrimSpace(m.Header.Get("Message-Id"))
	if len(id) > 250 || len(id) < 3 || id[0] != '<' || id[len(id)-1] != '>' || !onlyASCII(id) || cleanLine(id) != id || strings.Contains(id, " ") {
		return ""
	}
	return id
}
