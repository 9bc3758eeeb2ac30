package limit

import "sync"

// Slots count what is open under each name.
type Slots struct {
	most int
	mu   sync.Mutex
	open map[string]int
}

// NewSlots returns most slots for each name; 0 is no limit.
func NewSlots(most int) *Slots { return &Slots{most: most, open: map[string]int{}} }

// Most returns how many slots each name has; 0 is no limit.
func (s *Slots) Most() int { return s.most }

// Acquire takes a slot of name, which release gives back once, or reports false when
// none is free.
func (s *Slots) Acquire(name string) (release func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.most > 0 && s.open[name] >= s.most {
		return nil, false
	}
	s.open[name]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.open[name]--; s.open[name] == 0 {
			delete(s.open, name)
		}
	}, true
}
