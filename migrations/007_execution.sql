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
    PERFORM move_steps(p_tenant, p_run, ARRAY(
        SELECT y.id FROM unnest(steps_in(p_tenant, p_run, '{pending}')) AS x (id),
        LATERAL (SELECT s.id, s.deps_left FROM step s WHERE s.tenant_id = p_tenant AND s.id = x.id OFFSET 0) AS y WHERE y.deps_left = 0), 'deps_met', NULL, NULL);
END
$$;

-- Counts a succeeded step off its successors, readies those that wait for
-- nothing more and says which. The caller holds the run's lock.
CREATE FUNCTION nofx.ready_successors(p_tenant uuid, p_step uuid) RETURNS uuid[]
    LANGUAGE plpgsql
AS $$
DECLARE
    v_ready uuid[];
    n record;
BEGIN
    FOR n IN SELECT y.* FROM step_dep d,
        LATERAL (SELECT z.id, z.idx, z.deps_left, z.state FROM step z WHERE z.tenant_id = p_tenant AND z.id = d.step_id OFFSET 0) AS y
        WHERE d.tenant_id = p_tenant AND d.needs = p_step ORDER BY y.idx LOOP
        IF n.state = 'pending' AND n.deps_left = 1 THEN
            UPDATE step SET deps_left = 0, event = 'deps_met', version = version + 1, reason = NULL WHERE tenant_id = p_tenant AND id = n.id;
            v_ready := v_ready || n.id;
        ELSIF n.deps_left > 0 THEN
            UPDATE step SET deps_left = deps_left - 1 WHERE tenant_id = p_tenant AND id = n.id;
        END IF;
    END LOOP;
    RETURN v_ready;
END
$$;

-- Returns how many ready steps the tenant has, counted in at most 256 of its live
-- runs, those first that have not started: from there on all jobs have the last
-- priority. The order and the settings leave the planner run_by_state alone: that of
-- a new database would walk the tenant.
CREATE FUNCTION nofx.count_ready() RETURNS int
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = nofx, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off
AS $$
DECLARE
    v_tenant uuid := tenant();
BEGIN
    RETURN (SELECT coalesce(sum(x.ready_steps), 0) FROM (
        SELECT r.ready_steps FROM run r WHERE r.tenant_id = v_tenant AND r.state BETWEEN 'queued' AND 'running' -- no other is between them
        ORDER BY r.state, r.id LIMIT 256) AS x);
END
$$;

-- Inserts a run with its steps; those without dependencies are ready at once.
-- p_steps is an array of {id, name, tool, queue, spec, max_attempts, needs: [idx]}
-- in plan order, dependencies given by index. ready_at is when those steps that
-- depend on nothing became ready, in plan order, ready_steps how many the tenant
-- has now.
CREATE FUNCTION nofx.create_run(p_run jsonb, p_steps jsonb, OUT created_at timestamptz, OUT deadline timestamptz, OUT ready_at timestamptz[], OUT ready_steps int)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    v_tenant uuid := tenant();
    v_run uuid := (p_run->>'id')::uuid;
    v_project uuid;
    v_ids uuid[];
    v_ready uuid[];
BEGIN
    SELECT id INTO v_project FROM project WHERE tenant_id = v_tenant AND slug = p_run->>'project';
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no project %', p_run->>'project' USING ERRCODE = 'NX005', DETAIL = '{"noun":"project"}';
    END IF;
    v_ready := ARRAY(SELECT (s->>'id')::uuid FROM jsonb_array_elements(p_steps) WITH ORDINALITY AS e (s, ord) WHERE jsonb_array_length(s->'needs') = 0 ORDER BY ord);
    PERFORM set_config('nofx.telling', 'on', true);
    INSERT INTO run (tenant_id, id, project_id, goal, labels, event_seq, pending_steps, ready_steps, plan, plan_digest, root_run_id,
        trace_id, traceparent, correlation_id, created_by, deadline)
    VALUES (v_tenant, v_run, v_project, p_run->>'goal', p_run->'labels', 1 + cardinality(v_ready),
        jsonb_array_length(p_steps) - cardinality(v_ready), cardinality(v_ready), p_run->'plan', p_run->>'plan_digest', v_run,
        p_run->>'trace_id', p_run->>'traceparent', p_run->>'correlation_id', p_run->>'created_by',
        clock_timestamp() + make_interval(secs => (p_run->>'deadline_s')::float8))
    RETURNING run.created_at, run.deadline INTO created_at, deadline;

    WITH made AS (
        INSERT INTO step (tenant_id, id, run_id, idx, name, tool, queue, spec, max_attempts, deps_left, event)
        SELECT v_tenant, (s->>'id')::uuid, v_run, (ord - 1)::int, s->>'name', s->>'tool', s->>'queue', s->'spec',
               (s->>'max_attempts')::int, jsonb_array_length(s->'needs'), CASE jsonb_array_length(s->'needs') WHEN 0 THEN 'deps_met' END
        FROM jsonb_array_elements(p_steps) WITH ORDINALITY AS e (s, ord)
        RETURNING step.idx, step.ready_at
    ) SELECT array_agg(m.ready_at ORDER BY m.idx) FILTER (WHERE m.ready_at IS NOT NULL) INTO ready_at FROM made m;

    v_ids := ARRAY(SELECT (s->>'id')::uuid FROM jsonb_array_elements(p_steps) WITH ORDINALITY AS e (s, ord) ORDER BY ord);
    INSERT INTO step_dep (tenant_id, run_id, needs, step_id)
    SELECT v_tenant, v_run, v_ids[n.i::int + 1], v_ids[e.ord]
    FROM jsonb_array_elements(p_steps) WITH ORDINALITY AS e (s, ord), jsonb_array_elements_text(e.s->'needs') AS n (i);
    PERFORM set_config('nofx.telling', '', true);
    PERFORM tell(v_tenant, ARRAY[ROW(v_run, 1, NULL, 'run.created', NULL, NULL, NULL,
            jsonb_build_object('goal', left(p_run->>'goal', 500), 'plan_digest', p_run->>'plan_digest', 'steps', jsonb_array_length(p_steps)),
            NULL, p_run->>'trace_id', NULL, nofx.cause())::nofx.told]
        || ARRAY(SELECT ROW(v_run, 1 + x.n, x.id, 'step.ready', 'deps_met', 'pending', 'ready', '{"attempt": 0}', NULL, p_run->>'trace_id', NULL, nofx.cause())::nofx.told
            FROM unnest(v_ready) WITH ORDINALITY AS x (id, n)));
    ready_steps := count_ready();
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
    PERFORM move_steps(p_tenant, p_run, ARRAY(
        WITH RECURSIVE downstream (id) AS (
            SELECT unnest(steps_in(p_tenant, p_run, '{failed}'))
            UNION
            SELECT d.step_id FROM downstream u, LATERAL (SELECT x.step_id FROM step_dep x WHERE x.tenant_id = p_tenant AND x.needs = u.id OFFSET 0) AS d
        )
        SELECT p.id FROM unnest(steps_in(p_tenant, p_run, '{pending}')) AS p (id) WHERE p.id IN (SELECT u.id FROM downstream u)
    ), 'skip', 'upstream_failed', NULL);
    PERFORM move_steps(p_tenant, p_run, steps_in(p_tenant, p_run, '{pending}'), 'skip', 'run_failed', NULL);
    PERFORM move_steps(p_tenant, p_run, steps_in(p_tenant, p_run, '{ready, retrying, waiting}'), 'cancel', 'run_failed', 'cancelled');
END
$$;

-- Whether a step of the run failed for good while this attempt was running, by the
-- order of the run's events: it may end, but nothing of it is to come. Those that
-- failed before it began were left so by whoever had it run.
CREATE FUNCTION nofx.is_doomed(p_tenant uuid, p_run uuid, p_step uuid, p_fence bigint) RETURNS boolean
    LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM FROM run r WHERE r.tenant_id = p_tenant AND r.id = p_run AND r.failed_steps > 0;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM FROM step s WHERE s.tenant_id = p_tenant AND s.run_id = p_run AND s.state = 'failed' AND s.failed_seq > (
        SELECT a.seq FROM attempt a WHERE a.tenant_id = p_tenant AND a.step_id = p_step AND a.fence = p_fence);
    RETURN FOUND;
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
        ORDER BY s.failed_seq LIMIT 1;
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

-- A step as its claim hands it on; parents is how many steps it depends on, waiver
-- the newest waiver of its gate: {input_digest, by, by_name, reason}.
CREATE TYPE nofx.claimed AS (step_id uuid, run_id uuid, name text, tool text, spec jsonb, fence bigint, attempt int, max_attempts int, lost_leases int,
    ready_at timestamptz, claimed_at timestamptz, lost_at timestamptz, failing_since timestamptz, traceparent text, plan_digest text, waiver jsonb, parents int, signal jsonb);

-- A step that this transaction has claimed.
CREATE FUNCTION nofx.claimed_step(p_tenant uuid, p_step uuid) RETURNS nofx.claimed
    LANGUAGE plpgsql
AS $$
DECLARE
    c nofx.claimed;
BEGIN
    SELECT s.id, s.run_id, s.name, s.tool, s.spec, s.fence, s.attempt, s.max_attempts, s.lost_leases, s.ready_at, clock_timestamp(),
        NULL::timestamptz, s.failing_since, r.traceparent, r.plan_digest, NULL::jsonb,
        (SELECT count(*) FROM step_dep d WHERE d.tenant_id = p_tenant AND d.step_id = p_step), NULL::jsonb INTO c
    FROM step s, LATERAL (SELECT y.traceparent, y.plan_digest FROM run y WHERE y.tenant_id = p_tenant AND y.id = s.run_id OFFSET 0) AS r
    WHERE s.tenant_id = p_tenant AND s.id = p_step;
    IF c.lost_leases > 0 THEN
        -- When the lease before ran out; the sweep took the fence between.
        SELECT a.ended_at INTO c.lost_at FROM attempt a
        WHERE a.tenant_id = p_tenant AND a.step_id = p_step AND a.fence = c.fence - 2 AND a.outcome = 'lease_expired';
    END IF;
    -- A gate was judged before. A later round does not undo a waiver: it may have been
    -- given while that round's attempt was running.
    IF c.fence > 1 THEN
        SELECT jsonb_build_object('input_digest', g.input_digest, 'by', g.decided_by, 'by_name', coalesce(subject_name(p_tenant, g.decided_by), g.decided_by), 'reason', g.reason) INTO c.waiver FROM gate g
        WHERE g.tenant_id = p_tenant AND g.step_id = p_step AND g.state = 'waived' ORDER BY g.round DESC LIMIT 1;
    END IF;
    IF c.tool = 'signal' THEN
        SELECT i.payload INTO c.signal FROM inbox i WHERE i.tenant_id = p_tenant AND i.step_id = p_step ORDER BY i.id DESC LIMIT 1;
    END IF;
    RETURN c;
END
$$;

-- The checkpoints that steps start from, in the order of the plan.
CREATE FUNCTION nofx.step_parents(p_steps uuid[]) RETURNS TABLE (step_id uuid, id uuid, digest text, generation int, tree_digest text, state_digest text, state_inline bytea)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    v_tenant uuid := tenant();
    d record;
BEGIN
    FOREACH step_id IN ARRAY p_steps LOOP
        FOR d IN SELECT y.* FROM step_dep x,
            LATERAL (SELECT z.idx, z.head_checkpoint_id FROM step z WHERE z.tenant_id = v_tenant AND z.id = x.needs OFFSET 0) AS y
            WHERE x.tenant_id = v_tenant AND x.step_id = step_parents.step_id ORDER BY y.idx LOOP
            SELECT c.id, c.digest, c.generation, c.tree_digest, c.state_digest, c.state_inline INTO id, digest, generation, tree_digest, state_digest, state_inline
            FROM checkpoint c WHERE c.tenant_id = v_tenant AND c.id = d.head_checkpoint_id;
            IF FOUND THEN
                RETURN NEXT;
            END IF;
        END LOOP;
    END LOOP;
END
$$;

-- Locks runs in the order in which everybody does.
--
-- Row by row, as everything on the hot path: a look-up by a whole key is planned
-- alike whatever is known of the tables, and one statement serves however many.
-- For lists and joins a new database's planner walks the tenant.
CREATE FUNCTION nofx.lock_runs(p_tenant uuid, p_runs uuid[]) RETURNS void
    LANGUAGE plpgsql
AS $$
DECLARE
    v_runs uuid[] := p_runs;
    v_run uuid;
BEGIN
    IF cardinality(p_runs) > 1 THEN
        v_runs := ARRAY(SELECT DISTINCT x FROM unnest(p_runs) AS x ORDER BY x);
    END IF;
    FOREACH v_run IN ARRAY v_runs LOOP
        PERFORM FROM run r WHERE r.tenant_id = p_tenant AND r.id = v_run FOR NO KEY UPDATE;
    END LOOP;
END
$$;

-- Locks the runs of steps and returns the steps whose run is locked now: of a run
-- that somebody held a moment ago, as p_held says, only if nobody holds it any more.
CREATE FUNCTION nofx.lock_free_runs(p_steps uuid[], p_held boolean[]) RETURNS SETOF uuid
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    v_tenant uuid := tenant();
    x record;
BEGIN
    FOR x IN SELECT y.run_id, bool_or(q.held) AS held, array_agg(q.id) AS steps
        FROM unnest(p_steps, p_held) AS q (id, held)
        LEFT JOIN LATERAL (SELECT z.run_id FROM step z WHERE z.tenant_id = v_tenant AND z.id = q.id OFFSET 0) AS y ON true
        GROUP BY y.run_id ORDER BY y.run_id LOOP
        IF x.held THEN
            PERFORM FROM run r WHERE r.tenant_id = v_tenant AND r.id = x.run_id FOR NO KEY UPDATE SKIP LOCKED;
            CONTINUE WHEN NOT FOUND AND x.run_id IS NOT NULL; -- a step that is not there keeps nobody waiting
        ELSE
            PERFORM FROM run r WHERE r.tenant_id = v_tenant AND r.id = x.run_id FOR NO KEY UPDATE;
        END IF;
        RETURN QUERY SELECT unnest(x.steps);
    END LOOP;
END
$$;

-- A step that was claimed, under which fence and by the event of which seq, the River
-- job that carries it, whether its tool counts as begun, and the span of the attempt.
CREATE TYPE nofx.taken AS (step_id uuid, fence bigint, seq bigint, job_id bigint, begun boolean, trace_id text, span_id text);

-- The lease and the attempt of each step that a worker has claimed.
CREATE FUNCTION nofx.lease_steps(p_tenant uuid, p nofx.taken[], p_owner text, p_pid int, p_ttl interval) RETURNS void
    LANGUAGE plpgsql
AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
BEGIN
    INSERT INTO step_lease (tenant_id, step_id, fence, owner, lease_until, job_id, begun)
    SELECT p_tenant, t.step_id, t.fence, p_owner, v_now + p_ttl, t.job_id, t.begun FROM unnest(p) AS t;
    INSERT INTO attempt (tenant_id, step_id, fence, seq, owner, owner_pid, started_at, trace_id, span_id)
    SELECT p_tenant, t.step_id, t.fence, t.seq, p_owner, p_pid, v_now, t.trace_id, t.span_id FROM unnest(p) AS t;
END
$$;

-- Whether a worker may take a suspect, a step that two workers have died under, in a
-- transaction of so many wake-ups. It is to run alone: only then does another loss
-- tell whether it is what kills its workers, and only then does it take no other step
-- along. A suspect that found no idle worker for a minute after its delay may run
-- beside others, but not beside another suspect. No other claim of this worker asks
-- meanwhile.
CREATE FUNCTION nofx.may_take_suspect(p_tenant uuid, p_step uuid, p_owner text, p_wakes int) RETURNS boolean
    LANGUAGE plpgsql
AS $$
DECLARE
    v_waited boolean;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(p_owner || '/suspect', 0));
    SELECT a.ended_at < clock_timestamp() - interval '90 s' INTO v_waited FROM attempt a
    WHERE a.tenant_id = p_tenant AND a.step_id = p_step ORDER BY a.fence DESC LIMIT 1;
    IF v_waited THEN
        PERFORM FROM step_lease l, LATERAL (SELECT z.lost_leases FROM step z WHERE z.tenant_id = l.tenant_id AND z.id = l.step_id OFFSET 0) AS y
        WHERE l.owner = p_owner AND y.lost_leases >= 2;
    ELSIF p_wakes > 1 THEN
        RETURN false;
    ELSE
        PERFORM FROM step_lease l WHERE l.owner = p_owner;
    END IF;
    RETURN NOT FOUND;
END
$$;

-- Takes ready steps for a worker. p is an array of {step_id, wake_seq, job_id,
-- trace_id, span_id, traceparent}; ord is the place in it. No row comes back for a
-- wake-up that is stale or whose run takes no claims, nor for a suspect that this
-- worker may not take: it is woken again a little later, for whichever worker comes;
-- nor from a queue that the tenant has paused: such a step is parked, see 016.
CREATE FUNCTION nofx.claim_steps(p jsonb, p_owner text, p_pid int, p_ttl interval) RETURNS TABLE (ord int, claim nofx.claimed)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    v_tenant uuid := tenant();
    v_item jsonb;
    v_step uuid;
    v_run uuid;
    v_runs uuid[] := '{}';
    v_ords int[] := '{}';
    v_suspect boolean := false;
    v_paused text[] := paused_queues(v_tenant);
    v_taken nofx.taken[] := '{}';
    v_told nofx.told[] := '{}';
    s record;
    r record;
    c record;
    v_seq bigint;
BEGIN
    FOR k IN 0 .. jsonb_array_length(p) - 1 LOOP
        SELECT y.run_id INTO v_run FROM step y WHERE y.tenant_id = v_tenant AND y.id = (p->k->>'step_id')::uuid;
        IF FOUND THEN
            v_runs := v_runs || v_run;
        END IF;
    END LOOP;
    PERFORM lock_runs(v_tenant, v_runs);
    PERFORM set_config('nofx.telling', 'on', true);
    FOR k IN 0 .. jsonb_array_length(p) - 1 LOOP
        v_item := p->k;
        v_step := (v_item->>'step_id')::uuid;
        SELECT y.run_id, y.queue, y.ready_at, y.lost_leases INTO s FROM step y
        WHERE y.tenant_id = v_tenant AND y.id = v_step AND y.state = 'ready' AND y.wake_seq = (v_item->>'wake_seq')::bigint;
        CONTINUE WHEN NOT FOUND;
        SELECT q.state, q.event_seq, q.trace_id, q.reason INTO r FROM run q
        WHERE q.tenant_id = v_tenant AND q.id = s.run_id AND q.state IN ('queued', 'running', 'waiting');
        CONTINUE WHEN NOT FOUND;
        IF s.queue = ANY (v_paused) THEN
            UPDATE step y SET due_at = 'infinity' WHERE y.tenant_id = v_tenant AND y.id = v_step;
            CONTINUE;
        END IF;
        IF s.lost_leases >= 2 THEN
            IF v_suspect OR NOT may_take_suspect(v_tenant, v_step, p_owner, jsonb_array_length(p)) THEN
                UPDATE step y SET ready_at = z.at, due_at = z.at, job_id = NULL
                FROM (SELECT clock_timestamp() + make_interval(secs => 2 + 2 * random()) AS at) AS z
                WHERE y.tenant_id = v_tenant AND y.id = v_step;
                CONTINUE;
            END IF;
            v_suspect := true;
        END IF;
        v_seq := r.event_seq + 1;
        IF r.state = 'queued' THEN
            v_told := v_told || ROW(s.run_id, v_seq, NULL, 'run.running', 'start', 'queued', 'running', '{}', r.reason, r.trace_id, NULL, v_item->>'traceparent')::nofx.told;
            v_seq := v_seq + 1;
            UPDATE run q SET event = 'start', version = q.version + 1, event_seq = v_seq, ready_steps = q.ready_steps - 1, running_steps = q.running_steps + 1
            WHERE q.tenant_id = v_tenant AND q.id = s.run_id;
        ELSE
            UPDATE run q SET event_seq = v_seq, ready_steps = q.ready_steps - 1, running_steps = q.running_steps + 1
            WHERE q.tenant_id = v_tenant AND q.id = s.run_id;
        END IF;
        UPDATE step y SET event = 'claim', version = y.version + 1, reason = NULL WHERE y.tenant_id = v_tenant AND y.id = v_step
        RETURNING y.fence, y.attempt INTO c;
        v_told := v_told || ROW(s.run_id, v_seq, v_step, 'step.running', 'claim', 'ready', 'running',
            jsonb_build_object('attempt', c.attempt, 'wait_ms', (extract(epoch FROM clock_timestamp() - s.ready_at) * 1000)::bigint),
            NULL, r.trace_id, c.fence, v_item->>'traceparent')::nofx.told;
        v_taken := v_taken || ROW(v_step, c.fence, v_seq, (v_item->>'job_id')::bigint, s.lost_leases = 0, v_item->>'trace_id', v_item->>'span_id')::nofx.taken;
        v_ords := v_ords || k;
    END LOOP;
    PERFORM set_config('nofx.telling', '', true);
    IF v_ords = '{}' THEN
        RETURN;
    END IF;
    PERFORM lease_steps(v_tenant, v_taken, p_owner, p_pid, p_ttl), tell(v_tenant, v_told);
    FOR k IN 1 .. cardinality(v_ords) LOOP
        ord := v_ords[k];
        claim := claimed_step(v_tenant, v_taken[k].step_id);
        RETURN NEXT;
    END LOOP;
END
$$;

-- Whether a step runs under this fence and its lease holds. The caller has locked
-- its run; the lease is locked here, so that it neither is renewed nor expires.
CREATE FUNCTION nofx.is_held(p_tenant uuid, p_run uuid, p_step uuid, p_fence bigint) RETURNS boolean
    LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM FROM step_lease l, LATERAL (SELECT FROM step s
        WHERE s.tenant_id = p_tenant AND s.id = p_step AND s.run_id = p_run AND s.state = 'running' AND s.fence = p_fence OFFSET 0) AS y
    WHERE l.tenant_id = p_tenant AND l.step_id = p_step AND l.fence = p_fence AND l.lease_until > clock_timestamp() FOR UPDATE OF l;
    RETURN FOUND;
END
$$;

-- Whether a lease has run out that nobody has taken away: its holder may renew it.
CREATE FUNCTION nofx.has_lapsed(p_tenant uuid, p_step uuid, p_fence bigint) RETURNS boolean
    LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM FROM step_lease l WHERE l.tenant_id = p_tenant AND l.step_id = p_step AND l.fence = p_fence;
    RETURN FOUND;
END
$$;

-- The caller's step, its run locked, while its fence and its lease hold; else NX004,
-- or NX010 where the lease only has to be renewed.
CREATE FUNCTION nofx.hold_step(p_step uuid, p_fence bigint) RETURNS nofx.locked_step
    LANGUAGE plpgsql
AS $$
DECLARE
    s nofx.locked_step := lock_step(p_step);
BEGIN
    IF NOT is_held(s.tenant_id, s.run_id, s.id, p_fence) THEN
        IF has_lapsed(s.tenant_id, s.id, p_fence) THEN
            RAISE EXCEPTION 'step %: the lease under fence % has run out', p_step, p_fence USING ERRCODE = 'NX010';
        END IF;
        RAISE EXCEPTION 'step %: fence % is lost', p_step, p_fence USING
            ERRCODE = 'NX004', DETAIL = jsonb_build_object('fence', p_fence, 'current', s.fence);
    END IF;
    RETURN s;
END
$$;

-- Whether a text is sha256:<64 hex digits>. A regular expression would say it in
-- one, and takes ten times as long.
CREATE FUNCTION nofx.is_digest(p text) RETURNS boolean
    LANGUAGE sql IMMUTABLE
    RETURN length(p) = 71 AND starts_with(p, 'sha256:') AND translate(substr(p, 8), '0123456789abcdef', '') = '';

-- Inserts a checkpoint with its parents under a seq of its run, and returns what
-- its event says.
CREATE FUNCTION nofx.store_checkpoint(p_tenant uuid, p_run uuid, p_step uuid, p_fence bigint, p_seq bigint, c jsonb) RETURNS jsonb
    LANGUAGE plpgsql
AS $$
DECLARE
    v_id uuid := (c->>'id')::uuid;
    v_kind text := c->>'kind';
BEGIN
    IF (v_kind IN ('pre', 'post', 'gate_failed', 'wait', 'interrupt', 'edit', 'merge', 'manual') AND (c->>'generation')::int >= 1
        AND is_digest(c->>'digest') AND is_digest(c->>'state_digest') AND is_digest(c->>'tree_digest')
        AND length(c->>'manifest') <= 349528 AND coalesce(length(c->>'state_inline'), 0) <= 87384) IS NOT TRUE THEN -- 256 and 64 KiB in base64
        RAISE EXCEPTION 'checkpoint %: kind, generation, digests or sizes', v_id USING ERRCODE = 'check_violation';
    END IF;
    INSERT INTO checkpoint (tenant_id, id, run_id, seq, kind, step_id, fence, generation, digest, manifest, state_digest, state_inline, tree_digest, bytes_new)
    VALUES (p_tenant, v_id, p_run, p_seq, v_kind, p_step, p_fence, (c->>'generation')::int, c->>'digest', decode(c->>'manifest', 'base64'),
        c->>'state_digest', decode(c->>'state_inline', 'base64'), c->>'tree_digest', (c->>'bytes_new')::bigint);
    IF c ? 'parents' THEN
        INSERT INTO checkpoint_parent (tenant_id, checkpoint_id, ord, parent_id)
        SELECT p_tenant, v_id, p.ord, p.id::uuid FROM jsonb_array_elements_text(c->'parents') WITH ORDINALITY AS p (id, ord);
    END IF;
    RETURN jsonb_build_object('checkpoint_id', public_id('ckpt', v_id), 'kind', v_kind, 'digest', c->>'digest', 'bytes_new', (c->>'bytes_new')::bigint);
END
$$;

-- Records checkpoints of running attempts; p is an array of {run_id, step_id,
-- fence, traceparent, checkpoint}. Kinds post and wait come with the finish alone:
-- they are what successors start from.
CREATE FUNCTION nofx.record_checkpoints(p jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    v_tenant uuid := tenant();
    v_runs uuid[] := '{}';
    v_told nofx.told[] := '{}';
    v_item jsonb;
    v_run uuid;
    v_step uuid;
    v_fence bigint;
    r record;
BEGIN
    FOR k IN 0 .. jsonb_array_length(p) - 1 LOOP
        v_runs := v_runs || (p->k->>'run_id')::uuid;
    END LOOP;
    PERFORM lock_runs(v_tenant, v_runs);
    FOR k IN 0 .. jsonb_array_length(p) - 1 LOOP
        v_item := p->k;
        v_run := (v_item->>'run_id')::uuid;
        v_step := (v_item->>'step_id')::uuid;
        v_fence := (v_item->>'fence')::bigint;
        IF v_item->'checkpoint'->>'kind' IN ('post', 'wait') THEN
            RAISE EXCEPTION 'a % checkpoint comes with the finish', v_item->'checkpoint'->>'kind' USING ERRCODE = 'NX006';
        END IF;
        IF NOT is_held(v_tenant, v_run, v_step, v_fence) THEN
            PERFORM hold_step(v_step, v_fence); -- which says what is wrong
        END IF;
        UPDATE run y SET event_seq = y.event_seq + 1 WHERE y.tenant_id = v_tenant AND y.id = v_run RETURNING y.event_seq, y.trace_id INTO r;
        v_told := v_told || ROW(v_run, r.event_seq, v_step, 'checkpoint.created', NULL, NULL, NULL,
            store_checkpoint(v_tenant, v_run, v_step, v_fence, r.event_seq, v_item->'checkpoint'), NULL, r.trace_id, v_fence, v_item->>'traceparent')::nofx.told;
    END LOOP;
    PERFORM tell(v_tenant, v_told);
END
$$;

-- A chunk that is there already stays as it is, without another event: its answer
-- was lost on the way, and it came again.
CREATE FUNCTION nofx.record_log_chunk(p_step uuid, p_fence bigint, p_n int, p_start bigint, p_bytes bigint, p_lines int, p_key text, p_sha256 bytea) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    s nofx.locked_step := hold_step(p_step, p_fence);
BEGIN
    INSERT INTO log_chunk (tenant_id, step_id, fence, n, start, bytes, lines, key, sha256)
    VALUES (s.tenant_id, s.id, p_fence, p_n, p_start, p_bytes, p_lines, p_key, p_sha256)
    ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN;
    END IF;
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

-- What became of one finish: answer is ok; fenced when the lease is lost, or lapsed
-- when it only has to be renewed, and then nothing was written; stale when this very
-- attempt had ended like this before. ended is the run's state when this ended it,
-- seconds how long after its creation. enqueue says that steps became ready that want
-- a job, taken is the successor that was claimed at once.
CREATE TYPE nofx.finished AS (ord int, answer text, ended text, seconds float8, enqueue boolean, taken uuid);

-- Records what an attempt came to that did not simply succeed, or left more than
-- a checkpoint; see finish_steps, which has locked the key of a signal.
CREATE FUNCTION nofx.finish_step(p_tenant uuid, p jsonb) RETURNS nofx.finished
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
CREATE FUNCTION nofx.finish_steps(p jsonb, p_owner text, p_pid int, p_ttl interval)
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
    WHERE tenant_id = r.tenant_id AND run_id = r.id AND state = 'running';
    PERFORM move_steps(r.tenant_id, r.id, steps_in(r.tenant_id, r.id, '{pending, ready, waiting, retrying}'), 'cancel', p_reason, 'cancelled');
    PERFORM run_transition(p_run, p_event, p_reason, NULL, p_class);
END
$$;

GRANT EXECUTE ON FUNCTION
    nofx.count_ready(),
    nofx.create_run(jsonb, jsonb),
    nofx.lock_free_runs(uuid[], boolean[]),
    nofx.claim_steps(jsonb, text, int, interval),
    nofx.step_parents(uuid[]),
    nofx.record_checkpoints(jsonb),
    nofx.record_log_chunk(uuid, bigint, int, bigint, bigint, int, text, bytea),
    nofx.finish_steps(jsonb, text, int, interval),
    nofx.end_run(uuid, text, text, bigint, text)
TO nofx_app;

RESET ROLE;
