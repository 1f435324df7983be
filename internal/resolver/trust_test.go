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
	t.Run("an untrusted answer does not take the place of a trusted server's SERVFAIL", func(t *testing.T) {
		trusted, forger := startServer(t), startServer(t, "example.test. 300 IN MX 10 forged.test.")
		trusted.handle(code(dns.RcodeServerFailure, 0, ""))
		d := mapDialer{to: map[string]netip.AddrPort{abroad.String(): forger.addr}}
		c := newClient(t, Options{Servers: []netip.AddrPort{trusted.addr, abroad}, Dialer: d})
		_, err := c.MX(t.Context(), example)
		wantFailed(t, err)
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
		if err := newClient(t, Options{}, good, bad).SelfTest(t.Context()); err == nil || !strings.Contains(err.Error(), bad.addr.String()) {
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
	t.Run("nobody answering fails it", func(t *testing.T) {
		s := startServer(t)
		s.handle(silence)
		if err := newClient(t, Options{Timeout: quick}, s).SelfTest(t.Context()); err == nil {
			t.Fatal("passed")
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

