package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"nofx.dev/gateway/api"
	"nofx.dev/shared/blob"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
)

func TestSteps(t *testing.T) {
	g := newGateway(t)
	created := g.create(plan(`{"name":"a","tool":"bash","inputs":{"script":"true"}},{"name":"b","tool":"bash","inputs":{"script":"true"}},{"name":"c","tool":"sleep","inputs":{"duration_s":0}}`))
	first := decodeAs[api.StepPage](t, g.get("/api/runs/"+created.Run.ID+"/steps?limit=2"))
	if len(first.Items) != 2 || first.NextCursor == nil {
		t.Fatalf("first page = %+v, want two steps and a cursor", first)
	}
	rest := decodeAs[api.StepPage](t, g.get("/api/runs/"+created.Run.ID+"/steps?limit=2&cursor="+*first.NextCursor))
	got := append(first.Items, rest.Items...)
	if waits := got[0].WaitsForWorker; waits == nil || *waits != "a worker that serves queue step" {
		t.Errorf("a ready step without workers waits for %v, want a worker that serves queue step", waits)
	}
	got[0].WaitsForWorker = nil // a run is created whether there are workers or not
	if diff := cmp.Diff(created.Steps, got); diff != "" {
		t.Errorf("steps by pages (-created +got):\n%s", diff)
	}
	c := g.claim(created.Steps[0])
	exit := 3
	g.finish(postgres.Finish{Claim: c, Outcome: "fail", Reason: "exit 3", FailureClass: run.ClassTool, ExitCode: &exit,
		Usage: run.Usage{CPUMillis: 12}, Outputs: json.RawMessage(`{"big":12345678901234567890}`)})
	r := g.get("/api/steps/" + created.Steps[0].ID)
	g.want(r, http.StatusOK, "")
	d := decodeAs[api.StepDetail](t, r)
	if d.Step.Status != api.StepStatusFailed || *d.Step.FailureClass != api.FailureClassTool || len(d.Attempts) != 1 {
		t.Fatalf("step = %s, want one failed attempt", r.body)
	}
	a := d.Attempts[0]
	if a.Fence != 1 || *a.ExitCode != 3 || a.WorkerID != "w1" || a.Accepted || a.EndedAt == nil || *a.Usage.CPUMs != 12 || a.TraceID == "" {
		t.Errorf("attempt = %+v, want fence 1, exit code 3 by w1, not accepted", a)
	}
	if !strings.Contains(string(r.body), "12345678901234567890") {
		t.Errorf("outputs = %s, want the number undamaged", r.body)
	}
}

func TestLogs(t *testing.T) {
	g := newGateway(t)
	created := g.create(oneStep)
	path := "/api/steps/" + created.Steps[0].ID + "/logs"
	r := g.get(path)
	if r.status != http.StatusOK || len(r.body) != 0 {
		t.Errorf("log of a step not yet begun = %d %q, want 200 and nothing", r.status, r.body)
	}
	noAttempt := func(query, want string) {
		t.Helper()
		r := g.get(path + query)
		if g.want(r, http.StatusNotFound, "not-found"); !strings.HasSuffix(decodeAs[api.Problem](t, r).Detail, want) {
			t.Errorf("log %s = %s, want %q at the end of its detail", query, r.body, want)
		}
	}
	noAttempt("?attempt=1", "; it has none")
	c := g.claim(created.Steps[0])
	noAttempt("?attempt=7", "no attempt with the fence 7; it has 1")
	chunk := g.log(c, 0, 0, "one\ntwo\n")
	g.log(c, 1, 8, "three\n")
	const whole = "one\ntwo\nthree\n"
	for _, tc := range []struct {
		given, want, contentRange string
		status                    int
	}{
		{"", whole, "", 200}, {"bytes=0-2", "one", "bytes 0-2/14", 206}, {"bytes=6-9", "o\nth", "bytes 6-9/14", 206},
		{"bytes=8-", "three\n", "bytes 8-13/14", 206}, {"bytes=-3", "ee\n", "bytes 11-13/14", 206}, {"bytes=0-99", whole, "bytes 0-13/14", 206},
		{"bytes=0-1,3-4", whole, "", 200}, {"lines=1-2", whole, "", 200},
	} {
		r := g.get(path, header{"Range": tc.given})
		if r.status != tc.status || string(r.body) != tc.want || r.header.Get("Content-Range") != tc.contentRange ||
			r.header.Get("Content-Type") != "text/plain; charset=utf-8" || r.header.Get("Accept-Ranges") != "bytes" {
			t.Errorf("Range %q = %d %q %q, want %d %q %q", tc.given, r.status, r.body, r.header.Get("Content-Range"), tc.status, tc.want, tc.contentRange)
		}
	}
	r = g.get(path, header{"Range": "bytes=14-"})
	g.want(r, http.StatusRequestedRangeNotSatisfiable, "range-not-satisfiable")
	if got, want := r.header.Get("Content-Range"), "bytes */14"; got != want {
		t.Errorf("Content-Range = %q, want %q", got, want)
	}
	for _, query := range []string{"?attempt=0", "?attempt=x", "?follow=0", "?follow=true", "?tail=1"} {
		g.want(g.get(path+query), http.StatusBadRequest, "bad-parameter")
	}
	g.put(chunk.Key, []byte("one\nTWO\n"))
	g.want(g.get(path), http.StatusConflict, "object-corrupt")
	if err := g.blobs.Delete(t.Context(), chunk.Key); err != nil {
		t.Fatal(err)
	}
	g.want(g.get(path), http.StatusGone, "object-gone")
	if got := g.get(path, header{"Range": "bytes=8-"}); string(got.body) != "three\n" {
		t.Errorf("the part that is there = %d %q, want it", got.status, got.body)
	}
}

// frames reads an event stream frame by frame.
type frames struct {
	*gateway
	*api.FrameReader
	resp *http.Response
}

// follow opens a stream.
func (g *gateway) follow(path string, headers ...header) *frames {
	g.Helper()
	req, err := http.NewRequestWithContext(g.Context(), http.MethodGet, g.http.URL+path, nil)
	if err != nil {
		g.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+g.key)
	req.Header.Set("Accept", "text/event-stream")
	for _, h := range headers {
		for name, value := range h {
			req.Header.Set(name, value)
		}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		g.Fatal(err)
	}
	g.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream; charset=utf-8" {
		g.Fatalf("stream %s = %d %s, want 200 text/event-stream", path, resp.StatusCode, resp.Header.Get("Content-Type"))
	}
	return &frames{g, api.NewFrameReader(resp.Body), resp}
}

// next returns the next frame that has an event.
func (f *frames) next() api.Frame {
	f.Helper()
	for {
		got, err := f.Next()
		if err != nil {
			f.Fatalf("stream ended: %v", err)
		}
		if got.Event != "" {
			return got
		}
	}
}

// end waits until the server is done with the stream, and its place is free again.
func (f *frames) end() {
	f.Helper()
	if rest, err := f.Next(); !errors.Is(err, io.EOF) {
		f.Errorf("after its last frame the stream has %+v, %v, want its end", rest, err)
	}
}

// A log of which some is lost says so at its end, read whole, in part or as it grows.
func TestMarkedLog(t *testing.T) {
	g := newGateway(t)
	step := g.create(oneStep).Steps[0]
	c := g.claim(step)
	g.log(c, 1, 0, "one\n")
	if err := g.db.MarkLog(t.Context(), c, 10); err != nil {
		t.Fatal(err)
	}
	const mark = "\n[nofx] the last 6 bytes of output are missing here: storage did not take them\n"
	path := "/api/steps/" + step.ID + "/logs"
	if r := g.get(path); r.status != http.StatusOK || string(r.body) != "one\n"+mark {
		t.Errorf("log = %d %q, want 200 and %q at its end", r.status, r.body, mark)
	}
	if r := g.get(path, header{"Range": "bytes=-6"}); r.status != http.StatusPartialContent || string(r.body) != " them\n" {
		t.Errorf("its last 6 bytes = %d %q, want 206 and those of the mark", r.status, r.body)
	}
}

func TestFollowLog(t *testing.T) {
	g := newGateway(t)
	created := g.create(oneStep)
	path := "/api/steps/" + created.Steps[0].ID + "/logs"
	f := g.follow(path + "?follow=1") // before there is an attempt
	c := g.claim(created.Steps[0])
	want := func(f *frames, id, event, data string) {
		t.Helper()
		if diff := cmp.Diff(api.Frame{ID: id, Event: event, Data: data}, f.next()); diff != "" {
			t.Fatalf("frame (-want +got):\n%s", diff)
		}
	}
	euro := "€" // cut in two
	g.log(c, 0, 0, "one "+euro[:1])
	want(f, "4", "log", `{"offset":0,"text":"one "}`)
	g.log(c, 1, 5, euro[1:]+"\n")
	// The rest of the first chunk comes as what it is by itself: chunks are of
	// bytes, and a worker cuts them at lines.
	g.finish(postgres.Finish{Claim: c, Outcome: "fail", Reason: "x", FailureClass: run.ClassTool})
	var text string
	for {
		got := f.next()
		if got.Event == "end" {
			if got.Data != `{"fence":1,"offset":8}` || got.ID != "8" {
				t.Errorf("end = %+v, want offset 8", got)
			}
			break
		}
		var l api.LogFrame
		if err := json.Unmarshal([]byte(got.Data), &l); err != nil {
			t.Fatal(err)
		}
		text += l.Text
	}
	if !strings.HasSuffix(text, "\n") {
		t.Errorf("rest of the log = %q, want it to its end", text)
	}
	resumed := g.follow(path+"?follow=1", header{"Last-Event-ID": "7"})
	want(resumed, "8", "log", `{"offset":7,"text":"\n"}`)
	want(resumed, "8", "end", `{"fence":1,"offset":8}`)
	done := g.follow(path+"?follow=1&attempt=1", header{"Last-Event-ID": "8"})
	want(done, "8", "end", `{"fence":1,"offset":8}`)
	g.want(g.get(path+"?follow=1", header{"Last-Event-ID": "x"}), http.StatusBadRequest, "bad-cursor")
}

// A log of many chunks comes in order and whole, however it is read.
func TestLogOfManyChunks(t *testing.T) {
	g := newGateway(t)
	created := g.create(oneStep)
	path := "/api/steps/" + created.Steps[0].ID + "/logs"
	c := g.claim(created.Steps[0])
	var all string
	for i := range 2*logLook + 3 {
		text := fmt.Sprintf("line %d\n", i)
		g.log(c, i, int64(len(all)), text)
		all += text
	}
	follow := func(f *frames) (text string) {
		for {
			got := f.next()
			if got.Event == "end" {
				return text
			}
			var l api.LogFrame
			if err := json.Unmarshal([]byte(got.Data), &l); err != nil || l.Offset != int64(len(text)) {
				t.Fatalf("frame %+v (%v), want what follows %d", got, err, len(text))
			}
			text += l.Text
		}
	}
	early := g.follow(path + "?follow=1")
	g.finish(postgres.Finish{Claim: c, Outcome: "succeed"})
	for name, f := range map[string]*frames{"before the end": early, "afterwards": g.follow(path + "?follow=1")} {
		if diff := cmp.Diff(all, follow(f)); diff != "" {
			t.Errorf("the log followed %s (-want +got):\n%s", name, diff)
		}
	}
	if diff := cmp.Diff(all, string(g.get(path).body)); diff != "" {
		t.Errorf("the log (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(all[100:400], string(g.get(path, header{"Range": "bytes=100-399"}).body)); diff != "" {
		t.Errorf("a range of it (-want +got):\n%s", diff)
	}
}

// While the database does not answer a follower waits, and then goes on.
func TestFollowLogThroughAnOutage(t *testing.T) {
	g := newGateway(t)
	created := g.create(oneStep)
	c := g.claim(created.Steps[0])
	g.log(c, 0, 0, "one\n")
	f := g.follow("/api/steps/" + created.Steps[0].ID + "/logs?follow=1")
	if got := f.next(); got.Event != "log" {
		t.Fatalf("frame = %+v, want the log", got)
	}
	tx, err := g.pg.Admin.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	if _, err := tx.Exec(t.Context(), "LOCK TABLE nofx.step IN ACCESS EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	looks := map[time.Time]bool{} // that waited for the lock: the second comes once the first was refused
	for len(looks) < 2 {
		rows, err := g.pg.Admin.Query(t.Context(), `SELECT a.query_start FROM pg_stat_activity a, pg_sleep(0.05)
			WHERE a.datname = current_database() AND a.wait_event_type = 'Lock'`)
		if err != nil {
			t.Fatal(err)
		}
		began, err := pgx.CollectRows(rows, pgx.RowTo[time.Time])
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range began {
			looks[at] = true
		}
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	g.log(c, 1, 4, "two\n")
	g.finish(postgres.Finish{Claim: c, Outcome: "succeed"})
	for _, want := range []api.Frame{
		{ID: "8", Event: "log", Data: `{"offset":4,"text":"two\n"}`},
		{ID: "8", Event: "end", Data: `{"fence":1,"offset":8}`},
	} {
		if diff := cmp.Diff(want, f.next()); diff != "" {
			t.Fatalf("frame after the outage (-want +got):\n%s", diff)
		}
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// A follower hears at once that it is connected, also while storage does not answer: else
// it would take the gateway for gone.
func TestFollowLogWhileStorageHangs(t *testing.T) {
	hangs := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	t.Cleanup(hangs.Close)
	var log lockedBuffer
	g := newGateway(t, func(c *Config) {
		var err error
		if c.Blobs, err = blob.Open(blob.Config{Endpoint: hangs.URL, Bucket: "none", AccessKey: "x", SecretKey: "x"}); err != nil {
			t.Fatal(err)
		}
		c.Blobs.LogTo(slog.New(slog.NewTextHandler(&log, nil)))
	})
	step := g.create(oneStep).Steps[0]
	g.log(g.claim(step), 1, 0, "one\n")
	f := g.follow("/api/steps/" + step.ID + "/logs?follow=1")
	if said := log.String(); said != "" {
		t.Errorf("the stream began after storage had been given up, want it to begin before: %s", said)
	}
	f.resp.Body.Close()
}

// TestFollowSkipped checks that the follower of a step which never ran is let go.
func TestFollowSkipped(t *testing.T) {
	g := newGateway(t)
	created := g.create(oneStep)
	f := g.follow("/api/steps/" + created.Steps[0].ID + "/logs?follow=1")
	g.want(g.do(http.MethodPost, "/api/runs/"+created.Run.ID+"/cancel", ""), http.StatusOK, "")
	if got := f.next(); got.Event != "end" || got.Data != `{"offset":0}` {
		t.Errorf("frame = %+v, want the end at 0", got)
	}
}

func TestArtifacts(t *testing.T) {
	g := newGateway(t)
	created := g.create(oneStep)
	c := g.claim(created.Steps[0])
	var made []run.Artifact
	for i := range 3 {
		made = append(made, g.artifact(c, fmt.Sprintf("r%d.txt", i), fmt.Sprintf("content %d", i)))
	}
	g.finish(postgres.Finish{Claim: c, Outcome: "succeed", Artifacts: made})
	r := g.get("/api/runs/" + created.Run.ID + "/artifacts?limit=2")
	g.want(r, http.StatusOK, "")
	p := decodeAs[api.ArtifactPage](t, r)
	if len(p.Items) != 2 || p.NextCursor == nil || p.Items[0].URL != nil {
		t.Fatalf("artifacts = %s, want two of three, without URLs", r.body)
	}
	one := g.get("/api/artifacts/" + p.Items[0].ID)
	g.want(one, http.StatusOK, "")
	a := decodeAs[api.ArtifactAnswer](t, one).Artifact
	content, sum := g.fetch(*a.URL)
	if string(content) != "content 0" || sum != a.Sha256 || a.ExpiresAt.After(time.Now().Add(blob.MaxSignedTTL)) {
		t.Errorf("bytes at the URL = %q %s until %s, want those of %s for 15 minutes", content, sum, a.ExpiresAt, one.body)
	}
	redirected := g.get("/api/artifacts/" + a.ID + "?redirect=1")
	if content, _ := g.fetch(redirected.header.Get("Location")); redirected.status != http.StatusSeeOther || string(content) != "content 0" {
		t.Errorf("redirect = %d to %q, want 303 to the bytes", redirected.status, content)
	}
	g.want(g.get("/api/artifacts/"+a.ID+"?redirect=2"), http.StatusBadRequest, "bad-parameter")
}
