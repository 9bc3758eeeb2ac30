-- Brings a run's state in line with its steps, and ends runs.

-- Ends all steps of a run that have not begun, because a step failed for good; running
-- siblings may end. The caller holds the run's lock.
CREATE OR REPLACE FUNCTION nofx.stop_steps(p_tenant uuid, p_run uuid) RETURNS void
    LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM withdraw_gates(p_tenant, p_run, 'run_failed');
    PERFORM move_steps(p_tenant, p_run, ARRAY(
        WITH RECURSIVE downstream (id) AS (
            SELECT unnest(steps_in(p_tenant, p_run, '{failed}'))
            UNION
            SELECT d.step_id FROM downstream u, LATERAL (SELECT x.step_id FROM step_dep x WHERE x.tenant_id = p_tenant AND x.needs = u.id OFFSET 0) AS d
        )
        SELECT p.id FROM unnest(steps_in(p_tenant, p_run, '{pending}')) AS p (id) WHERE p.id IN (SELECT u.id FROM downstream u)
    ), 'skip', 'upstream_failed', NULL);
    PERFORM move_steps(p_tenant, p_run, steps_in(p_tenant, p_run, '{pending}'), 'skip', 'run_failed', NULL);
    PERFORM move_steps(p_tenant, p_run, steps_in(p_tenant, p_run, '{ready, retrying, waiting}'), 'cancel', 'run_failed', 'cancelled');
    PERFORM fail_reviews(p_tenant, p_run, 'run_failed');
END
$$;

-- Reports whether a step of the run failed for good while this attempt was running, by the
-- order of the run's events: the attempt may end, but no successor follows. Failures from
-- before the attempt do not count: a retry left them as they were.
CREATE OR REPLACE FUNCTION nofx.is_doomed(p_tenant uuid, p_run uuid, p_step uuid, p_fence bigint) RETURNS boolean
    LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM FROM run r WHERE r.tenant_id = p_tenant AND r.id = p_run AND r.failed_steps > 0;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM FROM step s WHERE s.tenant_id = p_tenant AND s.run_id = p_run AND s.state = 'failed' AND s.seq > (
        SELECT a.seq FROM attempt a WHERE a.tenant_id = p_tenant AND a.step_id = p_step AND a.fence = p_fence);
    RETURN FOUND;
END
$$;

-- Brings the run's state in line with its steps. The caller holds its lock. p_failed says
-- that a step has just failed for good, which stops the others. An earlier failure does not
-- stop steps that were retried since. A run without live steps ends. The counters make this
-- cost one row for any number of steps.
CREATE OR REPLACE FUNCTION nofx.settle_run(p_tenant uuid, p_run uuid, p_failed boolean) RETURNS void
    LANGUAGE plpgsql
AS $$
DECLARE
    r record;
    f record;
BEGIN
    IF p_failed THEN
        PERFORM stop_steps(p_tenant, p_run);
    END IF;
    SELECT state, finished_at, failed_steps, pending_steps + waiting_steps AS idle_steps, ready_steps + retrying_steps + running_steps AS busy_steps
    INTO r FROM run WHERE tenant_id = p_tenant AND id = p_run;
    IF r.finished_at IS NOT NULL THEN
        RETURN;
    END IF;
    IF r.idle_steps + r.busy_steps = 0 THEN
        SELECT s.name, s.reason, s.failure_class INTO f FROM step s
        WHERE r.failed_steps > 0 AND s.tenant_id = p_tenant AND s.run_id = p_run AND s.state = 'failed'
        ORDER BY s.seq LIMIT 1;
        IF NOT FOUND THEN -- one that was left out when others were retried
            SELECT s.name, s.state || ', and was not retried' AS reason, 'cancelled' AS failure_class INTO f FROM step s
            WHERE s.tenant_id = p_tenant AND s.run_id = p_run AND s.state IN ('skipped', 'cancelled')
            ORDER BY s.idx LIMIT 1;
        END IF;
        IF FOUND THEN
            PERFORM fail_reviews(p_tenant, p_run, 'run_failed');
            PERFORM run_transition(p_run, 'fail', clip(format('step %s: %s', f.name, f.reason), 2048), NULL, f.failure_class);
        ELSE
            PERFORM run_transition(p_run, 'succeed');
        END IF;
    ELSIF r.busy_steps = 0 AND r.state = 'running' THEN
        PERFORM run_transition(p_run, 'wait');
    ELSIF r.busy_steps > 0 AND r.state = 'waiting' THEN
        PERFORM run_transition(p_run, 'wake');
    END IF;
END
$$;

-- Ends a live run and everything of it that has not ended: by a request, or
-- because its deadline passed.
CREATE OR REPLACE FUNCTION nofx.end_run(p_run uuid, p_event text, p_reason text, p_version bigint, p_class text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    r nofx.locked_run := lock_run(p_run);
BEGIN
    PERFORM check_version(p_version, r.version, r.state);
    PERFORM edge('run', r.id, r.state, p_event, p_reason);
    -- Several leases at once, so in the order in which a heartbeat takes them.
    PERFORM FROM step_lease l
    WHERE l.tenant_id = r.tenant_id AND l.step_id IN (SELECT s.id FROM step s WHERE s.tenant_id = r.tenant_id AND s.run_id = r.id AND s.state = 'running')
    ORDER BY l.step_id FOR UPDATE;
    PERFORM withdraw_gates(r.tenant_id, r.id, p_reason);
    UPDATE step SET event = 'cancel', version = version + 1, reason = p_reason, failure_class = 'cancelled'
    WHERE tenant_id = r.tenant_id AND run_id = r.id AND state = 'running';
    PERFORM move_steps(r.tenant_id, r.id, steps_in(r.tenant_id, r.id, '{pending, ready, waiting, retrying}'), 'cancel', p_reason, 'cancelled');
    PERFORM fail_reviews(r.tenant_id, r.id, p_reason);
    PERFORM run_transition(p_run, p_event, p_reason, NULL, p_class);
END
$$;

GRANT EXECUTE ON FUNCTION
    nofx.end_run(uuid, text, text, bigint, text)
TO nofx_app;
