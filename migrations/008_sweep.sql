-- What keeps runs moving when a process has died or a time has come, and the
-- few looks across tenants (SECURITY.md T5): they return ids and tenant ids,
-- and the work goes on inside each tenant.
-- River's tables belong to whoever migrates; both processes use them as nofx_app.
GRANT USAGE ON SCHEMA river TO nofx_app, nofx_system;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA river TO nofx_app;
GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA river TO nofx_app;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA river TO nofx_app;
GRANT SELECT, UPDATE (state, finalized_at) ON river.river_job TO nofx_system;
-- And what a later release of River adds.
ALTER DEFAULT PRIVILEGES IN SCHEMA river GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO nofx_app;
ALTER DEFAULT PRIVILEGES IN SCHEMA river GRANT USAGE, SELECT ON SEQUENCES TO nofx_app;
ALTER TABLE river.river_job SET (autovacuum_vacuum_scale_factor = 0.01);
-- Nothing here searches jobs by their arguments or metadata, and a GIN index keeps
-- every key that it ever had: it would grow with the number of all jobs for ever. The
-- others reuse the pages of deleted jobs, so nobody has to rebuild them.
DROP INDEX river.river_job_args_index, river.river_job_metadata_index;

SET LOCAL ROLE nofx_system;

-- When workers last reached the database, and since when they do so again after a
-- silence of all of them. Each heartbeat and each look for expired leases notes it. A
-- crash or a failover forgets it, which counts as a silence.
RESET ROLE;
SET LOCAL ROLE nofx_owner;

CREATE UNLOGGED TABLE nofx.contact (
    one        boolean PRIMARY KEY DEFAULT true CHECK (one),
    seen_at    timestamptz NOT NULL,
    resumed_at timestamptz NOT NULL
) WITH (fillfactor = 10);

RESET ROLE;
SET LOCAL ROLE nofx_system;

-- Notes that a worker reached the database; none did for longer than p_gap means that
-- there was an outage. Whoever finds another doing so leaves it to that one.
CREATE FUNCTION nofx.note_contact(p_gap interval) RETURNS void
    LANGUAGE plpgsql
AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
BEGIN
    PERFORM FROM contact WHERE seen_at NOT BETWEEN v_now - p_gap / 20 AND v_now FOR UPDATE SKIP LOCKED;
    IF FOUND THEN
        UPDATE contact SET seen_at = v_now, resumed_at = CASE WHEN seen_at < v_now - p_gap THEN v_now ELSE resumed_at END;
    ELSIF NOT EXISTS (SELECT FROM contact) THEN
        INSERT INTO contact (seen_at, resumed_at) VALUES (v_now, v_now) ON CONFLICT DO NOTHING;
    END IF;
END
$$;

-- Whether expired leases are left alone: for one TTL after the server started and
-- after an outage was over, and while one seems to last. Nobody could renew meanwhile,
-- and whoever comes back first must not take what the others are about to renew.
CREATE FUNCTION nofx.holds_off(p_ttl interval, p_gap interval) RETURNS boolean
    LANGUAGE plpgsql
AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
BEGIN
    RETURN pg_postmaster_start_time() > v_now - p_ttl
        OR coalesce((SELECT c.resumed_at > v_now - p_ttl OR c.seen_at < v_now - p_gap FROM contact c), true);
END
$$;

-- Renews the leases of one worker process in one statement, and says of each that
-- there still is whether it was renewed: one that another transaction has locked, such
-- as a finish that takes long, is not waited for. Steps that do not come back are
-- lost. A lease that has run out is renewed as well, as long as no sweep took the
-- step: after an outage of the database nobody's work is lost. The order is that of
-- every transaction that holds several leases.
CREATE FUNCTION nofx.heartbeat(p_steps uuid[], p_fences bigint[], p_ttl interval, p_gap interval) RETURNS TABLE (step_id uuid, renewed boolean)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM note_contact(p_gap);
    RETURN QUERY WITH held AS (
        SELECT l.tenant_id, l.step_id, l.fence FROM step_lease l
        JOIN unnest(p_steps, p_fences) AS h (step_id, fence) ON h.step_id = l.step_id AND h.fence = l.fence
        ORDER BY l.step_id FOR NO KEY UPDATE OF l SKIP LOCKED
    ), renewed AS (
        UPDATE step_lease l SET lease_until = clock_timestamp() + p_ttl
        FROM held h WHERE l.tenant_id = h.tenant_id AND l.step_id = h.step_id AND l.fence = h.fence
        RETURNING l.step_id
    )
    SELECT l.step_id, l.step_id IN (SELECT r.step_id FROM renewed r) FROM step_lease l
    JOIN unnest(p_steps, p_fences) AS h (step_id, fence) ON h.step_id = l.step_id AND h.fence = l.fence;
END
$$;

-- Notes that the tool of a step is about to begin, while the lease holds: of those
-- whose lease was lost before this is not taken for granted.
CREATE FUNCTION nofx.begin_tool(p_step uuid, p_fence bigint) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    s nofx.locked_step := hold_step(p_step, p_fence);
BEGIN
    UPDATE step_lease SET begun = true WHERE tenant_id = s.tenant_id AND step_id = s.id;
END
$$;

-- Whether nothing will wake a ready step any more: it has no job for half a
-- second, or for p_lost its job is gone, finished, put off for longer than that,
-- due since longer than River takes to see it, or with a worker that claimed nothing.
CREATE FUNCTION nofx.wake_up_lost(p_job bigint, p_ready_at timestamptz, p_lost interval) RETURNS boolean
    LANGUAGE sql VOLATILE
AS $$
    SELECT CASE WHEN p_job IS NULL THEN p_ready_at <= clock_timestamp() - least(p_lost, interval '0.5 s')
        ELSE p_ready_at <= clock_timestamp() - p_lost AND NOT EXISTS (
            SELECT FROM river.river_job j WHERE j.id = p_job
                AND CASE j.state WHEN 'available' THEN true
                    WHEN 'running' THEN j.attempted_at > clock_timestamp() - p_lost
                    WHEN 'completed' THEN false WHEN 'cancelled' THEN false WHEN 'discarded' THEN false
                    ELSE j.scheduled_at BETWEEN clock_timestamp() - p_lost - interval '5 s' AND clock_timestamp() + p_lost END) END
$$;

-- What follows is asked by every worker each second, each kind by itself, so that one
-- that fails keeps no other waiting. So it is planned once, and for scans that go
-- along an index: these mark its entries of rows that are gone, which a bitmap scan
-- reads anew each time until a vacuum, and large tables have that seldom. What that
-- does to the costs would have some logins compile it.

-- Steps whose lease has run out, unless leases are left alone.
CREATE FUNCTION nofx.due_leases(p_limit int, p_ttl interval, p_gap interval) RETURNS TABLE (tenant_id uuid, run_id uuid, step_id uuid)
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

-- Steps whose delay before another attempt is over.
CREATE FUNCTION nofx.due_retries(p_limit int) RETURNS TABLE (tenant_id uuid, run_id uuid, step_id uuid)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp SET enable_bitmapscan = off SET enable_seqscan = off SET enable_sort = off SET jit = off
AS $$
BEGIN
    RETURN QUERY SELECT s.tenant_id, s.run_id, s.id FROM step s
    WHERE s.state = 'retrying' AND s.retry_at <= (SELECT clock_timestamp())
    ORDER BY s.retry_at FOR NO KEY UPDATE SKIP LOCKED LIMIT p_limit;
END
$$;

-- Steps whose wait is over.
CREATE FUNCTION nofx.due_waits(p_limit int) RETURNS TABLE (tenant_id uuid, run_id uuid, step_id uuid)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp SET enable_bitmapscan = off SET enable_seqscan = off SET enable_sort = off SET jit = off
AS $$
BEGIN
    RETURN QUERY SELECT s.tenant_id, s.run_id, s.id FROM step s
    WHERE s.state = 'waiting' AND s.wait_until <= (SELECT clock_timestamp())
    ORDER BY s.wait_until FOR NO KEY UPDATE SKIP LOCKED LIMIT p_limit;
END
$$;

-- Runs whose deadline has passed.
CREATE FUNCTION nofx.due_runs(p_limit int) RETURNS TABLE (tenant_id uuid, run_id uuid, step_id uuid)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp SET enable_bitmapscan = off SET enable_seqscan = off SET enable_sort = off SET jit = off
AS $$
BEGIN
    RETURN QUERY SELECT r.tenant_id, r.id, NULL::uuid FROM run r
    WHERE r.state IN ('queued', 'running', 'waiting', 'paused') AND r.deadline <= (SELECT clock_timestamp())
    ORDER BY r.deadline FOR NO KEY UPDATE SKIP LOCKED LIMIT p_limit;
END
$$;

-- Of the next p_rows ready steps after a place, those that nothing will wake. Each row
-- also says the place to go on from, the last one alone where none is lost: a backlog
-- is looked through bit by bit, as most of it has a job that waits its turn. Jobs are
-- looked up one by one, since a join that was planned without a backlog never ends in
-- one.
CREATE FUNCTION nofx.lost_wake_ups(p_at timestamptz, p_step uuid, p_rows int, p_lost interval)
    RETURNS TABLE (tenant_id uuid, run_id uuid, step_id uuid, next_at timestamptz, next_step uuid)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp SET enable_bitmapscan = off SET enable_seqscan = off SET enable_sort = off SET jit = off
AS $$
BEGIN
    RETURN QUERY WITH looked AS MATERIALIZED (
        SELECT s.tenant_id, s.run_id, s.id, s.job_id, s.ready_at, s.due_at FROM step s
        WHERE (s.due_at, s.id) > (p_at, p_step) AND s.due_at <= (SELECT clock_timestamp())
        ORDER BY s.due_at, s.id LIMIT p_rows
    ), place AS (
        SELECT l.due_at, l.id FROM looked l OFFSET p_rows - 1
    ), lost AS (
        SELECT l.tenant_id, l.run_id, l.id FROM (
            SELECT x.* FROM looked x
            WHERE (SELECT j.state FROM river.river_job j WHERE j.id = x.job_id) IS DISTINCT FROM 'available' OFFSET 0) AS l
        WHERE wake_up_lost(l.job_id, l.ready_at, p_lost)
          AND EXISTS (SELECT FROM run r WHERE r.tenant_id = l.tenant_id AND r.id = l.run_id AND r.state IN ('queued', 'running', 'waiting'))
    )
    SELECT l.tenant_id, l.run_id, l.id, p.due_at, p.id FROM (SELECT) AS always LEFT JOIN lost l ON true LEFT JOIN place p ON true;
END
$$;

-- Ends the River jobs that have been with a worker for p_old and carry no lease: their
-- worker is gone, or it could not tell River that it was done. Of a step that still
-- waits for its wake-up the look for lost ones ends the job, unless the run is paused:
-- then nobody waits, and a resume makes another. Says how many.
CREATE FUNCTION nofx.end_stray_jobs(p_old interval, p_limit int) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp SET enable_bitmapscan = off SET enable_seqscan = off SET enable_sort = off SET jit = off
AS $$
DECLARE
    v_ended bigint;
BEGIN
    UPDATE river.river_job SET state = 'cancelled', finalized_at = clock_timestamp()
    WHERE state = 'running' AND id = ANY (ARRAY(
        SELECT j.id FROM river.river_job j
        WHERE j.state = 'running' AND j.kind = 'step' AND j.attempted_at < clock_timestamp() - p_old
          AND NOT j.id = ANY (ARRAY(SELECT l.job_id FROM step_lease l WHERE l.job_id IS NOT NULL))
          AND NOT EXISTS (SELECT FROM step s WHERE s.tenant_id = (j.args->>'tenant_id')::uuid AND s.id = (j.args->>'step_id')::uuid AND s.state = 'ready' AND s.job_id = j.id
              AND EXISTS (SELECT FROM run r WHERE r.tenant_id = s.tenant_id AND r.id = s.run_id AND r.state <> 'paused'))
        LIMIT p_limit));
    GET DIAGNOSTICS v_ended = ROW_COUNT;
    RETURN v_ended;
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

-- Handles one candidate under its locks, after a second look. Answers the transition
-- made, or NULL when the run is held or the second look found nothing to do.
--
-- A lost lease counts towards poison where the step's tool had begun and no other step
-- ran in that worker; any other only delays, and the tenth of whatever kind is the
-- last, so that a step that always has company ends as well.
CREATE FUNCTION nofx.sweep_step(p_step uuid, p_kind text, p_lost interval, p_ttl interval, p_gap interval) RETURNS text
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
        -- Locked, so that a heartbeat is either seen here or told that it is late. Whether
        -- the owner has others is asked in the same look: of two sweepers that each take one
        -- of them at once, both see the other's or its mark.
        SELECT x.lease_until, x.owner, x.begun, x.beside OR EXISTS (
            SELECT FROM step_lease y WHERE y.owner = x.owner AND y.step_id <> x.step_id) AS beside INTO v_lease
        FROM step_lease x WHERE x.tenant_id = l.tenant_id AND x.step_id = l.id FOR UPDATE OF x;
        IF v_lease.lease_until > clock_timestamp() OR holds_off(p_ttl, p_gap) THEN
            RETURN NULL;
        END IF;
        UPDATE step_lease x SET beside = true WHERE (x.tenant_id, x.step_id) IN (
            SELECT y.tenant_id, y.step_id FROM step_lease y WHERE y.owner = v_lease.owner AND y.step_id <> l.id AND NOT y.beside
            FOR NO KEY UPDATE SKIP LOCKED);
        -- For the list of workers. One that says something right now is not waited for.
        UPDATE worker w SET lost = true WHERE w.id = (SELECT x.id FROM worker x WHERE x.id = v_lease.owner AND NOT x.lost FOR NO KEY UPDATE SKIP LOCKED);
        v_kills := s.kills + (v_lease.begun AND NOT v_lease.beside)::int;
        v_event := CASE WHEN is_doomed(l.tenant_id, l.run_id, l.id, l.fence) THEN 'cancel' WHEN v_kills >= 3 OR s.lost_leases >= 9 THEN 'poison' ELSE 'lease_expired' END;
        UPDATE step SET event = v_event, version = version + 1, lost_leases = s.lost_leases + 1, kills = v_kills,
            reason = CASE v_event WHEN 'cancel' THEN 'run_failed' WHEN 'lease_expired' THEN 'the lease of its worker expired'
                ELSE CASE WHEN v_kills >= 3 THEN 'poisoned: three workers died while they ran nothing else' ELSE 'poisoned: the lease was lost ten times' END END,
            failure_class = CASE v_event WHEN 'poison' THEN 'poisoned' WHEN 'cancel' THEN 'cancelled' END,
            -- Not at once beside those that were lost with it: it may be what kills its
            -- worker. From here on claim_steps keeps them apart.
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
    nofx.heartbeat(uuid[], bigint[], interval, interval),
    nofx.begin_tool(uuid, bigint),
    nofx.due_leases(int, interval, interval),
    nofx.due_retries(int),
    nofx.due_waits(int),
    nofx.due_runs(int),
    nofx.lost_wake_ups(timestamptz, uuid, int, interval),
    nofx.end_stray_jobs(interval, int),
    nofx.sweep_step(uuid, text, interval, interval, interval),
    nofx.sweep_run(uuid),
    nofx.delete_expired(int),
    nofx.event_heads(uuid[], uuid[]),
    nofx.run_counts()
TO nofx_app;

RESET ROLE;
