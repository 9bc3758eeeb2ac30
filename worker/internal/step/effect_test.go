package step_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/worker/internal/egress"
	"nofx.dev/worker/internal/host"
	"nofx.dev/worker/internal/host/hosttest"
	"nofx.dev/worker/internal/sandbox/sandboxtest"
	"nofx.dev/worker/internal/tool"
)

// outside is a server that steps may call, and what they sent it.
type outside struct {
	*httptest.Server
	mu   sync.Mutex
	sent []string // "METHOD path key body"
}

// newOutside answers the n'th request, from 1, with answer.
func newOutside(t *testing.T, answer func(w http.ResponseWriter, n int)) *outside {
	t.Helper()
	o := &outside{}
	o.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		o.mu.Lock()
		o.sent = append(o.sent, fmt.Sprintf("%s %s %s %s", r.Method, r.URL.Path, r.Header.Get("Idempotency-Key"), body))
		n := len(o.sent)
		o.mu.Unlock()
		answer(w, n)
	}))
	t.Cleanup(o.Close)
	return o
}

func (o *outside) requests() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.sent)
}

// callers starts a worker whose steps may reach o.
func (b *bundle) callers(t *testing.T, o *outside) {
	t.Helper()
	allow, err := egress.ParseAllow([]string{o.Listener.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	client := egress.NewClient(egress.Config{Allow: allow})
	t.Cleanup(client.CloseIdleConnections)
	b.Worker(t, func(c *host.Config) { c.Tools = tool.New(tool.Config{Sandbox: sandboxtest.Bare(), HTTP: client}) })
}

// A request that failed is sent again under the same key, and recorded when it
// has been answered.
func TestRequestKeepsItsKey(t *testing.T) {
	t.Parallel()
	b := setup(t)
	o := newOutside(t, func(w http.ResponseWriter, n int) {
		if n < 3 {
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, "paid")
	})
	b.callers(t, o)
	call := hosttest.Step("pay", "http", map[string]any{"method": "POST", "url": o.URL + "/pay", "body": "7 EUR"})
	call.Retry = &run.PlanRetry{MaxAttempts: new(5), InitialS: new(0.01)}
	r := b.Create(t, call)
	d := b.Until(t, r.ID, run.Succeeded)
	want := "POST /pay " + run.RunID.Format(r.ID) + "/pay 7 EUR"
	if sent := o.requests(); !slices.Equal(sent, []string{want, want, want}) {
		t.Errorf("requests = %q, want %q three times", sent, want)
	}
	var state, digest string
	var fence int64
	if err := b.Admin.QueryRow(b.Ctx, "SELECT state, request_digest, fence FROM nofx.step_effect WHERE key = $1", run.RunID.Format(r.ID)+"/pay").Scan(&state, &digest, &fence); err != nil || state != "done" || fence != 3 {
		t.Errorf("effect = %s of fence %d, %v, want done by 3", state, fence, err)
	}
	if !strings.Contains(string(d.Steps[0].Outputs), `"body": "paid"`) || d.Steps[0].Attempt != 3 {
		t.Errorf("outputs = %s after %d attempts, want the answer after 3", d.Steps[0].Outputs, d.Steps[0].Attempt)
	}
}

// Outputs of earlier steps find their way into the inputs of later ones, from the
// state or from storage, and a decision from the row.
func TestTemplates(t *testing.T) {
	t.Parallel()
	b := setup(t)
	o := newOutside(t, func(w http.ResponseWriter, n int) { w.Header().Set("X-Id", "id 7") })
	b.callers(t, o)
	r := b.Create(t,
		hosttest.Script("build", `echo version=1.2 >> $NOFX_OUTPUT; echo "large=$(printf 'x%.0s' {1..6000})" >> $NOFX_OUTPUT; printf 'evil=$(touch evil); $%s steps.build.outputs.version }}\n' '{{' >> $NOFX_OUTPUT`),
		hosttest.Step("call", "http", map[string]any{"method": "PUT", "url": o.URL + "/${{ steps.build.outputs.version }}", "body": "v${{ steps.build.outputs.version }} ${{steps.build.outputs.exit_code}}"}, "build"),
		hosttest.Step("write", run.ToolWorkspaceWrite, map[string]any{"files": []any{map[string]any{"path": "${{ steps.build.outputs.version }}/large", "content": "${{ steps.build.outputs.large }}"}}}, "call"),
		hosttest.Step("ask", "manual:ship", map[string]any{"message": "Ship ${{ steps.build.outputs.version }} as ${{ steps.call.outputs.headers.x-id }} with password=hunter2?"}, "write"),
		hosttest.Step("ship", run.ToolBash, map[string]any{
			"script": `echo "$DECISION|$REASON|$STATUS|$EVIL" > out; wc -c < 1.2/large >> out; ls >> out`,
			"env":    map[string]any{"DECISION": "${{ steps.ask.outputs.decision }}", "REASON": "${{ steps.ask.outputs.reason }}", "STATUS": "${{ steps.call.outputs.status }}", "EVIL": "${{ steps.build.outputs.evil }}"},
		}, "ask"))
	d := b.Until(t, r.ID, run.Waiting)
	if got, want := d.Gates[0].Message, "Ship 1.2 as id 7 with password=***"; got != want {
		t.Errorf("message = %q, want %q", got, want)
	}
	if _, err := b.DB.DecideGate(b.Ctx, b.TenantID, d.Gates[0].ID, postgres.Decision{Event: "approve"}); err != nil {
		t.Fatalf("DecideGate(approve) = %v", err)
	}
	d = b.Until(t, r.ID, run.Succeeded)
	if got, want := b.File(t, d, "out"), "approve||200|$(touch evil); ${{ steps.build.outputs.version }}\n6000\n1.2\nout\n"; got != want {
		t.Errorf("out = %q, want %q", got, want)
	}
	if sent, want := o.requests(), "PUT /1.2 "+run.RunID.Format(r.ID)+"/call v1.2 0"; len(sent) != 1 || sent[0] != want {
		t.Errorf("requests = %q, want %q", sent, want)
	}
}

// An output that is not there, or one that the tool cannot take, fails the step
// for good and says which.
func TestTemplatesFail(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.Worker(t, nil)
	for reason, last := range map[string]run.PlanStep{
		`inputs/env/V: step one has no output "gone"`: hosttest.Step("two", run.ToolBash, map[string]any{"script": "true", "env": map[string]any{"V": "${{ steps.one.outputs.gone }}"}}),
		`inputs/files/0/path: has an empty, . or .. element`: hosttest.Step("two", run.ToolWorkspaceWrite, map[string]any{"files": []any{
			map[string]any{"path": "${{ steps.one.outputs.path }}", "content": ""}}}),
		`inputs/url: has a host that is neither a name nor an address`: hosttest.Step("two", run.ToolHTTP, map[string]any{"url": "http://${{ steps.one.outputs.host }}/"}),
	} {
		last.Retry = &run.PlanRetry{MaxAttempts: new(3)}
		r := b.Create(t, hosttest.Script("one", `echo path=../x >> $NOFX_OUTPUT; echo host=127.1 >> $NOFX_OUTPUT`), last)
		d := b.Until(t, r.ID, run.Failed)
		if s := d.Steps[1]; s.FailureClass != run.ClassInvalid || s.Reason != reason || s.Attempt != 1 {
			t.Errorf("step = %s %q after %d attempts, want invalid %q after 1", s.FailureClass, s.Reason, s.Attempt, reason)
		}
	}
}

// A decision binds to what the templates stood for.
func TestInputDigestIsOfResolvedInputs(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.Worker(t, nil)
	digests := map[string]string{}
	for i, value := range []string{"a", "b", "a"} {
		r := b.Create(t, hosttest.Script("one", fmt.Sprintf("echo v=%s >> $NOFX_OUTPUT", value)),
			hosttest.Step("unit", "gate:unit", map[string]any{"command": `test -n "$V"`, "env": map[string]any{"V": "${{ steps.one.outputs.v }}"}}))
		g := b.Until(t, r.ID, run.Succeeded).Gates[0]
		if before, ok := digests[value]; ok && before != g.InputDigest {
			t.Errorf("run %d: digest = %s, want %s as before", i, g.InputDigest, before)
		}
		digests[value] = g.InputDigest
	}
	if digests["a"] == digests["b"] || digests["a"] == "" {
		t.Errorf("digests = %v, want different ones for different values", digests)
	}
}
