package relay

import (
	"bytes"
	"strings"
	"unicode/utf8"

	"stsrelay/tlsrpt"
)

// A headerScan reads the header of a message as it passes: how many hops it has
// behind it, what the client called it, and what it says of TLS.
type headerScan struct {
	hops      int
	upstream  string // queue id in the topmost Received
	messageID string
	tls       tlsRequired
	high      bool // there are octets above 0x7F
	broken    bool // of which some are no UTF-8
	parts     bool // the content may have further headers in it (RFC 2046, Section 5)
	line      []byte
	field     []byte // the unfolded beginning of the current field
	done      bool
	size      int
}

// isUTF8 reports whether the header is internationalised (RFC 6532, Section 3):
// not in ASCII, but in UTF-8.
func (h *headerScan) isUTF8() bool { return h.high && !h.broken }

// maxHeaderScan bounds how far the header is read, in octets.
const maxHeaderScan = 1 << 20

func (h *headerScan) write(p []byte) {
	for len(p) > 0 && !h.done {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			h.add(p)
			return
		}
		h.add(p[:i])
		h.endLine()
		p = p[i+1:]
	}
}

// end says that there is no more.
func (h *headerScan) end() {
	if !h.done {
		h.endLine()
		h.endField()
		h.done = true
	}
}

func (h *headerScan) add(p []byte) {
	if h.size += len(p); h.size > maxHeaderScan {
		h.parts = true
		h.endField()
		h.done = true
		return
	}
	if room := 4096 - len(h.line); room > 0 {
		h.line = append(h.line, p[:min(room, len(p))]...)
	}
}

func (h *headerScan) endLine() {
	line := bytes.TrimSuffix(h.line, []byte("\r"))
	h.high = h.high || bytes.ContainsFunc(line, func(r rune) bool { return r >= utf8.RuneSelf })
	h.broken = h.broken || !utf8.Valid(line)
	switch {
	case len(line) == 0:
		h.endField()
		h.done = true
	case line[0] == ' ' || line[0] == '\t':
		if len(h.field) < 8192 {
			h.field = append(h.field, line...)
		}
	default:
		h.endField()
		h.field = append(h.field[:0], line...)
	}
	h.line = h.line[:0]
}

func (h *headerScan) endField() {
	name, value, ok := strings.Cut(string(h.field), ":")
	h.field = h.field[:0]
	if !ok {
		return
	}
	switch name := strings.TrimRight(name, " \t"); {
	case strings.EqualFold(name, "Received"):
		if h.hops++; h.hops == 1 {
			h.upstream = queueID(value)
		}
	case strings.EqualFold(name, "Message-ID") && h.messageID == "":
		h.messageID = tlsrpt.Clean(strings.TrimSpace(value))
	case strings.EqualFold(name, "Content-Type"):
		kind, _, _ := strings.Cut(strings.ToLower(strings.TrimSpace(value)), "/")
		h.parts = h.parts || kind != "text"
	case strings.EqualFold(name, "TLS-Required"):
		h.tls.note(value)
	}
}

// queueID finds the id clause of a Received field.
func queueID(value string) string {
	fields := strings.Fields(value)
	for i, f := range fields[:max(0, len(fields)-1)] {
		if strings.EqualFold(f, "id") {
			id := strings.TrimSuffix(fields[i+1], ";")
			if isQueueID(id) {
				return id
			}
		}
	}
	return ""
}

func isQueueID(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte("\"<>()\\", c) >= 0 {
			return false
		}
	}
	return len(s) >= 1 && len(s) <= 64
}
