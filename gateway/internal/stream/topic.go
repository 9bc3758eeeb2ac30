package stream

import (
	"slices"
	"sync"
)

// ringSize is the number of frames that a topic keeps for readers near its head.
const ringSize = 256

// topic has the newest frames of one source: all between from and head.
type topic struct {
	src  source
	refs int // readers; guarded by the hub's lock

	mu      sync.Mutex
	from    Cursor
	head    Cursor
	frames  []*frame
	changed chan struct{} // closed when head moves
}

func newTopic(src source, at Cursor) *topic {
	return &topic{src: src, from: at, head: at, changed: make(chan struct{})}
}

// after returns the frames after a cursor, the cursor after them, and a channel that closes
// when there are more. ok is false for a reader that fell out of the ring and must read
// from the database.
func (t *topic) after(c Cursor) (frames []*frame, head Cursor, changed <-chan struct{}, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c.Epoch != t.head.Epoch || compare(c, t.from) < 0 {
		return nil, c, nil, false
	}
	if compare(c, t.head) >= 0 { // a reader's own replay may be ahead of the tailer
		return nil, c, t.changed, true
	}
	i, found := slices.BinarySearchFunc(t.frames, c, func(f *frame, c Cursor) int { return compare(f.at, c) })
	if found {
		i++
	}
	return slices.Clone(t.frames[i:]), t.head, t.changed, true
}

// add appends frames and moves head to next.
func (t *topic) add(frames []*frame, next Cursor) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if next.Epoch != t.head.Epoch { // the database was restored under it: all readers fall out
		t.frames, frames, t.from, t.head = nil, nil, next, Cursor{}
	}
	t.frames = append(t.frames, frames...)
	if over := len(t.frames) - ringSize; over > 0 {
		t.from = t.frames[over-1].at
		t.frames = slices.Clone(t.frames[over:])
	}
	if compare(next, t.head) <= 0 {
		return
	}
	t.head = next
	close(t.changed)
	t.changed = make(chan struct{})
}

// at returns the cursor of the last frame.
func (t *topic) at() Cursor {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.head
}
