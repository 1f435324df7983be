package app

import (
	"errors"
	"testing"
	"time"

	"stsrelay/internal/admin"
	"stsrelay/internal/lab"
	"stsrelay/relay"
	"stsrelay/stscache"
)

// unfit puts a domain into a lab whose MX host does not do what its enforce
// policy asks for: a message arrives only where no policy is applied.
func unfit(net *lab.World) (*lab.MXHost, *lab.PolicyHost) {
	return enforced(net, "example.test", func(m *lab.MX) { m.Cert = lab.SelfSigned })
}

// spoiled is a relay that has delivered a message under unfit's policy. After
// that the MX host's certificate is spoiled, and the relay started anew: a
// connection that it holds is as good as when it was made.
func spoiled(t *testing.T, more string) (*lab.World, *lab.MXHost, *lab.PolicyHost, *fixture) {
	t.Helper()
	net := startLab(t)
	mx, policy := unfit(net)
	policy.Change(func(p *lab.Policy) { p.TTL = lab.NoTTL })
	mx.Change(func(m *lab.MX) { m.Cert = lab.Good })
	cfg := parse(t, configText(shortDir(t), net, more))
	f := start(t, net, cfg, nil)
	f.send("a@sender.test", []string{"b@example.test"}, letter("first", 500))
	if err := mx.WaitMessages(within(t), 1); err != nil {
		t.Fatal(err)
	}
	if err := f.stop(); err != nil {
		t.Fatal(err)
	}
	mx.Change(func(m *lab.MX) { m.Cert = lab.SelfSigned })
	return net, mx, policy, start(t, net, cfg, nil)
}

// waits sends a message that is not to be delivered, and checks why.
func (f *fixture) waits(mx *lab.MXHost, reason string) {
	f.t.Helper()
	before := mx.Count()
	f.send("a@sender.test", []string{"b@example.test"}, letter("waits", 500))
	f.waitDeferred(1)
	if e := f.queue()[0]; string(e.To[0].Last.Reason) != reason || mx.Count() != before {
		f.t.Errorf("it waits for %+v, %d messages arrived", e.To[0].Last, mx.Count()-before)
	}
}

func TestSTS_5_1_04_TheFirstMessageIsProtectedToo(t *testing.T) {
	net := startLab(t)
	mx, policy := unfit(net)
	answer := make(chan struct{})
	policy.Change(func(p *lab.Policy) { p.Until = answer })
	f := start(t, net, parse(t, configText(shortDir(t), net, "")), nil)
	f.send("a@sender.test", []string{"b@example.test"}, letter("first", 500))
	if err := policy.WaitHits(within(t), 1); err != nil {
		t.Fatal(err)
	}
	if mx.Connections() != 0 {
		t.Error("it did not wait for the policy")
	}
	close(answer)
	f.waitDeferred(1)
	if e := f.queue()[0]; e.To[0].Last.Reason != "certificate-not-trusted" || mx.Count() != 0 {
		t.Errorf("it waits for %+v, %d messages arrived", e.To[0].Last, mx.Count())
	}
}

func TestSTS_3_3_11_MailGoesOnWithoutAPolicy(t *testing.T) {
	net := startLab(t)
	mx, policy := unfit(net)
	policy.Down()
	f := start(t, net, parse(t, configText(shortDir(t), net, "")), nil)
	f.send("a@sender.test", []string{"b@example.test"}, letter("first", 500))
	if err := mx.WaitMessages(within(t), 1); err != nil {
		t.Fatal(err)
	}
	f.waitQueue(0)
}

func TestSTS_3_3_12_TheCachedPolicyIsApplied(t *testing.T) {
	for name, change := range map[string]func(*lab.PolicyHost){
		"the record is gone, and the file": func(p *lab.PolicyHost) {
			p.Withdraw()
			p.Change(func(p *lab.Policy) { p.ID, p.Status = "", 404 })
		},
		"a new id, and the file is gone": func(p *lab.PolicyHost) { p.Change(func(p *lab.Policy) { p.ID, p.Status = "2", 404 }) },
	} {
		t.Run(name, func(t *testing.T) {
			_, mx, policy, f := spoiled(t, "")
			change(policy)
			f.waits(mx, "certificate-not-trusted")
		})
	}
}

func TestSTS_8_3_01_ModeNoneEndsEnforcement(t *testing.T) {
	_, mx, policy, f := spoiled(t, "")
	policy.Change(func(p *lab.Policy) { p.ID, p.Mode = "2", "none" })
	f.send("a@sender.test", []string{"b@example.test"}, letter("second", 500))
	if err := mx.WaitMessages(within(t), 2); err != nil {
		t.Fatal(err)
	}
	policy.Down() // it is kept itself
	f.send("a@sender.test", []string{"b@example.test"}, letter("third", 500))
	if err := mx.WaitMessages(within(t), 3); err != nil {
		t.Fatal(err)
	}
	if n := policy.Hits(); n != 2 {
		t.Errorf("%d requests", n)
	}
}

func TestSTS_3_1_16_ALookupThatFails(t *testing.T) {
	failing := func(t *testing.T, more string) (*lab.MXHost, *fixture) {
		net := startLab(t)
		mx, _ := unfit(net)
		net.DNS.Fail("_mta-sts.example.test", "TXT", "SERVFAIL")
		return mx, start(t, net, parse(t, configText(shortDir(t), net, more)), nil)
	}
	t.Run("within the grace mail waits", func(t *testing.T) {
		mx, f := failing(t, "")
		f.waits(mx, "sts-discovery-failed")
		f.retryAll()
		f.until(func(list []relay.Entry) bool { return len(list) == 1 && list[0].Attempts == 2 && list[0].Lease == 0 })
		if mx.Connections() != 0 {
			t.Errorf("%d connections", mx.Connections())
		}
	})
	t.Run("after it mail goes on without a policy", func(t *testing.T) {
		mx, f := failing(t, "[sts]\ndiscovery_failure_grace = \"2s\"")
		f.waits(mx, "sts-discovery-failed")
		began := f.info.Policies.Lookup(t.Context(), mustDomain(t, "example.test")).Since
		f.until(func(list []relay.Entry) bool {
			if len(list) == 1 && list[0].Lease == 0 {
				_, _ = admin.NewClient(f.info.Socket).Edit(t.Context(), relay.Filter{}, relay.Action{Verb: relay.VerbRetry})
			}
			return len(list) == 0
		})
		if m := mx.Messages(); len(m) != 1 || m[0].At.Sub(began) < 2*time.Second {
			t.Errorf("%d messages arrived", len(m))
		}
	})
	t.Run("without a grace it goes on at once", func(t *testing.T) {
		mx, f := failing(t, "[sts]\ndiscovery_failure_grace = \"0s\"")
		f.send("a@sender.test", []string{"b@example.test"}, letter("first", 500))
		if err := mx.WaitMessages(within(t), 1); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("a policy that is kept is applied", func(t *testing.T) {
		net, mx, _, f := spoiled(t, "[sts]\ndiscovery_failure_grace = \"0s\"")
		net.DNS.Fail("_mta-sts.example.test", "TXT", "SERVFAIL")
		f.waits(mx, "certificate-not-trusted")
		if s := f.info.Policies.Lookup(t.Context(), mustDomain(t, "example.test")); !errors.Is(s.Err, stscache.ErrLookup) || s.Policy == nil {
			t.Errorf("%+v", s)
		}
	})
}
