-- Requests of steps to other services, so that each is done once (EXECUTION.md, Effects): a
-- step may run again, but an effect recorded here as done is not repeated.
SET LOCAL ROLE nofx_owner;

CREATE TABLE nofx.step_effect (
    tenant_id      uuid NOT NULL,
    run_id         uuid NOT NULL,
    step_name      text NOT NULL,
    name           text NOT NULL,  -- what kind of effect, such as http
    key            text NOT NULL CHECK (octet_length(key) <= 255), -- the key that the provider gets, on every attempt
    fence          bigint NOT NULL, -- of the attempt that began it last; done: that did it
    state          text NOT NULL DEFAULT 'begun' CHECK (state IN ('begun', 'done')),
    request_digest text NOT NULL CHECK (request_digest ~ '^sha256:[0-9a-f]{64}$'),
    result         jsonb CHECK (pg_column_size(result) <= 262144),
    begun_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    done_at        timestamptz,
    PRIMARY KEY (tenant_id, key),
    FOREIGN KEY (tenant_id, run_id) REFERENCES nofx.run (tenant_id, id),
    CHECK ((state = 'done') = (done_at IS NOT NULL AND result IS NOT NULL))
);
CREATE INDEX step_effect_run ON nofx.step_effect (run_id, tenant_id, step_name); -- effects of a run
CALL nofx.guard_tenant('nofx.step_effect');
GRANT SELECT ON nofx.step_effect TO nofx_app;

RESET ROLE;
