-- Projects of a tenant.

-- Returns the key of the lock that keeps a project while a run is created in it: shared for
-- runs, exclusive for a deletion. No foreign key of runs does that.
CREATE OR REPLACE FUNCTION nofx.project_lock(p_tenant uuid) RETURNS bigint
    LANGUAGE sql IMMUTABLE
    RETURN hashtextextended(p_tenant::text || '/project', 0);

-- Makes a project.
CREATE OR REPLACE FUNCTION nofx.create_project(p_id uuid, p_slug text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
BEGIN
    INSERT INTO project (tenant_id, id, slug) VALUES (tenant(), p_id, p_slug);
    PERFORM audit('project.create', p_slug, NULL, NULL, jsonb_build_object('project', p_slug));
END
$$;

-- Deletes a project that nothing belongs to, or returns what does: runs, repositories, or
-- default, where runs begin that name no project. NX005 for an unknown one.
CREATE OR REPLACE FUNCTION nofx.delete_project(p_slug text) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    v_project uuid;
BEGIN
    PERFORM pg_advisory_xact_lock(project_lock(tenant()));
    SELECT y.id INTO v_project FROM project y WHERE y.tenant_id = tenant() AND y.slug = p_slug FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no project %', p_slug USING ERRCODE = 'NX005', DETAIL = '{"noun":"project"}';
    END IF;
    IF p_slug = 'default' THEN
        RETURN 'default';
    ELSIF EXISTS (SELECT FROM repository r WHERE r.tenant_id = tenant() AND r.project_id = v_project) THEN
        RETURN 'repositories';
    ELSIF EXISTS (SELECT FROM run_search r WHERE r.tenant_id = tenant() AND r.project_id = v_project) THEN
        RETURN 'runs';
    END IF;
    DELETE FROM project y WHERE y.tenant_id = tenant() AND y.id = v_project;
    PERFORM audit('project.delete', p_slug, NULL, jsonb_build_object('project', p_slug), NULL);
    RETURN NULL;
END
$$;

GRANT EXECUTE ON FUNCTION
    nofx.create_project(uuid, text),
    nofx.delete_project(text)
TO nofx_app;
