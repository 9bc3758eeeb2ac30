package integration_test

import (
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"path"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"nofx.dev/gateway/api"
	"nofx.dev/integration/harness"
)

// The caller's own trace, which everything below joins.
const (
	callerTrace = "4bf92f3577b34da6a3ce929d0e0e4736"
	callerSpan  = "00f067aa0ba902b7"
)

// TestRun follows one run from the request to its last step: files, a script, a
// gate and an approval, whose second half runs on another worker.
func TestRun(t *testing.T) {
	t.Parallel()
	traces := newReceiver(t)
	s := up(t, harness.Config{Workers: 2, Env: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": traces.url}})

	created := decode[api.CreatedRun](t, s.do(t, http.StatusCreated, http.MethodPost, "/api/runs", plan(
		step{Name: "files", Tool: "workspace:write", Inputs: map[string]any{"files": []map[string]any{
			{"path": "src/hello.sh", "content": "echo hello from $1\n", "mode": "755"},
			{"path": "data/odd name\u00e9.bin", "content_base64": base64.StdEncoding.EncodeToString([]byte{0, 1, 2, 255})},
		}}},
		bash("build", `
			src/hello.sh build > out.txt
			head -c 300000 /dev/urandom > middle.bin
			head -c 1500000 /dev/urandom > large.bin
			mkdir empty; ln -s out.txt link
			sha256sum middle.bin large.bin out.txt data/* > sums
			echo "version=1.2.3" >> "$NOFX_OUTPUT"`),
		step{Name: "unit", Tool: "gate:unit", Inputs: map[string]any{"command": "sha256sum -c sums"}},
		step{Name: "ship", Tool: "manual:deploy", Inputs: map[string]any{"message": "Deploy?"}},
		bash("shipped", `sha256sum -c sums; test -L link; test -d empty; test -x src/hello.sh; cat out.txt; echo shipped >> out.txt`),
	), "traceparent", "00-"+callerTrace+"-"+callerSpan+"-01", "X-Correlation-Id", "ticket-7"))
	id := created.Run.ID
	s.await(t, id, api.RunStatusWaiting)

	// While it waits nobody holds it, so the worker that has done everything so
	// far can go. The rest has to go on elsewhere.
	waiting := s.run(t, id)
	first := s.attempts(t, named(t, waiting, "build").ID)[0]
	if leases := one[int](t, s, "SELECT count(*)::int FROM nofx.step_lease"); leases != 0 {
		t.Errorf("leases while the run waits = %d, want 0", leases)
	}
	s.retire(t, first.WorkerPid)
	gate := gateOf(t, waiting, named(t, waiting, "ship").ID)
	decided := decode[api.GateAnswer](t, s.do(t, http.StatusOK, http.MethodPost, "/api/gates/"+gate.ID+"/approve",
		map[string]string{"reason": "looks right"}, "If-Match", fmt.Sprintf(`"v%d"`, gate.Version)))
	if g := decided.Gate; g.Status != api.GateStatusPassed || deref(g.DecidedBy) == "" || deref(g.Reason) != "looks right" {
		t.Errorf("approved gate = %+v, want passed, with who and why", g)
	}
	done := s.await(t, id, api.RunStatusSucceeded)

	t.Run("steps", func(t *testing.T) { checkSteps(t, s, done, first.WorkerID) })
	t.Run("events", func(t *testing.T) { checkEvents(t, s, id) })
	t.Run("checkpoints", func(t *testing.T) { checkCheckpoints(t, s, done) })
	t.Run("invariants", func(t *testing.T) { checkInvariants(t, s, id) })
	t.Run("trace", func(t *testing.T) { checkTrace(t, s, traces, done) })
}

// retire ends the worker of a process id for good, in good order.
func (s *system) retire(t *testing.T, pid int) {
	t.Helper()
	for _, w := range s.Workers() {
		if w.PID() == pid {
			w.AutoRestart(false)
			if err := w.Kill(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if err := w.Ended(t.Context(), w.Starts()); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("no worker has pid %d", pid)
}

func checkSteps(t *testing.T, s *system, d api.RunDetail, firstWorker string) {
	if d.Run.TraceID != callerTrace || deref(d.Run.CorrelationID) != "ticket-7" {
		t.Errorf("run = trace %s, correlation %s; want the caller's", d.Run.TraceID, deref(d.Run.CorrelationID))
	}
	for _, st := range d.Steps {
		attempts := s.attempts(t, st.ID)
		if st.Status != api.StepStatusSucceeded || len(attempts) != 1 || st.Attempt != 1 {
			t.Errorf("step %s = %s, attempt %d of %d; want succeeded at the first", st.Name, st.Status, st.Attempt, len(attempts))
			continue
		}
		if a := attempts[0]; a.TraceID != callerTrace || !a.Accepted || a.EndedAt == nil {
			t.Errorf("attempt of %s = %+v, want accepted, ended and in the caller's trace", st.Name, a)
		}
	}
	last := s.attempts(t, named(t, d, "shipped").ID)[0]
	if last.WorkerID == firstWorker {
		t.Errorf("the last step ran on %s like the first, want another worker", last.WorkerID)
	}
	if out := s.log(t, named(t, d, "shipped").ID); !strings.Contains(out, "large.bin: OK") || !strings.HasSuffix(out, "hello from build\n") {
		t.Errorf("log of the last step = %q, want the files of the first", out)
	}
	outputs := members(t, named(t, d, "build").Outputs)
	if got := fmt.Sprint(outputs["outputs"]); got != "map[version:1.2.3]" {
		t.Errorf("outputs of build = %v, want version 1.2.3", outputs)
	}
}

// checkEvents reads the events as pages and as a stream; both are one history.
func checkEvents(t *testing.T, s *system, id string) {
	pages := s.events(t, id, "7")
	for i, e := range pages {
		if e.Seq != int64(i+1) || e.ID != fmt.Sprintf("%s.%d", id, i+1) || e.TraceID != callerTrace {
			t.Fatalf("event %d = %s seq %d trace %s, want it dense and in the caller's trace", i+1, e.ID, e.Seq, e.TraceID)
		}
	}
	path := "/api/runs/" + id + "/events?until=final"
	frames := s.stream(t, path, "")
	var streamed []string
	for _, f := range frames {
		if !strings.HasPrefix(f.Event, "stream.") {
			streamed = append(streamed, f.ID+" "+f.Event+" "+f.Data)
		}
	}
	if len(streamed) != len(pages) || frames[0].Event != "stream.ready" || !strings.Contains(frames[len(frames)-1].Data, `"final"`) {
		t.Fatalf("stream = %d events between %v and %v, want %d between ready and final", len(streamed), frames[0], frames[len(frames)-1], len(pages))
	}
	for i, e := range pages {
		if want := fmt.Sprintf("%d %s %s", e.Seq, e.Type, encoded(t, e)); !sameFrame(t, streamed[i], want) {
			t.Errorf("frame %d = %s, want %s", i+1, streamed[i], want)
		}
	}
	rest := s.stream(t, path, "5")
	if got := rest[1]; got.ID != "6" || len(rest) != len(frames)-5 {
		t.Errorf("after 5 the stream begins with %v and has %d frames, want 6 and %d", got, len(rest), len(frames)-5)
	}
	s.do(t, http.StatusNoContent, http.MethodGet, path, nil, "Accept", "text/event-stream", "Last-Event-ID", fmt.Sprint(len(pages)))
	beyond := s.do(t, http.StatusGone, http.MethodGet, "/api/runs/"+id+"/events?after=99999", nil)
	if codeOf(t, beyond) != api.ProblemCodeCursorExpired {
		t.Errorf("events after one that never was = %s, want cursor-expired", beyond.body)
	}
	var told []string
	s.follow(t, "/api/runs/"+id+"/events", "99999", func(f api.Frame) bool {
		told = append(told, f.Event)
		return f.Event != "stream.gap" && len(told) < 3
	})
	if !slices.Equal(told, []string{"stream.ready", "stream.gap"}) {
		t.Errorf("a stream after an event that never was tells %v, want ready and gap", told)
	}
	gates := get[api.EventPage](t, s.client, "/api/events?types=gate.*&limit=500&run="+id).Items
	if len(gates) != 4 { // two gates, opened and decided
		t.Errorf("gate events of the run in the feed = %d, want 4", len(gates))
	}
}

// checkTrace waits until the spans of the run are in and holds them against the
// rules: one trace, no span without its parent, and from the last step a way up to
// the request.
func checkTrace(t *testing.T, s *system, traces *receiver, d api.RunDetail) {
	wanted := map[string]bool{}
	for _, st := range d.Steps {
		wanted[s.attempts(t, st.ID)[0].SpanID] = true
	}
	var byID map[string]span
	until(t, "the spans of all attempts arrive and each has its parent", 3*time.Minute, func() bool {
		byID = map[string]span{}
		for _, sp := range traces.all() {
			if sp.trace == callerTrace {
				byID[sp.id] = sp
			}
		}
		for id := range wanted {
			if _, in := byID[id]; !in {
				return false
			}
		}
		return len(orphans(byID)) == 0
	})
	for _, sp := range traces.all() {
		ofRun := sp.attributes["nofx.run.id"] == d.Run.ID && sp.service == "nofx-worker"
		if sp.trace != callerTrace && (ofRun || sp.service == "nofx-worker" && !strings.HasPrefix(sp.name, "periodic ")) {
			t.Errorf("span %s of %s is in trace %s, want that of the run", sp.name, sp.service, sp.trace)
		}
	}
	names := map[string]int{}
	for _, sp := range byID {
		names[sp.name]++
	}
	for _, want := range []string{"POST /api/runs", "run.create", "send step", "process step", "step bash", "step gate:unit",
		"step manual:deploy", "step workspace:write", "checkpoint.save", "checkpoint.restore", "sandbox.exec", "gate unit", "finish"} {
		if names[want] == 0 {
			t.Errorf("the trace has no span %q; it has %v", want, slices.Sorted(maps.Keys(names)))
		}
	}
	last := byID[s.attempts(t, named(t, d, "shipped").ID)[0].SpanID]
	for hops := 0; last.parent != callerSpan; hops++ {
		above, ok := byID[last.parent]
		if !ok || hops > 50 {
			t.Fatalf("span %s has no way up to the request", last.name)
		}
		last = above
	}
	if last.name != "POST /api/runs" || last.service != "nofx-gateway" {
		t.Errorf("the topmost span = %s of %s, want the request", last.name, last.service)
	}
	for _, sp := range traces.all() {
		if strings.HasSuffix(sp.name, "/approve") && (sp.trace == callerTrace || !linksTo(traces.all(), sp.trace, callerTrace)) {
			t.Errorf("the approval is in trace %s with links %v, want a trace of its own that links to the run's", sp.trace, sp.links)
		}
	}
}

// orphans returns spans whose parent is missing.
func orphans(byID map[string]span) (names []string) {
	for _, sp := range byID {
		if _, ok := byID[sp.parent]; !ok && sp.parent != callerSpan {
			names = append(names, sp.name)
		}
	}
	return names
}

// linksTo reports whether some span of one trace links to the other.
func linksTo(all []span, from, to string) bool {
	return slices.ContainsFunc(all, func(s span) bool { return s.trace == from && slices.Contains(s.links, to) })
}

// checkCheckpoints downloads everything that the checkpoints of the run name, by
// signed URLs, and hashes it.
func checkCheckpoints(t *testing.T, s *system, d api.RunDetail) {
	list := items[api.Checkpoint](t, s.client, "/api/runs/"+d.Run.ID+"/checkpoints", "3")
	kinds := map[api.CheckpointKind]int{}
	objects := map[string][]byte{}
	for _, ck := range list {
		kinds[ck.Kind]++
		detail := get[api.CheckpointDetail](t, s.client, "/api/runs/"+d.Run.ID+"/checkpoints/"+ck.ID)
		if got := "sha256:" + digestOf(detail.Manifest); got != ck.Digest {
			t.Errorf("manifest of %s %s hashes to %s, want %s", ck.Kind, ck.ID, got, ck.Digest)
		}
		for _, o := range detail.Objects {
			content := download(t, o.URL)
			if digestOf(content) != o.Sha256 || int64(len(content)) != o.SizeBytes {
				t.Errorf("object %s = %d bytes that hash to %s, want %d", o.Sha256, len(content), digestOf(content), o.SizeBytes)
			}
			objects[o.Sha256] = content
		}
		checkFiles(t, s, "/api/runs/"+d.Run.ID+"/checkpoints/"+ck.ID, "")
	}
	// Each step but the first has a pre, and all have a post or a wait.
	if kinds[api.CheckpointKindPre] != 5 || kinds[api.CheckpointKindPost] != 4 || kinds[api.CheckpointKindWait] != 1 {
		t.Errorf("checkpoints = %v, want 5 pre, 4 post, 1 wait", kinds)
	}
	checkBlobs(t, s, objects)
	if head := d.Run.HeadCheckpointID; head == nil || *head != list[len(list)-1].ID {
		t.Errorf("head checkpoint = %v, want the last, %s", deref(head), list[len(list)-1].ID)
	}
	gate := items[api.Artifact](t, s.client, "/api/runs/"+d.Run.ID+"/artifacts", "50")
	if len(gate) != 1 {
		t.Fatalf("artifacts = %d, want the gate's evidence", len(gate))
	}
	checkArtifact(t, s, gate[0].ID)
	s.holdObjects(t)
}

// checkFiles walks a folder of a checkpoint and hashes its files.
func checkFiles(t *testing.T, s *system, base, dir string) {
	t.Helper()
	for _, f := range items[api.File](t, s.client, base+"/files?path="+escape(dir), "2") {
		at := path.Join(dir, f.Name)
		if f.Path != at {
			t.Errorf("path of %s in %q = %s, want %s", f.Name, dir, f.Path, at)
		}
		if f.Mode == api.FileModeN040000 {
			checkFiles(t, s, base, at)
			continue
		}
		large := deref(f.SizeBytes) > 1<<20
		want := http.StatusOK
		if large {
			want = http.StatusSeeOther
		}
		a := s.do(t, want, http.MethodGet, base+"/file?path="+escape(at), nil)
		content := a.body
		if large {
			content = download(t, a.header.Get("Location"))
		}
		if got := "sha256:" + digestOf(content); got != f.Digest || int64(len(content)) != deref(f.SizeBytes) {
			t.Errorf("file %s = %d bytes that hash to %s, want %d and %s", at, len(content), got, deref(f.SizeBytes), f.Digest)
		}
	}
}

// checkBlobs finds every blob of the database in the objects that were downloaded
// and hashes it: large ones as they are, small ones as frames of a pack.
func checkBlobs(t *testing.T, s *system, objects map[string][]byte) {
	t.Helper()
	type blob struct {
		SHA256, Pack   string
		Off, Len, Size int64
	}
	blobs := list[blob](t, s, `SELECT jsonb_build_object('SHA256', encode(sha256, 'hex'), 'Pack', coalesce(encode(pack_sha256, 'hex'), ''),
		'Off', off, 'Len', len, 'Size', size) FROM nofx.blob`)
	packed := 0
	for _, b := range blobs {
		content, ok := objects[b.SHA256]
		if b.Pack != "" {
			packed++
			var pack []byte
			if pack, ok = objects[b.Pack]; ok {
				content = unpack(t, pack[b.Off:b.Off+b.Len])
			}
		}
		if !ok || digestOf(content) != b.SHA256 || int64(len(content)) != b.Size {
			t.Errorf("blob %s (pack %q): downloaded %t, hashes to %s with %d bytes, want %d", b.SHA256, b.Pack, ok, digestOf(content), len(content), b.Size)
		}
	}
	if packed == 0 || packed == len(blobs) {
		t.Errorf("%d of %d blobs are packed, want some and not all", packed, len(blobs))
	}
}

// checkArtifact downloads an artifact by its signed URL, both ways.
func checkArtifact(t *testing.T, s *system, id string) []byte {
	t.Helper()
	a := get[api.ArtifactAnswer](t, s.client, "/api/artifacts/"+id).Artifact
	content := download(t, deref(a.URL))
	if digestOf(content) != a.Sha256 || int64(len(content)) != a.SizeBytes {
		t.Errorf("artifact %s = %d bytes that hash to %s, want %d and %s", a.Name, len(content), digestOf(content), a.SizeBytes, a.Sha256)
	}
	if left := time.Until(deref(a.ExpiresAt)); left > 15*time.Minute || left < 10*time.Minute {
		t.Errorf("URL of artifact %s lives %v, want at most 15 minutes", a.Name, left)
	}
	for _, edited := range []struct{ method, url string }{
		{http.MethodGet, strings.Replace(deref(a.URL), a.Sha256, strings.Repeat("0", 64), 1)},
		{http.MethodGet, strings.Replace(deref(a.URL), "X-Amz-Expires=", "X-Amz-Expires=9", 1)},
		{http.MethodPut, deref(a.URL)},
		{http.MethodDelete, deref(a.URL)},
	} {
		if status, _, _ := storageAnswer(t, edited.method, edited.url); status != http.StatusForbidden {
			t.Errorf("%s of an edited URL = %d, want 403", edited.method, status)
		}
	}
	seen := s.do(t, http.StatusSeeOther, http.MethodGet, "/api/artifacts/"+id+"?redirect=1", nil)
	if again := download(t, seen.header.Get("Location")); string(again) != string(content) {
		t.Errorf("artifact %s by redirect = %d bytes, want the same %d", a.Name, len(again), len(content))
	}
	return content
}
