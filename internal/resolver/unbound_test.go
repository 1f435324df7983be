package resolver

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"stsrelay/internal/addr"
	"stsrelay/internal/unboundtest"
)

const (
	secureZone = `
@        MX    10 mx
mx       A     192.0.2.1
mx       AAAA  2001:db8::1
_25._tcp.mx    TLSA  3 1 1 0102
text     TXT   "no address here"
inside   CNAME mx
outside  CNAME mx.insecure.test.
broken   CNAME mx.altered.test.
_25._tcp.text  TXT   "no TLSA here"
_25._tcp.near  CNAME _25._tcp.mx
_25._tcp.far   CNAME _25._tcp.mx.insecure.test.
`
	insecureZone = `
@        MX    10 mx
mx       A     192.0.2.2
_25._tcp.mx    TLSA  3 1 1 0304
outside  CNAME mx.secure.test.
_25._tcp.far   CNAME _25._tcp.mx.secure.test.
`
	otherZone = "@ MX 10 mx\nmx A 192.0.2.3\n"
)

func signedDNS(t *testing.T) *unboundtest.DNS {
	t.Helper()
	return unboundtest.Serve(t,
		unboundtest.Zone{Name: "secure.test.", Text: secureZone},
		unboundtest.Zone{Name: "insecure.test.", State: unboundtest.Insecure, Text: insecureZone},
		unboundtest.Zone{Name: "altered.test.", State: unboundtest.Altered, Text: otherZone},
		unboundtest.Zone{Name: "expired.test.", State: unboundtest.Expired, Text: otherZone},
		unboundtest.Zone{Name: "early.test.", State: unboundtest.Early, Text: otherZone},
		unboundtest.Zone{Name: "unsigned.test.", State: unboundtest.Unsigned, Text: otherZone},
		unboundtest.Zone{Name: "keyless.test.", State: unboundtest.Keyless, Text: otherZone},
		unboundtest.Zone{Name: "failing.test.", State: unboundtest.Failing, Text: otherZone},
		unboundtest.Zone{Name: "dead.test.", State: unboundtest.Dead, Text: otherZone},
	)
}

func clientOf(t *testing.T, at netip.AddrPort, o Options) *Client {
	t.Helper()
	o.Servers = []netip.AddrPort{at}
	return newClient(t, o)
}

// TestUnbound reads what a real validating resolver says of real signatures.
func TestUnbound(t *testing.T) {
	at := signedDNS(t).Unbound(t, unboundtest.Validating)
	c := clientOf(t, at, Options{})

	t.Run("it passes the self-test", func(t *testing.T) {
		if err := c.SelfTest(t.Context()); err != nil {
			t.Error(err)
		}
	})
	t.Run("DANE-2.1.1-03 what is signed is secure", func(t *testing.T) {
		mx, err := c.MX(t.Context(), addr.MustDomain("secure.test"))
		if err != nil || !mx.Secure || len(mx.Records) != 1 || mx.Records[0].Name != "mx.secure.test" {
			t.Errorf("MX: %+v, %v", mx, err)
		}
		a, err := c.Addresses(t.Context(), addr.MustHost("mx.secure.test"))
		if err != nil || !a.Secure || len(a.Records) != 2 || a.Failed != nil {
			t.Errorf("addresses: %+v, %v", a, err)
		}
		wantTLSA(t, c, "mx.secure.test", "3 1 1 0102", true)
	})
	t.Run("DANE-2.1.1-03 what is under an unsigned delegation is insecure, and no error", func(t *testing.T) {
		mx, err := c.MX(t.Context(), addr.MustDomain("insecure.test"))
		if err != nil || mx.Secure || len(mx.Records) != 1 {
			t.Errorf("MX: %+v, %v", mx, err)
		}
		a, err := c.Addresses(t.Context(), addr.MustHost("mx.insecure.test"))
		if err != nil || a.Secure || len(a.Records) != 1 {
			t.Errorf("addresses: %+v, %v", a, err)
		}
		wantTLSA(t, c, "mx.insecure.test", "3 1 1 0304", false)
	})
	bogus := map[string]string{
		"altered.test":  "DNSSEC Bogus",
		"expired.test":  "Signature Expired",
		"early.test":    "Signature Not Yet Valid",
		"unsigned.test": "RRSIGs Missing",
	}
	for domain, want := range bogus {
		t.Run("DANE-2.1.1-03 bogus: "+domain, func(t *testing.T) {
			a, err := c.MX(t.Context(), addr.MustDomain(domain))
			wantBogus(t, err, want, domain)
			if a.Secure || a.Records != nil {
				t.Errorf("and yet an answer: %+v", a)
			}
		})
	}
	t.Run("DANE-2.1.1-03 indeterminate, for the keys cannot be had, is handled like bogus", func(t *testing.T) {
		_, err := c.MX(t.Context(), addr.MustDomain("keyless.test"))
		wantBogus(t, err, "DNSKEY Missing", "keyless.test")
	})
	t.Run("DANE-2.1.1-04 a zone whose server fails is a failed lookup and not bogus", func(t *testing.T) {
		_, err := c.MX(t.Context(), addr.MustDomain("failing.test"))
		wantFailed(t, err)
	})
	t.Run("DANE-2.1.1-04 a zone without server is a failed lookup and not bogus", func(t *testing.T) {
		_, err := clientOf(t, at, Options{Timeout: quick}).MX(t.Context(), addr.MustDomain("dead.test"))
		wantFailed(t, err)
	})
	t.Run("DANE-2.1.1-02 its AD does not count where we cannot trust the way to it", func(t *testing.T) {
		d := mapDialer{to: map[string]netip.AddrPort{abroad.String(): at}}
		far := clientOf(t, abroad, Options{Dialer: d})
		a, err := far.MX(t.Context(), addr.MustDomain("secure.test"))
		if err != nil || len(a.Records) != 1 || a.Secure {
			t.Errorf("%+v, %v", a, err)
		}
		if err := far.SelfTest(t.Context()); err == nil {
			t.Error("passed the self-test")
		}
	})
}

func TestUnboundDenies(t *testing.T) {
	c := clientOf(t, signedDNS(t).Unbound(t, unboundtest.Validating), Options{})
	tests := map[string]struct {
		host           string
		exists, secure bool
	}{
		"DANE-2.1.1-04 a proven NODATA is a secure answer":        {"text.secure.test", true, true},
		"DANE-2.1.1-04 a proven NXDOMAIN is a secure answer":      {"nobody.secure.test", false, true},
		"DANE-2.1.1-04 an unproven NXDOMAIN is an answer as well": {"nobody.insecure.test", false, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			a, err := c.TLSA(t.Context(), 25, addr.MustHost(tt.host))
			if (err == nil) != tt.exists || err != nil && !errors.Is(err, ErrNXDomain) || a.Records != nil || a.Secure != tt.secure {
				t.Errorf("%+v, %v", a, err)
			}
		})
	}
	t.Run("DANE-2.1.1-04 a host without addresses is a secure answer", func(t *testing.T) {
		a, err := c.Addresses(t.Context(), addr.MustHost("text.secure.test"))
		if err != nil || a.Records != nil || !a.Secure {
			t.Errorf("%+v, %v", a, err)
		}
	})
}

func TestUnboundAliases(t *testing.T) {
	c := clientOf(t, signedDNS(t).Unbound(t, unboundtest.Validating), Options{})
	tests := map[string]struct {
		host          string
		canonical     string
		secure, first bool // the whole, and its first CNAME
	}{
		"a secure CNAME to a secure host":                  {"inside.secure.test", "mx.secure.test", true, true},
		"DANE-2.1.3-02 a secure CNAME to an insecure host": {"outside.secure.test", "mx.insecure.test", false, true},
		"DANE-2.1.3-02 an insecure CNAME to a secure host": {"outside.insecure.test", "mx.secure.test", false, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			a, err := c.Addresses(t.Context(), addr.MustHost(tt.host))
			if err != nil || len(a.Records) == 0 || a.Canonical != tt.canonical || a.Secure != tt.secure {
				t.Errorf("%+v, %v", a, err)
			}
			link, err := c.CNAME(t.Context(), tt.host)
			if err != nil || !slices.Equal(link.Records, []string{tt.canonical}) || link.Secure != tt.first {
				t.Errorf("CNAME: %+v, %v", link, err)
			}
		})
	}
	t.Run("DANE-2.1.3-03 of an insecure chain the CNAME question tells whether its first link is secure", func(t *testing.T) {
		for host, secure := range map[string]bool{"outside.secure.test": true, "outside.insecure.test": false} {
			a, err := c.Addresses(t.Context(), addr.MustHost(host))
			if err != nil || a.Secure || len(a.Links) != 1 || a.Links[0].Secure {
				t.Errorf("%s: %+v, %v; the addresses must not tell", host, a, err)
			}
			if link, err := c.CNAME(t.Context(), host); err != nil || link.Secure != secure {
				t.Errorf("%s CNAME: %+v, %v", host, link, err)
			}
		}
	})
	t.Run("a secure CNAME to a bogus host is an error", func(t *testing.T) {
		_, err := c.Addresses(t.Context(), addr.MustHost("broken.secure.test"))
		wantBogus(t, err, "DNSSEC Bogus", "broken.secure.test")
	})
	t.Run("DANE-2.1.3-02 CNAMEs at TLSA names are secure only if all of the chain is", func(t *testing.T) {
		wantTLSA(t, c, "near.secure.test", "3 1 1 0102", true)
		wantTLSA(t, c, "far.secure.test", "3 1 1 0304", false)
		wantTLSA(t, c, "far.insecure.test", "3 1 1 0102", false)
	})
}

func TestUnboundWithoutValidation(t *testing.T) {
	c := clientOf(t, signedDNS(t).Unbound(t, unboundtest.Oblivious), Options{})
	t.Run("it fails the self-test", func(t *testing.T) {
		if err := c.SelfTest(t.Context()); err == nil || !strings.Contains(err.Error(), "does not validate") {
			t.Errorf("error is %v", err)
		}
	})
	t.Run("what it says is insecure", func(t *testing.T) {
		for _, domain := range []string{"secure.test", "altered.test"} {
			a, err := c.MX(t.Context(), addr.MustDomain(domain))
			if err != nil || len(a.Records) != 1 || a.Secure {
				t.Errorf("%s: %+v, %v", domain, a, err)
			}
		}
	})
}

func wantTLSA(t *testing.T, c *Client, host, want string, secure bool) {
	t.Helper()
	a, err := c.TLSA(t.Context(), 25, addr.MustHost(host))
	if err != nil || len(a.Records) != 1 || a.Records[0].String() != want || a.Secure != secure {
		t.Errorf("TLSA of %s: %+v, %v; want %s, secure %v", host, a, err, want, secure)
	}
}

// wantBogus wants the resolver's own words kept.
func wantBogus(t *testing.T, err error, words ...string) {
	t.Helper()
	bogus, ok := errors.AsType[*Bogus](err)
	if !ok {
		t.Fatalf("error is %v, want a *Bogus", err)
	}
	for _, w := range words {
		if !strings.Contains(bogus.EDE, w) {
			t.Errorf("EDE is %q, want %q in it", bogus.EDE, w)
		}
	}
}
