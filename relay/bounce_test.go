package relay

import (
	"bytes"
	"flag"
	"io"
	"net/netip"
	"net/textproto"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"stsrelay/delivery"
	"stsrelay/internal/addr"

	"github.com/emersion/go-message"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var (
	goldenNow = time.Date(2026, 11, 29, 10, 0, 0, 0, time.UTC)
	mx1       = addr.MustHost("mx1.example.com")
)

// aDSN is a DSN about one recipient, to be changed by a test.
func aDSN(err *delivery.Error) dsn {
	f := fate{Recipient: Recipient{Address: addr.MustAddress("User+X@example.com")}, err: err, status: bounced,
		outcome: delivery.Outcome{Err: err, MX: err.MX, Policy: "none"}}
	if err.Stage >= delivery.StageConnect {
		f.outcome.Addr = netip.MustParseAddrPort("192.0.2.1:25")
	}
	return dsn{
		Kind: dsnFailed, ID: "1HDVZQ4K7M2P0T8X5A", Now: goldenNow, Hostname: "relay.example.org", To: addr.MustAddress("alice@sender.example"),
		Entry: Entry{ID: "1HDVZQ4K7M2P0T8X00", From: addr.MustAddress("alice@sender.example"), Arrived: goldenNow.Add(-5 * 24 * time.Hour), Attempts: 33},
		About: []fate{f}, Age: 5 * 24 * time.Hour, Until: goldenNow.Add(time.Hour),
		Header: []byte("Received: from a by b; Tue, 24 Nov 2026 10:00:00 +0000\r\nFrom: alice@sender.example\r\nSubject: lunch\r\nMessage-ID: <77@sender.example>\r\n"),
	}
}

func byServer(code int, enhanced [3]int, text string) *delivery.Error {
	return &delivery.Error{Stage: delivery.StageRcpt, MX: mx1, Addr: "192.0.2.1:25", Reason: delivery.RemoteReply, Permanent: code >= 500,
		Code: code, Enhanced: enhanced, Remote: true, Text: text}
}

// goldens are whole DSNs, each for a reason.
var goldens = []struct {
	file, why string
	dsn       func() dsn
}{
	{"01-remote-refusal", "SMTP-3.6.3-01 DSN-6.3-04 a server refused the recipient: its words, and who said them", func() dsn {
		return aDSN(byServer(550, [3]int{5, 1, 1}, "5.1.1 No such user here"))
	}},
	{"02-policy-expired", "DSNF-2.3.4-02 given up after refusals by policy: the 5.x twin, and what the owner can do", func() dsn {
		d := aDSN(delivery.NewError(delivery.StagePolicy, delivery.CertExpired, mx1, "x509: certificate has expired on 2026-11-01").AtExpiry())
		d.About[0].expired, d.About[0].outcome.Policy = true, "sts:enforce id=20261101"
		return d
	}},
	{"03-mx-not-listed-delayed", "DSN-6.2-01 a delay: still trying, until when, and why", func() dsn {
		d := aDSN(delivery.NewError(delivery.StagePlan, delivery.MXNotListed, mx1, "the policy names mail.example.com only"))
		d.Kind, d.Until, d.Age = dsnDelayed, goldenNow.Add(4*24*time.Hour), 4*time.Hour
		d.About[0].status, d.About[0].outcome.Policy = deferred, "sts:enforce id=20261101"
		return d
	}},
	{"04-several-recipients", "SMTP-4.4-06 DSNF-2.1-01 one DSN for all failed recipients, each with its group of fields", func() dsn {
		d := aDSN(byServer(550, [3]int{5, 1, 1}, "5.1.1 No such user"))
		second, third := d.About[0], d.About[0]
		second.Address = addr.MustAddress("bob@example.com")
		third.Address, third.err = addr.MustAddress("carol@example.com"), byServer(552, [3]int{5, 2, 2}, "5.2.2 Mailbox full")
		d.About = append(d.About, second, third)
		return d
	}},
	{"05-return-full", "DSN-6.2-02 DSNF-6522-02 RET=FULL returns the whole message", func() dsn {
		d := aDSN(byServer(550, [3]int{5, 1, 1}, "5.1.1 No such user"))
		d.Content = append(bytes.Clone(d.Header), "\r\nShall we?\r\n"...)
		return d
	}},
	{"06-envelope-id-and-original", "DSN-6.3-01 DSN-6.3-02 ENVID and ORCPT come back decoded", func() dsn {
		d := aDSN(byServer(550, [3]int{5, 1, 1}, "5.1.1 No such user"))
		d.Entry.Options.Envelope, d.About[0].Original = "QQ314159+2Babc", "rfc822;First+2BLast@example.com"
		return d
	}},
	{"07-null-mx", "DSNF-2.3.5-01 what DNS said has no Remote-MTA", func() dsn {
		return aDSN(delivery.NewError(delivery.StagePlan, delivery.NullMX, addr.Host{}, "example.com has a null MX record"))
	}},
	{"08-operator", "an operator ended it", func() dsn {
		d := aDSN(delivery.NewError(delivery.StagePlan, delivery.OperatorBounce, addr.Host{}, "ticket 4711"))
		d.Postmaster = addr.MustAddress("postmaster@example.org")
		return d
	}},
	{"09-postmaster", "a bounce that could not be delivered", func() dsn {
		d := aDSN(delivery.NewError(delivery.StagePlan, delivery.NoSuchDomain, addr.Host{}, "example.com does not exist"))
		d.Kind, d.Entry.From, d.To = dsnPostmaster, addr.Address{}, addr.MustAddress("postmaster@example.org")
		return d
	}},
	{"10-international", "DSN8-4.1-01 DSN8-4.4-01 DSN8-4.5-01 addresses and a header beyond ASCII: parts of type global, in 7 bits", func() dsn {
		d := aDSN(delivery.NewError(delivery.StageMail, delivery.UTF8Unsupported, mx1, "the server does not offer SMTPUTF8"))
		d.About[0].Address, d.About[0].Original = addr.MustAddress("jürgen@example.com"), `utf-8;j\x{FC}rgen@example.com`
		d.Header = []byte("Subject: Grüße\r\n")
		return d
	}},
	{"12-relayed", "DSN-5.2.2-02 handed to a server that confirms nothing", func() dsn {
		d := aDSN(byServer(550, [3]int{5, 1, 1}, "no"))
		d.Kind, d.About[0].err, d.About[0].status = dsnRelayed, nil, sent
		d.About[0].outcome = delivery.Outcome{MX: mx1, Addr: netip.MustParseAddrPort("192.0.2.1:25"), Reply: "250 2.0.0 queued as 4XyZ", TLS: "Verified TLSv1.3", Policy: "sts:enforce id=1"}
		return d
	}},
	{"11-multiline-reply", "DSN-9.2-01 a reply of several lines is folded", func() dsn {
		return aDSN(byServer(550, [3]int{5, 7, 1}, "mailbox unavailable\nuser has moved with no forwarding address, and this line goes on for so long that it must be folded somewhere"))
	}},
}

func TestDSNGolden(t *testing.T) {
	for _, tt := range goldens {
		t.Run(tt.file+" "+tt.why, func(t *testing.T) {
			c, err := tt.dsn().compose()
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", "dsn", tt.file+".eml")
			if *update {
				if err := os.WriteFile(path, c.Body, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(c.Body, want) {
				t.Errorf("differs from %s (see with -update and git diff):\n%s", path, c.Body)
			}
		})
	}
}

// parsed is a DSN taken apart by a MIME reader.
type parsed struct {
	header message.Header
	kinds  []string
	text   string
	fields []textproto.MIMEHeader // of the message, then of each recipient
	raw    string                 // of the status part
	back   string                 // what is returned
}

func parse(t *testing.T, d dsn) (p parsed) {
	t.Helper()
	c, err := d.compose()
	if err != nil {
		t.Fatal(err)
	}
	m, err := message.Read(bytes.NewReader(c.Body))
	if err != nil {
		t.Fatal(err)
	}
	p.header = m.Header
	for r := m.MultipartReader(); ; {
		part, err := r.NextPart()
		if err == io.EOF {
			return p
		}
		if err != nil {
			t.Fatal(err)
		}
		kind, _, _ := part.Header.ContentType()
		body, err := io.ReadAll(part.Body)
		if err != nil {
			t.Fatal(err)
		}
		switch p.kinds = append(p.kinds, kind); len(p.kinds) {
		case 1:
			p.text = string(body)
		case 2:
			p.raw = string(body)
			p.fields = groups(t, p.raw)
		case 3:
			p.back = string(body)
		}
	}
}

func groups(t *testing.T, s string) (all []textproto.MIMEHeader) {
	t.Helper()
	for group := range strings.SplitSeq(strings.TrimSuffix(s, "\r\n"), "\r\n\r\n") {
		h, err := textproto.NewReader(bufioReader(group + "\r\n\r\n")).ReadMIMEHeader()
		if err != nil {
			t.Fatalf("%v in %q", err, group)
		}
		all = append(all, h)
	}
	return all
}

func TestDSNForm(t *testing.T) {
	statusForm := regexp.MustCompile(`^[245]\.(0|[1-9]\d{0,2})\.(0|[1-9]\d{0,2})$`)
	dateForm := regexp.MustCompile(`^[A-Z][a-z]{2}, \d{2} [A-Z][a-z]{2} \d{4} \d{2}:\d{2}:\d{2} [+-]\d{4}$`)
	for _, tt := range goldens {
		p := parse(t, tt.dsn())
		d := tt.dsn()
		kindOf := "message/"
		if strings.Contains(tt.file, "international") { // RFC 6533, Section 4.1
			kindOf += "global-"
		}
		t.Run(tt.file, func(t *testing.T) {
			t.Run("DSNF-6522-01 DSN-6.2-01 multipart/report with its parts in order", func(t *testing.T) {
				kind, params, err := p.header.ContentType()
				if err != nil || kind != "multipart/report" || params["report-type"] != "delivery-status" || params["boundary"] == "" {
					t.Errorf("%s %v %v", kind, params, err)
				}
				if len(p.kinds) != 3 || p.kinds[0] != "text/plain" || p.kinds[1] != kindOf+"delivery-status" {
					t.Errorf("parts %v", p.kinds)
				}
			})
			t.Run("DSNF-2-01 DSNF-2-02 DSNF-3834-01 from the postmaster to the sender, and no answer to a machine", func(t *testing.T) {
				if p.header.Get("To") != d.To.Path() || !strings.Contains(p.header.Get("From"), "postmaster@") || p.header.Get("Auto-Submitted") != "auto-replied" {
					t.Errorf("To %q From %q Auto-Submitted %q", p.header.Get("To"), p.header.Get("From"), p.header.Get("Auto-Submitted"))
				}
			})
			t.Run("DSNF-2.2-01 DSNF-2.2.5-01 fields of the message, each at most once", func(t *testing.T) {
				h := p.fields[0]
				for k, v := range h {
					if len(v) != 1 {
						t.Errorf("%d times %s", len(v), k)
					}
				}
				if h.Get("Reporting-MTA") != "dns; relay.example.org" || !dateForm.MatchString(h.Get("Arrival-Date")) || h.Get("DSN-Gateway") != "" {
					t.Errorf("%v", h)
				}
			})
			t.Run("DSNF-2.1-01 DSNF-2.3-01 DSNF-2.3.4-01 DSN-6.3-03 a group for each recipient, with what is required", func(t *testing.T) {
				if len(p.fields) != 1+len(d.About) {
					t.Fatalf("%d groups for %d recipients", len(p.fields)-1, len(d.About))
				}
				for i, h := range p.fields[1:] {
					if h.Get("Final-Recipient") == "" || !statusForm.MatchString(h.Get("Status")) || (h.Get("Original-Recipient") != "") != (d.About[i].Original != "") {
						t.Errorf("%v", h)
					}
				}
			})
			t.Run("DSNF-2.3.3-01 DSNF-2.3.9-01 a failure is failed, a delay delayed and says until when", func(t *testing.T) {
				want := "failed"
				switch d.Kind {
				case dsnDelayed:
					want = "delayed"
				case dsnRelayed:
					want = "relayed"
				}
				for _, h := range p.fields[1:] {
					until := h.Get("Will-Retry-Until")
					if h.Get("Action") != want || (until != "") != (want == "delayed") || until != "" && !dateForm.MatchString(until) {
						t.Errorf("%v", h)
					}
				}
			})
			t.Run("DSNF-2.3.7-01 the last attempt has a date if there was one", func(t *testing.T) {
				for i, h := range p.fields[1:] {
					if got := h.Get("Last-Attempt-Date"); (got != "") != (d.About[i].err == nil || d.About[i].err.Reason != delivery.OperatorBounce) || got != "" && !dateForm.MatchString(got) {
						t.Errorf("%q", got)
					}
				}
			})
			t.Run("DSNF-6522-02 the header comes back as such, or the message as such", func(t *testing.T) {
				kind, want := "text/rfc822-headers", string(d.Header)
				if d.Content != nil {
					kind, want = "message/rfc822", string(d.Content)
				}
				if kindOf != "message/" {
					kind = "message/global-headers"
				}
				if p.kinds[2] != kind || p.back != want {
					t.Errorf("%s: %q, want %s: %q", p.kinds[2], p.back, kind, want)
				}
			})
			t.Run("DSNF-2.4-01 fields of our own begin with X-", func(t *testing.T) {
				known := regexp.MustCompile(`^(Original-Envelope-Id|Reporting-Mta|Arrival-Date|Original-Recipient|Final-Recipient|Action|Status|Remote-Mta|Diagnostic-Code|Last-Attempt-Date|Will-Retry-Until|X-Stsrelay-.*)$`)
				for _, g := range p.fields {
					for k := range g {
						if !known.MatchString(k) {
							t.Errorf("field %s", k)
						}
					}
				}
			})
			t.Run("DSNF-2.1.1-01 the status part is ASCII, in lines of CRLF that any server takes", func(t *testing.T) {
				if kindOf == "message/" && !is7bit([]byte(p.raw)) || strings.Contains(strings.ReplaceAll(p.raw, "\r\n", ""), "\r") {
					t.Errorf("%q", p.raw)
				}
			})
		})
	}
}

func TestDSNFields(t *testing.T) {
	t.Run("DSN-6.1-01 the envelope: null sender, the original sender, NOTIFY=NEVER, no RET", func(t *testing.T) {
		c, err := aDSN(byServer(550, [3]int{5, 1, 1}, "no")).compose()
		if err != nil {
			t.Fatal(err)
		}
		m := c.Message
		to := m.Entries[0].To
		if !m.From.IsNull() || len(to) != 1 || to[0].Address.String() != "alice@sender.example" || to[0].Notify != "NEVER" ||
			m.Options.Return != "" || !m.Options.Notice || m.Entries[0].Destination != "sender.example" || m.Size != int64(len(c.Body)) {
			t.Errorf("%+v", m)
		}
	})
	t.Run("SMTP-6.1-03 a source route is no part of the way back", func(t *testing.T) {
		from, err := addr.ParsePath("<@a.example:u@b.example>")
		if err != nil {
			t.Fatal(err)
		}
		d := aDSN(byServer(550, [3]int{5, 1, 1}, "no"))
		d.To = from
		c, err := d.compose()
		if err != nil || c.Message.Entries[0].To[0].Address.Path() != "<u@b.example>" || !bytes.Contains(c.Body, []byte("To: <u@b.example>\r\n")) {
			t.Errorf("%v: %s", err, c.Body)
		}
	})
	t.Run("DSNF-2.3.2-01 the recipient is exactly that of the envelope", func(t *testing.T) {
		if got := parse(t, aDSN(byServer(550, [3]int{5, 1, 1}, "no"))).fields[1].Get("Final-Recipient"); got != "rfc822; User+X@example.com" {
			t.Errorf("%q", got)
		}
	})
	t.Run("DSNF-2.2.1-01 DSN-6.3-01 an envelope id is given back as it was, and never invented", func(t *testing.T) {
		d := aDSN(byServer(550, [3]int{5, 1, 1}, "no"))
		if got := parse(t, d).fields[0].Get("Original-Envelope-Id"); got != "" {
			t.Errorf("invented %q", got)
		}
		d.Entry.Options.Envelope = "CaSe+2BxY+3D"
		if got := parse(t, d).fields[0].Get("Original-Envelope-Id"); got != "CaSe+xY=" {
			t.Errorf("%q", got)
		}
	})
	t.Run("DSN-6.3-04 DSNF-2.3.6-01 a server's answer has its words and its name", func(t *testing.T) {
		h := parse(t, aDSN(byServer(550, [3]int{5, 1, 1}, "5.1.1 No such user"))).fields[1]
		if h.Get("Remote-MTA") != "dns; mx1.example.com" || h.Get("Diagnostic-Code") != "smtp; 550 5.1.1 No such user" {
			t.Errorf("%v", h)
		}
	})
	t.Run("DSN-6.3-04 DSNF-2.3.5-01 what we found ourselves has no Remote-MTA and a type of our own", func(t *testing.T) {
		for _, r := range delivery.Reasons() {
			if r == delivery.RemoteReply {
				continue
			}
			h := parse(t, aDSN(delivery.NewError(delivery.StagePolicy, r, mx1, "it is so"))).fields[1]
			if h.Get("Remote-MTA") != "" || h.Get("Diagnostic-Code") != "X-Stsrelay; "+string(r)+": it is so" {
				t.Errorf("%s: %v", r, h)
			}
		}
	})
	t.Run("DSN-9.2-01 each line of a reply has its code, and those behind the first a blank before it", func(t *testing.T) {
		raw := parse(t, aDSN(byServer(550, [3]int{5, 1, 1}, "mailbox unavailable\nuser has moved with no forwarding address"))).raw
		if want := "Diagnostic-Code: smtp; 550-mailbox unavailable\r\n 550 user has moved with no forwarding address\r\n"; !strings.Contains(raw, want) {
			t.Errorf("%s", raw)
		}
	})
	t.Run("DSNF-2.1.1-01 control characters and line ends of a peer make no field of their own", func(t *testing.T) {
		h := parse(t, aDSN(byServer(550, [3]int{5, 1, 1}, "a\r\nAction: delivered\x00\x1b[2J\tb\u2028c\u202e"))).fields[1]
		if h.Get("Action") != "failed" || strings.ContainsAny(h.Get("Diagnostic-Code"), "\x00\x1b\t") {
			t.Errorf("%v", h)
		}
	})
	t.Run("people see no characters that turn or hide text", func(t *testing.T) {
		if got := cleanLine(" a\u202eb\x1b[2J\r\n\u2028c\ufeff\xff "); got != "ab [2J c?" {
			t.Errorf("%q", got)
		}
	})
	t.Run("DSNF-2.1.1-01 a word of a thousand characters is cut", func(t *testing.T) {
		for _, text := range []string{strings.Repeat("x", 3000), strings.Repeat("x", 3000) + " y", "y " + strings.Repeat("x", 3000)} {
			if p := parse(t, aDSN(byServer(550, [3]int{5, 1, 1}, text))); !is7bit([]byte(p.raw)) {
				t.Error("a line is too long")
			}
		}
	})
	t.Run("RTLS-5-01 a REQUIRETLS message has a notice that asks for REQUIRETLS, except on the operator's own way", func(t *testing.T) {
		d := aDSN(byServer(550, [3]int{5, 1, 1}, "no"))
		d.Entry.Options.Demand = delivery.Require
		c, _ := d.compose()
		d.Via = addr.HostHop(addr.MustHost("localhost.example"), 25)
		v, _ := d.compose()
		if c.Message.Options.Demand != delivery.Prefer || v.Message.Options.Demand != delivery.Default || v.Message.Entries[0].Destination != "via:[localhost.example]" {
			t.Errorf("%v, via %+v", c.Message.Options.Demand, v.Message)
		}
	})
	t.Run("UTF8-3.2-03 a sender and a postmaster in a domain beyond ASCII are named by its A-label", func(t *testing.T) {
		d := aDSN(byServer(550, [3]int{5, 1, 1}, "no"))
		d.To, d.Postmaster = addr.MustAddress("alice@bücher.example"), addr.MustAddress("postmaster@bücher.example")
		c, err := d.compose()
		if err != nil {
			t.Fatal(err)
		}
		h := parse(t, d).header
		if h.Get("To") != "<alice@xn--bcher-kva.example>" || !strings.HasSuffix(h.Get("From"), "<postmaster@xn--bcher-kva.example>") || c.Message.Options.UTF8 || !is7bit(c.Body) {
			t.Errorf("To %q, From %q, SMTPUTF8 %v", h.Get("To"), h.Get("From"), c.Message.Options.UTF8)
		}
	})
	t.Run("a sender beyond ASCII is written to with SMTPUTF8", func(t *testing.T) {
		d := aDSN(byServer(550, [3]int{5, 1, 1}, "no"))
		d.To = addr.MustAddress("jürgen@sender.example")
		c, err := d.compose()
		if o := c.Message.Options; err != nil || !o.UTF8 || !o.EightBit || o.Body != Body8BitMIME || !bytes.Contains(c.Body, []byte("To: <jürgen@sender.example>\r\n")) {
			t.Errorf("%v %+v", err, o)
		}
		if c, err = aDSN(byServer(550, [3]int{5, 1, 1}, "no")).compose(); err != nil || c.Message.Options.UTF8 || c.Message.Options.EightBit || c.Message.Options.Body != Body7Bit {
			t.Errorf("without need: %v %+v", err, c.Message.Options)
		}
	})
	t.Run("the largest DSN is smaller than what a store takes", func(t *testing.T) {
		d := aDSN(byServer(550, [3]int{5, 1, 1}, "no"))
		for i := range maxAbout {
			f := d.About[0]
			f.err, f.Original = byServer(550, [3]int{5, 1, 1}, strings.Repeat("words ", 166)+strconv.Itoa(i)), "rfc822;"+strings.Repeat("x", 500)
			d.About = append(d.About, f)
		}
		d.Header = bytes.Repeat([]byte("X: "+strings.Repeat("\xff", 61)+"\r\n"), 1000)
		if c, err := d.compose(); err != nil || len(c.Body) > 1<<20 {
			t.Errorf("%v, %d octets", err, len(c.Body))
		}
	})
	t.Run("the message's own id is repeated when it is one", func(t *testing.T) {
		for header, want := range map[string]string{
			"Message-ID: <a@b>\r\n":                 "<a@b>",
			"message-id:\r\n <a@b>\r\n":             "<a@b>",
			"Message-ID: a@b\r\n":                   "",
			"Message-ID: <a b>\r\n":                 "",
			"Message-ID: <\xff@b>\r\n":              "",
			"Subject: none\r\n":                     "",
			"no header at all\r\n":                  "",
			"Message-ID: <a@b>\r\nContent-Type: x;": "<a@b>",
		} {
			if got := messageID([]byte(header)); got != want {
				t.Errorf("%q: %q, want %q", header, got, want)
			}
		}
	})
}

func TestReturnedContent(t *testing.T) {
	t.Run("the header ends at the empty line", func(t *testing.T) {
		for in, want := range map[string]string{
			"A: b\r\n\r\nbody\r\n": "A: b\r\n",
			"A: b\r\n":             "A: b\r\n",
			"\r\nbody":             "",
			"A: b\r\nC: cut":       "A: b\r\n",
			"":                     "",
		} {
			if got := string(headerOf([]byte(in))); got != want {
				t.Errorf("%q: %q, want %q", in, got, want)
			}
		}
	})
	t.Run("DSNF-6522-03 only what goes through any server is returned whole", func(t *testing.T) {
		for in, want := range map[string]bool{
			"A: b\r\n\r\nbody\r\n":             true,
			"\xe4\r\n":                         false,
			"a\x00b\r\n":                       false,
			"bare\nline\r\n":                   false,
			"bare\rreturn\r\n":                 false,
			strings.Repeat("x", 998) + "\r\n":  true,
			strings.Repeat("x", 1000) + "\r\n": false,
		} {
			if got := is7bit([]byte(in)); got != want {
				t.Errorf("%.20q: %t", in, got)
			}
		}
	})
}
