package relay

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"stsrelay/internal/addr"
)

// maxHops is how many Received fields a message may have: more are a loop (RFC
// 5321, Section 6.3).
const maxHops = 100

// A trace is what a Received field tells (RFC 5321, Section 4.4).
type trace struct {
	helo     string // as the client said it
	client   netip.Addr
	hostname string // ours
	esmtp    bool
	utf8     bool   // with SMTPUTF8
	wide     bool   // the message will be sent with SMTPUTF8 only
	tls      string // "TLS 1.3 with cipher ...", "" without
	id       ID
	to       addr.Address // the only recipient, zero when there are several
	at       time.Time
}

// with is the protocol (RFC 3848; RFC 6531, Section 4.3).
func (t trace) with() string {
	switch {
	case t.utf8 && t.tls != "":
		return "UTF8SMTPS"
	case t.utf8:
		return "UTF8SMTP"
	case t.esmtp && t.tls != "":
		return "ESMTPS"
	case t.esmtp:
		return "ESMTP"
	}
	return "SMTP"
}

// host is a name as the field has it: with U-labels if the message goes with
// SMTPUTF8 anyway, else as it is, so that it is not the field that needs it (RFC
// 6531, Section 3.7.3).
func (t trace) host(name string) string {
	if d, err := addr.ParseDomain(name); err == nil && t.wide {
		return d.Unicode()
	}
	return name
}

// recipient is the address of the FOR clause, "" for none, likewise.
func (t trace) recipient() string {
	if t.wide {
		return t.to.String()
	}
	s, _ := t.to.ASCII()
	return s
}

// field writes the Received field, with its CRLF. The HELO name is somebody's
// word and cleaned.
func (t trace) field() string {
	client := ""
	if t.client.IsValid() {
		client = " (" + literal(t.client) + ")"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "Received: from %s%s\r\n", t.host(heloText(t.helo)), client)
	if t.tls != "" {
		fmt.Fprintf(&b, "\t(using %s)\r\n", t.tls)
	}
	fmt.Fprintf(&b, "\tby %s (stsrelay) with %s id %s", t.host(t.hostname), t.with(), t.id)
	if to := t.recipient(); to != "" {
		fmt.Fprintf(&b, "\r\n\tfor <%s>", to)
	}
	fmt.Fprintf(&b, "; %s\r\n", t.at.Format("Mon, 2 Jan 2006 15:04:05 -0700"))
	return b.String()
}

func literal(ip netip.Addr) string {
	if ip.Is6() {
		return "[IPv6:" + ip.String() + "]"
	}
	return "[" + ip.String() + "]"
}

// heloText keeps of a HELO name what a field may hold.
func heloText(s string) string {
	ok := s != "" && len(s) <= 255
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte("()<>@,;\\\"", c) >= 0 {
			ok = false
		}
	}
	if !ok {
		return "unknown"
	}
	return s
}
