-- Finish: records the results of attempts, in one transaction for many.

-- Records what an attempt came to that did not simply succeed, or left more than
-- a checkpoint; see finish_steps, which has locked the key of a signal.
CREATE OR REPLACE FUNCTION nofx.finish_step(p_tenant uuid, p jsonb) RETURNS nofx.finished
    LANGUAGE plpgsql
AS $$
DECLARE
    s nofx.locked_step := hold_step((p->>'step_id')::uuid, (p->>'fence')::bigint);
    v_outcome text := p->>'outcome';
    f nofx.finished;
    v_until timestamptz;
    v_head uuid;
    v_seq bigint;
    v_trace char(32);
    c jsonb;
BEGIN
    IF v_outcome NOT IN ('succeed', 'fail', 'retry', 'wait', 'interrupted') THEN
        RAISE EXCEPTION 'an attempt does not end by %', v_outcome USING ERRCODE = 'NX006';
    END IF;
    IF v_outcome IN ('wait', 'retry', 'interrupted') AND is_doomed(p_tenant, s.run_id, s.id, s.fence) THEN
        IF v_outcome = 'retry' AND p ? 'gate' THEN
            v_outcome := 'fail'; -- its verdict is there, and will be the last
        ELSE
            v_outcome := 'cancel';
            p := (p - 'wait' - 'gate') || '{"reason": "run_failed", "failure_class": "cancelled"}';
        END IF;
    END IF;
    IF v_outcome = 'fail' AND p ? 'gate' AND EXISTS (
        SELECT FROM gate g JOIN attempt a ON a.tenant_id = g.tenant_id AND a.step_id = g.step_id AND a.fence = s.fence
        WHERE g.tenant_id = p_tenant AND g.step_id = s.id AND g.state = 'waived' AND g.decided_at > a.started_at
            AND g.input_digest = p->'gate'->>'input_digest') THEN
        v_outcome := 'retry'; -- waived while it ran for the last time: one more attempt finds the waiver
        p := p || '{"delay_s": 0}';
    END IF;
    f.answer := 'ok';
    f.enqueue := v_outcome = 'interrupted';
    FOR c IN SELECT x.c FROM jsonb_array_elements(p->'checkpoints') AS x (c) LOOP
        IF c->>'kind' IN ('post', 'wait') THEN
            v_head := (c->>'id')::uuid;
        END IF;
        UPDATE run r SET event_seq = r.event_seq + 1, head_checkpoint_id = coalesce(v_head, r.head_checkpoint_id) WHERE r.tenant_id = p_tenant AND r.id = s.run_id
        RETURNING r.event_seq, r.trace_id INTO v_seq, v_trace;
        PERFORM write_event(p_tenant, s.run_id, v_seq, s.id, 'checkpoint.created', NULL, NULL, NULL, NULL, v_trace, s.fence,
            store_checkpoint(p_tenant, s.run_id, s.id, s.fence, v_seq, c));
    END LOOP;
    IF p ? 'artifacts' THEN
        INSERT INTO artifact (tenant_id, id, run_id, step_id, fence, name, key, media_type, size_bytes, sha256)
        SELECT s.tenant_id, (a->>'id')::uuid, s.run_id, s.id, s.fence, a->>'name', a->>'key', a->>'media_type', (a->>'size_bytes')::bigint, decode(a->>'sha256', 'hex')
        FROM jsonb_array_elements(p->'artifacts') AS x (a);
        PERFORM append_event(s.tenant_id, s.run_id, s.id, 'artifact.created', s.fence, jsonb_build_object(
            'artifact_id', public_id('art', (a->>'id')::uuid), 'name', a->>'name', 'sha256', a->>'sha256', 'bytes', (a->>'size_bytes')::bigint))
        FROM jsonb_array_elements(p->'artifacts') AS x (a);
    END IF;
    IF p ? 'wait' THEN
        v_until := clock_timestamp() + make_interval(secs => (p->'wait'->>'after_s')::float8);
        INSERT INTO wait (tenant_id, step_id, round, kind, wait_until, quorum, shown_digest, correlation)
        VALUES (s.tenant_id, s.id, 1 + coalesce((SELECT max(w.round) FROM wait w WHERE w.tenant_id = s.tenant_id AND w.step_id = s.id), 0),
            p->'wait'->>'kind', v_until, (p->'wait'->>'quorum')::int, p->'gate'->>'shown_digest', p->'wait'->>'key');
    END IF;
    IF p ? 'gate' THEN
        PERFORM open_gate(s, p->'gate', v_until);
    END IF;
    UPDATE attempt SET exit_code = (p->>'exit_code')::int, usage = coalesce(p->'usage', '{}')
    WHERE tenant_id = s.tenant_id AND step_id = s.id AND fence = s.fence;
    UPDATE step SET event = v_outcome, version = version + 1,
        reason = p->>'reason', failure_class = p->>'failure_class',
        outputs = coalesce(p->'outputs', outputs),
        head_checkpoint_id = coalesce(v_head, head_checkpoint_id),
        wait_until = v_until,
        failing_since = CASE WHEN v_outcome = 'retry' AND p->>'failure_class' = 'infrastructure' THEN coalesce(failing_since, clock_timestamp()) END,
        signal_key = p->'wait'->>'key',
        ready_at = CASE WHEN v_outcome = 'retry' THEN clock_timestamp() + make_interval(secs => (p->>'delay_s')::float8) ELSE ready_at END
    WHERE tenant_id = s.tenant_id AND id = s.id;
    IF p->'wait' ? 'key' THEN
        f.enqueue := take_signal(p_tenant, s.id, p->'wait'->>'key');
    ELSIF v_outcome = 'succeed' THEN
        f.enqueue := ready_successors(s.tenant_id, s.id) IS NOT NULL;
    END IF;
    PERFORM settle_run(s.tenant_id, s.run_id, v_outcome = 'fail');
    SELECT r.state, extract(epoch FROM r.finished_at - r.created_at) INTO f.ended, f.seconds
    FROM run r WHERE r.tenant_id = s.tenant_id AND r.id = s.run_id AND r.finished_at IS NOT NULL;
    RETURN f;
END
$$;

-- Records what attempts came to. p is an array of {run_id, step_id, fence,
-- traceparent, outcome, reason, failure_class, delay_s, exit_code, usage, outputs,
-- checkpoints, artifacts, gate, wait, chain}; ord is the place in it. An item with
-- chain, {queue, job_id, trace_id, span_id}, takes a successor that it readied on that
-- queue for the same worker, in the same transaction: the lease is the guarantee,
-- so no job is needed. From a queue that the tenant has paused it takes none.
CREATE OR REPLACE FUNCTION nofx.finish_steps(p jsonb, p_owner text, p_pid int, p_ttl interval)
    RETURNS TABLE (ord int, answer text, run_state text, run_seconds float8, enqueue boolean, claim nofx.claimed)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    v_tenant uuid := tenant();
    v_done nofx.finished[] := '{}';
    v_told nofx.told[] := '{}';
    v_taken nofx.taken[] := '{}';
    v_runs uuid[] := '{}';
    v_item jsonb;
    v_run uuid;
    v_step uuid;
    v_fence bigint;
    v_cause text;
    f nofx.finished;
    x record;
    s record;
    n record;
    c jsonb;
    v_seq bigint;
    v_head uuid;
    v_attempt int;
    v_next_fence bigint;
    v_pending int; -- what its finish changes of the run's counters
    v_ready int;
    v_running int;
    v_busy int;
    v_over boolean; -- the run has succeeded
    v_paused text[] := ARRAY(SELECT q.queue FROM queue_pause q WHERE q.tenant_id = v_tenant AND q.resumed_at IS NULL);
BEGIN
    FOR k IN 0 .. jsonb_array_length(p) - 1 LOOP
        v_runs := v_runs || (p->k->>'run_id')::uuid;
    END LOOP;
    PERFORM lock_runs(v_tenant, v_runs);
    -- The keys of signals as well, in an order that does not depend on that of the steps.
    IF p @? '$[*].wait.key' THEN
        FOR x IN SELECT DISTINCT k #>> '{}' AS key FROM jsonb_path_query(p, '$[*].wait.key') AS k ORDER BY 1 LOOP
            PERFORM lock_signal(v_tenant, x.key);
        END LOOP;
    END IF;
    -- Several leases at once, so in the order in which a heartbeat takes them.
    IF jsonb_array_length(p) > 1 THEN
        FOR x IN SELECT (e.i->>'step_id')::uuid AS step_id FROM jsonb_array_elements(p) AS e (i) ORDER BY 1 LOOP
            PERFORM FROM step_lease l WHERE l.tenant_id = v_tenant AND l.step_id = x.step_id FOR UPDATE;
        END LOOP;
    END IF;
    FOR i IN 0 .. jsonb_array_length(p) - 1 LOOP
        v_item := p->i;
        v_run := v_runs[i + 1];
        v_step := (v_item->>'step_id')::uuid;
        v_fence := (v_item->>'fence')::bigint;
        v_cause := v_item->>'traceparent';
        f := ROW(i, 'ok', NULL, NULL, false, NULL);
        IF NOT is_held(v_tenant, v_run, v_step, v_fence) THEN
            PERFORM lock_step(v_step); -- if it is there at all
            f.answer := CASE WHEN has_lapsed(v_tenant, v_step, v_fence) THEN 'lapsed' WHEN EXISTS (
                SELECT FROM attempt a WHERE a.tenant_id = v_tenant AND a.step_id = v_step
                AND a.fence = v_fence AND a.outcome = v_item->>'outcome') THEN 'stale' ELSE 'fenced' END;
            v_done := v_done || f;
            CONTINUE;
        END IF;
        IF v_item->>'outcome' <> 'succeed' OR v_item ?| ARRAY['artifacts', 'wait', 'gate'] THEN
            -- It looks at other steps of its run, so what was put off for them is written first.
            IF v_told <> '{}' THEN
                PERFORM tell(v_tenant, v_told);
                v_told := '{}';
            END IF;
            IF v_taken <> '{}' THEN
                PERFORM lease_steps(v_tenant, v_taken, p_owner, p_pid, p_ttl);
                v_taken := '{}';
            END IF;
            PERFORM set_config('nofx.traceparent', v_cause, true);
            f := finish_step(v_tenant, v_item);
            f.ord := i;
            v_done := v_done || f;
            CONTINUE;
        END IF;

        -- It succeeded, and that is all. What follows is nearly every finish.
        SELECT q.state, q.event_seq, q.trace_id, q.ready_steps + q.running_steps + q.retrying_steps AS busy, q.pending_steps + q.waiting_steps + q.failed_steps AS others
        INTO s FROM run q WHERE q.tenant_id = v_tenant AND q.id = v_run;
        v_seq := s.event_seq;
        v_head := NULL;
        FOR k IN 0 .. coalesce(jsonb_array_length(v_item->'checkpoints'), 0) - 1 LOOP
            c := v_item->'checkpoints'->k;
            v_seq := v_seq + 1;
            v_told := v_told || ROW(v_run, v_seq, v_step, 'checkpoint.created', NULL, NULL, NULL,
                store_checkpoint(v_tenant, v_run, v_step, v_fence, v_seq, c), NULL, s.trace_id, v_fence, v_cause)::nofx.told;
            IF c->>'kind' = 'post' THEN
                v_head := (c->>'id')::uuid;
            END IF;
        END LOOP;
        PERFORM set_config('nofx.telling', 'on', true);
        UPDATE step y SET event = 'succeed', version = y.version + 1, reason = v_item->>'reason', outputs = coalesce(v_item->'outputs', y.outputs),
            head_checkpoint_id = coalesce(v_head, y.head_checkpoint_id) WHERE y.tenant_id = v_tenant AND y.id = v_step
        RETURNING y.attempt INTO v_attempt;
        v_seq := v_seq + 1;
        v_told := v_told || ROW(v_run, v_seq, v_step, 'step.succeeded', 'succeed', 'running', 'succeeded',
            jsonb_build_object('attempt', v_attempt), v_item->>'reason', s.trace_id, v_fence, v_cause)::nofx.told;
        UPDATE attempt a SET outcome = 'succeed', accepted = true, ended_at = clock_timestamp(), exit_code = (v_item->>'exit_code')::int, usage = coalesce(v_item->'usage', '{}')
        WHERE a.tenant_id = v_tenant AND a.step_id = v_step AND a.fence = v_fence;
        DELETE FROM step_lease l WHERE l.tenant_id = v_tenant AND l.step_id = v_step;

        -- Its successors: the first that it readies on the worker's queue goes on.
        v_pending := 0;
        v_ready := 0;
        v_running := -1;
        FOR n IN SELECT y.* FROM step_dep d,
            LATERAL (SELECT z.id, z.idx, z.queue, z.deps_left, z.state, z.attempt, z.fence FROM step z WHERE z.tenant_id = v_tenant AND z.id = d.step_id OFFSET 0) AS y
            WHERE d.tenant_id = v_tenant AND d.needs = v_step ORDER BY y.idx LOOP
            IF n.state <> 'pending' OR n.deps_left > 1 THEN
                UPDATE step y SET deps_left = y.deps_left - 1 WHERE y.tenant_id = v_tenant AND y.id = n.id;
                CONTINUE;
            END IF;
            v_pending := v_pending - 1;
            v_seq := v_seq + 1;
            v_told := v_told || ROW(v_run, v_seq, n.id, 'step.ready', 'deps_met', 'pending', 'ready', jsonb_build_object('attempt', n.attempt),
                NULL, s.trace_id, nullif(n.fence, 0), v_cause)::nofx.told;
            IF f.taken IS NULL AND n.queue = v_item->'chain'->>'queue' AND s.state = 'running' AND n.queue <> ALL (v_paused) THEN
                UPDATE step y SET deps_left = 0, event = 'claim', version = y.version + 2, reason = NULL WHERE y.tenant_id = v_tenant AND y.id = n.id
                RETURNING y.fence, y.attempt INTO v_next_fence, v_attempt;
                v_seq := v_seq + 1;
                v_told := v_told || ROW(v_run, v_seq, n.id, 'step.running', 'claim', 'ready', 'running',
                    jsonb_build_object('attempt', v_attempt, 'wait_ms', 0), NULL, s.trace_id, v_next_fence, v_cause)::nofx.told;
                v_taken := v_taken || ROW(n.id, v_next_fence, v_seq, (v_item->'chain'->>'job_id')::bigint, true, v_item->'chain'->>'trace_id', v_item->'chain'->>'span_id')::nofx.taken;
                f.taken := n.id;
                v_running := v_running + 1;
            ELSE
                UPDATE step y SET deps_left = 0, event = 'deps_met', version = y.version + 1, reason = NULL WHERE y.tenant_id = v_tenant AND y.id = n.id;
                f.enqueue := true;
                v_ready := v_ready + 1;
            END IF;
        END LOOP;
        v_busy := s.busy + v_ready + v_running;
        v_over := v_busy + s.others + v_pending = 0;
        IF v_over THEN
            PERFORM FROM step y WHERE y.tenant_id = v_tenant AND y.run_id = v_run AND y.state IN ('skipped', 'cancelled') ORDER BY y.idx;
            v_over := NOT FOUND;
        END IF;
        IF v_over THEN
            v_seq := v_seq + 1;
            v_told := v_told || ROW(v_run, v_seq, NULL, 'run.succeeded', 'succeed', s.state, 'succeeded', '{}', NULL, s.trace_id, NULL, v_cause)::nofx.told;
            UPDATE run y SET event = 'succeed', version = y.version + 1, reason = NULL, event_seq = v_seq,
                head_checkpoint_id = coalesce(v_head, y.head_checkpoint_id), running_steps = y.running_steps + v_running
            WHERE y.tenant_id = v_tenant AND y.id = v_run
            RETURNING y.state, extract(epoch FROM y.finished_at - y.created_at) INTO f.ended, f.seconds;
        ELSE
            UPDATE run y SET event_seq = v_seq, head_checkpoint_id = coalesce(v_head, y.head_checkpoint_id), pending_steps = y.pending_steps + v_pending,
                ready_steps = y.ready_steps + v_ready, running_steps = y.running_steps + v_running
            WHERE y.tenant_id = v_tenant AND y.id = v_run;
        END IF;
        PERFORM set_config('nofx.telling', '', true);
        IF NOT v_over AND v_busy = 0 THEN
            PERFORM set_config('nofx.traceparent', v_cause, true);
            PERFORM settle_run(v_tenant, v_run, false);
            SELECT y.state, extract(epoch FROM y.finished_at - y.created_at) INTO f.ended, f.seconds
            FROM run y WHERE y.tenant_id = v_tenant AND y.id = v_run AND y.finished_at IS NOT NULL;
        END IF;
        v_done := v_done || f;
    END LOOP;

    IF v_told <> '{}' THEN
        PERFORM tell(v_tenant, v_told);
    END IF;
    IF v_taken <> '{}' THEN
        PERFORM lease_steps(v_tenant, v_taken, p_owner, p_pid, p_ttl);
    END IF;
    RETURN QUERY SELECT d.ord, d.answer, d.ended, d.seconds, d.enqueue, CASE WHEN d.taken IS NOT NULL THEN claimed_step(v_tenant, d.taken) END FROM unnest(v_done) AS d;
END
$$;

GRANT EXECUTE ON FUNCTION
    nofx.finish_steps(jsonb, text, int, interval)
TO nofx_app;
