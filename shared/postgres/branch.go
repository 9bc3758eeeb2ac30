package postgres

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/trace"

	"nofx.dev/shared/run"
)

// Fork is what a branch begins from: a run with a checkpoint of it, and the steps of the
// run that have succeeded.
type Fork struct {
	Run        run.Run
	Checkpoint run.Checkpoint
	State      []byte     // of the checkpoint; nil: a blob of its StateDigest
	Stored     bool       // the root of its tree is stored, as far as is known
	Start      *uuid.UUID // the newest edit or merge up to there, which stands for all that is older
	Steps      []ForkStep
}

// ForkStep is a step that has succeeded.
type ForkStep struct {
	ID   uuid.UUID // of the step that ran
	Name string
	Head *uuid.UUID // the checkpoint that its successors start from
}

// Fork returns the place of a run at which a branch begins. An unknown run, and a
// checkpoint that is not of this run, are fault.NotFound; that at which a branch itself
// began counts as its own, unless the branch edited it.
func (db *DB) Fork(ctx context.Context, tenant, runID, checkpointID uuid.UUID) (f Fork, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		f = Fork{}
		if f.Run, err = oneRun(ctx, tx, tenant, runID); err != nil {
			return err
		}
		err := tx.QueryRow(ctx, "SELECT "+checkpointColumns+`, c.state_inline,
			EXISTS (SELECT FROM nofx.blob b WHERE b.tenant_id = c.tenant_id AND b.sha256 = decode(substr(c.tree_digest, 8), 'hex') AND b.state = 'live'),
			nofx.start_at($1, $2, c.id)
			FROM nofx.checkpoint c WHERE c.tenant_id = $1 AND c.id = $3 AND (c.run_id = $2 OR EXISTS (
				SELECT FROM nofx.run b WHERE b.tenant_id = $1 AND b.id = $2 AND b.parent_checkpoint_id = c.id
				AND NOT EXISTS (SELECT FROM nofx.branch_edit e WHERE e.tenant_id = $1 AND e.run_id = b.id)
				AND NOT EXISTS (SELECT FROM nofx.checkpoint e WHERE e.tenant_id = $1 AND e.run_id = b.id AND e.kind = 'edit')))`, tenant, runID, checkpointID).
			Scan(append(checkpointFields(&f.Checkpoint), &f.State, &f.Stored, &f.Start)...)
		if err != nil {
			return missing(err, "checkpoint")
		}
		rows, err := tx.Query(ctx, `SELECT coalesce(s.restored_from, s.id), s.name, nofx.head_after($1, $3, s.head_checkpoint_id) FROM nofx.step s
			WHERE s.tenant_id = $1 AND s.run_id = $2 AND s.state = 'succeeded' ORDER BY s.idx`, tenant, runID, f.Start)
		if err != nil {
			return err
		}
		f.Steps, err = pgx.CollectRows(rows, pgx.RowToStructByPos[ForkStep])
		return err
	})
	return f, err
}

// NewBranch is a branch to be made.
type NewBranch struct {
	Span          trace.SpanContext // of its making: the branch belongs to this trace
	Parent        run.Run
	Checkpoint    uuid.UUID
	Name          string
	Plan          run.Plan // normalised
	Steps         []run.BranchStep
	Outputs       map[string]json.RawMessage // of restored steps: those that were edited
	Edit          *run.BranchEdit            // of state and files, which the worker of the first step makes
	Bases         []uuid.UUID                // the checkpoints that are edited, together
	ReuseEffects  bool
	CorrelationID string
	CreatedBy     string
}

// CreateBranches inserts branches with their steps and the jobs of those that are ready,
// all of them or none. An unknown parent is fault.NotFound, one with too many branches
// fault.Conflict (branch-limit); a plan that names artifacts which cannot be read, secrets that there are not, or hosts that
// are not granted, is fault.Invalid.
func (db *DB) CreateBranches(ctx context.Context, tenant uuid.UUID, list []NewBranch) ([]run.Run, error) {
	drafts := make([]*draftRun, len(list))
	for i, b := range list {
		var err error
		if drafts[i], err = b.draft(ctx, tenant); err != nil {
			return nil, err
		}
	}
	runs := make([]run.Run, len(list))
	err := db.tx(ctx, tenant, func(tx pgx.Tx) error {
		for i, d := range drafts {
			if err := checkPlan(ctx, tx, tenant, list[i].Plan); err != nil {
				return err
			}
			if err := db.insertRun(ctx, tx, d); err != nil {
				return err
			}
			runs[i] = d.run
		}
		return nil
	})
	return runs, err
}

// draft returns the branch as it is before the database has it.
func (b NewBranch) draft(ctx context.Context, tenant uuid.UUID) (*draftRun, error) {
	ctx = trace.ContextWithSpanContext(ctx, b.Span)
	n := NewRun{Project: b.Parent.Project, Plan: b.Plan, CorrelationID: b.CorrelationID, CreatedBy: b.CreatedBy, steps: b.Plan.Expanded()}
	d := &draftRun{create: "nofx.create_branch"}
	var err error
	if d.run, d.steps, err = n.nouns(ctx, tenant); err != nil {
		return nil, err
	}
	r := &d.run
	r.Name, r.ParentRunID, r.ParentCheckpointID, r.RootRunID = b.Name, &b.Parent.ID, &b.Checkpoint, b.Parent.RootRunID
	r.HeadCheckpointID = &b.Checkpoint
	restored := make(map[string]bool, len(b.Steps))
	for i, s := range b.Steps {
		d.steps[i].DependsOn = s.Needs
		restored[s.Name] = s.Restored
	}
	header := n.header(d.run)
	header["name"], header["parent_run_id"], header["parent_checkpoint_id"] = nullable(b.Name), b.Parent.ID, b.Checkpoint
	header["reuse_effects"] = b.ReuseEffects
	if b.Edit != nil {
		if header["edit"], err = document(b.Edit); err != nil {
			return nil, err
		}
		header["bases"] = b.Bases
	}
	rows := n.rows(d.steps)
	d.ready = make([]bool, len(rows))
	for i, s := range b.Steps {
		rows[i]["waits"] = len(slices.DeleteFunc(slices.Clone(s.Needs), func(name string) bool { return restored[name] }))
		d.ready[i] = !s.Restored && rows[i]["waits"] == 0
		if s.Restored {
			d.steps[i].State = run.Succeeded
			rows[i]["restored"], rows[i]["spec"] = true, map[string]any{} // it is not claimed
			if outputs, edited := b.Outputs[s.Name]; edited {
				rows[i]["outputs"] = outputs
			}
		}
	}
	if d.header, err = document(header); err == nil {
		d.rows, err = document(rows)
	}
	return d, err
}

// BranchEdit returns the edits of a claim's branch that are to be made, and the checkpoints
// to make them of, or fault.NotFound once they were made.
func (db *DB) BranchEdit(ctx context.Context, c *Claim) (e run.BranchEdit, bases []Parent, err error) {
	err = db.tx(ctx, c.TenantID, func(tx pgx.Tx) error {
		e = run.BranchEdit{}
		var doc string
		err := tx.QueryRow(ctx, "SELECT e.doc FROM nofx.branch_edit e WHERE e.tenant_id = $1 AND e.run_id = $2", c.TenantID, c.RunID).Scan(&doc)
		if err != nil {
			return missing(err, "edit")
		}
		if err := json.Unmarshal([]byte(doc), &e); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, "SELECT "+parentColumns+` FROM nofx.branch_edit e, unnest(e.bases) WITH ORDINALITY AS b (id, ord),
			LATERAL (SELECT x.* FROM nofx.checkpoint x WHERE x.tenant_id = $1 AND x.id = b.id OFFSET 0) AS c
			WHERE e.tenant_id = $1 AND e.run_id = $2 ORDER BY b.ord`, c.TenantID, c.RunID)
		if err != nil {
			return err
		}
		bases, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Parent])
		return err
	})
	return e, bases, err
}

// RecordEdit records the checkpoint of the edits of a claim's branch, unless another
// attempt has done so, and sets the claim's parents to the checkpoints that its step starts
// from now. fault.Fenced means that the lease is lost.
func (db *DB) RecordEdit(ctx context.Context, c *Claim, ck *Checkpoint) error {
	doc, err := document(ck.document())
	if err != nil {
		return err
	}
	return db.tx(ctx, c.TenantID, func(tx pgx.Tx) error {
		var first bool
		if err := tx.QueryRow(ctx, "SELECT nofx.record_edit($1, $2, $3)", c.StepID, c.Fence, doc).Scan(&first); err != nil {
			return err
		}
		if first {
			insertBlobs(tx, c.TenantID, ck.Blobs, ck.Objects)
		}
		return startAgain(ctx, tx, c)
	})
}

// StartAgain sets a claim's parents to the checkpoints that its step starts from now.
func (db *DB) StartAgain(ctx context.Context, c *Claim) error {
	return db.tx(ctx, c.TenantID, func(tx pgx.Tx) error { return startAgain(ctx, tx, c) })
}

func startAgain(ctx context.Context, tx pgx.Tx, c *Claim) error {
	c.Parents = make([]Parent, 1)
	return parents(ctx, tx, c.TenantID, []*Claim{c})
}

// Past is what steps of a run have done and used.
type Past struct {
	Steps   int // that have run
	Usage   run.Usage
	Effects []PastEffect
}

// PastEffect is an effect that a step has done.
type PastEffect struct {
	Step   string
	Name   string
	DoneAt time.Time
}

// PastOf returns what the steps of these names have done and used in a run; those that are
// restored, where they ran. Of usage it is what the last attempt of each used.
func (db *DB) PastOf(ctx context.Context, tenant, runID uuid.UUID, names []string) (p Past, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		p = Past{}
		rows, err := tx.Query(ctx, `SELECT a.usage FROM nofx.step s, LATERAL (
				SELECT t.usage FROM nofx.attempt t WHERE t.tenant_id = $1 AND t.step_id = coalesce(s.restored_from, s.id) AND t.ended_at IS NOT NULL ORDER BY t.fence DESC LIMIT 1) AS a
			WHERE s.tenant_id = $1 AND s.run_id = $2 AND s.name = ANY ($3)`, tenant, runID, names)
		if err != nil {
			return err
		}
		var u run.Usage
		if _, err := pgx.ForEachRow(rows, []any{&u}, func() error {
			p.Steps++
			p.Usage.RunMillis += u.RunMillis
			p.Usage.InputTokens += u.InputTokens
			p.Usage.OutputTokens += u.OutputTokens
			p.Usage.CostUSD += u.CostUSD
			u = run.Usage{}
			return nil
		}); err != nil {
			return err
		}
		rows, err = tx.Query(ctx, `SELECT e.step_name, e.name, e.done_at FROM nofx.step s, LATERAL (
				SELECT z.run_id FROM nofx.step z WHERE z.tenant_id = $1 AND z.id = coalesce(s.restored_from, s.id) OFFSET 0) AS o, LATERAL (
				SELECT x.step_name, x.name, x.done_at FROM nofx.step_effect x WHERE x.run_id = o.run_id AND x.tenant_id = $1 AND x.step_name = s.name AND x.state = 'done' OFFSET 0) AS e
			WHERE s.tenant_id = $1 AND s.run_id = $2 AND s.name = ANY ($3) ORDER BY s.idx, e.done_at`, tenant, runID, names)
		if err != nil {
			return err
		}
		p.Effects, err = pgx.CollectRows(rows, pgx.RowToStructByPos[PastEffect])
		return err
	})
	return p, err
}
