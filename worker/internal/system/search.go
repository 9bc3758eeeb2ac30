package system

import "nofx.dev/shared/run"

// search is a binary search for the first bad one of candidates 0 to n-1. It takes nobody's
// word for the two ends: an answer at an end comes from a probe of it. Without skips it
// needs at most ⌈log2 n+1⌉ probes.
type search struct {
	outcomes []string // of candidates; "": not probed yet
	good     int      // the last candidate known to be good; -1: none
	bad      int      // the first candidate known to be bad; n: none
}

func newSearch(n int) *search { return &search{outcomes: make([]string, n), good: -1, bad: n} }

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

// next returns the candidate to probe next, of those between good and bad the one nearest
// to their middle that has not been probed. It returns false when there is none.
func (s *search) next() (int, bool) {
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
func (s *search) left() int { return min(s.bad, len(s.outcomes)-1) - s.good }
