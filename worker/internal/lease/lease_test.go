package lease

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/telemetry"
)

func quietKeeper(ttl time.Duration) *Keeper {
	return New(nil, ttl, slog.New(slog.DiscardHandler), telemetry.NewMetrics(prometheus.NewRegistry(), "test"))
}

// A worker may get a step again before it learned that its lease is lost. The attempt
// that it still runs ends, whatever it waits for, and the next one begins after that.
func TestHoldTwice(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := quietKeeper(5 * time.Second)
		id := uuid.New()
		claim := func(fence int64) *postgres.Claim { return &postgres.Claim{StepID: id, Fence: fence} }
		ctx1, lose1 := context.WithCancelCause(t.Context())
		ctx2, lose2 := context.WithCancelCause(t.Context())
		ctx3, lose3 := context.WithCancelCause(t.Context())
		first := k.Hold(claim(1), time.Now().Add(-time.Hour), lose1) // no longer young
		waiting := make(chan error, 1)
		go func() { waiting <- k.Fresh(ctx1, claim(1)) }() // as a finish does
		asked := k.leases()                                // a heartbeat on its way
		synctest.Wait()

		second := k.Hold(claim(3), time.Now(), lose2)
		if err := <-waiting; !errors.Is(err, fault.Fenced) {
			t.Errorf("Fresh(first) = %v, want fenced", err)
		}
		if err := context.Cause(ctx1); !errors.Is(err, fault.Fenced) {
			t.Errorf("cause of the first attempt's context = %v, want fenced", err)
		}
		alone := make(chan error, 2)
		go func() { alone <- second.Alone(ctx2) }()
		k.confirm(asked, nil, nil, time.Now()) // the answer: lease 1 is lost
		if got := k.leases(); len(got) != 1 || got[0].Fence != 3 {
			t.Errorf("leases() = %v, want that of the second attempt", got)
		}

		third := k.Hold(claim(5), time.Now(), lose3)
		if err := <-alone; !errors.Is(err, fault.Fenced) {
			t.Errorf("Alone(second) = %v, want fenced", err)
		}
		k.Release(second)
		go func() { alone <- third.Alone(ctx3) }()
		synctest.Wait()
		select {
		case err := <-alone:
			t.Errorf("Alone(third) = %v while the first attempt runs, want it to wait", err)
		default:
		}
		k.Release(first)
		if err := <-alone; err != nil {
			t.Errorf("Alone(third) = %v when the others have ended, want nil", err)
		}
		if err := k.Fresh(ctx3, claim(5)); err != nil {
			t.Errorf("Fresh(third) = %v, want nil", err)
		}
		k.Release(third)
		if len(k.held) != 0 {
			t.Errorf("held = %v at the end, want nothing", k.held)
		}
	})
}

// What another transaction has locked is neither renewed nor lost.
func TestConfirm(t *testing.T) {
	t.Parallel()
	k := quietKeeper(5 * time.Second)
	long := time.Now().Add(-time.Hour)
	var claims []*postgres.Claim
	var lost []bool
	for i := range 3 {
		c := &postgres.Claim{StepID: uuid.New(), Fence: 1}
		claims, lost = append(claims, c), append(lost, false)
		k.Hold(c, long, func(error) { lost[i] = true })
	}
	k.confirm(k.leases(), []uuid.UUID{claims[0].StepID}, []uuid.UUID{claims[1].StepID}, time.Now())
	for i, want := range []struct{ young, lost bool }{{true, false}, {false, false}, {false, true}} {
		h := k.held[claims[i].StepID]
		if got := h.renewed != long; got != want.young || lost[i] != want.lost || h.lost != want.lost {
			t.Errorf("lease %d: renewed %v, lost %v, want %v and %v", i, got, lost[i], want.young, want.lost)
		}
	}
}
