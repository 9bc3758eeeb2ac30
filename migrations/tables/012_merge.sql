-- Merges of one run's checkpoints into another's, and their conflicts (CHECKPOINTS.md).
SET LOCAL ROLE nofx_owner;

CREATE TABLE nofx.merge (
    tenant_id               uuid NOT NULL,
    id                      uuid NOT NULL,
    target_run_id           uuid NOT NULL,
    source_run_id           uuid NOT NULL,
    target_head             uuid NOT NULL, -- the heads of the runs that are merged
    source_head             uuid NOT NULL,
    target_leaves           uuid[] NOT NULL, -- the checkpoints of each that no other of it descends from: the head and, after parallel steps, more
    source_leaves           uuid[] NOT NULL,
    base_id                 uuid NOT NULL,
    state                   text NOT NULL DEFAULT 'open',
    event                   text,
    version                 bigint NOT NULL DEFAULT 1,
    strategy                text NOT NULL CHECK (strategy IN ('manual', 'ours', 'theirs')),
    mode                    text NOT NULL CHECK (mode IN ('normal', 'strict')),
    asked_base_id           uuid, -- the base that the caller named
    work_run_id             uuid, -- the system run that computes it, or did last
    outcome                 text CHECK (outcome IN ('up_to_date', 'fast_forward', 'clean', 'conflicted')), -- NULL: not computed yet
    conflicts               int NOT NULL DEFAULT 0,
    open_conflicts          int NOT NULL DEFAULT 0, -- those without a resolution
    preview                 jsonb,
    result_tree             text, -- the result, once all is decided and its bytes are stored
    result_state            text,
    prepared                jsonb, -- checkpoints that the commit inserts, the last one is the merge's own
    committed_checkpoint_id uuid,
    failure_code            text, -- why it cannot be computed
    reason                  text CHECK (length(reason) <= 2048),
    created_by              text NOT NULL,
    created_at              timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at              timestamptz NOT NULL DEFAULT clock_timestamp(),
    FOREIGN KEY (tenant_id, target_run_id) REFERENCES nofx.run (tenant_id, id),
    FOREIGN KEY (tenant_id, source_run_id) REFERENCES nofx.run (tenant_id, id),
    CHECK (target_run_id <> source_run_id),
    CHECK ((result_tree IS NULL) = (prepared IS NULL) AND (result_tree IS NULL) = (result_state IS NULL))
);
CREATE INDEX merge_target ON nofx.merge (target_run_id, tenant_id, id); -- merges of a run; create_merge
CREATE INDEX merge_source ON nofx.merge (source_run_id, tenant_id, id); -- the foreign key
CREATE INDEX merge_prepared ON nofx.merge (tenant_id) WHERE state = 'ready' AND prepared IS NOT NULL; -- roots of the collection
ALTER TABLE nofx.merge ADD PRIMARY KEY (tenant_id, id);
CALL nofx.guard_tenant('nofx.merge');
GRANT SELECT ON nofx.merge TO nofx_app;

CREATE TABLE nofx.merge_conflict (
    tenant_id   uuid NOT NULL,
    merge_id    uuid NOT NULL,
    n           int NOT NULL, -- its place among the conflicts, from 1
    unit        text NOT NULL CHECK (unit IN ('path', 'pointer')),
    at          text NOT NULL,
    kind        text NOT NULL,
    line        int,
    renamed_to  text,
    takes       text[] NOT NULL, -- the resolutions that are possible
    base        jsonb, -- what each side has there, as clients see it; NULL: nothing
    ours        jsonb,
    theirs      jsonb,
    resolution  text CHECK (resolution = ANY (takes)), -- NULL: none yet
    value       text, -- of a resolution by value: JSON for a pointer, the content for a path
    artifact_id uuid,
    resolved_by text,
    reason      text, -- why the resolution that there was does not stand any more
    PRIMARY KEY (tenant_id, merge_id, n),
    FOREIGN KEY (tenant_id, merge_id) REFERENCES nofx.merge (tenant_id, id)
);
CREATE UNIQUE INDEX merge_conflict_at ON nofx.merge_conflict (tenant_id, merge_id, unit, md5(at), kind); -- resolve_merge
CALL nofx.guard_tenant('nofx.merge_conflict');
GRANT SELECT ON nofx.merge_conflict TO nofx_app;

RESET ROLE;
