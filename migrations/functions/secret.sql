-- Secrets of tenants.

-- Returns the version that a secret gets when it is set next, and keeps others from setting
-- secrets of the tenant until then. NX003 when p_version is not its version any more, 0 while
-- there is none; NX023 for one more than a tenant may have.
CREATE OR REPLACE FUNCTION nofx.begin_secret(p_name text, p_version bigint) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    c_most constant int := 200;
    x nofx.secret;
BEGIN
    PERFORM FROM tenant t WHERE t.tenant_id = tenant() FOR NO KEY UPDATE;
    SELECT * INTO x FROM secret s WHERE s.tenant_id = tenant() AND s.name = p_name;
    PERFORM check_version(p_version, CASE WHEN x.sealed IS NULL THEN 0 ELSE x.version END, 'set');
    IF x.sealed IS NULL AND (SELECT count(*) FROM secret s WHERE s.tenant_id = tenant() AND s.sealed IS NOT NULL) >= c_most THEN
        RAISE EXCEPTION 'the tenant has % secrets', c_most USING ERRCODE = 'NX023', DETAIL = jsonb_build_object('most', c_most);
    END IF;
    RETURN coalesce(x.version, 0) + 1;
END
$$;

-- Returns what the audit log says of a secret before and after a change.
CREATE OR REPLACE FUNCTION nofx.secret_facts(x nofx.secret) RETURNS jsonb
    LANGUAGE sql STABLE
    RETURN CASE WHEN x.sealed IS NOT NULL THEN jsonb_build_object('version', x.version, 'sealed_sha256', encode(sha256(x.sealed), 'hex')) END;

-- Sets a secret, after begin_secret in the same transaction. What it was is kept for as long
-- as a run may go on that got it, of the last 20 values at most.
CREATE OR REPLACE FUNCTION nofx.set_secret(p_name text, p_version bigint, p_sealed bytea) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    v_actor text := coalesce(nullif(current_setting('nofx.actor', true), ''), session_user);
    v_before nofx.secret;
    v_after nofx.secret;
BEGIN
    SELECT * INTO v_before FROM secret s WHERE s.tenant_id = tenant() AND s.name = p_name;
    INSERT INTO secret AS s (tenant_id, name, version, sealed, created_by, updated_by) VALUES (tenant(), p_name, p_version, p_sealed, v_actor, v_actor)
    ON CONFLICT (tenant_id, name) DO UPDATE SET version = excluded.version, sealed = excluded.sealed, updated_by = excluded.updated_by, updated_at = clock_timestamp(),
        created_by = CASE WHEN s.sealed IS NULL THEN excluded.created_by ELSE s.created_by END,
        created_at = CASE WHEN s.sealed IS NULL THEN clock_timestamp() ELSE s.created_at END
    RETURNING s.* INTO v_after;
    IF v_before.sealed IS NOT NULL THEN
        INSERT INTO secret_past (tenant_id, name, version, sealed) VALUES (v_before.tenant_id, p_name, v_before.version, v_before.sealed);
    END IF;
    DELETE FROM secret_past x WHERE x.tenant_id = tenant() AND x.name = p_name AND (x.retired_at <= clock_timestamp() - interval '90 days'
        OR x.version <= (SELECT y.version FROM secret_past y WHERE y.tenant_id = tenant() AND y.name = p_name ORDER BY y.version DESC OFFSET 20 LIMIT 1));
    PERFORM audit('secret.set', p_name, NULL, secret_facts(v_before), secret_facts(v_after));
END
$$;

-- Deletes what a secret is and was, and reports whether there was one.
CREATE OR REPLACE FUNCTION nofx.delete_secret(p_name text) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    v_before nofx.secret;
BEGIN
    SELECT * INTO v_before FROM secret s WHERE s.tenant_id = tenant() AND s.name = p_name FOR NO KEY UPDATE;
    IF v_before.sealed IS NULL THEN
        RETURN false;
    END IF;
    UPDATE secret s SET sealed = NULL, updated_at = clock_timestamp(), updated_by = coalesce(nullif(current_setting('nofx.actor', true), ''), session_user)
    WHERE s.tenant_id = tenant() AND s.name = p_name;
    DELETE FROM secret_past x WHERE x.tenant_id = tenant() AND x.name = p_name;
    PERFORM audit('secret.delete', p_name, NULL, secret_facts(v_before), NULL);
    RETURN true;
END
$$;

-- Returns a sealed text of any tenant, if there is one: a process that cannot open it has
-- another key than it was sealed with.
CREATE OR REPLACE FUNCTION nofx.sealed_probe() RETURNS TABLE (tenant_id uuid, name text, version bigint, sealed bytea)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$ SELECT s.tenant_id, s.name, s.version, s.sealed FROM secret s WHERE s.sealed IS NOT NULL ORDER BY s.tenant_id, s.name LIMIT 1 $$;

GRANT EXECUTE ON FUNCTION
    nofx.begin_secret(text, bigint),
    nofx.set_secret(text, bigint, bytea),
    nofx.delete_secret(text)
TO nofx_gateway;
GRANT EXECUTE ON FUNCTION nofx.sealed_probe() TO nofx_app;
