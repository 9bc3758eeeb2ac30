-- What lists of runs are searched by: project, tools, labels and words.
SET LOCAL ROLE nofx_owner;

-- One narrow row for each run, a tenth of its size, so that a search which finds
-- little reads little. It is written once with the run and, as runs are updated at
-- every step, spares theirs the indexes; only their reason follows. Like there, no
-- foreign key.
CREATE TABLE nofx.run_search (
    tenant_id  uuid NOT NULL,
    run_id     uuid NOT NULL,
    project_id uuid NOT NULL,
    tools      text[] NOT NULL, -- of the plan, each once
    labels     jsonb NOT NULL,
    words      text NOT NULL,   -- goal and name in lower case
    reason     text,            -- in lower case
    PRIMARY KEY (tenant_id, run_id)
);
CALL nofx.guard_tenant('nofx.run_search');
GRANT SELECT ON nofx.run_search TO nofx_app;

-- Failed runs alone are in it.
CREATE INDEX run_by_signature ON nofx.run (tenant_id, failure_signature, id) WHERE failure_signature IS NOT NULL;

RESET ROLE;
SET LOCAL ROLE nofx_system;

-- No definer: it runs as whoever writes the run, which is nofx_system, and to change
-- role and path once more for each run would cost as much as its row does.
CREATE FUNCTION nofx.search_run() RETURNS trigger
    LANGUAGE plpgsql
AS $$
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
$$;
GRANT EXECUTE ON FUNCTION nofx.search_run() TO nofx_owner;

-- The runs that were there before.
INSERT INTO nofx.run_search (tenant_id, run_id, project_id, tools, labels, words, reason)
SELECT tenant_id, id, project_id, ARRAY(SELECT DISTINCT t #>> '{}' FROM jsonb_path_query(plan, '$.steps[*].tool') AS p (t)),
    labels, lower(concat_ws(E'\n', goal, name)), lower(reason) FROM nofx.run;

RESET ROLE;
SET LOCAL ROLE nofx_owner;

CREATE TRIGGER run_search AFTER INSERT ON nofx.run
    FOR EACH ROW EXECUTE FUNCTION nofx.search_run();
-- A run that succeeds at its first try has no reason, and costs nothing here.
CREATE TRIGGER run_search_reason AFTER UPDATE OF reason ON nofx.run
    FOR EACH ROW WHEN (NEW.reason IS DISTINCT FROM OLD.reason) EXECUTE FUNCTION nofx.search_run();

RESET ROLE;
