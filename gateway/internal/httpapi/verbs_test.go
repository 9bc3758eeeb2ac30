package httpapi

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"nofx.dev/gateway/api"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
)

const two = `{"name":"a","tool":"bash","inputs":{"script":"true"}},{"name":"b","tool":"bash","inputs":{"script":"true"}}`

// runIn brings a run of two steps to a status, by what leads there.
func (g *gateway) runIn(status api.RunStatus) api.CreatedRun {
	g.Helper()
	if status == api.RunStatusWaiting {
		made := g.create(plan(manual))
		g.gate(g.claim(made.Steps[0]))
		return made
	}
	made := g.create(plan(two))
	end := func(outcome string) {
		for _, step := range made.Steps {
			f := postgres.Finish{Claim: g.claim(step), Outcome: outcome}
			if outcome == "fail" {
				f.Reason, f.FailureClass = "exit status 1", run.ClassExhausted
			}
			g.finish(f)
			if outcome == "fail" {
				return
			}
		}
	}
	switch status {
	case api.RunStatusRunning:
		g.claim(made.Steps[0])
	case api.RunStatusPaused:
		g.want(g.do(http.MethodPost, "/api/runs/"+made.Run.ID+"/pause", ""), http.StatusOK, "")
	case api.RunStatusSucceeded:
		end("succeed")
	case api.RunStatusFailed:
		end("fail")
	case api.RunStatusCancelled:
		g.want(g.do(http.MethodPost, "/api/runs/"+made.Run.ID+"/cancel", ""), http.StatusOK, "")
	}
	return made
}

// age is the only member of a run that changes although nothing happens to the run.
var age = regexp.MustCompile(`"age_s":[0-9]+`)

// state returns the body of a run as the API answers it, without the age of its gates.
func (g *gateway) state(id string) string {
	g.Helper()
	r := g.get("/api/runs/" + id)
	g.want(r, http.StatusOK, "")
	return age.ReplaceAllString(string(r.body), `"age_s":…`)
}

// TestVerbs asks every verb of a run in every status: the answer, and what the
// run's events say of it.
func TestVerbs(t *testing.T) {
	g := newGateway(t)
	statuses := []api.RunStatus{api.RunStatusQueued, api.RunStatusRunning, api.RunStatusWaiting, api.RunStatusPaused,
		api.RunStatusSucceeded, api.RunStatusFailed, api.RunStatusCancelled}
	want := map[string]map[api.RunStatus]string{ // the event that moves the run, else it is refused
		"pause":  {"queued": "run.paused", "running": "run.paused", "waiting": "run.paused"},
		"resume": {"paused": "run.queued", "failed": "run.running", "cancelled": "run.running"},
		"retry":  {"failed": "run.running", "cancelled": "run.running"},
		"cancel": {"queued": "run.cancelled", "running": "run.cancelled", "waiting": "run.cancelled", "paused": "run.cancelled"},
		"rerun":  {"succeeded": "", "failed": "", "cancelled": ""},
	}
	for verb, moves := range want {
		for _, status := range statuses {
			made := g.runIn(status)
			before := g.state(made.Run.ID)
			what := fmt.Sprintf("%s of a run %s", verb, status)
			r := g.do(http.MethodPost, "/api/runs/"+made.Run.ID+"/"+verb, "")
			event, legal := moves[status]
			switch {
			case !legal:
				g.want(r, http.StatusConflict, "illegal-transition")
				p := decodeAs[api.Problem](t, r)
				if p.From == nil || *p.From != string(status) || p.Event == nil || *p.Event != verb || p.Allowed == nil || slices.Contains(p.Allowed, verb) {
					t.Errorf("%s = %s, want from, event and what is allowed", what, r.body)
				}
				if diff := cmp.Diff(before, g.state(made.Run.ID)); diff != "" {
					t.Errorf("%s was refused and changed the run:\n%s", what, diff)
				}
			case verb == "rerun":
				g.want(r, http.StatusCreated, "")
				again := decodeAs[api.CreatedRun](t, r)
				if again.Run.ID == made.Run.ID || again.Run.PlanDigest != made.Run.PlanDigest || again.Run.Status != api.RunStatusQueued ||
					again.Run.TraceID == made.Run.TraceID || r.header.Get("Location") != "/api/runs/"+again.Run.ID {
					t.Errorf("%s = %s, want a new run of plan %s in a trace of its own", what, r.body, made.Run.PlanDigest)
				}
				if diff := cmp.Diff(before, g.state(made.Run.ID)); diff != "" {
					t.Errorf("%s changed the run:\n%s", what, diff)
				}
			default:
				g.want(r, http.StatusOK, "")
				after := decodeAs[api.RunAnswer](t, r).Run
				if "run."+string(after.Status) != event || r.header.Get("ETag") != fmt.Sprintf(`"v%d"`, after.Version) ||
					after.Reason == nil || !strings.HasPrefix(*after.Reason, "requested by key:") || !strings.Contains(*after.Reason, " (admin-") {
					t.Errorf("%s = %s, want %s with an ETag, and who asked", what, r.body, event)
				}
				events := decodeAs[api.EventPage](t, g.get("/api/runs/"+made.Run.ID+"/events?limit=500&types=run.*")).Items
				if last := events[len(events)-1]; last.Type != event {
					t.Errorf("%s: last event %s, want %s", what, last.Type, event)
				}
			}
		}
	}
	made := g.runIn(api.RunStatusFailed)
	for _, verb := range []string{"pause", "resume", "retry", "cancel"} {
		path := "/api/runs/" + made.Run.ID + "/" + verb
		g.want(g.do(http.MethodPost, path, "", header{"If-Match": `"v99"`}), http.StatusPreconditionFailed, "stale-version")
		g.want(g.do(http.MethodPost, path, `{"why":"x"}`), http.StatusBadRequest, "unknown-field")
		g.want(g.do(http.MethodPost, path, `{"reason":"`+strings.Repeat("x", 2049)+`"}`), http.StatusUnprocessableEntity, "invalid-field")
		g.want(g.do(http.MethodPost, path+"?force=1", ""), http.StatusBadRequest, "bad-parameter")
	}
	g.want(g.do(http.MethodPost, "/api/runs/"+made.Run.ID+"/rerun", `{"plan":{}}`), http.StatusBadRequest, "unknown-field")
}

// TestRetryAfterTheDeadline checks that whoever wants to retry a step that ended with its
// run hears why that is not possible, and that the run can be retried.
func TestRetryAfterTheDeadline(t *testing.T) {
	g := newGateway(t)
	made := g.create(plan(two))
	g.claim(made.Steps[0])
	id, err := run.RunID.Parse(made.Run.ID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.pg.Admin.Exec(t.Context(), "UPDATE nofx.run SET deadline = clock_timestamp() WHERE id = $1", id); err != nil {
		t.Fatal(err)
	}
	if event, err := g.db.Sweep(t.Context(), postgres.Due{TenantID: g.tenant, RunID: id, Kind: postgres.DueDeadline}, postgres.SweepRules{}, nil); event != "fail" || err != nil {
		t.Fatalf("Sweep(run at its deadline) = %q, %v, want fail", event, err)
	}
	cancelled := g.runIn(api.RunStatusCancelled)
	for step, want := range map[string]string{
		made.Steps[0].ID:                "retry is not possible while the step is cancelled: the run's deadline has passed; retry the run, which then gets its whole deadline_s again",
		cancelled.Steps[0].ID:           "retry is not possible while the step is cancelled: the run is cancelled; retry the run, which then gets its whole deadline_s again",
		g.create(plan(two)).Steps[0].ID: "retry is not possible while the step is ready",
	} {
		for _, path := range []string{"/api/steps/" + step + "/retry", "/api/dead-letters/" + step + "/requeue"} {
			r := g.do(http.MethodPost, path, "")
			g.want(r, http.StatusConflict, "illegal-transition")
			if got := decodeAs[api.Problem](t, r).Detail; got != want {
				t.Errorf("POST %s = %q, want %q", path, got, want)
			}
		}
	}
	r := g.do(http.MethodPost, "/api/runs/"+made.Run.ID+"/retry", "")
	g.want(r, http.StatusOK, "")
	if d := decodeAs[api.RunAnswer](t, r).Run.Deadline; d == nil || !d.After(made.Run.CreatedAt.Add(time.Hour)) {
		t.Errorf("deadline after the retry = %v, want it anew", d)
	}
}

// TestRerunOnce checks that a repeated rerun starts one run, and that the key of
// one run's rerun does not answer for another's.
func TestRerunOnce(t *testing.T) {
	g := newGateway(t)
	first, second := g.runIn(api.RunStatusFailed), g.runIn(api.RunStatusSucceeded)
	key := header{"Idempotency-Key": "again"}
	once := g.do(http.MethodPost, "/api/runs/"+first.Run.ID+"/rerun", "", key)
	g.want(once, http.StatusCreated, "")
	twice := g.do(http.MethodPost, "/api/runs/"+first.Run.ID+"/rerun", "", key)
	if twice.header.Get("Idempotent-Replayed") != "true" || string(twice.body) != string(once.body) {
		t.Errorf("repeated rerun = %d %s, want the first answer", twice.status, twice.body)
	}
	g.want(g.do(http.MethodPost, "/api/runs/"+second.Run.ID+"/rerun", "", key), http.StatusUnprocessableEntity, "idempotency-key-reused")
}

// TestRerunWithFiles checks that a run which began from files is run again from
// the same: the plan that is stored is the caller's, without the step that fetches.
func TestRerunWithFiles(t *testing.T) {
	g := newGateway(t)
	id := g.upload("archive").ID
	for source, workspace := range map[string]string{
		"git":    `{"source":"git","git":{"url":"https://host/x","ref":"main"},"excludes":["tmp"]}`,
		"upload": `{"source":"upload","artifact_id":"` + id + `"}`,
	} {
		shape := func(c api.CreatedRun) (list []string) {
			for _, s := range c.Steps {
				list = append(list, fmt.Sprint(s.Idx, s.Name, s.Tool, s.DependsOn, s.Status))
			}
			return list
		}
		first := g.create(`{"plan":{"goal":"g","workspace":` + workspace + `,"steps":[{"name":"a","tool":"bash","inputs":{"script":"true"}},` + manual + `]}}`)
		if len(first.Steps) != 3 || first.Steps[0].Name != "workspace~"+source {
			t.Fatalf("steps = %v, want that of the workspace before the plan's", shape(first))
		}
		for range 2 { // of a rerun as well
			g.want(g.do(http.MethodPost, "/api/runs/"+first.Run.ID+"/cancel", ""), http.StatusOK, "")
			r := g.do(http.MethodPost, "/api/runs/"+first.Run.ID+"/rerun", "")
			g.want(r, http.StatusCreated, "")
			again := decodeAs[api.CreatedRun](t, r)
			if again.Run.PlanDigest != first.Run.PlanDigest || again.Run.ID == first.Run.ID {
				t.Errorf("rerun of %s has plan %s, want %s", source, again.Run.PlanDigest, first.Run.PlanDigest)
			}
			if diff := cmp.Diff(shape(first), shape(again)); diff != "" {
				t.Errorf("steps of the rerun of %s (-first +again):\n%s", source, diff)
			}
			first = again
		}
	}
}

// TestRetryStep checks the verb of a step and the list of those given up.
func TestRetryStep(t *testing.T) {
	g := newGateway(t)
	made := g.runIn(api.RunStatusFailed)
	a, b := made.Steps[0].ID, made.Steps[1].ID
	letters := decodeAs[api.DeadLetterPage](t, g.get("/api/dead-letters?failure_class=exhausted&tool=bash&project=default"))
	if len(letters.Items) != 1 || letters.Items[0].Step.ID != a || letters.Items[0].Run.ID != made.Run.ID {
		t.Fatalf("dead letters = %+v, want step a of the run", letters.Items)
	}
	for _, query := range []string{"failure_class=tool", "project=UP", "limit=0", "state=failed"} {
		g.want(g.get("/api/dead-letters?"+query), http.StatusBadRequest, "bad-parameter")
	}
	g.want(g.get("/api/dead-letters?cursor=x"), http.StatusBadRequest, "bad-cursor")

	g.want(g.do(http.MethodPost, "/api/steps/"+b+"/retry", ""), http.StatusConflict, "illegal-transition")
	g.want(g.do(http.MethodPost, "/api/steps/"+made.Run.ID+"/retry", ""), http.StatusNotFound, "not-found")
	alone := g.do(http.MethodPost, "/api/steps/"+a+"/retry", `{"cascade":false,"reason":"flaky"}`)
	g.want(alone, http.StatusOK, "")
	if got := decodeAs[api.StepAnswer](t, alone); got.Step.Status != api.StepStatusReady || got.Run.Status != api.RunStatusRunning || got.Step.Attempt != 0 {
		t.Errorf("retry = %s, want the step ready, with all its attempts, and the run running", alone.body)
	}
	if got := decodeAs[api.StepDetail](t, g.get("/api/steps/"+b)).Step; got.Status != api.StepStatusSkipped {
		t.Errorf("step b after a retry without cascade = %s, want skipped", got.Status)
	}
	if left := decodeAs[api.DeadLetterPage](t, g.get("/api/dead-letters")); len(left.Items) != 0 {
		t.Errorf("dead letters after the retry = %v, want none", left.Items)
	}

	var ids []string
	for range 3 {
		ids = append(ids, g.runIn(api.RunStatusFailed).Steps[0].ID)
	}
	one := g.do(http.MethodPost, "/api/dead-letters/"+ids[0]+"/requeue", "")
	g.want(one, http.StatusOK, "")
	if got := decodeAs[api.StepAnswer](t, one); got.Step.ID != ids[0] || got.Step.Status != api.StepStatusReady {
		t.Errorf("requeue = %s, want step %s ready", one.body, ids[0])
	}
	for body, code := range map[string]string{
		`{"limit":0}`: "invalid-field", `{"limit":201}`: "invalid-field", `{"failure_class":"tool"}`: "invalid-field", `{"project":"A B"}`: "invalid-field",
	} {
		g.want(g.do(http.MethodPost, "/api/dead-letters/requeue", body), http.StatusUnprocessableEntity, code)
	}
	g.want(g.do(http.MethodPost, "/api/dead-letters/requeue", `{"all":true}`), http.StatusBadRequest, "unknown-field")
	none := decodeAs[api.Requeued](t, g.do(http.MethodPost, "/api/dead-letters/requeue", `{"failure_class":"poisoned"}`))
	some := decodeAs[api.Requeued](t, g.do(http.MethodPost, "/api/dead-letters/requeue", `{"tool":"bash","limit":1,"reason":"fixed"}`))
	rest := decodeAs[api.Requeued](t, g.do(http.MethodPost, "/api/dead-letters/requeue", `{}`))
	if len(none.Requeued) != 0 || len(some.Requeued) != 1 || len(rest.Requeued) != 1 {
		t.Errorf("requeued %d, %d, %d, want none, the newest, and the one left", len(none.Requeued), len(some.Requeued), len(rest.Requeued))
	}
	g.want(g.do(http.MethodPost, "/api/dead-letters/"+ids[2]+"/requeue", ""), http.StatusConflict, "illegal-transition")
}

// TestSendSignal checks what a signal may be, and that a repeated request sends
// one.
func TestSendSignal(t *testing.T) {
	g := newGateway(t)
	for body, want := range map[string]struct {
		status int
		code   string
	}{
		`{}`:                             {http.StatusUnprocessableEntity, "invalid-field"},
		`{"key":""}`:                     {http.StatusUnprocessableEntity, "invalid-field"},
		`{"key":"a\u0000"}`:              {http.StatusUnprocessableEntity, "invalid-field"},
		`{"key":"k","to":"step"}`:        {http.StatusBadRequest, "unknown-field"},
		`{"key":7}`:                      {http.StatusBadRequest, "malformed-json"},
		`{"key":"k","payload":"\ud800"}`: {http.StatusUnprocessableEntity, "invalid-field"},
		`{"key":"` + strings.Repeat("k", 256) + `"}`:                          {http.StatusUnprocessableEntity, "invalid-field"},
		`{"key":"k","payload":"` + strings.Repeat("x", run.MaxPayload) + `"}`: {http.StatusUnprocessableEntity, "invalid-field"},
		`{"key":"k","payload":1e16384}`:                                       {http.StatusUnprocessableEntity, "invalid-field"},
		`{"key":"k","payload":[` + strings.Repeat("1e400,", 50) + `1]}`:       {http.StatusUnprocessableEntity, "invalid-field"},
		`{"key":"k","payload":1e-99999999999999999999}`:                       {http.StatusUnprocessableEntity, "invalid-field"},
	} {
		g.want(g.do(http.MethodPost, "/api/signals", body), want.status, want.code)
	}
	key := header{"Idempotency-Key": "one"}
	first := g.do(http.MethodPost, "/api/signals", `{"key":"k","payload":{"a":[1,2.50]}}`, key)
	g.want(first, http.StatusCreated, "")
	again := g.do(http.MethodPost, "/api/signals", `{"payload":{"a":[1,2.5]},"key":"k"}`, key)
	if string(again.body) != string(first.body) || again.header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("repeated signal = %d %s, want the first answer", again.status, again.body)
	}
	g.want(g.do(http.MethodPost, "/api/signals", `{"key":"n","payload":9007199254740993}`, header{"Idempotency-Key": "large"}), http.StatusCreated, "")
	g.want(g.do(http.MethodPost, "/api/signals", `{"key":"n","payload":9007199254740992}`, header{"Idempotency-Key": "large"}), http.StatusUnprocessableEntity, "idempotency-key-reused")
	// Any JSON means every number, and exactly that one.
	for _, number := range []string{"12345678901234567890", "-1e400", "1e16000", "1.5e-400", "0." + strings.Repeat("3", 1000), strings.Repeat("9", 10_000)} {
		g.want(g.do(http.MethodPost, "/api/signals", `{"key":"numbers","payload":{"n":`+number+`}}`), http.StatusCreated, "")
		var same bool
		if err := g.pg.Admin.QueryRow(t.Context(), "SELECT payload->'n' = $1::text::jsonb FROM nofx.inbox ORDER BY id DESC LIMIT 1", number).Scan(&same); err != nil || !same {
			t.Errorf("signal with %.30s keeps another number: %v", number, err)
		}
	}
	var n int
	if err := g.pg.Admin.QueryRow(t.Context(), "SELECT count(*) FROM nofx.inbox WHERE key = 'k'").Scan(&n); err != nil || n != 1 {
		t.Errorf("signals kept = %d, %v, want 1", n, err)
	}
}

// TestAllowed checks that a refused transition offers what an operation asks for, and
// nothing that only the system itself does.
func TestAllowed(t *testing.T) {
	g := newGateway(t)
	refused := func(path string) []string {
		r := g.do(http.MethodPost, path, "{}")
		g.want(r, http.StatusConflict, "illegal-transition")
		return decodeAs[api.Problem](t, r).Allowed
	}
	for status, tt := range map[api.RunStatus]struct {
		verb string
		want []string
	}{
		api.RunStatusQueued:    {"resume", []string{"cancel", "pause"}},
		api.RunStatusRunning:   {"rerun", []string{"cancel", "pause"}},
		api.RunStatusWaiting:   {"retry", []string{"cancel", "pause"}},
		api.RunStatusPaused:    {"pause", []string{"cancel", "resume"}},
		api.RunStatusSucceeded: {"cancel", []string{}},
		api.RunStatusFailed:    {"pause", []string{"resume", "retry"}},
		api.RunStatusCancelled: {"cancel", []string{"resume", "retry"}},
	} {
		if got := refused("/api/runs/" + g.runIn(status).Run.ID + "/" + tt.verb); !slices.Equal(got, tt.want) {
			t.Errorf("%s of a run %s allows %v, want %v", tt.verb, status, got, tt.want)
		}
	}
	running := g.runIn(api.RunStatusRunning)
	for _, step := range running.Steps {
		if got := refused("/api/steps/" + step.ID + "/retry"); len(got) != 0 {
			t.Errorf("retry of a step %s allows %v, want nothing", step.Status, got)
		}
	}
	waiting := g.runIn(api.RunStatusWaiting)
	gate := decodeAs[api.RunDetail](t, g.get("/api/runs/"+waiting.Run.ID)).Gates[0]
	g.want(g.do(http.MethodPost, "/api/runs/"+waiting.Run.ID+"/cancel", ""), http.StatusOK, "")
	r := g.do(http.MethodPost, "/api/gates/"+gate.ID+"/approve", "{}")
	g.want(r, http.StatusConflict, "illegal-transition")
	if got := decodeAs[api.Problem](t, r).Allowed; !slices.Equal(got, []string{"waive"}) {
		t.Errorf("approval of an expired gate allows %v, want waive", got)
	}
}
