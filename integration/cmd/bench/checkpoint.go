package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"
)

// changes is how often a hundred files change.
const changes = 5

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

// checkpoints measures the checkpoint of a large workspace on one worker beside
// `git add -A` and `git write-tree` on the same tree. Each file was written a
// moment before, as a step leaves it.
func (b *bench) checkpoints(ctx context.Context) error {
	b.keepWorkers(1)
	ours, err := b.ourCheckpoints(ctx)
	if err != nil {
		return err
	}
	git, err := b.gitTrees(ctx)
	if err != nil {
		return err
	}
	sent, err := column(ctx, b.nofx.db, `
		SELECT bytes_new::float8 / 1024 FROM nofx.checkpoint c JOIN nofx.step s ON s.tenant_id = c.tenant_id AND s.id = c.step_id
		WHERE c.kind = 'post' AND s.tool = 'bash' ORDER BY c.seq`)
	if err != nil {
		return err
	}
	b.report.add(figure{
		Name: "checkpoint-first", What: "checkpoint of 10,000 files, the first", Unit: "ms", Stat: "median", Samples: ours[:1],
		Beside: beside("git add, write-tree", git[:1]),
	})
	b.report.add(figure{
		Name: "checkpoint-changed", What: "the same after 100 changed", Unit: "ms", Stat: "median", Samples: ours[1:],
		Beside: beside("git add, write-tree", git[1:]), Pass: 300, Aim: median(git[1:]),
	})
	b.report.add(figure{
		Name: "checkpoint-sent", What: "bytes stored for 100 changed", Unit: "KiB", Stat: "median", Samples: sent[1:],
	})
	return nil
}

// ourCheckpoints runs the scripts as steps and reads off, after each, what the
// worker says its checkpoint took. A timer between them gives time to read, and
// makes the files old enough to be trusted, as those of real steps are.
func (b *bench) ourCheckpoints(ctx context.Context) ([]float64, error) {
	var list []any
	for i := range 1 + changes {
		list = append(list, map[string]any{"name": fmt.Sprint("files-", i), "tool": "bash", "inputs": map[string]any{"script": script(i)}})
		if i < changes {
			list = append(list, map[string]any{"name": fmt.Sprint("pause-", i), "tool": "sleep", "inputs": map[string]any{"duration_s": 1.5}})
		}
	}
	took, count, err := b.written(ctx)
	if err != nil {
		return nil, err
	}
	if err := b.nofx.post(ctx, map[string]any{"goal": "change files", "steps": list}); err != nil {
		return nil, err
	}
	var all []float64
	for i := range 1 + changes {
		if err := b.succeeded(ctx, fmt.Sprint("files-", i)); err != nil {
			return nil, err
		}
		tookNow, countNow, err := b.written(ctx)
		if err != nil {
			return nil, err
		}
		if countNow != count+1 {
			return nil, fmt.Errorf("%.0f checkpoints were written during step %d, want 1", countNow-count, i)
		}
		all = append(all, 1000*(tookNow-took))
		took, count = tookNow, countNow
	}
	return all, settle(ctx, b.nofx)
}

// written returns how many seconds the worker has spent on post checkpoints, and how
// many it wrote.
func (b *bench) written(ctx context.Context) (seconds, count float64, err error) {
	all, err := scrape(ctx, b.stack.Workers()[0])
	const name = `nofx_checkpoint_write_seconds_%s{kind="post"}`
	return all[fmt.Sprintf(name, "sum")], all[fmt.Sprintf(name, "count")], err
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

// gitTrees does the same to a folder of git's.
func (b *bench) gitTrees(ctx context.Context) ([]float64, error) {
	tree := filepath.Join(b.dir, "tree")
	if err := os.Mkdir(tree, 0o700); err != nil {
		return nil, err
	}
	run := func(name string, args ...string) error {
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Dir = tree
		cmd.Env = append(os.Environ(), "GIT_DIR="+filepath.Join(b.dir, "git"), "GIT_WORK_TREE="+tree, // as it comes, whatever this user prefers
			"GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_CONFIG_NOSYSTEM=1")
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s %.20s: %w: %s", name, args, err, out)
		}
		return nil
	}
	if err := run("git", "init", "-q"); err != nil {
		return nil, err
	}
	var all []float64
	for i := range 1 + changes {
		if err := run("bash", "-e", "-c", script(i)); err != nil {
			return nil, err
		}
		began := time.Now()
		if err := run("git", "add", "-A"); err != nil {
			return nil, err
		}
		if err := run("git", "write-tree"); err != nil {
			return nil, err
		}
		all = append(all, milliseconds(time.Since(began)))
		if err := pause(ctx, 1500*time.Millisecond); err != nil {
			return nil, err
		}
	}
	return all, nil
}
