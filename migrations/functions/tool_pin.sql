-- What MCP servers of forges announce.

-- Returns the tools that a server announced when it was first used, which they are now if it
-- is used for the first time.
CREATE OR REPLACE FUNCTION nofx.pin_tools(p_provider text, p_server text, p_session text, p_tools jsonb) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    v_tools jsonb;
BEGIN
    INSERT INTO tool_pin (tenant_id, provider, server, session, tools) VALUES (tenant(), p_provider, p_server, p_session, p_tools)
    ON CONFLICT (tenant_id, provider, server, session) DO NOTHING;
    SELECT t.tools INTO v_tools FROM tool_pin t WHERE t.tenant_id = tenant() AND t.provider = p_provider AND t.server = p_server AND t.session = p_session;
    RETURN coalesce(v_tools, p_tools);
END
$$;

-- Forgets what the servers of a forge announced: what they announce next is pinned.
CREATE OR REPLACE FUNCTION nofx.forget_tools(p_provider text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    v_before jsonb;
BEGIN
    WITH gone AS (DELETE FROM tool_pin t WHERE t.tenant_id = tenant() AND t.provider = p_provider RETURNING t.server, t.session, t.tools)
    SELECT jsonb_build_object('pins', count(*), 'sha256', encode(sha256(convert_to(jsonb_agg(to_jsonb(g) ORDER BY g.server, g.session)::text, 'UTF8')), 'hex'))
    INTO v_before FROM gone g;
    PERFORM audit('tools.accept', p_provider, NULL, v_before, NULL);
END
$$;

GRANT EXECUTE ON FUNCTION
    nofx.forget_tools(text)
TO nofx_gateway;

GRANT EXECUTE ON FUNCTION
    nofx.pin_tools(text, text, text, jsonb)
TO nofx_worker;
