package relay

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"time"

	"github.com/rs/zerolog"
)

// ListenerOptions is what a Listener is made of. Name, Hostname and Store are
// required; other zero fields mean their defaults.
type ListenerOptions struct {
	Name           string         // of [[listener]]
	Hostname       string         // in the greeting and in Received
	AllowFrom      []netip.Prefix // who may relay; empty: nobody
	MaxMessageSize int64          // octets; 0: 50 MiB
	Normalize      bool           // bare CR and LF in content become CRLF instead of 550 (ledger SMUG-02)
	TLS            *tls.Config    // offers STARTTLS; nil: no TLS
	Implicit       bool           // TLS from the first octet
	Store          Store
	Wake           func(...Destination) // the engine's; nil: nobody
	MaxConnections int                  // in all; 0: 1000
	MaxPerClient   int                  // per client address; 0: 200
	IdleTimeout    time.Duration        // between two reads of a client; 0: 5m (RFC 5321, Section 4.5.3.2.7)
	Grace          time.Duration        // for transactions under way when Serve ends; 0: 30s
	Log            zerolog.Logger
}

// A Listener takes mail from clients by SMTP.
type Listener struct{}

// NewListener returns a Listener that takes nothing before Serve.
func NewListener(o ListenerOptions) *Listener { panic("stub") }

// Serve takes mail from the connections of ln until ctx ends. Then idle clients
// get 421, and transactions under way may end within the grace time.
func (l *Listener) Serve(ctx context.Context, ln net.Listener) error { panic("stub") }
