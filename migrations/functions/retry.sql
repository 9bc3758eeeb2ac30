-- Resume and retry: brings runs and steps back that have ended or are paused.

-- Resumes a paused run where it stands. Its ready steps get new wake-ups, since theirs were
-- used up while the run took no claims.
CREATE OR REPLACE FUNCTION nofx.unpause_run(p_tenant uuid, p_run uuid, p_reason text) RETURNS void
    LANGUAGE plpgsql
AS $$
DECLARE
    r record;
BEGIN
    SELECT started_at, ready_steps + retrying_steps + running_steps AS busy_steps INTO r FROM run WHERE tenant_id = p_tenant AND id = p_run;
    PERFORM run_transition(p_run, CASE WHEN r.started_at IS NULL THEN 'resume_queued' WHEN r.busy_steps = 0 THEN 'resume_waiting' ELSE 'resume' END, p_reason);
    UPDATE step SET wake_seq = wake_seq + 1, job_id = NULL
    WHERE tenant_id = p_tenant AND run_id = p_run AND state = 'ready';
END
$$;

-- Makes a run that failed or was cancelled live again, with its whole deadline_s. Where a
-- merge was committed meanwhile, the gates that had passed before it are to pass again.
CREATE OR REPLACE FUNCTION nofx.revive_run(p_tenant uuid, p_run uuid, p_event text, p_reason text) RETURNS void
    LANGUAGE plpgsql
AS $$
BEGIN
    UPDATE run SET deadline = greatest(deadline, clock_timestamp() + make_interval(secs => (plan->>'deadline_s')::float8)) WHERE tenant_id = p_tenant AND id = p_run;
    PERFORM run_transition(p_run, p_event, p_reason);
    PERFORM renew_gates(p_tenant, p_run);
END
$$;

-- Lets every step of a live run that failed, was skipped or was cancelled run again.
CREATE OR REPLACE FUNCTION nofx.reopen_steps(p_tenant uuid, p_run uuid, p_reason text) RETURNS void
    LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM move_steps(p_tenant, p_run, steps_in(p_tenant, p_run, '{failed}'), 'retry', p_reason, NULL);
    PERFORM move_steps(p_tenant, p_run, steps_in(p_tenant, p_run, '{skipped, cancelled}'), 'reopen', p_reason, NULL);
    PERFORM hold_back(p_tenant, p_run, p_reason);
    PERFORM ready_steps(p_tenant, p_run);
    PERFORM settle_run(p_tenant, p_run, false);
END
$$;

-- Continues a run by p_event: resume continues a paused run where it stands; resume or
-- retry continues a run that failed or was cancelled from its last checkpoints, with all
-- steps that had not succeeded.
CREATE OR REPLACE FUNCTION nofx.reopen_run(p_run uuid, p_event text, p_reason text, p_version bigint) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    r nofx.locked_run := lock_run(p_run);
BEGIN
    PERFORM check_version(p_version, r.version, r.state);
    IF r.state = 'paused' AND p_event = 'resume' THEN
        PERFORM unpause_run(r.tenant_id, r.id, p_reason);
    ELSE
        PERFORM revive_run(r.tenant_id, r.id, p_event, p_reason), reopen_steps(r.tenant_id, r.id, p_reason);
    END IF;
END
$$;

-- Retries one failed step, in a live run as well. With p_cascade its dependents get their
-- turn again: the skipped and cancelled steps below it, and steps that were left out only
-- because the run was failing. A step that also waits for a failed step that is not retried
-- stays as it is.
CREATE OR REPLACE FUNCTION nofx.retry_step(p_step uuid, p_cascade boolean, p_reason text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    s nofx.locked_step := lock_step(p_step);
    v_class text;
BEGIN
    IF s.state <> 'failed' THEN -- a running step has an event of that name, used by its worker
        PERFORM refuse('step', s.id, s.state, 'retry');
    END IF;
    IF EXISTS (SELECT FROM run r WHERE r.tenant_id = s.tenant_id AND r.id = s.run_id AND r.state IN ('failed', 'cancelled')) THEN
        PERFORM revive_run(s.tenant_id, s.run_id, 'retry', p_reason);
    END IF;
    SELECT x.failure_class INTO v_class FROM step x WHERE x.tenant_id = s.tenant_id AND x.id = s.id;
    UPDATE step SET event = 'retry', version = version + 1, reason = p_reason WHERE tenant_id = s.tenant_id AND id = s.id;
    PERFORM hold_back(s.tenant_id, s.run_id, p_reason);
    IF p_cascade THEN
        PERFORM move_steps(s.tenant_id, s.run_id, ARRAY(
            WITH RECURSIVE below (id) AS (
                SELECT s.id
                UNION
                SELECT d.step_id FROM step_dep d JOIN below b ON d.tenant_id = s.tenant_id AND d.needs = b.id
            ), fell AS (
                SELECT x.id FROM step x WHERE x.tenant_id = s.tenant_id AND x.run_id = s.run_id AND x.state IN ('skipped', 'cancelled')
                    AND (x.reason = 'run_failed' OR x.id IN (SELECT b.id FROM below b))
            ), stuck (id) AS (
                SELECT x.id FROM step x WHERE x.tenant_id = s.tenant_id AND x.run_id = s.run_id
                    AND x.state IN ('failed', 'skipped', 'cancelled') AND x.id NOT IN (SELECT f.id FROM fell f)
                UNION
                SELECT d.step_id FROM step_dep d JOIN stuck u ON d.tenant_id = s.tenant_id AND d.needs = u.id
            )
            SELECT f.id FROM fell f EXCEPT SELECT u.id FROM stuck u
        ), 'reopen', p_reason, NULL);
    END IF;
    PERFORM ready_steps(s.tenant_id, s.run_id), settle_run(s.tenant_id, s.run_id, false);
    IF v_class IN ('exhausted', 'poisoned') THEN -- a dead letter
        PERFORM audit('step.requeue', public_id('step', s.id), p_reason, jsonb_build_object('failure_class', v_class), jsonb_build_object('run_id', public_id('run', s.run_id)));
    END IF;
END
$$;

GRANT EXECUTE ON FUNCTION
    nofx.reopen_run(uuid, text, text, bigint),
    nofx.retry_step(uuid, boolean, text)
TO nofx_gateway;
