package main

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/google/uuid"
)

// branches measures how long it takes to branch a run of 1,000 steps from its middle, beside
// the creation of a run with the same plan; both in turn, with no worker that takes them.
func (b *bench) branches(ctx context.Context) error {
	const steps, most = 1000, 90 // a run may have 100 branches
	b.keepWorkers(1)
	plan := noop(steps)
	plan["goal"] = "be branched"
	if err := b.nofx.post(ctx, plan); err != nil {
		return err
	}
	if err := settle(ctx, b.nofx); err != nil {
		return err
	}
	b.keepWorkers(0)
	var parent, checkpoint uuid.UUID
	if err := b.nofx.db.QueryRow(ctx, `
		SELECT c.run_id, c.id FROM nofx.checkpoint c JOIN nofx.step s ON s.tenant_id = c.tenant_id AND s.id = c.step_id
		JOIN nofx.run r ON r.tenant_id = s.tenant_id AND r.id = s.run_id
		WHERE c.kind = 'post' AND r.goal = 'be branched' AND s.idx = $1`, steps/2-1).Scan(&parent, &checkpoint); err != nil {
		return err
	}
	var forks, posts []float64
	for i := range most {
		began := time.Now()
		if err := b.nofx.post(ctx, plan); err != nil {
			return err
		}
		posts = append(posts, milliseconds(time.Since(began)))
		began = time.Now()
		if err := b.nofx.call(ctx, http.MethodPost, fmt.Sprintf("/api/runs/run_%x/branches", parent[:]),
			map[string]any{"checkpoint_id": fmt.Sprintf("ckpt_%x", checkpoint[:]), "name": fmt.Sprint("branch-", i)}, nil); err != nil {
			return err
		}
		forks = append(forks, milliseconds(time.Since(began)))
	}
	for _, stat := range []string{"p50", "p99"} {
		f := figure{
			Name: "branch-" + stat, What: "branch of a run of 1,000 steps from its middle, " + stat, Unit: "ms", Stat: stat, Samples: forks,
			Beside: beside("POST /api/runs", posts),
		}
		if stat == "p99" {
			f.Aim = 20
		}
		b.report.add(f)
	}
	return nil
}
