-- Checkpoints and the bytes they name: blobs, objects, artifacts, step logs
-- (CHECKPOINTS.md). Rows come second: their objects are in storage already.
SET LOCAL ROLE nofx_owner;

-- Written only by nofx.store_checkpoint, which checks the values, and nofx.mark_checkpoint,
-- under the lock of the run.
CREATE TABLE nofx.checkpoint (
    tenant_id    uuid NOT NULL,
    id           uuid NOT NULL,
    run_id       uuid NOT NULL,
    seq          bigint NOT NULL, -- that of its checkpoint.created event
    kind         text NOT NULL,
    step_id      uuid,
    fence        bigint,
    generation   int NOT NULL,
    digest       text NOT NULL,
    manifest     bytea NOT NULL,
    state_digest text NOT NULL,
    state_inline bytea, -- NULL: a blob of that digest
    tree_digest  text NOT NULL,
    bytes_new    bigint NOT NULL,
    label        text,
    hold         boolean NOT NULL DEFAULT false,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, id),
    UNIQUE (run_id, tenant_id, seq)
);
CALL nofx.guard_tenant('nofx.checkpoint');
GRANT SELECT ON nofx.checkpoint TO nofx_app;

-- Written with the checkpoint itself; a parent is one that its step's claim has read.
CREATE TABLE nofx.checkpoint_parent (
    tenant_id     uuid NOT NULL,
    checkpoint_id uuid NOT NULL,
    ord           int NOT NULL,
    parent_id     uuid NOT NULL,
    PRIMARY KEY (tenant_id, checkpoint_id, ord)
);
CREATE INDEX checkpoint_child ON nofx.checkpoint_parent (parent_id); -- is_needed, delete_run
CALL nofx.guard_tenant('nofx.checkpoint_parent');
GRANT SELECT ON nofx.checkpoint_parent TO nofx_app;

-- Where the bytes of a digest are: in a pack at off and len (a zstd frame), or
-- in an object of their own. Dedupe never crosses a tenant.
--
-- A live blob may be named by the next checkpoint. A condemned one is still readable, but
-- whoever needs it stores it again, elsewhere: either the collection found that no
-- checkpoint names it (condemned_at), or its object is gone or corrupt. Of a tombstone the
-- bytes were purged, and are not stored again. See gc.sql.
CREATE TABLE nofx.blob (
    tenant_id   uuid NOT NULL REFERENCES nofx.tenant,
    sha256      bytea NOT NULL CHECK (octet_length(sha256) = 32),
    size        bigint NOT NULL,
    pack_sha256 bytea CHECK (octet_length(pack_sha256) = 32),
    off         bigint NOT NULL DEFAULT 0,
    len         bigint NOT NULL,
    copy        bigint NOT NULL DEFAULT 0, -- of an object of its own: part of its key, so that no key is used again once it was deleted
    state       text NOT NULL DEFAULT 'live' CHECK (state IN ('live', 'condemned', 'tombstone')),
    last_ref    timestamptz NOT NULL DEFAULT clock_timestamp(), -- when a checkpoint was last about to name it
    mark        timestamptz NOT NULL DEFAULT '-infinity', -- the beginning of the last collection that found it named
    condemned_at timestamptz,
    purged_at   timestamptz,
    purged_by   text,
    reason      text CHECK (length(reason) <= 2048), -- of the purge
    CHECK ((state = 'tombstone') = (purged_at IS NOT NULL AND purged_by IS NOT NULL AND reason IS NOT NULL)),
    PRIMARY KEY (tenant_id, sha256)
) WITH (fillfactor = 80); -- each collection updates the marks
CALL nofx.guard_tenant('nofx.blob');
GRANT SELECT ON nofx.blob TO nofx_app;
GRANT INSERT ON nofx.blob TO nofx_worker;

-- Every object we own, for garbage collection and for the doctor.
CREATE TABLE nofx.object (
    tenant_id  uuid NOT NULL REFERENCES nofx.tenant,
    key        text NOT NULL,
    sha256     bytea NOT NULL CHECK (octet_length(sha256) = 32),
    bytes      bigint NOT NULL,
    kind       text NOT NULL CHECK (kind IN ('blob', 'pack', 'log', 'upload', 'diff')),
    state      text NOT NULL DEFAULT 'live' CHECK (state IN ('live', 'condemned')),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    condemned_at timestamptz, -- by the collection
    PRIMARY KEY (tenant_id, key)
);
CREATE INDEX object_condemned ON nofx.object (kind, created_at) WHERE state = 'condemned'; -- condemned_objects
CALL nofx.guard_tenant('nofx.object');
GRANT SELECT ON nofx.object TO nofx_app;
GRANT INSERT ON nofx.object TO nofx_worker;

CREATE TABLE nofx.artifact (
    tenant_id  uuid NOT NULL REFERENCES nofx.tenant,
    id         uuid NOT NULL,
    run_id     uuid,
    step_id    uuid,
    fence      bigint,
    name       text NOT NULL,
    key        text NOT NULL,
    media_type text NOT NULL,
    size_bytes bigint NOT NULL,
    sha256     bytea NOT NULL CHECK (octet_length(sha256) = 32),
    state      text NOT NULL DEFAULT 'ready' CHECK (state IN ('pending', 'ready')),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    FOREIGN KEY (tenant_id, run_id) REFERENCES nofx.run (tenant_id, id),
    FOREIGN KEY (tenant_id, step_id) REFERENCES nofx.step (tenant_id, id)
);
CREATE INDEX artifact_pending ON nofx.artifact (created_at) WHERE state = 'pending'; -- expire_uploads
ALTER TABLE nofx.artifact ADD PRIMARY KEY (tenant_id, id);
CREATE INDEX artifact_step ON nofx.artifact (step_id, tenant_id) WHERE step_id IS NOT NULL; -- the foreign key, when a step is deleted
CREATE INDEX artifact_key ON nofx.artifact (key, tenant_id); -- sweep_objects
CREATE INDEX artifact_loose ON nofx.artifact (tenant_id, id) WHERE run_id IS NULL; -- sweep_artifacts
CREATE INDEX artifact_run ON nofx.artifact (run_id, tenant_id, id); -- artifacts of a run
CALL nofx.guard_tenant('nofx.artifact');
GRANT SELECT ON nofx.artifact TO nofx_app;

CREATE TABLE nofx.log_chunk (
    tenant_id  uuid NOT NULL,
    step_id    uuid NOT NULL,
    fence      bigint NOT NULL,
    n          int NOT NULL,
    start      bigint NOT NULL, -- offset of its first byte in the attempt's log
    bytes      bigint NOT NULL,
    lines      int NOT NULL,
    key        text, -- of its object
    sha256     bytea CHECK (octet_length(sha256) = 32),
    mark       text, -- the text of a chunk that reports lost bytes, which is not in storage
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK (num_nonnulls(key, sha256) = CASE WHEN mark IS NULL THEN 2 ELSE 0 END),
    PRIMARY KEY (tenant_id, step_id, fence, n),
    FOREIGN KEY (tenant_id, step_id) REFERENCES nofx.step (tenant_id, id)
);
CALL nofx.guard_tenant('nofx.log_chunk');
GRANT SELECT ON nofx.log_chunk TO nofx_app;
-- What lies between two checkpoints, as it was asked for: in JSON and as a patch, each an
-- object of its own. Written only by nofx.record_diff, nofx.lose_diff and nofx.drop_derived.
CREATE TABLE nofx.diff (
    tenant_id     uuid NOT NULL REFERENCES nofx.tenant,
    to_id         uuid NOT NULL,
    from_id       uuid NOT NULL, -- zero: before the first checkpoint of a run
    options       text NOT NULL, -- version of the form, first change of the page, path
    copy          bigint NOT NULL, -- part of the keys of its objects, which no other diff has
    json_sha256   bytea NOT NULL CHECK (octet_length(json_sha256) = 32),
    json_bytes    bigint NOT NULL, -- before compression
    patch_sha256  bytea NOT NULL CHECK (octet_length(patch_sha256) = 32),
    patch_bytes   bigint NOT NULL,
    files         int NOT NULL,
    lines_added   int NOT NULL,
    lines_deleted int NOT NULL,
    truncated     boolean NOT NULL,
    state         text NOT NULL DEFAULT 'stored' CHECK (state IN ('stored', 'lost')), -- lost: it is to be computed anew
    losses        int NOT NULL DEFAULT 0, -- how often its objects were lost, or dropped because of a purge
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, to_id, from_id, options)
);
CREATE INDEX diff_from ON nofx.diff (from_id, tenant_id); -- delete_run
CALL nofx.guard_tenant('nofx.diff');
GRANT SELECT ON nofx.diff TO nofx_app;
-- condemn_object and sweep_objects look for the blobs of a pack.
CREATE INDEX blob_pack ON nofx.blob (pack_sha256, tenant_id) WHERE pack_sha256 IS NOT NULL;
CREATE INDEX blob_purged ON nofx.blob (tenant_id, sha256) WHERE state = 'tombstone'; -- Tombstones, Unpurged

-- The edits of a branch's state and files, until the worker of its first step has made a
-- checkpoint of them. That checkpoint holds who made them, why and of what, so the row is
-- deleted then.
CREATE TABLE nofx.branch_edit (
    tenant_id uuid NOT NULL,
    run_id    uuid NOT NULL,
    bases     uuid[] NOT NULL, -- the checkpoints that are edited, together
    doc       text NOT NULL,   -- JSON, and not jsonb: numbers keep their digits
    PRIMARY KEY (tenant_id, run_id),
    FOREIGN KEY (tenant_id, run_id) REFERENCES nofx.run (tenant_id, id) ON DELETE CASCADE
);
CALL nofx.guard_tenant('nofx.branch_edit');
GRANT SELECT ON nofx.branch_edit TO nofx_app;

RESET ROLE;
