package integration_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"
)

// invariant is a statement about the database and the query for what breaks it. Those
// that hold at every instant, whoever acts, are in the database, as nofx.unsound().
type invariant struct{ name, offenders string }

// invariantsOfWorkers hold where steps are claimed by workers alone, and no test plays one.
var invariantsOfWorkers = []invariant{
	{"I17 a checkpoint was made in its run's trace, unless a system run made it", `
		SELECT c.id::text || ' ' || c.kind FROM nofx.checkpoint c JOIN nofx.run r ON (r.tenant_id, r.id) = (c.tenant_id, c.run_id)
		WHERE c.kind NOT IN ('manual', 'merge') AND convert_from(c.manifest, 'UTF8')::jsonb->'trace'->>'trace_id' <> r.trace_id`},
	{"I17 one trace: every row of a run carries the run's", `
		SELECT 'event ' || e.run_id || '.' || e.seq FROM nofx.event e JOIN nofx.run r ON (r.tenant_id, r.id) = (e.tenant_id, e.run_id) WHERE e.trace_id <> r.trace_id
		UNION ALL SELECT 'gate ' || g.id FROM nofx.gate g JOIN nofx.run r ON (r.tenant_id, r.id) = (g.tenant_id, g.run_id) WHERE g.trace_id <> r.trace_id
		UNION ALL SELECT 'attempt ' || a.step_id || ' ' || a.fence FROM nofx.attempt a JOIN nofx.step s ON (s.tenant_id, s.id) = (a.tenant_id, a.step_id)
			JOIN nofx.run r ON (r.tenant_id, r.id) = (s.tenant_id, s.run_id) WHERE a.trace_id <> r.trace_id`},
	{"I21 nothing that depends on a gate starts before it was decided", `
		SELECT s.id::text || ' ' || s.started_at || ' before ' || g.decided_at FROM nofx.step_dep d JOIN nofx.step s ON (s.tenant_id, s.id) = (d.tenant_id, d.step_id)
		JOIN (SELECT tenant_id, step_id, min(decided_at) AS decided_at FROM nofx.gate WHERE state IN ('passed', 'waived') GROUP BY tenant_id, step_id) g
			ON (g.tenant_id, g.step_id) = (d.tenant_id, d.needs) -- the first of several rounds
		WHERE s.started_at < g.decided_at`},
	{"no run waits although a step of it has failed for good, unless another was retried alone", `
		SELECT r.id::text || ' ' || s.name FROM nofx.run r JOIN nofx.step s ON (s.tenant_id, s.run_id) = (r.tenant_id, r.id)
		WHERE r.state = 'waiting' AND s.state = 'failed' AND NOT EXISTS (
			SELECT FROM nofx.event y WHERE (y.tenant_id, y.run_id) = (r.tenant_id, r.id) AND y.seq > s.seq AND y.event = 'retry' AND y.from_state = 'failed' AND y.type = 'step.ready')`},
	{"no run has begun to wait although a step of it had failed for good, unless another was retried alone", `
		SELECT w.run_id::text || '.' || w.seq || ': ' || s.name || ' had failed in ' || x.seq FROM nofx.event w, LATERAL (
			SELECT DISTINCT ON (e.step_id) e.step_id, e.to_state, e.seq FROM nofx.event e
			WHERE (e.tenant_id, e.run_id) = (w.tenant_id, w.run_id) AND e.seq < w.seq AND e.type LIKE 'step.%' AND e.event IS NOT NULL
			ORDER BY e.step_id, e.seq DESC) x
		JOIN nofx.step s ON s.id = x.step_id WHERE w.type = 'run.waiting' AND x.to_state = 'failed' AND NOT EXISTS (
			SELECT FROM nofx.event y WHERE (y.tenant_id, y.run_id) = (w.tenant_id, w.run_id) AND y.seq > x.seq AND y.seq < w.seq
				AND y.event = 'retry' AND y.from_state = 'failed' AND y.type = 'step.ready')`},
	{"a packed blob names an object, and so does any other", `
		SELECT encode(b.sha256, 'hex') FROM nofx.blob b
		WHERE b.state <> 'tombstone' AND NOT EXISTS (SELECT FROM nofx.object o WHERE o.tenant_id = b.tenant_id AND o.sha256 = coalesce(b.pack_sha256, b.sha256))`},
}

// invariantsAtRest are those that hold once no run is live and the queue has been
// heard.
var invariantsAtRest = []invariant{
	{"I3 no run is live", `
		SELECT r.id::text || ' ' || r.state || ': ' || string_agg(s.name || ' ' || s.state, ', ' ORDER BY s.idx) FROM nofx.run r
		JOIN nofx.step s ON (s.tenant_id, s.run_id) = (r.tenant_id, r.id)
		WHERE r.state IN ('queued', 'running', 'waiting') GROUP BY r.tenant_id, r.id`},
	{"I18 no wake-up is with a worker", `
		SELECT j.id::text || ' since ' || j.attempted_at || ' with ' || j.attempted_by[array_upper(j.attempted_by, 1)] || ', step ' || coalesce(s.state, 'gone')
		FROM river.river_job j LEFT JOIN nofx.step s ON s.id = (j.args->>'step_id')::uuid WHERE j.state = 'running'`},
	{"I18 no wake-up was given up while its step lives", `
		SELECT j.id::text || ' ' || j.state || ', step ' || s.state FROM river.river_job j JOIN nofx.step s ON s.id = (j.args->>'step_id')::uuid
			AND s.wake_seq = (j.args->>'wake_seq')::bigint
		JOIN nofx.run r ON (r.tenant_id, r.id) = (s.tenant_id, s.run_id)
		WHERE j.state IN ('discarded', 'cancelled') AND s.state = 'ready' AND r.state IN ('queued', 'running', 'waiting')`},
	{"a pending gate is that of a step that waits", `
		SELECT g.id::text || ' step ' || s.state FROM nofx.gate g JOIN nofx.step s ON (s.tenant_id, s.id) = (g.tenant_id, g.step_id)
		WHERE g.state = 'pending' AND s.state <> 'waiting'`},
}

// holdInvariants fails the test for each invariant that the database breaks.
func (s *system) holdInvariants(t *testing.T) {
	t.Helper()
	s.hold(t, append([]invariant{{"nofx.unsound() names nothing", "SELECT invariant || ': ' || offender FROM nofx.unsound()"}}, invariantsOfWorkers...))
}

func (s *system) hold(t *testing.T, statements []invariant) {
	t.Helper()
	for _, i := range statements {
		if bad := column[string](t, s.db, i.offenders); len(bad) > 0 {
			t.Errorf("%s, but not for %d:\n%s", i.name, len(bad), strings.Join(bad[:min(len(bad), 5)], "\n"))
		}
	}
}

// mutations break a good database in one way each, past all guards, and name the
// statement that has to notice. $ is the id of a run that succeeded.
var mutations = []struct{ breaks, sql string }{
	{"I4 ", `UPDATE nofx.step SET state = 'ready' WHERE run_id = $ AND idx = 0`},
	{"I5 ", `UPDATE nofx.attempt SET accepted = false WHERE step_id = (SELECT id FROM nofx.step WHERE run_id = $ AND idx = 0)`},
	{"I5 ", `DELETE FROM nofx.attempt WHERE step_id = (SELECT id FROM nofx.step WHERE run_id = $ AND idx = 0)`},
	{"I5 ", `UPDATE nofx.step SET state = 'failed' WHERE run_id = $ AND idx = 0`},
	{"I6 ", `INSERT INTO nofx.step_effect (tenant_id, run_id, step_name, name, key, fence, request_digest)
		SELECT tenant_id, run_id, name, 'http', 'key', 99, 'sha256:' || repeat('0', 64) FROM nofx.step WHERE run_id = $ AND idx = 0`},
	{"I7 ", `UPDATE nofx.attempt SET fence = fence + 1 WHERE step_id = (SELECT id FROM nofx.step WHERE run_id = $ AND idx = 0)`},
	{"I7 ", `UPDATE nofx.step SET fence = 0 WHERE run_id = $ AND idx = 0`},
	{"I8 ", `UPDATE nofx.event SET event = 'lease_expired', from_state = 'running', fence = 9 WHERE run_id = $ AND event = 'claim'`},
	{"I9 events", `DELETE FROM nofx.event WHERE run_id = $ AND seq = 5`},
	{"I9 events", `DELETE FROM nofx.event WHERE run_id = $ AND seq = 1`},
	{"I9 events", `UPDATE nofx.run SET pruned_seq = 2 WHERE id = $`},
	{"I9 the run", `DELETE FROM nofx.event WHERE run_id = $`},
	{"only what", `WITH gone AS (DELETE FROM nofx.event WHERE run_id = $) UPDATE nofx.run SET pruned_seq = event_seq WHERE id = $`},
	{"I9 the run", `UPDATE nofx.run SET event_seq = event_seq + 1 WHERE id = $`},
	{"I10 every", `UPDATE nofx.event SET event = 'approve' WHERE run_id = $ AND event = 'claim'`},
	{"I10 each", `UPDATE nofx.event SET from_state = 'waiting' WHERE run_id = $ AND event = 'succeed'`},
	{"I10 the last", `UPDATE nofx.step SET state = 'cancelled' WHERE run_id = $ AND idx = 1`},
	{"I10 the last", `UPDATE nofx.run SET state = 'failed' WHERE id = $`},
	{"I11 ", `UPDATE nofx.event SET seq = seq + 1000 WHERE run_id = $ AND type = 'step.succeeded'`},
	{"I12 ", `UPDATE nofx.event SET fence = 7 WHERE run_id = $ AND event = 'claim'`},
	{"I17 ", `UPDATE nofx.event SET trace_id = repeat('a', 32) WHERE run_id = $ AND seq = 3`},
	{"I17 ", `UPDATE nofx.gate SET trace_id = repeat('a', 32) WHERE run_id = $`},
	{"I17 ", `UPDATE nofx.attempt SET trace_id = repeat('a', 32) WHERE step_id = (SELECT id FROM nofx.step WHERE run_id = $ AND idx = 0)`},
	{"I19 ", `UPDATE nofx.step SET started_at = started_at - interval '1 hour' WHERE run_id = $ AND idx = 1`},
	{"I21 ", `UPDATE nofx.gate SET decided_at = decided_at + interval '1 hour' WHERE run_id = $`},
	{"a lease", `INSERT INTO nofx.step_lease SELECT tenant_id, id, fence, 'nobody', clock_timestamp() FROM nofx.step WHERE run_id = $ AND idx = 0`},
	{"a running step", `UPDATE nofx.step SET state = 'running' WHERE run_id = $ AND idx = 0`},
	{"an attempt is open", `UPDATE nofx.attempt SET ended_at = NULL WHERE step_id = (SELECT id FROM nofx.step WHERE run_id = $ AND idx = 0)`},
	{"a run counts", `UPDATE nofx.run SET pending_steps = pending_steps + 1 WHERE id = $`},
	{"I3 a live", `UPDATE nofx.run SET state = 'running' WHERE id = $`},
	{"I3 a live", `UPDATE nofx.run SET state = 'paused' WHERE id = $`},
	{"I3 no run", `UPDATE nofx.run SET state = 'waiting' WHERE id = $`},
	{"a step that waits", `UPDATE nofx.step SET state = 'waiting', wait_until = NULL WHERE run_id = $ AND idx = 0`},
	{"no run waits", `WITH r AS (UPDATE nofx.run SET state = 'waiting' WHERE id = $) UPDATE nofx.step SET state = 'failed' WHERE run_id = $ AND idx = 0`},
	{"no run has", `WITH e AS (UPDATE nofx.event SET to_state = 'failed' WHERE run_id = $ AND type = 'step.succeeded')
		UPDATE nofx.event SET type = 'run.waiting' WHERE run_id = $ AND type = 'run.succeeded'`},
	{"a pending step", `UPDATE nofx.step SET state = 'pending', deps_left = 0 WHERE run_id = $ AND idx = 1`},
	{"a pending step", `UPDATE nofx.step SET state = 'pending', deps_left = 7 WHERE run_id = $ AND idx = 1`},
	{"I16 ", `DELETE FROM nofx.step WHERE run_id = $ AND idx = 0`},
	{"I16 ", `UPDATE nofx.gate SET step_id = gen_random_uuid() WHERE run_id = $`},
	{"I16 ", `DELETE FROM nofx.run WHERE id = $`},
	{"I20 ", `UPDATE nofx.step SET state = 'failed' WHERE run_id = $ AND idx = 0`},
	{"I18 no wake-up is", `UPDATE river.river_job SET state = 'running', finalized_at = NULL, attempted_at = now(), attempted_by = '{x}'
		WHERE id IN (SELECT id FROM river.river_job LIMIT 1)`},
	{"I18 no wake-up was", `WITH r AS (UPDATE nofx.run SET state = 'running' WHERE id = $), s AS (
			UPDATE nofx.step SET state = 'ready' WHERE run_id = $ AND idx = 0 RETURNING id, wake_seq)
		INSERT INTO river.river_job (kind, queue, args, max_attempts, state, finalized_at)
		SELECT 'step', 'step', jsonb_build_object('step_id', id, 'wake_seq', wake_seq), 1, 'discarded', now() FROM s`},
	{"a pending gate", `UPDATE nofx.gate SET state = 'pending' WHERE run_id = $`},
	{"a packed blob", `DELETE FROM nofx.object WHERE kind = 'pack'`},
}

// checkInvariants breaks the database of a run again and again, and takes it back.
func checkInvariants(t *testing.T, s *system, run string) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for _, m := range mutations {
		tx, err := s.db.Begin(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(ctx, "SET LOCAL session_replication_role = replica"); err != nil { // no guard, no reference
			t.Fatal(err)
		}
		changed, err := tx.Exec(ctx, strings.ReplaceAll(m.sql, "$", "'"+uuidOf(run)+"'"))
		if err != nil || changed.RowsAffected() == 0 {
			t.Errorf("%s: %d rows, %v, want some", m.sql, changed.RowsAffected(), err)
		} else if !slices.ContainsFunc(column[string](t, tx, "SELECT DISTINCT invariant FROM nofx.unsound()"), func(name string) bool {
			return strings.HasPrefix(name, m.breaks)
		}) && !slices.ContainsFunc(slices.Concat(invariantsOfWorkers, invariantsAtRest), func(i invariant) bool {
			return strings.HasPrefix(i.name, m.breaks) && len(column[string](t, tx, i.offenders)) > 0
		}) {
			t.Errorf("%s: %q holds all the same", m.sql, m.breaks)
		}
		if err := tx.Rollback(ctx); err != nil {
			t.Fatal(err)
		}
	}
}
