package boltstore

import (
	"context"
	"fmt"
	"time"

	"stsrelay/internal/addr"

	bolt "go.etcd.io/bbolt"
)

// tlsaVersion is the first octet of every record of a host. What follows is a
// time in nanoseconds since 1970, in 8 octets.
const tlsaVersion = 1

// TLSAHosts returns which hosts were kept and when each was last seen to have
// secure TLSA records.
func (s *Store) TLSAHosts(ctx context.Context) (map[addr.Host]time.Time, error) {
	if err := ctx.Err(); err != nil {
		return nil, unavailable(err)
	}
	hosts := map[addr.Host]time.Time{}
	err := s.view(func(tx *bolt.Tx) error {
		return tx.Bucket(bTLSA).ForEach(func(k, v []byte) error {
			host, err := addr.ParseHost(string(k))
			if err != nil || len(v) != 9 || v[0] != tlsaVersion { // it must not keep the others from being known
				s.o.Log.Error().Bytes("host", k).Msg("a damaged record of a host with TLSA records is left alone")
				return nil
			}
			hosts[host] = unstamp(number(v[1:]))
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("reading the hosts with TLSA records: %w", err)
	}
	return hosts, nil
}

// KeepTLSAHosts writes when hosts were last seen to have secure TLSA records,
// all or nothing. The zero time forgets a host.
func (s *Store) KeepTLSAHosts(ctx context.Context, hosts map[addr.Host]time.Time) error {
	return s.do(ctx, 0, func(b *batch) error {
		for host, seen := range hosts {
			key := []byte(host.String())
			if !seen.IsZero() {
				b.put(b.tlsa, key, append([]byte{tlsaVersion}, octets(stamp(seen))...))
			} else if b.tlsa.Get(key) != nil {
				b.delete(b.tlsa, key)
			}
		}
		return nil
	})
}
