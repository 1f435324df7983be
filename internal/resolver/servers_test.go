package resolver

import (
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func addresses(list []server) []string {
	var s []string
	for _, x := range list {
		s = append(s, x.address.String())
	}
	return s
}

func TestResolvConf(t *testing.T) {
	tests := map[string]struct {
		text string
		want []string
	}{
		"servers in order":                  {"# comment\nnameserver 192.0.2.1\nnameserver 2001:db8::1\n", []string{"192.0.2.1:53", "[2001:db8::1]:53"}},
		"a link-local server with zone":     {"nameserver fe80::1%eth0\n", []string{"[fe80::1%eth0]:53"}},
		"what is no address is passed over": {"nameserver dns.example\nnameserver 192.0.2.1\n", []string{"192.0.2.1:53"}},
		"none means this machine":           {"search example.test\n", []string{"127.0.0.1:53"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "resolv.conf")
			write(t, path, tt.text)
			s, err := newServers(Options{ResolvConf: path}, noon)
			if err != nil {
				t.Fatal(err)
			}
			if got := addresses(s.list(noon)); !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
	t.Run("a changed file is read again, and not looked at all the time", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "resolv.conf")
		write(t, path, "nameserver 192.0.2.1\n")
		s, err := newServers(Options{ResolvConf: path}, noon)
		if err != nil {
			t.Fatal(err)
		}
		write(t, path, "nameserver 192.0.2.1\nnameserver 192.0.2.2\n")
		if got := s.list(noon.Add(checkEvery - 1)); len(got) != 1 {
			t.Errorf("too early: %v", got)
		}
		if got := s.list(noon.Add(checkEvery)); len(got) != 2 {
			t.Errorf("not read again: %v", got)
		}
	})
	t.Run("a file that is missing means this machine, until it is there", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "resolv.conf")
		s, err := newServers(Options{ResolvConf: path}, noon)
		if err != nil {
			t.Fatal(err)
		}
		if got := addresses(s.list(noon)); !slices.Equal(got, []string{"127.0.0.1:53"}) {
			t.Errorf("got %v", got)
		}
		write(t, path, "nameserver 192.0.2.1\n")
		if got := addresses(s.list(noon.Add(time.Minute))); !slices.Equal(got, []string{"192.0.2.1:53"}) {
			t.Errorf("got %v", got)
		}
	})
	t.Run("a file that cannot be read is an error that says what to do", func(t *testing.T) {
		_, err := New(Options{ResolvConf: t.TempDir()})
		if err == nil {
			t.Fatal("a directory was read")
		}
	})
}

func TestDownServers(t *testing.T) {
	a, b := netip.MustParseAddrPort("127.0.0.1:53"), netip.MustParseAddrPort("127.0.0.2:53")
	fresh := func(t *testing.T) *servers {
		s, err := newServers(Options{Servers: []netip.AddrPort{a, b}}, noon)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	first := func(s *servers, now time.Time) netip.AddrPort { return s.list(now)[0].address }

	t.Run("three silences in a row put a server last, for a while", func(t *testing.T) {
		s := fresh(t)
		for i := range 3 {
			if first(s, noon) != a {
				t.Fatalf("last after %d", i)
			}
			s.note(a, errSilent, noon)
		}
		if first(s, noon) != b || !s.list(noon)[1].down {
			t.Error("still first after three")
		}
		if first(s, noon.Add(downFor)) != a {
			t.Error("still last when its time is over")
		}
	})
	t.Run("one reply clears it", func(t *testing.T) {
		s := fresh(t)
		for range 3 {
			s.note(a, errSilent, noon)
		}
		s.note(a, nil, noon)
		s.note(a, errSilent, noon)
		if first(s, noon) != a {
			t.Error("still last")
		}
	})
	t.Run("only what is on this machine is trusted unless the operator says so, and asked first", func(t *testing.T) {
		s := fresh(t)
		s.addresses = []netip.AddrPort{abroad, a}
		for range 3 {
			s.note(a, errSilent, noon)
		}
		if l := s.list(noon); !l[0].trusted || l[1].trusted || l[0].address != a {
			t.Errorf("%+v", l)
		}
		s.trustAD = true
		if l := s.list(noon); !l[0].trusted || !l[1].trusted || l[0].address != abroad {
			t.Errorf("%+v", l)
		}
	})
	t.Run("a dead server is asked once, not three times", func(t *testing.T) {
		f := startServer(t)
		f.handle(silence)
		c := newClient(t, Options{Timeout: quick}, f)
		for range 3 {
			c.servers.note(f.addr, errSilent, time.Now())
		}
		_, err := c.MX(t.Context(), example)
		wantFailed(t, err)
		if n := f.total(); n != 1 {
			t.Errorf("asked %d times", n)
		}
	})
}
