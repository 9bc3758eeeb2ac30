package integration_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"nofx.dev/gateway/api"
	"nofx.dev/integration/harness"
)

var effectKills = flag.Int("effect-kills", 8, "how many workers TestEffects kills at the least")

// ledger is a service outside that knows idempotency keys, and is strict about
// them: a key it knows gets the stored answer, and with another body a refusal.
type ledger struct {
	*httptest.Server
	mu      sync.Mutex
	effects map[string]*charge // by key
	refused int
}

// charge is something that the ledger was made to do.
type charge struct {
	body, answer string
	calls        int
}

func newLedger(t *testing.T) *ledger {
	t.Helper()
	l := &ledger{effects: map[string]*charge{}}
	l.Server = httptest.NewServer(http.HandlerFunc(l.serve))
	t.Cleanup(l.Close)
	return l
}

func (l *ledger) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	key := r.Header.Get("Idempotency-Key")
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil || key == "" || r.Method != http.MethodPost || r.URL.Path != "/charges" {
		l.refused++
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	c := l.effects[key]
	switch {
	case c == nil:
		c = &charge{body: string(body), answer: fmt.Sprintf(`{"charge":%d}`, len(l.effects)+1)}
		l.effects[key] = c
	case c.body != string(body):
		l.refused++
		w.WriteHeader(http.StatusUnprocessableEntity)
		return
	default:
		w.Header().Set("Idempotent-Replayed", "true")
	}
	c.calls++
	w.WriteHeader(http.StatusCreated)
	_, _ = io.WriteString(w, c.answer)
}

func (l *ledger) environment() map[string]string {
	return map[string]string{"NOFX_WORKER_CONCURRENCY": "1", "NOFX_EGRESS_ALLOW": l.Listener.Addr().String()}
}

// request returns the n'th request: what a step sends, and the digest of it that is recorded.
func (l *ledger) request(n int) (st step, digest string) {
	in := map[string]any{
		"method": "POST", "url": l.URL + "/charges", "headers": map[string]string{"Content-Type": "application/json"},
		"body": fmt.Sprintf(`{"order":%d}`, n),
	}
	raw, _ := json.Marshal(in) // sorted and plain, so canonical as it is
	sum := sha256.Sum256(raw)
	return step{Name: "pay", Tool: "http", Inputs: in}, "sha256:" + hex.EncodeToString(sum[:])
}

// effectWindows are where the workers die: the effect begun and not done, done and
// not recorded, recorded with its step not finished (a log is stored then), and all
// finished.
var effectWindows = []string{"before_effect", "after_effect", "after_put", "after_commit"}

// TestEffects lets workers die around the request of a step. The service outside
// was made to do each thing once, and what we have on record is what it did.
func TestEffects(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	s := up(t, harness.Config{Workers: 2, Env: map[string]string{"NOFX_TEST": "1"}, WorkerEnv: l.environment()})
	doomed := s.doomed(t, 2*len(effectWindows))
	want := map[string]string{} // what is to be on record, by key, but for the answer
	kills := 0
	for kills < *effectKills {
		s.arm(t, doomed, effectWindows...)
		deaths := s.deaths(t, doomed)
		until(t, "each of the doomed got a step and died", 3*time.Minute, func() bool {
			if !slices.ContainsFunc(doomed, func(p *harness.Process) bool { return p.PID() != 0 }) {
				return true
			}
			st, digest := l.request(len(want) + 1)
			want[s.create(t, st).Run.ID+"/pay"] = digest
			return false
		})
		kills += len(deaths())
		until(t, "all runs have ended", 3*time.Minute, func() bool {
			return one[int](t, s, "SELECT count(*)::int FROM nofx.run WHERE state NOT IN ('succeeded', 'failed', 'cancelled')") == 0
		})
	}

	for what, query := range map[string]string{
		"runs that did not succeed":                     "SELECT id::text FROM nofx.run WHERE state <> 'succeeded'",
		"steps without one accepted attempt":            `SELECT step_id::text FROM nofx.attempt GROUP BY step_id HAVING count(*) FILTER (WHERE accepted) <> 1`,
		"steps whose outputs are not what was answered": `SELECT s.id::text FROM nofx.step s LEFT JOIN nofx.step_effect e ON (e.tenant_id, e.run_id, e.step_name) = (s.tenant_id, s.run_id, s.name) WHERE s.outputs IS DISTINCT FROM e.result`,
	} {
		if bad := list[string](t, s, query); len(bad) > 0 {
			t.Errorf("%s: %v", what, bad)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	calls := 0
	outside := map[string]string{}
	for key, c := range l.effects {
		outside[key] = "done 201 " + want[key] + " " + c.answer
		calls += c.calls
	}
	recorded := map[string]string{}
	for _, row := range list[[]byte](t, s, `SELECT jsonb_build_array(key, state || ' ' || (result->>'status') || ' ' || request_digest || ' ' || (result->>'body')) FROM nofx.step_effect`) {
		var pair [2]string
		if err := json.Unmarshal(row, &pair); err != nil {
			t.Fatal(err)
		}
		recorded[pair[0]] = pair[1]
	}
	if diff := cmp.Diff(outside, recorded); diff != "" {
		t.Errorf("the record is not what the ledger did (-ledger +record):\n%s", diff)
	}
	if len(l.effects) != len(want) || l.refused != 0 {
		t.Errorf("%d effects of %d runs, %d requests refused, want one of each and none", len(l.effects), len(want), l.refused)
	}
	hits := s.hits(t, doomed)
	for _, w := range effectWindows {
		if 4*hits[w] != kills {
			t.Errorf("kills in %s = %d of %d, want a quarter", w, hits[w], kills)
		}
	}
	// Only who died in between asks again.
	if again := calls - len(l.effects); again != hits["after_effect"] {
		t.Errorf("repeated requests = %d, want %d, one for each that was done and not recorded", again, hits["after_effect"])
	}
	t.Logf("%d kills %v, %d runs: %d requests, %d effects outside, %d on record", kills, hits, len(want), calls, len(l.effects), len(recorded))
}

// TestEffectOfAZombie stops a worker when its effect may begin, and continues it
// when another worker has done it. Its request changes nothing, here or outside.
func TestEffectOfAZombie(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	s := up(t, harness.Config{Env: map[string]string{"NOFX_TEST": "1"}, WorkerEnv: l.environment()})
	z := s.zombies(t, "before_effect")[0]
	st, digest := l.request(1)
	id := s.create(t, st).Run.ID
	until(t, "the worker stops before its effect", 3*time.Minute, func() bool { return stopped(t, z.PID()) })
	if _, err := s.AddWorker(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	s.await(t, id, api.RunStatusSucceeded)
	rows := s.contents(t)
	if err := z.Kill(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	until(t, "the zombie counts its refused write", 3*time.Minute, func() bool {
		return metric(t, z.MetricsURL(), "nofx_fenced_writes_total") == 1
	})
	after := s.contents(t)
	delete(rows, "river.river_job") // where it may say that its wake-up has been heard
	delete(after, "river.river_job")
	if diff := cmp.Diff(rows, after); diff != "" {
		t.Errorf("the zombie changed rows (-before +after):\n%s", diff)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.effects[id+"/pay"]
	if len(l.effects) != 1 || c == nil || l.refused != 0 {
		t.Fatalf("the ledger has %d effects, %d refused, want the one of the run", len(l.effects), l.refused)
	}
	if got := one[string](t, s, "SELECT request_digest || ' ' || fence || ' ' || (result->>'body') FROM nofx.step_effect"); got != digest+" 3 "+c.answer {
		t.Errorf("on record = %s, want %s of the second attempt with %s", got, digest, c.answer)
	}
	t.Logf("the ledger was asked %d times and did it once", c.calls)
}
