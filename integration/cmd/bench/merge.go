package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"time"

	"github.com/google/uuid"
)

// merges is how many branches are merged.
const merges = 5

// edits returns what one of several branches does to the workspace: it rewrites a file in
// each directory, and no two of them the same.
func edits(n int) string {
	return fmt.Sprintf("awk -v seed=%d 'BEGIN { srand(seed); for (d = 0; d < 100; d++) rewrite(d, %d) }%s'", n, n, rewrite)
}

// merges measures the merge of two branches of a workspace of 10,000 files, each with 100
// files of its own changed, beside `git merge-tree --write-tree` of the same trees.
//
// Both find the base, compare directories that they have to read, and store the merged ones.
// On our side that is the step of the system run, from its claim until its end is recorded:
// objects come from and go to object storage, and rows to a Postgres that syncs. On git's
// side it is a process that reads one packed file, as after a clone or `git gc`, and writes
// without a sync. They take turns, each with a merge that it has not made before, and then
// with the same one again, of which both find the result stored. Of the first merge the
// worker knows nothing; of the next ones it has the directories of the base and of theirs,
// and of one again all, as the machine has git's file.
func (b *bench) merges(ctx context.Context) error {
	b.keepWorkers(1)
	source, targets, err := b.branchesToMerge(ctx)
	if err != nil {
		return err
	}
	git, err := b.gitBranches(ctx)
	if err != nil {
		return err
	}
	var waits, theirs [2][]float64 // of merges that are new, and of the same again
	for i, target := range targets {
		for again := range 2 {
			wait, err := b.ourMerge(ctx, target, source)
			if err != nil {
				return err
			}
			began := time.Now()
			if err := git.run("git", "merge-tree", "--write-tree", fmt.Sprint("ours-", i), "theirs"); err != nil {
				return err
			}
			waits[again], theirs[again] = append(waits[again], wait), append(theirs[again], milliseconds(time.Since(began)))
		}
	}
	if err := settle(ctx, b.nofx); err != nil {
		return err
	}
	steps, err := column(ctx, b.nofx.db, `SELECT 1000 * extract(epoch FROM a.ended_at - a.started_at)::float8 FROM nofx.step s
		JOIN nofx.attempt a ON a.tenant_id = s.tenant_id AND a.step_id = s.id WHERE s.tool = 'sys:merge' AND a.accepted ORDER BY a.started_at`)
	if err != nil {
		return err
	}
	var ours [2][]float64
	for i, took := range steps {
		ours[i%2] = append(ours[i%2], took)
	}
	b.report.add(figure{
		Name: "merge-first", What: "merge of two branches of 10,000 files, 100 changed in each, the first", Unit: "ms", Stat: "median", Samples: ours[0][:1],
		Beside: beside("git merge-tree", theirs[0][:1]), Pass: 2 * theirs[0][0], Aim: theirs[0][0],
	})
	b.report.add(figure{
		Name: "merge", What: "merge of the same with other branches", Unit: "ms", Stat: "median", Samples: ours[0][1:],
		Beside: beside("git merge-tree", theirs[0][1:]), Pass: 2 * median(theirs[0][1:]), Aim: median(theirs[0][1:]),
	})
	b.report.add(figure{
		Name: "merge-wait", What: "the same as their client waits for them", Unit: "ms", Stat: "median", Samples: waits[0][1:],
		Beside: beside("git merge-tree", theirs[0][1:]),
	})
	b.report.add(figure{
		Name: "merge-again", What: "the same merge again, with its directories stored", Unit: "ms", Stat: "median", Samples: ours[1],
		Beside: beside("git merge-tree", theirs[1]), Pass: 2 * median(theirs[1]), Aim: median(theirs[1]),
	})
	return nil
}

// branchesToMerge makes the workspace in a run, and branches of that which edit it.
func (b *bench) branchesToMerge(ctx context.Context) (source string, targets []string, err error) {
	if err := b.nofx.post(ctx, map[string]any{"goal": "merge", "steps": []any{bash("merge-base", script(0))}}); err != nil {
		return "", nil, err
	}
	if err := b.succeeded(ctx, "merge-base"); err != nil {
		return "", nil, err
	}
	if err := settle(ctx, b.nofx); err != nil {
		return "", nil, err
	}
	var parent, head uuid.UUID
	if err := b.nofx.db.QueryRow(ctx, "SELECT id, head_checkpoint_id FROM nofx.run WHERE goal = 'merge'").Scan(&parent, &head); err != nil {
		return "", nil, err
	}
	var variants []any
	for i := range 1 + merges {
		variants = append(variants, map[string]any{"name": fmt.Sprint("merge-", i), "plan_patch": []any{
			map[string]any{"op": "add", "path": "/steps/-", "value": bash("edit", edits(i), "merge-base")},
		}})
	}
	var made struct{ Runs []struct{ ID string } }
	if err := b.nofx.call(ctx, http.MethodPost, fmt.Sprintf("/api/runs/run_%x/branches", parent[:]),
		map[string]any{"checkpoint_id": fmt.Sprintf("ckpt_%x", head[:]), "variants": variants}, &made); err != nil {
		return "", nil, err
	}
	for _, r := range made.Runs[1:] {
		targets = append(targets, r.ID)
	}
	return made.Runs[0].ID, targets, settle(ctx, b.nofx)
}

// ourMerge merges a branch into another and returns how long its client waits until the
// result is there. It is given up then, so that the same merge can be asked for again.
func (b *bench) ourMerge(ctx context.Context, target, source string) (wait float64, err error) {
	var m struct{ Merge struct{ ID, Status string } }
	began := time.Now()
	if err := b.nofx.call(ctx, http.MethodPost, "/api/runs/"+target+"/merges", map[string]any{"source_run_id": source}, &m); err != nil {
		return 0, err
	}
	for m.Merge.Status == "open" {
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return 0, err
		}
		if err := b.nofx.call(ctx, http.MethodGet, "/api/merges/"+m.Merge.ID, nil, &m); err != nil {
			return 0, err
		}
	}
	if m.Merge.Status != "ready" {
		return 0, fmt.Errorf("merge %s is %s, want it ready", m.Merge.ID, m.Merge.Status)
	}
	wait = milliseconds(time.Since(began))
	return wait, b.nofx.call(ctx, http.MethodPost, "/api/merges/"+m.Merge.ID+"/abandon", nil, nil)
}

// gitBranches makes the same branches in a repository of git's.
func (b *bench) gitBranches(ctx context.Context) (*repository, error) {
	g, err := newRepository(ctx, filepath.Join(b.dir, "merge-tree"))
	if err != nil {
		return nil, err
	}
	steps := [][]string{{"bash", "-e", "-c", script(0)}, {"git", "add", "-A"}, {"git", "commit", "-q", "-m", "base"}}
	for i := range 1 + merges {
		name := fmt.Sprint("ours-", i-1)
		if i == 0 {
			name = "theirs"
		}
		steps = append(steps, []string{"git", "checkout", "-q", "-b", name, "main"}, []string{"bash", "-e", "-c", edits(i)}, []string{"git", "commit", "-q", "-a", "-m", name})
	}
	for _, step := range append(steps, []string{"git", "gc", "-q"}) {
		if err := g.run(step...); err != nil {
			return nil, err
		}
	}
	return g, nil
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
