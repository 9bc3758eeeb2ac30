package postgres

import (
	"context"
	"encoding/json"

	"github.com/jackc/pgx/v5"
)

// Effect is a request of a step to another service, with a key by which the service
// recognizes it.
type Effect struct {
	Key    string          // at most 255 bytes; the same for every attempt
	Result json.RawMessage // the recorded result; nil while it is not done
}

// BeginEffect records that the attempt of c is about to do an effect: its kind, and the
// sha256:<hex> of its request. An effect that was begun before and not recorded as done
// must be requested again, with the key. fault.Fenced means that the lease is lost, and
// nothing must be done.
func (db *DB) BeginEffect(ctx context.Context, c *Claim, name, requestDigest string) (e Effect, err error) {
	err = db.tx(ctx, c.TenantID, func(tx pgx.Tx) error {
		e = Effect{}
		return tx.QueryRow(ctx, "SELECT effect_key, effect_result FROM nofx.begin_effect($1, $2, $3, $4)",
			c.StepID, c.Fence, name, requestDigest).Scan(&e.Key, &e.Result)
	})
	return e, err
}

// FinishEffect records the result of an effect that the attempt of c began; recording it
// twice is not an error. fault.Fenced means that the lease is lost and nothing was
// recorded.
func (db *DB) FinishEffect(ctx context.Context, c *Claim, key string, result json.RawMessage) error {
	return db.tx(ctx, c.TenantID, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "SELECT nofx.finish_effect($1, $2, $3, $4)", c.StepID, c.Fence, key, string(result))
		return err
	})
}
