-- River jobs as wake-ups of steps: lost ones, and jobs that no worker will end.

-- Ends a River job that no worker will end. Code that takes away the job's lease, or
-- replaces its wake-up, calls this in the same transaction.
CREATE OR REPLACE FUNCTION nofx.end_job(p_job bigint) RETURNS void
    LANGUAGE plpgsql
AS $$
BEGIN
    UPDATE river.river_job SET state = 'cancelled', finalized_at = clock_timestamp()
    WHERE id = p_job AND state NOT IN ('completed', 'cancelled', 'discarded');
END
$$;

-- Reports whether nothing will wake a ready step any more: it has no job for half a
-- second, or for p_lost its job is gone, finished, put off for longer than that,
-- due since longer than River takes to see it, or with a worker that claimed nothing.
CREATE OR REPLACE FUNCTION nofx.wake_up_lost(p_job bigint, p_ready_at timestamptz, p_lost interval) RETURNS boolean
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

-- Returns, of the next p_rows ready steps after a place, those that nothing will wake. Each
-- row also has the place to continue from; if none is lost, only that row is returned. A
-- backlog is searched in parts, since most of its steps have a waiting job. Jobs are looked
-- up one by one, since a join that was planned without a backlog would not finish with one.
CREATE OR REPLACE FUNCTION nofx.lost_wake_ups(p_at timestamptz, p_step uuid, p_rows int, p_lost interval)
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

-- Ends River jobs that have been with a worker for p_old without a lease: the worker is
-- gone, or could not report to River that it was done. If the step still waits for its
-- wake-up, the search for lost wake-ups ends the job instead, unless the run is paused:
-- then nothing waits, and a resume makes a new job. Returns the number of jobs.
CREATE OR REPLACE FUNCTION nofx.end_stray_jobs(p_old interval, p_limit int) RETURNS bigint
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

GRANT EXECUTE ON FUNCTION
    nofx.lost_wake_ups(timestamptz, uuid, int, interval),
    nofx.end_stray_jobs(interval, int)
TO nofx_worker;
