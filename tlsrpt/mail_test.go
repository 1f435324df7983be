package tlsrpt

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/mail"
	"regexp"
	"strings"
	"testing"
	"time"

	"stsrelay/internal/addr"
)

var noon = time.Date(2026, 11, 2, 12, 0, 0, 0, time.UTC)

func write(t testing.TB, l Letter) []byte {
	t.Helper()
	b, err := l.Write()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A part is what the standard library, which has not made the message, finds
// in it.
type mimePart struct {
	mediaType   string
	params      map[string]string
	encoding    string
	disposition string
	fileName    string
	content     []byte
}

func walk(t testing.TB, message []byte) (mail.Header, []mimePart) {
	t.Helper()
	m, err := mail.ReadMessage(bytes.NewReader(message))
	if err != nil {
		t.Fatal(err)
	}
	kind, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/report" {
		t.Fatalf("%s, %v", kind, err)
	}
	var parts []mimePart
	r := multipart.NewReader(m.Body, params["boundary"])
	for {
		p, err := r.NextRawPart()
		if err == io.EOF {
			return m.Header, parts
		}
		if err != nil {
			t.Fatal(err)
		}
		out := mimePart{encoding: p.Header.Get("Content-Transfer-Encoding"), fileName: p.FileName()}
		if out.mediaType, out.params, err = mime.ParseMediaType(p.Header.Get("Content-Type")); err != nil {
			t.Fatal(err)
		}
		out.disposition, _, _ = strings.Cut(p.Header.Get("Content-Disposition"), ";")
		var body io.Reader = p
		switch out.encoding {
		case "base64":
			body = base64.NewDecoder(base64.StdEncoding, p)
		case "quoted-printable":
			body = quotedprintable.NewReader(p)
		}
		if out.content, err = io.ReadAll(body); err != nil {
			t.Fatal(err)
		}
		parts = append(parts, out)
	}
}

func TestLetter(t *testing.T) {
	r := build(t, fullDay(), us, testID)
	l := Letter{Report: r, From: us.From, To: addr.MustAddress("reports@bücher.example"), Date: noon}
	message := write(t, l)
	golden(t, "letter.txt", []byte(r.Text()))
	h, parts := walk(t, message)
	t.Run("RPT-5.3-01 RPT-6-01 multipart/report with a text for people, a report for machines, and nothing else", func(t *testing.T) {
		_, params, err := mime.ParseMediaType(h.Get("Content-Type"))
		if err != nil || params["report-type"] != "tlsrpt" || !bytes.Contains(message, []byte(`multipart/report; report-type="tlsrpt";`)) {
			t.Errorf("%v, %v", params, err)
		}
		if len(parts) != 2 || parts[0].mediaType != "text/plain" || string(parts[0].content) != r.Text() {
			t.Fatalf("%d parts, %+v", len(parts), parts[0])
		}
	})
	t.Run("RPT-5.3-02 RPT-5.3-03 the second part is gzip in base64 with the file name in one piece", func(t *testing.T) {
		p := parts[1]
		if p.mediaType != "application/tlsrpt+gzip" || p.encoding != "base64" || p.disposition != "attachment" || p.fileName != r.FileName() {
			t.Errorf("got %+v", p)
		}
		if got := gunzip(t, p.content); !bytes.Equal(got, encode(t, r)) {
			t.Errorf("it holds %s", got)
		}
		if !bytes.Contains(message, []byte(`filename="`+r.FileName()+"\"\r\n")) {
			t.Error("the file name is split")
		}
	})
	t.Run("RPT-5.3-04 RPT-5.3-05 RPT-6-01 the two fields, once each, spelled as registered", func(t *testing.T) {
		for _, want := range []string{"\r\nTLS-Report-Domain: xn--bcher-kva.example\r\n", "\r\nTLS-Report-Submitter: relay.example\r\n"} {
			if n := bytes.Count(message, []byte(want)); n != 1 {
				t.Errorf("%q is there %d times", want, n)
			}
		}
		if _, domain, _ := strings.Cut(r.Contact, "@"); domain != h.Get("TLS-Report-Submitter") {
			t.Errorf("contact-info has %s", domain)
		}
	})
	t.Run("RPT-5.3-07 RPT-5.3-08 the subject, unfolded, is exactly that of the RFC", func(t *testing.T) {
		subject := regexp.MustCompile(`^Report Domain: (\S+) Submitter: (\S+) Report-ID: <([^<>@\s]+@[^<>@\s]+)>$`).FindStringSubmatch(h.Get("Subject"))
		if subject == nil || subject[1] != "xn--bcher-kva.example" || subject[2] != "relay.example" || subject[3] != r.ID {
			t.Errorf("got %q, %v", h.Get("Subject"), subject)
		}
	})
	t.Run("RPT-5.3-09 Auto-Submitted, Date, Message-ID, From and To", func(t *testing.T) {
		from, err := h.AddressList("From")
		if err != nil || from[0].Address != us.From.String() || from[0].Name != "Example Inc" {
			t.Errorf("From %v, %v", from, err)
		}
		to, err := h.AddressList("To")
		if err != nil || len(to) != 1 || to[0].Address != "reports@bücher.example" {
			t.Errorf("To %v, %v", to, err)
		}
		if at, err := h.Date(); err != nil || !at.Equal(noon) {
			t.Errorf("Date %v, %v", at, err)
		}
		if h.Get("Auto-Submitted") != "auto-generated" || !strings.HasSuffix(h.Get("Message-ID"), "@relay.example>") || h.Get("MIME-Version") != "1.0" {
			t.Errorf("got %v", h)
		}
	})
	t.Run("RPT-3-21 RTLS-7-02 TLS-Required: No", func(t *testing.T) {
		if h.Get("TLS-Required") != "No" || !bytes.Contains(message, []byte("\r\nTLS-Required: No\r\n")) {
			t.Errorf("got %q", h.Get("TLS-Required"))
		}
	})
	t.Run("RPT-3-27 five domains are one", func(t *testing.T) {
		key := edKey(t, us.Submitter())
		signed, err := Sign(message, []SigningKey{key})
		if err != nil {
			t.Fatal(err)
		}
		tags, err := verifyDKIM(signed, map[string]string{key.Name(): published(t, key)})
		if err != nil {
			t.Fatal(err)
		}
		sender, _, _ := strings.Cut(parts[1].fileName, "!")
		from, _ := h.AddressList("From")
		for what, got := range map[string]string{"DKIM": tags[0]["d"], "submitter": h.Get("TLS-Report-Submitter"), "file name": sender,
			"contact": domainOf(r.Contact), "From": domainOf(from[0].Address)} {
			if got != "relay.example" {
				t.Errorf("%s has %q", what, got)
			}
		}
		t.Run("RPT-5.3-06 RPT-3-23 the signature verifies and covers both fields", func(t *testing.T) {
			for _, f := range []string{"TLS-Report-Domain", "TLS-Report-Submitter", "TLS-Required", "Subject"} {
				if !strings.Contains(strings.ToLower(":"+tags[0]["h"]+":"), ":"+strings.ToLower(f)+":") {
					t.Errorf("%s is not signed: %s", f, tags[0]["h"])
				}
			}
		})
	})
	t.Run("DKIM-5.3-01 every line ends in CRLF, is 7-bit, and no longer than allowed", func(t *testing.T) {
		for line := range strings.SplitSeq(string(message), "\r\n") {
			if strings.ContainsAny(line, "\r\n") || len(line) > 998 {
				t.Errorf("line %q", line)
			}
		}
	})
	t.Run("a report sent twice can be told: the same Message-ID, another one for another mailbox", func(t *testing.T) {
		again, _ := walk(t, write(t, Letter{Report: r, From: us.From, To: l.To, Date: noon.Add(time.Hour)}))
		other, _ := walk(t, write(t, Letter{Report: r, From: us.From, To: us.From, Date: noon}))
		if again.Get("Message-ID") != h.Get("Message-ID") || other.Get("Message-ID") == h.Get("Message-ID") {
			t.Errorf("%s, again %s, other %s", h.Get("Message-ID"), again.Get("Message-ID"), other.Get("Message-ID"))
		}
	})
}

func domainOf(address string) string { return address[strings.LastIndexByte(address, '@')+1:] }

func TestLongNames(t *testing.T) {
	label := strings.Repeat("a", 62)
	tally := Tally{Day: "2026-11-01", Domain: addr.MustDomain(label + "." + label + "." + label + ".example"), Policies: []PolicyTally{{Policy: sts, Successes: 1}}}
	who := Identity{Organization: `He said "no" \ ` + strings.Repeat("Ü ", 60), Contact: addr.MustAddress("c@" + label + "." + label + ".example"), From: addr.MustAddress("c@" + label + "." + label + ".example")}
	r := build(t, tally, who, NewID(tally.Day, tally.Domain, who.Submitter(), "K7M2"))
	message := write(t, Letter{Report: r, From: who.From, To: who.Contact, Date: noon})
	h, parts := walk(t, message)
	if want := fmt.Sprintf("Report Domain: %s Submitter: %s Report-ID: <%s>", r.Domain, r.Submitter, r.ID); h.Get("Subject") != want {
		t.Errorf("subject %q, want %q", h.Get("Subject"), want)
	}
	if parts[1].fileName != r.FileName() {
		t.Errorf("file name %q", parts[1].fileName)
	}
	from, err := h.AddressList("From")
	if err != nil || from[0].Name != Clean(who.Organization) {
		t.Errorf("From %v, %v", from, err)
	}
	if isASCII(r.Text()) || string(parts[0].content) != r.Text() || parts[0].params["charset"] != "utf-8" || !isASCII(string(message)) {
		t.Errorf("the text is %q", parts[0].content)
	}
}

// FuzzLetter: whatever peers and operators say, subject, file name, fields and
// JSON agree.
func FuzzLetter(f *testing.F) {
	f.Add("Example Inc", "mx.example.net", "reason", "version: STSv1", uint32(5))
	f.Add("\"\\\r\nBcc: x@y", "\xff", "“” <b>", "\r\n.\r\n", uint32(0))
	f.Fuzz(func(t *testing.T, organization, mx, reason, line string, n uint32) {
		s := session(PolicyResult{Policy: Policy{Type: STS, Domain: "example.net", Strings: []string{line}}, Failures: []Failure{{ValidationFailure, reason}}})
		s.MX, s.HELO = mx, reason
		tally := Tally{Day: "2026-11-01", Domain: addr.MustDomain("example.net"), Policies: s.Count()}
		tally.Policies[0].Successes = int64(n)
		who := us
		who.Organization = organization
		r := build(t, tally, who, NewID(tally.Day, tally.Domain, us.Submitter(), fmt.Sprint(n)))
		h, parts := walk(t, write(t, Letter{Report: r, From: us.From, To: us.Contact, Date: noon}))
		if len(parts) != 2 || len(h) != 11 {
			t.Fatalf("%d parts, %d fields", len(parts), len(h))
		}
		var got Report
		if err := json.Unmarshal(gunzip(t, parts[1].content), &got); err != nil {
			t.Fatal(err)
		}
		// RPT-5.6-01
		if want := fmt.Sprintf("Report Domain: %s Submitter: %s Report-ID: <%s>", got.Policies[0].Policy.Domain, domainOf(got.Contact), got.ID); h.Get("Subject") != want {
			t.Errorf("subject %q, want %q", h.Get("Subject"), want)
		}
		if want := fmt.Sprintf("%s!example.net!%d!%d!%d.json.gz", domainOf(got.Contact), got.Range.Start.Unix(), got.Range.End.Unix(), n); parts[1].fileName != want {
			t.Errorf("file name %q, want %q", parts[1].fileName, want)
		}
	})
}

func TestOneSource(t *testing.T) {
	t.Run("RPT-5.6-01 subject, file name and fields say what the JSON says", func(t *testing.T) {
		for _, day := range []Day{"2024-02-29", "2026-11-01", "2026-12-31"} {
			tally := fullDay()
			tally.Day = day
			r := build(t, tally, us, NewID(day, tally.Domain, us.Submitter(), "X1"))
			h, parts := walk(t, write(t, Letter{Report: r, From: us.From, To: us.Contact, Date: noon}))
			var got Report
			if err := json.Unmarshal(gunzip(t, parts[1].content), &got); err != nil {
				t.Fatal(err)
			}
			name := strings.Split(parts[1].fileName, "!")
			if name[2] != fmt.Sprint(got.Range.Start.Unix()) || name[3] != fmt.Sprint(got.Range.End.Unix()) || DayOf(got.Range.Start) != day || DayOf(got.Range.End) != day {
				t.Errorf("file name %v, range %v", name, got.Range)
			}
			if !strings.Contains(h.Get("Subject"), "<"+got.ID+">") || name[0] != domainOf(got.Contact) || h.Get("TLS-Report-Submitter") != name[0] || h.Get("TLS-Report-Domain") != name[1] {
				t.Errorf("subject %q, file name %v", h.Get("Subject"), name)
			}
		}
	})
}

func TestText(t *testing.T) {
	text := build(t, fullDay(), us, testID).Text()
	for _, r := range Results() {
		if !strings.Contains(text, string(r)) || !strings.Contains(text, meanings[r]) || meanings[r] == "" {
			t.Errorf("%s is not told, or not what it means", r)
		}
	}
	many := fullDay()
	for i := range 50 {
		many.Policies[0].Details = append(many.Policies[0].Details, Detail{Failure: Failure{Result: TLSAInvalid, Reason: fmt.Sprint(i)}, Sessions: 1})
	}
	if text := build(t, many, us, testID).Text(); !strings.Contains(text, "and 41 more kinds of failure") {
		t.Errorf("got %s", text)
	}
}
