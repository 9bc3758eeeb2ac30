-- Readies steps that wait for nothing more.

-- Readies the pending steps of a run that wait for nothing. The caller holds
-- the run's lock.
CREATE OR REPLACE FUNCTION nofx.ready_steps(p_tenant uuid, p_run uuid) RETURNS void
    LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM move_steps(p_tenant, p_run, ARRAY(
        SELECT y.id FROM unnest(steps_in(p_tenant, p_run, '{pending}')) AS x (id),
        LATERAL (SELECT s.id, s.deps_left FROM step s WHERE s.tenant_id = p_tenant AND s.id = x.id OFFSET 0) AS y WHERE y.deps_left = 0), 'deps_met', NULL, NULL);
END
$$;

-- Counts a succeeded step off its successors, readies those that wait for
-- nothing more and says which. The caller holds the run's lock.
CREATE OR REPLACE FUNCTION nofx.ready_successors(p_tenant uuid, p_step uuid) RETURNS uuid[]
    LANGUAGE plpgsql
AS $$
DECLARE
    v_ready uuid[];
    n record;
BEGIN
    FOR n IN SELECT y.* FROM step_dep d,
        LATERAL (SELECT z.id, z.idx, z.deps_left, z.state FROM step z WHERE z.tenant_id = p_tenant AND z.id = d.step_id OFFSET 0) AS y
        WHERE d.tenant_id = p_tenant AND d.needs = p_step ORDER BY y.idx LOOP
        IF n.state = 'pending' AND n.deps_left = 1 THEN
            UPDATE step SET deps_left = 0, event = 'deps_met', version = version + 1, reason = NULL WHERE tenant_id = p_tenant AND id = n.id;
            v_ready := v_ready || n.id;
        ELSIF n.deps_left > 0 THEN
            UPDATE step SET deps_left = deps_left - 1 WHERE tenant_id = p_tenant AND id = n.id;
        END IF;
    END LOOP;
    RETURN v_ready;
END
$$;

-- Returns how many ready steps the tenant has, counted in at most 256 of its live
-- runs, those first that have not started: from there on all jobs have the last
-- priority. The order and the settings leave the planner run_by_state alone: that of
-- a new database would walk the tenant.
CREATE OR REPLACE FUNCTION nofx.count_ready() RETURNS int
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = nofx, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off
AS $$
DECLARE
    v_tenant uuid := tenant();
BEGIN
    RETURN (SELECT coalesce(sum(x.ready_steps), 0) FROM (
        SELECT r.ready_steps FROM run r WHERE r.tenant_id = v_tenant AND r.state BETWEEN 'queued' AND 'running' -- no other is between them
        ORDER BY r.state, r.id LIMIT 256) AS x);
END
$$;

GRANT EXECUTE ON FUNCTION
    nofx.count_ready()
TO nofx_app;
