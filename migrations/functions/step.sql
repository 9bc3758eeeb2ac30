-- Steps: the guard of their states, locks, transitions.

-- Guards every change of a step's state, as run_guard does. The other effects of an event
-- on the row (fence, attempt, wake_seq, times, lease, attempt row) belong to the edge, so
-- the guard makes them for every writer. A changed seq says that the writer of the change
-- writes the event itself.
CREATE OR REPLACE FUNCTION nofx.step_guard() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    e nofx.transition;
    v_now timestamptz := clock_timestamp();
    v_from text := OLD.state;
    v_version bigint := OLD.version;
    v_batched boolean;
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.state <> (CASE WHEN NEW.restored_from IS NULL THEN 'pending' ELSE 'succeeded' END) OR NEW.version <> 1 OR NEW.fence <> 0
            OR NEW.seq > 0 AND (NEW.event IS DISTINCT FROM 'deps_met' OR NEW.restored_from IS NOT NULL) THEN
            RAISE EXCEPTION 'a step starts pending at version 1, or succeeded if it is restored' USING ERRCODE = 'NX006';
        END IF;
        IF NEW.seq > 0 THEN -- it depends on nothing, and is ready at once
            NEW.state := (edge('step', NEW.id, NEW.state, NEW.event, NULL)).to_state;
            NEW.version := 2;
            NEW.wake_seq := 1;
            NEW.ready_at := v_now;
            NEW.due_at := v_now;
        END IF;
        RETURN NEW;
    END IF;
    v_batched := NEW.seq <> OLD.seq;
    IF v_batched AND v_from = 'pending' AND NEW.event = 'claim' THEN -- readied and claimed at once
        v_from := (edge('step', OLD.id, v_from, 'deps_met', NULL)).to_state;
        v_version := v_version + 1;
        NEW.ready_at := greatest(NEW.ready_at, v_now);
        NEW.wake_seq := OLD.wake_seq + 1;
        NEW.job_id := NULL;
    END IF;
    IF NEW.fence <> OLD.fence THEN
        RAISE EXCEPTION 'step %: fence % does not follow %', OLD.id, NEW.fence, OLD.fence USING ERRCODE = 'NX006';
    END IF;
    e := check_change('step', OLD.id, v_from, nullif(NEW.state, OLD.state), NEW.event, NEW.reason, v_version, NEW.version, v_batched);
    NEW.state := e.to_state;
    IF NOT v_batched THEN
        PERFORM end_attempt(OLD.tenant_id, OLD.id, OLD.fence, OLD.state, e);
    END IF;

    CASE e.event
        WHEN 'claim' THEN
            NEW.fence := OLD.fence + 1;
            NEW.attempt := OLD.attempt + 1;
            NEW.started_at := coalesce(OLD.started_at, v_now);
        WHEN 'interrupted', 'signal' THEN -- the same attempt continues
            NEW.attempt := OLD.attempt - 1;
        WHEN 'lease_expired', 'poison' THEN
            NEW.fence := OLD.fence + 1;
        WHEN 'cancel' THEN
            IF OLD.state = 'running' THEN
                NEW.fence := OLD.fence + 1;
            END IF;
        WHEN 'retry', 'reopen' THEN
            IF OLD.state <> 'running' THEN -- by a person, with the full number of attempts
                NEW.attempt := 0;
                NEW.lost_leases := 0;
                NEW.kills := 0;
                NEW.failing_since := NULL;
                IF e.event = 'reopen' THEN -- what it depends on may run again before it
                    NEW.started_at := NULL;
                END IF;
            ELSIF NEW.failure_class = 'infrastructure' THEN -- which has a budget of time instead
                NEW.attempt := OLD.attempt - 1;
            END IF;
        ELSE NULL;
    END CASE;
    IF v_batched AND OLD.state = 'pending' AND e.to_state IN ('ready', 'running') THEN -- see count_off
        NEW.deps_left := 0;
    END IF;
    NEW.due_at := NULL;
    NEW.retry_at := NULL;
    NEW.finished_at := CASE WHEN e.final THEN v_now END;
    IF e.to_state = 'ready' THEN
        NEW.ready_at := greatest(NEW.ready_at, v_now);
        NEW.wake_seq := OLD.wake_seq + 1;
        NEW.job_id := NULL;
        NEW.due_at := NEW.ready_at;
    ELSIF e.to_state = 'retrying' THEN
        NEW.retry_at := NEW.ready_at;
    END IF;
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
    END IF;
    IF NOT v_batched THEN
        NEW.seq := write_step_change(OLD.tenant_id, OLD.run_id, step_event(NULL, NULL, OLD.id, e.event, OLD.state, e.to_state, NEW.fence,
            CASE e.event WHEN 'claim' THEN NEW.attempt ELSE OLD.attempt END, NEW.reason, NULL, NULL, NEW.failure_class,
            CASE e.event WHEN 'claim' THEN (extract(epoch FROM v_now - OLD.ready_at) * 1000)::bigint END,
            CASE e.to_state WHEN 'retrying' THEN NEW.ready_at WHEN 'waiting' THEN NEW.wait_until END));
    END IF;
    RETURN NEW;
END
$$;

-- Applies a change of a step's state to its attempt: a step that leaves running gives up
-- its lease, which must be valid if the edge needs it.
CREATE OR REPLACE FUNCTION nofx.end_attempt(p_tenant uuid, p_step uuid, p_fence bigint, p_from text, e nofx.transition) RETURNS void
    LANGUAGE plpgsql
AS $$
DECLARE
    l record;
BEGIN
    IF p_from = 'running' THEN
        IF e.needs_lease THEN
            PERFORM check_lease('step', p_step, p_tenant, p_step, p_fence);
        END IF;
        DELETE FROM step_lease x WHERE x.tenant_id = p_tenant AND x.step_id = p_step
        RETURNING x.lease_until, x.job_id INTO l;
        IF e.event IN ('lease_expired', 'poison', 'cancel') THEN
            PERFORM end_job(l.job_id);
        END IF;
        -- For an attempt that vanished, only the expiry of its lease is known.
        UPDATE attempt a SET outcome = e.event, accepted = e.to_state = 'succeeded',
            ended_at = CASE WHEN e.event IN ('lease_expired', 'poison') THEN least(l.lease_until, clock_timestamp()) ELSE clock_timestamp() END
        WHERE a.tenant_id = p_tenant AND a.step_id = p_step AND a.fence = p_fence;
    ELSIF e.to_state = 'succeeded' THEN
        UPDATE attempt a SET accepted = true WHERE a.tenant_id = p_tenant AND a.step_id = p_step AND a.fence = p_fence;
    END IF;
END
$$;

-- Returns the changes of a run's counters for changes of its steps.
CREATE OR REPLACE FUNCTION nofx.count_changes(p nofx.new_event[]) RETURNS nofx.step_counts
    LANGUAGE plpgsql IMMUTABLE
AS $$
DECLARE
    n nofx.step_counts := ROW(0, 0, 0, 0, 0, 0);
    e nofx.new_event;
BEGIN
    FOREACH e IN ARRAY p LOOP
        n.pending := n.pending + (e.to_state = 'pending')::int - (e.from_state = 'pending')::int;
        n.ready := n.ready + (e.to_state = 'ready')::int - (e.from_state = 'ready')::int;
        n.running := n.running + (e.to_state = 'running')::int - (e.from_state = 'running')::int;
        n.retrying := n.retrying + (e.to_state = 'retrying')::int - (e.from_state = 'retrying')::int;
        n.waiting := n.waiting + (e.to_state = 'waiting')::int - (e.from_state = 'waiting')::int;
        n.failed := n.failed + (e.to_state = 'failed')::int - (e.from_state = 'failed')::int;
    END LOOP;
    RETURN n;
END
$$;

-- Writes the event and the run's counters for one change of a step, and returns the event's
-- seq. p lacks the members that only the run has.
CREATE OR REPLACE FUNCTION nofx.write_step_change(p_tenant uuid, p_run uuid, p nofx.new_event) RETURNS bigint
    LANGUAGE plpgsql
AS $$
DECLARE
    n nofx.step_counts := count_changes(ARRAY[p]);
    r record;
BEGIN
    UPDATE run x SET event_seq = x.event_seq + 1, pending_steps = x.pending_steps + n.pending, ready_steps = x.ready_steps + n.ready,
        running_steps = x.running_steps + n.running, retrying_steps = x.retrying_steps + n.retrying, waiting_steps = x.waiting_steps + n.waiting,
        failed_steps = x.failed_steps + n.failed
    WHERE x.tenant_id = p_tenant AND x.id = p_run
    RETURNING x.event_seq, x.trace_id, least(x.pending_steps, x.ready_steps, x.running_steps, x.retrying_steps, x.waiting_steps, x.failed_steps) AS least,
        x.finished_at IS NOT NULL AND x.pending_steps + x.ready_steps + x.running_steps + x.retrying_steps + x.waiting_steps <> 0 AS ended INTO r;
    IF r.least < 0 OR r.ended THEN
        RAISE EXCEPTION 'step %: % does not fit its run', p.step_id, p.event USING ERRCODE = 'NX006';
    END IF;
    IF p.event = 'claim' THEN
        -- A claim of this form does not come from a worker. It takes a lease all the same,
        -- since the sweeper never looks at a running step without a lease.
        INSERT INTO step_lease (tenant_id, step_id, fence, owner, lease_until)
        VALUES (p_tenant, p.step_id, p.fence, session_user, clock_timestamp() + interval '5 s');
        INSERT INTO attempt (tenant_id, step_id, fence, seq, owner, owner_pid, started_at, trace_id, span_id)
        VALUES (p_tenant, p.step_id, p.fence, r.event_seq, session_user, 0, clock_timestamp(), repeat('0', 32), repeat('0', 16));
    END IF;
    p.run_id := p_run;
    p.seq := r.event_seq;
    p.trace_id := r.trace_id;
    p.cause := cause();
    PERFORM write_events(p_tenant, ARRAY[p]);
    RETURN r.event_seq;
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

-- Returns the steps of a run that are in one of these states, in the order of the plan. The
-- setting leaves the planner only the index in that order; in a new database it would
-- otherwise read all rows of the tenant.
CREATE OR REPLACE FUNCTION nofx.steps_in(p_tenant uuid, p_run uuid, p_states text[]) RETURNS uuid[]
    LANGUAGE plpgsql STABLE SET enable_sort = off
AS $$
BEGIN
    RETURN ARRAY(SELECT s.id FROM step s WHERE s.tenant_id = p_tenant AND s.run_id = p_run AND s.state = ANY (p_states) ORDER BY s.idx);
END
$$;

-- Moves steps of a run by an event that neither begins nor ends an attempt. Events and the
-- run's counters are written once for all steps instead of by the guard for each: otherwise
-- each of a thousand steps would leave a version of the run's row that the next has to
-- skip. The caller holds the run's lock.
CREATE OR REPLACE FUNCTION nofx.move_steps(p_tenant uuid, p_run uuid, p_steps uuid[], p_event text, p_reason text, p_class text) RETURNS void
    LANGUAGE plpgsql
AS $$
DECLARE
    v_events nofx.new_event[] := '{}';
    v_cause text := cause();
    v_seq bigint;
    v_trace text;
    n nofx.step_counts;
    s record;
    m record;
BEGIN
    IF p_steps = '{}' THEN
        RETURN;
    END IF;
    SELECT r.event_seq, r.trace_id INTO v_seq, v_trace FROM run r WHERE r.tenant_id = p_tenant AND r.id = p_run;
    FOR s IN SELECT y.* FROM unnest(p_steps) AS x (id),
        LATERAL (SELECT z.id, z.state, z.attempt FROM step z WHERE z.tenant_id = p_tenant AND z.id = x.id OFFSET 0) AS y LOOP
        v_seq := v_seq + 1;
        UPDATE step y SET event = p_event, version = y.version + 1, seq = v_seq, reason = p_reason, failure_class = p_class
        WHERE y.tenant_id = p_tenant AND y.id = s.id RETURNING y.state, y.fence, y.failure_class INTO m;
        v_events := v_events || step_event(p_run, v_seq, s.id, p_event, s.state, m.state, m.fence, s.attempt, p_reason, v_trace, v_cause, m.failure_class);
    END LOOP;
    n := count_changes(v_events);
    UPDATE run r SET event_seq = v_seq, pending_steps = r.pending_steps + n.pending, ready_steps = r.ready_steps + n.ready,
        running_steps = r.running_steps + n.running, retrying_steps = r.retrying_steps + n.retrying, waiting_steps = r.waiting_steps + n.waiting,
        failed_steps = r.failed_steps + n.failed
    WHERE r.tenant_id = p_tenant AND r.id = p_run;
    PERFORM write_events(p_tenant, v_events);
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
    nofx.step_guard()
TO nofx_owner;

SET LOCAL ROLE nofx_owner;

CREATE OR REPLACE TRIGGER step_guard BEFORE INSERT OR UPDATE OF state, event, version, fence ON nofx.step
    FOR EACH ROW EXECUTE FUNCTION nofx.step_guard();

SET LOCAL ROLE nofx_system;
