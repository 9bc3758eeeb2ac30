package integration_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"nofx.dev/gateway/api"
)

// client speaks HTTP with one key.
type client struct {
	url, key string
	http     *http.Client
}

func newClient(url, key string) *client {
	return &client{url, key, &http.Client{
		// A redirect leads to storage, which the key is not for.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport:     &http.Transport{MaxIdleConnsPerHost: 128},
	}}
}

// header is pairs of names and values.
type header []string

// send does one request; body is sent as JSON unless it is nil, a string as it is.
func (c *client) send(ctx context.Context, method, path string, body any, headers header) (*http.Response, error) {
	var content io.Reader
	switch body := body.(type) {
	case nil:
	case string:
		content = strings.NewReader(body)
	default:
		raw, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.url+path, content)
	if err != nil {
		return nil, err
	}
	if content != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.key != "" {
		req.Header.Set("Authorization", "Bearer "+c.key)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	return c.http.Do(req)
}

// answer is a response that was read to its end.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func (c *client) ask(ctx context.Context, method, path string, body any, headers header) (answer, error) {
	resp, err := c.send(ctx, method, path, body, headers)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, raw}, err
}

// do asks, and fails the test unless the answer has the status that it wants.
func (c *client) do(t *testing.T, want int, method, path string, body any, headers ...string) answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	a, err := c.ask(ctx, method, path, body, headers)
	if err != nil {
		t.Fatalf("%s %s = %v", method, path, err)
	}
	if a.status != want {
		t.Fatalf("%s %s = %d %s, want %d", method, path, a.status, a.body, want)
	}
	return a
}

// decode returns the answer as T.
func decode[T any](t *testing.T, a answer) (v T) {
	t.Helper()
	if err := json.Unmarshal(a.body, &v); err != nil {
		t.Fatalf("decode %T of %s: %v", v, a.body, err)
	}
	return v
}

// get reads T from path.
func get[T any](t *testing.T, c *client, path string) T {
	t.Helper()
	return decode[T](t, c.do(t, http.StatusOK, http.MethodGet, path, nil))
}

// items reads all pages of a list, limit items at a time.
func items[T any](t *testing.T, c *client, path, limit string) (all []T) {
	t.Helper()
	type page struct {
		Items      []T     `json:"items"`
		NextCursor *string `json:"next_cursor"`
	}
	separator := "?"
	if strings.Contains(path, "?") {
		separator = "&"
	}
	for cursor := ""; ; {
		p := get[page](t, c, path+separator+"limit="+limit+cursor)
		all = append(all, p.Items...)
		if p.NextCursor == nil {
			return all
		}
		cursor = "&cursor=" + *p.NextCursor
	}
}

// step is one step of a plan.
type step struct {
	Name      string         `json:"name"`
	Tool      string         `json:"tool"`
	Inputs    map[string]any `json:"inputs,omitempty"`
	DependsOn []string       `json:"depends_on,omitempty"`
	TimeoutS  int            `json:"timeout_s,omitempty"`
	Retry     map[string]any `json:"retry,omitempty"`
}

func bash(name, script string, dependsOn ...string) step {
	return step{Name: name, Tool: "bash", Inputs: map[string]any{"script": script}, DependsOn: dependsOn}
}

// plan returns the body of POST /api/runs.
func plan(steps ...step) map[string]any {
	return map[string]any{"plan": map[string]any{"goal": "prove it", "steps": steps}}
}

// create starts a run.
func (c *client) create(t *testing.T, steps ...step) api.CreatedRun {
	t.Helper()
	return decode[api.CreatedRun](t, c.do(t, http.StatusCreated, http.MethodPost, "/api/runs", plan(steps...)))
}

func (c *client) run(t *testing.T, id string) api.RunDetail {
	t.Helper()
	return get[api.RunDetail](t, c, "/api/runs/"+id)
}

var ended = map[api.RunStatus]bool{api.RunStatusSucceeded: true, api.RunStatusFailed: true, api.RunStatusCancelled: true}

// await waits until the run has the status wanted. One that ends with another
// fails the test.
func (c *client) await(t *testing.T, id string, want api.RunStatus) (d api.RunDetail) {
	t.Helper()
	until(t, "run "+id+" is "+string(want), 3*time.Minute, func() bool {
		d = c.run(t, id)
		if d.Run.Status != want && ended[d.Run.Status] {
			t.Fatalf("run %s is %s (%s), want %s", id, d.Run.Status, deref(d.Run.Reason), want)
		}
		return d.Run.Status == want
	})
	return d
}

// awaitStep waits until a step of the run has the status wanted.
func (c *client) awaitStep(t *testing.T, id, name string, want api.StepStatus) (s api.Step) {
	t.Helper()
	until(t, "step "+name+" is "+string(want), 3*time.Minute, func() bool {
		d := c.run(t, id)
		s = named(t, d, name)
		if s.Status != want && ended[d.Run.Status] {
			t.Fatalf("step %s is %s (%s) and its run %s, want %s", name, s.Status, deref(s.Reason), d.Run.Status, want)
		}
		return s.Status == want
	})
	return s
}

// named returns the step of that name.
func named(t *testing.T, d api.RunDetail, name string) api.Step {
	t.Helper()
	for _, s := range d.Steps {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("run %s has no step %s", d.Run.ID, name)
	return api.Step{}
}

// gateOf returns the newest gate of a step.
func gateOf(t *testing.T, d api.RunDetail, stepID string) (newest api.Gate) {
	t.Helper()
	for _, g := range d.Gates {
		if g.StepID == stepID && g.Round > newest.Round {
			newest = g
		}
	}
	if newest.Round == 0 {
		t.Fatalf("step %s has no gate", stepID)
	}
	return newest
}

func (c *client) attempts(t *testing.T, stepID string) []api.Attempt {
	t.Helper()
	return get[api.StepDetail](t, c, "/api/steps/"+stepID).Attempts
}

func (c *client) log(t *testing.T, stepID string) string {
	t.Helper()
	return string(c.do(t, http.StatusOK, http.MethodGet, "/api/steps/"+stepID+"/logs", nil).body)
}

// members returns the members of a JSON object.
func members(t *testing.T, raw json.RawMessage) (m map[string]any) {
	t.Helper()
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatalf("decode object %s: %v", raw, err)
	}
	return m
}

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
