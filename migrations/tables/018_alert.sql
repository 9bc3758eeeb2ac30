-- Endpoints of tenants that are told of events by signed requests, and these requests. An
-- endpoint's secret is sealed by shared/seal, under a key that is not in the database, and
-- bound to tenant, endpoint and version.
SET LOCAL ROLE nofx_owner;

CREATE TABLE nofx.alert_endpoint (
    tenant_id       uuid NOT NULL REFERENCES nofx.tenant,
    id              uuid NOT NULL,
    url             text NOT NULL CHECK (length(url) BETWEEN 1 AND 2048),
    events          text[] NOT NULL CHECK (cardinality(events) BETWEEN 1 AND 64),
    state           text NOT NULL DEFAULT 'enabled' CHECK (state IN ('enabled', 'disabled')),
    disabled_reason text CHECK (disabled_reason IN ('request', 'gone', 'failing')),
    failing_since   timestamptz, -- NULL: the last delivery arrived, or there was none
    dropped_at      timestamptz, -- when an event was last left out, because too many waited; to the minute
    secret_version  bigint NOT NULL DEFAULT 1,
    sealed          bytea NOT NULL CHECK (octet_length(sealed) BETWEEN 1 AND 1000),
    sealed_past     bytea CHECK (octet_length(sealed_past) BETWEEN 1 AND 1000), -- the secret of the version before
    past_until      timestamptz CHECK ((past_until IS NULL) = (sealed_past IS NULL)), -- until then both sign
    version         bigint NOT NULL DEFAULT 1,
    created_by      text NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK ((state = 'disabled') = (disabled_reason IS NOT NULL)),
    PRIMARY KEY (tenant_id, id)
);
CREATE INDEX alert_endpoint_past ON nofx.alert_endpoint (past_until) WHERE past_until IS NOT NULL; -- expire_alerts
CALL nofx.guard_tenant('nofx.alert_endpoint');
GRANT SELECT ON nofx.alert_endpoint TO nofx_app;

-- One event for one endpoint. It is written in the transaction of the event.
CREATE TABLE nofx.alert_delivery (
    tenant_id        uuid NOT NULL,
    endpoint_id      uuid NOT NULL,
    id               uuid NOT NULL, -- of the message, the same at all attempts
    event            text NOT NULL CHECK (length(event) BETWEEN 1 AND 64),
    data             jsonb NOT NULL, -- ids, states and names; at most 4 KiB
    at               timestamptz NOT NULL DEFAULT clock_timestamp(),
    state            text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'delivered', 'failed')),
    due_at           timestamptz DEFAULT clock_timestamp(), -- the next attempt; while a worker has it, when another may take it
    worker_id        text, -- that has it
    attempt          int NOT NULL DEFAULT 0, -- the last one that was begun
    tried_at         timestamptz, -- the end of the last attempt, and what came of it
    duration_ms      int,
    response_code    int,
    response_excerpt text CHECK (octet_length(response_excerpt) <= 1024),
    error            text CHECK (length(error) <= 200), -- why there was no answer, or none that counts
    CHECK ((state = 'pending') = (due_at IS NOT NULL)),
    CHECK (pg_column_size(data) <= 4096),
    FOREIGN KEY (tenant_id, endpoint_id) REFERENCES nofx.alert_endpoint (tenant_id, id)
);
CREATE INDEX alert_delivery_age ON nofx.alert_delivery (at); -- expire_alerts
CREATE INDEX alert_delivery_due ON nofx.alert_delivery (tenant_id, endpoint_id, due_at) WHERE due_at IS NOT NULL; -- claim_alerts, queue_alert
CREATE INDEX alert_delivery_taken ON nofx.alert_delivery (tenant_id, endpoint_id, due_at) WHERE worker_id IS NOT NULL; -- claim_alerts
ALTER TABLE nofx.alert_delivery ADD PRIMARY KEY (tenant_id, endpoint_id, id);
CALL nofx.guard_tenant('nofx.alert_delivery');
GRANT SELECT ON nofx.alert_delivery TO nofx_app;

RESET ROLE;
