package postgres_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
)

// digestOf returns a digest that begins like c.
func digestOf(c string) string { return "sha256:" + strings.Repeat(c, 64) }

func (s *store) begin(t testing.TB, c *postgres.Claim, name, digest string) postgres.Effect {
	t.Helper()
	e, err := s.BeginEffect(s.ctx, c, name, digest)
	if err != nil {
		t.Fatalf("BeginEffect(%s, %s) = %v, want nil", name, digest, err)
	}
	return e
}

// An effect keeps its key over attempts, and once it is done nobody does it again.
func TestEffect(t *testing.T) {
	t.Parallel()
	s := setup(t)
	r, steps := s.create(t, "a:")
	id := steps["a"].ID
	key := run.RunID.Format(r.ID) + "/a"

	first := s.claim(t, id)
	if e := s.begin(t, first, "http", digestOf("1")); e.Key != key || e.Result != nil {
		t.Errorf("BeginEffect() = %+v, want %s and no result", e, key)
	}
	s.expire(t, id)
	if made := s.sweep(t, postgres.SweepRules{}); len(made) != 1 || made[0] != "lease_expired" {
		t.Fatalf("sweep = %v, want the lease expired", made)
	}

	second := s.claim(t, id)
	if e := s.begin(t, second, "http", digestOf("1")); e.Key != key || e.Result != nil {
		t.Errorf("BeginEffect(again) = %+v, want %s and no result", e, key)
	}
	// Other effects, and one whose inputs have changed, have keys of their own.
	for _, tt := range []struct{ name, digest, key string }{
		{"http", digestOf("2"), key + "/http-222222222222"},
		{"review", digestOf("1"), key + "/review-111111111111"},
		{"http", digestOf("2"), key + "/http-222222222222"},
	} {
		if e := s.begin(t, second, tt.name, tt.digest); e.Key != tt.key {
			t.Errorf("BeginEffect(%s, %s) = %s, want %s", tt.name, tt.digest, e.Key, tt.key)
		}
	}

	// The zombie changes nothing.
	if _, err := s.BeginEffect(s.ctx, first, "http", digestOf("1")); !errors.Is(err, fault.Fenced) {
		t.Errorf("BeginEffect(zombie) = %v, want fenced", err)
	}
	if err := s.FinishEffect(s.ctx, first, key, json.RawMessage(`{"status":500}`)); !errors.Is(err, fault.Fenced) {
		t.Errorf("FinishEffect(zombie) = %v, want fenced", err)
	}
	if got := one[string](t, s, "SELECT state || ' ' || fence FROM nofx.step_effect WHERE key = $1", key); got != "begun 3" {
		t.Errorf("effect = %s, want begun 3", got)
	}

	for range 2 { // the second time by who does not know of the first
		if err := s.FinishEffect(s.ctx, second, key, json.RawMessage(`{"status":201}`)); err != nil {
			t.Errorf("FinishEffect() = %v, want nil", err)
		}
	}
	s.finish(t, second, "retry")
	s.exec(t, "UPDATE nofx.step SET ready_at = clock_timestamp(), retry_at = clock_timestamp() WHERE id = $1", id)
	s.sweep(t, postgres.SweepRules{})
	third := s.claim(t, id)
	if e := s.begin(t, third, "http", digestOf("1")); e.Key != key || string(e.Result) != `{"status": 201}` {
		t.Errorf("BeginEffect(done) = %+v, want its result", e)
	}
	if err := s.FinishEffect(s.ctx, third, key, json.RawMessage(`{"status":202}`)); err == nil || errors.Is(err, fault.Fenced) {
		t.Errorf("FinishEffect(of another attempt) = %v, want an error", err)
	}
	if err := s.FinishEffect(s.ctx, third, key+"/no-such", json.RawMessage(`{}`)); err == nil {
		t.Errorf("FinishEffect(not begun) = nil, want an error")
	}
	if got := one[string](t, s, "SELECT state || ' ' || fence || ' ' || (result->>'status') FROM nofx.step_effect WHERE key = $1", key); got != "done 3 201" {
		t.Errorf("effect = %s, want done 3 201", got)
	}
	if other := s.Database.Tenant(t); one[int](t, s, "SELECT count(*)::int FROM nofx.step_effect WHERE tenant_id = $1", other) != 0 {
		t.Errorf("another tenant has effects")
	}
}

// What the database would not keep is refused by it and breaks nothing.
func TestEffectRefuses(t *testing.T) {
	t.Parallel()
	s := setup(t)
	_, steps := s.create(t, "a:")
	c := s.claim(t, steps["a"].ID)
	if _, err := s.BeginEffect(s.ctx, c, "http", "md5:1"); !errors.Is(err, fault.Invalid) {
		t.Errorf("BeginEffect(md5) = %v, want invalid", err)
	}
	e := s.begin(t, c, "http", digestOf("1"))
	for _, result := range []string{`{"a":"\u0000"}`, `{`} {
		if err := s.FinishEffect(s.ctx, c, e.Key, json.RawMessage(result)); !errors.Is(err, fault.Invalid) {
			t.Errorf("FinishEffect(%s) = %v, want invalid", result, err)
		}
	}
	if err := s.FinishEffect(s.ctx, c, e.Key, json.RawMessage(`{}`)); err != nil {
		t.Errorf("FinishEffect() = %v, want nil", err)
	}
	s.finish(t, c, "succeed")
	if _, err := s.BeginEffect(s.ctx, c, "http", digestOf("1")); !errors.Is(err, fault.Fenced) {
		t.Errorf("BeginEffect(after the end) = %v, want fenced", err)
	}
}
