package postgres_test

import (
	"slices"
	"testing"

	"nofx.dev/shared/postgres"
)

// Neither login may call what only the other one needs, nor what only other functions call.
func TestS08_RolesDoTheirOwn(t *testing.T) {
	t.Parallel()
	s := setup(t)
	s.everything(t)
	before := s.image(t)
	logins := []string{postgres.GatewayRole, postgres.WorkerRole}
	// Calls with NULLs everywhere: whoever may call gets further than the right to.
	const calls = `SELECT format('SELECT %s(%s)', p.oid::regproc, array_to_string(ARRAY(
			SELECT 'NULL::' || format_type(a.t, NULL) FROM unnest(p.proargtypes) WITH ORDINALITY AS a (t, n) ORDER BY a.n), ', '))
		FROM pg_proc p WHERE p.pronamespace = 'nofx'::regnamespace AND p.prokind = 'f' AND p.prorettype <> 'trigger'::regtype
			AND NOT has_function_privilege($1, p.oid, 'EXECUTE') AND ($2 = '' OR has_function_privilege($2, p.oid, 'EXECUTE'))`
	for i, login := range logins {
		others := all[string](t, s, calls, login, logins[1-i])
		if len(others) < 30 {
			t.Errorf("functions of the other login than %s = %d, want more: the test looks at nothing", login, len(others))
		}
		for _, sql := range slices.Concat(others, all[string](t, s, calls, login, "")) {
			if _, err := s.in(s.ctx, login, sql); sqlState(err) != "42501" {
				t.Errorf("%s as %s = %v, want 42501", sql, login, err)
			}
		}
	}
	for login, refused := range map[string][]string{
		postgres.WorkerRole: {
			"SELECT nofx.decide_gate(NULL, 'approve', NULL, NULL)", "SELECT nofx.gate_transition(NULL, 'approve')",
			"SELECT nofx.create_key(NULL, NULL, NULL)", "SELECT nofx.revoke_key(NULL)",
			"INSERT INTO nofx.api_key SELECT * FROM nofx.api_key", "UPDATE nofx.api_key SET revoked_at = NULL",
			"UPDATE nofx.tenant SET settings = '{}'", "INSERT INTO nofx.tenant (tenant_id, slug) VALUES (gen_random_uuid(), 'x')",
			"INSERT INTO nofx.idempotency_key SELECT * FROM nofx.idempotency_key", "SELECT nofx.purge_blob(NULL, NULL)",
		},
		postgres.GatewayRole: {
			"SELECT nofx.claim_steps(NULL, NULL, NULL, NULL)", "SELECT nofx.finish_steps(NULL, NULL, NULL, NULL)", "SELECT nofx.step_transition(NULL, 'claim')",
			"SELECT nofx.heartbeat(NULL, NULL, NULL, NULL)", "SELECT nofx.sweep_step(NULL, NULL, NULL, NULL, NULL)", "SELECT nofx.expire_runs(NULL, NULL)",
			"INSERT INTO nofx.blob SELECT * FROM nofx.blob", "UPDATE nofx.tenant SET settings = '{}'",
			"UPDATE river.river_job SET state = 'completed'", "DELETE FROM river.river_leader", "UPDATE river.river_queue SET paused_at = now()",
		},
	} {
		for _, sql := range refused {
			if _, err := s.in(s.ctx, login, sql); sqlState(err) != "42501" {
				t.Errorf("%s as %s = %v, want 42501", sql, login, err)
			}
		}
	}
	s.wantUntouched(t, "whoever tried", before)
}
