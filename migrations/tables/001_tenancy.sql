-- Roles, the schema, and the tenancy rules every table obeys from its first day
-- (SECURITY.md §4). Roles belong to the cluster, so they may exist already.
DO $$
DECLARE
    r text;
BEGIN
    FOREACH r IN ARRAY ARRAY['nofx_owner', 'nofx_system', 'nofx_app', 'nofx_gateway', 'nofx_worker', 'nofx_migrate'] LOOP
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE', r);
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;
        END;
    END LOOP;
END
$$;

-- nofx_app has what both processes may do, nofx_gateway and nofx_worker, which log in, what
-- only one of them may.
--
-- A transaction pooler keeps no session settings, so the logins have them, which no role
-- inherits: the limits, and settings for plans that depend on neither values nor statistics.
-- Every statement finds its rows by an index. A session that plans a statement while the
-- tables are small would choose to read whole tables, and keep that plan while they grow.
-- With known values, an array of one looks cheaper than the ten elements assumed without, and
-- the statement would be planned again at every call.
DO $$
DECLARE
    r text;
BEGIN
    FOREACH r IN ARRAY ARRAY['nofx_gateway', 'nofx_worker'] LOOP
        CONTINUE WHEN pg_has_role(r, 'nofx_app', 'USAGE') AND EXISTS (SELECT FROM pg_db_role_setting s
            WHERE s.setrole = r::regrole AND s.setdatabase = 0 AND 'enable_seqscan=off' = ANY (s.setconfig));
        EXECUTE format('GRANT nofx_app TO %I', r);
        EXECUTE format('ALTER ROLE %I LOGIN', r);
        EXECUTE format('ALTER ROLE %I SET lock_timeout = ''2s''', r);
        EXECUTE format('ALTER ROLE %I SET statement_timeout = ''5s''', r);
        EXECUTE format('ALTER ROLE %I SET idle_in_transaction_session_timeout = ''30s''', r);
        EXECUTE format('ALTER ROLE %I SET plan_cache_mode = ''force_generic_plan''', r);
        EXECUTE format('ALTER ROLE %I SET enable_seqscan = ''off''', r);
        EXECUTE format('ALTER ROLE %I SET jit = ''off''', r); -- scans without an index now have a high cost
    END LOOP;
    IF (SELECT rolcanlogin FROM pg_roles WHERE rolname = 'nofx_app') THEN -- it was a login once
        ALTER ROLE nofx_app NOLOGIN;
    END IF;
    -- From Postgres 16 on a creator must be granted the right to act as a role.
    IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        EXECUTE format('GRANT nofx_owner, nofx_system TO %I', current_user);
    END IF;
END
$$;

CREATE SCHEMA IF NOT EXISTS nofx;
ALTER SCHEMA nofx OWNER TO nofx_owner;
GRANT USAGE ON SCHEMA nofx TO nofx_app, nofx_system;
GRANT CREATE ON SCHEMA nofx TO nofx_system;
ALTER TABLE nofx.schema_migration OWNER TO nofx_owner;
GRANT SELECT ON nofx.schema_migration TO nofx_app;

-- Tables are made as nofx_owner, functions as nofx_system; neither logs in.
SET LOCAL ROLE nofx_owner;
ALTER DEFAULT PRIVILEGES IN SCHEMA nofx GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO nofx_system;
-- Not IN SCHEMA: a schema's defaults can only add to the database's.
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
RESET ROLE;
SET LOCAL ROLE nofx_system;
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
RESET ROLE;
SET LOCAL ROLE nofx_owner;

-- The tenant of this transaction, or NULL. After a transaction-local set the
-- value is '', not NULL, and a cast of '' raises.
CREATE FUNCTION nofx.tenant() RETURNS uuid
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN nullif(current_setting('nofx.tenant_id', true), '')::uuid;
GRANT EXECUTE ON FUNCTION nofx.tenant() TO nofx_app, nofx_system;

-- Rules T2 and T5 for one table: its rows can be read and written only inside their tenant,
-- even by the owner. The definer functions see all rows and name the tenant themselves.
CREATE PROCEDURE nofx.guard_tenant(p_table regclass)
    LANGUAGE plpgsql
AS $$
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', p_table);
    EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', p_table);
    EXECUTE format('CREATE POLICY tenant ON %s USING (tenant_id = (SELECT nofx.tenant())) WITH CHECK (tenant_id = (SELECT nofx.tenant()))', p_table);
    EXECUTE format('CREATE POLICY system ON %s TO nofx_system USING (true) WITH CHECK (true)', p_table);
END
$$;

CREATE TABLE nofx.tenant (
    tenant_id        uuid PRIMARY KEY,
    slug             text NOT NULL UNIQUE CHECK (slug ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    settings         jsonb NOT NULL DEFAULT '{}', -- see functions/settings.sql
    settings_version bigint NOT NULL DEFAULT 1,
    settings_at      timestamptz, -- when they changed last, and by whom
    settings_by      text,
    created_at       timestamptz NOT NULL DEFAULT clock_timestamp()
);
CALL nofx.guard_tenant('nofx.tenant');
GRANT SELECT ON nofx.tenant TO nofx_app;

CREATE TABLE nofx.project (
    tenant_id  uuid NOT NULL REFERENCES nofx.tenant,
    id         uuid NOT NULL,
    slug       text NOT NULL CHECK (slug ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, slug)
);
CALL nofx.guard_tenant('nofx.project');
GRANT SELECT ON nofx.project TO nofx_app;

CREATE TABLE nofx.api_key (
    tenant_id     uuid NOT NULL REFERENCES nofx.tenant,
    id            uuid NOT NULL,
    name          text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    prefix        text NOT NULL, -- the visible part: nofx_<env>_<id>
    secret_sha256 bytea NOT NULL CHECK (length(secret_sha256) = 32),
    role          text NOT NULL CHECK (role IN ('viewer', 'operator', 'supervisor', 'admin', 'service')),
    scopes        text[] NOT NULL DEFAULT '{}',
    created_by    text NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at    timestamptz,
    revoked_at    timestamptz,
    last_used_at  timestamptz,
    PRIMARY KEY (tenant_id, id)
);
-- A key names its row before its tenant is known.
CREATE UNIQUE INDEX api_key_id ON nofx.api_key (id);
-- People identify keys by their names, in upper or lower case. No index can depend on the
-- time, so a new key with the name of an expired one revokes it.
CREATE UNIQUE INDEX api_key_live_name ON nofx.api_key (tenant_id, lower(name)) WHERE revoked_at IS NULL;
CALL nofx.guard_tenant('nofx.api_key');
GRANT SELECT ON nofx.api_key TO nofx_app;

RESET ROLE;
