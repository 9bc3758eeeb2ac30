-- One function per machine: the only way both processes change a state. Each
-- locks run, then step, then gate (EXECUTION.md, Lock order), looks at fence
-- and version, and leaves the rest to the guards.
--
-- Functions here and later that are not SECURITY DEFINER are helpers: nobody but
-- nofx_system may call them, from functions that have set the search path. To set
-- it again at each call would cost more than most of them do.
SET LOCAL ROLE nofx_system;

-- What a lock tells. Never the whole row: to hand one on Postgres unpacks every
-- large column of it, and a run holds its plan.
CREATE TYPE nofx.locked_run AS (tenant_id uuid, id uuid, state text, version bigint);
CREATE TYPE nofx.locked_step AS (tenant_id uuid, run_id uuid, id uuid, name text, state text, fence bigint);
CREATE TYPE nofx.locked_gate AS (tenant_id uuid, run_id uuid, step_id uuid, id uuid, kind text, state text, version bigint, fence bigint, expires_at timestamptz);

CREATE FUNCTION nofx.lock_run(p_run uuid) RETURNS nofx.locked_run
    LANGUAGE plpgsql
AS $$
DECLARE
    r nofx.locked_run;
BEGIN
    SELECT tenant_id, id, state, version INTO r FROM run WHERE tenant_id = tenant() AND id = p_run FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no run %', p_run USING ERRCODE = 'NX005', DETAIL = '{"noun":"run"}';
    END IF;
    RETURN r;
END
$$;

-- Locks the step's run and then the step.
CREATE FUNCTION nofx.lock_step(p_step uuid) RETURNS nofx.locked_step
    LANGUAGE plpgsql
AS $$
DECLARE
    s nofx.locked_step;
BEGIN
    PERFORM lock_run(run_id) FROM step WHERE tenant_id = tenant() AND id = p_step;
    SELECT tenant_id, run_id, id, name, state, fence INTO s FROM step WHERE tenant_id = tenant() AND id = p_step FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no step %', p_step USING ERRCODE = 'NX005', DETAIL = '{"noun":"step"}';
    END IF;
    RETURN s;
END
$$;

-- Locks the gate's run, its step and then the gate.
CREATE FUNCTION nofx.lock_gate(p_gate uuid) RETURNS nofx.locked_gate
    LANGUAGE plpgsql
AS $$
DECLARE
    g nofx.locked_gate;
BEGIN
    PERFORM lock_step(step_id) FROM gate WHERE tenant_id = tenant() AND id = p_gate;
    SELECT x.tenant_id, x.run_id, x.step_id, x.id, x.kind, x.state, x.version, s.fence, x.expires_at INTO g
    FROM gate x JOIN step s ON s.tenant_id = x.tenant_id AND s.id = x.step_id
    WHERE x.tenant_id = tenant() AND x.id = p_gate FOR NO KEY UPDATE OF x;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no gate %', p_gate USING ERRCODE = 'NX005', DETAIL = '{"noun":"gate"}';
    END IF;
    RETURN g;
END
$$;

CREATE FUNCTION nofx.check_version(p_version bigint, p_current bigint, p_state text) RETURNS void
    LANGUAGE plpgsql IMMUTABLE
AS $$
BEGIN
    IF p_version <> p_current THEN
        RAISE EXCEPTION 'version % is stale, it is % now', p_version, p_current USING
            ERRCODE = 'NX003', DETAIL = jsonb_build_object('version', p_current, 'state', p_state);
    END IF;
END
$$;

CREATE FUNCTION nofx.check_fence(p_fence bigint, p_current bigint) RETURNS void
    LANGUAGE plpgsql IMMUTABLE
AS $$
BEGIN
    IF p_fence IS DISTINCT FROM p_current THEN
        RAISE EXCEPTION 'fence % is lost, it is % now', p_fence, p_current USING
            ERRCODE = 'NX004', DETAIL = jsonb_build_object('fence', p_fence, 'current', p_current);
    END IF;
END
$$;

-- The steps of a run that are in one of these states, in the order of the plan. The
-- setting leaves the planner the index in that order: that of a new database would
-- walk the tenant.
CREATE FUNCTION nofx.steps_in(p_tenant uuid, p_run uuid, p_states text[]) RETURNS uuid[]
    LANGUAGE plpgsql STABLE SET enable_sort = off
AS $$
BEGIN
    RETURN ARRAY(SELECT s.id FROM step s WHERE s.tenant_id = p_tenant AND s.run_id = p_run AND s.state = ANY (p_states) ORDER BY s.idx);
END
$$;

-- Moves steps of a run by an event that neither begins nor ends an attempt. What the
-- guard writes for each, an event and the run's counters, is written once for all: of
-- a thousand steps each would leave a version of the run's row for the next to pass
-- by. The caller holds the run's lock.
CREATE FUNCTION nofx.move_steps(p_tenant uuid, p_run uuid, p_steps uuid[], p_event text, p_reason text, p_class text) RETURNS void
    LANGUAGE plpgsql
AS $$
DECLARE
    v_told nofx.told[] := '{}';
    v_cause text := cause();
    v_seq bigint;
    v_trace text;
    s record;
    m record;
BEGIN
    IF p_steps = '{}' THEN
        RETURN;
    END IF;
    SELECT r.event_seq, r.trace_id INTO v_seq, v_trace FROM run r WHERE r.tenant_id = p_tenant AND r.id = p_run;
    PERFORM set_config('nofx.telling', 'on', true);
    FOR s IN SELECT y.* FROM unnest(p_steps) AS x (id),
        LATERAL (SELECT z.id, z.state, z.attempt FROM step z WHERE z.tenant_id = p_tenant AND z.id = x.id OFFSET 0) AS y LOOP
        IF s.state = 'running' THEN
            RAISE EXCEPTION 'step %: % would end its attempt', s.id, p_event USING ERRCODE = 'NX006';
        END IF;
        UPDATE step y SET event = p_event, version = y.version + 1, reason = p_reason, failure_class = p_class, failed_seq = NULL
        WHERE y.tenant_id = p_tenant AND y.id = s.id RETURNING y.state, y.fence, y.failure_class INTO m;
        v_seq := v_seq + 1;
        v_told := v_told || ROW(p_run, v_seq, s.id, 'step.' || m.state, p_event, s.state, m.state,
            jsonb_strip_nulls(jsonb_build_object('attempt', s.attempt, 'failure_class', m.failure_class)), p_reason, v_trace, nullif(m.fence, 0), v_cause)::nofx.told;
    END LOOP;
    PERFORM set_config('nofx.telling', '', true);
    UPDATE run r SET event_seq = v_seq,
        pending_steps = r.pending_steps + c.pending, ready_steps = r.ready_steps + c.ready, retrying_steps = r.retrying_steps + c.retrying,
        waiting_steps = r.waiting_steps + c.waiting, failed_steps = r.failed_steps + c.failed
    FROM (
        SELECT sum((t.to_state = 'pending')::int - (t.from_state = 'pending')::int) AS pending, sum((t.to_state = 'ready')::int - (t.from_state = 'ready')::int) AS ready,
            sum((t.to_state = 'retrying')::int - (t.from_state = 'retrying')::int) AS retrying, sum((t.to_state = 'waiting')::int - (t.from_state = 'waiting')::int) AS waiting,
            sum((t.to_state = 'failed')::int - (t.from_state = 'failed')::int) AS failed
        FROM unnest(v_told) AS t
    ) AS c WHERE r.tenant_id = p_tenant AND r.id = p_run;
    PERFORM tell(p_tenant, v_told);
END
$$;

-- Each of the three answers with the new state.
CREATE FUNCTION nofx.run_transition(p_run uuid, p_event text, p_reason text DEFAULT NULL, p_version bigint DEFAULT NULL, p_class text DEFAULT NULL) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    r nofx.locked_run := lock_run(p_run);
BEGIN
    PERFORM check_version(p_version, r.version, r.state);
    UPDATE run SET event = p_event, version = version + 1, reason = p_reason, failure_class = p_class
    WHERE tenant_id = r.tenant_id AND id = r.id RETURNING state INTO r.state;
    RETURN r.state;
END
$$;

-- p_fence is the caller's; edges that need the lease are refused without it.
CREATE FUNCTION nofx.step_transition(p_step uuid, p_event text, p_reason text DEFAULT NULL, p_fence bigint DEFAULT NULL, p_class text DEFAULT NULL) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    s nofx.locked_step := lock_step(p_step);
    e nofx.transition := edge('step', p_step, s.state, p_event, p_reason);
BEGIN
    IF e.needs_lease THEN
        PERFORM check_fence(p_fence, s.fence);
    END IF;
    UPDATE step SET event = p_event, version = version + 1, reason = p_reason, failure_class = p_class
    WHERE tenant_id = s.tenant_id AND id = s.id RETURNING state INTO s.state;
    RETURN s.state;
END
$$;

CREATE FUNCTION nofx.gate_transition(p_gate uuid, p_event text, p_reason text DEFAULT NULL, p_version bigint DEFAULT NULL, p_fence bigint DEFAULT NULL) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    g nofx.locked_gate := lock_gate(p_gate);
    e nofx.transition;
BEGIN
    PERFORM check_version(p_version, g.version, g.state);
    e := edge('gate', p_gate, g.state, p_event, p_reason);
    IF e.needs_lease THEN
        PERFORM check_fence(p_fence, g.fence);
    END IF;
    UPDATE gate SET event = p_event, version = version + 1, reason = p_reason
    WHERE tenant_id = g.tenant_id AND id = g.id RETURNING state INTO g.state;
    RETURN g.state;
END
$$;

GRANT EXECUTE ON FUNCTION
    nofx.run_transition(uuid, text, text, bigint, text),
    nofx.step_transition(uuid, text, text, bigint, text),
    nofx.gate_transition(uuid, text, text, bigint, bigint)
TO nofx_app;

RESET ROLE;
