-- Retention: runs that ended long ago are deleted run by run, in small batches
-- (EXECUTION.md, Tables). Step logs and events go first, and the run records up to which
-- seq; the rest follows unless something needs the run. Signals have their own expiry.
SET LOCAL ROLE nofx_owner;

-- The newest transaction of which an event was deleted. A tenant's feed is complete after
-- it; a cursor before it has lost events.
CREATE TABLE nofx.event_horizon (
    tenant_id uuid PRIMARY KEY REFERENCES nofx.tenant,
    xid       xid8 NOT NULL
);
CALL nofx.guard_tenant('nofx.event_horizon');
GRANT SELECT ON nofx.event_horizon TO nofx_app;

RESET ROLE;
