package relay

import (
	"net/mail"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestReceivedField(t *testing.T) {
	whole := trace{helo: "client.example", client: netip.MustParseAddr("192.0.2.1"), hostname: "relay.example.com", esmtp: true,
		id: "1HDVZQ4K7M2P0T8X5A", to: "b@example.net", at: time.Date(2026, 11, 27, 10, 0, 0, 0, time.FixedZone("", 3600))}
	for _, tt := range []struct {
		name   string
		change func(*trace)
		want   string
	}{
		{"SMTP-4.4-01 SMTP-4.4-02 FROM, BY, WITH, ID, FOR and a date with a numeric offset", func(*trace) {},
			"Received: from client.example ([192.0.2.1])\r\n\tby relay.example.com (stsrelay) with ESMTP id 1HDVZQ4K7M2P0T8X5A\r\n\tfor <b@example.net>; Fri, 27 Nov 2026 10:00:00 +0100\r\n"},
		{"SMTP-4.4-03 without FOR for several recipients", func(x *trace) { x.to = "" },
			"Received: from client.example ([192.0.2.1])\r\n\tby relay.example.com (stsrelay) with ESMTP id 1HDVZQ4K7M2P0T8X5A; Fri, 27 Nov 2026 10:00:00 +0100\r\n"},
		{"HELO", func(x *trace) { x.esmtp, x.to = false, "" },
			"Received: from client.example ([192.0.2.1])\r\n\tby relay.example.com (stsrelay) with SMTP id 1HDVZQ4K7M2P0T8X5A; Fri, 27 Nov 2026 10:00:00 +0100\r\n"},
		{"TLS", func(x *trace) { x.tls, x.to = "TLS 1.3 with cipher TLS_AES_128_GCM_SHA256", "" },
			"Received: from client.example ([192.0.2.1])\r\n\t(using TLS 1.3 with cipher TLS_AES_128_GCM_SHA256)\r\n\tby relay.example.com (stsrelay) with ESMTPS id 1HDVZQ4K7M2P0T8X5A; Fri, 27 Nov 2026 10:00:00 +0100\r\n"},
		{"HELO under TLS, for which RFC 3848 has no word", func(x *trace) { x.tls, x.esmtp, x.to = "TLS 1.3", false, "" },
			"Received: from client.example ([192.0.2.1])\r\n\t(using TLS 1.3)\r\n\tby relay.example.com (stsrelay) with SMTP id 1HDVZQ4K7M2P0T8X5A; Fri, 27 Nov 2026 10:00:00 +0100\r\n"},
		{"IPv6", func(x *trace) { x.client, x.to = netip.MustParseAddr("2001:db8::1"), "" },
			"Received: from client.example ([IPv6:2001:db8::1])\r\n\tby relay.example.com (stsrelay) with ESMTP id 1HDVZQ4K7M2P0T8X5A; Fri, 27 Nov 2026 10:00:00 +0100\r\n"},
		{"a local program", func(x *trace) { x.client, x.to = netip.Addr{}, "" },
			"Received: from client.example\r\n\tby relay.example.com (stsrelay) with ESMTP id 1HDVZQ4K7M2P0T8X5A; Fri, 27 Nov 2026 10:00:00 +0100\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x := whole
			tt.change(&x)
			got := x.field()
			if got != tt.want {
				t.Errorf("%q", got)
			}
			m, err := mail.ReadMessage(strings.NewReader(got + "\r\n"))
			if err != nil {
				t.Fatal(err)
			}
			value := m.Header.Get("Received")
			if date := value[strings.LastIndexByte(value, ';')+1:]; !isDate(date) {
				t.Errorf("the date is %q", date)
			}
		})
	}
}

func isDate(s string) bool {
	_, err := mail.ParseDate(strings.TrimSpace(s))
	return err == nil
}

func TestHeloText(t *testing.T) {
	for in, want := range map[string]string{
		"client.example":           "client.example",
		"[192.0.2.1]":              "[192.0.2.1]",
		"my_pc":                    "my_pc",
		"":                         "unknown",
		"two words":                "unknown",
		"a(comment)":               "unknown",
		"x;y":                      "unknown",
		"a\r\nBcc: evil@x.example": "unknown",
		"<a@b.example>":            "unknown",
		strings.Repeat("x", 256):   "unknown",
		"b\xc3\xbccher.example":    "unknown",
	} {
		if got := heloText(in); got != want {
			t.Errorf("%q is shown as %q, not %q", in, got, want)
		}
	}
}

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
