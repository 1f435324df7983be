// Package app builds the rooms from a configuration and runs them. The
// program, the lab, crash tests and benchmarks all start the relay here.
package app

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"time"

	"stsrelay/delivery"
	"stsrelay/internal/boltstore"
	"stsrelay/internal/config"
	"stsrelay/internal/network"
	"stsrelay/relay"
	"stsrelay/stscache"

	"github.com/rs/zerolog"
)

// Options are what a configuration file cannot say. The zero value is the
// daemon; Dialer and Roots exist for the lab and tests.
type Options struct {
	Version    string
	ConfigPath string
	Log        zerolog.Logger
	Dialer     network.Dialer    // nil: the network
	Roots      *x509.CertPool    // nil: [delivery] roots_file, or the system's
	FetchLimit time.Duration     // a policy fetch in all; 0: a minute (RFC 8461, Section 3.3)
	Timeouts   delivery.Timeouts // zero fields: those of RFC 5321
	ReportGap  time.Duration     // from one TLS report by HTTPS to a host to the next; 0: a second, negative: none
	SelfTest   time.Duration     // from one test of DNSSEC to the next; 0: a minute, and less after a failure
	Grace      time.Duration     // for running attempts at the end; 0: 30s
	Ready      func(Info)        // called once mail is accepted
	Stopping   func()            // called when the end begins
}

// Info is what a started relay can be reached by.
type Info struct {
	Listeners map[string]net.Addr // by name
	HTTP      net.Addr            // nil: off
	Socket    string
	Store     *boltstore.Store
	Engine    *relay.Engine
	Policies  *stscache.Cache
}

// Run runs a relay until ctx ends or a room fails. It returns nil after an
// orderly end.
func Run(ctx context.Context, cfg config.Config, o Options) error {
	h, err := build(ctx, cfg, o)
	if err != nil {
		return err
	}
	err = h.run(ctx)
	if cerr := h.store.Close(); cerr != nil {
		err = errors.Join(err, fmt.Errorf("closing the store: %w", cerr))
	}
	return err
}
