package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/run"
)

// CreateTenant makes the tenant slug with its project default, or finds it. It
// needs an administrator's database address: gateways may not make tenants.
func (db *DB) CreateTenant(ctx context.Context, slug string) (tenant uuid.UUID, created bool, err error) {
	fresh := run.NewID()
	err = db.tx(ctx, fresh, func(tx pgx.Tx) error {
		// An administrator without SUPERUSER sees tenants as their owner only.
		if err := tx.QueryRow(ctx, "SELECT tenant_id FROM nofx.tenant WHERE slug = $1", slug).Scan(&tenant); err == nil {
			created = false
			return nil
		} else if !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		tenant, created = fresh, true
		if _, err := tx.Exec(ctx, "INSERT INTO nofx.tenant (tenant_id, slug) VALUES ($1, $2)", tenant, slug); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "INSERT INTO nofx.project (tenant_id, id, slug) VALUES ($1, $2, 'default')", tenant, run.NewID())
		return err
	})
	return tenant, created, err
}

// Tenant is a tenant as administrators of the installation see it.
type Tenant struct {
	ID         uuid.UUID
	Slug       string
	CreatedAt  time.Time
	Keys       int64      // live API keys
	LastUsedAt *time.Time // of any of its keys
}

// Tenants lists all tenants by name. It needs an administrator's connection.
func (db *DB) Tenants(ctx context.Context) ([]Tenant, error) {
	return across(ctx, db, pgx.RowToStructByPos[Tenant], "SELECT id, slug, created_at, keys, last_used_at FROM nofx.tenants()")
}

// APIKey is a key as its tenant's administrators see it: never its secret.
type APIKey struct {
	ID         uuid.UUID
	Name       string
	Prefix     string // the visible part
	Role       string
	Scopes     []string
	CreatedBy  string
	CreatedAt  time.Time
	ExpiresAt  *time.Time
	RevokedAt  *time.Time
	LastUsedAt *time.Time
}

// CreateAPIKey inserts a key by the SHA-256 of its secret. A name that another live key of
// the tenant has, in upper or lower case, is fault.Conflict (name-taken). An expired key
// with the name is revoked.
func (db *DB) CreateAPIKey(ctx context.Context, tenant uuid.UUID, k APIKey, secretSHA256 []byte) error {
	doc, err := document(map[string]any{"name": k.Name, "prefix": k.Prefix, "role": k.Role, "scopes": append([]string{}, k.Scopes...), "created_by": k.CreatedBy, "expires_at": k.ExpiresAt})
	if err != nil {
		return err
	}
	return db.tx(ctx, tenant, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "SELECT nofx.create_key($1, $2, $3)", k.ID, secretSHA256, doc)
		if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.ConstraintName == "api_key_live_name" {
			return fault.New(fault.Conflict, "name-taken", "a live API key is already named %q (upper and lower case count as equal); revoke it first, or choose another name", k.Name).Because(err)
		}
		return err
	})
}

// APIKeys lists the keys of tenant, newest first, before one of them.
func (db *DB) APIKeys(ctx context.Context, tenant uuid.UUID, before *uuid.UUID, limit int) (list []APIKey, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `SELECT id, name, prefix, role, scopes, created_by, created_at, expires_at, revoked_at, last_used_at
			FROM nofx.api_key WHERE tenant_id = $1 AND ($2::uuid IS NULL OR id < $2) ORDER BY id DESC LIMIT $3`, tenant, before, limit)
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(rows, pgx.RowToStructByPos[APIKey])
		return err
	})
	return list, err
}

// RevokeAPIKey ends a key; ending it twice changes nothing. An unknown key is
// fault.NotFound.
func (db *DB) RevokeAPIKey(ctx context.Context, tenant, id uuid.UUID) error {
	return db.tx(ctx, tenant, func(tx pgx.Tx) error {
		var found bool
		if err := tx.QueryRow(ctx, "SELECT nofx.revoke_key($1)", id).Scan(&found); err != nil || found {
			return err
		}
		return missing(pgx.ErrNoRows, "API key")
	})
}

// PresentedKey has the facts that decide whether a presented key is valid.
type PresentedKey struct {
	Tenant       uuid.UUID
	TenantSlug   string
	Name         string
	SecretSHA256 []byte
	Role         string
	Scopes       []string
	ExpiresAt    *time.Time
	Expired      bool
	Revoked      bool
}

// PresentedKey finds a key of any tenant by its id, and records its use if secretSHA256
// matches its secret. The caller decides whether the key is valid. An unknown key is
// fault.NotFound.
func (db *DB) PresentedKey(ctx context.Context, id uuid.UUID, secretSHA256 []byte) (PresentedKey, error) {
	found, err := across(ctx, db, pgx.RowToStructByPos[PresentedKey],
		"SELECT tenant_id, tenant, name, secret_sha256, role, scopes, expires_at, expired, revoked FROM nofx.present_key($1, $2)", id, secretSHA256)
	if err != nil {
		return PresentedKey{}, err
	}
	if len(found) == 0 {
		return PresentedKey{}, missing(pgx.ErrNoRows, "API key")
	}
	return found[0], nil
}
