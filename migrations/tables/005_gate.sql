-- Gates and the decisions on them.
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
CREATE INDEX gate_inbox ON nofx.gate (tenant_id, state, id); -- lists of gates by state
ALTER TABLE nofx.gate ADD PRIMARY KEY (tenant_id, id), ADD UNIQUE (step_id, tenant_id, round);
CREATE INDEX gate_run ON nofx.gate (run_id, tenant_id, id); -- gates of a run; withdraw_gates
CREATE INDEX gate_shown ON nofx.gate (shown_checkpoint_id) WHERE shown_checkpoint_id IS NOT NULL; -- the foreign key, when a checkpoint is deleted
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

RESET ROLE;
