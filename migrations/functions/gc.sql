-- The collection: bytes that no checkpoint names, and objects that no row needs.
--
-- A collection is a system step. It marks the blobs that checkpoints name with the time of
-- its beginning, and then sweeps: a live blob without the mark, which nobody has been about
-- to name for the grace, is condemned, and a condemned one is deleted after the grace. A
-- checkpoint that is being written asks reuse_blobs for what it need not store, which
-- touches last_ref of live blobs alone: whatever it names afterwards is either touched, and
-- not condemned before its row can be found, or stored by itself, elsewhere. No key is used
-- twice, so nobody stores what a request to delete, however late, could hit.
--
-- Whatever the collection changes is changed under the fence of its step. Two collections
-- of a tenant would take the marks of the other for their own.

-- Returns which of the digests a checkpoint may name without storing them: those that are
-- live, and those that must not be stored again.
CREATE OR REPLACE FUNCTION nofx.reuse_blobs(p_sha256 bytea[]) RETURNS SETOF bytea
    LANGUAGE sql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
    WITH known AS (
        SELECT b.sha256 FROM blob b WHERE b.tenant_id = tenant() AND b.sha256 = ANY (p_sha256) AND b.state IN ('live', 'tombstone')
        ORDER BY b.sha256 FOR NO KEY UPDATE
    )
    UPDATE blob b SET last_ref = clock_timestamp() FROM known k
    WHERE b.tenant_id = tenant() AND b.sha256 = k.sha256 AND b.state IN ('live', 'tombstone') RETURNING b.sha256
$$;

-- Marks blobs as named by checkpoints that are kept, and returns those that there are, and
-- whether this call marked them first. One that a collection had condemned is live again.
CREATE OR REPLACE FUNCTION nofx.mark_blobs(p_step uuid, p_fence bigint, p_at timestamptz, p_sha256 bytea[])
    RETURNS TABLE (sha256 bytea, bytes bigint, first boolean)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    s nofx.locked_step := hold_step(p_step, p_fence);
BEGIN
    RETURN QUERY
    WITH due AS (
        SELECT b.sha256 FROM blob b WHERE b.tenant_id = s.tenant_id AND b.sha256 = ANY (p_sha256) AND b.mark < p_at
        ORDER BY b.sha256 FOR NO KEY UPDATE
    ), marked AS (
        UPDATE blob b SET mark = p_at, condemned_at = NULL,
            state = CASE WHEN b.state = 'condemned' AND b.condemned_at IS NOT NULL THEN 'live' ELSE b.state END
        FROM due d WHERE b.tenant_id = s.tenant_id AND b.sha256 = d.sha256
    )
    SELECT b.sha256, b.len, b.mark < p_at FROM blob b WHERE b.tenant_id = s.tenant_id AND b.sha256 = ANY (p_sha256);
END
$$;

-- Sweeps p_limit blobs after one, in the order of their digests, and returns what became of
-- those that no checkpoint names: condemned or deleted; then, unless the end was reached,
-- the last one looked at, as next. With p_dry nothing changes.
CREATE OR REPLACE FUNCTION nofx.sweep_blobs(p_step uuid, p_fence bigint, p_at timestamptz, p_grace interval, p_after bytea, p_limit int, p_dry boolean)
    RETURNS TABLE (sha256 bytea, bytes bigint, what text)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    s nofx.locked_step := hold_step(p_step, p_fence);
    v_last bytea;
    b record;
BEGIN
    SELECT x.sha256 INTO v_last FROM (
        SELECT y.sha256 FROM blob y WHERE y.tenant_id = s.tenant_id AND y.sha256 > p_after ORDER BY y.sha256 LIMIT p_limit) AS x
    ORDER BY x.sha256 DESC LIMIT 1;
    FOR b IN
        -- One that is locked is being used, or stored again.
        SELECT x.sha256, x.len, x.state FROM blob x
        WHERE x.tenant_id = s.tenant_id AND x.sha256 > p_after AND x.sha256 <= v_last AND x.mark < p_at AND x.state IN ('live', 'condemned')
            AND CASE x.state WHEN 'live' THEN x.last_ref ELSE coalesce(x.condemned_at, x.last_ref) END <= p_at - p_grace
        ORDER BY x.sha256 FOR UPDATE SKIP LOCKED
    LOOP
        sha256 := b.sha256;
        bytes := b.len;
        IF b.state = 'live' THEN
            what := 'condemned';
            UPDATE blob x SET state = 'condemned', condemned_at = clock_timestamp() WHERE NOT p_dry AND x.tenant_id = s.tenant_id AND x.sha256 = b.sha256;
        ELSE
            what := 'deleted';
            DELETE FROM blob x WHERE NOT p_dry AND x.tenant_id = s.tenant_id AND x.sha256 = b.sha256;
        END IF;
        RETURN NEXT;
    END LOOP;
    IF v_last IS NOT NULL THEN
        sha256 := v_last;
        bytes := 0;
        what := 'next';
        RETURN NEXT;
    END IF;
END
$$;

-- Deletes artifacts that clients uploaded longer ago than runs are kept, p_limit after one,
-- unless something that is not over names them: a run, the edits of a branch, or a merge.
-- What is returned is as of sweep_blobs; their objects are swept after them.
CREATE OR REPLACE FUNCTION nofx.sweep_artifacts(p_step uuid, p_fence bigint, p_at timestamptz, p_after uuid, p_limit int, p_dry boolean)
    RETURNS TABLE (id uuid, bytes bigint, what text)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    s nofx.locked_step := hold_step(p_step, p_fence);
    v_last uuid;
    v_named text[];
    a record;
BEGIN
    FOR a IN
        SELECT x.id, x.size_bytes FROM artifact x
        WHERE x.tenant_id = s.tenant_id AND x.run_id IS NULL AND x.state = 'ready' AND x.id > p_after AND x.created_at <= p_at - retention(s.tenant_id)
        ORDER BY x.id LIMIT p_limit
    LOOP
        IF v_last IS NULL THEN
            v_named := ARRAY(
                SELECT m[1] FROM (
                    SELECT r.plan::text AS doc FROM run r WHERE r.tenant_id = s.tenant_id AND r.state IN ('queued', 'running', 'waiting', 'paused')
                    UNION ALL
                    SELECT e.doc FROM branch_edit e WHERE e.tenant_id = s.tenant_id) AS d, regexp_matches(d.doc, 'art_[0-9a-f]{32}', 'g') AS m
                UNION
                SELECT public_id('art', c.artifact_id) FROM merge m JOIN merge_conflict c ON c.tenant_id = m.tenant_id AND c.merge_id = m.id
                WHERE m.tenant_id = s.tenant_id AND m.state NOT IN ('committed', 'abandoned') AND c.artifact_id IS NOT NULL);
        END IF;
        v_last := a.id;
        CONTINUE WHEN public_id('art', a.id) = ANY (v_named);
        DELETE FROM artifact x WHERE NOT p_dry AND x.tenant_id = s.tenant_id AND x.id = a.id;
        id := a.id;
        bytes := a.size_bytes;
        what := 'deleted';
        RETURN NEXT;
    END LOOP;
    IF v_last IS NOT NULL THEN
        id := v_last;
        bytes := 0;
        what := 'next';
        RETURN NEXT;
    END IF;
END
$$;

-- Sweeps p_limit objects after one, in the order of their keys: one that holds no live blob
-- and no artifact is condemned, and one that was condemned for the grace and holds no blob
-- at all is returned as deleted, for the caller to delete from storage and to forget. An
-- object that is lost needs no grace. A pack that would have less than 30 % of its bytes if
-- it were written again is returned as sparse. What is returned is as of sweep_blobs.
CREATE OR REPLACE FUNCTION nofx.sweep_objects(p_step uuid, p_fence bigint, p_at timestamptz, p_grace interval, p_after text, p_limit int, p_dry boolean)
    RETURNS TABLE (key text, bytes bigint, what text)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    s nofx.locked_step := hold_step(p_step, p_fence);
    v_last text;
    v_live boolean;
    v_any boolean;
    v_bytes bigint; -- that its blobs would take as a pack: at most 48, and 64 for each of them, are not theirs
    o record;
BEGIN
    FOR o IN
        SELECT x.key, x.kind, x.sha256, x.bytes, x.state, x.condemned_at FROM object x
        WHERE x.tenant_id = s.tenant_id AND x.key > p_after ORDER BY x.key LIMIT p_limit
    LOOP
        v_last := o.key;
        CONTINUE WHEN o.kind NOT IN ('blob', 'pack');
        IF o.kind = 'pack' THEN
            SELECT coalesce(bool_or(b.state = 'live'), false), count(*) > 0, 48 + coalesce(sum(b.len + 64), 0)
            INTO v_live, v_any, v_bytes FROM blob b
            WHERE b.pack_sha256 = o.sha256 AND b.tenant_id = s.tenant_id AND b.state <> 'tombstone';
        ELSE
            SELECT coalesce(bool_or(b.state = 'live'), false), count(*) > 0 INTO v_live, v_any FROM blob b
            WHERE b.tenant_id = s.tenant_id AND b.sha256 = o.sha256 AND b.pack_sha256 IS NULL AND b.state <> 'tombstone'
                AND blob_key(b.tenant_id, b.sha256, b.copy) = o.key;
            v_live := v_live OR EXISTS (SELECT FROM artifact a WHERE a.key = o.key AND a.tenant_id = s.tenant_id);
        END IF;
        key := o.key;
        bytes := o.bytes;
        IF v_live THEN
            UPDATE object x SET state = 'live', condemned_at = NULL
            WHERE NOT p_dry AND x.tenant_id = s.tenant_id AND x.key = o.key AND o.condemned_at IS NOT NULL;
            IF o.kind = 'pack' AND v_bytes < 0.3 * o.bytes THEN
                what := 'sparse';
                RETURN NEXT;
            END IF;
        ELSIF o.state = 'live' THEN
            what := 'condemned';
            UPDATE object x SET state = 'condemned', condemned_at = clock_timestamp() WHERE NOT p_dry AND x.tenant_id = s.tenant_id AND x.key = o.key;
            RETURN NEXT;
        ELSIF NOT v_any AND (o.condemned_at IS NULL OR o.condemned_at <= p_at - p_grace) THEN
            what := 'deleted';
            RETURN NEXT;
        END IF;
    END LOOP;
    IF v_last IS NOT NULL THEN
        key := v_last;
        bytes := 0;
        what := 'next';
        RETURN NEXT;
    END IF;
END
$$;

-- Returns the keys among these that no object of the tenant has.
CREATE OR REPLACE FUNCTION nofx.unknown_keys(p_keys text[]) RETURNS SETOF text
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
    SELECT k.key FROM unnest(p_keys) AS k (key) WHERE NOT EXISTS (SELECT FROM object o WHERE o.tenant_id = tenant() AND o.key = k.key)
$$;

-- Replaces stored content of the tenant by a tombstone: from then on it cannot be read, and
-- no checkpoint stores it again. A step of sys:purge deletes the bytes; until then len says
-- that there are some. Merges lose at once what they quote and have decided of it. A tombstone
-- stays as it is. NX005 when nothing with the digest is stored.
CREATE OR REPLACE FUNCTION nofx.purge_blob(p_sha256 bytea, p_reason text, OUT purged_by text, OUT purged_at timestamptz, OUT reason text)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    v_tenant uuid := tenant();
    v_size bigint;
    v_purged boolean;
BEGIN
    PERFORM redact_merges(p_sha256);
    SELECT a.size_bytes INTO v_size FROM artifact a WHERE a.tenant_id = v_tenant AND a.sha256 = p_sha256 AND a.state = 'ready' LIMIT 1;
    IF FOUND THEN -- an artifact has no blob
        INSERT INTO blob (tenant_id, sha256, size, len) VALUES (v_tenant, p_sha256, v_size, v_size) ON CONFLICT DO NOTHING;
    END IF;
    UPDATE blob b SET state = 'tombstone', purged_at = clock_timestamp(), purged_by = coalesce(nullif(current_setting('nofx.actor', true), ''), 'system'), reason = p_reason, condemned_at = NULL
    WHERE b.tenant_id = v_tenant AND b.sha256 = p_sha256 AND b.state <> 'tombstone';
    v_purged := FOUND;
    SELECT b.purged_by, b.purged_at, b.reason INTO purged_by, purged_at, reason FROM blob b WHERE b.tenant_id = v_tenant AND b.sha256 = p_sha256 AND b.state = 'tombstone';
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no blob %', encode(p_sha256, 'hex') USING ERRCODE = 'NX005', DETAIL = '{"noun":"blob"}';
    END IF;
    IF v_purged THEN
        PERFORM audit('blob.purge', encode(p_sha256, 'hex'), p_reason, NULL, NULL);
    END IF;
END
$$;

-- Moves blobs of a pack to another one, whose object the caller has stored, and condemns the
-- object of the first. A blob that is elsewhere by now stays there.
CREATE OR REPLACE FUNCTION nofx.move_blobs(p_step uuid, p_fence bigint, p_from bytea, p_from_key text, p_pack bytea, p_key text, p_bytes bigint, p_sha256 bytea[], p_off bigint[]) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    s nofx.locked_step := hold_step(p_step, p_fence);
BEGIN
    IF cardinality(p_sha256) > 0 THEN
        INSERT INTO object (tenant_id, key, sha256, bytes, kind) VALUES (s.tenant_id, p_key, p_pack, p_bytes, 'pack') ON CONFLICT DO NOTHING;
    END IF;
    UPDATE object o SET state = 'condemned', condemned_at = clock_timestamp() WHERE o.tenant_id = s.tenant_id AND o.key = p_from_key;
    FOR i IN 1 .. cardinality(p_sha256) LOOP
        UPDATE blob b SET pack_sha256 = p_pack, off = p_off[i]
        WHERE b.tenant_id = s.tenant_id AND b.sha256 = p_sha256[i] AND b.pack_sha256 = p_from AND b.state IN ('live', 'condemned');
    END LOOP;
END
$$;

-- Drops what may hold purged content besides objects and packs, p_limit objects of it, and
-- returns their keys, for the caller to delete: stored diffs, which are computed anew when
-- they are asked for; archives; and what clients have uploaded. Nothing is left once it
-- returns none.
CREATE OR REPLACE FUNCTION nofx.drop_derived(p_step uuid, p_fence bigint, p_sha256 bytea, p_limit int) RETURNS SETOF text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    s nofx.locked_step := hold_step(p_step, p_fence);
    v_keys text[];
    v_runs uuid[];
BEGIN
    WITH lost AS (
        UPDATE diff d SET state = 'lost', losses = d.losses + 1 FROM (
            SELECT x.to_id, x.from_id, x.options FROM diff x WHERE x.tenant_id = s.tenant_id AND x.state = 'stored'
            ORDER BY x.to_id, x.from_id, x.options LIMIT p_limit FOR UPDATE) AS y
        WHERE d.tenant_id = s.tenant_id AND d.to_id = y.to_id AND d.from_id = y.from_id AND d.options = y.options
        RETURNING d.json_sha256, d.patch_sha256, d.copy
    )
    SELECT array_agg(k.key) INTO v_keys FROM lost l,
        LATERAL (VALUES (diff_key(s.tenant_id, l.json_sha256, l.copy, 'json')), (diff_key(s.tenant_id, l.patch_sha256, l.copy, 'patch'))) AS k (key);
    IF v_keys IS NULL THEN
        v_runs := ARRAY(SELECT r.id FROM run r WHERE r.tenant_id = s.tenant_id AND r.work_key LIKE 'sys:archive/%'
            AND EXISTS (SELECT FROM artifact a WHERE a.run_id = r.id AND a.tenant_id = r.tenant_id) ORDER BY r.id LIMIT p_limit);
        UPDATE run r SET work_key = NULL WHERE r.tenant_id = s.tenant_id AND r.id = ANY (v_runs); -- the next request gets another archive
        WITH gone AS (DELETE FROM artifact a WHERE a.run_id = ANY (v_runs) AND a.tenant_id = s.tenant_id RETURNING a.key)
        SELECT array_agg(g.key) INTO v_keys FROM gone g;
    END IF;
    IF v_keys IS NULL THEN
        v_keys := ARRAY(SELECT o.key FROM object o WHERE o.tenant_id = s.tenant_id AND o.kind = 'upload' AND o.sha256 = p_sha256 ORDER BY o.key LIMIT p_limit);
    END IF;
    UPDATE object o SET state = 'condemned', condemned_at = clock_timestamp() WHERE o.tenant_id = s.tenant_id AND o.key = ANY (v_keys);
    RETURN QUERY SELECT unnest(v_keys);
END
$$;

-- Condemns objects that hold purged content.
CREATE OR REPLACE FUNCTION nofx.condemn_copies(p_step uuid, p_fence bigint, p_keys text[]) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    s nofx.locked_step := hold_step(p_step, p_fence);
BEGIN
    UPDATE object o SET state = 'condemned', condemned_at = clock_timestamp() WHERE o.tenant_id = s.tenant_id AND o.key = ANY (p_keys);
END
$$;

-- Takes purged content out of merges once more, for computations that had read it before and
-- have ended since, and, unless some are pending, records that its bytes are deleted.
CREATE OR REPLACE FUNCTION nofx.finish_purge(p_step uuid, p_fence bigint, p_sha256 bytea, p_pending boolean) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    s nofx.locked_step := hold_step(p_step, p_fence);
BEGIN
    PERFORM redact_merges(p_sha256);
    UPDATE blob b SET pack_sha256 = NULL, off = 0, len = 0, copy = 0
    WHERE NOT p_pending AND b.tenant_id = s.tenant_id AND b.sha256 = p_sha256 AND b.state = 'tombstone';
END
$$;

-- Names the live blobs whose object has no row, of p_limit blobs after one in the order of
-- their digests; and then, as next, the last one looked at, unless the end was reached.
CREATE OR REPLACE FUNCTION nofx.unbacked_blobs(p_after bytea, p_limit int) RETURNS TABLE (sha256 bytea, what text)
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    v_last bytea;
    b record;
BEGIN
    FOR b IN
        SELECT x.sha256, x.state, CASE
            WHEN x.pack_sha256 IS NULL THEN blob_key(x.tenant_id, x.sha256, x.copy)
            ELSE replace(blob_key(x.tenant_id, x.pack_sha256, 0), '/blob/', '/pack/') END AS key
        FROM blob x WHERE x.tenant_id = tenant() AND x.sha256 > p_after ORDER BY x.sha256 LIMIT p_limit
    LOOP
        v_last := b.sha256;
        IF b.state = 'live' AND NOT EXISTS (SELECT FROM object o WHERE o.tenant_id = tenant() AND o.key = b.key) THEN
            sha256 := b.sha256;
            what := 'unbacked';
            RETURN NEXT;
        END IF;
    END LOOP;
    IF v_last IS NOT NULL THEN
        sha256 := v_last;
        what := 'next';
        RETURN NEXT;
    END IF;
END
$$;

-- Returns the tenants, at most p_limit, that have had no collection for a day and are older
-- than that. One that only said what it would delete does not count.
CREATE OR REPLACE FUNCTION nofx.due_collections(p_key text, p_limit int) RETURNS SETOF uuid
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
    SELECT t.tenant_id FROM tenant t
    WHERE t.created_at <= clock_timestamp() - interval '1 day' AND EXISTS (SELECT FROM object o WHERE o.tenant_id = t.tenant_id)
        AND coalesce((SELECT r.created_at FROM run r WHERE r.tenant_id = t.tenant_id AND r.work_key = p_key
            AND r.plan #>> '{steps,0,inputs,dry_run}' = 'false' ORDER BY r.id DESC LIMIT 1), '-infinity')
            <= clock_timestamp() - interval '1 day'
    ORDER BY t.tenant_id LIMIT p_limit
$$;

GRANT EXECUTE ON FUNCTION
    nofx.purge_blob(bytea, text)
TO nofx_gateway;

GRANT EXECUTE ON FUNCTION
    nofx.reuse_blobs(bytea[]),
    nofx.mark_blobs(uuid, bigint, timestamptz, bytea[]),
    nofx.sweep_blobs(uuid, bigint, timestamptz, interval, bytea, int, boolean),
    nofx.sweep_objects(uuid, bigint, timestamptz, interval, text, int, boolean),
    nofx.sweep_artifacts(uuid, bigint, timestamptz, uuid, int, boolean),
    nofx.move_blobs(uuid, bigint, bytea, text, bytea, text, bigint, bytea[], bigint[]),
    nofx.condemn_copies(uuid, bigint, text[]),
    nofx.drop_derived(uuid, bigint, bytea, int),
    nofx.finish_purge(uuid, bigint, bytea, boolean),
    nofx.unbacked_blobs(bytea, int),
    nofx.unknown_keys(text[]),
    nofx.due_collections(text, int)
TO nofx_worker;
