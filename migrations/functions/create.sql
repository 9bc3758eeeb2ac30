-- Creates a run with its steps.

-- Inserts a run with its steps; those without dependencies are ready at once.
-- p_steps is an array of {id, name, tool, queue, spec, max_attempts, needs: [idx]}
-- in plan order, dependencies given by index. ready_at is when those steps that
-- depend on nothing became ready, in plan order, ready_steps how many the tenant
-- has now. A system run has kind and work_key, and perhaps subject_run_id. NX021 when the
-- tenant may have no more queued runs.
CREATE OR REPLACE FUNCTION nofx.create_run(p_run jsonb, p_steps jsonb, OUT created_at timestamptz, OUT deadline timestamptz, OUT ready_at timestamptz[], OUT active_steps int)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    v_tenant uuid := tenant();
    v_run uuid := (p_run->>'id')::uuid;
    v_project uuid;
    v_ids uuid[];
    v_ready uuid[];
BEGIN
    IF NOT p_run ? 'kind' THEN
        PERFORM check_queued_quota(v_tenant);
    END IF;
    PERFORM pg_advisory_xact_lock_shared(project_lock(v_tenant));
    SELECT id INTO v_project FROM project WHERE tenant_id = v_tenant AND slug = p_run->>'project';
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no project %', p_run->>'project' USING ERRCODE = 'NX005', DETAIL = '{"noun":"project"}';
    END IF;
    v_ready := ARRAY(SELECT (s->>'id')::uuid FROM jsonb_array_elements(p_steps) WITH ORDINALITY AS e (s, ord) WHERE jsonb_array_length(s->'needs') = 0 ORDER BY ord);
    INSERT INTO run (tenant_id, id, project_id, kind, subject_run_id, work_key, goal, labels, event_seq, pending_steps, ready_steps, plan, plan_digest, root_run_id,
        trace_id, traceparent, correlation_id, created_by, deadline)
    VALUES (v_tenant, v_run, v_project, coalesce(p_run->>'kind', 'plan'), (p_run->>'subject_run_id')::uuid, p_run->>'work_key', p_run->>'goal', p_run->'labels', 1 + cardinality(v_ready),
        jsonb_array_length(p_steps) - cardinality(v_ready), cardinality(v_ready), p_run->'plan', p_run->>'plan_digest', v_run,
        p_run->>'trace_id', p_run->>'traceparent', p_run->>'correlation_id', p_run->>'created_by',
        clock_timestamp() + make_interval(secs => (p_run->>'deadline_s')::float8))
    RETURNING run.created_at, run.deadline INTO created_at, deadline;

    WITH made AS (
        INSERT INTO step (tenant_id, id, run_id, idx, name, tool, queue, spec, max_attempts, deps_left, event, seq)
        SELECT v_tenant, (s->>'id')::uuid, v_run, (ord - 1)::int, s->>'name', s->>'tool', s->>'queue', s->'spec', (s->>'max_attempts')::int,
            jsonb_array_length(s->'needs'), CASE WHEN n > 0 THEN 'deps_met' END, coalesce(n + 1, 0)
        FROM jsonb_array_elements(p_steps) WITH ORDINALITY AS e (s, ord) LEFT JOIN unnest(v_ready) WITH ORDINALITY AS x (id, n) ON x.id = (s->>'id')::uuid
        RETURNING step.idx, step.ready_at
    ) SELECT array_agg(m.ready_at ORDER BY m.idx) FILTER (WHERE m.ready_at IS NOT NULL) INTO ready_at FROM made m;

    v_ids := ARRAY(SELECT (s->>'id')::uuid FROM jsonb_array_elements(p_steps) WITH ORDINALITY AS e (s, ord) ORDER BY ord);
    INSERT INTO step_dep (tenant_id, run_id, needs, step_id)
    SELECT v_tenant, v_run, v_ids[n.i::int + 1], v_ids[e.ord]
    FROM jsonb_array_elements(p_steps) WITH ORDINALITY AS e (s, ord), jsonb_array_elements_text(e.s->'needs') AS n (i);
    PERFORM write_events(v_tenant, plain_event(v_run, 1, NULL, 'run.created', NULL,
            jsonb_build_object('goal', left(p_run->>'goal', 500), 'plan_digest', p_run->>'plan_digest', 'steps', jsonb_array_length(p_steps))
                || CASE WHEN p_run ? 'kind' THEN jsonb_build_object('kind', p_run->>'kind') ELSE '{}' END, p_run->>'trace_id', nofx.cause())
        || ARRAY(SELECT step_event(v_run, 1 + x.n, x.id, 'deps_met', 'pending', 'ready', 0, 0, NULL, p_run->>'trace_id', nofx.cause())
            FROM unnest(v_ready) WITH ORDINALITY AS x (id, n)));
    active_steps := count_active();
    IF p_run->>'kind' = 'system' AND p_steps->0->>'tool' = 'sys:gc' AND p_run->>'created_by' <> 'system' THEN
        PERFORM audit('storage.collect', public_id('run', v_run), NULL, NULL, p_steps->0->'spec'->'inputs');
    END IF;
END
$$;

-- Returns the newest run that computes p_key, if there is one. Other callers with the same
-- key wait until this transaction ends.
CREATE OR REPLACE FUNCTION nofx.run_of_work(p_key text) RETURNS uuid
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(tenant()::text || '/system-run/' || p_key, 0));
    RETURN (SELECT r.id FROM run r WHERE r.tenant_id = tenant() AND r.work_key = p_key ORDER BY r.id DESC LIMIT 1);
END
$$;

GRANT EXECUTE ON FUNCTION
    nofx.create_run(jsonb, jsonb),
    nofx.run_of_work(text)
TO nofx_app;
