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

// Subject is a person or workflow whom another issuer vouches for.
type Subject struct {
	Subject       string
	Name          string // for people; "": no token was seen yet
	SeenAt        *time.Time
	RevokedBefore *time.Time // tokens that were issued before are refused
	RevokedBy     string
	RevokedByName string
	Reason        string
}

const subjectSelect = `SELECT s.subject, coalesce(s.name, ''), s.seen_at, s.revoked_before, coalesce(s.revoked_by, ''), coalesce(nofx.subject_name(s.tenant_id, s.revoked_by), ''), coalesce(s.reason, '')
	FROM nofx.subject s WHERE s.tenant_id = $1 `

// Subjects lists the subjects of tenant by their names here, after one of them.
func (db *DB) Subjects(ctx context.Context, tenant uuid.UUID, after string, limit int) (list []Subject, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, subjectSelect+"AND s.subject > $2 ORDER BY s.subject LIMIT $3", tenant, after, limit)
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Subject])
		return err
	})
	return list, err
}

// RevokeSubject refuses the tokens of a subject that were issued until now, whether or not it
// was ever seen, and returns the subject.
func (db *DB) RevokeSubject(ctx context.Context, tenant uuid.UUID, subject, by, reason string) (s Subject, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT nofx.revoke_subject($1, $2, $3)", subject, by, nullable(reason)); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, subjectSelect+"AND s.subject = $2", tenant, subject)
		if err != nil {
			return err
		}
		s, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Subject])
		return err
	})
	return s, err
}

// nullID returns id, or nil for the zero id, which is stored as NULL.
func nullID(id uuid.UUID) *uuid.UUID {
	if id == uuid.Nil {
		return nil
	}
	return &id
}
