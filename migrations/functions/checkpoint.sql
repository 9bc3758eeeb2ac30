-- Checkpoints of steps, recorded with the fence of their attempt.

-- Inserts a checkpoint with its parents under a seq of its run, and returns the data of its
-- event.
CREATE OR REPLACE FUNCTION nofx.store_checkpoint(p_tenant uuid, p_run uuid, p_step uuid, p_fence bigint, p_seq bigint, c jsonb) RETURNS jsonb
    LANGUAGE plpgsql
AS $$
DECLARE
    v_id uuid := (c->>'id')::uuid;
    v_kind text := c->>'kind';
BEGIN
    IF (v_kind IN ('pre', 'post', 'gate_failed', 'wait', 'interrupt', 'edit', 'merge', 'manual') AND (c->>'generation')::int >= 1
        AND is_digest(c->>'digest') AND is_digest(c->>'state_digest') AND is_digest(c->>'tree_digest')
        AND length(c->>'manifest') <= 349528 AND coalesce(length(c->>'state_inline'), 0) <= 87384) IS NOT TRUE THEN -- 256 and 64 KiB in base64
        RAISE EXCEPTION 'checkpoint %: kind, generation, digests or sizes', v_id USING ERRCODE = 'check_violation';
    END IF;
    INSERT INTO checkpoint (tenant_id, id, run_id, seq, kind, step_id, fence, generation, digest, manifest, state_digest, state_inline, tree_digest, bytes_new, label)
    VALUES (p_tenant, v_id, p_run, p_seq, v_kind, p_step, p_fence, (c->>'generation')::int, c->>'digest', decode(c->>'manifest', 'base64'),
        c->>'state_digest', decode(c->>'state_inline', 'base64'), c->>'tree_digest', (c->>'bytes_new')::bigint, c->>'label');
    IF c ? 'parents' THEN
        INSERT INTO checkpoint_parent (tenant_id, checkpoint_id, ord, parent_id)
        SELECT p_tenant, v_id, p.ord, p.id::uuid FROM jsonb_array_elements_text(c->'parents') WITH ORDINALITY AS p (id, ord);
    END IF;
    RETURN jsonb_build_object('checkpoint_id', public_id('ckpt', v_id), 'kind', v_kind, 'digest', c->>'digest', 'bytes_new', (c->>'bytes_new')::bigint);
END
$$;

-- Records checkpoints of running attempts; p is an array of {run_id, step_id, fence,
-- traceparent, checkpoint}. The kinds post and wait are recorded only by a finish, since
-- successors start from them.
CREATE OR REPLACE FUNCTION nofx.record_checkpoints(p jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    v_tenant uuid := tenant();
    v_runs uuid[] := '{}';
    v_events nofx.new_event[] := '{}';
    v_item jsonb;
    v_run uuid;
    v_step uuid;
    v_fence bigint;
    r record;
BEGIN
    FOR k IN 0 .. jsonb_array_length(p) - 1 LOOP
        v_runs := v_runs || (p->k->>'run_id')::uuid;
    END LOOP;
    PERFORM lock_runs(v_tenant, v_runs);
    FOR k IN 0 .. jsonb_array_length(p) - 1 LOOP
        v_item := p->k;
        v_run := (v_item->>'run_id')::uuid;
        v_step := (v_item->>'step_id')::uuid;
        v_fence := (v_item->>'fence')::bigint;
        IF v_item->'checkpoint'->>'kind' IN ('post', 'wait') THEN
            RAISE EXCEPTION 'a % checkpoint comes with the finish', v_item->'checkpoint'->>'kind' USING ERRCODE = 'NX006';
        END IF;
        IF NOT is_held(v_tenant, v_run, v_step, v_fence) THEN
            PERFORM hold_step(v_step, v_fence); -- which says what is wrong
        END IF;
        UPDATE run y SET event_seq = y.event_seq + 1 WHERE y.tenant_id = v_tenant AND y.id = v_run RETURNING y.event_seq, y.trace_id INTO r;
        v_events := v_events || plain_event(v_run, r.event_seq, v_step, 'checkpoint.created', v_fence,
            store_checkpoint(v_tenant, v_run, v_step, v_fence, r.event_seq, v_item->'checkpoint'), r.trace_id, v_item->>'traceparent');
    END LOOP;
    PERFORM write_events(v_tenant, v_events);
END
$$;

-- Records a checkpoint of another run that a system step has made. Nothing happens where the
-- checkpoint is there already: the transaction can be repeated. NX004 when the step's
-- attempt has lost its lease, NX005 when the run is gone.
CREATE OR REPLACE FUNCTION nofx.add_checkpoint(p_step uuid, p_fence bigint, p_run uuid, c jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    v_tenant uuid := tenant();
BEGIN
    PERFORM lock_runs(v_tenant, ARRAY(SELECT s.run_id FROM step s WHERE s.tenant_id = v_tenant AND s.id = p_step) || p_run);
    PERFORM hold_step(p_step, p_fence);
    IF EXISTS (SELECT FROM checkpoint x WHERE x.tenant_id = v_tenant AND x.id = (c->>'id')::uuid) THEN
        RETURN;
    END IF;
    PERFORM append_checkpoint(v_tenant, p_run, c);
END
$$;

-- Inserts a checkpoint of no step, with its event. The caller holds the run's lock. NX005
-- when the run is gone.
CREATE OR REPLACE FUNCTION nofx.append_checkpoint(p_tenant uuid, p_run uuid, c jsonb) RETURNS void
    LANGUAGE plpgsql
AS $$
DECLARE
    r record;
BEGIN
    UPDATE run y SET event_seq = y.event_seq + 1 WHERE y.tenant_id = p_tenant AND y.id = p_run AND y.expired_at IS NULL RETURNING y.event_seq, y.trace_id INTO r;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no run %', p_run USING ERRCODE = 'NX005', DETAIL = '{"noun":"run"}';
    END IF;
    PERFORM write_events(p_tenant, ARRAY[plain_event(p_run, r.event_seq, NULL, 'checkpoint.created', NULL,
        store_checkpoint(p_tenant, p_run, NULL, NULL, r.event_seq, c), r.trace_id, cause())]);
END
$$;

-- Returns the checkpoints from which the next steps of a run start, without those from which
-- another of them descends, in the order of the plan.
CREATE OR REPLACE FUNCTION nofx.run_leaves(p_run uuid) RETURNS SETOF uuid
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
    WITH RECURSIVE head (id, idx) AS (
        SELECT s.head_checkpoint_id, s.idx FROM step s WHERE s.tenant_id = tenant() AND s.run_id = p_run AND s.head_checkpoint_id IS NOT NULL
        UNION ALL
        SELECT r.start_checkpoint_id, -1 FROM run r WHERE r.tenant_id = tenant() AND r.id = p_run AND r.start_checkpoint_id IS NOT NULL
    ), above (id) AS (
        SELECT p.parent_id FROM head h JOIN checkpoint_parent p ON p.tenant_id = tenant() AND p.checkpoint_id = h.id
        UNION
        SELECT p.parent_id FROM above a JOIN checkpoint_parent p ON p.tenant_id = tenant() AND p.checkpoint_id = a.id
    )
    SELECT h.id FROM head h WHERE h.id NOT IN (SELECT a.id FROM above a) GROUP BY h.id ORDER BY min(h.idx)
$$;

-- Records the result of a bisection's command at a checkpoint, as an event of the system run.
-- NX004 when the step's attempt has lost its lease.
CREATE OR REPLACE FUNCTION nofx.record_probe(p_step uuid, p_fence bigint, p_probe jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    s nofx.locked_step := hold_step(p_step, p_fence);
BEGIN
    PERFORM append_event(s.tenant_id, s.run_id, s.id, 'bisect.probed', p_fence, p_probe);
END
$$;

-- Changes the label and the hold of a checkpoint, each unless its argument is NULL; an empty
-- label removes it. Nothing is written where both are as they were. NX005 for an unknown
-- checkpoint.
CREATE OR REPLACE FUNCTION nofx.mark_checkpoint(p_run uuid, p_id uuid, p_label text, p_hold boolean, p_reason text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    v_held boolean;
BEGIN
    PERFORM lock_runs(tenant(), ARRAY[p_run]);
    SELECT c.hold INTO v_held FROM checkpoint c JOIN run r ON r.tenant_id = c.tenant_id AND r.id = c.run_id
    WHERE c.tenant_id = tenant() AND c.run_id = p_run AND c.id = p_id AND r.expired_at IS NULL;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no checkpoint %', p_id USING ERRCODE = 'NX005', DETAIL = '{"noun":"checkpoint"}';
    END IF;
    UPDATE checkpoint c SET label = nullif(coalesce(p_label, c.label), ''), hold = coalesce(p_hold, c.hold)
    WHERE c.tenant_id = tenant() AND c.run_id = p_run AND c.id = p_id
        AND (c.label, c.hold) IS DISTINCT FROM (nullif(coalesce(p_label, c.label), ''), coalesce(p_hold, c.hold));
    IF FOUND THEN
        PERFORM append_event(tenant(), p_run, NULL, 'checkpoint.marked', NULL, jsonb_strip_nulls(jsonb_build_object(
            'checkpoint_id', public_id('ckpt', p_id), 'label', p_label, 'hold', p_hold, 'reason', p_reason)));
    END IF;
    IF p_hold <> v_held THEN
        PERFORM audit(CASE WHEN p_hold THEN 'checkpoint.hold' ELSE 'checkpoint.release' END, public_id('ckpt', p_id), p_reason, NULL, jsonb_build_object('run_id', public_id('run', p_run)));
    END IF;
END
$$;

-- Writes that a running attempt cannot start from a checkpoint because of lost bytes.
-- p_ancestor is the nearest earlier checkpoint that has all its bytes, as far as is known.
CREATE OR REPLACE FUNCTION nofx.record_corrupt(p_step uuid, p_fence bigint, p_checkpoint uuid, p_code text, p_ancestor uuid) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    s nofx.locked_step := hold_step(p_step, p_fence);
BEGIN
    PERFORM append_event(s.tenant_id, s.run_id, s.id, 'checkpoint.corrupt', p_fence, jsonb_strip_nulls(jsonb_build_object(
        'checkpoint_id', public_id('ckpt', p_checkpoint), 'code', p_code, 'ancestor_id', public_id('ckpt', p_ancestor))));
END
$$;

GRANT EXECUTE ON FUNCTION
    nofx.run_leaves(uuid)
TO nofx_app;

GRANT EXECUTE ON FUNCTION
    nofx.mark_checkpoint(uuid, uuid, text, boolean, text)
TO nofx_gateway;

GRANT EXECUTE ON FUNCTION
    nofx.add_checkpoint(uuid, bigint, uuid, jsonb),
    nofx.record_probe(uuid, bigint, jsonb),
    nofx.record_checkpoints(jsonb),
    nofx.record_corrupt(uuid, bigint, uuid, text, uuid)
TO nofx_worker;
