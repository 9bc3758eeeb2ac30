-- Diffs of two checkpoints. Their objects are in storage before their rows are written.

-- Returns the key of one form of a diff, as package blob makes it.
CREATE OR REPLACE FUNCTION nofx.diff_key(p_tenant uuid, p_sha256 bytea, p_copy bigint, p_form text) RETURNS text
    LANGUAGE sql IMMUTABLE
    RETURN 't/' || replace(p_tenant::text, '-', '') || '/diff/' || encode(substr(p_sha256, 1, 1), 'hex') || '/' || encode(p_sha256, 'hex') || '-' || p_copy || '.' || p_form;

-- Records a diff that a step has computed and stored; p is the row, with the sizes of its
-- objects. A diff that is stored already stays as it is: the transaction can be repeated.
-- NX004 when the step's attempt has lost its lease, NX005 when a checkpoint is gone.
CREATE OR REPLACE FUNCTION nofx.record_diff(p_step uuid, p_fence bigint, p jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    s nofx.locked_step := hold_step(p_step, p_fence);
    v_ends uuid[] := array_remove(ARRAY[(p->>'to_id')::uuid, (p->>'from_id')::uuid], '00000000-0000-0000-0000-000000000000');
    v_end uuid;
BEGIN
    -- Locked, because what deletes a checkpoint deletes its diffs after it.
    FOR v_end IN SELECT DISTINCT x FROM unnest(v_ends) AS x ORDER BY x LOOP
        PERFORM FROM checkpoint c WHERE c.tenant_id = s.tenant_id AND c.id = v_end FOR KEY SHARE;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'no checkpoint %', v_end USING ERRCODE = 'NX005', DETAIL = '{"noun":"checkpoint"}';
        END IF;
    END LOOP;
    INSERT INTO diff (tenant_id, to_id, from_id, options, copy, json_sha256, json_bytes, patch_sha256, patch_bytes, files, lines_added, lines_deleted, truncated)
    VALUES (s.tenant_id, (p->>'to_id')::uuid, (p->>'from_id')::uuid, p->>'options', (p->>'copy')::bigint, decode(p->>'json_sha256', 'hex'), (p->>'json_bytes')::bigint,
        decode(p->>'patch_sha256', 'hex'), (p->>'patch_bytes')::bigint, (p->>'files')::int, (p->>'lines_added')::int, (p->>'lines_deleted')::int,
        (p->>'truncated')::boolean)
    ON CONFLICT (tenant_id, to_id, from_id, options) DO UPDATE
    SET copy = excluded.copy, json_sha256 = excluded.json_sha256, json_bytes = excluded.json_bytes, patch_sha256 = excluded.patch_sha256,
        patch_bytes = excluded.patch_bytes, files = excluded.files, lines_added = excluded.lines_added, lines_deleted = excluded.lines_deleted,
        truncated = excluded.truncated, state = 'stored', created_at = excluded.created_at
    WHERE diff.state = 'lost';
    IF FOUND THEN
        INSERT INTO object (tenant_id, key, sha256, bytes, kind)
        SELECT s.tenant_id, o->>'key', decode(o->>'sha256', 'hex'), (o->>'bytes')::bigint, 'diff'
        FROM jsonb_array_elements(p->'objects') AS o ORDER BY o->>'key';
    END IF;
END
$$;

-- Notes that storage has lost the object p_key of a diff, so that it is computed anew.
CREATE OR REPLACE FUNCTION nofx.lose_diff(p_from uuid, p_to uuid, p_options text, p_key text) RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
    WITH lost AS (
        UPDATE diff d SET state = 'lost', losses = d.losses + 1
        WHERE d.tenant_id = tenant() AND d.to_id = p_to AND d.from_id = p_from AND d.options = p_options AND d.state = 'stored'
            AND p_key IN (diff_key(d.tenant_id, d.json_sha256, d.copy, 'json'), diff_key(d.tenant_id, d.patch_sha256, d.copy, 'patch'))
        RETURNING d.json_sha256, d.patch_sha256, d.copy
    )
    UPDATE object o SET state = 'condemned' FROM lost l
    WHERE o.tenant_id = tenant() AND o.key IN (diff_key(tenant(), l.json_sha256, l.copy, 'json'), diff_key(tenant(), l.patch_sha256, l.copy, 'patch'))
$$;

GRANT EXECUTE ON FUNCTION
    nofx.lose_diff(uuid, uuid, text, text)
TO nofx_gateway;

GRANT EXECUTE ON FUNCTION
    nofx.record_diff(uuid, bigint, jsonb)
TO nofx_worker;
