package delivery

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/internal/resolver"
)

// ee is a usable record.
var ee = resolver.TLSA{Usage: 3, Selector: 1, Matching: 1, Data: bytes.Repeat([]byte{1}, 32)}

func TestUsableTLSA(t *testing.T) {
	ca := newCA(t)
	key := ca.cert.RawSubjectPublicKeyInfo
	sum := func(n int) []byte { return bytes.Repeat([]byte{7}, n) }
	tests := []struct {
		name string
		r    resolver.TLSA
		want bool
	}{
		{"TLSA-6-01 3 1 1", resolver.TLSA{Usage: 3, Selector: 1, Matching: 1, Data: sum(32)}, true},
		{"TLSA-6-01 3 0 1", resolver.TLSA{Usage: 3, Selector: 0, Matching: 1, Data: sum(32)}, true},
		{"TLSA-6-01 DANE71-2-01 3 1 2", resolver.TLSA{Usage: 3, Selector: 1, Matching: 2, Data: sum(64)}, true},
		{"TLSA-6-01 3 0 0", resolver.TLSA{Usage: 3, Selector: 0, Matching: 0, Data: sum(1)}, true},
		{"TLSA-6-01 2 0 1", resolver.TLSA{Usage: 2, Selector: 0, Matching: 1, Data: sum(32)}, true},
		{"TLSA-6-01 2 0 0", resolver.TLSA{Usage: 2, Selector: 0, Matching: 0, Data: ca.cert.Raw}, true},
		{"TLSA-6-01 2 1 0", resolver.TLSA{Usage: 2, Selector: 1, Matching: 0, Data: key}, true},
		{"DANE-3.1-01 DANE71-4-01 PKIX-TA", resolver.TLSA{Usage: 0, Selector: 1, Matching: 1, Data: sum(32)}, false},
		{"DANE-3.1-01 DANE71-4-01 PKIX-EE", resolver.TLSA{Usage: 1, Selector: 1, Matching: 1, Data: sum(32)}, false},
		{"TLSA-4.1-02 an unknown usage", resolver.TLSA{Usage: 4, Selector: 1, Matching: 1, Data: sum(32)}, false},
		{"TLSA-4.1-02 TLSA-2.1-02 the private usage", resolver.TLSA{Usage: 255, Selector: 1, Matching: 1, Data: sum(32)}, false},
		{"TLSA-4.1-02 an unknown selector", resolver.TLSA{Usage: 3, Selector: 7, Matching: 1, Data: sum(32)}, false},
		{"TLSA-4.1-02 an unknown matching type", resolver.TLSA{Usage: 3, Selector: 1, Matching: 9, Data: sum(32)}, false},
		{"TLSA-4.1-02 TLSA-2.1-04 SHA-256 of 20 octets", resolver.TLSA{Usage: 3, Selector: 1, Matching: 1, Data: sum(20)}, false},
		{"TLSA-4.1-02 TLSA-2.1-04 SHA-512 of 32 octets", resolver.TLSA{Usage: 3, Selector: 1, Matching: 2, Data: sum(32)}, false},
		{"TLSA-2.1-01 no data", resolver.TLSA{Usage: 3, Selector: 0, Matching: 0}, false},
		{"TLSA-4.1-02 an authority in full that is no certificate", resolver.TLSA{Usage: 2, Selector: 0, Matching: 0, Data: sum(99)}, false},
		{"TLSA-4.1-02 an authority's key in full that is none", resolver.TLSA{Usage: 2, Selector: 1, Matching: 0, Data: ca.cert.Raw}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := usableTLSA(tt.r); got != tt.want {
				t.Errorf("%v usable: %v", tt.r, got)
			}
		})
	}
}

func TestDigestAgility(t *testing.T) {
	r := func(usage, selector, matching uint8, n int) resolver.TLSA {
		return resolver.TLSA{Usage: usage, Selector: selector, Matching: matching, Data: bytes.Repeat([]byte{9}, n)}
	}
	tests := []struct {
		name     string
		in, want []resolver.TLSA
	}{
		{"DANE71-9-01 DANE71-9-02 the strongest digest and what is in full", []resolver.TLSA{r(3, 1, 0, 5), r(3, 1, 1, 32), r(3, 1, 2, 64)}, []resolver.TLSA{r(3, 1, 0, 5), r(3, 1, 2, 64)}},
		{"DANE71-9-01 for each usage and selector", []resolver.TLSA{r(2, 1, 2, 64), r(3, 0, 2, 64), r(3, 1, 1, 32)}, []resolver.TLSA{r(2, 1, 2, 64), r(3, 0, 2, 64), r(3, 1, 1, 32)}},
		{"DANE71-9-01 malformed records go first", []resolver.TLSA{r(3, 1, 1, 32), r(3, 1, 2, 20)}, []resolver.TLSA{r(3, 1, 1, 32)}},
		{"DANE71-9-01 full alone displaces no digest", []resolver.TLSA{r(3, 1, 0, 5), r(3, 1, 1, 32)}, []resolver.TLSA{r(3, 1, 0, 5), r(3, 1, 1, 32)}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := strongestTLSA(tt.in); !slices.EqualFunc(got, tt.want, sameTLSA) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

// tlsaZone is example.com with one MX host, mx.example, whose records the table
// shapes.
func tlsaZone() *planWorld {
	return &planWorld{
		mx: mxOf("example.com", "10 mx.example"), secure: true,
		ips:    map[string][]netip.Addr{"mx.example": {netip.MustParseAddr("192.0.2.1")}},
		signed: map[string]bool{"mx.example": true}, zone: map[string]zoneAnswer{}, alias: map[string][]string{},
	}
}

func mxOf(domain string, records ...string) map[string][]resolver.MX {
	return map[string][]resolver.MX{domain: mxRecords(records...)}
}

const tlsaName = "TLSA _25._tcp."

func TestPlanTLSA(t *testing.T) {
	secure := zoneAnswer{tlsa: []resolver.TLSA{ee}, secure: true}
	pkix := zoneAnswer{tlsa: []resolver.TLSA{{Usage: 1, Selector: 1, Matching: 1, Data: ee.Data}}, secure: true}
	servfail := &resolver.Failed{Name: "_25._tcp.mx.example", Type: "TLSA", Err: errors.New("SERVFAIL")}
	bogus := &resolver.Bogus{Name: "_25._tcp.mx.example", Type: "TLSA", EDE: "DNSSEC Bogus: signature expired"}
	tests := []struct {
		name  string
		shape func(w *planWorld)
		hop   string // "": example.com
		state TLSAState
		base  string
		names string // reference identifiers
		asked string // TLSA and CNAME questions, in order
	}{
		{name: "DANE-2.2.2-04 DANE-2.2.3-01 TLSA-3-01 the name of the host is the base domain", shape: func(w *planWorld) { w.zone[tlsaName+"mx.example"] = secure },
			state: TLSAUsable, base: "mx.example", names: "mx.example example.com", asked: "TLSA _25._tcp.mx.example"},
		{name: "DANE-2.1.1-04 DANE-2.2.1-07 a denial is an answer", shape: func(w *planWorld) {
			w.zone[tlsaName+"mx.example"] = zoneAnswer{secure: true, err: resolver.ErrNXDomain}
		}, asked: "TLSA _25._tcp.mx.example"},
		{name: "DANE-2.1.2-03 DANE-2.2-04 a failed lookup", shape: func(w *planWorld) { w.zone[tlsaName+"mx.example"] = zoneAnswer{err: servfail} },
			state: TLSAFailed, asked: "TLSA _25._tcp.mx.example"},
		{name: "DANE-2.1.1-03 TLSA-4.1-01 a bogus answer", shape: func(w *planWorld) { w.zone[tlsaName+"mx.example"] = zoneAnswer{err: bogus} },
			state: TLSAFailed, asked: "TLSA _25._tcp.mx.example"},
		{name: "DANE-2.2-02 DANE-2.2.3-04 no record of it usable", shape: func(w *planWorld) { w.zone[tlsaName+"mx.example"] = pkix },
			state: TLSAUnusable, base: "mx.example", names: "mx.example example.com", asked: "TLSA _25._tcp.mx.example"},
		{name: "DANE-2.2-03 TLSA-4.1-01 insecure records are none", shape: func(w *planWorld) { w.zone[tlsaName+"mx.example"] = zoneAnswer{tlsa: []resolver.TLSA{ee}} },
			asked: "TLSA _25._tcp.mx.example"},
		{name: "DANE-2.2.2-02 no TLSA query where the addresses are insecure", shape: func(w *planWorld) {
			w.signed = nil
			w.zone[tlsaName+"mx.example"] = zoneAnswer{err: servfail}
		}},
		{name: "DANE-2.2.2-03 no TLSA query where there is no address", shape: func(w *planWorld) { w.ips["mx.example"] = nil }},
		{name: "SMTP-5.1-06 DANE-2.2.2-06 DANE-2.2.3-03 DANE-2.2.2-07 DANE71-7-01 of an alias the end comes first", shape: func(w *planWorld) {
			w.alias["mx.example"] = []string{"b.example", "c.example"}
			w.zone[tlsaName+"c.example"], w.zone[tlsaName+"mx.example"] = secure, secure
		}, state: TLSAUsable, base: "c.example", names: "c.example example.com", asked: "TLSA _25._tcp.c.example"},
		{name: "DANE-2.2.2-06 DANE-2.2.3-02 and then the alias, never what is between", shape: func(w *planWorld) {
			w.alias["mx.example"] = []string{"b.example", "c.example"}
			w.zone[tlsaName+"b.example"], w.zone[tlsaName+"mx.example"] = secure, secure
		}, state: TLSAUsable, base: "mx.example", names: "mx.example example.com", asked: "TLSA _25._tcp.c.example, TLSA _25._tcp.mx.example"},
		{name: "DANE-2.1.2-03 the second candidate does not make good for an error at the first", shape: func(w *planWorld) {
			w.alias["mx.example"] = []string{"c.example"}
			w.zone[tlsaName+"c.example"], w.zone[tlsaName+"mx.example"] = zoneAnswer{err: servfail}, secure
		}, state: TLSAFailed, asked: "TLSA _25._tcp.c.example"},
		{name: "DANE-2.1.3-03 DANE-2.2.2-05 an insecure end behind a secure alias", shape: func(w *planWorld) {
			w.signed, w.alias["mx.example"] = nil, []string{"c.example"}
			w.zone["CNAME mx.example"] = zoneAnswer{secure: true}
			w.zone[tlsaName+"c.example"], w.zone[tlsaName+"mx.example"] = secure, secure
		}, state: TLSAUsable, base: "mx.example", names: "mx.example example.com", asked: "CNAME mx.example, TLSA _25._tcp.mx.example"},
		{name: "DANE-2.2.2-05 an insecure end behind an insecure alias", shape: func(w *planWorld) {
			w.signed, w.alias["mx.example"] = nil, []string{"c.example"}
			w.zone[tlsaName+"mx.example"] = secure
		}, asked: "CNAME mx.example"},
		{name: "DANE-2.1.2-03 whether the alias is secure cannot be told", shape: func(w *planWorld) {
			w.signed, w.alias["mx.example"] = nil, []string{"c.example"}
			w.zone["CNAME mx.example"] = zoneAnswer{err: servfail}
		}, state: TLSAFailed, asked: "CNAME mx.example"},
		{name: "DANE-2.2.1-05 DANE-3.2.2-03 insecure MX records: DANE for the host, and no other name", shape: func(w *planWorld) {
			w.secure, w.zone[tlsaName+"mx.example"] = false, secure
		}, state: TLSAUsable, base: "mx.example", names: "mx.example", asked: "TLSA _25._tcp.mx.example"},
		{name: "DANE-2.2.1-03 DANE-3.2.2-02 the domain is an alias: its end is a name too", shape: func(w *planWorld) {
			w.canonical, w.zone[tlsaName+"mx.example"] = "mail.example.net", secure
		}, state: TLSAUsable, base: "mx.example", names: "mx.example example.com mail.example.net", asked: "TLSA _25._tcp.mx.example"},
		{name: "DANE-2.2.2-08 a domain without MX records is its own host", hop: "direct.example", shape: func(w *planWorld) {
			w.ips["direct.example"], w.signed["direct.example"] = w.ips["mx.example"], true
			w.zone[tlsaName+"direct.example"] = secure
		}, state: TLSAUsable, base: "direct.example", names: "direct.example", asked: "TLSA _25._tcp.direct.example"},
		{name: "DANE-3.2.2-04 and where it is an alias, the domain is a name beside the base domain", hop: "direct.example", shape: func(w *planWorld) {
			w.ips["direct.example"], w.signed["direct.example"] = w.ips["mx.example"], true
			w.alias["direct.example"] = []string{"host.example"}
			w.zone[tlsaName+"host.example"] = secure
		}, state: TLSAUsable, base: "host.example", names: "host.example direct.example", asked: "TLSA _25._tcp.host.example"},
		{name: "DANE-2.2.3-01 the port is the one in use", hop: "[mx.example]:2525", shape: func(w *planWorld) { w.zone["TLSA _2525._tcp.mx.example"] = secure },
			state: TLSAUsable, base: "mx.example", names: "mx.example", asked: "TLSA _2525._tcp.mx.example"},
		{name: "DANE-2.2-06 an address literal has none", hop: "[192.0.2.1]", shape: func(*planWorld) {}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := tlsaZone()
			tt.shape(w)
			hop := tt.hop
			if hop == "" {
				hop = "example.com"
			}
			p, _ := planTo(t, w.client(), hop)
			f := p.Hosts[0].Facts
			var names []string
			for _, n := range f.Names {
				names = append(names, n.String())
			}
			if f.TLSA != tt.state || f.TLSABase.String() != tt.base || strings.Join(names, " ") != tt.names {
				t.Errorf("%v at %q under %v, want %v at %q under %s", f.TLSA, f.TLSABase, names, tt.state, tt.base, tt.names)
			}
			if (f.TLSA == TLSAFailed) != (f.TLSAErr != nil) || f.Bogus != (f.TLSAErr == error(bogus)) {
				t.Errorf("error %v, bogus %v", f.TLSAErr, f.Bogus)
			}
			if got := w.questions("TLSA ", "CNAME "); strings.Join(got, ", ") != tt.asked {
				t.Errorf("asked %v, want %s", got, tt.asked)
			}
		})
	}
	t.Run("DANE-2.1.2-03 the error is told in full, with what the resolver says of it", func(t *testing.T) {
		w := tlsaZone()
		w.zone[tlsaName+"mx.example"] = zoneAnswer{err: bogus}
		p, _ := planTo(t, w.client(), "example.com")
		d := p.Hosts[0].Decide(Default)
		if d.Skip == nil || d.Skip.Reason != DNSBogus || !strings.Contains(d.Skip.Text, "signature expired") {
			t.Errorf("%v", d.Skip)
		}
	})
	t.Run("DANE-2.2.2-01 X-01 MX, addresses, TLSA: in this order", func(t *testing.T) {
		w := tlsaZone()
		w.zone[tlsaName+"mx.example"] = secure
		planTo(t, w.client(), "example.com")
		if got := strings.Join(w.questions("MX ", "A ", "TLSA "), ", "); got != "MX example.com, A mx.example, TLSA _25._tcp.mx.example" {
			t.Error(got)
		}
	})
	t.Run("DANE-2.2.1-01 DANE-2.2.1-02 each host has its own records, and they change no order", func(t *testing.T) {
		w := tlsaZone()
		w.mx = mxOf("example.com", "10 a.example", "20 mx.example")
		w.ips["a.example"], w.signed["a.example"] = w.ips["mx.example"], true
		w.zone[tlsaName+"mx.example"] = secure
		p, _ := planTo(t, w.client(), "example.com")
		if planText(p) != "a.example 192.0.2.1; mx.example 192.0.2.1" || p.Hosts[0].Facts.TLSA != TLSAAbsent || p.Hosts[1].Facts.TLSA != TLSAUsable {
			t.Errorf("%s: %v %v", planText(p), p.Hosts[0].Facts.TLSA, p.Hosts[1].Facts.TLSA)
		}
		if got := w.questions("TLSA "); len(got) != 2 {
			t.Errorf("asked %v", got)
		}
	})
	t.Run("equal sets are equal in any order", func(t *testing.T) {
		other := resolver.TLSA{Usage: 2, Selector: 1, Matching: 1, Data: ee.Data}
		a, b := foundTLSA(addr.Host{}, resolver.Answer[resolver.TLSA]{Records: []resolver.TLSA{ee, other}}), foundTLSA(addr.Host{}, resolver.Answer[resolver.TLSA]{Records: []resolver.TLSA{other, ee}})
		if !slices.EqualFunc(a.records, b.records, sameTLSA) {
			t.Errorf("%v, %v", a.records, b.records)
		}
	})
	t.Run("TLSA-8.2-01 the Plan is not followed beyond the TTL of the records", func(t *testing.T) {
		w := tlsaZone()
		w.zone[tlsaName+"mx.example"] = zoneAnswer{tlsa: []resolver.TLSA{ee}, secure: true, expires: time.Now().Add(-time.Second)}
		p, _ := planTo(t, w.client(), "example.com")
		if c := (&course{Plan: p, made: time.Now()}); !c.old() {
			t.Error("followed")
		}
		w.zone[tlsaName+"mx.example"] = zoneAnswer{tlsa: []resolver.TLSA{ee}, secure: true, expires: time.Now().Add(time.Hour)}
		p, _ = planTo(t, w.client(), "example.com")
		if c := (&course{Plan: p, made: time.Now()}); c.old() {
			t.Error("not followed")
		}
	})
}

// A memory remembers hosts.
type memory map[addr.Host]bool

func (m memory) SawTLSA(h addr.Host, _ time.Time)      { m[h] = true }
func (m memory) HadTLSA(h addr.Host, _ time.Time) bool { return m[h] }
func (m memory) ForgetTLSA(h addr.Host)                { delete(m, h) }

func TestWithoutValidation(t *testing.T) {
	mx := addr.MustHost("mx.example")
	seen := memory{}
	validates := true
	w := tlsaZone()
	c := w.client(func(o *Options) { o.Validating, o.Seen = func() bool { return validates }, seen })
	plan := func() Facts {
		p, _ := planTo(t, c, "example.com")
		return p.Hosts[0].Facts
	}
	w.zone[tlsaName+"mx.example"] = zoneAnswer{tlsa: []resolver.TLSA{ee}, secure: true}
	if f := plan(); f.TLSA != TLSAUsable || !seen[mx] {
		t.Fatalf("%v, remembered %v", f.TLSA, seen)
	}
	validates = false
	t.Run("DANE-2.1.1-01 a host that is known for its records waits, and no name is secure", func(t *testing.T) {
		f := plan()
		if f.TLSA != TLSAFailed || f.MXSecure || f.Bogus {
			t.Errorf("%v, MX secure %v, bogus %v", f.TLSA, f.MXSecure, f.Bogus)
		}
		d := Decide(f)
		if d.Skip == nil || d.Skip.Reason != NotValidating || !strings.Contains(d.Skip.Text, "does not validate") {
			t.Errorf("%v", d.Skip)
		}
	})
	t.Run("DANE-2.1.1-01 others go on without DANE, and nothing is asked", func(t *testing.T) {
		delete(seen, mx)
		before := len(w.questions("TLSA "))
		if f := plan(); f.TLSA != TLSAAbsent || len(w.questions("TLSA ")) != before {
			t.Errorf("%v after %d questions", f.TLSA, len(w.questions("TLSA "))-before)
		}
	})
	validates = true
	t.Run("DANE-2.1.1-01 insecure answers about a host that is known for its records have the resolver tested at once", func(t *testing.T) {
		asked := 0
		c := w.client(func(o *Options) {
			o.Seen, o.Revalidate = seen, func(context.Context) bool { asked++; return false }
		})
		insecure := tlsaZone()
		insecure.signed = nil
		c.options.Resolver = insecure
		plan := func() Facts {
			p, _ := planTo(t, c, "example.com")
			return p.Hosts[0].Facts
		}
		delete(seen, mx)
		if f := plan(); f.TLSA != TLSAAbsent || asked != 0 {
			t.Errorf("of a host that is not known: %v after %d tests", f.TLSA, asked)
		}
		seen[mx] = true
		if f := plan(); f.TLSA != TLSAFailed || asked != 1 {
			t.Errorf("of one that is known: %v after %d tests", f.TLSA, asked)
		}
		c.options.Revalidate = func(context.Context) bool { return true }
		if f := plan(); f.TLSA != TLSAAbsent {
			t.Errorf("where the resolver is sound: %v", f.TLSA)
		}
	})
	t.Run("DANE-2.1.1-01 only a secure denial is believed to mean that there are none any more", func(t *testing.T) {
		seen[mx] = true
		w.zone[tlsaName+"mx.example"] = zoneAnswer{err: resolver.ErrNXDomain}
		if plan(); !seen[mx] {
			t.Error("an insecure denial was believed")
		}
		w.signed["mx.example"] = false
		if plan(); !seen[mx] {
			t.Error("insecure addresses were believed")
		}
		w.signed["mx.example"] = true
		w.zone[tlsaName+"mx.example"] = zoneAnswer{err: resolver.ErrNXDomain, secure: true}
		if plan(); seen[mx] {
			t.Error("a secure denial was not believed")
		}
	})
}
