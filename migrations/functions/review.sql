-- Reviews: the guards of their states and of those of findings; beginnings, artifacts and
-- results of reviews; decisions of people about findings.

-- Checks every change of a review's state, and writes its event to its run.
CREATE OR REPLACE FUNCTION nofx.review_guard() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    e nofx.transition;
    v_fence bigint;
    v_seq bigint;
    v_trace char(32);
BEGIN
    SELECT nullif(s.fence, 0) INTO v_fence FROM step s WHERE s.tenant_id = NEW.tenant_id AND s.id = NEW.step_id;
    IF TG_OP = 'INSERT' THEN
        IF NEW.state <> 'queued' OR NEW.version <> 1 THEN
            RAISE EXCEPTION 'a review starts queued at version 1' USING ERRCODE = 'NX006';
        END IF;
    ELSE
        e := check_change('review', OLD.id, OLD.state, nullif(NEW.state, OLD.state), NEW.event, NEW.reason, OLD.version, NEW.version, false);
        IF e.needs_lease THEN
            PERFORM check_lease('review', OLD.id, OLD.tenant_id, OLD.step_id, v_fence);
        END IF;
        NEW.state := e.to_state;
        NEW.started_at := CASE WHEN e.event = 'start' THEN clock_timestamp() ELSE OLD.started_at END;
        NEW.finished_at := CASE WHEN e.final THEN clock_timestamp() END;
    END IF;
    UPDATE run r SET event_seq = r.event_seq + 1 WHERE r.tenant_id = NEW.tenant_id AND r.id = NEW.run_id
    RETURNING r.event_seq, r.trace_id INTO v_seq, v_trace;
    PERFORM write_events(NEW.tenant_id, ARRAY[ROW(NEW.run_id, v_seq, NEW.step_id, 'review.' || NEW.state, e.event,
        CASE WHEN TG_OP = 'UPDATE' THEN OLD.state END, e.to_state,
        jsonb_strip_nulls(jsonb_build_object('review_id', public_id('rev', NEW.id), 'provider', NEW.provider,
            'repository', nullif(NEW.repository, ''), 'pull_request', nullif(NEW.pull_request, 0), 'head_sha', NEW.head_sha, 'dry_run', NEW.dry_run,
            'verdict', NEW.verdict, 'counts', NEW.result->'counts', 'superseded_by', public_id('rev', NEW.superseded_by))),
        NEW.reason, v_trace, v_fence, cause())::nofx.new_event]);
    RETURN NEW;
END
$$;

-- Checks every change of a finding's state, and writes its event to the run of the newest
-- review that reported it.
CREATE OR REPLACE FUNCTION nofx.finding_guard() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    e nofx.transition;
    v_run uuid;
    v_seq bigint;
    v_trace char(32);
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.state <> 'open' OR NEW.version <> 1 THEN
            RAISE EXCEPTION 'a finding starts open at version 1' USING ERRCODE = 'NX006';
        END IF;
    ELSE
        e := check_change('finding', OLD.id, OLD.state, nullif(NEW.state, OLD.state), NEW.event, NEW.reason, OLD.version, NEW.version, false);
        NEW.state := e.to_state;
        NEW.scope := CASE WHEN e.to_state = 'dismissed' THEN coalesce(NEW.scope, 'this') END;
        NEW.expires_at := CASE WHEN e.to_state = 'dismissed' THEN NEW.expires_at END;
        NEW.decided_at := clock_timestamp();
        NEW.decided_by := coalesce(nullif(current_setting('nofx.actor', true), ''), session_user);
        NEW.updated_at := clock_timestamp();
    END IF;
    UPDATE run r SET event_seq = r.event_seq + 1 FROM review v
    WHERE v.tenant_id = NEW.tenant_id AND v.id = NEW.last_review_id AND r.tenant_id = NEW.tenant_id AND r.id = v.run_id
    RETURNING r.id, r.event_seq, r.trace_id INTO v_run, v_seq, v_trace;
    PERFORM write_events(NEW.tenant_id, ARRAY[ROW(v_run, v_seq, NULL, 'finding.' || NEW.state, e.event,
        CASE WHEN TG_OP = 'UPDATE' THEN OLD.state END, e.to_state,
        jsonb_strip_nulls(jsonb_build_object('finding_id', public_id('find', NEW.id), 'review_id', public_id('rev', NEW.last_review_id),
            'severity', NEW.severity, 'path', left(NEW.path, 500), 'scope', NEW.scope)),
        NEW.reason, v_trace, NULL, cause())::nofx.new_event]);
    RETURN NEW;
END
$$;

-- Reports whether two names of commits mean the same. Some forges shorten them, to 12 digits
-- or more.
CREATE OR REPLACE FUNCTION nofx.same_commit(a text, b text) RETURNS boolean
    LANGUAGE sql IMMUTABLE
    RETURN a IS NOT DISTINCT FROM b OR coalesce(length(a) >= 12 AND starts_with(b, a) OR length(b) >= 12 AND starts_with(a, b), false);

-- Returns the newest review of one head of a change that is under way or completed. Until
-- the end of the transaction no other can begin one of the change.
CREATE OR REPLACE FUNCTION nofx.find_review(p_change text, p_head text, p_dry_run boolean) RETURNS uuid
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    v uuid;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(tenant() || p_change, 0));
    SELECT r.id INTO v FROM review r
    WHERE r.tenant_id = tenant() AND r.change = p_change AND same_commit(r.head_sha, p_head) AND r.dry_run = p_dry_run
        AND (r.state IN ('queued', 'running') OR r.state = 'completed' AND p_head IS NOT NULL)
    ORDER BY r.id DESC LIMIT 1;
    RETURN v;
END
$$;

-- Inserts the review that a run was made for; p as begin_review takes it, with run_id,
-- step_id and rerun_of, and with artifact if a diff was posted: an artifact of the run whose
-- bytes are stored. Earlier reviews of the change that are not over are superseded, but not
-- by a rerun: its head may be the older one.
CREATE OR REPLACE FUNCTION nofx.create_review(p_id uuid, p jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
BEGIN
    PERFORM insert_review(p_id, p, true);
    IF p->'artifact' <> 'null' THEN
        INSERT INTO object (tenant_id, key, sha256, bytes, kind)
        VALUES (tenant(), p->'artifact'->>'key', decode(p->'artifact'->>'sha256', 'hex'), (p->'artifact'->>'size_bytes')::bigint, 'blob');
        INSERT INTO artifact (tenant_id, id, run_id, name, key, media_type, size_bytes, sha256)
        VALUES (tenant(), (p->'artifact'->>'id')::uuid, (p->>'run_id')::uuid, p->'artifact'->>'name', p->'artifact'->>'key', p->'artifact'->>'media_type',
            (p->'artifact'->>'size_bytes')::bigint, decode(p->'artifact'->>'sha256', 'hex'));
    END IF;
    IF p->>'head_sha' IS NOT NULL AND p->>'rerun_of' IS NULL THEN
        PERFORM supersede_reviews(p_id);
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION nofx.insert_review(p_id uuid, p jsonb, p_own_run boolean) RETURNS void
    LANGUAGE sql
AS $$
    INSERT INTO review (tenant_id, id, run_id, step_id, provider, repository, pull_request, change, head_sha, dry_run, own_run, rerun_of, created_by)
    VALUES (tenant(), p_id, (p->>'run_id')::uuid, (p->>'step_id')::uuid, p->>'provider', coalesce(p->>'repository', ''), coalesce((p->>'pull_request')::int, 0),
        coalesce(p->>'change', public_id('rev', p_id)), p->>'head_sha', coalesce((p->>'dry_run')::boolean, false), p_own_run, (p->>'rerun_of')::uuid, p->>'created_by')
$$;

-- Ends the reviews of other heads of a pull request that began before one of its reviews
-- and are not over, and cancels the runs that were made for them.
CREATE OR REPLACE FUNCTION nofx.supersede_reviews(p_review uuid) RETURNS void
    LANGUAGE plpgsql
AS $$
DECLARE
    v nofx.review;
    v_reason text;
    x record;
BEGIN
    SELECT * INTO v FROM review r WHERE r.tenant_id = tenant() AND r.id = p_review;
    IF v.pull_request = 0 THEN
        RETURN;
    END IF;
    v_reason := 'superseded by ' || public_id('rev', v.id) || ' of head ' || v.head_sha;
    PERFORM lock_runs(v.tenant_id, ARRAY(SELECT r.run_id FROM review r WHERE r.tenant_id = v.tenant_id AND r.change = v.change AND r.state IN ('queued', 'running') AND r.id < v.id) || v.run_id);
    FOR x IN
        SELECT r.id, r.run_id, r.own_run FROM review r
        WHERE r.tenant_id = v.tenant_id AND r.change = v.change AND r.state IN ('queued', 'running') AND r.id < v.id AND NOT same_commit(r.head_sha, v.head_sha) AND r.dry_run = v.dry_run
        ORDER BY r.run_id FOR NO KEY UPDATE
    LOOP
        UPDATE review SET event = 'supersede', version = version + 1, reason = v_reason, superseded_by = v.id WHERE tenant_id = v.tenant_id AND id = x.id;
        IF x.own_run THEN
            PERFORM end_run(x.run_id, 'cancel', v_reason, NULL, 'cancelled') FROM run r
            WHERE r.tenant_id = v.tenant_id AND r.id = x.run_id AND r.finished_at IS NULL;
        END IF;
    END LOOP;
END
$$;

-- Begins or continues the review of a step, and returns it. That of an attempt before is
-- continued, unless a verdict came of it: then a new one begins. One that is over without
-- one, since the worker ended in between, is returned as it is. p has provider, repository,
-- pull_request, change, head_sha, dry_run and created_by, for a review that does not exist
-- yet. Dismissals whose time is over end. NX004 when the attempt has lost its lease.
CREATE OR REPLACE FUNCTION nofx.begin_review(p_step uuid, p_fence bigint, p_id uuid, p jsonb) RETURNS nofx.review
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    s nofx.locked_step := hold_step(p_step, p_fence);
    v nofx.review;
BEGIN
    SELECT * INTO v FROM review r WHERE r.step_id = s.id AND r.tenant_id = s.tenant_id ORDER BY r.id DESC LIMIT 1 FOR NO KEY UPDATE;
    IF v.state = 'running' THEN
        UPDATE review SET event = 'lease_expired', version = version + 1, reason = 'another attempt continues it' WHERE tenant_id = v.tenant_id AND id = v.id;
    ELSIF v.id IS NULL OR v.state = 'failed' OR v.state IN ('completed', 'superseded') AND EXISTS (
        SELECT FROM gate g WHERE g.step_id = s.id AND g.tenant_id = s.tenant_id AND g.created_at > v.finished_at) THEN
        PERFORM insert_review(p_id, p || jsonb_build_object('run_id', s.run_id, 'step_id', s.id, 'rerun_of', v.id), coalesce(v.own_run, false));
        v.id := p_id;
        v.state := 'queued';
    ELSIF v.state <> 'queued' THEN
        RETURN v;
    END IF;
    UPDATE review SET event = 'start', version = version + 1, reason = NULL WHERE tenant_id = s.tenant_id AND id = v.id RETURNING * INTO v;
    UPDATE finding SET event = 'dismissal_expired', version = version + 1, reason = NULL
    WHERE tenant_id = v.tenant_id AND change = v.change AND state = 'dismissed' AND expires_at <= clock_timestamp();
    RETURN v;
END
$$;

-- Records the commits that a review is of, once they are known, and supersedes the reviews
-- of other heads. A longer name of the head stays. p_account is ours on the
-- forge. Returns the id of another review of the same head, which then supersedes
-- this one, or NULL.
CREATE OR REPLACE FUNCTION nofx.note_review_head(p_step uuid, p_fence bigint, p_review uuid, p_head text, p_base text, p_account text) RETURNS uuid
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    s nofx.locked_step;
    v nofx.review;
    v_other uuid;
BEGIN
    SELECT * INTO v FROM review r WHERE r.tenant_id = tenant() AND r.id = p_review;
    IF v.head_sha IS NULL THEN
        v_other := find_review(v.change, p_head, v.dry_run);
    END IF;
    s := hold_step(p_step, p_fence);
    IF v_other IS NOT NULL AND v.rerun_of IS NULL THEN
        UPDATE review SET event = 'supersede', version = version + 1, superseded_by = v_other,
            reason = 'head ' || p_head || ' has the review ' || public_id('rev', v_other)
        WHERE tenant_id = s.tenant_id AND id = p_review AND step_id = s.id AND state = 'running';
        RETURN v_other;
    END IF;
    UPDATE review SET head_sha = CASE WHEN same_commit(head_sha, p_head) AND length(head_sha) > length(p_head) THEN head_sha ELSE p_head END, base_sha = p_base, account = p_account WHERE tenant_id = s.tenant_id AND id = p_review AND step_id = s.id;
    PERFORM supersede_reviews(p_review);
    RETURN NULL;
END
$$;

-- Takes a review through one event by its step's attempt, and returns the new state.
CREATE OR REPLACE FUNCTION nofx.review_transition(p_review uuid, p_event text, p_reason text DEFAULT NULL, p_version bigint DEFAULT NULL, p_fence bigint DEFAULT NULL) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    s nofx.locked_step;
    v nofx.review;
BEGIN
    SELECT * INTO v FROM review r WHERE r.tenant_id = tenant() AND r.id = p_review;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no review %', p_review USING ERRCODE = 'NX005', DETAIL = '{"noun":"review"}';
    END IF;
    s := lock_step(v.step_id);
    SELECT * INTO v FROM review r WHERE r.tenant_id = s.tenant_id AND r.id = p_review FOR NO KEY UPDATE;
    PERFORM check_version(p_version, v.version, v.state), edge('review', v.id, v.state, p_event, p_reason), check_fence(p_fence, s.fence);
    UPDATE review SET event = p_event, version = version + 1, reason = p_reason
    WHERE tenant_id = s.tenant_id AND id = p_review RETURNING state INTO v.state;
    RETURN v.state;
END
$$;

-- Records an artifact of a stage of a review, in place of one that was made from another
-- input: p has stage, ordinal, input, and the artifact's id, name, key, media_type,
-- size_bytes and sha256. NX004 when the attempt has lost its lease.
CREATE OR REPLACE FUNCTION nofx.keep_review_artifact(p_step uuid, p_fence bigint, p_review uuid, p jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    s nofx.locked_step := hold_step(p_step, p_fence);
    v_old uuid;
BEGIN
    SELECT a.artifact_id INTO v_old FROM review_artifact a
    WHERE a.tenant_id = s.tenant_id AND a.review_id = p_review AND a.stage = p->>'stage' AND a.ordinal = (p->>'ordinal')::int;
    IF v_old = (p->>'id')::uuid THEN
        RETURN;
    END IF;
    INSERT INTO object (tenant_id, key, sha256, bytes, kind)
    VALUES (s.tenant_id, p->>'key', decode(p->>'sha256', 'hex'), (p->>'size_bytes')::bigint, 'blob')
    ON CONFLICT (tenant_id, key) DO UPDATE SET state = 'live', condemned_at = NULL;
    INSERT INTO artifact (tenant_id, id, run_id, step_id, fence, name, key, media_type, size_bytes, sha256)
    VALUES (s.tenant_id, (p->>'id')::uuid, s.run_id, s.id, s.fence, p->>'name', p->>'key', p->>'media_type', (p->>'size_bytes')::bigint, decode(p->>'sha256', 'hex'));
    INSERT INTO review_artifact (tenant_id, review_id, stage, ordinal, artifact_id, input)
    VALUES (s.tenant_id, p_review, p->>'stage', (p->>'ordinal')::int, (p->>'id')::uuid, p->>'input')
    ON CONFLICT (tenant_id, review_id, stage, ordinal) DO UPDATE SET artifact_id = excluded.artifact_id, input = excluded.input, created_at = clock_timestamp();
    DELETE FROM artifact a WHERE a.tenant_id = s.tenant_id AND a.id = v_old;
END
$$;

-- Completes a review: p has verdict, result, policy_hash, model, tokens, cost_usd; occurrences,
-- each with a finding, known or new, with its disposition and why; and fixed, the findings
-- that are no longer there, with evidence. A dry run leaves the findings of its change as
-- they are, and its new ones are its own. Nothing happens to a review that is over. NX004
-- when the attempt has lost its lease.
CREATE OR REPLACE FUNCTION nofx.finish_review(p_step uuid, p_fence bigint, p_review uuid, p jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    s nofx.locked_step := hold_step(p_step, p_fence);
    v nofx.review;
    o record;
BEGIN
    SELECT * INTO v FROM review r WHERE r.tenant_id = s.tenant_id AND r.id = p_review AND r.step_id = s.id FOR NO KEY UPDATE;
    IF v.state IS DISTINCT FROM 'running' THEN
        RETURN;
    END IF;
    FOR o IN SELECT * FROM jsonb_to_recordset(p->'occurrences') AS x (id uuid, finding jsonb, disposition text, why text) ORDER BY x.id LOOP
        PERFORM report_finding(v, o.id, o.finding, o.why);
        INSERT INTO finding_occurrence (tenant_id, review_id, finding_id, anchor, disposition, why)
        VALUES (v.tenant_id, v.id, o.id, o.finding->'anchor', o.disposition, o.why);
    END LOOP;
    UPDATE finding y SET event = 'fix', version = version + 1, reason = NULL, gone = x.evidence
    FROM jsonb_to_recordset(p->'fixed') AS x (id uuid, evidence jsonb)
    WHERE y.tenant_id = s.tenant_id AND y.id = x.id AND y.state = 'open' AND NOT v.dry_run;
    IF p ? 'posted' THEN
        PERFORM append_event(v.tenant_id, v.run_id, v.step_id, 'review.posted', s.fence, p->'posted' || jsonb_build_object('review_id', public_id('rev', v.id)));
    END IF;
    UPDATE review SET event = 'complete', version = version + 1, reason = NULL, verdict = p->>'verdict', result = p->'result', policy_hash = p->>'policy_hash',
        model = p->>'model', tokens = (p->>'tokens')::bigint, cost_usd = (p->>'cost_usd')::numeric
    WHERE tenant_id = v.tenant_id AND id = v.id;
END
$$;

-- Records a finding of a review: a new one, which an earlier dismissal may dismiss at once,
-- or a known one, which opens again if it was fixed. What people decided about it stays.
CREATE OR REPLACE FUNCTION nofx.report_finding(v nofx.review, p_id uuid, f jsonb, p_why text) RETURNS void
    LANGUAGE plpgsql
AS $$
DECLARE
    v_state text;
BEGIN
    SELECT y.state INTO v_state FROM finding y WHERE y.tenant_id = v.tenant_id AND y.id = p_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        INSERT INTO finding (tenant_id, id, change, provider, repository, pull_request, fingerprint, path, category, severity, confidence, rule_id, title, body, evidence, suggestion, anchor,
            first_review_id, last_review_id, thread_id, comment_id, url)
        VALUES (v.tenant_id, p_id, CASE WHEN v.dry_run THEN public_id('rev', v.id) ELSE v.change END, v.provider, v.repository, v.pull_request, f->>'fingerprint', f->'anchor'->>'path', f->>'category', f->>'severity', (f->>'confidence')::float8,
            f->>'rule_id', f->>'title', f->>'body', f->'evidence', f->>'suggestion', f->'anchor', v.id, v.id, f->>'thread_id', f->>'comment_id', f->>'url');
        IF f->>'state' = 'dismissed' THEN
            UPDATE finding SET event = 'dismiss', version = version + 1, reason = coalesce(p_why, 'dismissed') WHERE tenant_id = v.tenant_id AND id = p_id;
        END IF;
        RETURN;
    ELSIF v.dry_run THEN
        RETURN;
    END IF;
    UPDATE finding y SET last_review_id = v.id, fingerprint = f->>'fingerprint', path = f->'anchor'->>'path', severity = f->>'severity', confidence = (f->>'confidence')::float8,
        rule_id = f->>'rule_id', title = f->>'title', body = f->>'body', evidence = f->'evidence', suggestion = f->>'suggestion', anchor = f->'anchor', updated_at = clock_timestamp(),
        thread_id = coalesce(f->>'thread_id', y.thread_id), comment_id = coalesce(f->>'comment_id', y.comment_id), url = coalesce(f->>'url', y.url)
    WHERE y.tenant_id = v.tenant_id AND y.id = p_id;
    IF v_state = 'fixed' THEN
        UPDATE finding SET event = 'recur', version = version + 1, reason = NULL, gone = NULL WHERE tenant_id = v.tenant_id AND id = p_id;
    END IF;
END
$$;

-- Ends the reviews of steps that have ended without a verdict. The caller holds the lock of
-- the run.
CREATE OR REPLACE FUNCTION nofx.fail_reviews(p_tenant uuid, p_run uuid, p_reason text) RETURNS void
    LANGUAGE sql
AS $$
    UPDATE review v SET event = 'fail', version = v.version + 1, reason = left(coalesce(s.reason, p_reason), 2048)
    FROM step s
    WHERE v.run_id = p_run AND v.tenant_id = p_tenant AND v.state IN ('queued', 'running')
        AND s.tenant_id = p_tenant AND s.id = v.step_id AND s.state IN ('failed', 'skipped', 'cancelled')
$$;

-- Returns what the audit log says of a finding before and after a decision.
CREATE OR REPLACE FUNCTION nofx.finding_facts(f nofx.finding) RETURNS jsonb
    LANGUAGE sql STABLE
    RETURN jsonb_build_object('status', f.state, 'version', f.version, 'severity', f.severity, 'scope', f.scope, 'expires_at', nofx.public_time(f.expires_at));

-- Takes a finding through one event, and returns the new state; scope and end are those of a
-- dismissal. p_version is that which the person has seen who decides, NULL: any.
CREATE OR REPLACE FUNCTION nofx.finding_transition(p_finding uuid, p_event text, p_reason text DEFAULT NULL, p_version bigint DEFAULT NULL, p_scope text DEFAULT NULL, p_expires timestamptz DEFAULT NULL) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    f nofx.finding;
    v_before jsonb;
BEGIN
    PERFORM lock_run(v.run_id) FROM finding x JOIN review v ON v.tenant_id = x.tenant_id AND v.id = x.last_review_id
    WHERE x.tenant_id = tenant() AND x.id = p_finding;
    SELECT * INTO f FROM finding x WHERE x.tenant_id = tenant() AND x.id = p_finding FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no finding %', p_finding USING ERRCODE = 'NX005', DETAIL = '{"noun":"finding"}';
    END IF;
    PERFORM check_version(p_version, f.version, f.state), edge('finding', f.id, f.state, p_event, p_reason);
    v_before := finding_facts(f);
    UPDATE finding x SET event = p_event, version = x.version + 1, reason = p_reason, scope = p_scope, expires_at = p_expires
    WHERE x.tenant_id = f.tenant_id AND x.id = f.id RETURNING x.* INTO f;
    PERFORM audit('finding.' || p_event, public_id('find', f.id), p_reason, v_before, finding_facts(f));
    RETURN f.state;
END
$$;

-- Takes the finding that is discussed in a thread of a forge through one event, if its state
-- allows it: p has change, thread, comment (the first of the thread), event and reason, and
-- accounts, the names of the account that settled the thread. Returns the finding with its
-- state, and what came of it: settled; refused by its state; or ours, where our own account
-- settles the threads of what a review that is not over found fixed, which that review will
-- say. No row: no finding has the thread.
CREATE OR REPLACE FUNCTION nofx.settle_thread(p jsonb) RETURNS TABLE (id uuid, state text, outcome text)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
DECLARE
    f nofx.finding;
    v_before jsonb;
BEGIN
    SELECT * INTO f FROM finding x
    WHERE x.tenant_id = tenant() AND x.change = p->>'change' AND (x.thread_id = p->>'thread' OR x.comment_id = p->>'comment') ORDER BY x.id LIMIT 1;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    PERFORM lock_run(v.run_id) FROM review v WHERE v.tenant_id = f.tenant_id AND v.id = f.last_review_id;
    SELECT * INTO f FROM finding x WHERE x.tenant_id = f.tenant_id AND x.id = f.id FOR NO KEY UPDATE;
    IF NOT EXISTS (SELECT FROM transition t WHERE t.machine = 'finding' AND t.from_state = f.state AND t.event = p->>'event') THEN
        RETURN QUERY SELECT f.id, f.state, 'refused';
    ELSIF EXISTS (SELECT FROM review v WHERE v.tenant_id = f.tenant_id AND v.change = f.change AND v.state IN ('queued', 'running')
        AND lower(v.account) IN (SELECT lower(a) FROM jsonb_array_elements_text(p->'accounts') AS a)) THEN
        RETURN QUERY SELECT f.id, f.state, 'ours';
    ELSE
        v_before := finding_facts(f);
        UPDATE finding x SET event = p->>'event', version = x.version + 1, reason = p->>'reason', scope = NULL, expires_at = NULL
        WHERE x.tenant_id = f.tenant_id AND x.id = f.id RETURNING x.* INTO f;
        PERFORM audit('finding.' || (p->>'event'), public_id('find', f.id), p->>'reason', v_before, finding_facts(f));
        RETURN QUERY SELECT f.id, f.state, 'settled';
    END IF;
END
$$;

-- Adds tokens and cost to what the tenant spends on a day, unless that would be more than
-- the limits; NULL: none. Negative ones give back what was reserved and not used. Reports
-- whether it was added.
CREATE OR REPLACE FUNCTION nofx.spend_model(p_day date, p_tokens bigint, p_cost numeric, p_max_tokens bigint, p_max_cost numeric) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = nofx, pg_temp
AS $$
BEGIN
    INSERT INTO model_spend (tenant_id, day) VALUES (tenant(), p_day) ON CONFLICT (tenant_id, day) DO NOTHING;
    UPDATE model_spend m SET tokens = m.tokens + p_tokens, cost_usd = m.cost_usd + p_cost
    WHERE m.tenant_id = tenant() AND m.day = p_day
        AND (p_max_tokens IS NULL OR m.tokens + p_tokens <= p_max_tokens) AND (p_max_cost IS NULL OR m.cost_usd + p_cost <= p_max_cost);
    RETURN FOUND;
END
$$;

GRANT EXECUTE ON FUNCTION
    nofx.find_review(text, text, boolean),
    nofx.create_review(uuid, jsonb),
    nofx.finding_transition(uuid, text, text, bigint, text, timestamptz),
    nofx.settle_thread(jsonb)
TO nofx_gateway;

GRANT EXECUTE ON FUNCTION
    nofx.begin_review(uuid, bigint, uuid, jsonb),
    nofx.note_review_head(uuid, bigint, uuid, text, text, text),
    nofx.review_transition(uuid, text, text, bigint, bigint),
    nofx.keep_review_artifact(uuid, bigint, uuid, jsonb),
    nofx.finish_review(uuid, bigint, uuid, jsonb),
    nofx.spend_model(date, bigint, numeric, bigint, numeric)
TO nofx_worker;

GRANT EXECUTE ON FUNCTION
    nofx.review_guard(),
    nofx.finding_guard()
TO nofx_owner;

SET LOCAL ROLE nofx_owner;

CREATE OR REPLACE TRIGGER review_guard BEFORE INSERT OR UPDATE OF state, event, version ON nofx.review
    FOR EACH ROW EXECUTE FUNCTION nofx.review_guard();

CREATE OR REPLACE TRIGGER finding_guard BEFORE INSERT OR UPDATE OF state, event, version ON nofx.finding
    FOR EACH ROW EXECUTE FUNCTION nofx.finding_guard();

SET LOCAL ROLE nofx_system;
