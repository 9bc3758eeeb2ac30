package main

import (
	"context"
	"fmt"
	"os/exec"
	"time"
)

// sandboxed is how many steps are measured in each tier.
const sandboxed = 60

// sandboxes measures what a bash step takes its worker in each tier of the sandbox, between
// its checkpoints, beside bash itself, in turns.
func (b *bench) sandboxes(ctx context.Context) error {
	for tier := 1; tier <= 2; tier++ {
		if err := b.sandbox(ctx, tier); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) sandbox(ctx context.Context, tier int) error {
	s, err := b.up(ctx, fmt.Sprint("tier-", tier), 1, 1, map[string]string{
		"NOFX_SANDBOX_MIN_TIER": fmt.Sprint(tier), "NOFX_SANDBOX_MAX_TIER": fmt.Sprint(tier),
	})
	if err != nil {
		return err
	}
	defer s.close()
	var alone []float64
	for range sandboxed {
		if err := s.nofx.post(ctx, map[string]any{"goal": "tier", "steps": []any{bash("nothing", ":")}}); err != nil {
			return err
		}
		for live := 1; live > 0; {
			if live, err = s.nofx.live(ctx); err != nil {
				return err
			}
			if err := pause(ctx, 5*time.Millisecond); err != nil {
				return err
			}
		}
		began := time.Now()
		if err := exec.CommandContext(ctx, "bash", "-e", "-c", ":").Run(); err != nil {
			return fmt.Errorf("bash: %w", err)
		}
		alone = append(alone, milliseconds(time.Since(began)))
	}
	took, err := column(ctx, s.nofx.db, `SELECT (usage->>'run_ms')::float8 FROM nofx.attempt WHERE usage ? 'run_ms'`)
	if err != nil {
		return err
	}
	f := figure{
		Name: fmt.Sprint("sandbox-tier-", tier), What: fmt.Sprintf("a bash step in tier %d", tier), Unit: "ms", Stat: "p50", Samples: took,
		Beside: beside("bash by itself", alone),
	}
	if tier == 1 { // bubblewrap's own time comes on top of it
		f.Pass, f.Aim = 4*median(alone), 2.5*median(alone)
	}
	b.report.add(f)
	return nil
}
