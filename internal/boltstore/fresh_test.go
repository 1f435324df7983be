package boltstore

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"stsrelay/relay"
)

// TestFresh compares the index in memory with a plain sorted list under many
// random changes.
func TestFresh(t *testing.T) {
	type row struct {
		dest string
		item freshItem
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	f := fresh{dests: make(map[string]*freshList)}
	var rows []row
	for i := range 20_000 {
		if len(rows) == 0 || rnd.IntN(100) < 50+i/200%2*5-2 { // grows for a while, then shrinks
			r := row{fmt.Sprint("d", rnd.IntN(50)), newFreshItem(int64(i+rnd.IntN(3)*10), relay.ID(fmt.Sprint(i)))}
			rows = append(rows, r)
			f.add(r.dest, r.item)
		} else {
			at := rnd.IntN(len(rows))
			f.remove(rows[at].dest, rows[at].item)
			f.remove(rows[at].dest, rows[at].item) // what is gone may go again
			rows = slices.Delete(rows, at, at+1)
		}
		if i%500 != 0 {
			continue
		}
		if f.live != len(rows) {
			t.Fatalf("step %d: %d live, want %d", i, f.live, len(rows))
		}
		want := make(map[string][]freshItem)
		for _, r := range rows {
			want[r.dest] = append(want[r.dest], r.item)
		}
		seen := 0
		for dest, ok := f.after(""); ok; dest, ok = f.after(dest) {
			seen++
			got := slices.DeleteFunc(slices.Clone(f.of(dest)), freshItem.hole)
			if !slices.IsSortedFunc(got, func(a, b freshItem) int { return int(a.due - b.due) }) {
				t.Fatalf("step %d: %s is not in order of due time", i, dest)
			}
			slices.SortFunc(got, freshItem.compare)
			slices.SortFunc(want[dest], freshItem.compare)
			if !slices.Equal(got, want[dest]) {
				t.Fatalf("step %d: %s has %v, want %v", i, dest, got, want[dest])
			}
		}
		if seen != len(want) || !slices.IsSorted(f.names) {
			t.Fatalf("step %d: %d destinations, want %d", i, seen, len(want))
		}
	}
}
