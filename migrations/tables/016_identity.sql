-- Callers whom other issuers vouch for.
SET LOCAL ROLE nofx_owner;

-- A person or workflow, as its last token said.
CREATE TABLE nofx.subject (
    tenant_id      uuid NOT NULL REFERENCES nofx.tenant,
    subject        text NOT NULL CHECK (subject ~ '^(user|oidc):[A-Za-z0-9._:@|=+-]{1,128}$'),
    name           text CHECK (length(name) BETWEEN 1 AND 255), -- for people; NULL: no token was seen yet
    seen_at        timestamptz, -- written at most once a minute
    revoked_before timestamptz, -- tokens that were issued before are refused
    revoked_by     text,
    reason         text CHECK (length(reason) BETWEEN 1 AND 2048),
    PRIMARY KEY (tenant_id, subject)
);
CALL nofx.guard_tenant('nofx.subject');
GRANT SELECT ON nofx.subject TO nofx_app;

-- Repositories whose workflows may start and read their own reviews. What a condition leaves
-- out is not looked at.
CREATE TABLE nofx.oidc_trust (
    tenant_id           uuid NOT NULL REFERENCES nofx.tenant,
    id                  uuid NOT NULL,
    repository          text NOT NULL CHECK (length(repository) BETWEEN 3 AND 201), -- OWNER/NAME, of which reviews are
    repository_id       bigint NOT NULL CHECK (repository_id > 0), -- names are used again, numbers are not
    repository_owner_id bigint NOT NULL CHECK (repository_owner_id > 0),
    ref                 text CHECK (length(ref) BETWEEN 1 AND 255),
    job_workflow_ref    text CHECK (length(job_workflow_ref) BETWEEN 1 AND 512),
    event_name          text CHECK (length(event_name) BETWEEN 1 AND 64),
    created_by          text NOT NULL,
    created_at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, id)
);
CREATE UNIQUE INDEX oidc_trust_same ON nofx.oidc_trust (tenant_id, repository_id, repository_owner_id, coalesce(ref, ''), coalesce(job_workflow_ref, ''), coalesce(event_name, ''));
CREATE INDEX oidc_trust_repository ON nofx.oidc_trust (repository_id, tenant_id); -- find_oidc_trusts
CALL nofx.guard_tenant('nofx.oidc_trust');
GRANT SELECT ON nofx.oidc_trust TO nofx_app;

-- Tickets of streams, each for one request of whoever got it.
CREATE TABLE nofx.stream_ticket (
    tenant_id  uuid NOT NULL REFERENCES nofx.tenant,
    sha256     bytea NOT NULL CHECK (length(sha256) = 32), -- of the ticket
    target     text NOT NULL CHECK (length(target) BETWEEN 1 AND 8192), -- path and query of the stream
    proof      jsonb NOT NULL, -- what the caller had shown, without a secret
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, sha256)
);
CREATE UNIQUE INDEX stream_ticket_sha256 ON nofx.stream_ticket (sha256); -- take_stream_ticket; a ticket names its row before its tenant is known
CREATE INDEX stream_ticket_age ON nofx.stream_ticket (tenant_id, expires_at); -- create_stream_ticket deletes old ones
CALL nofx.guard_tenant('nofx.stream_ticket');
GRANT SELECT ON nofx.stream_ticket TO nofx_app;

RESET ROLE;
