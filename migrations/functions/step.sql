-- Steps: the guard of their states, locks, transitions.

-- The same net for steps. What an event does to the row besides its state
-- (fence, attempt, wake_seq, times, lease, attempt row) belongs to the edge, so
-- it is done here, whoever takes it.
CREATE OR REPLACE FUNCTION nofx.step_guard() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    e nofx.transition;
    v_seq bigint;
    v_trace char(32);
    v_least int;
    v_ended boolean;
    v_now timestamptz := clock_timestamp();
    v_lease record;
    v_data jsonb;
    v_telling boolean := coalesce(current_setting('nofx.telling', true), '') = 'on';
    v_from text := OLD.state;
    v_version bigint := OLD.version;
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.state <> 'pending' OR NEW.version <> 1 OR NEW.fence <> 0 THEN
            RAISE EXCEPTION 'a step starts pending at version 1' USING ERRCODE = 'NX006';
        END IF;
        IF v_telling AND NEW.event = 'deps_met' THEN -- readied at once
            e := edge('step', NEW.id, NEW.state, NEW.event, NULL);
            NEW.state := e.to_state;
            NEW.version := 2;
            NEW.wake_seq := 1;
            NEW.ready_at := v_now;
            NEW.due_at := v_now;
        END IF;
        RETURN NEW;
    END IF;
    IF v_telling AND v_from = 'pending' AND NEW.event = 'claim' THEN -- readied and claimed at once
        v_from := (edge('step', OLD.id, v_from, 'deps_met', NULL)).to_state;
        v_version := v_version + 1;
        NEW.ready_at := greatest(NEW.ready_at, v_now);
        NEW.wake_seq := OLD.wake_seq + 1;
        NEW.job_id := NULL;
    END IF;
    IF NEW.version <> v_version + 1 OR NEW.fence <> OLD.fence THEN
        RAISE EXCEPTION 'step %: version % fence % do not follow % %', OLD.id, NEW.version, NEW.fence, OLD.version, OLD.fence USING ERRCODE = 'NX006';
    END IF;
    e := edge('step', OLD.id, v_from, NEW.event, NEW.reason);
    IF NEW.state NOT IN (OLD.state, e.to_state) THEN
        RAISE EXCEPTION 'step %: % leads from % to %, not to %', OLD.id, e.event, OLD.state, e.to_state, NEW.state USING ERRCODE = 'NX006';
    END IF;
    NEW.state := e.to_state;
    v_data := jsonb_build_object('attempt', OLD.attempt);

    IF v_telling THEN
        NULL;
    ELSIF OLD.state = 'running' THEN
        DELETE FROM step_lease l WHERE l.tenant_id = OLD.tenant_id AND l.step_id = OLD.id
        RETURNING l.fence, l.lease_until, l.job_id INTO v_lease;
        IF e.needs_lease AND (v_lease.fence IS DISTINCT FROM OLD.fence OR v_lease.lease_until <= clock_timestamp()) THEN
            RAISE EXCEPTION 'step %: no live lease under fence %', OLD.id, OLD.fence USING
                ERRCODE = 'NX004', DETAIL = jsonb_build_object('fence', OLD.fence, 'current', OLD.fence);
        END IF;
        IF e.event IN ('lease_expired', 'poison', 'cancel') THEN
            PERFORM end_job(v_lease.job_id);
        END IF;
        -- Of an attempt that vanished no more is known than when its lease ran out.
        UPDATE attempt a SET outcome = e.event, accepted = e.to_state = 'succeeded',
            ended_at = CASE WHEN e.event IN ('lease_expired', 'poison') THEN least(v_lease.lease_until, v_now) ELSE v_now END
        WHERE a.tenant_id = OLD.tenant_id AND a.step_id = OLD.id AND a.fence = OLD.fence;
    ELSIF e.to_state = 'succeeded' THEN
        UPDATE attempt a SET accepted = true
        WHERE a.tenant_id = OLD.tenant_id AND a.step_id = OLD.id AND a.fence = OLD.fence;
    END IF;

    CASE e.event
        WHEN 'claim' THEN
            NEW.fence := OLD.fence + 1;
            NEW.attempt := OLD.attempt + 1;
            NEW.started_at := coalesce(OLD.started_at, v_now);
            IF NOT v_telling THEN
                v_data := jsonb_build_object('attempt', NEW.attempt, 'wait_ms', (extract(epoch FROM v_now - OLD.ready_at) * 1000)::bigint);
            END IF;
        WHEN 'interrupted', 'signal' THEN -- the same attempt goes on
            NEW.attempt := OLD.attempt - 1;
        WHEN 'lease_expired', 'poison' THEN
            NEW.fence := OLD.fence + 1;
        WHEN 'cancel' THEN
            IF OLD.state = 'running' THEN
                NEW.fence := OLD.fence + 1;
            END IF;
        WHEN 'retry', 'reopen' THEN
            IF OLD.state <> 'running' THEN -- a person's, who grants all attempts anew
                NEW.attempt := 0;
                NEW.lost_leases := 0;
                NEW.kills := 0;
                NEW.failing_since := NULL;
            ELSIF NEW.failure_class = 'infrastructure' THEN -- which has a budget of time instead
                NEW.attempt := OLD.attempt - 1;
            END IF;
        ELSE NULL;
    END CASE;
    NEW.due_at := NULL;
    NEW.retry_at := NULL;
    NEW.finished_at := NULL;
    CASE e.to_state
        WHEN 'ready' THEN
            NEW.ready_at := greatest(NEW.ready_at, v_now);
            NEW.wake_seq := OLD.wake_seq + 1;
            NEW.job_id := NULL;
            NEW.due_at := NEW.ready_at;
        WHEN 'retrying' THEN
            NEW.retry_at := NEW.ready_at;
            v_data := v_data || jsonb_build_object('at', public_time(NEW.ready_at));
        WHEN 'waiting' THEN
            v_data := v_data || jsonb_build_object('at', public_time(NEW.wait_until));
        WHEN 'succeeded', 'failed', 'skipped', 'cancelled' THEN
            NEW.finished_at := v_now;
        ELSE NULL;
    END CASE;
    NEW.waiting_since := CASE WHEN e.to_state = 'waiting' THEN v_now END;
    IF e.to_state <> 'waiting' THEN
        NEW.wait_until := NULL;
        NEW.signal_key := NULL;
    ELSIF NEW.wait_until IS NULL THEN
        RAISE EXCEPTION 'step %: a wait has a deadline', OLD.id USING ERRCODE = 'NX006';
    END IF;
    NEW.outputs_bytes := octet_length(NEW.outputs::text);
    IF length(NEW.reason) > 2048 OR pg_column_size(NEW.outputs) > 262144 THEN
        RAISE EXCEPTION 'step %: its reason or its outputs are too long', OLD.id USING ERRCODE = 'check_violation';
    END IF;
    IF e.to_state NOT IN ('failed', 'cancelled', 'retrying') THEN
        NEW.failure_class := NULL;
    ELSIF NEW.failure_class IS NOT NULL THEN
        v_data := v_data || jsonb_build_object('failure_class', NEW.failure_class);
    END IF;

    IF v_telling THEN
        RETURN NEW;
    END IF;
    UPDATE run r SET event_seq = r.event_seq + 1,
        pending_steps  = r.pending_steps  + (e.to_state = 'pending')::int  - (OLD.state = 'pending')::int,
        ready_steps    = r.ready_steps    + (e.to_state = 'ready')::int    - (OLD.state = 'ready')::int,
        running_steps  = r.running_steps  + (e.to_state = 'running')::int  - (OLD.state = 'running')::int,
        retrying_steps = r.retrying_steps + (e.to_state = 'retrying')::int - (OLD.state = 'retrying')::int,
        waiting_steps  = r.waiting_steps  + (e.to_state = 'waiting')::int  - (OLD.state = 'waiting')::int,
        failed_steps   = r.failed_steps   + (e.to_state = 'failed')::int   - (OLD.state = 'failed')::int
    WHERE r.tenant_id = OLD.tenant_id AND r.id = OLD.run_id
    RETURNING r.event_seq, r.trace_id, least(r.pending_steps, r.ready_steps, r.running_steps, r.retrying_steps, r.waiting_steps, r.failed_steps),
        r.state IN ('succeeded', 'failed', 'cancelled') AND r.pending_steps + r.ready_steps + r.running_steps + r.retrying_steps + r.waiting_steps <> 0
    INTO v_seq, v_trace, v_least, v_ended;
    IF v_least < 0 OR v_ended THEN
        RAISE EXCEPTION 'step %: % does not fit its run', OLD.id, e.event USING ERRCODE = 'NX006';
    END IF;
    NEW.failed_seq := CASE e.to_state WHEN 'failed' THEN v_seq END;
    IF e.event = 'claim' THEN
        -- Whoever claims like this is no worker. A lease is taken all the same:
        -- nobody would ever look at a running step that has none.
        INSERT INTO step_lease (tenant_id, step_id, fence, owner, lease_until)
        VALUES (OLD.tenant_id, OLD.id, NEW.fence, session_user, v_now + interval '5 s');
        INSERT INTO attempt (tenant_id, step_id, fence, seq, owner, owner_pid, started_at, trace_id, span_id)
        VALUES (OLD.tenant_id, OLD.id, NEW.fence, v_seq, session_user, 0, v_now, repeat('0', 32), repeat('0', 16));
    END IF;
    PERFORM write_event(OLD.tenant_id, OLD.run_id, v_seq, OLD.id, 'step.' || e.to_state, e.event, OLD.state, e.to_state,
        NEW.reason, v_trace, nullif(NEW.fence, 0), v_data);
    RETURN NEW;
END
$$;

-- Locks the step's run and then the step.
CREATE OR REPLACE FUNCTION nofx.lock_step(p_step uuid) RETURNS nofx.locked_step
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

-- The steps of a run that are in one of these states, in the order of the plan. The
-- setting leaves the planner the index in that order: that of a new database would
-- walk the tenant.
CREATE OR REPLACE FUNCTION nofx.steps_in(p_tenant uuid, p_run uuid, p_states text[]) RETURNS uuid[]
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
CREATE OR REPLACE FUNCTION nofx.move_steps(p_tenant uuid, p_run uuid, p_steps uuid[], p_event text, p_reason text, p_class text) RETURNS void
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

-- p_fence is the caller's; edges that need the lease are refused without it.
CREATE OR REPLACE FUNCTION nofx.step_transition(p_step uuid, p_event text, p_reason text DEFAULT NULL, p_fence bigint DEFAULT NULL, p_class text DEFAULT NULL) RETURNS text
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

GRANT EXECUTE ON FUNCTION
    nofx.step_transition(uuid, text, text, bigint, text)
TO nofx_app;

GRANT EXECUTE ON FUNCTION
    nofx.step_guard()
TO nofx_owner;

SET LOCAL ROLE nofx_owner;

CREATE OR REPLACE TRIGGER step_guard BEFORE INSERT OR UPDATE OF state, event, version, fence ON nofx.step
    FOR EACH ROW EXECUTE FUNCTION nofx.step_guard();

SET LOCAL ROLE nofx_system;
