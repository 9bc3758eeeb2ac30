package postgres_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/review"
	"nofx.dev/shared/run"
	"nofx.dev/shared/tree"
)

// act is something that is audited: what does it and what the log says of it.
type act struct {
	do   func(ctx context.Context) error
	name string
}

// auditedActs returns one of each act, ready to be done once.
func (s *store) auditedActs(t *testing.T) []act {
	t.Helper()
	e := s.everything(t)
	var acts []act
	add := func(name string, do func(ctx context.Context) error) { acts = append(acts, act{do, name}) }

	for event := range map[string]bool{"approve": true, "reject": true, "waive": true} {
		_, _, gate := s.waiting(t)
		add("gate."+event, func(ctx context.Context) error {
			_, err := s.DecideGate(ctx, s.tenant, gate, postgres.Decision{Event: event, Reason: "because"})
			return err
		})
	}

	v, _ := s.startReview(t, pullRequest(t, "a"))
	c, begun := s.beginReview(t, v)
	ids := []uuid.UUID{run.NewID(), run.NewID()}
	s.endReview(t, c, begun, postgres.ReviewEnd{Verdict: review.Passed, Occurrences: []postgres.Occurrence{found(ids[0], "fp1.a"), found(ids[1], "fp1.b")}})
	settle := func(id uuid.UUID, event string) func(ctx context.Context) error {
		return func(ctx context.Context) error {
			_, err := s.SettleFinding(ctx, s.tenant, id, postgres.FindingDecision{Event: event, Reason: "because", Scope: review.ScopeThis})
			return err
		}
	}
	add("finding.dismiss", settle(ids[0], "dismiss"))
	add("finding.reopen", settle(ids[0], "reopen"))
	add("finding.resolve", settle(ids[1], "resolve"))
	add("finding.reopen", func(ctx context.Context) error {
		_, err := s.SettleThread(ctx, s.tenant, postgres.Thread{Provider: review.GitHub, Repository: "acme/shop", PullRequest: 7, ID: "T2", Event: "reopen", Reason: "by the forge"})
		return err
	})
	s.exec(t, "UPDATE nofx.finding SET thread_id = 'T2' WHERE id = $1", ids[1])

	key := postgres.APIKey{ID: run.NewID(), Name: "audited", Prefix: "nofx_test_2", Role: "service", Scopes: []string{"runs:read"}, CreatedBy: "tester"}
	add("key.create", func(ctx context.Context) error { return s.CreateAPIKey(ctx, s.tenant, key, make([]byte, 32)) })
	add("key.revoke", func(ctx context.Context) error { return s.RevokeAPIKey(ctx, s.tenant, key.ID) })

	var repository postgres.Repository
	add("repository.create", func(ctx context.Context) (err error) {
		repository, err = s.CreateRepository(ctx, s.tenant, postgres.Repository{Provider: review.GitHub, Name: "acme/shop", Project: "default", Policy: "secret: words", CreatedBy: "tester"})
		return err
	})
	add("repository.change", func(ctx context.Context) error {
		_, err := s.ChangeRepository(ctx, s.tenant, repository.ID, postgres.RepositoryChange{Rotate: true}, nil)
		return err
	})
	add("repository.delete", func(ctx context.Context) error { return s.DeleteRepository(ctx, s.tenant, repository.ID) })
	if _, err := s.PinTools(s.ctx, s.tenant, review.GitHub, "server 1", "read", map[string]string{"get": "x"}); err != nil {
		t.Fatalf("PinTools() = %v", err)
	}
	add("tools.accept", func(ctx context.Context) error { return s.ForgetTools(ctx, s.tenant, review.GitHub) })

	var alert postgres.AlertEndpoint
	add("alert_endpoint.create", func(ctx context.Context) (err error) {
		alert, err = s.CreateAlertEndpoint(ctx, s.tenant, postgres.AlertEndpoint{URL: "https://hooks.example.com/secret: words", Events: []string{"run.failed"}, CreatedBy: "tester"}, sealedWords)
		return err
	})
	add("alert_endpoint.change", func(ctx context.Context) error {
		_, err := s.ChangeAlertEndpoint(ctx, s.tenant, alert.ID, postgres.AlertEndpointChange{Events: []string{"gate.failed"}}, nil)
		return err
	})
	add("alert_endpoint.rotate", func(ctx context.Context) error {
		_, err := s.RotateAlertSecret(ctx, s.tenant, alert.ID, sealedWords)
		return err
	})
	told := s.endpoint(t, s.tenant)
	s.tell(t, "gate.failed")
	delivery := one[uuid.UUID](t, s, "SELECT id FROM nofx.alert_delivery WHERE endpoint_id = $1", told.ID)
	add("alert_delivery.redeliver", func(ctx context.Context) error {
		_, err := s.RedeliverAlert(ctx, s.tenant, told.ID, delivery)
		return err
	})
	add("alert_endpoint.delete", func(ctx context.Context) error { return s.DeleteAlertEndpoint(ctx, s.tenant, alert.ID) })

	add("queue.pause", func(ctx context.Context) error { return s.PauseQueue(ctx, s.tenant, run.ReviewQueue, "because") })
	add("queue.resume", func(ctx context.Context) error {
		return s.ResumeQueue(ctx, s.tenant, run.ReviewQueue, "because")
	})

	_, steps := s.create(t, "a:")
	dead := outcome(s.claim(t, steps["a"].ID), "fail")
	dead.FailureClass = run.ClassExhausted
	if err := s.FinishStep(s.ctx, dead); err != nil {
		t.Fatalf("FinishStep(exhausted) = %v", err)
	}
	add("step.requeue", func(ctx context.Context) error {
		_, _, err := s.RetryStep(ctx, s.tenant, steps["a"].ID, true, "because")
		return err
	})

	add("blob.purge", func(ctx context.Context) error {
		_, err := s.PurgeBlob(ctx, s.tenant, tree.Digest{7}, "because")
		return err
	})
	gc, err := run.SystemPlan(run.ToolGC, "collect garbage", run.GCInputs{DryRun: true})
	if err != nil {
		t.Fatal(err)
	}
	add("storage.collect", func(ctx context.Context) error {
		_, err := s.StartWork(ctx, s.tenant, postgres.Work{Key: "sys:gc/all", Project: "default", Plan: gc, CreatedBy: "tester", Again: true})
		return err
	})
	hold := func(hold bool) func(ctx context.Context) error {
		return func(ctx context.Context) error {
			_, err := s.MarkCheckpoint(ctx, s.tenant, e.run.ID, e.ck, postgres.Mark{Hold: &hold, Reason: "because"})
			return err
		}
	}
	add("checkpoint.hold", hold(true))
	add("checkpoint.release", hold(false))

	add("url.sign", func(ctx context.Context) error {
		return s.AuditURLs(ctx, s.tenant, run.ArtifactID.Format(e.art), "GET", [][32]byte{sha256.Sum256([]byte("https://s3/x?sig=1"))}, time.Now().Add(time.Minute))
	})
	add("denied", func(ctx context.Context) error { return s.AuditDenied(ctx, s.tenant, "approveGate", "gate_x") })
	return acts
}

// No audit row, no act: what cannot be audited is undone, whatever it is, and what is done
// has exactly one row, which names who did it and how that one authenticated.
func TestS24_NoAuditNoAct(t *testing.T) {
	t.Parallel()
	s := setup(t)
	acts := s.auditedActs(t)
	ctx := postgres.WithVia(s.ctx, "api-key")
	s.exec(t, `CREATE FUNCTION public.fails() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'injected' USING ERRCODE = 'XX001'; END $$`)
	for _, a := range acts {
		s.exec(t, "CREATE TRIGGER fails BEFORE INSERT ON nofx.audit FOR EACH ROW EXECUTE FUNCTION public.fails()")
		before := s.image(t)
		if err := a.do(ctx); err == nil || !strings.Contains(err.Error(), "injected") {
			t.Errorf("%s without an audit row = %v, want the injected error", a.name, err)
		}
		s.wantUntouched(t, a.name+" without an audit row", before)
		s.exec(t, "DROP TRIGGER fails ON nofx.audit")

		newest := one[int64](t, s, "SELECT coalesce(max(seq), 0) FROM nofx.audit")
		if err := a.do(ctx); err != nil {
			t.Fatalf("%s = %v, want nil", a.name, err)
		}
		rows, err := s.Audit(s.ctx, s.tenant, postgres.AuditFilter{Limit: 10})
		if err != nil || len(rows) == 0 || rows[0].Seq != newest+1 {
			t.Fatalf("rows of %s = %+v, %v, want one more than %d", a.name, rows, err, newest)
		}
		got := rows[0]
		if got.Act != a.name || got.Actor != "tester" || got.Via != "api-key" || got.Object == "" || len(got.TraceID) != 32 || time.Since(got.At) > time.Hour {
			t.Errorf("row of %s = %+v, want it by tester with an API key", a.name, got)
		}
		if text := fmt.Sprintf("%s%s", got.Before, got.After); strings.Contains(text, "secret: words") || strings.Contains(text, "sig=1") {
			t.Errorf("row of %s tells a secret: %s", a.name, text)
		}
	}
	s.wantChain(t, s.tenant, one[int64](t, s, "SELECT max(seq) FROM nofx.audit"))
}

// wantChain fails unless the audit log of a tenant has rows 1 to n, each with the hash of
// the row before and its own.
func (s *store) wantChain(t testing.TB, tenant uuid.UUID, n int64) {
	t.Helper()
	const broken = `SELECT count(*) FROM (SELECT a.seq, a.hash, nofx.audit_hash(a) AS want, a.prev_hash, lag(a.hash, 1, decode(repeat('00', 32), 'hex')) OVER w AS before,
		row_number() OVER w AS n FROM nofx.audit a WHERE a.tenant_id = $1 WINDOW w AS (ORDER BY a.seq)) AS x
		WHERE x.seq <> x.n OR x.hash <> x.want OR x.prev_hash <> x.before`
	if got := one[int64](t, s, broken, tenant); got != 0 {
		t.Errorf("audit rows that break the chain = %d, want none", got)
	}
	if got := one[string](t, s, "SELECT count(*) || ' ' || coalesce(max(a.seq), 0) || ' ' || coalesce((SELECT h.seq FROM nofx.audit_head h WHERE h.tenant_id = $1), 0) FROM nofx.audit a WHERE a.tenant_id = $1", tenant); got != fmt.Sprint(n, n, n) {
		t.Errorf("rows, newest and head of the audit log = %s, want %d of each", got, n)
	}
}

// The log of each tenant is dense and a chain, however many write to it at once.
func TestS24_ChainOfFiftyWriters(t *testing.T) {
	t.Parallel()
	s := setup(t)
	other := s.Tenant(t)
	const writers, each = 50, 6
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				tenant := s.tenant
				if i%3 == 2 {
					tenant = other
				}
				k := postgres.APIKey{ID: run.NewID(), Name: fmt.Sprintf("k-%d-%d", w, i), Prefix: "nofx_test_x", Role: "viewer", CreatedBy: "tester"}
				if err := s.CreateAPIKey(s.ctx, tenant, k, make([]byte, 32)); err != nil {
					t.Errorf("CreateAPIKey() = %v", err)
				}
			}
		})
	}
	wg.Wait()
	s.wantChain(t, s.tenant, writers*each*2/3)
	s.wantChain(t, other, writers*each/3)
	s.wantNoDeadlock(t)
}

// Nobody changes or deletes rows of the log, and no login writes one by itself.
func TestS24_AuditOnlyGrows(t *testing.T) {
	t.Parallel()
	s := setup(t)
	if err := s.RevokeAPIKey(s.ctx, s.tenant, s.everything(t).key); err != nil {
		t.Fatal(err)
	}
	before := s.image(t)
	changes := []string{"UPDATE nofx.audit SET reason = 'x'", "DELETE FROM nofx.audit", "TRUNCATE nofx.audit"}
	for role, want := range map[string]string{postgres.GatewayRole: "42501", postgres.WorkerRole: "42501", "nofx_system": "42501", "nofx_owner": "NX006", "postgres": "NX006"} {
		if role == "postgres" {
			role = one[string](t, s, "SELECT session_user::text")
		}
		for _, sql := range changes {
			if _, err := s.in(s.ctx, role, sql); sqlState(err) != want {
				t.Errorf("%s as %s = %v, want %s", sql, role, err, want)
			}
		}
	}
	for _, sql := range []string{
		"INSERT INTO nofx.audit SELECT * FROM nofx.audit", "UPDATE nofx.audit_head SET seq = 9", "DELETE FROM nofx.audit_denial",
		"SELECT nofx.audit('key.create', 'x', NULL, NULL, NULL)", "ALTER TABLE nofx.audit DISABLE TRIGGER ALL",
	} {
		for _, login := range []string{postgres.GatewayRole, postgres.WorkerRole} {
			if _, err := s.in(s.ctx, login, sql); sqlState(err) != "42501" {
				t.Errorf("%s as %s = %v, want 42501", sql, login, err)
			}
		}
	}
	s.wantUntouched(t, "whoever tried", before)
}

// A flood of refusals has few rows, which tell how many there were.
func TestS24_DenialsAreBounded(t *testing.T) {
	t.Parallel()
	s := setup(t)
	deny := func(actor string, n int) {
		t.Helper()
		for range n {
			if err := s.AuditDenied(postgres.WithActor(s.ctx, actor), s.tenant, "createAPIKey", "api-keys"); err != nil {
				t.Fatalf("AuditDenied() = %v", err)
			}
		}
	}
	// All attempts are of one minute: a trigger sees to it, whatever the clock does.
	s.exec(t, `CREATE FUNCTION public.noon() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.minute := 'tomorrow'; RETURN NEW; END $$;
		CREATE TRIGGER noon BEFORE INSERT ON nofx.audit_denial FOR EACH ROW EXECUTE FUNCTION public.noon()`)
	deny("key:a", 100)
	deny("key:b", 1)
	attempts := func(actor string) string {
		t.Helper()
		return one[string](t, s, "SELECT coalesce(string_agg(a.after->>'attempts' || coalesce('/' || (a.after->>'attempts_before'), ''), ' ' ORDER BY a.seq), '') FROM nofx.audit a WHERE a.actor = $1", actor)
	}
	if got, want := attempts("key:a"), "1 2 3 4 5 6 7 8 9 10 16 32 64"; got != want {
		t.Errorf("attempts in rows of a flood = %s, want %s", got, want)
	}
	if got := attempts("key:b"); got != "1" {
		t.Errorf("attempts in rows of another actor = %s, want 1", got)
	}
	// The next minute's first row tells how many there were.
	s.exec(t, "DROP TRIGGER noon ON nofx.audit_denial; UPDATE nofx.audit_denial SET minute = 'yesterday'")
	deny("key:a", 1)
	if got := attempts("key:a"); !strings.HasSuffix(got, " 1/100") {
		t.Errorf("attempts in rows = %s, want 1 after 100 at the end", got)
	}
}

// Tenants read their own log alone, by act, actor and time.
func TestS24_AuditFilters(t *testing.T) {
	t.Parallel()
	s := setup(t)
	e := s.everything(t)
	other := s.Tenant(t)
	if err := s.RevokeAPIKey(postgres.WithActor(s.ctx, "somebody"), s.tenant, e.key); err != nil {
		t.Fatal(err)
	}
	if err := s.RevokeAPIKey(s.ctx, other, e.key); !errors.Is(err, fault.NotFound) {
		t.Errorf("RevokeAPIKey(of another tenant) = %v, want not found", err)
	}
	now := one[time.Time](t, s, "SELECT clock_timestamp()")
	for name, tt := range map[string]struct {
		f    postgres.AuditFilter
		want string
	}{
		"all":     {postgres.AuditFilter{}, "[2 key.revoke 1 key.create]"},
		"act":     {postgres.AuditFilter{Act: "key.create"}, "[1 key.create]"},
		"actor":   {postgres.AuditFilter{Actor: "somebody"}, "[2 key.revoke]"},
		"neither": {postgres.AuditFilter{Actor: "somebody", Act: "key.create"}, "[]"},
		"since":   {postgres.AuditFilter{Since: &now}, "[]"},
		"until":   {postgres.AuditFilter{Until: &now}, "[2 key.revoke 1 key.create]"},
		"before":  {postgres.AuditFilter{Before: 2}, "[1 key.create]"},
	} {
		tt.f.Limit = 10
		rows, err := s.Audit(s.ctx, s.tenant, tt.f)
		if err != nil {
			t.Fatalf("Audit(%s) = %v", name, err)
		}
		got := []string{}
		for _, r := range rows {
			got = append(got, fmt.Sprint(r.Seq, " ", r.Act))
		}
		if fmt.Sprint(got) != tt.want {
			t.Errorf("Audit(%s) = %s, want %s", name, got, tt.want)
		}
		if rows, err := s.Audit(s.ctx, other, tt.f); err != nil || len(rows) != 0 {
			t.Errorf("Audit(%s) of another tenant = %d rows, %v, want none", name, len(rows), err)
		}
	}
}

// Heads of logs that have grown are listed once a day, until they are stored.
func TestS24_AuditHeads(t *testing.T) {
	t.Parallel()
	s := setup(t)
	tenants := []uuid.UUID{s.tenant, s.Tenant(t), s.Tenant(t)}
	slices.SortFunc(tenants, func(a, b uuid.UUID) int { return strings.Compare(a.String(), b.String()) })
	grow := func(tenant uuid.UUID) {
		t.Helper()
		if err := s.AuditDenied(s.ctx, tenant, "createAPIKey", "api-keys"); err != nil {
			t.Fatal(err)
		}
	}
	day := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	wantHeads := func(what string, day time.Time, want ...uuid.UUID) []postgres.AuditHead {
		t.Helper()
		heads, err := s.AuditHeads(s.ctx, day, uuid.Nil, 10)
		if err != nil {
			t.Fatalf("AuditHeads() = %v", err)
		}
		got := []uuid.UUID{}
		for _, h := range heads {
			got = append(got, h.TenantID)
		}
		if !slices.Equal(got, want) {
			t.Errorf("AuditHeads(), %s = %v, want %v", what, got, want)
		}
		return heads
	}
	grow(tenants[0])
	grow(tenants[1])
	grow(tenants[1])
	heads := wantHeads("before any is stored", day, tenants[0], tenants[1])
	for _, h := range heads {
		if err := s.AuditAnchored(s.ctx, h, day); err != nil {
			t.Fatalf("AuditAnchored() = %v", err)
		}
	}
	if heads[1].Seq != 2 || len(heads[1].Hash) != 32 || heads[1].At.IsZero() {
		t.Errorf("head = %+v, want that of row 2", heads[1])
	}
	grow(tenants[0])
	wantHeads("on the same day", day.Add(11*time.Hour))
	wantHeads("on the next day", day.Add(12*time.Hour), tenants[0])
}

// What the row of the audit log adds to an approval, the act that people wait for most:
// approvals with and without it take turns.
func BenchmarkApproval(b *testing.B) {
	audited, plain := setup(b), setup(b)
	plain.exec(b, `CREATE OR REPLACE FUNCTION nofx.audit(p_act text, p_object text, p_reason text, p_before jsonb, p_after jsonb) RETURNS void LANGUAGE plpgsql AS $$ BEGIN END $$`)
	took := map[*store]time.Duration{}
	for range b.N {
		for _, s := range []*store{audited, plain} {
			_, _, gate := s.waiting(b)
			began := time.Now()
			if _, err := s.decide(gate, "approve"); err != nil {
				b.Fatal(err)
			}
			took[s] += time.Since(began)
		}
	}
	us := func(s *store) float64 { return float64(took[s].Microseconds()) / float64(b.N) }
	b.ReportMetric(us(audited), "audited-µs/op")
	b.ReportMetric(us(plain), "plain-µs/op")
	b.ReportMetric(us(audited)-us(plain), "row-µs/op")
	b.ReportMetric(0, "ns/op")
}
