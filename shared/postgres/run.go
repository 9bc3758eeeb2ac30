package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/trace"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/run"
)

// NewRun has the arguments of CreateRun, except the trace of its context.
type NewRun struct {
	Project       string
	Plan          run.Plan // normalised
	CorrelationID string
	CreatedBy     string

	steps run.Plan // Plan, expanded
	work  *Work    // of a system run
}

// CreateRun inserts a run with its steps and the jobs of those that are ready.
// Run and jobs belong to the trace of ctx's span, which must be valid. An
// unknown project is fault.NotFound; a plan that names artifacts which cannot be
// read, secrets that there are not, or hosts that are not granted, is fault.Invalid.
func (db *DB) CreateRun(ctx context.Context, tenant uuid.UUID, n NewRun) (run.Run, []run.Step, error) {
	d, err := n.draft(ctx, tenant)
	if err != nil {
		return run.Run{}, nil, err
	}
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		if err := checkPlan(ctx, tx, tenant, n.Plan); err != nil {
			return err
		}
		return db.insertRun(ctx, tx, d)
	})
	return d.run, d.steps, err
}

// draftRun is a run with its steps before the database has them.
type draftRun struct {
	run          run.Run
	steps        []run.Step
	ready        []bool // the steps that wait for nothing
	create       string // nofx.create_run, or nofx.create_branch
	header, rows string // its arguments
}

func (n NewRun) draft(ctx context.Context, tenant uuid.UUID) (d *draftRun, err error) {
	d = &draftRun{create: "nofx.create_run"}
	n.steps = n.Plan.Expanded()
	if d.run, d.steps, err = n.nouns(ctx, tenant); err != nil {
		return d, err
	}
	d.ready = make([]bool, len(d.steps))
	for i, s := range d.steps {
		d.ready[i] = len(s.DependsOn) == 0
	}
	if d.header, err = document(n.header(d.run)); err == nil {
		d.rows, err = document(n.rows(d.steps))
	}
	return d, err
}

// insertRun inserts d with the jobs of its ready steps, and fills in what the database
// decides.
func (db *DB) insertRun(ctx context.Context, tx pgx.Tx, d *draftRun) error {
	var readyAt []time.Time
	var active int
	if err := tx.QueryRow(ctx, "SELECT created_at, deadline, ready_at, active_steps FROM "+d.create+"($1, $2)", d.header, d.rows).
		Scan(&d.run.CreatedAt, &d.run.Deadline, &readyAt, &active); err != nil {
		return err
	}
	var ready []readyStep
	for i := range d.steps {
		if s := &d.steps[i]; d.ready[i] {
			at := readyAt[len(ready)]
			s.State, s.Version, s.ReadyAt = run.Ready, 2, &at
			ready = append(ready, readyStep{s.ID, 1, s.Queue})
		}
	}
	d.run.EventSeq = int64(1 + len(ready))
	return db.enqueue(ctx, tx, d.run.TenantID, d.run.ID, d.run.Traceparent, ready, active)
}

// nouns returns the run and its steps as they are before the database has them.
func (n NewRun) nouns(ctx context.Context, tenant uuid.UUID) (run.Run, []run.Step, error) {
	sc := trace.SpanContextFromContext(ctx)
	if !sc.IsValid() {
		return run.Run{}, nil, fmt.Errorf("create run: no span in context")
	}
	doc, digest, err := n.Plan.Canonical()
	if err != nil {
		return run.Run{}, nil, err
	}
	r := run.Run{
		ID: run.NewID(), TenantID: tenant, Project: n.Project, Kind: run.PlanRun, Goal: n.Plan.Goal, State: run.Queued, Version: 1, Labels: n.Plan.Labels,
		Plan: doc, PlanDigest: digest, TraceID: sc.TraceID().String(), Traceparent: spanParent(sc), CorrelationID: n.CorrelationID, CreatedBy: n.CreatedBy,
	}
	if r.Labels == nil {
		r.Labels = map[string]string{}
	}
	r.RootRunID = r.ID
	if n.work != nil {
		r.Kind, r.SubjectRunID = run.SystemRun, n.work.SubjectRunID
	}
	steps := make([]run.Step, len(n.steps.Steps))
	index := make(map[string]int, len(steps))
	for i, s := range n.steps.Steps {
		index[s.Name] = i
	}
	for i, s := range n.steps.Steps {
		needs := slices.SortedFunc(slices.Values(s.DependsOn), func(a, b string) int { return index[a] - index[b] })
		tool, ok := run.ToolOf(s.Tool)
		if !ok {
			return run.Run{}, nil, fault.New(fault.Invalid, "unknown-tool", "step %q: unknown tool %q", s.Name, s.Tool)
		}
		steps[i] = run.Step{ID: run.NewID(), RunID: r.ID, Index: i, Name: s.Name, Tool: s.Tool, Queue: tool.Queue, State: run.Pending, Version: 1,
			MaxAttempts: *s.Retry.MaxAttempts, DependsOn: append([]string{}, needs...)}
	}
	return r, steps, nil
}

// header returns the first argument of nofx.create_run.
func (n NewRun) header(r run.Run) map[string]any {
	doc := map[string]any{
		"id": r.ID, "project": r.Project, "goal": r.Goal, "labels": r.Labels,
		"plan": r.Plan, "plan_digest": r.PlanDigest, "trace_id": r.TraceID, "traceparent": r.Traceparent,
		"correlation_id": nullable(r.CorrelationID), "created_by": r.CreatedBy, "deadline_s": n.Plan.DeadlineS,
	}
	if n.work != nil {
		doc["kind"], doc["subject_run_id"], doc["work_key"] = r.Kind, r.SubjectRunID, n.work.Key
	}
	return doc
}

// rows returns the second argument of nofx.create_run.
func (n NewRun) rows(steps []run.Step) []map[string]any {
	index := make(map[string]int, len(steps))
	list := make([]map[string]any, len(steps))
	for i, s := range steps {
		index[s.Name] = i
	}
	for i, s := range steps {
		needs := make([]int, len(s.DependsOn))
		for j, name := range s.DependsOn {
			needs[j] = index[name]
		}
		list[i] = map[string]any{
			"id": s.ID, "name": s.Name, "tool": s.Tool, "queue": s.Queue,
			"spec": n.steps.Spec(i), "max_attempts": s.MaxAttempts, "needs": needs,
		}
	}
	return list
}

func nullable(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

const runColumns = `r.id, r.tenant_id, p.slug, r.kind, r.subject_run_id, coalesce(r.name, ''), r.goal, r.state, r.version, r.event_seq, r.labels, r.plan, r.plan_digest,
	r.trace_id, r.traceparent, coalesce(r.correlation_id, ''), r.head_checkpoint_id, r.parent_run_id, r.parent_checkpoint_id, r.root_run_id, coalesce(r.failure_class, ''), coalesce(r.failure_signature, ''), coalesce(r.reason, ''),
	r.created_by, coalesce(nofx.subject_name(r.tenant_id, r.created_by), ''), r.created_at, r.started_at, r.finished_at,
	nullif(r.deadline, 'infinity'), r.pruned_seq
	FROM nofx.run r JOIN nofx.project p ON p.tenant_id = r.tenant_id AND p.id = r.project_id`

func scanRun(row pgx.CollectableRow) (r run.Run, err error) {
	err = row.Scan(&r.ID, &r.TenantID, &r.Project, &r.Kind, &r.SubjectRunID, &r.Name, &r.Goal, &r.State, &r.Version, &r.EventSeq, &r.Labels, &r.Plan, &r.PlanDigest,
		&r.TraceID, &r.Traceparent, &r.CorrelationID, &r.HeadCheckpointID, &r.ParentRunID, &r.ParentCheckpointID, &r.RootRunID, &r.FailureClass, &r.FailureSignature, &r.Reason,
		&r.CreatedBy, &r.CreatedByName, &r.CreatedAt, &r.StartedAt, &r.FinishedAt, &r.Deadline, &r.PrunedSeq)
	return r, err
}

func oneRun(ctx context.Context, tx pgx.Tx, tenant, id uuid.UUID) (run.Run, error) {
	rows, err := tx.Query(ctx, "SELECT "+runColumns+" WHERE r.tenant_id = $1 AND r.id = $2 AND r.expired_at IS NULL", tenant, id)
	if err != nil {
		return run.Run{}, err
	}
	r, err := pgx.CollectExactlyOneRow(rows, scanRun)
	return r, missing(err, "run")
}

// missing names the noun that was not found.
func missing(err error, noun string) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return fault.New(fault.NotFound, "not-found", "no such %s", noun)
	}
	return err
}

// Run returns one run, or fault.NotFound.
func (db *DB) Run(ctx context.Context, tenant, id uuid.UUID) (r run.Run, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		r, err = oneRun(ctx, tx, tenant, id)
		return err
	})
	return r, err
}

// RunDetail is a run with its steps in plan order and its gates, as of one moment. Together
// with the events after Run.EventSeq it is complete, except that outputs and evidence are
// limited to 1 MiB each: those of the first steps and of the newest gates are included.
type RunDetail struct {
	Run   run.Run
	Steps []run.Step
	Gates []run.Gate
}

// RunDetail returns one run with all that a page shows, or fault.NotFound.
func (db *DB) RunDetail(ctx context.Context, tenant, id uuid.UUID) (d RunDetail, err error) {
	err = db.snapshot(ctx, tenant, func(tx pgx.Tx) error {
		d, err = runDetail(ctx, tx, tenant, id)
		return err
	})
	return d, err
}

func runDetail(ctx context.Context, tx pgx.Tx, tenant, id uuid.UUID) (d RunDetail, err error) {
	if d.Run, err = oneRun(ctx, tx, tenant, id); err != nil {
		return d, err
	}
	if d.Steps, err = stepsOfRun(ctx, tx, tenant, id, -1, run.MaxSteps+1); err != nil {
		return d, err
	}
	rows, err := tx.Query(ctx, "SELECT "+gateColumnsWith("sum(g.evidence_bytes) OVER (ORDER BY g.id DESC) <= $3")+" WHERE g.tenant_id = $1 AND g.run_id = $2 ORDER BY g.id", tenant, id, maxShown)
	if err != nil {
		return d, err
	}
	d.Gates, err = pgx.CollectRows(rows, scanGate)
	return d, err
}

// RunCounts counts the live runs of all tenants by state.
func (db *DB) RunCounts(ctx context.Context) (map[run.State]int64, error) {
	type count struct {
		State run.State
		N     int64
	}
	rows, err := across(ctx, db, pgx.RowToStructByPos[count], "SELECT state, n FROM nofx.run_counts()")
	counts := make(map[run.State]int64, len(rows))
	for _, c := range rows {
		counts[c.State] = c.N
	}
	return counts, err
}
