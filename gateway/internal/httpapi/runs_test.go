package httpapi

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"nofx.dev/gateway/api"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/review"
	"nofx.dev/shared/run"
)

const oneStep = `{"plan":{"goal":"try","labels":{"team":"core"},"steps":[{"name":"a","tool":"bash","inputs":{"script":"true"}}]}}`

// plan returns the body of a create with steps given as JSON.
func plan(steps string) string { return `{"plan":{"goal":"try","steps":[` + steps + `]}}` }

func TestCreateRun(t *testing.T) {
	g := newGateway(t)
	r := g.do(http.MethodPost, "/api/runs", oneStep, header{"X-Correlation-Id": "order-7"})
	g.want(r, http.StatusCreated, "")
	created := decodeAs[api.CreatedRun](t, r)
	for name, want := range map[string]string{
		"Location": "/api/runs/" + created.Run.ID, "ETag": fmt.Sprintf(`"v%d"`, created.Run.Version),
		"X-Correlation-Id": "order-7", "X-Trace-Id": created.Run.TraceID, "Content-Type": "application/json",
	} {
		if got := r.header.Get(name); got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
	if created.Run.Status != api.RunStatusQueued || len(created.Steps) != 1 || created.Steps[0].Status != api.StepStatusReady {
		t.Errorf("created = %s, want a queued run with one ready step", r.body)
	}
	if got := created.Run.CorrelationID; got == nil || *got != "order-7" {
		t.Errorf("correlation_id = %v, want order-7", got)
	}

	detail := g.get("/api/runs/" + created.Run.ID)
	g.want(detail, http.StatusOK, "")
	d := decodeAs[api.RunDetail](t, detail)
	if diff := cmp.Diff(created.Run, d.Run); diff != "" {
		t.Errorf("GET of the run (-created +got):\n%s", diff)
	}
	if d.StreamCursor == "" || d.StreamCursor == "0" {
		t.Errorf("stream_cursor = %q, want the seq of the newest event", d.StreamCursor)
	}
	var jobs int
	if err := g.pg.Admin.QueryRow(t.Context(), "SELECT count(*) FROM river.river_job").Scan(&jobs); err != nil || jobs != 1 {
		t.Errorf("%d jobs (%v), want 1", jobs, err)
	}
}

// TestRefusedPlans checks that every wrong plan is told precisely and leaves
// nothing behind.
func TestRefusedPlans(t *testing.T) {
	g := newGateway(t)
	step := `{"name":"a","tool":"bash","inputs":{"script":"true"}}`
	many := make([]string, run.MaxSteps+1)
	for i := range many {
		many[i] = fmt.Sprintf(`{"name":"s%d","tool":"sleep","inputs":{"duration_s":0}}`, i)
	}
	for _, tc := range []struct {
		name, body string
		status     int
		code       string
		pointer    string
	}{
		{"no goal", `{"plan":{"steps":[` + step + `]}}`, 422, "invalid-plan", "/plan/goal"},
		{"no plan", `{}`, 422, "invalid-plan", "/plan/goal"},
		{"no steps", plan(""), 422, "invalid-plan", "/plan/steps"},
		{"1,001 steps", plan(strings.Join(many, ",")), 422, "invalid-plan", "/plan/steps"},
		{"a cycle", plan(`{"name":"a","tool":"sleep","inputs":{"duration_s":0},"depends_on":["b"]},{"name":"b","tool":"sleep","inputs":{"duration_s":0},"depends_on":["a"]}`), 422, "invalid-plan", "/plan/steps/0/depends_on"},
		{"dangling", plan(`{"name":"a","tool":"sleep","inputs":{"duration_s":0},"depends_on":["x"]}`), 422, "invalid-plan", "/plan/steps/0/depends_on/0"},
		{"unknown tool", plan(`{"name":"a","tool":"rm"}`), 422, "unknown-tool", "/plan/steps/0/tool"},
		{"unknown input", plan(`{"name":"a","tool":"bash","inputs":{"script":"true","x":1}}`), 422, "invalid-plan", "/plan/steps/0/inputs/x"},
		{"duplicate input", plan(`{"name":"a","tool":"bash","inputs":{"script":"true","script":"false"}}`), 400, "duplicate-key", "/plan/steps/0/inputs/script"},
		{"unknown field", plan(`{"name":"a","tool":"bash","fence":1}`), 400, "unknown-field", "/plan/steps/0/fence"},
		{"workspace beside the plan", `{"plan":{"goal":"x","steps":[` + step + `]},"workspace":{}}`, 400, "unknown-field", "/workspace"},
		{"a number for an object", plan(`{"name":"a","tool":"bash","retry":3}`), 400, "malformed-json", "/plan/steps/0/retry"},
		{"read-only field", `{"plan":{"goal":"x","steps":[` + step + `]},"tenant_id":"x"}`, 400, "unknown-field", "/tenant_id"},
		{"NUL in the goal", `{"plan":{"goal":"a\u0000b","steps":[` + step + `]}}`, 422, "invalid-field", "/plan/goal"},
		{"session of a later release", `{"session_id":"sess_0","plan":{"goal":"x","steps":[` + step + `]}}`, 400, "unknown-field", "/session_id"},
	} {
		for _, path := range []string{"/api/runs", "/api/runs/preview"} {
			r := g.do(http.MethodPost, path, tc.body)
			p := decodeAs[api.Problem](t, r)
			var pointers []string
			for _, e := range p.Errors {
				pointers = append(pointers, e.Pointer)
			}
			if r.status != tc.status || string(p.Code) != tc.code || len(pointers) == 0 || pointers[0] != tc.pointer {
				t.Errorf("%s: POST %s = %d %s at %v, want %d %s at %s", tc.name, path, r.status, p.Code, pointers, tc.status, tc.code, tc.pointer)
			}
			if p.TraceID != r.header.Get("X-Trace-Id") || p.Instance != path || p.Status != r.status {
				t.Errorf("%s: problem = %+v, want trace, path and status of the answer", tc.name, p)
			}
		}
	}
	// Everything is said at once, also beside what does not fit, and of which step.
	r := g.do(http.MethodPost, "/api/runs", `{"plan":{"steps":[{"name":"build","tool":"bahs","retry":3},{"name":"unit","tool":"http","inputs":{"url":"https://x/","expect_status":201}}]},"workspace":{}}`)
	var got []string
	for _, e := range decodeAs[api.Problem](t, r).Errors {
		said := e.Pointer
		if e.Step != nil {
			said += " (" + *e.Step + ")"
		}
		got = append(got, said+": "+strings.SplitN(e.Detail, ";", 2)[0])
	}
	want := []string{
		"/plan/steps/0/retry (build): is a number", "/workspace: unknown field", "/plan/goal: is required",
		`/plan/steps/0/tool (build): unknown tool "bahs"`, "/plan/steps/1/inputs/expect_status (unit): is a number",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("faults of a plan (-want +got):\n%s", diff)
	}
	large := g.do(http.MethodPost, "/api/runs", `{"plan":{"goal":"`+strings.Repeat("x", maxBody)+`"}}`)
	g.want(large, http.StatusRequestEntityTooLarge, "too-large")
	if p := decodeAs[api.Problem](t, large); !strings.Contains(p.Detail, "nofx artifact upload") {
		t.Errorf("a plan of over 1 MiB = %s, want to be told of artifact upload", large.body)
	}
	var rows int
	err := g.pg.Admin.QueryRow(t.Context(), "SELECT (SELECT count(*) FROM nofx.run) + (SELECT count(*) FROM nofx.step) + (SELECT count(*) FROM river.river_job)").Scan(&rows)
	if err != nil || rows != 0 {
		t.Errorf("%d rows were left behind (%v), want none", rows, err)
	}
}

func TestPreview(t *testing.T) {
	g := newGateway(t)
	sleep := func(name, deps string) string {
		return fmt.Sprintf(`{"name":%q,"tool":"sleep","inputs":{"duration_s":0},"depends_on":[%s]}`, name, deps)
	}
	r := g.do(http.MethodPost, "/api/runs/preview", plan(strings.Join([]string{
		sleep("d", `"b","c"`), sleep("a", ""), sleep("b", `"a"`), sleep("c", `"a"`), sleep("e", ""),
	}, ",")))
	g.want(r, http.StatusOK, "")
	got := decodeAs[api.RunPreview](t, r)
	want := api.PlanGraph{
		Levels: [][]string{{"a", "e"}, {"b", "c"}, {"d"}},
		Edges:  []api.PlanEdge{{Needs: "b", Step: "d"}, {Needs: "c", Step: "d"}, {Needs: "a", Step: "b"}, {Needs: "a", Step: "c"}},
	}
	if diff := cmp.Diff(want, got.Graph); diff != "" {
		t.Errorf("graph (-want +got):\n%s", diff)
	}
	if s := got.Plan.Steps[0]; s.TimeoutS == nil || *s.TimeoutS != 600 || s.Retry == nil || *s.Retry.MaxAttempts != 1 {
		t.Errorf("previewed step = %+v, want defaults filled in", s)
	}
	created := g.create(plan(sleep("a", "")))
	again := decodeAs[api.RunPreview](t, g.do(http.MethodPost, "/api/runs/preview", plan(sleep("a", ""))))
	if created.Run.PlanDigest != again.PlanDigest {
		t.Errorf("digest of the preview = %s, of the run = %s", again.PlanDigest, created.Run.PlanDigest)
	}
}

func TestListRuns(t *testing.T) {
	g := newGateway(t)
	var want []string
	for i := range 5 {
		label := ""
		if i%2 == 0 {
			label = `"labels":{"parity":"even","n":"` + fmt.Sprint(i) + `"},`
		}
		created := g.create(strings.Replace(plan(`{"name":"a","tool":"sleep","inputs":{"duration_s":0}}`), `"steps"`, label+`"steps"`, 1))
		want = append([]string{created.Run.ID}, want...)
	}
	ids := func(query string) (ids []string) {
		t.Helper()
		for path := "/api/runs" + query; path != ""; {
			r := g.get(path)
			g.want(r, http.StatusOK, "")
			p := decodeAs[api.RunPage](t, r)
			for _, item := range p.Items {
				ids = append(ids, item.ID)
			}
			link := r.header.Get("Link")
			if (link == "") != (p.NextCursor == nil) {
				t.Errorf("Link = %q, next_cursor = %v, want both or none", link, p.NextCursor)
			}
			path = strings.TrimPrefix(strings.TrimSuffix(link, `>; rel="next"`), "<")
		}
		return ids
	}
	for _, tc := range []struct {
		query string
		want  []string
	}{
		{"", want}, {"?limit=2", want}, {"?limit=5", want}, {"?status=queued&limit=3", want}, {"?status=failed", nil},
		{"?project=default", want}, {"?project=none", nil},
		{"?label=parity:even&limit=1", []string{want[0], want[2], want[4]}},
		{"?label=parity:even&label=n:2", []string{want[2]}},
		{"?status=failed,queued&limit=2", want}, {"?status=failed,cancelled", nil},
		{"?tool=sleep&limit=2", want}, {"?tool=bash", nil}, {"?tool=gate:*", nil},
		{"?q=TR&limit=2", want}, {"?q=try+nothing", nil}, {"?q=%25", nil},
		{"?since=2020-01-01T00:00:00Z&limit=3", want}, {"?until=2020-01-01T00:00:00%2B01:00", nil}, {"?since=2100-01-01T00:00:00Z", nil},
		{"?signature=v1-0123456789abcdef", nil},
		{"?status=queued&tool=sleep&q=try&label=parity:even&project=default&since=2020-01-01T00:00:00Z&until=2100-01-01T00:00:00Z&limit=1", []string{want[0], want[2], want[4]}},
	} {
		if diff := cmp.Diff(tc.want, ids(tc.query)); diff != "" {
			t.Errorf("runs of %q (-want +got):\n%s", tc.query, diff)
		}
	}
	for query, code := range map[string]string{
		"?limit=0": "bad-parameter", "?limit=201": "bad-parameter", "?limit=x": "bad-parameter", "?limit=1&limit=2": "bad-parameter",
		"?status=done": "bad-parameter", "?status=": "bad-parameter", "?status=queued,": "bad-parameter", "?status=queued,done": "bad-parameter",
		"?q=": "bad-parameter", "?q=+": "bad-parameter", "?q=%00": "bad-parameter", "?q=a+b+c+d+e+f+g+h+i": "bad-parameter", "?q=" + strings.Repeat("x", 201): "bad-parameter",
		"?tool=": "bad-parameter", "?tool=Bash": "bad-parameter", "?tool=*": "bad-parameter", "?tool=gate:u*": "bad-parameter", "?tool=a&tool=b": "bad-parameter",
		"?since=yesterday": "bad-parameter", "?since=2026-01-01": "bad-parameter", "?since=2026-01-01T00:00:00+01:00": "bad-parameter", "?until=": "bad-parameter",
		"?since=2026-01-02T00:00:00Z&until=2026-01-02T00:00:00Z": "bad-parameter", "?signature=": "bad-parameter", "?colour=red": "bad-parameter",
		"?label=x": "bad-parameter", "?project=%00": "bad-parameter",
		"?project=A": "bad-parameter", "?%zz": "bad-parameter", "?label=a:%ff": "bad-parameter",
		"?cursor=x": "bad-cursor", "?cursor=": "bad-cursor", "?cursor=" + formatCursor("steps", "1"): "bad-cursor",
		"?cursor=" + formatCursor("runs", "1"): "bad-cursor",
	} {
		g.want(g.get("/api/runs"+query), http.StatusBadRequest, code)
	}
}

func TestCancelRun(t *testing.T) {
	g := newGateway(t)
	created := g.create(oneStep)
	path := "/api/runs/" + created.Run.ID + "/cancel"
	g.want(g.do(http.MethodPost, path, `{"reason":"x"}`, header{"If-Match": `"v99"`}), http.StatusPreconditionFailed, "stale-version")
	g.want(g.do(http.MethodPost, path, "", header{"If-Match": `v1`}), http.StatusBadRequest, "bad-parameter")
	g.want(g.do(http.MethodPost, path, `{"reason":"`+strings.Repeat("x", 2049)+`"}`), http.StatusUnprocessableEntity, "invalid-field")

	r := g.do(http.MethodPost, path, "", header{"If-Match": fmt.Sprintf(`"v%d"`, created.Run.Version)})
	g.want(r, http.StatusOK, "")
	cancelled := decodeAs[api.RunAnswer](t, r).Run
	if cancelled.Status != api.RunStatusCancelled || cancelled.Reason == nil || !strings.HasPrefix(*cancelled.Reason, "requested by key:") || !strings.Contains(*cancelled.Reason, " (admin-") {
		t.Errorf("cancelled = %+v, want cancelled with who asked", cancelled)
	}
	if got, want := r.header.Get("ETag"), fmt.Sprintf(`"v%d"`, cancelled.Version); got != want {
		t.Errorf("ETag = %s, want %s", got, want)
	}
	again := g.do(http.MethodPost, path, "")
	g.want(again, http.StatusConflict, "illegal-transition")
	p := decodeAs[api.Problem](t, again)
	if p.From == nil || *p.From != "cancelled" || p.Event == nil || *p.Event != "cancel" || len(p.Allowed) == 0 {
		t.Errorf("problem = %s, want from, event and what is allowed", again.body)
	}
}

// TestS06_ForeignIDs checks that what is not the caller's looks like what is not there
// (SECURITY.md T9), on every route that takes an id.
func TestS06_ForeignIDs(t *testing.T) {
	g := newGateway(t)
	created := g.create(plan(`{"name":"a","tool":"manual:x","inputs":{"message":"?"}}`))
	c := g.claim(created.Steps[0])
	a := g.artifact(c, "x.txt", "x")
	g.gate(c)
	gate := decodeAs[api.GatePage](t, g.get("/api/gates")).Items[0]
	made := g.startReview(posted(aDiff, ""))
	rc, v := g.beginReview(made.Review)
	finding := run.NewID()
	g.endReview(rc, v, postgres.ReviewEnd{Verdict: review.Failed, Occurrences: []postgres.Occurrence{occurrence(finding, "fp1.a", review.High)}})
	g.want(g.do(http.MethodPost, "/api/projects", `{"slug":"theirs"}`), http.StatusCreated, "")
	g.want(g.do(http.MethodPut, "/api/secrets/THEIRS", `{"value":"canary-value"}`), http.StatusOK, "")
	other := g.newKey(g.pg.Tenant(t), api.RoleAdmin)
	trusted := g.do(http.MethodPost, "/api/oidc-trusts", aTrust)
	g.want(trusted, http.StatusCreated, "")
	alerted := g.do(http.MethodPost, "/api/alert-endpoints", alertBody)
	g.want(alerted, http.StatusCreated, "")
	alert := decodeAs[api.AlertEndpointAnswer](t, alerted).Endpoint.ID
	ids := map[string]string{
		"{alert_id}": alert, "{message_id}": g.tellAlert(alert),
		"{trust_id}":      decodeAs[api.OIDCTrustAnswer](t, trusted).Trust.ID,
		"{repository_id}": g.repository("acme/shop").Repository.ID, "{review_id}": made.Review.ID, "{finding_id}": run.FindingID.Format(finding),
		"{project_slug}": "theirs", "{secret_name}": "THEIRS", "{run_id}": created.Run.ID, "{step_id}": created.Steps[0].ID, "{gate_id}": gate.ID,
		"{checkpoint_id}": *gate.ShownCheckpointID, "{artifact_id}": run.ArtifactID.Format(a.ID), "{trace_id}": created.Run.TraceID,
		"{bisect_id}": created.Run.ID, "{sha256}": hex.EncodeToString(a.SHA256),
	}
	unknown := strings.Repeat("0", 31) + "1"
	needed := map[string]string{ // bodies, where a reason is not enough
		"rerunRun": "", "createCheckpoint": "", "archiveCheckpoint": "", "markCheckpoint": `{"label":"x"}`, "bisectRun": `{"command":"x"}`,
		"createBranches": `{"checkpoint_id":"` + *gate.ShownCheckpointID + `"}`, "startMerge": `{"source_run_id":"` + created.Run.ID + `"}`,
		"rerunReview": "", "changeRepository": `{"enabled":false}`, "changeAlertEndpoint": `{"enabled":false}`, "rotateAlertSecret": "", "redeliverAlert": "",
		"resolveMerge": `{"resolutions":[{"path":"x","take":"ours"}]}`, "commitMerge": "", "abandonMerge": `{"reason":"x"}`,
	}
	for _, op := range g.server.operations() {
		if !strings.Contains(op.path, "{") || op.id == "setSecret" { // which makes what there is not
			continue
		}
		var foreign, absent, wrong []string
		for name, id := range ids {
			noun, _, _ := strings.Cut(id, "_")
			foreign, absent, wrong = append(foreign, name, id), append(absent, name, noun+"_"+unknown), append(wrong, name, "x"+id)
		}
		query, body := "", needed[op.id]
		if op.id == "getCheckpointFile" {
			query = "?path=x"
		}
		if _, other := needed[op.id]; !other && op.method == http.MethodPost {
			body = `{"reason":"x"}`
		}
		var bodies []string
		for _, with := range [][]string{foreign, absent, wrong} {
			path := strings.NewReplacer(append(with, "{key_id}", "key_"+unknown)...).Replace(op.path)
			r := g.do(op.method, path+query, body, header{"Authorization": "Bearer " + other})
			g.want(r, http.StatusNotFound, "not-found")
			p := decodeAs[api.Problem](t, r)
			bodies = append(bodies, p.Title+p.Detail)
		}
		if bodies[0] != bodies[1] || bodies[0] != bodies[2] {
			t.Errorf("%s: 404 of a foreign, an unknown and a wrong id = %q, want them alike", op.id, bodies)
		}
	}
}

// TestLargeRun checks that a run whose steps and gates say much is answered within
// bounds, and where the rest is.
func TestLargeRun(t *testing.T) {
	g := newGateway(t)
	const n, each, bound = 20, 60_000, 1 << 20
	var steps []string
	for i := range n {
		steps = append(steps, fmt.Sprintf(`{"name":"b%d","tool":"bash","inputs":{"script":"true"},"depends_on":[]},{"name":"m%d","tool":"manual:ship","inputs":{"message":"Ship?"},"depends_on":[]}`, i, i))
	}
	created := g.create(plan(strings.Join(steps, ",")))
	large := strings.Repeat("x", each)
	for _, step := range created.Steps {
		c := g.claim(step)
		if step.Tool == "bash" {
			g.finish(postgres.Finish{Claim: c, Outcome: "succeed", Outputs: json.RawMessage(`{"out":"` + large + `"}`)})
			continue
		}
		g.gateWith(c, map[string]any{"out": large}, 1)
	}
	path := "/api/runs/" + created.Run.ID
	detail := g.get(path)
	g.want(detail, http.StatusOK, "")
	d := decodeAs[api.RunDetail](t, detail)
	ways := map[string][]api.Step{"run": d.Steps, "steps": decodeAs[api.StepPage](t, g.get(path+"/steps?limit=200")).Items, "timeline": nil}
	for _, item := range decodeAs[api.Timeline](t, g.get(path+"/timeline")).Items {
		ways["timeline"] = append(ways["timeline"], item.Step)
	}
	for name, steps := range ways {
		sum, omitted := 0, false
		for _, step := range steps {
			if step.Tool != "bash" {
				continue
			}
			if shown := len(step.Outputs) > 0; shown == (step.OutputsOmitted != nil) || shown && omitted {
				t.Errorf("%s: step %s has %d bytes of outputs, omitted %v, want one or the other, and none after the first omitted", name, step.Name, len(step.Outputs), step.OutputsOmitted)
			}
			sum, omitted = sum+len(step.Outputs), omitted || step.OutputsOmitted != nil
		}
		if sum > bound || sum < bound-2*each || !omitted {
			t.Errorf("%s: %d bytes of outputs, want nearly %d and the rest omitted", name, sum, bound)
		}
	}
	sum := 0
	for i, gate := range d.Gates {
		if shown := len(gate.Evidence) > 0; shown == (gate.EvidenceOmitted != nil) {
			t.Errorf("gate %d has %d bytes of evidence, omitted %v, want one or the other", i, len(gate.Evidence), gate.EvidenceOmitted)
		}
		sum += len(gate.Evidence)
	}
	if oldest, newest := d.Gates[0], d.Gates[n-1]; sum > bound || oldest.EvidenceOmitted == nil || newest.EvidenceOmitted != nil {
		t.Errorf("%d bytes of evidence, oldest omitted %v, newest %v, want at most %d, of the newest", sum, oldest.EvidenceOmitted, newest.EvidenceOmitted, bound)
	}
	last := created.Steps[2*n-2]
	if step := decodeAs[api.StepDetail](t, g.get("/api/steps/"+last.ID)).Step; len(step.Outputs) < each || step.OutputsOmitted != nil {
		t.Errorf("step by itself has %d bytes of outputs, omitted %v, want all", len(step.Outputs), step.OutputsOmitted)
	}
	if gate := decodeAs[api.GateAnswer](t, g.get("/api/gates/"+d.Gates[0].ID)).Gate; len(gate.Evidence) < each || gate.EvidenceOmitted != nil {
		t.Errorf("gate by itself has %d bytes of evidence, omitted %v, want all", len(gate.Evidence), gate.EvidenceOmitted)
	}
}

// TestDeadlines checks that a plan says how long its run may take, and that a wait
// which cannot end before is refused with both.
func TestDeadlines(t *testing.T) {
	g := newGateway(t)
	body := func(deadline, wait string) string {
		return `{"plan":{"goal":"g",` + deadline + `"steps":[{"name":"w","tool":"sleep","inputs":{"duration_s":` + wait + `}}]}}`
	}
	for _, path := range []string{"/api/runs", "/api/runs/preview"} {
		r := g.do(http.MethodPost, path, body("", "1728000"))
		g.want(r, http.StatusUnprocessableEntity, "invalid-plan")
		if p := decodeAs[api.Problem](t, r); len(p.Errors) != 1 || p.Errors[0].Pointer != "/plan/steps/0/inputs/duration_s" ||
			!strings.Contains(p.Errors[0].Detail, "1728000 s") || !strings.Contains(p.Errors[0].Detail, "604800") {
			t.Errorf("POST %s with a wait of 20 days = %+v, want both it and the deadline named", path, p.Errors)
		}
		g.want(g.do(http.MethodPost, path, body(`"deadline_s":59,`, "1")), http.StatusUnprocessableEntity, "invalid-plan")
		g.want(g.do(http.MethodPost, path, body(`"deadline_s":"1h",`, "1")), http.StatusBadRequest, "malformed-json")
	}
	preview := decodeAs[api.RunPreview](t, g.do(http.MethodPost, "/api/runs/preview", oneStep))
	if got := preview.Plan.DeadlineS; got == nil || *got != 604800 {
		t.Errorf("deadline_s of the preview = %v, want the default", got)
	}
	created := g.create(body(`"deadline_s":7776000,`, "1728000"))
	want := created.Run.CreatedAt.Add(90 * 24 * time.Hour)
	if created.Run.Deadline == nil {
		t.Fatal("a run has no deadline")
	}
	if off := created.Run.Deadline.Sub(want); off > time.Minute || off < -time.Minute {
		t.Errorf("deadline = %v, want %v", created.Run.Deadline, want)
	}
	// A paused run has none, and the pause is added when it goes on.
	path := "/api/runs/" + created.Run.ID
	paused := decodeAs[api.RunAnswer](t, g.do(http.MethodPost, path+"/pause", "")).Run
	still := decodeAs[api.RunDetail](t, g.get(path)).Run
	resumed := decodeAs[api.RunAnswer](t, g.do(http.MethodPost, path+"/resume", "")).Run
	listed := decodeAs[api.RunPage](t, g.get("/api/runs?status=queued")).Items
	if paused.Deadline != nil || still.Deadline != nil || resumed.Deadline == nil || !resumed.Deadline.After(*created.Run.Deadline) {
		t.Errorf("deadline = %v, paused %v, later %v, resumed %v; want none while it is paused, and then a later one",
			created.Run.Deadline, paused.Deadline, still.Deadline, resumed.Deadline)
	}
	if len(listed) != 1 || listed[0].Deadline == nil || !listed[0].Deadline.Equal(*resumed.Deadline) {
		t.Errorf("listed = %+v, want the deadline %v", listed, resumed.Deadline)
	}
}
