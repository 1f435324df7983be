package main

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"stsrelay/internal/lab"
)

// TestSTS_10_3_01_AHostilePolicyIsGotRidOf: someone has published a policy for
// domains that are not theirs, with a year to live and the name of a host that
// does not exist. The owners are back, and the operator helps.
func TestSTS_10_3_01_AHostilePolicyIsGotRidOf(t *testing.T) {
	shortTemp(t)
	domains := []string{"renewed.test", "refreshed.test", "withdrawn.test"}
	var list []lab.Scenario
	for _, d := range domains {
		list = append(list, lab.Scenario{Domain: d, Setup: func(w *lab.World) {
			w.AddMX(lab.MX{Name: "mx." + d, Domains: []string{d}})
			w.AddPolicy(lab.Policy{Domain: d, ID: "hostile", MX: []string{"nowhere." + d}, MaxAge: 365 * 24 * time.Hour, TTL: lab.NoTTL})
		}})
	}
	b, err := startLab(t.Context(), labSetup{scenarios: list})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.end(false); err != nil {
			t.Error(err)
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), scriptPatience)
	defer cancel()
	command := func(want string, args ...string) {
		t.Helper()
		code, out, errs := runIn(t, append(args, "--config", filepath.Join(b.dir, "config.toml"))...)
		if code != 0 || !strings.Contains(out, want) {
			t.Errorf("%v ends with %d and does not say %q:\n%s%s", args, code, want, out, errs)
		}
	}
	refused := func(s *sighting) {
		t.Helper()
		if problems := s.against(lab.Expect{Outcome: lab.Deferred, Reason: "mx-not-listed"}); problems != nil {
			t.Fatalf("%s: %v", s.letter.to, problems)
		}
	}
	first := map[string]*sighting{}
	for _, d := range domains {
		tr := &trial{Scenario: lab.Scenario{Domain: d}}
		saw, err := b.send(ctx, tr, 1)
		if err != nil {
			t.Fatal(err)
		}
		refused(saw)
		first[d] = saw
		command(d+"  mode enforce  id hostile", "cache", "show", d)
	}
	good := func(d string) func(p *lab.Policy) {
		return func(p *lab.Policy) { p.ID, p.MX = "good", []string{"mx." + d} }
	}
	arrives := func(d string) {
		t.Helper()
		if err := b.world.MX("mx."+d).WaitMessages(ctx, 1); err != nil {
			t.Error(err)
		}
	}

	// A new id is enough: the next attempt has the new policy.
	b.world.Policy("renewed.test").Change(good("renewed.test"))
	command("1 message due now", "queue", "retry", "--to", "@renewed.test")
	arrives("renewed.test")

	// The operator need not wait for an attempt.
	b.world.Policy("refreshed.test").Change(good("refreshed.test"))
	command("refreshed.test  mode enforce  id good", "cache", "refresh", "refreshed.test")
	command("due now", "queue", "retry", "--to", "@refreshed.test")
	arrives("refreshed.test")

	// Without a record the cached policy goes on to rule, until it is dropped:
	// mail that waits is tried at once.
	b.world.Policy("withdrawn.test").Withdraw()
	command("1 message due now", "queue", "retry", "--to", "@withdrawn.test")
	second := &sighting{letter: first["withdrawn.test"].letter, id: first["withdrawn.test"].id, attempt: 2}
	if err := b.watch(ctx, second); err != nil {
		t.Fatal(err)
	}
	refused(second)
	command("withdrawn.test: policy forgotten", "cache", "purge", "withdrawn.test")
	arrives("withdrawn.test")
}
