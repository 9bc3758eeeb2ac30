-- Deletes runs that ended long ago, run by run: first their logs and events, and then the
-- whole run, unless something that stays needs it.

-- Returns the retention of a tenant's runs, from the end of a run: its setting
-- retention_days, or 30 days.
CREATE OR REPLACE FUNCTION nofx.retention(p_tenant uuid) RETURNS interval
    LANGUAGE sql STABLE
AS $$
    SELECT make_interval(days => coalesce((t.settings->>'retention_days')::numeric::int, 30))
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

-- Reports whether something that stays needs a run: a branch of it, a merge into it or of it
-- that is not over, a checkpoint of another run that descends from one of its own, as that of
-- a merge does, or a checkpoint of its own with a label or a hold. What its branches restored
-- is read from it, so a line of branches stays as long as the last of them.
CREATE OR REPLACE FUNCTION nofx.is_needed(p_tenant uuid, p_run uuid) RETURNS boolean
    LANGUAGE sql STABLE
AS $$
    SELECT EXISTS (SELECT FROM run b WHERE b.parent_run_id = p_run AND b.tenant_id = p_tenant)
        OR EXISTS (SELECT FROM merge m WHERE m.target_run_id = p_run AND m.tenant_id = p_tenant AND m.state NOT IN ('committed', 'abandoned'))
        OR EXISTS (SELECT FROM merge m WHERE m.source_run_id = p_run AND m.tenant_id = p_tenant AND m.state NOT IN ('committed', 'abandoned'))
        OR EXISTS (SELECT FROM checkpoint c WHERE c.run_id = p_run AND c.tenant_id = p_tenant AND (c.hold OR c.label IS NOT NULL
            OR EXISTS (SELECT FROM checkpoint_parent p JOIN checkpoint d ON d.tenant_id = p.tenant_id AND d.id = p.checkpoint_id
                WHERE p.parent_id = c.id AND p.tenant_id = p_tenant AND d.run_id <> p_run)))
$$;

-- Returns runs of plans whose retention has passed and of which something is to be deleted,
-- at most p_limit of those found by p_looks looks behind a place, over all tenants; then,
-- unless the end was reached, the place to go on from. A look is one descent into the
-- primary key of runs; so what was deleted costs nothing, and no index knows of retention.
-- Within a tenant it stops at the first run that was made too late to have expired: ids are
-- in the order of time.
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
    r record;
BEGIN
    FOR i IN 1..p_looks LOOP
        EXIT WHEN v_found = p_limit;
        SELECT y.tenant_id, y.id, y.kind, y.created_at, y.finished_at, y.event_seq, y.pruned_seq, y.expired_at INTO r FROM run y
        WHERE (y.tenant_id, y.id) > (v_tenant, v_run) ORDER BY y.tenant_id, y.id LIMIT 1;
        IF NOT FOUND THEN
            RETURN;
        END IF;
        v_tenant := r.tenant_id;
        v_run := r.id;
        IF v_tenant IS DISTINCT FROM v_keeper THEN
            v_keeper := v_tenant;
            v_since := clock_timestamp() - retention(v_tenant);
        END IF;
        IF r.created_at > v_since THEN
            v_run := 'ffffffff-ffff-ffff-ffff-ffffffffffff';
        ELSIF r.kind = 'plan' AND (r.expired_at IS NOT NULL OR r.finished_at <= v_since
            AND CASE WHEN r.pruned_seq = r.event_seq THEN NOT is_needed(v_tenant, v_run) ELSE is_quiet(v_tenant, v_run, r.event_seq, v_since) END) THEN
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

-- Deletes rows of a run that has ended: p_steps of its steps with all that they have, or
-- when no step is left as many checkpoints, or when none is left one of its merges, or at
-- last the run itself, and returns whether the run is gone. What is left in between is sound. Objects of logs and of diffs are
-- condemned; those of checkpoints and artifacts are found by the collection. The caller holds the lock
-- of the run.
CREATE OR REPLACE FUNCTION nofx.delete_run(p_tenant uuid, p_run uuid, p_steps int) RETURNS boolean
    LANGUAGE plpgsql
AS $$
DECLARE
    v_ids uuid[];
    v_names text[];
    v_failed int;
    v_xid xid8;
BEGIN
    SELECT array_agg(s.id), array_agg(s.name), count(*) FILTER (WHERE s.state = 'failed') INTO v_ids, v_names, v_failed
    FROM (SELECT y.id, y.name, y.state FROM step y WHERE y.run_id = p_run AND y.tenant_id = p_tenant ORDER BY y.idx LIMIT p_steps) AS s;
    IF v_ids IS NOT NULL THEN
        WITH gone AS (DELETE FROM log_chunk c WHERE c.tenant_id = p_tenant AND c.step_id = ANY (v_ids) RETURNING c.key)
        UPDATE object o SET state = 'condemned' FROM gone g WHERE o.tenant_id = p_tenant AND o.key = g.key;
        DELETE FROM approval a USING gate g WHERE g.step_id = ANY (v_ids) AND g.tenant_id = p_tenant AND a.tenant_id = p_tenant AND a.gate_id = g.id;
        DELETE FROM gate g WHERE g.step_id = ANY (v_ids) AND g.tenant_id = p_tenant;
        DELETE FROM wait w WHERE w.tenant_id = p_tenant AND w.step_id = ANY (v_ids);
        DELETE FROM attempt a WHERE a.tenant_id = p_tenant AND a.step_id = ANY (v_ids);
        DELETE FROM step_effect e WHERE e.run_id = p_run AND e.tenant_id = p_tenant AND e.step_name = ANY (v_names);
        PERFORM delete_reviews(p_tenant, v_ids);
        DELETE FROM artifact a WHERE a.run_id = p_run AND a.tenant_id = p_tenant AND a.step_id = ANY (v_ids);
        DELETE FROM step_dep d WHERE d.tenant_id = p_tenant AND d.needs = ANY (v_ids);
        DELETE FROM step_dep d WHERE d.step_id = ANY (v_ids) AND d.tenant_id = p_tenant;
        DELETE FROM step s WHERE s.tenant_id = p_tenant AND s.id = ANY (v_ids);
        UPDATE run r SET failed_steps = r.failed_steps - v_failed WHERE r.tenant_id = p_tenant AND r.id = p_run;
        IF cardinality(v_ids) = p_steps THEN
            RETURN false;
        END IF;
    END IF;
    v_ids := ARRAY(SELECT c.id FROM checkpoint c WHERE c.run_id = p_run AND c.tenant_id = p_tenant ORDER BY c.seq LIMIT p_steps);
    DELETE FROM checkpoint_parent p WHERE p.tenant_id = p_tenant AND p.checkpoint_id = ANY (v_ids);
    DELETE FROM checkpoint_parent p WHERE p.parent_id = ANY (v_ids) AND p.tenant_id = p_tenant; -- of later ones of the run
    DELETE FROM checkpoint c WHERE c.tenant_id = p_tenant AND c.id = ANY (v_ids);
    -- A diff that is being recorded holds its checkpoints: it is found from here on.
    WITH gone AS (DELETE FROM diff d WHERE d.tenant_id = p_tenant AND d.to_id = ANY (v_ids) RETURNING d.json_sha256, d.patch_sha256, d.copy)
    UPDATE object o SET state = 'condemned' FROM gone g
    WHERE o.tenant_id = p_tenant AND o.key IN (diff_key(p_tenant, g.json_sha256, g.copy, 'json'), diff_key(p_tenant, g.patch_sha256, g.copy, 'patch'));
    WITH gone AS (DELETE FROM diff d WHERE d.from_id = ANY (v_ids) AND d.tenant_id = p_tenant RETURNING d.json_sha256, d.patch_sha256, d.copy)
    UPDATE object o SET state = 'condemned' FROM gone g
    WHERE o.tenant_id = p_tenant AND o.key IN (diff_key(p_tenant, g.json_sha256, g.copy, 'json'), diff_key(p_tenant, g.patch_sha256, g.copy, 'patch'));
    IF cardinality(v_ids) = p_steps THEN
        RETURN false;
    END IF;
    -- Merges that are over, into the run and of it: each may have many conflicts.
    SELECT array_agg(x.id) INTO v_ids FROM (
        SELECT m.id FROM merge m WHERE m.target_run_id = p_run AND m.tenant_id = p_tenant
        UNION ALL
        SELECT m.id FROM merge m WHERE m.source_run_id = p_run AND m.tenant_id = p_tenant LIMIT 1) AS x;
    IF v_ids IS NOT NULL THEN
        DELETE FROM merge_conflict c WHERE c.tenant_id = p_tenant AND c.merge_id = ANY (v_ids);
        DELETE FROM merge m WHERE m.tenant_id = p_tenant AND m.id = ANY (v_ids);
        RETURN false;
    END IF;
    DELETE FROM artifact a WHERE a.run_id = p_run AND a.tenant_id = p_tenant;
    WITH gone AS (DELETE FROM event e WHERE e.tenant_id = p_tenant AND e.run_id = p_run RETURNING e.xid)
    SELECT max(g.xid) INTO v_xid FROM gone g;
    PERFORM raise_horizon(p_tenant, v_xid);
    DELETE FROM run_search t WHERE t.tenant_id = p_tenant AND t.run_id = p_run;
    DELETE FROM run r WHERE r.tenant_id = p_tenant AND r.id = p_run;
    RETURN true;
END
$$;

-- Deletes the reviews of steps, with their artifacts, and the findings that no later review
-- has reported.
CREATE OR REPLACE FUNCTION nofx.delete_reviews(p_tenant uuid, p_steps uuid[]) RETURNS void
    LANGUAGE plpgsql
AS $$
DECLARE
    v_reviews uuid[] := ARRAY(SELECT v.id FROM review v WHERE v.step_id = ANY (p_steps) AND v.tenant_id = p_tenant);
    v_findings uuid[];
BEGIN
    IF v_reviews = '{}' THEN
        RETURN;
    END IF;
    v_findings := ARRAY(SELECT f.id FROM finding f WHERE f.last_review_id = ANY (v_reviews) AND f.tenant_id = p_tenant);
    DELETE FROM finding_occurrence o WHERE o.tenant_id = p_tenant AND o.review_id = ANY (v_reviews);
    DELETE FROM finding_occurrence o WHERE o.finding_id = ANY (v_findings) AND o.tenant_id = p_tenant;
    DELETE FROM finding f WHERE f.tenant_id = p_tenant AND f.id = ANY (v_findings);
    DELETE FROM review_artifact a WHERE a.tenant_id = p_tenant AND a.review_id = ANY (v_reviews);
    DELETE FROM review v WHERE v.tenant_id = p_tenant AND v.id = ANY (v_reviews);
END
$$;

-- Deletes runs of the tenant whose retention has passed, whose logs and events were deleted
-- and which nothing needs, p_steps steps of each; returns those that are gone, and whether
-- something of the others is left to delete. The first call that deletes of a run marks it
-- as expired: from then on it can be neither read nor changed. Runs that another transaction
-- has locked are left out.
CREATE OR REPLACE FUNCTION nofx.expire_runs(p_runs uuid[], p_steps int, OUT gone uuid[], OUT more boolean)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    v_tenant uuid := tenant();
    v_since timestamptz := clock_timestamp() - retention(v_tenant);
    x record;
BEGIN
    gone := '{}';
    more := false;
    FOR x IN
        SELECT r.id, r.expired_at FROM run r
        WHERE r.tenant_id = v_tenant AND r.id = ANY (p_runs) AND r.kind = 'plan' AND r.state IN ('succeeded', 'failed', 'cancelled')
            AND r.finished_at <= v_since AND r.pruned_seq = r.event_seq
        ORDER BY r.id FOR UPDATE SKIP LOCKED
    LOOP
        IF x.expired_at IS NULL THEN
            -- Looked at under the lock: whoever makes a branch of the run locks it as well.
            CONTINUE WHEN is_needed(v_tenant, x.id);
            UPDATE run SET expired_at = clock_timestamp(), head_checkpoint_id = NULL WHERE tenant_id = v_tenant AND id = x.id;
            DELETE FROM run_search t WHERE t.tenant_id = v_tenant AND t.run_id = x.id;
        END IF;
        IF delete_run(v_tenant, x.id, p_steps) THEN
            gone := gone || x.id;
        ELSE
            more := true;
        END IF;
    END LOOP;
END
$$;

-- Deletes at most p_limit system runs of all tenants that ended more than seven days ago,
-- with all their rows, and returns their number.
CREATE OR REPLACE FUNCTION nofx.expire_system_runs(p_limit int) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    x record;
    n bigint := 0;
BEGIN
    FOR x IN
        SELECT r.tenant_id, r.id FROM run r WHERE r.kind = 'system' AND r.finished_at <= (SELECT clock_timestamp()) - interval '7 days'
        ORDER BY r.id FOR UPDATE SKIP LOCKED LIMIT p_limit
    LOOP
        n := n + delete_run(x.tenant_id, x.id, 1000)::int; -- it has one step, and no checkpoints
    END LOOP;
    RETURN n;
END
$$;

GRANT EXECUTE ON FUNCTION
    nofx.expire_runs(uuid[], int),
    nofx.expire_system_runs(int),
    nofx.expired_runs(uuid, uuid, int, int),
    nofx.prune_runs(uuid[], int)
TO nofx_worker;
