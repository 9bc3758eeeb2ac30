package system

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
	"testing"

	"nofx.dev/shared/run"
)

// Without skips the first bad candidate is found in ⌈log2 n-1⌉ probes besides the two ends,
// wherever it is; with skips the answer lies in what is left.
func TestSearch(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{2, 3, 4, 5, 17, 200, 201, 1000} {
		for _, skips := range []float64{0, 0.3, 1} {
			for first := 1; first < n; first += 1 + n/50 {
				s, probes := newSearch(n), 0
				for {
					i, ok := s.next()
					if !ok {
						break
					}
					probes++
					outcome := run.ProbeGood
					if i >= first {
						outcome = run.ProbeBad
					}
					if i > 0 && i < n-1 && r.Float64() < skips {
						outcome = run.ProbeSkipped
					}
					if s.outcomes[i] != "" {
						t.Fatalf("candidate %d of %d is probed twice", i, n)
					}
					s.note(i, outcome)
				}
				what := fmt.Sprintf("search(%d candidates, first bad %d, %.0f %% skipped)", n, first, 100*skips)
				if s.good >= first || s.bad < first {
					t.Errorf("%s = after %d up to %d, want the first bad one among them", what, s.good, s.bad)
				}
				if limit := bits.Len(uint(n-2)) + 2; skips == 0 && (s.left() != 1 || probes > limit) {
					t.Errorf("%s = %d left after %d probes, want 1 after at most %d", what, s.left(), probes, limit)
				}
				for i := s.good + 1; i < s.bad; i++ {
					if s.outcomes[i] != run.ProbeSkipped {
						t.Errorf("%s: candidate %d, which may be the first, was not probed", what, i)
					}
				}
			}
		}
	}
}

// An end that is not what it was said to be ends the search.
func TestSearchEnds(t *testing.T) {
	t.Parallel()
	for _, ends := range [][2]string{{run.ProbeBad, ""}, {run.ProbeSkipped, ""}, {run.ProbeGood, run.ProbeGood}, {run.ProbeGood, run.ProbeSkipped}} {
		s := newSearch(10)
		for i, ok := s.next(); ok; i, ok = s.next() {
			if i != 0 && i != 9 {
				t.Fatalf("with ends %q, candidate %d is probed", ends, i)
			}
			s.note(i, ends[i/9])
		}
		if s.outcomes[0] != ends[0] || s.outcomes[9] != ends[1] {
			t.Errorf("outcomes of the ends = %q %q, want %q", s.outcomes[0], s.outcomes[9], ends)
		}
	}
}
