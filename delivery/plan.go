package delivery

import (
	"context"
	"errors"
	"net/netip"

	"stsrelay/internal/addr"
	"stsrelay/stscache"
	"stsrelay/tlsrpt"
)

// A Query asks for a Plan.
type Query struct {
	NextHop  addr.NextHop
	Route    bool        // NextHop is the operator's own word: not guarded, no loop test for a host or literal
	Floor    Requirement // the operator's minimum
	Override Override
	Final    bool // look for a newer policy past our caches first (ledger STS-5-04)
}

// A Plan is all that is known about a destination before any host of it is
// contacted. It serves every message of one Deliver call, whatever each demands.
type Plan struct {
	NextHop     addr.NextHop
	Domain      addr.Domain // the Policy Domain; zero for an address literal
	Status      stscache.Status
	Hosts       []PlannedHost        // in the order in which they are to be tried
	FetchResult *tlsrpt.PolicyResult // a failed policy fetch to be counted once per attempt, nil if there was none (ledger RPT-4.3-15)
}

// A PlannedHost is one MX host of a Plan.
type PlannedHost struct {
	Facts   Facts // Demand is left out: see Decide
	Addrs   []netip.Addr
	AddrErr *Error // why there is no address to try; nil when Addrs has one
}

// Decide says what is required of the host for a message with this Demand.
func (h PlannedHost) Decide(demand Demand) Decision {
	h.Facts.Demand = demand
	return Decide(h.Facts)
}

// Plan looks up the hosts and the policy of a destination. Its error is an
// *Error with StagePlan that holds for every message; the Plan then still
// carries the policy and FetchResult.
func (c *Client) Plan(ctx context.Context, q Query) (Plan, error) {
	return Plan{}, errors.New("not yet written")
}

// PolicyText is the policy as Outcome.Policy shows it: "sts:enforce id=...",
// "sts:testing id=...", "none".
func (p Plan) PolicyText() string { return "none" }
