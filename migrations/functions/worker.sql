-- The list of workers.

-- Records that a worker is alive, forgets workers that have been silent for p_forget, and
-- returns which of its queues are paused. The worker must respect the pauses also where it
-- takes work without a job.
CREATE OR REPLACE FUNCTION nofx.beat_worker(p_id text, p_pid int, p_host text, p_version text, p_queues text[],
    p_slots_max int, p_sandbox_tier int, p_tier_wanted int, p_draining boolean, p_waits_for text, p_forget interval) RETURNS text[]
    LANGUAGE sql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
    WITH beat AS (
        INSERT INTO worker AS w (id, pid, host, version, queues, slots_max, sandbox_tier, tier_wanted, draining, waits_for)
        VALUES (p_id, p_pid, p_host, p_version, p_queues, p_slots_max, p_sandbox_tier, p_tier_wanted, p_draining, p_waits_for)
        ON CONFLICT (id) DO UPDATE SET draining = excluded.draining, waits_for = excluded.waits_for, lost = false, seen_at = clock_timestamp() WHERE NOT w.gone
    ), silent AS (
        DELETE FROM worker w WHERE w.seen_at < clock_timestamp() - p_forget AND w.id <> p_id
    )
    SELECT coalesce(array_agg(q.name), '{}') FROM river.river_queue q WHERE q.name = ANY (p_queues) AND q.paused_at IS NOT NULL
$$;

-- Notes that a worker has stopped. The row stays, so that a beat that was given up and
-- reaches the database only now, even the first one, does not list the worker again.
CREATE OR REPLACE FUNCTION nofx.leave_worker(p_id text) RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
    INSERT INTO worker (id, pid, host, version, queues, slots_max, sandbox_tier, draining, gone) VALUES (p_id, 0, '', '', '{}', 0, 0, true, true)
    ON CONFLICT (id) DO UPDATE SET gone = true, seen_at = clock_timestamp()
$$;

-- Returns the workers that reported within p_forget, oldest first. silence is the time
-- since the last report, without times in which workers could not report. The number of
-- steps that a worker runs is counted from its leases.
CREATE OR REPLACE FUNCTION nofx.workers(p_forget interval) RETURNS TABLE (id text, pid int, host text, version text, queues text[],
    slots_max int, slots_used int, sandbox_tier int, tier_wanted int, draining boolean, waits_for text, lost boolean, started_at timestamptz, seen_at timestamptz, silence interval)
    LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
    SELECT w.id, w.pid, w.host, w.version, w.queues, w.slots_max, coalesce(l.n, 0), w.sandbox_tier, w.tier_wanted, w.draining, w.waits_for, w.lost,
        w.started_at, w.seen_at, clock_timestamp() - could_speak_since(w.seen_at)
    FROM worker w LEFT JOIN (SELECT x.owner, count(*)::int AS n FROM step_lease x GROUP BY x.owner) AS l ON l.owner = w.id
    WHERE w.seen_at >= clock_timestamp() - p_forget AND NOT w.gone ORDER BY w.started_at, w.id
$$;

-- Returns the workers that hold steps of the tenant: the time since when each has been
-- silent, and the things that it waits for. The time is NULL while the worker keeps its
-- lease and reports at least every p_silent, or could not report because of an outage. A
-- worker that the database has forgotten is known by its lease.
CREATE OR REPLACE FUNCTION nofx.step_holders(p_steps uuid[], p_silent interval) RETURNS TABLE (step_id uuid, silent_since timestamptz, waits_for text)
    LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
    SELECT l.step_id, CASE WHEN w.lost OR could_speak_since(w.seen_at) <= clock_timestamp() - p_silent
            OR l.lease_until <= clock_timestamp() AND (could_speak_since(NULL) > clock_timestamp() - p_silent) IS NOT TRUE
        THEN least(w.seen_at, l.lease_until) END, coalesce(w.waits_for, '')
    FROM step_lease l LEFT JOIN worker w ON w.id = l.owner WHERE l.tenant_id = tenant() AND l.step_id = ANY (p_steps)
$$;

-- Returns what a ready step of a queue waits for while no worker takes from it: NULL while
-- one does that reported within p_silent.
CREATE OR REPLACE FUNCTION nofx.worker_missing(p_queue text, p_silent interval) RETURNS text
    LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
    WITH live AS (
        SELECT w.* FROM worker w WHERE NOT w.gone AND NOT w.lost AND could_speak_since(w.seen_at) > clock_timestamp() - p_silent
    )
    SELECT CASE
        WHEN EXISTS (SELECT FROM live l WHERE p_queue = ANY (l.queues) AND NOT l.draining) THEN NULL
        WHEN p_queue = 'step' AND EXISTS (SELECT FROM live l WHERE l.tier_wanted > 0) THEN
            (SELECT format('a worker with a sandbox of tier %s; those there have tier %s', min(l.tier_wanted), max(l.sandbox_tier)) FROM live l WHERE l.tier_wanted > 0)
        ELSE format('a worker that serves queue %s', p_queue) END
$$;

GRANT EXECUTE ON FUNCTION
    nofx.step_holders(uuid[], interval),
    nofx.worker_missing(text, interval),
    nofx.workers(interval)
TO nofx_app;

GRANT EXECUTE ON FUNCTION
    nofx.beat_worker(text, int, text, text, text[], int, int, int, boolean, text, interval),
    nofx.leave_worker(text)
TO nofx_worker;
