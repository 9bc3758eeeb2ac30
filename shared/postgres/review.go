package postgres

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/review"
	"nofx.dev/shared/run"
	"nofx.dev/shared/tree"
)

// reviewGate is the gate that a review decided: the first one of its step after its end.
const reviewGate = `FROM nofx.gate g WHERE v.state = 'completed' AND g.tenant_id = v.tenant_id AND g.step_id = v.step_id AND g.created_at >= v.finished_at ORDER BY g.round LIMIT 1`

// reviewVerdict is the verdict of a review: that of its policy, unless a person has waived
// its gate.
const reviewVerdict = `CASE WHEN (SELECT g.state ` + reviewGate + `) = 'waived' THEN 'waived' ELSE coalesce(v.verdict, '') END`

const reviewColumns = `v.id, v.run_id, v.step_id, v.provider, v.repository, v.pull_request, v.change, coalesce(v.head_sha, ''), coalesce(v.base_sha, ''), v.dry_run,
	v.state, v.version, coalesce(v.reason, ''), ` + reviewVerdict + `, v.result, coalesce(v.policy_hash, ''), coalesce(v.model, ''), v.tokens, v.cost_usd::float8,
	v.rerun_of, v.superseded_by, (SELECT g.id ` + reviewGate + `), (SELECT r.trace_id FROM nofx.run r WHERE r.tenant_id = v.tenant_id AND r.id = v.run_id),
	v.created_by, v.created_at, v.started_at, v.finished_at`

func scanReview(row pgx.CollectableRow) (v review.Review, err error) {
	err = row.Scan(&v.ID, &v.RunID, &v.StepID, &v.Provider, &v.Repository, &v.PullRequest, &v.Change, &v.HeadSHA, &v.BaseSHA, &v.DryRun,
		&v.State, &v.Version, &v.Reason, &v.Verdict, &v.Result, &v.PolicyHash, &v.Model, &v.Tokens, &v.CostUSD,
		&v.RerunOf, &v.SupersededBy, &v.GateID, &v.TraceID,
		&v.CreatedBy, &v.CreatedAt, &v.StartedAt, &v.FinishedAt)
	return v, err
}

func oneReview(ctx context.Context, tx pgx.Tx, tenant, id uuid.UUID) (review.Review, error) {
	rows, err := tx.Query(ctx, "SELECT "+reviewColumns+" FROM nofx.review v WHERE v.tenant_id = $1 AND v.id = $2", tenant, id)
	if err != nil {
		return review.Review{}, err
	}
	v, err := pgx.CollectExactlyOneRow(rows, scanReview)
	return v, missing(err, "review")
}

// Review returns one review, or fault.NotFound.
func (db *DB) Review(ctx context.Context, tenant, id uuid.UUID) (v review.Review, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		v, err = oneReview(ctx, tx, tenant, id)
		return err
	})
	return v, err
}

// ReviewInputs returns the inputs of a review's step, and the project of its run.
func (db *DB) ReviewInputs(ctx context.Context, tenant uuid.UUID, v review.Review) (in run.ReviewInputs, project string, err error) {
	var raw []byte
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		return missing(tx.QueryRow(ctx, `SELECT s.spec->'inputs', p.slug FROM nofx.step s JOIN nofx.run r ON r.tenant_id = s.tenant_id AND r.id = s.run_id
			JOIN nofx.project p ON p.tenant_id = r.tenant_id AND p.id = r.project_id WHERE s.tenant_id = $1 AND s.id = $2`, tenant, v.StepID).Scan(&raw, &project), "review")
	})
	if err == nil {
		in, err = run.Inputs[run.ReviewInputs](raw)
	}
	return in, project, err
}

// ReviewFilter chooses reviews of a list; empty members choose all.
type ReviewFilter struct {
	RunID       *uuid.UUID
	Provider    review.Provider
	Repository  string
	PullRequest int
	State       string
	Verdict     string
	Before      *uuid.UUID // one of the list before
}

// query returns the statement that lists reviews. Conditions that are not asked for are not
// in it, so that a plan of it finds those of a repository by their index.
func (f ReviewFilter) query(tenant uuid.UUID, limit int) query {
	q := query{sql: "SELECT " + reviewColumns + " FROM nofx.review v WHERE v.tenant_id = $1", args: []any{tenant}}
	q.and(f.Before != nil, "v.id < ?", f.Before)
	q.and(f.RunID != nil, "v.run_id = ?", f.RunID)
	q.and(f.Provider != "", "v.provider = ?", f.Provider)
	q.and(f.Repository != "", "v.repository = ?", f.Repository)
	q.and(f.PullRequest != 0, "v.pull_request = ?", f.PullRequest)
	q.and(f.State != "", "v.state = ?", f.State)
	q.and(f.Verdict != "", reviewVerdict+" = ?", f.Verdict)
	q.end("ORDER BY v.id DESC LIMIT ?", limit)
	return q
}

// Reviews lists reviews, the newest first.
func (db *DB) Reviews(ctx context.Context, tenant uuid.UUID, f ReviewFilter, limit int) (list []review.Review, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		q := f.query(tenant, limit)
		rows, err := tx.Query(ctx, q.sql, q.args...)
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(rows, scanReview)
		return err
	})
	return list, err
}

// NewReview is a review to start, in a run of its own.
type NewReview struct {
	Project       string
	Plan          run.Plan         // normalised; its one step is the review
	Inputs        run.ReviewInputs // of that step
	Diff          *run.Artifact    // that the inputs name, if it is a new one, whose bytes are stored
	HeadSHA       string           // "": the newest of the pull request, which the worker finds out
	CorrelationID string
	CreatedBy     string
	RerunOf       *uuid.UUID
}

// StartReview makes a run that reviews a change, or returns the review that there is of
// the same head and that is under way or completed; RerunOf asks for another than a
// completed one. Unless it is a rerun, reviews of older heads of the pull request that are
// not over are superseded, and their runs cancelled. Errors are those of CreateRun, and
// fault.Forbidden (reviews-disabled) where the tenant's setting reviews_enabled is false.
func (db *DB) StartReview(ctx context.Context, tenant uuid.UUID, n NewReview) (v review.Review, created bool, err error) {
	d, err := NewRun{Project: n.Project, Plan: n.Plan, CorrelationID: n.CorrelationID, CreatedBy: n.CreatedBy}.draft(ctx, tenant)
	if err != nil {
		return review.Review{}, false, err
	}
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		var disabled bool
		if err := tx.QueryRow(ctx, "SELECT "+reviewsOff+" FROM nofx.tenant t WHERE t.tenant_id = $1", tenant).Scan(&disabled); err != nil {
			return err
		}
		if disabled {
			return fault.New(fault.Forbidden, "reviews-disabled", "reviews are switched off for the tenant, by its setting reviews_enabled")
		}
		provider, change := source(n.Inputs)
		if n.RerunOf != nil { // the findings of a diff without a pull request are those of its reruns, too
			first, err := oneReview(ctx, tx, tenant, *n.RerunOf)
			if err != nil {
				return err
			}
			change = first.Change
		}
		if change != "" {
			if v, err = foundReview(ctx, tx, tenant, change, n.HeadSHA, n.Inputs.DryRun); err != nil {
				return err
			}
			if v.ID != uuid.Nil && (n.RerunOf == nil || !review.Machine.Terminal(v.State)) {
				return nil
			}
		}
		if n.Diff == nil {
			if err := checkArtifacts(ctx, tx, tenant, n.Plan); err != nil {
				return err
			}
		}
		if err := db.insertRun(ctx, tx, d); err != nil {
			return err
		}
		p := map[string]any{
			"run_id": d.run.ID, "step_id": d.steps[0].ID, "provider": provider, "repository": n.Inputs.Repository, "pull_request": n.Inputs.PullRequest,
			"change": nullable(change), "head_sha": nullable(n.HeadSHA), "dry_run": n.Inputs.DryRun, "rerun_of": n.RerunOf, "created_by": n.CreatedBy,
		}
		if n.Diff != nil {
			p["artifact"] = artifactDocument(*n.Diff)
		}
		doc, err := document(p)
		if err != nil {
			return err
		}
		id := run.NewID()
		if _, err := tx.Exec(ctx, "SELECT nofx.create_review($1, $2)", id, doc); err != nil {
			return err
		}
		created = true
		v, err = oneReview(ctx, tx, tenant, id)
		return err
	})
	return v, created, err
}

// foundReview returns the review that there is of one head of a change, or the zero Review.
func foundReview(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, change, head string, dryRun bool) (v review.Review, err error) {
	var found *uuid.UUID
	if err := tx.QueryRow(ctx, "SELECT nofx.find_review($1, $2, $3)", change, nullable(head), dryRun).Scan(&found); err != nil || found == nil {
		return v, err
	}
	return oneReview(ctx, tx, tenant, *found)
}

// artifactDocument returns an artifact whose bytes are stored, as the functions take it.
func artifactDocument(a run.Artifact) map[string]any {
	return map[string]any{"id": a.ID, "name": a.Name, "key": a.Key, "media_type": a.MediaType, "size_bytes": a.Size, "sha256": hex.EncodeToString(a.SHA256)}
}

// source returns what a step reviews: the provider, and the change whose reviews share
// their findings, "" for one that is reviewed once.
func source(in run.ReviewInputs) (p review.Provider, change string) {
	switch {
	case in.Provider != "":
		p = in.Provider
	case in.ArtifactID != "":
		p = review.Diff
	default:
		p = review.Workspace
	}
	if in.PullRequest > 0 {
		change = string(p) + ":" + strings.ToLower(in.Repository) + "#" + strconv.Itoa(in.PullRequest)
	}
	return p, change
}

// BeginReview begins the review of a claimed step, or continues that of an attempt before.
// A review that is over is one whose verdict the step has not taken yet. fault.Fenced means
// that c no longer holds its step.
func (db *DB) BeginReview(ctx context.Context, c *Claim, in run.ReviewInputs, headSHA string) (v review.Review, err error) {
	provider, change := source(in)
	if provider == review.Workspace {
		change = "workspace:" + run.RunID.Format(c.RunID) + "#" + c.Name
	}
	doc, err := document(map[string]any{"provider": provider, "repository": in.Repository, "pull_request": in.PullRequest, "change": nullable(change),
		"head_sha": nullable(headSHA), "dry_run": in.DryRun, "created_by": "run:" + run.RunID.Format(c.RunID)})
	if err != nil {
		return v, err
	}
	err = db.tx(ctx, c.TenantID, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, "SELECT "+reviewColumns+" FROM nofx.begin_review($1, $2, $3, $4) v", c.StepID, c.Fence, run.NewID(), doc)
		if err != nil {
			return err
		}
		v, err = pgx.CollectExactlyOneRow(rows, scanReview)
		return err
	})
	return v, err
}

// NoteReviewHead records the commits that a review is of. Where another review has the same
// head, this one is superseded by it, and its id is returned. account is ours on the forge.
func (db *DB) NoteReviewHead(ctx context.Context, c *Claim, id uuid.UUID, head, base, account string) (other *uuid.UUID, err error) {
	err = db.tx(ctx, c.TenantID, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, "SELECT nofx.note_review_head($1, $2, $3, $4, $5, $6)", c.StepID, c.Fence, id, head, nullable(base), nullable(account)).Scan(&other)
	})
	return other, err
}

// OutdateReview ends a review whose change has another head by now. Nothing happens to one
// that is over.
func (db *DB) OutdateReview(ctx context.Context, c *Claim, id uuid.UUID, reason string) error {
	return db.tx(ctx, c.TenantID, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "SELECT nofx.review_transition($1, 'supersede', $2, NULL, $3) FROM nofx.review v WHERE v.tenant_id = $4 AND v.id = $1 AND v.state = 'running'",
			id, reason, c.Fence, c.TenantID)
		return err
	})
}

// ReviewArtifact is what a stage of a review stored.
type ReviewArtifact struct {
	Stage    string
	Ordinal  int
	Input    string // digest of what it was made from
	Artifact run.Artifact
}

// KeepReviewArtifact records an artifact of a review whose bytes are stored, in place of an
// earlier one of its stage and ordinal.
func (db *DB) KeepReviewArtifact(ctx context.Context, c *Claim, id uuid.UUID, a ReviewArtifact) error {
	p := artifactDocument(a.Artifact)
	p["stage"], p["ordinal"], p["input"] = a.Stage, a.Ordinal, a.Input
	doc, err := document(p)
	if err != nil {
		return err
	}
	return db.tx(ctx, c.TenantID, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "SELECT nofx.keep_review_artifact($1, $2, $3, $4)", c.StepID, c.Fence, id, doc)
		return err
	})
}

// ReviewArtifacts lists what a review stored, by stage and ordinal. An unknown review is
// fault.NotFound.
func (db *DB) ReviewArtifacts(ctx context.Context, tenant, id uuid.UUID) (list []ReviewArtifact, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		if _, err := oneReview(ctx, tx, tenant, id); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `SELECT r.stage, r.ordinal, r.input, a.id, a.run_id, a.step_id, a.name, a.key, a.media_type, a.size_bytes, a.sha256, a.state, a.created_at
			FROM nofx.review_artifact r JOIN nofx.artifact a ON a.tenant_id = r.tenant_id AND a.id = r.artifact_id
			WHERE r.tenant_id = $1 AND r.review_id = $2 ORDER BY r.stage, r.ordinal`, tenant, id)
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (r ReviewArtifact, err error) {
			a := &r.Artifact
			err = row.Scan(&r.Stage, &r.Ordinal, &r.Input, &a.ID, &a.RunID, &a.StepID, &a.Name, &a.Key, &a.MediaType, &a.Size, &a.SHA256, &a.State, &a.CreatedAt)
			return r, err
		})
		return err
	})
	return list, err
}

// ReviewEnd is what a review came to.
type ReviewEnd struct {
	Verdict     review.Verdict  `json:"verdict"`
	Result      json.RawMessage `json:"result"`
	PolicyHash  string          `json:"policy_hash"`
	Model       string          `json:"model"`
	Tokens      int64           `json:"tokens"`
	CostUSD     float64         `json:"cost_usd"`
	Occurrences []Occurrence    `json:"occurrences"`
	Fixed       []Fix           `json:"fixed"`
	Posted      *ReviewPosted   `json:"posted,omitempty"` // nil: nothing was to be posted
}

// ReviewPosted is what is on a forge of a review.
type ReviewPosted struct {
	Route    string `json:"route"`
	Expected int    `json:"expected"` // comments
	Posted   int    `json:"posted"`
}

// Occurrence is a finding as a review reports it.
type Occurrence struct {
	ID          uuid.UUID          `json:"id"` // of a known finding, or of a new one
	Finding     review.Finding     `json:"finding"`
	Disposition review.Disposition `json:"disposition"`
	Why         string             `json:"why,omitempty"`
}

// Fix is a finding that a later commit has fixed.
type Fix struct {
	ID       uuid.UUID   `json:"id"`
	Evidence review.Gone `json:"evidence"`
}

// FinishReview completes a review, and records what it found. It does nothing for a review
// that is over.
func (db *DB) FinishReview(ctx context.Context, c *Claim, id uuid.UUID, end ReviewEnd) error {
	end.Occurrences, end.Fixed = append([]Occurrence{}, end.Occurrences...), append([]Fix{}, end.Fixed...) // [], not null
	doc, err := document(end)
	if err != nil {
		return err
	}
	return db.tx(ctx, c.TenantID, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "SELECT nofx.finish_review($1, $2, $3, $4)", c.StepID, c.Fence, id, doc)
		return err
	})
}

// ReviewBase returns the tree that the changes of a run's workspace are relative to: that
// of a checkpoint of the tenant, or with nil the first tree of the line that the run is of:
// what its plan fetched, or else what its first step began with. An unknown checkpoint is
// fault.NotFound.
func (db *DB) ReviewBase(ctx context.Context, tenant, runID uuid.UUID, against *uuid.UUID) (checkpoint uuid.UUID, root tree.Digest, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		query, id := "SELECT c.id, c.tree_digest FROM nofx.checkpoint c WHERE c.tenant_id = $1 AND c.id = $2", runID
		if against != nil {
			id = *against
		} else {
			query = `SELECT c.id, c.tree_digest FROM nofx.run r JOIN nofx.run o ON o.tenant_id = r.tenant_id AND o.id = r.root_run_id
				JOIN nofx.checkpoint c ON c.tenant_id = r.tenant_id AND c.run_id = o.id LEFT JOIN nofx.step s ON s.tenant_id = c.tenant_id AND s.id = c.step_id
				WHERE r.tenant_id = $1 AND r.id = $2
				ORDER BY coalesce(o.plan->'workspace'->>'source' IN ('git', 'upload') AND s.idx = 0 AND c.kind = 'post', false) DESC, c.seq LIMIT 1`
		}
		var digest string
		if err := tx.QueryRow(ctx, query, tenant, id).Scan(&checkpoint, &digest); err != nil {
			return missing(err, "checkpoint")
		}
		root, err = tree.ParseDigest(digest)
		return err
	})
	return checkpoint, root, err
}

// reviewsOff says whether the setting reviews_enabled of a tenant t is false.
const reviewsOff = `NOT coalesce((t.settings->>'reviews_enabled')::boolean, true)`

// ReviewSettings are what a tenant's administrator decided about reviews.
type ReviewSettings struct {
	Disabled   bool     // no review is started or goes on
	DayTokens  *int64   // that models may use in a day (UTC); nil: as many as they want
	DayCostUSD *float64 // the same in US dollars
}

// ReviewSettings returns the settings reviews_enabled, model_tokens_per_day and
// model_cost_usd_per_day of a tenant.
func (db *DB) ReviewSettings(ctx context.Context, tenant uuid.UUID) (s ReviewSettings, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, `SELECT `+reviewsOff+`, (t.settings->>'model_tokens_per_day')::numeric::bigint, (t.settings->>'model_cost_usd_per_day')::float8
			FROM nofx.tenant t WHERE t.tenant_id = $1`, tenant).Scan(&s.Disabled, &s.DayTokens, &s.DayCostUSD)
	})
	return s, err
}

// SpendModel adds tokens and cost to what a tenant spends on a day, unless that would be
// more than its limits. Negative ones give back what was reserved and not used. It reports
// whether they were added.
func (db *DB) SpendModel(ctx context.Context, tenant uuid.UUID, day time.Time, tokens int64, costUSD float64, s ReviewSettings) (added bool, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, "SELECT nofx.spend_model($1, $2, $3, $4, $5)", day.UTC().Format(time.DateOnly), tokens, costUSD, s.DayTokens, s.DayCostUSD).Scan(&added)
	})
	return added, err
}

// FindReviewArtifact returns what a review stored for a stage and an input, or, with
// anywhere, any review of the tenant, the newest first: answers depend on their input alone.
// There is none: fault.NotFound.
func (db *DB) FindReviewArtifact(ctx context.Context, tenant, id uuid.UUID, stage string, ordinal int, input string, anywhere bool) (a run.Artifact, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `SELECT a.id, a.run_id, a.step_id, a.name, a.key, a.media_type, a.size_bytes, a.sha256, a.state, a.created_at
			FROM nofx.review_artifact r JOIN nofx.artifact a ON a.tenant_id = r.tenant_id AND a.id = r.artifact_id
			WHERE r.tenant_id = $1 AND r.stage = $3 AND r.input = $5 AND (r.review_id = $2 AND r.ordinal = $4 OR $6)
			ORDER BY r.review_id = $2 DESC, r.created_at DESC LIMIT 1`, tenant, id, stage, ordinal, input, anywhere)
		if err != nil {
			return err
		}
		a, err = pgx.CollectExactlyOneRow(rows, scanArtifact)
		return missing(err, "artifact")
	})
	return a, err
}

// ReviewRound returns how many reviews of a change were completed before one of them, dry
// runs aside, and the artifact of the newest that has a stage; nil: none.
func (db *DB) ReviewRound(ctx context.Context, tenant uuid.UUID, v review.Review, stage string) (n int, last *run.Artifact, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		const before = " FROM nofx.review v WHERE v.tenant_id = $1 AND v.change = $2 AND v.id < $3 AND v.state = 'completed' AND NOT v.dry_run"
		if err := tx.QueryRow(ctx, "SELECT count(*)"+before, tenant, v.Change, v.ID).Scan(&n); err != nil || n == 0 {
			return err
		}
		rows, err := tx.Query(ctx, "SELECT "+artifactColumns+` WHERE tenant_id = $1 AND id = (SELECT a.artifact_id FROM nofx.review_artifact a
			WHERE a.tenant_id = $1 AND a.review_id = (SELECT max(v.id::text)::uuid`+before+") AND a.stage = $4 AND a.ordinal = 0)", tenant, v.Change, v.ID, stage)
		if err != nil {
			return err
		}
		list, err := pgx.CollectRows(rows, scanArtifact)
		if len(list) > 0 {
			last = &list[0]
		}
		return err
	})
	return n, last, err
}
