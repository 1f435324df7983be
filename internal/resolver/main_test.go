package resolver

import (
	"testing"

	"go.uber.org/goleak"
)

// TestMain fails the package when a lookup outlives its callers.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
