package httpapi

import (
	"encoding/hex"
	"encoding/json"
	"net/http"
	"sync"
	"testing"

	"nofx.dev/gateway/api"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/shared/tree"
)

// finishWork does the step of a system run, with these outputs.
func (g *gateway) finishWork(runID string, outputs map[string]any, failure run.FailureClass) {
	g.Helper()
	d := decodeAs[api.RunDetail](g, g.get("/api/runs/"+runID))
	f := postgres.Finish{Claim: g.claim(d.Steps[0]), Outcome: "succeed"}
	if failure != "" {
		f.Outcome, f.FailureClass, f.Reason = "fail", failure, "storage is away"
	} else {
		raw, err := json.Marshal(outputs)
		if err != nil {
			g.Fatal(err)
		}
		f.Outputs = raw
	}
	g.finish(f)
}

var (
	collected = map[string]any{
		"dry_run": false, "checkpoints": 3, "named": map[string]any{"n": 5, "bytes": 50}, "condemned": map[string]any{"n": 1, "bytes": 10},
		"deleted": map[string]any{"n": 0, "bytes": 0}, "artifacts": map[string]any{"n": 0, "bytes": 0}, "rewritten": map[string]any{"n": 0, "bytes": 0}, "objects": map[string]any{"n": 0, "bytes": 0}, "orphans": map[string]any{"n": 0, "bytes": 0},
		"uploads": 0, "lost": 0, "items": []any{map[string]any{"kind": "blob", "id": "ab", "bytes": 10, "what": "condemned"}}, "items_truncated": false,
	}
	compared = map[string]any{
		"deep": true, "objects": map[string]any{"n": 5, "bytes": 50}, "missing": map[string]any{"n": 1, "bytes": 10}, "corrupt": map[string]any{"n": 0, "bytes": 0},
		"unbacked": 0, "orphans": map[string]any{"n": 0, "bytes": 0}, "items": []any{}, "items_truncated": false,
	}
)

// One collection of a tenant is live at a time: whoever asks for the same is answered by it,
// and whoever asks for another is refused; once it has ended there is another.
func TestCollectGarbage(t *testing.T) {
	g := newGateway(t)
	key := header{"Idempotency-Key": "k1"}
	r := g.do(http.MethodPost, "/api/gc?wait_s=0", `{}`, key)
	g.want(r, http.StatusAccepted, "")
	first := decodeAs[api.GCAnswer](t, r)
	if first.Collection != nil || r.header.Get("Location") != "/api/runs/"+first.GcRunID {
		t.Errorf("answer = %+v, Location %q, want the run alone", first, r.header.Get("Location"))
	}
	if again := decodeAs[api.GCAnswer](t, g.do(http.MethodPost, "/api/gc?wait_s=0", ``)); again.GcRunID != first.GcRunID {
		t.Errorf("a second request is answered by run %s, want %s, which is live", again.GcRunID, first.GcRunID)
	}
	g.want(g.do(http.MethodPost, "/api/gc?wait_s=0", `{"dry_run":true}`), http.StatusConflict, "run-busy")
	g.finishWork(first.GcRunID, collected, "")
	r = g.do(http.MethodPost, "/api/gc", `{}`, key)
	g.want(r, http.StatusOK, "")
	if done := decodeAs[api.GCAnswer](t, r); done.GcRunID != first.GcRunID || done.Collection == nil || done.Collection.Condemned.Bytes != 10 || len(done.Collection.Items) != 1 {
		t.Errorf("answer after the end = %+v, want the report of the same run", done)
	}
	next := decodeAs[api.GCAnswer](t, g.do(http.MethodPost, "/api/gc?wait_s=0", `{"dry_run":true}`))
	if next.GcRunID == first.GcRunID {
		t.Error("a request after the end is answered by the run that has ended, want another")
	}
	g.finishWork(next.GcRunID, nil, run.ClassTool)
	g.want(g.do(http.MethodPost, "/api/gc?wait_s=0", `{"dry_run":"yes"}`), http.StatusBadRequest, "malformed-json")
	operator := header{"Authorization": "Bearer " + g.newKey(g.tenant, api.RoleOperator)}
	for _, path := range []string{"/api/gc", "/api/storage/verify", "/api/blobs/" + hex.EncodeToString(make([]byte, 32)) + "/purge"} {
		g.want(g.do(http.MethodPost, path, `{}`, operator), http.StatusForbidden, "forbidden")
	}
}

func TestVerifyStorage(t *testing.T) {
	g := newGateway(t)
	key := header{"Idempotency-Key": "k1"}
	r := g.do(http.MethodPost, "/api/storage/verify?wait_s=0", `{"deep":true}`, key)
	g.want(r, http.StatusAccepted, "")
	asked := decodeAs[api.VerifyStorageAnswer](t, r)
	g.want(g.do(http.MethodPost, "/api/storage/verify?wait_s=0", `{}`), http.StatusConflict, "run-busy")
	g.finishWork(asked.VerifyRunID, compared, "")
	r = g.do(http.MethodPost, "/api/storage/verify", `{"deep":true}`, key)
	g.want(r, http.StatusOK, "")
	if v := decodeAs[api.VerifyStorageAnswer](t, r).Verification; v == nil || v.Missing.N != 1 || !v.Deep {
		t.Errorf("verification = %+v, want what the step found", v)
	}
	g.want(g.do(http.MethodPost, "/api/storage/verify?x=1", `{}`), http.StatusBadRequest, "bad-parameter")
}

// A hundred requests at once under one key are one collection, and one purge with the
// bytes deleted once.
func TestHousekeepingOnce(t *testing.T) {
	g := newGateway(t)
	workspace(g)
	var raw []byte
	if err := g.pg.Admin.QueryRow(t.Context(), "SELECT sha256 FROM nofx.blob LIMIT 1").Scan(&raw); err != nil {
		t.Fatal(err)
	}
	for path, body := range map[string]string{
		"/api/gc": `{}`, "/api/storage/verify": `{"deep":true}`, "/api/blobs/" + hex.EncodeToString(raw) + "/purge": `{"reason":"leaked"}`,
	} {
		var wg sync.WaitGroup
		var mu sync.Mutex
		runs, inFlight := map[string]int{}, 0
		for range 100 {
			wg.Go(func() {
				r := g.do(http.MethodPost, path+"?wait_s=0", body, header{"Idempotency-Key": "one"})
				mu.Lock()
				defer mu.Unlock()
				if r.status == http.StatusConflict {
					g.want(r, http.StatusConflict, "idempotency-in-flight")
					inFlight++
					return
				}
				g.want(r, http.StatusAccepted, "")
				runs[r.header.Get("Location")]++
			})
		}
		wg.Wait()
		var made int
		for location := range runs {
			made = runs[location]
		}
		if len(runs) != 1 || made+inFlight != 100 {
			t.Errorf("POST %s made the runs %v, want one", path, runs)
		}
		t.Logf("100 parallel POST %s: %d runs, %d answered with it, %d in flight", path, len(runs), made, inFlight)
	}
	var runs, tombstones int
	if err := g.pg.Admin.QueryRow(t.Context(), `SELECT (SELECT count(*) FROM nofx.run WHERE kind = 'system'), (SELECT count(*) FROM nofx.blob WHERE state = 'tombstone')`).Scan(&runs, &tombstones); err != nil {
		t.Fatal(err)
	}
	if runs != 3 || tombstones != 1 {
		t.Errorf("%d system runs and %d tombstones, want 3 and 1", runs, tombstones)
	}
}

// Purged content is gone for every reader from the answer on, and the purge says who, when
// and why; content of another tenant is unknown.
func TestPurgeBlob(t *testing.T) {
	g := newGateway(t)
	workspace(g)
	var raw []byte
	if err := g.pg.Admin.QueryRow(t.Context(), "SELECT sha256 FROM nofx.blob WHERE size >= $1 LIMIT 1", tree.Small).Scan(&raw); err != nil {
		t.Fatal(err)
	}
	digest := hex.EncodeToString(raw)
	purge := "/api/blobs/" + digest + "/purge"
	g.want(g.do(http.MethodPost, purge, `{}`), http.StatusUnprocessableEntity, "reason-required")
	g.want(g.do(http.MethodPost, purge, `{"reason":" "}`), http.StatusUnprocessableEntity, "reason-required")
	for _, unknown := range []string{hex.EncodeToString(make([]byte, 32)), "abc", "A" + digest[1:]} {
		g.want(g.do(http.MethodPost, "/api/blobs/"+unknown+"/purge", `{"reason":"x"}`), http.StatusNotFound, "not-found")
	}
	foreign := header{"Authorization": "Bearer " + g.newKey(g.pg.Tenant(t), api.RoleAdmin)}
	g.want(g.do(http.MethodPost, purge, `{"reason":"x"}`, foreign), http.StatusNotFound, "not-found")
	r := g.do(http.MethodPost, purge+"?wait_s=0", `{"reason":"leaked"}`)
	g.want(r, http.StatusAccepted, "")
	out := decodeAs[api.PurgeAnswer](t, r)
	if out.Purge.Sha256 != digest || out.Purge.Reason != "leaked" || out.Purge.By == "" || out.Purge.At.IsZero() {
		t.Errorf("purge = %+v, want digest, who, when and why", out.Purge)
	}
	g.finishWork(out.PurgeRunID, map[string]any{"objects": 1, "repacked": 0}, "")
	r = g.do(http.MethodPost, purge, `{"reason":"again"}`)
	g.want(r, http.StatusOK, "")
	if again := decodeAs[api.PurgeAnswer](t, r); again.Purge != out.Purge || again.PurgeRunID != out.PurgeRunID {
		t.Errorf("a second purge = %+v, want the first, %+v", again, out)
	}
}
