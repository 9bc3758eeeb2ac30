-- Runs: the guard of their states, locks, transitions.

-- Guards every change of a run's state by any writer: it must take a known edge to the next
-- version, with a reason if one is needed. The guard writes the event, so that no state
-- changes without its event.
--
-- A statement costs much more than another row in it, so functions that change many rows
-- write all events in one statement. Data marks this form: the same UPDATE changes
-- event_seq, which no login may write. Only edges marked as batched allow it.
CREATE OR REPLACE FUNCTION nofx.run_guard() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    e nofx.transition;
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.state <> 'queued' OR NEW.version <> 1 OR NEW.event_seq < 1 THEN
            RAISE EXCEPTION 'a run starts queued at version 1, with its first event' USING ERRCODE = 'NX006';
        END IF;
        IF length(NEW.trace_id) <> 32 OR translate(NEW.trace_id, '0123456789abcdef', '') <> '' OR NEW.trace_id = repeat('0', 32) THEN
            RAISE EXCEPTION 'run %: % is no trace id', NEW.id, NEW.trace_id USING ERRCODE = 'check_violation';
        END IF;
        RETURN NEW;
    END IF;
    e := check_change('run', OLD.id, OLD.state, nullif(NEW.state, OLD.state), NEW.event, NEW.reason, OLD.version, NEW.version, NEW.event_seq <> OLD.event_seq);
    NEW.state := e.to_state;
    IF length(NEW.reason) > 2048 THEN
        RAISE EXCEPTION 'run %: a reason has at most 2048 characters', OLD.id USING ERRCODE = 'check_violation';
    END IF;
    IF e.final AND NEW.pending_steps + NEW.ready_steps + NEW.running_steps + NEW.retrying_steps + NEW.waiting_steps <> 0 THEN
        RAISE EXCEPTION 'run %: it has steps that have not ended', OLD.id USING ERRCODE = 'NX006';
    END IF;
    IF e.event = 'start' OR (e.event IN ('retry', 'resume') AND NEW.started_at IS NULL) THEN
        NEW.started_at := clock_timestamp();
    END IF;
    NEW.finished_at := CASE WHEN e.final THEN clock_timestamp() END;
    IF e.to_state NOT IN ('failed', 'cancelled') THEN
        NEW.failure_class := NULL;
    END IF;
    IF e.to_state = 'paused' THEN -- the deadline's clock is stopped
        NEW.paused_at := clock_timestamp();
        NEW.stopped_deadline := OLD.deadline;
        NEW.deadline := 'infinity';
    ELSIF OLD.paused_at IS NOT NULL THEN
        NEW.deadline := OLD.stopped_deadline + (clock_timestamp() - OLD.paused_at);
        NEW.paused_at := NULL;
        NEW.stopped_deadline := NULL;
    END IF;
    IF NEW.event_seq = OLD.event_seq THEN
        NEW.event_seq := OLD.event_seq + 1;
        PERFORM write_events(OLD.tenant_id, ARRAY[run_event(OLD.id, NEW.event_seq, e.event, OLD.state, e.to_state, NEW.reason, NEW.failure_class, OLD.trace_id, cause())]);
    END IF;
    RETURN NEW;
END
$$;

CREATE OR REPLACE FUNCTION nofx.lock_run(p_run uuid) RETURNS nofx.locked_run
    LANGUAGE plpgsql
AS $$
DECLARE
    r nofx.locked_run;
BEGIN
    SELECT tenant_id, id, state, version INTO r FROM run WHERE tenant_id = tenant() AND id = p_run AND expired_at IS NULL FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no run %', p_run USING ERRCODE = 'NX005', DETAIL = '{"noun":"run"}';
    END IF;
    RETURN r;
END
$$;

-- Each of the three functions returns the new state.
CREATE OR REPLACE FUNCTION nofx.run_transition(p_run uuid, p_event text, p_reason text DEFAULT NULL, p_version bigint DEFAULT NULL, p_class text DEFAULT NULL) RETURNS text
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

-- Locks runs in the order of all transactions.
--
-- It works row by row, as all code on the hot path: a look-up by a whole key gets the same
-- plan with statistics or without, and one statement serves any number of rows. For lists
-- and joins, the planner of a new database would read all rows of the tenant.
CREATE OR REPLACE FUNCTION nofx.lock_runs(p_tenant uuid, p_runs uuid[]) RETURNS void
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

-- Locks runs for a caller that looks at them before it changes something that needs them.
CREATE OR REPLACE FUNCTION nofx.hold_runs(p_runs uuid[]) RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
    SELECT lock_runs(tenant(), p_runs)
$$;

-- Locks the run of a candidate, unless another transaction holds the lock: that transaction
-- may handle the candidate, and if not, the next pass finds it again. A pass that waited
-- would delay all other candidates because of one run. A missing run is not held; the
-- caller's next lock reports it.
CREATE OR REPLACE FUNCTION nofx.try_run(p_run uuid) RETURNS boolean
    LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM FROM run r WHERE r.tenant_id = tenant() AND r.id = p_run FOR NO KEY UPDATE SKIP LOCKED;
    RETURN FOUND OR NOT EXISTS (SELECT FROM run r WHERE r.tenant_id = tenant() AND r.id = p_run);
END
$$;

-- Returns the values of the gauges: live runs of plans by state, over all tenants.
CREATE OR REPLACE FUNCTION nofx.run_counts() RETURNS TABLE (state text, n bigint)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
    SELECT r.state, count(*) FROM run r WHERE r.state IN ('queued', 'running', 'waiting', 'paused') AND r.kind = 'plan' GROUP BY r.state
$$;

GRANT EXECUTE ON FUNCTION
    nofx.run_transition(uuid, text, text, bigint, text),
    nofx.hold_runs(uuid[]),
    nofx.run_counts()
TO nofx_gateway;

GRANT EXECUTE ON FUNCTION
    nofx.run_guard()
TO nofx_owner;

SET LOCAL ROLE nofx_owner;

CREATE OR REPLACE TRIGGER run_guard BEFORE INSERT OR UPDATE OF state, event, version ON nofx.run
    FOR EACH ROW EXECUTE FUNCTION nofx.run_guard();

SET LOCAL ROLE nofx_system;
