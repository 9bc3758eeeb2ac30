-- Answers to requests, kept under the key that the client chose for its request.
SET LOCAL ROLE nofx_owner;

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
CREATE INDEX idempotency_key_expiry ON nofx.idempotency_key (expires_at); -- delete_expired
CALL nofx.guard_tenant('nofx.idempotency_key');
GRANT SELECT ON nofx.idempotency_key TO nofx_app;
GRANT INSERT ON nofx.idempotency_key TO nofx_gateway;

RESET ROLE;
