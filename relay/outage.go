package relay

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"stsrelay/delivery"
	"stsrelay/tlsrpt"

	"github.com/rs/zerolog"
)

// An outage is a fault that looks like our own: many unrelated domains fail by
// one cause, and nothing of that kind works any more. While it lasts nothing is
// given up for that cause, and certificates are not reported as bad. One
// success of the kind ends it.
type outage struct {
	mu    sync.Mutex
	kinds [outageKinds]struct {
		domains map[string]bool // that failed since the last success
		since   time.Time       // when they became too many; zero: they are not
	}
}

// outageDomains is how many unrelated domains make an outage.
const outageDomains = 20

type outageKind int

const (
	outageDNS outageKind = iota
	outageConnect
	outageTrust
	outageKinds
)

func (k outageKind) String() string {
	return [...]string{"DNS does not answer: look at the resolver",
		"no server can be reached: look at the network and at port 25",
		"no certificate is trusted: look at the clock and at the root certificates"}[k]
}

// kindOf says which of our own faults would look like this.
func kindOf(r delivery.Reason) (outageKind, bool) {
	switch r {
	case delivery.DNSFailed, delivery.TLSALookupFailed, delivery.DiscoveryFailed:
		return outageDNS, true
	case delivery.ConnectFailed:
		return outageConnect, true
	case delivery.CertExpired, delivery.CertNotTrusted:
		return outageTrust, true
	}
	return 0, false
}

// heard learns from an attempt.
func (u *outage) heard(log zerolog.Logger, it *item, all []delivery.Outcome, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, o := range all {
		if o.Err != nil {
			if kind, ok := kindOf(o.Err.Reason); ok {
				u.failed(log, kind, unrelated(string(it.Destination)), now)
			}
		}
		contacted := o.Err == nil || o.Err.Stage > delivery.StageConnect
		if contacted || o.Err.Reason == delivery.ConnectFailed {
			u.works(log, outageDNS)
		}
		if contacted {
			u.works(log, outageConnect)
		}
		if strings.HasPrefix(o.TLS, "Verified") || strings.HasPrefix(o.TLS, "Trusted") {
			u.works(log, outageTrust)
		}
	}
}

func (u *outage) failed(log zerolog.Logger, kind outageKind, domain string, now time.Time) {
	k := &u.kinds[kind]
	if len(k.domains) >= outageDomains {
		return
	}
	if k.domains == nil {
		k.domains = make(map[string]bool)
	}
	k.domains[domain] = true
	if len(k.domains) == outageDomains {
		k.since = now
		log.Error().Int("domains", outageDomains).Str("cause", kind.String()).
			Msg("many unrelated domains fail in the same way: this looks like a fault here, and nothing is given up for it")
	}
}

func (u *outage) works(log zerolog.Logger, kind outageKind) {
	k := &u.kinds[kind]
	if !k.since.IsZero() {
		log.Info().Str("cause", kind.String()).Msg("it works again: messages are given up when their time is over")
	}
	k.domains, k.since = nil, time.Time{}
}

// unrelated is what tells domains of different owners apart, roughly: the last
// two labels.
func unrelated(dest string) string {
	labels := strings.Split(dest, ".")
	return strings.Join(labels[max(0, len(labels)-2):], ".")
}

// holds reports whether a failure may be our own and ends nothing.
func (u *outage) holds(r delivery.Reason) bool {
	if r == delivery.NotValidating { // it is ours for certain
		return true
	}
	kind, ok := kindOf(r)
	if !ok {
		return false
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	return !u.kinds[kind].since.IsZero()
}

// sessions leaves out what would accuse domains of our own fault.
func (u *outage) sessions(all []tlsrpt.Session) []tlsrpt.Session {
	u.mu.Lock()
	on := !u.kinds[outageTrust].since.IsZero() || !u.kinds[outageDNS].since.IsZero()
	u.mu.Unlock()
	if !on {
		return all
	}
	var kept []tlsrpt.Session
	for _, s := range all {
		failures := 0
		for _, p := range s.Policies {
			failures += len(p.Failures)
		}
		if failures == 0 {
			kept = append(kept, s)
		}
	}
	return kept
}

// text tells of an outage, "" if there is none.
func (u *outage) text(now time.Time) string {
	u.mu.Lock()
	defer u.mu.Unlock()
	for kind := range outageKinds {
		if since := u.kinds[kind].since; !since.IsZero() {
			return fmt.Sprintf("for %s: %s", now.Sub(since).Round(time.Second), kind)
		}
	}
	return ""
}
