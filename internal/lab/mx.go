package lab

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// An MX says what an MX host is like. The zero value of everything but Name
// is a host that behaves: it speaks TLS 1.2 and 1.3 with a good certificate
// and takes every message.
type MX struct {
	Name       string   // host name: in DNS, the greeting and the certificate
	Domains    []string // domains that get an MX record that names the host
	Preference uint16   // of those records; 10 if zero
	TTL        int      // of the records in DNS, in seconds: 300 if zero, NoTTL is 0
	Port       int      // 25 if zero
	NoAddress  bool     // no A record
	IPv6       bool     // an AAAA record too; not with RealPorts
	OnlyIPv6   bool     // an AAAA record and no A record

	Cert        CertKind          // what is wrong with the certificate
	CertNames   []string          // names in it instead of Name
	Certificate *tls.Certificate  // this one instead
	MinTLS      uint16            // lowest version, tls.VersionTLS12 if zero
	MaxTLS      uint16            // highest version, tls.VersionTLS13 if zero
	NoTickets   bool              // no session resumption
	TLSConfig   func(*tls.Config) // has the last word
	ImplicitTLS bool              // TLS from the first byte (RFC 8314), no STARTTLS

	NoStartTLS    bool     // not offered, refused with 502
	StartTLSWord  string   // how the keyword is spelled: "starttls"
	NoESMTP       bool     // EHLO is refused with 502, HELO is taken
	Extensions    []string // EHLO keywords besides STARTTLS; nil: DefaultExtensions
	TLSExtensions []string // over TLS; nil: as Extensions
	RequireTLS    bool     // offers REQUIRETLS too, over TLS only (RFC 8689, Section 2)
	RefuseInClear bool     // MAIL is refused with 530 without TLS (RFC 3207, Section 4)

	Users map[string]string // offers AUTH PLAIN and LOGIN to these, with their passwords

	Rules          []Rule        // what goes another way; see Rule
	MaxConnections int           // more are greeted with 421; 0: no limit
	MaxRecipients  int           // per message, then RCPT gets 452; 0: no limit
	MaxMessages    int           // per connection, then MAIL gets 421; 0: no limit
	SlowRead       time.Duration // pause before each read from the client
	SmallBuffers   bool          // the smallest socket buffers there are: provokes deadlocks of careless pipelining
	Forget         bool          // keep no messages and no transcript, count only: for load tests. World.Told is blind then
}

// DefaultExtensions is what an MX offers if nothing else is said.
func DefaultExtensions() []string {
	return []string{"PIPELINING", "SIZE 104857600", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "DSN"}
}

func (c MX) clone() MX {
	c.Domains, c.CertNames = slices.Clone(c.Domains), slices.Clone(c.CertNames)
	c.Extensions, c.TLSExtensions = slices.Clone(c.Extensions), slices.Clone(c.TLSExtensions)
	c.Rules, c.Users = slices.Clone(c.Rules), maps.Clone(c.Users)
	return c
}

// An MXHost is a running MX host.
type MXHost struct {
	w    *World
	port *port
	key  [32]byte // of session tickets: they outlive a connection

	mu    sync.Mutex // guards what follows
	conf  *MX        // never written to: Change puts another in its place
	hits  map[*Rule]int
	rules []*Rule
	seen  seen
}

// AddMX starts an MX host and writes its A record, and the MX records of
// Domains, into DNS.
func (w *World) AddMX(c MX) *MXHost {
	if c.Name == "" {
		panic("lab: an MX needs a Name")
	}
	if w.opts.RealPorts && (c.IPv6 || c.OnlyIPv6) {
		panic("lab: " + c.Name + ": IPv6 cannot be had with RealPorts")
	}
	h := &MXHost{w: w}
	rand.Read(h.key[:]) // never fails
	h.set(c.clone())
	number := c.Port
	if number == 0 {
		number = 25
	}
	h.port = newPort(w, number, c.IPv6 || c.OnlyIPv6)
	h.port.serve(h.serve)
	h.records(c)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hosts = append(w.hosts, h)
	return h
}

func (h *MXHost) records(c MX) {
	name := canonical(c.Name)
	if !c.NoAddress && !c.OnlyIPv6 {
		h.w.DNS.Add(fmt.Sprintf("%s %d IN A %s", name, ttl(c.TTL), h.port.addr))
	}
	if c.IPv6 || c.OnlyIPv6 {
		h.w.DNS.Add(fmt.Sprintf("%s %d IN AAAA %s", name, ttl(c.TTL), sixth(h.port.addr)))
	}
	pref := c.Preference
	if pref == 0 {
		pref = 10
	}
	for _, d := range c.Domains {
		h.w.DNS.Add(fmt.Sprintf("%s %d IN MX %d %s", canonical(d), ttl(c.TTL), pref, name))
	}
}

// Change changes what the host is like, for connections that begin after it;
// Rules also for those that are open. Rules start to count anew. What is in
// DNS stays as it is.
func (h *MXHost) Change(f func(c *MX)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.conf.clone()
	f(&c)
	h.setLocked(c.clone())
}

func (h *MXHost) set(c MX) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.setLocked(c)
}

func (h *MXHost) setLocked(c MX) {
	h.conf = &c
	h.rules, h.hits = nil, map[*Rule]int{}
	for _, r := range c.Rules {
		r.check()
		h.rules = append(h.rules, &r)
	}
}

func (h *MXHost) config() *MX {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.conf
}

// Name is the host name.
func (h *MXHost) Name() string { return h.config().Name }

// Addr is the host's IPv4 address in DNS.
func (h *MXHost) Addr() string { return h.port.addr.String() }

// Addr6 is the host's IPv6 address in DNS, if it has one.
func (h *MXHost) Addr6() string { return sixth(h.port.addr).String() }

// Listen is where the host really listens: "127.0.0.1:40123", or Addr and port
// with RealPorts.
func (h *MXHost) Listen() string { return h.port.at }

// Connections counts the TCP connections, refused ones too.
func (h *MXHost) Connections() int { n, _, _ := h.port.numbers(); return n }

// Open counts the connections that are open now.
func (h *MXHost) Open() int { _, n, _ := h.port.numbers(); return n }

// Peak is the highest number of connections that were open at a time.
func (h *MXHost) Peak() int { _, _, n := h.port.numbers(); return n }

// Drop ends all connections that are open now.
func (h *MXHost) Drop() { h.port.drop() }

// Down has connections to the host refused. Those that are open stay. Up ends
// that.
func (h *MXHost) Down() { h.port.setDown(true) }

// Up ends Down.
func (h *MXHost) Up() { h.port.setDown(false) }

// WaitMessages waits until the host has taken n messages since the start.
func (h *MXHost) WaitMessages(ctx context.Context, n int) error {
	if err := h.port.waitFor(ctx, func() bool { return h.Count() >= n }); err != nil {
		return fmt.Errorf("lab: %s has %d messages, not %d: %w", h.Name(), h.Count(), n, err)
	}
	return nil
}

// WaitConnections waits until n connections have been made since the start.
func (h *MXHost) WaitConnections(ctx context.Context, n int) error {
	if err := h.port.waitFor(ctx, func() bool { return h.Connections() >= n }); err != nil {
		return fmt.Errorf("lab: %s has had %d connections, not %d: %w", h.Name(), h.Connections(), n, err)
	}
	return nil
}

// WaitReceived waits until the final dot of n messages has come, taken or not.
// With MX.Forget it never does.
func (h *MXHost) WaitReceived(ctx context.Context, n int) error {
	if err := h.port.waitFor(ctx, func() bool { return len(h.Received()) >= n }); err != nil {
		return fmt.Errorf("lab: %s has received %d messages, not %d: %w", h.Name(), len(h.Received()), n, err)
	}
	return nil
}

// WaitHandshakes waits until n attempts to set up TLS have ended, one way or
// the other: a client knows that it refuses a certificate before the host does.
func (h *MXHost) WaitHandshakes(ctx context.Context, n int) error {
	if err := h.port.waitFor(ctx, func() bool { return len(h.Handshakes()) >= n }); err != nil {
		return fmt.Errorf("lab: %s has had %d handshakes, not %d: %w", h.Name(), len(h.Handshakes()), n, err)
	}
	return nil
}

// WaitIdle waits until no connection is open.
func (h *MXHost) WaitIdle(ctx context.Context) error {
	if err := h.port.waitFor(ctx, func() bool { return h.Open() == 0 }); err != nil {
		return fmt.Errorf("lab: %s still has %d connections: %w", h.Name(), h.Open(), err)
	}
	return nil
}

// WaitCommand waits until a client has sent a line that begins with prefix, in
// any case, n times since the start.
func (h *MXHost) WaitCommand(ctx context.Context, prefix string, n int) error {
	count := func() (got int) {
		for _, line := range h.Commands() {
			if len(line) >= len(prefix) && strings.EqualFold(line[:len(prefix)], prefix) {
				got++
			}
		}
		return got
	}
	if err := h.port.waitFor(ctx, func() bool { return count() >= n }); err != nil {
		return fmt.Errorf("lab: %s has seen %q %d times, not %d: %w", h.Name(), prefix, count(), n, err)
	}
	return nil
}

// tlsConfig is what the host's TLS is like.
func (h *MXHost) tlsConfig(c *MX) *tls.Config {
	conf := serverTLS(h.w.CA, certOf{c.Name, c.Cert, c.CertNames, c.Certificate}, c.MinTLS, c.MaxTLS)
	conf.SessionTicketsDisabled = c.NoTickets
	conf.SetSessionTicketKeys([][32]byte{h.key})
	if c.TLSConfig != nil {
		c.TLSConfig(conf)
	}
	return conf
}

// matching picks the rule that is next for an event, and counts it.
func (h *MXHost) matching(e event) *Rule {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range h.rules {
		if !r.matches(e) {
			continue
		}
		h.hits[r]++
		if n := h.hits[r]; n > r.Skip && (r.Times == 0 || n <= r.Skip+r.Times) {
			return r
		}
	}
	return nil
}
