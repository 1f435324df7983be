package app

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"stsrelay/internal/addr"
	"stsrelay/internal/admin"
	"stsrelay/internal/config"
	"stsrelay/internal/network"
	"stsrelay/relay"
	"stsrelay/tlsrpt"
)

// buildReports makes the sender of TLS reports; there is none if they are off.
func (h *house) buildReports(guard network.Guard, roots *x509.CertPool) error {
	if !h.cfg.TLSRPT.Enabled {
		return nil
	}
	o, err := reportOptions(h.cfg)
	if err != nil {
		return err
	}
	o.Store, o.Resolver, o.Dialer, o.Guard, o.Roots, o.Log = h.store, h.dns, h.o.Dialer, guard, roots, h.o.Log
	o.HostGap = h.o.ReportGap
	o.Queued = func(to addr.Address) { h.engine.Wake(relay.Destination(to.NextHop().String())) }
	h.reports, err = tlsrpt.NewSender(o)
	return err
}

// reportOptions reads [tlsrpt] and [[dkim]] as far as the configuration alone
// says.
func reportOptions(cfg config.Config) (o tlsrpt.Options, err error) {
	c := cfg.TLSRPT
	o = tlsrpt.Options{Identity: tlsrpt.Identity{Organization: c.Organization, Contact: c.Contact, From: c.From},
		Spread: c.Spread.Duration, FailuresOnly: c.FailuresOnly, Strict: c.Strict, Suppress: c.Suppress, BCC: c.BCC}
	if o.Spread == 0 {
		o.Spread = -1 // at once, not the default
	}
	var errs []error
	if c.SendingIP != "" {
		if o.SendingIP, err = netip.ParseAddr(c.SendingIP); err != nil {
			errs = append(errs, fmt.Errorf("sending_ip: %w", err))
		}
	}
	for _, s := range c.Replace {
		u, err := tlsrpt.ParseRUA(s)
		if err != nil {
			errs = append(errs, fmt.Errorf("replace %q: %w", s, err))
		}
		o.Replace = append(o.Replace, u)
	}
	for _, k := range cfg.DKIM {
		key, err := signingKey(k)
		if err != nil {
			errs = append(errs, fmt.Errorf("the [[dkim]] key %s of %s: %w", k.Selector, k.Domain, err))
		}
		o.Keys = append(o.Keys, key)
	}
	return o, errors.Join(append(errs, o.Check())...)
}

func signingKey(k config.DKIM) (tlsrpt.SigningKey, error) {
	text, err := os.ReadFile(k.KeyFile)
	if err != nil {
		return tlsrpt.SigningKey{}, err
	}
	return tlsrpt.ParseSigningKey(k.Domain, k.Selector, text)
}

// Check says what is wrong with a configuration beyond what its own package
// knows: `config check` and the start say the same.
func Check(cfg config.Config) error {
	if _, err := reportOptions(cfg); err != nil {
		return fmt.Errorf("[tlsrpt]: %w", err)
	}
	return nil
}

// reportStatus tells how sending goes.
func (h *house) reportStatus(ctx context.Context, s *admin.Status) {
	s.Reports = admin.ReportStatus{Idle: "off", States: map[string]int{}}
	if h.reports == nil {
		return
	}
	r, err := h.reports.Snapshot(ctx)
	if err != nil {
		s.Warnings = append(s.Warnings, fmt.Sprintf("TLS reports cannot be counted: %v", err))
		return
	}
	s.Reports.Idle, s.Reports.LastRun = r.Idle, r.LastRun
	for state, n := range r.Reports {
		s.Reports.States[string(state)] += n
	}
}
