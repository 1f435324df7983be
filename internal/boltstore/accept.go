package boltstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"stsrelay/relay"
)

// A parcel is a message made ready for a batch.
type parcel struct {
	m       relay.Message
	body    *body
	details [][]byte // of each entry
}

// Accept stores body and entries in one commit.
func (s *Store) Accept(ctx context.Context, m relay.Message, w relay.BodyWriter) error {
	defer w.Discard()
	b, ok := w.(*body)
	if !ok || b.s != s {
		return errors.New("accepting a message: the body is not from this store's NewBody")
	}
	if err := s.roomLeft(); err != nil {
		return err
	}
	p, err := pack(m, b)
	if err != nil {
		return err
	}
	return s.do(ctx, len(b.buf), func(batch *batch) error { return batch.accept(p) })
}

// pack checks a message and does all the work that needs no transaction.
func pack(m relay.Message, b *body) (*parcel, error) {
	if err := check(m); err != nil {
		return nil, fmt.Errorf("accepting message %s: %w", m.ID, err)
	}
	if err := b.seal(); err != nil {
		return nil, err
	}
	p := &parcel{m: m, body: b}
	if p.m.Size == 0 {
		p.m.Size = b.size
	}
	for _, e := range m.Entries {
		j, err := json.Marshal(details{From: m.From, To: e.To, Options: m.Options})
		if err != nil {
			return nil, fmt.Errorf("accepting message %s: %w", m.ID, err)
		}
		p.details = append(p.details, j)
	}
	return p, nil
}

func check(m relay.Message) error {
	if len(m.Entries) == 0 {
		return errors.New("no entries")
	}
	seen := make(map[relay.ID]bool, len(m.Entries))
	for _, id := range append(entryIDs(m), m.ID) {
		if id == "" || len(id) > 255 || strings.IndexByte(string(id), 0) >= 0 {
			return fmt.Errorf("id %q is not 1 to 255 octets without NUL", id)
		}
	}
	for _, e := range m.Entries {
		if seen[e.ID] {
			return fmt.Errorf("two entries with id %s", e.ID)
		}
		seen[e.ID] = true
		if d := e.Destination; d == "" || len(d) > 1024 || strings.IndexByte(string(d), 0) >= 0 {
			return fmt.Errorf("destination %q is not 1 to 1024 octets without NUL", d)
		}
		if len(e.To) == 0 {
			return fmt.Errorf("entry %s has no recipients", e.ID)
		}
	}
	return nil
}

func entryIDs(m relay.Message) []relay.ID {
	ids := make([]relay.ID, 0, len(m.Entries)+1)
	for _, e := range m.Entries {
		ids = append(ids, e.ID)
	}
	return ids
}

func (b *batch) accept(p *parcel) error {
	if err := b.vacant(p.m); err != nil {
		return err
	}
	id := []byte(p.m.ID)
	common := shared{left: uint32(len(p.m.Entries)), size: p.m.Size, spool: p.body.spoolName(), entries: entryIDs(p.m)}
	b.put(b.message, id, common.encode())
	if common.spool == "" {
		b.put(b.body, id, p.body.buf)
	} else {
		b.put(b.spool, []byte(common.spool), id)
		b.after = append(b.after, func() { p.body.kept = true })
	}
	room := b.s.mayBeFresh()
	for i, e := range p.m.Entries {
		r := &record{due: b.now, arrived: b.now, size: p.m.Size, message: string(p.m.ID), dest: string(e.Destination), details: p.details[i]}
		if room && len(e.ID) <= maxFreshID {
			r.flags = flagFresh
		}
		b.put(b.entry, []byte(e.ID), r.encode())
		b.index(r, e.ID)
	}
	b.counts.entries += int64(len(p.m.Entries))
	b.counts.messages++
	b.counts.octets += p.m.Size
	return nil
}

// vacant makes sure that no ID is taken.
func (b *batch) vacant(m relay.Message) error {
	if b.message.Get([]byte(m.ID)) != nil {
		return fmt.Errorf("message %s is queued already", m.ID)
	}
	for _, e := range m.Entries {
		if b.entry.Get([]byte(e.ID)) != nil {
			return fmt.Errorf("entry %s is queued already", e.ID)
		}
	}
	return nil
}

// index makes an entry one that Due and Claim find, unindex undoes that.
func (b *batch) index(r *record, id relay.ID) {
	switch {
	case r.has(flagHeld):
	case r.has(flagFresh):
		b.indexFresh(r, id)
	default:
		b.put(b.due, dueKey(r, id), octets(r.planned))
	}
}

func (b *batch) unindex(r *record, id relay.ID) {
	switch {
	case r.has(flagHeld):
	case r.has(flagFresh):
		b.unindexFresh(r, id)
	default:
		b.delete(b.due, dueKey(r, id))
	}
}

// drop removes an entry, and the message with its last one.
func (b *batch) drop(id relay.ID, r *record) error {
	key := []byte(r.message)
	m, err := decodeShared(b.message.Get(key))
	if err != nil {
		return fmt.Errorf("message %s: %w", r.message, err)
	}
	b.delete(b.entry, []byte(id))
	b.counts.entries--
	b.unindex(r, id)
	if r.has(flagHeld) {
		b.counts.held--
	}
	if m.left--; m.left > 0 {
		b.put(b.message, key, m.encode())
		return nil
	}
	if err := b.mailDropped(r.message); err != nil {
		return err
	}
	b.delete(b.message, key)
	b.counts.messages--
	b.counts.octets -= m.size
	if m.spool == "" {
		b.delete(b.body, key)
		return nil
	}
	b.delete(b.spool, []byte(m.spool))
	b.after = append(b.after, func() { b.s.remove(m.spool) })
	return nil
}

// Forget removes a message and all that is left of its entries.
func (s *Store) Forget(ctx context.Context, message relay.ID) error {
	return s.do(ctx, 0, func(b *batch) error {
		v := b.message.Get([]byte(message))
		if v == nil {
			return nil
		}
		m, err := decodeShared(v)
		if err != nil {
			return fmt.Errorf("forgetting message %s: %w", message, err)
		}
		for _, id := range m.entries {
			v := b.entry.Get([]byte(id))
			if v == nil {
				continue
			}
			r, err := decodeRecord(v)
			if err == nil {
				err = b.drop(id, &r)
			}
			if err != nil {
				return fmt.Errorf("forgetting entry %s: %w", id, err)
			}
			b.after = append(b.after, func() { b.s.leases.drop(id) })
		}
		return nil
	})
}
