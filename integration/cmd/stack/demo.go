package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"nofx.dev/gateway/api"
	"nofx.dev/integration/harness"
)

// buildScript builds a command of the repository and reports what it built.
const buildScript = `set -eu
go build -o "$TMPDIR/nofx-sandbox" ./worker/cmd/nofx-sandbox
echo "built nofx-sandbox with $(go version)"
echo "bytes=$(wc -c < "$TMPDIR/nofx-sandbox" | tr -d ' ')" >> "$NOFX_OUTPUT"
echo "go=$(go env GOVERSION)" >> "$NOFX_OUTPUT"
`

// demo runs a plan over this very repository: check it out, build something of
// it, test something of it, and ask a person. It shows what happens until the
// run has ended.
func demo(ctx context.Context, s *harness.Stack, o options, login bool, t *terminal) error {
	root, err := repository(ctx)
	if err != nil {
		return fmt.Errorf("there is nothing to demonstrate: %w", err)
	}
	env, err := goEnvironment(ctx)
	if err != nil {
		return err
	}
	// In the sandbox the caches are read-only, which only the index of packages cannot bear.
	env["GODEBUG"] = "goindex=0"
	d := &demonstration{stack: s, term: t, nofx: o.data + "/bin/nofx", login: login}
	d.client, err = api.NewClientWithResponses(s.URL, api.WithRequestEditorFn(func(_ context.Context, r *http.Request) error {
		r.Header.Set("Authorization", "Bearer "+s.APIKey)
		return nil
	}))
	if err != nil {
		return err
	}
	if err := d.create(ctx, plan(root, env)); err != nil {
		return err
	}
	return d.follow(ctx)
}

// plan returns the JSON a client posts.
func plan(root string, env map[string]string) map[string]any {
	source := (&url.URL{Scheme: "file", Path: root}).String()
	return map[string]any{
		"goal": "build and test some of " + root,
		"steps": []any{
			map[string]any{"name": "checkout", "tool": "git:checkout", "inputs": map[string]any{"url": source}},
			map[string]any{"name": "build", "tool": "bash", "depends_on": []string{"checkout"}, "timeout_s": 900,
				"inputs": map[string]any{"script": buildScript, "env": env}},
			map[string]any{"name": "unit", "tool": "gate:unit", "depends_on": []string{"build"}, "timeout_s": 900,
				"inputs": map[string]any{"command": "go test ./shared/fault/... ./shared/run/...", "env": env}},
			map[string]any{"name": "ship", "tool": "manual:ship", "depends_on": []string{"unit"},
				"inputs": map[string]any{"message": "It builds, and these tests pass. Ship it?"}},
		},
		"labels": map[string]string{"from": "demo"},
	}
}

// goEnvironment returns what the go command needs in a step, whose environment is
// empty and whose home is dropped: this user's caches, which it may read, make it fast, and
// with them filled it asks nobody for modules.
func goEnvironment(ctx context.Context) (map[string]string, error) {
	names := []string{"GOMODCACHE", "GOCACHE", "GOPROXY", "GOFLAGS", "GOTOOLCHAIN"}
	out, err := exec.CommandContext(ctx, "go", append([]string{"env", "-json"}, names...)...).Output()
	if err != nil {
		return nil, fmt.Errorf("go env: %w", err)
	}
	env := map[string]string{}
	if err := json.Unmarshal(out, &env); err != nil {
		return nil, fmt.Errorf("go env: %w", err)
	}
	if !strings.Contains(env["GOFLAGS"], "-buildvcs") {
		env["GOFLAGS"] = strings.TrimSpace(env["GOFLAGS"] + " -buildvcs=false")
	}
	env["PATH"] = os.Getenv("PATH") // where the go command is
	return env, nil
}

// demonstration is one run and what is known of it.
type demonstration struct {
	stack  *harness.Stack
	client *api.ClientWithResponses
	term   *terminal
	nofx   string
	login  bool // nofx finds the stack by itself
	run    string
	steps  map[string]string // name by id
	width  int
	seq    int64 // of the last event seen
	since  map[string]time.Time
	done   bool
}

func (d *demonstration) create(ctx context.Context, plan map[string]any) error {
	body, err := json.Marshal(map[string]any{"plan": plan})
	if err != nil {
		return err
	}
	resp, err := d.client.CreateRunWithBodyWithResponse(ctx, nil, "application/json", strings.NewReader(string(body)))
	if err != nil {
		return err
	}
	if resp.JSON201 == nil {
		return fmt.Errorf("create the run: %s %s", resp.Status(), resp.Body)
	}
	d.run, d.steps, d.since = string(resp.JSON201.Run.ID), map[string]string{}, map[string]time.Time{}
	for _, s := range resp.JSON201.Steps {
		d.steps[string(s.ID)] = s.Name
		d.width = max(d.width, len(s.Name))
	}
	d.term.printf("%s %s\n", d.term.paint(bold, "demo"), d.run)
	return nil
}

// follow shows the run's events as they come, until the last one. A stream that
// ends before is opened again where it stopped.
func (d *demonstration) follow(ctx context.Context) error {
	for tries := 0; ; tries++ {
		before := d.seq
		err := d.stream(ctx)
		if d.done || ctx.Err() != nil {
			return ctx.Err()
		}
		if d.seq > before {
			tries = 0
		}
		if err != nil && tries >= 10 {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

func (d *demonstration) stream(ctx context.Context) error {
	resp, err := d.client.ClientInterface.ListRunEvents(ctx, d.run, nil, func(_ context.Context, r *http.Request) error {
		r.Header.Set("Accept", api.EventStream)
		r.URL.RawQuery = url.Values{"after": {strconv.FormatInt(d.seq, 10)}, "until": {"final"}}.Encode()
		return nil
	})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNoContent:
		d.done = true
		return nil
	default:
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		return fmt.Errorf("follow the run: %s %s", resp.Status, body)
	}
	for frames := api.NewFrameReader(resp.Body); ; {
		f, err := frames.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		var e api.Event
		if err := json.Unmarshal([]byte(f.Data), &e); err != nil || e.Seq == 0 { // a control frame
			continue
		}
		if err := d.show(ctx, e); err != nil {
			return err
		}
	}
}

// show prints an event that a person wants to see.
func (d *demonstration) show(ctx context.Context, e api.Event) error {
	d.seq = e.Seq
	noun, state, _ := strings.Cut(e.Type, ".")
	var id string
	if e.StepID != nil {
		id = string(*e.StepID)
	}
	switch noun {
	case "step":
		took := ""
		if began, ok := d.since[id]; ok && state != "running" {
			took = e.At.Sub(began).Round(10 * time.Millisecond).String()
		}
		if state == "running" {
			d.since[id] = e.At
		}
		switch state {
		case "running", "waiting", "retrying", "succeeded", "failed", "skipped", "cancelled":
			d.line(e.At, d.steps[id], state, strings.TrimSpace(took+"  "+reason(e)))
		}
	case "gate":
		if state != "pending" {
			d.line(e.At, d.steps[id], "gate "+state, "")
		}
	case "run":
		switch state {
		case "waiting":
			return d.ask(ctx)
		case "succeeded", "failed", "cancelled":
			d.done = true
			d.line(e.At, "run", state, "")
			d.term.printf("\nAll about it:\n  %srun show %s\n\n", d.tool(), d.run)
		}
	}
	return nil
}

// reason returns the reason that an event gives.
func reason(e api.Event) string {
	var data struct{ Reason string }
	if json.Unmarshal(e.Data, &data) != nil {
		return ""
	}
	return printable(data.Reason)
}

func (d *demonstration) line(at time.Time, name, state, note string) {
	color := ""
	switch strings.TrimPrefix(state, "gate ") {
	case "succeeded", "passed":
		color = green
	case "failed", "error", "cancelled":
		color = red
	case "waiting", "retrying":
		color = yellow
	}
	d.term.printf("  %s  %-*s  %s%s\n", at.Local().Format(time.TimeOnly), d.width, name,
		d.term.paint(color, fmt.Sprintf("%-13s", state)), note)
}

// tool returns the beginning of a command for the command line tool.
func (d *demonstration) tool() string {
	if d.login {
		return d.nofx + " "
	}
	return fmt.Sprintf("NOFX_URL=%s NOFX_API_KEY=%s %s ", d.stack.URL, d.stack.APIKey, d.nofx)
}

// ask returns how to decide what the run waits for.
func (d *demonstration) ask(ctx context.Context) error {
	resp, err := d.client.GetRunWithResponse(ctx, d.run)
	if err != nil {
		return err
	}
	if resp.JSON200 == nil {
		return errors.New("get the run: " + resp.Status())
	}
	for _, g := range resp.JSON200.Gates {
		if g.Kind != "manual" || g.Status != "pending" {
			continue
		}
		message := ""
		if g.Message != nil {
			message = printable(*g.Message)
		}
		d.term.printf("\n%s %s\nApprove it in another terminal:\n  %sgate approve %s\nor:\n  curl -X POST -H 'Authorization: Bearer %s' -H 'Content-Type: application/json' -d '{}' %s/api/gates/%s/approve\n\n",
			d.term.paint(yellow, "The run waits for you:"), message, d.tool(), g.ID, d.stack.APIKey, d.stack.URL, g.ID)
	}
	return nil
}
