-- The columns by which lists of runs are searched: project, tools, labels and words.
SET LOCAL ROLE nofx_owner;

-- One narrow row for each run, a tenth of its size, so that a search that finds little
-- reads little. The row is written once with the run; later only its reason changes. So the
-- rows of runs, which are updated at every step, need no indexes for searches. There is no
-- foreign key, as on runs.
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
CREATE INDEX run_by_signature ON nofx.run (tenant_id, failure_signature, id) WHERE failure_signature IS NOT NULL; -- lists by failure signature

-- The runs that were there before.
INSERT INTO nofx.run_search (tenant_id, run_id, project_id, tools, labels, words, reason)
SELECT tenant_id, id, project_id, ARRAY(SELECT DISTINCT t #>> '{}' FROM jsonb_path_query(plan, '$.steps[*].tool') AS p (t)),
    labels, lower(concat_ws(E'\n', goal, name)), lower(reason) FROM nofx.run;

RESET ROLE;
