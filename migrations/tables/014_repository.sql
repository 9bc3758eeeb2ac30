-- Repositories of forges whose webhooks start reviews, and the deliveries of the webhooks.
SET LOCAL ROLE nofx_owner;

CREATE TABLE nofx.repository (
    tenant_id      uuid NOT NULL REFERENCES nofx.tenant,
    id             uuid NOT NULL,
    provider       text NOT NULL CHECK (provider IN ('github', 'bitbucket')),
    name           text NOT NULL CHECK (length(name) BETWEEN 3 AND 201), -- OWNER/NAME
    project_id     uuid NOT NULL,
    enabled        boolean NOT NULL DEFAULT true,
    policy         text CHECK (octet_length(policy) <= 262144), -- of its reviews, for what its own .nofx/review.yaml leaves out
    secret_version int NOT NULL DEFAULT 1, -- of the webhook's secret, which gateways derive and nobody stores
    credential     text CHECK (credential ~ '^[a-z0-9][a-z0-9-]{0,62}$'), -- name of a token of the workers; NULL: their own
    version        bigint NOT NULL DEFAULT 1,
    created_by     text NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, project_id) REFERENCES nofx.project (tenant_id, id)
);
CREATE UNIQUE INDEX repository_name ON nofx.repository (tenant_id, provider, lower(name));
CREATE INDEX repository_id ON nofx.repository (id, tenant_id); -- find_repository
CREATE INDEX repository_project ON nofx.repository (tenant_id, project_id); -- the foreign key
CALL nofx.guard_tenant('nofx.repository');
GRANT SELECT ON nofx.repository TO nofx_app;

CREATE TABLE nofx.webhook_delivery (
    tenant_id     uuid NOT NULL,
    repository_id uuid NOT NULL,
    delivery      text NOT NULL CHECK (length(delivery) BETWEEN 1 AND 128), -- the forge's id of it
    event         text NOT NULL CHECK (length(event) BETWEEN 1 AND 64),
    pull_request  int, -- that it is about
    subject_at    timestamptz, -- when that changed
    result        text CHECK (result IN ('started', 'settled', 'exists', 'skipped', 'ignored', 'stale')),
    review_id     uuid,
    received_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, repository_id, delivery),
    FOREIGN KEY (tenant_id, repository_id) REFERENCES nofx.repository (tenant_id, id)
);
CREATE INDEX webhook_delivery_age ON nofx.webhook_delivery (tenant_id, repository_id, received_at); -- begin_delivery deletes old ones; the newest of a repository
CREATE INDEX webhook_delivery_pull ON nofx.webhook_delivery (tenant_id, repository_id, pull_request, subject_at) WHERE pull_request IS NOT NULL; -- stale ones
CALL nofx.guard_tenant('nofx.webhook_delivery');
GRANT SELECT ON nofx.webhook_delivery TO nofx_app;

-- What the MCP server of a forge announced when it was first used, at one version.
CREATE TABLE nofx.tool_pin (
    tenant_id uuid NOT NULL REFERENCES nofx.tenant,
    provider  text NOT NULL CHECK (provider IN ('github', 'bitbucket')),
    server    text NOT NULL CHECK (length(server) <= 256), -- name and version
    session   text NOT NULL, -- what it is used for, and which tools are looked at
    tools     jsonb NOT NULL, -- digests of what they take and return, by name
    pinned_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, provider, server, session)
);
CALL nofx.guard_tenant('nofx.tool_pin');
GRANT SELECT ON nofx.tool_pin TO nofx_app;

RESET ROLE;
