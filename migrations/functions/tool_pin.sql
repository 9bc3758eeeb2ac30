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
    LANGUAGE sql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
    DELETE FROM tool_pin t WHERE t.tenant_id = tenant() AND t.provider = p_provider
$$;

GRANT EXECUTE ON FUNCTION
    nofx.pin_tools(text, text, text, jsonb),
    nofx.forget_tools(text)
TO nofx_app;
