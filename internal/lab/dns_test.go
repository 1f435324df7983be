package lab_test

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"stsrelay/internal/lab"
)

// datagram sends a question over UDP and returns the first n things that come
// back, undecoded.
func datagram(t *testing.T, w *lab.World, q *dns.Msg, n int) (list [][]byte) {
	t.Helper()
	conn, err := net.Dial("udp", w.DNSServers()[0])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	b, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	conn.Write(b)
	conn.SetReadDeadline(time.Now().Add(patience))
	for range n {
		buf := make([]byte, 65535)
		size, err := conn.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, buf[:size])
	}
	return list
}

func unpack(t *testing.T, b []byte) *dns.Msg {
	t.Helper()
	m := new(dns.Msg)
	if err := m.Unpack(b); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestDNSTellsNoNameFromNoData(t *testing.T) {
	w, _ := start(t)
	w.DNS.Add("deep.below.example.test. 300 IN TXT \"x\"")
	w.DNS.NegativeTTL(7, 9)
	for _, row := range []struct {
		why, name string
		rcode     int
	}{
		{"a name with another type", "deep.below.example.test.", dns.RcodeSuccess},
		{"a name with something below it only", "below.example.test.", dns.RcodeSuccess},
		{"a name with nothing", "other.example.test.", dns.RcodeNameError},
		{"a name below one with records", "x.deep.below.example.test.", dns.RcodeNameError},
	} {
		t.Run(row.why, func(t *testing.T) {
			m := ask(t, w, "udp", row.name, "MX")
			if m.Rcode != row.rcode || len(m.Answer) != 0 {
				t.Fatalf("the answer is %v", m)
			}
			soa := m.Ns[0].(*dns.SOA)
			if soa.Hdr.Ttl != 7 || soa.Minttl != 9 || soa.Hdr.Name != "test." {
				t.Errorf("SOA is %v", soa)
			}
		})
	}
	w.DNS.Add("example.test. 60 IN SOA ns. host. 1 2 3 4 5")
	if soa := ask(t, w, "udp", "other.example.test.", "MX").Ns[0].(*dns.SOA); soa.Hdr.Name != "example.test." || soa.Hdr.Ttl != 60 || soa.Minttl != 5 {
		t.Errorf("a zone's own SOA is given as %v", soa)
	}
}

func TestDNSFollowsCNAMEs(t *testing.T) {
	w, _ := start(t)
	w.DNS.Add("a.test. 300 IN CNAME B.test.\nb.test. 300 IN CNAME c.test.\nc.test. 300 IN TXT \"end\"\nloop.test. 300 IN CNAME loop.test.\nto-nowhere.test. 300 IN CNAME nowhere.test.")
	if m := ask(t, w, "udp", "A.test.", "TXT"); len(m.Answer) != 3 || m.Answer[2].Header().Name != "c.test." {
		t.Errorf("the chain is %v", m.Answer)
	}
	if m := ask(t, w, "udp", "a.test.", "CNAME"); len(m.Answer) != 1 {
		t.Errorf("the CNAME alone is %v", m.Answer)
	}
	if m := ask(t, w, "udp", "to-nowhere.test.", "TXT"); len(m.Answer) != 1 || m.Rcode != dns.RcodeNameError {
		t.Errorf("a CNAME to nowhere is %v", m)
	}
	if m := ask(t, w, "tcp", "loop.test.", "TXT"); len(m.Answer) < 2 {
		t.Errorf("a loop is %v", m)
	}
}

func TestDNSAuthenticatesNames(t *testing.T) {
	w, _ := start(t)
	w.DNS.Add("mx.a.test. 300 IN A 127.0.0.9\nalias.a.test. 300 IN CNAME x.b.test.\nx.b.test. 300 IN A 127.0.0.9\nx.un.a.test. 300 IN A 127.0.0.9")
	w.DNS.Sign("a.test")
	w.DNS.Unsign("un.a.test")
	w.DNS.SetAD(".", true)
	rows := map[string]bool{
		"mx.a.test.":      true,
		"nothing.a.test.": true,
		"alias.a.test.":   false, // its target is not signed
		"x.un.a.test.":    false,
		"x.b.test.":       false,
		"c.test.":         false, // the root's AD is the root's alone
	}
	for name, want := range rows {
		if m := ask(t, w, "udp", name, "A"); m.AuthenticatedData != want {
			t.Errorf("AD of %s is %v", name, m.AuthenticatedData)
		}
	}
	if m := ask(t, w, "udp", ".", "NS"); !m.AuthenticatedData || len(m.Answer) != 1 {
		t.Errorf("the root is %v", m)
	}
	w.DNS.SetAD("x.b.test", true)
	w.DNS.SetAD("mx.a.test", false)
	if !ask(t, w, "udp", "alias.a.test.", "A").AuthenticatedData || ask(t, w, "udp", "mx.a.test.", "A").AuthenticatedData {
		t.Error("SetAD does not rule its name")
	}
	w.DNS.Behave("x.b.test", "A", lab.Behaviour{NoAD: true})
	if ask(t, w, "udp", "x.b.test.", "A").AuthenticatedData {
		t.Error("NoAD leaves AD")
	}
	plain := unpack(t, datagram(t, w, new(dns.Msg).SetQuestion("alias.a.test.", dns.TypeA), 1)[0])
	if plain.AuthenticatedData {
		t.Error("AD is given to who did not ask for it")
	}
}

func TestDNSTruncatesOverUDP(t *testing.T) {
	w, _ := start(t)
	for range 40 {
		w.DNS.Add("big.test. 300 IN TXT \"" + w.NewAddr().String() + strings.Repeat("x", 80) + "\"")
	}
	b := datagram(t, w, new(dns.Msg).SetQuestion("big.test.", dns.TypeTXT).SetEdns0(1232, true), 1)[0]
	if m := unpack(t, b); !m.Truncated || len(m.Answer) == 0 || len(m.Answer) >= 40 || len(b) > 1232 || len(b) < 600 {
		t.Errorf("over UDP: TC %v with %d records in %d bytes", m.Truncated, len(m.Answer), len(b))
	}
	if m := ask(t, w, "tcp", "big.test.", "TXT"); m.Truncated || len(m.Answer) != 40 {
		t.Errorf("over TCP: TC %v with %d records", m.Truncated, len(m.Answer))
	}
	old := new(dns.Msg).SetQuestion("big.test.", dns.TypeTXT)
	if b := datagram(t, w, old, 1)[0]; len(b) > 512 {
		t.Errorf("without EDNS0 the answer has %d bytes", len(b))
	}
	w.DNS.Add("small.test. 300 IN TXT \"x\"")
	w.DNS.Behave("small.test", "TXT", lab.Behaviour{Truncate: true})
	if m := ask(t, w, "udp", "small.test.", "TXT"); !m.Truncated || m.Answer != nil {
		t.Errorf("truncated by will: %v", m)
	}
	if m := ask(t, w, "tcp", "small.test.", "TXT"); m.Truncated || len(m.Answer) != 1 {
		t.Errorf("and over TCP: %v", m)
	}
}

func TestDNSMisbehaves(t *testing.T) {
	const zone = "example.test. 300 IN MX 10 mx.example.test."
	q := new(dns.Msg).SetQuestion("example.test.", dns.TypeMX).SetEdns0(1232, true)
	for _, row := range []struct {
		why  string
		b    lab.Behaviour
		n    int // answers to read
		fits func(t *testing.T, raw [][]byte) bool
	}{
		{"an rcode instead of records", lab.Behaviour{Rcode: "REFUSED"}, 1, func(t *testing.T, raw [][]byte) bool {
			m := unpack(t, raw[0])
			return m.Rcode == dns.RcodeRefused && m.Answer == nil
		}},
		{"an extended error", lab.Behaviour{Rcode: "SERVFAIL", EDE: 7, EDEText: "too old"}, 1, func(t *testing.T, raw [][]byte) bool {
			e, ok := unpack(t, raw[0]).IsEdns0().Option[0].(*dns.EDNS0_EDE)
			return ok && e.InfoCode == 7 && e.ExtraText == "too old"
		}},
		{"a wrong ID", lab.Behaviour{WrongID: true}, 1, func(t *testing.T, raw [][]byte) bool {
			return unpack(t, raw[0]).Id != q.Id
		}},
		{"a wrong ID, then the truth", lab.Behaviour{WrongID: true, AndTruth: true}, 2, func(t *testing.T, raw [][]byte) bool {
			return unpack(t, raw[0]).Id != q.Id && unpack(t, raw[1]).Id == q.Id && len(unpack(t, raw[1]).Answer) == 1
		}},
		{"a wrong question", lab.Behaviour{WrongName: true}, 1, func(t *testing.T, raw [][]byte) bool {
			m := unpack(t, raw[0])
			return m.Id == q.Id && m.Question[0].Name != "example.test."
		}},
		{"a query for an answer", lab.Behaviour{NotReply: true}, 1, func(t *testing.T, raw [][]byte) bool {
			return !unpack(t, raw[0]).Response
		}},
		{"garbage", lab.Behaviour{Garbage: []byte("garbage")}, 1, func(t *testing.T, raw [][]byte) bool {
			return string(raw[0]) == "garbage"
		}},
		{"unasked records", lab.Behaviour{Add: "evil.test. 300 IN A 127.0.0.66"}, 1, func(t *testing.T, raw [][]byte) bool {
			return len(unpack(t, raw[0]).Answer) == 2
		}},
		{"a delay", lab.Behaviour{Delay: time.Millisecond}, 1, func(t *testing.T, raw [][]byte) bool {
			return len(unpack(t, raw[0]).Answer) == 1
		}},
		{"nothing wrong", lab.Behaviour{}, 1, func(t *testing.T, raw [][]byte) bool {
			m := unpack(t, raw[0])
			return m.Id == q.Id && m.Response && len(m.Answer) == 1 && m.RecursionAvailable
		}},
	} {
		t.Run(row.why, func(t *testing.T) {
			w, _ := start(t)
			w.DNS.Add(zone)
			w.DNS.Behave("example.test", "MX", row.b)
			if raw := datagram(t, w, q, row.n); !row.fits(t, raw) {
				t.Errorf("the answers are %q", raw)
			}
		})
	}
}

func TestDNSLacksTheSOAWhenTold(t *testing.T) {
	w, _ := start(t)
	w.DNS.Behave("", "", lab.Behaviour{NoSOA: true})
	if m := ask(t, w, "udp", "no.test.", "A"); m.Ns != nil || m.Rcode != dns.RcodeNameError {
		t.Errorf("the answer is %v", m)
	}
}

// silent fails if a question over UDP is answered. How long it listens can
// only hide a fault, never make one up.
func silent(t *testing.T, w *lab.World, name string) {
	t.Helper()
	c := &dns.Client{Timeout: 100 * time.Millisecond}
	m, _, err := c.Exchange(new(dns.Msg).SetQuestion(name, dns.TypeTXT), w.DNSServers()[0])
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("not silent: %v, %v", m, err)
	}
}

func TestDNSStaysSilentWhenTold(t *testing.T) {
	w, ctx := start(t)
	w.DNS.Add("a.test. 300 IN TXT \"x\"")
	w.DNS.Behave("a.test", "TXT", lab.Behaviour{Times: 1}, lab.Behaviour{Drop: true, Times: 1})
	ask(t, w, "udp", "a.test.", "TXT")
	silent(t, w, "a.test.")
	ask(t, w, "udp", "a.test.", "TXT")
	w.DNS.Down()
	silent(t, w, "a.test.")
	c := &dns.Client{Net: "tcp", Timeout: patience}
	if _, _, err := c.Exchange(new(dns.Msg).SetQuestion("a.test.", dns.TypeTXT), w.DNSServers()[0]); !errors.Is(err, io.EOF) {
		t.Errorf("over TCP a server that is down says %v", err)
	}
	w.DNS.Up()
	ask(t, w, "udp", "a.test.", "TXT")
	if err := w.DNS.WaitQueries(ctx, "a.test", "TXT", 6); err != nil {
		t.Error(err)
	}
}

func TestDNSHangsUpOverTCPWhenTold(t *testing.T) {
	w, _ := start(t)
	w.DNS.Behave("", "", lab.Behaviour{Truncate: true, NoTCP: true})
	if m := ask(t, w, "udp", "a.test.", "TXT"); !m.Truncated {
		t.Errorf("over UDP the answer is %v", m)
	}
	conn, err := net.Dial("tcp", w.DNSServers()[0])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	b, _ := new(dns.Msg).SetQuestion("a.test.", dns.TypeTXT).Pack()
	conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...))
	if got, err := io.ReadAll(conn); err != nil || len(got) != 0 {
		t.Errorf("over TCP came %q and %v", got, err)
	}
}

func TestDNSWaitsUntilToldToGoOn(t *testing.T) {
	w, ctx := start(t)
	w.DNS.Add("a.test. 300 IN TXT \"x\"")
	gate := make(chan struct{})
	w.DNS.Behave("a.test", "", lab.Behaviour{Until: gate})
	answer := make(chan *dns.Msg, 1)
	go func() {
		c := &dns.Client{Timeout: patience}
		m, _, _ := c.Exchange(new(dns.Msg).SetQuestion("a.test.", dns.TypeTXT), w.DNSServers()[0])
		answer <- m
	}()
	if err := w.DNS.WaitQueries(ctx, "a.test", "TXT", 1); err != nil {
		t.Fatal(err)
	}
	select {
	case m := <-answer:
		t.Errorf("an answer before its time: %v", m)
	default:
	}
	close(gate)
	if m := <-answer; m == nil || len(m.Answer) != 1 {
		t.Errorf("the answer is %v", m)
	}
}

func TestDNSCountsQuestions(t *testing.T) {
	w, _ := start(t)
	ask(t, w, "udp", "A.test.", "MX")
	ask(t, w, "tcp", "a.test.", "MX")
	ask(t, w, "udp", "a.test.", "TXT")
	for _, row := range []struct {
		name, typ string
		want      int
	}{{"a.test", "MX", 2}, {"a.test.", "", 3}, {"", "txt", 1}, {"b.test", "", 0}} {
		if n := w.DNS.Queries(row.name, row.typ); n != row.want {
			t.Errorf("%d questions for %q %q", n, row.name, row.typ)
		}
	}
	if l := w.DNS.Log()[1]; l.Net != "tcp" || !l.DO || l.UDPSize != 1232 || l.Name != "a.test." {
		t.Errorf("the second question is logged as %+v", l)
	}
}

func TestDNSRecordsChange(t *testing.T) {
	w, _ := start(t)
	w.DNS.Add("a.test. 300 IN TXT \"1\"\na.test. 300 IN TXT \"1\"\na.test. 300 IN MX 1 m.test.")
	w.DNS.Set("a.test. 60 IN TXT \"2\"")
	if m := ask(t, w, "udp", "a.test.", "TXT"); len(m.Answer) != 1 || m.Answer[0].(*dns.TXT).Txt[0] != "2" || m.Answer[0].Header().Ttl != 60 {
		t.Errorf("after Set: %v", m.Answer)
	}
	w.DNS.SetTXT("a.test", `quote " and \ `+strings.Repeat("y", 300), "two")
	if m := ask(t, w, "udp", "a.test.", "TXT"); len(m.Answer) != 2 || !strings.HasPrefix(m.Answer[0].(*dns.TXT).Txt[0], `quote \" and \\ yy`) || len(m.Answer[0].(*dns.TXT).Txt) != 2 {
		t.Errorf("after SetTXT: %v", m.Answer)
	}
	w.DNS.Remove("a.test", "TXT")
	if m := ask(t, w, "udp", "a.test.", "TXT"); m.Rcode != dns.RcodeSuccess || m.Answer != nil {
		t.Errorf("after Remove of a type: %v", m)
	}
	w.DNS.Remove("a.test", "")
	if m := ask(t, w, "udp", "a.test.", "TXT"); m.Rcode != dns.RcodeNameError {
		t.Errorf("after Remove of all: %v", m)
	}
}

// An answer that is bogus is the resolver's word on signatures, and no failure
// of servers.
func TestDNSIsBogus(t *testing.T) {
	w, _ := start(t)
	w.DNS.Sign("a.test")
	w.DNS.Add("a.test. 300 IN A 127.0.0.1\na.test. 300 IN MX 10 a.test.")
	w.DNS.Bogus("a.test", "MX")
	m := ask(t, w, "udp", "a.test.", "MX")
	e, ok := m.IsEdns0().Option[0].(*dns.EDNS0_EDE)
	if m.Rcode != dns.RcodeServerFailure || m.Answer != nil || !ok || e.InfoCode != dns.ExtendedErrorCodeDNSBogus || e.ExtraText == "" {
		t.Errorf("it answers %v", m)
	}
	if m := ask(t, w, "udp", "a.test.", "A"); len(m.Answer) != 1 || !m.AuthenticatedData {
		t.Errorf("of other types it answers %v", m)
	}
}

func TestDNSSaysWhatATestGotWrong(t *testing.T) {
	w, _ := start(t)
	for why, f := range map[string]func(){
		"zone text": func() { w.DNS.Add("a.test. 300 IN MX mx.test.") },
		"type":      func() { w.DNS.Remove("a.test", "MIX") },
		"rcode":     func() { w.DNS.Fail("a.test", "MX", "OUCH") },
	} {
		t.Run(why, func(t *testing.T) {
			defer func() {
				if s, _ := recover().(string); !strings.Contains(s, why) {
					t.Errorf("it says %q", s)
				}
			}()
			f()
		})
	}
}
