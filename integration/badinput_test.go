package integration_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"nofx.dev/gateway/api"
	"nofx.dev/integration/harness"
)

// bad is a request as it goes over the wire and the refusal it deserves.
type bad struct {
	name    string
	request string // "METHOD target"; the target is sent as it is
	headers string // lines; they replace the usual ones of the same name
	body    string
	status  int
	code    api.ProblemCode
	pointer string // of the first entry of errors, "" when it has none
}

// wire sends requests byte by byte, without a client that would put them right.
type wire struct{ addr, key string }

// send writes one request on a connection of its own and reads the answer.
func (w wire) send(t *testing.T, b bad) answer {
	t.Helper()
	conn, err := net.DialTimeout("tcp", w.addr, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	method, target, _ := strings.Cut(b.request, " ")
	usual := []string{"Host: " + w.addr, "Authorization: Bearer " + w.key, "Content-Type: application/json",
		fmt.Sprintf("Content-Length: %d", len(b.body)), "Connection: close"}
	var head strings.Builder
	fmt.Fprintf(&head, "%s %s HTTP/1.1\r\n", method, target)
	for _, line := range usual {
		name, _, _ := strings.Cut(line, ":")
		if !strings.Contains("\n"+b.headers, "\n"+name+":") && !(name == "Content-Length" && strings.Contains(b.headers, "Transfer-Encoding")) {
			head.WriteString(line + "\r\n")
		}
	}
	for line := range strings.Lines(b.headers) {
		if name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":"); value != "" { // one without a value is left out
			head.WriteString(name + ":" + value + "\r\n")
		}
	}
	// A server that refuses early may close before all is written.
	_, _ = io.WriteString(conn, head.String()+"\r\n"+b.body)
	if strings.Contains(b.headers, "Content-Length") { // more was promised, and it will not come
		_ = conn.(*net.TCPConn).CloseWrite()
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%s: no answer: %v", b.name, err)
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s: the answer breaks off: %v", b.name, err)
	}
	return answer{resp.StatusCode, resp.Header, content}
}

// refuse sends b and holds the answer against what it deserves.
func (w wire) refuse(t *testing.T, b bad) api.Problem {
	t.Helper()
	a := w.send(t, b)
	if a.header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("%s: %s = %d %s of type %q, want a problem", b.name, b.request, a.status, a.body, a.header.Get("Content-Type"))
		return api.Problem{}
	}
	p := decode[api.Problem](t, a)
	pointer := ""
	if len(p.Errors) > 0 {
		pointer = p.Errors[0].Pointer
	}
	if a.status != b.status || p.Code != b.code || pointer != b.pointer {
		t.Errorf("%s: %.80s = %d %s at %q (%s), want %d %s at %q", b.name, b.request, a.status, p.Code, pointer, p.Detail, b.status, b.code, b.pointer)
	}
	if p.Status != a.status || p.Title != http.StatusText(a.status) || p.Type == "" || p.Detail == "" || p.Instance == "" ||
		p.TraceID != a.header.Get("X-Trace-Id") || len(p.TraceID) != 32 {
		t.Errorf("%s: problem = %s with trace %q, want every field", b.name, a.body, a.header.Get("X-Trace-Id"))
	}
	if a.status == http.StatusUnauthorized && a.header.Get("WWW-Authenticate") == "" {
		t.Errorf("%s: 401 without WWW-Authenticate", b.name)
	}
	return p
}

// TestBadInput sends what no client should. Every answer says precisely what is
// wrong, none is a 500, and nothing of it is kept.
func TestBadInput(t *testing.T) {
	t.Parallel()
	s := up(t, harness.Config{Workers: 1, GatewayEnv: map[string]string{"NOFX_LIMIT_RATE": "0"}}) // or we would only learn of that
	mine, theirs := s.things(t, s.client), s.things(t, newClient(s.URL, s.tenant(t, "neighbour")))
	keys := s.badKeys(t)
	viewer := s.keyOf(t, map[string]any{"name": "viewer", "role": "viewer"}).Secret
	service := s.keyOf(t, map[string]any{"name": "service", "scopes": []string{"runs:read"}}).Secret
	for _, w := range s.Workers() { // so that nothing changes by itself
		w.AutoRestart(false)
		w.Stop()
	}
	mine.half = decode[api.CreatedCheckpoint](t, s.do(t, http.StatusAccepted, http.MethodPost, "/api/runs/"+mine.run+"/checkpoints?wait_s=0", nil)).CheckpointID
	w := wire{strings.TrimPrefix(s.URL, "http://"), s.APIKey}
	for name, table := range map[string][]bad{
		"syntax": syntax(), "plans": plans(), "uploads": uploads(mine), "headers and routes": routes(), "parameters": parameters(mine),
		"ids": ids(mine, theirs), "checkpoints": checkpoints(mine, theirs), "merges": merges(mine, theirs), "reviews": reviews(mine, theirs), "states": states(mine), "keys": keyed(keys, viewer, service),
	} {
		t.Run(name, func(t *testing.T) {
			before := s.contents(t)
			for _, b := range table {
				w.refuse(t, b)
			}
			if diff := cmp.Diff(before, s.contents(t)); diff != "" {
				t.Errorf("refused requests changed the database (-before +after):\n%s", diff)
			}
		})
	}
	t.Run("another tenant's is like unknown", func(t *testing.T) { alike(t, w, theirs) })
	t.Run("states say what is possible", func(t *testing.T) { possible(t, w, mine) })
	t.Run("methods", func(t *testing.T) { methods(t, w, mine) })
	if a := s.do(t, http.StatusOK, http.MethodGet, "/readyz", nil); !strings.Contains(string(a.body), "ready") {
		t.Errorf("after all that /readyz = %s", a.body)
	}
}

// things are the ids of one of each, made by a run that failed at its gate.
type things struct {
	run, step, gate, checkpoint, artifact, key, pending string

	one, other string // branches of the run
	merge      string // of other into one, with a conflict at the path file
	half       string // a checkpoint that was asked for and is not made
}

func (s *system) things(t *testing.T, c *client) (all things) {
	t.Helper()
	d := c.await(t, c.create(t, bash("build", "echo text > file"), gate("unit", "exit 1")).Run.ID, api.RunStatusFailed)
	all.run, all.step, all.gate = d.Run.ID, d.Steps[0].ID, d.Gates[0].ID
	all.checkpoint = deref(d.Run.HeadCheckpointID)
	all.artifact = items[api.Artifact](t, c, "/api/runs/"+all.run+"/artifacts", "50")[0].ID
	all.key = items[api.APIKey](t, c, "/api/api-keys", "50")[0].ID
	all.pending = c.await(t, c.create(t, manual("ship", 86400)).Run.ID, api.RunStatusWaiting).Gates[0].ID
	made := decode[api.CreatedBranches](t, c.do(t, http.StatusCreated, http.MethodPost, "/api/runs/"+all.run+"/branches", map[string]any{
		"checkpoint_id": all.checkpoint, "variants": []map[string]any{
			{"name": "one", "files": []map[string]any{{"path": "file", "content": "one"}}}, {"name": "other", "files": []map[string]any{{"path": "file", "content": "other"}}}}})).Runs
	all.one, all.other = c.await(t, made[0].ID, api.RunStatusFailed).Run.ID, c.await(t, made[1].ID, api.RunStatusFailed).Run.ID
	m := decode[api.MergeAnswer](t, c.do(t, http.StatusCreated, http.MethodPost, "/api/runs/"+all.one+"/merges", map[string]any{"source_run_id": all.other})).Merge
	c.await(t, deref(m.MergeRunID), api.RunStatusSucceeded)
	all.merge = m.ID
	return all
}

func (s *system) tenant(t *testing.T, slug string) string {
	t.Helper()
	key, err := s.NewTenant(t.Context(), slug)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (s *system) keyOf(t *testing.T, request map[string]any) api.CreatedAPIKey {
	t.Helper()
	return decode[api.CreatedAPIKey](t, s.do(t, http.StatusCreated, http.MethodPost, "/api/api-keys", request))
}

// badKeys returns keys that were good once, and some that never were.
func (s *system) badKeys(t *testing.T) map[string]string {
	t.Helper()
	revoked, expired := s.keyOf(t, map[string]any{"name": "revoked", "role": "admin"}), s.keyOf(t, map[string]any{"name": "expired", "role": "admin"})
	s.do(t, http.StatusNoContent, http.MethodDelete, "/api/api-keys/"+revoked.Key.ID, nil)
	list[string](t, s, "UPDATE nofx.api_key SET expires_at = clock_timestamp() - interval '1 second' WHERE id = $1 RETURNING id::text", uuidOf(expired.Key.ID))
	last := s.APIKey[len(s.APIKey)-1:]
	other := "A"
	if last == other {
		other = "B"
	}
	return map[string]string{
		"garbled": "nofx_dev_garbled", "of another kind": "eyJhbGciOiJub25lIn0.e30.", "one character off": s.APIKey[:len(s.APIKey)-1] + other,
		"revoked": revoked.Secret, "expired": expired.Secret,
	}
}

// alike compares the answers to ids of another tenant with those to ids of nobody.
func alike(t *testing.T, w wire, theirs things) {
	nobody := func(id string) string { return id[:strings.IndexByte(id, '_')+1] + strings.Repeat("0", 31) + "1" }
	for _, tt := range []struct{ method, path, id, body string }{
		{"GET", "/api/runs/%s", theirs.run, ""},
		{"POST", "/api/runs/%s/cancel", theirs.run, `{"reason":"x"}`},
		{"GET", "/api/runs/%s/steps", theirs.run, ""},
		{"GET", "/api/runs/%s/events", theirs.run, ""},
		{"GET", "/api/runs/%s/checkpoints", theirs.run, ""},
		{"GET", "/api/runs/%s/artifacts", theirs.run, ""},
		{"GET", "/api/runs/%s/checkpoints/" + theirs.checkpoint, theirs.run, ""},
		{"GET", "/api/runs/%s/checkpoints/" + theirs.checkpoint + "/files", theirs.run, ""},
		{"GET", "/api/runs/%s/checkpoints/" + theirs.checkpoint + "/file?path=file", theirs.run, ""},
		{"GET", "/api/steps/%s", theirs.step, ""},
		{"GET", "/api/steps/%s/logs", theirs.step, ""},
		{"GET", "/api/gates/%s", theirs.gate, ""},
		{"POST", "/api/gates/%s/approve", theirs.pending, `{}`},
		{"POST", "/api/gates/%s/reject", theirs.pending, `{"reason":"x"}`},
		{"POST", "/api/gates/%s/waive", theirs.gate, `{"reason":"x"}`},
		{"GET", "/api/artifacts/%s", theirs.artifact, ""},
		{"POST", "/api/artifacts/%s/complete", theirs.artifact, ""},
		{"DELETE", "/api/api-keys/%s", theirs.key, ""},
	} {
		ask := func(id string) api.Problem {
			b := bad{name: tt.path, request: tt.method + " " + fmt.Sprintf(tt.path, id), body: tt.body, status: 404, code: api.ProblemCodeNotFound}
			p := w.refuse(t, b)
			p.Instance, p.TraceID = "", ""
			return p
		}
		if diff := cmp.Diff(ask(nobody(tt.id)), ask(tt.id)); diff != "" {
			t.Errorf("%s %s of another tenant differs from an unknown one (-unknown +foreign):\n%s", tt.method, tt.path, diff)
		}
	}
}

// possible looks at what a refusal by the state machine tells besides its code.
func possible(t *testing.T, w wire, mine things) {
	p := w.refuse(t, bad{"cancel of a failed run", "POST /api/runs/" + mine.run + "/cancel", "", `{}`, 409, api.ProblemCodeIllegalTransition, ""})
	if deref(p.From) != "failed" || deref(p.Event) != "cancel" || fmt.Sprint(p.Allowed) != "[resume retry]" {
		t.Errorf("cancel of a failed run = from %q, event %q, allowed %v; want failed, cancel, [resume retry]", deref(p.From), deref(p.Event), p.Allowed)
	}
	p = w.refuse(t, bad{"approval of a command gate", "POST /api/gates/" + mine.gate + "/approve", "", `{}`, 409, api.ProblemCodeIllegalTransition, ""})
	if deref(p.From) != "failed" || deref(p.Event) != "approve" || fmt.Sprint(p.Allowed) != "[waive]" || p.Gate == nil || p.Gate.ID != mine.gate {
		t.Errorf("approval of a command gate = from %q, event %q, allowed %v, gate %v; want failed, approve, [waive] and the gate",
			deref(p.From), deref(p.Event), p.Allowed, p.Gate)
	}
}

// methods that a path does not have are refused with those that it has.
func methods(t *testing.T, w wire, mine things) {
	for _, tt := range []struct{ request, allow string }{
		{"PUT /api/runs", "GET HEAD POST"},
		{"DELETE /api/runs/" + mine.run, "GET HEAD"},
		{"GET /api/runs/" + mine.run + "/cancel", "POST"},
		{"PATCH /api/gates/" + mine.gate, "GET HEAD"},
		{"BREW /api/whoami", "GET HEAD"},
		{"POST /healthz", "GET HEAD"},
	} {
		a := w.send(t, bad{name: tt.request, request: tt.request})
		given := "," + strings.ReplaceAll(a.header.Get("Allow"), " ", "") + ","
		for _, method := range strings.Fields(tt.allow) {
			if !strings.Contains(given, ","+method+",") {
				t.Errorf("%s = Allow %q, want %s in it", tt.request, a.header.Get("Allow"), method)
			}
		}
		if a.status != http.StatusMethodNotAllowed || codeOf(t, a) != api.ProblemCodeMethodNotAllowed {
			t.Errorf("%s = %d %s, want 405 method-not-allowed", tt.request, a.status, a.body)
		}
	}
}
