package postgres

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"
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
		rows, err = tx.Query(ctx, `
			SELECT fence, owner, owner_pid, started_at, ended_at, accepted, coalesce(outcome, ''), exit_code, usage, trace_id, span_id
			FROM nofx.attempt WHERE tenant_id = $1 AND step_id = $2 ORDER BY fence`, tenant, id)
		if err != nil {
			return err
		}
		attempts, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (a run.Attempt, err error) {
			err = row.Scan(&a.Fence, &a.Owner, &a.OwnerPID, &a.StartedAt, &a.EndedAt, &a.Accepted, &a.Outcome, &a.ExitCode, &a.Usage, &a.TraceID, &a.SpanID)
			return a, err
		})
		return err
	})
	return s, attempts, err
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
	WaivedDigest string   // input digest of the gate waived last; "" when none is
	Parents      []Parent // the checkpoints it starts from, in plan order
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

// Claim takes the step that j wakes for, under a new fence and a lease of ttl.
// It returns nil when the wake-up is stale or the run takes no claims. pre makes
// the checkpoint that the step starts from; where that needs no storage it is
// recorded in the same transaction, else pre returns nil and the worker records
// it with RecordCheckpoint; it is called again when the transaction is. ctx's
// span is the attempt's.
func (db *DB) Claim(ctx context.Context, j job.Step, w Worker, ttl time.Duration, pre func(*Claim) (*Checkpoint, error)) (*Claim, error) {
	sc := trace.SpanContextFromContext(ctx)
	var claim *Claim
	err := db.tx(ctx, j.TenantID, func(tx pgx.Tx) error {
		c := Claim{TenantID: j.TenantID, StepID: j.StepID}
		claim = nil
		batch := &pgx.Batch{}
		batch.Queue(`SELECT run_id, name, tool, spec, fence, attempt, max_attempts, lost_leases, ready_at, claimed_at, lost_at, traceparent, plan_digest, coalesce(waived_digest, '')
			FROM nofx.claim_step($1, $2, $3, $4, $5, $6, $7)`,
			j.StepID, j.WakeSeq, w.ID, w.PID, ttl, sc.TraceID().String(), sc.SpanID().String())
		batch.Queue(`SELECT c.id, c.digest, c.generation, c.tree_digest, c.state_digest, c.state_inline
			FROM nofx.step_dep d JOIN nofx.step n ON n.tenant_id = d.tenant_id AND n.id = d.needs
			JOIN nofx.checkpoint c ON c.tenant_id = n.tenant_id AND c.id = n.head_checkpoint_id
			WHERE d.tenant_id = $1 AND d.step_id = $2 ORDER BY n.idx`, j.TenantID, j.StepID)
		if err := c.scan(tx.SendBatch(ctx, batch)); err != nil {
			if errors.Is(err, pgx.ErrNoRows) {
				return nil // stale
			}
			return err
		}
		if ck, err := pre(&c); err != nil {
			return err
		} else if ck != nil {
			if err := recordCheckpoint(ctx, tx, c.TenantID, c.StepID, c.Fence, ck); err != nil {
				return err
			}
		}
		claim = &c
		return nil
	})
	return claim, err
}

func (c *Claim) scan(results pgx.BatchResults) (err error) {
	defer func() {
		if closeErr := results.Close(); err == nil {
			err = closeErr
		}
	}()
	err = results.QueryRow().Scan(&c.RunID, &c.Name, &c.Tool, &c.Spec, &c.Fence, &c.Attempt, &c.MaxAttempts, &c.LostLeases,
		&c.ReadyAt, &c.ClaimedAt, &c.LostAt, &c.Traceparent, &c.PlanDigest, &c.WaivedDigest)
	if err != nil {
		return err
	}
	rows, err := results.Query()
	if err != nil {
		return err
	}
	c.Parents, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (p Parent, err error) {
		err = row.Scan(&p.ID, &p.Digest, &p.Generation, &p.TreeDigest, &p.StateDigest, &p.State)
		return p, err
	})
	return err
}

// Finish is what one attempt came to.
type Finish struct {
	Claim        *Claim
	Outcome      string // succeed, fail, retry, wait or interrupted
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
	Job          *river.Job[job.Step] // completed with it; nil when there is none

	// RunEnded is told, after the commit, that this ended the run, and how long
	// after its creation. It may be nil.
	RunEnded func(s run.State, after time.Duration)
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
	Kind   string // approval or timer
	After  time.Duration
	Quorum int
}

// FinishStep records the result of an attempt in one transaction: checkpoints,
// artifacts, gate, state, events, successors and their jobs, and the completion
// of its own job. fault.Fenced means that the lease was lost and nothing was
// written; an attempt already recorded like this is no error.
func (db *DB) FinishStep(ctx context.Context, f Finish) error {
	doc, err := f.document()
	if err != nil {
		return err
	}
	c := f.Claim
	var ended *run.State
	var seconds *float64
	err = db.tx(ctx, c.TenantID, func(tx pgx.Tx) error {
		for _, ck := range f.Checkpoints {
			if err := insertBlobs(ctx, tx, c.TenantID, ck.Blobs, ck.Objects); err != nil {
				return err
			}
		}
		var answer string
		if err := tx.QueryRow(ctx, "SELECT answer, run_state, run_seconds FROM nofx.finish_step($1)", doc).Scan(&answer, &ended, &seconds); err != nil {
			return err
		}
		switch answer {
		case "fenced":
			return fault.New(fault.Fenced, "fenced", "step %s: fence %d is lost", c.StepID, c.Fence)
		case "ok":
			if err := db.enqueueReady(ctx, tx, c.TenantID, c.RunID); err != nil {
				return err
			}
		}
		if f.Job == nil {
			return nil
		}
		// A job that is gone was only a wake-up; the step's row is the truth.
		if _, err := river.JobCompleteTx[*riverpgxv5.Driver](ctx, tx, f.Job); err != nil && !errors.Is(err, rivertype.ErrNotFound) {
			return fmt.Errorf("complete job %d: %w", f.Job.ID, err)
		}
		return nil
	})
	if err == nil && ended != nil && f.RunEnded != nil {
		f.RunEnded(*ended, time.Duration(*seconds*float64(time.Second)))
	}
	return err
}

// document is f as nofx.finish_step reads it.
func (f Finish) document() (string, error) {
	checkpoints := make([]map[string]any, len(f.Checkpoints))
	for i, c := range f.Checkpoints {
		checkpoints[i] = c.document()
	}
	artifacts := make([]map[string]any, len(f.Artifacts))
	for i, a := range f.Artifacts {
		artifacts[i] = map[string]any{"id": a.ID, "name": a.Name, "key": a.Key, "media_type": a.MediaType,
			"size_bytes": a.Size, "sha256": hex.EncodeToString(a.SHA256)}
	}
	doc := map[string]any{
		"step_id": f.Claim.StepID, "fence": f.Claim.Fence, "outcome": f.Outcome,
		"reason": nullable(clip(f.Reason)), "failure_class": nullable(string(f.FailureClass)),
		"delay_s": f.Delay.Seconds(), "exit_code": f.ExitCode, "usage": f.Usage,
		"checkpoints": checkpoints, "artifacts": artifacts,
	}
	if f.Outputs != nil {
		doc["outputs"] = f.Outputs
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
		doc["gate"] = gate
	}
	if w := f.Wait; w != nil {
		doc["wait"] = map[string]any{"kind": w.Kind, "after_s": w.After.Seconds(), "quorum": max(w.Quorum, 1)}
	}
	return document(doc)
}

func (c *Checkpoint) document() map[string]any {
	doc := map[string]any{"id": c.ID, "kind": c.Kind, "generation": c.Generation, "digest": c.Digest,
		"manifest": base64.StdEncoding.EncodeToString(c.Manifest), "state_digest": c.StateDigest,
		"tree_digest": c.TreeDigest, "bytes_new": c.BytesNew, "parents": c.Parents}
	if c.Parents == nil {
		doc["parents"] = []uuid.UUID{}
	}
	if c.State != nil {
		doc["state_inline"] = base64.StdEncoding.EncodeToString(c.State)
	}
	return doc
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
