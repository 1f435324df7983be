package tlsrpt

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func ruas(r Record) (list []string) {
	for _, u := range r.RUAs {
		list = append(list, u.String())
	}
	return list
}

func TestParseRecord(t *testing.T) {
	const a, b = "mailto:a@b.example", "https://r.example/x"
	for _, c := range []struct {
		name string
		txt  []string
		want []string
		err  error
	}{
		{"RPT-3-02 no white space", []string{"v=TLSRPTv1;rua=" + a}, []string{a}, nil},
		{"RPT-3-02 a delimiter may end the record", []string{"v=TLSRPTv1;rua=" + a + ";"}, []string{a}, nil},
		{"RPT-3-02 white space may stand around delimiters", []string{"v=TLSRPTv1 \t; rua=" + a + " ; "}, []string{a}, nil},
		{"RPT-3-02 the version is case-sensitive", []string{"v=tlsrptv1;rua=" + a}, nil, ErrNoRecord},
		{"RPT-3-02 the version comes first", []string{"rua=" + a + ";v=TLSRPTv1"}, nil, ErrNoRecord},
		{"RPT-3-02 another version is none", []string{"v=TLSRPTv2;rua=" + a}, nil, ErrNoRecord},
		{"RPT-3-02 a longer version is another one", []string{"v=TLSRPTv11;rua=" + a}, nil, ErrNoRecord},
		{"RPT-3-02 white space without a delimiter is not allowed", []string{"v=TLSRPTv1;rua=" + a + " "}, nil, ErrRecordSyntax},
		{"RPT-3-02 an empty field is none", []string{"v=TLSRPTv1;;rua=" + a}, nil, ErrRecordSyntax},
		{"RPT-3-02 the version alone is no record", []string{"v=TLSRPTv1"}, nil, ErrRecordSyntax},
		{"RPT-3-03 several URIs", []string{"v=TLSRPTv1; rua=" + a + " , " + b}, []string{a, b}, nil},
		{"RPT-3-03 without rua", []string{"v=TLSRPTv1; foo=1"}, nil, ErrRecordSyntax},
		{"RPT-3-03 the key is case-sensitive", []string{"v=TLSRPTv1; RUA=1"}, nil, ErrRecordSyntax},
		{"RPT-3-04 other schemes are ignored", []string{"v=TLSRPTv1; rua=http://r.example/,ftp://r.example/," + a}, []string{a}, nil},
		{"RPT-3-04 nothing but another scheme", []string{"v=TLSRPTv1; rua=http://r.example/"}, nil, nil},
		{"RPT-3-05 an encoded comma does not split", []string{"v=TLSRPTv1; rua=mailto:a%2Cb@c.example"}, []string{"mailto:a%2Cb@c.example"}, nil},
		{"RPT-3-06 a size limit makes one URI invalid and leaves the others", []string{"v=TLSRPTv1; rua=mailto:a@b.example!10m,mailto:c@d.example"}, []string{"mailto:c@d.example"}, nil},
		{"RPT-3-06 an address without a scheme leaves the others", []string{"v=TLSRPTv1; rua=a@b.example,mailto:c@d.example"}, []string{"mailto:c@d.example"}, nil},
		{"RPT-3-07 an extension is ignored", []string{"v=TLSRPTv1; foo=1; rua=" + a}, []string{a}, nil},
		{"RPT-3-07 a name of 32 characters", []string{"v=TLSRPTv1; a" + strings.Repeat("-", 31) + "=1; rua=" + a}, []string{a}, nil},
		{"RPT-3-07 a name of 33 characters", []string{"v=TLSRPTv1; a" + strings.Repeat("-", 32) + "=1; rua=" + a}, nil, ErrRecordSyntax},
		{"RPT-3-07 a name begins with a letter or digit", []string{"v=TLSRPTv1; -a=1; rua=" + a}, nil, ErrRecordSyntax},
		{"RPT-3-07 a value has no equals sign", []string{"v=TLSRPTv1; foo=a=b; rua=" + a}, nil, ErrRecordSyntax},
		{"RPT-3-07 a value has no blank", []string{"v=TLSRPTv1; foo=a b; rua=" + a}, nil, ErrRecordSyntax},
		{"RPT-3-07 a value is not empty", []string{"v=TLSRPTv1; foo=; rua=" + a}, nil, ErrRecordSyntax},
		{"RPT-3-08 two records are none", []string{"v=TLSRPTv1; rua=" + a, "v=TLSRPTv1; rua=" + b}, nil, ErrManyRecords},
		{"RPT-3-08 other records are dropped", []string{"v=spf1 -all", "v=TLSRPTv1; rua=" + a}, []string{a}, nil},
		{"RPT-3-08 only other records", []string{"v=spf1 -all", "hello"}, nil, ErrNoRecord},
		{"RPT-3-08 beside others the literal prefix counts", []string{"v=spf1 -all", "v=TLSRPTv1 ; rua=" + a}, nil, ErrNoRecord},
		{"no record at all", nil, nil, ErrNoRecord},
		{"RPT-3-10 an empty rua", []string{"v=TLSRPTv1; rua="}, nil, ErrRecordSyntax},
		{"RPT-3-10 an empty URI among others", []string{"v=TLSRPTv1; rua=" + a + ",," + b}, nil, ErrRecordSyntax},
		{"RPT-3-10 a sole record is judged by the grammar", []string{"v=TLSRPTv1 ;rua=" + a}, []string{a}, nil},
		{"RPT-3-11 several rua fields are one list, without repetition", []string{"v=TLSRPTv1; rua=" + a + "; rua=mailto:c@d.example," + a}, []string{a, "mailto:c@d.example"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := ParseRecord(c.txt)
			if !errors.Is(err, c.err) || !slices.Equal(ruas(got), c.want) {
				t.Errorf("got %v, %v; want %v, %v", ruas(got), err, c.want, c.err)
			}
		})
	}
}

func TestMaxRUAs(t *testing.T) {
	t.Run("RPT-7-01 of 50 destinations 10 are used and the others named", func(t *testing.T) {
		var list []string
		for i := range 50 {
			list = append(list, fmt.Sprintf("mailto:r%d@d.example", i))
		}
		r, err := ParseRecord([]string{"v=TLSRPTv1; rua=" + strings.Join(list, ",")})
		if err != nil || !slices.Equal(ruas(r), list[:10]) || len(r.Skipped) != 40 {
			t.Fatalf("%v, %d skipped, %v", ruas(r), len(r.Skipped), err)
		}
		if s := r.Skipped[0]; s.URI != list[10] || !strings.Contains(s.Why, "10 destinations") {
			t.Errorf("skipped %+v", s)
		}
	})
	if _, err := ParseRecord([]string{"v=TLSRPTv1; rua=" + strings.Repeat("x,", 5000) + "x"}); !errors.Is(err, ErrRecordSyntax) {
		t.Errorf("5000 URIs: %v", err)
	}
	if _, err := ParseRecord([]string{"v=TLSRPTv1" + strings.Repeat(";a=b", 5000)}); !errors.Is(err, ErrRecordSyntax) {
		t.Errorf("5000 fields: %v", err)
	}
}

func TestParseRUA(t *testing.T) {
	for _, c := range []struct{ name, in, mailbox, url, why string }{
		{"a mailbox", "mailto:reports@example.com", "reports@example.com", "", ""},
		{"the scheme is not case-sensitive", "MAILTO:reports@example.com", "reports@example.com", "", ""},
		{"RPT-3-05 a comma is decoded once", "mailto:a%2Cb@c.example", `"a,b"@c.example`, "", ""},
		{"RPT-3-05 what is encoded twice stays encoded once", "mailto:a%252Cb@c.example", "a%2Cb@c.example", "", ""},
		{"RPT-3-05 all three characters", "mailto:a%21%3B%2C@c.example", `"a!;,"@c.example`, "", ""},
		{"RPT-3-05 a raw semicolon cannot come here", "mailto:a;b@c.example", "", "", "percent-encoded"},
		{"RPT-3-06 a size limit", "mailto:a@b.example!10m", "", "", "percent-encoded"},
		{"RPT-3-14 decoded, quoted, and without header fields", "mailto:a%40x@b.example?subject=z", `"a@x"@b.example`, "", ""},
		{"RPT-3-14 two addresses in one mailto are skipped", "mailto:a@b.example%2Cc@d.example", "", "", "more than one address"},
		{"RPT-3-14 the domain to A-labels", "mailto:a@b%C3%BCcher.example", "a@xn--bcher-kva.example", "", ""},
		{"a local part that is quoted already", "mailto:%22a%20b%22@c.example", `"a b"@c.example`, "", ""},
		{"a plus is a plus", "mailto:a+b@c.example", "a+b@c.example", "", ""},
		{"no address", "mailto:", "", "", "no address"},
		{"no local part", "mailto:@c.example", "", "", "no address"},
		{"an address literal leads past DNS", "mailto:a@[192.0.2.1]", "", "", "no domain"},
		{"a broken encoding", "mailto:a%2@c.example", "", "", "encodes nothing"},
		{"no scheme", "reports@example.com", "", "", "needs \"mailto:\""},
		{"RPT-3-04 http", "http://r.example/", "", "", "neither"},
		{"a URL", "https://r.example/v1/tlsrpt?a=b", "", "https://r.example/v1/tlsrpt?a=b", ""},
		{"RPT-5.4-01 what is encoded in a URL stays so", "HTTPS://r.example/a%2Cb%21?c=%3B", "", "https://r.example/a%2Cb%21?c=%3B", ""},
		{"a port", "https://r.example:8443/", "", "https://r.example:8443/", ""},
		{"an address", "https://192.0.2.1/", "", "https://192.0.2.1/", ""},
		{"an IPv6 address", "https://[2001:db8::1]/", "", "https://[2001:db8::1]/", ""},
		{"a fragment is not sent", "https://r.example/x#y", "", "https://r.example/x", ""},
		{"a user name", "https://u:p@r.example/", "", "", "user name"},
		{"no host", "https:///x", "", "", "host name"},
		{"no authority", "https:r.example", "", "", "no URL"},
		{"a port that is none", "https://r.example:0/", "", "", "port"},
		{"a zone", "https://[fe80::1%25eth0]/", "", "", "host name"},
		{"a blank", "https://r.example/a b", "", "", "percent-encoded"},
		{"a control", "https://r.example/\x00", "", "", "percent-encoded"},
		{"too long", "https://r.example/" + strings.Repeat("a", 3000), "", "", "longer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			u, err := ParseRUA(c.in)
			if c.why != "" {
				if err == nil || !strings.Contains(err.Error(), c.why) {
					t.Errorf("error %v, want one with %q", err, c.why)
				}
				return
			}
			if err != nil || u.Mailbox().String() != c.mailbox {
				t.Errorf("mailbox %q, %v", u.Mailbox(), err)
			}
			if got := u.URL(); (got == nil) != (c.url == "") || got != nil && got.String() != c.url {
				t.Errorf("URL %v", got)
			}
			if again, err := ParseRUA(u.String()); err != nil || again.String() != u.String() {
				t.Errorf("read again: %v, %v", again, err)
			}
		})
	}
}

func FuzzParseRecord(f *testing.F) {
	f.Add("v=TLSRPTv1; rua=mailto:a%2Cb@c.example,https://r.example/x?y=z;foo=1;")
	f.Add("v=TLSRPTv1 ;rua=mailto:%22a%22@b.example!10m")
	f.Add("v=TLSRPTv1;rua=https://[::1]:443/%zz")
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRecord([]string{s})
		if err != nil {
			if !errors.Is(err, ErrNoRecord) && !errors.Is(err, ErrRecordSyntax) {
				t.Errorf("error of no kind: %v", err)
			}
			return
		}
		if len(r.RUAs) > MaxRUAs || !strings.HasPrefix(s, version) || !strings.Contains(s, "rua=") {
			t.Errorf("%d destinations", len(r.RUAs))
		}
		for _, u := range r.RUAs {
			if (u.URL() == nil) == u.Mailbox().IsNull() || u.Host() == "" {
				t.Errorf("%q is neither a mailbox nor a URL, or both", u)
			}
			if again, err := ParseRUA(u.String()); err != nil || again.String() != u.String() || again.Mailbox() != u.Mailbox() {
				t.Errorf("%q read again is %q, %v", u, again, err)
			}
		}
	})
}
