package httpapi

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"nofx.dev/gateway/api"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/shared/tree"
)

// line makes a run whose step leaves a checkpoint that comes from others.
func (g *gateway) line(parents ...*postgres.Checkpoint) (api.CreatedRun, *postgres.Checkpoint) {
	g.Helper()
	created := g.create(oneStep)
	c := g.claim(created.Steps[0])
	ck := g.checkpoint(c, run.PostCheckpoint, tree.Empty, []byte("x"))
	for _, p := range parents {
		ck.Parents, ck.Generation = append(ck.Parents, p.ID), max(ck.Generation, p.Generation+1)
	}
	g.finish(postgres.Finish{Claim: c, Outcome: "succeed", Checkpoints: []*postgres.Checkpoint{ck}})
	return created, ck
}

// compute does the step of the run that computes a merge.
func (g *gateway) computeMerge(m api.Merge, result postgres.MergeResult) {
	g.Helper()
	d := decodeAs[api.RunDetail](g, g.get("/api/runs/"+*m.MergeRunID))
	if len(d.Steps) != 1 || d.Steps[0].Tool != run.ToolMerge || d.Run.Kind != api.RunKindSystem {
		g.Fatalf("run %s = %s with %d steps, want a system run of one step of %s", *m.MergeRunID, d.Run.Kind, len(d.Steps), run.ToolMerge)
	}
	c := g.claim(d.Steps[0])
	in, err := run.Inputs[run.MergeInputs](c.Spec.Inputs)
	if err != nil || in.MergeID != m.ID || in.Version != m.Version {
		g.Fatalf("inputs = %+v, %v, want those of %s at version %d", in, err, m.ID, m.Version)
	}
	id := uuidOf(g, run.MergeID, m.ID)
	result.BaseID = uuidOf(g, run.CheckpointID, m.BaseCheckpointID)
	if result.Tree != nil {
		w, err := g.db.MergeWork(g.Context(), g.tenant, id)
		if err != nil {
			g.Fatal(err)
		}
		ck := g.checkpoint(c, run.MergeCheckpoint, tree.Empty, []byte("y"))
		for _, p := range []postgres.Parent{w.Ours[0], w.Theirs[0]} {
			ck.Parents, ck.Generation = append(ck.Parents, p.ID), max(ck.Generation, p.Generation+1)
		}
		result.Checkpoints = []*postgres.Checkpoint{ck}
	}
	if err := g.db.RecordMerge(g.Context(), c, id, m.Version, result); err != nil {
		g.Fatal(err)
	}
	g.finish(postgres.Finish{Claim: c, Outcome: "succeed"})
}

// conflictsAt returns a result with conflicts at these places.
func conflictsAt(places ...string) (r postgres.MergeResult) {
	r.Outcome = run.InConflict
	for _, at := range places {
		c := run.MergeConflict{Unit: run.PathUnit, At: at, Kind: "content", Takes: []run.Take{run.TakeOurs, run.TakeTheirs, run.TakeBase, run.TakeValue, run.TakeArtifact},
			Ours: &run.MergeSide{SHA256: strings.Repeat("a", 64), Excerpt: "password: hunter2-hunter2\n"}}
		if strings.HasPrefix(at, "/") {
			c.Unit, c.Takes = run.PointerUnit, []run.Take{run.TakeOurs, run.TakeTheirs, run.TakeBase, run.TakeValue}
			c.Ours = &run.MergeSide{Value: []byte(`["AKIAIOSFODNN7EXAMPL1", 12345678901234567890]`)}
		}
		r.Conflicts = append(r.Conflicts, c)
	}
	return r
}

func stored() postgres.MergeResult {
	d := tree.Empty
	return postgres.MergeResult{Outcome: run.Clean, Tree: &d, State: &d, Preview: run.MergePreview{Files: []run.MergeChange{}}}
}

// TestMerge takes a merge from its start over its conflicts to the commit.
func TestMerge(t *testing.T) {
	g := newGateway(t)
	_, base := g.line()
	target, _ := g.line(base)
	source, _ := g.line(base)
	path := "/api/runs/" + target.Run.ID + "/merges"
	r := g.do(http.MethodPost, path, `{"source_run_id":"`+source.Run.ID+`"}`)
	g.want(r, http.StatusCreated, "")
	m := decodeAs[api.MergeAnswer](t, r).Merge
	at := "/api/merges/" + m.ID
	if m.Status != api.MergeStatusOpen || m.BaseCheckpointID != run.CheckpointID.Format(base.ID) || m.MergeRunID == nil || r.header.Get("ETag") != `"v1"` || r.header.Get("Location") != at {
		t.Fatalf("merge = %s %v, want it open over %s", r.body, r.header, base.ID)
	}
	again := g.do(http.MethodPost, path, `{"source_run_id":"`+source.Run.ID+`","mode":"normal"}`)
	g.want(again, http.StatusOK, "")
	if got := decodeAs[api.MergeAnswer](t, again).Merge.ID; got != m.ID {
		t.Errorf("the same heads again = %s, want the same merge %s", got, m.ID)
	}
	g.want(g.do(http.MethodPut, at+"/resolutions", `{"resolutions":[{"path":"a","take":"ours"}]}`), http.StatusConflict, "illegal-transition")
	g.want(g.do(http.MethodPost, at+"/commit", ""), http.StatusConflict, "illegal-transition")

	g.computeMerge(m, conflictsAt("a", "b", "/vars/x"))
	r = g.get(at + "?limit=2")
	g.want(r, http.StatusOK, "")
	page := decodeAs[api.MergeAnswer](t, r)
	if m = page.Merge; m.Status != api.MergeStatusConflicted || len(m.Conflicts) != 2 || m.ConflictCount != 3 || m.UnresolvedCount != 3 || page.NextCursor == nil || r.header.Get("ETag") != `"v2"` {
		t.Fatalf("merge = %s, want two of three conflicts and a cursor", r.body)
	}
	if strings.Contains(string(r.body), "hunter2") {
		t.Errorf("merge = %s, want the password masked", r.body)
	}
	rest := decodeAs[api.MergeAnswer](t, g.get(at+"?limit=2&cursor="+*page.NextCursor)).Merge.Conflicts
	if len(rest) != 1 || *rest[0].Pointer != "/vars/x" {
		t.Errorf("second page = %+v, want the third conflict", rest)
	}
	if value := string(rest[0].Ours.Value); strings.Contains(value, "AKIA") || !strings.Contains(value, "12345678901234567890") {
		t.Errorf("value = %s, want the key masked and the number with its digits", value)
	}

	for body, status := range map[string]int{
		`{"resolutions":[]}`: 422, `{"resolutions":[{"take":"ours"}]}`: 422, `{"resolutions":[{"path":"a","pointer":"/vars/x","take":"ours"}]}`: 422,
		`{"resolutions":[{"path":"../a","take":"ours"}]}`: 422, `{"resolutions":[{"path":"/a","take":"ours"}]}`: 422, `{"resolutions":[{"pointer":"vars","take":"ours"}]}`: 422,
		`{"resolutions":[{"path":"c","take":"ours"}]}`: 422, `{"resolutions":[{"path":"a","take":"both"}]}`: 422, `{"resolutions":[{"path":"a","take":"mine"}]}`: 422,
		`{"resolutions":[{"path":"a","take":"value"}]}`: 422, `{"resolutions":[{"path":"a","take":"value","value":1}]}`: 422, `{"resolutions":[{"path":"a","take":"ours","value":"x"}]}`: 422,
		`{"resolutions":[{"path":"a","take":"artifact","artifact_id":"art_` + strings.Repeat("0", 32) + `"}]}`:          422,
		`{"resolutions":[{"pointer":"/vars/x","take":"artifact","artifact_id":"art_` + strings.Repeat("0", 32) + `"}]}`: 422,
		`{"resolutions":[{"path":"a","take":"ours"},{"path":"a","take":"theirs"}]}`:                                     422, `{"resolutions":[{"path":"a","take":null,"value":"x"}]}`: 422,
		`{"resolutions":[{"path":"a","take":"ours"},{"path":"c","take":"ours"}]}`: 422, `{"resolution":[]}`: 400, `{`: 400,
	} {
		if r := g.do(http.MethodPut, at+"/resolutions", body); r.status != status {
			t.Errorf("PUT %s = %d %s, want %d", body, r.status, r.body, status)
		}
	}
	if m = decodeAs[api.MergeAnswer](t, g.get(at)).Merge; m.UnresolvedCount != 3 {
		t.Errorf("unresolved = %d after refused decisions, want 3: nothing was written", m.UnresolvedCount)
	}
	g.want(g.do(http.MethodPut, at+"/resolutions", `{"resolutions":[{"path":"a","take":"ours"}]}`, header{"If-Match": `"v1"`}), http.StatusPreconditionFailed, "stale-version")
	g.want(g.do(http.MethodPut, at+"/resolutions", `{"resolutions":[{"path":"a","take":"ours"},{"pointer":"/vars/x","take":"value","value":null}]}`, header{"If-Match": `"v2"`}), http.StatusOK, "")
	g.want(g.do(http.MethodPost, at+"/commit", ""), http.StatusConflict, "illegal-transition")
	r = g.do(http.MethodPut, at+"/resolutions", `{"resolutions":[{"path":"b","take":"value","value":"new\n"}]}`)
	g.want(r, http.StatusOK, "")
	if m = decodeAs[api.MergeAnswer](t, r).Merge; m.Status != api.MergeStatusReady || m.Prepared || m.Version != 3 || m.MergeRunID == nil {
		t.Fatalf("merge = %s, want it ready, its result to be stored", r.body)
	}
	r = g.do(http.MethodPost, at+"/commit?wait_s=0", "")
	g.want(r, http.StatusAccepted, "")
	if r.header.Get("Location") != "/api/runs/"+*m.MergeRunID || r.header.Get("Retry-After") != "1" {
		t.Errorf("202 = %v, want the run that stores the result", r.header)
	}
	g.computeMerge(m, stored())
	g.want(g.do(http.MethodPost, at+"/commit", "", header{"If-Match": `"v2"`}), http.StatusPreconditionFailed, "stale-version")

	// Of many commits one does it; the same request again is answered the same.
	replies := make([]reply, 8)
	var wg sync.WaitGroup
	for i := range replies {
		wg.Go(func() {
			replies[i] = g.do(http.MethodPost, at+"/commit", `{"resume":true}`, header{"If-Match": `"v3"`})
		})
	}
	wg.Wait()
	committed := 0
	for _, r := range replies {
		switch r.status {
		case http.StatusOK:
			committed++
			a := decodeAs[api.MergeAnswer](t, r)
			if a.Merge.Status != api.MergeStatusCommitted || a.Merge.CommittedCheckpointID == nil || *a.Requeued != 0 {
				t.Errorf("commit = %s, want it committed and nothing requeued", r.body)
			}
		case http.StatusPreconditionFailed, http.StatusConflict:
		default:
			t.Errorf("commit = %d %s, want 200, 409 or 412", r.status, r.body)
		}
	}
	if committed != 1 {
		t.Errorf("%d of %d commits succeeded, want one", committed, len(replies))
	}
	m = decodeAs[api.MergeAnswer](t, g.get(at)).Merge
	d := decodeAs[api.RunDetail](t, g.get("/api/runs/"+target.Run.ID))
	if d.Run.Status != api.RunStatusSucceeded || *d.Run.HeadCheckpointID != *m.CommittedCheckpointID {
		t.Errorf("target = %s, head %s, want it succeeded with the merge as head", d.Run.Status, *d.Run.HeadCheckpointID)
	}
	edge := api.LineageEdge{Kind: api.LineageEdgeKindMerge, From: m.SourceRunID, To: m.TargetRunID, CheckpointID: *m.CommittedCheckpointID}
	if l := decodeAs[api.Lineage](t, g.get("/api/runs/"+m.TargetRunID+"/lineage")); !slices.Contains(l.Edges, edge) {
		t.Errorf("edges of the lineage = %+v, want %+v among them", l.Edges, edge)
	}
	g.want(g.do(http.MethodPost, at+"/abandon", ""), http.StatusConflict, "illegal-transition")
	list := decodeAs[api.MergePage](t, g.get(path))
	if len(list.Items) != 1 || list.Items[0].ID != m.ID {
		t.Errorf("merges = %+v, want the one", list.Items)
	}
	g.sound()
}

// TestResolutionShapes sends resolutions of all shapes: each that is not in the contract is
// refused at the member in question, and changes nothing.
func TestResolutionShapes(t *testing.T) {
	g := newGateway(t)
	_, base := g.line()
	target, _ := g.line(base)
	source, _ := g.line(base)
	m := decodeAs[api.MergeAnswer](t, g.do(http.MethodPost, "/api/runs/"+target.Run.ID+"/merges", `{"source_run_id":"`+source.Run.ID+`"}`)).Merge
	at := "/api/merges/" + m.ID
	g.computeMerge(m, conflictsAt("a", "/vars/x"))
	artifact := `"art_` + strings.Repeat("0", 32) + `"`
	for _, tt := range []struct {
		resolution string
		status     int
		pointer    string
	}{
		{`{"path":"a"}`, 422, "/resolutions/0/take"},
		{`{"pointer":"/vars/x"}`, 422, "/resolutions/0/take"},
		{`{"path":"a","value":"x"}`, 422, "/resolutions/0/take"},
		{`{"pointer":"/vars/x","value":null}`, 422, "/resolutions/0/take"},
		{`{"path":"a","artifact_id":` + artifact + `}`, 422, "/resolutions/0/take"},
		{`{"path":"a","take":null,"value":"x"}`, 422, "/resolutions/0/take"},
		{`{"path":"a","take":null,"artifact_id":` + artifact + `}`, 422, "/resolutions/0/take"},
		{`{"path":"a","take":""}`, 422, "/resolutions/0/take"},
		{`{"path":"a","take":"mine"}`, 422, "/resolutions/0/take"},
		{`{"path":"a","take":1}`, 400, "/resolutions/0/take"},
		{`{"path":"a","take":["ours"]}`, 400, "/resolutions/0/take"},
		{`{"path":"a","take":"both"}`, 422, "/resolutions/0/take"},
		{`{"path":"a","take":"ours","value":"x"}`, 422, "/resolutions/0/value"},
		{`{"path":"a","take":"ours","artifact_id":` + artifact + `}`, 422, "/resolutions/0/artifact_id"},
		{`{"path":"a","take":"value"}`, 422, "/resolutions/0/value"},
		{`{"path":"a","take":"value","value":null}`, 422, "/resolutions/0/value"},
		{`{"path":"a","take":"value","value":{}}`, 422, "/resolutions/0/value"},
		{`{"path":"a","take":"value","value":"x","artifact_id":` + artifact + `}`, 422, "/resolutions/0/artifact_id"},
		{`{"pointer":"/vars/x","take":"value"}`, 422, "/resolutions/0/value"},
		{`{"path":"a","take":"artifact"}`, 422, "/resolutions/0/artifact_id"},
		{`{"path":"a","take":"artifact","artifact_id":"x"}`, 422, "/resolutions/0/artifact_id"},
		{`{"path":"a","take":"artifact","artifact_id":` + artifact + `}`, 422, "/resolutions/0/artifact_id"},
		{`{"pointer":"/vars/x","take":"artifact","artifact_id":` + artifact + `}`, 422, "/resolutions/0/take"},
		{`{"take":"ours"}`, 422, "/resolutions/0"},
		{`{"path":"a","pointer":"/vars/x","take":"ours"}`, 422, "/resolutions/0"},
		{`{"path":"a","take":"value","content":"x"}`, 400, "/resolutions/0/content"},
		{`{"path":null,"take":"ours"}`, 422, "/resolutions/0"},
		{`{}`, 422, "/resolutions/0"},
		{`null`, 422, "/resolutions/0"},
		{`[]`, 400, "/resolutions/0"},
		{`{"path":"a","take":"ours"},{"path":"a"}`, 422, "/resolutions/1"},
		{`{"path":"a","take":null}`, 200, ""},
		{`{"path":"a","take":"ours"}`, 200, ""},
		{`{"path":"a","take":"theirs"}`, 200, ""},
		{`{"path":"a","take":"base"}`, 200, ""},
		{`{"path":"a","take":"value","value":""}`, 200, ""},
		{`{"path":"a","take":null}`, 200, ""},
		{`{"pointer":"/vars/x","take":"value","value":null}`, 200, ""},
		{`{"pointer":"/vars/x","take":null}`, 200, ""},
	} {
		before := g.get(at)
		r := g.do(http.MethodPut, at+"/resolutions", `{"resolutions":[`+tt.resolution+`]}`)
		if r.status == http.StatusOK && tt.status == http.StatusOK {
			continue
		}
		pointer := ""
		if p := decodeAs[api.Problem](t, r); len(p.Errors) > 0 {
			pointer = p.Errors[0].Pointer
		}
		if r.status != tt.status || pointer != tt.pointer {
			t.Errorf("resolution %s = %d at %q %s, want %d at %q", tt.resolution, r.status, pointer, r.body, tt.status, tt.pointer)
		}
		if after := g.get(at); string(after.body) != string(before.body) {
			t.Errorf("resolution %s: merge = %s after the refusal, want %s", tt.resolution, after.body, before.body)
		}
	}
	if m = decodeAs[api.MergeAnswer](t, g.get(at)).Merge; m.UnresolvedCount != 2 {
		t.Errorf("unresolved = %d, want 2: what was decided was taken back", m.UnresolvedCount)
	}
}

// TestMergeSaysWhy asks for what a merge's status does not allow: the answer says why, and
// what to do instead.
func TestMergeSaysWhy(t *testing.T) {
	g := newGateway(t)
	_, base := g.line()
	target, _ := g.line(base)
	source, _ := g.line(base)
	m := decodeAs[api.MergeAnswer](t, g.do(http.MethodPost, "/api/runs/"+target.Run.ID+"/merges", `{"source_run_id":"`+source.Run.ID+`"}`)).Merge
	at := "/api/merges/" + m.ID
	refused := func(want string, r reply) {
		t.Helper()
		g.want(r, http.StatusConflict, "illegal-transition")
		if got := decodeAs[api.Problem](t, r).Detail; got != want {
			t.Errorf("%s: detail = %q, want %q", m.Status, got, want)
		}
	}
	resolve := func() reply {
		return g.do(http.MethodPut, at+"/resolutions", `{"resolutions":[{"path":"a","take":"ours"}]}`)
	}
	commit := func() reply { return g.do(http.MethodPost, at+"/commit", "") }
	refused("the merge is open: a worker is computing it, and its conflicts can be resolved once it is conflicted", resolve())
	refused("the merge is open: a worker is computing it, and it can be committed once it is ready", commit())
	if p := decodeAs[api.Problem](t, resolve()); *p.Event != "resolve" {
		t.Errorf("event = %q, want resolve", *p.Event)
	}
	g.computeMerge(m, conflictsAt("a", "b"))
	refused("2 conflicts of the merge are not resolved; resolve them first", commit())
	if p := decodeAs[api.Problem](t, commit()); !slices.Equal(p.Allowed, []string{"abandon", "resolve"}) {
		t.Errorf("allowed = %q, want abandon and resolve", p.Allowed)
	}
	g.want(resolve(), http.StatusOK, "")
	refused("1 conflict of the merge is not resolved; resolve it first", commit())
	g.want(g.do(http.MethodPost, at+"/abandon", ""), http.StatusOK, "")
	refused("the merge is abandoned, so that its conflicts cannot be resolved any more; start another merge", resolve())
	refused("the merge is abandoned, so that it cannot be committed any more; start another merge", commit())

	m = decodeAs[api.MergeAnswer](t, g.do(http.MethodPost, "/api/runs/"+target.Run.ID+"/merges", `{"source_run_id":"`+source.Run.ID+`"}`)).Merge
	at = "/api/merges/" + m.ID
	g.computeMerge(m, stored())
	g.want(commit(), http.StatusOK, "")
	refused("the merge is committed, so that its conflicts cannot be resolved any more; start another merge", resolve())
	refused("the merge is committed already", commit())
}

// TestMergeAfterPurge purges a content that was taken: the merge says where to decide again,
// and why, and a commit does.
func TestMergeAfterPurge(t *testing.T) {
	g := newGateway(t)
	_, base := g.line()
	target, _ := g.line(base)
	source, _ := g.line(base)
	m := decodeAs[api.MergeAnswer](t, g.do(http.MethodPost, "/api/runs/"+target.Run.ID+"/merges", `{"source_run_id":"`+source.Run.ID+`"}`)).Merge
	at := "/api/merges/" + m.ID
	g.computeMerge(m, conflictsAt("a", "/vars/x"))
	g.want(g.do(http.MethodPut, at+"/resolutions", `{"resolutions":[{"path":"a","take":"ours"},{"pointer":"/vars/x","take":"theirs"}]}`), http.StatusOK, "")
	leaked := strings.Repeat("a", 64) // ours of a
	if _, err := g.pg.Admin.Exec(t.Context(), "INSERT INTO nofx.blob (tenant_id, sha256, size, len) SELECT tenant_id, decode($1, 'hex'), 1, 1 FROM nofx.merge", leaked); err != nil {
		t.Fatal(err)
	}
	g.want(g.do(http.MethodPost, "/api/blobs/"+leaked+"/purge?wait_s=0", `{"reason":"leaked"}`), http.StatusAccepted, "")

	m = decodeAs[api.MergeAnswer](t, g.get(at)).Merge
	a, x := m.Conflicts[0], m.Conflicts[1]
	if m.Status != api.MergeStatusConflicted || m.UnresolvedCount != 1 || a.Resolution != nil || a.Reason == nil || a.Ours.Kind == nil || a.Ours.Excerpt != nil || x.Resolution == nil || x.Reason != nil {
		t.Errorf("merge = %s, want that a is to be decided again, and why", g.get(at).body)
	}
	r := g.do(http.MethodPost, at+"/commit", "")
	g.want(r, http.StatusConflict, "illegal-transition")
	if got, want := decodeAs[api.Problem](t, r).Detail, "1 conflict of the merge is not resolved (content that the decision was about was purged by an administrator); resolve it first"; got != want {
		t.Errorf("detail = %q, want %q", got, want)
	}
	m = decodeAs[api.MergeAnswer](t, g.do(http.MethodPut, at+"/resolutions", `{"resolutions":[{"path":"a","take":"theirs"}]}`)).Merge
	if m.Status != api.MergeStatusReady || m.Reason != nil || m.Conflicts[0].Reason != nil {
		t.Errorf("merge = %+v, want it ready, without a reason", m)
	}
}

// TestMergeOfNothing commits a merge that has nothing to merge: there is no checkpoint of
// it, and so no edge in the lineage.
func TestMergeOfNothing(t *testing.T) {
	g := newGateway(t)
	_, base := g.line()
	target, _ := g.line(base)
	other, _ := g.line(base)
	source, _ := g.line(base)
	start := func(source string) api.Merge {
		t.Helper()
		r := g.do(http.MethodPost, "/api/runs/"+target.Run.ID+"/merges", `{"source_run_id":"`+source+`"}`)
		g.want(r, http.StatusCreated, "")
		return decodeAs[api.MergeAnswer](t, r).Merge
	}
	m := start(other.Run.ID)
	g.computeMerge(m, stored())
	g.want(g.do(http.MethodPost, "/api/merges/"+m.ID+"/commit", ""), http.StatusOK, "")
	head := *decodeAs[api.RunDetail](t, g.get("/api/runs/"+target.Run.ID)).Run.HeadCheckpointID
	m = start(source.Run.ID)
	d := decodeAs[api.RunDetail](t, g.get("/api/runs/"+*m.MergeRunID))
	c, digest := g.claim(d.Steps[0]), tree.Empty
	result := postgres.MergeResult{Outcome: run.UpToDate, BaseID: base.ID, Tree: &digest, State: &digest, Preview: run.MergePreview{Files: []run.MergeChange{}}}
	if err := g.db.RecordMerge(t.Context(), c, uuidOf(g, run.MergeID, m.ID), m.Version, result); err != nil {
		t.Fatal(err)
	}
	g.finish(postgres.Finish{Claim: c, Outcome: "succeed"})
	r := g.do(http.MethodPost, "/api/merges/"+m.ID+"/commit", "")
	g.want(r, http.StatusOK, "")
	m = decodeAs[api.MergeAnswer](t, r).Merge
	if m.Status != api.MergeStatusCommitted || *m.CommittedCheckpointID != head {
		t.Errorf("merge = %s of checkpoint %s, want it committed with the target's head %s", m.Status, *m.CommittedCheckpointID, head)
	}
	edges := decodeAs[api.Lineage](t, g.get("/api/runs/"+target.Run.ID+"/lineage")).Edges
	want := []api.LineageEdge{{Kind: api.LineageEdgeKindMerge, From: other.Run.ID, To: target.Run.ID, CheckpointID: head}}
	if diff := cmp.Diff(want, edges); diff != "" {
		t.Errorf("edges (-want +got):\n%s", diff)
	}
	g.sound()
}

// TestMergeRefused asks for merges that cannot be.
func TestMergeRefused(t *testing.T) {
	g := newGateway(t)
	_, base := g.line()
	_, other := g.line()
	target, _ := g.line(base, other)
	source, _ := g.line(base, other)
	alone, _ := g.line()
	fresh := g.create(oneStep)
	path := "/api/runs/" + target.Run.ID + "/merges"
	id := run.CheckpointID.Format
	for body, want := range map[string]struct {
		status int
		code   string
	}{
		`{}`:                        {422, "invalid-field"},
		`{"source_run_id":"run_1"}`: {422, "invalid-field"},
		`{"source_run_id":"` + run.RunID.Format(run.NewID()) + `"}`:                                {422, "invalid-field"},
		`{"source_run_id":"` + target.Run.ID + `"}`:                                                {422, "invalid-field"},
		`{"source_run_id":"` + source.Run.ID + `","strategy":"x"}`:                                 {422, "invalid-field"},
		`{"source_run_id":"` + source.Run.ID + `","mode":"x"}`:                                     {422, "invalid-field"},
		`{"source_run_id":"` + source.Run.ID + `","base_checkpoint_id":"x"}`:                       {422, "invalid-field"},
		`{"source_run_id":"` + source.Run.ID + `","base_checkpoint_id":"` + id(run.NewID()) + `"}`: {422, "invalid-field"},
		`{"source_run_id":"` + source.Run.ID + `","more":1}`:                                       {400, "unknown-field"},
		`{"source_run_id":"` + alone.Run.ID + `"}`:                                                 {409, "no-common-base"},
		`{"source_run_id":"` + fresh.Run.ID + `"}`:                                                 {409, "no-common-base"},
		`{"source_run_id":"` + source.Run.ID + `"}`:                                                {409, "ambiguous-base"},
		`{"source_run_id":"` + source.Run.ID + `","base_checkpoint_id":"` + id(other.ID) + `"}`:    {201, ""},
	} {
		r := g.do(http.MethodPost, path, body)
		g.want(r, want.status, want.code)
		if want.code == "ambiguous-base" {
			p := decodeAs[api.Problem](t, r)
			if len(p.Bases) != 2 || strings.Join(p.Bases, " ") != strings.Join([]string{id(base.ID), id(other.ID)}, " ") && strings.Join(p.Bases, " ") != strings.Join([]string{id(other.ID), id(base.ID)}, " ") {
				t.Errorf("bases = %v, want both", p.Bases)
			}
		}
	}
	m := decodeAs[api.MergePage](t, g.get(path)).Items[0]
	g.computeMerge(m, postgres.MergeResult{Failure: fault.New(fault.Conflict, "too-many-conflicts", "more than 10000 paths conflict")})
	at := "/api/merges/" + m.ID
	m = decodeAs[api.MergeAnswer](t, g.get(at)).Merge
	if m.Status != api.MergeStatusAbandoned || *m.FailureCode != "too-many-conflicts" {
		t.Errorf("merge = %s %v, want it abandoned with the code", m.Status, m.FailureCode)
	}
	g.want(g.do(http.MethodPost, at+"/commit", ""), http.StatusConflict, "too-many-conflicts")
	g.want(g.do(http.MethodPost, path, `{"source_run_id":"`+source.Run.ID+`","base_checkpoint_id":"`+id(other.ID)+`"}`), http.StatusConflict, "too-many-conflicts")

	// Another tenant finds nothing, and a viewer changes nothing.
	viewer := header{"Authorization": "Bearer " + g.newKey(g.tenant, api.RoleViewer)}
	stranger := header{"Authorization": "Bearer " + g.newKey(g.pg.Tenant(t), api.RoleAdmin)}
	for _, x := range []struct{ method, path, body string }{
		{http.MethodGet, path, ""}, {http.MethodPost, path, `{"source_run_id":"` + source.Run.ID + `"}`}, {http.MethodGet, at, ""},
		{http.MethodPut, at + "/resolutions", `{"resolutions":[{"path":"a","take":"ours"}]}`}, {http.MethodPost, at + "/commit", ""}, {http.MethodPost, at + "/abandon", ""},
	} {
		g.want(g.do(x.method, x.path, x.body, stranger), http.StatusNotFound, "not-found")
		if x.method != http.MethodGet {
			g.want(g.do(x.method, x.path, x.body, viewer), http.StatusForbidden, "forbidden")
		}
	}
	g.want(g.get("/api/merges/"+run.RunID.Format(uuid.New())), http.StatusNotFound, "not-found")
}

// TestMergeRaces commits a merge while somebody else changes its target. Where one excludes
// the other, one wins; of each commit that was answered there is a checkpoint and an event,
// and nothing else is left.
func TestMergeRaces(t *testing.T) {
	const rounds = 4 // of each
	two := plan(`{"name":"a","tool":"bash","inputs":{"script":"true"}},{"name":"b","tool":"bash","inputs":{"script":"true"}}`)
	run1 := func(id string) string { return "/api/runs/" + id }
	for name, tt := range map[string]struct {
		target  api.RunStatus
		verb    string
		commit  string // body
		exclude bool   // only one of both can be
	}{
		"resume of a failed run":      {api.RunStatusFailed, "resume", `{"resume":true}`, true},
		"retry of a failed run":       {api.RunStatusFailed, "retry", `{"resume":true}`, true},
		"retry of its step":           {api.RunStatusFailed, "step", `{"resume":true}`, true},
		"retry of a cancelled run":    {api.RunStatusCancelled, "retry", `{"resume":true}`, true},
		"resume of a paused run":      {api.RunStatusPaused, "resume", `{"resume":true}`, true},
		"cancel of a paused run":      {api.RunStatusPaused, "cancel", `{"resume":true}`, false},
		"cancel, not resumed":         {api.RunStatusPaused, "cancel", `{}`, false},
		"retry, not resumed":          {api.RunStatusFailed, "retry", `{}`, false},
		"another merge into a target": {api.RunStatusFailed, "merge", `{}`, true},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGateway(t)
			_, base := g.line()
			source, _ := g.line(base)
			other, _ := g.line(base)
			for round := range rounds {
				target := g.create(two)
				c := g.claim(target.Steps[0])
				ck := g.checkpoint(c, run.PostCheckpoint, tree.Empty, []byte("x"))
				ck.Parents, ck.Generation = []uuid.UUID{base.ID}, base.Generation+1
				g.finish(postgres.Finish{Claim: c, Outcome: "succeed", Checkpoints: []*postgres.Checkpoint{ck}})
				b := g.detail(target.Run.ID).Steps[1]
				switch tt.target {
				case api.RunStatusFailed:
					g.finish(postgres.Finish{Claim: g.claim(b), Outcome: "fail", FailureClass: run.ClassTool, Reason: "it is to fail"})
				case api.RunStatusCancelled:
					g.want(g.do(http.MethodPost, run1(target.Run.ID)+"/cancel", ""), http.StatusOK, "")
				default:
					g.want(g.do(http.MethodPost, run1(target.Run.ID)+"/pause", ""), http.StatusOK, "")
				}
				ready := func(source string) api.Merge {
					r := g.do(http.MethodPost, run1(target.Run.ID)+"/merges", `{"source_run_id":"`+source+`"}`)
					g.want(r, http.StatusCreated, "")
					m := decodeAs[api.MergeAnswer](t, r).Merge
					g.computeMerge(m, stored())
					return m
				}
				m := ready(source.Run.ID)
				verb, rival := run1(target.Run.ID)+"/"+tt.verb, api.Merge{}
				switch tt.verb {
				case "step":
					verb = "/api/steps/" + b.ID + "/retry"
				case "merge":
					rival = ready(other.Run.ID)
					verb = "/api/merges/" + rival.ID + "/commit"
				}
				var answers [2]reply
				gate := make(chan struct{})
				var wg sync.WaitGroup
				for i := range answers {
					wg.Go(func() {
						<-gate
						if i == round%2 { // each is the first to start in half of the rounds
							answers[0] = g.patient(http.MethodPost, "/api/merges/"+m.ID+"/commit", tt.commit)
						} else {
							answers[1] = g.patient(http.MethodPost, verb, "")
						}
					})
				}
				close(gate)
				wg.Wait()

				won := 0
				for _, r := range answers {
					switch {
					case r.status == http.StatusOK:
						won++
					case r.status == http.StatusConflict && (r.code() == "run-busy" || r.code() == "illegal-transition"), r.status == http.StatusPreconditionFailed && r.code() == "stale-version":
					default:
						t.Errorf("answer = %d %s, want 200, run-busy, illegal-transition or stale-version", r.status, r.body)
					}
				}
				if tt.exclude && won != 1 || won == 0 {
					t.Errorf("%d requests succeeded, want one:\n%s\n%s", won, answers[0].body, answers[1].body)
				}
				var commits []string
				for _, id := range []string{m.ID, rival.ID} {
					if id == "" {
						continue
					}
					switch now := decodeAs[api.MergeAnswer](t, g.get("/api/merges/"+id)).Merge; now.Status {
					case api.MergeStatusCommitted:
						commits = append(commits, *now.CommittedCheckpointID)
					case api.MergeStatusReady, api.MergeStatusOpen: // to be committed later, or computed for the new head
					default:
						t.Errorf("merge = %s, want it committed, ready or open", now.Status)
					}
				}
				if committed := answers[0].status == http.StatusOK || tt.verb == "merge"; committed != (len(commits) == 1) {
					t.Errorf("checkpoints of commits = %v, want one if a commit was answered by 200: %d", commits, answers[0].status)
				}
				d, head := g.detail(target.Run.ID), run.CheckpointID.Format(ck.ID)
				if len(commits) > 0 {
					head = commits[0]
				}
				if *d.Run.HeadCheckpointID != head {
					t.Errorf("head = %s, want %s", *d.Run.HeadCheckpointID, head)
				}
				var merged []string
				for _, e := range decodeAs[api.EventPage](t, g.get(run1(target.Run.ID)+"/events?limit=500&types=merge.committed")).Items {
					merged = append(merged, e.Type)
				}
				var kinds int
				if err := g.pg.Admin.QueryRow(t.Context(), "SELECT count(*) FROM nofx.checkpoint WHERE run_id = $1 AND kind = 'merge'", uuidOf(g, run.RunID, target.Run.ID)).Scan(&kinds); err != nil {
					t.Fatal(err)
				}
				if len(merged) != len(commits) || kinds != len(commits) {
					t.Errorf("%d events and %d checkpoints of %d commits, want one of each", len(merged), kinds, len(commits))
				}
			}
			g.sound()
		})
	}
}

// TestMergeBusy commits while the target may not be changed, and after it has moved.
func TestMergeBusy(t *testing.T) {
	g := newGateway(t)
	_, base := g.line()
	source, _ := g.line(base)
	two := g.create(`{"plan":{"goal":"g","steps":[{"name":"a","tool":"bash","inputs":{"script":"true"}},{"name":"b","tool":"bash","inputs":{"script":"true"}}]}}`)
	c := g.claim(two.Steps[0])
	ck := g.checkpoint(c, run.PostCheckpoint, tree.Empty, []byte("x"))
	ck.Parents, ck.Generation = []uuid.UUID{base.ID}, base.Generation+1
	g.finish(postgres.Finish{Claim: c, Outcome: "succeed", Checkpoints: []*postgres.Checkpoint{ck}})
	r := g.do(http.MethodPost, "/api/runs/"+two.Run.ID+"/merges", `{"source_run_id":"`+source.Run.ID+`"}`)
	m := decodeAs[api.MergeAnswer](t, r).Merge
	g.computeMerge(m, stored())
	at := "/api/merges/" + m.ID
	g.want(g.do(http.MethodPost, at+"/commit", ""), http.StatusConflict, "run-busy")
	c = g.claim(decodeAs[api.RunDetail](t, g.get("/api/runs/"+two.Run.ID)).Steps[1])
	g.want(g.do(http.MethodPost, "/api/runs/"+two.Run.ID+"/pause", ""), http.StatusOK, "")
	g.want(g.do(http.MethodPost, at+"/commit", ""), http.StatusConflict, "run-busy")
	last := g.checkpoint(c, run.PostCheckpoint, tree.Empty, []byte("z"))
	last.Parents, last.Generation = []uuid.UUID{ck.ID}, ck.Generation+1
	g.finish(postgres.Finish{Claim: c, Outcome: "succeed", Checkpoints: []*postgres.Checkpoint{last}})

	r = g.do(http.MethodPost, at+"/commit", "", header{"Idempotency-Key": "moved"})
	g.want(r, http.StatusPreconditionFailed, "stale-version")
	m = decodeAs[api.MergeAnswer](t, g.get(at)).Merge
	if m.Status != api.MergeStatusOpen || m.TargetMoved || m.TargetHeadCheckpointID != run.CheckpointID.Format(last.ID) {
		t.Fatalf("merge = %s of %s, want it open for the new head", m.Status, m.TargetHeadCheckpointID)
	}
	g.computeMerge(m, stored())
	r = g.do(http.MethodPost, at+"/commit", `{"resume":true}`, header{"If-Match": fmt.Sprintf(`"v%d"`, m.Version+1)})
	g.want(r, http.StatusOK, "")
	g.sound()
}

// sound fails the test unless all invariants of the database hold.
func (g *gateway) sound() {
	g.Helper()
	var broken []string
	if err := g.pg.Admin.QueryRow(g.Context(), "SELECT coalesce(array_agg(invariant || ': ' || offender), '{}') FROM nofx.unsound()").Scan(&broken); err != nil {
		g.Fatal(err)
	}
	for _, b := range broken {
		g.Error(b)
	}
}
