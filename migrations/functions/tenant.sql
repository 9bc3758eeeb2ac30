-- Tenants and API keys.

-- Returns all tenants, by name, with their live keys. Only administrators may call it.
CREATE OR REPLACE FUNCTION nofx.tenants() RETURNS TABLE (id uuid, slug text, created_at timestamptz, keys bigint, last_used_at timestamptz)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
    SELECT t.tenant_id, t.slug, t.created_at, count(k.id) FILTER (WHERE k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > clock_timestamp())), max(k.last_used_at)
    FROM tenant t LEFT JOIN api_key k ON k.tenant_id = t.tenant_id GROUP BY t.tenant_id ORDER BY t.slug
$$;

-- Returns the key that a client presents, before its tenant is known. Also records the use
-- of the key if the digest matches its secret, at most once a minute and not in a read-only
-- database. The calling code decides whether the key is valid.
CREATE OR REPLACE FUNCTION nofx.present_key(p_id uuid, p_secret_sha256 bytea)
    RETURNS TABLE (tenant_id uuid, tenant text, name text, secret_sha256 bytea, role text, scopes text[],
        expires_at timestamptz, expired boolean, revoked boolean)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
BEGIN
    IF NOT current_setting('transaction_read_only')::boolean THEN
        UPDATE api_key k SET last_used_at = clock_timestamp()
        WHERE k.id = p_id AND k.secret_sha256 = p_secret_sha256 AND (k.last_used_at IS NULL OR k.last_used_at < clock_timestamp() - interval '1 minute');
    END IF;
    RETURN QUERY
        SELECT k.tenant_id, t.slug, k.name, k.secret_sha256, k.role, k.scopes,
               k.expires_at, coalesce(k.expires_at <= clock_timestamp(), false), k.revoked_at IS NOT NULL
        FROM api_key k JOIN tenant t ON t.tenant_id = k.tenant_id WHERE k.id = p_id;
END
$$;

-- Makes a key from the digest of its secret: p has name, prefix, role, scopes, created_by and
-- expires_at. An expired key with the name is revoked.
CREATE OR REPLACE FUNCTION nofx.create_key(p_id uuid, p_secret_sha256 bytea, p jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
BEGIN
    UPDATE api_key SET revoked_at = clock_timestamp()
    WHERE tenant_id = tenant() AND lower(name) = lower(p->>'name') AND revoked_at IS NULL AND expires_at <= clock_timestamp();
    INSERT INTO api_key (tenant_id, id, name, prefix, secret_sha256, role, scopes, created_by, expires_at)
    VALUES (tenant(), p_id, p->>'name', p->>'prefix', p_secret_sha256, p->>'role', ARRAY(SELECT jsonb_array_elements_text(p->'scopes')), p->>'created_by', (p->>'expires_at')::timestamptz);
    PERFORM audit('key.create', public_id('key', p_id), NULL, NULL, p - 'created_by');
END
$$;

-- Ends a key, if it has not ended, and reports whether there is one.
CREATE OR REPLACE FUNCTION nofx.revoke_key(p_id uuid) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    v_name text;
BEGIN
    UPDATE api_key SET revoked_at = clock_timestamp() WHERE tenant_id = tenant() AND id = p_id AND revoked_at IS NULL RETURNING name INTO v_name;
    IF FOUND THEN
        PERFORM audit('key.revoke', public_id('key', p_id), NULL, jsonb_build_object('name', v_name), NULL);
        RETURN true;
    END IF;
    RETURN EXISTS (SELECT FROM api_key WHERE tenant_id = tenant() AND id = p_id);
END
$$;

-- Returns the name of a subject: of an API key, key:<32 hex digits of its id>, or of a person
-- or workflow, as its last token said; NULL for any other actor. Rows store only subjects: a
-- key is never deleted, and its name never changes.
CREATE OR REPLACE FUNCTION nofx.subject_name(p_tenant uuid, p_subject text) RETURNS text
    LANGUAGE plpgsql STABLE
AS $$
BEGIN
    IF p_subject ~ '^(user|oidc):' THEN
        RETURN (SELECT s.name FROM nofx.subject s WHERE s.tenant_id = p_tenant AND s.subject = p_subject);
    END IF;
    IF (p_subject ~ '^key:[0-9a-f]{32}$') IS NOT TRUE THEN
        RETURN NULL;
    END IF;
    RETURN (SELECT k.name FROM nofx.api_key k WHERE k.tenant_id = p_tenant AND k.id = substr(p_subject, 5)::uuid);
END
$$;

GRANT EXECUTE ON FUNCTION
    nofx.subject_name(uuid, text)
TO nofx_app;

GRANT EXECUTE ON FUNCTION
    nofx.create_key(uuid, bytea, jsonb),
    nofx.revoke_key(uuid),
    nofx.present_key(uuid, bytea)
TO nofx_gateway;
