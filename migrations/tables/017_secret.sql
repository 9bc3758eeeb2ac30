-- Secrets of tenants that plans name: sealed by shared/seal, under a key that is not in the
-- database. What is sealed is bound to tenant, name and version.
SET LOCAL ROLE nofx_owner;

CREATE TABLE nofx.secret (
    tenant_id  uuid NOT NULL REFERENCES nofx.tenant,
    name       text NOT NULL CHECK (name ~ '^[A-Za-z_][A-Za-z0-9_]{0,127}$'),
    version    bigint NOT NULL,
    sealed     bytea CHECK (octet_length(sealed) BETWEEN 1 AND 70000), -- NULL: deleted; the row stays, so that no version comes twice
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_by text NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, name)
);
CALL nofx.guard_tenant('nofx.secret');
GRANT SELECT ON nofx.secret TO nofx_app;

-- What secrets were before they were set again: runs that got an older value mask it.
CREATE TABLE nofx.secret_past (
    tenant_id  uuid NOT NULL,
    name       text NOT NULL,
    version    bigint NOT NULL,
    sealed     bytea NOT NULL CHECK (octet_length(sealed) BETWEEN 1 AND 70000),
    retired_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, name, version),
    FOREIGN KEY (tenant_id, name) REFERENCES nofx.secret (tenant_id, name)
);
CALL nofx.guard_tenant('nofx.secret_past');
GRANT SELECT ON nofx.secret_past TO nofx_app;

RESET ROLE;
