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
CREATE INDEX run_by_signature ON nofx.run (tenant_id, failure_signature, id) WHERE failure_signature IS NOT NULL; -- lists by failure signature

-- The runs that were there before.
INSERT INTO nofx.run_search (tenant_id, run_id, project_id, tools, labels, words, reason)
SELECT tenant_id, id, project_id, ARRAY(SELECT DISTINCT t #>> '{}' FROM jsonb_path_query(plan, '$.steps[*].tool') AS p (t)),
    labels, lower(concat_ws(E'\n', goal, name)), lower(reason) FROM nofx.run;

RESET ROLE;
