package postgres

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"nofx.dev/shared/review"
	"nofx.dev/shared/run"
)

const findingColumns = `f.id, f.provider, f.repository, f.pull_request, f.fingerprint, f.category, f.severity, f.confidence, coalesce(f.rule_id, ''), f.title, f.body,
	coalesce(f.evidence, '[]'), f.suggestion, f.state, f.version, coalesce(f.reason, ''), coalesce(f.scope, ''), f.expires_at, f.gone, coalesce(f.decided_by, ''), f.decided_at,
	f.first_review_id, f.last_review_id, coalesce(f.thread_id, ''), coalesce(f.comment_id, ''), coalesce(f.url, ''), f.created_at, f.updated_at`

// scanFinding reads findingColumns, an anchor, a disposition and why it is so.
func scanFinding(row pgx.CollectableRow) (f review.Record, err error) {
	var scope review.Scope
	var expires *time.Time
	err = row.Scan(&f.UUID, &f.Provider, &f.Repository, &f.PullRequest, &f.Fingerprint, &f.Category, &f.Severity, &f.Confidence, &f.RuleID, &f.Title, &f.Body,
		&f.Evidence, &f.Suggestion, &f.State, &f.Version, &f.Reason, &scope, &expires, &f.Gone, &f.DecidedBy, &f.DecidedAt,
		&f.FirstReviewID, &f.LastReviewID, &f.ThreadID, &f.CommentID, &f.URL, &f.CreatedAt, &f.UpdatedAt, &f.Anchor, &f.Disposition, &f.Why)
	f.ID = run.FindingID.Format(f.UUID)
	if scope != "" {
		f.Dismissal = &review.Dismissal{Scope: scope, Reason: f.Reason, Expires: expires}
	}
	return f, err
}

// ReviewFindings lists what a review reported, the worst first, after a place in the list.
// An unknown review is fault.NotFound.
func (db *DB) ReviewFindings(ctx context.Context, tenant, id uuid.UUID, after, limit int) (list []review.Record, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		if _, err := oneReview(ctx, tx, tenant, id); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, "SELECT "+findingColumns+`, o.anchor, o.disposition, coalesce(o.why, '')
			FROM nofx.finding_occurrence o JOIN nofx.finding f ON f.tenant_id = o.tenant_id AND f.id = o.finding_id
			WHERE o.tenant_id = $1 AND o.review_id = $2
			ORDER BY array_position('{critical,high,medium,low,info}', f.severity), f.path, (o.anchor->>'line')::int, f.id OFFSET $3 LIMIT $4`, tenant, id, after, limit)
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(rows, scanFinding)
		return err
	})
	return list, err
}

// Finding returns one finding, or fault.NotFound.
func (db *DB) Finding(ctx context.Context, tenant, id uuid.UUID) (f review.Record, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		f, err = oneFinding(ctx, tx, tenant, id)
		return err
	})
	return f, err
}

func oneFinding(ctx context.Context, tx pgx.Tx, tenant, id uuid.UUID) (review.Record, error) {
	rows, err := tx.Query(ctx, "SELECT "+findingColumns+", f.anchor, '', '' FROM nofx.finding f WHERE f.tenant_id = $1 AND f.id = $2", tenant, id)
	if err != nil {
		return review.Record{}, err
	}
	f, err := pgx.CollectExactlyOneRow(rows, scanFinding)
	return f, missing(err, "finding")
}

// KnownFindings returns the findings that earlier reviews of a review's change left, and those
// of other changes of its repository whose dismissals cover more than themselves.
func (db *DB) KnownFindings(ctx context.Context, tenant uuid.UUID, v review.Review) (known, dismissed []review.Finding, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, "SELECT "+findingColumns+`, f.anchor, '', '' FROM nofx.finding f WHERE f.tenant_id = $1 AND f.change = $2`, tenant, v.Change)
		if err != nil {
			return err
		}
		if known, err = pgx.CollectRows(rows, scanKnown); err != nil {
			return err
		}
		rows, err = tx.Query(ctx, "SELECT "+findingColumns+`, f.anchor, '', '' FROM nofx.finding f
			WHERE f.tenant_id = $1 AND f.provider = $3 AND f.repository = $4 AND f.state = 'dismissed' AND f.scope <> 'this' AND f.change <> $2 AND f.repository <> ''`,
			tenant, v.Change, v.Provider, v.Repository)
		if err != nil {
			return err
		}
		dismissed, err = pgx.CollectRows(rows, scanKnown)
		return err
	})
	return known, dismissed, err
}

func scanKnown(row pgx.CollectableRow) (review.Finding, error) {
	r, err := scanFinding(row)
	return r.Finding, err
}

// Thread is a thread on a forge that somebody resolved, or took that back.
type Thread struct {
	Provider    review.Provider
	Repository  string
	PullRequest int
	ID, Comment string   // of the thread, and of its first comment
	Accounts    []string // names of the account that did it
	Event       string   // resolve or reopen, of the finding
	Reason      string
}

// What may come of a thread.
const (
	ThreadSettled = "settled"
	ThreadRefused = "refused" // by the state of the finding
	ThreadOurs    = "ours"    // a review that is not over did it
)

// SettledThread is what came of a thread.
type SettledThread struct {
	FindingID uuid.UUID
	State     review.State // of the finding
	Outcome   string
}

// SettleThread has the finding that is discussed in a thread follow it. Without such a
// finding it is fault.NotFound.
func (db *DB) SettleThread(ctx context.Context, tenant uuid.UUID, t Thread) (s SettledThread, err error) {
	_, change := source(run.ReviewInputs{Provider: t.Provider, Repository: t.Repository, PullRequest: t.PullRequest})
	doc, err := document(map[string]any{"change": change, "thread": t.ID, "comment": t.Comment, "accounts": append([]string{}, t.Accounts...), "event": t.Event, "reason": t.Reason})
	if err != nil {
		return s, err
	}
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, "SELECT id, state, outcome FROM nofx.settle_thread($1)", doc).Scan(&s.FindingID, &s.State, &s.Outcome)
		return missing(err, "finding")
	})
	return s, err
}

// FindingDecision is what a person decides about a finding.
type FindingDecision struct {
	Event   string // resolve, dismiss or reopen
	Reason  string
	Scope   review.Scope // of a dismissal
	Expires *time.Time   // of a dismissal; nil: never
	Version *int64       // that the person has seen; nil: any
}

// SettleFinding records a decision about a finding and returns the finding. An event that
// its state does not allow is fault.Conflict.
func (db *DB) SettleFinding(ctx context.Context, tenant, id uuid.UUID, d FindingDecision) (f review.Record, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT nofx.finding_transition($1, $2, $3, $4, $5, $6)", id, d.Event, nullable(d.Reason), d.Version, nullable(string(d.Scope)), d.Expires); err != nil {
			return err
		}
		f, err = oneFinding(ctx, tx, tenant, id)
		return err
	})
	return f, err
}
