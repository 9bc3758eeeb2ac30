package httpapi

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"nofx.dev/gateway/api"
	"nofx.dev/shared/run"
)

// announcement returns the body that announces content as name.
func announcement(name, content string) string {
	sum := sha256.Sum256([]byte(content))
	return fmt.Sprintf(`{"name":%q,"size_bytes":%d,"sha256":%q,"media_type":"text/plain"}`, name, len(content), hex.EncodeToString(sum[:]))
}

func (g *gateway) announce(content string, headers ...header) api.CreatedArtifact {
	g.Helper()
	r := g.do(http.MethodPost, "/api/artifacts", announcement("notes.txt", content), headers...)
	g.want(r, http.StatusCreated, "")
	return decodeAs[api.CreatedArtifact](g, r)
}

// putSigned does what an upload says.
func (g *gateway) putSigned(u *api.Upload, content string) int {
	g.Helper()
	if u == nil {
		g.Fatal("no upload, want one")
	}
	req, err := http.NewRequestWithContext(g.Context(), string(u.Method), u.URL, strings.NewReader(content))
	if err != nil {
		g.Fatal(err)
	}
	for name, value := range u.Headers {
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		g.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

func (g *gateway) complete(id string, headers ...header) reply {
	g.Helper()
	return g.do(http.MethodPost, "/api/artifacts/"+id+"/complete", "", headers...)
}

// upload announces content, puts it and completes it.
func (g *gateway) upload(content string) api.Artifact {
	g.Helper()
	created := g.announce(content)
	if status := g.putSigned(created.Upload, content); status != http.StatusOK {
		g.Fatalf("PUT = %d, want 200", status)
	}
	return g.verified(created.Artifact.ID)
}

// verifyRun asks to complete an artifact, does not wait, and returns the run that is to
// verify it.
func (g *gateway) verifyRun(id string) string {
	g.Helper()
	r := g.do(http.MethodPost, "/api/artifacts/"+id+"/complete?wait_s=0", "")
	g.want(r, http.StatusAccepted, "")
	runID := decodeAs[api.ArtifactAnswer](g, r).VerifyRunID
	if runID == nil || r.header.Get("Location") != "/api/runs/"+*runID {
		g.Fatalf("complete = run %v, Location %q, want both to name the run", runID, r.header.Get("Location"))
	}
	return *runID
}

// verified completes an artifact whose bytes a worker finds right.
func (g *gateway) verified(id string) api.Artifact {
	g.Helper()
	g.verify(g.verifyRun(id), "")
	r := g.complete(id)
	g.want(r, http.StatusOK, "")
	return decodeAs[api.ArtifactAnswer](g, r).Artifact
}

func TestUpload(t *testing.T) {
	g := newGateway(t)
	const content = "what a client has"
	created := g.announce(content)
	id := created.Artifact.ID
	g.want(g.get("/api/artifacts/"+id), http.StatusNotFound, "not-found")
	g.want(g.complete(id), http.StatusConflict, "upload-incomplete")
	if status := g.putSigned(created.Upload, content+"!"); status != http.StatusForbidden {
		t.Errorf("PUT of more bytes = %d, want 403", status)
	}
	if status := g.putSigned(created.Upload, strings.ToUpper(content)); status != http.StatusOK {
		t.Errorf("PUT of other bytes = %d, want 200: the test looks at nothing", status)
	}
	wrong := g.verifyRun(id)
	g.verify(wrong, run.ClassInvalid)
	for range 2 { // the same bytes are not verified again
		g.want(g.complete(id), http.StatusConflict, "object-corrupt")
	}
	g.want(g.get("/api/artifacts/"+id), http.StatusNotFound, "not-found")
	if status := g.putSigned(created.Upload, content); status != http.StatusOK {
		t.Errorf("PUT = %d, want 200", status)
	}
	if again := g.verifyRun(id); again == wrong {
		t.Errorf("other bytes are verified by run %s, want another than that of those before", again)
	}
	g.verified(id)
	for range 2 {
		a := decodeAs[api.ArtifactAnswer](t, g.complete(id)).Artifact
		if a.Name != "notes.txt" || a.MediaType != "text/plain" || a.SizeBytes != int64(len(content)) || a.URL != nil {
			t.Errorf("completed = %+v, want what was announced", a)
		}
	}
	// Whoever still has the URL changes nothing any more.
	if status := g.putSigned(created.Upload, strings.ToUpper(content)); status != http.StatusOK {
		t.Errorf("PUT afterwards = %d, want 200: the test looks at nothing", status)
	}
	a := decodeAs[api.ArtifactAnswer](t, g.get("/api/artifacts/"+id)).Artifact
	resp, err := http.Get(*a.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, err := io.ReadAll(resp.Body); err != nil || string(got) != content {
		t.Errorf("GET of its URL = %q, %v, want %q", got, err, content)
	}
	// The same bytes again, and another tenant's, are artifacts of their own.
	if again := g.upload(content); again.ID == id {
		t.Errorf("the same bytes again = %s, want another artifact", again.ID)
	}
	other := header{"Authorization": "Bearer " + g.newKey(g.pg.Tenant(t), api.RoleAdmin)}
	g.want(g.get("/api/artifacts/"+id, other), http.StatusNotFound, "not-found")
	g.want(g.complete(id, other), http.StatusNotFound, "not-found")
	var keys int
	g.announce(content, other)
	if err := g.pg.Admin.QueryRow(t.Context(), "SELECT count(DISTINCT key) FROM nofx.artifact").Scan(&keys); err != nil || keys != 2 {
		t.Errorf("keys of three artifacts = %d, %v, want the two tenants'", keys, err)
	}
}

// A key is for the artifact; its URL is minted for each answer and never stored.
func TestUploadIdempotency(t *testing.T) {
	g := newGateway(t)
	const content = "once"
	key := header{"Idempotency-Key": "k"}
	first := g.announce(content, key)
	r := g.do(http.MethodPost, "/api/artifacts", announcement("notes.txt", content), key)
	again := decodeAs[api.CreatedArtifact](t, r)
	if again.Artifact.ID != first.Artifact.ID || r.header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("again = %+v (replayed %q), want the same artifact, marked", again.Artifact, r.header.Get("Idempotent-Replayed"))
	}
	var stored string
	if err := g.pg.Admin.QueryRow(t.Context(), "SELECT convert_from(body, 'UTF8') FROM nofx.idempotency_key").Scan(&stored); err != nil || strings.Contains(stored, "Signature") {
		t.Errorf("stored answer = %s, %v, want one without the URL", stored, err)
	}
	if status := g.putSigned(again.Upload, content); status != http.StatusOK {
		t.Errorf("PUT to the second URL = %d, want 200", status)
	}
	g.verified(first.Artifact.ID)
	if late := decodeAs[api.CreatedArtifact](t, g.do(http.MethodPost, "/api/artifacts", announcement("notes.txt", content), key)); late.Upload != nil {
		t.Errorf("upload of a complete artifact = %+v, want none", late.Upload)
	}
	g.want(g.do(http.MethodPost, "/api/artifacts", announcement("other.txt", content), key), http.StatusUnprocessableEntity, "idempotency-key-reused")
}

func TestUploadRefuses(t *testing.T) {
	g := newGateway(t)
	const sum = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	for _, tt := range []struct {
		body    string
		status  int
		code    string
		pointer string
	}{
		{`{"name":"","size_bytes":1,"sha256":"` + sum + `"}`, 422, "invalid-field", "/name"},
		{`{"name":"` + strings.Repeat("x", 256) + `","size_bytes":1,"sha256":"` + sum + `"}`, 422, "invalid-field", "/name"},
		{`{"name":"a\u202eb","size_bytes":1,"sha256":"` + sum + `"}`, 422, "invalid-field", "/name"},
		{`{"name":"a","size_bytes":0,"sha256":"` + sum + `"}`, 422, "invalid-field", "/size_bytes"},
		{`{"name":"a","size_bytes":1073741825,"sha256":"` + sum + `"}`, 422, "invalid-field", "/size_bytes"},
		{`{"name":"a","size_bytes":"1","sha256":"` + sum + `"}`, 400, "malformed-json", "/size_bytes"},
		{`{"name":"a","size_bytes":1,"sha256":"` + strings.ToUpper(sum) + `"}`, 422, "invalid-field", "/sha256"},
		{`{"name":"a","size_bytes":1,"sha256":"e3b0"}`, 422, "invalid-field", "/sha256"},
		{`{"name":"a","size_bytes":1,"sha256":"` + sum + `","media_type":"text"}`, 422, "invalid-field", "/media_type"},
		{`{"name":"a","size_bytes":1,"sha256":"` + sum + `","media_type":"text/\nplain"}`, 422, "invalid-field", "/media_type"},
		{`{"name":"a","size_bytes":1,"sha256":"` + sum + `","run_id":"run_1"}`, 400, "unknown-field", "/run_id"},
	} {
		r := g.do(http.MethodPost, "/api/artifacts", tt.body)
		g.want(r, tt.status, tt.code)
		if p := decodeAs[api.Problem](t, r); len(p.Errors) != 1 || p.Errors[0].Pointer != tt.pointer {
			t.Errorf("%s: errors = %+v, want %s", tt.body, p.Errors, tt.pointer)
		}
	}
	var rows int
	if err := g.pg.Admin.QueryRow(t.Context(), "SELECT (SELECT count(*) FROM nofx.artifact) + (SELECT count(*) FROM nofx.object)").Scan(&rows); err != nil || rows != 0 {
		t.Errorf("rows after refusals = %d, %v, want none", rows, err)
	}
}

// Of many that complete one artifact at once all get it, by one run, which lists of runs
// show only where they are asked for system runs.
func TestCompleteAtOnce(t *testing.T) {
	g := newGateway(t)
	content := strings.Repeat("x", 1<<20)
	created := g.announce(content)
	if status := g.putSigned(created.Upload, content); status != http.StatusOK {
		t.Fatalf("PUT = %d, want 200", status)
	}
	id := g.verifyRun(created.Artifact.ID)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { g.want(g.complete(created.Artifact.ID), http.StatusOK, "") })
	}
	g.verify(id, "")
	wg.Wait()
	var live, condemned int
	if err := g.pg.Admin.QueryRow(t.Context(), `SELECT count(*) FILTER (WHERE state = 'live' AND kind = 'blob'),
		count(*) FILTER (WHERE state = 'condemned' AND kind = 'upload') FROM nofx.object`).Scan(&live, &condemned); err != nil || live != 1 || condemned != 1 {
		t.Errorf("objects = %d live, %d condemned, %v, want the artifact's and the upload's", live, condemned, err)
	}
	for query, want := range map[string]int{"": 0, "?kind=plan": 0, "?kind=system": 1, "?kind=system&status=succeeded&q=verify": 1, "?tool=sys:*": 0} {
		list := decodeAs[api.RunPage](t, g.get("/api/runs"+query)).Items
		if len(list) != want || want == 1 && (list[0].ID != id || list[0].Kind != api.RunKindSystem) {
			t.Errorf("runs%s = %d, want %d", query, len(list), want)
		}
	}
	g.want(g.get("/api/runs?kind=other"), http.StatusBadRequest, "bad-parameter")
	g.want(g.do(http.MethodPost, "/api/runs/"+id+"/rerun", ""), http.StatusConflict, "system-run")
	g.want(g.do(http.MethodPost, "/api/runs", `{"plan":{"goal":"g","steps":[{"name":"a","tool":"sys:verify","inputs":{"artifact_id":"`+created.Artifact.ID+`"}}]}}`),
		http.StatusUnprocessableEntity, "unknown-tool")
}

// A verification that failed for no fault of the upload, or was cancelled, is begun anew
// by whoever asks again.
func TestCompleteAfterAFailedVerification(t *testing.T) {
	g := newGateway(t)
	const content = "right all along"
	created := g.announce(content)
	if status := g.putSigned(created.Upload, content); status != http.StatusOK {
		t.Fatalf("PUT = %d, want 200", status)
	}
	for _, end := range []func(string){
		func(id string) { g.verify(id, run.ClassInfrastructure) },
		func(id string) {
			g.want(g.do(http.MethodPost, "/api/runs/"+id+"/cancel", `{"reason":"not now"}`), http.StatusOK, "")
		},
	} {
		answered := make(chan reply)
		go func() { answered <- g.complete(created.Artifact.ID) }()
		for over := false; !over; { // should the request come late, it begins another run, which ends like this too
			select {
			case r := <-answered:
				g.want(r, http.StatusConflict, "verify-failed")
				over = true
			default:
				for _, r := range decodeAs[api.RunPage](t, g.get("/api/runs?kind=system&status=queued")).Items {
					end(r.ID)
				}
			}
		}
	}
	g.verified(created.Artifact.ID)
}

// A plan names artifacts that are there, of the caller's own tenant.
func TestPlanNamesArtifacts(t *testing.T) {
	g := newGateway(t)
	ready, pending := g.upload("archive"), g.announce("pending").Artifact.ID
	nowhere := run.ArtifactID.Format(run.NewID())
	plan := func(workspace, file string) string {
		return `{"plan":{"goal":"g","workspace":{"source":"upload","artifact_id":"` + workspace + `"},"steps":[
			{"name":"a","tool":"workspace:write","inputs":{"files":[{"path":"x","content":""},{"path":"y","artifact_id":"` + file + `"}]}}]}}`
	}
	const atWorkspace, atFile = "/plan/workspace/artifact_id", "/plan/steps/0/inputs/files/1/artifact_id"
	for _, path := range []string{"/api/runs", "/api/runs/preview"} {
		for _, tt := range []struct {
			workspace, file string
			pointers        []string
		}{
			{nowhere, ready.ID, []string{atWorkspace}},
			{ready.ID, pending, []string{atFile}},
			{pending, nowhere, []string{atWorkspace, atFile}},
			{"run_" + nowhere[4:], ready.ID, []string{atWorkspace}},
		} {
			r := g.do(http.MethodPost, path, plan(tt.workspace, tt.file))
			g.want(r, http.StatusUnprocessableEntity, "invalid-plan")
			var got []string
			for _, e := range decodeAs[api.Problem](t, r).Errors {
				got = append(got, e.Pointer)
			}
			if fmt.Sprint(got) != fmt.Sprint(tt.pointers) {
				t.Errorf("%s of %+v: pointers = %v, want %v", path, tt, got, tt.pointers)
			}
		}
		other := header{"Authorization": "Bearer " + g.newKey(g.pg.Tenant(t), api.RoleAdmin)}
		g.want(g.do(http.MethodPost, path, plan(ready.ID, ready.ID), other), http.StatusUnprocessableEntity, "invalid-plan")
	}
	if got := g.runs(); got != 0 {
		t.Errorf("%d runs, want none", got)
	}
	p := decodeAs[api.RunPreview](t, g.do(http.MethodPost, "/api/runs/preview", plan(ready.ID, ready.ID)))
	if len(p.Plan.Steps) != 1 || fmt.Sprint(p.Graph.Levels) != "[[workspace~upload] [a]]" {
		t.Errorf("preview = %d steps, levels %v; want the plan's step, after the one that unpacks", len(p.Plan.Steps), p.Graph.Levels)
	}
	created := g.create(plan(ready.ID, ready.ID))
	if len(created.Steps) != 2 || created.Steps[0].Name != "workspace~upload" || created.Steps[0].Status != api.StepStatusReady ||
		fmt.Sprint(created.Steps[1].DependsOn) != "[workspace~upload]" {
		t.Errorf("steps = %+v, want the one that unpacks, and then the plan's", created.Steps)
	}
	g.want(g.get("/api/runs/"+created.Run.ID), http.StatusOK, "")
}
