package integration_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"
)

// invariant is a statement about the database and the query for what breaks it.
type invariant struct{ name, offenders string }

// invariants are the statements of RELIABILITY.md that hold at every instant and
// that SQL can see; each query names its offenders.
var invariants = []invariant{
	{"I4 a terminal run has terminal steps", `
		SELECT s.id::text || ' ' || s.state || ' in run ' || r.state FROM nofx.step s JOIN nofx.run r ON (r.tenant_id, r.id) = (s.tenant_id, s.run_id)
		WHERE r.state IN ('succeeded', 'failed', 'cancelled') AND s.state NOT IN ('succeeded', 'failed', 'skipped', 'cancelled')`},
	{"I5 a succeeded step has one accepted attempt, any other none", `
		SELECT s.id::text || ' ' || s.state || ' accepted ' || count(a.fence) FILTER (WHERE a.accepted) FROM nofx.step s
		LEFT JOIN nofx.attempt a ON (a.tenant_id, a.step_id) = (s.tenant_id, s.id)
		GROUP BY s.tenant_id, s.id, s.state
		HAVING count(a.fence) FILTER (WHERE a.accepted) <> (s.state = 'succeeded')::int`},
	{"I6 an effect is that of an attempt", `
		SELECT e.key || ' fence ' || e.fence FROM nofx.step_effect e JOIN nofx.step s ON (s.tenant_id, s.run_id, s.name) = (e.tenant_id, e.run_id, e.step_name)
		LEFT JOIN nofx.attempt a ON (a.tenant_id, a.step_id, a.fence) = (s.tenant_id, s.id, e.fence) WHERE a.fence IS NULL`},
	{"I7 nothing is newer than the step's fence, and the newest attempt is the one accepted", `
		SELECT a.step_id::text || ' fence ' || a.fence || ' of ' || s.fence FROM nofx.attempt a JOIN nofx.step s ON (s.tenant_id, s.id) = (a.tenant_id, a.step_id)
		WHERE a.fence > s.fence OR a.accepted AND EXISTS (
			SELECT FROM nofx.attempt b WHERE (b.tenant_id, b.step_id) = (a.tenant_id, a.step_id) AND b.fence > a.fence)`},
	{"I8 no event of a fence follows the expiry of its lease", `
		SELECT e.run_id::text || '.' || e.seq || ' ' || e.type || ' fence ' || e.fence FROM nofx.event e
		JOIN nofx.event x ON (x.tenant_id, x.run_id, x.step_id) = (e.tenant_id, e.run_id, e.step_id)
			AND x.event IN ('lease_expired', 'poison', 'cancel') AND x.from_state = 'running' AND x.seq < e.seq
		WHERE e.fence < x.fence`},
	{"I9 events are dense from 1, or from where retention has come to", `
		SELECT e.run_id::text || ' ' || min(e.seq) || '..' || max(e.seq) || ' in ' || count(*) FROM nofx.event e
		JOIN nofx.run r ON (r.tenant_id, r.id) = (e.tenant_id, e.run_id) GROUP BY e.tenant_id, e.run_id, r.pruned_seq
		HAVING min(e.seq) <> coalesce(r.pruned_seq, 0) + 1 OR max(e.seq) <> coalesce(r.pruned_seq, 0) + count(*)`},
	{"I9 the run knows its newest event", `
		SELECT r.id::text || ' ' || r.event_seq FROM nofx.run r
		WHERE r.event_seq <> coalesce((SELECT max(seq) FROM nofx.event e WHERE (e.tenant_id, e.run_id) = (r.tenant_id, r.id)), r.pruned_seq, 0)`},
	{"only what has ended is pruned, and its logs first", `
		SELECT r.id::text FROM nofx.run r WHERE r.pruned_seq > 0 AND (r.pruned_seq > r.event_seq OR EXISTS (
			SELECT FROM nofx.step s JOIN nofx.log_chunk c ON (c.tenant_id, c.step_id) = (s.tenant_id, s.id)
			WHERE (s.tenant_id, s.run_id) = (r.tenant_id, r.id) AND c.created_at < coalesce((
				SELECT min(e.at) FROM nofx.event e WHERE (e.tenant_id, e.run_id) = (r.tenant_id, r.id)), 'infinity')))`},
	{"I10 every state event is an edge of the table", `
		SELECT e.run_id::text || '.' || e.seq || ' ' || e.type || ' ' || e.from_state || '-' || e.event || '->' || e.to_state FROM nofx.event e
		WHERE e.event IS NOT NULL AND NOT EXISTS (
			SELECT FROM nofx.transition t WHERE t.machine = split_part(e.type, '.', 1)
				AND t.from_state = e.from_state AND t.event = e.event AND t.to_state = e.to_state)`},
	{"I10 each state event starts where the last one of the same thing ended", `
		SELECT run_id::text || '.' || seq || ' ' || type || ' from ' || from_state || ' after ' || before FROM (
			SELECT e.*, lag(to_state) OVER (PARTITION BY tenant_id, run_id, split_part(type, '.', 1), step_id ORDER BY seq) AS before
			FROM nofx.event e WHERE event IS NOT NULL AND type NOT LIKE 'gate.%') e
		WHERE from_state <> coalesce(before, CASE
			WHEN EXISTS (SELECT FROM nofx.run r WHERE (r.tenant_id, r.id) = (e.tenant_id, e.run_id) AND r.pruned_seq > 0) THEN from_state
			WHEN type LIKE 'run.%' THEN 'queued' ELSE 'pending' END)`},
	{"I10 the last state event is the row", `
		SELECT s.id::text || ' ' || s.state FROM nofx.step s JOIN nofx.run r ON (r.tenant_id, r.id) = (s.tenant_id, s.run_id)
		WHERE s.state <> coalesce((SELECT e.to_state FROM nofx.event e
			WHERE (e.tenant_id, e.run_id, e.step_id) = (s.tenant_id, s.run_id, s.id) AND e.type LIKE 'step.%' AND e.event IS NOT NULL
			ORDER BY e.seq DESC LIMIT 1), CASE WHEN r.pruned_seq > 0 THEN s.state ELSE 'pending' END)
		UNION ALL SELECT r.id::text || ' ' || r.state FROM nofx.run r
		WHERE r.state <> coalesce((SELECT e.to_state FROM nofx.event e
			WHERE (e.tenant_id, e.run_id) = (r.tenant_id, r.id) AND e.type LIKE 'run.%' AND e.event IS NOT NULL
			ORDER BY e.seq DESC LIMIT 1), CASE WHEN r.pruned_seq > 0 THEN r.state ELSE 'queued' END)`},
	{"I11 no state event follows a terminal one, unless the run was tried again", `
		SELECT e.run_id::text || '.' || e.seq || ' ' || e.type || ' after ' || x.type FROM nofx.event x
		JOIN nofx.event e ON (e.tenant_id, e.run_id) = (x.tenant_id, x.run_id) AND e.seq > x.seq AND e.event IS NOT NULL
		WHERE x.type IN ('run.succeeded', 'run.failed', 'run.cancelled')
			AND NOT EXISTS (SELECT FROM nofx.event r WHERE (r.tenant_id, r.run_id) = (x.tenant_id, x.run_id) AND r.seq > x.seq AND r.seq <= e.seq
				AND (r.type = 'run.running' AND r.event IN ('retry', 'resume') OR r.type = 'gate.waived'))`},
	{"I12 an end follows its start under the same fence", `
		SELECT e.run_id::text || '.' || e.seq || ' ' || e.type FROM nofx.event e
		WHERE e.type LIKE 'step.%' AND e.event IN ('succeed', 'fail', 'wait', 'retry', 'interrupted') AND e.from_state = 'running' AND NOT EXISTS (
			SELECT FROM nofx.event c WHERE (c.tenant_id, c.run_id, c.step_id, c.fence) = (e.tenant_id, e.run_id, e.step_id, e.fence)
				AND c.event = 'claim' AND c.seq < e.seq)
			AND NOT EXISTS (SELECT FROM nofx.run r WHERE (r.tenant_id, r.id) = (e.tenant_id, e.run_id) AND r.pruned_seq > 0)`},
	{"I17 one trace: every row of a run carries the run's", `
		SELECT 'event ' || e.run_id || '.' || e.seq FROM nofx.event e JOIN nofx.run r ON (r.tenant_id, r.id) = (e.tenant_id, e.run_id) WHERE e.trace_id <> r.trace_id
		UNION ALL SELECT 'gate ' || g.id FROM nofx.gate g JOIN nofx.run r ON (r.tenant_id, r.id) = (g.tenant_id, g.run_id) WHERE g.trace_id <> r.trace_id
		UNION ALL SELECT 'attempt ' || a.step_id || ' ' || a.fence FROM nofx.attempt a JOIN nofx.step s ON (s.tenant_id, s.id) = (a.tenant_id, a.step_id)
			JOIN nofx.run r ON (r.tenant_id, r.id) = (s.tenant_id, s.run_id) WHERE a.trace_id <> r.trace_id`},
	{"I19 a step starts after all it depends on", `
		SELECT s.id::text FROM nofx.step_dep d JOIN nofx.step s ON (s.tenant_id, s.id) = (d.tenant_id, d.step_id)
		JOIN nofx.step n ON (n.tenant_id, n.id) = (d.tenant_id, d.needs)
		WHERE s.started_at < n.finished_at AND n.state = 'succeeded' OR s.started_at IS NOT NULL AND n.started_at IS NULL`},
	{"I21 nothing that depends on a gate starts before it was decided", `
		SELECT s.id::text || ' ' || s.started_at || ' before ' || g.decided_at FROM nofx.step_dep d JOIN nofx.step s ON (s.tenant_id, s.id) = (d.tenant_id, d.step_id)
		JOIN (SELECT tenant_id, step_id, min(decided_at) AS decided_at FROM nofx.gate WHERE state IN ('passed', 'waived') GROUP BY tenant_id, step_id) g
			ON (g.tenant_id, g.step_id) = (d.tenant_id, d.needs) -- the first of several rounds
		WHERE s.started_at < g.decided_at`},
	{"a lease belongs to a running step and its fence", `
		SELECT l.step_id::text FROM nofx.step_lease l JOIN nofx.step s ON (s.tenant_id, s.id) = (l.tenant_id, l.step_id)
		WHERE s.state <> 'running' OR l.fence <> s.fence`},
	{"a running step has the lease of its fence", `
		SELECT s.id::text FROM nofx.step s WHERE s.state = 'running' AND NOT EXISTS (
			SELECT FROM nofx.step_lease l WHERE (l.tenant_id, l.step_id, l.fence) = (s.tenant_id, s.id, s.fence))`},
	{"an attempt is open as long as its lease is there", `
		SELECT a.step_id::text || ' fence ' || a.fence || ' ended ' || coalesce(a.ended_at::text, 'never') FROM nofx.attempt a
		WHERE (a.ended_at IS NULL) <> EXISTS (SELECT FROM nofx.step_lease l WHERE (l.tenant_id, l.step_id, l.fence) = (a.tenant_id, a.step_id, a.fence))`},
	{"a run counts its steps", `
		SELECT r.id::text || ' ' || r.state FROM nofx.run r LEFT JOIN nofx.step s ON (s.tenant_id, s.run_id) = (r.tenant_id, r.id)
		GROUP BY r.tenant_id, r.id
		HAVING (r.pending_steps, r.ready_steps, r.running_steps, r.retrying_steps, r.waiting_steps, r.failed_steps) <> (
			count(*) FILTER (WHERE s.state = 'pending'), count(*) FILTER (WHERE s.state = 'ready'), count(*) FILTER (WHERE s.state = 'running'),
			count(*) FILTER (WHERE s.state = 'retrying'), count(*) FILTER (WHERE s.state = 'waiting'), count(*) FILTER (WHERE s.state = 'failed'))`},
	{"I3 a live run has a step that moves it, or one that waits", `
		SELECT r.id::text || ' ' || r.state FROM nofx.run r
		WHERE r.state IN ('queued', 'running') AND r.ready_steps + r.running_steps + r.retrying_steps = 0
			OR r.state = 'waiting' AND r.waiting_steps = 0
			OR r.state = 'paused' AND r.pending_steps + r.ready_steps + r.running_steps + r.retrying_steps + r.waiting_steps = 0`},
	{"a step that waits has a wait with a deadline", `
		SELECT s.id::text FROM nofx.step s WHERE s.state = 'waiting' AND (s.wait_until IS NULL OR NOT EXISTS (
			SELECT FROM nofx.wait w WHERE (w.tenant_id, w.step_id) = (s.tenant_id, s.id)))`},
	{"no run waits although a step of it has failed for good", `
		SELECT r.id::text || ' ' || s.name FROM nofx.run r JOIN nofx.step s ON (s.tenant_id, s.run_id) = (r.tenant_id, r.id)
		WHERE r.state = 'waiting' AND s.state = 'failed'`},
	{"no run has begun to wait although a step of it had failed for good", `
		SELECT w.run_id::text || '.' || w.seq || ': ' || s.name || ' had failed in ' || x.seq FROM nofx.event w, LATERAL (
			SELECT DISTINCT ON (e.step_id) e.step_id, e.to_state, e.seq FROM nofx.event e
			WHERE (e.tenant_id, e.run_id) = (w.tenant_id, w.run_id) AND e.seq < w.seq AND e.type LIKE 'step.%' AND e.event IS NOT NULL
			ORDER BY e.step_id, e.seq DESC) x
		JOIN nofx.step s ON s.id = x.step_id WHERE w.type = 'run.waiting' AND x.to_state = 'failed'`},
	{"a pending step counts what it waits for, and waits for something", `
		SELECT s.id::text || ' ' || s.name || ' ' || s.deps_left FROM nofx.step s WHERE s.state = 'pending' AND (s.deps_left = 0 OR s.deps_left <> (
			SELECT count(*) FROM nofx.step_dep d JOIN nofx.step n ON (n.tenant_id, n.id) = (d.tenant_id, d.needs)
			WHERE (d.tenant_id, d.step_id) = (s.tenant_id, s.id) AND n.state <> 'succeeded'))`},
	{"I16 I17 a row has its parent, in its own tenant", `
		SELECT 'step ' || s.id FROM nofx.step s LEFT JOIN nofx.run r ON (r.tenant_id, r.id) = (s.tenant_id, s.run_id) WHERE r.id IS NULL
		UNION ALL SELECT 'dependency of ' || d.step_id FROM nofx.step_dep d LEFT JOIN nofx.step s ON (s.tenant_id, s.run_id, s.id) = (d.tenant_id, d.run_id, d.step_id)
			LEFT JOIN nofx.step n ON (n.tenant_id, n.run_id, n.id) = (d.tenant_id, d.run_id, d.needs) WHERE s.id IS NULL OR n.id IS NULL
		UNION ALL SELECT 'attempt of ' || a.step_id FROM nofx.attempt a LEFT JOIN nofx.step s ON (s.tenant_id, s.id) = (a.tenant_id, a.step_id) WHERE s.id IS NULL
		UNION ALL SELECT 'wait of ' || w.step_id FROM nofx.wait w LEFT JOIN nofx.step s ON (s.tenant_id, s.id) = (w.tenant_id, w.step_id) WHERE s.id IS NULL
		UNION ALL SELECT 'log of ' || c.step_id FROM nofx.log_chunk c LEFT JOIN nofx.step s ON (s.tenant_id, s.id) = (c.tenant_id, c.step_id) WHERE s.id IS NULL
		UNION ALL SELECT 'event of ' || e.run_id FROM nofx.event e LEFT JOIN nofx.run r ON (r.tenant_id, r.id) = (e.tenant_id, e.run_id)
			LEFT JOIN nofx.step s ON (s.tenant_id, s.run_id, s.id) = (e.tenant_id, e.run_id, e.step_id) WHERE r.id IS NULL OR e.step_id IS NOT NULL AND s.id IS NULL
		UNION ALL SELECT 'checkpoint ' || c.id FROM nofx.checkpoint c LEFT JOIN nofx.run r ON (r.tenant_id, r.id) = (c.tenant_id, c.run_id) WHERE r.id IS NULL
		UNION ALL SELECT 'gate ' || g.id FROM nofx.gate g LEFT JOIN nofx.step s ON (s.tenant_id, s.run_id, s.id) = (g.tenant_id, g.run_id, g.step_id) WHERE s.id IS NULL
		UNION ALL SELECT 'effect ' || e.key FROM nofx.step_effect e LEFT JOIN nofx.step s ON (s.tenant_id, s.run_id, s.name) = (e.tenant_id, e.run_id, e.step_name) WHERE s.id IS NULL`},
	{"I20 what a step depends on has succeeded before it is more than pending", `
		SELECT s.id::text || ' ' || s.state || ' on ' || n.state FROM nofx.step_dep d JOIN nofx.step s ON (s.tenant_id, s.id) = (d.tenant_id, d.step_id)
		JOIN nofx.step n ON (n.tenant_id, n.id) = (d.tenant_id, d.needs)
		WHERE s.state IN ('ready', 'running', 'waiting', 'retrying', 'succeeded') AND n.state <> 'succeeded'`},
	{"a packed blob names an object, and so does any other", `
		SELECT encode(b.sha256, 'hex') FROM nofx.blob b
		WHERE NOT EXISTS (SELECT FROM nofx.object o WHERE o.tenant_id = b.tenant_id AND o.sha256 = coalesce(b.pack_sha256, b.sha256))`},
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

// holdInvariants fails the test for each statement that does not hold.
func (s *system) holdInvariants(t *testing.T) {
	t.Helper()
	s.hold(t, invariants)
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
		} else if !slices.ContainsFunc(slices.Concat(invariants, invariantsAtRest), func(i invariant) bool {
			return strings.HasPrefix(i.name, m.breaks) && len(column[string](t, tx, i.offenders)) > 0
		}) {
			t.Errorf("%s: %q holds all the same", m.sql, m.breaks)
		}
		if err := tx.Rollback(ctx); err != nil {
			t.Fatal(err)
		}
	}
}
