-- What keeps runs moving when a process has died or a time has come, and the
-- few looks across tenants (SECURITY.md T5): they return ids and tenant ids,
-- and the work goes on inside each tenant.
-- River's tables belong to whoever migrates; both processes use them as nofx_app.
GRANT USAGE ON SCHEMA river TO nofx_app, nofx_system;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA river TO nofx_app;
GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA river TO nofx_app;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA river TO nofx_app;
GRANT SELECT ON river.river_job TO nofx_system;
-- And what a later release of River adds.
ALTER DEFAULT PRIVILEGES IN SCHEMA river GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO nofx_app;
ALTER DEFAULT PRIVILEGES IN SCHEMA river GRANT USAGE, SELECT ON SEQUENCES TO nofx_app;
ALTER TABLE river.river_job SET (autovacuum_vacuum_scale_factor = 0.01);

SET LOCAL ROLE nofx_system;

-- Renews the leases of one worker process in one statement. Steps that do not
-- come back are lost. A lease that has run out is renewed as well, as long as no
-- sweep took the step: after an outage of the database nobody's work is lost.
-- The order is that of every transaction that holds several leases.
CREATE FUNCTION nofx.heartbeat(p_steps uuid[], p_fences bigint[], p_ttl interval) RETURNS SETOF uuid
    LANGUAGE sql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
    WITH held AS (
        SELECT l.tenant_id, l.step_id, l.fence FROM step_lease l
        JOIN unnest(p_steps, p_fences) AS h (step_id, fence) ON h.step_id = l.step_id AND h.fence = l.fence
        ORDER BY l.step_id FOR NO KEY UPDATE OF l
    )
    UPDATE step_lease l SET lease_until = clock_timestamp() + p_ttl
    FROM held h WHERE l.tenant_id = h.tenant_id AND l.step_id = h.step_id AND l.fence = h.fence
    RETURNING l.step_id
$$;

-- Whether nothing will wake a ready step any more: it has no job for half a
-- second, or for p_lost its job is gone, finished, put off for longer than that,
-- or with a worker that claimed nothing.
CREATE FUNCTION nofx.wake_up_lost(p_job bigint, p_ready_at timestamptz, p_lost interval) RETURNS boolean
    LANGUAGE sql VOLATILE
AS $$
    SELECT CASE WHEN p_job IS NULL THEN p_ready_at <= clock_timestamp() - least(p_lost, interval '0.5 s')
        ELSE p_ready_at <= clock_timestamp() - p_lost AND NOT EXISTS (
            SELECT FROM river.river_job j WHERE j.id = p_job
                AND CASE j.state WHEN 'available' THEN true
                    WHEN 'running' THEN j.attempted_at > clock_timestamp() - p_lost
                    WHEN 'completed' THEN false WHEN 'cancelled' THEN false WHEN 'discarded' THEN false
                    ELSE j.scheduled_at < clock_timestamp() + p_lost END) END
$$;

-- Rows whose time has come: kind is lease, backoff, wait, deadline or wakeup.
-- Leases are left alone until two TTLs after the server started, since an
-- outage makes every one of them look dead.
--
-- Every worker asks this each second. So it is planned once, and for scans that go
-- along an index: these mark its entries of rows that are gone, which a bitmap scan
-- reads anew each time until a vacuum, and large tables have that seldom. What that
-- does to the costs would have some logins compile it.
CREATE FUNCTION nofx.sweep_candidates(p_limit int, p_ttl interval, p_lost interval)
    RETURNS TABLE (tenant_id uuid, run_id uuid, step_id uuid, kind text, leases_expired int, leases_total int, owners_expired int)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp SET enable_bitmapscan = off SET enable_seqscan = off SET enable_sort = off SET jit = off
AS $$
BEGIN
    RETURN QUERY
    WITH lease AS (
        SELECT l.tenant_id, l.step_id FROM step_lease l
        WHERE l.lease_until <= clock_timestamp() AND pg_postmaster_start_time() < clock_timestamp() - 2 * p_ttl
        FOR NO KEY UPDATE SKIP LOCKED LIMIT p_limit
    ), seen AS (
        SELECT count(*) FILTER (WHERE x.lease_until <= clock_timestamp())::int AS expired, count(*)::int AS total,
               count(DISTINCT x.owner) FILTER (WHERE x.lease_until <= clock_timestamp())::int AS owners
        FROM step_lease x
    ), backoff AS (
        SELECT s.tenant_id, s.run_id, s.id FROM step s
        WHERE s.state = 'retrying' AND s.due_at <= (SELECT clock_timestamp())
        ORDER BY s.due_at FOR NO KEY UPDATE SKIP LOCKED LIMIT p_limit
    ), due AS (
        SELECT s.tenant_id, s.run_id, s.id FROM step s
        WHERE s.state = 'waiting' AND s.wait_until <= (SELECT clock_timestamp())
        ORDER BY s.wait_until FOR NO KEY UPDATE SKIP LOCKED LIMIT p_limit
    ), late AS (
        SELECT r.tenant_id, r.id FROM run r
        WHERE r.state IN ('queued', 'running', 'waiting', 'paused') AND r.deadline <= (SELECT clock_timestamp())
        ORDER BY r.deadline FOR NO KEY UPDATE SKIP LOCKED LIMIT p_limit
    ), lost AS (
        -- Most of a backlog has a job that waits its turn: those go first. Each is looked
        -- up by itself, since a join that was planned without a backlog never ends in one.
        SELECT s.* FROM (
            SELECT s.tenant_id, s.run_id, s.id, s.job_id, s.ready_at FROM step s
            WHERE s.state = 'ready' AND s.due_at <= (SELECT clock_timestamp())
              AND (SELECT j.state FROM river.river_job j WHERE j.id = s.job_id) IS DISTINCT FROM 'available'
            OFFSET 0) AS s
        WHERE wake_up_lost(s.job_id, s.ready_at, p_lost)
          AND EXISTS (SELECT FROM run r WHERE r.tenant_id = s.tenant_id AND r.id = s.run_id AND r.state IN ('queued', 'running', 'waiting'))
        LIMIT p_limit
    )
    SELECT l.tenant_id, s.run_id, l.step_id, 'lease', n.expired, n.total, n.owners
    FROM lease l JOIN step s ON s.tenant_id = l.tenant_id AND s.id = l.step_id, seen n
    UNION ALL SELECT b.tenant_id, b.run_id, b.id, 'backoff', 0, 0, 0 FROM backoff b
    UNION ALL SELECT d.tenant_id, d.run_id, d.id, 'wait', 0, 0, 0 FROM due d
    UNION ALL SELECT n.tenant_id, n.id, NULL, 'deadline', 0, 0, 0 FROM late n
    UNION ALL SELECT w.tenant_id, w.run_id, w.id, 'wakeup', 0, 0, 0 FROM lost w;
END
$$;

-- Locks the run of a candidate, unless somebody else holds it: what that one does
-- may settle the candidate, and if not the next pass finds it again. A pass that
-- waited would keep everybody else's candidates waiting behind one run. One that
-- is not there is not held: whoever goes on to lock it says so.
CREATE FUNCTION nofx.try_run(p_run uuid) RETURNS boolean
    LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM FROM run r WHERE r.tenant_id = tenant() AND r.id = p_run FOR NO KEY UPDATE SKIP LOCKED;
    RETURN FOUND OR NOT EXISTS (SELECT FROM run r WHERE r.tenant_id = tenant() AND r.id = p_run);
END
$$;

-- Handles one candidate under its locks, after a second look. p_counts says
-- whether a lost lease counts towards poison. Answers the transition made, or
-- NULL when the run is held or the second look found nothing to do.
CREATE FUNCTION nofx.sweep_step(p_step uuid, p_kind text, p_counts boolean, p_lost interval) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    l nofx.locked_step;
    s record;
    v_event text;
    v_until timestamptz;
    v_gate uuid;
BEGIN
    IF NOT try_run((SELECT x.run_id FROM step x WHERE x.tenant_id = tenant() AND x.id = p_step)) THEN
        RETURN NULL;
    END IF;
    l := lock_step(p_step);
    SELECT x.ready_at, x.wait_until, x.job_id, x.lost_leases INTO s FROM step x WHERE x.tenant_id = l.tenant_id AND x.id = l.id;
    CASE
    WHEN p_kind = 'lease' AND l.state = 'running' THEN
        -- Locked, so that a heartbeat is either seen here or told that it is late.
        SELECT x.lease_until INTO v_until FROM step_lease x WHERE x.tenant_id = l.tenant_id AND x.step_id = l.id FOR UPDATE;
        IF v_until > clock_timestamp() THEN
            RETURN NULL;
        END IF;
        v_event := CASE WHEN p_counts AND s.lost_leases >= 2 THEN 'poison' WHEN is_doomed(l.tenant_id, l.run_id, l.id, l.fence) THEN 'cancel' ELSE 'lease_expired' END;
        UPDATE step SET event = v_event, version = version + 1, lost_leases = lost_leases + p_counts::int,
            reason = CASE v_event WHEN 'poison' THEN 'poisoned: the lease was lost three times' WHEN 'cancel' THEN 'run_failed' ELSE 'the lease of its worker expired' END,
            failure_class = CASE v_event WHEN 'poison' THEN 'poisoned' WHEN 'cancel' THEN 'cancelled' END,
            -- Not at once beside those that were lost with it: it may be what kills its
            -- worker. From here on claim_steps keeps them apart.
            ready_at = clock_timestamp() + CASE WHEN s.lost_leases >= 1 THEN make_interval(secs => 10 + 20 * random()) ELSE interval '0' END
        WHERE tenant_id = l.tenant_id AND id = l.id;
    WHEN p_kind = 'backoff' AND l.state = 'retrying' AND s.ready_at <= clock_timestamp() THEN
        v_event := 'backoff_elapsed';
        PERFORM step_transition(l.id, v_event);
    WHEN p_kind = 'wait' AND l.state = 'waiting' AND s.wait_until <= clock_timestamp() THEN
        SELECT CASE w.kind WHEN 'timer' THEN 'elapsed' ELSE 'expire' END INTO v_event FROM wait w
        WHERE w.tenant_id = l.tenant_id AND w.step_id = l.id ORDER BY w.round DESC LIMIT 1;
        IF v_event = 'elapsed' THEN
            PERFORM step_transition(l.id, v_event);
            PERFORM ready_successors(l.tenant_id, l.id);
        ELSE
            SELECT g.id INTO v_gate FROM gate g WHERE g.tenant_id = l.tenant_id AND g.step_id = l.id AND g.state = 'pending';
            IF FOUND THEN
                PERFORM gate_transition(v_gate, 'expire', 'nobody decided in time');
            END IF;
            PERFORM step_transition(l.id, v_event,
                CASE WHEN v_gate IS NULL THEN 'expired: what it waits for did not come in time' ELSE 'expired: nobody decided in time' END, NULL, 'expired');
        END IF;
    WHEN p_kind = 'wakeup' AND l.state = 'ready' AND s.ready_at <= clock_timestamp() AND wake_up_lost(s.job_id, s.ready_at, p_lost) THEN
        -- A fresh wake-up makes any older job of the step stale.
        UPDATE step SET wake_seq = wake_seq + 1, job_id = NULL
        WHERE tenant_id = l.tenant_id AND id = l.id;
        RETURN 'wakeup';
    ELSE
        RETURN NULL;
    END CASE;
    PERFORM settle_run(l.tenant_id, l.run_id, v_event IN ('poison', 'expire'));
    RETURN v_event;
END
$$;

-- The same for a run whose deadline has passed.
CREATE FUNCTION nofx.sweep_run(p_run uuid) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    r nofx.locked_run;
BEGIN
    IF NOT try_run(p_run) THEN
        RETURN NULL;
    END IF;
    r := lock_run(p_run);
    IF r.state IN ('succeeded', 'failed', 'cancelled')
        OR (SELECT x.deadline > clock_timestamp() FROM run x WHERE x.tenant_id = r.tenant_id AND x.id = r.id) THEN
        RETURN NULL;
    END IF;
    PERFORM end_run(p_run, 'fail', 'the run''s deadline has passed', NULL, 'timeout');
    RETURN 'fail';
END
$$;

-- Deletes some of the stored answers that no client may rely on any more, and
-- says how many.
CREATE FUNCTION nofx.delete_expired(p_limit int) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    v_gone bigint;
BEGIN
    -- Not by a join, for which the planner, which does not know the limit, reads the table.
    DELETE FROM idempotency_key WHERE ctid = ANY (ARRAY(
        SELECT k.ctid FROM idempotency_key k WHERE k.expires_at <= (SELECT clock_timestamp())
        ORDER BY k.expires_at FOR UPDATE SKIP LOCKED LIMIT p_limit));
    GET DIAGNOSTICS v_gone = ROW_COUNT;
    RETURN v_gone;
END
$$;

-- The newest seq of the runs that somebody streams; runs of other tenants than
-- the one named with them do not come back.
CREATE FUNCTION nofx.event_heads(p_tenants uuid[], p_runs uuid[]) RETURNS TABLE (run_id uuid, event_seq bigint)
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
BEGIN
    RETURN QUERY SELECT r.id, r.event_seq FROM unnest(p_tenants, p_runs) AS q (tenant_id, id)
        JOIN run r ON r.tenant_id = q.tenant_id AND r.id = q.id;
END
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
    nofx.sweep_run(uuid),
    nofx.delete_expired(int),
    nofx.event_heads(uuid[], uuid[]),
    nofx.run_counts()
TO nofx_app;

RESET ROLE;
