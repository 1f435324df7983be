package boltstore

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/relay"
)

// recordVersion is the first octet of every entry and message record. A record
// of another version is an error, never an empty record.
const recordVersion = 1

// The flags of a record.
const (
	flagHeld   byte = 1 << iota // in neither index
	flagBounce                  // an operator ended it
	flagFresh                   // in bFresh, not in the due index
)

// A record is a stored entry: what the store itself needs at fixed places, so
// that scans need not decode the rest, which is JSON.
//
//	octet 0      recordVersion
//	1            flags
//	2, 10, 18    due, planned delay, arrival: nanoseconds, big endian
//	26           size of the body
//	34           attempts, 4 octets
//	38, 40       lengths of message ID and destination, 2 octets each
//	42           message ID, destination, JSON of details
type record struct {
	flags     byte
	due       int64
	planned   int64
	arrived   int64
	size      int64
	attempts  uint32
	message   string
	dest      string
	details   []byte
	decodedAs *details
}

// details are the parts of an entry that only its reader needs.
type details struct {
	From    addr.Address
	To      []relay.Recipient
	Options relay.Options
	Hold    string       `json:",omitempty"`
	History []relay.Note `json:",omitempty"`
}

const recordHeader = 42

func (r *record) has(flag byte) bool { return r.flags&flag != 0 }

func (r *record) encode() []byte {
	b := make([]byte, 0, recordHeader+len(r.message)+len(r.dest)+len(r.details))
	b = append(b, recordVersion, r.flags)
	for _, n := range []int64{r.due, r.planned, r.arrived, r.size} {
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	b = binary.BigEndian.AppendUint32(b, r.attempts)
	b = binary.BigEndian.AppendUint16(b, uint16(len(r.message)))
	b = binary.BigEndian.AppendUint16(b, uint16(len(r.dest)))
	b = append(b, r.message...)
	b = append(b, r.dest...)
	return append(b, r.details...)
}

// decodeRecord reads the head of a record; details still points into v.
func decodeRecord(v []byte) (r record, err error) {
	if len(v) == 0 {
		return r, errors.New("empty record")
	}
	if v[0] != recordVersion {
		return r, fmt.Errorf("record of version %d, this version of stsrelay reads %d", v[0], recordVersion)
	}
	if len(v) < recordHeader {
		return r, fmt.Errorf("record of %d octets is cut off", len(v))
	}
	r.flags = v[1]
	r.due, r.planned, r.arrived, r.size = number(v[2:10]), number(v[10:18]), number(v[18:26]), number(v[26:34])
	r.attempts = binary.BigEndian.Uint32(v[34:])
	m, d := int(binary.BigEndian.Uint16(v[38:])), int(binary.BigEndian.Uint16(v[40:]))
	rest := v[recordHeader:]
	if len(rest) < m+d {
		return r, fmt.Errorf("record of %d octets is cut off", len(v))
	}
	r.message, r.dest, r.details = string(rest[:m]), string(rest[m:m+d]), rest[m+d:]
	return r, nil
}

func (r *record) decodeDetails() (*details, error) {
	if r.decodedAs == nil {
		var d details
		if err := json.Unmarshal(r.details, &d); err != nil {
			return nil, fmt.Errorf("record cannot be read: %w", err)
		}
		r.decodedAs = &d
	}
	return r.decodedAs, nil
}

func (r *record) setDetails(d *details) error {
	j, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("encoding entry: %w", err)
	}
	r.details, r.decodedAs = j, d
	return nil
}

// in is how long until the entry is due. Never longer than planned: the wall
// clock may have been set back since (design.md: clock jumps).
func (r *record) in(now int64) int64 { return dueIn(r.due, r.planned, now) }

func dueIn(due, planned, now int64) int64 { return min(due-now, planned) }

// entry is the record as the relay sees it.
func (r *record) entry(id relay.ID, now int64) (relay.Entry, error) {
	d, err := r.decodeDetails()
	if err != nil {
		return relay.Entry{}, err
	}
	return relay.Entry{
		ID: id, Message: relay.ID(r.message), Destination: relay.Destination(r.dest),
		From: d.From, To: d.To, Options: d.Options, Size: r.size,
		Held: relay.Hold{Held: r.has(flagHeld), Reason: d.Hold}, Bounce: r.has(flagBounce),
		Attempts: int(r.attempts), History: d.History,
		Arrived: time.Unix(0, r.arrived).UTC(), Age: time.Duration(max(0, now-r.arrived)), Due: time.Duration(r.in(now)),
	}, nil
}

// The due index sorts by destination, then by time, then by entry: the first
// key of a destination is its earliest entry. Destinations hold no NUL.

func destPrefix(dest string) []byte { return append([]byte(dest), 0) }

// afterDest sorts behind every key of dest and before those of the next.
func afterDest(dest string) []byte { return append([]byte(dest), 1) }

func dueKey(r *record, id relay.ID) []byte {
	k := make([]byte, 0, len(r.dest)+9+len(id))
	k = append(append(k, r.dest...), 0)
	k = binary.BigEndian.AppendUint64(k, uint64(max(0, r.due)))
	return append(k, id...)
}

func splitDueKey(k []byte) (dest string, due int64, id relay.ID, err error) {
	i := bytes.IndexByte(k, 0)
	if i < 0 || len(k) < i+10 {
		return "", 0, "", fmt.Errorf("due index: key %q", k)
	}
	return string(k[:i]), number(k[i+1 : i+9]), relay.ID(k[i+9:]), nil
}

// A shared is what the entries of a message have in common. It is rewritten
// only while a message with several entries loses them one by one.
//
//	octet 0   recordVersion
//	1         entries left, 4 octets
//	5         size, 8 octets
//	13        length of the spool file's name, 1 octet; the name, empty: in bBody
//	...       entry IDs, each after its length of 1 octet
type shared struct {
	left    uint32
	size    int64
	spool   string
	entries []relay.ID
}

const sharedHeader = 14

func (m *shared) encode() []byte {
	b := []byte{recordVersion}
	b = binary.BigEndian.AppendUint32(b, m.left)
	b = binary.BigEndian.AppendUint64(b, uint64(m.size))
	b = append(append(b, byte(len(m.spool))), m.spool...)
	for _, id := range m.entries {
		b = append(append(b, byte(len(id))), id...)
	}
	return b
}

func decodeShared(v []byte) (m shared, err error) {
	if len(v) < sharedHeader || v[0] != recordVersion {
		return m, fmt.Errorf("message record of unknown version or cut off (%d octets)", len(v))
	}
	m.left, m.size = binary.BigEndian.Uint32(v[1:]), number(v[5:13])
	strs := v[13:]
	for i := 0; len(strs) > 0; i++ {
		n := int(strs[0])
		if len(strs) < 1+n {
			return m, errors.New("message record is cut off")
		}
		if i == 0 {
			m.spool = string(strs[1 : 1+n])
		} else {
			m.entries = append(m.entries, relay.ID(strs[1:1+n]))
		}
		strs = strs[1+n:]
	}
	return m, nil
}
