-- Stored answers of idempotent requests.

-- Claims a key until the end of the transaction, unless another transaction has it, and
-- then reads the response stored under it. There are two statements, since the second must
-- see rows that the other transaction has committed meanwhile.
CREATE OR REPLACE FUNCTION nofx.find_answer(p_scope text, p_key text, OUT mine boolean, OUT fingerprint bytea, OUT status int, OUT headers jsonb, OUT body bytea)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
BEGIN
    mine := pg_try_advisory_xact_lock(hashtextextended(tenant()::text || '/' || p_scope || '/' || p_key, 0));
    IF mine THEN
        SELECT k.fingerprint, k.status, k.headers, k.body INTO fingerprint, status, headers, body FROM idempotency_key k
        WHERE k.tenant_id = tenant() AND k.scope = p_scope AND k.key = p_key;
    END IF;
END
$$;

-- Deletes some of the expired stored responses, and returns their number.
CREATE OR REPLACE FUNCTION nofx.delete_expired(p_limit int) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    v_gone bigint;
BEGIN
    -- This is not a join, since the planner does not know the limit and would read the
    -- whole table.
    DELETE FROM idempotency_key WHERE ctid = ANY (ARRAY(
        SELECT k.ctid FROM idempotency_key k WHERE k.expires_at <= (SELECT clock_timestamp())
        ORDER BY k.expires_at FOR UPDATE SKIP LOCKED LIMIT p_limit));
    GET DIAGNOSTICS v_gone = ROW_COUNT;
    RETURN v_gone;
END
$$;

GRANT EXECUTE ON FUNCTION
    nofx.find_answer(text, text)
TO nofx_gateway;

GRANT EXECUTE ON FUNCTION
    nofx.delete_expired(int)
TO nofx_worker;
