-- The audit log: who did what that has consequences for others (SECURITY.md §9). The rows of
-- a tenant are a chain: each holds the hash of the row before it. Rows are only added, by the
-- functions that do what they tell.
SET LOCAL ROLE nofx_owner;

CREATE TABLE nofx.audit (
    tenant_id uuid NOT NULL REFERENCES nofx.tenant,
    seq       bigint NOT NULL CHECK (seq > 0), -- without gaps
    at        timestamptz NOT NULL,
    actor     text NOT NULL CHECK (length(actor) BETWEEN 1 AND 512),
    via       text NOT NULL CHECK (length(via) BETWEEN 1 AND 64), -- how the actor authenticated
    act       text NOT NULL CHECK (act ~ '^[a-z_]+([.][a-z_]+)?$' AND length(act) <= 64),
    object    text NOT NULL CHECK (length(object) BETWEEN 1 AND 1024), -- that it was done to, by the id that clients know
    reason    text CHECK (length(reason) <= 2048),
    before    jsonb CHECK (octet_length(before::text) <= 16384), -- of what is secret or long, a digest
    after     jsonb CHECK (octet_length(after::text) <= 16384),
    trace_id  text CHECK (length(trace_id) = 32),
    prev_hash bytea NOT NULL CHECK (length(prev_hash) = 32), -- of the row before; of the first, zeros
    hash      bytea NOT NULL CHECK (length(hash) = 32), -- audit_hash
    PRIMARY KEY (tenant_id, seq)
);
CREATE INDEX audit_act ON nofx.audit (tenant_id, act, seq DESC); -- the log by act
CREATE INDEX audit_actor ON nofx.audit (tenant_id, actor, seq DESC); -- the log by actor
CREATE INDEX audit_at ON nofx.audit (tenant_id, at); -- the log of a time
CALL nofx.guard_tenant('nofx.audit');
GRANT SELECT ON nofx.audit TO nofx_app;
REVOKE UPDATE, DELETE ON nofx.audit FROM nofx_system;

-- The newest row of each chain, and the newest one whose hash is in object storage too.
CREATE TABLE nofx.audit_head (
    tenant_id    uuid PRIMARY KEY REFERENCES nofx.tenant,
    seq          bigint NOT NULL DEFAULT 0,
    hash         bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex'),
    anchored_seq bigint NOT NULL DEFAULT 0,
    anchored_on  date -- UTC
) WITH (fillfactor = 50);
CALL nofx.guard_tenant('nofx.audit_head');

-- How often an actor was refused something in a minute: only the first times have rows each.
CREATE TABLE nofx.audit_denial (
    tenant_id uuid NOT NULL REFERENCES nofx.tenant,
    actor     text NOT NULL,
    minute    timestamptz NOT NULL,
    attempts  int NOT NULL,
    PRIMARY KEY (tenant_id, actor)
) WITH (fillfactor = 50);
CALL nofx.guard_tenant('nofx.audit_denial');

RESET ROLE;
