package delivery

import (
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// A recall keeps the newest of what it was told, up to a size, and each for a
// while. It is safe for concurrent use.
type recall[K comparable, V any] struct {
	life time.Duration

	mu  sync.Mutex
	lru *simplelru.LRU[K, recollection[V]] // in the order of until: only put moves an entry
}

type recollection[V any] struct {
	value V
	until time.Time
}

func newRecall[K comparable, V any](size int, life time.Duration) *recall[K, V] {
	lru, _ := simplelru.NewLRU[K, recollection[V]](size, nil) // fails for sizes below 1 only
	return &recall[K, V]{life: life, lru: lru}
}

// put remembers v, from now on.
func (m *recall[K, V]) put(k K, v V) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lru.Add(k, recollection[V]{v, time.Now().Add(m.life)})
}

func (m *recall[K, V]) get(k K) (v V, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.lru.Peek(k)
	if !ok || !time.Now().Before(r.until) {
		return v, false
	}
	return r.value, true
}

func (m *recall[K, V]) forget(k K) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lru.Remove(k)
}

func (m *recall[K, V]) clear() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lru.Purge()
}

// size counts what is remembered still.
func (m *recall[K, V]) size() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	for now := time.Now(); ; m.lru.RemoveOldest() {
		if _, r, ok := m.lru.GetOldest(); !ok || now.Before(r.until) {
			return m.lru.Len()
		}
	}
}
