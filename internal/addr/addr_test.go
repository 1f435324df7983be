package addr

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

var (
	label63 = strings.Repeat("a", 63)
	name253 = strings.Repeat("a.", 126) + "b"
)

func TestParseDomain(t *testing.T) {
	tests := map[string]struct{ in, want string }{
		"a name is itself":                              {"example.com", "example.com"},
		"upper case is folded":                          {"EXAMPLE.Com", "example.com"},
		"one trailing dot is dropped":                   {"example.com.", "example.com"},
		"a single label is a domain":                    {"localhost", "localhost"},
		"a label may begin with a digit":                {"3com.com", "3com.com"},
		"a label may be a number, but the last":         {"163.com", "163.com"},
		"hyphens are fine inside":                       {"r3---sn.a-b.example", "r3---sn.a-b.example"},
		"63 octets are a label":                         {label63 + ".example", label63 + ".example"},
		"253 octets are a name":                         {name253, name253},
		"UTF8-3.2-01 U-labels become A-labels":          {"bücher.example", "xn--bcher-kva.example"},
		"U-labels in upper case are folded first":       {"BÜCHER.example", "xn--bcher-kva.example"},
		"decomposed letters are composed":               {"bu\u0308cher.example", "xn--bcher-kva.example"},
		"sharp s keeps its own A-label":                 {"straße.example", "xn--strae-oqa.example"},
		"an ideographic full stop is a dot":             {"例え。テスト", "xn--r8jz45g.xn--zckzah"},
		"and may be the trailing one":                   {"例え.テスト。", "xn--r8jz45g.xn--zckzah"},
		"full width letters are letters":                {"ｅxample.com", "example.com"},
		"an A-label is kept":                            {"xn--bcher-kva.example", "xn--bcher-kva.example"},
		"an A-label in upper case is folded":            {"XN--BCHER-KVA.example", "xn--bcher-kva.example"},
		"an emoji A-label is kept, for such names live": {"xn--i-7iq.ws", "xn--i-7iq.ws"},
		"an A-label that decodes to nothing is kept":    {"xn--0.example", "xn--0.example"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			d, err := ParseDomain(tt.in)
			if err != nil || d.String() != tt.want {
				t.Fatalf("%q is %q, %v; want %q", tt.in, d, err, tt.want)
			}
			if h, err := ParseHost(tt.in); err != nil || h != d.Host() {
				t.Errorf("as a host it is %q, %v", h, err)
			}
		})
	}
	refused := map[string]string{
		"nothing": "", "a dot": ".", "two dots at the end": "example.com..", "a leading dot": ".example.com", "an empty label": "a..b",
		"an ideographic dot and a dot": "例え.テスト。.",
		"a leading hyphen":             "-a.example", "a trailing hyphen": "a-.example", "a hyphen alone": "-",
		"a blank": "a b.example", "a tab": "a\tb.example", "CR LF": "a.example\r\nRCPT", "NUL": "a\x00.example", "DEL": "a\x7f.example",
		"an asterisk": "*.example", "an at sign": "u@a.example", "a slash": "a/b.example", "a colon": "a.example:25", "an escape": `a\.b.example`,
		"a literal": "[192.0.2.1]", "an IPv4 address": "192.0.2.1", "an IPv6 address": "2001:db8::1", "a numeric top-level domain": "example.123",
		"an IPv4 address in full width": "１.２.３.４", "a number": "2130706433",
		"a label of 64": label63 + "a.example", "254 octets": "a" + name253, "a very long name": strings.Repeat("ü", 100_000),
		"invalid UTF-8": "b\xfccher.example", "overlong UTF-8": "a\xc0\xaeb.example", "a surrogate": "a\xed\xa0\x80.example",
		"a C1 control": "a\u009b.example", "a right-to-left override": "a\u202e.example", "a full width less-than": "a＜.example",
		"a zero width joiner out of place": "a\u200d.example", "U-labels too long as A-labels": strings.Repeat("ü", 63) + ".example",
		"U-labels with an underscore": "a_b.bücher.example",
	}
	for name, in := range refused {
		t.Run("refused: "+name, func(t *testing.T) {
			if d, err := ParseDomain(in); err == nil {
				t.Errorf("%q was taken for %q", in, d)
			}
			if h, err := ParseHost(in); err == nil {
				t.Errorf("%q was taken for the host %q", in, h)
			}
		})
	}
}

func TestUnderscore(t *testing.T) {
	for _, s := range []string{"a_b.example", "_dmarc.example", "a_.example"} {
		t.Run("SMTP-4.1.2-02 taken from others, not for ourselves: "+s, func(t *testing.T) {
			if _, err := ParseDomain(s); err == nil {
				t.Errorf("%q is a domain", s)
			}
			if h, err := ParseHost(s); err != nil || h.String() != s {
				t.Errorf("%q is the host %q, %v", s, h, err)
			}
		})
	}
}

func TestUnicode(t *testing.T) {
	tests := map[string]struct{ in, want string }{
		"ASCII stays":                           {"example.com", "example.com"},
		"A-labels become U-labels":              {"xn--bcher-kva.example", "bücher.example"},
		"what decodes to nothing stays":         {"xn--0.example", "xn--0.example"},
		"an A-label not in normal form stays":   {"xn--bucher-xyd.example", "xn--bucher-xyd.example"},
		"an A-label with a control stays":       {"xn--a-uba.example", "xn--a-uba.example"},
		"an A-label with an override stays":     {"xn--ab-g4t.example", "xn--ab-g4t.example"},
		"an A-label with capitals inside stays": {"xn--Bcher-2pa.example", "xn--bcher-2pa.example"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := MustDomain(tt.in).Unicode(); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	t.Run("the zero domain is the empty string", func(t *testing.T) {
		if got := (Domain{}).Unicode(); got != "" {
			t.Errorf("got %q", got)
		}
	})
}

func TestParseAddress(t *testing.T) {
	local64, local255 := strings.Repeat("l", 64), strings.Repeat("l", 255)
	good := map[string]struct {
		in, local, domain string
		utf8              bool
	}{
		"a dot-string":                       {"a.b@Example.com", "a.b", "example.com", false},
		"all of atext":                       {"!#$%&'*+-/=?^_`{|}~09azAZ@x.example", "!#$%&'*+-/=?^_`{|}~09azAZ", "x.example", false},
		"a quoted string with a blank":       {`"a b"@x.example`, `"a b"`, "x.example", false},
		"a quoted at sign":                   {`"a@b"@x.example`, `"a@b"`, "x.example", false},
		"an escaped quote and backslash":     {`"a\"b\\c"@x.example`, `"a\"b\\c"`, "x.example", false},
		"an escape that was not needed":      {`"\a"@x.example`, `"\a"`, "x.example", false},
		"an escaped blank":                   {`"\ "@x.example`, `"\ "`, "x.example", false},
		"brackets in quotes":                 {`"<>"@x.example`, `"<>"`, "x.example", false},
		"the empty quoted string":            {`""@x.example`, `""`, "x.example", false},
		"dots anywhere in quotes":            {`".a..b."@x.example`, `".a..b."`, "x.example", false},
		"UTF-8 in a dot-string":              {"jörg@x.example", "jörg", "x.example", true},
		"UTF-8 in quotes":                    {`"jörg b"@x.example`, `"jörg b"`, "x.example", true},
		"a U-label domain needs no SMTPUTF8": {"u@bücher.example", "u", "xn--bcher-kva.example", false},
		"a local part of 64":                 {local64 + "@x.example", local64, "x.example", false},
		"a longer local part, as SRS does":   {local255 + "@x.example", local255, "x.example", false},
		"a domain of 253, 255 on the wire":   {"u@" + name253, "u", name253, false},
		"a domain without dot":               {"u@localhost", "u", "localhost", false},
	}
	for name, tt := range good {
		t.Run(name, func(t *testing.T) {
			a, err := ParseAddress(tt.in)
			if err != nil {
				t.Fatal(err)
			}
			d, ok := a.Domain()
			if a.Local() != tt.local || !ok || d.String() != tt.domain || a.NeedsUTF8() != tt.utf8 {
				t.Errorf("local %q, domain %q (%v), UTF-8 %v", a.Local(), d, ok, a.NeedsUTF8())
			}
			if a.String() != tt.in || a.Path() != "<"+tt.in+">" {
				t.Errorf("the spelling changed to %q", a)
			}
			if a.NextHop() != DomainHop(d) {
				t.Errorf("next hop %v", a.NextHop())
			}
		})
	}
	bad := map[string]string{
		"no at sign": "postmaster", "no local part": "@x.example", "no domain": "u@", "nothing but an at sign": "@", "two at signs": "a@b@x.example",
		"a blank": "a b@x.example", "a leading dot": ".a@x.example", "a trailing dot": "a.@x.example", "two dots": "a..b@x.example",
		"a blank at the end": "a@x.example ", "a blank at the beginning": " a@x.example", "angle brackets": "<a@x.example>", "a bracket": "a>b@x.example",
		"a comma": "a,b@x.example", "a source route": "@a.example:u@x.example", "a parenthesis": "a(b)@x.example",
		"an open quote": `"a@x.example`, "a lone quote": `"@x.example`, "a quote in the middle": `a"b"@x.example`, "text after quotes": `"a"b@x.example`,
		"a quote in quotes": `"a"b"@x.example`, "a backslash at the end": `"a\"@x.example`, "a backslash outside quotes": `a\b@x.example`,
		"an escaped character beyond ASCII": `"\ö"@x.example`,
		"CR LF in quotes":                   "\"a\r\nb\"@x.example", "an escaped LF": "\"\\\n\"@x.example", "a tab in quotes": "\"a\tb\"@x.example",
		"NUL": "a\x00b@x.example", "NUL in quotes": "\"\x00\"@x.example", "DEL in quotes": "\"\x7f\"@x.example", "LF at the end": "a@x.example\n",
		"a C1 control": "a\u009bb@x.example", "a C1 control in quotes": "\"\u0085\"@x.example",
		"invalid UTF-8": "j\xf6rg@x.example", "invalid UTF-8 in quotes": "\"j\xf6rg\"@x.example", "overlong UTF-8": "a\xc0\xafb@x.example",
		"a local part of 256": strings.Repeat("l", 256) + "@x.example", "a domain of 254": "u@a" + name253,
		"a domain with a trailing dot": "u@x.example.", "a domain with an underscore": "u@a_b.example",
		"an IPv4 address without brackets": "u@192.0.2.1", "an IPv6 literal without tag": "u@[2001:db8::1]", "an IPv4 literal with tag": "u@[IPv6:192.0.2.1]",
		"a literal with blanks": "u@[ 192.0.2.1 ]", "a literal with a zone": "u@[IPv6:fe80::1%eth0]", "leading zeros": "u@[192.0.02.1]",
		"three octets": "u@[192.0.2]", "an octet of 256": "u@[192.0.2.256]", "another tag": "u@[X400:c=us]", "an empty literal": "u@[]",
		"an open literal": "u@[192.0.2.1", "a literal and a port": "u@[192.0.2.1]:25", "two compressions": "u@[IPv6:1::2::3]", "nine groups": "u@[IPv6:1:2:3:4:5:6:7:8:9]",
	}
	for name, in := range bad {
		t.Run("refused: "+name, func(t *testing.T) {
			if a, err := ParseAddress(in); !errors.Is(err, ErrSyntax) || a != (Address{}) {
				t.Errorf("%q gave %q, %v", in, a, err)
			}
		})
	}
	t.Run("the empty string is the null reverse-path", func(t *testing.T) {
		a, err := ParseAddress("")
		if err != nil || !a.IsNull() || a.Path() != "<>" || a != (Address{}) || !a.NextHop().IsZero() {
			t.Errorf("%+v, %v", a, err)
		}
	})
}

func TestLiteralAddress(t *testing.T) {
	for in, want := range map[string]string{
		"u@[192.0.2.1]": "192.0.2.1", "u@[IPv6:2001:db8::1]": "2001:db8::1", "u@[ipv6:2001:DB8:0:0:0:0:0:1]": "2001:db8::1", "u@[IPv6:::]": "::",
		"u@[IPv6:::ffff:192.0.2.1]": "192.0.2.1", "u@[IPv6:2001:db8::192.0.2.1]": "2001:db8::c000:201",
	} {
		a, err := ParseAddress(in)
		if err != nil {
			t.Error(err)
			continue
		}
		if _, ok := a.Domain(); ok || a.String() != in || a.NextHop() != LiteralHop(netip.MustParseAddr(want), 0) {
			t.Errorf("%q leads to %v", a, a.NextHop())
		}
	}
}

func TestASCII(t *testing.T) {
	tests := map[string]struct {
		in, want string
		ok       bool
	}{
		"ASCII is unchanged":                       {"A.b@Example.COM", "A.b@Example.COM", true},
		"U-labels become A-labels":                 {`"a b"@Bücher.example`, `"a b"@xn--bcher-kva.example`, true},
		"an internationalised local part has none": {"jörg@x.example", "", false},
		"a literal is unchanged":                   {"u@[IPv6:::1]", "u@[IPv6:::1]", true},
		"the null reverse-path is unchanged":       {"", "", true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if wire := MustAddress(tt.in).Wire(); tt.ok && wire != tt.want || !tt.ok && wire != tt.in {
				t.Errorf("on the wire it is %q", wire)
			}
			if got, ok := MustAddress(tt.in).ASCII(); got != tt.want || ok != tt.ok {
				t.Errorf("got %q, %v", got, ok)
			}
		})
	}
}

func TestParsePath(t *testing.T) {
	good := map[string]struct{ in, want string }{
		"the null reverse-path":        {"<>", ""},
		"a mailbox in brackets":        {"<u@c.example>", "u@c.example"},
		"a mailbox without brackets":   {"u@c.example", "u@c.example"},
		"a quoted bracket":             {`<">"@c.example>`, `">"@c.example`},
		"a source route is dropped":    {"<@a.example,@b.example:u@c.example>", "u@c.example"},
		"a route of one hop as well":   {"@a.example:u@c.example", "u@c.example"},
		"colons behind the first stay": {`<@a.example:"x:y"@c.example>`, `"x:y"@c.example`},
	}
	for name, tt := range good {
		t.Run(name, func(t *testing.T) {
			if a, err := ParsePath(tt.in); err != nil || a.String() != tt.want {
				t.Errorf("got %q, %v", a, err)
			}
		})
	}
	for name, in := range map[string]string{
		"an open bracket": "<u@c.example", "a closing bracket": "u@c.example>", "two brackets": "<<u@c.example>>", "text behind": "<u@c.example> x",
		"a route without mailbox": "<@a.example:>", "a route without colon": "<@a.example>", "an empty hop": "<@a.example,:u@c.example>",
		"a hop without at sign": "<@a.example,b.example:u@c.example>", "a hop that is no domain": "<@a b:u@c.example>", "an empty route": "<@:u@c.example>",
		"a route in a route": "<@a.example:@b.example:u@c.example>",
	} {
		t.Run("refused: "+name, func(t *testing.T) {
			if a, err := ParsePath(in); !errors.Is(err, ErrSyntax) {
				t.Errorf("%q gave %q, %v", in, a, err)
			}
		})
	}
}

func TestQuote(t *testing.T) {
	tests := map[string]struct{ in, want string }{
		"SMTP-4.1.2-03 a dot-string is not quoted":     {"a.b+c", "a.b+c"},
		"SMTP-4.1.2-03 UTF-8 is not quoted":            {"jörg", "jörg"},
		"SMTP-4.1.2-03 a blank is quoted, not escaped": {"a b", `"a b"`},
		"a quote and a backslash are escaped":          {`a"b\c`, `"a\"b\\c"`},
		"an at sign is quoted":                         {"a@b", `"a@b"`},
		"dots at the ends are quoted":                  {".a.", `".a."`},
		"the empty name is an empty quoted string":     {"", `""`},
		"a line break cannot be written":               {"a\r\nRCPT TO:<b>", ""},
		"NUL cannot be written":                        {"a\x00", ""},
		"invalid UTF-8 cannot be written":              {"a\xff", ""},
		"a C1 control cannot be written":               {"a\u0085", ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := Quote(tt.in); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestNextHop(t *testing.T) {
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	d, h := MustDomain("example.com"), MustHost("mx_1.example.com")
	tests := map[string]struct {
		in, text string
		want     NextHop
		port     uint16
	}{
		"a domain":                           {"Example.com", "example.com", DomainHop(d), 25},
		"a host":                             {"[MX_1.example.com]", "[mx_1.example.com]", HostHop(h, 0), 25},
		"a host and port":                    {"[mx_1.example.com]:587", "[mx_1.example.com]:587", HostHop(h, 587), 587},
		"a host and port 25":                 {"[mx_1.example.com]:25", "[mx_1.example.com]", HostHop(h, 25), 25},
		"an IPv4 literal":                    {"[192.0.2.1]", "[192.0.2.1]", LiteralHop(v4, 0), 25},
		"an IPv4 literal and port":           {"[192.0.2.1]:2525", "[192.0.2.1]:2525", LiteralHop(v4, 2525), 2525},
		"an IPv6 literal and port":           {"[ipv6:2001:DB8::1]:2525", "[IPv6:2001:db8::1]:2525", LiteralHop(v6, 2525), 2525},
		"an IPv6 literal without tag":        {"[2001:db8::1]:2525", "[IPv6:2001:db8::1]:2525", LiteralHop(v6, 2525), 2525},
		"a mapped literal is the IPv4 one":   {"[IPv6:::ffff:192.0.2.1]", "[192.0.2.1]", LiteralHop(v4, 0), 25},
		"a host named like a tag is no host": {"[IPv6.example]", "[ipv6.example]", HostHop(MustHost("ipv6.example"), 0), 25},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			n, err := ParseNextHop(tt.in)
			if err != nil || n != tt.want || n.String() != tt.text || n.Port() != tt.port {
				t.Fatalf("%v (%+v), %v", n, n, err)
			}
		})
	}
	for name, in := range map[string]string{
		"nothing": "", "an open bracket": "[mx.example.com", "empty brackets": "[]", "port 0": "[mx.example.com]:0", "port 65536": "[mx.example.com]:65536",
		"a negative port": "[mx.example.com]:-1", "a signed port": "[mx.example.com]:+25", "no port": "[mx.example.com]:", "no colon": "[mx.example.com]25",
		"two colons": "[mx.example.com]::25", "a domain and port": "example.com:25", "an address without brackets": "192.0.2.1", "a zone": "[fe80::1%eth0]",
		"an IPv4 address with tag": "[IPv6:192.0.2.1]", "a truncated address": "[192.0.2]", "a line break": "[mx.example.com]\n",
	} {
		t.Run("refused: "+name, func(t *testing.T) {
			if n, err := ParseNextHop(in); err == nil || !n.IsZero() {
				t.Errorf("%q gave %+v, %v", in, n, err)
			}
		})
	}
	t.Run("exactly one kind answers", func(t *testing.T) {
		for _, n := range []NextHop{DomainHop(d), HostHop(h, 1), LiteralHop(v4, 1)} {
			_, a := n.Domain()
			_, b := n.Host()
			_, c := n.Literal()
			if n.IsZero() || btoi(a)+btoi(b)+btoi(c) != 1 {
				t.Errorf("%v: domain %v, host %v, literal %v", n, a, b, c)
			}
		}
	})
	t.Run("a literal's zone is dropped", func(t *testing.T) {
		if n := LiteralHop(netip.MustParseAddr("fe80::1%eth0"), 0); n.String() != "[IPv6:fe80::1]" {
			t.Error(n)
		}
	})
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func TestPolicyDomain(t *testing.T) {
	tests := map[string]struct{ hop, want string }{
		"a domain is its own":                         {"example.com", "example.com"},
		"a fixed host's name is it":                   {"[smtp.isp.example]:587", "smtp.isp.example"},
		"a host that is no domain has none":           {"[a_b.example]", ""},
		"an address literal has none":                 {"[192.0.2.1]", ""},
		"a domain with U-labels is asked by A-labels": {"bücher.example", "xn--bcher-kva.example"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			n, err := ParseNextHop(tt.hop)
			if err != nil {
				t.Fatal(err)
			}
			if d, ok := n.PolicyDomain(); d.String() != tt.want || ok != (tt.want != "") {
				t.Errorf("got %q, %v", d, ok)
			}
		})
	}
}

func TestText(t *testing.T) {
	type all struct {
		d Domain
		h Host
		a Address
	}
	for _, in := range []all{{}, {MustDomain("bücher.example"), MustHost("a_b.example"), MustAddress(`"a b"@Bücher.example`)}} {
		var out all
		d, _ := in.d.MarshalText()
		h, _ := in.h.MarshalText()
		a, _ := in.a.MarshalText()
		if err := errors.Join(out.d.UnmarshalText(d), out.h.UnmarshalText(h), out.a.UnmarshalText(a)); err != nil {
			t.Fatal(err)
		}
		if in != out {
			t.Errorf("%+v came back as %+v", in, out)
		}
	}
	var d Domain
	if d.UnmarshalText([]byte("a b")) == nil || !d.IsZero() {
		t.Error("a bad name was read")
	}
}

func TestMust(t *testing.T) {
	for name, f := range map[string]func(){
		"MustDomain": func() { MustDomain("a b") }, "MustHost": func() { MustHost("") }, "MustAddress": func() { MustAddress("x") },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s does not panic", name)
				}
			}()
			f()
		}()
	}
}
