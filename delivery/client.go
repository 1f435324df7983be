package delivery

import (
	"crypto/x509"
	"net/netip"
	"time"

	"stsrelay/internal/network"

	"github.com/rs/zerolog"
)

// Options is what a Client is made of. Resolver, Policies, Dialer and Hostname
// are required.
type Options struct {
	Hostname string // EHLO name (ledger SMTP-4.1.1.1-01)
	Resolver Resolver
	Policies Policies
	Dialer   network.Dialer
	Guard    network.Guard
	Roots    *x509.CertPool // nil: the system's
	IPv6     bool           // [delivery] ip_families
	IPv4     bool
	Prefer4  bool             // IPv4 addresses first
	Bind     []netip.Addr     // source addresses; empty: the kernel's choice
	Own      []netip.AddrPort // our listeners, for loop detection (ledger SMTP-5.1-13)

	Rules                 Rules
	DiscoveryFailureGrace time.Duration
	MaxConnections        int // in all; 0 means 200
	MaxConnectionsPerHost int // per MX host; 0 means 10
	Timeouts              Timeouts
	Log                   zerolog.Logger
}

// Timeouts are those of RFC 5321, Section 4.5.3.2 (ledger SMTP-4.5.3.2-01 to
// -04). A zero field means its default.
type Timeouts struct {
	Connect  time.Duration // 30s
	Greeting time.Duration // 5m
	Hello    time.Duration // 5m
	TLS      time.Duration // 2m: STARTTLS reply and handshake
	Mail     time.Duration // 5m
	Rcpt     time.Duration // 5m
	Data     time.Duration // 2m: DATA to 354
	Block    time.Duration // 3m: each block of content
	Final    time.Duration // 10m: reply to the final dot
	Quit     time.Duration // 10s
	Idle     time.Duration // 10s: how long a kept connection waits for the next message
}
