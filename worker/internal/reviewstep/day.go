package reviewstep

import (
	"context"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/worker/internal/llm"
)

// day is what a tenant may spend on models in a day (UTC), kept in the database. It is also
// where a review stops asking once its tenant has switched reviews off.
type day struct {
	db     *postgres.DB
	tenant uuid.UUID
	day    time.Time // of the attempt's beginning
}

func (a *attempt) day() llm.Ledger {
	return day{a.DB, a.call.Claim.TenantID, a.began.UTC().Truncate(24 * time.Hour)}
}

// Reserve takes what a try may use at the most, or is fault.Forbidden: reviews-disabled, or
// day-limit.
func (d day) Reserve(ctx context.Context, most llm.Spend) error {
	settings, err := d.db.ReviewSettings(ctx, d.tenant)
	if err != nil {
		return err
	}
	if settings.Disabled {
		return fault.New(fault.Forbidden, "reviews-disabled", "reviews are switched off for this tenant (reviews_enabled)")
	}
	added, err := d.db.SpendModel(ctx, d.tenant, d.day, most.Tokens, most.CostUSD, settings)
	if err == nil && !added {
		return fault.New(fault.Forbidden, "day-limit", "the tenant's budget for models is used up for %s (UTC)", d.day.Format(time.DateOnly))
	}
	return err
}

// Settle gives back what was not used. What cannot be given back stays taken.
func (d day) Settle(ctx context.Context, most, used llm.Spend) {
	if _, err := d.db.SpendModel(ctx, d.tenant, d.day, used.Tokens-most.Tokens, used.CostUSD-most.CostUSD, postgres.ReviewSettings{}); err != nil {
		slog.WarnContext(ctx, "the unused part of a model's budget stays taken", "error", err)
	}
}
