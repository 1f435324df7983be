package tlsrpt

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What we send ourselves is read back without a note.
func TestParseReceivedReadsOurOwn(t *testing.T) {
	b, err := os.ReadFile("testdata/full-day.json")
	if err != nil {
		t.Fatal(err)
	}
	r, err := ParseReceived(b)
	if err != nil || len(r.Notes) > 0 || len(r.Policies) == 0 {
		t.Fatalf("%v, %v", r.Notes, err)
	}
	again, err := r.JSON()
	if err != nil {
		t.Fatal(err)
	}
	back, err := ParseReceived(again)
	if err != nil || !cmp.Equal(r.Report, back.Report, cmp.Comparer(func(a, b DateRange) bool { return a.Start.Equal(b.Start) && a.End.Equal(b.End) }), cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".Domain" || p.Last().String() == ".Submitter" }, cmp.Ignore())) {
		t.Errorf("%v\n%s", err, cmp.Diff(r.Policies, back.Policies))
	}
}

const sample = `{"organization-name":"Example Inc.","date-range":{"start-datetime":"2026-11-20T00:00:00Z","end-datetime":"2026-11-20T23:59:59Z"},
"contact-info":"smtp-tls-reporting@example.net","report-id":"2026-11-20T00:00:00Z_example.com","policies":[{"policy":{"policy-type":"sts",
"policy-string":["version: STSv1","mode: enforce"],"policy-domain":"example.com","mx-host":["mx1.example.com"]},
"summary":{"total-successful-session-count":1204,"total-failure-session-count":10},
"failure-details":[{"result-type":"validation-failure","sending-mta-ip":"209.85.128.1","receiving-mx-hostname":"mx.backup.example.net","failed-session-count":10}]}]}`

func TestParseReceived(t *testing.T) {
	tests := []struct {
		name, old, new string
		notes          []string
	}{
		{"as the RFC has it", "", "", nil},
		{"no sending-mta-ip", `"sending-mta-ip":"209.85.128.1",`, ``, []string{"sending-mta-ip is missing"}},
		{"contact-info is null", `"smtp-tls-reporting@example.net"`, `null`, []string{"contact-info is missing"}},
		{"contact-info is not there", `"contact-info":"smtp-tls-reporting@example.net",`, ``, []string{"contact-info is missing"}},
		{"the report-id ends in a plus", `_example.com"`, `_example.com+"`, nil},
		{"the policy is one string", `["version: STSv1","mode: enforce"]`, `"version: STSv1\r\nmode: enforce"`, []string{"policy-string is no list"}},
		{"the policy is null", `["version: STSv1","mode: enforce"]`, `null`, nil},
		{"mx-host is one string", `["mx1.example.com"]`, `"mx1.example.com"`, []string{"mx-host is no list"}},
		{"an unknown result type", `"validation-failure"`, `"sts-weird"`, []string{"the result type sts-weird is not one of RFC 8460"}},
		{"counts are strings", `:1204`, `:"1204"`, []string{"total-successful-session-count is a string"}},
		{"a count is missing", `"total-successful-session-count":1204,`, ``, []string{"total-successful-session-count is missing"}},
		{"a count is absurd", `:1204`, `:-3`, []string{`total-successful-session-count is "-3" and no number of sessions`}},
		{"no failure-details", `"failure-details":[`, `"other":[`, nil},
		{"a date alone", `"2026-11-20T00:00:00Z","end`, `"2026-11-20","end`, []string{"start-datetime is not of the form of RFC 3339"}},
		{"a time without zone", `"2026-11-20T23:59:59Z"`, `"2026-11-20T23:59:59"`, []string{"end-datetime is not of the form of RFC 3339"}},
		{"no time", `"2026-11-20T23:59:59Z"`, `"yesterday"`, []string{`end-datetime is "yesterday" and no time`}},
		{"a byte order mark", `{"organization-name"`, "\ufeff" + `{"organization-name"`, nil},
		{"an object where a text should be", `"Example Inc."`, `{"a":1}`, []string{"organization-name is no string"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if !strings.Contains(sample, tt.old) {
				t.Fatal(tt.old)
			}
			r, err := ParseReceived([]byte(strings.Replace(sample, tt.old, tt.new, 1)))
			if err != nil || !slices.Equal(r.Notes, tt.notes) {
				t.Fatalf("notes %q, %v, want %q", r.Notes, err, tt.notes)
			}
			p := r.Policies[0]
			if p.Policy.Domain != "example.com" || p.Summary.Failures != 10 || tt.old != `"failure-details":[` && p.Details[0].MX != "mx.backup.example.net" {
				t.Errorf("%+v", p)
			}
		})
	}
	t.Run("foreign text cannot steer a terminal", func(t *testing.T) {
		r, err := ParseReceived([]byte(strings.Replace(sample, "Example Inc.", `\u001b[2Jevil\n`, 1)))
		if err != nil || strings.ContainsAny(r.Organization, "\x1b\n") {
			t.Errorf("%q, %v", r.Organization, err)
		}
	})
	for _, s := range []string{`{"policies":3}`, `{}`, `{"a":1}`, `{`, ``, `[1]`} {
		if _, err := ParseReceived([]byte(s)); !errors.Is(err, ErrNotReport) {
			t.Errorf("%s is %v", s, err)
		}
	}
}

func pack(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	z.Write(b)
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func zipped(t testing.TB, files map[string][]byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := zip.NewWriter(&out)
	for name, b := range files {
		w, err := z.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		w.Write(b)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// mailOf is a message with one attachment, as senders send it.
func mailOf(media, name string, body []byte) []byte {
	return []byte("From: noreply@example.net\r\nTo: tls@example.com\r\nSubject: Report Domain: example.com\r\nMIME-Version: 1.0\r\n" +
		"Content-Type: multipart/report; report-type=tlsrpt; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\n{not the report}\r\n--b\r\n" +
		"Content-Type: " + media + "\r\nContent-Disposition: attachment; filename=\"" + name + "\"\r\nContent-Transfer-Encoding: base64\r\n\r\n" +
		base64.StdEncoding.EncodeToString(body) + "\r\n--b--\r\n")
}

func TestUnpack(t *testing.T) {
	packed := pack(t, []byte(sample))
	mail := mailOf("application/tlsrpt+gzip", "r.json.gz", packed)
	mbox := fmt.Appendf(nil, "From a@b Fri Nov 20 00:00:00 2026\n%s\nFrom a@b Fri Nov 20 00:00:00 2026\n%s", bytes.ReplaceAll(mail, []byte("\r\n"), []byte("\n")),
		bytes.ReplaceAll(mailOf("application/json", "r.json", []byte(sample)), []byte("\r\n"), []byte("\n")))
	bomb := pack(t, bytes.Repeat([]byte(" "), maxUnpacked+1))
	deep := []byte(sample)
	for range maxDepth + 1 {
		deep = pack(t, deep)
	}
	tests := []struct {
		name string
		b    []byte
		want string // sources of the reports, or "!" and why not
	}{
		{"json", []byte(sample), "f"},
		{"gzip, whatever its name", packed, "f"},
		{"gzip in gzip", pack(t, packed), "f"},
		{"zip", zipped(t, map[string][]byte{"a.json": []byte(sample)}), "f:a.json"},
		{"zip of gzip", zipped(t, map[string][]byte{"a.json.gz": packed}), "f:a.json.gz"},
		{"a message", mail, "f:r.json.gz"},
		{"a message with another type", mailOf("application/octet-stream", "r.json.gz", packed), "f:r.json.gz"},
		{"a message with a zip file", mailOf("application/zip", "r.zip", zipped(t, map[string][]byte{"a.json": []byte(sample)})), "f:r.zip:a.json"},
		{"an mbox", mbox, "f:1:r.json.gz f:2:r.json"},
		{"a broken gzip", packed[:len(packed)/2], "!gzip: unexpected EOF"},
		{"a broken attachment", mailOf("application/tlsrpt+gzip", "r.json.gz", packed[:len(packed)/2]), "!gzip: unexpected EOF"},
		{"a bomb", bomb, "!gzip: " + errTooMuch.Error()},
		{"a bomb in a message", mailOf("application/gzip", "r.gz", bomb), "!gzip: " + errTooMuch.Error()},
		{"packed too deep", deep, "!it is packed too deep"},
		{"something else", []byte("hello\n"), "!no TLS report: nothing in it looks like one"},
		{"a message about something else", []byte("Subject: hello\r\n\r\nhello\r\n"), "!no TLS report: nothing in it looks like one"},
		{"nothing", nil, "!no TLS report: nothing in it looks like one"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			Unpack("f", bytes.NewReader(tt.b), func(r Received, err error) bool {
				if err != nil {
					got = append(got, "!"+err.Error())
				} else {
					got = append(got, r.Source)
				}
				return true
			})
			if strings.Join(got, " ") != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	t.Run("who has heard enough hears no more", func(t *testing.T) {
		n := 0
		Unpack("f", bytes.NewReader(mbox), func(Received, error) bool { n++; return false })
		if n != 1 {
			t.Errorf("%d", n)
		}
	})
}

func FuzzUnpack(f *testing.F) {
	f.Add([]byte(sample))
	f.Add(pack(f, []byte(sample)))
	f.Add(mailOf("application/tlsrpt+gzip", "r", pack(f, []byte(sample))))
	f.Add(zipped(f, map[string][]byte{"a": []byte(sample)}))
	f.Fuzz(func(t *testing.T, b []byte) {
		n := 0
		Unpack("f", bytes.NewReader(b), func(r Received, err error) bool {
			if n++; err == nil && Clean(r.Organization) != r.Organization {
				t.Errorf("%q", r.Organization)
			}
			return true
		})
		if n == 0 {
			t.Error("nothing was said of it")
		}
	})
}
