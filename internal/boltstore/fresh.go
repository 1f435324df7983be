package boltstore

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"stsrelay/relay"

	bolt "go.etcd.io/bbolt"
)

// Entries that were never deferred are not in the due index but in bFresh,
// which is in order of ID, and in memory in order of destination: an accept
// then writes to the end of each bucket only, while the due index, with a
// million entries in it, would cost a page of its own for each (measured: a
// third of the accept rate). They are due always. Beyond maxFresh new entries
// go to the due index at once, so that memory stays bounded.
const maxFresh = 1 << 20

// fresh is the index in memory of bFresh. leases.mu guards it, and the rule
// there holds here too: the committer changes it after its commit. So a reader
// under mu may meet entries that have just been changed or deleted, and looks
// at the record before it believes.
type fresh struct {
	live  int
	dests map[string]*freshList
	names []string // of dests, in order; some lists may be empty
	idle  int      // how many became empty since the last tidy
}

// A freshList is one destination's entries in order of due time. Settled ones
// leave holes, which are closed when they are many.
type freshList struct {
	items []freshItem
	live  int
}

// A freshItem without an ID is a hole. It has no pointers, so that the garbage
// collector need not look at a million of them.
type freshItem struct {
	due int64
	len uint8
	txt [maxFreshID]byte
}

// maxFreshID is the longest ID that a fresh entry may have, in octets; those
// with longer ones go to the due index.
const maxFreshID = 39

func newFreshItem(due int64, id relay.ID) freshItem {
	i := freshItem{due: due, len: uint8(len(id))}
	copy(i.txt[:], id)
	return i
}

func (i freshItem) id() relay.ID { return relay.ID(i.txt[:i.len]) }

func (i freshItem) hole() bool { return i.len == 0 }

func (i freshItem) compare(o freshItem) int {
	return cmp.Or(cmp.Compare(i.due, o.due), cmp.Compare(i.id(), o.id()))
}

func (f *fresh) add(dest string, item freshItem) {
	l := f.dests[dest]
	if l == nil {
		l = &freshList{}
		f.dests[dest] = l
		at, _ := slices.BinarySearch(f.names, dest)
		f.names = slices.Insert(f.names, at, dest)
	}
	at := len(l.items)
	if at > 0 && l.items[at-1].due > item.due { // the clock was set back
		at, _ = slices.BinarySearchFunc(l.items, item, func(a, b freshItem) int { return cmp.Compare(a.due, b.due) })
	}
	l.items = slices.Insert(l.items, at, item)
	l.live++
	f.live++
}

func (f *fresh) remove(dest string, item freshItem) {
	l := f.dests[dest]
	if l == nil {
		return
	}
	at, _ := slices.BinarySearchFunc(l.items, item.due, func(a freshItem, due int64) int { return cmp.Compare(a.due, due) })
	for ; at < len(l.items) && l.items[at].due == item.due; at++ {
		if l.items[at] == item {
			l.items[at].len = 0
			l.live--
			f.live--
			break
		}
	}
	if l.live*2 < len(l.items) {
		l.items = slices.DeleteFunc(l.items, freshItem.hole)
	}
	if l.live == 0 {
		f.tidy()
	}
}

// tidy forgets empty destinations, once in as many times as there are names:
// each costs a few steps on average.
func (f *fresh) tidy() {
	if f.idle++; f.idle <= len(f.names) {
		return
	}
	f.idle = 0
	f.names = slices.DeleteFunc(f.names, func(name string) bool {
		empty := f.dests[name].live == 0
		if empty {
			delete(f.dests, name)
		}
		return empty
	})
}

// after returns the first destination behind the given one that may have
// entries.
func (f *fresh) after(dest string) (string, bool) {
	at, found := slices.BinarySearch(f.names, dest)
	if found {
		at++
	}
	for ; at < len(f.names); at++ {
		if f.dests[f.names[at]].live > 0 {
			return f.names[at], true
		}
	}
	return "", false
}

// of returns dest's items, holes among them.
func (f *fresh) of(dest string) []freshItem {
	if l := f.dests[dest]; l != nil {
		return l.items
	}
	return nil
}

// loadFresh reads bFresh into memory.
func (s *Store) loadFresh() error {
	f := &s.leases.fresh
	err := s.view(func(tx *bolt.Tx) error {
		return tx.Bucket(bFresh).ForEach(func(k, v []byte) error {
			if len(v) < 9 || len(k) > maxFreshID {
				return fmt.Errorf("fresh entry %q: %d octets", k, len(v))
			}
			dest := string(v[8:])
			l := f.dests[dest]
			if l == nil {
				l = &freshList{}
				f.dests[dest] = l
				f.names = append(f.names, dest)
			}
			l.items = append(l.items, newFreshItem(number(v[:8]), relay.ID(k)))
			l.live++
			f.live++
			return nil
		})
	})
	slices.Sort(f.names)
	for _, l := range f.dests {
		slices.SortFunc(l.items, freshItem.compare)
	}
	if err != nil {
		return fmt.Errorf("opening store %s: %w", s.path(), err)
	}
	return nil
}

func (b *batch) indexFresh(r *record, id relay.ID) {
	b.put(b.fresh, []byte(id), append(binary.BigEndian.AppendUint64(nil, uint64(r.due)), r.dest...))
	dest, item := r.dest, newFreshItem(r.due, id)
	b.after = append(b.after, func() {
		b.s.leases.mu.Lock()
		defer b.s.leases.mu.Unlock()
		b.s.leases.fresh.add(dest, item)
	})
}

func (b *batch) unindexFresh(r *record, id relay.ID) {
	b.delete(b.fresh, []byte(id))
	dest, item := r.dest, newFreshItem(r.due, id)
	b.after = append(b.after, func() {
		b.s.leases.mu.Lock()
		defer b.s.leases.mu.Unlock()
		b.s.leases.fresh.remove(dest, item)
	})
}

// mayBeFresh says whether there is room for fresh entries.
func (s *Store) mayBeFresh() bool {
	s.leases.mu.Lock()
	defer s.leases.mu.Unlock()
	return s.leases.fresh.live < maxFresh
}
