package relay

import (
	"net/mail"
	"net/netip"
	"strings"
	"testing"
	"time"

	"stsrelay/internal/addr"
)

func TestReceivedField(t *testing.T) {
	whole := trace{helo: "client.example", client: netip.MustParseAddr("192.0.2.1"), hostname: "relay.example.com", esmtp: true,
		id: "1HDVZQ4K7M2P0T8X5A", to: addr.MustAddress("b@example.net"), at: time.Date(2026, 11, 27, 10, 0, 0, 0, time.FixedZone("", 3600))}
	for _, tt := range []struct {
		name   string
		change func(*trace)
		want   string
	}{
		{"SMTP-4.4-01 SMTP-4.4-02 FROM, BY, WITH, ID, FOR and a date with a numeric offset", func(*trace) {},
			"Received: from client.example ([192.0.2.1])\r\n\tby relay.example.com (stsrelay) with ESMTP id 1HDVZQ4K7M2P0T8X5A\r\n\tfor <b@example.net>; Fri, 27 Nov 2026 10:00:00 +0100\r\n"},
		{"SMTP-4.4-03 without FOR for several recipients", func(x *trace) { x.to = addr.Address{} },
			"Received: from client.example ([192.0.2.1])\r\n\tby relay.example.com (stsrelay) with ESMTP id 1HDVZQ4K7M2P0T8X5A; Fri, 27 Nov 2026 10:00:00 +0100\r\n"},
		{"HELO", func(x *trace) { x.esmtp, x.to = false, addr.Address{} },
			"Received: from client.example ([192.0.2.1])\r\n\tby relay.example.com (stsrelay) with SMTP id 1HDVZQ4K7M2P0T8X5A; Fri, 27 Nov 2026 10:00:00 +0100\r\n"},
		{"TLS", func(x *trace) { x.tls, x.to = "TLS 1.3 with cipher TLS_AES_128_GCM_SHA256", addr.Address{} },
			"Received: from client.example ([192.0.2.1])\r\n\t(using TLS 1.3 with cipher TLS_AES_128_GCM_SHA256)\r\n\tby relay.example.com (stsrelay) with ESMTPS id 1HDVZQ4K7M2P0T8X5A; Fri, 27 Nov 2026 10:00:00 +0100\r\n"},
		{"HELO under TLS, for which RFC 3848 has no word", func(x *trace) { x.tls, x.esmtp, x.to = "TLS 1.3", false, addr.Address{} },
			"Received: from client.example ([192.0.2.1])\r\n\t(using TLS 1.3)\r\n\tby relay.example.com (stsrelay) with SMTP id 1HDVZQ4K7M2P0T8X5A; Fri, 27 Nov 2026 10:00:00 +0100\r\n"},
		{"IPv6", func(x *trace) { x.client, x.to = netip.MustParseAddr("2001:db8::1"), addr.Address{} },
			"Received: from client.example ([IPv6:2001:db8::1])\r\n\tby relay.example.com (stsrelay) with ESMTP id 1HDVZQ4K7M2P0T8X5A; Fri, 27 Nov 2026 10:00:00 +0100\r\n"},
		{"UTF8-4.3-01 SMTPUTF8", func(x *trace) { x.utf8 = true },
			"Received: from client.example ([192.0.2.1])\r\n\tby relay.example.com (stsrelay) with UTF8SMTP id 1HDVZQ4K7M2P0T8X5A\r\n\tfor <b@example.net>; Fri, 27 Nov 2026 10:00:00 +0100\r\n"},
		{"UTF8-4.3-01 SMTPUTF8 and TLS", func(x *trace) { x.utf8, x.tls = true, "TLS 1.3" },
			"Received: from client.example ([192.0.2.1])\r\n\t(using TLS 1.3)\r\n\tby relay.example.com (stsrelay) with UTF8SMTPS id 1HDVZQ4K7M2P0T8X5A\r\n\tfor <b@example.net>; Fri, 27 Nov 2026 10:00:00 +0100\r\n"},
		{"UTF8-3.7.3-01 U-labels where the message goes with SMTPUTF8 or not at all", func(x *trace) {
			x.utf8, x.wide, x.helo, x.hostname, x.to = true, true, "xn--bcher-kva.example", "xn--bcher-kva.example", addr.MustAddress("grüße@bücher.example")
		},
			"Received: from bücher.example ([192.0.2.1])\r\n\tby bücher.example (stsrelay) with UTF8SMTP id 1HDVZQ4K7M2P0T8X5A\r\n\tfor <grüße@bücher.example>; Fri, 27 Nov 2026 10:00:00 +0100\r\n"},
		{"UTF8-3.7.3-01 ASCII where it may go without", func(x *trace) {
			x.utf8, x.helo, x.hostname, x.to = true, "xn--bcher-kva.example", "xn--bcher-kva.example", addr.MustAddress("b@bücher.example")
		},
			"Received: from xn--bcher-kva.example ([192.0.2.1])\r\n\tby xn--bcher-kva.example (stsrelay) with UTF8SMTP id 1HDVZQ4K7M2P0T8X5A\r\n\tfor <b@xn--bcher-kva.example>; Fri, 27 Nov 2026 10:00:00 +0100\r\n"},
		{"a local program", func(x *trace) { x.client, x.to = netip.Addr{}, addr.Address{} },
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
