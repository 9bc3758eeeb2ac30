-- Leases of running steps: heartbeats, expiry, and the pause of all sweeps after an outage.

-- Reports whether a step runs under this fence and its lease holds. The caller has locked
-- its run; the lease is locked here, so that it neither is renewed nor expires.
CREATE OR REPLACE FUNCTION nofx.is_held(p_tenant uuid, p_run uuid, p_step uuid, p_fence bigint) RETURNS boolean
    LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM FROM step_lease l, LATERAL (SELECT FROM step s
        WHERE s.tenant_id = p_tenant AND s.id = p_step AND s.run_id = p_run AND s.state = 'running' AND s.fence = p_fence OFFSET 0) AS y
    WHERE l.tenant_id = p_tenant AND l.step_id = p_step AND l.fence = p_fence AND l.lease_until > clock_timestamp() FOR UPDATE OF l;
    RETURN FOUND;
END
$$;

-- Refuses with NX004 a change that needs the lease of a step, unless the lease is valid
-- under this fence.
CREATE OR REPLACE FUNCTION nofx.check_lease(p_machine text, p_id uuid, p_tenant uuid, p_step uuid, p_fence bigint) RETURNS void
    LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM FROM step_lease l WHERE l.tenant_id = p_tenant AND l.step_id = p_step AND l.fence = p_fence AND l.lease_until > clock_timestamp();
    IF NOT FOUND THEN
        RAISE EXCEPTION '% %: no live lease under fence %', p_machine, p_id, p_fence USING
            ERRCODE = 'NX004', DETAIL = jsonb_build_object('fence', p_fence, 'current', p_fence);
    END IF;
END
$$;

-- Reports whether a lease has expired but was not taken away, so that its holder may renew
-- it.
CREATE OR REPLACE FUNCTION nofx.has_lapsed(p_tenant uuid, p_step uuid, p_fence bigint) RETURNS boolean
    LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM FROM step_lease l WHERE l.tenant_id = p_tenant AND l.step_id = p_step AND l.fence = p_fence;
    RETURN FOUND;
END
$$;

-- Returns the caller's step, its run locked, while its fence and its lease hold; else NX004,
-- or NX010 where the lease only has to be renewed.
CREATE OR REPLACE FUNCTION nofx.hold_step(p_step uuid, p_fence bigint) RETURNS nofx.locked_step
    LANGUAGE plpgsql
AS $$
DECLARE
    s nofx.locked_step := lock_step(p_step);
BEGIN
    IF NOT is_held(s.tenant_id, s.run_id, s.id, p_fence) THEN
        IF has_lapsed(s.tenant_id, s.id, p_fence) THEN
            RAISE EXCEPTION 'step %: the lease under fence % has run out', p_step, p_fence USING ERRCODE = 'NX010';
        END IF;
        RAISE EXCEPTION 'step %: fence % is lost', p_step, p_fence USING
            ERRCODE = 'NX004', DETAIL = jsonb_build_object('fence', p_fence, 'current', s.fence);
    END IF;
    RETURN s;
END
$$;

-- Records that a worker reached the database. A gap of more than p_gap between two records
-- means that there was an outage. If another transaction is recording it, this one does
-- nothing.
CREATE OR REPLACE FUNCTION nofx.note_contact(p_gap interval) RETURNS void
    LANGUAGE plpgsql
AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
BEGIN
    PERFORM FROM contact WHERE seen_at NOT BETWEEN v_now - p_gap / 20 AND v_now FOR UPDATE SKIP LOCKED;
    IF FOUND THEN
        UPDATE contact SET seen_at = v_now, resumed_at = CASE WHEN seen_at < v_now - p_gap THEN v_now ELSE resumed_at END;
    ELSIF NOT EXISTS (SELECT FROM contact) THEN
        INSERT INTO contact (seen_at, resumed_at) VALUES (v_now, v_now) ON CONFLICT DO NOTHING;
    END IF;
END
$$;

-- Reports whether expired leases are left to their holders: for one TTL after the start of
-- the server and after the end of an outage, and while an outage seems to last. No worker
-- could renew its leases meanwhile, and the first worker that returns must not take steps
-- whose leases others are about to renew.
CREATE OR REPLACE FUNCTION nofx.holds_off(p_ttl interval, p_gap interval) RETURNS boolean
    LANGUAGE plpgsql
AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
BEGIN
    RETURN pg_postmaster_start_time() > v_now - p_ttl
        OR coalesce((SELECT c.resumed_at > v_now - p_ttl OR c.seen_at < v_now - p_gap FROM contact c), true);
END
$$;

-- Returns the time since when all workers can report again, if an outage ended after
-- p_seen; otherwise p_seen. A worker that could not report does not count as silent.
CREATE OR REPLACE FUNCTION nofx.could_speak_since(p_seen timestamptz) RETURNS timestamptz
    LANGUAGE sql STABLE
AS $$
    SELECT greatest(p_seen, (SELECT c.resumed_at FROM contact c))
$$;

-- Renews the leases of one worker process in one statement, and returns for each existing
-- lease whether it was renewed. It does not wait for a lease that another transaction has
-- locked, such as a long finish. Steps that are not returned are lost. An expired lease is
-- renewed as well, unless a sweep took the step, so that no work is lost after an outage of
-- the database. Leases are locked in the same order as in every transaction that holds
-- several.
CREATE OR REPLACE FUNCTION nofx.heartbeat(p_steps uuid[], p_fences bigint[], p_ttl interval, p_gap interval) RETURNS TABLE (step_id uuid, renewed boolean)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM note_contact(p_gap);
    RETURN QUERY WITH held AS (
        SELECT l.tenant_id, l.step_id, l.fence FROM step_lease l
        JOIN unnest(p_steps, p_fences) AS h (step_id, fence) ON h.step_id = l.step_id AND h.fence = l.fence
        ORDER BY l.step_id FOR NO KEY UPDATE OF l SKIP LOCKED
    ), renewed AS (
        UPDATE step_lease l SET lease_until = clock_timestamp() + p_ttl
        FROM held h WHERE l.tenant_id = h.tenant_id AND l.step_id = h.step_id AND l.fence = h.fence
        RETURNING l.step_id
    )
    SELECT l.step_id, l.step_id IN (SELECT r.step_id FROM renewed r) FROM step_lease l
    JOIN unnest(p_steps, p_fences) AS h (step_id, fence) ON h.step_id = l.step_id AND h.fence = l.fence;
END
$$;

-- Records, under a valid lease, that the tool of a step is about to begin. If the lease was
-- lost before this, the tool did not run.
CREATE OR REPLACE FUNCTION nofx.begin_tool(p_step uuid, p_fence bigint) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    s nofx.locked_step := hold_step(p_step, p_fence);
BEGIN
    UPDATE step_lease SET begun = true WHERE tenant_id = s.tenant_id AND step_id = s.id;
END
$$;

GRANT EXECUTE ON FUNCTION
    nofx.heartbeat(uuid[], bigint[], interval, interval),
    nofx.begin_tool(uuid, bigint)
TO nofx_worker;
