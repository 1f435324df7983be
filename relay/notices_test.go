package relay

import (
	"fmt"
	"testing"
	"time"

	"stsrelay/delivery"
	"stsrelay/internal/addr"
)

func TestNotify(t *testing.T) {
	for _, tt := range []struct {
		name, notify    string
		failure, delays bool
	}{
		{"DSN-5.2.6-01 DSN-5.2.5-01 without NOTIFY the sender hears of failure and delay", "", true, true},
		{"DSN-5.2.6-01 NEVER means never", "NEVER", false, false},
		{"DSN-5.2.5-01 FAILURE alone excludes delays", "FAILURE", true, false},
		{"DSN-5.2.6-01 DELAY alone excludes failures", "DELAY", false, true},
		{"both, in any case and order", "delay,Success,failure", true, true},
		{"SUCCESS alone excludes both", "SUCCESS", false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := Recipient{Notify: tt.notify}
			if wantsFailure(r) != tt.failure || wantsDelay(r) != tt.delays {
				t.Errorf("failure %t, delay %t", wantsFailure(r), wantsDelay(r))
			}
		})
	}
}

func TestToldOnce(t *testing.T) {
	now := time.Unix(0, 0)
	var n notices
	if !n.first("a", now) || n.first("a", now.Add(23*time.Hour)) || !n.first("b", now) || !n.first("a", now.Add(24*time.Hour)) {
		t.Error("not once a day")
	}
	for i := range maxTold + 10 {
		n.first(fmt.Sprint(i), now.Add(25*time.Hour))
	}
	if len(n.told) > maxTold || n.first("new", now.Add(26*time.Hour)) {
		t.Errorf("it remembers %d", len(n.told))
	}
	if !n.first("new", now.Add(50*time.Hour)) {
		t.Error("it does not forget")
	}
}

func TestOutage(t *testing.T) {
	now := time.Unix(0, 0)
	fail := func(u *outage, dest string, r delivery.Reason) {
		e := delivery.NewError(delivery.StagePolicy, r, addr.Host{}, "")
		if r == delivery.ConnectFailed {
			e.Stage = delivery.StageConnect
		}
		if r == delivery.DNSFailed {
			e.Stage = delivery.StagePlan
		}
		u.heard(nopLog(), &item{Entry: Entry{Destination: Destination(dest)}}, []delivery.Outcome{{Err: e}}, now)
	}
	many := func(u *outage, r delivery.Reason) {
		for i := range outageDomains {
			fail(u, fmt.Sprintf("d%d.example", i), r)
		}
	}
	verified := []delivery.Outcome{{TLS: "Verified TLSv1.3"}}
	t.Run("many unrelated domains that fail in one way are our own fault", func(t *testing.T) {
		for _, r := range []delivery.Reason{delivery.DNSFailed, delivery.ConnectFailed, delivery.CertExpired} {
			var u outage
			many(&u, r)
			if !u.holds(r) || u.text(now) == "" || u.holds(delivery.MXNotListed) {
				t.Errorf("%s: %q", r, u.text(now))
			}
		}
	})
	t.Run("many hosts of one owner are not", func(t *testing.T) {
		var u outage
		for i := range 100 {
			fail(&u, fmt.Sprintf("d%d.owner.example", i), delivery.CertExpired)
		}
		if u.holds(delivery.CertExpired) {
			t.Error("held")
		}
	})
	t.Run("one success of the kind ends it", func(t *testing.T) {
		var u outage
		many(&u, delivery.CertExpired)
		u.heard(nopLog(), &item{}, []delivery.Outcome{{TLS: "Untrusted TLSv1.3"}}, now)
		if !u.holds(delivery.CertExpired) {
			t.Error("a success of another kind ended it")
		}
		u.heard(nopLog(), &item{}, verified, now)
		if u.holds(delivery.CertExpired) || u.text(now) != "" {
			t.Error("still held")
		}
	})
	t.Run("what only fails to connect shows that DNS answers", func(t *testing.T) {
		var u outage
		many(&u, delivery.DNSFailed)
		fail(&u, "x.example", delivery.ConnectFailed)
		if u.holds(delivery.DNSFailed) {
			t.Error("still held")
		}
	})
}
