package postgres

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"nofx.dev/shared/run"
)

// gateColumns are the columns of scanGate.
var gateColumns = gateColumnsWith("true")

// gateColumnsWith returns gateColumns with the evidence only of gates for which a condition
// holds.
func gateColumnsWith(shown string) string {
	return `g.id, g.run_id, g.step_id,
	coalesce((SELECT s.name FROM nofx.step s WHERE s.tenant_id = g.tenant_id AND s.id = g.step_id), ''), g.round, g.name, g.kind, g.state, g.version, coalesce(g.message, ''), g.input_digest,
	g.shown_checkpoint_id, coalesce(g.shown_digest, ''), CASE WHEN ` + shown + ` THEN g.evidence END, g.evidence IS NOT NULL AND NOT (` + shown + `), g.expires_at, coalesce(g.decided_by, ''), coalesce(nofx.subject_name(g.tenant_id, g.decided_by), ''), g.decided_at,
	coalesce(g.reason, ''), g.created_at,
	coalesce((SELECT w.quorum FROM nofx.wait w WHERE w.tenant_id = g.tenant_id AND w.step_id = g.step_id AND w.round = g.round AND g.kind = 'manual'), 0),
	(SELECT jsonb_agg(jsonb_build_object('by', a.subject, 'by_name', nofx.subject_name(a.tenant_id, a.subject), 'decision', a.decision, 'reason', a.reason, 'at', a.at) ORDER BY a.at)
	 FROM nofx.approval a WHERE a.tenant_id = g.tenant_id AND a.gate_id = g.id)
	FROM nofx.gate g`
}

func scanGate(row pgx.CollectableRow) (g run.Gate, err error) {
	err = row.Scan(&g.ID, &g.RunID, &g.StepID, &g.StepName, &g.Round, &g.Name, &g.Kind, &g.State, &g.Version, &g.Message, &g.InputDigest,
		&g.ShownCheckpointID, &g.ShownDigest, &g.Evidence, &g.EvidenceOmitted, &g.ExpiresAt, &g.DecidedBy, &g.DecidedByName, &g.DecidedAt, &g.Reason, &g.CreatedAt,
		&g.Quorum, &g.Approvals)
	return g, err
}

// Gate returns one gate, or fault.NotFound.
func (db *DB) Gate(ctx context.Context, tenant, id uuid.UUID) (g run.Gate, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		g, err = oneGate(ctx, tx, tenant, id)
		return err
	})
	return g, err
}

func oneGate(ctx context.Context, tx pgx.Tx, tenant, id uuid.UUID) (run.Gate, error) {
	rows, err := tx.Query(ctx, "SELECT "+gateColumns+" WHERE g.tenant_id = $1 AND g.id = $2", tenant, id)
	if err != nil {
		return run.Gate{}, err
	}
	g, err := pgx.CollectExactlyOneRow(rows, scanGate)
	return g, missing(err, "gate")
}

// Decision is a person's decision on a gate; the person is the actor of the
// context.
type Decision struct {
	Event   string // approve, reject or waive
	Reason  string
	Version *int64 // refuse unless the gate is at it
}

// DecideGate records a decision and lets its step and run continue or fail, in one
// transaction. A gate that needs several approvals stays pending until the last one. Of two
// concurrent decisions one wins; the other is fault.Conflict (illegal-transition). If the
// tenant's setting four_eyes is on, an author who approves or waives a gate of their own
// run gets fault.Forbidden (four-eyes).
func (db *DB) DecideGate(ctx context.Context, tenant, id uuid.UUID, d Decision) (g run.Gate, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		if g, err = oneGate(ctx, tx, tenant, id); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "SELECT nofx.decide_gate($1, $2, $3, $4)", id, d.Event, nullable(d.Reason), d.Version); err != nil {
			return err
		}
		if err := db.enqueueReady(ctx, tx, tenant, g.RunID); err != nil {
			return err
		}
		g, err = oneGate(ctx, tx, tenant, id)
		return err
	})
	return g, err
}
