package lab_test

import (
	"slices"
	"strings"
	"testing"

	"stsrelay/internal/lab"
)

func TestAnIndependentSenderFindsWhatTheDomainsPromise(t *testing.T) {
	t.Run("led by the dialer", func(t *testing.T) {
		w, _ := start(t)
		promises(t, w)
	})
	t.Run("on real ports", func(t *testing.T) {
		promises(t, onRealPorts(t))
	})
}

func promises(t *testing.T, w *lab.World) {
	list := lab.Domains()
	w.SetUp(list)
	s := &sender{t: t, w: w, cache: map[string]rules{}}
	for _, sc := range list {
		t.Run(sc.Domain+": "+sc.Title, func(t *testing.T) {
			s.t = t
			before := 0
			if sc.Break != nil {
				if got := s.send(sc.Domain, sc.Mail); got.Outcome != lab.Delivered || got.TLS != lab.Verified {
					t.Fatalf("the first message is %+v", got)
				}
				before = 1
				sc.Break(w)
			}
			want := sc.Expect
			next := want.Next
			want.Next = ""
			if got := s.send(sc.Domain, sc.Mail); got != want {
				t.Fatalf("the message is %+v, not %+v", got, want)
			}
			arrived := w.Arrivals(sc.Domain)[before:]
			if (len(arrived) == 1) != (want.Outcome == lab.Delivered) {
				t.Errorf("%d messages arrived", len(arrived))
			}
			if len(arrived) > 0 && strings.Contains(arrived[0].Mail, " REQUIRETLS") != sc.Mail.RequireTLS {
				t.Errorf("it arrived with %s", arrived[0].Mail)
			}
			if len(arrived) > 0 && (arrived[0].TLS == nil) != (want.TLS == lab.Plaintext) {
				t.Errorf("it arrived over TLS %+v", arrived[0].TLS)
			}
			if policy := want.Outcome != lab.Delivered && want.Reason != "remote-reply" && want.Reason != "connection-lost"; policy && len(w.Told(sc.Domain)) > before {
				t.Errorf("%v were told of the recipient", w.Told(sc.Domain))
			}
			if next == "" {
				return
			}
			if got := s.send(sc.Domain, sc.Mail); got.Outcome != next {
				t.Errorf("at the next attempt the message is %+v, not %s", got, next)
			}
		})
	}
	if n := w.Policy("ok.test").Hits(); n != 1 {
		t.Errorf("the policy of ok.test was asked for %d times: a redirect to it was followed", n)
	}
	for _, mx := range w.MXHosts() {
		if v := mx.Violations(); v != nil {
			t.Errorf("%s complains of %v", mx.Name(), v)
		}
	}
}

func TestDomainsAreComplete(t *testing.T) {
	var seen []string
	for _, s := range lab.Domains() {
		if slices.Contains(seen, s.Domain) {
			t.Errorf("%s is there twice", s.Domain)
		}
		seen = append(seen, s.Domain)
		if s.Title == "" || s.Why == "" || s.Setup == nil || !strings.HasSuffix(s.Domain, ".test") {
			t.Errorf("%s is not complete", s.Domain)
		}
		switch e := s.Expect; e.Outcome {
		case lab.Delivered:
			if e.TLS == "" || e.Reason != "" {
				t.Errorf("%s expects %+v", s.Domain, e)
			}
		case lab.Deferred, lab.Bounced:
			if e.TLS != "" || e.Reason == "" {
				t.Errorf("%s expects %+v", s.Domain, e)
			}
		default:
			t.Errorf("%s expects %+v", s.Domain, e)
		}
	}
	if len(seen) < 28 {
		t.Errorf("%d domains are not many", len(seen))
	}
}
