-- Branches: runs that start from a checkpoint of another run.

-- Refuses with NX011 another branch of a run that has 100, or one of a run that is itself
-- the fiftieth branch in a row. The caller holds the run's lock.
CREATE OR REPLACE FUNCTION nofx.check_branches(p_tenant uuid, p_parent uuid) RETURNS void
    LANGUAGE plpgsql
AS $$
DECLARE
    v_run uuid := p_parent;
    v_depth int := 0;
BEGIN
    IF (SELECT count(*) FROM run r WHERE r.tenant_id = p_tenant AND r.parent_run_id = p_parent) >= 100 THEN
        RAISE EXCEPTION 'run % has 100 branches, and a run can have no more', p_parent USING ERRCODE = 'NX011', DETAIL = '{"limit":"branches","most":100}';
    END IF;
    LOOP
        SELECT r.parent_run_id INTO v_run FROM run r WHERE r.tenant_id = p_tenant AND r.id = v_run;
        EXIT WHEN v_run IS NULL;
        v_depth := v_depth + 1;
        IF v_depth >= 50 THEN
            RAISE EXCEPTION 'run % is the end of 50 branches of branches, and there can be no more', p_parent USING ERRCODE = 'NX011', DETAIL = '{"limit":"depth","most":50}';
        END IF;
    END LOOP;
END
$$;

-- Returns the start of a run as it was at a checkpoint: the newest edit or merge up to
-- there, of the run or else of those that it descends from; NULL if there is none. The
-- checkpoint is one of the run, or that at which it began.
CREATE OR REPLACE FUNCTION nofx.start_at(p_tenant uuid, p_run uuid, p_checkpoint uuid) RETURNS uuid
    LANGUAGE plpgsql STABLE SET search_path = nofx, pg_temp
AS $$
DECLARE
    v_run uuid := p_run;
    v_checkpoint uuid := p_checkpoint;
    v_start uuid;
BEGIN
    LOOP
        SELECT c.id INTO v_start FROM checkpoint c
        WHERE c.run_id = v_run AND c.tenant_id = p_tenant AND c.kind IN ('edit', 'merge')
            AND c.seq <= (SELECT k.seq FROM checkpoint k WHERE k.tenant_id = p_tenant AND k.id = v_checkpoint AND k.run_id = v_run)
        ORDER BY c.seq DESC LIMIT 1;
        IF v_start IS NOT NULL THEN
            RETURN v_start;
        END IF;
        SELECT y.parent_run_id, y.parent_checkpoint_id INTO v_run, v_checkpoint FROM run y WHERE y.tenant_id = p_tenant AND y.id = v_run;
        IF v_run IS NULL THEN
            RETURN NULL;
        END IF;
    END LOOP;
END
$$;

-- Returns the checkpoint that the steps after a step start from: its head, unless that is
-- older than the start of their run, which then stands for it. A head is older if it was
-- made before the start in the same run, or in a run that the start's run descends from.
CREATE OR REPLACE FUNCTION nofx.head_after(p_tenant uuid, p_start uuid, p_head uuid) RETURNS uuid
    LANGUAGE plpgsql STABLE SET search_path = nofx, pg_temp
AS $$
DECLARE
    s record;
    h record;
    v_run uuid;
BEGIN
    IF p_start IS NULL OR p_head IS NULL THEN
        RETURN p_head;
    END IF;
    SELECT c.run_id, c.seq INTO s FROM checkpoint c WHERE c.tenant_id = p_tenant AND c.id = p_start;
    SELECT c.run_id, c.seq INTO h FROM checkpoint c WHERE c.tenant_id = p_tenant AND c.id = p_head;
    IF h.run_id = s.run_id THEN
        RETURN CASE WHEN h.seq < s.seq THEN p_start ELSE p_head END;
    END IF;
    v_run := s.run_id;
    LOOP
        SELECT y.parent_run_id INTO v_run FROM run y WHERE y.tenant_id = p_tenant AND y.id = v_run;
        IF v_run IS NULL THEN
            RETURN p_head;
        ELSIF v_run = h.run_id THEN
            RETURN p_start;
        END IF;
    END LOOP;
END
$$;

-- Inserts a branch of a run with its steps, as create_run inserts a run. p_steps has in
-- addition: waits, how many of the steps that a step needs are not restored, and restored
-- for those that are. These are references to the steps of earlier runs that did the work,
-- so no result is copied; but outputs that were edited belong to the branch that edited
-- them and to its own branches. NX011 when the parent has too many branches.
CREATE OR REPLACE FUNCTION nofx.create_branch(p_run jsonb, p_steps jsonb, OUT created_at timestamptz, OUT deadline timestamptz, OUT ready_at timestamptz[], OUT active_steps int)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    v_tenant uuid := tenant();
    v_run uuid := (p_run->>'id')::uuid;
    v_parent uuid := (p_run->>'parent_run_id')::uuid;
    v_total int := jsonb_array_length(p_steps);
    v_restored int;
    v_ids uuid[];
    v_ready uuid[];
    r record;
    m record;
BEGIN
    PERFORM lock_run(v_parent);
    PERFORM check_branches(v_tenant, v_parent);
    PERFORM check_queued_quota(v_tenant);
    SELECT y.project_id, y.root_run_id, start_at(v_tenant, v_parent, (p_run->>'parent_checkpoint_id')::uuid) AS start INTO r
    FROM run y WHERE y.tenant_id = v_tenant AND y.id = v_parent AND y.kind = 'plan';
    IF NOT FOUND OR NOT EXISTS (SELECT FROM checkpoint c WHERE c.tenant_id = v_tenant AND c.id = (p_run->>'parent_checkpoint_id')::uuid) THEN
        RAISE EXCEPTION 'no run of a plan %, or no such checkpoint', v_parent USING ERRCODE = 'NX005', DETAIL = '{"noun":"checkpoint"}';
    END IF;
    v_ready := ARRAY(SELECT (s->>'id')::uuid FROM jsonb_array_elements(p_steps) WITH ORDINALITY AS e (s, ord) WHERE NOT s ? 'restored' AND (s->>'waits')::int = 0 ORDER BY ord);
    v_restored := (SELECT count(*) FROM jsonb_array_elements(p_steps) AS e (s) WHERE s ? 'restored');
    INSERT INTO run (tenant_id, id, project_id, name, goal, labels, event_seq, pending_steps, ready_steps, plan, plan_digest,
        parent_run_id, parent_checkpoint_id, root_run_id, head_checkpoint_id, start_checkpoint_id, reuse_effects,
        trace_id, traceparent, correlation_id, created_by, deadline)
    VALUES (v_tenant, v_run, r.project_id, p_run->>'name', p_run->>'goal', p_run->'labels', 1 + cardinality(v_ready),
        v_total - v_restored - cardinality(v_ready), cardinality(v_ready), p_run->'plan', p_run->>'plan_digest',
        v_parent, (p_run->>'parent_checkpoint_id')::uuid, r.root_run_id, (p_run->>'parent_checkpoint_id')::uuid, r.start, (p_run->>'reuse_effects')::boolean,
        p_run->>'trace_id', p_run->>'traceparent', p_run->>'correlation_id', p_run->>'created_by',
        clock_timestamp() + make_interval(secs => (p_run->>'deadline_s')::float8))
    RETURNING run.created_at, run.deadline INTO created_at, deadline;

    IF p_run ? 'edit' THEN
        INSERT INTO branch_edit (tenant_id, run_id, bases, doc)
        SELECT v_tenant, v_run, ARRAY(SELECT b::uuid FROM jsonb_array_elements_text(p_run->'bases') AS x (b)), p_run->>'edit';
    END IF;
    WITH made AS (
        INSERT INTO step (tenant_id, id, run_id, idx, name, tool, queue, spec, max_attempts, deps_left, event, seq, state, outputs, outputs_bytes, head_checkpoint_id, restored_from)
        SELECT v_tenant, (s->>'id')::uuid, v_run, (ord - 1)::int, s->>'name', s->>'tool', s->>'queue', s->'spec', (s->>'max_attempts')::int,
            (s->>'waits')::int, CASE WHEN n > 0 THEN 'deps_met' END, coalesce(n + 1, 0),
            CASE WHEN f.id IS NULL THEN 'pending' ELSE 'succeeded' END, coalesce(s->'outputs', f.edited), coalesce(octet_length((s->'outputs')::text), f.outputs_bytes), f.head_checkpoint_id, f.id
        FROM jsonb_array_elements(p_steps) WITH ORDINALITY AS e (s, ord) LEFT JOIN unnest(v_ready) WITH ORDINALITY AS x (id, n) ON x.id = (s->>'id')::uuid
        LEFT JOIN LATERAL (
            SELECT coalesce(y.restored_from, y.id) AS id, CASE WHEN y.restored_from IS NOT NULL THEN y.outputs END AS edited, y.outputs_bytes, y.head_checkpoint_id
            FROM step y WHERE e.s ? 'restored' AND y.run_id = v_parent AND y.tenant_id = v_tenant AND y.name = e.s->>'name' AND y.state = 'succeeded' OFFSET 0) AS f ON true
        RETURNING step.idx, step.ready_at, step.restored_from
    ) SELECT array_agg(x.ready_at ORDER BY x.idx) FILTER (WHERE x.ready_at IS NOT NULL) AS ready_at, count(x.restored_from) AS restored INTO m FROM made x;
    ready_at := m.ready_at;
    IF m.restored <> v_restored THEN
        RAISE EXCEPTION 'run %: % of % steps to restore have not succeeded', v_parent, v_restored - m.restored, v_restored USING ERRCODE = 'NX006';
    END IF;

    v_ids := ARRAY(SELECT (s->>'id')::uuid FROM jsonb_array_elements(p_steps) WITH ORDINALITY AS e (s, ord) ORDER BY ord);
    INSERT INTO step_dep (tenant_id, run_id, needs, step_id)
    SELECT v_tenant, v_run, v_ids[n.i::int + 1], v_ids[e.ord]
    FROM jsonb_array_elements(p_steps) WITH ORDINALITY AS e (s, ord), jsonb_array_elements_text(e.s->'needs') AS n (i);
    PERFORM write_events(v_tenant, plain_event(v_run, 1, NULL, 'run.created', NULL,
            jsonb_build_object('goal', left(p_run->>'goal', 500), 'plan_digest', p_run->>'plan_digest', 'steps', v_total, 'restored', v_restored,
                'parent_run_id', public_id('run', v_parent), 'parent_checkpoint_id', public_id('ckpt', (p_run->>'parent_checkpoint_id')::uuid)), p_run->>'trace_id', nofx.cause())
        || ARRAY(SELECT step_event(v_run, 1 + x.n, x.id, 'deps_met', 'pending', 'ready', 0, 0, NULL, p_run->>'trace_id', nofx.cause())
            FROM unnest(v_ready) WITH ORDINALITY AS x (id, n)));
    active_steps := count_active();
END
$$;

-- Records the checkpoint of a branch's edits, made by a running attempt at one of its steps,
-- and reports whether it was the first: several steps may be claimed before there is one.
-- From now on all that comes after the restored steps starts there. NX004 when the attempt
-- has lost its lease.
CREATE OR REPLACE FUNCTION nofx.record_edit(p_step uuid, p_fence bigint, p_checkpoint jsonb) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    s nofx.locked_step := hold_step(p_step, p_fence);
    v_id uuid := (p_checkpoint->>'id')::uuid;
    r record;
BEGIN
    IF p_checkpoint->>'kind' <> 'edit' THEN
        RAISE EXCEPTION 'a checkpoint of edits is no %', p_checkpoint->>'kind' USING ERRCODE = 'NX006';
    END IF;
    DELETE FROM branch_edit e WHERE e.tenant_id = s.tenant_id AND e.run_id = s.run_id;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE run y SET event_seq = y.event_seq + 1, head_checkpoint_id = v_id, start_checkpoint_id = v_id WHERE y.tenant_id = s.tenant_id AND y.id = s.run_id
    RETURNING y.event_seq, y.trace_id INTO r;
    PERFORM write_events(s.tenant_id, ARRAY[plain_event(s.run_id, r.event_seq, s.id, 'checkpoint.created', p_fence,
        store_checkpoint(s.tenant_id, s.run_id, s.id, p_fence, r.event_seq, p_checkpoint), r.trace_id, cause())]);
    RETURN true;
END
$$;

GRANT EXECUTE ON FUNCTION
    nofx.start_at(uuid, uuid, uuid),
    nofx.head_after(uuid, uuid, uuid),
    nofx.create_branch(jsonb, jsonb)
TO nofx_gateway;

GRANT EXECUTE ON FUNCTION
    nofx.record_edit(uuid, bigint, jsonb)
TO nofx_worker;
