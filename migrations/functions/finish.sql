-- Finish: records the results of attempts, in one transaction for many.

-- Records the result of an attempt that did not succeed, or that left more than a
-- checkpoint. The caller, finish_steps, holds the locks.
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
    IF v_outcome = 'fail' AND p ? 'gate' AND NOT is_doomed(p_tenant, s.run_id, s.id, s.fence) AND EXISTS (
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
        PERFORM write_events(p_tenant, ARRAY[plain_event(s.run_id, v_seq, s.id, 'checkpoint.created', s.fence,
            store_checkpoint(p_tenant, s.run_id, s.id, s.fence, v_seq, c), v_trace, cause())]);
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
        f.enqueue := ready_successors(s.tenant_id, s.run_id, s.id);
    END IF;
    PERFORM settle_run(s.tenant_id, s.run_id, v_outcome = 'fail');
    SELECT r.state, extract(epoch FROM r.finished_at - r.created_at) INTO f.ended, f.seconds
    FROM run r WHERE r.tenant_id = s.tenant_id AND r.id = s.run_id AND r.finished_at IS NOT NULL;
    RETURN f;
END
$$;

-- Records that an attempt succeeded with only checkpoints, as nearly every finish does. The
-- caller has checked the lease; it writes the events, and the lease of a successor that is
-- claimed at once, for several finishes together. From the queues in p_paused no successor
-- is claimed.
CREATE OR REPLACE FUNCTION nofx.finish_succeeded(p_tenant uuid, p jsonb, p_paused text[]) RETURNS nofx.finished
    LANGUAGE plpgsql
AS $$
DECLARE
    v_run uuid := (p->>'run_id')::uuid;
    v_step uuid := (p->>'step_id')::uuid;
    v_fence bigint := (p->>'fence')::bigint;
    v_cause text := p->>'traceparent';
    v_events nofx.new_event[] := '{}';
    v_changes nofx.new_event[]; -- those of them that change steps
    v_seq bigint;
    v_head uuid;
    v_busy int;
    v_over boolean; -- the run has succeeded
    f nofx.finished;
    r record;
    s record;
    n nofx.successor;
    d nofx.step_counts;
    c jsonb;
BEGIN
    f.answer := 'ok';
    f.enqueue := false;
    SELECT q.state, q.event_seq, q.trace_id, q.ready_steps + q.running_steps + q.retrying_steps AS busy, q.pending_steps + q.waiting_steps + q.failed_steps AS others
    INTO r FROM run q WHERE q.tenant_id = p_tenant AND q.id = v_run;
    v_seq := r.event_seq;
    FOR k IN 0 .. coalesce(jsonb_array_length(p->'checkpoints'), 0) - 1 LOOP
        c := p->'checkpoints'->k;
        v_seq := v_seq + 1;
        v_events := v_events || plain_event(v_run, v_seq, v_step, 'checkpoint.created', v_fence, store_checkpoint(p_tenant, v_run, v_step, v_fence, v_seq, c), r.trace_id, v_cause);
        IF c->>'kind' = 'post' THEN
            v_head := (c->>'id')::uuid;
        END IF;
    END LOOP;
    v_seq := v_seq + 1;
    UPDATE step y SET event = 'succeed', version = y.version + 1, seq = v_seq, reason = p->>'reason', outputs = coalesce(p->'outputs', y.outputs),
        head_checkpoint_id = coalesce(v_head, y.head_checkpoint_id) WHERE y.tenant_id = p_tenant AND y.id = v_step
    RETURNING y.attempt, y.reason INTO s;
    v_changes := ARRAY[step_event(v_run, v_seq, v_step, 'succeed', 'running', 'succeeded', v_fence, s.attempt, s.reason, r.trace_id, v_cause)];
    UPDATE attempt a SET outcome = 'succeed', accepted = true, ended_at = clock_timestamp(), exit_code = (p->>'exit_code')::int, usage = coalesce(p->'usage', '{}')
    WHERE a.tenant_id = p_tenant AND a.step_id = v_step AND a.fence = v_fence;
    DELETE FROM step_lease l WHERE l.tenant_id = p_tenant AND l.step_id = v_step;

    -- The first successor on the worker's queue is claimed at once.
    FOREACH n IN ARRAY count_off(p_tenant, v_step) LOOP
        v_seq := v_seq + 1;
        v_changes := v_changes || step_event(v_run, v_seq, n.id, 'deps_met', 'pending', 'ready', n.fence, n.attempt, NULL, r.trace_id, v_cause);
        IF f.taken IS NULL AND n.queue = p->'chain'->>'queue' AND r.state = 'running' AND n.queue <> ALL (p_paused) THEN
            v_seq := v_seq + 1;
            UPDATE step y SET event = 'claim', version = y.version + 2, seq = v_seq, reason = NULL WHERE y.tenant_id = p_tenant AND y.id = n.id
            RETURNING y.fence, y.attempt INTO s;
            v_changes := v_changes || step_event(v_run, v_seq, n.id, 'claim', 'ready', 'running', s.fence, s.attempt, NULL, r.trace_id, v_cause, p_wait_ms => 0);
            f.claims := ARRAY[ROW(n.id, s.fence, v_seq, (p->'chain'->>'job_id')::bigint, true, p->'chain'->>'trace_id', p->'chain'->>'span_id')::nofx.taken];
            f.taken := n.id;
        ELSE
            UPDATE step y SET event = 'deps_met', version = y.version + 1, seq = v_seq, reason = NULL WHERE y.tenant_id = p_tenant AND y.id = n.id;
            f.enqueue := true;
        END IF;
    END LOOP;
    v_events := v_events || v_changes;

    d := count_changes(v_changes);
    v_busy := r.busy + d.ready + d.running;
    v_over := v_busy + r.others + d.pending = 0;
    IF v_over THEN
        PERFORM FROM step y WHERE y.tenant_id = p_tenant AND y.run_id = v_run AND y.state IN ('skipped', 'cancelled') ORDER BY y.idx;
        v_over := NOT FOUND;
    END IF;
    IF v_over THEN
        v_seq := v_seq + 1;
        v_events := v_events || run_event(v_run, v_seq, 'succeed', r.state, 'succeeded', NULL, NULL, r.trace_id, v_cause);
        UPDATE run y SET event = 'succeed', version = y.version + 1, reason = NULL, event_seq = v_seq,
            head_checkpoint_id = coalesce(v_head, y.head_checkpoint_id), running_steps = y.running_steps + d.running
        WHERE y.tenant_id = p_tenant AND y.id = v_run;
    ELSE
        UPDATE run y SET event_seq = v_seq, head_checkpoint_id = coalesce(v_head, y.head_checkpoint_id), pending_steps = y.pending_steps + d.pending,
            ready_steps = y.ready_steps + d.ready, running_steps = y.running_steps + d.running
        WHERE y.tenant_id = p_tenant AND y.id = v_run;
        IF v_busy = 0 THEN
            PERFORM set_config('nofx.traceparent', v_cause, true);
            PERFORM settle_run(p_tenant, v_run, false);
        END IF;
    END IF;
    IF v_busy = 0 THEN
        SELECT y.state, extract(epoch FROM y.finished_at - y.created_at) INTO f.ended, f.seconds
        FROM run y WHERE y.tenant_id = p_tenant AND y.id = v_run AND y.finished_at IS NOT NULL;
    END IF;
    f.events := v_events;
    RETURN f;
END
$$;

-- Returns the answer to a finish whose attempt no longer holds its step.
CREATE OR REPLACE FUNCTION nofx.refused_finish(p_tenant uuid, p_step uuid, p_fence bigint, p_outcome text) RETURNS text
    LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM lock_step(p_step); -- if it is there at all
    RETURN CASE WHEN has_lapsed(p_tenant, p_step, p_fence) THEN 'lapsed' WHEN EXISTS (
        SELECT FROM attempt a WHERE a.tenant_id = p_tenant AND a.step_id = p_step AND a.fence = p_fence AND a.outcome = p_outcome) THEN 'stale' ELSE 'fenced' END;
END
$$;

-- Takes all locks that a batch of finishes needs, in the order of all transactions: runs,
-- keys of signals, leases.
CREATE OR REPLACE FUNCTION nofx.lock_finishes(p_tenant uuid, p jsonb) RETURNS void
    LANGUAGE plpgsql
AS $$
DECLARE
    v_runs uuid[] := '{}';
    x record;
BEGIN
    FOR k IN 0 .. jsonb_array_length(p) - 1 LOOP
        v_runs := v_runs || (p->k->>'run_id')::uuid;
    END LOOP;
    PERFORM lock_runs(p_tenant, v_runs);
    IF p @? '$[*].wait.key' THEN
        FOR x IN SELECT DISTINCT k #>> '{}' AS key FROM jsonb_path_query(p, '$[*].wait.key') AS k ORDER BY 1 LOOP
            PERFORM lock_signal(p_tenant, x.key);
        END LOOP;
    END IF;
    IF jsonb_array_length(p) > 1 THEN -- as a heartbeat takes them
        FOR x IN SELECT (e.i->>'step_id')::uuid AS step_id FROM jsonb_array_elements(p) AS e (i) ORDER BY 1 LOOP
            PERFORM FROM step_lease l WHERE l.tenant_id = p_tenant AND l.step_id = x.step_id FOR UPDATE;
        END LOOP;
    END IF;
END
$$;

-- Records the results of attempts. p is an array of {run_id, step_id, fence, traceparent,
-- outcome, reason, failure_class, delay_s, exit_code, usage, outputs, checkpoints,
-- artifacts, gate, wait, chain}; ord is the place in it. An item with chain, {queue,
-- job_id, trace_id, span_id}, takes a successor that it readied on that queue for the same
-- worker, in the same transaction: the lease is the guarantee, so no job is needed. From a
-- queue that the tenant has paused it takes none.
CREATE OR REPLACE FUNCTION nofx.finish_steps(p jsonb, p_owner text, p_pid int, p_ttl interval)
    RETURNS TABLE (ord int, answer text, run_state text, run_seconds float8, enqueue boolean, claim nofx.claimed)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    v_tenant uuid := tenant();
    v_paused text[] := ARRAY(SELECT q.queue FROM queue_pause q WHERE q.tenant_id = v_tenant AND q.resumed_at IS NULL);
    v_done nofx.finished[] := '{}';
    v_events nofx.new_event[] := '{}'; -- not written yet
    v_claims nofx.taken[] := '{}';
    v_item jsonb;
    v_step uuid;
    v_fence bigint;
    v_last int := jsonb_array_length(p) - 1;
    v_simple boolean;
    f nofx.finished;
BEGIN
    PERFORM lock_finishes(v_tenant, p);
    FOR k IN 0 .. v_last LOOP
        v_item := p->k;
        v_step := (v_item->>'step_id')::uuid;
        v_fence := (v_item->>'fence')::bigint;
        v_simple := v_item->>'outcome' = 'succeed' AND NOT v_item ?| ARRAY['artifacts', 'wait', 'gate'];
        f := NULL;
        IF NOT is_held(v_tenant, (v_item->>'run_id')::uuid, v_step, v_fence) THEN
            f.answer := refused_finish(v_tenant, v_step, v_fence, v_item->>'outcome');
            f.enqueue := false;
        ELSIF v_simple THEN
            f := finish_succeeded(v_tenant, v_item, v_paused);
            v_events := v_events || f.events;
            v_claims := v_claims || f.claims;
            f.events := NULL;
            f.claims := NULL;
        END IF;
        -- Any other result reads the steps of its run, so deferred rows are written first.
        IF v_events <> '{}' AND (f.answer IS NULL OR k = v_last) THEN
            PERFORM write_events(v_tenant, v_events);
            v_events := '{}';
        END IF;
        IF v_claims <> '{}' AND (f.answer IS NULL OR k = v_last) THEN
            PERFORM lease_steps(v_tenant, v_claims, p_owner, p_pid, p_ttl);
            v_claims := '{}';
        END IF;
        IF f.answer IS NULL THEN
            PERFORM set_config('nofx.traceparent', v_item->>'traceparent', true);
            f := finish_step(v_tenant, v_item);
        END IF;
        f.ord := k;
        v_done := v_done || f;
    END LOOP;
    RETURN QUERY SELECT d.ord, d.answer, d.ended, d.seconds, d.enqueue, CASE WHEN d.taken IS NOT NULL THEN claimed_step(v_tenant, d.taken) END FROM unnest(v_done) AS d;
END
$$;

GRANT EXECUTE ON FUNCTION
    nofx.finish_steps(jsonb, text, int, interval)
TO nofx_worker;
