-- Callers whom other issuers vouch for.

-- Returns the tenant that a token names, by its id or its slug, and the time before which
-- the subject's tokens are refused. The signature of the token must have been verified. Also
-- records that the subject was seen and under which name, at most once a minute and not in
-- a read-only database.
CREATE OR REPLACE FUNCTION nofx.present_subject(p_tenant uuid, p_slug text, p_subject text, p_name text)
    RETURNS TABLE (tenant_id uuid, tenant text, revoked_before timestamptz)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    v_tenant uuid;
    v_slug text;
    s nofx.subject;
BEGIN
    SELECT t.tenant_id, t.slug INTO v_tenant, v_slug FROM tenant t WHERE t.tenant_id = p_tenant OR t.slug = p_slug;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    SELECT * INTO s FROM subject x WHERE x.tenant_id = v_tenant AND x.subject = p_subject;
    IF (s.name IS DISTINCT FROM p_name OR s.seen_at IS NULL OR s.seen_at < clock_timestamp() - interval '1 minute')
        AND NOT current_setting('transaction_read_only')::boolean THEN
        INSERT INTO subject AS x (tenant_id, subject, name, seen_at) VALUES (v_tenant, p_subject, p_name, clock_timestamp())
        ON CONFLICT ON CONSTRAINT subject_pkey DO UPDATE SET name = p_name, seen_at = clock_timestamp();
    END IF;
    RETURN QUERY SELECT v_tenant, v_slug, s.revoked_before;
END
$$;

-- Refuses the tokens of a subject that were issued until now. The subject need not have been
-- seen: its first token may be a stolen one.
CREATE OR REPLACE FUNCTION nofx.revoke_subject(p_subject text, p_by text, p_reason text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
BEGIN
    INSERT INTO subject AS s (tenant_id, subject, revoked_before, revoked_by, reason) VALUES (tenant(), p_subject, clock_timestamp(), p_by, p_reason)
    ON CONFLICT ON CONSTRAINT subject_pkey DO UPDATE SET revoked_before = excluded.revoked_before, revoked_by = p_by, reason = p_reason;
    PERFORM audit('subject.revoke', p_subject, p_reason, NULL, NULL);
END
$$;

GRANT EXECUTE ON FUNCTION
    nofx.present_subject(uuid, text, text, text),
    nofx.revoke_subject(text, text, text)
TO nofx_gateway;
