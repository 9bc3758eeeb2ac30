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

-- Returns the trusts that a verified token of a workflow meets: the oldest of each tenant, of
-- two tenants at most; with p_slug, of that tenant.
CREATE OR REPLACE FUNCTION nofx.find_oidc_trusts(p_slug text, p_repository_id bigint, p_owner_id bigint, p_repository text, p_ref text, p_workflow text, p_event text)
    RETURNS TABLE (tenant_id uuid, id uuid, repository text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
    SELECT DISTINCT ON (o.tenant_id) o.tenant_id, o.id, o.repository FROM oidc_trust o JOIN tenant t ON t.tenant_id = o.tenant_id
    WHERE o.repository_id = p_repository_id AND o.repository_owner_id = p_owner_id AND lower(o.repository) = lower(p_repository)
    AND (p_slug IS NULL OR t.slug = p_slug) AND (o.ref IS NULL OR o.ref = p_ref)
    AND (o.job_workflow_ref IS NULL OR o.job_workflow_ref = p_workflow) AND (o.event_name IS NULL OR o.event_name = p_event)
    ORDER BY o.tenant_id, o.id LIMIT 2
$$;

-- Trusts the workflows of a repository: p has the columns of oidc_trust.
CREATE OR REPLACE FUNCTION nofx.create_oidc_trust(p_id uuid, p jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
BEGIN
    INSERT INTO oidc_trust (tenant_id, id, repository, repository_id, repository_owner_id, ref, job_workflow_ref, event_name, created_by)
    VALUES (tenant(), p_id, p->>'repository', (p->>'repository_id')::bigint, (p->>'repository_owner_id')::bigint, p->>'ref', p->>'job_workflow_ref', p->>'event_name', p->>'created_by');
    PERFORM audit('oidc_trust.create', p->>'repository', NULL, NULL, p - 'created_by');
END
$$;

-- Takes a trust back.
CREATE OR REPLACE FUNCTION nofx.delete_oidc_trust(p_id uuid) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    v_trust oidc_trust;
BEGIN
    DELETE FROM oidc_trust o WHERE o.tenant_id = tenant() AND o.id = p_id RETURNING * INTO v_trust;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM audit('oidc_trust.delete', v_trust.repository, NULL, jsonb_build_object('repository_id', v_trust.repository_id,
        'repository_owner_id', v_trust.repository_owner_id, 'ref', v_trust.ref, 'job_workflow_ref', v_trust.job_workflow_ref), NULL);
    RETURN true;
END
$$;

-- Stores a ticket for p_seconds, and returns when it expires. Deletes those that have expired.
CREATE OR REPLACE FUNCTION nofx.create_stream_ticket(p_sha256 bytea, p_target text, p_proof jsonb, p_seconds int) RETURNS timestamptz
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    v_expires timestamptz := clock_timestamp() + make_interval(secs => p_seconds);
BEGIN
    DELETE FROM stream_ticket t WHERE t.tenant_id = tenant() AND t.expires_at <= clock_timestamp();
    INSERT INTO stream_ticket (tenant_id, sha256, target, proof, expires_at) VALUES (tenant(), p_sha256, p_target, p_proof, v_expires);
    RETURN v_expires;
END
$$;

-- Takes a ticket for a target, of any tenant, so that nobody can take it again, and returns
-- what its owner had shown. Returns nothing for a ticket that has expired or is for another
-- target.
CREATE OR REPLACE FUNCTION nofx.take_stream_ticket(p_sha256 bytea, p_target text) RETURNS TABLE (tenant_id uuid, proof jsonb)
    LANGUAGE sql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
    DELETE FROM stream_ticket t WHERE t.sha256 = p_sha256 AND t.target = p_target AND t.expires_at > clock_timestamp() RETURNING t.tenant_id, t.proof
$$;

GRANT EXECUTE ON FUNCTION
    nofx.create_stream_ticket(bytea, text, jsonb, int),
    nofx.take_stream_ticket(bytea, text),
    nofx.find_oidc_trusts(text, bigint, bigint, text, text, text, text),
    nofx.create_oidc_trust(uuid, jsonb),
    nofx.delete_oidc_trust(uuid),
    nofx.present_subject(uuid, text, text, text),
    nofx.revoke_subject(text, text, text)
TO nofx_gateway;
