-- The audit log, see tables/015_audit.sql. The functions that do what is audited call audit
-- as their last change: no row, no act.

-- Returns the hash of a row: SHA-256 of the hash of the row before and of an array of what
-- the row tells, as the text of its jsonb. Readers compute it again from what the API says,
-- as package gateway/audit does.
CREATE OR REPLACE FUNCTION nofx.audit_hash(a nofx.audit) RETURNS bytea
    LANGUAGE sql STABLE
AS $$ -- as a text, since public_id comes later
    SELECT sha256(a.prev_hash || convert_to(jsonb_build_array(nofx.public_id('ten', a.tenant_id), a.seq, nofx.public_time(a.at), a.actor, a.via, a.act, a.object,
        a.reason, a.before, a.after, a.trace_id)::text, 'UTF8'))
$$;

-- Adds a row to the chain of this transaction's tenant: that its actor did p_act to p_object.
-- p_before and p_after hold no secrets. The lock of the chain is held until the transaction
-- ends and is the last in the order of locks.
CREATE OR REPLACE FUNCTION nofx.audit(p_act text, p_object text, p_reason text, p_before jsonb, p_after jsonb) RETURNS void
    LANGUAGE plpgsql
AS $$
DECLARE
    h record;
    a nofx.audit;
BEGIN
    LOOP
        SELECT x.seq, x.hash INTO h FROM audit_head x WHERE x.tenant_id = tenant() FOR NO KEY UPDATE;
        EXIT WHEN FOUND;
        INSERT INTO audit_head (tenant_id) VALUES (tenant()) ON CONFLICT DO NOTHING;
    END LOOP;
    a.tenant_id := tenant();
    a.seq := h.seq + 1;
    a.at := clock_timestamp();
    a.actor := coalesce(nullif(current_setting('nofx.actor', true), ''), session_user);
    a.via := coalesce(nullif(current_setting('nofx.via', true), ''), 'database');
    a.act := p_act;
    a.object := p_object;
    a.reason := nullif(p_reason, '');
    a.before := nullif(jsonb_strip_nulls(p_before), '{}');
    a.after := nullif(jsonb_strip_nulls(p_after), '{}');
    a.trace_id := substr(nofx.cause(), 4, 32);
    a.prev_hash := h.hash;
    a.hash := audit_hash(a);
    INSERT INTO audit SELECT a.*;
    UPDATE audit_head SET seq = a.seq, hash = a.hash WHERE tenant_id = a.tenant_id;
END
$$;

-- Refuses every change of the log but new rows, also to its owner.
CREATE OR REPLACE FUNCTION nofx.audit_guard() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION 'the audit log only grows: % is not possible', TG_OP USING ERRCODE = 'NX006';
END
$$;

-- Adds a row that the actor was refused p_operation on p_object. Of one actor and minute, the
-- first ten attempts have rows, and then the 16th, the 32nd and so on; each tells how many
-- attempts there were, and the first of a minute how many there were in the one before.
CREATE OR REPLACE FUNCTION nofx.audit_denied(p_operation text, p_object text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    v_actor text := coalesce(nullif(current_setting('nofx.actor', true), ''), session_user);
    v_minute timestamptz := date_trunc('minute', clock_timestamp());
    v_before int;
    v_attempts int;
BEGIN
    SELECT x.attempts INTO v_before FROM audit_denial x WHERE x.tenant_id = tenant() AND x.actor = v_actor AND x.minute < v_minute FOR NO KEY UPDATE;
    INSERT INTO audit_denial AS x (tenant_id, actor, minute, attempts) VALUES (tenant(), v_actor, v_minute, 1)
    ON CONFLICT (tenant_id, actor) DO UPDATE SET minute = excluded.minute, attempts = CASE WHEN x.minute = excluded.minute THEN x.attempts + 1 ELSE 1 END
    RETURNING x.attempts INTO v_attempts;
    IF v_attempts <= 10 OR v_attempts & (v_attempts - 1) = 0 THEN
        PERFORM audit('denied', p_object, NULL, NULL, jsonb_build_object('operation', p_operation, 'attempts', v_attempts, 'attempts_before', v_before));
    END IF;
END
$$;

-- Adds a row for each URL of p_object that the actor is about to be given, by their digests.
-- Whoever has such a URL may read, or with PUT write, one object until p_expires.
CREATE OR REPLACE FUNCTION nofx.audit_urls(p_object text, p_method text, p_sha256 text[], p_expires timestamptz) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    v_sha256 text;
BEGIN
    FOREACH v_sha256 IN ARRAY p_sha256 LOOP
        PERFORM audit('url.sign', p_object, NULL, NULL, jsonb_build_object('method', p_method, 'url_sha256', v_sha256, 'expires_at', public_time(p_expires)));
    END LOOP;
END
$$;

-- Returns the heads of chains that have grown since they were last anchored, on a day before
-- p_day, by tenant after p_after.
CREATE OR REPLACE FUNCTION nofx.audit_heads(p_day date, p_after uuid, p_limit int) RETURNS TABLE (tenant_id uuid, seq bigint, hash bytea, at timestamptz)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
    SELECT h.tenant_id, h.seq, h.hash, (SELECT a.at FROM audit a WHERE a.tenant_id = h.tenant_id AND a.seq = h.seq)
    FROM audit_head h WHERE h.tenant_id > p_after AND h.seq > h.anchored_seq AND (h.anchored_on IS NULL OR h.anchored_on < p_day)
    ORDER BY h.tenant_id LIMIT p_limit
$$;

-- Records that a head of the tenant is in object storage.
CREATE OR REPLACE FUNCTION nofx.audit_anchored(p_seq bigint, p_day date) RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
    UPDATE audit_head SET anchored_seq = p_seq, anchored_on = p_day WHERE tenant_id = tenant() AND anchored_seq < p_seq
$$;

GRANT EXECUTE ON FUNCTION
    nofx.audit_denied(text, text),
    nofx.audit_urls(text, text, text[], timestamptz)
TO nofx_gateway;

GRANT EXECUTE ON FUNCTION
    nofx.audit_heads(date, uuid, int),
    nofx.audit_anchored(bigint, date)
TO nofx_worker;

GRANT EXECUTE ON FUNCTION
    nofx.audit_guard()
TO nofx_owner;

SET LOCAL ROLE nofx_owner;

CREATE OR REPLACE TRIGGER audit_guard BEFORE UPDATE OR DELETE OR TRUNCATE ON nofx.audit
    FOR EACH STATEMENT EXECUTE FUNCTION nofx.audit_guard();

SET LOCAL ROLE nofx_system;
