package postgres

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/trace"

	"nofx.dev/shared/job"
	"nofx.dev/shared/run"
	"nofx.dev/shared/tree"
)

// Worker is who claims: a worker process.
type Worker struct {
	ID  string
	PID int
}

// Claim is a step taken by a worker, with everything its attempt needs.
type Claim struct {
	TenantID     uuid.UUID
	RunID        uuid.UUID
	StepID       uuid.UUID
	Name         string
	Tool         string
	Spec         run.Spec
	Fence        int64
	Attempt      int
	MaxAttempts  int
	LostLeases   int
	ReadyAt      time.Time
	ClaimedAt    time.Time
	LostAt       *time.Time // when the lease of the attempt before ran out, if it was lost
	FailingSince *time.Time // when the infrastructure failed it first; nil: the attempt before did not end so
	Traceparent  string     // the run's root context
	PlanDigest   string
	Waiver       *Waiver         // of the newest round of its gate; nil when that was not waived
	Parents      []Parent        // the checkpoints it starts from, in plan order
	Edited       bool            // the edits of its branch are to be made first, see BranchEdit
	Signal       json.RawMessage // the payload of the signal that the step took; nil before
}

// Waiver is a person's decision to continue without a gate's verdict, or despite it.
type Waiver struct {
	InputDigest string `json:"input_digest"` // of what the gate judged or asked
	By          string `json:"by"`
	ByName      string `json:"by_name"` // of By; By where that has none
	Reason      string `json:"reason"`
}

// Parent is a checkpoint that a step starts from.
type Parent struct {
	ID          uuid.UUID
	Digest      tree.Digest
	Generation  int
	TreeDigest  tree.Digest
	StateDigest tree.Digest
	State       []byte // nil: a blob of StateDigest
}

// Pre makes the checkpoint that a claimed step starts from, in the span of its attempt.
// Where that needs no storage it is recorded with the claim; otherwise Pre returns nil
// and the worker records it with RecordCheckpoint. It is called again when its
// transaction is.
type Pre func(*Claim, trace.SpanContext) (*Checkpoint, error)

// Wake is a request to claim the step of a job.
type Wake struct {
	Job   job.Step
	JobID int64             // the River job, named in the lease for the code that takes the lease away
	Span  trace.SpanContext // of the attempt to come
	Pre   Pre
	Held  bool // its run was held a moment ago
}

// Claimed is the result of a Wake.
type Claimed struct {
	Claim *Claim // nil if the wake-up is stale or the run takes no claims
	Err   error  // ErrHeld
}

// ClaimSteps takes steps of one tenant in one transaction, each with a new fence and a
// lease of ttl, except steps whose run another transaction holds. It returns the results in
// the order of wakes.
func (db *DB) ClaimSteps(ctx context.Context, wakes []Wake, w Worker, ttl time.Duration) ([]Claimed, error) {
	tenant := wakes[0].Job.TenantID
	of := func(wake Wake) maybeHeld { return maybeHeld{wake.Job.StepID, wake.Held} }
	return txOfFree(ctx, db, tenant, wakes, of, Claimed{Err: ErrHeld}, func(tx pgx.Tx, wakes []Wake) ([]Claimed, error) {
		items := make([]map[string]any, len(wakes))
		for i, wake := range wakes {
			items[i] = map[string]any{"step_id": wake.Job.StepID, "wake_seq": wake.Job.WakeSeq, "job_id": wake.JobID, "traceparent": spanParent(wake.Span),
				"trace_id": wake.Span.TraceID().String(), "span_id": wake.Span.SpanID().String()}
		}
		doc, err := document(items)
		if err != nil {
			return nil, err
		}
		rows, err := tx.Query(ctx, "SELECT ord, "+claimColumns+" FROM nofx.claim_steps($1, $2, $3, $4)", doc, w.ID, w.PID, ttl)
		if err != nil {
			return nil, err
		}
		var ord int
		var c claimRow
		claims := make([]*Claim, len(wakes))
		if _, err := pgx.ForEachRow(rows, append([]any{&ord}, c.fields()...), func() error {
			claims[ord] = c.claim(tenant)
			return nil
		}); err != nil {
			return nil, err
		}
		if err := parents(ctx, tx, tenant, claims); err != nil {
			return nil, err
		}
		if err := start(tx, claims, func(i int) (Pre, trace.SpanContext) { return wakes[i].Pre, wakes[i].Span }); err != nil {
			return nil, err
		}
		answers := make([]Claimed, len(wakes))
		for i, c := range claims {
			answers[i].Claim = c
		}
		return answers, nil
	})
}

const claimColumns = `(claim).step_id, (claim).run_id, (claim).name, (claim).tool, (claim).spec, (claim).fence, (claim).attempt, (claim).max_attempts,
	(claim).lost_leases, (claim).ready_at, (claim).claimed_at, (claim).lost_at, (claim).failing_since, (claim).traceparent, (claim).plan_digest, (claim).waiver, (claim).parents, (claim).signal, (claim).edited`

// claimRow is a nofx.claimed, all of it NULL where nothing was claimed.
type claimRow struct {
	stepID, runID                    *uuid.UUID
	name, tool                       *string
	spec                             *run.Spec
	fence                            *int64
	attempt, maxAttempts, lostLeases *int
	readyAt, claimedAt               *time.Time
	lostAt, failingSince             *time.Time
	traceparent, planDigest          *string
	waiver                           *Waiver
	parents                          *int
	signal                           json.RawMessage
	edited                           *bool
}

func (r *claimRow) fields() []any {
	return []any{&r.stepID, &r.runID, &r.name, &r.tool, &r.spec, &r.fence, &r.attempt, &r.maxAttempts, &r.lostLeases,
		&r.readyAt, &r.claimedAt, &r.lostAt, &r.failingSince, &r.traceparent, &r.planDigest, &r.waiver, &r.parents, &r.signal, &r.edited}
}

// claim returns the row as a claim without its parents, which the caller fills in, or nil.
func (r *claimRow) claim(tenant uuid.UUID) *Claim {
	if r.stepID == nil {
		return nil
	}
	return &Claim{TenantID: tenant, RunID: *r.runID, StepID: *r.stepID, Name: *r.name, Tool: *r.tool, Spec: *r.spec, Fence: *r.fence,
		Attempt: *r.attempt, MaxAttempts: *r.maxAttempts, LostLeases: *r.lostLeases, ReadyAt: *r.readyAt, ClaimedAt: *r.claimedAt, LostAt: r.lostAt, FailingSince: r.failingSince,
		Traceparent: *r.traceparent, PlanDigest: *r.planDigest, Waiver: r.waiver, Parents: make([]Parent, *r.parents), Signal: r.signal, Edited: *r.edited}
}

// parents reads the checkpoints that claims start from, but for those that have
// theirs already.
func parents(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, claims []*Claim) error {
	wanted := map[uuid.UUID]*Claim{}
	for _, c := range claims {
		if c != nil && len(c.Parents) > 0 && c.Parents[0].ID == uuid.Nil {
			wanted[c.StepID], c.Parents = c, c.Parents[:0]
		}
	}
	if len(wanted) == 0 {
		return nil
	}
	rows, err := tx.Query(ctx, "SELECT step_id, id, digest, generation, tree_digest, state_digest, state_inline FROM nofx.step_parents($1)",
		slices.Collect(maps.Keys(wanted)))
	if err != nil {
		return err
	}
	for rows.Next() {
		var step uuid.UUID
		var p Parent
		if err := rows.Scan(&step, &p.ID, &p.Digest, &p.Generation, &p.TreeDigest, &p.StateDigest, &p.State); err != nil {
			return err
		}
		wanted[step].Parents = append(wanted[step].Parents, p)
	}
	return rows.Err()
}

// parentColumns are those of Parent, of checkpoint c.
const parentColumns = "c.id, c.digest, c.generation, c.tree_digest, c.state_digest, c.state_inline"

// start records the checkpoints that claims start from, if Pre makes them.
func start(tx pgx.Tx, claims []*Claim, of func(int) (Pre, trace.SpanContext)) error {
	var items []map[string]any
	for i, c := range claims {
		if c == nil {
			continue
		}
		pre, span := of(i)
		ck, err := pre(c, span)
		if err != nil {
			return err
		}
		if ck != nil {
			items = append(items, ck.item(c, span))
		}
	}
	return recordCheckpoints(tx, items)
}
