-- Execution: create, claim, finish, settle, cancel, decide. Every function that
-- is granted to nofx_app works in the tenant of its transaction. The run's lock,
-- which comes first, keeps all that change its steps apart, so sets of steps
-- are updated in any order below it.
SET LOCAL ROLE nofx_system;

-- Readies the pending steps of a run that wait for nothing. The caller holds
-- the run's lock.
CREATE FUNCTION nofx.ready_steps(p_tenant uuid, p_run uuid) RETURNS void
    LANGUAGE plpgsql SET search_path = nofx, pg_temp -- not sql: that plans anew at every call
AS $$
BEGIN
    UPDATE step s SET event = 'deps_met', version = s.version + 1, reason = NULL
    FROM (SELECT id FROM step WHERE tenant_id = p_tenant AND run_id = p_run AND state = 'pending' AND deps_left = 0 ORDER BY idx) AS o
    WHERE s.tenant_id = p_tenant AND s.id = o.id;
END
$$;

-- Counts a succeeded step off its successors and readies those that wait for
-- nothing more. The caller holds the run's lock.
CREATE FUNCTION nofx.ready_successors(p_tenant uuid, p_step uuid) RETURNS void
    LANGUAGE plpgsql SET search_path = nofx, pg_temp
AS $$
BEGIN
    UPDATE step s SET deps_left = s.deps_left - 1
    FROM step_dep d
    WHERE d.tenant_id = p_tenant AND d.needs = p_step AND s.tenant_id = p_tenant AND s.id = d.step_id;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    UPDATE step s SET event = 'deps_met', version = s.version + 1, reason = NULL
    FROM (SELECT n.id FROM step_dep d JOIN step n ON n.tenant_id = p_tenant AND n.id = d.step_id
          WHERE d.tenant_id = p_tenant AND d.needs = p_step AND n.state = 'pending' AND n.deps_left = 0 ORDER BY n.idx) AS o
    WHERE s.tenant_id = p_tenant AND s.id = o.id;
END
$$;

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
    v_ids uuid[];
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

    v_ids := ARRAY(SELECT id FROM step WHERE tenant_id = v_tenant AND run_id = v_run ORDER BY idx);
    INSERT INTO step_dep (tenant_id, run_id, needs, step_id)
    SELECT v_tenant, v_run, v_ids[n.i::int + 1], v_ids[e.ord]
    FROM jsonb_array_elements(p_steps) WITH ORDINALITY AS e (s, ord), jsonb_array_elements_text(e.s->'needs') AS n (i);

    PERFORM ready_steps(v_tenant, v_run);
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

-- The longest beginning of a text that fits into so many bytes.
CREATE FUNCTION nofx.clip(p_text text, p_bytes int) RETURNS text
    LANGUAGE plpgsql IMMUTABLE
AS $$
DECLARE
    v text := left(p_text, p_bytes);
BEGIN
    WHILE octet_length(v) > p_bytes LOOP
        v := left(v, -((octet_length(v) - p_bytes + 3) / 4)); -- a character has at most four bytes
    END LOOP;
    RETURN v;
END
$$;

-- Brings the run's state in line with its steps. The caller holds its lock. A
-- step that failed for good ends whatever has not begun; siblings that run may
-- end, and the last of them settles the run. The counters make this cost one
-- row, however many steps there are.
CREATE FUNCTION nofx.settle_run(p_tenant uuid, p_run uuid) RETURNS void
    LANGUAGE plpgsql SET search_path = nofx, pg_temp
AS $$
DECLARE
    r record;
    f record;
BEGIN
    SELECT state, pending_steps, running_steps, failed_steps, waiting_steps, ready_steps + retrying_steps AS due_steps
    INTO r FROM run WHERE tenant_id = p_tenant AND id = p_run;
    IF r.state IN ('succeeded', 'failed', 'cancelled') THEN
        RETURN;
    END IF;
    IF r.failed_steps > 0 THEN
        IF r.waiting_steps > 0 THEN
            PERFORM withdraw_gates(p_tenant, p_run, 'run_failed');
        END IF;
        IF r.pending_steps > 0 THEN
            WITH RECURSIVE downstream (id) AS (
                SELECT s.id FROM step s WHERE s.tenant_id = p_tenant AND s.run_id = p_run AND s.state = 'failed'
                UNION
                SELECT d.step_id FROM step_dep d JOIN downstream u ON d.tenant_id = p_tenant AND d.needs = u.id
            )
            UPDATE step s SET event = 'skip', version = s.version + 1,
                reason = CASE WHEN s.id IN (SELECT u.id FROM downstream u) THEN 'upstream_failed' ELSE 'run_failed' END
            WHERE s.tenant_id = p_tenant AND s.run_id = p_run AND s.state = 'pending';
        END IF;
        IF r.due_steps + r.waiting_steps > 0 THEN
            UPDATE step s SET event = 'cancel', version = s.version + 1, reason = 'run_failed', failure_class = 'cancelled'
            WHERE s.tenant_id = p_tenant AND s.run_id = p_run AND s.state IN ('ready', 'retrying', 'waiting');
        END IF;
        IF r.running_steps = 0 THEN
            SELECT s.name, s.reason, s.failure_class INTO f FROM step s
            WHERE s.tenant_id = p_tenant AND s.run_id = p_run AND s.state = 'failed'
            ORDER BY s.finished_at, s.idx LIMIT 1;
            PERFORM run_transition(p_run, 'fail', clip(format('step %s: %s', f.name, f.reason), 2048), NULL, f.failure_class);
        END IF;
    ELSIF r.pending_steps + r.due_steps + r.running_steps + r.waiting_steps = 0 THEN
        PERFORM run_transition(p_run, 'succeed');
    ELSIF r.due_steps + r.running_steps = 0 AND r.state = 'running' THEN
        PERFORM run_transition(p_run, 'wait');
    ELSIF r.due_steps + r.running_steps > 0 AND r.state = 'waiting' THEN
        PERFORM run_transition(p_run, 'wake');
    END IF;
END
$$;

-- Takes a ready step for a worker: fence + 1, a lease, an attempt row. No row
-- comes back when the wake-up is stale or the run takes no claims.
CREATE FUNCTION nofx.claim_step(p_step uuid, p_wake_seq bigint, p_owner text, p_pid int, p_ttl interval, p_trace char(32), p_span char(16))
    RETURNS TABLE (run_id uuid, name text, tool text, spec jsonb, fence bigint, attempt int, max_attempts int, lost_leases int,
        ready_at timestamptz, claimed_at timestamptz, lost_at timestamptz, traceparent text, plan_digest text, waived_digest text)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    v_tenant uuid := tenant();
    r record;
BEGIN
    SELECT x.id, x.state, x.traceparent, x.plan_digest INTO r FROM run x WHERE x.tenant_id = v_tenant
        AND x.id = (SELECT y.run_id FROM step y WHERE y.tenant_id = v_tenant AND y.id = p_step) FOR NO KEY UPDATE;
    IF NOT FOUND OR r.state NOT IN ('queued', 'running', 'waiting') THEN
        RETURN;
    END IF;
    PERFORM FROM step WHERE tenant_id = v_tenant AND id = p_step AND state = 'ready' AND wake_seq = p_wake_seq FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF r.state = 'queued' THEN
        PERFORM run_transition(r.id, 'start');
    END IF;
    PERFORM set_config('nofx.claim', jsonb_build_object('owner', p_owner, 'pid', p_pid, 'ttl', p_ttl, 'trace_id', p_trace, 'span_id', p_span)::text, true);
    RETURN QUERY
        UPDATE step s SET event = 'claim', version = s.version + 1, reason = NULL
        WHERE s.tenant_id = v_tenant AND s.id = p_step
        RETURNING s.run_id, s.name, s.tool, s.spec, s.fence, s.attempt, s.max_attempts, s.lost_leases,
            s.ready_at, clock_timestamp(),
            -- When the lease before ran out; the sweep took the fence between.
            (SELECT a.ended_at FROM attempt a WHERE s.lost_leases > 0 AND a.tenant_id = v_tenant AND a.step_id = p_step
                AND a.fence = s.fence - 2 AND a.outcome = 'lease_expired'),
            r.traceparent, r.plan_digest,
            (SELECT g.input_digest FROM gate g WHERE g.tenant_id = v_tenant AND g.step_id = p_step AND g.state = 'waived'
                AND g.round = (SELECT max(l.round) FROM gate l WHERE l.tenant_id = v_tenant AND l.step_id = p_step));
    PERFORM set_config('nofx.claim', '', true);
END
$$;

-- The caller's step, locked, while its fence and its lease hold; else NULL.
CREATE FUNCTION nofx.held_step(p_step uuid, p_fence bigint) RETURNS nofx.locked_step
    LANGUAGE plpgsql SET search_path = nofx, pg_temp
AS $$
DECLARE
    s nofx.locked_step := lock_step(p_step);
BEGIN
    IF s.state = 'running' AND s.fence = p_fence AND EXISTS (
        SELECT FROM step_lease l WHERE l.tenant_id = s.tenant_id AND l.step_id = s.id
            AND l.fence = p_fence AND l.lease_until > clock_timestamp()) THEN
        RETURN s;
    END IF;
    RETURN NULL;
END
$$;

-- The same, but NX004 when they do not hold.
CREATE FUNCTION nofx.hold_step(p_step uuid, p_fence bigint) RETURNS nofx.locked_step
    LANGUAGE plpgsql SET search_path = nofx, pg_temp
AS $$
DECLARE
    s nofx.locked_step := held_step(p_step, p_fence);
BEGIN
    IF s.id IS NULL THEN
        RAISE EXCEPTION 'step %: fence % is lost', p_step, p_fence USING
            ERRCODE = 'NX004', DETAIL = (SELECT jsonb_build_object('fence', p_fence, 'current', x.fence)
                FROM step x WHERE x.tenant_id = tenant() AND x.id = p_step);
    END IF;
    RETURN s;
END
$$;

-- One checkpoint row with its parents and its event; that of a finish becomes
-- the run's head.
CREATE FUNCTION nofx.insert_checkpoint(s nofx.locked_step, c jsonb) RETURNS void
    LANGUAGE plpgsql SET search_path = nofx, pg_temp
AS $$
DECLARE
    v_id uuid := (c->>'id')::uuid;
    v_seq bigint;
    v_trace char(32);
BEGIN
    -- The caller holds the run's lock, so its next seq can be read before it is taken.
    SELECT r.event_seq + 1, r.trace_id INTO v_seq, v_trace FROM run r WHERE r.tenant_id = s.tenant_id AND r.id = s.run_id;
    INSERT INTO checkpoint (tenant_id, id, run_id, seq, kind, step_id, fence, generation, digest, manifest, state_digest, state_inline, tree_digest, bytes_new)
    VALUES (s.tenant_id, v_id, s.run_id, v_seq, c->>'kind', s.id, s.fence, (c->>'generation')::int, c->>'digest', decode(c->>'manifest', 'base64'),
        c->>'state_digest', decode(c->>'state_inline', 'base64'), c->>'tree_digest', (c->>'bytes_new')::bigint);
    INSERT INTO checkpoint_parent (tenant_id, checkpoint_id, ord, parent_id)
    SELECT s.tenant_id, v_id, p.ord, p.id::uuid FROM jsonb_array_elements_text(c->'parents') WITH ORDINALITY AS p (id, ord);
    UPDATE run r SET event_seq = v_seq,
        head_checkpoint_id = CASE WHEN c->>'kind' IN ('post', 'wait') THEN v_id ELSE r.head_checkpoint_id END
    WHERE r.tenant_id = s.tenant_id AND r.id = s.run_id;
    PERFORM write_event(s.tenant_id, s.run_id, v_seq, s.id, 'checkpoint.created', NULL, NULL, NULL, NULL, v_trace, s.fence, jsonb_build_object(
        'checkpoint_id', public_id('ckpt', v_id), 'kind', c->>'kind', 'step', s.name, 'digest', c->>'digest', 'bytes_new', (c->>'bytes_new')::bigint));
END
$$;

-- Records a checkpoint of a running attempt. Kinds post and wait come with the
-- finish alone: they are what successors start from.
CREATE FUNCTION nofx.record_checkpoint(p_step uuid, p_fence bigint, p_checkpoint jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
BEGIN
    IF p_checkpoint->>'kind' IN ('post', 'wait') THEN
        RAISE EXCEPTION 'a % checkpoint comes with the finish', p_checkpoint->>'kind' USING ERRCODE = 'NX006';
    END IF;
    PERFORM insert_checkpoint(hold_step(p_step, p_fence), p_checkpoint);
END
$$;

CREATE FUNCTION nofx.record_log_chunk(p_step uuid, p_fence bigint, p_n int, p_start bigint, p_bytes bigint, p_lines int, p_key text, p_sha256 bytea) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    s nofx.locked_step := hold_step(p_step, p_fence);
BEGIN
    INSERT INTO log_chunk (tenant_id, step_id, fence, n, start, bytes, lines, key, sha256)
    VALUES (s.tenant_id, s.id, p_fence, p_n, p_start, p_bytes, p_lines, p_key, p_sha256);
    PERFORM append_event(s.tenant_id, s.run_id, s.id, 'step.log', p_fence, jsonb_build_object(
        'step', s.name, 'fence', p_fence, 'n', p_n, 'offset', p_start, 'bytes', p_bytes, 'lines', p_lines));
END
$$;

-- Opens the next round of a step's gate and, for a gate that has its verdict
-- already, gives it.
CREATE FUNCTION nofx.open_gate(s nofx.locked_step, g jsonb, p_expires timestamptz) RETURNS void
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
-- written; stale when this very attempt had ended like this before. run_state is
-- the run's when this ended it, run_seconds how long after its creation.
CREATE FUNCTION nofx.finish_step(p jsonb, OUT answer text, OUT run_state text, OUT run_seconds float8)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    v_step uuid := (p->>'step_id')::uuid;
    v_fence bigint := (p->>'fence')::bigint;
    v_outcome text := p->>'outcome';
    s nofx.locked_step := held_step(v_step, v_fence);
    v_until timestamptz;
    v_head uuid;
BEGIN
    IF s.id IS NULL THEN
        answer := CASE WHEN EXISTS (
            SELECT FROM attempt a WHERE a.tenant_id = tenant() AND a.step_id = v_step
                AND a.fence = v_fence AND a.outcome = v_outcome) THEN 'stale' ELSE 'fenced' END;
        RETURN;
    END IF;
    IF v_outcome NOT IN ('succeed', 'fail', 'retry', 'wait', 'interrupted') THEN
        RAISE EXCEPTION 'an attempt does not end by %', v_outcome USING ERRCODE = 'NX006';
    END IF;
    PERFORM insert_checkpoint(s, c) FROM jsonb_array_elements(p->'checkpoints') AS x (c);
    INSERT INTO artifact (tenant_id, id, run_id, step_id, fence, name, key, media_type, size_bytes, sha256)
    SELECT s.tenant_id, (a->>'id')::uuid, s.run_id, s.id, v_fence, a->>'name', a->>'key', a->>'media_type', (a->>'size_bytes')::bigint, decode(a->>'sha256', 'hex')
    FROM jsonb_array_elements(p->'artifacts') AS x (a);
    PERFORM append_event(s.tenant_id, s.run_id, s.id, 'artifact.created', v_fence, jsonb_build_object(
        'artifact_id', public_id('art', (a->>'id')::uuid), 'name', a->>'name', 'sha256', a->>'sha256', 'bytes', (a->>'size_bytes')::bigint))
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
    SELECT (c->>'id')::uuid INTO v_head FROM jsonb_array_elements(p->'checkpoints') WITH ORDINALITY AS x (c, ord)
    WHERE c->>'kind' IN ('post', 'wait') ORDER BY ord DESC LIMIT 1;
    UPDATE step SET event = v_outcome, version = version + 1,
        reason = p->>'reason', failure_class = p->>'failure_class',
        outputs = coalesce(p->'outputs', outputs),
        head_checkpoint_id = coalesce(v_head, head_checkpoint_id),
        wait_until = v_until,
        ready_at = CASE WHEN v_outcome = 'retry' THEN clock_timestamp() + make_interval(secs => (p->>'delay_s')::float8) ELSE ready_at END
    WHERE tenant_id = s.tenant_id AND id = s.id;
    IF v_outcome = 'succeed' THEN
        PERFORM ready_successors(s.tenant_id, s.id);
    END IF;
    PERFORM settle_run(s.tenant_id, s.run_id);
    answer := 'ok';
    SELECT r.state, extract(epoch FROM r.finished_at - r.created_at) INTO run_state, run_seconds
    FROM run r WHERE r.tenant_id = s.tenant_id AND r.id = s.run_id AND r.finished_at IS NOT NULL;
END
$$;

-- Ends a live run and everything of it that has not ended: by a request, or
-- because its deadline passed.
CREATE FUNCTION nofx.end_run(p_run uuid, p_event text, p_reason text, p_version bigint, p_class text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    r nofx.locked_run := lock_run(p_run);
BEGIN
    PERFORM check_version(p_version, r.version, r.state);
    PERFORM edge('run', r.id, r.state, p_event, p_reason);
    -- Several leases at once, so in the order in which a heartbeat takes them.
    PERFORM FROM step_lease l
    WHERE l.tenant_id = r.tenant_id AND l.step_id IN (SELECT s.id FROM step s WHERE s.tenant_id = r.tenant_id AND s.run_id = r.id AND s.state = 'running')
    ORDER BY l.step_id FOR UPDATE;
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
    g nofx.locked_gate := lock_gate(p_gate);
    v_actor text := nullif(current_setting('nofx.actor', true), '');
BEGIN
    PERFORM check_version(p_version, g.version, g.state);
    IF p_event NOT IN ('approve', 'reject', 'waive') OR (g.state = 'pending' AND g.expires_at <= clock_timestamp()) THEN
        RAISE EXCEPTION 'gate % is %: % is not possible', p_gate, g.state, p_event USING
            ERRCODE = 'NX001',
            DETAIL = jsonb_build_object('machine', 'gate', 'id', p_gate, 'event', p_event, 'allowed', '[]'::jsonb,
                'from', CASE WHEN g.state = 'pending' AND g.expires_at <= clock_timestamp() THEN 'expired' ELSE g.state END);
    END IF;
    IF p_event <> 'reject' AND EXISTS (
        SELECT FROM run r JOIN tenant t ON t.tenant_id = r.tenant_id
        WHERE r.tenant_id = g.tenant_id AND r.id = g.run_id AND r.created_by = v_actor
            AND (t.settings->>'four_eyes')::boolean) THEN
        RAISE EXCEPTION 'the author of a run may not let it pass' USING ERRCODE = 'NX009';
    END IF;
    PERFORM gate_transition(p_gate, p_event, p_reason);
    INSERT INTO approval (tenant_id, gate_id, subject, decision, reason)
    VALUES (g.tenant_id, g.id, v_actor, p_event, p_reason)
    ON CONFLICT (tenant_id, gate_id, subject) DO UPDATE SET decision = excluded.decision, reason = excluded.reason, at = clock_timestamp();
    IF g.state = 'pending' THEN
        UPDATE step SET outputs = jsonb_strip_nulls(jsonb_build_object('decision', p_event, 'by', v_actor, 'reason', p_reason))
        WHERE tenant_id = g.tenant_id AND id = g.step_id;
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

-- After the last of a run's failed gates was waived the run goes on, whether it
-- has failed already or siblings are still running. While another step of it
-- has failed too, the waiver stays on record and nothing moves.
CREATE FUNCTION nofx.resume_after_waiver(p_tenant uuid, p_run uuid, p_reason text) RETURNS void
    LANGUAGE plpgsql SET search_path = nofx, pg_temp
AS $$
DECLARE
    v_state text;
BEGIN
    SELECT state INTO v_state FROM run WHERE tenant_id = p_tenant AND id = p_run AND failed_steps > 0;
    IF NOT FOUND OR v_state = 'cancelled' OR EXISTS (
        SELECT FROM step s WHERE s.tenant_id = p_tenant AND s.run_id = p_run AND s.state = 'failed'
            AND NOT EXISTS (SELECT FROM gate w WHERE w.tenant_id = p_tenant AND w.step_id = s.id AND w.state = 'waived'
                AND w.round = (SELECT max(l.round) FROM gate l WHERE l.tenant_id = p_tenant AND l.step_id = s.id))) THEN
        RETURN;
    END IF;
    IF v_state = 'failed' THEN
        PERFORM run_transition(p_run, 'retry', p_reason);
    END IF;
    UPDATE step SET event = 'retry', version = version + 1, reason = p_reason
    WHERE tenant_id = p_tenant AND run_id = p_run AND state = 'failed';
    UPDATE step SET event = 'reopen', version = version + 1, reason = p_reason
    WHERE tenant_id = p_tenant AND run_id = p_run AND state IN ('skipped', 'cancelled');
    PERFORM ready_steps(p_tenant, p_run);
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
