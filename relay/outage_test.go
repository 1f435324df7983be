package relay

import (
	"testing"

	"stsrelay/delivery"
)

func TestNotValidatingIsOurOwnFault(t *testing.T) {
	t.Run("DANE-2.1.1-01 mail that waits for our resolver is not given up, from the first on", func(t *testing.T) {
		if u := new(outage); !u.holds(delivery.NotValidating) || u.holds(delivery.TLSALookupFailed) {
			t.Error("given up")
		}
	})
	t.Run("DANE-2.1.1-01 it is a rule: the canary waits for it, and its notices are rare", func(t *testing.T) {
		if !byRule(delivery.NotValidating) || watchable(delivery.NotValidating) {
			t.Error("no rule, or one that a new policy could end")
		}
	})
}
