package resolver

import (
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// FuzzReply feeds any bytes to the reader of replies: it must not panic, must
// not accept a reply to another question, and must not let other names' records
// through.
func FuzzReply(f *testing.F) {
	for _, lines := range [][]string{
		{"a.test. 300 IN TXT x"}, {"a.test. 1 IN CNAME b.test.", "b.test. 2 IN TXT y z"}, {"a.test. 1 IN CNAME a.test."},
		{"test. 900 IN SOA ns.test. h.test. 1 2 3 4 300"}, {"a.test. 9 IN MX 1 .", "a.test. 9 IN TLSA 3 1 1 abcd"}, {"a.test. 1 IN A 192.0.2.1"},
	} {
		m := new(dns.Msg)
		m.SetQuestion("a.test.", dns.TypeTXT)
		m.Id, m.Response = 7, true
		m.SetEdns0(1232, true)
		m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_EDE{InfoCode: 6, ExtraText: "x\n"}}
		for _, line := range lines {
			rr, _ := dns.NewRR(line)
			m.Answer = append(m.Answer, rr)
			m.Ns = append(m.Ns, rr)
		}
		f.Add(packed(m), dns.TypeTXT)
		f.Add(packed(m), dns.TypeMX)
	}
	f.Fuzz(func(t *testing.T, b []byte, qtype uint16) {
		q := question{"a.test.", qtype}
		m, err := parseReply(b, q, 7)
		if err != nil {
			return
		}
		if m.Id != 7 || !m.Response || len(m.Question) != 1 || m.Question[0].Qtype != qtype || !strings.EqualFold(m.Question[0].Name, q.name) {
			t.Fatalf("accepted %v for %v", m, q)
		}
		ede, _ := extendedError(m)
		if strings.ContainsFunc(ede, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Fatalf("extended error is not printable: %q", ede)
		}
		_ = usable(m)
		ch := newChain(q)
		if _, err := ch.add(m, true, noon); err != nil {
			return
		}
		if len(ch.links) > maxLinks || ch.expires.Before(noon) || ch.expires.After(noon.Add(maxTTL)) {
			t.Fatalf("%+v", ch)
		}
		for _, rr := range ch.records {
			if lower(rr.Header().Name) != ch.name || rr.Header().Rrtype != qtype {
				t.Fatalf("%v is no record of %s", rr, ch.name)
			}
			readMX(rr)
			readTXT(rr)
			readTLSA(rr)
			readAddr(rr)
			readCNAME(rr)
		}
	})
}

// FuzzUnescape packs any bytes as a TXT record and reads them back.
func FuzzUnescape(f *testing.F) {
	for _, s := range []string{"v=STSv1; id=1;", `a"b\c`, `\065`, "\x00\xff\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, want []byte) {
		want = want[:min(len(want), 255)]
		wire := append([]byte{1, 'a', 0, 0, 16, 0, 1, 0, 0, 0, 0, 0, byte(len(want) + 1), byte(len(want))}, want...)
		if len(want) == 255 {
			wire[11], wire[12] = 1, 0
		}
		rr, _, err := dns.UnpackRR(wire, 0)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := readTXT(rr); !ok || got != string(want) {
			t.Errorf("%q came back as %q", want, got)
		}
	})
}
