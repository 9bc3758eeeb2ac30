package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/google/uuid"
)

// merges is how often the two branches are merged.
const merges = 5

// edits returns what one of two branches does to the workspace: it rewrites a file in each
// directory, and the two have none in common.
func edits(n int) string {
	return fmt.Sprintf("awk -v seed=%d 'BEGIN { srand(seed); for (d = 0; d < 100; d++) rewrite(d, %d) }%s'", n, n, rewrite)
}

// merges measures the merge of two branches of a workspace of 10,000 files, each with 100
// files of its own changed, beside `git merge-tree` of the same trees: from the start of the
// system step until its result is stored.
func (b *bench) merges(ctx context.Context) error {
	b.keepWorkers(1)
	ours, err := b.ourMerges(ctx)
	if err != nil {
		return err
	}
	git, err := b.gitMerges(ctx)
	if err != nil {
		return err
	}
	b.report.add(figure{
		Name: "merge", What: "merge of two branches of 10,000 files, 100 changed in each", Unit: "ms", Stat: "median", Samples: ours,
		Beside: beside("git merge-tree", git), Pass: 2 * median(git), Aim: median(git),
	})
	return nil
}

func (b *bench) ourMerges(ctx context.Context) ([]float64, error) {
	runOf := func(name, script string, from *uuid.UUID) (id string, head uuid.UUID, err error) {
		plan := map[string]any{"goal": name, "steps": []any{map[string]any{"name": name, "tool": "bash", "inputs": map[string]any{"script": script}}}}
		if from != nil { // nobody may claim its step before it has its start
			if err := b.nofx.call(ctx, http.MethodPost, "/api/queues/step/pause", nil, nil); err != nil {
				return "", head, err
			}
		}
		var made struct{ Run struct{ ID string } }
		if err := b.nofx.call(ctx, http.MethodPost, "/api/runs", map[string]any{"plan": plan}, &made); err != nil {
			return "", head, err
		}
		if from != nil {
			if err := execute(ctx, b.stack.AdminURL, fmt.Sprintf("UPDATE nofx.run SET start_checkpoint_id = '%s' WHERE goal = '%s'", *from, name)); err != nil {
				return "", head, err
			}
			if err := b.nofx.call(ctx, http.MethodPost, "/api/queues/step/resume", nil, nil); err != nil {
				return "", head, err
			}
		}
		if err := b.succeeded(ctx, name); err != nil {
			return "", head, err
		}
		err = b.nofx.db.QueryRow(ctx, "SELECT head_checkpoint_id FROM nofx.run WHERE goal = $1", name).Scan(&head)
		return made.Run.ID, head, err
	}
	_, base, err := runOf("merge-base", script(0), nil)
	if err != nil {
		return nil, err
	}
	target, _, err := runOf("merge-ours", edits(1), &base)
	if err != nil {
		return nil, err
	}
	source, _, err := runOf("merge-theirs", edits(2), &base)
	if err != nil {
		return nil, err
	}
	for range merges {
		var m struct{ Merge struct{ ID, Status string } }
		if err := b.nofx.call(ctx, http.MethodPost, "/api/runs/"+target+"/merges", map[string]any{"source_run_id": source}, &m); err != nil {
			return nil, err
		}
		for m.Merge.Status == "open" {
			if err := pause(ctx, 20*time.Millisecond); err != nil {
				return nil, err
			}
			if err := b.nofx.call(ctx, http.MethodGet, "/api/merges/"+m.Merge.ID, nil, &m); err != nil {
				return nil, err
			}
		}
		if m.Merge.Status != "ready" {
			return nil, fmt.Errorf("merge %s is %s, want it ready", m.Merge.ID, m.Merge.Status)
		}
		if err := b.nofx.call(ctx, http.MethodPost, "/api/merges/"+m.Merge.ID+"/abandon", nil, nil); err != nil {
			return nil, err
		}
	}
	if err := settle(ctx, b.nofx); err != nil {
		return nil, err
	}
	return column(ctx, b.nofx.db, `SELECT 1000 * extract(epoch FROM a.ended_at - a.started_at)::float8 FROM nofx.step s
		JOIN nofx.attempt a ON a.tenant_id = s.tenant_id AND a.step_id = s.id WHERE s.tool = 'sys:merge' AND a.accepted ORDER BY a.started_at`)
}

// call makes a request with a JSON body, unless that is nil, and reads the answer into out.
func (n *nofx) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		raw, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, n.url+path, body)
	if err != nil {
		return err
	}
	n.sign(req)
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := n.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: %s: %.500s", method, path, resp.Status, answer)
	}
	if err == nil && out != nil {
		err = json.Unmarshal(answer, out)
	}
	return err
}

// gitMerges merges the same trees with git.
func (b *bench) gitMerges(ctx context.Context) ([]float64, error) {
	tree := filepath.Join(b.dir, "merge-tree")
	if err := os.Mkdir(tree, 0o700); err != nil {
		return nil, err
	}
	run := func(name string, args ...string) error {
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Dir = tree
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_CONFIG_NOSYSTEM=1",
			"GIT_AUTHOR_NAME=bench", "GIT_AUTHOR_EMAIL=bench@localhost", "GIT_COMMITTER_NAME=bench", "GIT_COMMITTER_EMAIL=bench@localhost")
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s %.20s: %w: %.500s", name, args, err, out)
		}
		return nil
	}
	for _, step := range [][]string{
		{"git", "init", "-q", "-b", "base"}, {"bash", "-e", "-c", script(0)}, {"git", "add", "-A"}, {"git", "commit", "-q", "-m", "base"},
		{"git", "checkout", "-q", "-b", "ours"}, {"bash", "-e", "-c", edits(1)}, {"git", "commit", "-q", "-a", "-m", "ours"},
		{"git", "checkout", "-q", "-b", "theirs", "base"}, {"bash", "-e", "-c", edits(2)}, {"git", "commit", "-q", "-a", "-m", "theirs"},
	} {
		if err := run(step[0], step[1:]...); err != nil {
			return nil, err
		}
	}
	var all []float64
	for range merges {
		began := time.Now()
		if err := run("git", "merge-tree", "--write-tree", "ours", "theirs"); err != nil {
			return nil, err
		}
		all = append(all, milliseconds(time.Since(began)))
	}
	return all, nil
}
