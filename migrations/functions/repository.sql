-- Repositories of forges, and the deliveries of their webhooks.

-- Returns the repository that a webhook names, of any tenant. What it returns is of no use
-- without the secret that its requests are signed with.
CREATE OR REPLACE FUNCTION nofx.find_repository(p_id uuid)
    RETURNS TABLE (tenant_id uuid, provider text, name text, project text, enabled boolean, secret_version int)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
    SELECT r.tenant_id, r.provider, r.name, p.slug, r.enabled, r.secret_version
    FROM repository r JOIN project p ON p.tenant_id = r.tenant_id AND p.id = r.project_id WHERE r.id = p_id
$$;

-- Returns what the audit log says of a repository before and after a change.
CREATE OR REPLACE FUNCTION nofx.repository_facts(r nofx.repository) RETURNS jsonb
    LANGUAGE sql STABLE
    RETURN jsonb_build_object('provider', r.provider, 'repository', r.name, 'project', (SELECT y.slug FROM nofx.project y WHERE y.tenant_id = r.tenant_id AND y.id = r.project_id),
        'enabled', r.enabled, 'policy_sha256', encode(sha256(convert_to(r.policy, 'UTF8')), 'hex'), 'credential', r.credential,
        'secret_version', r.secret_version, 'version', r.version);

-- Binds a repository: p has provider, name, project, enabled, policy, credential and
-- created_by. NX005 for an unknown project.
CREATE OR REPLACE FUNCTION nofx.create_repository(p_id uuid, p jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    r nofx.repository;
BEGIN
    INSERT INTO repository AS x (tenant_id, id, provider, name, project_id, enabled, policy, credential, created_by)
    SELECT tenant(), p_id, p->>'provider', p->>'name', y.id, (p->>'enabled')::boolean, p->>'policy', p->>'credential', p->>'created_by' FROM project y
    WHERE y.tenant_id = tenant() AND y.slug = p->>'project'
    RETURNING x.* INTO r;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no project %', p->>'project' USING ERRCODE = 'NX005', DETAIL = '{"noun":"project"}';
    END IF;
    PERFORM audit('repository.create', public_id('repo', p_id), NULL, NULL, repository_facts(r));
END
$$;

-- Changes what p has of enabled, project, policy and credential, which '' removes; with
-- rotate the secret becomes another one.
-- NX003 when p_version is not the version any more.
CREATE OR REPLACE FUNCTION nofx.change_repository(p_id uuid, p jsonb, p_version bigint) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    r nofx.repository;
    v_project uuid;
    v_before jsonb;
BEGIN
    SELECT * INTO r FROM repository x WHERE x.tenant_id = tenant() AND x.id = p_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no repository %', p_id USING ERRCODE = 'NX005', DETAIL = '{"noun":"repository"}';
    END IF;
    PERFORM check_version(p_version, r.version, CASE WHEN r.enabled THEN 'enabled' ELSE 'disabled' END);
    v_project := r.project_id;
    IF p->>'project' IS NOT NULL THEN
        SELECT y.id INTO v_project FROM project y WHERE y.tenant_id = tenant() AND y.slug = p->>'project';
        IF NOT FOUND THEN
            RAISE EXCEPTION 'no project %', p->>'project' USING ERRCODE = 'NX005', DETAIL = '{"noun":"project"}';
        END IF;
    END IF;
    v_before := repository_facts(r);
    UPDATE repository x SET version = x.version + 1, updated_at = clock_timestamp(), project_id = v_project, enabled = coalesce((p->>'enabled')::boolean, x.enabled),
        policy = CASE WHEN p ? 'policy' THEN nullif(p->>'policy', '') ELSE x.policy END,
        credential = CASE WHEN p ? 'credential' THEN nullif(p->>'credential', '') ELSE x.credential END, secret_version = x.secret_version + coalesce((p->>'rotate')::boolean, false)::int
    WHERE x.tenant_id = r.tenant_id AND x.id = r.id RETURNING x.* INTO r;
    PERFORM audit('repository.change', public_id('repo', p_id), NULL, v_before, repository_facts(r));
END
$$;

-- Takes a binding back, with its deliveries.
CREATE OR REPLACE FUNCTION nofx.delete_repository(p_id uuid) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    r nofx.repository;
BEGIN
    SELECT * INTO r FROM repository x WHERE x.tenant_id = tenant() AND x.id = p_id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    DELETE FROM webhook_delivery d WHERE d.tenant_id = tenant() AND d.repository_id = p_id;
    DELETE FROM repository x WHERE x.tenant_id = tenant() AND x.id = p_id;
    PERFORM audit('repository.delete', public_id('repo', p_id), NULL, repository_facts(r), NULL);
    RETURN true;
END
$$;

-- Records a delivery, one of a repository at a time, and returns new; or duplicate for one
-- that was recorded within a week; or stale where a later change of its pull request was.
-- p has delivery, event, pull_request and subject_at.
CREATE OR REPLACE FUNCTION nofx.begin_delivery(p_repository uuid, p jsonb) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    v_stale boolean;
BEGIN
    PERFORM FROM repository r WHERE r.tenant_id = tenant() AND r.id = p_repository FOR NO KEY UPDATE;
    DELETE FROM webhook_delivery d WHERE d.tenant_id = tenant() AND d.repository_id = p_repository AND d.received_at <= clock_timestamp() - interval '7 days';
    v_stale := EXISTS (SELECT FROM webhook_delivery d WHERE d.tenant_id = tenant() AND d.repository_id = p_repository
        AND d.pull_request = (p->>'pull_request')::int AND d.subject_at > (p->>'subject_at')::timestamptz);
    INSERT INTO webhook_delivery (tenant_id, repository_id, delivery, event, pull_request, subject_at)
    VALUES (tenant(), p_repository, p->>'delivery', p->>'event', (p->>'pull_request')::int, (p->>'subject_at')::timestamptz)
    ON CONFLICT DO NOTHING;
    RETURN CASE WHEN NOT FOUND THEN 'duplicate' WHEN v_stale THEN 'stale' ELSE 'new' END;
END
$$;

-- Records what came of a delivery.
CREATE OR REPLACE FUNCTION nofx.end_delivery(p_repository uuid, p_delivery text, p_result text, p_review uuid) RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
    UPDATE webhook_delivery d SET result = p_result, review_id = p_review
    WHERE d.tenant_id = tenant() AND d.repository_id = p_repository AND d.delivery = p_delivery
$$;

GRANT EXECUTE ON FUNCTION
    nofx.find_repository(uuid),
    nofx.create_repository(uuid, jsonb),
    nofx.change_repository(uuid, jsonb, bigint),
    nofx.delete_repository(uuid),
    nofx.begin_delivery(uuid, jsonb),
    nofx.end_delivery(uuid, text, text, uuid)
TO nofx_gateway;
