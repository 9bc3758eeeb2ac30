package postgres

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/trace"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/job"
	"nofx.dev/shared/run"
)

const stepColumns = `s.id, s.run_id, s.idx, s.name, s.tool, s.state, s.version, s.fence, s.attempt, s.max_attempts,
	ARRAY(SELECT n.name FROM nofx.step_dep d JOIN nofx.step n ON n.tenant_id = d.tenant_id AND n.id = d.needs
	      WHERE d.tenant_id = s.tenant_id AND d.step_id = s.id ORDER BY n.idx),
	coalesce(s.failure_class, ''), coalesce(s.reason, ''), s.outputs, s.ready_at, s.wait_until, s.started_at, s.finished_at
	FROM nofx.step s`

func scanStep(row pgx.CollectableRow) (s run.Step, err error) {
	err = row.Scan(&s.ID, &s.RunID, &s.Index, &s.Name, &s.Tool, &s.State, &s.Version, &s.Fence, &s.Attempt, &s.MaxAttempts,
		&s.DependsOn, &s.FailureClass, &s.Reason, &s.Outputs, &s.ReadyAt, &s.WaitUntil, &s.StartedAt, &s.FinishedAt)
	return s, err
}

func stepsOfRun(ctx context.Context, tx pgx.Tx, tenant, runID uuid.UUID, afterIndex, limit int) ([]run.Step, error) {
	rows, err := tx.Query(ctx, "SELECT "+stepColumns+`
		WHERE s.tenant_id = $1 AND s.run_id = $2 AND s.idx > $3 ORDER BY s.idx LIMIT $4`, tenant, runID, afterIndex, limit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scanStep)
}

// Steps lists the steps of a run in plan order, those after an index (-1: from
// the first). An unknown run is fault.NotFound.
func (db *DB) Steps(ctx context.Context, tenant, runID uuid.UUID, afterIndex, limit int) (list []run.Step, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		if _, err := oneRun(ctx, tx, tenant, runID); err != nil {
			return err
		}
		list, err = stepsOfRun(ctx, tx, tenant, runID, afterIndex, limit)
		return err
	})
	return list, err
}

// Step is one step with its attempts in order, or fault.NotFound.
func (db *DB) Step(ctx context.Context, tenant, id uuid.UUID) (s run.Step, attempts []run.Attempt, err error) {
	err = db.snapshot(ctx, tenant, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, "SELECT "+stepColumns+" WHERE s.tenant_id = $1 AND s.id = $2", tenant, id)
		if err != nil {
			return err
		}
		if s, err = pgx.CollectExactlyOneRow(rows, scanStep); err != nil {
			return missing(err, "step")
		}
		rows, err = tx.Query(ctx, "SELECT "+attemptColumns+" FROM nofx.attempt a WHERE a.tenant_id = $1 AND a.step_id = $2 ORDER BY a.fence", tenant, id)
		if err != nil {
			return err
		}
		attempts, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (a run.Attempt, err error) {
			err = row.Scan(attemptFields(&a)...)
			return a, err
		})
		return err
	})
	return s, attempts, err
}

// StepOutputs are the outputs of a step of a run by its name: an object, or nil
// where it has none. fault.NotFound for an unknown step.
func (db *DB) StepOutputs(ctx context.Context, tenant, runID uuid.UUID, name string) (outputs json.RawMessage, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		outputs = nil
		err := tx.QueryRow(ctx, "SELECT outputs FROM nofx.step WHERE tenant_id = $1 AND run_id = $2 AND name = $3", tenant, runID, name).Scan(&outputs)
		return missing(err, "step")
	})
	return outputs, err
}

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
	Traceparent  string     // the run's root context
	PlanDigest   string
	WaivedDigest string          // input digest of the gate waived last; "" when none is
	Parents      []Parent        // the checkpoints it starts from, in plan order
	Signal       json.RawMessage // the payload of the signal that the step took; nil before
}

// Parent is a checkpoint that a step starts from.
type Parent struct {
	ID          uuid.UUID
	Digest      string
	Generation  int
	TreeDigest  string
	StateDigest string
	State       []byte // nil: a blob of StateDigest
}

// Checkpoint is a checkpoint to be recorded. Its bytes are in storage already:
// those that were new are listed as blobs and objects.
type Checkpoint struct {
	ID          uuid.UUID
	Kind        run.CheckpointKind
	Generation  int
	Digest      string
	Manifest    []byte
	StateDigest string
	State       []byte // ≤ 64 KiB; nil: a blob of StateDigest
	TreeDigest  string
	Parents     []uuid.UUID
	BytesNew    int64
	Blobs       []Blob
	Objects     []Object
}

// Pre makes the checkpoint that a claimed step starts from. Where that needs no
// storage it is recorded with the claim; otherwise Pre returns nil and the worker
// records it with RecordCheckpoint. It is called again when its transaction is.
type Pre func(*Claim) (*Checkpoint, error)

// Wake asks for the step that a job wakes for.
type Wake struct {
	Job  job.Step
	Span trace.SpanContext // of the attempt to come
	Pre  Pre
}

// Claim is ClaimSteps for one step.
func (db *DB) Claim(ctx context.Context, wake Wake, w Worker, ttl time.Duration) (*Claim, error) {
	claims, err := db.ClaimSteps(ctx, []Wake{wake}, w, ttl)
	if err != nil {
		return nil, err
	}
	return claims[0], nil
}

// ClaimSteps takes steps of one tenant in one transaction, each under a new
// fence and a lease of ttl. In the order of wakes it returns the claims, nil
// where the wake-up is stale or the run takes no claims.
func (db *DB) ClaimSteps(ctx context.Context, wakes []Wake, w Worker, ttl time.Duration) ([]*Claim, error) {
	tenant := wakes[0].Job.TenantID
	items := make([]map[string]any, len(wakes))
	for i, wake := range wakes {
		items[i] = map[string]any{"step_id": wake.Job.StepID, "wake_seq": wake.Job.WakeSeq, "traceparent": spanParent(wake.Span),
			"trace_id": wake.Span.TraceID().String(), "span_id": wake.Span.SpanID().String()}
	}
	doc, err := document(items)
	if err != nil {
		return nil, err
	}
	var claims []*Claim
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		claims = make([]*Claim, len(wakes))
		rows, err := tx.Query(ctx, "SELECT ord, "+claimColumns+" FROM nofx.claim_steps($1, $2, $3, $4)", doc, w.ID, w.PID, ttl)
		if err != nil {
			return err
		}
		var ord int
		var c claimRow
		if _, err := pgx.ForEachRow(rows, append([]any{&ord}, c.fields()...), func() error {
			claims[ord] = c.claim(tenant)
			return nil
		}); err != nil {
			return err
		}
		if err := parents(ctx, tx, tenant, claims); err != nil {
			return err
		}
		return start(tx, claims, func(i int) (Pre, trace.SpanContext) { return wakes[i].Pre, wakes[i].Span })
	})
	if err != nil {
		return nil, err
	}
	return claims, nil
}

const claimColumns = `(claim).step_id, (claim).run_id, (claim).name, (claim).tool, (claim).spec, (claim).fence, (claim).attempt, (claim).max_attempts,
	(claim).lost_leases, (claim).ready_at, (claim).claimed_at, (claim).lost_at, (claim).traceparent, (claim).plan_digest, (claim).waived_digest, (claim).parents, (claim).signal`

// claimRow is a nofx.claimed, all of it NULL where nothing was claimed.
type claimRow struct {
	stepID, runID                    *uuid.UUID
	name, tool                       *string
	spec                             *run.Spec
	fence                            *int64
	attempt, maxAttempts, lostLeases *int
	readyAt, claimedAt, lostAt       *time.Time
	traceparent, planDigest, waived  *string
	parents                          *int
	signal                           json.RawMessage
}

func (r *claimRow) fields() []any {
	return []any{&r.stepID, &r.runID, &r.name, &r.tool, &r.spec, &r.fence, &r.attempt, &r.maxAttempts, &r.lostLeases,
		&r.readyAt, &r.claimedAt, &r.lostAt, &r.traceparent, &r.planDigest, &r.waived, &r.parents, &r.signal}
}

// claim is the row as a claim, whose parents are to be filled in, or nil.
func (r *claimRow) claim(tenant uuid.UUID) *Claim {
	if r.stepID == nil {
		return nil
	}
	c := &Claim{TenantID: tenant, RunID: *r.runID, StepID: *r.stepID, Name: *r.name, Tool: *r.tool, Spec: *r.spec, Fence: *r.fence,
		Attempt: *r.attempt, MaxAttempts: *r.maxAttempts, LostLeases: *r.lostLeases, ReadyAt: *r.readyAt, ClaimedAt: *r.claimedAt, LostAt: r.lostAt,
		Traceparent: *r.traceparent, PlanDigest: *r.planDigest, Parents: make([]Parent, *r.parents), Signal: r.signal}
	if r.waived != nil {
		c.WaivedDigest = *r.waived
	}
	return c
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

// start records the checkpoints that claims start from, as far as Pre makes them.
func start(tx pgx.Tx, claims []*Claim, of func(int) (Pre, trace.SpanContext)) error {
	var items []map[string]any
	for i, c := range claims {
		if c == nil {
			continue
		}
		pre, span := of(i)
		ck, err := pre(c)
		if err != nil {
			return err
		}
		if ck != nil {
			items = append(items, ck.item(c, span))
		}
	}
	return recordCheckpoints(tx, items)
}

// Finish is what one attempt came to.
type Finish struct {
	Claim        *Claim
	Span         trace.SpanContext // of the finish
	Outcome      string            // succeed, fail, retry, wait or interrupted
	Reason       string
	FailureClass run.FailureClass
	Delay        time.Duration // retry: until it is due
	ExitCode     *int
	Usage        run.Usage
	Outputs      json.RawMessage // an object, or nil
	Checkpoints  []*Checkpoint
	Artifacts    []run.Artifact
	Gate         *NewGate
	Wait         *NewWait
	Chain        *Chain // nil: successors are left to the queue
}

// Chain has a finish go on with a step that it readies: on Queue, for the same
// worker, in the same transaction.
type Chain struct {
	Queue string
	Span  trace.SpanContext // of the attempt to come
	Pre   Pre
}

// Finished is what became of a Finish.
type Finished struct {
	// Err is fault.Fenced where the lease was lost and nothing was written. An
	// attempt that had been recorded like this before is no error.
	Err   error
	Next  *Claim        // the step taken by Chain
	Ended run.State     // the run's, when this ended it
	After time.Duration // how long after its creation
}

// NewGate is a gate to open and, for a command gate, its verdict.
type NewGate struct {
	ID              uuid.UUID
	Name            string
	Kind            run.GateKind
	Message         string
	InputDigest     string
	ShownCheckpoint uuid.UUID
	ShownDigest     string
	Evidence        map[string]any
	Event           string // pass, fail or error; "" leaves it pending
	Reason          string
}

// NewWait says for what and for how long a step waits.
type NewWait struct {
	Kind   string // approval, timer or signal
	After  time.Duration
	Quorum int    // approval
	Key    string // signal
}

// FinishStep is FinishSteps for one attempt.
func (db *DB) FinishStep(ctx context.Context, f Finish, w Worker, ttl time.Duration) (Finished, error) {
	done, err := db.FinishSteps(ctx, []Finish{f}, w, ttl)
	if err != nil {
		return Finished{}, err
	}
	return done[0], done[0].Err
}

// FinishSteps records the results of attempts of one tenant in one transaction:
// checkpoints, artifacts, gates, states, events, successors and the jobs of those
// that no Chain took. It answers in the order of list; an error means that
// nothing of it was recorded.
//
// The job of an attempt is not completed here: it was only a wake-up, and one
// that comes again finds that its step has moved on.
func (db *DB) FinishSteps(ctx context.Context, list []Finish, w Worker, ttl time.Duration) ([]Finished, error) {
	tenant := list[0].Claim.TenantID
	order := make([]int, len(list))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		x, y := list[a].Claim, list[b].Claim
		return cmp.Or(bytes.Compare(x.RunID[:], y.RunID[:]), bytes.Compare(x.StepID[:], y.StepID[:]))
	})
	items := make([]map[string]any, len(list))
	for at, i := range order {
		items[at] = list[i].item()
	}
	doc, err := document(items)
	if err != nil {
		return nil, err
	}
	var done []Finished
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		done = make([]Finished, len(list))
		rows, err := tx.Query(ctx, "SELECT ord, answer, run_state, run_seconds, enqueue, "+claimColumns+" FROM nofx.finish_steps($1, $2, $3, $4)", doc, w.ID, w.PID, ttl)
		if err != nil {
			return err
		}
		var (
			at      int
			answer  string
			ended   *run.State
			seconds *float64
			enqueue bool
			c       claimRow
			readied []Finish
			stored  []*Checkpoint
			claims  = make([]*Claim, len(list))
		)
		if _, err := pgx.ForEachRow(rows, append([]any{&at, &answer, &ended, &seconds, &enqueue}, c.fields()...), func() error {
			i := order[at]
			f, d := list[i], &done[i]
			switch answer {
			case "fenced":
				d.Err = fault.New(fault.Fenced, "fenced", "step %s: fence %d is lost", f.Claim.StepID, f.Claim.Fence)
			case "ok":
				stored = append(stored, f.Checkpoints...)
			}
			if ended != nil {
				d.Ended, d.After = *ended, time.Duration(*seconds*float64(time.Second))
			}
			if enqueue {
				readied = append(readied, f)
			}
			d.Next = c.claim(tenant)
			claims[i] = d.Next
			if d.Next != nil && len(d.Next.Parents) == 1 {
				d.Next.Parents[0] = f.Checkpoints[len(f.Checkpoints)-1].parent() // it needs this step alone
			}
			return nil
		}); err != nil {
			return err
		}
		for _, ck := range stored {
			insertBlobs(tx, tenant, ck.Blobs, ck.Objects)
		}
		for _, f := range readied {
			if err := db.enqueueReady(trace.ContextWithSpanContext(ctx, f.Span), tx, tenant, f.Claim.RunID); err != nil {
				return err
			}
		}
		if err := parents(ctx, tx, tenant, claims); err != nil {
			return err
		}
		return start(tx, claims, func(i int) (Pre, trace.SpanContext) { return list[i].Chain.Pre, list[i].Chain.Span })
	})
	if err != nil {
		return nil, err
	}
	return done, nil
}

// item is f as nofx.finish_steps reads it.
func (f Finish) item() map[string]any {
	item := map[string]any{
		"run_id": f.Claim.RunID, "step_id": f.Claim.StepID, "fence": f.Claim.Fence, "traceparent": spanParent(f.Span), "outcome": f.Outcome,
	}
	if f.Reason != "" {
		item["reason"] = clip(f.Reason)
	}
	if f.FailureClass != "" {
		item["failure_class"] = f.FailureClass
	}
	if f.Outcome == "retry" {
		item["delay_s"] = f.Delay.Seconds()
	}
	if f.ExitCode != nil {
		item["exit_code"] = f.ExitCode
	}
	if f.Usage != (run.Usage{}) {
		item["usage"] = f.Usage
	}
	if f.Outputs != nil {
		item["outputs"] = f.Outputs
	}
	if f.Checkpoints != nil {
		checkpoints := make([]map[string]any, len(f.Checkpoints))
		for i, c := range f.Checkpoints {
			checkpoints[i] = c.document()
		}
		item["checkpoints"] = checkpoints
	}
	if f.Artifacts != nil {
		artifacts := make([]map[string]any, len(f.Artifacts))
		for i, a := range f.Artifacts {
			artifacts[i] = map[string]any{"id": a.ID, "name": a.Name, "key": a.Key, "media_type": a.MediaType,
				"size_bytes": a.Size, "sha256": hex.EncodeToString(a.SHA256)}
		}
		item["artifacts"] = artifacts
	}
	if g := f.Gate; g != nil {
		gate := map[string]any{"id": g.ID, "name": g.Name, "kind": g.Kind, "message": nullable(g.Message), "input_digest": g.InputDigest,
			"shown_checkpoint_id": g.ShownCheckpoint, "shown_digest": g.ShownDigest, "reason": nullable(clip(g.Reason))}
		if g.Evidence != nil {
			gate["evidence"] = g.Evidence
		}
		if g.Event != "" {
			gate["event"] = g.Event
		}
		item["gate"] = gate
	}
	if w := f.Wait; w != nil {
		wait := map[string]any{"kind": w.Kind, "after_s": w.After.Seconds(), "quorum": max(w.Quorum, 1)}
		if w.Key != "" {
			wait["key"] = w.Key
		}
		item["wait"] = wait
	}
	if c := f.Chain; c != nil {
		item["chain"] = map[string]any{"queue": c.Queue, "trace_id": c.Span.TraceID().String(), "span_id": c.Span.SpanID().String()}
	}
	return item
}

func (c *Checkpoint) document() map[string]any {
	doc := map[string]any{"id": c.ID, "kind": c.Kind, "generation": c.Generation, "digest": c.Digest,
		"manifest": base64.StdEncoding.EncodeToString(c.Manifest), "state_digest": c.StateDigest,
		"tree_digest": c.TreeDigest, "bytes_new": c.BytesNew}
	if len(c.Parents) > 0 {
		doc["parents"] = c.Parents
	}
	if c.State != nil {
		doc["state_inline"] = base64.StdEncoding.EncodeToString(c.State)
	}
	return doc
}

// item is c as nofx.record_checkpoints reads it.
func (c *Checkpoint) item(of *Claim, span trace.SpanContext) map[string]any {
	return map[string]any{"run_id": of.RunID, "step_id": of.StepID, "fence": of.Fence, "traceparent": spanParent(span), "checkpoint": c.document()}
}

// parent is c as a checkpoint that a step starts from.
func (c *Checkpoint) parent() Parent {
	return Parent{ID: c.ID, Digest: c.Digest, Generation: c.Generation, TreeDigest: c.TreeDigest, StateDigest: c.StateDigest, State: c.State}
}

// clip makes a reason fit its column, whatever a tool wrote: valid UTF-8 without
// NUL, of at most run.MaxReasonBytes.
func clip(s string) string {
	const mark = "…"
	s = strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", ""), "\uFFFD")
	if len(s) <= run.MaxReasonBytes {
		return s
	}
	cut := run.MaxReasonBytes - len(mark)
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + mark
}
