package stscache

import (
	"regexp"
	"testing"
)

// The grammar of RFC 8461, Section 3.1, written down anew. Fields are found
// apart from it, so the first id is what the field of that name has.
var (
	recordGrammar = regexp.MustCompile(`^v=STSv1(?:[ \t]*;[ \t]*[A-Za-z0-9][A-Za-z0-9_.-]{0,31}=[!-:<>-~]+)+(?:[ \t]*;[ \t]*)?$`)
	firstID       = regexp.MustCompile(`;[ \t]*id=([^; \t]*)`)
	idGrammar     = regexp.MustCompile(`^[A-Za-z0-9]{1,32}$`)
)

// A sole record is accepted if and only if it has the grammar and an id.
func FuzzRecordGrammar(f *testing.F) {
	for _, s := range []string{"v=STSv1; id=a1;", "v=STSv1 ;\tid=a ; x=1 ;", "v=STSv1; id=a; id=b_c; foo.1=bar:baz", "v=STSv1;;", "v=STSv1; id=a\n", "v=STSv1; x=id=a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		want := ""
		if m := firstID.FindStringSubmatch(s); m != nil && len(s) <= maxRecord && recordGrammar.MatchString(s) && idGrammar.MatchString(m[1]) {
			want = m[1]
		}
		if id, err := ParseRecord([]string{s}); id != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v, not %q", s, id, err, want)
		}
	})
}
