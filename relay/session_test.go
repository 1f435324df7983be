package relay

import (
	"errors"
	"strings"
	"testing"
)

// go-smtp gives a mailbox with its local part unquoted.
func TestReadAddress(t *testing.T) {
	for _, tt := range []struct{ name, in, want, err string }{
		{"plain", "u@d.example", "u@d.example", ""},
		{"S6 a blank", "a b@d.example", `"a b"@d.example`, ""},
		{"S6 what would end a path", "x> NOTIFY=NEVER@d.example", `"x> NOTIFY=NEVER"@d.example`, ""},
		{"S6 an @", "q@evil.example@d.example", `"q@evil.example"@d.example`, ""},
		{"S6 a quote and a backslash", `a"b\c@d.example`, `"a\"b\\c"@d.example`, ""},
		{"SMTP-4.1.2-01 two dots only in quotes", "a..b@d.example", `"a..b"@d.example`, ""},
		{"SMTP-4.1.2-01 an address literal", "u@[192.0.2.1]", "u@[192.0.2.1]", ""},
		{"SMTP-4.1.2-01 an address literal of IPv6", "u@[IPv6:2001:db8::1]", "u@[IPv6:2001:db8::1]", ""},
		{"SMTP-4.1.2-01 a literal that is none", "u@[192.0.2.256]", "", ""},
		{"S7 a control character in the local part", "a\x01@d.example", "", "control characters"},
		{"S7 a tab in the local part", "a\tb@d.example", "", "control characters"},
		{"S7 DEL", "a\x7f@d.example", "", "control characters"},
		{"S7 a control character in the domain", "a@d\x01.example", "", "control characters"},
		{"S7 CR and LF", "a\r\nRCPT@d.example", "", "control characters"},
		{"S8 octets that are no UTF-8, with SMTPUTF8", "ü\xff@d.example", "", "UTF-8"},
		{"UTF8-3.3-01 a local part that is not ASCII", "grüße@d.example", "grüße@d.example", ""},
		{"UTF8-3.3-01 in quotes", "grü ße@d.example", `"grü ße"@d.example`, ""},
		{"UTF8-3.3-01 a domain with a U-label", "a@bücher.example", "a@bücher.example", ""},
		{"UTF8-3.3-01 an overlong form", "gr\xc0\xafe@d.example", "", "UTF-8"},
		{"UTF8-3.3-01 an overlong form in the domain", "a@b\xc0\xafcher.example", "", "UTF-8"},
		{"UTF8-3.3-01 a surrogate", "gr\xed\xa0\x80e@d.example", "", "UTF-8"},
		{"UTF8-3.3-01 a character that is cut off", "gr\xc3@d.example", "", "UTF-8"},
		{"S7 a control character beyond ASCII", "gr\u009be@d.example", "", "control characters"},
		{"no domain", "postmaster", "", "no domain"},
		{"a domain that ends in a dot", "u@d.example.", "", "dot"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, err := readAddress(tt.in, true)
			switch {
			case tt.want == "" && err == nil:
				t.Errorf("%s is an address", a)
			case tt.want == "" && !strings.Contains(err.Error(), tt.err):
				t.Errorf("%v", err)
			case tt.want != "" && (err != nil || a.String() != tt.want):
				t.Errorf("%s, %v", a, err)
			}
		})
	}
}

func TestReadAddressWithoutSMTPUTF8(t *testing.T) {
	for _, in := range []string{"grüße@d.example", "a@bücher.example", "a\xff@d.example"} {
		if a, err := readAddress(in, false); !errors.Is(err, errNotASCII) {
			t.Errorf("%q: %s, %v", in, a, err)
		}
	}
}
