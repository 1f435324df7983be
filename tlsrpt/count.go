package tlsrpt

import (
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"slices"
)

// MaxDetails bounds the kinds of failure that are kept apart for one policy on
// one day; a peer that answers differently each time must not fill our disk.
// What comes after is counted in one element for each Result, without text and
// addresses, so that the sum stays right.
const MaxDetails = 1000

// MaxPolicies bounds the policies that are kept apart for one domain on one
// day: a domain that shows another one at each look is counted, by type, under
// a policy without text.
const MaxPolicies = 100

// Known reports whether r is one of the registered values (RFC 8460, Section
// 6.6; ledger RPT-4.3-12).
func (r Result) Known() bool { return slices.Contains(Results(), r) }

// Known reports whether t is one of the three types (ledger RPT-4.4-05).
func (t PolicyType) Known() bool { return t == NoPolicyFound || t == STS || t == TLSA }

// Count returns what one session adds to its domain's day: for each policy one
// success or one failure, never both (ledger RPT-4.2-01, -02, -03), and one
// detail for each distinct failure. Text is cleaned once more, and a Result
// that is not registered is booked as a general validation failure, a policy of
// no known type as none found: a report never shows a private value (ledger
// RPT-4.3-12, RPT-4.4-05).
func (s Session) Count() []PolicyTally {
	var out []PolicyTally
	for _, p := range s.Policies {
		if !p.Policy.Type.Known() {
			p.Policy.Type = NoPolicyFound
		}
		i := slices.IndexFunc(out, func(t PolicyTally) bool { return t.Policy.Key() == p.Policy.Key() })
		if i < 0 {
			i, out = len(out), append(out, PolicyTally{Policy: p.Policy})
		}
		for _, f := range p.Failures {
			d := s.detail(f)
			if !slices.Contains(out[i].Details, d) {
				out[i].Details = append(out[i].Details, d)
			}
		}
	}
	for i := range out {
		if len(out[i].Details) > 0 {
			out[i].Failures = 1
		} else {
			out[i].Successes = 1
		}
	}
	return out
}

func (s Session) detail(f Failure) Detail {
	f.Reason = Clean(f.Reason)
	if !f.Result.Known() {
		f.Result = ValidationFailure
	}
	return Detail{Failure: f, MX: Clean(s.MX), HELO: Clean(s.HELO), Receiver: ipText(s.Receiver), Sender: ipText(s.Sender), Sessions: 1}
}

func ipText(ip netip.Addr) string {
	if !ip.IsValid() {
		return ""
	}
	return ip.Unmap().WithZone("").String()
}

// Merge adds o, which counts sessions under the same policy, to t.
func (t *PolicyTally) Merge(o PolicyTally) {
	t.Successes += o.Successes
	t.Failures += o.Failures
	for _, d := range o.Details {
		i := t.find(d)
		if i < 0 && len(t.Details) >= MaxDetails {
			d = d.Folded()
			i = t.find(d)
		}
		if i < 0 {
			t.Details = append(t.Details, d)
			continue
		}
		t.Details[i].Sessions += d.Sessions
	}
}

func (t *PolicyTally) find(d Detail) int {
	return slices.IndexFunc(t.Details, func(have Detail) bool { return have.same(d) })
}

func (d Detail) same(o Detail) bool {
	d.Sessions = o.Sessions
	return d == o
}

// Folded is the element that counts d once there are MaxDetails of them.
func (d Detail) Folded() Detail {
	return Detail{Failure: Failure{Result: d.Result}, Sessions: d.Sessions}
}

// Folded is the policy that p is counted under once there are MaxPolicies.
func (p Policy) Folded() Policy { return Policy{Type: p.Type, Domain: p.Domain} }

// A Key tells policies, or details, apart in a store: equal keys, equal things.
type Key [16]byte

// Key identifies the policy by everything that the report shows of it, so that
// a policy changed at noon gets an entry of its own (ledger RPT-4.4-18).
func (p Policy) Key() Key {
	h := keyOf(string(p.Type), p.Domain)
	return keyOf(string(h[:]), string(sum(p.Strings)), string(sum(p.MXHosts)))
}

// Key identifies the detail by everything but its count.
func (d Detail) Key() Key {
	return keyOf(string(d.Result), d.Reason, d.MX, d.HELO, d.Receiver, d.Sender)
}

func sum(s []string) []byte {
	k := keyOf(s...)
	return k[:]
}

// keyOf hashes the strings with their lengths, so that moving a letter from
// one to the next makes another key.
func keyOf(s ...string) (k Key) {
	h := sha256.New()
	for _, x := range s {
		h.Write(binary.AppendUvarint(nil, uint64(len(x))))
		h.Write([]byte(x))
	}
	copy(k[:], h.Sum(nil))
	return k
}
