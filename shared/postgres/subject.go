package postgres

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// TenantName names a tenant by one of its id and its slug.
type TenantName struct {
	ID   uuid.UUID
	Slug string
}

// PresentedSubject has the facts that decide whether a verified token is accepted.
type PresentedSubject struct {
	Tenant        uuid.UUID
	TenantSlug    string
	RevokedBefore *time.Time // tokens that were issued before are refused
}

// PresentedSubject finds the tenant that a verified token names, and whether the subject's
// tokens are refused there. It records that the subject was seen, and its name for people.
// An unknown tenant is fault.NotFound.
func (db *DB) PresentedSubject(ctx context.Context, tenant TenantName, subject, name string) (PresentedSubject, error) {
	found, err := across(ctx, db, pgx.RowToStructByPos[PresentedSubject],
		"SELECT tenant_id, tenant, revoked_before FROM nofx.present_subject($1, $2, $3, $4)", nullID(tenant.ID), nullable(tenant.Slug), subject, name)
	if err != nil {
		return PresentedSubject{}, err
	}
	if len(found) == 0 {
		return PresentedSubject{}, missing(pgx.ErrNoRows, "tenant")
	}
	return found[0], nil
}

// nullID returns id, or nil for the zero id, which is stored as NULL.
func nullID(id uuid.UUID) *uuid.UUID {
	if id == uuid.Nil {
		return nil
	}
	return &id
}
