-- Look-ups in the transition table, used by all guards and verbs.

-- Refuses an event with NX001 and says which are allowed in that state.
CREATE OR REPLACE FUNCTION nofx.refuse(p_machine text, p_id uuid, p_from text, p_event text) RETURNS void
    LANGUAGE plpgsql STABLE
AS $$
BEGIN
    RAISE EXCEPTION '% % is %: % is not possible', p_machine, p_id, p_from, coalesce(p_event, 'no event') USING
        ERRCODE = 'NX001',
        DETAIL = jsonb_build_object('machine', p_machine, 'id', p_id, 'from', p_from, 'event', p_event, 'allowed',
            (SELECT coalesce(jsonb_agg(t.event ORDER BY t.event), '[]') FROM transition t
             WHERE t.machine = p_machine AND t.from_state = p_from AND t.event IS DISTINCT FROM p_event));
END
$$;

-- Returns the edge that an event takes from a state, or NX001 with the events allowed
-- there, or NX002 when the edge needs a reason.
CREATE OR REPLACE FUNCTION nofx.edge(p_machine text, p_id uuid, p_from text, p_event text, p_reason text) RETURNS nofx.transition
    LANGUAGE plpgsql STABLE
AS $$
DECLARE
    e nofx.transition;
BEGIN
    SELECT * INTO e FROM transition t
    WHERE t.machine = p_machine AND t.from_state = p_from AND t.event = p_event;
    IF NOT FOUND THEN
        PERFORM refuse(p_machine, p_id, p_from, p_event);
    END IF;
    IF e.needs_reason AND coalesce(p_reason, '') = '' THEN
        RAISE EXCEPTION '% of % % wants a reason', p_event, p_machine, p_id USING ERRCODE = 'NX002';
    END IF;
    RETURN e;
END
$$;

-- Checks a change of state for every guard: it must take an edge of the table from the
-- row's state, increase the version by one, and have a reason if the edge needs one. p_to
-- is the new state in the statement, NULL if the statement sets none. p_batched says that
-- the statement belongs to a function that writes the event and the counters itself; only
-- edges marked as batched allow that. Returns the edge.
CREATE OR REPLACE FUNCTION nofx.check_change(p_machine text, p_id uuid, p_from text, p_to text, p_event text, p_reason text, p_version bigint, p_next bigint, p_batched boolean)
    RETURNS nofx.transition
    LANGUAGE plpgsql STABLE
AS $$
DECLARE
    e nofx.transition;
BEGIN
    IF p_next <> p_version + 1 THEN
        RAISE EXCEPTION '% %: version % does not follow %', p_machine, p_id, p_next, p_version USING ERRCODE = 'NX006';
    END IF;
    SELECT * INTO e FROM transition t WHERE t.machine = p_machine AND t.from_state = p_from AND t.event = p_event;
    IF NOT FOUND OR e.needs_reason AND coalesce(p_reason, '') = '' THEN
        PERFORM edge(p_machine, p_id, p_from, p_event, p_reason); -- which says what is wrong
    END IF;
    IF p_to <> e.to_state THEN
        RAISE EXCEPTION '% %: % leads from % to %, not to %', p_machine, p_id, p_event, p_from, e.to_state, p_to USING ERRCODE = 'NX006';
    END IF;
    IF p_batched AND NOT e.batched THEN
        RAISE EXCEPTION '% %: the event of % from % is written by the guard alone', p_machine, p_id, p_event, p_from USING ERRCODE = 'NX006';
    END IF;
    RETURN e;
END
$$;

CREATE OR REPLACE FUNCTION nofx.check_version(p_version bigint, p_current bigint, p_state text) RETURNS void
    LANGUAGE plpgsql IMMUTABLE
AS $$
BEGIN
    IF p_version <> p_current THEN
        RAISE EXCEPTION 'version % is stale, it is % now', p_version, p_current USING
            ERRCODE = 'NX003', DETAIL = jsonb_build_object('version', p_current, 'state', p_state);
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION nofx.check_fence(p_fence bigint, p_current bigint) RETURNS void
    LANGUAGE plpgsql IMMUTABLE
AS $$
BEGIN
    IF p_fence IS DISTINCT FROM p_current THEN
        RAISE EXCEPTION 'fence % is lost, it is % now', p_fence, p_current USING
            ERRCODE = 'NX004', DETAIL = jsonb_build_object('fence', p_fence, 'current', p_current);
    END IF;
END
$$;
