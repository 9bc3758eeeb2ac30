package postgres

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"nofx.dev/shared/fault"
)

// IdempotencyKey is a client's name for one request. Fingerprint distinguishes requests
// with the same key.
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

// Idempotent executes a request once. For a new key it runs do. The calls of do to the
// store with its context, the claim of the key and the stored response are one transaction,
// so that nothing is ever half done. An error of do rolls everything back and nothing is
// stored: the request can be repeated.
//
// For a known key it returns the stored response with replayed true. Another fingerprint is
// fault.Invalid (idempotency-key-reused); a request in flight is fault.Conflict
// (idempotency-in-flight).
func (db *DB) Idempotent(ctx context.Context, tenant uuid.UUID, k IdempotencyKey, do func(context.Context) (Answer, error)) (a Answer, replayed bool, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		if a, replayed, err = k.find(ctx, tx, tenant); err != nil || replayed {
			return err
		}
		if a, err = do(context.WithValue(ctx, txKey{}, joined{tx, tenant})); err != nil {
			return err
		}
		return k.store(tx, tenant, a)
	})
	return a, replayed, err
}

// find claims the key until the end of the transaction and looks for an answer
// stored under it.
func (k IdempotencyKey) find(ctx context.Context, tx pgx.Tx, tenant uuid.UUID) (a Answer, found bool, err error) {
	var mine bool
	var fingerprint []byte
	var status *int
	if err := tx.QueryRow(ctx, "SELECT mine, fingerprint, status, headers, body FROM nofx.find_answer($1, $2)", k.Scope, k.Key).
		Scan(&mine, &fingerprint, &status, &a.Header, &a.Body); err != nil {
		return Answer{}, false, err
	}
	switch {
	case !mine:
		e := fault.New(fault.Conflict, "idempotency-in-flight", "a request with this Idempotency-Key is being answered")
		e.RetryAfter = time.Second
		return Answer{}, false, e
	case status == nil:
		return Answer{}, false, nil
	case [32]byte(fingerprint) != k.Fingerprint:
		return Answer{}, false, fault.New(fault.Invalid, "idempotency-key-reused", "this Idempotency-Key was used for another request")
	}
	a.Status = *status
	return a, true, nil
}

func (k IdempotencyKey) store(tx pgx.Tx, tenant uuid.UUID, a Answer) error {
	header := "{}"
	if a.Header != nil {
		var err error
		if header, err = document(a.Header); err != nil {
			return err
		}
	}
	queue(tx, `INSERT INTO nofx.idempotency_key (tenant_id, scope, key, fingerprint, status, headers, body)
		VALUES ($1, $2, $3, $4, $5, $6, coalesce($7, ''::bytea))`, tenant, k.Scope, k.Key, k.Fingerprint[:], a.Status, header, a.Body)
	return nil
}

// DeleteExpired deletes at most limit responses of all tenants that are older than 48
// hours, twice the time that clients may rely on them, and returns their number.
func (db *DB) DeleteExpired(ctx context.Context, limit int) (int64, error) {
	deleted, err := across(ctx, db, pgx.RowTo[int64], "SELECT nofx.delete_expired($1)", limit)
	if err != nil {
		return 0, err
	}
	return deleted[0], nil
}
