package stscache

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"stsrelay/internal/addr"
)

const sound = "version: STSv1\r\nmode: enforce\r\nmx: mail.example.com\r\nmax_age: 604800\r\n"

// with changes a line of a sound policy.
func with(old, new string) string {
	if !strings.Contains(sound, old) {
		panic(old)
	}
	return strings.Replace(sound, old, new, 1)
}

func TestParsePolicy(t *testing.T) {
	mx := func(value string) string { return with("mail.example.com", value) }
	for _, tt := range []struct {
		name, body string
		valid      bool
	}{
		{"a policy", sound, true},
		{"nothing", "", false},

		{"STS-3.2-04 no last line end", strings.TrimSuffix(sound, "\r\n"), true},
		{"STS-3.2-04 a bare CR ends no line", strings.ReplaceAll(sound, "\r\n", "\r"), false},
		{"STS-3.2-04 a bare CR within", with("\r\nmode", "\rmode"), false},

		{"STS-3.2-05 no blank behind the colon", with("mode: enforce", "mode:enforce"), true},
		{"STS-3.2-05 tabs and blanks", with("mode: enforce", "mode:\t enforce  "), true},
		{"STS-3.2-05 a blank before the colon", with("mode: enforce", "mode : enforce"), false},
		{"STS-3.2-05 a blank at the start", with("mode: enforce", " mode: enforce"), false},

		{"STS-3.2-06 a key has a case", with("mode: enforce", "Mode: enforce"), false},
		{"STS-3.2-06 mx first", "mx: a.example\n" + sound, true},

		{"STS-3.2-07 version 2", with("STSv1", "STSv2"), false},
		{"STS-3.2-07 version 10", with("STSv1", "STSv10"), false},
		{"STS-3.2-07 small letters", with("STSv1", "stsv1"), false},
		{"STS-3.2-07 no version", with("version: STSv1\r\n", ""), false},

		{"STS-3.2-08 testing", with("enforce", "testing"), true},
		{"STS-3.2-08 none", with("enforce", "none"), true},
		{"STS-3.2-08 a mode has a case", with("enforce", "Enforce"), false},
		{"STS-3.2-08 another mode", with("enforce", "report"), false},
		{"STS-3.2-08 no mode", with("mode: enforce\r\n", ""), false},

		{"STS-3.2-09 a negative max_age", with("604800", "-1"), false},
		{"STS-3.2-09 a fraction", with("604800", "1.5"), false},
		{"STS-3.2-09 a sign", with("604800", "+1"), false},
		{"STS-3.2-09 an empty max_age", with("604800", ""), false},
		{"STS-3.2-09 11 digits", with("604800", "00000604800"), false},
		{"STS-3.2-09 no max_age", with("max_age: 604800\r\n", ""), false},

		{"STS-3.2-11 enforce without mx", with("mx: mail.example.com\r\n", ""), false},
		{"STS-3.2-11 testing without mx", strings.Replace(with("mx: mail.example.com\r\n", ""), "enforce", "testing", 1), false},
		{"STS-3.2-11 none without mx", strings.Replace(with("mx: mail.example.com\r\n", ""), "enforce", "none", 1), true},

		{"STS-3.2-12 a lone star", mx("*"), false},
		{"STS-3.2-12 a star and a dot", mx("*."), false},
		{"STS-3.2-12 two stars", mx("*.*.example"), false},
		{"STS-3.2-12 a star within a label", mx("m*.example"), false},
		{"STS-3.2-12 a star within the name", mx("a.*.example"), false},
		{"STS-3.2-12 a dot at the end", mx("a.example."), false},
		{"STS-3.2-12 an address literal", mx("[192.0.2.1]"), false},
		{"STS-3.2-12 two names", mx("a,b"), false},
		{"STS-3.2-12 two names and a blank", mx("a.example b.example"), false},
		{"STS-3.2-12 an underscore", mx("a_b.example"), false},
		{"STS-3.2-12 one bad value of two", sound + "mx: *\r\n", false},

		{"STS-3.2-13 an A-label", mx("xn--mx-eka.example"), true},
		{"STS-3.2-13 a U-label", mx("m\xc3\xbc.example"), false},

		{"STS-3.2-14 an IPv4 address", mx("192.0.2.1"), false},
		{"STS-3.2-14 a pattern of digits", mx("*.2.0.192"), false},

		{"STS-3.2-15 an unknown key", sound + "x-foo: a b \xc3\xa9\r\n", true},
		{"STS-3.2-15 without a value", sound + "x:\r\n", false},
		{"STS-3.2-15 a name of 33 characters", sound + strings.Repeat("x", 33) + ": 1\r\n", false},
		{"STS-3.2-15 a name that begins with _", sound + "_x: 1\r\n", false},
		{"STS-3.2-15 a NUL", sound + "x: a\x00b\r\n", false},
		{"STS-3.2-15 a tab within", sound + "x: a\tb\r\n", false},
		{"a line without a colon", sound + "hello\r\n", false},

		{"STS-3.2-17 an ignored line is not read", sound + "mode: foo\r\n", true},
		{"STS-3.2-17 but must be a line", sound + "mode:\r\n", false},

		{"STS-3.2-18 empty lines", "\r\n" + sound + "\r\n", true},

		{"STS-3.2-19 a byte order mark", "\xef\xbb\xbf" + sound, false},
		{"STS-3.2-19 not UTF-8", sound + "x: \xff\r\n", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, lines, err := ParsePolicy([]byte(tt.body))
			if tt.valid != (err == nil) || err != nil && !errors.Is(err, ErrPolicySyntax) || (p != nil) != tt.valid || (lines != nil) != tt.valid {
				t.Errorf("%q: %+v, %q, %v", tt.body, p, lines, err)
			}
		})
	}
}

func TestParsePolicyReads(t *testing.T) {
	for _, tt := range []struct {
		name, body string
		mode       Mode
		seconds    int64
		mx         []Pattern
	}{
		{"a policy", sound, Enforce, 604800, []Pattern{"mail.example.com"}},
		{"STS-3.2-09 the largest max_age", with("604800", "31557600"), Enforce, 31557600, []Pattern{"mail.example.com"}},
		{"STS-3.2-09 one second more", with("604800", "31557601"), Enforce, 31557600, []Pattern{"mail.example.com"}},
		{"ERR-8461-7282 ten digits", with("604800", "9999999999"), Enforce, 31557600, []Pattern{"mail.example.com"}},
		{"STS-3.2-11 every mx counts", sound + "mx: *.b.example\r\nmx: c.example\r\n", Enforce, 604800, []Pattern{"mail.example.com", "*.b.example", "c.example"}},
		{"STS-3.2-11 none keeps its mx", with("enforce", "none"), None, 604800, []Pattern{"mail.example.com"}},
		{"STS-3.2-16 the first mode counts", with("mode: enforce", "mode: testing\r\nmode: enforce"), Testing, 604800, []Pattern{"mail.example.com"}},
		{"STS-3.2-16 the first max_age counts", with("max_age: 604800", "max_age: 1\r\nmax_age: 99"), Enforce, 1, []Pattern{"mail.example.com"}},
		{"patterns have no case", with("mail.example.com", "*.Example.COM"), Enforce, 604800, []Pattern{"*.example.com"}},
		{"ERR-8461-6253 LF", strings.ReplaceAll(sound, "\r\n", "\n"), Enforce, 604800, []Pattern{"mail.example.com"}},
		{"ERR-8461-6253 both", strings.Replace(sound, "\r\n", "\n", 2), Enforce, 604800, []Pattern{"mail.example.com"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, lines, err := ParsePolicy([]byte(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			if p.Mode != tt.mode || p.MaxAge != time.Duration(tt.seconds)*time.Second || !slices.Equal(p.MX, tt.mx) {
				t.Errorf("%+v", p)
			}
			want := strings.Split(strings.TrimSuffix(strings.ReplaceAll(tt.body, "\r\n", "\n"), "\n"), "\n")
			if !slices.Equal(lines, want) {
				t.Errorf("lines %q", lines)
			}
		})
	}
	t.Run("the bounds of a file and of its patterns", func(t *testing.T) {
		full := sound + "x: " + strings.Repeat("x", MaxPolicySize-len(sound)-len("x: "))
		if _, _, err := ParsePolicy([]byte(full)); err != nil || len(full) != 65536 {
			t.Errorf("%d octets: %v", len(full), err)
		}
		if _, _, err := ParsePolicy([]byte(full + "x")); !errors.Is(err, ErrTooLarge) {
			t.Errorf("one more: %v", err)
		}
		many := sound + strings.Repeat("mx: a.example\n", maxPatterns-1)
		if _, _, err := ParsePolicy([]byte(many)); err != nil {
			t.Errorf("%d patterns: %v", maxPatterns, err)
		}
		if _, _, err := ParsePolicy([]byte(many + "mx: a.example\n")); !errors.Is(err, ErrPolicySyntax) {
			t.Errorf("one more: %v", err)
		}
	})
	t.Run("an error names the line", func(t *testing.T) {
		_, _, err := ParsePolicy([]byte(with("enforce", "Enforce")))
		if err == nil || !strings.Contains(err.Error(), `line 2: the mode is "Enforce"`) {
			t.Errorf("%v", err)
		}
	})
}

func TestMatch(t *testing.T) {
	for _, tt := range []struct {
		name, pattern, mx string
		want              bool
	}{
		{"the name itself", "mail.example.com", "mail.example.com", true},
		{"another name", "mail.example.com", "mx.example.com", false},
		{"STS-4.1-02 a star is one label", "*.example.com", "mail.example.com", true},
		{"STS-4.1-02 a star is not none", "*.example.com", "example.com", false},
		{"STS-4.1-02 a star is not two", "*.example.com", "foo.bar.example.com", false},
		{"STS-4.1-02 a label must end there", "*.example.com", "mail.notexample.com", false},
		{"a name covers nothing below it", "example.com", "mail.example.com", false},
		{"STS-4.1-03 names have no case, and no dot at the end", "mail.example.com", "MAIL.Example.COM.", true},
		{"STS-4.1-03 patterns have no case either", "*.EXAMPLE.com", "mail.example.com", true},
		{"STS-4.1-04 A-labels", "xn--mx-eka.example", "xn--mx-eka.example", true},
		{"an A-label is not what it looks like", "xn--mx-eka.example", "mx.example", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, _, err := ParsePolicy([]byte(with("mail.example.com", tt.pattern)))
			if err != nil {
				t.Fatal(err)
			}
			if got := p.Match(addr.MustHost(tt.mx)); got != tt.want {
				t.Errorf("%s matches %s: %v", tt.pattern, tt.mx, got)
			}
		})
	}
}

func FuzzParsePolicy(f *testing.F) {
	for _, s := range []string{sound, "", "version: STSv1\nmode: none\nmax_age: 0", sound + "mx: *.x.example\nx: y\n\n", "\xef\xbb\xbf" + sound} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		p, lines, err := ParsePolicy(body)
		if err != nil {
			if p != nil || !errors.Is(err, ErrPolicySyntax) && !errors.Is(err, ErrTooLarge) {
				t.Errorf("%+v, %v", p, err)
			}
			return
		}
		if p.MaxAge < 0 || p.MaxAge > MaxAge || p.Mode != Enforce && p.Mode != Testing && p.Mode != None || p.Mode != None && len(p.MX) == 0 {
			t.Errorf("%+v", p)
		}
		for _, q := range p.MX {
			name := strings.TrimPrefix(string(q), "*.")
			if h, err := addr.ParseHost(name); err != nil || h.String() != name {
				t.Errorf("pattern %q: %v", q, err)
			}
		}
		again, _, err := ParsePolicy([]byte(strings.Join(lines, "\r\n")))
		if err != nil || again.Mode != p.Mode || again.MaxAge != p.MaxAge || !slices.Equal(again.MX, p.MX) {
			t.Errorf("%q is read as %+v, then as %+v, %v", body, p, again, err)
		}
	})
}
