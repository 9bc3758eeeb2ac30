-- One function per machine: the only way both processes change a state. Each
-- locks run, then step, then gate (EXECUTION.md, Lock order), looks at fence
-- and version, and leaves the rest to the guards.
SET LOCAL ROLE nofx_system;

CREATE FUNCTION nofx.lock_run(p_run uuid) RETURNS nofx.run
    LANGUAGE plpgsql SET search_path = nofx, pg_temp
AS $$
DECLARE
    r nofx.run;
BEGIN
    SELECT * INTO r FROM run WHERE tenant_id = tenant() AND id = p_run FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no run %', p_run USING ERRCODE = 'NX005';
    END IF;
    RETURN r;
END
$$;

-- Locks the step's run and then the step.
CREATE FUNCTION nofx.lock_step(p_step uuid) RETURNS nofx.step
    LANGUAGE plpgsql SET search_path = nofx, pg_temp
AS $$
DECLARE
    s nofx.step;
BEGIN
    PERFORM lock_run(run_id) FROM step WHERE tenant_id = tenant() AND id = p_step;
    SELECT * INTO s FROM step WHERE tenant_id = tenant() AND id = p_step FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no step %', p_step USING ERRCODE = 'NX005';
    END IF;
    RETURN s;
END
$$;

-- Locks the gate's run, its step and then the gate.
CREATE FUNCTION nofx.lock_gate(p_gate uuid) RETURNS nofx.gate
    LANGUAGE plpgsql SET search_path = nofx, pg_temp
AS $$
DECLARE
    g nofx.gate;
BEGIN
    PERFORM lock_step(step_id) FROM gate WHERE tenant_id = tenant() AND id = p_gate;
    SELECT * INTO g FROM gate WHERE tenant_id = tenant() AND id = p_gate FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no gate %', p_gate USING ERRCODE = 'NX005';
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

CREATE FUNCTION nofx.run_transition(p_run uuid, p_event text, p_reason text DEFAULT NULL, p_version bigint DEFAULT NULL, p_class text DEFAULT NULL) RETURNS nofx.run
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    r nofx.run := lock_run(p_run);
BEGIN
    PERFORM check_version(p_version, r.version, r.state);
    UPDATE run SET event = p_event, version = version + 1, reason = p_reason, failure_class = p_class
    WHERE tenant_id = r.tenant_id AND id = r.id RETURNING * INTO r;
    RETURN r;
END
$$;

-- p_fence is the caller's; edges that need the lease are refused without it.
CREATE FUNCTION nofx.step_transition(p_step uuid, p_event text, p_reason text DEFAULT NULL, p_fence bigint DEFAULT NULL, p_class text DEFAULT NULL) RETURNS nofx.step
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    s nofx.step := lock_step(p_step);
    e nofx.transition := edge('step', p_step, s.state, p_event, p_reason);
BEGIN
    IF e.needs_lease AND p_fence IS DISTINCT FROM s.fence THEN
        RAISE EXCEPTION 'step %: fence % is lost, it is % now', s.id, p_fence, s.fence USING
            ERRCODE = 'NX004', DETAIL = jsonb_build_object('fence', p_fence, 'current', s.fence);
    END IF;
    UPDATE step SET event = p_event, version = version + 1, reason = p_reason, failure_class = p_class
    WHERE tenant_id = s.tenant_id AND id = s.id RETURNING * INTO s;
    RETURN s;
END
$$;

CREATE FUNCTION nofx.gate_transition(p_gate uuid, p_event text, p_reason text DEFAULT NULL, p_version bigint DEFAULT NULL, p_fence bigint DEFAULT NULL) RETURNS nofx.gate
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    s nofx.step;
    g nofx.gate;
    e nofx.transition;
BEGIN
    g := lock_gate(p_gate);
    SELECT * INTO s FROM step WHERE tenant_id = g.tenant_id AND id = g.step_id;
    PERFORM check_version(p_version, g.version, g.state);
    e := edge('gate', p_gate, g.state, p_event, p_reason);
    IF e.needs_lease AND p_fence IS DISTINCT FROM s.fence THEN
        RAISE EXCEPTION 'gate %: fence % is lost, it is % now', g.id, p_fence, s.fence USING
            ERRCODE = 'NX004', DETAIL = jsonb_build_object('fence', p_fence, 'current', s.fence);
    END IF;
    UPDATE gate SET event = p_event, version = version + 1, reason = p_reason
    WHERE tenant_id = g.tenant_id AND id = g.id RETURNING * INTO g;
    RETURN g;
END
$$;

GRANT EXECUTE ON FUNCTION
    nofx.run_transition(uuid, text, text, bigint, text),
    nofx.step_transition(uuid, text, text, bigint, text),
    nofx.gate_transition(uuid, text, text, bigint, bigint)
TO nofx_app;

RESET ROLE;
