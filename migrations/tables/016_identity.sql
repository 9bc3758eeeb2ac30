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

RESET ROLE;
