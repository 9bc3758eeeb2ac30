-- Events and their place in the feeds.

-- Begins an epoch of the feeds if one is needed (the database was restored, or has
-- positions that none of its transactions has reached), and returns the base of the current
-- epoch.
CREATE OR REPLACE FUNCTION nofx.begin_epoch() RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    e feed_epoch;
    v_newest bigint;
    v_least bigint; -- id of a transaction that may still write
BEGIN
    LOCK TABLE feed_epoch IN SHARE ROW EXCLUSIVE MODE;
    SELECT * INTO e FROM feed_epoch ORDER BY first DESC LIMIT 1;
    SELECT greatest(e.first, max(x.xid::text::bigint)) INTO v_newest FROM (
        SELECT h.xid FROM event_horizon h
        UNION ALL
        SELECT n.xid FROM tenant t CROSS JOIN LATERAL (
            SELECT v.xid FROM event v WHERE v.tenant_id = t.tenant_id ORDER BY v.xid DESC LIMIT 1) AS n
    ) AS x;
    IF e.here AND v_newest < e.base + pg_snapshot_xmax(pg_current_snapshot())::text::bigint THEN
        RETURN e.base;
    END IF;
    v_least := pg_snapshot_xmin(pg_current_snapshot())::text::bigint;
    INSERT INTO feed_epoch AS n (first, id, base)
    SELECT v_least + b.base, 1 + floor(random() * 2147483647)::int, b.base
    FROM (SELECT greatest(v_newest + 1 - v_least, 0) AS base) AS b
    RETURNING n.base INTO e.base;
    RETURN e.base;
END
$$;

-- Writes events. A row has the trace of its run; a cause in another trace is named in data.
-- The position of an event in the feeds is never before the position of the run's last
-- event. A newer transaction may have written that one, since a transaction gets its id
-- before the run's lock. Feeds are read only up to the oldest running transaction, so no
-- reader has passed the position yet.
--
-- Endpoints of the tenant that asked for an event get their delivery of it here, so that
-- there is none without the event and no event without its deliveries.
CREATE OR REPLACE FUNCTION nofx.write_events(p_tenant uuid, p nofx.new_event[]) RETURNS void
    LANGUAGE plpgsql
AS $$
DECLARE
    v_actor text := coalesce(nullif(current_setting('nofx.actor', true), ''), session_user);
    v_event nofx.new_event;
BEGIN
    INSERT INTO event (tenant_id, run_id, seq, step_id, type, event, from_state, to_state, data, actor, reason, trace_id, span_id, fence, xid)
    SELECT p_tenant, t.run_id, t.seq, t.step_id, t.type, t.event, t.from_state, t.to_state,
        CASE WHEN substr(t.cause, 4, 32) <> t.trace_id THEN t.data || jsonb_build_object('request_trace_id', substr(t.cause, 4, 32)) ELSE t.data END,
        v_actor, t.reason, t.trace_id, CASE WHEN substr(t.cause, 4, 32) = t.trace_id THEN substr(t.cause, 37, 16) END, t.fence,
        greatest((SELECT (CASE WHEN e.here THEN e.base ELSE begin_epoch() END + pg_current_xact_id()::text::bigint)::text::xid8
                  FROM feed_epoch e ORDER BY e.first DESC LIMIT 1),
            (SELECT e.xid FROM event e WHERE e.tenant_id = p_tenant AND e.run_id = t.run_id AND e.seq < t.seq ORDER BY e.seq DESC LIMIT 1))
    FROM unnest(p) AS t;
    FOREACH v_event IN ARRAY p LOOP
        IF alert_event(v_event.type, v_event.data) IS NOT NULL THEN
            PERFORM queue_run_alert(p_tenant, alert_event(v_event.type, v_event.data), v_event);
        END IF;
    END LOOP;
END
$$;

-- Returns the traceparent of this transaction, or NULL.
CREATE OR REPLACE FUNCTION nofx.cause() RETURNS text
    LANGUAGE sql STABLE
    RETURN CASE WHEN length(current_setting('nofx.traceparent', true)) = 55 THEN current_setting('nofx.traceparent', true) END;

-- Returns the event of a change of a run's state.
CREATE OR REPLACE FUNCTION nofx.run_event(p_run uuid, p_seq bigint, p_event text, p_from text, p_to text, p_reason text, p_class text, p_trace text, p_cause text) RETURNS nofx.new_event
    LANGUAGE sql STABLE
    RETURN ROW(p_run, p_seq, NULL, 'run.' || p_to, p_event, p_from, p_to,
        jsonb_strip_nulls(jsonb_build_object('failure_class', p_class)), p_reason, p_trace, NULL, p_cause)::nofx.new_event;

-- Returns the event of a change of a step's state. p_wait_ms is the time that a claimed
-- step was ready, p_at the end of a wait or a delay.
CREATE OR REPLACE FUNCTION nofx.step_event(p_run uuid, p_seq bigint, p_step uuid, p_event text, p_from text, p_to text, p_fence bigint, p_attempt int, p_reason text, p_trace text, p_cause text,
    p_class text DEFAULT NULL, p_wait_ms bigint DEFAULT NULL, p_at timestamptz DEFAULT NULL) RETURNS nofx.new_event
    LANGUAGE sql STABLE
AS $$ -- as a text, since public_time comes later
    SELECT ROW(p_run, p_seq, p_step, 'step.' || p_to, p_event, p_from, p_to,
        jsonb_strip_nulls(jsonb_build_object('attempt', p_attempt, 'wait_ms', p_wait_ms, 'at', public_time(p_at), 'failure_class', p_class)),
        p_reason, p_trace, nullif(p_fence, 0), p_cause)::nofx.new_event
$$;

-- Returns an event that is not a change of state, such as checkpoint.created.
CREATE OR REPLACE FUNCTION nofx.plain_event(p_run uuid, p_seq bigint, p_step uuid, p_type text, p_fence bigint, p_data jsonb, p_trace text, p_cause text) RETURNS nofx.new_event
    LANGUAGE sql STABLE
    RETURN ROW(p_run, p_seq, p_step, p_type, NULL, NULL, NULL, p_data, NULL, p_trace, p_fence, p_cause)::nofx.new_event;

-- Appends an event that is not a change of state.
CREATE OR REPLACE FUNCTION nofx.append_event(p_tenant uuid, p_run uuid, p_step uuid, p_type text, p_fence bigint, p_data jsonb) RETURNS bigint
    LANGUAGE plpgsql
AS $$
DECLARE
    v_seq bigint;
    v_trace char(32);
BEGIN
    IF pg_column_size(p_data) > 16384 THEN
        RAISE EXCEPTION 'an event holds at most 16 KiB' USING ERRCODE = 'check_violation';
    END IF;
    UPDATE run SET event_seq = event_seq + 1 WHERE tenant_id = p_tenant AND id = p_run
    RETURNING event_seq, trace_id INTO v_seq, v_trace;
    PERFORM write_events(p_tenant, ARRAY[plain_event(p_run, v_seq, p_step, p_type, p_fence, p_data, v_trace, cause())]);
    RETURN v_seq;
END
$$;

-- Returns the newest seq of runs that are streamed; a run of another tenant than the one
-- named with it is left out.
CREATE OR REPLACE FUNCTION nofx.event_heads(p_tenants uuid[], p_runs uuid[]) RETURNS TABLE (run_id uuid, event_seq bigint)
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
BEGIN
    RETURN QUERY SELECT r.id, r.event_seq FROM unnest(p_tenants, p_runs) AS q (tenant_id, id)
        JOIN run r ON r.tenant_id = q.tenant_id AND r.id = q.id;
END
$$;

GRANT EXECUTE ON FUNCTION
    nofx.begin_epoch(),
    nofx.event_heads(uuid[], uuid[])
TO nofx_gateway;
