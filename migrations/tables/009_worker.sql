-- Workers: what they may do with River's jobs, when one of them last reached the
-- database, and which there are.

-- River's tables belong to whoever migrates; both processes use them as nofx_app.
GRANT USAGE ON SCHEMA river TO nofx_app, nofx_system;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA river TO nofx_app;
GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA river TO nofx_app;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA river TO nofx_app;
GRANT SELECT, UPDATE (state, finalized_at) ON river.river_job TO nofx_system;
GRANT SELECT ON river.river_queue TO nofx_system;
-- And what a later release of River adds.
ALTER DEFAULT PRIVILEGES IN SCHEMA river GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO nofx_app;
ALTER DEFAULT PRIVILEGES IN SCHEMA river GRANT USAGE, SELECT ON SEQUENCES TO nofx_app;
ALTER TABLE river.river_job SET (autovacuum_vacuum_scale_factor = 0.01);
-- Nothing here searches jobs by their arguments or metadata, and a GIN index keeps
-- every key that it ever had: it would grow with the number of all jobs for ever. The
-- others reuse the pages of deleted jobs, so nobody has to rebuild them.
DROP INDEX river.river_job_args_index, river.river_job_metadata_index;

SET LOCAL ROLE nofx_owner;

-- When workers last reached the database, and since when they do so again after a
-- silence of all of them. Each heartbeat and each look for expired leases notes it. A
-- crash or a failover forgets it, which counts as a silence.
CREATE UNLOGGED TABLE nofx.contact (
    one        boolean PRIMARY KEY DEFAULT true CHECK (one),
    seen_at    timestamptz NOT NULL,
    resumed_at timestamptz NOT NULL
) WITH (fillfactor = 10);

-- Which workers there are, as they say of themselves. It is nobody's data, so it
-- has no tenant, and nofx_app sees it through functions alone; and what a crash of
-- the database forgets they say again within seconds.
CREATE UNLOGGED TABLE nofx.worker (
    id           text PRIMARY KEY, -- as on leases and attempts
    pid          int NOT NULL,
    host         text NOT NULL,
    version      text NOT NULL,
    queues       text[] NOT NULL,
    slots_max    int NOT NULL,
    sandbox_tier int NOT NULL,
    draining     boolean NOT NULL,
    waits_for    text NOT NULL DEFAULT '', -- what it needs and has not now, as storage
    lost         boolean NOT NULL DEFAULT false, -- a lease of it ran out since it last said something
    gone         boolean NOT NULL DEFAULT false, -- it took leave: a word of before that comes late is not heeded
    started_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at      timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);

RESET ROLE;
