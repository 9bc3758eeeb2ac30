package identity

import (
	"context"
	"errors"
	"time"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
)

// subjects keep the people and workflows that were seen lately.
type subjects struct {
	store *postgres.DB
	known *memo[presented, postgres.PresentedSubject]
}

type presented struct {
	tenant  postgres.TenantName
	subject string
	name    string
}

func newSubjects(store *postgres.DB, now func() time.Time) *subjects {
	return &subjects{store: store, known: newMemo[presented, postgres.PresentedSubject](now)}
}

// principal returns p, with what the database knows of it and of its tenant. It returns
// fault.Forbidden for an unknown tenant, and errRevoked for a token that was issued before
// its subject was revoked.
func (s *subjects) principal(ctx context.Context, tenant postgres.TenantName, c claims, p Principal) (*Principal, error) {
	found, err := s.known.get(presented{tenant, p.Subject, p.Name}, func() (postgres.PresentedSubject, error) {
		return s.store.PresentedSubject(ctx, tenant, p.Subject, p.Name)
	})
	switch {
	case errors.Is(err, fault.NotFound):
		return nil, forbidden("the token's tenant is unknown")
	case err != nil:
		return nil, err
	case found.RevokedBefore != nil && c.issued.Before(*found.RevokedBefore):
		return nil, errRevoked
	}
	p.Tenant, p.Slug, p.Expires = found.Tenant, found.TenantSlug, &c.expires
	return &p, nil
}
