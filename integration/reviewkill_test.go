package integration_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"nofx.dev/gateway/api"
	"nofx.dev/integration/harness"
)

// lanes is how many stacks reviews are killed on at the same time. Most of that is waiting:
// for leases to run out, and between two writes on a forge.
const lanes = 6

// fatal is a moment at which a worker that posts a review is killed.
type fatal struct {
	provider string
	at       int    // the operation on the forge, by number, or
	done     bool   // whether the operation has had its effect
	stage    string // the piece of the review that is about to be stored
	second   bool   // in the review of the next head, at which a finding is fixed
	op       string
}

func (f fatal) String() string {
	switch {
	case f.stage != "":
		return fmt.Sprintf("%s, before %s is stored", f.provider, f.stage)
	case f.done:
		return fmt.Sprintf("%s, after operation %d, %s", f.provider, f.at, f.op)
	}
	return fmt.Sprintf("%s, before operation %d, %s", f.provider, f.at, f.op)
}

// reviewStages are what a review of a pull request stores, in that order; between plan.json
// and review.json there are more forms of the same.
var reviewStages = []string{
	"prompt", "answer", "verify_prompt", "verify_answer", "change.json", "coverage.json", "chunks.json", "findings.json", "verdict.json",
	"plan.json", "review.json", "posted.json",
}

// writes are the operations that change a forge. A worker that dies while it reads leaves
// what it does after the write before.
var writes = []string{"create", "add", "submit", "publish", "reply", "resolve", "report", "annotate", "status"}

// TestKilledReviewPosts kills workers with SIGKILL at every operation on a forge, before and after
// its effect, and before each piece of a review is stored. Another worker finishes: there is
// one review on the forge and no thread twice, no model is paid again once its answer is
// stored, the status is set, and no MCP server outlives its worker.
func TestKilledReviewPosts(t *testing.T) {
	t.Parallel()
	cases := make(chan fatal, 1000)
	for _, stage := range reviewStages {
		cases <- fatal{provider: "github", stage: stage}
	}
	var wg sync.WaitGroup
	for n := range lanes {
		wg.Go(func() {
			l := newLane(t)
			if n == 0 {
				l.moments(t, cases)
				close(cases)
			}
			for c := range cases {
				l.die(t, c)
			}
			l.holdObjects(t)
		})
	}
	wg.Wait()
}

// lane is a stack whose two workers review the pull request of a forge.
type lane struct {
	*system
	forge *forge
	model *paidModel
	cases int
}

func newLane(t *testing.T) *lane {
	t.Helper()
	l := &lane{forge: newForge(t), model: newPaidModel(t)}
	l.system = up(t, harness.Config{Workers: 2, WorkerEnv: map[string]string{
		"NOFX_LEASE_TTL": "2s", "GOMAXPROCS": "1",
		"NOFX_LLM_PROVIDER": "openai", "NOFX_LLM_MODEL": "small", "NOFX_LLM_BASE_URL": l.model.url, "NOFX_LLM_API_KEY": "sk-0123456789abcdef",
		"NOFX_GITHUB_TOKEN": l.forge.Token, "NOFX_GITHUB_API": l.forge.GitHubAPI, "NOFX_GITHUB_MCP_COMMAND": l.forge.GitHubCommand,
		"NOFX_BITBUCKET_TOKEN": l.forge.Token, "NOFX_BITBUCKET_API": l.forge.BitbucketAPI, "NOFX_BITBUCKET_MCP_COMMAND": l.forge.BitbucketCommand,
		"NOFX_BITBUCKET_ACCOUNT": l.forge.Account, "TMPDIR": t.TempDir(),
	}})
	if _, err := l.db.Exec(t.Context(), `
		CREATE TABLE public.held (stage text NOT NULL);
		CREATE FUNCTION public.hold_stage() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
		BEGIN
			IF EXISTS (SELECT FROM public.held WHERE stage = NEW.stage) THEN
				PERFORM pg_advisory_xact_lock(4711);
			END IF;
			RETURN NEW;
		END $$;
		CREATE TRIGGER hold_stage BEFORE INSERT ON nofx.review_artifact FOR EACH ROW EXECUTE FUNCTION public.hold_stage()`); err != nil {
		t.Fatal(err)
	}
	return l
}

// fresh begins a case: a forge without reviews, and a tenant that knows of none.
func (l *lane) fresh(t *testing.T) {
	t.Helper()
	l.forge.tell(t, "new", nil)
	l.model.reset()
	l.cases++
	key, err := l.NewTenant(t.Context(), fmt.Sprintf("case-%d", l.cases))
	if err != nil {
		t.Fatal(err)
	}
	l.client = newClient(l.URL, key)
}

// review starts a review of the pull request.
func (l *lane) review(t *testing.T, provider string) api.CreatedReview {
	t.Helper()
	return decode[api.CreatedReview](t, l.do(t, http.StatusAccepted, http.MethodPost, "/api/reviews",
		map[string]any{"provider": provider, "repository": l.forge.Repository, "pull_request": l.forge.Number}))
}

// end waits for the end of a review.
func (l *lane) end(t *testing.T, what string, id string) (v api.Review) {
	t.Helper()
	until(t, "the review ends: "+what, 3*time.Minute, func() bool {
		v = decode[api.ReviewAnswer](t, l.do(t, http.StatusOK, http.MethodGet, "/api/reviews/"+id+"?wait_s=2", nil)).Review
		return v.FinishedAt != nil
	})
	return v
}

// moments reviews a pull request at two heads, undisturbed, and sends the moments at which a
// worker is to be killed.
func (l *lane) moments(t *testing.T, to chan<- fatal) {
	for _, provider := range []string{"github", "bitbucket"} {
		list, disturbed := l.undisturbed(t, provider)
		for disturbed {
			list, disturbed = l.undisturbed(t, provider)
		}
		for _, c := range list {
			to <- c
			c.done = true
			to <- c
		}
	}
}

// undisturbed reviews a pull request at two heads, and returns the writes on the forge.
// disturbed reports that a worker lost its lease, as on a busy machine, so that there may be
// other operations than there should be.
func (l *lane) undisturbed(t *testing.T, provider string) (list []fatal, disturbed bool) {
	t.Helper()
	l.fresh(t)
	from := 0
	for head := range 2 {
		if head == 1 {
			l.forge.tell(t, "move", nil)
		}
		v := l.end(t, "undisturbed", l.review(t, provider).Review.ID)
		l.check(t, fatal{provider: provider, second: head == 1, op: "undisturbed"}, v)
		disturbed = l.leasesLost(t, v) > 0
		ops := l.forge.state(t).Ops
		for i, op := range ops[from:] {
			if slices.Contains(writes, op) && (head == 0 || op == "reply" || op == "resolve") { // the rest of the second head is posted as the first one's
				list = append(list, fatal{provider: provider, at: from + i + 1, op: op, second: head == 1})
			}
		}
		from = len(ops)
	}
	return list, disturbed
}

// leasesLost returns how many leases have run out in the reviews of the case.
func (l *lane) leasesLost(t *testing.T, v api.Review) int {
	t.Helper()
	return one[int](t, l.system, `SELECT count(*) FROM nofx.attempt a JOIN nofx.run r ON r.tenant_id = a.tenant_id
		WHERE r.id = $1::uuid AND a.outcome = 'lease_expired'`, uuidOf(v.RunID))
}

// die kills the worker of a review, and has the other one finish it.
func (l *lane) die(t *testing.T, c fatal) {
	t.Helper()
	l.fresh(t)
	if c.second {
		l.end(t, "undisturbed", l.review(t, c.provider).Review.ID)
		l.forge.tell(t, "move", nil)
	}
	release := func() {}
	if c.stage == "" {
		l.forge.tell(t, "stop", url.Values{"at": {strconv.Itoa(c.at)}, "done": {strconv.FormatBool(c.done)}})
	} else {
		release = l.hold(t, c.stage)
	}
	v := l.review(t, c.provider).Review
	if c.stage == "" {
		if op := l.forge.stopped(t); op != c.op && l.leasesLost(t, v) == 0 {
			t.Errorf("%v: operation %d was %s this time", c, c.at, op)
		}
	} else {
		until(t, c.String(), time.Minute, func() bool { return len(l.held(t)) > 0 })
	}
	pid := one[int](t, l.system, "SELECT a.owner_pid FROM nofx.attempt a JOIN nofx.step s ON s.id = a.step_id WHERE s.run_id = $1::uuid ORDER BY a.fence DESC LIMIT 1", uuidOf(v.RunID))
	worker := slices.IndexFunc(l.Workers(), func(p *harness.Process) bool { return p.PID() == pid })
	if worker < 0 {
		t.Fatalf("%v: the worker %d runs no more", c, pid)
	}
	groups := groupsBelow(t, pid)
	if len(groups) == 0 && c.stage == "" {
		t.Errorf("%v: the worker has no MCP server", c)
	}
	if err := l.Workers()[worker].Kill(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	until(t, fmt.Sprintf("%v: the MCP servers of worker %d have ended with it", c, pid), time.Minute, func() bool { return !anyOf(t, groups) })
	release()
	l.check(t, c, l.end(t, c.String(), v.ID))
	t.Logf("%v: killed", c)
}

// check fails unless the forge shows one review of each head, and the database agrees.
func (l *lane) check(t *testing.T, c fatal, v api.Review) {
	t.Helper()
	if v.Status != "completed" || deref(v.Verdict) != "failed" {
		t.Errorf("%v: review = %s %s (%s), want it completed and failed", c, v.Status, deref(v.Verdict), deref(v.Reason))
	}
	s := l.forge.state(t)
	slices.Sort(s.Threads)
	if want := onForge[c.provider][c.second]; !slices.Equal(s.Threads, want.Threads) || !slices.Equal(s.Reviews, want.Reviews) || s.Status != "failure" {
		t.Errorf("%v: the forge shows threads %q, reviews %q and status %s, want %q, %q and failure", c, s.Threads, s.Reviews, s.Status, want.Threads, want.Reviews)
	}
	least, most := calls[c.second], calls[c.second]
	switch c.stage { // what was paid for and died with its worker, that of other chunks too
	case "answer", "verify_prompt":
		most.answers *= 2
	case "verify_answer":
		most.answers, most.checks = 2*most.answers, 2*most.checks
	}
	// A worker that was not killed may lose its lease on a busy machine, and what it has asked
	// for is then asked for again.
	killed := 1
	if c.op == "undisturbed" {
		killed = 0
	}
	if more := l.leasesLost(t, v) - killed; more > 0 {
		most.answers, most.checks = most.answers*(1+more), most.checks*(1+more)
	}
	if got := l.model.counts(); got.answers < least.answers || got.answers > most.answers || got.checks < least.checks || got.checks > most.checks {
		t.Errorf("%v: the model was asked for %+v, want from %+v to %+v", c, got, least, most)
	}
	posted := one[string](t, l.system, `SELECT data::text FROM nofx.event WHERE run_id = $1::uuid AND type = 'review.posted'`, uuidOf(v.RunID))
	var event struct{ Expected, Posted int }
	if err := json.Unmarshal([]byte(posted), &event); err != nil || event.Expected != event.Posted {
		t.Errorf("%v: review.posted = %s, want all that was expected", c, posted)
	}
	found := items[api.Finding](t, l.client, "/api/reviews/"+v.ID+"/findings", "10")
	for _, f := range found {
		if deref(f.URL) == "" {
			t.Errorf("%v: the finding in %s has no address on the forge", c, f.Path)
		}
	}
}

// onForge is what a forge shows after the review of the first and of the second head.
var onForge = map[string]map[bool]forgeState{
	"github": {
		false: {
			Threads: []string{"main.go:12 RIGHT by nofx-bot, 1", "new.txt:1 RIGHT by nofx-bot, 1"},
			Reviews: []string{"COMMENTED by nofx-bot"},
		},
		true: {
			Threads: []string{"main.go:12 RIGHT resolved by nofx-bot, 2", "new.txt:1 RIGHT by nofx-bot, 1"},
			Reviews: []string{"COMMENTED by nofx-bot", "COMMENTED by nofx-bot"},
		},
	},
	"bitbucket": {
		false: {Threads: []string{"main.go:12 RIGHT by nofx-bot", "new.txt:1 RIGHT by nofx-bot", "summary by nofx-bot"}},
		true:  {Threads: []string{"main.go:12 RIGHT resolved by nofx-bot", "new.txt:1 RIGHT by nofx-bot", "summary by nofx-bot", "summary by nofx-bot"}},
	},
}

// asked counts what a model was asked for.
type asked struct{ answers, checks int }

// calls are those for the first head, and with the second one.
var calls = map[bool]asked{false: {3, 1}, true: {4, 2}}

// hold lets nobody store a stage until it is released: then the transaction that waits is
// ended, as the server does with one whose client is dead.
func (l *lane) hold(t *testing.T, stage string) (release func()) {
	t.Helper()
	conn, err := l.db.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{"DELETE FROM public.held", "INSERT INTO public.held VALUES ('" + stage + "')", "SELECT pg_advisory_lock(4711)"} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	return func() {
		defer conn.Release()
		until(t, "the transaction of the dead worker has ended", time.Minute, func() bool {
			for _, pid := range l.held(t) {
				if _, err := conn.Exec(t.Context(), "SELECT pg_terminate_backend($1)", pid); err != nil {
					t.Fatal(err)
				}
			}
			return len(l.held(t)) == 0
		})
		if _, err := conn.Exec(t.Context(), "DELETE FROM public.held"); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(t.Context(), "SELECT pg_advisory_unlock(4711)"); err != nil {
			t.Fatal(err)
		}
	}
}

// held returns the connections that wait to store a stage.
func (l *lane) held(t *testing.T) []int {
	return list[int](t, l.system, `SELECT l.pid FROM pg_locks l JOIN pg_database d ON d.oid = l.database
		WHERE d.datname = current_database() AND l.locktype = 'advisory' AND l.objid = 4711 AND NOT l.granted`)
}

// groupsBelow returns the process groups of what a process has started.
func groupsBelow(t *testing.T, pid int) (groups []string) {
	t.Helper()
	for _, p := range processes(t) {
		fields, err := statOf(p)
		if err == nil && fields[1] == strconv.Itoa(pid) && !slices.Contains(groups, fields[2]) {
			groups = append(groups, fields[2])
		}
	}
	return groups
}

// anyOf reports whether a process of some group is there still.
func anyOf(t *testing.T, groups []string) bool {
	t.Helper()
	for _, p := range processes(t) {
		if fields, err := statOf(p); err == nil && fields[0] != "Z" && fields[0] != "X" && slices.Contains(groups, fields[2]) {
			return true
		}
	}
	return false
}

func processes(t *testing.T) (pids []int) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil || len(all) == 0 {
		t.Fatalf("read /proc = %d, %v", len(all), err)
	}
	for _, path := range all {
		pid, _ := strconv.Atoi(strings.Split(path, "/")[2])
		pids = append(pids, pid)
	}
	return pids
}

// paidModel answers as a provider does, and counts what it is asked.
type paidModel struct {
	url string

	mu    sync.Mutex
	asked asked
}

// flaws are the lines that it reports, by the file they are in.
var flaws = map[string]string{"added 12": "main.go", "one": "new.txt"}

var flawedLine = regexp.MustCompile(`R(\d+) \+(added 12|one)`)

func newPaidModel(t *testing.T) *paidModel {
	m := &paidModel{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		answer := map[string]any{"schema": 1}
		checking := strings.Contains(string(body), "review_checks")
		if checking {
			answer["checks"] = []any{}
		} else {
			found := []any{}
			for _, at := range flawedLine.FindAllStringSubmatch(string(body), -1) {
				line, _ := strconv.Atoi(at[1])
				found = append(found, map[string]any{
					"path": flaws[at[2]], "side": "RIGHT", "start_line": nil, "line": line, "quote": at[2], "title": "There is a bug in " + at[2], "body": "It says so itself.",
					"category": "correctness", "severity": "high", "confidence": 0.9, "rule_id": nil, "evidence": nil, "suggestion": nil,
				})
			}
			answer["findings"] = found
		}
		m.mu.Lock()
		if checking {
			m.asked.checks++
		} else {
			m.asked.answers++
		}
		m.mu.Unlock()
		content, _ := json.Marshal(answer)
		json.NewEncoder(w).Encode(map[string]any{
			"model": "small-1", "choices": []any{map[string]any{"message": map[string]any{"role": "assistant", "content": string(content)}, "finish_reason": "stop"}},
			"usage": map[string]any{"prompt_tokens": 900, "completion_tokens": 100},
		})
	}))
	t.Cleanup(server.Close)
	m.url = server.URL + "/v1"
	return m
}

func (m *paidModel) reset() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked = asked{}
}

func (m *paidModel) counts() asked {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.asked
}
