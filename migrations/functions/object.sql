-- Objects in storage: those that are gone or corrupt, and those that no row needs.

-- Returns objects of all tenants that no row needs any more, in the order of their
-- creation, after a given place. A client can write an uploaded object again while its URL
-- is valid, so such an object is kept for a day.
CREATE OR REPLACE FUNCTION nofx.condemned_objects(p_after timestamptz, p_limit int) RETURNS TABLE (tenant_id uuid, key text, created_at timestamptz)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
    SELECT c.tenant_id, c.key, c.created_at FROM (
        (SELECT o.tenant_id, o.key, o.created_at FROM object o
        WHERE o.state = 'condemned' AND o.kind = 'log' AND o.created_at > p_after ORDER BY o.created_at LIMIT p_limit)
        UNION ALL
        (SELECT o.tenant_id, o.key, o.created_at FROM object o
        WHERE o.state = 'condemned' AND o.kind = 'diff' AND o.created_at > p_after ORDER BY o.created_at LIMIT p_limit)
        UNION ALL
        (SELECT o.tenant_id, o.key, o.created_at FROM object o
        WHERE o.state = 'condemned' AND o.kind = 'upload' AND o.created_at > p_after AND o.created_at <= (SELECT clock_timestamp()) - interval '1 day'
        ORDER BY o.created_at LIMIT p_limit)) AS c
    ORDER BY c.created_at LIMIT p_limit
$$;

-- Deletes the rows of objects that the caller has deleted from storage.
CREATE OR REPLACE FUNCTION nofx.forget_objects(p_tenants uuid[], p_keys text[]) RETURNS bigint
    LANGUAGE sql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
    WITH gone AS (
        DELETE FROM object o USING unnest(p_tenants, p_keys) AS k (tenant_id, key)
        WHERE o.tenant_id = k.tenant_id AND o.key = k.key AND o.state = 'condemned' RETURNING 1
    )
    SELECT count(*) FROM gone
$$;

-- Returns the key of content in an object of its own, as package blob makes it.
CREATE OR REPLACE FUNCTION nofx.blob_key(p_tenant uuid, p_sha256 bytea, p_copy bigint) RETURNS text
    LANGUAGE sql IMMUTABLE
    RETURN 't/' || replace(p_tenant::text, '-', '') || '/blob/' || encode(substr(p_sha256, 1, 1), 'hex') || '/' || encode(p_sha256, 'hex')
        || CASE WHEN p_copy = 0 THEN '' ELSE '-' || p_copy END;

-- Locks object before blobs and blobs in the order of their digests, as those who
-- store them do.
CREATE OR REPLACE FUNCTION nofx.condemn_object(p_key text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    v_tenant uuid := tenant();
    o record;
    v_sha256 bytea;
BEGIN
    SELECT x.sha256, x.kind INTO o FROM object x WHERE x.tenant_id = v_tenant AND x.key = p_key AND x.kind IN ('blob', 'pack', 'diff') FOR UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    UPDATE object SET state = 'condemned' WHERE tenant_id = v_tenant AND key = p_key AND state = 'live';
    IF o.kind = 'diff' THEN -- whoever reads it next finds that it is lost
        RETURN;
    END IF;
    IF o.kind = 'blob' THEN
        UPDATE blob SET state = 'condemned' WHERE tenant_id = v_tenant AND sha256 = o.sha256 AND pack_sha256 IS NULL AND state = 'live'
            AND blob_key(v_tenant, sha256, copy) = p_key;
        RETURN;
    END IF;
    FOR v_sha256 IN
        SELECT b.sha256 FROM blob b WHERE b.tenant_id = v_tenant AND b.pack_sha256 = o.sha256 AND b.state = 'live' ORDER BY b.sha256 FOR UPDATE
    LOOP
        UPDATE blob SET state = 'condemned' WHERE tenant_id = v_tenant AND sha256 = v_sha256;
    END LOOP;
END
$$;

-- The caller has stored these objects, some of which there were rows of. p_keys is in
-- their order.
CREATE OR REPLACE FUNCTION nofx.renew_objects(p_keys text[]) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    v_key text;
BEGIN
    FOREACH v_key IN ARRAY p_keys LOOP
        UPDATE object SET state = 'live', condemned_at = NULL WHERE tenant_id = tenant() AND key = v_key AND kind IN ('blob', 'pack') AND state = 'condemned';
    END LOOP;
END
$$;

-- The same for blobs, which are where the caller has stored them now. A collection may have
-- deleted a condemned one since the caller found it there; then it is inserted.
CREATE OR REPLACE FUNCTION nofx.renew_blobs(p_sha256 bytea[], p_size bigint[], p_pack bytea[], p_off bigint[], p_len bigint[], p_copy bigint[]) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    v_tenant uuid := tenant();
    v_state text;
BEGIN
    FOR i IN 1 .. cardinality(p_sha256) LOOP
        LOOP
            SELECT b.state INTO v_state FROM blob b WHERE b.tenant_id = v_tenant AND b.sha256 = p_sha256[i] FOR NO KEY UPDATE;
            EXIT WHEN FOUND;
            INSERT INTO blob (tenant_id, sha256, size, pack_sha256, off, len, copy)
            VALUES (v_tenant, p_sha256[i], p_size[i], p_pack[i], p_off[i], p_len[i], p_copy[i]) ON CONFLICT DO NOTHING;
        END LOOP;
        IF v_state = 'condemned' THEN
            UPDATE blob SET state = 'live', pack_sha256 = p_pack[i], off = p_off[i], len = p_len[i], copy = p_copy[i], last_ref = clock_timestamp(),
                condemned_at = NULL
            WHERE tenant_id = v_tenant AND sha256 = p_sha256[i];
        ELSIF v_state = 'tombstone' THEN -- purged while it was being stored: the next collection deletes the bytes
            UPDATE blob SET len = p_len[i] WHERE tenant_id = v_tenant AND sha256 = p_sha256[i];
        END IF;
    END LOOP;
END
$$;

GRANT EXECUTE ON FUNCTION
    nofx.condemn_object(text)
TO nofx_app;

GRANT EXECUTE ON FUNCTION
    nofx.condemned_objects(timestamptz, int),
    nofx.forget_objects(uuid[], text[]),
    nofx.renew_objects(text[]),
    nofx.renew_blobs(bytea[], bigint[], bytea[], bigint[], bigint[], bigint[])
TO nofx_worker;
