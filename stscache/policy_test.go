package stscache

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/internal/lab"
	"stsrelay/internal/resolver"
)

// What DNS has in several strings must be joined by what reads it, so this goes
// all the way to a server.
func TestSTS_3_1_11_StringsAreJoinedWithNothingBetween(t *testing.T) {
	net, err := lab.Start(lab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(net.Close)
	net.DNS.Add(`_mta-sts.example.test. 300 IN TXT "v=STSv1; i" "d=abc"`)
	r, err := resolver.New(resolver.Options{Servers: []netip.AddrPort{netip.MustParseAddrPort(net.DNSServers()[0])}})
	if err != nil {
		t.Fatal(err)
	}
	if id, err := discover(t.Context(), addr.MustDomain("example.test"), r.TXT); id != "abc" || err != nil {
		t.Errorf("%q, %v", id, err)
	}
}

// The outermost characters and lengths that the grammars allow, and those next
// to them.
func TestRecordEdges(t *testing.T) {
	for _, tt := range []struct {
		name, fields string
		valid        bool
	}{
		{"every punctuation of a name", "id=a; a.b-c_d=1", true},
		{"a name that begins with a dot", "id=a; .b=1", false},
		{"a name that begins with a hyphen", "id=a; -b=1", false},
		{"an empty name", "id=a; =1", false},
		{"another character in a name", "id=a; a/b=1", false},
		{"the first and the last character of a value", "id=a; x=!~", true},
		{"a control character in a value", "id=a; x=a\x1fb", false},
		{"DEL in a value", "id=a; x=a\x7fb", false},
		{"a line end in a value", "id=a; x=a\nb", false},
		{"a tab before a delimiter", "id=a\t; x=1", true},
		{"a tab behind the last field", "id=a\t", false},
		{"an id of the outermost letters and digits", "id=azAZ09", true},
		{"a letter beyond ASCII in the id", "id=\xc3\xa9", false},
		{"a second id that is none, and is ignored", "id=a; id=b_c", true},
		{"a second id that is no field", "id=a; id=", false},
		{"a first id that is none", "id=b_c; id=a", false},
		{"a field without a sign", "id=a; x", false},
		{"4096 octets", "id=a; x=" + strings.Repeat("x", 4096-len("v=STSv1; id=a; x=")), true},
		{"4097 octets", "id=a; x=" + strings.Repeat("x", 4097-len("v=STSv1; id=a; x=")), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			id, err := ParseRecord([]string{"v=STSv1; " + tt.fields})
			if tt.valid != (err == nil) || tt.valid != (id != "") || err != nil && !errors.Is(err, ErrRecordSyntax) {
				t.Errorf("%q: %q, %v", tt.fields, id, err)
			}
		})
	}
}

func TestPolicyEdges(t *testing.T) {
	for _, tt := range []struct {
		name, body string
		valid      bool
	}{
		{"two CRs before the LF", with("enforce\r\n", "enforce\r\r\n"), false},
		{"a CR at the end of the file", strings.TrimSuffix(sound, "\n"), true},
		{"two CRs at the end of the file", strings.TrimSuffix(sound, "\n") + "\r", false},
		{"a line of blanks", sound + " \r\n", false},
		{"a key of 32 characters", sound + strings.Repeat("x", 32) + ": 1\r\n", true},
		{"every punctuation of a key", sound + "a.b-c_d: 1\r\n", true},
		{"an empty key", sound + ": 1\r\n", false},
		{"a key beyond ASCII", sound + "\xc3\xa9: 1\r\n", false},
		{"colons and signs in a value", sound + "x: a:b=c;d\r\n", true},
		{"DEL in a value", sound + "x: a\x7fb\r\n", false},
		{"the last control character in a value", sound + "x: a\x1fb\r\n", false},
		{"an overlong form of a character", sound + "x: \xc0\xaf\r\n", false},
		{"an extension before the version", "x: y\r\n" + sound, true},
		{"10 digits, led by zeros", with("604800", "0000604800"), true},
		{"digits of another script", with("604800", "\xd9\xa1"), false},
		{"an underscore between digits", with("604800", "60_4800"), false},
		{"a hexadecimal number", with("604800", "0x10"), false},
		{"max_age 0", with("604800", "0"), true},
		{"a label of 63 characters", with("mail", strings.Repeat("a", 63)), true},
		{"a label of 64 characters", with("mail", strings.Repeat("a", 64)), false},
		{"an empty label", with("mail.example", "mail..example"), false},
		{"a label that ends in a hyphen", with("mail.example", "mail-.example"), false},
		{"a star without a dot", with("mail.example.com", "*example.com"), false},
		{"a dot and no star", with("mail.example.com", ".example.com"), false},
		{"a star above a top-level domain", with("mail.example.com", "*.com"), true},
		{"an empty mx", with("mail.example.com", ""), false},
		{"in mode none too, a bad mx", strings.Replace(with("mail.example.com", "*"), "enforce", "none", 1), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, _, err := ParsePolicy([]byte(tt.body))
			if tt.valid != (err == nil) || tt.valid != (p != nil) || err != nil && !errors.Is(err, ErrPolicySyntax) {
				t.Errorf("%q: %+v, %v", tt.body, p, err)
			}
		})
	}
}

func TestMatchPatternIsTheFirstThatNamesTheHost(t *testing.T) {
	p := &Policy{Mode: Enforce, MX: []Pattern{"a.example", "*.b.example", "mx.b.example"}}
	for mx, want := range map[string]Pattern{"a.example": "a.example", "mx.b.example": "*.b.example", "b.example": "", "example": "", "x.a.example": ""} {
		got, ok := p.MatchPattern(addr.MustHost(mx))
		if got != want || ok != (want != "") || p.Match(addr.MustHost(mx)) != ok {
			t.Errorf("%s: %q, %v", mx, got, ok)
		}
	}
	if (&Policy{Mode: None}).Match(addr.MustHost("a.example")) {
		t.Error("a policy without patterns names a host")
	}
}

// Without a usable record nothing is asked of the policy host.
func TestNextWithoutARecord(t *testing.T) {
	for _, err := range []error{ErrNoRecord, ErrManyRecords, ErrRecordSyntax, ErrLookup} {
		for _, k := range []*kept{{}, failedFor(&kept{}, ""), cached(Enforce), cached(Testing), cached(None)} {
			for _, at := range []time.Duration{time.Minute, 11 * 24 * time.Hour} {
				got := next(k, "", err, noon.Add(at))
				forget := k.policy != nil && err != ErrLookup && (k.policy.Mode == None || at > k.policy.MaxAge)
				if got.fetch || !errors.Is(got.err, err) || got.forget != forget {
					t.Errorf("%v, %+v after %s: %+v", err, k.policy, at, got)
				}
			}
		}
	}
}

func TestPlanLeavesWhatNobodyUses(t *testing.T) {
	const day = 24 * time.Hour
	for _, tt := range []struct {
		name   string
		unused time.Duration
		want   chore
	}{
		{"29 days", 29 * day, refresh},
		{"30 days", 30 * day, refresh},
		{"30 days and a second", 30*day + time.Second, leave},
		{"31 days", 31 * day, leave},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := cached(Enforce) // fetched two days ago: use alone decides
			k.used = noon.Add(2*day - tt.unused)
			if got := plan(k, addr.MustDomain("example.com"), noon.Add(2*day)); got != tt.want {
				t.Errorf("%v, not %v", got, tt.want)
			}
		})
	}
}

// A store must get back what was put there, and one entry's file must not
// become another policy.
func TestKeepDecodesAnEntry(t *testing.T) {
	e := Entry{Domain: addr.MustDomain("example.com"), Body: []byte(sound), ID: "a", Fetched: noon, Used: noon.Add(time.Hour),
		FailedID: "b", FailedAt: noon.Add(2 * time.Hour), Failures: 3, Failure: "why"}
	k := keep(e)
	if k.id != "a" || !k.fetched.Equal(noon) || !k.used.Equal(noon.Add(time.Hour)) || k.failedID != "b" ||
		!k.failedAt.Equal(noon.Add(2*time.Hour)) || k.failures != 3 || k.failure != "why" {
		t.Errorf("%+v", k)
	}
	if k.policy == nil || k.policy.Mode != Enforce || len(k.lines) != 4 || k.expires() != noon.Add(7*24*time.Hour) {
		t.Errorf("%+v, %q", k.policy, k.lines)
	}
	e.Body = []byte("version: STSv9\n")
	if k := keep(e); k.policy != nil || k.live(noon) || k.mode(noon) != "" {
		t.Errorf("an unreadable file is %+v", k.policy)
	}
}

func TestStatusHasOnlyALivePolicy(t *testing.T) {
	k := cached(Testing)
	k.lines = []string{"mode: testing"}
	if s := k.status(nil, noon); s.Policy != k.policy || s.ID != "a" || !slices.Equal(s.Lines, k.lines) || !s.Fetched.Equal(noon) || !s.Expires.Equal(k.expires()) {
		t.Errorf("%+v", s)
	}
	late := k.expires().Add(time.Second)
	if s := k.status(ErrFetch, late); s.Policy != nil || s.ID != "" || s.Lines != nil || !s.Fetched.IsZero() || s.Err != ErrFetch || k.mode(late) != "" {
		t.Errorf("%+v", s)
	}
}

func TestSame(t *testing.T) {
	p := func(mode Mode, mx ...Pattern) Status { return Status{Policy: &Policy{Mode: mode, MX: mx}} }
	for _, tt := range []struct {
		name string
		a, b Status
		want bool
	}{
		{"no policy twice", Status{}, Status{}, true},
		{"a policy and none", p(Enforce, "a"), Status{}, false},
		{"none and a policy", Status{}, p(Enforce, "a"), false},
		{"the same", p(Enforce, "a", "b"), p(Enforce, "a", "b"), true},
		{"another mode", p(Enforce, "a"), p(Testing, "a"), false},
		{"another host", p(Enforce, "a", "b"), p(Enforce, "a", "c"), false},
		{"a host more", p(Enforce, "a"), p(Enforce, "a", "b"), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := same(tt.a, tt.b); got != tt.want {
				t.Errorf("%v", got)
			}
		})
	}
}
