-- Runs, their steps, attempts, leases, waits and events.
--
-- These rows are written on the hot path, and gateways and workers write them only through the
-- functions of this schema. So the functions and the guards enforce the rules that
-- constraints would enforce at a price: a foreign key is checked again at each update of a
-- row that the same transaction wrote, ten times for the row of a run; a CHECK is read from
-- its text and compiled at every statement, which took four fifths of the time of an
-- update. A state comes from nofx.transition, a project and a run from the row that
-- create_run has just read or written, a head from the checkpoint inserted beside it. And
-- no index holds a column that changes with a step's state, so that its updates stay
-- heap-only.
SET LOCAL ROLE nofx_owner;

CREATE TABLE nofx.run (
    tenant_id            uuid NOT NULL,
    id                   uuid NOT NULL,
    project_id           uuid NOT NULL,
    kind                 text NOT NULL DEFAULT 'plan', -- plan, or system: work for a caller, one step of a tool sys:*
    subject_run_id       uuid, -- that a system run works on, if one
    work_key             text, -- key of a system run's result: further requests for it get the same run
    name                 text,
    goal                 text NOT NULL,
    labels               jsonb NOT NULL DEFAULT '{}',
    state                text NOT NULL DEFAULT 'queued',
    event                text, -- the transition that led here
    version              bigint NOT NULL DEFAULT 1,
    event_seq            bigint NOT NULL DEFAULT 0,
    pruned_seq           bigint, -- its logs and the events up to this seq have been deleted, see retention.sql; NULL: none
    -- How many steps are in each state that settles the run; the step trigger
    -- keeps them, so that settling costs one row however many steps there are.
    pending_steps        int NOT NULL DEFAULT 0,
    ready_steps          int NOT NULL DEFAULT 0,
    running_steps        int NOT NULL DEFAULT 0,
    retrying_steps       int NOT NULL DEFAULT 0,
    waiting_steps        int NOT NULL DEFAULT 0,
    failed_steps         int NOT NULL DEFAULT 0,
    run_day              date NOT NULL DEFAULT (clock_timestamp() AT TIME ZONE 'UTC')::date,
    head_checkpoint_id   uuid,
    plan                 jsonb NOT NULL,
    plan_digest          text NOT NULL,
    parent_run_id        uuid,
    parent_checkpoint_id uuid,
    root_run_id          uuid NOT NULL,
    reuse_effects        boolean NOT NULL DEFAULT false, -- of a branch: effects that its parent has done are not done again
    start_checkpoint_id  uuid, -- what steps start from in the place of older checkpoints: the start of a branch, or the newest merge; NULL: from what each step before left
    trace_id             char(32) NOT NULL,
    traceparent          text NOT NULL,
    correlation_id       text,
    created_by           text NOT NULL,
    created_at           timestamptz NOT NULL DEFAULT clock_timestamp(),
    started_at           timestamptz,
    finished_at          timestamptz,
    expired_at           timestamptz, -- it is being deleted since, see expire_runs: for all others it is gone
    deadline             timestamptz NOT NULL, -- infinity while it is paused
    paused_at            timestamptz, -- while it is paused: since when, and the deadline as it was then
    stopped_deadline     timestamptz,
    failure_class        text,
    failure_signature    text,
    reason               text
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX run_by_state ON nofx.run (tenant_id, state, id); -- lists by state; count_active
CREATE INDEX run_by_trace ON nofx.run (trace_id); -- RunsOfTrace
CREATE INDEX run_work ON nofx.run (tenant_id, work_key, id) WHERE work_key IS NOT NULL; -- run_of_work
CREATE INDEX run_system ON nofx.run (id) WHERE kind = 'system'; -- expire_system_runs
CREATE INDEX run_deadline ON nofx.run (deadline) WHERE state IN ('queued', 'running', 'waiting', 'paused'); -- due_runs
-- While a table has no statistics, all indexes that begin with the tenant look alike, and
-- of equal indexes the planner takes the newest. So primary keys are made last, and after
-- them only indexes that begin with another column, which find the rows of a run or a step.
ALTER TABLE nofx.run ADD PRIMARY KEY (tenant_id, id),
    ADD FOREIGN KEY (tenant_id, parent_run_id) REFERENCES nofx.run (tenant_id, id);
CREATE INDEX run_branches ON nofx.run (parent_run_id, tenant_id, id) WHERE parent_run_id IS NOT NULL; -- branches of a run: create_branch, lineage, is_needed
CREATE INDEX run_line ON nofx.run (root_run_id, tenant_id, id) WHERE parent_run_id IS NOT NULL; -- lineage
CALL nofx.guard_tenant('nofx.run');
GRANT SELECT ON nofx.run TO nofx_app;

CREATE TABLE nofx.step (
    tenant_id          uuid NOT NULL,
    id                 uuid NOT NULL,
    run_id             uuid NOT NULL,
    idx                int NOT NULL,
    name               text NOT NULL,
    tool               text NOT NULL,
    queue              text NOT NULL,
    spec               jsonb NOT NULL,
    state              text NOT NULL DEFAULT 'pending',
    event              text,
    version            bigint NOT NULL DEFAULT 1,
    seq                bigint NOT NULL DEFAULT 0, -- of the event of its last change of state
    fence              bigint NOT NULL DEFAULT 0,
    attempt            int NOT NULL DEFAULT 0,
    max_attempts       int NOT NULL,
    lost_leases        int NOT NULL DEFAULT 0,
    kills              int NOT NULL DEFAULT 0, -- lost leases that the step's tool may have caused: it had begun and ran alone
    wake_seq           bigint NOT NULL DEFAULT 0,
    job_id             bigint, -- the River job of this wake_seq, once enqueued
    deps_left          int NOT NULL,
    ready_at           timestamptz, -- ready: due since; retrying: due at
    due_at             timestamptz, -- ready_at while the step is ready: by it the sweeper looks for lost wake-ups; infinity: parked, see queue.sql
    retry_at           timestamptz, -- ready_at while the step is retrying
    wait_until         timestamptz, -- while the step waits: the end, the start and the signal's key of the wait
    waiting_since      timestamptz,
    signal_key         text,
    failing_since      timestamptz, -- the infrastructure has failed each attempt since
    started_at         timestamptz,
    finished_at        timestamptz,
    failure_class      text,
    reason             text,
    outputs            jsonb,
    outputs_bytes      int, -- as text, known without reading them; a generated column would be compiled at every update
    head_checkpoint_id uuid, -- the newest accepted one that successors start from
    restored_from      uuid, -- of a branch: the step of an earlier run whose result this is, never itself a restored one
    PRIMARY KEY (tenant_id, id),
    UNIQUE (run_id, tenant_id, name),
    UNIQUE (run_id, tenant_id, idx)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX step_due ON nofx.step (due_at, id) WHERE due_at IS NOT NULL; -- lost_wake_ups
CREATE INDEX step_retrying ON nofx.step (retry_at) WHERE retry_at IS NOT NULL; -- due_retries
CREATE INDEX step_waiting ON nofx.step (wait_until) WHERE wait_until IS NOT NULL; -- due_waits
CREATE INDEX step_signal ON nofx.step (tenant_id, signal_key, waiting_since, id) WHERE signal_key IS NOT NULL; -- waiting_for
-- The dead letters. A condition on the state would cost every update of a step.
CREATE INDEX step_dead ON nofx.step (tenant_id, id) WHERE failure_class IN ('exhausted', 'poisoned');
CALL nofx.guard_tenant('nofx.step');
GRANT SELECT ON nofx.step TO nofx_app;
GRANT UPDATE (job_id) ON nofx.step TO nofx_app; -- both insert jobs of steps

-- Written together with the steps, only by create_run and create_branch.
CREATE TABLE nofx.step_dep (
    tenant_id uuid NOT NULL,
    run_id    uuid NOT NULL,
    needs     uuid NOT NULL,
    step_id   uuid NOT NULL,
    PRIMARY KEY (tenant_id, needs, step_id)
);
CREATE INDEX step_dep_step ON nofx.step_dep (step_id, tenant_id, needs); -- step_parents, claimed_step
CALL nofx.guard_tenant('nofx.step_dep');
GRANT SELECT ON nofx.step_dep TO nofx_app;

CREATE TABLE nofx.attempt (
    tenant_id  uuid NOT NULL,
    step_id    uuid NOT NULL,
    fence      bigint NOT NULL,
    seq        bigint NOT NULL, -- of the event of its claim
    owner      text NOT NULL,
    owner_pid  int NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at   timestamptz,
    accepted   boolean NOT NULL DEFAULT false,
    outcome    text,
    exit_code  int,
    usage      jsonb NOT NULL DEFAULT '{}',
    trace_id   char(32) NOT NULL,
    span_id    char(16) NOT NULL,
    PRIMARY KEY (tenant_id, step_id, fence)
) WITH (autovacuum_vacuum_scale_factor = 0.02);
CREATE UNIQUE INDEX attempt_accepted ON nofx.attempt (tenant_id, step_id) WHERE accepted; -- none: it enforces that one attempt of a step is accepted
CALL nofx.guard_tenant('nofx.attempt');
GRANT SELECT ON nofx.attempt TO nofx_app;

-- One row per running step. No index on lease_until: heartbeats stay HOT, and
-- the table is small enough to scan.
--
-- begun says that the step's tool may have begun. A worker records it only for steps that
-- have lost a lease before; for all others it is assumed.
CREATE TABLE nofx.step_lease (
    tenant_id   uuid NOT NULL,
    step_id     uuid NOT NULL,
    fence       bigint NOT NULL,
    owner       text NOT NULL,
    lease_until timestamptz NOT NULL,
    job_id      bigint, -- the River job whose worker runs the step
    begun       boolean NOT NULL DEFAULT true,
    beside      boolean NOT NULL DEFAULT false, -- another lease of its owner was taken away
    PRIMARY KEY (tenant_id, step_id)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0);
CALL nofx.guard_tenant('nofx.step_lease');
GRANT SELECT ON nofx.step_lease TO nofx_app;

CREATE TABLE nofx.wait (
    tenant_id    uuid NOT NULL,
    step_id      uuid NOT NULL,
    round        int NOT NULL,
    kind         text NOT NULL CHECK (kind IN ('approval', 'timer', 'signal')),
    wait_until   timestamptz NOT NULL,
    quorum       int NOT NULL DEFAULT 1 CHECK (quorum > 0),
    correlation  text CHECK ((kind = 'signal') = (correlation IS NOT NULL)), -- the key of the signal
    shown_digest text,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, step_id, round),
    FOREIGN KEY (tenant_id, step_id) REFERENCES nofx.step (tenant_id, id),
    CHECK (wait_until <= created_at + interval '30 days 1 minute')
);
CALL nofx.guard_tenant('nofx.wait');
GRANT SELECT ON nofx.wait TO nofx_app;

-- Signals, by the key that a step waits under. One that comes before its step
-- waits stays here and is found when it does.
CREATE TABLE nofx.inbox (
    tenant_id  uuid NOT NULL,
    id         uuid NOT NULL,
    key        text NOT NULL,
    payload    jsonb NOT NULL,
    sent_by    text NOT NULL,
    sent_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL DEFAULT clock_timestamp() + interval '30 days',
    step_id    uuid, -- that took it
    PRIMARY KEY (tenant_id, id)
);
CREATE INDEX inbox_waiting ON nofx.inbox (tenant_id, key, id) WHERE step_id IS NULL; -- take_signal
CREATE INDEX inbox_taken ON nofx.inbox (tenant_id, step_id) WHERE step_id IS NOT NULL; -- claimed_step
CREATE INDEX inbox_expiry ON nofx.inbox (expires_at); -- expire_signals
CALL nofx.guard_tenant('nofx.inbox');
GRANT SELECT ON nofx.inbox TO nofx_app;

-- Whether this transaction began at p_at. It is no function of its argument alone,
-- and declared as one for the sake of nofx.feed_epoch.here.
CREATE FUNCTION nofx.is_now(p_at timestamptz) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE
AS $$
BEGIN
    RETURN p_at = transaction_timestamp();
END
$$;
GRANT EXECUTE ON FUNCTION nofx.is_now(timestamptz) TO nofx_system;

-- Feeds are in the order of positions: the ids of transactions, which rise as long as the
-- data stays in its server or is copied as files. After a dump is restored, ids may begin
-- low again. Then a new epoch begins: its positions are the ids plus base, from first on,
-- which is after all earlier positions.
CREATE TABLE nofx.feed_epoch (
    first      bigint PRIMARY KEY,
    id         int NOT NULL UNIQUE CHECK (id > 0), -- random: a cursor names it
    base       bigint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT transaction_timestamp(),
    -- Computed whenever a row is written: true by the transaction that begins the
    -- epoch, and false by one that loads a dump.
    here       boolean NOT NULL GENERATED ALWAYS AS (nofx.is_now(created_at)) STORED
);

INSERT INTO nofx.feed_epoch (first, id, base) VALUES (0, 1 + floor(random() * 2147483647)::int, 0);
GRANT SELECT ON nofx.feed_epoch TO nofx_app;

-- Written only by the guards, under the lock of the run, so a foreign key would only cost
-- time.
CREATE TABLE nofx.event (
    tenant_id  uuid NOT NULL,
    run_id     uuid NOT NULL,
    seq        bigint NOT NULL,
    step_id    uuid,
    type       text NOT NULL,
    event      text,
    from_state text,
    to_state   text,
    data       jsonb NOT NULL, -- facts that no other column has; at most 16 KiB
    actor      text NOT NULL,
    reason     text,
    trace_id   char(32) NOT NULL,
    span_id    char(16),
    fence      bigint,
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    xid        xid8 NOT NULL DEFAULT pg_current_xact_id() -- its position: the transaction's id, plus the base of its epoch
);
CREATE INDEX event_feed ON nofx.event (tenant_id, xid, run_id, seq); -- feeds of a tenant; begin_epoch
ALTER TABLE nofx.event ADD PRIMARY KEY (tenant_id, run_id, seq);
CALL nofx.guard_tenant('nofx.event');
GRANT SELECT ON nofx.event TO nofx_app;

-- One event to write: seq was taken under the run's row lock, cause is the
-- traceparent of what led to it.
CREATE TYPE nofx.new_event AS (run_id uuid, seq bigint, step_id uuid, type text, event text, from_state text, to_state text,
    data jsonb, reason text, trace_id text, fence bigint, cause text);

-- The facts that a lock returns. They are never the whole row: to pass on a row, Postgres
-- unpacks all its large columns, and a run has its plan.
CREATE TYPE nofx.locked_run AS (tenant_id uuid, id uuid, state text, version bigint);
CREATE TYPE nofx.locked_step AS (tenant_id uuid, run_id uuid, id uuid, name text, state text, fence bigint);
CREATE TYPE nofx.locked_gate AS (tenant_id uuid, run_id uuid, step_id uuid, id uuid, kind text, state text, version bigint, fence bigint, expires_at timestamptz);

-- A step as its claim returns it; parents is how many steps it depends on, waiver the
-- newest waiver of its gate: {input_digest, by, by_name, reason}, edited that its branch has
-- edits which are to be made first.
CREATE TYPE nofx.claimed AS (step_id uuid, run_id uuid, name text, tool text, spec jsonb, fence bigint, attempt int, max_attempts int, lost_leases int,
    ready_at timestamptz, claimed_at timestamptz, lost_at timestamptz, failing_since timestamptz, traceparent text, plan_digest text, waiver jsonb, parents int, signal jsonb, edited boolean);

-- A step that was claimed, under which fence and by the event of which seq, the River
-- job that carries it, whether its tool counts as begun, and the span of the attempt.
CREATE TYPE nofx.taken AS (step_id uuid, fence bigint, seq bigint, job_id bigint, begun boolean, trace_id text, span_id text);

-- What became of one finish: answer is ok; fenced when the lease is lost, or lapsed
-- when it only has to be renewed, and then nothing was written; stale when this very
-- attempt had ended like this before. ended is the run's state when this ended it,
-- seconds how long after its creation. enqueue says that steps became ready that want
-- a job, taken is the successor that was claimed at once. events and claims are still
-- to be written, together with those of other finishes.
CREATE TYPE nofx.finished AS (ord int, answer text, ended text, seconds float8, enqueue boolean, taken uuid, events nofx.new_event[], claims nofx.taken[]);

-- A step that became ready, or is about to, when one that it depends on succeeded.
CREATE TYPE nofx.successor AS (id uuid, queue text, attempt int, fence bigint);

-- By how much changes of steps move the counters of their run.
CREATE TYPE nofx.step_counts AS (pending int, ready int, running int, retrying int, waiting int, failed int);

RESET ROLE;
