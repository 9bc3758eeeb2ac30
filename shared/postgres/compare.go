package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/run"
)

// CompareRuns returns what runs came to, of one moment, in the order in which they are
// given. An unknown run is fault.NotFound; runs that have neither the plan nor their origin
// in common are fault.Invalid (not-comparable).
func (db *DB) CompareRuns(ctx context.Context, tenant uuid.UUID, ids []uuid.UUID) (c run.Comparison, err error) {
	err = db.snapshot(ctx, tenant, func(tx pgx.Tx) error {
		c = run.Comparison{}
		of := make(map[uuid.UUID]*run.Compared, len(ids))
		c.Runs = make([]run.Compared, len(ids))
		for i, id := range ids {
			r, err := oneRun(ctx, tx, tenant, id)
			if err != nil {
				return err
			}
			c.Runs[i].Run, of[id] = r, &c.Runs[i]
			if first := c.Runs[0].Run; r.RootRunID != first.RootRunID && r.PlanDigest != first.PlanDigest {
				return fault.New(fault.Invalid, "not-comparable", "run %s has another plan than run %s and does not come from the same run", run.RunID.Format(id), run.RunID.Format(first.ID))
			}
		}
		if err := comparedSteps(ctx, tx, tenant, ids, of); err != nil {
			return err
		}
		if err := comparedUse(ctx, tx, tenant, ids, of); err != nil {
			return err
		}
		if err := comparedGates(ctx, tx, tenant, ids, of); err != nil {
			return err
		}
		if c.Common, err = commonCheckpoint(ctx, tx, tenant, c.Runs); err != nil || c.Common == nil {
			return err
		}
		return comparedDiffs(ctx, tx, tenant, *c.Common, c.Runs)
	})
	return c, err
}

func comparedSteps(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, ids []uuid.UUID, of map[uuid.UUID]*run.Compared) error {
	rows, err := tx.Query(ctx, `SELECT s.run_id, s.name, s.state, s.restored_from IS NOT NULL, coalesce(md5((`+outputsColumn+`)::text), ''),
			coalesce((SELECT k.tree_digest FROM nofx.checkpoint k WHERE k.tenant_id = $1 AND k.id = o.head_checkpoint_id), '')
		FROM unnest($2::uuid[]) AS q (id), LATERAL (SELECT z.* FROM nofx.step z WHERE z.tenant_id = $1 AND z.run_id = q.id OFFSET 0) AS s,
			LATERAL (SELECT y.head_checkpoint_id FROM nofx.step y WHERE y.tenant_id = $1 AND y.id = coalesce(s.restored_from, s.id) OFFSET 0) AS o
		ORDER BY s.run_id, s.idx`, tenant, ids)
	if err != nil {
		return err
	}
	var id uuid.UUID
	var s run.ComparedStep
	_, err = pgx.ForEachRow(rows, []any{&id, &s.Name, &s.State, &s.Restored, &s.Outputs, &s.Tree}, func() error {
		of[id].Steps = append(of[id].Steps, s)
		return nil
	})
	return err
}

// comparedUse reads what the attempts of runs used, and for how long the runs were running.
func comparedUse(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, ids []uuid.UUID, of map[uuid.UUID]*run.Compared) error {
	rows, err := tx.Query(ctx, `SELECT q.id, a.usage FROM unnest($2::uuid[]) AS q (id),
			LATERAL (SELECT z.id FROM nofx.step z WHERE z.tenant_id = $1 AND z.run_id = q.id AND z.fence > 0 OFFSET 0) AS s,
			LATERAL (SELECT t.usage FROM nofx.attempt t WHERE t.tenant_id = $1 AND t.step_id = s.id OFFSET 0) AS a`, tenant, ids)
	if err != nil {
		return err
	}
	var id uuid.UUID
	var u run.Usage
	if _, err := pgx.ForEachRow(rows, []any{&id, &u}, func() error {
		c := of[id]
		c.Attempts++
		c.Usage.RunMillis += u.RunMillis
		c.Usage.InputTokens += u.InputTokens
		c.Usage.OutputTokens += u.OutputTokens
		c.Usage.CostUSD += u.CostUSD
		u = run.Usage{}
		return nil
	}); err != nil {
		return err
	}
	rows, err = tx.Query(ctx, `SELECT q.id, e.active FROM unnest($2::uuid[]) AS q (id), LATERAL (
			SELECT sum(extract(epoch FROM coalesce(x.until, now()) - x.at)) FILTER (WHERE x.to_state = 'running')::float8 AS active FROM (
				SELECT v.to_state, v.at, lead(v.at) OVER (ORDER BY v.seq) AS until FROM nofx.event v
				WHERE v.tenant_id = $1 AND v.run_id = q.id AND v.step_id IS NULL AND v.event IS NOT NULL AND v.type = 'run.' || v.to_state) AS x) AS e`, tenant, ids)
	if err != nil {
		return err
	}
	var active *float64
	_, err = pgx.ForEachRow(rows, []any{&id, &active}, func() error {
		if c := of[id]; active != nil && c.Run.PrunedSeq == nil {
			d := time.Duration(*active * float64(time.Second))
			c.Active = &d
		}
		return nil
	})
	return err
}

func comparedGates(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, ids []uuid.UUID, of map[uuid.UUID]*run.Compared) error {
	rows, err := tx.Query(ctx, `SELECT q.id, s.name, g.name, g.state, g.round FROM unnest($2::uuid[]) AS q (id), LATERAL (
			SELECT DISTINCT ON (y.step_id) y.step_id, y.name, y.state, y.round FROM nofx.gate y
			WHERE y.tenant_id = $1 AND y.run_id = q.id ORDER BY y.step_id, y.round DESC) AS g,
			LATERAL (SELECT z.name, z.idx FROM nofx.step z WHERE z.tenant_id = $1 AND z.id = g.step_id OFFSET 0) AS s
		ORDER BY q.id, s.idx`, tenant, ids)
	if err != nil {
		return err
	}
	var id uuid.UUID
	var g run.ComparedGate
	_, err = pgx.ForEachRow(rows, []any{&id, &g.Step, &g.Name, &g.State, &g.Round}, func() error {
		of[id].Gates = append(of[id].Gates, g)
		return nil
	})
	return err
}

// commonCheckpoint returns the newest checkpoint that the heads of all runs come from,
// themselves included; nil if there is none.
func commonCheckpoint(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, runs []run.Compared) (*uuid.UUID, error) {
	var heads []uuid.UUID
	for _, c := range runs {
		if c.Run.HeadCheckpointID == nil || c.Run.RootRunID != runs[0].Run.RootRunID {
			return nil, nil
		}
		heads = append(heads, *c.Run.HeadCheckpointID)
	}
	var id *uuid.UUID
	err := tx.QueryRow(ctx, `WITH RECURSIVE line (run, id) AS (
			SELECT n, h FROM unnest($2::uuid[]) WITH ORDINALITY AS x (h, n)
			UNION
			SELECT l.run, p.parent_id FROM line l, LATERAL (
				SELECT y.parent_id FROM nofx.checkpoint_parent y WHERE y.tenant_id = $1 AND y.checkpoint_id = l.id OFFSET 0) AS p
		), shared AS (
			SELECT l.id FROM line l GROUP BY l.id HAVING count(*) = cardinality($2)
		)
		SELECT (SELECT s.id FROM shared s, LATERAL (SELECT k.generation FROM nofx.checkpoint k WHERE k.tenant_id = $1 AND k.id = s.id OFFSET 0) AS c
			ORDER BY c.generation DESC, s.id DESC LIMIT 1)`, tenant, heads).Scan(&id)
	if err != nil {
		return nil, fmt.Errorf("common checkpoint: %w", err)
	}
	return id, nil
}

// comparedDiffs reads the sizes of stored diffs against the common checkpoint.
func comparedDiffs(ctx context.Context, tx pgx.Tx, tenant, common uuid.UUID, runs []run.Compared) error {
	for i := range runs {
		head, d := *runs[i].Run.HeadCheckpointID, run.DiffSize{}
		if head == common {
			runs[i].Diff = &d
			continue
		}
		err := tx.QueryRow(ctx, `SELECT d.files, d.lines_added, d.lines_deleted FROM nofx.diff d
			WHERE d.tenant_id = $1 AND d.to_id = $2 AND d.from_id = $3 AND d.options = $4 AND d.state = 'stored'`,
			tenant, head, common, run.DiffInputs{}.Options()).Scan(&d.Files, &d.LinesAdded, &d.LinesDeleted)
		if errors.Is(err, pgx.ErrNoRows) {
			continue
		}
		if err != nil {
			return err
		}
		runs[i].Diff = &d
	}
	return nil
}

// Lineage returns the runs of a run's line, at most limit of them, or fault.NotFound.
func (db *DB) Lineage(ctx context.Context, tenant, id uuid.UUID, limit int) (l run.Lineage, err error) {
	err = db.snapshot(ctx, tenant, func(tx pgx.Tx) error {
		l = run.Lineage{}
		if err := missing(tx.QueryRow(ctx, "SELECT root_run_id FROM nofx.run WHERE tenant_id = $1 AND id = $2 AND kind = 'plan'", tenant, id).Scan(&l.Root), "run"); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `SELECT r.id, coalesce(r.name, ''), r.goal, r.state, r.parent_run_id, r.parent_checkpoint_id, r.created_by, r.created_at, r.finished_at FROM (
				SELECT a.* FROM nofx.run a WHERE a.tenant_id = $1 AND a.id = $2
				UNION ALL
				(SELECT b.* FROM nofx.run b WHERE b.tenant_id = $1 AND b.root_run_id = $2 AND b.parent_run_id IS NOT NULL ORDER BY b.id LIMIT $3)
			) AS r ORDER BY r.id LIMIT $3`, tenant, l.Root, limit+1)
		if err != nil {
			return err
		}
		l.Runs, err = pgx.CollectRows(rows, pgx.RowToStructByPos[run.LineRun])
		if err != nil {
			return err
		}
		if len(l.Runs) > limit {
			l.Runs, l.Truncated = l.Runs[:limit], true
		}
		ids := make([]uuid.UUID, len(l.Runs))
		for i, r := range l.Runs {
			ids[i] = r.ID
		}
		if rows, err = tx.Query(ctx, `SELECT m.source_run_id, m.target_run_id, m.committed_checkpoint_id FROM nofx.merge m
			WHERE m.tenant_id = $1 AND m.target_run_id = ANY ($2) AND m.committed_checkpoint_id <> m.target_head -- there was something to merge
			ORDER BY m.id`, tenant, ids); err != nil {
			return err
		}
		l.Merges, err = pgx.CollectRows(rows, pgx.RowToStructByPos[run.LineMerge])
		return err
	})
	return l, err
}
