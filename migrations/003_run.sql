-- Runs, their steps, attempts, leases, waits and events.
--
-- These rows are written on the hot path, and nofx_app writes none of them but
-- through the functions of this schema. So the functions and the guards hold what
-- constraints would hold at a price: a foreign key is checked anew at each update
-- of a row that its own transaction wrote, which a run's is ten times over; a
-- CHECK is read from its text and compiled at every statement, which took four
-- fifths of the time of an update. A state comes from nofx.transition, a project
-- and a run from the row that create_run has just read or written, a head from
-- the checkpoint inserted beside it. And no index holds a column that changes
-- with a step's state, so that its updates stay heap-only.
SET LOCAL ROLE nofx_owner;

CREATE TABLE nofx.run (
    tenant_id            uuid NOT NULL,
    id                   uuid NOT NULL,
    project_id           uuid NOT NULL,
    name                 text,
    goal                 text NOT NULL,
    labels               jsonb NOT NULL DEFAULT '{}',
    state                text NOT NULL DEFAULT 'queued',
    event                text, -- the transition that led here
    version              bigint NOT NULL DEFAULT 1,
    event_seq            bigint NOT NULL DEFAULT 0,
    pruned_seq           bigint, -- its logs and the events up to this seq have been deleted, see 014; NULL: none
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
    trace_id             char(32) NOT NULL,
    traceparent          text NOT NULL,
    correlation_id       text,
    created_by           text NOT NULL,
    created_at           timestamptz NOT NULL DEFAULT clock_timestamp(),
    started_at           timestamptz,
    finished_at          timestamptz,
    deadline             timestamptz NOT NULL, -- infinity while it is paused
    paused_at            timestamptz, -- while it is paused: since when, and the deadline as it was then
    stopped_deadline     timestamptz,
    failure_class        text,
    failure_signature    text,
    reason               text
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX run_by_state ON nofx.run (tenant_id, state, id);
CREATE INDEX run_by_trace ON nofx.run (trace_id);
CREATE INDEX run_deadline ON nofx.run (deadline) WHERE state IN ('queued', 'running', 'waiting', 'paused');
-- While a table has no statistics, all indexes that begin with the tenant look
-- alike, and of equals the planner takes the newest. So primary keys come last,
-- and after them only what begins with another column: what belongs to a run or
-- to a step is found by that.
ALTER TABLE nofx.run ADD PRIMARY KEY (tenant_id, id),
    ADD FOREIGN KEY (tenant_id, parent_run_id) REFERENCES nofx.run (tenant_id, id);
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
    fence              bigint NOT NULL DEFAULT 0,
    attempt            int NOT NULL DEFAULT 0,
    max_attempts       int NOT NULL,
    lost_leases        int NOT NULL DEFAULT 0,
    kills              int NOT NULL DEFAULT 0, -- those of them that its tool may have caused: it had begun and ran alone
    wake_seq           bigint NOT NULL DEFAULT 0,
    job_id             bigint, -- the River job of this wake_seq, once enqueued
    deps_left          int NOT NULL,
    ready_at           timestamptz, -- ready: due since; retrying: due at
    due_at             timestamptz, -- ready_at while the step is ready: by it the sweeper looks for lost wake-ups; infinity: parked, see 016
    retry_at           timestamptz, -- ready_at while the step is retrying
    wait_until         timestamptz, -- until, since and under which key of a signal it waits, while it does
    waiting_since      timestamptz,
    signal_key         text,
    failing_since      timestamptz, -- the infrastructure has failed each attempt since
    started_at         timestamptz,
    finished_at        timestamptz,
    failed_seq         bigint, -- of the event by which it failed for good, while it is failed
    failure_class      text,
    reason             text,
    outputs            jsonb,
    outputs_bytes      int, -- as text, known without reading them; a generated column would be compiled at every update
    head_checkpoint_id uuid, -- the newest accepted one that successors start from
    restored_from      uuid,
    PRIMARY KEY (tenant_id, id),
    UNIQUE (run_id, tenant_id, name),
    UNIQUE (run_id, tenant_id, idx)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX step_due ON nofx.step (due_at, id) WHERE due_at IS NOT NULL;
CREATE INDEX step_retrying ON nofx.step (retry_at) WHERE retry_at IS NOT NULL;
CREATE INDEX step_waiting ON nofx.step (wait_until) WHERE wait_until IS NOT NULL;
CREATE INDEX step_signal ON nofx.step (tenant_id, signal_key, waiting_since, id) WHERE signal_key IS NOT NULL; -- waiting_for
-- The dead letters. A condition on the state would cost every update of a step.
CREATE INDEX step_dead ON nofx.step (tenant_id, id) WHERE failure_class IN ('exhausted', 'poisoned');
CALL nofx.guard_tenant('nofx.step');
GRANT SELECT ON nofx.step TO nofx_app;
GRANT UPDATE (job_id) ON nofx.step TO nofx_app;

-- Written with the steps themselves, by create_run alone.
CREATE TABLE nofx.step_dep (
    tenant_id uuid NOT NULL,
    run_id    uuid NOT NULL,
    needs     uuid NOT NULL,
    step_id   uuid NOT NULL,
    PRIMARY KEY (tenant_id, needs, step_id)
);
CREATE INDEX step_dep_step ON nofx.step_dep (step_id, tenant_id, needs);
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
CREATE UNIQUE INDEX attempt_accepted ON nofx.attempt (tenant_id, step_id) WHERE accepted;
CALL nofx.guard_tenant('nofx.attempt');
GRANT SELECT ON nofx.attempt TO nofx_app;

-- One row per running step. No index on lease_until: heartbeats stay HOT, and
-- the table is small enough to scan.
--
-- begun says that the step's tool may have begun, which a worker notes only of steps
-- whose lease was lost before: of all others it is taken for granted.
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
CREATE INDEX inbox_waiting ON nofx.inbox (tenant_id, key, id) WHERE step_id IS NULL;
CREATE INDEX inbox_taken ON nofx.inbox (tenant_id, step_id) WHERE step_id IS NOT NULL;
CREATE INDEX inbox_expiry ON nofx.inbox (expires_at);
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

-- Feeds are in the order of positions: the ids of transactions, which rise as long
-- as the data stays in its server or is copied as files. Where a dump is restored
-- they may begin low again, so that a new epoch begins: its positions are the ids
-- plus base, from first on, which is behind all positions of before.
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

-- Written by the guards alone, under the lock of the run that they have at hand,
-- so that a foreign key would only cost.
CREATE TABLE nofx.event (
    tenant_id  uuid NOT NULL,
    run_id     uuid NOT NULL,
    seq        bigint NOT NULL,
    step_id    uuid,
    type       text NOT NULL,
    event      text,
    from_state text,
    to_state   text,
    data       jsonb NOT NULL, -- beside what the other columns say; at most 16 KiB
    actor      text NOT NULL,
    reason     text,
    trace_id   char(32) NOT NULL,
    span_id    char(16),
    fence      bigint,
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    xid        xid8 NOT NULL DEFAULT pg_current_xact_id() -- its position: the transaction's id, plus the base of its epoch
);
CREATE INDEX event_feed ON nofx.event (tenant_id, xid, run_id, seq);
ALTER TABLE nofx.event ADD PRIMARY KEY (tenant_id, run_id, seq);
CALL nofx.guard_tenant('nofx.event');
GRANT SELECT ON nofx.event TO nofx_app;

RESET ROLE;
SET LOCAL ROLE nofx_system;

-- One event to write: seq was taken under the run's row lock, cause is the
-- traceparent of what led to it.
CREATE TYPE nofx.told AS (run_id uuid, seq bigint, step_id uuid, type text, event text, from_state text, to_state text,
    data jsonb, reason text, trace_id text, fence bigint, cause text);

-- Begins an epoch of the feeds if there has to be one, and returns the base of the
-- current one: the database is a restored one, or holds positions that no
-- transaction of it has reached.
CREATE FUNCTION nofx.begin_epoch() RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    e feed_epoch;
    v_newest bigint;
    v_least bigint; -- id of a transaction that may still write
BEGIN
    LOCK TABLE feed_epoch IN SHARE ROW EXCLUSIVE MODE;
    SELECT * INTO e FROM feed_epoch ORDER BY first DESC LIMIT 1;
    SELECT greatest(e.first, max(x.xid::text::bigint)) INTO v_newest FROM (
        SELECT h.xid FROM event_horizon h
        UNION ALL
        SELECT n.xid FROM tenant t CROSS JOIN LATERAL (
            SELECT v.xid FROM event v WHERE v.tenant_id = t.tenant_id ORDER BY v.xid DESC LIMIT 1) AS n
    ) AS x;
    IF e.here AND v_newest < e.base + pg_snapshot_xmax(pg_current_snapshot())::text::bigint THEN
        RETURN e.base;
    END IF;
    v_least := pg_snapshot_xmin(pg_current_snapshot())::text::bigint;
    INSERT INTO feed_epoch AS n (first, id, base)
    SELECT v_least + b.base, 1 + floor(random() * 2147483647)::int, b.base
    FROM (SELECT greatest(v_newest + 1 - v_least, 0) AS base) AS b
    RETURNING n.base INTO e.base;
    RETURN e.base;
END
$$;
GRANT EXECUTE ON FUNCTION nofx.begin_epoch() TO nofx_app;

-- Writes events. A row carries its run's trace; a cause of another trace is named
-- in data.
CREATE FUNCTION nofx.tell(p_tenant uuid, p nofx.told[]) RETURNS void
    LANGUAGE plpgsql
AS $$
DECLARE
    v_actor text := coalesce(nullif(current_setting('nofx.actor', true), ''), session_user);
BEGIN
    INSERT INTO event (tenant_id, run_id, seq, step_id, type, event, from_state, to_state, data, actor, reason, trace_id, span_id, fence, xid)
    SELECT p_tenant, t.run_id, t.seq, t.step_id, t.type, t.event, t.from_state, t.to_state,
        CASE WHEN substr(t.cause, 4, 32) <> t.trace_id THEN t.data || jsonb_build_object('request_trace_id', substr(t.cause, 4, 32)) ELSE t.data END,
        v_actor, t.reason, t.trace_id, CASE WHEN substr(t.cause, 4, 32) = t.trace_id THEN substr(t.cause, 37, 16) END, t.fence,
        (SELECT (CASE WHEN e.here THEN e.base ELSE begin_epoch() END + pg_current_xact_id()::text::bigint)::text::xid8
         FROM feed_epoch e ORDER BY e.first DESC LIMIT 1)
    FROM unnest(p) AS t;
END
$$;

-- The traceparent of this transaction, or NULL.
CREATE FUNCTION nofx.cause() RETURNS text
    LANGUAGE sql STABLE
    RETURN CASE WHEN length(current_setting('nofx.traceparent', true)) = 55 THEN current_setting('nofx.traceparent', true) END;

-- Writes one event, which this transaction caused.
CREATE FUNCTION nofx.write_event(
    p_tenant uuid, p_run uuid, p_seq bigint, p_step uuid, p_type text, p_event text, p_from text, p_to text,
    p_reason text, p_trace char(32), p_fence bigint, p_data jsonb) RETURNS void
    LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM tell(p_tenant, ARRAY[ROW(p_run, p_seq, p_step, p_type, p_event, p_from, p_to, p_data, p_reason, p_trace, p_fence, nofx.cause())::nofx.told]);
END
$$;

-- Appends an event that is no change of state, such as checkpoint.created.
CREATE FUNCTION nofx.append_event(p_tenant uuid, p_run uuid, p_step uuid, p_type text, p_fence bigint, p_data jsonb) RETURNS bigint
    LANGUAGE plpgsql
AS $$
DECLARE
    v_seq bigint;
    v_trace char(32);
BEGIN
    IF pg_column_size(p_data) > 16384 THEN
        RAISE EXCEPTION 'an event holds at most 16 KiB' USING ERRCODE = 'check_violation';
    END IF;
    UPDATE run SET event_seq = event_seq + 1 WHERE tenant_id = p_tenant AND id = p_run
    RETURNING event_seq, trace_id INTO v_seq, v_trace;
    PERFORM write_event(p_tenant, p_run, v_seq, p_step, p_type, NULL, NULL, NULL, NULL, v_trace, p_fence, p_data);
    RETURN v_seq;
END
$$;

-- The net under every writer of a run's state: a known edge, version + 1, a
-- reason where wanted; the event row is written here, so that state and event
-- cannot part.
--
-- The hot functions of 007 move many rows at once, and a statement costs much more
-- than another row in it. They set nofx.telling while they do, take the seqs, and
-- write what the guards would have written in one statement for all. What is a
-- guard's to refuse it refuses all the same.
CREATE FUNCTION nofx.run_guard() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    e nofx.transition;
    v_telling boolean := coalesce(current_setting('nofx.telling', true), '') = 'on';
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.state <> 'queued' OR NEW.version <> 1 OR NOT v_telling AND NEW.event_seq <> 0 THEN
            RAISE EXCEPTION 'a run starts queued at version 1' USING ERRCODE = 'NX006';
        END IF;
        IF length(NEW.trace_id) <> 32 OR translate(NEW.trace_id, '0123456789abcdef', '') <> '' OR NEW.trace_id = repeat('0', 32) THEN
            RAISE EXCEPTION 'run %: % is no trace id', NEW.id, NEW.trace_id USING ERRCODE = 'check_violation';
        END IF;
        IF NOT v_telling THEN
            NEW.event_seq := 1;
        END IF;
        RETURN NEW;
    END IF;
    IF NEW.version <> OLD.version + 1 THEN
        RAISE EXCEPTION 'run %: version % does not follow %', OLD.id, NEW.version, OLD.version USING ERRCODE = 'NX006';
    END IF;
    e := edge('run', OLD.id, OLD.state, NEW.event, NEW.reason);
    IF NEW.state NOT IN (OLD.state, e.to_state) THEN
        RAISE EXCEPTION 'run %: % leads from % to %, not to %', OLD.id, e.event, OLD.state, e.to_state, NEW.state USING ERRCODE = 'NX006';
    END IF;
    NEW.state := e.to_state;
    IF length(NEW.reason) > 2048 THEN
        RAISE EXCEPTION 'run %: a reason has at most 2048 characters', OLD.id USING ERRCODE = 'check_violation';
    END IF;
    IF e.to_state IN ('succeeded', 'failed', 'cancelled')
        AND NEW.pending_steps + NEW.ready_steps + NEW.running_steps + NEW.retrying_steps + NEW.waiting_steps <> 0 THEN
        RAISE EXCEPTION 'run %: it has steps that have not ended', OLD.id USING ERRCODE = 'NX006';
    END IF;
    IF e.event = 'start' OR (e.event IN ('retry', 'resume') AND NEW.started_at IS NULL) THEN
        NEW.started_at := clock_timestamp();
    END IF;
    NEW.finished_at := CASE WHEN e.to_state IN ('succeeded', 'failed', 'cancelled') THEN clock_timestamp() END;
    IF e.to_state NOT IN ('failed', 'cancelled') THEN
        NEW.failure_class := NULL;
    END IF;
    IF e.to_state = 'paused' THEN -- the clock of the deadline stands still
        NEW.paused_at := clock_timestamp();
        NEW.stopped_deadline := OLD.deadline;
        NEW.deadline := 'infinity';
    ELSIF OLD.paused_at IS NOT NULL THEN
        NEW.deadline := OLD.stopped_deadline + (clock_timestamp() - OLD.paused_at);
        NEW.paused_at := NULL;
        NEW.stopped_deadline := NULL;
    END IF;
    IF v_telling THEN
        RETURN NEW;
    END IF;
    NEW.event_seq := OLD.event_seq + 1;
    PERFORM write_event(OLD.tenant_id, OLD.id, NEW.event_seq, NULL, 'run.' || e.to_state, e.event, OLD.state, e.to_state,
        NEW.reason, OLD.trace_id, NULL, jsonb_strip_nulls(jsonb_build_object('failure_class', NEW.failure_class)));
    RETURN NEW;
END
$$;

CREATE FUNCTION nofx.run_created() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
BEGIN
    IF coalesce(current_setting('nofx.telling', true), '') <> 'on' THEN
        PERFORM write_event(NEW.tenant_id, NEW.id, 1, NULL, 'run.created', NULL, NULL, NULL, NULL, NEW.trace_id, NULL,
            jsonb_build_object('goal', left(NEW.goal, 500), 'plan_digest', NEW.plan_digest, 'steps', NEW.pending_steps));
    END IF;
    RETURN NULL;
END
$$;

-- Ends a River job that no worker will end: whoever takes away the lease that it
-- carried, or replaces the wake-up, does so in the same transaction.
CREATE FUNCTION nofx.end_job(p_job bigint) RETURNS void
    LANGUAGE plpgsql
AS $$
BEGIN
    UPDATE river.river_job SET state = 'cancelled', finalized_at = clock_timestamp()
    WHERE id = p_job AND state NOT IN ('completed', 'cancelled', 'discarded');
END
$$;

-- The same net for steps. What an event does to the row besides its state
-- (fence, attempt, wake_seq, times, lease, attempt row) belongs to the edge, so
-- it is done here, whoever takes it.
CREATE FUNCTION nofx.step_guard() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    e nofx.transition;
    v_seq bigint;
    v_trace char(32);
    v_least int;
    v_ended boolean;
    v_now timestamptz := clock_timestamp();
    v_lease record;
    v_data jsonb;
    v_telling boolean := coalesce(current_setting('nofx.telling', true), '') = 'on';
    v_from text := OLD.state;
    v_version bigint := OLD.version;
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.state <> 'pending' OR NEW.version <> 1 OR NEW.fence <> 0 THEN
            RAISE EXCEPTION 'a step starts pending at version 1' USING ERRCODE = 'NX006';
        END IF;
        IF v_telling AND NEW.event = 'deps_met' THEN -- readied at once
            e := edge('step', NEW.id, NEW.state, NEW.event, NULL);
            NEW.state := e.to_state;
            NEW.version := 2;
            NEW.wake_seq := 1;
            NEW.ready_at := v_now;
            NEW.due_at := v_now;
        END IF;
        RETURN NEW;
    END IF;
    IF v_telling AND v_from = 'pending' AND NEW.event = 'claim' THEN -- readied and claimed at once
        v_from := (edge('step', OLD.id, v_from, 'deps_met', NULL)).to_state;
        v_version := v_version + 1;
        NEW.ready_at := greatest(NEW.ready_at, v_now);
        NEW.wake_seq := OLD.wake_seq + 1;
        NEW.job_id := NULL;
    END IF;
    IF NEW.version <> v_version + 1 OR NEW.fence <> OLD.fence THEN
        RAISE EXCEPTION 'step %: version % fence % do not follow % %', OLD.id, NEW.version, NEW.fence, OLD.version, OLD.fence USING ERRCODE = 'NX006';
    END IF;
    e := edge('step', OLD.id, v_from, NEW.event, NEW.reason);
    IF NEW.state NOT IN (OLD.state, e.to_state) THEN
        RAISE EXCEPTION 'step %: % leads from % to %, not to %', OLD.id, e.event, OLD.state, e.to_state, NEW.state USING ERRCODE = 'NX006';
    END IF;
    NEW.state := e.to_state;
    v_data := jsonb_build_object('attempt', OLD.attempt);

    IF v_telling THEN
        NULL;
    ELSIF OLD.state = 'running' THEN
        DELETE FROM step_lease l WHERE l.tenant_id = OLD.tenant_id AND l.step_id = OLD.id
        RETURNING l.fence, l.lease_until, l.job_id INTO v_lease;
        IF e.needs_lease AND (v_lease.fence IS DISTINCT FROM OLD.fence OR v_lease.lease_until <= clock_timestamp()) THEN
            RAISE EXCEPTION 'step %: no live lease under fence %', OLD.id, OLD.fence USING
                ERRCODE = 'NX004', DETAIL = jsonb_build_object('fence', OLD.fence, 'current', OLD.fence);
        END IF;
        IF e.event IN ('lease_expired', 'poison', 'cancel') THEN
            PERFORM end_job(v_lease.job_id);
        END IF;
        -- Of an attempt that vanished no more is known than when its lease ran out.
        UPDATE attempt a SET outcome = e.event, accepted = e.to_state = 'succeeded',
            ended_at = CASE WHEN e.event IN ('lease_expired', 'poison') THEN least(v_lease.lease_until, v_now) ELSE v_now END
        WHERE a.tenant_id = OLD.tenant_id AND a.step_id = OLD.id AND a.fence = OLD.fence;
    ELSIF e.to_state = 'succeeded' THEN
        UPDATE attempt a SET accepted = true
        WHERE a.tenant_id = OLD.tenant_id AND a.step_id = OLD.id AND a.fence = OLD.fence;
    END IF;

    CASE e.event
        WHEN 'claim' THEN
            NEW.fence := OLD.fence + 1;
            NEW.attempt := OLD.attempt + 1;
            NEW.started_at := coalesce(OLD.started_at, v_now);
            IF NOT v_telling THEN
                v_data := jsonb_build_object('attempt', NEW.attempt, 'wait_ms', (extract(epoch FROM v_now - OLD.ready_at) * 1000)::bigint);
            END IF;
        WHEN 'interrupted', 'signal' THEN -- the same attempt goes on
            NEW.attempt := OLD.attempt - 1;
        WHEN 'lease_expired', 'poison' THEN
            NEW.fence := OLD.fence + 1;
        WHEN 'cancel' THEN
            IF OLD.state = 'running' THEN
                NEW.fence := OLD.fence + 1;
            END IF;
        WHEN 'retry', 'reopen' THEN
            IF OLD.state <> 'running' THEN -- a person's, who grants all attempts anew
                NEW.attempt := 0;
                NEW.lost_leases := 0;
                NEW.kills := 0;
                NEW.failing_since := NULL;
            ELSIF NEW.failure_class = 'infrastructure' THEN -- which has a budget of time instead
                NEW.attempt := OLD.attempt - 1;
            END IF;
        ELSE NULL;
    END CASE;
    NEW.due_at := NULL;
    NEW.retry_at := NULL;
    NEW.finished_at := NULL;
    CASE e.to_state
        WHEN 'ready' THEN
            NEW.ready_at := greatest(NEW.ready_at, v_now);
            NEW.wake_seq := OLD.wake_seq + 1;
            NEW.job_id := NULL;
            NEW.due_at := NEW.ready_at;
        WHEN 'retrying' THEN
            NEW.retry_at := NEW.ready_at;
            v_data := v_data || jsonb_build_object('at', public_time(NEW.ready_at));
        WHEN 'waiting' THEN
            v_data := v_data || jsonb_build_object('at', public_time(NEW.wait_until));
        WHEN 'succeeded', 'failed', 'skipped', 'cancelled' THEN
            NEW.finished_at := v_now;
        ELSE NULL;
    END CASE;
    NEW.waiting_since := CASE WHEN e.to_state = 'waiting' THEN v_now END;
    IF e.to_state <> 'waiting' THEN
        NEW.wait_until := NULL;
        NEW.signal_key := NULL;
    ELSIF NEW.wait_until IS NULL THEN
        RAISE EXCEPTION 'step %: a wait has a deadline', OLD.id USING ERRCODE = 'NX006';
    END IF;
    NEW.outputs_bytes := octet_length(NEW.outputs::text);
    IF length(NEW.reason) > 2048 OR pg_column_size(NEW.outputs) > 262144 THEN
        RAISE EXCEPTION 'step %: its reason or its outputs are too long', OLD.id USING ERRCODE = 'check_violation';
    END IF;
    IF e.to_state NOT IN ('failed', 'cancelled', 'retrying') THEN
        NEW.failure_class := NULL;
    ELSIF NEW.failure_class IS NOT NULL THEN
        v_data := v_data || jsonb_build_object('failure_class', NEW.failure_class);
    END IF;

    IF v_telling THEN
        RETURN NEW;
    END IF;
    UPDATE run r SET event_seq = r.event_seq + 1,
        pending_steps  = r.pending_steps  + (e.to_state = 'pending')::int  - (OLD.state = 'pending')::int,
        ready_steps    = r.ready_steps    + (e.to_state = 'ready')::int    - (OLD.state = 'ready')::int,
        running_steps  = r.running_steps  + (e.to_state = 'running')::int  - (OLD.state = 'running')::int,
        retrying_steps = r.retrying_steps + (e.to_state = 'retrying')::int - (OLD.state = 'retrying')::int,
        waiting_steps  = r.waiting_steps  + (e.to_state = 'waiting')::int  - (OLD.state = 'waiting')::int,
        failed_steps   = r.failed_steps   + (e.to_state = 'failed')::int   - (OLD.state = 'failed')::int
    WHERE r.tenant_id = OLD.tenant_id AND r.id = OLD.run_id
    RETURNING r.event_seq, r.trace_id, least(r.pending_steps, r.ready_steps, r.running_steps, r.retrying_steps, r.waiting_steps, r.failed_steps),
        r.state IN ('succeeded', 'failed', 'cancelled') AND r.pending_steps + r.ready_steps + r.running_steps + r.retrying_steps + r.waiting_steps <> 0
    INTO v_seq, v_trace, v_least, v_ended;
    IF v_least < 0 OR v_ended THEN
        RAISE EXCEPTION 'step %: % does not fit its run', OLD.id, e.event USING ERRCODE = 'NX006';
    END IF;
    NEW.failed_seq := CASE e.to_state WHEN 'failed' THEN v_seq END;
    IF e.event = 'claim' THEN
        -- Whoever claims like this is no worker. A lease is taken all the same:
        -- nobody would ever look at a running step that has none.
        INSERT INTO step_lease (tenant_id, step_id, fence, owner, lease_until)
        VALUES (OLD.tenant_id, OLD.id, NEW.fence, session_user, v_now + interval '5 s');
        INSERT INTO attempt (tenant_id, step_id, fence, seq, owner, owner_pid, started_at, trace_id, span_id)
        VALUES (OLD.tenant_id, OLD.id, NEW.fence, v_seq, session_user, 0, v_now, repeat('0', 32), repeat('0', 16));
    END IF;
    PERFORM write_event(OLD.tenant_id, OLD.run_id, v_seq, OLD.id, 'step.' || e.to_state, e.event, OLD.state, e.to_state,
        NEW.reason, v_trace, nullif(NEW.fence, 0), v_data);
    RETURN NEW;
END
$$;

GRANT EXECUTE ON FUNCTION nofx.run_guard(), nofx.run_created(), nofx.step_guard() TO nofx_owner;

RESET ROLE;
SET LOCAL ROLE nofx_owner;

CREATE TRIGGER run_guard BEFORE INSERT OR UPDATE OF state, event, version ON nofx.run
    FOR EACH ROW EXECUTE FUNCTION nofx.run_guard();
CREATE TRIGGER run_created AFTER INSERT ON nofx.run
    FOR EACH ROW EXECUTE FUNCTION nofx.run_created();
CREATE TRIGGER step_guard BEFORE INSERT OR UPDATE OF state, event, version, fence ON nofx.step
    FOR EACH ROW EXECUTE FUNCTION nofx.step_guard();

RESET ROLE;
