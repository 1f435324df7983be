package boltstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/stscache"

	bolt "go.etcd.io/bbolt"
)

// policyVersion is the first octet of every policy record. What follows: a
// flag octet (1: there is a body), fetched, used and failedAt in nanoseconds
// (the least int64: never), failures, then id, failed id, failure and body,
// each after its length of 4 octets. Binary, because a lookup should cost
// microseconds with a million policies kept.
const policyVersion = 1

// Policy returns what is kept of domain.
func (s *Store) Policy(ctx context.Context, domain addr.Domain) (e stscache.Entry, err error) {
	if err := ctx.Err(); err != nil {
		return e, unavailable(err)
	}
	err = s.view(func(tx *bolt.Tx) (err error) {
		v := tx.Bucket(bPolicy).Get([]byte(domain.String()))
		if v == nil {
			return fmt.Errorf("%w: %s", stscache.ErrNotFound, domain)
		}
		e, err = decodePolicy(domain, v)
		return err
	})
	return e, err
}

// PutPolicy replaces what is kept of the entry's domain.
func (s *Store) PutPolicy(ctx context.Context, e stscache.Entry) error {
	if e.Domain.IsZero() {
		return errors.New("keeping a policy: no domain")
	}
	v := encodePolicy(e)
	return s.do(ctx, len(v), func(b *batch) error {
		b.put(b.policy, []byte(e.Domain.String()), v)
		return nil
	})
}

// DeletePolicy forgets a domain.
func (s *Store) DeletePolicy(ctx context.Context, domain addr.Domain) error {
	return s.do(ctx, 0, func(b *batch) error {
		if b.policy.Get([]byte(domain.String())) != nil {
			b.delete(b.policy, []byte(domain.String()))
		}
		return nil
	})
}

// maxPoliciesPerView bounds what one read transaction copies; a policy has at
// most 64 KiB.
const maxPoliciesPerView = 100

// Policies yields in order of domain. After an error it ends.
func (s *Store) Policies(ctx context.Context) iter.Seq2[stscache.Entry, error] {
	return func(yield func(stscache.Entry, error) bool) {
		for at := []byte{}; at != nil; {
			var part []stscache.Entry
			err := ctx.Err()
			if err == nil {
				part, at, err = s.policiesFrom(at)
			}
			for _, e := range part {
				if !yield(e, nil) {
					return
				}
			}
			if err != nil {
				yield(stscache.Entry{}, fmt.Errorf("reading policies: %w", err))
				return
			}
		}
	}
}

func (s *Store) policiesFrom(at []byte) (out []stscache.Entry, next []byte, err error) {
	err = s.view(func(tx *bolt.Tx) error {
		c := tx.Bucket(bPolicy).Cursor()
		k, v := c.Seek(at)
		for ; k != nil && len(out) < maxPoliciesPerView; k, v = c.Next() {
			domain, err := addr.ParseDomain(string(k))
			if err != nil {
				return err
			}
			e, err := decodePolicy(domain, v)
			if err != nil {
				return err
			}
			out = append(out, e)
		}
		next = bytes.Clone(k)
		return nil
	})
	return out, next, err
}

func encodePolicy(e stscache.Entry) []byte {
	b := make([]byte, 0, 64+len(e.Body)+len(e.ID)+len(e.FailedID)+len(e.Failure))
	b = append(b, policyVersion, 0)
	if e.Body != nil {
		b[1] = 1
	}
	for _, t := range []time.Time{e.Fetched, e.Used, e.FailedAt} {
		b = binary.BigEndian.AppendUint64(b, uint64(stamp(t)))
	}
	b = binary.BigEndian.AppendUint64(b, uint64(e.Failures))
	for _, s := range []string{e.ID, e.FailedID, e.Failure, string(e.Body)} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
		b = append(b, s...)
	}
	return b
}

const policyHeader = 2 + 4*8

func decodePolicy(domain addr.Domain, v []byte) (e stscache.Entry, err error) {
	if len(v) < policyHeader || v[0] != policyVersion {
		return e, fmt.Errorf("policy of %s: record of unknown version or cut off (%d octets)", domain, len(v))
	}
	e.Domain = domain
	for i, t := range []*time.Time{&e.Fetched, &e.Used, &e.FailedAt} {
		*t = unstamp(number(v[2+8*i : 10+8*i]))
	}
	e.Failures = int(number(v[26:34]))
	rest := v[policyHeader:]
	var parts [4][]byte
	for i := range parts {
		if len(rest) < 4 || len(rest)-4 < int(binary.BigEndian.Uint32(rest)) {
			return e, fmt.Errorf("policy of %s: record is cut off", domain)
		}
		n := int(binary.BigEndian.Uint32(rest))
		parts[i], rest = rest[4:4+n], rest[4+n:]
	}
	e.ID, e.FailedID, e.Failure = string(parts[0]), string(parts[1]), string(parts[2])
	if v[1] == 1 {
		e.Body = append([]byte{}, parts[3]...)
	}
	return e, nil
}

// never is how the zero time is stored.
const never = -1 << 63

func stamp(t time.Time) int64 {
	if t.IsZero() {
		return never
	}
	return t.UnixNano()
}

func unstamp(n int64) time.Time {
	if n == never {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}
