-- What keeps runs moving when a process has died or a time has come, and the
-- few looks across tenants (SECURITY.md T5): they return ids and tenant ids,
-- and the work goes on inside each tenant.
-- River's tables belong to whoever migrates; both processes use them as nofx_app.
GRANT USAGE ON SCHEMA river TO nofx_app, nofx_system;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA river TO nofx_app;
GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA river TO nofx_app;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA river TO nofx_app;
GRANT SELECT ON river.river_job TO nofx_system;
ALTER TABLE river.river_job SET (autovacuum_vacuum_scale_factor = 0.01);

SET LOCAL ROLE nofx_system;

-- Renews the leases of one worker process in one statement. Steps that do not
-- come back are lost.
CREATE FUNCTION nofx.heartbeat(p_steps uuid[], p_fences bigint[], p_ttl interval) RETURNS SETOF uuid
    LANGUAGE sql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
    UPDATE step_lease l SET lease_until = clock_timestamp() + p_ttl
    FROM unnest(p_steps, p_fences) AS h (step_id, fence)
    WHERE l.step_id = h.step_id AND l.fence = h.fence AND l.lease_until > clock_timestamp()
    RETURNING l.step_id
$$;

-- Rows whose time has come: kind is lease, backoff, wait, deadline or wakeup.
-- Leases are left alone until two TTLs after the server started, since an
-- outage makes every one of them look dead.
CREATE FUNCTION nofx.sweep_candidates(p_limit int, p_ttl interval, p_lost interval)
    RETURNS TABLE (tenant_id uuid, run_id uuid, step_id uuid, kind text, leases_expired int, leases_total int)
    LANGUAGE sql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
    WITH lease AS (
        SELECT l.tenant_id, l.step_id FROM step_lease l
        WHERE l.lease_until <= clock_timestamp() AND pg_postmaster_start_time() < clock_timestamp() - 2 * p_ttl
        FOR NO KEY UPDATE SKIP LOCKED LIMIT p_limit
    ), backoff AS (
        SELECT s.tenant_id, s.run_id, s.id FROM step s
        WHERE s.state = 'retrying' AND s.ready_at <= clock_timestamp()
        ORDER BY s.ready_at FOR NO KEY UPDATE SKIP LOCKED LIMIT p_limit
    ), due AS (
        SELECT s.tenant_id, s.run_id, s.id FROM step s
        WHERE s.state = 'waiting' AND s.wait_until <= clock_timestamp()
        ORDER BY s.wait_until FOR NO KEY UPDATE SKIP LOCKED LIMIT p_limit
    ), late AS (
        SELECT r.tenant_id, r.id FROM run r
        WHERE r.state IN ('queued', 'running', 'waiting', 'paused') AND r.deadline <= clock_timestamp()
        ORDER BY r.deadline FOR NO KEY UPDATE SKIP LOCKED LIMIT p_limit
    ), lost AS (
        -- A job that runs but has claimed nothing for so long died with its worker.
        SELECT s.tenant_id, s.run_id, s.id FROM step s
        WHERE s.state = 'ready'
          AND (s.job_id IS NULL AND s.ready_at <= clock_timestamp() - least(p_lost, interval '0.5 s')
            OR s.job_id IS NOT NULL AND s.ready_at <= clock_timestamp() - p_lost AND NOT EXISTS (
                SELECT FROM river.river_job j WHERE j.id = s.job_id
                    AND (j.state IN ('available', 'pending', 'retryable', 'scheduled')
                        OR j.state = 'running' AND j.attempted_at > clock_timestamp() - p_lost)))
          AND EXISTS (SELECT FROM run r WHERE r.tenant_id = s.tenant_id AND r.id = s.run_id AND r.state IN ('queued', 'running', 'waiting'))
        ORDER BY s.ready_at FOR NO KEY UPDATE SKIP LOCKED LIMIT p_limit
    )
    SELECT l.tenant_id, s.run_id, l.step_id, 'lease',
           (SELECT count(*) FROM step_lease x WHERE x.lease_until <= clock_timestamp())::int, (SELECT count(*) FROM step_lease)::int
    FROM lease l JOIN step s ON s.tenant_id = l.tenant_id AND s.id = l.step_id
    UNION ALL SELECT b.tenant_id, b.run_id, b.id, 'backoff', 0, 0 FROM backoff b
    UNION ALL SELECT d.tenant_id, d.run_id, d.id, 'wait', 0, 0 FROM due d
    UNION ALL SELECT n.tenant_id, n.id, NULL, 'deadline', 0, 0 FROM late n
    UNION ALL SELECT w.tenant_id, w.run_id, w.id, 'wakeup', 0, 0 FROM lost w
$$;

-- Handles one candidate under its locks, after a second look. p_counts says
-- whether a lost lease counts towards poison. Answers the transition made, or
-- NULL when the second look found nothing to do.
CREATE FUNCTION nofx.sweep_step(p_step uuid, p_kind text, p_counts boolean, p_lost interval) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    s nofx.step := lock_step(p_step);
    v_event text;
    v_gate uuid;
BEGIN
    CASE
    WHEN p_kind = 'lease' AND s.state = 'running' THEN
        IF EXISTS (SELECT FROM step_lease l WHERE l.tenant_id = s.tenant_id AND l.step_id = s.id
                AND l.fence = s.fence AND l.lease_until > clock_timestamp()) THEN
            RETURN NULL;
        END IF;
        v_event := CASE WHEN p_counts AND s.lost_leases >= 2 THEN 'poison' ELSE 'lease_expired' END;
        UPDATE step SET event = v_event, version = version + 1, lost_leases = lost_leases + p_counts::int,
            reason = CASE v_event WHEN 'poison' THEN 'poisoned: the lease was lost three times' ELSE 'the lease of its worker expired' END,
            failure_class = CASE v_event WHEN 'poison' THEN 'poisoned' END,
            -- Not beside an innocent neighbour at once: it may be what kills its worker.
            ready_at = clock_timestamp() + CASE WHEN s.lost_leases >= 1 THEN make_interval(secs => 10 + 20 * random()) ELSE interval '0' END
        WHERE tenant_id = s.tenant_id AND id = s.id;
    WHEN p_kind = 'backoff' AND s.state = 'retrying' AND s.ready_at <= clock_timestamp() THEN
        v_event := 'backoff_elapsed';
        PERFORM step_transition(s.id, v_event);
    WHEN p_kind = 'wait' AND s.state = 'waiting' AND s.wait_until <= clock_timestamp() THEN
        SELECT g.id INTO v_gate FROM gate g WHERE g.tenant_id = s.tenant_id AND g.step_id = s.id AND g.state = 'pending';
        IF FOUND THEN
            v_event := 'expire';
            PERFORM gate_transition(v_gate, 'expire', 'nobody decided in time');
            PERFORM step_transition(s.id, v_event, 'expired: nobody decided in time', NULL, 'expired');
        ELSE
            v_event := 'elapsed';
            PERFORM step_transition(s.id, v_event);
            PERFORM ready_successors(s.tenant_id, s.id);
        END IF;
    WHEN p_kind = 'wakeup' AND s.state = 'ready' AND s.ready_at <= clock_timestamp() THEN
        -- A fresh wake-up makes any older job of the step stale.
        UPDATE step SET wake_seq = wake_seq + 1, job_id = NULL
        WHERE tenant_id = s.tenant_id AND id = s.id;
        RETURN 'wakeup';
    ELSE
        RETURN NULL;
    END CASE;
    PERFORM settle_run(s.tenant_id, s.run_id);
    RETURN v_event;
END
$$;

-- The newest seq of the runs that somebody streams; runs of other tenants than
-- the one named with them do not come back.
CREATE FUNCTION nofx.event_heads(p_tenants uuid[], p_runs uuid[]) RETURNS TABLE (run_id uuid, event_seq bigint)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
    SELECT r.id, r.event_seq FROM unnest(p_tenants, p_runs) AS q (tenant_id, id)
    JOIN run r ON r.tenant_id = q.tenant_id AND r.id = q.id
$$;

-- What the gauges show: live runs by status over all tenants.
CREATE FUNCTION nofx.run_counts() RETURNS TABLE (state text, n bigint)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
    SELECT r.state, count(*) FROM run r WHERE r.state IN ('queued', 'running', 'waiting', 'paused') GROUP BY r.state
$$;

GRANT EXECUTE ON FUNCTION
    nofx.heartbeat(uuid[], bigint[], interval),
    nofx.sweep_candidates(int, interval, interval),
    nofx.sweep_step(uuid, text, boolean, interval),
    nofx.event_heads(uuid[], uuid[]),
    nofx.run_counts()
TO nofx_app;

RESET ROLE;
