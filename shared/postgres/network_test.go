package postgres_test

import (
	"errors"
	"fmt"
	"testing"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
)

// S27: a plan may ask for no host that the tenant does not grant, whether it makes a run or a
// branch, and what is granted is read by whoever runs its steps.
func TestS27_NetworkIsGranted(t *testing.T) {
	t.Parallel()
	s := setup(t)
	p := plan(t, "a:", "b: a")
	p.Policy = &run.Policy{Network: &run.Network{Hosts: []string{"a.example:443", "x.b.example:443", "a.example:80"}}}
	create := func() (run.Run, error) {
		r, _, err := s.CreateRun(s.ctx, s.tenant, postgres.NewRun{Project: "default", Plan: p, CreatedBy: "author"})
		return r, err
	}
	grant := func(doc string) {
		t.Helper()
		if _, err := s.ChangeSettings(s.ctx, s.tenant, []byte(`{"network_hosts": `+doc+`}`), nil); err != nil {
			t.Fatalf("ChangeSettings(%s) = %v", doc, err)
		}
	}
	refused := func(what string, err error, want ...string) {
		t.Helper()
		wantKind(t, what, err, fault.Invalid, "invalid-plan")
		got := []string{}
		if e, ok := errors.AsType[*fault.Error](err); ok {
			for _, f := range e.Fields {
				got = append(got, f.Pointer+": "+f.Detail)
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s = %v, want %v", what, got, want)
		}
	}
	const at, lacks, can = "/plan/policy/network/hosts/", ": the tenant does not grant ", "; an administrator can, by the setting network_hosts"
	_, err := create()
	refused("CreateRun() with nothing granted", err, at+"0"+lacks+"a.example:443"+can, at+"1"+lacks+"x.b.example:443"+can, at+"2"+lacks+"a.example:80"+can)
	grant(`["a.example:443", "*.b.example:443"]`)
	_, err = create()
	refused("CreateRun() with a port that is not granted", err, at+"2"+lacks+"a.example:80"+can)
	refused("CheckPlan() of it", s.CheckPlan(s.ctx, s.tenant, p), at+"2"+lacks+"a.example:80"+can)
	if n := one[int](t, s, "SELECT count(*) FROM nofx.run"); n != 0 {
		t.Errorf("%d runs after refusals, want none", n)
	}
	grant(`["*.b.example:443", "a.example:443", "a.example:80"]`)
	if got, err := s.NetworkHosts(s.ctx, s.tenant); err != nil || fmt.Sprint(got) != "[*.b.example:443 a.example:443 a.example:80]" {
		t.Errorf("NetworkHosts() = %v, %v, want what was granted, in its order", got, err)
	}
	if got, err := s.NetworkHosts(s.ctx, s.Tenant(t)); err != nil || len(got) != 0 {
		t.Errorf("NetworkHosts() of another tenant = %v, %v, want none", got, err)
	}
	r, err := create()
	if err != nil {
		t.Fatalf("CreateRun() with all granted = %v, want nil", err)
	}
	c := s.pass(t, s.byName(t, r.ID)["a"].ID)
	b := s.fork(t, r, c, "a")
	s.branch(t, b)
	grant(`["a.example:443"]`)
	_, err = s.CreateBranches(s.ctx, s.tenant, []postgres.NewBranch{b})
	refused("CreateBranches() after a revocation", err, at+"1"+lacks+"x.b.example:443"+can, at+"2"+lacks+"a.example:80"+can)
	grant("null")
	_, err = s.CreateBranches(s.ctx, s.tenant, []postgres.NewBranch{b})
	refused("CreateBranches() with nothing granted", err, at+"0"+lacks+"a.example:443"+can, at+"1"+lacks+"x.b.example:443"+can, at+"2"+lacks+"a.example:80"+can)
}
