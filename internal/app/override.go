package app

import (
	"time"

	"stsrelay/delivery"
	"stsrelay/internal/addr"
	"stsrelay/internal/config"

	"github.com/rs/zerolog"
)

// overrides are the [[override]] of the configuration, by domain.
type overrides struct {
	of  map[addr.Domain]config.Override
	log zerolog.Logger
}

func newOverrides(cfg config.Config, log zerolog.Logger) overrides {
	o := overrides{of: map[addr.Domain]config.Override{}, log: log}
	for _, c := range cfg.Overrides {
		o.of[c.Domain] = c
	}
	return o
}

// at is what the operator lifts for a domain at a moment. Each use is told to
// the log: what was lowered for whom must be found there later (ledger X-12).
func (o overrides) at(domain addr.Domain, now time.Time) delivery.Override {
	c, ok := o.of[domain]
	if !ok || c.Ended(now) {
		return delivery.Override{}
	}
	o.log.Warn().Stringer("domain", domain).Str("lifted", c.Lifts()).Str("reason", c.Reason).Stringer("until", c.Until).
		Msg("an override is used: what the domain publishes is not enforced")
	return delivery.Override{STS: !c.STS, DANE: !c.DANE, Reason: c.Reason, Until: c.Until.Time}
}
