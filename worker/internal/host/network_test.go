package host_test

import (
	"strings"
	"testing"

	"github.com/google/uuid"

	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/worker/internal/host"
	"nofx.dev/worker/internal/sandbox"
	"nofx.dev/worker/internal/sandbox/sandboxtest"
	"nofx.dev/worker/internal/tool"
)

// S27: what the tenant granted when a run was made is asked again when each of its steps
// starts: once it was taken back, no code of the run starts, and the step says why.
func TestS27_HostsAreGrantedAtTheStart(t *testing.T) {
	t.Parallel()
	b := setup(t)
	grant := func(hosts string) {
		t.Helper()
		if _, err := b.DB.ChangeSettings(b.Ctx, b.TenantID, []byte(`{"network_hosts": `+hosts+`}`), nil); err != nil {
			t.Fatalf("ChangeSettings(%s) = %v", hosts, err)
		}
	}
	b.Worker(t, func(c *host.Config) {
		c.Tools = tool.New(tool.Config{Sandbox: sandboxtest.Open(t, sandbox.Config{MaxTier: 2}), MinTier: 2})
	})
	policy := run.Policy{Network: &run.Network{Hosts: []string{"a.example", "x.b.example:8080"}}}
	grant(`["a.example:443", "*.b.example:8080"]`)
	ask := run.PlanStep{Name: "ask", Tool: run.ManualFamily + "ok", Inputs: []byte(`{"message":"go on?"}`), DependsOn: []string{"first"}}
	r := b.createWith(t, policy, script("first", `echo "$HTTPS_PROXY"`, nil), ask, script("second", "echo started", nil, "ask"))
	d := b.Until(t, r.ID, run.Waiting)
	if got, want := b.Log(t, d.Steps[0].ID), "http://127.0.0.1:3128\n"; got != want {
		t.Errorf("log with all granted = %q, want %q", got, want)
	}
	grant(`["a.example:443"]`)
	b.approve(t, d.Gates[0].ID)
	d = b.Until(t, r.ID, run.Failed)
	if s := d.Steps[2]; s.FailureClass != run.ClassPolicy || !strings.Contains(s.Reason, "does not grant x.b.example:8080 any more") || s.Attempt != 1 {
		t.Errorf("step = %+v, want it failed by policy, naming the host", s)
	}
	if got := b.Log(t, d.Steps[2].ID); got != "" {
		t.Errorf("log = %q, want nothing: the script does not run", got)
	}
}

// approve approves a gate.
func (b *bundle) approve(t *testing.T, gate uuid.UUID) {
	t.Helper()
	if _, err := b.DB.DecideGate(b.Ctx, b.TenantID, gate, postgres.Decision{Event: "approve"}); err != nil {
		t.Fatal(err)
	}
}
