package pgtest

import (
	"context"
	"time"

	"nofx.dev/shared/postgres"
)

// Claim claims one step. It returns nil where the wake-up is stale or the run takes
// no claims, and the errors of [postgres.DB.ClaimSteps].
func Claim(ctx context.Context, db *postgres.DB, wake postgres.Wake, w postgres.Worker, ttl time.Duration) (*postgres.Claim, error) {
	claims, err := db.ClaimSteps(ctx, []postgres.Wake{wake}, w, ttl)
	if err != nil {
		return nil, err
	}
	return claims[0].Claim, claims[0].Err
}

// FinishStep finishes one attempt, with the errors of [postgres.DB.FinishSteps].
func FinishStep(ctx context.Context, db *postgres.DB, f postgres.Finish, w postgres.Worker, ttl time.Duration) (postgres.Finished, error) {
	done, err := db.FinishSteps(ctx, []postgres.Finish{f}, w, ttl)
	if err != nil {
		return postgres.Finished{}, err
	}
	return done[0], done[0].Err
}
