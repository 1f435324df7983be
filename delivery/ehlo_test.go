package delivery

import (
	"net/netip"
	"strings"
	"testing"
)

func TestParseEHLO(t *testing.T) {
	for name, tt := range map[string]struct {
		text string
		want extensions
	}{
		"nothing":                              {"", extensions{}},
		"a name only":                          {"mx.example.com at your service", extensions{}},
		"SMTP-4.1.1.1-02 keywords in any case": {"mx\nstarttls\n8BitMime\nPipelining\nsMtPuTf8\nRequireTLS", extensions{startTLS: true, eightBit: true, pipelining: true, utf8: true, requireTLS: true}},
		"SMTP-4.1.1.1-02 the first line is no keyword":            {"STARTTLS\nHELP", extensions{}},
		"SMTP-4.1.1.1-02 a host named PIPELINING":                 {"PIPELINING greets you\n8BITMIME", extensions{eightBit: true}},
		"SIZE-3-01 a limit":                                       {"mx\nSIZE 1000", extensions{size: true, sizeLimit: 1000}},
		"SIZE-3-01 no parameter is no limit":                      {"mx\nSIZE", extensions{size: true}},
		"SIZE-3-01 zero is no limit":                              {"mx\nSIZE 0", extensions{size: true}},
		"SIZE-3-01 twenty digits are no limit we could exceed":    {"mx\nSIZE 99999999999999999999", extensions{size: true}},
		"SIZE-3-01 no number is no limit":                         {"mx\nSIZE -1", extensions{size: true}},
		"UTF8-3.1-01 parameters after SMTPUTF8 are ignored":       {"mx\nSMTPUTF8 X=1", extensions{utf8: true}},
		"LIM-9422-01 limits":                                      {"mx\nLIMITS MAILMAX=5 rcptmax=20 RCPTDOMAINMAX=1", extensions{mailMax: 5, rcptMax: 20}},
		"LIM-9422-01 a malformed LIMITS is ignored as a whole":    {"mx\nLIMITS RCPTMAX=20 MAILMAX=x", extensions{}},
		"LIM-9422-01 a limit of zero is malformed":                {"mx\nLIMITS RCPTMAX=0", extensions{}},
		"a keyword within another word":                           {"mx\nXSTARTTLS\nSTARTTLSX\nX STARTTLS", extensions{}},
		"an old server's blank and tab":                           {"mx\n PIPELINING \n", extensions{pipelining: true}},
		"STLS-2-01 STARTTLS has no parameters, but some send one": {"mx\nSTARTTLS foo", extensions{startTLS: true}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := parseEHLO(tt.text); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

func FuzzParseEHLO(f *testing.F) {
	for _, s := range []string{"", "mx\nSIZE 1000\nSTARTTLS", "mx\nLIMITS RCPTMAX=20 MAILMAX=5", "mx\nSIZE 9223372036854775808", "STARTTLS"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		x := parseEHLO(text)
		if x.sizeLimit < 0 || x.rcptMax < 0 || x.mailMax < 0 {
			t.Errorf("%+v", x)
		}
		_, keywords, _ := strings.Cut(text, "\n")
		if x.startTLS && !strings.Contains(strings.ToUpper(keywords), "STARTTLS") {
			t.Errorf("STARTTLS out of nothing: %q", text)
		}
		if again := parseEHLO("other\n" + keywords); again != x {
			t.Errorf("the first line matters: %+v, %+v", x, again)
		}
	})
}

func TestEHLOArgument(t *testing.T) {
	for name, tt := range map[string]struct{ host, local, want string }{
		"SMTP-4.1.1.1-01 our name":                             {"relay.example.com", "192.0.2.1", "relay.example.com"},
		"SMTP-4.1.1.1-01 without a name the IPv4 literal":      {"", "192.0.2.1", "[192.0.2.1]"},
		"SMTP-4.1.1.1-01 without a name the IPv6 literal":      {"", "2001:db8::1", "[IPv6:2001:db8::1]"},
		"a mapped address is IPv4":                             {"", "::ffff:192.0.2.1", "[192.0.2.1]"},
		"SMTP-4.1.1.1-01 a zone is nobody's business but ours": {"", "fe80::1%eth0", "[IPv6:fe80::1]"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := ehloArgument(tt.host, netip.MustParseAddr(tt.local)); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
