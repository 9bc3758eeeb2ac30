package postgres_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/trace"

	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
)

// A run that somebody holds keeps nobody else's steps from being claimed and
// finished with its own: of these alone it is said that it is held, whether that was
// known before or not, and they can be claimed and finished later.
func TestHeldRuns(t *testing.T) {
	t.Parallel()
	for _, known := range []bool{false, true} {
		t.Run(fmt.Sprint("known ", known), func(t *testing.T) {
			t.Parallel()
			s := setupWith(t, postgres.Config{LockWait: 20 * time.Millisecond})
			held, theirs := s.create(t, "a:", "b:")
			_, free := s.create(t, "a:")
			_, other := s.create(t, "a:")
			gone := uuid.New()
			steps := []uuid.UUID{theirs["a"].ID, free["a"].ID, theirs["b"].ID, gone, other["a"].ID}
			w := postgres.Worker{ID: "w1", PID: 1}
			span := trace.SpanContextFromContext(s.ctx)
			isHeld := func(i int) bool { return i == 0 || i == 2 }
			claim := func() []postgres.Claimed {
				t.Helper()
				wakes := make([]postgres.Wake, len(steps))
				for i, id := range steps {
					wakes[i] = postgres.Wake{Job: wakeUp(s.tenant, id, 1), Span: span, Pre: noCheckpoint, Held: known && isHeld(i)}
				}
				claimed, err := s.ClaimSteps(s.ctx, wakes, w, ttl)
				if err != nil {
					t.Fatalf("ClaimSteps() = %v", err)
				}
				return claimed
			}
			release := s.hold(t, held.ID)
			first := claim()
			for i, c := range first {
				if got := errors.Is(c.Err, postgres.ErrHeld); got != isHeld(i) || (c.Claim != nil) != (i == 1 || i == 4) {
					t.Errorf("claim %d = %v, %v; the run is held: %v", i, c.Claim, c.Err, isHeld(i))
				}
			}
			release()
			second := claim()
			for i, c := range second {
				if c.Err != nil || (c.Claim != nil) != isHeld(i) {
					t.Errorf("claim %d once the run is free = %v, %v", i, c.Claim, c.Err)
				}
			}

			var list []postgres.Finish
			for i := range steps {
				if c := [][]postgres.Claimed{first, second}[map[bool]int{isHeld(i): 1}[true]][i].Claim; c != nil {
					f := outcome(c, "succeed")
					f.Span, f.Held = span, known && isHeld(i)
					f.Checkpoints = []*postgres.Checkpoint{checkpoint(run.PostCheckpoint)}
					list = append(list, f)
				}
			}
			release = s.hold(t, held.ID)
			answers := func() (held []bool) {
				t.Helper()
				done, err := s.FinishSteps(s.ctx, list, w, ttl)
				if err != nil {
					t.Fatalf("FinishSteps() = %v", err)
				}
				for _, d := range done {
					held = append(held, errors.Is(d.Err, postgres.ErrHeld))
				}
				return held
			}
			if got, want := answers(), []bool{true, false, true, false}; !slices.Equal(got, want) {
				t.Errorf("finishes whose run is held = %v, want %v", got, want)
			}
			release()
			if got, want := answers(), make([]bool, 4); !slices.Equal(got, want) {
				t.Errorf("finishes once the run is free, held = %v, want %v", got, want)
			}
			s.wantStates(t, held.ID, "succeeded a:succeeded b:succeeded")
			s.wantSound(t)
		})
	}
}
