-- Objects whose bytes are gone or corrupt. They are condemned with every blob that is
-- in them, so that the next checkpoint which names such a blob stores it anew; until
-- then it may still be read, as what is left of a pack can be.
SET LOCAL ROLE nofx_owner;

-- condemn_object looks for the blobs of a pack.
CREATE INDEX blob_pack ON nofx.blob (pack_sha256, tenant_id) WHERE pack_sha256 IS NOT NULL;

RESET ROLE;
SET LOCAL ROLE nofx_system;

-- Locks object before blobs and blobs in the order of their digests, as those who
-- store them do.
CREATE FUNCTION nofx.condemn_object(p_key text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    v_tenant uuid := tenant();
    o record;
    v_sha256 bytea;
BEGIN
    SELECT x.sha256, x.kind INTO o FROM object x WHERE x.tenant_id = v_tenant AND x.key = p_key AND x.kind IN ('blob', 'pack') FOR UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    UPDATE object SET state = 'condemned' WHERE tenant_id = v_tenant AND key = p_key AND state = 'live';
    IF o.kind = 'blob' THEN
        UPDATE blob SET state = 'condemned' WHERE tenant_id = v_tenant AND sha256 = o.sha256 AND pack_sha256 IS NULL AND state = 'live';
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
CREATE FUNCTION nofx.renew_objects(p_keys text[]) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    v_key text;
BEGIN
    FOREACH v_key IN ARRAY p_keys LOOP
        UPDATE object SET state = 'live' WHERE tenant_id = tenant() AND key = v_key AND kind IN ('blob', 'pack') AND state = 'condemned';
    END LOOP;
END
$$;

-- The same for blobs, which are where the caller has stored them now.
CREATE FUNCTION nofx.renew_blobs(p_sha256 bytea[], p_pack bytea[], p_off bigint[], p_len bigint[]) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
BEGIN
    FOR i IN 1 .. cardinality(p_sha256) LOOP
        UPDATE blob SET state = 'live', pack_sha256 = p_pack[i], off = p_off[i], len = p_len[i], last_ref = clock_timestamp()
        WHERE tenant_id = tenant() AND sha256 = p_sha256[i] AND state = 'condemned';
    END LOOP;
END
$$;

-- Writes that a running attempt cannot start from a checkpoint because of lost bytes.
-- p_ancestor is the nearest checkpoint before it that lacks none, as far as is known.
CREATE FUNCTION nofx.record_corrupt(p_step uuid, p_fence bigint, p_checkpoint uuid, p_code text, p_ancestor uuid) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    s nofx.locked_step := hold_step(p_step, p_fence);
BEGIN
    PERFORM append_event(s.tenant_id, s.run_id, s.id, 'checkpoint.corrupt', p_fence, jsonb_strip_nulls(jsonb_build_object(
        'checkpoint_id', public_id('ckpt', p_checkpoint), 'code', p_code, 'ancestor_id', public_id('ckpt', p_ancestor))));
END
$$;

GRANT EXECUTE ON FUNCTION
    nofx.condemn_object(text),
    nofx.renew_objects(text[]),
    nofx.renew_blobs(bytea[], bytea[], bigint[], bigint[]),
    nofx.record_corrupt(uuid, bigint, uuid, text, uuid)
TO nofx_app;

RESET ROLE;
