package main

import (
	"context"
	"fmt"
)

// sleepers is our system with runs of one step that waits for something outside
// of it, as most steps do: for a compiler, a model, a download.
type sleepers struct{ *nofx }

func (s sleepers) submit(ctx context.Context, _ int) error {
	return s.post(ctx, map[string]any{"goal": "wait", "steps": []any{
		map[string]any{"name": "wait", "tool": "bash", "inputs": map[string]any{"script": "sleep 0.5"}},
	}})
}

// workers measures what four workers do that one does alone. Each takes few steps
// at once, so that it is the slots that run out and not this machine.
func (b *bench) workers(ctx context.Context) error {
	const slots, most = 2, 4
	counts := []int{1, most}
	sides, rates := make([]*side, len(counts)), make([][]float64, len(counts))
	for i, n := range counts {
		s, err := b.up(ctx, fmt.Sprint("workers-", n), n, slots, nil)
		if err != nil {
			return err
		}
		defer s.close()
		sides[i] = s
	}
	for range b.rounds {
		for i, s := range sides {
			rate, err := throughput(ctx, sleepers{s.nofx}, 2*most*slots, 1, b.window/2)
			if err != nil {
				return err
			}
			rates[i] = append(rates[i], rate)
		}
	}
	b.report.add(figure{
		Name: "workers-four", What: "steps of 0.5 s on four workers of two slots", Unit: "runs/s", Stat: "median", Samples: rates[1],
		Beside: beside("one such worker", rates[0]), Pass: 3 * median(rates[0]),
	})
	return nil
}
