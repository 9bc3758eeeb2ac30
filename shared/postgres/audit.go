package postgres

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// AuditRow is a row of the audit log of a tenant. The functions of the database that do what
// is audited write it, in the transaction of the act.
type AuditRow struct {
	Seq       int64 // without gaps
	At        time.Time
	Actor     string
	ActorName string // of an API key
	Via       string // how the actor authenticated
	Act       string
	Object    string
	Reason    string
	Before    json.RawMessage
	After     json.RawMessage
	TraceID   string
	PrevHash  []byte // of the row before
	Hash      []byte
}

// AuditFilter selects rows of the audit log; a zero field selects all.
type AuditFilter struct {
	Act    string
	Actor  string
	Since  *time.Time
	Until  *time.Time // not included
	Before int64      // of the page before, its last seq
	Limit  int
}

// Audit lists rows of the audit log of tenant, the newest first.
func (db *DB) Audit(ctx context.Context, tenant uuid.UUID, f AuditFilter) (list []AuditRow, err error) {
	q := query{sql: `SELECT a.seq, a.at, a.actor, coalesce(nofx.subject_name(a.tenant_id, a.actor), ''), a.via, a.act, a.object, coalesce(a.reason, ''),
		a.before, a.after, coalesce(a.trace_id, ''), a.prev_hash, a.hash FROM nofx.audit a WHERE a.tenant_id = $1`, args: []any{tenant}}
	q.and(f.Act != "", "a.act = ?", f.Act)
	q.and(f.Actor != "", "a.actor = ?", f.Actor)
	q.and(f.Since != nil, "a.at >= ?", f.Since)
	q.and(f.Until != nil, "a.at < ?", f.Until)
	q.and(f.Before != 0, "a.seq < ?", f.Before)
	q.end("ORDER BY a.seq DESC LIMIT ?", f.Limit)
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, q.sql, q.args...)
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(rows, pgx.RowToStructByPos[AuditRow])
		return err
	})
	return list, err
}

// AuditDenied records that the actor of ctx was refused an operation on an object, in a
// transaction of its own. Of many refusals within a minute only some have rows, which tell
// how many there were.
func (db *DB) AuditDenied(ctx context.Context, tenant uuid.UUID, operation, object string) error {
	return db.tx(ctx, tenant, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "SELECT nofx.audit_denied($1, $2)", operation, object)
		return err
	})
}

// AuditURLs records that the actor of ctx is about to be given URLs, by their digests, with
// which anybody may use parts of an object by method until expires.
func (db *DB) AuditURLs(ctx context.Context, tenant uuid.UUID, object, method string, sums [][32]byte, expires time.Time) error {
	digests := make([]string, len(sums))
	for i, sum := range sums {
		digests[i] = hex.EncodeToString(sum[:])
	}
	return db.tx(ctx, tenant, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "SELECT nofx.audit_urls($1, $2, $3, $4)", object, method, digests, expires)
		return err
	})
}

// AuditHead is the newest row of the audit log of a tenant.
type AuditHead struct {
	TenantID uuid.UUID
	Seq      int64
	Hash     []byte
	At       time.Time
}

// AuditHeads lists at most limit tenants, in the order of their ids after one of them, whose
// audit log has grown since its head was last stored, on a day before day.
func (db *DB) AuditHeads(ctx context.Context, day time.Time, after uuid.UUID, limit int) ([]AuditHead, error) {
	return across(ctx, db, pgx.RowToStructByPos[AuditHead], "SELECT tenant_id, seq, hash, at FROM nofx.audit_heads($1, $2, $3)", day.UTC().Format(time.DateOnly), after, limit)
}

// AuditAnchored records that a head was stored on a day.
func (db *DB) AuditAnchored(ctx context.Context, h AuditHead, day time.Time) error {
	return db.tx(ctx, h.TenantID, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "SELECT nofx.audit_anchored($1, $2)", h.Seq, day.UTC().Format(time.DateOnly))
		return err
	})
}
