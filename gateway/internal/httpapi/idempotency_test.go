package httpapi

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"nofx.dev/gateway/api"
	"nofx.dev/shared/failpoint"
	"nofx.dev/shared/telemetry"
)

func (g *gateway) runs() (n int) {
	g.Helper()
	if err := g.pg.Admin.QueryRow(g.Context(), "SELECT count(*) FROM nofx.run WHERE kind = 'plan'").Scan(&n); err != nil {
		g.Fatal(err)
	}
	return n
}

func TestIdempotency(t *testing.T) {
	g := newGateway(t)
	key := header{"Idempotency-Key": "k1"}
	first := g.do(http.MethodPost, "/api/runs", oneStep, key)
	g.want(first, http.StatusCreated, "")
	if got := first.header.Get("Idempotent-Replayed"); got != "" {
		t.Errorf("Idempotent-Replayed of the first = %q, want none", got)
	}
	// The same request otherwise written, and its key quoted, after a restart.
	otherwise := strings.Replace(oneStep, `{"plan":{"goal":"try",`, "\n{ \"plan\" : {", 1)
	otherwise = strings.Replace(otherwise, `}]}}`, `}], "goal":"\u0074ry" } }`, 1)
	cfg := g.cfg
	cfg.Metrics = telemetry.NewMetrics(prometheus.NewRegistry(), "test")
	server, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	g.http.Config.Handler = server
	again := g.do(http.MethodPost, "/api/runs", otherwise, header{"Idempotency-Key": `"k1"`})
	g.want(again, http.StatusCreated, "")
	if string(again.body) != string(first.body) || again.header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("repeated = %s (replayed %q), want the same bytes, marked", again.body, again.header.Get("Idempotent-Replayed"))
	}
	for _, name := range []string{"Location", "ETag", "Content-Type"} {
		if again.header.Get(name) != first.header.Get(name) {
			t.Errorf("%s of the replay = %q, want %q", name, again.header.Get(name), first.header.Get(name))
		}
	}
	g.want(g.do(http.MethodPost, "/api/runs", strings.Replace(oneStep, "try", "tri", 1), key), http.StatusUnprocessableEntity, "idempotency-key-reused")
	g.want(g.do(http.MethodPost, "/api/runs", oneStep, key, header{"X-Project-Id": "other"}), http.StatusUnprocessableEntity, "idempotency-key-reused")
	if got := g.runs(); got != 1 {
		t.Errorf("%d runs, want 1", got)
	}
	other := g.newKey(g.pg.Tenant(t), api.RoleAdmin)
	g.want(g.do(http.MethodPost, "/api/runs", oneStep, key, header{"Authorization": "Bearer " + other}), http.StatusCreated, "")
	if got := g.runs(); got != 2 {
		t.Errorf("%d runs with another tenant's under the same key, want 2", got)
	}
}

// TestVerbsOnce checks that a repeated request to change a run or a step changes it once,
// and that an operation which takes no key says so.
func TestVerbsOnce(t *testing.T) {
	g := newGateway(t)
	failed := g.runIn(api.RunStatusFailed)
	step := "/api/steps/" + failed.Steps[0].ID + "/retry"
	letter := g.runIn(api.RunStatusFailed)
	for _, tt := range []struct{ name, path, body string }{
		{"pause", "/api/runs/" + g.runIn(api.RunStatusRunning).Run.ID + "/pause", ""},
		{"resume", "/api/runs/" + g.runIn(api.RunStatusPaused).Run.ID + "/resume", ""},
		{"retry", "/api/runs/" + g.runIn(api.RunStatusCancelled).Run.ID + "/retry", `{"reason":"again"}`},
		{"cancel", "/api/runs/" + g.runIn(api.RunStatusRunning).Run.ID + "/cancel", ""},
		{"step retry", step, `{"cascade":false}`},
		{"requeue", "/api/dead-letters/" + letter.Steps[0].ID + "/requeue", `{}`},
	} {
		key := header{"Idempotency-Key": tt.name}
		first := g.do(http.MethodPost, tt.path, tt.body, key)
		g.want(first, http.StatusOK, "")
		again := g.do(http.MethodPost, tt.path, tt.body, key)
		g.want(again, http.StatusOK, "")
		if string(again.body) != string(first.body) || again.header.Get("Idempotent-Replayed") != "true" || again.header.Get("ETag") != first.header.Get("ETag") {
			t.Errorf("repeated %s = %s (replayed %q), want the same bytes, marked", tt.name, again.body, again.header.Get("Idempotent-Replayed"))
		}
		g.want(g.do(http.MethodPost, tt.path, `{"reason":"another"}`, key), http.StatusUnprocessableEntity, "idempotency-key-reused")
		g.want(g.do(http.MethodPost, tt.path, tt.body), http.StatusConflict, "illegal-transition")
	}
	for path, body := range map[string]string{
		"/api/runs/preview": oneStep, "/api/api-keys": `{"name":"x"}`, "/api/dead-letters/requeue": `{}`, "/api/queues/default/pause": "",
	} {
		r := g.do(http.MethodPost, path, body, header{"Idempotency-Key": "k"})
		g.want(r, http.StatusBadRequest, "bad-parameter")
		if want := "Idempotency-Key: is not accepted by this operation"; !strings.Contains(string(r.body), want) {
			t.Errorf("%s with a key = %s, want %q", path, r.body, want)
		}
	}
}

// TestCheckpointsOnce sends a hundred requests at once under one key to each operation that
// makes something of checkpoints: it is made once, and all get the same answer.
func TestCheckpointsOnce(t *testing.T) {
	g := newGateway(t)
	created := g.create(chain(shellB))
	a := g.pass(created.Steps[0])
	_, base := g.line()
	target, _ := g.line(base)
	source, _ := g.line(base)
	searched, _ := line(g, 3)
	at := "/api/runs/" + created.Run.ID
	for name, tt := range map[string]struct {
		path, body, other string
		status            int
		made              string // how many there are
		want              int
	}{
		"branch": {at + "/branches", `{"checkpoint_id":"` + a + `"}`, `{"checkpoint_id":"` + a + `","name":"x"}`, http.StatusCreated,
			"SELECT count(*) FROM nofx.run WHERE parent_run_id IS NOT NULL AND name IS NULL", 1},
		"variants": {at + "/branches", `{"checkpoint_id":"` + a + `","variants":[{"name":"v1"},{"name":"v2"}]}`, `{"checkpoint_id":"` + a + `","variants":[{"name":"v1"}]}`, http.StatusCreated,
			"SELECT count(*) FROM nofx.run WHERE name LIKE 'v_'", 2},
		"merge": {"/api/runs/" + target.Run.ID + "/merges", `{"source_run_id":"` + source.Run.ID + `"}`, `{"source_run_id":"` + source.Run.ID + `","mode":"strict"}`, http.StatusCreated,
			"SELECT count(*) FROM nofx.merge", 1},
		"bisection": {"/api/runs/" + searched.Run.ID + "/bisect", `{"command":"true"}`, `{"command":"false"}`, http.StatusAccepted,
			"SELECT count(*) FROM nofx.step WHERE tool = 'sys:bisect'", 1},
		"checkpoint": {at + "/checkpoints?wait_s=0", `{"label":"x"}`, `{"label":"y"}`, http.StatusAccepted,
			"SELECT count(*) FROM nofx.step WHERE tool = 'sys:checkpoint'", 1},
		"review": {"/api/reviews", posted(aDiff, ""), posted(aDiff, `,"dry_run":true`), http.StatusAccepted,
			"SELECT count(*) FROM nofx.review", 1},
		"archive": {at + "/checkpoints/" + a + "/archive?wait_s=0", "", "", http.StatusAccepted,
			"SELECT count(*) FROM nofx.step WHERE tool = 'sys:archive'", 1},
	} {
		t.Run(name, func(t *testing.T) {
			key := header{"Idempotency-Key": name}
			answers := make([]reply, 100)
			var wg sync.WaitGroup
			for i := range answers {
				wg.Go(func() { answers[i] = g.patient(http.MethodPost, tt.path, tt.body, key) })
			}
			wg.Wait()
			replayed := 0
			for i, r := range answers {
				if r.status != tt.status || string(r.body) != string(answers[0].body) {
					t.Errorf("answer %d = %d %s, want %d and the bytes of the first, %s", i, r.status, r.body, tt.status, answers[0].body)
				}
				if r.header.Get("Idempotent-Replayed") == "true" {
					replayed++
				}
			}
			if replayed != len(answers)-1 {
				t.Errorf("%d answers are marked as repeated, want all but one", replayed)
			}
			var n int
			if err := g.pg.Admin.QueryRow(t.Context(), tt.made).Scan(&n); err != nil || n != tt.want {
				t.Errorf("there are %d, %v, want %d", n, err, tt.want)
			}
			if tt.other != "" {
				g.want(g.do(http.MethodPost, tt.path, tt.other, key), http.StatusUnprocessableEntity, "idempotency-key-reused")
			}
		})
	}
	g.sound()
}

// TestRefusalsAreKept checks that a refusal of a request's own text is answered again
// byte by byte.
func TestRefusalsAreKept(t *testing.T) {
	g := newGateway(t)
	for name, tt := range map[string]struct{ path, body, code string }{
		"plan":     {"/api/runs", plan(`{"name":"a","tool":"rm"}`), "unknown-tool"},
		"artifact": {"/api/artifacts", `{"name":"","size_bytes":1,"sha256":"` + strings.Repeat("0", 64) + `"}`, "invalid-field"},
		"review":   {"/api/reviews", `{"provider":"diff"}`, "invalid-field"},
		"signal":   {"/api/signals", `{"key":""}`, "invalid-field"},
	} {
		key := header{"Idempotency-Key": "k"}
		first := g.do(http.MethodPost, tt.path, tt.body, key)
		g.want(first, http.StatusUnprocessableEntity, tt.code)
		again := g.do(http.MethodPost, tt.path, tt.body, key)
		if string(again.body) != string(first.body) || again.header.Get("Idempotent-Replayed") != "true" || again.header.Get("Content-Type") != mimeProblem {
			t.Errorf("repeated refusal of a %s = %s, want the same bytes, marked", name, again.body)
		}
	}
	if got := g.runs(); got != 0 {
		t.Errorf("%d runs, want none", got)
	}
	for _, key := range []string{`""`, " ", "a\tb", "ü", strings.Repeat("k", 256)} {
		r := g.do(http.MethodPost, "/api/runs", oneStep, header{"Idempotency-Key": key})
		if key != " " { // net/http trims it away: no key
			g.want(r, http.StatusBadRequest, "bad-parameter")
		}
	}
	g.want(g.do(http.MethodPost, "/api/runs", oneStep, header{"Idempotency-Key": strings.Repeat("k", 255)}), http.StatusCreated, "")
}

// TestRefusalsThatPassAreNotKept checks that the same request under the same key is
// taken as soon as nothing is in its way any more.
func TestRefusalsThatPassAreNotKept(t *testing.T) {
	g := newGateway(t)
	run := g.create(oneStep).Run.ID
	allow := func(sql string) func() {
		return func() {
			if _, err := g.pg.Admin.Exec(t.Context(), sql, g.tenant); err != nil {
				t.Fatal(err)
			}
		}
	}
	made := decodeAs[api.CreatedArtifact](t, g.do(http.MethodPost, "/api/artifacts", `{"name":"x.tgz","size_bytes":1,"sha256":"`+strings.Repeat("0", 64)+`"}`))
	withUpload := `{"plan":{"goal":"try","workspace":{"source":"upload","artifact_id":"` + made.Artifact.ID + `"},"steps":[{"name":"a","tool":"bash","inputs":{"script":"true"}}]}}`
	for _, tt := range []struct {
		name, path, body string
		header           header
		status           int
		code             string
		then             func()
	}{
		{"rerun of a live run", "/api/runs/" + run + "/rerun", "", nil, http.StatusConflict, "illegal-transition",
			func() { g.want(g.do(http.MethodPost, "/api/runs/"+run+"/cancel", ""), http.StatusOK, "") }},
		{"unknown project", "/api/runs", oneStep, header{"X-Project-Id": "later"}, http.StatusNotFound, "not-found",
			allow("INSERT INTO nofx.project (tenant_id, id, slug) VALUES ($1, gen_random_uuid(), 'later')")},
		{"upload that is not complete", "/api/runs", withUpload, nil, http.StatusUnprocessableEntity, "invalid-plan",
			allow("UPDATE nofx.artifact SET state = 'ready' WHERE tenant_id = $1")},
	} {
		key := header{"Idempotency-Key": tt.name}
		for range 2 {
			r := g.do(http.MethodPost, tt.path, tt.body, key, tt.header)
			g.want(r, tt.status, tt.code)
			if got := r.header.Get("Idempotent-Replayed"); got != "" {
				t.Errorf("%s: Idempotent-Replayed = %q, want none", tt.name, got)
			}
		}
		tt.then()
		first := g.do(http.MethodPost, tt.path, tt.body, key, tt.header)
		if first.status != http.StatusCreated {
			t.Errorf("%s, when it is possible = %d %s, want 201", tt.name, first.status, first.body)
		}
		if again := g.do(http.MethodPost, tt.path, tt.body, key, tt.header); string(again.body) != string(first.body) {
			t.Errorf("%s, once more = %d %s, want the stored answer", tt.name, again.status, again.body)
		}
	}
}

// TestFingerprints checks which documents are the same to a request's fingerprint.
func TestFingerprints(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		first, second string
		same          bool
	}{
		{`{"a":1,"b":2}`, "{ \"b\": 2,\n\"\\u0061\": 1 }", true},
		{`[2.50,1e2,100,-0,0.0,12.5E+1]`, `[2.5,100,1e+2,0,0e9,125]`, true},
		{`[0.001,1200]`, `[1e-3,1.2e3]`, true},
		{`9007199254740993`, `9007199254740992`, false},
		{`1e99999999999999999998`, `1e99999999999999999999`, false},
		{`-1`, `1`, false},
		{`[12345678901234567890]`, `[12345678901234567891]`, false},
		{`0.30000000000000001`, `0.30000000000000002`, false},
		{`1e400`, `1e401`, false},
		{`"1"`, `1`, false},
	} {
		first, err := canonicalJSON([]byte(tt.first))
		second, err2 := canonicalJSON([]byte(tt.second))
		if same := string(first) == string(second); same != tt.same || err != nil || err2 != nil {
			t.Errorf("canonicalJSON(%s) = %s, %v, and of %s = %s, %v; the same: %t, want %t", tt.first, first, err, tt.second, second, err2, same, tt.same)
		}
	}
}

// TestRefusalsAreSeen checks that a refused transition is logged with its kind and
// code, and counted, under a key as well.
func TestRefusalsAreSeen(t *testing.T) {
	for name, key := range map[string]string{"no key": "", "key": "k"} {
		t.Run(name, func(t *testing.T) {
			var log strings.Builder
			registry := prometheus.NewRegistry()
			g := newGateway(t, func(c *Config) {
				c.Metrics, c.Log = telemetry.NewMetrics(registry, "test"), telemetry.NewLogger(&log, slog.LevelInfo, nil)
			})
			w := g.record(http.MethodPost, "/api/runs", oneStep, "")
			made := decodeAs[api.CreatedRun](t, reply{body: w.Body.Bytes()})
			log.Reset()
			for range 2 {
				if w = g.record(http.MethodPost, "/api/runs/"+made.Run.ID+"/rerun", "", key); w.Code != http.StatusConflict {
					t.Fatalf("rerun of a run that goes on = %d %s, want 409", w.Code, w.Body)
				}
			}
			first, _, _ := strings.Cut(log.String(), "\n")
			for _, want := range []string{`"kind":"conflict"`, `"code":"illegal-transition"`} {
				if !strings.Contains(first, want) {
					t.Errorf("log line = %s, want %s in it", first, want)
				}
			}
			const want = 2.0
			if got := counted(t, registry, "nofx_state_transition_rejections_total"); got != want {
				t.Errorf("%g rejections are counted, want %g", got, want)
			}
		})
	}
}

// record asks in this goroutine, so that all is done when it returns.
func (g *gateway) record(method, path, body, key string) *httptest.ResponseRecorder {
	g.Helper()
	req := httptest.NewRequestWithContext(g.Context(), method, path, strings.NewReader(body))
	req.Header.Set("Authorization", "Bearer "+g.key)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	w := httptest.NewRecorder()
	g.server.ServeHTTP(w, req)
	return w
}

// counted returns the sum of a counter over its labels.
func counted(t *testing.T, registry *prometheus.Registry, name string) (sum float64) {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

// TestParallelCreates creates at once with one key (fault 24): one run comes of it.
func TestParallelCreates(t *testing.T) {
	g := newGateway(t)
	const n = 100
	replies := make([]reply, n)
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			<-start
			replies[i] = g.do(http.MethodPost, "/api/runs", oneStep, header{"Idempotency-Key": "barrier"})
		})
	}
	close(start)
	wg.Wait()
	ids, created, inFlight := map[string]bool{}, 0, 0
	for _, r := range replies {
		switch {
		case r.status == http.StatusCreated:
			ids[decodeAs[api.CreatedRun](t, r).Run.ID] = true
			if r.header.Get("Idempotent-Replayed") == "" {
				created++
			}
		case r.status == http.StatusConflict && r.code() == "idempotency-in-flight" && r.header.Get("Retry-After") == "1":
			inFlight++
		case r.status == http.StatusServiceUnavailable: // no connection within 2 s
		default:
			t.Errorf("one of many = %d %s", r.status, r.body)
		}
	}
	if len(ids) != 1 || created != 1 || g.runs() != 1 {
		t.Errorf("%d runs answered, %d created, %d in the database, %d in flight, want 1 of each", len(ids), created, g.runs(), inFlight)
	}
}

// TestLostAnswer loses an answer after the run was committed (window W1), and the
// repeated request gets it. It arms the process's failpoints, so it runs by itself.
func TestLostAnswer(t *testing.T) {
	g := newGatewayAlone(t)
	env := map[string]string{"NOFX_TEST": "1", "NOFX_FAILPOINTS": "before_response=error"}
	arm := func() {
		if err := failpoint.Init(func(name string) string { return env[name] }, slog.New(slog.DiscardHandler), nil); err != nil {
			t.Fatal(err)
		}
	}
	arm()
	req := httptest.NewRequest(http.MethodPost, "/api/runs", strings.NewReader(oneStep))
	for name, value := range map[string]string{"Authorization": "Bearer " + g.key, "Content-Type": "application/json", "Idempotency-Key": "lost"} {
		req.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	g.server.ServeHTTP(w, req)
	env["NOFX_FAILPOINTS"] = ""
	arm()
	if w.Code != http.StatusInternalServerError || g.runs() != 1 {
		t.Fatalf("lost answer = %d with %d runs, want 500 with 1", w.Code, g.runs())
	}
	again := g.do(http.MethodPost, "/api/runs", oneStep, header{"Idempotency-Key": "lost"})
	g.want(again, http.StatusCreated, "")
	if again.header.Get("Idempotent-Replayed") != "true" || g.runs() != 1 {
		t.Errorf("repeated = %d runs, replayed %q, want 1, true", g.runs(), again.header.Get("Idempotent-Replayed"))
	}
}
