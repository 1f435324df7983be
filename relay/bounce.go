package relay

import (
	"bytes"
	"fmt"
	"io"
	"mime"
	"strconv"
	"strings"
	"time"
	"unicode"
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
	dsnPostmaster         // to our postmaster: a bounce was given up
)

// action is the value of the Action field (RFC 3464, Section 2.3.3).
func (k dsnKind) action() string {
	if k == dsnDelayed {
		return "delayed"
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
// REQUIRETLS it asks for REQUIRETLS itself (RFC 8689, Section 5).
func (d dsn) compose() (Composed, error) {
	var b bytes.Buffer
	if err := d.write(&b); err != nil {
		return Composed{}, fmt.Errorf("writing a DSN about %s: %w", d.Entry.ID, err)
	}
	o := Options{Notice: true}
	if d.Entry.Options.Demand == delivery.Require && d.Kind != dsnPostmaster {
		o.Demand = delivery.Require
	}
	return Compose(Letter{ID: d.ID, To: d.To, Options: o, Content: b.Bytes(), Via: d.Via}), nil
}

func (d dsn) write(b *bytes.Buffer) error {
	w, err := message.CreateWriter(b, d.header())
	if err != nil {
		return err
	}
	parts := []func(*message.Writer) error{
		func(w *message.Writer) error { return addPart(w, "text/plain", "Notification", []byte(d.explain())) },
		func(w *message.Writer) error {
			return addPart(w, "message/delivery-status", "Delivery report", d.status())
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
	add("To", d.To.Path())
	add("From", `"Mail delivery at `+d.Hostname+`" <`+d.from()+">")
	return h
}

// from is the mailbox of who is responsible (RFC 3464, Section 2).
func (d dsn) from() string {
	if d.Postmaster.IsNull() || d.Postmaster.NeedsUTF8() {
		return "postmaster@" + d.Hostname
	}
	return d.Postmaster.String()
}

// mailDate is an RFC 5322 date-time with a numeric zone.
func mailDate(t time.Time) string { return t.UTC().Format("Mon, 02 Jan 2006 15:04:05 -0700") }

// addPart adds a part of text. What does not go through any server as it is, is
// encoded.
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
	case len(d.Header) > 0:
		return addPart(w, "text/rfc822-headers", "Header of the message", d.Header)
	}
	return nil
}

// status is the machine-readable part (RFC 3464, Section 2.1): the fields of
// the message, and behind an empty line those of each recipient. It is ASCII.
func (d dsn) status() []byte {
	var b bytes.Buffer
	if d.Entry.Options.Envelope != "" { // RFC 3461, Section 6.3 (a)
		dsnField(&b, "Original-Envelope-Id", fromXtext(d.Entry.Options.Envelope))
	}
	dsnField(&b, "Reporting-MTA", "dns; "+d.Hostname)
	dsnField(&b, "Arrival-Date", mailDate(d.Entry.Arrived))
	dsnField(&b, "X-Stsrelay-Queue-Id", string(d.Entry.ID))
	for _, f := range d.About {
		b.WriteString("\r\n")
		d.recipient(&b, f)
	}
	return b.Bytes()
}

// recipient writes the fields of one recipient (RFC 3464, Section 2.3). A
// Remote-MTA says that the diagnostic is its own words (Section 2.3.6), so there
// is none with what we found ourselves.
func (d dsn) recipient(b *bytes.Buffer, f fate) {
	if f.Original != "" { // RFC 3461, Section 6.3 (d)
		kind, name, _ := strings.Cut(f.Original, ";")
		if strings.EqualFold(kind, "utf-8") {
			dsnField(b, "Original-Recipient", kind+"; "+unitext(name))
		} else {
			dsnField(b, "Original-Recipient", kind+"; "+fromXtext(name))
		}
	}
	kind, name := "rfc822", f.Address.String()
	if !onlyASCII(name) { // RFC 6533, Section 3
		kind, name = "utf-8", unitext(name)
	}
	dsnField(b, "Final-Recipient", kind+"; "+name)
	dsnField(b, "Action", d.Kind.action())
	dsnField(b, "Status", statusText(f.err.Enhanced))
	if f.err.Remote {
		if !f.err.MX.IsZero() {
			dsnField(b, "Remote-MTA", "dns; "+f.err.MX.String())
		}
		diagnostic(b, f.err.Code, f.err.Text)
	} else {
		dsnField(b, "Diagnostic-Code", "X-Stsrelay; "+string(f.err.Reason)+": "+f.err.Text)
	}
	if f.err.Reason != delivery.OperatorBounce {
		dsnField(b, "Last-Attempt-Date", mailDate(d.Now))
	}
	if d.Kind == dsnDelayed {
		dsnField(b, "Will-Retry-Until", mailDate(d.Until))
	}
	if f.outcome.Policy != "" {
		dsnField(b, "X-Stsrelay-TLS-Policy", f.outcome.Policy)
	}
}

// diagnostic writes a reply as the server gave it; of one with several lines
// each further one is folded (RFC 3461, Section 9.2; ledger DSN-9.2-01).
func diagnostic(b *bytes.Buffer, reply int, text string) {
	lines := strings.Split(text, "\n")
	value := "smtp; "
	for i, line := range lines {
		sep := "-"
		if i == len(lines)-1 {
			sep = " "
		}
		if i > 0 {
			value += "\n "
		}
		value += strings.TrimSpace(strconv.Itoa(reply) + sep + asciiLine(line))
	}
	dsnFold(b, "Diagnostic-Code: "+value)
}

// dsnField writes one field, clean and folded (RFC 3464, Section 2.1.1).
func dsnField(b *bytes.Buffer, name, value string) { dsnFold(b, name+": "+asciiLine(value)) }

// Where lines are folded, and where those are cut that have no blank.
const (
	foldAt = 78
	cutAt  = 900
)

// dsnFold writes a field whose "\n " stay where they are.
func dsnFold(b *bytes.Buffer, s string) {
	for i, line := range strings.Split(s, "\n") {
		if i > 0 && strings.TrimSpace(line) == "" {
			continue
		}
		for len(line) > foldAt {
			at := strings.LastIndexByte(line[:foldAt+1], ' ')
			if at <= 1 || strings.TrimSpace(line[:at]) == "" || strings.HasSuffix(line[:at], ":") {
				if at = strings.IndexByte(line[foldAt:], ' ') + foldAt; at < foldAt || at > cutAt {
					at = min(cutAt, len(line))
				}
			}
			if strings.TrimSpace(line[at:]) == "" {
				line = line[:at]
				break
			}
			b.WriteString(line[:at] + "\r\n")
			line = " " + strings.TrimPrefix(line[at:], " ")
		}
		b.WriteString(line + "\r\n")
	}
}

// cleanLine makes one line of s: control characters and blanks become single
// spaces, and characters that cannot be seen vanish.
func cleanLine(s string) string {
	var b strings.Builder
	space := false
	for _, r := range s {
		switch {
		case unicode.IsSpace(r), unicode.IsControl(r):
			space = b.Len() > 0
			continue
		case unicode.Is(unicode.Cf, r):
			continue
		case r == utf8.RuneError:
			r = '?'
		}
		if space {
			b.WriteByte(' ')
			space = false
		}
		b.WriteRune(r)
	}
	return b.String()
}

// asciiLine is cleanLine for 7-bit fields.
func asciiLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r > unicode.MaxASCII {
			return '?'
		}
		return r
	}, cleanLine(s))
}

func onlyASCII(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r > unicode.MaxASCII }) < 0
}

// fromXtext decodes xtext (RFC 3461, Section 4). What is no xtext is left as it
// is.
func fromXtext(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '+' && i+2 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(n))
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// unitext is the 7-bit form of an address of type utf-8 (RFC 6533, Section 3):
// what is not ASCII becomes \x{HEX}. What is in that form already stays.
func unitext(s string) string {
	var b strings.Builder
	for _, r := range s {
		if r <= unicode.MaxASCII {
			b.WriteRune(r)
			continue
		}
		fmt.Fprintf(&b, `\x{%X}`, r)
	}
	return b.String()
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
