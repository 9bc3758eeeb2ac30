package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// How often a hundred files change, nothing changes, and a change is undone.
const (
	changes   = 5
	unchanged = 5
	undone    = 3
)

// A workspace of 10,000 files in 100 directories, about 4 KiB each, that
// compress as code does; then one file in each directory is rewritten. The same
// seed makes the same files, so that git meets the very tree that we do.
const (
	rewrite = `
function rewrite(d, f,    path, line, n) {
	path = "d" d "/f" f ".go"
	for (n = 0; n < 4096; n += length(line)) {
		line = sprintf("func f%d(x int) int { return x + %d }\n", rand() * 1000, rand() * 1000000)
		printf "%s", line > path
	}
	close(path)
}
`
	fill   = `BEGIN { srand(seed); for (d = 0; d < 100; d++) for (f = 0; f < 100; f++) rewrite(d, f) }`
	change = `BEGIN { srand(seed); for (d = 0; d < 100; d++) rewrite(d, int(rand() * 100)) }`
)

// script returns what step i of the run does to the workspace.
func script(i int) string {
	awk := func(program string) string { return fmt.Sprintf("awk -v seed=%d '%s'", i, program+rewrite) }
	if i == 0 {
		return "mkdir $(seq -f d%g 0 99)\n" + awk(fill)
	}
	return awk(change)
}

// checkpoints measures the checkpoint and the restore of a large workspace on one worker
// beside git's `add -A` with `write-tree`, and `checkout`, on the same tree. Each file was
// written a moment before, as a step leaves it.
func (b *bench) checkpoints(ctx context.Context) error {
	b.keepWorkers(1)
	if err := b.smallCheckpoints(ctx); err != nil {
		return err
	}
	ours, err := b.ourCheckpoints(ctx)
	if err != nil {
		return err
	}
	git, err := b.gitTrees(ctx)
	if err != nil {
		return err
	}
	const stored = "git add, write-tree"
	b.report.add(figure{
		Name: "checkpoint-first", What: "checkpoint of 10,000 files, the first", Unit: "ms", Stat: "median", Samples: ours.changed[:1],
		Beside: beside(stored, git.changed[:1]),
	})
	b.report.add(figure{
		Name: "checkpoint-changed", What: "the same after 100 changed", Unit: "ms", Stat: "median", Samples: ours.changed[1:],
		Beside: beside(stored, git.changed[1:]), Pass: 300, Aim: median(git.changed[1:]),
	})
	b.report.add(figure{
		Name: "checkpoint-sent", What: "bytes stored for 100 changed, their directories included", Unit: "KiB", Stat: "median", Samples: ours.sent[1:],
		Beside: beside("git's objects with SHA-256", git.sent), Pass: 1.2 * median(git.sent),
	})
	b.report.add(figure{
		Name: "checkpoint-unchanged", What: "checkpoint of 10,000 files after none changed", Unit: "ms", Stat: "median", Samples: ours.same,
		Beside: beside(stored, git.same),
	})
	b.report.add(figure{
		Name: "restore", What: "restore of 10,000 files on a worker that holds them, 100 changed", Unit: "ms", Stat: "median", Samples: ours.restored,
		Beside: beside("git checkout", git.restored), Pass: 500, Aim: 200,
	})
	return nil
}

// snapshots are what checkpoints and restores of one system took, in ms, and sent, in KiB.
type snapshots struct{ changed, sent, same, restored []float64 }

// smallCheckpoints measures what the checkpoints before and after a step cost that changes
// nothing in a workspace of one file: the one before it is made within the claim.
func (b *bench) smallCheckpoints(ctx context.Context) error {
	const steps = 20
	list := []any{bash("small-0", "echo 1 > f")}
	for i := range steps {
		list = append(list, bash(fmt.Sprint("small-", i+1), "true"))
	}
	var took float64 // of one step, both
	kinds := map[string]spending{"pre": {}, "post": {}}
	for kind := range kinds {
		var err error
		if kinds[kind], err = b.written(ctx, kind); err != nil {
			return err
		}
	}
	if err := b.nofx.post(ctx, map[string]any{"goal": "change nothing", "steps": list}); err != nil {
		return err
	}
	if err := settle(ctx, b.nofx); err != nil {
		return err
	}
	for kind, was := range kinds {
		now, err := b.written(ctx, kind)
		if err != nil {
			return err
		}
		took += 1000 * (now.seconds - was.seconds) / (now.count - was.count)
	}
	stored, err := column(ctx, b.nofx.db, `
		SELECT coalesce(sum(c.bytes_new), 0)::float8 FROM nofx.checkpoint c JOIN nofx.step s ON s.tenant_id = c.tenant_id AND s.id = c.step_id
		WHERE s.name LIKE 'small-%' AND s.name <> 'small-0'`)
	if err != nil {
		return err
	}
	b.report.add(figure{
		Name: "checkpoint-nothing", What: "pre and post checkpoint of a step that changed nothing", Unit: "ms", Stat: "median", Samples: []float64{took}, Pass: 2, Aim: 1,
	})
	b.report.note("%d steps that changed nothing stored %.0f bytes of objects", steps, stored[0])
	return nil
}

// bash returns a step of a plan; needs are those that it depends on, by default the one
// before it.
func bash(name, script string, needs ...string) map[string]any {
	s := map[string]any{"name": name, "tool": "bash", "inputs": map[string]any{"script": script}}
	if len(needs) > 0 {
		s["depends_on"] = needs
	}
	return s
}

// rest returns a step of a plan that waits.
func rest(name string, seconds float64, needs ...string) map[string]any {
	s := map[string]any{"name": name, "tool": "sleep", "inputs": map[string]any{"duration_s": seconds}}
	if len(needs) > 0 {
		s["depends_on"] = needs
	}
	return s
}

// ourCheckpoints runs the scripts as steps and reads off, after each, what the
// worker says its checkpoint took. A timer between them gives time to read, and
// makes the files old enough to be trusted, as those of real steps are.
//
// The last steps change files, each on what the run had left before all of them, and one
// after the other: so each has to undo first what the one before it did.
func (b *bench) ourCheckpoints(ctx context.Context) (s snapshots, err error) {
	var list []any
	var changed, same, restored, last []string // the last step so far
	then := func(name, text string, seconds float64) {
		pause := "after-" + name
		list = append(list, bash(name, text, last...), rest(pause, seconds, name))
		last = []string{pause}
	}
	for i := range 1 + changes {
		changed = append(changed, fmt.Sprint("files-", i))
		then(changed[i], script(i), 2.5)
	}
	for i := range unchanged {
		same = append(same, fmt.Sprint("same-", i))
		then(same[i], "true", 0.5)
	}
	for i := range 1 + undone {
		restored = append(restored, fmt.Sprint("undo-", i))
		turn := fmt.Sprint("turn-", i)
		list = append(list, bash(restored[i], script(1+changes+i), last...), rest(turn, 4, last...))
		last = []string{turn}
	}
	if err := b.nofx.post(ctx, map[string]any{"goal": "change files", "steps": list}); err != nil {
		return s, err
	}
	write := func(ctx context.Context) (spending, error) { return b.written(ctx, "post") }
	if s.changed, err = b.spentBy(ctx, changed, write); err != nil {
		return s, err
	}
	if s.same, err = b.spentBy(ctx, same, write); err != nil {
		return s, err
	}
	if s.restored, err = b.spentBy(ctx, restored, func(ctx context.Context) (spending, error) { return b.spent(ctx, "checkpoint_restore_seconds", "") }); err != nil {
		return s, err
	}
	s.restored = s.restored[1:] // before the first there was nothing to undo
	if err := settle(ctx, b.nofx); err != nil {
		return s, err
	}
	s.sent, err = column(ctx, b.nofx.db, `
		SELECT bytes_new::float8 / 1024 FROM nofx.checkpoint c JOIN nofx.step s ON s.tenant_id = c.tenant_id AND s.id = c.step_id
		WHERE c.kind = 'post' AND s.name LIKE 'files-%' ORDER BY c.seq`)
	return s, err
}

// spending is how many seconds a worker has spent on something, and how often it did it.
type spending struct{ seconds, count float64 }

// spent returns what the worker says of a metric, which with its labels is a histogram.
func (b *bench) spent(ctx context.Context, metric, labels string) (spending, error) {
	all, err := scrape(ctx, b.stack.Workers()[0])
	return spending{all["nofx_"+metric+"_sum"+labels], all["nofx_"+metric+"_count"+labels]}, err
}

// written returns what the worker has spent on checkpoints of a kind.
func (b *bench) written(ctx context.Context, kind string) (spending, error) {
	return b.spent(ctx, "checkpoint_write_seconds", fmt.Sprintf("{kind=%q}", kind))
}

// spentBy waits for one step after the other and returns how many milliseconds each has
// spent, which did once what read counts.
func (b *bench) spentBy(ctx context.Context, steps []string, read func(context.Context) (spending, error)) (took []float64, err error) {
	was, err := read(ctx)
	for i := 0; err == nil && i < len(steps); i++ {
		if err := b.succeeded(ctx, steps[i]); err != nil {
			return nil, err
		}
		now, err := read(ctx)
		if err != nil {
			return nil, err
		}
		if now.count != was.count+1 {
			return nil, fmt.Errorf("%.0f were counted during step %s, want 1", now.count-was.count, steps[i])
		}
		took, was = append(took, 1000*(now.seconds-was.seconds)), now
	}
	return took, err
}

// succeeded waits for the step called name.
func (b *bench) succeeded(ctx context.Context, name string) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := b.nofx.live(ctx); err != nil {
			return err
		}
		var done bool
		if err := b.nofx.db.QueryRow(ctx, `
			SELECT s.state = 'succeeded' FROM nofx.run r JOIN nofx.step s ON s.tenant_id = r.tenant_id AND s.run_id = r.id
			WHERE s.name = $1 ORDER BY r.id DESC LIMIT 1`, name).Scan(&done); err != nil && err != pgx.ErrNoRows {
			return err
		}
		if done {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}
