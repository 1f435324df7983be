package resolver

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// A fakeServer is a DNS server on loopback, UDP and TCP on one port. Without
// answer it serves its zone; answer may send any bytes, or nothing.
type fakeServer struct {
	addr netip.AddrPort

	mu      sync.Mutex // guards what follows
	zone    []dns.RR
	secure  map[string]bool // names answered with AD
	queries []dns.Question
	last    *dns.Msg
	answer  func(network string, q *dns.Msg) [][]byte
}

func startServer(t *testing.T, zone ...string) *fakeServer {
	t.Helper()
	s := &fakeServer{secure: map[string]bool{}}
	s.add(t, zone...)
	tcp, udp := listen(t)
	s.addr = netip.MustParseAddrPort(udp.LocalAddr().String())
	var wg sync.WaitGroup
	wg.Go(func() { s.serveUDP(udp) })
	wg.Go(func() { s.serveTCP(tcp) })
	t.Cleanup(func() {
		tcp.Close()
		udp.Close()
		wg.Wait()
	})
	return s
}

func listen(t *testing.T) (net.Listener, net.PacketConn) {
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

func (s *fakeServer) add(t *testing.T, zone ...string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, line := range zone {
		rr, err := dns.NewRR(line)
		if err != nil {
			t.Fatal(err)
		}
		s.zone = append(s.zone, rr)
	}
}

// sign makes what is said about names secure.
func (s *fakeServer) sign(names ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range names {
		s.secure[n] = true
	}
}

func (s *fakeServer) lastQuery() *dns.Msg {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

func (s *fakeServer) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.zone = nil
}

func (s *fakeServer) handle(f func(network string, q *dns.Msg) [][]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = f
}

// asked counts the queries for a name and type.
func (s *fakeServer) asked(name string, qtype uint16) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, q := range s.queries {
		if strings.EqualFold(q.Name, dns.Fqdn(name)) && q.Qtype == qtype {
			n++
		}
	}
	return n
}

func (s *fakeServer) total() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.queries)
}

func (s *fakeServer) serveUDP(conn net.PacketConn) {
	buf := make([]byte, 4096)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return
		}
		for _, b := range s.reply("udp", buf[:n]) {
			conn.WriteTo(b, from)
		}
	}
}

func (s *fakeServer) serveTCP(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		var size [2]byte
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.ReadFull(conn, size[:]); err == nil {
			b := make([]byte, binary.BigEndian.Uint16(size[:]))
			if _, err := io.ReadFull(conn, b); err == nil {
				for _, r := range s.reply("tcp", b) {
					conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(r))), r...))
				}
			}
		}
		conn.Close()
	}
}

func (s *fakeServer) reply(network string, b []byte) [][]byte {
	q := new(dns.Msg)
	if q.Unpack(b) != nil {
		return nil
	}
	s.mu.Lock()
	s.queries = append(s.queries, q.Question...)
	s.last = q
	answer := s.answer
	s.mu.Unlock()
	if answer != nil {
		return answer(network, q)
	}
	return [][]byte{packed(s.fromZone(q))}
}

// fromZone answers as a resolver does: CNAMEs expanded, SOA with denials.
func (s *fakeServer) fromZone(q *dns.Msg) *dns.Msg {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := new(dns.Msg)
	m.SetReply(q)
	m.RecursionAvailable = true
	m.AuthenticatedData = true
	name, found, exists := q.Question[0].Name, false, false
	for hop := 0; hop < 20; hop++ {
		m.AuthenticatedData = m.AuthenticatedData && s.secure[lower(name)]
		next := ""
		exists = false
		for _, rr := range s.zone {
			if !strings.EqualFold(rr.Header().Name, name) {
				continue
			}
			exists = true
			switch c, alias := rr.(*dns.CNAME); {
			case rr.Header().Rrtype == q.Question[0].Qtype:
				found = true
				m.Answer = append(m.Answer, rr)
			case alias:
				m.Answer = append(m.Answer, rr)
				next = c.Target
			}
		}
		if next == "" {
			break
		}
		name = next
	}
	if found {
		return m
	}
	if !exists {
		m.Rcode = dns.RcodeNameError
	}
	for _, rr := range s.zone {
		if rr.Header().Rrtype == dns.TypeSOA && dns.IsSubDomain(rr.Header().Name, name) {
			m.Ns = append(m.Ns, rr)
		}
	}
	return m
}

func packed(m *dns.Msg) []byte {
	b, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return b
}

// code answers every query with an RCODE, and an extended error if it has text.
func code(rcode int, ede uint16, text string) func(string, *dns.Msg) [][]byte {
	return func(_ string, q *dns.Msg) [][]byte {
		m := new(dns.Msg)
		m.SetRcode(q, rcode)
		if text != "" {
			m.SetEdns0(1232, true)
			m.IsEdns0().Option = append(m.IsEdns0().Option, &dns.EDNS0_EDE{InfoCode: ede, ExtraText: text})
		}
		return [][]byte{packed(m)}
	}
}

func silence(string, *dns.Msg) [][]byte { return nil }

// newClient makes a client of the servers with times fit for tests.
func newClient(t *testing.T, o Options, servers ...*fakeServer) *Client {
	t.Helper()
	for _, s := range servers {
		o.Servers = append(o.Servers, s.addr)
	}
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// quick is for servers that stay silent.
const quick = 60 * time.Millisecond

// A mapDialer leads fake server addresses to real ones, and tells of each
// connection that is closed.
type mapDialer struct {
	to     map[string]netip.AddrPort
	closed chan string // nil: nobody wants to know
}

func (d mapDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if to, ok := d.to[address]; ok {
		address = to.String()
	}
	var nd net.Dialer
	conn, err := nd.DialContext(ctx, network, address)
	if err != nil || d.closed == nil {
		return conn, err
	}
	return &toldConn{Conn: conn, closed: d.closed, name: network}, nil
}

type toldConn struct {
	net.Conn
	once   sync.Once
	closed chan string
	name   string
}

func (c *toldConn) Close() error {
	c.once.Do(func() { c.closed <- c.name })
	return c.Conn.Close()
}
