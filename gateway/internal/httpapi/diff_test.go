package httpapi

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"nofx.dev/gateway/api"
	"nofx.dev/shared/blob"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/shared/tree"
)

// compute does the step of a run of sys:diff: it stores a document with text in it and a
// patch, unless it is to fail.
func (g *gateway) compute(runID, text string, failure run.FailureClass, reason string) {
	g.Helper()
	d := decodeAs[api.RunDetail](g, g.get("/api/runs/"+runID))
	if len(d.Steps) != 1 || d.Steps[0].Tool != run.ToolDiff || d.Run.Kind != api.RunKindSystem {
		g.Fatalf("run %s = %s with %d steps, want a system run of one step of %s", runID, d.Run.Kind, len(d.Steps), run.ToolDiff)
	}
	c := g.claim(d.Steps[0])
	f := postgres.Finish{Claim: c, Outcome: "succeed"}
	if failure != "" {
		f.Outcome, f.FailureClass, f.Reason = "fail", failure, reason
		g.finish(f)
		return
	}
	in, err := run.Inputs[run.DiffInputs](c.Spec.Inputs)
	if err != nil {
		g.Fatal(err)
	}
	from := uuid.Nil
	if in.From != "" {
		from = uuidOf(g, run.CheckpointID, in.From)
	}
	doc := encode(api.Diff{
		V: 1, To: api.DiffSide{Checkpoint: &in.To}, Summary: api.DiffSummary{Text: text}, State: []api.DiffOperation{}, Steps: []api.DiffStep{},
		Files: []api.DiffFile{}, Sessions: []api.DiffSession{}, Gates: []api.DiffGate{},
	})
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(doc); err != nil {
		g.Fatal(err)
	}
	if err := z.Close(); err != nil {
		g.Fatal(err)
	}
	patch := []byte("# " + text + "\n")
	row := postgres.Diff{From: from, To: uuidOf(g, run.CheckpointID, in.To), Options: in.Options(), Copy: blob.NewCopy(),
		JSON: tree.Sum(packed.Bytes()), JSONBytes: int64(len(doc)), Patch: tree.Sum(patch), PatchBytes: int64(len(patch))}
	objects := []tree.Object{
		{Key: blob.DiffKey(g.tenant, row.JSON, row.Copy, "json"), SHA256: row.JSON, Bytes: int64(packed.Len())}, {Key: blob.DiffKey(g.tenant, row.Patch, row.Copy, "patch"), SHA256: row.Patch, Bytes: row.PatchBytes},
	}
	if err := g.blobs.Put(g.Context(), objects[0].Key, &packed, objects[0].Bytes, blob.PutOptions{ContentEncoding: "gzip"}); err != nil {
		g.Fatal(err)
	}
	g.put(objects[1].Key, patch)
	if err := g.db.RecordDiff(g.Context(), c, row, objects); err != nil {
		g.Fatal(err)
	}
	g.finish(f)
}

// pending asks for a diff that nobody has computed, and returns the run that is to.
func (g *gateway) pending(path string) string {
	g.Helper()
	r := g.get(path)
	g.want(r, http.StatusAccepted, "")
	out := decodeAs[api.CheckpointDiff](g, r)
	if out.DiffRunID == nil || r.header.Get("Location") != "/api/runs/"+*out.DiffRunID || r.header.Get("Retry-After") != "1" {
		g.Fatalf("GET %s = %s with %v, want the run and where it is", path, r.body, r.header)
	}
	return *out.DiffRunID
}

func TestDiff(t *testing.T) {
	g := newGateway(t)
	_, path, _ := workspace(g)
	path += "/diff?wait_s=0"
	first := g.pending(path)
	var wg sync.WaitGroup
	runs := make([]string, 50)
	for i := range runs {
		wg.Go(func() {
			runs[i] = *decodeAs[api.CheckpointDiff](t, g.patient(http.MethodGet, path+"&against=parent", "")).DiffRunID
		})
	}
	wg.Wait()
	for _, id := range runs {
		if id != first {
			t.Fatalf("runs of 50 requests = %v, want all %s", runs, first)
		}
	}
	g.compute(first, "the text", "", "")
	r := g.get(path)
	g.want(r, http.StatusOK, "")
	out := decodeAs[api.CheckpointDiff](t, r)
	if out.Diff == nil || out.Diff.Summary.Text != "the text" || out.URL != nil {
		t.Fatalf("GET diff = %s, want it", r.body)
	}
	tag := r.header.Get("ETag")
	g.want(g.get(path, header{"If-None-Match": tag}), http.StatusNotModified, "")
	g.want(g.get(path, header{"If-None-Match": `"other", ` + tag}), http.StatusNotModified, "")
	g.want(g.get(path, header{"If-None-Match": `"other"`}), http.StatusOK, "")
	unified := g.get(path + "&format=unified")
	g.want(unified, http.StatusOK, "")
	if string(unified.body) != "# the text\n" || unified.header.Get("Content-Type") != "text/x-diff" || unified.header.Get("ETag") == tag {
		t.Errorf("GET unified = %q %v, want the patch with an ETag of its own", unified.body, unified.header)
	}
	// What is asked for otherwise is computed for itself.
	for _, with := range []string{"&path=sub", "&path=sub/x", "&cursor=5000"} {
		if other := g.pending(path + with); other == first {
			t.Errorf("GET diff%s has the run %s of another", with, other)
		}
	}
	if a, b := g.pending(path+"&path=sub"), g.pending(path+"&path=sub%2F"); a != b {
		t.Errorf("runs of sub and sub/ = %s, %s, want one", a, b)
	}
}

// A large diff is where its URL says, and only there.
func TestLargeDiff(t *testing.T) {
	g := newGateway(t)
	_, path, _ := workspace(g)
	path += "/diff?wait_s=0"
	text := strings.Repeat("large ", maxInlineDiff/6+1)
	g.compute(g.pending(path), text, "", "")
	r := g.get(path)
	g.want(r, http.StatusOK, "")
	out := decodeAs[api.CheckpointDiff](t, r)
	if out.Diff != nil || out.URL == nil || out.ExpiresAt == nil || *out.SizeBytes < maxInlineDiff {
		t.Fatalf("GET diff = %s, want where it is", r.body)
	}
	content, _ := g.fetch(*out.URL)
	var doc api.Diff
	if err := json.Unmarshal(content, &doc); err != nil || doc.Summary.Text != text {
		t.Errorf("at its URL are %d bytes, %v, want the diff", len(content), err)
	}
	unified := g.get(path + "&format=unified")
	g.want(unified, http.StatusSeeOther, "")
	if content, _ := g.fetch(unified.header.Get("Location")); string(content) != "# "+text+"\n" {
		t.Errorf("at its URL are %d bytes, want the patch", len(content))
	}
	for name, edit := range map[string]func(string) string{
		"another key":       func(u string) string { return strings.Replace(u, "/diff/", "/pack/", 1) },
		"another tenant":    func(u string) string { return strings.Replace(u, g.tenant.String()[:8], "00000000", 1) },
		"a longer time":     func(u string) string { return strings.Replace(u, "X-Amz-Expires=9", "X-Amz-Expires=99", 1) },
		"another signature": func(u string) string { return u[:len(u)-4] + "0000" },
	} {
		edited := edit(*out.URL)
		if edited == *out.URL {
			t.Fatalf("%s: the URL %s has no such part", name, edited)
		}
		resp, err := http.Get(edited)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusForbidden {
			t.Errorf("GET of a URL with %s = %d, want 403", name, resp.StatusCode)
		}
	}
}

// A stored diff that storage has lost, or has other bytes of, is computed anew.
func TestLostDiff(t *testing.T) {
	g := newGateway(t)
	_, path, _ := workspace(g)
	path += "/diff?wait_s=0"
	for _, size := range []int{1, maxInlineDiff} {
		first := g.pending(path)
		g.compute(first, strings.Repeat("x", size), "", "")
		g.want(g.get(path), http.StatusOK, "")
		var sum []byte
		var n int64
		if err := g.pg.Admin.QueryRow(t.Context(), "SELECT json_sha256, copy FROM nofx.diff WHERE state = 'stored'").Scan(&sum, &n); err != nil {
			t.Fatal(err)
		}
		key := blob.DiffKey(g.tenant, [32]byte(sum), n, "json")
		if size == 1 {
			g.put(key, []byte("other bytes"))
		} else if err := g.blobs.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
		if again := g.pending(path); again == first {
			t.Errorf("the run of a lost diff = %s, want another one", again)
		}
	}
}

func TestDiffRefusals(t *testing.T) {
	g := newGateway(t)
	created, path, _ := workspace(g)
	diff := path + "/diff?wait_s=0"
	for query, want := range map[string]struct {
		status int
		code   string
	}{
		"&against=x": {http.StatusBadRequest, "bad-parameter"},
		"&against=run_" + strings.Repeat("0", 32):  {http.StatusBadRequest, "bad-parameter"},
		"&against=ckpt_" + strings.Repeat("0", 32): {http.StatusNotFound, "not-found"},
		"&against=base": {http.StatusConflict, "no-base"},
		"&path=..%2Fx":  {http.StatusBadRequest, "bad-parameter"},
		"&path=%2Fx":    {http.StatusBadRequest, "bad-parameter"},
		"&path=a%00":    {http.StatusBadRequest, "bad-parameter"},
		"&format=html":  {http.StatusBadRequest, "bad-parameter"},
		"&cursor=x":     {http.StatusBadRequest, "bad-cursor"},
		"&cursor=0":     {http.StatusBadRequest, "bad-cursor"},
		"&wait_s=26":    {http.StatusBadRequest, "bad-parameter"},
		"&other=1":      {http.StatusBadRequest, "bad-parameter"},
	} {
		g.want(g.get(diff+query), want.status, want.code)
	}
	g.want(g.get("/api/runs/"+created.Run.ID+"/checkpoints/ckpt_"+strings.Repeat("0", 32)+"/diff"), http.StatusNotFound, "not-found")

	// Another tenant's checkpoint is none.
	other := g.pg.Tenant(t)
	foreign := g.do(http.MethodGet, diff, "", header{"Authorization": "Bearer " + g.newKey(other, api.RoleAdmin)})
	g.want(foreign, http.StatusNotFound, "not-found")

	// A page that begins behind the last change is not asked for twice.
	id := g.pending(diff + "&cursor=9")
	g.compute(id, "", run.ClassInvalid, "the diff has 5 changes, and none after 9")
	g.want(g.get(diff+"&cursor=9"), http.StatusBadRequest, "bad-cursor")
	for _, c := range []struct {
		first int
		r     run.Run
		kind  fault.Kind
		code  string
	}{
		{0, run.Run{State: run.Failed, FailureClass: run.ClassInfrastructure, Reason: "step diff: object-gone: the stored object is gone"}, fault.Gone, "object-gone"},
		{0, run.Run{State: run.Failed, FailureClass: run.ClassInfrastructure, Reason: "step diff: object-corrupt: it is corrupt"}, fault.Conflict, "object-corrupt"},
		{9, run.Run{State: run.Failed, FailureClass: run.ClassInvalid, Reason: "step diff: none after 9"}, fault.Invalid, "bad-cursor"},
		{0, run.Run{State: run.Failed, FailureClass: run.ClassInvalid, Reason: "step diff: no such checkpoint"}, fault.Conflict, "system-run-failed"},
		{0, run.Run{State: run.Cancelled, Reason: "it is so"}, fault.Conflict, "system-run-failed"},
	} {
		err := diffFailed(c.r, run.DiffInputs{First: c.first})
		if e, ok := errors.AsType[*fault.Error](err); !ok || e.Kind != c.kind || e.Code != c.code {
			t.Errorf("diffFailed(%s) = %v, want %s", c.r.Reason, err, c.code)
		}
	}
}
