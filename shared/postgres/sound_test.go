package postgres_test

import "testing"

// The invariants of RELIABILITY.md that hold at every instant, as queries that
// give no rows.
var invariants = map[string]string{
	"I4: a run that ended has no live step": `
		SELECT r.id::text FROM nofx.run r JOIN nofx.machine_state m ON m.machine = 'run' AND m.state = r.state AND m.terminal
		JOIN nofx.step s ON s.tenant_id = r.tenant_id AND s.run_id = r.id
		JOIN nofx.machine_state n ON n.machine = 'step' AND n.state = s.state AND NOT n.terminal`,
	"I5: a succeeded step has one accepted attempt, any other none": `
		SELECT s.id::text FROM nofx.step s LEFT JOIN nofx.attempt a ON a.tenant_id = s.tenant_id AND a.step_id = s.id AND a.accepted
		GROUP BY s.id, s.state HAVING count(a.step_id) <> (s.state = 'succeeded')::int`,
	"I7: no attempt is above its step's fence, the accepted one is the last": `
		SELECT s.id::text FROM nofx.step s JOIN nofx.attempt a ON a.tenant_id = s.tenant_id AND a.step_id = s.id
		WHERE a.fence > s.fence OR a.accepted AND EXISTS (
			SELECT FROM nofx.attempt b WHERE b.tenant_id = a.tenant_id AND b.step_id = a.step_id AND b.fence > a.fence)`,
	"I8: nothing is written under a fence once it was lost": `
		SELECT e.run_id::text || ' ' || e.seq FROM nofx.event e JOIN nofx.event x
		ON x.tenant_id = e.tenant_id AND x.run_id = e.run_id AND x.step_id = e.step_id AND x.seq < e.seq AND x.fence > e.fence`,
	"I9: seq is dense, from 1 or from where retention has come to, and the run knows the last": `
		SELECT r.id::text FROM nofx.run r LEFT JOIN nofx.event e ON e.tenant_id = r.tenant_id AND e.run_id = r.id
		GROUP BY r.id, r.event_seq, r.pruned_seq
		HAVING min(e.seq) <> coalesce(r.pruned_seq, 0) + 1 OR r.event_seq <> coalesce(r.pruned_seq, 0) + count(e.seq)`,
	"I10: each event takes an edge from where the one before led": `
		SELECT q.id || ' ' || q.seq FROM (
			SELECT coalesce(e.data->>'gate_id', e.step_id::text, e.run_id::text) AS id, e.seq, e.event, e.from_state, e.to_state,
			       split_part(e.type, '.', 1) AS machine,
			       lag(e.to_state) OVER (PARTITION BY e.run_id, split_part(e.type, '.', 1), coalesce(e.data->>'gate_id', e.step_id::text) ORDER BY e.seq) AS before
			FROM nofx.event e WHERE e.event IS NOT NULL AND EXISTS (SELECT FROM nofx.run r WHERE r.id = e.run_id AND r.pruned_seq IS NULL)) AS q
		LEFT JOIN nofx.transition t ON t.machine = q.machine AND t.from_state = q.from_state AND t.event = q.event AND t.to_state = q.to_state
		WHERE t.machine IS NULL OR q.from_state <> coalesce(q.before, CASE q.machine WHEN 'run' THEN 'queued' ELSE 'pending' END)`,
	"I10: replayed, the events of a run end in its state, and version counts them": `
		SELECT r.id::text FROM nofx.run r LEFT JOIN nofx.event e ON e.tenant_id = r.tenant_id AND e.run_id = r.id AND e.event IS NOT NULL AND e.type LIKE 'run.%'
		WHERE r.pruned_seq IS NULL GROUP BY r.id, r.state, r.version
		HAVING r.version <> 1 + count(e.seq) OR r.state <> coalesce((array_agg(e.to_state ORDER BY e.seq DESC))[1], 'queued')`,
	"I10: of a step": `
		SELECT s.id::text FROM nofx.step s LEFT JOIN nofx.event e ON e.tenant_id = s.tenant_id AND e.step_id = s.id AND e.event IS NOT NULL AND e.type LIKE 'step.%'
		WHERE EXISTS (SELECT FROM nofx.run r WHERE r.id = s.run_id AND r.pruned_seq IS NULL) GROUP BY s.id, s.state, s.version
		HAVING s.version <> 1 + count(e.seq) OR s.state <> coalesce((array_agg(e.to_state ORDER BY e.seq DESC))[1], 'pending')`,
	"I10: of a gate": `
		SELECT g.id::text FROM nofx.gate g LEFT JOIN nofx.event e ON e.tenant_id = g.tenant_id AND e.data->>'gate_id' = nofx.public_id('gate', g.id) AND e.event IS NOT NULL
		WHERE EXISTS (SELECT FROM nofx.run r WHERE r.id = g.run_id AND r.pruned_seq IS NULL) GROUP BY g.id, g.state, g.version
		HAVING g.version <> 1 + count(e.seq) OR g.state <> coalesce((array_agg(e.to_state ORDER BY e.seq DESC))[1], 'pending')`,
	"I11: after a run ended its state moves by an explicit retry alone": `
		SELECT q.run_id::text || ' ' || q.seq FROM (
			SELECT e.run_id, e.seq, e.event, e.type, max(e.seq) FILTER (WHERE e.type IN ('run.succeeded', 'run.failed', 'run.cancelled'))
				OVER (PARTITION BY e.run_id ORDER BY e.seq ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS ended,
			       max(e.seq) FILTER (WHERE e.type LIKE 'run.%' AND e.event IN ('retry', 'resume'))
				OVER (PARTITION BY e.run_id ORDER BY e.seq ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS reopened
			FROM nofx.event e WHERE e.event IS NOT NULL AND e.type NOT LIKE 'gate.%') AS q
		WHERE q.ended > coalesce(q.reopened, 0)`,
	"I12: an attempt's end follows its start under the same fence": `
		SELECT e.step_id::text || ' ' || e.seq FROM nofx.event e WHERE e.event IN ('succeed', 'fail', 'wait', 'retry', 'interrupted') AND e.type LIKE 'step.%'
		AND NOT EXISTS (SELECT FROM nofx.event c WHERE c.tenant_id = e.tenant_id AND c.run_id = e.run_id AND c.step_id = e.step_id
			AND c.event = 'claim' AND c.fence = e.fence AND c.seq < e.seq)
		AND EXISTS (SELECT FROM nofx.run r WHERE r.id = e.run_id AND r.pruned_seq IS NULL)`,
	"I16: what a row refers to is there, also where no foreign key says so": `
		SELECT p.checkpoint_id::text FROM nofx.checkpoint_parent p
		LEFT JOIN nofx.checkpoint a ON a.tenant_id = p.tenant_id AND a.id = p.parent_id
		LEFT JOIN nofx.checkpoint c ON c.tenant_id = p.tenant_id AND c.id = p.checkpoint_id WHERE a.id IS NULL OR c.id IS NULL
		UNION ALL SELECT c.id::text FROM nofx.checkpoint c
		LEFT JOIN nofx.run r ON r.tenant_id = c.tenant_id AND r.id = c.run_id WHERE r.id IS NULL
		UNION ALL SELECT d.step_id::text FROM nofx.step_dep d
		LEFT JOIN nofx.step a ON a.tenant_id = d.tenant_id AND a.id = d.needs AND a.run_id = d.run_id
		LEFT JOIN nofx.step b ON b.tenant_id = d.tenant_id AND b.id = d.step_id AND b.run_id = d.run_id WHERE a.id IS NULL OR b.id IS NULL`,
	"I17: the tenant is the same along every edge": `
		SELECT e.run_id::text FROM nofx.event e JOIN nofx.run r ON r.id = e.run_id WHERE r.tenant_id <> e.tenant_id
		UNION ALL SELECT s.id::text FROM nofx.step s JOIN nofx.run r ON r.id = s.run_id WHERE r.tenant_id <> s.tenant_id`,
	"I19: a step starts after all it needs": `
		SELECT c.step_id::text FROM nofx.event c JOIN nofx.step_dep d ON d.tenant_id = c.tenant_id AND d.step_id = c.step_id
		WHERE c.event = 'claim' AND NOT EXISTS (SELECT FROM nofx.event f WHERE f.tenant_id = c.tenant_id AND f.run_id = c.run_id AND f.step_id = d.needs
			AND f.type = 'step.succeeded' AND f.seq < c.seq)
		AND EXISTS (SELECT FROM nofx.run r WHERE r.id = c.run_id AND r.pruned_seq IS NULL)`,
	"I21: a gate opens once, by as many approvals as it wants": `
		SELECT g.id::text FROM nofx.gate g JOIN nofx.wait w ON w.tenant_id = g.tenant_id AND w.step_id = g.step_id AND w.round = g.round
		LEFT JOIN nofx.approval a ON a.tenant_id = g.tenant_id AND a.gate_id = g.id AND a.decision = 'approve'
		WHERE g.kind = 'manual' GROUP BY g.id, g.state, w.quorum
		HAVING CASE g.state WHEN 'passed' THEN count(a.gate_id) <> w.quorum ELSE count(a.gate_id) >= w.quorum END`,
	"the run's counters are those of its steps": `
		SELECT r.id::text FROM nofx.run r JOIN nofx.step s ON s.tenant_id = r.tenant_id AND s.run_id = r.id GROUP BY r.tenant_id, r.id
		HAVING r.pending_steps <> count(*) FILTER (WHERE s.state = 'pending') OR r.ready_steps <> count(*) FILTER (WHERE s.state = 'ready')
		    OR r.running_steps <> count(*) FILTER (WHERE s.state = 'running') OR r.retrying_steps <> count(*) FILTER (WHERE s.state = 'retrying')
		    OR r.waiting_steps <> count(*) FILTER (WHERE s.state = 'waiting') OR r.failed_steps <> count(*) FILTER (WHERE s.state = 'failed')`,
	"deps_left counts what has not succeeded": `
		SELECT s.id::text FROM nofx.step s LEFT JOIN nofx.step_dep d ON d.tenant_id = s.tenant_id AND d.step_id = s.id
		LEFT JOIN nofx.step n ON n.tenant_id = d.tenant_id AND n.id = d.needs AND n.state <> 'succeeded'
		GROUP BY s.id, s.deps_left HAVING s.deps_left <> count(n.id)`,
	"a lease is a running step's, under its fence": `
		SELECT s.id::text FROM nofx.step s FULL JOIN nofx.step_lease l ON l.tenant_id = s.tenant_id AND l.step_id = s.id
		WHERE (s.state = 'running') <> (l.step_id IS NOT NULL) OR l.fence <> s.fence`,
	"I18: a ready step that is due has a job with its wake_seq": `
		SELECT s.id::text FROM nofx.step s LEFT JOIN river.river_job j ON j.id = s.job_id
		WHERE s.state = 'ready' AND s.ready_at <= clock_timestamp() - interval '1 minute'
		AND (j.id IS NULL OR (j.args->>'wake_seq')::bigint <> s.wake_seq OR j.args->>'step_id' <> s.id::text)`,
	"nothing is to come of what ran, or had not begun, when a step failed for good and was left so": `
		SELECT s.id::text || ' ' || s.state FROM nofx.step s
		JOIN (SELECT f.tenant_id, f.run_id, max(e.seq) AS seq FROM nofx.step f
			JOIN nofx.event e ON e.tenant_id = f.tenant_id AND e.run_id = f.run_id AND e.step_id = f.id AND e.type = 'step.failed'
			WHERE f.state = 'failed' GROUP BY f.tenant_id, f.run_id) AS f ON f.tenant_id = s.tenant_id AND f.run_id = s.run_id
		JOIN nofx.event b ON b.tenant_id = s.tenant_id AND b.run_id = s.run_id AND b.step_id = s.id AND b.event IN ('claim', 'deps_met', 'retry', 'reopen')
			AND (b.event <> 'retry' OR b.from_state = 'failed')
		WHERE s.state IN ('pending', 'ready', 'waiting', 'retrying') AND EXISTS (SELECT FROM nofx.run r WHERE r.id = s.run_id AND r.pruned_seq IS NULL)
		GROUP BY s.tenant_id, s.id, s.state, f.seq HAVING max(b.seq) < f.seq`,
	"a pending gate belongs to a waiting step": `
		SELECT g.id::text FROM nofx.gate g JOIN nofx.step s ON s.tenant_id = g.tenant_id AND s.id = g.step_id WHERE g.state = 'pending' AND s.state <> 'waiting'`,
}

// wantSound fails for every invariant that the database breaks.
func (s *store) wantSound(t testing.TB) {
	t.Helper()
	for name, sql := range invariants {
		if ids := all[string](t, s, sql); len(ids) > 0 {
			t.Errorf("%s: broken by %d: %v", name, len(ids), ids[:min(len(ids), 5)])
		}
	}
}
