package lab

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// DNS is the one name server of a World: it knows all names and answers as a
// recursive resolver does. Names are written with or without the last dot, in
// any case; types and rcodes by their names ("MX", "SERVFAIL").
type DNS struct {
	w    *World
	addr netip.AddrPort
	sig  signal

	mu      sync.Mutex // guards what follows
	records map[string][]dns.RR
	secure  map[string]bool // names of which SetAD spoke
	signed  map[string]bool // zones of which Sign spoke
	behave  map[question][]*Behaviour
	log     []Query
	down    bool
	negTTL  uint32
	negMin  uint32
}

// A Query is a question the server was asked.
type Query struct {
	Name, Type string // "example.test.", "MX"
	Net        string // "udp" or "tcp"
	DO, AD     bool   // the bits of the query
	UDPSize    uint16 // the EDNS0 buffer size, 0 without EDNS0
}

// A Behaviour is what the server does with a question instead of simply
// answering it. The zero value answers with the truth.
type Behaviour struct {
	Times int // how many questions it rules, then the next one does; 0: all

	Drop      bool            // say nothing
	Rcode     string          // "SERVFAIL", "REFUSED", "NXDOMAIN", ...: no records, that code
	Delay     time.Duration   // before the answer
	Until     <-chan struct{} // answer when it is closed
	Truncate  bool            // over UDP: empty answer with TC; the truth over TCP
	NoTCP     bool            // over TCP: hang up
	OnlyUDP   bool            // the rest of this Behaviour is for UDP only
	NoSOA     bool            // negative answers lack it
	NoAD      bool            // clear AD
	EDE       uint16          // Extended DNS Error (RFC 8914): info code; given when EDE or EDEText is set
	EDEText   string          // and its text
	Add       string          // zone text that stands in the answer besides the truth, unasked
	WrongID   bool            // another message ID
	WrongName bool            // another name in the question section
	NotReply  bool            // QR=0: looks like a query
	Garbage   []byte          // these bytes instead of a message
	AndTruth  bool            // the truth follows what was said by WrongID, WrongName, NotReply or Garbage, as if someone else had said that
}

type question struct{ name, typ string }

// Addr is where the server listens: "127.0.0.1:53535".
func (d *DNS) Addr() string { return d.addr.String() }

// Add adds records in zone file syntax, one a line, names with their last dot:
//
//	example.test. 300 IN MX 10 mx.example.test.
//
// A record that is there already is not added twice.
func (d *DNS) Add(zone string) {
	for _, rr := range parse(zone) {
		d.mu.Lock()
		name := canonical(rr.Header().Name)
		if !has(d.records[name], rr) {
			d.records[name] = append(d.records[name], rr)
		}
		d.mu.Unlock()
	}
}

// Set is Add that takes what is there of each name and type away first.
func (d *DNS) Set(zone string) {
	for _, rr := range parse(zone) {
		d.Remove(rr.Header().Name, dns.TypeToString[rr.Header().Rrtype])
	}
	d.Add(zone)
}

// SetTXT puts TXT records at name, one for each text, in place of those that
// are there. Texts of more than 255 bytes are cut into strings of that length.
func (d *DNS) SetTXT(name string, texts ...string) { d.setTXT(name, 300, texts) }

func (d *DNS) setTXT(name string, ttl uint32, texts []string) {
	d.Remove(name, "TXT")
	name = canonical(name)
	for _, t := range texts {
		rr := &dns.TXT{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: ttl}}
		for len(t) > 255 {
			rr.Txt, t = append(rr.Txt, escape(t[:255])), t[255:]
		}
		rr.Txt = append(rr.Txt, escape(t))
		d.mu.Lock()
		d.records[name] = append(d.records[name], rr)
		d.mu.Unlock()
	}
}

// escape writes a text as the DNS library wants it.
func escape(s string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s)
}

// Remove takes the records of a name and type away; type "" is all of them.
func (d *DNS) Remove(name, typ string) {
	name = canonical(name)
	t := dns.TypeNone
	if typ != "" {
		t = typeOf(typ)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var keep []dns.RR
	for _, rr := range d.records[name] {
		if typ != "" && rr.Header().Rrtype != t {
			keep = append(keep, rr)
		}
	}
	if keep == nil {
		delete(d.records, name)
		return
	}
	d.records[name] = keep
}

// Fail has questions for name and type answered with an rcode such as
// "SERVFAIL". An empty name or type stands for all.
func (d *DNS) Fail(name, typ, rcode string) { d.Behave(name, typ, Behaviour{Rcode: rcode}) }

// Bogus has questions for name and type answered as a resolver does that finds
// the signatures wrong: SERVFAIL, and why as an Extended DNS Error (RFC 8914,
// Section 4.7).
func (d *DNS) Bogus(name, typ string) {
	d.Behave(name, typ, Behaviour{Rcode: "SERVFAIL", EDE: dns.ExtendedErrorCodeDNSBogus, EDEText: "signature crypto failed"})
}

// Behave has questions for name and type treated by the behaviours, one after
// the other, each for its Times; after the last, the truth is told. Without
// behaviours it is told at once. An empty name or type stands for all; the
// most special entry rules: name and type, then name, then type, then all.
func (d *DNS) Behave(name, typ string, list ...Behaviour) {
	q := question{typ: strings.ToUpper(typ)}
	if name != "" {
		q.name = canonical(name)
	}
	if typ != "" {
		typeOf(typ)
	}
	var own []*Behaviour
	for _, b := range list {
		if b.Rcode != "" {
			rcodeOf(b.Rcode)
		}
		parse(b.Add)
		own = append(own, &b)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.behave[q] = own
}

// SetAD says whether answers about exactly this name are authenticated. An
// answer has AD when all names in it are. SetAD(".", true) is what a resolver
// that validates would show for the root.
func (d *DNS) SetAD(name string, ad bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.secure[canonical(name)] = ad
}

// Sign makes answers about zone and all names below it authenticated, but for
// names and zones below of which SetAD or Unsign say otherwise.
func (d *DNS) Sign(zone string) { d.sign(zone, true) }

// Unsign is the contrary of Sign: an unsigned zone below a signed one.
func (d *DNS) Unsign(zone string) { d.sign(zone, false) }

func (d *DNS) sign(zone string, signed bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.signed[canonical(zone)] = signed
}

// NegativeTTL sets the TTL and the MINIMUM field of the SOA record in negative
// answers (RFC 2308), in seconds. The default is 300 and 300. An SOA record
// that was added is given as it is for names at and below its own.
func (d *DNS) NegativeTTL(ttl, minimum uint32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.negTTL, d.negMin = ttl, minimum
}

// Down has the server stay silent: UDP is not answered, TCP hung up. Questions
// are still counted.
func (d *DNS) Down() { d.setDown(true) }

// Up ends Down.
func (d *DNS) Up() { d.setDown(false) }

func (d *DNS) setDown(down bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.down = down
}

// Queries counts the questions for name and type; empty ones stand for all. A
// question asked again over TCP, or again because the answer did not come,
// counts again.
func (d *DNS) Queries(name, typ string) int {
	if name != "" {
		name = canonical(name)
	}
	n := 0
	for _, q := range d.Log() {
		if (name == "" || q.Name == name) && (typ == "" || strings.EqualFold(q.Type, typ)) {
			n++
		}
	}
	return n
}

// Log returns all questions, in the order they came.
func (d *DNS) Log() []Query {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]Query(nil), d.log...)
}

// WaitQueries waits until there were n questions for name and type.
func (d *DNS) WaitQueries(ctx context.Context, name, typ string, n int) error {
	if err := d.sig.wait(ctx, d.w.done, func() bool { return d.Queries(name, typ) >= n }); err != nil {
		return fmt.Errorf("lab: %d questions for %s %s came, not %d: %w", d.Queries(name, typ), name, typ, n, err)
	}
	return nil
}

// parse reads zone text; a test that gets it wrong cannot go on.
func parse(zone string) (list []dns.RR) {
	p := dns.NewZoneParser(strings.NewReader(zone), ".", "lab")
	p.SetDefaultTTL(300)
	for rr, ok := p.Next(); ok; rr, ok = p.Next() {
		list = append(list, rr)
	}
	if err := p.Err(); err != nil {
		panic("lab: zone text: " + err.Error())
	}
	return list
}

func has(list []dns.RR, rr dns.RR) bool {
	for _, old := range list {
		if dns.IsDuplicate(old, rr) && old.Header().Ttl == rr.Header().Ttl {
			return true
		}
	}
	return false
}

func canonical(name string) string { return dns.CanonicalName(name) }

func typeOf(name string) uint16 {
	t, ok := dns.StringToType[strings.ToUpper(name)]
	if !ok {
		panic("lab: no such record type: " + name)
	}
	return t
}

func rcodeOf(name string) int {
	c, ok := dns.StringToRcode[strings.ToUpper(name)]
	if !ok {
		panic("lab: no such rcode: " + name)
	}
	return c
}
