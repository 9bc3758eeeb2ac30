-- Execution: create, claim, finish, settle, end. Every function that
-- is granted to nofx_app works in the tenant of its transaction. The run's lock,
-- which comes first, keeps all that change its steps apart, so sets of steps
-- are updated in any order below it.
SET LOCAL ROLE nofx_system;

-- Readies the pending steps of a run that wait for nothing. The caller holds
-- the run's lock.
CREATE FUNCTION nofx.ready_steps(p_tenant uuid, p_run uuid) RETURNS void
    LANGUAGE plpgsql
AS $$
BEGIN
    UPDATE step s SET event = 'deps_met', version = s.version + 1, reason = NULL
    FROM (SELECT id FROM step WHERE tenant_id = p_tenant AND run_id = p_run AND state = 'pending' AND deps_left = 0 ORDER BY idx) AS o
    WHERE s.tenant_id = p_tenant AND s.id = o.id;
END
$$;

-- Counts a succeeded step off its successors, readies those that wait for
-- nothing more and says which. The caller holds the run's lock.
CREATE FUNCTION nofx.ready_successors(p_tenant uuid, p_step uuid) RETURNS uuid[]
    LANGUAGE plpgsql
AS $$
DECLARE
    v_ready uuid[];
BEGIN
    WITH readied AS (
        UPDATE step s SET deps_left = 0, event = 'deps_met', version = s.version + 1, reason = NULL
        FROM (SELECT n.id FROM step_dep d JOIN step n ON n.tenant_id = p_tenant AND n.id = d.step_id
              WHERE d.tenant_id = p_tenant AND d.needs = p_step AND n.state = 'pending' AND n.deps_left = 1 ORDER BY n.idx) AS o
        WHERE s.tenant_id = p_tenant AND s.id = o.id RETURNING s.id, s.idx
    ) SELECT array_agg(id ORDER BY idx) INTO v_ready FROM readied;
    UPDATE step s SET deps_left = s.deps_left - 1
    FROM step_dep d
    WHERE d.tenant_id = p_tenant AND d.needs = p_step AND s.tenant_id = p_tenant AND s.id = d.step_id AND s.deps_left > 0;
    RETURN v_ready;
END
$$;

-- Inserts a run with its steps; those without dependencies are ready at once.
-- p_steps is an array of {id, name, tool, queue, spec, max_attempts, needs: [idx]}
-- in plan order, dependencies given by index. ready_at is when those steps that
-- depend on nothing became ready, in plan order.
CREATE FUNCTION nofx.create_run(p_run jsonb, p_steps jsonb, OUT created_at timestamptz, OUT deadline timestamptz, OUT ready_at timestamptz[])
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
        clock_timestamp() + make_interval(secs => (p_run->>'deadline_s')::float8))
    RETURNING run.created_at, run.deadline INTO created_at, deadline;

    INSERT INTO step (tenant_id, id, run_id, idx, name, tool, queue, spec, max_attempts, deps_left)
    SELECT v_tenant, (s->>'id')::uuid, v_run, (ord - 1)::int, s->>'name', s->>'tool', s->>'queue', s->'spec',
           (s->>'max_attempts')::int, jsonb_array_length(s->'needs')
    FROM jsonb_array_elements(p_steps) WITH ORDINALITY AS e (s, ord);

    v_ids := ARRAY(SELECT (s->>'id')::uuid FROM jsonb_array_elements(p_steps) WITH ORDINALITY AS e (s, ord) ORDER BY ord);
    INSERT INTO step_dep (tenant_id, run_id, needs, step_id)
    SELECT v_tenant, v_run, v_ids[n.i::int + 1], v_ids[e.ord]
    FROM jsonb_array_elements(p_steps) WITH ORDINALITY AS e (s, ord), jsonb_array_elements_text(e.s->'needs') AS n (i);

    WITH readied AS (
        UPDATE step s SET event = 'deps_met', version = s.version + 1
        WHERE s.tenant_id = v_tenant AND s.run_id = v_run AND s.deps_left = 0 RETURNING s.idx, s.ready_at
    ) SELECT array_agg(x.ready_at ORDER BY x.idx) INTO ready_at FROM readied x;
END
$$;

CREATE FUNCTION nofx.withdraw_gates(p_tenant uuid, p_run uuid, p_reason text) RETURNS void
    LANGUAGE plpgsql
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

-- Ends whatever of a run has not begun, because a step of it failed for good:
-- siblings that run may end. The caller holds the run's lock.
CREATE FUNCTION nofx.stop_steps(p_tenant uuid, p_run uuid) RETURNS void
    LANGUAGE plpgsql
AS $$
BEGIN
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
END
$$;

-- Brings the run's state in line with its steps. The caller holds its lock.
-- p_failed says that a step has just failed for good, which stops the others;
-- a failure of before does not: what was retried beside it goes on. A run in
-- which nothing is alive any more ends. The counters make this cost one row,
-- however many steps there are.
CREATE FUNCTION nofx.settle_run(p_tenant uuid, p_run uuid, p_failed boolean) RETURNS void
    LANGUAGE plpgsql
AS $$
DECLARE
    r record;
    f record;
BEGIN
    IF p_failed THEN
        PERFORM stop_steps(p_tenant, p_run);
    END IF;
    SELECT state, failed_steps, pending_steps + waiting_steps AS idle_steps, ready_steps + retrying_steps + running_steps AS busy_steps
    INTO r FROM run WHERE tenant_id = p_tenant AND id = p_run;
    IF r.state IN ('succeeded', 'failed', 'cancelled') THEN
        RETURN;
    END IF;
    IF r.idle_steps + r.busy_steps = 0 THEN
        SELECT s.name, s.reason, s.failure_class INTO f FROM step s
        WHERE r.failed_steps > 0 AND s.tenant_id = p_tenant AND s.run_id = p_run AND s.state = 'failed'
        ORDER BY s.finished_at, s.idx LIMIT 1;
        IF NOT FOUND THEN -- one that was left out when others were retried
            SELECT s.name, s.state || ', and was not retried' AS reason, 'cancelled' AS failure_class INTO f FROM step s
            WHERE s.tenant_id = p_tenant AND s.run_id = p_run AND s.state IN ('skipped', 'cancelled')
            ORDER BY s.idx LIMIT 1;
        END IF;
        IF FOUND THEN
            PERFORM run_transition(p_run, 'fail', clip(format('step %s: %s', f.name, f.reason), 2048), NULL, f.failure_class);
        ELSE
            PERFORM run_transition(p_run, 'succeed');
        END IF;
    ELSIF r.busy_steps = 0 AND r.state = 'running' THEN
        PERFORM run_transition(p_run, 'wait');
    ELSIF r.busy_steps > 0 AND r.state = 'waiting' THEN
        PERFORM run_transition(p_run, 'wake');
    END IF;
END
$$;

-- A step as its claim hands it on; parents is how many steps it depends on.
CREATE TYPE nofx.claimed AS (step_id uuid, run_id uuid, name text, tool text, spec jsonb, fence bigint, attempt int, max_attempts int, lost_leases int,
    ready_at timestamptz, claimed_at timestamptz, lost_at timestamptz, traceparent text, plan_digest text, waived_digest text, parents int, signal jsonb);

-- Takes a ready step: fence + 1, a lease, an attempt row. The caller holds the
-- run's lock; p_claim is {owner, pid, ttl, trace_id, span_id}.
CREATE FUNCTION nofx.take_step(p_tenant uuid, p_step uuid, p_claim text) RETURNS nofx.claimed
    LANGUAGE plpgsql
AS $$
DECLARE
    c nofx.claimed;
BEGIN
    PERFORM set_config('nofx.claim', p_claim, true);
    UPDATE step s SET event = 'claim', version = s.version + 1, reason = NULL
    WHERE s.tenant_id = p_tenant AND s.id = p_step
    RETURNING s.id, s.run_id, s.name, s.tool, s.spec, s.fence, s.attempt, s.max_attempts, s.lost_leases, s.ready_at, clock_timestamp(),
        NULL::timestamptz, NULL::text, NULL::text, NULL::text,
        (SELECT count(*) FROM step_dep d WHERE d.tenant_id = p_tenant AND d.step_id = p_step)::int, NULL::jsonb
    INTO c;
    PERFORM set_config('nofx.claim', '', true);
    SELECT r.traceparent, r.plan_digest INTO c.traceparent, c.plan_digest FROM run r WHERE r.tenant_id = p_tenant AND r.id = c.run_id;
    IF c.lost_leases > 0 THEN
        -- When the lease before ran out; the sweep took the fence between.
        SELECT a.ended_at INTO c.lost_at FROM attempt a
        WHERE a.tenant_id = p_tenant AND a.step_id = p_step AND a.fence = c.fence - 2 AND a.outcome = 'lease_expired';
    END IF;
    IF c.fence > 1 THEN -- a gate was judged before
        SELECT g.input_digest INTO c.waived_digest FROM gate g
        WHERE g.tenant_id = p_tenant AND g.step_id = p_step AND g.state = 'waived'
            AND g.round = (SELECT max(l.round) FROM gate l WHERE l.tenant_id = p_tenant AND l.step_id = p_step);
    END IF;
    IF c.tool = 'signal' THEN
        SELECT i.payload INTO c.signal FROM inbox i WHERE i.tenant_id = p_tenant AND i.step_id = p_step ORDER BY i.id DESC LIMIT 1;
    END IF;
    RETURN c;
END
$$;

-- Takes ready steps for a worker. p is an array of {step_id, wake_seq, trace_id,
-- span_id, traceparent}; ord is the place in it. No row comes back for a wake-up
-- that is stale or whose run takes no claims.
CREATE FUNCTION nofx.claim_steps(p jsonb, p_owner text, p_pid int, p_ttl interval) RETURNS TABLE (ord int, claim nofx.claimed)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    v_tenant uuid := tenant();
    v_ids uuid[];
    x record;
    v_run record;
BEGIN
    v_ids := ARRAY(SELECT (e.i->>'step_id')::uuid FROM jsonb_array_elements(p) AS e (i));
    v_ids := ARRAY(SELECT s.run_id FROM step s WHERE s.tenant_id = v_tenant AND s.id = ANY (v_ids));
    PERFORM FROM run r WHERE r.tenant_id = v_tenant AND r.id = ANY (v_ids) ORDER BY r.id FOR NO KEY UPDATE;
    FOR x IN SELECT e.i, e.n::int - 1 AS n, (e.i->>'step_id')::uuid AS step_id FROM jsonb_array_elements(p) WITH ORDINALITY AS e (i, n) LOOP
        SELECT y.id, y.state INTO v_run FROM step s JOIN run y ON y.tenant_id = v_tenant AND y.id = s.run_id
        WHERE s.tenant_id = v_tenant AND s.id = x.step_id AND s.state = 'ready' AND s.wake_seq = (x.i->>'wake_seq')::bigint
            AND y.state IN ('queued', 'running', 'waiting');
        IF NOT FOUND THEN
            CONTINUE;
        END IF;
        PERFORM set_config('nofx.traceparent', x.i->>'traceparent', true);
        IF v_run.state = 'queued' THEN
            UPDATE run SET event = 'start', version = version + 1 WHERE tenant_id = v_tenant AND id = v_run.id;
        END IF;
        ord := x.n;
        claim := take_step(v_tenant, x.step_id,
            (x.i || jsonb_build_object('owner', p_owner, 'pid', p_pid, 'ttl', p_ttl))::text);
        RETURN NEXT;
    END LOOP;
END
$$;

-- The caller's step, its run locked, while its fence and its lease hold; else NULL.
CREATE FUNCTION nofx.held_step(p_step uuid, p_fence bigint) RETURNS nofx.locked_step
    LANGUAGE plpgsql
AS $$
DECLARE
    s nofx.locked_step;
BEGIN
    PERFORM FROM run r WHERE r.tenant_id = tenant() AND r.id = (SELECT x.run_id FROM step x WHERE x.tenant_id = tenant() AND x.id = p_step) FOR NO KEY UPDATE;
    SELECT x.tenant_id, x.run_id, x.id, x.name, x.state, x.fence INTO s
    FROM step x JOIN step_lease l ON l.tenant_id = x.tenant_id AND l.step_id = x.id AND l.fence = p_fence
    WHERE x.tenant_id = tenant() AND x.id = p_step AND x.state = 'running' AND x.fence = p_fence AND l.lease_until > clock_timestamp()
    FOR NO KEY UPDATE OF x;
    RETURN s;
END
$$;

-- The same, but NX004 when they do not hold.
CREATE FUNCTION nofx.hold_step(p_step uuid, p_fence bigint) RETURNS nofx.locked_step
    LANGUAGE plpgsql
AS $$
DECLARE
    s nofx.locked_step := held_step(p_step, p_fence);
BEGIN
    IF s.id IS NULL THEN
        PERFORM lock_step(p_step); -- if it is there at all
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
    LANGUAGE plpgsql
AS $$
DECLARE
    v_id uuid := (c->>'id')::uuid;
    v_kind text := c->>'kind';
    v_seq bigint;
    v_trace char(32);
BEGIN
    IF (v_kind IN ('pre', 'post', 'gate_failed', 'wait', 'interrupt', 'edit', 'merge', 'manual') AND (c->>'generation')::int >= 1
        AND c->>'digest' ~ '^sha256:[0-9a-f]{64}$' AND c->>'state_digest' ~ '^sha256:[0-9a-f]{64}$' AND c->>'tree_digest' ~ '^sha256:[0-9a-f]{64}$'
        AND length(c->>'manifest') <= 349528 AND coalesce(length(c->>'state_inline'), 0) <= 87384) IS NOT TRUE THEN -- 256 and 64 KiB in base64
        RAISE EXCEPTION 'checkpoint %: kind, generation, digests or sizes', v_id USING ERRCODE = 'check_violation';
    END IF;
    -- The caller holds the run's lock, so its next seq can be read before it is taken.
    SELECT r.event_seq + 1, r.trace_id INTO v_seq, v_trace FROM run r WHERE r.tenant_id = s.tenant_id AND r.id = s.run_id;
    INSERT INTO checkpoint (tenant_id, id, run_id, seq, kind, step_id, fence, generation, digest, manifest, state_digest, state_inline, tree_digest, bytes_new)
    VALUES (s.tenant_id, v_id, s.run_id, v_seq, v_kind, s.id, s.fence, (c->>'generation')::int, c->>'digest', decode(c->>'manifest', 'base64'),
        c->>'state_digest', decode(c->>'state_inline', 'base64'), c->>'tree_digest', (c->>'bytes_new')::bigint);
    IF c ? 'parents' THEN
        INSERT INTO checkpoint_parent (tenant_id, checkpoint_id, ord, parent_id)
        SELECT s.tenant_id, v_id, p.ord, p.id::uuid FROM jsonb_array_elements_text(c->'parents') WITH ORDINALITY AS p (id, ord);
    END IF;
    IF v_kind IN ('post', 'wait') THEN
        UPDATE run r SET event_seq = v_seq, head_checkpoint_id = v_id WHERE r.tenant_id = s.tenant_id AND r.id = s.run_id;
    ELSE
        UPDATE run r SET event_seq = v_seq WHERE r.tenant_id = s.tenant_id AND r.id = s.run_id;
    END IF;
    PERFORM write_event(s.tenant_id, s.run_id, v_seq, s.id, 'checkpoint.created', NULL, NULL, NULL, NULL, v_trace, s.fence, jsonb_build_object(
        'checkpoint_id', public_id('ckpt', v_id), 'kind', v_kind, 'digest', c->>'digest', 'bytes_new', (c->>'bytes_new')::bigint));
END
$$;

-- Records checkpoints of running attempts; p is an array of {step_id, fence,
-- traceparent, checkpoint} in the order of runs. Kinds post and wait come with
-- the finish alone: they are what successors start from.
CREATE FUNCTION nofx.record_checkpoints(p jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    i jsonb;
BEGIN
    FOR i IN SELECT e.i FROM jsonb_array_elements(p) AS e (i) LOOP
        IF i->'checkpoint'->>'kind' IN ('post', 'wait') THEN
            RAISE EXCEPTION 'a % checkpoint comes with the finish', i->'checkpoint'->>'kind' USING ERRCODE = 'NX006';
        END IF;
        PERFORM set_config('nofx.traceparent', i->>'traceparent', true);
        PERFORM insert_checkpoint(hold_step((i->>'step_id')::uuid, (i->>'fence')::bigint), i->'checkpoint');
    END LOOP;
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
    LANGUAGE plpgsql
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

-- The key of a signal, locked until the end of the transaction, so that a wait
-- and its signal cannot miss each other (inngest#1433).
CREATE FUNCTION nofx.lock_signal(p_tenant uuid, p_key text) RETURNS void
    LANGUAGE sql
AS $$
    SELECT pg_advisory_xact_lock(hashtextextended(p_tenant::text || '/signal/' || p_key, 0))
$$;

-- Gives a waiting step the oldest signal under its key, if there is one, and
-- readies it. The caller holds the locks of run, step and key.
CREATE FUNCTION nofx.take_signal(p_tenant uuid, p_step uuid, p_key text) RETURNS boolean
    LANGUAGE plpgsql
AS $$
BEGIN
    UPDATE inbox SET step_id = p_step
    WHERE tenant_id = p_tenant AND id = (
        SELECT i.id FROM inbox i WHERE i.tenant_id = p_tenant AND i.key = p_key AND i.step_id IS NULL AND i.expires_at > clock_timestamp()
        ORDER BY i.id LIMIT 1);
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE step SET event = 'signal', version = version + 1, reason = NULL WHERE tenant_id = p_tenant AND id = p_step;
    RETURN true;
END
$$;

-- What became of one finish: answer is ok; fenced when the lease is lost, and
-- then nothing was written; stale when this very attempt had ended like this
-- before. run_state is the run's when this ended it, run_seconds how long after
-- its creation. enqueue says that steps became ready that want a job, claim is
-- the successor that was taken at once.
CREATE TYPE nofx.finished AS (answer text, run_state text, run_seconds float8, enqueue boolean, claim nofx.claimed);

-- Records what one attempt came to; see finish_steps.
CREATE FUNCTION nofx.finish_step(p_tenant uuid, p jsonb, p_claim jsonb) RETURNS nofx.finished
    LANGUAGE plpgsql
AS $$
DECLARE
    v_step uuid := (p->>'step_id')::uuid;
    v_fence bigint := (p->>'fence')::bigint;
    v_outcome text := p->>'outcome';
    s nofx.locked_step := held_step(v_step, v_fence);
    f nofx.finished;
    v_until timestamptz;
    v_head uuid;
    v_ready uuid[];
    v_next uuid;
    v_chain boolean := v_outcome = 'succeed' AND p ? 'chain';
BEGIN
    IF s.id IS NULL THEN
        PERFORM lock_step(v_step); -- if it is there at all
        f.answer := CASE WHEN EXISTS (
            SELECT FROM attempt a WHERE a.tenant_id = p_tenant AND a.step_id = v_step
                AND a.fence = v_fence AND a.outcome = v_outcome) THEN 'stale' ELSE 'fenced' END;
        RETURN f;
    END IF;
    IF v_outcome NOT IN ('succeed', 'fail', 'retry', 'wait', 'interrupted') THEN
        RAISE EXCEPTION 'an attempt does not end by %', v_outcome USING ERRCODE = 'NX006';
    END IF;
    f.answer := 'ok';
    f.enqueue := v_outcome = 'interrupted';
    IF p ? 'checkpoints' THEN
        PERFORM insert_checkpoint(s, c) FROM jsonb_array_elements(p->'checkpoints') AS x (c);
        SELECT (c->>'id')::uuid INTO v_head FROM jsonb_array_elements(p->'checkpoints') WITH ORDINALITY AS x (c, ord)
        WHERE c->>'kind' IN ('post', 'wait') ORDER BY ord DESC LIMIT 1;
    END IF;
    IF p ? 'artifacts' THEN
        INSERT INTO artifact (tenant_id, id, run_id, step_id, fence, name, key, media_type, size_bytes, sha256)
        SELECT s.tenant_id, (a->>'id')::uuid, s.run_id, s.id, v_fence, a->>'name', a->>'key', a->>'media_type', (a->>'size_bytes')::bigint, decode(a->>'sha256', 'hex')
        FROM jsonb_array_elements(p->'artifacts') AS x (a);
        PERFORM append_event(s.tenant_id, s.run_id, s.id, 'artifact.created', v_fence, jsonb_build_object(
            'artifact_id', public_id('art', (a->>'id')::uuid), 'name', a->>'name', 'sha256', a->>'sha256', 'bytes', (a->>'size_bytes')::bigint))
        FROM jsonb_array_elements(p->'artifacts') AS x (a);
    END IF;
    IF p ? 'wait' THEN
        v_until := clock_timestamp() + make_interval(secs => (p->'wait'->>'after_s')::float8);
        IF p->'wait' ? 'key' THEN
            PERFORM lock_signal(p_tenant, p->'wait'->>'key');
        END IF;
        INSERT INTO wait (tenant_id, step_id, round, kind, wait_until, quorum, shown_digest, correlation)
        VALUES (s.tenant_id, s.id, 1 + coalesce((SELECT max(w.round) FROM wait w WHERE w.tenant_id = s.tenant_id AND w.step_id = s.id), 0),
            p->'wait'->>'kind', v_until, (p->'wait'->>'quorum')::int, p->'gate'->>'shown_digest', p->'wait'->>'key');
    END IF;
    IF p ? 'gate' THEN
        PERFORM open_gate(s, p->'gate', v_until);
    END IF;
    IF p ? 'exit_code' OR p ? 'usage' THEN
        UPDATE attempt SET exit_code = (p->>'exit_code')::int, usage = coalesce(p->'usage', '{}')
        WHERE tenant_id = s.tenant_id AND step_id = s.id AND fence = v_fence;
    END IF;
    UPDATE step SET event = v_outcome, version = version + 1,
        reason = p->>'reason', failure_class = p->>'failure_class',
        outputs = coalesce(p->'outputs', outputs),
        head_checkpoint_id = coalesce(v_head, head_checkpoint_id),
        wait_until = v_until,
        ready_at = CASE WHEN v_outcome = 'retry' THEN clock_timestamp() + make_interval(secs => (p->>'delay_s')::float8) ELSE ready_at END
    WHERE tenant_id = s.tenant_id AND id = s.id;

    IF p->'wait' ? 'key' THEN
        f.enqueue := take_signal(p_tenant, s.id, p->'wait'->>'key');
    END IF;
    IF v_outcome = 'succeed' THEN
        IF v_chain THEN
            v_chain := EXISTS (SELECT FROM run r WHERE r.tenant_id = s.tenant_id AND r.id = s.run_id AND r.state = 'running');
            PERFORM set_config('nofx.chain', CASE WHEN v_chain THEN 'on' END, true);
        END IF;
        v_ready := ready_successors(s.tenant_id, s.id);
        IF v_chain THEN
            PERFORM set_config('nofx.chain', '', true);
            SELECT n.id INTO v_next FROM step n
            WHERE n.tenant_id = s.tenant_id AND n.id = ANY (v_ready) AND n.queue = p->'chain'->>'queue' ORDER BY n.idx LIMIT 1;
            IF v_next IS NOT NULL THEN
                f.claim := take_step(s.tenant_id, v_next, (p_claim || (p->'chain'))::text);
            END IF;
            IF cardinality(v_ready) > (v_next IS NOT NULL)::int THEN
                UPDATE step n SET due_at = n.ready_at WHERE n.tenant_id = s.tenant_id AND n.id = ANY (v_ready) AND n.state = 'ready';
            END IF;
        END IF;
        f.enqueue := coalesce(cardinality(v_ready), 0) > (v_next IS NOT NULL)::int;
        IF v_ready IS NOT NULL THEN
            RETURN f; -- the run goes on as it was
        END IF;
    END IF;
    PERFORM settle_run(s.tenant_id, s.run_id, v_outcome = 'fail');
    SELECT r.state, extract(epoch FROM r.finished_at - r.created_at) INTO f.run_state, f.run_seconds
    FROM run r WHERE r.tenant_id = s.tenant_id AND r.id = s.run_id AND r.finished_at IS NOT NULL;
    RETURN f;
END
$$;

-- Records what attempts came to. p is an array, in the order of runs and steps,
-- of {run_id, step_id, fence, traceparent, outcome, reason, failure_class,
-- delay_s, exit_code, usage, outputs, checkpoints, artifacts, gate, wait, chain};
-- ord is the place in it. An item with chain, {queue, trace_id, span_id}, takes a
-- successor that it readied on that queue for the same worker, in the same
-- transaction: the lease is the guarantee, so no job is needed.
CREATE FUNCTION nofx.finish_steps(p jsonb, p_owner text, p_pid int, p_ttl interval)
    RETURNS TABLE (ord int, answer text, run_state text, run_seconds float8, enqueue boolean, claim nofx.claimed)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    v_tenant uuid := tenant();
    v_claim jsonb := jsonb_build_object('owner', p_owner, 'pid', p_pid, 'ttl', p_ttl);
    x record;
    f nofx.finished;
BEGIN
    IF jsonb_array_length(p) > 1 THEN
        PERFORM FROM run r WHERE r.tenant_id = v_tenant AND r.id = ANY (ARRAY(SELECT (e.i->>'run_id')::uuid FROM jsonb_array_elements(p) AS e (i)))
        ORDER BY r.id FOR NO KEY UPDATE;
        -- Several leases at once, so in the order in which a heartbeat takes them.
        PERFORM FROM step_lease l WHERE l.tenant_id = v_tenant AND l.step_id = ANY (ARRAY(SELECT (e.i->>'step_id')::uuid FROM jsonb_array_elements(p) AS e (i)))
        ORDER BY l.step_id FOR UPDATE;
    END IF;
    FOR x IN SELECT e.i, e.n::int - 1 AS n FROM jsonb_array_elements(p) WITH ORDINALITY AS e (i, n) LOOP
        PERFORM set_config('nofx.traceparent', x.i->>'traceparent', true);
        f := finish_step(v_tenant, x.i, v_claim);
        ord := x.n;
        answer := f.answer;
        run_state := f.run_state;
        run_seconds := f.run_seconds;
        enqueue := coalesce(f.enqueue, false);
        claim := f.claim;
        RETURN NEXT;
    END LOOP;
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

GRANT EXECUTE ON FUNCTION
    nofx.create_run(jsonb, jsonb),
    nofx.claim_steps(jsonb, text, int, interval),
    nofx.record_checkpoints(jsonb),
    nofx.record_log_chunk(uuid, bigint, int, bigint, bigint, int, text, bytea),
    nofx.finish_steps(jsonb, text, int, interval),
    nofx.end_run(uuid, text, text, bigint, text)
TO nofx_app;

RESET ROLE;
