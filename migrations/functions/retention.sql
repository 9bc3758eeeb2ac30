-- Deletes logs and events of runs that ended long ago, run by run.

-- Returns the retention of a tenant's logs and events, from the end of a run: its setting
-- retention_days, from a day to ten years, or 30 days.
CREATE OR REPLACE FUNCTION nofx.retention(p_tenant uuid) RETURNS interval
    LANGUAGE sql STABLE
AS $$
    SELECT make_interval(days => CASE jsonb_typeof(t.settings->'retention_days')
        WHEN 'number' THEN least(greatest((t.settings->>'retention_days')::numeric, 1), 3650)::int ELSE 30 END)
    FROM nofx.tenant t WHERE t.tenant_id = p_tenant
$$;

-- Reports whether the newest event of an ended run is its end, or is older than p_since: a
-- gate may be waived long after the end, or a merge committed, and these events have their
-- own retention. An event that is not visible yet counts as newer.
CREATE OR REPLACE FUNCTION nofx.is_quiet(p_tenant uuid, p_run uuid, p_seq bigint, p_since timestamptz) RETURNS boolean
    LANGUAGE sql STABLE
AS $$
    SELECT EXISTS (SELECT FROM nofx.event e WHERE e.tenant_id = p_tenant AND e.run_id = p_run AND e.seq = p_seq
        AND (e.type LIKE 'run.%' OR e.at <= p_since))
$$;

-- Returns runs whose retention has passed and that have events left, at most p_limit of
-- those found by p_looks looks behind a place, over all tenants; then, unless the
-- end was reached, the place to go on from. A look is one descent into the events'
-- primary key, to the next run that has any; so what was deleted costs nothing, and
-- no index knows of retention. Within a tenant it stops at the first run that was
-- made too late to have expired: ids are in the order of time.
CREATE OR REPLACE FUNCTION nofx.expired_runs(p_tenant uuid, p_run uuid, p_looks int, p_limit int)
    RETURNS TABLE (tenant_id uuid, run_id uuid, expired boolean)
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    v_tenant uuid := p_tenant;
    v_run uuid := p_run;
    v_keeper uuid;
    v_since timestamptz;
    v_found int := 0;
    x record;
    r record;
BEGIN
    FOR i IN 1..p_looks LOOP
        EXIT WHEN v_found = p_limit;
        SELECT e.tenant_id, e.run_id INTO x FROM event e
        WHERE (e.tenant_id, e.run_id) > (v_tenant, v_run) ORDER BY e.tenant_id, e.run_id LIMIT 1;
        IF NOT FOUND THEN
            RETURN;
        END IF;
        v_tenant := x.tenant_id;
        v_run := x.run_id;
        IF v_tenant IS DISTINCT FROM v_keeper THEN
            v_keeper := v_tenant;
            v_since := clock_timestamp() - retention(v_tenant);
        END IF;
        SELECT y.created_at, y.finished_at, y.event_seq INTO r FROM run y WHERE y.tenant_id = v_tenant AND y.id = v_run;
        IF r.created_at > v_since THEN
            v_run := 'ffffffff-ffff-ffff-ffff-ffffffffffff';
        ELSIF r.finished_at <= v_since AND is_quiet(v_tenant, v_run, r.event_seq, v_since) THEN
            v_found := v_found + 1;
            tenant_id := v_tenant;
            run_id := v_run;
            expired := true;
            RETURN NEXT;
        END IF;
    END LOOP;
    tenant_id := v_tenant;
    run_id := v_run;
    expired := false;
    RETURN NEXT;
END
$$;

-- Records that the tenant's events up to a transaction's were deleted, so that a feed that
-- is read from an earlier position reports the gap. Does nothing without a transaction.
CREATE OR REPLACE FUNCTION nofx.raise_horizon(p_tenant uuid, p_xid xid8) RETURNS void
    LANGUAGE sql
AS $$
    INSERT INTO nofx.event_horizon AS h (tenant_id, xid) SELECT p_tenant, p_xid WHERE p_xid IS NOT NULL
    ON CONFLICT ON CONSTRAINT event_horizon_pkey DO UPDATE SET xid = greatest(h.xid, excluded.xid)
$$;

-- Deletes step logs and then events of runs of the tenant whose retention has passed, at
-- most p_limit rows in all, and returns the number of each. Runs that another transaction
-- has locked are left out. Objects of logs are condemned: their rows are deleted first and
-- their bytes later.
CREATE OR REPLACE FUNCTION nofx.prune_runs(p_runs uuid[], p_limit int, OUT events bigint, OUT chunks bigint)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    v_tenant uuid := tenant();
    v_since timestamptz := clock_timestamp() - retention(v_tenant);
    v_left bigint := p_limit;
    v_horizon xid8;
    v_to bigint;
    x record;
    g record;
BEGIN
    events := 0;
    chunks := 0;
    FOR x IN
        SELECT r.id, r.event_seq, coalesce(r.pruned_seq, 0) AS pruned FROM run r
        WHERE r.tenant_id = v_tenant AND r.id = ANY (p_runs) AND r.state IN ('succeeded', 'failed', 'cancelled') AND r.finished_at <= v_since
            AND r.pruned_seq IS DISTINCT FROM r.event_seq AND is_quiet(v_tenant, r.id, r.event_seq, v_since)
        ORDER BY r.id FOR NO KEY UPDATE SKIP LOCKED
    LOOP
        EXIT WHEN v_left <= 0;
        WITH doomed AS (
            SELECT c.step_id, c.fence, c.n FROM step s JOIN log_chunk c ON c.tenant_id = s.tenant_id AND c.step_id = s.id
            WHERE s.tenant_id = v_tenant AND s.run_id = x.id ORDER BY s.idx, c.fence, c.n LIMIT v_left
        ), gone AS (
            DELETE FROM log_chunk c USING doomed d
            WHERE c.tenant_id = v_tenant AND c.step_id = d.step_id AND c.fence = d.fence AND c.n = d.n RETURNING c.key
        ), condemned AS (
            UPDATE object o SET state = 'condemned' FROM gone d WHERE o.tenant_id = v_tenant AND o.key = d.key
        )
        SELECT count(*) AS n INTO g FROM gone;
        chunks := chunks + g.n;
        v_left := v_left - g.n;
        v_to := least(x.event_seq, x.pruned + v_left);
        WITH gone AS (
            DELETE FROM event e WHERE e.tenant_id = v_tenant AND e.run_id = x.id AND e.seq <= v_to RETURNING e.xid
        )
        SELECT count(*) AS n, max(xid) AS xid INTO g FROM gone;
        events := events + g.n;
        v_left := v_left - g.n;
        v_horizon := greatest(v_horizon, g.xid);
        UPDATE run SET pruned_seq = v_to WHERE tenant_id = v_tenant AND id = x.id AND pruned_seq IS DISTINCT FROM v_to;
    END LOOP;
    PERFORM raise_horizon(v_tenant, v_horizon);
END
$$;

-- Deletes at most p_limit system runs of all tenants that ended more than seven days ago,
-- with all their rows, and returns their number. Objects of logs are condemned. Those
-- of artifacts stay: other rows may need the same content.
CREATE OR REPLACE FUNCTION nofx.expire_system_runs(p_limit int) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    x record;
    v_xid xid8;
    n bigint := 0;
BEGIN
    FOR x IN
        SELECT r.tenant_id, r.id FROM run r WHERE r.kind = 'system' AND r.finished_at <= (SELECT clock_timestamp()) - interval '7 days'
        ORDER BY r.id FOR UPDATE SKIP LOCKED LIMIT p_limit
    LOOP
        WITH gone AS (
            DELETE FROM log_chunk c USING step s
            WHERE s.tenant_id = x.tenant_id AND s.run_id = x.id AND c.tenant_id = s.tenant_id AND c.step_id = s.id RETURNING c.key
        )
        UPDATE object o SET state = 'condemned' FROM gone g WHERE o.tenant_id = x.tenant_id AND o.key = g.key;
        DELETE FROM artifact a WHERE a.tenant_id = x.tenant_id AND a.run_id = x.id;
        DELETE FROM attempt a USING step s WHERE s.tenant_id = x.tenant_id AND s.run_id = x.id AND a.tenant_id = s.tenant_id AND a.step_id = s.id;
        DELETE FROM step s WHERE s.tenant_id = x.tenant_id AND s.run_id = x.id;
        WITH gone AS (DELETE FROM event e WHERE e.tenant_id = x.tenant_id AND e.run_id = x.id RETURNING e.xid)
        SELECT max(g.xid) INTO v_xid FROM gone g;
        PERFORM raise_horizon(x.tenant_id, v_xid);
        DELETE FROM run_search t WHERE t.tenant_id = x.tenant_id AND t.run_id = x.id;
        DELETE FROM run r WHERE r.tenant_id = x.tenant_id AND r.id = x.id;
        n := n + 1;
    END LOOP;
    RETURN n;
END
$$;

GRANT EXECUTE ON FUNCTION
    nofx.expire_system_runs(int),
    nofx.expired_runs(uuid, uuid, int, int),
    nofx.prune_runs(uuid[], int)
TO nofx_app;
