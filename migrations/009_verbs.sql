-- What people do to runs besides starting and ending them: resume, retry, decide,
-- send a signal (to pause is one transition). Each is one transaction under the run's lock and
-- ends with the run's state in line with its steps.
SET LOCAL ROLE nofx_system;

-- Takes a paused run up where it stands. Wake-ups of its ready steps were spent
-- while it took no claims, so they get new ones.
CREATE FUNCTION nofx.unpause_run(p_tenant uuid, p_run uuid, p_reason text) RETURNS void
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

-- Brings a run that failed or was cancelled back to life, with all its time anew.
CREATE FUNCTION nofx.revive_run(p_tenant uuid, p_run uuid, p_event text, p_reason text) RETURNS void
    LANGUAGE plpgsql
AS $$
BEGIN
    UPDATE run SET deadline = greatest(deadline, clock_timestamp() + make_interval(secs => (plan->>'deadline_s')::float8)) WHERE tenant_id = p_tenant AND id = p_run;
    PERFORM run_transition(p_run, p_event, p_reason);
END
$$;

-- Has every step of a live run that failed, was skipped or was cancelled run again.
CREATE FUNCTION nofx.reopen_steps(p_tenant uuid, p_run uuid, p_reason text) RETURNS void
    LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM move_steps(p_tenant, p_run, steps_in(p_tenant, p_run, '{failed}'), 'retry', p_reason, NULL);
    PERFORM move_steps(p_tenant, p_run, steps_in(p_tenant, p_run, '{skipped, cancelled}'), 'reopen', p_reason, NULL);
    PERFORM ready_steps(p_tenant, p_run);
    PERFORM settle_run(p_tenant, p_run, false);
END
$$;

-- Has a run go on by p_event: resume a paused one, where it stands; resume or
-- retry one that failed or was cancelled, from its last checkpoints, with
-- everything that had not succeeded.
CREATE FUNCTION nofx.reopen_run(p_run uuid, p_event text, p_reason text, p_version bigint) RETURNS void
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

-- Retries one failed step, in a live run as well. With p_cascade what fell with
-- it gets its turn again: the steps below it, and those that were left only
-- because the run was failing. A step that also waits for one that is not
-- retried stays as it is.
CREATE FUNCTION nofx.retry_step(p_step uuid, p_cascade boolean, p_reason text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    s nofx.locked_step := lock_step(p_step);
BEGIN
    IF s.state <> 'failed' THEN -- a running step knows an event of that name, which is its worker's
        PERFORM refuse('step', s.id, s.state, 'retry');
    END IF;
    IF EXISTS (SELECT FROM run r WHERE r.tenant_id = s.tenant_id AND r.id = s.run_id AND r.state IN ('failed', 'cancelled')) THEN
        PERFORM revive_run(s.tenant_id, s.run_id, 'retry', p_reason);
    END IF;
    UPDATE step SET event = 'retry', version = version + 1, reason = p_reason WHERE tenant_id = s.tenant_id AND id = s.id;
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
        PERFORM ready_steps(s.tenant_id, s.run_id);
    END IF;
    PERFORM settle_run(s.tenant_id, s.run_id, false);
END
$$;

-- After the last of a run's failed gates was waived the run goes on, whether it
-- has failed already or siblings are still running. While another step of it
-- has failed too, the waiver stays on record and nothing moves.
CREATE FUNCTION nofx.resume_after_waiver(p_tenant uuid, p_run uuid, p_reason text) RETURNS void
    LANGUAGE plpgsql
AS $$
DECLARE
    v_state text;
BEGIN
    SELECT state INTO v_state FROM run WHERE tenant_id = p_tenant AND id = p_run AND failed_steps > 0;
    IF NOT FOUND OR v_state = 'cancelled' OR EXISTS (
        SELECT FROM step s WHERE s.tenant_id = p_tenant AND s.run_id = p_run AND s.state = 'failed'
            AND NOT EXISTS (SELECT FROM gate w WHERE w.tenant_id = p_tenant AND w.step_id = s.id AND w.state = 'waived'
                AND w.round = (SELECT max(l.round) FROM gate l WHERE l.tenant_id = p_tenant AND l.step_id = s.id))) THEN
        RETURN;
    END IF;
    IF v_state = 'failed' THEN
        PERFORM revive_run(p_tenant, p_run, 'retry', p_reason);
    END IF;
    PERFORM reopen_steps(p_tenant, p_run, p_reason);
END
$$;

-- A person's decision on a gate, and what follows from it, in one transaction. A
-- gate that wants several approvals stays pending until the last of them; one
-- rejection ends it.
CREATE FUNCTION nofx.decide_gate(p_gate uuid, p_event text, p_reason text, p_version bigint) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    g nofx.locked_gate := lock_gate(p_gate);
    v_actor text := nullif(current_setting('nofx.actor', true), '');
    v_name text := coalesce(subject_name(tenant(), v_actor), v_actor);
    v_new boolean;
    v_given int;
    v_wanted int := 1;
BEGIN
    PERFORM check_version(p_version, g.version, g.state);
    IF p_event NOT IN ('approve', 'reject', 'waive') OR (g.state = 'pending' AND g.expires_at <= clock_timestamp()) THEN
        RAISE EXCEPTION 'gate % is %: % is not possible', p_gate, g.state, p_event USING
            ERRCODE = 'NX001',
            DETAIL = jsonb_build_object('machine', 'gate', 'id', p_gate, 'event', p_event, 'allowed', '[]'::jsonb,
                'from', CASE WHEN g.state = 'pending' AND g.expires_at <= clock_timestamp() THEN 'expired' ELSE g.state END);
    END IF;
    IF p_event <> 'reject' AND EXISTS (
        SELECT FROM run r JOIN tenant t ON t.tenant_id = r.tenant_id
        WHERE r.tenant_id = g.tenant_id AND r.id = g.run_id AND r.created_by = v_actor
            AND (t.settings->>'four_eyes')::boolean) THEN
        RAISE EXCEPTION 'the author of a run may not let it pass' USING ERRCODE = 'NX009';
    END IF;
    PERFORM edge('gate', g.id, g.state, p_event, p_reason);
    INSERT INTO approval AS a (tenant_id, gate_id, subject, decision, reason)
    VALUES (g.tenant_id, g.id, v_actor, p_event, p_reason)
    ON CONFLICT (tenant_id, gate_id, subject) DO UPDATE SET decision = excluded.decision, reason = excluded.reason, at = clock_timestamp()
        WHERE a.decision <> excluded.decision;
    v_new := FOUND;
    IF g.kind = 'manual' AND g.state = 'pending' THEN
        SELECT w.quorum INTO v_wanted FROM wait w WHERE w.tenant_id = g.tenant_id AND w.step_id = g.step_id ORDER BY w.round DESC LIMIT 1;
        SELECT count(*) FILTER (WHERE a.decision = 'approve') INTO v_given FROM approval a WHERE a.tenant_id = g.tenant_id AND a.gate_id = g.id;
        IF v_new THEN
            PERFORM append_event(g.tenant_id, g.run_id, g.step_id, 'approval.decided', g.fence, jsonb_build_object(
                'gate_id', public_id('gate', g.id), 'decision', p_event, 'by', v_actor, 'by_name', v_name, 'given', v_given, 'wanted', v_wanted));
        END IF;
        IF p_event = 'approve' AND v_given < v_wanted THEN
            RETURN;
        END IF;
    END IF;
    PERFORM gate_transition(p_gate, p_event, p_reason);
    IF g.state = 'pending' THEN
        UPDATE step SET outputs = jsonb_build_object('decision', p_event, 'by', v_actor, 'by_name', v_name, 'reason', coalesce(p_reason, ''))
        WHERE tenant_id = g.tenant_id AND id = g.step_id;
        PERFORM step_transition(g.step_id, p_event, p_reason, NULL, CASE WHEN p_event = 'reject' THEN 'gate_rejected' END);
        IF p_event <> 'reject' THEN
            PERFORM ready_successors(g.tenant_id, g.step_id);
        END IF;
        PERFORM settle_run(g.tenant_id, g.run_id, p_event = 'reject');
    ELSE
        -- Between two attempts the next one finds the waiver, and need not wait for long.
        UPDATE step SET event = 'backoff_elapsed', version = version + 1, ready_at = clock_timestamp()
        WHERE tenant_id = g.tenant_id AND id = g.step_id AND state = 'retrying';
        PERFORM resume_after_waiver(g.tenant_id, g.run_id, p_reason);
    END IF;
END
$$;

-- The step that waits for a signal under a key, of several the first; its run.
CREATE FUNCTION nofx.waiting_for(p_tenant uuid, p_key text, OUT step_id uuid, OUT run_id uuid)
    LANGUAGE plpgsql
AS $$
BEGIN
    SELECT s.id, s.run_id INTO step_id, run_id FROM step s
    WHERE s.tenant_id = p_tenant AND s.signal_key = p_key AND s.wait_until > clock_timestamp()
    ORDER BY s.waiting_since, s.id LIMIT 1;
END
$$;

-- Sends a signal: to the step that waits for it, whose run comes back, or to the
-- inbox.
CREATE FUNCTION nofx.send_signal(p_id uuid, p_key text, p_payload jsonb) RETURNS uuid
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    v_tenant uuid := tenant();
    v_locked record;
    v record;
BEGIN
    -- A wait locks the run before the key, so this does; who began to wait in
    -- between is not waited for.
    SELECT * INTO v_locked FROM waiting_for(v_tenant, p_key);
    IF v_locked.step_id IS NOT NULL THEN
        PERFORM lock_step(v_locked.step_id);
    END IF;
    PERFORM lock_signal(v_tenant, p_key);
    INSERT INTO inbox (tenant_id, id, key, payload, sent_by)
    VALUES (v_tenant, p_id, p_key, p_payload, nullif(current_setting('nofx.actor', true), ''));
    SELECT * INTO v FROM waiting_for(v_tenant, p_key);
    IF v.step_id IS NULL THEN
        RETURN NULL;
    END IF;
    IF v.step_id IS DISTINCT FROM v_locked.step_id THEN
        PERFORM FROM run r WHERE r.tenant_id = v_tenant AND r.id = v.run_id FOR NO KEY UPDATE SKIP LOCKED;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'another step began to wait for signal %', p_key USING ERRCODE = 'serialization_failure';
        END IF;
        PERFORM lock_step(v.step_id);
        IF (SELECT w.step_id FROM waiting_for(v_tenant, p_key) AS w) IS DISTINCT FROM v.step_id THEN
            RAISE EXCEPTION 'a step ceased to wait for signal %', p_key USING ERRCODE = 'serialization_failure';
        END IF;
    END IF;
    IF take_signal(v_tenant, v.step_id, p_key) THEN
        PERFORM settle_run(v_tenant, v.run_id, false);
    END IF;
    RETURN v.run_id;
END
$$;

GRANT EXECUTE ON FUNCTION
    nofx.send_signal(uuid, text, jsonb),
    nofx.reopen_run(uuid, text, text, bigint),
    nofx.retry_step(uuid, boolean, text),
    nofx.decide_gate(uuid, text, text, bigint)
TO nofx_app;

RESET ROLE;
