-- Claim: a worker takes ready steps, each with a lease, an attempt and a fence.

-- Returns a step that this transaction has claimed.
CREATE OR REPLACE FUNCTION nofx.claimed_step(p_tenant uuid, p_step uuid) RETURNS nofx.claimed
    LANGUAGE plpgsql
AS $$
DECLARE
    c nofx.claimed;
BEGIN
    SELECT s.id, s.run_id, s.name, s.tool, s.spec, s.fence, s.attempt, s.max_attempts, s.lost_leases, s.ready_at, clock_timestamp(),
        NULL::timestamptz, s.failing_since, r.traceparent, r.plan_digest, NULL::jsonb,
        greatest((SELECT count(*) FROM step_dep d WHERE d.tenant_id = p_tenant AND d.step_id = p_step), (r.start_checkpoint_id IS NOT NULL)::int), NULL::jsonb,
        r.parent_run_id IS NOT NULL AND EXISTS (SELECT FROM branch_edit e WHERE e.tenant_id = p_tenant AND e.run_id = s.run_id) INTO c
    FROM step s, LATERAL (SELECT y.traceparent, y.plan_digest, y.start_checkpoint_id, y.parent_run_id FROM run y WHERE y.tenant_id = p_tenant AND y.id = s.run_id OFFSET 0) AS r
    WHERE s.tenant_id = p_tenant AND s.id = p_step;
    IF c.lost_leases > 0 THEN
        -- The expiry of the lease before; the sweep used the fence between.
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

-- Returns the checkpoints that steps start from, in the order of the plan: those that the
-- steps before them left, each once. The run's start (a merge, or the edits of a branch)
-- stands for all that are older, and a step without dependencies begins there.
CREATE OR REPLACE FUNCTION nofx.step_parents(p_steps uuid[]) RETURNS TABLE (step_id uuid, id uuid, digest text, generation int, tree_digest text, state_digest text, state_inline bytea)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    v_tenant uuid := tenant();
    v_heads uuid[];
    v_run uuid;
    v_start uuid;
    v_head uuid;
    v_alone boolean;
    d record;
BEGIN
    FOREACH step_id IN ARRAY p_steps LOOP
        v_heads := '{}';
        v_alone := true;
        SELECT s.run_id INTO v_run FROM step s WHERE s.tenant_id = v_tenant AND s.id = step_parents.step_id;
        SELECT r.start_checkpoint_id INTO v_start FROM run r WHERE r.tenant_id = v_tenant AND r.id = v_run;
        FOR d IN SELECT y.* FROM step_dep x,
            LATERAL (SELECT z.idx, z.head_checkpoint_id FROM step z WHERE z.tenant_id = v_tenant AND z.id = x.needs OFFSET 0) AS y
            WHERE x.tenant_id = v_tenant AND x.step_id = step_parents.step_id ORDER BY y.idx LOOP
            v_alone := false;
            v_head := head_after(v_tenant, v_start, d.head_checkpoint_id);
            IF v_head <> ALL (v_heads) THEN
                v_heads := v_heads || v_head;
            END IF;
        END LOOP;
        IF v_alone AND v_start IS NOT NULL THEN
            v_heads := ARRAY[v_start];
        END IF;
        FOREACH v_head IN ARRAY v_heads LOOP
            SELECT c.id, c.digest, c.generation, c.tree_digest, c.state_digest, c.state_inline INTO id, digest, generation, tree_digest, state_digest, state_inline
            FROM checkpoint c WHERE c.tenant_id = v_tenant AND c.id = v_head;
            IF FOUND THEN
                RETURN NEXT;
            END IF;
        END LOOP;
    END LOOP;
END
$$;

-- Locks the runs of steps and returns the steps whose run is now locked. The runs in p_held
-- were just locked by another transaction; they are locked only if they are free now.
CREATE OR REPLACE FUNCTION nofx.lock_free_runs(p_steps uuid[], p_held boolean[]) RETURNS SETOF uuid
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
            CONTINUE WHEN NOT FOUND AND x.run_id IS NOT NULL; -- a missing step locks nothing
        ELSE
            PERFORM FROM run r WHERE r.tenant_id = v_tenant AND r.id = x.run_id FOR NO KEY UPDATE;
        END IF;
        RETURN QUERY SELECT unnest(x.steps);
    END LOOP;
END
$$;

-- Inserts the lease and the attempt of each step that a worker has claimed.
CREATE OR REPLACE FUNCTION nofx.lease_steps(p_tenant uuid, p nofx.taken[], p_owner text, p_pid int, p_ttl interval) RETURNS void
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

-- Reports whether a worker may take a suspect, a step under which two workers have died, in
-- a transaction with this number of wake-ups. A suspect must run alone: only then does
-- another loss show that it kills its workers, and only then is no other step lost with it.
-- A suspect that found no idle worker for a minute after its delay may run beside others,
-- but not beside another suspect. Other claims of this worker wait meanwhile.
CREATE OR REPLACE FUNCTION nofx.may_take_suspect(p_tenant uuid, p_step uuid, p_owner text, p_wakes int) RETURNS boolean
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

-- Takes ready steps for a worker. p is an array of {step_id, wake_seq, job_id, trace_id,
-- span_id, traceparent}; ord is the place in it. Returns no row for a wake-up that is stale
-- or whose run takes no claims. Returns no row for a suspect that this worker may not take;
-- it is woken again a little later, for any worker. Returns no row from a queue that the
-- tenant has paused; the step is parked, see queue.sql.
CREATE OR REPLACE FUNCTION nofx.claim_steps(p jsonb, p_owner text, p_pid int, p_ttl interval) RETURNS TABLE (ord int, claim nofx.claimed)
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
    v_events nofx.new_event[] := '{}';
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
            v_events := v_events || run_event(s.run_id, v_seq, 'start', 'queued', 'running', r.reason, NULL, r.trace_id, v_item->>'traceparent');
            v_seq := v_seq + 1;
            UPDATE run q SET event = 'start', version = q.version + 1, event_seq = v_seq, ready_steps = q.ready_steps - 1, running_steps = q.running_steps + 1
            WHERE q.tenant_id = v_tenant AND q.id = s.run_id;
        ELSE
            UPDATE run q SET event_seq = v_seq, ready_steps = q.ready_steps - 1, running_steps = q.running_steps + 1
            WHERE q.tenant_id = v_tenant AND q.id = s.run_id;
        END IF;
        UPDATE step y SET event = 'claim', version = y.version + 1, seq = v_seq, reason = NULL WHERE y.tenant_id = v_tenant AND y.id = v_step
        RETURNING y.fence, y.attempt INTO c;
        v_events := v_events || step_event(s.run_id, v_seq, v_step, 'claim', 'ready', 'running', c.fence, c.attempt, NULL, r.trace_id, v_item->>'traceparent',
            p_wait_ms => (extract(epoch FROM clock_timestamp() - s.ready_at) * 1000)::bigint);
        v_taken := v_taken || ROW(v_step, c.fence, v_seq, (v_item->>'job_id')::bigint, s.lost_leases = 0, v_item->>'trace_id', v_item->>'span_id')::nofx.taken;
        v_ords := v_ords || k;
    END LOOP;
    IF v_ords = '{}' THEN
        RETURN;
    END IF;
    PERFORM lease_steps(v_tenant, v_taken, p_owner, p_pid, p_ttl), write_events(v_tenant, v_events);
    FOR k IN 1 .. cardinality(v_ords) LOOP
        ord := v_ords[k];
        claim := claimed_step(v_tenant, v_taken[k].step_id);
        RETURN NEXT;
    END LOOP;
END
$$;

GRANT EXECUTE ON FUNCTION
    nofx.step_parents(uuid[])
TO nofx_app;

GRANT EXECUTE ON FUNCTION
    nofx.lock_free_runs(uuid[], boolean[]),
    nofx.claim_steps(jsonb, text, int, interval)
TO nofx_worker;
