package httpapi

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/google/uuid"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/run"
)

// held is verifications that wait until the test lets them go on.
type held struct {
	begun atomic.Int32
	gate  chan struct{}
}

func (h *held) verify(ctx context.Context) (run.Artifact, error) {
	h.begun.Add(1)
	select {
	case <-h.gate:
		return run.Artifact{Name: "verified"}, nil
	case <-ctx.Done():
		return run.Artifact{}, context.Cause(ctx)
	}
}

func TestVerifierLeavesRoomForOtherTenants(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v, busy, other := newVerifier(), uuid.New(), uuid.New()
		first, rest := &held{gate: make(chan struct{})}, &held{gate: make(chan struct{})}
		for range 3 * verifyAtOnce {
			go func() { _, _ = v.do(t.Context(), busy, uuid.New(), first.verify) }()
		}
		synctest.Wait()
		if first.begun.Load() != verifyOfTenant {
			t.Errorf("one tenant has %d verified at once, want %d", first.begun.Load(), verifyOfTenant)
		}
		go func() { _, _ = v.do(t.Context(), other, uuid.New(), rest.verify) }()
		synctest.Wait()
		if rest.begun.Load() != 1 {
			t.Errorf("another tenant has %d verified, want 1", rest.begun.Load())
		}
		close(first.gate)
		close(rest.gate)
		synctest.Wait()
		if first.begun.Load() != 3*verifyAtOnce || len(v.tenants)+len(v.running)+len(v.room) != 0 {
			t.Errorf("afterwards %d were verified, %d tenants, %d under way, %d rooms taken; want all, and nothing left",
				first.begun.Load(), len(v.tenants), len(v.running), len(v.room))
		}
	})
}

func TestVerifierNeverMoreAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v, h := newVerifier(), &held{gate: make(chan struct{})}
		for range 2 * verifyAtOnce {
			go func() { _, _ = v.do(t.Context(), uuid.New(), uuid.New(), h.verify) }()
		}
		synctest.Wait()
		if h.begun.Load() != verifyAtOnce {
			t.Errorf("%d are verified at once, want %d", h.begun.Load(), verifyAtOnce)
		}
		close(h.gate)
	})
}

// Who leaves ends nothing, and who comes meanwhile gets what is under way.
func TestVerifierOutlivesWhoAsked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v, h, tenant, artifact := newVerifier(), &held{gate: make(chan struct{})}, uuid.New(), uuid.New()
		ctx, leave := context.WithCancel(t.Context())
		left := make(chan error, 1)
		go func() {
			_, err := v.do(ctx, tenant, artifact, h.verify)
			left <- err
		}()
		synctest.Wait()
		leave()
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Errorf("do() for one who leaves = %v, want %v", err, context.Canceled)
		}
		joined := make(chan run.Artifact, 2)
		for range cap(joined) {
			go func() {
				a, _ := v.do(t.Context(), tenant, artifact, h.verify)
				joined <- a
			}()
		}
		synctest.Wait()
		close(h.gate)
		for range cap(joined) {
			if got := <-joined; got.Name != "verified" {
				t.Errorf("do() for one who joins = %+v, want what was verified", got)
			}
		}
		if h.begun.Load() != 1 {
			t.Errorf("%d verifications of one artifact, want 1", h.begun.Load())
		}
	})
}

// Who leaves while waiting gives the turn to others.
func TestVerifierForgetsWhoLeavesTheQueue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v, h, tenant := newVerifier(), &held{gate: make(chan struct{})}, uuid.New()
		for range verifyOfTenant {
			go func() { _, _ = v.do(t.Context(), tenant, uuid.New(), h.verify) }()
		}
		synctest.Wait()
		ctx, leave := context.WithCancel(t.Context())
		leave()
		if _, err := v.do(ctx, tenant, uuid.New(), h.verify); !errors.Is(err, context.Canceled) {
			t.Errorf("do() for one who leaves = %v, want %v", err, context.Canceled)
		}
		close(h.gate)
		synctest.Wait()
		if h.begun.Load() != verifyOfTenant || len(v.tenants) != 0 {
			t.Errorf("%d verified for %d tenants left, want %d and none", h.begun.Load(), len(v.tenants), verifyOfTenant)
		}
	})
}

func TestVerifierClose(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v, h := newVerifier(), &held{gate: make(chan struct{})}
		outcome := make(chan error, 1)
		go func() {
			_, err := v.do(t.Context(), uuid.New(), uuid.New(), h.verify)
			outcome <- err
		}()
		synctest.Wait()
		v.close()
		if err := <-outcome; !errors.Is(err, context.Canceled) {
			t.Errorf("do() under way at close = %v, want %v", err, context.Canceled)
		}
		if _, err := v.do(t.Context(), uuid.New(), uuid.New(), h.verify); !errors.Is(err, fault.Unavailable) || h.begun.Load() != 1 {
			t.Errorf("do() after close = %v after %d, want %v and none more", err, h.begun.Load(), fault.Unavailable)
		}
	})
}

func TestVerifierSurvivesAPanic(t *testing.T) {
	t.Parallel()
	v := newVerifier()
	_, err := v.do(t.Context(), uuid.New(), uuid.New(), func(context.Context) (run.Artifact, error) { panic("broken") })
	if err == nil {
		t.Error("do() of what panics = nil, want an error")
	}
	v.close()
	if len(v.tenants)+len(v.room) != 0 {
		t.Error("a panic keeps its room, want it given back")
	}
}
