-- The row by which lists of runs are searched, kept by triggers.

-- This is not SECURITY DEFINER: it runs as the writer of the run, nofx_system. Changing
-- role and path again for each run would cost as much as the run's row.
CREATE OR REPLACE FUNCTION nofx.search_run() RETURNS trigger
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

GRANT EXECUTE ON FUNCTION
    nofx.search_run()
TO nofx_owner;

SET LOCAL ROLE nofx_owner;

CREATE OR REPLACE TRIGGER run_search AFTER INSERT ON nofx.run
    FOR EACH ROW EXECUTE FUNCTION nofx.search_run();
-- A run that succeeds at its first try has no reason, and costs nothing here.
CREATE OR REPLACE TRIGGER run_search_reason AFTER UPDATE OF reason ON nofx.run
    FOR EACH ROW WHEN (NEW.reason IS DISTINCT FROM OLD.reason) EXECUTE FUNCTION nofx.search_run();

SET LOCAL ROLE nofx_system;
