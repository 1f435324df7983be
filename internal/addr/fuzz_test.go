package addr

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func FuzzParseDomain(f *testing.F) {
	for _, s := range []string{"example.com", "BÜCHER.example.", "xn--bcher-kva.example", "例え。テスト", "xn--0.example", "a..b", "192.0.2.1", "a\u200db", "１.２.３.４"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseDomain(s)
		if err != nil {
			if !d.IsZero() {
				t.Fatalf("error and %q", d)
			}
			return
		}
		checkName(t, d.String())
		if back, err := ParseDomain(d.String()); err != nil || back != d {
			t.Fatalf("%q came back as %q, %v", d, back, err)
		}
		if back, err := ParseDomain(d.Unicode()); err != nil || back != d {
			t.Fatalf("%q in Unicode is %q and came back as %q, %v", d, d.Unicode(), back, err)
		}
		if h, err := ParseHost(s); err != nil || h != d.Host() {
			t.Fatalf("%q is the host %q, %v", s, h, err)
		}
	})
}

func checkName(t *testing.T, s string) {
	t.Helper()
	if s == "" || len(s) > 253 || s != strings.ToLower(s) || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-._") != "" {
		t.Fatalf("%q is no name", s)
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 {
			t.Fatalf("%q has the label %q", s, label)
		}
	}
}

func FuzzParseHost(f *testing.F) {
	for _, s := range []string{"mx.example.com.", "a_b.example", `a\.b.example`, "*.example", "bücher.example"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		h, err := ParseHost(s)
		if err != nil {
			return
		}
		checkName(t, h.String())
		if back, err := ParseHost(h.String()); err != nil || back != h {
			t.Fatalf("%q came back as %q, %v", h, back, err)
		}
	})
}

func FuzzParseNextHop(f *testing.F) {
	for _, s := range []string{"example.com", "[mx.example.com]:587", "[192.0.2.1]", "[IPv6:2001:db8::1]:2525", "[::1]", "[IPv6:::ffff:1.2.3.4]", "[a]:0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ParseNextHop(s)
		if err != nil {
			if !n.IsZero() {
				t.Fatalf("error and %v", n)
			}
			return
		}
		if back, err := ParseNextHop(n.String()); err != nil || back != n {
			t.Fatalf("%v came back as %v, %v", n, back, err)
		}
		if n.Port() == 0 {
			t.Fatal("port 0")
		}
	})
}

func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{
		"u@example.com", `"a b"@example.com`, `"a\"<>@b"@example.com`, `""@d`, "u@[IPv6:::1]", "u@[192.0.2.1]", "jörg@bücher.example", "a@b@c",
		"u@x\r\n", "\"\x00\"@d", "<@a,@b:u@c>", "<>", "\"\u0085\"@d",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if a, err := ParsePath(s); err == nil {
			checkAddress(t, a)
		}
		a, err := ParseAddress(s)
		if err != nil {
			return
		}
		if a.String() != s {
			t.Fatalf("%q became %q", s, a)
		}
		checkAddress(t, a)
	})
}

// checkAddress holds a parsed address to what its type promises.
func checkAddress(t *testing.T, a Address) {
	t.Helper()
	s := a.String()
	if back, err := ParseAddress(s); err != nil || back != a {
		t.Fatalf("%q came back as %q, %v", a, back, err)
	}
	if back, err := ParsePath(a.Path()); err != nil || back != a {
		t.Fatalf("%s came back as %q, %v", a.Path(), back, err)
	}
	if !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
		t.Fatalf("%q has control characters or is no UTF-8", s)
	}
	if out := outsideQuotes(s); strings.ContainsAny(out, "<> ,:;\"\\") && !strings.Contains(out, "@[") {
		t.Fatalf("%q has %q outside quotes", s, out)
	}
	if a.IsNull() {
		return
	}
	if n, err := ParseNextHop(a.NextHop().String()); err != nil || n != a.NextHop() {
		t.Fatalf("next hop %v came back as %v, %v", a.NextHop(), n, err)
	}
	if ascii, ok := a.ASCII(); ok {
		b, err := ParseAddress(ascii)
		if err != nil || b.NextHop() != a.NextHop() || b.Local() != a.Local() {
			t.Fatalf("%q in ASCII is %q, %v", a, ascii, err)
		}
	}
}

// outsideQuotes returns s without its quoted string.
func outsideQuotes(s string) string {
	if !strings.HasPrefix(s, `"`) {
		return s
	}
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			return s[i+1:]
		}
	}
	return s
}

func FuzzQuote(f *testing.F) {
	for _, s := range []string{"", "a.b", "a b", `a"b\c`, "a\r\n", "jörg", "a\xff", "."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		q := Quote(s)
		if q == "" {
			if utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl) {
				t.Fatalf("%q cannot be written", s)
			}
			return
		}
		if len(q) > maxLocal {
			return
		}
		a, err := ParseAddress(q + "@example.com")
		if err != nil {
			t.Fatal(err)
		}
		if got := unquote(a.Local()); got != s {
			t.Fatalf("%q came back as %q", s, got)
		}
	})
}

func unquote(s string) string {
	if !strings.HasPrefix(s, `"`) {
		return s
	}
	var b strings.Builder
	for i := 1; i < len(s)-1; i++ {
		if s[i] == '\\' {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
