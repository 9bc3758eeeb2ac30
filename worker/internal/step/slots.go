package step

import "sync/atomic"

// slots counts the jobs of each queue that are at work.
type slots struct {
	max  int // of each queue, without those that are reserved
	used map[string]*atomic.Int64
}

func newSlots(queues []string, most int) *slots {
	s := &slots{max: most, used: make(map[string]*atomic.Int64, len(queues))}
	for _, q := range queues {
		s.used[q] = new(atomic.Int64)
	}
	return s
}

// take counts a job of a queue until the returned function is called.
func (s *slots) take(queue string) (leave func()) {
	used := s.used[queue]
	used.Add(1)
	return func() { used.Add(-1) }
}

// full reports whether as many jobs of a queue are at work as it has slots, the reserved
// ones not counted.
func (s *slots) full(queue string) bool { return s.used[queue].Load() >= int64(s.max) }
