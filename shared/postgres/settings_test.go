package postgres_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
)

// The database refuses settings that there are not and values out of range, whoever writes
// them, and then changes nothing.
func TestSettingsGuard(t *testing.T) {
	t.Parallel()
	s := setup(t)
	for doc, pointers := range map[string]string{
		`{}`: "[]", `{"retention_days": 1, "queued_runs_max": 10000}`: "[]", `{"model_tokens_per_day": 0, "model_cost_usd_per_day": 0.25}`: "[]",
		`{"four_eyes": true, "allow_waive": false, "reviews_enabled": false}`: "[]", `{"retention_days": 7.0}`: "[]",
		`{"network_hosts": []}`: "[]", `{"network_hosts": ["a.example:443", "*.b.example:8080", "mirror:80"]}`: "[]",
		`{"network_hosts": "a.example:443"}`: "[/network_hosts]", `{"network_hosts": ["a.example"]}`: "[/network_hosts]", `{"network_hosts": ["a.example:443", 1]}`: "[/network_hosts]",
		`{"network_hosts": ["*:443"]}`: "[/network_hosts]", `{"network_hosts": ["*.com:443"]}`: "[/network_hosts]", `{"network_hosts": [null]}`: "[/network_hosts]",
		`{"network_hosts": ["a.*.example:443"]}`: "[/network_hosts]", `{"network_hosts": ["A.example:443"]}`: "[/network_hosts]", `{"network_hosts": ["[::1]:443"]}`: "[/network_hosts]",
		`{"network_hosts": [` + strings.Repeat(`"a.example:443",`, 64) + `"b.example:443"]}`: "[/network_hosts]",
		`{"retention_days": 0}`: "[/retention_days]", `{"retention_days": 3651}`: "[/retention_days]", `{"retention_days": 2.4}`: "[/retention_days]",
		`{"retention_days": "7"}`: "[/retention_days]", `{"retention_days": [7]}`: "[/retention_days]", `{"model_tokens_per_day": -1}`: "[/model_tokens_per_day]",
		`{"model_tokens_per_day": 1e30}`: "[/model_tokens_per_day]", `{"model_cost_usd_per_day": 1e400}`: "[/model_cost_usd_per_day]",
		`{"reviews_enabled": "false"}`: "[/reviews_enabled]", `{"four_eyes": 1}`: "[/four_eyes]", `{"colour": "red"}`: "[/colour]",
		`{"queued_runs_max": 0, "four_eyes": "yes", "x/y": 1}`: "[/four_eyes /queued_runs_max /x/y]", `[]`: "[]!",
	} {
		_, err := s.Admin.Exec(s.ctx, `UPDATE nofx.tenant SET settings = $2::jsonb WHERE tenant_id = $1`, s.tenant, doc)
		got := "[]"
		if err = postgres.MapError(err); err != nil {
			e, ok := errors.AsType[*fault.Error](err)
			if !ok || e.Kind != fault.Invalid || len(e.Fields) == 0 {
				t.Errorf("settings %s = %v, want faults with pointers", doc, err)
				continue
			}
			got = ""
			for _, f := range e.Fields {
				got += " " + f.Pointer
			}
			got = "[" + got[1:] + "]"
			if e.Fields[0].Pointer == "" {
				got += "!"
			}
		}
		if got != pointers {
			t.Errorf("settings %s are refused at %s, want %s", doc, got, pointers)
		}
	}
}

func TestChangeSettings(t *testing.T) {
	t.Parallel()
	s := setup(t)
	got, err := s.Settings(s.ctx, s.tenant)
	if err != nil || got.RetentionDays != 30 || got.FourEyes || !got.AllowWaive || got.QueuedRunsMax != nil || got.DayTokens != nil || got.DayCostUSD != nil || !got.ReviewsEnabled || len(got.NetworkHosts) != 0 || len(got.Set) != 0 || got.Version != 1 || got.UpdatedAt != nil {
		t.Errorf("Settings() of a new tenant = %+v, %v, want the defaults", got, err)
	}
	got, err = s.ChangeSettings(s.ctx, s.tenant, []byte(`{"retention_days": 7, "queued_runs_max": 3, "allow_waive": false}`), new(int64(1)))
	if err != nil || got.RetentionDays != 7 || *got.QueuedRunsMax != 3 || got.AllowWaive || fmt.Sprint(got.Set) != "[allow_waive queued_runs_max retention_days]" || got.Version != 2 || got.UpdatedAt == nil || got.UpdatedBy != "tester" {
		t.Errorf("ChangeSettings() = %+v, %v, want what was given, version 2", got, err)
	}
	if days := one[int](t, s, "SELECT extract(day FROM nofx.retention($1))::int", s.tenant); days != 7 {
		t.Errorf("retention() = %d days, want 7", days)
	}
	_, err = s.ChangeSettings(s.ctx, s.tenant, []byte(`{"retention_days": 8}`), new(int64(1)))
	wantKind(t, "ChangeSettings() of version 1", err, fault.Conflict, "stale-version")
	_, err = s.ChangeSettings(s.ctx, s.tenant, []byte(`{"retention_days": 9, "four_eyes": 3}`), nil)
	wantKind(t, "ChangeSettings() of a wrong value", err, fault.Invalid, "invalid-field")
	got, err = s.ChangeSettings(s.ctx, s.tenant, []byte(`{"retention_days": null, "four_eyes": true}`), nil)
	if err != nil || got.RetentionDays != 30 || !got.FourEyes || *got.QueuedRunsMax != 3 || fmt.Sprint(got.Set) != "[allow_waive four_eyes queued_runs_max]" || got.Version != 3 {
		t.Errorf("ChangeSettings(null) = %+v, %v, want the default of that one alone", got, err)
	}
	other, err := s.Settings(s.ctx, s.Tenant(t))
	if err != nil || other.FourEyes || other.Version != 1 {
		t.Errorf("Settings() of another tenant = %+v, %v, want the defaults", other, err)
	}
}

// With allow_waive false nobody waives, whatever the gate's state; other decisions go on.
func TestWaiveDisabled(t *testing.T) {
	t.Parallel()
	s := setup(t)
	_, _, gate := s.waiting(t)
	if _, err := s.ChangeSettings(s.ctx, s.tenant, []byte(`{"allow_waive": false}`), nil); err != nil {
		t.Fatal(err)
	}
	_, err := s.decide(gate, "waive")
	wantKind(t, "DecideGate(waive)", err, fault.Forbidden, "waive-disabled")
	if _, err := s.decide(gate, "approve"); err != nil {
		t.Errorf("DecideGate(approve) = %v, want nil", err)
	}
}

// With four-eyes on, whoever started a run, one that it descends from, or one that was merged
// into these, lets nothing pass in it.
func TestFourEyesOfALine(t *testing.T) {
	t.Parallel()
	s := setup(t)
	if _, err := s.ChangeSettings(s.ctx, s.tenant, []byte(`{"four_eyes": true}`), nil); err != nil {
		t.Fatal(err)
	}
	as := func(who string) *store {
		other := *s
		other.ctx = postgres.WithActor(s.ctx, who)
		return &other
	}
	r, steps := s.create(t, "a:", "m: a") // by author
	c := s.pass(t, steps["a"].ID)
	b := s.fork(t, r, c, "a")
	b.CreatedBy = "brancher"
	branch, steps := s.branch(t, b)
	gate := s.do(t, steps["m"].ID, "approval").Gate.ID
	source, _ := s.create(t, "x:")
	s.exec(t, "UPDATE nofx.run SET created_by = 'merged' WHERE id = $1", source.ID)
	merge := func(state string) {
		s.exec(t, `INSERT INTO nofx.merge (tenant_id, id, target_run_id, source_run_id, target_head, source_head, target_leaves, source_leaves, base_id, strategy, mode, created_by)
			VALUES ($1, $2, $3, $4, $5, $5, '{}', '{}', $5, 'manual', 'normal', 'somebody')`, s.tenant, uuid.New(), r.ID, source.ID, c)
		s.exec(t, "SET session_replication_role = replica; UPDATE nofx.merge SET state = '"+state+"' WHERE state = 'open'; RESET session_replication_role")
	}
	merge("abandoned")
	for _, who := range []string{"brancher", "author"} {
		for _, event := range []string{"approve", "waive"} {
			_, err := as(who).decide(gate, event)
			wantKind(t, "DecideGate("+event+") by "+who, err, fault.Forbidden, "four-eyes")
		}
	}
	var is bool
	for who, want := range map[string]bool{"author": true, "brancher": true, "merged": false, "somebody": false} {
		if is = one[bool](t, s, "SELECT nofx.is_author($1, $2, $3)", s.tenant, branch.ID, who); is != want {
			t.Errorf("is_author(%s) = %v, want %v", who, is, want)
		}
	}
	if one[bool](t, s, "SELECT nofx.is_author($1, $2, 'brancher')", s.tenant, r.ID) {
		t.Error("is_author() of the parent by who branched it = true, want false")
	}
	merge("committed")
	_, err := as("merged").decide(gate, "approve")
	wantKind(t, "DecideGate(approve) by the author of a merged run", err, fault.Forbidden, "four-eyes")
	if _, err := as("somebody").decide(gate, "approve"); err != nil {
		t.Errorf("DecideGate(approve) by somebody else = %v, want nil", err)
	}
}

// A tenant has at most queued_runs_max queued runs, branches included; others are not counted.
func TestQueuedRunsMax(t *testing.T) {
	t.Parallel()
	s := setup(t)
	r, steps := s.create(t, "a:", "b: a")
	c := s.pass(t, steps["a"].ID) // it runs
	if _, err := s.ChangeSettings(s.ctx, s.tenant, []byte(`{"queued_runs_max": 2}`), nil); err != nil {
		t.Fatal(err)
	}
	s.create(t, "a:")
	_, second := s.create(t, "a:")
	_, _, err := s.CreateRun(s.ctx, s.tenant, postgres.NewRun{Project: "default", Plan: plan(t, "a:"), CreatedBy: "author"})
	if e := wantKind(t, "CreateRun() of a third queued run", err, fault.RateLimited, "quota-exceeded"); e.RetryAfter <= 0 {
		t.Errorf("CreateRun() of a third queued run = %+v, want when to ask again", e)
	}
	_, err = s.CreateBranches(s.ctx, s.tenant, []postgres.NewBranch{s.fork(t, r, c, "a")})
	wantKind(t, "CreateBranches() over the quota", err, fault.RateLimited, "quota-exceeded")
	s.claim(t, second["a"].ID) // it is queued no more
	s.create(t, "a:")
	other := *s
	other.tenant = s.Tenant(t)
	other.create(t, "a:")
}
