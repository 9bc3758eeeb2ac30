package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/google/uuid"
)

// diffs measures, on one worker, the diff of two checkpoints of a large workspace beside
// `git diff --no-index` of the same two folders: what the worker says it took, from the
// claim on and with both forms stored, and what a client waits for it.
func (b *bench) diffs(ctx context.Context) error {
	b.keepWorkers(1)
	var list []any
	for i := range 1 + changes {
		list = append(list, bash(fmt.Sprint("files-", i), script(i)))
	}
	if err := b.nofx.post(ctx, map[string]any{"goal": "change files", "steps": list}); err != nil {
		return err
	}
	if err := settle(ctx, b.nofx); err != nil {
		return err
	}
	var ours, waits, git []float64
	for i := range changes {
		took, wait, err := b.ourDiff(ctx, fmt.Sprint("files-", i+1))
		if err != nil {
			return err
		}
		ours, waits = append(ours, took), append(waits, wait)
	}
	git, err := b.gitDiffs(ctx)
	if err != nil {
		return err
	}
	b.report.add(figure{
		Name: "diff", What: "diff of two checkpoints of 10,000 files, 100 changed", Unit: "ms", Stat: "median", Samples: ours,
		Beside: beside("git diff --no-index", git), Pass: median(git),
	})
	b.report.add(figure{
		Name: "diff-wait", What: "the same as its client waits for it", Unit: "ms", Stat: "median", Samples: waits,
		Beside: beside("git diff --no-index", git),
	})
	return nil
}

// ourDiff asks for what a step of the latest run has changed, and returns what the worker
// says that took, and how long the answer did.
func (b *bench) ourDiff(ctx context.Context, step string) (took, wait float64, err error) {
	var runID, checkpoint uuid.UUID
	if err := b.nofx.db.QueryRow(ctx, `
		SELECT c.run_id, c.id FROM nofx.checkpoint c JOIN nofx.step s ON s.tenant_id = c.tenant_id AND s.id = c.step_id
		WHERE c.kind = 'post' AND s.name = $1 ORDER BY c.id DESC LIMIT 1`, step).Scan(&runID, &checkpoint); err != nil {
		return 0, 0, err
	}
	before, err := b.spent(ctx, "diff_seconds", "")
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	if err := b.nofx.get(ctx, fmt.Sprintf("/api/runs/run_%x/checkpoints/ckpt_%x/diff", runID[:], checkpoint[:])); err != nil {
		return 0, 0, err
	}
	wait = milliseconds(time.Since(began))
	after, err := b.spent(ctx, "diff_seconds", "")
	if err == nil && after.count != before.count+1 {
		err = fmt.Errorf("%.0f diffs were computed for one request", after.count-before.count)
	}
	return 1000 * (after.seconds - before.seconds), wait, err
}

// get reads an answer that is to be 200.
func (n *nofx) get(ctx context.Context, path string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.url+path, nil)
	if err != nil {
		return err
	}
	n.sign(req)
	resp, err := n.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s: %.500s", path, resp.Status, answer)
	}
	return err
}

// gitDiffs has git compare the same folders.
func (b *bench) gitDiffs(ctx context.Context) ([]float64, error) {
	dir := filepath.Join(b.dir, "folders")
	was, is := filepath.Join(dir, "was"), filepath.Join(dir, "is")
	if err := os.MkdirAll(was, 0o700); err != nil {
		return nil, err
	}
	run := func(dir, name string, args ...string) error {
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_CONFIG_NOSYSTEM=1")
		out, err := cmd.CombinedOutput()
		exit, _ := errors.AsType[*exec.ExitError](err)
		if differs := name == "git" && exit != nil && exit.ExitCode() == 1; err != nil && !differs {
			return fmt.Errorf("%s %.20s: %w: %.500s", name, args, err, out)
		}
		return nil
	}
	if err := run(was, "bash", "-e", "-c", script(0)); err != nil {
		return nil, err
	}
	var all []float64
	for i := range changes {
		if err := run(dir, "cp", "-a", was, is); err != nil {
			return nil, err
		}
		if err := run(is, "bash", "-e", "-c", script(i+1)); err != nil {
			return nil, err
		}
		began := time.Now()
		if err := run(dir, "git", "diff", "--no-index", "--find-renames=100%", "was", "is"); err != nil {
			return nil, err
		}
		all = append(all, milliseconds(time.Since(began)))
		if err := os.RemoveAll(was); err != nil {
			return nil, err
		}
		if err := os.Rename(is, was); err != nil {
			return nil, err
		}
	}
	return all, nil
}
