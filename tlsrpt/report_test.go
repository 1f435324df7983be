package tlsrpt

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"stsrelay/internal/addr"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// golden compares with a file of testdata.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs; got\n%s", name, got)
	}
}

// valid checks a report against the schema that was written from the RFC, by a
// library that knows nothing of us.
func valid(t testing.TB, report []byte) {
	t.Helper()
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	schema, err := c.Compile("testdata/report.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(report))
	if err != nil {
		t.Fatalf("no JSON: %v", err)
	}
	if err := schema.Validate(doc); err != nil {
		t.Errorf("against the schema: %v\n%s", err, report)
	}
}

var us = Identity{Organization: "Example Inc", Contact: addr.MustAddress("tls-reports@relay.example"), From: addr.MustAddress("noreply@relay.example")}

const testID = "2026-11-01.xn--bcher-kva.example.K7M2P0T8@relay.example"

// fullDay is a day with every result, under all kinds of policies.
func fullDay() Tally {
	t := Tally{Day: "2026-11-01", Domain: addr.MustDomain("bücher.example")}
	name := t.Domain.String()
	stsPolicy := Policy{Type: STS, Domain: name, MXHosts: []string{"*.mail.example", "mx.xn--bcher-kva.example"},
		Strings: []string{"version: STSv1", "mode: testing", "mx: *.mail.example", "mx: mx.xn--bcher-kva.example", "max_age: 86400", "oops"}}
	tlsa := Policy{Type: TLSA, Domain: "mx.mail.example", MXHosts: []string{"mx.mail.example"}, Strings: []string{"3 1 1 1F850A337E6DB9C609C522D136A475638CC43E1ED424F8EEC8513D747D1D085D"}}
	none := Policy{Type: NoPolicyFound, Domain: name, Strings: []string{"version: STSv1", "mode: none"}}
	sum := map[Key]*PolicyTally{}
	var order []Key
	add := func(p Policy, n int, f ...Failure) {
		s := Session{Start: time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC), Domain: t.Domain, Policies: []PolicyResult{{p, f}},
			MX: "mx.mail.example", HELO: "mx.mail.example ESMTP <hello>", Receiver: netip.MustParseAddr("2001:DB8:0:0::1"), Sender: netip.MustParseAddr("::ffff:198.51.100.7")}
		if len(f) > 0 && (f[0].Result == STSPolicyFetchError || f[0].Result == STSWebPKIInvalid || f[0].Result == STSPolicyInvalid) {
			s.MX, s.HELO, s.Receiver, s.Sender = "", "", netip.Addr{}, netip.Addr{}
		}
		for range n {
			k := p.Key()
			if sum[k] == nil {
				sum[k], order = &PolicyTally{Policy: p}, append(order, k)
			}
			sum[k].Merge(s.Count()[0])
		}
	}
	add(none, 2)
	add(none, 1, Failure{Result: StartTLSNotSupported})
	add(tlsa, 7)
	add(tlsa, 1, Failure{Result: TLSAInvalid, Reason: "all-unusable-records"})
	add(tlsa, 2, Failure{Result: DNSSECInvalid, Reason: "dns-extended-error-6-DNSSEC Bogus"})
	add(tlsa, 1, Failure{Result: DANERequired})
	add(stsPolicy, 5)
	add(stsPolicy, 1, Failure{Result: StartTLSNotSupported, Reason: "454"})
	add(stsPolicy, 4, Failure{Result: CertificateHostMismatch}, Failure{Result: CertificateExpired})
	add(stsPolicy, 1, Failure{Result: CertificateNotTrusted, Reason: "x509: unknown authority “Ünbekannt” <&>"})
	add(stsPolicy, 3, Failure{Result: ValidationFailure, Reason: "tls-remote-alert-40-handshake-failure"})
	add(stsPolicy, 1, Failure{Result: STSPolicyFetchError, Reason: "http-status-404"})
	add(stsPolicy, 1, Failure{Result: STSPolicyInvalid})
	add(stsPolicy, 1, Failure{Result: STSWebPKIInvalid})
	for _, k := range order {
		t.Policies = append(t.Policies, *sum[k])
	}
	return t
}

func build(t testing.TB, tally Tally, who Identity, id string) Report {
	t.Helper()
	r, err := Build(tally, who, id)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func encode(t testing.TB, r Report) []byte {
	t.Helper()
	j, err := r.JSON()
	if err != nil {
		t.Fatal(err)
	}
	valid(t, j)
	return j
}

func TestReport(t *testing.T) {
	r := build(t, fullDay(), us, testID)
	j := encode(t, r)
	var indented bytes.Buffer
	if err := json.Indent(&indented, j, "", "  "); err != nil {
		t.Fatal(err)
	}
	golden(t, "full-day.json", append(indented.Bytes(), '\n'))
	t.Run("the same tally makes the same octets", func(t *testing.T) {
		if again := encode(t, build(t, fullDay(), us, testID)); !bytes.Equal(j, again) {
			t.Error("they differ")
		}
	})
	got := string(j)
	for _, c := range []struct{ name, has, hasNot string }{
		{"RPT-4.4-01 the five members of the top", `{"organization-name":"Example Inc","date-range":{"start-datetime":`, ""},
		{"RPT-4.4-02 RPT-4.1-01 a full UTC day to its last second", `{"start-datetime":"2026-11-01T00:00:00Z","end-datetime":"2026-11-01T23:59:59Z"}`, ""},
		{"RPT-4.4-03 contact-info is a bare address", `"contact-info":"tls-reports@relay.example"`, "mailto:"},
		{"RPT-5.3-08 the report-id has no brackets", `"report-id":"` + testID + `"`, "<" + testID},
		{"RPT-4.4-06 ERR-8460-4 one string for each TLSA record", `"policy-string":["3 1 1 1F850A337E6DB9C609C522D136A475638CC43E1ED424F8EEC8513D747D1D085D"]`, ""},
		{"RPT-4.4-07 the STS policy line by line, errors included", `"policy-string":["version: STSv1","mode: testing","mx: *.mail.example","mx: mx.xn--bcher-kva.example","max_age: 86400","oops"]`, ""},
		{"RPT-4.4-08 without a policy the arrays are empty and not null", `{"policy-type":"no-policy-found","policy-string":[],"policy-domain":"xn--bcher-kva.example","mx-host":[]}`, "null"},
		{"RPT-4.4-09 RPT-1.1-01 policy-domain is the recipient domain, in A-labels", `"policy-domain":"xn--bcher-kva.example"`, "bücher"},
		{"RPT-1.1-01 for tlsa it is the base domain", `"policy-domain":"mx.mail.example","mx-host":["mx.mail.example"]`, ""},
		{"RPT-4.4-10 ERR-8460-6241 mx-host is an array", `"mx-host":["*.mail.example","mx.xn--bcher-kva.example"]`, `"mx-host":"`},
		{"RPT-4.4-11 RPT-4.2-01 RPT-4.2-02 counts are numbers", `"summary":{"total-successful-session-count":5,"total-failure-session-count":12}`, ""},
		{"RPT-4.4-12 RPT-4.4-13 a detail has all that is known", `{"result-type":"validation-failure","sending-mta-ip":"198.51.100.7","receiving-mx-hostname":"mx.mail.example","receiving-mx-helo":"mx.mail.example ESMTP <hello>","receiving-ip":"2001:db8::1","failed-session-count":3,"failure-reason-code":"tls-remote-alert-40-handshake-failure"}`, ""},
		{"RPT-4.4-14 additional-information is absent", "", "additional"},
		{"RPT-4.4-15 ERR-8460-5954 addresses are canonical", `"receiving-ip":"2001:db8::1"`, "2001:DB8"},
		{"RPT-4.4-16 what is not known is left out", `{"result-type":"sts-policy-fetch-error","failed-session-count":1,"failure-reason-code":"http-status-404"}`, `:""`},
		{"RPT-4-03 policies side by side, each with its own summary", `"summary":{"total-successful-session-count":7,"total-failure-session-count":4}`, ""},
		{"RPT-4-04 failure types have elements of their own", `"certificate-host-mismatch"`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if !strings.Contains(got, c.has) || c.hasNot != "" && strings.Contains(got, c.hasNot) {
				t.Errorf("want %s, not %s, in\n%s", c.has, c.hasNot, got)
			}
		})
	}
}

func TestReportOfOnePolicy(t *testing.T) {
	tally := Tally{Day: "2026-11-01", Domain: addr.MustDomain("example.net"), Policies: []PolicyTally{{Policy: sts, Successes: 5}}}
	t.Run("RPT-4-02 one policy is an array of one", func(t *testing.T) {
		if got := string(encode(t, build(t, tally, us, testID))); strings.Count(got, `"policies":[{`) != 1 || !strings.HasSuffix(got, `"failure-details":[]}]}`) {
			t.Errorf("got %s", got)
		}
	})
	t.Run("RPT-4-01 what I-JSON cannot carry is replaced, and numbers are bounded", func(t *testing.T) {
		odd := tally
		odd.Policies = []PolicyTally{{Policy: Policy{Type: STS, Domain: "example.net", Strings: []string{"a\xffb\uFFFEc\uFDD0d\x00e"}}, Successes: 1 << 60}}
		got := string(encode(t, build(t, odd, us, testID)))
		if !strings.Contains(got, "\"a\uFFFDb\uFFFDc\uFFFDd\\u0000e\"") || !strings.Contains(got, ":9007199254740991,") {
			t.Errorf("got %s", got)
		}
	})
	t.Run("RPT-4.4-16 behind NAT our public address is reported, and equal details become one", func(t *testing.T) {
		nat := tally
		d := Detail{Failure: Failure{Result: CertificateExpired}, MX: "mx", Receiver: "192.0.2.1", Sender: "10.0.0.1", Sessions: 2}
		e, none := d, Detail{Failure: Failure{Result: STSPolicyInvalid}, Sessions: 1}
		e.Sender, e.Sessions = "10.0.0.2", 3
		nat.Policies = []PolicyTally{{Policy: sts, Failures: 6, Details: []Detail{d, e, none}}}
		who := us
		who.SendingIP = netip.MustParseAddr("203.0.113.5")
		r := build(t, nat, who, testID)
		got := r.Policies[0].Details
		if len(got) != 2 || got[0].Sender != "203.0.113.5" || got[0].Sessions != 5 || got[1].Sender != "" {
			t.Errorf("details %+v", got)
		}
		if s := r.Policies[0].Summary; s.Failures != 6 || r.Policies[0].Policy.Type != STS {
			t.Errorf("the rest is %+v", r.Policies[0])
		}
	})
	t.Run("a day that is none is an error", func(t *testing.T) {
		bad := tally
		bad.Day = "yesterday"
		if _, err := Build(bad, us, testID); err == nil || !strings.Contains(err.Error(), "example.net") {
			t.Errorf("error %v", err)
		}
	})
}

func TestPayload(t *testing.T) {
	r := build(t, fullDay(), us, testID)
	t.Run("RPT-5.2-01 the payload is the JSON in gzip", func(t *testing.T) {
		if got := gunzip(t, payload(t, r)); !bytes.Equal(got, encode(t, r)) {
			t.Errorf("got %s", got)
		}
	})
	t.Run("RPT-4-05 many details are folded until the payload fits, and the sum stays", func(t *testing.T) {
		big := r
		big.Policies = []ReportPolicy{r.Policies[0]}
		big.Policies[0].Details = nil
		for i := range 10_000 {
			big.Policies[0].Details = append(big.Policies[0].Details, ReportDetail{Result: Results()[i%3], Receiver: fmt.Sprint("10.0.", i/100, ".", i%100), Sessions: 1})
		}
		b, err := big.within(10 << 10)
		if err != nil {
			t.Fatal(err)
		}
		j := gunzip(t, b)
		valid(t, j)
		var got Report
		if err := json.Unmarshal(j, &got); err != nil {
			t.Fatal(err)
		}
		sum, folded := int64(0), 0
		for _, d := range got.Policies[0].Details {
			sum += d.Sessions
			if d.Receiver == "" {
				folded++
			}
		}
		if sum != 10_000 || folded != 3 || len(got.Policies[0].Details) < 203 || len(b) > 10<<10 {
			t.Errorf("%d details, %d of them folded, %d sessions, %d octets", len(got.Policies[0].Details), folded, sum, len(b))
		}
		if len(big.Policies[0].Details) != 10_000 {
			t.Error("folding has changed the report itself")
		}
	})
	t.Run("what cannot be made to fit is an error", func(t *testing.T) {
		if _, err := r.within(100); err == nil {
			t.Error("no error")
		}
	})
}

func payload(t testing.TB, r Report) []byte {
	t.Helper()
	b, err := r.Payload()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func gunzip(t testing.TB, b []byte) []byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatalf("no gzip: %v", err)
	}
	out, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestFileName(t *testing.T) {
	r := build(t, fullDay(), us, testID)
	const want = "relay.example!xn--bcher-kva.example!1793491200!1793577599!K7M2P0T8.json.gz"
	t.Run("RPT-5.1-01 RPT-5.1-02 RPT-5.1-03 ERR-8460-531 sender, domain, range, unique-id, extension", func(t *testing.T) {
		if got := r.FileName(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		grammar := regexp.MustCompile(`^[a-z0-9.-]+![a-z0-9.-]+!([0-9]+)!([0-9]+)![A-Za-z0-9]+\.json\.gz$`)
		if m := grammar.FindStringSubmatch(r.FileName()); m == nil || m[1] != fmt.Sprint(r.Range.Start.Unix()) || m[2] != fmt.Sprint(r.Range.End.Unix()) {
			t.Errorf("%s is not of the grammar", r.FileName())
		}
	})
}

func TestNewID(t *testing.T) {
	t.Run("RPT-4.4-04 two reports of one domain and day have different IDs", func(t *testing.T) {
		d := addr.MustDomain("example.net")
		a, b := NewID("2026-11-01", d, us.Submitter(), "A"), NewID("2026-11-01", d, us.Submitter(), "B")
		if a != "2026-11-01.example.net.A@relay.example" || a == b {
			t.Errorf("%s and %s", a, b)
		}
	})
}

// TestInvariants is that what is counted comes out whole.
func TestInvariants(t *testing.T) {
	t.Run("RPT-4.4-17 failures always have details, whose sum is at least theirs", func(t *testing.T) {
		for _, keep := range []int{0, 1, 3, 100} {
			for _, p := range build(t, fullDay(), us, testID).fold(keep).Policies {
				sum := int64(0)
				for _, d := range p.Details {
					sum += d.Sessions
				}
				if p.Summary.Failures > 0 != (len(p.Details) > 0) || sum < p.Summary.Failures {
					t.Errorf("%d failures, %d details with %d sessions", p.Summary.Failures, len(p.Details), sum)
				}
			}
		}
	})
}

func TestDays(t *testing.T) {
	for _, c := range []struct {
		at   string
		want Day
	}{
		{"2026-11-01T23:59:59Z", "2026-11-01"}, {"2026-11-02T00:00:00Z", "2026-11-02"},
		{"2026-11-02T01:59:59+02:00", "2026-11-01"}, {"2026-10-31T20:00:00-05:00", "2026-11-01"},
	} {
		t.Run("RPT-4.1-01 "+c.at+" is on "+string(c.want), func(t *testing.T) {
			at, err := time.Parse(time.RFC3339, c.at)
			if err != nil || DayOf(at) != c.want || (Session{Start: at}).Day() != c.want {
				t.Errorf("got %s, %v", DayOf(at), err)
			}
		})
	}
	if d := Day("2026-12-31").Add(1); d != "2027-01-01" {
		t.Errorf("the day after is %s", d)
	}
	if _, err := ParseDay("2026-13-01"); err == nil {
		t.Error("a 13th month")
	}
}
