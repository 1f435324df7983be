package boltstore

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"

	"stsrelay/internal/addr"
	"stsrelay/tlsrpt"

	bolt "go.etcd.io/bbolt"
)

// Tallies are counted in place: a record for a domain's day, behind it one for
// each policy, and behind that one for each of its details, so that one more
// session costs two small writes however much was counted before.
//
//	octet 0       tallyVersion
//	1             numbers of 8 octets: see below
//	...           JSON of tlsrpt.Policy or tlsrpt.Detail
const tallyVersion = 1

// How many numbers a record has.
const (
	domainNumbers = 1 // policies so far
	policyNumbers = 3 // successes, failures, details so far
	detailNumbers = 1 // sessions
)

// Add counts sessions in one commit.
func (s *Store) Add(ctx context.Context, sessions []tlsrpt.Session) error {
	if len(sessions) == 0 {
		return nil
	}
	return s.do(ctx, 0, func(b *batch) error {
		for _, session := range sessions {
			if err := b.tallySession(session); err != nil {
				return err
			}
		}
		return nil
	})
}

func tallyPrefix(day tlsrpt.Day, domain addr.Domain) []byte {
	return append(append(append([]byte(day), 0), domain.String()...), 0)
}

func (b *batch) tallySession(session tlsrpt.Session) error {
	if session.Domain.IsZero() {
		return nil // mail to an address literal: there is nobody to tell
	}
	prefix := tallyPrefix(session.Day(), session.Domain)
	for _, t := range session.Count() {
		if err := b.tallyPolicy(prefix, t); err != nil {
			return fmt.Errorf("counting a session of %s: %w", session.Domain, err)
		}
	}
	return nil
}

// tallyPolicy counts for one policy, in the folded one when it is new and there
// is no room.
func (b *batch) tallyPolicy(prefix []byte, t tlsrpt.PolicyTally) error {
	key := policyKey(prefix, t.Policy)
	n, text, err := readTally(b.tally.Get(key), policyNumbers)
	if err == nil && text == nil {
		var room bool
		if room, err = b.newPolicy(prefix); err == nil && !room {
			t.Policy = t.Policy.Folded()
			key = policyKey(prefix, t.Policy)
			n, text, err = readTally(b.tally.Get(key), policyNumbers)
		}
	}
	if err == nil && text == nil {
		text, err = json.Marshal(t.Policy)
	}
	if err != nil {
		return err
	}
	n[0] += t.Successes
	n[1] += t.Failures
	for _, d := range t.Details {
		fresh, err := b.tallyDetail(key, d, n[2] < tlsrpt.MaxDetails)
		if err != nil {
			return err
		}
		n[2] += fresh
	}
	b.put(b.tally, key, writeTally(n, text))
	return nil
}

// newPolicy counts one more policy of a domain's day, if there is room.
func (b *batch) newPolicy(prefix []byte) (bool, error) {
	n, _, err := readTally(b.tally.Get(prefix), domainNumbers)
	if err != nil || n[0] >= tlsrpt.MaxPolicies {
		return false, err
	}
	n[0]++
	b.put(b.tally, prefix, writeTally(n, nil))
	return true, nil
}

func policyKey(prefix []byte, p tlsrpt.Policy) []byte {
	k := p.Key()
	return append(bytes.Clone(prefix), k[:]...)
}

// tallyDetail counts a detail, in the folded element when it is new and there
// is no room. It returns how many elements that made.
func (b *batch) tallyDetail(policy []byte, d tlsrpt.Detail, room bool) (int64, error) {
	key := detailKey(policy, d)
	n, text, err := readTally(b.tally.Get(key), detailNumbers)
	if err == nil && text == nil && !room {
		d = d.Folded()
		key = detailKey(policy, d)
		n, text, err = readTally(b.tally.Get(key), detailNumbers)
	}
	fresh := int64(0)
	if err == nil && text == nil {
		fresh = 1
		kind := d
		kind.Sessions = 0
		text, err = json.Marshal(kind)
	}
	if err != nil {
		return 0, err
	}
	n[0] += d.Sessions
	b.put(b.tally, key, writeTally(n, text))
	return fresh, nil
}

func detailKey(policy []byte, d tlsrpt.Detail) []byte {
	k := d.Key()
	return append(bytes.Clone(policy), k[:]...)
}

// readTally reads a record; text is nil when there is none.
func readTally(v []byte, numbers int) (n []int64, text []byte, err error) {
	n = make([]int64, numbers)
	if v == nil {
		return n, nil, nil
	}
	if len(v) < 1+8*numbers || v[0] != tallyVersion {
		return nil, nil, fmt.Errorf("tally record of unknown version or cut off (%d octets)", len(v))
	}
	for i := range n {
		n[i] = number(v[1+8*i : 9+8*i])
	}
	return n, v[1+8*numbers:], nil
}

func writeTally(n []int64, text []byte) []byte {
	v := make([]byte, 0, 1+8*len(n)+len(text))
	v = append(v, tallyVersion)
	for _, x := range n {
		v = append(v, octets(x)...)
	}
	return append(v, text...)
}

// Tallies yields one domain's day after the other, each read in a transaction
// of its own. After an error it ends.
func (s *Store) Tallies(ctx context.Context, day tlsrpt.Day) iter.Seq2[tlsrpt.Tally, error] {
	return func(yield func(tlsrpt.Tally, error) bool) {
		within := []byte(day)
		if day != "" {
			within = append(within, 0)
		}
		for at := within; at != nil; {
			var t *tlsrpt.Tally
			err := ctx.Err()
			if err == nil {
				t, at, err = s.tallyFrom(at, within)
			}
			if err != nil {
				yield(tlsrpt.Tally{}, fmt.Errorf("reading tallies: %w", err))
				return
			}
			if t != nil && !yield(*t, nil) {
				return
			}
		}
	}
}

// tallyFrom reads the first tally at or behind a key that begins with within,
// and where the next begins: nil at the end.
func (s *Store) tallyFrom(at, within []byte) (t *tlsrpt.Tally, next []byte, err error) {
	err = s.view(func(tx *bolt.Tx) error {
		c := tx.Bucket(bTally).Cursor()
		k, v := c.Seek(at)
		if k == nil || !bytes.HasPrefix(k, within) {
			return nil
		}
		var prefix []byte
		if t, prefix, err = newTally(k); err != nil {
			return err
		}
		for ; bytes.HasPrefix(k, prefix); k, v = c.Next() {
			if err := readInto(t, len(k)-len(prefix), v); err != nil {
				return fmt.Errorf("%s of %s: %w", t.Domain, t.Day, err)
			}
		}
		next = bytes.Clone(k)
		return nil
	})
	return t, next, err
}

func newTally(k []byte) (*tlsrpt.Tally, []byte, error) {
	day, rest, ok := bytes.Cut(k, []byte{0})
	name, _, ok2 := bytes.Cut(rest, []byte{0})
	domain, err := addr.ParseDomain(string(name))
	if !ok || !ok2 || err != nil {
		return nil, nil, fmt.Errorf("tally key %q: %w", k, err)
	}
	t := &tlsrpt.Tally{Day: tlsrpt.Day(day), Domain: domain}
	return t, tallyPrefix(t.Day, domain), nil
}

// readInto adds a record to t; keys is the length of the keys behind the
// prefix, which tells the domain's record from a policy and that from a detail.
func readInto(t *tlsrpt.Tally, keys int, v []byte) error {
	if keys == 0 {
		return nil // the domain's own
	}
	if keys == len(tlsrpt.Key{}) {
		n, text, err := readTally(v, policyNumbers)
		p := tlsrpt.PolicyTally{}
		if err == nil {
			p.Successes, p.Failures = n[0], n[1]
			err = json.Unmarshal(text, &p.Policy)
		}
		t.Policies = append(t.Policies, p)
		return err
	}
	if len(t.Policies) == 0 {
		return errors.New("detail without a policy")
	}
	n, text, err := readTally(v, detailNumbers)
	var d tlsrpt.Detail
	if err == nil {
		err = json.Unmarshal(text, &d)
	}
	if err == nil {
		d.Sessions = n[0]
		p := &t.Policies[len(t.Policies)-1]
		p.Details = append(p.Details, d)
	}
	return err
}
