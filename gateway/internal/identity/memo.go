package identity

import (
	"maps"
	"sync"
	"time"
)

const (
	memoTTL  = 4 * time.Second // a change in the database holds within 5 s
	memoMost = 10_000          // answers that are kept
)

// memo keeps answers of the database for memoTTL.
type memo[K comparable, V any] struct {
	now func() time.Time

	mu sync.Mutex
	of map[K]noted[V]
}

type noted[V any] struct {
	value V
	at    time.Time
}

func newMemo[K comparable, V any](now func() time.Time) *memo[K, V] {
	return &memo[K, V]{now: now, of: map[K]noted[V]{}}
}

// get returns the answer for a key as it was at most memoTTL ago, and asks if it has none.
// Errors are not kept.
func (m *memo[K, V]) get(key K, ask func() (V, error)) (V, error) {
	asked := m.now()
	m.mu.Lock()
	known, ok := m.of[key]
	m.mu.Unlock()
	if ok && asked.Sub(known.at) < memoTTL {
		return known.value, nil
	}
	value, err := ask()
	if err != nil {
		return value, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.of) >= memoMost {
		clear(m.of)
	}
	m.of[key] = noted[V]{value, asked}
	return value, nil
}

// has reports whether there was an answer for key, however long ago.
func (m *memo[K, V]) has(key K) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.of[key]
	return ok
}

// forgetAll makes the next get of each key ask for which match holds.
func (m *memo[K, V]) forgetAll(match func(K, V) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.of, func(k K, n noted[V]) bool { return match(k, n.value) })
}

// forget makes the next get of a key ask.
func (m *memo[K, V]) forget(key K) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.of, key)
}
