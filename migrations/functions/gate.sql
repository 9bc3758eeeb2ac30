-- Gates: the guard of their states, decisions of people, waivers.

-- Checks every change of a gate's state.
CREATE OR REPLACE FUNCTION nofx.gate_guard() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    e nofx.transition;
    v_seq bigint;
    v_trace char(32);
    v_fence bigint;
BEGIN
    SELECT s.fence INTO v_fence FROM step s WHERE s.tenant_id = NEW.tenant_id AND s.id = NEW.step_id;
    IF TG_OP = 'INSERT' THEN
        IF NEW.state <> 'pending' OR NEW.version <> 1 THEN
            RAISE EXCEPTION 'a gate starts pending at version 1' USING ERRCODE = 'NX006';
        END IF;
    ELSE
        e := check_change('gate', OLD.id, OLD.state, nullif(NEW.state, OLD.state), NEW.event, NEW.reason, OLD.version, NEW.version, false);
        IF e.event IN ('approve', 'reject') AND NEW.kind <> 'manual' THEN
            RAISE EXCEPTION 'gate % is decided by no person: % is not possible', OLD.id, e.event USING
                ERRCODE = 'NX001',
                DETAIL = jsonb_build_object('machine', 'gate', 'id', OLD.id, 'from', OLD.state, 'event', e.event, 'allowed',
                    (SELECT jsonb_agg(t.event ORDER BY t.event) FROM transition t
                     WHERE t.machine = 'gate' AND t.from_state = OLD.state AND t.event NOT IN ('approve', 'reject')));
        END IF;
        IF e.needs_lease THEN
            PERFORM check_lease('gate', OLD.id, OLD.tenant_id, OLD.step_id, v_fence);
        END IF;
        NEW.state := e.to_state;
        NEW.decided_at := clock_timestamp();
        NEW.decided_by := coalesce(nullif(current_setting('nofx.actor', true), ''), session_user);
    END IF;
    UPDATE run r SET event_seq = r.event_seq + 1 WHERE r.tenant_id = NEW.tenant_id AND r.id = NEW.run_id
    RETURNING r.event_seq, r.trace_id INTO v_seq, v_trace;
    NEW.trace_id := v_trace;
    PERFORM write_events(NEW.tenant_id, ARRAY[ROW(NEW.run_id, v_seq, NEW.step_id, 'gate.' || NEW.state, e.event,
        CASE WHEN TG_OP = 'UPDATE' THEN OLD.state END, e.to_state,
        jsonb_strip_nulls(jsonb_build_object('gate_id', public_id('gate', NEW.id), 'gate', NEW.name, 'kind', NEW.kind, 'round', NEW.round,
            'message', CASE WHEN TG_OP = 'INSERT' THEN left(NEW.message, 500) END, 'expires_at', public_time(NEW.expires_at))),
        NEW.reason, v_trace, nullif(v_fence, 0), cause())::nofx.new_event]);
    RETURN NEW;
END
$$;

-- Locks the gate's run, its step and then the gate.
CREATE OR REPLACE FUNCTION nofx.lock_gate(p_gate uuid) RETURNS nofx.locked_gate
    LANGUAGE plpgsql
AS $$
DECLARE
    g nofx.locked_gate;
BEGIN
    PERFORM lock_step(step_id) FROM gate WHERE tenant_id = tenant() AND id = p_gate;
    SELECT x.tenant_id, x.run_id, x.step_id, x.id, x.kind, x.state, x.version, s.fence, x.expires_at INTO g
    FROM gate x JOIN step s ON s.tenant_id = x.tenant_id AND s.id = x.step_id
    WHERE x.tenant_id = tenant() AND x.id = p_gate FOR NO KEY UPDATE OF x;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no gate %', p_gate USING ERRCODE = 'NX005', DETAIL = '{"noun":"gate"}';
    END IF;
    RETURN g;
END
$$;

CREATE OR REPLACE FUNCTION nofx.gate_transition(p_gate uuid, p_event text, p_reason text DEFAULT NULL, p_version bigint DEFAULT NULL, p_fence bigint DEFAULT NULL) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    g nofx.locked_gate := lock_gate(p_gate);
    e nofx.transition;
BEGIN
    PERFORM check_version(p_version, g.version, g.state);
    e := edge('gate', p_gate, g.state, p_event, p_reason);
    IF e.needs_lease THEN
        PERFORM check_fence(p_fence, g.fence);
    END IF;
    UPDATE gate SET event = p_event, version = version + 1, reason = p_reason
    WHERE tenant_id = g.tenant_id AND id = g.id RETURNING state INTO g.state;
    RETURN g.state;
END
$$;

CREATE OR REPLACE FUNCTION nofx.withdraw_gates(p_tenant uuid, p_run uuid, p_reason text) RETURNS void
    LANGUAGE plpgsql
AS $$
BEGIN
    UPDATE gate SET event = 'withdraw', version = version + 1, reason = p_reason
    WHERE tenant_id = p_tenant AND run_id = p_run AND state = 'pending';
END
$$;

-- Opens the next round of a step's gate and, if the verdict is known, records it.
CREATE OR REPLACE FUNCTION nofx.open_gate(s nofx.locked_step, g jsonb, p_expires timestamptz) RETURNS void
    LANGUAGE plpgsql
AS $$
BEGIN
    INSERT INTO gate (tenant_id, id, run_id, step_id, round, name, kind, message, input_digest, shown_checkpoint_id, shown_digest, evidence, expires_at, trace_id)
    VALUES (s.tenant_id, (g->>'id')::uuid, s.run_id, s.id,
        1 + coalesce((SELECT max(o.round) FROM gate o WHERE o.tenant_id = s.tenant_id AND o.step_id = s.id), 0),
        g->>'name', g->>'kind', g->>'message', g->>'input_digest', (g->>'shown_checkpoint_id')::uuid, g->>'shown_digest',
        g->'evidence', p_expires, repeat('0', 32));
    IF g ? 'event' THEN
        PERFORM gate_transition((g->>'id')::uuid, g->>'event', g->>'reason', NULL, s.fence);
    END IF;
END
$$;

-- Continues a run after the last of its failed gates was waived, whether the run has failed
-- or siblings still run. While another step of the run has failed, the waiver is only
-- recorded. A waiver of one round holds for later rounds that judged the same inputs.
CREATE OR REPLACE FUNCTION nofx.resume_after_waiver(p_tenant uuid, p_run uuid, p_reason text) RETURNS void
    LANGUAGE plpgsql
AS $$
DECLARE
    v_state text;
BEGIN
    SELECT state INTO v_state FROM run WHERE tenant_id = p_tenant AND id = p_run AND failed_steps > 0;
    IF NOT FOUND OR v_state = 'cancelled' OR EXISTS (
        SELECT FROM step s WHERE s.tenant_id = p_tenant AND s.run_id = p_run AND s.state = 'failed'
            AND ((SELECT w.input_digest FROM gate w WHERE w.tenant_id = p_tenant AND w.step_id = s.id AND w.state = 'waived' ORDER BY w.round DESC LIMIT 1)
                = (SELECT l.input_digest FROM gate l WHERE l.tenant_id = p_tenant AND l.step_id = s.id ORDER BY l.round DESC LIMIT 1)) IS NOT TRUE) THEN
        RETURN;
    END IF;
    IF v_state = 'failed' THEN
        PERFORM revive_run(p_tenant, p_run, 'retry', p_reason);
    END IF;
    PERFORM reopen_steps(p_tenant, p_run, p_reason);
END
$$;

-- Reports whether somebody is an author of what a run holds: of the run itself, of one that
-- it descends from, or of one that was merged into these.
CREATE OR REPLACE FUNCTION nofx.is_author(p_tenant uuid, p_run uuid, p_subject text) RETURNS boolean
    LANGUAGE plpgsql STABLE
AS $$
DECLARE
    v_seen uuid[] := ARRAY[p_run];
    v_next uuid[] := v_seen;
BEGIN
    WHILE v_next <> '{}' LOOP
        IF EXISTS (SELECT FROM unnest(v_next) AS n (id), LATERAL (
            SELECT FROM nofx.run r WHERE r.tenant_id = p_tenant AND r.id = n.id AND r.created_by = p_subject OFFSET 0) AS x) THEN
            RETURN true;
        END IF;
        v_next := ARRAY(SELECT DISTINCT x.id FROM unnest(v_next) AS n (id), LATERAL (
                SELECT r.parent_run_id AS id FROM nofx.run r WHERE r.tenant_id = p_tenant AND r.id = n.id AND r.parent_run_id IS NOT NULL
                UNION ALL SELECT m.source_run_id FROM nofx.merge m WHERE m.target_run_id = n.id AND m.tenant_id = p_tenant AND m.state = 'committed' OFFSET 0) AS x
            WHERE x.id <> ALL (v_seen));
        v_seen := v_seen || v_next;
    END LOOP;
    RETURN false;
END
$$;

-- Records a person's decision on a gate and its consequences in one transaction. A gate
-- that needs several approvals stays pending until the last one; one rejection ends it.
CREATE OR REPLACE FUNCTION nofx.decide_gate(p_gate uuid, p_event text, p_reason text, p_version bigint) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    g nofx.locked_gate := lock_gate(p_gate);
    v_actor text := nullif(current_setting('nofx.actor', true), '');
    v_name text := coalesce(subject_name(tenant(), v_actor), v_actor);
    v_settings jsonb;
    v_new boolean;
    v_given int;
    v_wanted int := 1;
BEGIN
    PERFORM check_version(p_version, g.version, g.state);
    IF p_event NOT IN ('approve', 'reject', 'waive') OR (g.state = 'pending' AND g.expires_at <= clock_timestamp()) THEN
        RAISE EXCEPTION 'gate % is %: % is not possible', p_gate, g.state, p_event USING
            ERRCODE = 'NX001',
            DETAIL = jsonb_build_object('machine', 'gate', 'id', p_gate, 'event', p_event, 'allowed', '[]'::jsonb,
                'from', CASE WHEN g.state = 'pending' AND g.expires_at <= clock_timestamp() THEN 'expired' ELSE g.state END);
    END IF;
    IF EXISTS (SELECT FROM gate n WHERE n.tenant_id = g.tenant_id AND n.step_id = g.step_id AND n.state = 'pending' AND n.id <> g.id) THEN
        RAISE EXCEPTION 'gate % has a newer round, which waits for a decision', p_gate USING
            ERRCODE = 'NX001',
            DETAIL = jsonb_build_object('machine', 'gate', 'id', p_gate, 'event', p_event, 'allowed', '[]'::jsonb, 'from', g.state);
    END IF;
    SELECT t.settings INTO v_settings FROM tenant t WHERE t.tenant_id = g.tenant_id;
    IF p_event = 'waive' AND NOT (v_settings->>'allow_waive')::boolean THEN
        RAISE EXCEPTION 'gates of this tenant are not waived' USING ERRCODE = 'NX022';
    END IF;
    IF p_event <> 'reject' AND (v_settings->>'four_eyes')::boolean AND is_author(g.tenant_id, g.run_id, v_actor) THEN
        RAISE EXCEPTION 'the author of a run may not approve or waive its gates' USING ERRCODE = 'NX009';
    END IF;
    PERFORM edge('gate', g.id, g.state, p_event, p_reason);
    INSERT INTO approval AS a (tenant_id, gate_id, subject, decision, reason)
    VALUES (g.tenant_id, g.id, v_actor, p_event, p_reason)
    ON CONFLICT (tenant_id, gate_id, subject) DO UPDATE SET decision = excluded.decision, reason = excluded.reason, at = clock_timestamp()
        WHERE a.decision <> excluded.decision;
    v_new := FOUND;
    IF g.kind = 'manual' AND g.state = 'pending' THEN
        SELECT w.quorum INTO v_wanted FROM wait w WHERE w.tenant_id = g.tenant_id AND w.step_id = g.step_id ORDER BY w.round DESC LIMIT 1;
        SELECT count(*) FILTER (WHERE a.decision = 'approve') INTO v_given FROM approval a WHERE a.tenant_id = g.tenant_id AND a.gate_id = g.id;
        IF v_new THEN
            PERFORM append_event(g.tenant_id, g.run_id, g.step_id, 'approval.decided', g.fence, jsonb_build_object(
                'gate_id', public_id('gate', g.id), 'decision', p_event, 'by', v_actor, 'by_name', v_name, 'given', v_given, 'wanted', v_wanted));
        END IF;
        IF p_event = 'approve' AND v_given < v_wanted THEN
            IF v_new THEN
                PERFORM audit('gate.approve', public_id('gate', g.id), p_reason, jsonb_build_object('status', g.state, 'version', g.version),
                    jsonb_build_object('status', g.state, 'version', g.version, 'given', v_given, 'wanted', v_wanted));
            END IF;
            RETURN;
        END IF;
    END IF;
    PERFORM gate_transition(p_gate, p_event, p_reason);
    IF g.state = 'pending' THEN
        UPDATE step SET outputs = jsonb_build_object('decision', p_event, 'by', v_actor, 'by_name', v_name, 'reason', coalesce(p_reason, ''))
        WHERE tenant_id = g.tenant_id AND id = g.step_id;
        PERFORM step_transition(g.step_id, p_event, p_reason, NULL, CASE WHEN p_event = 'reject' THEN 'gate_rejected' END);
        IF p_event <> 'reject' THEN
            PERFORM ready_successors(g.tenant_id, g.run_id, g.step_id);
        END IF;
        PERFORM settle_run(g.tenant_id, g.run_id, p_event = 'reject');
    ELSE
        -- Between two attempts the next one finds the waiver, and need not wait for long.
        UPDATE step SET event = 'backoff_elapsed', version = version + 1, ready_at = clock_timestamp()
        WHERE tenant_id = g.tenant_id AND id = g.step_id AND state = 'retrying';
        PERFORM resume_after_waiver(g.tenant_id, g.run_id, p_reason);
    END IF;
    PERFORM audit('gate.' || p_event, public_id('gate', g.id), p_reason, jsonb_build_object('status', g.state, 'version', g.version),
        (SELECT jsonb_build_object('status', x.state, 'version', x.version, 'given', v_given, 'wanted', v_wanted) FROM gate x WHERE x.tenant_id = g.tenant_id AND x.id = g.id));
END
$$;

GRANT EXECUTE ON FUNCTION
    nofx.decide_gate(uuid, text, text, bigint)
TO nofx_gateway;

GRANT EXECUTE ON FUNCTION
    nofx.gate_guard()
TO nofx_owner;

SET LOCAL ROLE nofx_owner;

CREATE OR REPLACE TRIGGER gate_guard BEFORE INSERT OR UPDATE OF state, event, version ON nofx.gate
    FOR EACH ROW EXECUTE FUNCTION nofx.gate_guard();

SET LOCAL ROLE nofx_system;
