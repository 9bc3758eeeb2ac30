package step

import (
	"context"
	"errors"
	"testing"

	"nofx.dev/shared/fault"
)

// What spoils a transaction for one is tried for each; what the database's silence
// spoils is not, as each would wait for all before it.
func TestGroupFails(t *testing.T) {
	t.Parallel()
	silence := fault.New(fault.Unavailable, "unavailable", "no answer")
	for name, c := range map[string]struct {
		err  error
		want int // calls of do for three
	}{
		"one is refused":         {errors.New("refused"), 4},
		"the database is silent": {silence, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			calls := 0
			g := group[int, int]{do: func(_ context.Context, asks []int) ([]int, error) {
				calls++
				return asks, c.err
			}}
			batch := []*grouped[int, int]{{ask: 1}, {ask: 2}, {ask: 3}}
			g.run(t.Context(), batch)
			if calls != c.want {
				t.Errorf("do was called %d times, want %d", calls, c.want)
			}
			for _, b := range batch {
				if !errors.Is(b.err, c.err) {
					t.Errorf("call(%d) = %v, want %v", b.ask, b.err, c.err)
				}
			}
		})
	}
}
