-- Retention: what runs that ended long ago have left goes run by run, in small
-- batches (EXECUTION.md, Tables). Runs, steps, attempts, effects, gates, checkpoints
-- and artifacts stay; step logs and events go, and the run says how far. Signals go
-- by a time of their own.
SET LOCAL ROLE nofx_owner;

-- The newest transaction of which an event was deleted. A tenant's feed is whole
-- behind it; a cursor before it has lost events.
CREATE TABLE nofx.event_horizon (
    tenant_id uuid PRIMARY KEY REFERENCES nofx.tenant,
    xid       xid8 NOT NULL
);
CALL nofx.guard_tenant('nofx.event_horizon');
GRANT SELECT ON nofx.event_horizon TO nofx_app;

RESET ROLE;
