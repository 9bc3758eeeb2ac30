package postgres_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
)

func sealedWords(n postgres.AlertSecret) ([]byte, error) {
	return []byte(strings.Join(n.Bound(), " ")), nil
}

// endpoint creates an endpoint of a tenant for some events; without any, for all.
func (s *store) endpoint(t testing.TB, tenant uuid.UUID, events ...string) postgres.AlertEndpoint {
	t.Helper()
	if len(events) == 0 {
		events = run.AlertEvents
	}
	e, err := s.CreateAlertEndpoint(s.ctx, tenant, postgres.AlertEndpoint{URL: "https://hooks.example.com/c4n4ry", Events: events, CreatedBy: "tester"}, sealedWords)
	if err != nil {
		t.Fatalf("CreateAlertEndpoint() = %v", err)
	}
	return e
}

// queued returns the events that wait for an endpoint, oldest first.
func (s *store) queued(t testing.TB, e postgres.AlertEndpoint) (events []string) {
	t.Helper()
	list, err := s.AlertDeliveries(s.ctx, s.tenant, e.ID, nil, 200)
	if err != nil {
		t.Fatalf("AlertDeliveries() = %v", err)
	}
	for _, d := range list {
		events = append(events, d.Event)
	}
	slices.Reverse(events)
	return events
}

// tell queues an event for the endpoints of the tenant.
func (s *store) tell(t testing.TB, event string) {
	t.Helper()
	s.exec(t, fmt.Sprintf("SET LOCAL search_path = nofx; SELECT queue_alert('%s', '%s', '{}')", s.tenant, event))
}

var someRules = postgres.AlertRules{Looks: 100, Each: 2, Lease: time.Minute}

// claimAlerts claims what is due from the beginning.
func (s *store) claimAlerts(t testing.TB, worker string, r postgres.AlertRules, limit int) []postgres.AlertClaim {
	t.Helper()
	list, err := s.ClaimAlerts(s.ctx, worker, &postgres.AlertPlace{}, r, limit)
	if err != nil {
		t.Fatalf("ClaimAlerts() = %v", err)
	}
	return list
}

func (s *store) finishAlert(t testing.TB, worker string, c postgres.AlertClaim, r postgres.AlertResult, want string) {
	t.Helper()
	if got, err := s.FinishAlert(s.ctx, worker, c, r); err != nil || got != want {
		t.Errorf("FinishAlert(%+v) = %s, %v, want %s", r, got, err, want)
	}
}

// Endpoints are told of what they asked for, with ids, states and names, and nothing that
// people or steps wrote.
func TestAlertsOfEvents(t *testing.T) {
	t.Parallel()
	s := setup(t)
	every, failed, off := s.endpoint(t, s.tenant), s.endpoint(t, s.tenant, "run.failed"), s.endpoint(t, s.tenant)
	if _, err := s.ChangeAlertEndpoint(s.ctx, s.tenant, off.ID, postgres.AlertEndpointChange{Enabled: new(false)}, nil); err != nil {
		t.Fatal(err)
	}
	foreign := s.Tenant(t)
	s.endpoint(t, foreign)

	r, steps, gate := s.waiting(t)
	if _, err := s.decide(gate, "reject"); err != nil {
		t.Fatal(err)
	}
	_, others := s.create(t, "a:")
	s.do(t, others["a"].ID, "gate failed")

	want := []string{"approval.requested", "gate.failed", "run.failed", "gate.failed", "run.failed"}
	if got := s.queued(t, every); !slices.Equal(got, want) {
		t.Fatalf("an endpoint for all events is told of %v, want %v", got, want)
	}
	if got := s.queued(t, failed); !slices.Equal(got, []string{"run.failed", "run.failed"}) {
		t.Errorf("an endpoint for run.failed is told of %v, want that twice", got)
	}
	if got := one[int](t, s, "SELECT count(*) FROM nofx.alert_delivery WHERE endpoint_id = $1 OR tenant_id <> $2", off.ID, s.tenant); got != 0 {
		t.Errorf("deliveries to a disabled endpoint and to another tenant = %d, want none", got)
	}
	list, err := s.AlertDeliveries(s.ctx, s.tenant, every.ID, nil, 200)
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(list)
	stepID, runID := run.StepID.Format(steps["m"].ID), run.RunID.Format(r.ID)
	for i, want := range []map[string]any{
		{"run_id": runID, "project": "default", "status": "pending", "step_id": stepID, "step": "m", "gate_id": run.GateID.Format(gate), "gate": "ok", "kind": "manual", "round": 1.0},
		{"run_id": runID, "project": "default", "status": "failed", "step_id": stepID, "step": "m", "gate_id": run.GateID.Format(gate), "gate": "ok", "kind": "manual", "round": 1.0},
		{"run_id": runID, "project": "default", "status": "failed", "step_id": stepID, "step": "m", "failure_class": "gate_rejected"},
	} {
		var got map[string]any
		if err := json.Unmarshal(list[i].Data, &got); err != nil {
			t.Fatal(err)
		}
		if got["expires_at"] == nil && got["gate"] != nil {
			t.Errorf("data of %s = %s, want the time when the gate expires", list[i].Event, list[i].Data)
		}
		delete(got, "expires_at")
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("data of %s (-want +got):\n%s", list[i].Event, diff)
		}
	}
	for _, row := range all[string](t, s, "SELECT d::text FROM nofx.alert_delivery d") {
		for _, words := range []string{"go on?", "because", "test", "exit status"} {
			if strings.Contains(row, words) {
				t.Errorf("a delivery has the free text %q: %s", words, row)
			}
		}
	}
}

// An event and its deliveries are written by one transaction: neither is there without the
// other.
func TestAlertsWithTheirEvent(t *testing.T) {
	t.Parallel()
	s := setup(t)
	s.endpoint(t, s.tenant)
	_, steps := s.create(t, "a:")
	c := s.claim(t, steps["a"].ID)
	s.exec(t, `CREATE FUNCTION public.fails() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'injected' USING ERRCODE = 'XX001'; END $$`)
	s.exec(t, "CREATE TRIGGER fails BEFORE INSERT ON nofx.alert_delivery FOR EACH ROW EXECUTE FUNCTION public.fails()")
	before := s.image(t)
	if err := s.FinishStep(s.ctx, outcome(c, "fail")); err == nil || !strings.Contains(err.Error(), "injected") {
		t.Errorf("FinishStep() whose delivery is refused = %v, want the injected error", err)
	}
	s.wantUntouched(t, "a finish whose delivery is refused", before)
	s.exec(t, "DROP TRIGGER fails ON nofx.alert_delivery")
	s.finish(t, c, "fail")
	if got := one[string](t, s, "SELECT string_agg(event, ' ') FROM nofx.alert_delivery"); got != "run.failed" {
		t.Errorf("deliveries after the finish = %s, want one of run.failed", got)
	}
}

// Deliveries are given to one worker at a time, and of an endpoint to no more than a few at
// once; one whose lease has run out to the next.
func TestAlertClaims(t *testing.T) {
	t.Parallel()
	s := setup(t)
	first, second := s.endpoint(t, s.tenant), s.endpoint(t, s.tenant)
	for range 5 {
		s.tell(t, "run.failed")
	}
	claims := s.claimAlerts(t, "w1", someRules, 100)
	got := map[uuid.UUID]int{}
	for _, c := range claims {
		got[c.EndpointID]++
		if c.Attempt != 1 || c.URL != first.URL || c.Event != "run.failed" || c.TenantID != s.tenant || string(c.Sealed) != fmt.Sprintf("alert %s %s 1", s.tenant, c.EndpointID) {
			t.Errorf("claim = %+v, want the first attempt, with the endpoint's URL and secret", c)
		}
	}
	if got[first.ID] != 2 || got[second.ID] != 2 {
		t.Errorf("deliveries given at once, by endpoint = %v, want 2 of each", got)
	}
	if more := s.claimAlerts(t, "w2", someRules, 100); len(more) != 0 {
		t.Errorf("ClaimAlerts() of another worker = %+v, want none while 2 of each endpoint are with workers", more)
	}
	s.finishAlert(t, "w2", claims[0], postgres.AlertResult{Delivered: true}, "lost")
	s.finishAlert(t, "w1", claims[0], postgres.AlertResult{Delivered: true, ResponseCode: 204, DurationMS: 3}, "delivered")
	s.finishAlert(t, "w1", claims[0], postgres.AlertResult{Delivered: true}, "lost")
	if more := s.claimAlerts(t, "w2", someRules, 100); len(more) != 1 || more[0].EndpointID != claims[0].EndpointID || more[0].ID == claims[0].ID {
		t.Errorf("ClaimAlerts() after a delivery = %+v, want the next one of its endpoint", more)
	}

	// The worker dies: what it has is given to another, under the same id and with the next attempt.
	dead := claims[1]
	s.exec(t, "UPDATE nofx.alert_delivery SET due_at = clock_timestamp() - interval '1 second' WHERE id = $1", dead.ID)
	again := s.claimAlerts(t, "w3", someRules, 100)
	if len(again) != 1 || again[0].ID != dead.ID || again[0].Attempt != 2 {
		t.Fatalf("ClaimAlerts() after a worker died = %+v, want attempt 2 of %s", again, dead.ID)
	}
	s.finishAlert(t, "w1", dead, postgres.AlertResult{Delivered: true}, "lost") // it was not dead, only late

	s.exec(t, "UPDATE nofx.alert_delivery SET worker_id = NULL, due_at = clock_timestamp() WHERE due_at IS NOT NULL")
	place := postgres.AlertPlace{}
	for i, want := range []uuid.UUID{first.ID, second.ID} {
		list, err := s.ClaimAlerts(s.ctx, "w4", &place, postgres.AlertRules{Looks: 1, Each: 2, Lease: time.Minute}, 1)
		if err != nil || len(list) != 1 || list[0].EndpointID != want || place != (postgres.AlertPlace{Tenant: s.tenant, Endpoint: want}) {
			t.Errorf("ClaimAlerts(one look, round %d) = %+v, %v, then at %v, want one of endpoint %s", i, list, err, place, want)
		}
	}
	if list, err := s.ClaimAlerts(s.ctx, "w4", &place, someRules, 1); err != nil || len(list) != 0 || place != (postgres.AlertPlace{}) {
		t.Errorf("ClaimAlerts(at the end) = %+v, %v, then at %v, want none and the beginning", list, err, place)
	}
}

// What an attempt comes to, for the delivery and for its endpoint.
func TestAlertResults(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		result   postgres.AlertResult
		failing  string // how long the endpoint has failed before
		answer   string
		delivery string // state
		endpoint string // state, reason, whether it fails
	}{
		"delivered":            {postgres.AlertResult{Delivered: true, ResponseCode: 200}, "NULL", "delivered", "delivered", "enabled  false"},
		"delivered at last":    {postgres.AlertResult{Delivered: true, ResponseCode: 200}, "'6 days'", "delivered", "delivered", "enabled  false"},
		"to be tried again":    {postgres.AlertResult{ResponseCode: 500, DelayS: new(60.0)}, "NULL", "pending", "pending", "enabled  true"},
		"given up":             {postgres.AlertResult{Error: "no answer"}, "'1 day'", "failed", "failed", "enabled  true"},
		"gone":                 {postgres.AlertResult{ResponseCode: 410, Gone: true}, "NULL", "disabled", "failed", "disabled gone true"},
		"failing nearly 5 d":   {postgres.AlertResult{ResponseCode: 500, DelayS: new(60.0)}, "'4 days 23 hours'", "pending", "pending", "enabled  true"},
		"failing for 5 d":      {postgres.AlertResult{ResponseCode: 500, DelayS: new(60.0)}, "'5 days'", "disabled", "pending", "disabled failing true"},
		"the last, after 5 d":  {postgres.AlertResult{ResponseCode: 500}, "'5 days'", "disabled", "failed", "disabled failing true"},
		"to be tried in a day": {postgres.AlertResult{ResponseCode: 503, DelayS: new(86400.0)}, "NULL", "pending", "pending", "enabled  true"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := setup(t)
			e := s.endpoint(t, s.tenant)
			s.tell(t, "run.failed")
			s.tell(t, "gate.failed")
			c := s.claimAlerts(t, "w1", postgres.AlertRules{Looks: 9, Each: 1, Lease: time.Minute}, 9)[0]
			s.exec(t, "UPDATE nofx.alert_endpoint SET failing_since = clock_timestamp() - "+tt.failing+"::interval")
			s.finishAlert(t, "w1", c, tt.result, tt.answer)
			now, err := s.AlertEndpoint(s.ctx, s.tenant, e.ID)
			if got := fmt.Sprint(now.State, " ", now.DisabledReason, " ", now.FailingSince != nil); err != nil || got != tt.endpoint {
				t.Errorf("the endpoint is %s, %v, want %s", got, err, tt.endpoint)
			}
			list, err := s.AlertDeliveries(s.ctx, s.tenant, e.ID, nil, 9)
			if err != nil || len(list) != 2 {
				t.Fatalf("AlertDeliveries() = %+v, %v, want 2", list, err)
			}
			waiting, tried := list[0], list[1]
			if tt.answer == "disabled" {
				tt.delivery = "failed" // whatever was to come
			}
			if tried.State != tt.delivery || tried.Attempt != 1 || tried.TriedAt == nil || (tried.DueAt != nil) != (tt.delivery == "pending") {
				t.Errorf("the delivery = %+v, want it %s", tried, tt.delivery)
			}
			if tried.DueAt != nil {
				if got := tried.DueAt.Sub(*tried.TriedAt).Seconds(); got < *tt.result.DelayS-1 || got > *tt.result.DelayS+1 {
					t.Errorf("the next attempt is %v s after this one, want %v", got, *tt.result.DelayS)
				}
			}
			if want := map[bool]string{true: "failed", false: "pending"}[tt.answer == "disabled"]; waiting.State != want {
				t.Errorf("the delivery that waits = %+v, want it %s", waiting, want)
			}
			wantAudit := map[bool]string{true: "alert_endpoint.disable", false: "alert_endpoint.create"}[tt.answer == "disabled"]
			if got := one[string](t, s, "SELECT act FROM nofx.audit ORDER BY seq DESC LIMIT 1"); got != wantAudit {
				t.Errorf("the newest act in the audit log = %s, want %s", got, wantAudit)
			}
		})
	}
}

// An outbox has an end: events for an endpoint for which too many deliveries wait are left
// out, which its owner sees, and others go on.
func TestAlertOutboxIsBounded(t *testing.T) {
	t.Parallel()
	const most = 5000
	s := setup(t)
	e := s.endpoint(t, s.tenant)
	s.exec(t, "INSERT INTO nofx.alert_delivery (tenant_id, endpoint_id, id, event, data) SELECT $1, $2, gen_random_uuid(), 'run.failed', '{}' FROM generate_series(1, $3)", s.tenant, e.ID, most-1)
	other := s.endpoint(t, s.tenant)
	for range 3 {
		s.tell(t, "run.failed")
	}
	if got := one[string](t, s, "SELECT count(*) FILTER (WHERE endpoint_id = $1) || ' ' || count(*) FILTER (WHERE endpoint_id = $2) FROM nofx.alert_delivery", e.ID, other.ID); got != fmt.Sprint(most, " 3") {
		t.Errorf("deliveries to the endpoint and to another = %s, want %d and 3", got, most)
	}
	for id, want := range map[uuid.UUID]bool{e.ID: true, other.ID: false} {
		if now, err := s.AlertEndpoint(s.ctx, s.tenant, id); err != nil || (now.DroppedAt != nil) != want {
			t.Errorf("AlertEndpoint(%s).DroppedAt = %v, %v, want one: %v", id, now.DroppedAt, err, want)
		}
	}
}

// A transaction of a run does not wait for an endpoint that is being deleted.
func TestAlertsWaitForNobody(t *testing.T) {
	t.Parallel()
	s := setup(t)
	e := s.endpoint(t, s.tenant)
	_, steps := s.create(t, "a:")
	c := s.claim(t, steps["a"].ID)
	tx, err := s.Admin.Begin(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(s.ctx)) }()
	if _, err := tx.Exec(s.ctx, "SELECT FROM nofx.alert_endpoint WHERE id = $1 FOR UPDATE", e.ID); err != nil {
		t.Fatal(err)
	}
	s.finish(t, c, "fail")
	if got := s.queued(t, e); len(got) != 0 {
		t.Errorf("deliveries to an endpoint that is being deleted = %v, want none", got)
	}
}

// What waits for a disabled endpoint has failed, also what a worker had that died, and what
// an event added while the endpoint was disabled: none of it is sent once it is enabled again.
func TestAlertsOfDisabledEndpoint(t *testing.T) {
	t.Parallel()
	s := setup(t)
	e := s.endpoint(t, s.tenant)
	s.tell(t, "run.failed")
	c := s.claimAlerts(t, "w1", someRules, 1)[0]
	event, err := s.Admin.Begin(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = event.Rollback(context.WithoutCancel(s.ctx)) }()
	if _, err := event.Exec(s.ctx, fmt.Sprintf("SET LOCAL search_path = nofx; SELECT queue_alert('%s', 'gate.failed', '{}')", s.tenant)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ChangeAlertEndpoint(s.ctx, s.tenant, e.ID, postgres.AlertEndpointChange{Enabled: new(false)}, nil); err != nil {
		t.Fatal(err)
	}
	if err := event.Commit(s.ctx); err != nil {
		t.Fatal(err)
	}
	s.exec(t, "UPDATE nofx.alert_delivery SET due_at = clock_timestamp() - interval '1 second' WHERE worker_id IS NOT NULL") // its lease ends
	if got := s.claimAlerts(t, "w2", someRules, 9); len(got) != 0 {
		t.Errorf("ClaimAlerts() of a disabled endpoint = %+v, want none", got)
	}
	list, err := s.AlertDeliveries(s.ctx, s.tenant, e.ID, nil, 9)
	if err != nil || len(list) != 2 {
		t.Fatalf("AlertDeliveries() = %+v, %v, want 2", list, err)
	}
	for _, d := range list {
		if d.State != "failed" || d.DueAt != nil || d.Error != "the endpoint was disabled" {
			t.Errorf("a delivery to the disabled endpoint = %+v, want it failed", d)
		}
	}
	s.finishAlert(t, "w1", c, postgres.AlertResult{Delivered: true}, "lost")
	if _, err := s.ChangeAlertEndpoint(s.ctx, s.tenant, e.ID, postgres.AlertEndpointChange{Enabled: new(true)}, nil); err != nil {
		t.Fatal(err)
	}
	if got := s.claimAlerts(t, "w2", someRules, 9); len(got) != 0 {
		t.Errorf("ClaimAlerts() once it is enabled again = %+v, want none", got)
	}
}

// The audit log names the origin of an endpoint however its scheme is spelt.
func TestAuditNamesOriginOfAlerts(t *testing.T) {
	t.Parallel()
	s := setup(t)
	e := postgres.AlertEndpoint{URL: "HTTPS://hooks.example.com/c4n4ry", Events: run.AlertEvents, CreatedBy: "tester"}
	if _, err := s.CreateAlertEndpoint(s.ctx, s.tenant, e, sealedWords); err != nil {
		t.Fatal(err)
	}
	if got := one[string](t, s, "SELECT coalesce(after->>'origin', '') FROM nofx.audit ORDER BY seq DESC LIMIT 1"); got != "HTTPS://hooks.example.com" {
		t.Errorf("origin in the audit log = %q, want HTTPS://hooks.example.com", got)
	}
}

// A redelivery keeps the id; it needs an enabled endpoint and leaves one under way alone.
func TestRedeliverAlert(t *testing.T) {
	t.Parallel()
	s := setup(t)
	e := s.endpoint(t, s.tenant)
	s.tell(t, "run.failed")
	c := s.claimAlerts(t, "w1", someRules, 1)[0]
	if d, err := s.RedeliverAlert(s.ctx, s.tenant, e.ID, c.ID); err != nil || d.State != "pending" || d.DueAt != nil {
		t.Errorf("RedeliverAlert(under way) = %+v, %v, want it still under way", d, err)
	}
	s.finishAlert(t, "w1", c, postgres.AlertResult{Delivered: true}, "delivered")
	if d, err := s.RedeliverAlert(s.ctx, s.tenant, e.ID, c.ID); err != nil || d.State != "pending" || d.DueAt == nil || d.ID != c.ID {
		t.Errorf("RedeliverAlert() = %+v, %v, want it due", d, err)
	}
	if again := s.claimAlerts(t, "w1", someRules, 1); len(again) != 1 || again[0].ID != c.ID || again[0].Attempt != 2 {
		t.Errorf("ClaimAlerts() after it = %+v, want attempt 2 of %s", again, c.ID)
	}
	_, err := s.RedeliverAlert(s.ctx, s.tenant, e.ID, run.NewID())
	wantKind(t, "RedeliverAlert(unknown)", err, fault.NotFound, "not-found")
	if _, err := s.ChangeAlertEndpoint(s.ctx, s.tenant, e.ID, postgres.AlertEndpointChange{Enabled: new(false)}, nil); err != nil {
		t.Fatal(err)
	}
	_, err = s.RedeliverAlert(s.ctx, s.tenant, e.ID, c.ID)
	wantKind(t, "RedeliverAlert(to a disabled endpoint)", err, fault.Conflict, "alert-endpoint-disabled")
}

// What is 30 days old goes, and a secret that was replaced a day ago.
func TestExpireAlerts(t *testing.T) {
	t.Parallel()
	s := setup(t)
	e := s.endpoint(t, s.tenant)
	for range 3 {
		s.tell(t, "run.failed")
	}
	rotated, err := s.RotateAlertSecret(s.ctx, s.tenant, e.ID, sealedWords)
	if err != nil || rotated.SecretVersion != 2 || rotated.PastUntil == nil {
		t.Fatalf("RotateAlertSecret() = %+v, %v, want version 2 beside the one before", rotated, err)
	}
	names, sealed := s.claimAlerts(t, "w1", someRules, 1)[0].Secrets()
	for i, want := range []string{fmt.Sprintf("alert %s %s 2", s.tenant, e.ID), fmt.Sprintf("alert %s %s 1", s.tenant, e.ID)} {
		if len(names) != 2 || strings.Join(names[i].Bound(), " ") != want || string(sealed[i]) != want {
			t.Errorf("Secrets() = %v, %q, want the new and the old one", names, sealed)
		}
	}
	s.exec(t, "UPDATE nofx.alert_delivery SET at = clock_timestamp() - interval '30 days' WHERE id = (SELECT id FROM nofx.alert_delivery ORDER BY id LIMIT 1)")
	s.exec(t, "UPDATE nofx.alert_endpoint SET past_until = clock_timestamp() - interval '1 second'")
	if _, sealed := s.claimAlerts(t, "w1", someRules, 1)[0].Secrets(); len(sealed) != 1 {
		t.Errorf("secrets that sign after a day = %d, want 1", len(sealed))
	}
	if n, err := s.ExpireAlerts(s.ctx, 10); n != 1 || err != nil {
		t.Errorf("ExpireAlerts() = %d, %v, want 1", n, err)
	}
	if got := s.queued(t, e); len(got) != 2 {
		t.Errorf("deliveries that are left = %v, want 2", got)
	}
	if n := one[int](t, s, "SELECT count(*) FROM nofx.alert_endpoint WHERE sealed_past IS NOT NULL"); n != 0 {
		t.Errorf("secrets that sign no more and are kept = %d, want none", n)
	}
}

// A tenant has at most 20 endpoints; changes need the version when one is given.
func TestAlertEndpointLimits(t *testing.T) {
	t.Parallel()
	s := setup(t)
	var e postgres.AlertEndpoint
	for range 20 {
		e = s.endpoint(t, s.tenant)
	}
	_, err := s.CreateAlertEndpoint(s.ctx, s.tenant, postgres.AlertEndpoint{URL: "https://x", Events: []string{"run.failed"}, CreatedBy: "tester"}, sealedWords)
	wantKind(t, "CreateAlertEndpoint() of one more", err, fault.Conflict, "alert-endpoint-limit")
	_, err = s.ChangeAlertEndpoint(s.ctx, s.tenant, e.ID, postgres.AlertEndpointChange{Enabled: new(false)}, new(int64(7)))
	wantKind(t, "ChangeAlertEndpoint(version 7)", err, fault.Conflict, "stale-version")
	changed, err := s.ChangeAlertEndpoint(s.ctx, s.tenant, e.ID, postgres.AlertEndpointChange{URL: new("https://other.example.com/"), Events: []string{"gate.failed"}}, new(int64(1)))
	if err != nil || changed.URL != "https://other.example.com/" || !slices.Equal(changed.Events, []string{"gate.failed"}) || changed.Version != 2 || changed.State != "enabled" {
		t.Errorf("ChangeAlertEndpoint() = %+v, %v, want both changed", changed, err)
	}
	before := s.image(t)
	injected := errors.New("no key")
	refuse := func(postgres.AlertSecret) ([]byte, error) { return nil, injected }
	if _, err := s.RotateAlertSecret(s.ctx, s.tenant, e.ID, refuse); !errors.Is(err, injected) {
		t.Errorf("RotateAlertSecret() without a key = %v, want its error", err)
	}
	s.wantUntouched(t, "a rotation without a key", before)
	if err := s.DeleteAlertEndpoint(s.ctx, s.tenant, e.ID); err != nil {
		t.Errorf("DeleteAlertEndpoint() = %v", err)
	}
	if err := s.DeleteAlertEndpoint(s.ctx, s.tenant, e.ID); !errors.Is(err, fault.NotFound) {
		t.Errorf("DeleteAlertEndpoint() again = %v, want not found", err)
	}
}

// Another tenant reaches neither an endpoint nor its deliveries.
func TestS06_AlertsOfTwoTenants(t *testing.T) {
	t.Parallel()
	s := setup(t)
	e := s.endpoint(t, s.tenant)
	s.tell(t, "run.failed")
	c := s.claimAlerts(t, "w1", someRules, 1)[0]
	other := s.Tenant(t)
	before := s.image(t)
	for name, do := range map[string]func() error{
		"AlertEndpoint": func() error { _, err := s.AlertEndpoint(s.ctx, other, e.ID); return err },
		"ChangeAlertEndpoint": func() error {
			_, err := s.ChangeAlertEndpoint(s.ctx, other, e.ID, postgres.AlertEndpointChange{Enabled: new(false)}, nil)
			return err
		},
		"RotateAlertSecret":   func() error { _, err := s.RotateAlertSecret(s.ctx, other, e.ID, sealedWords); return err },
		"DeleteAlertEndpoint": func() error { return s.DeleteAlertEndpoint(s.ctx, other, e.ID) },
		"AlertDeliveries":     func() error { _, err := s.AlertDeliveries(s.ctx, other, e.ID, nil, 10); return err },
		"RedeliverAlert":      func() error { _, err := s.RedeliverAlert(s.ctx, other, e.ID, c.ID); return err },
	} {
		if err := do(); !errors.Is(err, fault.NotFound) {
			t.Errorf("%s(another tenant's) = %v, want not found", name, err)
		}
	}
	if list, err := s.AlertEndpoints(s.ctx, other, nil, 10); len(list) != 0 || err != nil {
		t.Errorf("AlertEndpoints() of the other tenant = %v, %v, want none", list, err)
	}
	mine := c
	mine.TenantID = other
	s.finishAlert(t, "w1", mine, postgres.AlertResult{Delivered: true}, "lost")
	// The functions look for themselves, and not only what is read afterwards.
	theirs := *s
	theirs.tenant = other
	for _, call := range []string{"change_alert_endpoint($1, '{}', NULL)", "begin_alert_rotation($1)", "rotate_alert_secret($1, 'x')", "redeliver_alert($1, '" + c.ID.String() + "')"} {
		if _, err := theirs.in(s.ctx, postgres.GatewayRole, "SELECT nofx."+call, e.ID); sqlState(err) != "NX005" {
			t.Errorf("%s of another tenant's endpoint = %v, want NX005", call, err)
		}
	}
	if _, err := theirs.in(s.ctx, postgres.GatewayRole, "SELECT nofx.delete_alert_endpoint($1)", e.ID); err != nil {
		t.Errorf("delete_alert_endpoint(another tenant's) = %v, want false", err)
	}
	s.wantUntouched(t, "another tenant", before)
}
