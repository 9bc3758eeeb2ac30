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

-- Ends a log that should have p_size bytes with a line that gives the number of missing
-- bytes, once, and returns this number.
CREATE OR REPLACE FUNCTION nofx.mark_log(p_step uuid, p_fence bigint, p_size bigint) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    s nofx.locked_step := hold_step(p_step, p_fence);
    v_n int := 0;
    v_size bigint := 0;
    v_mark text;
BEGIN
    SELECT c.n, c.start + c.bytes, c.mark INTO v_n, v_size, v_mark FROM log_chunk c
    WHERE c.tenant_id = s.tenant_id AND c.step_id = s.id AND c.fence = p_fence ORDER BY c.n DESC LIMIT 1;
    v_n := coalesce(v_n, 0);
    v_size := coalesce(v_size, 0);
    IF v_mark IS NOT NULL OR v_size >= p_size THEN
        RETURN 0;
    END IF;
    v_mark := format(E'\n[nofx] the last %s bytes of output are missing here: storage did not take them\n', p_size - v_size);
    INSERT INTO log_chunk (tenant_id, step_id, fence, n, start, bytes, lines, mark)
    VALUES (s.tenant_id, s.id, p_fence, v_n + 1, v_size, octet_length(v_mark), 2, v_mark);
    PERFORM append_event(s.tenant_id, s.run_id, s.id, 'step.log', p_fence, jsonb_build_object(
        'step', s.name, 'fence', p_fence, 'n', v_n + 1, 'offset', v_size, 'bytes', octet_length(v_mark), 'lines', 2));
    RETURN p_size - v_size;
END
$$;

GRANT EXECUTE ON FUNCTION
    nofx.mark_log(uuid, bigint, bigint),
    nofx.record_log_chunk(uuid, bigint, int, bigint, bigint, int, text, bytea)
TO nofx_worker;
