// Package unboundtest is a small signed DNS, from the root down, and a real
// unbound that validates it: for tests of what we make of a validating
// resolver's answers. All of it is on loopback and ends with the test.
package unboundtest

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// A State is how a zone is served.
type State int

// The states. In all of them but Insecure the parent has a DS record.
const (
	Secure   State = iota // properly signed
	Insecure              // not signed, and the parent proves that it need not be
	Altered               // the signatures are not those of the records
	Expired               // the signatures were good until a week ago
	Early                 // the signatures are good from next week on
	Unsigned              // the signatures are missing: DNSSEC was stripped
	Keyless               // the queries for the keys fail: RFC 4035's "indeterminate"
	Failing               // the server says SERVFAIL
	Dead                  // no server is where the zone's should be
)

// A Zone is one zone as its operator writes it.
type Zone struct {
	Name  string // absolute, with trailing dot
	State State
	Text  string // in zone file format, relative to Name; SOA, NS and DS are made
}

// A DNS is an authoritative server of a root zone and the zones below it.
type DNS struct {
	zones []*zone // those with the longest names first
	addr  netip.AddrPort
}

// Serve signs zones and serves them until the test ends.
func Serve(t testing.TB, zones ...Zone) *DNS {
	t.Helper()
	signed, err := sign(append(zones, Zone{Name: "."}))
	if err != nil {
		t.Fatal(err)
	}
	tcp, udp := listen(t)
	d := &DNS{zones: signed, addr: netip.MustParseAddrPort(udp.LocalAddr().String())}
	d.serve(t, &dns.Server{Listener: tcp, Handler: d})
	d.serve(t, &dns.Server{PacketConn: udp, Handler: d})
	return d
}

// listen opens UDP and TCP on one port.
func listen(t testing.TB) (net.Listener, net.PacketConn) {
	t.Helper()
	for range 20 {
		tcp, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		udp, err := net.ListenPacket("udp", tcp.Addr().String())
		if err == nil {
			return tcp, udp
		}
		tcp.Close()
	}
	t.Fatal("no port free for both UDP and TCP")
	return nil, nil
}

func (d *DNS) serve(t testing.TB, s *dns.Server) {
	up, down := make(chan struct{}), make(chan struct{})
	s.NotifyStartedFunc = func() { close(up) }
	go func() {
		defer close(down)
		s.ActivateAndServe()
	}()
	<-up
	t.Cleanup(func() {
		s.Shutdown()
		<-down
	})
}

// ServeDNS answers one query of unbound, which asks us for all zones: there are
// no referrals.
func (d *DNS) ServeDNS(w dns.ResponseWriter, query *dns.Msg) {
	m := new(dns.Msg)
	m.SetReply(query)
	m.Authoritative = true
	q := query.Question[0]
	q.Name = dns.CanonicalName(q.Name) // unbound's letters are of random case
	d.zone(q).answer(m, q)
	if opt := query.IsEdns0(); opt != nil {
		m.SetEdns0(1232, opt.Do())
	}
	if w.LocalAddr().Network() == "udp" {
		m.Truncate(1232)
	}
	w.WriteMsg(m)
}

// zone is the one that answers q: what is below the longest name, but the
// parent speaks of a zone's DS.
func (d *DNS) zone(q dns.Question) *zone {
	for _, z := range d.zones {
		if dns.IsSubDomain(z.name, q.Name) && (q.Qtype != dns.TypeDS || q.Name != z.name || z.name == ".") {
			return z
		}
	}
	panic("the root zone is above every name")
}

// answer fills in m.
func (z *zone) answer(m *dns.Msg, q dns.Question) {
	node := z.nodes[q.Name]
	_, alias := node[dns.TypeCNAME]
	switch {
	case z.state == Failing, z.state == Keyless && q.Qtype == dns.TypeDNSKEY:
		m.Rcode = dns.RcodeServerFailure
	case node[q.Qtype] != nil:
		m.Answer = node[q.Qtype]
	case alias:
		m.Answer = node[dns.TypeCNAME]
	default:
		z.deny(m, q.Name)
	}
}

// deny says, with proof, that name does not exist or has no such type (RFC
// 4035, Section 3.1.3).
func (z *zone) deny(m *dns.Msg, name string) {
	m.Ns = append(m.Ns, z.nodes[z.name][dns.TypeSOA]...)
	m.Ns = append(m.Ns, z.covering(name)...)
	if z.exists(name) {
		return
	}
	m.Rcode = dns.RcodeNameError
	encloser := name
	for !z.exists(encloser) {
		encloser = above(encloser) // the zone's own name exists
	}
	wildcard := z.covering("*." + strings.TrimPrefix(encloser, "."))
	m.Ns = dns.Dedup(append(m.Ns, wildcard...), nil)
}

// above is name without its first label.
func above(name string) string {
	next, last := dns.NextLabel(name, 0)
	if last {
		return "."
	}
	return name[next:]
}
