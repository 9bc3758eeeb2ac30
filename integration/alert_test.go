package integration_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"nofx.dev/gateway/api"
	"nofx.dev/integration/harness"
)

// hook is a receiver of alerts, which knows each by its id.
type hook struct {
	*httptest.Server
	mu     sync.Mutex
	secret string
	told   map[string]alertMessage // by id
	times  map[string]int          // how often each has come
	forged int
}

type alertMessage struct {
	Type string         `json:"type"`
	Data map[string]any `json:"data"`
}

func newHook(t *testing.T) *hook {
	t.Helper()
	h := &hook{told: map[string]alertMessage{}, times: map[string]int{}}
	h.Server = httptest.NewTLSServer(http.HandlerFunc(h.serve))
	t.Cleanup(h.Close)
	return h
}

func (h *hook) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	h.mu.Lock()
	defer h.mu.Unlock()
	var m alertMessage
	if err != nil || !h.verify(r.Header, body) || json.Unmarshal(body, &m) != nil {
		h.forged++
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	id := r.Header.Get("webhook-id")
	h.told[id] = m
	h.times[id]++
}

// verify reports whether a request is signed under the secret of the hook.
func (h *hook) verify(header http.Header, body []byte) bool {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(h.secret, "whsec_"))
	sent, timeErr := strconv.ParseInt(header.Get("webhook-timestamp"), 10, 64)
	if err != nil || timeErr != nil || time.Since(time.Unix(sent, 0)).Abs() > 5*time.Minute {
		return false
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(header.Get("webhook-id") + "." + header.Get("webhook-timestamp") + "." + string(body)))
	return slices.Contains(strings.Fields(header.Get("webhook-signature")), "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
}

// seen returns how many messages have come, each counted once, and how often the one that
// came most.
func (h *hook) seen() (messages, most int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, n := range h.times {
		most = max(most, n)
	}
	return len(h.times), most
}

// environment lets workers reach the hook and trust its certificate.
func (h *hook) environment(t *testing.T) map[string]string {
	t.Helper()
	roots := filepath.Join(t.TempDir(), "roots.pem")
	if err := os.WriteFile(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return map[string]string{"SSL_CERT_FILE": roots, "NOFX_EGRESS_ALLOW": h.Listener.Addr().String()}
}

// register makes the hook an endpoint of the client's tenant, and returns it.
func (h *hook) register(t *testing.T, c *client) api.AlertEndpoint {
	t.Helper()
	made := decode[api.AlertEndpointAnswer](t, c.do(t, http.StatusCreated, http.MethodPost, "/api/alert-endpoints",
		map[string]any{"url": h.URL + "/nofx", "events": []string{"approval.requested", "gate.failed", "run.failed"}}))
	h.mu.Lock()
	defer h.mu.Unlock()
	h.secret = *made.Secret
	return made.Endpoint
}

// TestAlerts has a receiver told of an approval and of its rejection, by requests that it can
// verify, and of nothing of another tenant.
func TestAlerts(t *testing.T) {
	t.Parallel()
	h := newHook(t)
	s := up(t, harness.Config{Workers: 2, WorkerEnv: h.environment(t)})
	e := h.register(t, s.client)
	key, err := s.NewTenant(t.Context(), "other")
	if err != nil {
		t.Fatal(err)
	}
	newClient(s.URL, key).do(t, http.StatusCreated, http.MethodPost, "/api/runs", plan(bash("a", "exit 1")))
	id := s.create(t, manual("ship", 3600)).Run.ID
	until(t, "the approval was requested", 2*time.Minute, func() bool { n, _ := h.seen(); return n == 1 })
	gate := items[api.Gate](t, s.client, "/api/gates?status=pending", "10")[0]
	s.do(t, http.StatusOK, http.MethodPost, "/api/gates/"+gate.ID+"/reject", map[string]any{"reason": "c4n4ry words"})
	until(t, "the rejection was told", 2*time.Minute, func() bool { n, _ := h.seen(); return n == 3 })
	until(t, "the deliveries are recorded", 2*time.Minute, func() bool {
		return one[int](t, s, "SELECT count(*)::int FROM nofx.alert_delivery WHERE state = 'delivered' AND response_code = 200") == 3
	})
	deliveries := items[api.AlertDelivery](t, s.client, "/api/alert-endpoints/"+e.ID+"/deliveries", "2")
	if len(deliveries) != 3 {
		t.Errorf("deliveries = %d, want 3", len(deliveries))
	}
	h.mu.Lock()
	var types []string
	for _, d := range deliveries {
		m := h.told[d.ID]
		types = append(types, m.Type)
		if m.Type != string(d.Event) || m.Data["run_id"] != id || m.Data["project"] != "default" || m.Data["step"] != "ship" || m.Data["url"] != s.URL+"/api/runs/"+id {
			t.Errorf("message of delivery %+v = %+v, want it about step ship of run %s, with a link", d, m, id)
		}
	}
	if slices.Sort(types); !slices.Equal(types, []string{"approval.requested", "gate.failed", "run.failed"}) || h.forged != 0 {
		t.Errorf("told of %v, and %d that are not signed, want each of three events", types, h.forged)
	}
	h.mu.Unlock()

	s.do(t, http.StatusAccepted, http.MethodPost, "/api/alert-endpoints/"+e.ID+"/deliveries/"+deliveries[0].ID+"/redeliver", nil)
	until(t, "it was told again", 2*time.Minute, func() bool { n, most := h.seen(); return n == 3 && most == 2 })
	searchProcessLogs(t, s.Dir, h.secret[len("whsec_"):], "c4n4ry", "/nofx\"")
}

// searchProcessLogs fails the test when a log of a process has one of the texts.
func searchProcessLogs(t *testing.T, dir string, texts ...string) {
	t.Helper()
	logs, _ := filepath.Glob(filepath.Join(dir, "logs", "*.log"))
	for _, path := range logs {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range texts {
			if strings.Contains(string(content), text) {
				t.Errorf("%s shows %q", filepath.Base(path), text)
			}
		}
	}
}

// TestAlertsOverKills lets workers die between a delivery and its record: another sends it
// again under the same id, and no event is lost.
func TestAlertsOverKills(t *testing.T) {
	t.Parallel()
	const doomed = 2
	h := newHook(t)
	s := up(t, harness.Config{Workers: 1, Env: map[string]string{"NOFX_TEST": "1"}, WorkerEnv: h.environment(t)})
	h.register(t, s.client)
	var dying []*harness.Process
	for range doomed {
		p, err := s.AddWorker(t.Context(), map[string]string{"NOFX_WORKER_QUEUES": "maintenance"}) // it runs no steps
		if err != nil {
			t.Fatal(err)
		}
		p.AutoRestart(false)
		dying = append(dying, p)
	}
	s.arm(t, dying, "after_effect")
	runs := map[string]bool{}
	until(t, "each of the doomed delivered something and died", 3*time.Minute, func() bool {
		if !slices.ContainsFunc(dying, func(p *harness.Process) bool { return p.PID() != 0 }) {
			return true
		}
		runs[s.create(t, bash("a", "exit 1")).Run.ID] = true
		return false
	})
	until(t, "all events are delivered", 3*time.Minute, func() bool {
		return one[int](t, s, "SELECT count(*)::int FROM nofx.run WHERE state <> 'failed'") == 0 &&
			one[int](t, s, "SELECT count(*)::int FROM nofx.alert_delivery WHERE state <> 'delivered'") == 0
	})
	again := one[int](t, s, "SELECT count(*)::int FROM nofx.alert_delivery WHERE attempt > 1")
	h.mu.Lock()
	defer h.mu.Unlock()
	twice := 0
	for id, n := range h.times {
		delete(runs, h.told[id].Data["run_id"].(string))
		if n > 1 {
			twice++
		}
	}
	if left := slices.Collect(maps.Keys(runs)); len(left) > 0 || h.forged != 0 {
		t.Errorf("runs whose failure nobody was told of = %v, and %d messages are not signed; want none", left, h.forged)
	}
	if again < doomed || twice < doomed {
		t.Errorf("deliveries with a second attempt = %d, messages that came twice = %d, want %d and more of each", again, twice, doomed)
	}
}
