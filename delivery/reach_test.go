package delivery

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"stsrelay/internal/addr"
)

func addrPorts(list ...string) (out []netip.AddrPort) {
	for _, s := range list {
		out = append(out, netip.AddrPortFrom(netip.MustParseAddr(s), 25))
	}
	return out
}

func TestReachOrder(t *testing.T) {
	hop := addr.DomainHop(addr.MustDomain("a.example"))
	six, four := addrPorts("fd00::1", "fd00::2"), addrPorts("127.1.0.1", "127.1.0.2")
	all := slices.Concat(six, four)
	silence := errors.New("i/o timeout")
	tests := []struct {
		name string
		past func(r *reach)
		want []netip.AddrPort
	}{
		{"SMTP-5.1-08 without a past the order stays", func(*reach) {}, all},
		{"what did not connect comes last", func(r *reach) { r.unconnected("mx", six[0], silence) }, slices.Concat(six[1:], four, six[:1])},
		{"until it connects", func(r *reach) { r.unconnected("mx", six[0], silence); r.connected(six[0]) }, all},
		{"a family over which many hosts are silent comes behind the other", func(r *reach) {
			for i := range familyDoubt {
				r.unconnected(fmt.Sprint("mx", i), netip.AddrPortFrom(netip.MustParseAddr(fmt.Sprintf("fd00::f%d", i)), 25), silence)
			}
		}, slices.Concat(four, six)},
		{"one host that is silent at many addresses says nothing of its family", func(r *reach) {
			for i := range familyDoubt {
				r.unconnected("mx", netip.AddrPortFrom(netip.MustParseAddr(fmt.Sprintf("fd00::f%d", i)), 25), silence)
			}
		}, all},
		{"nor do hosts that refuse: they have answered", func(r *reach) {
			for i := range familyDoubt {
				r.unconnected(fmt.Sprint("mx", i), netip.AddrPortFrom(netip.MustParseAddr(fmt.Sprintf("fd00::f%d", i)), 25), syscall.ECONNREFUSED)
			}
		}, all},
		{"one answer of the family clears it", func(r *reach) {
			for i := range familyDoubt {
				r.unconnected(fmt.Sprint("mx", i), netip.AddrPortFrom(netip.MustParseAddr(fmt.Sprintf("fd00::f%d", i)), 25), silence)
			}
			r.connected(netip.MustParseAddrPort("[fd00::99]:25"))
		}, all},
		{"the address that put mail off comes first", func(r *reach) { r.ended(hop, []Outcome{putOff(four[1])}) }, slices.Concat(four[1:], six, four[:1])},
		{"unless it does not connect", func(r *reach) {
			r.ended(hop, []Outcome{putOff(four[1])})
			r.unconnected("mx", four[1], silence)
		}, slices.Concat(six, four)},
		{"what is busy (421, 452) does not put off", func(r *reach) {
			for _, code := range []int{421, 452} {
				o := putOff(four[1])
				o.Err.Code = code
				r.ended(hop, []Outcome{o})
			}
		}, all},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newReach()
			tt.past(r)
			if got := r.order(hop, all); !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		r := newReach()
		r.unconnected("mx", six[0], silence)
		r.ended(hop, []Outcome{putOff(four[1])})
		time.Sleep(failureLife)
		if got := r.order(hop, all); !slices.Equal(got, slices.Concat(four[1:], six, four[:1])) {
			t.Errorf("after %s: %v", failureLife, got)
		}
		time.Sleep(refusalLife)
		if got := r.order(hop, all); !slices.Equal(got, all) {
			t.Errorf("after %s more: %v", refusalLife, got)
		}
	})
}

func putOff(a netip.AddrPort) Outcome {
	return Outcome{Err: replyError(StageRcpt, addr.MustHost("mx.a.example"), a.String(), 450, [3]int{4, 2, 0}, "greylisted"), MX: addr.MustHost("mx.a.example"), Addr: a}
}

// Greylisting sees the same host again, whatever the order of equal MX records.
func TestGreylistingSeesTheSameHostAgain(t *testing.T) {
	w := newWorld(t)
	var hosts []*fakeMX
	for i := range 6 {
		name := fmt.Sprintf("mx%d.a.example", i)
		hosts = append(hosts, w.host("a.example", 10, plainMX(name, full...).says("RCPT", "451 4.7.1 greylisted, try again"), fmt.Sprintf("127.1.0.%d", i+1)))
	}
	c := w.client()
	first := ""
	for i := range 8 {
		out, _ := w.deliver(c, "a.example", job(fmt.Sprint(i), content, "u@a.example"))
		o := out[fmt.Sprint(i)].Outcomes[0]
		if first == "" {
			first = o.Addr.String()
		}
		if o.Addr.String() != first {
			t.Fatalf("attempt %d came to %s, the first to %s", i, o.Addr, first)
		}
	}
	asked := 0
	for _, h := range hosts {
		if h.look().conns > 0 {
			asked++
		}
	}
	if asked != 1 {
		t.Errorf("%d hosts were asked", asked)
	}
}

// A raceDialer has addresses that never answer and addresses that do.
type raceDialer struct {
	silent func(address string) bool
	dials  chan string
}

func (d raceDialer) DialContext(ctx context.Context, _, address string) (net.Conn, error) {
	d.dials <- address
	if d.silent(address) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	c, _ := net.Pipe()
	return c, nil
}

func TestTheFamiliesRace(t *testing.T) {
	six, four := addrPorts("fd00::1", "fd00::2"), addrPorts("127.1.0.1", "127.1.0.2")
	walkOver := func(t *testing.T, silent string, addrs ...netip.AddrPort) (to *line, took time.Duration, dials []string) {
		d := raceDialer{func(a string) bool { return strings.Contains(a, silent) }, make(chan string, 10)}
		c, err := New(Options{Hostname: "relay.example", Resolver: &planWorld{}, Policies: &planWorld{}, Dialer: d})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.pool.acquire(t.Context(), want{key: poolKey{host: "mx"}, use: func(*conn) bool { return false }}); err != nil {
			t.Fatal(err)
		}
		w := walk{Client: c, host: "mx", left: addrs, failed: func(netip.AddrPort, error) {}}
		began := time.Now()
		to = w.next(t.Context())
		took = time.Since(began)
		if to != nil && to.raw != nil {
			to.raw.Close()
		}
		c.pool.release("mx")
		if c.pool.total != 0 {
			t.Errorf("%d connections are counted in the end", c.pool.total)
		}
		close(d.dials)
		for a := range d.dials {
			dials = append(dials, a)
		}
		return to, took, dials
	}
	bubble := func(name string, f func(t *testing.T)) { t.Run(name, func(t *testing.T) { synctest.Test(t, f) }) }
	bubble("the first that answers is taken, and no other is dialed", func(t *testing.T) {
		to, took, dials := walkOver(t, "nobody", slices.Concat(six, four)...)
		if to == nil || to.addr != six[0] || took != 0 || len(dials) != 1 {
			t.Errorf("%v after %s, dialed %v", to, took, dials)
		}
	})
	bubble("the other family is tried beside a silent first", func(t *testing.T) {
		to, took, dials := walkOver(t, "fd00", slices.Concat(six, four)...)
		if to == nil || to.addr != four[0] || took != attemptDelay || !slices.Equal(dials, []string{"[fd00::1]:25", "127.1.0.1:25"}) {
			t.Errorf("%v after %s, dialed %v", to, took, dials)
		}
	})
	bubble("without another family each address has its whole time", func(t *testing.T) {
		to, took, dials := walkOver(t, "127", four...)
		if to != nil || took != 60*time.Second || len(dials) != 2 {
			t.Errorf("%v after %s, dialed %v", to, took, dials)
		}
	})
}
