package lab

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// links is how many CNAME records of a chain an answer holds at most.
const links = 32

// startDNS starts the name server of w. It knows the root's name servers, for
// resolvers that test their server with that question.
func startDNS(w *World) (*DNS, error) {
	d := &DNS{
		w:       w,
		records: map[string][]dns.RR{},
		secure:  map[string]bool{},
		signed:  map[string]bool{},
		behave:  map[question][]*Behaviour{},
		negTTL:  300,
		negMin:  300,
	}
	tcp, udp, err := listenDNS(w)
	if err != nil {
		return nil, err
	}
	d.addr = udp.LocalAddr().(*net.UDPAddr).AddrPort()
	d.Add(". 86400 IN NS a.root-servers.test.")
	accept := func(dns.Header) dns.MsgAcceptAction { return dns.MsgAccept }
	for _, s := range []*dns.Server{
		{PacketConn: udp, Handler: d, MsgAcceptFunc: accept, UDPSize: 4096},
		{Listener: tcp, Handler: d, MsgAcceptFunc: accept},
	} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		w.wg.Go(func() { s.ActivateAndServe() }) // ends with Shutdown, and has nothing else to say
		<-started
		w.onClose(func() { s.Shutdown() })
	}
	return d, nil
}

// listenDNS finds a port that is free for both UDP and TCP.
func listenDNS(w *World) (net.Listener, net.PacketConn, error) {
	want, tries := first(w.opts.DNSAddr, "127.0.0.1:0"), 50
	if w.opts.DNSAddr != "" {
		tries = 1
	}
	var err error
	for range tries {
		if w.opts.RealPorts && w.opts.DNSAddr == "" {
			want = netip.AddrPortFrom(w.NewAddr(), 53).String()
		}
		var tcp net.Listener
		if tcp, err = net.Listen("tcp", want); err != nil {
			if inUse(err) {
				continue
			}
			break
		}
		var udp net.PacketConn
		if udp, err = net.ListenPacket("udp", tcp.Addr().String()); err == nil {
			return tcp, udp, nil
		}
		tcp.Close()
	}
	return nil, nil, fmt.Errorf("lab: listening for DNS questions: %w", err)
}

// ServeDNS answers one question.
func (d *DNS) ServeDNS(rw dns.ResponseWriter, q *dns.Msg) {
	if len(q.Question) != 1 {
		d.send(rw, new(dns.Msg).SetRcodeFormatError(q))
		return
	}
	network := rw.RemoteAddr().Network()
	b, down := d.note(network, q)
	if network == "tcp" && b.OnlyUDP {
		b = Behaviour{}
	}
	switch {
	case down, b.Drop, b.NoTCP && network == "tcp":
		if network == "tcp" {
			rw.Close()
		}
		return
	}
	if !d.linger(b) {
		return
	}
	truth := d.answer(q, b)
	if b.Truncate && network == "udp" {
		truth.Answer, truth.Ns, truth.Truncated = nil, nil, true
	}
	if lied := d.lie(rw, truth, b); lied && !b.AndTruth {
		return
	}
	if network == "udp" {
		truth.Truncate(size(q))
	}
	d.send(rw, truth)
}

// note logs a question and picks the behaviour for it.
func (d *DNS) note(network string, m *dns.Msg) (b Behaviour, down bool) {
	q := m.Question[0]
	name, typ := canonical(q.Name), dns.Type(q.Qtype).String()
	entry := Query{Name: name, Type: typ, Net: network, AD: m.AuthenticatedData}
	if o := m.IsEdns0(); o != nil {
		entry.DO, entry.UDPSize = o.Do(), o.UDPSize()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	defer d.sig.raise()
	d.log = append(d.log, entry)
	for _, k := range []question{{name, typ}, {name, ""}, {"", typ}, {"", ""}} {
		list := d.behave[k]
		if len(list) == 0 {
			continue
		}
		b = *list[0]
		if b.Times > 0 {
			if list[0].Times--; list[0].Times == 0 {
				d.behave[k] = list[1:]
			}
		}
		break
	}
	return b, d.down
}

// linger waits as b wants. It is false when the world ends first.
func (d *DNS) linger(b Behaviour) bool {
	if b.Delay > 0 {
		t := time.NewTimer(b.Delay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-d.w.done:
			return false
		}
	}
	if b.Until != nil {
		select {
		case <-b.Until:
		case <-d.w.done:
			return false
		}
	}
	return true
}

// answer is what is true, or what b says is the outcome.
func (d *DNS) answer(q *dns.Msg, b Behaviour) *dns.Msg {
	m := new(dns.Msg).SetReply(q)
	m.RecursionAvailable, m.Compress = true, true
	o := q.IsEdns0()
	if o != nil {
		m.SetEdns0(4096, o.Do())
		if b.EDE != 0 || b.EDEText != "" {
			m.IsEdns0().Option = append(m.IsEdns0().Option, &dns.EDNS0_EDE{InfoCode: b.EDE, ExtraText: b.EDEText})
		}
	}
	if b.Rcode != "" {
		m.Rcode = rcodeOf(b.Rcode)
		return m
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	secure := d.follow(m)
	m.Answer = append(m.Answer, parse(b.Add)...)
	if b.NoSOA {
		m.Ns = nil
	}
	wanted := q.AuthenticatedData || o != nil && o.Do()
	m.AuthenticatedData = secure && wanted && !b.NoAD
	return m
}

// follow fills m with the CNAME chain from the question's name and what is at
// its end, and reports whether all of that is authenticated. The rcode is that
// of the last name (RFC 6604, Section 2.1).
func (d *DNS) follow(m *dns.Msg) (secure bool) {
	name, qtype := canonical(m.Question[0].Name), m.Question[0].Qtype
	secure = d.isSecure(name)
	for range links {
		var found []dns.RR
		next := ""
		for _, rr := range d.records[name] {
			if rr.Header().Rrtype == qtype || qtype == dns.TypeANY {
				found = append(found, dns.Copy(rr))
			} else if c, ok := rr.(*dns.CNAME); ok {
				m.Answer = append(m.Answer, dns.Copy(rr))
				next = canonical(c.Target)
			}
		}
		if found != nil {
			m.Answer = append(m.Answer, found...)
			return secure
		}
		if next == "" {
			if !d.exists(name) {
				m.Rcode = dns.RcodeNameError
			}
			m.Ns = append(m.Ns, d.soa(name))
			return secure
		}
		name = next
		secure = secure && d.isSecure(name)
	}
	return secure
}

// exists reports whether there is anything at or below name (RFC 8020).
func (d *DNS) exists(name string) bool {
	for have := range d.records {
		if dns.IsSubDomain(name, have) {
			return true
		}
	}
	return false
}

func (d *DNS) isSecure(name string) bool {
	if s, ok := d.secure[name]; ok {
		return s
	}
	for _, zone := range upwards(name) {
		if s, ok := d.signed[zone]; ok {
			return s
		}
	}
	return false
}

// soa is the SOA record of the zone that name is in: one that was added, else
// one made up for its last label.
func (d *DNS) soa(name string) dns.RR {
	zones := upwards(name)
	for _, zone := range zones {
		for _, rr := range d.records[zone] {
			if rr.Header().Rrtype == dns.TypeSOA {
				return dns.Copy(rr)
			}
		}
	}
	apex := zones[max(0, len(zones)-2)]
	return &dns.SOA{
		Hdr:     dns.RR_Header{Name: apex, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: d.negTTL},
		Ns:      "ns.lab.test.",
		Mbox:    "hostmaster.lab.test.",
		Serial:  1,
		Refresh: 3600,
		Retry:   600,
		Expire:  86400,
		Minttl:  d.negMin,
	}
}

// upwards is name and all its parents, the root last.
func upwards(name string) (list []string) {
	for name != "." && name != "" {
		list = append(list, name)
		_, name, _ = strings.Cut(name, ".")
	}
	return append(list, ".")
}

// lie sends what b has in place of, or before, the truth.
func (d *DNS) lie(rw dns.ResponseWriter, truth *dns.Msg, b Behaviour) (lied bool) {
	if b.Garbage != nil {
		rw.Write(b.Garbage)
		return true
	}
	if !b.WrongID && !b.WrongName && !b.NotReply {
		return false
	}
	m := truth.Copy()
	m.Question = slices.Clone(m.Question)
	if b.WrongID {
		m.Id ^= 0x5555
	}
	if b.WrongName {
		m.Question[0].Name = "wrong-question.test."
	}
	if b.NotReply {
		m.Response = false
	}
	d.send(rw, m)
	return true
}

// send writes m. Who asked may have gone: nobody is told then.
func (d *DNS) send(rw dns.ResponseWriter, m *dns.Msg) { _ = rw.WriteMsg(m) }

// size is how large an answer over UDP may be.
func size(q *dns.Msg) int {
	if o := q.IsEdns0(); o != nil {
		return int(max(o.UDPSize(), dns.MinMsgSize))
	}
	return dns.MinMsgSize
}
