-- Signals, and the steps that wait for them.

-- Locks the key of a signal until the end of the transaction, so that a wait
-- and its signal cannot miss each other (inngest#1433).
CREATE OR REPLACE FUNCTION nofx.lock_signal(p_tenant uuid, p_key text) RETURNS void
    LANGUAGE sql
AS $$
    SELECT pg_advisory_xact_lock(hashtextextended(p_tenant::text || '/signal/' || p_key, 0))
$$;

-- Gives a waiting step the oldest signal under its key, if there is one, and
-- readies it. The caller holds the locks of run, step and key.
CREATE OR REPLACE FUNCTION nofx.take_signal(p_tenant uuid, p_step uuid, p_key text) RETURNS boolean
    LANGUAGE plpgsql
AS $$
BEGIN
    UPDATE inbox SET step_id = p_step
    WHERE tenant_id = p_tenant AND id = (
        SELECT i.id FROM inbox i WHERE i.tenant_id = p_tenant AND i.key = p_key AND i.step_id IS NULL AND i.expires_at > clock_timestamp()
        ORDER BY i.id LIMIT 1);
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE step SET event = 'signal', version = version + 1, reason = NULL WHERE tenant_id = p_tenant AND id = p_step;
    RETURN true;
END
$$;

-- Returns the step that waits for a signal under a key, of several the first; its run.
CREATE OR REPLACE FUNCTION nofx.waiting_for(p_tenant uuid, p_key text, OUT step_id uuid, OUT run_id uuid)
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
CREATE OR REPLACE FUNCTION nofx.send_signal(p_id uuid, p_key text, p_payload jsonb) RETURNS uuid
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    v_tenant uuid := tenant();
    v_locked record;
    v record;
BEGIN
    -- A wait locks the run before the key, so this function does the same; it does not wait
    -- for a step that began to wait in between.
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

-- Deletes some signals of all tenants that no step took in time, or whose step has ended,
-- and returns their number.
CREATE OR REPLACE FUNCTION nofx.expire_signals(p_limit int) RETURNS bigint
    LANGUAGE sql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
    WITH gone AS (
        DELETE FROM inbox WHERE ctid = ANY (ARRAY(
            SELECT i.ctid FROM inbox i
            WHERE i.expires_at <= (SELECT clock_timestamp())
              -- The next attempt at a step reads its payload. No join: that could read all steps.
              AND coalesce((SELECT s.state FROM step s WHERE s.tenant_id = i.tenant_id AND s.id = i.step_id), 'failed')
                IN ('succeeded', 'failed', 'skipped', 'cancelled')
            ORDER BY i.expires_at FOR UPDATE SKIP LOCKED LIMIT p_limit)) RETURNING 1
    )
    SELECT count(*) FROM gone
$$;

GRANT EXECUTE ON FUNCTION
    nofx.send_signal(uuid, text, jsonb)
TO nofx_gateway;

GRANT EXECUTE ON FUNCTION
    nofx.expire_signals(int)
TO nofx_worker;
