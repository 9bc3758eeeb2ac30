-- Effects of steps outside, recorded once under a key that all attempts share.

-- Returns the recorded result of an effect that the step of this name has done in an earlier
-- run of the line, if this branch reuses the effects of its parent, or NULL. Where the
-- parent had restored the step, the run counts in which it ran.
CREATE OR REPLACE FUNCTION nofx.earlier_effect(p_tenant uuid, p_run uuid, p_step_name text, p_name text, p_digest text) RETURNS jsonb
    LANGUAGE plpgsql
AS $$
DECLARE
    v_run uuid := p_run;
    v_result jsonb;
    v_restored uuid;
BEGIN
    LOOP
        SELECT r.parent_run_id INTO v_run FROM run r WHERE r.tenant_id = p_tenant AND r.id = v_run AND r.reuse_effects;
        EXIT WHEN v_run IS NULL;
        SELECT s.restored_from INTO v_restored FROM step s WHERE s.run_id = v_run AND s.tenant_id = p_tenant AND s.name = p_step_name;
        IF v_restored IS NOT NULL THEN
            SELECT s.run_id INTO v_run FROM step s WHERE s.tenant_id = p_tenant AND s.id = v_restored;
        END IF;
        SELECT e.result INTO v_result FROM step_effect e
        WHERE e.run_id = v_run AND e.tenant_id = p_tenant AND e.step_name = p_step_name AND e.name = p_name AND e.request_digest = p_digest AND e.state = 'done';
        IF FOUND THEN
            RETURN v_result;
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;

-- Returns the key with which a running attempt must do an effect, or the recorded result of
-- the effect. The key is <run>/<step>. It is the same as long as the request is; a second
-- effect of the step, or one whose inputs have changed, adds /<name>-<digest12> to it. An
-- effect that a branch reuses has no row in it.
-- NX004 when the attempt has lost its lease.
CREATE OR REPLACE FUNCTION nofx.begin_effect(p_step uuid, p_fence bigint, p_name text, p_digest text, OUT effect_key text, OUT effect_result jsonb)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    s nofx.locked_step := hold_step(p_step, p_fence);
    e record;
BEGIN
    effect_key := public_id('run', s.run_id) || '/' || s.name;
    SELECT x.name, x.request_digest INTO e FROM step_effect x WHERE x.tenant_id = s.tenant_id AND x.key = effect_key;
    IF (e.name, e.request_digest) <> (p_name, p_digest) THEN
        effect_key := effect_key || '/' || p_name || '-' || substr(p_digest, 8, 12);
    END IF;
    effect_result := earlier_effect(s.tenant_id, s.run_id, s.name, p_name, p_digest);
    IF effect_result IS NOT NULL THEN
        RETURN;
    END IF;
    INSERT INTO step_effect AS x (tenant_id, run_id, step_name, name, key, fence, request_digest)
    VALUES (s.tenant_id, s.run_id, s.name, p_name, effect_key, p_fence, p_digest)
    ON CONFLICT (tenant_id, key) DO UPDATE SET fence = CASE x.state WHEN 'begun' THEN excluded.fence ELSE x.fence END
    RETURNING x.name, x.request_digest, x.result INTO e;
    IF (e.name, e.request_digest) <> (p_name, p_digest) THEN
        RAISE EXCEPTION 'step %: key % is that of another effect', p_step, effect_key USING ERRCODE = 'NX006';
    END IF;
    effect_result := e.result;
END
$$;

-- Records the result of an effect that this attempt began. NX004 when the attempt has lost
-- its lease meanwhile: the new holder asks the provider with the same key.
CREATE OR REPLACE FUNCTION nofx.finish_effect(p_step uuid, p_fence bigint, p_key text, p_result jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    s nofx.locked_step := hold_step(p_step, p_fence);
BEGIN
    UPDATE step_effect SET state = 'done', result = p_result, done_at = clock_timestamp()
    WHERE tenant_id = s.tenant_id AND key = p_key AND run_id = s.run_id AND step_name = s.name AND state = 'begun' AND fence = p_fence;
    IF NOT FOUND AND NOT EXISTS ( -- recorded before, without the caller's learning of it
        SELECT FROM step_effect x WHERE x.tenant_id = s.tenant_id AND x.key = p_key AND x.state = 'done' AND x.fence = p_fence) THEN
        RAISE EXCEPTION 'step %: fence % did not begin effect %', p_step, p_fence, p_key USING ERRCODE = 'NX006';
    END IF;
END
$$;

GRANT EXECUTE ON FUNCTION
    nofx.begin_effect(uuid, bigint, text, text),
    nofx.finish_effect(uuid, bigint, text, jsonb)
TO nofx_worker;
