package lab_test

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"stsrelay/internal/lab"
)

func TestDialerFailsAsItIsTold(t *testing.T) {
	w, ctx := start(t)
	mx := w.AddMX(lab.MX{Name: host})
	at := mx.Addr() + ":25"
	for _, row := range []struct {
		why   string
		fault lab.Fault
		want  error
	}{
		{"refused", lab.Refuse, syscall.ECONNREFUSED},
		{"no route", lab.Unreachable, syscall.EHOSTUNREACH},
		{"timed out", lab.Timeout, os.ErrDeadlineExceeded},
		{"hanging", lab.Hang, context.Canceled},
	} {
		t.Run(row.why, func(t *testing.T) {
			w.Dialer().Fail(mx.Addr(), row.fault)
			defer w.Dialer().Fail(mx.Addr(), lab.NoFault)
			before := w.Dialer().Dials(at)
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			if row.fault == lab.Hang {
				go func() {
					w.Dialer().WaitDials(ctx, at, before+1)
					cancel()
				}()
			}
			_, err := w.Dialer().DialContext(ctx, "tcp", at)
			var op *net.OpError
			if !errors.Is(err, row.want) || !errors.As(err, &op) || op.Op != "dial" || op.Timeout() != (row.fault == lab.Timeout) {
				t.Errorf("dialing says %v", err)
			}
		})
	}
	if w.Dialer().Dials(at) != 4 || w.Dialer().Dials(mx.Addr()) != 4 || w.Dialer().Total() != 4 || mx.Connections() != 0 {
		t.Errorf("the dials are %v", w.Dialer().All())
	}
	w.Dialer().Fail(at, lab.Refuse)
	if _, err := w.Dialer().DialContext(ctx, "tcp", at); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("with one port failing dialing says %v", err)
	}
}

func TestDialerLeadsNowhereElse(t *testing.T) {
	w, ctx := start(t)
	for address, want := range map[string]error{
		w.NewAddr().String() + ":25": syscall.ECONNREFUSED,
		"192.0.2.1:25":               syscall.ECONNREFUSED,
		"[2001:db8::1]:25":           syscall.ECONNREFUSED,
	} {
		if _, err := w.Dialer().DialContext(ctx, "tcp", address); !errors.Is(err, want) {
			t.Errorf("dialing %s says %v", address, err)
		}
	}
	if _, err := w.Dialer().DialContext(ctx, "tcp", "localhost:25"); err == nil || !strings.Contains(err.Error(), "names are for DNS") {
		t.Errorf("dialing a name says %v", err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	conn, err := w.Dialer().DialContext(ctx, "tcp", ln.Addr().String())
	if err != nil {
		t.Fatalf("a server of the test's own is not reached: %v", err)
	}
	conn.Close()
}

func TestDialerSpeaksUDPToDNS(t *testing.T) {
	w, ctx := start(t)
	conn, err := w.Dialer().DialContext(ctx, "udp", w.DNSServers()[0])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	c := &dns.Conn{Conn: conn}
	if err := c.WriteMsg(new(dns.Msg).SetQuestion(".", dns.TypeNS)); err != nil {
		t.Fatal(err)
	}
	if m, err := c.ReadMsg(); err != nil || len(m.Answer) != 1 {
		t.Errorf("the answer is %v, %v", m, err)
	}
}

func TestConnectionsShowTheAddressTheyWereMadeTo(t *testing.T) {
	w, ctx := start(t)
	mx := w.AddMX(lab.MX{Name: host, OnlyIPv6: true, Domains: []string{"example.test"}})
	if m := ask(t, w, "udp", host+".", "A"); m.Answer != nil {
		t.Errorf("a host with IPv6 only has %v", m.Answer)
	}
	aaaa := ask(t, w, "udp", host+".", "AAAA").Answer[0].(*dns.AAAA).AAAA.String()
	if aaaa != mx.Addr6() || !strings.HasPrefix(aaaa, "fd00:") {
		t.Errorf("its address is %s, not %s", aaaa, mx.Addr6())
	}
	conn, err := w.Dialer().DialContext(ctx, "tcp", net.JoinHostPort(aaaa, "25"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got := conn.RemoteAddr().String(); got != net.JoinHostPort(aaaa, "25") {
		t.Errorf("the remote address is %s", got)
	}
	if _, ok := conn.(syscall.Conn); !ok {
		t.Error("the socket cannot be asked")
	}
}

// onRealPorts starts a World on ports 25, 53 and 443. Where that needs rights
// that are not here the test is left out; make test insists on them.
func onRealPorts(t *testing.T) *lab.World {
	t.Helper()
	w, err := lab.Start(lab.Options{RealPorts: true})
	if errors.Is(err, os.ErrPermission) && os.Getenv("STSRELAY_INTEGRATION") == "" {
		t.Skip("left out: it needs the ports 25, 53 and 443 of loopback addresses; run `make test` as root, or set net.ipv4.ip_unprivileged_port_start=25")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

func TestRealPortsNeedNoDialer(t *testing.T) {
	w := onRealPorts(t)
	mx := w.AddMX(lab.MX{Name: host, Domains: []string{"example.test"}})
	p := w.AddPolicy(lab.Policy{Domain: "example.test"})
	if !strings.HasSuffix(w.DNSServers()[0], ":53") || mx.Listen() != mx.Addr()+":25" {
		t.Errorf("DNS at %s, MX at %s", w.DNSServers()[0], mx.Listen())
	}
	if got := lookup(t, w, host); got != mx.Addr() {
		t.Errorf("the MX is at %s, not %s", got, mx.Addr())
	}
	for _, at := range []string{mx.Addr() + ":25", p.Addr() + ":443"} {
		conn, err := net.DialTimeout("tcp", at, patience)
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
	}
	dial(t, w, host).read() // the Dialer works all the same
	mx.Down()
	mx.Down()
	if _, err := net.DialTimeout("tcp", mx.Addr()+":25", patience); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("while it is down, dialing says %v", err)
	}
	mx.Up()
	dial(t, w, host).read()
	other, err := lab.Start(lab.Options{RealPorts: true})
	if err != nil {
		t.Fatalf("a second world cannot be had: %v", err)
	}
	defer other.Close()
	other.AddMX(lab.MX{Name: host})
}

func TestTheDNSAddressCanBeChosen(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free := ln.Addr().String()
	if _, err := lab.Start(lab.Options{DNSAddr: free}); err == nil {
		t.Error("an address in use is taken")
	}
	ln.Close()
	w, err := lab.Start(lab.Options{DNSAddr: free})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if w.DNSServers()[0] != free {
		t.Errorf("it listens at %s", w.DNSServers()[0])
	}
}
