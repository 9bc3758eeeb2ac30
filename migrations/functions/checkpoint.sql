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
    INSERT INTO checkpoint (tenant_id, id, run_id, seq, kind, step_id, fence, generation, digest, manifest, state_digest, state_inline, tree_digest, bytes_new)
    VALUES (p_tenant, v_id, p_run, p_seq, v_kind, p_step, p_fence, (c->>'generation')::int, c->>'digest', decode(c->>'manifest', 'base64'),
        c->>'state_digest', decode(c->>'state_inline', 'base64'), c->>'tree_digest', (c->>'bytes_new')::bigint);
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
    nofx.record_checkpoints(jsonb),
    nofx.record_corrupt(uuid, bigint, uuid, text, uuid)
TO nofx_app;
