-- Schema nofx as the migrations make it, dumped by a test. The bodies of functions are in functions/.


CREATE SCHEMA nofx;

ALTER SCHEMA nofx OWNER TO nofx_owner;

CREATE TYPE nofx.claimed AS (
	step_id uuid,
	run_id uuid,
	name text,
	tool text,
	spec jsonb,
	fence bigint,
	attempt integer,
	max_attempts integer,
	lost_leases integer,
	ready_at timestamp with time zone,
	claimed_at timestamp with time zone,
	lost_at timestamp with time zone,
	failing_since timestamp with time zone,
	traceparent text,
	plan_digest text,
	waiver jsonb,
	parents integer,
	signal jsonb,
	edited boolean
);

ALTER TYPE nofx.claimed OWNER TO nofx_owner;

CREATE TYPE nofx.new_event AS (
	run_id uuid,
	seq bigint,
	step_id uuid,
	type text,
	event text,
	from_state text,
	to_state text,
	data jsonb,
	reason text,
	trace_id text,
	fence bigint,
	cause text
);

ALTER TYPE nofx.new_event OWNER TO nofx_owner;

CREATE TYPE nofx.taken AS (
	step_id uuid,
	fence bigint,
	seq bigint,
	job_id bigint,
	begun boolean,
	trace_id text,
	span_id text
);

ALTER TYPE nofx.taken OWNER TO nofx_owner;

CREATE TYPE nofx.finished AS (
	ord integer,
	answer text,
	ended text,
	seconds double precision,
	enqueue boolean,
	taken uuid,
	events nofx.new_event[],
	claims nofx.taken[]
);

ALTER TYPE nofx.finished OWNER TO nofx_owner;

CREATE TYPE nofx.locked_gate AS (
	tenant_id uuid,
	run_id uuid,
	step_id uuid,
	id uuid,
	kind text,
	state text,
	version bigint,
	fence bigint,
	expires_at timestamp with time zone
);

ALTER TYPE nofx.locked_gate OWNER TO nofx_owner;

CREATE TYPE nofx.locked_run AS (
	tenant_id uuid,
	id uuid,
	state text,
	version bigint
);

ALTER TYPE nofx.locked_run OWNER TO nofx_owner;

CREATE TYPE nofx.locked_step AS (
	tenant_id uuid,
	run_id uuid,
	id uuid,
	name text,
	state text,
	fence bigint
);

ALTER TYPE nofx.locked_step OWNER TO nofx_owner;

CREATE TYPE nofx.step_counts AS (
	pending integer,
	ready integer,
	running integer,
	retrying integer,
	waiting integer,
	failed integer
);

ALTER TYPE nofx.step_counts OWNER TO nofx_owner;

CREATE TYPE nofx.successor AS (
	id uuid,
	queue text,
	attempt integer,
	fence bigint
);

ALTER TYPE nofx.successor OWNER TO nofx_owner;

CREATE FUNCTION nofx.add_checkpoint(p_step uuid, p_fence bigint, p_run uuid, c jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.add_checkpoint(p_step uuid, p_fence bigint, p_run uuid, c jsonb) OWNER TO nofx_system;

CREATE FUNCTION nofx.alert_event(p_type text, p_data jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE
    RETURN CASE WHEN (p_type = ANY (ARRAY['gate.failed'::text, 'run.failed'::text])) THEN p_type WHEN ((p_type = 'gate.pending'::text) AND ((p_data ->> 'kind'::text) = 'manual'::text)) THEN 'approval.requested'::text ELSE NULL::text END;

ALTER FUNCTION nofx.alert_event(p_type text, p_data jsonb) OWNER TO nofx_system;

CREATE TABLE nofx.alert_endpoint (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL,
    url text NOT NULL,
    events text[] NOT NULL,
    state text DEFAULT 'enabled'::text NOT NULL,
    disabled_reason text,
    failing_since timestamp with time zone,
    dropped_at timestamp with time zone,
    secret_version bigint DEFAULT 1 NOT NULL,
    sealed bytea NOT NULL,
    sealed_past bytea,
    past_until timestamp with time zone,
    version bigint DEFAULT 1 NOT NULL,
    created_by text NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    updated_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT alert_endpoint_check CHECK (((past_until IS NULL) = (sealed_past IS NULL))),
    CONSTRAINT alert_endpoint_check1 CHECK (((state = 'disabled'::text) = (disabled_reason IS NOT NULL))),
    CONSTRAINT alert_endpoint_disabled_reason_check CHECK ((disabled_reason = ANY (ARRAY['request'::text, 'gone'::text, 'failing'::text]))),
    CONSTRAINT alert_endpoint_events_check CHECK (((cardinality(events) >= 1) AND (cardinality(events) <= 64))),
    CONSTRAINT alert_endpoint_sealed_check CHECK (((octet_length(sealed) >= 1) AND (octet_length(sealed) <= 1000))),
    CONSTRAINT alert_endpoint_sealed_past_check CHECK (((octet_length(sealed_past) >= 1) AND (octet_length(sealed_past) <= 1000))),
    CONSTRAINT alert_endpoint_state_check CHECK ((state = ANY (ARRAY['enabled'::text, 'disabled'::text]))),
    CONSTRAINT alert_endpoint_url_check CHECK (((length(url) >= 1) AND (length(url) <= 2048)))
);

ALTER TABLE ONLY nofx.alert_endpoint FORCE ROW LEVEL SECURITY;

ALTER TABLE nofx.alert_endpoint OWNER TO nofx_owner;

CREATE FUNCTION nofx.alert_facts(e nofx.alert_endpoint) RETURNS jsonb
    LANGUAGE sql STABLE
    RETURN jsonb_build_object('origin', "substring"((e).url, '^[a-zA-Z]+://[^/?#]+'::text), 'url_sha256', encode(sha256(convert_to((e).url, 'UTF8'::name)), 'hex'::text), 'events', to_jsonb((e).events), 'status', (e).state, 'disabled_reason', (e).disabled_reason, 'secret_version', (e).secret_version, 'version', (e).version);

ALTER FUNCTION nofx.alert_facts(e nofx.alert_endpoint) OWNER TO nofx_system;

CREATE FUNCTION nofx.append_checkpoint(p_tenant uuid, p_run uuid, c jsonb) RETURNS void
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.append_checkpoint(p_tenant uuid, p_run uuid, c jsonb) OWNER TO nofx_system;

CREATE FUNCTION nofx.append_event(p_tenant uuid, p_run uuid, p_step uuid, p_type text, p_fence bigint, p_data jsonb) RETURNS bigint
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.append_event(p_tenant uuid, p_run uuid, p_step uuid, p_type text, p_fence bigint, p_data jsonb) OWNER TO nofx_system;

CREATE FUNCTION nofx.assign_merge(p_merge uuid, p_run uuid) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.assign_merge(p_merge uuid, p_run uuid) OWNER TO nofx_system;

CREATE FUNCTION nofx.audit(p_act text, p_object text, p_reason text, p_before jsonb, p_after jsonb) RETURNS void
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.audit(p_act text, p_object text, p_reason text, p_before jsonb, p_after jsonb) OWNER TO nofx_system;

CREATE FUNCTION nofx.audit_anchored(p_seq bigint, p_day date) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.audit_anchored(p_seq bigint, p_day date) OWNER TO nofx_system;

CREATE FUNCTION nofx.audit_denied(p_operation text, p_object text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.audit_denied(p_operation text, p_object text) OWNER TO nofx_system;

CREATE FUNCTION nofx.audit_guard() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.audit_guard() OWNER TO nofx_system;

CREATE TABLE nofx.audit (
    tenant_id uuid NOT NULL,
    seq bigint NOT NULL,
    at timestamp with time zone NOT NULL,
    actor text NOT NULL,
    via text NOT NULL,
    act text NOT NULL,
    object text NOT NULL,
    reason text,
    before jsonb,
    after jsonb,
    trace_id text,
    prev_hash bytea NOT NULL,
    hash bytea NOT NULL,
    CONSTRAINT audit_act_check CHECK (((act ~ '^[a-z_]+([.][a-z_]+)?$'::text) AND (length(act) <= 64))),
    CONSTRAINT audit_actor_check CHECK (((length(actor) >= 1) AND (length(actor) <= 512))),
    CONSTRAINT audit_after_check CHECK ((octet_length((after)::text) <= 16384)),
    CONSTRAINT audit_before_check CHECK ((octet_length((before)::text) <= 16384)),
    CONSTRAINT audit_hash_check CHECK ((length(hash) = 32)),
    CONSTRAINT audit_object_check CHECK (((length(object) >= 1) AND (length(object) <= 1024))),
    CONSTRAINT audit_prev_hash_check CHECK ((length(prev_hash) = 32)),
    CONSTRAINT audit_reason_check CHECK ((length(reason) <= 2048)),
    CONSTRAINT audit_seq_check CHECK ((seq > 0)),
    CONSTRAINT audit_trace_id_check CHECK ((length(trace_id) = 32)),
    CONSTRAINT audit_via_check CHECK (((length(via) >= 1) AND (length(via) <= 64)))
);

ALTER TABLE ONLY nofx.audit FORCE ROW LEVEL SECURITY;

ALTER TABLE nofx.audit OWNER TO nofx_owner;

CREATE FUNCTION nofx.audit_hash(a nofx.audit) RETURNS bytea
    LANGUAGE sql STABLE
    AS …;

ALTER FUNCTION nofx.audit_hash(a nofx.audit) OWNER TO nofx_system;

CREATE FUNCTION nofx.audit_heads(p_day date, p_after uuid, p_limit integer) RETURNS TABLE(tenant_id uuid, seq bigint, hash bytea, at timestamp with time zone)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.audit_heads(p_day date, p_after uuid, p_limit integer) OWNER TO nofx_system;

CREATE FUNCTION nofx.audit_urls(p_object text, p_method text, p_sha256 text[], p_expires timestamp with time zone) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.audit_urls(p_object text, p_method text, p_sha256 text[], p_expires timestamp with time zone) OWNER TO nofx_system;

CREATE FUNCTION nofx.backlog(p_queue text, p_limit integer, OUT ready bigint, OUT retrying bigint, OUT oldest timestamp with time zone) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    SET enable_bitmapscan TO 'off'
    SET enable_seqscan TO 'off'
    SET enable_sort TO 'off'
    SET enable_incremental_sort TO 'off'
    SET jit TO 'off'
    AS …;

ALTER FUNCTION nofx.backlog(p_queue text, p_limit integer, OUT ready bigint, OUT retrying bigint, OUT oldest timestamp with time zone) OWNER TO nofx_system;

CREATE FUNCTION nofx.bad_hosts(p jsonb) RETURNS text
    LANGUAGE plpgsql IMMUTABLE
    AS $_$
BEGIN
    IF jsonb_typeof(p) <> 'array' THEN
        RETURN 'must be a list of hosts NAME:PORT';
    END IF;
    IF jsonb_array_length(p) > 64 THEN
        RETURN format('%s hosts; at most 64', jsonb_array_length(p));
    END IF;
    RETURN (SELECT format('%s is no host NAME:PORT', left(h.value::text, 80)) FROM jsonb_array_elements(p) h
        WHERE jsonb_typeof(h.value) <> 'string' OR length(h.value #>> '{}') > 261
            OR (h.value #>> '{}') !~ '^(\*\.[a-z0-9_-]{1,63}\.)?[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*:[1-9][0-9]{0,4}$' LIMIT 1);
END
$_$;

ALTER FUNCTION nofx.bad_hosts(p jsonb) OWNER TO nofx_system;

CREATE FUNCTION nofx.beat_worker(p_id text, p_pid integer, p_host text, p_version text, p_queues text[], p_slots_max integer, p_sandbox_tier integer, p_tier_wanted integer, p_draining boolean, p_waits_for text, p_forget interval) RETURNS text[]
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.beat_worker(p_id text, p_pid integer, p_host text, p_version text, p_queues text[], p_slots_max integer, p_sandbox_tier integer, p_tier_wanted integer, p_draining boolean, p_waits_for text, p_forget interval) OWNER TO nofx_system;

CREATE FUNCTION nofx.begin_alert_rotation(p_id uuid) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.begin_alert_rotation(p_id uuid) OWNER TO nofx_system;

CREATE FUNCTION nofx.begin_delivery(p_repository uuid, p jsonb) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.begin_delivery(p_repository uuid, p jsonb) OWNER TO nofx_system;

CREATE FUNCTION nofx.begin_effect(p_step uuid, p_fence bigint, p_name text, p_digest text, OUT effect_key text, OUT effect_result jsonb) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.begin_effect(p_step uuid, p_fence bigint, p_name text, p_digest text, OUT effect_key text, OUT effect_result jsonb) OWNER TO nofx_system;

CREATE FUNCTION nofx.begin_epoch() RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.begin_epoch() OWNER TO nofx_system;

CREATE TABLE nofx.review (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL,
    run_id uuid NOT NULL,
    step_id uuid NOT NULL,
    provider text NOT NULL,
    repository text DEFAULT ''::text NOT NULL,
    pull_request integer DEFAULT 0 NOT NULL,
    change text NOT NULL,
    head_sha text,
    base_sha text,
    account text,
    dry_run boolean DEFAULT false NOT NULL,
    state text DEFAULT 'queued'::text NOT NULL,
    event text,
    version bigint DEFAULT 1 NOT NULL,
    reason text,
    verdict text,
    result jsonb,
    policy_hash text,
    model text,
    tokens bigint DEFAULT 0 NOT NULL,
    cost_usd numeric(14,6) DEFAULT 0 NOT NULL,
    own_run boolean DEFAULT false NOT NULL,
    rerun_of uuid,
    superseded_by uuid,
    created_by text NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    started_at timestamp with time zone,
    finished_at timestamp with time zone,
    CONSTRAINT review_check CHECK (((verdict IS NULL) OR (state = 'completed'::text))),
    CONSTRAINT review_provider_check CHECK ((provider = ANY (ARRAY['github'::text, 'bitbucket'::text, 'workspace'::text, 'diff'::text]))),
    CONSTRAINT review_reason_check CHECK ((length(reason) <= 2048)),
    CONSTRAINT review_verdict_check CHECK ((verdict = ANY (ARRAY['passed'::text, 'failed'::text, 'error'::text])))
);

ALTER TABLE ONLY nofx.review FORCE ROW LEVEL SECURITY;

ALTER TABLE nofx.review OWNER TO nofx_owner;

CREATE FUNCTION nofx.begin_review(p_step uuid, p_fence bigint, p_id uuid, p jsonb) RETURNS nofx.review
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.begin_review(p_step uuid, p_fence bigint, p_id uuid, p jsonb) OWNER TO nofx_system;

CREATE FUNCTION nofx.begin_secret(p_name text, p_version bigint) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.begin_secret(p_name text, p_version bigint) OWNER TO nofx_system;

CREATE FUNCTION nofx.begin_tool(p_step uuid, p_fence bigint) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.begin_tool(p_step uuid, p_fence bigint) OWNER TO nofx_system;

CREATE FUNCTION nofx.blob_key(p_tenant uuid, p_sha256 bytea, p_copy bigint) RETURNS text
    LANGUAGE sql IMMUTABLE
    RETURN (((((('t/'::text || replace((p_tenant)::text, '-'::text, ''::text)) || '/blob/'::text) || encode(substr(p_sha256, 1, 1), 'hex'::text)) || '/'::text) || encode(p_sha256, 'hex'::text)) || CASE WHEN (p_copy = 0) THEN ''::text ELSE ('-'::text || p_copy) END);

ALTER FUNCTION nofx.blob_key(p_tenant uuid, p_sha256 bytea, p_copy bigint) OWNER TO nofx_system;

CREATE FUNCTION nofx.cause() RETURNS text
    LANGUAGE sql STABLE
    RETURN CASE WHEN (length(current_setting('nofx.traceparent'::text, true)) = 55) THEN current_setting('nofx.traceparent'::text, true) ELSE NULL::text END;

ALTER FUNCTION nofx.cause() OWNER TO nofx_system;

CREATE FUNCTION nofx.change_alert_endpoint(p_id uuid, p jsonb, p_version bigint) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.change_alert_endpoint(p_id uuid, p jsonb, p_version bigint) OWNER TO nofx_system;

CREATE FUNCTION nofx.change_repository(p_id uuid, p jsonb, p_version bigint) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.change_repository(p_id uuid, p jsonb, p_version bigint) OWNER TO nofx_system;

CREATE FUNCTION nofx.change_settings(p jsonb, p_version bigint) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.change_settings(p jsonb, p_version bigint) OWNER TO nofx_system;

CREATE FUNCTION nofx.check_branches(p_tenant uuid, p_parent uuid) RETURNS void
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.check_branches(p_tenant uuid, p_parent uuid) OWNER TO nofx_system;

CREATE TABLE nofx.transition (
    machine text NOT NULL,
    from_state text NOT NULL,
    event text NOT NULL,
    to_state text NOT NULL,
    needs_lease boolean DEFAULT false NOT NULL,
    needs_reason boolean DEFAULT false NOT NULL,
    batched boolean DEFAULT false NOT NULL,
    final boolean NOT NULL
);

ALTER TABLE nofx.transition OWNER TO nofx_owner;

CREATE FUNCTION nofx.check_change(p_machine text, p_id uuid, p_from text, p_to text, p_event text, p_reason text, p_version bigint, p_next bigint, p_batched boolean) RETURNS nofx.transition
    LANGUAGE plpgsql STABLE
    AS …;

ALTER FUNCTION nofx.check_change(p_machine text, p_id uuid, p_from text, p_to text, p_event text, p_reason text, p_version bigint, p_next bigint, p_batched boolean) OWNER TO nofx_system;

CREATE FUNCTION nofx.check_fence(p_fence bigint, p_current bigint) RETURNS void
    LANGUAGE plpgsql IMMUTABLE
    AS …;

ALTER FUNCTION nofx.check_fence(p_fence bigint, p_current bigint) OWNER TO nofx_system;

CREATE FUNCTION nofx.check_lease(p_machine text, p_id uuid, p_tenant uuid, p_step uuid, p_fence bigint) RETURNS void
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.check_lease(p_machine text, p_id uuid, p_tenant uuid, p_step uuid, p_fence bigint) OWNER TO nofx_system;

CREATE FUNCTION nofx.check_queued_quota(p_tenant uuid) RETURNS void
    LANGUAGE plpgsql STABLE
    AS …;

ALTER FUNCTION nofx.check_queued_quota(p_tenant uuid) OWNER TO nofx_system;

CREATE FUNCTION nofx.check_version(p_version bigint, p_current bigint, p_state text) RETURNS void
    LANGUAGE plpgsql IMMUTABLE
    AS …;

ALTER FUNCTION nofx.check_version(p_version bigint, p_current bigint, p_state text) OWNER TO nofx_system;

CREATE FUNCTION nofx.claim_alerts(p_worker text, p_tenant uuid, p_endpoint uuid, p_looks integer, p_limit integer, p_each integer, p_lease interval) RETURNS TABLE(tenant_id uuid, endpoint_id uuid, id uuid, event text, data jsonb, at timestamp with time zone, attempt integer, url text, secret_version bigint, sealed bytea, sealed_past bytea)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    SET enable_sort TO 'off'
    SET enable_bitmapscan TO 'off'
    AS …;

ALTER FUNCTION nofx.claim_alerts(p_worker text, p_tenant uuid, p_endpoint uuid, p_looks integer, p_limit integer, p_each integer, p_lease interval) OWNER TO nofx_system;

CREATE FUNCTION nofx.claim_steps(p jsonb, p_owner text, p_pid integer, p_ttl interval) RETURNS TABLE(ord integer, claim nofx.claimed)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.claim_steps(p jsonb, p_owner text, p_pid integer, p_ttl interval) OWNER TO nofx_system;

CREATE FUNCTION nofx.claimed_step(p_tenant uuid, p_step uuid) RETURNS nofx.claimed
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.claimed_step(p_tenant uuid, p_step uuid) OWNER TO nofx_system;

CREATE FUNCTION nofx.clip(p_text text, p_bytes integer) RETURNS text
    LANGUAGE plpgsql IMMUTABLE
    AS …;

ALTER FUNCTION nofx.clip(p_text text, p_bytes integer) OWNER TO nofx_system;

CREATE FUNCTION nofx.commit_merge(p_merge uuid, p_version bigint, p_resume boolean, p_reason text, OUT answer text, OUT requeued integer) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.commit_merge(p_merge uuid, p_version bigint, p_resume boolean, p_reason text, OUT answer text, OUT requeued integer) OWNER TO nofx_system;

CREATE FUNCTION nofx.complete_upload(p_step uuid, p_fence bigint, p_id uuid, p_key text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.complete_upload(p_step uuid, p_fence bigint, p_id uuid, p_key text) OWNER TO nofx_system;

CREATE FUNCTION nofx.condemn_copies(p_step uuid, p_fence bigint, p_keys text[]) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.condemn_copies(p_step uuid, p_fence bigint, p_keys text[]) OWNER TO nofx_system;

CREATE FUNCTION nofx.condemn_object(p_key text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.condemn_object(p_key text) OWNER TO nofx_system;

CREATE FUNCTION nofx.condemned_objects(p_after timestamp with time zone, p_limit integer) RETURNS TABLE(tenant_id uuid, key text, created_at timestamp with time zone)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.condemned_objects(p_after timestamp with time zone, p_limit integer) OWNER TO nofx_system;

CREATE FUNCTION nofx.could_speak_since(p_seen timestamp with time zone) RETURNS timestamp with time zone
    LANGUAGE sql STABLE
    AS …;

ALTER FUNCTION nofx.could_speak_since(p_seen timestamp with time zone) OWNER TO nofx_system;

CREATE FUNCTION nofx.count_active() RETURNS integer
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_sort TO 'off'
    AS …;

ALTER FUNCTION nofx.count_active() OWNER TO nofx_system;

CREATE FUNCTION nofx.count_changes(p nofx.new_event[]) RETURNS nofx.step_counts
    LANGUAGE plpgsql IMMUTABLE
    AS …;

ALTER FUNCTION nofx.count_changes(p nofx.new_event[]) OWNER TO nofx_system;

CREATE FUNCTION nofx.count_off(p_tenant uuid, p_step uuid) RETURNS nofx.successor[]
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.count_off(p_tenant uuid, p_step uuid) OWNER TO nofx_system;

CREATE FUNCTION nofx.create_alert_endpoint(p_id uuid, p jsonb, p_sealed bytea) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.create_alert_endpoint(p_id uuid, p jsonb, p_sealed bytea) OWNER TO nofx_system;

CREATE FUNCTION nofx.create_branch(p_run jsonb, p_steps jsonb, OUT created_at timestamp with time zone, OUT deadline timestamp with time zone, OUT ready_at timestamp with time zone[], OUT active_steps integer) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.create_branch(p_run jsonb, p_steps jsonb, OUT created_at timestamp with time zone, OUT deadline timestamp with time zone, OUT ready_at timestamp with time zone[], OUT active_steps integer) OWNER TO nofx_system;

CREATE FUNCTION nofx.create_key(p_id uuid, p_secret_sha256 bytea, p jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.create_key(p_id uuid, p_secret_sha256 bytea, p jsonb) OWNER TO nofx_system;

CREATE FUNCTION nofx.create_merge(p_id uuid, p jsonb, OUT merge_id uuid, OUT created boolean) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.create_merge(p_id uuid, p jsonb, OUT merge_id uuid, OUT created boolean) OWNER TO nofx_system;

CREATE FUNCTION nofx.create_oidc_trust(p_id uuid, p jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.create_oidc_trust(p_id uuid, p jsonb) OWNER TO nofx_system;

CREATE FUNCTION nofx.create_project(p_id uuid, p_slug text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.create_project(p_id uuid, p_slug text) OWNER TO nofx_system;

CREATE FUNCTION nofx.create_repository(p_id uuid, p jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.create_repository(p_id uuid, p jsonb) OWNER TO nofx_system;

CREATE FUNCTION nofx.create_review(p_id uuid, p jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.create_review(p_id uuid, p jsonb) OWNER TO nofx_system;

CREATE FUNCTION nofx.create_run(p_run jsonb, p_steps jsonb, OUT created_at timestamp with time zone, OUT deadline timestamp with time zone, OUT ready_at timestamp with time zone[], OUT active_steps integer) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.create_run(p_run jsonb, p_steps jsonb, OUT created_at timestamp with time zone, OUT deadline timestamp with time zone, OUT ready_at timestamp with time zone[], OUT active_steps integer) OWNER TO nofx_system;

CREATE FUNCTION nofx.create_stream_ticket(p_sha256 bytea, p_target text, p_proof jsonb, p_seconds integer) RETURNS timestamp with time zone
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.create_stream_ticket(p_sha256 bytea, p_target text, p_proof jsonb, p_seconds integer) OWNER TO nofx_system;

CREATE FUNCTION nofx.create_upload(p_id uuid, p_name text, p_key text, p_media_type text, p_size bigint, p_sha256 bytea) RETURNS timestamp with time zone
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.create_upload(p_id uuid, p_name text, p_key text, p_media_type text, p_size bigint, p_sha256 bytea) OWNER TO nofx_system;

CREATE FUNCTION nofx.decide_gate(p_gate uuid, p_event text, p_reason text, p_version bigint) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.decide_gate(p_gate uuid, p_event text, p_reason text, p_version bigint) OWNER TO nofx_system;

CREATE FUNCTION nofx.delete_alert_endpoint(p_id uuid) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.delete_alert_endpoint(p_id uuid) OWNER TO nofx_system;

CREATE FUNCTION nofx.delete_expired(p_limit integer) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.delete_expired(p_limit integer) OWNER TO nofx_system;

CREATE FUNCTION nofx.delete_oidc_trust(p_id uuid) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.delete_oidc_trust(p_id uuid) OWNER TO nofx_system;

CREATE FUNCTION nofx.delete_project(p_slug text) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.delete_project(p_slug text) OWNER TO nofx_system;

CREATE FUNCTION nofx.delete_repository(p_id uuid) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.delete_repository(p_id uuid) OWNER TO nofx_system;

CREATE FUNCTION nofx.delete_reviews(p_tenant uuid, p_steps uuid[]) RETURNS void
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.delete_reviews(p_tenant uuid, p_steps uuid[]) OWNER TO nofx_system;

CREATE FUNCTION nofx.delete_run(p_tenant uuid, p_run uuid, p_steps integer) RETURNS boolean
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.delete_run(p_tenant uuid, p_run uuid, p_steps integer) OWNER TO nofx_system;

CREATE FUNCTION nofx.delete_secret(p_name text) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.delete_secret(p_name text) OWNER TO nofx_system;

CREATE FUNCTION nofx.diff_key(p_tenant uuid, p_sha256 bytea, p_copy bigint, p_form text) RETURNS text
    LANGUAGE sql IMMUTABLE
    RETURN ((((((((('t/'::text || replace((p_tenant)::text, '-'::text, ''::text)) || '/diff/'::text) || encode(substr(p_sha256, 1, 1), 'hex'::text)) || '/'::text) || encode(p_sha256, 'hex'::text)) || '-'::text) || p_copy) || '.'::text) || p_form);

ALTER FUNCTION nofx.diff_key(p_tenant uuid, p_sha256 bytea, p_copy bigint, p_form text) OWNER TO nofx_system;

CREATE FUNCTION nofx.drop_derived(p_step uuid, p_fence bigint, p_sha256 bytea, p_limit integer) RETURNS SETOF text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.drop_derived(p_step uuid, p_fence bigint, p_sha256 bytea, p_limit integer) OWNER TO nofx_system;

CREATE FUNCTION nofx.due_collections(p_key text, p_limit integer) RETURNS SETOF uuid
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.due_collections(p_key text, p_limit integer) OWNER TO nofx_system;

CREATE FUNCTION nofx.due_leases(p_limit integer, p_ttl interval, p_gap interval) RETURNS TABLE(tenant_id uuid, run_id uuid, step_id uuid)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    SET enable_bitmapscan TO 'off'
    SET enable_seqscan TO 'off'
    SET enable_sort TO 'off'
    SET jit TO 'off'
    AS …;

ALTER FUNCTION nofx.due_leases(p_limit integer, p_ttl interval, p_gap interval) OWNER TO nofx_system;

CREATE FUNCTION nofx.due_retries(p_limit integer) RETURNS TABLE(tenant_id uuid, run_id uuid, step_id uuid)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    SET enable_bitmapscan TO 'off'
    SET enable_seqscan TO 'off'
    SET enable_sort TO 'off'
    SET jit TO 'off'
    AS …;

ALTER FUNCTION nofx.due_retries(p_limit integer) OWNER TO nofx_system;

CREATE FUNCTION nofx.due_runs(p_limit integer) RETURNS TABLE(tenant_id uuid, run_id uuid, step_id uuid)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    SET enable_bitmapscan TO 'off'
    SET enable_seqscan TO 'off'
    SET enable_sort TO 'off'
    SET jit TO 'off'
    AS …;

ALTER FUNCTION nofx.due_runs(p_limit integer) OWNER TO nofx_system;

CREATE FUNCTION nofx.due_waits(p_limit integer) RETURNS TABLE(tenant_id uuid, run_id uuid, step_id uuid)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    SET enable_bitmapscan TO 'off'
    SET enable_seqscan TO 'off'
    SET enable_sort TO 'off'
    SET jit TO 'off'
    AS …;

ALTER FUNCTION nofx.due_waits(p_limit integer) OWNER TO nofx_system;

CREATE FUNCTION nofx.earlier_effect(p_tenant uuid, p_run uuid, p_step_name text, p_name text, p_digest text) RETURNS jsonb
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.earlier_effect(p_tenant uuid, p_run uuid, p_step_name text, p_name text, p_digest text) OWNER TO nofx_system;

CREATE FUNCTION nofx.edge(p_machine text, p_id uuid, p_from text, p_event text, p_reason text) RETURNS nofx.transition
    LANGUAGE plpgsql STABLE
    AS …;

ALTER FUNCTION nofx.edge(p_machine text, p_id uuid, p_from text, p_event text, p_reason text) OWNER TO nofx_system;

CREATE FUNCTION nofx.end_alerts(p_tenant uuid, p_endpoint uuid) RETURNS void
    LANGUAGE sql
    AS …;

ALTER FUNCTION nofx.end_alerts(p_tenant uuid, p_endpoint uuid) OWNER TO nofx_system;

CREATE FUNCTION nofx.end_attempt(p_tenant uuid, p_step uuid, p_fence bigint, p_from text, e nofx.transition) RETURNS void
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.end_attempt(p_tenant uuid, p_step uuid, p_fence bigint, p_from text, e nofx.transition) OWNER TO nofx_system;

CREATE FUNCTION nofx.end_delivery(p_repository uuid, p_delivery text, p_result text, p_review uuid) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.end_delivery(p_repository uuid, p_delivery text, p_result text, p_review uuid) OWNER TO nofx_system;

CREATE FUNCTION nofx.end_job(p_job bigint) RETURNS void
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.end_job(p_job bigint) OWNER TO nofx_system;

CREATE FUNCTION nofx.end_run(p_run uuid, p_event text, p_reason text, p_version bigint, p_class text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.end_run(p_run uuid, p_event text, p_reason text, p_version bigint, p_class text) OWNER TO nofx_system;

CREATE FUNCTION nofx.end_stray_jobs(p_old interval, p_limit integer) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    SET enable_bitmapscan TO 'off'
    SET enable_seqscan TO 'off'
    SET enable_sort TO 'off'
    SET jit TO 'off'
    AS …;

ALTER FUNCTION nofx.end_stray_jobs(p_old interval, p_limit integer) OWNER TO nofx_system;

CREATE FUNCTION nofx.event_heads(p_tenants uuid[], p_runs uuid[]) RETURNS TABLE(run_id uuid, event_seq bigint)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.event_heads(p_tenants uuid[], p_runs uuid[]) OWNER TO nofx_system;

CREATE FUNCTION nofx.expire_alerts(p_limit integer) RETURNS bigint
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.expire_alerts(p_limit integer) OWNER TO nofx_system;

CREATE FUNCTION nofx.expire_runs(p_runs uuid[], p_steps integer, OUT gone uuid[], OUT more boolean) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.expire_runs(p_runs uuid[], p_steps integer, OUT gone uuid[], OUT more boolean) OWNER TO nofx_system;

CREATE FUNCTION nofx.expire_signals(p_limit integer) RETURNS bigint
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.expire_signals(p_limit integer) OWNER TO nofx_system;

CREATE FUNCTION nofx.expire_system_runs(p_limit integer) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.expire_system_runs(p_limit integer) OWNER TO nofx_system;

CREATE FUNCTION nofx.expire_uploads(p_limit integer) RETURNS bigint
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.expire_uploads(p_limit integer) OWNER TO nofx_system;

CREATE FUNCTION nofx.expired_runs(p_tenant uuid, p_run uuid, p_looks integer, p_limit integer) RETURNS TABLE(tenant_id uuid, run_id uuid, expired boolean)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.expired_runs(p_tenant uuid, p_run uuid, p_looks integer, p_limit integer) OWNER TO nofx_system;

CREATE FUNCTION nofx.fail_reviews(p_tenant uuid, p_run uuid, p_reason text) RETURNS void
    LANGUAGE sql
    AS …;

ALTER FUNCTION nofx.fail_reviews(p_tenant uuid, p_run uuid, p_reason text) OWNER TO nofx_system;

CREATE FUNCTION nofx.find_answer(p_scope text, p_key text, OUT mine boolean, OUT fingerprint bytea, OUT status integer, OUT headers jsonb, OUT body bytea) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.find_answer(p_scope text, p_key text, OUT mine boolean, OUT fingerprint bytea, OUT status integer, OUT headers jsonb, OUT body bytea) OWNER TO nofx_system;

CREATE FUNCTION nofx.find_oidc_trusts(p_slug text, p_repository_id bigint, p_owner_id bigint, p_repository text, p_ref text, p_workflow text, p_event text) RETURNS TABLE(tenant_id uuid, id uuid, repository text)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.find_oidc_trusts(p_slug text, p_repository_id bigint, p_owner_id bigint, p_repository text, p_ref text, p_workflow text, p_event text) OWNER TO nofx_system;

CREATE FUNCTION nofx.find_repository(p_id uuid) RETURNS TABLE(tenant_id uuid, provider text, name text, project text, enabled boolean, secret_version integer)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.find_repository(p_id uuid) OWNER TO nofx_system;

CREATE FUNCTION nofx.find_review(p_change text, p_head text, p_dry_run boolean) RETURNS uuid
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.find_review(p_change text, p_head text, p_dry_run boolean) OWNER TO nofx_system;

CREATE FUNCTION nofx.public_time(p_at timestamp with time zone) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN to_char((p_at AT TIME ZONE 'UTC'::text), 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'::text);

ALTER FUNCTION nofx.public_time(p_at timestamp with time zone) OWNER TO nofx_system;

CREATE TABLE nofx.finding (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL,
    change text NOT NULL,
    provider text NOT NULL,
    repository text NOT NULL,
    pull_request integer NOT NULL,
    fingerprint text NOT NULL,
    path text NOT NULL,
    category text NOT NULL,
    severity text NOT NULL,
    confidence double precision NOT NULL,
    rule_id text,
    title text NOT NULL,
    body text NOT NULL,
    evidence jsonb,
    suggestion text,
    anchor jsonb NOT NULL,
    state text DEFAULT 'open'::text NOT NULL,
    event text,
    version bigint DEFAULT 1 NOT NULL,
    reason text,
    scope text,
    expires_at timestamp with time zone,
    gone jsonb,
    decided_by text,
    decided_at timestamp with time zone,
    first_review_id uuid NOT NULL,
    last_review_id uuid NOT NULL,
    thread_id text,
    comment_id text,
    url text,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    updated_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT finding_check CHECK (((scope IS NULL) = (state <> 'dismissed'::text))),
    CONSTRAINT finding_reason_check CHECK ((length(reason) <= 2048)),
    CONSTRAINT finding_scope_check CHECK ((scope = ANY (ARRAY['this'::text, 'path'::text, 'rule'::text]))),
    CONSTRAINT finding_severity_check CHECK ((severity = ANY (ARRAY['critical'::text, 'high'::text, 'medium'::text, 'low'::text, 'info'::text])))
);

ALTER TABLE ONLY nofx.finding FORCE ROW LEVEL SECURITY;

ALTER TABLE nofx.finding OWNER TO nofx_owner;

CREATE FUNCTION nofx.finding_facts(f nofx.finding) RETURNS jsonb
    LANGUAGE sql STABLE
    RETURN jsonb_build_object('status', (f).state, 'version', (f).version, 'severity', (f).severity, 'scope', (f).scope, 'expires_at', nofx.public_time((f).expires_at));

ALTER FUNCTION nofx.finding_facts(f nofx.finding) OWNER TO nofx_system;

CREATE FUNCTION nofx.finding_guard() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.finding_guard() OWNER TO nofx_system;

CREATE FUNCTION nofx.finding_transition(p_finding uuid, p_event text, p_reason text DEFAULT NULL::text, p_version bigint DEFAULT NULL::bigint, p_scope text DEFAULT NULL::text, p_expires timestamp with time zone DEFAULT NULL::timestamp with time zone) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.finding_transition(p_finding uuid, p_event text, p_reason text, p_version bigint, p_scope text, p_expires timestamp with time zone) OWNER TO nofx_system;

CREATE FUNCTION nofx.finish_alert(p_worker text, p_endpoint uuid, p_id uuid, p_attempt integer, p jsonb) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.finish_alert(p_worker text, p_endpoint uuid, p_id uuid, p_attempt integer, p jsonb) OWNER TO nofx_system;

CREATE FUNCTION nofx.finish_effect(p_step uuid, p_fence bigint, p_key text, p_result jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.finish_effect(p_step uuid, p_fence bigint, p_key text, p_result jsonb) OWNER TO nofx_system;

CREATE FUNCTION nofx.finish_purge(p_step uuid, p_fence bigint, p_sha256 bytea, p_pending boolean) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.finish_purge(p_step uuid, p_fence bigint, p_sha256 bytea, p_pending boolean) OWNER TO nofx_system;

CREATE FUNCTION nofx.finish_review(p_step uuid, p_fence bigint, p_review uuid, p jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.finish_review(p_step uuid, p_fence bigint, p_review uuid, p jsonb) OWNER TO nofx_system;

CREATE FUNCTION nofx.finish_step(p_tenant uuid, p jsonb) RETURNS nofx.finished
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.finish_step(p_tenant uuid, p jsonb) OWNER TO nofx_system;

CREATE FUNCTION nofx.finish_steps(p jsonb, p_owner text, p_pid integer, p_ttl interval) RETURNS TABLE(ord integer, answer text, run_state text, run_seconds double precision, enqueue boolean, claim nofx.claimed)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.finish_steps(p jsonb, p_owner text, p_pid integer, p_ttl interval) OWNER TO nofx_system;

CREATE FUNCTION nofx.finish_succeeded(p_tenant uuid, p jsonb, p_paused text[]) RETURNS nofx.finished
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.finish_succeeded(p_tenant uuid, p jsonb, p_paused text[]) OWNER TO nofx_system;

CREATE FUNCTION nofx.forget_objects(p_tenants uuid[], p_keys text[]) RETURNS bigint
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.forget_objects(p_tenants uuid[], p_keys text[]) OWNER TO nofx_system;

CREATE FUNCTION nofx.forget_tools(p_provider text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.forget_tools(p_provider text) OWNER TO nofx_system;

CREATE FUNCTION nofx.gate_guard() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.gate_guard() OWNER TO nofx_system;

CREATE FUNCTION nofx.gate_transition(p_gate uuid, p_event text, p_reason text DEFAULT NULL::text, p_version bigint DEFAULT NULL::bigint, p_fence bigint DEFAULT NULL::bigint) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.gate_transition(p_gate uuid, p_event text, p_reason text, p_version bigint, p_fence bigint) OWNER TO nofx_system;

CREATE PROCEDURE nofx.guard_tenant(IN p_table regclass)
    LANGUAGE plpgsql
    AS …;

ALTER PROCEDURE nofx.guard_tenant(IN p_table regclass) OWNER TO nofx_owner;

CREATE FUNCTION nofx.has_lapsed(p_tenant uuid, p_step uuid, p_fence bigint) RETURNS boolean
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.has_lapsed(p_tenant uuid, p_step uuid, p_fence bigint) OWNER TO nofx_system;

CREATE FUNCTION nofx.head_after(p_tenant uuid, p_start uuid, p_head uuid) RETURNS uuid
    LANGUAGE plpgsql STABLE
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.head_after(p_tenant uuid, p_start uuid, p_head uuid) OWNER TO nofx_system;

CREATE FUNCTION nofx.heartbeat(p_steps uuid[], p_fences bigint[], p_ttl interval, p_gap interval) RETURNS TABLE(step_id uuid, renewed boolean)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.heartbeat(p_steps uuid[], p_fences bigint[], p_ttl interval, p_gap interval) OWNER TO nofx_system;

CREATE FUNCTION nofx.hold_back(p_tenant uuid, p_run uuid, p_reason text) RETURNS void
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.hold_back(p_tenant uuid, p_run uuid, p_reason text) OWNER TO nofx_system;

CREATE FUNCTION nofx.hold_runs(p_runs uuid[]) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.hold_runs(p_runs uuid[]) OWNER TO nofx_system;

CREATE FUNCTION nofx.hold_step(p_step uuid, p_fence bigint) RETURNS nofx.locked_step
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.hold_step(p_step uuid, p_fence bigint) OWNER TO nofx_system;

CREATE FUNCTION nofx.holds_off(p_ttl interval, p_gap interval) RETURNS boolean
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.holds_off(p_ttl interval, p_gap interval) OWNER TO nofx_system;

CREATE FUNCTION nofx.insert_review(p_id uuid, p jsonb, p_own_run boolean) RETURNS void
    LANGUAGE sql
    AS …;

ALTER FUNCTION nofx.insert_review(p_id uuid, p jsonb, p_own_run boolean) OWNER TO nofx_system;

CREATE FUNCTION nofx.is_author(p_tenant uuid, p_run uuid, p_subject text) RETURNS boolean
    LANGUAGE plpgsql STABLE
    AS …;

ALTER FUNCTION nofx.is_author(p_tenant uuid, p_run uuid, p_subject text) OWNER TO nofx_system;

CREATE FUNCTION nofx.is_digest(p text) RETURNS boolean
    LANGUAGE sql IMMUTABLE
    RETURN ((length(p) = 71) AND starts_with(p, 'sha256:'::text) AND (translate(substr(p, 8), '0123456789abcdef'::text, ''::text) = ''::text));

ALTER FUNCTION nofx.is_digest(p text) OWNER TO nofx_system;

CREATE FUNCTION nofx.is_doomed(p_tenant uuid, p_run uuid, p_step uuid, p_fence bigint) RETURNS boolean
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.is_doomed(p_tenant uuid, p_run uuid, p_step uuid, p_fence bigint) OWNER TO nofx_system;

CREATE TABLE nofx.merge_conflict (
    tenant_id uuid NOT NULL,
    merge_id uuid NOT NULL,
    n integer NOT NULL,
    unit text NOT NULL,
    at text NOT NULL,
    kind text NOT NULL,
    line integer,
    renamed_to text,
    takes text[] NOT NULL,
    base jsonb,
    ours jsonb,
    theirs jsonb,
    resolution text,
    value text,
    artifact_id uuid,
    resolved_by text,
    reason text,
    CONSTRAINT merge_conflict_check CHECK ((resolution = ANY (takes))),
    CONSTRAINT merge_conflict_unit_check CHECK ((unit = ANY (ARRAY['path'::text, 'pointer'::text])))
);

ALTER TABLE ONLY nofx.merge_conflict FORCE ROW LEVEL SECURITY;

ALTER TABLE nofx.merge_conflict OWNER TO nofx_owner;

CREATE FUNCTION nofx.is_given(c nofx.merge_conflict, p_sha256 bytea, p_artifacts uuid[]) RETURNS boolean
    LANGUAGE sql STABLE
    RETURN COALESCE((((c).artifact_id = ANY (p_artifacts)) OR (((c).unit = 'path'::text) AND (sha256(convert_to((c).value, 'UTF8'::name)) = p_sha256))), false);

ALTER FUNCTION nofx.is_given(c nofx.merge_conflict, p_sha256 bytea, p_artifacts uuid[]) OWNER TO nofx_system;

CREATE FUNCTION nofx.is_held(p_tenant uuid, p_run uuid, p_step uuid, p_fence bigint) RETURNS boolean
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.is_held(p_tenant uuid, p_run uuid, p_step uuid, p_fence bigint) OWNER TO nofx_system;

CREATE FUNCTION nofx.is_needed(p_tenant uuid, p_run uuid) RETURNS boolean
    LANGUAGE sql STABLE
    AS …;

ALTER FUNCTION nofx.is_needed(p_tenant uuid, p_run uuid) OWNER TO nofx_system;

CREATE FUNCTION nofx.is_now(p_at timestamp with time zone) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE
    AS …;

ALTER FUNCTION nofx.is_now(p_at timestamp with time zone) OWNER TO nofx_owner;

CREATE FUNCTION nofx.is_quiet(p_tenant uuid, p_run uuid, p_seq bigint, p_since timestamp with time zone) RETURNS boolean
    LANGUAGE sql STABLE
    AS …;

ALTER FUNCTION nofx.is_quiet(p_tenant uuid, p_run uuid, p_seq bigint, p_since timestamp with time zone) OWNER TO nofx_system;

CREATE FUNCTION nofx.is_side(p_side jsonb, p_digest text) RETURNS boolean
    LANGUAGE sql IMMUTABLE
    RETURN (((p_side ->> 'sha256'::text) = p_digest) AND (NOT (p_side ? 'kind'::text)));

ALTER FUNCTION nofx.is_side(p_side jsonb, p_digest text) OWNER TO nofx_system;

CREATE FUNCTION nofx.keep_review_artifact(p_step uuid, p_fence bigint, p_review uuid, p jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.keep_review_artifact(p_step uuid, p_fence bigint, p_review uuid, p jsonb) OWNER TO nofx_system;

CREATE FUNCTION nofx.lease_steps(p_tenant uuid, p nofx.taken[], p_owner text, p_pid integer, p_ttl interval) RETURNS void
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.lease_steps(p_tenant uuid, p nofx.taken[], p_owner text, p_pid integer, p_ttl interval) OWNER TO nofx_system;

CREATE FUNCTION nofx.leave_worker(p_id text) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.leave_worker(p_id text) OWNER TO nofx_system;

CREATE FUNCTION nofx.lock_alert_endpoint(p_id uuid) RETURNS nofx.alert_endpoint
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.lock_alert_endpoint(p_id uuid) OWNER TO nofx_system;

CREATE FUNCTION nofx.lock_finishes(p_tenant uuid, p jsonb) RETURNS void
    LANGUAGE plpgsql
    AS $_$
DECLARE
    v_runs uuid[] := '{}';
    x record;
BEGIN
    FOR k IN 0 .. jsonb_array_length(p) - 1 LOOP
        v_runs := v_runs || (p->k->>'run_id')::uuid;
    END LOOP;
    PERFORM lock_runs(p_tenant, v_runs);
    IF p @? '$[*].wait.key' THEN
        FOR x IN SELECT DISTINCT k #>> '{}' AS key FROM jsonb_path_query(p, '$[*].wait.key') AS k ORDER BY 1 LOOP
            PERFORM lock_signal(p_tenant, x.key);
        END LOOP;
    END IF;
    IF jsonb_array_length(p) > 1 THEN -- as a heartbeat takes them
        FOR x IN SELECT (e.i->>'step_id')::uuid AS step_id FROM jsonb_array_elements(p) AS e (i) ORDER BY 1 LOOP
            PERFORM FROM step_lease l WHERE l.tenant_id = p_tenant AND l.step_id = x.step_id FOR UPDATE;
        END LOOP;
    END IF;
END
$_$;

ALTER FUNCTION nofx.lock_finishes(p_tenant uuid, p jsonb) OWNER TO nofx_system;

CREATE FUNCTION nofx.lock_free_runs(p_steps uuid[], p_held boolean[]) RETURNS SETOF uuid
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.lock_free_runs(p_steps uuid[], p_held boolean[]) OWNER TO nofx_system;

CREATE FUNCTION nofx.lock_gate(p_gate uuid) RETURNS nofx.locked_gate
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.lock_gate(p_gate uuid) OWNER TO nofx_system;

CREATE TABLE nofx.merge (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL,
    target_run_id uuid NOT NULL,
    source_run_id uuid NOT NULL,
    target_head uuid NOT NULL,
    source_head uuid NOT NULL,
    target_leaves uuid[] NOT NULL,
    source_leaves uuid[] NOT NULL,
    base_id uuid NOT NULL,
    state text DEFAULT 'open'::text NOT NULL,
    event text,
    version bigint DEFAULT 1 NOT NULL,
    strategy text NOT NULL,
    mode text NOT NULL,
    asked_base_id uuid,
    work_run_id uuid,
    outcome text,
    conflicts integer DEFAULT 0 NOT NULL,
    open_conflicts integer DEFAULT 0 NOT NULL,
    preview jsonb,
    result_tree text,
    result_state text,
    prepared jsonb,
    committed_checkpoint_id uuid,
    failure_code text,
    reason text,
    created_by text NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    updated_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT merge_check CHECK ((target_run_id <> source_run_id)),
    CONSTRAINT merge_check1 CHECK ((((result_tree IS NULL) = (prepared IS NULL)) AND ((result_tree IS NULL) = (result_state IS NULL)))),
    CONSTRAINT merge_mode_check CHECK ((mode = ANY (ARRAY['normal'::text, 'strict'::text]))),
    CONSTRAINT merge_outcome_check CHECK ((outcome = ANY (ARRAY['up_to_date'::text, 'fast_forward'::text, 'clean'::text, 'conflicted'::text]))),
    CONSTRAINT merge_reason_check CHECK ((length(reason) <= 2048)),
    CONSTRAINT merge_strategy_check CHECK ((strategy = ANY (ARRAY['manual'::text, 'ours'::text, 'theirs'::text])))
);

ALTER TABLE ONLY nofx.merge FORCE ROW LEVEL SECURITY;

ALTER TABLE nofx.merge OWNER TO nofx_owner;

CREATE FUNCTION nofx.lock_merge(p_merge uuid) RETURNS nofx.merge
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.lock_merge(p_merge uuid) OWNER TO nofx_system;

CREATE FUNCTION nofx.lock_run(p_run uuid) RETURNS nofx.locked_run
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.lock_run(p_run uuid) OWNER TO nofx_system;

CREATE FUNCTION nofx.lock_runs(p_tenant uuid, p_runs uuid[]) RETURNS void
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.lock_runs(p_tenant uuid, p_runs uuid[]) OWNER TO nofx_system;

CREATE FUNCTION nofx.lock_signal(p_tenant uuid, p_key text) RETURNS void
    LANGUAGE sql
    AS …;

ALTER FUNCTION nofx.lock_signal(p_tenant uuid, p_key text) OWNER TO nofx_system;

CREATE FUNCTION nofx.lock_step(p_step uuid) RETURNS nofx.locked_step
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.lock_step(p_step uuid) OWNER TO nofx_system;

CREATE FUNCTION nofx.lose_diff(p_from uuid, p_to uuid, p_options text, p_key text) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.lose_diff(p_from uuid, p_to uuid, p_options text, p_key text) OWNER TO nofx_system;

CREATE FUNCTION nofx.lost_wake_ups(p_at timestamp with time zone, p_step uuid, p_rows integer, p_lost interval) RETURNS TABLE(tenant_id uuid, run_id uuid, step_id uuid, next_at timestamp with time zone, next_step uuid)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    SET enable_bitmapscan TO 'off'
    SET enable_seqscan TO 'off'
    SET enable_sort TO 'off'
    SET jit TO 'off'
    AS …;

ALTER FUNCTION nofx.lost_wake_ups(p_at timestamp with time zone, p_step uuid, p_rows integer, p_lost interval) OWNER TO nofx_system;

CREATE FUNCTION nofx.mark_blobs(p_step uuid, p_fence bigint, p_at timestamp with time zone, p_sha256 bytea[]) RETURNS TABLE(sha256 bytea, bytes bigint, first boolean)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.mark_blobs(p_step uuid, p_fence bigint, p_at timestamp with time zone, p_sha256 bytea[]) OWNER TO nofx_system;

CREATE FUNCTION nofx.mark_checkpoint(p_run uuid, p_id uuid, p_label text, p_hold boolean, p_reason text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.mark_checkpoint(p_run uuid, p_id uuid, p_label text, p_hold boolean, p_reason text) OWNER TO nofx_system;

CREATE FUNCTION nofx.mark_log(p_step uuid, p_fence bigint, p_size bigint) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.mark_log(p_step uuid, p_fence bigint, p_size bigint) OWNER TO nofx_system;

CREATE FUNCTION nofx.may_take_suspect(p_tenant uuid, p_step uuid, p_owner text, p_wakes integer) RETURNS boolean
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.may_take_suspect(p_tenant uuid, p_step uuid, p_owner text, p_wakes integer) OWNER TO nofx_system;

CREATE FUNCTION nofx.merge_guard() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.merge_guard() OWNER TO nofx_system;

CREATE FUNCTION nofx.merge_transition(p_merge uuid, p_event text, p_reason text DEFAULT NULL::text, p_version bigint DEFAULT NULL::bigint) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.merge_transition(p_merge uuid, p_event text, p_reason text, p_version bigint) OWNER TO nofx_system;

CREATE FUNCTION nofx.move_blobs(p_step uuid, p_fence bigint, p_from bytea, p_from_key text, p_pack bytea, p_key text, p_bytes bigint, p_sha256 bytea[], p_off bigint[]) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.move_blobs(p_step uuid, p_fence bigint, p_from bytea, p_from_key text, p_pack bytea, p_key text, p_bytes bigint, p_sha256 bytea[], p_off bigint[]) OWNER TO nofx_system;

CREATE FUNCTION nofx.move_steps(p_tenant uuid, p_run uuid, p_steps uuid[], p_event text, p_reason text, p_class text) RETURNS void
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.move_steps(p_tenant uuid, p_run uuid, p_steps uuid[], p_event text, p_reason text, p_class text) OWNER TO nofx_system;

CREATE FUNCTION nofx.new_id() RETURNS uuid
    LANGUAGE sql
    RETURN (encode(set_bit(set_bit(OVERLAY(uuid_send(gen_random_uuid()) PLACING SUBSTRING(int8send(((EXTRACT(epoch FROM clock_timestamp()) * (1000)::numeric))::bigint) FROM 3) FROM 1 FOR 6), (52)::bigint, 1), (53)::bigint, 1), 'hex'::text))::uuid;

ALTER FUNCTION nofx.new_id() OWNER TO nofx_system;

CREATE FUNCTION nofx.note_contact(p_gap interval) RETURNS void
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.note_contact(p_gap interval) OWNER TO nofx_system;

CREATE FUNCTION nofx.note_review_head(p_step uuid, p_fence bigint, p_review uuid, p_head text, p_base text, p_account text) RETURNS uuid
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.note_review_head(p_step uuid, p_fence bigint, p_review uuid, p_head text, p_base text, p_account text) OWNER TO nofx_system;

CREATE FUNCTION nofx.open_gate(s nofx.locked_step, g jsonb, p_expires timestamp with time zone) RETURNS void
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.open_gate(s nofx.locked_step, g jsonb, p_expires timestamp with time zone) OWNER TO nofx_system;

CREATE FUNCTION nofx.pause_lock(p_tenant uuid) RETURNS bigint
    LANGUAGE sql IMMUTABLE
    RETURN hashtextextended(((p_tenant)::text || '/queue-pause'::text), (0)::bigint);

ALTER FUNCTION nofx.pause_lock(p_tenant uuid) OWNER TO nofx_system;

CREATE FUNCTION nofx.pause_queue(p_queue text, p_reason text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.pause_queue(p_queue text, p_reason text) OWNER TO nofx_system;

CREATE FUNCTION nofx.paused_queues(p_tenant uuid) RETURNS text[]
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.paused_queues(p_tenant uuid) OWNER TO nofx_system;

CREATE FUNCTION nofx.pin_tools(p_provider text, p_server text, p_session text, p_tools jsonb) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.pin_tools(p_provider text, p_server text, p_session text, p_tools jsonb) OWNER TO nofx_system;

CREATE FUNCTION nofx.plain_event(p_run uuid, p_seq bigint, p_step uuid, p_type text, p_fence bigint, p_data jsonb, p_trace text, p_cause text) RETURNS nofx.new_event
    LANGUAGE sql STABLE
    RETURN ROW(p_run, p_seq, p_step, p_type, NULL::text, NULL::text, NULL::text, p_data, NULL::text, p_trace, p_fence, p_cause)::nofx.new_event;

ALTER FUNCTION nofx.plain_event(p_run uuid, p_seq bigint, p_step uuid, p_type text, p_fence bigint, p_data jsonb, p_trace text, p_cause text) OWNER TO nofx_system;

CREATE FUNCTION nofx.present_key(p_id uuid, p_secret_sha256 bytea) RETURNS TABLE(tenant_id uuid, tenant text, name text, secret_sha256 bytea, role text, scopes text[], expires_at timestamp with time zone, expired boolean, revoked boolean)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.present_key(p_id uuid, p_secret_sha256 bytea) OWNER TO nofx_system;

CREATE FUNCTION nofx.present_subject(p_tenant uuid, p_slug text, p_subject text, p_name text) RETURNS TABLE(tenant_id uuid, tenant text, revoked_before timestamp with time zone)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.present_subject(p_tenant uuid, p_slug text, p_subject text, p_name text) OWNER TO nofx_system;

CREATE FUNCTION nofx.project_lock(p_tenant uuid) RETURNS bigint
    LANGUAGE sql IMMUTABLE
    RETURN hashtextextended(((p_tenant)::text || '/project'::text), (0)::bigint);

ALTER FUNCTION nofx.project_lock(p_tenant uuid) OWNER TO nofx_system;

CREATE FUNCTION nofx.prune_runs(p_runs uuid[], p_limit integer, OUT events bigint, OUT chunks bigint) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.prune_runs(p_runs uuid[], p_limit integer, OUT events bigint, OUT chunks bigint) OWNER TO nofx_system;

CREATE FUNCTION nofx.public_id(p_prefix text, p_id uuid) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN ((p_prefix || '_'::text) || replace((p_id)::text, '-'::text, ''::text));

ALTER FUNCTION nofx.public_id(p_prefix text, p_id uuid) OWNER TO nofx_system;

CREATE FUNCTION nofx.purge_blob(p_sha256 bytea, p_reason text, OUT purged_by text, OUT purged_at timestamp with time zone, OUT reason text) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.purge_blob(p_sha256 bytea, p_reason text, OUT purged_by text, OUT purged_at timestamp with time zone, OUT reason text) OWNER TO nofx_system;

CREATE FUNCTION nofx.queue_alert(p_tenant uuid, p_event text, p_data jsonb) RETURNS void
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.queue_alert(p_tenant uuid, p_event text, p_data jsonb) OWNER TO nofx_system;

CREATE FUNCTION nofx.queue_pauses() RETURNS TABLE(tenant text, queue text, paused_at timestamp with time zone, paused_by text, reason text)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.queue_pauses() OWNER TO nofx_system;

CREATE FUNCTION nofx.queue_run_alert(p_tenant uuid, p_event text, e nofx.new_event) RETURNS void
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.queue_run_alert(p_tenant uuid, p_event text, e nofx.new_event) OWNER TO nofx_system;

CREATE FUNCTION nofx.raise_horizon(p_tenant uuid, p_xid xid8) RETURNS void
    LANGUAGE sql
    AS …;

ALTER FUNCTION nofx.raise_horizon(p_tenant uuid, p_xid xid8) OWNER TO nofx_system;

CREATE FUNCTION nofx.ready_steps(p_tenant uuid, p_run uuid) RETURNS void
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.ready_steps(p_tenant uuid, p_run uuid) OWNER TO nofx_system;

CREATE FUNCTION nofx.ready_successors(p_tenant uuid, p_run uuid, p_step uuid) RETURNS boolean
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.ready_successors(p_tenant uuid, p_run uuid, p_step uuid) OWNER TO nofx_system;

CREATE FUNCTION nofx.record_checkpoints(p jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.record_checkpoints(p jsonb) OWNER TO nofx_system;

CREATE FUNCTION nofx.record_corrupt(p_step uuid, p_fence bigint, p_checkpoint uuid, p_code text, p_ancestor uuid) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.record_corrupt(p_step uuid, p_fence bigint, p_checkpoint uuid, p_code text, p_ancestor uuid) OWNER TO nofx_system;

CREATE FUNCTION nofx.record_diff(p_step uuid, p_fence bigint, p jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.record_diff(p_step uuid, p_fence bigint, p jsonb) OWNER TO nofx_system;

CREATE FUNCTION nofx.record_edit(p_step uuid, p_fence bigint, p_checkpoint jsonb) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.record_edit(p_step uuid, p_fence bigint, p_checkpoint jsonb) OWNER TO nofx_system;

CREATE FUNCTION nofx.record_log_chunk(p_step uuid, p_fence bigint, p_n integer, p_start bigint, p_bytes bigint, p_lines integer, p_key text, p_sha256 bytea) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.record_log_chunk(p_step uuid, p_fence bigint, p_n integer, p_start bigint, p_bytes bigint, p_lines integer, p_key text, p_sha256 bytea) OWNER TO nofx_system;

CREATE FUNCTION nofx.record_merge(p_step uuid, p_fence bigint, p_merge uuid, p_version bigint, p jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.record_merge(p_step uuid, p_fence bigint, p_merge uuid, p_version bigint, p jsonb) OWNER TO nofx_system;

CREATE FUNCTION nofx.record_probe(p_step uuid, p_fence bigint, p_probe jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.record_probe(p_step uuid, p_fence bigint, p_probe jsonb) OWNER TO nofx_system;

CREATE FUNCTION nofx.redact_merges(p_sha256 bytea) RETURNS void
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.redact_merges(p_sha256 bytea) OWNER TO nofx_system;

CREATE FUNCTION nofx.redacted_side(p_side jsonb, p_digest text) RETURNS jsonb
    LANGUAGE sql IMMUTABLE
    RETURN ((p_side - 'excerpt'::text) || (CASE WHEN ((p_side ->> 'sha256'::text) = p_digest) THEN '{"kind":"redacted"}'::text ELSE '{}'::text END)::jsonb);

ALTER FUNCTION nofx.redacted_side(p_side jsonb, p_digest text) OWNER TO nofx_system;

CREATE FUNCTION nofx.redeliver_alert(p_endpoint uuid, p_id uuid) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.redeliver_alert(p_endpoint uuid, p_id uuid) OWNER TO nofx_system;

CREATE FUNCTION nofx.refuse(p_machine text, p_id uuid, p_from text, p_event text) RETURNS void
    LANGUAGE plpgsql STABLE
    AS …;

ALTER FUNCTION nofx.refuse(p_machine text, p_id uuid, p_from text, p_event text) OWNER TO nofx_system;

CREATE FUNCTION nofx.refused_finish(p_tenant uuid, p_step uuid, p_fence bigint, p_outcome text) RETURNS text
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.refused_finish(p_tenant uuid, p_step uuid, p_fence bigint, p_outcome text) OWNER TO nofx_system;

CREATE FUNCTION nofx.renew_blobs(p_sha256 bytea[], p_size bigint[], p_pack bytea[], p_off bigint[], p_len bigint[], p_copy bigint[]) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.renew_blobs(p_sha256 bytea[], p_size bigint[], p_pack bytea[], p_off bigint[], p_len bigint[], p_copy bigint[]) OWNER TO nofx_system;

CREATE FUNCTION nofx.renew_gates(p_tenant uuid, p_run uuid) RETURNS void
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.renew_gates(p_tenant uuid, p_run uuid) OWNER TO nofx_system;

CREATE FUNCTION nofx.renew_objects(p_keys text[]) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.renew_objects(p_keys text[]) OWNER TO nofx_system;

CREATE FUNCTION nofx.renew_steps(p_tenant uuid, p_run uuid, p_reason text) RETURNS void
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.renew_steps(p_tenant uuid, p_run uuid, p_reason text) OWNER TO nofx_system;

CREATE FUNCTION nofx.reopen_run(p_run uuid, p_event text, p_reason text, p_version bigint) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.reopen_run(p_run uuid, p_event text, p_reason text, p_version bigint) OWNER TO nofx_system;

CREATE FUNCTION nofx.reopen_steps(p_tenant uuid, p_run uuid, p_reason text) RETURNS void
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.reopen_steps(p_tenant uuid, p_run uuid, p_reason text) OWNER TO nofx_system;

CREATE FUNCTION nofx.report_finding(v nofx.review, p_id uuid, f jsonb, p_why text) RETURNS void
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.report_finding(v nofx.review, p_id uuid, f jsonb, p_why text) OWNER TO nofx_system;

CREATE TABLE nofx.project (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL,
    slug text NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT project_slug_check CHECK ((slug ~ '^[a-z0-9][a-z0-9-]{0,62}$'::text))
);

ALTER TABLE ONLY nofx.project FORCE ROW LEVEL SECURITY;

ALTER TABLE nofx.project OWNER TO nofx_owner;

CREATE TABLE nofx.repository (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL,
    provider text NOT NULL,
    name text NOT NULL,
    project_id uuid NOT NULL,
    enabled boolean DEFAULT true NOT NULL,
    policy text,
    secret_version integer DEFAULT 1 NOT NULL,
    credential text,
    version bigint DEFAULT 1 NOT NULL,
    created_by text NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    updated_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT repository_credential_check CHECK ((credential ~ '^[a-z0-9][a-z0-9-]{0,62}$'::text)),
    CONSTRAINT repository_name_check CHECK (((length(name) >= 3) AND (length(name) <= 201))),
    CONSTRAINT repository_policy_check CHECK ((octet_length(policy) <= 262144)),
    CONSTRAINT repository_provider_check CHECK ((provider = ANY (ARRAY['github'::text, 'bitbucket'::text])))
);

ALTER TABLE ONLY nofx.repository FORCE ROW LEVEL SECURITY;

ALTER TABLE nofx.repository OWNER TO nofx_owner;

CREATE FUNCTION nofx.repository_facts(r nofx.repository) RETURNS jsonb
    LANGUAGE sql STABLE
    RETURN jsonb_build_object('provider', (r).provider, 'repository', (r).name, 'project', (SELECT y.slug FROM nofx.project y WHERE ((y.tenant_id = (repository_facts.r).tenant_id) AND (y.id = (repository_facts.r).project_id))), 'enabled', (r).enabled, 'policy_sha256', encode(sha256(convert_to((r).policy, 'UTF8'::name)), 'hex'::text), 'credential', (r).credential, 'secret_version', (r).secret_version, 'version', (r).version);

ALTER FUNCTION nofx.repository_facts(r nofx.repository) OWNER TO nofx_system;

CREATE FUNCTION nofx.resolve_merge(p_merge uuid, p jsonb, p_version bigint) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.resolve_merge(p_merge uuid, p jsonb, p_version bigint) OWNER TO nofx_system;

CREATE FUNCTION nofx.resume_after_waiver(p_tenant uuid, p_run uuid, p_reason text) RETURNS void
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.resume_after_waiver(p_tenant uuid, p_run uuid, p_reason text) OWNER TO nofx_system;

CREATE FUNCTION nofx.resume_queue(p_queue text, p_reason text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.resume_queue(p_queue text, p_reason text) OWNER TO nofx_system;

CREATE FUNCTION nofx.resumed_queues() RETURNS TABLE(tenant_id uuid, queue text)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.resumed_queues() OWNER TO nofx_system;

CREATE FUNCTION nofx.retention(p_tenant uuid) RETURNS interval
    LANGUAGE sql STABLE
    AS …;

ALTER FUNCTION nofx.retention(p_tenant uuid) OWNER TO nofx_system;

CREATE FUNCTION nofx.retry_step(p_step uuid, p_cascade boolean, p_reason text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.retry_step(p_step uuid, p_cascade boolean, p_reason text) OWNER TO nofx_system;

CREATE FUNCTION nofx.reuse_blobs(p_sha256 bytea[]) RETURNS SETOF bytea
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.reuse_blobs(p_sha256 bytea[]) OWNER TO nofx_system;

CREATE FUNCTION nofx.review_guard() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.review_guard() OWNER TO nofx_system;

CREATE FUNCTION nofx.review_transition(p_review uuid, p_event text, p_reason text DEFAULT NULL::text, p_version bigint DEFAULT NULL::bigint, p_fence bigint DEFAULT NULL::bigint) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.review_transition(p_review uuid, p_event text, p_reason text, p_version bigint, p_fence bigint) OWNER TO nofx_system;

CREATE FUNCTION nofx.revive_run(p_tenant uuid, p_run uuid, p_event text, p_reason text) RETURNS void
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.revive_run(p_tenant uuid, p_run uuid, p_event text, p_reason text) OWNER TO nofx_system;

CREATE FUNCTION nofx.revoke_key(p_id uuid) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.revoke_key(p_id uuid) OWNER TO nofx_system;

CREATE FUNCTION nofx.revoke_subject(p_subject text, p_by text, p_reason text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.revoke_subject(p_subject text, p_by text, p_reason text) OWNER TO nofx_system;

CREATE FUNCTION nofx.rotate_alert_secret(p_id uuid, p_sealed bytea) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.rotate_alert_secret(p_id uuid, p_sealed bytea) OWNER TO nofx_system;

CREATE FUNCTION nofx.run_counts() RETURNS TABLE(state text, n bigint)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.run_counts() OWNER TO nofx_system;

CREATE FUNCTION nofx.run_event(p_run uuid, p_seq bigint, p_event text, p_from text, p_to text, p_reason text, p_class text, p_trace text, p_cause text) RETURNS nofx.new_event
    LANGUAGE sql STABLE
    RETURN ROW(p_run, p_seq, NULL::uuid, ('run.'::text || p_to), p_event, p_from, p_to, jsonb_strip_nulls(jsonb_build_object('failure_class', p_class)), p_reason, p_trace, NULL::bigint, p_cause)::nofx.new_event;

ALTER FUNCTION nofx.run_event(p_run uuid, p_seq bigint, p_event text, p_from text, p_to text, p_reason text, p_class text, p_trace text, p_cause text) OWNER TO nofx_system;

CREATE FUNCTION nofx.run_guard() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.run_guard() OWNER TO nofx_system;

CREATE FUNCTION nofx.run_leaves(p_run uuid) RETURNS SETOF uuid
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.run_leaves(p_run uuid) OWNER TO nofx_system;

CREATE FUNCTION nofx.run_of_work(p_key text) RETURNS uuid
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.run_of_work(p_key text) OWNER TO nofx_system;

CREATE FUNCTION nofx.run_transition(p_run uuid, p_event text, p_reason text DEFAULT NULL::text, p_version bigint DEFAULT NULL::bigint, p_class text DEFAULT NULL::text) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.run_transition(p_run uuid, p_event text, p_reason text, p_version bigint, p_class text) OWNER TO nofx_system;

CREATE FUNCTION nofx.same_commit(a text, b text) RETURNS boolean
    LANGUAGE sql IMMUTABLE
    RETURN ((NOT (a IS DISTINCT FROM b)) OR COALESCE((((length(a) >= 12) AND starts_with(b, a)) OR ((length(b) >= 12) AND starts_with(a, b))), false));

ALTER FUNCTION nofx.same_commit(a text, b text) OWNER TO nofx_system;

CREATE FUNCTION nofx.sealed_probe() RETURNS TABLE(tenant_id uuid, name text, version bigint, sealed bytea)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.sealed_probe() OWNER TO nofx_system;

CREATE FUNCTION nofx.search_run() RETURNS trigger
    LANGUAGE plpgsql
    AS $_$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO nofx.run_search (tenant_id, run_id, project_id, tools, labels, words)
        VALUES (NEW.tenant_id, NEW.id, NEW.project_id, ARRAY(SELECT DISTINCT t #>> '{}' FROM jsonb_path_query(NEW.plan, '$.steps[*].tool') AS p (t)),
            NEW.labels, lower(concat_ws(E'\n', NEW.goal, NEW.name)));
    ELSE
        UPDATE nofx.run_search SET reason = lower(NEW.reason) WHERE tenant_id = NEW.tenant_id AND run_id = NEW.id;
    END IF;
    RETURN NULL;
END
$_$;

ALTER FUNCTION nofx.search_run() OWNER TO nofx_system;

CREATE TABLE nofx.secret (
    tenant_id uuid NOT NULL,
    name text NOT NULL,
    version bigint NOT NULL,
    sealed bytea,
    created_by text NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    updated_by text NOT NULL,
    updated_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT secret_name_check CHECK ((name ~ '^[A-Za-z_][A-Za-z0-9_]{0,127}$'::text)),
    CONSTRAINT secret_sealed_check CHECK (((octet_length(sealed) >= 1) AND (octet_length(sealed) <= 70000)))
);

ALTER TABLE ONLY nofx.secret FORCE ROW LEVEL SECURITY;

ALTER TABLE nofx.secret OWNER TO nofx_owner;

CREATE FUNCTION nofx.secret_facts(x nofx.secret) RETURNS jsonb
    LANGUAGE sql STABLE
    RETURN CASE WHEN ((x).sealed IS NOT NULL) THEN jsonb_build_object('version', (x).version, 'sealed_sha256', encode(sha256((x).sealed), 'hex'::text)) ELSE NULL::jsonb END;

ALTER FUNCTION nofx.secret_facts(x nofx.secret) OWNER TO nofx_system;

CREATE FUNCTION nofx.send_signal(p_id uuid, p_key text, p_payload jsonb) RETURNS uuid
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.send_signal(p_id uuid, p_key text, p_payload jsonb) OWNER TO nofx_system;

CREATE FUNCTION nofx.set_secret(p_name text, p_version bigint, p_sealed bytea) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.set_secret(p_name text, p_version bigint, p_sealed bytea) OWNER TO nofx_system;

CREATE FUNCTION nofx.setting_rules() RETURNS TABLE(name text, type text, lowest numeric, highest numeric)
    LANGUAGE sql IMMUTABLE
    AS …;

ALTER FUNCTION nofx.setting_rules() OWNER TO nofx_system;

CREATE FUNCTION nofx.settings_guard() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.settings_guard() OWNER TO nofx_system;

CREATE FUNCTION nofx.settle_run(p_tenant uuid, p_run uuid, p_failed boolean) RETURNS void
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.settle_run(p_tenant uuid, p_run uuid, p_failed boolean) OWNER TO nofx_system;

CREATE FUNCTION nofx.settle_thread(p jsonb) RETURNS TABLE(id uuid, state text, outcome text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.settle_thread(p jsonb) OWNER TO nofx_system;

CREATE FUNCTION nofx.spend_model(p_day date, p_tokens bigint, p_cost numeric, p_max_tokens bigint, p_max_cost numeric) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.spend_model(p_day date, p_tokens bigint, p_cost numeric, p_max_tokens bigint, p_max_cost numeric) OWNER TO nofx_system;

CREATE FUNCTION nofx.start_at(p_tenant uuid, p_run uuid, p_checkpoint uuid) RETURNS uuid
    LANGUAGE plpgsql STABLE
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.start_at(p_tenant uuid, p_run uuid, p_checkpoint uuid) OWNER TO nofx_system;

CREATE FUNCTION nofx.step_event(p_run uuid, p_seq bigint, p_step uuid, p_event text, p_from text, p_to text, p_fence bigint, p_attempt integer, p_reason text, p_trace text, p_cause text, p_class text DEFAULT NULL::text, p_wait_ms bigint DEFAULT NULL::bigint, p_at timestamp with time zone DEFAULT NULL::timestamp with time zone) RETURNS nofx.new_event
    LANGUAGE sql STABLE
    AS …;

ALTER FUNCTION nofx.step_event(p_run uuid, p_seq bigint, p_step uuid, p_event text, p_from text, p_to text, p_fence bigint, p_attempt integer, p_reason text, p_trace text, p_cause text, p_class text, p_wait_ms bigint, p_at timestamp with time zone) OWNER TO nofx_system;

CREATE FUNCTION nofx.step_guard() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.step_guard() OWNER TO nofx_system;

CREATE FUNCTION nofx.step_holders(p_steps uuid[], p_silent interval) RETURNS TABLE(step_id uuid, silent_since timestamp with time zone, waits_for text)
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.step_holders(p_steps uuid[], p_silent interval) OWNER TO nofx_system;

CREATE FUNCTION nofx.step_parents(p_steps uuid[]) RETURNS TABLE(step_id uuid, id uuid, digest text, generation integer, tree_digest text, state_digest text, state_inline bytea)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.step_parents(p_steps uuid[]) OWNER TO nofx_system;

CREATE FUNCTION nofx.step_transition(p_step uuid, p_event text, p_reason text DEFAULT NULL::text, p_fence bigint DEFAULT NULL::bigint, p_class text DEFAULT NULL::text) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.step_transition(p_step uuid, p_event text, p_reason text, p_fence bigint, p_class text) OWNER TO nofx_system;

CREATE FUNCTION nofx.steps_in(p_tenant uuid, p_run uuid, p_states text[]) RETURNS uuid[]
    LANGUAGE plpgsql STABLE
    SET enable_sort TO 'off'
    AS …;

ALTER FUNCTION nofx.steps_in(p_tenant uuid, p_run uuid, p_states text[]) OWNER TO nofx_system;

CREATE FUNCTION nofx.stop_steps(p_tenant uuid, p_run uuid) RETURNS void
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.stop_steps(p_tenant uuid, p_run uuid) OWNER TO nofx_system;

CREATE FUNCTION nofx.store_checkpoint(p_tenant uuid, p_run uuid, p_step uuid, p_fence bigint, p_seq bigint, c jsonb) RETURNS jsonb
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.store_checkpoint(p_tenant uuid, p_run uuid, p_step uuid, p_fence bigint, p_seq bigint, c jsonb) OWNER TO nofx_system;

CREATE FUNCTION nofx.subject_name(p_tenant uuid, p_subject text) RETURNS text
    LANGUAGE plpgsql STABLE
    AS $_$
BEGIN
    IF p_subject ~ '^(user|oidc):' THEN
        RETURN (SELECT s.name FROM nofx.subject s WHERE s.tenant_id = p_tenant AND s.subject = p_subject);
    END IF;
    IF (p_subject ~ '^key:[0-9a-f]{32}$') IS NOT TRUE THEN
        RETURN NULL;
    END IF;
    RETURN (SELECT k.name FROM nofx.api_key k WHERE k.tenant_id = p_tenant AND k.id = substr(p_subject, 5)::uuid);
END
$_$;

ALTER FUNCTION nofx.subject_name(p_tenant uuid, p_subject text) OWNER TO nofx_system;

CREATE FUNCTION nofx.supersede_reviews(p_review uuid) RETURNS void
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.supersede_reviews(p_review uuid) OWNER TO nofx_system;

CREATE FUNCTION nofx.sweep_artifacts(p_step uuid, p_fence bigint, p_at timestamp with time zone, p_after uuid, p_limit integer, p_dry boolean) RETURNS TABLE(id uuid, bytes bigint, what text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.sweep_artifacts(p_step uuid, p_fence bigint, p_at timestamp with time zone, p_after uuid, p_limit integer, p_dry boolean) OWNER TO nofx_system;

CREATE FUNCTION nofx.sweep_blobs(p_step uuid, p_fence bigint, p_at timestamp with time zone, p_grace interval, p_after bytea, p_limit integer, p_dry boolean) RETURNS TABLE(sha256 bytea, bytes bigint, what text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.sweep_blobs(p_step uuid, p_fence bigint, p_at timestamp with time zone, p_grace interval, p_after bytea, p_limit integer, p_dry boolean) OWNER TO nofx_system;

CREATE FUNCTION nofx.sweep_objects(p_step uuid, p_fence bigint, p_at timestamp with time zone, p_grace interval, p_after text, p_limit integer, p_dry boolean) RETURNS TABLE(key text, bytes bigint, what text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.sweep_objects(p_step uuid, p_fence bigint, p_at timestamp with time zone, p_grace interval, p_after text, p_limit integer, p_dry boolean) OWNER TO nofx_system;

CREATE FUNCTION nofx.sweep_run(p_run uuid) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.sweep_run(p_run uuid) OWNER TO nofx_system;

CREATE FUNCTION nofx.sweep_step(p_step uuid, p_kind text, p_lost interval, p_ttl interval, p_gap interval) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.sweep_step(p_step uuid, p_kind text, p_lost interval, p_ttl interval, p_gap interval) OWNER TO nofx_system;

CREATE FUNCTION nofx.take_signal(p_tenant uuid, p_step uuid, p_key text) RETURNS boolean
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.take_signal(p_tenant uuid, p_step uuid, p_key text) OWNER TO nofx_system;

CREATE FUNCTION nofx.take_stream_ticket(p_sha256 bytea, p_target text) RETURNS TABLE(tenant_id uuid, proof jsonb)
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.take_stream_ticket(p_sha256 bytea, p_target text) OWNER TO nofx_system;

CREATE FUNCTION nofx.tenant() RETURNS uuid
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN (NULLIF(current_setting('nofx.tenant_id'::text, true), ''::text))::uuid;

ALTER FUNCTION nofx.tenant() OWNER TO nofx_owner;

CREATE FUNCTION nofx.tenants() RETURNS TABLE(id uuid, slug text, created_at timestamp with time zone, keys bigint, last_used_at timestamp with time zone)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.tenants() OWNER TO nofx_system;

CREATE FUNCTION nofx.try_run(p_run uuid) RETURNS boolean
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.try_run(p_run uuid) OWNER TO nofx_system;

CREATE FUNCTION nofx.unbacked_blobs(p_after bytea, p_limit integer) RETURNS TABLE(sha256 bytea, what text)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.unbacked_blobs(p_after bytea, p_limit integer) OWNER TO nofx_system;

CREATE FUNCTION nofx.unknown_keys(p_keys text[]) RETURNS SETOF text
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.unknown_keys(p_keys text[]) OWNER TO nofx_system;

CREATE FUNCTION nofx.unpause_run(p_tenant uuid, p_run uuid, p_reason text) RETURNS void
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.unpause_run(p_tenant uuid, p_run uuid, p_reason text) OWNER TO nofx_system;

CREATE FUNCTION nofx.unsound() RETURNS TABLE(invariant text, offender text)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.unsound() OWNER TO nofx_system;

CREATE FUNCTION nofx.waiting_for(p_tenant uuid, p_key text, OUT step_id uuid, OUT run_id uuid) RETURNS record
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.waiting_for(p_tenant uuid, p_key text, OUT step_id uuid, OUT run_id uuid) OWNER TO nofx_system;

CREATE FUNCTION nofx.wake_parked(p_queue text, p_limit integer) RETURNS TABLE(step_id uuid, run_id uuid, wake_seq bigint, traceparent text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    SET enable_bitmapscan TO 'off'
    SET enable_seqscan TO 'off'
    SET enable_sort TO 'off'
    SET enable_incremental_sort TO 'off'
    SET jit TO 'off'
    AS …;

ALTER FUNCTION nofx.wake_parked(p_queue text, p_limit integer) OWNER TO nofx_system;

CREATE FUNCTION nofx.wake_up_lost(p_job bigint, p_ready_at timestamp with time zone, p_lost interval) RETURNS boolean
    LANGUAGE sql
    AS …;

ALTER FUNCTION nofx.wake_up_lost(p_job bigint, p_ready_at timestamp with time zone, p_lost interval) OWNER TO nofx_system;

CREATE FUNCTION nofx.withdraw_gates(p_tenant uuid, p_run uuid, p_reason text) RETURNS void
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.withdraw_gates(p_tenant uuid, p_run uuid, p_reason text) OWNER TO nofx_system;

CREATE FUNCTION nofx.worker_missing(p_queue text, p_silent interval) RETURNS text
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.worker_missing(p_queue text, p_silent interval) OWNER TO nofx_system;

CREATE FUNCTION nofx.workers(p_forget interval) RETURNS TABLE(id text, pid integer, host text, version text, queues text[], slots_max integer, slots_used integer, sandbox_tier integer, tier_wanted integer, draining boolean, waits_for text, lost boolean, started_at timestamp with time zone, seen_at timestamp with time zone, silence interval)
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'nofx', 'pg_temp'
    AS …;

ALTER FUNCTION nofx.workers(p_forget interval) OWNER TO nofx_system;

CREATE FUNCTION nofx.write_events(p_tenant uuid, p nofx.new_event[]) RETURNS void
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.write_events(p_tenant uuid, p nofx.new_event[]) OWNER TO nofx_system;

CREATE FUNCTION nofx.write_step_change(p_tenant uuid, p_run uuid, p nofx.new_event) RETURNS bigint
    LANGUAGE plpgsql
    AS …;

ALTER FUNCTION nofx.write_step_change(p_tenant uuid, p_run uuid, p nofx.new_event) OWNER TO nofx_system;

CREATE TABLE nofx.alert_delivery (
    tenant_id uuid NOT NULL,
    endpoint_id uuid NOT NULL,
    id uuid NOT NULL,
    event text NOT NULL,
    data jsonb NOT NULL,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    state text DEFAULT 'pending'::text NOT NULL,
    due_at timestamp with time zone DEFAULT clock_timestamp(),
    worker_id text,
    attempt integer DEFAULT 0 NOT NULL,
    tried_at timestamp with time zone,
    duration_ms integer,
    response_code integer,
    response_excerpt text,
    error text,
    CONSTRAINT alert_delivery_check CHECK (((state = 'pending'::text) = (due_at IS NOT NULL))),
    CONSTRAINT alert_delivery_data_check CHECK ((pg_column_size(data) <= 4096)),
    CONSTRAINT alert_delivery_error_check CHECK ((length(error) <= 200)),
    CONSTRAINT alert_delivery_event_check CHECK (((length(event) >= 1) AND (length(event) <= 64))),
    CONSTRAINT alert_delivery_response_excerpt_check CHECK ((octet_length(response_excerpt) <= 1024)),
    CONSTRAINT alert_delivery_state_check CHECK ((state = ANY (ARRAY['pending'::text, 'delivered'::text, 'failed'::text])))
);

ALTER TABLE ONLY nofx.alert_delivery FORCE ROW LEVEL SECURITY;

ALTER TABLE nofx.alert_delivery OWNER TO nofx_owner;

CREATE TABLE nofx.api_key (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL,
    name text NOT NULL,
    prefix text NOT NULL,
    secret_sha256 bytea NOT NULL,
    role text NOT NULL,
    scopes text[] DEFAULT '{}'::text[] NOT NULL,
    created_by text NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    expires_at timestamp with time zone,
    revoked_at timestamp with time zone,
    last_used_at timestamp with time zone,
    CONSTRAINT api_key_name_check CHECK (((length(name) >= 1) AND (length(name) <= 200))),
    CONSTRAINT api_key_role_check CHECK ((role = ANY (ARRAY['viewer'::text, 'operator'::text, 'supervisor'::text, 'admin'::text, 'service'::text]))),
    CONSTRAINT api_key_secret_sha256_check CHECK ((length(secret_sha256) = 32))
);

ALTER TABLE ONLY nofx.api_key FORCE ROW LEVEL SECURITY;

ALTER TABLE nofx.api_key OWNER TO nofx_owner;

CREATE TABLE nofx.approval (
    tenant_id uuid NOT NULL,
    gate_id uuid NOT NULL,
    subject text NOT NULL,
    decision text NOT NULL,
    reason text,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT approval_decision_check CHECK ((decision = ANY (ARRAY['approve'::text, 'reject'::text, 'waive'::text])))
);

ALTER TABLE ONLY nofx.approval FORCE ROW LEVEL SECURITY;

ALTER TABLE nofx.approval OWNER TO nofx_owner;

CREATE TABLE nofx.artifact (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL,
    run_id uuid,
    step_id uuid,
    fence bigint,
    name text NOT NULL,
    key text NOT NULL,
    media_type text NOT NULL,
    size_bytes bigint NOT NULL,
    sha256 bytea NOT NULL,
    state text DEFAULT 'ready'::text NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT artifact_sha256_check CHECK ((octet_length(sha256) = 32)),
    CONSTRAINT artifact_state_check CHECK ((state = ANY (ARRAY['pending'::text, 'ready'::text])))
);

ALTER TABLE ONLY nofx.artifact FORCE ROW LEVEL SECURITY;

ALTER TABLE nofx.artifact OWNER TO nofx_owner;

CREATE TABLE nofx.attempt (
    tenant_id uuid NOT NULL,
    step_id uuid NOT NULL,
    fence bigint NOT NULL,
    seq bigint NOT NULL,
    owner text NOT NULL,
    owner_pid integer NOT NULL,
    started_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    ended_at timestamp with time zone,
    accepted boolean DEFAULT false NOT NULL,
    outcome text,
    exit_code integer,
    usage jsonb DEFAULT '{}'::jsonb NOT NULL,
    trace_id character(32) NOT NULL,
    span_id character(16) NOT NULL
)
WITH (autovacuum_vacuum_scale_factor='0.02');

ALTER TABLE ONLY nofx.attempt FORCE ROW LEVEL SECURITY;

ALTER TABLE nofx.attempt OWNER TO nofx_owner;

CREATE TABLE nofx.audit_denial (
    tenant_id uuid NOT NULL,
    actor text NOT NULL,
    minute timestamp with time zone NOT NULL,
    attempts integer NOT NULL
)
WITH (fillfactor='50');

ALTER TABLE ONLY nofx.audit_denial FORCE ROW LEVEL SECURITY;

ALTER TABLE nofx.audit_denial OWNER TO nofx_owner;

CREATE TABLE nofx.audit_head (
    tenant_id uuid NOT NULL,
    seq bigint DEFAULT 0 NOT NULL,
    hash bytea DEFAULT decode(repeat('00'::text, 32), 'hex'::text) NOT NULL,
    anchored_seq bigint DEFAULT 0 NOT NULL,
    anchored_on date
)
WITH (fillfactor='50');

ALTER TABLE ONLY nofx.audit_head FORCE ROW LEVEL SECURITY;

ALTER TABLE nofx.audit_head OWNER TO nofx_owner;

CREATE TABLE nofx.blob (
    tenant_id uuid NOT NULL,
    sha256 bytea NOT NULL,
    size bigint NOT NULL,
    pack_sha256 bytea,
    off bigint DEFAULT 0 NOT NULL,
    len bigint NOT NULL,
    copy bigint DEFAULT 0 NOT NULL,
    state text DEFAULT 'live'::text NOT NULL,
    last_ref timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    mark timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL,
    condemned_at timestamp with time zone,
    purged_at timestamp with time zone,
    purged_by text,
    reason text,
    CONSTRAINT blob_check CHECK (((state = 'tombstone'::text) = ((purged_at IS NOT NULL) AND (purged_by IS NOT NULL) AND (reason IS NOT NULL)))),
    CONSTRAINT blob_pack_sha256_check CHECK ((octet_length(pack_sha256) = 32)),
    CONSTRAINT blob_reason_check CHECK ((length(reason) <= 2048)),
    CONSTRAINT blob_sha256_check CHECK ((octet_length(sha256) = 32)),
    CONSTRAINT blob_state_check CHECK ((state = ANY (ARRAY['live'::text, 'condemned'::text, 'tombstone'::text])))
)
WITH (fillfactor='80');

ALTER TABLE ONLY nofx.blob FORCE ROW LEVEL SECURITY;

ALTER TABLE nofx.blob OWNER TO nofx_owner;

CREATE TABLE nofx.branch_edit (
    tenant_id uuid NOT NULL,
    run_id uuid NOT NULL,
    bases uuid[] NOT NULL,
    doc text NOT NULL
);

ALTER TABLE ONLY nofx.branch_edit FORCE ROW LEVEL SECURITY;

ALTER TABLE nofx.branch_edit OWNER TO nofx_owner;

CREATE TABLE nofx.checkpoint (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL,
    run_id uuid NOT NULL,
    seq bigint NOT NULL,
    kind text NOT NULL,
    step_id uuid,
    fence bigint,
    generation integer NOT NULL,
    digest text NOT NULL,
    manifest bytea NOT NULL,
    state_digest text NOT NULL,
    state_inline bytea,
    tree_digest text NOT NULL,
    bytes_new bigint NOT NULL,
    label text,
    hold boolean DEFAULT false NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

ALTER TABLE ONLY nofx.checkpoint FORCE ROW LEVEL SECURITY;

ALTER TABLE nofx.checkpoint OWNER TO nofx_owner;

CREATE TABLE nofx.checkpoint_parent (
    tenant_id uuid NOT NULL,
    checkpoint_id uuid NOT NULL,
    ord integer NOT NULL,
    parent_id uuid NOT NULL
);

ALTER TABLE ONLY nofx.checkpoint_parent FORCE ROW LEVEL SECURITY;

ALTER TABLE nofx.checkpoint_parent OWNER TO nofx_owner;

CREATE UNLOGGED TABLE nofx.contact (
    one boolean DEFAULT true NOT NULL,
    seen_at timestamp with time zone NOT NULL,
    resumed_at timestamp with time zone NOT NULL,
    CONSTRAINT contact_one_check CHECK (one)
)
WITH (fillfactor='10');

ALTER TABLE nofx.contact OWNER TO nofx_owner;

CREATE TABLE nofx.diff (
    tenant_id uuid NOT NULL,
    to_id uuid NOT NULL,
    from_id uuid NOT NULL,
    options text NOT NULL,
    copy bigint NOT NULL,
    json_sha256 bytea NOT NULL,
    json_bytes bigint NOT NULL,
    patch_sha256 bytea NOT NULL,
    patch_bytes bigint NOT NULL,
    files integer NOT NULL,
    lines_added integer NOT NULL,
    lines_deleted integer NOT NULL,
    truncated boolean NOT NULL,
    state text DEFAULT 'stored'::text NOT NULL,
    losses integer DEFAULT 0 NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT diff_json_sha256_check CHECK ((octet_length(json_sha256) = 32)),
    CONSTRAINT diff_patch_sha256_check CHECK ((octet_length(patch_sha256) = 32)),
    CONSTRAINT diff_state_check CHECK ((state = ANY (ARRAY['stored'::text, 'lost'::text])))
);

ALTER TABLE ONLY nofx.diff FORCE ROW LEVEL SECURITY;

ALTER TABLE nofx.diff OWNER TO nofx_owner;

CREATE TABLE nofx.event (
    tenant_id uuid NOT NULL,
    run_id uuid NOT NULL,
    seq bigint NOT NULL,
    step_id uuid,
    type text NOT NULL,
    event text,
    from_state text,
    to_state text,
    data jsonb NOT NULL,
    actor text NOT NULL,
    reason text,
    trace_id character(32) NOT NULL,
    span_id character(16),
    fence bigint,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    xid xid8 DEFAULT pg_current_xact_id() NOT NULL
);

ALTER TABLE ONLY nofx.event FORCE ROW LEVEL SECURITY;

ALTER TABLE nofx.event OWNER TO nofx_owner;

CREATE TABLE nofx.event_horizon (
    tenant_id uuid NOT NULL,
    xid xid8 NOT NULL
);

ALTER TABLE ONLY nofx.event_horizon FORCE ROW LEVEL SECURITY;

ALTER TABLE nofx.event_horizon OWNER TO nofx_owner;

CREATE TABLE nofx.feed_epoch (
    first bigint NOT NULL,
    id integer NOT NULL,
    base bigint NOT NULL,
    created_at timestamp with time zone DEFAULT transaction_timestamp() NOT NULL,
    here boolean GENERATED ALWAYS AS (nofx.is_now(created_at)) STORED NOT NULL,
    CONSTRAINT feed_epoch_id_check CHECK ((id > 0))
);

ALTER TABLE nofx.feed_epoch OWNER TO nofx_owner;

CREATE TABLE nofx.finding_occurrence (
    tenant_id uuid NOT NULL,
    review_id uuid NOT NULL,
    finding_id uuid NOT NULL,
    anchor jsonb NOT NULL,
    disposition text NOT NULL,
    why text,
    CONSTRAINT finding_occurrence_disposition_check CHECK ((disposition = ANY (ARRAY['posted'::text, 'capped'::text, 'demoted'::text, 'duplicate'::text, 'rejected'::text])))
);

ALTER TABLE ONLY nofx.finding_occurrence FORCE ROW LEVEL SECURITY;

ALTER TABLE nofx.finding_occurrence OWNER TO nofx_owner;

CREATE TABLE nofx.gate (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL,
    run_id uuid NOT NULL,
    step_id uuid NOT NULL,
    round integer NOT NULL,
    name text NOT NULL,
    kind text NOT NULL,
    state text DEFAULT 'pending'::text NOT NULL,
    event text,
    version bigint DEFAULT 1 NOT NULL,
    message text,
    input_digest text NOT NULL,
    shown_checkpoint_id uuid,
    shown_digest text,
    evidence jsonb,
    evidence_bytes integer GENERATED ALWAYS AS (octet_length((evidence)::text)) STORED,
    expires_at timestamp with time zone,
    trace_id character(32) NOT NULL,
    decided_by text,
    decided_at timestamp with time zone,
    reason text,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT gate_check CHECK (((kind <> 'manual'::text) OR (expires_at IS NOT NULL))),
    CONSTRAINT gate_kind_check CHECK ((kind = ANY (ARRAY['command'::text, 'review'::text, 'manual'::text]))),
    CONSTRAINT gate_reason_check CHECK ((length(reason) <= 2048))
);

ALTER TABLE ONLY nofx.gate FORCE ROW LEVEL SECURITY;

ALTER TABLE nofx.gate OWNER TO nofx_owner;

CREATE TABLE nofx.idempotency_key (
    tenant_id uuid NOT NULL,
    scope text NOT NULL,
    key text NOT NULL,
    fingerprint bytea NOT NULL,
    status integer NOT NULL,
    headers jsonb NOT NULL,
    body bytea NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    expires_at timestamp with time zone DEFAULT (clock_timestamp() + '48:00:00'::interval) NOT NULL,
    CONSTRAINT idempotency_key_fingerprint_check CHECK ((octet_length(fingerprint) = 32)),
    CONSTRAINT idempotency_key_key_check CHECK ((octet_length(key) <= 255))
);

ALTER TABLE ONLY nofx.idempotency_key FORCE ROW LEVEL SECURITY;

ALTER TABLE nofx.idempotency_key OWNER TO nofx_owner;

CREATE TABLE nofx.inbox (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL,
    key text NOT NULL,
    payload jsonb NOT NULL,
    sent_by text NOT NULL,
    sent_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    expires_at timestamp with time zone DEFAULT (clock_timestamp() + '30 days'::interval) NOT NULL,
    step_id uuid
);

ALTER TABLE ONLY nofx.inbox FORCE ROW LEVEL SECURITY;

ALTER TABLE nofx.inbox OWNER TO nofx_owner;

CREATE TABLE nofx.log_chunk (
    tenant_id uuid NOT NULL,
    step_id uuid NOT NULL,
    fence bigint NOT NULL,
    n integer NOT NULL,
    start bigint NOT NULL,
    bytes bigint NOT NULL,
    lines integer NOT NULL,
    key text,
    sha256 bytea,
    mark text,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT log_chunk_check CHECK ((num_nonnulls(key, sha256) =
CASE
    WHEN (mark IS NULL) THEN 2
    ELSE 0
END)),
    CONSTRAINT log_chunk_sha256_check CHECK ((octet_length(sha256) = 32))
);

ALTER TABLE ONLY nofx.log_chunk FORCE ROW LEVEL SECURITY;

ALTER TABLE nofx.log_chunk OWNER TO nofx_owner;

CREATE TABLE nofx.machine_state (
    machine text NOT NULL,
    state text NOT NULL,
    terminal boolean NOT NULL
);

ALTER TABLE nofx.machine_state OWNER TO nofx_owner;

CREATE TABLE nofx.model_spend (
    tenant_id uuid NOT NULL,
    day date NOT NULL,
    tokens bigint DEFAULT 0 NOT NULL,
    cost_usd numeric(14,6) DEFAULT 0 NOT NULL
);

ALTER TABLE ONLY nofx.model_spend FORCE ROW LEVEL SECURITY;

ALTER TABLE nofx.model_spend OWNER TO nofx_owner;

CREATE TABLE nofx.object (
    tenant_id uuid NOT NULL,
    key text NOT NULL,
    sha256 bytea NOT NULL,
    bytes bigint NOT NULL,
    kind text NOT NULL,
    state text DEFAULT 'live'::text NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    condemned_at timestamp with time zone,
    CONSTRAINT object_kind_check CHECK ((kind = ANY (ARRAY['blob'::text, 'pack'::text, 'log'::text, 'upload'::text, 'diff'::text]))),
    CONSTRAINT object_sha256_check CHECK ((octet_length(sha256) = 32)),
    CONSTRAINT object_state_check CHECK ((state = ANY (ARRAY['live'::text, 'condemned'::text])))
);

ALTER TABLE ONLY nofx.object FORCE ROW LEVEL SECURITY;

ALTER TABLE nofx.object OWNER TO nofx_owner;

CREATE TABLE nofx.oidc_trust (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL,
    repository text NOT NULL,
    repository_id bigint NOT NULL,
    repository_owner_id bigint NOT NULL,
    ref text,
    job_workflow_ref text,
    event_name text,
    created_by text NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT oidc_trust_event_name_check CHECK (((length(event_name) >= 1) AND (length(event_name) <= 64))),
    CONSTRAINT oidc_trust_job_workflow_ref_check CHECK (((length(job_workflow_ref) >= 1) AND (length(job_workflow_ref) <= 512))),
    CONSTRAINT oidc_trust_ref_check CHECK (((length(ref) >= 1) AND (length(ref) <= 255))),
    CONSTRAINT oidc_trust_repository_check CHECK (((length(repository) >= 3) AND (length(repository) <= 201))),
    CONSTRAINT oidc_trust_repository_id_check CHECK ((repository_id > 0)),
    CONSTRAINT oidc_trust_repository_owner_id_check CHECK ((repository_owner_id > 0))
);

ALTER TABLE ONLY nofx.oidc_trust FORCE ROW LEVEL SECURITY;

ALTER TABLE nofx.oidc_trust OWNER TO nofx_owner;

CREATE TABLE nofx.queue_pause (
    tenant_id uuid NOT NULL,
    queue text NOT NULL,
    paused_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    paused_by text NOT NULL,
    reason text,
    resumed_at timestamp with time zone,
    CONSTRAINT queue_pause_reason_check CHECK ((length(reason) <= 2048))
);

ALTER TABLE ONLY nofx.queue_pause FORCE ROW LEVEL SECURITY;

ALTER TABLE nofx.queue_pause OWNER TO nofx_owner;

CREATE TABLE nofx.review_artifact (
    tenant_id uuid NOT NULL,
    review_id uuid NOT NULL,
    stage text NOT NULL,
    ordinal integer NOT NULL,
    artifact_id uuid NOT NULL,
    input text NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT review_artifact_stage_check CHECK (((length(stage) >= 1) AND (length(stage) <= 64)))
);

ALTER TABLE ONLY nofx.review_artifact FORCE ROW LEVEL SECURITY;

ALTER TABLE nofx.review_artifact OWNER TO nofx_owner;

CREATE TABLE nofx.run (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL,
    project_id uuid NOT NULL,
    kind text DEFAULT 'plan'::text NOT NULL,
    subject_run_id uuid,
    work_key text,
    name text,
    goal text NOT NULL,
    labels jsonb DEFAULT '{}'::jsonb NOT NULL,
    state text DEFAULT 'queued'::text NOT NULL,
    event text,
    version bigint DEFAULT 1 NOT NULL,
    event_seq bigint DEFAULT 0 NOT NULL,
    pruned_seq bigint,
    pending_steps integer DEFAULT 0 NOT NULL,
    ready_steps integer DEFAULT 0 NOT NULL,
    running_steps integer DEFAULT 0 NOT NULL,
    retrying_steps integer DEFAULT 0 NOT NULL,
    waiting_steps integer DEFAULT 0 NOT NULL,
    failed_steps integer DEFAULT 0 NOT NULL,
    run_day date DEFAULT ((clock_timestamp() AT TIME ZONE 'UTC'::text))::date NOT NULL,
    head_checkpoint_id uuid,
    plan jsonb NOT NULL,
    plan_digest text NOT NULL,
    parent_run_id uuid,
    parent_checkpoint_id uuid,
    root_run_id uuid NOT NULL,
    reuse_effects boolean DEFAULT false NOT NULL,
    start_checkpoint_id uuid,
    trace_id character(32) NOT NULL,
    traceparent text NOT NULL,
    correlation_id text,
    created_by text NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    started_at timestamp with time zone,
    finished_at timestamp with time zone,
    expired_at timestamp with time zone,
    deadline timestamp with time zone NOT NULL,
    paused_at timestamp with time zone,
    stopped_deadline timestamp with time zone,
    failure_class text,
    failure_signature text,
    reason text
)
WITH (fillfactor='70', autovacuum_vacuum_scale_factor='0.02');

ALTER TABLE ONLY nofx.run FORCE ROW LEVEL SECURITY;

ALTER TABLE nofx.run OWNER TO nofx_owner;

CREATE TABLE nofx.run_search (
    tenant_id uuid NOT NULL,
    run_id uuid NOT NULL,
    project_id uuid NOT NULL,
    tools text[] NOT NULL,
    labels jsonb NOT NULL,
    words text NOT NULL,
    reason text
);

ALTER TABLE ONLY nofx.run_search FORCE ROW LEVEL SECURITY;

ALTER TABLE nofx.run_search OWNER TO nofx_owner;

CREATE TABLE nofx.schema_migration (
    version integer NOT NULL,
    name text NOT NULL,
    sha256 text NOT NULL,
    applied_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

ALTER TABLE nofx.schema_migration OWNER TO nofx_owner;

CREATE TABLE nofx.secret_past (
    tenant_id uuid NOT NULL,
    name text NOT NULL,
    version bigint NOT NULL,
    sealed bytea NOT NULL,
    retired_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT secret_past_sealed_check CHECK (((octet_length(sealed) >= 1) AND (octet_length(sealed) <= 70000)))
);

ALTER TABLE ONLY nofx.secret_past FORCE ROW LEVEL SECURITY;

ALTER TABLE nofx.secret_past OWNER TO nofx_owner;

CREATE TABLE nofx.step (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL,
    run_id uuid NOT NULL,
    idx integer NOT NULL,
    name text NOT NULL,
    tool text NOT NULL,
    queue text NOT NULL,
    spec jsonb NOT NULL,
    state text DEFAULT 'pending'::text NOT NULL,
    event text,
    version bigint DEFAULT 1 NOT NULL,
    seq bigint DEFAULT 0 NOT NULL,
    fence bigint DEFAULT 0 NOT NULL,
    attempt integer DEFAULT 0 NOT NULL,
    max_attempts integer NOT NULL,
    lost_leases integer DEFAULT 0 NOT NULL,
    kills integer DEFAULT 0 NOT NULL,
    wake_seq bigint DEFAULT 0 NOT NULL,
    job_id bigint,
    deps_left integer NOT NULL,
    ready_at timestamp with time zone,
    due_at timestamp with time zone,
    retry_at timestamp with time zone,
    wait_until timestamp with time zone,
    waiting_since timestamp with time zone,
    signal_key text,
    failing_since timestamp with time zone,
    started_at timestamp with time zone,
    finished_at timestamp with time zone,
    failure_class text,
    reason text,
    outputs jsonb,
    outputs_bytes integer,
    head_checkpoint_id uuid,
    restored_from uuid
)
WITH (fillfactor='50', autovacuum_vacuum_scale_factor='0.02');

ALTER TABLE ONLY nofx.step FORCE ROW LEVEL SECURITY;

ALTER TABLE nofx.step OWNER TO nofx_owner;

CREATE TABLE nofx.step_dep (
    tenant_id uuid NOT NULL,
    run_id uuid NOT NULL,
    needs uuid NOT NULL,
    step_id uuid NOT NULL
);

ALTER TABLE ONLY nofx.step_dep FORCE ROW LEVEL SECURITY;

ALTER TABLE nofx.step_dep OWNER TO nofx_owner;

CREATE TABLE nofx.step_effect (
    tenant_id uuid NOT NULL,
    run_id uuid NOT NULL,
    step_name text NOT NULL,
    name text NOT NULL,
    key text NOT NULL,
    fence bigint NOT NULL,
    state text DEFAULT 'begun'::text NOT NULL,
    request_digest text NOT NULL,
    result jsonb,
    begun_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    done_at timestamp with time zone,
    CONSTRAINT step_effect_check CHECK (((state = 'done'::text) = ((done_at IS NOT NULL) AND (result IS NOT NULL)))),
    CONSTRAINT step_effect_key_check CHECK ((octet_length(key) <= 255)),
    CONSTRAINT step_effect_request_digest_check CHECK ((request_digest ~ '^sha256:[0-9a-f]{64}$'::text)),
    CONSTRAINT step_effect_result_check CHECK ((pg_column_size(result) <= 262144)),
    CONSTRAINT step_effect_state_check CHECK ((state = ANY (ARRAY['begun'::text, 'done'::text])))
);

ALTER TABLE ONLY nofx.step_effect FORCE ROW LEVEL SECURITY;

ALTER TABLE nofx.step_effect OWNER TO nofx_owner;

CREATE TABLE nofx.step_lease (
    tenant_id uuid NOT NULL,
    step_id uuid NOT NULL,
    fence bigint NOT NULL,
    owner text NOT NULL,
    lease_until timestamp with time zone NOT NULL,
    job_id bigint,
    begun boolean DEFAULT true NOT NULL,
    beside boolean DEFAULT false NOT NULL
)
WITH (fillfactor='50', autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='500', autovacuum_vacuum_cost_delay='0');

ALTER TABLE ONLY nofx.step_lease FORCE ROW LEVEL SECURITY;

ALTER TABLE nofx.step_lease OWNER TO nofx_owner;

CREATE TABLE nofx.stream_ticket (
    tenant_id uuid NOT NULL,
    sha256 bytea NOT NULL,
    target text NOT NULL,
    proof jsonb NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    CONSTRAINT stream_ticket_sha256_check CHECK ((length(sha256) = 32)),
    CONSTRAINT stream_ticket_target_check CHECK (((length(target) >= 1) AND (length(target) <= 8192)))
);

ALTER TABLE ONLY nofx.stream_ticket FORCE ROW LEVEL SECURITY;

ALTER TABLE nofx.stream_ticket OWNER TO nofx_owner;

CREATE TABLE nofx.subject (
    tenant_id uuid NOT NULL,
    subject text NOT NULL,
    name text,
    seen_at timestamp with time zone,
    revoked_before timestamp with time zone,
    revoked_by text,
    reason text,
    CONSTRAINT subject_name_check CHECK (((length(name) >= 1) AND (length(name) <= 255))),
    CONSTRAINT subject_reason_check CHECK (((length(reason) >= 1) AND (length(reason) <= 2048))),
    CONSTRAINT subject_subject_check CHECK ((subject ~ '^(user|oidc):[A-Za-z0-9._:@|=+-]{1,128}$'::text))
);

ALTER TABLE ONLY nofx.subject FORCE ROW LEVEL SECURITY;

ALTER TABLE nofx.subject OWNER TO nofx_owner;

CREATE TABLE nofx.tenant (
    tenant_id uuid NOT NULL,
    slug text NOT NULL,
    settings jsonb DEFAULT '{}'::jsonb NOT NULL,
    settings_version bigint DEFAULT 1 NOT NULL,
    settings_at timestamp with time zone,
    settings_by text,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT tenant_slug_check CHECK ((slug ~ '^[a-z0-9][a-z0-9-]{0,62}$'::text))
);

ALTER TABLE ONLY nofx.tenant FORCE ROW LEVEL SECURITY;

ALTER TABLE nofx.tenant OWNER TO nofx_owner;

CREATE TABLE nofx.tool_pin (
    tenant_id uuid NOT NULL,
    provider text NOT NULL,
    server text NOT NULL,
    session text NOT NULL,
    tools jsonb NOT NULL,
    pinned_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT tool_pin_provider_check CHECK ((provider = ANY (ARRAY['github'::text, 'bitbucket'::text]))),
    CONSTRAINT tool_pin_server_check CHECK ((length(server) <= 256))
);

ALTER TABLE ONLY nofx.tool_pin FORCE ROW LEVEL SECURITY;

ALTER TABLE nofx.tool_pin OWNER TO nofx_owner;

CREATE TABLE nofx.wait (
    tenant_id uuid NOT NULL,
    step_id uuid NOT NULL,
    round integer NOT NULL,
    kind text NOT NULL,
    wait_until timestamp with time zone NOT NULL,
    quorum integer DEFAULT 1 NOT NULL,
    correlation text,
    shown_digest text,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT wait_check CHECK (((kind = 'signal'::text) = (correlation IS NOT NULL))),
    CONSTRAINT wait_check1 CHECK ((wait_until <= (created_at + '30 days 00:01:00'::interval))),
    CONSTRAINT wait_kind_check CHECK ((kind = ANY (ARRAY['approval'::text, 'timer'::text, 'signal'::text]))),
    CONSTRAINT wait_quorum_check CHECK ((quorum > 0))
);

ALTER TABLE ONLY nofx.wait FORCE ROW LEVEL SECURITY;

ALTER TABLE nofx.wait OWNER TO nofx_owner;

CREATE TABLE nofx.webhook_delivery (
    tenant_id uuid NOT NULL,
    repository_id uuid NOT NULL,
    delivery text NOT NULL,
    event text NOT NULL,
    pull_request integer,
    subject_at timestamp with time zone,
    result text,
    review_id uuid,
    received_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT webhook_delivery_delivery_check CHECK (((length(delivery) >= 1) AND (length(delivery) <= 128))),
    CONSTRAINT webhook_delivery_event_check CHECK (((length(event) >= 1) AND (length(event) <= 64))),
    CONSTRAINT webhook_delivery_result_check CHECK ((result = ANY (ARRAY['started'::text, 'settled'::text, 'exists'::text, 'skipped'::text, 'ignored'::text, 'stale'::text])))
);

ALTER TABLE ONLY nofx.webhook_delivery FORCE ROW LEVEL SECURITY;

ALTER TABLE nofx.webhook_delivery OWNER TO nofx_owner;

CREATE UNLOGGED TABLE nofx.worker (
    id text NOT NULL,
    pid integer NOT NULL,
    host text NOT NULL,
    version text NOT NULL,
    queues text[] NOT NULL,
    slots_max integer NOT NULL,
    sandbox_tier integer NOT NULL,
    tier_wanted integer DEFAULT 0 NOT NULL,
    draining boolean NOT NULL,
    waits_for text DEFAULT ''::text NOT NULL,
    lost boolean DEFAULT false NOT NULL,
    gone boolean DEFAULT false NOT NULL,
    started_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    seen_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
)
WITH (fillfactor='50');

ALTER TABLE nofx.worker OWNER TO nofx_owner;

ALTER TABLE ONLY nofx.alert_delivery
    ADD CONSTRAINT alert_delivery_pkey PRIMARY KEY (tenant_id, endpoint_id, id);

ALTER TABLE ONLY nofx.alert_endpoint
    ADD CONSTRAINT alert_endpoint_pkey PRIMARY KEY (tenant_id, id);

ALTER TABLE ONLY nofx.api_key
    ADD CONSTRAINT api_key_pkey PRIMARY KEY (tenant_id, id);

ALTER TABLE ONLY nofx.approval
    ADD CONSTRAINT approval_pkey PRIMARY KEY (tenant_id, gate_id, subject);

ALTER TABLE ONLY nofx.artifact
    ADD CONSTRAINT artifact_pkey PRIMARY KEY (tenant_id, id);

ALTER TABLE ONLY nofx.attempt
    ADD CONSTRAINT attempt_pkey PRIMARY KEY (tenant_id, step_id, fence);

ALTER TABLE ONLY nofx.audit_denial
    ADD CONSTRAINT audit_denial_pkey PRIMARY KEY (tenant_id, actor);

ALTER TABLE ONLY nofx.audit_head
    ADD CONSTRAINT audit_head_pkey PRIMARY KEY (tenant_id);

ALTER TABLE ONLY nofx.audit
    ADD CONSTRAINT audit_pkey PRIMARY KEY (tenant_id, seq);

ALTER TABLE ONLY nofx.blob
    ADD CONSTRAINT blob_pkey PRIMARY KEY (tenant_id, sha256);

ALTER TABLE ONLY nofx.branch_edit
    ADD CONSTRAINT branch_edit_pkey PRIMARY KEY (tenant_id, run_id);

ALTER TABLE ONLY nofx.checkpoint_parent
    ADD CONSTRAINT checkpoint_parent_pkey PRIMARY KEY (tenant_id, checkpoint_id, ord);

ALTER TABLE ONLY nofx.checkpoint
    ADD CONSTRAINT checkpoint_pkey PRIMARY KEY (tenant_id, id);

ALTER TABLE ONLY nofx.checkpoint
    ADD CONSTRAINT checkpoint_run_id_tenant_id_seq_key UNIQUE (run_id, tenant_id, seq);

ALTER TABLE ONLY nofx.contact
    ADD CONSTRAINT contact_pkey PRIMARY KEY (one);

ALTER TABLE ONLY nofx.diff
    ADD CONSTRAINT diff_pkey PRIMARY KEY (tenant_id, to_id, from_id, options);

ALTER TABLE ONLY nofx.event_horizon
    ADD CONSTRAINT event_horizon_pkey PRIMARY KEY (tenant_id);

ALTER TABLE ONLY nofx.event
    ADD CONSTRAINT event_pkey PRIMARY KEY (tenant_id, run_id, seq);

ALTER TABLE ONLY nofx.feed_epoch
    ADD CONSTRAINT feed_epoch_id_key UNIQUE (id);

ALTER TABLE ONLY nofx.feed_epoch
    ADD CONSTRAINT feed_epoch_pkey PRIMARY KEY (first);

ALTER TABLE ONLY nofx.finding_occurrence
    ADD CONSTRAINT finding_occurrence_pkey PRIMARY KEY (tenant_id, review_id, finding_id);

ALTER TABLE ONLY nofx.finding
    ADD CONSTRAINT finding_pkey PRIMARY KEY (tenant_id, id);

ALTER TABLE ONLY nofx.gate
    ADD CONSTRAINT gate_pkey PRIMARY KEY (tenant_id, id);

ALTER TABLE ONLY nofx.gate
    ADD CONSTRAINT gate_step_id_tenant_id_round_key UNIQUE (step_id, tenant_id, round);

ALTER TABLE ONLY nofx.idempotency_key
    ADD CONSTRAINT idempotency_key_pkey PRIMARY KEY (tenant_id, scope, key);

ALTER TABLE ONLY nofx.inbox
    ADD CONSTRAINT inbox_pkey PRIMARY KEY (tenant_id, id);

ALTER TABLE ONLY nofx.log_chunk
    ADD CONSTRAINT log_chunk_pkey PRIMARY KEY (tenant_id, step_id, fence, n);

ALTER TABLE ONLY nofx.machine_state
    ADD CONSTRAINT machine_state_pkey PRIMARY KEY (machine, state);

ALTER TABLE ONLY nofx.merge_conflict
    ADD CONSTRAINT merge_conflict_pkey PRIMARY KEY (tenant_id, merge_id, n);

ALTER TABLE ONLY nofx.merge
    ADD CONSTRAINT merge_pkey PRIMARY KEY (tenant_id, id);

ALTER TABLE ONLY nofx.model_spend
    ADD CONSTRAINT model_spend_pkey PRIMARY KEY (tenant_id, day);

ALTER TABLE ONLY nofx.object
    ADD CONSTRAINT object_pkey PRIMARY KEY (tenant_id, key);

ALTER TABLE ONLY nofx.oidc_trust
    ADD CONSTRAINT oidc_trust_pkey PRIMARY KEY (tenant_id, id);

ALTER TABLE ONLY nofx.project
    ADD CONSTRAINT project_pkey PRIMARY KEY (tenant_id, id);

ALTER TABLE ONLY nofx.project
    ADD CONSTRAINT project_tenant_id_slug_key UNIQUE (tenant_id, slug);

ALTER TABLE ONLY nofx.queue_pause
    ADD CONSTRAINT queue_pause_pkey PRIMARY KEY (tenant_id, queue);

ALTER TABLE ONLY nofx.repository
    ADD CONSTRAINT repository_pkey PRIMARY KEY (tenant_id, id);

ALTER TABLE ONLY nofx.review_artifact
    ADD CONSTRAINT review_artifact_pkey PRIMARY KEY (tenant_id, review_id, stage, ordinal);

ALTER TABLE ONLY nofx.review
    ADD CONSTRAINT review_pkey PRIMARY KEY (tenant_id, id);

ALTER TABLE ONLY nofx.run
    ADD CONSTRAINT run_pkey PRIMARY KEY (tenant_id, id);

ALTER TABLE ONLY nofx.run_search
    ADD CONSTRAINT run_search_pkey PRIMARY KEY (tenant_id, run_id);

ALTER TABLE ONLY nofx.schema_migration
    ADD CONSTRAINT schema_migration_pkey PRIMARY KEY (version);

ALTER TABLE ONLY nofx.secret_past
    ADD CONSTRAINT secret_past_pkey PRIMARY KEY (tenant_id, name, version);

ALTER TABLE ONLY nofx.secret
    ADD CONSTRAINT secret_pkey PRIMARY KEY (tenant_id, name);

ALTER TABLE ONLY nofx.step_dep
    ADD CONSTRAINT step_dep_pkey PRIMARY KEY (tenant_id, needs, step_id);

ALTER TABLE ONLY nofx.step_effect
    ADD CONSTRAINT step_effect_pkey PRIMARY KEY (tenant_id, key);

ALTER TABLE ONLY nofx.step_lease
    ADD CONSTRAINT step_lease_pkey PRIMARY KEY (tenant_id, step_id);

ALTER TABLE ONLY nofx.step
    ADD CONSTRAINT step_pkey PRIMARY KEY (tenant_id, id);

ALTER TABLE ONLY nofx.step
    ADD CONSTRAINT step_run_id_tenant_id_idx_key UNIQUE (run_id, tenant_id, idx);

ALTER TABLE ONLY nofx.step
    ADD CONSTRAINT step_run_id_tenant_id_name_key UNIQUE (run_id, tenant_id, name);

ALTER TABLE ONLY nofx.stream_ticket
    ADD CONSTRAINT stream_ticket_pkey PRIMARY KEY (tenant_id, sha256);

ALTER TABLE ONLY nofx.subject
    ADD CONSTRAINT subject_pkey PRIMARY KEY (tenant_id, subject);

ALTER TABLE ONLY nofx.tenant
    ADD CONSTRAINT tenant_pkey PRIMARY KEY (tenant_id);

ALTER TABLE ONLY nofx.tenant
    ADD CONSTRAINT tenant_slug_key UNIQUE (slug);

ALTER TABLE ONLY nofx.tool_pin
    ADD CONSTRAINT tool_pin_pkey PRIMARY KEY (tenant_id, provider, server, session);

ALTER TABLE ONLY nofx.transition
    ADD CONSTRAINT transition_pkey PRIMARY KEY (machine, from_state, event);

ALTER TABLE ONLY nofx.wait
    ADD CONSTRAINT wait_pkey PRIMARY KEY (tenant_id, step_id, round);

ALTER TABLE ONLY nofx.webhook_delivery
    ADD CONSTRAINT webhook_delivery_pkey PRIMARY KEY (tenant_id, repository_id, delivery);

ALTER TABLE ONLY nofx.worker
    ADD CONSTRAINT worker_pkey PRIMARY KEY (id);

CREATE INDEX alert_delivery_age ON nofx.alert_delivery USING btree (at);

CREATE INDEX alert_delivery_due ON nofx.alert_delivery USING btree (tenant_id, endpoint_id, due_at) WHERE (due_at IS NOT NULL);

CREATE INDEX alert_delivery_taken ON nofx.alert_delivery USING btree (tenant_id, endpoint_id, due_at) WHERE (worker_id IS NOT NULL);

CREATE INDEX alert_endpoint_past ON nofx.alert_endpoint USING btree (past_until) WHERE (past_until IS NOT NULL);

CREATE UNIQUE INDEX api_key_id ON nofx.api_key USING btree (id);

CREATE UNIQUE INDEX api_key_live_name ON nofx.api_key USING btree (tenant_id, lower(name)) WHERE (revoked_at IS NULL);

CREATE INDEX artifact_key ON nofx.artifact USING btree (key, tenant_id);

CREATE INDEX artifact_loose ON nofx.artifact USING btree (tenant_id, id) WHERE (run_id IS NULL);

CREATE INDEX artifact_pending ON nofx.artifact USING btree (created_at) WHERE (state = 'pending'::text);

CREATE INDEX artifact_run ON nofx.artifact USING btree (run_id, tenant_id, id);

CREATE INDEX artifact_step ON nofx.artifact USING btree (step_id, tenant_id) WHERE (step_id IS NOT NULL);

CREATE UNIQUE INDEX attempt_accepted ON nofx.attempt USING btree (tenant_id, step_id) WHERE accepted;

CREATE INDEX audit_act ON nofx.audit USING btree (tenant_id, act, seq DESC);

CREATE INDEX audit_actor ON nofx.audit USING btree (tenant_id, actor, seq DESC);

CREATE INDEX audit_at ON nofx.audit USING btree (tenant_id, at);

CREATE INDEX blob_pack ON nofx.blob USING btree (pack_sha256, tenant_id) WHERE (pack_sha256 IS NOT NULL);

CREATE INDEX blob_purged ON nofx.blob USING btree (tenant_id, sha256) WHERE (state = 'tombstone'::text);

CREATE INDEX checkpoint_child ON nofx.checkpoint_parent USING btree (parent_id);

CREATE INDEX diff_from ON nofx.diff USING btree (from_id, tenant_id);

CREATE INDEX event_feed ON nofx.event USING btree (tenant_id, xid, run_id, seq);

CREATE INDEX finding_day ON nofx.finding USING btree (tenant_id, created_at);

CREATE INDEX finding_dismissed ON nofx.finding USING btree (tenant_id, provider, repository) WHERE ((state = 'dismissed'::text) AND (scope <> 'this'::text));

CREATE UNIQUE INDEX finding_fingerprint ON nofx.finding USING btree (tenant_id, change, fingerprint);

CREATE INDEX finding_occurrence_finding ON nofx.finding_occurrence USING btree (finding_id, tenant_id, review_id);

CREATE INDEX finding_review ON nofx.finding USING btree (last_review_id, tenant_id);

CREATE INDEX gate_inbox ON nofx.gate USING btree (tenant_id, state, id);

CREATE INDEX gate_run ON nofx.gate USING btree (run_id, tenant_id, id);

CREATE INDEX gate_shown ON nofx.gate USING btree (shown_checkpoint_id) WHERE (shown_checkpoint_id IS NOT NULL);

CREATE INDEX idempotency_key_expiry ON nofx.idempotency_key USING btree (expires_at);

CREATE INDEX inbox_expiry ON nofx.inbox USING btree (expires_at);

CREATE INDEX inbox_taken ON nofx.inbox USING btree (tenant_id, step_id) WHERE (step_id IS NOT NULL);

CREATE INDEX inbox_waiting ON nofx.inbox USING btree (tenant_id, key, id) WHERE (step_id IS NULL);

CREATE UNIQUE INDEX merge_conflict_at ON nofx.merge_conflict USING btree (tenant_id, merge_id, unit, md5(at), kind);

CREATE INDEX merge_prepared ON nofx.merge USING btree (tenant_id) WHERE ((state = 'ready'::text) AND (prepared IS NOT NULL));

CREATE INDEX merge_source ON nofx.merge USING btree (source_run_id, tenant_id, id);

CREATE INDEX merge_target ON nofx.merge USING btree (target_run_id, tenant_id, id);

CREATE INDEX object_condemned ON nofx.object USING btree (kind, created_at) WHERE (state = 'condemned'::text);

CREATE INDEX oidc_trust_repository ON nofx.oidc_trust USING btree (repository_id, tenant_id);

CREATE UNIQUE INDEX oidc_trust_same ON nofx.oidc_trust USING btree (tenant_id, repository_id, repository_owner_id, COALESCE(ref, ''::text), COALESCE(job_workflow_ref, ''::text), COALESCE(event_name, ''::text));

CREATE INDEX repository_id ON nofx.repository USING btree (id, tenant_id);

CREATE UNIQUE INDEX repository_name ON nofx.repository USING btree (tenant_id, provider, lower(name));

CREATE INDEX repository_project ON nofx.repository USING btree (tenant_id, project_id);

CREATE INDEX review_artifact_id ON nofx.review_artifact USING btree (artifact_id, tenant_id);

CREATE INDEX review_artifact_input ON nofx.review_artifact USING btree (tenant_id, input, stage);

CREATE INDEX review_change ON nofx.review USING btree (tenant_id, change, id);

CREATE INDEX review_day ON nofx.review USING btree (tenant_id, created_at);

CREATE INDEX review_of_step ON nofx.review USING btree (step_id, tenant_id, id);

CREATE INDEX review_repository ON nofx.review USING btree (tenant_id, repository, id);

CREATE INDEX review_run ON nofx.review USING btree (run_id, tenant_id, id);

CREATE UNIQUE INDEX review_step ON nofx.review USING btree (step_id, tenant_id) WHERE (state = ANY (ARRAY['queued'::text, 'running'::text]));

CREATE INDEX run_branches ON nofx.run USING btree (parent_run_id, tenant_id, id) WHERE (parent_run_id IS NOT NULL);

CREATE INDEX run_by_signature ON nofx.run USING btree (tenant_id, failure_signature, id) WHERE (failure_signature IS NOT NULL);

CREATE INDEX run_by_state ON nofx.run USING btree (tenant_id, state, id);

CREATE INDEX run_by_trace ON nofx.run USING btree (trace_id);

CREATE INDEX run_deadline ON nofx.run USING btree (deadline) WHERE (state = ANY (ARRAY['queued'::text, 'running'::text, 'waiting'::text, 'paused'::text]));

CREATE INDEX run_line ON nofx.run USING btree (root_run_id, tenant_id, id) WHERE (parent_run_id IS NOT NULL);

CREATE INDEX run_system ON nofx.run USING btree (id) WHERE (kind = 'system'::text);

CREATE INDEX run_work ON nofx.run USING btree (tenant_id, work_key, id) WHERE (work_key IS NOT NULL);

CREATE INDEX step_backlog ON nofx.step USING btree (tenant_id, queue, due_at, id DESC) WHERE ((due_at IS NOT NULL) AND (queue <> ''::text));

CREATE INDEX step_backoff ON nofx.step USING btree (tenant_id, queue, retry_at, id) WHERE ((retry_at IS NOT NULL) AND (queue <> ''::text));

CREATE INDEX step_dead ON nofx.step USING btree (tenant_id, id) WHERE (failure_class = ANY (ARRAY['exhausted'::text, 'poisoned'::text]));

CREATE INDEX step_dep_step ON nofx.step_dep USING btree (step_id, tenant_id, needs);

CREATE INDEX step_due ON nofx.step USING btree (due_at, id) WHERE (due_at IS NOT NULL);

CREATE INDEX step_effect_run ON nofx.step_effect USING btree (run_id, tenant_id, step_name);

CREATE INDEX step_retrying ON nofx.step USING btree (retry_at) WHERE (retry_at IS NOT NULL);

CREATE INDEX step_signal ON nofx.step USING btree (tenant_id, signal_key, waiting_since, id) WHERE (signal_key IS NOT NULL);

CREATE INDEX step_waiting ON nofx.step USING btree (wait_until) WHERE (wait_until IS NOT NULL);

CREATE INDEX stream_ticket_age ON nofx.stream_ticket USING btree (tenant_id, expires_at);

CREATE UNIQUE INDEX stream_ticket_sha256 ON nofx.stream_ticket USING btree (sha256);

CREATE INDEX webhook_delivery_age ON nofx.webhook_delivery USING btree (tenant_id, repository_id, received_at);

CREATE INDEX webhook_delivery_pull ON nofx.webhook_delivery USING btree (tenant_id, repository_id, pull_request, subject_at) WHERE (pull_request IS NOT NULL);

CREATE TRIGGER audit_guard BEFORE DELETE OR UPDATE OR TRUNCATE ON nofx.audit FOR EACH STATEMENT EXECUTE FUNCTION nofx.audit_guard();

CREATE TRIGGER finding_guard BEFORE INSERT OR UPDATE OF state, event, version ON nofx.finding FOR EACH ROW EXECUTE FUNCTION nofx.finding_guard();

CREATE TRIGGER gate_guard BEFORE INSERT OR UPDATE OF state, event, version ON nofx.gate FOR EACH ROW EXECUTE FUNCTION nofx.gate_guard();

CREATE TRIGGER merge_guard BEFORE INSERT OR UPDATE OF state, event, version ON nofx.merge FOR EACH ROW EXECUTE FUNCTION nofx.merge_guard();

CREATE TRIGGER review_guard BEFORE INSERT OR UPDATE OF state, event, version ON nofx.review FOR EACH ROW EXECUTE FUNCTION nofx.review_guard();

CREATE TRIGGER run_guard BEFORE INSERT OR UPDATE OF state, event, version ON nofx.run FOR EACH ROW EXECUTE FUNCTION nofx.run_guard();

CREATE TRIGGER run_search AFTER INSERT ON nofx.run FOR EACH ROW EXECUTE FUNCTION nofx.search_run();

CREATE TRIGGER run_search_reason AFTER UPDATE OF reason ON nofx.run FOR EACH ROW WHEN ((new.reason IS DISTINCT FROM old.reason)) EXECUTE FUNCTION nofx.search_run();

CREATE TRIGGER settings_guard BEFORE INSERT OR UPDATE OF settings ON nofx.tenant FOR EACH ROW EXECUTE FUNCTION nofx.settings_guard();

CREATE TRIGGER step_guard BEFORE INSERT OR UPDATE OF state, event, version, fence ON nofx.step FOR EACH ROW EXECUTE FUNCTION nofx.step_guard();

ALTER TABLE ONLY nofx.alert_delivery
    ADD CONSTRAINT alert_delivery_tenant_id_endpoint_id_fkey FOREIGN KEY (tenant_id, endpoint_id) REFERENCES nofx.alert_endpoint(tenant_id, id);

ALTER TABLE ONLY nofx.alert_endpoint
    ADD CONSTRAINT alert_endpoint_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES nofx.tenant(tenant_id);

ALTER TABLE ONLY nofx.api_key
    ADD CONSTRAINT api_key_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES nofx.tenant(tenant_id);

ALTER TABLE ONLY nofx.approval
    ADD CONSTRAINT approval_tenant_id_gate_id_fkey FOREIGN KEY (tenant_id, gate_id) REFERENCES nofx.gate(tenant_id, id);

ALTER TABLE ONLY nofx.artifact
    ADD CONSTRAINT artifact_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES nofx.tenant(tenant_id);

ALTER TABLE ONLY nofx.artifact
    ADD CONSTRAINT artifact_tenant_id_run_id_fkey FOREIGN KEY (tenant_id, run_id) REFERENCES nofx.run(tenant_id, id);

ALTER TABLE ONLY nofx.artifact
    ADD CONSTRAINT artifact_tenant_id_step_id_fkey FOREIGN KEY (tenant_id, step_id) REFERENCES nofx.step(tenant_id, id);

ALTER TABLE ONLY nofx.audit_denial
    ADD CONSTRAINT audit_denial_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES nofx.tenant(tenant_id);

ALTER TABLE ONLY nofx.audit_head
    ADD CONSTRAINT audit_head_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES nofx.tenant(tenant_id);

ALTER TABLE ONLY nofx.audit
    ADD CONSTRAINT audit_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES nofx.tenant(tenant_id);

ALTER TABLE ONLY nofx.blob
    ADD CONSTRAINT blob_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES nofx.tenant(tenant_id);

ALTER TABLE ONLY nofx.branch_edit
    ADD CONSTRAINT branch_edit_tenant_id_run_id_fkey FOREIGN KEY (tenant_id, run_id) REFERENCES nofx.run(tenant_id, id) ON DELETE CASCADE;

ALTER TABLE ONLY nofx.diff
    ADD CONSTRAINT diff_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES nofx.tenant(tenant_id);

ALTER TABLE ONLY nofx.event_horizon
    ADD CONSTRAINT event_horizon_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES nofx.tenant(tenant_id);

ALTER TABLE ONLY nofx.finding_occurrence
    ADD CONSTRAINT finding_occurrence_tenant_id_finding_id_fkey FOREIGN KEY (tenant_id, finding_id) REFERENCES nofx.finding(tenant_id, id);

ALTER TABLE ONLY nofx.finding_occurrence
    ADD CONSTRAINT finding_occurrence_tenant_id_review_id_fkey FOREIGN KEY (tenant_id, review_id) REFERENCES nofx.review(tenant_id, id);

ALTER TABLE ONLY nofx.finding
    ADD CONSTRAINT finding_tenant_id_last_review_id_fkey FOREIGN KEY (tenant_id, last_review_id) REFERENCES nofx.review(tenant_id, id);

ALTER TABLE ONLY nofx.gate
    ADD CONSTRAINT gate_tenant_id_run_id_fkey FOREIGN KEY (tenant_id, run_id) REFERENCES nofx.run(tenant_id, id);

ALTER TABLE ONLY nofx.gate
    ADD CONSTRAINT gate_tenant_id_shown_checkpoint_id_fkey FOREIGN KEY (tenant_id, shown_checkpoint_id) REFERENCES nofx.checkpoint(tenant_id, id);

ALTER TABLE ONLY nofx.gate
    ADD CONSTRAINT gate_tenant_id_step_id_fkey FOREIGN KEY (tenant_id, step_id) REFERENCES nofx.step(tenant_id, id);

ALTER TABLE ONLY nofx.idempotency_key
    ADD CONSTRAINT idempotency_key_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES nofx.tenant(tenant_id);

ALTER TABLE ONLY nofx.log_chunk
    ADD CONSTRAINT log_chunk_tenant_id_step_id_fkey FOREIGN KEY (tenant_id, step_id) REFERENCES nofx.step(tenant_id, id);

ALTER TABLE ONLY nofx.merge_conflict
    ADD CONSTRAINT merge_conflict_tenant_id_merge_id_fkey FOREIGN KEY (tenant_id, merge_id) REFERENCES nofx.merge(tenant_id, id);

ALTER TABLE ONLY nofx.merge
    ADD CONSTRAINT merge_tenant_id_source_run_id_fkey FOREIGN KEY (tenant_id, source_run_id) REFERENCES nofx.run(tenant_id, id);

ALTER TABLE ONLY nofx.merge
    ADD CONSTRAINT merge_tenant_id_target_run_id_fkey FOREIGN KEY (tenant_id, target_run_id) REFERENCES nofx.run(tenant_id, id);

ALTER TABLE ONLY nofx.object
    ADD CONSTRAINT object_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES nofx.tenant(tenant_id);

ALTER TABLE ONLY nofx.oidc_trust
    ADD CONSTRAINT oidc_trust_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES nofx.tenant(tenant_id);

ALTER TABLE ONLY nofx.project
    ADD CONSTRAINT project_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES nofx.tenant(tenant_id);

ALTER TABLE ONLY nofx.queue_pause
    ADD CONSTRAINT queue_pause_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES nofx.tenant(tenant_id);

ALTER TABLE ONLY nofx.repository
    ADD CONSTRAINT repository_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES nofx.tenant(tenant_id);

ALTER TABLE ONLY nofx.repository
    ADD CONSTRAINT repository_tenant_id_project_id_fkey FOREIGN KEY (tenant_id, project_id) REFERENCES nofx.project(tenant_id, id);

ALTER TABLE ONLY nofx.review_artifact
    ADD CONSTRAINT review_artifact_tenant_id_artifact_id_fkey FOREIGN KEY (tenant_id, artifact_id) REFERENCES nofx.artifact(tenant_id, id);

ALTER TABLE ONLY nofx.review_artifact
    ADD CONSTRAINT review_artifact_tenant_id_review_id_fkey FOREIGN KEY (tenant_id, review_id) REFERENCES nofx.review(tenant_id, id);

ALTER TABLE ONLY nofx.review
    ADD CONSTRAINT review_tenant_id_run_id_fkey FOREIGN KEY (tenant_id, run_id) REFERENCES nofx.run(tenant_id, id);

ALTER TABLE ONLY nofx.review
    ADD CONSTRAINT review_tenant_id_step_id_fkey FOREIGN KEY (tenant_id, step_id) REFERENCES nofx.step(tenant_id, id);

ALTER TABLE ONLY nofx.run
    ADD CONSTRAINT run_tenant_id_parent_run_id_fkey FOREIGN KEY (tenant_id, parent_run_id) REFERENCES nofx.run(tenant_id, id);

ALTER TABLE ONLY nofx.secret_past
    ADD CONSTRAINT secret_past_tenant_id_name_fkey FOREIGN KEY (tenant_id, name) REFERENCES nofx.secret(tenant_id, name);

ALTER TABLE ONLY nofx.secret
    ADD CONSTRAINT secret_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES nofx.tenant(tenant_id);

ALTER TABLE ONLY nofx.step_effect
    ADD CONSTRAINT step_effect_tenant_id_run_id_fkey FOREIGN KEY (tenant_id, run_id) REFERENCES nofx.run(tenant_id, id);

ALTER TABLE ONLY nofx.stream_ticket
    ADD CONSTRAINT stream_ticket_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES nofx.tenant(tenant_id);

ALTER TABLE ONLY nofx.subject
    ADD CONSTRAINT subject_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES nofx.tenant(tenant_id);

ALTER TABLE ONLY nofx.tool_pin
    ADD CONSTRAINT tool_pin_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES nofx.tenant(tenant_id);

ALTER TABLE ONLY nofx.transition
    ADD CONSTRAINT transition_machine_from_state_fkey FOREIGN KEY (machine, from_state) REFERENCES nofx.machine_state(machine, state);

ALTER TABLE ONLY nofx.transition
    ADD CONSTRAINT transition_machine_to_state_fkey FOREIGN KEY (machine, to_state) REFERENCES nofx.machine_state(machine, state);

ALTER TABLE ONLY nofx.wait
    ADD CONSTRAINT wait_tenant_id_step_id_fkey FOREIGN KEY (tenant_id, step_id) REFERENCES nofx.step(tenant_id, id);

ALTER TABLE ONLY nofx.webhook_delivery
    ADD CONSTRAINT webhook_delivery_tenant_id_repository_id_fkey FOREIGN KEY (tenant_id, repository_id) REFERENCES nofx.repository(tenant_id, id);

ALTER TABLE nofx.alert_delivery ENABLE ROW LEVEL SECURITY;

ALTER TABLE nofx.alert_endpoint ENABLE ROW LEVEL SECURITY;

ALTER TABLE nofx.api_key ENABLE ROW LEVEL SECURITY;

ALTER TABLE nofx.approval ENABLE ROW LEVEL SECURITY;

ALTER TABLE nofx.artifact ENABLE ROW LEVEL SECURITY;

ALTER TABLE nofx.attempt ENABLE ROW LEVEL SECURITY;

ALTER TABLE nofx.audit ENABLE ROW LEVEL SECURITY;

ALTER TABLE nofx.audit_denial ENABLE ROW LEVEL SECURITY;

ALTER TABLE nofx.audit_head ENABLE ROW LEVEL SECURITY;

ALTER TABLE nofx.blob ENABLE ROW LEVEL SECURITY;

ALTER TABLE nofx.branch_edit ENABLE ROW LEVEL SECURITY;

ALTER TABLE nofx.checkpoint ENABLE ROW LEVEL SECURITY;

ALTER TABLE nofx.checkpoint_parent ENABLE ROW LEVEL SECURITY;

ALTER TABLE nofx.diff ENABLE ROW LEVEL SECURITY;

ALTER TABLE nofx.event ENABLE ROW LEVEL SECURITY;

ALTER TABLE nofx.event_horizon ENABLE ROW LEVEL SECURITY;

ALTER TABLE nofx.finding ENABLE ROW LEVEL SECURITY;

ALTER TABLE nofx.finding_occurrence ENABLE ROW LEVEL SECURITY;

ALTER TABLE nofx.gate ENABLE ROW LEVEL SECURITY;

ALTER TABLE nofx.idempotency_key ENABLE ROW LEVEL SECURITY;

ALTER TABLE nofx.inbox ENABLE ROW LEVEL SECURITY;

ALTER TABLE nofx.log_chunk ENABLE ROW LEVEL SECURITY;

ALTER TABLE nofx.merge ENABLE ROW LEVEL SECURITY;

ALTER TABLE nofx.merge_conflict ENABLE ROW LEVEL SECURITY;

ALTER TABLE nofx.model_spend ENABLE ROW LEVEL SECURITY;

ALTER TABLE nofx.object ENABLE ROW LEVEL SECURITY;

ALTER TABLE nofx.oidc_trust ENABLE ROW LEVEL SECURITY;

ALTER TABLE nofx.project ENABLE ROW LEVEL SECURITY;

ALTER TABLE nofx.queue_pause ENABLE ROW LEVEL SECURITY;

ALTER TABLE nofx.repository ENABLE ROW LEVEL SECURITY;

ALTER TABLE nofx.review ENABLE ROW LEVEL SECURITY;

ALTER TABLE nofx.review_artifact ENABLE ROW LEVEL SECURITY;

ALTER TABLE nofx.run ENABLE ROW LEVEL SECURITY;

ALTER TABLE nofx.run_search ENABLE ROW LEVEL SECURITY;

ALTER TABLE nofx.secret ENABLE ROW LEVEL SECURITY;

ALTER TABLE nofx.secret_past ENABLE ROW LEVEL SECURITY;

ALTER TABLE nofx.step ENABLE ROW LEVEL SECURITY;

ALTER TABLE nofx.step_dep ENABLE ROW LEVEL SECURITY;

ALTER TABLE nofx.step_effect ENABLE ROW LEVEL SECURITY;

ALTER TABLE nofx.step_lease ENABLE ROW LEVEL SECURITY;

ALTER TABLE nofx.stream_ticket ENABLE ROW LEVEL SECURITY;

ALTER TABLE nofx.subject ENABLE ROW LEVEL SECURITY;

CREATE POLICY system ON nofx.alert_delivery TO nofx_system USING (true) WITH CHECK (true);

CREATE POLICY system ON nofx.alert_endpoint TO nofx_system USING (true) WITH CHECK (true);

CREATE POLICY system ON nofx.api_key TO nofx_system USING (true) WITH CHECK (true);

CREATE POLICY system ON nofx.approval TO nofx_system USING (true) WITH CHECK (true);

CREATE POLICY system ON nofx.artifact TO nofx_system USING (true) WITH CHECK (true);

CREATE POLICY system ON nofx.attempt TO nofx_system USING (true) WITH CHECK (true);

CREATE POLICY system ON nofx.audit TO nofx_system USING (true) WITH CHECK (true);

CREATE POLICY system ON nofx.audit_denial TO nofx_system USING (true) WITH CHECK (true);

CREATE POLICY system ON nofx.audit_head TO nofx_system USING (true) WITH CHECK (true);

CREATE POLICY system ON nofx.blob TO nofx_system USING (true) WITH CHECK (true);

CREATE POLICY system ON nofx.branch_edit TO nofx_system USING (true) WITH CHECK (true);

CREATE POLICY system ON nofx.checkpoint TO nofx_system USING (true) WITH CHECK (true);

CREATE POLICY system ON nofx.checkpoint_parent TO nofx_system USING (true) WITH CHECK (true);

CREATE POLICY system ON nofx.diff TO nofx_system USING (true) WITH CHECK (true);

CREATE POLICY system ON nofx.event TO nofx_system USING (true) WITH CHECK (true);

CREATE POLICY system ON nofx.event_horizon TO nofx_system USING (true) WITH CHECK (true);

CREATE POLICY system ON nofx.finding TO nofx_system USING (true) WITH CHECK (true);

CREATE POLICY system ON nofx.finding_occurrence TO nofx_system USING (true) WITH CHECK (true);

CREATE POLICY system ON nofx.gate TO nofx_system USING (true) WITH CHECK (true);

CREATE POLICY system ON nofx.idempotency_key TO nofx_system USING (true) WITH CHECK (true);

CREATE POLICY system ON nofx.inbox TO nofx_system USING (true) WITH CHECK (true);

CREATE POLICY system ON nofx.log_chunk TO nofx_system USING (true) WITH CHECK (true);

CREATE POLICY system ON nofx.merge TO nofx_system USING (true) WITH CHECK (true);

CREATE POLICY system ON nofx.merge_conflict TO nofx_system USING (true) WITH CHECK (true);

CREATE POLICY system ON nofx.model_spend TO nofx_system USING (true) WITH CHECK (true);

CREATE POLICY system ON nofx.object TO nofx_system USING (true) WITH CHECK (true);

CREATE POLICY system ON nofx.oidc_trust TO nofx_system USING (true) WITH CHECK (true);

CREATE POLICY system ON nofx.project TO nofx_system USING (true) WITH CHECK (true);

CREATE POLICY system ON nofx.queue_pause TO nofx_system USING (true) WITH CHECK (true);

CREATE POLICY system ON nofx.repository TO nofx_system USING (true) WITH CHECK (true);

CREATE POLICY system ON nofx.review TO nofx_system USING (true) WITH CHECK (true);

CREATE POLICY system ON nofx.review_artifact TO nofx_system USING (true) WITH CHECK (true);

CREATE POLICY system ON nofx.run TO nofx_system USING (true) WITH CHECK (true);

CREATE POLICY system ON nofx.run_search TO nofx_system USING (true) WITH CHECK (true);

CREATE POLICY system ON nofx.secret TO nofx_system USING (true) WITH CHECK (true);

CREATE POLICY system ON nofx.secret_past TO nofx_system USING (true) WITH CHECK (true);

CREATE POLICY system ON nofx.step TO nofx_system USING (true) WITH CHECK (true);

CREATE POLICY system ON nofx.step_dep TO nofx_system USING (true) WITH CHECK (true);

CREATE POLICY system ON nofx.step_effect TO nofx_system USING (true) WITH CHECK (true);

CREATE POLICY system ON nofx.step_lease TO nofx_system USING (true) WITH CHECK (true);

CREATE POLICY system ON nofx.stream_ticket TO nofx_system USING (true) WITH CHECK (true);

CREATE POLICY system ON nofx.subject TO nofx_system USING (true) WITH CHECK (true);

CREATE POLICY system ON nofx.tenant TO nofx_system USING (true) WITH CHECK (true);

CREATE POLICY system ON nofx.tool_pin TO nofx_system USING (true) WITH CHECK (true);

CREATE POLICY system ON nofx.wait TO nofx_system USING (true) WITH CHECK (true);

CREATE POLICY system ON nofx.webhook_delivery TO nofx_system USING (true) WITH CHECK (true);

CREATE POLICY tenant ON nofx.alert_delivery USING ((tenant_id = ( SELECT nofx.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT nofx.tenant() AS tenant)));

CREATE POLICY tenant ON nofx.alert_endpoint USING ((tenant_id = ( SELECT nofx.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT nofx.tenant() AS tenant)));

CREATE POLICY tenant ON nofx.api_key USING ((tenant_id = ( SELECT nofx.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT nofx.tenant() AS tenant)));

CREATE POLICY tenant ON nofx.approval USING ((tenant_id = ( SELECT nofx.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT nofx.tenant() AS tenant)));

CREATE POLICY tenant ON nofx.artifact USING ((tenant_id = ( SELECT nofx.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT nofx.tenant() AS tenant)));

CREATE POLICY tenant ON nofx.attempt USING ((tenant_id = ( SELECT nofx.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT nofx.tenant() AS tenant)));

CREATE POLICY tenant ON nofx.audit USING ((tenant_id = ( SELECT nofx.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT nofx.tenant() AS tenant)));

CREATE POLICY tenant ON nofx.audit_denial USING ((tenant_id = ( SELECT nofx.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT nofx.tenant() AS tenant)));

CREATE POLICY tenant ON nofx.audit_head USING ((tenant_id = ( SELECT nofx.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT nofx.tenant() AS tenant)));

CREATE POLICY tenant ON nofx.blob USING ((tenant_id = ( SELECT nofx.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT nofx.tenant() AS tenant)));

CREATE POLICY tenant ON nofx.branch_edit USING ((tenant_id = ( SELECT nofx.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT nofx.tenant() AS tenant)));

CREATE POLICY tenant ON nofx.checkpoint USING ((tenant_id = ( SELECT nofx.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT nofx.tenant() AS tenant)));

CREATE POLICY tenant ON nofx.checkpoint_parent USING ((tenant_id = ( SELECT nofx.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT nofx.tenant() AS tenant)));

CREATE POLICY tenant ON nofx.diff USING ((tenant_id = ( SELECT nofx.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT nofx.tenant() AS tenant)));

CREATE POLICY tenant ON nofx.event USING ((tenant_id = ( SELECT nofx.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT nofx.tenant() AS tenant)));

CREATE POLICY tenant ON nofx.event_horizon USING ((tenant_id = ( SELECT nofx.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT nofx.tenant() AS tenant)));

CREATE POLICY tenant ON nofx.finding USING ((tenant_id = ( SELECT nofx.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT nofx.tenant() AS tenant)));

CREATE POLICY tenant ON nofx.finding_occurrence USING ((tenant_id = ( SELECT nofx.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT nofx.tenant() AS tenant)));

CREATE POLICY tenant ON nofx.gate USING ((tenant_id = ( SELECT nofx.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT nofx.tenant() AS tenant)));

CREATE POLICY tenant ON nofx.idempotency_key USING ((tenant_id = ( SELECT nofx.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT nofx.tenant() AS tenant)));

CREATE POLICY tenant ON nofx.inbox USING ((tenant_id = ( SELECT nofx.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT nofx.tenant() AS tenant)));

CREATE POLICY tenant ON nofx.log_chunk USING ((tenant_id = ( SELECT nofx.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT nofx.tenant() AS tenant)));

CREATE POLICY tenant ON nofx.merge USING ((tenant_id = ( SELECT nofx.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT nofx.tenant() AS tenant)));

CREATE POLICY tenant ON nofx.merge_conflict USING ((tenant_id = ( SELECT nofx.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT nofx.tenant() AS tenant)));

CREATE POLICY tenant ON nofx.model_spend USING ((tenant_id = ( SELECT nofx.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT nofx.tenant() AS tenant)));

CREATE POLICY tenant ON nofx.object USING ((tenant_id = ( SELECT nofx.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT nofx.tenant() AS tenant)));

CREATE POLICY tenant ON nofx.oidc_trust USING ((tenant_id = ( SELECT nofx.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT nofx.tenant() AS tenant)));

CREATE POLICY tenant ON nofx.project USING ((tenant_id = ( SELECT nofx.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT nofx.tenant() AS tenant)));

CREATE POLICY tenant ON nofx.queue_pause USING ((tenant_id = ( SELECT nofx.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT nofx.tenant() AS tenant)));

CREATE POLICY tenant ON nofx.repository USING ((tenant_id = ( SELECT nofx.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT nofx.tenant() AS tenant)));

CREATE POLICY tenant ON nofx.review USING ((tenant_id = ( SELECT nofx.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT nofx.tenant() AS tenant)));

CREATE POLICY tenant ON nofx.review_artifact USING ((tenant_id = ( SELECT nofx.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT nofx.tenant() AS tenant)));

CREATE POLICY tenant ON nofx.run USING ((tenant_id = ( SELECT nofx.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT nofx.tenant() AS tenant)));

CREATE POLICY tenant ON nofx.run_search USING ((tenant_id = ( SELECT nofx.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT nofx.tenant() AS tenant)));

CREATE POLICY tenant ON nofx.secret USING ((tenant_id = ( SELECT nofx.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT nofx.tenant() AS tenant)));

CREATE POLICY tenant ON nofx.secret_past USING ((tenant_id = ( SELECT nofx.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT nofx.tenant() AS tenant)));

CREATE POLICY tenant ON nofx.step USING ((tenant_id = ( SELECT nofx.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT nofx.tenant() AS tenant)));

CREATE POLICY tenant ON nofx.step_dep USING ((tenant_id = ( SELECT nofx.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT nofx.tenant() AS tenant)));

CREATE POLICY tenant ON nofx.step_effect USING ((tenant_id = ( SELECT nofx.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT nofx.tenant() AS tenant)));

CREATE POLICY tenant ON nofx.step_lease USING ((tenant_id = ( SELECT nofx.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT nofx.tenant() AS tenant)));

CREATE POLICY tenant ON nofx.stream_ticket USING ((tenant_id = ( SELECT nofx.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT nofx.tenant() AS tenant)));

CREATE POLICY tenant ON nofx.subject USING ((tenant_id = ( SELECT nofx.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT nofx.tenant() AS tenant)));

ALTER TABLE nofx.tenant ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON nofx.tenant USING ((tenant_id = ( SELECT nofx.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT nofx.tenant() AS tenant)));

CREATE POLICY tenant ON nofx.tool_pin USING ((tenant_id = ( SELECT nofx.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT nofx.tenant() AS tenant)));

CREATE POLICY tenant ON nofx.wait USING ((tenant_id = ( SELECT nofx.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT nofx.tenant() AS tenant)));

CREATE POLICY tenant ON nofx.webhook_delivery USING ((tenant_id = ( SELECT nofx.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT nofx.tenant() AS tenant)));

ALTER TABLE nofx.tool_pin ENABLE ROW LEVEL SECURITY;

ALTER TABLE nofx.wait ENABLE ROW LEVEL SECURITY;

ALTER TABLE nofx.webhook_delivery ENABLE ROW LEVEL SECURITY;

GRANT USAGE ON SCHEMA nofx TO nofx_app;
GRANT ALL ON SCHEMA nofx TO nofx_system;

REVOKE ALL ON FUNCTION nofx.add_checkpoint(p_step uuid, p_fence bigint, p_run uuid, c jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.add_checkpoint(p_step uuid, p_fence bigint, p_run uuid, c jsonb) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.alert_event(p_type text, p_data jsonb) FROM PUBLIC;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE nofx.alert_endpoint TO nofx_system;
GRANT SELECT ON TABLE nofx.alert_endpoint TO nofx_app;

REVOKE ALL ON FUNCTION nofx.alert_facts(e nofx.alert_endpoint) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.append_checkpoint(p_tenant uuid, p_run uuid, c jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.append_event(p_tenant uuid, p_run uuid, p_step uuid, p_type text, p_fence bigint, p_data jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.assign_merge(p_merge uuid, p_run uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.assign_merge(p_merge uuid, p_run uuid) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.audit(p_act text, p_object text, p_reason text, p_before jsonb, p_after jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.audit_anchored(p_seq bigint, p_day date) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.audit_anchored(p_seq bigint, p_day date) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.audit_denied(p_operation text, p_object text) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.audit_denied(p_operation text, p_object text) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.audit_guard() FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.audit_guard() TO nofx_owner;

GRANT SELECT,INSERT ON TABLE nofx.audit TO nofx_system;
GRANT SELECT ON TABLE nofx.audit TO nofx_app;

REVOKE ALL ON FUNCTION nofx.audit_hash(a nofx.audit) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.audit_heads(p_day date, p_after uuid, p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.audit_heads(p_day date, p_after uuid, p_limit integer) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.audit_urls(p_object text, p_method text, p_sha256 text[], p_expires timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.audit_urls(p_object text, p_method text, p_sha256 text[], p_expires timestamp with time zone) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.backlog(p_queue text, p_limit integer, OUT ready bigint, OUT retrying bigint, OUT oldest timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.backlog(p_queue text, p_limit integer, OUT ready bigint, OUT retrying bigint, OUT oldest timestamp with time zone) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.bad_hosts(p jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.beat_worker(p_id text, p_pid integer, p_host text, p_version text, p_queues text[], p_slots_max integer, p_sandbox_tier integer, p_tier_wanted integer, p_draining boolean, p_waits_for text, p_forget interval) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.beat_worker(p_id text, p_pid integer, p_host text, p_version text, p_queues text[], p_slots_max integer, p_sandbox_tier integer, p_tier_wanted integer, p_draining boolean, p_waits_for text, p_forget interval) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.begin_alert_rotation(p_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.begin_alert_rotation(p_id uuid) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.begin_delivery(p_repository uuid, p jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.begin_delivery(p_repository uuid, p jsonb) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.begin_effect(p_step uuid, p_fence bigint, p_name text, p_digest text, OUT effect_key text, OUT effect_result jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.begin_effect(p_step uuid, p_fence bigint, p_name text, p_digest text, OUT effect_key text, OUT effect_result jsonb) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.begin_epoch() FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.begin_epoch() TO nofx_gateway;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE nofx.review TO nofx_system;
GRANT SELECT ON TABLE nofx.review TO nofx_app;

REVOKE ALL ON FUNCTION nofx.begin_review(p_step uuid, p_fence bigint, p_id uuid, p jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.begin_review(p_step uuid, p_fence bigint, p_id uuid, p jsonb) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.begin_secret(p_name text, p_version bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.begin_secret(p_name text, p_version bigint) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.begin_tool(p_step uuid, p_fence bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.begin_tool(p_step uuid, p_fence bigint) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.blob_key(p_tenant uuid, p_sha256 bytea, p_copy bigint) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.cause() FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.change_alert_endpoint(p_id uuid, p jsonb, p_version bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.change_alert_endpoint(p_id uuid, p jsonb, p_version bigint) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.change_repository(p_id uuid, p jsonb, p_version bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.change_repository(p_id uuid, p jsonb, p_version bigint) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.change_settings(p jsonb, p_version bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.change_settings(p jsonb, p_version bigint) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.check_branches(p_tenant uuid, p_parent uuid) FROM PUBLIC;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE nofx.transition TO nofx_system;
GRANT SELECT ON TABLE nofx.transition TO nofx_app;

REVOKE ALL ON FUNCTION nofx.check_change(p_machine text, p_id uuid, p_from text, p_to text, p_event text, p_reason text, p_version bigint, p_next bigint, p_batched boolean) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.check_fence(p_fence bigint, p_current bigint) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.check_lease(p_machine text, p_id uuid, p_tenant uuid, p_step uuid, p_fence bigint) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.check_queued_quota(p_tenant uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.check_version(p_version bigint, p_current bigint, p_state text) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.claim_alerts(p_worker text, p_tenant uuid, p_endpoint uuid, p_looks integer, p_limit integer, p_each integer, p_lease interval) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.claim_alerts(p_worker text, p_tenant uuid, p_endpoint uuid, p_looks integer, p_limit integer, p_each integer, p_lease interval) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.claim_steps(p jsonb, p_owner text, p_pid integer, p_ttl interval) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.claim_steps(p jsonb, p_owner text, p_pid integer, p_ttl interval) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.claimed_step(p_tenant uuid, p_step uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.clip(p_text text, p_bytes integer) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.commit_merge(p_merge uuid, p_version bigint, p_resume boolean, p_reason text, OUT answer text, OUT requeued integer) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.commit_merge(p_merge uuid, p_version bigint, p_resume boolean, p_reason text, OUT answer text, OUT requeued integer) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.complete_upload(p_step uuid, p_fence bigint, p_id uuid, p_key text) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.complete_upload(p_step uuid, p_fence bigint, p_id uuid, p_key text) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.condemn_copies(p_step uuid, p_fence bigint, p_keys text[]) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.condemn_copies(p_step uuid, p_fence bigint, p_keys text[]) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.condemn_object(p_key text) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.condemn_object(p_key text) TO nofx_app;

REVOKE ALL ON FUNCTION nofx.condemned_objects(p_after timestamp with time zone, p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.condemned_objects(p_after timestamp with time zone, p_limit integer) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.could_speak_since(p_seen timestamp with time zone) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.count_active() FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.count_active() TO nofx_app;

REVOKE ALL ON FUNCTION nofx.count_changes(p nofx.new_event[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.count_off(p_tenant uuid, p_step uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.create_alert_endpoint(p_id uuid, p jsonb, p_sealed bytea) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.create_alert_endpoint(p_id uuid, p jsonb, p_sealed bytea) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.create_branch(p_run jsonb, p_steps jsonb, OUT created_at timestamp with time zone, OUT deadline timestamp with time zone, OUT ready_at timestamp with time zone[], OUT active_steps integer) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.create_branch(p_run jsonb, p_steps jsonb, OUT created_at timestamp with time zone, OUT deadline timestamp with time zone, OUT ready_at timestamp with time zone[], OUT active_steps integer) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.create_key(p_id uuid, p_secret_sha256 bytea, p jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.create_key(p_id uuid, p_secret_sha256 bytea, p jsonb) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.create_merge(p_id uuid, p jsonb, OUT merge_id uuid, OUT created boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.create_merge(p_id uuid, p jsonb, OUT merge_id uuid, OUT created boolean) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.create_oidc_trust(p_id uuid, p jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.create_oidc_trust(p_id uuid, p jsonb) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.create_project(p_id uuid, p_slug text) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.create_project(p_id uuid, p_slug text) TO nofx_app;

REVOKE ALL ON FUNCTION nofx.create_repository(p_id uuid, p jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.create_repository(p_id uuid, p jsonb) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.create_review(p_id uuid, p jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.create_review(p_id uuid, p jsonb) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.create_run(p_run jsonb, p_steps jsonb, OUT created_at timestamp with time zone, OUT deadline timestamp with time zone, OUT ready_at timestamp with time zone[], OUT active_steps integer) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.create_run(p_run jsonb, p_steps jsonb, OUT created_at timestamp with time zone, OUT deadline timestamp with time zone, OUT ready_at timestamp with time zone[], OUT active_steps integer) TO nofx_app;

REVOKE ALL ON FUNCTION nofx.create_stream_ticket(p_sha256 bytea, p_target text, p_proof jsonb, p_seconds integer) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.create_stream_ticket(p_sha256 bytea, p_target text, p_proof jsonb, p_seconds integer) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.create_upload(p_id uuid, p_name text, p_key text, p_media_type text, p_size bigint, p_sha256 bytea) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.create_upload(p_id uuid, p_name text, p_key text, p_media_type text, p_size bigint, p_sha256 bytea) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.decide_gate(p_gate uuid, p_event text, p_reason text, p_version bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.decide_gate(p_gate uuid, p_event text, p_reason text, p_version bigint) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.delete_alert_endpoint(p_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.delete_alert_endpoint(p_id uuid) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.delete_expired(p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.delete_expired(p_limit integer) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.delete_oidc_trust(p_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.delete_oidc_trust(p_id uuid) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.delete_project(p_slug text) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.delete_project(p_slug text) TO nofx_app;

REVOKE ALL ON FUNCTION nofx.delete_repository(p_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.delete_repository(p_id uuid) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.delete_reviews(p_tenant uuid, p_steps uuid[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.delete_run(p_tenant uuid, p_run uuid, p_steps integer) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.delete_secret(p_name text) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.delete_secret(p_name text) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.diff_key(p_tenant uuid, p_sha256 bytea, p_copy bigint, p_form text) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.drop_derived(p_step uuid, p_fence bigint, p_sha256 bytea, p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.drop_derived(p_step uuid, p_fence bigint, p_sha256 bytea, p_limit integer) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.due_collections(p_key text, p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.due_collections(p_key text, p_limit integer) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.due_leases(p_limit integer, p_ttl interval, p_gap interval) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.due_leases(p_limit integer, p_ttl interval, p_gap interval) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.due_retries(p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.due_retries(p_limit integer) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.due_runs(p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.due_runs(p_limit integer) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.due_waits(p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.due_waits(p_limit integer) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.earlier_effect(p_tenant uuid, p_run uuid, p_step_name text, p_name text, p_digest text) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.edge(p_machine text, p_id uuid, p_from text, p_event text, p_reason text) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.end_alerts(p_tenant uuid, p_endpoint uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.end_attempt(p_tenant uuid, p_step uuid, p_fence bigint, p_from text, e nofx.transition) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.end_delivery(p_repository uuid, p_delivery text, p_result text, p_review uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.end_delivery(p_repository uuid, p_delivery text, p_result text, p_review uuid) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.end_job(p_job bigint) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.end_run(p_run uuid, p_event text, p_reason text, p_version bigint, p_class text) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.end_run(p_run uuid, p_event text, p_reason text, p_version bigint, p_class text) TO nofx_app;

REVOKE ALL ON FUNCTION nofx.end_stray_jobs(p_old interval, p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.end_stray_jobs(p_old interval, p_limit integer) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.event_heads(p_tenants uuid[], p_runs uuid[]) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.event_heads(p_tenants uuid[], p_runs uuid[]) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.expire_alerts(p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.expire_alerts(p_limit integer) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.expire_runs(p_runs uuid[], p_steps integer, OUT gone uuid[], OUT more boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.expire_runs(p_runs uuid[], p_steps integer, OUT gone uuid[], OUT more boolean) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.expire_signals(p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.expire_signals(p_limit integer) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.expire_system_runs(p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.expire_system_runs(p_limit integer) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.expire_uploads(p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.expire_uploads(p_limit integer) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.expired_runs(p_tenant uuid, p_run uuid, p_looks integer, p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.expired_runs(p_tenant uuid, p_run uuid, p_looks integer, p_limit integer) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.fail_reviews(p_tenant uuid, p_run uuid, p_reason text) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.find_answer(p_scope text, p_key text, OUT mine boolean, OUT fingerprint bytea, OUT status integer, OUT headers jsonb, OUT body bytea) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.find_answer(p_scope text, p_key text, OUT mine boolean, OUT fingerprint bytea, OUT status integer, OUT headers jsonb, OUT body bytea) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.find_oidc_trusts(p_slug text, p_repository_id bigint, p_owner_id bigint, p_repository text, p_ref text, p_workflow text, p_event text) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.find_oidc_trusts(p_slug text, p_repository_id bigint, p_owner_id bigint, p_repository text, p_ref text, p_workflow text, p_event text) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.find_repository(p_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.find_repository(p_id uuid) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.find_review(p_change text, p_head text, p_dry_run boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.find_review(p_change text, p_head text, p_dry_run boolean) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.public_time(p_at timestamp with time zone) FROM PUBLIC;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE nofx.finding TO nofx_system;
GRANT SELECT ON TABLE nofx.finding TO nofx_app;

REVOKE ALL ON FUNCTION nofx.finding_facts(f nofx.finding) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.finding_guard() FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.finding_guard() TO nofx_owner;

REVOKE ALL ON FUNCTION nofx.finding_transition(p_finding uuid, p_event text, p_reason text, p_version bigint, p_scope text, p_expires timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.finding_transition(p_finding uuid, p_event text, p_reason text, p_version bigint, p_scope text, p_expires timestamp with time zone) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.finish_alert(p_worker text, p_endpoint uuid, p_id uuid, p_attempt integer, p jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.finish_alert(p_worker text, p_endpoint uuid, p_id uuid, p_attempt integer, p jsonb) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.finish_effect(p_step uuid, p_fence bigint, p_key text, p_result jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.finish_effect(p_step uuid, p_fence bigint, p_key text, p_result jsonb) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.finish_purge(p_step uuid, p_fence bigint, p_sha256 bytea, p_pending boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.finish_purge(p_step uuid, p_fence bigint, p_sha256 bytea, p_pending boolean) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.finish_review(p_step uuid, p_fence bigint, p_review uuid, p jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.finish_review(p_step uuid, p_fence bigint, p_review uuid, p jsonb) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.finish_step(p_tenant uuid, p jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.finish_steps(p jsonb, p_owner text, p_pid integer, p_ttl interval) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.finish_steps(p jsonb, p_owner text, p_pid integer, p_ttl interval) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.finish_succeeded(p_tenant uuid, p jsonb, p_paused text[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.forget_objects(p_tenants uuid[], p_keys text[]) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.forget_objects(p_tenants uuid[], p_keys text[]) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.forget_tools(p_provider text) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.forget_tools(p_provider text) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.gate_guard() FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.gate_guard() TO nofx_owner;

REVOKE ALL ON FUNCTION nofx.gate_transition(p_gate uuid, p_event text, p_reason text, p_version bigint, p_fence bigint) FROM PUBLIC;

REVOKE ALL ON PROCEDURE nofx.guard_tenant(IN p_table regclass) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.has_lapsed(p_tenant uuid, p_step uuid, p_fence bigint) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.head_after(p_tenant uuid, p_start uuid, p_head uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.head_after(p_tenant uuid, p_start uuid, p_head uuid) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.heartbeat(p_steps uuid[], p_fences bigint[], p_ttl interval, p_gap interval) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.heartbeat(p_steps uuid[], p_fences bigint[], p_ttl interval, p_gap interval) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.hold_back(p_tenant uuid, p_run uuid, p_reason text) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.hold_runs(p_runs uuid[]) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.hold_runs(p_runs uuid[]) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.hold_step(p_step uuid, p_fence bigint) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.holds_off(p_ttl interval, p_gap interval) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.insert_review(p_id uuid, p jsonb, p_own_run boolean) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.is_author(p_tenant uuid, p_run uuid, p_subject text) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.is_digest(p text) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.is_doomed(p_tenant uuid, p_run uuid, p_step uuid, p_fence bigint) FROM PUBLIC;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE nofx.merge_conflict TO nofx_system;
GRANT SELECT ON TABLE nofx.merge_conflict TO nofx_app;

REVOKE ALL ON FUNCTION nofx.is_given(c nofx.merge_conflict, p_sha256 bytea, p_artifacts uuid[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.is_held(p_tenant uuid, p_run uuid, p_step uuid, p_fence bigint) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.is_needed(p_tenant uuid, p_run uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.is_now(p_at timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.is_now(p_at timestamp with time zone) TO nofx_system;

REVOKE ALL ON FUNCTION nofx.is_quiet(p_tenant uuid, p_run uuid, p_seq bigint, p_since timestamp with time zone) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.is_side(p_side jsonb, p_digest text) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.keep_review_artifact(p_step uuid, p_fence bigint, p_review uuid, p jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.keep_review_artifact(p_step uuid, p_fence bigint, p_review uuid, p jsonb) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.lease_steps(p_tenant uuid, p nofx.taken[], p_owner text, p_pid integer, p_ttl interval) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.leave_worker(p_id text) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.leave_worker(p_id text) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.lock_alert_endpoint(p_id uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.lock_finishes(p_tenant uuid, p jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.lock_free_runs(p_steps uuid[], p_held boolean[]) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.lock_free_runs(p_steps uuid[], p_held boolean[]) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.lock_gate(p_gate uuid) FROM PUBLIC;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE nofx.merge TO nofx_system;
GRANT SELECT ON TABLE nofx.merge TO nofx_app;

REVOKE ALL ON FUNCTION nofx.lock_merge(p_merge uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.lock_run(p_run uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.lock_runs(p_tenant uuid, p_runs uuid[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.lock_signal(p_tenant uuid, p_key text) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.lock_step(p_step uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.lose_diff(p_from uuid, p_to uuid, p_options text, p_key text) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.lose_diff(p_from uuid, p_to uuid, p_options text, p_key text) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.lost_wake_ups(p_at timestamp with time zone, p_step uuid, p_rows integer, p_lost interval) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.lost_wake_ups(p_at timestamp with time zone, p_step uuid, p_rows integer, p_lost interval) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.mark_blobs(p_step uuid, p_fence bigint, p_at timestamp with time zone, p_sha256 bytea[]) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.mark_blobs(p_step uuid, p_fence bigint, p_at timestamp with time zone, p_sha256 bytea[]) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.mark_checkpoint(p_run uuid, p_id uuid, p_label text, p_hold boolean, p_reason text) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.mark_checkpoint(p_run uuid, p_id uuid, p_label text, p_hold boolean, p_reason text) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.mark_log(p_step uuid, p_fence bigint, p_size bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.mark_log(p_step uuid, p_fence bigint, p_size bigint) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.may_take_suspect(p_tenant uuid, p_step uuid, p_owner text, p_wakes integer) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.merge_guard() FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.merge_guard() TO nofx_owner;

REVOKE ALL ON FUNCTION nofx.merge_transition(p_merge uuid, p_event text, p_reason text, p_version bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.merge_transition(p_merge uuid, p_event text, p_reason text, p_version bigint) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.move_blobs(p_step uuid, p_fence bigint, p_from bytea, p_from_key text, p_pack bytea, p_key text, p_bytes bigint, p_sha256 bytea[], p_off bigint[]) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.move_blobs(p_step uuid, p_fence bigint, p_from bytea, p_from_key text, p_pack bytea, p_key text, p_bytes bigint, p_sha256 bytea[], p_off bigint[]) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.move_steps(p_tenant uuid, p_run uuid, p_steps uuid[], p_event text, p_reason text, p_class text) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.new_id() FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.note_contact(p_gap interval) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.note_review_head(p_step uuid, p_fence bigint, p_review uuid, p_head text, p_base text, p_account text) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.note_review_head(p_step uuid, p_fence bigint, p_review uuid, p_head text, p_base text, p_account text) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.open_gate(s nofx.locked_step, g jsonb, p_expires timestamp with time zone) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.pause_lock(p_tenant uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.pause_queue(p_queue text, p_reason text) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.pause_queue(p_queue text, p_reason text) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.paused_queues(p_tenant uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.pin_tools(p_provider text, p_server text, p_session text, p_tools jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.pin_tools(p_provider text, p_server text, p_session text, p_tools jsonb) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.plain_event(p_run uuid, p_seq bigint, p_step uuid, p_type text, p_fence bigint, p_data jsonb, p_trace text, p_cause text) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.present_key(p_id uuid, p_secret_sha256 bytea) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.present_key(p_id uuid, p_secret_sha256 bytea) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.present_subject(p_tenant uuid, p_slug text, p_subject text, p_name text) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.present_subject(p_tenant uuid, p_slug text, p_subject text, p_name text) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.project_lock(p_tenant uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.prune_runs(p_runs uuid[], p_limit integer, OUT events bigint, OUT chunks bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.prune_runs(p_runs uuid[], p_limit integer, OUT events bigint, OUT chunks bigint) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.public_id(p_prefix text, p_id uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.purge_blob(p_sha256 bytea, p_reason text, OUT purged_by text, OUT purged_at timestamp with time zone, OUT reason text) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.purge_blob(p_sha256 bytea, p_reason text, OUT purged_by text, OUT purged_at timestamp with time zone, OUT reason text) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.queue_alert(p_tenant uuid, p_event text, p_data jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.queue_pauses() FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.queue_run_alert(p_tenant uuid, p_event text, e nofx.new_event) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.raise_horizon(p_tenant uuid, p_xid xid8) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.ready_steps(p_tenant uuid, p_run uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.ready_successors(p_tenant uuid, p_run uuid, p_step uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.record_checkpoints(p jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.record_checkpoints(p jsonb) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.record_corrupt(p_step uuid, p_fence bigint, p_checkpoint uuid, p_code text, p_ancestor uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.record_corrupt(p_step uuid, p_fence bigint, p_checkpoint uuid, p_code text, p_ancestor uuid) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.record_diff(p_step uuid, p_fence bigint, p jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.record_diff(p_step uuid, p_fence bigint, p jsonb) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.record_edit(p_step uuid, p_fence bigint, p_checkpoint jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.record_edit(p_step uuid, p_fence bigint, p_checkpoint jsonb) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.record_log_chunk(p_step uuid, p_fence bigint, p_n integer, p_start bigint, p_bytes bigint, p_lines integer, p_key text, p_sha256 bytea) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.record_log_chunk(p_step uuid, p_fence bigint, p_n integer, p_start bigint, p_bytes bigint, p_lines integer, p_key text, p_sha256 bytea) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.record_merge(p_step uuid, p_fence bigint, p_merge uuid, p_version bigint, p jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.record_merge(p_step uuid, p_fence bigint, p_merge uuid, p_version bigint, p jsonb) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.record_probe(p_step uuid, p_fence bigint, p_probe jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.record_probe(p_step uuid, p_fence bigint, p_probe jsonb) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.redact_merges(p_sha256 bytea) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.redacted_side(p_side jsonb, p_digest text) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.redeliver_alert(p_endpoint uuid, p_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.redeliver_alert(p_endpoint uuid, p_id uuid) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.refuse(p_machine text, p_id uuid, p_from text, p_event text) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.refused_finish(p_tenant uuid, p_step uuid, p_fence bigint, p_outcome text) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.renew_blobs(p_sha256 bytea[], p_size bigint[], p_pack bytea[], p_off bigint[], p_len bigint[], p_copy bigint[]) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.renew_blobs(p_sha256 bytea[], p_size bigint[], p_pack bytea[], p_off bigint[], p_len bigint[], p_copy bigint[]) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.renew_gates(p_tenant uuid, p_run uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.renew_objects(p_keys text[]) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.renew_objects(p_keys text[]) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.renew_steps(p_tenant uuid, p_run uuid, p_reason text) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.reopen_run(p_run uuid, p_event text, p_reason text, p_version bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.reopen_run(p_run uuid, p_event text, p_reason text, p_version bigint) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.reopen_steps(p_tenant uuid, p_run uuid, p_reason text) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.report_finding(v nofx.review, p_id uuid, f jsonb, p_why text) FROM PUBLIC;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE nofx.project TO nofx_system;
GRANT SELECT ON TABLE nofx.project TO nofx_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE nofx.repository TO nofx_system;
GRANT SELECT ON TABLE nofx.repository TO nofx_app;

REVOKE ALL ON FUNCTION nofx.repository_facts(r nofx.repository) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.resolve_merge(p_merge uuid, p jsonb, p_version bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.resolve_merge(p_merge uuid, p jsonb, p_version bigint) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.resume_after_waiver(p_tenant uuid, p_run uuid, p_reason text) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.resume_queue(p_queue text, p_reason text) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.resume_queue(p_queue text, p_reason text) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.resumed_queues() FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.resumed_queues() TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.retention(p_tenant uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.retry_step(p_step uuid, p_cascade boolean, p_reason text) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.retry_step(p_step uuid, p_cascade boolean, p_reason text) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.reuse_blobs(p_sha256 bytea[]) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.reuse_blobs(p_sha256 bytea[]) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.review_guard() FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.review_guard() TO nofx_owner;

REVOKE ALL ON FUNCTION nofx.review_transition(p_review uuid, p_event text, p_reason text, p_version bigint, p_fence bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.review_transition(p_review uuid, p_event text, p_reason text, p_version bigint, p_fence bigint) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.revive_run(p_tenant uuid, p_run uuid, p_event text, p_reason text) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.revoke_key(p_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.revoke_key(p_id uuid) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.revoke_subject(p_subject text, p_by text, p_reason text) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.revoke_subject(p_subject text, p_by text, p_reason text) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.rotate_alert_secret(p_id uuid, p_sealed bytea) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.rotate_alert_secret(p_id uuid, p_sealed bytea) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.run_counts() FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.run_counts() TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.run_event(p_run uuid, p_seq bigint, p_event text, p_from text, p_to text, p_reason text, p_class text, p_trace text, p_cause text) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.run_guard() FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.run_guard() TO nofx_owner;

REVOKE ALL ON FUNCTION nofx.run_leaves(p_run uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.run_leaves(p_run uuid) TO nofx_app;

REVOKE ALL ON FUNCTION nofx.run_of_work(p_key text) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.run_of_work(p_key text) TO nofx_app;

REVOKE ALL ON FUNCTION nofx.run_transition(p_run uuid, p_event text, p_reason text, p_version bigint, p_class text) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.run_transition(p_run uuid, p_event text, p_reason text, p_version bigint, p_class text) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.same_commit(a text, b text) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.sealed_probe() FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.sealed_probe() TO nofx_app;

REVOKE ALL ON FUNCTION nofx.search_run() FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.search_run() TO nofx_owner;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE nofx.secret TO nofx_system;
GRANT SELECT ON TABLE nofx.secret TO nofx_app;

REVOKE ALL ON FUNCTION nofx.secret_facts(x nofx.secret) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.send_signal(p_id uuid, p_key text, p_payload jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.send_signal(p_id uuid, p_key text, p_payload jsonb) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.set_secret(p_name text, p_version bigint, p_sealed bytea) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.set_secret(p_name text, p_version bigint, p_sealed bytea) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.setting_rules() FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.settings_guard() FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.settings_guard() TO nofx_owner;

REVOKE ALL ON FUNCTION nofx.settle_run(p_tenant uuid, p_run uuid, p_failed boolean) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.settle_thread(p jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.settle_thread(p jsonb) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.spend_model(p_day date, p_tokens bigint, p_cost numeric, p_max_tokens bigint, p_max_cost numeric) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.spend_model(p_day date, p_tokens bigint, p_cost numeric, p_max_tokens bigint, p_max_cost numeric) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.start_at(p_tenant uuid, p_run uuid, p_checkpoint uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.start_at(p_tenant uuid, p_run uuid, p_checkpoint uuid) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.step_event(p_run uuid, p_seq bigint, p_step uuid, p_event text, p_from text, p_to text, p_fence bigint, p_attempt integer, p_reason text, p_trace text, p_cause text, p_class text, p_wait_ms bigint, p_at timestamp with time zone) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.step_guard() FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.step_guard() TO nofx_owner;

REVOKE ALL ON FUNCTION nofx.step_holders(p_steps uuid[], p_silent interval) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.step_holders(p_steps uuid[], p_silent interval) TO nofx_app;

REVOKE ALL ON FUNCTION nofx.step_parents(p_steps uuid[]) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.step_parents(p_steps uuid[]) TO nofx_app;

REVOKE ALL ON FUNCTION nofx.step_transition(p_step uuid, p_event text, p_reason text, p_fence bigint, p_class text) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.steps_in(p_tenant uuid, p_run uuid, p_states text[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.stop_steps(p_tenant uuid, p_run uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.store_checkpoint(p_tenant uuid, p_run uuid, p_step uuid, p_fence bigint, p_seq bigint, c jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.subject_name(p_tenant uuid, p_subject text) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.subject_name(p_tenant uuid, p_subject text) TO nofx_app;

REVOKE ALL ON FUNCTION nofx.supersede_reviews(p_review uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.sweep_artifacts(p_step uuid, p_fence bigint, p_at timestamp with time zone, p_after uuid, p_limit integer, p_dry boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.sweep_artifacts(p_step uuid, p_fence bigint, p_at timestamp with time zone, p_after uuid, p_limit integer, p_dry boolean) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.sweep_blobs(p_step uuid, p_fence bigint, p_at timestamp with time zone, p_grace interval, p_after bytea, p_limit integer, p_dry boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.sweep_blobs(p_step uuid, p_fence bigint, p_at timestamp with time zone, p_grace interval, p_after bytea, p_limit integer, p_dry boolean) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.sweep_objects(p_step uuid, p_fence bigint, p_at timestamp with time zone, p_grace interval, p_after text, p_limit integer, p_dry boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.sweep_objects(p_step uuid, p_fence bigint, p_at timestamp with time zone, p_grace interval, p_after text, p_limit integer, p_dry boolean) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.sweep_run(p_run uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.sweep_run(p_run uuid) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.sweep_step(p_step uuid, p_kind text, p_lost interval, p_ttl interval, p_gap interval) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.sweep_step(p_step uuid, p_kind text, p_lost interval, p_ttl interval, p_gap interval) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.take_signal(p_tenant uuid, p_step uuid, p_key text) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.take_stream_ticket(p_sha256 bytea, p_target text) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.take_stream_ticket(p_sha256 bytea, p_target text) TO nofx_gateway;

REVOKE ALL ON FUNCTION nofx.tenant() FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.tenant() TO nofx_app;
GRANT ALL ON FUNCTION nofx.tenant() TO nofx_system;

REVOKE ALL ON FUNCTION nofx.tenants() FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.try_run(p_run uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.unbacked_blobs(p_after bytea, p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.unbacked_blobs(p_after bytea, p_limit integer) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.unknown_keys(p_keys text[]) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.unknown_keys(p_keys text[]) TO nofx_worker;

REVOKE ALL ON FUNCTION nofx.unpause_run(p_tenant uuid, p_run uuid, p_reason text) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.unsound() FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.waiting_for(p_tenant uuid, p_key text, OUT step_id uuid, OUT run_id uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.wake_parked(p_queue text, p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.wake_parked(p_queue text, p_limit integer) TO nofx_app;

REVOKE ALL ON FUNCTION nofx.wake_up_lost(p_job bigint, p_ready_at timestamp with time zone, p_lost interval) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.withdraw_gates(p_tenant uuid, p_run uuid, p_reason text) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.worker_missing(p_queue text, p_silent interval) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.worker_missing(p_queue text, p_silent interval) TO nofx_app;

REVOKE ALL ON FUNCTION nofx.workers(p_forget interval) FROM PUBLIC;
GRANT ALL ON FUNCTION nofx.workers(p_forget interval) TO nofx_app;

REVOKE ALL ON FUNCTION nofx.write_events(p_tenant uuid, p nofx.new_event[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION nofx.write_step_change(p_tenant uuid, p_run uuid, p nofx.new_event) FROM PUBLIC;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE nofx.alert_delivery TO nofx_system;
GRANT SELECT ON TABLE nofx.alert_delivery TO nofx_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE nofx.api_key TO nofx_system;
GRANT SELECT ON TABLE nofx.api_key TO nofx_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE nofx.approval TO nofx_system;
GRANT SELECT ON TABLE nofx.approval TO nofx_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE nofx.artifact TO nofx_system;
GRANT SELECT ON TABLE nofx.artifact TO nofx_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE nofx.attempt TO nofx_system;
GRANT SELECT ON TABLE nofx.attempt TO nofx_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE nofx.audit_denial TO nofx_system;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE nofx.audit_head TO nofx_system;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE nofx.blob TO nofx_system;
GRANT SELECT ON TABLE nofx.blob TO nofx_app;
GRANT INSERT ON TABLE nofx.blob TO nofx_worker;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE nofx.branch_edit TO nofx_system;
GRANT SELECT ON TABLE nofx.branch_edit TO nofx_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE nofx.checkpoint TO nofx_system;
GRANT SELECT ON TABLE nofx.checkpoint TO nofx_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE nofx.checkpoint_parent TO nofx_system;
GRANT SELECT ON TABLE nofx.checkpoint_parent TO nofx_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE nofx.contact TO nofx_system;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE nofx.diff TO nofx_system;
GRANT SELECT ON TABLE nofx.diff TO nofx_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE nofx.event TO nofx_system;
GRANT SELECT ON TABLE nofx.event TO nofx_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE nofx.event_horizon TO nofx_system;
GRANT SELECT ON TABLE nofx.event_horizon TO nofx_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE nofx.feed_epoch TO nofx_system;
GRANT SELECT ON TABLE nofx.feed_epoch TO nofx_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE nofx.finding_occurrence TO nofx_system;
GRANT SELECT ON TABLE nofx.finding_occurrence TO nofx_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE nofx.gate TO nofx_system;
GRANT SELECT ON TABLE nofx.gate TO nofx_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE nofx.idempotency_key TO nofx_system;
GRANT SELECT ON TABLE nofx.idempotency_key TO nofx_app;
GRANT INSERT ON TABLE nofx.idempotency_key TO nofx_gateway;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE nofx.inbox TO nofx_system;
GRANT SELECT ON TABLE nofx.inbox TO nofx_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE nofx.log_chunk TO nofx_system;
GRANT SELECT ON TABLE nofx.log_chunk TO nofx_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE nofx.machine_state TO nofx_system;
GRANT SELECT ON TABLE nofx.machine_state TO nofx_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE nofx.model_spend TO nofx_system;
GRANT SELECT ON TABLE nofx.model_spend TO nofx_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE nofx.object TO nofx_system;
GRANT SELECT ON TABLE nofx.object TO nofx_app;
GRANT INSERT ON TABLE nofx.object TO nofx_worker;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE nofx.oidc_trust TO nofx_system;
GRANT SELECT ON TABLE nofx.oidc_trust TO nofx_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE nofx.queue_pause TO nofx_system;
GRANT SELECT ON TABLE nofx.queue_pause TO nofx_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE nofx.review_artifact TO nofx_system;
GRANT SELECT ON TABLE nofx.review_artifact TO nofx_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE nofx.run TO nofx_system;
GRANT SELECT ON TABLE nofx.run TO nofx_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE nofx.run_search TO nofx_system;
GRANT SELECT ON TABLE nofx.run_search TO nofx_app;

GRANT SELECT ON TABLE nofx.schema_migration TO nofx_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE nofx.secret_past TO nofx_system;
GRANT SELECT ON TABLE nofx.secret_past TO nofx_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE nofx.step TO nofx_system;
GRANT SELECT ON TABLE nofx.step TO nofx_app;

GRANT UPDATE(job_id) ON TABLE nofx.step TO nofx_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE nofx.step_dep TO nofx_system;
GRANT SELECT ON TABLE nofx.step_dep TO nofx_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE nofx.step_effect TO nofx_system;
GRANT SELECT ON TABLE nofx.step_effect TO nofx_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE nofx.step_lease TO nofx_system;
GRANT SELECT ON TABLE nofx.step_lease TO nofx_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE nofx.stream_ticket TO nofx_system;
GRANT SELECT ON TABLE nofx.stream_ticket TO nofx_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE nofx.subject TO nofx_system;
GRANT SELECT ON TABLE nofx.subject TO nofx_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE nofx.tenant TO nofx_system;
GRANT SELECT ON TABLE nofx.tenant TO nofx_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE nofx.tool_pin TO nofx_system;
GRANT SELECT ON TABLE nofx.tool_pin TO nofx_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE nofx.wait TO nofx_system;
GRANT SELECT ON TABLE nofx.wait TO nofx_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE nofx.webhook_delivery TO nofx_system;
GRANT SELECT ON TABLE nofx.webhook_delivery TO nofx_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE nofx.worker TO nofx_system;

ALTER DEFAULT PRIVILEGES FOR ROLE nofx_owner IN SCHEMA nofx GRANT SELECT,INSERT,DELETE,UPDATE ON TABLES  TO nofx_system;
