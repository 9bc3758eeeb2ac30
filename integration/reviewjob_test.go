package integration_test

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rhysd/actionlint"

	"nofx.dev/integration/harness"
)

// front is what a CI job reaches of a stack, by https: the gateway, the storage by signed
// URLs, and a Supabase that gives the gateway's API key as its token.
type front struct {
	*httptest.Server
	gateway, storage, key string
}

func newFront(t *testing.T) *front {
	t.Helper()
	f := &front{}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		to := f.storage
		if strings.HasPrefix(r.In.URL.Path, "/api/") {
			to = f.gateway
		}
		target, err := url.Parse(to)
		if err != nil {
			t.Error(err)
			return
		}
		r.SetURL(target)
		r.Out.Host = r.In.Host // which a URL is signed for
	}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /supabase/auth/v1/token", func(w http.ResponseWriter, r *http.Request) {
		var who map[string]string
		if err := json.NewDecoder(r.Body).Decode(&who); err != nil || who["password"] != "ci-password" || r.Header.Get("apikey") != "anon-key" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]string{"access_token": f.key})
	})
	mux.Handle("/", proxy)
	f.Server = httptest.NewTLSServer(mux)
	t.Cleanup(f.Close)
	return f
}

// The scripts of the review workflow, run by bash as GitHub does, against a stack: a dry run
// that started by hand shows the verdict and what would be posted, posts nothing, and shows
// no secret.
func TestReviewJobOnAStack(t *testing.T) {
	t.Parallel()
	fake, model, reached := newForge(t), newPaidModel(t), newFront(t)
	s := up(t, harness.Config{Workers: 1, Env: map[string]string{"NOFX_S3_PUBLIC_ENDPOINT": reached.URL}, WorkerEnv: map[string]string{
		"NOFX_LLM_PROVIDER": "openai", "NOFX_LLM_MODEL": "small", "NOFX_LLM_BASE_URL": model.url, "NOFX_LLM_API_KEY": "sk-0123456789abcdef",
		"NOFX_GITHUB_TOKEN": fake.Token, "NOFX_GITHUB_API": fake.GitHubAPI, "NOFX_GITHUB_MCP_COMMAND": fake.GitHubCommand, "TMPDIR": t.TempDir(),
	}})
	reached.gateway, reached.storage, reached.key = s.URL, s.S3.Endpoint, s.APIKey

	raw, err := os.ReadFile("../.github/workflows/nofx-llm-review.yml")
	if err != nil {
		t.Fatal(err)
	}
	flow, problems := actionlint.Parse(raw)
	if flow == nil || len(problems) > 0 {
		t.Fatalf("the workflow cannot be read: %v", problems)
	}
	dir := t.TempDir()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: reached.Certificate().Raw})
	if err := os.WriteFile(filepath.Join(dir, "ca.pem"), ca, 0o600); err != nil {
		t.Fatal(err)
	}
	env := []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "RUNNER_TEMP=" + dir, "CURL_CA_BUNDLE=" + filepath.Join(dir, "ca.pem"),
		"GITHUB_OUTPUT=" + filepath.Join(dir, "output"), "GITHUB_STEP_SUMMARY=" + filepath.Join(dir, "summary"),
		"NOFX_URL=" + reached.URL, "SUPABASE_URL=" + reached.URL + "/supabase", "SUPABASE_ANON_KEY=anon-key", "SUPABASE_CI_EMAIL=ci@example.com", "SUPABASE_CI_PASSWORD=ci-password",
		"REPO=" + fake.Repository, "PR=" + strconv.Itoa(fake.Number), "HEAD_SHA=", "DRY_RUN=true", "RUN_KEY=77-1", "NOFX_POLLS=600", "NOFX_POLL_SECONDS=1",
		"VERCEL_DEPLOY_HOOK_URL=" + reached.URL + "/hook",
	}
	text := func(name string) string {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	var log bytes.Buffer
	var codes []int
	for _, step := range append(flow.Jobs["review"].Steps, flow.Jobs["staging"].Steps...) {
		if step.Name.Value == "Wait for verdict" {
			id, _, _ := strings.Cut(strings.TrimPrefix(text("output"), "id="), "\n")
			env = append(env, "REVIEW_ID="+id)
		}
		cmd := exec.CommandContext(t.Context(), "bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step.Exec.(*actionlint.ExecRun).Run.Value)
		cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, env, &log, &log
		if err := cmd.Run(); cmd.ProcessState == nil {
			t.Fatalf("bash = %v; the test needs bash, curl and jq", err)
		}
		codes = append(codes, cmd.ProcessState.ExitCode())
	}
	shown := strings.ReplaceAll(log.String(), "::add-mask::"+s.APIKey+"\n", "") + text("summary")
	if codes[0] != 0 || codes[1] != 1 || codes[2] != 0 {
		t.Errorf("the steps end with %v, want [0 1 0], since the change has flaws:\n%s", codes, shown)
	}
	for _, want := range []string{
		"## Review: failed, dry run\n", "There is a bug in", "### Would be posted\n", "    main.go:12\n", "Status `nofx/llm-review`: failure\n",
		"::error::the review failed: findings block the change", "Dry run: would POST to the deploy hook",
	} {
		if !strings.Contains(shown, want) {
			t.Errorf("the job does not show %q:\n%s", want, shown)
		}
	}
	for _, secret := range []string{s.APIKey, "anon-key", "ci-password", fake.Token, "X-Amz-Signature", reached.URL + "/hook"} {
		if strings.Contains(shown, secret) {
			t.Errorf("the job shows the secret %q:\n%s", secret, shown)
		}
	}
	if on := fake.state(t); len(on.Reviews)+len(on.Threads) > 0 || on.Status != "" {
		t.Errorf("the forge has %+v after a dry run, want nothing", on)
	}
}
