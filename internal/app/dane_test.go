package app

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"stsrelay/internal/lab"
	"stsrelay/internal/resolver"

	"github.com/rs/zerolog"
)

// A validationFixture is a validation that tests a real resolver against the
// lab's DNS.
type validationFixture struct {
	*validation
	t                *testing.T
	dns              *lab.DNS
	log              *syncBuffer
	forgot, regained int
}

func newValidation(t *testing.T, trustAD bool) *validationFixture {
	t.Helper()
	world := startLab(t)
	server := netip.MustParseAddrPort(world.DNSServers()[0])
	c, err := resolver.New(resolver.Options{Servers: []netip.AddrPort{server}, TrustAD: trustAD})
	if err != nil {
		t.Fatal(err)
	}
	f := &validationFixture{t: t, dns: world.DNS, log: &syncBuffer{}}
	f.validation = &validation{test: c.SelfTest, trustAD: trustAD, hosts: func() int { return 7 },
		forget: func() { f.forgot++ }, regained: func() { f.regained++ },
		pause: Options{}.testPause, log: zerolog.New(f.log), tested: make(chan struct{})}
	return f
}

// want tests once and checks what is known then, and the last line of the log:
// "" where nothing is to be said.
func (f *validationFixture) want(validating bool, line string) {
	f.t.Helper()
	before := len(f.log.String())
	f.look(f.t.Context()) // the outcome is in the state
	if got := f.validating(); got != validating {
		f.t.Errorf("validating: %v", got)
	}
	if said := f.log.String()[before:]; (said == "") != (line == "") || !strings.Contains(said, line) {
		f.t.Errorf("the log has %q, not %q", said, line)
	}
}

func TestValidation(t *testing.T) {
	t.Run("DANE-2.1.1-01 DANE is on while the resolver validates, and off loudly when it stops", func(t *testing.T) {
		f := newValidation(t, false)
		if f.validating() {
			t.Error("believed before the first test")
		}
		f.want(false, `"level":"warn","message":"DNS answers are not validated, so DANE is off, and mail to hosts known for their TLSA records (7) waits`)
		f.want(false, "")
		f.dns.SetAD(".", true)
		f.want(true, "DANE is on")
		f.want(true, "")
		f.dns.SetAD(".", false)
		f.want(false, `"level":"warn","message":"DNS answers are not validated`)
		s, warning := f.status()
		if s.Validating || s.DANE || s.Since.IsZero() || s.TLSAHosts != 7 || !strings.Contains(s.Error, "without AD") || !strings.Contains(warning, "unbound") {
			t.Errorf("status %+v, %q", s, warning)
		}
		f.dns.SetAD(".", true)
		f.want(true, "DANE is on")
		if s, warning := f.status(); !s.Validating || !s.DANE || s.Error != "" || warning != "" {
			t.Errorf("status %+v, %q", s, warning)
		}
		if f.forgot != 2 || f.regained != 2 {
			t.Errorf("answers were forgotten %d times, mail let go %d times", f.forgot, f.regained)
		}
	})
	t.Run("DANE-2.1.1-01 a resolver that does not answer is not one that does not validate", func(t *testing.T) {
		f := newValidation(t, false)
		f.dns.Fail(".", "NS", "SERVFAIL")
		f.want(false, "has no answer")
		if _, warning := f.status(); !strings.Contains(warning, "nobody knows yet") {
			t.Errorf("it warns %q", warning)
		}
		f.dns.Behave(".", "NS")
		f.dns.SetAD(".", true)
		f.want(true, "DANE is on")
		f.dns.Fail(".", "NS", "REFUSED")
		f.want(true, "has no answer")
		f.want(true, "")
		if s, warning := f.status(); !s.Validating || !strings.Contains(s.Error, "REFUSED") || warning != "" {
			t.Errorf("status %+v, %q", s, warning)
		}
		f.dns.Behave(".", "NS")
		f.want(true, "DANE is on")
		if f.regained != 1 {
			t.Errorf("mail was let go %d times", f.regained)
		}
		f.dns.SetAD(".", false)
		f.want(false, "not validated")
		f.dns.Fail(".", "NS", "SERVFAIL")
		f.want(false, "has no answer")
	})
	t.Run("DANE-2.1.1-02 trust_ad keeps DANE on whatever the test says, and shows what it says", func(t *testing.T) {
		f := newValidation(t, true)
		f.want(true, "by [dns] trust_ad")
		if s, warning := f.status(); s.Validating || !s.DANE || s.Error == "" || warning != "" {
			t.Errorf("status %+v, %q", s, warning)
		}
		f.dns.SetAD(".", true)
		f.want(true, "DANE is on")
	})
	t.Run("DANE-2.1.1-01 who has a doubt has it tested at once, unless a test has just ended", func(t *testing.T) {
		f := newValidation(t, false)
		f.dns.SetAD(".", true)
		f.want(true, "DANE is on")
		f.dns.SetAD(".", false)
		if !f.again(t.Context()) {
			t.Error("tested again within a moment")
		}
		f.at = f.at.Add(-testGap)
		if f.again(t.Context()) {
			t.Error("not tested")
		}
	})
	t.Run("a bad outcome is looked at again sooner", func(t *testing.T) {
		good, bad, none := Options{}.testPause(nil), Options{}.testPause(errors.New("x")), Options{}.testPause(resolver.ErrNoAnswer)
		if !(none < bad && bad < good) {
			t.Errorf("%v, %v, %v", none, bad, good)
		}
	})
	t.Run("it goes on testing until it is told to end", func(t *testing.T) {
		f := newValidation(t, false)
		f.pause = func(error) time.Duration { return time.Millisecond }
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- f.run(ctx) }()
		if err := f.dns.WaitQueries(within(t), ".", "NS", 3); err != nil {
			t.Error(err)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		<-f.tested
	})
}

// signedMX puts a domain with TLSA records into a lab whose DNS validates. Its
// certificate is good for nothing else; right says whether it fits the records.
func signedMX(net *lab.World, domain string, right bool) *lab.MXHost {
	mx := net.AddMX(lab.MX{Name: "mx." + domain, Domains: []string{domain}, Cert: lab.SelfSigned})
	record := mx.TLSA(3, 1, 1)
	if !right {
		record = record[:len(record)-64] + strings.Repeat("0", 64)
	}
	net.DNS.Add(record)
	net.DNS.Sign(domain)
	return mx
}

// wait waits until the log has a text so many times.
func (f *fixture) waitLog(text string, n int) {
	f.t.Helper()
	ctx := within(f.t)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for strings.Count(f.log.String(), text) < n {
		select {
		case <-ctx.Done():
			f.t.Fatalf("the log does not have %q %d times", text, n)
		case <-tick.C:
		}
	}
}

// A resolver that stops validating, and a relay that is started anew meanwhile.
func TestDANE_2_1_1_01_HostsKnownForTLSAWaitForValidation(t *testing.T) {
	net := startLab(t)
	net.DNS.SetAD(".", true)
	known, plain := signedMX(net, "known.test", true), net.AddMX(lab.MX{Name: "mx.plain.test", Domains: []string{"plain.test"}})
	late := signedMX(net, "late.test", false)
	cfg := parse(t, configText(shortDir(t), net, ""))
	pace := func(o *Options) { o.SelfTest = 10 * time.Millisecond }
	send := func(f *fixture, mx *lab.MXHost, to string) {
		t.Helper()
		before := mx.Count()
		f.send("a@sender.test", []string{to}, letter("x", 300))
		if err := mx.WaitMessages(within(t), before+1); err != nil {
			t.Fatal(err)
		}
	}

	f := start(t, net, cfg, pace)
	send(f, known, "b@known.test")
	if s := f.status().DNSSEC; !s.Validating || s.TLSAHosts != 1 {
		t.Errorf("status: %+v", s)
	}
	validates := func(yes bool) {
		for _, name := range []string{".", "known.test", "late.test"} {
			for _, n := range []string{name, "mx." + name, "_25._tcp.mx." + name} {
				net.DNS.SetAD(n, yes)
			}
		}
	}
	validates(false)
	f.waitLog("DNS answers are not validated", 1)
	f.send("a@sender.test", []string{"b@known.test"}, letter("waits", 300))
	f.waitDeferred(1)
	if e := f.queue()[0]; e.To[0].Last.Reason != "dnssec-not-validating" || known.Count() != 1 {
		t.Errorf("it waits for %+v, %d arrived", e.To[0].Last, known.Count())
	}
	if err := f.stop(); err != nil {
		t.Fatal(err)
	}

	f = start(t, net, cfg, pace)
	f.send("a@sender.test", []string{"b@known.test"}, letter("waits too", 300))
	send(f, plain, "b@plain.test")
	send(f, late, "b@late.test") // nobody knows it
	f.waitDeferred(2)
	s := f.status()
	if known.Count() != 1 || s.DNSSEC.Validating || s.DNSSEC.DANE || s.DNSSEC.TLSAHosts != 1 {
		t.Errorf("after the restart: %d arrived, %+v", known.Count(), s.DNSSEC)
	}
	if !slices.ContainsFunc(s.Warnings, func(w string) bool { return strings.Contains(w, "known for their TLSA records (1)") }) {
		t.Errorf("warnings: %q", s.Warnings)
	}

	validates(true)
	if err := known.WaitMessages(within(t), 3); err != nil { // by itself
		t.Fatal(err)
	}
	f.send("a@sender.test", []string{"b@late.test"}, letter("mismatch", 300))
	f.waitDeferred(1)
	if e := f.queue()[0]; e.To[0].Last.Reason != "dane-mismatch" || late.Count() != 1 {
		t.Errorf("it waits for %+v, %d arrived", e.To[0].Last, late.Count())
	}
}
