package app

import (
	"strings"
	"testing"
	"time"

	"stsrelay/delivery"
	"stsrelay/internal/lab"

	"github.com/rs/zerolog"
)

func overrideText(domain string, until time.Time) string {
	return "[[override]]\ndomain = \"" + domain + "\"\nsts = false\nuntil = \"" + until.UTC().Format(time.RFC3339) + "\"\nreason = \"ticket 4711\"\n"
}

func TestX_12_AnOverrideEndsByItself(t *testing.T) {
	end := time.Date(2026, 12, 31, 12, 0, 0, 0, time.UTC)
	log := &syncBuffer{}
	cfg := parse(t, "hostname = \"relay.sender.test\"\n"+overrideText("broken.test", end))
	o := newOverrides(cfg, zerolog.New(log))
	broken, other := mustDomain(t, "broken.test"), mustDomain(t, "sub.broken.test")
	if got, want := o.at(broken, end.Add(-1)), (delivery.Override{STS: true, Reason: "ticket 4711", Until: end}); got != want {
		t.Errorf("before its end: %+v, want %+v", got, want)
	}
	if said := log.String(); !strings.Contains(said, `"domain":"broken.test","lifted":"MTA-STS","reason":"ticket 4711","until":"2026-12-31T12:00:00Z"`) {
		t.Errorf("the log has %q", said)
	}
	if got := o.at(broken, end); got != (delivery.Override{}) {
		t.Errorf("after its end: %+v", got)
	}
	if got := o.at(other, end.Add(-1)); got != (delivery.Override{}) {
		t.Errorf("of another domain: %+v", got)
	}
	if n := strings.Count(log.String(), "an override is used"); n != 1 {
		t.Errorf("the log tells of %d uses", n)
	}
}

func TestAnOverrideLetsMailGo(t *testing.T) {
	world := startLab(t)
	mx := map[string]*lab.MXHost{}
	for _, domain := range []string{"now.test", "past.test", "none.test"} {
		mx[domain], _ = enforced(world, domain, func(m *lab.MX) { m.Cert = lab.SelfSigned })
	}
	text := overrideText("now.test", time.Now().Add(time.Hour)) + overrideText("past.test", time.Now().Add(-time.Hour))
	f := start(t, world, parse(t, configText(shortDir(t), world, text)), nil)
	f.send("a@sender.test", []string{"b@now.test", "b@past.test", "b@none.test"}, letter("three", 300))
	if err := mx["now.test"].WaitMessages(within(t), 1); err != nil {
		t.Fatal(err)
	}
	f.waitDeferred(2)
	if mx["past.test"].Count()+mx["none.test"].Count() > 0 {
		t.Error("mail to others went too")
	}
	f.waitLog(`"policy":"sts:enforce id=1 overridden"`, 1)
	warnings := strings.Join(f.status().Warnings, "\n")
	for _, want := range []string{"MTA-STS of now.test is not enforced until", "ticket 4711", "[[override]] of past.test ended"} {
		if !strings.Contains(warnings, want) {
			t.Errorf("the status does not warn %q: %s", want, warnings)
		}
	}
	f.waitQueue(2)
	reported := ""
	for tally, err := range f.info.Store.Tallies(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if tally.Domain.String() == "now.test" {
			reported = describe(tally)
		}
	}
	if reported != "0 ok, 1 failed: certificate-not-trusted" {
		t.Errorf("what is lifted is reported as %q", reported)
	}
}
