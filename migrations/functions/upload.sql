-- Artifacts that clients upload. The bytes go directly to storage, to a key of the
-- artifact. After a step of sys:verify has copied them to the key of their digest, the
-- artifact is ready and the uploaded object is condemned.

CREATE OR REPLACE FUNCTION nofx.create_upload(p_id uuid, p_name text, p_key text, p_media_type text, p_size bigint, p_sha256 bytea) RETURNS timestamptz
    LANGUAGE sql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
    INSERT INTO object (tenant_id, key, sha256, bytes, kind) VALUES (tenant(), p_key, p_sha256, p_size, 'upload');
    INSERT INTO artifact (tenant_id, id, name, key, media_type, size_bytes, sha256, state)
    VALUES (tenant(), p_id, p_name, p_key, p_media_type, p_size, p_sha256, 'pending') RETURNING created_at
$$;

-- Makes an artifact ready whose bytes a step has verified and stored at p_key.
-- Nothing happens to an artifact that is ready already: the transaction can be
-- repeated. NX004 when the step's attempt has lost its lease.
CREATE OR REPLACE FUNCTION nofx.complete_upload(p_step uuid, p_fence bigint, p_id uuid, p_key text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    s nofx.locked_step := hold_step(p_step, p_fence);
    a record;
BEGIN
    SELECT x.key, x.size_bytes, x.sha256, x.state INTO a FROM artifact x WHERE x.tenant_id = tenant() AND x.id = p_id FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no artifact %', p_id USING ERRCODE = 'NX005', DETAIL = '{"noun":"artifact"}';
    END IF;
    IF a.state = 'ready' THEN
        RETURN;
    END IF;
    INSERT INTO object (tenant_id, key, sha256, bytes, kind) VALUES (tenant(), p_key, a.sha256, a.size_bytes, 'blob')
    ON CONFLICT (tenant_id, key) DO UPDATE SET state = 'live';
    UPDATE artifact SET state = 'ready', key = p_key WHERE tenant_id = tenant() AND id = p_id;
    UPDATE object SET state = 'condemned' WHERE tenant_id = tenant() AND key = a.key;
END
$$;

-- Abandons some of the uploads of all tenants that were not completed within a day, and
-- returns their number.
CREATE OR REPLACE FUNCTION nofx.expire_uploads(p_limit int) RETURNS bigint
    LANGUAGE sql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
    WITH expired AS (
        SELECT a.tenant_id, a.id FROM artifact a
        WHERE a.state = 'pending' AND a.created_at <= (SELECT clock_timestamp()) - interval '1 day'
        ORDER BY a.created_at FOR UPDATE SKIP LOCKED LIMIT p_limit
    ), gone AS (
        DELETE FROM artifact a USING expired e WHERE a.tenant_id = e.tenant_id AND a.id = e.id RETURNING a.tenant_id, a.key
    ), condemned AS (
        UPDATE object o SET state = 'condemned' FROM gone g WHERE o.tenant_id = g.tenant_id AND o.key = g.key
    )
    SELECT count(*) FROM gone
$$;

GRANT EXECUTE ON FUNCTION
    nofx.create_upload(uuid, text, text, text, bigint, bytea)
TO nofx_gateway;

GRANT EXECUTE ON FUNCTION
    nofx.complete_upload(uuid, bigint, uuid, text),
    nofx.expire_uploads(int)
TO nofx_worker;
