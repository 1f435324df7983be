package lab

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// A Policy says what the MTA-STS policy host of a domain is like: the TXT
// record at _mta-sts, the A record of mta-sts, and the HTTPS server behind it
// (RFC 8461, Section 3). The zero value of everything but Domain is a host
// that behaves and serves a policy file with no mx lines.
type Policy struct {
	Domain string
	ID     string   // of the TXT record; "" is no TXT record
	TXT    []string // these TXT records instead, verbatim, each a record of its own

	Mode   string        // "enforce" if empty
	MX     []string      // the mx lines
	MaxAge time.Duration // a week if zero
	Body   string        // this file instead of one made from Mode, MX and MaxAge

	Status      int             // 200 if zero, 302 with Redirect
	ContentType string          // "text/plain" if empty; NoContentType is none
	Header      http.Header     // more header fields
	Redirect    string          // Location
	Gzip        bool            // content-encoded, asked for or not
	Size        int             // the body is filled up to so many bytes, with lines that say nothing
	Delay       time.Duration   // before the answer
	Until       <-chan struct{} // answer when it is closed
	Hang        bool            // no answer at all
	HangAfter   int             // so many bytes of the body, then nothing; 0: all
	CutAfter    int             // so many bytes of the body, then the connection is closed; 0: all
	HangFor     time.Duration   // then the connection is closed; 0: never. For Hang, HangAfter and HangTLS
	Trickle     time.Duration   // between two bytes of the body
	Raw         string          // these bytes instead of an HTTP response

	Cert        CertKind
	CertNames   []string         // names in the certificate instead of mta-sts.Domain
	Certificate *tls.Certificate // this one instead
	MinTLS      uint16           // lowest version, tls.VersionTLS12 if zero
	MaxTLS      uint16           // highest version, tls.VersionTLS13 if zero
	HangTLS     bool             // the ClientHello is not answered
	AbortTLS    bool             // the connection is closed at the ClientHello

	TTL       int         // of the records in DNS, in seconds: 300 if zero, NoTTL is 0
	NoAddress bool        // no A record
	IPv6      bool        // an AAAA record too; not with RealPorts
	With      *PolicyHost // on the server and address of this one, told apart by SNI
}

// NoContentType is a Policy.ContentType: the field is not there.
const NoContentType = "-"

// NoTTL is a TTL of 0 seconds: the record is not to be cached.
const NoTTL = -1

// ttl is the TTL of a record.
func ttl(seconds int) uint32 {
	switch {
	case seconds == 0:
		return 300
	case seconds < 0:
		return 0
	}
	return uint32(seconds)
}

// PolicyPath is where a policy file is (RFC 8461, Section 3.3).
const PolicyPath = "/.well-known/mta-sts.txt"

func (c Policy) clone() Policy {
	c.TXT, c.MX, c.CertNames = slices.Clone(c.TXT), slices.Clone(c.MX), slices.Clone(c.CertNames)
	c.Header = c.Header.Clone()
	return c
}

// Text is the policy file.
func (c Policy) Text() string {
	text := c.Body
	if text == "" {
		text = PolicyText(c.Mode, c.MaxAge, c.MX...)
	}
	if c.Size > 0 {
		filler := "x-" + strings.Repeat("x", 100) + ": x\n"
		text = (text + strings.Repeat(filler, max(0, c.Size-len(text))/len(filler)+1))[:c.Size]
	}
	return text
}

// PolicyText writes a policy file. An empty mode is "enforce", a zero age a
// week.
func PolicyText(mode string, maxAge time.Duration, mx ...string) string {
	if maxAge == 0 {
		maxAge = 7 * 24 * time.Hour
	}
	var b strings.Builder
	fmt.Fprintf(&b, "version: STSv1\nmode: %s\n", first(mode, "enforce"))
	for _, m := range mx {
		fmt.Fprintf(&b, "mx: %s\n", m)
	}
	fmt.Fprintf(&b, "max_age: %d\n", int64(maxAge/time.Second))
	return b.String()
}

// A PolicyHost is a running policy host.
type PolicyHost struct {
	w      *World
	domain string
	site   *site
	conf   *Policy // guarded by site.mu; never written to
}

// AddPolicy starts a policy host and writes its records into DNS.
func (w *World) AddPolicy(c Policy) *PolicyHost {
	if c.Domain == "" {
		panic("lab: a Policy needs a Domain")
	}
	if w.opts.RealPorts && c.IPv6 {
		panic("lab: " + c.Domain + ": IPv6 cannot be had with RealPorts")
	}
	c = c.clone()
	h := &PolicyHost{w: w, domain: strings.TrimSuffix(c.Domain, "."), conf: &c}
	h.site = &site{name: h.Host(), tls: h.tls, reply: h.reply}
	if c.With != nil {
		c.With.site.web.add(h.site)
	} else {
		newWeb(w, c.IPv6).add(h.site)
	}
	if !c.NoAddress {
		w.DNS.Add(fmt.Sprintf("%s. %d IN A %s", h.Host(), ttl(c.TTL), h.Addr()))
		if c.IPv6 {
			w.DNS.Add(fmt.Sprintf("%s. %d IN AAAA %s", h.Host(), ttl(c.TTL), sixth(h.site.web.port.addr)))
		}
	}
	h.recordTXT(c)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.policies = append(w.policies, h)
	return h
}

// Host is the name of the policy host, "mta-sts." and the domain.
func (h *PolicyHost) Host() string { return "mta-sts." + h.domain }

// Domain is the policy domain.
func (h *PolicyHost) Domain() string { return h.domain }

// Addr is the IPv4 address of the host in DNS.
func (h *PolicyHost) Addr() string { return h.site.web.port.addr.String() }

// Listen is where the host really listens: see MXHost.Listen.
func (h *PolicyHost) Listen() string { return h.site.web.port.at }

func (h *PolicyHost) config() *Policy {
	h.site.mu.Lock()
	defer h.site.mu.Unlock()
	return h.conf
}

// Change changes what the host is like, from the next request on. When ID or
// TXT change, so do the records in DNS; those of addresses stay.
func (h *PolicyHost) Change(f func(c *Policy)) {
	h.site.mu.Lock()
	c := h.conf.clone()
	old := c.records()
	f(&c)
	c = c.clone()
	h.conf = &c
	h.site.mu.Unlock()
	if !slices.Equal(old, c.records()) {
		h.recordTXT(c)
	}
}

// Withdraw takes the records of the policy out of DNS, as a domain does that
// has had enough of MTA-STS. The server stays.
func (h *PolicyHost) Withdraw() {
	h.w.DNS.Remove("_mta-sts."+h.domain, "")
	h.w.DNS.Remove(h.Host(), "")
}

// records are the TXT records of a policy.
func (c Policy) records() []string {
	if c.TXT == nil && c.ID != "" {
		return []string{"v=STSv1; id=" + c.ID + ";"}
	}
	return c.TXT
}

// recordTXT puts the TXT records into DNS.
func (h *PolicyHost) recordTXT(c Policy) {
	h.w.DNS.setTXT("_mta-sts."+h.domain, ttl(c.TTL), c.records())
}

func (h *PolicyHost) tls() siteTLS {
	c := h.config()
	return siteTLS{
		cert:  certOf{h.Host(), c.Cert, c.CertNames, c.Certificate},
		low:   c.MinTLS,
		high:  c.MaxTLS,
		hang:  c.HangTLS,
		until: c.HangFor,
		abort: c.AbortTLS,
	}
}

// Hits counts the HTTP requests.
func (h *PolicyHost) Hits() int { return len(h.Requests()) }

// Requests returns the HTTP requests.
func (h *PolicyHost) Requests() []Request {
	h.site.mu.Lock()
	defer h.site.mu.Unlock()
	return slices.Clone(h.site.requests)
}

// Handshakes returns the attempts to set up TLS with this host's name, or with
// none or an unknown one if it is the first on its server.
func (h *PolicyHost) Handshakes() []Handshake {
	h.site.mu.Lock()
	defer h.site.mu.Unlock()
	return slices.Clone(h.site.handshakes)
}

// Connections counts the TCP connections to the server, those for other
// policies on it included.
func (h *PolicyHost) Connections() int { n, _, _ := h.site.web.port.numbers(); return n }

// Down has connections to the server refused. Up ends that.
func (h *PolicyHost) Down() { h.site.web.port.setDown(true) }

// Up ends Down.
func (h *PolicyHost) Up() { h.site.web.port.setDown(false) }

// WaitHits waits until there have been n requests.
func (h *PolicyHost) WaitHits(ctx context.Context, n int) error {
	if err := h.site.web.port.waitFor(ctx, func() bool { return h.Hits() >= n }); err != nil {
		return fmt.Errorf("lab: %s has had %d requests, not %d: %w", h.Host(), h.Hits(), n, err)
	}
	return nil
}

// WaitConnections waits until there have been n connections.
func (h *PolicyHost) WaitConnections(ctx context.Context, n int) error {
	if err := h.site.web.port.waitFor(ctx, func() bool { return h.Connections() >= n }); err != nil {
		return fmt.Errorf("lab: %s has had %d connections, not %d: %w", h.Host(), h.Connections(), n, err)
	}
	return nil
}

// WaitHandshakes waits until n attempts to set up TLS have ended, one way or
// the other: a client knows that it refuses a certificate before the host does.
func (h *PolicyHost) WaitHandshakes(ctx context.Context, n int) error {
	if err := h.site.web.port.waitFor(ctx, func() bool { return len(h.Handshakes()) >= n }); err != nil {
		return fmt.Errorf("lab: %s has had %d handshakes, not %d: %w", h.Host(), len(h.Handshakes()), n, err)
	}
	return nil
}
