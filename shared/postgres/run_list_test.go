package postgres_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
)

// past makes n runs of the last 30 days past the guards, as they would be by now:
// one in twenty has failed, one in fifty was cancelled, the newest twenty run.
func (s *store) past(t testing.TB, n int) {
	t.Helper()
	const sql = `
		SET LOCAL session_replication_role = replica;
		INSERT INTO nofx.project (tenant_id, id, slug) SELECT '%[1]s', md5('project' || i)::uuid, 'p' || i FROM generate_series(0, 3) AS i;
		CREATE TEMPORARY TABLE past ON COMMIT DROP AS
			SELECT i, at, overlay(overlay(md5('run' || i) PLACING lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') FROM 1) PLACING '7' FROM 13)::uuid AS id,
				md5('project' || CASE WHEN i %% 500 = 7 THEN 3 ELSE i %% 3 END)::uuid AS project,
				CASE WHEN i > %[2]d - 20 THEN 'running' WHEN i %% 20 = 3 THEN 'failed' WHEN i %% 50 = 0 THEN 'cancelled' ELSE 'succeeded' END AS state,
				format('Fix %%s of change %%s', (ARRAY['login', 'billing', 'search_100%%', 'export'])[1 + i %% 4], i) AS goal,
				CASE WHEN i %% 10 = 0 THEN 'Nightly' END AS name,
				jsonb_build_object('team', 'team' || i %% 8, 'pr', i::text) AS labels,
				CASE WHEN i %% 1000 = 5 THEN ARRAY['bash', 'manual:deploy'] ELSE ARRAY['bash', 'gate:unit'] END AS tools,
				CASE WHEN i %% 20 = 3 THEN 'v1-' || left(md5('signature' || i %% 40), 16) END AS signature,
				CASE WHEN i %% 20 = 3 THEN 'step unit: Exit status ' || i %% 7 WHEN i %% 50 = 0 THEN 'requested by key:ci' END AS reason
			FROM generate_series(1, %[2]d) AS i, LATERAL (SELECT now() - interval '30 days' + i * interval '30 days' / (%[2]d + 1)) AS x (at);
		INSERT INTO nofx.run (tenant_id, id, project_id, name, goal, labels, state, event, version, event_seq, plan, plan_digest, root_run_id,
			trace_id, traceparent, created_by, created_at, deadline, failure_class, failure_signature, reason)
		SELECT '%[1]s', id, project, name, goal, labels, state, 'x', 4, 14,
			jsonb_build_object('goal', goal, 'steps', (SELECT jsonb_agg(jsonb_build_object('name', tool, 'tool', tool, 'inputs',
				jsonb_build_object('script', repeat(md5(i || tool), 12)), 'timeout_s', 600)) FROM unnest(tools) AS t (tool))),
			'sha256:' || md5(i::text) || md5(i::text), id, md5('trace' || i), '00-' || md5('trace' || i) || '-b7ad6b7169203331-01', 'key:ci', at,
			at + interval '7 days', CASE WHEN state = 'failed' THEN 'tool' END, signature, reason FROM past ORDER BY i;
		INSERT INTO nofx.run_search (tenant_id, run_id, project_id, tools, labels, words, reason)
		SELECT '%[1]s', id, project, tools, labels, lower(concat_ws(E'\n', goal, name)), lower(reason) FROM past ORDER BY i;`
	if err := pgx.BeginFunc(s.ctx, s.Admin, func(tx pgx.Tx) error {
		_, err := tx.Exec(s.ctx, fmt.Sprintf(sql, s.tenant, n))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	s.exec(t, "VACUUM ANALYZE")
}

// found returns all runs that a filter selects, read page by page.
func (s *store) found(t testing.TB, f postgres.RunFilter) (list []run.Run) {
	t.Helper()
	for {
		page, more, err := s.Runs(s.ctx, s.tenant, f)
		if err != nil {
			t.Fatalf("Runs(%+v) = %v", f, err)
		}
		if len(page) > f.Limit {
			t.Fatalf("Runs(%+v) = %d runs, want at most %d", f, len(page), f.Limit)
		}
		list = append(list, page...)
		if more == nil {
			return list
		}
		f.Before = more
	}
}

// Any filters together select what a look at every run selects, in the same order,
// whatever the size of pages.
func TestRunFilters(t *testing.T) {
	t.Parallel()
	s := setup(t)
	s.past(t, 400)
	everything := s.found(t, postgres.RunFilter{Limit: 200})
	if len(everything) != 400 || !slices.IsSortedFunc(everything, func(a, b run.Run) int { return strings.Compare(b.ID.String(), a.ID.String()) }) {
		t.Fatalf("Runs({}) = %d runs, want all 400 newest first", len(everything))
	}
	mid := everything[200].CreatedAt
	tools := map[uuid.UUID]string{}
	rows, err := s.Admin.Query(s.ctx, "SELECT run_id, ',' || array_to_string(tools, ',') || ',' FROM nofx.run_search")
	if err != nil {
		t.Fatal(err)
	}
	var id uuid.UUID
	var list string
	if _, err := pgx.ForEachRow(rows, []any{&id, &list}, func() error { tools[id] = list; return nil }); err != nil {
		t.Fatal(err)
	}
	selects := func(f postgres.RunFilter, r run.Run) bool {
		text := strings.ToLower(r.Goal + "\n" + r.Name + "\n" + r.Reason)
		for _, w := range f.Words {
			if !strings.Contains(text, strings.ToLower(w)) {
				return false
			}
		}
		for name, value := range f.Labels {
			if r.Labels[name] != value {
				return false
			}
		}
		family, isFamily := strings.CutSuffix(f.Tool, "*")
		return (len(f.States) == 0 || slices.Contains(f.States, r.State)) && (f.Project == "" || r.Project == f.Project) &&
			(f.Signature == "" || r.FailureSignature == f.Signature) &&
			(f.Since == nil || !r.CreatedAt.Before(*f.Since)) && (f.Until == nil || r.CreatedAt.Before(*f.Until)) &&
			strings.Contains(tools[r.ID], ","+family) && (isFamily || strings.Contains(tools[r.ID], ","+family+",") || f.Tool == "")
	}
	signature := ""
	for _, r := range everything {
		signature = max(signature, r.FailureSignature)
	}
	failed, live, mixed := []run.State{run.Failed}, []run.State{run.Queued, run.Running}, []run.State{run.Running, run.Cancelled, run.Failed}
	narrowings := [][]func(*postgres.RunFilter){
		{nil, func(f *postgres.RunFilter) { f.States = failed }, func(f *postgres.RunFilter) { f.States = live }, func(f *postgres.RunFilter) { f.States = mixed }},
		{nil, func(f *postgres.RunFilter) { f.Project = "p1" }, func(f *postgres.RunFilter) { f.Project = "p3" }, func(f *postgres.RunFilter) { f.Project = "none" }},
		{nil, func(f *postgres.RunFilter) { f.Labels = map[string]string{"team": "team3"} }, func(f *postgres.RunFilter) { f.Labels = map[string]string{"team": "team3", "pr": "43"} }},
		{nil, func(f *postgres.RunFilter) { f.Tool = "gate:unit" }, func(f *postgres.RunFilter) { f.Tool = "manual:*" }, func(f *postgres.RunFilter) { f.Tool = "gate:uni" }},
		{nil, func(f *postgres.RunFilter) { f.Words = []string{"LOGIN"} }, func(f *postgres.RunFilter) { f.Words = []string{"exit STATUS", "fix"} }, func(f *postgres.RunFilter) { f.Words = []string{"search_100%"} },
			func(f *postgres.RunFilter) { f.Words = []string{"nightly"} }, func(f *postgres.RunFilter) { f.Words = []string{"_ogin"} }, func(f *postgres.RunFilter) { f.Words = []string{`\`} }},
		{nil, func(f *postgres.RunFilter) { f.Signature = signature }},
		{nil, func(f *postgres.RunFilter) { f.Since = &mid }, func(f *postgres.RunFilter) { f.Until = &mid }},
	}
	random := rand.New(rand.NewPCG(1, 2))
	some := 0
	for range 600 {
		f := postgres.RunFilter{Limit: []int{1, 7, 200}[random.IntN(3)], Within: time.Minute}
		for _, choices := range narrowings {
			if narrow := choices[random.IntN(len(choices))]; narrow != nil && random.IntN(2) == 0 {
				narrow(&f)
			}
		}
		var want, got []uuid.UUID
		for _, r := range everything {
			if selects(f, r) {
				want = append(want, r.ID)
			}
		}
		if f.Limit == 1 && len(want) > 20 {
			f.Limit = 50
		}
		for _, r := range s.found(t, f) {
			got = append(got, r.ID)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("Runs(%+v) (-want +got):\n%s", f, diff)
		}
		some += min(len(want), 1)
	}
	if some < 100 {
		t.Errorf("%d of 600 filters selected anything: they show little", some)
	}
}

// A run is found by what it was created with, and by why it ended as it did.
func TestRunIsSearched(t *testing.T) {
	t.Parallel()
	s := setup(t)
	p := plan(t, "a:", "m: a")
	p.Goal, p.Labels = "Ship the FIX for Österreich", map[string]string{"team": "core"}
	r, steps, err := s.CreateRun(s.ctx, s.tenant, postgres.NewRun{Project: "default", Plan: p, CreatedBy: "author"})
	if err != nil {
		t.Fatal(err)
	}
	find := func(f postgres.RunFilter) int {
		t.Helper()
		f.Limit = 10
		return len(s.found(t, f))
	}
	for name, f := range map[string]postgres.RunFilter{
		"all": {}, "words": {Words: []string{"sterreich", "fix"}}, "label": {Labels: map[string]string{"team": "core"}},
		"tool": {Tool: "manual:ok"}, "family": {Tool: "manual:*"}, "project": {Project: "default"},
		"all of it": {Words: []string{"ship"}, Labels: map[string]string{"team": "core"}, Tool: "bash", Project: "default", States: []run.State{run.Queued}},
	} {
		if n := find(f); n != 1 {
			t.Errorf("by %s: %d runs, want 1", name, n)
		}
	}
	why := postgres.RunFilter{Words: []string{"Exit Status"}}
	if n := find(why); n != 0 {
		t.Errorf("by a reason before there is one: %d runs, want 0", n)
	}
	s.do(t, steps[0].ID, "fail")
	if n := find(why); n != 1 {
		t.Errorf("by its reason, failed: %d runs, want 1", n)
	}
	other := s.Tenant(t)
	if list, _, err := s.Runs(s.ctx, other, postgres.RunFilter{Words: []string{"ship"}, Limit: 10}); err != nil || len(list) != 0 {
		t.Errorf("another tenant's Runs = %v, %v, want none", list, err)
	}
	list, err := s.RunsOfTrace(s.ctx, s.tenant, r.TraceID, nil, 10)
	if err != nil || len(list) != 1 || list[0].ID != r.ID {
		t.Errorf("RunsOfTrace() = %v, %v, want the run", list, err)
	}
	if list, err := s.RunsOfTrace(s.ctx, other, r.TraceID, nil, 10); err != nil || len(list) != 0 {
		t.Errorf("another tenant's RunsOfTrace() = %v, %v, want none", list, err)
	}
}

// A search without end says so far, and a caller who goes on sees everything once.
func TestRunSearchPauses(t *testing.T) {
	t.Parallel()
	s := setup(t)
	s.past(t, 45_000)
	f := postgres.RunFilter{Labels: map[string]string{"pr": "77"}, Limit: 10}
	page, more, err := s.Runs(s.ctx, s.tenant, f)
	if err != nil || len(page) != 0 || more == nil {
		t.Fatalf("Runs() with no time = %d runs, more %v, %v, want none yet and where to go on", len(page), more, err)
	}
	if list := s.found(t, f); len(list) != 1 || list[0].Labels["pr"] != "77" {
		t.Errorf("all pages hold %d runs, want the one", len(list))
	}
	f.Within = time.Minute
	if page, more, err := s.Runs(s.ctx, s.tenant, f); err != nil || len(page) != 1 || more != nil {
		t.Errorf("Runs() with time = %d runs, more %v, %v, want the one and the end", len(page), more, err)
	}
}

// How long a page takes with NOFX_TEST_RUNS runs (100,000 if unset) behind it: for
// each filter p50 and p99. Run it with -v for the plans.
func BenchmarkRuns(b *testing.B) {
	n := 100_000
	if given, err := strconv.Atoi(os.Getenv("NOFX_TEST_RUNS")); err == nil {
		n = given
	}
	s := setup(b)
	s.past(b, n)
	day := time.Now().Add(-24 * time.Hour)
	month := time.Now().Add(-29 * 24 * time.Hour)
	signature := one[string](b, s, "SELECT max(failure_signature) FROM nofx.run")
	for _, c := range []struct {
		name string
		f    postgres.RunFilter
	}{
		{"all", postgres.RunFilter{}},
		{"status running", postgres.RunFilter{States: []run.State{run.Running}}},
		{"status failed,cancelled", postgres.RunFilter{States: []run.State{run.Failed, run.Cancelled}}},
		{"signature", postgres.RunFilter{Signature: signature}},
		{"signature of none", postgres.RunFilter{Signature: "v1-0"}},
		{"since a day", postgres.RunFilter{Since: &day}},
		{"until a month ago", postgres.RunFilter{Until: &month}},
		{"project", postgres.RunFilter{Project: "p1"}},
		{"project of few", postgres.RunFilter{Project: "p3"}},
		{"label of many", postgres.RunFilter{Labels: map[string]string{"team": "team3"}}},
		{"label of one", postgres.RunFilter{Labels: map[string]string{"pr": "77"}}},
		{"tool of many", postgres.RunFilter{Tool: "gate:unit"}},
		{"tool of few", postgres.RunFilter{Tool: "manual:deploy"}},
		{"tool family of few", postgres.RunFilter{Tool: "manual:*"}},
		{"q of many", postgres.RunFilter{Words: []string{"login"}}},
		{"q of none", postgres.RunFilter{Words: []string{"nothing has this"}}},
		{"q and running", postgres.RunFilter{Words: []string{"login"}, States: []run.State{run.Running}}},
		{"q and failed and label", postgres.RunFilter{Words: []string{"exit status 3"}, States: []run.State{run.Failed}, Labels: map[string]string{"team": "team3"}}},
	} {
		b.Run(strings.ReplaceAll(c.name, " ", "-"), func(b *testing.B) {
			c.f.Limit, c.f.Within = 50, time.Minute
			var took []time.Duration
			var list []run.Run
			var err error
			for b.Loop() {
				start := time.Now()
				if list, _, err = s.Runs(s.ctx, s.tenant, c.f); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(start))
			}
			slices.Sort(took)
			ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
			b.ReportMetric(ms(took[len(took)/2]), "p50-ms")
			b.ReportMetric(ms(took[len(took)*99/100]), "p99-ms")
			b.ReportMetric(float64(len(list)), "runs")
			sql, args := c.f.Explain(s.tenant)
			explained := strings.Join(all[string](b, s, "EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF) "+sql, args...), "\n")
			if testing.Verbose() {
				b.Log(explained)
			}
			if strings.Contains(explained, "Seq Scan on run") || strings.Contains(explained, "Sort Method") {
				b.Errorf("%s reads or sorts more than it answers:\n%s", c.name, explained)
			}
		})
	}
}
