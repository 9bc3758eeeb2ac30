package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"nofx.dev/shared/fault"
)

// IdempotencyKey is a client's name for one request. Fingerprint tells requests
// under the same name apart.
type IdempotencyKey struct {
	Scope       string // the operation
	Key         string
	Fingerprint [32]byte
}

// Answer is a stored HTTP answer.
type Answer struct {
	Status int
	Header map[string]string
	Body   []byte
}

// Idempotent answers a request once. Under a new key it runs do; do's calls to
// the store with the context it is given, the claim of the key and the stored
// answer are one transaction, so that nothing is ever half done. When do returns
// an error together with an answer of a 4xx that a repetition would get too,
// what do did is rolled back and the answer stored. Any other error stores
// nothing.
//
// Under a known key the stored answer comes back with replayed true. Another
// fingerprint is fault.Invalid (idempotency-key-reused), a request still being
// answered fault.Conflict (idempotency-in-flight).
func (db *DB) Idempotent(ctx context.Context, tenant uuid.UUID, k IdempotencyKey, do func(context.Context) (Answer, error)) (a Answer, replayed bool, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		var mine bool
		if err := tx.QueryRow(ctx, "SELECT pg_try_advisory_xact_lock(hashtextextended($1, 0))",
			tenant.String()+"/"+k.Scope+"/"+k.Key).Scan(&mine); err != nil {
			return err
		}
		if !mine {
			e := fault.New(fault.Conflict, "idempotency-in-flight", "a request with this Idempotency-Key is being answered")
			e.RetryAfter = time.Second
			return e
		}
		var fingerprint []byte
		err := tx.QueryRow(ctx, `SELECT fingerprint, status, headers, body FROM nofx.idempotency_key
			WHERE tenant_id = $1 AND scope = $2 AND key = $3`, tenant, k.Scope, k.Key).
			Scan(&fingerprint, &a.Status, &a.Header, &a.Body)
		switch {
		case err == nil && [32]byte(fingerprint) != k.Fingerprint:
			return fault.New(fault.Invalid, "idempotency-key-reused", "this Idempotency-Key was used for another request")
		case err == nil:
			replayed = true
			return nil
		case !errors.Is(err, pgx.ErrNoRows):
			return err
		}
		replayed = false
		if a, err = answer(ctx, tx, tenant, do); err != nil {
			return err
		}
		if a.Header == nil {
			a.Header = map[string]string{}
		}
		header, err := document(a.Header)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `INSERT INTO nofx.idempotency_key (tenant_id, scope, key, fingerprint, status, headers, body)
			VALUES ($1, $2, $3, $4, $5, $6, coalesce($7, ''::bytea))`, tenant, k.Scope, k.Key, k.Fingerprint[:], a.Status, header, a.Body)
		return err
	})
	return a, replayed, err
}

// answer runs do in a savepoint of tx.
func answer(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, do func(context.Context) (Answer, error)) (a Answer, err error) {
	var refused error
	err = pgx.BeginFunc(ctx, tx, func(inner pgx.Tx) error {
		a, refused = do(context.WithValue(ctx, txKey{}, joined{inner, tenant}))
		return refused
	})
	if refused != nil && storable(a.Status) {
		return a, nil
	}
	return a, err
}

// storable reports whether a refusal would be the same again.
func storable(status int) bool {
	return status >= 400 && status < 500 && status != 401 && status != 403 && status != 429
}

// DeleteExpired deletes at most limit of the answers of all tenants that are
// older than 48 hours, twice as long as clients may rely on them, and says how
// many there were.
func (db *DB) DeleteExpired(ctx context.Context, limit int) (int64, error) {
	deleted, err := across(ctx, db, pgx.RowTo[int64], "SELECT nofx.delete_expired($1)", limit)
	if err != nil {
		return 0, err
	}
	return deleted[0], nil
}
