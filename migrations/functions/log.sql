-- Chunks of step logs.

-- A chunk that is there already stays as it is, without another event: its answer
-- was lost on the way, and it came again.
CREATE OR REPLACE FUNCTION nofx.record_log_chunk(p_step uuid, p_fence bigint, p_n int, p_start bigint, p_bytes bigint, p_lines int, p_key text, p_sha256 bytea) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    s nofx.locked_step := hold_step(p_step, p_fence);
BEGIN
    INSERT INTO log_chunk (tenant_id, step_id, fence, n, start, bytes, lines, key, sha256)
    VALUES (s.tenant_id, s.id, p_fence, p_n, p_start, p_bytes, p_lines, p_key, p_sha256)
    ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    PERFORM append_event(s.tenant_id, s.run_id, s.id, 'step.log', p_fence, jsonb_build_object(
        'step', s.name, 'fence', p_fence, 'n', p_n, 'offset', p_start, 'bytes', p_bytes, 'lines', p_lines));
END
$$;

GRANT EXECUTE ON FUNCTION
    nofx.record_log_chunk(uuid, bigint, int, bigint, bigint, int, text, bytea)
TO nofx_app;
