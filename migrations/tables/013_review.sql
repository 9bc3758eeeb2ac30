-- Reviews of changes by gate:llm_review, their artifacts, and findings (REVIEW.md).
SET LOCAL ROLE nofx_owner;

INSERT INTO nofx.machine_state (machine, state, terminal) VALUES
    ('review', 'queued', false), ('review', 'running', false),
    ('review', 'completed', true), ('review', 'failed', true), ('review', 'superseded', true),
    ('finding', 'open', false), ('finding', 'fixed', false), ('finding', 'resolved', false), ('finding', 'dismissed', false);

INSERT INTO nofx.transition (machine, from_state, event, to_state, needs_lease, needs_reason, batched, final)
SELECT e.machine, f.state, e.event, e.to_state, e.l, e.r, false, m.terminal
FROM (VALUES
    ('review', 'queued',             'start',             'running',    false, false),
    ('review', 'queued running',     'supersede',         'superseded', false, true),
    ('review', 'queued running',     'fail',              'failed',     false, true),
    ('review', 'running',            'complete',          'completed',  true,  false),
    ('review', 'running',            'lease_expired',     'queued',     false, true),

    ('finding', 'open',              'fix',               'fixed',      false, false),
    ('finding', 'open',              'resolve',           'resolved',   false, false),
    ('finding', 'open',              'dismiss',           'dismissed',  false, true),
    ('finding', 'fixed',             'recur',             'open',       false, false),
    ('finding', 'fixed resolved dismissed', 'reopen',     'open',       false, true),
    ('finding', 'dismissed',         'dismissal_expired', 'open',       false, false)
) AS e (machine, from_states, event, to_state, l, r)
CROSS JOIN LATERAL unnest(string_to_array(e.from_states, ' ')) AS f (state)
JOIN nofx.machine_state m ON m.machine = e.machine AND m.state = e.to_state;

CREATE TABLE nofx.review (
    tenant_id     uuid NOT NULL,
    id            uuid NOT NULL,
    run_id        uuid NOT NULL,
    step_id       uuid NOT NULL,
    provider      text NOT NULL CHECK (provider IN ('github', 'bitbucket', 'workspace', 'diff')),
    repository    text NOT NULL DEFAULT '', -- as the forge names it; '': none
    pull_request  int NOT NULL DEFAULT 0, -- 0: none
    change        text NOT NULL, -- what is reviewed again and again: reviews of one change share their findings
    head_sha      text, -- NULL: not known yet; of a posted diff the SHA-256 of its bytes
    base_sha      text,
    account       text, -- of ours on the forge, which the review is posted as
    dry_run       boolean NOT NULL DEFAULT false,
    state         text NOT NULL DEFAULT 'queued',
    event         text,
    version       bigint NOT NULL DEFAULT 1,
    reason        text CHECK (length(reason) <= 2048),
    verdict       text CHECK (verdict IN ('passed', 'failed', 'error')),
    result        jsonb, -- reasons, warnings, coverage, counts and what was posted
    policy_hash   text,
    model         text,
    tokens        bigint NOT NULL DEFAULT 0,
    cost_usd      numeric(14, 6) NOT NULL DEFAULT 0,
    own_run       boolean NOT NULL DEFAULT false, -- the run was made for it, and ends with it
    rerun_of      uuid,
    superseded_by uuid,
    created_by    text NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    started_at    timestamptz,
    finished_at   timestamptz,
    FOREIGN KEY (tenant_id, run_id) REFERENCES nofx.run (tenant_id, id),
    FOREIGN KEY (tenant_id, step_id) REFERENCES nofx.step (tenant_id, id),
    CHECK (verdict IS NULL OR state = 'completed')
);
ALTER TABLE nofx.review ADD PRIMARY KEY (tenant_id, id);
CREATE INDEX review_change ON nofx.review (tenant_id, change, id); -- find_review, supersede_reviews, lists by change
CREATE INDEX review_run ON nofx.review (run_id, tenant_id, id); -- the foreign key; reviews of a run
CREATE UNIQUE INDEX review_step ON nofx.review (step_id, tenant_id) WHERE state IN ('queued', 'running'); -- one at a time; begin_review
CREATE INDEX review_of_step ON nofx.review (step_id, tenant_id, id); -- the foreign key; begin_review
CREATE INDEX review_repository ON nofx.review (tenant_id, repository, id); -- lists of a repository
CREATE INDEX review_day ON nofx.review (tenant_id, created_at); -- review metrics
CALL nofx.guard_tenant('nofx.review');
GRANT SELECT ON nofx.review TO nofx_app;

CREATE TABLE nofx.review_artifact (
    tenant_id   uuid NOT NULL,
    review_id   uuid NOT NULL,
    stage       text NOT NULL CHECK (length(stage) BETWEEN 1 AND 64),
    ordinal     int NOT NULL,
    artifact_id uuid NOT NULL, -- its bytes, with digest, size and media type
    input       text NOT NULL, -- digest of what it was made from: a stage whose input is the same is not done again
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, review_id, stage, ordinal),
    FOREIGN KEY (tenant_id, review_id) REFERENCES nofx.review (tenant_id, id),
    FOREIGN KEY (tenant_id, artifact_id) REFERENCES nofx.artifact (tenant_id, id)
);
CREATE INDEX review_artifact_input ON nofx.review_artifact (tenant_id, input, stage); -- answers of models that other reviews have
CREATE INDEX review_artifact_id ON nofx.review_artifact (artifact_id, tenant_id); -- the foreign key, when an artifact is deleted
CALL nofx.guard_tenant('nofx.review_artifact');
GRANT SELECT ON nofx.review_artifact TO nofx_app;

CREATE TABLE nofx.finding (
    tenant_id     uuid NOT NULL,
    id            uuid NOT NULL,
    change        text NOT NULL, -- as of its reviews
    provider      text NOT NULL,
    repository    text NOT NULL,
    pull_request  int NOT NULL,
    fingerprint   text NOT NULL,
    path          text NOT NULL,
    category      text NOT NULL,
    severity      text NOT NULL CHECK (severity IN ('critical', 'high', 'medium', 'low', 'info')),
    confidence    double precision NOT NULL,
    rule_id       text,
    title         text NOT NULL,
    body          text NOT NULL,
    evidence      jsonb, -- texts
    suggestion    text,
    anchor        jsonb NOT NULL, -- where it is, and what it is found again by
    state         text NOT NULL DEFAULT 'open',
    event         text,
    version       bigint NOT NULL DEFAULT 1,
    reason        text CHECK (length(reason) <= 2048),
    scope         text CHECK (scope IN ('this', 'path', 'rule')), -- of a dismissal
    expires_at    timestamptz, -- of a dismissal
    gone          jsonb, -- of a fix: the evidence
    decided_by    text,
    decided_at    timestamptz,
    first_review_id uuid NOT NULL,
    last_review_id  uuid NOT NULL, -- the newest that reported it
    thread_id     text, -- on the forge
    comment_id    text,
    url           text,
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    FOREIGN KEY (tenant_id, last_review_id) REFERENCES nofx.review (tenant_id, id),
    CHECK ((scope IS NULL) = (state <> 'dismissed'))
);
ALTER TABLE nofx.finding ADD PRIMARY KEY (tenant_id, id);
CREATE UNIQUE INDEX finding_fingerprint ON nofx.finding (tenant_id, change, fingerprint); -- record_findings
CREATE INDEX finding_review ON nofx.finding (last_review_id, tenant_id); -- the foreign key, when a review is deleted
CREATE INDEX finding_day ON nofx.finding (tenant_id, created_at); -- review metrics
CREATE INDEX finding_dismissed ON nofx.finding (tenant_id, provider, repository) WHERE state = 'dismissed' AND scope <> 'this'; -- dismissals of a repository
CALL nofx.guard_tenant('nofx.finding');
GRANT SELECT ON nofx.finding TO nofx_app;

-- What a review says of a finding.
CREATE TABLE nofx.finding_occurrence (
    tenant_id   uuid NOT NULL,
    review_id   uuid NOT NULL,
    finding_id  uuid NOT NULL,
    anchor      jsonb NOT NULL,
    disposition text NOT NULL CHECK (disposition IN ('posted', 'capped', 'demoted', 'duplicate', 'rejected')),
    why         text,
    PRIMARY KEY (tenant_id, review_id, finding_id),
    FOREIGN KEY (tenant_id, review_id) REFERENCES nofx.review (tenant_id, id),
    FOREIGN KEY (tenant_id, finding_id) REFERENCES nofx.finding (tenant_id, id)
);
CREATE INDEX finding_occurrence_finding ON nofx.finding_occurrence (finding_id, tenant_id, review_id); -- the foreign key; sightings of a finding
CALL nofx.guard_tenant('nofx.finding_occurrence');
GRANT SELECT ON nofx.finding_occurrence TO nofx_app;

-- The tokens and cost that reviews of a tenant may still use on a day.
CREATE TABLE nofx.model_spend (
    tenant_id uuid NOT NULL,
    day       date NOT NULL,
    tokens    bigint NOT NULL DEFAULT 0, -- used, and reserved by calls under way
    cost_usd  numeric(14, 6) NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, day)
);
CALL nofx.guard_tenant('nofx.model_spend');
GRANT SELECT ON nofx.model_spend TO nofx_app;

RESET ROLE;
