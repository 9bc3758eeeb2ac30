-- The settings of a tenant, which its administrators change. They are in one document; what it
-- does not have is as by default.

-- Returns the settings that there are, with the range of those that are numbers.
CREATE OR REPLACE FUNCTION nofx.setting_rules() RETURNS TABLE (name text, type text, lowest numeric, highest numeric)
    LANGUAGE sql IMMUTABLE
AS $$
    VALUES ('retention_days', 'integer', 1, 3650),
        ('four_eyes', 'boolean', NULL, NULL),
        ('allow_waive', 'boolean', NULL, NULL),
        ('queued_runs_max', 'integer', 1, 10000),
        ('model_tokens_per_day', 'integer', 0, 1e12),
        ('model_cost_usd_per_day', 'number', 0, 1e9),
        ('reviews_enabled', 'boolean', NULL, NULL),
        ('network_hosts', 'hosts', NULL, NULL)
$$;

-- Returns why a value is no list of hosts that plans may ask for, or NULL. The gateway, which
-- brings hosts into this form, says more.
CREATE OR REPLACE FUNCTION nofx.bad_hosts(p jsonb) RETURNS text
    LANGUAGE plpgsql IMMUTABLE
AS $$
BEGIN
    IF jsonb_typeof(p) <> 'array' THEN
        RETURN 'must be a list of hosts NAME:PORT';
    END IF;
    IF jsonb_array_length(p) > 64 THEN
        RETURN format('%s hosts; at most 64', jsonb_array_length(p));
    END IF;
    RETURN (SELECT format('%s is no host NAME:PORT', left(h.value::text, 80)) FROM jsonb_array_elements(p) h
        WHERE jsonb_typeof(h.value) <> 'string' OR length(h.value #>> '{}') > 261
            OR (h.value #>> '{}') !~ '^(\*\.[a-z0-9_-]{1,63}\.)?[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*:[1-9][0-9]{0,4}$' LIMIT 1);
END
$$;

-- Refuses settings that there are not and values that they cannot have, whoever writes them,
-- and counts their versions. NX020 with all that is wrong.
CREATE OR REPLACE FUNCTION nofx.settings_guard() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    v_faults jsonb;
BEGIN
    IF jsonb_typeof(NEW.settings) <> 'object' THEN
        RAISE EXCEPTION 'settings are an object' USING ERRCODE = 'NX020', DETAIL = '{"fields":[{"pointer":"","detail":"must be an object"}]}';
    END IF;
    SELECT jsonb_agg(jsonb_build_object('pointer', '/' || e.key, 'detail', x.detail) ORDER BY e.key) INTO v_faults
    FROM jsonb_each(NEW.settings) e LEFT JOIN setting_rules() r ON r.name = e.key CROSS JOIN LATERAL (SELECT CASE
        WHEN r.name IS NULL THEN 'there is no such setting'
        WHEN r.type = 'boolean' THEN CASE WHEN jsonb_typeof(e.value) <> 'boolean' THEN 'must be true or false' END
        WHEN r.type = 'hosts' THEN bad_hosts(e.value)
        WHEN CASE jsonb_typeof(e.value) WHEN 'number' THEN e.value::numeric BETWEEN r.lowest AND r.highest AND (r.type = 'number' OR e.value::numeric = trunc(e.value::numeric)) END IS NOT TRUE
            THEN format('must be a %s from %s to %s', CASE r.type WHEN 'integer' THEN 'whole number' ELSE 'number' END, r.lowest, r.highest) END AS detail) x
    WHERE x.detail IS NOT NULL;
    IF v_faults IS NOT NULL THEN
        RAISE EXCEPTION 'wrong settings: %', v_faults USING ERRCODE = 'NX020', DETAIL = jsonb_build_object('fields', v_faults);
    END IF;
    IF TG_OP = 'UPDATE' THEN
        NEW.settings_version := OLD.settings_version + 1;
        NEW.settings_at := clock_timestamp();
        NEW.settings_by := nullif(current_setting('nofx.actor', true), '');
    END IF;
    RETURN NEW;
END
$$;

-- Changes what p has of the tenant's settings; null is the default again. NX003 when
-- p_version is not the version any more.
CREATE OR REPLACE FUNCTION nofx.change_settings(p jsonb, p_version bigint) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    v_version bigint;
    v_before jsonb;
    v_after jsonb;
BEGIN
    SELECT t.settings_version, t.settings INTO v_version, v_before FROM tenant t WHERE t.tenant_id = tenant() FOR NO KEY UPDATE;
    PERFORM check_version(p_version, v_version, 'set');
    UPDATE tenant t SET settings = jsonb_strip_nulls(t.settings || p) WHERE t.tenant_id = tenant() RETURNING t.settings INTO v_after;
    PERFORM audit('settings.change', 'settings', NULL, v_before, v_after);
END
$$;

-- Refuses another run while the tenant has as many queued ones as it may: NX021. Requests at
-- the same moment do not see each other, so the quota may be passed by their number.
CREATE OR REPLACE FUNCTION nofx.check_queued_quota(p_tenant uuid) RETURNS void
    LANGUAGE plpgsql STABLE
AS $$
DECLARE
    v_most int := (SELECT (t.settings->>'queued_runs_max')::numeric::int FROM nofx.tenant t WHERE t.tenant_id = p_tenant);
BEGIN
    IF v_most <= (SELECT count(*) FROM (SELECT FROM nofx.run r WHERE r.tenant_id = p_tenant AND r.state = 'queued' AND r.kind = 'plan' ORDER BY r.id LIMIT v_most) x) THEN
        RAISE EXCEPTION 'the tenant has % queued runs', v_most USING ERRCODE = 'NX021', DETAIL = jsonb_build_object('most', v_most);
    END IF;
END
$$;

GRANT EXECUTE ON FUNCTION
    nofx.change_settings(jsonb, bigint)
TO nofx_gateway;

GRANT EXECUTE ON FUNCTION
    nofx.settings_guard()
TO nofx_owner;

SET LOCAL ROLE nofx_owner;

CREATE OR REPLACE TRIGGER settings_guard BEFORE INSERT OR UPDATE OF settings ON nofx.tenant
    FOR EACH ROW EXECUTE FUNCTION nofx.settings_guard();

SET LOCAL ROLE nofx_system;
