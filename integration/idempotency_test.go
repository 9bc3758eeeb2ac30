package integration_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"nofx.dev/gateway/api"
	"nofx.dev/integration/harness"
)

// patient posts a run with a key, and again as long as it is told to come back.
func (c *client) patient(ctx context.Context, key string, body any, headers ...string) (answer, error) {
	for {
		a, err := c.ask(ctx, http.MethodPost, "/api/runs", body, append(header{"Idempotency-Key", key}, headers...))
		if err != nil || a.status != http.StatusConflict && a.status != http.StatusTooManyRequests {
			return a, err
		}
		seconds, err := strconv.Atoi(a.header.Get("Retry-After"))
		if err != nil {
			return a, fmt.Errorf("%d without a time in Retry-After: %w", a.status, err)
		}
		select {
		case <-ctx.Done():
			return a, ctx.Err()
		case <-time.After(time.Duration(seconds) * time.Second):
		}
	}
}

// createAgain asks until there is an answer, and fails the test when there is none.
func (c *client) createAgain(t *testing.T, key string, body any, headers ...string) answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	a, err := c.patient(ctx, key, body, headers...)
	if err != nil {
		t.Fatalf("POST /api/runs = %v", err)
	}
	return a
}

func codeOf(t *testing.T, a answer) api.ProblemCode {
	t.Helper()
	return decode[api.Problem](t, a).Code
}

// TestIdempotency repeats requests in every way a client may have to.
func TestIdempotency(t *testing.T) {
	t.Parallel()
	s := up(t, harness.Config{})
	body := plan(bash("a", "true"), bash("b", "true"))

	// A hundred at once: one run, and all hear of the same.
	const callers = 100
	answers := make([]answer, callers)
	var ready, done sync.WaitGroup
	gun := make(chan struct{})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	ready.Add(callers)
	for i := range callers {
		done.Go(func() {
			ready.Done()
			<-gun
			var err error
			if answers[i], err = s.patient(ctx, "one-of-a-hundred", body); err != nil {
				t.Errorf("POST /api/runs = %v", err)
			}
		})
	}
	ready.Wait()
	close(gun)
	done.Wait()
	fresh := 0
	for i, a := range answers {
		if a.status != http.StatusCreated || !bytes.Equal(a.body, answers[0].body) || a.header.Get("Location") != answers[0].header.Get("Location") {
			t.Fatalf("answer %d = %d %s, want 201 and the same as answer 0: %s", i, a.status, a.body, answers[0].body)
		}
		if a.header.Get("Idempotent-Replayed") != "true" {
			fresh++
		}
	}
	if n := one[int](t, s, "SELECT count(*)::int FROM nofx.run"); n != 1 || fresh != 1 {
		t.Errorf("%d callers with one key made %d runs, %d were told it is new; want 1 and 1", callers, n, fresh)
	}

	// The key stays what it was: for another order of members the same, for
	// another request refused.
	reordered := fmt.Sprintf(`{ "plan" : {"steps": %s, "goal": "prove it"} }`, encoded(t, body["plan"].(map[string]any)["steps"]))
	if a := s.createAgain(t, `"one-of-a-hundred"`, reordered); a.status != http.StatusCreated || !bytes.Equal(a.body, answers[0].body) {
		t.Errorf("same request, written otherwise, = %d %s; want the stored answer", a.status, a.body)
	}
	for name, other := range map[string]struct {
		body    any
		headers []string
	}{
		"another body":    {plan(bash("a", "false"), bash("b", "true")), nil},
		"another project": {body, []string{"X-Project-Id", "other"}},
	} {
		if a := s.createAgain(t, "one-of-a-hundred", other.body, other.headers...); a.status != http.StatusUnprocessableEntity || codeOf(t, a) != api.ProblemCodeIdempotencyKeyReused {
			t.Errorf("the key with %s = %d %s, want 422 idempotency-key-reused", name, a.status, a.body)
		}
	}

	// A refusal is stored too.
	refused := s.createAgain(t, "refused", plan())
	again := s.createAgain(t, "refused", plan())
	if refused.status != http.StatusUnprocessableEntity || !bytes.Equal(refused.body, again.body) || again.header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("a refusal and its replay = %d %s, %d %s; want the same 422", refused.status, refused.body, again.status, again.body)
	}

	// The answer outlives the process that gave it.
	if err := s.Gateway.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	after := s.createAgain(t, "one-of-a-hundred", body)
	if after.status != http.StatusCreated || !bytes.Equal(after.body, answers[0].body) || after.header.Get("Idempotent-Replayed") != "true" ||
		after.header.Get("ETag") != answers[0].header.Get("ETag") || after.header.Get("Location") != answers[0].header.Get("Location") {
		t.Errorf("replay after a restart = %d %v %s, want the stored answer %v %s", after.status, after.header, after.body, answers[0].header, answers[0].body)
	}

	// Another tenant's key of the same name is another key.
	secret, err := s.NewTenant(t.Context(), "neighbour")
	if err != nil {
		t.Fatal(err)
	}
	theirs := newClient(s.URL, secret).createAgain(t, "one-of-a-hundred", plan(bash("x", "false")))
	if theirs.status != http.StatusCreated || theirs.header.Get("Idempotent-Replayed") != "" {
		t.Fatalf("another tenant with the same key = %d %s, want a run of its own", theirs.status, theirs.body)
	}
	if a, b := decode[api.CreatedRun](t, theirs).Run.ID, decode[api.CreatedRun](t, answers[0]).Run.ID; a == b {
		t.Errorf("both tenants got run %s", a)
	}
	if n := one[int](t, s, "SELECT count(*)::int FROM nofx.run"); n != 2 {
		t.Errorf("runs in the end = %d, want 2", n)
	}
}

// TestGatewayDiesBeforeItsAnswer kills a gateway between commit and answer (fault 6): the client
// heard nothing and asks again.
func TestGatewayDiesBeforeItsAnswer(t *testing.T) {
	t.Parallel()
	s := up(t, harness.Config{GatewayEnv: map[string]string{"NOFX_TEST": "1", "NOFX_FAILPOINTS": "before_response=kill"}})
	s.Gateway.SetEnv(map[string]string{"NOFX_FAILPOINTS": ""})
	start := s.Gateway.Starts()
	body := plan(bash("a", "true"))
	if a, err := s.ask(t.Context(), http.MethodPost, "/api/runs", body, header{"Idempotency-Key", "unheard"}); err == nil {
		t.Fatalf("POST /api/runs = %d %s, want no answer", a.status, a.body)
	}
	if err := s.Gateway.Ended(t.Context(), start); err != nil {
		t.Fatal(err)
	}
	if err := s.Gateway.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	a := s.createAgain(t, "unheard", body)
	committed := one[string](t, s, "SELECT id::text FROM nofx.run")
	if got := decode[api.CreatedRun](t, a).Run.ID; a.header.Get("Idempotent-Replayed") != "true" || got != "run_"+strings.ReplaceAll(committed, "-", "") {
		t.Errorf("the repeated request = %s replayed %q, want the run that was committed, %s", got, a.header.Get("Idempotent-Replayed"), committed)
	}
}
