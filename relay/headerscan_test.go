package relay

import (
	"strings"
	"testing"
)

func TestHeaderScan(t *testing.T) {
	const top = "Received: from a.example (a.example [192.0.2.1])\r\n\tby b.example (Postfix) with ESMTP id 4F2B1C0A\r\n\tfor <x@y.example>; Fri, 27 Nov 2026 10:00:00 +0000\r\n"
	for _, tt := range []struct {
		name, in        string
		hops            int
		upstream, msgid string
	}{
		{"nothing", "", 0, "", ""},
		{"one hop, with its queue id", top + "Message-ID: <1@a.example>\r\n\r\nbody", 1, "4F2B1C0A", "<1@a.example>"},
		{"the topmost counts", top + strings.ReplaceAll(top, "4F2B1C0A", "OTHER") + "\r\n", 2, "4F2B1C0A", ""},
		{"names have no case", "rEcEiVeD: by b id X1;\r\nmessage-id: <2@a>\r\n\r\n", 1, "X1", "<2@a>"},
		{"the body is not read", "Subject: x\r\n\r\n" + top, 0, "", ""},
		{"a folded line is no field", "Subject: x\r\n Received: by b id X1;\r\n\r\n", 0, "", ""},
		{"no id", "Received: nonsense\r\n\r\n", 1, "", ""},
		{"an id that is none", "Received: by b id <evil>; x\r\n\r\n", 1, "", ""},
		{"a header without an end", "Received: by b id X1; x\r\n", 1, "X1", ""},
		{"the first Message-ID counts", "Message-ID: <1@a>\r\nMessage-ID: <2@a>\r\n\r\n", 0, "", "<1@a>"},
		{"lines that end in LF", "Received: by b id X1; x\nSubject: y\n\nReceived: no\n", 1, "X1", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, size := range []int{1, 7, 1 << 20} {
				var h headerScan
				for rest := tt.in; rest != ""; {
					n := min(size, len(rest))
					h.write([]byte(rest[:n]))
					rest = rest[n:]
				}
				h.end()
				if h.hops != tt.hops || h.upstream != tt.upstream || h.messageID != tt.msgid {
					t.Errorf("in pieces of %d: %d hops, upstream %q, message id %q", size, h.hops, h.upstream, h.messageID)
				}
			}
		})
	}
	t.Run("a header that never ends costs no memory", func(t *testing.T) {
		var h headerScan
		chunk := []byte("X-Long: " + strings.Repeat("x", 1<<20))
		for range 10 {
			h.write(chunk)
		}
		if !h.done || cap(h.line) > 8192 || cap(h.field) > 64<<10 {
			t.Errorf("done %v, %d octets of a line, %d of a field", h.done, cap(h.line), cap(h.field))
		}
	})
}

// What a header is written in.
func TestUTF8_6532_01_Header8(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		want     bool
	}{
		{"ASCII", "Subject: x\r\n\r\n", false},
		{"UTF-8", "Subject: grün\r\n\r\n", true},
		{"UTF-8 in a folded line", "Subject: x\r\n grün\r\n\r\n", true},
		{"UTF-8 in the body only", "Subject: x\r\n\r\ngrün\r\n", false},
		{"Latin-1", "Subject: gr\xfcn\r\n\r\n", false},
		{"UTF-8 and Latin-1", "Subject: grün\r\nX: gr\xfcn\r\n\r\n", false},
		{"Latin-1 and UTF-8", "X: gr\xfcn\r\nSubject: grün\r\n\r\n", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, size := range []int{1, 1 << 10} {
				var h headerScan
				for rest := tt.in; rest != ""; {
					n := min(size, len(rest))
					h.write([]byte(rest[:n]))
					rest = rest[n:]
				}
				h.end()
				if got := h.isUTF8(); got != tt.want {
					t.Errorf("in pieces of %d: %v", size, got)
				}
			}
		})
	}
}

// What a header says of TLS.
func TestTLSRequired(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		no       bool
	}{
		{"nothing", "Subject: x\r\n\r\n", false},
		{"the field", "TLS-Required: No\r\n\r\n", true},
		{"in whatever case, without a blank", "tls-required:nO\r\n\r\n", true},
		{"folded", "TLS-Required:\r\n No\r\n\r\n", true},
		{"among others", "Received: x\r\nTLS-Required: No\r\nSubject: x\r\n\r\n", true},
		{"in a header without a body", "TLS-Required: No\r\n", true},
		{"twice", "TLS-Required: No\r\nTLS-Required: No\r\n\r\n", false},
		{"twice, once unknown", "TLS-Required: No\r\nTLS-Required: Yes\r\n\r\n", false},
		{"twice, first unknown", "TLS-Required: Yes\r\nTLS-Required: No\r\n\r\n", false},
		{"another value", "TLS-Required: Yes\r\n\r\n", false},
		{"no value", "TLS-Required:\r\n\r\n", false},
		{"more than the value", "TLS-Required: No, really\r\n\r\n", false},
		{"a comment", "TLS-Required: No (please)\r\n\r\n", false},
		{"another field", "X-TLS-Required: No\r\n\r\n", false},
		{"in the body", "Subject: x\r\n\r\nTLS-Required: No\r\n", false},
		{"folded into another field", "Subject: x\r\n TLS-Required: No\r\n\r\n", false},
	} {
		t.Run("RTLS-3-01 "+tt.name, func(t *testing.T) {
			var h headerScan
			h.write([]byte(tt.in))
			h.end()
			if got := h.tls.isNo(); got != tt.no {
				t.Errorf("%q: %v", tt.in, got)
			}
		})
	}
}
