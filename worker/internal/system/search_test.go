package system

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
	"testing"

	"nofx.dev/shared/run"
)

// Without skips the first bad candidate is found in ⌈log2 n+1⌉ probes, wherever it is, and
// both it and the good one before it were probed; with skips the answer lies in what is left.
// No candidate is bad where first is n.
func TestSearch(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{1, 2, 3, 4, 5, 17, 200, 201, 255, 1000} {
		for _, skips := range []float64{0, 0.3, 1} {
			for first := 0; first <= n; first++ {
				s, probes := newSearch(n), 0
				for i, ok := s.next(); ok; i, ok = s.next() {
					probes++
					outcome := run.ProbeGood
					if i >= first {
						outcome = run.ProbeBad
					}
					if r.Float64() < skips {
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
				if limit := bits.Len(uint(n)); skips == 0 && (s.bad != first || s.good != first-1 || probes > limit) {
					t.Errorf("%s = after %d up to %d in %d probes, want %d in at most %d", what, s.good, s.bad, probes, first, limit)
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
