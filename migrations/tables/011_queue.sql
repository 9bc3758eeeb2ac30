-- A tenant's pause of a queue: workers claim no step of the tenant from it, and continue
-- with those of other tenants. River's own pause, in river.river_queue, stops a queue of
-- the whole installation and is not for tenants.
--
-- Jobs stay no longer than usual, since they would stand before those of other tenants.
-- A claim that finds its queue paused parks the step instead: it stays ready, due at
-- infinity, where no sweep looks, so a backlog costs nothing while it waits. To resume
-- gives parked steps new wake-ups: some at once, the rest in batches by every worker.
-- The row stays until none is left, so nothing is lost with a process.
SET LOCAL ROLE nofx_owner;

CREATE TABLE nofx.queue_pause (
    tenant_id  uuid NOT NULL REFERENCES nofx.tenant,
    queue      text NOT NULL,
    paused_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    paused_by  text NOT NULL,
    reason     text CHECK (length(reason) <= 2048),
    resumed_at timestamptz, -- not NULL: parked steps are being woken
    PRIMARY KEY (tenant_id, queue)
);
CALL nofx.guard_tenant('nofx.queue_pause');
GRANT SELECT ON nofx.queue_pause TO nofx_app;
-- The steps of a tenant that wait in a queue: ready, parked, or waiting for a retry. With
-- the id in descending order, only this index has the order requested below. The index
-- step_due looks as good while one tenant has all the steps, but would also read steps of
-- other tenants. The condition on the queue, true for every step, keeps the sweep from
-- using this index instead of step_due.
CREATE INDEX step_backlog ON nofx.step (tenant_id, queue, due_at, id DESC) WHERE due_at IS NOT NULL AND queue <> '';
CREATE INDEX step_backoff ON nofx.step (tenant_id, queue, retry_at, id) WHERE retry_at IS NOT NULL AND queue <> '';

RESET ROLE;
