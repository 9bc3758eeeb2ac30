-- Readies steps that wait for nothing more.

-- Makes the pending steps of a run ready that wait for no other step. The caller holds the
-- run's lock.
CREATE OR REPLACE FUNCTION nofx.ready_steps(p_tenant uuid, p_run uuid) RETURNS void
    LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM move_steps(p_tenant, p_run, ARRAY(
        SELECT y.id FROM unnest(steps_in(p_tenant, p_run, '{pending}')) AS x (id),
        LATERAL (SELECT s.id, s.deps_left FROM step s WHERE s.tenant_id = p_tenant AND s.id = x.id OFFSET 0) AS y WHERE y.deps_left = 0), 'deps_met', NULL, NULL);
END
$$;

-- Subtracts a step that succeeded from the counts of its dependents, and returns the
-- dependents that now wait for nothing, in the order of the plan. The caller makes these
-- ready. The caller holds the run's lock.
CREATE OR REPLACE FUNCTION nofx.count_off(p_tenant uuid, p_step uuid) RETURNS nofx.successor[]
    LANGUAGE plpgsql
AS $$
DECLARE
    v_last nofx.successor[] := '{}';
    n record;
BEGIN
    FOR n IN SELECT y.* FROM step_dep d,
        LATERAL (SELECT z.id, z.idx, z.queue, z.deps_left, z.state, z.attempt, z.fence FROM step z WHERE z.tenant_id = p_tenant AND z.id = d.step_id OFFSET 0) AS y
        WHERE d.tenant_id = p_tenant AND d.needs = p_step ORDER BY y.idx LOOP
        IF n.state = 'pending' AND n.deps_left = 1 THEN
            v_last := v_last || ROW(n.id, n.queue, n.attempt, n.fence)::nofx.successor;
        ELSE
            UPDATE step s SET deps_left = s.deps_left - 1 WHERE s.tenant_id = p_tenant AND s.id = n.id AND s.deps_left > 0;
        END IF;
    END LOOP;
    RETURN v_last;
END
$$;

-- Makes the steps ready that waited only for this step, which has just succeeded, and
-- reports whether there were any. The caller holds the run's lock.
CREATE OR REPLACE FUNCTION nofx.ready_successors(p_tenant uuid, p_run uuid, p_step uuid) RETURNS boolean
    LANGUAGE plpgsql
AS $$
DECLARE
    v_steps uuid[] := ARRAY(SELECT n.id FROM unnest(count_off(p_tenant, p_step)) AS n);
BEGIN
    PERFORM move_steps(p_tenant, p_run, v_steps, 'deps_met', NULL, NULL);
    RETURN v_steps <> '{}';
END
$$;

-- Returns the number of ready and running steps of the tenant. Ready ones are counted in at most
-- 256 of its live runs, beginning with runs that have not started, and at most 256 that run:
-- beyond that, all jobs have the last priority. Steps that run are counted by their leases,
-- since those of a paused run hold slots as well. The order and the settings leave the planner
-- only the indexes run_by_state and step_lease_pkey; in a new database it would otherwise read
-- all rows of the tenant.
CREATE OR REPLACE FUNCTION nofx.count_active() RETURNS int
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = nofx, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off
AS $$
DECLARE
    v_tenant uuid := tenant();
BEGIN
    RETURN (SELECT coalesce(sum(x.ready_steps), 0) FROM (
        SELECT r.ready_steps FROM run r WHERE r.tenant_id = v_tenant AND r.state BETWEEN 'queued' AND 'running' -- no other is between them
        ORDER BY r.state, r.id LIMIT 256) AS x)
        + (SELECT count(*) FROM (SELECT FROM step_lease l WHERE l.tenant_id = v_tenant LIMIT 256) AS y);
END
$$;

GRANT EXECUTE ON FUNCTION
    nofx.count_active()
TO nofx_app;
