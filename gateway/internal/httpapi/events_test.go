package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"nofx.dev/gateway/api"
	"nofx.dev/gateway/internal/identity"
	"nofx.dev/gateway/internal/limit"
	"nofx.dev/gateway/internal/stream"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
)

// types reads all pages of events from a path with its filters on.
func (g *gateway) types(path string) (types []string) {
	g.Helper()
	separator := "&"
	if !strings.Contains(path, "?") {
		separator = "?"
	}
	for after := ""; ; {
		r := g.get(path + after)
		g.want(r, http.StatusOK, "")
		p := decodeAs[api.EventPage](g, r)
		for _, e := range p.Items {
			types = append(types, e.Type)
		}
		if r.header.Get("Link") == "" {
			return types
		}
		after = separator + "after=" + p.NextCursor
	}
}

// behindHorizon waits until the feed has all events: a transaction in any database
// of the server may hold it back for a moment.
func (g *gateway) behindHorizon() {
	g.Helper()
	ctx, cancel := context.WithTimeout(g.Context(), 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for shown := false; !shown; {
		err := g.pg.Admin.QueryRow(ctx, "SELECT NOT EXISTS (SELECT FROM nofx.event WHERE xid >= pg_snapshot_xmin(pg_current_snapshot()))").Scan(&shown)
		if err != nil {
			g.Fatalf("the feed's horizon does not move on: %v", err)
		}
		<-tick.C
	}
}

func TestEventPages(t *testing.T) {
	g := newGateway(t)
	created := g.create(oneStep)
	g.want(g.do(http.MethodPost, "/api/runs/"+created.Run.ID+"/cancel", ""), http.StatusOK, "")
	other := g.create(oneStep)
	all := []string{"run.created", "step.ready", "step.cancelled", "run.cancelled"}
	path := "/api/runs/" + created.Run.ID + "/events"
	for query, want := range map[string][]string{
		"": all, "?limit=1": all, "?limit=2": all, "?types=run.*": {"run.created", "run.cancelled"}, "?types=run.*&limit=1": {"run.created", "run.cancelled"},
		"?types=step.ready,run.created": {"run.created", "step.ready"}, "?after=2": all[2:], "?after=4": nil, "?types=gate.*": nil, "?until=final": all,
	} {
		if diff := cmp.Diff(want, g.types(path+query)); diff != "" {
			t.Errorf("events of %q (-want +got):\n%s", query, diff)
		}
	}
	g.behindHorizon()
	for query, want := range map[string][]string{
		"": append(append([]string{}, all...), "run.created", "step.ready"), "?limit=1": append(append([]string{}, all...), "run.created", "step.ready"),
		"?run=" + created.Run.ID: all, "?run=" + created.Run.ID + "," + other.Run.ID + "&types=run.created": {"run.created", "run.created"},
		"?project=default&types=run.cancelled": {"run.cancelled"}, "?project=none": nil,
	} {
		if diff := cmp.Diff(want, g.types("/api/events"+query)); diff != "" {
			t.Errorf("feed of %q (-want +got):\n%s", query, diff)
		}
	}
	g.want(g.get(path+"?after=99"), http.StatusGone, "cursor-expired")
	head, err := g.db.FeedHead(t.Context(), g.tenant)
	if err != nil {
		t.Fatal(err)
	}
	for cursor, detail := range map[stream.Cursor]string{
		{Epoch: head.Epoch, XID: 1 << 60}:    "no event follows",
		{Epoch: head.Epoch%1000 + 1, XID: 1}: "another database",
	} {
		r := g.get("/api/events?after=" + stream.FormatFeed(cursor))
		g.want(r, http.StatusGone, "cursor-expired")
		if p := decodeAs[api.Problem](t, r); !strings.Contains(p.Detail, detail) || p.Oldest != nil {
			t.Errorf("events after %+v = %s, want %q and no cursor to go on from", cursor, r.body, detail)
		}
	}
	for _, at := range []string{path, "/api/events"} {
		for query, code := range map[string]string{
			"?after=x": "bad-cursor", "?after=-1": "bad-cursor", "?after=": "bad-cursor", "?limit=501": "bad-parameter", "?types=*": "bad-parameter",
			"?types=run": "bad-parameter", "?types=": "bad-parameter", "?types=queue.paused": "bad-parameter", "?types=run.*,queue.*": "bad-parameter", "?cursor=1": "bad-parameter", "?types=" + strings.Repeat("a.b,", 50) + "a.b": "bad-parameter",
		} {
			g.want(g.get(at+query), http.StatusBadRequest, code)
			g.want(g.get(at+query, header{"Accept": "text/event-stream"}), http.StatusBadRequest, code)
		}
	}
	g.want(g.get("/api/events?run=x"), http.StatusBadRequest, "bad-parameter")
	g.want(g.get("/api/events?until=final"), http.StatusBadRequest, "bad-parameter")
	g.want(g.get(path, header{"Last-Event-ID": "garbage"}), http.StatusBadRequest, "bad-cursor")
	g.want(g.get(path, header{"Last-Event-ID": "\xfc", "Accept": "text/event-stream"}), http.StatusBadRequest, "bad-cursor")
	g.want(g.get(path, header{"Last-Event-ID": "99", "Accept": "text/event-stream"}, header{"Authorization": ""}), http.StatusUnauthorized, "unauthenticated")
}

// A client of HTTP/1.0, which knows no chunks, reads the stream until the connection ends.
func TestEventStreamOverHTTP10(t *testing.T) {
	g := newGateway(t)
	id := g.runIn(api.RunStatusSucceeded).Run.ID
	r := g.raw("GET /api/runs/" + id + "/events?until=final HTTP/1.0\r\nAuthorization: Bearer " + g.key + "\r\nAccept: text/event-stream\r\n\r\n")
	if r.status != http.StatusOK || !strings.Contains(string(r.body), "event: run.succeeded\n") || !strings.Contains(string(r.body), "event: stream.end\n") {
		t.Errorf("stream over HTTP/1.0 = %d %q, want the run's last event and the stream's end", r.status, r.body)
	}
	if _, chunked := r.header["Transfer-Encoding"]; chunked || strings.HasPrefix(string(r.body), "0\r\n") {
		t.Errorf("stream over HTTP/1.0 = %v, want no chunks", r.header)
	}
}

func TestEventStreams(t *testing.T) {
	g := newGateway(t, func(c *Config) { c.Streams = 2 })
	created := g.create(oneStep)
	path := "/api/runs/" + created.Run.ID + "/events"
	f := g.follow(path+"?after=0&until=final", header{"Last-Event-ID": "1"}) // which wins
	if ready := f.next(); ready.Event != "stream.ready" || ready.Data != `{"cursor":"1","resumed":true}` {
		t.Errorf("first frame = %+v, want ready, resumed after 1", ready)
	}
	if got := f.next(); got.Event != "step.ready" || got.ID != "2" {
		t.Errorf("second frame = %+v, want step.ready", got)
	}
	feed := g.follow("/api/events")
	for _, want := range []string{"stream.ready", "run.created", "step.ready"} {
		if got := feed.next(); got.Event != want {
			t.Errorf("frame of the feed = %+v, want %s", got, want)
		}
	}
	third := g.get("/api/events", header{"Accept": "text/event-stream"})
	g.want(third, http.StatusTooManyRequests, "rate-limited")
	if third.header.Get("Retry-After") == "" {
		t.Error("429 without Retry-After")
	}
	g.want(g.do(http.MethodPost, "/api/runs/"+created.Run.ID+"/cancel", ""), http.StatusOK, "")
	for _, want := range []string{"step.cancelled", "run.cancelled", "stream.end"} {
		if got := f.next(); got.Event != want {
			t.Errorf("frame = %+v, want %s", got, want)
		}
	}
	f.end()
	cancelled := feed.next()
	var e api.Event
	if err := json.Unmarshal([]byte(cancelled.Data), &e); err != nil || e.RunID != created.Run.ID {
		t.Errorf("frame of the feed = %+v (%v), want an event of the run", cancelled, err)
	}
	if r := g.get(path+"?until=final", header{"Last-Event-ID": "4", "Accept": "text/event-stream"}); r.status != http.StatusNoContent {
		t.Errorf("stream past the end = %d, want 204", r.status)
	}
	// What a foreign caller sees of it: nothing.
	other := g.newKey(g.pg.Tenant(t), api.RoleAdmin)
	g.want(g.get(path, header{"Accept": "text/event-stream", "Authorization": "Bearer " + other}), http.StatusNotFound, "not-found")
}

// TestS13_StreamPlaces checks who is refused when the places for streams are taken,
// and that each comes back.
func TestS13_StreamPlaces(t *testing.T) {
	t.Parallel()
	s := &Server{streams: streams{limit.NewSlots(2), limit.NewSlots(3), limit.NewSlots(4)}}
	tenant := uuid.New()
	first, second := &identity.Principal{Tenant: tenant, Subject: "user:a"}, &identity.Principal{Tenant: tenant, Subject: "key:b"}
	foreign, last := &identity.Principal{Tenant: uuid.New(), Subject: "user:a"}, &identity.Principal{Tenant: uuid.New(), Subject: "user:a"}
	for round := range 2 {
		var taken []func()
		for i, tc := range []struct {
			who  *identity.Principal
			want fault.Kind
		}{
			{first, ""}, {first, ""}, {first, fault.RateLimited}, {second, ""}, {second, fault.RateLimited},
			{foreign, ""}, {foreign, fault.Unavailable}, {last, fault.Unavailable},
		} {
			release, err := s.openStream(tc.who)
			if fault.KindOf(err) != tc.want {
				t.Errorf("round %d, stream %d: openStream = %v, want %q", round, i, err, tc.want)
			}
			var e *fault.Error
			if errors.As(err, &e) && e.RetryAfter == 0 {
				t.Errorf("round %d, stream %d: %v says not when to come back", round, i, err)
			}
			if err == nil {
				taken = append(taken, release)
			}
		}
		for _, release := range taken {
			release()
		}
	}
}

// TestS42_StreamsEndWithTheirKey checks that an open stream ends when its key is
// revoked.
func TestS42_StreamsEndWithTheirKey(t *testing.T) {
	g := newGateway(t)
	key := g.newKey(g.tenant, api.RoleViewer)
	p := principalOf(g, key)
	check := g.server.still(g.during("listEvents"), p)
	if err := check(t.Context()); err != nil {
		t.Errorf("check = %v, want nil", err)
	}
	if err := g.server.still(g.during("listAPIKeys"), p)(t.Context()); err == nil {
		t.Error("a viewer may list keys, says the check")
	}
	id := uuid.MustParse(strings.TrimPrefix(p.Subject, "key:"))
	if err := g.db.RevokeAPIKey(t.Context(), g.tenant, id); err != nil {
		t.Fatal(err)
	}
	g.server.Identity.Forget(id)
	if err := check(t.Context()); err == nil {
		t.Error("check of a revoked key = nil, want an error")
	}
}

// during returns a request that the operation answers.
func (g *gateway) during(operation string) echo.Context {
	c := g.server.echo.NewContext(nil, nil)
	for _, op := range g.server.operations() {
		if op.id == operation {
			c.Set(infoKey, &info{operation: op})
		}
	}
	return c
}

// TestExpired checks what a reader of a run sees whose retention has passed.
func TestExpired(t *testing.T) {
	g := newGateway(t)
	old := g.create(oneStep)
	c := g.claim(old.Steps[0])
	g.log(c, 1, 0, "printed\n")
	g.finish(postgres.Finish{Claim: c, Outcome: "succeed"})
	young := g.create(oneStep)
	g.behindHorizon()
	first := decodeAs[api.EventPage](t, g.get("/api/events?limit=2"))
	id := uuidOf(g, run.RunID, old.Run.ID)
	if _, err := g.pg.Admin.Exec(t.Context(), "UPDATE nofx.run SET finished_at = finished_at - interval '31 days' WHERE id = $1", id); err != nil {
		t.Fatal(err)
	}
	if p, err := g.db.PruneRuns(t.Context(), g.tenant, []uuid.UUID{id}, 1000); err != nil || p.Chunks != 1 || p.Events == 0 {
		t.Fatalf("PruneRuns = %+v, %v, want the log and the events", p, err)
	}
	run := "/api/runs/" + old.Run.ID
	detail := decodeAs[api.RunDetail](t, g.get(run))
	if detail.Run.Status != api.RunStatusSucceeded || len(detail.Steps) != 1 {
		t.Errorf("run = %+v, want it as it was", detail.Run)
	}
	g.want(g.get(run+"/events"), http.StatusGone, "cursor-expired")
	g.want(g.get(run+"/events?after=1"), http.StatusGone, "cursor-expired")
	if p := decodeAs[api.EventPage](t, g.get(run+"/events?after="+detail.StreamCursor)); len(p.Items) != 0 {
		t.Errorf("events after the newest = %+v, want none", p)
	}
	g.want(g.get("/api/steps/"+old.Steps[0].ID+"/logs"), http.StatusGone, "object-gone")
	g.want(g.get("/api/steps/"+old.Steps[0].ID+"/logs?follow=1", header{"Accept": "text/event-stream"}), http.StatusGone, "object-gone")
	g.want(g.get("/api/events?after="+first.NextCursor), http.StatusGone, "cursor-expired")
	for _, e := range decodeAs[api.EventPage](t, g.get("/api/events")).Items {
		if e.RunID != young.Run.ID {
			t.Errorf("the feed has an event of %s, want of %s alone", e.RunID, young.Run.ID)
		}
	}
}

// TestReopened checks the events of a run that was tried again after its retention
// had passed: they begin with the oldest kept, and who asks for more is told where.
func TestReopened(t *testing.T) {
	g := newGateway(t)
	old := g.create(oneStep)
	path, id := "/api/runs/"+old.Run.ID, uuidOf(g, run.RunID, old.Run.ID)
	g.finish(postgres.Finish{Claim: g.claim(old.Steps[0]), Outcome: "fail", Reason: "x", FailureClass: run.ClassTool})
	if _, err := g.pg.Admin.Exec(t.Context(), "UPDATE nofx.run SET finished_at = finished_at - interval '31 days' WHERE id = $1", id); err != nil {
		t.Fatal(err)
	}
	if p, err := g.db.PruneRuns(t.Context(), g.tenant, []uuid.UUID{id}, 1000); err != nil || p.Events == 0 {
		t.Fatalf("PruneRuns = %+v, %v, want the events", p, err)
	}
	pruned := decodeAs[api.RunDetail](t, g.get(path)).StreamCursor
	gone := g.get(path + "/events")
	g.want(gone, http.StatusGone, "cursor-expired")
	if oldest := decodeAs[api.Problem](t, gone).Oldest; oldest == nil || *oldest != pruned {
		t.Errorf("oldest = %v, want %s: %s", oldest, pruned, gone.body)
	}
	g.want(g.do(http.MethodPost, path+"/retry", ""), http.StatusOK, "")
	want := g.types(path + "/events?after=" + pruned)
	if len(want) == 0 {
		t.Fatal("nothing happened since")
	}
	if diff := cmp.Diff(want, g.types(path+"/events?limit=1")); diff != "" {
		t.Errorf("events by pages from the first (-want +got):\n%s", diff)
	}
	if got := g.types(path + "/events?types=gate.*"); len(got) != 0 {
		t.Errorf("events of no gate = %v, want none", got)
	}
	lost := g.get(path + "/events?after=0")
	g.want(lost, http.StatusGone, "cursor-expired")
	if oldest := decodeAs[api.Problem](t, lost).Oldest; oldest == nil || *oldest != pruned {
		t.Errorf("oldest = %v, want %s: %s", oldest, pruned, lost.body)
	}
	head, err := g.db.FeedHead(t.Context(), g.tenant)
	if err != nil {
		t.Fatal(err)
	}
	feed := g.get("/api/events?after=" + stream.FormatFeed(stream.Cursor{Epoch: head.Epoch, XID: 1}))
	g.want(feed, http.StatusGone, "cursor-expired")
	if oldest := decodeAs[api.Problem](t, feed).Oldest; oldest == nil {
		t.Errorf("no oldest in %s", feed.body)
	} else if r := g.get("/api/events?after=" + *oldest); r.status != http.StatusOK {
		t.Errorf("feed from the oldest = %d %s, want 200", r.status, r.body)
	}
}
