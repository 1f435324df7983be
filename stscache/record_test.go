package stscache

import (
	"errors"
	"strings"
	"testing"
)

func TestParseRecord(t *testing.T) {
	const one = "v=STSv1; id=b2"
	for _, tt := range []struct {
		name    string
		records []string
		id      string
		err     error
	}{
		{"a record", []string{"v=STSv1; id=20160831085700Z;"}, "20160831085700Z", nil},
		{"none", nil, "", ErrNoRecord},

		{"STS-3.1-02 the version is in capitals", []string{"V=STSv1;id=a"}, "", ErrNoRecord},
		{"STS-3.1-02 the version's value has a case", []string{"v=stsv1;id=a"}, "", ErrNoRecord},
		{"STS-3.1-02 blanks around the sign", []string{"v = STSv1;id=a"}, "", ErrNoRecord},
		{"STS-3.1-02 a blank before it", []string{" v=STSv1;id=a"}, "", ErrNoRecord},
		{"STS-3.1-02 another version", []string{"v=STSv10;id=a"}, "", ErrNoRecord},

		{"STS-3.1-03 a delimiter at the end", []string{"v=STSv1;id=a;"}, "a", nil},
		{"STS-3.1-03 blanks and tabs around delimiters", []string{"v=STSv1 ;\tid=a ; "}, "a", nil},
		{"STS-3.1-03 an empty field", []string{"v=STSv1;;id=a"}, "", ErrRecordSyntax},
		{"STS-3.1-03 two delimiters at the end", []string{"v=STSv1;id=a;;"}, "", ErrRecordSyntax},
		{"STS-3.1-03 no delimiter", []string{"v=STSv1 id=a"}, "", ErrRecordSyntax},

		{"STS-3.1-04 an empty id", []string{"v=STSv1; id="}, "", ErrRecordSyntax},
		{"STS-3.1-04 33 characters", []string{"v=STSv1; id=" + strings.Repeat("a", 33)}, "", ErrRecordSyntax},
		{"STS-3.1-04 32 characters", []string{"v=STSv1; id=" + strings.Repeat("Z9", 16)}, strings.Repeat("Z9", 16), nil},
		{"STS-3.1-04 a hyphen", []string{"v=STSv1; id=2020-01"}, "", ErrRecordSyntax},
		{"STS-3.1-04 blanks", []string{"v=STSv1; id = a"}, "", ErrRecordSyntax},
		{"STS-3.1-04 another case is an extension, and the id is missing", []string{"v=STSv1; ID=abc"}, "", ErrRecordSyntax},
		{"STS-3.1-04 nothing but the version", []string{"v=STSv1;"}, "", ErrRecordSyntax},

		{"STS-3.1-05 the id comes last", []string{"v=STSv1; x=1; id=a"}, "a", nil},
		{"STS-3.1-05 the id comes first", []string{"v=STSv1; id=a; x=1"}, "a", nil},

		{"STS-3.1-06 an unknown field", []string{"v=STSv1; id=a; foo_1=bar:baz"}, "a", nil},
		{"STS-3.1-06 a sign in the value", []string{"v=STSv1; id=a; foo=b=c"}, "", ErrRecordSyntax},
		{"STS-3.1-06 a blank in the value", []string{"v=STSv1; id=a; foo=b c"}, "", ErrRecordSyntax},
		{"STS-3.1-06 an empty value", []string{"v=STSv1; id=a; foo="}, "", ErrRecordSyntax},
		{"STS-3.1-06 a name of 33 characters", []string{"v=STSv1; id=a; " + strings.Repeat("n", 33) + "=1"}, "", ErrRecordSyntax},
		{"STS-3.1-06 a name of 32 characters", []string{"v=STSv1; id=a; " + strings.Repeat("n", 32) + "=1"}, "a", nil},
		{"STS-3.1-06 a name that begins with _", []string{"v=STSv1; id=a; _x=1"}, "", ErrRecordSyntax},
		{"STS-3.1-06 not ASCII", []string{"v=STSv1; id=a; x=\xc3\xa9"}, "", ErrRecordSyntax},

		{"STS-3.1-07 another record beside it", []string{"v=spf1 -all", one}, "b2", nil},
		{"STS-3.1-07 others only", []string{"v=spf1 -all", "x"}, "", ErrNoRecord},
		{"one other only", []string{"v=spf1 -all"}, "", ErrNoRecord},

		{"STS-3.1-08 two records", []string{"v=STSv1; id=a1", one}, "", ErrManyRecords},
		{"STS-3.1-08 the same twice", []string{one, one}, "", ErrManyRecords},

		{"STS-3.1-09 an invalid record", []string{"v=STSv1; id=a_b"}, "", ErrRecordSyntax},
		{"STS-3.1-09 an invalid record beside another one", []string{"x", "v=STSv1; id=a_b"}, "", ErrRecordSyntax},

		{"STS-3.1-13 the first id counts", []string{"v=STSv1; id=a; id=b"}, "a", nil},
		{"STS-3.1-13 and what follows the second is read", []string{"v=STSv1; id=a; id=b; x=1"}, "a", nil},

		{"ERR-8461-6285 a blank before the delimiter, alone", []string{"v=STSv1 ; id=a1"}, "a1", nil},
		{"ERR-8461-6285 a blank before the delimiter, beside one without", []string{"v=STSv1 ; id=a1", one}, "b2", nil},

		{"a blank after the last field", []string{"v=STSv1; id=a "}, "", ErrRecordSyntax},
		{"too long", []string{"v=STSv1; id=a; x=" + strings.Repeat("x", 5000)}, "", ErrRecordSyntax},
	} {
		t.Run(tt.name, func(t *testing.T) {
			id, err := ParseRecord(tt.records)
			if id != tt.id || !errors.Is(err, tt.err) || (err == nil) != (tt.err == nil) {
				t.Errorf("%q: %q, %v", tt.records, id, err)
			}
		})
	}
}

func FuzzParseRecord(f *testing.F) {
	for _, s := range []string{"v=STSv1; id=a1;", "v=STSv1 ;\tid=a ; x=1 ;", "v=STSv1", "v=STSv1;;", ""} {
		f.Add(s, "")
		f.Add(s, "v=spf1 -all")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		records := []string{a, b}
		if b == "" {
			records = records[:1]
		}
		id, err := ParseRecord(records)
		if err != nil {
			if id != "" {
				t.Errorf("an id and an error: %q, %v", id, err)
			}
			return
		}
		if !isID(id) {
			t.Errorf("the id is %q", id)
		}
		if again, err := ParseRecord([]string{"v=STSv1; id=" + id}); again != id || err != nil {
			t.Errorf("%q becomes %q, %v", id, again, err)
		}
	})
}
