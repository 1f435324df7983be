package resolver

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

func TestBogus(t *testing.T) {
	for _, ede := range []uint16{6, 7, 8, 9, 10, 11, 12, 25} {
		s, other := startServer(t), startServer(t, "example.test. 300 IN MX 10 forged.test.")
		s.handle(code(dns.RcodeServerFailure, ede, "says the validator"))
		_, err := newClient(t, Options{}, s, other).MX(t.Context(), example)
		bogus, ok := errors.AsType[*Bogus](err)
		if !ok {
			t.Fatalf("EDE %d: error is %v, want a *Bogus", ede, err)
		}
		if bogus.Name != "example.test" || bogus.Type != "MX" || !strings.Contains(bogus.EDE, "says the validator") {
			t.Errorf("EDE %d: %+v", ede, bogus)
		}
	}
}

// abroad is a server that is not on this machine, as far as the client knows.
var abroad = netip.MustParseAddrPort("192.0.2.53:53")

func TestTrust(t *testing.T) {
	secured := func(t *testing.T) *fakeServer {
		s := startServer(t, "example.test. 300 IN MX 10 mx.test.")
		s.sign("example.test.")
		return s
	}
	t.Run("AD of a loopback server counts", func(t *testing.T) {
		if a, err := newClient(t, Options{}, secured(t)).MX(t.Context(), example); err != nil || !a.Secure {
			t.Fatalf("secure %v, %v", a.Secure, err)
		}
	})
	t.Run("DANE-2.1.1-02 AD of another server does not count", func(t *testing.T) {
		d := mapDialer{to: map[string]netip.AddrPort{abroad.String(): secured(t).addr}}
		c := newClient(t, Options{Servers: []netip.AddrPort{abroad}, Dialer: d})
		a, err := c.MX(t.Context(), example)
		if err != nil || len(a.Records) != 1 || a.Secure {
			t.Fatalf("secure %v, %v; want an insecure answer", a.Secure, err)
		}
	})
	t.Run("DANE-2.1.1-02 AD of another server counts where the operator says so", func(t *testing.T) {
		d := mapDialer{to: map[string]netip.AddrPort{abroad.String(): secured(t).addr}}
		c := newClient(t, Options{Servers: []netip.AddrPort{abroad}, Dialer: d, TrustAD: true})
		if a, err := c.MX(t.Context(), example); err != nil || !a.Secure {
			t.Fatalf("secure %v, %v", a.Secure, err)
		}
	})
	t.Run("an answer without AD is insecure", func(t *testing.T) {
		s := startServer(t, "example.test. 300 IN MX 10 mx.test.")
		if a, err := newClient(t, Options{}, s).MX(t.Context(), example); err != nil || a.Secure {
			t.Fatalf("secure %v, %v", a.Secure, err)
		}
	})
}

// TestFallback is about a trusted server beside one that is not.
func TestFallback(t *testing.T) {
	garbled := func(_ string, q *dns.Msg) [][]byte {
		m := new(dns.Msg)
		m.SetReply(q)
		rr, _ := dns.NewRR("example.test. 300 IN MX 10 mx.test.")
		m.Answer = []dns.RR{rr}
		b := packed(m)
		return [][]byte{b[:len(b)-3]}
	}
	tests := map[string]struct {
		trusted func(string, *dns.Msg) [][]byte
		asked   bool
	}{
		"DANE-2.1.1-04 SERVFAIL is not replaced by an untrusted answer":          {code(dns.RcodeServerFailure, 0, ""), false},
		"DANE-2.1.1-04 silence is not replaced by an untrusted answer":           {silence, false},
		"DANE-2.1.1-04 a malformed reply is not replaced by an untrusted answer": {garbled, false},
		"where the trusted server refuses us another may answer":                 {code(dns.RcodeRefused, 0, ""), true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			trusted, other := startServer(t), startServer(t, "example.test. 300 IN MX 10 unvalidated.test.")
			trusted.handle(tt.trusted)
			d := mapDialer{to: map[string]netip.AddrPort{abroad.String(): other.addr}}
			c := newClient(t, Options{Servers: []netip.AddrPort{abroad, trusted.addr}, Dialer: d, Timeout: quick})
			_, err := c.MX(t.Context(), example)
			if (err == nil) != tt.asked || (other.total() > 0) != tt.asked {
				t.Errorf("%v, %d queries to the other", err, other.total())
			}
			if trusted.total() == 0 {
				t.Error("the trusted server was not asked first")
			}
		})
	}
	t.Run("where the trusted server is not there another may answer, insecurely", func(t *testing.T) {
		other := startServer(t, "example.test. 300 IN MX 10 unvalidated.test.")
		other.sign("example.test.")
		tcp, udp := listen(t)
		gone := netip.MustParseAddrPort(udp.LocalAddr().String())
		tcp.Close()
		udp.Close()
		d := mapDialer{to: map[string]netip.AddrPort{abroad.String(): other.addr}}
		c := newClient(t, Options{Servers: []netip.AddrPort{gone, abroad}, Dialer: d})
		a, err := c.MX(t.Context(), example)
		if err != nil || len(a.Records) != 1 || a.Secure {
			t.Errorf("%+v, %v", a, err)
		}
	})
}

func TestSelfTest(t *testing.T) {
	root := ". 300 IN NS a.root-servers.net."
	t.Run("a validating loopback server passes", func(t *testing.T) {
		s := startServer(t, root)
		s.sign(".")
		if err := newClient(t, Options{}, s).SelfTest(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("a server that does not validate fails it, even beside one that does", func(t *testing.T) {
		good, bad := startServer(t, root), startServer(t, root)
		good.sign(".")
		err := newClient(t, Options{}, good, bad).SelfTest(t.Context())
		if err == nil || errors.Is(err, ErrNoAnswer) || !strings.Contains(err.Error(), bad.addr.String()) {
			t.Fatalf("error is %v", err)
		}
	})
	t.Run("a server that is silent beside a good one is passed over", func(t *testing.T) {
		good, bad := startServer(t, root), startServer(t)
		good.sign(".")
		bad.handle(silence)
		if err := newClient(t, Options{Timeout: quick}, bad, good).SelfTest(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("nobody answering fails it, and says nothing about validation", func(t *testing.T) {
		for what, answer := range map[string]func(string, *dns.Msg) [][]byte{
			"silence": silence, "SERVFAIL": code(dns.RcodeServerFailure, 0, ""), "REFUSED": code(dns.RcodeRefused, 0, ""),
		} {
			s := startServer(t)
			s.handle(answer)
			if err := newClient(t, Options{Timeout: quick}, s).SelfTest(t.Context()); !errors.Is(err, ErrNoAnswer) {
				t.Errorf("%s: %v", what, err)
			}
		}
	})
	t.Run("DANE-2.1.1-02 a server elsewhere fails it without trust_ad", func(t *testing.T) {
		s := startServer(t, root)
		s.sign(".")
		d := mapDialer{to: map[string]netip.AddrPort{abroad.String(): s.addr}}
		c := newClient(t, Options{Servers: []netip.AddrPort{abroad}, Dialer: d})
		if err := c.SelfTest(t.Context()); err == nil || !strings.Contains(err.Error(), "trust_ad") {
			t.Fatalf("error is %v", err)
		}
	})
}
