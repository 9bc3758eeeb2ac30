-- The invariants of RELIABILITY.md that hold at every instant and that SQL can check.

-- Returns each violated invariant with the offending rows; no rows when all invariants
-- hold. It reads whole tables, and is meant for tests and for administrators in doubt.
CREATE OR REPLACE FUNCTION nofx.unsound() RETURNS TABLE (invariant text, offender text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
    SELECT 'I4 a terminal run has terminal steps', q.offender FROM (
        SELECT s.id::text || ' ' || s.state || ' in run ' || r.state FROM step s JOIN run r ON (r.tenant_id, r.id) = (s.tenant_id, s.run_id)
        WHERE r.state IN ('succeeded', 'failed', 'cancelled') AND s.state NOT IN ('succeeded', 'failed', 'skipped', 'cancelled')
    ) AS q (offender)
    UNION ALL
    SELECT 'I5 a succeeded step has one accepted attempt unless it is restored, any other none', q.offender FROM (
        SELECT s.id::text || ' ' || s.state || ' accepted ' || count(a.fence) FILTER (WHERE a.accepted) FROM step s
        LEFT JOIN attempt a ON (a.tenant_id, a.step_id) = (s.tenant_id, s.id)
        GROUP BY s.tenant_id, s.id, s.state
        HAVING count(a.fence) FILTER (WHERE a.accepted) <> (s.state = 'succeeded' AND s.restored_from IS NULL)::int
    ) AS q (offender)
    UNION ALL
    SELECT 'I6 an effect is that of an attempt', q.offender FROM (
        SELECT e.key || ' fence ' || e.fence FROM step_effect e JOIN step s ON (s.tenant_id, s.run_id, s.name) = (e.tenant_id, e.run_id, e.step_name)
        LEFT JOIN attempt a ON (a.tenant_id, a.step_id, a.fence) = (s.tenant_id, s.id, e.fence) WHERE a.fence IS NULL
    ) AS q (offender)
    UNION ALL
    SELECT 'I7 nothing is newer than the step''s fence, and the newest attempt is the one accepted', q.offender FROM (
        SELECT a.step_id::text || ' fence ' || a.fence || ' of ' || s.fence FROM attempt a JOIN step s ON (s.tenant_id, s.id) = (a.tenant_id, a.step_id)
        WHERE a.fence > s.fence OR a.accepted AND EXISTS (
            SELECT FROM attempt b WHERE (b.tenant_id, b.step_id) = (a.tenant_id, a.step_id) AND b.fence > a.fence)
    ) AS q (offender)
    UNION ALL
    SELECT 'I8 no event of a fence follows the expiry of its lease', q.offender FROM (
        SELECT e.run_id::text || '.' || e.seq || ' ' || e.type || ' fence ' || e.fence FROM event e
        JOIN event x ON (x.tenant_id, x.run_id, x.step_id) = (e.tenant_id, e.run_id, e.step_id)
            AND x.event IN ('lease_expired', 'poison', 'cancel') AND x.from_state = 'running' AND x.seq < e.seq
        WHERE e.fence < x.fence
    ) AS q (offender)
    UNION ALL
    SELECT 'I9 events are dense from 1, or from where retention has come to', q.offender FROM (
        SELECT e.run_id::text || ' ' || min(e.seq) || '..' || max(e.seq) || ' in ' || count(*) FROM event e
        JOIN run r ON (r.tenant_id, r.id) = (e.tenant_id, e.run_id) GROUP BY e.tenant_id, e.run_id, r.pruned_seq
        HAVING min(e.seq) <> coalesce(r.pruned_seq, 0) + 1 OR max(e.seq) <> coalesce(r.pruned_seq, 0) + count(*)
    ) AS q (offender)
    UNION ALL
    SELECT 'I9 the run knows its newest event', q.offender FROM (
        SELECT r.id::text || ' ' || r.event_seq FROM run r
        WHERE r.event_seq <> coalesce((SELECT max(seq) FROM event e WHERE (e.tenant_id, e.run_id) = (r.tenant_id, r.id)), r.pruned_seq, 0)
    ) AS q (offender)
    UNION ALL
    SELECT 'only what has ended is pruned, and its logs first', q.offender FROM (
        SELECT r.id::text FROM run r WHERE r.pruned_seq > 0 AND (r.pruned_seq > r.event_seq OR EXISTS (
            SELECT FROM step s JOIN log_chunk c ON (c.tenant_id, c.step_id) = (s.tenant_id, s.id)
            WHERE (s.tenant_id, s.run_id) = (r.tenant_id, r.id) AND c.created_at < coalesce((
                SELECT min(e.at) FROM event e WHERE (e.tenant_id, e.run_id) = (r.tenant_id, r.id)), 'infinity')))
    ) AS q (offender)
    UNION ALL
    SELECT 'I10 every state event is an edge of the table', q.offender FROM (
        SELECT e.run_id::text || '.' || e.seq || ' ' || e.type || ' ' || e.from_state || '-' || e.event || '->' || e.to_state FROM event e
        WHERE e.event IS NOT NULL AND NOT EXISTS (
            SELECT FROM transition t WHERE t.machine = split_part(e.type, '.', 1)
                AND t.from_state = e.from_state AND t.event = e.event AND t.to_state = e.to_state)
    ) AS q (offender)
    UNION ALL
    SELECT 'I10 each state event starts where the last one of the same thing ended', q.offender FROM (
        SELECT run_id::text || '.' || seq || ' ' || type || ' from ' || from_state || ' after ' || before FROM (
            SELECT e.*, lag(to_state) OVER (PARTITION BY tenant_id, run_id, split_part(type, '.', 1), step_id ORDER BY seq) AS before
            FROM event e WHERE event IS NOT NULL AND (type LIKE 'run.%' OR type LIKE 'step.%')) e
        WHERE from_state <> coalesce(before, CASE
            WHEN EXISTS (SELECT FROM run r WHERE (r.tenant_id, r.id) = (e.tenant_id, e.run_id) AND r.pruned_seq > 0) THEN from_state
            WHEN type LIKE 'run.%' THEN 'queued' ELSE 'pending' END)
    ) AS q (offender)
    UNION ALL
    SELECT 'I10 the last state event is the row', q.offender FROM (
        SELECT s.id::text || ' ' || s.state FROM step s JOIN run r ON (r.tenant_id, r.id) = (s.tenant_id, s.run_id)
        WHERE s.state <> coalesce((SELECT e.to_state FROM event e
            WHERE (e.tenant_id, e.run_id, e.step_id) = (s.tenant_id, s.run_id, s.id) AND e.type LIKE 'step.%' AND e.event IS NOT NULL
            ORDER BY e.seq DESC LIMIT 1), CASE WHEN r.pruned_seq > 0 THEN s.state WHEN s.restored_from IS NULL THEN 'pending' ELSE 'succeeded' END)
        UNION ALL SELECT r.id::text || ' ' || r.state FROM run r
        WHERE r.state <> coalesce((SELECT e.to_state FROM event e
            WHERE (e.tenant_id, e.run_id) = (r.tenant_id, r.id) AND e.type LIKE 'run.%' AND e.event IS NOT NULL
            ORDER BY e.seq DESC LIMIT 1), CASE WHEN r.pruned_seq > 0 THEN r.state ELSE 'queued' END)
    ) AS q (offender)
    UNION ALL
    SELECT 'I11 no state event follows a terminal one, unless the run was tried again', q.offender FROM (
        SELECT e.run_id::text || '.' || e.seq || ' ' || e.type || ' after ' || x.type FROM event x
        JOIN event e ON (e.tenant_id, e.run_id) = (x.tenant_id, x.run_id) AND e.seq > x.seq AND e.event IS NOT NULL
            AND split_part(e.type, '.', 1) IN ('run', 'step', 'gate') -- merges, reviews and findings go on
        WHERE x.type IN ('run.succeeded', 'run.failed', 'run.cancelled')
            AND NOT EXISTS (SELECT FROM event r WHERE (r.tenant_id, r.run_id) = (x.tenant_id, x.run_id) AND r.seq > x.seq AND r.seq <= e.seq
                AND (r.type = 'run.running' AND r.event IN ('retry', 'resume') OR r.type = 'gate.waived'))
    ) AS q (offender)
    UNION ALL
    SELECT 'I12 an end follows its start under the same fence', q.offender FROM (
        SELECT e.run_id::text || '.' || e.seq || ' ' || e.type FROM event e
        WHERE e.type LIKE 'step.%' AND e.event IN ('succeed', 'fail', 'wait', 'retry', 'interrupted') AND e.from_state = 'running' AND NOT EXISTS (
            SELECT FROM event c WHERE (c.tenant_id, c.run_id, c.step_id, c.fence) = (e.tenant_id, e.run_id, e.step_id, e.fence)
                AND c.event = 'claim' AND c.seq < e.seq)
            AND NOT EXISTS (SELECT FROM run r WHERE (r.tenant_id, r.id) = (e.tenant_id, e.run_id) AND r.pruned_seq > 0)
    ) AS q (offender)
    UNION ALL
    SELECT 'I19 a step starts after all it depends on', q.offender FROM (
        SELECT s.id::text FROM step_dep d JOIN step s ON (s.tenant_id, s.id) = (d.tenant_id, d.step_id)
        JOIN step n ON (n.tenant_id, n.id) = (d.tenant_id, d.needs)
        WHERE s.started_at < n.finished_at AND n.state = 'succeeded' OR s.started_at IS NOT NULL AND n.started_at IS NULL AND n.restored_from IS NULL
    ) AS q (offender)
    UNION ALL
    SELECT 'a lease belongs to a running step and its fence', q.offender FROM (
        SELECT l.step_id::text FROM step_lease l JOIN step s ON (s.tenant_id, s.id) = (l.tenant_id, l.step_id)
        WHERE s.state <> 'running' OR l.fence <> s.fence
    ) AS q (offender)
    UNION ALL
    SELECT 'a running step has the lease of its fence', q.offender FROM (
        SELECT s.id::text FROM step s WHERE s.state = 'running' AND NOT EXISTS (
            SELECT FROM step_lease l WHERE (l.tenant_id, l.step_id, l.fence) = (s.tenant_id, s.id, s.fence))
    ) AS q (offender)
    UNION ALL
    SELECT 'an attempt is open as long as its lease is there', q.offender FROM (
        SELECT a.step_id::text || ' fence ' || a.fence || ' ended ' || coalesce(a.ended_at::text, 'never') FROM attempt a
        WHERE (a.ended_at IS NULL) <> EXISTS (SELECT FROM step_lease l WHERE (l.tenant_id, l.step_id, l.fence) = (a.tenant_id, a.step_id, a.fence))
    ) AS q (offender)
    UNION ALL
    SELECT 'a run counts its steps', q.offender FROM (
        SELECT r.id::text || ' ' || r.state FROM run r LEFT JOIN step s ON (s.tenant_id, s.run_id) = (r.tenant_id, r.id)
        GROUP BY r.tenant_id, r.id
        HAVING (r.pending_steps, r.ready_steps, r.running_steps, r.retrying_steps, r.waiting_steps, r.failed_steps) <> (
            count(*) FILTER (WHERE s.state = 'pending'), count(*) FILTER (WHERE s.state = 'ready'), count(*) FILTER (WHERE s.state = 'running'),
            count(*) FILTER (WHERE s.state = 'retrying'), count(*) FILTER (WHERE s.state = 'waiting'), count(*) FILTER (WHERE s.state = 'failed'))
    ) AS q (offender)
    UNION ALL
    SELECT 'I3 a live run has a step that moves it, or one that waits', q.offender FROM (
        SELECT r.id::text || ' ' || r.state FROM run r
        WHERE r.state IN ('queued', 'running') AND r.ready_steps + r.running_steps + r.retrying_steps = 0
            OR r.state = 'waiting' AND r.waiting_steps = 0
            OR r.state = 'paused' AND r.pending_steps + r.ready_steps + r.running_steps + r.retrying_steps + r.waiting_steps = 0
    ) AS q (offender)
    UNION ALL
    SELECT 'a step that waits has a wait with a deadline', q.offender FROM (
        SELECT s.id::text FROM step s WHERE s.state = 'waiting' AND (s.wait_until IS NULL OR NOT EXISTS (
            SELECT FROM wait w WHERE (w.tenant_id, w.step_id) = (s.tenant_id, s.id)))
    ) AS q (offender)
    UNION ALL
    SELECT 'a pending step counts what it waits for, and waits for something', q.offender FROM (
        SELECT s.id::text || ' ' || s.name || ' ' || s.deps_left FROM step s WHERE s.state = 'pending' AND (s.deps_left = 0 OR s.deps_left <> (
            SELECT count(*) FROM step_dep d JOIN step n ON (n.tenant_id, n.id) = (d.tenant_id, d.needs)
            WHERE (d.tenant_id, d.step_id) = (s.tenant_id, s.id) AND n.state <> 'succeeded'))
    ) AS q (offender)
    UNION ALL
    SELECT 'I16 I17 a row has its parent, in its own tenant', q.offender FROM (
        SELECT 'step ' || s.id FROM step s LEFT JOIN run r ON (r.tenant_id, r.id) = (s.tenant_id, s.run_id) WHERE r.id IS NULL
        UNION ALL SELECT 'dependency of ' || d.step_id FROM step_dep d LEFT JOIN step s ON (s.tenant_id, s.run_id, s.id) = (d.tenant_id, d.run_id, d.step_id)
            LEFT JOIN step n ON (n.tenant_id, n.run_id, n.id) = (d.tenant_id, d.run_id, d.needs) WHERE s.id IS NULL OR n.id IS NULL
        UNION ALL SELECT 'attempt of ' || a.step_id FROM attempt a LEFT JOIN step s ON (s.tenant_id, s.id) = (a.tenant_id, a.step_id) WHERE s.id IS NULL
        UNION ALL SELECT 'wait of ' || w.step_id FROM wait w LEFT JOIN step s ON (s.tenant_id, s.id) = (w.tenant_id, w.step_id) WHERE s.id IS NULL
        UNION ALL SELECT 'log of ' || c.step_id FROM log_chunk c LEFT JOIN step s ON (s.tenant_id, s.id) = (c.tenant_id, c.step_id) WHERE s.id IS NULL
        UNION ALL SELECT 'event of ' || e.run_id FROM event e LEFT JOIN run r ON (r.tenant_id, r.id) = (e.tenant_id, e.run_id)
            LEFT JOIN step s ON (s.tenant_id, s.run_id, s.id) = (e.tenant_id, e.run_id, e.step_id) WHERE r.id IS NULL OR e.step_id IS NOT NULL AND s.id IS NULL
        UNION ALL SELECT 'checkpoint ' || c.id FROM checkpoint c LEFT JOIN run r ON (r.tenant_id, r.id) = (c.tenant_id, c.run_id) WHERE r.id IS NULL
        UNION ALL SELECT 'gate ' || g.id FROM gate g LEFT JOIN step s ON (s.tenant_id, s.run_id, s.id) = (g.tenant_id, g.run_id, g.step_id) WHERE s.id IS NULL
        UNION ALL SELECT 'effect ' || e.key FROM step_effect e LEFT JOIN step s ON (s.tenant_id, s.run_id, s.name) = (e.tenant_id, e.run_id, e.step_name) WHERE s.id IS NULL
    ) AS q (offender)
    UNION ALL
    SELECT 'a review under way is of a step that has not ended, and one that runs of a step that has begun', q.offender FROM (
        SELECT v.id::text || ' ' || v.state || ' step ' || s.state FROM review v JOIN step s ON (s.tenant_id, s.id) = (v.tenant_id, v.step_id)
        WHERE v.state IN ('queued', 'running') AND (s.state IN ('succeeded', 'failed', 'skipped', 'cancelled') OR v.state = 'running' AND s.fence = 0)
    ) AS q (offender)
    UNION ALL
    SELECT 'I10 replayed, the events of a review or finding end in its state', q.offender FROM (
        SELECT public_id('rev', v.id) || ' ' || v.state FROM review v JOIN run r ON (r.tenant_id, r.id) = (v.tenant_id, v.run_id)
        WHERE r.pruned_seq IS NULL AND v.state <> (SELECT split_part(e.type, '.', 2) FROM event e
            WHERE (e.tenant_id, e.run_id) = (v.tenant_id, v.run_id) AND e.type LIKE 'review.%' AND e.type <> 'review.posted' AND e.data->>'review_id' = public_id('rev', v.id)
            ORDER BY e.seq DESC LIMIT 1)
        UNION ALL SELECT public_id('find', f.id) || ' ' || f.state FROM finding f WHERE f.state <> coalesce((
            SELECT split_part(e.type, '.', 2) FROM event e
            WHERE e.tenant_id = f.tenant_id AND e.type LIKE 'finding.%' AND e.data->>'finding_id' = public_id('find', f.id) ORDER BY e.at DESC, e.seq DESC LIMIT 1), f.state)
    ) AS q (offender)
    UNION ALL
    SELECT 'I20 what a step depends on has succeeded before it is more than pending', q.offender FROM (
        SELECT s.id::text || ' ' || s.state || ' on ' || n.state FROM step_dep d JOIN step s ON (s.tenant_id, s.id) = (d.tenant_id, d.step_id)
        JOIN step n ON (n.tenant_id, n.id) = (d.tenant_id, d.needs)
        WHERE s.state IN ('ready', 'running', 'waiting', 'retrying', 'succeeded') AND n.state <> 'succeeded'
    ) AS q (offender)
    UNION ALL
    SELECT 'I10 replayed, the events of a run end in its state, and its version counts them', q.offender FROM (
        SELECT r.id::text FROM run r LEFT JOIN event e ON e.tenant_id = r.tenant_id AND e.run_id = r.id AND e.event IS NOT NULL AND e.type LIKE 'run.%'
        WHERE r.pruned_seq IS NULL GROUP BY r.id, r.state, r.version
        HAVING r.version <> 1 + count(e.seq) OR r.state <> coalesce((array_agg(e.to_state ORDER BY e.seq DESC))[1], 'queued')
    ) AS q (offender)
    UNION ALL
    SELECT 'I10 replayed, those of a step too', q.offender FROM (
        SELECT s.id::text FROM step s LEFT JOIN event e ON e.tenant_id = s.tenant_id AND e.step_id = s.id AND e.event IS NOT NULL AND e.type LIKE 'step.%'
        WHERE EXISTS (SELECT FROM run r WHERE r.id = s.run_id AND r.pruned_seq IS NULL) GROUP BY s.id, s.state, s.version, s.restored_from
        HAVING s.version <> 1 + count(e.seq) OR s.state <> coalesce((array_agg(e.to_state ORDER BY e.seq DESC))[1], CASE WHEN s.restored_from IS NULL THEN 'pending' ELSE 'succeeded' END)
    ) AS q (offender)
    UNION ALL
    SELECT 'I10 replayed, those of a gate too', q.offender FROM (
        SELECT g.id::text FROM gate g LEFT JOIN event e ON e.tenant_id = g.tenant_id AND e.data->>'gate_id' = public_id('gate', g.id) AND e.event IS NOT NULL
        WHERE EXISTS (SELECT FROM run r WHERE r.id = g.run_id AND r.pruned_seq IS NULL) GROUP BY g.id, g.state, g.version
        HAVING g.version <> 1 + count(e.seq) OR g.state <> coalesce((array_agg(e.to_state ORDER BY e.seq DESC))[1], 'pending')
    ) AS q (offender)
    UNION ALL
    SELECT 'I10 replayed, those of a merge too', q.offender FROM (
        SELECT m.id::text FROM merge m LEFT JOIN event e ON e.tenant_id = m.tenant_id AND e.run_id = m.target_run_id AND e.type LIKE 'merge.%'
            AND e.data->>'merge_id' = public_id('mrg', m.id) AND e.event IS NOT NULL
        WHERE EXISTS (SELECT FROM run r WHERE r.id = m.target_run_id AND r.pruned_seq IS NULL) GROUP BY m.id, m.state, m.version
        HAVING m.version <> 1 + count(e.seq) OR m.state <> coalesce((array_agg(e.to_state ORDER BY e.seq DESC))[1], 'open')
    ) AS q (offender)
    UNION ALL
    SELECT 'a merge counts its conflicts, has none open when it is ready, and has a checkpoint once committed', q.offender FROM (
        SELECT m.id::text || ' ' || m.state FROM merge m LEFT JOIN merge_conflict c ON (c.tenant_id, c.merge_id) = (m.tenant_id, m.id)
        WHERE m.state <> 'open' GROUP BY m.tenant_id, m.id
        HAVING (m.conflicts, m.open_conflicts) <> (count(c.n), count(c.n) FILTER (WHERE c.resolution IS NULL))
            OR m.state IN ('ready', 'committed') AND m.open_conflicts > 0 OR m.state = 'conflicted' AND m.open_conflicts = 0
            OR (m.state = 'committed') <> (m.committed_checkpoint_id IS NOT NULL)
    ) AS q (offender)
    UNION ALL
    SELECT 'a merge checkpoint has two parents, and its source''s head does not descend from it', q.offender FROM (
        SELECT m.id::text FROM merge m JOIN checkpoint c ON (c.tenant_id, c.id) = (m.tenant_id, m.committed_checkpoint_id) AND c.kind = 'merge'
        LEFT JOIN checkpoint_parent p ON (p.tenant_id, p.checkpoint_id) = (c.tenant_id, c.id)
        LEFT JOIN checkpoint a ON (a.tenant_id, a.id) = (p.tenant_id, p.parent_id)
        GROUP BY m.tenant_id, m.id, c.generation HAVING count(a.id) <> 2 OR c.generation <= max(a.generation)
    ) AS q (offender)
    UNION ALL
    SELECT 'I17 a row has the tenant of its run', q.offender FROM (
        SELECT e.run_id::text FROM event e JOIN run r ON r.id = e.run_id WHERE r.tenant_id <> e.tenant_id
        UNION ALL SELECT s.id::text FROM step s JOIN run r ON r.id = s.run_id WHERE r.tenant_id <> s.tenant_id
    ) AS q (offender)
    UNION ALL
    SELECT 'I18 a step that has been due for a minute has a job with its wake_seq', q.offender FROM (
        SELECT s.id::text FROM step s JOIN run r ON (r.tenant_id, r.id) = (s.tenant_id, s.run_id) LEFT JOIN river.river_job j ON j.id = s.job_id
        WHERE s.state = 'ready' AND s.due_at <= clock_timestamp() - interval '1 minute' AND r.state <> 'paused'
        AND (j.id IS NULL OR (j.args->>'wake_seq')::bigint <> s.wake_seq OR j.args->>'step_id' <> s.id::text)
    ) AS q (offender)
    UNION ALL
    SELECT 'I21 a gate opens once, by as many approvals as it wants', q.offender FROM (
        SELECT g.id::text FROM gate g JOIN wait w ON w.tenant_id = g.tenant_id AND w.step_id = g.step_id AND w.round = g.round
        LEFT JOIN approval a ON a.tenant_id = g.tenant_id AND a.gate_id = g.id AND a.decision = 'approve'
        WHERE g.kind = 'manual' GROUP BY g.id, g.state, w.quorum
        HAVING CASE g.state WHEN 'passed' THEN count(a.gate_id) <> w.quorum ELSE count(a.gate_id) >= w.quorum END
    ) AS q (offender)
    UNION ALL
    SELECT 'nothing is to come of steps that ran, or had not begun, when another failed for good', q.offender FROM (
        SELECT s.id::text || ' ' || s.state FROM step s
        JOIN (SELECT f.tenant_id, f.run_id, max(e.seq) AS seq FROM step f
            JOIN event e ON e.tenant_id = f.tenant_id AND e.run_id = f.run_id AND e.step_id = f.id AND e.type = 'step.failed'
            WHERE f.state = 'failed' GROUP BY f.tenant_id, f.run_id) AS f ON f.tenant_id = s.tenant_id AND f.run_id = s.run_id
        JOIN event b ON b.tenant_id = s.tenant_id AND b.run_id = s.run_id AND b.step_id = s.id AND b.event IN ('claim', 'deps_met', 'retry', 'reopen')
            AND (b.event <> 'retry' OR b.from_state = 'failed')
        WHERE s.state IN ('pending', 'ready', 'waiting', 'retrying') AND EXISTS (SELECT FROM run r WHERE r.id = s.run_id AND r.pruned_seq IS NULL)
        GROUP BY s.tenant_id, s.id, s.state, f.seq HAVING max(b.seq) < f.seq
    ) AS q (offender)
    UNION ALL
    SELECT 'I16 a parent of a checkpoint is there', q.offender FROM (
        SELECT p.checkpoint_id::text FROM checkpoint_parent p
        LEFT JOIN checkpoint a ON a.tenant_id = p.tenant_id AND a.id = p.parent_id
        LEFT JOIN checkpoint c ON c.tenant_id = p.tenant_id AND c.id = p.checkpoint_id WHERE a.id IS NULL OR c.id IS NULL
    ) AS q (offender)
    UNION ALL
    SELECT 'a restored step has the result of a step that ran under its name, and depends on restored steps alone', q.offender FROM (
        SELECT s.id::text FROM step s LEFT JOIN step o ON (o.tenant_id, o.id) = (s.tenant_id, s.restored_from)
        WHERE s.restored_from IS NOT NULL AND (o.id IS NULL OR o.restored_from IS NOT NULL OR o.state <> 'succeeded' OR s.state <> 'succeeded'
            OR o.name <> s.name OR o.run_id = s.run_id OR (s.head_checkpoint_id IS NULL) <> (o.head_checkpoint_id IS NULL) OR s.fence <> 0)
        UNION ALL SELECT s.id::text || ' on ' || n.id FROM step s JOIN step_dep d ON (d.tenant_id, d.step_id) = (s.tenant_id, s.id)
        JOIN step n ON (n.tenant_id, n.id) = (d.tenant_id, d.needs) WHERE s.restored_from IS NOT NULL AND n.restored_from IS NULL
        UNION ALL SELECT s.id::text FROM step s JOIN run r ON (r.tenant_id, r.id) = (s.tenant_id, s.run_id) WHERE s.restored_from IS NOT NULL AND r.parent_run_id IS NULL
    ) AS q (offender)
    UNION ALL
    SELECT 'branches form trees, each under the root that its runs name, at most 50 deep', q.offender FROM (
        WITH RECURSIVE line AS (
            SELECT r.tenant_id, r.id, r.root_run_id, 0 AS depth FROM run r WHERE r.parent_run_id IS NULL AND r.root_run_id = r.id
            UNION ALL
            SELECT r.tenant_id, r.id, r.root_run_id, l.depth + 1 FROM line l JOIN run r ON (r.tenant_id, r.parent_run_id, r.root_run_id) = (l.tenant_id, l.id, l.root_run_id)
            WHERE l.depth < 50
        )
        SELECT r.id::text FROM run r LEFT JOIN line l ON (l.tenant_id, l.id) = (r.tenant_id, r.id) WHERE l.id IS NULL
        UNION ALL SELECT r.id::text FROM run r LEFT JOIN checkpoint c ON (c.tenant_id, c.id) = (r.tenant_id, r.parent_checkpoint_id)
        WHERE (r.parent_run_id IS NULL) <> (c.id IS NULL)
    ) AS q (offender)
$$;
