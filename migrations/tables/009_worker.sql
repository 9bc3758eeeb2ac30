-- Workers: their rights on River's jobs, the time when one of them last reached the
-- database, and the list of workers.

-- River's tables belong to the role that migrates. Workers run its client; gateways insert
-- jobs, and delete those of cancelled runs.
GRANT USAGE ON SCHEMA river TO nofx_app, nofx_system;
GRANT SELECT ON ALL TABLES IN SCHEMA river TO nofx_app;
GRANT INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA river TO nofx_worker;
GRANT INSERT, UPDATE (kind), DELETE ON river.river_job TO nofx_gateway; -- River's inserts set kind where a job exists
GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA river TO nofx_app;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA river TO nofx_app;
GRANT SELECT, UPDATE (state, finalized_at) ON river.river_job TO nofx_system;
GRANT SELECT ON river.river_queue TO nofx_system;
-- The same for tables that a later release of River adds.
ALTER DEFAULT PRIVILEGES IN SCHEMA river GRANT SELECT ON TABLES TO nofx_app;
ALTER DEFAULT PRIVILEGES IN SCHEMA river GRANT INSERT, UPDATE, DELETE ON TABLES TO nofx_worker;
ALTER DEFAULT PRIVILEGES IN SCHEMA river GRANT USAGE, SELECT ON SEQUENCES TO nofx_app;
ALTER TABLE river.river_job SET (autovacuum_vacuum_scale_factor = 0.01);
-- Nothing here searches jobs by their arguments or metadata, and a GIN index keeps every
-- key that it ever had: it would grow for ever with the number of all jobs. The other
-- indexes reuse the pages of deleted jobs and need no rebuild.
DROP INDEX river.river_job_args_index, river.river_job_metadata_index;

SET LOCAL ROLE nofx_owner;

-- The time when workers last reached the database, and the time since when they do so again
-- after a silence of all workers. Each heartbeat and each search for expired leases records
-- it. A crash or a failover loses it, which counts as a silence.
CREATE UNLOGGED TABLE nofx.contact (
    one        boolean PRIMARY KEY DEFAULT true CHECK (one),
    seen_at    timestamptz NOT NULL,
    resumed_at timestamptz NOT NULL
) WITH (fillfactor = 10);

-- The list of workers, from their own reports. It has no tenant, and logins read it only
-- through functions. After a crash of the database, workers report again within seconds.
CREATE UNLOGGED TABLE nofx.worker (
    id           text PRIMARY KEY, -- as on leases and attempts
    pid          int NOT NULL,
    host         text NOT NULL,
    version      text NOT NULL,
    queues       text[] NOT NULL,
    slots_max    int NOT NULL,
    sandbox_tier int NOT NULL,
    tier_wanted  int NOT NULL DEFAULT 0, -- the least tier, where the sandbox is below it and the worker leaves queue step to others; else 0
    draining     boolean NOT NULL,
    waits_for    text NOT NULL DEFAULT '', -- what it waits for, such as storage
    lost         boolean NOT NULL DEFAULT false, -- one of its leases has expired since its last report
    gone         boolean NOT NULL DEFAULT false, -- it took leave: a word of before that comes late is not heeded
    started_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at      timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);

RESET ROLE;
