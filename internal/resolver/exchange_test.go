package resolver

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"stsrelay/internal/addr"

	"github.com/miekg/dns"
)

var example = addr.MustDomain("example.test")

func manyMX(n int) []string {
	var zone []string
	for i := range n {
		zone = append(zone, fmt.Sprintf("example.test. 300 IN MX %d a-rather-long-name-for-a-mail-host-%d.example.test.", i, i))
	}
	return zone
}

// cutShort answers UDP with what fits and TC, TCP in full.
func cutShort(s *fakeServer, tcp func(m *dns.Msg) [][]byte) func(string, *dns.Msg) [][]byte {
	return func(network string, q *dns.Msg) [][]byte {
		m := s.fromZone(q)
		if network == "tcp" {
			return tcp(m)
		}
		m.Truncate(1232)
		if !m.Truncated {
			panic("the answer fits: no test of truncation")
		}
		return [][]byte{packed(m)}
	}
}

func TestTruncation(t *testing.T) {
	t.Run("a truncated answer is asked for again over TCP", func(t *testing.T) {
		s := startServer(t, manyMX(60)...)
		s.handle(cutShort(s, func(m *dns.Msg) [][]byte { return [][]byte{packed(m)} }))
		a, err := newClient(t, Options{}, s).MX(t.Context(), example)
		if err != nil || len(a.Records) != 60 {
			t.Fatalf("%d records, %v; want all 60", len(a.Records), err)
		}
	})
	t.Run("a reply cut in the middle of a record counts as truncated", func(t *testing.T) {
		s := startServer(t, manyMX(60)...)
		s.handle(func(network string, q *dns.Msg) [][]byte {
			m := s.fromZone(q)
			if network == "tcp" {
				return [][]byte{packed(m)}
			}
			m.Truncated = true
			return [][]byte{packed(m)[:500]}
		})
		a, err := newClient(t, Options{}, s).MX(t.Context(), example)
		if err != nil || len(a.Records) != 60 {
			t.Fatalf("%d records, %v; want all 60", len(a.Records), err)
		}
	})
	t.Run("a truncated answer is never used when TCP gives none", func(t *testing.T) {
		s := startServer(t, manyMX(60)...)
		s.handle(cutShort(s, func(*dns.Msg) [][]byte { return nil }))
		a, err := newClient(t, Options{Timeout: quick}, s).MX(t.Context(), example)
		wantFailed(t, err)
		if len(a.Records) != 0 {
			t.Fatalf("%d records of a truncated answer were used", len(a.Records))
		}
	})
	t.Run("a truncated answer over TCP is an error", func(t *testing.T) {
		s := startServer(t, manyMX(60)...)
		s.handle(cutShort(s, func(m *dns.Msg) [][]byte {
			m.Truncate(1232)
			return [][]byte{packed(m)}
		}))
		_, err := newClient(t, Options{}, s).MX(t.Context(), example)
		wantFailed(t, err)
	})
}

func wantFailed(t *testing.T, err error) {
	t.Helper()
	if _, ok := errors.AsType[*Failed](err); !ok {
		t.Fatalf("error is %v, want a *Failed", err)
	}
}

// strays are replies that must not be taken for the answer.
var strays = map[string]func(m *dns.Msg){
	"a reply with another id":        func(m *dns.Msg) { m.Id++ },
	"a query instead of a reply":     func(m *dns.Msg) { m.Response = false },
	"a reply with another opcode":    func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify },
	"a reply for another name":       func(m *dns.Msg) { m.Question[0].Name = "evil.test." },
	"a reply for another type":       func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeA },
	"a reply for another class":      func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS },
	"a reply with two questions":     func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) },
	"a reply without a question":     func(m *dns.Msg) { m.Question = nil },
	"a denial for another name":      func(m *dns.Msg) { m.Question[0].Name = "x."; m.Rcode = dns.RcodeNameError; m.Answer = nil },
	"a truncated reply for another":  func(m *dns.Msg) { m.Question[0].Name = "evil.test."; m.Truncated = true },
	"a refusal with another id":      func(m *dns.Msg) { m.Id++; m.Rcode = dns.RcodeRefused },
	"a longer name that begins like": func(m *dns.Msg) { m.Question[0].Name = "example.test.evil.test." },
}

func TestStrayReplies(t *testing.T) {
	for name, spoil := range strays {
		t.Run(name+" is passed over until the answer comes", func(t *testing.T) {
			s := startServer(t, "example.test. 300 IN MX 10 right.test.")
			s.handle(func(_ string, q *dns.Msg) [][]byte {
				forged := new(dns.Msg)
				forged.SetReply(q)
				rr, _ := dns.NewRR("example.test. 300 IN MX 10 wrong.test.")
				forged.Answer = []dns.RR{rr}
				spoil(forged)
				return [][]byte{packed(forged), []byte("short"), packed(s.fromZone(q))}
			})
			a, err := newClient(t, Options{}, s).MX(t.Context(), example)
			if err != nil || len(a.Records) != 1 || a.Records[0].Name != "right.test" {
				t.Fatalf("got %v, %v", a.Records, err)
			}
		})
	}
	t.Run("the name is compared without regard to case", func(t *testing.T) {
		s := startServer(t, "example.test. 300 IN MX 10 right.test.")
		s.handle(func(_ string, q *dns.Msg) [][]byte {
			m := s.fromZone(q)
			m.Question[0].Name = "eXample.TEST."
			m.Answer[0].Header().Name = "EXAMPLE.test."
			return [][]byte{packed(m)}
		})
		a, err := newClient(t, Options{}, s).MX(t.Context(), example)
		if err != nil || len(a.Records) != 1 {
			t.Fatalf("got %v, %v", a.Records, err)
		}
	})
	t.Run("when nothing else comes the error tells of them", func(t *testing.T) {
		s := startServer(t)
		s.handle(func(_ string, q *dns.Msg) [][]byte {
			q.Response = true
			q.Question[0].Name = "evil.test."
			return [][]byte{packed(q)}
		})
		_, err := newClient(t, Options{Timeout: quick}, s).MX(t.Context(), example)
		wantFailed(t, err)
		if !strings.Contains(err.Error(), "another question") {
			t.Fatalf("error does not say why: %v", err)
		}
	})
}

func TestCancelClosesTheConnection(t *testing.T) {
	s := startServer(t)
	arrived := make(chan struct{}, 1)
	s.handle(func(string, *dns.Msg) [][]byte {
		arrived <- struct{}{}
		return nil
	})
	d := mapDialer{closed: make(chan string, 1)}
	c := newClient(t, Options{Dialer: d, Timeout: time.Hour, Budget: time.Hour}, s)
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() {
		_, err := c.MX(ctx, example)
		result <- err
	}()
	<-arrived
	cancel()
	err := <-result
	wantFailed(t, err)
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("error is %v, want the caller's cancellation in it", err)
	}
	<-d.closed // hangs when the read outlives the caller
}

func TestQuery(t *testing.T) {
	s := startServer(t, "example.test. 300 IN MX 10 mx.test.")
	if _, err := newClient(t, Options{}, s).MX(t.Context(), example); err != nil {
		t.Fatal(err)
	}
	q := s.lastQuery()
	opt := q.IsEdns0()
	if opt == nil || opt.UDPSize() != 1232 || !opt.Do() {
		t.Errorf("EDNS0 is %v, want 1232 octets and DO", opt)
	}
	if !q.AuthenticatedData || !q.RecursionDesired || q.CheckingDisabled {
		t.Errorf("flags are %v, want RD and AD, and not CD", q.MsgHdr)
	}
}

func TestServersInTurn(t *testing.T) {
	const mx = "example.test. 300 IN MX 10 mx.test."
	bad := map[string]func(string, *dns.Msg) [][]byte{
		"SERVFAIL": code(dns.RcodeServerFailure, 0, ""),
		"REFUSED":  code(dns.RcodeRefused, 0, ""),
		"FORMERR":  code(dns.RcodeFormatError, 0, ""),
		"silence":  silence,
		"a referral": func(_ string, q *dns.Msg) [][]byte {
			m := new(dns.Msg)
			m.SetReply(q)
			ns, _ := dns.NewRR("test. 300 IN NS ns.test.")
			m.Ns = []dns.RR{ns}
			return [][]byte{packed(m)}
		},
	}
	for name, handler := range bad {
		t.Run("after "+name+" the next server is asked", func(t *testing.T) {
			first, second := startServer(t), startServer(t, mx)
			first.handle(handler)
			a, err := newClient(t, Options{Timeout: quick}, first, second).MX(t.Context(), example)
			if err != nil || len(a.Records) != 1 {
				t.Fatalf("got %v, %v", a.Records, err)
			}
		})
		t.Run("DANE-2.1.1-04 "+name+" everywhere is an error, not the absence of records", func(t *testing.T) {
			s := startServer(t)
			s.handle(handler)
			_, err := newClient(t, Options{Timeout: quick}, s).TLSA(t.Context(), 25, addr.MustHost("mx.test"))
			wantFailed(t, err)
		})
	}
	t.Run("a silent server is asked three times", func(t *testing.T) {
		s := startServer(t, mx)
		s.handle(silence)
		_, err := newClient(t, Options{Timeout: quick}, s).MX(t.Context(), example)
		wantFailed(t, err)
		if n := s.asked("example.test", dns.TypeMX); n != 3 {
			t.Errorf("asked %d times", n)
		}
	})
	t.Run("a lost packet does not fail a lookup", func(t *testing.T) {
		s := startServer(t, mx)
		n := 0
		s.handle(func(_ string, q *dns.Msg) [][]byte {
			if n++; n == 1 {
				return nil
			}
			return [][]byte{packed(s.fromZone(q))}
		})
		if _, err := newClient(t, Options{Timeout: quick}, s).MX(t.Context(), example); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("a server that said no is not asked again", func(t *testing.T) {
		s := startServer(t)
		s.handle(code(dns.RcodeServerFailure, 0, ""))
		_, err := newClient(t, Options{}, s).MX(t.Context(), example)
		wantFailed(t, err)
		if n := s.total(); n != 1 {
			t.Errorf("asked %d times", n)
		}
	})
	t.Run("the budget ends it", func(t *testing.T) {
		s := startServer(t)
		s.handle(silence)
		_, err := newClient(t, Options{Timeout: time.Hour, Budget: quick}, s).MX(t.Context(), example)
		wantFailed(t, err)
	})
	t.Run("a server that was not reached within the budget is not blamed", func(t *testing.T) {
		first, second := startServer(t), startServer(t)
		first.handle(silence)
		_, err := newClient(t, Options{Timeout: time.Hour, Budget: quick}, first, second).MX(t.Context(), example)
		wantFailed(t, err)
		if !strings.Contains(err.Error(), first.addr.String()) || strings.Contains(err.Error(), second.addr.String()) {
			t.Errorf("error is %v", err)
		}
	})
	t.Run("the error names the server and its extended error", func(t *testing.T) {
		s := startServer(t)
		s.handle(code(dns.RcodeServerFailure, dns.ExtendedErrorCodeNoReachableAuthority, "at\r\ndelegation"))
		_, err := newClient(t, Options{}, s).MX(t.Context(), example)
		want := "looking up example.test MX: " + s.addr.String() + ": SERVFAIL (No Reachable Authority: at??delegation)"
		if err == nil || err.Error() != want {
			t.Errorf("error is\n%v, want\n%s", err, want)
		}
	})
}

func TestObserve(t *testing.T) {
	s := startServer(t, "example.test. 300 IN MX 10 mx.test.")
	seen := make(chan Observation, 1)
	c := newClient(t, Options{Observe: func(o Observation) { seen <- o }}, s)
	if _, err := c.MX(t.Context(), example); err != nil {
		t.Fatal(err)
	}
	if o := <-seen; o.Server != s.addr || o.Type != "MX" || o.Result != "NOERROR" || o.Took <= 0 {
		t.Errorf("observed %+v", o)
	}
}
