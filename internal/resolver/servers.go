package resolver

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	checkEvery = 5 * time.Second  // how often resolv.conf is looked at
	downAfter  = 3                // silences in a row that make a server count as down
	downFor    = 30 * time.Second // how long it is asked last, and once only
)

// A server is one DNS server, as it looked when a lookup began.
type server struct {
	address netip.AddrPort
	trusted bool // its AD bit counts
	down    bool // silent of late
}

// servers knows whom to ask, in which order.
type servers struct {
	trustAD bool
	path    string // "": the addresses are fixed

	mu        sync.Mutex // guards what follows
	addresses []netip.AddrPort
	misses    map[netip.AddrPort]misses
	seen      fs.FileInfo // of path, nil: it was not there
	checked   time.Time
}

type misses struct {
	n    int
	last time.Time
}

func newServers(o Options, now time.Time) (*servers, error) {
	s := &servers{trustAD: o.TrustAD, addresses: slices.Clone(o.Servers), misses: map[netip.AddrPort]misses{}}
	if len(s.addresses) > 0 {
		return s, nil
	}
	s.path = o.ResolvConf
	if err := s.read(now); err != nil {
		return nil, fmt.Errorf("finding DNS servers: %w; set [dns] servers", err)
	}
	return s, nil
}

// list returns the servers in the order to ask them: trusted ones first, those
// that are down last among their like, else as configured.
func (s *servers) list(now time.Time) []server {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.path != "" && now.Sub(s.checked).Abs() >= checkEvery {
		_ = s.read(now) // when that fails, what was read before stays in force
	}
	list := make([]server, 0, len(s.addresses))
	for _, a := range s.addresses {
		m := s.misses[a]
		list = append(list, server{
			address: a,
			trusted: s.trustAD || a.Addr().IsLoopback(),
			down:    m.n >= downAfter && now.Sub(m.last).Abs() < downFor,
		})
	}
	slices.SortStableFunc(list, func(a, b server) int { return cmp.Compare(a.rank(), b.rank()) })
	return list
}

func (s server) rank() (n int) {
	if !s.trusted {
		n += 2
	}
	if s.down {
		n++
	}
	return n
}

// note remembers how a try went. One slow domain must not make a server look
// dead, so only silences with no reply between them count.
func (s *servers) note(a netip.AddrPort, err error, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		delete(s.misses, a)
		return
	}
	s.misses[a] = misses{n: s.misses[a].n + 1, last: now}
}

// read reads resolv.conf if it changed since it was last read. A file that is
// missing or names no server means the name server on this machine, as
// resolv.conf(5) says. Caller holds mu, or has s to itself.
func (s *servers) read(now time.Time) error {
	s.checked = now
	info, err := os.Stat(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		s.seen, s.addresses = nil, localServers()
		return nil
	}
	if err != nil {
		return err
	}
	if s.seen != nil && os.SameFile(s.seen, info) && s.seen.ModTime().Equal(info.ModTime()) && s.seen.Size() == info.Size() {
		return nil
	}
	text, err := os.ReadFile(s.path)
	if err != nil {
		return err
	}
	conf, err := dns.ClientConfigFromReader(bytes.NewReader(text))
	if err != nil {
		return fmt.Errorf("%s: %w", s.path, err)
	}
	var addresses []netip.AddrPort
	for _, name := range conf.Servers {
		if ip, err := netip.ParseAddr(name); err == nil {
			addresses = append(addresses, netip.AddrPortFrom(ip, 53))
		}
	}
	if len(addresses) == 0 {
		addresses = localServers()
	}
	s.seen, s.addresses = info, addresses
	return nil
}

func localServers() []netip.AddrPort {
	return []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 53)}
}
