-- Alerts: endpoints, the deliveries that wait for them, and what workers record of these.

-- Returns the name under which endpoints are told of an event of a run, or NULL.
-- run.AlertEvents has these names, too.
CREATE OR REPLACE FUNCTION nofx.alert_event(p_type text, p_data jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE
    RETURN CASE WHEN p_type IN ('gate.failed', 'run.failed') THEN p_type
        WHEN p_type = 'gate.pending' AND p_data->>'kind' = 'manual' THEN 'approval.requested' END;

-- Adds a delivery of an event for each endpoint that asked for it. It waits for nobody: an
-- endpoint that is being deleted is left out, and so is one for which too many deliveries
-- wait.
CREATE OR REPLACE FUNCTION nofx.queue_alert(p_tenant uuid, p_event text, p_data jsonb) RETURNS void
    LANGUAGE plpgsql
AS $$
DECLARE
    c_most constant int := 5000;
    e record;
BEGIN
    FOR e IN
        SELECT x.id, x.dropped_at FROM alert_endpoint x
        WHERE x.tenant_id = p_tenant AND x.state = 'enabled' AND p_event = ANY (x.events) ORDER BY x.id FOR KEY SHARE SKIP LOCKED
    LOOP
        IF c_most > (SELECT count(*) FROM (SELECT FROM alert_delivery d WHERE d.tenant_id = p_tenant AND d.endpoint_id = e.id AND d.due_at IS NOT NULL
            ORDER BY d.due_at LIMIT c_most) AS y) THEN
            INSERT INTO alert_delivery (tenant_id, endpoint_id, id, event, data) VALUES (p_tenant, e.id, new_id(), p_event, p_data);
        ELSIF coalesce(e.dropped_at <= clock_timestamp() - interval '1 minute', true) THEN
            PERFORM FROM alert_endpoint x WHERE x.tenant_id = p_tenant AND x.id = e.id FOR NO KEY UPDATE SKIP LOCKED;
            IF FOUND THEN
                UPDATE alert_endpoint x SET dropped_at = clock_timestamp() WHERE x.tenant_id = p_tenant AND x.id = e.id;
            END IF;
        END IF;
    END LOOP;
END
$$;

-- Adds the deliveries of an event of a run that alert_event names p_event: ids, states and
-- names, never what people or steps wrote.
CREATE OR REPLACE FUNCTION nofx.queue_run_alert(p_tenant uuid, p_event text, e nofx.new_event) RETURNS void
    LANGUAGE plpgsql
AS $$
DECLARE
    v_project text;
    v_step record;
BEGIN
    PERFORM FROM alert_endpoint x WHERE x.tenant_id = p_tenant AND x.state = 'enabled' AND p_event = ANY (x.events);
    IF NOT FOUND THEN
        RETURN;
    END IF;
    SELECT p.slug INTO v_project FROM run r JOIN project p ON p.tenant_id = r.tenant_id AND p.id = r.project_id
    WHERE r.tenant_id = p_tenant AND r.id = e.run_id AND r.kind = 'plan';
    IF NOT FOUND THEN
        RETURN; -- work of the system
    END IF;
    IF e.step_id IS NOT NULL THEN
        SELECT s.id, s.name INTO v_step FROM step s WHERE s.tenant_id = p_tenant AND s.id = e.step_id;
    ELSE
        SELECT s.id, s.name INTO v_step FROM step s WHERE s.tenant_id = p_tenant AND s.run_id = e.run_id AND s.state = 'failed' ORDER BY s.seq LIMIT 1;
    END IF;
    PERFORM queue_alert(p_tenant, p_event, jsonb_strip_nulls(jsonb_build_object(
        'run_id', public_id('run', e.run_id), 'project', v_project, 'status', split_part(e.type, '.', 2),
        'step_id', public_id('step', v_step.id), 'step', v_step.name, 'failure_class', e.data->'failure_class',
        'gate_id', e.data->'gate_id', 'gate', e.data->'gate', 'kind', e.data->'kind', 'round', e.data->'round', 'expires_at', e.data->'expires_at')));
END
$$;

-- Returns what the audit log says of an endpoint before and after a change. Receivers may
-- take what follows the host for a secret, so that has a digest.
CREATE OR REPLACE FUNCTION nofx.alert_facts(e nofx.alert_endpoint) RETURNS jsonb
    LANGUAGE sql STABLE
    RETURN jsonb_build_object('origin', substring(e.url FROM '^[a-zA-Z]+://[^/?#]+'), 'url_sha256', encode(sha256(convert_to(e.url, 'UTF8')), 'hex'),
        'events', to_jsonb(e.events), 'status', e.state, 'disabled_reason', e.disabled_reason, 'secret_version', e.secret_version, 'version', e.version);

-- Locks an endpoint of the tenant and returns it, or NX005. Endpoints are locked before
-- their deliveries.
CREATE OR REPLACE FUNCTION nofx.lock_alert_endpoint(p_id uuid) RETURNS nofx.alert_endpoint
    LANGUAGE plpgsql
AS $$
DECLARE
    e nofx.alert_endpoint;
BEGIN
    SELECT * INTO e FROM alert_endpoint x WHERE x.tenant_id = tenant() AND x.id = p_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no alert endpoint %', p_id USING ERRCODE = 'NX005', DETAIL = '{"noun":"alert endpoint"}';
    END IF;
    RETURN e;
END
$$;

-- Creates an endpoint: p has url, events and created_by. NX018 for one more than a tenant
-- may have.
CREATE OR REPLACE FUNCTION nofx.create_alert_endpoint(p_id uuid, p jsonb, p_sealed bytea) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    c_most constant int := 20;
    e nofx.alert_endpoint;
BEGIN
    PERFORM FROM tenant t WHERE t.tenant_id = tenant() FOR NO KEY UPDATE;
    IF (SELECT count(*) FROM alert_endpoint x WHERE x.tenant_id = tenant()) >= c_most THEN
        RAISE EXCEPTION 'the tenant has % alert endpoints', c_most USING ERRCODE = 'NX018', DETAIL = jsonb_build_object('most', c_most);
    END IF;
    INSERT INTO alert_endpoint AS x (tenant_id, id, url, events, sealed, created_by)
    VALUES (tenant(), p_id, p->>'url', ARRAY(SELECT jsonb_array_elements_text(p->'events')), p_sealed, p->>'created_by') RETURNING x.* INTO e;
    PERFORM audit('alert_endpoint.create', public_id('alert', p_id), NULL, NULL, alert_facts(e));
END
$$;

-- Ends the deliveries that wait for an endpoint, but for those that a worker has.
CREATE OR REPLACE FUNCTION nofx.end_alerts(p_tenant uuid, p_endpoint uuid) RETURNS void
    LANGUAGE sql
AS $$
    UPDATE alert_delivery d SET state = 'failed', due_at = NULL, error = 'the endpoint was disabled'
    WHERE d.tenant_id = p_tenant AND d.endpoint_id = p_endpoint AND d.due_at IS NOT NULL AND d.worker_id IS NULL
$$;

-- Changes what p has of url, events and enabled. What waits for an endpoint that is disabled
-- has failed. NX003 when p_version is not the version any more.
CREATE OR REPLACE FUNCTION nofx.change_alert_endpoint(p_id uuid, p jsonb, p_version bigint) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    e nofx.alert_endpoint := lock_alert_endpoint(p_id);
    v_before jsonb := alert_facts(e);
    v_enabled boolean := coalesce((p->>'enabled')::boolean, e.state = 'enabled');
BEGIN
    PERFORM check_version(p_version, e.version, e.state);
    UPDATE alert_endpoint x SET version = x.version + 1, updated_at = clock_timestamp(), url = coalesce(p->>'url', x.url),
        events = CASE WHEN p ? 'events' THEN ARRAY(SELECT jsonb_array_elements_text(p->'events')) ELSE x.events END,
        state = CASE WHEN v_enabled THEN 'enabled' ELSE 'disabled' END,
        disabled_reason = CASE WHEN v_enabled THEN NULL WHEN x.state = 'disabled' THEN x.disabled_reason ELSE 'request' END,
        failing_since = CASE WHEN v_enabled AND x.state = 'disabled' THEN NULL ELSE x.failing_since END
    WHERE x.tenant_id = e.tenant_id AND x.id = e.id RETURNING x.* INTO e;
    IF NOT v_enabled THEN
        PERFORM end_alerts(e.tenant_id, e.id);
    END IF;
    PERFORM audit('alert_endpoint.change', public_id('alert', p_id), NULL, v_before, alert_facts(e));
END
$$;

-- Returns the version that the secret of an endpoint gets when it is rotated next, and keeps
-- others from rotating it until then.
CREATE OR REPLACE FUNCTION nofx.begin_alert_rotation(p_id uuid) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    e nofx.alert_endpoint := lock_alert_endpoint(p_id);
BEGIN
    RETURN e.secret_version + 1;
END
$$;

-- Gives an endpoint another secret, after begin_alert_rotation in the same transaction. The
-- one before signs too for 24 hours.
CREATE OR REPLACE FUNCTION nofx.rotate_alert_secret(p_id uuid, p_sealed bytea) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    e nofx.alert_endpoint := lock_alert_endpoint(p_id);
    v_before jsonb := alert_facts(e);
BEGIN
    UPDATE alert_endpoint x SET version = x.version + 1, updated_at = clock_timestamp(), secret_version = x.secret_version + 1,
        sealed = p_sealed, sealed_past = x.sealed, past_until = clock_timestamp() + interval '24 hours'
    WHERE x.tenant_id = e.tenant_id AND x.id = e.id RETURNING x.* INTO e;
    PERFORM audit('alert_endpoint.rotate', public_id('alert', p_id), NULL, v_before, alert_facts(e));
END
$$;

-- Deletes an endpoint with its deliveries, and reports whether there was one.
CREATE OR REPLACE FUNCTION nofx.delete_alert_endpoint(p_id uuid) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    e nofx.alert_endpoint;
BEGIN
    SELECT * INTO e FROM alert_endpoint x WHERE x.tenant_id = tenant() AND x.id = p_id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    DELETE FROM alert_delivery d WHERE d.tenant_id = tenant() AND d.endpoint_id = p_id;
    DELETE FROM alert_endpoint x WHERE x.tenant_id = tenant() AND x.id = p_id;
    PERFORM audit('alert_endpoint.delete', public_id('alert', p_id), NULL, alert_facts(e), NULL);
    RETURN true;
END
$$;

-- Makes a delivery due at once, under the same id; one that a worker has is left to it.
-- Returns whether its endpoint is enabled; if not, nothing changes.
CREATE OR REPLACE FUNCTION nofx.redeliver_alert(p_endpoint uuid, p_id uuid) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    e nofx.alert_endpoint := lock_alert_endpoint(p_endpoint);
    d record;
BEGIN
    SELECT x.state, x.attempt, x.worker_id INTO d FROM alert_delivery x WHERE x.tenant_id = e.tenant_id AND x.endpoint_id = e.id AND x.id = p_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no delivery %', p_id USING ERRCODE = 'NX005', DETAIL = '{"noun":"delivery"}';
    END IF;
    IF e.state <> 'enabled' THEN
        RETURN false;
    END IF;
    UPDATE alert_delivery x SET state = 'pending', due_at = clock_timestamp()
    WHERE x.tenant_id = e.tenant_id AND x.endpoint_id = e.id AND x.id = p_id AND x.worker_id IS NULL;
    PERFORM audit('alert_delivery.redeliver', public_id('msg', p_id), NULL, jsonb_build_object('status', d.state, 'attempt', d.attempt),
        jsonb_build_object('endpoint_id', public_id('alert', e.id)));
    RETURN true;
END
$$;

-- Gives deliveries of all tenants that are due to a worker for p_lease, at most p_limit, and
-- of an endpoint as many as no more than p_each of it are with workers. It looks at the next
-- p_looks endpoints behind a place for which something waits; the last row, unless the end
-- was reached, is the place to go on from and has no id. A look is one descent into an
-- index.
CREATE OR REPLACE FUNCTION nofx.claim_alerts(p_worker text, p_tenant uuid, p_endpoint uuid, p_looks int, p_limit int, p_each int, p_lease interval)
    RETURNS TABLE (tenant_id uuid, endpoint_id uuid, id uuid, event text, data jsonb, at timestamptz, attempt int, url text,
        secret_version bigint, sealed bytea, sealed_past bytea)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp SET enable_sort = off SET enable_bitmapscan = off
AS $$
DECLARE
    v_left int := p_limit;
    v_free int;
    v_due timestamptz;
    e record;
    d record;
BEGIN
    tenant_id := p_tenant;
    endpoint_id := p_endpoint;
    FOR i IN 1..p_looks LOOP
        EXIT WHEN v_left = 0;
        SELECT x.tenant_id, x.endpoint_id, x.due_at INTO tenant_id, endpoint_id, v_due FROM alert_delivery x
        WHERE x.due_at IS NOT NULL AND (x.tenant_id, x.endpoint_id) > (claim_alerts.tenant_id, claim_alerts.endpoint_id)
        ORDER BY x.tenant_id, x.endpoint_id, x.due_at LIMIT 1;
        IF NOT FOUND THEN
            RETURN;
        END IF;
        CONTINUE WHEN v_due > clock_timestamp();
        -- Another worker that has the lock takes what is due.
        SELECT x.state, x.url, x.secret_version, x.sealed, CASE WHEN x.past_until > clock_timestamp() THEN x.sealed_past END AS sealed_past INTO e
        FROM alert_endpoint x WHERE x.tenant_id = claim_alerts.tenant_id AND x.id = claim_alerts.endpoint_id FOR NO KEY UPDATE SKIP LOCKED;
        CONTINUE WHEN NOT FOUND;
        IF e.state = 'disabled' THEN
            -- What a worker had that died, or an event added at the moment of end_alerts.
            UPDATE alert_delivery x SET state = 'failed', due_at = NULL, worker_id = NULL, error = 'the endpoint was disabled'
            WHERE x.tenant_id = claim_alerts.tenant_id AND x.endpoint_id = claim_alerts.endpoint_id AND x.due_at <= clock_timestamp();
            CONTINUE;
        END IF;
        v_free := least(v_left, p_each - (SELECT count(*) FROM alert_delivery x WHERE x.tenant_id = claim_alerts.tenant_id AND x.endpoint_id = claim_alerts.endpoint_id
            AND x.worker_id IS NOT NULL AND x.due_at > clock_timestamp())::int);
        CONTINUE WHEN v_free <= 0;
        FOR d IN
            SELECT x.id, x.event, x.data, x.at, x.attempt FROM alert_delivery x
            WHERE x.tenant_id = claim_alerts.tenant_id AND x.endpoint_id = claim_alerts.endpoint_id AND x.due_at <= clock_timestamp()
            ORDER BY x.due_at LIMIT v_free
        LOOP
            UPDATE alert_delivery x SET attempt = d.attempt + 1, worker_id = p_worker, due_at = clock_timestamp() + p_lease
            WHERE x.tenant_id = claim_alerts.tenant_id AND x.endpoint_id = claim_alerts.endpoint_id AND x.id = d.id;
            v_left := v_left - 1;
            id := d.id;
            event := d.event;
            data := d.data;
            at := d.at;
            attempt := d.attempt + 1;
            url := e.url;
            secret_version := e.secret_version;
            sealed := e.sealed;
            sealed_past := e.sealed_past;
            RETURN NEXT;
        END LOOP;
    END LOOP;
    id := NULL;
    RETURN NEXT;
END
$$;

-- Records what came of an attempt: p has delivered, gone, response_code, response_excerpt,
-- error, duration_ms and delay_s, after which the next one is due; without that there is
-- none. Returns delivered, pending or failed; lost, when another worker has the delivery or
-- nobody may have it any more; or disabled, when the endpoint is not wanted any more, or no
-- delivery has arrived for five days.
CREATE OR REPLACE FUNCTION nofx.finish_alert(p_worker text, p_endpoint uuid, p_id uuid, p_attempt int, p jsonb) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    e nofx.alert_endpoint;
    v_state text;
    v_since timestamptz;
    v_before jsonb;
BEGIN
    SELECT * INTO e FROM alert_endpoint x WHERE x.tenant_id = tenant() AND x.id = p_endpoint FOR NO KEY UPDATE;
    v_state := CASE WHEN (p->>'delivered')::boolean THEN 'delivered' WHEN p->'delay_s' IS NULL OR e.state = 'disabled' THEN 'failed' ELSE 'pending' END;
    UPDATE alert_delivery d SET state = v_state, worker_id = NULL, tried_at = clock_timestamp(), duration_ms = (p->>'duration_ms')::int,
        response_code = (p->>'response_code')::int, response_excerpt = p->>'response_excerpt', error = p->>'error',
        due_at = CASE WHEN v_state = 'pending' THEN clock_timestamp() + make_interval(secs => (p->>'delay_s')::float8) END
    WHERE d.tenant_id = tenant() AND d.endpoint_id = p_endpoint AND d.id = p_id AND d.worker_id = p_worker AND d.attempt = p_attempt AND d.due_at IS NOT NULL;
    IF NOT FOUND THEN
        RETURN 'lost';
    END IF;
    v_since := CASE WHEN v_state <> 'delivered' THEN coalesce(e.failing_since, clock_timestamp()) END;
    IF v_since IS DISTINCT FROM e.failing_since THEN
        UPDATE alert_endpoint x SET failing_since = v_since WHERE x.tenant_id = e.tenant_id AND x.id = e.id;
    END IF;
    IF e.state = 'enabled' AND v_state <> 'delivered' AND ((p->>'gone')::boolean OR v_since <= clock_timestamp() - interval '5 days') THEN
        v_before := alert_facts(e);
        UPDATE alert_endpoint x SET version = x.version + 1, updated_at = clock_timestamp(), state = 'disabled',
            disabled_reason = CASE WHEN (p->>'gone')::boolean THEN 'gone' ELSE 'failing' END
        WHERE x.tenant_id = e.tenant_id AND x.id = e.id RETURNING x.* INTO e;
        PERFORM end_alerts(e.tenant_id, e.id);
        PERFORM audit('alert_endpoint.disable', public_id('alert', e.id), NULL, v_before, alert_facts(e));
        RETURN 'disabled';
    END IF;
    RETURN v_state;
END
$$;

-- Deletes at most p_limit deliveries of all tenants that are older than 30 days, and secrets
-- that sign no more. Returns the number of the deliveries.
CREATE OR REPLACE FUNCTION nofx.expire_alerts(p_limit int) RETURNS bigint
    LANGUAGE sql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
    UPDATE alert_endpoint e SET sealed_past = NULL, past_until = NULL WHERE e.ctid = ANY (ARRAY(
        SELECT x.ctid FROM alert_endpoint x WHERE x.past_until <= (SELECT clock_timestamp()) ORDER BY x.past_until FOR NO KEY UPDATE SKIP LOCKED LIMIT p_limit));
    WITH gone AS (
        DELETE FROM alert_delivery d WHERE d.ctid = ANY (ARRAY(
            SELECT x.ctid FROM alert_delivery x WHERE x.at <= (SELECT clock_timestamp()) - interval '30 days' ORDER BY x.at FOR UPDATE SKIP LOCKED LIMIT p_limit)) RETURNING 1
    )
    SELECT count(*) FROM gone
$$;

GRANT EXECUTE ON FUNCTION
    nofx.create_alert_endpoint(uuid, jsonb, bytea),
    nofx.change_alert_endpoint(uuid, jsonb, bigint),
    nofx.begin_alert_rotation(uuid),
    nofx.rotate_alert_secret(uuid, bytea),
    nofx.delete_alert_endpoint(uuid),
    nofx.redeliver_alert(uuid, uuid)
TO nofx_gateway;

GRANT EXECUTE ON FUNCTION
    nofx.claim_alerts(text, uuid, uuid, int, int, int, interval),
    nofx.finish_alert(text, uuid, uuid, int, jsonb),
    nofx.expire_alerts(int)
TO nofx_worker;
