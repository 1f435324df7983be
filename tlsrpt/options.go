package tlsrpt

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/internal/network"

	"github.com/rs/zerolog"
)

// Options is what a Sender is made of. Store and Resolver are required. Without
// a Contact nothing is sent; without a key for its domain nothing is sent by
// mail.
type Options struct {
	Store    Store
	Resolver Resolver
	Dialer   network.Dialer // nil: the network
	Guard    network.Guard
	Roots    *x509.CertPool // nil: the system's

	Identity                        // a null From is Contact; no Organization is the submitter
	Keys         []SigningKey       // those of other domains than the submitter are left alone
	Spread       time.Duration      // over which the reports of a day are sent; 0: DefaultSpread, negative: at once
	FailuresOnly bool               // no reports about days without failures (ledger RPT-4.2-04)
	Strict       bool               // an https destination whose certificate does not verify gets no report
	Suppress     []string           // who gets no reports: "example.com", ".example.com" (those below), "@host" of destinations, or a whole URI
	Replace      []RUA              // where every report goes instead, for tests
	BCC          []addr.Address     // who gets a copy of every report
	Queued       func(addr.Address) // a report to this address has entered the queue; must not block; nil: nobody

	Workers int           // reports tried at once; 0: 8
	Limit   time.Duration // of one POST; 0: a minute
	HostGap time.Duration // from one POST to a host to the next (ledger RPT-7-01); 0: a second, negative: none
	Log     zerolog.Logger
}

func (o Options) defaults() Options {
	if o.Dialer == nil {
		o.Dialer = &net.Dialer{}
	}
	if o.From.IsNull() {
		o.From = o.Contact
	}
	if o.Organization == "" {
		o.Organization = o.Submitter().String()
	}
	o.Spread = orDefault(o.Spread, DefaultSpread)
	o.HostGap = orDefault(o.HostGap, time.Second)
	o.Limit = orDefault(o.Limit, time.Minute)
	if o.Workers <= 0 {
		o.Workers = 8
	}
	if o.Queued == nil {
		o.Queued = func(addr.Address) {}
	}
	o.Keys = slices.DeleteFunc(slices.Clone(o.Keys), func(k SigningKey) bool { return k.Domain != o.Submitter() })
	return o
}

func orDefault(d, def time.Duration) time.Duration {
	if d == 0 {
		return def
	}
	return max(d, 0)
}

// Check says all at once what is wrong with what an operator can set.
func (o Options) Check() error {
	o = o.defaults()
	var errs []error
	if !o.Contact.IsNull() {
		if o.Submitter().IsZero() || o.Contact.NeedsUTF8() {
			errs = append(errs, fmt.Errorf("contact %s: want an address in ASCII with a domain", o.Contact))
		}
		if d, _ := o.From.Domain(); d != o.Submitter() {
			errs = append(errs, fmt.Errorf("from %s: its domain must be that of contact, %s: receivers want From, signature and contact to agree", o.From, o.Submitter()))
		}
	}
	for _, s := range o.Suppress {
		if err := checkSuppress(s); err != nil {
			errs = append(errs, fmt.Errorf("suppress %q: %w", s, err))
		}
	}
	return errors.Join(errs...)
}

func checkSuppress(s string) error {
	if strings.Contains(s, ":") {
		_, err := ParseRUA(s)
		return err
	}
	if name, ok := strings.CutPrefix(s, "@"); ok {
		_, err := addr.ParseHost(name)
		return err
	}
	_, err := addr.ParseDomain(strings.TrimPrefix(s, "."))
	return err
}

// A suppression is Options.Suppress, ready to be asked.
type suppression struct {
	domains domainSet
	hosts   map[string]bool
	uris    map[string]bool
}

func newSuppression(list []string) suppression {
	out := suppression{domainSet{}, map[string]bool{}, map[string]bool{}}
	for _, s := range list {
		switch {
		case strings.Contains(s, ":"):
			if u, err := ParseRUA(s); err == nil { // Check has seen it
				out.uris[u.String()] = true
			}
		case strings.HasPrefix(s, "@"):
			out.hosts[strings.ToLower(s[1:])] = true
		default:
			dot := ""
			if strings.HasPrefix(s, ".") {
				dot = "."
			}
			if d, err := addr.ParseDomain(strings.TrimPrefix(s, ".")); err == nil {
				out.domains[dot+d.String()] = true
			}
		}
	}
	return out
}

func (s suppression) hasRUA(u RUA) bool { return s.uris[u.String()] || s.hosts[u.Host()] }
