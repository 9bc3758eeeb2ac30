package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"nofx.dev/gateway/api"
	"nofx.dev/integration/harness"
	"nofx.dev/shared/servertest/child"
)

// errNotSucceeded is the end of a run that failed or was cancelled; what there is
// to say of it has been said.
var errNotSucceeded = errors.New("the run did not succeed")

// ranButFailed is how `nofx run create --watch` ends then.
const ranButFailed = 3

// runPlan runs one plan on a stack of its own and shows its verdicts.
func runPlan(ctx context.Context, o options, t *terminal) (err error) {
	raw, err := os.ReadFile(o.plan)
	if err != nil {
		return err
	}
	root, err := repository(ctx)
	if err != nil {
		return err
	}
	if raw, err = here(raw, root); err != nil {
		return fmt.Errorf("%s: %w", o.plan, err)
	}
	env, err := stepEnvironment(ctx)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "nofx-run-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	binaries, err := harness.Build(ctx, harness.BuildConfig{Dir: filepath.Join(dir, "bin"), Progress: t.progress})
	if err != nil {
		return err
	}
	servers, err := harness.StartServers(ctx, harness.ServersConfig{Progress: t.progress})
	if err != nil {
		return err
	}
	defer servers.Stop()
	stack, err := harness.Up(ctx, harness.Config{
		Servers: servers, Binaries: binaries, Dir: filepath.Join(dir, "stack"), Workers: o.workers, Progress: t.progress, Warn: t.warn,
		WorkerEnv: map[string]string{
			"NOFX_GIT_ALLOW": allow(root), "NOFX_STEP_ENV": env,
			// The plan is the user's own, like a script, and may install tools and start servers.
			"NOFX_TEST": "1", "NOFX_SANDBOX_MIN_TIER": "0", "NOFX_SANDBOX_MAX_TIER": "0",
		},
	})
	if err != nil {
		return err
	}
	defer stack.Stop()

	// The client of our users, on the same terminal.
	cmd := exec.Command(binaries.NOFX, "run", "create", "--watch", "-f", "-")
	cmd.Env = append(os.Environ(), "NOFX_URL="+stack.URL, "NOFX_API_KEY="+stack.APIKey)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(raw), t.out, os.Stderr
	err = child.Run(ctx, cmd)
	exit, ran := errors.AsType[*exec.ExitError](err)
	if err != nil && (!ran || exit.ExitCode() != ranButFailed) {
		return fmt.Errorf("nofx run create: %w", err)
	}
	list, showErr := verdicts(ctx, stack)
	if showErr != nil {
		return showErr
	}
	t.verdicts(list)
	if err != nil {
		return errNotSucceeded
	}
	return nil
}

// here puts the repository root in the place of "." in a plan's checkouts, with
// or without the envelope of a request.
func here(raw []byte, root string) ([]byte, error) {
	d := json.NewDecoder(bytes.NewReader(bytes.TrimPrefix(raw, []byte("\ufeff")))) // a byte order mark, as some editors write
	d.UseNumber()                                                                  // what is not ours stays as it is written
	var body map[string]any
	if err := d.Decode(&body); err != nil {
		return nil, err
	}
	plan, ok := body["plan"].(map[string]any)
	if !ok {
		plan = body
	}
	steps, _ := plan["steps"].([]any)
	for _, s := range steps {
		step, _ := s.(map[string]any)
		inputs, _ := step["inputs"].(map[string]any)
		if step["tool"] == "git:checkout" && inputs["url"] == "." {
			inputs["url"] = (&url.URL{Scheme: "file", Path: root}).String()
		}
	}
	return json.Marshal(body)
}

// stepEnvironment returns what plans may let into their steps, as NOFX_STEP_ENV wants
// it: what the go command needs, a folder for tools that steps install, where their
// databases and caches are, and what the user has set, which wins.
func stepEnvironment(ctx context.Context) (string, error) {
	env, err := goEnvironment(ctx)
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	env["GOBIN"] = filepath.Join(cache, "nofx", "tools")
	env["GOLANGCI_LINT_CACHE"] = filepath.Join(cache, "nofx", "golangci-lint")
	if db := os.Getenv("GOVULNDB"); db != "" {
		env["GOVULNDB"] = db
	}
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(env)) {
		lines = append(lines, name+"="+env[name])
	}
	return strings.Join(append(lines, os.Getenv("NOFX_STEP_ENV")), "\n"), nil
}

// verdict is what a gate of the run came to, or a step that failed.
type verdict struct {
	name, status, reason, output string
	took                         time.Duration
	log                          string // id of the step whose log is the output, if it is not known
}

// verdicts returns the verdicts of the only run of a stack, in the order of its steps.
func verdicts(ctx context.Context, s *harness.Stack) ([]verdict, error) {
	client, err := api.NewClientWithResponses(s.URL, api.WithRequestEditorFn(func(_ context.Context, r *http.Request) error {
		r.Header.Set("Authorization", "Bearer "+s.APIKey)
		return nil
	}))
	if err != nil {
		return nil, err
	}
	runs, err := client.ListRunsWithResponse(ctx, nil)
	if err != nil {
		return nil, err
	}
	if runs.JSON200 == nil || len(runs.JSON200.Items) == 0 {
		return nil, errors.New("find the run: " + runs.Status())
	}
	run, err := client.GetRunWithResponse(ctx, runs.JSON200.Items[0].ID)
	if err != nil {
		return nil, err
	}
	if run.JSON200 == nil {
		return nil, errors.New("read the run: " + run.Status())
	}
	list := collect(run.JSON200.Steps, run.JSON200.Gates)
	for i, v := range list {
		if v.log == "" {
			continue
		}
		log, err := client.GetStepLogsWithResponse(ctx, v.log, nil)
		if err != nil {
			return nil, err
		}
		if log.StatusCode() == http.StatusOK { // nobody sees it once the stack is gone
			list[i].output = string(log.Body)
		}
	}
	return list, nil
}

// collect gives each gate step its newest verdict; one that has none says what
// became of the step. Of other steps those are told that failed.
func collect(steps []api.Step, gates []api.Gate) (list []verdict) {
	for _, s := range steps {
		name, ok := strings.CutPrefix(s.Tool, "gate:")
		if !ok {
			if s.Status == api.StepStatusFailed {
				v := verdict{name: s.Name, status: string(s.Status), log: s.ID}
				if s.Reason != nil {
					v.reason = *s.Reason
				}
				if s.StartedAt != nil && s.FinishedAt != nil {
					v.took = s.FinishedAt.Sub(*s.StartedAt)
				}
				list = append(list, v)
			}
			continue
		}
		v := verdict{name: name, status: string(s.Status)}
		round := 0
		for _, g := range gates {
			if g.StepID != s.ID || g.Round < round {
				continue
			}
			var evidence struct {
				Reason, Missing, Output string
				DurationMS              int64 `json:"duration_ms"`
			}
			if g.Evidence != nil && json.Unmarshal(g.Evidence, &evidence) != nil {
				continue
			}
			round = g.Round
			v.status, v.reason, v.output = string(g.Status), evidence.Reason, evidence.Output
			v.took = time.Duration(evidence.DurationMS) * time.Millisecond
			if evidence.Missing != "" {
				v.reason = evidence.Missing + " is not there"
			}
		}
		list = append(list, v)
	}
	return list
}

// verdicts prints them all, and the end of what those said that did not pass.
func (t *terminal) verdicts(list []verdict) {
	const most = 25 // lines of each
	if len(list) == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, v := range list {
		if v.status == "passed" || v.output == "" {
			continue
		}
		lines := strings.Split(strings.TrimRight(v.output, "\n"), "\n")
		fmt.Fprintf(t.out, "\n%s\n", t.paint(bold, v.name))
		for _, line := range lines[max(0, len(lines)-most):] {
			fmt.Fprintln(t.out, "  "+printable(line))
		}
	}
	fmt.Fprintln(t.out)
	w := tabwriter.NewWriter(t.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "gate or step\tverdict\ttime\twhy")
	for _, v := range list {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", v.name, v.status, v.took.Round(100*time.Millisecond), printable(v.reason))
	}
	w.Flush()
}
