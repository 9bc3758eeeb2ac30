-- Execution: create, claim, finish, settle, cancel, decide. Every function that
-- is granted to nofx_app works in the tenant of its transaction.
SET LOCAL ROLE nofx_system;

-- Inserts a run with its steps; those without dependencies are ready at once.
-- p_steps is an array of {id, name, tool, queue, spec, max_attempts, needs: [idx]}
-- in plan order, dependencies given by index.
CREATE FUNCTION nofx.create_run(p_run jsonb, p_steps jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    v_tenant uuid := tenant();
    v_run uuid := (p_run->>'id')::uuid;
    v_project uuid;
    v_root uuid;
BEGIN
    SELECT id INTO v_project FROM project WHERE tenant_id = v_tenant AND slug = p_run->>'project';
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no project %', p_run->>'project' USING ERRCODE = 'NX005', DETAIL = '{"noun":"project"}';
    END IF;
    INSERT INTO run (tenant_id, id, project_id, goal, labels, pending_steps, plan, plan_digest, root_run_id,
        trace_id, traceparent, correlation_id, created_by, deadline)
    VALUES (v_tenant, v_run, v_project, p_run->>'goal', p_run->'labels', jsonb_array_length(p_steps), p_run->'plan', p_run->>'plan_digest', v_run,
        p_run->>'trace_id', p_run->>'traceparent', p_run->>'correlation_id', p_run->>'created_by',
        clock_timestamp() + make_interval(secs => (p_run->>'deadline_s')::float8));

    INSERT INTO step (tenant_id, id, run_id, idx, name, tool, queue, spec, max_attempts, deps_left)
    SELECT v_tenant, (s->>'id')::uuid, v_run, (ord - 1)::int, s->>'name', s->>'tool', s->>'queue', s->'spec',
           (s->>'max_attempts')::int, jsonb_array_length(s->'needs')
    FROM jsonb_array_elements(p_steps) WITH ORDINALITY AS e (s, ord);

    INSERT INTO step_dep (tenant_id, run_id, needs, step_id)
    SELECT v_tenant, v_run, (p_steps->(n.i::int)->>'id')::uuid, (s->>'id')::uuid
    FROM jsonb_array_elements(p_steps) AS e (s), jsonb_array_elements_text(e.s->'needs') AS n (i);

    FOR v_root IN SELECT id FROM step WHERE tenant_id = v_tenant AND run_id = v_run AND deps_left = 0 ORDER BY idx LOOP
        PERFORM step_transition(v_root, 'deps_met');
    END LOOP;
END
$$;

-- Counts a succeeded step off its successors and readies those that wait for
-- nothing more.
CREATE FUNCTION nofx.ready_successors(p_tenant uuid, p_step uuid) RETURNS void
    LANGUAGE plpgsql SET search_path = nofx, pg_temp
AS $$
DECLARE
    v_next uuid;
BEGIN
    FOR v_next IN
        WITH counted AS (
            UPDATE step s SET deps_left = s.deps_left - 1
            FROM step_dep d
            WHERE d.tenant_id = p_tenant AND d.needs = p_step AND s.tenant_id = p_tenant AND s.id = d.step_id
            RETURNING s.id, s.idx, s.deps_left, s.state
        )
        SELECT c.id FROM counted c WHERE c.deps_left = 0 AND c.state = 'pending' ORDER BY c.idx
    LOOP
        PERFORM step_transition(v_next, 'deps_met');
    END LOOP;
END
$$;

CREATE FUNCTION nofx.withdraw_gates(p_tenant uuid, p_run uuid, p_reason text) RETURNS void
    LANGUAGE plpgsql SET search_path = nofx, pg_temp
AS $$
BEGIN
    UPDATE gate SET event = 'withdraw', version = version + 1, reason = p_reason
    WHERE tenant_id = p_tenant AND run_id = p_run AND state = 'pending';
END
$$;

-- Brings the run's state in line with its steps. The caller holds its lock. A
-- step that failed for good ends whatever has not begun; siblings that run may
-- end, and the last of them settles the run.
CREATE FUNCTION nofx.settle_run(p_tenant uuid, p_run uuid) RETURNS void
    LANGUAGE plpgsql SET search_path = nofx, pg_temp
AS $$
DECLARE
    r nofx.run;
    f nofx.step;
BEGIN
    SELECT * INTO r FROM run WHERE tenant_id = p_tenant AND id = p_run;
    IF r.state IN ('succeeded', 'failed', 'cancelled') THEN
        RETURN;
    END IF;
    IF r.failed_steps > 0 THEN
        PERFORM withdraw_gates(p_tenant, p_run, 'run_failed');
        WITH RECURSIVE downstream (id) AS (
            SELECT s.id FROM step s WHERE s.tenant_id = p_tenant AND s.run_id = p_run AND s.state = 'failed'
            UNION
            SELECT d.step_id FROM step_dep d JOIN downstream u ON d.tenant_id = p_tenant AND d.needs = u.id
        )
        UPDATE step s SET event = 'skip', version = s.version + 1,
            reason = CASE WHEN s.id IN (SELECT u.id FROM downstream u) THEN 'upstream_failed' ELSE 'run_failed' END
        WHERE s.tenant_id = p_tenant AND s.run_id = p_run AND s.state = 'pending';
        UPDATE step s SET event = 'cancel', version = s.version + 1, reason = 'run_failed', failure_class = 'cancelled'
        WHERE s.tenant_id = p_tenant AND s.run_id = p_run AND s.state IN ('ready', 'retrying', 'waiting');
        IF r.running_steps = 0 THEN
            SELECT * INTO f FROM step s WHERE s.tenant_id = p_tenant AND s.run_id = p_run AND s.state = 'failed'
            ORDER BY s.finished_at, s.idx LIMIT 1;
            PERFORM run_transition(p_run, 'fail', left(format('step %s: %s', f.name, f.reason), 2000), NULL, f.failure_class);
        END IF;
    ELSIF r.pending_steps + r.ready_steps + r.running_steps + r.retrying_steps + r.waiting_steps = 0 THEN
        PERFORM run_transition(p_run, 'succeed');
    ELSIF r.ready_steps + r.running_steps + r.retrying_steps = 0 AND r.state = 'running' THEN
        PERFORM run_transition(p_run, 'wait');
    ELSIF r.ready_steps + r.running_steps + r.retrying_steps > 0 AND r.state = 'waiting' THEN
        PERFORM run_transition(p_run, 'wake');
    END IF;
END
$$;

-- Takes a ready step for a worker: fence + 1, a lease, an attempt row. No row
-- comes back when the wake-up is stale or the run takes no claims.
CREATE FUNCTION nofx.claim_step(p_step uuid, p_wake_seq bigint, p_owner text, p_pid int, p_ttl interval, p_trace char(32), p_span char(16))
    RETURNS TABLE (run_id uuid, name text, tool text, spec jsonb, fence bigint, attempt int, max_attempts int, lost_leases int,
        ready_at timestamptz, claimed_at timestamptz, traceparent text, plan_digest text, waived_digest text)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    v_tenant uuid := tenant();
    r nofx.run;
    s nofx.step;
BEGIN
    SELECT * INTO r FROM run WHERE tenant_id = v_tenant
        AND id = (SELECT x.run_id FROM step x WHERE x.tenant_id = v_tenant AND x.id = p_step) FOR NO KEY UPDATE;
    IF NOT FOUND OR r.state NOT IN ('queued', 'running', 'waiting') THEN
        RETURN;
    END IF;
    SELECT * INTO s FROM step WHERE tenant_id = v_tenant AND id = p_step FOR NO KEY UPDATE;
    IF s.state <> 'ready' OR s.wake_seq <> p_wake_seq THEN
        RETURN;
    END IF;
    IF r.state = 'queued' THEN
        PERFORM run_transition(r.id, 'start');
    END IF;
    UPDATE step SET event = 'claim', version = version + 1, reason = NULL
    WHERE tenant_id = v_tenant AND id = p_step RETURNING * INTO s;
    INSERT INTO step_lease (tenant_id, step_id, fence, owner, lease_until)
    VALUES (v_tenant, p_step, s.fence, p_owner, clock_timestamp() + p_ttl);
    INSERT INTO attempt (tenant_id, step_id, fence, owner, owner_pid, trace_id, span_id)
    VALUES (v_tenant, p_step, s.fence, p_owner, p_pid, p_trace, p_span);
    RETURN QUERY SELECT s.run_id, s.name, s.tool, s.spec, s.fence, s.attempt, s.max_attempts, s.lost_leases,
        s.ready_at, clock_timestamp(), r.traceparent, r.plan_digest,
        (SELECT g.input_digest FROM gate g WHERE g.tenant_id = v_tenant AND g.step_id = p_step AND g.state = 'waived'
            AND g.round = (SELECT max(l.round) FROM gate l WHERE l.tenant_id = v_tenant AND l.step_id = p_step));
END
$$;

-- The caller's step, locked, if its fence and its lease still hold; else NX004.
CREATE FUNCTION nofx.hold_lease(p_step uuid, p_fence bigint) RETURNS nofx.step
    LANGUAGE plpgsql SET search_path = nofx, pg_temp
AS $$
DECLARE
    s nofx.step := lock_step(p_step);
BEGIN
    IF s.state <> 'running' OR s.fence <> p_fence OR NOT EXISTS (
        SELECT FROM step_lease l WHERE l.tenant_id = s.tenant_id AND l.step_id = s.id
            AND l.fence = p_fence AND l.lease_until > clock_timestamp()) THEN
        RAISE EXCEPTION 'step %: fence % is lost', p_step, p_fence USING
            ERRCODE = 'NX004', DETAIL = jsonb_build_object('fence', p_fence, 'current', s.fence);
    END IF;
    RETURN s;
END
$$;

-- One checkpoint row with its parents and its event.
CREATE FUNCTION nofx.insert_checkpoint(s nofx.step, c jsonb) RETURNS void
    LANGUAGE plpgsql SET search_path = nofx, pg_temp
AS $$
DECLARE
    v_id uuid := (c->>'id')::uuid;
    v_seq bigint;
BEGIN
    v_seq := append_event(s.tenant_id, s.run_id, s.id, 'checkpoint.created', s.fence, jsonb_build_object(
        'checkpoint_id', v_id, 'kind', c->>'kind', 'step', s.name, 'digest', c->>'digest', 'bytes_new', (c->>'bytes_new')::bigint));
    INSERT INTO checkpoint (tenant_id, id, run_id, seq, kind, step_id, fence, generation, digest, manifest, state_digest, state_inline, tree_digest, bytes_new)
    VALUES (s.tenant_id, v_id, s.run_id, v_seq, c->>'kind', s.id, s.fence, (c->>'generation')::int, c->>'digest', decode(c->>'manifest', 'base64'),
        c->>'state_digest', decode(c->>'state_inline', 'base64'), c->>'tree_digest', (c->>'bytes_new')::bigint);
    INSERT INTO checkpoint_parent (tenant_id, checkpoint_id, ord, parent_id)
    SELECT s.tenant_id, v_id, p.ord, p.id::uuid FROM jsonb_array_elements_text(c->'parents') WITH ORDINALITY AS p (id, ord);
    IF c->>'kind' IN ('post', 'wait') THEN
        UPDATE run SET head_checkpoint_id = v_id WHERE tenant_id = s.tenant_id AND id = s.run_id;
        UPDATE step SET head_checkpoint_id = v_id WHERE tenant_id = s.tenant_id AND id = s.id;
    END IF;
END
$$;

CREATE FUNCTION nofx.record_checkpoint(p_step uuid, p_fence bigint, p_checkpoint jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
BEGIN
    PERFORM insert_checkpoint(hold_lease(p_step, p_fence), p_checkpoint);
END
$$;

CREATE FUNCTION nofx.record_log_chunk(p_step uuid, p_fence bigint, p_n int, p_start bigint, p_bytes bigint, p_lines int, p_key text, p_sha256 bytea) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    s nofx.step := hold_lease(p_step, p_fence);
BEGIN
    INSERT INTO log_chunk (tenant_id, step_id, fence, n, start, bytes, lines, key, sha256)
    VALUES (s.tenant_id, s.id, p_fence, p_n, p_start, p_bytes, p_lines, p_key, p_sha256);
    PERFORM append_event(s.tenant_id, s.run_id, s.id, 'step.log', p_fence, jsonb_build_object(
        'step', s.name, 'fence', p_fence, 'n', p_n, 'offset', p_start, 'bytes', p_bytes, 'lines', p_lines));
END
$$;

-- Opens the next round of a step's gate and, for a gate that has its verdict
-- already, gives it.
CREATE FUNCTION nofx.open_gate(s nofx.step, g jsonb, p_expires timestamptz) RETURNS void
    LANGUAGE plpgsql SET search_path = nofx, pg_temp
AS $$
BEGIN
    INSERT INTO gate (tenant_id, id, run_id, step_id, round, name, kind, message, input_digest, shown_checkpoint_id, shown_digest, evidence, expires_at, trace_id)
    VALUES (s.tenant_id, (g->>'id')::uuid, s.run_id, s.id,
        1 + coalesce((SELECT max(o.round) FROM gate o WHERE o.tenant_id = s.tenant_id AND o.step_id = s.id), 0),
        g->>'name', g->>'kind', g->>'message', g->>'input_digest', (g->>'shown_checkpoint_id')::uuid, g->>'shown_digest',
        g->'evidence', p_expires, repeat('0', 32));
    IF g ? 'event' THEN
        PERFORM gate_transition((g->>'id')::uuid, g->>'event', g->>'reason', NULL, s.fence);
    END IF;
END
$$;

-- Records what one attempt came to. p is {step_id, fence, outcome, reason,
-- failure_class, delay_s, exit_code, usage, outputs, checkpoints, artifacts,
-- gate, wait}. Answers ok; fenced when the lease is lost, and then nothing was
-- written; stale when this very attempt had ended like this before.
CREATE FUNCTION nofx.finish_step(p jsonb) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    s nofx.step;
    v_fence bigint := (p->>'fence')::bigint;
    v_until timestamptz;
BEGIN
    BEGIN
        s := hold_lease((p->>'step_id')::uuid, v_fence);
    EXCEPTION WHEN SQLSTATE 'NX004' THEN
        RETURN CASE WHEN EXISTS (
            SELECT FROM attempt a WHERE a.tenant_id = tenant() AND a.step_id = (p->>'step_id')::uuid
                AND a.fence = v_fence AND a.outcome = p->>'outcome') THEN 'stale' ELSE 'fenced' END;
    END;
    PERFORM insert_checkpoint(s, c) FROM jsonb_array_elements(p->'checkpoints') AS x (c);
    INSERT INTO artifact (tenant_id, id, run_id, step_id, fence, name, key, media_type, size_bytes, sha256)
    SELECT s.tenant_id, (a->>'id')::uuid, s.run_id, s.id, v_fence, a->>'name', a->>'key', a->>'media_type', (a->>'size_bytes')::bigint, decode(a->>'sha256', 'hex')
    FROM jsonb_array_elements(p->'artifacts') AS x (a);
    PERFORM append_event(s.tenant_id, s.run_id, s.id, 'artifact.created', v_fence, jsonb_build_object(
        'artifact_id', a->>'id', 'name', a->>'name', 'sha256', a->>'sha256', 'bytes', (a->>'size_bytes')::bigint))
    FROM jsonb_array_elements(p->'artifacts') AS x (a);
    IF p ? 'wait' THEN
        v_until := clock_timestamp() + make_interval(secs => (p->'wait'->>'after_s')::float8);
        INSERT INTO wait (tenant_id, step_id, round, kind, wait_until, quorum, shown_digest)
        VALUES (s.tenant_id, s.id, 1 + coalesce((SELECT max(w.round) FROM wait w WHERE w.tenant_id = s.tenant_id AND w.step_id = s.id), 0),
            p->'wait'->>'kind', v_until, (p->'wait'->>'quorum')::int, p->'gate'->>'shown_digest');
    END IF;
    IF p ? 'gate' THEN
        PERFORM open_gate(s, p->'gate', v_until);
    END IF;
    UPDATE attempt SET exit_code = (p->>'exit_code')::int, usage = coalesce(p->'usage', '{}')
    WHERE tenant_id = s.tenant_id AND step_id = s.id AND fence = v_fence;
    UPDATE step SET event = p->>'outcome', version = version + 1,
        reason = p->>'reason', failure_class = p->>'failure_class',
        outputs = coalesce(p->'outputs', outputs),
        wait_until = v_until,
        ready_at = CASE WHEN p->>'outcome' = 'retry' THEN clock_timestamp() + make_interval(secs => (p->>'delay_s')::float8) ELSE ready_at END
    WHERE tenant_id = s.tenant_id AND id = s.id;
    IF p->>'outcome' = 'succeed' THEN
        PERFORM ready_successors(s.tenant_id, s.id);
    END IF;
    PERFORM settle_run(s.tenant_id, s.run_id);
    RETURN 'ok';
END
$$;

-- Ends a live run and everything of it that has not ended: by a request, or
-- because its deadline passed.
CREATE FUNCTION nofx.end_run(p_run uuid, p_event text, p_reason text, p_version bigint, p_class text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    r nofx.run := lock_run(p_run);
    s uuid;
BEGIN
    PERFORM check_version(p_version, r.version, r.state);
    PERFORM edge('run', r.id, r.state, p_event, p_reason);
    PERFORM id FROM step WHERE tenant_id = r.tenant_id AND run_id = r.id ORDER BY id FOR NO KEY UPDATE;
    PERFORM withdraw_gates(r.tenant_id, r.id, p_reason);
    UPDATE step SET event = 'cancel', version = version + 1, reason = p_reason, failure_class = 'cancelled'
    WHERE tenant_id = r.tenant_id AND run_id = r.id AND state IN ('pending', 'ready', 'running', 'waiting', 'retrying');
    PERFORM run_transition(p_run, p_event, p_reason, NULL, p_class);
END
$$;

-- A person's decision on a gate, and what follows from it, in one transaction.
CREATE FUNCTION nofx.decide_gate(p_gate uuid, p_event text, p_reason text, p_version bigint) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    g nofx.gate := lock_gate(p_gate);
    v_actor text := current_setting('nofx.actor', true);
    v_was text := g.state;
BEGIN
    PERFORM check_version(p_version, g.version, g.state);
    IF (g.kind <> 'manual' AND p_event <> 'waive') OR (g.state = 'pending' AND g.expires_at <= clock_timestamp()) THEN
        RAISE EXCEPTION 'gate % is %: % is not possible', p_gate, g.state, p_event USING
            ERRCODE = 'NX001',
            DETAIL = jsonb_build_object('machine', 'gate', 'id', p_gate, 'event', p_event, 'allowed',
                CASE WHEN g.state IN ('passed', 'waived') OR g.state = 'pending' THEN '[]' ELSE '["waive"]' END::jsonb,
                'from', CASE WHEN g.expires_at <= clock_timestamp() AND g.state = 'pending' THEN 'expired' ELSE g.state END);
    END IF;
    IF p_event = 'approve' AND EXISTS (
        SELECT FROM run r JOIN tenant t ON t.tenant_id = r.tenant_id
        WHERE r.tenant_id = g.tenant_id AND r.id = g.run_id AND r.created_by = v_actor
            AND (t.settings->>'four_eyes')::boolean) THEN
        RAISE EXCEPTION 'the author of a run may not approve it' USING ERRCODE = 'NX009';
    END IF;
    PERFORM gate_transition(p_gate, p_event, p_reason);
    INSERT INTO approval (tenant_id, gate_id, subject, decision, reason)
    VALUES (g.tenant_id, g.id, v_actor, p_event, p_reason)
    ON CONFLICT (tenant_id, gate_id, subject) DO UPDATE SET decision = excluded.decision, reason = excluded.reason, at = clock_timestamp();
    IF v_was = 'pending' THEN
        PERFORM step_transition(g.step_id, p_event, p_reason, NULL, CASE WHEN p_event = 'reject' THEN 'gate_rejected' END);
        IF p_event <> 'reject' THEN
            PERFORM ready_successors(g.tenant_id, g.step_id);
        END IF;
        PERFORM settle_run(g.tenant_id, g.run_id);
    ELSE
        PERFORM resume_after_waiver(g.tenant_id, g.run_id, p_reason);
    END IF;
END
$$;

-- After the last of a failed run's gates was waived: the run goes on. While
-- another step of it has failed too, the waiver stays on record and nothing
-- moves.
CREATE FUNCTION nofx.resume_after_waiver(p_tenant uuid, p_run uuid, p_reason text) RETURNS void
    LANGUAGE plpgsql SET search_path = nofx, pg_temp
AS $$
DECLARE
    r nofx.run;
    v_step uuid;
BEGIN
    SELECT * INTO r FROM run WHERE tenant_id = p_tenant AND id = p_run;
    IF r.state <> 'failed' OR EXISTS (
        SELECT FROM step s WHERE s.tenant_id = p_tenant AND s.run_id = p_run AND s.state = 'failed'
            AND NOT EXISTS (SELECT FROM gate w WHERE w.tenant_id = p_tenant AND w.step_id = s.id AND w.state = 'waived'
                AND w.round = (SELECT max(l.round) FROM gate l WHERE l.tenant_id = p_tenant AND l.step_id = s.id))) THEN
        RETURN;
    END IF;
    PERFORM run_transition(p_run, 'retry', p_reason);
    UPDATE step SET event = 'retry', version = version + 1, reason = p_reason
    WHERE tenant_id = p_tenant AND run_id = p_run AND state = 'failed';
    UPDATE step SET event = 'reopen', version = version + 1, reason = p_reason
    WHERE tenant_id = p_tenant AND run_id = p_run AND state IN ('skipped', 'cancelled');
    FOR v_step IN
        SELECT s.id FROM step s WHERE s.tenant_id = p_tenant AND s.run_id = p_run AND s.state = 'pending' AND s.deps_left = 0 ORDER BY s.idx
    LOOP
        PERFORM step_transition(v_step, 'deps_met');
    END LOOP;
END
$$;

GRANT EXECUTE ON FUNCTION
    nofx.create_run(jsonb, jsonb),
    nofx.claim_step(uuid, bigint, text, int, interval, char, char),
    nofx.record_checkpoint(uuid, bigint, jsonb),
    nofx.record_log_chunk(uuid, bigint, int, bigint, bigint, int, text, bytea),
    nofx.finish_step(jsonb),
    nofx.end_run(uuid, text, text, bigint, text),
    nofx.decide_gate(uuid, text, text, bigint)
TO nofx_app;

RESET ROLE;
