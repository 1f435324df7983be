package resolver

import (
	"fmt"
	"sync"
	"testing"
)

// TestCrowd has many callers ask for few names, with room for few answers, so
// that hits, misses, evictions, shared and fresh lookups meet. The race detector
// and the right answer for each caller are the test.
func TestCrowd(t *testing.T) {
	var zone []string
	for i := range 10 {
		zone = append(zone, fmt.Sprintf("n%d.test. 300 IN TXT answer-%d", i, i))
	}
	s := startServer(t, zone...)
	c := newClient(t, Options{CacheBytes: 5 * (entryCost + 60), MaxLookups: 8}, s)
	var wg sync.WaitGroup
	for g := range 40 {
		wg.Go(func() {
			for i := range 25 {
				n := (g + i) % 10
				look := c.TXT
				if i%7 == 0 {
					look = c.FreshTXT
				}
				a, err := look(t.Context(), fmt.Sprintf("n%d.test", n))
				if want := fmt.Sprintf("answer-%d", n); err != nil || len(a.Records) != 1 || a.Records[0] != want {
					t.Errorf("got %q, %v, want %s", a.Records, err, want)
					return
				}
			}
		})
	}
	wg.Wait()
	if len(c.flights.m) != 0 || len(c.permits) != 0 {
		t.Errorf("%d flights and %d permits are left", len(c.flights.m), len(c.permits))
	}
	if c.cache.used > c.cache.room || c.cache.lru.Len() == 0 {
		t.Errorf("%d entries take %d of %d", c.cache.lru.Len(), c.cache.used, c.cache.room)
	}
}
