package postgres

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"nofx.dev/shared/review"
)

// ReviewPeriod chooses what review metrics are about: what was made from Since on and before
// Until, in one repository ("": in all).
type ReviewPeriod struct {
	Since, Until time.Time
	Repository   string
}

// ReviewMetrics are what became of reviews and findings of a period.
type ReviewMetrics struct {
	Rules    []RuleMetrics
	Verdicts []VerdictMetrics
	Spending []SpendingMetrics
}

// RuleMetrics counts the findings of a rule and category by their states. Findings that
// every review rejected are left out.
type RuleMetrics struct {
	RuleID                                  string // "": none
	Category                                review.Category
	Found, Open, Fixed, Resolved, Dismissed int64
}

// Acceptance returns the share of the findings that were acted upon among those that are
// settled, or nil if none is.
func (m RuleMetrics) Acceptance() *float64 {
	settled := m.Fixed + m.Resolved + m.Dismissed
	if settled == 0 {
		return nil
	}
	share := float64(m.Fixed+m.Resolved) / float64(settled)
	return &share
}

// VerdictMetrics counts reviews by verdict ("": none yet, or none at all) and state.
type VerdictMetrics struct {
	Verdict review.Verdict
	State   review.State
	Reviews int64
}

// SpendingMetrics is what the reviews of a day (UTC) used of a model.
type SpendingMetrics struct {
	Day     time.Time
	Model   string // "": none was asked
	Reviews int64
	Tokens  int64
	CostUSD float64
}

// ReviewMetrics returns the metrics of a period, as of one moment: rules with most findings
// first, spending by day and model.
func (db *DB) ReviewMetrics(ctx context.Context, tenant uuid.UUID, p ReviewPeriod) (m ReviewMetrics, err error) {
	err = db.snapshot(ctx, tenant, func(tx pgx.Tx) error {
		args := []any{tenant, p.Since, p.Until, p.Repository}
		if m.Rules, err = collect[RuleMetrics](ctx, tx, `
			SELECT coalesce(f.rule_id, ''), f.category, count(*), count(*) FILTER (WHERE f.state = 'open'), count(*) FILTER (WHERE f.state = 'fixed'),
				count(*) FILTER (WHERE f.state = 'resolved'), count(*) FILTER (WHERE f.state = 'dismissed')
			FROM nofx.finding f
			WHERE f.tenant_id = $1 AND f.created_at >= $2 AND f.created_at < $3 AND ($4 = '' OR f.repository = $4)
				AND EXISTS (SELECT FROM nofx.finding_occurrence o WHERE o.tenant_id = f.tenant_id AND o.finding_id = f.id AND o.disposition <> 'rejected')
			GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2 LIMIT 1000`, args); err != nil {
			return err
		}
		if m.Verdicts, err = collect[VerdictMetrics](ctx, tx, "SELECT "+reviewVerdict+`, v.state, count(*) FROM nofx.review v
			WHERE v.tenant_id = $1 AND v.created_at >= $2 AND v.created_at < $3 AND ($4 = '' OR v.repository = $4)
			GROUP BY 1, 2 ORDER BY 1, 2`, args); err != nil {
			return err
		}
		m.Spending, err = collect[SpendingMetrics](ctx, tx, `
			SELECT (v.created_at AT TIME ZONE 'UTC')::date, coalesce(v.model, ''), count(*), sum(v.tokens)::bigint, sum(v.cost_usd)::float8 FROM nofx.review v
			WHERE v.tenant_id = $1 AND v.created_at >= $2 AND v.created_at < $3 AND ($4 = '' OR v.repository = $4) AND v.state = 'completed'
			GROUP BY 1, 2 ORDER BY 1, 2 LIMIT 1000`, args)
		return err
	})
	return m, err
}

func collect[T any](ctx context.Context, tx pgx.Tx, sql string, args []any) ([]T, error) {
	rows, err := tx.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[T])
}
