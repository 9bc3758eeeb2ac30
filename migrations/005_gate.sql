-- Gates, the decisions on them, and idempotency of requests.
SET LOCAL ROLE nofx_owner;

CREATE TABLE nofx.gate (
    tenant_id           uuid NOT NULL,
    id                  uuid NOT NULL,
    run_id              uuid NOT NULL,
    step_id             uuid NOT NULL,
    round               int NOT NULL,
    name                text NOT NULL,
    kind                text NOT NULL CHECK (kind IN ('command', 'review', 'manual')),
    state               text NOT NULL DEFAULT 'pending',
    event               text,
    version             bigint NOT NULL DEFAULT 1,
    message             text,
    input_digest        text NOT NULL,
    shown_checkpoint_id uuid,
    shown_digest        text,
    evidence            jsonb,
    evidence_bytes      int GENERATED ALWAYS AS (octet_length(evidence::text)) STORED, -- known without reading it
    expires_at          timestamptz,
    trace_id            char(32) NOT NULL,
    decided_by          text,
    decided_at          timestamptz,
    reason              text CHECK (length(reason) <= 2048),
    created_at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    FOREIGN KEY (tenant_id, run_id) REFERENCES nofx.run (tenant_id, id),
    FOREIGN KEY (tenant_id, step_id) REFERENCES nofx.step (tenant_id, id),
    FOREIGN KEY (tenant_id, shown_checkpoint_id) REFERENCES nofx.checkpoint (tenant_id, id),
    CHECK (kind <> 'manual' OR expires_at IS NOT NULL)
);
CREATE INDEX gate_inbox ON nofx.gate (tenant_id, state, id);
ALTER TABLE nofx.gate ADD PRIMARY KEY (tenant_id, id), ADD UNIQUE (step_id, tenant_id, round);
CREATE INDEX gate_run ON nofx.gate (run_id, tenant_id, id);
CALL nofx.guard_tenant('nofx.gate');
GRANT SELECT ON nofx.gate TO nofx_app;

CREATE TABLE nofx.approval (
    tenant_id uuid NOT NULL,
    gate_id   uuid NOT NULL,
    subject   text NOT NULL,
    decision  text NOT NULL CHECK (decision IN ('approve', 'reject', 'waive')),
    reason    text,
    at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, gate_id, subject),
    FOREIGN KEY (tenant_id, gate_id) REFERENCES nofx.gate (tenant_id, id)
);
CALL nofx.guard_tenant('nofx.approval');
GRANT SELECT ON nofx.approval TO nofx_app;

CREATE TABLE nofx.idempotency_key (
    tenant_id   uuid NOT NULL REFERENCES nofx.tenant,
    scope       text NOT NULL,
    key         text NOT NULL CHECK (octet_length(key) <= 255),
    fingerprint bytea NOT NULL CHECK (octet_length(fingerprint) = 32),
    status      int NOT NULL,
    headers     jsonb NOT NULL,
    body        bytea NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at  timestamptz NOT NULL DEFAULT clock_timestamp() + interval '48 hours',
    PRIMARY KEY (tenant_id, scope, key)
);
CREATE INDEX idempotency_key_expiry ON nofx.idempotency_key (expires_at);
CALL nofx.guard_tenant('nofx.idempotency_key');
GRANT SELECT, INSERT ON nofx.idempotency_key TO nofx_app;

RESET ROLE;
SET LOCAL ROLE nofx_system;

-- Claims a key until the end of the transaction, unless another has it, and then
-- looks for the answer stored under it. Two statements, since the second must see
-- what the other has committed meanwhile.
CREATE FUNCTION nofx.find_answer(p_scope text, p_key text, OUT mine boolean, OUT fingerprint bytea, OUT status int, OUT headers jsonb, OUT body bytea)
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
GRANT EXECUTE ON FUNCTION nofx.find_answer(text, text) TO nofx_app;

-- The net under every writer of a gate's state.
CREATE FUNCTION nofx.gate_guard() RETURNS trigger
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
        IF NEW.version <> OLD.version + 1 THEN
            RAISE EXCEPTION 'gate %: version % does not follow %', OLD.id, NEW.version, OLD.version USING ERRCODE = 'NX006';
        END IF;
        e := edge('gate', OLD.id, OLD.state, NEW.event, NEW.reason);
        IF NEW.state NOT IN (OLD.state, e.to_state) THEN
            RAISE EXCEPTION 'gate %: % leads from % to %, not to %', OLD.id, e.event, OLD.state, e.to_state, NEW.state USING ERRCODE = 'NX006';
        END IF;
        IF e.event IN ('approve', 'reject') AND NEW.kind <> 'manual' THEN
            RAISE EXCEPTION 'gate % is decided by no person: % is not possible', OLD.id, e.event USING
                ERRCODE = 'NX001',
                DETAIL = jsonb_build_object('machine', 'gate', 'id', OLD.id, 'from', OLD.state, 'event', e.event, 'allowed',
                    (SELECT jsonb_agg(t.event ORDER BY t.event) FROM transition t
                     WHERE t.machine = 'gate' AND t.from_state = OLD.state AND t.event NOT IN ('approve', 'reject')));
        END IF;
        IF e.needs_lease AND NOT EXISTS (
            SELECT FROM step_lease l WHERE l.tenant_id = OLD.tenant_id AND l.step_id = OLD.step_id
                AND l.fence = v_fence AND l.lease_until > clock_timestamp()) THEN
            RAISE EXCEPTION 'gate %: no live lease under fence %', OLD.id, v_fence USING
                ERRCODE = 'NX004', DETAIL = jsonb_build_object('fence', v_fence, 'current', v_fence);
        END IF;
        NEW.state := e.to_state;
        NEW.decided_at := clock_timestamp();
        NEW.decided_by := coalesce(nullif(current_setting('nofx.actor', true), ''), session_user);
    END IF;
    UPDATE run r SET event_seq = r.event_seq + 1 WHERE r.tenant_id = NEW.tenant_id AND r.id = NEW.run_id
    RETURNING r.event_seq, r.trace_id INTO v_seq, v_trace;
    NEW.trace_id := v_trace;
    PERFORM write_event(NEW.tenant_id, NEW.run_id, v_seq, NEW.step_id, 'gate.' || NEW.state, e.event,
        CASE WHEN TG_OP = 'UPDATE' THEN OLD.state END, e.to_state, NEW.reason, v_trace, nullif(v_fence, 0),
        jsonb_strip_nulls(jsonb_build_object('gate_id', public_id('gate', NEW.id), 'gate', NEW.name, 'kind', NEW.kind, 'round', NEW.round,
            'message', CASE WHEN TG_OP = 'INSERT' THEN left(NEW.message, 500) END, 'expires_at', public_time(NEW.expires_at))));
    RETURN NEW;
END
$$;
GRANT EXECUTE ON FUNCTION nofx.gate_guard() TO nofx_owner;

RESET ROLE;
SET LOCAL ROLE nofx_owner;

CREATE TRIGGER gate_guard BEFORE INSERT OR UPDATE OF state, event, version ON nofx.gate
    FOR EACH ROW EXECUTE FUNCTION nofx.gate_guard();

RESET ROLE;
