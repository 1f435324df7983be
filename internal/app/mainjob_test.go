package app

import (
	"context"
	"net"
	"net/smtp"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"stsrelay/internal/admin"
	"stsrelay/internal/lab"
	"stsrelay/tlsrpt"
)

// enforced puts a domain with an enforce policy into a lab.
func enforced(net *lab.World, domain string, change func(*lab.MX)) (*lab.MXHost, *lab.PolicyHost) {
	m := lab.MX{Name: "mx." + domain, Domains: []string{domain}}
	if change != nil {
		change(&m)
	}
	return net.AddMX(m), net.AddPolicy(lab.Policy{Domain: domain, ID: "1", MX: []string{"mx." + domain}})
}

func TestMessagesArriveAsTheyAre(t *testing.T) {
	net := startLab(t)
	mx, _ := enforced(net, "example.test", nil)
	f := start(t, net, parse(t, configText(shortDir(t), net, "")), nil)
	for name, content := range map[string]string{
		"short":                                  letter("short", 0) + "Hello\r\n",
		"dots":                                   letter("dots", 0) + ".\r\n..\r\n.leading\r\n\r\n.\r\n",
		"octets above 127":                       letter("eight", 0) + "Gr\xc3\xbc\xc3\x9fe, \xff\xfe\r\n",
		"a line of 20,000 octets":                letter("long", 0) + strings.Repeat("x", 20000) + "\r\n",
		"no body":                                letter("none", 0),
		"larger than what stays in the database": letter("large", 700<<10),
	} {
		t.Run(name, func(t *testing.T) {
			before := mx.Count()
			f.send("a@sender.test", []string{"b@example.test"}, content)
			if err := mx.WaitMessages(within(t), before+1); err != nil {
				t.Fatal(err)
			}
			got := mx.Messages()[before]
			if body := original(t, got.Content); body != content {
				t.Errorf("it arrived as %.300q (%d octets), was %d", body, len(body), len(content))
			}
			if got.TLS == nil || got.TLS.SNI != "mx.example.test" || got.Helo != "relay.sender.test" {
				t.Errorf("TLS %+v, HELO %s", got.TLS, got.Helo)
			}
		})
	}
	if v := mx.Violations(); v != nil {
		t.Errorf("the MX host complains of %v", v)
	}
}

func TestTwoHundredMessagesCostOnePolicyAndFewConnections(t *testing.T) {
	net := startLab(t)
	mx, policy := enforced(net, "example.test", nil)
	f := start(t, net, parse(t, configText(shortDir(t), net, "")), nil)
	const clients, each = 10, 20
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			for i := range each {
				id := strconv.Itoa(c*each + i)
				if err := smtp.SendMail(f.address(), nil, "a@sender.test", []string{"b@example.test"}, []byte(letter(id, 2000))); err != nil {
					t.Errorf("message %s: %v", id, err)
				}
			}
		})
	}
	wg.Wait()
	if err := mx.WaitMessages(within(t), clients*each); err != nil {
		t.Fatal(err)
	}
	if n := policy.Hits(); n != 1 {
		t.Errorf("the policy was fetched %d times", n)
	}
	if n := net.DNS.Queries("_mta-sts.example.test", "TXT"); n != 1 {
		t.Errorf("its record was asked for %d times", n)
	}
	if n := mx.Connections(); n > f.cfg.Delivery.MaxConnectionsPerHost {
		t.Errorf("%d connections were made for %d messages", n, clients*each)
	} else {
		t.Logf("%d connections for %d messages", n, clients*each)
	}
	for _, m := range mx.Messages() {
		if m.TLS == nil {
			t.Error("a message came in the clear")
		}
	}
}

func TestARestartForgetsNothing(t *testing.T) {
	net := startLab(t)
	mx, policy := enforced(net, "example.test", nil)
	dir := shortDir(t)
	cfg := parse(t, configText(dir, net, ""))
	f := start(t, net, cfg, nil)
	f.send("a@sender.test", []string{"b@example.test"}, letter("first", 500))
	if err := mx.WaitMessages(within(t), 1); err != nil {
		t.Fatal(err)
	}
	// record and policy vanish, and so does the good certificate: what was
	// cached must still rule after the restart
	policy.Withdraw()
	policy.Down()
	mx.Change(func(m *lab.MX) { m.Cert = lab.SelfSigned })
	if err := f.stop(); err != nil {
		t.Fatal(err)
	}
	f = start(t, net, cfg, nil)
	f.send("a@sender.test", []string{"b@example.test"}, letter("second", 500))
	f.waitDeferred(1)
	if e := f.queue()[0]; e.To[0].Last.Reason != "certificate-not-trusted" || mx.Count() != 1 {
		t.Errorf("after the restart: %+v, %d messages arrived", e.To[0].Last, mx.Count())
	}
	if err := f.stop(); err != nil {
		t.Fatal(err)
	}
	mx.Change(func(m *lab.MX) { m.Cert = lab.Good })
	f = start(t, net, cfg, nil)
	f.info.Engine.Retry("example.test")
	f.retryAll()
	if err := mx.WaitMessages(within(t), 2); err != nil {
		t.Fatal(err)
	}
	if got := original(t, mx.Messages()[1].Content); got != letter("second", 500) {
		t.Errorf("the message is now %q", got)
	}
	if n := policy.Hits(); n != 1 {
		t.Errorf("the policy was fetched %d times", n)
	}
}

func TestMailThatWaitsForAPolicyGoesWhenItChanges(t *testing.T) {
	net := startLab(t)
	mx := net.AddMX(lab.MX{Name: "mx.example.test", Domains: []string{"example.test"}})
	policy := net.AddPolicy(lab.Policy{Domain: "example.test", ID: "1", MX: []string{"old.example.test"}, TTL: lab.NoTTL})
	f := start(t, net, parse(t, configText(shortDir(t), net, "")), nil)
	f.send("a@sender.test", []string{"b@example.test"}, letter("waits", 500))
	f.waitDeferred(1)
	if e := f.queue()[0]; e.To[0].Last.Reason != "mx-not-listed" || mx.Connections() != 0 {
		t.Fatalf("it waits for %+v, %d connections", e.To[0].Last, mx.Connections())
	}
	policy.Change(func(p *lab.Policy) { p.ID, p.MX = "2", []string{"mx.example.test"} })
	f.info.Policies.Refresh(t.Context(), mustDomain(t, "example.test"))
	if err := mx.WaitMessages(within(t), 1); err != nil {
		t.Fatal(err)
	}
}

func TestSessionsAreTalliedWithTheAttempt(t *testing.T) {
	net := startLab(t)
	good, _ := enforced(net, "good.test", nil)
	enforced(net, "bad.test", func(m *lab.MX) { m.Cert = lab.Expired })
	f := start(t, net, parse(t, configText(shortDir(t), net, "")), nil)
	f.send("a@sender.test", []string{"b@good.test", "b@bad.test"}, letter("both", 500))
	if err := good.WaitMessages(within(t), 1); err != nil {
		t.Fatal(err)
	}
	f.waitQueue(1)
	f.waitDeferred(1)
	want := map[string]string{"good.test": "1 ok, 0 failed", "bad.test": "0 ok, 1 failed: certificate-expired"}
	for tally, err := range f.info.Store.Tallies(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if got := describe(tally); got != want[tally.Domain.String()] {
			t.Errorf("%s: %s", tally.Domain, got)
		}
		delete(want, tally.Domain.String())
	}
	if len(want) > 0 {
		t.Errorf("nothing was counted of %v", want)
	}
}

func describe(tally tlsrpt.Tally) (s string) {
	for _, p := range tally.Policies {
		s += strconv.FormatInt(p.Successes, 10) + " ok, " + strconv.FormatInt(p.Failures, 10) + " failed"
		for _, d := range p.Details {
			s += ": " + string(d.Result)
		}
	}
	return s
}

func TestAUnixSocketTakesMailToo(t *testing.T) {
	world := startLab(t)
	mx, _ := enforced(world, "example.test", nil)
	dir := shortDir(t)
	path := filepath.Join(dir, "in.sock")
	text := strings.Replace(configText(dir, world, ""), `"127.0.0.1:0"`, strconv.Quote("unix:"+path), 1)
	start(t, world, parse(t, text), nil)
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	c, err := smtp.NewClient(conn, "localhost")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	w, err := begin(c, "a@sender.test", "b@example.test")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(letter("unix", 300))); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := mx.WaitMessages(within(t), 1); err != nil {
		t.Fatal(err)
	}
}

func TestStatusTellsOfTheWholeHouse(t *testing.T) {
	net := startLab(t)
	enforced(net, "bad.test", func(m *lab.MX) { m.Cert = lab.Expired })
	cfg := parse(t, configText(shortDir(t), net, ""))
	f := start(t, net, cfg, nil)
	f.send("a@sender.test", []string{"b@bad.test"}, letter("x", 100))
	f.waitDeferred(1)
	s := f.status()
	if !s.Healthy || s.Policies["enforce"] != 1 || s.Counters["deferred"] != 1 || s.Counters["accepted"] != 1 || s.Queue.Deferred != 1 {
		t.Errorf("%+v", s)
	}
	if len(s.Destinations) != 1 || s.Destinations[0].Name != "bad.test" || s.Destinations[0].Reason != "certificate-expired" {
		t.Errorf("destinations: %+v", s.Destinations)
	}
	if d := s.DNSSEC; d.Validating || d.DANE || !strings.Contains(d.Error, "does not validate DNSSEC") {
		t.Errorf("the lab's DNS validates nothing: %+v", d)
	}
	if want := "in " + f.address(); !slices.Contains(s.Listeners, want) {
		t.Errorf("listeners: %q", s.Listeners)
	}
}

func TestWhatCannotBeBoundIsAnErrorAtStart(t *testing.T) {
	world := startLab(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dir := shortDir(t)
	text := strings.Replace(configText(dir, world, ""), "127.0.0.1:0", l.Addr().String(), 1)
	err = Run(context.Background(), parse(t, text), Options{})
	if err == nil || !strings.Contains(err.Error(), "listener in") || !strings.Contains(err.Error(), "address already in use") {
		t.Fatalf("%v", err)
	}
	// and the store was closed: it can be opened again
	l.Close()
	f := start(t, world, parse(t, text), nil)
	if f.address() != l.Addr().String() {
		t.Errorf("it listens on %s", f.address())
	}
}

func TestReportsThatAreOff(t *testing.T) {
	net := startLab(t)
	mx, _ := enforced(net, "good.test", nil)
	f := start(t, net, parse(t, configText(shortDir(t), net, "[tlsrpt]\nenabled = false\n")), nil)
	f.send("a@sender.test", []string{"b@good.test"}, letter("x", 100))
	if err := mx.WaitMessages(within(t), 1); err != nil {
		t.Fatal(err)
	}
	f.waitQueue(0)
	for tally := range f.info.Store.Tallies(t.Context(), "") {
		t.Errorf("counted: %+v", tally)
	}
	for _, err := range admin.NewClient(f.info.Socket).Reports(t.Context(), "") {
		if err == nil || !strings.Contains(err.Error(), "TLS reports are off") {
			t.Errorf("%v", err)
		}
	}
	if s := f.status(); s.Reports.Idle != "off" {
		t.Errorf("%+v", s.Reports)
	}
}

func TestABadReportSettingIsAnErrorAtStart(t *testing.T) {
	net := startLab(t)
	for text, want := range map[string]string{
		"[tlsrpt]\ncontact = \"a@example.com\"\nfrom = \"b@other.example\"\n":               "its domain must be that of contact",
		"[tlsrpt]\nsuppress = [\"a b\"]\n":                                                  `suppress "a b"`,
		"[tlsrpt]\nreplace = [\"ftp://x\"]\n":                                               `replace "ftp://x"`,
		"[[dkim]]\ndomain = \"example.com\"\nselector = \"s\"\nkey_file = \"/etc/hosts\"\n": "the [[dkim]] key s of example.com",
	} {
		cfg := parse(t, configText(shortDir(t), net, text))
		if err := Run(t.Context(), cfg, Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
