package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
)

var key = postgres.IdempotencyKey{Scope: "createRun", Key: "k1", Fingerprint: [32]byte{1}}

// post creates a run once under a key, as the gateway does.
func (s *store) post(tenant uuid.UUID, k postgres.IdempotencyKey, p run.Plan) (postgres.Answer, bool, error) {
	return s.Idempotent(s.ctx, tenant, k, func(ctx context.Context) (postgres.Answer, error) {
		r, _, err := s.CreateRun(ctx, tenant, postgres.NewRun{Project: "default", Plan: p, CreatedBy: "author"})
		if err != nil {
			return postgres.Answer{}, err
		}
		return postgres.Answer{Status: 201, Header: map[string]string{"ETag": `"1"`}, Body: []byte(r.ID.String())}, nil
	})
}

// A hundred requests with one key make one run, and all that are answered get
// the same answer.
func TestOneKeyOneRun(t *testing.T) {
	t.Parallel()
	s := setupWith(t, postgres.Config{MaxConns: 16})
	p := plan(t, "a:", "b: a")
	answers := map[string]int{}
	var created, replays, inFlight int
	var mu sync.Mutex
	var wg sync.WaitGroup
	start := make(chan struct{})
	for range 100 {
		wg.Go(func() {
			<-start
			a, replayed, err := s.post(s.tenant, key, p)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				inFlight++
				if f, ok := errors.AsType[*fault.Error](err); !ok || f.Code != "idempotency-in-flight" || f.RetryAfter <= 0 {
					t.Errorf("Idempotent() = %v, want an answer or idempotency-in-flight with a time to wait", err)
				}
				return
			case replayed:
				replays++
			default:
				created++
			}
			answers[fmt.Sprint(a.Status, a.Header, string(a.Body))]++
		})
	}
	close(start)
	wg.Wait()
	t.Logf("%d created, %d replayed, %d in flight", created, replays, inFlight)
	if created != 1 || len(answers) != 1 {
		t.Errorf("100 requests: %d created, answers %v, want 1 and all the same", created, answers)
	}
	if n := one[int](t, s, "SELECT count(*) FROM nofx.run"); n != 1 {
		t.Errorf("runs = %d, want 1", n)
	}
}

// The stored answer comes back byte by byte, also from another process; another
// request under the key does not; keys of other scopes and tenants are others.
func TestIdempotent(t *testing.T) {
	t.Parallel()
	s := setup(t)
	p := plan(t, "a:")
	first, replayed, err := s.post(s.tenant, key, p)
	if err != nil || replayed {
		t.Fatalf("Idempotent() = %t, %v, want a new answer", replayed, err)
	}
	s.DB = s.Open(t, postgres.Config{})
	again, replayed, err := s.post(s.tenant, key, p)
	if diff := cmp.Diff(first, again); diff != "" || !replayed || err != nil {
		t.Errorf("Idempotent() again = replayed %t, %v, differs (-first +again):\n%s", replayed, err, diff)
	}
	other := key
	other.Fingerprint = [32]byte{2}
	_, _, err = s.post(s.tenant, other, p)
	wantKind(t, "Idempotent(another request)", err, fault.Invalid, "idempotency-key-reused")
	for what, try := range map[string]func() (postgres.Answer, bool, error){
		"other scope": func() (postgres.Answer, bool, error) {
			return s.post(s.tenant, postgres.IdempotencyKey{Scope: "cancelRun", Key: "k1", Fingerprint: [32]byte{3}}, p)
		},
		"other tenant": func() (postgres.Answer, bool, error) { return s.post(s.Tenant(t), other, p) },
	} {
		if a, replayed, err := try(); err != nil || replayed || string(a.Body) == string(first.Body) {
			t.Errorf("Idempotent(%s) = %s, %t, %v, want an answer of its own", what, a.Body, replayed, err)
		}
	}
	if n := one[int](t, s, "SELECT count(*) FROM nofx.run"); n != 3 {
		t.Errorf("runs = %d, want 3", n)
	}
}

// While one request is being answered the same key is in flight, and what it
// does is all done or not at all.
func TestIdempotentInFlight(t *testing.T) {
	t.Parallel()
	s := setup(t)
	_, _, err := s.Idempotent(s.ctx, s.tenant, key, func(ctx context.Context) (postgres.Answer, error) {
		_, _, err := s.post(s.tenant, key, plan(t, "a:"))
		wantKind(t, "Idempotent() inside", err, fault.Conflict, "idempotency-in-flight")
		if _, _, err := s.CreateRun(ctx, s.tenant, postgres.NewRun{Project: "default", Plan: plan(t, "a:"), CreatedBy: "x"}); err != nil {
			t.Errorf("CreateRun() = %v, want nil", err)
		}
		if _, err := s.Run(ctx, s.Tenant(t), uuid.New()); err == nil || errors.Is(err, fault.NotFound) {
			t.Errorf("Run(another tenant) in the transaction = %v, want an error", err)
		}
		return postgres.Answer{}, errors.New("the process died")
	})
	if err == nil {
		t.Error("Idempotent() = nil, want its function's error")
	}
	if n := one[int](t, s, "SELECT (SELECT count(*) FROM nofx.run) + (SELECT count(*) FROM nofx.idempotency_key) + (SELECT count(*) FROM river.river_job)"); n != 0 {
		t.Errorf("rows left behind = %d, want 0", n)
	}
	if _, replayed, err := s.post(s.tenant, key, plan(t, "a:")); err != nil || replayed {
		t.Errorf("Idempotent() afterwards = %t, %v, want a new answer", replayed, err)
	}
}

// A request that fails leaves nothing behind, neither what it did nor an answer: under
// the same key it can be made again, whatever it was refused for.
func TestRefusals(t *testing.T) {
	t.Parallel()
	for _, kind := range []fault.Kind{fault.Invalid, fault.NotFound, fault.Conflict, fault.Forbidden, fault.RateLimited, fault.Unavailable} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			s := setup(t)
			_, _, err := s.Idempotent(s.ctx, s.tenant, key, func(ctx context.Context) (postgres.Answer, error) {
				if _, _, err := s.CreateRun(ctx, s.tenant, postgres.NewRun{Project: "default", Plan: plan(t, "a:"), CreatedBy: "x"}); err != nil {
					return postgres.Answer{}, err
				}
				return postgres.Answer{}, fault.New(kind, "no", "not now")
			})
			if !errors.Is(err, kind) {
				t.Errorf("Idempotent(refused) = %v, want %v", err, kind)
			}
			if n := one[int](t, s, "SELECT count(*) FROM nofx.run"); n != 0 {
				t.Errorf("runs = %d, want 0: what the refused request did is undone", n)
			}
			if a, replayed, err := s.post(s.tenant, key, plan(t, "a:")); err != nil || replayed || a.Status != 201 {
				t.Errorf("the same key again = %d %s, replayed %t, %v, want 201", a.Status, a.Body, replayed, err)
			}
		})
	}
}

// Old answers go in batches, and their keys are free again.
func TestDeleteExpired(t *testing.T) {
	t.Parallel()
	s := setup(t)
	p := plan(t, "a:")
	for i := range 5 {
		if _, _, err := s.post(s.tenant, postgres.IdempotencyKey{Scope: "x", Key: fmt.Sprint(i)}, p); err != nil {
			t.Fatal(err)
		}
	}
	s.exec(t, "UPDATE nofx.idempotency_key SET expires_at = clock_timestamp() WHERE key < '3'")
	for _, want := range []int64{2, 1, 0} {
		if n, err := s.DeleteExpired(s.ctx, 2); n != want || err != nil {
			t.Errorf("DeleteExpired(2) = %d, %v, want %d", n, err, want)
		}
	}
	for i, want := range []bool{false, false, false, true, true} {
		if _, replayed, err := s.post(s.tenant, postgres.IdempotencyKey{Scope: "x", Key: fmt.Sprint(i)}, p); replayed != want || err != nil {
			t.Errorf("Idempotent(key %d) = replayed %t, %v, want %t", i, replayed, err, want)
		}
	}
}
