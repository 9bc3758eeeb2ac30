-- A tenant's pause of a queue, see tables/011_queue.sql.

-- Takes the lock that makes a resume see every parked step: shared for claims that park
-- steps, exclusive for a resume. With a row lock, a stream of claims could keep the resume
-- waiting for ever.
CREATE OR REPLACE FUNCTION nofx.pause_lock(p_tenant uuid) RETURNS bigint
    LANGUAGE sql IMMUTABLE
    RETURN hashtextextended(p_tenant::text || '/queue-pause', 0);

-- Returns the queues that a tenant has paused, for a claim that parks what it finds there.
-- Without pauses it costs one look into a small table.
CREATE OR REPLACE FUNCTION nofx.paused_queues(p_tenant uuid) RETURNS text[]
    LANGUAGE plpgsql
AS $$
DECLARE
    v_queues text[] := ARRAY(SELECT q.queue FROM queue_pause q WHERE q.tenant_id = p_tenant AND q.resumed_at IS NULL);
BEGIN
    IF v_queues <> '{}' THEN
        PERFORM pg_advisory_xact_lock_shared(pause_lock(p_tenant));
        v_queues := ARRAY(SELECT q.queue FROM queue_pause q WHERE q.tenant_id = p_tenant AND q.resumed_at IS NULL);
    END IF;
    RETURN v_queues;
END
$$;

-- Pauses a queue for the tenant. A queue that is already paused keeps the time of its
-- pause; a reason replaces the earlier reason and its author.
CREATE OR REPLACE FUNCTION nofx.pause_queue(p_queue text, p_reason text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
BEGIN
    INSERT INTO queue_pause AS q (tenant_id, queue, paused_by, reason)
    VALUES (tenant(), p_queue, coalesce(nullif(current_setting('nofx.actor', true), ''), session_user), p_reason)
    ON CONFLICT (tenant_id, queue) DO UPDATE SET paused_at = CASE WHEN q.resumed_at IS NULL THEN q.paused_at ELSE clock_timestamp() END,
        paused_by = excluded.paused_by, reason = excluded.reason, resumed_at = NULL
    WHERE q.resumed_at IS NOT NULL OR excluded.reason IS NOT NULL;
    IF FOUND THEN
        PERFORM audit('queue.pause', p_queue, p_reason, NULL, NULL);
    END IF;
END
$$;

-- Ends the tenant's pause of a queue. wake_parked does the rest.
CREATE OR REPLACE FUNCTION nofx.resume_queue(p_queue text, p_reason text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(pause_lock(tenant()));
    UPDATE queue_pause SET resumed_at = clock_timestamp() WHERE tenant_id = tenant() AND queue = p_queue AND resumed_at IS NULL;
    IF FOUND THEN
        PERFORM audit('queue.resume', p_queue, p_reason, NULL, NULL);
    END IF;
END
$$;

-- Returns the queues that tenants have paused. Only administrators may call it.
CREATE OR REPLACE FUNCTION nofx.queue_pauses() RETURNS TABLE (tenant text, queue text, paused_at timestamptz, paused_by text, reason text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
    SELECT t.slug, q.queue, q.paused_at, coalesce(subject_name(q.tenant_id, q.paused_by), q.paused_by), coalesce(q.reason, '')
    FROM queue_pause q JOIN tenant t ON t.tenant_id = q.tenant_id WHERE q.resumed_at IS NULL ORDER BY t.slug, q.queue
$$;

-- Returns the queues of all tenants with steps that are still to be woken.
CREATE OR REPLACE FUNCTION nofx.resumed_queues() RETURNS TABLE (tenant_id uuid, queue text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$ SELECT q.tenant_id, q.queue FROM queue_pause q WHERE q.resumed_at IS NOT NULL $$;

-- Makes some of the parked steps of a resumed queue due again, with new wake-ups, and
-- returns those that need a job: steps of a paused run get theirs when the run resumes.
-- Steps that another transaction is changing are left for the next batch.
CREATE OR REPLACE FUNCTION nofx.wake_parked(p_queue text, p_limit int) RETURNS TABLE (step_id uuid, run_id uuid, wake_seq bigint, traceparent text)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
    SET enable_bitmapscan = off SET enable_seqscan = off SET enable_sort = off SET enable_incremental_sort = off SET jit = off
AS $$
DECLARE
    v_tenant uuid := tenant();
BEGIN
    PERFORM FROM queue_pause q WHERE q.tenant_id = v_tenant AND q.queue = p_queue AND q.resumed_at IS NOT NULL;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    FOR step_id, run_id IN SELECT s.id, s.run_id FROM step s
        WHERE s.tenant_id = v_tenant AND s.queue = p_queue AND s.queue <> '' AND s.due_at >= 'infinity'
        ORDER BY s.due_at, s.id DESC LIMIT p_limit FOR NO KEY UPDATE SKIP LOCKED LOOP
        UPDATE step s SET due_at = s.ready_at, wake_seq = s.wake_seq + 1, job_id = NULL WHERE s.tenant_id = v_tenant AND s.id = step_id
        RETURNING s.wake_seq INTO wake_seq;
        SELECT r.traceparent INTO traceparent FROM run r WHERE r.tenant_id = v_tenant AND r.id = run_id AND r.state <> 'paused';
        IF FOUND THEN
            RETURN NEXT;
        END IF;
    END LOOP;
    PERFORM FROM step s WHERE s.tenant_id = v_tenant AND s.queue = p_queue AND s.queue <> '' AND s.due_at >= 'infinity' ORDER BY s.due_at, s.id DESC LIMIT 1;
    IF NOT FOUND THEN
        DELETE FROM queue_pause q WHERE q.tenant_id = v_tenant AND q.queue = p_queue AND q.resumed_at IS NOT NULL;
    END IF;
END
$$;

-- Returns the number of the tenant's steps that wait in a queue, counting at most p_limit,
-- and the time since when the oldest ready one has waited.
CREATE OR REPLACE FUNCTION nofx.backlog(p_queue text, p_limit int, OUT ready bigint, OUT retrying bigint, OUT oldest timestamptz)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
    SET enable_bitmapscan = off SET enable_seqscan = off SET enable_sort = off SET enable_incremental_sort = off SET jit = off
AS $$
BEGIN
    SELECT count(*), min(x.ready_at) INTO ready, oldest
    FROM (SELECT s.ready_at FROM step s WHERE s.tenant_id = tenant() AND s.queue = p_queue AND s.queue <> '' AND s.due_at IS NOT NULL
        ORDER BY s.due_at, s.id DESC LIMIT p_limit) AS x;
    SELECT count(*) INTO retrying
    FROM (SELECT FROM step s WHERE s.tenant_id = tenant() AND s.queue = p_queue AND s.queue <> '' AND s.retry_at IS NOT NULL
        ORDER BY s.retry_at, s.id LIMIT p_limit) AS x;
END
$$;

GRANT EXECUTE ON FUNCTION
    nofx.wake_parked(text, int)
TO nofx_app;

GRANT EXECUTE ON FUNCTION
    nofx.backlog(text, int),
    nofx.pause_queue(text, text),
    nofx.resume_queue(text, text)
TO nofx_gateway;

GRANT EXECUTE ON FUNCTION
    nofx.resumed_queues()
TO nofx_worker;
