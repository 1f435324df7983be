package delivery

import (
	"cmp"
	"errors"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"stsrelay/internal/addr"
)

const (
	remembered  = 10_000 // of each kind
	failureLife = 10 * time.Minute
	refusalLife = 4 * time.Hour // greylisting takes minutes, some an hour
	// familyDoubt is how many hosts must be silent over one family, and none
	// answer, before that family is thought to be broken on our side.
	familyDoubt = 4
)

// A reach remembers what came of the last connections, so that the next begin
// at the best place. It changes orders only: nothing that is remembered keeps
// mail from an address when there is no other.
type reach struct {
	failed   *recall[netip.AddrPort, struct{}] // did not connect
	silent   [2]*recall[string, struct{}]      // hosts that did not answer, by family, since one did
	refusals *recall[addr.NextHop, refusal]
}

// A refusal is where a destination put mail off.
type refusal struct {
	host addr.Host
	addr netip.AddrPort
}

func newReach() *reach {
	r := &reach{
		failed:   newRecall[netip.AddrPort, struct{}](remembered, failureLife),
		refusals: newRecall[addr.NextHop, refusal](remembered, refusalLife),
	}
	for f := range r.silent {
		r.silent[f] = newRecall[string, struct{}](familyDoubt, failureLife)
	}
	return r
}

// order is the order in which to try the addresses of a host of hop: the one
// that put mail off, then the others as they come (ledger SMTP-5.1-08), then
// those of a family that is in doubt, and last those that failed lately.
func (r *reach) order(hop addr.NextHop, addrs []netip.AddrPort) []netip.AddrPort {
	last, _ := r.refusals.get(hop)
	doubted := [2]bool{r.doubted(0), r.doubted(1)}
	rank := make(map[netip.AddrPort]int, len(addrs))
	for _, a := range addrs {
		switch _, failed := r.failed.get(a); {
		case failed:
			rank[a] = 3
		case a == last.addr:
			rank[a] = 0
		case doubted[family(a)]:
			rank[a] = 2
		default:
			rank[a] = 1
		}
	}
	out := slices.Clone(addrs)
	slices.SortStableFunc(out, func(a, b netip.AddrPort) int { return cmp.Compare(rank[a], rank[b]) })
	return out
}

// doubted reports whether a family seems not to lead anywhere from here. Its
// hosts are forgotten one by one, so that it has its next trial in time.
func (r *reach) doubted(family int) bool { return r.silent[family].size() >= familyDoubt }

// connected forgets what was held against an address and its family.
func (r *reach) connected(a netip.AddrPort) {
	r.failed.forget(a)
	r.silent[family(a)].clear()
}

// unconnected remembers that an address of host did not connect. One that
// refused has answered: nothing is wrong with its family.
func (r *reach) unconnected(host string, a netip.AddrPort, err error) {
	r.failed.put(a, struct{}{})
	if !errors.Is(err, syscall.ECONNREFUSED) {
		r.silent[family(a)].put(host, struct{}{})
	}
}

// ended learns from an attempt where the next one to hop has to begin. A host
// that greylists wants to see the same source again, and a source knows that
// only if it comes to the same host: the first that put mail off is kept, until
// it cannot be reached. Neither 421 nor a lack of room (452) is a matter of
// coming back.
func (r *reach) ended(hop addr.NextHop, out []Outcome) {
	for _, o := range out {
		e := o.Err
		if e == nil || !e.Remote || e.Permanent || e.Stage < StageMail || e.Code == 421 || e.Code == 452 {
			continue
		}
		if last, ok := r.refusals.get(hop); ok {
			if _, failed := r.failed.get(last.addr); !failed {
				return
			}
		}
		r.refusals.put(hop, refusal{o.MX, o.Addr})
		return
	}
}

// favour moves the host that put mail off before those that are no better by
// preference: a clear reason to favour one (RFC 5321, Section 5.1; ledger
// SMTP-5.1-07).
func (r *reach) favour(hop addr.NextHop, hosts []target) []target {
	last, ok := r.refusals.get(hop)
	if !ok {
		return hosts
	}
	i := slices.IndexFunc(hosts, func(t target) bool { return t.host == last.host })
	if i < 0 {
		return hosts
	}
	t := hosts[i]
	first := slices.IndexFunc(hosts, func(o target) bool { return o.preference == t.preference })
	return slices.Insert(slices.Delete(hosts, i, i+1), first, t)
}

// family is 1 for IPv6, else 0.
func family(a netip.AddrPort) int {
	if is6(a) {
		return 1
	}
	return 0
}
