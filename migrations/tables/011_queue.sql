-- A tenant's pause of a queue: workers claim no step of the tenant from it, and go on
-- with everybody else's. River's own pause, in river.river_queue, stops a queue of the
-- whole installation and is not for tenants.
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
-- What of a tenant waits in a queue: steps that are ready or parked, and to be retried.
-- With the id backwards it alone has the order that is asked for below: by step_due,
-- which looks as good while one tenant has all the steps, others' would be read too.
-- And the condition on the queue, true of every step, keeps the sweep from using this
-- index in place of step_due.
CREATE INDEX step_backlog ON nofx.step (tenant_id, queue, due_at, id DESC) WHERE due_at IS NOT NULL AND queue <> '';
CREATE INDEX step_backoff ON nofx.step (tenant_id, queue, retry_at, id) WHERE retry_at IS NOT NULL AND queue <> '';

RESET ROLE;
