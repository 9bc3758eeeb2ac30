-- Diffs of two checkpoints. Their objects are in storage before their rows are written.

-- Records a diff that a step has computed and stored; p is the row, with the keys and sizes
-- of its objects. A diff that is stored already stays as it is: the transaction can be
-- repeated. NX004 when the step's attempt has lost its lease.
CREATE OR REPLACE FUNCTION nofx.record_diff(p_step uuid, p_fence bigint, p jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    s nofx.locked_step := hold_step(p_step, p_fence);
BEGIN
    INSERT INTO object (tenant_id, key, sha256, bytes, kind)
    SELECT s.tenant_id, o->>'key', decode(o->>'sha256', 'hex'), (o->>'bytes')::bigint, 'diff'
    FROM jsonb_array_elements(p->'objects') AS o ORDER BY o->>'key'
    ON CONFLICT (tenant_id, key) DO UPDATE SET state = 'live';
    INSERT INTO diff (tenant_id, to_id, from_id, options, json_sha256, json_bytes, patch_sha256, patch_bytes, files, lines_added, lines_deleted, truncated)
    VALUES (s.tenant_id, (p->>'to_id')::uuid, (p->>'from_id')::uuid, p->>'options', decode(p->>'json_sha256', 'hex'), (p->>'json_bytes')::bigint,
        decode(p->>'patch_sha256', 'hex'), (p->>'patch_bytes')::bigint, (p->>'files')::int, (p->>'lines_added')::int, (p->>'lines_deleted')::int,
        (p->>'truncated')::boolean)
    ON CONFLICT (tenant_id, to_id, from_id, options) DO UPDATE
    SET json_sha256 = excluded.json_sha256, json_bytes = excluded.json_bytes, patch_sha256 = excluded.patch_sha256, patch_bytes = excluded.patch_bytes,
        state = 'stored', created_at = excluded.created_at
    WHERE diff.state = 'lost';
END
$$;

-- Notes that storage has lost the object p_sha256 of a diff, so that it is computed anew.
CREATE OR REPLACE FUNCTION nofx.lose_diff(p_from uuid, p_to uuid, p_options text, p_sha256 bytea) RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
    UPDATE diff SET state = 'lost', losses = losses + 1
    WHERE tenant_id = tenant() AND to_id = p_to AND from_id = p_from AND options = p_options AND state = 'stored' AND p_sha256 IN (json_sha256, patch_sha256)
$$;

GRANT EXECUTE ON FUNCTION
    nofx.record_diff(uuid, bigint, jsonb),
    nofx.lose_diff(uuid, uuid, text, bytea)
TO nofx_app;
