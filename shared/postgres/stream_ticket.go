package postgres

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// CreateStreamTicket stores the digest of a ticket for the stream at target, path and query,
// with the proof of who it is for, a JSON document. It returns when the ticket expires.
func (db *DB) CreateStreamTicket(ctx context.Context, tenant uuid.UUID, sha256 []byte, target string, proof []byte, life time.Duration) (expires time.Time, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, "SELECT nofx.create_stream_ticket($1, $2, $3, $4)", sha256, target, proof, int(life.Seconds())).Scan(&expires)
	})
	return expires, err
}

// TakenTicket is a ticket that nobody can use again.
type TakenTicket struct {
	Tenant uuid.UUID
	Proof  []byte
}

// TakeStreamTicket takes a ticket by its digest. One that was taken, has expired, or is for
// another target is fault.NotFound.
func (db *DB) TakeStreamTicket(ctx context.Context, sha256 []byte, target string) (TakenTicket, error) {
	taken, err := across(ctx, db, pgx.RowToStructByPos[TakenTicket], "SELECT tenant_id, proof FROM nofx.take_stream_ticket($1, $2)", sha256, target)
	if err != nil {
		return TakenTicket{}, err
	}
	if len(taken) == 0 {
		return TakenTicket{}, missing(pgx.ErrNoRows, "ticket")
	}
	return taken[0], nil
}
