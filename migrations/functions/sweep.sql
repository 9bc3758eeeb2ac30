-- The sweeper: finds due candidates of all tenants and handles each.

-- Every worker runs these queries each second, one per kind, so that a failing one does not
-- delay the others. They are planned once, for index scans: an index scan marks entries of
-- deleted rows as dead, while a bitmap scan reads them again each time until a vacuum,
-- which large tables seldom get. With these settings the estimated costs are so high that
-- jit would compile the queries, so it is off.

-- Returns steps whose lease has expired, unless expired leases are left to their holders.
CREATE OR REPLACE FUNCTION nofx.due_leases(p_limit int, p_ttl interval, p_gap interval) RETURNS TABLE (tenant_id uuid, run_id uuid, step_id uuid)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp SET enable_bitmapscan = off SET enable_seqscan = off SET enable_sort = off SET jit = off
AS $$
BEGIN
    PERFORM note_contact(p_gap);
    IF holds_off(p_ttl, p_gap) THEN
        RETURN;
    END IF;
    RETURN QUERY WITH late AS (
        SELECT l.tenant_id, l.step_id FROM step_lease l WHERE l.lease_until <= clock_timestamp()
        FOR NO KEY UPDATE SKIP LOCKED LIMIT p_limit
    ) SELECT l.tenant_id, s.run_id, l.step_id FROM late l JOIN step s ON s.tenant_id = l.tenant_id AND s.id = l.step_id;
END
$$;

-- Returns steps whose delay before another attempt is over.
CREATE OR REPLACE FUNCTION nofx.due_retries(p_limit int) RETURNS TABLE (tenant_id uuid, run_id uuid, step_id uuid)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp SET enable_bitmapscan = off SET enable_seqscan = off SET enable_sort = off SET jit = off
AS $$
BEGIN
    RETURN QUERY SELECT s.tenant_id, s.run_id, s.id FROM step s
    WHERE s.state = 'retrying' AND s.retry_at <= (SELECT clock_timestamp())
    ORDER BY s.retry_at FOR NO KEY UPDATE SKIP LOCKED LIMIT p_limit;
END
$$;

-- Returns steps whose wait is over.
CREATE OR REPLACE FUNCTION nofx.due_waits(p_limit int) RETURNS TABLE (tenant_id uuid, run_id uuid, step_id uuid)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp SET enable_bitmapscan = off SET enable_seqscan = off SET enable_sort = off SET jit = off
AS $$
BEGIN
    RETURN QUERY SELECT s.tenant_id, s.run_id, s.id FROM step s
    WHERE s.state = 'waiting' AND s.wait_until <= (SELECT clock_timestamp())
    ORDER BY s.wait_until FOR NO KEY UPDATE SKIP LOCKED LIMIT p_limit;
END
$$;

-- Returns runs whose deadline has passed.
CREATE OR REPLACE FUNCTION nofx.due_runs(p_limit int) RETURNS TABLE (tenant_id uuid, run_id uuid, step_id uuid)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp SET enable_bitmapscan = off SET enable_seqscan = off SET enable_sort = off SET jit = off
AS $$
BEGIN
    RETURN QUERY SELECT r.tenant_id, r.id, NULL::uuid FROM run r
    WHERE r.state IN ('queued', 'running', 'waiting', 'paused') AND r.deadline <= (SELECT clock_timestamp())
    ORDER BY r.deadline FOR NO KEY UPDATE SKIP LOCKED LIMIT p_limit;
END
$$;

-- Handles one candidate under its locks, after a second look. Returns the transition, or
-- NULL when the run is locked or nothing is left to do.
--
-- A lost lease counts towards poison if the step's tool had begun and no other step ran in
-- that worker. Any other loss only delays the step. The tenth loss of any kind is the last,
-- so that a step that always runs with others ends as well.
CREATE OR REPLACE FUNCTION nofx.sweep_step(p_step uuid, p_kind text, p_lost interval, p_ttl interval, p_gap interval) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    l nofx.locked_step;
    s record;
    v_lease record;
    v_kills int;
    v_event text;
    v_gate uuid;
BEGIN
    IF NOT try_run((SELECT x.run_id FROM step x WHERE x.tenant_id = tenant() AND x.id = p_step)) THEN
        RETURN NULL;
    END IF;
    l := lock_step(p_step);
    SELECT x.ready_at, x.wait_until, x.job_id, x.lost_leases, x.kills INTO s FROM step x WHERE x.tenant_id = l.tenant_id AND x.id = l.id;
    CASE
    WHEN p_kind = 'lease' AND l.state = 'running' THEN
        -- The lock makes a concurrent heartbeat either visible here or too late. The same
        -- query finds the owner's other leases: if two sweepers take one each at once, both
        -- see the other's lease or its mark.
        SELECT x.lease_until, x.owner, x.begun, x.beside OR EXISTS (
            SELECT FROM step_lease y WHERE y.owner = x.owner AND y.step_id <> x.step_id) AS beside INTO v_lease
        FROM step_lease x WHERE x.tenant_id = l.tenant_id AND x.step_id = l.id FOR UPDATE OF x;
        IF v_lease.lease_until > clock_timestamp() OR holds_off(p_ttl, p_gap) THEN
            RETURN NULL;
        END IF;
        UPDATE step_lease x SET beside = true WHERE (x.tenant_id, x.step_id) IN (
            SELECT y.tenant_id, y.step_id FROM step_lease y WHERE y.owner = v_lease.owner AND y.step_id <> l.id AND NOT y.beside
            FOR NO KEY UPDATE SKIP LOCKED);
        -- For the list of workers. This does not wait for a worker that is reporting right
        -- now.
        UPDATE worker w SET lost = true WHERE w.id = (SELECT x.id FROM worker x WHERE x.id = v_lease.owner AND NOT x.lost FOR NO KEY UPDATE SKIP LOCKED);
        v_kills := s.kills + (v_lease.begun AND NOT v_lease.beside)::int;
        v_event := CASE WHEN is_doomed(l.tenant_id, l.run_id, l.id, l.fence) THEN 'cancel' WHEN v_kills >= 3 OR s.lost_leases >= 9 THEN 'poison' ELSE 'lease_expired' END;
        UPDATE step SET event = v_event, version = version + 1, lost_leases = s.lost_leases + 1, kills = v_kills,
            reason = CASE v_event WHEN 'cancel' THEN 'run_failed' WHEN 'lease_expired' THEN 'the lease of its worker expired'
                ELSE CASE WHEN v_kills >= 3 THEN 'poisoned: three workers died while they ran nothing else' ELSE 'poisoned: the lease was lost ten times' END END,
            failure_class = CASE v_event WHEN 'poison' THEN 'poisoned' WHEN 'cancel' THEN 'cancelled' END,
            -- The step must not run again at once with the steps that were lost with it,
            -- since it may be the one that kills its worker. From here on claim_steps
            -- separates them.
            ready_at = clock_timestamp() + CASE WHEN s.lost_leases >= 1 THEN make_interval(secs => 10 + 20 * random()) ELSE interval '0' END
        WHERE tenant_id = l.tenant_id AND id = l.id;
    WHEN p_kind = 'retry' AND l.state = 'retrying' AND s.ready_at <= clock_timestamp() THEN
        v_event := 'backoff_elapsed';
        PERFORM step_transition(l.id, v_event);
    WHEN p_kind = 'wait' AND l.state = 'waiting' AND s.wait_until <= clock_timestamp() THEN
        SELECT CASE w.kind WHEN 'timer' THEN 'elapsed' ELSE 'expire' END INTO v_event FROM wait w
        WHERE w.tenant_id = l.tenant_id AND w.step_id = l.id ORDER BY w.round DESC LIMIT 1;
        IF v_event = 'elapsed' THEN
            PERFORM step_transition(l.id, v_event);
            PERFORM ready_successors(l.tenant_id, l.run_id, l.id);
        ELSE
            SELECT g.id INTO v_gate FROM gate g WHERE g.tenant_id = l.tenant_id AND g.step_id = l.id AND g.state = 'pending';
            IF FOUND THEN
                PERFORM gate_transition(v_gate, 'expire', 'nobody decided in time');
            END IF;
            PERFORM step_transition(l.id, v_event,
                CASE WHEN v_gate IS NULL THEN 'expired: what it waits for did not come in time' ELSE 'expired: nobody decided in time' END, NULL, 'expired');
        END IF;
    WHEN p_kind = 'wakeup' AND l.state = 'ready' AND s.ready_at <= clock_timestamp() AND wake_up_lost(s.job_id, s.ready_at, p_lost) THEN
        -- A new wake-up makes older jobs of the step stale.
        UPDATE step SET wake_seq = wake_seq + 1, job_id = NULL
        WHERE tenant_id = l.tenant_id AND id = l.id;
        PERFORM end_job(s.job_id);
        RETURN 'wakeup';
    ELSE
        RETURN NULL;
    END CASE;
    PERFORM settle_run(l.tenant_id, l.run_id, v_event IN ('poison', 'expire'));
    RETURN v_event;
END
$$;

-- The same for a run whose deadline has passed.
CREATE OR REPLACE FUNCTION nofx.sweep_run(p_run uuid) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    r nofx.locked_run;
BEGIN
    IF NOT try_run(p_run) THEN
        RETURN NULL;
    END IF;
    r := lock_run(p_run);
    IF (SELECT x.finished_at IS NOT NULL OR x.deadline > clock_timestamp() FROM run x WHERE x.tenant_id = r.tenant_id AND x.id = r.id) THEN
        RETURN NULL;
    END IF;
    PERFORM end_run(p_run, 'fail', 'the run''s deadline has passed', NULL, 'timeout');
    RETURN 'fail';
END
$$;

GRANT EXECUTE ON FUNCTION
    nofx.due_leases(int, interval, interval),
    nofx.due_retries(int),
    nofx.due_waits(int),
    nofx.due_runs(int),
    nofx.sweep_step(uuid, text, interval, interval, interval),
    nofx.sweep_run(uuid)
TO nofx_worker;
