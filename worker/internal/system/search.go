package system

import "nofx.dev/shared/run"

// search is a binary search for the first bad one of candidates 0 to n-1, of which the
// first is said to be good and the last to be bad. Both ends are probed first.
type search struct {
	outcomes []string // of candidates; "": not probed yet
	good     int      // the last candidate known to be good, as far as the ends are
	bad      int      // the first candidate known to be bad
}

func newSearch(n int) *search { return &search{outcomes: make([]string, n), bad: n - 1} }

// note takes the outcome of a probe.
func (s *search) note(i int, outcome string) {
	s.outcomes[i] = outcome
	switch {
	case outcome == run.ProbeGood && i > s.good:
		s.good = i
	case outcome == run.ProbeBad && i < s.bad:
		s.bad = i
	}
}

// next returns the candidate to probe next: an end, or the one nearest to the middle that
// has not been probed. It returns false when there is none, and when an end is not what it
// was said to be.
func (s *search) next() (int, bool) {
	last := len(s.outcomes) - 1
	switch {
	case s.outcomes[0] == "":
		return 0, true
	case s.outcomes[0] != run.ProbeGood:
		return 0, false
	case s.outcomes[last] == "":
		return last, true
	case s.outcomes[last] != run.ProbeBad:
		return 0, false
	}
	middle := s.good + (s.bad-s.good)/2
	for away := 0; middle-away > s.good || middle+away < s.bad; away++ {
		for _, i := range []int{middle - away, middle + away} {
			if i > s.good && i < s.bad && s.outcomes[i] == "" {
				return i, true
			}
		}
	}
	return 0, false
}

// left returns the number of candidates that may be the first bad one.
func (s *search) left() int { return s.bad - s.good }
