package resolver

import (
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// entryCost is about what an entry takes beside its records, in bytes; the
// records are counted as the length of their messages. Two MX records of a
// domain were measured to take 490 in all, and are counted as 507.
const entryCost = 350

// An entry is one answer or failure as the cache and a flight hold it.
type entry struct {
	answer  any // an Answer[T]
	err     error
	expires time.Time
	cost    int
	failure bool // no answer could be had
}

// A cache keeps entries until their time is over or room is needed; the least
// recently used goes first. It reads no clock.
type cache struct {
	mu   sync.Mutex // guards what follows
	room int
	used int
	lru  *simplelru.LRU[question, entry]
}

func newCache(room int) *cache {
	c := &cache{room: room}
	c.lru, _ = simplelru.NewLRU(1<<30, func(_ question, e entry) { c.used -= e.cost })
	return c
}

// get returns what is known of k and still true at now.
func (c *cache) get(k key, now time.Time) (entry, bool) {
	if k.fresh {
		return entry{}, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.lru.Get(k.question)
	if ok && !now.Before(e.expires) {
		c.lru.Remove(k.question)
		return entry{}, false
	}
	return e, ok
}

// put keeps e for its time. A failure never takes the place of an answer that
// is still true.
func (c *cache) put(q question, e entry, now time.Time) {
	if !now.Before(e.expires) || e.cost > c.room {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if old, ok := c.lru.Peek(q); ok {
		if e.failure && !old.failure && now.Before(old.expires) {
			return
		}
		c.lru.Remove(q)
	}
	c.lru.Add(q, e)
	c.used += e.cost
	for c.used > c.room {
		c.lru.RemoveOldest()
	}
}

func (c *cache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lru.Purge()
}
