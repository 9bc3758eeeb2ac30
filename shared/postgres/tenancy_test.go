package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/shared/tree"
)

// The tenancy rules T1–T5, as the catalogue shows them: every query gives what
// breaks one, and so no rows.
var tenancyRules = map[string]string{
	"T1: a table of nofx has a tenant, or is the same for all": `
		SELECT c.relname::text FROM pg_class c WHERE c.relnamespace = 'nofx'::regnamespace AND c.relkind IN ('r', 'p')
		AND c.relname NOT IN ('schema_migration', 'machine_state', 'transition', 'worker', 'contact', 'feed_epoch')
		AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'tenant_id' AND a.atttypid = 'uuid'::regtype AND a.attnotnull)`,
	"T1: keys begin with the tenant, or hold it when they are unique only": `
		SELECT conrelid::regclass || ' ' || conname FROM pg_constraint k WHERE connamespace = 'nofx'::regnamespace AND contype IN ('p', 'u', 'f')
		AND conrelid::regclass::text NOT IN ('nofx.schema_migration', 'nofx.machine_state', 'nofx.transition', 'nofx.worker', 'nofx.contact', 'nofx.feed_epoch') AND conname NOT LIKE '%machine_state%'
		AND confrelid <> 'nofx.machine_state'::regclass AND conname <> 'tenant_slug_key' -- a slug is given by an administrator
		-- That another tenant has a value is told by none that holds the tenant, wherever in it.
		AND 'tenant_id' NOT IN (SELECT attname FROM pg_attribute a WHERE a.attrelid = k.conrelid AND a.attnum = ANY (CASE contype WHEN 'u' THEN k.conkey ELSE k.conkey[1:1] END))`,
	"T1: a foreign key keeps to its tenant": `
		SELECT conrelid::regclass || ' ' || conname FROM pg_constraint k WHERE connamespace = 'nofx'::regnamespace AND contype = 'f' AND confrelid <> 'nofx.machine_state'::regclass
		AND conrelid <> 'nofx.transition'::regclass
		AND (SELECT attname FROM pg_attribute a WHERE a.attrelid = k.confrelid AND a.attnum = k.confkey[1]) <> 'tenant_id'`,
	"T2: row level security is on and forced": `
		SELECT c.relname::text FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id'
		WHERE c.relnamespace = 'nofx'::regnamespace AND c.relkind IN ('r', 'p') AND NOT (c.relrowsecurity AND c.relforcerowsecurity)`,
	"T2: the policy has both clauses": `
		SELECT c.relname::text FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id'
		WHERE c.relnamespace = 'nofx'::regnamespace AND c.relkind IN ('r', 'p') AND NOT EXISTS (
			SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND p.polname = 'tenant' AND p.polcmd = '*' AND p.polroles = '{0}' AND p.polpermissive
			AND pg_get_expr(p.polqual, p.polrelid) = '(tenant_id = ( SELECT nofx.tenant() AS tenant))'
			AND pg_get_expr(p.polwithcheck, p.polrelid) = '(tenant_id = ( SELECT nofx.tenant() AS tenant))')`,
	"T2: no other policy but that of nofx_system": `
		SELECT polrelid::regclass || ' ' || polname FROM pg_policy WHERE polname <> 'tenant' AND polroles <> ARRAY['nofx_system'::regrole::oid]`,
	"T4: no role of ours passes row level security by, and three of them log in at most": `
		SELECT rolname::text FROM pg_roles WHERE rolname LIKE 'nofx\_%' AND (rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolreplication
			OR rolcanlogin AND rolname NOT IN ('nofx_gateway', 'nofx_worker', 'nofx_migrate'))`,
	"T4: what processes log in as owns nothing": `
		SELECT refobjid::regrole || ': ' || classid::regclass || ' ' || objid FROM pg_shdepend WHERE refobjid IN ('nofx_app'::regrole, 'nofx_gateway'::regrole, 'nofx_worker'::regrole)
		AND deptype = 'o' AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())`,
	"T4: logins are members of nofx_app, and of nothing else": `
		SELECT member::regrole || ' of ' || roleid::regrole FROM pg_auth_members WHERE member IN ('nofx_app'::regrole, 'nofx_gateway'::regrole, 'nofx_worker'::regrole)
			AND (member = 'nofx_app'::regrole OR roleid <> 'nofx_app'::regrole)
		UNION ALL
		SELECT r || ' not of nofx_app' FROM unnest(ARRAY['nofx_gateway', 'nofx_worker']) AS r WHERE NOT pg_has_role(r, 'nofx_app', 'USAGE')`,
	"T4: logins have their limits, which no role inherits": `
		SELECT r || ' without ' || c FROM unnest(ARRAY['nofx_gateway', 'nofx_worker']) AS r, unnest(ARRAY['lock_timeout=2s', 'statement_timeout=5s',
			'idle_in_transaction_session_timeout=30s', 'plan_cache_mode=force_generic_plan', 'enable_seqscan=off', 'jit=off']) AS c
		WHERE NOT EXISTS (SELECT FROM pg_db_role_setting s WHERE s.setrole = r::regrole AND s.setdatabase = 0 AND c = ANY (s.setconfig))`,
	"T4: logins update one column and delete nothing": `
		SELECT r || ' ' || a.attrelid::regclass || '.' || a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0, unnest(ARRAY['nofx_gateway', 'nofx_worker']) AS r
		WHERE c.relnamespace = 'nofx'::regnamespace AND c.relkind IN ('r', 'p')
		AND (has_column_privilege(r, c.oid, a.attnum, 'UPDATE') AND (c.relname, a.attname) NOT IN (('step', 'job_id'))
			OR has_table_privilege(r, c.oid, 'DELETE, TRUNCATE, REFERENCES, TRIGGER'))`,
	"T4: a login inserts only what is no state and what its process writes": `
		SELECT r || ' ' || c.relname FROM pg_class c, unnest(ARRAY['nofx_gateway', 'nofx_worker']) AS r WHERE c.relnamespace = 'nofx'::regnamespace AND c.relkind IN ('r', 'p')
		AND has_table_privilege(r, c.oid, 'INSERT') AND (r, c.relname) NOT IN (('nofx_worker', 'blob'), ('nofx_worker', 'object'), ('nofx_gateway', 'idempotency_key'))`,
	"T4: gateways insert and delete jobs of River, and change nothing of it": `
		SELECT c.relname::text FROM pg_class c WHERE c.relnamespace = 'river'::regnamespace AND c.relkind IN ('r', 'p')
		AND (has_table_privilege('nofx_gateway', c.oid, 'UPDATE, TRUNCATE, REFERENCES, TRIGGER')
			OR has_table_privilege('nofx_gateway', c.oid, 'INSERT, DELETE') AND c.relname <> 'river_job')`,
	"T4: logins make nothing in our schemas": `
		SELECT r || ' ' || nspname FROM pg_namespace, unnest(ARRAY['nofx_gateway', 'nofx_worker']) AS r WHERE nspname IN ('nofx', 'river') AND has_schema_privilege(r, oid, 'CREATE')`,
}

// The rules T5 and T6 for what may look across tenants, in the same form.
var hardeningRules = map[string]string{
	"T5: definer functions belong to nofx_system, have a fixed path and are not for the public": `
		SELECT p.oid::regprocedure::text FROM pg_proc p WHERE p.pronamespace = 'nofx'::regnamespace AND p.prosecdef
		AND (p.proowner <> 'nofx_system'::regrole OR NOT coalesce('search_path=nofx, pg_temp' = ANY (p.proconfig), false))`,
	"T5: no function is for the public": `
		SELECT p.oid::regprocedure::text FROM pg_proc p WHERE p.pronamespace = 'nofx'::regnamespace
		AND EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS x WHERE x.grantee = 0)`,
	"T6: our schemas are not for the public": `
		SELECT nspname::text FROM pg_namespace n, aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) AS x WHERE nspname IN ('nofx', 'river') AND x.grantee = 0`,
	"T5: views ask as whoever reads them": `
		SELECT c.relname::text FROM pg_class c WHERE c.relnamespace = 'nofx'::regnamespace AND c.relkind IN ('v', 'm')
		AND (c.relkind = 'm' OR NOT coalesce('security_invoker=true' = ANY (c.reloptions) OR 'security_invoker=on' = ANY (c.reloptions), false))`,
	"T5: no helper is for a login, and no trigger function": `
		SELECT r || ' ' || p.oid::regprocedure FROM pg_proc p, unnest(ARRAY['nofx_gateway', 'nofx_worker']) AS r WHERE p.pronamespace = 'nofx'::regnamespace
		AND has_function_privilege(r, p.oid, 'EXECUTE') AND (p.prorettype = 'trigger'::regtype
			OR NOT p.prosecdef AND p.proname NOT IN ('tenant', 'subject_name', 'start_at', 'head_after'))`,
}

// wantRules fails for each rule that something breaks.
func (s *store) wantRules(t *testing.T, rules map[string]string) {
	t.Helper()
	for name, sql := range rules {
		if broken := all[string](t, s, sql); len(broken) > 0 {
			t.Errorf("%s: broken by %s", name, strings.Join(broken, ", "))
		}
	}
}

func TestS10_Hardening(t *testing.T) {
	t.Parallel()
	s := setup(t)
	s.wantRules(t, hardeningRules)
	if n := one[int](t, s, "SELECT count(*) FROM pg_proc WHERE pronamespace = 'nofx'::regnamespace AND prosecdef"); n < 100 {
		t.Errorf("definer functions = %d, want more than 100: the queries look at nothing", n)
	}
}

func TestS10_HardeningSeesBreaches(t *testing.T) {
	t.Parallel()
	setup(t).wantBreaches(t, hardeningRules, map[string]string{
		"T5: definer functions belong to nofx_system, have a fixed path and are not for the public": "ALTER FUNCTION nofx.present_key(uuid, bytea) RESET search_path",
		"T5: no function is for the public":                     "GRANT EXECUTE ON FUNCTION nofx.tenant() TO PUBLIC",
		"T5: views ask as whoever reads them":                   "CREATE VIEW nofx.peek AS SELECT * FROM nofx.run",
		"T5: no helper is for a login, and no trigger function": "GRANT EXECUTE ON FUNCTION nofx.audit(text, text, text, jsonb, jsonb) TO nofx_worker",
		"T6: our schemas are not for the public":                "GRANT USAGE ON SCHEMA river TO PUBLIC",
	})
}

func TestS08_Catalogue(t *testing.T) {
	t.Parallel()
	s := setup(t)
	s.wantRules(t, tenancyRules)
	if n := one[int](t, s, "SELECT count(*) FROM pg_policy WHERE polname = 'tenant'"); n < 15 {
		t.Errorf("tables with a tenant = %d, want 15 at least: the queries above look at nothing", n)
	}
}

// Each guard is seen to be looked at: with it broken, its rule is red.
func TestS08_CatalogueSeesBreaches(t *testing.T) {
	t.Parallel()
	setup(t).wantBreaches(t, tenancyRules, map[string]string{
		"T1: a table of nofx has a tenant, or is the same for all":               "CREATE TABLE nofx.stray (id int)",
		"T1: keys begin with the tenant, or hold it when they are unique only":   "ALTER TABLE nofx.run ADD UNIQUE (trace_id)",
		"T2: row level security is on and forced":                                "ALTER TABLE nofx.event NO FORCE ROW LEVEL SECURITY",
		"T2: the policy has both clauses":                                        "ALTER POLICY tenant ON nofx.run WITH CHECK (true)",
		"T2: no other policy but that of nofx_system":                            "CREATE POLICY open ON nofx.run USING (true)",
		"T4: logins are members of nofx_app, and of nothing else":                "GRANT nofx_system TO nofx_worker",
		"T4: logins have their limits, which no role inherits":                   "ALTER ROLE nofx_gateway RESET lock_timeout",
		"T4: logins update one column and delete nothing":                        "GRANT UPDATE (state) ON nofx.run TO nofx_app",
		"T4: a login inserts only what is no state and what its process writes":  "GRANT INSERT ON nofx.blob TO nofx_gateway",
		"T4: gateways insert and delete jobs of River, and change nothing of it": "GRANT UPDATE ON river.river_job TO nofx_app",
		"T4: logins make nothing in our schemas":                                 "GRANT CREATE ON SCHEMA nofx TO nofx_worker",
	})
}

// wantBreaches fails for each rule that its breach does not break.
func (s *store) wantBreaches(t *testing.T, rules, breaches map[string]string) {
	t.Helper()
	for name, breach := range breaches {
		undo := errors.New("undo")
		err := pgx.BeginFunc(s.ctx, s.Admin, func(tx pgx.Tx) error {
			if _, err := tx.Exec(s.ctx, breach); err != nil {
				return fmt.Errorf("%s: %w", breach, err)
			}
			rows, err := tx.Query(s.ctx, rules[name])
			if err != nil {
				return err
			}
			broken, err := pgx.CollectRows(rows, pgx.RowTo[string])
			if err == nil && len(broken) == 0 {
				t.Errorf("%s: not broken by %s", name, breach)
			}
			return errors.Join(undo, err)
		})
		if err.Error() != undo.Error() {
			t.Error(err)
		}
	}
}

// everything is one of each thing that a tenant can have.
type everything struct {
	run                 run.Run
	step, gate, ck, art uuid.UUID
	key, merge          uuid.UUID
	claim               *postgres.Claim
}

func (s *store) everything(t *testing.T) everything {
	t.Helper()
	r, steps := s.create(t, "a:", "m:", "x:")
	c := s.claim(t, steps["a"].ID)
	pre := checkpoint(run.PreCheckpoint)
	if err := s.RecordCheckpoint(s.ctx, c, pre); err != nil {
		t.Fatal(err)
	}
	if err := s.RecordLogChunk(s.ctx, c, postgres.LogChunk{N: 1, Bytes: 3, Lines: 1, Key: "log", SHA256: make([]byte, 32)}); err != nil {
		t.Fatal(err)
	}
	f := outcome(c, "succeed")
	f.Artifacts = []run.Artifact{{ID: run.NewID(), Name: "x", Key: "k", MediaType: "text/plain", SHA256: make([]byte, 32)}}
	post := checkpoint(run.PostCheckpoint, pre.ID)
	post.Blobs = []tree.Blob{{SHA256: tree.Digest{7}, Location: tree.Location{Size: 1, Len: 1, Pack: &tree.Digest{8}}}}
	post.Objects = []tree.Object{{Key: "k", SHA256: tree.Digest{7}, Bytes: 1, Kind: "blob"}}
	f.Checkpoints = []*postgres.Checkpoint{post}
	if err := s.FinishStep(s.ctx, f); err != nil {
		t.Fatal(err)
	}
	m := s.do(t, steps["m"].ID, "approval")
	k := postgres.APIKey{ID: run.NewID(), Name: "ci", Prefix: "nofx_test_1", Role: "admin", CreatedBy: "tester"}
	if err := s.CreateAPIKey(s.ctx, s.tenant, k, make([]byte, 32)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.post(s.tenant, key, plan(t, "a:")); err != nil {
		t.Fatal(err)
	}
	merge := run.NewID()
	source, _ := s.create(t, "a:")
	s.exec(t, `INSERT INTO nofx.merge (tenant_id, id, target_run_id, source_run_id, target_head, source_head, target_leaves, source_leaves, base_id, strategy, mode, created_by)
		VALUES ($1, $2, $3, $4, $5, $5, ARRAY[$5::uuid], ARRAY[$5::uuid], $5, 'manual', 'normal', 'tester')`, s.tenant, merge, r.ID, source.ID, post.ID)
	return everything{r, c.StepID, m.Gate.ID, post.ID, f.Artifacts[0].ID, k.ID, merge, s.claim(t, steps["x"].ID)}
}

// Two tenants see nothing of each other through any method that takes an id,
// and the lists of one are empty of the other.
func TestS06_TwoTenants(t *testing.T) {
	t.Parallel()
	s := setup(t)
	e := s.everything(t)
	other := s.Tenant(t)
	s.behindHorizon(t)
	used := one[time.Time](t, s, "SELECT max(last_ref) FROM nofx.blob")
	before := s.image(t)
	for name, do := range map[string]func() error{
		"Run":         func() error { _, err := s.Run(s.ctx, other, e.run.ID); return err },
		"RunDetail":   func() error { _, err := s.RunDetail(s.ctx, other, e.run.ID); return err },
		"CancelRun":   func() error { _, err := s.CancelRun(s.ctx, other, e.run.ID, postgres.Verb{Reason: "x"}); return err },
		"Steps":       func() error { _, err := s.Steps(s.ctx, other, e.run.ID, -1, 10); return err },
		"Step":        func() error { _, _, err := s.Step(s.ctx, other, e.step); return err },
		"Log":         func() error { _, err := s.Log(s.ctx, other, e.step, nil, 0, 0); return err },
		"Events":      func() error { _, err := s.Events(s.ctx, other, e.run.ID, 0, nil, 10); return err },
		"Checkpoints": func() error { _, err := s.Checkpoints(s.ctx, other, e.run.ID, 0, 10); return err },
		"Checkpoint":  func() error { _, err := s.Checkpoint(s.ctx, other, e.run.ID, e.ck); return err },
		"Artifacts":   func() error { _, err := s.Artifacts(s.ctx, other, e.run.ID, nil, 10); return err },
		"Artifact":    func() error { _, err := s.Artifact(s.ctx, other, e.art); return err },
		"CompleteUpload": func() error {
			c := *e.claim
			c.TenantID = other
			return s.CompleteUpload(s.ctx, &c, e.art, "k")
		},
		"Merge":        func() error { _, err := s.Merge(s.ctx, other, e.merge); return err },
		"Merges":       func() error { _, err := s.Merges(s.ctx, other, e.run.ID, nil, 10); return err },
		"ComputeMerge": func() error { _, err := s.ComputeMerge(s.ctx, other, e.merge, "x"); return err },
		"MergeWork":    func() error { _, err := s.MergeWork(s.ctx, other, e.merge); return err },
		"AbandonMerge": func() error { _, err := s.AbandonMerge(s.ctx, other, e.merge, postgres.Verb{Reason: "x"}); return err },
		"StartMerge": func() error {
			_, _, err := s.StartMerge(s.ctx, other, postgres.NewMerge{TargetRunID: e.run.ID, SourceRunID: e.run.ID, Strategy: run.ManualStrategy, Mode: run.NormalMode})
			return err
		},
		"ResolveMerge": func() error {
			_, err := s.ResolveMerge(s.ctx, other, e.merge, []run.MergeResolution{{Unit: run.PathUnit, At: "a"}}, nil, "x")
			return err
		},
		"CommitMerge": func() error {
			_, _, _, err := s.CommitMerge(s.ctx, other, e.merge, false, postgres.Verb{}, "x")
			return err
		},
		"RecordMerge": func() error {
			c := *e.claim
			c.TenantID = other
			return s.RecordMerge(s.ctx, &c, e.merge, 1, postgres.MergeResult{Outcome: run.Clean})
		},
		"Gate": func() error { _, err := s.Gate(s.ctx, other, e.gate); return err },
		"DecideGate": func() error {
			_, err := s.DecideGate(s.ctx, other, e.gate, postgres.Decision{Event: "approve"})
			return err
		},
		"RevokeAPIKey": func() error { return s.RevokeAPIKey(s.ctx, other, e.key) },
		"FinishStep": func() error {
			c := *e.claim
			c.TenantID = other
			return s.FinishStep(s.ctx, outcome(&c, "succeed"))
		},
		"RecordCheckpoint": func() error {
			c := *e.claim
			c.TenantID = other
			return s.RecordCheckpoint(s.ctx, &c, checkpoint(run.PreCheckpoint))
		},
		"RecordLogChunk": func() error {
			c := *e.claim
			c.TenantID = other
			return s.RecordLogChunk(s.ctx, &c, postgres.LogChunk{N: 1, Key: "k", SHA256: make([]byte, 32)})
		},
		"Sweep": func() error {
			_, err := s.Sweep(s.ctx, postgres.Due{TenantID: other, RunID: e.run.ID, StepID: &e.step, Kind: postgres.DueLease}, postgres.SweepRules{}, nil)
			return err
		},
		"Sweep(deadline)": func() error {
			_, err := s.Sweep(s.ctx, postgres.Due{TenantID: other, RunID: e.run.ID, Kind: postgres.DueDeadline}, postgres.SweepRules{}, nil)
			return err
		},
	} {
		if err := do(); !errors.Is(err, fault.NotFound) {
			t.Errorf("%s(another tenant's) = %v, want not found", name, err)
		}
	}
	for name, count := range map[string]func(tenant uuid.UUID) (int, error){
		"Runs": func(tn uuid.UUID) (int, error) {
			l, _, err := s.Runs(s.ctx, tn, postgres.RunFilter{Limit: 10})
			return len(l), err
		},
		"Gates": func(tn uuid.UUID) (int, error) {
			l, _, err := s.Gates(s.ctx, tn, postgres.GateFilter{Limit: 10})
			return len(l), err
		},
		"APIKeys": func(tn uuid.UUID) (int, error) { l, err := s.APIKeys(s.ctx, tn, nil, 10); return len(l), err },
		"LocateBlobs": func(tn uuid.UUID) (int, error) {
			l, err := s.LocateBlobs(s.ctx, tn, []tree.Digest{{7}})
			return len(l), err
		},
		"KnownBlobs": func(tn uuid.UUID) (int, error) {
			l, err := s.KnownBlobs(s.ctx, tn, []tree.Digest{{7}})
			return len(l), err
		},
		"Feed": func(tn uuid.UUID) (int, error) {
			s.untilFed(t)
			l, _, err := s.Feed(s.ctx, tn, postgres.FeedFilter{}, postgres.FeedCursor{}, 10)
			return len(l), err
		},
		"Claim": func(tn uuid.UUID) (int, error) {
			c, err := s.Claim(s.ctx, wakeUp(tn, one[uuid.UUID](t, s, "SELECT id FROM nofx.step WHERE state = 'ready' LIMIT 1"), 1), postgres.Worker{ID: "w"}, ttl, noCheckpoint)
			return map[bool]int{true: 1}[c != nil], err
		},
		"EventHeads": func(tn uuid.UUID) (int, error) {
			l, err := s.EventHeads(s.ctx, []postgres.RunRef{{Tenant: tn, Run: e.run.ID}})
			return len(l), err
		},
	} {
		if n, err := count(other); n != 0 || err != nil {
			t.Errorf("%s of the other tenant = %d, %v, want none", name, n, err)
		}
		if name == "Claim" {
			continue // it would change what is compared
		}
		if n, err := count(s.tenant); n == 0 || err != nil {
			t.Errorf("%s of its own tenant = %d, %v, want some: the test looks at nothing", name, n, err)
		}
		if name == "KnownBlobs" { // it notes when they were used
			s.exec(t, "UPDATE nofx.blob SET last_ref = $1", used)
		}
	}
	s.wantUntouched(t, "the other tenant", before)
}

// Outside the opener a login sees no row of any table and may write none, also
// on a connection that a tenant has just used.
func TestS09_NoTenantNoRows(t *testing.T) {
	t.Parallel()
	s := setupWith(t, postgres.Config{MaxConns: 1})
	s.everything(t)
	conns, err := pgxpool.New(s.ctx, s.AppURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conns.Close()
	for _, pool := range []*pgxpool.Pool{conns, postgres.PoolOf(s.DB)} {
		for _, table := range all[string](t, s, `SELECT c.oid::regclass::text FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id'
			WHERE c.relnamespace = 'nofx'::regnamespace AND c.relkind = 'r' AND has_table_privilege('nofx_app', c.oid, 'SELECT')`) {
			var n int
			if err := pool.QueryRow(s.ctx, "SELECT count(*) FROM "+table).Scan(&n); err != nil || n != 0 {
				t.Errorf("rows of %s outside a tenant = %d, %v, want 0", table, n, err)
			}
		}
		for _, sql := range []string{
			"INSERT INTO nofx.blob (tenant_id, sha256, size, len) VALUES ('" + s.tenant.String() + "', decode(repeat('00', 32), 'hex'), 1, 1)",
			"SELECT nofx.run_transition(id, 'cancel', 'x') FROM unnest(ARRAY['" + one[uuid.UUID](t, s, "SELECT id FROM nofx.run LIMIT 1").String() + "'::uuid]) AS id",
		} {
			if _, err := pool.Exec(s.ctx, sql); err == nil {
				t.Errorf("%s outside a tenant = nil, want an error", sql)
			}
		}
	}
}

// Tenants take turns on one connection, with failures and cancelled requests in
// between, and each sees its own row alone; also as behind a transaction pooler.
func TestS09_NoLeakOverOneConnection(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]postgres.Config{"direct": {MaxConns: 1}, "pooled": {MaxConns: 1, Pooled: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := setupWith(t, c)
			tenants := []uuid.UUID{s.tenant, s.Tenant(t), s.Tenant(t)}
			own := map[uuid.UUID]uuid.UUID{}
			for _, tenant := range tenants {
				r, _, err := s.CreateRun(s.ctx, tenant, postgres.NewRun{Project: "default", Plan: plan(t, "a:"), CreatedBy: "x"})
				if err != nil {
					t.Fatal(err)
				}
				own[tenant] = r.ID
			}
			var wg sync.WaitGroup
			for i, tenant := range tenants {
				wg.Go(func() {
					for n := range 150 {
						list, _, err := s.Runs(s.ctx, tenant, postgres.RunFilter{Limit: 10})
						if err != nil || len(list) != 1 || list[0].ID != own[tenant] {
							t.Errorf("Runs(tenant %d) = %d runs, %v, want its own alone", i, len(list), err)
							return
						}
						switch n % 10 {
						case 3:
							if _, err := s.Run(s.ctx, tenant, own[tenants[(i+1)%3]]); !errors.Is(err, fault.NotFound) {
								t.Errorf("Run(of another) = %v, want not found", err)
							}
						case 7:
							if _, err := s.CancelRun(s.ctx, tenant, own[tenant], postgres.Verb{Reason: ""}); !errors.Is(err, fault.Invalid) {
								t.Errorf("CancelRun(without reason) = %v, want invalid", err)
							}
						case 9:
							gone, cancel := context.WithCancel(s.ctx)
							cancel()
							if _, err := s.Run(gone, tenant, own[tenant]); err == nil {
								t.Error("Run() of a client that went away = nil, want an error")
							}
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

// The whole life of a run needs one connection, and no prepared statement that
// a transaction pooler would lose.
func TestOneConnection(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]postgres.Config{"direct": {MaxConns: 1}, "pooled": {MaxConns: 1, Pooled: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := setupWith(t, c)
			if err := s.Ready(s.ctx); err != nil {
				t.Errorf("Ready() = %v, want nil", err)
			}
			e := s.everything(t)
			checks := map[string]error{}
			var k postgres.PresentedKey
			k, checks["PresentedKey"] = s.PresentedKey(s.ctx, e.key, nil)
			if k.Tenant != s.tenant || k.Role != "admin" || k.Expired || k.Revoked {
				t.Errorf("PresentedKey() = %+v, want an admin's of the tenant", k)
			}
			_, _, checks["Heartbeat"] = s.Heartbeat(s.ctx, []postgres.Lease{{StepID: e.claim.StepID, Fence: e.claim.Fence}}, postgres.LeaseRules{TTL: ttl})
			_, checks["RunDetail"] = s.RunDetail(s.ctx, s.tenant, e.run.ID)
			_, checks["Checkpoint"] = s.Checkpoint(s.ctx, s.tenant, e.run.ID, e.ck)
			_, checks["Artifacts"] = s.Artifacts(s.ctx, s.tenant, e.run.ID, nil, 10)
			_, checks["Log"] = s.Log(s.ctx, s.tenant, e.step, nil, 0, 0)
			_, _, checks["Runs"] = s.Runs(s.ctx, s.tenant, postgres.RunFilter{States: []run.State{run.Running, run.Failed}, Tool: "gate:*", Words: []string{"x"}, Project: "default", Labels: map[string]string{"a": "b"}, Limit: 5})
			_, _, checks["Gates"] = s.Gates(s.ctx, s.tenant, postgres.GateFilter{State: run.Pending, After: &e.ck, Limit: 5})
			_, checks["APIKeys"] = s.APIKeys(s.ctx, s.tenant, &e.key, 5)
			_, checks["FeedHead"] = s.FeedHead(s.ctx, s.tenant)
			_, _, checks["Feed"] = s.Feed(s.ctx, s.tenant, postgres.FeedFilter{Runs: []uuid.UUID{e.run.ID}, Types: []string{"step.*"}, Project: "default"}, postgres.FeedCursor{}, 5)
			_, checks["EventHeads"] = s.EventHeads(s.ctx, []postgres.RunRef{{Tenant: s.tenant, Run: e.run.ID}})
			_, checks["RunCounts"] = s.RunCounts(s.ctx)
			_, checks["QueueDepths"] = s.QueueDepths(s.ctx)
			_, checks["TenantQueues"] = s.TenantQueues(s.ctx, s.tenant)
			checks["PauseQueue"] = s.PauseQueue(s.ctx, s.tenant, run.ReviewQueue, "x")
			checks["ResumeQueue"] = s.ResumeQueue(s.ctx, s.tenant, run.ReviewQueue, "")
			checks["WakeParked"] = s.WakeParked(s.ctx)
			_, _, checks["ExpiredRuns"] = s.ExpiredRuns(s.ctx, postgres.RunRef{}, 10, 10)
			_, checks["PruneRuns"] = s.PruneRuns(s.ctx, s.tenant, []uuid.UUID{e.run.ID}, 10)
			_, checks["Roots"] = s.Roots(s.ctx, s.tenant, uuid.Nil, 10)
			_, checks["DueCollections"] = s.DueCollections(s.ctx, "sys:gc/all", 10)
			_, checks["Objects"] = s.Objects(s.ctx, s.tenant, "", 10)
			_, _, checks["UnbackedBlobs"] = s.UnbackedBlobs(s.ctx, s.tenant, "", 10)
			_, checks["UnknownKeys"] = s.UnknownKeys(s.ctx, s.tenant, []string{"x"})
			_, checks["Deriving"] = s.Deriving(s.ctx, s.tenant)
			_, checks["Tombstones"] = s.Tombstones(s.ctx, s.tenant)
			_, checks["Unpurged"] = s.Unpurged(s.ctx, s.tenant)
			_, _, checks["ExpireRuns"] = s.ExpireRuns(s.ctx, s.tenant, []uuid.UUID{e.run.ID}, 10)
			u, err := s.CreateUpload(s.ctx, s.tenant, run.Artifact{ID: run.NewID(), Name: "x", Key: "u", MediaType: "text/plain", Size: 1, SHA256: make([]byte, 32)})
			checks["CreateUpload"] = err
			checks["CompleteUpload"] = s.CompleteUpload(s.ctx, e.claim, u.ID, "blob")
			_, checks["ComputeMerge"] = s.ComputeMerge(s.ctx, s.tenant, e.merge, "tester")
			_, checks["MergeConflicts"] = s.MergeConflicts(s.ctx, s.tenant, e.merge, 0, 10)
			_, checks["StartWork"] = s.StartWork(s.ctx, s.tenant, verification(t, "k"))
			_, checks["ExpireSystemRuns"] = s.ExpireSystemRuns(s.ctx, 10)
			_, checks["ExpireUploads"] = s.ExpireUploads(s.ctx, 10)
			_, checks["ExpireSignals"] = s.ExpireSignals(s.ctx, 10)
			_, checks["CondemnedObjects"] = s.CondemnedObjects(s.ctx, time.Time{}, 10)
			checks["ForgetObjects"] = s.ForgetObjects(s.ctx, []postgres.Garbage{{TenantID: s.tenant, Key: "u"}})
			_, checks["DecideGate"] = s.decide(e.gate, "approve")
			s.expire(t, e.claim.StepID)
			if made := fmt.Sprint(s.sweep(t, postgres.SweepRules{Lost: time.Minute})); made != "[lease_expired]" {
				t.Errorf("sweep = %s, want [lease_expired]", made)
			}
			s.do(t, e.claim.StepID, "succeed")
			s.wantStates(t, e.run.ID, "succeeded a:succeeded m:succeeded x:succeeded")
			checks["RevokeAPIKey"] = s.RevokeAPIKey(s.ctx, s.tenant, e.key)
			var failed []string
			for what, err := range checks {
				if err != nil {
					failed = append(failed, fmt.Sprintf("%s: %v", what, err))
				}
			}
			slices.Sort(failed)
			if len(failed) > 0 {
				t.Errorf("with one connection:\n%s", strings.Join(failed, "\n"))
			}
			s.wantSound(t)
		})
	}
}

// untilFed waits until the feed shows all that was committed: it stays behind the
// oldest transaction of the server, and other tests have theirs.
func (s *store) untilFed(t testing.TB) {
	t.Helper()
	newest := one[int64](t, s, "SELECT base + pg_current_xact_id()::text::bigint FROM nofx.feed_epoch ORDER BY first DESC LIMIT 1")
	ctx, cancel := context.WithTimeout(s.ctx, 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		head, err := s.FeedHead(ctx, s.tenant)
		if err != nil {
			t.Fatalf("FeedHead() = %v", err)
		}
		if head.XID > newest {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("FeedHead() = %d after a minute, want more than %d", head.XID, newest)
		}
	}
}
