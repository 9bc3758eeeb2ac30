-- Merges: the guard of their states, computation, resolutions, commit.

-- Checks every change of a merge's state, and writes its event to the target's events.
CREATE OR REPLACE FUNCTION nofx.merge_guard() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    e nofx.transition;
    v_seq bigint;
    v_trace char(32);
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.state <> 'open' OR NEW.version <> 1 THEN
            RAISE EXCEPTION 'a merge starts open at version 1' USING ERRCODE = 'NX006';
        END IF;
    ELSE
        e := check_change('merge', OLD.id, OLD.state, nullif(NEW.state, OLD.state), NEW.event, NEW.reason, OLD.version, NEW.version, false);
        NEW.state := e.to_state;
        NEW.updated_at := clock_timestamp();
    END IF;
    UPDATE run r SET event_seq = r.event_seq + 1 WHERE r.tenant_id = NEW.tenant_id AND r.id = NEW.target_run_id
    RETURNING r.event_seq, r.trace_id INTO v_seq, v_trace;
    PERFORM write_events(NEW.tenant_id, ARRAY[ROW(NEW.target_run_id, v_seq, NULL, 'merge.' || NEW.state, e.event,
        CASE WHEN TG_OP = 'UPDATE' THEN OLD.state END, e.to_state,
        jsonb_strip_nulls(jsonb_build_object('merge_id', public_id('mrg', NEW.id), 'source_run_id', public_id('run', NEW.source_run_id),
            'outcome', NEW.outcome, 'conflicts', nullif(NEW.conflicts, 0), 'checkpoint_id', public_id('ckpt', NEW.committed_checkpoint_id))),
        NEW.reason, v_trace, NULL, cause())::nofx.new_event]);
    RETURN NEW;
END
$$;

-- Locks the target of a merge and then the merge.
CREATE OR REPLACE FUNCTION nofx.lock_merge(p_merge uuid) RETURNS nofx.merge
    LANGUAGE plpgsql
AS $$
DECLARE
    m nofx.merge;
BEGIN
    PERFORM lock_run(target_run_id) FROM merge WHERE tenant_id = tenant() AND id = p_merge;
    SELECT * INTO m FROM merge WHERE tenant_id = tenant() AND id = p_merge FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no merge %', p_merge USING ERRCODE = 'NX005', DETAIL = '{"noun":"merge"}';
    END IF;
    RETURN m;
END
$$;

-- Inserts a merge of the heads of two runs, unless there is one of the same heads that was
-- asked for in the same way and is not abandoned, or that cannot be computed. Returns the
-- id and whether it is new. The caller has found the base.
CREATE OR REPLACE FUNCTION nofx.create_merge(p_id uuid, p jsonb, OUT merge_id uuid, OUT created boolean)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    v_target uuid := (p->>'target_run_id')::uuid;
    v_source uuid := (p->>'source_run_id')::uuid;
    v_target_head uuid;
    v_source_head uuid;
BEGIN
    PERFORM lock_run(v_target);
    SELECT r.head_checkpoint_id INTO v_target_head FROM run r WHERE r.tenant_id = tenant() AND r.id = v_target;
    SELECT r.head_checkpoint_id INTO v_source_head FROM run r WHERE r.tenant_id = tenant() AND r.id = v_source;
    SELECT m.id INTO merge_id FROM merge m
    WHERE m.target_run_id = v_target AND m.tenant_id = tenant() AND m.source_run_id = v_source AND m.target_head = v_target_head AND m.source_head = v_source_head
        AND m.strategy = p->>'strategy' AND m.mode = p->>'mode' AND m.asked_base_id IS NOT DISTINCT FROM (p->>'asked_base_id')::uuid
        AND (m.state <> 'abandoned' OR m.failure_code IS NOT NULL)
    ORDER BY m.id DESC LIMIT 1;
    created := NOT FOUND;
    IF created THEN
        merge_id := p_id;
        INSERT INTO merge (tenant_id, id, target_run_id, source_run_id, target_head, source_head, target_leaves, source_leaves, base_id, strategy, mode, asked_base_id, created_by)
        VALUES (tenant(), p_id, v_target, v_source, v_target_head, v_source_head, ARRAY(SELECT run_leaves(v_target)), ARRAY(SELECT run_leaves(v_source)), (p->>'base_id')::uuid, p->>'strategy', p->>'mode',
            (p->>'asked_base_id')::uuid, p->>'created_by');
    END IF;
END
$$;

-- Names the system run that computes a merge.
CREATE OR REPLACE FUNCTION nofx.assign_merge(p_merge uuid, p_run uuid) RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
    UPDATE merge SET work_run_id = p_run WHERE tenant_id = tenant() AND id = p_merge
$$;

-- Records what a step has computed of a merge at one of its versions: conflicts, preview
-- and, when all is decided, the result; or why it cannot be computed, as code and reason.
-- Nothing happens to a merge that has moved on: the transaction can be repeated. A
-- decision that was made before about the same values stays. A merge that is ready and has
-- undecided conflicts after all, since content was purged, is conflicted again. NX004 when
-- the step's attempt has lost its lease.
CREATE OR REPLACE FUNCTION nofx.record_merge(p_step uuid, p_fence bigint, p_merge uuid, p_version bigint, p jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    m nofx.merge;
    v_old jsonb;
    v_conflicts int;
    v_open int;
BEGIN
    PERFORM lock_runs(tenant(), ARRAY(SELECT x.target_run_id FROM merge x WHERE x.tenant_id = tenant() AND x.id = p_merge
        UNION SELECT s.run_id FROM step s WHERE s.tenant_id = tenant() AND s.id = p_step));
    PERFORM hold_step(p_step, p_fence);
    m := lock_merge(p_merge);
    IF m.version <> p_version OR m.state NOT IN ('open', 'ready') OR m.prepared IS NOT NULL THEN
        RETURN;
    END IF;
    IF p ? 'code' THEN
        UPDATE merge SET event = 'abandon', version = version + 1, failure_code = p->>'code', reason = left(p->>'reason', 2048)
        WHERE tenant_id = m.tenant_id AND id = m.id;
        RETURN;
    END IF;
    v_conflicts := jsonb_array_length(p->'conflicts');
    IF m.state = 'ready' AND v_conflicts = m.conflicts AND p ? 'prepared' THEN
        UPDATE merge SET result_tree = p->>'result_tree', result_state = p->>'result_state', prepared = p->'prepared', preview = p->'preview'
        WHERE tenant_id = m.tenant_id AND id = m.id;
        RETURN;
    END IF;
    SELECT coalesce(jsonb_agg(to_jsonb(c)), '[]') INTO v_old FROM merge_conflict c
    WHERE c.tenant_id = m.tenant_id AND c.merge_id = m.id AND (c.resolution IS NOT NULL OR c.reason IS NOT NULL);
    DELETE FROM merge_conflict c WHERE c.tenant_id = m.tenant_id AND c.merge_id = m.id;
    INSERT INTO merge_conflict (tenant_id, merge_id, n, unit, at, kind, line, renamed_to, takes, base, ours, theirs, resolution, value, artifact_id, resolved_by, reason)
    SELECT m.tenant_id, m.id, x.n, x.unit, x.at, x.kind, x.line, x.renamed_to, x.takes, x.base, x.ours, x.theirs,
        CASE WHEN d.same THEN o.resolution ELSE x.resolution END, CASE WHEN d.same THEN o.value END, CASE WHEN d.same THEN o.artifact_id END,
        CASE WHEN d.same THEN o.resolved_by WHEN x.resolution IS NOT NULL THEN m.created_by END,
        CASE WHEN d.same THEN o.reason WHEN o.n IS NOT NULL AND x.resolution IS NULL THEN 'the sides of the conflict have changed since the decision' END
    FROM (SELECT r.*, ord::int AS n FROM jsonb_array_elements(p->'conflicts') WITH ORDINALITY AS e (c, ord),
            jsonb_to_record(e.c) AS r (unit text, at text, kind text, line int, renamed_to text, takes text[], base jsonb, ours jsonb, theirs jsonb, resolution text)) AS x
    LEFT JOIN jsonb_populate_recordset(NULL::nofx.merge_conflict, v_old) AS o ON (o.unit, o.at, o.kind) = (x.unit, x.at, x.kind),
    LATERAL (SELECT o.n IS NOT NULL AND (o.base, o.ours, o.theirs, o.takes) IS NOT DISTINCT FROM (x.base, x.ours, x.theirs, x.takes) AS same) AS d;
    SELECT count(*) FILTER (WHERE c.resolution IS NULL) INTO v_open FROM merge_conflict c WHERE c.tenant_id = m.tenant_id AND c.merge_id = m.id;
    UPDATE merge SET outcome = p->>'outcome', base_id = (p->>'base_id')::uuid, conflicts = v_conflicts, open_conflicts = v_open, preview = p->'preview', reason = NULL
    WHERE tenant_id = m.tenant_id AND id = m.id;
    IF v_open = 0 THEN -- else the result is of decisions that do not stand any more
        UPDATE merge SET result_tree = p->>'result_tree', result_state = p->>'result_state', prepared = p->'prepared' WHERE tenant_id = m.tenant_id AND id = m.id;
    END IF;
    IF m.state = 'open' THEN
        UPDATE merge SET event = CASE WHEN v_conflicts = 0 THEN 'compute_clean' ELSE 'compute_conflicts' END, version = version + 1
        WHERE tenant_id = m.tenant_id AND id = m.id;
        IF v_open = 0 AND v_conflicts > 0 THEN
            UPDATE merge SET event = 'resolve_all', version = version + 1 WHERE tenant_id = m.tenant_id AND id = m.id;
        END IF;
    ELSIF v_open > 0 THEN
        UPDATE merge SET event = 'unresolve', version = version + 1, reason = 'content was purged by an administrator, so that texts cannot be merged by lines any more'
        WHERE tenant_id = m.tenant_id AND id = m.id;
    END IF;
END
$$;

-- Takes purged content out of the conflicts of merges: texts that they quote, of which the
-- conflict is then one of whole files; and decisions that were about it, whose conflicts are
-- open again. The rest of such a merge stays; one that was ready is conflicted again.
--
-- A side that is redacted already was decided by somebody who saw that.
CREATE OR REPLACE FUNCTION nofx.redact_merges(p_sha256 bytea) RETURNS void
    LANGUAGE plpgsql
AS $$
DECLARE
    v_digest text := encode(p_sha256, 'hex');
    v_artifacts uuid[] := ARRAY(SELECT a.id FROM artifact a WHERE a.tenant_id = tenant() AND a.sha256 = p_sha256);
    v_merges uuid[] := ARRAY(SELECT DISTINCT c.merge_id FROM merge_conflict c WHERE c.tenant_id = tenant()
        AND (is_side(c.base, v_digest) OR is_side(c.ours, v_digest) OR is_side(c.theirs, v_digest) OR is_given(c, p_sha256, v_artifacts)));
    v_reason constant text := 'content that the decision was about was purged by an administrator';
    v_live boolean;
    v_open int;
    m nofx.merge;
BEGIN
    PERFORM lock_runs(tenant(), ARRAY(SELECT x.target_run_id FROM merge x WHERE x.tenant_id = tenant() AND x.id = ANY (v_merges)));
    FOR m IN SELECT * FROM merge x WHERE x.tenant_id = tenant() AND x.id = ANY (v_merges) ORDER BY x.id FOR NO KEY UPDATE LOOP
        v_live := m.state IN ('open', 'conflicted', 'ready');
        -- Where lines can be merged, a decision is about those of all sides.
        UPDATE merge_conflict c SET resolution = NULL, value = NULL, artifact_id = NULL, resolved_by = NULL, reason = v_reason
        WHERE v_live AND c.tenant_id = m.tenant_id AND c.merge_id = m.id AND c.resolution IS NOT NULL AND (
            is_given(c, p_sha256, v_artifacts)
            OR c.resolution NOT IN ('value', 'artifact') AND CASE WHEN 'both' = ANY (c.takes)
                THEN is_side(c.base, v_digest) OR is_side(c.ours, v_digest) OR is_side(c.theirs, v_digest)
                ELSE is_side(CASE c.resolution WHEN 'base' THEN c.base WHEN 'ours' THEN c.ours WHEN 'theirs' THEN c.theirs END, v_digest) END);
        UPDATE merge_conflict c SET base = redacted_side(c.base, v_digest), ours = redacted_side(c.ours, v_digest), theirs = redacted_side(c.theirs, v_digest),
            line = NULL, takes = CASE WHEN v_live THEN array_remove(c.takes, 'both') ELSE c.takes END
        WHERE c.tenant_id = m.tenant_id AND c.merge_id = m.id AND (is_side(c.base, v_digest) OR is_side(c.ours, v_digest) OR is_side(c.theirs, v_digest));
        UPDATE merge_conflict c SET value = NULL WHERE c.tenant_id = m.tenant_id AND c.merge_id = m.id AND is_given(c, p_sha256, '{}');
        SELECT count(*) INTO v_open FROM merge_conflict c WHERE c.tenant_id = m.tenant_id AND c.merge_id = m.id AND c.resolution IS NULL;
        CONTINUE WHEN NOT v_live OR v_open = m.open_conflicts;
        UPDATE merge SET open_conflicts = v_open, reason = v_reason WHERE tenant_id = m.tenant_id AND id = m.id;
        IF m.state = 'ready' THEN
            UPDATE merge SET event = 'unresolve', version = version + 1, result_tree = NULL, result_state = NULL, prepared = NULL
            WHERE tenant_id = m.tenant_id AND id = m.id;
        END IF;
    END LOOP;
END
$$;

-- Reports whether a side of a conflict is a file with the digest that is not redacted yet.
CREATE OR REPLACE FUNCTION nofx.is_side(p_side jsonb, p_digest text) RETURNS boolean
    LANGUAGE sql IMMUTABLE
    RETURN p_side->>'sha256' = p_digest AND NOT p_side ? 'kind';

-- Reports whether a conflict is resolved by a content of its own with the digest, which these
-- artifacts have as well.
CREATE OR REPLACE FUNCTION nofx.is_given(c nofx.merge_conflict, p_sha256 bytea, p_artifacts uuid[]) RETURNS boolean
    LANGUAGE sql STABLE
    RETURN coalesce(c.artifact_id = ANY (p_artifacts) OR c.unit = 'path' AND sha256(convert_to(c.value, 'UTF8')) = p_sha256, false);

-- Returns a side of a conflict of whole files, one of which has the digest and is purged.
CREATE OR REPLACE FUNCTION nofx.redacted_side(p_side jsonb, p_digest text) RETURNS jsonb
    LANGUAGE sql IMMUTABLE
    RETURN p_side - 'excerpt' || CASE WHEN p_side->>'sha256' = p_digest THEN '{"kind":"redacted"}' ELSE '{}' END::jsonb;

-- Records resolutions of conflicts: an array of {n, take, value, artifact_id}, where a take
-- of null removes the one that is there. A merge whose last conflict is resolved is ready,
-- and its result is to be computed; one with an open conflict is conflicted again.
CREATE OR REPLACE FUNCTION nofx.resolve_merge(p_merge uuid, p jsonb, p_version bigint) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    m nofx.merge := lock_merge(p_merge);
    v_changed int;
    v_open int;
BEGIN
    PERFORM check_version(p_version, m.version, m.state);
    IF m.state NOT IN ('conflicted', 'ready') THEN
        PERFORM refuse('merge', m.id, m.state, 'resolve_all');
    END IF;
    UPDATE merge_conflict c SET resolution = x.take, value = x.value, artifact_id = x.artifact_id, reason = NULL,
        resolved_by = CASE WHEN x.take IS NOT NULL THEN coalesce(nullif(current_setting('nofx.actor', true), ''), session_user) END
    FROM jsonb_to_recordset(p) AS x (n int, take text, value text, artifact_id uuid)
    WHERE c.tenant_id = m.tenant_id AND c.merge_id = m.id AND c.n = x.n
        AND (c.resolution, c.value, c.artifact_id) IS DISTINCT FROM (x.take, x.value, x.artifact_id);
    GET DIAGNOSTICS v_changed = ROW_COUNT;
    IF v_changed = 0 THEN
        RETURN;
    END IF;
    SELECT count(*) INTO v_open FROM merge_conflict c WHERE c.tenant_id = m.tenant_id AND c.merge_id = m.id AND c.resolution IS NULL;
    IF m.state = 'ready' THEN
        UPDATE merge SET event = 'unresolve', version = version + 1, result_tree = NULL, result_state = NULL, prepared = NULL
        WHERE tenant_id = m.tenant_id AND id = m.id;
    END IF;
    UPDATE merge SET open_conflicts = v_open WHERE tenant_id = m.tenant_id AND id = m.id;
    IF v_open = 0 THEN
        UPDATE merge SET event = 'resolve_all', version = version + 1, reason = NULL WHERE tenant_id = m.tenant_id AND id = m.id;
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION nofx.merge_transition(p_merge uuid, p_event text, p_reason text DEFAULT NULL, p_version bigint DEFAULT NULL) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    m nofx.merge := lock_merge(p_merge);
BEGIN
    PERFORM check_version(p_version, m.version, m.state);
    UPDATE merge SET event = p_event, version = version + 1, reason = p_reason WHERE tenant_id = m.tenant_id AND id = m.id RETURNING state INTO m.state;
    RETURN m.state;
END
$$;

-- Commits a merge whose result is prepared. Its answer is ok; moved, when the target has
-- another head than the one that was merged, and the merge is open again, to be computed
-- anew; or unprepared, when a worker has not stored the result yet. NX008 while the
-- target's steps run or are about to.
--
-- All steps of the target that have not succeeded start from the merged tree, those that
-- wait begin their wait anew, and none of them goes on before the gates that had passed
-- have passed again. p_resume lets a target go on that is paused, failed or was cancelled.
-- requeued is how many of its steps are to run that were not to before.
CREATE OR REPLACE FUNCTION nofx.commit_merge(p_merge uuid, p_version bigint, p_resume boolean, p_reason text, OUT answer text, OUT requeued int)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    m nofx.merge := lock_merge(p_merge);
    r record;
    c jsonb;
    v_checkpoint uuid;
    v_live int;
BEGIN
    answer := 'ok';
    requeued := 0;
    PERFORM check_version(p_version, m.version, m.state), edge('merge', m.id, m.state, 'commit', p_reason);
    SELECT y.state, y.head_checkpoint_id, y.running_steps, y.trace_id,
        y.pending_steps + y.ready_steps + y.retrying_steps + y.waiting_steps AS live INTO r
    FROM run y WHERE y.tenant_id = m.tenant_id AND y.id = m.target_run_id;
    IF r.head_checkpoint_id <> m.target_head THEN
        UPDATE merge SET event = 'target_moved', version = version + 1, target_head = r.head_checkpoint_id, target_leaves = ARRAY(SELECT run_leaves(m.target_run_id)),
            outcome = NULL, preview = NULL, result_tree = NULL, result_state = NULL, prepared = NULL
        WHERE tenant_id = m.tenant_id AND id = m.id;
        answer := 'moved';
        RETURN;
    END IF;
    IF r.state IN ('queued', 'running') OR r.running_steps > 0 THEN
        RAISE EXCEPTION 'run % is %, with % steps running', m.target_run_id, r.state, r.running_steps USING ERRCODE = 'NX008', DETAIL = '{"busy":true}';
    END IF;
    IF m.prepared IS NULL THEN
        answer := 'unprepared';
        RETURN;
    END IF;
    v_checkpoint := m.target_head;
    FOR c IN SELECT e.c FROM jsonb_array_elements(m.prepared) WITH ORDINALITY AS e (c, ord) ORDER BY ord LOOP
        v_checkpoint := (c->>'id')::uuid;
        PERFORM append_checkpoint(m.tenant_id, m.target_run_id, c);
    END LOOP;
    UPDATE merge SET event = 'commit', version = version + 1, committed_checkpoint_id = v_checkpoint, reason = p_reason
    WHERE tenant_id = m.tenant_id AND id = m.id;
    IF v_checkpoint <> m.target_head THEN
        UPDATE run SET head_checkpoint_id = v_checkpoint, start_checkpoint_id = v_checkpoint WHERE tenant_id = m.tenant_id AND id = m.target_run_id;
        IF r.state IN ('paused', 'waiting') THEN
            PERFORM renew_steps(m.tenant_id, m.target_run_id, 'merged');
        END IF;
    END IF;
    IF p_resume AND r.state = 'paused' THEN
        PERFORM unpause_run(m.tenant_id, m.target_run_id, p_reason);
        requeued := r.live;
    ELSIF p_resume AND r.state IN ('failed', 'cancelled') THEN
        PERFORM revive_run(m.tenant_id, m.target_run_id, 'resume', p_reason), reopen_steps(m.tenant_id, m.target_run_id, p_reason);
    END IF;
    SELECT y.pending_steps + y.ready_steps + y.retrying_steps + y.waiting_steps INTO v_live FROM run y WHERE y.tenant_id = m.tenant_id AND y.id = m.target_run_id;
    requeued := greatest(requeued, v_live - r.live);
END
$$;

-- Lets the steps of a live run that have begun to wait, or are about to run, begin anew from
-- the run's start, behind the gates that are to pass again. The caller holds the run's
-- lock, and no step runs.
CREATE OR REPLACE FUNCTION nofx.renew_steps(p_tenant uuid, p_run uuid, p_reason text) RETURNS void
    LANGUAGE plpgsql
AS $$
DECLARE
    v_steps uuid[] := steps_in(p_tenant, p_run, '{ready, retrying, waiting}');
BEGIN
    PERFORM renew_gates(p_tenant, p_run), withdraw_gates(p_tenant, p_run, p_reason);
    PERFORM move_steps(p_tenant, p_run, v_steps, 'cancel', p_reason, 'cancelled');
    PERFORM move_steps(p_tenant, p_run, v_steps, 'reopen', p_reason, NULL);
    PERFORM ready_steps(p_tenant, p_run), settle_run(p_tenant, p_run, false);
END
$$;

-- Sends steps of a live run back that are ready although a gate that they depend on has to
-- pass again.
CREATE OR REPLACE FUNCTION nofx.hold_back(p_tenant uuid, p_run uuid, p_reason text) RETURNS void
    LANGUAGE plpgsql
AS $$
DECLARE
    v_steps uuid[] := ARRAY(SELECT y.id FROM unnest(steps_in(p_tenant, p_run, '{ready}')) AS x (id),
        LATERAL (SELECT s.id, s.deps_left FROM step s WHERE s.tenant_id = p_tenant AND s.id = x.id OFFSET 0) AS y WHERE y.deps_left > 0);
BEGIN
    PERFORM move_steps(p_tenant, p_run, v_steps, 'cancel', p_reason, 'cancelled');
    PERFORM move_steps(p_tenant, p_run, v_steps, 'reopen', p_reason, NULL);
END
$$;

-- Adds to a run with a merge, for each gate that had passed before it, a fresh gate step
-- <name>~<n>, on which all steps depend that have not succeeded. A fresh gate depends on
-- what the old one did, and on the fresh gates of those before it. Nothing happens where
-- that is done, or no step is left to run. The caller holds the run's lock.
CREATE OR REPLACE FUNCTION nofx.renew_gates(p_tenant uuid, p_run uuid) RETURNS void
    LANGUAGE plpgsql
AS $$
DECLARE
    v_seq bigint;
    v_idx int;
    v_left uuid[];
    v_old uuid[];
    v_new uuid[] := '{}';
    v_id uuid;
    v_above uuid[];
    g record;
BEGIN
    SELECT c.seq INTO v_seq FROM run r JOIN checkpoint c ON c.tenant_id = r.tenant_id AND c.id = r.start_checkpoint_id
    WHERE r.tenant_id = p_tenant AND r.id = p_run AND c.run_id = r.id AND c.kind = 'merge';
    IF NOT FOUND THEN
        RETURN;
    END IF;
    v_left := steps_in(p_tenant, p_run, '{pending, ready, retrying, waiting, failed, skipped, cancelled}');
    IF v_left = '{}' THEN
        RETURN;
    END IF;
    -- Of a gate and its fresh ones the last counts.
    v_old := ARRAY(SELECT x.id FROM (
        SELECT DISTINCT ON (split_part(s.name, '~', 1)) s.id, s.idx, s.state, s.seq FROM step s
        WHERE s.tenant_id = p_tenant AND s.run_id = p_run AND (s.tool LIKE 'gate:%' OR s.tool LIKE 'manual:%')
        ORDER BY split_part(s.name, '~', 1), s.idx DESC) AS x
        WHERE x.state = 'succeeded' AND x.seq < v_seq ORDER BY x.idx);
    SELECT max(s.idx) INTO v_idx FROM step s WHERE s.tenant_id = p_tenant AND s.run_id = p_run;
    FOR k IN 1 .. cardinality(v_old) LOOP
        SELECT s.name, s.tool, s.queue, s.spec, s.max_attempts INTO g FROM step s WHERE s.tenant_id = p_tenant AND s.id = v_old[k];
        v_above := ARRAY(
            WITH RECURSIVE above (id) AS (
                SELECT v_old[k]
                UNION
                SELECT d.needs FROM step_dep d JOIN above a ON d.step_id = a.id WHERE d.tenant_id = p_tenant
            )
            SELECT v_new[o.n] FROM unnest(v_old[:k - 1]) WITH ORDINALITY AS o (id, n) JOIN above a ON a.id = o.id);
        v_id := new_id();
        v_idx := v_idx + 1;
        INSERT INTO step (tenant_id, id, run_id, idx, name, tool, queue, spec, max_attempts, deps_left)
        VALUES (p_tenant, v_id, p_run, v_idx, split_part(g.name, '~', 1) || '~' || (
            SELECT count(*) FROM step s WHERE s.tenant_id = p_tenant AND s.run_id = p_run AND split_part(s.name, '~', 1) = split_part(g.name, '~', 1)),
            g.tool, g.queue, g.spec, g.max_attempts, cardinality(v_above));
        INSERT INTO step_dep (tenant_id, run_id, needs, step_id)
        SELECT p_tenant, p_run, x.id, v_id FROM (
            SELECT d.needs FROM step_dep d WHERE d.tenant_id = p_tenant AND d.step_id = v_old[k] UNION SELECT unnest(v_above)) AS x (id);
        v_new := v_new || v_id;
    END LOOP;
    IF v_new = '{}' THEN
        RETURN;
    END IF;
    UPDATE run SET pending_steps = pending_steps + cardinality(v_new) WHERE tenant_id = p_tenant AND id = p_run;
    INSERT INTO step_dep (tenant_id, run_id, needs, step_id) SELECT p_tenant, p_run, n.id, l.id FROM unnest(v_new) AS n (id), unnest(v_left) AS l (id);
    UPDATE step SET deps_left = deps_left + cardinality(v_new) WHERE tenant_id = p_tenant AND id = ANY (v_left);
END
$$;

-- Returns a UUIDv7, as Go makes them for all other rows.
CREATE OR REPLACE FUNCTION nofx.new_id() RETURNS uuid
    LANGUAGE sql VOLATILE
    RETURN encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid())
        PLACING substring(int8send((extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3) FROM 1 FOR 6), 52, 1), 53, 1), 'hex')::uuid;

GRANT EXECUTE ON FUNCTION
    nofx.create_merge(uuid, jsonb),
    nofx.assign_merge(uuid, uuid),
    nofx.resolve_merge(uuid, jsonb, bigint),
    nofx.merge_transition(uuid, text, text, bigint),
    nofx.commit_merge(uuid, bigint, boolean, text)
TO nofx_gateway;

GRANT EXECUTE ON FUNCTION
    nofx.record_merge(uuid, bigint, uuid, bigint, jsonb)
TO nofx_worker;

GRANT EXECUTE ON FUNCTION
    nofx.merge_guard()
TO nofx_owner;

SET LOCAL ROLE nofx_owner;

CREATE OR REPLACE TRIGGER merge_guard BEFORE INSERT OR UPDATE OF state, event, version ON nofx.merge
    FOR EACH ROW EXECUTE FUNCTION nofx.merge_guard();

SET LOCAL ROLE nofx_system;
